"""An engine in memory that has things, refuses to remove what is in use, and lets containers end by a test's clock.

It answers our own calls at once, without a socket. That a real engine does the same is shown by
``tests/integration/test_reaper.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from docker_tracker.errors import EngineAnswerError, EngineUnavailableError
from docker_tracker.interfaces import IEngine

UNAVAILABLE = EngineUnavailableError("the engine at unix:///engine does not answer: nobody there", 503)

_KINDS = {
    "containers": "container",
    "networks": "network",
    "volumes": "volume",
    "images": "image",
    "services": "service",
    "secrets": "secret",
    "configs": "config",
    "plugins": "plugin",
}
_PATH = re.compile(r"/(\w+)/(.+?)(/json|/kill|/update|/disable|/enable)?")


@implementer(IEngine)
class ModelEngine:
    """An engine.

    :ivar things: By kind and ID: what is answered when it is inspected.
    :ivar answers: By ``"DELETE /volumes/x"``, or a method and the path's beginning with ``*``: what is answered
        instead, one after the other; an exception is raised, and a Deferred waited for. None: the usual.
    :ivar asked: All calls, in order.
    :ivar execs: By ID, what is answered when one is inspected.
    """

    address = "unix:///engine"

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.things: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in _KINDS.values()}
        self.answers: dict[str, list[Any]] = {}
        self.asked: list[str] = []
        self.execs: dict[str, dict[str, Any]] = {}
        self.swarm = "inactive"
        self.name = "ENGINE"
        self.forgotten = 0
        self.when_removed: Callable[[str, str], None] = lambda kind, identifier: None
        self._number = 0

    # What tests make

    def add(self, kind: str, name: str = "", labels: Mapping[str, str] | None = None, **more: Any) -> str:
        """Have a thing, made now; return its ID."""
        self._number += 1
        identifier = {"volume": name, "plugin": name}.get(kind) or f"{self._number:064x}"
        created = datetime.fromtimestamp(more.pop("created", self.clock.seconds()), UTC).isoformat()
        labels = dict(labels or {})
        document: dict[str, Any] = {"Id": identifier, "Name": name, "Created": created, "Labels": labels}
        if kind == "container":
            document = {
                "Id": identifier,
                "Name": f"/{name}",
                "Created": created,
                "State": {"Running": True, "Status": "running"},
                "Config": {"Labels": labels, "Image": ""},
                "HostConfig": {},
                "NetworkSettings": {"Networks": {}},
                "Mounts": [],
                "Image": "",
            }
        elif kind == "volume":
            document = {"Name": name, "CreatedAt": created, "Labels": labels}
        elif kind in ("service", "secret", "config"):
            document = {"ID": identifier, "CreatedAt": created, "Spec": {"Name": name, "Labels": labels}}
        elif kind == "image":
            identifier = f"sha256:{identifier}"
            document = {"Id": identifier, "RepoTags": [name] if name else [], "Created": created, "Config": {}}
            document["Config"]["Labels"] = labels
        elif kind == "plugin":
            document = {"Id": f"id-{self._number}", "Name": name, "Enabled": True}
        _merge(document, more)
        self.things[kind][identifier] = document
        return identifier

    def mount(self, container: str, *volumes: str) -> None:
        """Have a container use volumes."""
        mounts = [{"Type": "volume", "Name": name, "Source": f"/v/{name}"} for name in volumes]
        self.things["container"][container]["Mounts"] += mounts

    def connect(self, container: str, network: str) -> None:
        """Have a container use a network."""
        networks = self.things["container"][container]["NetworkSettings"]["Networks"]
        networks[self.things["network"][network]["Name"]] = {"NetworkID": network}

    def named(self, kind: str) -> set[str]:
        """Give the names of what there is."""
        found = set()
        for identifier, each in self.things[kind].items():
            names = each.get("RepoTags") or [] if kind == "image" else [each.get("Name") or each["Spec"]["Name"]]
            found |= {name.removeprefix("/") for name in names} or {identifier}
        return found

    # IEngine

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        status, answer = await self.request("GET", path, parameters)
        if status == 404:
            return None
        if status >= 300:
            raise EngineAnswerError(f"the engine answered {status}: {answer['message']}", 502, status)
        return answer

    async def request(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        query = "&".join(f"{key}={value}" for key, value in (parameters or {}).items() if key != "filters")
        self.asked.append(f"{method} {path}" + (f"?{query}" if query else ""))
        for pattern, answers in self.answers.items():
            exact, begins = f"{method} {path}" == pattern, pattern.endswith("*")
            if answers and (exact or (begins and f"{method} {path}".startswith(pattern[:-1]))):
                answer = answers.pop(0)
                if isinstance(answer, Deferred):
                    answer = await answer
                if isinstance(answer, Exception):
                    raise answer
                if answer is not None:
                    return answer  # type: ignore[no-any-return]
        return self._answer(method, path, parameters or {})

    async def identity(self) -> str:
        return self.name

    def forget(self) -> None:
        self.forgotten += 1

    async def lines(self, *_: Any) -> None:
        raise AssertionError("nobody follows it")

    # What it answers

    def _answer(self, method: str, path: str, parameters: Mapping[str, str]) -> tuple[int, Any]:
        if path == "/version":
            return 200, {}
        if path == "/info":
            return 200, {"Swarm": {"LocalNodeState": self.swarm}}
        first = path.split("/")[1]
        if first == "exec":
            found = self.execs.get(path.split("/")[2])
            return (404, {"message": "no such exec"}) if found is None else (200, found)
        kind = _KINDS[first]
        if kind in ("service", "secret", "config") and self.swarm != "active":
            return 503, {"message": "This node is not a swarm manager"}
        if method == "GET" and path in (f"/{first}", f"/{first}/json"):
            return 200, self._list(kind, parameters)
        match = _PATH.fullmatch(path)
        assert match is not None, path
        identifier, verb = unquote(match[2]), match[3]
        found = self._find(kind, identifier)
        if found is None:
            return 404, {"message": f"no such {kind}"}
        if verb == "/kill":
            self._kill(found)
        elif verb in ("/disable", "/enable"):
            found["Enabled"] = verb == "/enable"
        elif method == "DELETE":
            return self._remove(kind, identifier, found, parameters)
        return 200, found if method == "GET" else None

    def _list(self, kind: str, parameters: Mapping[str, str]) -> Any:
        wanted = json.loads(parameters.get("filters", "{}")).get("label", [])
        found = []
        for each in self.things[kind].values():
            labels = (each.get("Config") or each.get("Spec") or each).get("Labels") or {}
            if all(f"{key}={labels.get(key)}" == text for text in wanted for key in [text.partition("=")[0]]):
                found.append(self._entry(kind, each, labels))
        return {"Volumes": found} if kind == "volume" else found

    @staticmethod
    def _entry(kind: str, each: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
        if kind != "container":
            return {**each, "Labels": labels, "ParentId": each.get("Parent", "")}
        created = datetime.fromisoformat(each["Created"]).timestamp()
        entry = {"Id": each["Id"], "Names": [each["Name"]], "Labels": labels, "Created": created}
        return {**entry, "State": each["State"]["Status"], "Mounts": each["Mounts"], "ImageID": each["Image"]}

    def _find(self, kind: str, reference: str) -> dict[str, Any] | None:
        if kind == "image":
            return next(
                (
                    each
                    for identifier, each in self.things[kind].items()
                    if reference == identifier or reference in each["RepoTags"]
                ),
                None,
            )
        return self.things[kind].get(reference)

    def _kill(self, container: dict[str, Any]) -> None:
        """Have it end when it heeds the signal (``EndsAfter``), if it does."""
        seconds = container.get("EndsAfter")
        if seconds is not None:
            self.clock.callLater(seconds, self._end, container)

    def _end(self, container: dict[str, Any]) -> None:
        container["State"] = {"Running": False, "Status": "exited"}
        if container["HostConfig"].get("AutoRemove"):
            self.things["container"].pop(container["Id"], None)

    def _remove(
        self, kind: str, identifier: str, found: dict[str, Any], parameters: Mapping[str, str]
    ) -> tuple[int, Any]:
        users = self._users(kind, identifier)
        if users:
            return {"network": 403}.get(kind, 409), {"message": f"{kind} {identifier} is in use by {users}"}
        children = kind == "image" and any(each.get("Parent") == found["Id"] for each in self.things["image"].values())
        if kind == "image" and identifier in found["RepoTags"]:
            found["RepoTags"].remove(identifier)
            if found["RepoTags"] or children:
                return 200, []
            identifier = found["Id"]
        elif children:  # moby: daemon/images/image_delete.go
            return 409, {"message": "image has dependent child images"}
        if kind == "plugin" and found["Enabled"]:
            return 409, {"message": "plugin is enabled"}
        del self.things[kind][identifier]
        if kind == "container" and parameters.get("v"):
            for name in [mount.get("Name", "") for mount in found["Mounts"]]:
                if len(name) == 64:
                    self.things["volume"].pop(name, None)
        self.when_removed(kind, identifier)
        return 204, None

    def _users(self, kind: str, identifier: str) -> list[str]:
        found = []
        for container in self.things["container"].values():
            networks = container["NetworkSettings"]["Networks"].values()
            needs = {
                "volume": {mount.get("Name") for mount in container["Mounts"]},
                "network": {each["NetworkID"] for each in networks} if container["State"]["Running"] else set(),
                "image": {container["Image"], container["Config"]["Image"]},
            }
            if identifier in needs.get(kind, ()):
                found.append(container["Name"])
        return found


def _merge(document: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _merge(document[key], value)
        else:
            document[key] = value
