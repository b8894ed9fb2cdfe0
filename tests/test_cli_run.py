"""``docker-tracker run`` with a control socket that serves jobs in memory, and real commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker import private_state
from docker_tracker.cli import private, run, run_lease
from docker_tracker.cli.app import tracker
from docker_tracker.cli.client import ApiError, Client, ClientError, ConnectionBroken, NoDaemon
from docker_tracker.cli.run_lease import Lease
from docker_tracker.cli.run_report import kept_text, leaks, text
from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.job import Keep, ReapItem
from docker_tracker.records import Resource
from tests.support.fake_jobs import FakeJobs, Served, served
from tests.support.short import short_directory

ID = "ab" * 32
CONTAINER = ReapItem(kind="container", identifier=ID, name="web")


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.out = self.directory / "out"
        self.environ = {
            "HOME": str(self.directory),
            "DOCKER_TRACKER_STATE_DIR": str(self.directory / "state"),
            "DOCKER_TRACKER_RUN_DIR": str(self.directory / "run"),
        }
        self.patch(run, "_RETRY_SECONDS", 0.01)
        self.patch(run_lease, "_RETRY_SECONDS", 0.01)

    @contextmanager
    def serve(self) -> Iterator[Served]:
        with served() as it:
            self.environ["DOCKER_TRACKER_CONTROL"] = f"unix://{it.path}"
            yield it

    def call(self, *arguments: str, **environ: str | None) -> Result:
        env = {"DOCKER_TRACKER_CONTROL": None, "DOCKER_CONTEXT": None, **self.environ, **environ}
        return CliRunner().invoke(tracker, ["run", *arguments], env=env)

    def shell(self, script: str, *options: str, **environ: str | None) -> Result:
        """Run a script whose output goes to a file."""
        return self.call(*options, "--", "sh", "-c", f"exec >{self.out}; {script}", **environ)


class RunTests(Case):
    def test_job(self) -> None:
        """A job is made that ends with us, held while the command runs, and ended with what became of it."""
        with self.serve() as it:
            result = self.shell("echo hello; exit 3", "--job=mine", "--label=a=b", "--keep-rule=volume:c*")
            self.assertEqual((result.exit_code, result.output), (3, ""))
            self.assertEqual(self.out.read_text(), "hello\n")
            start, lease, end = it.jobs.asked
        request = start[1]
        self.assertEqual((request.name, request.labels, request.keep), ("mine", {"a": "b"}, (Keep("volume", "c*"),)))
        self.assertEqual((request.ends.process.pid, request.ends.lease), (os.getpid(), 30.0))
        self.assertGreater(request.ends.process.started, 0)
        self.assertEqual(lease[0], "lease")
        self.assertEqual(end[2:], ("'sh' ended with status 3", True))

    def test_closed_streams(self) -> None:
        """Closed standard streams stay closed for the command, and the job's end is waited for all the same."""
        report = self.directory / "report"
        line = f"{shlex.quote(sys.executable)} -m docker_tracker.cli.main run --report={report} -- sh -c"
        script = f"ls /proc/$$/fd > {self.out}; exit 3"
        with self.serve() as it:
            it.jobs.left = (CONTAINER,)
            environ = {**os.environ, **self.environ}
            for streams in ("2>&-", "<&- >&- 2>&-"):
                done = subprocess.run(["sh", "-c", f"{line} {shlex.quote(script)} {streams}"], env=environ, timeout=60)
                self.assertEqual(done.returncode, 3)
                table = json.loads(report.read_text())
                self.assertEqual((table["status"], table["leaked"], table["job"]["state"]), (3, 1, "gone"))
                self.assertEqual("0" in self.out.read_text().split(), streams == "2>&-")
                self.assertNotIn("2", self.out.read_text().split())

    def test_no_environment(self) -> None:
        """If the tracker is gone before the command begins, it is told of a job that would stay."""
        for options, told in (((), False), (("--keep",), True)):
            with self.serve(), mock.patch.object(run, "_variables", side_effect=ConnectionBroken("gone")):
                result = self.shell("echo begun", "--job=mine", *options)
            self.assertEqual((result.exit_code, self.out.exists()), (125, False))
            self.assertIn("docker-tracker: gone\n", result.output)
            self.assertEqual("docker-tracker job end mine" in result.output, told, options)

    def test_name(self) -> None:
        """Without a name the job has a random one."""
        with self.serve() as it:
            self.shell("exit 0", "--keep-on-failure=15m", "--own-cgroup")
            request = it.jobs.asked[0][1]
        self.assertRegex(request.name, "^run-[0-9a-f]{8}$")
        self.assertEqual((request.keep_on_failure, request.cgroup_parent, request.own_cgroup), (900.0, None, True))

    def test_environment(self) -> None:
        """The command finds the job's socket and its tracker, and nothing that leads elsewhere."""
        with self.serve() as it:
            self.shell("env", "--job=mine", DOCKER_CONTEXT="other", DOCKER_CERT_PATH="/certificates", MINE="1")
            found = dict(line.partition("=")[::2] for line in self.out.read_text().splitlines())
            self.assertEqual(found["DOCKER_TRACKER_CONTROL"], f"unix://{it.path}")
            self.assertEqual(found["DOCKER_TRACKER_RUN_CONTROL"], f"unix://{it.path}")
        self.assertEqual((found["DOCKER_HOST"], found["MINE"]), ("unix:///run/jobs/mine.sock", "1"))
        self.assertIn("TESTCONTAINERS_RYUK_DISABLED", found)
        self.assertTrue({"DOCKER_CONTEXT", "DOCKER_CERT_PATH"}.isdisjoint(found))

    def test_leftovers(self) -> None:
        """What was left over is told, written down, and an error if that is asked for."""
        report = self.directory / "report"
        with self.serve() as it:
            it.jobs.left = (CONTAINER,)
            result = self.shell("exit 0", "--job=mine", f"--report={report}")
            self.assertEqual(result.exit_code, 0)
            self.assertEqual(
                result.output,
                f"docker-tracker: job mine left over 1 thing: 1 removed in 1.5 s\n  container {ID[:12]} web\n",
            )
            self.assertEqual(self.shell("exit 0", "--fail-on-leak").exit_code, 1)
            self.assertEqual(self.shell("exit 9", "--fail-on-leak").exit_code, 9)
        table = json.loads(report.read_text())
        self.assertEqual((table["status"], table["leaked"], table["job"]["name"]), (0, 1, "mine"))

    def test_cannot_run(self) -> None:
        """A command that is not there ends the job, kept or not."""
        with self.serve() as it:
            for options, path, shown in (
                ((), "/nowhere", "/nowhere"),
                (("--keep",), "/nowhere", "/nowhere"),
                ((), "", "''"),
            ):
                result = self.call(*options, "--", path)
                self.assertEqual(result.exit_code, 127)
                self.assertIn(f"cannot run {shown}: No such file", result.output)
                self.assertEqual(it.jobs.asked[-1][0], "end")

    def test_keep(self) -> None:
        """A job that is kept has no end of itself; it is told what there is and how to end it."""
        with self.serve() as it:
            for kind, identifier in (("container", ID), ("exec", "cd" * 32)):
                made = Resource(kind=kind, identifier=identifier, name="web", job_id=f"{1:032x}")
                it.ledger.recorded.append(made)
            result = self.shell("exit 0", "--job=mine", "--keep", "--fail-on-leak")
            self.assertEqual([asked[0] for asked in it.jobs.asked], ["start"])
            self.assertIsNone(it.jobs.asked[0][1].ends.lease)
            control = f"docker-tracker --control unix://{it.path}"
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"job mine is kept, with 1 thing\n  container {ID[:12]} web\n", result.output)
        self.assertIn(f"to remove it: {control} job end mine\n", result.output)

    def test_refused(self) -> None:
        """If the job cannot be made the command is not run, and the status is 125."""
        with self.serve() as it:
            it.jobs.error = RefusedError("there is a job mine already", 409)
            result = self.shell("echo run", "--job=mine")
            self.assertEqual((result.exit_code, result.output), (125, "docker-tracker: there is a job mine already\n"))
        self.assertFalse(self.out.exists())

    def test_usage(self) -> None:
        """Bad use has status 2; a report that cannot be written is found out at once."""
        for arguments in ((), ("--label=x", "true"), ("--keep-on-failure=soon", "true"), ("--unknown", "true")):
            self.assertEqual(self.call(*arguments).exit_code, 2)
        result = self.call("--report=/nowhere/report", "true")
        self.assertEqual(result.exit_code, 125)
        self.assertIn("the report cannot be written to /nowhere/report: No such file", result.output)

        for arguments, said in (
            (("--job=", "true"), "Invalid value for '--job': it is empty"),
            (("--label=x", "true"), "'x' is not NAME=VALUE"),
            (("--report=-", "true"), "standard output is COMMAND's: name a file"),
        ):
            result = self.call(*arguments)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(said, result.output)

    def test_full_errors(self) -> None:
        """The command has our standard error, and its status is ours, also if nothing can be written there."""
        with self.serve() as it, open("/dev/full", "w") as full:
            it.jobs.left = (CONTAINER,)
            line = [sys.executable, "-m", "docker_tracker.cli.main", "run", "--", "sh", "-c", "readlink /proc/$$/fd/2"]
            environ = {**os.environ, **self.environ}
            done = subprocess.run(
                line, env=environ, stdout=subprocess.PIPE, stderr=full, text=True, timeout=60, check=False
            )
            self.assertEqual((done.stdout, done.returncode), ("/dev/full\n", 0))

    def test_full_disk(self) -> None:
        """A report that cannot be written at the end is told."""
        with self.serve():
            result = self.call("--report=/dev/full", "true")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("the report cannot be written to /dev/full: No space left", result.output)

    def test_not_held(self) -> None:
        """A job that cannot be held is ended without its command."""
        with self.serve() as it:
            with mock.patch.object(FakeJobs, "lease", side_effect=RefusedError("it has ended", 409)):
                result = self.shell("echo run")
            self.assertEqual((result.exit_code, it.jobs.asked[-1][0]), (125, "end"))
        self.assertFalse(self.out.exists())

    def test_interrupted(self) -> None:
        """Who does not wait for the end is told that it comes all the same."""
        with self.serve(), mock.patch.object(run, "_end", side_effect=KeyboardInterrupt):
            result = self.shell("exit 0", "--job=mine")
            self.assertEqual(result.exit_code, 130)
            self.assertIn("what job mine left is removed in the background", result.output)
            self.assertEqual(self.shell("exit 4").exit_code, 4)

    def test_report_of_unknown_end(self) -> None:
        """If nobody waits for the end, or it is not seen, the report has what is known; its file is never empty."""
        path = Path(self.mktemp())
        for error in (KeyboardInterrupt(), NoDaemon("nobody is there")):
            with self.serve(), mock.patch.object(run, "_end", side_effect=error):
                self.shell("exit 4", "--job=mine", f"--report={path}")
            told = json.loads(path.read_text())
            self.assertEqual((told["status"], told["leaked"], told["job"]["name"]), (4, None, "mine"))

    def test_interrupted_before(self) -> None:
        """Whoever does not wait until the command is run has the status of that."""
        with self.serve() as it, mock.patch.object(run, "_supervise", side_effect=KeyboardInterrupt):
            self.assertEqual((self.shell("echo run").exit_code, it.jobs.asked[-1][0]), (130, "start"))
        self.assertFalse(self.out.exists())

    def test_daemon_restarts(self) -> None:
        """The end is asked for until the daemon is back."""
        call, broken = Client.call, [ConnectionBroken("it broke off"), NoDaemon("nobody is there")]

        def sometimes(client: Client, method: str, path: str, *rest: Any, **more: Any) -> Any:
            if path.endswith("end?wait=1") and broken:
                raise broken.pop()
            return call(client, method, path, *rest, **more)

        with self.serve() as it, mock.patch.object(Client, "call", sometimes):
            self.assertEqual(self.shell("exit 0").exit_code, 0)
            self.assertEqual(it.jobs.asked[-1][0], "end")
        self.assertEqual(broken, [])

    def test_daemon_gone(self) -> None:
        """If it does not come back the status is the command's, unless it was to tell of leaks."""
        self.patch(run, "_LEASE_SECONDS", 0.0)
        call = Client.call

        def never(client: Client, method: str, path: str, *rest: Any, **more: Any) -> Any:
            if path.endswith("end?wait=1"):
                raise NoDaemon("nobody is there")
            return call(client, method, path, *rest, **more)

        with self.serve(), mock.patch.object(Client, "call", never):
            for options, status in (((), 0), (("--fail-on-leak",), 125)):
                result = self.shell("exit 0", *options)
                self.assertEqual(result.exit_code, status)
                self.assertIn("nobody is there", result.output)

    def test_signals_afterwards(self) -> None:
        """When all is over the signals of this process are as they were."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGCHLD)
        with self.serve():
            self.call("true")
        self.assertEqual((signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGCHLD)), before)


class TrackerTests(Case):
    """Which tracker it is."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.engine.close)
        self.engine.bind(str(self.directory / "engine"))
        self.engine.listen()
        self.environ["DOCKER_HOST"] = f"unix://{self.directory}/engine"

    def started(self, path: Path) -> Any:
        return mock.patch.object(private_state, "start", return_value=path)

    def test_private(self) -> None:
        """Where there is no daemon, or if that is asked for, a private tracker is started, after a sweep."""
        (self.directory / "state/private").mkdir(parents=True)
        with (
            self.serve() as it,
            self.started(it.path) as start,
            mock.patch.object(private_state, "sweep", return_value=["one is left"]) as sweep,
        ):
            for options, control in (((), None), (("--private",), self.environ["DOCKER_TRACKER_CONTROL"])):
                result = self.call(*options, "true", DOCKER_TRACKER_CONTROL=control)
                self.assertEqual((result.exit_code, result.output), (0, "docker-tracker: one is left\n"))
        self.assertEqual((start.call_count, sweep.call_count), (2, 2))
        places = start.call_args.args[0]
        self.assertEqual(places.state, self.directory / "state")
        self.assertEqual(places.instance, (self.directory / "state/instance").read_text().strip())

    def test_reconcile(self) -> None:
        """``reconcile`` sweeps, too, with a daemon and without; not if nothing is to be done."""
        (self.directory / "state/private").mkdir(parents=True)
        nobody = f"unix://{self.directory}/control.sock"
        with self.serve() as it, mock.patch.object(private_state, "sweep", return_value=["one is left"]) as sweep:
            for control, options, status in (
                (f"unix://{it.path}", ["--dry-run"], 0),
                (f"unix://{it.path}", [], 0),
                (nobody, [], 1),
            ):
                env = {**self.environ, "DOCKER_TRACKER_CONTROL": control}
                result = CliRunner().invoke(tracker, ["reconcile", *options], env=env)
                self.assertEqual((result.exit_code, "one is left" in result.output), (status, not options))
        self.assertEqual(sweep.call_count, 2)

    def test_daemon(self) -> None:
        """With a daemon none is started, but what others left is swept; settings that it does not need may be wrong."""
        (self.directory / "state/private").mkdir(parents=True)
        with (
            self.serve() as it,
            self.started(it.path) as start,
            mock.patch.object(private_state, "sweep", return_value=[]) as sweep,
        ):
            self.assertEqual(self.call("true").exit_code, 0)
            self.assertEqual((start.call_count, sweep.call_count), (0, 1))
            self.assertEqual(self.call("true", DOCKER_CONTEXT="other").exit_code, 0)

    def test_none(self) -> None:
        """A socket that was named and is not there, or refuses, is an error."""
        path = self.directory / "control.sock"
        with self.started(path) as start:
            result = self.call("true", DOCKER_TRACKER_CONTROL=f"unix://{path}")
            self.assertEqual(result.exit_code, 125)
            self.assertIn("there is no control socket", result.output)
            sock = socket.socket(socket.AF_UNIX)
            (self.directory / "run").mkdir()
            sock.bind(str(self.directory / "run/control.sock"))
            sock.close()
            result = self.call("true")
            self.assertEqual(result.exit_code, 125)
            self.assertIn("nobody listens", result.output)
        start.assert_not_called()

    def test_bad_settings(self) -> None:
        """A private tracker needs settings that can be used."""
        result = self.call("--private", "true", DOCKER_HOST="ssh://nowhere")
        self.assertEqual(result.exit_code, 125)
        self.assertRaises(ConfigurationError, private.places, {**self.environ, "DOCKER_HOST": "ssh://nowhere"})

    def refused(self, said: str, **environ: str) -> None:
        """The command is not run, no tracker is started, and one whole sentence says why."""
        with self.started(self.directory / "control.sock") as start:
            result = self.call("--private", "true", **environ)
        self.assertEqual((result.exit_code, result.output.count("\n")), (125, 1), result.output)
        self.assertIn(said, result.output)
        start.assert_not_called()

    def test_bad_directories(self) -> None:
        """Directories that its tracker would refuse are refused before there is one, with nothing made in them."""
        here = Path.cwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.directory)
        for name in ("DOCKER_TRACKER_STATE_DIR", "DOCKER_TRACKER_RUN_DIR"):
            self.refused(f"{name}: 'relative' is not an absolute path of a directory\n", **{name: "relative"})
        self.refused("is too long: the path ", DOCKER_TRACKER_RUN_DIR=f"/{'x' * 80}")
        shared = self.directory / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        self.refused(f"run: chmod go-w {shared}\n", DOCKER_TRACKER_STATE_DIR=str(shared / "state"))
        self.assertEqual(([*shared.iterdir()], (self.directory / "relative").exists()), ([], False))

    def test_hidden_directory(self) -> None:
        """A state directory that is another user's is told in a sentence."""
        is_dir = Path.is_dir

        def hidden(path: Path) -> bool:
            if path.name == "private":
                raise PermissionError(13, "Permission denied", str(path))
            return is_dir(path)

        with mock.patch.object(Path, "is_dir", hidden):
            self.refused(f"{self.directory}/state/private: cannot be used: Permission denied\n")

    def test_no_engine(self) -> None:
        """Without an engine that can be reached no private tracker is started: it could never do its work."""
        nobody = socket.create_server(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        nobody.close()
        addresses = (f"unix://{self.directory}/nothing", f"tcp://127.0.0.1:{port}")
        with self.started(self.directory / "control.sock") as start:
            for address, said in zip(addresses, ("No such file or directory", "Connection refused"), strict=True):
                result = self.call("--private", "true", DOCKER_HOST=address)
                self.assertEqual(result.exit_code, 125)
                self.assertIn(f"the engine at {address} cannot be reached: {said}\n", result.output)
            with mock.patch.object(socket.socket, "connect", side_effect=PermissionError(13, "Permission denied")):
                result = self.call("--private", "true")
            self.assertEqual(result.exit_code, 125)
            self.assertIn("you may not use the engine at unix://", result.output)
        start.assert_not_called()

    def test_other_name_space(self) -> None:
        """A daemon that does not see us by our number is not told it."""
        proc = self.directory / "proc"
        pid = os.getpid()
        (proc / str(pid)).mkdir(parents=True)
        with self.serve() as it:
            for seen, numbers, expected in (
                (pid, f"{pid}", True),
                (pid, f"{pid} 1", False),
                (pid + 1, f"{pid}", False),
            ):
                (proc / "self").unlink(missing_ok=True)
                (proc / "self").symlink_to(str(seen))
                (proc / str(pid) / "status").write_text(f"Name:\tx\nNSpid:\t{numbers}\n")
                with mock.patch.object(run, "_PROC", proc):
                    self.assertEqual(run._sees_us(str(it.path)), expected)
            with mock.patch.object(run, "_sees_us", return_value=False):
                self.call("true")
            self.assertIsNone(it.jobs.asked[0][1].ends.process)
        self.assertFalse(run._sees_us("/nowhere"))


@attrs.define
class FakeHeld:
    """A hold whose other end can be closed."""

    ends: tuple[socket.socket, socket.socket] = attrs.field(factory=socket.socketpair)
    closed: bool = False
    alive_again: threading.Event = attrs.field(factory=threading.Event)  # it was looked at, and went on

    def fileno(self) -> int:
        return self.ends[0].fileno()

    def alive(self) -> bool:
        if not self.ends[0].recv(100):
            return False
        self.alive_again.set()
        return True

    def close(self) -> None:
        self.closed = True
        for end in self.ends:
            end.close()


class LeaseTests(Case):
    def test_again(self) -> None:
        """A lease that is lost is taken again, as soon as the daemon is back; signs of life are passed by."""
        first, second = FakeHeld(), FakeHeld()
        client = mock.Mock()
        back = threading.Event()

        def hold(path: str) -> FakeHeld:
            if not answers:
                back.set()
                return second
            answer = answers.pop()
            if isinstance(answer, Exception):
                raise answer
            return answer

        answers: list[FakeHeld | Exception] = [NoDaemon("no"), ConnectionBroken("no"), first]
        client.hold.side_effect = hold
        with Lease(client, "1", self.fail):
            first.ends[1].sendall(b"\n")
            self.assertTrue(first.alive_again.wait(20))
            self.assertFalse(first.closed)
            first.ends[1].shutdown(socket.SHUT_WR)
            self.assertTrue(back.wait(20))
            self.assertTrue(first.closed)
        self.assertTrue(second.closed)

    def test_over(self) -> None:
        """If the job has ended, that is told once."""
        first = FakeHeld()
        client = mock.Mock()
        client.hold.side_effect = [first, ApiError(409, "it has ended")]
        told: list[str] = []
        over = threading.Event()

        def lost(why: str) -> None:
            told.append(why)
            over.set()

        with Lease(client, "1", lost):
            first.ends[1].shutdown(socket.SHUT_WR)
            self.assertTrue(over.wait(20))
        self.assertEqual(told, ["it has ended"])

    def test_never(self) -> None:
        """What cannot be held is told to whoever wants to hold it, and no descriptor is left."""
        client = mock.Mock()
        client.hold.side_effect = ClientError("nobody is there")
        before = len(os.listdir("/proc/self/fd"))
        self.assertRaises(ClientError, Lease(client, "1", self.fail).__enter__)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


def job(state: str, *items: ReapItem, problem: str = "") -> dict[str, Any]:
    """Give a job as the control API does."""
    tables = [attrs.asdict(item) for item in items]
    report = {"items": tables, "seconds": 2.0, "problem": problem}
    return {"name": "mine", "state": state, "report": report}


class ReportTests(SynchronousTestCase):
    def test_nothing(self) -> None:
        """Nothing is said of nothing."""
        self.assertEqual(text(job("gone"), "dt"), "")
        self.assertEqual(text({"name": "mine", "state": "gone", "report": None}, "dt"), "")

    def test_outcomes(self) -> None:
        """What could not be removed comes first; what a terminal would obey is not printed."""
        volume = ReapItem(kind="volume", identifier="cache", name="cache", outcome="kept", reason="a rule")
        network = ReapItem(kind="network", identifier=ID, name="a\x1b[1m", outcome="left", reason="in use")
        said = text(job("failed", CONTAINER, volume, network), "dt")
        self.assertEqual(
            said.splitlines(),
            [
                "docker-tracker: job mine left over 3 things: 1 removed in 2.0 s, 1 kept, 1 could not be removed",
                f"  network {ID[:12]} a\\x1b[1m left: in use",
                "  volume cache kept: a rule",
                f"  container {ID[:12]} web",
                "docker-tracker: job mine: something is left; it is tried again; to try now: dt reap mine",
            ],
        )

    def test_problem(self) -> None:
        """What kept the reap from its end is told."""
        self.assertIn("mine: no engine; to try now: dt reap mine", text(job("failed", problem="no engine"), "dt"))

    def test_many(self) -> None:
        """Of many things some are shown, and the rest is counted."""
        lines = text(job("gone", *[CONTAINER] * 25), "dt").splitlines()
        self.assertEqual((len(lines), lines[-1]), (22, "  and 5 more"))
        resources = [{"kind": "volume", "id": "data", "name": "data"}]
        self.assertIn("is kept, with 1 thing\n  volume data\n", kept_text(job("open"), resources, "dt"))

    def test_leaks(self) -> None:
        """Images, execs and what is kept are none."""
        kinds = [attrs.asdict(attrs.evolve(CONTAINER, kind=kind)) for kind in ("image", "exec", "volume")]
        kept = attrs.asdict(attrs.evolve(CONTAINER, outcome="kept"))
        self.assertEqual(leaks([*kinds, kept]), [kinds[2]])
