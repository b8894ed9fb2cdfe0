"""The life of a job, as a machine: open, draining, reaping, then gone, or failed and tried again. Layer: tracking.

The machine says what comes after what; what is done then are the methods of `Course`, which `jobs.py` has.
"""

from __future__ import annotations

from typing import Protocol

from automat import TypeMachineBuilder


class Course:
    """What is done on a job's way; nothing of it blocks or raises."""

    def accept(self) -> None:
        """Watch for the job's end: its clients come in already."""

    def drain(self) -> None:
        """Accept nobody any more, and let exchanges in flight finish for a while; then call `Life.drained`."""

    def reap(self) -> None:
        """Remove what the job has made; then call `Life.emptied` or `Life.stuck`."""

    def bury(self) -> None:
        """Nothing is left: forget the job."""

    def wait(self) -> None:
        """Something is left, or kept: say so. It is tried again by `Life.retry`."""


class Life(Protocol):
    """What happens to a job."""

    def start(self) -> None:
        """It is new, or it was open when the tracker was stopped."""

    def resume(self) -> None:
        """It was draining or being reaped when the tracker was stopped: its clients are gone."""

    def despair(self) -> None:
        """It had failed when the tracker was stopped."""

    def end(self) -> None:
        """It is to accept nobody any more."""

    def drained(self) -> None:
        """No client of it is left."""

    def emptied(self) -> None:
        """Nothing of it is left."""

    def stuck(self) -> None:
        """Something of it is left, or is kept for now."""

    def retry(self) -> None:
        """It is time to try again."""


def _build() -> TypeMachineBuilder[Life, Course]:
    builder = TypeMachineBuilder(Life, Course)
    new = builder.state("new")
    open_ = builder.state("open")
    draining = builder.state("draining")
    reaping = builder.state("reaping")
    gone = builder.state("gone")
    failed = builder.state("failed")

    @new.upon(Life.start).to(open_)
    def start(life: Life, course: Course) -> None:
        course.accept()

    @new.upon(Life.resume).to(reaping)
    def resume(life: Life, course: Course) -> None:
        course.reap()

    @new.upon(Life.despair).to(failed)
    def despair(life: Life, course: Course) -> None:
        course.wait()

    @open_.upon(Life.end).to(draining)
    def end(life: Life, course: Course) -> None:
        course.drain()

    @draining.upon(Life.drained).to(reaping)
    def drained(life: Life, course: Course) -> None:
        course.reap()

    @reaping.upon(Life.emptied).to(gone)
    def emptied(life: Life, course: Course) -> None:
        course.bury()

    @reaping.upon(Life.stuck).to(failed)
    def stuck(life: Life, course: Course) -> None:
        course.wait()

    @failed.upon(Life.retry).to(reaping)
    def retry(life: Life, course: Course) -> None:
        course.reap()

    for state in (new, open_, draining, reaping, gone):
        state.upon(Life.retry).loop().returns(None)
    for state in (draining, reaping, failed, gone):
        state.upon(Life.end).loop().returns(None)
    return builder


MACHINE = _build()
make_life = MACHINE.build()
