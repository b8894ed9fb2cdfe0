"""`docker_tracker.tracking.jobs`: with the real ledger, a clock, and doors and a reaper that only write down."""

from __future__ import annotations

import contextlib  # trial takes a module's "suppress" for its own
import os
import queue
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.errors import ConfigurationError, EngineUnavailableError, LedgerError, RefusedError
from docker_tracker.interfaces import IJob, IJobs
from docker_tracker.job import DEFAULT, Ends, JobRequest, JobState, Process, ReapItem, ReapReport
from docker_tracker.records import Intent, Relation, Resource, State
from docker_tracker.tracking import jobs
from docker_tracker.tracking.database import CallFromThread
from docker_tracker.tracking.jobs import Jobs
from docker_tracker.tracking.ledger import Ledger
from tests.support.hand_reactor import HandReactor
from tests.support.tracking import MemoryEngine

NOW = 1_000_000.0
ID = "c" * 64
FULL = LedgerError("ledger", "the disk is full")


@attrs.define
class FakeDoor:
    anew: list[str]
    clients: int = 0
    done: list[str] = attrs.field(factory=list)
    stopping: Deferred[None] | None = None

    def connected(self) -> bool:
        return self.clients > 0

    busy = connected

    def close(self, forget: bool = True) -> None:
        self.done.append("close")

    def clear(self) -> None:
        self.done.append("clear")
        self.clients = 0

    async def stop(self) -> None:
        self.done.append("stop")
        if self.stopping is not None:
            with contextlib.suppress(CancelledError):  # the interceptors' errors are logged, whichever they are
                await self.stopping


@attrs.define
class FakeDoors:
    doors: dict[str, FakeDoor] = attrs.field(factory=dict)
    error: Exception | None = None
    only: str = ""
    once: bool = False

    def open(self, job: IJob) -> FakeDoor:
        if self.error is not None and job.name == (self.only or job.name):
            error, self.error = self.error, None if self.once else self.error
            raise error
        if job.socket and any(door.anew == [job.socket] and not door.done for door in self.doors.values()):
            raise ConfigurationError("listen", "taken")
        self.doors[job.id] = FakeDoor([job.socket])
        return self.doors[job.id]


@attrs.define
class FakeReaper:
    reaped: list[str] = attrs.field(factory=list)
    left: tuple[ReapItem, ...] = ()
    held: Deferred[None] | None = None

    async def reap(self, job: IJob, *, dry_run: bool = False) -> ReapReport:
        self.reaped.append(job.name)
        if self.held is not None:
            await self.held
        return ReapReport(job_id=job.id, job=job.name, dry_run=dry_run, items=self.left)


@attrs.define
class FakeCgroups:
    made: list[str] = attrs.field(factory=list)
    waiting: list[Deferred[None]] = attrs.field(factory=list)

    async def make(self, job: IJob) -> None:
        self.waiting.append(Deferred())
        await self.waiting[-1]
        self.made.append(job.name)

    async def remove(self, job: IJob) -> None:
        self.made.remove(job.name)


@attrs.define
class FakeReconciler:
    passes: list[tuple[bool, str]] = attrs.field(factory=list)

    async def once(self, dry_run: bool = False, adopt: str = "") -> ReapReport:
        self.passes.append((dry_run, adopt))
        return ReapReport(job_id="", job="")


class FullLedger(Ledger):
    """A ledger whose disk can be full."""

    full = False

    def set_job(self, *arguments: Any, **more: Any) -> Deferred[IJob]:
        return fail(FULL) if self.full else super().set_job(*arguments, **more)

    def forget_job(self, job_id: str) -> Deferred[None]:
        return fail(FULL) if self.full else super().forget_job(job_id)


