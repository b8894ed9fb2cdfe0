"""What is different when the engine is Podman: pods, and secrets that are neither listed nor removed as elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.inventory import Seen
from docker_tracker.errors import EngineAnswerError
from docker_tracker.image_work import ImageWorks
from docker_tracker.interfaces import IEngine
from docker_tracker.tracking.lists import Lists
from docker_tracker.tracking.removal import GONE, Fate, Hold, Remover, Result, Surroundings, Thing

PODS = "/v4.0.0/libpod/pods"
INFRA = {"Id": "i", "Name": "p-infra"}


@attrs.define
class Podman:
    """Answers calls from a table: by method and path a status and a document."""

    answers: dict[str, tuple[int, Any]]
    name: str = "podman host in /var/lib/containers"
    calls: list[tuple[str, Mapping[str, str] | None]] = attrs.field(factory=list)
    address: str = "unix:///podman"

    async def identity(self) -> str:
        return self.name

    async def request(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        self.calls.append((f"{method} {path}", parameters))
        key = f"{method} {path}" + ("?" if parameters and "filters" in parameters else "")
        return self.answers.get(key, (404, {"message": "not found"}))

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        status, answer = await self.request("GET", path, parameters)
        if status == 404:
            return None
        if status >= 400:
            raise EngineAnswerError("no", answered=status)
        return answer

    def forget(self) -> None:
        pass


class _Case(SynchronousTestCase):
    def remove(self, engine: Podman, kind: str) -> Result:
        remover = Remover(cast(IEngine, engine), Clock(), DeferredSemaphore(1), 1.0, 10.0, Hold(ImageWorks(), ""))
        thing = Thing(kind=kind, identifier="x", seen=Seen("x", (), {}, 0.0))
        return self.successResultOf(Deferred.fromCoroutine(remover.remove(thing, Surroundings(recorded={}, kept=()))))

    def listed(self, engine: Podman, kind: str, label: str = "a=b") -> list[str] | None:
        found = self.successResultOf(Deferred.fromCoroutine(Lists(cast(IEngine, engine), label).get(kind)))
        return None if found is None else [seen.identifier for seen in found]


class PodTests(_Case):
    def test_removed(self) -> None:
        """A pod with nothing but its own container goes, by force, as that one runs."""
        engine = Podman(
            {
                f"GET {PODS}/x/json": (200, {"InfraContainerID": "i", "Containers": [INFRA]}),
                f"DELETE {PODS}/x": (200, {}),
            }
        )
        self.assertEqual(self.remove(engine, "pod"), GONE)
        self.assertEqual(engine.calls[-1], (f"DELETE {PODS}/x", {"force": "true"}))

    def test_left(self) -> None:
        """A container that is still in it keeps it, and is named."""
        containers = [INFRA, {"Id": "c", "Name": "stranger"}]
        engine = Podman({f"GET {PODS}/x/json": (200, {"InfraContainerID": "i", "Containers": containers})})
        result = self.remove(engine, "pod")
        self.assertEqual((result.fate, result.reason), (Fate.LEFT, "it still has the containers stranger"))
        self.assertEqual(len(engine.calls), 1)

    def test_gone(self) -> None:
        """One that is not there is gone."""
        self.assertEqual(self.remove(Podman({}), "pod"), GONE)

    def test_listed(self) -> None:
        """Only Podman is asked for pods, by their label."""
        engine = Podman({f"GET {PODS}/json?": (200, [{"Id": "p", "Name": "n", "Labels": {"a": "b"}}])})
        self.assertEqual(self.listed(engine, "pod"), ["p"])
        docker = Podman({}, name="id in /var/lib/docker")
        self.assertEqual((self.listed(docker, "pod"), docker.calls), ([], []))


class SecretTests(_Case):
    def test_removed(self) -> None:
        """Where an unversioned removal is refused as a swarm's, the one of Podman's own API is tried."""
        refusal = (503, {"message": "Podman does not support service"})
        own = "DELETE /v4.0.0/libpod/secrets/x"
        for status, fate in ((204, Fate.GONE), (404, Fate.GONE), (500, Fate.LEFT)):
            engine = Podman({"DELETE /secrets/x": refusal, own: (status, None)})
            self.assertEqual(self.remove(engine, "secret").fate, fate)
        docker = Podman({"DELETE /secrets/x": refusal}, name="id in /")
        self.assertEqual(self.remove(docker, "secret").fate, Fate.LEFT)
        self.assertEqual(len(docker.calls), 1)

    def test_listed(self) -> None:
        """Where secrets are not listed by label, all are; of a swarm that is not there, none."""
        every = (200, [{"ID": "s", "Spec": {"Name": "n"}}])
        engine = Podman({"GET /secrets?": (500, {}), "GET /secrets": every})
        self.assertEqual(self.listed(engine, "secret"), ["s"])
        inactive = {"Swarm": {"LocalNodeState": "inactive"}}
        docker = Podman({"GET /secrets?": (503, {}), "GET /info": (200, inactive)}, name="id in /")
        self.assertEqual(self.listed(docker, "secret"), [])

    def test_list_fails(self) -> None:
        """That the list of all fails does not say that there are none, although Podman is in no swarm."""
        info = (200, {"Swarm": {"LocalNodeState": "inactive"}})
        engine = Podman({"GET /secrets": (500, {}), "GET /info": info})
        self.assertIsNone(self.listed(engine, "secret", label=""))
