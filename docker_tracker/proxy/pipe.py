"""Pipes through which the kernel moves bytes from socket to socket without showing them to us (splice(2)).

A pipe is two descriptors, so it is borrowed only while bytes are in it. On unix sockets, splicing costs half the CPU
of copying; it needs both sides plain, and nobody who wants to see the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

#: How much a pipe holds, in bytes; the most that an unprivileged process may ask for by default (pipe(7)).
SIZE = 1024 * 1024
#: From how many bytes on splicing is worth a pipe.
WORTH = 65536
#: How many empty pipes are kept.
_KEPT = 16

_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE if hasattr(os, "splice") else 0


class Pipe:
    """A pipe with some bytes in it."""

    __slots__ = ("_read", "_write", "length")

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.length = 0
        with contextlib.suppress(OSError):  # a user with many pipes gets smaller ones, which work as well
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, SIZE)

    def __len__(self) -> int:
        return self.length

    def fill(self, descriptor: int, most: int) -> int:
        """Move bytes from a socket into the empty pipe; return how many, 0 at the end of the socket's input.

        :raises OSError: as recv does.
        """
        self.length = os.splice(descriptor, self._write, min(most, SIZE), flags=_FLAGS)
        return self.length

    def drain(self, descriptor: int) -> int:
        """Move bytes from the pipe to a socket; return how many.

        :raises OSError: as send does.
        """
        moved = os.splice(self._read, descriptor, self.length, flags=_FLAGS)
        self.length -= moved
        return moved

    def close(self) -> None:
        """Give the descriptors back; what is in it is lost."""
        os.close(self._read)
        os.close(self._write)


class Pipes:
    """Empty pipes, ready to be borrowed."""

    def __init__(self) -> None:
        self._kept: list[Pipe] = []
        #: Whether pipes can be had at all; a kernel that cannot splice these sockets says so at the first try.
        self.usable = hasattr(os, "splice")

    def take(self) -> Pipe | None:
        """Return an empty pipe, or None: there are no descriptors for one now."""
        if self._kept:
            return self._kept.pop()
        try:
            return Pipe()
        except OSError:
            return None

    def give(self, pipe: Pipe) -> None:
        """Take a pipe back; one that is not empty is closed."""
        if pipe.length or len(self._kept) >= _KEPT:
            pipe.close()
        else:
            self._kept.append(pipe)

    def close(self) -> None:
        """Close all."""
        while self._kept:
            self._kept.pop().close()
