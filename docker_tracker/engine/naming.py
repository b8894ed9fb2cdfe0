"""What a create names before it is done, and what a removal's answer says is gone. Pure functions."""

from __future__ import annotations

import re
from typing import Final

from docker_tracker.engine import query
from docker_tracker.engine.document import Document
from docker_tracker.engine.inventory import implicit_volumes
from docker_tracker.engine.operation import Call
from docker_tracker.engine.reference import familiar, podman_name

# Where prunes answer with what they removed (api/types: PruneReport).
_PRUNED: Final = {
    "container_prune": "ContainersDeleted",
    "image_prune": "ImagesDeleted",
    "network_prune": "NetworksDeleted",
    "volume_prune": "VolumesDeleted",
}
# Podman's own answer with an array of objects, and with these keys (pkg/domain/entities/reports; network: Name).
_PRUNED_KEYS: Final = ("Id", "Name")
_REMOVED_KEYS: Final = ("Untagged", "Deleted")
# Images that are named by the query: parameter of the name, parameter of the tag.
_IMAGE_PARAMETERS: Final = {
    "container_commit": ("repo", "tag"),
    "image_tag": ("repo", "tag"),
    "libpod_image_commit": ("repo", "tag"),
    "libpod_image_tag": ("repo", "tag"),
    "libpod_image_import": ("reference", ""),
}
_OWN: Final = "libpod_"
_HALF: Final = re.compile("[\ud800-\udfff]")  # of a surrogate pair: Go reads U+FFFD (encoding/json: decode.go)


def named_by(call: Call, document: Document | None) -> tuple[tuple[str, str], ...]:
    """Return (kind, name) of all that a create asks for by name, volumes of containers included.

    :param document: The body, for operations whose request is JSON.
    :raises docker_tracker.errors.BadTargetError: the query is not one that the engine reads.
    """
    operation, kind = call.operation.name, call.operation.kind or ""
    if kind in ("container", "pod"):
        own = query.get(call.query, "name") if operation == "container_create" else _name(document)
        own = (own or "").removeprefix("/")
        volumes = implicit_volumes(document) if document is not None else []
        return (*(((kind, own),) if own else ()), *(("volume", name) for name in volumes))
    if operation == "libpod_secret_create":
        own = query.get(call.query, "name")
        return ((kind, own),) if own else ()
    if kind == "image":
        return tuple(("image", name) for name in dict.fromkeys(_images(call)))
    if kind == "plugin":
        name = query.get(call.query, "name") or query.get(call.query, "remote")
        return (("plugin", familiar(name)),) if name else ()
    name = _name(document)
    return ((kind, name),) if name else ()


def _name(document: Document | None) -> str:
    name = document.get("Name") if document is not None else None
    return _HALF.sub("\ufffd", name) if isinstance(name, str) else ""


def _images(call: Call) -> list[str]:
    operation = call.operation.name
    if operation == "image_build":
        return [familiar(tag) for tag in query.get_all(call.query, "t") if tag]
    if operation == "libpod_image_build":
        return [podman_name(tag) for tag in query.get_all(call.query, "t") if tag]
    if operation == "libpod_manifest_create":
        return [podman_name(call.name)]
    if operation == "image_create":
        parameters = ("fromImage" if query.get(call.query, "fromImage") else "repo", "tag")
    elif operation in _IMAGE_PARAMETERS:
        parameters = _IMAGE_PARAMETERS[operation]
    else:
        return []
    name, tag = (query.get(call.query, parameter) or "" for parameter in parameters)
    full = podman_name if operation.startswith(_OWN) else familiar
    return [full(name, tag)] if name else []


def removed_by_answer(call: Call, document: Document) -> list[str]:
    """Return the IDs and names that the answer of a prune, or of an image's removal, says are gone."""
    operation, kind = call.operation.name, call.operation.kind
    if operation.startswith(_OWN):
        found = _removed_by_podman(document)
    else:
        entries = document.value if operation == "image_remove" else document.get(_PRUNED.get(operation, ""))
        found = []
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, str):
                found.append(entry)
            elif isinstance(entry, dict):
                found += [name for key in _REMOVED_KEYS if isinstance(name := entry.get(key), str)]
    return [familiar(name) for name in found] if kind == "image" else found


def _removed_by_podman(document: Document) -> list[str]:
    if not isinstance(document.value, list):  # an image's removal: arrays of names and of IDs
        arrays = [document.get(key) for key in _REMOVED_KEYS]
        return [name for names in arrays if isinstance(names, list) for name in names if isinstance(name, str)]
    found = []
    for entry in document.value:
        report = entry if isinstance(entry, dict) else {}
        name = next((report[key] for key in _PRUNED_KEYS if isinstance(report.get(key), str)), "")
        if name and not any(report.get(key) for key in ("Err", "Error")):
            found.append(name)
    return found
