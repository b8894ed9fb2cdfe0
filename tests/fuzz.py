"""Random and damaged bytes against all that reads the network; a failure names its case, which can be run again alone.

    python -m tests.fuzz --seconds 60                     # each target for so long, with a new seed, which is printed
    python -m tests.fuzz --seed 7 --target conversations
    python -m tests.fuzz --case conversations:7.1234      # one case again

The test run plays a fixed number of cases of each target (``tests.test_fuzz``).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from docker_tracker.config import Limits
from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.engine.recognise import recognise
from docker_tracker.errors import BadDocumentError, BadTargetError, EngineProtocolError, RefusedError
from docker_tracker.exchange import Answer, Exchange, Outcome, Stage
from docker_tracker.http1.framing import request_framing, response_framing
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.http1.scanner import Body, HeadScanner, body_for
from docker_tracker.interceptor import Interceptor
from docker_tracker.interfaces import IInterceptor
from docker_tracker.proxy.plan import Named
from tests.support import http2_fuzz
from tests.support.odd_requests import CREATE, DAMAGES, chunked, connection, cut
from tests.support.wires import MemoryWire, Wires

LIMITS = Limits(head_bytes=4096, json_bytes=4096, early_bytes=4096, line_bytes=1024, linger_seconds=5)

Found = list[tuple[bytes, bytes]]
Framed = Callable[[bytes], tuple[Any, Body]]


class Broken(Exception):
    """An invariant does not hold."""


def check(holds: object, what: str) -> None:
    """:raises Broken: the invariant does not hold."""
    if not holds:
        raise Broken(what)


# Heads and bodies


def damaged(source: random.Random, data: bytes) -> bytes:
    """Damage bytes in up to three places, or not at all."""
    for _ in range(source.choice((0, 1, 1, 2, 3))):
        if data:
            data = source.choice(DAMAGES)(source, data)
    return data


_BUILD = b"POST /v1.41/build?t=a HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: chunked\r\n\r\n"
_CREATE = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
_EXEC = b"POST /exec/ab/start HTTP/1.1\r\nHost:\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


def session(source: random.Random) -> bytes:
    """Make what a client of Docker's sends on one connection: some requests, and perhaps raw input at its end."""
    data = b""
    for _ in range(source.randint(1, 4)):
        expect = source.choice((b"", b"", b"Expect: 100-continue\r\n"))
        data += source.choice(
            (
                b"HEAD /_ping HTTP/1.1\r\nHost: docker\r\n\r\n",
                b"POST /containers/ab/wait HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n",
                b"GET /v1.41/events HTTP/1.1\r\nHost: docker\r\n\r\n",
                b"POST /images/create?fromImage=a HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n",
                _BUILD + chunked(source, bytes(source.choice((0, 600)))),
                _CREATE + expect + b"Content-Length: %d\r\n\r\n%b" % (len(CREATE), CREATE),
                _CREATE + expect + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(source, CREATE),
                _EXEC % (_UPGRADE, 2, b"{}"),
                _EXEC % (b"", 15, b'{"Detach":true}'),
            )
        )
    hijack = b"POST /containers/ab/attach?stream=1 HTTP/1.1\r\nHost: docker\r\n%b\r\n%b"
    return data + source.choice(
        (b"", hijack % (source.choice((_UPGRADE, b"")), b"input\n" * source.choice((0, 1, 200))))
    )


def response(source: random.Random, head_only: bool = False) -> bytes:
    """Make an answer as engines give it."""
    status = source.choice((200, 200, 200, 201, 204, 304, 400, 404, 500, 101, 100, 102))
    body = source.choice((b"OK", CREATE, b'{"Id":"ab"}', b'{"a":1}\n' * 40, b"", bytes(3000)))
    fields = source.choices((b"Server: Docker", b"Ostype:", b"Api-Version: 1.41", b"X:\t a"), k=source.randint(0, 3))
    fields += source.choices((b"Connection: close", b"Content-Type: application/json"), k=source.choice((0, 0, 0, 1)))
    framing = source.choice(("length", "length", "chunked", "close", "none"))
    if framing == "length":
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = chunked(source, body)
    bodiless = head_only or framing == "none" or status < 200 or status in (204, 304)
    version = source.choice((b"1", b"1", b"1", b"0"))
    head = b"\r\n".join([b"HTTP/1.%b %d X" % (version, status), *fields]) + b"\r\n\r\n"
    return head if bodiless else head + body


