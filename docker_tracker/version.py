"""Which version of the package this is. The lowest layer: imports nothing of ours."""

from __future__ import annotations


def version() -> str:
    """Return the version of the installed package, or what stands for it in a checkout."""
    from importlib import metadata  # slow, and rarely asked for

    try:
        return metadata.version("docker-tracker")
    except metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"
