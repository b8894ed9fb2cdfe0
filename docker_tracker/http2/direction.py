"""One direction of a connection: its bytes cut into frames, with whole header blocks, read, as one."""

from __future__ import annotations

from typing import Final

import attrs

from docker_tracker.errors import BadFrameError
from docker_tracker.http2.frames import END_HEADERS, HEADER_SIZE, Bytes, Code, Frame, FrameScanner, Kind, Setting
from docker_tracker.http2.headers import Fields, HeaderReader

#: The longest header block, its frames' headers included, in bytes. A client's: engines take 1 MiB (Go's net/http), but
#: builds have less than 1 KiB, and all else waits while it is read. The engine's: what grpc-go takes; a failed build's
#: trailers have the whole Dockerfile in them.
CLIENT_BLOCK: Final = 128 * 1024
ENGINE_BLOCK: Final = 16 * 1024 * 1024

# Between the frames of a header block no other may stand (RFC 9113 section 4.3), so that a block goes on as one.
_OF_STREAMS = (Kind.DATA, Kind.HEADERS, Kind.RST_STREAM, Kind.PUSH_PROMISE, Kind.CONTINUATION)


@attrs.frozen
class Block(Frame):
    """A whole header block: a HEADERS frame and its CONTINUATION frames, whose bytes all are in ``raw``.

    :ivar fields: The wanted ones.
    """

    fields: Fields


class Direction:
    """Reads what one side sends.

    :param wanted: The names of the header fields that are returned.
    :param limit: The longest header block, in bytes.
    """

    __slots__ = ("_block", "_first", "_limit", "_raw", "headers", "scanner")

    def __init__(self, wanted: frozenset[bytes], limit: int) -> None:
        self.scanner = FrameScanner()
        self.headers = HeaderReader(wanted)
        self._limit = limit
        self._first: Frame | None = None
        self._raw = bytearray()
        self._block = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a frame or a header block began and is not whole."""
        return bool(len(self.scanner)) or self._first is not None

    def feed(self, data: Bytes) -> None:
        """Add what arrived."""
        self.scanner.feed(data)

    def take(self) -> Frame | Block | None:
        """Take the next frame or whole header block, or return None: it is not here yet.

        :raises BadFrameError: what comes next is broken or too large.
        """
        while (frame := self.scanner.take()) is not None:
            if self._first is not None or frame.kind in (Kind.HEADERS, Kind.CONTINUATION):
                block = self._gather(frame)
                if block is not None:
                    return block
            elif frame.kind in _OF_STREAMS and not frame.stream:
                raise BadFrameError(f"a frame of type {frame.kind} without a stream")
            elif frame.kind == Kind.PUSH_PROMISE:
                raise BadFrameError("a pushed answer, which gRPC does not know")
            else:
                return frame
        return None

    def _gather(self, frame: Frame) -> Block | None:
        """Return a header block if this is its last frame."""
        first = self._first
        if first is None:
            if frame.kind != Kind.HEADERS or not frame.stream:
                raise BadFrameError("a header block that does not begin with a HEADERS frame of a stream")
            self._first = first = frame
            self._block += frame.content()
        elif frame.kind != Kind.CONTINUATION or frame.stream != first.stream:
            raise BadFrameError("another frame within a header block")
        else:
            self._block += frame.raw[HEADER_SIZE:]
        self._raw += frame.raw
        if len(self._raw) > self._limit:
            raise BadFrameError(f"a header block of more than {self._limit} bytes", Code.ENHANCE_YOUR_CALM)
        if not frame.flags & END_HEADERS:
            return None
        fields = self.headers.read(bytes(self._block))
        block = Block(first.kind, first.flags, first.stream, bytes(self._raw), fields)
        self._first = None
        self._raw.clear()
        self._block.clear()
        return block

    def obey(self, settings: dict[int, int]) -> None:
        """The receiver of this direction sent settings: follow what they allow its sender.

        What they forbid it may still be on its way, so that a smaller frame size changes nothing here.
        """
        self.headers.announce(settings.get(Setting.HEADER_TABLE_SIZE))
        self.scanner.limit = max(self.scanner.limit, settings.get(Setting.MAX_FRAME_SIZE, 0))
