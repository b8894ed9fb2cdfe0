"""Interceptor ``nested-socket``: a container that has the engine's socket mounted gets its job's own instead.

What is made through it then belongs to the job, too. A convenience and no guard: the engine follows symbolic links
when the container starts, and what a path leads to may have changed by then; local volumes and privileged containers
reach the engine's socket all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from docker_tracker.connections import EngineAddress
from docker_tracker.engine import binds
from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.engine.start import check_start
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Exchange, Stage
from docker_tracker.host_paths import HostPaths, Identity, above, clean
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.interfaces import IDaemon, IJob
from docker_tracker.job import DEFAULT

T = TypeVar("T")

_START: Final = "container_start"  # could bring a HostConfig along
_OF_CONFIGURATIONS: Final = Path("/etc")
_OWN_NAME: Final = "docker-tracker"
_KNOWN: Final = ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock")
_OF_USERS: Final = ("/run/user/{}/docker.sock", "/run/user/{}/podman/podman.sock")


def _one_of(*allowed: str) -> Callable[[Any, attrs.Attribute[str], str], None]:
    def check(_: Any, field: attrs.Attribute[str], value: str) -> None:
        if value not in allowed:
            raise ValueError(f"{field.name} must be one of {', '.join(allowed)}, not {value!r}")

    return check


@attrs.frozen
class NestedSocketSettings:
    """The table [interceptor.nested-socket].

    :ivar mode: What becomes of a mount of the engine's socket: ``on``, it becomes one of the job's own; ``refuse``;
        ``off``, all mounts pass.
    :ivar parents: What becomes of a mount of a directory with such a socket, or with our own directories, somewhere in
        it: ``leave`` or ``refuse``.
    """

    mode: str = attrs.field(default="on", validator=_one_of("on", "off", "refuse"))
    parents: str = attrs.field(default="leave", validator=_one_of("leave", "refuse"))


@attrs.frozen(kw_only=True)
class _Look:
    """What a create's sources are: found in one look at the file system.

    :ivar own: The job's own socket.
    :ivar sockets: The engine's, and those of our listeners.
    :ivar ours: Those in our own directories.
    :ivar parents: Directories above all these.
    :ivar reachable: Whether the engine is known to find the job's socket under its path.
    :ivar absent: Whether it is known not to.
    """

    own: tuple[str, ...]
    sockets: tuple[str, ...]
    ours: tuple[str, ...]
    parents: tuple[str, ...]
    reachable: bool
    absent: bool


@attrs.frozen
class Places:
    """Where the sockets and our own files are.

    :ivar engine: Its socket is looked for in our mount name space, as well as in its own.
    :ivar socket: The job's own, or the empty string.
    :ivar listeners: Paths of all sockets that are as good as the engine's.
    :ivar ours: Files and directories that no job has any business with.
    """

    engine: EngineAddress
    socket: str
    listeners: tuple[str, ...]
    ours: tuple[str, ...]

    def look(self, sources: Iterable[str]) -> _Look:
        """Say what paths of the engine's are; blocks."""
        paths = HostPaths.of_engine(self.engine)
        here = HostPaths(None if paths.root is None else "/")
        uid = os.geteuid()
        known = (*_KNOWN, *(path.format(uid) for path in _OF_USERS))
        engine = (self.engine.path,) if self.engine.kind == "unix" else ()
        own = _Set.of((self.socket,) if self.socket else (), paths, here)
        sockets = _Set.of((*engine, *self.listeners), paths, here).with_known(known, paths)
        ours = _Set.of(self.ours if paths.root is not None else (), paths, here)
        found: dict[str, list[str]] = {"own": [], "sockets": [], "ours": [], "parents": []}
        for source in sources:
            path = paths.resolve(source)
            identity = paths.identity(path)
            written = clean(source)
            if own.has(written, path, identity):
                found["own"].append(source)
            elif sockets.has(written, path, identity):
                found["sockets"].append(source)
            elif ours.contains(path, paths):
                found["ours"].append(source)
            elif any(each.is_below(path, identity) for each in (own, sockets, ours)):
                found["parents"].append(source)
        where = paths.resolve(self.socket) if self.socket else ""
        reachable = bool(where) and (
            paths.root == "/" or (paths.root is not None and paths.identity(where) in own.identities)
        )
        absent = not reachable and paths.root is not None
        return _Look(reachable=reachable, absent=absent, **{name: tuple(each) for name, each in found.items()})


