"""The client command, run as users run it, against a control socket that is served in a thread."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import click
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.cli import jobs as job_commands
from docker_tracker.cli import waiting as waiting_module
from docker_tracker.cli.app import tracker
from docker_tracker.cli.client import ApiError, Client, NoDaemon
from docker_tracker.cli.environment import job_environment, script
from docker_tracker.cli.interrupts import end_at_once
from docker_tracker.cli.place import find_control
from docker_tracker.cli.process import interruptible
from docker_tracker.cli.shared import complete_jobs
from docker_tracker.cli.text import ago, clean, short, table
from docker_tracker.cli.values import Duration, Number, Pair, Word
from docker_tracker.cli.waiting import waiting
from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.job import Ends, JobState, Keep, Process, ReapItem, ReapReport
from docker_tracker.records import Relation, Resource
from tests.support.daemon import ROOT
from tests.support.fake_jobs import Served, meaning, served

WEB = Resource(kind="container", identifier="ab" * 32, name="web", created=time.time() - 200)
CACHE = Resource(kind="volume", identifier="cache", name="cache", created=time.time() - 7200)
REMOVED = ReapItem(kind="container", identifier="ab" * 32, name="web")
LEFT = ReapItem(kind="volume", identifier="cache", name="cache", outcome="left", reason="in use by another job")
#: Interrupts ``docker-tracker ps`` when a module is looked for.
INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
module = sys.argv[1]
sys.argv[1:] = ["ps"]
sys.meta_path.insert(0, Finder())
from docker_tracker.cli.main import main
main()
"""


class CommandCase(SynchronousTestCase):
    """Tests that run the command."""

    def setUp(self) -> None:
        self.it: Served = self.enterContext(served())
        self.jobs = self.it.jobs
        self.environment: dict[str, str | None] = {"NO_COLOR": None, "DOCKER_TRACKER_CONTROL": f"unix://{self.it.path}"}

    def invoke(self, *words: str, **more: Any) -> Result:
        """Run the command in this process."""
        result = CliRunner().invoke(tracker, words, env=self.environment, prog_name="docker-tracker", **more)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def out(self, *words: str, status: int = 0) -> str:
        """Run the command; return what it printed."""
        result = self.invoke(*words)
        self.assertEqual(result.exit_code, status, result.output)
        return result.stdout

    def says(self, said: str, *words: str, status: int = 1) -> Result:
        """Run a command that has to fail with a sentence on standard error."""
        result = self.invoke(*words)
        self.assertEqual(result.exit_code, status, result.output)
        self.assertIn(said, result.stderr)
        return result

    def process(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start the command as a process."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_TRACKER_CONTROL": str(self.it.path)}
        process = subprocess.Popen(
            [sys.executable, "-m", "docker_tracker.cli.main", *words],
            env=environment | more.pop("env", {}),
            cwd="/",
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more,
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        """Leave no process behind."""
        if process.poll() is None:
            process.kill()
        process.communicate()

    def wait_for(self, holds: Any) -> None:
        """Wait until somebody else has come so far."""
        end = time.monotonic() + 30
        while not holds():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)


