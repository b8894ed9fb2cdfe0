"""One client connection, its one engine connection, and the exchanges on them, one after another.

Bytes that nobody asked for go from `Conversation.data` and `EngineSide.data` straight to the other wire. Where an
interceptor decides, a coroutine (`_decide`) reads from top to bottom what happens to a request before it goes on.
What a client sends behind a request waits until its answer tells what it is: another request, or raw bytes.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from docker_tracker.config import Limits
from docker_tracker.engine.catalogue import UNKNOWN
from docker_tracker.engine.document import Change, Document
from docker_tracker.engine.operation import Call, ResponseBody
from docker_tracker.engine.recognise import recognise
from docker_tracker.errors import BadBodyError, BadDocumentError, BadHeadError, EngineError, RefusedError
from docker_tracker.exchange import Answer, Edit, Exchange, Outcome, Peer
from docker_tracker.http1.framing import request_framing
from docker_tracker.http1.head import RequestHead
from docker_tracker.http1.message import read_request
from docker_tracker.http1.scanner import NO_BODY, Body, HeadScanner, LengthBody, body_for
from docker_tracker.proxy.answer import EngineSide
from docker_tracker.proxy.ask import ask, tell
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.pipe import Pipe
from docker_tracker.proxy.plan import Plan, Steps
from docker_tracker.proxy.splice import Splice, spliced
from docker_tracker.proxy.wire import Bytes, Wire

if TYPE_CHECKING:
    from docker_tracker.proxy.hub import Hub
    from docker_tracker.proxy.mediation import Mediation

log = Logger()

#: RFC 9113 section 3.4; Go's server speaks HTTP/2 to whoever begins so (``daemon/command/httphandler.go``).
PREFACE = b"PRI * HTTP/2.0\r\n\r\n"

_NOWHERE = Call(UNKNOWN, None, "")
_UNREADABLE = RequestHead(b"", 1, "-", "-")


@attrs.frozen
class Entrance:
    """What all conversations of one listener share.

    :ivar listener: The listener's address, for people.
    :ivar job_id, job: Whose clients come in here.
    :ivar plan: The job's.
    :ivar dialler: To the engine.
    :ivar limits: The bounds.
    :ivar debug: Whether each request is logged.
    """

    listener: str
    job_id: str
    job: str
    plan: Plan
    dialler: Dialler
    limits: Limits
    debug: bool = False


class _Phase:
    """Plain numbers: an Enum's members are looked up in 50 ns each, a dozen times an exchange."""

    HEAD = 0  # a request's head is awaited
    DECIDING = 1  # interceptors decide on a request; its body waits
    HOLD = 2  # a JSON body is being collected for them
    BODY = 3  # the body goes through
    WAIT = 4  # the request is on its way; its answer is awaited
    OVER = 5  # nothing more is read from the client here


