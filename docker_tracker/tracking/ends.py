"""What ends a job of itself: a process, a container, a time to live, idleness, a lease that nobody holds any more.

`resolve` looks at what a request names, once; an `EndWatch` then waits for the first of them. Layer: tracking.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.engine.inventory import is_inspectable
from docker_tracker.errors import EngineError, RefusedError
from docker_tracker.interfaces import IEngine, IJob, ILease
from docker_tracker.job import Ends, Process
from docker_tracker.processes import has_ended
from docker_tracker.tracking.bell import Bell

_PROC: Final = Path("/proc")
_LOOK_SECONDS: Final = 30.0  # between two looks at a container whose events say nothing
_RETRY_SECONDS: Final = 2.0  # until the engine, or the kernel, is asked again after it failed
_DOUBT_SECONDS: Final = 20.0  # within which an engine that is being stopped (15 s for containers) answers no more
_IDLE_POLLS: Final = 10  # looks within the time that a job may be idle
_IDLE_BOUNDS: Final = (0.1, 5.0)  # seconds between two of them
_EVENTS: Final = ("die", "died", "stop", "destroy", "remove")  # Podman says died and remove

log = Logger()


class IEndReactor(IReactorTime, IReactorFDSet):
    """What an `EndWatch` needs of a reactor."""


class _HasEnded(Exception):
    """A process that was asked for is no more."""


async def resolve(ends: Ends, engine: IEngine) -> Ends:
    """Return what ends a job with the process and the container that are meant now.

    :param ends: As a client asked for. If it tells the start time or the boot ID of the process, they must be right:
        then nobody else's process can be taken for it, as from another pid name space.
    :raises RefusedError: there is no such process or container, or it does not run any more.
    :raises docker_tracker.errors.EngineError: the engine could not be asked.
    """
    process = None if ends.process is None else _resolved(ends.process)
    container = await _running(ends.container, engine) if ends.container else ""
    return attrs.evolve(ends, process=process, container=container)


def _resolved(asked: Process) -> Process:
    try:
        descriptor, found = _open(asked.pid)
    except _HasEnded:
        raise RefusedError(
            f"the tracker sees no process {asked.pid}: in another pid name space, hold a lease instead"
        ) from None
    except OSError as error:
        raise RefusedError(
            f"process {asked.pid} cannot be watched: {error.strerror}; hold a lease instead", 500
        ) from error
    os.close(descriptor)
    wanted = (asked.started or found.started, asked.boot or found.boot)
    if wanted != (found.started, found.boot):
        raise RefusedError(
            f"process {asked.pid} is another one for the tracker: in another pid name space, hold a lease instead"
        )
    return found


async def _running(reference: str, engine: IEngine) -> str:
    """Return the full ID of a container that runs, or is yet to be started."""
    if not is_inspectable(reference):  # the engine would say nothing that helps
        raise RefusedError(f"{reference[:80]!r} is no name of a container, nor an ID: the job cannot end with it")
    answer = await engine.get(_inspect_path(reference))
    if not isinstance(answer, Mapping) or not isinstance(answer.get("Id"), str):
        raise RefusedError(f"there is no container {reference[:80]!r}: the job cannot end with it")
    if not _goes_on(answer):
        raise RefusedError(
            f"container {reference[:80]!r} does not run any more: start it before a job that ends with it"
        )
    return str(answer["Id"])


def _inspect_path(reference: str) -> str:
    return f"/containers/{quote(reference, safe='')}/json"


def _goes_on(answer: Mapping[str, Any]) -> bool:
    """Return whether a container runs, or is yet to be started: one may mount a job's socket that ends with it.

    Paused or between two starts of its restart policy, it runs.
    """
    state = answer.get("State")
    if not isinstance(state, Mapping):
        return False
    # One that could not be started is "created", too.
    waits = state.get("Status") == "created" and not state.get("ExitCode") and not state.get("Error")
    return bool(state.get("Running") or state.get("Restarting") or waits)


def _comes_back(answer: Mapping[str, Any]) -> bool:
    """Return whether the engine starts a container again when it is started itself."""
    host_config = answer.get("HostConfig")
    policy = host_config.get("RestartPolicy") if isinstance(host_config, Mapping) else None
    return isinstance(policy, Mapping) and policy.get("Name") not in (None, "", "no")


def boot_id() -> str:
    """Return the ID of the host's boot.

    :raises OSError: it is not to be had.
    """
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()


def start_time(pid: int) -> int:
    """Return when a process began, in clock ticks since the boot.

    :raises OSError: there is no such process.
    """
    # The name, in parentheses, may have anything in it; the state, field 3 of proc(5), follows it.
    return int((_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[22 - 3])


def _open(pid: int) -> tuple[int, Process]:
    """Return a pidfd of a process that lives, and who that is.

    :raises _HasEnded: there is none.
    :raises OSError: the kernel does not say.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        raise _HasEnded from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # a thread's number
            raise _HasEnded from None
        raise
    try:
        process = Process(pid=pid, started=start_time(pid), boot=boot_id())
        # As it lives still, its number cannot have been another's when the start time was read.
        if has_ended(descriptor):
            raise _HasEnded
    except (FileNotFoundError, ProcessLookupError):
        os.close(descriptor)
        raise _HasEnded from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, process


