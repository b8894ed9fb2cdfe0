"""What tells an engine from every other one, as its ``GET /info`` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_PODMAN: Final = "podman "


def identity_of(info: Mapping[str, Any]) -> str | None:
    """Return the engine's own ID and where it keeps its things; None: it says none.

    Up to 20.10 the ID is the host's (``/etc/docker/key.json``), so that two engines there share it. Podman makes up a
    new one for each call; there it is the host's name.
    Sources: ``daemon/info.go`` of moby, ``pkg/api/handlers/compat/info.go`` of Podman.

    :param info: Its answer to ``GET /info``.
    """
    found = f"{_PODMAN}{info.get('Name')}" if "BuildahVersion" in info else info.get("ID")
    if not isinstance(found, str) or not found:
        return None
    return f"{found} in {info.get('DockerRootDir')}"


def is_podman(identity: str) -> bool:
    """Return whether an engine is Podman.

    :param identity: What `identity_of` returned.
    """
    return identity.startswith(_PODMAN)
