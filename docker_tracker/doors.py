"""Where a job's clients come in: sockets are bound, the job's plan is made, and clients are accepted.

Layer: below the daemon, which has the settings and starts all this.
"""

from __future__ import annotations

import os
import shlex
import socket
import ssl
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from docker_tracker.addresses import is_loopback
from docker_tracker.attribution import Attribution
from docker_tracker.config import BY_DEFAULT, Listener, Settings
from docker_tracker.descriptor_store import DescriptorStore
from docker_tracker.discovery import choose, make
from docker_tracker.errors import ConfigurationError, RefusedError, TrackerError
from docker_tracker.exchange import Peer
from docker_tracker.interfaces import IDaemon, IJob
from docker_tracker.job import DEFAULT
from docker_tracker.proxy.conversation import Conversation, Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.listener import Acceptor
from docker_tracker.proxy.plan import Named, Plan
from docker_tracker.proxy.sockets import listen_tcp, listen_unix, own_unix, passed_socket, remove_unix, sweep_unix
from docker_tracker.proxy.tls import client_context, server_context
from docker_tracker.sources import Found

_CGROUP_PARENT: Final = "cgroup-parent"
_LABELS: Final = "labels"
_NESTED_SOCKET: Final = "nested-socket"
_RECORDER: Final = "recorder"

log = Logger()


@attrs.frozen
class Bound:
    """A socket that listens; nobody is accepted yet.

    :ivar inode: Of a unix socket's file that we made, else None.
    :ivar stored: The name under which systemd keeps it, or the empty string.
    :ivar anew: Whether it is not the socket of before a restart.
    """

    listener: Listener
    sock: socket.socket
    context: ssl.SSLContext | None = None
    inode: int | None = None
    stored: str = ""
    anew: bool = True

    def __str__(self) -> str:
        address: Any = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix://{address}"
        host = f"[{address[0]}]" if self.sock.family == socket.AF_INET6 else address[0]
        return f"tcp://{host}:{address[1]}"


