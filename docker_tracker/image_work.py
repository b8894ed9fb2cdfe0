"""Which classic builds and loads are under way, so that no image is removed that one of them may just have been given.

Between the look into its cache of steps and the container or image that is made of what was found there, an engine
holds on to nothing: who removes it then makes the build fail (moby: ``builder/dockerfile/internals.go``,
``probeCache``). So the removal of an image waits for the work that is under way, and new work waits for the removals
that go on. Layer: beside the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from twisted.internet.defer import Deferred


@attrs.frozen(eq=False)
class ImageWork:
    """A request under way that may be given an image that is there.

    :ivar job_id: Of the job that asks.
    :ivar job: The job's name.
    """

    job_id: str
    job: str


class ImageWorks:
    """What is under way through this daemon."""

    def __init__(self) -> None:
        self._works: list[ImageWork] = []
        self._removals = 0
        self._waiting: list[Deferred[None]] = []
        #: How many have ended: who uses what is to be looked up anew then.
        self.ended = 0

    async def begin(self, work: ImageWork) -> None:
        """Take note of work that begins, at once; return when no image is being removed."""
        self._works.append(work)
        if self._removals:
            removed: Deferred[None] = Deferred()
            self._waiting.append(removed)
            await removed

    def end(self, work: ImageWork) -> None:
        """Take note that work is over, and that what it led to is in the ledger, or on its way there."""
        if work in self._works:
            self._works.remove(work)
            self.ended += 1

    def beside(self, job_id: str) -> list[ImageWork]:
        """Return the work of other jobs."""
        return [work for work in self._works if work.job_id != job_id]

    @contextmanager
    def removal(self) -> Iterator[None]:
        """Let no work begin while an image is removed."""
        self._removals += 1
        try:
            yield
        finally:
            self._removals -= 1
            if not self._removals:
                waiting, self._waiting = self._waiting, []
                for removed in waiting:
                    if not removed.called:  # it was given up
                        removed.callback(None)
