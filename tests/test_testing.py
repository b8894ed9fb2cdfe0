"""The public test kit: what it makes is what the proxy makes, and what it plays is what the proxy does."""

from __future__ import annotations

from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.errors import BadDocumentError, BadTargetError, ConfigurationError, EngineError, RefusedError
from docker_tracker.exchange import Answer, Exchange, Outcome, Peer, Stage
from docker_tracker.http1.head import RequestHead
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.interfaces import IDaemon, IEngine, IJob, ILedger
from docker_tracker.job import JobRequest, JobState
from docker_tracker.plugins.labels import labels
from docker_tracker.plugins.recorder import recorder
from docker_tracker.proxy.plan import Named
from docker_tracker.records import Intent, Resource, State
from docker_tracker.testing import (
    FakeDaemon,
    FakeEngine,
    FakeJob,
    FakeLedger,
    Played,
    build,
    make_document,
    make_exchange,
    make_settings,
    play,
    request,
    response,
    result_of,
)

CREATE = request("POST", "/v1.41/containers/create?name=x", {"Image": "a"})
CREATED = response(201, {"Id": "ab"})


class Guard(Interceptor):
    """Does at the JSON stages what a test says."""

    fail_closed = True

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.told: list[str] = []

    def wants(self, operation: Operation) -> Stage:
        return ~Stage.REQUEST_HEAD

    async def request_json(self, exchange: Exchange, document: Document) -> Document | Answer | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, Deferred):
            await self.answer
            return None
        return cast("Document | Answer | None", self.answer)

    async def response_json(self, exchange: Exchange, document: Document) -> None:
        if isinstance(self.answer, Deferred):
            await self.answer
        self.told.append(f"json {document.value}")

    def response_line(self, exchange: Exchange, document: Document) -> None:
        self.told.append(f"line {document.value}")

    def stream_data(self, exchange: Exchange, from_client: bool, data: bytes) -> None:
        self.told.append(f"{'>' if from_client else '<'} {data.decode()}")


def guarded(answer: Any = None) -> Named:
    return Named("guard", Guard(answer))


def told(named: Named) -> list[str]:
    return cast(Guard, named.interceptor).told


class ValueTests(SynchronousTestCase):
    def test_exchange(self) -> None:
        """A target is recognised as in the proxy, and refused where the proxy refuses it."""
        exchange = make_exchange("POST", "/v1.41/containers/create?name=x", {"X-A": "b"}, job=FakeJob(name="j"))
        self.assertEqual((exchange.call.operation.name, exchange.call.query), ("container_create", "name=x"))
        self.assertEqual((exchange.received.get("x-a"), exchange.job, exchange.peer.uid), ("b", "j", 1000))
        self.assertEqual(make_exchange("GET", "/x", peer=Peer(address="a:1")).peer.address, "a:1")
        self.assertRaises(BadTargetError, make_exchange, "GET", "/a//b")

    def test_document(self) -> None:
        """A plain value and bytes make documents; what the engine could read in two ways does not."""
        self.assertEqual(make_document({"a": [1]}).get("A", 0), 1)
        self.assertEqual(make_document(b' {"a": 1}').encode(), b' {"a": 1}')
        self.assertRaises(BadDocumentError, make_document, b'{"a":1,"A":2}')

    def test_settings(self) -> None:
        """They are a real daemon's, and can be changed."""
        self.assertEqual(make_settings().limits.interceptor_seconds, 30)
        self.assertEqual(make_settings(labels={"a": "b"}).labels, {"a": "b"})

    def test_build(self) -> None:
        """A plug-in is built with checked settings, and sees the daemon's."""
        daemon = FakeDaemon(make_settings(labels={"from": "{job}"}))
        named = build(labels, {"image-labels": "full"}, daemon, FakeJob(name="j"))
        self.assertEqual(named.name, "labels")
        edited = result_of(
            named.interceptor.request_json(make_exchange("POST", "/networks/create"), make_document({"Name": "n"}))
        )
        assert isinstance(edited, Document)
        self.assertEqual(edited.get("Labels", "from"), "j")
        self.assertEqual(edited.get("Labels", "docker-tracker.instance"), "instance-1")
        with self.assertRaisesRegex(ConfigurationError, "interceptor.labels.image_labels"):
            build(labels, {"image_labels": "full"})
        self.assertEqual(build(labels).name, "labels")

    def test_result_of(self) -> None:
        """A result is returned, a failure raised, and waiting is an error."""

        async def fails() -> None:
            raise RefusedError("no")

        never: Deferred[None] = Deferred()
        self.assertEqual(result_of(FakeEngine().identity()), "engine-1")
        self.assertRaises(RefusedError, result_of, fails())
        self.assertRaises(AssertionError, result_of, never)


class FakeTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        """The fakes have all that plug-ins may use."""
        for interface, fake in ((IDaemon, FakeDaemon()), (ILedger, FakeLedger()), (IEngine, FakeEngine())):
            self.assertTrue(verifyObject(interface, fake))
        self.assertTrue(verifyObject(IJob, FakeJob()))

    def test_reopen(self) -> None:
        """What was asked to be told of SIGHUP is told."""
        daemon = FakeDaemon()
        seen: list[int] = []
        withdraw = daemon.on_reopen(lambda: seen.append(1))
        daemon.reopen()
        self.assertEqual(seen, [1])
        for _ in range(2):
            withdraw()
        daemon.reopen()
        self.assertEqual(seen, [1])

    def test_ledger(self) -> None:
        """Intents and what they led to are kept, renamed and removed."""
        ledger = FakeLedger()
        heard: list[int] = []
        ledger.on_lost(lambda: heard.append(1))
        self.assertEqual(self.successResultOf(ledger.job("j")).name, "j")
        self.assertIsNone(self.successResultOf(ledger.check_engine("e")))
        intent = Intent(job_id="1", operation="container_create", kind="container")
        self.assertEqual([self.successResultOf(ledger.intend(intent, "e")) for _ in range(2)], [1, 2])
        made = [Resource(kind=kind, identifier=kind[0]) for kind in ("container", "volume", "network")]
        self.successResultOf(ledger.record(1, made, State.DONE))
        self.successResultOf(ledger.record(2, made[:1]))
        self.successResultOf(ledger.settle(2, State.LOST))
        self.successResultOf(ledger.settle_owed())
        self.assertEqual(([each.state for each in ledger.intents], heard), ([State.DONE, State.LOST], [1]))
        ((lost, led_to),) = self.successResultOf(ledger.lost())
        self.assertEqual((lost.number, [each.identifier for each in led_to]), (2, ["c"]))
        self.successResultOf(ledger.renamed("container", "c", "name"))
        self.successResultOf(ledger.removed_reference("container", "name"))
        self.successResultOf(ledger.removed("volume", ["x"]))
        self.assertEqual(
            [each.kind for each in self.successResultOf(ledger.resources("1"))],
            ["volume", "network"],
        )
        self.assertEqual(self.successResultOf(ledger.resources("2")), [])
        self.assertEqual(len(self.successResultOf(ledger.resources(kind="container", everything=True))), 2)
        adopted = Resource(kind="network", identifier="adopted", job_id="1")
        self.assertEqual(self.successResultOf(ledger.adopt([adopted], 0.0)), [adopted])
        self.assertEqual(self.successResultOf(ledger.adopt([adopted], 0.0)), [])
        self.successResultOf(ledger.removed("network", ["adopted"]))
        self.successResultOf(ledger.gone(made[1:]))
        self.successResultOf(ledger.gone([]))
        self.successResultOf(ledger.prune())
        self.assertEqual(self.successResultOf(ledger.resources()), [])

    def test_jobs_of_a_ledger(self) -> None:
        """Jobs that were made can be read by their IDs, and those that are gone by themselves."""
        ledger = FakeLedger()
        first, second = (self.successResultOf(ledger.make_job(JobRequest(name=name), None, "")) for name in "ab")
        first = self.successResultOf(ledger.set_job(first.id, JobState.GONE))
        self.assertEqual(self.successResultOf(ledger.some_jobs([second.id, "x"])), [second])
        self.assertEqual(self.successResultOf(ledger.past_jobs(9)), [first])
        self.successResultOf(ledger.forget_job(second.id))
        self.assertEqual(self.successResultOf(ledger.jobs(everything=True)), [first])

    def test_broken_ledger(self) -> None:
        """A ledger that is to fail fails."""
        self.failureResultOf(FakeLedger(error=EngineError("x")).resources(), EngineError)

    def test_engine(self) -> None:
        """Calls are answered from a table, and kept."""
        engine = FakeEngine({"GET /info": {"ID": "x"}, "GET /bad": EngineError("bad"), "GET /events": [{"a": 1}, {}]})
        self.assertEqual(result_of(engine.get("/info", {"a": "b"})), {"ID": "x"})
        self.assertIsNone(result_of(engine.get("/none")))
        self.assertEqual(result_of(engine.request("POST", "/none", body={}))[0], 404)
        self.assertRaises(EngineError, result_of, engine.get("/bad"))
        engine.forget()
        lines: list[Any] = []
        result_of(engine.lines("/events", None, lines.append, lambda: lines.append("open")))
        result_of(engine.lines("/events", None, lambda _: Deferred.fromCoroutine(engine.identity())))
        self.assertEqual(lines, ["open", b'{"a": 1}', b"{}"])
        self.assertEqual(engine.asked[0], ("GET", "/info", {"a": "b"}, None))


