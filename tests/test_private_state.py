"""Private trackers: their environment and command line, and what a sweep makes of their directories."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker import private_state
from docker_tracker.errors import ConfigurationError
from docker_tracker.private_state import (
    Places,
    PrivateError,
    alive_elsewhere,
    command,
    discard,
    environment,
    is_private,
    scope,
    start,
    sweep,
)
from docker_tracker.state_lock import hold
from docker_tracker.tracking.ledger import Ledger
from tests.support.short import short_directory

SAYS = "import sys; sys.stderr.write({text!r}); sys.exit(1)"
NOTES = """
import json, os, sys
(logfile,) = [each.partition('=')[2] for each in sys.argv if each.startswith('--logfile=')]
with open(logfile, 'w') as file:
    json.dump({'environment': dict(os.environ), 'session': os.getsid(0), 'pid': os.getpid(), 'cwd': os.getcwd()}, file)
"""


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.places = Places(self.directory / "state", self.directory / "run", "instance-1")
        self.private = self.places.state / "private"
        self.environ = {"PATH": os.environ["PATH"], "DOCKER_HOST": "unix:///engine", "BUILD_ID": "1"}

    def program(self, text: str) -> None:
        """Have this instead of twistd."""
        self.patch(private_state, "_TWISTD", text)

    def tracker(self, name: str, job: str = "") -> Path:
        """Make the directory of a tracker that has ended.

        :param job: The name of an open job in its ledger.
        """
        state = self.private / name
        state.mkdir(parents=True)
        (self.private / "starting").touch()
        (state / "start.json").write_text(json.dumps({"environment": {"DOCKER_HOST": f"unix:///{name}"}}))
        ledger = Ledger(state / "ledger.sqlite", None)
        ledger.open("instance-1")
        if job:
            self.made = self.successResultOf(ledger.job(job)).id
        self.successResultOf(ledger.close())
        return state

    def noted(self, name: str) -> dict[str, Any]:
        """Give what the program noted."""
        table: dict[str, Any] = json.loads((self.private / name / "log").read_text())
        return table


class EnvironmentTests(Case):
    def test_cut(self) -> None:
        """What marks a build's processes is not handed on; what finds the engine, the user and the modules is."""
        kept = {
            "PATH": "/bin",
            "HOME": "/root",
            "LC_ALL": "C",
            "PYTHONPATH": "/x",
            "DOCKER_HOST": "tcp://x",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_TRACKER_ENGINE": "unix:///x",
        }
        dropped = dict.fromkeys(("BUILD_ID", "JENKINS_NODE_COOKIE", "RUNNER_TRACKING_ID", "CI", "SECRET"), "1")
        self.assertEqual(environment({**dropped, **kept}), kept)

    def test_command(self) -> None:
        """The daemon's own options, in the user's instance, and it stops when its work is done."""
        line = command(self.places, "x", ("systemd-run", "--scope"))
        self.assertEqual(line[:5], ["systemd-run", "--scope", sys.executable, "-P", "-c"])
        self.assertIn("--rundir=/", line)
        options = line[line.index("docker-tracker") + 1 :]
        self.assertIn(f"--state-dir={self.private / 'x'}", options)
        self.assertIn("--instance=instance-1", options)
        self.assertIn(f"--control=unix://{self.places.control('x')}", options)
        self.assertEqual(options[-1], "--until-idle")


class ScopeTests(Case):
    def systemd_run(self, script: str) -> dict[str, str]:
        path = self.directory / "systemd-run"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return {"PATH": f"{self.directory}:{os.environ['PATH']}"}

    def test_scope(self) -> None:
        """Where systemd makes scopes, there is one; a user's manager makes those of users."""
        environ = self.systemd_run("exit 0")
        line = scope("x", environ, 0, self.directory)
        self.assertEqual(line[1:], ["--scope", "--quiet", "--collect", "--unit=docker-tracker-private-x", "--"])
        self.assertEqual(scope("x", environ, 1000, self.directory)[1], "--user")

    def test_none(self) -> None:
        """Without systemd, without its program, or if it refuses, there is none."""
        environ = self.systemd_run("exit 0")
        self.assertEqual(scope("x", environ, 0, self.directory / "nowhere"), [])
        self.assertEqual(scope("x", {"PATH": "/nowhere"}, 0, self.directory), [])
        self.assertEqual(scope("x", self.systemd_run("exit 1"), 0, self.directory), [])
        late = subprocess.TimeoutExpired("systemd-run", 10)
        with mock.patch.object(subprocess, "run", side_effect=late):
            self.assertEqual(scope("x", environ, 0, self.directory), [])


