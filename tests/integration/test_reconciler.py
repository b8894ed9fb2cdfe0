"""The reconciler on a real engine: what nobody answers for goes, of one tracker only, and what was lost is named."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker_tracker.cli.client import Client
from tests.integration.test_job_life import REAP, SLEEP, LifeCase
from tests.integration.test_nested import JOB_ID, SOCKET
from tests.support.daemon import ROOT, Daemon, answers
from tests.support.dockerd import IMAGE
from tests.support.engine import DockerError, discard, docker, private_engine, require_program

ON_DEMAND = f"{REAP}reconcile = {{ period = 86400, creation-grace = 0, allow-short-grace = true }}\n"
BY_ITSELF = f"{REAP}reconcile = {{ period = 1, creation-grace = 0, allow-short-grace = true }}\n"


class ReconcilerCase(LifeCase):
    """One tracker or several; all that bears the labels of one of them goes with the test."""

    configuration = ON_DEMAND

    def another(self, *options: str, wrapper: tuple[str, ...] = ()) -> Daemon:
        """Start a further tracker on the engine."""
        environment = {"DOCKER_HOST": self.engine}
        daemon = Daemon(f"--engine={self.engine}", *options, wrapper=wrapper, environment=environment)
        self.addCleanup(daemon.discard)
        with self.at(daemon):
            self.configure(self.configuration)
            daemon.serve()
            self.addCleanup(self.clean_up_after, self.instance())
        self.addCleanup(daemon.stop)
        return daemon

    @contextmanager
    def at(self, daemon: Daemon) -> Iterator[None]:
        """Let the tracker be another one for a while."""
        before, self.daemon = self.daemon, daemon
        try:
            yield
        finally:
            self.daemon = before

    def configure(self, text: str) -> None:
        """Write a configuration for a tracker that has none yet."""
        file = self.daemon.directory / "docker-tracker.toml"
        file.write_text(text)
        self.daemon.command.append(f"--config={file}")

    def clean(self) -> None:
        self.daemon.stop()  # else it may remove things itself meanwhile
        self.clean_up_after(self.instance())

    def clean_up_after(self, instance: str) -> None:
        """Remove what bears a tracker's labels."""
        for kind, remove in (("container", ("rm", "--force", "--volumes")), ("network", ("rm",)), ("volume", ("rm",))):
            every = ("--all",) if kind == "container" else ()
            ours = f"--filter=label=docker-tracker.instance={instance}"
            found = self.beside(kind, "ls", "--quiet", *every, ours).split()
            if found:
                self.beside(kind, *remove, *found)

    def again(self, between: Callable[[], object] = lambda: None) -> None:
        """Kill the tracker, do something, and start it again."""
        self.daemon.stop(signal.SIGKILL)
        between()
        self.daemon.start()
        self.daemon.wait_for(lambda: answers(self.daemon.control_path))

    def late(self, job: Mapping[str, Any], kind: str, *words: str) -> str:
        """Make a thing with a job's labels that the tracker does not see."""
        labels = {"instance": self.instance(), "job-id": job["id"], "job": job["name"]}
        options = [f"--label=docker-tracker.{name}={value}" for name, value in labels.items()]
        made = self.beside(kind, "create", *options, *words)
        if kind == "container":
            self.addCleanup(docker, "rm", "--force", made, address=self.engine)
        return made

    def reconcile(self, *options: str, status: int = 0) -> dict[str, dict[str, Any]]:
        """Compare once; return the report's entries by the things' IDs."""
        report = json.loads(self.tracker("reconcile", "--format=json", *options, status=status))
        return {each["identifier"]: each for each in report["items"]}

    def outcomes(self, *options: str) -> dict[str, str]:
        """Compare once; return what became of which thing."""
        return {identifier: item["outcome"] for identifier, item in self.reconcile(*options).items()}

    def is_there(self, name: str) -> bool:
        """Whether anything on the engine has a name or an ID."""
        try:
            self.beside("inspect", name)
        except DockerError:
            return False
        return True

    def events(self, job_id: str = "") -> list[dict[str, Any]]:
        """Return what happened to a job, or to none."""
        told = map(json.loads, self.tracker("events", "--format=json").splitlines())
        return [event for event in told if event["job_id"] == job_id]