class JobTests(CommandCase):
    """``docker-tracker job``."""

    def test_start(self) -> None:
        """All options become the request; the socket is printed, or with -q the ID."""
        words = (
            "--label a=b -l c=d=e --cgroup-parent /ci --own-cgroup --ttl 1h30m --idle 90 --lease 1.5m --pid 1"
            " --container agent --keep volume:cache-* --keep-on-failure 2d --mode 0660 --user 7 --group 8"
            " --listen tcp://127.0.0.1:2375"
        )
        self.assertEqual(self.out("job", "start", "build", *words.split()), "/run/jobs/build.sock\n")
        request = self.jobs.asked[0][1]
        self.assertEqual(request.labels, {"a": "b", "c": "d=e"})
        process = Process(pid=1, started=0, boot="")
        self.assertEqual(request.ends, Ends(process=process, container="agent", ttl=5400.0, idle=90.0, lease=90.0))
        self.assertEqual((request.cgroup_parent, request.own_cgroup, request.container), ("/ci", True, "agent"))
        self.assertEqual((request.keep, request.keep_on_failure), ((Keep("volume", "cache-*"),), 172800.0))
        self.assertEqual((request.mode, request.user, request.group), (0o660, "7", "8"))
        self.assertEqual(request.listen, ("tcp://127.0.0.1:2375",))
        self.assertEqual(self.out("job", "start", "other", "-q"), f"{2:032x}\n")
        self.says("there is a job other already", "job", "start", "other")

    def test_start_badly(self) -> None:
        """What is wrong in itself is a usage error; what the daemon refuses is one sentence."""
        for option in ("--ttl", "--idle", "--lease"):
            self.says("'0.5' is too short: it must be at least 1 s", "job", "start", "a", option, "0.5", status=2)
        self.says("'abc' is not a number from 1 up", "job", "start", "a", "--pid", "abc", status=2)
        self.says("'a' is not NAME=VALUE", "job", "start", "a", "--label", "a", status=2)
        for words in (["--ttl", "soon"], ["--label", "a"], ["--label", "=a"], ["--pid", "0"], ["--bogus"], []):
            self.assertEqual(self.invoke("job", "start", *(["a"] if words else []), *words).exit_code, 2, words)
        self.says("is not a job's name", "job", "start", "../x")
        self.says("KIND:PATTERN", "job", "start", "a", "--keep", "cache")
        self.assertEqual(self.jobs.asked, [])

    def test_ls(self) -> None:
        """Jobs are listed as docker lists: upper-case headers, two or more spaces between columns, short IDs."""
        self.jobs.make("a")
        self.jobs.make("b", owner=None, state=JobState.GONE, reason="enough")
        header, line = self.out("job", "ls").splitlines()
        self.assertEqual(re.split("  +", header), ["JOB ID", "NAME", "STATE", "OWNER", "CREATED", "REASON"])
        self.assertEqual(re.split("  +", line)[:4], ["0" * 12, "a", "open", str(os.geteuid())])
        self.assertEqual(re.split("  +", self.out("job", "ls", "-a").splitlines()[2])[1:4], ["b", "gone", "-"])
        self.assertEqual(self.out("job", "ls", "-aq", "--no-trunc"), f"{1:032x}\n{2:032x}\n")
        self.assertIn(f"{1:032x}", self.out("job", "ls", "--no-trunc"))
        shown = [json.loads(line) for line in self.out("job", "ls", "-a", "--format", "json").splitlines()]
        self.assertEqual([job["name"] for job in shown], ["a", "b"])

    def test_filters(self) -> None:
        """Filters narrow; several for one key are alternatives; an unknown one is a usage error."""
        for name, labels in (("a-1", {"team": "x"}), ("a-2", {"team": "y"}), ("b-1", {})):
            self.out("job", "start", name, *(f"--label={key}={value}" for key, value in labels.items()))
        for filters, names in (
            (["name=a-*"], "12"),
            (["name=a-1", "name=b-1"], "13"),
            (["label=team"], "12"),
            (["label=team=x"], "1"),
            (["label=team", "name=*-2"], "2"),
            ([f"id={3:032x}"], "3"),
            (["state=gone"], ""),
            ([f"owner={os.geteuid()}"], "123"),
        ):
            given = [word for each in filters for word in ("--filter", each)]
            found = self.out("job", "ls", "-q", "--no-trunc", *given).split()
            self.assertEqual("".join(each[-1] for each in found), names, filters)
        self.assertEqual(self.out("job", "ls", "-q", "-f", "state=gone"), "")
        self.says("there is no filter 'nmae'", "job", "ls", "-f", "nmae=x", status=2)
        self.says("is not KEY=VALUE", "job", "ls", "-f", "name", status=2)

    def test_show(self) -> None:
        """Jobs are shown as one array; one that is not there makes it a failure, and the others are shown."""
        self.jobs.make("a")
        result = self.says("there is no job 'b'", "job", "show", "b", "a")
        self.assertEqual([job["name"] for job in json.loads(result.stdout)], ["a"])

    def test_env(self) -> None:
        """A shell that evaluates it has the job's socket, and nothing that leads elsewhere."""
        self.jobs.make("a")
        self.environment |= {"DOCKER_CONTEXT": "remote", "SHELL": "/bin/bash"}
        block = self.out("job", "env", "a")
        done = subprocess.run(
            [
                "sh",
                "-c",
                f"{block}\necho $DOCKER_HOST $TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE ${{DOCKER_CONTEXT-unset}}",
            ],
            env={"DOCKER_CONTEXT": "remote"},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        self.assertEqual(done.stdout, "unix:///run/jobs/a.sock /run/jobs/a.sock unset\n")
        for shell in ("fish", "csh", "tcsh"):
            self.environment["SHELL"] = f"/usr/bin/{shell}"
            found = self.out("job", "env", "a")
            self.assertIn("set -e DOCKER_CONTEXT;" if shell == "fish" else "unsetenv DOCKER_CONTEXT;", found)
        self.assertIn("export ", self.out("job", "env", "a", "--shell", "sh"))

    def test_env_of_none(self) -> None:
        """A job that has no socket, or none any more, is an error, and nothing is printed that a shell would take."""
        self.jobs.make("a", state=JobState.GONE, reason="enough")
        result = self.says("the job a has ended (enough): nobody listens at its socket", "job", "env", "a")
        self.assertEqual(result.stdout, "")
        self.jobs.make("default")
        self.jobs.change("default", socket="")
        result = self.says("the job default has no unix socket: set DOCKER_HOST yourself", "job", "env", "default")
        self.assertEqual(result.stdout, "")

    def test_end(self) -> None:
        """Each job that was ended is named; one that fails does not keep the next from it."""
        self.jobs.make("a")
        self.jobs.make("b")
        result = self.says("there is no job 'x'", "job", "end", "a", "x", "b", "--failed", "--reason", "enough")
        self.assertEqual(result.stdout, "a\nb\n")
        self.assertEqual([asked[2:] for asked in self.jobs.asked], [("enough", True)] * 2)

    def test_end_and_wait(self) -> None:
        """Who waits is told what is left, and that is a failure."""
        self.jobs.make("a")
        self.assertEqual(self.out("job", "end", "-w", "a"), "a\n")
        self.jobs.make("b")
        self.jobs.left = (REMOVED, LEFT)
        self.says("left: volume cache (cache): in use by another job\n", "job", "end", "--wait", "b")

    def test_lease(self) -> None:
        """The lease is held for as long as the command runs, and let go however it ends."""
        self.jobs.make("a")
        process = self.process("job", "lease", "a")
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), "/run/jobs/a.sock\n")
        self.assertEqual([lease.released for lease in self.jobs.leases], [0])
        process.send_signal(signal.SIGKILL)
        self.wait_for(lambda: self.jobs.leases[0].released)

    def test_lease_again(self) -> None:
        """A lease that is lost is taken again; once the job has ended, the command has failed."""
        self.patch(job_commands, "_RETRY_SECONDS", 0.0)
        self.jobs.make("a")
        process = self.process("job", "lease", "a")
        self.wait_for(lambda: self.jobs.leases)

        def drop() -> None:
            self.jobs.error = None
            for channel in list(self.it.service._channels):
                channel.abort()

        self.it.call(drop)
        self.wait_for(lambda: len(self.jobs.leases) == 2)
        self.it.call(lambda: setattr(self.jobs, "error", RefusedError("the job a has ended", 409)))
        self.it.call(lambda: [channel.abort() for channel in list(self.it.service._channels)])
        _, said = process.communicate(timeout=30)
        self.assertEqual((process.returncode, said), (1, "docker-tracker: the job a has ended\n"))

    def test_interrupted(self) -> None:
        """Ctrl-C ends what waits or holds, with a status that says so, and without a word."""
        self.jobs.make("a")
        self.jobs.gate = Deferred()
        held, ended = self.process("job", "lease", "a"), self.process("job", "end", "--wait", "a")
        assert held.stdout is not None
        held.stdout.readline()
        self.wait_for(lambda: "end" in [asked[0] for asked in self.jobs.asked])
        for process in (held, ended):
            process.send_signal(signal.SIGINT)
            self.assertEqual((process.communicate(timeout=30), process.returncode), (("", ""), 130))

    def test_lease_without_daemon(self) -> None:
        """A daemon that does not come back is waited for as long as was said."""
        self.patch(job_commands, "_RETRY_SECONDS", 0.01)
        error = self.assertRaises(NoDaemon, job_commands._again, Client("/nonexistent/s"), "a", 0.02)
        self.assertIn("is the daemon running?", str(error))


