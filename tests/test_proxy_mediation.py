"""Builds between a client and an engine that keep to HTTP/2: what interceptors see, change, refuse and wait for."""

from __future__ import annotations

import pickle
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.builds import BuildEdit, BuildEnd, BuildOutcome, BuildRequest, BuildStep, Exporter
from docker_tracker.engine.document import MISSING, Change
from docker_tracker.errors import BadGrpcError, RefusedError
from docker_tracker.exchange import Exchange, Outcome, Stage
from docker_tracker.http2 import connection
from docker_tracker.http2.frames import END_HEADERS, END_STREAM, PREFACE, Code, Kind, build
from docker_tracker.http2.grpc import Status
from docker_tracker.http2.messages import read_request
from docker_tracker.http2.protobuf import length_field
from docker_tracker.proxy.mediation import Mediation
from docker_tracker.proxy.splice import Splice
from tests.support.http2 import FRONTEND, RESULT, SOLVE, STATUS, Peer, entries, prefixed
from tests.support.http2_wires import UPGRADE, UPGRADED, Asks, BuildLink
from tests.support.wires import MemoryWire

PROBE = length_field(1, b"probe1") + length_field(5, b"session1")
SOLVING = PROBE.replace(b"probe1", b"build1") + length_field(13, length_field(1, b"moby") + entries(2, {"name": "t:1"}))
ASKING = length_field(2, b"dockerfile.v0") + entries(3, {"target": "a", "label:theirs": "1"})
RETURNING = length_field(1, entries(10, {"containerimage.config": b"{}"}))
DIGEST = "sha256:" + "a" * 64
ANSWER = entries(1, {"containerimage.digest": DIGEST})


class Mediated(SynchronousTestCase):
    def begin(self, *interceptors: Asks) -> None:
        self.link = BuildLink(*interceptors)

    def sent(self, stream: int) -> bytes:
        """Return the one message that the engine got on a stream."""
        data = self.link.engine.seen[stream].data
        self.assertEqual(data[:5], prefixed(data[5:])[:5])
        return data[5:]

    def request(self, step: BuildStep, stream: int) -> BuildRequest:
        """Return what the engine was asked on a stream."""
        return read_request(step, self.sent(stream), "build1")

    def both_closed(self) -> None:
        """Check that both connections are closed, and the conversation is over."""
        self.assertTrue(self.link.wires.client.closed)
        self.assertTrue(self.link.wires.engine.closed)
        self.assertTrue(self.link.wires.over)


