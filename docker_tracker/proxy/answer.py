"""The engine's side of a conversation: reads answers, and passes, copies or holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import ResponseBody
from docker_tracker.errors import (
    BadBodyError,
    BadDocumentError,
    BadHeadError,
    EngineError,
    EngineProtocolError,
    RefusedError,
    TrackerError,
)
from docker_tracker.http1.framing import BodyKind
from docker_tracker.http1.head import ResponseHead
from docker_tracker.http1.message import Response, read_response
from docker_tracker.http1.scanner import NO_BODY, Body, HeadScanner, LengthBody, UntilCloseBody, body_for
from docker_tracker.proxy.ask import tell
from docker_tracker.proxy.pipe import Pipe
from docker_tracker.proxy.wire import Bytes

if TYPE_CHECKING:
    from docker_tracker.proxy.conversation import Conversation

log = Logger()


class _Phase:
    """Plain numbers, as in `docker_tracker.proxy.conversation`."""

    IDLE = 0  # no answer is due
    HEAD = 1  # one is due
    PASS = 2  # its body goes through
    HOLD = 3  # its body is kept until interceptors are done
    DONE = 4  # the answer is whole, its request is not
    SUM = 5  # its body is read to its end, and summed up


#: Most heads are shorter; where one is, nothing is copied but it.
_USUAL = 2048


class LineSplitter:
    """Cuts a stream of JSON lines; lines over the limit are passed by.

    :param limit: The longest line that is kept, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now."""
        *whole, rest = (self._line + data).split(b"\n")
        if self._skipping and whole:
            del whole[0]
            self._skipping = False
        if len(rest) > self._limit or self._skipping:
            self._skipping, rest = True, b""
        self._line = rest
        return [line.strip() for line in whole if line.strip() and len(line) <= self._limit]


class EngineSide:
    """The receiver of the engine's wire.

    :param conversation: Whose engine it is.
    """

    __slots__ = (
        "_body",
        "_conversation",
        "_gone",
        "_held",
        "_held_size",
        "_inbox",
        "_last",
        "_lines",
        "_method",
        "_payload",
        "_phase",
        "_scanner",
    )

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._phase = _Phase.IDLE
        self._gone = False
        self._inbox = bytearray()
        self._scanner = HeadScanner(conversation.entrance.limits.head_bytes)
        self._body: Body = NO_BODY
        self._last = False
        self._method = ""
        self._held: list[bytes] = []
        self._held_size = 0
        self._payload: list[bytes] | None = None
        self._lines: LineSplitter | None = None

    @property
    def due(self) -> bool:
        """Whether the answer to the exchange is not whole yet."""
        return self._phase in (_Phase.HEAD, _Phase.PASS, _Phase.HOLD, _Phase.SUM)

    @property
    def silent(self) -> bool:
        """Whether the client got nothing of the answer yet, so that we may answer instead."""
        return self._phase in (_Phase.HEAD, _Phase.HOLD, _Phase.SUM)

    def expect(self, method: str) -> None:
        """An exchange's request is on its way: the next bytes are its answer."""
        self._phase = _Phase.HEAD
        self._method = method

    def exchange_over(self) -> None:
        """The exchange is over; what comes now was not asked for."""
        self._phase = _Phase.IDLE
        self._payload = self._lines = None

    # The receiver

    def data(self, data: Bytes) -> None:
        """See `Receiver.data`."""
        try:
            if self._phase == _Phase.PASS:
                self._pass(data)
            elif self._phase == _Phase.HEAD:
                self._take_heads(data)
            elif self._phase == _Phase.HOLD and not self._body.done:
                self._hold(bytes(data))
            elif self._phase == _Phase.SUM:
                self._sum_up(data)
            else:
                raise EngineProtocolError("the engine sent bytes that nobody asked for")
        except (EngineError, RefusedError) as error:
            self._failed(error)

    def piped(self, pipe: Pipe) -> None:
        """See `Receiver.piped`: a piece of a long body, which nobody looks at."""
        assert isinstance(self._body, LengthBody)
        self._body.skip(pipe.length)
        self._conversation.pipe_to_client(pipe)
        self._conversation.divert_answer(self._body)
        if self._body.done:
            self._done()

    def _failed(self, error: EngineError | RefusedError) -> None:
        """The answer cannot be passed on: the engine broke HTTP, or a guard failed while it was told."""
        if isinstance(error, BadHeadError | BadBodyError):
            error = EngineProtocolError(f"the engine's answer is not HTTP/1.1: {error}")
        if isinstance(error, EngineError):
            self._conversation.engine_failed(error)
        else:
            self._conversation.answer_refused(error)

    def drained(self) -> None:
        """See `Receiver.drained`."""
        self._conversation.engine_drained()

    def ended(self) -> None:
        """See `Receiver.ended`."""
        if isinstance(self._body, UntilCloseBody) and self._phase in (_Phase.PASS, _Phase.HOLD, _Phase.SUM):
            self._body.close()
            try:
                self._end_body()
            except (EngineError, RefusedError) as error:
                self._failed(error)
        self._left("closed the connection")

    def _end_body(self) -> None:
        """The end of the connection was the end of the body."""
        if self._phase == _Phase.HOLD:
            self._release()
            return
        if self._lines is not None:
            self._tell_lines()  # the last one needs no line end
        if self._phase == _Phase.SUM:
            self._answer_summary()
        self._done()

    def broken(self) -> None:
        """See `Receiver.broken`."""
        self._conversation.engine_reads_no_more()

    def lost(self, error: OSError) -> None:
        """See `Receiver.lost`."""
        self._left(error.strerror or str(error))

    def _left(self, how: str) -> None:
        entrance = self._conversation.entrance
        self._gone = True
        if self._phase == _Phase.HOLD and self._body.done:
            return  # the answer is whole; it is released when the interceptors are done
        if self._phase == _Phase.HEAD and self._conversation.engine_connecting:
            self._conversation.engine_failed(entrance.dialler.unavailable(how))
        elif self.due:
            self._conversation.engine_failed(
                EngineError(f"the engine at {entrance.dialler.address} broke off before its answer was whole: {how}")
            )
        else:
            self._conversation.engine_left()

    # Heads

    def _take_heads(self, data: Bytes) -> None:
        """Read what begins with a head; what follows the final one goes on from where it lies."""
        while True:
            start: bytes | bytearray = self._inbox or bytes(data[:_USUAL])
            if start is self._inbox:
                self._inbox += data
            end = self._scanner.end(start)
            if not end and start is not self._inbox:
                self._inbox += data
                end = self._scanner.end(self._inbox)
            if not end:
                return
            if self._inbox:
                start = data = bytes(self._inbox)
                self._inbox.clear()
            response = read_response(bytes(start[:end]), self._method)
            if not 100 <= response.head.status < 200 or response.head.status == 101:
                self._take_final(response, data, end)
                return
            self._conversation.to_client(response.head.raw)
            data = data[end:]

    def _take_final(self, response: Response, data: Bytes, end: int) -> None:
        conversation = self._conversation
        head, framing = response.head, response.framing
        call, steps, exchange = conversation.call, conversation.steps, conversation.exchange
        hijacked = call.operation.hijack and framing.kind is BodyKind.UNTIL_CLOSE and 200 <= head.status < 300
        if exchange is not None:
            exchange.response = head
            if steps is not None:
                tell(steps.response_head, "response_head", exchange, head)
                self._watch_body(head)
        if hijacked or framing.kind is BodyKind.UPGRADE:
            self._phase = _Phase.DONE
            conversation.upgrade(head.raw, bytes(data[end:]))
            return
        self._body = body_for(framing)
        self._last = response.closes  # requests that came with this one are left unanswered
        if steps is not None and steps.response_json and 200 <= head.status < 300:
            self._phase = _Phase.HOLD
            self._held, self._payload, self._held_size = [head.raw], [], 0
            self._hold(bytes(data[end:]))
            return
        if self._lines is not None and exchange is not None and exchange.summary is not None:
            self._phase = _Phase.SUM
            self._sum_up(data[end:])
            return
        self._pass(data, end)

    def _watch_body(self, head: ResponseHead) -> None:
        conversation = self._conversation
        steps = conversation.steps
        copies = steps is not None and steps.response_line and 200 <= head.status < 300
        if copies and conversation.call.operation.response is ResponseBody.LINES:
            self._payload, self._lines = [], LineSplitter(conversation.entrance.limits.line_bytes)

    # Bodies

    def _pass(self, data: Bytes, start: int = 0) -> None:
        """Pass bytes on as they lie: of a body from ``start`` on, and of a head before it.

        Interceptors hear of lines first: a client that is gone keeps nothing from them.
        """
        size = start + self._body.feed(data[start:] if start else data, self._payload)
        if self._lines is not None:
            self._tell_lines()
        self._phase = _Phase.PASS  # only now: until then the client can be told of a failure
        if size:
            self._conversation.to_client(data[:size] if size < len(data) else data)
        if self._body.done:
            self._done(len(data) - size)
        elif self._lines is None:
            self._conversation.divert_answer(self._body)

    def _sum_up(self, data: Bytes) -> None:
        size = self._body.feed(data, self._payload)
        self._tell_lines()
        if self._body.done:
            self._answer_summary()
            self._done(len(data) - size)

    def _answer_summary(self) -> None:
        exchange = self._conversation.exchange
        if exchange is None or exchange.summary is None or exchange.response is None:
            return  # the client is gone
        body = exchange.summary.end()
        head = exchange.response.without_field("Transfer-Encoding").with_field("Content-Length", str(len(body)))
        self._conversation.to_client(head.raw + body)

    def _tell_lines(self) -> None:
        conversation = self._conversation
        steps, exchange = conversation.steps, conversation.exchange
        if steps is None or exchange is None:
            return  # the client is gone
        assert self._lines is not None
        assert self._payload is not None
        data = b"".join(self._payload) + (b"\n" if self._body.done else b"")
        self._payload.clear()
        for line in self._lines.feed(data):
            try:
                document = Document.parse(line)
            except BadDocumentError:
                continue  # the promise is "lines that are JSON"; the client gets it as it is
            if exchange.summary is not None:
                exchange.summary.line(line, document)
            tell(steps.response_line, "response_line", exchange, document)

    def _hold(self, data: bytes) -> None:
        assert self._payload is not None
        size = self._body.feed(data, self._payload)
        self._held.append(data[:size])
        self._held_size += size
        limit = self._conversation.entrance.limits.json_bytes
        # Twice, as a body in small chunks is longer than what it carries; the head is bounded by itself.
        if self._held_size > 2 * limit:
            raise EngineProtocolError(f"the engine's answer is longer than the {2 * limit} bytes that are held")
        if self._body.done:
            if size < len(data):
                raise EngineProtocolError("the engine sent bytes that nobody asked for")
            self._release()

    def _release(self) -> None:
        assert self._payload is not None
        try:
            document = Document.parse(b"".join(self._payload))
        except TrackerError as error:
            raise EngineProtocolError(f"the engine's answer is not the JSON it should be: {error}") from error
        self._conversation.decide_answer(document, self._released)

    def _released(self) -> None:
        """All interceptors are done with the held answer."""
        self._conversation.to_client(b"".join(self._held))
        self._held = []
        self._done()

    def _done(self, surplus: int = 0) -> None:
        self._phase = _Phase.DONE
        if surplus:
            log.warn("the engine sent {surplus} bytes behind its answer; its connection ends", surplus=surplus)
        self._conversation.answer_done(last=surplus > 0 or self._gone or self._last)
