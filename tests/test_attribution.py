"""Clients of one socket are told apart by rules about their processes."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker import attribution, processes
from docker_tracker.attribution import Attribution
from docker_tracker.errors import ConfigurationError
from docker_tracker.exchange import Peer
from docker_tracker.interfaces import IJob
from docker_tracker.job import JobState, Process
from docker_tracker.processes import Status, identify, status
from docker_tracker.proxy.listener import peer_of
from docker_tracker.testing import FakeJob

ME = os.getpid()
# Connects to the socket that its argument names, and stays until its input ends.
CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.send(b"x")
sys.stdin.read()
"""

# Tables that are no rules, and what is said.
WRONG: list[tuple[Any, str, str]] = [
    ([], "attribute 1", "must be a table"),
    ({}, "attribute 1: job", "is not a job's name"),
    ({"job": "a"}, "attribute 1", "at least one of uid, cgroup and environment"),
    ({"job": "a b", "uid": 1}, "attribute 1: job", "'a b' is not a job's name"),
    ({"job": "{env}", "uid": 1}, "attribute 1: job", "is not a job's name"),
    ({"job": 5, "uid": 1}, "attribute 1: job", "must be a string"),
    ({"job": "a", "uid": "me"}, "attribute 1: uid", "'me' is not the number"),
    ({"job": "a", "uid": True}, "attribute 1: uid", "True is not the number"),
    ({"job": "a", "uid": -1}, "attribute 1: uid", "-1 is not the number"),
    ({"job": "a", "cgroup": "ci"}, "attribute 1: cgroup", "must begin with a slash"),
    ({"job": "a", "cgroup": 5}, "attribute 1: cgroup", "must be a string"),
    ({"job": "a", "environment": "A=B"}, "attribute 1: environment", "is not the name of a variable"),
    ({"job": "a", "enviroment": "A"}, "attribute 1: enviroment", 'did you mean "environment"?'),
]

# Rules, cgroup file, environment, and the job that is chosen among all of JOBS.
JOBS = ("5", "ci-5", "ci-7", "agent", "1000")
CHOICES: list[tuple[list[dict[str, Any]], str, str, str | None]] = [
    ([{"job": "agent", "uid": 1000}], "", "", "agent"),
    ([{"job": "{value}", "uid": 1000}], "", "", "1000"),
    ([{"job": "agent", "uid": 1001}], "", "", None),
    ([{"job": "agent", "cgroup": "/ci"}], "0::/ci\n", "", "agent"),
    ([{"job": "agent", "cgroup": "/ci/"}], "0::/ci/a/b\n", "", "agent"),
    ([{"job": "agent", "cgroup": "/ci"}], "0::/cicada\n", "", None),
    ([{"job": "agent", "cgroup": "/"}], "0::/\n", "", "agent"),
    ([{"job": "agent", "cgroup": "/ci"}], "2:cpu:/x\n1:name=systemd:/ci/a:b\n0::/\n", "", "agent"),
    ([{"job": "ci-{value}", "cgroup": "/slurm/job_"}], "0::/slurm/job_5/step_0\n", "", "ci-5"),
    ([{"job": "ci-{value}", "cgroup": "/slurm/job_"}], "0::/slurm/job_\n", "", None),
    ([{"job": "ci-{value}", "cgroup": "/slurm/job_"}], "broken\n", "", None),
    ([{"job": "ci-{value}", "environment": "CI_JOB_ID"}], "", "A=1\0CI_JOB_ID=5\0", "ci-5"),
    ([{"job": "agent", "environment": "CI_JOB_ID"}], "", "CI_JOB_ID=5\0", "agent"),
    ([{"job": "agent", "environment": "CI_JOB_ID"}], "", "CI_JOB_ID=\0X\0", None),
    ([{"job": "ci-{value}", "environment": "CI_JOB_ID"}], "", "CI_JOB_ID=../5\0", None),
    ([{"job": "ci-{value}", "environment": "CI_JOB_ID"}], "", "CI_JOB_ID=8\0", None),  # no such job is open
    # all of a rule must hold, and the first rule that finds an open job wins
    ([{"job": "ci-{value}", "environment": "J", "uid": 1000, "cgroup": "/a"}], "0::/a/b\n", "J=5\0", "ci-5"),
    ([{"job": "ci-{value}", "environment": "J", "uid": 1000, "cgroup": "/b"}], "0::/a/b\n", "J=5\0", None),
    ([{"job": "ci-{value}", "environment": "J"}, {"job": "agent", "uid": 1000}], "", "J=5\0", "ci-5"),
    ([{"job": "ci-{value}", "environment": "J"}, {"job": "agent", "uid": 1000}], "", "J=6\0", "agent"),
]


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.proc = Path(self.mktemp())
        self.process(ME, 0)

    def process(
        self, pid: int, parent: int, cgroup: str = "", environ: str = "", started: int = 500, uid: int = 1000
    ) -> None:
        """Have a process, or change it."""
        directory = self.proc / str(pid)
        directory.mkdir(parents=True, exist_ok=True)
        fields = ["S", str(parent), *["0"] * 17, str(started), "0"]
        (directory / "stat").write_text(f"{pid} (a) b) {' '.join(fields)}\n")
        (directory / "status").write_text(f"Name:\ta\nUid:\t0\t{uid}\t{uid}\t{uid}\n")
        (directory / "cgroup").write_text(cgroup)
        (directory / "environ").write_text(environ)

    def jobs(self, *names: str, **changes: Any) -> list[IJob]:
        return [FakeJob(id=f"id-{name}", name=name, **{"owner": 1000, **changes}) for name in names]

    def chosen(
        self, rules: list[dict[str, Any]], jobs: list[IJob] | None = None, peer: Peer | None = None
    ) -> str | None:
        attribution = Attribution(rules, self.proc)
        job = attribution.choose(peer or Peer(pid=ME, uid=1000), self.jobs(*JOBS) if jobs is None else jobs)
        return None if job is None else job.name


