"""What a line of a JSON stream (build, load, import, pull) says was created.

The texts are the engine's: ``daemon/builder/backend/backend.go``, ``daemon/builder/dockerfile/internals.go``,
``daemon/internal/builder-next/builder.go``, ``daemon/internal/image/tarexport/load.go``,
``daemon/containerd/image_exporter.go``, ``daemon/images/image_pull.go``; Buildah's ``imagebuildah/stage_executor.go``;
of Podman's own API ``pkg/domain/entities/types/images.go`` (one document for all but builds and pulls).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation

BUILDS: Final = ("image_build", "libpod_image_build")
"""Operations whose answers tell of the steps of a build."""

_BARE = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_DIGEST = r"(sha256:[0-9a-f]{64})"
_ID = re.compile(_DIGEST + r"\n?")
_LOADED = re.compile(r"Loaded image(?:: (\S+)| ID: " + _DIGEST + r")\n?")
_STEP = re.compile(r"(?: -)?--> (?:(Running in )?([0-9a-f]{11,12})|(Using cache).*)")
STEP_DIGITS: Final = 11
"""Of an ID, that every engine tells of a step: Podman 4 does not tell twelve."""
_PULLED = re.compile(r"Status: Downloaded newer image for (\S+)\n?")


def created_by_line(operation: Operation, document: Document, quiet: bool = False) -> Sequence[tuple[str, str]]:
    """Return the (kind, ID or name) of what a line of an operation's answer says was made; most lines say nothing.

    :param quiet: Whether a build was asked for with ``q=1``: then, and only then, a bare ID on a line is the
        engine's word. Otherwise it may be the output of a step, and a client could claim another's image with it.
    """
    identifier: str | None = None
    if operation.name.startswith("libpod_") and operation.name != "libpod_image_build":
        return [("image", name) for name in _by_podman(document)]
    if operation.name in BUILDS:
        identifier = built(document)
        if identifier is None and quiet:
            identifier = _matched(_ID, document.get("stream"))
    elif operation.name == "image_load":
        identifier = _matched(_LOADED, document.get("stream"))
    elif operation.name == "image_create":
        status = document.get("status")
        identifier = _matched(_ID, status) or _matched(_PULLED, status)
    return () if identifier is None else (("image", identifier),)


def built(document: Document) -> str | None:
    """Return the ID of the image that a line says a build made; None: it says nothing of that."""
    return _matched(_ID, document.get("aux", "ID"))


def steps_of_line(document: Document) -> list[tuple[str, str]]:
    """Return what a line of a build's answer may say of its steps: (kind, first digits of an ID).

    Only what is looked at may be believed: what a step writes stands in the same place, and can look the same. The
    kind "cache" has no ID: the image that comes next was there.
    """
    text = document.get("stream")
    found = []
    # A quiet build that fails tells all in one line.
    for line in text.splitlines() if isinstance(text, str) else ():
        if step := _STEP.fullmatch(line):
            running, identifier, cache = step.groups()
            found.append(("cache", "") if cache else ("container" if running else "image", identifier))
    return found


def _by_podman(document: Document) -> list[str]:
    names = document.get("Names")  # a load
    if isinstance(names, list):
        return [name for name in names if isinstance(name, str)]
    identifier = _matched(_BARE, document.get("Id"))
    return [f"sha256:{identifier}"] if identifier is not None else []


def _matched(expression: re.Pattern[str], text: object) -> str | None:
    """Return the first group that took part, or None: it is no text, or does not match."""
    match = expression.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else next(group for group in match.groups() if group is not None)
