"""What all connections of a process share: the reactor, what watches descriptors, and the count of what is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from docker_tracker.proxy.pipe import Pipes
from docker_tracker.proxy.poller import Poller
from docker_tracker.proxy.wire import IReactor, Wire

if TYPE_CHECKING:
    from docker_tracker.proxy.conversation import Conversation


class Hub:
    """Knows every wire and conversation that is open, so that stopping can wait for them and then end them.

    :param reactor: The one that everything runs on.
    """

    def __init__(self, reactor: IReactor) -> None:
        self.reactor = reactor
        self.poller = Poller(reactor)
        self.pipes = Pipes()
        self.wires: set[Wire] = set()
        self.conversations: set[Conversation] = set()
        self._last_exchange = 0
        self._idle: Deferred[None] | None = None

    def wire_opened(self, wire: Wire) -> None:
        """A descriptor is ours from now on."""
        self.wires.add(wire)

    def wire_closed(self, wire: Wire) -> None:
        """A descriptor was closed."""
        self.wires.discard(wire)
        if self._idle is not None and not self.wires:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def next_exchange(self) -> int:
        """Return a number that no other exchange of this process has."""
        self._last_exchange += 1
        return self._last_exchange

    async def stop(self, seconds: float) -> None:
        """Let exchanges in flight finish for so many seconds, then close what is left."""
        for conversation in list(self.conversations):
            conversation.drain()
        if self.wires:
            self._idle = Deferred()
            deadline = self.reactor.callLater(seconds, self._end_all)
            await self._idle
            if deadline.active():
                deadline.cancel()
        self.poller.close()
        self.pipes.close()

    def _end_all(self) -> None:
        for conversation in list(self.conversations):
            conversation.abort()
        for wire in list(self.wires):
            wire.abort()
