"""A tracker of one's own, where no daemon is: `docker_tracker.private_state` for the client command."""

from __future__ import annotations

import os
from collections.abc import Mapping

from docker_tracker import private_state
from docker_tracker.config import load
from docker_tracker.instance import read_or_make
from docker_tracker.private_state import Places


def places(environ: Mapping[str, str]) -> Places:
    """Return where this user's private trackers are.

    :raises docker_tracker.errors.ConfigurationError: the user's settings cannot be used.
    """
    settings = load({}, environ, euid=os.geteuid())
    return Places(settings.state_dir, settings.run_dir, read_or_make(settings.state_dir, settings.instance or ""))


def start(environ: Mapping[str, str]) -> str:
    """Start a private tracker, and return the path of its control socket.

    :raises docker_tracker.errors.TrackerError: it does not start.
    """
    return str(private_state.start(places(environ), environ, os.geteuid()))


def sweep(environ: Mapping[str, str]) -> list[str]:
    """Finish what killed private trackers of this user have left; return what went wrong, in sentences.

    :raises docker_tracker.errors.ConfigurationError: the user's settings cannot be used.
    """
    settings = load({}, environ, euid=os.geteuid())
    if not (settings.state_dir / private_state.DIRECTORY).is_dir():
        return []
    return private_state.sweep(places(environ), environ, os.geteuid())
