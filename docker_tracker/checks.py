"""What is looked at before a start, beside the settings themselves: names, files, and whose socket the engine's is.

Nothing is opened for writing. Layer: below the daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docker_tracker.addresses import Address, same_file
from docker_tracker.config import Settings
from docker_tracker.connections import EngineAddress
from docker_tracker.errors import ConfigurationError
from docker_tracker.line_file import STANDARD_OUTPUT
from docker_tracker.proxy.sockets import find_owner
from docker_tracker.proxy.tls import client_context, server_context

_AUDIT = "audit"


def check_outside(settings: Settings) -> None:
    """Look at what a start would use: users and groups, TLS files, the audit log.

    :raises ConfigurationError: one of them is not there, or of no use.
    """
    for listener in settings.listeners:
        where = f"listen {listener}"
        if listener.kind == "unix":
            find_owner(listener.user, listener.group, where)
        if listener.kind == "tls" and listener.certificate is not None and listener.key is not None:
            try:
                server_context(listener.certificate, listener.key, listener.client_ca)
            except OSError as error:
                raise ConfigurationError(where, f"its TLS files cannot be used: {error}") from error
    if settings.control != "none":
        find_owner(settings.control_user, settings.control_group, f"control unix://{settings.control}")
    engine = settings.engine
    if engine.kind == "tls":
        try:
            client_context(engine.ca, engine.certificate, engine.key, engine.verify)
        except OSError as error:
            raise ConfigurationError(f"engine {engine}", f"its TLS files cannot be used: {error}") from error
    if settings.audit_log not in (None, STANDARD_OUTPUT) and _AUDIT in settings.interceptors:
        _check_appending(Path(settings.audit_log))


def _check_appending(path: Path) -> None:
    """Refuse a log that could not be written. A daemon would start: it reports that, and goes on."""
    place = path if os.path.exists(path) else path.parent
    wanted = os.W_OK if place == path else os.W_OK | os.X_OK
    if not os.access(place, wanted, effective_ids=True):
        raise ConfigurationError("audit-log", f"{path} cannot be written: this user may not write to {place}")


def check_engine(engine: EngineAddress, jobs_directory: Path) -> None:
    """Refuse an engine that is the socket of a job of ours, which it is in the shell of ``docker-tracker job env``.

    To ask ourselves for the engine would never end.

    :param jobs_directory: Where these sockets are; some are bound at the start only.
    :raises ConfigurationError: it is one.
    """
    if engine.kind != "unix":
        return
    real = Path(os.path.realpath(engine.path))
    if real.parent == Path(os.path.realpath(jobs_directory)):
        raise _own(engine, f"{real}, the socket of a job")
    for path in _entries(jobs_directory):
        if same_file(path, engine.path):
            raise _own(engine, f"{path}, the socket of a job")


def check_sockets(engine: EngineAddress, listening: Iterable[socket.socket]) -> None:
    """Refuse an engine that is a socket which was bound for us: of those that systemd passes only this tells where.

    :raises ConfigurationError: it is one.
    """
    for sock in listening:
        found: Any = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            if not isinstance(found, str) or not found.startswith("/"):
                continue  # an abstract one, which no engine's address can be
            address = Address("unix", "", path=found)
        else:
            address = Address("tcp", "", host=found[0], port=found[1])
        if engine.is_at(address):
            raise _own(engine, str(address))


def _entries(directory: Path) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(directory)]
    except OSError:  # it is not there yet, or its owner will be another one
        return []


def _own(engine: EngineAddress, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the engine's address {engine}",
        f"is our own: {what}; name the engine's socket, or unset DOCKER_HOST, if this is a job's shell",
    )