class RuleTests(_Case):
    def test_wrong(self) -> None:
        """A table that is no rule is told by its number and its key."""
        for table, where, problem in WRONG:
            with self.subTest(table=table):
                error = self.assertRaises(ConfigurationError, Attribution, [table])
                self.assertEqual(error.where, where)
                self.assertIn(problem, str(error))

    def test_choices(self) -> None:
        """A rule holds if all that it names holds; what it takes from the process completes the job's name."""
        for rules, cgroup, environ, expected in CHOICES:
            with self.subTest(rules=rules, cgroup=cgroup, environ=environ):
                self.process(ME, 0, cgroup, environ)
                self.assertEqual(self.chosen(rules), expected)

    def test_parents(self) -> None:
        """What does not hold of the process may hold of its parents, the nearest first."""
        self.process(3, 0, "0::/ci/3\n", "J=7\0", 100)
        self.process(2, 3, "0::/ci/2\n", "J=5\0", 200)
        self.process(ME, 2, "0::/\n", "")
        self.assertEqual(self.chosen([{"job": "ci-{value}", "environment": "J"}]), "ci-5")
        self.assertEqual(self.chosen([{"job": "ci-{value}", "environment": "J"}], self.jobs("ci-7")), "ci-7")
        self.assertEqual(self.chosen([{"job": "agent", "cgroup": "/ci/3"}]), "agent")

    def test_parents_number_given_away(self) -> None:
        """A parent that is younger than its child is another process by now."""
        self.process(2, 0, "", "J=5\0", started=501)
        self.process(ME, 2)
        self.assertIsNone(self.chosen([{"job": "ci-{value}", "environment": "J"}]))
        self.process(2, 0, "", "J=5\0", started=500)
        self.assertEqual(self.chosen([{"job": "ci-{value}", "environment": "J"}]), "ci-5")

    def test_parents_without_end(self) -> None:
        """Only so many parents are looked at, whatever the kernel says."""
        self.process(ME, ME)
        self.assertIsNone(self.chosen([{"job": "ci-{value}", "environment": "J"}]))

    def test_environment_of_another_user(self) -> None:
        """What a process says of itself chooses only among the jobs of its user; what the operator says, among all."""
        self.process(ME, 0, "0::/ci\n", "J=5\0")
        told: list[dict[str, Any]] = [{"job": "ci-{value}", "environment": "J"}]
        for rules, owner, expected in (
            (told, 1000, "ci-5"),
            (told, 0, None),
            (told, None, "ci-5" if os.geteuid() == 1000 else None),
            ([{"job": "ci-{value}", "environment": "J", "uid": 1000}], 0, None),
            ([{"job": "ci-5", "cgroup": "/ci"}], 0, "ci-5"),
            ([{"job": "ci-5", "uid": 1000}], None, "ci-5"),
        ):
            self.assertEqual(self.chosen(rules, self.jobs("ci-5", owner=owner)), expected, (rules, owner))
        mine = Peer(pid=ME, uid=os.geteuid())
        self.assertEqual(self.chosen(told, self.jobs("ci-5", owner=None), mine), "ci-5")

    def test_open_jobs_only(self) -> None:
        """A job that has ended is chosen by nobody."""
        rules: list[dict[str, Any]] = [{"job": "agent", "uid": 1000}]
        for state in JobState:
            expected = "agent" if state is JobState.OPEN else None
            self.assertEqual(self.chosen(rules, self.jobs("agent", state=state)), expected)

    def test_unknown(self) -> None:
        """TCP clients and processes that we can't see belong to no job by rule."""
        rules: list[dict[str, Any]] = [{"job": "agent", "cgroup": "/"}]
        for peer in (Peer(address="10.0.0.1:5"), Peer(pid=0, uid=0), Peer(), Peer(pid=2**22 + 1, uid=0)):
            self.assertIsNone(self.chosen(rules, peer=peer))

    def test_without_rules(self) -> None:
        """Nothing is read without a rule."""
        self.patch(attribution, "identify", None)
        self.assertIsNone(self.chosen([]))

    def test_remembered(self) -> None:
        """A process is read once, told by its start; the jobs are those of the moment; the oldest are forgotten."""
        self.patch(attribution, "_MOST_KNOWN", 2)
        rules = Attribution([{"job": "ci-{value}", "environment": "J"}], self.proc)
        self.process(ME, 0, "", "J=5\0")

        def chosen(*names: str) -> str | None:
            job = rules.choose(Peer(pid=ME, uid=1000), self.jobs(*names))
            return None if job is None else job.name

        self.assertIsNone(chosen("ci-6"))
        (self.proc / str(ME) / "environ").unlink()
        self.assertEqual(chosen("ci-5", "ci-6"), "ci-5")
        for started, value in ((600, 6), (700, 7)):
            self.process(ME, 0, "", f"J={value}\0", started=started)
            self.assertEqual(chosen("ci-5", "ci-6", "ci-7"), f"ci-{value}")
        self.process(ME, 0, "", "", started=600)
        self.assertEqual(chosen("ci-6"), "ci-6")
        self.process(ME, 0, "", "", started=500)
        self.assertIsNone(chosen("ci-5"))


