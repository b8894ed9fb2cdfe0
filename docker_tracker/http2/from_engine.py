"""What the engine sends: copied; its windows are kept account of, and the ends of builds are told."""

from __future__ import annotations

from collections.abc import Callable

from docker_tracker.builds import BuildEnd, BuildOutcome, BuildStep
from docker_tracker.errors import BadFrameError, BadGrpcError
from docker_tracker.http2 import frames, grpc
from docker_tracker.http2.calls import Call, Phase
from docker_tracker.http2.connection import Connection
from docker_tracker.http2.direction import Block
from docker_tracker.http2.frames import Frame, Kind, Setting
from docker_tracker.http2.messages import read_answer


class FromEngine:
    """Reads what the engine sends.

    :param connection: Shared with the other direction.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._handlers: dict[int, Callable[[Frame], None]] = {
            Kind.DATA: self._data,
            Kind.RST_STREAM: self._reset,
            Kind.SETTINGS: self._settings,
            Kind.WINDOW_UPDATE: self._window,
        }

    def read(self) -> None:
        """Act on all that is whole, until an answer is held.

        :raises BadFrameError: the engine broke HTTP/2.
        """
        connection = self._connection
        while not (connection.over or connection.paused) and (frame := connection.engine.take()) is not None:
            if not connection.greeted and frame.kind != Kind.SETTINGS:
                raise BadFrameError("the engine's first frame is not its settings")
            if isinstance(frame, Block):
                self._headers(frame)
            elif frame.kind in self._handlers:
                self._handlers[frame.kind](frame)
            else:
                connection.to_client += frame.raw

    def _headers(self, block: Block) -> None:
        # Those of a refused call go to the client all the same: it has to follow the table that they change.
        call = self._connection.calls.get(block.stream)
        if call is not None and block.ends_stream:
            self._answered(call, block)
            return
        if call is not None:
            call.begun = True
        self._connection.to_client += block.raw

    def _data(self, frame: Frame) -> None:
        connection = self._connection
        call = connection.calls.get(frame.stream)
        if frame.stream in connection.refused:
            if frame.flow:
                connection.to_engine += frames.window_update(0, frame.flow)
            return
        if call is not None and call.step is BuildStep.SOLVE and not (call.answer.whole or call.answer.too_large):
            call.answer.feed(frame.content())
        if call is not None and frame.ends_stream:
            self._answered(call, frame)
        else:
            connection.to_client += frame.raw

    def _answered(self, call: Call, frame: Frame) -> None:
        """The engine's last frame of a call is here."""
        status, message = grpc.read_end(frame.fields) if isinstance(frame, Block) else (None, "")
        answer: dict[str, str] = {}
        problem = ""
        if call.step is BuildStep.SOLVE and status == grpc.Status.OK:
            try:
                answer = read_answer(call.answer.message())
            except BadGrpcError as error:
                problem = error.message
        sent = call.phase is Phase.SENT
        if not sent or self._connection.ledger.waits(call.stream):  # it did not wait for the request's end
            self._connection.forget(call.stream)
        outcome = BuildOutcome(
            end=BuildEnd.ANSWERED, forwarded=sent, status=status, message=message, answer=answer, problem=problem
        )
        self._connection.finish(call, outcome, frame.raw)

    def _reset(self, frame: Frame) -> None:
        connection = self._connection
        frames.read_number(frame)
        call = connection.calls.get(frame.stream)
        if frame.stream in connection.refused:
            return
        if call is not None:
            outcome = BuildOutcome(end=BuildEnd.ABORTED, forwarded=call.phase is Phase.SENT)
            connection.finish(call, outcome, frame.raw)
        else:
            connection.to_client += frame.raw
            connection.credit(0, connection.ledger.drop(frame.stream))

    def _settings(self, frame: Frame) -> None:
        connection, settings = self._connection, frames.read_settings(frame)
        if not connection.greeted and frame.flags & frames.ACK:
            raise BadFrameError("the engine's first frame is not its settings")
        connection.to_client += frame.raw
        if frame.flags & frames.ACK:
            connection.engine.headers.acknowledge()
            return
        connection.greeted = True
        connection.flush_pending()
        connection.client.obey(settings)
        connection.initial_windows.append(settings.get(Setting.INITIAL_WINDOW_SIZE))

    def _window(self, frame: Frame) -> None:
        connection, stream = self._connection, frame.stream
        increment = frames.read_number(frame)
        if not increment:
            raise BadFrameError("a window that grows by nothing")
        passed = connection.ledger.update(stream, increment)
        call = connection.calls.get(stream)
        if stream in connection.refused or (call is not None and call.client_ended):
            passed = 0  # the client has no use for it
        if passed == increment:
            connection.to_client += frame.raw
        elif passed:
            connection.to_client += frames.window_update(stream, passed)
        connection.flush()
