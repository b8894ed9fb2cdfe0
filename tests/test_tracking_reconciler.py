"""The reconciler: what belongs to no job goes, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs

from docker_tracker.errors import LedgerError, RefusedError
from docker_tracker.interfaces import IJob
from docker_tracker.job import JobState, ReapReport
from docker_tracker.job_settings import ReconcileSettings
from docker_tracker.records import moment
from docker_tracker.tracking.jobs import Jobs
from docker_tracker.tracking.reconciler import Reconciler
from tests.support.model_engine import UNAVAILABLE
from tests.test_tracking_reaper import START, ReapCase

HOUR = 3600.0


class RecordingJobs(Jobs):
    """Jobs that no socket is opened for; what is asked of them is written down.

    :ivar others: Jobs that are open as well.
    """

    def __init__(self, case: ReconcileCase) -> None:
        super().__init__(
            case.clock,  # type: ignore[arg-type]  # no process is watched
            case.ledger,
            case.engine,
            None,  # type: ignore[arg-type]  # no job is started
            case.reaper(),
            Path("/run/jobs"),
            5.0,
            now=case.clock.seconds,
        )
        self.others: dict[str, IJob] = {}
        self.retries = 0
        self.told: list[tuple[str, str, Mapping[str, Any]]] = []

    def open_jobs(self) -> dict[str, IJob]:
        return {**super().open_jobs(), **self.others}

    def retry(self) -> None:
        self.retries += 1

    def tell(self, event: str, job: IJob | None, data: Mapping[str, Any]) -> None:
        self.told.append((event, job.id if job else "", data))


class ReconcileCase(ReapCase):
    """The job is over, unless a test says otherwise; all that is there is an hour old."""

    def setUp(self) -> None:
        super().setUp()
        self.clock.advance(HOUR)
        self.jobs = RecordingJobs(self)
        self.elsewhere: set[str] = set()
        self.looks_elsewhere = 0

    def end(self, state: str = "gone") -> None:
        self.job = self.successResultOf(self.ledger.set_job(self.job.id, JobState(state)))

    def old(self, kind: str, name: str = "", labels: dict[str, str] | None = None, **more: Any) -> str:
        """Have a thing from the time when the job was made."""
        more = {"created": START, "EndsAfter": 0.0, **more}
        return self.engine.add(kind, name, self.labels() if labels is None else labels, **more)

    def unknown(self, job_id: str = "lost", name: str = "web", instance: str = "instance") -> dict[str, str]:
        """Give labels of a job that the ledger does not know."""
        values = {"job-id": job_id, "job": name, "instance": instance}
        return {f"docker-tracker.{key}": value for key, value in values.items() if value}

    def reconciler(self, look_first: bool = False, **settings: Any) -> Reconciler:
        async def look() -> Callable[[str, bool], bool]:
            self.looks_elsewhere += 1
            return lambda job_id, known: job_id in self.elsewhere and not known

        return Reconciler(
            self.engine,
            self.ledger,
            self.reaper(),
            self.clock,
            ReconcileSettings(**settings),
            "instance",
            self.jobs,
            look,
            now=self.clock.seconds,
            look_first=look_first,
        )

    def once(self, dry_run: bool = False, adopt: str = "", **settings: Any) -> ReapReport:
        return self.finish(self.reconciler(**settings).once(dry_run, adopt))

    def all_names(self) -> set[str]:
        return {name for kind in self.engine.things for name in self.engine.named(kind)}


class FindTests(ReconcileCase):
    def test_all_kinds(self) -> None:
        """Whatever carries our label and belongs to no job is removed, and told."""
        self.engine.swarm = "active"
        for kind in ("container", "network", "volume", "service", "secret", "config"):
            self.old(kind, f"the-{kind}")
        self.record("image", self.engine.add("image"))
        self.end()
        self.clock.advance(HOUR)
        report = self.once()
        self.assertEqual((report.problem, report.left, self.all_names()), ("", (), set()))
        self.assertEqual(len(report.items), 7)
        self.assertEqual(self.jobs.told, [("reconciled", "", {"removed": 7})])
        self.assertEqual(self.jobs.retries, 1)

    def test_lost_answer(self) -> None:
        """A container whose create was answered to nobody, after its job was gone, is found by its label."""
        self.end()
        self.old("container", "unheard-of")
        self.assertEqual(self.outcomes(self.once()), {"unheard-of": "removed"})

    def test_still_failed(self) -> None:
        """While something of an unknown job is too young, or left, it has failed, and is listed; then it is gone."""
        volume = self.old("volume", "v", self.unknown(), created=START)
        stranger = self.engine.add("container", "stranger")
        self.engine.mount(stranger, volume)
        reconciler = self.reconciler(creation_grace=HOUR + 100)
        for reasons in ([], ["in use"]):
            self.finish(reconciler.once())
            (job,) = self.jobs.jobs()
            assert job.report is not None
            self.assertEqual((job.id, job.state, len(job.report.left)), ("lost", JobState.FAILED, len(reasons)))
            for reason, item in zip(reasons, job.report.left, strict=True):
                self.assertIn(reason, item.reason)
            self.clock.advance(HOUR)
        del self.engine.things["container"][stranger]
        self.finish(reconciler.once())
        self.assertEqual((self.jobs.jobs(), self.jobs.get("lost").state), ([], JobState.GONE))

    def test_removed_by_others(self) -> None:
        """An unknown job whose things somebody else removes is gone as well."""
        volume = self.old("volume", "v", self.unknown(), created=START)
        self.once(creation_grace=2 * HOUR)
        self.assertEqual(self.jobs.get("lost").state, JobState.FAILED)
        del self.engine.things["volume"][volume]
        self.once(creation_grace=2 * HOUR)
        self.assertEqual(self.jobs.get("lost").state, JobState.GONE)

    def test_unknown_job(self) -> None:
        """A job that only labels tell of is written down, with what it made, and reaped."""
        container = self.old("container", "web", self.unknown(), created=START - 50)
        self.old("volume", "v", self.unknown(), created=START - 40)
        dry = self.once(dry_run=True)
        self.assertEqual(self.outcomes(dry), {"web": "would remove", "v": "would remove"})
        self.assertEqual(len(self.successResultOf(self.ledger.jobs(everything=True))), 2)
        began = self.clock.seconds()
        report = self.once()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.all_names(), set())
        ((resource, job, intent),) = self.successResultOf(self.ledger.find(container))
        assert job is not None
        self.assertEqual((resource.name, job.name, job.state), ("web", "web", JobState.GONE))
        self.assertEqual((job.created, intent), (START - 50, None))
        self.assertEqual(self.jobs.get("lost"), job)
        found, gone, _ = self.jobs.told
        things = {"container": 1, "volume": 1}
        self.assertEqual(found, ("job found", "lost", {"things": things, "removed_from": moment(began)}))
        self.assertEqual((gone[:2], gone[2]["removed"]), (("job gone", "lost"), {"container": 1, "volume": 1}))

    def test_inherited(self) -> None:
        """A container that has an unknown job's labels from its image is anybody's, and stays."""
        image = self.engine.add("image", "app:1", self.unknown())
        self.old("container", "strangers", self.unknown(), created=START - 50, Image=image)
        self.assertEqual(self.once().items, ())
        self.old("volume", "v", self.unknown(), created=START - 40)
        self.assertEqual(self.outcomes(self.once()), {"v": "removed"})
        self.assertEqual(self.all_names(), {"app:1", "strangers"})

    def test_unknown_name(self) -> None:
        """A job whose name no label tells gets one."""
        self.old("volume", "v", self.unknown(name=""), created=START - 40)
        self.assertEqual(self.outcomes(self.once()), {"v": "removed"})

    def test_without_age(self) -> None:
        """What does not say when it was made has its grace from when we found it."""
        volume = self.old("volume", "v", self.unknown())
        del self.engine.things["volume"][volume]["CreatedAt"]
        self.assertEqual(self.once().items, ())
        self.clock.advance(HOUR)
        self.assertEqual(self.outcomes(self.once()), {"v": "removed"})

    def test_gone_from_the_engine(self) -> None:
        """What the ledger has and the engine has not is marked as removed, whoever's it is; not by a dry run."""
        self.record("container", "c" * 64)
        self.record("volume", self.old("volume", "there"))
        self.once(dry_run=True)
        self.assertEqual(len(self.existing()), 2)
        self.once()
        self.assertEqual(self.existing(), {("volume", "there")})

    def test_dry_run(self) -> None:
        """It is said what would go, by the log, too, and nothing does."""
        self.old("volume", "v")
        self.end()
        with capturedLogs() as logs:
            report = self.once(dry_run=True)
        self.assertEqual(self.outcomes(report), {"v": "would remove"})
        self.assertTrue(any(event.get("outcome") == "would remove" for event in logs))
        self.assertEqual((self.all_names(), self.jobs.told, self.jobs.retries), ({"v"}, [], 0))


