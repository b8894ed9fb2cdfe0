"""The daemon: puts its parts together, starts them in order, and stops them in the opposite one.

Sockets are bound while we may still be root (`Daemon.privilegedStartService`); files, threads and the rest are opened
after twistd has forked and changed its user (`Daemon.startService`).
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IReactorCore, IReactorFromThreads
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.addresses import is_loopback
from docker_tracker.config import Listener, Settings
from docker_tracker.discovery import choose, make
from docker_tracker.errors import ConfigurationError, TrackerError
from docker_tracker.interfaces import IDaemon, IJob
from docker_tracker.job import DEFAULT, JobRequest
from docker_tracker.job_record import Job
from docker_tracker.notify import Notifier
from docker_tracker.open_file import OpenFile
from docker_tracker.permissions import check_private
from docker_tracker.proxy.conversation import Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.listener import Acceptor
from docker_tracker.proxy.plan import Named, Plan
from docker_tracker.proxy.sockets import listen_tcp, listen_unix, passed_socket, remove_unix
from docker_tracker.proxy.tls import client_context, server_context
from docker_tracker.proxy.wire import IReactor

if TYPE_CHECKING:
    from docker_tracker.tracking.client import EngineClient
    from docker_tracker.tracking.ledger import Ledger
    from docker_tracker.tracking.watcher import Watcher

log = Logger()


class IDaemonReactor(IReactor, IReactorCore, IReactorFromThreads):
    """What the daemon needs of a reactor."""


def plain_job() -> Job:
    """Return the job of a daemon without interceptors: nothing of it is kept."""
    return Job(id=secrets.token_hex(16), request=JobRequest(name=DEFAULT))


@attrs.frozen
class _Bound:
    """A socket that listens; nobody is accepted yet."""

    listener: Listener
    sock: socket.socket
    context: ssl.SSLContext | None
    inode: int | None


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
        self._reactor = reactor
        self._environment = environment
        self._log_file = None if log_file is None else OpenFile(log_file)
        self._notifier = Notifier(reactor, environment)
        self._hub = Hub(reactor)
        self._bound: list[_Bound] = []
        self._acceptors: list[Acceptor] = []
        self._ports: list[IListeningPort] = []
        self._plan = Plan(())
        self._reopeners: list[Callable[[], None]] = []
        self._ledger: Ledger | None = None
        self._engine: EngineClient | None = None
        self._watcher: Watcher | None = None

    # What plug-ins may use

    @property
    def ledger(self) -> Ledger:
        """Shared by all jobs; open from `startService` on."""
        if self._ledger is None:
            from docker_tracker.tracking.ledger import Keeping, Ledger  # not imported by a daemon that keeps nothing

            limits = self.settings.limits
            keeping = Keeping(seconds=limits.ledger_days * 86400, most=limits.ledger_rows)
            self._ledger = Ledger(self.settings.state_dir / "ledger.sqlite", self._reactor.callFromThread, keeping)
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

    def on_reopen(self, callback: Callable[[], None]) -> None:
        """Have a callback called at each SIGHUP."""
        self._reopeners.append(callback)

    # Starting

    def check(self) -> None:
        """Build everything that can be built without opening anything.

        :raises ConfigurationError: the daemon would not start.
        """
        self._build_plan(plain_job())
        self._reopeners.clear()  # those of interceptors that nobody will use

    def privilegedStartService(self) -> None:
        """Bind all sockets.

        :raises ConfigurationError: one of them cannot be had; none is left behind.
        """
        try:
            for listener in self.settings.listeners:
                if listener.kind != "endpoint":  # an endpoint accepts as soon as it listens: later
                    self._bound.append(self._bind(listener))
        except TrackerError:
            self._unbind()
            raise

    def startService(self) -> None:
        """Open the ledger, build the plan, accept clients, and say that we are ready.

        :raises docker_tracker.errors.TrackerError: something cannot be opened; all is closed again.
        """
        raise_descriptor_limit()
        if self._log_file is not None:
            self._log_file.find()
        try:
            if not self._bound:  # a start without a privileged start, as tests do it
                self.privilegedStartService()
            job: IJob = plain_job()
            if self.settings.interceptors:
                from docker_tracker.tracking.instance import read_or_make

                # Who can write there could rewrite the record, or put another file in its place.
                check_private(self.settings.state_dir.absolute(), os.geteuid())
                self.instance = read_or_make(self.settings.state_dir, self.settings.instance or "")
                job = self.ledger.open(self.instance)
            self._plan = self._build_plan(job)
            self._accept(job, self._dialler())
        except TrackerError:
            self._unbind()
            if self._ledger is not None:
                self._ledger.close()
            raise
        if "recorder" in self.settings.interceptors:
            from docker_tracker.tracking.watcher import Watcher

            self._watcher = Watcher(
                self.engine,
                self.ledger,
                self._reactor,
                time.time,
                labelled="labels" in self.settings.interceptors,
            )
            self._watcher.startService()
        self._reactor.callWhenRunning(self._take_signals)
        Factory.noisy = False  # each connection to the engine would be two lines in the log
        super().startService()  # type: ignore[no-untyped-call]
        self._notifier.startService()

    def _accept(self, job: IJob, dialler: Dialler) -> None:
        entrance = Entrance("", job.id, job.name, self._plan, dialler, self.settings.limits, self.settings.debug)
        for listener in self.settings.listeners:
            if listener.kind == "endpoint":
                self._listen_elsewhere(listener, attrs.evolve(entrance, listener=str(listener)))
        for bound in self._bound:
            entrance = attrs.evolve(entrance, listener=str(bound.listener))
            self._acceptors.append(Acceptor(self._hub, bound.sock, entrance, bound.context))
            log.info("Listening on {address}", address=_where(bound))

    def _build_plan(self, job: IJob) -> Plan:
        return Plan(Named(chosen.plugin.name, make(chosen, job, self)) for chosen in choose(self.settings))

    def _dialler(self) -> Dialler:
        engine, context = self.settings.engine, None
        if engine.kind == "tls":
            try:
                context = client_context(engine.ca, engine.certificate, engine.key, engine.verify)
            except OSError as error:
                raise ConfigurationError(f"engine {engine}", f"its TLS files cannot be used: {error}") from error
        return Dialler(self._hub, engine, self.settings.limits.connect_seconds, context)

    def _bind(self, listener: Listener) -> _Bound:
        where = f"listen {listener}"
        context = inode = None
        if listener.kind == "tls":
            assert listener.certificate is not None
            assert listener.key is not None
            try:
                context = server_context(listener.certificate, listener.key, listener.client_ca)
            except OSError as error:
                raise ConfigurationError(where, f"its TLS files cannot be used: {error}") from error
        if listener.kind == "unix":
            path = Path(listener.path)
            self._make_run_directory(path.parent, where)
            sock = listen_unix(path, listener.mode, listener.user, listener.group, where)
            inode = os.stat(path).st_ino
        elif listener.kind == "systemd":
            sock = passed_socket(listener.address.index, listener.address.name, self._environment, where)
            self._check_passed(sock, where)
        else:
            sock = listen_tcp(listener.host, listener.port, where)
        return _Bound(listener, sock, context, inode)

    def _check_passed(self, sock: socket.socket, where: str) -> None:
        """Hold a socket that systemd bound to the rule for those that we bind: it may be anywhere."""
        if sock.family == socket.AF_UNIX:
            return
        host, port = sock.getsockname()[:2]
        if not is_loopback(host) and not self.settings.insecure_tcp:
            sock.close()
            raise ConfigurationError(
                where,
                f"systemd passed a plain TCP socket on {host}:{port}; all who reach it would be root: --insecure-tcp",
            )
        log.warn("{where} is TCP: every user of this machine can use the engine as root", where=where)

    def _listen_elsewhere(self, listener: Listener, entrance: Entrance) -> None:
        """Listen on an endpoint that is none of ours.

        :raises ConfigurationError: it cannot be understood, or not be had.
        """
        from docker_tracker.proxy.foreign import ForeignFactory

        where = f"listen {listener}"
        try:
            endpoint = serverFromString(self._reactor, str(listener))  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigurationError(where, f"Twisted does not understand it: {error}") from error
        failures: list[Failure] = []
        listening = endpoint.listen(ForeignFactory(self._hub, entrance))
        listening.addCallbacks(self._ports.append, failures.append)
        if failures:
            raise ConfigurationError(where, f"cannot listen: {failures[0].getErrorMessage()}")
        log.info("Listening on {address}", address=listener)

    def _make_run_directory(self, directory: Path, where: str) -> None:
        """Make the run directory if it is ours to make; any other one has to be there."""
        if directory == self.settings.run_dir:
            try:
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(where, f"cannot make {directory}: {error.strerror}") from error

    def _unbind(self) -> None:
        bound, self._bound = self._bound, []
        for each in bound:
            each.sock.close()
            if each.inode is not None:
                remove_unix(Path(each.listener.path), each.inode)

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
        for callback in self._reopeners:
            callback()

    # Stopping

    def stopService(self) -> Deferred[None]:
        """Accept nobody, let exchanges in flight finish for a bounded time, close all."""
        self._notifier.stopService()
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._unbind()
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        await self._hub.stop(self.settings.limits.drain_seconds)
        for named in self._plan.interceptors:
            try:
                await named.interceptor.stop()
            except Exception:  # others' code; the rest must be closed all the same
                log.failure("interceptor {name} could not be stopped", name=named.name)
        if self._watcher is not None:
            await self._watcher.stopService()
        if self._engine is not None:
            await self._engine.close()
        if self._ledger is not None:
            await self._ledger.close()


def _where(bound: _Bound) -> str:
    address: Any = bound.sock.getsockname()
    if bound.sock.family == socket.AF_UNIX:
        return f"unix://{address}"
    host = f"[{address[0]}]" if bound.sock.family == socket.AF_INET6 else address[0]
    return f"tcp://{host}:{address[1]}"


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: each client takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.info("the limit of open files was raised from {soft} to {hard}", soft=soft, hard=hard)
