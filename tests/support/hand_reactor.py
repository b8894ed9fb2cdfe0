"""A reactor that turns by hand: real descriptors, a clock that stands still, Twisted's rules."""

from __future__ import annotations

import select
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

_LOST = select.EPOLLHUP | select.EPOLLERR


class HandReactor(Clock):
    """Calls descriptors only within `turn`."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: set[Any] = set()
        self._writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        """See `IReactorFDSet`."""
        self._readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        """See `IReactorFDSet`."""
        self._readers.discard(reader)

    def addWriter(self, writer: Any) -> None:
        """See `IReactorFDSet`."""
        self._writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        """See `IReactorFDSet`."""
        self._writers.discard(writer)

    def getReaders(self) -> list[Any]:
        """See `IReactorFDSet`."""
        return list(self._readers)

    @property
    def descriptors(self) -> int:
        """How many descriptors are registered."""
        return len(self._readers | self._writers)

    @property
    def busy(self) -> bool:
        """Whether a turn would call anybody: a reactor that stays so, spins."""
        with select.epoll() as epoll:
            for selectable in self._readers | self._writers:
                mask = select.EPOLLIN if selectable in self._readers else 0
                epoll.register(selectable.fileno(), mask | (select.EPOLLOUT if selectable in self._writers else 0))
            return bool(epoll.poll(0))

    def turn(self, times: int = 1) -> None:
        """Let all that is ready act, so many times."""
        for _ in range(times):
            self.advance(0)
            with select.epoll() as epoll:
                selectables = {}
                for selectable in self._readers | self._writers:
                    mask = select.EPOLLIN if selectable in self._readers else 0
                    mask |= select.EPOLLOUT if selectable in self._writers else 0
                    epoll.register(selectable.fileno(), mask)
                    selectables[selectable.fileno()] = selectable
                ready = epoll.poll(0)
            for descriptor, event in ready:
                self._act(selectables[descriptor], event)

    def _act(self, selectable: Any, event: int) -> None:
        # As twisted.internet.posixbase._PollLikeMixin._doReadOrWrite has it.
        if selectable.fileno() < 0:
            return
        if event & _LOST and not event & select.EPOLLIN:
            self.removeReader(selectable)
            self.removeWriter(selectable)
            selectable.connectionLost(Failure(ConnectionLost()))
            return
        if event & select.EPOLLIN and selectable in self._readers:
            selectable.doRead()
        if event & select.EPOLLOUT:  # also if reading has closed it
            selectable.doWrite()