class IdentifyTests(_Case):
    def test_status(self) -> None:
        """The kernel's own word on this process can be read; of one that is not there is none."""
        mine = status(ME)
        assert mine is not None
        self.assertEqual(mine.parent, os.getppid())
        self.assertIsNone(status(2**22 + 1))
        self.assertEqual(status(ME, self.proc), Status(0, 500))
        (self.proc / str(ME) / "stat").write_text("1 (cut) S 2")
        self.assertIsNone(status(ME, self.proc))

    def test_itself(self) -> None:
        """A process at the other end of a socket is known by number, start and boot, by the old way, too."""
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        found = identify(peer_of(near, None))
        assert found is not None
        self.assertEqual((found.pid, len(found.boot)), (ME, 36))
        self.assertEqual(identify(Peer(pid=ME)), found)
        self.patch(processes, "_SO_PEERPIDFD", 9999)  # as for a kernel that does not know it
        self.assertEqual(identify(peer_of(near, None)), found)

    def test_closed(self) -> None:
        """Nobody is behind a connection that is closed, whoever has the number now."""
        near, far = socket.socketpair()
        peer = peer_of(near, None)
        near.close()
        far.close()
        self.assertIsNone(identify(peer))

    def test_number_given_away(self) -> None:
        """A number that another process has by the second look is nobody's."""
        answers = iter([Status(1, 500), Status(1, 600)])
        self.patch(processes, "status", lambda pid, proc: next(answers))
        self.assertIsNone(identify(Peer(pid=ME)))

    def test_number_gone(self) -> None:
        """A process that ends while it is looked at is nobody."""
        self.process(2**22 + 1, 0)
        self.assertIsNone(identify(Peer(pid=2**22 + 1), self.proc))
        answers: Iterator[Status | None] = iter([Status(1, 500), None])
        self.patch(processes, "status", lambda pid, proc: next(answers))
        self.assertIsNone(identify(Peer(pid=ME)))

    def test_ended(self) -> None:
        """One that has ended is nobody, even if its parent did not take notice yet."""
        child = subprocess.Popen(["true"])
        descriptor = os.pidfd_open(child.pid)
        self.addCleanup(os.close, descriptor)
        select.select([descriptor], [], [], 10)
        self.assertIsNotNone(status(child.pid))
        self.assertIsNone(identify(Peer(pid=child.pid)))
        child.wait()


