"""Private trackers: daemons of one user, each for one ``docker-tracker run`` where no other daemon is. Layer: config.

Each has a directory of its own under the user's state directory, whose lock it holds, and one under the run directory.
A directory whose lock is free was left by a tracker that was killed: `sweep` starts it again, and it finishes what was
to be done, as every tracker does at its start.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from docker_tracker.errors import ConfigurationError, TrackerError
from docker_tracker.state_lock import is_held

DIRECTORY: Final = "private"
_START: Final = "start.json"  # in a tracker's directory: how to start it again
_LOG: Final = "log"
_BUSY: Final = "starting"  # the lock of those who start trackers
_SECONDS: Final = 60.0  # until a tracker has started
_SHOWN: Final = 600  # characters of its log, if it has not

#: All that a private tracker gets of the environment. What marks the processes of a build is not among it.
_KEPT: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
    *("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
)
_ENGINE: Final = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_CONFIG")
_OWN: Final = "DOCKER_TRACKER_"

_TWISTD: Final = "from twisted.scripts.twistd import run; run()"


@attrs.define(auto_exc=True, slots=False)
class PrivateError(TrackerError):
    """A private tracker could not be started.

    :ivar message: One sentence that says why.
    """

    message: str

    def __str__(self) -> str:
        return self.message


@attrs.frozen
class Places:
    """Where a user's private trackers are.

    :ivar state: The user's state directory.
    :ivar run: The user's run directory.
    :ivar instance: The user's instance, which all of them have.
    """

    state: Path
    run: Path
    instance: str

    def control(self, name: str) -> Path:
        """Return the control socket of a private tracker."""
        return self.run / DIRECTORY / name / "control.sock"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a private tracker gets of an environment."""
    return {
        name: value
        for name, value in environ.items()
        if name in _KEPT or name in _ENGINE or name.startswith(("LC_", _OWN))
    }


def command(places: Places, name: str, scope: tuple[str, ...] = ()) -> list[str]:
    """Return the command line of a private tracker: twistd forks twice, closes its standard streams, and waits for it.

    :param scope: What starts it in a scope of its own, if there is such a thing.
    """
    state, run = places.state / DIRECTORY / name, places.run / DIRECTORY / name
    twistd = ("--pidfile=", f"--logfile={state / _LOG}", "--rundir=/")
    options = (
        f"--state-dir={state}",
        f"--run-dir={run}",
        f"--instance={places.instance}",
        f"--control=unix://{places.control(name)}",
        f"--listen=unix://{run / 'docker.sock'}",
        "--until-idle",
    )
    # -P: no module is taken from the directory where it is started.
    return [*scope, sys.executable, "-P", "-c", _TWISTD, *twistd, "docker-tracker", *options]


def scope(name: str, environ: Mapping[str, str], euid: int, booted: Path = Path("/run/systemd/system")) -> list[str]:
    """Return what puts a process into a transient scope of systemd, so that the end of our cgroup is not its end.

    :param booted: Is there if the system was booted with systemd (sd_booted(3)).
    :return: Nothing where that does not work: no systemd, or none for this user.
    """
    found = shutil.which("systemd-run", path=environ.get("PATH"))
    if found is None or not booted.is_dir():
        return []
    whose = [] if euid == 0 else ["--user"]
    line = [found, *whose, "--scope", "--quiet", "--collect"]
    try:
        tried = subprocess.run(
            [*line, "true"], env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [*line, f"--unit=docker-tracker-private-{name}", "--"] if tried.returncode == 0 else []


def start(places: Places, environ: Mapping[str, str], euid: int) -> Path:
    """Start a new private tracker, and return its control socket once it listens.

    :param environ: Says where the engine is; a short part of it is handed on.
    :raises PrivateError: it does not start; nothing of it is left.
    """
    name = secrets.token_hex(4)
    state, run = places.state / DIRECTORY / name, places.run / DIRECTORY / name
    try:
        # The user's directories, if they are new, for nobody else; but that of the system's sockets for all to enter.
        _enter(places.run)
        for directory in (places.state, state.parent, state, run.parent, run):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PrivateError(f"cannot make a directory for a private tracker: {error}") from error
    try:
        with _starting(places, fcntl.LOCK_SH):
            short = environment(environ)
            kept = {key: value for key, value in short.items() if key in _ENGINE or key.startswith(_OWN)}
            (state / _START).write_text(json.dumps({"environment": kept}), encoding="utf-8")
            _launch(places, name, short, euid)
    except (OSError, TrackerError) as error:
        discard(state, run)
        if isinstance(error, TrackerError):
            raise
        raise PrivateError(f"the private tracker does not start: {error}") from error
    return places.control(name)


def _enter(directory: Path) -> None:
    """Make a run directory as a daemon does, which may come later, with sockets for others."""
    if not directory.exists():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)


