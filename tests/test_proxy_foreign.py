"""Wires over Twisted's own transports: endpoints that are none of ours."""

from __future__ import annotations

from typing import cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from docker_tracker.config import Limits
from docker_tracker.connections import EngineAddress
from docker_tracker.proxy.conversation import Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.foreign import ForeignFactory, ForeignWire
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.plan import Plan
from tests.support.hand_reactor import HandReactor
from tests.test_proxy_conversation import PING
from tests.test_proxy_wire import Notes


class HalfTransport(StringTransport):
    """A transport in memory that notes how it is ended."""

    half = False

    def loseWriteConnection(self) -> None:
        self.half = True


class WireTests(SynchronousTestCase):
    """What the transport tells, and what it is told."""

    def setUp(self) -> None:
        self.reactor = HandReactor()
        self.hub = Hub(self.reactor)  # type: ignore[arg-type]
        self.notes = Notes()
        self.wire = ForeignWire(self.hub, lambda wire: setattr(wire, "receiver", self.notes))
        self.transport = HalfTransport()
        self.wire.makeConnection(self.transport)

    def test_interfaces(self) -> None:
        """Twisted finds what it calls."""
        verifyObject(IHalfCloseableProtocol, self.wire)
        verifyObject(IPushProducer, self.wire)
        self.assertIs(self.transport.producer, self.wire)
        self.assertEqual(self.hub.wires, {self.wire})

    def test_data(self) -> None:
        """Bytes go both ways, with flow control."""
        self.wire.dataReceived(b"in")
        self.assertEqual(self.notes.received, b"in")
        self.wire.write(memoryview(b"out"))
        self.assertEqual(self.transport.value(), b"out")
        self.wire.pauseProducing()
        self.assertTrue(self.wire.queued)
        self.wire.resumeProducing()
        self.assertFalse(self.wire.queued)
        self.assertEqual(self.notes.seen, ["drained"])
        self.wire.pause()
        self.assertEqual(self.transport.producerState, "paused")
        self.wire.resume()
        self.assertEqual(self.transport.producerState, "producing")

    def test_ends(self) -> None:
        """Half-close each way; what is written behind our end is dropped."""
        self.wire.readConnectionLost()
        self.assertTrue(self.wire.input_ended)
        self.wire.end()
        self.wire.end()
        self.wire.write(b"dropped")
        self.assertTrue(self.transport.half)
        self.wire.writeConnectionLost()
        self.wire.resume()
        self.wire.watch_hangup(self.fail)
        self.assertFalse(self.wire.hung_up())
        self.assertEqual(self.notes.seen, ["ended"])
        self.assertEqual(self.transport.value(), b"")

    def test_breaks(self) -> None:
        """A far end that reads no more, and one that is gone."""
        self.wire.writeConnectionLost()
        self.wire.set_timer(1, self.fail)
        self.wire.stopProducing()
        self.wire.connectionLost()
        self.assertEqual(self.notes.seen, ["broken", "lost ECONNRESET"])
        self.assertEqual(self.hub.wires, set())
        self.assertTrue(self.wire.hung_up())
        self.reactor.advance(2)

    def test_close(self) -> None:
        """A close flushes, an abort does not; the receiver hears nothing more."""
        called: list[int] = []
        self.wire.set_timer(1, lambda: called.append(1))
        self.reactor.advance(1)
        self.wire.close(linger=True)
        self.wire.close()
        self.assertTrue(self.transport.disconnecting)
        self.wire.connectionLost()
        self.assertEqual((called, self.notes.seen), ([1], []))
        self.setUp()
        self.wire.abort()
        self.assertTrue(self.transport.disconnected)
        self.assertEqual(self.hub.wires, set())


class Client(Protocol):
    """Collects what comes until the connection ends."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.ended.callback(self.received)


class EndpointTests(TestCase):
    """A real endpoint string of Twisted's."""

    async def test_haproxy(self) -> None:
        """Behind HAProxy's PROXY protocol a client is who that says."""
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

        hub = Hub(reactor)  # type: ignore[arg-type]
        dialler = Dialler(hub, EngineAddress("unix", path="/nonexistent/engine"), 5.0)
        entrance = Entrance("haproxy", "1d", "default", Plan(()), dialler, Limits())
        endpoint = serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1")
        port = await endpoint.listen(ForeignFactory(hub, entrance))
        self.addCleanup(port.stopListening)
        client = cast(
            Client, await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), Client())
        )
        client.transport.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 80\r\n")  # type: ignore[union-attr]
        client.transport.write(PING)  # type: ignore[union-attr]
        peers = []
        while not client.received:
            peers += [conversation.peer for conversation in hub.conversations]
            await _turn()
        self.assertEqual({peer.address for peer in peers}, {"192.0.2.7:12345"})
        client.transport.loseConnection()  # type: ignore[union-attr]
        received = await client.ended
        self.assertTrue(received.startswith(b"HTTP/1.1 503 "), received)
        await hub.stop(1)


def _turn() -> Deferred[None]:
    from twisted.internet.task import deferLater

    return deferLater(reactor, 0.001)
