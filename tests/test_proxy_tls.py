"""TLS wires on real sockets: handshakes, half-close by close_notify, losses, and what waits for the handshake."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

from docker_tracker.proxy.tls import TLSWire, client_context, server_context
from docker_tracker.proxy.wire import LINGER
from tests.support.certificates import Authority
from tests.test_proxy_wire import MANY, Notes, WireTestCase, tcp_pair


class TLSTestCase(WireTestCase):
    """A server's and a client's wire, joined."""

    def setUp(self) -> None:
        super().setUp()
        directory = Path(self.mktemp())
        directory.mkdir()
        self.authority = Authority(directory)
        server, client = self.authority.sign("server"), self.authority.sign("client")
        self.server_context = server_context(server.certificate, server.key, self.authority.certificate)
        self.client_context = client_context(self.authority.certificate, client.certificate, client.key, True)
        self.certificates: list[Any] = []

    def joined(self, client_context: ssl.SSLContext | None = None) -> None:
        """Make `self.server` and `self.client`, whose notes are `self.served` and `self.noted`."""
        near, far = tcp_pair()
        near.setblocking(False)
        far.setblocking(False)
        self.server = TLSWire(self.hub, near, self.server_context, on_secured=self.certificates.append)
        self.client = TLSWire(self.hub, far, client_context or self.client_context, "localhost")
        self.served, self.noted = Notes(), Notes()
        self.server.receiver, self.client.receiver = self.served, self.noted
        self.addCleanup(self.server.abort)
        self.addCleanup(self.client.abort)

    def settle(self, turns: int = 12) -> None:
        """Let both sides act."""
        self.reactor.turn(turns)


class HandshakeTests(TLSTestCase):
    """Before the first byte."""

    def test_secured(self) -> None:
        """Bytes written before the handshake wait for it; the client's certificate is told."""
        self.joined()
        self.client.write(b"hello ")
        self.client.write(b"server")
        self.assertEqual(self.client.queued, 12)
        self.server.write(b"hello client")
        self.settle()
        self.assertEqual(self.served.received, b"hello server")
        self.assertEqual(self.noted.received, b"hello client")
        self.assertEqual((self.client.queued, self.server.queued), (0, 0))
        (certificate,) = self.certificates
        self.assertEqual(certificate["subject"], ((("commonName", "client"),),))
        self.assertEqual(self.noted.seen, ["drained"])

    def test_end_before_the_handshake(self) -> None:
        """So does the end, behind the bytes."""
        self.joined()
        self.client.write(b"all")
        self.client.end()
        self.client.write(b"dropped")
        self.settle()
        self.assertEqual(self.served.received, b"all")
        self.assertEqual(self.served.seen, ["ended"])

    def test_no_certificate(self) -> None:
        """A client without one is turned away where one is asked for."""
        self.joined(client_context(self.authority.certificate, None, None, True))
        self.settle()
        self.client.write(b"x")
        self.settle()
        self.assertEqual(self.served.received, b"")
        self.assertEqual(self.server.fileno(), -1)
        self.assertEqual(self.served.seen[0][:4], "lost")

    def test_wrong_authority(self) -> None:
        """A server of another CA is not spoken to, unless nobody verifies."""
        other = Path(self.mktemp())
        other.mkdir()
        stranger = Authority(other).certificate
        self.joined(client_context(stranger, None, None, True))
        self.settle()
        self.assertEqual(self.client.fileno(), -1)
        pair = self.authority.sign("another")
        self.joined(client_context(None, pair.certificate, pair.key, False))
        self.client.write(b"x")
        self.settle()
        self.assertEqual(self.served.received, b"x")

    def test_default_authorities(self) -> None:
        """Without a CA the system's are asked."""
        context = client_context(None, None, None, True)
        self.assertEqual(context.verify_mode, ssl.CERT_REQUIRED)
        self.joined(context)
        self.settle()
        self.assertEqual(self.client.fileno(), -1)

    def test_plain_text(self) -> None:
        """Who does not speak TLS is turned away."""
        near, far = tcp_pair()
        near.setblocking(False)
        self.addCleanup(far.close)
        wire = TLSWire(self.hub, near, self.server_context)
        notes = Notes()
        wire.receiver = notes
        far.send(b"GET / HTTP/1.1\r\n\r\n")
        self.settle(2)
        self.assertEqual(wire.fileno(), -1)
        self.assertEqual(notes.received, b"")

    def test_gone_in_the_handshake(self) -> None:
        """Or who leaves in the middle of it."""
        near, far = tcp_pair()
        near.setblocking(False)
        wire = TLSWire(self.hub, near, self.server_context)
        wire.read()
        far.close()
        self.settle(2)
        self.assertEqual(wire.fileno(), -1)


