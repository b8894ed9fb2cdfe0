"""Interceptor ``recorder``: what a job makes is in the ledger before the job knows of it; answers ``GET /tracker``.

The intent is written before a create is forwarded, the ID before the answer is released. What the answer does not
tell (anonymous volumes, the tags of an image) is looked up after it, for all containers of a moment at once; if that
fails, or the answer is lost, the intent is left to the watcher. The removal of a container waits for that look, which
would find no volumes any more. Removals that pass by are written down before the client sees their answer. Of a build
by BuildKit the answer tells the image; what one led to that failed or was given up is looked for by the watcher, since
an image whose push failed is there all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from docker_tracker.builds import BuildOutcome, BuildRequest, BuildStep
from docker_tracker.config import MIB
from docker_tracker.engine import query
from docker_tracker.engine.document import Document
from docker_tracker.engine.identity import is_podman
from docker_tracker.engine.inventory import (
    IMAGE_JOB_ID_LABEL,
    JOB_ID_LABEL,
    Seen,
    container_name,
    donors,
    infra_container,
    inspect_path,
    inspected,
    is_inspectable,
    list_call,
    listed,
    nameless_ancestors,
    volumes_of,
)
from docker_tracker.engine.lines import BUILDS, STEP_DIGITS, created_by_line, steps_of_line
from docker_tracker.engine.naming import named_by, removed_by_answer
from docker_tracker.engine.operation import Call, Effect, Operation, RequestBody, ResponseBody
from docker_tracker.engine.quiet_build import PodmansQuietBuild, QuietBuild, tells_id
from docker_tracker.engine.reference import familiar
from docker_tracker.engine.start import check_start
from docker_tracker.errors import EngineAnswerError, EngineError, EngineProtocolError, LedgerError, RefusedError
from docker_tracker.exchange import Answer, Exchange, Outcome, Stage
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.image_work import ImageWork, ImageWorks
from docker_tracker.interceptor import Interceptor, NoSettings, Plugin
from docker_tracker.interfaces import IDaemon, IEngine, IJob, ILedger
from docker_tracker.records import ALL_IMAGES, PULL, Intent, Reference, Relation, Resource, State
from docker_tracker.redaction import redact_command

_NOTE: Final = "recorder"
_BUILDS_NOTE: Final = "recorder's builds"
_WORK_NOTE: Final = "recorder's image work"
_GOOD: Final = range(200, 300)
_BROKEN: Final = range(500, 600)
_MOST_TASKS: Final = 256  # look-ups after answers; further ones are the watcher's
_MOST_NEW: Final = 1024  # containers that wait for a look; likewise
_MOST_TOGETHER: Final = 64  # containers that one look tells of; their IDs stand in its query
_LOOK_SECONDS: Final = 0.1  # that a new container waits for others to share its look
_REMOVAL_SECONDS: Final = 2.0  # that a build or a load waits for images to be removed
# That a build waits for the list of what is there before, and then for single names: it can wait two in all.
_BEFORE_SECONDS: Final = 0.5
_MOST_LINES: Final = 1000  # images that one answer in lines may tell of
_MOST_STEPS: Final = 1000  # of one build, that wait for a look
_CLOCK_SLACK: Final = 60.0  # by which the clock of another host's engine may be wrong
_STEPS_SECONDS: Final = 2.0  # that the end of a job waits for a look at what its builds went through
_MOST_TAGS: Final = 1000  # that one build may ask for: each is a row of the ledger
_LONGEST_TAG: Final = 512  # characters, with the registry's name
_COMMIT: Final = "container_commit"  # beside those that answer in lines, the create that makes a new image
_MOST_CHANGES: Final = 32  # places of a request that are named as changed
_BUILDS: Final = "grpc"
_BUILD: Final = "image_build"
_BUILDKIT: Final = "2"  # a version of the classic builder's call that is none of its own
_TO_THE_ENGINE: Final = ("moby", "image")  # the exporters that make images there
_NAMES: Final = "name"  # their option for the tags, and what tells of them in the answer (buildkit: exptypes)
_ANSWERED_NAMES: Final = "image.name"
_ANSWERED_ID: Final = "containerimage.digest"  # the image's ID, whichever store the engine has
_IN_PODS: Final = "libpod_container_create"
# What may be given images that are there, without a word before it has them.
_WORKS: Final = (*BUILDS, "image_load", "libpod_image_load")
_IMPORT: Final = "image_create"  # a pull with fromImage
_LIBPOD_PULL: Final = "libpod_image_pull"
_TAGS: Final = ("image_tag", "libpod_image_tag")
_RENAMES: Final = ("container_rename", "libpod_container_rename")
_PAGES: Final = ("tracker_page", "tracker_other")
# Their names are no prefixes of anything, unlike those of all other kinds.
_EXACT: Final = ("volume", "plugin")


@attrs.define(eq=False)
class _Course:
    """How far the recording of one exchange has come.

    :ivar intent: What was written down.
    :ivar number: The ledger's, of the intent.
    :ivar engine: Which one is asked, as `IEngine.identity` says.
    :ivar made: What the answer told of.
    :ivar settled: Whether nothing is left to do.
    :ivar is_brief: Whether it is a container that the engine removes when it ends.
    :ivar late: The images that were there, if they were listed only after a build was let go on.
    :ivar there: The images that were there, by the first digits of their IDs; None: nobody has asked yet.
    :ivar told: The images that the answer of a build has told of, by the first digits of their IDs.
    :ivar cached: Whether the one that it tells of next was there.
    :ivar failed: Whether the answer, in lines, told of an error.
    :ivar steps: What it tells of and nobody has looked at yet.
    :ivar went: Whether something was recorded of that.
    :ivar attributes: What is recorded with it.
    :ivar looking: Held by who looks at them.
    """

    intent: Intent
    number: int
    engine: str
    made: list[Resource] = attrs.field(factory=list)
    settled: bool = False
    is_brief: bool = False
    late: Sequence[Reference] = ()
    there: Collection[str] | None = None
    told: set[str] = attrs.field(factory=set)
    cached: bool = False
    failed: bool = False
    steps: list[Reference] = attrs.field(factory=list)
    went: bool = False
    attributes: Mapping[str, str] = attrs.field(factory=dict)
    looking: DeferredLock = attrs.field(factory=DeferredLock)


@attrs.frozen(eq=False)
class _Images:
    """The images of the engine at one moment.

    :ivar seen: What it lists.
    :ivar before: The same as an intent has it, for all that share the list.
    """

    seen: Sequence[Seen]
    before: tuple[Reference, ...]


class Recorder(Interceptor):
    """Records what a job makes.

    :param job_id: Of the job.
    :param job: Its name.
    :param ledger: Where it is recorded.
    :param engine: For the look-ups.
    :param clock: For delays.
    :param now: Seconds since the epoch.
    :param works: Is told of classic builds and loads.
    :param owns_pulled: Whether images that the job pulls are its own.
    :param quiet_bytes: That are kept of what a quiet build says, for if it fails.
    """

    fail_closed = True
    log = Logger()

    def __init__(
        self,
        job_id: str,
        job: str,
        ledger: ILedger,
        engine: IEngine,
        clock: IReactorTime,
        now: Callable[[], float],
        works: ImageWorks,
        *,
        owns_pulled: bool = False,
        quiet_bytes: int = 4 * MIB,
    ) -> None:
        self._job_id = job_id
        self._job = job
        self._ledger = ledger
        self._engine = engine
        self._clock = clock
        self._now = now
        self._works = works
        self._owns_pulled = owns_pulled
        self._quiet_bytes = quiet_bytes
        self._tasks: set[Deferred[None]] = set()
        self._stepping: set[Deferred[None]] = set()
        self._new: list[_Course] = []
        self._looked_at: Sequence[_Course] = ()
        self._timer: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []
        self._asking: list[Deferred[_Images]] = []
        self._listing: Deferred[Any] | None = None

    def wants(self, operation: Operation) -> Stage:
        """All creates, removals and renames, builds, and our own page; nothing else."""
        if operation.name == _BUILDS:
            return Stage.BUILD_REQUEST | Stage.BUILD_FINISHED
        if operation.name in _PAGES:
            return Stage.REQUEST_HEAD
        if operation.name in _RENAMES:
            return Stage.RESPONSE_HEAD
        if operation.name == "container_start":
            return Stage.REQUEST_JSON
        if operation.kind is None:
            return Stage.NOTHING
        if operation.effect is Effect.CREATE:
            before = Stage.REQUEST_JSON if operation.request is RequestBody.JSON else Stage.REQUEST_HEAD
            return before | _AFTER[operation.response] | Stage.FINISHED
        before = Stage.REQUEST_HEAD if operation.kind in ("container", "pod") else Stage.NOTHING
        if operation.effect is Effect.PRUNE or (operation.kind == "image" and operation.effect is Effect.REMOVE):
            return Stage.RESPONSE_JSON | before
        return Stage.RESPONSE_HEAD | before if operation.effect is Effect.REMOVE else Stage.NOTHING

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | Answer | None:
        """Write down the intent, let a container's removal wait for its look, or answer our own page.

        Podman's own containers for the steps of builds are on no list, and those of builds that fail stay, in the way
        of the images: it is told to remove them, as its command line does (podman: ``cmd/podman/common/build.go``).
        A quiet build would not tell of its steps: it is made to, and its client gets what a quiet one answers.
        """
        if exchange.call.operation.name in _PAGES:
            return await self._page(exchange, head)
        if exchange.call.operation.effect is Effect.CREATE:
            if exchange.call.operation.name in _WORKS and query.get(exchange.call.query, "version") != _BUILDKIT:
                await self._begin(exchange)
            course = await self._intend(exchange, None)
            if exchange.call.operation.name in BUILDS:
                return self._outspoken(exchange, head, is_podman(course.engine))
        else:
            await self._looked()
        return None

    def _outspoken(self, exchange: Exchange, head: RequestHead, podman: bool) -> RequestHead | None:
        """Return the head of a build that is not quiet and leaves none of Podman's containers; None: it is the same."""
        changed = _with_parameter(head, "forcerm", "1") if podman else head
        can_tell = podman or (_WORK_NOTE in exchange.notes and tells_id(exchange.call))
        if can_tell and query.flag(exchange.call.query, "q"):
            exchange.summary = PodmansQuietBuild() if podman else QuietBuild(self._quiet_bytes)
            changed = _with_parameter(changed, "q", "0")
        return None if changed is head else changed

    async def request_json(self, exchange: Exchange, document: Document) -> None:
        """Write down the intent; refuse a start that would make volumes on the way."""
        if exchange.call.operation.name == "container_start":
            check_start(document)
        else:
            await self._intend(exchange, document)

    def response_head(self, exchange: Exchange, head: ResponseHead) -> None:
        """Write down what is known without a body: tags and plugins made, things removed, containers renamed."""
        if head.status not in _GOOD:
            return
        call = exchange.call
        if call.operation.effect is Effect.REMOVE:
            reference = _reference(call)
            kind = call.operation.kind or ""
            if kind in _EXACT:
                self._told(self._ledger.removed(kind, [familiar(reference) if kind == "plugin" else reference]))
            else:
                self._told(self._ledger.removed_reference(kind, reference))
        elif call.operation.name in _RENAMES:
            name = (query.get(call.query, "name") or "").removeprefix("/")
            self._told(self._ledger.renamed("container", _reference(call), name))
        else:
            course = _course(exchange)
            self._lead(exchange, course, course.intent.names)
            course.settled = course.intent.operation not in _TAGS  # which image it leads to is looked up
            self._told(self._ledger.record(course.number, course.made, State.DONE if course.settled else None))

    async def response_json(self, exchange: Exchange, document: Document) -> None:
        """Write down the ID, or what is gone."""
        call = exchange.call
        if call.operation.effect is not Effect.CREATE:
            self._removed(call, document)
            return
        course = _course(exchange)
        identity = call.operation.identity
        identifier = document.get(identity.key) if identity is not None else None
        if not isinstance(identifier, str) or not identifier:
            return  # the engine says nothing that can be recorded: the intent will be lost
        made = self._answered(exchange, course.intent, identifier, document)
        # A container's intent stays open until its volumes are known.
        state = None if call.operation.kind == "container" else State.DONE
        await self._ledger.record(course.number, made, state)
        course.made = made
        course.settled = state is not None
        exchange.notes["resource"] = identifier

    def response_line(self, exchange: Exchange, document: Document) -> None:
        """Write down the images that a line tells of."""
        call = exchange.call
        course = _course(exchange)
        quiet = call.operation.name == _BUILD and exchange.summary is None and query.flag(call.query, "q")
        created = [(kind, familiar(name)) for kind, name in created_by_line(call.operation, document, quiet)]
        if created and len(course.made) < _MOST_LINES:
            self._told(self._ledger.record(course.number, self._lead(exchange, course, created)))
        course.failed |= isinstance(document.get("error"), str)
        if call.operation.name in BUILDS:
            self._note_steps(exchange, course, document)

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> None:
        """Write down the intent of a build that is to make an image.

        :raises RefusedError: it cannot be written down, or is to have too many tags.
        """
        exporters = [each for each in request.exporters if each.kind in _TO_THE_ENGINE]
        if request.step is BuildStep.SOLVE and exporters:
            lists = [each.attributes.get(_NAMES, "") for each in exporters]
            if sum(each.count(",") + bool(each) for each in lists) > _MOST_TAGS:
                raise RefusedError(f"the build's image is to have more than {_MOST_TAGS} tags: give it fewer", 400)
            names = _tags(*lists)
            late: list[Reference] = []
            course = await self._intended(exchange, "image", names, partial(self._images_before_a_build, names, late))
            course.late = late
            _builds(exchange)[request.call] = course

    async def build_finished(self, exchange: Exchange, request: BuildRequest, outcome: BuildOutcome) -> None:
        """Write down the image and its tags, before the client knows of them."""
        course = _builds(exchange).pop(request.call, None)
        if course is None:
            return
        identifier = outcome.answer.get(_ANSWERED_ID)
        if outcome.status != 0 or not identifier:
            state = State.LOST if outcome.forwarded else State.FAILED
            self._told(self._ledger.settle(course.number, state))
            return
        if course.late:  # which was before the image was told of: what is not in it is new, but for the names
            late = (reference for reference in course.late if reference not in course.intent.names)
            course.intent = attrs.evolve(course.intent, before=(*course.intent.before, *late))
        intent, attributes = course.intent, _who(exchange)
        names = dict.fromkeys((*intent.names, *_tags(outcome.answer.get(_ANSWERED_NAMES, ""))))
        course.made = [
            intent.led_to("image", identifier, attributes=attributes),
            *(intent.led_to("image", tag, name=tag, parent=identifier, attributes=attributes) for _, tag in names),
        ]
        known = ALL_IMAGES in intent.before  # else the image's label is still to be asked for
        await self._ledger.record(course.number, course.made, State.DONE if known else None)
        if not known:
            self._later([course], self._look_at_images(course))

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        """Settle the intent, or look up what is still missing."""
        rest = self._finish(exchange, outcome)
        work: ImageWork | None = exchange.notes.get(_WORK_NOTE)
        if work is not None:
            rest.addBoth(lambda _: self._works.end(work))

    def _finish(self, exchange: Exchange, outcome: Outcome) -> Deferred[None]:
        course: _Course | None = exchange.notes.get(_NOTE)
        if course is None or course.settled:
            return succeed(None)
        kind = course.intent.kind
        if kind == "container" and course.made:
            self._look_soon(course)
        elif exchange.sent is None or (exchange.response is not None and exchange.response.status not in _GOOD):
            # A container's create that fails late leaves the volumes that it brought along.
            left = any(name not in course.intent.before for name in course.intent.names if name[0] == "volume")
            state = State.LOST if left and exchange.sent is not None else State.FAILED
            self._told(self._ledger.settle(course.number, state))
        elif outcome is Outcome.COMPLETED and course.intent.operation in _TAGS:
            return self._later([course], self._look_at_tags(course))
        elif outcome is Outcome.COMPLETED and kind == "image":
            return self._later([course], self._look_at_images(course))
        elif outcome is Outcome.COMPLETED and kind == "plugin":
            return self._later([course], self._look_at_plugins(course))
        elif course.steps:
            losing = self._later([course], self._lose(course))
            self._stepping.add(losing)
            return losing.addBoth(lambda _: self._stepping.discard(losing))
        else:
            self._told(self._ledger.settle(course.number, State.LOST))
        return succeed(None)

    async def stop(self) -> None:
        """End what is looked up, and leave its intents to the watcher: a reap that is next waits for none of them.

        But for the steps of builds, which only we know of; for some seconds.
        """
        courses, self._new = self._new, []
        self._give_up(courses)
        for look in [look.addTimeout(_STEPS_SECONDS, self._clock) for look in self._stepping]:
            await look
        if self._timer is not None:
            self._timer.cancel()
        if self._listing is not None:
            self._listing.cancel()
        for task in [*self._tasks]:
            task.cancel()

    async def _begin(self, exchange: Exchange) -> None:
        """Say that a build or a load begins, and wait a moment for images that are being removed.

        A moment is enough: their IDs go first, what takes long are their layers (moby: ``image/store.go``).
        """
        work = exchange.notes[_WORK_NOTE] = ImageWork(self._job_id, self._job)
        beginning = Deferred.fromCoroutine(self._works.begin(work))
        with suppress(DeferredTimeout):
            await beginning.addTimeout(_REMOVAL_SECONDS, self._clock)

    async def _intend(self, exchange: Exchange, document: Document | None) -> _Course:
        call = exchange.call
        names = named_by(call, document)
        before = partial(self._before, call, names, document)
        course = await self._intended(exchange, call.operation.kind or "", names, before)
        # Engines up to 20.10 read it at the top, too.
        course.is_brief = document is not None and any(
            bool(document.get(*top, "AutoRemove")) for top in (("HostConfig",), ())
        )
        exchange.notes[_NOTE] = course
        return course

    async def _intended(
        self,
        exchange: Exchange,
        kind: str,
        names: tuple[Reference, ...],
        before: Callable[[], Coroutine[Any, Any, tuple[Reference, ...]]],
    ) -> _Course:
        """Write down an intent.

        :param before: Looks what is there.
        :raises RefusedError: it cannot be written down.
        """
        call = exchange.call
        operation = call.operation.name
        if not self._owns_pulled and (
            operation == _LIBPOD_PULL or (operation == _IMPORT and query.get(call.query, "fromImage"))
        ):
            operation = PULL
        try:
            engine = await self._engine.identity()
            intent = Intent(
                job_id=self._job_id,
                operation=operation,
                kind=kind,
                names=names,
                before=await before(),
                exchange=exchange.id,
                started=self._now(),
            )
            number = await self._written(self._ledger.intend(intent, engine))
        except EngineError as error:
            raise RefusedError(f"nothing was made: {error}", error.status) from error
        except LedgerError as error:
            raise RefusedError(f"nothing was made, as it could not be recorded: {error}", 503) from error
        return _Course(intent, number, engine)

    def _written(self, writing: Deferred[int]) -> Deferred[int]:
        """Return the number of an intent; if the client leaves meanwhile, it is settled once it is written."""
        answer: Deferred[int] = Deferred()

        def done(result: int | Failure) -> None:
            if not answer.called:
                answer.callback(result)
            elif not isinstance(result, Failure):
                self._told(self._ledger.settle(result, State.FAILED))

        writing.addBoth(done)
        return answer

    async def _before(
        self, call: Call, names: tuple[Reference, ...], document: Document | None
    ) -> tuple[Reference, ...]:
        """Return what of all that a create may lead to is there already."""
        operation = call.operation
        if operation.kind == "image" and (operation.response is ResponseBody.LINES or operation.name == _COMMIT):
            return await self._images_before()
        found = []
        for kind, name in names:
            if kind in ("volume", "image", "plugin"):
                found += [(kind, name)] if await self._may_be_there(kind, name) else []
        if document is not None and operation.kind == "container":
            pod = document.get("pod") if operation.name == _IN_PODS else None
            for container in [*donors(document), *await self._infra(pod)]:
                found += [("volume", name) for name in volumes_of(await self._donor(container))]
        return tuple(found)

    async def _images_before(self) -> tuple[Reference, ...]:
        return (await self._images_now()).before

    async def _images_before_a_build(
        self, names: tuple[Reference, ...], late: list[Reference]
    ) -> tuple[Reference, ...]:
        """As `_images_before`, but a build cannot wait long.

        An engine that is slow to list its images is asked for the names alone; what is not known in time counts as
        there before.

        :param late: Gets what is listed too late.
        """
        given: Deferred[tuple[Reference, ...]] = Deferred()

        def done(result: tuple[Reference, ...] | Failure) -> None:
            if not given.called:
                given.callback(result)
            elif not isinstance(result, Failure):
                late.extend(result)
            elif not result.check(CancelledError):  # type: ignore[no-untyped-call]
                self._complain(result, "what was there before a build could not be listed")

        Deferred.fromCoroutine(self._images_before()).addBoth(done)
        try:
            return await given.addTimeout(_BEFORE_SECONDS, self._clock)
        except DeferredTimeout:
            before = [*names]
        asking = Deferred.fromCoroutine(self._drop_new(before))
        with suppress(DeferredTimeout):  # the others stay
            await asking.addTimeout(_BEFORE_SECONDS, self._clock)
        return tuple(before)

    async def _drop_new(self, references: list[Reference]) -> None:
        """Take out one after the other of what is not there."""
        for reference in [*references]:
            if not await self._may_be_there(*reference):
                references.remove(reference)

    async def _images_now(self) -> _Images:
        """Return the images that are there now; all that ask while a list is under way share the next one."""
        answer: Deferred[_Images] = Deferred()
        self._asking.append(answer)
        if self._listing is None:
            self._list()
        return await answer

    def _list(self) -> None:
        asking, self._asking = self._asking, []
        self._listing = listing = Deferred.fromCoroutine(self._images())

        def done(result: _Images | Failure) -> None:
            self._listing = None
            for answer in asking:
                if not answer.called:  # its client has not left
                    answer.callback(result)
            if self._asking:
                self._list()

        listing.addBoth(done)

    async def _may_be_there(self, kind: str, name: str) -> bool:
        """Return whether something has a client's name; of what the engine won't say, nothing is claimed as made."""
        try:
            return not is_inspectable(name) or await self._engine.get(inspect_path(kind, name)) is not None
        except EngineAnswerError as error:  # a name that the engine will refuse: that is its to say
            # One that is told to stop can't say any more what it has, and makes volumes still (moby: volume/service).
            if kind == "volume" and error.answered in _BROKEN:
                raise
            return True

    async def _infra(self, pod: Any) -> list[str]:
        """Return the container whose volumes all of a pod's containers have, if it is one that the engine has."""
        if not isinstance(pod, str) or not is_inspectable(pod):
            return []
        infra = infra_container(await self._engine.get(inspect_path("pod", pod)))
        return [infra] if infra else []

    async def _donor(self, name: str) -> Any:
        """Return the container whose volumes a new one will have; None if there is none of that name."""
        if not is_inspectable(name):
            return None
        try:
            return await self._engine.get(inspect_path("container", name))
        except EngineAnswerError as error:
            if error.answered in _BROKEN:  # its volumes would be taken for new ones
                raise
            return None

    def _answered(self, exchange: Exchange, intent: Intent, identifier: str, document: Document) -> list[Resource]:
        """Return what the JSON answer of a create tells of."""
        kind = intent.kind
        identifier = familiar(identifier) if kind == "image" else identifier
        names = [name for name_kind, name in intent.names if name_kind == kind]
        attributes = _who(exchange)
        resource = Resource(
            kind=kind,
            identifier=identifier,
            name=identifier if kind == "volume" else names[0] if names else "",
            parent=_reference(exchange.call) if kind == "exec" else "",
            attributes=attributes,
        )
        if kind == "volume" and names and document.get("Labels", JOB_ID_LABEL) != self._job_id:
            resource = attrs.evolve(resource, relation=Relation.USED)
        if kind == "image":
            tags = [intent.led_to(kind, tag, name=tag, parent=identifier, attributes=attributes) for tag in names]
            return [attrs.evolve(resource, name=""), *tags]
        brings = kind in ("container", "pod")
        volumes = [name for name_kind, name in intent.names if brings and name_kind == "volume"]
        return [resource, *(intent.led_to("volume", name, name=name, attributes=attributes) for name in volumes)]

    def _lead(self, exchange: Exchange, course: _Course, created: Iterable[Reference]) -> list[Resource]:
        """Add what an answer tells of by name, and return it."""
        attributes = _who(exchange)
        new = []
        for kind, identifier in created:
            name = "" if identifier.startswith("sha256:") else identifier
            new.append(course.intent.led_to(kind, identifier, name=name, attributes=attributes))
            exchange.notes["resource"] = identifier
        course.made += new
        return new

    def _look_soon(self, course: _Course) -> None:
        """Look at a new container, together with those that come within a moment, or while a look is under way."""
        if len(self._new) >= _MOST_NEW:
            self._give_up([course])
            return
        self._new.append(course)
        if course.is_brief:  # it may be gone in a moment, and leave its volumes to nobody
            self._look_at_once()
        else:
            self._wait()

    def _look_at_once(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._look()

    def _wait(self) -> None:
        if len(self._new) >= _MOST_TOGETHER:
            self._look()
        elif self._new and self._timer is None:
            self._timer = self._clock.callLater(_LOOK_SECONDS, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._look()

    def _look(self) -> None:
        if self._looked_at or not self._new:
            return
        courses, self._new = self._new[:_MOST_TOGETHER], self._new[_MOST_TOGETHER:]
        self._looked_at = courses
        self._later(courses, self._look_at_containers(courses)).addBoth(self._look_over)

    def _look_over(self, _: object) -> None:
        self._looked_at = ()
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)
        self._wait()

    async def _looked(self) -> None:
        """Return when all containers that are new now were looked at."""
        missing = [*self._looked_at, *self._new][-1:]  # they are looked at in their order
        while missing:
            self._look()
            if self._looked_at:
                self._waiting.append(Deferred())
                await self._waiting[-1]
            missing = [course for course in missing if course in self._looked_at or course in self._new]

    async def _look_at_containers(self, courses: Sequence[_Course]) -> None:
        """Record the names and the volumes of new containers."""
        seen = await self._containers([course.made[0].identifier for course in courses])
        writings, late = [], []
        for course in courses:
            container = course.made[0]
            found = seen.get(container.identifier)
            known = {resource.identifier for resource in course.made}
            anonymous = [
                course.intent.led_to("volume", name, name=name, attributes=container.attributes)
                for name in volumes_of(found)
                if name not in known
            ]
            name = container_name(found) if found else container.name
            named = [] if name == container.name else [attrs.evolve(container, name=name)]
            if named or anonymous:
                writings.append(self._ledger.record(course.number, [*named, *anonymous], State.DONE))
                late += anonymous
            else:
                writings.append(self._ledger.settle(course.number, State.DONE))
        for writing in writings:
            await writing
        await self._check(late)

    async def _containers(self, identifiers: Sequence[str]) -> dict[str, Any]:
        """Return what the engine says of containers, by ID; those that are gone are left out."""
        if len(identifiers) == 1:
            found = await self._engine.get(inspect_path("container", identifiers[0]))
            return {identifiers[0]: found} if found else {}
        call = list_call("container")
        assert call is not None
        answer = await self._engine.get(call[0], {**call[1], "filters": json.dumps({"id": [*identifiers]})})
        if not isinstance(answer, list):  # nothing is to be concluded from that
            raise EngineProtocolError(f"the engine at {self._engine.address} does not list its containers")
        return {entry["Id"]: entry for entry in answer if isinstance(entry, dict) and entry.get("Id")}

    async def _look_at_images(self, course: _Course) -> None:
        """Record the IDs and tags of what a build, load, import or pull led to."""
        if course.steps:
            await self._look_at_steps(course)
        told = {resource.identifier for resource in course.made}
        wanted = told | {name for _, name in course.intent.names}
        found: list[Resource] = []
        images = (await self._images_now()).seen
        for seen in images:
            tags = wanted.intersection(seen.names)
            if course.failed and seen.identifier not in told:  # those names lead to what they led to before
                tags &= told
            if tags or seen.identifier in wanted:
                labelled = seen.labels.get(IMAGE_JOB_ID_LABEL) == self._job_id
                found.append(course.intent.led_to("image", seen.identifier, labelled=labelled))
                found += [course.intent.led_to("image", tag, name=tag, parent=seen.identifier) for tag in sorted(tags)]
        if ALL_IMAGES in course.intent.before:  # else nobody knows which of the steps were there before
            steps = nameless_ancestors(images, [resource.identifier for resource in found])
            new = [step.identifier for step in steps if ("image", step.identifier) not in course.intent.before]
            found += [course.intent.led_to("image", identifier) for identifier in new]
        state = State.DONE if found or told or course.went else State.FAILED
        await self._ledger.record(course.number, found, state)
        await self._check([resource for resource in found if resource.identifier not in told])

    def _note_steps(self, exchange: Exchange, course: _Course, document: Document) -> None:
        """See what a line of a build says of its steps, and look at that."""
        steps = steps_of_line(document)
        if steps and not course.attributes:
            course.attributes = _who(exchange)
            images = (name for _, name in course.intent.before if name.startswith("sha256:"))
            course.there = {name[7 : 7 + STEP_DIGITS] for name in images}
        for kind, start in steps:
            cached, course.cached = course.cached, kind == "cache"
            if kind == "image":
                if len(course.told) < _MOST_LINES:
                    course.told.add(start[:STEP_DIGITS])
                if cached or start[:STEP_DIGITS] in (course.there or ()):
                    continue
            if kind != "cache" and len(course.steps) < _MOST_STEPS:
                course.steps.append((kind, start))
        if course.steps and not course.looking.locked:
            look = Deferred.fromCoroutine(self._look_at_steps(course))
            self._stepping.add(look)

            def over(result: Failure | None) -> None:
                self._stepping.discard(look)
                # It is tried again at the end.
                if isinstance(result, Failure) and not result.check(CancelledError):  # type: ignore[no-untyped-call]
                    self._complain(result, "could not look up the steps of exchange {exchange}", exchange.id)

            look.addBoth(over)

    async def _look_at_steps(self, course: _Course) -> None:
        """Record the containers and images that a build goes through, which the engine leaves if it fails.

        They bear no label, and a step can write what the engine writes of them: so a container must be new, of an image
        that the build told of, and an image new and without a name.

        :raises EngineError: the engine cannot say of some; they are left in the list.
        """
        unsaid: list[Reference] = []
        error: EngineAnswerError | None = None
        async with course.looking:
            try:
                while course.steps:
                    try:
                        await self._look_at_step(course, *course.steps[0])
                    except EngineAnswerError as answered:  # the others are looked at all the same
                        error = answered
                        unsaid.append(course.steps[0])
                    del course.steps[0]
            finally:
                course.steps += unsaid
        if error is not None:
            raise error

    async def _look_at_step(self, course: _Course, kind: str, start: str) -> None:
        document = await self._engine.get(inspect_path(kind, start))
        found = self._step(course, kind, document) if document else []
        if found:
            course.went = True
            await self._ledger.record(course.number, found)
            await self._check(found)

    def _step(self, course: _Course, kind: str, document: Mapping[str, Any]) -> list[Resource]:
        seen, attributes = inspected(kind, document), course.attributes
        if kind == "image":
            identifier = familiar(seen.identifier)
            if seen.names or ALL_IMAGES not in course.intent.before or ("image", identifier) in course.intent.before:
                return []
            return [course.intent.led_to("image", identifier, attributes=attributes)]
        slack = 0.0 if self._engine.address.startswith("unix:") else _CLOCK_SLACK
        is_new = seen.created >= course.intent.started - slack
        image = seen.image.removeprefix("sha256:")
        if JOB_ID_LABEL in seen.labels or not is_new or (image and image[:STEP_DIGITS] not in course.told):
            return []
        name = container_name(document)
        return [
            course.intent.led_to("container", seen.identifier, name=name, attributes=attributes),
            *(course.intent.led_to("volume", each, name=each, attributes=attributes) for each in seen.volumes),
        ]

    async def _lose(self, course: _Course) -> None:
        """Leave a build that was broken off to the watcher, but for what only we know of."""
        await self._look_at_steps(course)
        await self._ledger.settle(course.number, State.LOST)

    async def _look_at_tags(self, course: _Course) -> None:
        """Record the image that a new tag leads to."""
        found = []
        for tag in course.made:
            document = await self._engine.get(inspect_path("image", tag.identifier))
            if document:
                found.append(attrs.evolve(tag, parent=inspected("image", document).identifier))
        await self._ledger.record(course.number, found, State.DONE)

    async def _look_at_plugins(self, course: _Course) -> None:
        """Record a plugin that was pulled."""
        found = [
            course.intent.led_to(kind, name, name=name)
            for kind, name in course.intent.names
            if is_inspectable(name) and await self._engine.get(inspect_path(kind, name)) is not None
        ]
        await self._ledger.record(course.number, found, State.DONE if found else State.FAILED)

    async def _check(self, resources: Iterable[Resource]) -> None:
        """Look once more at what was recorded late: its removal may have been seen before it was recorded."""
        for resource in resources:
            if await self._engine.get(inspect_path(resource.kind, resource.identifier)) is None:
                await self._ledger.removed(resource.kind, [resource.identifier])

    async def _images(self) -> _Images:
        call = list_call("image")
        assert call is not None
        seen = listed("image", await self._engine.get(*call))
        return _Images(seen, (ALL_IMAGES, *(("image", name) for each in seen for name in each.called)))

    def _removed(self, call: Call, document: Document) -> None:
        gone = removed_by_answer(call, document)
        kind = call.operation.kind or ""
        if kind == "network":  # by name
            for name in gone:
                self._told(self._ledger.removed_reference(kind, name))
        elif gone:
            self._told(self._ledger.removed(kind, gone))

    def _later(self, courses: Sequence[_Course], looking: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Do something after the answer; if it fails, the intents are the watcher's."""
        if len(self._tasks) >= _MOST_TASKS:
            looking.close()
            self._give_up(courses)
            return succeed(None)
        task = Deferred.fromCoroutine(looking)
        self._tasks.add(task)

        def over(result: Failure | None) -> None:
            self._tasks.discard(task)
            if isinstance(result, Failure):
                if not result.check(CancelledError):  # type: ignore[no-untyped-call]
                    exchange = courses[0].intent.exchange
                    self._complain(result, "could not look up what exchange {exchange} made", exchange)
                self._give_up(courses)

        return task.addBoth(over)

    def _give_up(self, courses: Iterable[_Course]) -> None:
        for course in courses:
            self._told(self._ledger.settle(course.number, State.LOST))

    def _told(self, answer: Deferred[Any]) -> None:
        """Let the ledger write while we go on; its order is kept."""
        answer.addErrback(self._complain, "could not be recorded")

    def _complain(self, failure: Failure, what: str, exchange: int = 0) -> None:
        if failure.check(EngineError, LedgerError):  # type: ignore[no-untyped-call]
            self.log.error(what + ": {error}", error=str(failure.value), exchange=exchange, job=self._job)
        else:
            self.log.failure(what, failure, exchange=exchange, job=self._job)

    async def _page(self, exchange: Exchange, head: RequestHead) -> Answer:
        """Answer ``GET /tracker``."""
        if exchange.call.operation.name != "tracker_page":
            return Answer.error(404, "page not found: the tracker's page is GET /tracker")
        everything = query.flag(exchange.call.query, "all")
        accepted = (
            part.partition(";")[0].strip().lower() for value in head.get_all("Accept") for part in value.split(",")
        )
        as_json = "application/json" in accepted
        try:
            resources = await self._ledger.resources(self._job_id, None if as_json else "container", everything)
        except LedgerError as error:
            return Answer.error(503, str(error))
        if as_json:
            job = {"id": self._job_id, "name": self._job}
            page = {"job": job, "resources": [resource.table() for resource in resources]}
            return Answer(200, json.dumps(page).encode() + b"\n")
        made = sorted({resource.identifier for resource in resources if resource.relation is Relation.MADE})
        return Answer(200, "".join(f"{identifier}\n" for identifier in made).encode(), "text/plain; charset=utf-8")


_AFTER: Final = {
    ResponseBody.JSON: Stage.RESPONSE_JSON,
    ResponseBody.LINES: Stage.RESPONSE_LINE,
    ResponseBody.NONE: Stage.RESPONSE_HEAD,
}


def _course(exchange: Exchange) -> _Course:
    course: _Course = exchange.notes[_NOTE]
    return course


def _builds(exchange: Exchange) -> dict[int, _Course]:
    """Return the builds that go on, by the number of their call."""
    courses: dict[int, _Course] = exchange.notes.setdefault(_BUILDS_NOTE, {})
    return courses


def _tags(*lists: str) -> tuple[Reference, ...]:
    """Return the references of lists of names with commas between them.

    IDs and digests are no tags: containerd's store answers with one for an image without any. Nor are names that are
    longer than engines take (``distribution/reference``: 255 characters, and 129 of the tag).
    """
    names = (name.strip() for each in lists for name in each.split(","))
    tags = (familiar(name) for name in names if name and len(name) <= _LONGEST_TAG)
    return tuple(dict.fromkeys(("image", tag) for tag in tags if "@" not in tag and not tag.startswith("sha256:")))


def _reference(call: Call) -> str:
    """Return what the path names; swarm's and networks' patterns call it ``id``."""
    return call.name or call.names.get("id", "")


def _with_parameter(head: RequestHead, name: str, value: str) -> RequestHead:
    path, _, parameters = head.target.partition("?")
    return head.with_target(f"{path}?{query.replace(parameters, name, value)}")


def _who(exchange: Exchange) -> dict[str, str]:
    """Return who asked, as far as it is known, by what request, and where interceptors changed that."""
    peer = exchange.peer
    found = {
        "uid": peer.uid,
        "gid": peer.gid,
        "pid": peer.pid,
        "command": redact_command(peer.words),
        "cgroup": peer.cgroup,
    }
    found |= {"peer": peer.address, "certificate": peer.certificate}
    found["request"] = f"{exchange.received.method} {exchange.call.path}"
    changes = (".".join(map(str, change.path)) for edit in exchange.edits for change in edit.changes)
    found["changed"] = ", ".join(islice(dict.fromkeys(changes), _MOST_CHANGES))
    return {
        "listener": exchange.listener,
        **{key: str(value) for key, value in found.items() if value not in (None, "")},
    }


def make(settings: NoSettings, job: IJob, daemon: IDaemon) -> Recorder:
    """Return the interceptor of a job."""
    owns_pulled = daemon.settings.reap.pulled_images
    return Recorder(
        job.id,
        job.name,
        daemon.ledger,
        daemon.engine,
        daemon.clock,
        daemon.now,
        daemon.image_work,
        owns_pulled=owns_pulled,
        quiet_bytes=daemon.settings.limits.json_bytes,
    )


recorder = Plugin(name="recorder", make=make)
