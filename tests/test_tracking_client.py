"""Our own calls to the engine, against a server of this process: unix, TCP and TLS."""

from __future__ import annotations

import datetime
import errno
import ipaddress
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor as global_reactor
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.testing import EventLoggingObserver, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface.verify import verifyObject

from docker_tracker.connections import EngineAddress
from docker_tracker.errors import EngineAnswerError, EngineError, EngineProtocolError, EngineUnavailableError
from docker_tracker.interfaces import IEngine
from docker_tracker.tracking.agent import _Lines
from docker_tracker.tracking.client import EngineClient

reactor: Any = global_reactor


class FakeEngine(Resource):
    """Answers by path, and keeps what it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, str, bytes]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.held: list[Request] = []
        self.gone: Deferred[None] = Deferred()

    async def asked(self, path: str) -> None:
        """Wait until somebody has asked for a path."""
        while path not in [uri for _, uri, _ in self.requests]:
            await deferLater(reactor, 0.001)

    def render(self, request: Request) -> Any:
        content = request.content.read() if request.content is not None else b""
        self.requests.append((request.method.decode(), request.uri.decode(), content))
        path = request.path.decode()
        if path == "/cut":
            request.setHeader("content-length", "100")
            request.write(b"{")
            request.channel.loseConnection()
            return NOT_DONE_YET
        if path in ("/hold", "/events", "/silent"):
            self.held.append(request)
            request.notifyFinish().addErrback(lambda _: self.gone.callback(None))
            if path != "/silent":
                request.write(b"{" if path == "/hold" else b"\n")
            return NOT_DONE_YET
        status, body = self.answers.get(path, (404, b'{"message":"page not found"}'))
        request.setResponseCode(status)
        return body


class ClientCase(TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.engine = FakeEngine()
        self.address = EngineAddress("unix", path=str(self.directory / "s"))
        self.site = Site(self.engine)

    def listen(self) -> None:
        port = reactor.listenUNIX(self.address.path, self.site)
        self.addCleanup(port.stopListening)

    def client(self, address: EngineAddress | None = None, **options: Any) -> EngineClient:
        client = EngineClient(reactor, address or self.address, **options)
        self.addCleanup(lambda: ensureDeferred(client.close()))
        return client


class CallTests(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.listen()

    def test_interface(self) -> None:
        """It is what plug-ins are promised, and names its address as Docker does."""
        client = self.client()
        verifyObject(IEngine, client)
        self.assertEqual(client.address, f"unix://{self.address.path}")

    async def test_get(self) -> None:
        """A GET gives JSON; a 404 gives None; parameters are quoted."""
        self.engine.answers["/volumes/a%2Fb"] = (200, b'{"Name":"a"}\n')
        client = self.client()
        self.assertEqual(await client.get("/volumes/a%2Fb", {"filters": '{"a":["b c"]}'}), {"Name": "a"})
        self.assertIsNone(await client.get("/nothing"))
        self.assertEqual(
            [uri for _, uri, _ in self.engine.requests],
            ["/volumes/a%2Fb?filters=%7B%22a%22%3A%5B%22b+c%22%5D%7D", "/nothing"],
        )

    async def test_request(self) -> None:
        """Any method, a JSON body, any status."""
        self.engine.answers = {"/gone": (204, b""), "/made": (201, b'{"Id":"x"}'), "/text": (500, b"plain")}
        client = self.client()
        self.assertEqual(await client.request("DELETE", "/gone", {"force": "1"}), (204, None))
        self.assertEqual(await client.request("POST", "/made", body={"a": None}), (201, {"Id": "x"}))
        self.assertEqual(await client.request("GET", "/text"), (500, "plain"))
        self.assertEqual(
            self.engine.requests,
            [("DELETE", "/gone?force=1", b""), ("POST", "/made", b'{"a":null}'), ("GET", "/text", b"")],
        )

    async def test_given_up(self) -> None:
        """Who cancels a call is not told that the engine broke off; the connection is ended."""
        self.engine.answers["/version"] = (200, b"{}")
        for path in ("/silent", "/hold"):  # no head, and half a body
            self.engine.gone = Deferred()
            call = ensureDeferred(self.client().request("DELETE", path))
            await self.engine.asked(path)
            call.cancel()
            await self.assertFailure(call, CancelledError)
            await self.engine.gone
        self.assertEqual(await self.client().get("/version"), {})

    async def problem(self, path: str, **options: Any) -> EngineError:
        """Give what a GET fails with; it always names the address."""
        with self.assertRaises(EngineError) as caught:
            await self.client(**options).get(path)
        error: EngineError = caught.exception
        self.assertIn(str(self.address), str(error))
        return error

    async def test_error_answers(self) -> None:
        """An error has the engine's status and words, cut to a length."""
        for body, words in ((b'{"message":"no swarm"}', "no swarm"), (b"bad gateway", "bad gateway"), (b"[]", "[]")):
            self.engine.answers["/services"] = (503, body)
            error = await self.problem("/services")
            self.assertEqual((type(error), error.status), (EngineAnswerError, 502))
            self.assertIn(f"answered 503 to GET /services: {words}", str(error))
            self.assertEqual(error.answered if isinstance(error, EngineAnswerError) else None, 503)
        self.engine.answers["/services"] = (500, b"x" * 10000)
        self.assertLess(len(str(await self.problem("/services"))), 500)

    async def test_no_json(self) -> None:
        """What is no JSON, or nested beyond reason, is the engine's fault."""
        for body in (b"<html>", b"[" * 100_000, b"\xff"):
            self.engine.answers["/info"] = (200, body)
            self.assertIsInstance(await self.problem("/info"), EngineProtocolError)

    async def test_too_large(self) -> None:
        """An answer beyond the bound is given up, not kept."""
        self.engine.answers["/images/json"] = (200, b" " * 2000)
        error = await self.problem("/images/json", most_bytes=1000)
        self.assertIn("more than 1000 bytes", str(error))
        await _turn()

    async def test_broken_off(self) -> None:
        """An answer that is cut is no answer."""
        error = await self.problem("/cut")
        self.assertEqual((type(error), "broke off" in str(error)), (EngineError, True))

    async def test_slow(self) -> None:
        """A call that takes too long is ended, and the engine sees its client leave."""
        error = await self.problem("/hold", seconds=0.05)
        self.assertEqual(error.status, 504)
        self.assertIn("did not answer GET /hold within 0.05 s", str(error))
        await self.engine.gone

    async def test_turns(self) -> None:
        """Calls beyond the bound wait until one is over."""
        self.engine.answers["/info"] = (200, b"{}")
        client = self.client(at_once=1)
        first = ensureDeferred(client.get("/hold"))
        second = ensureDeferred(client.get("/info"))
        while not self.engine.held:
            await _turn()
        self.assertEqual([uri for _, uri, _ in self.engine.requests], ["/hold"])
        self.engine.held[0].write(b"}")
        self.engine.held[0].finish()
        self.assertEqual((await first, await second), ({}, {}))


