"""Which cgroup a process is in, which parent its containers can have, and a job's own cgroup."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import process as processes
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from docker_tracker import cgroups, job_cgroup
from docker_tracker.cgroups import (
    Hierarchy,
    caller_parent,
    hierarchies,
    memberships,
    own_directories,
    uses_version_2,
)
from docker_tracker.errors import RefusedError
from docker_tracker.job import Process
from docker_tracker.job_cgroup import JobCgroup
from docker_tracker.processes import status

FIRST = "cgroup:[4026531835]"
STAT = f"7 (a) S 1 {'0 ' * 17}500\n"
CLIENT = Process(pid=7, started=500, boot="")
OLD = "5:name=systemd:{0}\n4:memory:{1}\n3:cpu,cpuacct:{2}\n2:pids:{3}\n0::{0}\n"

# cgroup file, driver is systemd's, engine is rootless, and the parent.
PARENTS: list[tuple[str, bool, bool, str]] = [
    # systemd: the nearest slice, which no other manager made
    ("0::/system.slice/agent.service\n", True, False, "system.slice"),
    ("0::/ci.slice/ci-a.slice/agent.service\n", True, False, "ci-a.slice"),
    ("0::/user.slice/user-7.slice/user@7.service/app.slice/a.scope\n", True, False, "user-7.slice"),
    ("0::/user.slice/user-7.slice/user@7.service/app.slice/a.scope\n", True, True, "app.slice"),
    (OLD.format("/ci.slice/a.scope", "/x", "/", "/"), True, False, "ci.slice"),
    # cgroupfs, version 1: where the controllers have it
    (OLD.format("/user.slice/a.scope", "/ci/a", "/b", "/c"), False, False, "/ci/a"),
    (OLD.format("/user.slice/a.scope", "/", "/b", "/c"), False, False, "/b"),
    (OLD.format("/user.slice/a.scope", "/", "/", "/c"), False, False, "/c"),
    ("3:net_cls:/n\n2:memory:/\n", False, False, "/n"),
]

NO_PARENTS: list[tuple[str, bool, bool, str]] = [
    ("", False, False, "the client's process has ended"),
    ("0::/\n", True, False, "its client is in no slice, but in /"),
    ("0::/init.scope\n", True, False, "in no slice"),
    ("0::/docker/abc\n", True, False, "in no slice"),
    ("4:memory:/ci\n", True, False, "in no slice"),
    ("0::/system.slice/a.service\n", True, True, "in no slice"),
    (OLD.format("/a.slice/b.scope", "/", "/", "/"), False, False, "every controller has it at the top"),
    ("4:memory:/../a\n", False, False, "is not one that the engine can find"),
    ("4:memory:/a (deleted)\n", False, False, "is not one that the engine can find"),
    ("0::/../a.slice/b.scope\n", True, False, "is not one that the engine can find"),
    ("0::/a\n", False, False, "does not see the hierarchy"),
]


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.proc = Path(self.mktemp()).absolute()
        self.mounted = Path(self.mktemp()).absolute()
        (self.proc / "self/ns").mkdir(parents=True)
        (self.proc / "7").mkdir()
        (self.proc / "7/stat").write_text(STAT)
        (self.proc / "7/status").write_text("Name:\ta\nUid:\t0\t1000\t0\t0\n")
        (self.proc / "self/ns/cgroup").symlink_to(FIRST)

    def mount(self, **mounts: str) -> None:
        """Have hierarchies mounted: their names, and their options ("": of version 2)."""
        lines = ["20 1 0:18 / / rw - ext4 /dev/sda rw"]
        for number, (name, options) in enumerate(mounts.items()):
            (self.mounted / name).mkdir(parents=True, exist_ok=True)
            kind = "cgroup" if options else "cgroup2"
            lines.append(
                f"3{number} 20 0:3{number} / {self.mounted / name} rw - {kind} none rw,{options or 'nsdelegate'}"
            )
        (self.proc / "self/mountinfo").write_text("\n".join(lines))


class MembershipTests(_Case):
    def test_this_process(self) -> None:
        """The kernel's own files can be read."""
        self.assertTrue(memberships(os.getpid()))
        self.assertEqual(memberships(2**22 + 1), {})

    def test_lines(self) -> None:
        """Each controller has its path; a path may have a colon."""
        (self.proc / "7/cgroup").write_text("3:cpu,cpuacct:/a:b\n1:name=systemd:/s\n0::/u\n")
        expected = {"cpu": "/a:b", "cpuacct": "/a:b", "name=systemd": "/s", "": "/u"}
        self.assertEqual(memberships(7, self.proc), expected)

    def test_hierarchies(self) -> None:
        """Each is found once, where it is mounted as a whole."""
        (self.proc / "self/mountinfo").write_text(
            "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
            "31 30 0:27 / /sys/fs/cgroup/cpu\\040x rw shared:1 - cgroup cgroup rw,xattr,cpu,cpuacct\n"
            "32 30 0:28 /docker/a /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
            "33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
            "34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            "35 30 0:30 / /mnt rw - cgroup2 cgroup2 rw\n"
            "short - cgroup x\nbroken\n"
        )
        self.assertEqual(
            hierarchies(self.proc),
            [
                Hierarchy(Path("/sys/fs/cgroup/cpu x"), frozenset({"cpu", "cpuacct"})),
                Hierarchy(Path("/sys/fs/cgroup/systemd"), frozenset({"name=systemd"})),
                Hierarchy(Path("/sys/fs/cgroup/unified"), frozenset()),
            ],
        )


