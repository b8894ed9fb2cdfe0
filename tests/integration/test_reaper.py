"""What the reaper does on a real engine, where containers come back, images have tags and strangers use things."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

from docker_tracker.connections import EngineAddress
from docker_tracker.interfaces import IJob
from docker_tracker.job import JobRequest, Keep, ReapReport
from docker_tracker.job_settings import ReapSettings
from docker_tracker.records import Intent, Relation, Resource, State
from docker_tracker.sources import Found
from docker_tracker.tracking.client import EngineClient
from docker_tracker.tracking.ledger import Ledger
from docker_tracker.tracking.reaper import Reaper
from tests.support.dockerd import IMAGE
from tests.support.engine import docker, engine_address

FROM_SCRATCH = "FROM scratch\nCOPY file /file\nCOPY file /other\n"


def archive(**files: str) -> bytes:
    """Give a tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


class ReaperTests(TestCase):
    """Things are made beside the tracker, with its labels, and written into its ledger as the recorder does."""

    timeout = 120

    def setUp(self) -> None:
        self.address = engine_address()
        self.mark = f"reap{uuid.uuid4().hex[:8]}"
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.ledger = Ledger(Path(directory.name) / "ledger.sqlite", None)
        self.ledger.open("instance")
        self.addCleanup(self.ledger.close)
        self.engine = EngineClient(reactor, EngineAddress.of(Found(self.address, "the test")))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.engine.close()))
        self.job = self.make_job()
        self.label = f"--label=docker-tracker.job-id={self.job.id}"
        self.images = set(self.docker("images", "-aq", "--no-trunc").split())
        self.addCleanup(self.sweep)

    def make_job(self, **request: Any) -> IJob:
        request = {"name": f"{self.mark}.{uuid.uuid4().hex[:4]}", **request}
        return self.successResultOf(self.ledger.make_job(JobRequest(**request), None, ""))

    def sweep(self) -> None:
        """Remove what a test has left."""
        for listing, removal in (
            ("ps -aq --no-trunc", "rm -fv"),
            ("network ls -q", "network rm"),
            ("volume ls -q", "volume rm"),
        ):
            for filter in (f"name={self.mark}", f"label=docker-tracker.job-id={self.job.id}"):
                for identifier in self.docker(*listing.split(), f"--filter={filter}").split():
                    self.docker(*removal.split(), identifier)
        for line in self.docker("images", "--format={{.Repository}}:{{.Tag}}").split():
            if line.startswith(self.mark):
                self.docker("rmi", "-f", line)
        while left := set(self.docker("images", "-aq", "--no-trunc", "--filter=dangling=true").split()) - self.images:
            self.docker("rmi", left.pop())

    def docker(self, *arguments: str, data: bytes = b"") -> str:
        return docker(*arguments, address=self.address, data=data).stdout.decode().strip()

    def named(self, name: str) -> str:
        return f"{self.mark}-{name}"

    def run_container(self, *options: str, ours: bool = True) -> str:
        labels = [self.label] if ours else []
        return self.docker("run", "-d", *labels, *options, IMAGE, "sleep", "600")

    def reap(self, job: IJob | None = None, dry_run: bool = False, **settings: Any) -> Deferred[ReapReport]:
        """Reap the job; containers have a second to end."""
        values = {"stop_seconds": 1.0, "seconds": 60.0, **settings}
        reaper = Reaper(self.engine, self.ledger, reactor, ReapSettings(**values), time.time)
        return Deferred.fromCoroutine(reaper.reap(job or self.job, dry_run=dry_run))

    def outcomes(self, report: ReapReport) -> dict[str, str]:
        """Give what became of things, by name; those without one by ID."""
        return {(item.name or item.identifier).removeprefix(f"{self.mark}-"): item.outcome for item in report.items}

    def left(self, *listing: str) -> str:
        return self.docker(*listing, f"--filter=label=docker-tracker.job-id={self.job.id}")

    def record(self, *resources: tuple[str, str], **more: Any) -> Deferred[None]:
        """Write into the ledger that the job made things."""

        async def work() -> None:
            intent = Intent(job_id=self.job.id, operation="container_create", kind="container")
            number = await self.ledger.intend(intent, await self.engine.identity())
            made = [Resource(kind=kind, identifier=name, name=name, **more) for kind, name in resources]
            await self.ledger.record(number, made, State.DONE)

        return Deferred.fromCoroutine(work())

    @inlineCallbacks
    def test_containers(self) -> Generator[Any, Any, None]:
        """In whatever state they are, and whatever is to bring them back; their anonymous volumes go, too."""
        self.run_container("--restart=always", f"--name={self.named('always')}", "-v", "/anonymous")
        self.run_container("--rm", f"--name={self.named('removes-itself')}", "-v", "/anonymous")
        self.run_container(f"--name={self.named('paused')}")
        self.docker("pause", self.named("paused"))
        self.docker("create", self.label, f"--name={self.named('created')}", IMAGE)
        self.docker("run", self.label, f"--name={self.named('exited')}", IMAGE, "true")
        restarting = ("--restart=always", f"--name={self.named('restarting')}", IMAGE, "false")
        self.docker("run", "-d", self.label, *restarting)
        self.run_container("--stop-timeout=0", f"--name={self.named('at-once')}")
        stranger = self.run_container(f"--name={self.named('stranger')}", ours=False)
        volumes = set(self.docker("volume", "ls", "-q").split())
        anonymous = json.loads(self.docker("inspect", "--format={{json .Mounts}}", self.named("always")))[0]["Name"]
        report = yield self.reap()
        self.assertEqual((report.problem, report.left), ("", ()))
        self.assertEqual(set(self.outcomes(report).values()), {"removed"})
        self.assertEqual(
            set(self.outcomes(report)),
            {"always", "removes-itself", "paused", "created", "exited", "restarting", "at-once"},
        )
        self.assertEqual(self.left("ps", "-aq"), "")
        self.assertEqual(self.docker("inspect", "--format={{.State.Running}}", stranger), "true")
        self.assertEqual(len(volumes - set(self.docker("volume", "ls", "-q").split())), 2)
        self.assertNotIn(anonymous, self.docker("volume", "ls", "-q"))
        self.assertLess(report.seconds, 10)

    @inlineCallbacks
    def test_networks_and_volumes(self) -> Generator[Any, Any, None]:
        """Named ones go by label and by ledger; what a stranger uses is reported, and never torn away."""
        docker, named = self.docker, self.named
        for name in ("net", "shared-net"):
            docker("network", "create", self.label, named(name))
        docker("volume", "create", self.label, named("labelled"))
        docker("volume", "create", self.label, named("shared"))
        docker("volume", "create", named("there-before"))
        self.run_container(
            f"--network={named('net')}", "-v", f"{named('implicit')}:/i", "-v", f"{named('labelled')}:/l"
        )
        yield self.record(("volume", named("implicit")))
        yield self.record(("volume", named("there-before")), relation=Relation.USED)
        self.run_container(
            f"--network={named('shared-net')}", "-v", f"{named('shared')}:/s", f"--name={named('stranger')}", ours=False
        )
        dry = yield self.reap(dry_run=True)
        self.assertEqual(set(self.outcomes(dry).values()), {"would remove"})
        self.assertEqual(len(dry.items), 6)
        self.assertNotEqual(self.left("ps", "-q"), "")
        report = yield self.reap()
        outcomes = self.outcomes(report)
        self.assertEqual({name for name, outcome in outcomes.items() if outcome == "left"}, {"shared", "shared-net"})
        reasons = {item.kind: item.reason for item in report.left}
        self.assertIn(named("stranger"), reasons["network"])
        self.assertIn("in use", reasons["volume"])
        self.assertEqual(
            {name for name in outcomes if outcomes[name] == "removed"} - {"implicit", "labelled", "net"},
            {next(item.name for item in report.items if item.kind == "container")},
        )
        self.assertEqual(
            docker("volume", "ls", "-q", f"--filter=name={self.mark}").split(),
            sorted([named("shared"), named("there-before")]),
        )
        # When the stranger is gone, so is what is left.
        docker("rm", "-f", named("stranger"))
        report = yield self.reap()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.outcomes(report), {"shared": "removed", "shared-net": "removed"})

    @inlineCallbacks
    def test_images(self) -> Generator[Any, Any, None]:
        """What was built, committed, imported and tagged goes by tag, then by ID, its steps with it."""
        docker, named = self.docker, self.named
        before = set(docker("images", "-aq", "--no-trunc").split())
        built, committed, imported = (named(name) + ":1" for name in ("built", "committed", "imported"))
        docker("build", "-t", built, "-", data=archive(Dockerfile=FROM_SCRATCH, file=self.mark))
        container = self.run_container(f"--name={named('web')}")
        docker("commit", container, committed)
        docker("import", "-", imported, data=archive(file=self.mark))
        tags = [built, committed, imported]
        identifiers = [docker("inspect", "--format={{.Id}}", tag) for tag in tags]
        for tag, identifier in zip(tags, identifiers, strict=True):
            yield self.record(("image", tag), parent=identifier)
        steps = set(docker("images", "-aq", "--no-trunc").split()) - before
        self.assertGreater(len(steps), 3)
        yield self.record(*(("image", identifier) for identifier in steps))
        base = named("base") + ":1"
        docker("tag", IMAGE, base)
        yield self.record(("image", base))
        report = yield self.reap()
        self.assertTrue(report.complete, report)
        self.assertEqual(set(docker("images", "-aq", "--no-trunc").split()), before)
        self.assertIn(IMAGE.partition(":")[0], docker("images"))

    @inlineCallbacks
    def test_images_of_others(self) -> Generator[Any, Any, None]:
        """An image that a stranger has tagged, runs or built upon stays, and so does a tag that was moved."""
        docker, named = self.docker, self.named
        for name in ("tagged", "running", "moved"):
            docker("build", "-t", named(name), "-", data=archive(Dockerfile=FROM_SCRATCH, file=name + self.mark))
            identifier = docker("inspect", "--format={{.Id}}", named(name))
            yield self.record(("image", f"{named(name)}:latest"), parent=identifier)
            yield self.record(("image", identifier))
        docker("tag", named("tagged"), named("strangers-tag"))
        docker("create", f"--name={named('stranger')}", named("running"), "x")
        moved = docker("inspect", "--format={{.Id}}", named("moved"))
        docker("tag", IMAGE, named("moved"))
        report = yield self.reap()
        outcomes = {item.identifier: item.outcome for item in report.items}
        self.assertNotIn(f"{named('moved')}:latest", outcomes)
        self.assertEqual(outcomes[moved], "removed")
        self.assertEqual(outcomes[f"{named('tagged')}:latest"], "removed")
        reasons = sorted(item.reason for item in report.left)
        self.assertEqual(len(reasons), 2, reasons)
        kept = [item.reason for item in report.items if item.outcome == "kept"]
        self.assertIn(f"others have named it {named('strangers-tag')}:latest", kept)
        self.assertTrue(any("using its referenced image" in reason for reason in reasons), reasons)
        names = docker("images", "--format={{.Repository}}").split()
        self.assertEqual(
            {name for name in names if name.startswith(self.mark)},
            {named("strangers-tag"), named("moved"), named("running")},
        )

    @inlineCallbacks
    def test_last_name(self) -> Generator[Any, Any, None]:
        """A tag that is all that names somebody else's image stays."""
        docker = self.docker
        first, second = self.named("theirs") + ":1", self.named("ours") + ":1"
        docker("build", "-t", first, "-", data=archive(Dockerfile=FROM_SCRATCH, file=self.mark))
        docker("tag", first, second)
        docker("rmi", first)
        yield self.record(("image", second))
        report = yield self.reap()
        self.assertTrue(report.complete)
        self.assertEqual(self.outcomes(report), {"ours:1": "kept"})
        self.assertIn("last name", report.items[0].reason)
        self.assertIn(self.named("ours"), docker("images"))

    @inlineCallbacks
    def test_kept(self) -> Generator[Any, Any, None]:
        """What a rule or a client's label keeps stays, with all that it needs."""
        docker, named = self.docker, self.named
        job = self.make_job(keep=(Keep("volume", f"{named('cache')}-*"),))
        self.job, self.label = job, f"--label=docker-tracker.job-id={job.id}"
        self.addCleanup(self.sweep)
        retain = "--label=docker-tracker.retain=3d"
        for name in ("cache-1", "goes", "needed"):
            docker("volume", "create", self.label, named(name))
        docker("network", "create", self.label, named("needed-net"))
        self.run_container(
            retain, f"--network={named('needed-net')}", "-v", f"{named('needed')}:/n", f"--name={named('kept')}"
        )
        self.run_container(f"--name={named('gone')}")
        report = yield self.reap(job)
        self.assertTrue(report.complete, report)
        self.assertEqual(
            self.outcomes(report),
            {
                "cache-1": "kept",
                "goes": "removed",
                "needed": "kept",
                "needed-net": "kept",
                "kept": "kept",
                "gone": "removed",
            },
        )
        reasons = {item.name.removeprefix(f"{self.mark}-"): item.reason for item in report.items}
        self.assertRegex(reasons["kept"], r"docker-tracker.retain keeps it until \d{4}-")
        self.assertIn(named("kept"), reasons["needed"])
        self.assertIn("cache-*", reasons["cache-1"])
        self.assertEqual(docker("inspect", "--format={{.State.Running}}", named("kept")), "true")
        # The operator's bound is over; so is the kept container's time, and all goes.
        report = yield self.reap(attrs.evolve(job, request=JobRequest(name=job.name)), retain_days=0.0)  # type: ignore[misc]
        self.assertTrue(report.complete, report)
        self.assertEqual(set(self.outcomes(report).values()), {"removed"})

    @inlineCallbacks
    def test_name_came_back(self) -> Generator[Any, Any, None]:
        """A volume that has the name of the job's, and was made after it by somebody else, is not touched."""
        name = self.named("cache")
        yield self.record(("volume", name))
        yield self.wait(4)
        self.docker("volume", "create", name)
        report = yield self.reap()
        self.assertEqual(self.outcomes(report), {"cache": "kept"})
        self.assertIn(name, self.docker("volume", "ls", "-q"))

    @inlineCallbacks
    def test_inherited_label(self) -> Generator[Any, Any, None]:
        """A container that has the job's label from an image is anybody's."""
        image = self.named("image")
        text = f"FROM {IMAGE}\nLABEL docker-tracker.job-id={self.job.id}\n"
        self.docker("build", "-t", image, "-", data=archive(Dockerfile=text))
        stranger = self.docker("create", f"--name={self.named('stranger')}", image)
        report = yield self.reap()
        self.assertEqual(report.items, ())
        self.assertIn(stranger, self.docker("ps", "-aq", "--no-trunc"))

    @inlineCallbacks
    def test_buildx_builder(self) -> Generator[Any, Any, None]:
        """A builder's container and its state go like any others."""
        name = f"buildx_buildkit_{self.mark}0"
        state = f"{name}_state"
        self.docker("volume", "create", self.label, state)
        self.run_container("-v", f"{state}:/var/lib/buildkit", f"--name={name}", "--restart=unless-stopped")
        report = yield self.reap()
        self.assertTrue(report.complete)
        self.assertEqual(self.outcomes(report), {name: "removed", state: "removed"})

    @inlineCallbacks
    def test_swarm(self) -> Generator[Any, Any, None]:
        """A service goes first, its tasks by the swarm's hand, then what it used."""
        docker, named = self.docker, self.named
        if docker("info", "--format={{.Swarm.ControlAvailable}}") != "true":
            self.skipTest("the engine is no manager of a swarm")
        docker("network", "create", "--driver=overlay", self.label, named("overlay"))
        docker("secret", "create", self.label, named("secret"), "-", data=b"secret")
        docker("config", "create", self.label, named("config"), "-", data=b"config")
        docker("secret", "create", named("strangers"), "-", data=b"secret")
        self.addCleanup(docker, "secret", "rm", named("strangers"))
        options = (f"--network={named('overlay')}", f"--secret={named('secret')}", f"--config={named('config')}")
        label = "--container-" + self.label.removeprefix("--")
        docker(
            *("service", "create", "--detach", "--endpoint-mode=dnsrr", self.label, label, f"--name={named('web')}"),
            *(*options, IMAGE, "sleep", "600"),
        )
        for _ in range(60):
            if self.left("ps", "-q"):
                break
            yield self.wait(0.5)
        report = yield self.reap()
        self.assertTrue(report.complete, report)
        outcomes = self.outcomes(report)
        self.assertEqual(set(outcomes.values()), {"removed"})
        self.assertLessEqual({"web", "overlay", "secret", "config"}, set(outcomes))
        self.assertEqual(len(outcomes), 5)
        self.assertEqual(self.left("ps", "-aq"), "")
        for kind in ("network", "service", "config"):
            self.assertNotIn(self.mark, docker(kind, "ls"))

    def wait(self, seconds: float) -> Deferred[None]:
        """Let the engine's clock go on: it gives whole seconds only."""
        waiting: Deferred[None] = Deferred()
        reactor.callLater(seconds, waiting.callback, None)
        return waiting
