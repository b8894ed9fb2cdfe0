"""Playbooks: what a plain conversation (no interceptors) passes, holds, refuses and ends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.config import Limits
from tests.support.wires import Wires

PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
PONG = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"
ATTACH = (
    b"POST /v1.41/containers/ab/attach?stream=1&stdin=1 HTTP/1.1\r\n"
    b"Host: \r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
)
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
BARE = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
WAIT = b"POST /v1.41/containers/ab/wait HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n"
BUILD = b"POST /build HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"5;why=not\r\nhello\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nServer: Docker\r\n\r\n"


class ExchangeTests(SynchronousTestCase):
    """Plain requests and their answers."""

    def exchange(self, request: bytes, response: bytes, wires: Wires | None = None) -> Wires:
        """Play one exchange that is passed byte for byte."""
        wires = wires or Wires()
        wires.client.sends(request)
        self.assertEqual(wires.engine.received, request)
        wires.engine.sends(response)
        self.assertEqual(wires.client.received, response)
        return wires

    def test_passed_byte_for_byte(self) -> None:
        """Heads and bodies of every framing go through as they are, on one engine connection."""
        wires = Wires()
        for request, response in (
            (PING, PONG),
            (b"HEAD /_ping HTTP/1.1\r\nhOsT:x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
            (BUILD + CHUNKS, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS),
            (b"POST /containers/ab/start HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n", NO_CONTENT),
            (
                b"POST /containers/ab/start HTTP/1.1\r\nHost:\r\n\r\n",
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            ),
            (b"PUT /containers/ab/archive?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", NO_CONTENT),
            (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n"),
            (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ):
            self.exchange(request, response, wires)
        self.assertEqual(len(wires.dialler.wires), 1)
        self.assertFalse(wires.over)

    def test_any_split(self) -> None:
        """Where the network cuts the bytes makes no difference, on either side."""
        request, response = (
            BUILD + CHUNKS + PING,
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS),
        )
        for cut in range(1, len(request)):
            wires = Wires()
            wires.client.sends(request[:cut])
            wires.client.sends(request[cut:])
            self.assertEqual(wires.engine.received, BUILD + CHUNKS)
            wires.engine.sends(response[: cut % len(response)])
            wires.engine.sends(response[cut % len(response) :])
            self.assertEqual(wires.client.received, response)
            self.assertEqual(wires.engine.received, PING)

    def test_byte_by_byte(self) -> None:
        """So do single bytes."""
        wires = Wires()
        for byte in BUILD + CHUNKS:
            wires.client.sends(bytes([byte]))
        self.assertEqual(wires.engine.received, BUILD + CHUNKS)
        for byte in PONG:
            wires.engine.sends(bytes([byte]))
        self.assertEqual(wires.client.received, PONG)

    def test_pipelined(self) -> None:
        """Requests that come together are served in order, one at a time."""
        wires = Wires()
        wires.client.sends(PING * 3)
        for _ in range(3):
            self.assertEqual(wires.engine.received, PING)
            wires.engine.sends(PONG)
            self.assertEqual(wires.client.received, PONG)
        self.assertFalse(wires.over)

    def test_pipelined_behind_the_last(self) -> None:
        """A request behind an answer that closes gets none, as from the engine, and reaches nobody."""
        for answer, ends in (
            (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", False),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK", False),
            (b"HTTP/1.1 404 Not Found\r\n\r\nNo such container", True),
        ):
            wires = Wires()
            wires.client.sends(WAIT + PING)
            wires.engine.sends(answer)
            if ends:
                wires.engine.half_closes()
            self.assertEqual((wires.client.received, wires.client.ended), (answer, True))
            self.assertEqual((wires.engine.received, wires.over), (WAIT, True))
        wires = Wires()
        wires.client.sends(WAIT + PING)
        wires.engine.sends(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n")
        self.assertEqual(wires.engine.received, WAIT + PING)

    def test_head_at_once(self) -> None:
        """An answer's head goes on before its body comes; `docker run` starts the container only then."""
        wires = Wires()
        wires.client.sends(WAIT)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        wires.engine.sends(head)
        self.assertEqual(wires.client.received, head)

    def test_continue(self) -> None:
        """A 100 and other early heads go on, and the body follows; the final answer is recognised behind them."""
        wires = Wires()
        head = b"POST /images/load HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        wires.client.sends(head)
        self.assertEqual(wires.engine.received, head)
        early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        wires.engine.sends(early)
        self.assertEqual(wires.client.received, early)
        wires.client.sends(b"abc")
        self.assertEqual(wires.engine.received, b"abc")
        wires.engine.sends(PONG)
        self.exchange(PING, PONG, wires) if wires.client.received == PONG else self.fail("no answer")

    def test_full_duplex(self) -> None:
        """An answer may begin, and be whole, before its request is; the next request waits for both."""
        wires = Wires()
        wires.client.sends(BUILD + b"5\r\nhel")
        wires.engine.sends(PONG)
        self.assertEqual(wires.client.received, PONG)
        self.assertEqual(wires.engine.received, BUILD + b"5\r\nhel")
        wires.client.sends(b"lo\r\n0\r\n\r\n" + PING)
        self.assertEqual(wires.engine.received, b"lo\r\n0\r\n\r\n" + PING)

    def test_until_close(self) -> None:
        """A body without framing ends with the engine's connection, and so does the client's."""
        wires = Wires()
        wires.client.sends(b"GET /events HTTP/1.0\r\n\r\n")
        wires.engine.sends(b"HTTP/1.0 200 OK\r\n\r\nsome")
        wires.engine.sends(b" more")
        self.assertEqual(wires.client.received, b"HTTP/1.0 200 OK\r\n\r\nsome more")
        self.assertFalse(wires.client.closed)
        wires.engine.half_closes()
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.engine.closed)
        self.assertTrue(wires.over)

    def test_surplus(self) -> None:
        """A byte behind an answer ends the pair; the answer itself arrives."""
        wires = Wires()
        wires.client.sends(PING)
        wires.engine.sends(PONG + b"!")
        self.assertEqual(wires.client.received, PONG)
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.engine.closed)

    def test_surplus_while_idle(self) -> None:
        """So does a byte that comes when nothing was asked."""
        wires = self.exchange(PING, PONG)
        wires.engine.sends(b"!")
        self.assertEqual(wires.client.received, b"")
        self.assertTrue(wires.over)


