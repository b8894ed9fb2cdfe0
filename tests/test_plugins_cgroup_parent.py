"""What a job creates is under the operator's cgroup, whatever the client asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.engine.catalogue import OPERATIONS
from docker_tracker.engine.document import Document
from docker_tracker.errors import BadDocumentError, ConfigurationError, EngineUnavailableError, RefusedError
from docker_tracker.exchange import Peer, Stage
from docker_tracker.interfaces import IEngine, IInterceptor
from docker_tracker.own_container import OwnContainer
from docker_tracker.plugins import cgroup_parent
from docker_tracker.plugins.cgroup_parent import CgroupParent, CgroupParentSettings, Parent
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
        parent = Parent(wanted, engine, OwnContainer(engine, Path(proc or self.mktemp())))
        return CgroupParent(parent, parent)

    def sent(self, interceptor: CgroupParent, body: str, peer: Peer | None = None) -> str:
        """Return the body as the engine gets it."""
        document = Document.parse(body.encode())
        coroutine = interceptor.request_json(exchange("POST", "/containers/create", peer), document)
        edited = self.successResultOf(Deferred.fromCoroutine(coroutine))
        return (edited or document).encode().decode()

    def refused(self, interceptor: CgroupParent, body: str = "{}", peer: Peer | None = None) -> RefusedError:
        """Return the error with which a create is refused."""
        document = Document.parse(body.encode())
        coroutine = interceptor.request_json(exchange("POST", "/containers/create", peer), document)
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), RefusedError)
        assert isinstance(failure.value, RefusedError)
        return failure.value

    def built(self, interceptor: CgroupParent, target: str) -> str:
        """Return the target of a build as the engine gets it."""
        one = exchange("POST", target)
        head = self.successResultOf(Deferred.fromCoroutine(interceptor.request_head(one, one.received)))
        return target if head is None else str(head.target)

    def test_podmans_own(self) -> None:
        """Podman's own API has it at the top of the body; a mode that goes round it is refused."""
        for path in ("containers", "pods"):
            one = exchange("POST", f"/v4.0.0/libpod/{path}/create")
            for body, expected in (
                (b'{"Cgroup_Parent":"/other"}', {"cgroup_parent": "/jobs"}),
                (b'{"cgroup_parent":"/jobs","cgroups_mode":"no-conmon"}', None),
            ):
                coroutine = self.interceptor("/jobs").request_json(one, Document.parse(body))
                edited = self.successResultOf(Deferred.fromCoroutine(coroutine))
                self.assertEqual(edited and edited.value, expected)
            for mode in (b'"disabled"', b'"split"', b"1", b"[]"):
                document = Document.parse(b'{"cgroups_mode":' + mode + b"}")
                deferred = Deferred.fromCoroutine(self.interceptor("/jobs").request_json(one, document))
                self.failureResultOf(deferred, RefusedError)

    def test_builds_on_podman(self) -> None:
        """A build on Podman gets a cgroup of its own below the parent; a slice is left as it is."""
        for wanted, engine, expected in (
            ("/p", "podman host in /", "/build?cgroupparent=%2Fp%2Fbuild-1"),
            ("/p", "id in /", "/build?cgroupparent=%2Fp"),
        ):
            interceptor = self.interceptor(wanted)
            self.engine.name = engine
            self.assertEqual(self.built(interceptor, "/build"), expected)
        interceptor = self.interceptor("a.slice", SYSTEMD)
        self.engine.name = "podman host in /"
        self.assertEqual(self.built(interceptor, "/build"), "/build?cgroupparent=a.slice")

    def test_interceptor(self) -> None:
        """It is a guard of creates, starts and builds, and of nothing else."""
        interceptor = self.interceptor()
        self.assertTrue(verifyObject(IInterceptor, interceptor))
        self.assertTrue(interceptor.fail_closed)
        wanted = {row.name: interceptor.wants(row) for row in OPERATIONS if interceptor.wants(row)}
        body = Stage.REQUEST_JSON
        expected = {"container_create": body, "container_start": body, "image_build": Stage.REQUEST_HEAD}
        expected["grpc"] = Stage.BUILD_REQUEST
        expected |= {"libpod_container_create": body, "libpod_pod_create": body}
        expected["libpod_image_build"] = Stage.REQUEST_HEAD
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
        for value in ("/ci", ".slice", "ci.scope", "a--b.slice", "../a.slice", "/a.slice"):
            error = self.refused(self.interceptor(value, SYSTEMD))
            self.assertEqual((error.status, "must be a NAME.slice" in error.message), (500, True))

    def test_leads_elsewhere(self) -> None:
        """A path that was taken before it was looked at (an older ledger has it) gets nothing created."""
        error = self.refused(self.interceptor("a/../.."))
        self.assertIn("no '..'", error.message)

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

    def client(self, cgroup: str, started: int = 5) -> str:
        """Have this process as a client, whose files are those of a client in a cgroup; return where they are."""
        proc = Path(self.mktemp())
        (proc / str(os.getpid())).mkdir(parents=True)
        fields = ["S", "1", *["0"] * 17, str(started)]
        (proc / f"{os.getpid()}/stat").write_text(f"1 (a) {' '.join(fields)}\n")
        (proc / f"{os.getpid()}/cgroup").write_text(cgroup)
        return str(proc)

    def test_caller(self) -> None:
        """``caller`` is looked for at each create: clients are in different cgroups."""
        me = Peer(pid=os.getpid(), uid=0)
        proc = self.client("2:memory:/jobs/a\n")
        interceptor = self.interceptor("caller", proc=proc)
        self.assertEqual(self.sent(interceptor, "{}", me), '{"HostConfig":{"CgroupParent":"/jobs/a"}}')
        (Path(proc) / f"{os.getpid()}/cgroup").write_text("2:memory:/jobs/b\n")
        self.assertEqual(self.sent(interceptor, "{}", me), '{"HostConfig":{"CgroupParent":"/jobs/b"}}')
        self.assertEqual(self.engine.asked, ["/info"])
        interceptor = self.interceptor("caller", SYSTEMD, self.client("0::/a.slice/b.scope\n"))
        self.assertEqual(self.sent(interceptor, "{}", me), '{"HostConfig":{"CgroupParent":"a.slice"}}')
        mixed = {"/info": {"CgroupDriver": "systemd", "CgroupVersion": "2"}}
        interceptor = self.interceptor("caller", mixed, self.client("1:name=systemd:/\n0::/a.slice/b.scope\n"))
        self.assertEqual(self.sent(interceptor, "{}", me), '{"HostConfig":{"CgroupParent":"a.slice"}}')
        rootless = {"/info": {"CgroupDriver": "systemd", "SecurityOptions": ["name=seccomp", "name=rootless"]}}
        proc = self.client("0::/user.slice/user-7.slice/user@7.service/b.slice/b.scope\n")
        sent = self.sent(self.interceptor("caller", rootless, proc), "{}", me)
        self.assertEqual(sent, '{"HostConfig":{"CgroupParent":"b.slice"}}')

    def test_caller_hidden(self) -> None:
        """A tracker in a container of the engine's that has cgroups of its own refuses, whatever it sees in there."""
        proc = self.client("0::/a.slice/b.scope\n")
        identifier = "c" * 64
        (Path(proc) / "self").mkdir(exist_ok=True)
        mount = f"1 2 3:4 /var/lib/docker/containers/{identifier}/hostname /etc/hostname rw - ext4 x rw\n"
        (Path(proc) / "self/mountinfo").write_text(mount)
        path = f"/containers/{identifier}/json"
        for mode, refused in (("private", True), ("host", False)):
            interceptor = self.interceptor("caller", {**SYSTEMD, path: {"HostConfig": {"CgroupnsMode": mode}}}, proc)
            me = Peer(pid=os.getpid(), uid=0)
            if refused:
                self.assertIn("start its container with --cgroupns=host", self.refused(interceptor, peer=me).message)
            else:
                self.assertEqual(self.sent(interceptor, "{}", me), '{"HostConfig":{"CgroupParent":"a.slice"}}')

    def test_caller_unknown(self) -> None:
        """A client whose process is not known, or has ended, or is in no cgroup of its own, makes nothing."""
        interceptor = self.interceptor("caller", proc=self.client("2:memory:/\n"))
        for peer, problem in (
            (Peer(address="10.0.0.1:5"), "connect by a unix socket"),
            (Peer(pid=0, uid=0), "connect by a unix socket"),
            (Peer(pid=2**22 + 1, uid=0), "the process that connected has ended"),
            (Peer(pid=os.getpid(), uid=0), "every controller has it at the top"),
        ):
            error = self.refused(interceptor, peer=peer)
            self.assertEqual((error.status, problem in error.message), (500, True), error.message)

    def test_caller_ends(self) -> None:
        """If the client's number is given away while its cgroup is read, nothing is made."""
        proc = self.client("2:memory:/a\n")

        def caller_parent(pid: int, systemd: bool, **_: object) -> str:
            stat = Path(proc) / f"{pid}/stat"
            stat.write_text(stat.read_text().replace(" 5\n", " 6\n"))
            return "/a"

        self.patch(cgroup_parent, "caller_parent", caller_parent)
        error = self.refused(self.interceptor("caller", proc=proc), peer=Peer(pid=os.getpid(), uid=0))
        self.assertIn("has ended", error.message)

    def built_for(self, setting: str | None, **request: Any) -> CgroupParent:
        """Return what a job that is asked to be so gets, with a daemon's setting."""
        built = plugin.build(CgroupParentSettings(), job(**request), daemon(Engine(CGROUPFS), cgroup_parent=setting))
        assert isinstance(built, CgroupParent)
        return built

    def test_job(self) -> None:
        """What a job was asked to be goes before the daemon's setting."""
        for setting in (None, "/p", "caller"):
            self.assertEqual(
                self.sent(self.built_for(setting, cgroup_parent="/j"), "{}"), '{"HostConfig":{"CgroupParent":"/j"}}'
            )
            self.assertEqual(
                self.sent(self.built_for(setting, own_cgroup=True), "{}"),
                '{"HostConfig":{"CgroupParent":"/docker-tracker/id-1"}}',
            )
        own = plugin.build(CgroupParentSettings(), job(own_cgroup=True), daemon(Engine(SYSTEMD)))
        assert isinstance(own, CgroupParent)
        self.assertIn('"docker-tracker-id-1.slice"', self.sent(own, "{}"))
        self.assertIn("set to nothing", self.refused(self.built_for("/p", cgroup_parent="")).message)
        error = self.assertRaises(ConfigurationError, self.built_for, None, own_cgroup=True, cgroup_parent="/j")
        self.assertIn("ask for one of them", error.problem)

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
        built = plugin.build(CgroupParentSettings(), job(), daemon(cgroup_parent="self"))
        assert isinstance(built, CgroupParent)
        self.assertEqual(
            (plugin.name, built.parent.wanted, built.parent.own.proc), ("cgroup-parent", "self", Path("/proc"))
        )
        error = self.assertRaises(ConfigurationError, plugin.build, CgroupParentSettings(), job(), daemon())
        self.assertIn("needs --cgroup-parent", error.problem)
