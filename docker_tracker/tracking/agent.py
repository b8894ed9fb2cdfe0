"""HTTP to the engine over unix, TCP or TLS, by treq: requests out, bounded bodies and lines in.

Imported at the first call only: treq and `twisted.web.client` would slow down the daemon's start.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL, crypto
from treq.client import HTTPClient
from twisted.internet import ssl
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from docker_tracker.connections import EngineAddress
from docker_tracker.errors import EngineError, EngineProtocolError, EngineUnavailableError

_KEPT_CONNECTIONS: Final = 4
_KEPT_SECONDS: Final = 60


class Connections:
    """Connections to one engine.

    :param reactor: Makes them.
    :param address: Of the engine.
    :param connect_seconds: Until one is made.
    """

    def __init__(self, reactor: Any, address: EngineAddress, connect_seconds: float) -> None:
        self._reactor = reactor
        self._address = address
        self._pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._pool.maxPersistentPerHost = _KEPT_CONNECTIONS
        self._pool.cachedConnectionTimeout = _KEPT_SECONDS
        endpoint = _Endpoint(_endpoint(reactor, address, connect_seconds))
        self._client = HTTPClient(Agent.usingEndpointFactory(reactor, endpoint, self._pool))  # type: ignore[no-untyped-call]

    async def send(self, method: str, target: str, body: Any = None) -> IResponse:
        """Return the answer when its head is in.

        :param target: Path and query, quoted.
        :param body: Is sent as JSON, if not None.
        :raises EngineError: there is none.
        """
        extra = {} if body is None else {"json": body}
        try:
            # The host's name stands in the Host field only.
            url = f"http://docker{target}"
            return await self._client.request(
                method, url, allow_redirects=False, unbuffered=True, reactor=self._reactor, **extra
            )
        except (ConnectError, ConnectTimeoutError, DNSLookupError) as error:
            number = getattr(error, "osError", None)
            reason = os.strerror(number) if isinstance(number, int) else str(error)
            raise EngineUnavailableError(f"the engine at {self._address} does not answer: {reason}", 503) from error
        except (RequestTransmissionFailed, ResponseFailed) as error:
            reason = "; ".join(failure.getErrorMessage() for failure in error.reasons)
            raise EngineError(f"the engine at {self._address} broke off: {reason}") from error
        except OSError as error:  # Twisted leaves it as it is when there are no descriptors left for a unix socket
            reason = error.strerror or str(error)
            raise EngineUnavailableError(f"the engine at {self._address} cannot be asked: {reason}", 503) from error

    def body(self, response: IResponse, most: int) -> Deferred[bytes]:
        """Return an answer's body; fails if it has more than ``most`` bytes. Cancelling ends the connection."""
        reader = _Body(self._address, most)
        response.deliverBody(reader)  # type: ignore[no-untyped-call]
        return reader.done

    def lines(self, response: IResponse, on_line: Callable[[bytes], Any], most: int) -> Deferred[None]:
        """Call back with each line of an answer; see `IEngine.lines`.

        :param most: Bytes that a line may have.
        """
        reader = _Lines(self._address, on_line, most)
        response.deliverBody(reader)  # type: ignore[no-untyped-call]
        return reader.done

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Endpoint:
    """One endpoint, whatever the URL; connects without a line in the log."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory.endpointForURI`."""
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """See `IStreamClientEndpoint.connect`."""
        protocolFactory.noisy = False
        return self._endpoint.connect(protocolFactory)


def _endpoint(reactor: Any, address: EngineAddress, seconds: float) -> IStreamClientEndpoint:
    if address.kind == "unix":
        return UNIXClientEndpoint(reactor, address.path, timeout=seconds)  # type: ignore[no-untyped-call]
    endpoint = HostnameEndpoint(reactor, address.host, address.port, timeout=seconds)
    if address.kind == "tcp":
        return endpoint
    return wrapClientTLS(_tls(address), endpoint)


