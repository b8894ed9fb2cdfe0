"""What a job creates is under the operator's cgroup, whatever the client asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.engine.catalogue import OPERATIONS
from docker_tracker.engine.document import Document
from docker_tracker.errors import BadDocumentError, ConfigurationError, EngineUnavailableError, RefusedError
from docker_tracker.exchange import Stage
from docker_tracker.interceptor import NoSettings
from docker_tracker.interfaces import IEngine, IInterceptor
from docker_tracker.own_container import OwnContainer
from docker_tracker.plugins.cgroup_parent import CgroupParent, Parent
from docker_tracker.plugins.cgroup_parent import cgroup_parent as plugin
from tests.support.exchanges import Engine, daemon, exchange, job

ID = "0123456789abcdef" * 4
CGROUPFS = {"/info": {"CgroupDriver": "cgroupfs"}}
SYSTEMD = {"/info": {"CgroupDriver": "systemd"}}

# The body of a create, and what the engine gets.
BODIES: list[tuple[str, str]] = [
    ("{}", '{"HostConfig":{"CgroupParent":"/p"}}'),
    ('{"HostConfig":null}', '{"HostConfig":{"CgroupParent":"/p"}}'),
    ('{"HostConfig":{"CgroupParent":"/x","Memory":1.0}}', '{"HostConfig":{"CgroupParent":"/p","Memory":1.0}}'),
    ('{"hostconfig":{"cgroupparent":"/x"}}', '{"HostConfig":{"CgroupParent":"/p"}}'),
    ('{"HostConfig": {"CgroupParent": "/p"}}', '{"HostConfig": {"CgroupParent": "/p"}}'),  # not written anew
    # at the top: read in any case, or nothing said, or overridden, or passed over by every engine
    (
        '{"Memory":5,"Cpuset":"0","VolumeDriver":"x"}',
        '{"Memory":5,"Cpuset":"0","VolumeDriver":"x","HostConfig":{"CgroupParent":"/p"}}',
    ),
    (
        '{"Privileged":false,"Binds":null,"LogConfig":{"Type":"","Config":{}},"ConsoleSize":[0,0]}',
        '{"Privileged":false,"Binds":null,"LogConfig":{"Type":"","Config":{}},"ConsoleSize":[0,0],'
        '"HostConfig":{"CgroupParent":"/p"}}',
    ),
    ('{"CgroupParent":"/x"}', '{"CgroupParent":"/x","HostConfig":{"CgroupParent":"/p"}}'),
    ('{"Privileged":true,"HostConfig":{}}', '{"Privileged":true,"HostConfig":{"CgroupParent":"/p"}}'),
]

REFUSED_BODIES: list[tuple[str, str]] = [
    ('{"Privileged":true}', "Privileged stands at the top"),
    ('{"privileged":true,"HostConfig":null}', "Privileged stands at the top"),
    ('{"Binds":["/:/h"]}', "Binds stands at the top"),
    ('{"LogConfig":{"Type":"none"}}', "LogConfig stands at the top"),
    ('{"MaskedPaths":[]}', "MaskedPaths stands at the top"),
    ('{"NanoCpus":1.5}', "NanoCpus stands at the top"),
    ('{"HostConfig":[]}', "HostConfig must be an object"),
    ("[]", "it must be an object"),
]


class CgroupParentTests(SynchronousTestCase):
    def interceptor(self, wanted: str = "/p", answers: dict[str, Any] | None = None, proc: str = "") -> CgroupParent:
        self.engine = Engine(CGROUPFS if answers is None else answers)
        engine = cast(IEngine, self.engine)
        return CgroupParent(Parent(wanted, engine, OwnContainer(engine, Path(proc or self.mktemp()))))

    def sent(self, interceptor: CgroupParent, body: str) -> str:
        """Return the body as the engine gets it."""
        document = Document.parse(body.encode())
        coroutine = interceptor.request_json(exchange("POST", "/containers/create"), document)
        edited = self.successResultOf(Deferred.fromCoroutine(coroutine))
        return (edited or document).encode().decode()

    def refused(self, interceptor: CgroupParent, body: str = "{}") -> RefusedError:
        """Return the error with which a create is refused."""
        coroutine = interceptor.request_json(exchange("POST", "/containers/create"), Document.parse(body.encode()))
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), RefusedError)
        assert isinstance(failure.value, RefusedError)
        return failure.value

    def built(self, interceptor: CgroupParent, target: str) -> str:
        """Return the target of a build as the engine gets it."""
        one = exchange("POST", target)
        head = self.successResultOf(Deferred.fromCoroutine(interceptor.request_head(one, one.received)))
        return target if head is None else str(head.target)

    def test_interceptor(self) -> None:
        """It is a guard of creates, starts and builds, and of nothing else."""
        interceptor = self.interceptor()
        self.assertTrue(verifyObject(IInterceptor, interceptor))
        self.assertTrue(interceptor.fail_closed)
        wanted = {row.name: interceptor.wants(row) for row in OPERATIONS if interceptor.wants(row)}
        body = Stage.REQUEST_JSON
        expected = {"container_create": body, "container_start": body, "image_build": Stage.REQUEST_HEAD}
        self.assertEqual(wanted, expected)

    def test_create(self) -> None:
        """The parent is overwritten where the engine reads it; all else keeps its meaning."""
        for body, expected in BODIES:
            with self.subTest(body=body):
                self.assertEqual(self.sent(self.interceptor(), body), expected)

    def test_refused_bodies(self) -> None:
        """A body that would mean something else with a HostConfig, or has none that can be written, is refused."""
        for body, problem in REFUSED_BODIES:
            with self.subTest(body=body):
                error = self.refused(self.interceptor(), body)
                self.assertIsInstance(error, BadDocumentError)
                self.assertIn(problem, error.message)

    def test_start(self) -> None:
        """A start's body, in which old engines take another cgroup parent, is refused unless nothing is in it."""
        interceptor = self.interceptor()
        for body in ("", " ", "null", "{ }"):
            one = exchange("POST", "/v1.23/containers/a/start")
            coroutine = interceptor.request_json(one, Document.parse(body.encode()))
            self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(coroutine)), body)
        for body in ('{"CgroupParent":"/x"}', '{"a":null}', "[]", "0", '""', "false"):
            one = exchange("POST", "/v1.23/containers/a/start")
            coroutine = interceptor.request_json(one, Document.parse(body.encode()))
            failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), BadDocumentError)
            self.assertIn("give the HostConfig at create", failure.getErrorMessage())
        self.assertEqual(self.engine.asked, [])

    def test_build(self) -> None:
        """A build's parameter is set once, whatever the client said, and the rest stays."""
        for target, expected in (
            ("/build", "/build?cgroupparent=%2Fp"),
            ("/v1.41/build?t=%61&cgroupparent=x&q=1&cgroupparent=y", "/v1.41/build?t=%61&cgroupparent=%2Fp&q=1"),
            ("/build?cgroupparent=%2Fp", "/build?cgroupparent=%2Fp"),
        ):
            self.assertEqual(self.built(self.interceptor(), target), expected)

    def test_driver_is_asked_once(self) -> None:
        """The engine's driver is looked up at the first create only."""
        interceptor = self.interceptor()
        for _ in range(3):
            self.sent(interceptor, "{}")
        self.assertEqual(self.engine.asked, ["/info"])

    def test_systemd(self) -> None:
        """With the systemd driver only a slice is a parent."""
        for value in ("ci.slice", "a-b.slice"):
            body = json.loads(self.sent(self.interceptor(value, SYSTEMD), "{}"))
            self.assertEqual(body["HostConfig"]["CgroupParent"], value)
        for value in ("/ci", ".slice", "ci.scope"):
            error = self.refused(self.interceptor(value, SYSTEMD))
            self.assertEqual((error.status, "must be a NAME.slice" in error.message), (500, True))

    def test_nothing_given(self) -> None:
        """Asked for, but set to nothing: nothing is created."""
        error = self.refused(self.interceptor(""))
        self.assertEqual((error.status, "set to nothing" in error.message), (500, True))

    def test_self(self) -> None:
        """``self`` is looked for until it is found, and then kept."""
        proc = Path(self.mktemp())
        (proc / "self").mkdir(parents=True)
        (proc / "self/cgroup").write_text(f"0::/docker/{ID}\n")
        answers: dict[str, Any] = dict(CGROUPFS)
        interceptor = self.interceptor("self", answers, str(proc))
        self.assertIn("is not one of this engine's", self.refused(interceptor).message)
        answers[f"/containers/{ID}/json"] = {"HostConfig": {"CgroupParent": "/jobs"}}
        self.assertEqual(self.sent(interceptor, "{}"), '{"HostConfig":{"CgroupParent":"/jobs"}}')
        answers.clear()
        self.assertEqual(self.built(interceptor, "/build"), "/build?cgroupparent=%2Fjobs")

    def test_engine_absent(self) -> None:
        """While the engine can't be asked, nothing passes; afterwards it does."""
        answers: dict[str, Any] = {"/info": EngineUnavailableError("unix:///x is not there", 503)}
        interceptor = self.interceptor("/p", answers)
        coroutine = interceptor.request_json(exchange("POST", "/containers/create"), Document.of({}))
        self.failureResultOf(Deferred.fromCoroutine(coroutine), EngineUnavailableError)
        answers["/info"] = {}
        self.assertEqual(self.sent(interceptor, "{}"), '{"HostConfig":{"CgroupParent":"/p"}}')

    def test_plugin(self) -> None:
        """The plug-in takes the daemon's setting, and refuses what can't work."""
        built = plugin.build(NoSettings(), job(), daemon(cgroup_parent="self"))
        assert isinstance(built, CgroupParent)
        self.assertEqual(
            (plugin.name, built.parent.wanted, built.parent.own.proc), ("cgroup-parent", "self", Path("/proc"))
        )
        for value, problem in ((None, "needs --cgroup-parent"), ("caller", "does not work yet")):
            error = self.assertRaises(
                ConfigurationError, plugin.build, NoSettings(), job(), daemon(cgroup_parent=value)
            )
            self.assertIn(problem, error.problem)
