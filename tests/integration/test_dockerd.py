"""The private engine itself: it is a real one, it can be restarted, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.dockerd import IMAGE, EngineError, PrivateEngine
from tests.support.engine import discard, docker, private_engine

ROOT = Path(__file__).resolve().parents[2]


def left_behind(engine: PrivateEngine) -> dict[str, object]:
    """Give what is still there of an engine on this host."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    return {
        "processes": engine.processes(),
        "mounts": [line for line in mounts if str(engine.directory) in line],
        "cgroups": engine.cgroups(),
        "files": sorted(path.name for path in engine.directory.iterdir() if path.suffix != ".log"),
    }


NOTHING: dict[str, object] = {"processes": [], "mounts": [], "cgroups": [], "files": []}


class PrivateEngineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = private_engine("own")
        self.addCleanup(discard, self.engine)

    def test_life(self) -> None:
        """It runs a container, comes back after a restart, and when stopped nothing is left but its logs."""
        engine = self.engine
        engine.start()
        self.assertEqual(docker("run", "--rm", IMAGE, "echo", "hello", address=engine.address).stdout, b"hello\n")
        container = (
            docker("run", "-d", "--stop-signal=KILL", IMAGE, "sleep", "1000", address=engine.address)
            .stdout.decode()
            .strip()
        )
        network = docker("network", "create", "own", address=engine.address).stdout.decode().strip()
        self.assertNotIn(f"br-{network[:12]}", os.listdir("/sys/class/net"))
        self.assertNotEqual(engine.cgroups(), [])

        first = engine.process_id("dockerd")
        for kill in (False, True):
            engine.restart(kill=kill)
            status, answer = engine.api("GET", f"/containers/{container}/json")
            self.assertEqual((status, answer["State"]["Running"]), (200, False))
            docker("start", container, address=engine.address)
        self.assertNotEqual(engine.process_id("dockerd"), first)

        engine.stop()
        self.assertEqual(left_behind(engine), NOTHING)
        self.assertIsNone(engine.process_id("containerd"))

    def test_stopped_though_daemons_were_killed(self) -> None:
        """Containers that outlived both daemons are found and ended all the same."""
        engine = self.engine
        engine.start()
        docker("run", "-d", IMAGE, "sleep", "1000", address=engine.address)
        for name in ("dockerd", "containerd"):
            process = engine.process_id(name)
            assert process is not None
            os.kill(process, signal.SIGKILL)
            while engine.process_id(name) is not None:
                time.sleep(0.01)
        engine.stop()
        self.assertEqual(left_behind(engine), NOTHING)

    def test_published_port(self) -> None:
        """A published port is inside the namespace, and reached from there."""
        engine = self.engine
        engine.start()
        docker("run", "-d", "-p", "8000:80", IMAGE, "httpd", "-f", "-h", "/etc", address=engine.address)
        command = engine.enter("busybox", "wget", "-qO-", "http://127.0.0.1:8000/group")
        self.assertEqual(subprocess.run(command, capture_output=True, check=True).stdout, b"root:x:0:\n")

    def test_command_line(self) -> None:
        """``up`` prints the address of an engine that outlives it, ``down`` of another process ends that one."""
        command = [sys.executable, "-m", "tests.support.dockerd"]
        directory = str(self.engine.directory)
        up = subprocess.run([*command, "up", directory], capture_output=True, cwd=ROOT, check=True)
        self.assertEqual(up.stdout.decode(), f"{self.engine.address}\n")
        self.assertEqual(self.engine.api("GET", "/_ping"), (200, "OK"))
        again = subprocess.run([*command, "up", directory], capture_output=True, cwd=ROOT)
        self.assertEqual((again.returncode, again.stdout), (1, b""))
        subprocess.run([*command, "down", directory], capture_output=True, cwd=ROOT, check=True)
        self.assertEqual(left_behind(self.engine), NOTHING)

    def test_failed_start(self) -> None:
        """If dockerd refuses to start, the error shows why, and containerd is not left running."""
        self.engine.options = ("--no-such-option",)
        with self.assertRaisesRegex(EngineError, "no-such-option"):
            self.engine.start()
        self.assertEqual(left_behind(self.engine), NOTHING)

    def test_long_path(self) -> None:
        """A directory whose sockets would have too long a path is refused before anything is started."""
        engine = PrivateEngine(self.engine.directory / ("x" * 60))
        with self.assertRaisesRegex(EngineError, "longer than 60 bytes"):
            engine.start()
        self.assertFalse(engine.directory.exists())

    def test_record(self) -> None:
        """A recorded process ID that now belongs to another process is not taken for the engine's."""
        record = {"dockerd": {"pid": os.getpid(), "start_time": "1"}}
        (self.engine.directory / "engine.json").write_text(json.dumps(record))
        self.assertIsNone(self.engine.process_id("dockerd"))
