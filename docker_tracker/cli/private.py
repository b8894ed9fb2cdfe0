"""A tracker of one's own, where no daemon is: `docker_tracker.private_state` for the client command."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from docker_tracker import private_state
from docker_tracker.addresses import LONGEST_SOCKET_PATH
from docker_tracker.config import Settings, load
from docker_tracker.connections import EngineAddress
from docker_tracker.errors import ConfigurationError, EngineUnavailableError
from docker_tracker.instance import read_or_make
from docker_tracker.permissions import check_private
from docker_tracker.private_state import Places
from docker_tracker.sources import variable

_CONNECT_SECONDS: Final = 10.0
_NAME_LENGTH: Final = 8  # of a private tracker's name


def places(environ: Mapping[str, str]) -> Places:
    """Return where this user's private trackers are.

    :raises docker_tracker.errors.ConfigurationError: the user's settings cannot be used.
    """
    settings = _settings(environ)
    # As the tracker does, whose words would come to us by way of its log.
    check_private(settings.state_dir, os.geteuid())
    instance = read_or_make(settings.state_dir, settings.instance or "")
    found = Places(settings.state_dir, settings.run_dir, instance)
    path = str(found.control("0" * _NAME_LENGTH))
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            f"the run directory {settings.run_dir}",
            f"is too long: the path {path} has {length} bytes, and a socket's at most {LONGEST_SOCKET_PATH};"
            " set a shorter one as DOCKER_TRACKER_RUN_DIR",
        )
    return found


def _settings(environ: Mapping[str, str]) -> Settings:
    """Return the user's settings. A private tracker is started elsewhere: what is relative would be lost.

    :raises ConfigurationError: they cannot be used.
    """
    for name in ("state-dir", "run-dir"):
        given = environ.get(variable(name), "")
        if given and not os.path.isabs(given):
            raise ConfigurationError(variable(name), f"{given!r} is not an absolute path of a directory")
    return load({}, environ, euid=os.geteuid())


def start(environ: Mapping[str, str]) -> str:
    """Start a private tracker, and return the path of its control socket.

    :raises docker_tracker.errors.TrackerError: it does not start, or the engine cannot be reached.
    """
    _reach(_settings(environ).engine)
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
    directory = _settings(environ).state_dir / private_state.DIRECTORY
    try:
        if not directory.is_dir():
            return []
        return private_state.sweep(places(environ), environ, os.geteuid())
    except OSError as error:
        raise ConfigurationError(str(error.filename or directory), f"cannot be used: {error.strerror}") from error
