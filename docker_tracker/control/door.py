"""The control socket's door: accepts who connects, and imports the rest when somebody does for the first time.

Layer: control. The daemon imports this at its start, so it must stay light: no HTTP here.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorFDSet,
    IReactorSocket,
    IReactorTime,
    IReadDescriptor,
)
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.accepting import REST, NoRoomError, accept
from docker_tracker.control.peer import Who, caller_of
from docker_tracker.counts import Counts
from docker_tracker.interfaces import IEngine, IJobs, ILedger

if TYPE_CHECKING:
    from docker_tracker.control.web import Channel, Site

log = Logger()

#: How many connections there may be; who comes then waits in the backlog.
MOST_CONNECTIONS: Final = 1000
#: How many are accepted in one turn of the reactor.
_AT_ONCE: Final = 16
#: How long answers that are on their way may still take when the door closes, in seconds.
_LAST_WORDS: Final = 2.0


class IControlReactor(IReactorFDSet, IReactorSocket, IReactorTime):
    """What the control socket needs of a reactor."""


class _Factory(ServerFactory[Any]):
    """Makes one protocol, which is there already."""

    noisy = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def buildProtocol(self, address: object) -> Channel:
        return self._channel


@implementer(IReadDescriptor)
class ControlService:
    """Serves the control API from when it is made until `close`.

    Twisted's own port is not used: it makes the file of a socket that it is given accessible to everybody, and
    removes it at its end.

    :param sock: Bound, listening and non-blocking; owned by us from now on. Its file is the caller's to remove.
    :param jobs: What is served.
    :param ledger: For what the jobs have made.
    :param engine: Asked whether it is there.
    :param counts: Shown as metrics.
    :param allowed: Who may do everything.
    :param instance: The ID of this installed tracker.
    """

    def __init__(
        self,
        reactor: IControlReactor,
        sock: socket.socket,
        jobs: IJobs,
        ledger: ILedger,
        engine: IEngine,
        counts: Counts,
        allowed: Who,
        instance: str = "",
    ) -> None:
        self._reactor, self._socket = reactor, sock
        self._served = (jobs, ledger, engine, counts, allowed, instance)
        self._started = reactor.seconds()
        self._site: Site | None = None
        self._channels: set[Channel] = set()
        self._resting: IDelayedCall | None = None
        self._reading = False
        self._open = True
        self._over: Deferred[None] = Deferred()
        self._read(True)

    # The listening socket

    def fileno(self) -> int:
        """The descriptor, or -1 once it is closed."""
        return self._socket.fileno() if self._open else -1

    def logPrefix(self) -> str:
        """The name under which the reactor logs."""
        return "control"

    def doRead(self) -> None:
        """Accept who waits."""
        for _ in range(_AT_ONCE):
            if len(self._channels) >= MOST_CONNECTIONS:
                log.warn("the control socket has {most} connections: no more for now", most=MOST_CONNECTIONS)
                self._read(False)
                return
            try:
                client = accept(self._socket)
            except NoRoomError as error:
                log.warn("the control socket: no more connections for now: {error}", error=error)
                self._read(False)
                self._resting = self._reactor.callLater(REST, self._rested)
                return
            if client is None:
                return
            sock, _ = client
            with sock:  # Twisted takes a duplicate
                try:
                    self._accepted(sock)
                except Exception:  # one client that cannot be served must not close the door to all
                    log.failure("a client of the control socket could not be served")

    def _accepted(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if self._site is None:
            from docker_tracker.control.web import Site  # HTTP is costly to import, and often nobody ever asks

            self._site = Site(self._reactor, self._started, *self._served)
        channel = self._site.channel(caller_of(sock), self._channels.add, self._gone)
        self._reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, _Factory(channel))

    def _gone(self, channel: Channel) -> None:
        self._channels.discard(channel)
        if self._open:
            if self._resting is None:
                self._read(True)
        elif not self._channels and not self._over.called:
            self._over.callback(None)

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            (self._reactor.addReader if wanted else self._reactor.removeReader)(self)

    def _rested(self) -> None:
        self._resting = None
        self._read(True)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        with contextlib.suppress(OSError):
            self._shut()

    # The end

    def _shut(self) -> None:
        if self._open:
            self._read(False)
            if self._resting is not None:
                self._resting.cancel()
            self._open = False
            self._socket.close()

    def close(self) -> Deferred[None]:
        """Accept nobody any more, and end all connections; answers that are written are sent, for a short time.

        :return: Fires when all are gone.
        """
        self._shut()
        if not self._channels:
            if not self._over.called:
                self._over.callback(None)
            return self._over
        for channel in list(self._channels):
            channel.loseConnection()  # type: ignore[no-untyped-call]
        late = self._reactor.callLater(_LAST_WORDS, self._abort)

        def done(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        return self._over.addBoth(done)

    def _abort(self) -> None:
        for channel in list(self._channels):
            channel.abort()
