"""Accepting and dialling: whole connections from a client's socket to an engine's, turned by hand."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider
from zope.interface.verify import verifyObject

from docker_tracker.config import Limits
from docker_tracker.connections import EngineAddress
from docker_tracker.errors import EngineUnavailableError
from docker_tracker.proxy import listener
from docker_tracker.proxy.conversation import Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.listener import Acceptor, _common_name, peer_of
from docker_tracker.proxy.plan import Plan
from docker_tracker.proxy.sockets import listen_tcp, listen_unix
from tests.support.hand_reactor import HandReactor
from tests.support.short import short_directory
from tests.test_proxy_conversation import PING, PONG
from tests.test_proxy_wire import Notes, tcp_pair


class ConnectionTestCase(SynchronousTestCase):
    """A hub, and a directory for sockets."""

    def setUp(self) -> None:
        self.reactor = HandReactor()
        self.hub = Hub(self.reactor)  # type: ignore[arg-type]
        self.addCleanup(self.hub.poller.close)
        self.directory = short_directory(self)
        self.path = self.directory / "engine"

    def dialler(self, address: EngineAddress | None = None) -> Dialler:
        """Return a dialler; by default to our own path."""
        return Dialler(self.hub, address or EngineAddress("unix", path=str(self.path)), 5.0)

    def server(self, backlog: int = 9) -> socket.socket:
        """Listen where the engine is."""
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self.path))
        server.listen(backlog)
        self.addCleanup(server.close)
        return server


class DialTests(ConnectionTestCase):
    """Connections to the engine."""

    def test_unix(self) -> None:
        """A unix socket is connected at once."""
        server = self.server()
        wire = self.dialler().dial(Notes())
        self.assertFalse(wire.connecting)
        wire.write(b"hello")
        accepted, _ = server.accept()
        self.addCleanup(accepted.close)
        self.assertEqual(accepted.recv(9), b"hello")
        wire.abort()

    def test_absent(self) -> None:
        """Nobody there: the error names the address."""
        for make in (lambda: None, lambda: self.server().close()):
            make()
            error = self.assertRaises(EngineUnavailableError, self.dialler().dial, Notes())
            self.assertIn(f"unix://{self.path}", str(error))
            self.assertEqual(error.status, 503)
        self.assertEqual(self.hub.wires, set())

    def test_full_backlog(self) -> None:
        """A unix socket whose backlog is full never tells that it has room: it is tried again."""
        server = self.server(0)
        first, second = Notes(), Notes()
        self.dialler().dial(first)
        wire = self.dialler().dial(second)
        self.assertTrue(wire.connecting)
        wire.write(b"hello")
        self.assertEqual(wire.queued, 5)
        self.reactor.advance(0.01)
        self.assertTrue(wire.connecting)
        server.accept()[0].close()
        self.reactor.advance(0.01)
        self.assertFalse(wire.connecting)
        self.reactor.turn()
        accepted, _ = server.accept()
        self.addCleanup(accepted.close)
        self.assertEqual(accepted.recv(9), b"hello")
        for each in list(self.hub.wires):
            each.abort()

    def test_full_backlog_for_long(self) -> None:
        """But not for ever; nor after it is gone."""
        for close in (False, True):
            server = self.server(0)
            self.dialler().dial(Notes())
            notes = Notes()
            self.dialler().dial(notes)
            if close:
                server.close()
                self.reactor.advance(0.01)
            else:
                self.reactor.pump([1] * 6)
            self.assertEqual(notes.seen, ["lost ECONNREFUSED" if close else "lost ETIMEDOUT"])
            for each in list(self.hub.wires):
                each.abort()
            os.unlink(self.path)
            self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_tcp(self) -> None:
        """TCP connects in its time; what is written meanwhile waits."""
        server = listen_tcp("127.0.0.1", 0, "here")
        self.addCleanup(server.close)
        port = server.getsockname()[1]
        notes = Notes()
        wire = self.dialler(EngineAddress("tcp", host="localhost", port=port)).dial(notes)
        wire.write(b"hello")
        self.reactor.turn(2)
        self.assertFalse(wire.connecting)
        server.setblocking(True)
        accepted, _ = server.accept()
        self.addCleanup(accepted.close)
        self.assertEqual(accepted.recv(9), b"hello")
        self.assertEqual(notes.seen, ["drained"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        wire.abort()

    def test_tcp_refused(self) -> None:
        """A refusal that comes later is a loss, by the reactor's word or by ours."""
        with listen_tcp("127.0.0.1", 0, "here") as server:
            port = server.getsockname()[1]
        for by_hand in (False, True):
            notes = Notes()
            wire: Any = self.dialler(EngineAddress("tcp", host="127.0.0.1", port=port)).dial(notes)
            self.assertTrue(wire.connecting)
            if by_hand:
                wire.flush()
            else:
                self.reactor.turn()
            self.assertEqual(notes.seen, ["lost ECONNREFUSED"])
            self.assertEqual(wire.fileno(), -1)

    def test_tcp_too_slow(self) -> None:
        """A connection that is not made in time is given up."""
        server = listen_tcp("127.0.0.1", 0, "here")
        self.addCleanup(server.close)
        notes = Notes()
        self.dialler(EngineAddress("tcp", host="127.0.0.1", port=server.getsockname()[1])).dial(notes)
        self.reactor.pump([2] * 3)
        self.assertEqual(notes.seen, ["lost ETIMEDOUT"])

    def test_unknown_host(self) -> None:
        """A name that is none is an engine that is not there."""
        dialler = self.dialler(EngineAddress("tcp", host="no such host", port=1))
        self.assertIn("no such host", str(self.assertRaises(EngineUnavailableError, dialler.dial, Notes())))


