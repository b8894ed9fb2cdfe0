"""A tracker of one's own, where no daemon is: `docker_tracker.private_state` for the client command."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from docker_tracker import private_state
from docker_tracker.config import load
from docker_tracker.connections import EngineAddress
from docker_tracker.errors import EngineUnavailableError
from docker_tracker.instance import read_or_make
from docker_tracker.private_state import Places

_CONNECT_SECONDS: Final = 10.0


def places(environ: Mapping[str, str]) -> Places:
    """Return where this user's private trackers are.

    :raises docker_tracker.errors.ConfigurationError: the user's settings cannot be used.
    """
    settings = load({}, environ, euid=os.geteuid())
    return Places(settings.state_dir, settings.run_dir, read_or_make(settings.state_dir, settings.instance or ""))


def start(environ: Mapping[str, str]) -> str:
    """Start a private tracker, and return the path of its control socket.

    :raises docker_tracker.errors.TrackerError: it does not start, or the engine cannot be reached.
    """
    _reach(load({}, environ, euid=os.geteuid()).engine)
    return str(private_state.start(places(environ), environ, os.geteuid()))


def _reach(engine: EngineAddress) -> None:
    """Connect to the engine. A tracker whose job is over waits for it, and might do so for ever.

    :raises EngineUnavailableError: it is not there, or is not for this user.
    """
    try:
        if engine.kind == "unix":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(_CONNECT_SECONDS)
                sock.connect(engine.path)
        else:
            socket.create_connection((engine.host, engine.port), _CONNECT_SECONDS).close()
    except PermissionError as error:
        message = f"you may not use the engine at {engine}: become a member of its socket's group, or root"
        raise EngineUnavailableError(message) from error
    except OSError as error:
        raise EngineUnavailableError(f"the engine at {engine} cannot be reached: {error.strerror or error}") from error


def sweep(environ: Mapping[str, str]) -> list[str]:
    """Finish what killed private trackers of this user have left; return what went wrong, in sentences.

    :raises docker_tracker.errors.ConfigurationError: the user's settings cannot be used.
    """
    settings = load({}, environ, euid=os.geteuid())
    if not (settings.state_dir / private_state.DIRECTORY).is_dir():
        return []
    return private_state.sweep(places(environ), environ, os.geteuid())
