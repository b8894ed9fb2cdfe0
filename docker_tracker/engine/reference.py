"""Names of images: every spelling of one becomes the one that the engine shows.

Source: ``distribution/reference`` (``normalize.go``), as moby uses it.
"""

from __future__ import annotations

_DEFAULT_DOMAINS = ("docker.io/", "index.docker.io/")
_OFFICIAL = "library/"


def familiar(reference: str, tag: str = "") -> str:
    """Return a reference as the engine lists it: no default domain, and a tag (``latest``) or a digest.

    :param reference: ``name``, ``name:tag`` or ``name@digest``; an ID of the form ``sha256:…`` stays as it is.
    :param tag: From a parameter of its own; may be a digest.
    """
    if reference.startswith("sha256:"):
        return reference
    for domain in _DEFAULT_DOMAINS:
        if reference.startswith(domain):
            reference = reference.removeprefix(domain).removeprefix(_OFFICIAL)
            break
    else:
        if reference.count("/") == 1:
            reference = reference.removeprefix(_OFFICIAL)
    if tag:
        return f"{reference}@{tag}" if ":" in tag else f"{_without_tag(reference)}:{tag}"
    if "@" in reference:
        name, _, digest = reference.partition("@")
        return f"{_without_tag(name)}@{digest}"
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


def _without_tag(reference: str) -> str:
    head, slash, last = reference.rpartition("/")
    return head + slash + last.partition(":")[0]
