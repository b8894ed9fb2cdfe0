"""The environment in which a job's clients find its socket. Layer: the client command."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Mapping
from typing import Any, Final

from docker_tracker.addresses import is_loopback, parse

#: What would lead a client elsewhere, or have it expect TLS.
_ELSEWHERE: Final = ("DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
_IN_CONTAINER: Final = ("/.dockerenv", "/run/.containerenv")
_USUAL_SOCKET: Final = "/var/run/docker.sock"


def job_environment(job: Mapping[str, Any], environ: Mapping[str, str], engine: str) -> dict[str, str | None]:
    """Return what a job's clients need in their environment; None: the variable has to go.

    Testcontainers is told which socket its helpers mount, on which host that is what it publishes, and that it need not
    start its own reaper (Ryuk), as the job's end removes everything. What the user has set of these stays.

    :param job: As the control API gives it.
    :param environ: As it is now.
    :param engine: Its address; the empty string: it is not known.
    """
    wanted: dict[str, str | None] = {name: None for name in _ELSEWHERE if name in environ}
    wanted |= job["env"]
    ours = {"TESTCONTAINERS_RYUK_DISABLED": "true"}
    elsewhere = _other_host(engine)
    if job["socket"]:
        # Another host has no socket of ours: the engine would make a directory where it is to be.
        ours["TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE"] = _USUAL_SOCKET if elsewhere else job["socket"]
    if elsewhere:
        ours["TESTCONTAINERS_HOST_OVERRIDE"] = elsewhere
    elif not any(map(os.path.exists, _IN_CONTAINER)):  # in a container it is the gateway, which it finds by itself
        ours["TESTCONTAINERS_HOST_OVERRIDE"] = "localhost"
    return wanted | {name: value for name, value in ours.items() if name not in environ}


def _other_host(engine: str) -> str:
    """Return the host of an engine that is on another one; the empty string: it is on this one, or not known."""
    if not engine:
        return ""
    address = parse(engine, where="the engine's address", client=True)
    return "" if address.kind == "unix" or is_loopback(address.host) or _is_this(address.host) else address.host


def _is_this(host: str) -> bool:
    """Whether a name or an address is one of this host's: what is, can be bound."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found[:1]:
            with socket.socket(family, kind, protocol) as sock:
                sock.bind(address)
    except OSError:  # nobody knows the name, or it is another's
        return False
    return True


def script(variables: Mapping[str, str | None], shell: str) -> str:
    """Return lines that a shell evaluates.

    :param shell: ``fish``, ``csh``, or anything else for Bourne's.
    """
    lines = []
    for name, value in sorted(variables.items()):
        if value is None:
            lines.append({"fish": f"set -e {name};", "csh": f"unsetenv {name};"}.get(shell, f"unset {name}"))
        elif shell == "fish":
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            lines.append(f"set -gx {name} '{quoted}';")
        elif shell == "csh":
            lines.append(f"setenv {name} {shlex.quote(value)};")
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return "".join(f"{line}\n" for line in lines)
