"""gRPC over HTTP/2, as far as it is needed: a call's path, the first message on a stream, and how a call ends."""

from __future__ import annotations

import enum
import re
import struct
from typing import Final
from urllib.parse import unquote_to_bytes

from docker_tracker.errors import BadFrameError, BadGrpcError
from docker_tracker.http2.headers import STATUS_OK, Fields, literal

#: What grpc-go takes at most, and with it the engine and its clients.
MAX_MESSAGE: Final = 16 * 1024 * 1024
PREFIX_SIZE: Final = 5
#: Of a build's ID, in bytes: clients make them of 25.
MAX_ID: Final = 256

#: The fields that are read, from clients and from the engine.
CLIENT_FIELDS: Final = frozenset((b":path", b"buildkit-controlapi-buildid"))
ENGINE_FIELDS: Final = frozenset((b"grpc-status", b"grpc-message"))

# The engine's net/http decodes a path, and cuts off a query, before grpc-go looks for the method: a second spelling of
# a method would go round those who decide by its name.
_PATH = re.compile(rb"/[A-Za-z0-9_.]+/[A-Za-z0-9_]+")
_MESSAGE_CHARACTERS = 500


class Status(enum.IntEnum):
    """The statuses that are given here (google.golang.org/grpc/codes)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


def read_call(fields: Fields) -> tuple[str, str]:
    """Return the path and the build ID of a new stream's headers; "": it has none that the engine or we would take.

    :raises BadFrameError: there are two paths.
    """
    paths, builds = fields.get(b":path", []), fields.get(b"buildkit-controlapi-buildid", [])
    if len(paths) > 1:
        raise BadFrameError("a request has two paths")
    path = paths[0] if paths and _PATH.fullmatch(paths[0]) else b""
    # The engine takes two of them for none (client/buildid/metadata.go).
    build = builds[0] if len(builds) == 1 and len(builds[0]) <= MAX_ID else b""
    return path.decode(), build.decode("utf-8", "backslashreplace")


def read_end(fields: Fields) -> tuple[int | None, str]:
    """Return the status and the message of the headers that end a stream; None: they have no status."""
    status, message = fields.get(b"grpc-status", [b""])[-1], fields.get(b"grpc-message", [b""])[-1]
    number = int(status) if status.isdigit() and len(status) < 4 else None
    return number, unquote_to_bytes(message).decode("utf-8", "replace")


def refusal(status: int, message: str, begun: bool) -> bytes:
    """Return the header block that ends a call.

    :param begun: Whether the client has the headers of an answer already.
    """
    kept = message[:_MESSAGE_CHARACTERS].encode()
    text = b"".join(b"%c" % byte if 0x20 <= byte < 0x7F and byte != 0x25 else b"%%%02X" % byte for byte in kept)
    head = b"" if begun else STATUS_OK + literal(b"content-type", b"application/grpc")
    return head + literal(b"grpc-status", b"%d" % status) + literal(b"grpc-message", text)


def wrap(message: bytes) -> bytes:
    """Return a message with its prefix, uncompressed."""
    return struct.pack(">BL", 0, len(message)) + message


class Collector:
    """Gathers the first message on a stream.

    :ivar data: All that came, with the prefix.
    :ivar size: Of the whole message with its prefix, in bytes, once that is known; else 0.
    """

    __slots__ = ("data", "size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self.data += data
        if not self.size and len(self.data) >= PREFIX_SIZE:
            self.size = PREFIX_SIZE + int.from_bytes(self.data[1:PREFIX_SIZE], "big")

    @property
    def whole(self) -> bool:
        """Whether the message is in."""
        return 0 < self.size <= len(self.data)

    @property
    def too_large(self) -> bool:
        """Whether it says that it is longer than gRPC takes."""
        return self.size > PREFIX_SIZE + MAX_MESSAGE

    def message(self) -> bytes:
        """Return the message without its prefix.

        :raises BadGrpcError: it cannot be read, or is not the only one.
        """
        if not self.whole:
            raise BadGrpcError("the message is cut off")
        if self.data[0]:
            raise BadGrpcError("the message is compressed, which no known client does")
        return bytes(memoryview(self.data)[PREFIX_SIZE : self.size])
