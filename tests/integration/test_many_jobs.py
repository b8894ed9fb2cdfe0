"""Fifty jobs at once, each leaking twenty things of all kinds, half of them ended by SIGKILL of their client."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import Daemon
from tests.support.dockerd import IMAGE
from tests.support.engine import discard, private_engine
from tests.torture.client import OTHERS_VOLUME
from tests.torture.engines import things
from tests.torture.nursery import Child, Nursery
from tests.torture.wire import ask

_JOBS = 50
# Six containers, three of them running; eight volumes (anonymous, named, implicit); a network; an exec; five images; a
# plug-in; a secret, a config. Some have a service as well, with a task and an overlay network, for which a swarm takes
# its time.
_ACTS = (
    *("anonymous", "named", "long", "exec", "network", "volume"),
    *("build", "commit", "tag", "import", "load", "plugin", "secret"),
)
_WITH_SERVICE = 10  # every so many of them
_THINGS = 23
_SECONDS = 300


class ManyJobsTests(SynchronousTestCase):
    """One engine and one tracker of their own."""

    def setUp(self) -> None:
        # More networks than the engine's own pools have room for.
        self.engine = private_engine("many", ("--default-address-pool=base=10.128.0.0/9,size=24",))
        self.addCleanup(discard, self.engine)
        self.engine.start()
        swarm = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"}
        self.assertEqual(self.engine.api("POST", "/swarm/init", swarm)[0], 200)
        self.daemon = Daemon(f"--engine={self.engine.address}", "--interceptors=labels,recorder")
        self.addCleanup(self.daemon.discard)
        self.control = self.daemon.serve().control_path
        self.nursery = Nursery()
        self.addCleanup(self.nursery.close)

    def call(self, method: str, target: str, body: Any = None) -> Any:
        """Call the control API."""
        status, answer = ask(self.control, method, target, body)
        self.assertIn(status, (200, 201, 202), answer)
        return answer

    def begin(self, number: int) -> tuple[dict[str, Any], Child, Path]:
        """Start a job and its client; of every other one, the client's end is the job's."""
        name, answers = f"job-{number}", self.daemon.directory / f"answers-{number}"
        socket_path = self.daemon.directory / "run" / "jobs" / f"{name}.sock"
        acts = _ACTS if number % _WITH_SERVICE else (*_ACTS, "service")
        arguments = (str(socket_path), name, acts, str(answers), True)
        child = self.nursery.start("tests.torture.client:main", *arguments, log=self.daemon.log_path)
        self.addCleanup(child.discard)
        ends = {"process": child.pid} if number % 2 else {}
        return self.call("POST", "/jobs", {"name": name, "ends": ends}), child, answers

    def test_all_at_once(self) -> None:
        """Nothing of any job is left, nothing of anyone else's is touched, and each job's report has its own things."""
        self.engine.api("POST", "/volumes/create", {"Name": OTHERS_VOLUME})
        self.engine.api("POST", "/networks/create", {"Name": "strange"})
        self.engine.api("POST", "/containers/create?name=strange", {"Image": IMAGE})
        for kind in ("secrets", "configs"):
            self.engine.api("POST", f"/{kind}/create", {"Name": "strange", "Data": "c2VjcmV0"})
        staying = self.begin(1002)
        self.daemon.wait_for(lambda: _is_done(staying[2]), _SECONDS)
        before = things(self.engine.socket_path, True)

        began = time.monotonic()
        running = [self.begin(number) for number in range(_JOBS)]
        self.daemon.wait_for(lambda: all(_is_done(answers) for _, _, answers in running), _SECONDS)
        made = time.monotonic() - began
        count = len(things(self.engine.socket_path, True)) - len(before)

        began = time.monotonic()
        for number, (job, child, _) in enumerate(running):
            if number % 2:
                child.kill()
            else:
                self.call("POST", f"/jobs/{job['id']}/end", {"reason": "done", "failed": False})
        self.daemon.wait_for(lambda: self.are_over(job["id"] for job, _, _ in running), _SECONDS)
        cleaned = time.monotonic() - began
        sys.stdout.write(f"{_JOBS} jobs: {count} things made in {made:.1f} s, removed in {cleaned:.1f} s\n")

        now = things(self.engine.socket_path, True)
        self.assertEqual({thing: name for thing, name in now.items() if thing not in before}, {})
        self.assertEqual(before.keys() - now.keys(), set())
        told = {job["id"]: _told(answers) for job, _, answers in running}
        for number, (job, _, _) in enumerate(running):
            report = self.call("GET", f"/jobs/{job['id']}/report")
            removed = {item["identifier"] for item in report["items"] if item["outcome"] == "removed"}
            self.assertLessEqual(_THINGS - 1, len(removed), report)  # an exec goes with its container
            kinds = {item["kind"] for item in report["items"]}
            wanted = {"container", "volume", "network", "image", "plugin", "secret", "config"}
            self.assertEqual(kinds, wanted if number % _WITH_SERVICE else wanted | {"service"})
            self.assertEqual(told[job["id"]] - removed, set(), "told to the client, and not in the report")
            for other, theirs in told.items():
                self.assertTrue(other == job["id"] or not theirs & removed, "another job's")

    def are_over(self, identifiers: Any) -> bool:
        """Say whether jobs are gone; a failed one is an error."""
        time.sleep(0.2)
        states = {row["id"]: row["state"] for row in self.call("GET", "/jobs?all=1")}
        found = [states[identifier] for identifier in identifiers]
        self.assertNotIn("failed", found, self.daemon.output())
        return set(found) == {"gone"}


def _is_done(answers: Path) -> bool:
    return Path(f"{answers}.done").exists()


def _told(answers: Path) -> set[str]:
    return {json.loads(line)[1] for line in answers.read_text().splitlines()}
