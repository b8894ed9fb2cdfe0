"""The control API: which calls there are, who may make them, and what they do. Layer: control.

`ROUTES` is the table of all calls; the reference is made from it. A call is checked wholly before anything is done.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

import twisted
from docker_tracker.control.peer import Caller, Who
from docker_tracker.control.probe import Probe
from docker_tracker.control.reading import flag, number, read_json, read_target
from docker_tracker.control.streams import EventStream, LeaseStream, Stream
from docker_tracker.control.tables import job_table, resource_table, why_table
from docker_tracker.counts import Counts
from docker_tracker.engine.catalogue import RESOURCE_KINDS
from docker_tracker.errors import ConfigurationError, EngineError, RefusedError, TrackerError
from docker_tracker.instance import check as check_instance
from docker_tracker.interfaces import IEngine, IJob, IJobs, ILedger
from docker_tracker.job import JobRequest
from docker_tracker.records import moment
from docker_tracker.version import version

log = Logger()

_MOST_REASON: Final = 200


@attrs.frozen(kw_only=True)
class Reply:
    """An answer.

    :ivar body: Becomes JSON, but for bytes.
    :ivar fields: More fields of its head.
    """

    body: Any
    status: int = 200
    content_type: str = "application/json"
    fields: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Asked:
    """A call.

    :ivar caller: Who makes it.
    :ivar everything: Whether that one may do everything.
    :ivar name: What stands for the variable of the route's path.
    :ivar query: Its parameters.
    :ivar body: From JSON.
    """

    caller: Caller
    everything: bool
    name: str
    query: Mapping[str, str]
    body: Any


class Api:
    """Answers calls.

    :param started: When the daemon was started, by the clock.
    :param jobs, ledger, engine, counts, allowed, instance: See `docker_tracker.control.door.ControlService`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        started: float,
        jobs: IJobs,
        ledger: ILedger,
        engine: IEngine,
        counts: Counts,
        allowed: Who,
        instance: str,
    ) -> None:
        self._clock, self._started, self._began = clock, started, time.time() - (clock.seconds() - started)
        self._jobs, self._ledger, self._engine, self._counts = jobs, ledger, engine, counts
        self._allowed, self._instance = allowed, instance
        self._probe = Probe(clock, engine)
        self._version = version()

    async def answer(self, caller: Caller, method: str, target: bytes, body: bytes) -> Reply | Stream:
        """Answer a request; never raises."""
        try:
            asked = read_target(target)
            route, name = _route(method, asked.parts)
            for parameter in asked.query:
                if parameter not in route.query:
                    known = ", ".join(route.query) or "none"
                    raise RefusedError(f"there is no parameter {parameter[:80]!r} here: there are {known}")
            if body and not route.body:
                raise RefusedError(f"{method} {route.path} takes no body")
            everything = self._allowed.includes(caller)
            if route.everything and not everything:
                raise RefusedError(
                    f"uid {caller.uid} may not do this: become root or a member of the control socket's group", 403
                )
            call = Asked(
                caller=caller,
                everything=everything,
                name=name,
                query=asked.query,
                body=read_json(body) if route.body else None,
            )
            return await route.handler(self, call)
        except _WrongMethod as error:
            return _error(405, error.message, Allow=", ".join(error.allowed))
        except RefusedError as error:
            return _error(error.status, error.message)
        except ConfigurationError as error:
            return _error(400, str(error))
        except EngineError as error:
            return _error(error.status, error.message)
        except TrackerError as error:
            log.error("{method} failed on the control socket: {error}", method=method, error=error)
            return _error(500, str(error))
        except Exception:
            log.failure("{method} failed on the control socket", method=method)
            return _error(500, "something went wrong in the daemon: its log says what")

    def _job(self, call: Asked) -> IJob:
        """Return the job that a call is about, if its caller may touch it."""
        job = self._jobs.get(call.name)
        if not call.everything and job.owner != call.caller.uid:
            raise RefusedError(
                f"the job {job.name} is not yours (uid {call.caller.uid}): become root or a member of the control"
                " socket's group",
                403,
            )
        return job

    def _own(self, call: Asked, jobs: list[IJob]) -> list[IJob]:
        return [job for job in jobs if call.everything or job.owner == call.caller.uid]

    def _own_ids(self, call: Asked) -> set[str] | None:
        """Return the IDs of the jobs that a caller may see; None: all."""
        return None if call.everything else {job.id for job in self._own(call, self._jobs.jobs(everything=True))}

    # Jobs

    async def list_jobs(self, call: Asked) -> Reply:
        """All jobs that are not gone; with ``all``, those, too, as far as they are remembered. An array of jobs."""
        return Reply(body=[job_table(job) for job in self._own(call, self._jobs.jobs(flag(call.query, "all")))])

    async def start_job(self, call: Asked) -> Reply:
        """Make a job; its socket accepts clients when the answer comes. The job."""
        request = JobRequest.of(call.body)
        return Reply(status=201, body=job_table(await self._jobs.start(request, call.caller.uid, call.caller.pid)))

    async def show_job(self, call: Asked) -> Reply:
        """A job."""
        return Reply(body=job_table(self._job(call)))

    async def end_job(self, call: Asked) -> Reply:
        """Have a job accept nobody any more, and remove what it made. With ``wait`` the answer comes when that is over.

        The job; its state says whether something is left.
        """
        reason, failed = _end_body(call)
        wait = flag(call.query, "wait")
        job = await self._jobs.end(self._job(call).id, reason, failed)
        return Reply(body=job_table(await self._jobs.over(job.id))) if wait else Reply(status=202, body=job_table(job))

    async def lease_job(self, call: Asked) -> Stream:
        """Hold a job for as long as the connection is there. Lines: the job, then empty ones as signs of life.

        The answer ends when the job does. Nothing has to be read.
        """
        job = self._job(call)
        return LeaseStream(self._clock, self._jobs, self._jobs.lease(job.id), job.id, job_table(job))

    async def show_report(self, call: Asked) -> Reply:
        """What the last reap of a job did. A report."""
        job = self._job(call)
        if job.report is None:
            raise RefusedError(f"the job {job.name} has not been reaped yet", 404)
        return Reply(body=job.report.table())

    async def reap_job(self, call: Asked) -> Reply:
        """Remove what a job has made up to now; an open job goes on. With ``dry-run`` nothing is removed. A report."""
        dry_run = flag(call.query, "dry-run")
        return Reply(body=(await self._jobs.reap(self._job(call).id, dry_run)).table())

    # What they made

    async def list_resources(self, call: Asked) -> Reply:
        """What jobs made and used and what exists; with ``all``, what is gone, too. An array of resources."""
        kind, reference, everything = call.query.get("kind"), call.query.get("job"), flag(call.query, "all")
        if kind is not None and kind not in RESOURCE_KINDS:
            raise RefusedError(f"there is no kind {kind[:80]!r}: there are {', '.join(RESOURCE_KINDS)}")
        job_id = None if reference is None else self._job(attrs.evolve(call, name=reference)).id
        found = await self._ledger.resources(job_id, kind, everything)
        own = self._own_ids(call)
        return Reply(body=[resource_table(each) for each in found if own is None or each.job_id in own])

    async def explain(self, call: Asked) -> Reply:
        """What is known of a resource, by ID, beginning of an ID, or name. An array: one object for each it may be."""
        found = [why_table(entry) for entry in await self._jobs.why(call.name)]
        own = self._own_ids(call)
        return Reply(body=[each for each in found if own is None or (each["job"] or {}).get("id") in own])

    async def reconcile(self, call: Asked) -> Reply:
        """Compare engine and ledger once, and mend the difference. A report.

        With ``dry-run`` nothing is removed; with ``adopt`` the things of the instance of that ID become ours; where it
        has none, that is a 404.
        """
        adopt = call.query.get("adopt", "")
        if adopt:
            check_instance(adopt, "adopt")
        return Reply(body=(await self._jobs.reconcile(flag(call.query, "dry-run"), adopt)).table())

    async def stream_events(self, call: Asked) -> Stream:
        """What happened after the event with the number ``since``, oldest first; with ``follow``, what happens, too.

        Lines: one event each.
        """
        stream = EventStream(self._jobs, number(call.query, "since"), flag(call.query, "follow"))
        await stream.load()
        return stream

    # The daemon

    async def health(self, call: Asked) -> Reply:
        """Say at once that the daemon runs. Versions, its start, and for how many seconds it has been running."""
        status = {"status": "running", "started": moment(self._began)}
        return Reply(body={**status, "uptime_seconds": self._clock.seconds() - self._started, **self._versions()})

    async def ready(self, call: Asked) -> Reply:
        """Ask the engine. The engine's address and versions; if it does not answer within 5 seconds, a 503."""
        seen = await self._probe.ask()
        if seen.problem:
            raise RefusedError(seen.problem, 503)
        engine = {"address": self._engine.address, "version": seen.version, "api_version": seen.api_version}
        return Reply(body={"status": "ready", "engine": engine})

    async def version(self, call: Asked) -> Reply:
        """Which daemon this is, and the address of its engine, which is not asked."""
        return Reply(body={**self._versions(), "engine": self._engine.address})

    def _versions(self) -> dict[str, str]:
        python = platform.python_version()
        return {"version": self._version, "instance": self._instance, "python": python, "twisted": twisted.__version__}

    async def metrics(self, call: Asked) -> Reply:
        """What the daemon has counted, for Prometheus (text format 0.0.4)."""
        from docker_tracker.control.metrics import CONTENT_TYPE, Scrape, exposition  # asked for by few

        seen = await self._probe.ask()
        try:
            resources = await self._ledger.resources()
        except TrackerError:  # it has been counted
            resources = None
        scrape = Scrape(
            counts=self._counts,
            version=self._version,
            started=self._began,
            engine=seen,
            states=[job.state.value for job in self._jobs.jobs()],
            resources=resources,
        )
        return Reply(body=exposition(scrape), content_type=CONTENT_TYPE)