class CallerTests(_Case):
    def parent(self, cgroup: str, systemd: bool = False, rootless: bool = False) -> str:
        (self.proc / "7/cgroup").write_text(cgroup)
        return caller_parent(7, systemd, rootless=rootless, proc=self.proc)

    def problem(self, cgroup: str, systemd: bool = False, rootless: bool = False) -> str:
        error = self.assertRaises(RefusedError, self.parent, cgroup, systemd, rootless)
        self.assertEqual(error.status, 500)
        return str(error.message)

    def test_parents(self) -> None:
        """The driver systemd gets a slice of its own manager's, cgroupfs a path that is not the top."""
        for cgroup, systemd, rootless, expected in PARENTS:
            with self.subTest(cgroup=cgroup, systemd=systemd, rootless=rootless):
                self.assertEqual(self.parent(cgroup, systemd, rootless), expected)

    def test_none(self) -> None:
        """Where there is none, it is said why."""
        for cgroup, systemd, rootless, problem in NO_PARENTS:
            with self.subTest(cgroup=cgroup, systemd=systemd, rootless=rootless):
                self.assertIn(problem, self.problem(cgroup, systemd, rootless))

    def test_name_space(self) -> None:
        """From within a cgroup name space the engine's paths are not seen; old kernels have none."""
        (self.proc / "self/ns/cgroup").unlink()
        self.assertEqual(self.parent("2:pids:/a\n"), "/a")
        (self.proc / "self/ns/cgroup").symlink_to("cgroup:[4026532000]")
        self.assertIn("--cgroupns=host", self.problem("2:pids:/a\n"))

    def test_machine(self) -> None:
        """The name space of a machine's systemd is as good as the host's; that of another first process is not."""
        (self.proc / "self/ns/cgroup").unlink()
        (self.proc / "self/ns/cgroup").symlink_to("cgroup:[4026532000]")
        (self.proc / "1/ns").mkdir(parents=True)
        for name_space, comm, seen in (
            ("cgroup:[4026532000]", "systemd\n", True),
            ("cgroup:[4026532000]", "twistd\n", False),
            (FIRST, "systemd\n", False),
        ):
            (self.proc / "1/ns/cgroup").unlink(missing_ok=True)
            (self.proc / "1/ns/cgroup").symlink_to(name_space)
            (self.proc / "1/comm").write_text(comm)
            if seen:
                self.assertEqual(self.parent("2:pids:/a\n"), "/a")
            else:
                self.assertIn("--cgroupns=host", self.problem("2:pids:/a\n"))

    def test_engine_of_version_2(self) -> None:
        """Where the engine uses version 2, hierarchies of version 1 that the machine also has are passed over."""
        self.version_2(**{"a": "", "a/b": "7\n", "a.slice": ""})
        (self.proc / "7/cgroup").write_text("2:net_cls:/n\n1:name=systemd:/\n0::/a/b\n")
        for unified, expected in ((None, "/n"), (False, "/n"), (True, "/a")):
            self.assertEqual(caller_parent(7, False, unified=unified, proc=self.proc), expected)
        (self.proc / "7/cgroup").write_text("2:net_cls:/n\n1:name=systemd:/\n0::/a.slice/b.service\n")
        self.assertEqual(caller_parent(7, True, unified=True, proc=self.proc), "a.slice")
        (self.proc / "7/cgroup").write_text("2:net_cls:/n\n")
        error = self.assertRaises(RefusedError, caller_parent, 7, False, unified=True, proc=self.proc)
        self.assertIn("neither its client's cgroup / nor", error.message)

    def test_what_engines_say(self) -> None:
        """An engine says which version it uses, or nothing."""
        for info, expected in (({"CgroupVersion": "1"}, False), ({"CgroupVersion": "2"}, True), ({}, None)):
            self.assertEqual(uses_version_2(info), expected)

    def version_2(self, **processes: str) -> None:
        self.mount(unified="")
        for path, text in processes.items():
            directory = self.mounted / "unified" / path
            directory.mkdir(parents=True)
            (directory / "cgroup.procs").write_text(text)

    def test_version_2(self) -> None:
        """The nearest cgroup without processes of its own, the caller's or one above it."""
        self.version_2(**{"a": "", "a/b": "7\n", "a/b/c": "7\n", "d": "7\n", "e": "", "e/f": ""})
        self.assertEqual(self.parent("0::/a/b/c\n"), "/a")
        self.assertEqual(self.parent("0::/e/f\n"), "/e/f")
        for path in ("/d", "/", "/gone"):
            self.assertIn(f"neither its client's cgroup {path} nor one above", self.problem(f"0::{path}\n"))

    def test_version_2_delegated(self) -> None:
        """Of systemd's cgroups only such that it has delegated, and what is below them."""
        units = {"ci.slice": "", "ci.slice/a.service": "", "ci.slice/a.service/jobs": "", "ci.slice/b.service": "7\n"}
        self.version_2(**units)
        given: dict[str, bytes] = {}

        def getxattr(path: Path, name: str) -> bytes:
            if name != "trusted.delegate" or str(path) not in given:
                raise OSError(61, "No data available")
            return given[str(path)]

        self.patch(os, "getxattr", getxattr)
        self.assertIn("Delegate=yes", self.problem("0::/ci.slice/a.service/jobs\n"))
        given[str(self.mounted / "unified/ci.slice/a.service")] = b"0"
        self.assertIn("Delegate=yes", self.problem("0::/ci.slice/a.service/jobs\n"))
        given[str(self.mounted / "unified/ci.slice/a.service")] = b"1"
        self.assertEqual(self.parent("0::/ci.slice/a.service/jobs\n"), "/ci.slice/a.service/jobs")
        given[str(self.mounted / "unified/ci.slice")] = b"1"
        self.assertEqual(self.parent("0::/ci.slice/b.service\n"), "/ci.slice")


