"""Keeps the ledger true to the engine: follows its events, and looks at it after every reconnect.

Removals that no client of ours asked for are seen here, and intents whose answer was lost are settled here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred, DeferredList, DeferredLock, FirstError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from docker_tracker.engine.catalogue import RESOURCE_KINDS
from docker_tracker.engine.inventory import (
    IMAGE_JOB_ID_LABEL,
    JOB_ID_LABEL,
    Seen,
    inspect_path,
    nameless_ancestors,
    volumes_of,
)
from docker_tracker.engine.lines import BUILDS
from docker_tracker.errors import EngineError, LedgerError
from docker_tracker.interfaces import IEngine, ILedger
from docker_tracker.records import ALL_IMAGES, Intent, Relation, Resource, State
from docker_tracker.tracking.bell import Bell
from docker_tracker.tracking.lists import LABELLED, LISTED, Lists, is_inherited, mark_gone
from docker_tracker.tracking.worker import Worker

_KIND_OF: Final = {row.events_type: row for row in RESOURCE_KINDS.values() if row.events_type is not None}
# Their identifiers may come back, and an image's event does not say which tag went: so these are looked at.
_LOOKED_AT: Final = frozenset({"volume", "image", "plugin"})
_ALSO_GONE: Final = frozenset({"untag", "remove"})
_EXEC_ENDS: Final = frozenset({"exec_die", "exec_died"})  # Podman's word is the second

# The engine sends these only; a busy one has many others.
_FILTERS: Final = {
    "type": sorted(_KIND_OF),
    "event": sorted({*_EXEC_ENDS, *_ALSO_GONE, "rename"}.union(*(row.gone_actions for row in RESOURCE_KINDS.values()))),
}

_LEAST_SECONDS: Final = 1.0  # between two looks
_PRUNE_SECONDS: Final = 3600.0  # between two prunings of the ledger
_RETRY_SECONDS: Final = 5.0  # until a lost intent is looked for again


class Watcher(Worker):
    """Follows the engine as long as the service runs.

    :param engine: What is followed.
    :param ledger: What is kept true.
    :param clock: For waiting.
    :param now: Seconds since the epoch.
    :param labelled: Whether what jobs make bears their labels: then only the label says whose a thing is.
    :param look_seconds: How often everything is looked at, events or not: an engine drops events of slow readers.
    :param grace_seconds: How long after its loss an intent that led to nothing may still lead to something.
    :param backoff: From the number of failures in a row to the seconds until the next attempt.
    """

    log = Logger()
    defect = "the engine is not watched any more"

    def __init__(
        self,
        engine: IEngine,
        ledger: ILedger,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        labelled: bool,
        look_seconds: float = 300.0,
        grace_seconds: float = 60.0,
        backoff: Callable[[int], float] | None = None,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._clock = clock
        self._now = now
        self._labelled = labelled
        self._look_seconds = look_seconds
        self._grace_seconds = grace_seconds
        self._backoff = backoff or backoffPolicy(initialDelay=0.5, maxDelay=30.0, jitter=random.random)
        self._failures = 0
        self._complaint: type[EngineError | LedgerError] | None = None
        self._to_look_at: set[str] = set()
        self._looking = DeferredLock()
        self._pruned: float | None = None
        self._bell = Bell(clock)

    async def work(self) -> None:
        """Follow one connection after the other."""
        self._ledger.on_lost(self._bell.ring)
        while True:
            try:
                await self._follow()
                raise EngineError(f"the engine at {self._engine.address} ended its events")
            except (EngineError, LedgerError) as error:
                if not self.running:
                    return  # a call that was cancelled may end as one that broke off
                self._complain(error)
            self._engine.forget()
            delay = self._backoff(self._failures)
            self._failures += 1
            await deferLater(self._clock, delay)

    async def _follow(self) -> None:
        """Follow one connection's events, looking at the engine whenever there is reason to, until it ends."""
        await self._ledger.check_engine(await self._engine.identity())
        opened: Deferred[None] = Deferred()
        # From this second on, as the engine answers a moment before it begins to listen to its own events.
        parameters = {"since": str(int(self._now())), "filters": json.dumps(_FILTERS)}
        events = self._engine.lines("/events", parameters, self._line, lambda: opened.callback(None))
        both = [Deferred.fromCoroutine(_awaiting(events)), Deferred.fromCoroutine(self._look_on(opened))]
        try:
            await DeferredList(both, fireOnOneCallback=True, fireOnOneErrback=True, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
        finally:
            for one in both:
                one.cancel()

    async def _look_on(self, opened: Deferred[None]) -> None:
        await opened
        self._to_look_at.update(LISTED)
        while True:
            kinds, self._to_look_at = self._to_look_at, set()
            self._bell.forget()
            waiting = await self._look(kinds)
            self._content()
            await deferLater(self._clock, _LEAST_SECONDS)
            if not await self._bell.wait(_RETRY_SECONDS if waiting else self._look_seconds) and not waiting:
                self._to_look_at.update(LISTED)

    def _complain(self, error: EngineError | LedgerError) -> None:
        """Say once that the engine can't be followed, and once if it is for another reason."""
        fault = LedgerError if isinstance(error, LedgerError) else EngineError
        if self._complaint is not fault:
            self.log.error("the engine is not watched: {problem}; trying again", problem=str(error))
        self._complaint = fault

    def _content(self) -> None:
        """Say once that it can be followed again."""
        if self._complaint is not None:
            self.log.info("the engine at {address} is back", address=self._engine.address)
        self._complaint = None
        self._failures = 0

    def _line(self, line: bytes) -> Deferred[None] | None:
        """Take in one event."""
        event = _event(line)
        kind = _KIND_OF.get(str(event.get("Type")))
        action = event.get("Action")
        actor = event.get("Actor")
        if kind is None or not isinstance(actor, dict) or not isinstance(action, str):
            return None
        identifier, attributes = actor.get("ID"), actor.get("Attributes")
        if kind.name in _LOOKED_AT:
            if action in kind.gone_actions or action in _ALSO_GONE:
                self._to_look_at.add(kind.name)
                self._bell.ring()
            return None
        if not isinstance(identifier, str):
            return None
        attributes = attributes if isinstance(attributes, dict) else {}
        if action in kind.gone_actions or action in _ALSO_GONE:
            return self._ledger.removed(kind.name, [identifier])
        if kind.name == "container" and action == "rename":
            return self._ledger.renamed("container", identifier, str(attributes.get("name", "")).removeprefix("/"))
        if action in _EXEC_ENDS and attributes.get("execID"):
            return self._ledger.removed("exec", [str(attributes["execID"])])
        return None

    async def _look(self, kinds: Iterable[str]) -> bool:
        """Compare ledger and engine; return whether lost intents are left to be looked for again.

        One at a time.
        """
        async with self._looking:
            return await self._look_now(kinds)

    async def look_now(self) -> None:
        """Look for what lost intents led to, whether the service runs or not.

        :raises EngineError: the engine cannot be looked at.
        :raises LedgerError: what was found cannot be written down.
        """
        await self._look(())

    async def _look_now(self, kinds: Iterable[str]) -> bool:
        """Compare ledger and engine.

        The ledger is read first: what it has then and the engine has not afterwards is gone.
        """
        began = self._now()
        await self._ledger.settle_owed()
        known = await self._ledger.resources()
        lost = await self._ledger.lost()
        lists = Lists(self._engine)
        await lists.check()
        kinds = {*kinds}
        await mark_gone(self._ledger, lists, known, kinds)
        owned = {(resource.kind, resource.identifier) for resource in known}
        waiting = False
        # What an intent names is taken before the intents that name nothing get the rest.
        for intent, recorded in sorted(lost, key=lambda each: _names_its_own(each[0]), reverse=True):
            waiting |= not await self._settle(intent, recorded, owned, lists)
        if self._labelled:
            made = {(resource.kind, resource.identifier) for resource in known if resource.relation is Relation.MADE}
            await self._adopt(kinds.union(intent.kind for intent, _ in lost), made, lists, began)
        if self._pruned is None or self._clock.seconds() - self._pruned >= _PRUNE_SECONDS:
            self._pruned = self._clock.seconds()
            await self._ledger.prune()
        return waiting

    async def _adopt(self, kinds: Iterable[str], made: set[tuple[str, str]], lists: Lists, began: float) -> None:
        """Record what bears a job's label and is not known to be made by one: it is that job's, whatever led to it.

        What an adopted container has mounted is used only: it may be another container's.
        """
        found: list[Resource] = []
        volumes: list[Resource] = []
        for kind in sorted(LABELLED.intersection(kinds)):
            for seen in await lists.get(kind) or ():
                owner = seen.labels.get(JOB_ID_LABEL)
                if isinstance(owner, str) and owner and (kind, seen.identifier) not in made:
                    if kind == "container" and await is_inherited(self._engine, seen.image, owner):
                        continue
                    name = seen.names[0] if seen.names else ""
                    found.append(Resource(kind=kind, identifier=seen.identifier, name=name, job_id=owner))
                    for volume in seen.volumes:
                        used = Resource(kind="volume", identifier=volume, name=volume, job_id=owner)
                        volumes.append(attrs.evolve(used, relation=Relation.USED))
        for resource in await self._ledger.adopt([*found, *volumes], began) if found else ():
            self._to_look_at.add(resource.kind)  # its end may have been told before it was recorded
            self._bell.ring()
            self.log.info(
                "found {kind} {identifier} by its label",
                kind=resource.kind,
                identifier=resource.identifier,
                job=resource.job_id,
            )

    async def _settle(
        self, intent: Intent, recorded: list[Resource], owned: set[tuple[str, str]], lists: Lists
    ) -> bool:
        """Find what a lost intent led to, and add it to ``owned``; return False if there may be more to come.

        An intent that names what it makes leads to nothing else. One that does not leads to one thing that is nobody's
        and bears the job's label: of several, each waits for one of its own, until its time is over.
        """
        found: list[Resource] = []
        told = {resource.identifier for resource in recorded if resource.relation is Relation.MADE}
        kinds = {intent.kind, *(kind for kind, _ in intent.names)}
        for kind in [kind for kind in LISTED if kind in kinds]:
            for seen in await lists.get(kind) or ():
                taken = any(resource.kind == intent.kind for resource in (*found, *recorded))
                if kind == "image":
                    found += _images_led_to(intent, seen, owned, told)
                else:
                    found += _led_to(intent, kind, seen, owned, self._labelled, taken)
        if ALL_IMAGES in intent.before:
            found += _steps(intent, (*found, *recorded), await lists.get("image") or ())
        owned.update((resource.kind, resource.identifier) for resource in found)
        for container in [resource for resource in (*found, *recorded) if resource.kind == "container"]:
            inspected = await self._engine.get(inspect_path("container", container.identifier))
            for name in volumes_of(inspected):
                found.append(intent.led_to("volume", name, name=name))
        # Either way: a clock that is set back must not have it looked for until it has caught up.
        late = abs(self._now() - (intent.settled or 0.0)) >= self._grace_seconds
        if not late and intent.kind in LISTED and not _is_all(intent, found, recorded):
            await self._ledger.record(intent.number, found)
            return False
        if found or recorded:
            await self._ledger.record(intent.number, found, State.DONE)
            self.log.info(
                "found {count} resources of a {operation} whose answer was lost",
                count=len({resource.identifier for resource in (*found, *recorded)}),
                operation=intent.operation,
                exchange=intent.exchange,
                job=intent.job_id,
            )
        else:
            await self._ledger.settle(intent.number, State.FAILED)
        return True


def _names_its_own(intent: Intent) -> bool:
    return any(kind == intent.kind for kind, _ in intent.names)


def _is_all(intent: Intent, found: Iterable[Resource], recorded: Iterable[Resource]) -> bool:
    """Return whether nothing else can come of an intent.

    Volumes are there before their container, an image that was there may yet get a successor, an archive may have any
    number of them, and what is known of a build without a name may be a step of it.
    """
    if intent.operation == "image_load":
        return False
    if intent.operation in BUILDS:
        both = (*found, *recorded)
        made = {resource.identifier for resource in both if resource.relation is Relation.MADE}
        named = [resource for resource in both if ("image", resource.identifier) in intent.names]
        # A tag that was there is all only where it leads to something new.
        return any(tag.identifier in made or tag.parent in made for tag in named)
    own = [resource for resource in (*found, *recorded) if resource.kind == intent.kind]
    return any(intent.kind != "image" or resource.relation is Relation.MADE for resource in own)


def _led_to(
    intent: Intent, kind: str, seen: Seen, owned: set[tuple[str, str]], labelled: bool, taken: bool
) -> list[Resource]:
    """Return what a thing on the engine is to a lost intent: nothing, or resources that it led to.

    :param labelled: Whether what jobs make bears their label.
    :param taken: Whether the intent has led to a thing of its kind already.
    """
    owner = seen.labels.get(JOB_ID_LABEL)
    # Some engines give whole seconds only.
    young = seen.created >= int(intent.started)
    named = any((kind, name) in intent.names for name in seen.names)
    name = seen.names[0] if seen.names else ""
    identifier = name if kind == "plugin" else seen.identifier
    new = (kind, identifier) not in owned
    relation = Relation.MADE
    if owner == intent.job_id:
        # The label is proof, whatever the engine's clock says.
        first = kind == intent.kind and not _names_its_own(intent) and not taken
        ours = (named and (new or young)) or (first and new)
    elif kind in ("volume", "plugin"):
        ours = named
        there_before = (kind, identifier) in intent.before or bool(owner) or (kind == "volume" and not young)
        if labelled and intent.kind == kind == "volume":
            # The engine loses our label only if it ends within the create; later ones are anybody's.
            there_before |= seen.created > (intent.settled or 0.0)
        relation = Relation.USED if there_before else Relation.MADE
    else:
        ours = named and young and not owner and not labelled
    return [Resource(kind=kind, identifier=identifier, name=name, relation=relation)] if ours else []


def _images_led_to(
    intent: Intent, seen: Seen, owned: set[tuple[str, str]], told: Collection[str] = ()
) -> list[Resource]:
    """Return an image and those of its tags that a lost intent led to.

    What an archive has in it, and an image without a name, is known to nobody but the engine: what is new since is
    the job's only by its label, and else used, as it may be anybody's.

    :param told: What the part of the answer that was seen told of.
    """
    tags = [name for name in seen.names if ("image", name) in intent.names or name in told]
    known = ("image", seen.identifier) in owned
    listed = ALL_IMAGES in intent.before
    new = ("image", seen.identifier) not in intent.before and not known
    labelled = seen.labels.get(IMAGE_JOB_ID_LABEL) == intent.job_id and intent.operation != "image_load"
    if tags or (labelled and new):
        found = [intent.led_to("image", tag, name=tag, parent=seen.identifier) for tag in tags]
        if intent.operation == "image_tag":
            return found
        return [intent.led_to("image", seen.identifier, labelled=labelled), *found]
    if listed and new and not intent.names:
        image = Resource(kind="image", identifier=seen.identifier, relation=Relation.USED)
        others = [name for name in seen.names if "@" not in name]
        return [image, *(attrs.evolve(image, identifier=tag, name=tag, parent=seen.identifier) for tag in others)]
    return []


def _steps(intent: Intent, resources: Iterable[Resource], images: Sequence[Seen]) -> list[Resource]:
    """Return the nameless steps that led to what a lost intent made; where all that was there before is known."""
    made = [each.identifier for each in resources if each.kind == "image" and each.relation is Relation.MADE]
    steps = [("image", step.identifier) for step in nameless_ancestors(images, made)]
    return [intent.led_to(*step) for step in steps if step not in intent.before]


def _event(line: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


async def _awaiting(something: Any) -> Any:
    return await something