class ViewTests(CommandCase):
    """``docker-tracker ps``, ``why`` and ``events``."""

    def test_ps(self) -> None:
        """What exists is listed with the names of the jobs; what is gone when asked for."""
        self.it.ledger.recorded.extend([WEB, CACHE])
        header, web, cache = self.out("ps").splitlines()
        self.assertEqual(re.split("  +", header), ["ID", "KIND", "NAME", "JOB", "RELATION", "CREATED"])
        self.assertRegex(web, r"^abababababab   container   web  +made +3 minutes ago$")
        self.assertRegex(cache, r"^cache +volume +made +2 hours ago$")
        self.assertIn("REMOVED", self.out("ps", "-a"))
        self.assertEqual(self.out("ps", "-q", "--filter", "kind=vol*"), "cache\n")
        self.assertEqual(self.out("ps", "-q", "--no-trunc", "--filter", "id=abab"), "ab" * 32 + "\n")
        self.assertEqual(len(self.out("ps", "--format", "json").splitlines()), 2)
        self.it.ledger.recorded.append(attrs.evolve(WEB, kind="image", identifier="sha256:" + "cd" * 32))
        self.assertEqual(self.out("ps", "-q", "--filter", "id=cdcd"), "cdcdcdcdcdcd\n")

    def test_ps_of_job(self) -> None:
        """The resources of one job are asked for by its name, and shown with it."""
        job = self.jobs.make("a")
        self.it.ledger.recorded.append(Resource(kind="volume", identifier="v", job_id=job.id, created=1.0))
        self.assertIn("   a   ", self.out("ps", "--job", "a"))
        self.says("there is no job 'x'", "ps", "--job", "x")

    def test_why(self) -> None:
        """All that is known of a thing is told, and nothing of it reaches the terminal as a command."""
        job = self.jobs.make("a")
        gone = meaning(CACHE, None) | {"intent": None}
        gone["resource"] |= {"removed": time.time(), "created": 0.0}
        self.jobs.meanings = [meaning(WEB, job, command="sh -c \x1b[2J", process_id="12"), gone]
        first, second = self.out("why", "web").split("\n\n")
        self.assertIn(f"Job:        a ({job.id}), open\n", first)
        self.assertIn("Command:    sh -c \\x1b[2J\n", first)
        self.assertIn("Process id: 12", first)
        self.assertIn("Job:        none", second)
        self.assertIn("Removed:    ", second)
        self.assertEqual(len(self.out("why", "web", "--format", "json").splitlines()), 2)
        self.jobs.meanings = []
        self.says("nothing is known of web", "why", "web")
        self.says("Invalid value for 'RESOURCE': it is empty", "why", "", status=2)
        self.says("it is empty", "reap", "a", "", status=2)
        self.says("it is empty", "job", "env", "", status=2)

    def test_events(self) -> None:
        """Events are lines; as JSON they are what the daemon sent."""
        self.jobs.happen("job started", self.jobs.make("a"), owner=0)
        self.jobs.happen("reconciled")
        first, second = self.out("events").splitlines()
        self.assertEqual(first, f"1 2023-11-14T22:13:20.000Z job started a ({'0' * 12}) owner=0")
        self.assertEqual(second, "2 2023-11-14T22:13:20.000Z reconciled -")
        self.assertEqual(self.out("events", "--since", "1"), second + "\n")
        self.assertEqual(
            [json.loads(line) for line in self.out("events", "--format", "json").splitlines()], self.jobs.happened
        )

    def test_follow(self) -> None:
        """Who follows sees what happens, until interrupted."""
        process = self.process("events", "-f", "--format", "json")
        assert process.stdout is not None
        self.wait_for(lambda: self.jobs.listeners)
        self.it.call(lambda: self.jobs.happen("late"))
        self.assertEqual(json.loads(process.stdout.readline())["event"], "late")
        process.send_signal(signal.SIGINT)
        self.assertEqual((process.communicate(timeout=30)[1], process.returncode), ("", 130))