def sweep(places: Places, environ: Mapping[str, str], euid: int) -> list[str]:
    """Start the private trackers again that were killed before their work was done; remove what others left.

    If another process starts or sweeps trackers now, nothing is done: it is for the next sweep.

    :return: A sentence for each that could not be started; it is left for the next sweep.
    """
    problems = []
    with _starting(places, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        for state in _directories(places.state) if alone else ():
            try:
                if is_held(state):
                    continue
                if _jobs(state, "state <> 'gone' AND name <> 'default'") == set():
                    discard(state, places.run / DIRECTORY / state.name)
                    continue
                (places.run / DIRECTORY / state.name).mkdir(mode=0o700, parents=True, exist_ok=True)
                _launch(places, state.name, {**_bare(environ), **_environment_of(state)}, euid)
            except (OSError, TrackerError) as error:
                problems.append(f"what the private tracker in {state} left cannot be removed: {error}")
    return problems


def discard(state: Path, run: Path) -> None:
    """Remove the directories of a private tracker whose work is done; those of any other tracker are left alone."""
    if is_private(state):
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)


def is_private(state: Path) -> bool:
    """Say whether a state directory is one that `start` has made."""
    return state.parent.name == DIRECTORY and (state / _START).is_file()


def alive_elsewhere(state: Path, complain: Callable[[str], None]) -> Callable[[str, bool], bool]:
    """Return what says of a job whether another tracker of the same instance answers for it, as it is now.

    It takes the job's ID, and whether our own ledger knows that. Reads the ledgers of all private trackers, and may
    wait a second for each: not for the reactor's thread.

    :param state: Our own state directory. A private tracker answers for the jobs that its ledger knows, and for no
        other; any other tracker for all that no private one has. If the ledger of a private tracker that is alive
        cannot be read, it is taken to have every job that ours does not know.
    :param complain: Is told that, in the caller's thread.
    """
    if is_private(state):
        own = _jobs(state, "1")
        return lambda job_id, _: own is None or job_id not in own
    found: set[str] = set()
    unread = False
    for each in _directories(state):
        jobs = _jobs(each, "state <> 'gone'")
        if jobs is not None:
            found |= jobs
        elif _may_be_held(each):
            unread = True
            complain(f"the ledger of the private tracker in {each} cannot be read")
    return lambda job_id, known: job_id in found or (unread and not known)


def _may_be_held(state: Path) -> bool:
    try:
        return is_held(state)
    except ConfigurationError:  # it cannot be told
        return True


def _directories(state: Path) -> list[Path]:
    private = state / DIRECTORY
    if not private.is_dir():
        return []
    return sorted(each for each in private.iterdir() if each.is_dir() and not each.is_symlink())


def _jobs(state: Path, condition: str) -> set[str] | None:
    """Return the IDs of jobs in the ledger of a private tracker; None: it cannot be read."""
    path = state / "ledger.sqlite"
    if not path.exists():
        return set()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as database:
            return {row[0] for row in database.execute(f"SELECT id FROM jobs WHERE {condition}")}
    except sqlite3.Error:
        return None


def _environment_of(state: Path) -> dict[str, str]:
    """Return how a tracker that was started before finds its engine."""
    try:
        table: Any = json.loads((state / _START).read_text("utf-8"))["environment"]
        return {str(name): str(value) for name, value in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrivateError(f"{state / _START} cannot be read: {error}") from error


def _bare(environ: Mapping[str, str]) -> dict[str, str]:
    short = environment(environ)
    return {name: value for name, value in short.items() if name in _KEPT or name.startswith("LC_")}


@contextmanager
def _starting(places: Places, how: int) -> Iterator[bool]:
    """Hold the lock of those who start trackers; yields False if it cannot be had at once and that was asked for."""
    try:
        descriptor = os.open(
            places.state / DIRECTORY / _BUSY, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except FileNotFoundError:  # nobody has ever started one
        yield False
        return
    except OSError as error:
        raise ConfigurationError(str(places.state / DIRECTORY / _BUSY), f"cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def _launch(places: Places, name: str, short: dict[str, str], euid: int) -> None:
    """Start a tracker and wait until it listens.

    :raises PrivateError: it does not start.
    """
    line = command(places, name, tuple(scope(name, short, euid)))
    log = places.state / DIRECTORY / name / _LOG
    had = log.stat().st_size if log.exists() else 0
    try:
        # Its own session from the first moment on: no signal to our process group is one to it.
        done = subprocess.run(
            line,
            env=short,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PrivateError(f"the private tracker has not started within {_SECONDS:g} s") from None
    if done.returncode != 0:
        raise PrivateError(f"the private tracker does not start: {_reason(done.stdout, log, had)}")


def _reason(output: bytes, log: Path, had: int) -> str:
    """Return what a tracker said that has not started: the last line of its log, or of what it printed.

    :param had: How many bytes of the log are of earlier starts.
    """
    try:
        logged = log.read_bytes()[had:]
    except OSError:  # it has not come so far
        logged = b""
    for source in (logged, output):  # twistd cuts what it prints of a child's error
        lines = [line.strip() for line in source.decode("utf-8", "replace").splitlines() if line.strip()]
        told = [line for line in lines if "docker-tracker:" in line or "Error:" in line]
        if told:
            return re.sub(r"^(\S+ \[\S+\] )?(docker-tracker: |docker_tracker(\.\w+)+: )?", "", told[-1])
    return (output or logged).decode("utf-8", "replace").strip()[-_SHOWN:] or "it says nothing"
