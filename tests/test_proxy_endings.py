"""Clients and engines that end at bad moments, on real sockets where those matter: all that was begun ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.config import Limits
from docker_tracker.connections import EngineAddress
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Exchange, Outcome, Peer, Stage
from docker_tracker.proxy.conversation import Conversation, Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.plan import Named, Plan
from docker_tracker.proxy.wire import SocketWire
from tests.support.hand_reactor import HandReactor
from tests.support.short import short_directory
from tests.support.wires import Wires
from tests.test_proxy_conversation import ATTACH, PING, PONG, UPGRADED
from tests.test_proxy_interceptors import CREATED, Recording, create, raising

PIECE = b"x" * 200_000


class SocketCase(SynchronousTestCase):
    """A conversation between two real sockets, turned by hand."""

    def begin(self, *interceptors: Named) -> None:
        """Connect a client; the engine listens."""
        self.reactor = HandReactor()
        self.hub = Hub(self.reactor)  # type: ignore[arg-type]
        self.addCleanup(self.hub.poller.close)
        self.addCleanup(self.hub.pipes.close)
        path = short_directory(self) / "engine"
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen()
        self.addCleanup(self.listening.close)
        ours, self.client = socket.socketpair()
        self.addCleanup(self.client.close)
        ours.setblocking(False)
        self.client.setblocking(False)
        dialler = Dialler(self.hub, EngineAddress("unix", path=str(path)), 1.0)
        entrance = Entrance("here", "1d", "default", Plan(interceptors), dialler, Limits())
        Conversation(self.hub, SocketWire(self.hub, ours, unix=True), entrance, Peer())

    def asked(self, request: bytes) -> socket.socket:
        """Send a request; return the engine's end of its connection."""
        self.client.send(request)
        self.reactor.turn(3)
        engine, _ = self.listening.accept()
        self.addCleanup(engine.close)
        engine.setblocking(False)
        return engine

    def pour(self, engine: socket.socket | None = None, times: int = 40) -> int:
        """Send much from the client; return how much of it an engine took, if one reads."""
        taken = 0
        for _ in range(times):
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                self.client.send(PIECE)
            self.reactor.turn(2)
            if engine is not None:
                with contextlib.suppress(BlockingIOError):
                    taken += len(engine.recv(1 << 20))
        return taken

    def over(self) -> None:
        """Everything has ended, at latest after the times that are set."""
        for _ in range(8):
            self.reactor.turn(2)
            self.reactor.advance(10)
        self.assertEqual((self.hub.conversations, self.hub.wires), (set(), set()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class PausedTests(SocketCase):
    """A client that is not read, since nobody takes what it sent, and leaves."""

    def test_leaves(self) -> None:
        """In a stream, in a body, or with too much behind a request."""
        for request in (ATTACH, b"POST /build HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n", PING):
            self.begin()
            engine = self.asked(request)
            if request == ATTACH:
                engine.send(UPGRADED)
            self.pour()
            self.client.close()
            self.over()

    def test_what_was_sent_arrives(self) -> None:
        """What it had sent still goes to an engine that reads on."""
        self.begin()
        engine = self.asked(ATTACH)
        engine.send(UPGRADED)
        self.reactor.turn(2)
        sent = 0
        for _ in range(40):
            with contextlib.suppress(BlockingIOError):
                sent += self.client.send(PIECE)
            self.reactor.turn(2)
        self.client.close()
        self.reactor.advance(3)
        taken = -len(ATTACH)
        for _ in range(100):
            self.reactor.turn(2)
            with contextlib.suppress(BlockingIOError):
                taken += len(engine.recv(1 << 20))
        self.assertEqual(taken, sent)
        self.over()


class PipeTests(SocketCase):
    """What is going through pipes when it ends."""

    def test_early_answer(self) -> None:
        """The engine refuses a long upload and leaves: the client gets the answer, and no pipe is lost."""
        self.begin()
        before = len(os.listdir("/proc/self/fd"))
        engine = self.asked(b"POST /images/load HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n")
        self.pour(engine, 6)
        engine.send(b"HTTP/1.1 400 Bad\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
        self.reactor.turn(2)
        engine.close()
        self.pour(times=6)
        self.assertTrue(self.client.recv(100).startswith(b"HTTP/1.1 400"))
        self.over()
        self.hub.pipes.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before - 1)  # our end of the client's socket

    def test_stream_ends(self) -> None:
        """``cat big | docker run -i busybox head -1``"""
        self.begin()
        engine = self.asked(ATTACH)
        engine.send(UPGRADED)
        self.pour(engine, 6)
        engine.send(b"last words")
        engine.close()
        self.pour(times=6)
        self.assertTrue(self.client.recv(999).endswith(b"last words"))
        self.over()

    def test_tap(self) -> None:
        """An upgrade in the middle of a long body: a tap sees all that comes from then on."""
        seen: list[int] = []

        class Tapping(Recording):
            def stream_data(self, exchange: Exchange, from_client: bool, data: bytes) -> None:
                seen.append(len(data))

        self.begin(Named("tap", Tapping(stages=Stage.STREAM_DATA)))
        long = ATTACH[:-2] + b"Content-Length: 1000000000\r\n\r\n"
        engine = self.asked(long)
        self.pour(engine, 3)
        with contextlib.suppress(BlockingIOError):
            while engine.recv(1 << 20):
                self.reactor.turn(2)
        engine.send(UPGRADED)
        self.reactor.turn(3)
        passed = self.pour(engine, 6)
        self.assertGreater(passed, 0)
        self.assertGreaterEqual(sum(seen), passed)


class GuardTests(SocketCase):
    """Guards that fail at a bad moment."""

    def test_client_left_before(self) -> None:
        """An ID that cannot be saved after the client has left: the exchange is finished all the same."""
        saving: Deferred[None] = Deferred()
        recording = Recording(stages=Stage.RESPONSE_JSON | Stage.FINISHED, does={"response_json": lambda *_: saving})
        self.begin(Named("guard", recording))
        engine = self.asked(create())
        engine.send(CREATED)
        self.reactor.turn(3)
        self.client.close()
        self.reactor.turn(3)
        self.assertEqual(recording.outcomes, [])
        saving.errback(RefusedError("the disk is full", 503))
        self.assertEqual(recording.outcomes, [Outcome.CLIENT_GONE])
        self.over()

    def test_no_descriptors(self) -> None:
        """The last descriptor went to the client: it gets a 503."""
        self.begin()

        def no_socket(*_: Any) -> socket.socket:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(socket, "socket", no_socket)
        self.client.send(PING)
        self.reactor.turn(3)
        self.assertTrue(self.client.recv(100).startswith(b"HTTP/1.1 503"))

    def test_tap_fails(self) -> None:
        """What a guard could not look at does not pass, and the stream ends."""
        recording = Recording(does={"> rm -rf": raising(ValueError("oops"))})
        wires = Wires(Named("guard", recording))
        wires.client.sends(ATTACH)
        wires.engine.sends(UPGRADED)
        self.assertEqual(wires.engine.received, ATTACH)
        wires.client.sends(b"rm -rf")
        wires.client.sends(b"more")
        self.assertEqual(wires.engine.received, b"")
        self.assertTrue(wires.over)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_refused_twice(self) -> None:
        """A guard that refuses what is being refused anyway has the last word."""
        recording = Recording(does={"started": raising(RefusedError("the disk is full", 503))})
        wires = Wires(Named("audit", recording))
        wires.client.sends(b"GET / HTTP/9.9\r\n\r\n")
        self.assertTrue(wires.client.received.startswith(b"HTTP/1.1 503 "))
        self.assertTrue(wires.over)
        self.assertEqual(recording.outcomes, [Outcome.REFUSED])

    def test_cancelled_by_itself(self) -> None:
        """A hook that raises CancelledError without having been cancelled has failed."""
        for hook in ("request_head", "response_json"):
            recording = Recording(does={hook: raising(CancelledError())})
            wires = Wires(Named("guard", recording))
            wires.client.sends(create())
            if hook == "response_json":
                wires.engine.sends(CREATED)
            self.assertTrue(wires.client.received.startswith(b"HTTP/1.1 500"))
            self.assertEqual(recording.outcomes, [Outcome.REFUSED])
            self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)


class HalfTests(SynchronousTestCase):
    """Half-closes behind something that is not whole."""

    def test_part_of_a_head(self) -> None:
        """What was whole is answered, and then all ends."""
        for unix in (False, True):
            wires = Wires(unix=unix)
            wires.client.sends(PING + b"GET /x")
            wires.client.half_closes()
            wires.engine.sends(PONG)
            self.assertEqual(wires.client.received, PONG)
            self.assertTrue(wires.over)

    def test_part_of_a_body(self) -> None:
        """The engine hears that no more comes, and answers as it likes."""
        for unix in (False, True):
            wires = Wires(unix=unix)
            wires.client.sends(PING + create()[:-3])
            wires.client.half_closes()
            self.assertFalse(wires.engine.ended)
            wires.engine.sends(PONG)
            self.assertTrue(wires.engine.ended)

    def test_old_expect(self) -> None:
        """A client of HTTP/1.0 knows no 100."""
        wires = Wires(Named("one", Recording()))
        wires.client.sends(b"POST /volumes/create HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        self.assertEqual(wires.client.received, b"")

    def test_other_expectations(self) -> None:
        """What is not ours to answer goes on."""
        wires = Wires(Named("one", Recording()))
        request = create(extra=b"Expect: 200-ok\r\n")
        wires.client.sends(request)
        self.assertEqual(wires.engine.received, request)

    def test_chunk_extensions(self) -> None:
        """A held body is bounded as it comes, not only as what it carries."""
        recording = Recording()
        wires = Wires(Named("one", recording), limits=Limits(json_bytes=4096))
        wires.client.sends(b"POST /containers/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            wires.client.sends(b"1;" + b"e" * 4000 + b"\r\n \r\n")
        self.assertTrue(wires.client.received.startswith(b"HTTP/1.1 413 "))
        self.assertTrue(wires.over)
        self.assertEqual(recording.outcomes, [Outcome.REFUSED])
