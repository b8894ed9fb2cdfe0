"""Every interface of the project: the first page to read.

An *interceptor* sees, and may change or answer, the exchanges of one job. A *plug-in* makes one for each job.
The order is the order in the configuration, the same on the way in and on the way out.

For one exchange the hooks are called in this order, each only where `IInterceptor.wants` named its stage::

    started
    request_head            (all interceptors, then)
    request_json            the request goes to the engine
    response_head
    response_json | response_line … | stream_data … | build_call, build_request, build_finished …
    finished                exactly once, whatever happened

`request_head`, `request_json`, `response_json`, `build_request` and `build_finished` decide: they are coroutines, the
exchange waits for them, and a time limit (``limits.interceptor-seconds``) holds for each. The others are told: they
must return at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface

from docker_tracker.builds import BuildEdit, BuildOutcome, BuildRequest
from docker_tracker.counts import Counts
from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.exchange import Answer, Exchange, Outcome, Stage
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.image_work import ImageWorks
from docker_tracker.job import JobRequest, JobState, ReapReport
from docker_tracker.records import Intent, Resource, State

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime


class IInterceptorPlugin(Interface):
    """Found with ``twisted.plugin`` in the packages under `docker_tracker.plugins`; makes interceptors."""

    name: str = Attribute("What the configuration calls it: lower case, digits and dashes.")
    settings: type = Attribute("An attrs class; built from the TOML table [interceptor.NAME], dashes read as _.")

    def build(settings: Any, job: IJob, daemon: IDaemon) -> IInterceptor:
        """Return the interceptor of a job; called once, when the job is made.

        :param settings: An instance of `settings`.
        :raises docker_tracker.errors.ConfigurationError: it cannot work so; the daemon does not start.
        """


class IInterceptor(Interface):
    """Sees, and may change or answer, the exchanges that it asks for."""

    fail_closed: bool = Attribute("True: if a hook raises or is late, the exchange is refused. False: it goes on.")

    def wants(operation: Operation) -> Stage:
        """Return the stages to be called for; asked once for each operation, when a job's plan is built."""

    def started(exchange: Exchange) -> None:
        """The request's head is in; nothing was decided. Told."""

    async def request_head(exchange: Exchange, head: RequestHead) -> RequestHead | Answer | None:
        """The head is in, no byte of it went to the engine. ``head`` bears the earlier interceptors' changes.

        Return another head (a new query, say), an `Answer` in the engine's stead, or None: unchanged.
        Framing fields (Content-Length, Transfer-Encoding) may not be changed. Raising refuses the exchange
        (`docker_tracker.errors.RefusedError`: with its status and message), or is passed by if not `fail_closed`.
        """

    async def request_json(exchange: Exchange, document: Document) -> Document | Answer | None:
        """The whole JSON body is in, within ``limits.json-bytes``; called only if the operation's request is JSON.

        An empty body is an empty object. Return None and the original bytes are sent, not a re-dump.
        """

    def response_head(exchange: Exchange, head: ResponseHead) -> None:
        """The final response's head is in (not a 1xx, but a 101); it was not passed on yet. Told."""

    async def response_json(exchange: Exchange, document: Document) -> None:
        """The whole JSON body of a 2xx answer is in, and is held back until this ends: here one saves, then sends.

        Called only if the operation's response is JSON. The client gets the engine's own bytes. If this raises
        and the interceptor is `fail_closed`, the client gets a 500 although the engine did what was asked.
        """

    def response_line(exchange: Exchange, document: Document) -> None:
        """One line of a JSON stream (build, pull, events) is in; a copy. Most reach the client after this. Told.

        Lines longer than ``limits.line-bytes``, and lines that are no JSON, are passed by.
        """

    def stream_data(exchange: Exchange, from_client: bool, data: bytes) -> None:
        """Bytes crossed an upgraded stream; a copy. Told. Must not keep ``data`` without bound."""

    def build_call(exchange: Exchange, path: str, build: str) -> None:
        """A call of BuildKit's begins on an upgraded ``/grpc``. Told, but raising refuses it: for lists of what may be.

        :param path: ``/moby.buildkit.v1.Control/Solve``.
        :param build: The build's ID, as far as the call tells it, or the empty string.
        """

    async def build_request(exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        """A request of a build is whole, and the engine did not see it. ``request`` bears the earlier ones' changes.

        Return what is to be changed, or None. Raising refuses the build, with a message that its client shows. For all
        interceptors together there are two seconds if it is a SOLVE, or its client gives up. What clients ask before
        a build, to learn what the engine can do, is not shown. A request that cannot be read is refused if one of the
        interceptors that ask for this stage is `fail_closed`, else it is passed.
        """

    async def build_finished(exchange: Exchange, request: BuildRequest, outcome: BuildOutcome) -> None:
        """A request of a build is over; if it was a SOLVE and was answered, its client gets the answer after this ends.

        Called once for each `build_request`, and for what could not be read. If this raises and the interceptor is
        `fail_closed`, the connection is closed, though the engine did what was asked.

        :param request: What is kept of it as the engine got it: `BuildRequest.kept`.
        """

    def finished(exchange: Exchange, outcome: Outcome) -> None:
        """The exchange is over. Told, exactly once, for every exchange that was `started`."""

    async def stop() -> None:
        """The job ends or the daemon stops: close files, end tasks. No hook is called afterwards."""


class IJob(Interface):
    """The owner of a set of clients and of all they make."""

    id: str = Attribute("Random, never used again: everything selects by it.")
    name: str = Attribute("For people; may come back.")
    request: JobRequest = Attribute("What it was asked to be, with references resolved.")
    state: JobState = Attribute("Where it stands.")
    owner: int | None = Attribute("The uid of who made it; None: the daemon's own.")
    socket: str = Attribute("The path of its unix socket, or the empty string.")
    created: float = Attribute("Seconds since the epoch.")
    ended: float | None = Attribute("When it stopped to accept clients, or None.")
    reason: str = Attribute("What ended it, in words.")
    report: ReapReport | None = Attribute("Of its last reap, or None.")


class ILease(Interface):
    """A hold on a job: while one is there, a job with `docker_tracker.job.Ends.lease` goes on."""

    def release() -> None:
        """The holder has gone. Further calls do nothing."""


class IJobs(Interface):
    """The jobs of this instance: what the control API serves.

    A reference is a job's ID; a name: then it means the job of that name that accepts clients, else the latest; or at
    least twelve characters that one job's ID begins with.
    Every method raises `docker_tracker.errors.RefusedError` for what cannot be done: 400 for what is wrong in itself,
    404 for a reference that means nothing, 409 for what does not go now; `docker_tracker.errors.LedgerError` and
    `docker_tracker.errors.EngineError` for what failed.
    """

    async def start(request: JobRequest, owner: int | None, pid: int | None) -> IJob:
        """Make a job; its socket accepts clients when this returns.

        :param owner: The uid of who asks; None: the daemon itself.
        :param pid: The process that asks, where it is known.
        """

    def get(reference: str) -> IJob:
        """Return a job."""

    def jobs(everything: bool = False) -> list[IJob]:
        """Return all jobs that are not gone (``everything``: those, too, as far as the ledger remembers)."""

    async def end(reference: str, reason: str, failed: bool = False) -> IJob:
        """Have a job accept nobody any more; it is drained and reaped in the background.

        :param failed: Whether what it did failed, so that `JobRequest.keep_on_failure` holds.
        """

    async def over(reference: str) -> IJob:
        """Return a job when its end is reached: gone, failed, or kept as it failed."""

    def lease(reference: str) -> ILease:
        """Hold a job."""

    async def reap(reference: str, dry_run: bool = False) -> ReapReport:
        """Remove what a job has made up to now; the job itself goes on, if it has not ended.

        What was done is the report of its last reap from then on.
        """

    async def reconcile(dry_run: bool = False, adopt: str = "") -> ReapReport:
        """Compare engine and ledger once, now, and mend the difference.

        :param adopt: The instance whose things become ours, if it is not the empty string.
        :raises docker_tracker.errors.RefusedError: that instance has none.
        """

    async def why(reference: str) -> list[Mapping[str, Any]]:
        """Return what is known of a resource, by ID, beginning of an ID, or name: one object for each that it means.

        Each has ``resource``, ``job``, ``intent`` (None if nobody asked us) and ``who``.
        """

    def events(since: int, on_event: Callable[[Mapping[str, Any]], None] | None = None) -> Deferred[list[Any]]:
        """Return the events after a number, oldest first.

        :param on_event: Is called with each further one until `stop_events`.
        :raises docker_tracker.errors.RefusedError: no event has had that number yet.
        """

    def stop_events(on_event: Callable[[Mapping[str, Any]], None]) -> None:
        """Tell somebody no more events."""


class ILedger(Interface):
    """The durable record of jobs, intents and resources. What is answered is on disk; all calls keep their order.

    A call counts from when it is made, awaited or not: a read sees every write that was asked for before it.
    Every method may fail with `docker_tracker.errors.LedgerError`; then nothing of that call was written.
    """

    def job(name: str) -> Deferred[IJob]:
        """Return the job of that name that did not end; make it if there is none."""

    def jobs(everything: bool = False) -> Deferred[list[IJob]]:
        """Return the jobs that are not gone (``everything``: those, too: there may be very many), oldest first."""

    def some_jobs(job_ids: Collection[str]) -> Deferred[list[IJob]]:
        """Return the jobs of these IDs, as far as they are known, gone or not."""

    def past_jobs(most: int) -> Deferred[list[IJob]]:
        """Return at most so many jobs that are gone: those that ended last, oldest first."""

    def make_job(request: JobRequest, owner: int | None, socket: str) -> Deferred[IJob]:
        """Write down a new job, open, with a random ID.

        Fails with `docker_tracker.errors.RefusedError` (409) if a job of that name has not ended.
        """

    def forget_job(job_id: str) -> Deferred[None]:
        """Forget a job that could not be made, so that nobody ever reached it."""

    def restore_job(job_id: str, name: str, created: float, reason: str) -> Deferred[IJob]:
        """Return a job that labels tell of; an unknown one is written down as failed, or as gone if it is a "default".

        :param created: Of the oldest thing that bears its label, in seconds since the epoch.
        :param reason: What is said of one that was unknown.
        """

    def set_job(
        job_id: str, state: JobState | None, *, reason: str | None = None, report: ReapReport | None = None
    ) -> Deferred[IJob]:
        """Write down where a job stands, and return it as it is then. None leaves what is there.

        When it is not open for the first time it has ended, and its name is free. It cannot be open again.
        """

    def add_event(event: str, job: IJob | None, data: Mapping[str, Any]) -> Deferred[int]:
        """Write down what happened; return its number.

        :param data: Becomes JSON.
        """

    def events(since: int, most: int = 1000) -> Deferred[list[dict[str, Any]]]:
        """Return at most so many events after a number, oldest first.

        Each has ``number``, ``time`` (ISO 8601, UTC), ``event``, ``job_id``, ``job`` and ``data``. If none has had that
        number yet, fails with `docker_tracker.errors.RefusedError`.
        """

    def adopt_instance(instance: str) -> Deferred[None]:
        """Write down that we answer for what a lost tracker made."""

    def adopted_instances() -> Deferred[list[str]]:
        """Return the lost trackers that we answer for."""

    def find(reference: str) -> Deferred[list[tuple[Resource, IJob | None, Intent | None]]]:
        """Return what a reference means, removed things included, the newest first, each with job and intent.

        Fails with `docker_tracker.errors.RefusedError` (400) if it is the beginning of several IDs.

        :param reference: A full ID, a name, or at least four characters that one ID begins with.
        """

    def lost_of(job_id: str) -> Deferred[list[Intent]]:
        """Return a job's intents that are open or lost."""

    def check_engine(engine: str) -> Deferred[None]:
        """Write down the engine's ID (`IEngine.identity`) at its first sight; fail for any other one."""

    def intend(intent: Intent, engine: str) -> Deferred[int]:
        """Write down that a create is about to be forwarded; return the intent's number.

        :param engine: As for `check_engine`.
        """

    def record(intent: int, resources: Sequence[Resource], state: State | None = None) -> Deferred[None]:
        """Write down what an intent led to, and settle it if a state is given.

        A resource that the job has already is brought up to date. What another job made is recorded as used.
        """

    def settle(intent: int, state: State) -> Deferred[None]:
        """Write down what became of an intent."""

    def settle_owed() -> Deferred[None]:
        """Write down what could not be when it was due (a full disk): what intents led to, and what became of them."""

    def removed(kind: str, identifiers: Sequence[str]) -> Deferred[None]:
        """Write down that resources exist no more, whoever's they were; of unknown ones only `adopt` hears."""

    def removed_reference(kind: str, reference: str) -> Deferred[None]:
        """As `removed`, for what the engine knew by a name, an ID or a unique beginning of an ID."""

    def renamed(kind: str, reference: str, name: str) -> Deferred[None]:
        """Write down that what the engine knew by ``reference`` has another name now."""

    def gone(resources: Sequence[Resource]) -> Deferred[None]:
        """Write down that resources exist no more, but for those that an intent led to after they were read."""

    def resources(
        job_id: str | None = None, kind: str | None = None, everything: bool = False
    ) -> Deferred[list[Resource]]:
        """Return resources that exist (``everything``: removed ones, too), of one job or all, of one kind or all."""

    def hand_over(resources: Sequence[Resource], job_id: str) -> Deferred[bool]:
        """Write down that what a job made is an open job's from now on, and was used by the first one.

        :return: False: that job is not open, and nothing has changed.
        """

    def adopt(resources: Sequence[Resource], since: float) -> Deferred[list[Resource]]:
        """Write down what the engine's labels say is a job's (`Resource.job_id`), whatever led to it.

        Passed by are jobs that the ledger does not know, what a job is known to have made, and what was seen to be
        removed at ``since`` (seconds since the epoch, before the engine was asked) or later.

        :return: What was new.
        """

    def lost() -> Deferred[list[tuple[Intent, list[Resource]]]]:
        """Return the intents whose answer nobody saw, each with what is recorded of it."""

    def prune() -> Deferred[None]:
        """Forget what is over and older than is to be kept."""

    def on_lost(callback: Callable[[], None]) -> None:
        """Have a callback called whenever an intent was lost: the engine has to be looked at."""


class IEngine(Interface):
    """The engine, for our own calls (not for the traffic).

    :raises docker_tracker.errors.EngineError: (every call) it is absent, slow, or answered an error.
    """

    address: str = Attribute("As the configuration names it.")

    def get(path: str, parameters: Mapping[str, str] | None = None) -> Awaitable[Any]:
        """Return the JSON answer of a GET; None for a 404.

        :param path: Without a version; names in it are quoted (`urllib.parse.quote`, nothing safe).
        """

    def request(
        method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> Awaitable[tuple[int, Any]]:
        """Return the status and the JSON answer (None if it has no body) of any call, errors included."""

    def identity() -> Awaitable[str]:
        """Return what tells this engine from every other one; asked of it once for each of its lives.

        See `docker_tracker.engine.identity.identity_of`.
        """

    def forget() -> None:
        """Ask for the identity anew: the engine that answers next may be another one."""

    def lines(
        path: str,
        parameters: Mapping[str, str] | None,
        on_line: Callable[[bytes], Any],
        on_open: Callable[[], None] | None = None,
    ) -> Awaitable[None]:
        """Call back with each line of an endless answer until the engine ends it.

        Nothing more is read while a Deferred that the callback returned has not fired. Cancelling ends the call.

        :param on_open: Called when the answer's head is in.
        """


class IDaemon(Interface):
    """What a plug-in may use of the daemon."""

    clock: IReactorTime = Attribute("For delays, deadlines and durations: nobody sets it.")
    settings: Any = Attribute("The effective `docker_tracker.config.Settings`.")
    instance: str = Attribute("The ID of this installed tracker.")
    ledger: ILedger = Attribute("Shared by all jobs.")
    engine: IEngine = Attribute("For calls of one's own.")
    counts: Counts = Attribute("What ``/metrics`` shows.")
    image_work: ImageWorks = Attribute("The classic builds and loads that are under way.")

    def now() -> float:
        """Return the seconds since the epoch by the machine's clock, which people and programs set: for time stamps."""

    def on_reopen(callback: Callable[[], None]) -> Callable[[], None]:
        """Have a callback called at each SIGHUP: reopen your files.

        :return: Withdraws it; for when the interceptor stops. To call it again does nothing.
        """