def request_frame(raw: bytes) -> tuple[RequestHead, Body]:
    """Read a request's head."""
    head = RequestHead.parse(raw)
    return head, body_for(request_framing(head))


def response_frame(raw: bytes) -> tuple[ResponseHead, Body]:
    """Read the head of an answer to a GET."""
    head = ResponseHead.parse(raw)
    return head, body_for(response_framing(head, "GET"))


def read(pieces: list[bytes], frame: Framed, error: type[Exception]) -> tuple[Found, bool]:
    """Read messages as their pieces arrive. :returns: those that are whole, and whether what follows is refused."""
    inbox, scanner, found = bytearray(), HeadScanner(4096), Found()
    raw, own, body = b"", b"", None
    try:
        for piece in pieces:
            inbox += piece
            while inbox or (body is not None and body.done):
                if body is None:
                    end = scanner.end(inbox)
                    if not end:
                        break
                    raw, own = bytes(inbox[:end]), b""
                    del inbox[:end]
                    _, body = frame(raw)
                size = body.feed(memoryview(bytes(inbox)))
                check(0 <= size <= len(inbox), "a body takes what is not there")
                own += bytes(inbox[:size])
                del inbox[:size]
                if body.done:
                    found.append((raw, own))
                    body = None
                elif size == 0:
                    break
    except (RefusedError, error) as refusal:
        check(str(refusal), "a refusal says nothing")
        return found, True
    return found, False


def fuzz_messages(source: random.Random) -> None:
    """Requests and answers are read in one way however they are cut, and only our own errors are raised."""
    if source.random() < 0.5:
        data, frame = damaged(source, connection(source, source.random() < 0.5)), request_frame
    else:
        data = damaged(source, b"".join(response(source) for _ in range(source.randint(1, 3))))
        frame = response_frame  # type: ignore[assignment]
    whole = read([data], frame, EngineProtocolError)
    for pieces in (cut(source, data), [data[place : place + 1] for place in range(min(len(data), 1500))]):
        if len(b"".join(pieces)) == len(data):
            got = read(pieces, frame, EngineProtocolError)
            check(got == whole, f"cut otherwise it is read otherwise: {got} and not {whole}")
    check(data.startswith(b"".join(head + body for head, body in whole[0])), "what was read is not what was sent")
    if frame is request_frame:
        for raw, _ in whole[0]:
            fuzz_request(RequestHead.parse(raw))


def fuzz_request(head: RequestHead) -> None:
    """What a head was taken for survives edits; its target is recognised or refused."""
    check(RequestHead.parse(head.raw) == head, "a head is read otherwise again")
    edited = head.with_field("X-Added", "1").with_field("x-added", "2")
    check(edited.get_all("X-Added") == ["2"], "a field that was set does not stand there once")
    check(edited.without_field("X-ADDED") == head.without_field("X-Added"), "a field that was removed left something")
    check(request_framing(edited) == request_framing(head), "another field changed the framing")
    try:
        call = recognise(head.method, head.target)
    except BadTargetError:
        return
    check("//" not in call.path and "\0" not in call.path, f"an unclean path was recognised: {call.path!r}")


# Documents

_KEYS = ("Labels", "labels", "LABEL\u017f", "HostConfig", "hostconfig", "Env", "Mounts", "a", "", "\u212a", "k", "\0")
_LEAVES = (None, True, 0, -1, 1.5, 1e300, 10**30, "", "x", "\u017f", "\ud800", "a\0b", '"\\', "</script>")
_TOKENS = tuple(b'{ } [ ] , : " \\ \\u null NaN 1e999 -0 \xff \xef\xbb\xbf'.split())


def value(source: random.Random, depth: int = 0) -> Any:
    """Make a JSON value."""
    kind = source.random()
    if depth > 4 or kind < 0.4:
        return source.choice(_LEAVES)
    if kind < 0.8:
        return {source.choice(_KEYS): value(source, depth + 1) for _ in range(source.randint(0, 4))}
    return [value(source, depth + 1) for _ in range(source.randint(0, 3))]