class CleaningTests(CommandCase):
    """``docker-tracker reap``, ``reconcile`` and ``report``."""

    def test_reap(self) -> None:
        """What a reap did is listed; what is left makes it a failure."""
        job = self.jobs.make("a")
        self.assertEqual(self.out("reap", "a"), "")
        self.jobs.left = (REMOVED,)
        self.assertRegex(self.out("reap", "-n", "a"), "container   abababababab   web    removed")
        self.assertEqual(self.jobs.asked, [("reap", job.id, False), ("reap", job.id, True)])
        self.jobs.left = (REMOVED, LEFT)
        result = self.says("1 left, 1 removed (1.5 s)", "reap", "a")
        self.assertIn("in use by another job", result.stdout)
        report = json.loads(self.out("reap", "a", "--format", "json", status=1))
        self.assertEqual(report["items"][1]["outcome"], "left")

    def test_reconcile(self) -> None:
        """The reconciler is run with what was asked for."""
        self.out("reconcile", "--dry-run", "--adopt", "abc")
        self.assertEqual(self.jobs.asked, [("reconcile", True, "abc")])
        self.jobs.left = (LEFT,)
        self.assertIn("in use", self.out("reconcile", status=1))

    def test_report(self) -> None:
        """The last report is shown, with what kept the reap from its end."""
        self.jobs.make("a")
        self.says("has not been reaped yet", "report", "a")
        self.jobs.change("a", report=ReapReport(job_id="1", job="a", problem="the engine is not there"))
        result = self.says("docker-tracker: the engine is not there\n", "report", "a")
        self.assertNotIn("nothing was there", result.stderr)

    def test_progress(self) -> None:
        """On a terminal a line tells how much is left while a reap runs; elsewhere there is none."""
        job = self.jobs.make("a")
        self.it.ledger.recorded.extend(
            Resource(kind="volume", identifier=f"v{index}", job_id=job.id, relation=relation)
            for index, relation in enumerate((Relation.MADE, Relation.MADE, Relation.USED))
        )
        failed = self.jobs.make("b", state=JobState.FAILED)
        self.it.ledger.recorded.append(Resource(kind="volume", identifier="w", job_id=failed.id))
        for words, text in ((["reap", "a"], b"reaping a: 2 left"), (["reconcile"], b"engine and ledger: 1 left")):
            gate: Deferred[None] = Deferred()
            self.jobs.gate = gate
            master, slave = pty.openpty()
            self.addCleanup(os.close, master)
            process = self.process(*words, stderr=slave, env={"TERM": "xterm"})
            os.close(slave)
            shown = b""
            while text not in shown:
                self.assertTrue(select.select([master], [], [], 30)[0], shown)
                shown += os.read(master, 4096)
            self.it.call(lambda gate=gate: gate.callback(None))  # type: ignore[misc]
            self.assertEqual(process.wait(30), 0)
            self.assertNotIn("left", self.invoke(*words).output)

    def test_progress_without_daemon(self) -> None:
        """A look that fails says nothing: the call that is waited for does."""
        asked = threading.Event()

        class Deaf(Client):
            def call(self, *words: Any, **more: Any) -> Any:
                asked.set()
                raise NoDaemon("nobody is there")

        with waiting(Deaf("/nonexistent/s"), "a", "title", terminal=True):
            self.assertTrue(asked.wait(30))

    def test_still_waiting(self) -> None:
        """Without a terminal a line tells what is waited for, and another one when that is something else."""
        away, silent = "the engine does not answer", "the engine is silent"
        looks = [
            ("reaping", ""),  # as long as it normally takes, that is nothing to tell of
            ("draining", ""),
            ("reaping", away),
            ("reaping", away),
            (None, ""),  # the daemon does not answer
            ("reaping", away),
            ("reaping", silent),
            ("reaping", ""),
        ]
        over, said = threading.Event(), list[str]()

        class Scripted(Client):
            state, problem = "", ""

            def call(self, method: str, path: str, *words: Any, **more: Any) -> Any:
                if path == "/jobs":
                    if not looks:
                        over.set()
                    state, self.problem = looks.pop(0) if looks else (None, "")
                    if state is None:
                        raise NoDaemon("nobody is there")
                    return [{"id": "a", "state": state}]
                if path == "/ready" and self.problem:
                    raise ApiError(503, self.problem)
                return [] if path == "/ready" else [{"relation": "made", "kind": "volume", "job_id": "a"}]

        self.patch(waiting_module, "_PATIENCE", 0.0)
        self.patch(waiting_module, "complain", said.append)
        with waiting(Scripted("/nonexistent/s"), "a", "ending a", terminal=False):
            self.assertTrue(over.wait(30))
        told = ("; its clients have yet to go", f"; {away}", f"; {silent}", "")
        self.assertEqual(said, [f"still ending a: 1 left{each}" for each in told])


