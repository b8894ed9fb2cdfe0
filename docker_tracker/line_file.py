"""A file that lines are appended to: buffered, bounded, reopened on demand; it reports a full disk and goes on.

Layer: plug-ins' tools. Writes with plain calls, a few milliseconds at most on a disk, and never waits for a pipe.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

STANDARD_OUTPUT = "-"

_AT_ONCE = 64 * 1024  # bytes that are not kept waiting for the next flush
_PIPE_PIECE = select.PIPE_BUF  # as much as a pipe that polls as writable takes without blocking (pipe(7))


class LineFile:
    """Lines on their way to a file.

    :param path: Absolute, or ``-`` for standard output. Opened at the first flush, mode 0600 if it is made.
    :param clock: For the flushes.
    :param flush_seconds: How long a line waits at most.
    :param buffer_bytes: How much is kept while nothing can be written; lines beyond are dropped and counted.
    :param max_bytes: How long the file may grow; 0: as long as it likes. At the bound it counts as full.
    :param gap: Makes the line that is written, once that is possible again, for so many lost ones.
    """

    def __init__(
        self,
        path: str,
        clock: IReactorTime,
        *,
        flush_seconds: float,
        buffer_bytes: int,
        max_bytes: int = 0,
        gap: Callable[[int], bytes] | None = None,
    ) -> None:
        self.path = path
        self.dropped = 0
        self.problem = ""
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._buffer_bytes = buffer_bytes
        self._max_bytes = max_bytes
        self._gap = gap
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._begun = 0  # bytes of the first line that are in the file already
        self._descriptor: int | None = None
        self._timer: IDelayedCall | None = None

    def write(self, line: bytes) -> None:
        """Take in one line, its newline included; it is in the file after the next flush."""
        if self._size + len(line) > self._buffer_bytes:
            if not self.problem:
                self.flush()
            if self._size + len(line) > self._buffer_bytes:
                self._fail("nobody reads it")
                self.dropped += 1
                return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _AT_ONCE and not self.problem:
            self.flush()
        self._wait()

    def check(self) -> str:
        """Return what keeps lines from being written, or the empty string; opens the file if it is not open."""
        if self._descriptor is None and not self.problem:
            self.flush()
        return self.problem

    def flush(self) -> None:
        """Write all that is kept; what cannot be written stays."""
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            self._write_lines()
            if (self.problem or self.dropped) and not self._lines:
                self._recover()
        except BlockingIOError:
            pass  # a slow reader; the next flush is near
        except OSError as error:
            self._fail(error.strerror or str(error))

    def reopen(self) -> None:
        """Go on in a new file, if the old one was moved away; a file that nobody has written to is left alone."""
        if self._descriptor is None and not self._lines and not self.problem:
            return  # above all one that was closed: nobody would close it again
        self.flush()
        self._close()
        self.flush()

    def close(self) -> None:
        """Write what can be written, and let go of the file."""
        if self._lines or self.dropped:
            self.flush()
        self._close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lost = len(self._lines) + self.dropped
        if lost:
            log.error("{lost} lines for {path} are lost: {problem}", lost=lost, path=self.path, problem=self.problem)
            self._lines.clear()
            self._size = self.dropped = 0

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(self._flush_seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.flush()
        if self._lines or self.problem:
            self._wait()

    def _open(self) -> int:
        if self.path == STANDARD_OUTPUT:
            return os.dup(1)
        # Without O_NONBLOCK a pipe that nobody reads would stop the daemon here.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self.path, flags, 0o600)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._begun = 0  # the rest of a line is no use in another file

    def _write_lines(self) -> None:
        assert self._descriptor is not None
        kept = os.fstat(self._descriptor)
        regular = stat.S_ISREG(kept.st_mode)
        if regular and self._max_bytes and self._lines and kept.st_size + self._size - self._begun > self._max_bytes:
            raise OSError(errno.EFBIG, f"it has reached max-bytes ({self._max_bytes}); rotate it")
        while self._lines:
            data = b"".join(self._lines)[self._begun :] if regular else self._lines[0][self._begun :]
            written = self._write_some(data, regular)
            self._forget(written)

    def _write_some(self, data: bytes, regular: bool) -> int:
        assert self._descriptor is not None
        if not regular:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            if not poll.poll(0):
                raise BlockingIOError
            data = data[:_PIPE_PIECE]
        return os.write(self._descriptor, data)

    def _forget(self, written: int) -> None:
        """Let go of what is in the file."""
        written += self._begun
        while self._lines and written >= len(self._lines[0]):
            line = self._lines.popleft()
            written -= len(line)
            self._size -= len(line)
        self._begun = written

    def _fail(self, problem: str) -> None:
        if not self.problem:
            self.problem = problem
            log.error("{path} cannot be written: {problem}", path=self.path, problem=problem)
            self._wait()

    def _recover(self) -> None:
        dropped, self.dropped = self.dropped, 0
        self.problem = ""
        log.warn("{path} is written again; {dropped} lines were lost", path=self.path, dropped=dropped)
        if self._gap is not None and dropped:
            self.write(self._gap(dropped))
