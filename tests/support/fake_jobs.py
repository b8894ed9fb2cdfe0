"""Jobs in memory, for tests of what is served from them; and a control socket that serves them."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from docker_tracker.control.door import ControlService
from docker_tracker.control.peer import Who
from docker_tracker.counts import Counts
from docker_tracker.errors import RefusedError
from docker_tracker.interfaces import IJobs, ILease
from docker_tracker.job import JobRequest, JobState, ReapItem, ReapReport
from docker_tracker.job_record import Job
from docker_tracker.records import Resource
from docker_tracker.testing import FakeEngine, FakeLedger

#: When everything of the fake happened, in seconds since the epoch.
THEN = 1_700_000_000.0


@implementer(ILease)
@attrs.define(eq=False)
class FakeLease:
    """A lease that says whether it was let go."""

    released: int = 0

    def release(self) -> None:
        self.released += 1


@implementer(IJobs)
@attrs.define(eq=False)
class FakeJobs:
    """See `IJobs`; whatever is asked for is done at once, but for what waits for `gate`.

    :ivar known: All jobs, oldest first.
    :ivar asked: What was done, in order.
    :ivar leases: That were taken.
    :ivar happened: All events; `happen` adds one.
    :ivar error: If set, what changes something fails with it.
    :ivar gate: If set, `over`, `reap` and `reconcile` wait for it.
    :ivar page: How many events are given at once.
    :ivar read: How many were given.
    """

    known: list[Job] = attrs.field(factory=list)
    asked: list[tuple[Any, ...]] = attrs.field(factory=list)
    leases: list[FakeLease] = attrs.field(factory=list)
    happened: list[dict[str, Any]] = attrs.field(factory=list)
    error: Exception | None = None
    gate: Deferred[None] | None = None
    page: int = 1000
    read: int = 0
    left: tuple[ReapItem, ...] = ()
    meanings: list[Mapping[str, Any]] = attrs.field(factory=list)
    listeners: list[Callable[[Mapping[str, Any]], None]] = attrs.field(factory=list)

    def make(self, name: str, **more: Any) -> Job:
        """Add a job."""
        more.setdefault("request", JobRequest(name=name))
        more.setdefault("owner", os.geteuid())
        identifier = f"{len(self.known) + 1:032x}"
        job = Job(id=identifier, socket=f"/run/jobs/{name}.sock", created=THEN, **more)
        self.known.append(job)
        return job

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    async def start(self, request: JobRequest, owner: int | None, pid: int | None) -> Job:
        """See `IJobs.start`."""
        self._check()
        self.asked.append(("start", request, owner, pid))
        if any(job.name == request.name and job.state is JobState.OPEN for job in self.known):
            raise RefusedError(f"there is a job {request.name} already", 409)
        return self.make(request.name, request=request, owner=owner)

    def get(self, reference: str) -> Job:
        """See `IJobs.get`."""
        found = [job for job in self.known if reference in (job.id, job.name)]
        if not found:
            raise RefusedError(f"there is no job {reference[:80]!r}", 404)
        return next((job for job in found if job.state is JobState.OPEN), found[-1])

    def jobs(self, everything: bool = False) -> list[Any]:
        """See `IJobs.jobs`."""
        return [job for job in self.known if everything or job.state is not JobState.GONE]

    def change(self, reference: str, **more: Any) -> Job:
        """Have a job be otherwise."""
        job = self.get(reference)
        changed = attrs.evolve(job, **more)
        self.known[self.known.index(job)] = changed
        return changed

    async def end(self, reference: str, reason: str, failed: bool = False) -> Job:
        """See `IJobs.end`."""
        self._check()
        self.asked.append(("end", reference, reason, failed))
        return self.change(reference, state=JobState.DRAINING, ended=THEN + 60, reason=reason)

    async def over(self, reference: str) -> Job:
        """See `IJobs.over`."""
        await self._pass()
        report = self._report(self.get(reference), False)
        return self.change(reference, state=JobState.GONE if report.complete else JobState.FAILED, report=report)

    async def _pass(self) -> None:
        if self.gate is not None:
            await self.gate

    def _report(self, job: Job, dry_run: bool) -> ReapReport:
        return ReapReport(
            job_id=job.id, job=job.name, dry_run=dry_run, began=THEN, seconds=1.5, passes=2, items=self.left
        )

    def lease(self, reference: str) -> FakeLease:
        """See `IJobs.lease`."""
        self._check()
        self.asked.append(("lease", reference))
        self.leases.append(FakeLease())
        return self.leases[-1]

    async def reap(self, reference: str, dry_run: bool = False) -> ReapReport:
        """See `IJobs.reap`."""
        self._check()
        self.asked.append(("reap", reference, dry_run))
        await self._pass()
        return self._report(self.get(reference), dry_run)

    async def reconcile(self, dry_run: bool = False, adopt: str = "") -> ReapReport:
        """See `IJobs.reconcile`."""
        self._check()
        self.asked.append(("reconcile", dry_run, adopt))
        await self._pass()
        return ReapReport(job_id="", job="", dry_run=dry_run, began=THEN, items=self.left)

    async def why(self, reference: str) -> list[Mapping[str, Any]]:
        """See `IJobs.why`."""
        self._check()
        self.asked.append(("why", reference))
        return self.meanings

    def happen(self, event: str, job: Job | None = None, **data: Any) -> None:
        """Let something happen."""
        number = len(self.happened) + 1
        of_job = {"job_id": None if job is None else job.id, "job": None if job is None else job.name}
        self.happened.append(
            {"number": number, "time": "2023-11-14T22:13:20.000Z", "event": event, **of_job, "data": data}
        )
        for each in list(self.listeners):
            each(self.happened[-1])

    def events(self, since: int, on_event: Callable[[Mapping[str, Any]], None] | None = None) -> Deferred[list[Any]]:
        """See `IJobs.events`."""
        self._check()
        if on_event is not None:
            self.listeners.append(on_event)
        found = [event for event in self.happened if event["number"] > since][: self.page]
        self.read += len(found)
        return succeed(found)

    def stop_events(self, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        """See `IJobs.stop_events`."""
        self.listeners.remove(on_event)


def meaning(resource: Resource, job: Job | None, **who: str) -> dict[str, Any]:
    """Return what `IJobs.why` says of one resource."""
    shown = attrs.asdict(resource, filter=lambda field, _: field.name not in ("attributes", "number", "intent"))
    return {
        "resource": {**shown, "relation": resource.relation.value},
        "job": None if job is None else {"id": job.id, "name": job.name, "state": job.state.value},
        "intent": {
            "operation": "container_create",
            "exchange": 7,
            "started": THEN,
            "state": "done",
            "names": [["container", resource.name]],
        },
        "who": who,
    }


def listening(path: Path) -> socket.socket:
    """Return a socket as the daemon hands one over."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.bind(str(path))
    sock.listen(300)
    return sock


