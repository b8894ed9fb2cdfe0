"""BuildKit's steps are put under one cgroup, the same for all jobs if nobody says otherwise."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.builds import BuildEdit, BuildRequest, BuildStep
from docker_tracker.engine.catalogue import operation
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Exchange, Stage
from docker_tracker.interceptor import Interceptor
from docker_tracker.plugins.cgroup_parent import CgroupParentSettings
from docker_tracker.plugins.cgroup_parent import cgroup_parent as plugin
from docker_tracker.testing import FakeJob
from tests.support.exchanges import Engine, daemon, exchange, job

INFO = {"CgroupDriver": "cgroupfs", "ServerVersion": "28.5.2"}
REQUEST = BuildRequest(step=BuildStep.FRONTEND, build="b1", frontend="dockerfile.v0")
IGNORED = "the engine's BuildKit takes no notice of the cgroup-parent"


class BuildTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.exchange: Exchange = exchange("POST", "/grpc")

    def interceptor(
        self, setting: str | None, builds: str = "constant", info: dict[str, Any] | None = None, **request: Any
    ) -> Interceptor:
        engine = Engine({"/info": INFO if info is None else info})
        settings = CgroupParentSettings(builds=builds)
        built = plugin.build(settings, job(**request), daemon(engine, cgroup_parent=setting))
        assert isinstance(built, Interceptor)
        return built

    def edit(self, interceptor: Interceptor, request: BuildRequest = REQUEST) -> BuildEdit | None:
        return self.successResultOf(Deferred.fromCoroutine(interceptor.build_request(self.exchange, request)))

    def parent(self, *arguments: Any, **more: Any) -> str | None:
        """Return what a build's steps are put under; None: what the client says."""
        edit = self.edit(self.interceptor(*arguments, **more))
        return None if edit is None else edit.attributes["cgroup-parent"]

    def test_constant(self) -> None:
        """By default it is the daemon's own setting, whatever the job asks for, if that is the same for all clients."""
        own = {"own_cgroup": True}
        self.assertEqual(self.parent("/ci"), "/ci")
        self.assertEqual(self.parent("/ci", cgroup_parent="/job"), "/ci")
        self.assertEqual(self.parent("/ci", **own), "/ci")
        for setting, request in (("caller", {}), (None, own), (None, {"cgroup_parent": "/job"}), ("caller", own)):
            interceptor = self.interceptor(setting, **request)
            self.assertIsNone(self.edit(interceptor))
            self.assertEqual(interceptor.wants(operation("grpc")), Stage.NOTHING)

    def test_job(self) -> None:
        """By setting it is the job's, as for containers."""
        self.assertEqual(self.parent("/ci", "job"), "/ci")
        self.assertEqual(self.parent("/ci", "job", cgroup_parent="/job"), "/job")
        self.assertEqual(self.parent("/ci", "job", own_cgroup=True), "/docker-tracker/id-1")
        self.assertEqual(self.parent(None, "job", cgroup_parent="/job"), "/job")

    def test_caller(self) -> None:
        """Where the client is, if that is set for jobs; one whose process is not known is refused."""
        self.exchange.peer.pid = None
        coroutine = self.interceptor("caller", "job").build_request(self.exchange, REQUEST)
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), RefusedError)
        self.assertIn("this client's process is not known", str(failure.value))

    def test_off(self) -> None:
        """By setting nothing is said; then BuildKit's requests are not asked for."""
        interceptor = self.interceptor("/ci", "off")
        self.assertEqual(interceptor.wants(operation("grpc")), Stage.NOTHING)
        self.assertEqual(interceptor.wants(operation("image_build")), Stage.REQUEST_HEAD)
        self.assertIsNone(self.edit(interceptor))

    def test_requests(self) -> None:
        """It goes where a frontend reads it, over what the client says, and nowhere else."""
        interceptor = self.interceptor("/ci")
        for step in (BuildStep.SOLVE, BuildStep.FRONTEND):
            for frontend in ("dockerfile.v0", "gateway.v0"):
                request = BuildRequest(
                    step=step, build="b", frontend=frontend, attributes={"cgroup-parent": "/theirs", "target": "a"}
                )
                self.assertEqual(self.edit(interceptor, request), BuildEdit(attributes={"cgroup-parent": "/ci"}))
        for step in BuildStep:
            self.assertIsNone(self.edit(interceptor, BuildRequest(step=step, build="b")))
        there = BuildRequest(
            step=BuildStep.FRONTEND, build="b", frontend="dockerfile.v0", attributes={"cgroup-parent": "/ci"}
        )
        self.assertIsNone(self.edit(interceptor, there))

    def test_old_engines(self) -> None:
        """The audit has a word where the engine's version says that it takes no notice."""
        for version, expected in (
            ("20.10.24", IGNORED),
            ("23.0.1", None),
            ("28.5.2", None),
            ("dev", None),
            (None, None),
        ):
            self.setUp()
            info = {"CgroupDriver": "cgroupfs", "ServerVersion": version}
            self.assertEqual(self.parent("/ci", info=info), "/ci")
            self.assertEqual(self.exchange.notes.get("remark"), expected, version)
        shown = self.interceptor("/ci")
        self.setUp()
        self.edit(shown)
        self.assertNotIn("remark", self.exchange.notes)

    def test_by_rest(self) -> None:
        """So it has for builds by BuildKit over the REST API, on every engine; classic ones take notice."""
        for target, expected in (("/build?version=2", IGNORED), ("/build?version=1", None), ("/build", None)):
            asked = exchange("POST", target)
            head = self.successResultOf(
                Deferred.fromCoroutine(self.interceptor("/ci", "off").request_head(asked, asked.received))
            )
            self.assertIn("cgroupparent=%2Fci", getattr(head, "target", ""))
            self.assertEqual(asked.notes.get("remark"), expected)

    def test_warning(self) -> None:
        """That a cgroup for each job costs the shared cache is said once, at the start."""
        said: list[Any] = []
        observer = cast(ILogObserver, said.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        settings = CgroupParentSettings(builds="job")
        for name, expected in (("default", 1), ("another", 0)):
            said.clear()
            plugin.build(settings, FakeJob(name=name), daemon(Engine({"/info": INFO}), cgroup_parent="/ci"))
            self.assertEqual(
                len([event for event in said if "no build cache" in str(event.get("log_format"))]), expected
            )

    def test_setting(self) -> None:
        """A value that is none of those says which there are."""
        error = self.assertRaises(ValueError, CgroupParentSettings, builds="yes")
        self.assertEqual(str(error), "builds must be one of constant, job, off, not 'yes'")
