"""HTTP/1.1 on the control socket: one channel for each connection, answered by `docker_tracker.control.api.Api`.

Layer: control. What is bounded: a request's head and body, the time it may take to come, and what is written for a
client that does not read: a stream pauses.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from zope.interface import implementer

from docker_tracker.control.api import Api, Reply
from docker_tracker.control.door import IControlReactor
from docker_tracker.control.peer import Caller
from docker_tracker.control.reading import MOST_BODY
from docker_tracker.control.streams import Stream

log = Logger()

#: How long a request may take to come, and how long a connection may be idle, in seconds.
_SECONDS: Final = 60


class Channel(HTTPChannel):
    """One connection.

    :param caller: Who is at its other end.
    :param made: Told when it is connected.
    :param gone: Told when it is no more.
    """

    timeOut = _SECONDS
    transport: Any

    def __init__(
        self, site: Site, caller: Caller, made: Callable[[Channel], None], gone: Callable[[Channel], None]
    ) -> None:
        super().__init__()
        self.tracker_site, self.caller = site, caller
        self.factory = None  # it would write a line for each request to the log
        self.requestFactory = self._request  # type: ignore[assignment]
        self.callLater = site.reactor.callLater  # type: ignore[method-assign,assignment]
        self._made, self._gone = made, gone

    def connectionMade(self) -> None:
        """Begin to read."""
        self._made(self)
        super().connectionMade()

    def resetTimeout(self) -> None:
        """Do nothing: the time is that of the whole request, however slowly its bytes come."""

    def abort(self) -> None:
        """Close it without waiting for a client that does not read."""
        self.transport.abortConnection()

    def _request(self, channel: Channel, queued: object) -> ControlRequest:
        return ControlRequest(channel)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is closed."""
        super().connectionLost(reason)
        self._gone(self)


@implementer(IPushProducer)
class ControlRequest(Request):
    """One request and its answer."""

    channel: Channel | None  # type: ignore[assignment]
    content: BytesIO

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.content = BytesIO()
        self._body: list[bytes] = []
        self._length = 0
        self._refused = False
        self._stream: Stream | None = None

    # Its body

    def gotLength(self, length: int | None) -> None:
        """The head is in. Too long a body is refused before it is read."""
        if length is not None and length > MOST_BODY:
            self._refuse_length()

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body is in."""
        self._length += len(data)
        if self._length > MOST_BODY:
            self._refuse_length()
        else:
            self._body.append(data)

    def _refuse_length(self) -> None:
        if self._refused:
            return
        self._refused = True
        self._body.clear()
        self.requestHeaders.removeHeader("Expect")
        channel = self.channel
        assert channel is not None
        # Not finished, as Twisted would then look for the request that the rest of the body belongs to.
        data = _json({"message": f"the body is too long: at most {MOST_BODY} bytes are read"})
        self.clientproto = b"HTTP/1.1"
        self._head(413, "application/json", len(data))
        self.setHeader("Connection", "close")
        self.write(data)
        channel.loseConnection()

    # Its answer

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All is in: answer it."""
        if self._refused:
            return
        self.method, self.uri, self.clientproto = command, path, version
        Deferred.fromCoroutine(self._answer()).addErrback(self._broken)

    async def _answer(self) -> None:
        channel = self.channel
        assert channel is not None
        api = channel.tracker_site.api
        reply = await api.answer(channel.caller, self.method.decode("latin-1"), self.uri, b"".join(self._body))
        if isinstance(reply, Stream):
            self._begin(reply)
        elif self.channel is not None:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        data = reply.body if isinstance(reply.body, bytes) else _json(reply.body)
        self._head(reply.status, reply.content_type, len(data))
        for name, value in reply.fields.items():
            self.setHeader(name, value)
        self.write(data)
        self.finish()

    def _begin(self, stream: Stream) -> None:
        if self.channel is None:
            stream.ended()
            return
        self._stream = stream
        self._head(200, "application/jsonlines", None)
        self.registerProducer(self, True)
        stream.begin(self._line, self._finish_stream)

    def _line(self, line: bytes) -> None:
        self.write(line)

    def _finish_stream(self, complete: bool) -> None:
        """End a stream's answer; one that is not complete is broken off, so that the client can tell."""
        channel, stream, self._stream = self.channel, self._stream, None
        if stream is None or channel is None:
            return
        stream.ended()
        self.unregisterProducer()
        if complete:
            self.finish()
        else:
            channel.abort()

    def _head(self, status: int, content_type: str, length: int | None) -> None:
        self.setResponseCode(status)
        self.setHeader("Content-Type", content_type)
        if length is not None:
            self.setHeader("Content-Length", str(length))

    def _broken(self, failure: Failure) -> None:
        log.failure("an answer of the control API could not be given", failure=failure)
        if self.channel is not None:
            self.channel.abort()

    # What the connection tells

    def pauseProducing(self) -> None:
        """The client does not read."""
        if self._stream is not None:
            self._stream.pause()

    def resumeProducing(self) -> None:
        """It does again."""
        if self._stream is not None:
            self._stream.resume()

    def stopProducing(self) -> None:
        """The connection is about to be lost; `connectionLost` follows."""

    def connectionLost(self, reason: Failure) -> None:
        """The client has gone."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.ended()
        super().connectionLost(reason)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


class Site:
    """What all connections share.

    :param served: See `docker_tracker.control.door.ControlService`.
    """

    def __init__(self, reactor: IControlReactor, started: float, *served: Any) -> None:
        self.reactor = reactor
        self.api = Api(reactor, started, *served)

    def channel(self, caller: Caller, made: Callable[[Channel], None], gone: Callable[[Channel], None]) -> Channel:
        """Return what a new connection is read with."""
        return Channel(self, caller, made, gone)
