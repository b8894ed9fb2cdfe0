"""Interceptor ``bind-paths``: paths that a client in a container has mounted are those that it sees itself.

The engine takes the source of a bind mount for a path of its host. For a job that is tied to a container, that of a CI
agent, it is looked up in that container's mounts, so that ``-v $PWD:/src`` works from inside.
"""

from __future__ import annotations

import posixpath
from typing import Any, Final

import attrs

from docker_tracker.engine import binds
from docker_tracker.engine.document import Document
from docker_tracker.engine.inventory import inspect_path
from docker_tracker.engine.operation import Operation
from docker_tracker.engine.start import check_start
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Exchange, Stage
from docker_tracker.host_paths import above, clean
from docker_tracker.interceptor import Interceptor, NoSettings, Plugin
from docker_tracker.interfaces import IDaemon, IEngine, IJob

_START: Final = "container_start"  # could bring a HostConfig along
#: The usual names of the engine's socket: where nothing is mounted there, ``nested-socket`` knows what is meant.
_SOCKETS: Final = ("/var/run/docker.sock", "/run/docker.sock")


@attrs.frozen
class _Mount:
    """What is mounted somewhere in a container.

    :ivar source: The path on the engine's host, or the empty string.
    :ivar kind: ``bind``, ``volume``, ``tmpfs`` or another; why there is no path.
    """

    source: str
    kind: str


@attrs.define(eq=False)
class ContainerPaths:
    """Where the paths of a container are on the engine's host; asked of the engine, and kept.

    :ivar container: Its full ID.
    """

    container: str
    engine: IEngine
    _mounts: dict[str, _Mount] | None = None

    async def translate(self, sources: list[str]) -> dict[str, str]:
        """Return for each path of the container's that of the host.

        :raises RefusedError: one has none, or there is no such container.
        :raises docker_tracker.errors.EngineError: the engine could not be asked.
        """
        kept = self._mounts
        try:
            mounts = await self._ask() if kept is None else kept
            return {source: self._path(source, mounts) for source in sources}
        except RefusedError:
            if kept is None:
                raise
        mounts = await self._ask()  # what is kept may be old
        return {source: self._path(source, mounts) for source in sources}

    async def _ask(self) -> dict[str, _Mount]:
        self._mounts = None
        container = await self.engine.get(inspect_path("container", self.container))
        if not isinstance(container, dict):
            raise RefusedError(
                f"the job's container {self.container[:12]} is gone, so that its paths mean nothing any more", 409
            )
        self._mounts = _read(container)
        return self._mounts

    def _path(self, source: str, mounts: dict[str, _Mount]) -> str:
        path = clean(source)
        for directory in (path, *above(path)):
            if directory not in mounts:
                continue
            mount = mounts[directory]
            if not mount.source.startswith("/"):
                raise self._refuse(source, f"is in a {mount.kind} at {directory}, which the engine's host does not see")
            return (
                posixpath.join(mount.source, posixpath.relpath(path, directory)) if path != directory else mount.source
            )
        if path in _SOCKETS:
            return source
        raise self._refuse(source, "is in its own file system, which the engine's host does not see")

    def _refuse(self, source: str, problem: str) -> RefusedError:
        return RefusedError(
            f"{source} cannot be mounted: in the job's container {self.container[:12]} it {problem};"
            " use a path that is mounted into that container from the host, or a volume"
        )


def _read(container: dict[str, Any]) -> dict[str, _Mount]:
    """Return the mounts of an inspected container by where they are."""
    document = Document(container, b"")
    parts = {
        clean(mount["Target"])
        for mount in _objects(document.get("HostConfig", "Mounts"))
        if isinstance(mount.get("Target"), str) and Document(mount, b"").get("VolumeOptions", "Subpath")
    }
    found = {}
    for mount in _objects(document.get("Mounts")):
        destination, source, kind = (str(mount.get(key) or "") for key in ("Destination", "Source", "Type"))
        where = clean(destination)
        if where in parts:  # the engine tells the whole volume's path
            source, kind = "", "part of a volume"
        found[where] = _Mount(source, kind)
    for where in Document(container, b"").get("HostConfig", "Tmpfs", default={}):
        found.setdefault(clean(where), _Mount("", "tmpfs"))
    return found


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


@attrs.frozen
class BindPaths(Interceptor):
    """Puts the host's paths in the place of the client's.

    :ivar paths: None: the job is tied to no container.
    :ivar socket: The job's own socket on the host: where that stands already, it stays.
    """

    paths: ContainerPaths | None
    socket: str
    fail_closed = True

    def wants(self, operation: Operation) -> Stage:
        """Ask for the bodies that have mounts, and for a start's, which must have none."""
        wanted = operation.name in binds.OPERATIONS or operation.name == _START
        return Stage.REQUEST_JSON if wanted and self.paths is not None else Stage.NOTHING

    async def request_json(self, exchange: Exchange, document: Document) -> Document | None:
        """Translate the sources.

        :raises RefusedError: one cannot be.
        """
        name = exchange.call.operation.name
        if name == _START:
            check_start(document)
            return None
        sources = [source for source in binds.bind_sources(document, name) if source != self.socket]
        if not sources or self.paths is None:
            return None
        edited = binds.with_sources(document, name, await self.paths.translate(sources))
        return edited if edited.changed else None


def make(settings: NoSettings, job: IJob, daemon: IDaemon) -> BindPaths:
    """Return the interceptor of a job."""
    container = job.request.container
    return BindPaths(ContainerPaths(container, daemon.engine) if container else None, job.socket)


bind_paths = Plugin(name="bind-paths", make=make)
