"""Builds that end before their time, at each point: nothing hangs, nothing is left open, and the ledger is right."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import unittest
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.engines.__main__ import bundled
from tests.support.builds import CLIENT_SECONDS, CLIENT_VARIABLE, BuildCase
from tests.support.daemon import ROOT

COMMAND_VARIABLE = "DOCKER_TRACKER_ENGINES"
ENGINE = "docker-28"
SETTLED_SECONDS = 120
"""Within which the tracker knows what became of a build whose answer was lost: it looks for its image for a minute."""

GIB = 1024 * 1024 * 1024
RECIPE = "FROM busybox:local\nRUN echo {mark} > /made\n"


class EndsCase(BuildCase):
    """Has a tracker with a gate at which it can hold builds."""

    def set_gate(self) -> None:
        self.plugins = Path(tempfile.mkdtemp(prefix="dt-plugins-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.plugins)
        shutil.copy(ROOT / "tests" / "support" / "gate.py", self.plugins)
        self.options = ("--interceptors=labels,recorder,gate,audit", f"--plugin-dir={self.plugins}")

    def open_gate(self) -> None:
        """Let go what is held, and what will come."""
        (self.plugins / "at").unlink(missing_ok=True)

    def build(self, tag: str) -> subprocess.Popen[bytes]:
        return self.start("build", "--no-cache", "--tag", tag, ".")

    def held(self, at: str) -> Callable[[str], subprocess.Popen[bytes]]:
        """Return what starts a build and waits until the gate holds it."""

        def begin(tag: str) -> subprocess.Popen[bytes]:
            self.dockerfile(RECIPE)
            (self.plugins / "at").write_text(at)
            process = self.build(tag)
            self.daemon.wait_for((self.plugins / "reached").exists)
            (self.plugins / "reached").unlink()
            return process

        return begin

    def saying(self, recipe: str, words: str) -> Callable[[str], subprocess.Popen[bytes]]:
        """Return what starts a build and waits until the client says that it has got to a point."""

        def begin(tag: str) -> subprocess.Popen[bytes]:
            self.dockerfile(recipe)
            process = self.build(tag)
            assert process.stderr is not None
            said = b""
            while words.encode() not in said:
                line = process.stderr.readline()
                self.assertTrue(line, said)
                said += line
            return process

        return begin

    def uploading(self) -> Callable[[str], subprocess.Popen[bytes]]:
        """Return what starts a build with a context that takes its time, and waits until some of it is sent."""
        with (self.context / "large").open("wb") as file:
            file.truncate(8 * GIB)
        return self.saying(f"{RECIPE}COPY large /large\n", "transferring context: ")

    def in_a_step(self, tag: str) -> subprocess.Popen[bytes]:
        """Start a build and wait until its step runs."""
        self.seconds = uuid.uuid4().int % 10**9
        self.dockerfile(f"FROM busybox:local\nRUN sleep {self.seconds}\n")
        process = self.build(tag)
        self.until_steps(self.seconds, 1)
        return process

    def check_recorded(self, tag: str) -> None:
        """Check that the ledger comes to have a tag if the engine has it, and else has not."""

        def agree() -> bool:
            there = self.run_client("image", "inspect", tag, address=self.engine)[0] == 0
            return (tag in self.recorded()) == there

        self.daemon.wait_for(agree)

    def check_goes_on(self) -> None:
        """Check that the next build is labelled and recorded."""
        self.dockerfile(RECIPE)
        tag = f"{self.mark}:after"
        image = self.built("build", "--tag", tag, ".", tag=tag)
        self.assertEqual(image["Config"]["Labels"], {"Created-Via": "docker-tracker"})
        self.assertIn(tag, self.recorded())


class ClientTests(EndsCase):
    """A client that is interrupted, or killed."""

    def setUp(self) -> None:
        self.set_gate()
        self.begin_with_buildx()

    def ends(self, begin: Callable[[str], subprocess.Popen[bytes]], *outcomes: str) -> None:
        """End builds when they are at a point, and check what comes of it.

        :param outcomes: what the audit may say of them; none: it has no line of a build.
        """
        before = self.sockets()
        self.check_goes_on()
        for number in (signal.SIGINT, signal.SIGKILL):
            tag = f"{self.mark}:{number.name.lower()}"
            process = begin(tag)
            os.killpg(process.pid, number)
            self.open_gate()
            errors = process.communicate(timeout=CLIENT_SECONDS)[1].decode()
            self.assertNotEqual(process.returncode, 0, errors)
            if number == signal.SIGINT:
                self.assertIn("ERROR: ", errors)
            self.check_closed(before)
            self.check_recorded(tag)
        self.check_goes_on()
        self.assertEqual(
            [line["outcome"] in outcomes for line in self.lines("build")[1:-1]], [True] * bool(outcomes) * 2
        )
        self.check_log()

    def test_before_anything(self) -> None:
        """Before the engine is asked for a connection."""
        self.ends(self.held("connection"))

    def test_before_solve(self) -> None:
        """When it has asked for the build, and the engine does not know."""
        self.ends(self.held("solve"), "cancelled", "lost")

    def test_before_frontend(self) -> None:
        """When the engine has the build, and does not know yet of which Dockerfile."""
        self.ends(self.held("frontend"), "cancelled", "lost")

    def test_context(self) -> None:
        """While it sends its context."""
        self.ends(self.uploading(), "cancelled", "lost")

    def test_step(self) -> None:
        """In a step, which ends with it."""
        self.ends(self.in_a_step, "cancelled", "lost")
        self.until_steps(self.seconds, 0)

    def test_export(self) -> None:
        """While the image is written: the engine ends it or has it, and then the ledger does, too."""
        recipe = f"{RECIPE}RUN head -c 268435456 /dev/zero > /large\n"
        self.ends(self.saying(recipe, "exporting layers"), "cancelled", "lost")


class EngineTests(EndsCase):
    """An engine that is killed."""

    def setUp(self) -> None:
        command, program = os.environ.get(COMMAND_VARIABLE), os.environ.get(CLIENT_VARIABLE)
        if not command or not program:
            raise unittest.SkipTest(f"no engine to kill: {COMMAND_VARIABLE} and {CLIENT_VARIABLE} are not set")
        own = bundled(command, ENGINE, ENGINE, ())
        engine = own.__enter__()
        self.addCleanup(own.__exit__, None, None, None)
        self.command, self.place = command, engine.address.removeprefix("unix://").removesuffix("/docker.sock")
        self.set_gate()
        self.begin(program, engine.address)
        self.addCleanup(self.kill_step)

    def kill_step(self) -> None:
        """Kill the step that runs on when its engine has been killed."""
        for path in self.step_commands(getattr(self, "seconds", 0)):
            os.kill(int(path.parent.name), signal.SIGKILL)

    def test_killed(self) -> None:
        """In each phase the client ends with the engine, and says why; all is settled when the engine is back."""
        before = self.sockets()
        self.check_goes_on()
        for begin in (self.in_a_step, self.uploading(), self.held("frontend")):
            tag = f"{self.mark}:{uuid.uuid4().hex[:6]}"
            process = begin(tag)
            restart = [self.command, "restart", "--kill", self.place]
            subprocess.run(restart, check=True, timeout=CLIENT_SECONDS, capture_output=True)
            self.open_gate()
            errors = process.communicate(timeout=CLIENT_SECONDS)[1].decode()
            self.assertNotEqual(process.returncode, 0, errors)
            self.assertRegex(errors, "Unavailable|EOF|closed|no such job")
            self.check_closed(before)
            self.check_recorded(tag)
        self.check_goes_on()
        self.daemon.wait_for(lambda: not {"open", "lost"}.intersection(self.intents()), SETTLED_SECONDS)
        self.check_log()