class OwnTests(ReconcilerCase):
    """What others have paid for."""

    def test_two_trackers(self) -> None:
        """Of two trackers with jobs of the same names each removes its own things alone, those of open jobs not."""
        trackers = (self.daemon, self.another())
        late: list[dict[str, str]] = []
        running = []
        for number, daemon in enumerate(trackers):
            with self.at(daemon):
                over, lasting = self.job("over"), self.job("lasting")
                self.end(over)
                volume = self.late(over, "volume", self.name(f"late{number}"))
                late.append(dict.fromkeys((volume, self.late(over, "container", IMAGE)), "removed"))
                running.append(self.through(lasting, "run", "--detach", *SLEEP))
        for daemon, gone in zip(trackers, late, strict=True):
            with self.at(daemon):
                self.assertEqual(self.outcomes("--dry-run"), dict.fromkeys(gone, "would remove"))
                self.assertEqual(self.outcomes(), gone)
                self.assertEqual(self.outcomes(), {})
            self.assertEqual([self.is_there(each) for each in late[1]], [gone is late[0]] * 2)
        for container in running:
            self.assertTrue(self.inspect(container)["State"]["Running"])

    def test_itself(self) -> None:
        """The container that the tracker runs in stays, though it bears the label of a job that is gone."""
        instance, over = self.name("itself"), {"id": self.name("over"), "name": "over"}
        labels = {"instance": instance, "job-id": over["id"], "job": over["name"]}
        seen = {"/usr", "/lib", "/lib64", "/tmp", str(ROOT), sys.prefix, sys.base_prefix}
        daemon = self.another(
            f"--instance={instance}",
            wrapper=(
                *(require_program("docker", "docker.io"), "run", "--rm", "--env=PYTHONPATH"),
                *(f"--volume={path}:{path}" for path in sorted(seen) if os.path.isdir(path)),
                *(f"--label=docker-tracker.{name}={value}" for name, value in labels.items()),
                IMAGE,
            ),
        )
        with self.at(daemon):
            volume = self.late(over, "volume", self.name("over"))
            (own,) = self.beside("ps", "--quiet", "--no-trunc", f"--filter=label={JOB_ID}={over['id']}").split()
            for outcomes in ({volume: "removed", own: "kept"}, {own: "kept"}):
                self.assertEqual(self.outcomes(), outcomes)
            self.assertTrue(self.inspect(own)["State"]["Running"])


class AdoptTests(ReconcilerCase):
    def test_adopt(self) -> None:
        """A lost tracker's things are ours once they are adopted; the command that is printed does what it says."""
        lost = self.another()
        with self.at(lost):
            instance, job = self.instance(), self.job("web")
            data = self.through(job, "volume", "create", self.name("data"))
            container = self.through(job, "run", "--detach", f"--volume={data}:/data", *SLEEP)
            cache = self.through(None, "volume", "create", self.name("cache"))
        lost.stop(signal.SIGKILL)
        self.assertEqual(self.outcomes(), {})
        adopted = {container: "would remove", data: "would remove", cache: "kept"}
        self.assertEqual(self.outcomes("--dry-run", f"--adopt={instance}"), adopted)
        self.assertEqual(self.outcomes(), {})
        report = self.reconcile(f"--adopt={instance}")
        outcomes = {identifier: item["outcome"] for identifier, item in report.items()}
        self.assertEqual(outcomes, {container: "removed", data: "removed", cache: "kept"})
        told = re.fullmatch(r"the job default has no end: (reap \S+) to remove it", report[cache]["reason"])
        assert told is not None
        command, default = told[1].split()
        listed = self.tracker("job", "ls", "--all")
        for identifier in (job["id"], default):
            self.assertIn(identifier[:12], listed)
            self.tracker("job", "show", identifier[:12])
        self.assertIn(data, self.tracker("report", "web"))
        self.assertEqual([event["event"] for event in self.events(job["id"])], ["job found", "job gone"])
        self.assertIn(cache, self.tracker(command, default))
        self.assertEqual([self.is_there(each) for each in outcomes], [False] * 3)
        self.assertEqual(self.outcomes(), {})