class RealProcessTests(SynchronousTestCase):
    """Processes that connect to a socket of ours."""

    def setUp(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        self.path = f"\0docker-tracker-test-{ME}"
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.settimeout(30)

    @contextmanager
    def client(self, *wrapper: str, **environment: str) -> Iterator[Peer]:
        """Have a process connect, and leave in the end."""
        code = CONNECT.replace("sys.argv[1]", repr(self.path))
        child = subprocess.Popen(
            [*wrapper, sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], **environment},
        )
        try:
            connection, address = self.listener.accept()
            with connection:
                connection.recv(1)
                yield peer_of(connection, address)
        finally:
            child.communicate()

    def chosen(self, peer: Peer, *names: str, rule: Mapping[str, Any]) -> str | None:
        jobs = [FakeJob(name=name, owner=os.geteuid()) for name in names]
        job = Attribution([rule]).choose(peer, jobs)
        return None if job is None else job.name

    def test_environment(self) -> None:
        """Two clients of one socket belong to the jobs that their environments name."""
        rule = {"job": "ci-{value}", "environment": "CI_JOB_ID"}
        with self.client(CI_JOB_ID="5") as first, self.client(CI_JOB_ID="6") as second, self.client() as third:
            self.assertEqual(self.chosen(first, "ci-5", "ci-6", rule=rule), "ci-5")
            self.assertEqual(self.chosen(second, "ci-5", "ci-6", rule=rule), "ci-6")
            self.assertIsNone(self.chosen(third, "ci-5", "ci-6", rule=rule))
        self.assertIsNone(self.chosen(first, "ci-5", rule=rule))  # it has left

    def test_parent(self) -> None:
        """A client whose environment was cleared belongs to the job that its parent's names."""
        rule = {"job": "ci-{value}", "environment": "CI_JOB_ID"}
        clear = ("sh", "-c", 'env -i PATH="$PATH" "$@"; exit 0', "sh")
        with self.client(*clear, CI_JOB_ID="5") as peer:
            self.assertEqual(self.chosen(peer, "ci-5", rule=rule), "ci-5")

    def test_identity(self) -> None:
        """The kernel's word is of the process that connected."""
        with self.client() as peer:
            found = identify(peer)
            assert found is not None
            assert peer.pid is not None
            kernel = status(peer.pid)
            assert kernel is not None
            self.assertEqual(found, Process(pid=peer.pid, started=kernel.started, boot=processes.boot()))
