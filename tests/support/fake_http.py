"""The HTTP/1.1 side of the fake engine, as Go's net/http serves it: sockets, heads, bodies, and what ends a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

T = TypeVar("T")

READ = 256 * 1024

#: What a handler left of a body is read and dropped, up to so much (net/http: ``maxPostHandlerReadBytes``).
POST_HANDLER_READ = 256 * 1024

#: On every answer of a route (moby: ``daemon/server/middleware/version.go``).
ENGINE_FIELDS = {
    "Api-Version": "1.41",
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": "Docker/20.10.24 (linux)",
}
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


class HttpError(Exception):
    """An answer with Docker's ``{"message"}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@attrs.define(eq=False)
class Request:
    """A head as the routes see it, and where its body comes from."""

    method: str
    path: str
    query: dict[str, list[str]]
    fields: dict[str, str]
    connection: Connection
    left: int | None = 0
    """Bytes of the body that are not read yet; None: chunked, and not at its end."""

    def option(self, name: str, default: str = "") -> str:
        """Give the first value of a query parameter."""
        return self.query.get(name, [default])[0]

    def asked(self, name: str) -> bool:
        """Say whether a query parameter is true, as moby reads it (``daemon/server/httputils/form.go``)."""
        return self.option(name).lower() not in ("", "0", "no", "false", "none")

    async def body(self) -> AsyncIterator[bytes]:
        """Give the body's bytes as they come."""
        if self.fields.get("expect", "").lower() == "100-continue":
            del self.fields["expect"]
            await self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while self.left:
            data = await self.connection.take(self.left)
            self.left -= len(data)
            yield data
        while self.left is None:
            size = int((await self.connection.line()).partition(b";")[0], 16)
            while size:
                data = await self.connection.take(size)
                size -= len(data)
                if not size:
                    await self.connection.line()
                yield data
                if not size:
                    size = int((await self.connection.line()).partition(b";")[0], 16)
            while await self.connection.line():
                pass
            self.left = 0

    async def document(self) -> dict[str, object]:
        """Give the JSON body, as ``CheckForJSON`` and ``ReadJSON`` of moby do."""
        text = b"".join([data async for data in self.body()])
        kind = self.fields.get("content-type", "")
        if text and kind.partition(";")[0].strip().lower() != "application/json":
            raise HttpError(400, f"Content-Type specified ({kind}) must be 'application/json'")
        try:
            document = json.loads(text or b"{}")
        except ValueError as error:
            raise HttpError(400, f"invalid JSON: {error}") from None
        return dict(document)

    async def drop_rest(self) -> bool:
        """Read what the handler left of the body, within bounds. :returns: whether the connection can be kept."""
        if self.left is not None and self.left > POST_HANDLER_READ:
            return False
        dropped = 0
        async for data in self.body() if "expect" not in self.fields else _nothing():
            dropped += len(data)
            if dropped > POST_HANDLER_READ:
                return False
        return self.left == 0


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for data in nothing:
        yield data


class Connection:
    """One client's connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._keep = True
        self._chunked = False
        self.answered = False

    async def request(self) -> Request | None:
        """Read a head. :returns: None at the connection's end."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._fill():
                return None
        first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, target, version = first.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        split = urlsplit(target)
        chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        left = None if chunked else int(fields.get("content-length", "0"))
        self._keep = version == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
        self._chunked = self.answered = False
        query = parse_qs(split.query, keep_blank_values=True)
        return Request(method, unquote(split.path), query, fields, self, left)

    async def line(self) -> bytes:
        """Read a line, without its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if not await self._fill():
                raise ConnectionResetError("the client left within its body")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def take(self, most: int) -> bytes:
        """Read some bytes, at most so many. :raises ConnectionResetError: the input ended."""
        if not self._buffer and not await self._fill():
            raise ConnectionResetError("the client left within its body")
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data

    async def raw(self) -> bytes:
        """Read some bytes of a stream; b"" at its end."""
        try:
            return await self.take(READ)
        except OSError:
            return b""

    async def _fill(self) -> bool:
        data = await self._loop.sock_recv(self._socket, READ)
        self._buffer += data
        return bool(data)

    async def send(self, data: bytes | memoryview) -> None:
        """Send all; waits while the client does not read."""
        await self._loop.sock_sendall(self._socket, data)

    async def begin(self, request: Request, status: int, fields: dict[str, str | None] | None = None) -> None:
        """Send a head, at once, for a chunked body by `chunk` and `finish`."""
        self._chunked = True
        await self._head(status, {"Transfer-Encoding": "chunked", **(fields or {})})

    async def chunk(self, data: bytes) -> None:
        """Send some bytes of the answer, if any."""
        if data:
            await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def line_of(self, document: object) -> None:
        """Send a JSON line."""
        await self.chunk(json.dumps(document).encode() + b"\r\n")

    async def finish(self, request: Request) -> bool:
        """End a chunked answer. :returns: whether the connection can be kept."""
        if self._chunked:
            self._chunked = False
            await self.send(b"0\r\n\r\n")
        return await request.drop_rest() and self._keep

    async def answer(
        self, request: Request, status: int, document: object = None, fields: dict[str, str | None] | None = None
    ) -> bool:
        """Send a whole answer.

        :param document: sent as JSON, or as it is if bytes; None: no body.
        :returns: whether the connection can be kept.
        """
        body = document if isinstance(document, bytes) else b""
        more: dict[str, str | None] = {}
        if document is not None and not isinstance(document, bytes):
            body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
            more["Content-Type"] = "application/json"
        if status not in (204, 304):
            more["Content-Length"] = str(len(body))
        keep = await request.drop_rest() and self._keep
        if not keep:
            more["Connection"] = "close"
        await self._head(status, {**more, **(fields or {})}, b"" if request.method == "HEAD" else body)
        return keep

    async def _head(self, status: int, fields: dict[str, str | None], body: bytes = b"") -> None:
        self.answered = True
        every = {**ENGINE_FIELDS, "Date": DATE, **fields}
        lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in every.items() if value)]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def hijack(self, request: Request, fields: dict[str, str] | None = None, protocol: str = "") -> None:
        """Switch to raw bytes; what came with the request is lost (moby: ``daemon/server/httputils/httputils.go``)."""
        self.answered = True
        if protocol:
            head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
        elif "upgrade" in request.fields:
            head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
            head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        else:
            head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
        self._buffer.clear()
        more = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        await self.send((head + more + "\r\n").encode())

    async def unless_left(self, waiting: Awaitable[T]) -> T | None:
        """Wait for something, or for the end of the client's input, which cancels a request.

        :returns: None: the input ended.
        """
        task = asyncio.ensure_future(waiting)
        end = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, end):
                each.cancel()
            await asyncio.gather(task, end, return_exceptions=True)

    async def _watch(self) -> None:
        with contextlib.suppress(OSError):
            if await self._fill():
                await asyncio.Event().wait()  # a pipelined request: net/http stops watching

    async def end_stream(self) -> None:
        """End a hijacked stream: shut the writing side, and close when the client does."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while await self._fill():
                self._buffer.clear()

    async def refuse_rest(self) -> None:
        """Leave though input is unread, soon: the sender is reset (net/http: ``closeWriteAndWait``)."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)

    def drop(self) -> None:
        """Shut it both ways, whatever it is at."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._socket.close()
