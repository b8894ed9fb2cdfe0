"""Accepts clients: one listening socket, whose connections all belong to one entrance."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.accepting import REST, NoRoomError, accept
from docker_tracker.exchange import Peer
from docker_tracker.proxy.conversation import Conversation, Entrance
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.tls import TLSWire
from docker_tracker.proxy.wire import SocketWire, Wire

log = Logger()

#: How many connections are accepted in one turn of the reactor.
_AT_ONCE = 64
_UCRED = struct.Struct("3i")


def peer_of(sock: socket.socket, address: Any) -> Peer:
    """Return who is at the other end of an accepted socket (``SO_PEERCRED`` of unix(7) for unix sockets)."""
    if not isinstance(address, tuple):
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer(pid=pid or None, uid=uid, gid=gid, socket=sock)
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return Peer(address=f"{host}:{address[1]}")


@implementer(IReadDescriptor)
class Acceptor:
    """A listening socket, registered with the reactor.

    :param sock: Listening and non-blocking; owned by us from now on.
    :param context: For TLS; None: plain.
    :param choose: Says by whom a client is let in, if it is not by ``entrance``; None: it always is.
    """

    def __init__(
        self,
        hub: Hub,
        sock: socket.socket,
        entrance: Entrance,
        context: ssl.SSLContext | None = None,
        choose: Callable[[Peer], Entrance] | None = None,
    ) -> None:
        self._hub, self._socket, self._entrance, self._context = hub, sock, entrance, context
        self._choose = choose
        self._waiting = select.poll()
        self._waiting.register(sock, select.POLLIN)
        self._resting: IDelayedCall | None = None
        self._tired = False
        self._open = True
        #: How many clients have come in.
        self.accepted = 0
        self._hub.reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, or -1 once it is closed."""
        return self._socket.fileno() if self._open else -1

    def logPrefix(self) -> str:
        """The name under which the reactor logs."""
        return self._entrance.listener

    def address(self) -> Any:
        """Where it listens, as `socket.socket.getsockname` gives it."""
        return self._socket.getsockname()

    def doRead(self) -> None:
        """Accept who waits."""
        for _ in range(_AT_ONCE):
            try:
                client = accept(self._socket)
            except NoRoomError as error:
                self._rest(error)
                return
            if client is None:
                return
            sock, address = client
            if self._tired:
                self._tired = False
                log.info("{listener}: accepting again", listener=self._entrance.listener)
            try:
                self._accepted(sock, address)
            except Exception:  # one client that cannot be served must not close the door to all
                log.failure("{listener}: a client could not be served", listener=self._entrance.listener)
                sock.close()
            if not self._waiting.poll(0):
                return  # an accept in vain takes ten times as long as this look

    def _accepted(self, sock: socket.socket, address: Any) -> None:
        self.accepted += 1
        sock.setblocking(False)
        peer = peer_of(sock, address)
        unix = not isinstance(address, tuple)
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        wire: Wire
        if self._context is None:
            wire = SocketWire(self._hub, sock, unix)
        else:

            def secured(certificate: dict[str, Any] | None) -> None:
                peer.certificate = _common_name(certificate)

            wire = TLSWire(self._hub, sock, self._context, on_secured=secured)
        entrance = self._entrance if self._choose is None else self._choose(peer)
        Conversation(self._hub, wire, entrance, peer)

    def _rest(self, error: OSError) -> None:
        """Accept nobody for a while: those who wait stay in the backlog."""
        if not self._tired:
            self._tired = True
            log.warn("{listener}: no more connections for now: {error}", listener=self._entrance.listener, error=error)
        self._hub.reactor.removeReader(self)
        self._resting = self._hub.reactor.callLater(REST, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._hub.reactor.addReader(self)

    def close(self) -> None:
        """Accept nobody any more."""
        if self._open:
            if self._resting is not None:
                self._resting.cancel()
            self._hub.reactor.removeReader(self)
            self._open = False
            self._socket.close()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        with contextlib.suppress(OSError):
            self.close()


def _common_name(certificate: dict[str, Any] | None) -> str:
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
