"""Puts together what jobs need: the jobs themselves, the reaper, the watcher, the reconciler, the control socket.

Layer: below the daemon, which starts and stops it; imported only by a daemon that records.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from docker_tracker.cgroups import uses_version_2
from docker_tracker.control.door import ControlService
from docker_tracker.control.peer import Who
from docker_tracker.counts import Counts
from docker_tracker.doors import Bound, Doors
from docker_tracker.errors import EngineError, RefusedError, TrackerError
from docker_tracker.image_work import ImageWorks
from docker_tracker.interfaces import IEngine, IJob
from docker_tracker.job import DEFAULT, ReapReport
from docker_tracker.job_cgroup import JobCgroup
from docker_tracker.job_record import Job
from docker_tracker.own_container import OwnContainer
from docker_tracker.private_state import Places, alive_elsewhere, is_private, sweep
from docker_tracker.processes import PROC
from docker_tracker.tracking.jobs import MOST_PAST, Door, Jobs
from docker_tracker.tracking.lost_sockets import LostSockets
from docker_tracker.tracking.reaper import Reaper
from docker_tracker.tracking.reconciler import Reconciler
from docker_tracker.tracking.watcher import Watcher

if TYPE_CHECKING:
    from docker_tracker.config import Settings
    from docker_tracker.tracking.client import EngineClient
    from docker_tracker.tracking.ledger import Ledger

T = TypeVar("T")

log = Logger()

_FIRST_JOB_SECONDS = 60.0  # that a tracker which is to stop when it is idle waits for its first job
_LAST_CGROUP_SECONDS = 10.0  # that it waits for the end of those who are still in the last job's cgroup


class JobsService:
    """Everything that jobs need, from `start` to `stop`.

    :param reactor: What everything runs on.
    :param doors: Makes the jobs' sockets.
    :param directory: Of those that are unix sockets.
    :param counts: Shown as metrics.
    :param works: The classic builds and loads that are under way.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        doors: Doors,
        directory: Path,
        counts: Counts,
        works: ImageWorks,
    ) -> None:
        self._reactor, self._settings, self._doors, self._directory = reactor, settings, doors, directory
        self.counts = counts
        self._works = works
        self._services: list[Any] = []
        self._control: ControlService | None = None
        self._first_job: IDelayedCall | None = None
        self._cgroups: _Cgroups | None = None
        self._places: Places | None = None
        self.jobs: Jobs | None = None
        #: Whether we stop because no job is left.
        self.idle = False

    def start(self, ledger: Ledger, engine: EngineClient, instance: str, control: Bound | None) -> None:
        """Take up the jobs that the ledger has, and let clients in.

        :param ledger: Open.
        :param control: The control socket, or None.
        :raises ConfigurationError: the clients of the configuration's listeners cannot be let in.
        """
        settings = self._settings
        labelled = "labels" in settings.interceptors
        watcher = Watcher(engine, ledger, self._reactor, time.time, labelled=labelled)
        reconciled = settings.reconcile.enabled and not settings.until_idle
        reaper = Reaper(
            engine,
            ledger,
            self._reactor,
            settings.reap,
            look=watcher.look_now,
            works=self._works,
            reconciled=reconciled,
        )
        cgroups = self._cgroups = _Cgroups(self._reactor, engine)
        jobs = Jobs(self._reactor, ledger, engine, self._doors, reaper, self._directory, settings.reap.drain_seconds)
        jobs.cgroups, jobs.counts = cgroups, self.counts
        reconciler = Reconciler(
            engine,
            ledger,
            reaper,
            self._reactor,
            settings.reconcile,
            instance,
            jobs,
            lambda: self._in_thread(alive_elsewhere, settings.state_dir, _warn),
            done=self._reconciled,
            look_first=bool(ledger.replaced),
        )
        jobs.reconciler = reconciler
        self.jobs = jobs
        if settings.until_idle:
            jobs.on_idle = self._stop_reactor
            self._first_job = self._reactor.callLater(_FIRST_JOB_SECONDS, self._stop_if_idle)
        try:
            jobs.restore(self._at_home(job) for job in ledger.found)
        except TrackerError:
            for _, door in jobs.open_doors():
                door.close(forget=False)
            raise
        lost_sockets = LostSockets(
            engine, self._reactor, lambda: {path: job for job, door in jobs.open_doors() for path in door.anew}
        )
        self._services = [watcher, reconciler, lost_sockets]
        for service in self._services:
            service.startService()
        if control is not None:
            status = os.stat(control.listener.path)
            # Of a plain user's daemon the group may be everybody's, unless it was named.
            named = settings.control_group is not None or os.geteuid() == 0
            groups = frozenset({status.st_gid} if named and status.st_mode & 0o020 else ())
            self._control = ControlService(
                self._reactor, control.sock.dup(), jobs, ledger, engine, self.counts, Who(groups=groups), instance
            )
        Deferred.fromCoroutine(_remember(jobs, ledger, cgroups)).addErrback(_complain)
        if not is_private(settings.state_dir):
            self._places = Places(settings.state_dir, settings.run_dir, instance)
            self._sweep()

    def _sweep(self) -> None:
        """Have private trackers that were killed finish what they had to do."""
        if self._places is not None:
            swept = self._in_thread(sweep, self._places, dict(os.environ), os.geteuid())
            swept.addCallbacks(_tell_of_left, _complain)

    def _in_thread(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *arguments)

    def _at_home(self, job: IJob) -> IJob:
        """Return a job with its unix socket; the job "default" has what the configuration says."""
        paths = [listener.path for listener in self._settings.listeners if listener.kind == "unix"]
        return job if job.name != DEFAULT else attrs.evolve(cast(Job, job), socket=next(iter(paths), ""))

    def _reconciled(self, report: ReapReport) -> None:
        """Count a pass of the reconciler, and what it came upon."""
        mended = report.complete and all(item.outcome != "would remove" for item in report.items)
        result = "done" if mended else "incomplete" if report.passes else "failed"
        self.counts.reconcile_finished(result, time.time())
        self._sweep()
        if not report.dry_run:
            for item in report.items:
                self.counts.reaped[item.kind, item.outcome] += 1

    def _stop_if_idle(self) -> None:
        assert self.jobs is not None
        if all(job.name == DEFAULT for job in self.jobs.jobs()):
            self._stop_reactor()

    def _stop_reactor(self) -> None:
        log.info("no job is left: stopping")
        self.idle = True
        self._reactor.callLater(0, self._reactor.stop)

    async def stop(self) -> list[Door]:
        """Serve and watch no more; return the doors that are open, for clients have yet to go."""
        if self._first_job is not None and self._first_job.active():
            self._first_job.cancel()
        if self._control is not None:
            await self._control.close()
        for service in reversed(self._services):
            await maybeDeferred(service.stopService)
        if self.jobs is None:
            return []
        cgroups = self._cgroups
        if self.idle and cgroups is not None:  # nobody comes after us who would remove them
            await self.jobs.until(lambda: not cgroups.removals, _LAST_CGROUP_SECONDS)
        doors = [door for _, door in self.jobs.open_doors()]
        await self.jobs.stop()
        return doors


