"""The jobs of this instance: made and ended at run time, there again after a restart. Layer: tracking.

What a job has open (sockets, clients) is its `Door`; who removes what it made is the reaper. Both are handed in.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, cast
from urllib.parse import quote

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.counts import Counts
from docker_tracker.engine.inventory import is_inspectable
from docker_tracker.errors import ConfigurationError, EngineError, LedgerError, RefusedError
from docker_tracker.interfaces import IEngine, IJob, IJobs, ILease, ILedger
from docker_tracker.job import DEFAULT, JobRequest, JobState, ReapItem, ReapReport, check_name, is_slice
from docker_tracker.job_record import Job
from docker_tracker.records import Intent, Relation, Resource
from docker_tracker.tracking.ends import EndWatch, IEndReactor, resolve
from docker_tracker.tracking.life import Course, Life, make_life

_SHORT_ID: Final = 12  # characters: what the client command shows of an ID
_LONGEST_PATH: Final = 107  # bytes: sockaddr_un of unix(7) has 108, with a zero at the end
MOST_PAST: Final = 1000  # jobs that are over and still known by name; each with its last report
_RETRY_SECONDS: Final = 5.0  # after the ledger could not be written
_CGROUP_SECONDS: Final = 60.0  # that making a job's own cgroup may take
_GOOD: Final = range(200, 300)
_CONFLICT: Final = 409  # of a container that does not run, or is paused already
_PAUSED: Final = "already paused"
_POLL_SECONDS: Final = 0.05  # while clients of a job that ended are waited for
_KEPT: Final = "the job failed, and is kept for a while"
_FAILED: Final = "failed: "  # stands before the reason, so that a restart knows it
_FOUND: Final = "found by its labels: the ledger did not know of it"  # the reason; a restart knows it by that


class Door(Protocol):
    """Where a job's clients come in."""

    @property
    def anew(self) -> list[str]:
        """The paths of its unix sockets that are not those of before a restart."""

    def connected(self) -> bool:
        """Whether a client is connected."""

    def busy(self) -> bool:
        """Whether a client is connected, or one was since this was last asked."""

    def close(self, forget: bool = True) -> None:
        """Accept nobody any more; clients that do nothing are sent away.

        :param forget: Whether the sockets are not to be there after a restart.
        """

    def clear(self) -> None:
        """Send away who is left, in the middle of what they do."""

    async def stop(self) -> None:
        """No client is left: close what the job's interceptors have open."""


class Doors(Protocol):
    """Makes doors."""

    def open(self, job: IJob) -> Door:
        """Accept a job's clients.

        :raises ConfigurationError: its addresses can't be had.
        :raises RefusedError: what it was asked to be can't be. In either case nothing is left behind.
        """


class Cgroups(Protocol):
    """Makes cgroups for jobs that are to have one of their own."""

    def make(self, job: IJob) -> Coroutine[Any, Any, None]:
        """Make a job's cgroup, and put the process that the job ends with into it, if that can be.

        :raises RefusedError: it cannot be made.
        :raises docker_tracker.errors.EngineError: the engine could not be asked what it takes.
        """

    async def remove(self, job: IJob) -> None:
        """Remove it again; what is left of it is logged."""


class Reaps(Protocol):
    """Removes what jobs made."""

    async def reap(self, job: IJob, *, dry_run: bool = False) -> ReapReport:
        """Remove it; what went wrong is in the report."""


class Reconciles(Protocol):
    """Compares engine and ledger."""

    async def once(self, dry_run: bool = False, adopt: str = "") -> ReapReport:
        """Do it now."""