@attrs.define(eq=False)
class Served:
    """A control socket that is served in a thread, with a reactor of its own.

    :ivar path: The socket's.
    """

    path: Path
    jobs: FakeJobs = attrs.field(factory=FakeJobs)
    ledger: FakeLedger = attrs.field(factory=FakeLedger)
    engine: FakeEngine = attrs.field(factory=FakeEngine)
    counts: Counts = attrs.field(factory=Counts)
    reactor: Any = None
    service: Any = None

    def call(self, function: Callable[[], Any]) -> None:
        """Have something done in the reactor's thread."""
        self.reactor.callFromThread(function)


@contextmanager
def served(allowed: Who | None = None) -> Iterator[Served]:
    """Serve jobs at a new path, in a thread; for what blocks: the client command."""
    with tempfile.TemporaryDirectory(prefix="dt-", dir="/tmp") as directory:
        it = Served(Path(directory) / "control.sock")
        ready = threading.Event()

        def run() -> None:
            it.reactor = AsyncioSelectorReactor(asyncio.new_event_loop())
            sock = listening(it.path)
            it.service = ControlService(
                it.reactor, sock, it.jobs, it.ledger, it.engine, it.counts, allowed or Who(), "instance-1"
            )
            it.reactor.addSystemEventTrigger("before", "shutdown", it.service.close)
            it.reactor.callWhenRunning(ready.set)
            it.reactor.run(installSignalHandlers=False)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        if not ready.wait(20):
            raise AssertionError("the control socket is not served")
        try:
            yield it
        finally:
            it.reactor.callFromThread(it.reactor.stop)
            thread.join(20)
            if thread.is_alive():
                raise AssertionError("the control socket does not stop")
