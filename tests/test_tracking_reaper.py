"""The reaper: what goes, in which order, what stays, and what it does when the engine says no."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import EngineError, LedgerError
from docker_tracker.image_work import ImageWork, ImageWorks
from docker_tracker.interfaces import IJob
from docker_tracker.job import JobRequest, JobState, Keep, ReapReport
from docker_tracker.job_settings import ReapSettings
from docker_tracker.records import Intent, Relation, Resource, State
from docker_tracker.tracking.ledger import Ledger
from docker_tracker.tracking.reaper import Reaper
from tests.support.model_engine import UNAVAILABLE, ModelEngine

T = TypeVar("T")
START = 10_000_000.0
ANONYMOUS = "a" * 64
SERVICE_LABEL = "com.docker.swarm.service.id"


class ReapCase(SynchronousTestCase):
    """A job, an engine, a ledger and a clock."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.proc = Path(directory.name) / "proc"
        self.clock = Clock()
        self.clock.advance(START)
        self.engine = ModelEngine(self.clock)
        self.ledger = Ledger(Path(directory.name) / "ledger.sqlite", None, None, self.clock.seconds)
        self.ledger.open("instance")
        self.addCleanup(self.ledger.close)
        self.job = self.make_job("web")
        self.works = ImageWorks()
        self.looks = 0

    def make_job(self, name: str, **request: Any) -> IJob:
        return self.successResultOf(self.ledger.make_job(JobRequest(name=name, **request), None, ""))

    def labels(self, **more: str) -> dict[str, str]:
        return {
            "docker-tracker.job-id": self.job.id,
            "docker-tracker.job": self.job.name,
            "docker-tracker.instance": "instance",
            **more,
        }

    def add(self, kind: str, name: str = "", **more: Any) -> str:
        """Have a thing that bears the job's labels."""
        return self.engine.add(kind, name, self.labels(), **more)

    def record(self, kind: str, identifier: str, **more: Any) -> str:
        """Write down that the job made a thing."""
        intent = Intent(job_id=self.job.id, operation="x", kind=kind)
        number = self.successResultOf(self.ledger.intend(intent, "ENGINE"))
        resource = Resource(kind=kind, identifier=identifier, **{"name": identifier, **more})
        self.successResultOf(self.ledger.record(number, [resource], State.DONE))
        return identifier

    def existing(self) -> set[tuple[str, str]]:
        found = self.successResultOf(self.ledger.resources())
        return {(each.kind, each.identifier) for each in found if each.relation is Relation.MADE}

    def reaper(self, **settings: Any) -> Reaper:
        async def look() -> None:
            self.looks += 1

        settings = {"stop_seconds": 10.0, **settings}
        return Reaper(
            self.engine,
            self.ledger,
            self.clock,
            ReapSettings(**settings),
            self.clock.seconds,
            look=look,
            works=self.works,
            proc=self.proc,
        )

    def finish(self, work: Coroutine[Any, Any, T], most: float = 1000.0) -> T:
        """Let the time go by that something needs."""
        done: Deferred[T] = Deferred.fromCoroutine(work)
        end = self.clock.seconds() + most
        while not done.called and self.clock.getDelayedCalls() and self.clock.seconds() < end:
            due = min(call.getTime() for call in self.clock.getDelayedCalls())
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        return self.successResultOf(done)

    def reap(self, *, dry_run: bool = False, made_before: float | None = None, **settings: Any) -> ReapReport:
        reaper = self.reaper(**settings)
        return self.finish(reaper.reap(self.job, dry_run=dry_run, made_before=made_before))

    def outcomes(self, report: ReapReport) -> dict[str, str]:
        return {item.name or item.identifier: item.outcome for item in report.items}

    def removals(self) -> list[str]:
        return [call.split("?")[0].split("/")[1] for call in self.engine.asked if call.startswith("DELETE")]


class OrderTests(ReapCase):
    def test_all_kinds(self) -> None:
        """Everything goes, in the one order: what would bring others back first, images last."""
        self.engine.swarm = "active"
        for kind in ("secret", "config", "volume", "network", "service"):
            self.add(kind, kind)
        self.add("container", "container", State={"Running": False, "Status": "exited"})
        image = self.record("image", self.engine.add("image", "app:1"), name="")
        self.record("image", "app:1", parent=image)
        self.record("plugin", self.engine.add("plugin", "plug:1"))
        report = self.reap()
        self.assertTrue(report.complete, report)
        self.assertEqual(
            self.removals(),
            [
                "services",
                "containers",
                "networks",
                "volumes",
                "configs",
                "secrets",
                "plugins",
                "images",
            ],
        )
        self.assertEqual({kind: names for kind, names in self.engine.things.items() if names}, {})
        self.assertEqual(self.existing(), set())
        self.assertEqual(set(self.outcomes(report).values()), {"removed"})
        self.assertEqual((report.passes, report.job, report.seconds), (2, "web", 0.0))

    def test_nothing(self) -> None:
        """A job that made nothing is done after one listing."""
        report = self.reap()
        self.assertEqual((report.items, report.passes, report.complete), ((), 1, True))
        self.assertEqual(self.looks, 0)

    def test_comes_late(self) -> None:
        """What appears while others are removed is found by the next listing."""
        self.add("network", "first")
        late = iter(["second", "third"])

        def appear(kind: str, identifier: str) -> None:
            for name in late:
                self.add("network", name)
                return

        self.engine.when_removed = appear
        self.assertEqual(set(self.outcomes(self.reap())), {"first", "second", "third"})

    def test_gone_already(self) -> None:
        """What only the ledger has is noted as gone, and is nobody's work."""
        self.record("container", "c" * 64)
        report = self.reap()
        self.assertEqual((report.items, self.existing()), ((), set()))

    def test_dry_run(self) -> None:
        """It is said what would go, and nothing is changed, in the ledger neither."""
        self.add("container", "web")
        self.add("volume", "cache-1")
        self.record("volume", "gone")
        report = self.reap(dry_run=True, keep=("volume:cache-*",))
        self.assertEqual(self.outcomes(report), {"web": "would remove", "cache-1": "kept"})
        self.assertTrue(report.dry_run)
        self.assertEqual([call for call in self.engine.asked if not call.startswith("GET")], [])
        self.assertIn(("volume", "gone"), self.existing())

    def said(self, **options: Any) -> list[str]:
        """Reap; return what was logged of it."""
        with capturedLogs() as logs:
            self.reap(keep=("volume:cache-*",), **options)
        return [message for event in logs if (message := formatEvent(event)) and message.startswith("job web")]

    def test_what_is_said(self) -> None:
        """A dry run says what would be removed; looking again and again says nothing while there is nothing to do."""
        for name in ("v", "w", "cache-1"):
            self.add("volume", name)
        self.assertEqual(self.said(dry_run=True), ["job web: 2 would be removed, 1 kept, 0 left"])
        again = {"made_before": START + 1}
        self.assertEqual(self.said(**again), ["job web: 2 removed, 1 kept, 0 left"])
        self.assertEqual(self.said(**again), [])
        self.assertEqual(self.said(), ["job web: 0 removed, 1 kept, 0 left"])

    def test_young(self) -> None:
        """What was made after a given time is left alone."""
        self.add("container", "old", created=START - 100)
        self.add("container", "young", created=START - 10)
        image = self.record("image", self.engine.add("image", "", created=5.0))
        plugin = self.record("plugin", self.engine.add("plugin", "p:1"))  # which does not say when it was made
        report = self.reap(made_before=START - 50)
        self.assertEqual(self.outcomes(report), {"old": "removed"})
        self.assertEqual(self.engine.named("container"), {"young"})
        self.assertIn(image, self.engine.things["image"])
        self.assertIn(plugin, self.engine.things["plugin"])

    def test_clock_set_back(self) -> None:
        """What says that it was made in the future is not young for ever, if the engine has the clock that we have."""
        self.add("container", "young", created=START + 40)
        self.add("container", "old", created=START + 3600)
        address, self.engine.address = self.engine.address, "tcp://engine:2375"
        self.assertEqual(self.outcomes(self.reap(made_before=START - 50)), {})
        self.engine.address = address
        self.assertEqual(self.outcomes(self.reap(made_before=START - 50)), {"old": "removed"})

    def test_together(self) -> None:
        """Two reaps of one job wait for each other; of other jobs they do not."""
        self.add("network", "net")
        blocked: Deferred[Any] = Deferred()
        self.engine.answers["GET /version"] = [blocked]
        reaper = self.reaper()
        first = Deferred.fromCoroutine(reaper.reap(self.job))
        second = Deferred.fromCoroutine(reaper.reap(self.job))
        other = self.successResultOf(Deferred.fromCoroutine(reaper.reap(self.make_job("other"))))
        self.assertTrue(other.complete)
        self.assertNoResult(first)
        self.assertNoResult(second)
        blocked.callback(None)
        self.assertEqual(len(self.successResultOf(first).items), 1)
        self.assertEqual(len(self.successResultOf(second).items), 0)
        self.assertEqual(reaper._locks, {})


