"""What BuildKit builds is in the ledger before the client knows of it, called as the proxy calls it."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from docker_tracker.builds import BuildEnd, BuildOutcome, BuildRequest, BuildStep, Exporter
from docker_tracker.engine.inventory import IMAGE_JOB_ID_LABEL as LABEL
from docker_tracker.errors import EngineError, LedgerError, RefusedError
from docker_tracker.exchange import Exchange
from docker_tracker.image_work import ImageWorks
from docker_tracker.plugins.recorder import Recorder
from docker_tracker.records import State
from tests.support.exchanges import exchange
from tests.support.tracking import UNAVAILABLE, TrackingCase

ID = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
CANCELLED = BuildOutcome(end=BuildEnd.CANCELLED)
# What engines answer: 20.10, the classic store since, and containerd's with an index.
ANSWERS: list[dict[str, str]] = [
    {"containerimage.digest": ID},
    {"containerimage.digest": ID, "containerimage.config.digest": ID, "image.name": "docker.io/library/web:1"},
    {"containerimage.digest": ID, "containerimage.descriptor": "e30=", "image.name": "docker.io/library/web:1"},
    {"containerimage.digest": ID, "containerimage.config.digest": OTHER, "image.name": "docker.io/library/web:1"},
]


def solve(*exporters: Exporter, call: int = 1, **more: Any) -> BuildRequest:
    return BuildRequest(step=BuildStep.SOLVE, build="b1", call=call, exporters=exporters, **more)


def moby(name: str = "", kind: str = "moby") -> Exporter:
    return Exporter(kind, {"name": name} if name else {})


def answered(answer: dict[str, str] | None = None, **more: Any) -> BuildOutcome:
    return BuildOutcome(**{"end": BuildEnd.ANSWERED, "status": 0, "answer": answer or {}, **more})


class BuildTests(TrackingCase):
    def setUp(self) -> None:
        super().setUp()
        now, builds = self.clock.seconds, ImageWorks()
        self.recorder = Recorder(self.job_id, "default", self.ledger, self.engine, self.clock, now, builds)
        self.exchange: Exchange = attrs.evolve(exchange("POST", "/grpc"), job_id=self.job_id)

    def ask(self, request: BuildRequest) -> Deferred[None]:
        return Deferred.fromCoroutine(self.recorder.build_request(self.exchange, request))

    def end(self, request: BuildRequest, outcome: BuildOutcome) -> Deferred[None]:
        return Deferred.fromCoroutine(self.recorder.build_finished(self.exchange, request, outcome))

    def do(self, request: BuildRequest, outcome: BuildOutcome) -> None:
        self.assertIsNone(self.successResultOf(self.ask(request)))
        self.successResultOf(self.end(request, outcome))

    def open_intents(self) -> int:
        """Give the number of intents that a restart finds open, and thus lost."""
        self.ledger.close()
        self.ledger.open("instance")
        return len(self.lost())

    def test_built(self) -> None:
        """The image's ID and its tags are recorded, whatever else the engine's store answers."""
        for answer in ANSWERS:
            self.setUp()
            self.do(solve(moby("docker.io/library/web:1,registry:5000/web")), answered(answer))
            self.assertEqual(
                self.shown(),
                [
                    ("image", "registry:5000/web:latest", "made"),
                    ("image", ID, "made"),
                    ("image", "web:1", "made"),
                ],
            )
            parents = {row.identifier: row.parent for row in self.recorded()}
            self.assertEqual(parents, {ID: "", "web:1": ID, "registry:5000/web:latest": ID})
            self.assertEqual({row.attributes["uid"] for row in self.recorded()}, {"1000"})
            self.assertEqual(self.open_intents(), 0)

    def test_name_from_the_answer(self) -> None:
        """A tag that only the answer tells of is recorded, too."""
        self.do(solve(moby()), answered({"containerimage.digest": ID, "image.name": "web:2, web:3"}))
        self.assertEqual([row[1] for row in self.shown()], [ID, "web:2", "web:3"])

    def test_no_tags(self) -> None:
        """IDs and digests, and what is too long for a name, are no tags, whether asked for or answered."""
        for name in (f"moby-dangling@{ID}", ID, "a" * 64, f"web@{ID}", f"web:1@{ID}", "x" * 513):
            self.setUp()
            self.do(solve(moby(f"{name},web:1")), answered({"containerimage.digest": ID, "image.name": name}))
            self.assertEqual([row[1] for row in self.shown()], [ID, "web:1"], name)

    def test_many_tags(self) -> None:
        """A thousand tags are recorded; one more is refused before anything is written, on one exporter or on two."""
        names = [f"web:{number}" for number in range(1000)]
        self.do(solve(moby(",".join(names)), moby()), answered({"containerimage.digest": ID}))
        self.assertEqual(len(self.shown()), 1001)
        for exporters in ([moby(",".join([*names, "x"]))], [moby(",".join(names)), moby("x", "image")]):
            failure = self.failureResultOf(self.ask(solve(*exporters, call=3)), RefusedError)
            self.assertIn("more than 1000 tags", failure.value.message)
        self.assertEqual(self.open_intents(), 0)

    def test_there_before(self) -> None:
        """What was there before is used, not made: a build from the cache may lead to an image of another's."""
        self.engine.answers["/images/json"] = [{"Id": ID, "RepoTags": ["web:1"], "Created": 5}]
        self.do(solve(moby("web:1,web:2")), answered({"containerimage.digest": ID}))
        self.assertEqual(self.shown(), [("image", ID, "used"), ("image", "web:1", "used"), ("image", "web:2", "made")])

    def test_shared_looks(self) -> None:
        """An engine that is slow to list its images is asked for one list at a time, which many share."""
        lists: list[Deferred[Any]] = [Deferred(), Deferred()]
        self.engine.answers["/images/json"] = lists[0]
        requests = [solve(moby(f"web:{call}"), call=call) for call in range(4)]
        asking = [self.ask(request) for request in requests]
        self.engine.answers["/images/json"] = lists[1]
        asking[3].cancel()
        self.failureResultOf(asking[3], CancelledError)
        lists[0].callback([])
        self.assertEqual([each.called for each in asking], [True, False, False, True])
        lists[1].callback([{"Id": ID, "RepoTags": ["web:1"], "Created": 5}])
        self.assertEqual([each.called for each in asking], [True] * 4)
        self.assertEqual(self.engine.asked, ["/images/json"] * 2)
        for request in requests[:3]:
            self.successResultOf(self.end(request, answered({"containerimage.digest": ID})))
        relations = {row.identifier: row.relation.value for row in self.recorded()}
        self.assertEqual({tag: relations[tag] for tag in ("web:0", "web:1")}, {"web:0": "made", "web:1": "used"})

    def test_slow_list(self) -> None:
        """A build does not wait long for the list: then its names are asked for alone, and the image's label decides.

        An image's age tells nothing.
        """
        for label, created, relation in (("ours", 5, "made"), ("theirs", 10_000_002, "used"), ("", 10_000_002, "used")):
            self.setUp()
            labels = {LABEL: self.job_id if label == "ours" else label} if label else {}
            slow: Deferred[Any] = Deferred()
            self.engine.answers |= {"/images/json": slow, "/images/old:1/json": {"Id": OTHER}}
            asking = self.ask(request := solve(moby("web:1,old:1")))
            self.assertNoResult(asking)
            self.clock.advance(0.5)
            self.successResultOf(asking)
            image = {"Id": ID, "RepoTags": ["web:1", "old:1"], "Created": created, "Labels": labels}
            self.engine.answers["/images/json"] = [image]
            self.successResultOf(self.end(request, answered({"containerimage.digest": ID})))
            slow.callback([])
            shown = [("image", "old:1", "used"), ("image", ID, relation), ("image", "web:1", "made")]
            self.assertEqual(self.shown(), shown)
            self.assertEqual(self.open_intents(), 0)

    def test_late_list(self) -> None:
        """A list that comes while it is built tells that an image is new, and what it has may be anybody's.

        The tags were asked for one by one; one that fails to come leaves it to the label.
        """
        for listed, relation in (
            ([{"Id": OTHER, "RepoTags": ["web:1"]}], "made"),
            ([{"Id": ID, "RepoTags": ["web:1"]}], "used"),
            (EngineError("it is slow", 504), "used"),
        ):
            self.setUp()
            slow: Deferred[Any] = Deferred()
            self.engine.answers["/images/json"] = slow
            asking = self.ask(request := solve(moby("web:1")))
            self.clock.advance(0.5)
            self.successResultOf(asking)
            self.engine.answers["/images/json"] = [{"Id": ID, "RepoTags": ["web:1"]}]
            slow.callback(listed) if isinstance(listed, list) else slow.errback(listed)
            self.successResultOf(self.end(request, answered({"containerimage.digest": ID})))
            self.assertEqual(self.shown(), [("image", ID, relation), ("image", "web:1", "made")])
            self.assertEqual(self.open_intents(), 0)

    def test_slow_engine(self) -> None:
        """Of the names that an engine does not tell of within a second, either, each counts as there before."""
        self.engine.answers |= {"/images/json": Deferred(), "/images/slow:1/json": Deferred()}
        asking = self.ask(request := solve(moby("new:1,slow:1,next:1")))
        self.clock.advance(0.5)
        self.assertNoResult(asking)
        self.clock.advance(0.5)
        self.successResultOf(asking)
        self.successResultOf(self.end(request, CANCELLED))
        [(intent, _)] = self.successResultOf(self.ledger.lost())
        self.assertEqual(intent.before, (("image", "slow:1"), ("image", "next:1")))

    def test_stops_while_listing(self) -> None:
        """A job that ends does not wait for a list."""
        self.engine.answers["/images/json"] = Deferred()
        asking = self.ask(solve(moby("web:1")))
        self.successResultOf(Deferred.fromCoroutine(self.recorder.stop()))
        self.failureResultOf(asking, CancelledError)

    def test_other_exporters(self) -> None:
        """What makes no image in the engine is not recorded, nor are a build's other requests; that takes no look."""
        for request in (
            solve(),
            solve(Exporter("local", {}), Exporter("docker", {"name": "x"})),
            BuildRequest(step=BuildStep.FRONTEND, build="b1", frontend="dockerfile.v0"),
            BuildRequest(step=BuildStep.RESULT, build="b1"),
        ):
            self.do(request, answered({"containerimage.digest": ID}))
        self.assertEqual((self.shown(), self.open_intents(), self.engine.asked), ([], 0, []))

    def test_failed(self) -> None:
        """A build that failed or was given up may have made its image all the same: the watcher looks for its names."""
        for outcome in (
            answered(status=2, message="push failed"),
            answered(status=None),
            answered({"image.name": "web:1"}),
            answered(problem="the answer is compressed"),
            CANCELLED,
            BuildOutcome(end=BuildEnd.ABORTED),
            BuildOutcome(end=BuildEnd.LOST),
        ):
            self.setUp()
            self.do(solve(moby("web:1", "image")), outcome)
            [(intent, recorded)] = self.successResultOf(self.ledger.lost())
            self.assertEqual((intent.names, intent.state, recorded), ((("image", "web:1"),), State.LOST, []))

    def test_not_forwarded(self) -> None:
        """One that the engine never saw led to nothing."""
        for end in (BuildEnd.REFUSED, BuildEnd.CANCELLED, BuildEnd.LOST):
            self.setUp()
            self.do(solve(moby("web:1")), BuildOutcome(end=end, forwarded=False))
            self.assertEqual(self.open_intents(), 0)

    def test_together(self) -> None:
        """Several builds on one connection are kept apart, also if a client gives them the same ID."""
        first, second = solve(moby("a"), call=1), solve(moby("b"), call=3)
        for request in (first, second):
            self.successResultOf(self.ask(request))
        self.successResultOf(self.end(second, answered({"containerimage.digest": OTHER})))
        self.successResultOf(self.end(first, CANCELLED))
        self.assertEqual([row[1] for row in self.shown()], ["b:latest", OTHER])
        self.assertEqual(len(self.lost()), 1)
        self.assertEqual(self.exchange.notes["recorder's builds"], {})

    def test_cannot_be_recorded(self) -> None:
        """What cannot be written down is refused, and nothing is built."""
        self.engine.name = UNAVAILABLE
        error = self.failureResultOf(self.ask(solve(moby("a"))), RefusedError).value
        self.assertIn("nothing was made: the engine at unix:///engine does not answer", str(error))
        self.engine.name = "E"
        self.patch(self.ledger, "intend", lambda *_: fail(LedgerError("/ledger", "the disk is full")))
        error = self.failureResultOf(self.ask(solve(moby("a"))), RefusedError).value
        self.assertIn("as it could not be recorded: ", str(error))

    def test_answer_cannot_be_recorded(self) -> None:
        """If the image cannot be written down the client does not hear of it, and its intent stays open."""
        self.successResultOf(self.ask(request := solve(moby("a"))))
        self.patch(self.ledger, "record", lambda *_: fail(LedgerError("/ledger", "the disk is full")))
        self.failureResultOf(self.end(request, answered({"containerimage.digest": ID})), LedgerError)
        self.assertEqual(self.open_intents(), 1)

    def test_interrupted(self) -> None:
        """A client that leaves while its intent is written leaves none open."""
        writing: Deferred[int] = Deferred()
        settled: list[tuple[int, State]] = []
        self.patch(self.ledger, "intend", lambda *_: writing)
        asking = self.ask(request := solve(moby("a")))
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.successResultOf(self.end(request, BuildOutcome(end=BuildEnd.LOST, forwarded=False)))

        def settle(number: int, state: State) -> Deferred[None]:
            settled.append((number, state))
            return succeed(None)

        self.patch(self.ledger, "settle", settle)
        writing.callback(5)
        self.assertEqual(settled, [(5, State.FAILED)])

    def test_engine_fails(self) -> None:
        """An engine that cannot be looked at before is a reason to refuse."""
        self.engine.answers["/images/json"] = EngineError("it is slow", 504)
        error = self.failureResultOf(self.ask(solve(moby("a"))), RefusedError).value
        self.assertEqual(str(error), "nothing was made: it is slow")