def _tls(address: EngineAddress) -> Any:
    """Return what makes TLS connections.

    :raises EngineError: a certificate's or key's file is of no use.
    """
    try:
        own = None
        if address.certificate is not None and address.key is not None:
            pem = address.certificate.read_bytes() + b"\n" + address.key.read_bytes()
            own = ssl.PrivateCertificate.loadPEM(pem)  # type: ignore[no-untyped-call]
        if not address.verify:
            return _Unverified(own)
        trust = None
        if address.ca is not None:
            trust = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(address.ca.read_bytes())])  # type: ignore[no-untyped-call]
        return ssl.optionsForClientTLS(address.host, trust, own)
    except (OSError, SSL.Error, crypto.Error) as error:
        raise EngineError(f"the certificates for the engine at {address} cannot be used: {error}") from error


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """TLS without a look at the engine's certificate: what ``DOCKER_CERT_PATH`` alone asks for."""

    def __init__(self, own: ssl.PrivateCertificate | None) -> None:
        options = ssl.CertificateOptions() if own is None else own.options()  # type: ignore[no-untyped-call]
        self._context = options.getContext()

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator.clientConnectionForTLS`."""
        return SSL.Connection(self._context, None)


class _Reader(Protocol):
    """Takes in a body. `done` fires when it is over; cancelling it ends the connection."""

    def __init__(self, address: EngineAddress) -> None:
        self._address = address
        self.done: Deferred[Any] = Deferred(lambda _: self._stop())

    def _stop(self) -> None:
        if self.transport is not None:
            self.transport.stopProducing()  # type: ignore[attr-defined]

    def _fail(self, error: Exception | Failure) -> None:
        if not self.done.called:
            self._stop()
            self.done.errback(error)

    def _ended(self, reason: Failure) -> EngineError | None:
        """Return what is wrong with a body's end, if anything is."""
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            return None
        return EngineError(f"the engine at {self._address} broke off: {reason.getErrorMessage()}")


class _Body(_Reader):
    """A whole body, within a bound."""

    def __init__(self, address: EngineAddress, most: int) -> None:
        super().__init__(address)
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """See `Protocol.dataReceived`."""
        self._size += len(data)
        if self._size <= self._most:
            self._parts.append(data)
        else:
            self._parts.clear()
            self._fail(EngineProtocolError(f"the engine at {self._address} answered more than {self._most} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `Protocol.connectionLost`."""
        error = self._ended(reason)
        if error is not None:
            self._fail(error)
        elif not self.done.called:
            self.done.callback(b"".join(self._parts))


class _Lines(_Reader):
    """Lines, one after the other; nothing is read while one is worked on."""

    def __init__(self, address: EngineAddress, on_line: Callable[[bytes], Any], most: int) -> None:
        super().__init__(address)
        self._on_line = on_line
        self._most = most
        self._waiting: deque[bytes] = deque()
        self._rest = b""
        self._working = self._paused = False
        self._end: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        """See `Protocol.dataReceived`. What comes while paused is at most what one read had taken in."""
        if self.done.called:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._most:
            self._fail(
                EngineProtocolError(f"the engine at {self._address} sent a line of more than {self._most} bytes")
            )
            return
        self._waiting.extend(line for line in lines if line.strip())
        self._work()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `Protocol.connectionLost`."""
        self._end = reason
        self._work()

    def _work(self) -> None:
        while self._waiting and not self._working and not self.done.called:
            self._working = True
            maybeDeferred(self._on_line, self._waiting.popleft()).addCallbacks(self._next, self._fail)
            if self._working and not self._paused:
                self._paused = True
                self.transport.pauseProducing()  # type: ignore[union-attr]
        if self._end is not None and not self._working and not self.done.called:
            error = self._ended(self._end)
            if error is None:
                self.done.callback(None)
            else:
                self.done.errback(error)

    def _next(self, _: object) -> None:
        self._working = False
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()  # type: ignore[union-attr]
            self._work()