class ExecTests(ReapCase):
    """Commands that the job runs in containers."""

    def setUp(self) -> None:
        super().setUp()
        self.strangers = self.engine.add("container", "strangers")
        self.ours = self.add("container", "ours")
        for name, container in (("e1", self.strangers), ("e2", self.ours), ("e3", self.strangers)):
            self.record("exec", name, parent=container, name="", attributes={"uid": "5"})
            self.engine.execs[name] = {"ContainerID": container, "Running": name != "e3", "Pid": 77}
        self.record("exec", "e4", parent=self.strangers, name="")

    def test_runs_on(self) -> None:
        """One that runs on in a container of somebody else's is told as kept, with the place; the job does not fail."""
        for dry_run in (True, False):
            report = self.reap(dry_run=dry_run)
            self.assertTrue(report.complete, report)
            item = next(each for each in report.items if each.kind == "exec")
            self.assertEqual((item.identifier, item.outcome, item.attributes), ("e1", "kept", {"uid": "5"}))
            self.assertIn("it runs in the container strangers, which is not the job's", item.reason)
            self.assertIn("process 77 of", item.reason)
            self.assertEqual(len(report.items), 2)
            self.assertEqual(("exec", "e4") in self.existing(), dry_run)
        self.assertIn(self.strangers, self.engine.things["container"])
        self.engine.execs["e1"]["Running"] = False
        self.assertEqual(self.reap().items, ())

    def test_own_kept(self) -> None:
        """One in a container of the job's that is kept is no news beside that."""
        report = self.reap(keep=("container:ours",))
        self.assertEqual([item.identifier for item in report.items], [self.ours, "e1"])

    def test_engine_away(self) -> None:
        """If the engine cannot say, that is logged, and the job is none the worse for it."""
        self.engine.answers["GET /exec/e1/json"] = [UNAVAILABLE]
        with capturedLogs() as logged:
            report = self.reap()
        self.assertEqual((report.complete, self.outcomes(report)), (True, {"ours": "removed"}))
        self.assertEqual(len([each for each in logged if "its execs" in str(each["log_format"])]), 1)
        self.engine.things["container"].pop(self.strangers)
        (item,) = self.reap().items
        self.assertIn(f"in the container {self.strangers[:12]}", item.reason)


class OwnerTests(ReapCase):
    """Nobody else's things are touched, whatever their names."""

    def test_strangers(self) -> None:
        """Neither another job's, nor nobody's, nor what the job only used."""
        for kind in ("container", "network", "volume"):
            self.engine.add(kind, f"{kind}-nobodys")
            self.engine.add(kind, f"{kind}-others", {"docker-tracker.job-id": "other"})
        self.record("volume", self.engine.add("volume", "used"), relation=Relation.USED)
        self.record("image", self.engine.add("image", "pulled:1"), relation=Relation.USED)
        report = self.reap()
        self.assertEqual(report.items, ())
        self.assertEqual(self.removals(), [])

    def test_label_wins(self) -> None:
        """What the ledger gives to the job and the label to another one is the other's."""
        self.record("volume", self.engine.add("volume", "v", {"docker-tracker.job-id": "other"}))
        self.assertEqual(self.reap().items, ())
        self.assertEqual(self.engine.named("volume"), {"v"})
        self.assertEqual(self.existing(), set())

    def test_engine_ignores_filter(self) -> None:
        """An engine whose lists give more than was asked for tells us nothing wrong."""
        entry = {"Id": "n" * 64, "Name": "n", "Labels": {"docker-tracker.job-id": "other"}}
        self.engine.answers["GET /networks"] = [(200, [entry])] * 2
        self.assertEqual(self.reap().items, ())

    def test_inherited_label(self) -> None:
        """A label that a container can have from its image proves nothing, unless the ledger knows of it."""
        image = self.engine.add("image", "app:1", self.labels())
        strangers = self.add("container", "strangers", Image=image)
        ours = self.add("container", "ours", Image=image)
        self.record("container", ours)
        self.add("container", "of no image")
        self.assertEqual(self.outcomes(self.reap()), {"ours": "removed", "of no image": "removed"})
        self.assertIn(strangers, self.engine.things["container"])
        self.assertNotIn("GET /images//json", self.engine.asked)

    def test_name_came_back(self) -> None:
        """A volume without labels that was made after the job's own is kept, and said so."""
        self.record("volume", self.engine.add("volume", "same"))
        self.clock.advance(60)
        self.record("volume", self.engine.add("volume", "v", created=START))
        self.engine.things["volume"]["same"]["CreatedAt"] = "1970-04-26T17:46:45Z"
        report = self.reap()
        self.assertEqual(self.outcomes(report), {"same": "kept", "v": "removed"})
        self.assertIn("made after the job's volume of that name", report.items[0].reason)

    def test_remote_clock(self) -> None:
        """Another host's clock may go wrong by a minute."""
        self.engine.address = "tcp://engine:2375"
        self.record("volume", self.engine.add("volume", "v", created=START + 50))
        self.assertEqual(self.outcomes(self.reap()), {"v": "removed"})

    def test_other_engine(self) -> None:
        """On another engine than the ledger's nothing is looked at."""
        self.add("volume", "v")
        self.record("volume", "w")
        self.engine.name = "OTHER"
        report = self.reap()
        self.assertIn("the engine that answers is OTHER", report.problem)
        self.assertFalse(report.complete)
        self.assertEqual(self.engine.named("volume"), {"v"})

    def test_name_changes_hands(self) -> None:
        """A volume or plugin that is another one by the time of its removal is not touched."""
        self.record("volume", self.engine.add("volume", "v"))
        self.record("plugin", self.engine.add("plugin", "p:1"))
        first = dict(self.engine.things["volume"]["v"])
        self.engine.answers["GET /volumes/v"] = [None, (200, {**first, "Labels": {"a": "b"}}), None]
        self.record("volume", self.engine.add("volume", "w"))
        later = {**self.engine.things["volume"]["w"], "CreatedAt": "1970-04-26T17:46:41Z"}
        self.engine.answers["GET /volumes/w"] = [None, (200, later), None]
        plugin = dict(self.engine.things["plugin"]["p:1"])
        self.engine.answers["GET /plugins/p:1/json"] = [None, (200, {**plugin, "Id": "other"})]
        self.engine.answers["GET /plugins/p:1/json"] += [(404, None)]
        self.reap()
        self.assertEqual(self.removals(), [])
        self.assertEqual(self.existing(), set())

    def test_own_container(self) -> None:
        """The container that the tracker runs in stays."""
        own = self.add("container", "tracker")
        (self.proc / "self").mkdir(parents=True)
        mount = f"1 2 0:1 /var/lib/docker/containers/{own}/hostname /etc/hostname rw"
        (self.proc / "self/mountinfo").write_text(mount)
        report = self.reap()
        self.assertEqual(self.outcomes(report), {"tracker": "kept"})
        self.assertEqual(self.engine.named("container"), {"tracker"})


