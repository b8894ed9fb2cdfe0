"""Why something can't hold on an engine. A run in which anything else does not hold has failed."""

from __future__ import annotations

import re

_IMPLICIT = r"container, (named volume \(Binds\)|anonymous volume \(Volumes\)|volume of its image)"

# way, engine, check (each a regular expression for the whole), and the reason.
REASONS: tuple[tuple[str, str, str, str], ...] = (
    (
        _IMPLICIT,
        "docker.*",
        "labelled",
        "The API has no place for labels of such a volume. It is recorded, and goes with its job. Of those that are"
        ' named in ``Binds``, ``implicit-volumes = "mount"`` makes ones that are labelled: the row *mounted*.',
    ),
    (
        r"container, .*volume.*|podman --remote run|libpod: (container|pod).*",
        "podman.*",
        "labelled",
        "Podman takes no labels for volumes that a container or a pod brings along, not in ``Mounts`` either. They are"
        " recorded, and go with their job.",
    ),
    (
        r"service|docker stack deploy",
        "docker.*",
        "cgroup",
        "A service has no cgroup parent, and its tasks get the engine's own.",
    ),
    (
        r"service|docker stack deploy",
        "docker.*",
        "recorded",
        "A swarm makes a service's tasks, and their volumes, itself, on any node and at any time. They bear the job's"
        " label, and go with the service, which is recorded.",
    ),
    (
        r"docker (build \(BuildKit\)|buildx build|buildx bake)",
        r"docker-20\.10",
        "cgroup",
        "The BuildKit of Docker 20.10 takes no notice of a cgroup parent.",
    ),
    (
        r"network|all of API 1\.24|libpod: volume, network, secret",
        r"podman-4",
        "noticed",
        "Podman 4 has no events of networks and secrets. It is noticed at the next look at everything, after five"
        " minutes at most.",
    ),
    (
        r"libpod: volume, network, secret",
        r"podman-5",
        "noticed",
        "Podman 5.4 has no events of secrets. It is noticed at the next look at everything, after five minutes at"
        " most.",
    ),
)


def reason(way: str, engine: str, check: str) -> str:
    """Return why a check can't hold; "" if nothing is known."""
    for *expressions, text in REASONS:
        if all(re.fullmatch(one, other) for one, other in zip(expressions, (way, engine, check), strict=True)):
            return text
    return ""