class ErrorTests(CommandCase):
    """What goes wrong, how it looks, and how the command ends."""

    def test_not_control(self) -> None:
        """An engine's socket, or one that leads there, is not taken for a control socket."""
        known = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n{}"
        missing = b'HTTP/1.1 404 Not Found\r\nContent-Length: 29\r\n\r\n{"message":"page not found"}\n'
        path = self.it.path.with_name("docker.sock")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()

            def serve(answer: bytes) -> None:
                connection, _ = sock.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

            for words, answer in ((["job", "ls"], missing), (["events"], known), (["job", "env", "a"], missing)):
                thread = threading.Thread(target=serve, args=(answer,))
                thread.start()
                self.says(f"{path} is not a control socket", "--control", str(path), *words)
                thread.join()

    def test_long_path(self) -> None:
        """Where no socket can be, because of the length of its path, there is none."""
        self.environment |= {"DOCKER_TRACKER_CONTROL": None, "DOCKER_TRACKER_RUN_DIR": f"/{'x' * 100}"}
        self.says("the path has 114 bytes, and a socket's at most 107", "ps")

    def test_full(self) -> None:
        """Output that cannot be written is one sentence; if nobody reads it, none."""
        self.jobs.happen("reconciled")
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        for words in (["events"], ["completion", "bash"], ["--help"], ["--version"]):
            with open("/dev/full", "w") as full:
                process = self.process(*words, stdout=full)
            said = "docker-tracker: the output cannot be written: No space left on device\n"
            self.assertEqual((process.communicate(timeout=30)[1], process.returncode), (said, 1), words)
            process = self.process(*words, stdout=writer)
            self.assertEqual((process.communicate(timeout=30)[1], process.returncode), ("", 1), words)

    def test_full_errors(self) -> None:
        """Errors that cannot be written change no exit status."""
        with open("/dev/full", "w") as full:
            for words, control in ((["ps"], "/nonexistent/s"), (["events"], str(self.it.path))):
                self.jobs.happen("reconciled")
                process = self.process(*words, stdout=full, stderr=full, env={"DOCKER_TRACKER_CONTROL": control})
                self.assertEqual(process.wait(30), 1)

    def test_interrupted_at_once(self) -> None:
        """Ctrl-C while modules are imported ends the command without a traceback."""
        for module in ("click", "docker_tracker.cli.views"):
            line = [sys.executable, "-c", INTERRUPTED, module]
            done = subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (130, "", ""), module)

    def test_interrupts(self) -> None:
        """Ctrl-C is an exception only while there is something to clean up, and nothing at all if it is ignored."""
        before = signal.getsignal(signal.SIGINT)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_at_once()
        with interruptible():
            self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        end_at_once()
        with interruptible():
            self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)
        ended: list[int] = []
        self.patch(os, "_exit", ended.append)
        signal.raise_signal(signal.SIGINT)
        self.assertEqual(ended, [130])

    def test_no_daemon(self) -> None:
        """Without a daemon each command says so, with status 1."""
        self.environment["DOCKER_TRACKER_CONTROL"] = "unix:///nonexistent/control.sock"
        for words in ("job ls", "job start a", "job end a", "ps", "reap a", "reconcile", "why a", "events", "report a"):
            self.says("there is no control socket at /nonexistent/control.sock", *words.split())

    def test_control(self) -> None:
        """The option is stronger than the variable; what is no unix socket is a usage error."""
        self.environment["DOCKER_TRACKER_CONTROL"] = "unix:///nonexistent/control.sock"
        self.out("--control", str(self.it.path), "job", "ls")
        self.out("--control", f"unix:{self.it.path}:mode=660", "job", "ls")
        self.says("must be a unix socket", "--control", "tcp://h:1", "ps", status=2)
        self.says("must be a unix socket: unix:///path", "--control", "x", "ps", status=2)
        self.says("'none' is for the daemon", "--control", "none", "ps", status=2)
        self.says("names no absolute path", "--control", "unix:x", "ps", status=2)

    def test_usage(self) -> None:
        """What is no command, or has no job, is a usage error; help is none."""
        for words in (
            ["bogus"],
            ["job", "bogus"],
            ["reap"],
            ["job", "end"],
            ["ps", "--format", "xml"],
            ["events", "--since", "-1"],
        ):
            self.assertEqual(self.invoke(*words).exit_code, 2, words)
        help_ = self.out("--help")
        for name in ("run", "job", "ps", "reap", "reconcile", "why", "events", "report", "completion"):
            self.assertRegex(help_, rf"(?m)^  {name} ")
        self.assertRegex(self.out("--version"), r"^docker-tracker (\d|\(a checkout)")

    def test_colour(self) -> None:
        """Colour is for terminals, and not with NO_COLOR."""
        self.jobs.make("a")
        self.assertNotIn("\x1b", self.out("job", "ls"))
        self.assertIn("\x1b[1m", self.invoke("job", "ls", color=True).output)
        self.environment["NO_COLOR"] = "1"
        self.assertNotIn("\x1b", self.invoke("job", "ls", color=True).output)

    def test_names_from_outside(self) -> None:
        """What others have named cannot command the terminal."""
        self.it.ledger.recorded.append(Resource(kind="volume", identifier="v\x1b]0;x\x07\n"))
        self.assertIn("v\\x1b]0;x\\x07\\n", self.out("ps"))
        self.assertNotIn("\x1b", self.out("ps", "-q"))

    def test_process(self) -> None:
        """As a process it is the same command, also with a pipe that nobody reads."""
        self.jobs.make("a")
        process = self.process("job", "ls", "-q")
        self.assertEqual((process.communicate(timeout=30), process.returncode), (("0" * 12 + "\n", ""), 0))
        process = self.process("nope")
        self.assertIn("No such command 'nope'", process.communicate(timeout=30)[1])
        self.assertEqual(process.returncode, 2)

    def test_missing_extra(self) -> None:
        """Without the libraries of the extra the command says what to install."""
        code = "import sys; sys.modules['click'] = None; from docker_tracker.cli.main import main; main()"
        for words, status in (
            ([], 1),
            (["ps", "run"], 1),
            (["run", "--", "true"], 125),
            (["--control", "x", "run"], 125),
            (["--control=x", "run"], 125),
        ):
            line = [sys.executable, "-c", code, *words]
            done = subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
            self.assertEqual(done.returncode, status, words)
            self.assertIn("install this package's extra, cli", done.stderr)

    def test_completion(self) -> None:
        """Each shell gets a script; words and names of jobs are completed; without a daemon nothing is."""
        for shell in ("bash", "zsh", "fish"):
            self.assertIn("_DOCKER_TRACKER_COMPLETE", self.out("completion", shell))
        self.assertEqual(self.invoke("completion", "tcsh").exit_code, 2)
        self.jobs.make("build-1")
        self.jobs.make("other")
        process = self.process(
            env={
                "_DOCKER_TRACKER_COMPLETE": "bash_complete",
                "COMP_WORDS": "docker-tracker reap bu",
                "COMP_CWORD": "2",
            }
        )
        self.assertEqual(process.communicate(timeout=30)[0], "plain,build-1\n")
        context = click.Context(tracker)
        context.params["control"] = "unix:///nonexistent/s"
        self.assertEqual(complete_jobs(context, click.Argument(["job"]), ""), [])