class Conversation:
    """The receiver of a client's wire.

    :param hub: Where conversations are registered.
    :param wire: The client's.
    :param entrance: Where it came in.
    :param peer: Who it is.
    """

    __slots__ = (
        "_advancing",
        "_answer",
        "_body",
        "_client",
        "_decision",
        "_draining",
        "_due",
        "_engine",
        "_head",
        "_held",
        "_held_size",
        "_hub",
        "_inbox",
        "_payload",
        "_payload_size",
        "_phase",
        "_saving",
        "_scanner",
        "_splice",
        "_whole",
        "call",
        "entrance",
        "exchange",
        "peer",
        "steps",
    )

    def __init__(self, hub: Hub, wire: Wire, entrance: Entrance, peer: Peer) -> None:
        self.entrance = entrance
        self.peer = peer
        self.call: Call = _NOWHERE
        self.steps: Steps | None = None
        self.exchange: Exchange | None = None
        self._hub = hub
        self._client = wire
        self._engine: Wire | None = None
        self._answer = EngineSide(self)
        self._phase = _Phase.HEAD
        self._inbox = bytearray()
        self._scanner = HeadScanner(entrance.limits.head_bytes)
        self._body: Body = NO_BODY
        self._head: RequestHead | None = None
        self._held: list[bytes] = []
        self._payload: list[bytes] = []
        self._held_size = 0
        self._payload_size = 0
        self._whole: Deferred[None] | None = None
        self._decision: Deferred[None] | None = None
        self._advancing = False
        self._saving = False
        self._draining = False
        self._due: IDelayedCall | None = None
        self._splice: Splice | Mediation | None = None
        hub.conversations.add(self)
        wire.receiver = self

    # The receiver of the client's wire

    def data(self, data: Bytes) -> None:
        """See `Receiver.data`."""
        if self._phase == _Phase.BODY:
            try:
                self._pass_body(data)
            except BadBodyError as error:
                self._refuse(error)
            return
        self._inbox += data
        self._advance()

    def piped(self, pipe: Pipe) -> None:
        """See `Receiver.piped`: a piece of a long body, which nobody looks at."""
        assert self._engine is not None
        assert isinstance(self._body, LengthBody)
        size = pipe.length
        self._body.skip(size)
        self._count(size)
        self._engine.write_pipe(pipe)
        self._passed_body()

    def drained(self) -> None:
        """See `Receiver.drained`."""
        if self._engine is not None:
            self._engine.resume()

    def ended(self) -> None:
        """See `Receiver.ended`."""
        if self._phase == _Phase.HEAD:
            self._close()  # between requests, or in the middle of a head
        elif self._client.hung_up() or self._gave_up_http2():
            self.abort()
        elif self._phase == _Phase.HOLD:
            self._refuse(BadBodyError("the body ended before it was whole"))
        elif self._phase == _Phase.BODY and self._engine is not None:
            self._engine.end()  # the engine cannot get what is missing, and says so
            self._client.watch_hangup(self.abort)
        elif self._client.tells_hangups:
            # net/http takes the end of a client's input for the end of its interest, and would cancel the request.
            self._client.watch_hangup(self.abort)
        else:
            self._pass_end()

    def _gave_up_http2(self) -> bool:
        """Whether the client asked for HTTP/2, on which nobody has decided yet, and has not begun to speak it."""
        waits = self._phase == _Phase.DECIDING and not self._inbox
        return waits and self._head is not None and self._head.has_token("Upgrade", "h2c")

    def broken(self) -> None:
        """See `Receiver.broken`: who does not read our answer is gone."""
        self.abort()

    def lost(self, error: OSError) -> None:
        """See `Receiver.lost`."""
        # Docker's CLI ends TLS without a close_notify: that is no failure.
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            log.info("TLS with {peer} failed: {error}", peer=self.peer.address, error=error)
        self.abort()

    # Requests

    def _advance(self) -> None:
        """Act on what is in the inbox, as far as it goes."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._inbox and self._phase == _Phase.HEAD and self._take_head():
                pass
            if self._phase == _Phase.HOLD:
                self._collect()
        except RefusedError as error:
            self._refuse(error)
        finally:
            self._advancing = False
        waits = self._phase == _Phase.WAIT or self._phase == _Phase.DECIDING
        if waits and self._inbox and len(self._inbox) > self.entrance.limits.early_bytes:
            self._client.pause()

    def _take_head(self) -> bool:
        """Take a request's head off the inbox, and send it on its way. False: it is not whole."""
        inbox = self._inbox
        end = self._scanner.end(inbox)
        if not end:
            if self._due is None:
                self._due = self._hub.reactor.callLater(self.entrance.limits.head_seconds, self._overdue)
            return False
        if self._due is not None:
            self._stop_waiting()
        raw = bytes(inbox[:end])
        if raw == PREFACE:
            self._take_preface()
            return False
        request = read_request(raw)
        self._head = head = request.head
        self._body = body_for(request.framing)
        if request.is_form:
            raise BadHeadError("form bodies are not passed on: the engine would prefer their values to the query's")
        self.call = recognise(head.method, head.target)
        if self.entrance.debug:
            log.debug(
                "{method} {path}: {operation}",
                method=head.method,
                path=self.call.path,
                operation=self.call.operation.name,
            )
        self.steps = steps = self.entrance.plan.steps(self.call.operation)
        if steps is not None and steps.builds and not self._body.done:
            # The engine takes what comes behind this head for HTTP/2, whatever length was said.
            raise BadHeadError("a request for builds takes no body: HTTP/2 begins behind the answer")
        del inbox[:end]
        if steps is None:
            self._forward(raw)
            return True
        exchange = self._begin(head, steps)
        if steps.decides:
            self._phase = _Phase.DECIDING
            self._decision = Deferred.fromCoroutine(self._decide(head, steps, exchange))
            self._decision.addErrback(self._undecided)
        else:
            exchange.sent = head
            self._forward(raw)
        return True

    def _overdue(self) -> None:
        self._due = None
        seconds = self.entrance.limits.head_seconds
        self._refuse(RefusedError(f"the request's head was not whole after {seconds:g} seconds", 408))

    def _stop_waiting(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            due.cancel()

    def _begin(self, head: RequestHead, steps: Steps) -> Exchange:
        self.exchange = exchange = Exchange(
            self._hub.next_exchange(),
            self.entrance.job_id,
            self.entrance.job,
            self.entrance.listener,
            self.peer,
            self.call,
            head,
            self._hub.reactor.seconds(),
        )
        exchange.bytes_from_client = len(head.raw)
        tell(steps.started, "started", exchange)
        return exchange

    def _take_preface(self) -> None:
        if self.entrance.plan.interceptors:
            raise BadHeadError("HTTP/2 without an upgrade is not passed on; use HTTP/1.1")
        inbox, self._inbox = bytes(self._inbox), bytearray()
        self._phase = _Phase.OVER
        try:
            self._reach_engine()
        except EngineError as error:
            self.engine_failed(error)
        else:
            self._join(inbox)

    def _forward(self, head: bytes, body: bytes | None = None) -> None:
        """Send a head on, with a whole body (if given) or with as much of it as is here."""
        assert self._head is not None
        if body is None and self._inbox and not self._body.done:
            size = self._body.feed(self._inbox)
            body = bytes(self._inbox[:size])
            del self._inbox[:size]
            self._count(size)
        self._phase = _Phase.WAIT if self._body.done else _Phase.BODY
        try:
            engine = self._reach_engine()
        except EngineError as error:
            self.engine_failed(error)
            return
        self._answer.expect(self._head.method)
        engine.write(head + body if body else head)
        if self._phase == _Phase.BODY and self._client.input_ended:
            engine.end()  # what is missing does not come any more
            self._client.watch_hangup(self.abort)
        elif self._phase == _Phase.BODY and engine.queued:
            self._client.pause()
        else:
            self._client.resume()
            self._pass_end()

    def _pass_body(self, data: Bytes) -> None:
        assert self._engine is not None
        size = self._body.feed(data)
        self._count(size)
        self._engine.write(data[:size] if size < len(data) else data)
        if self._body.done:
            self._inbox += data[size:]
        self._passed_body()

    def _passed_body(self) -> None:
        """A piece of the body is on its way."""
        assert self._engine is not None
        if self._body.done:
            self._client.divert(0)
            self._phase = _Phase.WAIT
            if not self._answer.due:
                self._exchange_over(Outcome.COMPLETED)
            return
        self._client.divert(spliced(self._body, self._client, self._engine))
        if self._engine.queued:
            self._client.pause()

    def _pass_end(self) -> None:
        """Pass on that a client has ended its input, where only the engine's answer tells whether it left for good."""
        if (
            self._client.input_ended
            and not self._client.tells_hangups
            and self._phase == _Phase.WAIT
            and not self._inbox
            and self.call.operation.response is not ResponseBody.UPGRADE
            and self._engine is not None
        ):
            self._engine.end()

    def _reach_engine(self) -> Wire:
        if self._engine is None:
            self._engine = self.entrance.dialler.dial(self._answer)
        return self._engine

    def _count(self, size: int) -> None:
        if self.exchange is not None:
            self.exchange.bytes_from_client += size

    # Decisions

    async def _decide(self, head: RequestHead, steps: Steps, exchange: Exchange) -> None:
        """Let the interceptors see, change or answer a request, then send it on."""
        changed = head
        for named in steps.request_head:
            given = await self._ask(named, partial(named.interceptor.request_head, exchange, changed))
            if isinstance(given, Answer):
                return self._answered(given, named.name)
            if given is not None and given != changed:
                if request_framing(given) != request_framing(head):
                    raise RefusedError(f"docker-tracker's interceptor {named.name} changed the body's framing", 500)
                exchange.edits.append(Edit(named.name, _head_changes(changed, given)))
                changed = given
        body: bytes | None = None
        if steps.request_json:
            document = await self._whole_document()
            for named in steps.request_json:
                given = await self._ask(named, partial(named.interceptor.request_json, exchange, document))
                if isinstance(given, Answer):
                    return self._answered(given, named.name)
                if given is not None and given is not document:
                    exchange.edits.append(Edit(named.name, given.changes[len(document.changes) :]))
                    document = given
            body = b"".join(self._held)
            if changed.has_token("Expect", "100-continue"):
                changed = changed.without_field("Expect")
            if document.changed:
                was_empty, body = not body, document.encode()
                changed = _with_length(changed, len(body), was_empty)
        self._held, self._payload = [], []
        exchange.sent = changed
        self._decision = None
        self._forward(changed.raw, body)
        return None

    def _ask(self, named: Any, hook: Callable[[], Coroutine[Any, Any, Any]]) -> Coroutine[Any, Any, Any]:
        assert self.exchange is not None
        seconds = self.entrance.limits.interceptor_seconds
        return ask(named, hook, self.exchange, self._hub.reactor, seconds, lambda: self._phase == _Phase.OVER)

    async def _whole_document(self) -> Document:
        """Return the request's body as JSON, once all of it is here."""
        assert self._head is not None
        self._phase = _Phase.HOLD
        self._held, self._payload, self._held_size, self._payload_size = [], [], 0, 0
        self._collect()
        if not self._body.done:
            if self._head.minor and self._head.has_token("Expect", "100-continue"):
                self.to_client(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._client.input_ended:
                raise BadBodyError("the body ended before it was whole")
            self._client.resume()
            self._whole = Deferred()
            await self._whole
        self._phase = _Phase.DECIDING
        return Document.parse(b"".join(self._payload), self.entrance.limits.json_depth)

    def _collect(self) -> None:
        """Move what has come of a JSON body from the inbox to what is held."""
        had = len(self._payload)
        size = self._body.feed(self._inbox, self._payload)
        self._payload_size += sum(map(len, self._payload[had:]))
        self._held.append(bytes(self._inbox[:size]))
        del self._inbox[:size]
        self._count(size)
        self._held_size += size
        limit = self.entrance.limits.json_bytes
        # Twice, as a body in small chunks is longer than what it carries.
        if self._payload_size > limit or self._held_size > 2 * limit:
            raise BadDocumentError(f"the JSON body is longer than the {limit} bytes that are read", 413)
        if self._body.done and self._whole is not None:
            whole, self._whole = self._whole, None
            whole.callback(None)

    def _answered(self, answer: Answer, name: str) -> None:
        assert self.exchange is not None
        self.exchange.answer, self.exchange.answered_by = answer, name
        self._decision = None
        self._give(answer, Outcome.ANSWERED if answer.status < 400 else Outcome.REFUSED)

    def _undecided(self, failure: Failure) -> None:
        self._decision = None
        error = failure.value
        if self._phase == _Phase.OVER:
            self._finish(Outcome.CLIENT_GONE)  # the client left: there is nobody to answer
            return
        if not isinstance(error, RefusedError):
            log.failure("a request could not be decided on", failure)
            error = RefusedError("docker-tracker failed; the daemon's log says why", 500)
        self._refuse(error)

    def decide_answer(self, document: Document, release: Callable[[], None]) -> None:
        """Let the interceptors see a held answer; then release it, or refuse in its stead."""
        assert self.steps is not None
        assert self.exchange is not None
        self._saving = True
        saved = Deferred.fromCoroutine(self._save(self.steps, self.exchange, document, release))
        saved.addErrback(self._undecided)

    async def _save(self, steps: Steps, exchange: Exchange, document: Document, release: Callable[[], None]) -> None:
        """Let the interceptors save what they must; not even a client that leaves interrupts it."""
        try:
            for named in steps.response_json:
                await self._ask(named, partial(named.interceptor.response_json, exchange, document))
        finally:
            self._saving = False
        if self._phase == _Phase.OVER:
            self._finish(Outcome.CLIENT_GONE)
        else:
            release()

    # Answers

    def to_client(self, data: Bytes) -> None:
        """Send bytes of an answer to the client; stop the engine while they are queued."""
        if self.exchange is not None:
            self.exchange.bytes_to_client += len(data)
        self._client.write(data)
        if self._client.queued and self._engine is not None:
            self._engine.pause()

    def pipe_to_client(self, pipe: Pipe) -> None:
        """Send a piece of an answer that nobody looks at."""
        if self.exchange is not None:
            self.exchange.bytes_to_client += pipe.length
        self._client.write_pipe(pipe)
        if self._client.queued and self._engine is not None:
            self._engine.pause()

    def divert_answer(self, body: Body) -> None:
        """Let the rest of an answer's body come through pipes, if that is worth it."""
        if self._engine is not None:
            self._engine.divert(spliced(body, self._engine, self._client))

    def answer_done(self, last: bool) -> None:
        """The engine's answer was passed to its end; ``last``: the engine's connection cannot be used again."""
        if last:
            self._close(Outcome.COMPLETED)
        elif self._phase == _Phase.WAIT:
            self._exchange_over(Outcome.COMPLETED)

    def answer_refused(self, error: RefusedError) -> None:
        """An interceptor that guards failed while it was told of an answer."""
        self._refuse(error)

    def upgrade(self, head: bytes, rest: bytes) -> None:
        """The engine switched to raw bytes; ``rest`` came behind its head."""
        self._phase = _Phase.OVER
        inbox, self._inbox = bytes(self._inbox), bytearray()
        if self.steps is not None and self.steps.builds:
            self.to_client(head)
            self._mediate(inbox, rest)
        else:
            self.to_client(head + rest)
            self._join(inbox)

    def _mediate(self, from_client: bytes, from_engine: bytes) -> None:
        from docker_tracker.proxy.mediation import Mediation  # not imported where nobody builds

        assert self._engine is not None
        assert self.steps is not None
        assert self.exchange is not None
        limits = self.entrance.limits
        self._saving = True  # until all interceptors know of the ends of all builds
        self._splice = mediation = Mediation(
            self._client,
            self._engine,
            self.steps,
            self.exchange,
            self._hub.reactor,
            limits.interceptor_seconds,
            limits.linger_seconds,
            self._splice_over,
        )
        mediation.begin(from_client, from_engine)

    def _join(self, from_client: bytes) -> None:
        assert self._engine is not None
        self._splice = splice = Splice(
            self._client, self._engine, self.entrance.limits.linger_seconds, self._tap(), self._splice_over
        )
        splice.begin(from_client)

    def _tap(self) -> Callable[[bool, bytes], None] | None:
        steps, exchange = self.steps, self.exchange
        if steps is None or exchange is None or not steps.stream_data:
            return None

        def tap(from_client: bool, data: bytes) -> None:
            tell(steps.stream_data, "stream_data", exchange, from_client, data)

        return tap

    def _splice_over(self, from_client: int, to_client: int) -> None:
        self._saving = False
        if self.exchange is not None:
            self.exchange.bytes_from_client += from_client
            self.exchange.bytes_to_client += to_client
        self._finish(Outcome.COMPLETED)
        self._hub.conversations.discard(self)

    def _refuse(self, error: RefusedError) -> None:
        answer = Answer.error(error.status, error.message)
        if self._phase == _Phase.HEAD and self.exchange is None:
            # A head that names no operation: those that see everything see its refusal.
            self.steps = self.entrance.plan.steps(UNKNOWN)
            if self.steps is not None:
                try:
                    self._begin(self._head or _UNREADABLE, self.steps)
                except RefusedError as other:  # a guard has more against it
                    error = other
                    answer = Answer.error(error.status, error.message)
        if self.exchange is not None and self.exchange.answer is None:
            self.exchange.answer = answer
            self.exchange.answered_by = error.by or "proxy"
        log.info("refused: {message}", message=error.message, status=error.status)
        self._give(answer, Outcome.REFUSED, last=True)

    def _give(self, answer: Answer, outcome: Outcome, last: bool = False) -> None:
        """Answer in the engine's stead, if the client got nothing of another answer yet."""
        head = self._head
        silent = self._phase in (_Phase.HEAD, _Phase.DECIDING, _Phase.HOLD) or self._answer.silent
        last = last or not self._body.done or head is None or head.minor == 0 or head.has_token("Connection", "close")
        if silent:
            body = b"" if head is not None and head.method == "HEAD" else answer.body
            self.to_client(_head_of(answer, last) + body)
        if last:
            self._close(outcome)
        else:
            self._exchange_over(outcome)

    # The engine

    @property
    def engine_connecting(self) -> bool:
        """Whether the engine's connection was never made."""
        return self._engine is not None and self._engine.connecting

    def engine_drained(self) -> None:
        """The engine took all that was queued for it."""
        if self._phase == _Phase.BODY:
            self._client.resume()

    def engine_reads_no_more(self) -> None:
        """The engine refuses the rest of a request; its answer may still come, and then its end."""
        if self._phase == _Phase.BODY:
            self._client.pause()

    def engine_left(self) -> None:
        """The engine closed the connection, owing nothing."""
        self._close(Outcome.COMPLETED)

    def engine_failed(self, error: EngineError) -> None:
        """The engine is not there, broke off, or broke HTTP: say so if the client got nothing yet."""
        log.warn("{error}", error=error)
        if self.exchange is not None:
            self.exchange.answered_by = "proxy"
        waiting = self._phase in (_Phase.BODY, _Phase.WAIT) and (self._answer.silent or self._engine is None)
        if waiting:
            answer = Answer.error(error.status, error.message)
            if self.exchange is not None:
                self.exchange.answer = answer
            head = self._head
            body = b"" if head is not None and head.method == "HEAD" else answer.body
            self.to_client(_head_of(answer, last=True) + body)
        self._close(Outcome.ENGINE_FAILED)

    # Ends

    def _exchange_over(self, outcome: Outcome) -> None:
        self._finish(outcome)
        self._answer.exchange_over()
        self._head = None
        self._phase = _Phase.HEAD
        if self._draining or (self._client.input_ended and not self._inbox):
            self._close()
            return
        self._client.resume()
        self._advance()
        if self._client.input_ended and self._phase == _Phase.HEAD and not self._advancing:
            self._close()  # what is left is no whole request, and will not become one

    def _finish(self, outcome: Outcome) -> None:
        exchange, steps = self.exchange, self.steps
        if self._saving:
            return  # `_save` comes here again
        self.exchange = self.steps = None
        self.call = _NOWHERE
        if exchange is not None and steps is not None:
            with contextlib.suppress(RefusedError):  # logged; it is over, nothing is left to refuse
                tell(steps.finished, "finished", exchange, outcome)

    def _close(self, outcome: Outcome = Outcome.COMPLETED) -> None:
        """End both connections once all is flushed."""
        self._end(outcome)
        self._client.close(linger=not self._client.input_ended)
        self._close_engine()

    def _close_engine(self) -> None:
        """Let what the client sent in full still reach the engine, if it takes it within a while."""
        if self._engine is not None:
            self._engine.close()
            self._engine.set_timer(self.entrance.limits.linger_seconds, self._engine.abort)

    def abort(self, outcome: Outcome = Outcome.CLIENT_GONE) -> None:
        """End both connections now; what the client sent in full still reaches the engine."""
        if self._splice is not None:
            self._splice.finish()
        self._end(outcome)
        self._client.abort()
        self._close_engine()

    def _end(self, outcome: Outcome) -> None:
        self._phase = _Phase.OVER
        self._stop_waiting()
        self._hub.conversations.discard(self)
        self._finish(outcome)
        decision, self._decision = self._decision, None
        if decision is not None:
            decision.cancel()

    def drain(self) -> None:
        """Take no further request; close once the exchange in flight is over."""
        self._draining = True
        if self._phase == _Phase.HEAD:
            self._close()


def _head_of(answer: Answer, last: bool) -> bytes:
    try:
        reason = HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Status"
    lines = [
        f"HTTP/1.1 {answer.status} {reason}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
    ]
    if last:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _with_length(head: RequestHead, length: int, was_empty: bool) -> RequestHead:
    head = head.without_field("Transfer-Encoding").with_field("Content-Length", str(length))
    # A body that was sent without a type is the engine's to refuse; one that we made has ours.
    return head.with_field("Content-Type", "application/json") if was_empty else head


def _head_changes(old: RequestHead, new: RequestHead) -> tuple[Change, ...]:
    changes = [Change(("target",), old.target, new.target)] if old.target != new.target else []
    before, after = dict(old.fields), dict(new.fields)
    changes += [
        Change(("header", name), before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
    return tuple(changes)
