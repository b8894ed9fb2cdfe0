"""Says after a restart whose sockets are others than before, and which containers have lost them. Layer: tracking."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from docker_tracker.engine.inventory import seconds_of
from docker_tracker.errors import EngineError
from docker_tracker.interfaces import IEngine, IJob
from docker_tracker.job import DEFAULT
from docker_tracker.tracking.worker import Worker

_PAUSE: Final = 5.0  # between two questions while the engine is away


class LostSockets(Worker):
    """Asks the engine until it answers.

    :param engine: Knows the containers.
    :param clock: For waiting.
    :param sockets: Gives the open jobs by those of their sockets that were bound anew.
    :param now: Seconds since the epoch.
    """

    log = Logger()
    defect = "containers that have lost their jobs' sockets are not named"

    def __init__(
        self,
        engine: IEngine,
        clock: IReactorTime,
        sockets: Callable[[], Mapping[str, IJob]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._clock, self._sockets, self._now = engine, clock, sockets, now

    async def work(self) -> None:
        """Name the jobs at once, and the containers when the engine answers."""
        began, anew = self._now(), self._sockets()
        if not anew:
            return
        for path, job in anew.items():
            if job.name != DEFAULT:  # whose sockets are always bound when the tracker starts
                self.log.warn("the socket of job {job} was bound anew after a restart: {path}", job=job.name, path=path)
        complained = False
        while True:
            try:
                lost = await self._lost(anew, began)
            except EngineError as error:
                if not complained:
                    self.log.warn(
                        "whether containers have lost the sockets of their jobs is not known yet: {error}",
                        error=str(error),
                    )
                complained = True
                await deferLater(self._clock, _PAUSE)
            else:
                break
        for container, path in lost:
            if path in self._sockets():  # its job is still open
                self.log.error(
                    "container {container} has lost the socket of job {job}: it was bound anew after a restart",
                    container=container[:12],
                    job=anew[path].name,
                )
        if complained and not lost:
            self.log.info("no container has lost the socket of its job")

    async def _lost(self, anew: Mapping[str, IJob], began: float) -> list[tuple[str, str]]:
        """Return the containers that have such a socket mounted since before the restart, each with its path."""
        lost = []
        for container in await self._engine.get("/containers/json") or ():
            paths = {mount.get("Source") for mount in container.get("Mounts") or ()}.intersection(anew)
            if paths and await self._started(container["Id"]) < began:
                lost += [(container["Id"], path) for path in sorted(paths)]
        return lost

    async def _started(self, identifier: str) -> float:
        """Return when a container was last started; what is mounted is found then."""
        found: Any = await self._engine.get(f"/containers/{quote(identifier, safe='')}/json")
        return seconds_of(found["State"]["StartedAt"]) if found else self._now()  # it is gone
