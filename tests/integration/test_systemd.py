"""The units are valid, and the daemon does what they expect of it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, TWISTD, Daemon
from tests.support.engine import docker, engine_address, require_program

UNITS = ROOT / "systemd"


class UnitTests(SynchronousTestCase):
    def test_valid(self) -> None:
        """``systemd-analyze verify`` has nothing to say about the units, once they name the twistd that is here."""
        analyze = require_program("systemd-analyze", "systemd")
        with tempfile.TemporaryDirectory() as directory:
            for unit in sorted(UNITS.iterdir()):
                text = re.sub(r"^ExecStart=twistd", f"ExecStart={TWISTD}", unit.read_text(), flags=re.MULTILINE)
                (Path(directory) / unit.name).write_text(text)
            units = [str(path) for path in sorted(Path(directory).iterdir())]
            done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr, len(units)), (0, "", "", 2))

    def test_agree(self) -> None:
        """The unit waits to be told, stops the daemon with patience, and hides no bind sources from it."""
        service = (UNITS / "docker-tracker.service").read_text()
        for line in ("Type=notify", "KillMode=mixed", "Restart=always", "ExecReload=kill -HUP $MAINPID"):
            self.assertIn(f"\n{line}\n", service)
        self.assertNotRegex(service, r"(?m)^(PrivateTmp|ProtectHome|Requires)=")


def _received(told: socket.socket) -> bytes:
    """Return the next message that is not about sockets to keep."""
    while (message := told.recv(1024)).startswith(b"FDSTORE"):
        pass
    return message


class ActivationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = engine_address()
        self.activate = require_program("systemd-socket-activate", "systemd")

    def start(self, *options: str, names: str) -> tuple[Daemon, socket.socket]:
        """Start the daemon as systemd does: with the socket open, and somebody to be notified."""
        daemon = Daemon(f"--engine={self.engine}", *options)
        self.addCleanup(daemon.discard)
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(told.close)
        told.bind(str(daemon.directory / "notify"))
        told.settimeout(30)
        environment = {**daemon.environment, "NOTIFY_SOCKET": str(daemon.directory / "notify")}
        handed_on = [f"--setenv={name}={value}" for name, value in environment.items()]
        listen = [f"--listen={daemon.socket_path}", f"--fdname={names}"]
        daemon.command = [self.activate, *listen, *handed_on, *daemon.command]
        daemon.start()
        daemon.wait_for(daemon.socket_path.exists)
        return daemon, told

    def test_activation(self) -> None:
        """The first client starts it, by index, by name or by default; it says READY, serves, says STOPPING, exit 0."""
        for options in (("--listen=systemd:domain=UNIX:index=0",), ("--listen=systemd:name=docker",), ()):
            daemon, told = self.start(*options, names="docker")
            version = docker("version", "--format={{.Server.Version}}", address=daemon.address)
            self.assertEqual(
                version.stdout, docker("version", "--format={{.Server.Version}}", address=self.engine).stdout
            )
            self.assertEqual(_received(told), b"READY=1")
            self.assertEqual(daemon.stop(signal.SIGTERM), 0, daemon.output())
            self.assertEqual(_received(told), b"STOPPING=1")
            self.assertTrue(daemon.socket_path.exists())