class IdentityTests(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.listen()

    def info(self, **fields: Any) -> None:
        self.engine.answers["/info"] = (200, json.dumps(fields).encode())

    async def test_asked_once(self) -> None:
        """However many want to know it, the engine is asked once, until it may be another one."""
        self.info(ID="A", DockerRootDir="/a")
        client = self.client()
        events = EventLoggingObserver()
        globalLogPublisher.addObserver(events)
        self.addCleanup(globalLogPublisher.removeObserver, events)
        both = [ensureDeferred(client.identity()) for _ in range(2)]
        self.assertEqual([await one for one in both], ["A in /a"] * 2)
        self.assertEqual(await client.identity(), "A in /a")
        self.assertEqual(len(self.engine.requests), 1)
        # No line for each connection; trial's own server has its lines.
        self.assertEqual([event for event in events if "client" in str(event.get("log_namespace"))], [])
        client.forget()
        self.info(ID="A", DockerRootDir="/b")
        self.assertEqual(await client.identity(), "A in /b")

    async def test_podman(self) -> None:
        """Podman's ID is another one each time: its host and store are what stays."""
        self.info(ID="random", BuildahVersion="1.28", Name="host", DockerRootDir="/var/lib/containers/storage")
        self.assertEqual(await self.client().identity(), "podman host in /var/lib/containers/storage")

    async def test_none(self) -> None:
        """An engine that does not say who it is can't be used."""
        for body in (b"{}", b'{"ID":""}', b'{"ID":1}', b"[]"):
            self.engine.answers["/info"] = (200, body)
            with self.assertRaises(EngineProtocolError):
                await self.client().identity()


class AddressTests(ClientCase):
    async def test_absent(self) -> None:
        """Nobody there is a 503 that names the address and the reason."""
        stale = self.directory / "stale"
        await reactor.listenUNIX(str(stale), self.site).stopListening()
        for address, reason in (
            (self.address, "[Nn]o such file"),
            (EngineAddress("tcp", host="127.0.0.1", port=1), "refused"),
            (EngineAddress("tcp", host="no-such-host.invalid", port=1), ""),
        ):
            with self.assertRaises(EngineUnavailableError) as caught:
                await self.client(address).get("/info")
            self.assertEqual(caught.exception.status, 503)
            self.assertRegex(str(caught.exception), f"the engine at {address} does not answer: .*{reason}")

    async def test_no_descriptors(self) -> None:
        """Without a descriptor for the connection nobody was asked, and the next try may do better."""
        self.listen()
        self.engine.answers["/info"] = (200, b"{}")
        client = self.client()
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            problem = OSError(number, os.strerror(number))
            with (
                patch.object(socket, "socket", side_effect=problem),
                self.assertRaises(EngineUnavailableError) as caught,
            ):
                await client.get("/info")
            self.assertEqual(
                str(caught.exception), f"the engine at {self.address} cannot be asked: {os.strerror(number)}"
            )
        self.assertEqual(await client.get("/info"), {})

    async def test_tcp(self) -> None:
        """An engine on a port."""
        port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.engine.answers["/info"] = (200, b"{}")
        address = EngineAddress("tcp", host="127.0.0.1", port=port.getHost().port)
        self.assertEqual(await self.client(address).get("/info"), {})

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Make a key and a certificate that signs itself, for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        )
        certificate, private = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private

    async def test_tls(self) -> None:
        """The engine's certificate is checked unless told not to; ours is shown."""
        ours, our_key = self.certificate("client")
        theirs, their_key = self.certificate("server")
        other, _ = self.certificate("other")
        own = ssl.PrivateCertificate.loadPEM(theirs.read_bytes() + their_key.read_bytes())
        options = own.options(ssl.Certificate.loadPEM(ours.read_bytes()))
        port = reactor.listenSSL(0, self.site, options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.engine.answers["/info"] = (200, b"{}")
        known: dict[str, Any] = {"host": "127.0.0.1", "port": port.getHost().port}
        shown: dict[str, Any] = {"certificate": ours, "key": our_key}
        for more, good in (
            ({"ca": theirs, **shown}, True),
            ({"verify": False, **shown}, True),
            ({"ca": other, **shown}, False),
            ({**shown}, False),  # the system's certificates do not know it
            ({"ca": theirs}, False),
            ({"verify": False}, False),
        ):
            client = self.client(EngineAddress("tls", **known, **more))
            if good:
                self.assertEqual(await client.get("/info"), {}, more)
            else:
                with self.assertRaises(EngineError, msg=more) as caught:
                    await client.get("/info")
                self.assertIn(client.address, str(caught.exception))

    async def test_bad_certificates(self) -> None:
        """Files that are of no use are an error that says so."""
        bad = self.directory / "bad.pem"
        bad.write_bytes(b"no certificate")
        cases: tuple[dict[str, Any], ...] = (
            {"ca": bad},
            {"ca": self.directory / "none"},
            {"certificate": bad, "key": bad},
        )
        for more in cases:
            with self.assertRaisesRegex(EngineError, "certificates for the engine at .* cannot be used"):
                await self.client(EngineAddress("tls", host="127.0.0.1", port=1, **more)).get("/info")


class StreamTests(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.listen()
        self.lines: list[bytes] = []
        self.opened: Deferred[None] = Deferred()

    def follow(self, on_line: Any = None, **options: Any) -> Deferred[None]:
        client = self.client(**options)
        return ensureDeferred(
            client.lines("/events", {"since": "1"}, on_line or self.lines.append, lambda: self.opened.callback(None))
        )

    async def test_lines(self) -> None:
        """Lines come as they are sent, whatever the pieces; the end of the answer is the end."""
        following = self.follow()
        await self.opened
        for piece in (b"one\ntw", b"o\n", b"\n\nthree", b"\n", b"unfinished"):
            self.engine.held[0].write(piece)
        self.engine.held[0].finish()
        await following
        self.assertEqual(self.lines, [b"one", b"two", b"three"])
        self.assertEqual(self.engine.requests[0][1], "/events?since=1")

    async def test_refused(self) -> None:
        """An error answer is an error."""
        client = self.client()
        self.engine.answers["/logs"] = (400, b'{"message":"bad filter"}')
        with self.assertRaisesRegex(EngineAnswerError, "answered 400 to GET /logs: bad filter"):
            await client.lines("/logs", None, self.lines.append)

    async def test_cancelled(self) -> None:
        """Whoever stops following leaves the engine."""
        following = self.follow()
        await self.opened
        following.cancel()
        await self.engine.gone
        self.failureResultOf(following)

    async def test_too_long(self) -> None:
        """A line without an end is given up."""
        following = self.follow(most_line_bytes=1000)
        await self.opened
        self.engine.held[0].write(b"short\n" + b"x" * 1001)
        with self.assertRaisesRegex(EngineProtocolError, "line of more than 1000 bytes"):
            await following
        self.assertEqual(self.lines, [])

    async def test_broken_off(self) -> None:
        """An engine that dies is an error, and what it had said is heard."""
        following = self.follow()
        await self.opened
        self.engine.held[0].write(b"one\n")
        self.engine.held[0].loseConnection()
        with self.assertRaisesRegex(EngineError, "broke off"):
            await following
        self.assertEqual(self.lines, [b"one"])

    async def test_failing_listener(self) -> None:
        """If a line can't be worked on, following ends with that."""

        def fail(_: bytes) -> None:
            raise ValueError("no")

        following = self.follow(fail)
        await self.opened
        self.engine.held[0].write(b"one\n")
        with self.assertRaises(ValueError):
            await following


class BackpressureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.working: list[Deferred[None]] = []
        self.seen: list[bytes] = []
        self.transport = StringTransport()
        self.reader = _Lines(EngineAddress("unix", path="/e"), self.work, 100)
        self.reader.makeConnection(self.transport)

    def work(self, line: bytes) -> Deferred[None] | None:
        self.seen.append(line)
        if line == b"quick":
            return None
        self.working.append(Deferred())
        return self.working[-1]

    def ended(self, reason: Exception | None = None) -> None:
        self.reader.connectionLost(Failure(reason or ResponseDone()))

    def test_one_at_a_time(self) -> None:
        """While a line is worked on, nothing is read; what had come is worked on afterwards, in order."""
        self.reader.dataReceived(b"quick\n")
        self.assertEqual(self.transport.producerState, "producing")
        self.reader.dataReceived(b"slow1\nquick\nslow2\n")
        self.assertEqual((self.seen, self.transport.producerState), ([b"quick", b"slow1"], "paused"))
        self.reader.dataReceived(b"late\n")
        self.working[0].callback(None)
        self.assertEqual((self.seen[2:], self.transport.producerState), ([b"quick", b"slow2"], "paused"))
        self.working[1].callback(None)
        self.working[2].callback(None)
        self.assertEqual((self.seen[4:], self.transport.producerState), ([b"late"], "producing"))

    def test_end_waits(self) -> None:
        """The end is told when all lines are worked on."""
        for reason, error in ((ResponseDone(), None), (PotentialDataLoss(), None), (ValueError("x"), EngineError)):
            self.setUp()
            self.reader.dataReceived(b"slow\n")
            self.ended(reason)
            self.assertNoResult(self.reader.done)
            self.working[0].callback(None)
            if error is None:
                self.successResultOf(self.reader.done)
            else:
                self.failureResultOf(self.reader.done, error)

    def test_nothing_after_a_failure(self) -> None:
        """After a failure nothing is worked on, and the connection is ended."""
        self.reader.dataReceived(b"slow\nnever\n")
        self.working[0].errback(ValueError())
        self.failureResultOf(self.reader.done, ValueError)
        self.reader.dataReceived(b"never\n")
        self.ended()
        self.assertEqual((self.seen, self.transport.producerState), ([b"slow"], "stopped"))


def _turn() -> Deferred[None]:
    """Let the reactor run once."""
    return deferLater(reactor, 0)
