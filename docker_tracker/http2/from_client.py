"""What the client sends: copied, but for the requests of builds, which are gathered and held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from docker_tracker.builds import BuildEnd, BuildOutcome, BuildStep
from docker_tracker.errors import BadFrameError, BadGrpcError
from docker_tracker.http2 import frames, grpc
from docker_tracker.http2.calls import Call, Phase
from docker_tracker.http2.connection import Connection
from docker_tracker.http2.direction import Block
from docker_tracker.http2.frames import Code, Frame, Kind
from docker_tracker.http2.messages import STEPS, read_request

#: How many calls are followed at a time; the engine allows 250.
MAX_CALLS: Final = 1000


class FromClient:
    """Reads what the client sends.

    :param connection: Shared with the other direction.
    :param steps: The requests that are held.
    """

    def __init__(self, connection: Connection, steps: frozenset[BuildStep]) -> None:
        self._connection, self._steps = connection, steps
        self._preface = frames.PREFACE
        self._greeted = False
        self._handlers: dict[int, Callable[[Frame], None]] = {
            Kind.DATA: self._data,
            Kind.RST_STREAM: self._reset,
            Kind.SETTINGS: self._settings,
            Kind.WINDOW_UPDATE: self._window,
        }

    @property
    def begun(self) -> bool:
        """Whether the client's preface went to the engine."""
        return not self._preface

    @property
    def owes(self) -> bool:
        """Whether the client is to go on: its preface, its settings or, before its first call, a frame is not whole."""
        connection = self._connection
        return not connection.last and (not self._greeted or connection.client.partial)

    def overdue(self) -> None:
        """:raises BadFrameError: what the client owes did not come in time."""
        if self.owes:
            raise BadFrameError("the client's preface, settings or first call did not come whole in time")

    def read(self) -> None:
        """Act on all that is whole.

        :raises BadFrameError: the client broke HTTP/2.
        """
        connection = self._connection
        if self._preface:
            self._preface = connection.client.scanner.skip(self._preface)
            if self._preface:
                return
            connection.to_engine += frames.PREFACE
        while not connection.over and (frame := connection.client.take()) is not None:
            if isinstance(frame, Block):
                self._headers(frame)
            elif frame.kind in self._handlers:
                self._handlers[frame.kind](frame)
            else:
                connection.to_engine += frame.raw

    def _headers(self, block: Block) -> None:
        connection, stream = self._connection, block.stream
        if stream in connection.calls or stream in connection.refused or connection.ledger.waits(stream):
            raise BadFrameError("a client's trailers, which gRPC does not know")
        if stream <= connection.last:  # of a call that is over, or is only copied
            connection.to_engine += block.raw
            return
        if not stream % 2:
            raise BadFrameError("a client's stream with an even number")
        if len(connection.calls) >= MAX_CALLS:
            raise BadFrameError("too many builds at a time on one connection", Code.ENHANCE_YOUR_CALM)
        connection.last = stream
        self._open(stream, block)

    def _open(self, stream: int, block: Block) -> None:
        """A new call is here: refuse it, follow it or have it copied."""
        connection = self._connection
        path, build = grpc.read_call(block.fields)
        connection.to_engine += block.raw
        why = connection.owner.opened(path, build) if path else "the path is not /package.Service/Method"
        if why:
            status = grpc.Status.PERMISSION_DENIED if path else grpc.Status.UNIMPLEMENTED
            connection.refuse(stream, status, why, begun=False, ended=block.ends_stream)
        elif STEPS.get(path) in self._steps and not block.ends_stream:
            connection.calls[stream] = Call(stream, STEPS[path], build)
            connection.ledger.open(stream)

    def _data(self, frame: Frame) -> None:
        connection, stream = self._connection, frame.stream
        call = connection.calls.get(stream)
        if stream in connection.refused:
            connection.credit(0, frame.flow)
        elif call is not None:
            connection.credit(0, frame.flow)
            connection.credit(stream, 0 if frame.ends_stream else frame.flow)
            self._gather(call, frame.content(), frame.ends_stream)
        elif connection.ledger.copies(stream, frame.flow):
            connection.to_engine += frame.raw
        else:
            content = frame.content()
            for level in (0, stream):  # padding does not go on
                connection.credit(level, frame.flow - len(content))
            connection.ledger.queue(stream, content, frame.ends_stream)
            connection.flush()
            if connection.crowded:
                raise BadFrameError("more data than the engine said that it takes", Code.FLOW_CONTROL_ERROR)

    def _gather(self, call: Call, content: bytes, ends: bool) -> None:
        """Add to a call's request; ask about it when it is whole."""
        if call.client_ended:
            raise BadFrameError("more data on a stream that its client ended")
        call.client_ended = ends
        if content and call.phase is not Phase.GATHERED:
            raise BadFrameError("a second message in a call that takes one")
        if call.phase is Phase.SENT and ends:
            self._connection.ledger.queue(call.stream, b"", ends=True)
            self._connection.flush()
        if call.phase is Phase.GATHERED:
            self._connection.gather(call, content)
            self._check(call)

    def _check(self, call: Call) -> None:
        """Ask about a request if all of it is in; refuse it if it is too large."""
        connection, request = self._connection, call.request
        if request.too_large or connection.crowded:
            why = "the request is larger than 16 MiB" if request.too_large else "too many large requests at a time"
            status = grpc.Status.RESOURCE_EXHAUSTED
            connection.refuse(call.stream, status, why, begun=call.begun, ended=call.client_ended)
            connection.end(call, None)
        elif request.whole or call.client_ended:
            if request.whole and len(request.data) > request.size:
                raise BadFrameError("a second message in a call that takes one")
            call.phase = Phase.HELD
            try:
                view = read_request(call.step, request.message(), call.build)
            except BadGrpcError as error:
                connection.owner.requested(call, error)
            else:
                connection.owner.requested(call, view)

    def _reset(self, frame: Frame) -> None:
        connection = self._connection
        frames.read_number(frame)
        if frame.stream in connection.refused:
            return
        connection.to_engine += frame.raw
        call = connection.calls.get(frame.stream)
        if call is not None:
            connection.end(call, BuildOutcome(end=BuildEnd.CANCELLED, forwarded=call.phase is Phase.SENT))
        else:
            connection.credit(0, connection.ledger.drop(frame.stream))

    def _settings(self, frame: Frame) -> None:
        connection, settings = self._connection, frames.read_settings(frame)
        connection.to_engine += frame.raw
        if not frame.flags & frames.ACK:
            self._greeted = True
            connection.engine.obey(settings)
            return
        connection.client.headers.acknowledge()
        size = connection.initial_windows.popleft() if connection.initial_windows else None
        if size is not None:  # the engine counts by it from here on
            connection.ledger.initial(size)
            connection.flush()

    def _window(self, frame: Frame) -> None:
        if frame.stream not in self._connection.refused:
            self._connection.to_engine += frame.raw