@attrs.frozen
class Route:
    """A call of the API.

    :ivar method, path: ``{name}`` in the path stands for one segment.
    :ivar handler: What answers it; its docstring is what the reference says.
    :ivar everything: Whether it takes one who may do everything; if not, others see what is theirs.
    :ivar query: Its parameters, each with what it takes.
    :ivar body: What its body has, or the empty string: it takes none.
    """

    method: str
    path: str
    handler: Callable[[Api, Asked], Awaitable[Reply | Stream]]
    everything: bool = False
    query: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    body: str = attrs.field(default="", kw_only=True)


_FLAG: Final = "1 or 0"

ROUTES: Final = (
    Route("GET", "/jobs", Api.list_jobs, query={"all": _FLAG}),
    Route("POST", "/jobs", Api.start_job, True, body="what the job is to be: the table below"),
    Route("GET", "/jobs/{job}", Api.show_job),
    Route(
        "POST",
        "/jobs/{job}/end",
        Api.end_job,
        query={"wait": _FLAG},
        body=f"``reason``, a string of at most {_MOST_REASON} characters; ``failed``, a boolean; both may be left out",
    ),
    Route("GET", "/jobs/{job}/lease", Api.lease_job),
    Route("GET", "/jobs/{job}/report", Api.show_report),
    Route("POST", "/jobs/{job}/reap", Api.reap_job, query={"dry-run": _FLAG}),
    Route("GET", "/resources", Api.list_resources, query={"job": "a job", "kind": "a kind", "all": _FLAG}),
    Route("GET", "/why/{resource}", Api.explain),
    Route("POST", "/reconcile", Api.reconcile, True, query={"dry-run": _FLAG, "adopt": "an instance's ID"}),
    Route("GET", "/events", Api.stream_events, True, query={"since": "a number", "follow": _FLAG}),
    Route("GET", "/health", Api.health),
    Route("GET", "/ready", Api.ready),
    Route("GET", "/metrics", Api.metrics),
    Route("GET", "/version", Api.version),
)

