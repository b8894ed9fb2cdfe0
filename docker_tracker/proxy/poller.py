"""Tells which descriptors are ready and whose other end has left: an epoll set that is one reader of the reactor.

The reactor's own way to a descriptor, through the context of its log, costs more than passing on a small message. And
a descriptor that is not read for now, or whose input has ended, cannot stay with the reactor, so that nobody would
notice that its other end leaves. In a set of our own it stays, since EPOLLHUP is always reported (see epoll(7)).
"""

from __future__ import annotations

import select
from typing import Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.proxy.pipe import SIZE, WORTH

log = Logger()


class Watcher(Protocol):
    """Whoever owns a descriptor."""

    def ready(self, events: int) -> None:
        """Act on what epoll reports: those events that were asked for, EPOLLHUP and EPOLLERR."""

    def failed(self, error: Exception) -> None:
        """`ready` raised this, which is logged: go no further."""


@implementer(IReadDescriptor)
class Poller:
    """Watches descriptors, and calls their owners.

    :param reactor: Where our one descriptor is registered, from the first `watch` to `close`.
    :ivar share: How many bytes each of those that are ready may read in this turn.
    """

    def __init__(self, reactor: IReactorFDSet) -> None:
        self.share = SIZE
        self._reactor = reactor
        self._epoll: select.epoll | None = None
        self._watchers: dict[int, Watcher] = {}
        self._new: set[int] = set()

    def __len__(self) -> int:
        """How many descriptors are watched."""
        return len(self._watchers)

    def watch(self, descriptor: int, events: int, watcher: Watcher) -> None:
        """Watch a descriptor for these events from now on; 0: for its other end's leaving only."""
        if self._epoll is None:
            self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
            self._reactor.addReader(self)
        if descriptor in self._watchers:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
            self._watchers[descriptor] = watcher
            self._new.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor that stays open."""
        if self._watchers.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)

    def closing(self, descriptor: int) -> None:
        """Forget a descriptor that is closed now, which takes it out of the set; no harm if it is not watched."""
        self._watchers.pop(descriptor, None)

    def close(self) -> None:
        """Give the set back; nothing is watched any more."""
        if self._epoll is not None:
            self._reactor.removeReader(self)
            self._watchers.clear()
            self._epoll.close()
            self._epoll = None

    def fileno(self) -> int:
        """The set's own descriptor."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def logPrefix(self) -> str:
        """The name under which the reactor logs."""
        return "connections"

    def doRead(self) -> None:
        """Call the owner of each descriptor that is ready. One that fails does not keep the others from their turn."""
        assert self._epoll is not None
        watchers, new = self._watchers, self._new
        new.clear()
        ready = self._epoll.poll(0)
        # Small messages among several must not wait for long.
        self.share = SIZE if len(ready) < 2 else WORTH
        for descriptor, events in ready:
            watcher = watchers.get(descriptor)
            # One before it may have closed it, and its number may be another's by now, whom these events do not mean.
            if watcher is None or descriptor in new:
                continue
            try:
                watcher.ready(events)
            except Exception as error:
                log.failure("a connection failed and is closed")
                self._fail(watcher, error)

    def _fail(self, watcher: Watcher, error: Exception) -> None:
        try:
            watcher.failed(error)
        except Exception:
            log.failure("so did what its failure was told to")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops; `close` does the rest."""
