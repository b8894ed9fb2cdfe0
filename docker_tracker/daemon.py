"""The daemon: puts its parts together, starts them in order, and stops them in the opposite one.

Sockets are bound while we may still be root (`Daemon.privilegedStartService`); files, threads and the rest are opened
after twistd has forked and changed its user (`Daemon.startService`).
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from docker_tracker.checks import check_engine, check_outside, check_sockets
from docker_tracker.config import Listener, Settings
from docker_tracker.counts import Counts
from docker_tracker.descriptor_store import DescriptorStore
from docker_tracker.doors import Binder, Bound, Door, Doors
from docker_tracker.errors import ConfigurationError, TrackerError
from docker_tracker.image_work import ImageWorks
from docker_tracker.interfaces import IDaemon, IJob
from docker_tracker.job import DEFAULT, JobRequest
from docker_tracker.job_record import Job
from docker_tracker.notify import Notifier
from docker_tracker.open_file import OpenFile, Reopeners
from docker_tracker.permissions import check_private
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.wire import IReactor
from docker_tracker.sources import Found

if TYPE_CHECKING:
    from docker_tracker.jobs_service import JobsService
    from docker_tracker.tracking.client import EngineClient
    from docker_tracker.tracking.jobs import Door as JobsDoor
    from docker_tracker.tracking.ledger import Ledger

log = Logger()


class IDaemonReactor(IReactor, IReactorCore, IReactorFromThreads):
    """What the daemon needs of a reactor."""


def plain_job() -> Job:
    """Return the job of a daemon without interceptors: nothing of it is kept."""
    return Job(id=secrets.token_hex(16), request=JobRequest(name=DEFAULT))


@implementer(IDaemon)
class Daemon(Service):
    """One running docker-tracker.

    :param reactor: What everything runs on.
    :param settings: The effective ones.
    :param environment: For what systemd passes.
    :param log_file: The file that twistd logs to, so that SIGHUP can reopen it; None: standard output, or syslog.
    """

    instance: str = ""

    def __init__(
        self, reactor: IDaemonReactor, settings: Settings, environment: Mapping[str, str], log_file: Path | None = None
    ) -> None:
        self.settings = settings
        self.clock = reactor
        self.counts = Counts()
        self.image_work = ImageWorks()
        self._reactor = reactor
        self._environment = environment
        self._log_file = None if log_file is None else OpenFile(log_file)
        self._notifier = Notifier(reactor, environment)
        self._hub = Hub(reactor)
        store = DescriptorStore(environment)
        self._sockets_directory = settings.run_dir / "jobs"
        binder = Binder(settings, environment, store, (settings.run_dir, self._sockets_directory))
        self._doors = Doors(self._hub, settings, self, binder)
        self._control_socket: Bound | None = None
        self._binder = binder
        self._reopeners = Reopeners()
        self._lock: int | None = None
        self._ledger: Ledger | None = None
        self._engine: EngineClient | None = None
        self._door: Door | None = None
        self._jobs: JobsService | None = None

    # What plug-ins may use

    @property
    def ledger(self) -> Ledger:
        """Shared by all jobs; open from `startService` on."""
        if self._ledger is None:
            from docker_tracker.tracking.ledger import Keeping, Ledger  # not imported by a daemon that keeps nothing

            limits = self.settings.limits
            keeping = Keeping(seconds=limits.ledger_days * 86400, most=limits.ledger_rows)
            self._ledger = Ledger(
                self.settings.state_dir / "ledger.sqlite", self._reactor.callFromThread, keeping, counts=self.counts
            )
        return self._ledger

    @property
    def engine(self) -> EngineClient:
        """For calls of our own."""
        if self._engine is None:
            from docker_tracker.tracking.client import EngineClient

            self._engine = EngineClient(
                self._reactor, self.settings.engine, connect_seconds=self.settings.limits.connect_seconds
            )
        return self._engine

    def now(self) -> float:
        """Return the seconds since the epoch by the machine's clock."""
        return time.time()

    def on_reopen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a callback called at each SIGHUP, until what is returned is called."""
        return self._reopeners.add(callback)

    # Starting

    def check(self) -> None:
        """Build everything that can be built without opening anything.

        :raises ConfigurationError: the daemon would not start.
        """
        check_engine(self.settings.engine, self._sockets_directory)
        self._doors.plan(plain_job())
        self._reopeners.clear()  # those of interceptors that nobody will use

    def check_outside(self) -> None:
        """Look at what a start would look up, read, or append to.

        :raises ConfigurationError: something of it is not there, or of no use.
        """
        check_outside(self.settings)

    def privilegedStartService(self) -> None:
        """Bind all sockets.

        :raises ConfigurationError: one of them cannot be had; none is left behind.
        """
        self._doors.listen()
        settings = self.settings
        try:
            check_sockets(settings.engine, [bound.sock for bound in self._doors.listening])
        except ConfigurationError:
            self._doors.unlisten()
            raise
        if settings.control != "none" and self._keeps:
            table = {"address": f"unix://{settings.control}", "mode": f"{settings.control_mode:04o}"}
            owner = {"user": settings.control_user, "group": settings.control_group}
            table |= {key: value for key, value in owner.items() if value is not None}
            listener = Listener.of(Found(table, "control", typed=True))
            try:
                self._control_socket = self._binder.bind(listener, "control")
            except ConfigurationError:
                self._doors.unlisten()
                raise

    @property
    def _keeps(self) -> bool:
        """Whether there is a record, so that there can be jobs."""
        return "recorder" in self.settings.interceptors

    def startService(self) -> None:
        """Open the ledger, build the plan, accept clients, and say that we are ready.

        :raises docker_tracker.errors.TrackerError: something cannot be opened; all is closed again.
        """
        raise_descriptor_limit()
        if self._log_file is not None:
            self._log_file.find()
        try:
            if not self._doors.listening:  # a start without a privileged start, as tests do it
                self.privilegedStartService()
            job: IJob = plain_job()
            if self.settings.interceptors:
                job = self._open_state()
            if self._keeps:
                from docker_tracker.jobs_service import JobsService  # not imported by a daemon that keeps nothing

                self._jobs = JobsService(
                    self._reactor,
                    self.settings,
                    self._doors,
                    self._sockets_directory,
                    self.counts,
                    self.image_work,
                )
                self._jobs.start(self.ledger, self.engine, self.instance, self._control_socket)
            else:
                self._door = self._doors.open(job)
        except TrackerError:
            self._close_at_once()
            raise
        self._binder.sweep(self._sockets_directory)
        self._reactor.callWhenRunning(self._take_signals)
        Factory.noisy = False  # each connection to the engine would be two lines in the log
        super().startService()  # type: ignore[no-untyped-call]
        self._notifier.startService()

    def _open_state(self) -> IJob:
        from docker_tracker.instance import read_or_make
        from docker_tracker.state_lock import NAME, hold

        # Who can write there could rewrite the record, or put another file in its place.
        check_private(self.settings.state_dir.absolute(), os.geteuid())
        self.instance = read_or_make(self.settings.state_dir, self.settings.instance or "")
        used = (self.settings.state_dir / NAME).exists()  # made by the first daemon that takes it, and left there
        self._lock = hold(self.settings.state_dir)
        return self.ledger.open(self.instance, used=used)

    def _close_at_once(self) -> None:
        """Undo a start that failed."""
        if self._door is not None:
            self._door.close()
        self._doors.unlisten()
        if self._control_socket is not None:
            self._binder.unbind(self._control_socket, forget=self._control_socket.anew)
        if self._ledger is not None:
            self._ledger.close()
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    # Signals

    def _take_signals(self) -> None:
        """SIGTERM: stop, with exit status 0 (Twisted would end by the signal); SIGHUP: reopen files."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._reactor.callFromThread(self._reactor.stop)

        def reopen(number: int, frame: FrameType | None) -> None:
            self._reactor.callFromThread(self.reopen)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGHUP, reopen)

    def reopen(self) -> None:
        """Reopen the log, and whatever plug-ins have open."""
        if self._log_file is not None:
            self._log_file.reopen()
        log.info("files reopened")
        self._reopeners.tell()

    # Stopping

    def stopService(self) -> Deferred[None]:
        """Accept nobody, let exchanges in flight finish for a bounded time, close all."""
        self._notifier.stopService()
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        doors: Sequence[JobsDoor] = [] if self._door is None else [self._door]
        if self._jobs is not None:
            doors = await self._jobs.stop()
        if self._control_socket is not None:
            self._binder.unbind(self._control_socket, forget=False)
        for door in doors:
            door.close(forget=False)
        self._doors.unlisten()
        await self._hub.stop(self.settings.limits.drain_seconds)
        for door in doors:
            await door.stop()
        if self._engine is not None:
            await self._engine.close()
        if self._ledger is not None:
            await self._ledger.close()
        self._unlock()
        if self._jobs is not None and self._jobs.idle:
            from docker_tracker.private_state import discard

            discard(self.settings.state_dir, self.settings.run_dir)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: each client takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.info("the limit of open files was raised from {soft} to {hard}", soft=soft, hard=hard)