class OwnTests(_Case):
    """A job's own cgroup, in directories that are like cgroups."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()

    def own(self, systemd: bool = False) -> JobCgroup:
        clock: Any = self.clock
        return JobCgroup(clock, "abc", systemd, self.proc)

    def test_names(self) -> None:
        """The engine gets a slice, or a path."""
        self.assertEqual(
            (self.own().parent, self.own(True).parent), ("/docker-tracker/abc", "docker-tracker-abc.slice")
        )

    def test_directories(self) -> None:
        """It is where resources are controlled; the engine makes others, too, which are removed as well."""
        for mounts, unified, controlled in (
            ({"pids": "pids", "systemd": "name=systemd", "unified": ""}, None, ["pids"]),
            ({"pids": "pids", "systemd": "name=systemd", "unified": ""}, False, ["pids"]),
            ({"pids": "pids", "systemd": "name=systemd", "unified": ""}, True, ["unified"]),
            ({"pids": "pids"}, True, []),
            ({"systemd": "name=systemd", "unified": ""}, None, ["unified"]),
            ({"unified": ""}, None, ["unified"]),
        ):
            self.mount(**mounts)
            below = "docker-tracker/abc"
            directories = own_directories("abc", self.proc, controlled=True, unified=unified)
            self.assertEqual(directories, [self.mounted / name / below for name in controlled])
            self.assertEqual(own_directories("abc", self.proc), [self.mounted / name / below for name in mounts])

    def test_life(self) -> None:
        """It is made with a place for its client, entered, and removed; the second time there is nothing to do."""
        self.mount(pids="pids", cpuset="cpuset", unified="")
        top = self.mounted / "cpuset"
        for name in ("cpuset.cpus", "cpuset.mems"):
            (top / name).write_text("0-1\n")
        own = self.own()
        for _ in range(2):
            self.successResultOf(ensureDeferred(own.make()))
        self.successResultOf(ensureDeferred(own.enter(CLIENT, 1000)))
        (self.mounted / "unified/docker-tracker/abc/container").mkdir(parents=True)
        for name in ("pids", "cpuset"):
            file = self.mounted / name / "docker-tracker/abc/client/cgroup.procs"
            self.assertEqual(file.read_text(), "7\n")
            file.unlink()
        for _ in range(2):
            self.assertEqual(self.successResultOf(ensureDeferred(own.remove())), [])
        self.assertEqual([path for path in own_directories("abc", self.proc) if path.exists()], [])

    def test_hybrid(self) -> None:
        """It is made where the engine controls resources; what it made elsewhere goes, too, also in a sweep."""
        self.mount(pids="pids", systemd="name=systemd", unified="")
        for unified, made in ((True, "unified"), (False, "pids")):
            own = attrs.evolve(self.own(), unified=unified)
            for removes in (lambda own=own: ensureDeferred(own.remove()), own.sweep):
                self.successResultOf(ensureDeferred(own.make()))
                self.assertEqual([each for each in self.made() if each != "systemd"], [made])
                for name in ("pids", "systemd", "unified"):
                    (self.mounted / name / "docker-tracker/abc/container").mkdir(parents=True, exist_ok=True)
                self.successResultOf(removes())
                self.assertEqual(self.made(), [])

    def made(self) -> list[str]:
        """Give the hierarchies in which it is there."""
        return [each.parent.parent.name for each in own_directories("abc", self.proc) if each.exists()]

    def test_empty_cpuset(self) -> None:
        """A cpuset of version 1 that would take no process gets what is above it."""
        self.mount(cpuset="cpuset")
        top = self.mounted / "cpuset"
        mkdir = Path.mkdir

        def making(path: Path, *arguments: Any, **options: Any) -> None:
            mkdir(path, *arguments, **options)
            (path / "cpuset.cpus").write_text("\n")
            (path / "cpuset.mems").write_text("1\n")

        (top / "cpuset.cpus").write_text("0-1\n")
        self.patch(Path, "mkdir", making)
        cgroups.make(top / "a/b")
        self.assertEqual((top / "a/b/cpuset.cpus").read_text(), "0-1\n")
        self.assertEqual((top / "a/b/cpuset.mems").read_text(), "1\n")

    def test_version_2(self) -> None:
        """What controls a cgroup of version 2 is handed down to the new ones; what can't be is passed by."""
        self.mount(unified="")
        top = self.mounted / "unified"
        (top / "cgroup.controllers").write_text("cpu memory\n")
        self.successResultOf(ensureDeferred(self.own().make()))
        self.assertEqual((top / "cgroup.subtree_control").read_text(), "+memory")  # a file keeps what comes last
        (top / "cgroup.subtree_control").unlink()
        (top / "cgroup.subtree_control").mkdir()
        cgroups.make(top / "other")

    def test_cannot_be_made(self) -> None:
        """Without hierarchies, or where it may not be made, it is said."""
        self.mount()
        failure = self.failureResultOf(ensureDeferred(self.own().make()), RefusedError)
        self.assertIn("no hierarchy of cgroups is mounted", failure.getErrorMessage())
        self.mount(pids="pids")
        (self.mounted / "pids/docker-tracker").write_text("")
        failure = self.failureResultOf(ensureDeferred(self.own().make()), RefusedError)
        self.assertIn("cannot be made: ", failure.getErrorMessage())
        failure = self.failureResultOf(ensureDeferred(self.own().enter(CLIENT, 0)), RefusedError)
        self.assertIn("process 7 cannot be put into the job's cgroup: [Errno", failure.getErrorMessage())

    def test_partly_made(self) -> None:
        """If one hierarchy refuses it, it is in none."""
        self.mount(pids="pids", memory="memory")
        (self.mounted / "memory/docker-tracker").write_text("")
        failure = self.failureResultOf(ensureDeferred(self.own().make()), RefusedError)
        self.assertIn("cannot be made: ", failure.getErrorMessage())
        self.assertFalse((self.mounted / "pids/docker-tracker/abc").exists())

    def test_not_to_be_entered(self) -> None:
        """A process that is another one by now, and one of another user, is not moved."""
        self.mount(pids="pids")
        self.successResultOf(ensureDeferred(self.own().make()))
        for process, owner, problem in (
            (Process(pid=8, started=500, boot=""), None, "it has ended"),
            (Process(pid=7, started=501, boot=""), None, "it has ended"),
            (CLIENT, 1001, "it is another user's"),
        ):
            failure = self.failureResultOf(ensureDeferred(self.own().enter(process, owner)), RefusedError)
            self.assertIn(problem, failure.getErrorMessage())
        for owner in (1000, 0, None):
            self.successResultOf(ensureDeferred(self.own().enter(CLIENT, owner)))

    def test_sweep(self) -> None:
        """What an earlier process left is removed at once, or left for another time."""
        self.mount(pids="pids", memory="memory")
        self.own().sweep()
        self.successResultOf(ensureDeferred(self.own().make()))
        (self.mounted / "pids/docker-tracker/abc/file").write_text("")
        self.own().sweep()
        there = [(self.mounted / name / "docker-tracker/abc").exists() for name in ("pids", "memory")]
        self.assertEqual(there, [True, False])

        def rmdir(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "rmdir", rmdir)
        self.own().sweep()

    def test_busy(self) -> None:
        """While a process is in it, it is tried again, for a while; then it is told what is left."""
        self.mount(pids="pids")
        own = self.own()
        self.successResultOf(ensureDeferred(own.make()))
        (self.mounted / "pids/docker-tracker/abc/client/file").write_text("")  # keeps the directory
        removing = ensureDeferred(own.remove())
        self.clock.pump([0.1] * 3)
        self.assertNoResult(removing)
        (self.mounted / "pids/docker-tracker/abc/client/file").unlink()
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(removing), [])

        self.successResultOf(ensureDeferred(own.make()))
        (self.mounted / "pids/docker-tracker/abc/client/file").write_text("")
        removing = ensureDeferred(own.remove())
        self.clock.pump([10.0] * 200)
        self.assertEqual(
            self.successResultOf(removing), [f"{self.mounted}/pids/docker-tracker/abc: processes are in it"]
        )

    def test_other_trouble(self) -> None:
        """What keeps it from being removed is told."""
        self.mount(pids="pids")
        self.successResultOf(ensureDeferred(self.own().make()))

        def rmdir(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "rmdir", rmdir)
        removing = ensureDeferred(self.own().remove())
        self.clock.pump([10.0] * 200)
        (left,) = self.successResultOf(removing)
        self.assertTrue(left.endswith("abc: Permission denied"), left)

        def gone(path: Path) -> None:
            raise FileNotFoundError(2, "gone")

        self.patch(Path, "rmdir", gone)
        self.assertEqual(self.successResultOf(ensureDeferred(self.own().remove())), [])

    def test_without_systemd(self) -> None:
        """The driver systemd without systemd's commands is told."""
        self.patch(os, "environ", {"PATH": "/nowhere"})
        failure = self.failureResultOf(ensureDeferred(self.own(True).make()), RefusedError)
        self.assertIn("needs systemd's command systemctl", failure.getErrorMessage())