def fuzz_documents(source: random.Random) -> None:
    """A document that is taken is what Python reads too, survives being written, and takes edits or refuses them."""
    body = json.dumps(value(source), ensure_ascii=source.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(source.choice((0, 0, 1, 2))):
        place = source.randint(0, len(body))
        body = body[:place] + source.choice(_TOKENS) + body[place + source.randint(0, 2) :]
    try:
        document = Document.parse(body, 16)
    except BadDocumentError as error:
        check(error.message, "a refusal says nothing")
        return
    check(document.encode() == body, "an unchanged document is not its original bytes")
    if body.strip():
        check(_plain(document) == json.loads(body.decode("utf-8", "replace")), "Python reads another document")
    try:
        edited = document.with_value(("Labels", "docker-tracker.job"), "x").without(("HostConfig", "Env"))
    except BadDocumentError:
        return
    again = Document.parse(edited.encode(), 32)
    check(again.get("Labels", "docker-tracker.job") == "x", "a label that was set is not there")
    check(_plain(again) == _plain(edited), "a changed document is read otherwise than it was written")


def _plain(document: Document) -> Any:
    """Return a document's value as Python's own reader gives it."""
    changed = document.with_value(("0",), 0).without(("0",)) if isinstance(document.value, dict) else document
    return json.loads(changed.encode().decode("utf-8", "replace"))


# Conversations


@implementer(IInterceptor)
@attrs.define
class Watching(Interceptor):
    """Wants everything of every operation; decides now and then, late now and then; counts beginnings and ends.

    :ivar source: Of its decisions.
    :ivar later: Gives a Deferred that is called in a while.
    """

    source: random.Random
    later: Callable[[], Deferred[None]]
    fail_closed: bool = True
    begun: int = 0
    ended: Counter[int] = attrs.field(factory=Counter)

    def wants(self, operation: Operation) -> Stage:
        return ~Stage.NOTHING

    def started(self, exchange: Exchange) -> None:
        self.begun += 1

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | Answer | None:
        await self._wait()
        if self.source.random() < 0.1:
            return Answer.error(self.source.choice((200, 403)), "no")
        return head.with_field("X-Watched", "1") if self.source.random() < 0.3 else None

    async def request_json(self, exchange: Exchange, document: Document) -> Document | Answer | None:
        await self._wait()
        return document.with_value(("Labels", "a"), "b") if self.source.random() < 0.5 else None

    async def response_json(self, exchange: Exchange, document: Document) -> None:
        await self._wait()
        if self.source.random() < 0.1:
            raise RefusedError("not this one", 503)

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        self.ended[exchange.id] += 1

    async def _wait(self) -> None:
        if self.source.random() < 0.3:
            await self.later()


@contextmanager
def no_failures() -> Iterator[None]:
    """:raises Broken: a failure was logged meanwhile, which nobody expects here."""
    failures: list[str] = []

    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(event["log_failure"].getTraceback())

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observer)
    check(not failures, "a failure was logged:\n" + "\n".join(failures))


