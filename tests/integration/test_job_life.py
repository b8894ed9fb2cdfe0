"""Jobs from their beginning to their end on a real engine: what ends them, what stays, who may do what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker_tracker.cli.client import Client, target
from tests.integration.test_nested import JOB_ID, NestedCase
from tests.support.daemon import ROOT
from tests.support.dockerd import IMAGE
from tests.support.engine import DockerError, docker

NOBODY = 65534
SLEEP = ("--stop-signal=KILL", IMAGE, "sleep", "1000")
REAP = "reap = { stop-seconds = 1.0, drain-seconds = 0.5 }\n"
# Ends by itself three seconds after it is told to, and says so in a file.
GRACEFUL = "trap 'sleep 3; echo done > /out/%s; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
# Sends one request to a unix socket, and prints the status and the answer: for any Python that another user can run.
ASK = """
import socket, sys
path, method, target, body = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
head = f"{method} {target} HTTP/1.1\\r\\nHost: d\\r\\nConnection: close\\r\\nContent-Length: {len(body)}\\r\\n"
connection.sendall(f"{head}Content-Type: application/json\\r\\n\\r\\n{body}".encode())
answer = b""
while part := connection.recv(65536):
    answer += part
print(answer.decode().split(" ", 2)[1] + answer.decode().partition("\\r\\n\\r\\n")[2])
"""


class LifeCase(NestedCase):
    """One daemon for each test."""

    configuration = REAP

    def beside(self, *arguments: str) -> str:
        """Run the docker command at the engine, so that the tracker does not see it."""
        return docker(*arguments, address=self.engine).stdout.decode().strip()

    def state(self, job: Mapping[str, Any]) -> str:
        return str(self.control("GET", f"/jobs/{job['id']}")["state"])

    def wait_for_end(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until nothing of a job is left; return what is known of it then."""
        self.daemon.wait_for(lambda: self.state(job) == "gone")
        return dict(self.control("GET", f"/jobs/{job['id']}"))

    def end(self, job: Mapping[str, Any], state: str = "gone") -> dict[str, dict[str, Any]]:
        """End a job, and wait for that; return its report's entries by name, or by ID where there is none."""
        ended = self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.assertEqual(ended["state"], state, ended["report"])
        return {each["name"] or each["identifier"]: each for each in ended["report"]["items"]}

    def name(self, word: str) -> str:
        """Return a name that nobody else has on this engine."""
        return f"{word}-{os.getpid()}-{id(self) % 10000}"

    def exists(self, kind: str, name: str) -> bool:
        try:
            self.beside(kind, "inspect", name)
        except DockerError:
            return False
        return True

    def tracker_line(self, *words: str) -> list[str]:
        control = str(self.daemon.control_path)
        return [sys.executable, "-P", "-m", "docker_tracker.cli.main", "--control", control, *words]

    def tracker(self, *words: str, status: int = 0, **more: str) -> str:
        """Run the client command; return what it printed."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}
        done = subprocess.run(
            self.tracker_line(*words), env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual(done.returncode, status, f"{done.stdout}\n{done.stderr}\n{self.daemon.output()}")
        return done.stdout


class EndTests(LifeCase):
    def test_first_wins(self) -> None:
        """Of several ends the first is the job's, whichever it is; what it made goes, and the others do nothing."""
        agent = self.beside("run", "--detach", *SLEEP)
        self.addCleanup(docker, "rm", "--force", agent, address=self.engine)
        process = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        others = {"ttl": 3600, "idle": 3600, "lease": 3600, "process": process.pid, "container": agent}
        ways: dict[str, dict[str, Any]] = {
            "ttl": {"ttl": 1.5},
            "idle": {"idle": 1},
            "lease": {"lease": 1},
            "used": {"idle": 1},
            "container": {},
            "process": {},
        }
        ways["process"]["container"] = None  # it is still to run when the agent ends
        jobs = {way: self.job(way, ends={**others, **ends}) for way, ends in ways.items()}
        volumes = {way: self.through(job, "volume", "create", self.name(way)) for way, job in jobs.items()}
        stream = subprocess.Popen(
            ["docker", "events"],
            env={"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{jobs['used']['socket']}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(stream.wait)
        self.addCleanup(stream.kill)
        held = Client(self.daemon.control_path).hold(target("jobs", jobs["process"]["id"], "lease"))
        reasons = {
            "ttl": "its time of 1.5 s was over",
            "idle": "nobody used it for 1 s",
            "lease": "nobody held its lease for 1 s",
            "container": f"container {agent[:12]}",
            "process": f"process {process.pid} ended",
        }

        def ended(way: str) -> None:
            found = self.wait_for_end(jobs[way])
            self.assertIn(reasons[way], found["reason"])
            self.assertFalse(self.exists("volume", volumes[way]), way)
            self.assertFalse(Path(jobs[way]["socket"]).exists())
            self.assertEqual([each["outcome"] for each in found["report"]["items"]], ["removed"])

        with held:
            for way in ("ttl", "idle", "lease"):
                ended(way)
            # A stream is use: by now it would have ended, as the one that is idle has.
            left = ("used", "container", "process")
            self.assertEqual([self.state(jobs[way]) for way in left], ["open"] * 3)
            self.beside("kill", agent)
            ended("container")
            process.kill()
            ended("process")
        self.assertIn(reasons["container"], self.wait_for_end(jobs["used"])["reason"])  # it was to end with that, too
        events = [json.loads(line) for line in self.tracker("events", "--format=json").splitlines()]
        for way, job in jobs.items():
            told = [each["event"] for each in events if each["job_id"] == job["id"]]
            self.assertEqual(told, ["job started", "job ended", "job gone"], way)

    def test_stop_time(self) -> None:
        """A container gets its own time to stop in, and ends as it wants to; one without gets the configuration's."""
        out = self.beside("volume", "create", self.name("out"))
        self.addCleanup(docker, "volume", "rm", out, address=self.engine)
        job = self.job("stops")
        made = {}
        for word, options in (("own", ("--stop-timeout=20",)), ("none", ())):
            line = ("run", "--detach", f"--volume={out}:/out", *options, IMAGE, "sh", "-c", GRACEFUL % word)
            made[word] = self.through(job, *line)
        for identifier in made.values():
            self.daemon.wait_for(lambda each=identifier: "ready" in self.beside("logs", each))  # type: ignore[misc]
        began = int(time.time()) - 1
        report = self.end(job)
        self.assertEqual({each["outcome"] for each in report.values()}, {"removed"})
        times = (f"--since={began}", f"--until={int(time.time()) + 1}", "--format={{json .}}")
        events = [json.loads(line) for line in self.beside("events", *times, "--filter=event=die").splitlines()]
        codes = {each["Actor"]["ID"]: each["Actor"]["Attributes"]["exitCode"] for each in events}
        self.assertEqual((codes[made["own"]], codes[made["none"]]), ("7", "137"))
        read = self.beside("run", "--rm", f"--volume={out}:/out", IMAGE, "sh", "-c", "cd /out; ls; cat *")
        self.assertEqual(read.split(), ["own", "done"])
        self.assertTrue(self.exists("volume", out))

    def test_strange_exec(self) -> None:
        """An exec in somebody else's container runs on, and the report says where; the job is gone all the same."""
        stranger = self.beside("run", "--detach", f"--name={self.name('strange')}", *SLEEP)
        self.addCleanup(docker, "rm", "--force", stranger, address=self.engine)
        job = self.job("exec")
        own = self.through(job, "run", "--detach", *SLEEP)
        for container in (own, stranger):
            self.through(job, "exec", "--detach", container, "sleep", "777")
        top = self.beside("top", stranger, "-eo", "pid,args")
        (pid,) = [line.split()[0] for line in top.splitlines() if line.endswith("sleep 777")]
        report = self.end(job)
        self.assertEqual(sorted(each["kind"] for each in report.values()), ["container", "exec"])
        (item,) = [each for each in report.values() if each["kind"] == "exec"]
        self.assertEqual(item["outcome"], "kept")
        self.assertIn(f"it runs in the container {self.name('strange')}, which is not the job's", item["reason"])
        self.assertIn(f"process {pid} of the engine's host", item["reason"])
        self.assertIn(item["reason"], self.tracker("report", "exec"))
        self.assertIn("sleep 777", self.beside("top", stranger))


class KeepTests(LifeCase):
    configuration = f"{REAP}reconcile = {{ creation-grace = 0.1, allow-short-grace = true }}\n"

    def test_retain(self) -> None:
        """What a client labels to be retained outlives its job for so long, with what it needs, and then goes."""
        job = self.job("retains")
        keep = "--label=docker-tracker.retain"
        short, long, gone = (self.name(word) for word in ("short", "long", "gone"))
        self.through(job, "volume", "create", f"{keep}=4s", short)
        self.through(job, "volume", "create", gone)
        network = self.through(job, "network", "create", self.name("net"))
        container = self.through(
            *(job, "create", f"{keep}=1h", f"--name={long}", f"--network={network}", IMAGE, "true")
        )
        labels = self.inspect(container)["Config"]["Labels"]
        self.assertEqual((labels["docker-tracker.retain"], labels[JOB_ID]), ("1h", job["id"]))
        report = self.end(job)
        outcomes = {each["name"]: each["outcome"] for each in report.values()}
        self.assertEqual(outcomes, {short: "kept", gone: "removed", long: "kept", self.name("net"): "kept"})
        for name in (short, long):
            self.assertRegex(
                report[name]["reason"], r"its label docker-tracker\.retain keeps it until \d{4}-\d\d-\d\d "
            )
        self.assertIn(f"the container {long}, which is kept, needs it", report[self.name("net")]["reason"])
        self.control("POST", "/reconcile")
        self.assertTrue(self.exists("volume", short) and not self.exists("volume", gone))

        def is_over() -> bool:
            self.control("POST", "/reconcile")
            return not self.exists("volume", short)

        self.daemon.wait_for(is_over)
        self.assertTrue(self.exists("container", long) and self.exists("network", network))