class SystemdTests(TestCase):
    """A job's own slice, by commands that stand in for systemd's and write down what they are told."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.proc = self.directory / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.slice = self.directory / "unified/docker.slice/docker-tracker.slice/docker-tracker-abc.slice"
        self.slice.mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text(f"3 2 0:3 / {self.directory}/unified rw - cgroup2 none rw\n")
        (self.proc / "7").mkdir()
        (self.proc / "7/stat").write_text(STAT)
        (self.proc / "7/status").write_text("Uid:\t1000\t1000\t1000\t1000\n")
        self.asked = self.directory / "asked"
        below = "/" + str(self.slice.relative_to(self.directory / "unified"))
        (shown := self.directory / "shown").write_text(f"{below}\n")
        for name in ("systemctl", "busctl"):
            program = self.directory / name
            program.write_text(
                f'#!/bin/sh\necho "{name} $*" >> {self.asked}\n'
                f'case "$*" in *fail*.slice) echo no such slice >&2; exit 1;; *show*) cat {shown};; esac\n'
            )
            program.chmod(0o755)
        self.patch(os, "environ", {"PATH": f"{self.directory}:/usr/bin:/bin"})
        self.patch(os, "geteuid", lambda: 0)

    def own(self, job_id: str = "abc") -> JobCgroup:
        the_reactor: Any = reactor
        return JobCgroup(the_reactor, job_id, True, self.proc)

    def lines(self) -> list[str]:
        return self.asked.read_text().splitlines()

    async def _life(self) -> None:
        own = self.own()
        await own.make()
        await own.enter(CLIENT, 1000)
        self.assertEqual(await own.remove(), [])

    def test_life(self) -> Deferred[None]:
        """The slice is started, the process put into a scope in it, which is waited for, and the slice is stopped."""

        def check(_: None) -> None:
            self.assertEqual(
                self.lines(),
                [
                    "systemctl start docker-tracker-abc.slice",
                    "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"
                    " StartTransientUnit ssa(sv)a(sa(sv)) docker-tracker-abc-client-7.scope fail"
                    " 2 Slice s docker-tracker-abc.slice PIDs au 1 7 0",
                    "systemctl start docker-tracker-abc-client-7.scope",
                    "systemctl show --property=ControlGroup --value docker-tracker-abc.slice",
                    "systemctl stop docker-tracker-abc.slice",
                ],
            )

        return Deferred.fromCoroutine(self._life()).addCallback(check)

    async def _sweep(self) -> None:
        the_reactor: Any = reactor
        await JobCgroup(the_reactor, "other", False, self.proc).sweep()
        self.assertFalse(self.asked.exists())
        await JobCgroup(the_reactor, "abc", False, self.proc).sweep()
        self.assertEqual(self.lines()[-1], "systemctl stop docker-tracker-abc.slice")
        self.assertFalse(self.slice.exists())

    def test_sweep(self) -> Deferred[None]:
        """A slice that is left from an earlier process is stopped; without one systemd is asked nothing."""
        return Deferred.fromCoroutine(self._sweep())

    async def _left(self) -> None:
        (self.directory / "proc/self/mountinfo").write_text(
            f"3 2 0:3 / {self.directory}/unified rw - cgroup2 none rw\n"
            f"4 2 0:4 / {self.directory}/freezer rw - cgroup cgroup rw,freezer\n"
        )
        left = self.directory / "freezer" / self.slice.relative_to(self.directory / "unified")
        for shown in (self.slice.relative_to(self.directory / "unified"), ""):  # the second time it was stopped before
            left.mkdir(parents=True)
            (self.directory / "shown").write_text(f"/{shown}\n" if shown else "\n")
            self.assertEqual(await self.own().remove(), [])
            self.assertEqual((left.exists(), left.parent.exists()), (False, True))

    def test_left(self) -> Deferred[None]:
        """Where the engine made it besides systemd, in hierarchies of version 1, it is removed as well."""
        return Deferred.fromCoroutine(self._left())

    async def _own_manager(self) -> None:
        self.patch(os, "geteuid", lambda: 1000)
        await self.own().make()
        self.assertEqual(self.lines(), ["systemctl --user start docker-tracker-abc.slice"])
        below = "user.slice/user@1000.service/docker-tracker-abc.slice"
        (self.directory / "unified" / below).mkdir(parents=True)
        (self.directory / "shown").write_text(f"/{below}\n")
        self.assertEqual(await self.own().remove(), [])
        self.assertFalse((self.directory / "unified" / below).exists())

    def test_own_manager(self) -> Deferred[None]:
        """Whoever is not root asks the own manager, whose slices are somewhere else."""
        return Deferred.fromCoroutine(self._own_manager())

    async def _busy(self) -> None:
        (self.slice / "a.scope").mkdir()
        (self.slice / "a.scope/cgroup.procs").write_text("7\n")
        self.patch(job_cgroup, "_DELAYS", (0.0, 0.0))
        self.assertEqual(await self.own().remove(), [f"{self.slice}: processes are in it"])
        self.assertFalse(any(" stop " in line for line in self.lines()))

    def test_busy(self) -> Deferred[None]:
        """A slice with processes is never stopped: that would kill them."""
        return Deferred.fromCoroutine(self._busy())

    async def _hanging(self) -> None:
        program = self.directory / "systemctl"
        program.write_text(f"#!/bin/sh\necho $$ > {self.asked}\nexec sleep 60\n")
        self.patch(job_cgroup, "_COMMAND_SECONDS", 0.5)
        try:
            await self.own().make()
        except RefusedError as error:
            self.assertEqual(
                (str(error), error.status), ("systemctl start docker-tracker-abc.slice did not end within 0.5 s", 504)
            )
        else:
            self.fail("it was waited for")
        the_reactor: Any = reactor
        while not self.asked.exists() or not self.lines():
            await deferLater(the_reactor, 0.01)
        os.kill(int(self.lines()[0]), signal.SIGKILL)
        while processes.reapProcessHandlers:
            await deferLater(the_reactor, 0.01)

    def test_hanging(self) -> Deferred[None]:
        """A command that does not end is not waited for."""
        return Deferred.fromCoroutine(self._hanging())

    async def _failing(self) -> None:
        self.patch(job_cgroup, "_DELAYS", ())
        (left,) = await self.own("fail").remove()
        self.assertEqual(
            left, "docker-tracker-fail.slice: systemctl show docker-tracker-fail.slice failed: no such slice"
        )

    def test_failing(self) -> Deferred[None]:
        """What the commands say is told."""
        return Deferred.fromCoroutine(self._failing())


class RealCgroupTests(TestCase):
    """Real cgroups of version 1, of one controller; others may be watched by whoever runs the tests."""

    def setUp(self) -> None:
        found = [each for each in hierarchies() if each.controllers == {"pids"}]
        if not found or not os.access(found[0].path, os.W_OK):
            raise SkipTest("no pids controller of version 1 that may be written")
        self.top = found[0].path
        self.proc = Path(self.mktemp()).absolute()
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text(f"3 2 0:3 / {self.top} rw - cgroup cgroup rw,pids\n")
        self.job_id = f"test-{os.getpid()}"

    async def _life(self) -> None:
        the_reactor: Any = reactor
        own = JobCgroup(the_reactor, self.job_id, False, self.proc)
        there = (self.top / "docker-tracker").exists()
        await own.make()
        child = subprocess.Popen(["sleep", "1000"])
        try:
            (self.proc / str(child.pid)).symlink_to(f"/proc/{child.pid}")
            kernel = status(child.pid)
            assert kernel is not None
            await own.enter(Process(pid=child.pid, started=kernel.started, boot=""), os.geteuid())
            self.assertEqual(memberships(child.pid)["pids"], f"/docker-tracker/{self.job_id}/client")
            removing = Deferred.fromCoroutine(own.remove())
            self.assertNoResult(removing)
        finally:
            child.kill()
            child.wait()
        self.assertEqual(await removing, [])
        self.assertFalse((self.top / "docker-tracker" / self.job_id).exists())
        if not there:
            (self.top / "docker-tracker").rmdir()

    def assertNoResult(self, deferred: Deferred[Any]) -> None:
        self.assertFalse(deferred.called)

    def test_life(self) -> Deferred[None]:
        """A process is put into it; it is removed once the process has ended, and not before."""
        return Deferred.fromCoroutine(self._life())
