"""Compares engine and ledger from time to time, and removes what belongs to no job that is there. Layer: tracking.

What a reap has missed is found here: things whose create was answered after their job's end, things of jobs that only
their labels tell of, things of a lost tracker that was adopted. Nothing is touched that is young, that a job answers
for, or that another tracker made. After the dangling-container reconciler of Nomad's driver for Docker.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from docker_tracker.engine.inventory import (
    INSTANCE_LABEL,
    JOB_ID_LABEL,
    JOB_LABEL,
    Seen,
    inspect_path,
    inspected,
)
from docker_tracker.errors import EngineError, LedgerError, RefusedError
from docker_tracker.interfaces import IEngine, IJob, ILedger
from docker_tracker.job import DEFAULT, JobRequest, JobState, ReapItem, ReapReport
from docker_tracker.job_record import Job
from docker_tracker.job_settings import ReconcileSettings
from docker_tracker.records import Relation, Resource, moment
from docker_tracker.tracking.lists import LABELLED, LISTED, Lists, is_inherited, mark_gone
from docker_tracker.tracking.reaper import Reaper, together
from docker_tracker.tracking.removal import Thing
from docker_tracker.tracking.worker import Worker

_LEAST_CALL_SECONDS: Final = 30.0
_JOBS_AT_ONCE: Final = 4
_LOOK_SECONDS: Final = 5.0  # between two tries to name jobs
_CLOCK_SLACK: Final = 60.0  # by which an engine's clock may be wrong
_LIVE: Final = (JobState.OPEN, JobState.DRAINING, JobState.REAPING)


@attrs.define
class _Traces:
    """What is there of one job.

    :ivar name: As the labels say.
    :ivar things: Kind and what was seen, by label.
    """

    name: str = ""
    things: list[tuple[str, Seen]] = attrs.field(factory=list)

    @property
    def times(self) -> list[float]:
        """When it was made, as far as that is known."""
        return [seen.created for _, seen in self.things if seen.created]


async def _alone() -> Callable[[str, bool], bool]:
    return lambda job_id, known: False


class Answering(Protocol):
    """Who answers for jobs: `docker_tracker.tracking.jobs.Jobs` says what these do."""

    def open_jobs(self) -> Mapping[str, IJob]:
        """See `Jobs.open_jobs`."""

    async def found(self, job_id: str, name: str, created: float, data: Mapping[str, Any]) -> IJob:
        """See `Jobs.found`."""

    async def reaped(self, job: IJob, report: ReapReport, over: bool) -> None:
        """See `Jobs.reaped`."""

    def retry(self) -> None:
        """See `Jobs.retry`."""

    def tell(self, event: str, job: IJob | None, data: Mapping[str, Any]) -> None:
        """See `Jobs.tell`."""


class Reconciler(Worker):
    """Compares and mends, as long as the service runs; `once` does it at any time.

    :param engine: What is.
    :param ledger: What was.
    :param reaper: Removes it.
    :param clock: For waiting.
    :param settings: The table [reconcile].
    :param instance: This tracker's ID.
    :param jobs: Knows the jobs that somebody answers for, and is told of those that nobody does.
    :param alive_elsewhere: Looks once in a pass; what it returns says whether another tracker of this instance (a
        private one) holds a job, by its ID and whether the ledger knows it.
    :param now: Seconds since the epoch.
    :param done: Is given the report of each pass; one that could not be made has no ``passes``.
    :param look_first: Whether the jobs that only labels tell of are to be named as soon as the engine answers, long
        before anything of theirs is removed: the ledger was lost.
    """

    log = Logger()
    defect = "engine and ledger are not compared any more"

    def __init__(
        self,
        engine: IEngine,
        ledger: ILedger,
        reaper: Reaper,
        clock: IReactorTime,
        settings: ReconcileSettings,
        instance: str,
        jobs: Answering,
        alive_elsewhere: Callable[[], Awaitable[Callable[[str, bool], bool]]] = _alone,
        *,
        now: Callable[[], float] = time.time,
        done: Callable[[ReapReport], object] = lambda report: None,
        look_first: bool = False,
    ) -> None:
        self._engine, self._ledger, self._reaper, self._clock = engine, ledger, reaper, clock
        self._settings = settings
        self._instance = instance
        self._jobs, self._alive_elsewhere = jobs, alive_elsewhere
        self._now, self._done, self._look_first = now, done, look_first
        self._turn = DeferredLock()
        self._failed = False

    # By itself

    async def work(self) -> None:
        """Compare from time to time; the first pass comes late, so that what was there before a restart is known."""
        first = max(self._settings.period, self._settings.creation_grace)
        while self._look_first and not await self._look(first):
            await deferLater(self._clock, _LOOK_SECONDS)
        if not self._settings.enabled:
            return
        await deferLater(self._clock, first)
        while True:
            await self.once(self._settings.dry_run)
            await deferLater(self._clock, self._settings.period)

    async def _look(self, first: float) -> bool:
        """Name the jobs that only labels tell of; return whether that could be done.

        :param first: In how many seconds what they made is removed.
        """
        removes = self._settings.enabled and not self._settings.dry_run
        async with self._turn:
            try:
                await self._find(False, "", [], self._now() + first if removes else None)
            except (EngineError, LedgerError) as error:
                self._not_compared(error)
                return False
            self._compared()
            return True

    # Once

    async def once(self, dry_run: bool = False, adopt: str = "") -> ReapReport:
        """Compare and mend, now; what goes wrong is in the report. One pass at a time.

        :param dry_run: Only say what would be removed.
        :param adopt: The instance whose things become ours, from now on; our own: things of jobs that our ledger
            should know and does not.
        :raises RefusedError: the instance has nothing here, and never had.
        """
        async with self._turn:
            began, start = self._now(), self._clock.seconds()
            items: list[ReapItem] = []
            problem = ""
            passes = 1
            try:
                problems = await self._pass(dry_run, adopt, items)
            except (EngineError, LedgerError) as error:
                passes = 0
                problem = str(error)
                self._not_compared(error)
            else:
                problem = "; ".join(problems)
                self._compared()
            report = ReapReport(
                job_id="",
                job="",
                dry_run=dry_run,
                began=began,
                seconds=self._clock.seconds() - start,
                passes=passes,
                items=tuple(items),
                problem=problem,
            )
            self._say(report)
            self._done(report)
            return report

    def _not_compared(self, error: EngineError | LedgerError) -> None:
        self._engine.forget()  # the one that answers next may be another one
        if not self._failed:
            self.log.warn("engine and ledger cannot be compared: {error}", error=str(error))
        self._failed = True

    def _compared(self) -> None:
        if self._failed:
            self.log.info("engine and ledger can be compared again")
        self._failed = False

    def _say(self, report: ReapReport) -> None:
        counts: dict[str, int] = {}
        for item in report.items:
            counts[item.outcome] = counts.get(item.outcome, 0) + 1
            if item.outcome in ("removed", "would remove"):
                self.log.info(
                    "reconciling: {outcome} {kind} {identifier}",
                    outcome=item.outcome,
                    kind=item.kind,
                    identifier=item.identifier,
                )
        if counts.get("removed"):
            self._jobs.tell("reconciled", None, counts)

    async def _pass(self, dry_run: bool, adopt: str, items: list[ReapItem]) -> list[str]:
        """Do all of it; return what went wrong on the way, job by job."""
        cutoff = self._now() - self._settings.creation_grace
        wanted = await self._find(dry_run, adopt, items, self._now())
        reports = await self._reap_all(wanted, dry_run, cutoff)
        for report in reports:
            items += report.items
        items += await self._by_heuristic(cutoff, dry_run)
        if not dry_run:
            self._jobs.retry()
        return [f"job {report.job}: {report.problem}" for report in reports if report.problem]

    async def _find(self, dry_run: bool, adopt: str, items: list[ReapItem], removal: float | None) -> list[IJob]:
        """Return the jobs that nobody answers for and whose things are there; what is to stay is added to ``items``.

        :param removal: When their things begin to be removed, in seconds since the epoch; None: not by itself.
        """
        began = self._now()
        known = await self._ledger.resources()
        await self._within(self._healthy())
        instances = {self._instance, *await self._ledger.adopted_instances()}
        if adopt and adopt not in instances:
            await self._take_over(adopt, dry_run)
            instances.add(adopt)
        if not dry_run:
            await self._within(mark_gone(self._ledger, Lists(self._engine), known, LISTED))
            known = await self._ledger.resources()
        traces = await self._traces(instances, known)
        # Jobs are asked for after things: whatever was seen then, its job was there before it.
        # Not all that there ever were: there may be very many, and meanwhile nobody else is served by the ledger.
        jobs = {job.id: job for job in (*await self._ledger.some_jobs(traces), *await self._ledger.jobs())}
        live = {job.id for job in jobs.values() if job.state in _LIVE}.union(self._jobs.open_jobs())
        for each in jobs.values():
            if each.state is JobState.FAILED:  # it may be that nothing of it is left
                traces.setdefault(each.id, _Traces(each.name))
        begun = next((job.created for job in jobs.values() if job.name == DEFAULT and job.ended is None), 0.0)
        elsewhere = await self._alive_elsewhere()
        wanted = []
        for job_id, trace in traces.items():
            if job_id in live or elsewhere(job_id, job_id in jobs):
                continue
            job = jobs.get(job_id)
            reason = ""
            if (job.name if job else trace.name) == DEFAULT:
                reason = f"the job default has no end: reap {job_id} to remove it"
            if job is None:
                await self._leave_inherited(job_id, trace)
                if not trace.things:
                    continue
                if self._is_a_twins(trace, begun, adopt):
                    self._complain_of_twin(job_id, trace, items)
                    continue
                job = await self._restored(job_id, trace, began, dry_run, removal)
            if reason:
                items += [_item(kind, seen, "kept", reason) for kind, seen in trace.things]
            else:
                wanted.append(job)
        return wanted

    async def _take_over(self, instance: str, dry_run: bool) -> None:
        """Take note of an instance whose things are ours from now on, if there are any: a mistyped one has none."""
        if not await self._traces([instance], ()):
            raise RefusedError(f"there is nothing of an instance {instance} at the engine {self._engine.address}", 404)
        if not dry_run:
            await self._ledger.adopt_instance(instance)

    async def _healthy(self) -> None:
        """Make sure that the engine answers, and is the one that the ledger is of."""
        await Lists(self._engine).check()
        await self._ledger.check_engine(await self._engine.identity())

    async def _traces(self, instances: Iterable[str], known: Iterable[Resource]) -> dict[str, _Traces]:
        """Return what there is of any job: what bears its label and ours, and what the ledger says that it made."""
        traces: dict[str, _Traces] = {}
        for instance in sorted(instances):
            lists = Lists(self._engine, f"{INSTANCE_LABEL}={instance}")
            for kind in sorted(LABELLED):
                for seen in await self._within(lists.get(kind)) or ():
                    job_id = seen.labels.get(JOB_ID_LABEL)
                    if job_id and seen.labels.get(INSTANCE_LABEL) == instance:
                        trace = traces.setdefault(job_id, _Traces())
                        trace.name = seen.labels.get(JOB_LABEL) or trace.name
                        trace.things.append((kind, seen))
        for resource in known:
            if resource.relation is Relation.MADE and resource.kind != "exec":
                traces.setdefault(resource.job_id, _Traces())
        return traces

    async def _leave_inherited(self, job_id: str, trace: _Traces) -> None:
        """Take out containers that can have the job's label from their image: whose they are nobody knows."""
        things = []
        for kind, seen in trace.things:
            if kind != "container" or not await self._within(is_inherited(self._engine, seen.image, job_id)):
                things.append((kind, seen))
        trace.things = things

    def _is_a_twins(self, trace: _Traces, begun: float, adopt: str) -> bool:
        """Whether a job that the ledger does not know must be somebody else's who has our ID.

        Every job of ours is in the ledger before it makes anything, unless the ledger is younger.
        """
        if adopt == self._instance or not trace.things:
            return False
        ours = any(seen.labels.get(INSTANCE_LABEL) == self._instance for _, seen in trace.things)
        return ours and any(created > begun + _CLOCK_SLACK for created in trace.times)

    def _complain_of_twin(self, job_id: str, trace: _Traces, items: list[ReapItem]) -> None:
        advice = f"reconcile --adopt {self._instance} takes it over if that is not so"
        reason = (
            f"another tracker with the same instance ID must have made it, as the ledger knows no such job; {advice}"
        )
        self.log.error("job {id}: {reason}", id=job_id, reason=reason)
        items += [_item(kind, seen, "kept", reason) for kind, seen in trace.things]

    async def _restored(self, job_id: str, trace: _Traces, began: float, dry_run: bool, removal: float | None) -> IJob:
        """Return a job that only its labels tell of, written into the ledger with all that bears them."""
        created = min(trace.times, default=0.0)
        name = trace.name or "unknown"
        if dry_run:
            return Job(id=job_id, request=JobRequest(name=name), state=JobState.FAILED, created=created)
        counts: dict[str, int] = {}
        for kind, _ in trace.things:
            counts[kind] = counts.get(kind, 0) + 1
        removed = moment(None if name == DEFAULT else removal)
        job = await self._jobs.found(job_id, name, created, {"things": counts, "removed_from": removed})
        self.log.error(
            "job {job} ({id}) is told by labels only, and is not open any more: its {things} {fate}",
            job=name,
            id=job_id,
            things=", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in sorted(counts.items())),
            fate=f"will be removed from {removed} on" if removed else f"will stay until this: reap {job_id}",
        )
        await self._ledger.adopt(
            [
                Resource(kind=kind, identifier=seen.identifier, name=(*seen.names, "")[0], job_id=job_id)
                for kind, seen in trace.things
            ],
            began,
        )
        return job

    async def _reap_all(self, jobs: Sequence[IJob], dry_run: bool, cutoff: float) -> list[ReapReport]:
        """Reap jobs side by side; again, if the image that one of them keeps may have stood under one that went."""
        reports: dict[str, ReapReport] = {}
        turns = DeferredSemaphore(_JOBS_AT_ONCE)
        again = jobs
        while again:
            latest: list[ReapReport] = await together(self._reap(job, dry_run, cutoff, turns) for job in again)
            for report in latest:
                earlier = reports.get(report.job_id)
                reports[report.job_id] = report if earlier is None else await self._joined(earlier, report)
            went = any(item.kind == "image" and item.outcome == "removed" for each in latest for item in each.items)
            again = [job for job, report in zip(again, latest, strict=True) if went and report.shared]
        if not dry_run:
            for job in jobs:
                await self._tell_of(job, reports[job.id])
        return [*reports.values()]

    async def _reap(self, job: IJob, dry_run: bool, cutoff: float, turns: DeferredSemaphore) -> ReapReport:
        async with turns:
            return await self._reaper.reap(job, dry_run=dry_run, made_before=cutoff)

    async def _joined(self, earlier: ReapReport, later: ReapReport) -> ReapReport:
        """Return what two reaps of a job did, one after the other."""
        there = {(each.kind, each.identifier) for each in await self._ledger.resources(later.job_id)}
        items = {(item.kind, item.identifier): item for item in earlier.items}
        for reference, item in items.items():
            if item.outcome in ("kept", "left") and reference not in there:  # with its last name, which was another's
                items[reference] = attrs.evolve(item, outcome="removed", reason="")
        items |= {(item.kind, item.identifier): item for item in later.items}
        return attrs.evolve(
            later,
            began=earlier.began,
            seconds=earlier.seconds + later.seconds,
            passes=earlier.passes + later.passes,
            items=tuple(items.values()),
        )

    async def _tell_of(self, job: IJob, report: ReapReport) -> None:
        if job.state is JobState.FAILED:
            made = [each for each in await self._ledger.resources(job.id) if each.relation is Relation.MADE]
            over = report.complete and all(
                each.identifier in {item.identifier for item in report.items} for each in made
            )
            await self._jobs.reaped(job, report, over)

    def _within(self, work: Any) -> Deferred[Any]:
        """Bound a call: a wedged engine must not stop us for ever."""
        seconds = max(_LEAST_CALL_SECONDS, self._settings.period)

        def late(_: object, limit: float) -> Failure:
            error = EngineError(f"the engine at {self._engine.address} did not answer within {limit:g} s", 504)
            return Failure(error)  # type: ignore[no-untyped-call]

        return Deferred.fromCoroutine(work).addTimeout(seconds, self._clock, late)

    # What was made before labels

    async def _by_heuristic(self, cutoff: float, dry_run: bool) -> list[ReapItem]:
        """Remove running containers without any label of ours that look like a job's."""
        settings = self._settings
        if not settings.mounts or not settings.name_pattern:
            return []
        pattern = re.compile(settings.name_pattern)
        recorded = {resource.identifier for resource in await self._ledger.resources(None, "container")}
        items = []
        for seen in await self._within(Lists(self._engine).get("container")) or ():
            looks = seen.state == "running" and any(pattern.fullmatch(name) for name in seen.names)
            if looks and seen.identifier not in recorded and seen.identifier not in self._reaper.own:
                thing = await self._within(self._suspect(seen.identifier, cutoff))
                if thing is not None:
                    items.append(await self._remove(thing, dry_run))
        return items

    async def _suspect(self, identifier: str, cutoff: float) -> Thing | None:
        """Return a container if all that the settings ask for holds of it."""
        document = await self._engine.get(inspect_path("container", identifier))
        if not isinstance(document, dict):
            return None
        seen = inspected("container", document)
        labelled = any(name.startswith("docker-tracker.") for name in seen.labels)
        sources = [str(mount.get("Source") or "") for mount in document.get("Mounts") or ()]
        mounted = any(
            f"{source}/".startswith(f"{path.rstrip('/')}/") for source in sources for path in self._settings.mounts
        )
        if labelled or not mounted or not 0 < seen.created < cutoff:
            return None
        return Thing(kind="container", identifier=seen.identifier, seen=seen, document=document)

    async def _remove(self, thing: Thing, dry_run: bool) -> ReapItem:
        if dry_run:
            return _item("container", thing.seen, "would remove", "")
        return await self._reaper.remove_alone(thing)


def _item(kind: str, seen: Seen, outcome: str, reason: str) -> ReapItem:
    name = seen.names[0] if seen.names else ""
    return ReapItem(kind=kind, identifier=seen.identifier, name=name, outcome=outcome, reason=reason)
