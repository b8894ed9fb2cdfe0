"""Where heads and bodies end in a stream of bytes; nothing is kept of a body, nothing is rewritten.

A body is fed the bytes that arrived and says how many of them are its own: those go on unaltered, the rest
belongs to what comes next. On request it also gives the payload, that is the bytes without chunk framing.
What is refused is not quoted: where framing is broken, a line may be of a body.
"""

from __future__ import annotations

import re
from typing import Protocol

from docker_tracker.errors import BadBodyError, BadHeadError
from docker_tracker.http1.framing import BodyKind, Framing

Bytes = bytes | bytearray | memoryview

#: The engine's own bound: Go's net/http takes 1 MiB and some for a whole head (``net/http/server.go``).
MAX_HEAD = 1024 * 1024
#: The longest chunk line and the longest trailer section that we follow, in bytes with their line ends. The engine
#: follows no more than 4096 of either (``net/http/internal/chunked.go``, ``net/http/transfer.go``).
MAX_CHUNK_LINE = 4096
MAX_TRAILER = 65536

# Fifteen digits, since readers with 63 bits and with 64 agree on those. Space before an extension is refused, as the
# engine refuses it; space at the line's end is padding that some servers write, and that all readers skip.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*|;[\t\x20-\x7e\x80-\xff]*)\r\n")
# The end of one chunk with the line of the next, where both are here and plain: most are.
_NEXT_CHUNK = re.compile(rb"\r\n(?=[0-9A-Fa-f]*[1-9A-Fa-f])([0-9A-Fa-f]{1,15})\r\n")
_next_chunk = _NEXT_CHUNK.match
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class HeadScanner:
    """Finds the end of a head; searches each byte once, however slowly they come.

    :param limit: The most bytes that a head may have.
    """

    __slots__ = ("_limit", "_searched")

    def __init__(self, limit: int = MAX_HEAD) -> None:
        self._limit = limit
        self._searched = 0

    def end(self, data: bytes | bytearray) -> int:
        """Return where the head at the start of ``data`` ends, or 0: it is not whole yet.

        ``data`` must be what it was at the last call with more bytes behind it, until a head was found.

        :raises BadHeadError: 431, the head is longer than the limit.
        """
        start = self._searched - 2 if self._searched > 2 else 0
        found = data.find(b"\n\r\n", start)
        # A head that ends in bare LFs would never be seen to end, and the engine takes such heads: refuse it here.
        if (found == 0 or (found > 0 and data[found - 1] != 0x0D)) or (found < 0 and data.find(b"\n\n", start) >= 0):
            raise BadHeadError("the head has a bare LF in it; lines end with CR LF")
        if (found + 3 if found >= 0 else len(data)) > self._limit:
            raise BadHeadError(f"the head is longer than {self._limit} bytes", 431)
        self._searched = 0 if found >= 0 else len(data)
        return found + 3 if found >= 0 else 0


class Body(Protocol):
    """A body that is being scanned."""

    done: bool

    def feed(self, data: Bytes, payload: list[bytes] | None = None) -> int:
        """Return how many bytes at the start of ``data`` belong to this body; append its payload if asked to.

        :raises BadBodyError: the framing is broken.
        """


class NoBody:
    """A message without a body."""

    __slots__ = ()
    done = True

    def feed(self, data: Bytes, payload: list[bytes] | None = None) -> int:
        """Take nothing."""
        return 0


class LengthBody:
    """A body of a known length."""

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def feed(self, data: Bytes, payload: list[bytes] | None = None) -> int:
        """See `Body.feed`."""
        size = min(len(data), self.remaining)
        self.remaining -= size
        self.done = not self.remaining
        if payload is not None and size:
            payload.append(bytes(data[:size]))
        return size

    def skip(self, size: int) -> None:
        """Count bytes that went by unseen; not more than remain."""
        self.remaining -= size
        self.done = not self.remaining


