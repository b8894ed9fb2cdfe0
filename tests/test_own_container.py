"""Where the tracker's own container is, found from what the kernel and the engine say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import EngineError, EngineUnavailableError, RefusedError
from docker_tracker.interfaces import IEngine
from docker_tracker.own_container import OwnContainer
from tests.support.exchanges import Engine

ID = "0123456789abcdef" * 4
OUTER = "f" * 64
ROOT = "612 611 0:50 / / rw,relatime master:300 - overlay overlay rw\n"
HOSTNAME = f"620 612 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n"
HOSTS = HOSTNAME.replace("hostname", "hosts")
OTHERS = f"621 612 8:1 /var/lib/docker/containers/{OUTER}/data /data rw - ext4 /dev/sda1 rw\n"
V2_PRIVATE = "0::/\n"
RUNNING = {"HostConfig": {"CgroupParent": ""}, "State": {"Pid": 99}}


class OwnContainerTests(SynchronousTestCase):
    def own(self, answers: dict[str, Any], **files: str) -> OwnContainer:
        """Return one that sees these files: mountinfo, cgroup (of itself), init (the cgroup of process 99)."""
        proc = Path(self.mktemp())
        for directory in ("self", "99"):
            (proc / directory).mkdir(parents=True)
        for name, path in (("mountinfo", "self/mountinfo"), ("cgroup", "self/cgroup"), ("init", "99/cgroup")):
            if name in files:
                (proc / path).write_text(files[name])
        self.engine = Engine(answers)
        return OwnContainer(cast(IEngine, self.engine), proc)

    def found(self, own: OwnContainer, systemd: bool = False) -> str:
        return self.successResultOf(Deferred.fromCoroutine(own.cgroup_parent(systemd)))

    def problem(self, own: OwnContainer, systemd: bool = False) -> str:
        failure = self.failureResultOf(Deferred.fromCoroutine(own.cgroup_parent(systemd)), RefusedError)
        assert isinstance(failure.value, RefusedError)
        self.assertEqual(failure.value.status, 500)
        self.assertIn("set cgroup-parent to a cgroup by name", failure.value.message)
        return failure.value.message

    def test_identifiers(self) -> None:
        """The ID stands in the mounts of every container, and in the cgroup unless that has a name space."""
        for mountinfo, cgroup, identifiers in (
            (ROOT + HOSTNAME + HOSTS, V2_PRIVATE, [ID]),
            (ROOT + HOSTS, V2_PRIVATE, [ID]),
            (ROOT + OTHERS, V2_PRIVATE, []),
            (ROOT, f"12:pids:/docker/{ID}\n11:memory:/docker/{ID}\n", [ID]),
            (ROOT, f"0::/system.slice/docker-{ID}.scope\n", [ID]),
            (ROOT, f"0::/docker/{OUTER}/docker/{ID}\n", [ID]),
            (ROOT, f"1:name=systemd:/docker/{OUTER}\n0::/docker/{ID}\n", [ID, OUTER]),
            (HOSTNAME, f"0::/docker/{OUTER}\n", [ID, OUTER]),
            (ROOT, "0::/user.slice/user-0.slice/session-1.scope\n", []),
            ("", "", []),
        ):
            with self.subTest(mountinfo=mountinfo, cgroup=cgroup):
                self.assertEqual(self.own({}, mountinfo=mountinfo, cgroup=cgroup).identifiers(), identifiers)
        self.assertEqual(self.own({}).identifiers(), [])

    def test_name_space(self) -> None:
        """Whether our container has a cgroup name space of its own is known of this engine's only."""
        for mode, hidden in (("private", True), ("host", False), (None, False)):
            answers = {f"/containers/{ID}/json": {"HostConfig": {"CgroupnsMode": mode}}}
            for mountinfo, expected in ((HOSTNAME, hidden), (HOSTNAME.replace(ID, OUTER), False), (ROOT, False)):
                hides = Deferred.fromCoroutine(self.own(answers, mountinfo=mountinfo).hides_cgroups())
                self.assertEqual(self.successResultOf(hides), expected)

    def test_as_configured(self) -> None:
        """A parent that our container was created with is the one."""
        answers = {f"/containers/{ID}/json": {"HostConfig": {"CgroupParent": "/ci/job"}}}
        self.assertEqual(self.found(self.own(answers, mountinfo=HOSTNAME)), "/ci/job")
        self.assertEqual(self.engine.asked, [f"/containers/{ID}/json"])

    def test_default_of_the_engine(self) -> None:
        """Otherwise the kernel says where the engine put it, in the form that the driver takes."""
        for systemd, cgroup, parent in (
            (False, f"0::/docker/{ID}\n", "/docker"),
            (False, f"12:pids:/a/b/{ID}\n0::/x\n", "/a/b"),
            (False, f"1:name=systemd:/x\n0::/docker/{ID}/init\n", "/docker"),
            (True, f"0::/system.slice/docker-{ID}.scope\n", "system.slice"),
            (True, f"0::/a.slice/a-b.slice/docker-{ID}.scope\n", "a-b.slice"),
        ):
            with self.subTest(cgroup=cgroup):
                own = self.own({f"/containers/{ID}/json": RUNNING}, mountinfo=HOSTNAME, init=cgroup)
                self.assertEqual(self.found(own, systemd), parent)

    def test_second_candidate(self) -> None:
        """An ID that the engine does not know is not ours; the next one may be."""
        answers = {f"/containers/{OUTER}/json": {"HostConfig": {"CgroupParent": "/p"}}}
        own = self.own(answers, mountinfo=HOSTNAME, cgroup=f"0::/docker/{OUTER}\n")
        self.assertEqual(self.found(own), "/p")

    def test_no_container(self) -> None:
        """Outside of a container there is no such parent, and the engine is not even asked."""
        self.assertIn("runs in no container", self.problem(self.own({}, mountinfo=ROOT, cgroup=V2_PRIVATE)))
        self.assertEqual(self.engine.asked, [])

    def test_foreign_container(self) -> None:
        """A container of another engine is of no use."""
        self.assertIn(f"its container {ID[:12]} is not one of", self.problem(self.own({}, mountinfo=HOSTNAME)))

    def test_hidden_cgroup(self) -> None:
        """A number that is another process here, or a cgroup that a name space hides, tells nothing."""
        for answer, cgroup in (
            (RUNNING, V2_PRIVATE),
            (RUNNING, f"0::/docker/{OUTER}\n"),
            (RUNNING, f"0::/../{ID}\n"),
            (RUNNING, f"0::/{ID}\n"),
            ({"State": {"Pid": 98}}, f"0::/docker/{ID}\n"),
            ({"State": None}, f"0::/docker/{ID}\n"),
            ({"State": {}, "HostConfig": {"CgroupParent": None}}, f"0::/docker/{ID}\n"),
        ):
            with self.subTest(answer=answer, cgroup=cgroup):
                own = self.own({f"/containers/{ID}/json": answer}, mountinfo=HOSTNAME, init=cgroup)
                self.assertIn("not seen from within", self.problem(own))

    def test_engine_absent(self) -> None:
        """The engine's own failure is told as such."""
        own = self.own({f"/containers/{ID}/json": EngineUnavailableError("gone", 503)}, mountinfo=HOSTNAME)
        self.failureResultOf(Deferred.fromCoroutine(own.cgroup_parent(False)), EngineError)