class _Part(Protocol):
    def stop(self) -> None:
        """Wait no more."""


class EndWatch:
    """Waits for the first thing that ends a job, and says what it was.

    :param reactor: For delays, by a clock that nobody sets, and to be told when the process ends.
    :param engine: Tells when the container ends. While it does not answer, the container has not ended.
    :param job: Whose request is resolved.
    :param over: Is called with the reason, in words, at most once, and never within `start` or `lease`.
    :param busy: Whether the job has an exchange or a stream now, or had one since it was last asked.
    :param now: The time since the epoch in seconds, as `IJob.created`.
    """

    def __init__(
        self,
        reactor: IEndReactor,
        engine: IEngine,
        job: IJob,
        over: Callable[[str], None],
        busy: Callable[[], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._engine = engine
        self._job = job
        self._ends: Ends = job.request.ends
        self._over = over
        self._busy = busy
        self._now = now
        self._parts: list[_Part] = []
        self._process: _Part | None = None
        self._stopped = False
        self._holders: set[_Lease] = set()
        self._grace: _Deadline | None = None

    def start(self) -> None:
        """Begin to wait: for a new job, and after a restart of the tracker for each that is open."""
        ends = self._ends
        if ends.process is not None:
            self._watch_process(ends.process)
        if ends.container:
            self._parts.append(_Container(self._reactor, self._engine, ends.container, self._end_soon, self._now))
        if ends.ttl is not None:
            # A clock that was set back does not make it live longer than it was to live from now.
            left = min(max(self._job.created + ends.ttl - self._now(), 0.0), ends.ttl)
            self._parts.append(self._after(left, f"its time of {ends.ttl:g} s was over"))
        if ends.idle is not None:
            self._parts.append(_Idle(self._reactor, self._busy, ends.idle, self._end))
        self._await_holder()

    def lease(self) -> ILease:
        """Return a hold on the job; until it is released, a lease's grace does not run."""
        lease = _Lease(self._released)
        self._holders.add(lease)
        if self._grace is not None:
            self._grace.stop()
            self._grace = None
        return lease

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._stopped = True
        for part in (*self._parts, self._process, self._grace):
            if part is not None:
                part.stop()

    def _end(self, reason: str) -> None:
        if not self._stopped:
            self.stop()
            self._over(reason)

    def _end_soon(self, reason: str) -> None:
        self._parts.append(self._after(0.0, reason))

    def _after(self, seconds: float, reason: str) -> _Deadline:
        return _Deadline(self._reactor, seconds, lambda: self._end(reason))

    def _watch_process(self, process: Process) -> None:
        try:
            descriptor, found = _open(process.pid)
        except _HasEnded:
            found = None
        except OSError as error:
            log.error(
                "process {pid}, which the job ends with, cannot be watched: {problem}; trying again",
                pid=process.pid,
                problem=error.strerror,
                job=self._job.id,
            )
            self._process = _Deadline(self._reactor, _RETRY_SECONDS, lambda: self._watch_process(process))
            return
        if found == process:
            ended = f"process {process.pid} ended"
            self._process = _Death(self._reactor, descriptor, lambda: self._end(ended))
            return
        if found is not None:
            os.close(descriptor)
        self._process = self._after(0.0, f"process {process.pid} ended while nobody watched it")

    def _await_holder(self) -> None:
        if self._ends.lease is not None and not self._holders and not self._stopped:
            self._grace = self._after(self._ends.lease, f"nobody held its lease for {self._ends.lease:g} s")

    def _released(self, lease: _Lease) -> None:
        self._holders.discard(lease)
        self._await_holder()


@implementer(ILease)
@attrs.define(eq=False)
class _Lease:
    _released: Callable[[_Lease], None] | None

    def release(self) -> None:
        """See `ILease.release`."""
        released, self._released = self._released, None
        if released is not None:
            released(self)


class _Deadline:
    """Calls back once so many seconds have passed."""

    def __init__(self, reactor: IReactorTime, seconds: float, then: Callable[[], None]) -> None:
        self._call = reactor.callLater(seconds, then)

    def stop(self) -> None:
        """Do not call back."""
        if self._call.active():
            self._call.cancel()


class _Idle:
    """Looks from time to time whether a job is busy, and calls back when it was not for so many seconds."""

    def __init__(
        self,
        reactor: IReactorTime,
        busy: Callable[[], bool],
        seconds: float,
        end: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._busy = busy
        self._seconds = seconds
        self._end = end
        least, most = _IDLE_BOUNDS
        self._period = min(max(seconds / _IDLE_POLLS, least), most)
        self._since = reactor.seconds()
        self._call = reactor.callLater(self._period, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._call.active():
            self._call.cancel()

    def _look(self) -> None:
        now = self._reactor.seconds()
        if self._busy():
            self._since = now
        elif now - self._since >= self._seconds:
            self._end(f"nobody used it for {self._seconds:g} s")
            return
        self._call = self._reactor.callLater(self._period, self._look)


@implementer(IReadDescriptor)
class _Death:
    """A pidfd, which is ready to be read once its process has ended (pidfd_open(2))."""

    def __init__(self, reactor: IReactorFDSet, descriptor: int, then: Callable[[], None]) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._then = then
        reactor.addReader(self)

    def stop(self) -> None:
        """Wait no more."""
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """See `twisted.internet.interfaces.IFileDescriptor`."""
        return self._descriptor

    def doRead(self) -> None:
        """See `IReadDescriptor.doRead`."""
        self.stop()
        self._then()

    def connectionLost(self, reason: Failure) -> None:
        """See `twisted.internet.interfaces.IFileDescriptor`: the reactor ends, not the process."""
        self.stop()

    def logPrefix(self) -> str:
        """See `twisted.internet.interfaces.ILoggingContext`."""
        return "process"


class _Container:
    """Follows the events of one container, and looks at it whenever there is reason to.

    What is said of it while the engine restarts is not taken as its end: only an engine that answers can say so. One
    that is being stopped does still answer after it has stopped its containers (dockerd 20.10): those that it will
    start again have ended only if it still says so a while later.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        engine: IEngine,
        container: str,
        end: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._engine = engine
        self._container = container
        self._end = end
        self._now = now
        self._bell = Bell(reactor)
        self._breaks = 0  # of the engine's events
        self._stopped = False
        self._tasks = [Deferred.fromCoroutine(task) for task in (self._follow(), self._look())]
        for task in self._tasks:
            task.addErrback(self._ended)

    def stop(self) -> None:
        """Follow it no more."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    def _ended(self, failure: Failure) -> None:
        if not (self._stopped and failure.check(CancelledError)):  # type: ignore[no-untyped-call]
            log.failure("a container that a job ends with is not watched any more", failure)

    async def _follow(self) -> None:
        filters = {"type": ["container"], "container": [self._container], "event": list(_EVENTS)}
        while True:
            # From this second on, as the engine answers a moment before it begins to listen to its own events.
            parameters = {"since": str(int(self._now())), "filters": json.dumps(filters)}
            try:
                await self._engine.lines("/events", parameters, lambda line: self._bell.ring(), self._bell.ring)
            except EngineError:
                if self._stopped:  # a call that was cancelled may end as one that broke off
                    return
                self._breaks += 1
                self._bell.ring()  # what is wrong with it is said there
            await deferLater(self._reactor, _RETRY_SECONDS)

    async def _look(self) -> None:
        absent = False
        doubt: tuple[int, float] | None = None  # the breaks there were, and until when it may come back
        while True:
            self._bell.forget()
            try:
                answer = await self._engine.get(_inspect_path(self._container))
            except EngineError as error:
                if self._stopped:
                    return
                if not absent:
                    log.warn(
                        "container {container}, which a job ends with, is not seen: {problem}; trying again",
                        container=self._container[:12],
                        problem=str(error),
                    )
                absent, doubt = True, None
                await deferLater(self._reactor, _RETRY_SECONDS)
                continue
            absent = False
            seconds = _LOOK_SECONDS
            if answer is not None and _goes_on(answer):
                doubt = None
            else:
                if doubt is None or doubt[0] != self._breaks:
                    doubt = (self._breaks, self._reactor.seconds() + _DOUBT_SECONDS)
                seconds = doubt[1] - self._reactor.seconds()
                if answer is None or seconds <= 0 or not _comes_back(answer):
                    self._end(f"container {self._container[:12]} ended")
                    return
            await self._bell.wait(seconds)
