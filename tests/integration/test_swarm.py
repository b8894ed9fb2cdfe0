"""A job in front of a swarm of two nodes: its services, their tasks on both, its networks, secrets and configs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import Daemon
from tests.support.dockerd import IMAGE, PrivateEngine
from tests.support.engine import docker
from tests.support.swarm import Swarm
from tests.torture.wire import ask

_SECONDS = 60
_KINDS = ("services", "networks", "secrets", "configs", "tasks")


class SwarmTests(SynchronousTestCase):
    """One tracker in front of the manager."""

    def setUp(self) -> None:
        self.swarm = Swarm()
        self.swarm.__enter__()
        self.addCleanup(self.swarm.stop)
        self.daemon = Daemon(f"--engine={self.swarm.manager.address}", "--interceptors=labels,recorder")
        self.addCleanup(self.daemon.discard)
        self.control = self.daemon.serve().control_path
        self.job = self.call("POST", "/jobs", {"name": "swarming"}, good=201)

    def call(self, method: str, target: str, body: Any = None, good: int = 200) -> Any:
        """Call the control API."""
        status, answer = ask(self.control, method, target, body)
        self.assertEqual(status, good, answer)
        return answer

    def through(self, *arguments: str, data: bytes = b"") -> str:
        """Run the docker command in the job."""
        return docker(*arguments, address=f"unix://{self.job['socket']}", data=data).stdout.decode().strip()

    def beside(self, *arguments: str, data: bytes = b"") -> str:
        """Run the docker command at the manager, so that the tracker does not see it."""
        return docker(*arguments, address=self.swarm.manager.address, data=data).stdout.decode().strip()

    def serve(self, run: Any, name: str, *more: str) -> str:
        """Make a service with a task on each node. :returns: its ID."""
        options = ("--mode=global", "--endpoint-mode=dnsrr", "--no-resolve-image", "--detach", "--stop-signal=KILL")
        made: str = run("service", "create", *options, *more, f"--name={name}", IMAGE, "sleep", "1000")
        return made

    def of(self, engine: PrivateEngine, service: str) -> list[dict[str, Any]]:
        """Give the containers that an engine runs for a service."""
        filters = json.dumps({"label": [f"com.docker.swarm.service.id={service}"]})
        status, found = engine.api("GET", f"/containers/json?all=1&filters={filters}".replace(" ", ""))
        self.assertEqual(status, 200, found)
        return list(found)

    def wait_for(self, condition: Any) -> None:
        """Wait for what the swarm does in its own time."""
        end = time.monotonic() + _SECONDS
        while not condition():
            self.assertLess(time.monotonic(), end, self.daemon.output())
            time.sleep(0.1)

    def things(self) -> dict[str, set[str]]:
        """Look at all of the swarm, and at the containers of both nodes."""
        found = {}
        for kind in _KINDS:
            status, listed = self.swarm.manager.api("GET", f"/{kind}")
            self.assertEqual(status, 200, listed)
            found[kind] = {entry.get("ID") or entry["Id"] for entry in listed}
        for name, engine in (("manager", self.swarm.manager), ("worker", self.swarm.worker)):
            found[name] = {entry["Id"] for entry in engine.api("GET", "/containers/json?all=1")[1]}
        return found

    def test_job_in_a_swarm(self) -> None:
        """What a job makes in a swarm bears its labels, also on the other node, is listed, and goes with the job."""
        strange = self.serve(self.beside, "strange")
        self.wait_for(lambda: self.of(self.swarm.manager, strange) and self.of(self.swarm.worker, strange))
        before = self.things()

        secret = self.through("secret", "create", "key", "-", data=b"secret")
        config = self.through("config", "create", "settings", "-", data=b"config")
        network = self.through("network", "create", "--driver=overlay", "--attachable", "net")
        more = ("--secret=key", "--config=settings", "--network=net")
        service = self.serve(self.through, "ours", *more)
        self.wait_for(lambda: self.of(self.swarm.manager, service) and self.of(self.swarm.worker, service))

        wanted = {"docker-tracker.job-id": self.job["id"], "docker-tracker.job": "swarming"}
        for path in (f"/services/{service}", f"/secrets/{secret}", f"/configs/{config}"):
            labels = self.swarm.manager.api("GET", path)[1]["Spec"]["Labels"]
            self.assertEqual({**labels, **wanted}, labels, path)
        labels = self.swarm.manager.api("GET", f"/networks/{network}")[1]["Labels"]
        self.assertEqual({**labels, **wanted}, labels)
        for engine in (self.swarm.manager, self.swarm.worker):
            (task,) = self.of(engine, service)
            self.assertEqual({**task["Labels"], **wanted}, task["Labels"])
        made = {(row["kind"], row["id"]) for row in self.call("GET", f"/resources?job={self.job['id']}")}
        swarms = {("service", service), ("secret", secret), ("config", config), ("network", network)}
        self.assertEqual({each for each in made if each[0] != "container"}, swarms)

        over = self.call("POST", f"/jobs/{self.job['id']}/end?wait=1", {"reason": "done", "failed": False})
        self.assertEqual(over["state"], "gone", over)
        self.assertEqual(self.call("GET", f"/resources?job={self.job['id']}"), [])
        self.wait_for(lambda: not self.of(self.swarm.worker, service))  # its own node removes it
        self.assertEqual(self.things(), before)

    def test_answer_lost(self) -> None:
        """A service whose answer nobody saw is found by its label, and goes with the job."""
        before = self.things()
        self.daemon.stop()
        instance = (Path(self.daemon.directory) / "state" / "instance").read_text().strip()
        labels = {"docker-tracker.job-id": self.job["id"], "docker-tracker.job": "swarming"}
        options = [f"--label={name}={value}" for name, value in labels.items()]
        service = self.serve(self.beside, "lost", *options, f"--label=docker-tracker.instance={instance}")
        self.wait_for(lambda: self.of(self.swarm.worker, service))
        self.daemon.start()
        self.daemon.wait_for_socket()
        over = self.call("POST", f"/jobs/{self.job['id']}/end?wait=1", {"reason": "done", "failed": False})
        self.assertEqual(over["state"], "gone", over)
        self.wait_for(lambda: not self.of(self.swarm.worker, service) and not self.of(self.swarm.manager, service))
        self.assertEqual(self.things(), before)