class AcceptorTests(ConnectionTestCase):
    """Clients."""

    def accept(self, sock: socket.socket | None = None) -> Acceptor:
        """Accept at a unix path (`self.path`'s neighbour) or at a given socket."""
        sock = sock or listen_unix(self.directory / "listener", 0o600, None, None, "here")
        entrance = Entrance("listener", "1d", "default", Plan(()), self.dialler(), Limits())
        acceptor = Acceptor(self.hub, sock, entrance)
        self.addCleanup(acceptor.close)
        return acceptor

    def connect(self) -> socket.socket:
        """Connect to the listener."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(str(self.directory / "listener"))
        self.addCleanup(client.close)
        return client

    def test_whole_way(self) -> None:
        """A request goes to the engine, its answer back, and both ends close."""
        server = self.server()
        acceptor = self.accept()
        verifyObject(IReadDescriptor, acceptor)
        self.assertTrue(acceptor.logPrefix())
        self.assertEqual(acceptor.address(), str(self.directory / "listener"))
        client = self.connect()
        client.send(PING)
        self.reactor.turn(2)
        engine, _ = server.accept()
        self.addCleanup(engine.close)
        self.assertEqual(engine.recv(999), PING)
        engine.send(PONG)
        self.reactor.turn()
        self.assertEqual(client.recv(999), PONG)
        client.close()
        self.reactor.turn()
        self.assertEqual(engine.recv(1), b"")
        self.assertEqual((self.hub.wires, self.hub.conversations), (set(), set()))

    def test_long_bodies(self) -> None:
        """Bodies of a known length, and streams, go through pipes; every byte arrives, and the next request works."""
        server = self.server()
        self.accept()
        self.addCleanup(self.hub.pipes.close)
        client = self.connect()
        big = bytes(range(256)) * 8192
        request = b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(big) + big
        response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(big) + big
        client.send(PING)
        self.reactor.turn(2)
        engine, _ = server.accept()
        self.addCleanup(engine.close)
        for source, sink, data in (
            (engine, client, PONG),
            (client, engine, request),
            (engine, client, response),
            (client, engine, b"POST /exec/12/start HTTP/1.1\r\nUpgrade: tcp\r\n\r\n"),
            (engine, client, b"HTTP/1.1 101 UPGRADED\r\n\r\n"),
            (engine, client, big),
            (client, engine, big),
            (client, engine, b"small"),
            (engine, client, b"small"),
        ):
            self.move(source, sink, (PING if sink is engine and data is request else b"") + data, data)
        self.assertTrue(self.hub.pipes._kept)
        client.close()
        self.reactor.turn(2)
        self.assertEqual(self.hub.wires, set())

    def move(self, source: socket.socket, sink: socket.socket, expected: bytes, data: bytes) -> None:
        """Send and receive without blocking, the reactor turning between."""
        source.setblocking(False)
        sink.setblocking(False)
        received = bytearray()
        for _ in range(10_000):
            with contextlib.suppress(BlockingIOError):
                data = data[source.send(data) :] if data else data
            self.reactor.turn()
            with contextlib.suppress(BlockingIOError):
                received += sink.recv(100_000)
            if len(received) >= len(expected):
                break
        self.assertTrue(received == expected, (len(received), len(expected)))

    def test_peer(self) -> None:
        """Who a client is: by the kernel's word on unix sockets, by address over TCP."""
        self.accept()
        self.connect()
        self.reactor.turn()
        (conversation,) = self.hub.conversations
        peer = conversation.peer
        self.assertEqual((peer.pid, peer.uid, peer.gid), (os.getpid(), os.getuid(), os.getgid()))
        self.assertIn("python", peer.command)
        near, far = tcp_pair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        self.assertEqual(peer_of(near, far.getsockname()).address, f"127.0.0.1:{far.getsockname()[1]}")
        conversation.abort()

    def test_tcp(self) -> None:
        """TCP clients are served as well."""
        acceptor = self.accept(listen_tcp("127.0.0.1", 0, "here"))
        client = socket.create_connection(acceptor.address())
        self.addCleanup(client.close)
        client.settimeout(5)
        client.send(PING)
        self.reactor.turn(2)
        self.assertIn(b"503", client.recv(999))
        for wire in list(self.hub.wires):
            wire.abort()

    def test_no_descriptors(self) -> None:
        """When none are left accepting rests, says so once, and goes on; who waits is served then."""
        acceptor = self.accept()
        client = self.connect()
        client.send(PING)
        real = acceptor._socket
        refusing = True
        said: list[str] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            said.append(event["log_format"].partition(": ")[2][:19])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

        class Refusing:
            def accept(self) -> Any:
                if refusing:
                    raise OSError(errno.EMFILE, "Too many open files")
                return real.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        acceptor._socket = Refusing()  # type: ignore[assignment]
        acceptor.doRead()
        self.assertFalse(self.reactor.busy)
        self.reactor.advance(0.5)
        acceptor.doRead()
        self.assertEqual(said, ["no more connections"])
        refusing = False
        self.reactor.advance(0.5)
        self.reactor.turn(2)
        self.assertIn(b"503", client.recv(999))
        self.assertIn("accepting again", said)
        refusing = True
        acceptor.doRead()
        self.assertEqual(said.count("no more connections"), 2)
        acceptor.close()
        self.assertEqual(acceptor.fileno(), -1)
        acceptor.close()

    def test_other_failures(self) -> None:
        """A client that left in the backlog is passed by; what nobody expects is raised."""
        acceptor = self.accept()
        errors: list[OSError] = [ConnectionAbortedError(), OSError(errno.EBADF, "bad")]

        class Failing:
            def accept(self) -> Any:
                raise errors.pop(0)

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        real = acceptor._socket
        acceptor._socket = Failing()  # type: ignore[assignment]
        self.assertEqual(self.assertRaises(OSError, acceptor.doRead).errno, errno.EBADF)
        acceptor.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(acceptor.fileno(), -1)

    def test_client_that_cannot_be_served(self) -> None:
        """A failure of ours costs one client its connection; the next one is served."""
        acceptor = self.accept()
        first = self.connect()
        self.patch(listener, "peer_of", lambda *_: 1 / 0)
        self.reactor.turn()
        self.assertEqual(first.recv(1), b"")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(listener, "peer_of", peer_of)
        second = self.connect()
        second.send(PING)
        self.reactor.turn(2)
        self.assertIn(b"503", second.recv(999))
        self.assertGreaterEqual(acceptor.fileno(), 0)

    def test_common_name(self) -> None:
        """Of a certificate, if it has one."""
        self.assertEqual(_common_name(None), "")
        self.assertEqual(_common_name({"subject": ((("organizationName", "x"),), (("commonName", "ab"),))}), "ab")
        self.assertEqual(_common_name({"subject": ((("organizationName", "x"),),)}), "")