@implementer(IJobs)
class Jobs:
    """All jobs; see `IJobs`.

    :param reactor: Tells the time, and when processes end.
    :param ledger: Where they are kept.
    :param engine: For a look at containers that are named.
    :param doors: Makes their sockets.
    :param reaper: Removes what they made.
    :param directory: Of their unix sockets.
    :param drain_seconds: For exchanges in flight when a job ends.
    :param now: Seconds since the epoch.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IEndReactor,
        ledger: ILedger,
        engine: IEngine,
        doors: Doors,
        reaper: Reaps,
        directory: Path,
        drain_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.reactor, self.ledger, self.engine = reactor, ledger, engine
        self.doors, self.reaper, self.drain_seconds, self.now = doors, reaper, drain_seconds, now
        self.reconciler: Reconciles | None = None
        self.cgroups: Cgroups | None = None
        self.counts = Counts()
        self.on_idle: Callable[[], None] | None = None
        self._directory = directory
        self._courses: dict[str, _Course] = {}
        self._past: dict[str, IJob] = {}
        self._found: dict[str, IJob] = {}  # those that only labels told of: the reconciler removes what they made
        self._told: list[Callable[[Mapping[str, Any]], None]] = []
        self._starting = DeferredLock()
        self._running: set[Deferred[Any]] = set()
        self.stopped = False

    # Start and stop of the tracker

    def restore(self, jobs: Iterable[IJob]) -> None:
        """Take up jobs where an earlier process left them: open their sockets, or go on with their end.

        A job whose socket cannot be had ends; that is logged, as it concerns nobody else.

        :param jobs: All that the ledger has, oldest first.
        :raises ConfigurationError: what the configuration says for the job "default" cannot be had.
        """
        for job in jobs:
            if job.state is JobState.GONE or (job.state is JobState.FAILED and job.reason == _FOUND):
                self._remember(job)
                continue
            course = self._courses[job.id] = _Course(self, job)
            course.failed = job.reason.startswith(_FAILED)
            if job.state is JobState.OPEN:
                try:
                    course.door = self.doors.open(job)
                except Exception as error:  # a fault of ours with one job must not keep all others from their end
                    if job.name == DEFAULT:
                        raise
                    if not isinstance(error, ConfigurationError | RefusedError):
                        self.log.failure("job {job} could not be taken up again", job=job.name)
                    self.log.error("job {job} has lost its socket: {error}", job=job.name, error=str(error))
                    self.ended(course, f"its socket could not be opened after a restart: {error}")
                    continue
                course.life.start()
            elif job.state is JobState.FAILED:
                course.life.despair()
            else:
                course.life.resume()

    def remember(self, jobs: Iterable[IJob]) -> None:
        """Take note of jobs that are gone, oldest first, so that they can be named."""
        past, self._past = self._past, {}
        for job in (*jobs, *past.values()):
            self._remember(job)

    def open_doors(self) -> list[tuple[IJob, Door]]:
        """Return the jobs that accept clients, each with its door."""
        return [(course.job, course.door) for course in self._courses.values() if course.door is not None]

    async def stop(self) -> None:
        """Watch for no more ends and start nothing; jobs stay as they are in the ledger."""
        self.stopped = True
        for course in self._courses.values():
            course.rest()
        for running in list(self._running):
            running.cancel()

    # What `IJobs` says

    async def start(self, request: JobRequest, owner: int | None, pid: int | None) -> IJob:
        """See `IJobs.start`."""
        check_name(request.name)
        user = owner if request.user is None else _uid(request.user)
        if request.group is not None:
            _check_group(request.group)
        path = self._directory / f"{request.name}.sock"
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise RefusedError(f"the socket's path {path} is longer than {_LONGEST_PATH} bytes: take a shorter name")
        if user is not None:
            request = attrs.evolve(request, user=str(user))
        request = attrs.evolve(request, ends=await resolve(request.ends, self.engine))
        if request.container:
            request = attrs.evolve(request, container=await self._container(request.container))
        await self._check_parent(request.cgroup_parent)
        async with self._starting:
            self._check_running()
            job = await self.ledger.make_job(request, user, str(path))
            course = _Course(self, job)
            try:
                course.door = self.doors.open(job)
            except Exception as error:
                await self._unmake(course, str(error))
                if isinstance(error, ConfigurationError):
                    raise RefusedError(f"the job cannot be made: {error}", 409) from error
                raise
        try:
            if request.own_cgroup and self.cgroups is not None:  # the engine is asked: no other job waits for that
                await Deferred.fromCoroutine(self.cgroups.make(job)).addTimeout(_CGROUP_SECONDS, self.reactor, _late)
                self._check_running()
        except Exception as error:
            await self._unmake(course, str(error))
            raise
        self._courses[job.id] = course
        course.life.start()
        self.tell("job started", job, {"owner": user, "pid": pid})
        return job

    def get(self, reference: str) -> IJob:
        """See `IJobs.get`."""
        course = self._courses.get(reference)
        if course is not None:
            return course.job
        known = self.jobs(everything=True)
        meant = [job for job in known if job.id == reference] or [job for job in known if job.name == reference]
        if not meant and len(reference) >= _SHORT_ID:
            meant = [job for job in known if job.id.startswith(reference)]
            if len(meant) > 1:
                raise RefusedError(f"{reference[:80]!r} is the beginning of several jobs' IDs: write more of it")
        if meant:
            return next((job for job in meant if job.state is JobState.OPEN), meant[-1])
        raise RefusedError(f"there is no job {reference[:80]!r}", 404)

    def jobs(self, everything: bool = False) -> list[IJob]:
        """See `IJobs.jobs`."""
        there = [*self._found.values(), *(course.job for course in self._courses.values())]
        return [*self._past.values(), *there] if everything else there

    def open_jobs(self) -> dict[str, IJob]:
        """Return the jobs that somebody answers for, by their IDs: all that are neither gone nor found."""
        return {identifier: course.job for identifier, course in self._courses.items()}

    async def end(self, reference: str, reason: str, failed: bool = False) -> IJob:
        """See `IJobs.end`."""
        job = self.get(reference)
        if job.name == DEFAULT:
            raise RefusedError("the job default has no end: reap it to remove what it has made", 409)
        course = self._courses.get(job.id)
        if course is not None:
            course.failed |= failed
            await self._end(course, reason)
        return self.get(job.id)

    async def over(self, reference: str) -> IJob:
        """See `IJobs.over`."""
        job = self.get(reference)
        course = self._courses.get(job.id)
        if course is None or course.job.state is JobState.FAILED:
            return job
        waiting: Deferred[IJob] = Deferred(course.waiting.remove)
        course.waiting.append(waiting)
        return await waiting

    def lease(self, reference: str) -> ILease:
        """See `IJobs.lease`."""
        job = self.get(reference)
        course = self._courses.get(job.id)
        if course is None or course.watch is None or job.request.ends.lease is None or job.state is not JobState.OPEN:
            raise RefusedError(f"the job {job.name} has no lease to hold: it has ended, or was made without one", 409)
        return course.watch.lease()

    async def reap(self, reference: str, dry_run: bool = False) -> ReapReport:
        """See `IJobs.reap`."""
        job = self.get(reference)
        report = await self.reaper.reap(job, dry_run=dry_run)
        if not dry_run:
            self.count(report)
            self.tell("job reaped", job, _summary(report))
            if job.id in self._found:
                await self.reaped(job, report, report.complete)
            else:
                await self._report(job.id, report)
            course = self._courses.get(job.id)
            if course is not None and course.job.state is JobState.FAILED and report.complete:
                course.release()
        return report

    async def reconcile(self, dry_run: bool = False, adopt: str = "") -> ReapReport:
        """See `IJobs.reconcile`."""
        if self.reconciler is None:
            raise RefusedError("nothing is recorded here, so there is nothing to compare the engine with", 409)
        return await self.reconciler.once(dry_run, adopt)

    def count(self, report: ReapReport) -> None:
        """Count what a reap came upon."""
        for item in report.items:
            self.counts.reaped[item.kind, item.outcome] += 1

    def retry(self) -> None:
        """Try again to remove what is left of jobs that have failed, unless they are kept."""
        for course in list(self._courses.values()):
            if course.held is None:
                course.life.retry()

    async def why(self, reference: str) -> list[Mapping[str, Any]]:
        """See `IJobs.why`."""
        found = await self.ledger.find(reference)
        if not found:
            raise RefusedError(f"nothing that was made or used here is called {reference[:80]!r}", 404)
        return [_why(*each) for each in found]

    def events(self, since: int, on_event: Callable[[Mapping[str, Any]], None] | None = None) -> Deferred[list[Any]]:
        """See `IJobs.events`."""
        if on_event is not None:
            self._told.append(on_event)
        return self.ledger.events(since)

    def stop_events(self, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        """See `IJobs.stop_events`."""
        self._told.remove(on_event)

    # For the reconciler

    async def found(self, job_id: str, name: str, created: float, data: Mapping[str, Any]) -> IJob:
        """Take note of a job that only labels tell of, so that it can be named; the reconciler removes what it made.

        :param created: Of the oldest thing that bears its label, in seconds since the epoch.
        :param data: What the event says of it.
        :return: It is gone already if it was a "default", whose things stay until it is reaped.
        """
        job = await self.ledger.restore_job(job_id, name, created, _FOUND)
        if job.id not in self._courses:
            self._remember(job)
            self.tell("job found", job, data)
        return job

    async def reaped(self, job: IJob, report: ReapReport, over: bool) -> None:
        """Write down what the reap of a job that was found did.

        :param over: Whether nothing of it is left.
        """
        if job.id not in self._found:
            return
        job = await self.ledger.set_job(job.id, JobState.GONE if over else JobState.FAILED, report=report)
        self._remember(job)
        if over:
            self.tell("job gone", job, _summary(report))
            self._check_idle()

    # For the jobs on their way

    def tell(self, event: str, job: IJob | None, data: Mapping[str, Any]) -> None:
        """Write down an event, and tell it to who follows them.

        :param job: None: it concerns all.
        """

        async def write() -> None:
            try:
                number = await self.ledger.add_event(event, job, data)
            except LedgerError as error:
                self.log.error("the event {event} is lost: {error}", event=event, error=str(error))
                return
            for each in await self.ledger.events(number - 1, 1):
                for told in list(self._told):
                    told(each)

        self._go(write(), job)

    async def until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Return when something holds, or so many seconds later."""
        deadline = self.reactor.seconds() + seconds
        while not holds() and self.reactor.seconds() < deadline:
            await deferLater(self.reactor, _POLL_SECONDS)

    async def write(self, course: _Course, state: JobState, report: ReapReport | None = None) -> None:
        """Write a state down, however often that has to be tried."""
        complained = False
        while True:
            try:
                course.job = await self.ledger.set_job(course.job.id, state, report=report)
                return
            except LedgerError as error:
                if not complained:
                    complained = True
                    self.log.error(
                        "that job {job} is {state} cannot be written down: {error}; it is tried again",
                        job=course.job.name,
                        state=state.value,
                        error=str(error),
                    )
            await deferLater(self.reactor, _RETRY_SECONDS)

    def bury(self, course: _Course) -> None:
        """Forget a job that is gone."""
        del self._courses[course.job.id]
        self._remember(course.job)
        self._check_idle()

    def ended(self, course: _Course, reason: str) -> None:
        """A job's end was seen."""
        self._go(self._end_surely(course, reason), course.job)

    def go(self, work: Coroutine[Any, Any, None], course: _Course) -> None:
        """Let work for a job go on by itself."""
        self._go(work, course.job)

    async def hold(self, job: IJob) -> ReapReport:
        """Pause a job's containers, and return a report that says what is kept."""
        until = _clock((job.ended or self.now()) + (job.request.keep_on_failure or 0.0))
        items = []
        problem = _KEPT
        try:
            for made in await self.ledger.resources(job.id):
                if made.relation is Relation.MADE and made.kind != "exec":
                    reason = f"the job failed: kept until {until}{await self._pause(made)}"
                    items.append(_item(made, "kept", reason))
        except (EngineError, LedgerError) as error:
            problem = f"{_KEPT}; not all of its containers are paused: {error}"
        return ReapReport(job_id=job.id, job=job.name, began=self.now(), items=tuple(items), problem=problem)

    async def _pause(self, made: Resource) -> str:
        """Pause what can be paused; return what to tell whoever wants to look inside."""
        if made.kind != "container":
            return ""
        status, answer = await self.engine.request("POST", f"/containers/{made.identifier}/pause")
        short = made.identifier[:12]
        host = f" -H {shlex.quote(self.engine.address)}" if "://" in self.engine.address else ""
        if status in _GOOD or _PAUSED in str(answer):
            return f"; look inside: docker{host} unpause {short} && docker{host} exec -it {short} sh"
        return f"; it does not run, look at what it said: docker{host} logs {short}" if status == _CONFLICT else ""

    # Inside

    async def _report(self, job_id: str, report: ReapReport) -> None:
        """Keep the report of a reap that somebody asked for, wherever the job stands by now."""
        try:
            await self.ledger.set_job(job_id, None, report=report)
        except LedgerError as error:
            self.log.error("the report on job {job} is lost: {error}", job=report.job, error=str(error))
        course = self._courses.get(job_id)
        if course is not None:
            course.job = attrs.evolve(cast(Job, course.job), report=report)
        elif job_id in self._past:
            self._past[job_id] = attrs.evolve(cast(Job, self._past[job_id]), report=report)

    async def _check_parent(self, parent: str | None) -> None:
        """Refuse a path where the engine takes slices only; if it is away, that is told at the first create.

        :raises RefusedError: it is one.
        """
        if parent is None or parent in ("self", "caller") or is_slice(parent):
            return
        try:
            info = await self.engine.get("/info")
        except EngineError:
            return
        if isinstance(info, dict) and info.get("CgroupDriver") == "systemd":
            raise RefusedError(f"{parent!r} is not a cgroup parent here: the engine uses systemd, write NAME.slice")

    def _check_running(self) -> None:
        if self.stopped:
            raise RefusedError("the tracker is being stopped", 503)

    async def _unmake(self, course: _Course, reason: str) -> None:
        """Undo a job that could not be made wholly; one that the ledger would go on with ends as any other does.

        What nobody could reach was none; through a door things may have been made.
        """
        door, course.door = course.door, None
        try:
            if door is None:
                await self.ledger.forget_job(course.job.id)
                return
            door.close()
            await door.stop()
            self._remember(await self.ledger.set_job(course.job.id, JobState.GONE, reason=reason))
        except LedgerError:
            self._courses[course.job.id] = course
            self.ended(course, reason)

    async def _end_surely(self, course: _Course, reason: str) -> None:
        while not self.stopped:
            try:
                await self._end(course, reason)
                return
            except LedgerError as error:
                self.log.error("the end of job {job} cannot be written down: {error}", job=course.job.name, error=error)
            await deferLater(self.reactor, _RETRY_SECONDS)

    async def _end(self, course: _Course, reason: str) -> None:
        """Write a job's end down, then end it: whoever is told of it can rely on it."""
        if course.ending or course.job.state is not JobState.OPEN:
            return
        course.ending = True
        if course.failed:
            reason = _FAILED + reason
        elif reason.startswith(_FAILED):  # somebody's words, which say nothing to a restart
            reason = f"ended: {reason}"
        try:
            # The name is free from then on. As the ledger answers in order, the socket is closed before another has it.
            course.job = await self.ledger.set_job(course.job.id, JobState.DRAINING, reason=reason)
        except LedgerError:
            course.ending = False
            raise
        self.tell("job ended", course.job, {"reason": reason})
        if course.door is None:
            course.life.resume()
        else:
            course.life.end()
        self.log.info("job {job} ends: {reason}", job=course.job.name, reason=reason, id=course.job.id)

    async def _container(self, reference: str) -> str:
        if not is_inspectable(reference):
            raise RefusedError(f"{reference[:80]!r} is no name of a container, nor an ID")
        found = await self.engine.get(f"/containers/{quote(reference, safe='')}/json")
        if not isinstance(found, Mapping) or not found.get("Id"):
            raise RefusedError(f"there is no container {reference[:80]!r} for the job to be tied to")
        return str(found["Id"])

    def _check_idle(self) -> None:
        if self.on_idle is not None and all(job.name == DEFAULT for job in self.jobs()):
            self.on_idle()

    def _remember(self, job: IJob) -> None:
        self._found.pop(job.id, None)
        if job.state is not JobState.GONE:
            self._found[job.id] = job
            return
        self._past.pop(job.id, None)
        self._past[job.id] = job
        while len(self._past) > MOST_PAST:
            del self._past[next(iter(self._past))]

    def _go(self, work: Coroutine[Any, Any, None], job: IJob | None) -> None:
        running: Deferred[None] = Deferred.fromCoroutine(work)
        self._running.add(running)

        def over(failure: Failure | None) -> None:
            self._running.discard(running)
            if failure is not None and not self.stopped:
                self.log.failure("work for job {job} failed", failure, job="" if job is None else job.name)

        running.addBoth(over)


