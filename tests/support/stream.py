"""A blocking client that sees the bytes: heads, framed bodies, raw streams, half-closes, resets."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

SECONDS = 30.0
CHUNK = 256 * 1024


def frames(data: bytes) -> dict[int, bytes]:
    """Join the frames of an output without terminal, by stream (moby: ``api/pkg/stdcopy/stdcopy.go``)."""
    found: dict[int, bytes] = {}
    while data:
        stream, size = data[0], int.from_bytes(data[4:8], "big")
        found[stream] = found.get(stream, b"") + data[8 : 8 + size]
        data = data[8 + size :]
    return found


@attrs.frozen
class Head:
    """An answer's head."""

    status: int
    reason: str
    fields: dict[str, str]
    raw: bytes


class Stream:
    """One connection.

    :param address: ``unix://PATH`` or ``tcp://HOST:PORT``.
    """

    def __init__(self, address: str, seconds: float = SECONDS) -> None:
        kind, _, where = address.partition("://")
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(seconds)
            self.socket.connect(where)
        else:
            host, _, port = where.rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout=seconds)
        self._buffer = bytearray()
        self.method = ""
        self.head: Head | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What goes out

    def send(self, data: bytes | memoryview) -> None:
        """Send all."""
        self.socket.sendall(data)

    def request(self, method: str, target: str, body: bytes | None = None, **fields: str) -> Stream:
        """Send a request.

        :param body: with its length; None: neither body nor length.
        :param fields: further ones; ``_`` in a name stands for ``-``.
        """
        self.method = method
        lines = [f"{method} {target} HTTP/1.1", "Host: docker"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b""))
        return self

    def send_chunk(self, data: bytes) -> None:
        """Send a chunk; b"" is the last."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def half_close(self) -> None:
        """Send no more."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset (on TCP; a unix socket closes, which resets if there is unread input)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Close both ways."""
        self.socket.close()

    # What comes in

    def some(self) -> bytes:
        """Read what is there; b"" at the end."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        return self.socket.recv(CHUNK)

    def read(self, size: int) -> bytes:
        """Read so many bytes. :raises EOFError: there are fewer."""
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def until(self, mark: bytes) -> bytes:
        """Read up to and with a mark."""
        while (end := self._buffer.find(mark)) < 0:
            self._fill()
        return self.read(end + len(mark))

    def rest(self) -> bytes:
        """Read to the end."""
        parts = []
        while data := self.some():
            parts.append(data)
        return b"".join(parts)

    def read_head(self) -> Head:
        """Read a head."""
        raw = self.until(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        _, status, reason = first.split(" ", 2)
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.head = Head(int(status), reason, fields, raw)
        return self.head

    def pieces(self) -> Iterator[bytes]:
        """Give the body of the answer whose head was read, as it comes."""
        assert self.head is not None
        fields, status = self.head.fields, self.head.status
        if self.method == "HEAD" or status in (204, 304):
            return
        if fields.get("transfer-encoding") == "chunked":
            while left := int(self.until(b"\r\n"), 16):
                while left:
                    data = self._at_most(left)
                    left -= len(data)
                    yield data
                self.read(2)
            self.until(b"\r\n")
        elif "content-length" in fields:
            left = int(fields["content-length"])
            while left:
                data = self._at_most(left)
                left -= len(data)
                yield data
        else:
            while data := self.some():
                yield data

    def body(self) -> bytes:
        """Read the whole body of the answer whose head was read."""
        return b"".join(self.pieces())

    def answer(self) -> tuple[int, Any]:
        """Read an answer. :returns: its status; its body as JSON, or text where it is none."""
        head = self.read_head()
        text = self.body().decode()
        try:
            return head.status, json.loads(text)
        except ValueError:
            return head.status, text

    def ended(self) -> bool:
        """Say whether nothing but the end comes; waits for it."""
        return not self.some()

    def _at_most(self, size: int) -> bytes:
        if not self._buffer:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self) -> None:
        data = self.socket.recv(CHUNK)
        if not data:
            raise EOFError(f"the connection ended after {bytes(self._buffer[:300])!r}")
        self._buffer += data


def call(address: str, method: str, target: str, document: object = None) -> tuple[int, Any]:
    """Make one request on a connection of its own. :returns: the status and the answer."""
    body = None if document is None else json.dumps(document).encode()
    fields = {} if document is None else {"Content_Type": "application/json"}
    with Stream(address) as stream:
        return stream.request(method, target, body if method != "POST" else body or b"", **fields).answer()


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait until a condition holds. :raises AssertionError: it did not within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.02)


def descriptors(process: int) -> int:
    """Count a process's open files."""
    return len(os.listdir(f"/proc/{process}/fd"))


def memory(process: int, field: str = "VmHWM") -> int:
    """Give the peak (or, by ``VmRSS``, the present) resident memory of a process, in bytes (proc(5))."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} of process {process}")


def reset_peak(process: int) -> None:
    """Begin the peak anew (proc(5): ``clear_refs``)."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
