"""Wires over Twisted's own transports, for listeners that are named by other endpoint strings (``haproxy:tcp:…``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.exchange import Peer
from docker_tracker.proxy.conversation import Conversation, Entrance
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.pipe import Pipe
from docker_tracker.proxy.wire import NOBODY, Bytes, Receiver


@implementer(IHalfCloseableProtocol, IPushProducer)
class ForeignWire(Protocol):
    """A wire whose descriptor belongs to a transport of Twisted's.

    :param hub: What all wires share.
    """

    connecting = False
    tells_hangups = False
    splices = False

    def __init__(self, hub: Hub, begin: Callable[[ForeignWire], None]) -> None:
        self.peer = Peer()
        self.receiver: Receiver = NOBODY
        self.queued = 0
        self.input_ended = False
        self._hub = hub
        self._begin = begin
        self._ending = False
        self._closed = False
        self._timer: IDelayedCall | None = None

    @property
    def _transport(self) -> Any:
        assert self.transport is not None
        return self.transport

    # What the transport calls

    def connectionMade(self) -> None:
        """A client came."""
        self._hub.wire_opened(self)
        self._transport.registerProducer(self, True)
        self._begin(self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""
        if not self.peer.address:
            # Behind a proxy protocol the transport knows its peer only now.
            self.peer.address = _text(self._transport.getPeer())
        self.receiver.data(data)

    def readConnectionLost(self) -> None:
        """The client half-closed."""
        self.input_ended = True
        self.receiver.ended()

    def writeConnectionLost(self) -> None:
        """The client reads no more, or we have ended."""
        if not self._ending:
            self.receiver.broken()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        receiver, was_closed = self.receiver, self._closed
        self._forget()
        if not was_closed:
            receiver.lost(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def pauseProducing(self) -> None:
        """The transport has more queued than it likes."""
        self.queued = 1

    def resumeProducing(self) -> None:
        """The transport sent what was queued."""
        self.queued = 0
        self.receiver.drained()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""

    # What conversations call

    def write(self, data: Bytes) -> None:
        """See `Wire.write`."""
        if not self._ending:
            self._transport.write(bytes(data))

    def divert(self, most: int) -> None:
        """See `Wire.divert`: not here."""

    def write_pipe(self, pipe: Pipe) -> None:
        """See `Wire.write_pipe`: not here."""
        raise NotImplementedError

    def pause(self) -> None:
        """See `Wire.pause`."""
        self._transport.pauseProducing()

    def resume(self) -> None:
        """See `Wire.resume`."""
        if not self._closed and not self.input_ended:
            self._transport.resumeProducing()

    def end(self) -> None:
        """See `Wire.end`."""
        if not self._ending:
            self._ending = True
            self._transport.loseWriteConnection()

    def close(self, linger: bool = False) -> None:
        """See `Wire.close`; these transports flush, and do not linger."""
        if not self._closed:
            self._forget()
            self._transport.unregisterProducer()
            self._transport.loseConnection()

    def abort(self) -> None:
        """See `Wire.abort`."""
        self._forget()
        self._transport.abortConnection()

    def hung_up(self) -> bool:
        """See `Wire.hung_up`."""
        return self._closed

    def watch_hangup(self, callback: Callable[[], None]) -> None:
        """See `Wire.watch_hangup`: these transports do not tell."""

    def set_timer(self, delay: float, callback: Callable[[], object]) -> None:
        """See `Wire.set_timer`."""
        self._stop_timer()
        self._timer = self._hub.reactor.callLater(delay, self._timer_over, callback)

    def _timer_over(self, callback: Callable[[], object]) -> None:
        self._timer = None
        callback()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        self._stop_timer()
        self._closed = self._ending = True
        self.queued = 0
        self.receiver = NOBODY
        self._hub.wire_closed(self)


class ForeignFactory(Factory):
    """Gives each client of an endpoint a conversation."""

    noisy = False

    def __init__(self, hub: Hub, entrance: Entrance) -> None:
        self._hub, self._entrance = hub, entrance

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return a wire for a client; its conversation begins when it is connected."""
        return ForeignWire(self._hub, self._converse)

    def _converse(self, wire: ForeignWire) -> None:
        Conversation(self._hub, wire, self._entrance, wire.peer)


def _text(address: IAddress) -> str:
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    return f"{address.host}:{address.port}" if isinstance(address, IPv4Address) else ""
