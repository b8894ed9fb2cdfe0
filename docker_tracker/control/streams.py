"""Answers of the control API that go on: a lease, and events. Layer: control.

None of them keeps anything for a client that does not read: they go on when it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from docker_tracker.errors import TrackerError
from docker_tracker.interfaces import IJobs, ILease
from docker_tracker.job import JobState

log = Logger()

#: Seconds between the signs of life on a lease.
_BEAT: Final = 10.0
#: How many lines are written before it is looked whether the client still reads.
_AT_ONCE: Final = 50

Write = Callable[[bytes], None]
Finish = Callable[[bool], None]


class Stream:
    """An answer in lines. `begin` is called once, `ended` once, also without `begin`."""

    def __init__(self) -> None:
        self._write: Write = lambda line: None
        self._finish: Finish = lambda complete: None
        self._paused = self._over = False

    def begin(self, write: Write, finish: Finish) -> None:
        """The answer's head is out.

        :param write: To be called with lines.
        :param finish: To be called when all is written (True), or when that fails (False).
        """
        self._write, self._finish = write, finish
        self._begin()

    def _begin(self) -> None:
        raise NotImplementedError

    def pause(self) -> None:
        """The client does not read."""
        self._paused = True

    def resume(self) -> None:
        """It does again."""
        self._paused = False

    def ended(self) -> None:
        """The answer is over, or its client has gone."""
        self._over = True


class LeaseStream(Stream):
    """Holds a job for as long as the client is there, or until the job ends.

    :param lease: Let go when this ends.
    :param job_id: Whose it is.
    :param first: The first line.
    """

    def __init__(self, clock: IReactorTime, jobs: IJobs, lease: ILease, job_id: str, first: Mapping[str, Any]) -> None:
        super().__init__()
        self._clock, self._jobs, self._lease, self._job_id, self._first = clock, jobs, lease, job_id, first
        self._call: IDelayedCall | None = None

    def _begin(self) -> None:
        self._write(as_line(self._first))
        self._call = self._clock.callLater(_BEAT, self._beat)

    def _beat(self) -> None:
        self._call = None
        try:
            state = self._jobs.get(self._job_id).state
        except TrackerError:  # so long gone that nobody knows it
            state = JobState.GONE
        if state is not JobState.OPEN:
            self._finish(True)
            return
        if not self._paused:  # who holds a lease need not read
            self._write(b"\n")
        self._call = self._clock.callLater(_BEAT, self._beat)

    def ended(self) -> None:
        """Let the job go."""
        super().ended()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._lease.release()


class EventStream(Stream):
    """Gives the events after a number, and, if it is to follow, each further one.

    They are read from the ledger only when the client takes them: what is told of a new one just wakes us up.

    :param since: The number.
    """

    def __init__(self, jobs: IJobs, since: int, follow: bool) -> None:
        super().__init__()
        self._jobs, self._last, self._follow = jobs, since, follow
        self._page: Sequence[Mapping[str, Any]] = ()
        self._news = False
        self._waiting: Deferred[None] | None = None

    async def load(self) -> None:
        """Read the first events.

        :raises TrackerError: that fails; nothing is followed.
        """
        try:
            self._page = await self._jobs.events(self._last, self._on_event if self._follow else None)
        except BaseException:
            self._unfollow()
            raise

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._run()).addErrback(
            lambda failure: log.failure("the events could not be given", failure=failure)
        )

    async def _run(self) -> None:
        try:
            await self._give()
        except TrackerError as error:
            log.error("the events could not be read: {error}", error=error)
            self._finish(False)
            return
        self._finish(True)

    async def _give(self) -> None:
        while not self._over:
            for index in range(0, len(self._page), _AT_ONCE):
                if not await self._wanted():
                    return
                events = self._page[index : index + _AT_ONCE]
                self._write(b"".join(map(as_line, events)))
                self._last = events[-1]["number"]
            if not self._page:
                if not self._follow:
                    return
                while not (self._news or self._over):
                    await self._wait()
            self._news = False
            if not self._over:
                self._page = await self._jobs.events(self._last)

    async def _wanted(self) -> bool:
        """Wait while the client does not read; return whether it is still there."""
        while self._paused and not self._over:
            await self._wait()
        return not self._over

    def _wait(self) -> Deferred[None]:
        self._waiting = Deferred()
        return self._waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _on_event(self, event: Mapping[str, Any]) -> None:
        self._news = True
        self._wake()

    def _unfollow(self) -> None:
        if self._follow:
            self._jobs.stop_events(self._on_event)

    def resume(self) -> None:
        """Go on."""
        super().resume()
        self._wake()

    def ended(self) -> None:
        """Read no more."""
        super().ended()
        self._unfollow()
        self._wake()


def as_line(value: Mapping[str, Any]) -> bytes:
    """Return a line of JSON."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
