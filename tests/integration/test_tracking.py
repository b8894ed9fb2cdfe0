"""What the tracker knows of a real engine: what its job made, what went, what it did not see."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import tarfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.cli.client import Client
from tests.support.daemon import Daemon
from tests.support.dockerd import IMAGE
from tests.support.engine import DockerError, discard, docker, private_engine


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


def ask(path: Path, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """Send one request to a unix socket."""
    connection = _Connection(path)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, target, data, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class TrackingTests(SynchronousTestCase):
    """One engine of their own for each test: it is restarted, and all of its things are looked at."""

    def setUp(self) -> None:
        self.engine = private_engine("track")
        self.addCleanup(discard, self.engine)
        self.engine.start()
        listen = self.engine.directory / "tracker.sock"
        self.daemon = Daemon(f"--engine={self.engine.address}", f"--listen=unix://{listen}", "--audit-log=-")
        self.daemon.socket_path = listen
        self.addCleanup(self.daemon.discard)
        self.start()

    def start(self) -> None:
        self.daemon.start()
        self.daemon.wait_for_socket()

    def through(self, *arguments: str, data: bytes = b"") -> str:
        """Run the docker command through the tracker."""
        return docker(*arguments, address=self.daemon.address, data=data).stdout.decode().strip()

    def beside(self, *arguments: str) -> str:
        """Run the docker command at the engine, so that the tracker does not see it."""
        return docker(*arguments, address=self.engine.address).stdout.decode().strip()

    def page(self, target: str = "/tracker") -> list[str]:
        status, body = ask(self.daemon.socket_path, "GET", target)
        self.assertEqual(status, 200, body)
        return body.decode().splitlines()

    def resources(self) -> list[dict[str, Any]]:
        status, body = ask(self.daemon.socket_path, "GET", "/tracker", Accept="application/json")
        self.assertEqual(status, 200, body)
        found: list[dict[str, Any]] = json.loads(body)["resources"]
        return found

    def shown(self, *kinds: str) -> set[tuple[str, str, str]]:
        """Give kind, name (or ID, where there is none) and relation of what is recorded."""
        return {
            (row["kind"], row["name"] or row["id"], row["relation"])
            for row in self.resources()
            if not kinds or row["kind"] in kinds
        }

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait for what happens after an answer."""
        self.daemon.wait_for(condition, 20)

    def test_removed_at_once(self) -> None:
        """The anonymous volumes of a container that is removed at once, or pruned, are recorded before it goes."""
        body = {"Image": IMAGE, "Cmd": ["true"], "Volumes": {"/data": {}}}
        for number in range(4):
            status, answer = ask(self.daemon.socket_path, "POST", "/containers/create", body)
            self.assertEqual(status, 201, answer)
            method, target = ("DELETE", f"/containers/{json.loads(answer)['Id']}")
            if number == 3:
                method, target = "POST", "/containers/prune"
            self.assertIn(ask(self.daemon.socket_path, method, target)[0], (200, 204))
        left = self.beside("volume", "ls", "-q").split()
        self.assertEqual((len(left), self.page()), (4, []))
        self.assertEqual(self.shown("volume"), {("volume", name, "made") for name in left})

    def test_all_that_is_made(self) -> None:
        """Everything that the docker command can make is recorded, and what was there before as used."""
        through = self.through
        self.beside("volume", "create", "old")
        self.beside("tag", IMAGE, "old:1")
        container = through("create", "--name=web", "-v", "old:/old", "-v", "new:/new", "-v", "/anonymous", IMAGE, "sh")
        through("network", "create", "net")
        through("volume", "create", "old")
        through("volume", "create", "mine")
        through("commit", "web", "committed:1")
        through("tag", IMAGE, "tagged:1")
        through("tag", IMAGE, "old:1")
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            dockerfile = tarfile.TarInfo("Dockerfile")
            text = f"FROM {IMAGE}\nVOLUME /data\nENV A=1\n".encode()
            dockerfile.size = len(text)
            tar.addfile(dockerfile, io.BytesIO(text))
        through("build", "-t", "built:1", "-", data=stream.getvalue())
        through("import", "-", "imported:1", data=stream.getvalue())
        saved = docker("save", IMAGE, "built:1", address=self.engine.address).stdout
        through("rmi", "built:1")
        through("load", data=saved)
        through("run", "-d", "--name=data", "built:1", "sleep", "1000")
        through("exec", "-d", "data", "sleep", "1000")

        self.wait_for(lambda: len([row for row in self.resources() if row["kind"] == "volume"]) == 5)
        self.assertEqual(self.shown("container", "network"), {
            ("container", "web", "made"), ("container", "data", "made"), ("network", "net", "made"),
        })  # fmt: skip
        self.assertIn(container, self.page())
        named = {(name, relation) for kind, name, relation in self.shown("volume") if len(name) < 64}
        self.assertEqual(named, {("old", "used"), ("new", "made"), ("mine", "made")})
        tags = {(name, relation) for kind, name, relation in self.shown("image") if not name.startswith("sha256:")}
        self.assertEqual(
            tags,
            {("committed:1", "made"), ("tagged:1", "made"), ("old:1", "used"), ("imported:1", "made"),
             ("built:1", "made"), (IMAGE, "used")},
        )  # fmt: skip
        images = {row["id"]: row["relation"] for row in self.resources() if row["id"].startswith("sha256:")}
        for name, wanted in (("built:1", "made"), ("imported:1", "made"), ("committed:1", "made"), (IMAGE, "used")):
            self.assertEqual(images[self.beside("inspect", "--format", "{{.Id}}", name)], wanted, name)
        (command,) = [row for row in self.resources() if row["kind"] == "exec"]
        self.assertEqual(command["parent"], self.beside("inspect", "--format", "{{.Id}}", "data"))

    def test_removed_through_the_tracker(self) -> None:
        """What is removed is not shown to the very next question, however it was named."""
        for way in ("name", "short ID", "ID"):
            container = self.through("create", "--name=web", IMAGE, "sh")
            self.assertEqual(self.page(), [container])
            self.through("rename", "web", "api")
            self.through("rm", {"name": "api", "short ID": container[:12], "ID": container}[way])
            self.assertEqual(self.page(), [], way)
        self.through("create", IMAGE, "sh")
        self.through("volume", "create", "vol")
        self.through("network", "create", "net")
        self.through("tag", IMAGE, "t:1")
        self.through("volume", "rm", "vol")
        self.through("network", "prune", "-f")
        self.through("rmi", "t:1")
        self.through("container", "prune", "-f")
        self.assertEqual([row for row in self.resources() if row["kind"] != "container"], [])
        self.assertEqual(self.page(), [])
        self.assertEqual(len(self.page("/tracker?all=1")), 4)

    def test_removed_beside_the_tracker(self) -> None:
        """What goes by itself, or by another's hand, is gone soon after."""
        self.through("run", "--rm", "-v", "/anonymous", IMAGE, "true")
        self.through("create", "--name=web", "-v", "kept:/k", "-v", "/a", IMAGE, "sh")
        self.through("network", "create", "net")
        self.through("tag", IMAGE, "t:1")
        self.through("run", "-d", "--name=data", IMAGE, "sleep", "1000")
        self.through("exec", "data", "true")
        self.wait_for(lambda: {row["kind"] for row in self.resources()} == {"container", "volume", "network", "image"})
        self.wait_for(lambda: len(self.resources()) == 6)
        self.beside("rename", "data", "other")
        self.wait_for(lambda: ("container", "other", "made") in self.shown())
        self.beside("rm", "-fv", "web", "other")
        self.beside("network", "rm", "net")
        self.beside("rmi", "t:1")
        self.wait_for(lambda: self.shown() == {("volume", "kept", "made")})
        self.beside("volume", "rm", "kept")
        self.wait_for(lambda: self.resources() == [])

    def test_engine_restarted(self) -> None:
        """A job's things outlive the engine's restart in the ledger, and creates work again without ado."""
        first = self.through("run", "-d", IMAGE, "sleep", "1000")
        self.engine.restart()
        second = self.through("create", IMAGE, "sh")
        self.assertEqual(self.page(), sorted([first, second]))
        self.beside("rm", "-f", first)
        self.wait_for(lambda: self.page() == [second])
        self.assertEqual(self.daemon.output().count("is not watched"), 1, self.daemon.output())

    def test_engine_restarted_under_an_agent(self) -> None:
        """A job that ends with a container goes on if that comes back with the engine, and ends when it is removed."""
        agent = self.beside("run", "-d", "--restart=always", IMAGE, "sleep", "1000")
        client = Client(self.daemon.directory / "run" / "control.sock")
        client.call("POST", "/jobs", {"name": "tied", "ends": {"container": agent}})
        for kill in (False, True):
            self.engine.restart(kill)
            self.wait_for(lambda: agent[:12] in self.beside("ps", "--quiet"))
            # By then the end would have been told, if it had been seen: events keep their order.
            self.through("run", "--rm", IMAGE, "true")
            self.assertEqual(client.call("GET", "/jobs/tied")["state"], "open", self.daemon.output())
        self.beside("rm", "-f", agent)
        self.wait_for(lambda: client.call("GET", "/jobs/tied")["state"] == "gone")

    def test_tracker_killed(self) -> None:
        """After SIGKILL and a new start the job is the same, what is left is shown, and what went is gone."""
        containers = [self.through("create", "-v", "/a", IMAGE, "sh") for _ in range(3)]
        self.daemon.stop(signal.SIGKILL)
        self.beside("rm", "-v", containers[0])
        self.start()
        self.wait_for(lambda: self.page() == sorted(containers[1:]))
        self.wait_for(lambda: len(self.shown("volume")) == 2)
        fourth = self.through("create", IMAGE, "sh")
        self.assertEqual(self.page(), sorted([*containers[1:], fourth]))

    def test_answer_lost(self) -> None:
        """What the engine made while nobody was left to hear of it is found: by its label, by its name."""
        (job,) = {self.beside("inspect", "-f", '{{index .Config.Labels "docker-tracker.job-id"}}', found)
                  for found in [self.through("create", IMAGE, "sh")]}  # fmt: skip
        names = [uuid.uuid4().hex for _ in range(20)]
        for name in names:
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(self.daemon.socket_path))
            body = json.dumps({"Image": IMAGE, "HostConfig": {"Binds": [f"v{name}:/v"]}, "Volumes": {"/a": {}}})
            head = f"POST /containers/create?name={name} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            if name == names[10]:
                time.sleep(0.02)
                self.daemon.stop(signal.SIGKILL)
                self.start()
            client.close()
        made = set(self.beside("ps", "-aq", "--no-trunc", "--filter", f"label=docker-tracker.job-id={job}").split())
        self.wait_for(lambda: set(self.page()) == made)
        volumes = {f"v{name}" for name in names} & set(self.beside("volume", "ls", "-q").split())
        self.wait_for(lambda: volumes <= {name for _, name, relation in self.shown("volume") if relation == "made"})

    def test_other_engine(self) -> None:
        """Another engine behind the same address is refused: its things are not this ledger's."""
        self.through("create", IMAGE, "sh")
        other = private_engine("other")
        self.addCleanup(discard, other)
        other.start()
        self.daemon.stop()
        self.daemon.command = [
            f"--engine={other.address}" if part.startswith("--engine=") else part for part in self.daemon.command
        ]
        self.start()
        with self.assertRaises(DockerError) as caught:
            self.through("create", IMAGE, "sh")
        self.assertIn("belongs to the engine", str(caught.exception))
        self.assertIn("--state-dir", str(caught.exception))
        self.assertEqual(len(self.page()), 1)