class UpgradeTests(SynchronousTestCase):
    """Raw streams after a 101, or after a bare 200 on attach and exec start."""

    def upgraded(self, answer: bytes = UPGRADED, unix: bool = True) -> Wires:
        """Return wires whose stream is open."""
        wires = Wires(unix=unix)
        wires.client.sends(ATTACH)
        self.assertEqual(wires.engine.received, ATTACH)
        wires.engine.sends(answer)
        self.assertEqual(wires.client.received, answer)
        return wires

    def test_raw_both_ways(self) -> None:
        """What follows is not HTTP, whatever it looks like."""
        for answer in (UPGRADED, BARE):
            wires = self.upgraded(answer)
            wires.client.sends(b"\r\nGET / HTTP/9\n\n")
            self.assertEqual(wires.engine.received, b"\r\nGET / HTTP/9\n\n")
            wires.engine.sends(b"\x01\0\0\0\0\0\0\x02hi")
            self.assertEqual(wires.client.received, b"\x01\0\0\0\0\0\0\x02hi")

    def test_early_bytes_are_held(self) -> None:
        """The engine drops what comes with the request, so it waits for the engine's head; nothing gets lost."""
        wires = Wires()
        wires.client.sends(ATTACH + b"early")
        self.assertEqual(wires.engine.received, ATTACH)
        wires.engine.sends(UPGRADED + b"first")
        self.assertEqual(wires.client.received, UPGRADED + b"first")
        self.assertEqual(wires.engine.received, b"early")

    def test_early_bytes_are_bounded(self) -> None:
        """A client that sends much too early is stopped, and goes on later."""
        wires = Wires(limits=Limits(early_bytes=1024))
        wires.client.sends(ATTACH)
        wires.client.sends(b"x" * 1025)
        self.assertTrue(wires.client.paused)
        wires.client.sends(b"y")
        wires.engine.sends(UPGRADED)
        wires.turn()
        self.assertEqual(wires.engine.received, ATTACH + b"x" * 1025 + b"y")

    def test_refused_upgrade(self) -> None:
        """An error on an upgrade's path stays HTTP; the held bytes are the next request."""
        wires = Wires()
        wires.client.sends(ATTACH + PING)
        missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
        wires.engine.sends(missing)
        self.assertEqual(wires.client.received, missing)
        self.assertEqual(wires.engine.received, ATTACH + PING)

    def test_detached_exec(self) -> None:
        """An exec start whose answer has a length is no stream."""
        wires = Wires()
        start = b'POST /exec/12/start HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"Detach":true}'
        wires.client.sends(start)
        wires.engine.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        wires.client.sends(PING)
        self.assertEqual(wires.engine.received, start + PING)

    def test_output_after_end_of_input(self) -> None:
        """A client that ends its stdin still gets what the container prints afterwards."""
        wires = self.upgraded()
        wires.client.half_closes()
        self.assertTrue(wires.engine.ended)
        self.assertFalse(wires.engine.closed)
        wires.engine.sends(b"late")
        self.assertEqual(wires.client.received, b"late")
        wires.engine.half_closes()
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.over)

    def test_input_after_end_of_output(self) -> None:
        """The engine shuts only its writing side; the client may still send, for a bounded while."""
        wires = self.upgraded()
        wires.engine.half_closes()
        self.assertTrue(wires.client.ended)
        wires.client.sends(b"more")
        self.assertEqual(wires.engine.received, b"more")
        wires.clock.advance(Limits().linger_seconds)
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.over)

    def test_full_close(self) -> None:
        """A client that goes is gone for the engine, too, at once."""
        wires = self.upgraded()
        wires.client.leaves()
        self.assertTrue(wires.engine.closed)
        self.assertTrue(wires.over)

    def test_full_close_after_half_close(self) -> None:
        """Also when it had ended its input before: a killed client's attach would stay for ever."""
        wires = self.upgraded()
        wires.client.half_closes()
        self.assertFalse(wires.engine.closed)
        wires.client.leaves()
        self.assertTrue(wires.engine.closed)

    def test_half_closed_before_the_answer(self) -> None:
        """A client may end its input before the stream is open; the engine hears of it then."""
        for unix in (True, False):
            wires = Wires(unix=unix)
            wires.client.sends(ATTACH + b"all")
            wires.client.half_closes()
            self.assertFalse(wires.engine.ended)
            wires.engine.sends(UPGRADED)
            self.assertEqual(wires.engine.received, ATTACH + b"all")
            self.assertTrue(wires.engine.ended)
            wires.engine.sends(b"out")
            self.assertEqual(wires.client.received, UPGRADED + b"out")

    def test_resets(self) -> None:
        """A break on either side ends both."""
        wires = self.upgraded()
        wires.client.resets()
        self.assertTrue(wires.engine.closed)
        wires = self.upgraded()
        wires.engine.resets()
        self.assertTrue(wires.client.closed)

    def test_client_stops_reading(self) -> None:
        """Who reads no more is gone; an engine that reads no more may still have output."""
        wires = self.upgraded()
        wires.client.stops_reading()
        wires.engine.sends(b"x")
        self.assertTrue(wires.engine.closed)
        wires = self.upgraded()
        wires.engine.stops_reading()
        wires.client.sends(b"x")
        wires.engine.sends(b"last words")
        self.assertEqual(wires.client.received, b"last words")

    def test_flow_control(self) -> None:
        """Each way stops while the other side does not take, and goes on by itself."""
        wires = self.upgraded()
        for source, sink in ((wires.client, wires.engine), (wires.engine, wires.client)):
            sink.takes(3)
            source.sends(b"abcdef")
            self.assertTrue(source.paused)
            source.sends(b"ghi")
            self.assertEqual(sink.received, b"abc")
            sink.takes(None)
            wires.turn()
            self.assertFalse(source.paused)
            self.assertEqual(sink.received, b"defghi")
            self.assertEqual(sink.most_queued, 3)

    def test_no_idle_timeout(self) -> None:
        """A stream, and an answer without an end, may be silent for a day."""
        stream = self.upgraded()
        events = Wires()
        events.client.sends(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        events.engine.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.assertTrue(events.client.received)
        waiting = Wires()
        waiting.client.sends(WAIT)
        for wires, late in ((stream, b"late"), (events, b"2\r\n{}\r\n"), (waiting, PONG)):
            wires.clock.advance(86400)
            wires.engine.sends(late)
            self.assertEqual(wires.client.received, late)
            self.assertFalse(wires.over)

    def test_preface(self) -> None:
        """Without interceptors HTTP/2 with prior knowledge is spliced raw."""
        wires = Wires()
        wires.client.sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        self.assertEqual(wires.engine.received, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        wires.engine.sends(b"\0\0\0\4\0\0\0\0\0")
        self.assertEqual(wires.client.received, b"\0\0\0\4\0\0\0\0\0")

    def test_preface_without_engine(self) -> None:
        """And closed where there is no engine."""
        wires = Wires()
        wires.dialler.absent = True
        wires.client.sends(b"PRI * HTTP/2.0\r\n\r\n")
        self.assertTrue(wires.client.closed)


class FlowControlTests(SynchronousTestCase):
    """Nobody can make us keep much."""

    def test_slow_reader(self) -> None:
        """An answer stops while the client does not take it; what is queued is what came last."""
        wires = Wires()
        wires.client.sends(PING)
        wires.client.takes(10)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"
        wires.engine.sends(head)
        self.assertTrue(wires.engine.paused)
        for _ in range(4):
            wires.engine.sends(b"x" * 1000)
        self.assertEqual(wires.client.most_queued, len(head) - 10)
        wires.client.takes(None)
        wires.turn()
        self.assertEqual(wires.client.received, head + b"x" * 4000)

    def test_slow_engine(self) -> None:
        """An upload stops while the engine does not take it."""
        wires = Wires()
        wires.client.sends(PING)
        wires.engine.sends(PONG)
        wires.engine.takes(5)
        wires.client.sends(BUILD + b"5\r\nhello\r\n")
        self.assertTrue(wires.client.paused)
        wires.client.sends(b"0\r\n\r\n")
        wires.engine.takes(None)
        wires.turn()
        self.assertEqual(wires.engine.received, PING + BUILD + b"5\r\nhello\r\n0\r\n\r\n")
        self.assertFalse(wires.client.paused)

    def test_pipelined_flood(self) -> None:
        """Requests behind an unanswered one stop at a bound."""
        wires = Wires(limits=Limits(early_bytes=1024))
        wires.client.sends(WAIT + PING * 40)
        self.assertTrue(wires.client.paused)
        wires.engine.sends(PONG)
        wires.turn()
        self.assertEqual(wires.engine.received, WAIT + PING)


class ClientEndsTests(SynchronousTestCase):
    """What becomes of an exchange whose client half-closes or leaves."""

    def test_between_requests(self) -> None:
        """The engine's connection goes with the client's."""
        wires = Wires()
        wires.client.sends(PING)
        wires.engine.sends(PONG)
        wires.client.half_closes()
        self.assertTrue(wires.engine.closed)
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.over)

    def test_before_any_request(self) -> None:
        """Nobody is dialled for a client that says nothing."""
        wires = Wires()
        wires.client.half_closes()
        self.assertTrue(wires.client.closed)
        self.assertEqual(wires.dialler.wires, [])

    def test_half_close_is_not_passed(self) -> None:
        """net/http would cancel a plain request; its answer still reaches the client."""
        wires = Wires()
        wires.client.sends(WAIT)
        wires.client.half_closes()
        self.assertFalse(wires.engine.ended)
        wires.engine.sends(PONG)
        self.assertEqual(wires.client.received, PONG)
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.engine.closed)

    def test_half_close_behind_pipelined(self) -> None:
        """All that was sent before it is answered."""
        for unix in (True, False):
            wires = Wires(unix=unix)
            wires.client.sends(PING * 2)
            wires.client.half_closes()
            self.assertFalse(wires.engine.ended)
            wires.engine.sends(PONG)
            wires.engine.sends(PONG)
            self.assertEqual(wires.client.received, PONG * 2)
            self.assertTrue(wires.over)

    def test_half_close_over_tcp(self) -> None:
        """One FIN may mean either; it is passed on as it is, so that neither an answer nor a cancel is lost."""
        wires = Wires(unix=False)
        wires.client.sends(WAIT)
        wires.client.half_closes()
        self.assertTrue(wires.engine.ended)
        wires.engine.sends(PONG)
        self.assertEqual(wires.client.received, PONG)

    def test_leaves(self) -> None:
        """A full close cancels: builds, pulls and waits end with their client."""
        for half_first in (False, True):
            wires = Wires()
            wires.client.sends(WAIT)
            if half_first:
                wires.client.half_closes()
            wires.client.leaves()
            self.assertTrue(wires.engine.closed)
            self.assertTrue(wires.client.closed)
            self.assertTrue(wires.over)

    def test_leaves_with_all_sent(self) -> None:
        """What the client had sent reaches the engine all the same."""
        wires = Wires()
        wires.client.sends(WAIT)
        wires.client.leaves()
        self.assertEqual(wires.engine.received, WAIT)

    def test_half_close_in_the_body(self) -> None:
        """The engine hears that no more comes, and answers."""
        wires = Wires()
        wires.client.sends(BUILD + b"5\r\nhel")
        wires.client.half_closes()
        self.assertTrue(wires.engine.ended)
        wires.engine.sends(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        wires.engine.half_closes()
        self.assertEqual(wires.client.received, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(wires.over)

    def test_stops_reading(self) -> None:
        """A client that takes no answer is gone."""
        wires = Wires()
        wires.client.sends(PING)
        wires.client.stops_reading()
        wires.engine.sends(PONG)
        self.assertTrue(wires.engine.closed)
        self.assertTrue(wires.over)

    def test_reset(self) -> None:
        """So is one whose connection breaks."""
        wires = Wires()
        wires.client.sends(PING)
        wires.client.resets()
        self.assertTrue(wires.engine.closed)
        self.assertTrue(wires.over)


class EngineEndsTests(SynchronousTestCase):
    """What a client sees of an engine that is absent, restarts, or breaks HTTP."""

    def failed(self, wires: Wires, status: bytes, *words: bytes) -> None:
        """The client was told, and the connection ended."""
        received = wires.client.received
        self.assertTrue(received.startswith(b"HTTP/1.1 " + status), received)
        head, _, body = received.partition(b"\r\n\r\n")
        self.assertIn(b"Connection: close", head)
        self.assertIn(b'{"message":', body)
        for word in words:
            self.assertIn(word, body)
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.over)

    def test_absent(self) -> None:
        """A 503 names its address; the next connection tries again."""
        wires = Wires()
        wires.dialler.absent = True
        wires.client.sends(PING)
        self.failed(wires, b"503 ", b"unix:///engine.sock")

    def test_absent_head(self) -> None:
        """A HEAD gets the head of it."""
        wires = Wires()
        wires.dialler.absent = True
        wires.client.sends(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(wires.client.received.endswith(b"\r\n\r\n"))

    def test_connection_fails_later(self) -> None:
        """So does a connection that could not be made in the end."""
        wires = Wires()
        wires.dialler.connecting = True
        wires.client.sends(PING)
        wires.engine.resets()
        self.failed(wires, b"503 ", b"unix:///engine.sock")

    def test_gone_before_the_answer(self) -> None:
        """An engine that dies over a request: 502."""
        for begun in (b"", b"HTTP/1.1 200 O"):
            wires = Wires()
            wires.client.sends(PING)
            wires.engine.sends(begun)
            wires.engine.half_closes()
            self.failed(wires, b"502 ", b"broke off")

    def test_gone_within_the_answer(self) -> None:
        """The client sees a short answer and the end, as it would without us."""
        for begun in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        ):
            for end in ("half_closes", "resets"):
                wires = Wires()
                wires.client.sends(PING)
                wires.engine.sends(begun)
                getattr(wires.engine, end)()
                self.assertEqual(wires.client.received, begun)
                self.assertTrue(wires.client.closed)

    def test_gone_while_idle(self) -> None:
        """A kept-alive client is disconnected, as by the engine itself, and comes again."""
        wires = Wires()
        wires.client.sends(PING)
        wires.engine.sends(PONG)
        wires.engine.half_closes()
        self.assertEqual(wires.client.received, PONG)
        self.assertTrue(wires.client.closed)

    def test_broken_answers(self) -> None:
        """What is not HTTP/1.1 is a 502, and ends the pair."""
        for answer in (
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        ):
            wires = Wires()
            wires.client.sends(PING)
            wires.engine.sends(answer)
            self.failed(wires, b"502 ")
            self.assertTrue(wires.engine.closed)

    def test_broken_chunk(self) -> None:
        """A chunk that cannot be read ends an answer that has begun."""
        wires = Wires()
        wires.client.sends(PING)
        wires.engine.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        wires.engine.sends(b"zz\r\n")
        self.assertEqual(wires.client.received, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.assertTrue(wires.client.closed)

    def test_rejected_upload(self) -> None:
        """The engine answers and refuses the rest; the answer arrives, and the client may leave in peace."""
        wires = Wires()
        wires.client.sends(BUILD + b"5\r\nhello\r\n")
        wires.engine.stops_reading()
        wires.client.sends(b"5\r\nhello\r\n")
        self.assertTrue(wires.client.paused)
        rejected = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        wires.engine.sends(rejected)
        wires.engine.half_closes()
        self.assertEqual(wires.client.received, rejected)
        self.assertTrue(wires.client.lingered)
        self.assertTrue(wires.over)


class RefusalTests(SynchronousTestCase):
    """What is ambiguous is refused with a sentence, and the connection closed; nothing reaches the engine."""

    CASES = (
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b"both"),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, b"two different"),
        (b"GET /x HTTP/1.1\nHost: x\n\n", 400, b"bare LF"),
        (b"GET /x HTTP/1.1\r\nA: b\rc\r\n\r\n", 400, b"bare CR"),
        (b"GET /x HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400, b"folded"),
        (b"GET /x HTTP/1.1\r\nA : b\r\n\r\n", 400, b"space before"),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400, b"only chunked"),
        (b"GET /x HTTP/1.1\r\nA: \x01\r\n\r\n", 400, b"control character"),
        (b"GET /x HTTP/1.2\r\nA: b\r\n\r\n", 400, b"is not HTTP/1.1"),
        (b"GET /a/../containers/json HTTP/1.1\r\nHost: x\r\n\r\n", 400, b""),
        (b"GET //containers/json HTTP/1.1\r\nHost: x\r\n\r\n", 400, b""),
        (
            b"POST /containers/prune HTTP/1.1\r\nHost: x\r\nContent-Type: Application/X-WWW-Form-urlencoded; a=b\r\n"
            b"Content-Length: 3\r\n\r\na=b",
            400,
            b"form",
        ),
        (
            b"POST /build HTTP/1.1\r\nHost: x\r\ncontent-type:multipart/form-data\r\nContent-Length: 0\r\n\r\n",
            400,
            b"form",
        ),
        (b"GET /x HTTP/1.1\r\nA: " + b"a" * 1024 * 1024 + b"\r\n\r\n", 431, b"longer"),
        (b"G" * (1024 * 1024 + 1), 431, b"longer"),
    )

    def test_refused(self) -> None:
        """Each by its rule."""
        for request, status, words in self.CASES:
            wires = Wires()
            wires.client.sends(request)
            received = wires.client.received
            self.assertTrue(received.startswith(b"HTTP/1.1 %d " % status), (request[:80], received))
            self.assertIn(b'{"message":', received)
            self.assertIn(words, received)
            self.assertIn(b"Connection: close", received)
            self.assertTrue(wires.client.closed, request[:80])
            self.assertTrue(wires.client.lingered)
            self.assertEqual(wires.dialler.wires, [], request[:80])
            self.assertTrue(wires.over)

    def test_never_whole(self) -> None:
        """A head that is not whole in its time is refused, however slowly it comes on; before it, all may be silent."""
        for before in (b"", PING):
            wires = Wires(limits=Limits(head_seconds=5))
            if before:
                wires.clock.advance(100)  # a client that says nothing may be silent
                wires.client.sends(before)
                wires.clock.advance(100)
                wires.engine.sends(PONG)
                self.assertEqual(wires.client.received, PONG)
            wires.client.sends(b"GET /_ping HT")
            wires.clock.advance(4)
            wires.client.sends(b"TP/1.1\r\n")
            wires.clock.advance(0.9)
            self.assertFalse(wires.client.closed)
            wires.clock.advance(0.2)
            received = wires.client.received
            self.assertTrue(received.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), received)
            self.assertIn(b"not whole after 5 seconds", received)
            self.assertTrue(wires.over)

    def test_whole_in_time(self) -> None:
        """The next head has its own time, and one that is given up leaves no timer."""
        wires = Wires(limits=Limits(head_seconds=5))
        for _ in range(3):
            wires.client.sends(PING[:9])
            wires.clock.advance(4)
            wires.client.sends(PING[9:])
            wires.engine.sends(PONG)
            self.assertEqual(wires.client.received, PONG)
        wires.client.sends(PING[:9])
        wires.client.half_closes()
        self.assertTrue(wires.over)
        self.assertEqual([call for call in wires.clock.getDelayedCalls() if "_overdue" in str(call)], [])

    def test_refused_behind_another(self) -> None:
        """A bad request behind a good one is refused once the good one is answered."""
        wires = Wires()
        wires.client.sends(PING + b"GET /x\r\n\r\n")
        wires.engine.sends(PONG)
        received = wires.client.received
        self.assertTrue(received.startswith(PONG + b"HTTP/1.1 400 "), received)
        self.assertTrue(wires.engine.closed)

    def test_broken_chunk(self) -> None:
        """A chunk that cannot be read ends the request, and the engine's connection with it."""
        for split in (False, True):
            wires = Wires()
            if split:
                wires.client.sends(BUILD)
                wires.client.sends(b"zz\r\n")
            else:
                wires.client.sends(BUILD + b"zz\r\n")
            received = wires.client.received
            self.assertTrue(received.startswith(b"HTTP/1.1 400 "), received)
            self.assertTrue(wires.over)


class DrainTests(SynchronousTestCase):
    """Stopping waits for exchanges, not for connections."""

    def test_idle(self) -> None:
        """A client between requests is disconnected."""
        wires = Wires()
        wires.conversation.drain()
        self.assertTrue(wires.client.closed)

    def test_busy(self) -> None:
        """One that waits for an answer gets it first, but no other."""
        wires = Wires()
        wires.client.sends(PING * 2)
        wires.conversation.drain()
        self.assertFalse(wires.client.closed)
        wires.engine.sends(PONG)
        self.assertEqual(wires.client.received, PONG)
        self.assertEqual(wires.engine.received, PING)
        self.assertTrue(wires.client.closed)

    def test_abort(self) -> None:
        """At the deadline all ends: plain exchanges and streams."""
        wires = Wires()
        wires.client.sends(ATTACH)
        wires.conversation.abort()
        self.assertTrue(wires.client.closed)
        wires = Wires()
        wires.client.sends(ATTACH)
        wires.engine.sends(UPGRADED)
        wires.conversation.abort()
        self.assertTrue(wires.client.closed)
        self.assertTrue(wires.engine.closed)
        self.assertTrue(wires.over)