class ContainerTests(ReapCase):
    def calls(self) -> list[str]:
        return [call.replace("/containers/", "") for call in self.engine.asked if not call.startswith("GET")]

    def test_ends_in_time(self) -> None:
        """It gets its own signal and its own time, then it is removed by force with its anonymous volumes."""
        config = {"StopSignal": "SIGUSR1", "StopTimeout": 30}
        container = self.add("container", "web", Config=config, EndsAfter=20.0)
        self.engine.mount(container, self.engine.add("volume", ANONYMOUS))
        report = self.reap()
        self.assertEqual(self.calls(), [f"POST {container}/kill?signal=SIGUSR1", f"DELETE {container}?force=1&v=1"])
        self.assertTrue(20 <= report.seconds <= 21, report.seconds)
        self.assertEqual(self.engine.named("volume"), set())

    def test_does_not_heed(self) -> None:
        """One that goes on gets so much time and no more: its own, else the setting's, and a share of all."""
        cases: tuple[tuple[int | None, dict[str, Any], float], ...] = (
            (3, {}, 3.0),
            (None, {"stop_seconds": 7.0}, 7.0),
            (3600, {"seconds": 60.0}, 30.0),
            (-1, {"seconds": 60.0}, 30.0),
            (0, {}, 0.0),
            (None, {"stop_seconds": 0.0}, 0.0),
        )
        for timeout, settings, wanted in cases:
            self.engine.asked.clear()
            self.add("container", "web", Config={"StopTimeout": timeout})
            report = self.reap(**settings)
            self.assertEqual((self.outcomes(report), round(report.seconds, 6)), ({"web": "removed"}, wanted))
            self.assertEqual(len(self.calls()), 2 if wanted else 1)

    def test_reaper_of_testcontainers(self) -> None:
        """Ryuk gets no time: asked to end, it would try for long to remove what is being removed."""
        self.add("container", "ryuk", Config={"Labels": {"org.testcontainers.ryuk": "true"}})
        self.add("container", "other", Config={"Labels": {"org.testcontainers": "true"}}, EndsAfter=2.0)
        report = self.reap()
        self.assertEqual(self.outcomes(report), {"ryuk": "removed", "other": "removed"})
        self.assertTrue(2 <= report.seconds < 4, report.seconds)

    def test_at_once(self) -> None:
        """Containers end side by side, not one after the other."""
        for number in range(40):
            self.add("container", f"c{number}", EndsAfter=4.9)
        report = self.reap()
        self.assertEqual(len(report.items), 40)
        self.assertLess(report.seconds, 7)

    def test_comes_back(self) -> None:
        """A restart policy is taken away first."""
        for policy, wanted in (("always", True), ("no", False), ("", False)):
            self.engine.asked.clear()
            host = {"RestartPolicy": {"Name": policy}}
            container = self.add("container", "web", HostConfig=host, EndsAfter=0.0)
            self.reap()
            self.assertEqual(self.calls()[0] == f"POST {container}/update", wanted, policy)

    def test_removes_itself(self) -> None:
        """One that the engine removes when it has ended is gone, whoever was faster."""
        self.add("container", "quick", HostConfig={"AutoRemove": True}, EndsAfter=0.01)
        slow = self.add("container", "slow", EndsAfter=0.01)
        busy = (409, {"message": f"removal of container {slow} is already in progress"})
        self.engine.answers[f"DELETE /containers/{slow}"] = [busy] * 9
        self.clock.callLater(8.0, self.engine.things["container"].pop, slow)
        report = self.reap()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.outcomes(report), {"quick": "removed", "slow": "removed"})

    def test_states(self) -> None:
        """What has no process to end, or none that can be told, is removed at once."""
        for status, state in (
            ("created", {}),
            ("exited", {}),
            ("dead", {"Dead": True}),
            ("restarting", {"Running": True, "Restarting": True}),
        ):
            self.add("container", status, State={"Running": False, "Status": status, **state})
        labels = self.labels(**{SERVICE_LABEL: ""})  # anybody may set it
        self.engine.add("container", "of-no-service", labels, State={"Running": False})
        report = self.reap()
        self.assertEqual((report.seconds, set(self.outcomes(report).values())), (0.0, {"removed"}))

    def test_not_running_any_more(self) -> None:
        """One that ends before its signal comes is removed all the same."""
        container = self.add("container", "web")
        self.engine.answers[f"POST /containers/{container}/kill"] = [(409, {"message": "is not running"})]
        report = self.reap()
        self.assertEqual((report.seconds, self.outcomes(report)), (0.0, {"web": "removed"}))

    def test_volumes_of_others(self) -> None:
        """An anonymous volume that it shares with one that was there before is not taken along; one of its own is."""
        for host, left in (({"VolumesFrom": ["donor"]}, {ANONYMOUS}), ({"VolumesFrom": None}, set())):
            container = self.add("container", "web", HostConfig=host, EndsAfter=0.0)
            self.engine.mount(
                container, self.record("volume", self.engine.add("volume", ANONYMOUS), relation=Relation.USED)
            )
            self.reap()
            self.assertEqual(self.engine.named("volume"), left)

    def test_tasks(self) -> None:
        """A task of a service is its swarm's to remove; one that the swarm forgets is removed after a minute."""
        self.engine.swarm = "active"
        service = self.add("service", "web")
        labels = self.labels(**{SERVICE_LABEL: service})
        for name in ("task", "forgotten"):
            self.engine.add("container", name, labels, EndsAfter=0.0)
        task = next(key for key, each in self.engine.things["container"].items() if each["Name"] == "/task")
        self.clock.callLater(5, self.engine.things["container"].pop, task)
        report = self.reap()
        self.assertTrue(report.complete, report)
        self.assertEqual(set(self.outcomes(report).values()), {"removed"})
        self.assertEqual(self.removals(), ["services", "containers"])
        self.assertGreater(report.seconds, 60)

    def test_forgotten_task_in_a_short_reap(self) -> None:
        """A reap that may take no more than that minute still has time for what the swarm forgets."""
        self.engine.swarm = "active"
        self.engine.add("container", "forgotten", self.labels(**{SERVICE_LABEL: "gone"}), EndsAfter=0.0)
        self.assertTrue(self.reap(seconds=60.0).complete)
        self.assertEqual(self.removals(), ["containers"])

    def test_task_on_a_worker(self) -> None:
        """On a node that manages nothing it is said where it can be removed."""
        self.engine.swarm = "worker"
        self.engine.add("container", "task", self.labels(**{SERVICE_LABEL: "s1"}))
        report = self.reap()
        self.assertIn("only a manager of the swarm", report.left[0].reason)

    def test_task_without_a_word_of_the_swarm(self) -> None:
        """While the swarm does not say what it knows of the service, a task is left to it, however long that takes."""
        self.engine.swarm = "active"
        self.engine.add("container", "task", self.labels(**{SERVICE_LABEL: "s1"}))
        self.engine.answers["GET /services/s1"] = [(500, {"message": "no leader"})] * 999
        self.assertIn("the swarm has yet to remove", self.reap(seconds=200.0).left[0].reason)
        self.assertEqual(self.engine.named("container"), {"task"})

    def test_task_of_a_service_that_stays(self) -> None:
        """It waits until the time for all is over."""
        self.engine.swarm = "active"
        service = self.engine.add("service", "strangers")
        self.engine.add("container", "task", self.labels(**{SERVICE_LABEL: service}))
        report = self.reap(seconds=100.0)
        self.assertIn("it took more than 100 s", report.problem)
        self.assertIn("task of the service", report.left[0].reason)
        self.assertEqual(self.engine.named("container"), {"task"})