@attrs.frozen
class _Cgroups:
    """Makes cgroups for jobs; see `docker_tracker.tracking.jobs.Cgroups`.

    :ivar removals: The jobs whose cgroups are being removed.
    """

    reactor: Any
    engine: IEngine
    removals: set[str] = attrs.field(factory=set)

    async def _of(self, job: IJob) -> JobCgroup:
        info = await self.engine.get("/info")
        return JobCgroup(self.reactor, job.id, info.get("CgroupDriver") == "systemd", unified=uses_version_2(info))

    async def make(self, job: IJob) -> None:
        """Make it, and put the process that the job ends with into it, if that can be."""
        cgroup = await self._of(job)
        if not cgroup.systemd and await OwnContainer(self.engine, PROC).hides_cgroups():
            raise RefusedError(
                "a cgroup of the job's own cannot be made: the tracker does not see the engine's cgroups:"
                " start its container with --cgroupns=host",
                500,
            )
        await cgroup.make()
        process = job.request.ends.process
        if process is not None:
            try:
                await cgroup.enter(process, job.owner)
            except RefusedError as error:
                log.warn("process {pid} is not in the cgroup of job {job}: {error}", pid=process.pid, error=error)

    async def remove(self, job: IJob) -> None:
        """Remove it. Nobody waits for that: who waits for the job's end may be in it himself."""
        self.removals.add(job.id)
        Deferred.fromCoroutine(self._remove(job)).addErrback(_complain)

    async def _remove(self, job: IJob) -> None:
        try:
            left = await (await self._of(job)).remove()
        except EngineError as error:
            left = [str(error)]
        finally:
            self.removals.discard(job.id)
        for problem in left:
            log.error("the cgroup of job {job} is left: {problem}", job=job.name, problem=problem)

    def sweep(self, jobs: Iterable[IJob]) -> None:
        """Remove those of jobs that are gone, if an earlier process did not come to it."""
        for job in jobs:
            if job.request.own_cgroup:
                JobCgroup(self.reactor, job.id, systemd=False).sweep()


async def _remember(jobs: Jobs, ledger: Ledger, cgroups: _Cgroups) -> None:
    """Take note of the jobs that were gone before this start."""
    gone = await ledger.past_jobs(MOST_PAST)
    jobs.remember(gone)
    cgroups.sweep(gone)


def _tell_of_left(problems: list[str]) -> None:
    for problem in problems:
        log.error("{problem}", problem=problem)


def _warn(problem: str) -> None:
    log.warn("{problem}", problem=problem)


def _complain(failure: Failure) -> None:
    log.failure("what is left could not be looked at", failure)
