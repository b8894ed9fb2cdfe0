"""The host's paths that a body wants to have mounted, and how to put others in their place. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from docker_tracker.engine.document import Change, Document, Path
from docker_tracker.errors import RefusedError

_HOST_CONFIG: Final = "HostConfig"
_OF_SERVICES: Final[Path] = ("TaskTemplate", "ContainerSpec", "Mounts")
_CREATE: Final = "container_create"
_NO_PATH: Final = ("volume", "tmpfs", "npipe", "cluster", "image")

#: The operations whose bodies have them.
OPERATIONS: Final = frozenset(
    (_CREATE, "service_create", "service_update", "libpod_container_create", "libpod_pod_create")
)


def _arrays(document: Document, operation: str) -> Iterator[tuple[Path, list[Any]]]:
    """Return the arrays that have them, each with its path."""
    if operation == _CREATE:
        # Engines up to 20.10 read both at the top, too, if there is no HostConfig (runconfig/config_unix.go).
        above: Path = () if document.get(_HOST_CONFIG) is None else (_HOST_CONFIG,)
        paths: tuple[Path, ...] = ((*above, "Binds"), (*above, "Mounts"))
    elif operation.startswith("libpod_"):  # pkg/specgen of Podman
        paths = (("mounts",), ("overlay_volumes",))
    else:
        paths = (_OF_SERVICES,)
    for path in paths:
        entries = document.get(*path)
        if isinstance(entries, list):  # none, or the engine will say what is wrong
            yield path, entries


def _source(entry: Any) -> str:
    """Return the path that one entry has mounted, or the empty string: a volume's name is no path."""
    if isinstance(entry, str):  # volume/mounts/linux_parser.go: ParseMountRaw; a colon cannot be escaped
        source, colon, _ = entry.partition(":")
        found: Any = source if colon else ""
    else:
        mount = Document(entry, b"")
        # Podman's overlay volumes have no type; an OCI mount may be a bind by its options alone.
        found = mount.get("Source") if mount.get("Type") not in _NO_PATH else ""
    return found if isinstance(found, str) and found.startswith("/") else ""


def bind_sources(document: Document, operation: str) -> list[str]:
    """Return the paths of the host that a body has mounted, as they stand there, each once.

    :param operation: Its name in the catalogue.
    """
    found = (_source(entry) for _, entries in _arrays(document, operation) for entry in entries)
    return [source for source in dict.fromkeys(found) if source]


def with_sources(document: Document, operation: str, others: Mapping[str, str]) -> Document:
    """Return a document with other paths in the place of some; where they are mounted stays.

    :param others: By the path as it stood there.
    :raises RefusedError: a path has a colon and stands where it cannot be written.
    """
    for path, entries in list(_arrays(document, operation)):
        new, changes = [], list(document.changes)
        for index, entry in enumerate(entries):
            source = _source(entry)
            wanted = others.get(source, source) if source else source
            if wanted == source:
                new.append(entry)
            elif isinstance(entry, str):
                if ":" in wanted:
                    raise RefusedError(
                        f"{wanted} has a colon, which Binds cannot have: use Mounts (docker run --mount)"
                    )
                new.append(wanted + entry[len(source) :])
                changes.append(Change((*path, index), entry, new[-1]))
            else:
                mount = Document(entry, b"").with_value(("Source",), wanted)
                new.append(mount.value)
                changes += [Change((*path, index, *each.path), each.old, each.new) for each in mount.changes]
        if len(changes) > len(document.changes):
            # One edit for all: one for each would copy the array as often as it is long.
            document = attrs.evolve(document.with_value(path, new), changes=tuple(changes))
    return document
