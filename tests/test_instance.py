"""The instance ID's file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker import instance
from docker_tracker.errors import ConfigurationError
from docker_tracker.instance import read_or_make


class InstanceTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.state = Path(directory.name) / "state"
        self.path = self.state / "instance"

    def test_made_once(self) -> None:
        """The first start makes a random one that only the daemon's user can read; later ones read it."""
        first = read_or_make(self.state)
        self.assertRegex(first, r"\A[0-9a-f]{32}\Z")
        self.assertEqual(self.path.read_text(), f"{first}\n")
        self.assertEqual((self.path.stat().st_mode & 0o777, self.state.stat().st_mode & 0o777), (0o600, 0o700))
        self.assertEqual(read_or_make(self.state), first)
        self.assertEqual(os.listdir(self.state), ["instance"])

    def test_set(self) -> None:
        """``--instance`` makes and replaces it."""
        for wanted in ("build-host", "b.2"):
            self.assertEqual(read_or_make(self.state, wanted), wanted)
            self.assertEqual(read_or_make(self.state), wanted)
        self.assertEqual(os.listdir(self.state), ["instance"])

    def test_two_at_once(self) -> None:
        """Of two first starts at one time, both get the ID of the one that was first."""
        with mock.patch.object(instance, "_read", side_effect=[None, "theirs"]):
            self.state.mkdir()
            self.path.write_text("theirs\n")
            self.assertEqual(read_or_make(self.state), "theirs")
        self.assertEqual(self.path.read_text(), "theirs\n")

    def test_bad_content(self) -> None:
        """A file that has no ID is refused, not replaced, and named."""
        self.state.mkdir()
        for content in (b"", b"\n", b"a b\n", b"-a\n", b"a\n\n", b"x" * 64, b"x" * 5000, b"\xff\n", b"a\nb\n"):
            self.path.write_bytes(content)
            error = self.assertRaises(ConfigurationError, read_or_make, self.state)
            self.assertEqual((error.where, self.path.read_bytes()), (str(self.path), content))

    def test_bad_option(self) -> None:
        """A bad ``--instance`` is refused before anything is written."""
        for wanted in ("a b", "x" * 64, "ä", "a\n", ".a"):
            error = self.assertRaises(ConfigurationError, read_or_make, self.state, wanted)
            self.assertEqual(error.where, "--instance")
        self.assertFalse(self.state.exists())

    def test_unusable(self) -> None:
        """What can't be read or made is said: a link to elsewhere, a directory that is a file."""
        self.state.mkdir()
        os.symlink("/etc/hostname", self.path)
        self.assertRaisesRegex(ConfigurationError, "cannot be used", read_or_make, self.state)
        self.path.unlink()
        self.state.rmdir()
        self.state.write_text("")
        self.assertRaisesRegex(ConfigurationError, "cannot be used", read_or_make, self.state)