class _Course(Course):
    """One job on its way; `life` says what is next."""

    def __init__(self, jobs: Jobs, job: IJob) -> None:
        self.job = job
        self.door: Door | None = None
        self.watch: EndWatch | None = None
        self.life: Life = make_life(self)
        self.waiting: list[Deferred[IJob]] = []
        self.held: IDelayedCall | None = None
        self.ending = False
        self.failed = False
        self.retried = False
        self._jobs = jobs

    def rest(self) -> None:
        """The tracker stops."""
        if self.watch is not None:
            self.watch.stop()
        if self.held is not None:
            self.held.cancel()
            self.held = None

    def accept(self) -> None:
        """Watch for what ends the job."""
        assert self.door is not None
        if self.job.name != DEFAULT:
            jobs = self._jobs
            over = lambda reason: jobs.ended(self, reason)  # noqa: E731
            self.watch = EndWatch(jobs.reactor, jobs.engine, self.job, over, self.door.busy, jobs.now)
            self.watch.start()

    def drain(self) -> None:
        """Send the clients away."""
        if self.watch is not None:
            self.watch.stop()
        self._jobs.go(self._drain(), self)

    async def _drain(self) -> None:
        door, self.door = self.door, None
        assert door is not None
        door.close()
        await self._jobs.until(lambda: not door.connected(), self._jobs.drain_seconds)
        door.clear()
        await self._jobs.until(lambda: not door.connected(), self._jobs.drain_seconds)
        await door.stop()
        # What was cancelled may have been an interceptor's stop, whose errors are only logged.
        if not self._jobs.stopped:
            self.life.drained()

    def reap(self) -> None:
        """Remove what it has made, or keep that for now."""
        self._jobs.go(self._reap(), self)

    async def _reap(self) -> None:
        jobs = self._jobs
        await jobs.write(self, JobState.REAPING)
        try:
            report = await (jobs.hold(self.job) if self.failed and self._kept_for() > 0 else jobs.reaper.reap(self.job))
        except CancelledError:
            raise
        except Exception:  # a fault of ours must not leave the job where nobody tries again
            jobs.log.failure("job {job} could not be reaped", job=self.job.name, id=self.job.id)
            report = ReapReport(job_id=self.job.id, job=self.job.name, problem="docker-tracker failed: see its log")
        await jobs.write(self, JobState.GONE if report.complete else JobState.FAILED, report)
        jobs.count(report)
        if not self.retried:
            for item in report.items:
                jobs.counts.leaked[item.kind] += item.outcome != "kept"
        self.retried = True
        jobs.tell("job gone" if report.complete else "job failed", self.job, _summary(report))
        if report.complete:
            if self.job.request.own_cgroup and jobs.cgroups is not None:
                await jobs.cgroups.remove(self.job)
            self.life.emptied()
        else:
            self.life.stuck()

    def _kept_for(self) -> float:
        """Return for how many seconds yet the job is kept because it failed."""
        most = self.job.request.keep_on_failure or 0.0
        # A clock that was set back does not have it kept for longer than it was to be from now.
        return min(max((self.job.ended or 0.0) + most - self._jobs.now(), 0.0), most)

    def bury(self) -> None:
        """Forget it."""
        self._jobs.bury(self)
        self._tell()

    def wait(self) -> None:
        """Wait for the next try; a job that is kept has a time for it."""
        report = self.job.report
        if report is not None and report.problem.startswith(_KEPT):
            self.held = self._jobs.reactor.callLater(self._kept_for(), self._unhold)
        self._tell()

    def release(self) -> None:
        """Nothing of a job that failed is left any more: go on to its end, also if it was to be kept yet."""
        if self.held is not None:
            self.held.cancel()
        self._unhold()

    def _unhold(self) -> None:
        self.held = None
        self.failed = False
        self.life.retry()

    def _tell(self) -> None:
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(self.job)


