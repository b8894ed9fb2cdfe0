"""The daemon as a process of its own, started as a user would start it, for the integration tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
TWISTD = Path(sys.executable).parent / "twistd"


class Daemon:
    """``twistd docker-tracker`` in a new directory, in which its state, its sockets and its output are.

    :param options: of docker-tracker; where it listens and its engine are among them. State and run directory are set.
    :param twistd: of twistd itself.
    :param environment: all that it gets besides PATH, HOME and what measures coverage.
    :param wrapper: a command line put before it.
    :param program: the twistd to start.
    """

    def __init__(
        self,
        *options: str,
        twistd: tuple[str, ...] = ("--nodaemon", "--pidfile="),
        environment: Mapping[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
        program: Path = TWISTD,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dt-daemon-", dir="/tmp"))
        self.socket_path = self.directory / "docker.sock"
        self.control_path = self.directory / "run/control.sock"
        self.log_path = self.directory / "output"
        places = (f"--state-dir={self.directory / 'state'}", f"--run-dir={self.directory / 'run'}")
        self.command = [*wrapper, str(program), *twistd, "docker-tracker", *places, *options]
        self.environment = daemon_environment(self.directory, environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def address(self) -> str:
        """DOCKER_HOST for a client, if it listens on ``socket_path``."""
        return f"unix://{self.socket_path}"

    def start(self) -> Daemon:
        """Start it; it is not waited for."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, cwd="/"
            )
        return self

    def serve(self) -> Daemon:
        """Start it with ``socket_path`` and ``control_path``, and wait until it listens."""
        self.command.append(f"--listen={self.address}")
        self.start()
        self.wait_for_socket()
        return self

    def output(self) -> str:
        """Give all that it wrote."""
        return self.log_path.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until a condition holds. :raises AssertionError: it ended, or the time is over; with its output."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"the daemon has ended; its output:\n{self.output()}")
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds} s in vain; its output:\n{self.output()}")
            time.sleep(0.02)

    def wait_for_socket(self) -> None:
        """Wait until ``socket_path`` gives an answer; before, the reactor's signal handlers may not be there yet."""
        self.wait_for(lambda: answers(self.socket_path))

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Send it a signal and wait for its end. :returns: its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def discard(self) -> None:
        """Kill it, if it still runs, and remove its directory."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        # As a command, since the standard library's gives up on what disappears meanwhile.
        subprocess.run(["rm", "-rf", str(self.directory)], check=True)


def daemon_environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Give a small environment with the checkout on Python's path; coverage and the run's mark are handed on."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("COVERAGE_", "TRACKER_TEST_"))}
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), **kept, **more}


def answers(path: Path) -> bool:
    """Say whether somebody answers HTTP on a unix socket, whatever the answer is."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        try:
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            return client.recv(9) == b"HTTP/1.1 "
        except OSError:
            return False