class StartTests(Case):
    def test_process(self) -> None:
        """It begins a session of its own in ``/``, with a short environment; its directories are for nobody else."""
        self.program(NOTES)
        control = start(self.places, self.environ, 0)
        noted = self.noted(control.parent.name)
        self.assertEqual((noted["session"], noted["cwd"]), (noted["pid"], "/"))
        self.assertNotIn("BUILD_ID", noted["environment"])
        self.assertEqual(noted["environment"]["DOCKER_HOST"], "unix:///engine")
        state = self.private / control.parent.name
        self.assertEqual(state.stat().st_mode & 0o777, 0o700)
        self.assertEqual(control.parent.parent.stat().st_mode & 0o777, 0o700)
        self.assertTrue(is_private(state))

    def test_several_at_once(self) -> None:
        """While one starts, another one can, and no sweep takes it for a dead one."""
        lock = f"open({str(self.private / 'starting')!r})"
        self.program(
            f"import fcntl, sys; file = {lock}; fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)\n"
            "try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "except BlockingIOError: sys.exit(0)\n"
            "sys.exit('no sweep is kept out')"
        )
        start(self.places, self.environ, 0)

    def test_others_enter(self) -> None:
        """A daemon that comes later has its sockets where all may enter; what is there already stays as it is."""
        self.program(NOTES)
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)
        for made, mode in ((False, 0o755), (True, 0o711)):
            shutil.rmtree(self.places.run, ignore_errors=True)
            if made:
                self.places.run.mkdir()
                self.places.run.chmod(mode)
            start(self.places, self.environ, 0)
            self.assertEqual(self.places.run.stat().st_mode & 0o777, mode)

    def test_fails(self) -> None:
        """Why it does not start is said in a line, and nothing is left of it."""
        for said, shown in (
            ("Traceback\nfoo.Error: this\n", "foo.Error: this"),
            ("x\ndocker-tracker: that\n", "that"),
            ("something\n", "something"),
            ("", "it says nothing"),
        ):
            self.program(SAYS.format(text=said))
            error = self.assertRaises(PrivateError, start, self.places, self.environ, 0)
            self.assertEqual(str(error), f"the private tracker does not start: {shown}")
        self.assertEqual(os.listdir(self.private), ["starting"])
        self.assertEqual(os.listdir(self.places.run / "private"), [])

    def test_fails_after_the_fork(self) -> None:
        """What twistd cuts is whole in the log."""
        long = f"/a/{'b' * 700}: can be written by others; chmod go-w"
        logged = f"2026-11-23T00:00:00+0000 [-] docker_tracker.errors.ConfigurationError: {long}"
        cut = 'An error has occurred: b"...Error: cut'
        self.program(
            f"import sys; file = [w for w in sys.argv if '--logfile=' in w][0][10:];"
            f" open(file, 'a').write({logged!r}); print({cut!r}); sys.exit(1)"
        )
        error = self.assertRaises(PrivateError, start, self.places, self.environ, 0)
        self.assertEqual(str(error), f"the private tracker does not start: {long}")

    def test_cannot(self) -> None:
        """No directory, no program, no end of the wait: each is said."""
        self.program(NOTES)
        late = subprocess.TimeoutExpired("twistd", 60)
        for fault, shown in ((late, "within 60 s"), (OSError(8, "Exec format error"), "Exec format error")):
            with mock.patch.object(subprocess, "run", side_effect=fault):
                self.assertIn(shown, str(self.assertRaises(PrivateError, start, self.places, self.environ, 0)))
        (self.directory / "file").touch()
        nowhere = Places(self.directory / "file", self.places.run, "instance-1")
        self.assertIn("cannot make", str(self.assertRaises(PrivateError, start, nowhere, self.environ, 0)))

    def test_bad_lock(self) -> None:
        """A lock that is none is said."""
        self.private.mkdir(parents=True)
        (self.private / "starting").symlink_to("elsewhere")
        self.assertRaises(ConfigurationError, start, self.places, self.environ, 0)