class PlaceTests(SynchronousTestCase):
    """Where the control socket is looked for."""

    def setUp(self) -> None:
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("etc", "run", "user", "config/docker-tracker", "home"):
            (self.root / name).mkdir(parents=True)
        self.environ = {
            "HOME": str(self.root / "home"),
            "XDG_RUNTIME_DIR": str(self.root / "user"),
            "XDG_CONFIG_HOME": str(self.root / "config"),
        }
        self.own = self.root / "user/docker-tracker/control.sock"
        self.systems = self.root / "run/control.sock"

    def find(self, given: str = "", euid: int = 1000) -> str:
        """Look for it."""
        return find_control(given, self.environ, euid, (self.root / "etc", self.root / "run"))

    def configure(self, text: str, place: str = "etc") -> Path:
        """Write a configuration file."""
        file = self.root / place / "docker-tracker.toml"
        file.write_text(text)
        return file

    def test_defaults(self) -> None:
        """Root has the system's; others their own, or the system's if only that is there."""
        self.assertEqual(self.find(euid=0), str(self.systems))
        self.assertEqual(self.find(), str(self.own))
        self.systems.touch()
        self.assertEqual(self.find(), str(self.systems))
        self.own.parent.mkdir()
        self.own.touch()
        self.assertEqual(self.find(), str(self.own))

    def test_without_session(self) -> None:
        """Without a runtime directory it is where the daemon puts it then."""
        self.environ["XDG_RUNTIME_DIR"] = "relative"
        self.assertEqual(
            self.find(euid=4_000_000), str(self.root / "home/.local/state/docker-tracker/run/control.sock")
        )

    def test_files(self) -> None:
        """A file says where; text, a table, a run directory; none."""
        for text, path in (
            ('control = "unix:///a/b"', "/a/b"),
            ('control = "/a/c"', "/a/c"),
            ('control = { address = "unix:///a/d", mode = "0660" }', "/a/d"),
            ('run-dir = "/a/e"', "/a/e/control.sock"),
            ("", str(self.systems)),
        ):
            self.configure(text)
            self.assertEqual(self.find(euid=0), path)
        self.configure('control = "none"')
        self.assertRaises(NoDaemon, self.find, euid=0)
        self.assertEqual(self.find(), str(self.own))
        self.configure('control = "/mine"', "config/docker-tracker")
        self.assertEqual(self.find(), "/mine")

    def test_variables(self) -> None:
        """The daemon's own variables hold here, too."""
        file = self.configure('run-dir = "/a"', "home")
        self.environ["DOCKER_TRACKER_CONFIG"] = str(file)
        self.assertEqual(self.find(), "/a/control.sock")
        self.environ["DOCKER_TRACKER_RUN_DIR"] = "/b"
        self.assertEqual(self.find(), "/b/control.sock")

    def test_bad_files(self) -> None:
        """A file that cannot be understood is an error, and not passed by."""
        self.configure("control = ")
        self.assertIn("docker-tracker.toml", str(self.assertRaises(ConfigurationError, self.find, euid=0)))
        self.configure('control = "tcp://h:1"')
        self.assertIn("must be a unix socket", str(self.assertRaises(ConfigurationError, self.find, euid=0)))
        self.assertEqual(self.find("/x", euid=0), "/x")

    def test_hidden(self) -> None:
        """A user's own socket is not hidden from that user; the system's may be there."""
        real = os.stat
        unseen = {str(self.own), str(self.systems)}

        def hidden(path: Any, **more: Any) -> Any:
            if path in unseen:
                raise PermissionError
            return real(path, **more)

        self.patch(os, "stat", hidden)
        self.assertEqual(self.find(), str(self.systems))
        unseen.remove(str(self.systems))
        self.assertEqual(self.find(), str(self.own))
        self.systems.touch()
        self.assertEqual(self.find(), str(self.systems))