class LostLedgerTests(ReconcilerCase):
    """The ledger is lost while the tracker is down, with a job whose container runs."""

    def setUp(self) -> None:
        super().setUp()
        self.ledger = self.daemon.directory / "state/ledger.sqlite"
        self.long = self.job("long")
        self.volume = self.through(self.long, "volume", "create", self.name("data"))
        self.container = self.through(self.long, "run", "--detach", f"--volume={self.volume}:/data", *SLEEP)

    def spoil(self) -> None:
        self.empty()
        self.ledger.write_bytes(b"This was a database. " * 1000)

    def empty(self) -> None:
        self.remove()
        self.ledger.touch()

    def remove(self) -> None:
        for file in self.ledger.parent.glob("ledger.sqlite*"):
            file.unlink()

    def is_found(self) -> bool:
        return any(job["id"] == self.long["id"] for job in self.control("GET", "/jobs?all=1"))

    def check(self, lose: Callable[[], None], problem: str, moved: int) -> None:
        """The loss is said, the job named, and its things go when the reconciler comes to it, not before."""
        self.again(lose)
        self.daemon.wait_for(self.is_found)
        (job,) = json.loads(f"[{self.tracker('job', 'ls', '--filter=name=long', '--format=json')}]")
        self.assertEqual((job["id"], job["state"]), (self.long["id"], "failed"))
        self.assertTrue(self.inspect(self.container)["State"]["Running"])
        (replaced,) = self.events()
        self.assertEqual((replaced["event"], replaced["data"]["problem"]), ("ledger-replaced", problem))
        self.assertEqual(len(list(self.ledger.parent.glob("ledger.sqlite.corrupt-*Z"))), moved)
        (found,) = self.events(job["id"])
        self.assertEqual((found["event"], found["data"]["things"]), ("job found", {"container": 1, "volume": 1}))
        for said in (
            f"the ledger {self.ledger} {problem}",
            f"job long ({job['id']}) is told by labels only, and is not open any more: its 1 container, 1 volume"
            f" will be removed from {found['data']['removed_from']} on",
        ):
            self.daemon.wait_for(lambda said=said: said in self.daemon.output())  # type: ignore[misc]
        self.assertEqual(self.outcomes(), {self.container: "removed", self.volume: "removed"})
        self.assertEqual(self.control("GET", f"/jobs/{job['id']}")["state"], "gone")
        self.assertFalse(self.is_there(self.container) or self.is_there(self.volume))

    def test_broken(self) -> None:
        """A ledger that is none any more is said, and kept."""
        self.check(self.spoil, "was broken", 1)

    def test_empty(self) -> None:
        """So is an empty one."""
        self.check(self.empty, "was empty", 1)

    def test_missing(self) -> None:
        """So is one that was removed, with all that stood beside it."""
        self.check(self.remove, "was missing", 0)

    def test_newer(self) -> None:
        """A ledger of a newer version is refused with a sentence; nothing is lost, neither it nor what it tells of."""
        self.daemon.stop()
        version = self.version(99)
        self.daemon.start()
        assert self.daemon.process is not None
        self.assertNotEqual(self.daemon.process.wait(60), 0)
        self.assertIn("it has schema version 99", self.daemon.output())
        self.assertIn("install the newer one again", self.daemon.output())
        self.assertTrue(self.inspect(self.container)["State"]["Running"])
        self.version(version)
        self.daemon.start()
        self.daemon.wait_for_socket()
        self.assertEqual(self.control("GET", f"/jobs/{self.long['id']}")["state"], "open")
        self.assertEqual(self.outcomes(), {})
        self.assertEqual(self.through(self.long, "ps", "--quiet", "--no-trunc"), self.container)

    def version(self, number: int) -> int:
        """Change the schema's version; return what it was."""
        connection = sqlite3.connect(self.ledger)
        try:
            (before,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {number}")
            return int(before)
        finally:
            connection.close()


class ByItselfTests(ReconcilerCase):
    """Passes come by themselves."""

    configuration = BY_ITSELF

    def test_lost_ledger(self) -> None:
        """A job that is found is named first, and then reaped, with nobody's help."""
        job = self.job("long")
        volume = self.through(job, "volume", "create", self.name("data"))
        self.again(lambda: (self.daemon.directory / "state/ledger.sqlite").write_bytes(b""))
        self.daemon.wait_for(lambda: not self.is_there(volume))
        self.daemon.wait_for(lambda: len(self.events(job["id"])) == 2)
        found, gone = self.events(job["id"])
        self.assertEqual((found["event"], gone["event"]), ("job found", "job gone"))
        self.assertLess(found["time"], found["data"]["removed_from"])
        self.assertLessEqual(found["data"]["removed_from"], gone["time"])

    def test_failed(self) -> None:
        """A job has failed while somebody else needs what it made, whose name comes back meanwhile; then it is gone."""
        job = self.job("web")
        network = self.through(job, "network", "create", self.name("net"))
        stranger = self.beside("run", "--detach", f"--network={network}", *SLEEP)
        self.addCleanup(docker, "rm", "--force", stranger, address=self.engine)
        items = self.end(job, "failed")
        ((name, left),) = items.items()
        self.assertEqual((left["identifier"], left["outcome"]), (network, "left"))
        self.assertIn("active endpoints", left["reason"])
        self.tracker("report", job["id"], status=1)
        successor = self.job("web")
        volume = self.through(successor, "volume", "create", self.name("data"))
        self.assertIn(self.state(job), ("failed", "reaping"))  # it is tried again and again
        self.assertTrue(self.inspect(stranger)["State"]["Running"])
        self.assertTrue(self.is_there(name))
        self.beside("rm", "--force", stranger)
        self.wait_for_end(job)
        self.assertFalse(self.is_there(network))
        self.assertEqual(self.state(successor), "open")
        self.assertTrue(self.is_there(volume))
        told = [event["event"] for event in self.events(job["id"])]
        self.assertEqual((told[0], told[-2:]), ("job started", ["job failed", "job gone"]))


class HeuristicTests(ReconcilerCase):
    def setUp(self) -> None:
        self.alloc = self.enterContext(tempfile.TemporaryDirectory(prefix="dt-"))
        self.pattern = self.name("web")
        settings = {"mounts": [f"{self.alloc}/"], "name-pattern": f"{self.pattern}-[0-9a-f]{{4}}"}
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        on_demand = "period = 86400\ncreation-grace = 0\nallow-short-grace = true\n"
        self.configuration = f"{REAP}[reconcile]\n{on_demand}{lines}"
        super().setUp()

    def run_beside(self, name: str, source: str, *more: str) -> str:
        container = self.beside("run", "--detach", f"--name={name}", f"--volume={source}:/alloc", *more, *SLEEP)
        self.addCleanup(docker, "rm", "--force", container, address=self.engine)
        return container

    def test_before_labels(self) -> None:
        """A running container without our labels goes if name and mounts say so, both; others' stay."""
        (Path(self.alloc) / "1").mkdir()
        suspect = self.run_beside(f"{self.pattern}-00aa", f"{self.alloc}/1")
        strangers = [
            self.run_beside(f"{self.pattern}-00bb", "/tmp"),
            self.run_beside(f"{self.pattern}-other", f"{self.alloc}/1"),
            self.run_beside(f"{self.pattern}-00cc", f"{self.alloc}/1", "--label=docker-tracker.job-id=another"),
        ]
        self.assertEqual(self.outcomes("--dry-run"), {suspect: "would remove"})
        self.assertEqual(self.outcomes(), {suspect: "removed"})
        self.assertFalse(self.is_there(suspect))
        self.assertTrue(all(self.inspect(each)["State"]["Running"] for each in strangers))
        self.assertEqual(self.outcomes(), {})


class AwayTests(ReconcilerCase):
    """The engine is the test's own, as it is stopped; containers outlive it."""

    configuration = BY_ITSELF

    def setUp(self) -> None:
        self.private = private_engine("away", ("--live-restore",))
        self.addCleanup(discard, self.private)
        self.private.start()
        self.patch(os, "environ", {**os.environ, "DOCKER_TRACKER_TEST_ENGINE": self.private.address})
        super().setUp()

    def test_away(self) -> None:
        """That it is away is said once, and that it is back; then containers that lost their socket are named."""
        job = self.job("long")
        agent = self.through(job, "run", "--detach", f"--volume={SOCKET}:{SOCKET}", *SLEEP)
        dockerd = self.private.process_id("dockerd")
        assert dockerd is not None
        self.addCleanup(self.wake, dockerd)
        self.again(lambda: os.kill(dockerd, signal.SIGSTOP))
        unknown = "whether containers have lost the sockets of their jobs is not known yet"
        self.daemon.wait_for(lambda: "engine and ledger cannot be compared" in self.daemon.output(), seconds=60)
        self.daemon.wait_for(lambda: unknown in self.daemon.output(), seconds=60)
        os.kill(dockerd, signal.SIGKILL)  # from now on it refuses at once
        failed = 'docker_tracker_reconcile_runs_total{result="failed"}'
        before = self.metric(failed)
        self.daemon.wait_for(lambda: self.metric(failed) >= before + 3)
        self.assertNotIn("can be compared again", self.daemon.output())
        self.private.restart()
        for said in (
            "engine and ledger can be compared again",
            f"container {agent[:12]} has lost the socket of job long",
        ):
            self.daemon.wait_for(lambda said=said: said in self.daemon.output())  # type: ignore[misc]
        self.assertEqual(self.daemon.output().count("cannot be compared"), 1)
        self.assertEqual(self.daemon.output().count(unknown), 1)
        self.assertEqual(self.state(job), "open")
        self.assertTrue(self.inspect(agent)["State"]["Running"])

    @staticmethod
    def wake(process: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # by its own name it would be an option of trial
            os.kill(process, signal.SIGCONT)

    def metric(self, name: str) -> float:
        """Return the value of a sample; 0: there is none."""
        text = Client(self.daemon.control_path).call("GET", "/metrics")
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)