def _late(_: object, seconds: float) -> Failure:
    error = RefusedError(f"the job's own cgroup was not made within {seconds:g} s: is the engine there?", 504)
    return Failure(error)  # type: ignore[no-untyped-call]


def _uid(user: str) -> int:
    try:
        return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise RefusedError(f"there is no user {user[:80]!r}") from None


def _check_group(group: str) -> None:
    try:
        if not group.isdigit():
            grp.getgrnam(group)
    except KeyError:
        raise RefusedError(f"there is no group {group[:80]!r}") from None


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def _item(resource: Resource, outcome: str, reason: str) -> ReapItem:
    return ReapItem(
        kind=resource.kind,
        identifier=resource.identifier,
        name=resource.name,
        outcome=outcome,
        reason=reason,
        attributes=resource.attributes,
    )


def _summary(report: ReapReport) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for item in report.items:
        of_kind = counts.setdefault(item.outcome, {})
        of_kind[item.kind] = of_kind.get(item.kind, 0) + 1
    return {**counts, "seconds": round(report.seconds, 3), "problem": report.problem}


def _why(resource: Resource, job: IJob | None, intent: Intent | None) -> dict[str, Any]:
    shown = attrs.asdict(resource, filter=lambda field, _: field.name not in ("attributes", "number", "intent"))
    return {
        "resource": {**shown, "relation": resource.relation.value},
        "job": None if job is None else {"id": job.id, "name": job.name, "state": job.state.value},
        "intent": None
        if intent is None
        else {
            "operation": intent.operation,
            "exchange": intent.exchange,
            "started": intent.started,
            "state": intent.state.value,
            "names": [list(name) for name in intent.names],
        },
        "who": dict(resource.attributes),
    }
