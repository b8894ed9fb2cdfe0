"""The crash matrix: something is killed, reset or full at a named step; in the end nothing is left, nothing torn.

``python -m tests.torture --seed N …`` plays a round again, with the words that the failure prints.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT
from tests.support.dockerd import why_impossible
from tests.support.engine import require_program
from tests.torture import steps

_ROUNDS = 300  # on the fake engine, half of them in each of two processes
_SECONDS = 900


class TortureTests(SynchronousTestCase):
    """Each run has seeds of its own, which it prints."""

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start a run, which ends with the test, however that ends."""
        command = [sys.executable, "-m", "tests.torture", "--quiet", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)

        def end() -> None:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # so that it takes its engine down
                process.communicate(timeout=60)

        self.addCleanup(end)
        return process

    def test_fake_engine(self) -> None:
        """Random rounds on an engine that is made up."""
        seed = int(time.time())
        running = [self.start(f"--seed={seed + number * 1_000_000}", f"--rounds={_ROUNDS // 2}") for number in range(2)]
        for process in running:
            output = process.communicate(timeout=_SECONDS)[0]
            self.assertEqual(process.returncode, 0, output)
            self.assertIn(f"{_ROUNDS // 2} rounds, 0 failed", output)

    def test_real_engine(self) -> None:
        """Rounds on a real one, a swarm of its own, until something has failed at each step of the table."""
        if why_impossible() is not None:
            require_program("dockerd", "docker.io")
        self.assertGreaterEqual(len(steps.STEPS), 60)
        process = self.start("--engine=real", "--every-step")
        output = process.communicate(timeout=_SECONDS)[0]
        for note in re.findall(r"^note: .*\n(?:  .*\n)*", output, re.MULTILINE):
            sys.stdout.write(f"\n{note}")  # the runner tells it
        self.assertEqual(process.returncode, 0, output)
        self.assertIn(f"0 failed; {len(steps.STEPS)} of {len(steps.STEPS)} steps hit", output)
