"""The client command and the control API of a real daemon, before a real engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.cli.client import ApiError, Client, NoDaemon, target
from tests.support.certificates import Authority
from tests.support.daemon import ROOT, Daemon
from tests.support.engine import engine_address, require_program

IMAGE = "busybox:local"


class ControlTests(SynchronousTestCase):
    """One daemon with a control socket for each test; all that is made on the engine is a job's, and goes with it."""

    def setUp(self) -> None:
        self.engine = engine_address()
        self.docker = require_program("docker", "docker-cli")
        self.daemon = Daemon(f"--engine={self.engine}")
        self.addCleanup(self.daemon.discard)
        self.control = self.daemon.directory / "run/control.sock"
        self.client = Client(self.control)
        self.start()

    def start(self) -> None:
        """Start the daemon, and wait for its control socket."""
        self.daemon.start()
        self.daemon.wait_for(self.answers)

    def answers(self) -> bool:
        """Whether the control socket answers."""
        try:
            self.client.call("GET", "/health")
        except (NoDaemon, ConnectionError):
            return False
        return True

    def tracker(self, *words: str, status: int = 0) -> str:
        """Run the client command; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "docker_tracker.cli.main", "--control", str(self.control), *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, status, f"{done.stdout}\n{done.stderr}\n{self.daemon.output()}")
        return done.stdout

    def run_docker(self, socket: str, *words: str, status: int = 0) -> str:
        """Run the docker command on a job's socket."""
        done = subprocess.run(
            [self.docker, *words],
            env={**os.environ, "DOCKER_HOST": f"unix://{socket}"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout.strip()

    def test_life(self) -> None:
        """A job is made, used, looked at, and ended: nothing of it is left, and everything tells so."""
        socket = self.tracker("job", "start", "life", "--label", "team=x").strip()
        container = self.run_docker(socket, "run", "-d", "--name", "dt-life", "-v", "/data", IMAGE, "sleep", "1000")
        network = self.run_docker(socket, "network", "create", "dt-life-net")
        try:
            self.assertIn("life", self.tracker("job", "ls"))
            self.assertIn(f"export DOCKER_HOST=unix://{socket}", self.tracker("job", "env", "life", "--shell", "sh"))
            found = self.tracker("ps", "--job", "life", "-q", "--no-trunc").split()
            self.assertLessEqual({container, network}, set(found))
            why = self.tracker("why", container[:12])
            asked = f"{self.docker} run -d --name dt-life -v /data {IMAGE} sleep 1000"
            listener = f"unix://{socket}"
            for said in ("Request:    POST /containers/create", f"Uid:        {os.geteuid()}", f"Command:    {asked}"):
                self.assertIn(f"{said}\n", why)
            self.assertIn(f"Listener:   {listener}\n", why)
            self.assertRegex(why, r"(?m)^Job:        life \([0-9a-f]{32}\), open$")
            self.assertRegex(why, r"(?m)^Pid:        \d+$")
            self.assertIn("would remove", self.tracker("reap", "-n", "life"))
            self.run_docker(socket, "inspect", container)
            self.assertEqual(self.tracker("job", "end", "--wait", "life"), "life\n")
        finally:
            self.run_docker(self.engine.removeprefix("unix://"), "rm", "-fv", container)
        self.assertFalse(Path(socket).exists())
        left = self.run_docker(self.engine.removeprefix("unix://"), "ps", "-aq", "--no-trunc") + self.run_docker(
            self.engine.removeprefix("unix://"), "network", "ls", "-q", "--no-trunc"
        )
        self.assertNotIn(container, left)
        self.assertNotIn(network, left)
        report = json.loads(self.tracker("report", "life", "--format", "json"))
        removed = {each["identifier"] for each in report["items"] if each["outcome"] == "removed"}
        self.assertLessEqual({container, network}, removed)
        self.assertEqual(self.tracker("ps", "--job", "life"), self.tracker("ps", "--job", "life", "-f", "name=none"))
        names = [json.loads(line)["event"] for line in self.tracker("events", "--format", "json").splitlines()]
        for event in ("job started", "job ended", "job gone"):
            self.assertIn(event, names)

    def test_reap_and_reconcile(self) -> None:
        """A job that is reaped goes on, empty; the reconciler has nothing to say of it."""
        socket = self.tracker("job", "start", "again").strip()
        volume = self.run_docker(socket, "volume", "create", "dt-again")
        self.assertIn("removed", self.tracker("reap", "again"))
        self.run_docker(socket, "volume", "inspect", volume, status=1)
        self.run_docker(socket, "volume", "create", "dt-again")
        self.tracker("reconcile", "--dry-run")
        self.tracker("job", "end", "-w", "again")

    def test_refused(self) -> None:
        """What cannot be is one sentence; nothing is made, and nothing is ended."""
        self.tracker("job", "start", "one")
        self.tracker("job", "start", "one", status=1)
        for words in (
            ["job", "start", "../two"],
            ["job", "end", "two"],
            ["job", "end", "default"],
            ["job", "lease", "one"],
            ["job", "start", "two", "--cgroup-parent", "../x"],
            ["job", "start", "two", "--cgroup-parent", "a b/../../.."],
        ):
            self.tracker(*words, status=1)
        self.tracker("job", "start", "two", "--pid", "4194303", status=1)
        self.tracker("job", "start", "two", "--container", "dt-none", status=1)
        self.assertEqual(sorted(job["name"] for job in self.client.call("GET", "/jobs")), ["default", "one"])
        self.tracker("job", "end", "-w", "one")

    def test_lease(self) -> None:
        """A job whose lease is not held any more ends by itself, and what it made goes."""
        made = self.client.call("POST", "/jobs", {"name": "held", "ends": {"lease": 0.5}})
        with self.client.hold(target("jobs", "held", "lease")):
            volume = self.run_docker(made["socket"], "volume", "create", "dt-held")
            time.sleep(1.0)  # longer than the lease: that it is held is what counts
            self.assertEqual(self.client.call("GET", "/jobs/held")["state"], "open")
        self.daemon.wait_for(lambda: self.client.call("GET", "/jobs/held")["state"] == "gone")
        self.run_docker(self.engine.removeprefix("unix://"), "volume", "inspect", volume, status=1)

    def test_tls_address(self) -> None:
        """A job may have a TLS address of its own: who has its CA's certificate makes things of that job there."""
        authority = Authority(self.daemon.directory)
        server, client = authority.sign("server"), authority.sign("client")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        files = {"certificate": str(server.certificate), "key": str(server.key)}
        listen = {"address": address, **files, "client-ca": str(authority.certificate)}
        made = self.client.call("POST", "/jobs", {"name": "remote", "listen": [listen]})
        trusted = ("--host", address, "--tlsverify", f"--tlscacert={authority.certificate}")
        own = (f"--tlscert={client.certificate}", f"--tlskey={client.key}")
        self.run_docker(made["socket"], *trusted, "volume", "create", "dt-remote", status=1)
        self.run_docker(made["socket"], *trusted, *own, "volume", "create", "dt-remote")
        (volume,) = self.client.call("GET", "/resources?job=remote&kind=volume")
        self.assertEqual((volume["id"], volume["attributes"]["certificate"]), ("dt-remote", "client"))
        self.tracker("job", "end", "-w", "remote")
        self.run_docker(self.engine.removeprefix("unix://"), "volume", "inspect", "dt-remote", status=1)

    def test_restart(self) -> None:
        """After a restart the job, its events and its socket are there, and it can be ended."""
        socket = self.tracker("job", "start", "kept").strip()
        identifier = self.client.call("GET", "/jobs/kept")["id"]
        before = self.tracker("events", "--format", "json").splitlines()
        self.assertEqual([json.loads(line)["event"] for line in before], ["job started"])
        self.daemon.stop()
        self.tracker("job", "ls", status=1)
        self.start()
        self.assertEqual(self.client.call("GET", "/jobs/kept")["id"], identifier)
        self.assertEqual(self.tracker("events", "--format", "json").splitlines(), before)
        self.run_docker(socket, "volume", "create", "dt-kept")
        self.tracker("job", "end", "-w", "kept")

    def test_daemon(self) -> None:
        """Readiness is a real engine's, and metrics are what Prometheus reads."""
        self.assertTrue(self.client.call("GET", "/ready")["engine"]["version"])
        families = {each.name for each in text_string_to_metric_families(self.client.call("GET", "/metrics"))}
        self.assertLessEqual({"docker_tracker_build_info", "docker_tracker_jobs"}, families)
        error = self.assertRaises(ApiError, self.client.call, "GET", "/containers/json")
        self.assertEqual(error.status, 404)


class AwayTests(SynchronousTestCase):
    """A daemon whose engine is not there."""

    def start(self, *options: str) -> Client:
        """Start one."""
        daemon = Daemon("--engine=unix:///nonexistent/docker.sock", *options)
        self.addCleanup(daemon.discard)
        daemon.start()
        client = Client(daemon.control_path)

        def healthy() -> bool:
            try:
                return bool(client.call("GET", "/health"))
            except NoDaemon:
                return False

        daemon.wait_for(healthy)
        return client

    def process(self, client: Client, *words: str) -> subprocess.Popen[str]:
        """Start the client command."""
        process = subprocess.Popen(
            [sys.executable, "-m", "docker_tracker.cli.main", "--control", client.path, *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_not_ready(self) -> None:
        """It is healthy, not ready, and says why."""
        client = self.start()
        error = self.assertRaises(ApiError, client.call, "GET", "/ready")
        self.assertEqual((error.status, "/nonexistent/docker.sock" in error.message), (503, True))
        self.assertIn("docker_tracker_upstream_up 0.0", client.call("GET", "/metrics"))

    def test_waiting(self) -> None:
        """Who waits for what needs the engine is told so; whoever does not wait any more has a status that says so."""
        client = self.start()
        why = "0 left; the engine at unix:///nonexistent/docker.sock does not answer: No such file or directory"
        background = "docker-tracker: what job mine left is removed in the background\n"
        for words, what, last in (
            (["run", "--job=mine", "--", "true"], "removing what job mine left", background),
            (["reap", "default"], "reaping default", ""),
        ):
            process = self.process(client, *words)
            assert process.stderr is not None
            self.assertEqual(process.stderr.readline(), f"docker-tracker: still {what}: {why}\n")
            process.send_signal(signal.SIGINT)
            self.assertEqual((process.communicate(timeout=30), process.returncode), (("", last), 130))

    def test_no_unix_socket(self) -> None:
        """The job of a daemon that listens on TCP alone has no environment to give."""
        process = self.process(self.start("--listen=tcp://127.0.0.1:0"), "job", "env", "default")
        printed, said = process.communicate(timeout=30)
        self.assertEqual((printed, process.returncode), ("", 1))
        self.assertIn("the job default has no unix socket", said)
