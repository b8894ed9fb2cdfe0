"""Names of images: every spelling of one becomes the one that the engine shows.

Source: ``distribution/reference`` (``normalize.go``), as moby uses it.
"""

from __future__ import annotations

import re

_BARE_ID = re.compile(r"[0-9a-f]{64}")  # no repository may be called so (distribution/reference: ParseNormalizedNamed)
_DEFAULT_DOMAINS = ("docker.io/", "index.docker.io/")
_OFFICIAL = "library/"


def familiar(reference: str, tag: str = "") -> str:
    """Return a reference as the engine lists it: no default domain, and a tag (``latest``) or a digest.

    :param reference: ``name``, ``name:tag`` or ``name@digest``; an ID of the form ``sha256:…`` stays as it is, and
        one without ``sha256:``, as Podman gives them, gets it.
    :param tag: From a parameter of its own; may be a digest.
    """
    if reference.startswith("sha256:"):
        return reference
    if _BARE_ID.fullmatch(reference):
        return f"sha256:{reference}"
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


def podman_name(reference: str, tag: str = "") -> str:
    """Return a reference as Podman's own API takes it: a name without a registry is one of ``localhost/``.

    Source: ``libimage`` of Podman's common library (``NormalizeName``).
    """
    first, slash, _ = reference.partition("/")
    qualified = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return familiar(reference if qualified or reference.startswith("sha256:") else f"localhost/{reference}", tag)


def _without_tag(reference: str) -> str:
    head, slash, last = reference.rpartition("/")
    return head + slash + last.partition(":")[0]
