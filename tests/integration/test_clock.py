"""What the daemon does when somebody sets the machine's clock."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, Daemon
from tests.support.engine import docker, engine_address
from tests.torture.wire import ask

IMAGE = "busybox:local"
HOUR = 3600


class ClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = engine_address()
        self.daemon = Daemon(
            f"--engine={self.engine}", wrapper=(sys.executable, str(ROOT / "tests/support/moved_clock.py"))
        )
        self.addCleanup(self.daemon.discard)
        self.clock, self.audit = self.daemon.directory / "clock", self.daemon.directory / "audit.log"
        self.clock.write_text("0")
        self.daemon.command[2:2] = [str(self.clock)]
        self.daemon.command += [f"--audit-log={self.audit}", "--interceptors=labels,recorder,audit"]
        self.daemon.serve()

    def set(self, seconds: int) -> None:
        """Move the clock, at once."""
        new = Path(f"{self.clock}.new")
        new.write_text(str(seconds))
        new.rename(self.clock)

    def control(self, method: str, target: str, body: Any = None) -> Any:
        status, answer = ask(self.daemon.control_path, method, target, body)
        self.assertLess(status, 300, answer)
        return answer

    def job(self, name: str, **request: Any) -> str:
        """Make a job; return its address."""
        return f"unix://{self.control('POST', '/jobs', {'name': name, **request})['socket']}"

    def wait_until_gone(self, name: str) -> None:
        self.daemon.wait_for(lambda: all(job["name"] != name for job in self.control("GET", "/jobs")))

    def test_set_back(self) -> None:
        """Jobs end, and their containers stop, as soon as they would have."""
        jobs = {"time": {"ttl": 2}, "idle": {"idle": 2}, "lease": {"lease": 2}}
        for name, ends in jobs.items():
            address = self.job(name, ends=ends)
            docker("run", "--detach", "--stop-timeout=2", IMAGE, "sleep", "1000", address=address)
        self.set(-HOUR)
        for name in jobs:
            self.wait_until_gone(name)

    def test_set_forward(self) -> None:
        """No job ends early, and a reap that goes on is not over time."""
        self.job("long", ends={"ttl": 600, "idle": 600, "lease": 600})
        address = self.job("ends")
        trap = "trap 'sleep 2; exit' TERM; echo; sleep 1000 & wait"
        docker("run", "--detach", "--stop-timeout=60", IMAGE, "sh", "-c", trap, address=address)
        self.control("POST", "/jobs/ends/end", {"reason": "test"})
        self.set(HOUR)
        self.wait_until_gone("ends")
        self.assertEqual(self.control("GET", "/jobs/long")["state"], "open")

    def test_audit(self) -> None:
        """Times are the clock's as it is now, and durations those that passed."""
        self.set(-HOUR)
        made = datetime.now().astimezone().timestamp()
        docker("version", address=self.daemon.address)
        self.daemon.stop()
        lines = [json.loads(line) for line in self.audit.read_text().splitlines()]
        (line,) = [line for line in lines if line["operation"] == "version"]
        self.assertLess(abs(datetime.fromisoformat(line["time"]).timestamp() - (made - HOUR)), HOUR / 2)
        self.assertLess(line["duration"], HOUR / 2)
