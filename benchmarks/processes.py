"""Starts processes on a given core, and reads what they cost from /proc."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


class BenchmarkError(Exception):
    """A sentence that says why nothing, or not this, can be measured."""


@dataclass(frozen=True)
class Cores:
    """Which core runs what. The proxy's is its own; the load shares the engine's where there are but two."""

    proxy: int
    engine: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """Choose among those that we may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(
            proxy=usable[-1], engine=usable[min(1, len(usable) - 2)] if len(usable) > 2 else usable[0], load=usable[0]
        )


def cpu_nanoseconds(pid: int) -> int:
    """Return the time that a process, all its threads and its children, living and reaped, were on a core."""
    total = 0
    process = Path(f"/proc/{pid}")
    try:
        for task in (process / "task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
            for child in (task / "children").read_text().split():
                total += cpu_nanoseconds(int(child))
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return total  # a child that has just ended
    return total + (int(fields[13]) + int(fields[14])) * 1_000_000_000 // TICKS  # cutime, cstime: proc(5)


def pss_kib(pid: int) -> int:
    """Return the proportional share of memory of a process and its children, in KiB."""
    process = Path(f"/proc/{pid}")
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
        children = (process / "task" / str(pid) / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # a child that has just ended
    total = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total + sum(pss_kib(int(child)) for child in children)


def ping(path: Path, seconds: float = 30.0) -> bool:
    """Say whether somebody answers 200 to a ping on a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds)
        try:
            client.connect(str(path))
            client.sendall(PING)
            return client.recv(12) == b"HTTP/1.1 200"
        except OSError:
            return False


@dataclass
class Server:
    """A process that listens on a unix socket: the engine, or a proxy.

    :ivar command: Its command line.
    :ivar path: Of its socket.
    :ivar core: Where it runs.
    :ivar environment: Added to ours.
    """

    command: list[str]
    path: Path
    core: int
    environment: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers.

        :raises BenchmarkError: it does not.
        """
        self.path.unlink(missing_ok=True)
        log = self.path.with_suffix(".log")
        with log.open("ab") as output:
            ours = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {self.core})  # inherited; Go looks at it when it starts
            try:
                self.started = time.monotonic()
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **self.environment},
                    cwd=self.path.parent,
                    start_new_session=True,
                )
            finally:
                os.sched_setaffinity(0, ours)
        while not ping(self.path):
            if self._process.poll() is not None or time.monotonic() > self.started + 30:
                self.stop()
                raise BenchmarkError(
                    f"{self.command[0]} does not answer; its output:\n{log.read_text(errors='replace')}"
                )
            time.sleep(0.002)

    def stop(self) -> None:
        """Kill it and its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Load:
    """The load generator.

    :param program: Its path.
    :param core: Where it runs.
    """

    def __init__(self, program: Path, core: int) -> None:
        self._program, self._core = program, core

    def begin(self, path: Path, mode: str, **options: object) -> subprocess.Popen[str]:
        """Start it, its standard input and output being pipes."""
        ours = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._core})
        try:
            return subprocess.Popen(
                [str(self._program), str(path), mode, *(f"{name}={value}" for name, value in options.items())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            os.sched_setaffinity(0, ours)

    def end(self, process: subprocess.Popen[str], seconds: float = 180.0) -> dict[str, Any]:
        """Wait for it, and return what it measured.

        :raises BenchmarkError: an answer was wrong, or none came.
        """
        try:
            output, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise BenchmarkError(f"the load had no end after {seconds:g} s") from None
        if process.returncode:
            raise BenchmarkError(error.strip() or f"the load ended with {process.returncode}")
        result: dict[str, Any] = json.loads(output.splitlines()[0])
        return result

    def run(self, path: Path, mode: str, **options: object) -> dict[str, Any]:
        """Start it, and return what it measured."""
        return self.end(self.begin(path, mode, **options))


def system_calls(pid: int, run: Any) -> int:
    """Return how many system calls a process and its children make while something runs.

    :raises BenchmarkError: it cannot be traced.
    """
    with tempfile.TemporaryDirectory() as directory:
        summary = Path(directory) / "summary"
        tracer = subprocess.Popen(
            ["strace", "-f", "-c", "-o", str(summary), "-p", str(pid)], stderr=subprocess.PIPE, text=True
        )
        assert tracer.stderr is not None
        try:
            first = tracer.stderr.readline()
            if "attached" not in first:
                raise BenchmarkError(f"strace cannot attach: {first.strip()}")
            time.sleep(0.05)  # one line for each thread
            run()
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=30)
        return parse_summary(summary.read_text())


def parse_summary(text: str) -> int:
    """Return the number of calls in the last line of ``strace -c``."""
    lines = [line.split() for line in text.splitlines() if line.endswith(" total")]
    return int(lines[-1][3]) if lines else 0


def why_no_trace() -> str:
    """Return why system calls cannot be counted here, or the empty string."""
    try:
        result = subprocess.run(
            ["strace", "-c", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False, timeout=30
        )
    except FileNotFoundError:
        return "strace is not installed"
    return "" if result.returncode == 0 else f"strace does not work here: {result.stderr.strip()[:200]}"
