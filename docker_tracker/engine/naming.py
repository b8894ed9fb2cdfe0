"""What a create names before it is done, and what a removal's answer says is gone. Pure functions."""

from __future__ import annotations

from typing import Final

from docker_tracker.engine import query
from docker_tracker.engine.document import Document
from docker_tracker.engine.inventory import implicit_volumes
from docker_tracker.engine.operation import Call
from docker_tracker.engine.reference import familiar

# Where prunes answer with what they removed (api/types: PruneReport).
_PRUNED: Final = {
    "container_prune": "ContainersDeleted",
    "image_prune": "ImagesDeleted",
    "network_prune": "NetworksDeleted",
    "volume_prune": "VolumesDeleted",
}
# Images that are named by the query: parameter of the name, parameter of the tag.
_IMAGE_PARAMETERS: Final = {
    "container_commit": ("repo", "tag"),
    "image_tag": ("repo", "tag"),
}


def named_by(call: Call, document: Document | None) -> tuple[tuple[str, str], ...]:
    """Return (kind, name) of all that a create asks for by name, volumes of containers included.

    :param document: The body, for operations whose request is JSON.
    :raises docker_tracker.errors.BadTargetError: the query is not one that the engine reads.
    """
    operation, kind = call.operation.name, call.operation.kind or ""
    if operation == "container_create":
        own = (query.get(call.query, "name") or "").removeprefix("/")
        volumes = implicit_volumes(document) if document is not None else []
        return (*((("container", own),) if own else ()), *(("volume", name) for name in volumes))
    if kind == "image":
        return tuple(("image", name) for name in dict.fromkeys(_images(call)))
    if kind == "plugin":
        name = query.get(call.query, "name") or query.get(call.query, "remote")
        return (("plugin", familiar(name)),) if name else ()
    name = document.get("Name") if document is not None else None
    return ((kind, name),) if isinstance(name, str) and name else ()


def _images(call: Call) -> list[str]:
    operation = call.operation.name
    if operation == "image_build":
        return [familiar(tag) for tag in query.get_all(call.query, "t") if tag]
    if operation == "image_create":
        parameters = ("fromImage" if query.get(call.query, "fromImage") else "repo", "tag")
    elif operation in _IMAGE_PARAMETERS:
        parameters = _IMAGE_PARAMETERS[operation]
    else:
        return []
    name, tag = (query.get(call.query, parameter) or "" for parameter in parameters)
    return [familiar(name, tag)] if name else []


def removed_by_answer(call: Call, document: Document) -> list[str]:
    """Return the IDs and names that the answer of a prune, or of an image's removal, says are gone."""
    operation = call.operation.name
    entries = document.value if operation == "image_remove" else document.get(_PRUNED.get(operation, ""))
    found = []
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, str):
            found.append(entry)
        elif isinstance(entry, dict):
            found += [familiar(name) for key in ("Untagged", "Deleted") if isinstance(name := entry.get(key), str)]
    return found
