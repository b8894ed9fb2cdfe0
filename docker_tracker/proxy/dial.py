"""Connects to the engine: unix, TCP or TLS."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Any, Protocol

import attrs

from docker_tracker.errors import EngineUnavailableError
from docker_tracker.proxy.tls import TLSWire
from docker_tracker.proxy.wire import Board, Receiver, SocketWire, Wire

#: How long to wait before a unix socket whose backlog is full is tried again, in seconds.
_RETRY = 0.005


class Address(Protocol):
    """What is needed of the engine's address; `docker_tracker.connections.EngineAddress` has it."""

    @property
    def kind(self) -> str:
        """``unix``, ``tcp`` or ``tls``."""

    @property
    def path(self) -> str:
        """Of the socket, for unix."""

    @property
    def host(self) -> str:
        """Name or number, for TCP and TLS."""

    @property
    def port(self) -> int:
        """For TCP and TLS."""


@attrs.define(eq=False)
class Dialler:
    """Makes connections to one engine.

    :ivar board: What all wires share.
    :ivar address: Where the engine is.
    :ivar timeout: How long a connection may take, in seconds.
    :ivar context: For TLS.
    """

    board: Board
    address: Address
    timeout: float
    context: ssl.SSLContext | None = None
    _resolved: tuple[int, Any] | None = None

    def dial(self, receiver: Receiver) -> Wire:
        """Return a wire to the engine, at once; what is written before it is connected is queued.

        A failure that shows later is told to the receiver by `Receiver.lost`.

        :raises EngineUnavailableError: nobody is there.
        """
        family, where = self._where()
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:  # no descriptors left
            raise self.unavailable(error.strerror or str(error)) from error
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        failure = sock.connect_ex(where)
        if failure not in (0, errno.EINPROGRESS, errno.EAGAIN):
            sock.close()
            self._resolved = None
            raise self.unavailable(os.strerror(failure))
        wire = self._wire(sock, connecting=bool(failure))
        wire.receiver = receiver
        if failure:
            _Attempt(self, wire, sock, where, retry=failure == errno.EAGAIN).begin()
        return wire

    def unavailable(self, reason: str) -> EngineUnavailableError:
        """Return the error that names our address."""
        return EngineUnavailableError(f"the engine at {self.address} does not answer: {reason}", 503)

    def _where(self) -> tuple[int, Any]:
        if self.address.kind == "unix":
            return socket.AF_UNIX, self.address.path
        if self._resolved is None:
            try:
                found = socket.getaddrinfo(self.address.host, self.address.port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise self.unavailable(str(error)) from error
            self._resolved = (found[0][0], found[0][4])
        return self._resolved

    def _wire(self, sock: socket.socket, connecting: bool) -> SocketWire:
        if self.context is None:
            return SocketWire(self.board, sock, self.address.kind == "unix", connecting)
        return TLSWire(self.board, sock, self.context, self.address.host, connecting=connecting)


class _Attempt:
    """A connection that is being made."""

    def __init__(self, dialler: Dialler, wire: SocketWire, sock: socket.socket, where: Any, retry: bool) -> None:
        self._dialler, self._wire, self._socket, self._where = dialler, wire, sock, where
        self._retry = retry
        self._deadline = dialler.board.reactor.seconds() + dialler.timeout

    def begin(self) -> None:
        """Wait for it, or try again soon (a unix socket with a full backlog never tells that it has room)."""
        if not self._retry:
            self._wire.await_connection()
        self._again()

    def _again(self) -> None:
        wait = _RETRY if self._retry else max(0.0, self._deadline - self._dialler.board.reactor.seconds())
        self._wire.set_timer(wait, self._check)

    def _check(self) -> None:
        failure = self._socket.connect_ex(self._where) if self._retry else errno.EINPROGRESS
        if not failure:
            self._wire.connected()
        elif failure in (errno.EAGAIN, errno.EINPROGRESS) and self._dialler.board.reactor.seconds() < self._deadline:
            self._again()
        else:
            reason = failure if failure not in (errno.EAGAIN, errno.EINPROGRESS) else errno.ETIMEDOUT
            self._wire.fail(OSError(reason, os.strerror(reason)))
