"""How one thing of each kind is removed from the engine: gently, by its full ID, and only if it still is that thing.

What order things go in, and what goes at all, is the reaper's. Layer: tracking.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import attrs
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from docker_tracker.engine.identity import is_podman
from docker_tracker.engine.inventory import (
    Seen,
    infra_container,
    inspect_path,
    inspected,
    operation_path,
    remove_path,
    volumes_of,
)
from docker_tracker.errors import EngineError
from docker_tracker.image_work import ImageWork, ImageWorks
from docker_tracker.interfaces import IEngine
from docker_tracker.records import Reference, Relation, Resource

_GOOD: Final = range(200, 300)
_NOT_FOUND: Final = 404
_UNAVAILABLE: Final = 503
_SHOWN: Final = 300  # characters of an engine's message
_FIRST_POLL: Final = 0.05
_LAST_POLL: Final = 1.0
_WORK_SECONDS: Final = 1.0  # that a job's end waits for other jobs' builds and loads
_TASK_SECONDS: Final = 60.0  # that a swarm gets to remove the tasks of a service that is gone
_SERVICE_LABEL: Final = "com.docker.swarm.service.id"
_ALONE: Final = {"noprune": "1"}  # not its parents, which are looked at one by one: the engine takes all without a name
_RYUK: Final = "org.testcontainers.ryuk"  # the label of testcontainers' own reaper (moby-ryuk: linux/Dockerfile)
_MOST_SHARE: Final = 0.5  # of the time for all that one container may take to end


class Fate(enum.Enum):
    """What became of a thing that was to go."""

    GONE = "gone"
    OTHER = "other"  #: it is not the thing that was meant: that one is gone
    KEPT = "kept"  #: others need it for ever
    LEFT = "left"  #: the engine says no, and may go on to
    WAITING = "waiting"  #: it goes by itself, or the engine is away


@attrs.frozen
class Result:
    """What became of a thing, and why."""

    fate: Fate
    reason: str = ""


GONE: Final = Result(Fate.GONE)


@attrs.frozen(eq=False, kw_only=True)
class Thing:
    """Something that is a job's, as it was just inspected.

    :ivar kind, identifier: As in `docker_tracker.records.Resource`.
    :ivar seen: What the engine said.
    :ivar document: All that it said.
    :ivar resource: What the ledger has of it, or None.
    :ivar problem: Why it can't be looked at, or the empty string: then the engine said nothing.
    """

    kind: str
    identifier: str
    seen: Seen
    document: Mapping[str, Any] = attrs.field(factory=dict)
    resource: Resource | None = None
    problem: str = ""

    @property
    def reference(self) -> Reference:
        """What it is told by."""
        return self.kind, self.identifier

    @property
    def names(self) -> set[str]:
        """All that it is called."""
        if self.kind == "image":
            return {self.identifier}
        return {*self.seen.names, self.resource.name if self.resource else "", self.identifier} - {""}

    @property
    def name(self) -> str:
        """What people call it."""
        if self.kind == "image":
            return "" if self.is_image_id else self.identifier
        return self.seen.names[0] if self.seen.names else self.resource.name if self.resource else ""

    @property
    def created(self) -> float:
        """Seconds since the epoch; an image's is when the job came to have it, as it may be built anywhere."""
        recorded = self.resource.created if self.resource else 0.0
        return recorded if self.kind == "image" else self.seen.created or recorded

    @property
    def needs(self) -> str:
        """Why something stays that this needs, and this stays."""
        return f"the {self.kind} {self.name or self.identifier[:19]}, which is kept, needs it"

    @property
    def is_image_id(self) -> bool:
        """Whether it is an image itself, not a tag of one."""
        return self.kind == "image" and self.identifier.startswith("sha256:")


@attrs.frozen(kw_only=True)
class Surroundings:
    """What else has to be known to remove something of a job.

    :ivar recorded: What the ledger has of the job, by kind and ID.
    :ivar kept: What stays.
    :ivar ending: Images of other jobs that are ending, too.
    :ivar works_ended: How many builds and loads had ended before anybody looked who needs what.
    """

    recorded: Mapping[Reference, Resource]
    kept: Collection[Reference]
    ending: Collection[str] = ()
    works_ended: int = 0

    def made(self, kind: str, identifier: str) -> bool:
        """Whether the job made it."""
        found = self.recorded.get((kind, identifier))
        return found is not None and found.relation is Relation.MADE

    def used(self, kind: str, identifier: str) -> bool:
        """Whether the job only used it."""
        found = self.recorded.get((kind, identifier))
        return found is not None and found.relation is Relation.USED