class PausingEngine(MemoryEngine):
    """An engine whose containers can be paused."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.answer: tuple[int, Any] = (204, None)
        self.requests: list[tuple[str, str]] = []

    async def request(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        if self.error is not None:
            raise self.error
        self.requests.append((method, path))
        return self.answer


class JobsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.now = NOW
        self.reactor = HandReactor()
        self.engine = PausingEngine()
        self.reaper = FakeReaper()
        self.start_again()

    def start_again(self, doors: FakeDoors | None = None, call_from_thread: CallFromThread | None = None) -> None:
        """A tracker starts on what an earlier one left."""
        self.ledger = FullLedger(self.path, call_from_thread, now=lambda: self.now)
        self.ledger.open("instance")
        self.doors = doors or FakeDoors()
        self.jobs = Jobs(
            self.reactor,  # type: ignore[arg-type]  # what is used of a reactor
            self.ledger,
            self.engine,
            self.doors,
            self.reaper,
            Path("/run/jobs"),
            drain_seconds=5.0,
            now=lambda: self.now,
        )
        self.jobs.restore(self.ledger.found)

    def stop(self) -> None:
        self.result(self.jobs.stop())
        self.successResultOf(self.ledger.close())

    def result(self, awaitable: Awaitable[Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(awaitable))  # type: ignore[arg-type]

    def refused(self, awaitable: Awaitable[Any]) -> RefusedError:
        error = self.failureResultOf(Deferred.fromCoroutine(awaitable)).value  # type: ignore[arg-type]
        assert isinstance(error, RefusedError), error
        return error

    def make(self, name: str = "build", **more: Any) -> IJob:
        job: IJob = self.result(self.jobs.start(JobRequest(name=name, **more), 1000, 7))
        return job

    def made(self, job: IJob) -> None:
        """A job has made a container, and uses a volume."""
        intent = Intent(job_id=job.id, operation="container_create", kind="container", exchange=3)
        number = self.successResultOf(self.ledger.intend(intent, "engine"))
        made = Resource(kind="container", identifier=ID, name="db", attributes={"pid": "42"})
        used = Resource(kind="volume", identifier="v", relation=Relation.USED)
        self.successResultOf(self.ledger.record(number, [made, used], State.DONE))

    def advance(self, seconds: float) -> None:
        for _ in range(100):
            self.now += seconds / 100
            self.reactor.advance(seconds / 100)

    def events(self) -> list[str]:
        return [event["event"] for event in self.successResultOf(self.jobs.events(0))]

    def test_interface(self) -> None:
        """All that the control API needs is there."""
        self.assertTrue(verifyObject(IJobs, self.jobs))

    def test_life(self) -> None:
        """A job is made, ended, drained, reaped, and gone; whoever waits for that is told."""
        job = self.make(labels={"team": "x"})
        self.assertEqual((job.name, job.owner, job.socket), ("build", 1000, "/run/jobs/build.sock"))
        self.assertEqual(job.request.user, "1000")
        self.assertEqual(self.jobs.get("build"), job)
        self.assertEqual(self.jobs.get(job.id), job)
        self.assertEqual([each.name for each in self.jobs.jobs()], [DEFAULT, "build"])
        door = self.doors.doors[job.id]
        door.clients = 1
        over = Deferred.fromCoroutine(self.jobs.over("build"))
        ended = self.result(self.jobs.end("build", "enough"))
        self.assertEqual((ended.state, ended.reason, ended.ended), (JobState.DRAINING, "enough", NOW))
        self.assertEqual(door.done, ["close"])
        self.advance(1)
        self.assertNoResult(over)
        door.clients = 0
        self.advance(1)
        self.assertEqual(door.done, ["close", "clear", "stop"])
        gone = self.successResultOf(over)
        self.assertEqual((gone.state, gone.report), (JobState.GONE, ReapReport(job_id=job.id, job="build")))
        self.assertEqual(self.reaper.reaped, ["build"])
        self.assertEqual(self.events(), ["job started", "job ended", "job gone"])
        self.assertEqual(self.jobs.get("build"), gone)
        self.assertEqual(self.result(self.jobs.end("build", "again")), gone)
        self.assertEqual(self.result(self.jobs.over("build")), gone)

    def test_clients_that_stay(self) -> None:
        """Those who do not leave are sent away."""
        job = self.make()
        self.doors.doors[job.id].clients = 1
        self.result(self.jobs.end("build", "enough"))
        self.advance(4)
        self.assertEqual(self.doors.doors[job.id].done, ["close"])
        self.advance(2)
        self.assertEqual(self.doors.doors[job.id].done, ["close", "clear", "stop"])

    def test_name_comes_back(self) -> None:
        """A name is free once its job accepts nobody any more, whatever is left of that job; then it means the new."""
        first = self.make()
        self.assertEqual(self.refused(self.jobs.start(JobRequest(name="build"), None, None)).status, 409)
        self.reaper.held = Deferred()
        self.result(self.jobs.end("build", "enough"))
        second = self.make()
        self.assertNotEqual(second.id, first.id)
        self.assertEqual(self.jobs.get("build").id, second.id)
        self.assertEqual(self.jobs.get(first.id).state, JobState.REAPING)
        self.reaper.held.callback(None)
        self.assertEqual(self.jobs.get(first.id).state, JobState.GONE)

    def with_thread(self) -> Callable[..., list[Any]]:
        """Start again with a ledger that takes its time; return what does things side by side, and gives results."""
        calls: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.stop()
        self.start_again(call_from_thread=lambda *call: calls.put(call))

        def finish(*works: Deferred[Any]) -> None:
            while not all(work.called for work in works):
                function, *arguments = calls.get(timeout=60)
                function(*arguments)

        def do(*works: Awaitable[Any]) -> list[Any]:
            results: list[Any] = []
            begun = [Deferred.fromCoroutine(work).addBoth(results.append) for work in works]  # type: ignore[arg-type]
            finish(*begun)
            return results

        self.addCleanup(lambda: finish(self.ledger.close()))
        self.addCleanup(lambda: self.result(self.jobs.stop()))
        return do

    def test_name_at_once(self) -> None:
        """Who asks for a name when its job is about to end has it as soon as that is written down, and the socket."""
        first = self.make()
        ended, second = self.with_thread()(
            self.jobs.end("build", "enough"), self.jobs.start(JobRequest(name="build"), 1000, 7)
        )
        self.assertEqual((ended.id, self.doors.doors[first.id].done[0]), (first.id, "close"))
        self.assertEqual(self.jobs.get("build").id, second.id)

    def test_name_of_a_job_that_is_not_made(self) -> None:
        """Who asks for a name when another one's job of that name is about to be refused gets it."""
        do = self.with_thread()
        self.doors.error, self.doors.once = RefusedError("no such thing"), True
        refused, job = do(*(self.jobs.start(JobRequest(name="build"), 1000, 7) for _ in range(2)))
        self.assertEqual(str(refused.value), "no such thing")
        self.assertEqual(self.jobs.get("build"), job)

    def test_name_after_a_restart(self) -> None:
        """A name means the open job, also if by a clock that was set back it is older than one that has ended."""
        self.reaper.left = (ReapItem(kind="volume", identifier="v", outcome="left"),)
        first = self.make()
        self.result(self.jobs.end("build", "enough"))
        self.now -= 3600
        second = self.make()
        self.stop()
        self.start_again()
        self.assertEqual([job.id for job in self.jobs.jobs() if job.name != DEFAULT], [second.id, first.id])
        self.assertEqual(self.jobs.get("build").id, second.id)

    def test_refused(self) -> None:
        """What cannot be a job is refused with a sentence, and nothing of it is left."""
        for request, status, sentence in (
            (JobRequest(name=".."), 400, "is not a job's name"),
            (JobRequest(name="default"), 409, "there is a job 'default'"),
            (JobRequest(name="a", user="nobody-of-that-name"), 400, "there is no user"),
            (JobRequest(name="a", group="nobody-of-that-name"), 400, "there is no group"),
            (JobRequest(name="a", container="x"), 400, "there is no container 'x' for the job to be tied to"),
            (JobRequest(name="a", ends=Ends(container="x")), 400, "there is no container 'x'"),
        ):
            error = self.refused(self.jobs.start(request, None, None))
            self.assertEqual(error.status, status, request)
            self.assertIn(sentence, str(error))
        self.jobs._directory = Path("/" + "x" * 100)
        self.assertIn("longer than 107 bytes", str(self.refused(self.jobs.start(JobRequest(name="ab"), None, None))))
        self.assertEqual([each.name for each in self.jobs.jobs()], [DEFAULT])
        self.assertEqual(self.refused(self.jobs.end(DEFAULT, "x")).status, 409)
        self.assertEqual(self.assertRaises(RefusedError, self.jobs.get, "nobody").status, 404)

    def test_cgroup_parent(self) -> None:
        """Where the engine takes slices, a path is refused before anything is made, unless the engine is away."""
        self.make("before", cgroup_parent="/ci")
        self.engine.answers["/info"] = {"CgroupDriver": "systemd"}
        for parent in ("ci.slice", "self", "caller"):
            self.make(parent, cgroup_parent=parent)
        work = self.jobs.start(JobRequest(name="path", cgroup_parent="/ci"), 1000, 7)
        error = self.failureResultOf(Deferred.fromCoroutine(work), RefusedError).value
        self.assertIn("the engine uses systemd, write NAME.slice", error.message)
        self.assertEqual(error.status, 400)
        self.assertRaises(RefusedError, self.jobs.get, "path")
        self.engine.answers["/info"] = EngineUnavailableError("no engine", 503)
        self.make("away", cgroup_parent="/ci")

    def test_door_that_does_not_open(self) -> None:
        """A job whose socket cannot be had does not stay; what was asked for wrongly is told apart from bad luck."""
        for error, status in ((ConfigurationError("listen", "taken"), 409), (RefusedError("no such thing"), 400)):
            self.doors.error = error
            refused = self.refused(self.jobs.start(JobRequest(name="build"), None, None))
            self.assertEqual(refused.status, status)
            self.assertRaises(RefusedError, self.jobs.get, "build")
        self.assertEqual(len(self.successResultOf(self.ledger.jobs(everything=True))), 1)
        self.doors.error = None
        self.make()

    def own(self, name: str) -> tuple[Deferred[IJob], FakeCgroups]:
        """Start a job with a cgroup of its own, which takes its time."""
        cgroups = self.jobs.cgroups = FakeCgroups()
        request = JobRequest(name=name, own_cgroup=True)
        return Deferred.fromCoroutine(self.jobs.start(request, 1000, 7)), cgroups

    def test_cgroup(self) -> None:
        """While a job's cgroup is made, others are made and ended; then the job is there, until its cgroup goes."""
        other = self.make("other")
        starting, cgroups = self.own("own")
        self.make("third")
        self.result(self.jobs.end("other", "over"))
        self.assertEqual(self.jobs.get(other.id).state, JobState.GONE)
        self.assertNoResult(starting)
        cgroups.waiting[0].callback(None)
        self.assertEqual((self.successResultOf(starting).name, cgroups.made), ("own", ["own"]))
        self.result(self.jobs.end("own", "over"))
        self.assertEqual(cgroups.made, [])

    def test_no_cgroup(self) -> None:
        """A job whose cgroup cannot be made, or not in time, or not before the tracker stops, is not made."""
        for status, happens in (
            (500, lambda cgroups: cgroups.waiting[0].errback(RefusedError("no cgroups", 500))),
            (504, lambda _: self.advance(61)),
            (503, lambda cgroups: (self.result(self.jobs.stop()), cgroups.waiting[0].callback(None))),
        ):
            starting, cgroups = self.own("own")
            happens(cgroups)
            error = self.failureResultOf(starting, RefusedError).value
            self.assertEqual(error.status, status)
            self.assertEqual([each.name for each in self.jobs.jobs()], [DEFAULT])
            self.assertEqual(self.jobs.get("own").state, JobState.GONE)
            self.assertTrue(all(door.done == ["close", "stop"] for door in self.doors.doors.values() if door.done))

    def test_fault_at_the_door(self) -> None:
        """A fault of ours leaves no half of a job, and keeps no tracker from its start."""
        self.doors.error = OverflowError("uid is greater than maximum")
        self.failureResultOf(
            Deferred.fromCoroutine(self.jobs.start(JobRequest(name="build"), None, None)), OverflowError
        )
        self.assertRaises(RefusedError, self.jobs.get, "build")
        self.doors.error = None
        self.make()
        self.make("other")
        self.stop()
        self.start_again(FakeDoors(error=OverflowError("uid is greater than maximum"), only="build"))
        self.assertEqual(len(self.flushLoggedErrors(OverflowError)), 1)
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)
        self.assertEqual(self.jobs.get("other").state, JobState.OPEN)

    def test_door_and_disk(self) -> None:
        """A job that could not be made, and of which that could not be written down, ends once it can be."""
        self.doors.error = ConfigurationError("listen", "taken")
        self.ledger.full = True
        self.refused(self.jobs.start(JobRequest(name="build"), None, None))
        self.jobs.retry()
        self.assertEqual(self.jobs.get("build").state, JobState.OPEN)
        self.ledger.full = False
        self.advance(6)
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)

    def test_ends(self) -> None:
        """A job ends of itself with what its request names."""
        job = self.make(ends=Ends(ttl=60.0))
        self.advance(59)
        self.assertEqual(self.jobs.get(job.id).state, JobState.OPEN)
        self.advance(2)
        self.assertEqual(self.jobs.get(job.id).state, JobState.GONE)
        self.assertIn("60 s", self.jobs.get(job.id).reason)

    def test_lease(self) -> None:
        """While a lease is held the job goes on; afterwards it ends."""
        job = self.make(ends=Ends(lease=10.0))
        lease = self.jobs.lease("build")
        self.advance(100)
        self.assertEqual(self.jobs.get(job.id).state, JobState.OPEN)
        lease.release()
        self.advance(11)
        self.assertEqual(self.jobs.get(job.id).state, JobState.GONE)
        self.assertEqual(self.assertRaises(RefusedError, self.jobs.lease, "build").status, 409)

    def test_container(self) -> None:
        """A container that the job is tied to is known by its full ID."""
        self.engine.answers["/containers/agent/json"] = {"Id": ID, "State": {"Running": True}}
        job = self.make(container="agent")
        self.assertEqual(job.request.container, ID)
        for name in ("..", "a/../b", "."):
            error = self.refused(self.jobs.start(JobRequest(name="odd", container=name), 1000, 7))
            self.assertEqual((error.status, "no name of a container" in str(error)), (400, True))

    def test_words_of_failure(self) -> None:
        """A reason that only sounds like a failure is none after a restart."""
        self.make(keep_on_failure=100.0)
        self.reaper.held = Deferred()
        self.result(self.jobs.end("build", "failed: not really"))
        self.assertEqual(self.jobs.get("build").reason, "ended: failed: not really")
        self.stop()
        self.reaper.held = None
        self.start_again()
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)

    def test_failed(self) -> None:
        """Something is left: the job has failed, says what, and is tried again."""
        self.reaper.left = (ReapItem(kind="volume", identifier="v", outcome="left", reason="in use"),)
        job = self.make()
        over = Deferred.fromCoroutine(self.jobs.over("build"))
        self.result(self.jobs.end("build", "enough"))
        failed = self.successResultOf(over)
        self.assertEqual(failed.state, JobState.FAILED)
        assert failed.report is not None
        self.assertEqual(failed.report.left, self.reaper.left)
        self.jobs.retry()
        self.assertEqual(self.jobs.get(job.id).state, JobState.FAILED)
        self.reaper.left = ()
        self.jobs.retry()
        self.assertEqual(self.jobs.get(job.id).state, JobState.GONE)
        self.assertEqual(self.events(), ["job started", "job ended", "job failed", "job failed", "job gone"])

    def test_keep_on_failure(self) -> None:
        """What a failed job made is kept for a while, its containers paused; then it goes, also after a restart."""
        job = self.make(keep_on_failure=100.0)
        self.made(job)
        self.result(self.jobs.end("build", "it exited with 1", failed=True))
        kept = self.jobs.get(job.id)
        self.assertEqual((kept.state, self.reaper.reaped), (JobState.FAILED, []))
        assert kept.report is not None
        self.assertEqual([(item.identifier, item.outcome) for item in kept.report.items], [(ID, "kept")])
        host = "docker -H unix:///engine"
        command = f"look inside: {host} unpause {ID[:12]} && {host} exec -it {ID[:12]} sh"
        self.assertTrue(kept.report.items[0].reason.endswith(command), kept.report.items[0].reason)
        self.assertEqual(self.engine.requests, [("POST", f"/containers/{ID}/pause")])
        self.jobs.retry()
        self.assertEqual(self.reaper.reaped, [])
        self.stop()
        self.start_again()
        self.advance(98)
        self.assertEqual(self.jobs.get(job.id).state, JobState.FAILED)
        self.advance(3)
        self.assertEqual(self.jobs.get(job.id).state, JobState.GONE)
        self.assertEqual(self.reaper.reaped, ["build"])

    def test_kept_over_a_restart(self) -> None:
        """What is kept goes by itself if its time was over before the start, or the clock was set back meanwhile."""
        for passed, left in ((200.0, 1.0), (-1_000.0, 101.0)):
            job = self.make(keep_on_failure=100.0)
            self.result(self.jobs.end("build", "it exited with 1", failed=True))
            self.stop()
            self.now += passed
            self.start_again()
            self.advance(left)
            self.assertEqual(self.jobs.get(job.id).state, JobState.GONE, passed)

    def test_kept_and_not_running(self) -> None:
        """One that has ended is looked at by its logs; one that is paused already is as good as one that is now."""
        for message, command in (("is not running", "logs"), ("is already paused", "unpause"), ("", "")):
            job = self.make(keep_on_failure=100.0)
            self.made(job)
            self.engine.answer = (409 if message else 500, {"message": f"Container x {message}"})
            self.result(self.jobs.end(job.id, "it exited with 1", failed=True))
            report = self.jobs.get(job.id).report
            assert report is not None
            reason = report.items[0].reason
            self.assertEqual(f"docker -H unix:///engine {command} {ID[:12]}" in reason, bool(message), reason)
            self.advance(101)
            self.successResultOf(self.ledger.removed("container", [ID]))

    def test_keep_without_engine(self) -> None:
        """An engine that is not there does not keep the job from being kept."""
        job = self.make(keep_on_failure=100.0)
        self.made(job)
        self.engine.error = EngineUnavailableError("no engine", 503)
        self.result(self.jobs.end("build", "it exited with 1", failed=True))
        kept = self.jobs.get("build")
        assert kept.report is not None
        self.assertEqual(kept.state, JobState.FAILED)
        self.assertIn("not all of its containers are paused: no engine", kept.report.problem)
        self.advance(101)
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)

    def test_fault(self) -> None:
        """A fault of ours is logged, and the job is tried again."""
        self.make()
        self.reaper.held = Deferred()
        self.result(self.jobs.end("build", "enough"))
        self.reaper.held.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.jobs.get("build").state, JobState.FAILED)
        self.reaper.held = None
        self.jobs.retry()
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)

    def test_success_is_not_kept(self) -> None:
        """A job that did not fail goes at once."""
        self.make(keep_on_failure=100.0)
        self.result(self.jobs.end("build", "done"))
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)

    def test_restart(self) -> None:
        """Open jobs are open again; those on their way out go on from where they were."""
        self.make("open", ends=Ends(lease=10.0))
        self.make("draining")
        self.make("reaping")
        self.reaper.held = Deferred()
        self.doors.doors[self.jobs.get("draining").id].clients = 1
        for name in ("draining", "reaping"):
            self.result(self.jobs.end(name, "enough"))
        self.assertEqual(self.jobs.get("reaping").state, JobState.REAPING)
        self.stop()
        self.reaper.held = None
        self.start_again()
        self.assertEqual(self.jobs.get("open").state, JobState.OPEN)
        self.assertIn(self.jobs.get("open").id, self.doors.doors)
        self.assertEqual({job.name for job in self.jobs.open_jobs().values()}, {DEFAULT, "open"})
        self.assertEqual(self.jobs.get("draining").state, JobState.GONE)
        self.advance(9)
        self.assertEqual(self.jobs.get("open").state, JobState.OPEN)
        self.advance(2)
        self.assertEqual(self.jobs.get("open").state, JobState.GONE)

    def test_remember(self) -> None:
        """Jobs that were gone before a restart can still be named, the latest of a name first."""
        first = self.make()
        self.result(self.jobs.end("build", "enough"))
        second = self.make()
        self.result(self.jobs.end("build", "enough"))
        self.stop()
        self.start_again()
        self.assertRaises(RefusedError, self.jobs.get, "build")
        past = self.successResultOf(self.ledger.past_jobs(2))
        self.jobs.remember(past)
        self.assertEqual({self.jobs.get(job.id).id for job in (first, second)}, {first.id, second.id})
        self.assertIn(self.jobs.get("build").id, (first.id, second.id))

    def test_bounded(self) -> None:
        """Of the jobs that are gone the last are known by name, up to a number."""
        self.patch(jobs, "MOST_PAST", 2)
        for name in ("a", "b", "c"):
            self.make(name)
            self.result(self.jobs.end(name, "enough"))
        self.assertRaises(RefusedError, self.jobs.get, "a")
        self.assertEqual([job.name for job in self.jobs.jobs(everything=True)], ["b", "c", DEFAULT])

    def test_found(self) -> None:
        """A job that only labels told of is listed until it is gone, over restarts, too; the reconciler reaps it."""
        web, default = (
            self.result(self.jobs.found(name * 4, name, NOW - 5, {"things": {}})) for name in ("web", DEFAULT)
        )
        self.assertEqual([job.id for job in self.jobs.jobs()], ["webwebwebweb", *self.jobs.open_jobs()])
        self.stop()
        self.start_again()
        self.assertEqual(self.jobs.get("web"), web)
        self.assertNotIn(web.id, self.jobs.open_jobs())
        self.assertEqual((self.reaper.reaped, self.result(self.jobs.over("web"))), ([], web))
        item = ReapItem(kind="volume", identifier="v", outcome="left")
        self.result(self.jobs.reaped(web, ReapReport(job_id=web.id, job="web", items=(item,)), False))
        job = self.jobs.get("web")
        assert job.report is not None
        self.assertEqual((job.state, job.report.left), (JobState.FAILED, (item,)))
        self.result(self.jobs.reap("web"))
        self.assertEqual((self.reaper.reaped, self.jobs.get("web").state), (["web"], JobState.GONE))
        self.result(self.jobs.reaped(web, ReapReport(job_id=web.id, job="web"), True))
        found = ["job found", "job found", "job reaped", "job gone"]
        self.assertEqual([event["event"] for event in self.successResultOf(self.jobs.events(0))], found)
        self.assertEqual((default.state, default.name), (JobState.GONE, DEFAULT))

    def test_found_when_idle(self) -> None:
        """A tracker that stops when it is idle waits for the end of such a job."""
        idle: list[int] = []
        self.jobs.on_idle = lambda: idle.append(len(self.jobs.jobs()))
        job = self.result(self.jobs.found("lost", "web", NOW - 5, {}))
        self.make()
        self.result(self.jobs.end("build", "enough"))
        self.assertEqual(idle, [])
        self.result(self.jobs.reaped(job, ReapReport(job_id="lost", job="web"), True))
        self.assertEqual(idle, [1])

    def test_short_id(self) -> None:
        """A job is meant by the first twelve characters of its ID, if no other one's begins so; names come first."""
        job = self.make()
        self.assertEqual(self.jobs.get(job.id[:12]), job)
        self.assertRaises(RefusedError, self.jobs.get, job.id[:11])
        named = self.make(job.id[:12])
        self.assertEqual(self.jobs.get(job.id[:12]), named)
        for number in "12":
            self.result(self.jobs.found("f" * 31 + number, "web", NOW, {}))
        self.assertIn("several", str(self.assertRaises(RefusedError, self.jobs.get, "f" * 12)))

    def test_restart_without_socket(self) -> None:
        """A job whose socket is not to be had after a restart ends, and all others go on."""
        self.make()
        self.stop()
        self.start_again(FakeDoors(error=ConfigurationError("listen", "taken"), only="build"))
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)
        self.assertIn("its socket could not be opened", self.jobs.get("build").reason)
        self.assertEqual(self.jobs.get(DEFAULT).state, JobState.OPEN)

    def test_restart_without_default(self) -> None:
        """Without the configuration's own listeners there is no start."""
        self.doors.error = ConfigurationError("listen", "taken")
        self.assertRaises(ConfigurationError, self.jobs.restore, self.ledger.found)

    def test_disk_full(self) -> None:
        """An end that cannot be written down is refused, or tried again if nobody waits for it."""
        self.make("asked")
        self.make("timed", ends=Ends(ttl=10.0))
        self.ledger.full = True
        self.failureResultOf(Deferred.fromCoroutine(self.jobs.end("asked", "enough")), LedgerError)
        self.advance(11)
        self.assertEqual({job.state for job in self.jobs.jobs()}, {JobState.OPEN})
        self.ledger.full = False
        self.advance(6)
        self.assertEqual(self.jobs.get("timed").state, JobState.GONE)
        self.result(self.jobs.end("asked", "enough"))
        self.assertEqual(self.jobs.get("asked").state, JobState.GONE)

    def test_disk_full_later(self) -> None:
        """A state that cannot be written down is written down later."""
        self.make()
        self.reaper.held = Deferred()
        self.result(self.jobs.end("build", "enough"))
        self.ledger.full = True
        self.reaper.held.callback(None)
        self.advance(20)
        self.assertEqual(self.jobs.get("build").state, JobState.REAPING)
        self.ledger.full = False
        self.advance(6)
        self.assertEqual(self.jobs.get("build").state, JobState.GONE)

    def test_reap(self) -> None:
        """A job can be reaped while it goes on."""
        self.make()
        report = self.result(self.jobs.reap("build", dry_run=True))
        self.assertTrue(report.dry_run)
        self.result(self.jobs.reap(DEFAULT))
        self.assertEqual(self.reaper.reaped, ["build", DEFAULT])
        self.assertEqual(self.jobs.get("build").state, JobState.OPEN)
        self.assertEqual(self.events(), ["job started", "job reaped"])

    def test_leaked(self) -> None:
        """What was there at a job's end is counted once, however often that is tried; what is kept is no leak."""
        self.reaper.left = tuple(
            ReapItem(kind="volume", identifier=outcome, outcome=outcome) for outcome in ("left", "removed", "kept")
        )
        self.make()
        self.result(self.jobs.reap("build"))
        self.assertEqual(self.jobs.counts.leaked["volume"], 0)
        self.result(self.jobs.end("build", "enough"))
        self.jobs.retry()
        self.assertEqual(self.jobs.counts.leaked["volume"], 2)

    def test_reap_reported(self) -> None:
        """The report of a reap is the job's, whether it is open or gone, and after a restart; a dry run leaves none."""
        job = self.make()
        self.result(self.jobs.reap("build", dry_run=True))
        self.assertIsNone(self.jobs.get("build").report)
        for reference in ("build", DEFAULT):
            report = self.result(self.jobs.reap(reference))
            self.assertEqual(self.jobs.get(reference).report, report)
        self.stop()
        self.start_again()
        self.assertIsNotNone(self.jobs.get(DEFAULT).report)
        self.assertEqual(
            (self.jobs.get("build").report, self.jobs.get("build").state),
            (ReapReport(job_id=job.id, job="build"), JobState.OPEN),
        )
        self.result(self.jobs.end("build", "enough"))
        self.reaper.left = (ReapItem(kind="volume", identifier="v"),)
        report = self.result(self.jobs.reap("build"))
        self.assertEqual((self.jobs.get("build").report, self.jobs.get("build").state), (report, JobState.GONE))

    def test_report_lost(self) -> None:
        """Where the report cannot be written, that is logged, and who asked for the reap has it all the same."""
        self.make()
        self.ledger.full = True
        with capturedLogs() as logs:
            report = self.result(self.jobs.reap("build"))
        self.assertEqual(self.jobs.get("build").report, report)
        self.assertTrue(any("report on job build is lost" in str(formatEvent(each)) for each in logs))

    def test_reap_failed(self) -> None:
        """A job that has failed, or is kept for that, is gone as soon as somebody has removed what was left of it."""
        self.reaper.left = (ReapItem(kind="volume", identifier="v", outcome="left"),)
        self.make("stuck")
        self.result(self.jobs.end("stuck", "enough"))
        self.make("kept", keep_on_failure=100.0)
        self.result(self.jobs.end("kept", "it exited with 1", failed=True))
        self.result(self.jobs.reap("stuck"))
        self.assertEqual(self.jobs.get("stuck").state, JobState.FAILED)
        self.reaper.left = ()
        for name in ("stuck", "kept"):
            self.result(self.jobs.reap(name, dry_run=True))
            self.assertEqual(self.jobs.get(name).state, JobState.FAILED)
            self.result(self.jobs.reap(name))
            self.assertEqual(self.jobs.get(name).state, JobState.GONE)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_reconcile(self) -> None:
        """It is the reconciler's; where nothing is compared it is refused."""
        self.assertEqual(self.refused(self.jobs.reconcile()).status, 409)
        self.jobs.reconciler = reconciler = FakeReconciler()
        self.result(self.jobs.reconcile(True, "other"))
        self.assertEqual(reconciler.passes, [(True, "other")])

    def test_why(self) -> None:
        """All that is known of a resource, by its job, its intent and who asked."""
        job = self.make()
        self.made(job)
        (why,) = self.result(self.jobs.why("db"))
        self.assertEqual((why["resource"]["identifier"], why["resource"]["relation"]), (ID, "made"))
        self.assertEqual(why["job"], {"id": job.id, "name": "build", "state": "open"})
        self.assertEqual((why["intent"]["operation"], why["intent"]["exchange"]), ("container_create", 3))
        self.assertEqual(why["who"], {"pid": "42"})
        self.assertEqual(self.refused(self.jobs.why("nothing")).status, 404)

    def test_events(self) -> None:
        """Whoever follows is told each event once, in order, until it stops."""
        told: list[Mapping[str, Any]] = []
        self.successResultOf(self.jobs.events(0, told.append))
        self.make()
        self.assertEqual([event["event"] for event in told], ["job started"])
        self.assertEqual((told[0]["job"], told[0]["data"]), ("build", {"owner": 1000, "pid": 7}))
        self.jobs.stop_events(told.append)
        self.result(self.jobs.end("build", "enough"))
        self.assertEqual(len(told), 1)

    def test_idle(self) -> None:
        """A tracker of one's own is told when its last job has ended."""
        idle: list[bool] = []
        self.jobs.on_idle = lambda: idle.append(True)
        for name in ("one", "two"):
            self.make(name)
        self.result(self.jobs.end("one", "enough"))
        self.assertEqual(idle, [])
        self.result(self.jobs.end("two", "enough"))
        self.assertEqual(idle, [True])

    def test_stopped(self) -> None:
        """A tracker that stops makes no job, and ends none."""
        self.make(ends=Ends(ttl=10.0))
        self.result(self.jobs.stop())
        self.advance(20)
        self.assertEqual(self.jobs.get("build").state, JobState.OPEN)
        self.assertEqual(self.refused(self.jobs.start(JobRequest(name="b"), None, None)).status, 503)
        self.assertEqual(len(self.jobs.open_doors()), 2)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.reactor.getReaders(), [])

    def test_stopped_while_interceptors_stop(self) -> None:
        """A job whose interceptors take their time is not reaped by a tracker that stops meanwhile."""
        waiting: Deferred[None] = Deferred()
        self.doors.doors[self.make().id].stopping = waiting
        self.result(self.jobs.end("build", "enough"))
        self.result(self.jobs.stop())
        self.assertEqual((self.jobs.get("build").state, self.reaper.reaped), (JobState.DRAINING, []))

    def test_process(self) -> None:
        """A process is watched from the start on."""
        self.make(ends=Ends(process=Process(pid=os.getpid(), started=0, boot="")))
        self.assertEqual(len(self.reactor.getReaders()), 1)
        process = self.jobs.get("build").request.ends.process
        assert process is not None
        self.assertGreater(process.started, 0)
        self.stop()