class Binder:
    """Binds the addresses of listeners.

    :param store: Where sockets outlive a restart.
    :param made: Directories that are ours to make.
    """

    def __init__(
        self, settings: Settings, environment: Mapping[str, str], store: DescriptorStore, made: Iterable[Path]
    ) -> None:
        self._settings, self._environment, self._store = settings, environment, store
        self._made = (*made,)
        self._inodes: set[int] = set()

    def bind(self, listener: Listener, name: str) -> Bound:
        """Bind one.

        :param name: Tells this one from others, for the time after a restart.
        :raises ConfigurationError: it cannot be had.
        """
        where = f"listen {listener}"
        if listener.kind == "unix":
            return self._unix(listener, name, where)
        if listener.kind == "systemd":
            sock = passed_socket(listener.address.index, listener.address.name, self._environment, where)
            self._check_passed(sock, where)
            return Bound(listener, sock)
        context = None
        if listener.kind == "tls":
            assert listener.certificate is not None
            assert listener.key is not None
            try:
                context = server_context(listener.certificate, listener.key, listener.client_ca)
            except OSError as error:
                raise ConfigurationError(where, f"its TLS files cannot be used: {error}") from error
        return Bound(listener, listen_tcp(listener.host, listener.port, where), context)

    def unbind(self, bound: Bound, forget: bool) -> None:
        """Close a socket, and take its file away.

        :param forget: Whether it is not to be there after a restart: then nobody keeps it for us any more.
        """
        bound.sock.close()
        if bound.inode is None:
            return
        self._inodes.discard(bound.inode)
        if forget or not bound.stored:
            remove_unix(Path(bound.listener.path), bound.inode)
            if bound.stored:
                self._store.drop(bound.stored, bound.inode)

    def sweep(self, directory: Path) -> None:
        """Give up what was kept over the restart and has not been bound, and remove files of sockets that are nobody's.

        :param directory: Where they are looked for.
        """
        sweep_unix(directory, self._inodes, self._store.rest())

    def _unix(self, listener: Listener, name: str, where: str) -> Bound:
        path = Path(listener.path)
        inode = _inode(path)
        kept = None if inode is None else self._store.take(name, inode)
        if inode is not None and kept is not None:
            bound = Bound(listener, kept, None, inode, name, anew=False)
            try:
                own_unix(path, listener.mode, listener.user, listener.group, where)
            except ConfigurationError:
                self.unbind(bound, forget=False)
                raise
            self._inodes.add(inode)
            return bound
        self._make_directory(path.parent, where)
        sock = listen_unix(path, listener.mode, listener.user, listener.group, where)
        inode = os.stat(path).st_ino
        self._inodes.add(inode)
        return Bound(listener, sock, None, inode, name if self._store.keep(name, inode, sock) else "")

    def _check_passed(self, sock: socket.socket, where: str) -> None:
        """Hold a socket that systemd bound to the rule for those that we bind: it may be anywhere."""
        if sock.family == socket.AF_UNIX:
            return
        host, port = sock.getsockname()[:2]
        if not is_loopback(host) and not self._settings.insecure_tcp:
            sock.close()
            raise ConfigurationError(
                where,
                f"systemd passed a plain TCP socket on {host}:{port}; all who reach it would be root: --insecure-tcp",
            )
        log.warn("{where} is TCP: every user of this machine can use the engine as root", where=where)

    def _make_directory(self, directory: Path, where: str) -> None:
        """Make a directory that is ours to make, for all to enter; any other one has to be there."""
        if directory not in self._made:
            return
        try:
            for missing in reversed([each for each in (directory, *directory.parents) if not each.exists()]):
                missing.mkdir(exist_ok=True)
                missing.chmod(0o755)  # the umask is 0077 in twistd's background (twisted.scripts._twistd_unix)
        except OSError as error:
            raise ConfigurationError(where, f"cannot make {directory}: {error.strerror}") from error
        for each in {directory, directory.parent}.intersection(self._made):
            mode = each.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise ConfigurationError(
                    where,
                    f"everyone can write to {each}, and put another socket in the place of ours; "
                    f"run: chmod o-w {shlex.quote(str(each))}",
                )


def _inode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:  # nothing is there
        return None


