"""Tells when a peer that ended its input leaves for good.

A descriptor at the end of its input cannot stay with the reactor (it would be ready for ever), so nobody would
notice that a client which half-closed has gone. An epoll set of our own, asked for nothing but hang-ups, is one
descriptor for the reactor, whatever number it watches. See epoll(7): EPOLLHUP is always reported.
"""

from __future__ import annotations

import select
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadDescriptor)
class HangupWatch:
    """Watches descriptors for EPOLLHUP and EPOLLERR.

    :param reactor: Where our one descriptor is registered while something is watched.
    """

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._reactor = reactor
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back once when the descriptor's peer has closed both ways. It must be unwatched before it is closed."""
        if self._epoll is None:
            self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        if descriptor not in self._callbacks:
            self._epoll.register(descriptor, 0)
        if not self._callbacks:
            self._reactor.addReader(self)
        self._callbacks[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor; no harm if it is not watched."""
        if self._callbacks.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)
            if not self._callbacks:
                self._reactor.removeReader(self)

    def close(self) -> None:
        """Give the set back; nothing is watched any more."""
        if self._epoll is not None:
            self._reactor.removeReader(self)
            self._callbacks.clear()
            self._epoll.close()
            self._epoll = None

    def fileno(self) -> int:
        """The set's own descriptor."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def logPrefix(self) -> str:
        """The name under which the reactor logs."""
        return "hangups"

    def doRead(self) -> None:
        """Call back for each descriptor that hung up."""
        assert self._epoll is not None
        for descriptor, _ in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            self.unwatch(descriptor)
            if callback is not None:
                callback()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops; `close` does the rest."""
