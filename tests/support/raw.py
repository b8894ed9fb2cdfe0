"""Bytes to an address and the bytes that come back, without a reader of HTTP in between that could mend them."""

from __future__ import annotations

import enum
import socket
import time
from collections.abc import Iterable

from attrs import frozen


class End(enum.Enum):
    """How a connection was when nothing more was read from it."""

    CLOSED = "closed"
    RESET = "reset"
    SILENT = "silent"  # open, but nothing came for a while


@frozen
class Reply:
    """All that came back, and how it ended."""

    data: bytes
    end: End


def connect(address: str, seconds: float) -> socket.socket:
    """Connect to ``unix:///PATH`` or ``tcp://HOST:PORT``.

    :param seconds: for the connection and for each later wait on it.
    """
    kind, _, where = address.partition("://")
    if kind == "unix":
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(seconds)
        client.connect(where)
        return client
    host, _, port = where.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def converse(address: str, pieces: Iterable[bytes], silence: float, deadline: float = 30) -> Reply:
    """Send pieces, one write each, and read until the other end closes or has been silent for a while.

    A peer that refuses and closes while we send is no error: what it said is read all the same.

    :param silence: in seconds, after which nothing more is expected; 0.3 is long for an idle engine.
    :param deadline: in seconds, for the whole conversation.
    :raises TimeoutError: the peer neither closed nor fell silent before the deadline, or it read nothing for so long.
    """
    end = time.monotonic() + deadline
    received = bytearray()
    with connect(address, deadline) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # its answer says why
        client.settimeout(silence)
        while time.monotonic() < end:
            try:
                data = client.recv(65536)
            except TimeoutError:
                return Reply(bytes(received), End.SILENT)
            except ConnectionResetError:
                return Reply(bytes(received), End.RESET)
            if not data:
                return Reply(bytes(received), End.CLOSED)
            received += data
    raise TimeoutError(f"{address} goes on sending; so far {len(received)} bytes")
