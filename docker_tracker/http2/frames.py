"""Frames of HTTP/2 (RFC 9113 section 4): found in a stream of bytes, kept as they are, and a few kinds built anew."""

from __future__ import annotations

import enum
import struct
from typing import Final

import attrs

from docker_tracker.errors import BadFrameError

Bytes = bytes | bytearray | memoryview

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE: Final = 9
#: What every peer takes, in bytes; the frames that we build are not larger.
DEFAULT_FRAME: Final = 16384
#: The most that a frame can hold: its length has 24 bits.
MAX_FRAME: Final = 2**24 - 1
MAX_WINDOW: Final = 2**31 - 1
_STREAM_BITS: Final = 2**31 - 1
_HEADER: Final = struct.Struct(">BBL")


class Kind(enum.IntEnum):
    """The types of frames that are looked at; all others are copied."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(enum.IntEnum):
    """The settings that are followed (RFC 9113 section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


class Code(enum.IntEnum):
    """Error codes that we send (RFC 9113 section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20


@attrs.frozen
class Frame:
    """One frame as it came.

    :ivar kind: Its type; any number from 0 to 255.
    :ivar flags: As sent.
    :ivar stream: 0: the connection's.
    :ivar raw: The whole frame, its nine bytes of header included.
    """

    kind: int
    flags: int
    stream: int
    raw: bytes

    @property
    def payload(self) -> bytes:
        """All behind the header."""
        return self.raw[HEADER_SIZE:]

    @property
    def flow(self) -> int:
        """What a DATA frame takes of the windows, in bytes: padding counts."""
        return len(self.raw) - HEADER_SIZE

    @property
    def ends_stream(self) -> bool:
        """Whether its sender sends no more on this stream (DATA and HEADERS)."""
        return bool(self.flags & END_STREAM)

    def content(self) -> bytes:
        """Return the payload of DATA or HEADERS without padding and priority.

        :raises BadFrameError: there is more padding than payload.
        """
        start, end = HEADER_SIZE, len(self.raw)
        if self.flags & PADDED:
            end -= self.raw[start] if end > start else end
            start += 1
        if self.kind == Kind.HEADERS and self.flags & PRIORITY:
            start += 5
        if start > end:
            raise BadFrameError("a frame has more padding than payload")
        return self.raw[start:end]


class FrameScanner:
    """Cuts a stream of bytes into frames, however the network cut it; nothing is copied but whole frames.

    :ivar limit: The largest payload that is taken, in bytes: what the other peer's settings allow.
    """

    __slots__ = ("_data", "_place", "limit")

    def __init__(self, limit: int = DEFAULT_FRAME) -> None:
        self._data = bytearray()
        self._place = 0
        self.limit = limit

    def __len__(self) -> int:
        """Return how many bytes were not taken."""
        return len(self._data) - self._place

    def feed(self, data: Bytes) -> None:
        """Add what arrived."""
        self._data += data

    def skip(self, expected: bytes) -> bytes:
        """Take what is there of some expected bytes away and return how they go on; b"": all of them were there.

        :raises BadFrameError: something else is there.
        """
        size = min(len(expected), len(self._data))
        if self._data[:size] != expected[:size]:
            raise BadFrameError("the connection does not begin as HTTP/2 does")
        del self._data[:size]
        return expected[size:]

    def take(self) -> Frame | None:
        """Take the next frame away, or return None: it is not whole yet.

        :raises BadFrameError: it is larger than allowed.
        """
        data, place = self._data, self._place
        if len(data) - place >= HEADER_SIZE:
            size = int.from_bytes(data[place : place + 3], "big")
            if size > self.limit:
                raise BadFrameError(f"a frame of {size} bytes, where {self.limit} are allowed", Code.FRAME_SIZE_ERROR)
            end = place + HEADER_SIZE + size
            if end <= len(data):
                kind, flags, stream = _HEADER.unpack_from(data, place + 3)
                self._place = end
                return Frame(kind, flags, stream & _STREAM_BITS, bytes(data[place:end]))
        del data[:place]
        self._place = 0
        return None


def build(kind: int, flags: int, stream: int, payload: Bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack(">LBL", len(payload) << 8 | kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE; ``increment`` is at least 1."""
    return build(Kind.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def rst_stream(stream: int, code: int) -> bytes:
    """Return a RST_STREAM."""
    return build(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: int, message: str) -> bytes:
    """Return a GOAWAY; ``last`` is the highest stream that was looked at."""
    return build(Kind.GOAWAY, 0, 0, struct.pack(">LL", last, code) + message.encode()[:256])


def read_number(frame: Frame) -> int:
    """Return the 31 bits that a WINDOW_UPDATE or RST_STREAM consists of.

    :raises BadFrameError: it is not of four bytes.
    """
    if len(frame.raw) != HEADER_SIZE + 4:
        raise BadFrameError(f"a frame of type {frame.kind} is not of four bytes", Code.FRAME_SIZE_ERROR)
    return int.from_bytes(frame.raw[HEADER_SIZE:], "big") & _STREAM_BITS


def read_settings(frame: Frame) -> dict[int, int]:
    """Return what a SETTINGS frame sets; of doubles the last counts.

    :raises BadFrameError: it is broken, or has a value that HTTP/2 forbids.
    """
    payload = frame.payload
    if frame.stream or len(payload) % 6 or (frame.flags & ACK and payload):
        raise BadFrameError("a broken SETTINGS frame", Code.FRAME_SIZE_ERROR)
    settings = {}
    for number, value in struct.iter_unpack(">HL", payload):
        if number == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise BadFrameError(f"an initial window of {value} bytes", Code.FLOW_CONTROL_ERROR)
        if number == Setting.MAX_FRAME_SIZE and not DEFAULT_FRAME <= value <= MAX_FRAME:
            raise BadFrameError(f"a largest frame of {value} bytes")
        settings[number] = value
    return settings