class ImageTests(ReapCase):
    def test_ancestors(self) -> None:
        """The steps of a build that the job made go one by one; nothing is pruned along with them."""
        step = self.record("image", self.engine.add("image"))
        theirs = self.engine.add("image")
        self.record("image", self.engine.add("image", "", Parent=step), name="")
        self.reap()
        self.assertEqual({*self.engine.things["image"]}, {theirs})
        self.assertTrue(all("noprune=1" in call for call in self.engine.asked if call.startswith("DELETE")))

    def test_moved_tag(self) -> None:
        """A tag that means another image now is not the job's any more."""
        self.engine.add("image", "app:1")
        self.record("image", "app:1", parent="sha256:" + "0" * 64)
        self.assertEqual(self.reap().items, ())
        self.assertEqual((self.engine.named("image"), self.existing()), ({"app:1"}, set()))

    def keeps_theirs(self, step: str, image: str, reason: str) -> None:
        """Check that a reap takes the job's own name off an image, keeps the image and its step, and is complete."""
        report = self.reap()
        self.assertTrue(report.complete)
        self.assertEqual(self.outcomes(report), {"mine:1": "removed", image: "kept", step: "kept"})
        reasons = {item.identifier: item.reason for item in report.items}
        self.assertEqual(reasons[image], reason)
        self.assertEqual(self.engine.named("image"), {"theirs:1", step})

    def test_strangers_tag(self) -> None:
        """An image that somebody else gave a name stays, without the job's own names; the job is over."""
        step = self.record("image", self.engine.add("image"), name="")
        image = self.record(
            "image", self.engine.add("image", "", RepoTags=["mine:1", "theirs:1"], Parent=step), name=""
        )
        self.record("image", "mine:1", parent=image)
        self.keeps_theirs(step, image, "others have named it theirs:1")

    def test_older_tag(self) -> None:
        """An image whose name was there before the job stays, with the steps that led to it; the job is over."""
        step = self.record("image", self.engine.add("image"), name="")
        image = self.record("image", self.engine.add("image", "", RepoTags=["theirs:1", "mine:1"], Parent=step))
        self.record("image", "mine:1", parent=image)
        self.record("image", "theirs:1", parent=image, relation=Relation.USED)
        self.keeps_theirs(step, image, "its name was there before the job: theirs:1")

    def test_pushed(self) -> None:
        """An image that the job has pushed goes, tagged or not: the digests that registries gave it are no names."""
        digests = [f"{name}@sha256:{'0' * 64}" for name in ("mine", "registry/mine")]
        for tag in ("mine:1", ""):
            image = self.record("image", self.engine.add("image", tag, RepoDigests=digests), name="")
        self.record("image", "mine:1")
        self.assertEqual(set(self.outcomes(self.reap()).values()), {"removed"})
        self.assertNotIn(image, self.engine.things["image"])

    def test_tag_in_use(self) -> None:
        """While a tag of the job's own cannot go, neither can the image."""
        image = self.record("image", self.engine.add("image", "mine:1"))
        self.record("image", "mine:1", parent=image)
        stranger = self.engine.add("container", "stranger")
        self.engine.things["container"][stranger]["Config"]["Image"] = "mine:1"
        report = self.reap()
        self.assertEqual(
            [item.reason for item in report.left if item.identifier == image], ["it still has the name mine:1"]
        )

    def test_last_name(self) -> None:
        """The last name of an image that the job did not make stays; one beside others goes."""
        pulled = self.engine.add("image", "", RepoTags=["last:1"], RepoDigests=["last@sha256:" + "0" * 64])
        self.record("image", pulled, relation=Relation.USED)
        self.engine.add("image", "", RepoTags=["alpine:latest", "mine:1"])
        for tag in ("last:1", "mine:1"):
            self.record("image", tag)
        report = self.reap()
        self.assertTrue(report.complete)
        self.assertEqual(self.outcomes(report), {"last:1": "kept", "mine:1": "removed"})
        self.assertEqual(self.engine.named("image"), {"last:1", "alpine:latest"})

    def share(self, *names: str) -> tuple[IJob, IJob, str, str]:
        """Have an image that a first job built as ``a:1``, after a step, and a second one has named ``b:1``."""
        self.job = self.make_job("first")
        step = self.record("image", self.engine.add("image"), name="")
        image = self.record("image", self.engine.add("image", "", RepoTags=[*names], Parent=step), name="")
        self.record("image", "a:1", parent=image)
        first, self.job = self.job, self.make_job("second")
        self.record("image", "b:1", parent=image)
        return first, self.job, step, image

    def end(self, job: IJob, **settings: Any) -> dict[str, str]:
        """End a job: nothing that may still go is left."""
        for state in (JobState.REAPING, JobState.GONE):
            self.job = self.successResultOf(self.ledger.set_job(job.id, state))
            if state is JobState.REAPING:
                report = self.reap(**settings)
        self.assertTrue(report.complete, report)
        return {item.identifier: item.reason or item.outcome for item in report.items}

    def test_shared(self) -> None:
        """An image that another job has named goes over to that one, with its steps; with it they go."""
        first, second, step, image = self.share("a:1", "b:1")
        needed = f"the image {image[:19]}, which is kept, needs it"
        self.assertEqual(self.end(first), {"a:1": "removed", image: "job second has named it b:1", step: needed})
        self.assertEqual(self.end(second), {"b:1": "removed", image: "removed", step: "removed"})
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))

    def test_shared_and_ended_before(self) -> None:
        """If the one that has named it ends first, only that name goes."""
        first, second, step, image = self.share("a:1", "b:1")
        self.assertEqual(self.end(second), {"b:1": "removed"})
        self.assertEqual(self.end(first), {"a:1": "removed", image: "removed", step: "removed"})

    def test_shared_last_name(self) -> None:
        """The last name of an image of a job that goes on is that job's then."""
        first, second, *_ = self.share("b:1")
        self.assertEqual(self.end(second), {"b:1": "it is the last name of an image of job first"})
        self.assertEqual(self.engine.named("image") & {"b:1"}, {"b:1"})
        self.end(first)
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))

    def test_shared_with_a_stranger(self) -> None:
        """A name of a stranger's keeps the image in the end, whichever job ends first."""
        for number, name in enumerate(("strangers:1", "strangers:2")):
            *jobs, step, image = self.share("a:1", "b:1", name)
            self.end(jobs[number])
            self.assertEqual(self.end(jobs[1 - number])[image], f"others have named it {name}")
            self.assertLessEqual({name, step}, self.engine.named("image"))
            self.assertFalse({"a:1", "b:1"} & self.engine.named("image"))

    def test_shared_while_both_end(self) -> None:
        """Of two jobs that end at once neither waits for the other for ever."""
        first, second, _, image = self.share("a:1", "b:1")
        for self.job in (second, first):
            self.successResultOf(self.ledger.set_job(self.job.id, JobState.REAPING))
        self.assertIn("others have named it b:1", [item.reason for item in self.reap().left])
        self.end(second)
        self.assertNotIn(image, self.engine.things["image"])
        self.end(first)
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))

    def test_shared_dry(self) -> None:
        """What is only asked changes no hands."""
        self.job, second, _, image = self.share("a:1", "b:1")
        reasons = {item.identifier: item.reason for item in self.reap(dry_run=True).items}
        self.assertEqual(reasons[image], "job second has named it b:1")
        self.assertEqual(self.successResultOf(self.ledger.resources(second.id, "image"))[0].identifier, "b:1")

    def build_on(self) -> tuple[IJob, IJob, str, str]:
        """Have a second job build on a step, and the step before, that a first one's build made; that made more."""
        self.job = self.make_job("first")
        start = self.record("image", self.engine.add("image"), name="")
        step = self.record("image", self.engine.add("image", "", Parent=start), name="")
        self.record("image", self.engine.add("image", "", Parent=step), name="")
        first, self.job = self.job, self.make_job("second")
        self.record("image", self.engine.add("image", "b:1", Parent=step), name="")
        self.record("image", "b:1")
        return first, self.job, start, step

    def test_built_on(self) -> None:
        """A step that another job's build has used goes over to that one, with those before; with it they go."""
        first, second, start, step = self.build_on()
        outcomes = self.end(first)
        self.assertEqual(outcomes.pop(step), "job second has built on it")
        self.assertEqual(outcomes.pop(start), f"the image {step[:19]}, which is kept, needs it")
        self.assertEqual([*outcomes.values()], ["removed"])
        self.assertEqual(len(self.engine.things["image"]), 3)
        self.assertEqual({*self.end(second).values()}, {"removed"})
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))

    def test_built_on_by_a_stranger(self) -> None:
        """What a stranger has built keeps the step that it was built on, and the job is over; without it, that goes."""
        for name, called in (("theirs:1", "theirs:1"), ("", None)):
            self.job = self.make_job("first")
            step = self.record("image", self.engine.add("image"), name="")
            theirs = self.engine.add("image", name, Parent=step)
            self.assertEqual(self.end(self.job), {step: f"others have built on it: {called or theirs[:19]}"})
            self.assertEqual({*self.engine.things["image"]}, {step, theirs})
            del self.engine.things["image"][theirs]
            self.assertEqual(self.outcomes(self.reap()), {step: "removed"})

    def test_built_on_while_both_end(self) -> None:
        """Of two jobs that end at once, the one that has built on the other's step goes first."""
        first, second, start, step = self.build_on()
        for self.job in (second, first):
            self.successResultOf(self.ledger.set_job(self.job.id, JobState.REAPING))
        self.assertEqual({item.identifier for item in self.reap().left}, {start, step})
        self.end(second)
        self.end(first)
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))

    def test_built_on_dry(self) -> None:
        """What is only asked changes no hands."""
        self.job, second, _, step = self.build_on()
        reasons = {item.identifier: item.reason for item in self.reap(dry_run=True).items}
        self.assertEqual(reasons[step], "job second has built on it")
        resources = self.successResultOf(self.ledger.resources(second.id, "image"))
        self.assertNotIn(step, [resource.identifier for resource in resources])

    def use(self, *users: str) -> tuple[IJob, list[IJob], str, str]:
        """Have an image that a first job built as ``a:1`` and ``a:2``, after a step, and others were given."""
        self.job = first = self.make_job("first")
        step = self.record("image", self.engine.add("image"), name="")
        image = self.record("image", self.engine.add("image", "", RepoTags=["a:1", "a:2"], Parent=step), name="")
        for tag in ("a:1", "a:2"):
            self.record("image", tag, parent=image)
        return first, [self.given(name, image) for name in users], step, image

    def given(self, name: str, image: str) -> IJob:
        """Start a job that asks for an image which is there."""
        self.job = self.make_job(name)
        self.record("image", image, relation=Relation.USED)
        return self.job

    def made_by(self, job: IJob) -> set[str]:
        found = self.successResultOf(self.ledger.resources(job.id, "image"))
        return {each.identifier for each in found if each.relation is Relation.MADE}

    def test_used(self) -> None:
        """An image that another job was given is that one's then, with its steps and its names; with it they go."""
        first, (second,), step, image = self.use("second")
        uses, needed = "job second uses it", f"the image {image[:19]}, which is kept, needs it"
        self.assertEqual(self.end(first), {"a:1": uses, "a:2": uses, image: uses, step: needed})
        self.assertEqual((self.made_by(first), self.made_by(second)), (set(), {"a:1", "a:2", image, step}))
        self.assertEqual({*self.end(second).values()}, {"removed"})
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))

    def test_used_by_name(self) -> None:
        """So is one that it was given by a name, of which it knows nothing else."""
        first, _, step, image = self.use()
        second = self.given("second", "a:1")
        self.end(first)
        self.assertEqual(self.made_by(second), {"a:1", "a:2", image, step})

    def test_used_step(self) -> None:
        """Of a build that another job was given a step of, that one is kept, and what was built on it goes."""
        first, _, step, image = self.use()
        second = self.given("second", step)
        gone = dict.fromkeys(("a:1", "a:2", image), "removed")
        self.assertEqual(self.end(first), {**gone, step: "job second uses it"})
        self.assertEqual((self.made_by(second), {*self.engine.things["image"]}), ({step}, {step}))

    def test_used_in_several_ways(self) -> None:
        """One that was given the image itself goes before others that were given a name of it, or gave it one."""
        first, (second,), step, image = self.use("second")
        third = self.given("third", "a:1")
        self.job = fourth = self.make_job("fourth")
        self.engine.things["image"][image]["RepoTags"].append("b:1")
        self.record("image", "b:1", parent=image)
        reasons = self.end(first)
        self.assertEqual({reasons[each] for each in ("a:1", "a:2", image)}, {"job second uses it"})
        made = [self.made_by(job) for job in (second, third, fourth)]
        self.assertEqual(made, [{"a:1", "a:2", image, step}, set(), {"b:1"}])

    def test_used_by_one_that_has_ended(self) -> None:
        """One that is ending, or gone, needs nothing."""
        for number, state in enumerate((JobState.DRAINING, JobState.REAPING, JobState.FAILED, JobState.GONE)):
            first, (second,), *_ = self.use(f"user-{number}")
            self.successResultOf(self.ledger.set_job(second.id, state))
            self.assertEqual({*self.end(first).values()}, {"removed"}, state)

    def test_used_by_several(self) -> None:
        """If the one that it would go over to ends meanwhile, it goes over to the next."""
        first, users, step, image = self.use("second", "third")
        hand_over = self.ledger.hand_over

        def ends_before(resources: Sequence[Resource], job_id: str) -> Deferred[bool]:
            self.successResultOf(self.ledger.set_job(users[0].id, JobState.REAPING))
            return hand_over(resources, job_id)

        self.patch(self.ledger, "hand_over", ends_before)
        self.assertEqual(self.end(first)[image], "job third uses it")
        self.assertEqual([self.made_by(user) for user in users], [set(), {"a:1", "a:2", image, step}])

    def test_used_dry(self) -> None:
        """What is only asked changes no hands."""
        self.job, (second,), _, image = self.use("second")
        reasons = {item.identifier: item.reason for item in self.reap(dry_run=True).items}
        self.assertEqual(reasons[image], "job second uses it")
        self.assertEqual(self.made_by(second), set())

    def name_of(self, state: JobState, settings: dict[str, Any], **request: Any) -> str:
        """End a job that has the last name of an image of one that has ended; return what became of that name."""
        self.job = self.make_job(f"first-{state.value}-{len(self.engine.asked)}", **request)
        image = self.record("image", self.engine.add("image", "b:1"), name="")
        self.successResultOf(self.ledger.set_job(self.job.id, state))
        self.job = self.make_job("second")
        self.record("image", "b:1", parent=image)
        (outcome,) = self.end(self.job, **settings).values()
        self.assertEqual(outcome == "removed", not self.engine.things["image"])
        self.engine.things["image"].clear()
        self.successResultOf(self.ledger.removed("image", [image, "b:1"]))
        return outcome

    def test_last_name_of_the_past(self) -> None:
        """The last name of an image whose job has ended takes it along, unless a rule of its or for all holds it."""
        rule = "image:sha256:*"
        kept = "it is the last name of an image that the job did not make"
        for state in (JobState.REAPING, JobState.FAILED, JobState.GONE):
            self.assertEqual(self.name_of(state, {}), "removed", state)
            self.assertEqual(self.name_of(state, {}, keep=(Keep.of(rule),)), kept, state)
            self.assertEqual(self.name_of(state, {"keep": (rule,)}), kept, state)

    def test_last_name_in_use(self) -> None:
        """It stays, too, if an open job was given the image."""
        self.job = self.make_job("first")
        image = self.record("image", self.engine.add("image", "b:1"), name="")
        self.successResultOf(self.ledger.set_job(self.job.id, JobState.GONE))
        self.given("third", image)
        self.job = self.make_job("second")
        self.record("image", "b:1", parent=image)
        kept = "it is the last name of an image that the job did not make"
        self.assertEqual(self.end(self.job), {"b:1": kept})

    def test_last_name_of_a_failure(self) -> None:
        """While what a job made is kept, as it failed, so is the last name that another one gave its image."""
        kept = "it is the last name of an image that the job did not make"
        self.assertEqual(self.name_of(JobState.FAILED, {}, keep_on_failure=60.0), kept)
        self.assertEqual(self.name_of(JobState.GONE, {}, keep_on_failure=60.0), "removed")

    def test_kept_by_the_setting(self) -> None:
        """Images stay if the operator wants them to."""
        image = self.record("image", self.engine.add("image", "mine:1"))
        self.record("image", "mine:1", parent=image)
        report = self.reap(images=False)
        self.assertEqual(set(self.outcomes(report).values()), {"kept"})


