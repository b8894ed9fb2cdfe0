"""The daemon with hooks: twistd itself, but at the n-th time that a step is reached something fails.

A plan is a JSON file: a step, at which time, what to do, for how long. It holds from when the file is there; when it is
carried out, the file is renamed to ``….done``, so that it is carried out once, whoever dies of it. What the process
can't do to itself it asks the harness to do, and stands still meanwhile.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from docker_tracker.tracking import reaper
from tests.torture import steps

# How long a reap waits for creates without an answer: less than in earnest, so that rounds are short. What comes later
# is for the reconcile to find.
_SETTLE_SECONDS = 0.5
_WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "REPLACE", "ALTER", "DROP")


class _Disk:
    """Whether there is room on it."""

    full = False


class _Connection(sqlite3.Connection):
    """A database on a disk that may be full."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        _check_room(sql)
        return super().execute(sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        _check_room(sql)
        return super().executemany(sql, *parameters)


def _check_room(sql: str) -> None:
    if _Disk.full and sql.lstrip().upper().startswith(_WRITES):
        raise sqlite3.OperationalError("database or disk is full")


class Hooks:
    """Counts steps, and carries out the plan.

    :param plan: The plan's file.
    :param harness: The unix socket on which the harness takes requests.
    """

    def __init__(self, plan: Path, harness: Path) -> None:
        self._plan = plan
        self._harness = harness
        self._reached: dict[str, int] = {}
        self._lock = threading.Lock()

    def install(self) -> None:
        """Put a hook before and after each point.

        :raises AttributeError: there is no such function any more: the table is out of date.
        """
        functions: dict[str, list[steps.Point]] = {}
        for point in steps.POINTS:
            functions.setdefault(point.target, []).append(point)
        for target, points in functions.items():
            module, _, path = target.partition(":")
            owner_name, _, name = path.partition(".")
            owner = getattr(import_module(f"docker_tracker.{module}"), owner_name)
            setattr(owner, name, self._hooked(getattr(owner, name), points))
        vars(reaper)["_SETTLE_SECONDS"] = _SETTLE_SECONDS
        connect = sqlite3.connect
        vars(sqlite3)["connect"] = lambda *args, **more: connect(*args, factory=_Connection, **more)

    def _hooked(self, function: Callable[..., Any], points: Sequence[steps.Point]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            async def waited(*args: Any, **more: Any) -> Any:
                counted = [point.name for point in points if point.applies(*args, **more)]
                self._reach(counted, "before")
                result = await function(*args, **more)
                self._reach(counted, "after")
                return result

            return waited

        def called(*args: Any, **more: Any) -> Any:
            counted = [point.name for point in points if point.applies(*args, **more)]
            self._reach(counted, "before")
            result = function(*args, **more)
            if isinstance(result, Deferred):

                def passed(value: Any) -> Any:
                    self._reach(counted, "after")
                    return value

                return result.addCallback(passed)
            self._reach(counted, "after")
            return result

        return called

    def _reach(self, names: Sequence[str], moment: str) -> None:
        for name in names:
            with self._lock:
                self._count(f"{name}:{moment}")

    def _count(self, step: str) -> None:
        try:
            plan = json.loads(self._plan.read_text())
        except FileNotFoundError:
            return
        if plan["step"] != step:
            return
        self._reached[step] = self._reached.get(step, 0) + 1
        if self._reached[step] < plan["nth"]:
            return
        with suppress(FileNotFoundError):  # another process of the same plan was first
            os.rename(self._plan, f"{self._plan}.done")
            self._do(plan["deed"], plan["seconds"])

    def _do(self, deed: str, seconds: float) -> None:
        sys.stdout.write(f"TORTURE: {deed}\n")
        sys.stdout.flush()
        if deed == steps.KILL_TRACKER:
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed == steps.STOP_TRACKER:
            os.kill(os.getpid(), signal.SIGTERM)
        elif deed == steps.RESET_ENGINE:
            _reset(lambda sock: "engine" in str(sock.getpeername()))
        elif deed == steps.RESET_CLIENT:
            _reset(lambda sock: "engine" not in str(sock.getpeername()) and str(sock.getsockname()).endswith(".sock"))
        elif deed == steps.FILL_DISK:
            _Disk.full = True
            threading.Timer(seconds, lambda: setattr(_Disk, "full", False)).start()
        else:
            with socket.socket(socket.AF_UNIX) as harness:
                harness.connect(str(self._harness))
                harness.sendall(deed.encode())
                harness.shutdown(socket.SHUT_WR)
                harness.recv(1)  # it is done


def _reset(applies: Callable[[socket.socket], bool]) -> None:
    """Break connections of this process."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM and applies(sock):
                sock.shutdown(socket.SHUT_RDWR)


def main(arguments: Sequence[str], plan: str, harness: str) -> None:
    """Run twistd, hooked.

    :param arguments: Its command line.
    """
    Hooks(Path(plan), Path(harness)).install()
    sys.argv = [*arguments]
    from twisted.scripts.twistd import run

    run()