class Door:
    """Where the clients of one job come in; see `docker_tracker.tracking.jobs.Door`."""

    def __init__(self, hub: Hub, job: IJob, plan: Plan, binder: Binder, closed: Callable[[], object]) -> None:
        self.plan = plan
        self._closed = closed
        self._hub, self._job, self._binder = hub, job, binder
        self._acceptors: list[Acceptor] = []
        self._bound: list[Bound] = []
        self._ports: list[IListeningPort] = []
        self._accepted = 0
        #: How many clients have come in elsewhere, by the rules for a shared socket.
        self.attributed = 0

    @property
    def anew(self) -> list[str]:
        """The paths of its unix sockets that are not those of before a restart."""
        return [bound.listener.path for bound in self._bound if bound.anew and bound.inode is not None]

    def accept(self, bound: Bound, entrance: Entrance, choose: Callable[[Peer], Entrance] | None = None) -> None:
        """Let clients in at a socket.

        :param choose: As for `Acceptor`.
        """
        self._bound.append(bound)
        self._acceptors.append(Acceptor(self._hub, bound.sock, entrance, bound.context, choose))
        log.info("Listening on {address}", address=bound)

    def listen_elsewhere(self, listener: Listener, entrance: Entrance) -> None:
        """Listen on an endpoint that is none of ours.

        :raises ConfigurationError: it cannot be understood, or not be had.
        """
        from docker_tracker.proxy.foreign import ForeignFactory

        where = f"listen {listener}"
        try:
            endpoint = serverFromString(self._hub.reactor, str(listener))  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigurationError(where, f"Twisted does not understand it: {error}") from error
        failures: list[Failure] = []
        listening = endpoint.listen(ForeignFactory(self._hub, entrance))
        listening.addCallbacks(self._ports.append, failures.append)
        if failures:
            raise ConfigurationError(where, f"cannot listen: {failures[0].getErrorMessage()}")
        log.info("Listening on {address}", address=listener)

    def _conversations(self) -> list[Conversation]:
        return [each for each in self._hub.conversations if each.entrance.job_id == self._job.id]

    def connected(self) -> bool:
        """Whether a client is connected."""
        return any(each.entrance.job_id == self._job.id for each in self._hub.conversations)

    def busy(self) -> bool:
        """Whether a client is connected, or one was since this was last asked."""
        accepted = self.attributed + sum(acceptor.accepted for acceptor in self._acceptors)
        came, self._accepted = accepted > self._accepted, accepted
        return came or self.connected()

    def close(self, forget: bool = True) -> None:
        """Accept nobody any more; clients that do nothing are sent away.

        :param forget: Whether the sockets are not to be there after a restart.
        """
        self._closed()
        for acceptor in self._acceptors:
            acceptor.close()
        bound, self._bound = self._bound, []
        for each in bound:
            self._binder.unbind(each, forget)
        for conversation in self._conversations():
            conversation.drain()

    def clear(self) -> None:
        """Send away who is left, in the middle of what they do."""
        for conversation in self._conversations():
            conversation.abort()

    async def stop(self) -> None:
        """Close what the job's interceptors have open."""
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        for named in self.plan.interceptors:
            try:
                await named.interceptor.stop()
            except Exception:  # others' code; the rest must be closed all the same
                log.failure("interceptor {name} could not be stopped", name=named.name)


