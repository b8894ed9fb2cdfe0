"""Lines reach their file, or their loss is reported; the daemon goes on."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.line_file import LineFile


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: as on a full disk, a write is cut short, and the next one fails."""
    really = os.write

    def write(descriptor: int, data: bytes) -> int:
        room = size - os.fstat(descriptor).st_size
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(descriptor, data[:room])

    with patch("docker_tracker.line_file.os.write", write):
        yield


class Case(SynchronousTestCase):
    """Has a directory, a clock, and what was logged."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)
        self.path = self.directory / "audit.log"
        self.clock = Clock()
        captured = capturedLogs()
        self.events = captured.__enter__()
        self.addCleanup(captured.__exit__, None, None, None)

    def file(self, path: str = "", **more: Any) -> LineFile:
        arguments = {"flush_seconds": 1.0, "buffer_bytes": 1000, **more}
        file = LineFile(path or str(self.path), self.clock, **arguments)
        self.addCleanup(file.close)
        return file

    @property
    def logged(self) -> list[str]:
        return [formatEvent(event) for event in self.events]


class WriteTests(Case):
    """When things go well."""

    def test_at_latest(self) -> None:
        """A line is in the file after the time that is set, and nothing is opened before."""
        file = self.file()
        file.write(b"one\n")
        self.clock.advance(0.9)
        file.write(b"two\n")
        self.assertFalse(self.path.exists())
        self.clock.advance(0.1)
        self.assertEqual(self.path.read_bytes(), b"one\ntwo\n")
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual((self.clock.getDelayedCalls(), self.logged), ([], []))

    def test_appended(self) -> None:
        """What is in the file stays, also what another process puts there."""
        self.path.write_bytes(b"before\n")
        file = self.file()
        for line in (b"one\n", b"two\n"):
            file.write(line)
            file.flush()
            with self.path.open("ab") as other:
                other.write(b"theirs\n")
        self.assertEqual(self.path.read_bytes(), b"before\none\ntheirs\ntwo\ntheirs\n")

    def test_much(self) -> None:
        """Much is not kept until the next flush."""
        file = self.file(buffer_bytes=1024**2)
        file.write(b"a" * 65535 + b"\n")
        self.assertEqual(self.path.stat().st_size, 65536)

    def test_a_full_buffer_is_written(self) -> None:
        """A line that does not fit beside the others sends them off."""
        file = self.file()
        file.write(b"a" * 900 + b"\n")
        file.write(b"b" * 900 + b"\n")
        self.assertEqual(self.path.stat().st_size, 901)
        file.close()
        self.assertEqual(self.path.stat().st_size, 1802)

    def test_close(self) -> None:
        """At the end everything is written, and no timer and no descriptor is left."""
        before = len(os.listdir("/proc/self/fd"))
        file = self.file()
        file.write(b"one\n")
        file.close()
        self.assertEqual(self.path.read_bytes(), b"one\n")
        self.assertEqual((self.clock.getDelayedCalls(), len(os.listdir("/proc/self/fd"))), ([], before))
        file.close()

    def test_reopen_closed(self) -> None:
        """A file that is closed is not opened again."""
        before = len(os.listdir("/proc/self/fd"))
        file = self.file()
        file.write(b"one\n")
        file.close()
        file.reopen()
        self.assertEqual((self.clock.getDelayedCalls(), len(os.listdir("/proc/self/fd"))), ([], before))

    def test_reopen(self) -> None:
        """After the file was moved away: what was kept goes to the old one, what comes to a new one."""
        file = self.file()
        file.write(b"one\n")
        file.flush()
        file.write(b"two\n")
        self.path.rename(self.directory / "audit.log.1")
        file.reopen()
        self.assertEqual(self.path.read_bytes(), b"")
        file.write(b"three\n")
        file.close()
        self.assertEqual((self.directory / "audit.log.1").read_bytes(), b"one\ntwo\n")
        self.assertEqual(self.path.read_bytes(), b"three\n")


class FullTests(Case):
    """When nothing can be written."""

    def gap(self, lost: int) -> bytes:
        return b"lost %d\n" % lost

    def test_full_disk(self) -> None:
        """It is reported once, lines are kept as far as they fit, and the others are counted."""
        full = self.file("/dev/full", gap=self.gap)
        for number in range(100):
            full.write(b"%099d\n" % number)
            self.clock.advance(1)
        self.assertEqual(full.dropped, 90)
        self.assertEqual(full.problem, "No space left on device")
        self.assertEqual(self.logged, ["/dev/full cannot be written: No space left on device"])
        full.close()
        self.assertEqual(self.logged[1], "100 lines for /dev/full are lost: No space left on device")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_recovery(self) -> None:
        """When there is room again, kept lines are whole, and the gap is named in the log and in the file."""
        file = self.file(gap=self.gap, buffer_bytes=250)
        with longest_file(150):
            for number in range(5):
                file.write(b"%099d\n" % number)
                self.clock.advance(1)
            self.assertEqual(self.path.stat().st_size, 150)
            self.assertEqual((file.problem, file.dropped), ("No space left on device", 2))
        self.clock.advance(1)
        self.clock.advance(1)
        lines = self.path.read_bytes().split(b"\n")
        self.assertEqual(lines, [b"%099d" % 0, b"%099d" % 1, b"%099d" % 2, b"lost 2", b""])
        self.assertEqual(self.logged[1], f"{self.path} is written again; 2 lines were lost")
        self.assertEqual((file.problem, file.dropped, self.clock.getDelayedCalls()), ("", 0, []))

    def test_recovery_without_loss(self) -> None:
        """A short trouble loses nothing."""
        file = self.file(gap=self.gap)
        with longest_file(5):
            file.write(b"0123456789\n")
            self.clock.advance(1)
            self.assertEqual(file.problem, "No space left on device")
        self.clock.advance(1)
        self.assertEqual(self.path.read_bytes(), b"0123456789\n")
        self.assertEqual(len(self.logged), 2)

    def test_no_gap_line(self) -> None:
        """Without a form for it the gap is only logged."""
        file = self.file(buffer_bytes=5)
        file.write(b"too long for the buffer\n")
        self.clock.advance(1)
        self.assertEqual(self.path.read_bytes(), b"")
        self.assertIn("1 lines were lost", self.logged[-1])

    def test_half_a_line_in_the_old_file(self) -> None:
        """A line that was cut short is whole in the file that follows."""
        file = self.file()
        with longest_file(5):
            file.write(b"0123456789\n")
            file.flush()
        self.path.rename(self.directory / "old")
        with longest_file(5):
            file.reopen()
        self.clock.advance(1)
        self.assertEqual((self.directory / "old").read_bytes(), b"01234")
        self.assertEqual(self.path.read_bytes(), b"0123456789\n")

    def test_cannot_be_opened(self) -> None:
        """A directory that is not there is as bad as a full disk, until it is there."""
        file = self.file(str(self.directory / "missing" / "audit.log"))
        self.assertEqual(file.check(), "No such file or directory")
        file.write(b"one\n")
        (self.directory / "missing").mkdir()
        self.assertEqual(file.check(), "No such file or directory")
        self.clock.advance(1)
        self.assertEqual(file.check(), "")
        self.assertEqual((self.directory / "missing" / "audit.log").read_bytes(), b"one\n")

    def test_check_opens(self) -> None:
        """Whether it can be written is known before there is a line."""
        self.assertEqual(self.file().check(), "")
        self.assertTrue(self.path.exists())

    def test_max_bytes(self) -> None:
        """At its bound the file counts as full, until it was rotated."""
        file = self.file(max_bytes=20)
        for number in range(3):
            file.write(b"%09d\n" % number)
            self.clock.advance(1)
        self.assertEqual(self.path.stat().st_size, 20)
        self.assertEqual(file.problem, "it has reached max-bytes (20); rotate it")
        self.path.rename(self.directory / "old")
        file.reopen()
        self.assertEqual((self.path.read_bytes(), file.problem), (b"%09d\n" % 2, ""))


class PipeTests(Case):
    """When the file is none: standard output, a pipe."""

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        return ends

    def test_standard_output(self) -> None:
        """A dash is standard output, which stays open."""
        reader, writer = self.pipe()
        saved = os.dup(1)
        self.addCleanup(os.close, saved)
        file = self.file("-")
        os.dup2(writer, 1)
        try:
            file.write(b"one\n")
            file.flush()
            file.close()
            os.write(1, b"still open\n")
        finally:
            os.dup2(saved, 1)
        self.assertEqual(os.read(reader, 100), b"one\nstill open\n")

    def test_slow_reader(self) -> None:
        """A pipe that is full does not stop the daemon: lines wait, then are dropped, and go on when it is read."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        file = self.file(buffer_bytes=10_000)
        for _ in range(4):
            file.write(b"a" * 1999 + b"\n")
        self.clock.advance(1)
        self.assertEqual((file.problem, file.dropped), ("", 0))
        for _ in range(3):
            file.write(b"b" * 1999 + b"\n")
        self.assertEqual((file.problem, file.dropped), ("nobody reads it", 1))
        received = b""
        for _ in range(6):
            received += os.read(reader, 4096)
            self.clock.advance(1)
        self.assertEqual([line[:1] for line in received.split(b"\n")], [b"a"] * 4 + [b"b"] * 2 + [b""])
        self.assertEqual((file.problem, file.dropped), ("", 0))

    def test_no_reader(self) -> None:
        """A pipe that nobody has open is reported, not waited for."""
        os.mkfifo(self.path)
        self.assertEqual(self.file().check(), "No such device or address")

    def test_reader_left(self) -> None:
        """A reader that goes away is a failure like any other."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        file = self.file()
        self.assertEqual(file.check(), "")
        os.close(reader)
        file.write(b"one\n")
        self.clock.advance(1)
        self.assertEqual(file.problem, "Broken pipe")