class UpgradeTests(Mediated):
    def test_bytes_behind_the_heads(self) -> None:
        """What either side sends behind its head, in one piece with it, is HTTP/2's beginning."""
        self.link = link = BuildLink(watcher := Asks(), begin=False)
        stream = link.open(FRONTEND, "build1")
        link.client.h2.send_data(stream, prefixed(ASKING), end_stream=True)
        link.wires.client.sends(UPGRADE + link.client.h2.data_to_send())
        link.wires.engine.received  # noqa: B018
        link.wires.engine.sends(UPGRADED + link.engine.h2.data_to_send())
        head = link.wires.client.received
        self.assertEqual(head[: len(UPGRADED)], UPGRADED)
        link.client.receive(head[len(UPGRADED) :])
        link.pump()
        self.assertEqual(self.sent(stream), ASKING)
        self.assertEqual([request.build for request in watcher.requests], ["build1"])
        link.answer(stream, b"result")
        self.assertEqual(link.client.end_of(stream), (0, ""))

    def test_body(self) -> None:
        """A request with a body is refused: until the 101 is read here its bytes would reach the engine unseen."""
        for field in (b"Content-Length: 9", b"Transfer-Encoding: chunked"):
            wires = BuildLink(Asks(), begin=False).wires
            wires.client.sends(UPGRADE.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n\r\n"))
            wires.client.sends(b"PRI * HTTP/2.0\r\n")
            self.assertTrue(wires.client.received.startswith(b"HTTP/1.1 400 "))
            self.assertEqual(wires.dialler.wires, [])

    def test_no_body(self) -> None:
        """A length of nothing, which clients say, is no body."""
        wires = BuildLink(Asks(), begin=False).wires
        wires.client.sends(UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"))
        wires.engine.sends(UPGRADED)
        self.assertEqual(wires.client.received, UPGRADED)

    def test_raw(self) -> None:
        """Without an interceptor that takes part in builds the stream is joined raw, whatever else is asked for."""
        self.begin(Asks(stages=Stage.STARTED | Stage.FINISHED))
        self.assertIsInstance(self.link.wires.conversation._splice, Splice)
        self.link = BuildLink(begin=False)
        self.link.wires.client.sends(UPGRADE)
        self.link.wires.engine.sends(UPGRADED)
        self.link.wires.client.received  # noqa: B018
        self.link.wires.client.sends(b"no HTTP/2 at all")
        self.assertEqual(self.link.wires.engine.received, UPGRADE + b"no HTTP/2 at all")

    def test_mediated(self) -> None:
        """With one that asks for a single hook of builds it is mediated."""
        for stage in (Stage.BUILD_CALL, Stage.BUILD_REQUEST, Stage.BUILD_FINISHED):
            self.begin(Asks(stages=stage))
            self.assertIsInstance(self.link.wires.conversation._splice, Mediation)
            stream = self.link.call(FRONTEND, ASKING, "build1")
            self.assertEqual(self.sent(stream), ASKING)

    def test_counts(self) -> None:
        """The exchange has all bytes that crossed the client's connection, heads and what was put in included."""
        asks = Asks(forbidden=(STATUS, RefusedError("no", 403)), edit=BuildEdit(attributes={"a": "b"}))
        self.begin(asks)
        wires = self.link.wires
        for path, message in ((FRONTEND, ASKING), (STATUS, b"x" * 1000)):
            stream = self.link.call(path, message, "build1")
            if path == FRONTEND:
                self.link.answer(stream, b"y" * 500)
        wires.client.leaves()
        assert asks.exchange is not None
        self.assertGreater(asks.exchange.bytes_from_client, len(UPGRADE) + 1000)
        self.assertGreater(asks.exchange.bytes_to_client, len(UPGRADED) + 500)

    def test_exact_count(self) -> None:
        """The counts are those of the wires."""
        asks = Asks(edit=RefusedError("no", 403))
        self.link = link = BuildLink(asks, begin=False)
        from_client = to_client = 0
        client = link.wires.client
        client.sends(UPGRADE)
        engine = link.wires.engine
        engine.sends(UPGRADED)
        from_client += len(UPGRADE)
        stream = link.open(FRONTEND, "build1")
        link.client.h2.send_data(stream, prefixed(ASKING), end_stream=True)
        for _ in range(3):
            data = link.client.h2.data_to_send()
            from_client += len(data)
            client.sends(data)
            engine.sends(link.engine.h2.data_to_send())
            got = client.received
            to_client += len(got)
            link.client.receive(got.removeprefix(UPGRADED))
        client.leaves()
        assert asks.exchange is not None
        self.assertEqual((asks.exchange.bytes_from_client, asks.exchange.bytes_to_client), (from_client, to_client))
        self.assertEqual(link.client.end_of(stream), (Status.PERMISSION_DENIED, "docker-tracker: no"))


class BeginningTests(Mediated):
    SETTINGS = build(Kind.SETTINGS, 0, 0)
    PING = build(6, 0, 0, bytes(8))

    def begun(self, data: bytes) -> None:
        """Have a client begin with these bytes, an engine greet it, and nothing happen for a while."""
        self.asks = Asks()
        self.link = BuildLink(self.asks, begin=False)
        wires = self.link.wires
        wires.client.sends(UPGRADE)
        wires.engine.received  # noqa: B018
        wires.engine.sends(UPGRADED + self.SETTINGS)
        wires.client.sends(data)
        wires.clock.advance(8)
        self.assertFalse(wires.over)

    def test_no_beginning(self) -> None:
        """A client that asked for HTTP/2 has nine seconds to begin it; then both sides are closed, with a word why."""
        call = build(Kind.HEADERS, END_HEADERS, 1, b"\x83\x86")
        for data in (
            b"",
            PREFACE[:-1],
            PREFACE,
            PREFACE + self.SETTINGS[:-1],
            PREFACE + self.PING,
            PREFACE + self.SETTINGS + call[:-1],
            PREFACE + self.SETTINGS + build(Kind.HEADERS, 0, 1, b"\x83"),
        ):
            self.begun(data)
            self.link.wires.clock.advance(1)
            self.both_closed()
            assert self.asks.exchange is not None
            self.assertEqual(self.asks.exchange.answered_by, "proxy")
            self.assertIn("did not come whole in time", str(self.asks.exchange.notes["remark"]))
            self.assertIn(b"did not come whole in time", self.link.wires.client.received)
            engine = self.link.wires.engine.received
            self.assertEqual(b"did not come whole in time" in engine, data.startswith(PREFACE))

    def test_slow_beginning(self) -> None:
        """A byte now and then is no beginning."""
        self.begun(b"")
        for byte in PREFACE[:8]:
            self.link.wires.client.sends(bytes([byte]))
            self.link.wires.clock.advance(0.125)
        self.both_closed()

    def test_begun(self) -> None:
        """A client that has begun may be idle; and there is no limit any more once it made a call."""
        for more in (b"", build(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\x83\x86") + self.PING[:-1]):
            self.begun(PREFACE + self.SETTINGS + more)
            self.link.wires.clock.advance(1000)
            self.assertFalse(self.link.wires.over)
            self.link.wires.client.leaves()
            self.both_closed()

    def test_half_a_frame_later(self) -> None:
        """The time runs from when a frame begins."""
        self.begun(PREFACE + self.SETTINGS)
        self.link.wires.client.sends(self.PING[:-1])
        self.link.wires.clock.advance(8)
        self.assertFalse(self.link.wires.over)
        self.link.wires.client.sends(self.PING[-1:])
        self.link.wires.clock.advance(8)
        self.assertFalse(self.link.wires.over)
        self.link.wires.client.sends(self.PING[:-1])
        self.link.wires.clock.advance(9)
        self.both_closed()


class RequestTests(Mediated):
    def test_edits_in_order(self) -> None:
        """Interceptors are asked in order, each sees what those before it changed, and the engine gets it all."""
        first = Asks(edit=BuildEdit(attributes={"label:a": "1", "label:theirs": None}))
        second = Asks(edit=BuildEdit(attributes={"label:a": "2", "b": "3"}))
        third = Asks()
        self.begin(first, second, third)
        stream = self.link.call(FRONTEND, ASKING, "build1")
        seen = [each.requests[0].attributes for each in (first, second, third)]
        self.assertEqual(seen[0], {"target": "a", "label:theirs": "1"})
        self.assertEqual(seen[1], {"target": "a", "label:a": "1"})
        self.assertEqual(seen[2], {"target": "a", "label:a": "2", "b": "3"})
        self.assertEqual(self.request(BuildStep.FRONTEND, stream).attributes, seen[2])

    def test_exporters_and_configs(self) -> None:
        """Options of exporters and configs of images are changed the same way."""
        first = Asks(edit=BuildEdit(exporter_attributes={"name": None, "push": "false"}))
        second = Asks(edit=BuildEdit(image_configs={"containerimage.config": b'{"config":{}}'}))
        self.begin(first, second)
        stream = self.link.call(SOLVE, SOLVING)
        [exporter] = self.request(BuildStep.SOLVE, stream).exporters
        self.assertEqual(exporter.attributes, {"push": "false"})
        self.assertEqual(second.requests[0].exporters[0].attributes, {"push": "false"})
        stream = self.link.call(RESULT, RETURNING, "build1")
        configs = self.request(BuildStep.RESULT, stream).image_configs
        self.assertEqual(configs, {"containerimage.config": b'{"config":{}}'})

    def test_edits_are_told(self) -> None:
        """What was changed in all requests of a build is told with the end of its Solve, by interceptor and option."""
        asks = Asks(
            edit=BuildEdit(
                attributes={"target": "b", "label:theirs": "1"},
                exporter_attributes={"name": None},
                image_configs={"containerimage.config": b"1"},
            )
        )
        self.begin(asks)
        solve = self.link.call(SOLVE, SOLVING)
        for path, message in ((FRONTEND, ASKING), (RESULT, RETURNING)):
            self.link.answer(self.link.call(path, message, "build1"))
        self.link.answer(self.link.call(FRONTEND, ASKING, "another"))
        self.link.answer(solve, ANSWER)
        solved = asks.outcomes[-1]
        where = [(edit.interceptor, change) for edit in solved.edits for change in edit.changes]
        self.assertEqual(
            where,
            [
                ("a", Change(("build", "solve", "attributes", "target"), MISSING, "b")),
                ("a", Change(("build", "solve", "attributes", "label:theirs"), MISSING, "1")),
                ("a", Change(("build", "solve", "exporters", 0, "attributes", "name"), "t:1", MISSING)),
                ("a", Change(("build", "frontend", "attributes", "target"), "a", "b")),
                ("a", Change(("build", "result", "image_configs", "containerimage.config"), MISSING, "changed")),
            ],
        )
        self.assertEqual(asks.outcomes[0].edits, ())

    def test_most_edits(self) -> None:
        """A client that makes requests without end in one build does not have their edits gathered without end."""
        asks = Asks(edit=BuildEdit(attributes={"target": "b"}))
        self.begin(asks)
        solve = self.link.call(SOLVE, SOLVING)
        for _ in range(300):
            self.link.answer(self.link.call(FRONTEND, ASKING, "build1"))
        self.link.answer(solve, ANSWER)
        self.assertEqual(len(asks.outcomes[-1].edits), 256)

    def test_nothing_changed(self) -> None:
        """An edit that changes nothing is none for the audit."""
        asks = Asks(edit=BuildEdit(attributes={"target": "a"}))
        self.begin(asks)
        solve = self.link.call(SOLVE, SOLVING + entries(7, {"target": "a"}))
        self.link.answer(solve, ANSWER)
        self.assertEqual(asks.outcomes[0].edits, ())

    def test_probe(self) -> None:
        """What a client asks before a build, to learn what the engine can do, is shown to nobody."""
        asks = Asks()
        self.begin(asks)
        stream = self.link.call(SOLVE, PROBE)
        self.link.answer(stream)
        self.assertEqual(self.sent(stream), PROBE)
        self.assertEqual(asks.seen, [("call", SOLVE, "")])

    def test_calls(self) -> None:
        """Every call's begin is told, with the build's ID if it has one."""
        asks = Asks()
        self.begin(asks)
        self.link.call(STATUS, b"", "build1")
        self.link.call("/moby.buildkit.v1.Control/Prune", b"")
        self.assertEqual(asks.seen, [("call", STATUS, "build1"), ("call", "/moby.buildkit.v1.Control/Prune", "")])

    def test_waits(self) -> None:
        """While an interceptor decides, the request waits; other streams go on."""
        asks = Asks(deciding=Deferred())
        self.begin(asks)
        stream = self.link.call(FRONTEND, ASKING, "build1")
        other = self.link.call(STATUS, b"status", "build1")
        self.assertEqual(self.link.engine.seen[stream].data, b"")
        self.assertEqual(self.link.engine.seen[other].data, prefixed(b"status"))
        assert asks.deciding is not None
        asks.deciding.callback(None)
        self.link.pump()
        self.assertEqual(self.sent(stream), ASKING)


class RefusalTests(Mediated):
    def refused(self, stream: int) -> tuple[int | None, str]:
        """Return what the client sees of a refusal; the engine did not see the message."""
        seen = self.link.engine.seen[stream]
        self.assertEqual((seen.data, seen.reset), (b"", Code.CANCEL))
        return self.link.client.end_of(stream)

    def test_by_a_guard(self) -> None:
        """A guard's refusal reaches the client as the call's end, with a status that fits and who says so."""
        for status, expected in ((400, 3), (403, 7), (404, 5), (409, 9), (413, 8), (503, 14), (500, 13), (418, 13)):
            asks = Asks(edit=RefusedError("labels are missing", status))
            self.begin(asks)
            stream = self.link.call(SOLVE, SOLVING)
            self.assertEqual(self.refused(stream), (expected, "docker-tracker: labels are missing"))
            [outcome] = asks.outcomes
            self.assertEqual((outcome.end, outcome.forwarded, outcome.refused_by), (BuildEnd.REFUSED, False, "a"))
            # The connection goes on.
            asks.edit = None
            self.assertEqual(self.sent(self.link.call(SOLVE, SOLVING)), SOLVING)

    def test_later_ones_are_not_asked(self) -> None:
        """After a refusal nobody else is asked, but all are told of the end."""
        second = Asks()
        self.begin(Asks(edit=RefusedError("no", 403)), second)
        self.link.call(SOLVE, SOLVING)
        self.assertEqual((second.requests, [each.end for each in second.outcomes]), ([], [BuildEnd.REFUSED]))

    def test_failing_guard(self) -> None:
        """A guard that fails refuses, with words for the user and the reason in the log."""
        self.begin(Asks(edit=ValueError("secret")))
        stream = self.link.call(SOLVE, SOLVING)
        status, message = self.refused(stream)
        self.assertEqual(status, Status.INTERNAL)
        self.assertIn("interceptor a failed", message)
        self.assertNotIn("secret", message)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_failing_watcher(self) -> None:
        """A watcher that fails, or refuses, is passed by."""
        self.begin(Asks(edit=ValueError("x"), fail_closed=False), Asks(edit=RefusedError("no"), fail_closed=False))
        self.assertEqual(self.sent(self.link.call(SOLVE, SOLVING)), SOLVING)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_time_for_a_solve(self) -> None:
        """All interceptors together have two seconds for a Solve, whatever each may take."""
        first, second = Asks(deciding=Deferred()), Asks(deciding=Deferred())
        self.begin(first, second)
        stream = self.link.call(SOLVE, SOLVING)
        self.link.advance(1.5)
        assert first.deciding is not None
        first.deciding.callback(None)
        self.link.pump()
        self.assertEqual(len(second.requests), 1)
        self.link.advance(0.4)
        self.assertEqual(self.link.client.end_of(stream), (None, ""))
        self.link.advance(0.2)
        status, message = self.refused(stream)
        self.assertEqual(status, Status.INTERNAL)
        self.assertIn("interceptor b failed: it took too long", message)
        self.flushLoggedErrors()

    def test_time_for_others(self) -> None:
        """The other requests may be held for ten seconds, and a watcher that is late is passed by."""
        self.begin(Asks(deciding=Deferred(), fail_closed=False))
        stream = self.link.call(FRONTEND, ASKING, "build1")
        self.link.advance(9.9)
        self.assertEqual(self.link.engine.seen[stream].data, b"")
        self.link.advance(0.2)
        self.assertEqual(self.sent(stream), ASKING)
        self.flushLoggedErrors()

    def test_forbidden_call(self) -> None:
        """A guard refuses a call by its path; the audit knows who it was, the first of several."""
        asks = Asks(forbidden=(STATUS, RefusedError("this host's history is not for you", 403)))
        self.begin(asks)
        for _ in range(2):
            stream = self.link.call(STATUS, b"x")
            message = "docker-tracker: this host's history is not for you"
            self.assertEqual(self.link.client.end_of(stream), (Status.PERMISSION_DENIED, message))
        self.link.wires.client.leaves()
        assert asks.exchange is not None
        self.assertEqual(asks.exchange.answered_by, "a")
        self.assertEqual(asks.exchange.notes["remark"], "this host's history is not for you")

    def test_our_own_failure(self) -> None:
        """What fails in our own code refuses the request, and is logged."""
        self.begin(asks := Asks())
        asks.edit = BuildEdit(attributes={"a": 5})  # type: ignore[dict-item]
        stream = self.link.call(FRONTEND, ASKING, "build1")
        status, message = self.refused(stream)
        self.assertEqual((status, message), (13, "docker-tracker: docker-tracker failed; the daemon's log says why"))
        self.assertEqual(len(self.flushLoggedErrors()), 1)


class UnreadableTests(Mediated):
    def messages(self) -> list[bytes]:
        """Return requests that cannot be read: compressed, and not protobuf."""
        return [prefixed(SOLVING, flag=1), prefixed(b"\xff\xff\xff")]

    def test_guarded(self) -> None:
        """With a guard that asks it is refused."""
        for message in self.messages():
            watcher, guard = Asks(fail_closed=False), Asks()
            self.begin(watcher, guard)
            stream = self.link.open(SOLVE)
            self.link.send(stream, message)
            status, text = self.link.client.end_of(stream)
            self.assertEqual(status, 3)
            self.assertIn("docker-tracker: the build's request cannot be read: ", text)
            [outcome] = guard.outcomes
            self.assertEqual((outcome.end, outcome.refused_by), (BuildEnd.REFUSED, "b"))
            self.assertTrue(outcome.problem)
            self.assertEqual((guard.requests, watcher.requests), ([], []))

    def test_watched(self) -> None:
        """With watchers only it passes as it is, and they are told that it did, and why nobody saw it."""
        for message in self.messages():
            watcher = Asks(fail_closed=False)
            self.begin(watcher, Asks(stages=Stage.BUILD_FINISHED))
            stream = self.link.open(SOLVE)
            self.link.send(stream, message)
            self.assertEqual(self.link.engine.seen[stream].data, message)
            self.link.answer(stream, ANSWER)
            [outcome] = watcher.outcomes
            self.assertEqual((outcome.end, outcome.answer), (BuildEnd.ANSWERED, {"containerimage.digest": DIGEST}))
            self.assertTrue(outcome.problem)

    def test_edit_of_the_unchangeable(self) -> None:
        """A request that can be read, but not be changed as is asked, is refused."""
        self.begin(Asks(edit=BuildEdit(attributes={"x": "y"})))

        def unchangeable(*_: object) -> None:
            raise BadGrpcError("it is odd")

        self.patch(connection, "edited", unchangeable)
        stream = self.link.call(FRONTEND, ASKING, "build1")
        message = "docker-tracker: the build cannot be changed as it has to be: it is odd"
        self.assertEqual(self.link.client.end_of(stream), (3, message))

    def test_end_of_a_side_twice(self) -> None:
        """What wires still tell when all is over is of no effect."""
        self.begin(asks := Asks())
        mediation = self.link.wires.conversation._splice
        assert isinstance(mediation, Mediation)
        self.link.wires.client.leaves()
        mediation.side_ended(mediation._client)
        self.assertEqual([each[0] for each in asks.seen], ["finished"])

    def test_broken_http2(self) -> None:
        """Bytes that are not HTTP/2 end the connection: both sides are told, and the audit has it."""
        asks = Asks()
        self.begin(asks)
        self.link.wires.client.sends(b"\x00\x00\x05\x04\x00\x00\x00\x00\x00wrong")
        for peer, wire in self.link.ends:
            self.link.take(peer, wire)
            self.assertIsNotNone(peer.gone)
        self.both_closed()
        assert asks.exchange is not None
        self.assertEqual(asks.exchange.answered_by, "proxy")
        self.assertIn("HTTP/2 was broken: ", asks.exchange.notes["remark"])

    def test_broken_by_the_engine(self) -> None:
        """So it is if the engine breaks it; open builds are told of before."""
        asks = Asks()
        self.begin(asks)
        self.link.call(SOLVE, SOLVING)
        self.link.wires.engine.sends(b"\x00\x00\x05\x08\x00\x00\x00\x00\x00wrong")
        self.both_closed()
        self.assertEqual([each.end for each in asks.outcomes], [BuildEnd.LOST])
        self.assertEqual(asks.seen[-1], ("finished", Outcome.COMPLETED))

    def test_no_http2_at_all(self) -> None:
        """So it is if the client never begins."""
        self.link = BuildLink(Asks(), begin=False)
        self.link.wires.client.sends(UPGRADE + b"GET / HTTP/1.1\r\n\r\n")
        self.link.wires.engine.sends(UPGRADED)
        self.both_closed()


class AnswerTests(Mediated):
    def solve(self, *interceptors: Asks) -> int:
        self.begin(*interceptors)
        return self.link.call(SOLVE, SOLVING)

    def test_waits(self) -> None:
        """The client has the answer to a Solve after all interceptors were told of it."""
        first, second = Asks(saving=Deferred()), Asks(saving=Deferred())
        stream = self.solve(first, second)
        self.link.answer(stream, ANSWER)
        self.assertEqual(self.link.client.end_of(stream), (None, ""))
        for each in (first, second):
            self.assertEqual(self.link.client.end_of(stream), (None, ""))
            assert isinstance(each.saving, Deferred)
            each.saving.callback(None)
            self.link.pump()
        self.assertEqual(self.link.client.end_of(stream), (0, ""))
        [outcome] = second.outcomes
        self.assertEqual((outcome.end, outcome.status), (BuildEnd.ANSWERED, 0))
        self.assertEqual(outcome.answer, {"containerimage.digest": DIGEST})

    def test_failed_build(self) -> None:
        """A build that fails is told with its status and message, which the client gets."""
        stream = self.solve(asks := Asks())
        self.link.answer(stream, None, status=2, text="process did not complete")
        [outcome] = asks.outcomes
        self.assertEqual((outcome.status, outcome.message, outcome.answer), (2, "process did not complete", {}))
        self.assertEqual(self.link.client.end_of(stream), (2, "process did not complete"))

    def test_others_do_not_wait(self) -> None:
        """Answers to other requests are not held."""
        self.begin(asks := Asks(saving=Deferred()))
        stream = self.link.call(FRONTEND, ASKING, "build1")
        self.link.answer(stream, b"x")
        self.assertEqual(self.link.client.end_of(stream), (0, ""))
        self.assertEqual(asks.outcomes, [])

    def test_failing_guard(self) -> None:
        """If a guard cannot save the end, at once or later, the client does not get the answer."""
        for later in (False, True):
            with self.subTest(later=later):
                saving: Deferred[Any] = Deferred()
                error = RefusedError("the ledger is full", 503)
                asks = Asks(saving=saving if later else error)
                stream = self.solve(asks)
                self.link.answer(stream, ANSWER)
                if later:
                    saving.errback(error)
                    self.link.pump()
                self.assertEqual(self.link.client.end_of(stream), (None, ""))
                self.both_closed()
                assert asks.exchange is not None
                self.assertEqual(asks.exchange.notes["remark"], "the ledger is full")

    def test_failing_watcher(self) -> None:
        """A watcher that fails is passed by."""
        stream = self.solve(Asks(saving=ValueError("x"), fail_closed=False))
        self.link.answer(stream, ANSWER)
        self.assertEqual(self.link.client.end_of(stream), (0, ""))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_too_late(self) -> None:
        """A guard that saves too slowly fails."""
        stream = self.solve(Asks(saving=Deferred()))
        self.link.answer(stream, ANSWER)
        self.link.advance(60)
        self.both_closed()
        self.flushLoggedErrors()

    def test_our_own_failure(self) -> None:
        """What fails in our own code while an end is told closes the connection, and is logged."""
        stream = self.solve(Asks())

        async def broken(*_: object) -> None:
            raise ValueError("ours")

        self.patch(Mediation, "_save", broken)
        self.link.answer(stream, ANSWER)
        self.both_closed()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class KeptTests(Mediated):
    BIG = "x" * 1_000_000

    def test_little_is_kept(self) -> None:
        """Of a request on its way only what the end of a build tells is kept: no arguments, no image configs."""
        self.begin(asks := Asks(edit=BuildEdit(exporter_attributes={"annotation": None})))
        option = {"build-arg:a": self.BIG, "target": "t" + self.BIG, self.BIG: ""}
        exporter = length_field(13, length_field(1, b"moby") + entries(2, {"name": "t:1", "annotation": self.BIG}))
        solving = PROBE.replace(b"probe1", b"build1") + entries(7, option) + exporter * 5
        solve = self.link.call(SOLVE, solving)
        asking = self.link.call(FRONTEND, length_field(2, b"f") + entries(3, option), "build1")
        config = {"containerimage.config": b'{"a":"%b"}' % self.BIG.encode()}
        returning = self.link.call(RESULT, length_field(1, entries(10, config)), "build1")
        self.assertEqual(len(self.sent(asking)), len(length_field(2, b"f") + entries(3, option)))
        mediation = self.link.wires.conversation._splice
        assert isinstance(mediation, Mediation)
        kept = pickle.dumps([asked.request for asked in mediation._asked.values()] + [mediation._edits])
        self.assertLess(len(kept), 100_000)
        for stream in (returning, asking, solve):
            self.link.answer(stream, ANSWER)
        told = asks.seen[-1][1]
        self.assertEqual((told.build, told.call, told.session), ("build1", 1, "session1"))
        self.assertEqual((told.attributes["target"][:2], [*told.attributes]), ("tx", ["target"]))
        self.assertEqual(told.exporters, (Exporter("moby", {"name": "t:1"}),) * 5)
        [edit] = asks.outcomes[-1].edits
        self.assertLess(len(edit.changes[0].old), 10_000)

    def test_nothing_is_kept_that_is_over(self) -> None:
        """Who is told of a request that was refused or given up gets no more of it than of others."""
        for deciding in (None, Deferred[None]()):
            asks = Asks(edit=RefusedError("no", 403), deciding=deciding)
            self.begin(asks)
            self.link.call(FRONTEND, length_field(2, b"f") + entries(3, {"build-arg:a": self.BIG}), "build1")
            self.link.wires.client.leaves()
            self.assertEqual(asks.requests[0].attributes, {"build-arg:a": self.BIG})
            self.assertEqual(asks.seen[-2][1].attributes, {})


class EndTests(Mediated):
    def test_finished_is_last(self) -> None:
        """The exchange is over after all interceptors know of the ends of all builds."""
        for end in (lambda link: link.wires.client.leaves(), lambda link: link.wires.conversation.abort()):
            asks = Asks(saving=Deferred())
            self.begin(asks)
            self.link.call(SOLVE, SOLVING)
            end(self.link)
            self.assertEqual([each[0] for each in asks.seen], ["call", "request"])
            assert isinstance(asks.saving, Deferred)
            asks.saving.callback(None)
            self.assertEqual([each[0] for each in asks.seen], ["call", "request", "build", "finished"])
            self.assertEqual(asks.seen[-1], ("finished", Outcome.COMPLETED))
            self.both_closed()

    def test_client_leaves_while_held(self) -> None:
        """A client leaves while its request is held: who decides is interrupted, and told of the end after that."""
        interrupted: list[object] = []
        asks = Asks(deciding=Deferred(interrupted.append))
        self.begin(asks)
        self.link.call(SOLVE, SOLVING)
        self.link.wires.client.leaves()
        self.assertEqual(interrupted, [asks.deciding])
        [outcome] = asks.outcomes
        self.assertEqual((outcome.end, outcome.forwarded), (BuildEnd.LOST, False))
        self.both_closed()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_reset_while_held(self) -> None:
        """So it is if it gives up that one call; the connection goes on."""
        asks = Asks(deciding=Deferred())
        self.begin(asks)
        stream = self.link.call(SOLVE, SOLVING)
        self.link.client.h2.reset_stream(stream, Code.CANCEL)
        self.link.pump()
        [outcome] = asks.outcomes
        self.assertEqual((outcome.end, outcome.forwarded), (BuildEnd.CANCELLED, False))
        asks.deciding = None
        self.assertEqual(self.sent(self.link.call(SOLVE, SOLVING)), SOLVING)

    def test_takes_no_notice(self) -> None:
        """An interceptor that goes on when it is interrupted changes nothing any more, and the next is not asked."""

        class Stubborn(Asks):
            async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
                try:
                    return await super().build_request(exchange, request)
                except Exception:
                    return BuildEdit(attributes={"a": "b"})

        second = Asks()
        self.begin(Stubborn(deciding=Deferred()), second)
        self.link.call(SOLVE, SOLVING)
        self.link.wires.client.leaves()
        self.assertEqual(second.requests, [])
        self.both_closed()

    def test_client_leaves_while_the_answer_is_held(self) -> None:
        """A client that leaves before it has the answer: what is being saved is not interrupted."""
        asks = Asks(saving=Deferred())
        self.begin(asks)
        stream = self.link.call(SOLVE, SOLVING)
        self.link.answer(stream, ANSWER)
        self.link.wires.client.leaves()
        assert isinstance(asks.saving, Deferred)
        asks.saving.callback(None)
        self.both_closed()
        self.assertEqual([each.end for each in asks.outcomes], [BuildEnd.ANSWERED])
        self.assertEqual(asks.seen[-1][0], "finished")

    def test_engine_leaves_while_held(self) -> None:
        """An engine that leaves ends all, also what is being decided."""
        asks = Asks(deciding=Deferred())
        self.begin(asks)
        self.link.call(SOLVE, SOLVING)
        self.link.wires.engine.leaves()
        self.both_closed()
        self.assertEqual([each.end for each in asks.outcomes], [BuildEnd.LOST])

    def test_connection_breaks(self) -> None:
        """A connection that breaks, on either side, by reading or by writing, ends all."""
        for number in (0, 1):
            for how in (MemoryWire.resets, MemoryWire.stops_reading):
                asks = Asks()
                self.begin(asks)
                self.link.call(SOLVE, SOLVING)
                how(self.link.ends[number][1])
                for _, wire in self.link.ends[1 - number : 2 - number]:
                    wire.sends(b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678")
                self.both_closed()
                self.assertEqual([each.end for each in asks.outcomes], [BuildEnd.LOST])

    def test_client_half_closes(self) -> None:
        """A client that ends its side gives its builds up; what the engine still says reaches it."""
        asks = Asks()
        self.begin(asks)
        stream = self.link.call(STATUS, b"x")
        self.link.wires.client.half_closes()
        self.assertTrue(self.link.wires.engine.ended)
        self.link.answer(stream, b"late")
        self.assertEqual(self.link.client.seen[stream].data, prefixed(b"late"))
        self.link.wires.engine.half_closes()
        self.both_closed()

    def test_half_close_over_tcp(self) -> None:
        """The watch for a hang-up ends all when the client leaves altogether."""
        asks = Asks()
        self.begin(asks)
        self.link.wires.client.half_closes()
        self.assertFalse(self.link.wires.client.closed)
        self.link.wires.client.leaves()
        self.both_closed()

    def test_engine_half_closes(self) -> None:
        """A client that stays when the engine is done is given a while, and no more."""
        asks = Asks()
        self.begin(asks)
        self.link.wires.engine.half_closes()
        self.assertTrue(self.link.wires.client.ended)
        self.assertFalse(self.link.wires.over)
        self.link.wires.clock.advance(self.link.wires.entrance.limits.linger_seconds + 1)
        self.both_closed()
        self.assertEqual(asks.seen[-1][0], "finished")

    def test_ended_before_the_upgrade(self) -> None:
        """A side that has ended before the other one agreed is not waited for."""
        self.link = BuildLink(asks := Asks(), begin=False)
        self.link.wires.client.sends(UPGRADE)
        self.link.wires.client.leaves()
        if not self.link.wires.over:
            self.link.wires.engine.sends(UPGRADED)
        self.both_closed()
        self.assertEqual(asks.seen[-1][0], "finished")

    def test_half_closed_before_the_upgrade(self) -> None:
        """A client that sent all it has, and its end, before the engine agreed, still gets what the engine says."""
        self.link = link = BuildLink(Asks(), begin=False)
        stream = link.open(STATUS)
        link.client.h2.send_data(stream, prefixed(b"x"), end_stream=True)
        link.wires.client.sends(UPGRADE + link.client.h2.data_to_send())
        link.wires.client.half_closes()
        link.wires.engine.received  # noqa: B018
        link.wires.engine.sends(UPGRADED)
        link.engine.receive(link.wires.engine.received)
        self.assertEqual(link.engine.seen[stream].data, prefixed(b"x"))
        self.assertTrue(link.wires.engine.ended)

    def test_drain(self) -> None:
        """A daemon that takes no further requests lets builds end first."""
        self.begin(asks := Asks())
        stream = self.link.call(SOLVE, SOLVING)
        self.link.wires.conversation.drain()
        self.link.answer(stream, ANSWER)
        self.assertEqual(self.link.client.end_of(stream), (0, ""))
        self.link.wires.client.leaves()
        self.assertEqual([each.end for each in asks.outcomes], [BuildEnd.ANSWERED])
        self.both_closed()

    def test_goodbye(self) -> None:
        """Both ends' goodbyes pass."""
        self.begin(Asks())
        self.link.client.h2.close_connection()
        self.link.pump()
        self.assertIsNotNone(self.link.engine.gone)


class FlowTests(Mediated):
    PIECE = 16 * 1024

    def wide(self, peer: Peer, stream: int) -> None:
        """Have a peer take megabytes of a stream before it says so."""
        for number in (0, stream):
            peer.h2.increment_flow_control_window(8 * 1024**2, number or None)
        self.link.pump()

    def flood(self, sender: Peer, wire: MemoryWire, stream: int) -> int:
        """Send two megabytes; return how many were taken at once."""
        taken = 0
        for _ in range(128):
            sender.h2.send_data(stream, bytes(self.PIECE))
            wire.sends(sender.h2.data_to_send())
            taken += not wire._waiting
        return taken * self.PIECE

    def test_client_reads_slowly(self) -> None:
        """While the client does not read, the engine is not read: nothing grows; afterwards all of it arrives."""
        self.begin(Asks())
        client, engine = self.link.ends
        stream = self.link.call(STATUS, b"x")
        engine[0].h2.send_headers(stream, [(":status", "200")])
        self.link.pump()
        self.wide(client[0], stream)
        client[1].takes(0)
        self.assertLess(self.flood(*engine, stream), 4 * self.PIECE)
        self.assertLess(client[1].most_queued, 4 * self.PIECE)
        self.assertTrue(engine[1].paused)
        client[1].takes(None)
        self.link.pump()
        self.assertEqual(len(client[0].seen[stream].data), 128 * self.PIECE)
        self.assertLess(client[1].most_queued, 4 * self.PIECE)

    def test_engine_reads_slowly(self) -> None:
        """The same the other way."""
        self.begin(Asks())
        client, engine = self.link.ends
        stream = self.link.open(STATUS)
        self.link.pump()
        self.wide(engine[0], stream)
        engine[1].takes(0)
        self.assertLess(self.flood(*client, stream), 4 * self.PIECE)
        self.assertLess(engine[1].most_queued, 4 * self.PIECE)
        self.assertTrue(client[1].paused)
        engine[1].takes(None)
        self.link.pump()
        self.assertEqual(len(engine[0].seen[stream].data), 128 * self.PIECE)

    def test_answers_of_ours_are_not_read(self) -> None:
        """A client that calls and calls what is refused, and reads none of that, is read no more."""
        self.begin(Asks(forbidden=(STATUS, RefusedError("no" * 200, 403))))
        wire = self.link.wires.client
        wire.takes(0)
        self.call_until_paused()
        wire.takes(None)
        self.assertFalse(wire.paused)

    def call_until_paused(self) -> None:
        client = self.link.client
        client.h2.update_settings({3: 2**20})
        wire = self.link.wires.client
        for stream in range(101, 10000, 2):
            headers = b"\x83\x86\x04" + bytes([len(STATUS)]) + STATUS.encode()
            wire.sends(build(Kind.HEADERS, END_STREAM | END_HEADERS, stream, headers))
            if wire.paused:
                return
        self.fail("the client is read for ever")

    def test_answers_of_ours_wait(self) -> None:
        """So it is while an answer is held, for which all others have to wait."""
        asks = Asks(saving=Deferred(), forbidden=(STATUS, RefusedError("no" * 200, 403)))
        self.begin(asks)
        self.link.answer(self.link.call(SOLVE, SOLVING), ANSWER)
        self.call_until_paused()
        assert isinstance(asks.saving, Deferred)
        asks.saving.callback(None)
        self.assertFalse(self.link.wires.client.paused)

    def test_held_answer(self) -> None:
        """While an answer is held the engine is not read; the client is."""
        asks = Asks(saving=Deferred())
        self.begin(asks)
        _, engine = self.link.ends
        stream = self.link.call(SOLVE, SOLVING)
        self.link.answer(stream, ANSWER)
        self.assertTrue(engine[1].paused)
        other = self.link.call(STATUS, b"x")
        self.assertEqual(engine[0].seen[other].data, prefixed(b"x"))
        assert isinstance(asks.saving, Deferred)
        asks.saving.callback(None)
        self.link.pump()
        self.assertFalse(engine[1].paused)

    def test_large_request(self) -> None:
        """A request of many megabytes is edited, and goes on as fast as the engine takes it."""
        self.begin(Asks(edit=BuildEdit(attributes={"label:ours": "1"})))
        message = ASKING + entries(3, {"build-arg:big": "x" * (14 * 1024**2)})
        stream = self.link.call(FRONTEND, message, "build1")
        self.assertEqual(self.request(BuildStep.FRONTEND, stream).attributes["label:ours"], "1")
        self.assertEqual(len(self.sent(stream)), len(message + entries(3, {"label:ours": "1"})))
        self.assertLessEqual(self.link.engine.most, self.PIECE)


class OutcomeTests(SynchronousTestCase):
    def test_pipes(self) -> None:
        """Nothing is diverted into pipes on a mediated connection; an edit that is empty is none."""
        self.begun = BuildLink(Asks())
        for wire in (self.begun.wires.client, self.begun.wires.engine):
            self.assertRaises(AssertionError, wire.receiver.piped, None)
        self.assertFalse(BuildEdit())
        self.assertEqual(BuildOutcome(end=BuildEnd.LOST).edits, ())
