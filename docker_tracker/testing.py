"""What the author of an interceptor tests it with: no proxy, no engine, no network. The top layer; nothing of ours
imports it.

Two ways. Call a hook directly, with an exchange and a document from here; or have `play` send a request through the
interceptor and see what the engine and the client get; `play_build` does that with a request of a build, without
HTTP/2. `play` runs the proxy's own conversation between two wires in memory, not an imitation of it: framing, order,
refusals, and the rule for those that fail or are late are the real ones, and stay so. What wires do besides (flow
control, half-close, hang-ups) is left out, as no hook can see it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.builds import BuildEdit, BuildEnd, BuildOutcome, BuildRequest
from docker_tracker.config import EngineAddress, Limits, Listener, Settings, section
from docker_tracker.counts import Counts
from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.engine.recognise import recognise
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Exchange, Outcome, Peer, Stage
from docker_tracker.http1.framing import Framing, request_framing, response_framing
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.http1.scanner import body_for
from docker_tracker.http2.calls import Call, Phase
from docker_tracker.http2.mediator import Mediator
from docker_tracker.http2.messages import STEPS
from docker_tracker.image_work import ImageWorks
from docker_tracker.interceptor import Interceptor
from docker_tracker.interfaces import IDaemon, IEngine, IInterceptorPlugin, IJob, ILedger
from docker_tracker.job import DEFAULT, JobRequest, JobState, ReapReport
from docker_tracker.job_record import Job
from docker_tracker.open_file import Reopeners
from docker_tracker.proxy.conversation import Conversation, Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.mediation import Mediation, with_edit
from docker_tracker.proxy.plan import Named, Plan, Steps
from docker_tracker.proxy.wire import NOBODY, Bytes, Receiver, Wire
from docker_tracker.records import Intent, Resource, State
from docker_tracker.sources import Found

__all__ = [
    "FakeDaemon",
    "FakeEngine",
    "FakeJob",
    "FakeLedger",
    "Played",
    "PlayedBuild",
    "build",
    "make_document",
    "make_exchange",
    "make_settings",
    "play",
    "play_build",
    "request",
    "response",
    "result_of",
]

T = TypeVar("T")

_CLIENT = Peer(pid=4321, uid=1000, gid=1000)
_LISTENER = "unix:///run/tracker.sock"
_LONGEST = 3600.0  # seconds of the clock that `play` waits at most for an exchange to go on


# Values


def make_exchange(
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    peer: Peer = _CLIENT,
    job: IJob | None = None,
) -> Exchange:
    """Return an exchange as it is when its head came in, recognised as the proxy recognises it.

    :param target: As a client sends it: ``/v1.41/containers/create?name=x``.
    :param peer: Who asks; a process behind a unix socket, if not said.
    :raises docker_tracker.errors.BadTargetError: the proxy would refuse the target.
    """
    whose = job or FakeJob()
    head = RequestHead.parse(_head(f"{method} {target} HTTP/1.1", {"Host": "docker", **(headers or {})}))
    return Exchange(1, whose.id, whose.name, _LISTENER, peer, recognise(method, target), head, 0.0)


def make_document(value: Any) -> Document:
    """Return a JSON document of a plain value, or of the bytes that a client sends.

    :raises docker_tracker.errors.BadDocumentError: the proxy would refuse the bytes.
    """
    return Document.parse(value if isinstance(value, bytes) else json.dumps(value).encode())


def make_settings(**changes: Any) -> Settings:
    """Return the settings of a daemon that was told nothing, with changes."""
    told_nothing = Settings(
        engine=EngineAddress("unix", path="/run/engine.sock"),
        listeners=(Listener.of(Found(_LISTENER, "testing")),),
        control="none",
        labels={},
        cgroup_parent=None,
        audit_log=None,
        interceptors=(),
        interceptor_sections={},
        insecure_tcp=False,
        instance=None,
        plugin_dirs=(),
        state_dir=Path("/var/lib/docker-tracker"),
        run_dir=Path("/run/docker-tracker"),
        debug=False,
        limits=Limits(),
    )
    return attrs.evolve(told_nothing, **changes)


# A daemon


@implementer(IJob)
@attrs.frozen(kw_only=True)
class FakeJob:
    """A job that accepts clients; `request` may say more of it."""

    id: str = "0123456789abcdef"
    name: str = "default"
    request: JobRequest = attrs.Factory(lambda self: JobRequest(name=self.name), takes_self=True)
    state: JobState = JobState.OPEN
    owner: int | None = None
    socket: str = ""
    created: float = 0.0
    ended: float | None = None
    reason: str = ""
    report: ReapReport | None = None


@implementer(ILedger)
@attrs.define(eq=False)
class FakeLedger:
    """A ledger that only writes down what it is told, in memory; it knows nothing of other jobs or of the engine.

    :ivar intents: In order; the number of the first is 1.
    :ivar recorded: Resources, in order, each with its intent's number; ``removed`` is 0.0 once it is removed.
    :ivar error: If it is set, every call that answers fails with it.
    :ivar known_jobs: That were made, in order, as they stand.
    :ivar told: Events, in order; the number of the first is 1.
    :ivar adopted: Instances.
    """

    intents: list[Intent] = attrs.field(factory=list)
    recorded: list[Resource] = attrs.field(factory=list)
    error: Exception | None = None
    known_jobs: list[IJob] = attrs.field(factory=list)
    told: list[dict[str, Any]] = attrs.field(factory=list)
    adopted: list[str] = attrs.field(factory=list)
    _lost: list[Callable[[], None]] = attrs.field(factory=list, init=False)

    def _answer(self, value: Callable[[], T]) -> Deferred[T]:
        if self.error is not None:
            failed: Deferred[T] = Deferred()
            failed.errback(self.error)
            return failed
        return execute(value)

    def job(self, name: str) -> Deferred[IJob]:
        """See `ILedger.job`."""
        return self._answer(lambda: FakeJob(name=name))

    def jobs(self, everything: bool = False) -> Deferred[list[IJob]]:
        """See `ILedger.jobs`."""
        return self._answer(lambda: [job for job in self.known_jobs if everything or job.state is not JobState.GONE])

    def some_jobs(self, job_ids: Collection[str]) -> Deferred[list[IJob]]:
        """See `ILedger.some_jobs`."""
        return self._answer(lambda: [job for job in self.known_jobs if job.id in job_ids])

    def past_jobs(self, most: int) -> Deferred[list[IJob]]:
        """See `ILedger.past_jobs`; the order is that in which they were made."""
        return self._answer(lambda: [job for job in self.known_jobs if job.state is JobState.GONE][-most:])

    def make_job(self, request: JobRequest, owner: int | None, socket: str) -> Deferred[IJob]:
        """See `ILedger.make_job`; the first job's ID is ``1`` and 31 noughts before it."""

        def work() -> IJob:
            if any(job.name == request.name and job.ended is None for job in self.known_jobs):
                raise RefusedError(f"there is a job {request.name!r}: give this one another name", 409)
            self.known_jobs.append(
                Job(id=f"{len(self.known_jobs) + 1:032}", request=request, owner=owner, socket=socket)
            )
            return self.known_jobs[-1]

        return self._answer(work)

    def forget_job(self, job_id: str) -> Deferred[None]:
        """See `ILedger.forget_job`."""

        def work() -> None:
            self.known_jobs[:] = [job for job in self.known_jobs if job.id != job_id]

        return self._answer(work)

    def restore_job(self, job_id: str, name: str, created: float, reason: str) -> Deferred[IJob]:
        """See `ILedger.restore_job`."""

        def work() -> IJob:
            if not any(job.id == job_id for job in self.known_jobs):
                request = JobRequest(name=name)
                state = JobState.GONE if name == DEFAULT else JobState.FAILED
                job = Job(id=job_id, request=request, state=state, created=created, ended=0.0, reason=reason)
                self.known_jobs.append(job)
            return next(job for job in self.known_jobs if job.id == job_id)

        return self._answer(work)

    def set_job(
        self, job_id: str, state: JobState | None, *, reason: str | None = None, report: ReapReport | None = None
    ) -> Deferred[IJob]:
        """See `ILedger.set_job`; time stands still."""
        ended = {} if state in (None, JobState.OPEN) else {"ended": 0.0}
        changes: dict[str, Any] = {"state": state, "reason": reason, "report": report, **ended}
        given = {name: value for name, value in changes.items() if value is not None}

        def work() -> IJob:
            place = [job.id for job in self.known_jobs].index(job_id)
            self.known_jobs[place] = attrs.evolve(cast(Job, self.known_jobs[place]), **given)
            return self.known_jobs[place]

        return self._answer(work)

    def add_event(self, event: str, job: IJob | None, data: Mapping[str, Any]) -> Deferred[int]:
        """See `ILedger.add_event`."""

        def work() -> int:
            whose = {"job_id": job.id if job else "", "job": job.name if job else ""}
            time = "1970-01-01T00:00:00.000Z"
            self.told.append({"number": len(self.told) + 1, "time": time, "event": event, **whose, "data": dict(data)})
            return len(self.told)

        return self._answer(work)

    def events(self, since: int, most: int = 1000) -> Deferred[list[dict[str, Any]]]:
        """See `ILedger.events`."""
        return self._answer(lambda: self.told[since : since + most])

    def adopt_instance(self, instance: str) -> Deferred[None]:
        """See `ILedger.adopt_instance`."""
        return self._answer(lambda: self.adopted.append(instance))

    def adopted_instances(self) -> Deferred[list[str]]:
        """See `ILedger.adopted_instances`."""
        return self._answer(lambda: list(self.adopted))

    def find(self, reference: str) -> Deferred[list[tuple[Resource, IJob | None, Intent | None]]]:
        """See `ILedger.find`; beginnings of IDs are not known."""

        def work() -> list[tuple[Resource, IJob | None, Intent | None]]:
            return [
                (
                    each,
                    next((job for job in self.known_jobs if job.id == each.job_id), None),
                    next((intent for intent in self.intents if intent.number == each.intent), None),
                )
                for each in reversed(self.recorded)
                if reference in (each.identifier, each.name)
            ]

        return self._answer(work)

    def lost_of(self, job_id: str) -> Deferred[list[Intent]]:
        """See `ILedger.lost_of`."""
        return self._answer(
            lambda: [
                intent
                for intent in self.intents
                if intent.job_id == job_id and intent.state in (State.OPEN, State.LOST)
            ]
        )

    def check_engine(self, engine: str) -> Deferred[None]:
        """See `ILedger.check_engine`; takes any."""
        return self._answer(lambda: None)

    def intend(self, intent: Intent, engine: str) -> Deferred[int]:
        """See `ILedger.intend`."""

        def work() -> int:
            self.intents.append(attrs.evolve(intent, number=len(self.intents) + 1))
            return len(self.intents)

        return self._answer(work)

    def record(self, intent: int, resources: Sequence[Resource], state: State | None = None) -> Deferred[None]:
        """See `ILedger.record`."""

        def work() -> None:
            job_id = self.intents[intent - 1].job_id
            self.recorded += [attrs.evolve(resource, intent=intent, job_id=job_id) for resource in resources]
            if state is not None:
                self._settle(intent, state)

        return self._answer(work)

    def hand_over(self, resources: Sequence[Resource], job_id: str) -> Deferred[bool]:
        """See `ILedger.hand_over`; it knows no other job."""
        return self._answer(lambda: False)

    def adopt(self, resources: Sequence[Resource], since: float) -> Deferred[list[Resource]]:
        """See `ILedger.adopt`; takes all that is not recorded, of any job."""

        def work() -> list[Resource]:
            known = {(each.kind, each.identifier) for each in self.recorded if each.removed is None}
            new = [each for each in resources if (each.kind, each.identifier) not in known]
            self.recorded += new
            return new

        return self._answer(work)

    def settle(self, intent: int, state: State) -> Deferred[None]:
        """See `ILedger.settle`."""
        return self._answer(lambda: self._settle(intent, state))

    def settle_owed(self) -> Deferred[None]:
        """See `ILedger.settle_owed`; it owes none."""
        return self._answer(lambda: None)

    def _settle(self, intent: int, state: State) -> None:
        self.intents[intent - 1] = attrs.evolve(self.intents[intent - 1], state=state)
        for callback in self._lost if state is State.LOST else ():
            callback()

    def _change(self, kind: str, references: Iterable[str], **changes: Any) -> Deferred[None]:
        wanted = frozenset(references)

        def work() -> None:
            self.recorded = [
                attrs.evolve(each, **changes)
                if each.kind == kind and each.removed is None and not wanted.isdisjoint((each.identifier, each.name))
                else each
                for each in self.recorded
            ]

        return self._answer(work)

    def removed(self, kind: str, identifiers: Sequence[str]) -> Deferred[None]:
        """See `ILedger.removed`."""
        return self._change(kind, identifiers, removed=0.0)

    def removed_reference(self, kind: str, reference: str) -> Deferred[None]:
        """See `ILedger.removed_reference`; beginnings of IDs are not known."""
        return self._change(kind, [reference], removed=0.0)

    def renamed(self, kind: str, reference: str, name: str) -> Deferred[None]:
        """See `ILedger.renamed`; as `removed_reference`."""
        return self._change(kind, [reference], name=name)

    def gone(self, resources: Sequence[Resource]) -> Deferred[None]:
        """See `ILedger.gone`."""
        kinds: dict[str, list[str]] = {}
        for resource in resources:
            kinds.setdefault(resource.kind, []).append(resource.identifier)
        answers = [self.removed(kind, identifiers) for kind, identifiers in kinds.items()]
        return answers[-1] if answers else self._answer(lambda: None)

    def resources(
        self, job_id: str | None = None, kind: str | None = None, everything: bool = False
    ) -> Deferred[list[Resource]]:
        """See `ILedger.resources`."""
        return self._answer(
            lambda: [
                each
                for each in self.recorded
                if job_id in (None, each.job_id) and kind in (None, each.kind) and (everything or each.removed is None)
            ]
        )

    def lost(self) -> Deferred[list[tuple[Intent, list[Resource]]]]:
        """See `ILedger.lost`."""
        return self._answer(
            lambda: [
                (intent, [each for each in self.recorded if each.intent == intent.number])
                for intent in self.intents
                if intent.state is State.LOST
            ]
        )

    def prune(self) -> Deferred[None]:
        """See `ILedger.prune`; forgets nothing."""
        return self._answer(lambda: None)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """See `ILedger.on_lost`."""
        self._lost.append(callback)


