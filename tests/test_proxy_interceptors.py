"""Playbooks: what interceptors are shown, what they can change, and what happens when they fail."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from docker_tracker.builds import BuildEdit, BuildOutcome, BuildRequest
from docker_tracker.config import Limits
from docker_tracker.counts import Counts
from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Answer, Exchange, Outcome, Stage
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.interfaces import IInterceptor
from docker_tracker.proxy.plan import Named
from tests.support.wires import Wires

EVERYTHING = ~Stage.NOTHING
CREATED = b'HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\n{"Id":"ab"}'
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
PONG = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


def create(body: bytes = b'{"Image":"a"}', extra: bytes = b"") -> bytes:
    """Return a container create as clients send it."""
    return (
        b"POST /v1.41/containers/create?name=x HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
        b"%sContent-Length: %d\r\n\r\n" % (extra, len(body))
    ) + body


@implementer(IInterceptor)
@attrs.define
class Recording:
    """Writes down what it is told and shown, and does what a test says.

    :ivar stages: What it wants of every operation.
    :ivar does: By hook, what to do when it is called.
    """

    stages: Stage = EVERYTHING
    fail_closed: bool = True
    does: dict[str, Callable[..., Any]] = attrs.field(factory=dict)
    seen: list[str] = attrs.field(factory=list)
    exchanges: list[Exchange] = attrs.field(factory=list)
    outcomes: list[Outcome] = attrs.field(factory=list)

    def wants(self, operation: Operation) -> Stage:
        return self.stages

    def _note(self, hook: str, exchange: Exchange, *arguments: Any) -> Any:
        self.seen.append(hook)
        return self.does.get(hook, lambda *_: None)(exchange, *arguments)

    def started(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self._note("started", exchange)

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | Answer | None:
        return cast(RequestHead | Answer | None, await _settled(self._note("request_head", exchange, head)))

    async def request_json(self, exchange: Exchange, document: Document) -> Document | Answer | None:
        return cast(Document | Answer | None, await _settled(self._note("request_json", exchange, document)))

    def response_head(self, exchange: Exchange, head: ResponseHead) -> None:
        self._note(f"response_head {head.status}", exchange, head)

    async def response_json(self, exchange: Exchange, document: Document) -> None:
        await _settled(self._note("response_json", exchange, document))

    def build_call(self, exchange: Exchange, path: str, build: str) -> None:
        self._note("build_call", exchange, path, build)

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        return cast(BuildEdit | None, await _settled(self._note("build_request", exchange, request)))

    async def build_finished(self, exchange: Exchange, request: BuildRequest, outcome: BuildOutcome) -> None:
        await _settled(self._note("build_finished", exchange, request, outcome))

    def response_line(self, exchange: Exchange, document: Document) -> None:
        self._note(f"line {document.encode().decode()}", exchange, document)

    def stream_data(self, exchange: Exchange, from_client: bool, data: bytes) -> None:
        self._note(f"{'>' if from_client else '<'} {data.decode()}", exchange)

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._note("finished", exchange, outcome)

    async def stop(self) -> None:
        """Nothing is open."""


async def _settled(result: Any) -> Any:
    return await result if isinstance(result, (Deferred, Coroutine)) else result


def raising(error: Exception) -> Callable[..., Any]:
    """Return a hook that fails."""

    def hook(*_: object) -> None:
        raise error

    return hook


class StagesTests(SynchronousTestCase):
    """Hooks are called in order, once, with what is complete then."""

    def test_json_both_ways(self) -> None:
        """A create: started, head, JSON, the answer's head and JSON, finished; bytes are untouched."""
        one, two = Recording(), Recording()
        wires = Wires(Named("one", one), Named("two", two))
        wires.client.sends(create())
        self.assertEqual(wires.engine.received, create())
        wires.engine.sends(CREATED)
        self.assertEqual(wires.client.received, CREATED)
        expected = ["started", "request_head", "request_json", "response_head 201", "response_json", "finished"]
        self.assertEqual(one.seen, expected)
        self.assertEqual(two.seen, expected)
        exchange = one.exchanges[0]
        self.assertIs(exchange, two.exchanges[0])
        self.assertEqual(one.outcomes, [Outcome.COMPLETED])
        self.assertEqual(exchange.call.operation.name, "container_create")
        self.assertEqual((exchange.status, exchange.job, exchange.peer.pid), (201, "default", 1))
        self.assertEqual(exchange.bytes_from_client, len(create()))
        self.assertEqual(exchange.bytes_to_client, len(CREATED))
        self.assertEqual(exchange.sent, exchange.received)
        self.assertEqual(exchange.edits, [])

    def test_any_split(self) -> None:
        """Where the network cuts makes no difference."""
        request = create(b'{"Image":"a","Labels":{}}')
        for cut in range(1, len(request)):
            recording = Recording()
            wires = Wires(Named("one", recording))
            wires.client.sends(request[:cut])
            wires.client.sends(request[cut:])
            self.assertEqual(wires.engine.received, request)
            half = cut % len(CREATED)
            wires.engine.sends(CREATED[:half])
            wires.engine.sends(CREATED[half:])
            self.assertEqual(wires.client.received, CREATED)
            self.assertEqual(len(recording.seen), 6)

    def test_not_asked(self) -> None:
        """What nobody wants makes no exchange."""
        recording = Recording(stages=Stage.NOTHING)
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        wires.engine.sends(CREATED)
        self.assertEqual(recording.seen, [])
        self.assertEqual(wires.client.received, CREATED)

    def test_stream(self) -> None:
        """Bytes of an upgraded stream are shown each way."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /containers/ab/attach?stream=1 HTTP/1.1\r\nUpgrade: tcp\r\n\r\nin")
        wires.engine.sends(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        wires.engine.sends(b"out")
        wires.client.leaves()
        self.assertEqual(recording.seen, ["started", "request_head", "response_head 101", "> in", "< out", "finished"])
        self.assertEqual(recording.outcomes, [Outcome.COMPLETED])
        self.assertEqual(recording.exchanges[0].bytes_to_client, len(b"HTTP/1.1 101 UPGRADED\r\n\r\nout"))

    def test_lines(self) -> None:
        """JSON lines are copied, however they are chunked; what is no JSON or too long is passed by."""
        body = b'{"stream":"a"}\r\n{"aux":{"ID":"x"}}\nnonsense\n\n' + b'{"a":"' + b"b" * 2000 + b'"}\n{"last":1}'
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for size in (1, 7, 5000):
            recording = Recording()
            wires = Wires(Named("one", recording), limits=Limits(line_bytes=1024))
            wires.client.sends(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntar")
            wires.engine.sends(answer)
            sent = answer
            for start in range(0, len(body), size):
                piece = body[start : start + size]
                chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
                wires.engine.sends(chunk)
                sent += chunk
            wires.engine.sends(b"0\r\n\r\n")
            self.assertEqual(wires.client.received, sent + b"0\r\n\r\n")
            lines = [seen for seen in recording.seen if seen.startswith("line")]
            self.assertEqual(lines, ['line {"stream":"a"}', 'line {"aux":{"ID":"x"}}', 'line {"last":1}'], size)

    def test_client_gone_at_a_line(self) -> None:
        """Interceptors hear of a line that a client who is found gone does not get any more; then all ends."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntar")
        wires.client.stops_reading()
        wires.engine.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
        self.assertEqual((wires.over, wires.engine.closed), (True, True))
        self.assertEqual(recording.outcomes, [Outcome.CLIENT_GONE])
        self.assertEqual(recording.seen[-3:], ["response_head 200", "line {}", "finished"])

    def test_last_line(self) -> None:
        """The end of the connection ends the last line, too."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.client.sends(b"GET /events HTTP/1.0\r\n\r\n")
        wires.engine.sends(b'HTTP/1.0 200 OK\r\n\r\n{"a":1}\n{"b"')
        wires.engine.sends(b":2}")
        wires.engine.half_closes()
        self.assertEqual([seen for seen in recording.seen if "line" in seen], ['line {"a":1}', 'line {"b":2}'])
        self.assertEqual(recording.outcomes, [Outcome.COMPLETED])

    def test_errors_are_not_held(self) -> None:
        """An engine's refusal is passed; there is nothing to save."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        conflict = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}"
        wires.engine.sends(conflict)
        self.assertEqual(wires.client.received, conflict)
        self.assertNotIn("response_json", recording.seen)

    def test_pipelined(self) -> None:
        """Exchanges follow one another, each finished before the next is started."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.client.sends(PING * 2)
        wires.engine.sends(PONG)
        wires.engine.sends(PONG)
        self.assertEqual(recording.seen, ["started", "request_head", "response_head 200", "finished"] * 2)
        self.assertEqual([exchange.id for exchange in recording.exchanges], [1, 2])


class ChangeTests(SynchronousTestCase):
    """What interceptors change is what the engine gets, and nothing else changes."""

    def test_document(self) -> None:
        """A changed body has the right length; only that line changes; the edit is kept for the audit."""

        def label(exchange: Exchange, document: Document) -> Document:
            return document.with_value(("Labels", "a"), "b")

        one = Recording(does={"request_json": label})
        two = Recording()
        wires = Wires(Named("one", one), Named("two", two))
        wires.client.sends(create())
        body = b'{"Image":"a","Labels":{"a":"b"}}'
        self.assertEqual(wires.engine.received, create(body))
        edits = one.exchanges[0].edits
        self.assertEqual([edit.interceptor for edit in edits], ["one"])
        self.assertEqual(one.exchanges[0].sent.get("Content-Length"), str(len(body)))  # type: ignore[union-attr]

    def test_chunked_document(self) -> None:
        """A chunked body is read; unchanged it goes on as it came, changed with a length."""
        head = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = b'6;ext\r\n{"a":1\r\n1\r\n}\r\n0\r\n\r\n'
        wires = Wires(Named("one", Recording()))
        wires.client.sends(head + chunks)
        self.assertEqual(wires.engine.received, head + chunks)

        recording = Recording(does={"request_json": lambda _, document: document.with_value(("a",), 2)})
        wires = Wires(Named("one", recording))
        wires.client.sends(head + chunks)
        self.assertEqual(
            wires.engine.received,
            b'POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{"a":2}',
        )

    def test_empty_body(self) -> None:
        """A create without a body is an empty object."""
        recording = Recording(does={"request_json": lambda _, document: document.with_value(("Labels", "a"), "b")})
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /volumes/create HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(
            wires.engine.received.endswith(b'\r\nContent-Type: application/json\r\n\r\n{"Labels":{"a":"b"}}')
        )

    def test_expect(self) -> None:
        """A client that waits for a 100 gets ours, once; the engine is not asked for another."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        request = create(extra=b"Expect: 100-continue\r\n")
        head, body = request[:-13], request[-13:]
        wires.client.sends(head)
        self.assertEqual(wires.client.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        wires.client.sends(body)
        self.assertEqual(wires.engine.received, create())

    def test_query(self) -> None:
        """A changed target is sent; a streamed body follows untouched, however it comes."""
        recording = Recording(
            stages=Stage.REQUEST_HEAD | Stage.STARTED,
            does={"request_head": lambda _, head: head.with_target(head.target + "?labels=%7B%7D")},
        )
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        wires.client.sends(b"def")
        self.assertEqual(
            wires.engine.received,
            b"POST /build?labels=%7B%7D HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabcdef",
        )
        (edit,) = recording.exchanges[0].edits
        self.assertEqual([change.path for change in edit.changes], [("target",)])

    def test_header(self) -> None:
        """So is a changed header, and the edit names it."""
        recording = Recording(
            stages=Stage.REQUEST_HEAD | Stage.STARTED,
            does={"request_head": lambda _, head: head.with_field("X-A", "b")},
        )
        wires = Wires(Named("one", recording))
        wires.client.sends(PING)
        self.assertIn(b"X-A: b\r\n", wires.engine.received)
        self.assertEqual(recording.exchanges[0].edits[0].changes[0].path, ("header", "X-A"))

    def test_framing_is_ours(self) -> None:
        """An interceptor cannot change where a body ends."""
        recording = Recording(does={"request_head": lambda _, head: head.with_field("Content-Length", "1")})
        wires = Wires(Named("one", recording))
        wires.client.sends(PING)
        self.assertIn(b"changed the body's framing", wires.client.received)
        self.assertEqual(wires.dialler.wires, [])

    def test_slow_decision(self) -> None:
        """While one decides, bytes of the body wait, within a bound."""
        gate: Deferred[None] = Deferred()
        recording = Recording(stages=Stage.REQUEST_HEAD, does={"request_head": lambda *_: gate})
        wires = Wires(Named("one", recording), limits=Limits(early_bytes=1024))
        head = b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n"
        wires.client.sends(head)
        wires.client.sends(b"x" * 1500)
        self.assertTrue(wires.client.paused)
        wires.client.sends(b"x" * 1500)
        self.assertEqual(wires.dialler.wires, [])
        gate.callback(None)
        wires.turn()
        self.assertEqual(wires.engine.received, head + b"x" * 3000)

    def test_slow_body(self) -> None:
        """A JSON body is awaited after a slow decision on the head, whether it came meanwhile or comes later."""
        for early in (True, False):
            gate: Deferred[None] = Deferred()
            recording = Recording(does={"request_head": lambda *_, gate=gate: gate})
            wires = Wires(Named("one", recording))
            request = create()
            wires.client.sends(request[:-5])
            if early:
                wires.client.sends(request[-5:])
            gate.callback(None)
            if not early:
                wires.client.sends(request[-5:])
            self.assertEqual(wires.engine.received, request)


class AnswerTests(SynchronousTestCase):
    """An interceptor may answer in the engine's stead."""

    def test_answer(self) -> None:
        """The connection stays; the engine hears nothing; the answer is kept for the audit."""
        recording = Recording(does={"request_head": lambda *_: Answer(200, b"ab\n", "text/plain")})
        wires = Wires(Named("one", recording))
        wires.client.sends(b"GET /tracker HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        one = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nab\n"
        self.assertEqual(wires.client.received, one * 2)
        self.assertFalse(wires.over)
        self.assertEqual(wires.dialler.wires, [])
        self.assertEqual(recording.outcomes, [Outcome.ANSWERED] * 2)
        self.assertEqual(recording.exchanges[0].answered_by, "one")

    def test_head(self) -> None:
        """A HEAD gets no body; HTTP/1.0 and `Connection: close` get the end."""
        for start, extra in ((b"GET /tracker HTTP/1.0", b""), (b"GET /tracker HTTP/1.1", b"Connection: close\r\n")):
            recording = Recording(does={"request_head": lambda *_: Answer(200, b"ab\n", "text/plain")})
            wires = Wires(Named("one", recording))
            wires.client.sends(b"HEAD /tracker HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertTrue(wires.client.received.endswith(b"Content-Length: 3\r\n\r\n"))
            wires.client.sends(start + b"\r\n" + extra + b"\r\n")
            self.assertTrue(wires.client.received.endswith(b"Connection: close\r\n\r\nab\n"))
            self.assertTrue(wires.client.closed)

    def test_answer_instead_of_a_body(self) -> None:
        """An answer before the body was read ends the connection: the rest would be taken for a request."""
        recording = Recording(does={"request_head": lambda *_: Answer.error(403, "not here")})
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        self.assertTrue(wires.client.received.startswith(b"HTTP/1.1 403 Forbidden\r\n"))
        self.assertTrue(wires.client.closed)
        self.assertEqual(recording.outcomes, [Outcome.REFUSED])

    def test_answer_to_json(self) -> None:
        """So may one that saw the body; the ones behind it are not asked."""
        one, two = Recording(does={"request_json": lambda *_: Answer(999, b"{}")}), Recording()
        wires = Wires(Named("one", one), Named("two", two))
        wires.client.sends(create())
        self.assertTrue(wires.client.received.startswith(b"HTTP/1.1 999 "))
        self.assertNotIn("request_json", two.seen)
        self.assertEqual(two.seen[-1], "finished")


class FailureTests(SynchronousTestCase):
    """Guards fail closed, watchers open; every exchange ends, and is finished once."""

    def refused(self, wires: Wires, status: int, words: bytes) -> None:
        """The client was told, and the connection ended."""
        received = wires.client.received
        self.assertTrue(received.startswith(b"HTTP/1.1 %d " % status), received)
        self.assertIn(words, received)
        self.assertTrue(wires.client.closed)

    def test_guard_fails_before_the_request(self) -> None:
        """Nothing reaches the engine."""
        for hook in ("started", "request_head", "request_json"):
            recording = Recording(does={hook: raising(RuntimeError("oops"))})
            wires = Wires(Named("one", recording))
            wires.client.sends(create())
            self.refused(wires, 500, b"interceptor one failed")
            self.assertEqual(wires.dialler.wires, [])
            self.assertEqual(recording.outcomes, [Outcome.REFUSED])
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_guard_refuses(self) -> None:
        """A refusal that is raised has its own status and message."""
        recording = Recording(does={"request_json": raising(RefusedError("not with me", 403))})
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        self.refused(wires, 403, b"not with me")
        self.assertEqual(recording.exchanges[0].status, 403)
        self.assertEqual(recording.exchanges[0].answered_by, "one")

    def test_guard_fails_after_the_answer(self) -> None:
        """The client is not told that all is well."""
        for hook in ("response_head 201", "response_json"):
            recording = Recording(does={hook: raising(RuntimeError("oops"))})
            wires = Wires(Named("one", recording))
            wires.client.sends(create())
            wires.engine.sends(CREATED)
            self.refused(wires, 500, b"interceptor one failed")
            self.assertEqual(recording.outcomes, [Outcome.REFUSED])
            self.flushLoggedErrors(RuntimeError)

    def test_guard_fails_within_the_answer(self) -> None:
        """A stream that a guard cannot see ends."""
        recording = Recording(does={'line {"a":1}': raising(RuntimeError("oops"))})
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        wires.engine.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        wires.engine.sends(b'{"a":1}\n')
        self.assertTrue(wires.client.closed)
        self.assertEqual(wires.client.received, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        self.flushLoggedErrors(RuntimeError)
        recording = Recording(does={"< x": raising(RuntimeError("oops"))})
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /containers/ab/attach HTTP/1.1\r\nUpgrade: tcp\r\n\r\n")
        wires.engine.sends(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        wires.engine.sends(b"x")
        wires.turn()
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.engine.closed)
        self.flushLoggedErrors(RuntimeError)

    def test_guard_fails_at_lines_with_the_head(self) -> None:
        """Its failure is told, as the client got nothing yet."""
        recording = Recording(does={'line {"a":1}': raising(RuntimeError("oops"))})
        wires = Wires(Named("one", recording))
        wires.client.sends(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        wires.engine.sends(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a":1}\n')
        self.refused(wires, 500, b"interceptor one failed")
        self.assertEqual(recording.outcomes, [Outcome.REFUSED])
        self.assertTrue(wires.engine.closed)
        self.flushLoggedErrors(RuntimeError)

    def test_watcher_fails(self) -> None:
        """Its failures are logged, and everything goes on."""
        hooks = ("started", "request_head", "request_json", "response_head 201", "response_json", "finished")
        for error in (RuntimeError("oops"), RefusedError("it may not refuse")):
            recording = Recording(fail_closed=False, does={hook: raising(error) for hook in hooks})
            wires = Wires(Named("one", recording))
            wires.client.sends(create())
            wires.engine.sends(CREATED)
            self.assertEqual(wires.client.received, CREATED)
            self.assertEqual(recording.outcomes, [Outcome.COMPLETED])
            self.flushLoggedErrors(RuntimeError)

    def test_counted(self) -> None:
        """Hooks that raise are counted; a guard that refuses, and an exchange whose client leaves, are not."""
        counts = Counts()
        for closed, error in ((True, RuntimeError("oops")), (False, RuntimeError("oops")), (True, RefusedError("no"))):
            for hook in ("started", "request_json", "response_head 201"):
                wires = Wires(Named("one", Recording(fail_closed=closed, does={hook: raising(error)}), counts))
                wires.client.sends(create())
                if wires.dialler.wires:
                    wires.engine.sends(CREATED)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 6)
        wires = Wires(Named("one", Recording(does={"request_json": lambda *_: Deferred()}), counts))
        wires.client.sends(create())
        wires.client.leaves()
        self.assertEqual(counts.interceptor_errors, {"one": 6})

    def test_late_guard(self) -> None:
        """One that takes too long has failed."""
        counts = Counts()
        for number, closed in enumerate((True, False), 1):
            recording = Recording(fail_closed=closed, does={"request_json": lambda *_: Deferred()})
            wires = Wires(Named("one", recording, counts), limits=Limits(interceptor_seconds=5))
            wires.client.sends(create())
            wires.clock.advance(5)
            if closed:
                self.refused(wires, 500, b"took too long")
            else:
                self.assertEqual(wires.engine.received, create())
            self.flushLoggedErrors()
            self.assertEqual(counts.interceptor_errors["one"], number)
            self.assertEqual(counts.interceptor_durations["one"].seconds, 5.0 * number)

    def test_client_leaves_meanwhile(self) -> None:
        """What was not forwarded is not forwarded; what was saved is saved."""
        cancelled: list[object] = []
        recording = Recording(does={"request_json": lambda *_: Deferred(cancelled.append)})
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        wires.client.leaves()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(wires.dialler.wires, [])
        self.assertEqual(recording.outcomes, [Outcome.CLIENT_GONE])

    def test_builder_leaves_meanwhile(self) -> None:
        """By TCP one end stands for a half and for a whole close; who has begun no HTTP/2 by then has left."""
        upgrade = b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        attach = b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        for request, more, goes in (
            (b"POST /grpc" + upgrade, b"", True),
            (b"POST /session" + upgrade, b"", True),
            (b"POST /grpc" + upgrade, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
            (b"POST /containers/a/attach?stream=1" + attach, b"", False),
        ):
            cancelled: list[object] = []
            recording = Recording(does={"request_head": lambda *_, to=cancelled: Deferred(to.append)})
            wires = Wires(Named("one", recording), unix=False)
            wires.client.sends(request)
            if more:
                wires.client.sends(more)
            wires.client.half_closes()
            self.assertEqual((bool(cancelled), wires.over), (goes, goes), request)

    def test_client_leaves_while_saved(self) -> None:
        """A held answer is saved although nobody waits for it: the resource is there."""
        gate: Deferred[None] = Deferred()
        saved: list[str] = []

        async def save(*_: object) -> None:
            await gate
            saved.append("yes")

        recording = Recording(does={"response_json": save})
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        wires.engine.sends(CREATED)
        wires.client.leaves()
        gate.callback(None)
        self.assertEqual(saved, ["yes"])
        self.assertEqual(recording.outcomes, [Outcome.CLIENT_GONE])
        self.assertEqual(wires.client.received, b"")

    def test_engine_leaves_while_saved(self) -> None:
        """An engine that closes behind its answer does not take it back."""
        gate: Deferred[None] = Deferred()
        recording = Recording(does={"response_json": lambda *_: gate})
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        wires.engine.sends(CREATED)
        wires.engine.half_closes()
        gate.callback(None)
        self.assertEqual(wires.client.received, CREATED)
        self.assertEqual(recording.outcomes, [Outcome.COMPLETED])
        self.assertTrue(wires.over)

    def test_bad_json(self) -> None:
        """A body that cannot be read, is too long or ends early is refused."""
        for request, status, words in (
            (create(b'{"a":1,"A":2}'), 400, b"message"),
            (create(b"{" * 100), 400, b"message"),
            (create(b'"' + b"a" * 5000 + b'"'), 413, b"4096 bytes"),
        ):
            recording = Recording()
            wires = Wires(Named("one", recording), limits=Limits(json_bytes=4096))
            wires.client.sends(request)
            self.refused(wires, status, words)
            self.assertEqual(wires.dialler.wires, [])
            self.assertEqual(recording.outcomes, [Outcome.REFUSED])

    def test_short_json(self) -> None:
        """So is one whose client ends before it is whole."""
        gates: tuple[Deferred[None] | None, ...] = (None, Deferred())
        for gate in gates:
            recording = Recording(does={"request_head": lambda *_, gate=gate: gate})
            wires = Wires(Named("one", recording))
            wires.client.sends(create()[:-3])
            wires.client.half_closes()
            if gate is not None:
                gate.callback(None)
            self.refused(wires, 400, b"ended before")

    def test_bad_answers(self) -> None:
        """A held answer that is not what it should be is a 502; the engine did what it did."""
        for answer in (
            b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\n" + b'{"Id":"ab"}!',
            b"HTTP/1.1 201 Created\r\nContent-Length: 9000\r\n\r\n" + b'"' * 9000,
        ):
            recording = Recording()
            wires = Wires(Named("one", recording), limits=Limits(json_bytes=4096))
            wires.client.sends(create())
            wires.engine.sends(answer)
            self.refused(wires, 502, b"message")
            self.assertEqual(recording.outcomes, [Outcome.ENGINE_FAILED])

    def test_until_close(self) -> None:
        """A held answer may end with the connection."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        wires.engine.sends(b'HTTP/1.0 201 Created\r\n\r\n{"Id":')
        wires.engine.sends(b'"ab"}')
        wires.engine.half_closes()
        self.assertEqual(wires.client.received, b'HTTP/1.0 201 Created\r\n\r\n{"Id":"ab"}')
        self.assertIn("response_json", recording.seen)

    def test_bad_until_close(self) -> None:
        """One that is no JSON then is a 502, as any other."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.client.sends(create())
        wires.engine.sends(b'HTTP/1.0 201 Created\r\n\r\n{"Id":')
        wires.engine.half_closes()
        self.refused(wires, 502, b"message")
        self.assertEqual(recording.outcomes, [Outcome.ENGINE_FAILED])

    def test_engine_absent(self) -> None:
        """The exchange ends as the engine's failure, with the status that the client saw."""
        recording = Recording()
        wires = Wires(Named("one", recording))
        wires.dialler.absent = True
        wires.client.sends(create())
        self.refused(wires, 503, b"unix:///engine.sock")
        self.assertEqual(recording.outcomes, [Outcome.ENGINE_FAILED])
        self.assertEqual(recording.exchanges[0].status, 503)

    def test_refused_heads_are_seen(self) -> None:
        """Those that see everything see what was refused before it was recognised."""
        for request in (b"GET /x\r\n\r\n", b"GET /a/../b HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n"):
            recording = Recording()
            wires = Wires(Named("one", recording))
            wires.client.sends(request)
            self.refused(wires, 400, b"message")
            self.assertEqual(recording.seen, ["started", "finished"])
            self.assertEqual(recording.outcomes, [Outcome.REFUSED])
            self.assertEqual(recording.exchanges[0].answered_by, "proxy")
