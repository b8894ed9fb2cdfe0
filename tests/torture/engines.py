"""The engines that rounds are played on: one that is made up, and a real one. Both can be killed and come back."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any, Protocol

from tests.support.dockerd import EngineError, PrivateEngine
from tests.support.fake_engine import Container, FakeEngine, Running, new_id
from tests.support.fake_http import HttpError, Request
from tests.support.hangs import died_of, look
from tests.torture.wire import ask

Things = dict[tuple[str, str], str]
"""What an engine has: kind and ID (of an image's tag: its name), and what it is like."""

_ENGINES_OWN = frozenset({"bridge", "host", "none", "docker_gwbridge", "ingress"})


class Engine(Protocol):
    """What a round needs of one."""

    path: Path
    swarm: bool
    forgot_networks: str
    """Why it has none any more that it had; the empty string: it has them."""

    def begin(self) -> None:
        """Come up."""

    def fall(self, number: signal.Signals) -> None:
        """Be told to end: by SIGKILL at once, by SIGTERM as ordered."""

    def rise(self) -> None:
        """Come back after a fall, with what it had."""

    def mend(self) -> str | None:
        """Start it anew if it has locked itself up. :returns: what it waited for; None if it has not."""

    def end(self) -> None:
        """Be gone, with all it had."""


def things(path: Path, swarm: bool) -> Things:
    """Look at all that an engine has."""
    found: Things = {}
    lists = ["containers/json?all=1", "networks", "volumes", "images/json?all=1", "plugins"]
    for target in lists + ["services", "secrets", "configs"] * swarm:
        status, answer = ask(path, "GET", f"/{target}")
        assert status == 200, (target, status, answer)
        kind = target.partition("/")[0].partition("?")[0].removesuffix("s")
        for entry in (answer.get("Volumes") or ()) if kind == "volume" else answer:
            if kind == "network" and entry["Name"] in _ENGINES_OWN:
                continue  # some get a new ID at each start
            # A plug-in is told by its name, with which the answer to its making has no ID.
            numbered = kind != "plugin" and (entry.get("Id") or entry.get("ID"))
            identifier = numbered or entry["Name"]
            if kind == "container" and not entry.get("Names") and not _exists(path, identifier):
                continue
            found[kind, identifier] = str(entry.get("Names") or entry.get("Name") or entry.get("RepoTags") or "")
            if kind == "image":
                for tag in entry.get("RepoTags") or ():
                    if tag != "<none>:<none>":
                        found["tag", tag] = identifier
    return found


def _exists(path: Path, container: str) -> bool:
    """Whether an engine that lists a container without a name knows it when it is asked for it.

    One that was killed while it removed a container may list that ever after. Nobody can remove what an engine says is
    not there; without a 404 it counts as left.
    """
    return ask(path, "GET", f"/containers/{container}/json")[0] != 404


class RealEngine:
    """A private dockerd, which many rounds share.

    :param swarm: Whether it is a swarm of one.
    """

    def __init__(self, swarm: bool = True) -> None:
        self.swarm = swarm
        self.forgot_networks = ""
        self._engine = PrivateEngine(tempfile.mkdtemp(prefix="dt-torture-", dir="/tmp"))
        self.path = self._engine.socket_path

    def begin(self) -> None:
        """See `Engine.begin`."""
        self._engine.start()
        if self.swarm:
            body = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"}
            status, answer = self._engine.api("POST", "/swarm/init", body)
            assert status == 200, answer

    def fall(self, number: signal.Signals) -> None:
        """See `Engine.fall`."""
        pid = self._engine.process_id("dockerd")
        assert pid is not None
        os.kill(pid, number)

    def rise(self) -> None:
        """See `Engine.rise`. One that panics at its start gets the help that an operator would give it."""
        try:
            self._engine.restart(kill=False)  # waits for the end of what was told to end
        except EngineError:
            defect = died_of(self._engine)
            if defect is None:
                raise
            (self._engine.directory / "data" / "network" / "files" / "local-kv.db").unlink()
            self.forgot_networks = defect
            self._engine.restart()
        self._elect()

    def mend(self) -> str | None:
        """See `Engine.mend`."""
        hang = look(self._engine)
        if hang is None or not hang.locked:
            return None
        self._engine.restart(kill=True)
        self._elect()
        return str(hang)

    def end(self) -> None:
        """See `Engine.end`."""
        self._engine.stop()
        shutil.rmtree(self._engine.directory)

    def _elect(self) -> None:
        """Wait until it, as a swarm of one, has elected itself."""
        while self.swarm and ask(self.path, "GET", "/services")[0] != 200:
            pass


class MadeUpEngine(FakeEngine):
    """The fake engine, with what else clients of a round ask for, and with a life after death."""

    swarm = False
    forgot_networks = ""

    def __init__(self, path: Path | str) -> None:
        self._by_id: dict[str, dict[str, Any]] = {}
        self._up: set[str] = set()
        self._plugins: dict[str, dict[str, Any]] = {}
        super().__init__(path)

    def begin(self) -> None:
        """See `Engine.begin`."""
        self.start()

    def fall(self, number: signal.Signals) -> None:
        """See `Engine.fall`: what runs ends, what was to go when it ends is gone."""
        self._up = {each.id for each in self.containers.values() if each.status == "running"}
        self.drop()
        self.stop()

    def rise(self) -> None:
        """See `Engine.rise`: what was to be always running runs again."""
        self._tasks.clear()
        self._connections.clear()
        self.subscribers.clear()
        self.start()
        assert self._loop is not None
        for container in [*self.containers.values()]:
            if container.id in self._up and _restarts(container):
                asyncio.run_coroutine_threadsafe(self._start(_nobody(), container.id), self._loop).result()

    def mend(self) -> str | None:
        """See `Engine.mend`."""
        return None

    def end(self) -> None:
        """See `Engine.end`."""
        self.stop()

    def _table(self) -> Any:
        rows = (
            ("POST", "/commit", self._commit),
            ("POST", "/images/create", self._import),
            ("POST", "/images/(.+)/tag", self._tag),
            ("POST", "/plugins/create", self._create_plugin),
            ("GET", "/plugins", self._list_plugins),
            ("GET", "/plugins/(.+)/json", self._inspect_plugin),
            ("DELETE", "/plugins/(.+)", self._remove_plugin),
        )
        return [*((method, re.compile(pattern), handler) for method, pattern, handler in rows), *super()._table()]

    # Plug-ins, none of which is ever enabled

    async def _create_plugin(self, request: Request) -> bool:
        async for _ in request.body():
            pass
        name = request.option("name")
        self._plugins[name] = {"Id": new_id(), "Name": name, "Enabled": False}
        return await request.connection.answer(request, 204, b"")

    async def _list_plugins(self, request: Request) -> bool:
        return await request.connection.answer(request, 200, [*self._plugins.values()])

    async def _inspect_plugin(self, request: Request, name: str) -> bool:
        return await request.connection.answer(request, 200, self._plugin(name))

    async def _remove_plugin(self, request: Request, name: str) -> bool:
        self._plugin(name)
        return await request.connection.answer(request, 200, self._plugins.pop(name))

    def _plugin(self, name: str) -> dict[str, Any]:
        if name not in self._plugins:
            raise HttpError(404, f'plugin "{name}" not found')
        return self._plugins[name]

    # Containers that start anew

    async def _start(self, request: Request, reference: str) -> bool:
        container = self._container(reference)
        answered = await super()._start(request, reference)
        if _restarts(container):
            self._spawn(self._start_again(container, container.process))
        return answered

    async def _start_again(self, container: Container, process: Running) -> None:
        await process.ended.wait()
        await asyncio.sleep(0.1)
        if container.id in self.containers and container.status == "exited" and container.id not in self._stopped:
            await self._start(_nobody(), container.id)

    @property
    def _stopped(self) -> set[str]:
        found: set[str] = self.__dict__.setdefault("stopped", set())
        return found

    async def _end(self, request: Request, reference: str, how: str) -> bool:
        self._stopped.add(self._container(reference).id)
        return await super()._end(request, reference, how)

    # Networks that are in use

    async def _remove_network(self, request: Request, reference: str) -> bool:
        network = self._network(reference)
        for container in self.containers.values():
            if container.status == "running" and container.host.get("NetworkMode") in (network["Name"], network["Id"]):
                problem = f"network {network['Name']} id {network['Id']} has active endpoints"
                raise HttpError(403, f"error while removing network: {problem}")
        return await super()._remove_network(request, reference)

    # Images with many tags, or none

    def _add_image(self, name: str, labels: dict[str, str], size: int = 1024) -> dict[str, Any]:
        image: dict[str, Any] = {"Id": f"sha256:{new_id()}", "RepoTags": [], "Labels": labels or None, "Size": size}
        self.images[str(image["Id"])] = image
        if not (len(name) == 64 and ":" not in name):  # a build without a tag
            self._name(image, name)
        return image

    def _name(self, image: dict[str, Any], name: str) -> None:
        name = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        for other in self.images.values():
            if name in other["RepoTags"]:
                other["RepoTags"].remove(name)
        image["RepoTags"].append(name)
        self._tell("image", "tag", image["Id"], name=name)

    def _image(self, reference: str, missing: str) -> dict[str, Any]:
        name = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        for image in self.images.values():
            if name in image["RepoTags"] or image["Id"] == reference:
                return image
        raise HttpError(404, f"{missing}{name}")

    async def _commit(self, request: Request) -> bool:
        container = self._container(request.option("container"))
        image = self._add_image(f"{request.option('repo')}:{request.option('tag')}", container.labels)
        return await request.connection.answer(request, 201, {"Id": image["Id"]})

    async def _import(self, request: Request) -> bool:
        async for _ in request.body():
            pass
        image = self._add_image(f"{request.option('repo')}:{request.option('tag')}", {})
        await request.connection.begin(request, 200, {"Content-Type": "application/json"})
        await request.connection.line_of({"status": image["Id"]})
        return await request.connection.finish(request)

    async def _tag(self, request: Request, reference: str) -> bool:
        image = self._image(reference, "No such image: ")
        self._name(image, f"{request.option('repo')}:{request.option('tag')}")
        return await request.connection.answer(request, 201, b"")

    async def _remove_image(self, request: Request, reference: str) -> bool:
        image = self._image(reference, "No such image: ")
        by_id = image["Id"] == reference
        if by_id and len(image["RepoTags"]) > 1 and not request.asked("force"):
            problem = "image is referenced in multiple repositories"
            raise HttpError(409, f"conflict: unable to delete {reference[7:19]} (must be forced) - {problem}")
        last = by_id or len(image["RepoTags"]) == 1
        users = [each.id for each in self.containers.values() if each.image is image]
        if last and users and not (request.asked("force") and not self._running(users)):
            problem = f"image is being used by container {users[0][:12]}"
            raise HttpError(409, f"conflict: unable to remove repository reference {reference} - {problem}")
        gone = [*image["RepoTags"]] if by_id else [f"{reference}" if ":" in reference else f"{reference}:latest"]
        answer = [{"Untagged": name} for name in gone]
        for name in gone:
            image["RepoTags"].remove(name)
            self._tell("image", "untag", image["Id"], name=name)
        if last:
            del self.images[image["Id"]]
            answer.append({"Deleted": image["Id"]})
            self._tell("image", "delete", image["Id"])
        return await request.connection.answer(request, 200, answer)

    def _running(self, identifiers: list[str]) -> bool:
        return any(self.containers[each].status == "running" for each in identifiers)


def _restarts(container: Container) -> bool:
    return (container.host.get("RestartPolicy") or {}).get("Name") == "always"


class _Nobody:
    """A request of the engine's own."""

    connection: Any

    def __init__(self) -> None:
        self.connection = self

    async def answer(self, *_: object) -> bool:
        """Nobody waits for it."""
        return True


def _nobody() -> Any:
    return _Nobody()
