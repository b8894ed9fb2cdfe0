"""What the engine has, kind by kind, for those who compare it with the ledger. Layer: tracking."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from docker_tracker.engine.catalogue import RESOURCE_KINDS
from docker_tracker.engine.identity import is_podman
from docker_tracker.engine.inventory import JOB_ID_LABEL, Seen, inspect_path, inspected, list_call, listed
from docker_tracker.errors import EngineAnswerError, EngineProtocolError
from docker_tracker.interfaces import IEngine, ILedger
from docker_tracker.records import Resource

_UNAVAILABLE: Final = 503
_POD: Final = "pod"
SWARM: Final = frozenset({"service", "secret", "config"})
#: What bears a job's label. An image's labels are for people: whatever is built on it inherits them.
LABELLED: Final = frozenset({"container", "network", "pod", "volume", *SWARM})
LISTED: Final = tuple(kind for kind in RESOURCE_KINDS if list_call(kind) is not None)


class Lists:
    """What the engine has, each kind asked for once and only if somebody wants to know.

    :param label: ``NAME=VALUE``: of kinds that bear labels, only what has this one; an engine may give more. Swarm's
        lists take one label at most: of several they mind any.
    """

    def __init__(self, engine: IEngine, label: str = "") -> None:
        self._engine = engine
        self._label = label
        self._found: dict[str, list[Seen] | None] = {}

    async def check(self) -> None:
        """Fail if the engine does not answer."""
        if await self._engine.get("/version") is None:
            raise EngineProtocolError(f"the engine at {self._engine.address} knows no GET /version")

    async def get(self, kind: str) -> list[Seen] | None:
        """Return all that the engine has of a kind; None if it can't say."""
        if kind not in self._found:
            self._found[kind] = await self._ask(kind)
        return self._found[kind]

    async def _ask(self, kind: str) -> list[Seen] | None:
        call = list_call(kind)
        assert call is not None
        path, parameters = call
        if kind == _POD and not is_podman(await self._engine.identity()):
            return []  # other engines know no such thing
        if self._label and kind in LABELLED:
            parameters = {**parameters, "filters": json.dumps({"label": [self._label]})}
        try:
            answer = await self._engine.get(path, parameters)
        except EngineAnswerError as error:
            if kind not in SWARM:
                raise
            if error.answered != _UNAVAILABLE:  # Podman's secrets are not listed by label
                return await self._all(kind) if "filters" in parameters else None
            # 503: no manager of a swarm. If it is in none at all, then nothing of it is left.
            swarm = (await self._engine.get("/info") or {}).get("Swarm") or {}
            return [] if swarm.get("LocalNodeState") == "inactive" else None
        return None if answer is None else listed(kind, answer)

    async def _all(self, kind: str) -> list[Seen] | None:
        call = list_call(kind)
        assert call is not None
        answer = await self._engine.get(*call)
        return None if answer is None else listed(kind, answer)


async def mark_gone(ledger: ILedger, lists: Lists, known: Iterable[Resource], kinds: Collection[str]) -> None:
    """Write down what the ledger had and the engine has no more.

    :param known: What the ledger had before the engine was asked for anything.
    :param kinds: That are looked at.
    :raises EngineError: the engine can't say.
    :raises LedgerError: it can't be written down.
    """
    recorded: dict[str, list[Resource]] = {}
    for resource in known:
        if resource.kind in kinds:
            recorded.setdefault(resource.kind, []).append(resource)
    for kind, resources in recorded.items():
        seen = await lists.get(kind)
        if seen is not None:
            called = {name for one in seen for name in one.called}
            await ledger.gone([resource for resource in resources if resource.identifier not in called])


async def is_inherited(engine: IEngine, image: str, value: str, label: str = JOB_ID_LABEL) -> bool:
    """Return whether a container can have a label from its image: then it proves nothing.

    Whoever builds an image can put any label into it, and every container of it has that.

    :param image: The container's.
    :param value: The label's; by default that is a job's ID.
    :raises EngineError: the engine can't say.
    """
    found: Any = await engine.get(inspect_path("image", image)) if image else None
    return isinstance(found, dict) and inspected("image", found).labels.get(label) == value
