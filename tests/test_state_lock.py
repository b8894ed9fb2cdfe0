"""The lock on a state directory, with real files and processes."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import ConfigurationError
from docker_tracker.state_lock import NAME, hold, is_held
from tests.support.daemon import ROOT
from tests.support.short import short_directory

HOLDER = """
import sys
from pathlib import Path
from docker_tracker.state_lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


class LockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = short_directory(self)

    def test_held(self) -> None:
        """A directory is held by one at a time, and free when the descriptor is closed."""
        self.addCleanup(os.umask, os.umask(0))
        self.assertFalse(is_held(self.directory))
        descriptor = hold(self.directory)
        self.assertEqual((self.directory / NAME).stat().st_mode & 0o777, 0o600)  # who can open it can hold it
        self.assertTrue(is_held(self.directory))
        before = len(os.listdir("/proc/self/fd"))
        error = self.assertRaises(ConfigurationError, hold, self.directory)
        self.assertIn("another docker-tracker uses this state directory", str(error))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        os.close(descriptor)
        self.assertFalse(is_held(self.directory))
        os.close(hold(self.directory))

    def test_killed(self) -> None:
        """The kernel lets go of the lock of a process that is killed."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.addCleanup(process.communicate)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), b"held\n")
        self.assertTrue(is_held(self.directory))
        process.kill()
        process.wait()
        self.assertFalse(is_held(self.directory))

    def test_looking_harms_nobody(self) -> None:
        """Who only looks leaves no file and does not keep others from looking."""
        is_held(self.directory)
        self.assertEqual(list(self.directory.iterdir()), [])
        os.close(hold(self.directory))
        with (self.directory / NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            self.assertFalse(is_held(self.directory))

            def leave(seconds: float) -> None:
                fcntl.flock(file, fcntl.LOCK_UN)

            with mock.patch.object(time, "sleep", leave):
                os.close(hold(self.directory))

    def test_no_directory(self) -> None:
        """What is not there is free, and cannot be held."""
        nowhere = self.directory / "nowhere"
        self.assertFalse(is_held(nowhere))
        self.assertRaises(ConfigurationError, hold, nowhere)

    def test_link(self) -> None:
        """A link in the place of the lock's file is not followed."""
        Path(self.directory / NAME).symlink_to("/etc/passwd")
        for call in (hold, is_held):
            self.assertIn("cannot be used", str(self.assertRaises(ConfigurationError, call, self.directory)))

    def test_cannot_lock(self) -> None:
        """Where the file system knows no locks, that is said, and no descriptor is left."""
        os.close(hold(self.directory))
        before = len(os.listdir("/proc/self/fd"))
        with mock.patch.object(fcntl, "flock", side_effect=OSError(errno.ENOLCK, "No locks available")):
            for call in (hold, is_held):
                error = self.assertRaises(ConfigurationError, call, self.directory)
                self.assertIn("cannot be locked: No locks available", str(error))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