class LeaveTests(ReconcileCase):
    """Lessons that others have paid for."""

    def test_another_instance(self) -> None:
        """1. Another tracker's things on the same engine are not touched, whatever the names of its jobs."""
        self.old("container", "theirs", self.unknown(instance="other"))
        self.old("container", "odd", {"docker-tracker.instance": "instance"})
        self.assertEqual(self.once().items, ())
        self.assertEqual(self.all_names(), {"theirs", "odd"})

    def test_lists_without_filter(self) -> None:
        """1. So it is with an engine whose lists give more than was asked for, as some do for secrets."""
        theirs = self.old("network", "theirs", self.unknown(instance="other"))
        self.engine.answers["GET /networks"] = [(200, [self.engine.things["network"][theirs]])] * 2
        self.assertEqual(self.once().items, ())
        self.assertEqual(self.all_names(), {"theirs"})

    def test_same_instance(self) -> None:
        """1. A private tracker with our ID has its jobs left alone while it lives; that is looked at once in a pass."""
        self.end()
        self.old("container", "theirs", self.unknown("private"), created=START - 50)
        self.old("container", "ours")
        self.elsewhere |= {"private", self.job.id}
        self.assertEqual(self.outcomes(self.once()), {"ours": "removed"})
        self.assertEqual(self.looks_elsewhere, 1)
        self.elsewhere.clear()
        self.assertEqual(self.outcomes(self.once()), {"theirs": "removed"})

    def test_twin(self) -> None:
        """1. What our ledger should know of, and does not, is a copy's of us: it is said, and adopted on demand."""
        self.old("container", "theirs", self.unknown(), created=START + 100)
        with capturedLogs() as logs:
            report = self.once()
        self.assertEqual(self.outcomes(report), {"theirs": "kept"})
        self.assertIn("another tracker with the same instance ID", report.items[0].reason)
        self.assertTrue(any("another tracker" in str(event.get("reason")) for event in logs))
        self.assertEqual(self.all_names(), {"theirs"})
        self.assertEqual(self.outcomes(self.once(adopt="instance")), {"theirs": "removed"})
        self.assertEqual(self.successResultOf(self.ledger.adopted_instances()), [])

    def test_restart(self) -> None:
        """2. The first pass comes after the longer of period and grace: what was there before a restart is known."""
        for period, grace in ((100.0, 300.0), (500.0, 300.0)):
            self.old("volume", "v")
            self.end("gone")
            reconciler = self.reconciler(period=period, creation_grace=grace)
            reconciler.startService()
            self.clock.advance(max(period, grace) - 1)
            self.assertEqual(self.all_names(), {"v"})
            self.clock.advance(1)
            self.assertEqual(self.all_names(), set())
            self.old("volume", "w")
            self.clock.advance(period)
            self.assertEqual(self.all_names(), set())
            self.successResultOf(reconciler.stopService())
            self.old("volume", "x")
            self.clock.advance(10 * period)
            self.assertEqual(self.all_names(), {"x"})
            del self.engine.things["volume"]["x"]

    def test_jobs_of_before(self) -> None:
        """2. A job that the ledger has as open is left alone even if nobody has taken it up yet."""
        for state in ("open", "draining", "reaping"):
            self.old("volume", "v")
            if state != "open":
                self.end(state)
            self.assertEqual(self.once().items, (), state)

    def test_job_being_made(self) -> None:
        """3. What a job makes while we look is its own: jobs are asked for after things."""
        job_ids: list[str] = []

        def while_listing() -> None:
            job = self.make_job("new")
            job_ids.append(job.id)
            labels = {"docker-tracker.job-id": job.id, "docker-tracker.instance": "instance"}
            self.engine.add("network", "new", labels, created=START)

        listing: Deferred[Any] = Deferred()
        self.engine.answers["GET /containers/json"] = [None, listing]
        working = Deferred.fromCoroutine(self.reconciler().once())
        while_listing()
        listing.callback(None)
        self.assertEqual(self.successResultOf(working).items, ())
        self.assertEqual(self.all_names(), {"new"})

    def test_young(self) -> None:
        """3. A thing has its creation grace, whatever became of its job."""
        self.end()
        self.old("container", "young", created=START + HOUR - 299)
        self.old("container", "old", created=START + HOUR - 301)
        self.assertEqual(self.outcomes(self.once()), {"old": "removed"})
        self.clock.advance(3)
        self.assertEqual(self.outcomes(self.once()), {"young": "removed"})

    def test_itself(self) -> None:
        """4. The container that the tracker runs in stays, though it bears a label of a job that is gone."""
        self.end()
        own = self.old("container", "tracker")
        (self.proc / "self").mkdir(parents=True)
        mount = f"1 2 0:1 /var/lib/docker/containers/{own}/hostname /etc/hostname rw"
        (self.proc / "self/mountinfo").write_text(mount)
        settings: dict[str, Any] = {"mounts": ("/",), "name_pattern": ".*"}
        self.engine.mount(own, "v")
        self.assertEqual(self.outcomes(self.once(**settings)), {"tracker": "kept"})
        self.engine.things["container"][own]["Config"]["Labels"] = {}
        self.assertEqual(self.once(**settings).items, ())

    def test_open_and_default(self) -> None:
        """Whom somebody answers for is left alone; an earlier default had no end, and is told of."""
        self.old("volume", "mine")
        self.end("failed")
        self.jobs.others[self.job.id] = self.job
        default = self.successResultOf(self.ledger.job("default")).id
        self.old("volume", "default", self.unknown(default, "default"))
        self.old("volume", "before", self.unknown("older", "default"))
        report = self.once()
        self.assertEqual(self.outcomes(report), {"before": "kept"})
        self.assertEqual(report.items[0].reason, "the job default has no end: reap older to remove it")
        self.assertEqual(self.all_names(), {"mine", "default", "before"})
        self.assertIn(("volume", "before"), self.existing())
        self.assertEqual(self.outcomes(self.once()), {"before": "kept"})
        self.assertEqual(self.finish(self.jobs.reap("older")).left, ())
        self.assertEqual((self.all_names(), self.once().items), ({"mine", "default"}, ()))