class WorkTests(ReapCase):
    """Images that another job's build or load may just be given."""

    def setUp(self) -> None:
        super().setUp()
        self.image = self.record("image", self.engine.add("image", "mine:1"), name="")
        self.record("image", "mine:1", parent=self.image)
        self.other = self.make_job("other")

    def begin(self, job: IJob) -> ImageWork:
        work = ImageWork(job.id, job.name)
        Deferred.fromCoroutine(self.works.begin(work))  # it may have to wait
        return work

    def removed(self, **options: Any) -> bool:
        """Reap; return whether the image and its name have gone, else both are kept, and nothing is left."""
        report = self.reap(**options)
        self.assertTrue(report.complete, report)
        outcomes = {item.identifier: item.outcome for item in report.items if item.kind == "image"}
        is_gone = not self.engine.things["image"]
        self.assertEqual(outcomes, dict.fromkeys(("mine:1", self.image), "removed" if is_gone else "kept"))
        return is_gone

    def test_goes_on(self) -> None:
        """After a second they are kept for it, and the job is over."""
        self.begin(self.other)
        report = self.reap()
        reasons = {item.identifier: item.reason for item in report.items if item.outcome == "kept"}
        self.assertEqual(
            reasons,
            {
                "mine:1": "job other, which builds or loads, may just be given it",
                self.image: "it still has the name mine:1 (job other builds or loads)",
            },
        )
        self.assertTrue(report.complete)
        self.assertTrue(1 <= report.seconds < 5, report.seconds)

    def test_without_a_name(self) -> None:
        """So is an image that has no name."""
        self.begin(self.other)
        image = self.record("image", self.engine.add("image"), name="")
        self.reap()
        self.assertIn(image, self.engine.things["image"])

    def test_named(self) -> None:
        """So is one that another job which is ending has named, whose end waits for that build, too."""
        job, self.job = self.job, self.other
        self.engine.things["image"][self.image]["RepoTags"].append("theirs:1")
        self.record("image", "theirs:1", parent=self.image)
        self.successResultOf(self.ledger.set_job(self.other.id, JobState.REAPING))
        self.job = job
        self.begin(self.make_job("third"))
        report = self.reap()
        self.assertEqual(self.outcomes(report), {"mine:1": "kept", self.image: "kept"})
        self.assertIn(
            "others have named it theirs:1 (job third builds or loads)", {item.reason for item in report.items}
        )

    def test_begins_meanwhile(self) -> None:
        """One that begins while an image is being removed waits for that."""
        removing: Deferred[None] = Deferred()
        self.engine.answers["DELETE /images/*"] = [removing]
        reaping = Deferred.fromCoroutine(self.reaper().reap(self.job))
        beginning = Deferred.fromCoroutine(self.works.begin(ImageWork(self.other.id, self.other.name)))
        self.assertNoResult(beginning)
        removing.callback(None)
        self.successResultOf(beginning)
        self.successResultOf(reaping)

    def test_ends_in_time(self) -> None:
        """If it ends before, they go."""
        self.clock.callLater(0.5, self.works.end, self.begin(self.other))
        self.assertTrue(self.removed())

    def test_own(self) -> None:
        """What the job has under way itself, as it ends, keeps nothing."""
        self.begin(self.job)
        self.assertEqual(self.reap().seconds, 0.0)
        self.assertEqual(self.engine.things["image"], {})

    def test_one_of_several(self) -> None:
        """One of another job's is enough."""
        self.begin(self.job)
        self.begin(self.make_job("third"))
        self.assertFalse(self.removed())

    def test_ended_since_the_look(self) -> None:
        """If one has ended since somebody looked who needs what, that is looked up anew."""
        work = self.begin(self.other)
        self.add("network", "net")

        def ends(*_: object) -> None:  # after the look, before the images' turn
            job, self.job = self.job, self.other
            self.record("image", self.image, name="", relation=Relation.USED)
            self.job = job
            self.works.end(work)

        self.engine.when_removed = ends
        self.assertFalse(self.removed())
        theirs = self.successResultOf(self.ledger.resources(self.other.id))
        self.assertEqual({each.identifier for each in theirs if each.relation is Relation.MADE}, {"mine:1", self.image})

    def kept_after(self, meanwhile: Callable[[list[str]], object]) -> set[str]:
        """Have something happen when the first of 20 images has gone; return why those are kept that had no turn yet.

        Each call takes the engine a moment, as 8 of them go on at once.
        """
        images = [self.record("image", self.engine.add("image"), name="") for _ in range(20)]
        request = self.engine.request

        async def slow(method: str, path: str, *more: Any) -> tuple[int, Any]:
            await deferLater(self.clock, 0.01)
            return await request(method, path, *more)

        def first_is_gone(_: str, identifier: str) -> None:
            if identifier == images[0]:
                meanwhile(images)

        self.patch(self.engine, "request", slow)
        self.engine.when_removed = first_is_gone
        report = self.reap()
        kept = {item.identifier: item.reason for item in report.items if item.outcome == "kept"}
        self.assertEqual(({*kept}, {*self.engine.things["image"]}), ({*images[8:]}, {*images[8:]}))
        return {*kept.values()}

    def test_begins_before_its_turn(self) -> None:
        """Whether an image may be given to one is looked at when it is the image's turn to go."""
        reasons = self.kept_after(lambda _: self.begin(self.other))
        self.assertEqual(reasons, {"job other, which builds or loads, may just be given it"})

    def test_ends_before_its_turn(self) -> None:
        """So is whether one has ended, which may have been given it."""

        def ends(images: list[str]) -> None:
            job, self.job = self.job, self.other
            for image in images[8:]:
                self.record("image", image, name="", relation=Relation.USED)
            self.job = job
            self.works.end(self.begin(self.other))

        self.assertEqual(self.kept_after(ends), {"job other uses it"})

    def test_held_for_long(self) -> None:
        """So long after its end a job's images are held for nobody any more."""
        self.begin(self.other)
        self.job = self.successResultOf(self.ledger.set_job(self.job.id, JobState.GONE))
        self.clock.advance(50)
        self.assertFalse(self.removed(hold_seconds=51.0))
        self.clock.advance(1)
        self.assertTrue(self.removed(hold_seconds=51.0))

    def test_not_reconciled(self) -> None:
        """If nobody would remove them later, they are left, so that the job's end is tried again."""
        self.begin(self.other)
        reaper = self.reaper()
        reaper.reconciled = False
        report = self.finish(reaper.reap(self.job))
        self.assertEqual({*self.outcomes(report).values()}, {"left"})

    def test_reconciler(self) -> None:
        """What looks again and again waits for nothing: they are kept at once."""
        work = self.begin(self.other)
        self.clock.advance(10)
        again: dict[str, Any] = {"made_before": START + 5}
        self.assertEqual((self.removed(**again), self.clock.seconds()), (False, START + 10))
        self.works.end(work)
        self.assertTrue(self.removed(**again))

    def test_refused(self) -> None:
        """An image that the engine does not remove is kept if that may be for a build, else it is left."""
        refusal = (409, {"message": "image is being used"})
        for begins in (False, True):
            self.engine.answers["DELETE /images/*"] = [refusal] * 99
            if begins:  # others may have been kept for it
                self.clock.callLater(0.5, self.works.end, self.begin(self.other))
            report = self.reap()
            self.assertEqual({*self.outcomes(report).values()}, {"kept" if begins else "left"})
            item = next(each for each in report.items if each.identifier == "mine:1")
            self.assertEqual(item.reason, "the engine answered 409: image is being used")


