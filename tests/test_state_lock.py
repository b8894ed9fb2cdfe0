"""`docker_tracker.state_lock`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import ConfigurationError
from docker_tracker.state_lock import NAME, hold, is_held

HOLDER = """
import sys
from pathlib import Path
from docker_tracker.state_lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


class StateLockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def test_one_at_a_time(self) -> None:
        """Who comes second is told what to do; once the first has let go, the next can have it."""
        self.assertFalse(is_held(self.directory))
        descriptor = hold(self.directory)
        self.assertTrue(is_held(self.directory))
        error = self.assertRaises(ConfigurationError, hold, self.directory)
        self.assertIn("another docker-tracker uses this state directory", str(error))
        os.close(descriptor)
        self.assertFalse(is_held(self.directory))
        os.close(hold(self.directory))

    def test_killed(self) -> None:
        """A process that is killed holds it no more."""
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process:
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), b"held\n")
            self.assertTrue(is_held(self.directory))
            process.kill()
            process.wait()
        self.assertFalse(is_held(self.directory))

    def test_unusable(self) -> None:
        """A link, or no directory, is named."""
        (self.directory / NAME).symlink_to("elsewhere")
        for directory in (self.directory, self.directory / "nowhere"):
            error = self.assertRaises(ConfigurationError, hold, directory)
            self.assertIn(str(directory / NAME), str(error))
