"""Lets a loop sleep until there is a reason to go on. Layer: tracking."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class Bell:
    """Wakes the one who waits; a ring that nobody waited for is kept for who waits next.

    :param clock: For waiting.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._rung = False
        self._waiting: Deferred[None] | None = None

    def ring(self) -> None:
        """There is a reason to go on."""
        self._rung = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def forget(self) -> None:
        """What was rung for is being done."""
        self._rung = False

    async def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most so long; return whether there was one."""
        if not self._rung:
            waiting = self._waiting = Deferred()
            timer = self._clock.callLater(seconds, waiting.callback, None)
            try:
                await waiting
            finally:
                self._waiting = None
                if timer.active():
                    timer.cancel()
        return self._rung