class PluginTests(ReapCase):
    def test_disabled_first(self) -> None:
        """It is disabled, then removed."""
        self.record("plugin", self.engine.add("plugin", "p:1"))
        self.assertTrue(self.reap().complete)
        changes = [call for call in self.engine.asked if not call.startswith("GET")]
        self.assertEqual(changes, ["POST /plugins/p:1/disable", "DELETE /plugins/p:1"])

    def test_in_use(self) -> None:
        """One that cannot be removed is enabled again; one that was not enabled is not."""
        for enabled in (True, False):
            self.record("plugin", self.engine.add("plugin", "p:1", Enabled=enabled))
            refusal = (409, {"message": "plugin is in use"})
            self.engine.answers["DELETE /plugins/p:1"] = [refusal] * 9
            report = self.reap()
            self.assertIn("in use", report.left[0].reason)
            self.assertEqual(self.engine.things["plugin"]["p:1"]["Enabled"], enabled)


class KeepTests(ReapCase):
    def test_needed(self) -> None:
        """What is kept keeps what it needs, and what that needs."""
        network, volume = self.add("network", "net"), self.add("volume", "data")
        image = self.record("image", self.engine.add("image", "app:1"), name="")
        self.record("image", "app:1", parent=image)
        donor = self.add("container", "donor", Image=image)
        self.engine.mount(donor, volume)
        keeper = self.add("container", "golden", HostConfig={"NetworkMode": f"container:{donor}"})
        self.engine.connect(keeper, network)
        self.add("network", "free")
        report = self.reap(keep=("container:golden",))
        self.assertEqual(
            self.outcomes(report),
            {
                "net": "kept",
                "data": "kept",
                image: "kept",
                "app:1": "kept",
                "donor": "kept",
                "golden": "kept",
                "free": "removed",
            },
        )
        self.assertTrue(report.complete)
        reasons = {item.name: item.reason for item in report.items}
        self.assertEqual(reasons["data"], "the container donor, which is kept, needs it")

    def test_services(self) -> None:
        """A service that is kept keeps its tasks, networks, secrets, configs, volumes."""
        self.engine.swarm = "active"
        network, secret, config = self.add("network", "net"), self.add("secret", "s"), self.add("config", "c")
        self.add("volume", "v")
        self.add("volume", "free")
        container = {
            "Secrets": [{"SecretID": secret}],
            "Configs": [{"ConfigID": config}],
            "Mounts": [{"Source": "v"}],
            "Image": "app:1@sha256:0",
        }
        task = {"Networks": [{"Target": network}], "ContainerSpec": container}
        service = self.add("service", "golden", Spec={"TaskTemplate": task})
        self.engine.add("container", "task", self.labels(**{SERVICE_LABEL: service}))
        report = self.reap(keep=("service:golden",))
        kept = {name for name, outcome in self.outcomes(report).items() if outcome == "kept"}
        self.assertEqual(kept, {"net", "s", "c", "v", "golden", "task"})

    def test_one_tag(self) -> None:
        """A rule keeps no tag of the job's for another one that somebody has given to its image."""
        image = self.record("image", self.engine.add("image", "", RepoTags=["golden:1", "mine:1"]), name="")
        self.record("image", "mine:1", parent=image)
        self.assertEqual(self.outcomes(self.reap(keep=("image:golden:*",))), {image: "kept", "mine:1": "removed"})

    def test_not_to_be_looked_at(self) -> None:
        """A thing that the engine cannot show is kept by the name that it had when it was made."""
        self.engine.swarm = "locked"
        self.record("service", "s" * 25, name="golden")
        self.assertEqual(self.outcomes(self.reap(keep=("service:golden",))), {"golden": "kept"})

    def test_jobs_own_rule_and_label(self) -> None:
        """A job's rules hold beside the configuration's, and a client's label for its time."""
        self.job = self.make_job("other", keep=(Keep("volume", "mine-*"),))
        self.add("volume", "mine-1")
        self.add("volume", "all-1")
        self.engine.add("volume", "wished", self.labels(**{"docker-tracker.retain": "1h"}))
        report = self.reap(keep=("*:all-*",))
        self.assertEqual(self.outcomes(report), {"mine-1": "kept", "all-1": "kept", "wished": "kept"})
        self.clock.advance(3601)
        self.assertEqual(self.outcomes(self.reap(keep=("*:all-*",)))["wished"], "removed")

    def test_wish_of_image(self) -> None:
        """That an image is to be retained keeps no container of it, unless that has a wish of its own."""
        image = self.record("image", self.engine.add("image", "app:1", {"docker-tracker.retain": "1h"}), name="")
        for name, wish in (("inherits", "1h"), ("wishes", "2h")):
            self.engine.add("container", name, self.labels(**{"docker-tracker.retain": wish}), Image=image)
        self.assertEqual(self.outcomes(self.reap()), {image: "kept", "inherits": "removed", "wishes": "kept"})

    def test_image_not_told(self) -> None:
        """If the engine cannot say what the image has, a container's wish counts, and nothing waits for that."""
        image = self.engine.add("image", "app:1")
        labels = self.labels(**{"docker-tracker.retain": "1h"})
        self.record("container", self.engine.add("container", "wishes", labels, Image=image), name="wishes")
        self.add("volume", "data")
        self.engine.answers[f"GET /images/{image}/json"] = [(500, {"message": "no"})] * 99
        self.assertEqual(self.outcomes(self.reap()), {"wishes": "kept", "data": "removed"})

    def test_old_image(self) -> None:
        """An image that says it was made long ago, as a loaded one may, is kept from when it came."""
        wish = {"docker-tracker.retain": "1h"}
        image = self.record("image", self.engine.add("image", "old:1", wish, created=0.0), name="")
        self.record("image", "old:1", parent=image)
        self.assertEqual(self.outcomes(self.reap()), {image: "kept", "old:1": "kept"})
        self.clock.advance(3601)
        self.assertEqual(self.outcomes(self.reap()), {image: "removed", "old:1": "removed"})

    def test_anonymous_volume(self) -> None:
        """A kept anonymous volume outlives its container, which the engine must not take it along with."""
        container = self.add("container", "web", EndsAfter=0.0)
        self.engine.mount(container, self.record("volume", self.engine.add("volume", ANONYMOUS)))
        report = self.reap(keep=("volume:aaaa*",))
        self.assertEqual(self.outcomes(report), {"web": "removed", ANONYMOUS: "kept"})
        self.assertEqual(self.engine.named("volume"), {ANONYMOUS})