class PlayTests(SynchronousTestCase):
    def check(self, played: Played, status: int, outcome: Outcome) -> Played:
        self.assertEqual((played.status, played.outcome), (status, outcome))
        self.assertEqual(played.exchange.status, status)
        return played

    def test_untouched(self) -> None:
        """What nobody changes passes byte for byte."""
        named = guarded()
        for interceptors in ([], [named]):
            played = self.check(play(interceptors, CREATE, CREATED), 201, Outcome.COMPLETED)
            self.assertEqual((played.to_engine, played.to_client), (CREATE, CREATED))
        self.assertEqual(told(named), ["json {'Id': 'ab'}"])
        self.assertEqual(played.client_json, {"Id": "ab"})

    def test_changed(self) -> None:
        """What one changes reaches the engine with the right length."""
        document = make_document({"Image": "a"}).with_value(("Labels", "a"), "b")
        played = play([guarded(document)], CREATE, CREATED)
        self.assertEqual(played.engine_json, {"Image": "a", "Labels": {"a": "b"}})
        self.assertEqual(played.engine_head.target, "/v1.41/containers/create?name=x")
        self.assertEqual([edit.interceptor for edit in played.exchange.edits], ["guard"])

    def test_refused(self) -> None:
        """An answer, an error and a guard that fails refuse the exchange; nothing reaches the engine."""
        for answer, status in (
            (Answer.error(403, "no"), 403),
            (RefusedError("no", 409), 409),
            (ValueError("oops"), 500),
            (Deferred(), 500),  # late
        ):
            played = self.check(play([guarded(answer)], CREATE, CREATED), status, Outcome.REFUSED)
            self.assertEqual(played.to_engine, b"")
            with self.assertRaisesRegex(AssertionError, "nothing was forwarded"):
                _ = played.engine_head
        self.assertIn("took too long", played.client_json["message"])
        self.flushLoggedErrors(ValueError)
        self.flushLoggedErrors()

    def test_waits(self) -> None:
        """An interceptor may wait on the daemon's clock, before and after the engine."""
        daemon = FakeDaemon()

        class Slow(Guard):
            async def request_json(self, exchange: Exchange, document: Document) -> None:
                await deferLater(daemon.clock, 5)

            async def response_json(self, exchange: Exchange, document: Document) -> None:
                await deferLater(daemon.clock, 5)
                self.told.append("saved")

        named = Named("slow", Slow())
        self.check(play([named], CREATE, CREATED, daemon=daemon), 201, Outcome.COMPLETED)
        self.assertEqual((told(named), daemon.clock.seconds()), (["saved"], 10.0))

    def test_clock_of_others(self) -> None:
        """Calls that are far away, or never end, do not hold it up."""
        daemon = FakeDaemon()

        def again() -> None:
            daemon.clock.callLater(60, again)

        again()
        daemon.clock.callLater(1e9, again)
        cut = response(200)[:-2]
        self.check(play([], request("GET", "/info"), cut, daemon=daemon), 502, Outcome.ENGINE_FAILED)

    def test_lines(self) -> None:
        """Lines of a stream are told one by one, wherever the pieces are cut; the stream ends with the engine."""
        named = guarded()
        head = b"HTTP/1.1 200 OK\r\n\r\n"
        played = play([named], request("POST", "/build", b"tar"), head, b'{"stream":"a"}\n{"str', b'eam":"b"}\n')
        self.check(played, 200, Outcome.COMPLETED)
        self.assertEqual(told(named), ["line {'stream': 'a'}", "line {'stream': 'b'}"])

    def test_stream(self) -> None:
        """After an upgrade bytes cross both ways."""
        named = guarded()
        played = play(
            [named],
            request("POST", "/containers/x/attach", headers={"Connection": "Upgrade", "Upgrade": "tcp"}),
            response(101),
            b"out",
            from_client=b"in",
        )
        self.check(played, 101, Outcome.COMPLETED)
        self.assertEqual(told(named), ["< out", "> in"])
        self.assertTrue(played.to_engine.endswith(b"\r\n\r\nin"))
        self.assertTrue(played.to_client.endswith(b"\r\n\r\nout"))

    def test_no_engine(self) -> None:
        """Without an answer there is no engine."""
        played = self.check(play([], CREATE), 503, Outcome.ENGINE_FAILED)
        self.assertEqual(played.to_engine, b"")
        self.check(play([guarded(Answer(200, b"{}"))], CREATE, from_client=b"x"), 200, Outcome.ANSWERED)

    def test_continue(self) -> None:
        """An interim answer is not taken for the answer."""
        whole = request("POST", "/containers/create", {}, {"Expect": "100-continue"})
        played = play([guarded()], whole, b"HTTP/1.1 103 Early Hints\r\n\r\n" + CREATED)
        self.assertEqual((self.check(played, 201, Outcome.COMPLETED).client_json), {"Id": "ab"})

    def test_not_whole(self) -> None:
        """A request that is cut is the test's mistake; a client that got nothing has no status."""
        with self.assertRaisesRegex(AssertionError, "is the request whole"):
            play([], CREATE[:20], CREATED)
        played = play([], CREATE, CREATED)
        with self.assertRaisesRegex(AssertionError, "got nothing"):
            _ = attrs.evolve(played, to_client=b"").status

    def test_recorder(self) -> None:
        """An interceptor of ours runs on the fakes: the ledger has the intent and the ID."""
        daemon = FakeDaemon(engine=FakeEngine({"GET /containers/ab/json": {"Name": "/x"}}))
        play([build(labels, daemon=daemon), build(recorder, daemon=daemon)], CREATE, CREATED, daemon=daemon)
        daemon.clock.advance(1)  # the look at what the answer does not tell
        self.assertEqual([intent.state for intent in daemon.ledger.intents], [State.DONE])
        self.assertEqual(daemon.ledger.recorded[0].identifier, "ab")
        page = play([build(recorder, daemon=daemon)], request("GET", "/tracker"), daemon=daemon)
        self.assertEqual(page.to_client.partition(b"\r\n\r\n")[2], b"ab\n")

    def test_head_stage(self) -> None:
        """A plug-in from a module's level is played as it is."""

        class Rename(Interceptor):
            def wants(self, operation: Operation) -> Stage:
                return Stage.REQUEST_HEAD

            async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead:
                return head.with_target("/_ping")

        plugin = Plugin(name="rename", make=lambda settings, job, daemon: Rename())
        played = play([build(plugin)], request("GET", "/info"), response(200, b"OK"))
        self.assertEqual(played.engine_head.target, "/_ping")
