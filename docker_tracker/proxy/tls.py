"""TLS as a filter on a wire's own descriptor, so that half-close works: a close_notify each way.

Twisted's own TLS drops what comes after the peer's close_notify, so ``echo x | docker run -i`` would lose its output.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docker_tracker.proxy.wire import Board, Bytes, SocketWire

_READ = 65536


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # Some versions of Python (3.11.2, say) have it set, and take a cut connection for one that was ended.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Return the context of a listener; with a CA, clients must have a certificate of it.

    :raises OSError: a file cannot be read, or is not what it should be (`ssl.SSLError`).
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def client_context(ca: Path | None, certificate: Path | None, key: Path | None, verify: bool) -> ssl.SSLContext:
    """Return the context for an engine, as Docker's clients build it from ``DOCKER_CERT_PATH``.

    :param verify: Whether the engine must have a certificate of the CA, for its name.
    :raises OSError: as for `server_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


class TLSWire(SocketWire):
    """A wire whose bytes cross its descriptor encrypted.

    The end of input is the peer's close_notify. A bare end of the connection is a loss: it could be an attacker's.

    :param context: From `ssl`; holds certificates and says whether the peer's is asked for.
    :param server_hostname: The name that the peer's certificate must bear; None: we are the server.
    :param on_secured: Called once with the peer's certificate, as `ssl.SSLObject.getpeercert` gives it.
    """

    __slots__ = ("_decrypted", "_early", "_incoming", "_on_secured", "_outgoing", "_secured", "_tls")

    def __init__(
        self,
        board: Board,
        sock: socket.socket,
        context: ssl.SSLContext,
        server_hostname: str | None = None,
        on_secured: Callable[[Any], None] | None = None,
        connecting: bool = False,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # As OpenSSL sees them: what came from the peer, what goes to it.
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._on_secured = on_secured
        self._secured = False
        self._early: list[bytes] = []
        self._decrypted: deque[bytes] = deque()
        super().__init__(board, sock, sock.family == socket.AF_UNIX, connecting)
        self.splices = False  # what crosses the socket is not what we pass on
        if not connecting:
            self._handshake()

    def connected(self) -> None:
        """See `SocketWire.connected`; then the handshake begins."""
        super().connected()
        self._handshake()

    def read(self) -> None:
        """Take what is there, once, and pass on what it decrypts to."""
        assert self._socket is not None
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.fail(error)
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if not self._secured:
            self._handshake()
        if self._secured:
            self._deliver()

    def write(self, data: Bytes) -> None:
        """See `Wire.write`."""
        if self._write_broken or self._ending:
            return
        if not self._secured:
            self._early.append(bytes(data))
            self.queued += len(data)
            return
        try:
            # OpenSSL takes everything: the memory behind it has no bound, our callers have (they watch `queued`).
            self._tls.write(data)
        except ssl.SSLError:  # the peer's alert has ended the session
            self._break_writing()
            return
        self._send_encrypted()

    def resume(self) -> None:
        """See `Wire.resume`; bytes that were decrypted already come in the reactor's next turn."""
        was_reading = self._reading
        super().resume()
        if (
            self._reading
            and not was_reading
            and self._secured
            and (self._decrypted or self._tls.pending() or self._incoming.pending)
        ):
            self._board.reactor.callLater(0, self._deliver)

    def hung_up(self) -> bool:
        """See `Wire.hung_up`."""
        return self._socket is None

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_encrypted()
            return
        except ssl.SSLError as error:
            self._send_encrypted()  # the alert, so that the peer can say what was wrong
            self.fail(error)
            return
        self._secured = True
        self._send_encrypted()
        if self._on_secured is not None:
            self._on_secured(self._tls.getpeercert())
        early, self._early = self._early, []
        self.queued -= sum(map(len, early))
        ending, self._ending = self._ending, False
        for data in early:
            self.write(data)
        self._ending = ending
        if (early or ending) and not self._queue:
            self._flushed()

    def end(self) -> None:
        """See `Wire.end`; what was written before the handshake goes out first."""
        if self._secured or not self._early:
            super().end()
        else:
            self._ending = True

    def _deliver(self) -> None:
        while self._reading and self._socket is not None:
            try:
                data = self._decrypted.popleft() if self._decrypted else self._decrypt()
            except ssl.SSLError as error:
                self.fail(error)
                return
            if data is None:
                self._send_encrypted()  # a key update may want an answer
                return
            if not data:
                self._input_end()
                return
            self.receiver.data(data)

    def _decrypt(self) -> bytes | None:
        """Return what came next: b"" for the end, None for nothing yet."""
        try:
            return self._tls.read(_READ)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""

    def _send_encrypted(self) -> None:
        if self._outgoing.pending:
            ending, self._ending = self._ending, False
            super().write(self._outgoing.read())
            self._ending = ending

    def _say_end(self) -> None:
        """Send our close_notify; the connection stays open for what the peer still sends."""
        with contextlib.suppress(ssl.SSLError):  # whatever is wrong with what came, its delivery will tell
            # OpenSSL would take what waits for the peer's close_notify, and drop it.
            while data := self._decrypt():
                self._decrypted.append(data)
            if data is not None:
                self._decrypted.append(data)
        with contextlib.suppress(ssl.SSLError):  # "want read": the peer's close_notify need not be here yet
            self._tls.unwrap()
        self._send_encrypted()
