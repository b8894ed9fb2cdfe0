"""What the engine's lists and documents say exists: identifiers, names, labels, times. Pure functions.

Shapes: ``api/types`` of moby; the answers of Podman's compatible API have the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import attrs

from docker_tracker.engine.catalogue import RESOURCE_KINDS, operation
from docker_tracker.engine.document import Document
from docker_tracker.engine.libpod import PREFIX
from docker_tracker.engine.reference import familiar

JOB_ID_LABEL: Final = "docker-tracker.job-id"
JOB_LABEL: Final = "docker-tracker.job"
INSTANCE_LABEL: Final = "docker-tracker.instance"
IMAGE_JOB_ID_LABEL: Final = "docker-tracker.image-job-id"

# Without these, stopped containers and images that others are built on are left out.
_LIST_PARAMETERS: Final[Mapping[str, Mapping[str, str]]] = {"container": {"all": "1"}, "image": {"all": "1"}}
_VARIABLE: Final = re.compile(r"\{[^}]*\}")


@attrs.frozen
class Seen:
    """A thing that the engine has.

    :ivar identifier: Its ID; a volume's name.
    :ivar names: Its names: without a leading slash for containers, tags and digests for images.
    :ivar labels: Its labels.
    :ivar created: Seconds since the epoch, 0 if the engine does not say.
    :ivar volumes: The names of the volumes that a container has mounted.
    :ivar image: The ID of a container's image.
    :ivar state: A container's, in the engine's word.
    :ivar parent: The ID of the image that an image was built on here, if it was.
    """

    identifier: str
    names: tuple[str, ...]
    labels: Mapping[str, str]
    created: float
    volumes: tuple[str, ...] = ()
    image: str = ""
    state: str = ""
    parent: str = ""

    @property
    def called(self) -> set[str]:
        """All that it can be the identifier of a recorded resource by."""
        return {self.identifier, *self.names}


def list_call(kind: str) -> tuple[str, Mapping[str, str]] | None:
    """Return path and parameters of the call that lists a kind; None: the engine has none."""
    name = RESOURCE_KINDS[kind].list
    return None if name is None else (_pattern(name), _LIST_PARAMETERS.get(kind, {}))


def inspect_path(kind: str, reference: str) -> str:
    """Return the path that inspects one thing."""
    return operation_path(RESOURCE_KINDS[kind].inspect or "", reference)


def remove_path(kind: str, reference: str) -> str:
    """Return the path that removes one thing."""
    return operation_path(RESOURCE_KINDS[kind].remove or "", reference)


def operation_path(name: str, reference: str) -> str:
    """Return the path of an operation on one thing.

    :param name: Of the operation, in the catalogue.
    """
    return _VARIABLE.sub(lambda _: quote(reference, safe="/:@"), _pattern(name))


def _pattern(name: str) -> str:
    path = operation(name).path
    return PREFIX + path if path.startswith("/libpod/") else path


def is_inspectable(reference: str) -> bool:
    """Return whether a client's name can stand in a path: the engine's router cleans others, and answers a 301.

    Source: ``net/url`` and gorilla/mux (``cleanPath``), which see the path after it was unquoted.
    """
    return reference.isprintable() and not {"", ".", ".."}.intersection(reference.split("/"))


def listed(kind: str, answer: Any) -> list[Seen]:
    """Read the answer of the call that lists a kind; entries that have no ID are passed by."""
    entries = answer.get("Volumes") if isinstance(answer, dict) else answer
    found = [_seen(kind, entry) for entry in entries or () if isinstance(entry, dict)]
    return [seen for seen in found if seen.identifier]


def _seen(kind: str, entry: Mapping[str, Any]) -> Seen:
    spec = entry.get("Spec") or entry
    names: Sequence[Any] = (spec.get("Name"),)
    if kind == "container":
        names = [str(name).removeprefix("/") for name in entry.get("Names") or ()]
    elif kind == "image":
        tags = [*(entry.get("RepoTags") or ()), *(entry.get("RepoDigests") or ())]
        names = [familiar(tag) for tag in tags if "<none>" not in tag]
    elif kind == "plugin":
        names = [familiar(str(spec.get("Name") or ""))]
    identifier = entry.get("Id") or entry.get("ID") or (entry.get("Name") if kind == "volume" else None)
    created = entry.get("Created") or entry.get("CreatedAt")
    return Seen(
        str(identifier or ""),
        tuple(str(name) for name in names if name),
        spec.get("Labels") or {},
        seconds_of(created),
        tuple(volumes_of(entry)) if kind == "container" else (),
        str(entry.get("ImageID") or "") if kind == "container" else "",
        str(entry.get("State") or "") if kind == "container" else "",
        _parent(entry) if kind == "image" else "",
    )


def _parent(entry: Mapping[str, Any]) -> str:
    parent = str(entry.get("ParentId") or entry.get("Parent") or "")
    return familiar(parent) if parent else ""  # Podman's is bare


def inspected(kind: str, document: Mapping[str, Any]) -> Seen:
    """Read the answer of the call that inspects one thing; it has another shape than an entry of a list."""
    if kind not in ("container", "image"):
        return _seen(kind, document)
    config = _object(document, "Config")
    labels = _object(config, "Labels")
    if kind == "image":
        return _seen(kind, {**document, "Labels": labels})
    state = _object(document, "State").get("Status") or ""
    entry = {**document, "Names": [document.get("Name") or ""], "Labels": labels, "State": state}
    return _seen(kind, {**entry, "ImageID": document.get("Image")})


def uses(kind: str, document: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the kind and the ID or name of what an inspected container or service cannot do without."""
    if kind == "container":
        return _container_uses(document)
    if kind != "service":
        return set()
    task = _object(_object(document, "Spec"), "TaskTemplate")
    container = _object(task, "ContainerSpec")
    lists = (
        ("network", task.get("Networks"), "Target"),
        ("secret", container.get("Secrets"), "SecretID"),
        ("config", container.get("Configs"), "ConfigID"),
        ("volume", container.get("Mounts"), "Source"),
    )
    found = {
        (of, str(entry[key]))
        for of, entries, key in lists
        for entry in entries or ()
        if isinstance(entry, dict) and entry.get(key)
    }
    image = str(container.get("Image") or "").partition("@")[0]
    return found | ({("image", familiar(image))} if image else set())