class UntilCloseBody:
    """A body that ends with its connection; `close` is called then."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: Bytes, payload: list[bytes] | None = None) -> int:
        """See `Body.feed`."""
        if payload is not None:
            payload.append(bytes(data))
        return len(data)

    def close(self) -> None:
        """The connection ended."""
        self.done = True


class ChunkedBody:
    """A chunked body with extensions and trailers, all of which go on as they are."""

    __slots__ = ("_line", "_remaining", "_state", "_trailer", "done")

    _SIZE, _DATA, _DATA_END, _TRAILER = range(4)

    def __init__(self) -> None:
        self.done = False
        self._state = self._SIZE
        self._remaining = 0
        self._line = b""
        self._trailer = 0

    def feed(self, data: Bytes, payload: list[bytes] | None = None) -> int:
        """See `Body.feed`."""
        position, size = 0, len(data)
        while position < size and not self.done:
            if self._state == self._DATA:
                position = self._feed_chunks(data, position, size, payload)
            else:
                position += self._feed_line(data, position)
        return position

    def _feed_chunks(self, data: Bytes, position: int, size: int, payload: list[bytes] | None) -> int:
        """Take the rest of a chunk, and those behind it as far as they are here; return where that ends."""
        remaining = self._remaining
        while (end := position + remaining) <= size:
            if payload is not None:
                payload.append(bytes(data[position:end]))
            # One look for the usual way from a chunk to the next; the last one, and odd ones, line by line.
            following = _next_chunk(data, end)
            if following is None:
                self._remaining, self._state = 0, self._DATA_END
                return end
            remaining = int(following[1], 16)
            position = following.end()
        if payload is not None and position < size:
            payload.append(bytes(data[position:]))
        self._remaining = end - size
        return size

    def _feed_line(self, data: Bytes, position: int) -> int:
        """Take bytes up to the end of one line, and act on the line if it is whole."""
        # A usual line is short, and what follows it is large: look at a little of it only.
        room = MAX_CHUNK_LINE - len(self._line)
        window = bytes(data[position : position + min(room, 64)])
        end = window.find(b"\n")
        if end < 0:
            self._line += window
            if len(self._line) == MAX_CHUNK_LINE:
                raise BadBodyError(f"a chunk line or trailer is longer than {MAX_CHUNK_LINE} bytes")
            return len(window)
        line = self._line + window[: end + 1]
        self._line = b""
        self._take_line(line)
        return end + 1

    def _take_line(self, line: bytes) -> None:
        if self._state == self._SIZE:
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise BadBodyError(
                    "not a chunk line: it is a size in hexadecimal, perhaps ; and an extension, and CR LF"
                )
            self._remaining = int(match[1], 16)
            self._state = self._DATA if self._remaining else self._TRAILER
        elif self._state == self._DATA_END:
            if line != b"\r\n":
                raise BadBodyError("a chunk is longer than it said")
            self._state = self._SIZE
        elif line == b"\r\n":
            self.done = True
        else:
            self._trailer += len(line)
            if not _TRAILER_LINE.fullmatch(line):
                raise BadBodyError("not a trailer line: it is a name, a colon, a value, and CR LF")
            if self._trailer > MAX_TRAILER:
                raise BadBodyError(f"the trailers are longer than {MAX_TRAILER} bytes")


#: It has no state, so that one does for all.
NO_BODY = NoBody()
# Looked up once: an Enum's members are slow to find.
_NONE, _LENGTH, _CHUNKED = BodyKind.NONE, BodyKind.LENGTH, BodyKind.CHUNKED


def body_for(framing: Framing) -> NoBody | LengthBody | ChunkedBody | UntilCloseBody:
    """Return a scanner for a body with this framing; UPGRADE has none, what follows is no HTTP."""
    if framing.length:
        return LengthBody(framing.length)
    kind = framing.kind
    if kind is _NONE:
        return NO_BODY
    if kind is _CHUNKED:
        return ChunkedBody()
    return LengthBody(0) if kind is _LENGTH else UntilCloseBody()