class TroubleTests(ReapCase):
    def test_in_use(self) -> None:
        """What others use is tried for a while, then left; one failure does not stop the rest."""
        network, volume = self.add("network", "net"), self.add("volume", "data")
        stranger = self.engine.add("container", "stranger")
        self.engine.connect(stranger, network)
        self.engine.mount(stranger, volume)
        self.engine.things["network"][network]["Containers"] = {stranger: {"Name": "stranger"}}
        self.add("volume", "free")
        report = self.reap()
        self.assertEqual(self.outcomes(report), {"net": "left", "data": "left", "free": "removed"})
        self.assertIn("(used by stranger)", next(item.reason for item in report.left if item.kind == "network"))
        self.assertTrue(5 < report.seconds < 20, report.seconds)
        self.assertFalse(report.complete)
        self.assertIn(("stranger"), self.engine.named("container"))

    def test_in_use_for_a_while(self) -> None:
        """What becomes free goes."""
        volume = self.add("volume", "data")
        stranger = self.engine.add("container", "stranger")
        self.engine.mount(stranger, volume)
        self.clock.callLater(3, self.engine.things["container"].pop, stranger)
        self.assertTrue(self.reap().complete)

    def test_in_use_for_long(self) -> None:
        """As long as something goes now and then, the rest is tried on."""
        for name, seconds in (("first", 5), ("second", 9)):
            stranger = self.engine.add("container", f"stranger-{name}")
            self.engine.mount(stranger, self.add("volume", name))
            self.clock.callLater(seconds, self.engine.things["container"].pop, stranger)
        self.assertEqual(self.outcomes(self.reap()), {"first": "removed", "second": "removed"})

    def test_engine_restarts(self) -> None:
        """An engine that goes away in the middle is waited for, and asked anew who it is."""
        self.add("volume", "data")
        self.engine.answers["DELETE /volumes/data"] = [UNAVAILABLE]
        self.engine.answers["GET /version"] = [None, UNAVAILABLE, UNAVAILABLE]
        report = self.reap()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.outcomes(report), {"data": "removed"})
        self.assertEqual(self.engine.forgotten, 3)

    def test_no_engine(self) -> None:
        """After so long it is given up, and said why."""
        self.engine.answers["GET /version"] = [UNAVAILABLE] * 1000
        report = self.reap(seconds=50.0)
        self.assertEqual((report.problem, report.seconds), (f"it took more than 50 s: {UNAVAILABLE}", 50.0))
        self.assertEqual(self.reap(dry_run=True).problem, str(UNAVAILABLE))

    def test_away_for_long(self) -> None:
        """An engine that is away for hours is asked again at the same pace all the time."""
        self.engine.answers["GET /version"] = [UNAVAILABLE] * 2000
        reaping = self.reaper(seconds=11_000.0).reap(self.job)
        self.assertEqual(self.finish(reaping, most=20_000.0).problem, f"it took more than 11000 s: {UNAVAILABLE}")

    def test_wedged_engine(self) -> None:
        """A call that is never answered ends with the time for all; what was not reached is left."""
        self.add("volume", "data")
        self.add("network", "net")
        self.engine.answers["DELETE /networks/*"] = [Deferred()]
        report = self.reap(seconds=5.0)
        self.assertEqual(report.problem, "it took more than 5 s")
        self.assertEqual({item.reason for item in report.left}, {"its turn did not come"})
        self.assertEqual(len(report.left), 2)

    def test_not_a_manager(self) -> None:
        """What a swarm has, and no manager can be asked for, is left; without any swarm it is gone."""
        for swarm, wanted in (("active", 1), ("locked", 1), ("inactive", 0)):
            self.engine.swarm = swarm
            self.record("service", "s" * 25)
            self.engine.answers["GET /services*"] = [(503, {"message": "not a manager"})] * 99
            self.engine.answers["GET /secrets"] = self.engine.answers["GET /configs"] = [(200, [])] * 99
            self.assertEqual(len(self.reap().left), wanted, swarm)

    def test_list_fails(self) -> None:
        """A list that cannot be had is asked for again."""
        self.engine.answers["GET /networks"] = [(500, {"message": "no"})]
        self.add("network", "net")
        self.assertEqual(self.outcomes(self.reap()), {"net": "removed"})

    def test_ledger_fails(self) -> None:
        """A ledger that cannot be read is tried a few times; one that can't be written stops no removal."""
        self.add("volume", "data")

        def fails(*_: object) -> Deferred[Any]:
            failed: Deferred[Any] = Deferred()
            failed.errback(LedgerError("/l", "disk full"))
            return failed

        patched = self.patch(self.ledger, "lost_of", fails)
        report = self.reap()
        self.assertEqual((report.problem, report.items), ("the ledger /l: disk full", ()))
        patched.restore()
        self.patch(self.ledger, "removed", fails)
        with capturedLogs() as logs:
            report = self.reap()
        self.assertEqual(self.outcomes(report), {"data": "removed"})
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.error, LogLevel.info])

    def test_odd_answer(self) -> None:
        """An inspection that is refused in the middle is an engine that is away for a while."""
        self.record("volume", self.engine.add("volume", "data"))
        self.engine.answers["GET /volumes/data"] = [None, (500, {"message": "no"}), None, None]
        self.assertEqual(self.outcomes(self.reap()), {"data": "removed"})

    def test_a_defect(self) -> None:
        """An error of ours is not passed by."""
        self.add("volume", "data")
        self.engine.answers["DELETE /volumes/data"] = [ZeroDivisionError()]
        self.failureResultOf(Deferred.fromCoroutine(self.reaper().reap(self.job)), ZeroDivisionError)