@implementer(IEngine)
@attrs.define(eq=False)
class FakeEngine:
    """An engine that answers an interceptor's own calls from a table.

    :ivar answers: By ``"GET /info"``: what is answered as JSON, or an error that is raised. All else is a 404.
    :ivar asked: What was asked, in order: method, path, parameters, body.
    """

    answers: dict[str, Any] = attrs.field(factory=dict)
    asked: list[tuple[str, str, Mapping[str, str] | None, Any]] = attrs.field(factory=list)
    address: str = "unix:///run/engine.sock"

    async def request(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        """See `IEngine.request`."""
        self.asked.append((method, path, parameters, body))
        if f"{method} {path}" not in self.answers:
            return 404, {"message": "page not found"}
        answer = self.answers[f"{method} {path}"]
        if isinstance(answer, Exception):
            raise answer
        return 200, answer

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """See `IEngine.get`."""
        status, answer = await self.request("GET", path, parameters)
        return answer if status == 200 else None

    async def identity(self) -> str:
        """See `IEngine.identity`."""
        return "engine-1"

    def forget(self) -> None:
        """See `IEngine.forget`."""

    async def lines(
        self,
        path: str,
        parameters: Mapping[str, str] | None,
        on_line: Callable[[bytes], Any],
        on_open: Callable[[], None] | None = None,
    ) -> None:
        """See `IEngine.lines`; the table's answer is a list of documents, and then the engine ends."""
        _, answers = await self.request("GET", path, parameters)
        if on_open is not None:
            on_open()
        for answer in answers:
            await _settled(on_line(json.dumps(answer).encode()))


async def _settled(result: Any) -> None:
    if isinstance(result, Awaitable):
        await result


@implementer(IDaemon)
@attrs.define(eq=False)
class FakeDaemon:
    """What a plug-in is built with; its clock stands still until somebody advances it.

    :ivar settings: From `make_settings`.
    """

    settings: Settings = attrs.field(factory=make_settings)
    clock: Clock = attrs.field(factory=Clock)
    instance: str = "instance-1"
    ledger: FakeLedger = attrs.field(factory=FakeLedger)
    engine: FakeEngine = attrs.field(factory=FakeEngine)
    counts: Counts = attrs.field(factory=Counts)
    image_work: ImageWorks = attrs.field(factory=ImageWorks)
    _reopeners: Reopeners = attrs.field(factory=Reopeners, init=False)

    def now(self) -> float:
        """See `IDaemon.now`; what `clock` shows."""
        return self.clock.seconds()

    def on_reopen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `IDaemon.on_reopen`."""
        return self._reopeners.add(callback)

    def reopen(self) -> None:
        """Do what SIGHUP does."""
        self._reopeners.tell()


def build(
    plugin: IInterceptorPlugin,
    table: Mapping[str, object] | None = None,
    daemon: FakeDaemon | None = None,
    job: IJob | None = None,
) -> Named:
    """Return a plug-in's interceptor under its name, built and its settings checked as the daemon does it.

    :param table: What the file says in ``[interceptor.NAME]``.
    :raises docker_tracker.errors.ConfigurationError: the daemon would not start.
    """
    settings: Any = section(plugin.settings, table or {}, f"interceptor.{plugin.name}")
    return Named(plugin.name, plugin.build(settings, job or FakeJob(), daemon or FakeDaemon()))


def result_of(awaitable: Awaitable[T]) -> T:
    """Return what a hook that waits for nothing returns, or raise what it raises.

    :raises AssertionError: it waits for something.
    """

    async def wait() -> T:
        return await awaitable

    results: list[T | Failure] = []
    Deferred.fromCoroutine(wait()).addBoth(results.append)
    if not results:
        raise AssertionError("it still waits for something; is a Deferred to be fired, or a clock to be advanced?")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


# A conversation


def request(method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request as a client sends it.

    :param body: Bytes, or a plain value that becomes JSON; None: no body.
    """
    return _message(f"{method} {target} HTTP/1.1", {"Host": "docker"}, body, headers)


def response(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Return an answer as the engine gives it; a 101 has no body, and what follows it is the stream."""
    usual = {"Connection": "Upgrade", "Upgrade": "tcp"} if status == 101 else {}
    return _message(f"HTTP/1.1 {status} Status", usual, b"" if body is None and status != 101 else body, headers)


def _message(start: str, usual: Mapping[str, str], body: Any, headers: Mapping[str, str] | None) -> bytes:
    fields = {**usual}
    if body is None:
        content = b""
    elif isinstance(body, bytes):
        content = body
    else:
        content = json.dumps(body).encode()
        fields["Content-Type"] = "application/json"
    if body is not None:
        fields["Content-Length"] = str(len(content))
    return _head(start, {**fields, **(headers or {})}) + content


def _head(start: str, fields: Mapping[str, str]) -> bytes:
    return "\r\n".join([start, *(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode("latin-1")


@attrs.frozen
class Played:
    """What came of a request.

    :ivar to_engine: All bytes that the engine got; empty if nothing was forwarded.
    :ivar to_client: All bytes that the client got.
    :ivar exchange: As it is at its end.
    :ivar outcome: How it ended.
    """

    to_engine: bytes
    to_client: bytes
    exchange: Exchange
    outcome: Outcome

    @property
    def engine_head(self) -> RequestHead:
        """The head of what the engine got.

        :raises AssertionError: it got nothing.
        """
        if not self.to_engine:
            raise AssertionError(f"nothing was forwarded; the client got {self.to_client!r}")
        return RequestHead.parse(_cut(self.to_engine)[0])

    @property
    def engine_json(self) -> Any:
        """The JSON that the engine got, as a plain value."""
        return make_document(_payload(self.to_engine, request_framing(self.engine_head))).value

    @property
    def status(self) -> int:
        """The status that the client got.

        :raises AssertionError: it got nothing.
        """
        if not self.to_client:
            raise AssertionError(f"the client got nothing: {self.outcome.value}")
        return self._client_head.status

    @property
    def client_json(self) -> Any:
        """The JSON that the client got, as a plain value."""
        framing = response_framing(self._client_head, self.exchange.received.method)
        return make_document(_payload(self._final, framing)).value

    @property
    def _client_head(self) -> ResponseHead:
        return ResponseHead.parse(_cut(self._final)[0])

    @property
    def _final(self) -> bytes:
        rest = self.to_client
        while re.match(rb"HTTP/1\.[01] 1(?!01)", rest):  # a 100 Continue, say
            rest = _cut(rest)[1]
        return rest


def _cut(message: bytes) -> tuple[bytes, bytes]:
    end = message.index(b"\r\n\r\n") + 4
    return message[:end], message[end:]


def _payload(message: bytes, framing: Framing) -> bytes:
    payload: list[bytes] = []
    body_for(framing).feed(_cut(message)[1], payload)
    return b"".join(payload)


def play(
    interceptors: Iterable[Named],
    asked: bytes,
    *answers: bytes,
    from_client: bytes = b"",
    daemon: FakeDaemon | None = None,
    peer: Peer = _CLIENT,
) -> Played:
    """Send a request through interceptors, and return what came of it.

    While an interceptor waits the daemon's clock is advanced, so that delays and time limits take no time.

    :param interceptors: In order, from `build`.
    :param asked: One request, from `request`.
    :param answers: What the engine says, piece by piece, from `response` first; then it closes. Without any there is
        no engine.
    :param from_client: What the client sends on an upgraded stream, after all answers.
    :param daemon: The one that the interceptors were built with, for its clock and its limits.
    :param peer: Who asks.
    """
    stage = _Stage(tuple(interceptors), bool(answers), daemon or FakeDaemon(), peer)
    stage.client.receiver.data(memoryview(bytearray(asked)))
    if stage.watch.exchange is None:
        raise AssertionError("nothing has begun; is the request whole?")
    stage.wait(lambda: stage.engine is not None)
    for answer in answers:
        stage.from_engine(answer)
    if from_client and stage.engine is not None:
        stage.client.receiver.data(memoryview(bytearray(from_client)))
    # A held answer that is whole still waits for its interceptors; another one ends here.
    stage.wait(lambda: False, seconds=stage.limits.interceptor_seconds * (len(stage.interceptors) + 1))
    for side in (stage.engine, stage.client):
        if side is not None and not stage.watch.outcomes:
            side.input_ended = True
            side.receiver.ended()
    if not stage.watch.outcomes:
        raise AssertionError("the exchange has no end; is the request whole?")
    to_engine = b"" if stage.engine is None else bytes(stage.engine.sent)
    return Played(to_engine, bytes(stage.client.sent), stage.watch.exchange, stage.watch.outcomes[0])


@attrs.frozen
class PlayedBuild:
    """What came of a request of a build.

    :ivar request: As the engine got it; None: it did not get it, or it was only a call.
    :ivar status: gRPC's number that the client got (0 is success), or None: its connection was closed.
    :ivar message: What the client reads with it.
    :ivar outcome: As interceptors were told; None: it was only a call, or a call that was refused.
    :ivar exchange: As it is at its end.
    """

    request: BuildRequest | None
    status: int | None
    message: str
    outcome: BuildOutcome | None
    exchange: Exchange


def play_build(
    interceptors: Iterable[Named],
    asked: BuildRequest | str,
    *,
    status: int = 0,
    message: str = "",
    answer: Mapping[str, str] | None = None,
    daemon: FakeDaemon | None = None,
    peer: Peer = _CLIENT,
) -> PlayedBuild:
    """Have interceptors take part in one request of a build, and return what came of it.

    Order, refusals, limits of time and the rule for those that fail are the proxy's own; HTTP/2 is left out.

    :param interceptors: In order, from `build`.
    :param asked: The request, or the path of a call that is none: ``/moby.buildkit.v1.Control/Prune``.
    :param status: gRPC's number that the engine answers with.
    :param message: What it says with it.
    :param answer: What its exporters answer.
    :param daemon: The one that the interceptors were built with, for its clock and its limits.
    :param peer: Who asks.
    """
    stage = _BuildStage(Plan(interceptors), daemon or FakeDaemon(), peer)
    path = asked if isinstance(asked, str) else next(path for path, step in STEPS.items() if step is asked.step)
    refusal = stage.mediation.opened(path, "" if isinstance(asked, str) else asked.build)
    if refusal:
        return PlayedBuild(None, 7, refusal, None, stage.exchange)
    if isinstance(asked, str):
        return PlayedBuild(None, status, message, None, stage.exchange)
    told = BuildOutcome(end=BuildEnd.ANSWERED, status=status, message=message, answer=answer or {})
    return stage.run(asked, told)


class _BuildStage:
    """A mediation without HTTP/2: stands in for `docker_tracker.http2.mediator.Mediator`."""

    over = paused = False
    held_back = 0

    def __init__(self, plan: Plan, daemon: FakeDaemon, peer: Peer) -> None:
        self.clock, self.limits = daemon.clock, daemon.settings.limits
        self.exchange = make_exchange("POST", "/grpc", peer=peer)
        steps = plan.steps(self.exchange.call.operation) or Steps()
        watch = Named("testing", _BuildWatch())
        self.watch = cast(_BuildWatch, watch.interceptor)
        self.mediation = Mediation(
            cast(Wire, _MemoryWire(self.clock)),
            cast(Wire, _MemoryWire(self.clock)),
            attrs.evolve(steps, build_finished=(*steps.build_finished, watch)),
            self.exchange,
            cast(Any, self.clock),
            self.limits.interceptor_seconds,
            self.limits.linger_seconds,
            lambda *_: None,
        )
        self.mediation._mediator = cast(Mediator, self)
        self.edit: BuildEdit | None = None
        self.refusal: tuple[int, str] | None = None
        self.closed = False

    def run(self, asked: BuildRequest, told: BuildOutcome) -> PlayedBuild:
        """Ask for a request, and answer it if it is not refused."""
        call = Call(1, asked.step, asked.build, Phase.HELD)
        self.mediation.requested(call, asked)
        _wait(self.clock, lambda: call.phase is not Phase.HELD)
        if call.phase is Phase.SENT:
            call.phase = Phase.OVER
            self.mediation.finished(call, told)
        _wait(self.clock, lambda: self.closed or self.watch.outcome is not None)
        request = None if self.refusal else with_edit(asked, self.edit or BuildEdit())
        status, message = self.refusal or (told.status, told.message)
        if self.closed:
            status, message = None, ""
        return PlayedBuild(request, status, message, self.watch.outcome, self.exchange)

    def release(self, call: Call, edit: BuildEdit | None = None) -> None:
        if call.phase is Phase.HELD:
            self.edit, call.phase = edit, Phase.SENT

    def refuse(self, call: Call, status: int, message: str) -> None:
        if call.phase is Phase.HELD:
            self.refusal, call.phase = (status, message), Phase.OVER
            refused = BuildOutcome(end=BuildEnd.REFUSED, forwarded=False, status=status, message=message)
            self.mediation.finished(call, refused)

    def for_client(self) -> bytes:
        return b""

    for_engine = for_client

    def resume(self) -> None:
        """The answer goes."""

    def close(self) -> None:
        self.closed = True


class _BuildWatch(Interceptor):
    """The last interceptor of all: keeps how a request ended."""

    outcome: BuildOutcome | None = None

    async def build_finished(self, exchange: Exchange, request: BuildRequest, outcome: BuildOutcome) -> None:
        """See `IInterceptor.build_finished`."""
        self.outcome = outcome


def _wait(clock: Clock, ready: Callable[[], bool], seconds: float = _LONGEST) -> None:
    """Advance the clock from call to call until something holds, or the time is over."""
    end = clock.seconds() + seconds
    while not ready() and clock.getDelayedCalls():
        due = min(call.getTime() for call in clock.getDelayedCalls())
        if due > end:
            break
        clock.advance(max(0.0, due - clock.seconds()))


class _Stage:
    """Two wires and the conversation between them."""

    def __init__(self, interceptors: tuple[Named, ...], answers: bool, daemon: FakeDaemon, peer: Peer) -> None:
        self.interceptors, self.clock, self.limits = interceptors, daemon.clock, daemon.settings.limits
        self.client = _MemoryWire(self.clock)
        self.engine: _MemoryWire | None = None
        self.watch = _Watch()
        hub = Hub(cast(Any, self.clock))
        dialler = _MemoryDialler(cast(Any, hub), cast(Any, daemon.settings.engine), 0.0)
        dialler.stage, dialler.answers = self, answers
        job = FakeJob()
        plan = Plan((*interceptors, Named("testing", self.watch)))
        entrance = Entrance(_LISTENER, job.id, job.name, plan, dialler, self.limits)
        Conversation(hub, cast(Wire, self.client), entrance, peer)

    def wait(self, ready: Callable[[], bool], seconds: float = _LONGEST) -> None:
        """Advance the clock from call to call until something holds, or the exchange is over, or the time is."""
        _wait(self.clock, lambda: ready() or bool(self.watch.outcomes), seconds)

    def from_engine(self, data: bytes) -> None:
        """Let the engine say something, if it was asked."""
        if self.engine is not None and not self.watch.outcomes:
            self.engine.receiver.data(memoryview(bytearray(data)))


class _Watch(Interceptor):
    """The last interceptor of all: keeps the exchange and how it ended."""

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self.outcomes: list[Outcome] = []

    def wants(self, operation: Operation) -> Stage:
        """See `IInterceptor.wants`."""
        return Stage.STARTED | Stage.FINISHED

    def started(self, exchange: Exchange) -> None:
        """See `IInterceptor.started`."""
        self.exchange = exchange

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        """See `IInterceptor.finished`."""
        self.outcomes.append(outcome)


@attrs.define(eq=False)
class _MemoryWire:
    """A `docker_tracker.proxy.wire.Wire` whose far end takes everything at once."""

    clock: Clock
    receiver: Receiver = NOBODY
    sent: bytearray = attrs.field(factory=bytearray)
    queued: int = 0
    input_ended: bool = False
    connecting: bool = False
    tells_hangups: bool = True
    splices: bool = False

    def write(self, data: Bytes) -> None:
        self.sent += data

    def pause(self) -> None:
        """Nothing is on its way."""

    resume = end = pause

    def divert(self, most: int) -> None:
        """There is no kernel in memory."""

    def close(self, linger: bool = False) -> None:
        self.receiver = NOBODY

    abort = close

    def hung_up(self) -> bool:
        return False

    def watch_hangup(self, callback: Callable[[], None]) -> None:
        """Nobody leaves."""

    def set_timer(self, delay: float, callback: Callable[[], object]) -> None:
        """What it would end is over."""


class _MemoryDialler(Dialler):
    """Makes the engine's wire."""

    stage: _Stage
    answers: bool

    def dial(self, receiver: Receiver) -> Wire:
        if not self.answers:
            raise self.unavailable("No such file or directory")
        self.stage.engine = _MemoryWire(self.stage.clock, receiver)
        return cast(Wire, self.stage.engine)