class Doors:
    """Makes doors, all to one engine.

    :param hub: Of all connections.
    :param daemon: For interceptors.
    :param binder: Binds what a job asks for.
    """

    def __init__(self, hub: Hub, settings: Settings, daemon: IDaemon, binder: Binder) -> None:
        self._hub, self._settings, self._daemon, self._binder = hub, settings, daemon, binder
        self._dialler: Dialler | None = None
        self._attribution = Attribution(settings.attribute)
        self._open: dict[str, tuple[IJob, Entrance, Door]] = {}
        self.listening: list[Bound] = []

    def listen(self) -> None:
        """Bind the listeners of the configuration, for the job "default".

        :raises ConfigurationError: one of them cannot be had; none is left behind.
        """
        try:
            for listener in self._settings.listeners:
                if listener.kind != "endpoint":  # an endpoint accepts as soon as it listens: later
                    self.listening.append(self._binder.bind(listener, f"listen {listener}"))
        except TrackerError:
            self.unlisten()
            raise

    def unlisten(self) -> None:
        """Close the listeners of the configuration, if no door has them; those of before a restart stay kept."""
        bound, self.listening = self.listening, []
        for each in bound:
            self._binder.unbind(each, forget=each.anew)

    def open(self, job: IJob) -> Door:
        """Accept a job's clients.

        :raises ConfigurationError: its addresses can't be had.
        :raises RefusedError: what it was asked to be can't be. In either case nothing is left behind.
        """
        plan = self.plan(job)
        entrance = Entrance("", job.id, job.name, plan, self._dial(), self._settings.limits, self._settings.debug)
        door = Door(self._hub, job, plan, self._binder, lambda: self._open.pop(job.id, None))
        self._open[job.id] = job, entrance, door
        try:
            if job.name == DEFAULT:
                self._open_default(door, entrance)
            else:
                for number, listener in enumerate(self._listeners(job)):
                    bound = self._binder.bind(listener, f"job {job.id} {number}")
                    door.accept(bound, attrs.evolve(entrance, listener=str(bound)))
        except BaseException:
            door.close()
            raise
        return door

    def plan(self, job: IJob) -> Plan:
        """Make a job's interceptors.

        :raises ConfigurationError: one cannot be made by what the configuration says.
        :raises RefusedError: one cannot be made by what the job was asked to be.
        """
        settings, request = self._settings, job.request
        sections = {**settings.interceptor_sections}
        for name, table in request.interceptors.items():
            if name not in settings.interceptors and not (
                settings.interceptors in BY_DEFAULT and name == _NESTED_SOCKET
            ):
                raise RefusedError(f"interceptors.{name}: this tracker has no such interceptor in use")
            sections[name] = {**sections.get(name, {}), **table}
        names = list(settings.interceptors)
        if _CGROUP_PARENT not in names and (request.own_cgroup or request.cgroup_parent is not None):
            names.insert(names.index(_LABELS) + 1 if _LABELS in names else 0, _CGROUP_PARENT)
        if job.name != DEFAULT and settings.interceptors in BY_DEFAULT:
            names.insert(names.index(_RECORDER), _NESTED_SOCKET)
        changed = attrs.evolve(settings, interceptors=tuple(names), interceptor_sections=sections)
        try:
            counts = self._daemon.counts
            return Plan(
                Named(chosen.plugin.name, make(chosen, job, self._daemon), counts) for chosen in choose(changed)
            )
        except ConfigurationError as error:
            if job.name == DEFAULT:
                raise
            raise RefusedError(f"the job cannot be so: {error}") from error

    def _open_default(self, door: Door, entrance: Entrance) -> None:
        for listener in self._settings.listeners:
            if listener.kind == "endpoint":
                door.listen_elsewhere(listener, attrs.evolve(entrance, listener=str(listener)))
        bound, self.listening = self.listening, []
        for each in bound:
            own = attrs.evolve(entrance, listener=str(each.listener))
            door.accept(each, own, self._chooser(own) if self._attribution.rules else None)

    def _chooser(self, own: Entrance) -> Callable[[Peer], Entrance]:
        """Return what says whose a client of a shared listener is: by the rules, or the job's "default"."""

        def choose(peer: Peer) -> Entrance:
            job = self._attribution.choose(peer, [each for each, _, _ in self._open.values()])
            if job is None:
                return own
            _, entrance, door = self._open[job.id]
            door.attributed += 1
            return attrs.evolve(entrance, listener=own.listener)

        return choose

    def _listeners(self, job: IJob) -> list[Listener]:
        """Return where a job listens: its socket first."""
        request = job.request
        own = {"address": f"unix://{job.socket}", "mode": f"{request.mode:04o}", "user": request.user}
        tables = [{**own, "group": request.group}, *request.listen]
        found = []
        for table in tables:
            if isinstance(table, dict):
                table = {key: value for key, value in table.items() if value is not None}
            try:
                listener = Listener.of(Found(table, "listen", typed=True))
            except ConfigurationError as error:
                raise RefusedError(str(error)) from error
            if listener.kind not in ("unix", "tcp", "tls") or (listener.kind != "unix" and not listener.port):
                raise RefusedError(f"listen: a job listens on unix sockets, and on TCP ports by number: not {listener}")
            if self._settings.engine.is_at(listener.address):
                raise RefusedError(f"listen: {listener} is where the engine is")
            if listener.exposed and not self._settings.insecure_tcp:
                raise RefusedError(f"listen: {listener} would be open to all who reach it: give it TLS")
            found.append(listener)
        return found

    def _dial(self) -> Dialler:
        if self._dialler is None:
            engine, context = self._settings.engine, None
            if engine.kind == "tls":
                try:
                    context = client_context(engine.ca, engine.certificate, engine.key, engine.verify)
                except OSError as error:
                    raise ConfigurationError(f"engine {engine}", f"its TLS files cannot be used: {error}") from error
            self._dialler = Dialler(self._hub, engine, self._settings.limits.connect_seconds, context)
        return self._dialler
