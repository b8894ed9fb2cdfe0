"""Removes what a job made, kind after kind, until a full listing shows nothing of it. Layer: tracking.

It is found by label on the engine and by the ledger, both. What is removed was inspected just before, and is told by
its full ID; for what has only a name the time of its making and its labels are compared, too.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore, FirstError, gatherResults
from twisted.internet.defer import TimeoutError as TooLateError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from docker_tracker.engine.catalogue import RESOURCE_KINDS
from docker_tracker.engine.inventory import JOB_ID_LABEL, Seen, inspect_path, inspected, uses
from docker_tracker.errors import EngineAnswerError, EngineError, LedgerError
from docker_tracker.image_work import ImageWorks
from docker_tracker.interfaces import IEngine, IJob, ILedger
from docker_tracker.job import Keep, ReapItem, ReapReport
from docker_tracker.job_settings import ReapSettings
from docker_tracker.own_container import OwnContainer
from docker_tracker.records import Reference, Relation, Resource
from docker_tracker.tracking.lists import LABELLED, SWARM, Lists, is_inherited
from docker_tracker.tracking.removal import Fate, Hold, Remover, Result, Surroundings, Thing
from docker_tracker.tracking.retention import RETAIN_LABEL, Retention
from docker_tracker.tracking.sharing import Sharing

_AT_ONCE: Final = 8  # calls to the engine for one job
_DAY: Final = 86400.0
_FIRST_PAUSE: Final = 0.25
_LAST_PAUSE: Final = 10.0
_MOST_DOUBLINGS: Final = 10  # of the pause: a float is no number for more than a thousand
_MOST_TRIES: Final = 6  # passes in a row in which nothing could be removed: seven seconds or so
_SETTLE_SECONDS: Final = 5.0  # that creates without an answer are waited for; later ones are the reconciler's
_LOCAL_SLACK: Final = 2.0  # some engines give whole seconds only
_REMOTE_SLACK: Final = 60.0  # another host's clock may be wrong by as much


class Reaper:
    """Removes what jobs made.

    :param engine: Has it.
    :param ledger: Tells what it is, and is told what went.
    :param clock: For waiting.
    :param settings: The table [reap].
    :param now: Seconds since the epoch.
    :param look: Looks for what creates led to whose answers were lost (`Watcher.look_now`).
    :param works: Under way, which keep images from being removed for a while.
    :param reconciled: Whether somebody removes later what is kept for them.
    :param proc: Where the kernel's process files are: they tell which container we are in.
    """

    log = Logger()

    def __init__(
        self,
        engine: IEngine,
        ledger: ILedger,
        clock: IReactorTime,
        settings: ReapSettings,
        now: Callable[[], float] = time.time,
        *,
        look: Callable[[], Awaitable[None]] | None = None,
        works: ImageWorks | None = None,
        reconciled: bool = True,
        proc: Path = Path("/proc"),
    ) -> None:
        self.engine, self.ledger, self.clock = engine, ledger, clock
        self.settings, self.now, self.look = settings, now, look
        self.works, self.reconciled = works or ImageWorks(), reconciled
        self.own = frozenset(OwnContainer(engine, proc).identifiers())
        self._locks: dict[str, tuple[DeferredLock, int]] = {}

    async def reap(self, job: IJob, *, dry_run: bool = False, made_before: float | None = None) -> ReapReport:
        """Remove what a job made; what goes wrong is in the report.

        Several reaps of one job wait for each other.

        :param dry_run: Only say what would be removed.
        :param made_before: Leave alone what is younger, in seconds since the epoch; None: nothing is.
        """
        lock, holders = self._locks.get(job.id, (DeferredLock(), 0))
        self._locks[job.id] = (lock, holders + 1)
        try:
            async with lock:
                report = await self._reap(_Course(self, job, dry_run, made_before))
                # What looks again and again has nothing to say of what is kept, and was.
                if made_before is None or dry_run or not report.complete or _count(report, "removed"):
                    self._say(report)
                return report
        finally:
            lock, holders = self._locks.pop(job.id)
            if holders > 1:
                self._locks[job.id] = (lock, holders - 1)

    async def remove_alone(self, thing: Thing) -> ReapItem:
        """Remove one thing that is nobody's, and say what became of it.

        :param thing: As it was just inspected.
        """
        settings = self.settings
        remover = Remover(
            self.engine, self.clock, DeferredSemaphore(1), settings.stop_seconds, settings.seconds, Hold(self.works, "")
        )
        result = await remover.remove(thing, Surroundings(recorded={}, kept=()))
        outcome = "removed" if result.fate is Fate.GONE else "left"
        return ReapItem(
            kind=thing.kind, identifier=thing.identifier, name=thing.name, outcome=outcome, reason=result.reason
        )

    async def _reap(self, course: _Course) -> ReapReport:
        began, start = self.now(), self.clock.seconds()
        seconds = self.settings.seconds
        working: Deferred[None] = Deferred.fromCoroutine(course.run())
        working.addTimeout(seconds, self.clock)
        try:
            await working
        except TooLateError:
            course.problem = f"it took more than {seconds:g} s" + (f": {course.problem}" if course.problem else "")
        return course.report(began, self.clock.seconds() - start)

    def _say(self, report: ReapReport) -> None:
        tell = self.log.info if report.complete else self.log.warn
        tell(
            "job {job}: {removed} {word}, {kept} kept, {left} left{problem}",
            job=report.job,
            id=report.job_id,
            removed=_count(report, "would remove" if report.dry_run else "removed"),
            word="would be removed" if report.dry_run else "removed",
            kept=_count(report, "kept"),
            left=_count(report, "left"),
            problem=f" ({report.problem})" if report.problem else "",
        )


def _count(report: ReapReport, outcome: str) -> int:
    return sum(item.outcome == outcome for item in report.items)


class _Course:
    """One reap on its way."""

    def __init__(self, reaper: Reaper, job: IJob, dry_run: bool, made_before: float | None) -> None:
        settings = reaper.settings
        self.job = job
        self.problem = ""
        self._reaper = reaper
        self._engine, self._ledger, self._clock = reaper.engine, reaper.ledger, reaper.clock
        self._dry_run = dry_run
        self._made_before = made_before
        self._images = settings.images
        self._rules = tuple(map(Keep.of, settings.keep))
        self._retention = Retention((*self._rules, *job.request.keep), settings.retain_days * _DAY)
        self._calls = DeferredSemaphore(_AT_ONCE)
        self._remover = Remover(
            self._engine, self._clock, self._calls, settings.stop_seconds, settings.seconds, self._hold()
        )
        self._items: dict[Reference, ReapItem] = {}
        self._recorded: dict[Reference, Resource] = {}
        self._ending: Collection[str] = ()
        self._containers: set[str] = set()  # the job's own
        self._works_ended = 0
        self._shared = False
        self._passes = 0
        self._unsettled = False
        self._lists = Lists(self._engine)

    def _hold(self) -> Hold:
        reaper, ended = self._reaper, self.job.ended
        is_over = ended is not None and reaper.now() - ended >= reaper.settings.hold_seconds
        hold = Hold(reaper.works, self.job.id, is_over=is_over)
        if self._made_before is not None:  # it comes again
            return attrs.evolve(hold, seconds=0.0)
        return hold if reaper.reconciled else attrs.evolve(hold, fate=Fate.LEFT)

    def report(self, began: float, seconds: float) -> ReapReport:
        """Return what was done up to now."""
        items = [
            attrs.evolve(item, reason="its turn did not come") if item.outcome == "left" and not item.reason else item
            for item in self._items.values()
        ]
        return ReapReport(
            job_id=self.job.id,
            job=self.job.name,
            dry_run=self._dry_run,
            began=began,
            seconds=seconds,
            passes=self._passes,
            items=tuple(items),
            problem=self.problem,
            shared=self._shared,
        )

    async def run(self) -> None:
        """Remove all, and say what else goes on."""
        await self._remove_all()
        if not self.problem:
            await self._tell_of_execs()

    async def _remove_all(self) -> None:
        """Remove all, pass after pass."""
        start = self._clock.seconds()
        tries = 0
        while True:
            try:
                things = await self._find()
                kept = await self._kept(things)
            except (EngineError, LedgerError) as error:
                self.problem = str(error)
                self._engine.forget()  # the one that answers next may be another one
                if self._dry_run or (isinstance(error, LedgerError) and tries >= _MOST_TRIES):
                    return
                tries += 1
                await self._pause(tries)
                continue
            self.problem = ""
            going = [thing for thing in things if thing.reference not in kept]
            for thing in things:
                self._note(thing, "kept" if thing.reference in kept else "left", kept.get(thing.reference, ""))
            if self._dry_run:
                for thing in going:
                    self._note(thing, "left" if thing.problem else "would remove", thing.problem)
                return
            if not going and not (self._unsettled and self._clock.seconds() - start < _SETTLE_SECONDS):
                return
            fates = await self._remove(going, kept) if going else {Fate.WAITING}
            if not fates.isdisjoint((Fate.GONE, Fate.OTHER)):
                tries = 0
                continue
            tries += 1
            if Fate.WAITING not in fates and (Fate.LEFT not in fates or tries >= _MOST_TRIES):
                return
            await self._pause(tries)

    async def _pause(self, tries: int) -> None:
        await deferLater(self._clock, min(_FIRST_PAUSE * 2 ** min(tries - 1, _MOST_DOUBLINGS), _LAST_PAUSE))

    def _note(self, thing: Thing, outcome: str, reason: str = "") -> None:
        self._items[thing.reference] = ReapItem(
            kind=thing.kind,
            identifier=thing.identifier,
            name=thing.name,
            outcome=outcome,
            reason=reason,
            attributes=thing.resource.attributes if thing.resource else {},
        )

    # Finding

    async def _find(self) -> list[Thing]:
        """Return all that is the job's and there, in the order in which it goes.

        :raises EngineError: the engine can't say.
        :raises LedgerError: the ledger can't.
        """
        self._works_ended = self._reaper.works.ended
        self._unsettled = bool(await self._ledger.lost_of(self.job.id))
        if self._unsettled and self._reaper.look is not None:
            await self._reaper.look()
        await self._ledger.check_engine(await self._engine.identity())
        recorded = await self._ledger.resources(self.job.id)
        self._recorded = {(resource.kind, resource.identifier): resource for resource in recorded}
        wanted: dict[Reference, Resource | None] = {
            reference: resource
            for reference, resource in self._recorded.items()
            if resource.relation is Relation.MADE and resource.kind != "exec"  # it ends with its container
        }
        self._lists = lists = Lists(self._engine, f"{JOB_ID_LABEL}={self.job.id}")
        await lists.check()
        for kind in sorted(LABELLED):
            for seen in await lists.get(kind) or ():
                if seen.labels.get(JOB_ID_LABEL) == self.job.id:
                    wanted.setdefault((kind, seen.identifier), None)
        found = await together(self._look_at(*reference, resource, lists) for reference, resource in wanted.items())
        self._passes += 1
        things = [thing for thing in found if thing is not None]
        self._containers.update(thing.identifier for thing in things if thing.kind == "container")
        await self._gone(wanted, {thing.reference for thing in things})
        return [thing for thing in things if not self._is_young(thing)]

    def _is_young(self, thing: Thing) -> bool:
        """Whether a thing is to be left alone yet."""
        before, now = self._made_before, self._reaper.now()
        if before is None or thing.created < before:
            return False
        # On this host that can only be what was made before the clock was set back.
        is_of_the_future = thing.created > now + (now - before)
        return not (is_of_the_future and self._is_local())

    def _is_local(self) -> bool:
        """Whether the engine's clock is ours."""
        return self._engine.address.startswith("unix:")

    async def _gone(self, wanted: dict[Reference, Resource | None], found: Collection[Reference]) -> None:
        """Note what is not there any more, or is not what it was."""
        missing = [reference for reference in wanted if reference not in found]
        resources = [resource for reference in missing if (resource := wanted[reference]) is not None]
        if resources and not self._dry_run:
            await self._ledger.gone(resources)
        for reference, item in self._items.items():
            # What is kept and not wanted any more has changed hands.
            if reference not in found and (item.outcome == "left" or (item.outcome == "kept" and reference in wanted)):
                self._items[reference] = attrs.evolve(item, outcome="removed", reason="")

    async def _look_at(self, kind: str, identifier: str, resource: Resource | None, lists: Lists) -> Thing | None:
        """Return a thing as it is now; None: it is not there, or is not the job's."""
        async with self._calls:
            try:
                document = await self._engine.get(inspect_path(kind, identifier))
            except EngineAnswerError as error:
                # Without a swarm nothing of one is left; with one that has no manager here, nobody knows.
                if kind in SWARM and await lists.get(kind) == []:
                    return None
                nothing = Seen(identifier, (), {}, 0.0)
                return Thing(kind=kind, identifier=identifier, seen=nothing, resource=resource, problem=str(error))
            if not isinstance(document, dict):
                return None
            seen = inspected(kind, document)
            if not self._is_the_jobs(kind, seen, resource):
                return None
            inherits = kind == "container" and resource is None
            if inherits and await is_inherited(self._engine, seen.image, self.job.id):
                return None
            wish = seen.labels.get(RETAIN_LABEL)
            # To retain an image is no wish to have what runs of it run on.
            if kind == "container" and wish and await self._has_from_image(seen.image, wish):
                seen = attrs.evolve(
                    seen, labels={name: seen.labels[name] for name in seen.labels.keys() - {RETAIN_LABEL}}
                )
        return Thing(kind=kind, identifier=identifier, seen=seen, document=document, resource=resource)

    async def _has_from_image(self, image: str, wish: str) -> bool:
        """Whether a container can have a wish to be retained from its image; if the engine cannot say, it counts."""
        try:
            return await is_inherited(self._engine, image, wish, RETAIN_LABEL)
        except EngineAnswerError:
            return False

    def _is_the_jobs(self, kind: str, seen: Seen, resource: Resource | None) -> bool:
        """Whether the labels say that the job made a thing, or the ledger does and the labels do not deny it."""
        if kind in LABELLED:
            owner = seen.labels.get(JOB_ID_LABEL)
            if owner:
                return owner == self.job.id
        return resource is not None

    # Keeping

    async def _kept(self, things: Sequence[Thing]) -> dict[Reference, str]:
        """Return why what stays does.

        :raises LedgerError: nobody knows what other jobs made.
        """
        now = self._reaper.now()
        kept: dict[Reference, str] = {}
        for thing in things:
            reason = self._retention.reason(thing.kind, thing.seen.labels, thing.names, thing.created, now)
            if thing.kind == "image" and not self._images:
                reason = "the configuration keeps images"
            if thing.kind == "volume" and self._came_back(thing):
                reason = "it was made after the job's volume of that name: if it is the job's all the same, remove it"
            if thing.kind == "container" and thing.identifier in self._reaper.own:
                reason = "the tracker itself runs in it"
            if reason:
                kept[thing.reference] = reason
        kept |= self._task_keepers(things, kept)
        # What is kept needs others, and they may need others.
        news = [thing for thing in things if thing.reference in kept]
        while news:
            user = news.pop()
            for thing in _used_by(user, things):
                if thing.reference not in kept:
                    kept[thing.reference] = user.needs
                    news.append(thing)
        sharing = Sharing(self._ledger, self.job, self._recorded, self._all_images, self._rules, self._dry_run)
        shared = await sharing.kept([thing for thing in things if thing.reference not in kept])
        self._shared = bool(shared)
        kept |= shared
        self._ending = sharing.ending
        return kept

    async def _all_images(self) -> Sequence[Seen]:
        return await self._lists.get("image") or ()

    def _came_back(self, thing: Thing) -> bool:
        """Whether a volume has nothing but the name of one that the job made."""
        if thing.resource is None or thing.seen.labels.get(JOB_ID_LABEL):
            return False
        slack = _LOCAL_SLACK if self._is_local() else _REMOTE_SLACK
        return thing.seen.created > thing.resource.created + slack

    @staticmethod
    def _task_keepers(things: Sequence[Thing], kept: Collection[Reference]) -> dict[Reference, str]:
        """Return the tasks of services that stay."""
        labels = "com.docker.swarm.service.id"
        return {
            thing.reference: "the service that it is a task of is kept"
            for thing in things
            if thing.reference not in kept and ("service", thing.seen.labels.get(labels)) in kept
        }

    # Execs

    async def _tell_of_execs(self) -> None:
        """Say which commands of the job run on in containers that are not its own: no call of the engine's ends one."""
        execs = [each for each in self._recorded.values() if each.kind == "exec" and each.relation is Relation.MADE]
        try:
            await together(self._look_at_exec(each) for each in execs)
        except (EngineError, LedgerError) as error:
            self._reaper.log.warn(
                "job {job}: whether its execs still run is not known: {error}", job=self.job.name, error=str(error)
            )

    async def _look_at_exec(self, resource: Resource) -> None:
        async with self._calls:
            found = await self._engine.get(inspect_path("exec", resource.identifier))
        if not isinstance(found, dict):
            if not self._dry_run:
                await self._ledger.gone([resource])
            return
        container = str(found.get("ContainerID") or resource.parent)
        if not found.get("Running") or container in self._containers:  # those end with their containers
            return
        async with self._calls:
            document = await self._engine.get(inspect_path("container", container))
        name = str(document.get("Name", "")).lstrip("/") if isinstance(document, dict) else ""
        self._items[resource.kind, resource.identifier] = ReapItem(
            kind=resource.kind,
            identifier=resource.identifier,
            outcome="kept",
            reason=f"it runs in the container {name or container[:12]}, which is not the job's, and the engine cannot"
            f" end it: it is process {found.get('Pid') or 'unknown'} of the engine's host",
            attributes=resource.attributes,
        )

    # Removing

    async def _remove(self, going: Sequence[Thing], kept: Collection[Reference]) -> set[Fate]:
        """Remove things, one kind after the other; return what became of any."""
        surroundings = Surroundings(
            recorded=self._recorded, kept=kept, ending=self._ending, works_ended=self._works_ended
        )
        fates: set[Fate] = set()
        for _, group in groupby(sorted(going, key=_order), _order):
            results = await together(self._remove_one(thing, surroundings) for thing in group)
            fates.update(result.fate for result in results)
        return fates

    async def _remove_one(self, thing: Thing, surroundings: Surroundings) -> Result:
        result = await self._remover.remove(thing, surroundings)
        if result.fate is Fate.OTHER:
            self._items.pop(thing.reference, None)
        elif result.fate is Fate.GONE:
            self._note(thing, "removed")
        else:
            self._shared |= result.fate is Fate.KEPT
            self._note(thing, "kept" if result.fate is Fate.KEPT else "left", result.reason)
        if result.fate in (Fate.GONE, Fate.OTHER):
            try:
                if result.fate is Fate.GONE:
                    await self._ledger.removed(thing.kind, [thing.identifier])
                elif thing.resource is not None:
                    await self._ledger.gone([thing.resource])
            except LedgerError as error:  # it is gone all the same; the next look will see it
                self._reaper.log.error(
                    "the end of {kind} {identifier} could not be recorded: {error}",
                    kind=thing.kind,
                    identifier=thing.identifier,
                    error=str(error),
                )
        return result


def _order(thing: Thing) -> tuple[int, bool]:
    """Return what things are sorted by: images go by their tags first."""
    return RESOURCE_KINDS[thing.kind].removal_order, thing.is_image_id


def _used_by(user: Thing, things: Iterable[Thing]) -> list[Thing]:
    """Return what something needs, of all that is the job's."""
    needed = uses(user.kind, user.document)
    if user.kind == "image":  # a tag needs its image, and that the step of the build before it
        needed |= {("image", name) for name in (user.seen.identifier, user.document.get("Parent")) if name}
    return [
        thing
        for thing in things
        if thing is not user
        and any((thing.kind, name) in needed for name in (thing.identifier, *thing.names, thing.seen.identifier))
    ]


async def together(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do things side by side; cancelling it cancels each."""
    try:
        return await gatherResults([Deferred.fromCoroutine(each) for each in work], consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
        raise