class LostLedgerTests(ReconcileCase):
    """The ledger was lost: it knows nothing of what is there."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("web", "db", "default"):
            self.old("volume", f"{name}-1", self.unknown(f"{name}-id", name), created=START - 50)
            self.old("container", f"{name}-2", self.unknown(f"{name}-id", name), created=START - 50)
        self.everything = self.all_names()

    def starts(self, *waits: float, **settings: Any) -> list[str]:
        """Start, let the time go by, stop; return what was said of jobs that were found."""
        reconciler = self.reconciler(look_first=True, **settings)
        with capturedLogs() as logs:
            reconciler.startService()
            for seconds in waits:
                self.clock.advance(seconds)
            self.successResultOf(reconciler.stopService())
        return [
            f"{event['log_level'].name}: {event['job']} ({event['id']}): {event['things']} {event['fate']}"
            for event in logs
            if "told by labels" in event["log_format"]
        ]

    def test_named_first(self) -> None:
        """Each job is named at once, with what it has and when that goes; nothing goes before the grace."""
        began = self.clock.seconds()
        said = self.starts(0, 299)
        when = f"will be removed from {moment(began + 300)} on"
        things = "1 container, 1 volume"
        self.assertEqual(
            sorted(said),
            [
                f"error: db (db-id): {things} {when}",
                f"error: default (default-id): {things} will stay until this: reap default-id",
                f"error: web (web-id): {things} {when}",
            ],
        )
        self.assertEqual(self.all_names(), self.everything)
        self.assertEqual(
            {(job.name, job.state) for job in self.jobs.jobs()}, {(n, JobState.FAILED) for n in ("web", "db")}
        )
        self.assertEqual(self.jobs.get("default-id").state, JobState.GONE)
        told = {job_id: data["removed_from"] for event, job_id, data in self.jobs.told if event == "job found"}
        after = moment(began + 300)
        self.assertEqual(told, {"web-id": after, "db-id": after, "default-id": None})
        self.assertEqual(self.starts(0, 300, *[1.0] * 20), [])
        self.assertEqual(self.all_names(), {"default-1", "default-2"})

    def test_engine_is_away(self) -> None:
        """They are named once the engine is there; the grace begins then."""
        self.engine.answers["GET /version"] = [UNAVAILABLE, UNAVAILABLE]
        self.assertEqual(len(self.starts(5, 5, 299)), 3)
        self.assertEqual(self.all_names(), self.everything)

    def test_not_removed(self) -> None:
        """Where the reconciler removes nothing by itself, that is what is said."""
        for number, settings in enumerate(({"enabled": False}, {"dry_run": True})):
            self.old("volume", f"{number}", self.unknown(f"{number}-id"), created=START - 50)
            said = self.starts(0, 1000, **settings)
            self.assertIn(f"error: web ({number}-id): 1 volume will stay until this: reap {number}-id", said)
        self.assertLessEqual(self.everything, self.all_names())


class AdoptTests(ReconcileCase):
    def test_adopt(self) -> None:
        """What a lost tracker made becomes ours, for ever; a dry run says what that would be."""
        labels = self.unknown(instance="lost")
        self.old("container", "web", labels, created=START + 100)
        self.assertEqual(self.outcomes(self.once(dry_run=True, adopt="lost")), {"web": "would remove"})
        self.assertEqual(self.once().items, ())
        self.assertEqual(self.outcomes(self.once(adopt="lost")), {"web": "removed"})
        self.old("container", "later", labels)
        self.assertEqual(self.outcomes(self.once()), {"later": "removed"})
        self.assertEqual(self.once(adopt="lost").items, ())

    def test_nothing_there(self) -> None:
        """An instance that has nothing is refused, and not written down: it may be mistyped."""
        self.old("container", "web", self.unknown(instance="lost"), created=START + 100)
        for dry_run in (True, False):
            once = Deferred.fromCoroutine(self.reconciler().once(dry_run, "lsot"))
            self.clock.pump([1.0] * 10)
            error: Any = self.failureResultOf(once, RefusedError).value
            self.assertEqual(error.status, 404)
            self.assertEqual(error.message, "there is nothing of an instance lsot at the engine unix:///engine")
        self.assertEqual(self.successResultOf(self.ledger.adopted_instances()), [])
        self.assertEqual(self.engine.named("container"), {"web"})


class HeuristicTests(ReconcileCase):
    def container(self, name: str, *sources: str, **more: Any) -> str:
        container = self.old("container", name, more.pop("labels", {}), **more)
        mounts = [{"Type": "bind", "Source": source} for source in sources]
        self.engine.things["container"][container]["Mounts"] = mounts
        return container

    def test_before_labels(self) -> None:
        """A running, old container without our labels goes if name and mounts say so, both."""
        uuid = "web-0a1b2c3d"
        self.container(uuid, "/srv/alloc/1")
        self.container("web-1a1b2c3d", "/srv/alloc")
        self.container("web-2a1b2c3d", "/srv/allocated")
        self.container("web-3a1b2c3d")
        self.container("other", "/srv/alloc/1")
        self.container("xweb-4a1b2c3d", "/srv/alloc/1")
        self.container("web-4a1b2c3d-x", "/srv/alloc/1")
        self.container("web-9a1b2c3d", "/srv/alloc/1", created=0.0)
        self.container("web-5a1b2c3d", "/srv/alloc/1", State={"Running": False, "Status": "exited"})
        self.container("web-6a1b2c3d", "/srv/alloc/1", created=START + HOUR - 10)
        self.container("web-7a1b2c3d", "/srv/alloc/1", labels={"docker-tracker.job-id": "other"})
        self.record("container", self.container("web-8a1b2c3d", "/srv/alloc/1"))
        settings: dict[str, Any] = {"mounts": ("/srv/alloc/",), "name_pattern": "web-[0-9a-f]{8}"}
        wanted = {uuid, "web-1a1b2c3d"}
        dry = self.once(dry_run=True, **settings)
        self.assertEqual(self.outcomes(dry), dict.fromkeys(wanted, "would remove"))
        before = self.all_names()
        self.assertEqual(self.outcomes(self.once(**settings)), dict.fromkeys(wanted, "removed"))
        self.assertEqual(before - self.all_names(), wanted)
        self.assertEqual(self.once().items, ())

    def test_gone_meanwhile(self) -> None:
        """One that ends between the list and the look is nobody's work; one that can't be removed is left."""
        gone, busy = self.container("a", "/m"), self.container("b", "/m")
        self.engine.answers[f"GET /containers/{gone}/json"] = [(404, None)]
        self.engine.answers[f"DELETE /containers/{busy}"] = [(500, {"message": "device busy"})]
        report = self.once(mounts=("/m",), name_pattern="a|b")
        self.assertEqual(self.outcomes(report), {"b": "left"})
        self.assertIn("device busy", report.left[0].reason)


class ImageTests(ReconcileCase):
    """Images of jobs that are over, which keep each other."""

    def made_by(self, name: str, parent: str = "") -> str:
        """Have an image of another job; that is over."""
        self.job = self.make_job(name)
        image = self.record("image", self.engine.add("image", "", Parent=parent), name="")
        self.end()
        return image

    def chain(self) -> list[str]:
        """Have images of jobs that are over, each built on the one before; all are old enough to go."""
        images = [""]
        for name in ("first", "second", "third"):
            images.append(self.made_by(name, parent=images[-1]))
        self.clock.advance(HOUR)
        return images[1:]

    def test_chain(self) -> None:
        """Images that jobs have built on one another go in one pass, each reported once, as removed."""
        images = self.chain()
        report = self.once()
        self.assertEqual([(item.identifier, item.outcome) for item in report.items], [(i, "removed") for i in images])
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))
        self.assertEqual(self.jobs.told, [("reconciled", "", {"removed": 3})])

    def test_chain_of_a_stranger(self) -> None:
        """If the last one stays, so do the others, and they are not looked at for ever."""
        images = self.chain()
        self.engine.add("image", "strangers:1", Parent=images[-1])
        self.assertEqual({*self.outcomes(self.once()).values()}, {"kept"})
        self.assertEqual(self.engine.asked.count("GET /version"), 4)

    def test_chain_that_is_in_use(self) -> None:
        """What is found when a job is looked at again is what is reported of it."""
        images = self.chain()
        container = self.engine.add("container", "strangers", Image=images[1])
        report = self.once()
        self.assertEqual(self.outcomes(report), dict(zip(images, ("kept", "left", "removed"), strict=True)))
        self.assertIn("in use", report.left[0].reason)
        del self.engine.things["container"][container]
        self.assertEqual(self.outcomes(self.once()), dict.fromkeys(images[:2], "removed"))

    def test_dry_run(self) -> None:
        """Of what is only asked each job is asked once."""
        images = self.chain()
        outcomes = dict(zip(images, ("kept", "kept", "would remove"), strict=True))
        self.assertEqual(self.outcomes(self.once(dry_run=True)), outcomes)
        self.assertEqual(self.engine.asked.count("GET /version"), 4)

    def test_last_name(self) -> None:
        """An image and its last name, of two jobs that are over, go together, with the image's steps."""
        step = self.made_by("first")
        image = self.record("image", self.engine.add("image", "b:1", Parent=step), name="")
        self.job = self.make_job("second")
        self.record("image", "b:1", parent=image)
        self.end()
        self.clock.advance(HOUR)
        self.assertEqual(self.outcomes(self.once()), {step: "removed", image: "removed", "b:1": "removed"})
        self.assertEqual((self.engine.things["image"], self.existing()), ({}, set()))

    def test_told_once(self) -> None:
        """What became of a job that only labels told of is told once, after all of it was done."""
        told: list[tuple[str, list[str], bool]] = []
        reaped = self.jobs.reaped

        async def tell(job: IJob, report: ReapReport, over: bool) -> None:
            told.append((job.name, [item.outcome for item in report.items], over))
            await reaped(job, report, over)

        self.jobs.reaped = tell  # type: ignore[method-assign]
        image = self.made_by("first")
        self.end("failed")
        self.made_by("second", parent=image)
        self.clock.advance(HOUR)
        self.once()
        self.assertEqual(told, [("first", ["removed"], True)])
        self.assertEqual((self.engine.things["image"], self.jobs.jobs()), ({}, []))