def _container_uses(document: Mapping[str, Any]) -> set[tuple[str, str]]:
    found = {("volume", name) for name in volumes_of(document)}
    networks = _object(_object(document, "NetworkSettings"), "Networks")
    for name, network in networks.items():
        found |= {("network", name), ("network", str((network or {}).get("NetworkID") or ""))}
    image = str(_object(document, "Config").get("Image") or "")
    found |= {("image", str(document.get("Image") or "")), ("image", familiar(image) if image else "")}
    host = _object(document, "HostConfig")
    for key in ("NetworkMode", "IpcMode", "PidMode"):
        mode, colon, other = str(host.get(key) or "").partition(":")
        if mode == "container" and colon:
            found.add(("container", other))
    return {(kind, name) for kind, name in found if name}


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def seconds_of(value: Any) -> float:
    """Return a time of the engine's, in seconds since the epoch; 0.0: it does not say."""
    if isinstance(value, int | float):
        return float(value)
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):  # a driver that does not say, or says it in a way of its own
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def nameless_ancestors(images: Sequence[Seen], identifiers: Iterable[str]) -> list[Seen]:
    """Return what images were built on, step by step, as far as nobody has given it a name.

    :param images: All that the engine has.
    :param identifiers: Of those whose ancestors are asked for; they are left out.
    """
    by_id = {image.identifier: image for image in images}
    passed = {*identifiers}
    found: list[Seen] = []
    for identifier in [*passed]:
        image = by_id.get(identifier)
        while image is not None and image.parent in by_id and image.parent not in passed:
            image = by_id[image.parent]
            if image.names:
                break
            passed.add(image.identifier)
            found.append(image)
    return found


def implicit_volumes(create: Document) -> list[str]:
    """Return the names of the volumes that a container's create makes if they are missing.

    Engines up to 20.10 read the fields of HostConfig at the top, too, if it is absent.
    """
    found: dict[str, None] = {}
    for entry in _objects(create.get("volumes")):  # of Podman's own API: a map in Docker's
        name = Document(entry, b"").get("Name")
        if isinstance(name, str) and name:
            found[name] = None
    for top in (("HostConfig",), ()):
        for bind in _texts(create.get(*top, "Binds")):
            source, colon, _ = bind.partition(":")
            if colon and source and not source.startswith("/"):
                found[source] = None
        mounts = create.get(*top, "Mounts")
        for entry in mounts if isinstance(mounts, list) else ():
            mount = Document(entry, b"")  # looked up from here: the way down may have many keys
            source = mount.get("Source")
            if mount.get("Type") == "volume" and isinstance(source, str) and source:
                found[source] = None
    return [*found]


def donors(create: Document) -> list[str]:
    """Return the containers whose volumes a new one mounts (``VolumesFrom``)."""
    found = [
        text
        for path in (("HostConfig", "VolumesFrom"), ("VolumesFrom",), ("volumes_from",))  # the last is Podman's own
        for text in _texts(create.get(*path))
    ]
    return [reference.partition(":")[0].removeprefix("/") for reference in found]


def container_name(container: Any) -> str:
    """Return the name of a container that was inspected or listed; links give a listed one further names."""
    names = container.get("Names") or [container.get("Name") or ""]
    own = [str(name).removeprefix("/") for name in names]
    return next((name for name in own if "/" not in name), "")


def volumes_of(container: Any) -> list[str]:
    """Return the names of the volumes that an inspected or listed container has mounted."""
    mounts = container.get("Mounts") or () if isinstance(container, dict) else ()
    return [mount["Name"] for mount in mounts if mount.get("Type") == "volume" and mount.get("Name")]


def infra_container(pod: Any) -> str:
    """Return the ID of the container whose volumes all containers of an inspected pod share; "" if it has none."""
    found = pod.get("InfraContainerID") if isinstance(pod, dict) else None
    return found if isinstance(found, str) else ""


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
