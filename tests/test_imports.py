"""What a daemon does not use it does not import: each module costs time at the start and memory for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]

#: Runs a daemon for as long as it takes to start, and tells what was imported.
SCRIPT = """
import json, sys
from twisted.internet import reactor
from docker_tracker.tap import Options, makeService
options = Options()
options.parseOptions(sys.argv[1:])
service = makeService(options)

def started():
    service.privilegedStartService()
    service.startService()
    reactor.callLater(0, told)

def told():
    print(json.dumps([*sys.modules]))
    service.stopService().addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(started)
reactor.run()
"""

LEDGER = {"sqlite3", "docker_tracker.tracking.ledger"}
#: Our own calls to the engine; what makes them is imported with the first.
CLIENT = {"treq", "twisted.web", "hyperlink", "docker_tracker.tracking.agent"}
FOLLOWING = {"docker_tracker.tracking.watcher"}
INTERCEPTORS = {f"docker_tracker.plugins.{name}" for name in ("labels", "recorder", "audit", "cgroup_parent")}
#: Nothing of ours that runs in the daemon needs them.
NEVER = {"docker_tracker.testing", "docker_tracker.cli", "unittest", "jsonschema", "setuptools"}


def imported(*options: str) -> set[str]:
    """Give the names of the modules of a daemon that has just started."""
    with tempfile.TemporaryDirectory() as directory:
        places = (
            f"--engine=unix://{directory}/engine.sock",
            f"--listen=unix://{directory}/docker.sock",
            f"--state-dir={directory}/state",
            f"--run-dir={directory}/run",
            "--control=none",
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT, *places, *options],
            cwd=ROOT,
            env=environment,  # what measures coverage keeps its figures in SQLite
            capture_output=True,
            text=True,
            timeout=60,
        )
        if process.returncode:
            raise AssertionError(process.stderr)
        return set(json.loads(process.stdout))


class ImportTests(SynchronousTestCase):
    def check(self, modules: set[str], there: set[str], absent: set[str]) -> None:
        """Check that some modules are there, and that others are not, nor any that is in them."""
        self.assertEqual(there - modules, set())
        found = {name for name in modules for other in absent if name == other or name.startswith(other + ".")}
        self.assertEqual(found, set())

    def test_plain(self) -> None:
        """A plain proxy keeps nothing, calls nobody and decides nothing."""
        modules = imported("--interceptors=none")
        self.check(modules, {"docker_tracker.proxy.conversation"}, LEDGER | CLIENT | FOLLOWING | INTERCEPTORS | NEVER)

    def test_labels(self) -> None:
        """Labels name a job, which is kept in the ledger; the engine is asked nothing."""
        modules = imported("--interceptors=labels")
        self.check(modules, LEDGER | {"docker_tracker.plugins.labels"}, CLIENT | FOLLOWING | NEVER)

    def test_cgroup_parent(self) -> None:
        """The cgroup parent is checked with the engine when there is something to put under it, not before."""
        modules = imported("--interceptors=cgroup-parent", "--cgroup-parent=/ci")
        self.check(modules, LEDGER | {"docker_tracker.plugins.cgroup_parent"}, CLIENT | FOLLOWING | NEVER)

    def test_recorder(self) -> None:
        """Whoever records follows the engine, and has all of it."""
        self.check(imported(), LEDGER | CLIENT | FOLLOWING, NEVER)