class TroubleTests(ReconcileCase):
    def test_unhealthy(self) -> None:
        """Without the ledger's own engine nothing is done; it is said once, and once when it is over."""
        self.old("volume", "v")
        self.end()
        reconciler = self.reconciler()
        levels = []
        for answer in (UNAVAILABLE, UNAVAILABLE, None, None, UNAVAILABLE):
            self.engine.answers["GET /version"] = [answer]
            with capturedLogs() as logs:
                report = self.finish(reconciler.once(dry_run=True))
            levels.append([event["log_level"].name for event in logs if "compared" in event["log_format"]])
            self.assertEqual(report.problem, str(answer or ""))
        self.assertEqual(levels, [["warn"], [], ["info"], [], ["warn"]])
        self.assertGreaterEqual(self.engine.forgotten, 3)
        self.engine.answers.clear()
        self.successResultOf(self.ledger.check_engine("ENGINE"))
        self.engine.name = "OTHER"
        self.assertIn("the engine that answers is OTHER", self.once().problem)
        self.assertEqual(self.all_names(), {"v"})

    def test_wedged(self) -> None:
        """A call that nobody answers ends after thirty seconds, or a period if that is longer."""
        for period, seconds in ((10.0, 30.0), (60.0, 60.0)):
            self.engine.answers["GET /version"] = [Deferred()]
            report = self.once(period=period)
            self.assertIn(f"did not answer within {seconds:g} s", report.problem)
            self.assertEqual(report.seconds, seconds)

    def test_reap_fails(self) -> None:
        """A job that cannot be reaped does not stop the others, and is told."""
        self.old("volume", "v")
        self.end()
        self.old("network", "n", self.unknown(), created=START - 50)
        self.engine.answers["DELETE /volumes/v"] = [UNAVAILABLE] * 99
        report = self.once()
        self.assertEqual(self.outcomes(report), {"v": "left", "n": "removed"})
        self.assertIn("job web: it took more than 300 s", report.problem)

    def test_one_at_a_time(self) -> None:
        """A pass that is asked for while one is under way waits for it."""
        blocked: Deferred[Any] = Deferred()
        self.engine.answers["GET /version"] = [blocked]
        reconciler = self.reconciler()
        first = Deferred.fromCoroutine(reconciler.once())
        second = Deferred.fromCoroutine(reconciler.once())
        self.assertEqual(self.engine.asked, ["GET /version"])
        blocked.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)

    def test_not_enabled(self) -> None:
        """If it is not wanted, nothing happens by itself."""
        reconciler = self.reconciler(enabled=False)
        reconciler.startService()
        self.clock.advance(10_000)
        self.assertEqual(self.engine.asked, [])
        self.successResultOf(reconciler.stopService())

    def test_stopped_in_the_middle(self) -> None:
        """A stop ends the pass that is under way."""
        self.engine.answers["GET /version"] = [Deferred()]
        reconciler = self.reconciler()
        reconciler.startService()
        self.clock.advance(300)
        self.assertEqual(self.engine.asked, ["GET /version"])
        self.successResultOf(reconciler.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_defect(self) -> None:
        """An error of ours ends the service, and is logged with its traceback."""
        self.patch(self.ledger, "resources", lambda *_: fail(ZeroDivisionError()))
        reconciler = self.reconciler()
        reconciler.startService()
        self.clock.advance(300)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.successResultOf(reconciler.stopService())

    def test_ledger_fails(self) -> None:
        """A ledger that cannot be read is a reason, too."""
        self.patch(self.ledger, "resources", lambda *_: fail(LedgerError("/l", "disk full")))
        self.assertEqual(self.once().problem, "the ledger /l: disk full")