class StreamTests(TLSTestCase):
    """Behind the handshake."""

    def setUp(self) -> None:
        super().setUp()
        self.joined()
        self.settle()

    def test_half_close(self) -> None:
        """A close_notify ends one way only, each way."""
        self.client.write(b"in")
        self.client.end()
        self.settle()
        self.assertEqual((bytes(self.served.received), self.served.seen), (b"in", ["ended"]))
        self.assertFalse(self.server.hung_up())
        self.server.write(b"late")
        self.settle()
        self.assertEqual(self.noted.received, b"late")
        self.server.end()
        self.settle()
        self.assertIn("ended", self.noted.seen)

    def test_bulk(self) -> None:
        """Much goes through, queued and told."""
        self.client.write(MANY)
        self.assertTrue(self.client.queued)
        self.client.end()
        while len(self.served.received) < len(MANY):
            self.settle(1)
        self.settle()
        self.assertEqual(self.served.received, MANY)
        self.assertEqual(self.served.seen, ["ended"])

    def test_paused(self) -> None:
        """What was decrypted waits, too; it comes when reading goes on."""
        self.served.data = lambda data: (self.served.received.extend(data), self.server.pause())  # type: ignore[method-assign,assignment,func-returns-value]
        self.client.write(b"x" * 200_000)
        self.settle()
        first = len(self.served.received)
        self.assertTrue(0 < first < 200_000)
        for _ in range(100):
            self.server.resume()
            self.settle(2)
        self.assertEqual(len(self.served.received), 200_000)
        self.assertEqual(self.server.queued, 0)

    def test_end_while_paused(self) -> None:
        """Ending our side loses nothing of what came and waits to be read."""
        served = self.served
        original = served.data

        def one_piece(data: Any) -> None:
            original(data)
            self.server.pause()

        self.patch(served, "data", one_piece)
        for letter in b"abcdef":
            self.client.write(bytes([letter]) * 16000)
        self.client.end()
        self.settle()
        self.server.end()
        self.patch(served, "data", original)
        self.server.resume()
        self.settle(40)
        self.assertEqual(len(served.received), 96000)
        self.assertEqual(served.seen[-1], "ended")

    def test_bare_end(self) -> None:
        """A connection that ends without a close_notify is lost: who could have cut it?"""
        self.client._socket.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]
        self.settle()
        self.assertEqual(self.served.seen[0][:4], "lost")
        self.assertTrue(self.server.hung_up())

    def test_reset(self) -> None:
        """So is one that is reset."""
        self.server.write(b"x")
        self.client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # type: ignore[union-attr]
        self.client.abort()
        self.settle()
        self.assertEqual(self.served.seen[-1], "lost ECONNRESET")

    def test_garbage(self) -> None:
        """And one in which something else than TLS comes."""
        self.client._socket.send(b"\x17\x03\x03\x00\x10" + b"?" * 16)  # type: ignore[union-attr]
        self.settle()
        self.assertEqual(self.served.seen[0][:4], "lost")

    def test_close(self) -> None:
        """A close says so in TLS."""
        for linger in (False, True):
            self.joined()
            self.settle()
            self.server.write(b"bye")
            self.server.close(linger)
            self.settle()
            self.assertEqual(self.noted.received, b"bye")
            self.assertEqual(self.noted.seen, ["ended"])
            self.reactor.advance(LINGER)
            self.assertEqual(self.server.fileno(), -1)
            self.server.write(b"dropped")