@attrs.frozen
class Hold:
    """Keeps a job's images from going while another job may just be given them.

    :ivar works: That may be given images.
    :ivar job_id: Of the job whose images go.
    :ivar seconds: For which such work is waited for.
    :ivar fate: Of an image for which that was too short.
    :ivar is_over: Whether nothing is held any more.
    """

    works: ImageWorks
    job_id: str
    seconds: float = _WORK_SECONDS
    fate: Fate = Fate.KEPT
    is_over: bool = False

    def work(self) -> ImageWork | None:
        """Return some work of another job that holds images; None: there is none."""
        return None if self.is_over else next(iter(self.works.beside(self.job_id)), None)

    def reason(self, ended: int) -> str:
        """Return why nothing is to go now; the empty string: it may.

        :param ended: How many works had ended when it was looked up who uses what.
        """
        work = self.work()
        if work is not None:
            return f"job {work.job}, which builds or loads, may just be given it"
        is_news = self.works.ended != ended and not self.is_over
        return "a build or a load that has just ended may have been given it" if is_news else ""


class Remover:
    """Removes things.

    :param engine: Has them.
    :param clock: For waiting.
    :param calls: Bounds the calls at a time.
    :param stop_seconds: For containers that have no stop time-out.
    :param most_seconds: For all.
    :param hold: Keeps images from going.
    """

    def __init__(
        self,
        engine: IEngine,
        clock: IReactorTime,
        calls: DeferredSemaphore,
        stop_seconds: float,
        most_seconds: float,
        hold: Hold,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._calls = calls
        self._stop_seconds = stop_seconds
        self._most_seconds = most_seconds * _MOST_SHARE
        self._hold = hold
        self._held_since: dict[str, float] = {}
        self._tasks: dict[str, float] = {}
        self._ways: dict[str, Callable[[Thing, Surroundings], Awaitable[Result]]] = {
            "container": self._container,
            "network": self._network,
            "pod": self._pod,
            "secret": self._secret,
            "volume": self._volume,
            "plugin": self._plugin,
            "image": self._image,
        }

    async def remove(self, thing: Thing, surroundings: Surroundings) -> Result:
        """Remove a thing; never raises what the engine says."""
        if thing.problem:
            return Result(Fate.LEFT, thing.problem)
        try:
            return await self._ways.get(thing.kind, self._plain)(thing, surroundings)
        except EngineError as error:
            self._engine.forget()  # the one that answers next may be another one
            return Result(Fate.WAITING, str(error))

    async def _plain(self, thing: Thing, _: Surroundings) -> Result:
        return await self._delete(thing)

    async def _container(self, thing: Thing, surroundings: Surroundings) -> Result:
        """Stop it, so that it does not come back, and remove it with its anonymous volumes."""
        service = thing.seen.labels.get(_SERVICE_LABEL)
        if isinstance(service, str) and service:
            result = await self._task(thing, service)
            if result is not None:
                return result
        path = inspect_path("container", thing.identifier).removesuffix("/json")
        policy = _at(thing.document, "HostConfig", "RestartPolicy", "Name")
        if policy not in (None, "", "no"):
            # What it answers does not matter: the removal is by force. This is for an engine that dies meanwhile.
            await self._call("POST", f"{path}/update", body={"RestartPolicy": {"Name": "no"}})
        grace = self._grace(thing)
        if _is_running(thing.document) and grace > 0:
            signal = str(_at(thing.document, "Config", "StopSignal") or "SIGTERM")
            status, _ = await self._call("POST", f"{path}/kill", {"signal": signal})
            if status in _GOOD:
                await self._ended(thing, grace)
        volumes = {} if self._spares_volumes(thing, surroundings) else {"v": "1"}
        result = await self._delete(thing, {"force": "1", **volumes})
        if result.fate is Fate.LEFT and "already in progress" in result.reason:
            return Result(Fate.WAITING, result.reason)
        return result

    async def _task(self, thing: Thing, service: str) -> Result | None:
        """Leave a task to its swarm; None: the swarm knows nothing of it any more."""
        status, answer = await self._call("GET", inspect_path("service", service))
        if status in _GOOD:
            return Result(Fate.WAITING, f"it is a task of the service {service}, which is there")
        since = self._tasks.setdefault(thing.identifier, self._clock.seconds())
        if status == _NOT_FOUND and self._clock.seconds() - since >= min(_TASK_SECONDS, self._most_seconds):
            return None
        if status == _UNAVAILABLE:
            reason = f"it is a task of the service {service}, which only a manager of the swarm can remove"
            return Result(Fate.LEFT, f"{reason}: {_message(answer)}")
        return Result(Fate.WAITING, f"the swarm has yet to remove this task of the service {service}")

    def _grace(self, thing: Thing) -> float:
        if (_at(thing.document, "Config", "Labels") or {}).get(_RYUK) == "true":
            return 0  # it would remove what is being removed, by a socket that is closed, until its time is over
        own = _at(thing.document, "Config", "StopTimeout")
        seconds = self._stop_seconds if not isinstance(own, int) else self._most_seconds if own < 0 else own
        return min(seconds, self._most_seconds)

    async def _ended(self, thing: Thing, seconds: float) -> None:
        """Wait until a container has ended, or its time is over. A stop of the engine's would hold a call so long."""
        end = self._clock.seconds() + seconds
        delay = _FIRST_POLL
        while self._clock.seconds() < end:
            await deferLater(self._clock, min(delay, end - self._clock.seconds()))
            document = await self._inspect(thing)
            if document is None or not _is_running(document):
                return
            delay = min(2 * delay, _LAST_POLL)

    @staticmethod
    def _spares_volumes(thing: Thing, surroundings: Surroundings) -> bool:
        """Whether a volume that the engine would take for the container's own is not, or is to stay."""
        volumes = volumes_of(thing.document)
        if any(("volume", name) in surroundings.kept for name in volumes):
            return True
        shared = _at(thing.document, "HostConfig", "VolumesFrom")
        return bool(shared) and any(surroundings.used("volume", name) for name in volumes)

    async def _secret(self, thing: Thing, _: Surroundings) -> Result:
        """Remove it; some Podmans take an unversioned removal for one of a swarm's things, which they have not."""
        result = await self._delete(thing)
        if result.fate is Fate.LEFT and is_podman(await self._engine.identity()):
            status, _ignored = await self._call("DELETE", operation_path("libpod_secret_remove", thing.identifier))
            return GONE if status in _GOOD or status == _NOT_FOUND else result
        return result

    async def _pod(self, thing: Thing, _: Surroundings) -> Result:
        """Remove it if nothing but its own container is left in it."""
        document = await self._inspect(thing)
        if document is None:
            return GONE
        own = infra_container(document)
        others = [each for each in document.get("Containers") or () if each.get("Id") != own]
        if others:
            names = ", ".join(str(each.get("Name")) for each in others[:5])
            return Result(Fate.LEFT, f"it still has the containers {names}")
        return await self._delete(thing, {"force": "true"})

    async def _network(self, thing: Thing, _: Surroundings) -> Result:
        result = await self._delete(thing)
        if result.fate is Fate.LEFT:
            document = await self._inspect(thing) or {}
            names = sorted(str(each.get("Name")) for each in (document.get("Containers") or {}).values())
            users = f" (used by {', '.join(names[:5])})" if names else ""
            return Result(Fate.LEFT, result.reason + users)
        return result

    async def _volume(self, thing: Thing, _: Surroundings) -> Result:
        """Remove it if its name still means what it meant."""
        document = await self._inspect(thing)
        if document is None:
            return GONE
        now = inspected("volume", document)
        if (now.created, now.labels) != (thing.seen.created, thing.seen.labels):
            return Result(Fate.OTHER)
        return await self._delete(thing)

    async def _plugin(self, thing: Thing, _: Surroundings) -> Result:
        document = await self._inspect(thing)
        if document is None:
            return GONE
        if document.get("Id") != thing.document.get("Id"):
            return Result(Fate.OTHER)
        path = remove_path("plugin", thing.identifier)
        enabled = bool(document.get("Enabled"))
        if enabled:
            await self._call("POST", f"{path}/disable")  # one that is in use says no here, and again when removed
        result = await self._delete(thing)
        if enabled and result.fate is Fate.LEFT:
            await self._call("POST", f"{path}/enable", {"timeout": "0"})
        return result

    async def _image(self, thing: Thing, surroundings: Surroundings) -> Result:
        """Take a tag off an image, or remove an image that nobody else has given a name."""
        document = await self._inspect(thing)
        if document is None:
            return GONE
        image = inspected("image", document)
        names = {name for name in image.names if "@" not in name}
        if thing.is_image_id:
            others = sorted(name for name in names if not surroundings.made("image", name))
            if others:  # of late, or of jobs that are ending: see `docker_tracker.tracking.sharing`
                return self._left(thing, f"others have named it {', '.join(others[:5])}")
            if names:
                return self._left(thing, f"it still has the name {min(names)}")
        else:
            parent = thing.resource.parent if thing.resource else ""
            if parent and image.identifier != parent:
                return Result(Fate.OTHER)  # the tag was moved to another image
            ours = image.identifier in surroundings.ending or surroundings.made("image", image.identifier)
            if not ours and not other_names(image, thing.identifier):
                return Result(Fate.KEPT, "it is the last name of an image that the job did not make")
        async with self._calls:
            # Of a tag, too: it is the last one once the others are gone, which may be under way.
            reason = self._hold.reason(surroundings.works_ended)
            if reason:
                return self._held(thing, reason)
            with self._hold.works.removal():
                result = await self._delete_now(thing, _ALONE)
        return self._left(thing, result.reason) if result.fate is Fate.LEFT else result

    def _left(self, thing: Thing, reason: str) -> Result:
        """Say that an image could not be removed.

        That may be for a build, as nothing tells what its step is made of, or for what was kept for one.
        """
        work = self._hold.work()
        if work is not None:
            return self._held(thing, f"{reason} (job {work.job} builds or loads)")
        return self._held(thing, reason) if self._held_since else Result(Fate.LEFT, reason)

    def _held(self, thing: Thing, reason: str) -> Result:
        """Wait, but not long."""
        since = self._held_since.setdefault(thing.identifier, self._clock.seconds())
        is_early = self._clock.seconds() - since < self._hold.seconds
        return Result(Fate.WAITING if is_early else self._hold.fate, reason)

    async def _inspect(self, thing: Thing) -> Mapping[str, Any] | None:
        status, answer = await self._call("GET", inspect_path(thing.kind, thing.identifier))
        if status == _NOT_FOUND:
            return None
        if status not in _GOOD or not isinstance(answer, dict):
            raise EngineError(f"the engine at {self._engine.address} answered {status}: {_message(answer)}")
        return answer

    async def _delete(self, thing: Thing, parameters: Mapping[str, str] | None = None) -> Result:
        async with self._calls:
            return await self._delete_now(thing, parameters)

    async def _delete_now(self, thing: Thing, parameters: Mapping[str, str] | None = None) -> Result:
        status, answer = await self._engine.request("DELETE", remove_path(thing.kind, thing.identifier), parameters)
        if status in _GOOD or status == _NOT_FOUND:
            return GONE
        return Result(Fate.LEFT, f"the engine answered {status}: {_message(answer)}")

    async def _call(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        async with self._calls:
            return await self._engine.request(method, path, parameters, body)


def other_names(image: Seen, tag: str) -> bool:
    """Whether an image has a name beside a tag; the last tag of a repository takes its digests along."""
    repository = tag.rpartition(":")[0]
    return any(name != tag and not name.startswith(f"{repository}@") for name in image.names)


def _is_running(container: Mapping[str, Any]) -> bool:
    """Whether a container has a process that can be told to end."""
    state = container.get("State")
    return isinstance(state, dict) and bool(state.get("Running")) and not state.get("Restarting")


def _at(document: Mapping[str, Any], *path: str) -> Any:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _message(answer: Any) -> str:
    message = answer.get("message") if isinstance(answer, dict) else answer
    return str(message)[:_SHOWN]