class Play:
    """One conversation: what each side sends in the end, in pieces, and what may happen to it on the way.

    :param source: Of all decisions.
    :param watched: Whether an interceptor takes part.
    """

    def __init__(self, source: random.Random, watched: bool) -> None:
        self.source = source
        self.watching = Watching(source, self._later)
        interceptors = (Named("watching", self.watching),) if watched else ()
        self.wires = Wires(*interceptors, limits=LIMITS, unix=source.random() < 0.7)
        self.wires.dialler.absent = source.random() < 0.03
        odd = source.random() < 0.4
        sent = connection(source, damaged=source.random() < 0.5) if odd else session(source)
        self.sent = damaged(source, sent) if source.random() < 0.5 else sent
        self.pieces = cut(source, self.sent) if source.random() < 0.9 else [bytes([byte]) for byte in self.sent]
        self.answered = self.to_engine = self.to_client = b""
        self.answers: list[bytes] = []

    def _later(self) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self.wires.clock.callLater(self.source.choice((0, 1, 3)), self._fire, deferred)
        return deferred

    @staticmethod
    def _fire(deferred: Deferred[None]) -> None:
        if not deferred.called:  # it was cancelled, or was late
            deferred.callback(None)

    @property
    def engine(self) -> MemoryWire | None:
        """The engine's wire, once it was dialled."""
        return self.wires.dialler.wires[-1] if self.wires.dialler.wires else None

    def run(self) -> None:
        """Play it to its end."""
        while self.pieces:
            self._step()
            self._look()
        for _ in range(self.source.randint(0, 12)):
            self._engine_sends()
            self.wires.turn()
            self._look()
        for _ in range(40):  # both leave, the engine also if it is reached only now
            for wire in (self.wires.client, *self.wires.dialler.wires):
                wire.takes(None)
                wire.leaves()
            self.wires.clock.advance(1)
        self._look()
        self._check_ends()

    def _step(self) -> None:
        chance = self.source.random()
        if chance < 0.45:
            self.wires.client.sends(self.pieces.pop(0))
        elif chance < 0.8:
            self._engine_sends()
        elif chance < 0.95:
            self.wires.clock.advance(self.source.choice((0, 0, 1)))
        else:
            wire = self.wires.client if self.source.random() < 0.5 else self.engine
            if wire is not None:
                self._event(wire)

    def _event(self, wire: MemoryWire) -> None:
        event = self.source.choice((wire.half_closes, wire.leaves, wire.resets, wire.stops_reading, None, None))
        if event is None:
            wire.takes(self.source.choice((0, 1, 100, None)))
        else:
            event()

    def _engine_sends(self) -> None:
        engine = self.engine
        if engine is None or not self.to_engine:
            return
        if not self.answers:
            data = response(self.source, self.source.random() < 0.2)
            self.answers = cut(self.source, damaged(self.source, data) if self.source.random() < 0.3 else data)
        if self.answers:
            piece = self.answers.pop(0)
            self.answered += piece
            engine.sends(piece)

    def _look(self) -> None:
        """Nothing is made up on the way: what comes out at one end is what went in at the other."""
        if self.engine is not None:
            self.to_engine += self.engine.received
        self.to_client += self.wires.client.received
        if self.watching.begun:
            return
        check(self.sent.startswith(self.to_engine), f"the engine got {self.to_engine!r}")
        check(self._client_saw(), f"the client got {self.to_client!r}, the engine sent {self.answered!r}")

    def _client_saw(self) -> bool:
        """Say whether the client saw a beginning of the engine's bytes, and at most one answer of ours behind it."""
        if self.answered.startswith(self.to_client):
            return True
        whole = self.to_client
        return any(self.answered.startswith(whole[:place]) and _is_ours(whole[place:]) for place in range(len(whole)))

    def _check_ends(self) -> None:
        wires = self.wires
        check(wires.over, "the conversation is not over")
        check(wires.client.closed, "the client's wire is open")
        check(all(wire.closed for wire in wires.dialler.wires), "an engine's wire is open")
        ended = self.watching.ended
        check(self.watching.begun == len(ended) and set(ended.values()) <= {1}, f"{self.watching.begun} begun, {ended}")


def _is_ours(data: bytes) -> bool:
    """Say whether this is one answer of our own, as far as the client read it."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    known = (b"HTTP/1.1 ", b"Content-Type: application/json", b"Content-Length: ", b"Connection: close")
    same = all(line.startswith(part) or part.startswith(line) for line, part in zip(lines, known, strict=False))
    return same and len(lines) <= len(known) and body.count(b"\n") <= 1


def fuzz_conversations(source: random.Random) -> None:
    """No exception escapes, bytes go through as they are or not at all, and everything ends, once."""
    with no_failures():
        Play(source, watched=source.random() < 0.4).run()


def fuzz_http2(source: random.Random) -> None:
    """See `http2_fuzz.fuzz`."""
    http2_fuzz.fuzz(source, damaged, check)


def fuzz_build_requests(source: random.Random) -> None:
    """See `http2_fuzz.fuzz_messages`."""
    http2_fuzz.fuzz_messages(source, damaged, check)


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "messages": fuzz_messages,
    "documents": fuzz_documents,
    "conversations": fuzz_conversations,
    "http2": fuzz_http2,
    "build-requests": fuzz_build_requests,
}


def run_case(name: str) -> None:
    """Run one case.

    :param name: ``TARGET:SEED.NUMBER``.
    :raises AssertionError: with the case's name; its cause is what was raised.
    """
    try:
        TARGETS[name.partition(":")[0]](random.Random(name))
    except Exception as error:
        raise AssertionError(f"case {name}: {error}") from error


def main(arguments: list[str]) -> int:
    """Run cases for a while. :returns: the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random bytes against the readers.")
    parser.add_argument("--seconds", type=float, default=10, help="for each target; default 10")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9, help="default: a new one")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--case", help="run this case only")
    options = parser.parse_args(arguments)
    failed = 0
    if options.case:
        run_case(options.case)
    for target in () if options.case else options.target or TARGETS:
        end, number = time.monotonic() + options.seconds, 0
        while time.monotonic() < end:
            try:
                run_case(f"{target}:{options.seed}.{number}")
            except AssertionError:
                failed += 1
                traceback.print_exc()
                break
            number += 1
        sys.stdout.write(f"{target}: {number} cases passed, seed {options.seed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