@attrs.frozen
class _Set:
    """Files and directories, by all that they can be known by.

    :ivar written: Paths as somebody wrote them, whether anything is there or not.
    :ivar resolved: The same without symbolic links.
    :ivar identities: Theirs.
    :ivar above: The directories above them.
    :ivar above_identities: Theirs.
    """

    written: frozenset[str]
    resolved: frozenset[str]
    identities: frozenset[Identity]
    above: frozenset[str]
    above_identities: frozenset[Identity]

    @classmethod
    def of(cls, names: Iterable[str], paths: HostPaths, here: HostPaths) -> _Set:
        """Return what paths of ours stand for, here and where the engine is."""
        written = [clean(name) for name in names]
        resolved = {*map(paths.resolve, written), *map(here.resolve, written)}
        own = {identity for name in written if (identity := here.identity(name)) is not None}
        directories = {directory for name in resolved for directory in above(name)}
        found = {identity for name in directories if (identity := here.identity(name)) is not None}
        return cls(*map(frozenset, (written, resolved, own, directories, found)))  # type: ignore[arg-type]

    def with_known(self, names: Iterable[str], paths: HostPaths) -> _Set:
        """Return it with paths of the engine's; what is above them counts only if they are there."""
        there = [paths.resolve(name) for name in names if paths.identity(paths.resolve(name)) is not None]
        directories = {directory for name in there for directory in above(name)}
        return attrs.evolve(
            self,
            written=self.written | set(names),
            resolved=self.resolved | set(there),
            identities=self.identities | {each for name in there if (each := paths.identity(name)) is not None},
            above=self.above | directories,
            above_identities=self.above_identities
            | {each for name in directories if (each := paths.identity(name)) is not None},
        )

    def has(self, written: str, resolved: str, identity: Identity | None) -> bool:
        """Whether a path means one of them."""
        return written in self.written or resolved in self.resolved or identity in self.identities

    def contains(self, path: str, paths: HostPaths) -> bool:
        """Whether a path without links is one of them, or below one."""
        return any(each in self.resolved or paths.identity(each) in self.identities for each in (path, *above(path)))

    def is_below(self, path: str, identity: Identity | None) -> bool:
        """Whether one of them is somewhere below a path."""
        return path in self.above or identity in self.above_identities


@attrs.frozen
class NestedSocket(Interceptor):
    """Puts the job's socket in the place of the engine's."""

    settings: NestedSocketSettings
    places: Places
    threads: Any = None
    _said: set[str] = attrs.field(factory=set)
    fail_closed = True

    log = Logger()

    def wants(self, operation: Operation) -> Stage:
        """Ask for the bodies that have mounts, and for a start's, which must have none."""
        wanted = operation.name in binds.OPERATIONS or operation.name == _START
        return Stage.REQUEST_JSON if wanted and self.settings.mode != "off" else Stage.NOTHING

    async def request_json(self, exchange: Exchange, document: Document) -> Document | None:
        """Look at the sources, and replace or refuse them.

        :raises RefusedError: a source may not be mounted.
        """
        name = exchange.call.operation.name
        if name == _START:
            check_start(document)
            return None
        sources = binds.bind_sources(document, name)
        if not sources:
            return None
        look = await self._aside(lambda: self.places.look(sources))
        self._check(look)
        if look.own and look.absent:  # the engine would make a directory of that name
            raise RefusedError(f"{look.own[0]} may not be mounted: the engine's host does not have this socket", 400)
        if look.own and not look.reachable:
            self._say(f"{look.own[0]} is mounted, and it is not known whether the engine's host has this socket")
        if not look.sockets:
            return None
        if not look.reachable:
            self._say(f"{look.sockets[0]} is mounted as it is: the job has no socket that the engine's host can see")
            return None
        edited = binds.with_sources(document, name, dict.fromkeys(look.sockets, self.places.socket))
        return edited if edited.changed else None

    def _check(self, look: _Look) -> None:
        sockets = (*look.sockets, *look.own)
        if self.settings.mode == "refuse" and sockets:
            raise RefusedError(f"{sockets[0]} may not be mounted: this job's containers get no engine's socket", 403)
        if look.ours:
            raise RefusedError(f"{look.ours[0]} may not be mounted: it belongs to the tracker", 403)
        if not look.parents:
            return
        if self.settings.parents == "refuse":
            raise RefusedError(
                f"{look.parents[0]} may not be mounted: the engine's socket, or files of the tracker's, are in it;"
                " mount what is needed of it",
                403,
            )
        self._say(f"{look.parents[0]} is mounted as it is, and has a socket of the engine's or files of ours in it")

    def _say(self, sentence: str) -> None:
        """Log a sentence, the first time."""
        if len(self._said) < 100 and sentence not in self._said:
            self._said.add(sentence)
            self.log.warn("{sentence}", sentence=sentence)

    async def _aside(self, work: Callable[[], T]) -> T:
        """Do what blocks without blocking others."""
        if self.threads is None:
            return work()
        found: T = await deferToThreadPool(self.threads, self.threads.getThreadPool(), work)
        return found


def _configuration(file: Path) -> list[Path]:
    """Return the configuration file, and its directory if that is for the tracker: keys and drop-ins are in there, too.

    One below ``/etc``, or named after us, is; a home or a project's directory, which jobs mount, is not.
    """
    directory = Path(clean(str(file))).parent
    own = directory.name.startswith(_OWN_NAME) or directory.is_relative_to(_OF_CONFIGURATIONS)
    return [file, directory] if own and directory != _OF_CONFIGURATIONS else [file]


def make(settings: NestedSocketSettings, job: IJob, daemon: IDaemon) -> NestedSocket:
    """Return the interceptor of a job."""
    told = daemon.settings
    listeners = tuple(listener.path for listener in told.listeners if listener.kind == "unix")
    socket = job.socket or (listeners[0] if job.name == DEFAULT and listeners else "")
    ours: list[Path | str] = [told.state_dir, told.run_dir, *told.plugin_dirs]
    ours += _configuration(told.config_file) if told.config_file is not None else []
    ours += [told.control] if told.control != "none" else []
    places = Places(told.engine, socket, listeners, tuple(map(str, ours)))
    threads = daemon.clock if IReactorThreads.providedBy(daemon.clock) else None
    return NestedSocket(settings, places, threads)


nested_socket = Plugin(name="nested-socket", settings=NestedSocketSettings, make=make)