_SPLIT: Final = [(tuple(route.path[1:].split("/")), route) for route in ROUTES]


@attrs.frozen
class _WrongMethod(Exception):
    message: str
    allowed: tuple[str, ...]


def _route(method: str, parts: tuple[str, ...]) -> tuple[Route, str]:
    """Return the route of a request, and what its path's variable stands for."""
    allowed = []
    for pattern, route in _SPLIT:
        if len(pattern) != len(parts):
            continue
        names = [part for each, part in zip(pattern, parts, strict=True) if each.startswith("{")]
        if all(each == part or (each.startswith("{") and part) for each, part in zip(pattern, parts, strict=True)):
            if route.method == method:
                return route, names[0] if names else ""
            allowed.append(route.method)
    if allowed:
        raise _WrongMethod(f"this takes {' or '.join(allowed)}", tuple(allowed))
    raise RefusedError("there is nothing here: the reference of the control API lists all paths", 404)


def _end_body(call: Asked) -> tuple[str, bool]:
    """Return the reason, and whether the job failed."""
    body = call.body
    if not isinstance(body, dict) or not body.keys() <= {"reason", "failed"}:
        raise RefusedError("the body must be an object with nothing but reason and failed")
    reason, failed = body.get("reason", f"ended by uid {call.caller.uid}"), body.get("failed", False)
    if not isinstance(reason, str) or not 0 < len(reason) <= _MOST_REASON or not reason.isprintable():
        raise RefusedError(f"reason must be a printable text of at most {_MOST_REASON} characters")
    if not isinstance(failed, bool):
        raise RefusedError("failed must be true or false")
    return reason, failed


def _error(status: int, message: str, **fields: str) -> Reply:
    return Reply(status=status, body={"message": message}, fields=fields)
