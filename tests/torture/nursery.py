"""Starts processes fast: one that has all modules imported forks them, so that a daemon is soon up."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).parents[2]

# Everything that a hooked daemon imports; none of them may import the reactor, which must be made after the fork.
_PRELOADED = (
    "docker_tracker.cli.main",
    "docker_tracker.control.door",
    "docker_tracker.daemon",
    "docker_tracker.jobs_service",
    "docker_tracker.plugins.audit",
    "docker_tracker.plugins.labels",
    "docker_tracker.plugins.recorder",
    "docker_tracker.tap",
    "docker_tracker.tracking.agent",
    "docker_tracker.tracking.client",
    "docker_tracker.tracking.ledger",
    "docker_tracker.tracking.watcher",
    "tests.torture.client",
    "tests.torture.hooked",
    "twisted.scripts.twistd",
)


class Child:
    """A process that the nursery started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._descriptor = -1

    def is_alive(self) -> bool:
        """Say whether it runs."""
        return not self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait for its end. :returns: whether it has ended."""
        return self._descriptor < 0 or bool(select.select([self._descriptor], [], [], seconds)[0])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal; nothing happens if it is gone."""
        with suppress(ProcessLookupError):
            if self._descriptor >= 0:
                signal.pidfd_send_signal(self._descriptor, number)

    def discard(self) -> None:
        """Kill it and wait."""
        self.kill()
        if not self.wait(30):
            raise AssertionError(f"process {self.pid} does not die")
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Nursery:
    """The process that forks; all of its children die with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )

    def start(self, function: str, *arguments: Any, log: Path, environment: Mapping[str, str] | None = None) -> Child:
        """Start a function in a process of its own, in a session of its own.

        :param function: ``module:name``.
        :param arguments: What JSON can carry.
        :param log: Its output is appended there.
        :param environment: Added to ours.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = [function, arguments, str(log), dict(environment or {})]
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Child(int(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        with self._process:
            pass  # closes its standard input, and waits


def _fork(function: str, arguments: Sequence[Any], log: str, environment: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(old, new)
    os.closerange(3, 64)
    os.environ.update(environment)
    module, _, name = function.partition(":")
    getattr(import_module(module), name)(*arguments)
    return 0


def main() -> None:
    """Fork whatever is asked for, until the standard input ends."""
    for module in _PRELOADED:
        import_module(module)
    assert "twisted.internet.reactor" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = _fork(*json.loads(line))
        if not pid:
            return  # the child is done
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
