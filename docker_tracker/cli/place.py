"""Where the control socket is. Layer: the client command.

Cheap on purpose: the daemon's own reading of its configuration checks far more than is needed here.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from docker_tracker.addresses import parse
from docker_tracker.cli.client import NoDaemon
from docker_tracker.errors import ConfigurationError

_SYSTEM: Final = (Path("/etc/docker-tracker"), Path("/run/docker-tracker"))


def find_control(given: str, environ: Mapping[str, str], euid: int, system: tuple[Path, Path] = _SYSTEM) -> str:
    """Return the path of the control socket; whether anybody is there is not looked at.

    :param given: The option ``--control``, or ``DOCKER_TRACKER_CONTROL``; if it is empty, the configuration files
        tell: root's is the system's; others have their own, and the system's if there is no socket of their own.
    :param system: The system's directories: of the configuration, and of sockets.
    :raises ConfigurationError: what is given, or a file, cannot be understood.
    :raises NoDaemon: the configuration says that there is no control socket.
    """
    if given:
        return _path(given, "--control")
    found = [path for path in _candidates(environ, euid, system) if path]
    if not found:
        raise NoDaemon("the configuration has no control socket (control = none): set one, or give --control")
    *own, last = found
    return next(filter(_is_seen, own), last if _is_there(last) else found[0])


def _is_seen(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:  # what is hidden from a user is not that user's own
        return False
    return True


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except PermissionError:  # something is; connecting will tell
        return True
    except OSError:
        return False
    return True


def _candidates(environ: Mapping[str, str], euid: int, system: tuple[Path, Path]) -> Iterator[str]:
    file, run = environ.get("DOCKER_TRACKER_CONFIG", ""), environ.get("DOCKER_TRACKER_RUN_DIR", "")
    if file or run:
        yield _configured(Path(file) if file else system[0] / "docker-tracker.toml", Path(run or system[1]), bool(run))
        return
    if euid != 0:
        home = Path(environ.get("HOME", "") or os.path.expanduser("~"))
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        if not runtime.startswith("/"):
            runtime = f"/run/user/{euid}"
        own = Path(runtime) / "docker-tracker"
        if not Path(runtime).is_dir():
            own = _base(environ, "XDG_STATE_HOME", home / ".local/state") / "docker-tracker/run"
        yield _configured(
            _base(environ, "XDG_CONFIG_HOME", home / ".config") / "docker-tracker/docker-tracker.toml", own
        )
    yield _configured(system[0] / "docker-tracker.toml", system[1])


def _base(environ: Mapping[str, str], name: str, fallback: Path) -> Path:
    given = environ.get(name, "")
    return Path(given) if given.startswith("/") else fallback


def _configured(file: Path, run_dir: Path, sure: bool = False) -> str:
    """Return what one daemon's configuration makes of it; the empty string: no socket.

    :param sure: Whether the run directory is given, so that the file's does not count.
    """
    table: dict[str, Any] = {}
    try:
        table = tomllib.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # none, or it is not for us to read
        pass
    except (OSError, ValueError) as error:
        raise ConfigurationError(str(file), f"cannot be read: {error}") from error
    control = table.get("control", "")
    if isinstance(control, dict):
        control = control.get("address", "")
    if control == "none":
        return ""
    if control:
        return _path(str(control), f"control in {file}")
    if not sure and isinstance(table.get("run-dir"), str):
        run_dir = Path(table["run-dir"])
    return str(run_dir / "control.sock")


def _path(address: str, where: str) -> str:
    if address.startswith("/"):
        return address
    if address == "none":
        raise ConfigurationError(
            where,
            "'none' is for the daemon, which has no control socket then: name that of one which has: unix:///path",
        )
    if not address.startswith("unix:"):
        raise ConfigurationError(where, f"{address!r} must be a unix socket: unix:///path")
    return parse(address, where=where).path