class ValueTests(SynchronousTestCase):
    """Text and values."""

    def test_ago(self) -> None:
        """Times are said as people say them."""
        for seconds, said in (
            (-5, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (3599, "59 minutes ago"),
            (3600, "1 hour ago"),
            (86400, "24 hours ago"),
            (3 * 86400, "3 days ago"),
            (20 * 86400, "2 weeks ago"),
            (70 * 86400, "2 months ago"),
            (800 * 86400, "2 years ago"),
        ):
            self.assertEqual(ago("2023-11-14T22:13:20.000Z", 1_700_000_000 + seconds), said)
        self.assertEqual(ago(None), "")

    def test_short(self) -> None:
        """Hashes are cut to 12 characters; names are not."""
        self.assertEqual(short("sha256:" + "a" * 64), "a" * 12)
        self.assertEqual(short("sha256:" + "a" * 64, whole=True), "sha256:" + "a" * 64)
        for name in ("a-volume-with-quite-a-long-name-of-its-own", "abc", "nginx:latest"):
            self.assertEqual(short(name), name)

    def test_table(self) -> None:
        """Columns are as wide as what is in them."""
        self.assertEqual(table(("A", "BB"), [("long", "x"), ("s", "")]), "A      BB\nlong   x\ns")
        self.assertEqual(clean("é ok"), "é ok")

    def test_durations(self) -> None:
        """Durations are read in the usual forms, and in no others."""
        convert = lambda text: Duration().convert(text, None, None)  # noqa: E731
        for text, seconds in (("90", 90), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800), ("0", 0)):
            self.assertEqual(convert(text), seconds)
        self.assertEqual(convert(7.0), 7.0)
        self.assertEqual(Pair().convert(("a", "b"), None, None), ("a", "b"))
        self.assertEqual((Number(0).convert(7, None, None), Number(0).convert("0", None, None)), (7, 0))
        self.assertEqual(Word().convert("a", None, None), "a")
        for number in ("-1", "", "1.5", "٣", "9" * 19):
            self.assertRaises(click.BadParameter, Number(0).convert, number, None, None)
        for text in ("", "x", "1x", "-1", "1 h", "h", "1h x"):
            self.assertRaises(click.BadParameter, convert, text)

    def test_environment(self) -> None:
        """What the user has set stays; a job without a socket of its own names none."""
        job = {"socket": "/s", "env": {"DOCKER_HOST": "unix:///s"}}
        found = job_environment(job, {"TESTCONTAINERS_RYUK_DISABLED": "false", "DOCKER_TLS_VERIFY": "1"}, "unix:///e")
        self.assertNotIn("TESTCONTAINERS_RYUK_DISABLED", found)
        self.assertIn("DOCKER_TLS_VERIFY", found)
        self.assertIsNone(found["DOCKER_TLS_VERIFY"])
        self.patch(os.path, "exists", lambda path: False)
        bare = job_environment({"socket": "", "env": {}}, {}, "unix:///e")
        self.assertEqual(bare, {"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HOST_OVERRIDE": "localhost"})
        self.patch(os.path, "exists", lambda path: path == "/.dockerenv")
        self.assertNotIn("TESTCONTAINERS_HOST_OVERRIDE", job_environment(job, {}, "unix:///e"))

    def test_testcontainers_elsewhere(self) -> None:
        """Where the engine is on another host, what it publishes is there, and the job's socket is not."""
        job = {"socket": "/s", "env": {"DOCKER_HOST": "unix:///s"}}
        for engine, host in (
            ("tcp://10.1.2.3:2375", "10.1.2.3"),
            ("tcp://[fd00::1]:2375", "fd00::1"),
            ("tcp://build.example:2376", "build.example"),
            ("tcp://localhost:2375", ""),
            ("tcp://127.0.0.2:2375", ""),
            ("tcp://[::1]:2375", ""),
            ("unix:///run/docker.sock", ""),
        ):
            for inside in (False, True):
                self.patch(os.path, "exists", lambda path, inside=inside: inside)
                found = job_environment(job, {}, engine)
                here = None if inside else "localhost"
                self.assertEqual(found.get("TESTCONTAINERS_HOST_OVERRIDE"), host or here, engine)
                mounted = "/var/run/docker.sock" if host else "/s"
                self.assertEqual(found["TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE"], mounted, engine)
        self.patch(os.path, "exists", lambda path: False)
        for engine in ("", f"tcp://{socket.gethostname()}:2375"):  # a daemon from before an upgrade; by our own name
            found = job_environment(job, {}, engine)
            self.assertEqual(found["TESTCONTAINERS_HOST_OVERRIDE"], "localhost")
            self.assertEqual(found["TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE"], "/s")
        kept = job_environment(job, {"TESTCONTAINERS_HOST_OVERRIDE": "x"}, "tcp://10.1.2.3:2375")
        self.assertNotIn("TESTCONTAINERS_HOST_OVERRIDE", kept)

    def test_quoting(self) -> None:
        """Whatever a value has in it, the shell reads it as one."""
        value = 'a\'b "c" $d \\ `e`'
        done = subprocess.run(
            ["sh", "-c", script({"X": value}, "sh") + 'printf %s "$X"'], capture_output=True, text=True, check=True
        )
        self.assertEqual(done.stdout, value)
        self.assertEqual(script({"X": "a'b\\"}, "fish"), "set -gx X 'a\\'b\\\\';\n")
        self.assertEqual(script({"X": "a b", "Y": None}, "csh"), "setenv X 'a b';\nunsetenv Y;\n")
        self.assertEqual(script({"Y": None}, "sh"), "unset Y\n")