class SweepTests(Case):
    def sweep(self) -> list[str]:
        return sweep(self.places, {**self.environ, "HOME": "/home"}, 0)

    def test_nothing(self) -> None:
        """Where there never was one nothing is done, nor made."""
        self.assertEqual(self.sweep(), [])
        self.assertEqual(os.listdir(self.directory), [])

    def test_work_left(self) -> None:
        """One that was killed with a job is started again, and finds the engine that it had."""
        self.program(NOTES)
        self.tracker("dead", "job")
        self.environ["DOCKER_TRACKER_ENGINE"] = "unix:///of-who-sweeps"
        self.assertEqual(self.sweep(), [])
        found = self.noted("dead")["environment"]
        self.assertEqual((found["DOCKER_HOST"], found["HOME"]), ("unix:///dead", "/home"))
        self.assertNotIn("DOCKER_TRACKER_ENGINE", found)
        self.assertEqual((self.places.run / "private/dead").stat().st_mode & 0o777, 0o700)

    def test_engine_noted(self) -> None:
        """How a tracker finds its engine, and its own settings, are there for whoever starts it again; no more is."""
        self.program(NOTES)
        self.environ["DOCKER_TRACKER_ENGINE"] = "unix:///mine"
        name = start(self.places, self.environ, 0).parent.name
        kept = {"DOCKER_HOST": "unix:///engine", "DOCKER_TRACKER_ENGINE": "unix:///mine"}
        self.assertEqual(json.loads((self.private / name / "start.json").read_text()), {"environment": kept})

    def test_no_work_left(self) -> None:
        """What is left of one that had done its work is removed; what else is there stays."""
        self.program("raise SystemExit(1)")
        state = self.tracker("idle", "job")
        with closing(sqlite3.connect(state / "ledger.sqlite", isolation_level=None)) as database:
            database.execute("UPDATE jobs SET state = 'gone' WHERE name = 'job'")
        (self.places.run / "private/idle/jobs").mkdir(parents=True)
        (self.private / "other").mkdir()
        self.assertEqual(self.sweep(), [])
        self.assertFalse(state.exists())
        self.assertEqual(sorted(os.listdir(self.private)), ["other", "starting"])
        self.assertEqual(os.listdir(self.places.run / "private"), [])

    def test_alive(self) -> None:
        """One that lives is left alone."""
        self.program("raise SystemExit(1)")
        state = self.tracker("alive", "job")
        self.addCleanup(os.close, hold(state))
        self.assertEqual(self.sweep(), [])
        self.assertTrue((state / "ledger.sqlite").exists())

    def test_link(self) -> None:
        """A link among the directories leads to nothing of ours."""
        self.program(NOTES)
        state = self.tracker("dead", "job")
        os.rename(state, self.directory / "elsewhere")
        state.symlink_to(self.directory / "elsewhere")
        self.assertEqual(self.sweep(), [])
        self.assertFalse((state / "log").exists())

    def test_again(self) -> None:
        """A sweep leaves nothing open: the next one can do its work, also after one that could not."""
        self.program(NOTES)
        before = len(os.listdir("/proc/self/fd"))
        for name in ("first", "second"):
            state = self.tracker(name)
            with (self.private / "starting").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self.assertEqual(self.sweep(), [])
            self.assertEqual(self.sweep(), [])
            self.assertFalse(state.exists())
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_problems(self) -> None:
        """One that cannot be started does not keep the others from it, and stays."""
        self.program(NOTES)
        self.tracker("first", "job")
        self.tracker("second", "job")
        (self.private / "first/start.json").write_text("[]")
        (problem,) = self.sweep()
        self.assertIn(f"what the private tracker in {self.private / 'first'} left cannot be removed", problem)
        self.assertTrue(self.noted("second"))

    def test_says_it_now(self) -> None:
        """What it said at an earlier start is not why it does not start now."""
        self.program(SAYS.format(text="docker-tracker: now\n"))
        state = self.tracker("first", "job")
        (state / "log").write_text("docker_tracker.errors.LedgerError: before\n")
        (problem,) = self.sweep()
        self.assertTrue(problem.endswith("the private tracker does not start: now"), problem)

    def test_corrupt(self) -> None:
        """A ledger that cannot be read is for the tracker to mend."""
        self.program(NOTES)
        state = self.tracker("dead")
        for suffix in ("-wal", "-shm"):
            (state / f"ledger.sqlite{suffix}").unlink(missing_ok=True)
        (state / "ledger.sqlite").write_bytes(b"no database" * 1000)
        self.assertEqual(self.sweep(), [])
        self.assertTrue(self.noted("dead"))

    def test_one_at_a_time(self) -> None:
        """While another process starts one, or sweeps, nothing is touched: what it starts is not alive yet."""
        state = self.tracker("starting-now")
        with (self.private / "starting").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            self.assertEqual(self.sweep(), [])
            self.assertTrue(state.exists())
        self.assertEqual(self.sweep(), [])
        self.assertFalse(state.exists())


class OthersTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.complaints: list[str] = []

    def elsewhere(self, state: Path) -> Callable[[str, bool], bool]:
        return alive_elsewhere(state, self.complaints.append)

    def test_discard(self) -> None:
        """Only a private tracker's directories are removed."""
        for directory in (self.places.state, self.private / "x"):
            directory.mkdir(parents=True, exist_ok=True)
            if directory == self.places.state:
                (directory / "start.json").write_text("{}")
            discard(directory, self.places.run)
            self.assertTrue(directory.exists())
        state = self.tracker("done")
        discard(state, self.places.run / "private/done")
        self.assertFalse(state.exists())

    def test_alive_elsewhere(self) -> None:
        """A private tracker answers for the jobs that it knows, the user's daemon for all others."""
        self.assertFalse(self.elsewhere(self.places.state)("1", False))
        first = self.tracker("first", "job")
        job = self.made
        second = self.tracker("second", "job")
        for state, others in ((self.places.state, True), (first, False), (second, True)):
            self.assertEqual(self.elsewhere(state)(job, False), others)
        self.assertFalse(self.elsewhere(self.places.state)("unknown", False))
        self.assertTrue(self.elsewhere(first)("unknown", False))

    def test_unreadable(self) -> None:
        """A tracker that is alive has what nobody knows, if its ledger cannot be read; one that is not has nothing."""
        self.tracker("good", "job")
        state = self.tracker("broken")
        (state / "ledger.sqlite").write_bytes(b"no database" * 1000)
        self.assertFalse(self.elsewhere(self.places.state)("1", False))
        self.assertTrue(self.elsewhere(state)("1", True))  # to a private one itself nothing is its own then
        lock = hold(state)
        found = self.elsewhere(self.places.state)
        self.assertEqual((found("1", False), found("1", True), found(self.made, True)), (True, False, True))
        self.assertEqual(self.complaints, [f"the ledger of the private tracker in {state} cannot be read"])
        os.close(lock)
        (state / "lock").unlink()
        (state / "lock").symlink_to("elsewhere")
        self.assertTrue(self.elsewhere(self.places.state)("1", False))

    def test_over(self) -> None:
        """A job that is gone is nobody's but its own tracker's, which may find more of it."""
        state = self.tracker("first", "job")
        with sqlite3.connect(state / "ledger.sqlite") as database:
            database.execute("UPDATE jobs SET state = 'gone'")
        self.assertFalse(self.elsewhere(self.places.state)(self.made, False))
        self.assertFalse(self.elsewhere(state)(self.made, False))
        database.close()