class LostTests(ReapCase):
    """Creates whose answers nobody saw."""

    def intend(self) -> int:
        intent = Intent(job_id=self.job.id, operation="container_create", kind="container")
        number = self.successResultOf(self.ledger.intend(intent, "ENGINE"))
        self.successResultOf(self.ledger.settle(number, State.LOST))
        return number

    def test_appears(self) -> None:
        """They are looked for first, and waited for a while; what they led to goes."""
        self.intend()
        self.clock.callLater(2.0, lambda: self.add("container", "late", EndsAfter=0.0))
        report = self.reap()
        self.assertEqual(self.outcomes(report), {"late": "removed"})
        self.assertGreater(self.looks, 2)

    def test_never_appears(self) -> None:
        """The wait has an end: what comes later is the reconciler's."""
        self.intend()
        report = self.reap()
        self.assertEqual((report.items, report.complete), ((), True))
        self.assertTrue(5 <= report.seconds < 10, report.seconds)

    def test_look_fails(self) -> None:
        """A look that fails is an engine that fails."""
        self.intend()
        reaper = self.reaper(seconds=3.0)

        async def look() -> None:
            raise EngineError("the engine is odd")

        reaper.look = look
        self.assertIn("the engine is odd", self.finish(reaper.reap(self.job)).problem)
