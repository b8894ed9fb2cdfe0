"""Reopening a file that somebody else opened."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.open_file import OpenFile


class OpenFileTests(SynchronousTestCase):
    """A log that is moved away and reopened."""

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.path = directory.absolute() / "log"

    def test_moved(self) -> None:
        """What is written afterwards is in a new file of the old name; what was written stays in the old one."""
        with self.path.open("a") as stream:
            file = OpenFile(self.path)
            file.find()
            stream.write("before")
            stream.flush()
            moved = self.path.with_suffix(".1")
            self.path.rename(moved)
            file.reopen()
            stream.write("after")
            stream.flush()
            self.assertEqual((moved.read_text(), self.path.read_text()), ("before", "after"))
            self.assertFalse(os.get_inheritable(stream.fileno()))
            self.path.rename(moved)
            file.reopen()
            self.assertTrue(self.path.exists())

    def test_not_open(self) -> None:
        """A file that is not open is not made."""
        file = OpenFile(self.path)
        file.find()
        file.reopen()
        self.assertFalse(self.path.exists())

    def test_no_room(self) -> None:
        """A file that cannot be opened again leaves the old one in use."""
        with self.path.open("a") as stream:
            file = OpenFile(self.path)
            file.find()
            self.path.unlink()
            self.path.mkdir()
            file.reopen()
            stream.write("still works")
            stream.flush()
