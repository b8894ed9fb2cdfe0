"""A mediated connection, with peers that keep strictly to HTTP/2 at both ends."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.builds import BuildEdit, BuildEnd, BuildRequest, BuildStep, Exporter
from docker_tracker.errors import BadGrpcError
from docker_tracker.http2 import frames, grpc
from docker_tracker.http2.calls import Call
from docker_tracker.http2.connection import MAX_GATHERED
from docker_tracker.http2.frames import Code, Kind, Setting
from docker_tracker.http2.headers import literal
from docker_tracker.http2.messages import read_request
from docker_tracker.http2.protobuf import Message, length_field
from tests.support.http2 import FRONTEND, RESULT, SOLVE, STATUS, Link, entries, prefixed

LABEL = BuildEdit(attributes={"label:ours": "yes"})

SOLVE_MESSAGE = (
    length_field(1, b"ref1")
    + length_field(5, b"session1")
    + entries(7, {"target": "a"})
    + length_field(13, length_field(1, b"moby") + entries(2, {"name": "t:1"}))
)
FRONTEND_MESSAGE = length_field(2, b"dockerfile.v0") + entries(3, {"target": "a"})


def sent(link: Link, stream: int) -> bytes:
    """Return the one message that the engine got."""
    data = link.engine.seen[stream].data
    assert data[:5] == prefixed(data[5:])[:5], data[:5]
    return data[5:]


class Linked(SynchronousTestCase):
    def setUp(self) -> None:
        self.link = Link()

    def labels(self, call: Call, request: BuildRequest | BadGrpcError) -> None:
        """Decide at once."""
        self.link.mediator.release(call, LABEL)

    def outcomes(self) -> list[tuple[BuildEnd, bool, int | None]]:
        """Return how requests ended, in order."""
        return [(outcome.end, outcome.forwarded, outcome.status) for _, outcome in self.link.owner.outcomes]


class RequestTests(Linked):
    def test_released(self) -> None:
        """A request is held until it is released, and arrives as it was sent; so does its answer."""
        stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "ref1")
        self.assertEqual(self.link.engine.seen[stream].data, b"")
        self.assertEqual(self.link.engine.seen[stream].headers[b":path"], FRONTEND.encode())
        [(call, request)] = self.link.owner.requests
        self.assertEqual(
            request,
            BuildRequest(step=BuildStep.FRONTEND, build="ref1", frontend="dockerfile.v0", attributes={"target": "a"}),
        )
        self.link.mediator.release(call)
        self.link.pump()
        self.assertEqual(sent(self.link, stream), FRONTEND_MESSAGE)
        self.assertTrue(self.link.engine.seen[stream].ended)
        self.link.answer(stream, b"result")
        self.assertEqual(self.link.client.seen[stream].data, prefixed(b"result"))
        self.assertEqual(self.link.client.end_of(stream), (0, ""))
        self.assertEqual(self.outcomes(), [(BuildEnd.ANSWERED, True, 0)])

    def test_edited(self) -> None:
        """An edited request arrives with the edit, and all else as it was."""
        self.link.owner.decide = self.labels
        stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "ref1")
        self.assertEqual(sent(self.link, stream), FRONTEND_MESSAGE + entries(3, {"label:ours": "yes"}))

    def test_cut_everywhere(self) -> None:
        """Where the network cuts the bytes makes no difference."""
        for cut in range(1, 40):
            self.link = Link(cut)
            self.link.owner.decide = self.labels
            solve = self.link.call(SOLVE, SOLVE_MESSAGE)
            stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "ref1")
            self.assertEqual(sent(self.link, stream), FRONTEND_MESSAGE + entries(3, {"label:ours": "yes"}))
            self.link.answer(stream, b"r")
            self.link.answer(solve, entries(1, {"containerimage.digest": "sha256:1"}))
            outcomes = [outcome for _, outcome in self.link.owner.outcomes]
            self.assertEqual(outcomes[1].answer, {"containerimage.digest": "sha256:1"})
            self.assertEqual(self.link.client.end_of(solve), (0, ""))

    def test_message_in_pieces(self) -> None:
        """A message may come in many frames, and its stream end behind it, before or after the decision."""
        for early in (True, False):
            self.link = link = Link()
            stream = link.open(FRONTEND, "ref1")
            for byte in prefixed(FRONTEND_MESSAGE):
                self.assertEqual(link.owner.requests, [])
                link.send(stream, bytes([byte]), ends=False)
            [(call, _)] = link.owner.requests
            if early:
                link.mediator.release(call)
            link.client.h2.end_stream(stream)
            link.pump()
            if not early:
                link.mediator.release(call)
                link.pump()
            self.assertEqual(sent(link, stream), FRONTEND_MESSAGE)
            self.assertTrue(link.engine.seen[stream].ended)

    def test_only_the_wanted(self) -> None:
        """Calls of other methods, and steps that nobody asked for, are copied frame by frame."""
        self.link = Link(steps=frozenset((BuildStep.SOLVE,)))
        for path in (STATUS, FRONTEND):
            stream = self.link.call(path, FRONTEND_MESSAGE, "b")
            self.assertEqual(sent(self.link, stream), FRONTEND_MESSAGE)
            self.assertIn((path, "b"), self.link.owner.opens)
            self.link.answer(stream, b"x" * 20000)
            self.assertEqual(self.link.client.seen[stream].data, prefixed(b"x" * 20000))
        self.assertEqual((self.link.owner.requests, self.link.owner.outcomes), ([], []))

    def test_many_at_a_time(self) -> None:
        """Builds on one connection are decided on in any order, and meet in no other way."""
        streams = [self.link.call(FRONTEND, FRONTEND_MESSAGE + entries(3, {"n": str(n)}), "r") for n in range(40)]
        for call, _ in reversed(self.link.owner.requests):
            self.link.mediator.release(call, LABEL)
        self.link.pump()
        for number, stream in enumerate(streams):
            attributes = read_request(BuildStep.FRONTEND, sent(self.link, stream), "").attributes
            self.assertEqual(attributes, {"target": "a", "n": str(number), "label:ours": "yes"})
            self.link.answer(stream)
        self.assertEqual(self.outcomes(), [(BuildEnd.ANSWERED, True, 0)] * 40)

    def test_pings_go_through(self) -> None:
        """A ping is answered by the other end."""
        self.link.client.h2.ping(b"12345678")
        self.link.engine.h2.ping(b"12345678")
        self.link.pump()
        self.assertEqual((self.link.client.pings, self.link.engine.pings), (1, 1))

    def test_result(self) -> None:
        """The image's configuration in a result can be replaced."""
        config = json.dumps({"config": {}}).encode()
        metadata = entries(10, {"containerimage.config": config, "refs": "x"})
        stream = self.link.call(RESULT, length_field(1, length_field(3, b"ref") + metadata), "ref1")
        [(call, request)] = self.link.owner.requests
        assert isinstance(request, BuildRequest)
        self.assertEqual(request.image_configs, {"containerimage.config": config})
        self.link.mediator.release(call, BuildEdit(image_configs={"containerimage.config": b"{}"}))
        self.link.pump()
        [result] = Message(sent(self.link, stream)).values(1)
        self.assertEqual(Message(result).entries(10), {"refs": b"x", "containerimage.config": b"{}"})
        self.assertEqual(Message(result).values(3), [b"ref"])


class UnreadableTests(Linked):
    def problem(self, data: bytes) -> tuple[Call, str]:
        """Send these bytes as a message; return why it cannot be read."""
        self.link = Link()
        stream = self.link.open(FRONTEND, "r")
        self.link.send(stream, data)
        [(call, error)] = self.link.owner.requests
        assert isinstance(error, BadGrpcError)
        return call, str(error)

    def test_unreadable(self) -> None:
        """What cannot be read is told as such; it can be passed on as it is."""
        for data, problem in (
            (prefixed(b"zipped", 1), "compressed"),
            (b"\x00\x00\x00\x00\x09short", "cut off"),
            (b"\x00\x00", "cut off"),
            (prefixed(b"\x12\x7f"), "ends within a field"),
            (prefixed(b"\x13\x14"), "groups"),
        ):
            call, error = self.problem(data)
            self.assertIn(problem, error)
            self.link.mediator.release(call)
            self.link.pump()
            self.assertEqual(self.link.engine.seen[1].data, data)
            self.assertTrue(self.link.engine.seen[1].ended)

    def test_not_editable(self) -> None:
        """What cannot be read cannot be edited; it is held still."""
        call, _ = self.problem(prefixed(b"zipped", 1))
        self.assertRaises(BadGrpcError, self.link.mediator.release, call, LABEL)
        self.link.mediator.refuse(call, 13, "no")
        self.link.pump()
        self.assertEqual(self.link.client.end_of(1), (13, "no"))

    def test_no_message(self) -> None:
        """A call without any message is the engine's to refuse."""
        stream = self.link.open(FRONTEND, "r", ends=True)
        self.link.pump()
        self.assertTrue(self.link.engine.seen[stream].ended)
        self.assertEqual(self.link.owner.requests, [])

    def test_too_large(self) -> None:
        """A message that says it is too large is refused by its prefix, and its connection goes on."""
        stream = self.link.open(FRONTEND, "r")
        self.link.send(stream, b"\x00" + (grpc.MAX_MESSAGE + 1).to_bytes(4, "big") + b"begin", ends=False)
        self.assertEqual(self.link.client.end_of(stream), (8, "the request is larger than 16 MiB"))
        self.assertEqual(self.link.engine.seen[stream].reset, Code.CANCEL)
        self.assertEqual(self.link.owner.requests, [])
        other = self.link.call(STATUS, b"s")
        self.assertEqual(sent(self.link, other), b"s")

    def test_too_many_large(self) -> None:
        """What one connection has of requests here is limited; those beyond are refused."""
        largest = length_field(1, bytes(grpc.MAX_MESSAGE - 5))
        for _ in range(2):
            self.link.call(FRONTEND, largest, "r")
        self.assertEqual(len(self.link.owner.requests), 2)
        self.assertLessEqual(MAX_GATHERED, 2 * (grpc.MAX_MESSAGE + 5))
        stream = self.link.open(FRONTEND, "r")
        self.link.send(stream, prefixed(bytes(100)), ends=False)
        self.assertEqual(self.link.client.end_of(stream)[0], 8)
        self.link.mediator.release(self.link.owner.requests[0][0])
        self.link.pump()
        self.link.call(FRONTEND, FRONTEND_MESSAGE, "r")
        self.assertEqual(len(self.link.owner.requests), 3)

    def test_second_message(self) -> None:
        """A second message in a call that takes one ends the connection, before and after the decision."""
        for behind in (True, False):
            self.link = Link()
            stream = self.link.open(FRONTEND, "r")
            self.link.send(stream, prefixed(b"") * (2 if behind else 1), ends=False)
            if not behind:
                self.link.mediator.release(self.link.owner.requests[0][0])
                self.link.send(stream, prefixed(b""), ends=False)
            self.assertIn("second message", str(self.link.owner.failures[0]))
            self.assertTrue(self.link.mediator.over)


class RefusalTests(Linked):
    def test_refused(self) -> None:
        """A refused client gets status and message; the engine never gets the request, and its stream is reset."""
        stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "r")
        call = self.link.owner.requests[0][0]
        self.link.mediator.refuse(call, 7, "100 % no: \u00e4sk\n" + "x" * 600)
        self.link.pump()
        status, message = self.link.client.end_of(stream)
        self.assertEqual((status, message[:30]), (7, "100 %25 no: %C3%A4sk%0Axxxxxxxxxx"[:30]))
        self.assertEqual(self.link.client.seen[stream].headers[b":status"], b"200")
        self.assertIsNone(self.link.client.seen[stream].reset)
        self.assertEqual((self.link.engine.seen[stream].data, self.link.engine.seen[stream].reset), (b"", Code.CANCEL))
        self.assertEqual(self.outcomes(), [(BuildEnd.REFUSED, False, 7)])
        self.link.mediator.release(call)
        self.link.mediator.refuse(call, 7, "again")
        self.assertEqual((self.link.mediator.for_client(), self.link.mediator.for_engine()), (b"", b""))

    def test_table_is_kept(self) -> None:
        """Headers that follow a refusal are read by the client as before."""
        for _ in range(3):
            first = self.link.call(STATUS, b"s")
            self.link.answer(first, b"a", 5, "text")
            stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "r")
            self.link.mediator.refuse(self.link.owner.requests[-1][0], 7, "no")
            second = self.link.call(STATUS, b"s")
            self.link.answer(second, b"a", 5, "text")
            self.assertEqual(self.link.client.end_of(first), (5, "text"))
            self.assertEqual(self.link.client.end_of(stream), (7, "no"))
            self.assertEqual(self.link.client.end_of(second), (5, "text"))

    def test_path(self) -> None:
        """A call can be refused by its path; what its client still sends is taken and dropped."""
        self.link.owner.forbidden = ("/moby.buildkit.v1.Control/Prune",)
        stream = self.link.open("/moby.buildkit.v1.Control/Prune")
        self.link.client.h2.send_data(stream, prefixed(b"all"), end_stream=True)
        before = self.link.client.h2.outbound_flow_control_window
        self.link.pump()
        status, message = self.link.client.end_of(stream)
        self.assertEqual(status, 7)
        self.assertTrue(message.startswith("/moby.buildkit.v1.Control/Prune is not for you, 100 %25 sure; ask f"))
        self.assertEqual(self.link.client.h2.outbound_flow_control_window, before + 8)
        self.assertEqual(self.link.engine.seen[stream].data, b"")
        self.assertEqual(self.link.engine.seen[stream].reset, Code.CANCEL)

    def test_spelled_otherwise(self) -> None:
        """A path that the engine would read as another one is refused."""
        for path in (SOLVE.replace("S", "%53"), SOLVE + "?a", "/" + SOLVE, "/Solve", "/a/b/Solve"):
            stream = self.link.open(path)
            self.link.pump()
            self.assertEqual(self.link.client.end_of(stream), (12, "the path is not /package.Service/Method"))
            self.assertEqual(self.link.engine.seen[stream].reset, Code.CANCEL)
        self.assertEqual(self.link.owner.opens, [])

    def test_late_frames(self) -> None:
        """What the engine still sends of a refused call does not reach the client, but for headers and their table."""
        stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "r")
        engine = self.link.engine.h2
        engine.send_headers(stream, [(":status", "200"), ("x", "early")])
        self.link.pump()
        engine.send_data(stream, b"late")
        engine.increment_flow_control_window(5, stream)
        data = engine.data_to_send()
        self.link.mediator.refuse(self.link.owner.requests[0][0], 7, "no")
        window = engine.outbound_flow_control_window
        self.link.mediator.engine_data(data)
        self.link.pump()
        self.assertEqual(self.link.client.seen[stream].data, b"")
        self.assertEqual(self.link.client.seen[stream].trailers, {b"grpc-status": b"7", b"grpc-message": b"no"})
        self.assertEqual(engine.outbound_flow_control_window, window + 4)

    def test_late_frames_of_the_client(self) -> None:
        """What the client still sends of a refused call does not reach the engine."""
        stream = self.link.open(FRONTEND, "r")
        self.link.send(stream, prefixed(b""), ends=False)
        self.link.client.h2.increment_flow_control_window(5, stream)
        self.link.client.h2.reset_stream(stream)
        data = self.link.client.h2.data_to_send()
        self.link.mediator.refuse(self.link.owner.requests[0][0], 7, "no")
        self.link.mediator.for_engine()
        self.link.mediator.client_data(data)
        self.assertEqual(self.link.mediator.for_engine(), b"")

    def test_refused_before_the_end(self) -> None:
        """A client that has not ended its request is told that no more is wanted."""
        stream = self.link.open(FRONTEND, "r")
        self.link.send(stream, prefixed(b""), ends=False)
        self.link.mediator.refuse(self.link.owner.requests[0][0], 7, "no")
        self.link.pump()
        self.assertEqual(self.link.client.end_of(stream), (7, "no"))
        self.assertEqual(self.link.client.seen[stream].reset, Code.NO_ERROR)

    def test_few_are_remembered(self) -> None:
        """Refused calls are forgotten after a while; the connection goes on."""
        for _ in range(1100):
            stream = self.link.open("/Solve", ends=True)
            self.link.pump()
            self.link.engine.seen.clear()
        self.assertEqual(self.link.client.end_of(stream)[0], 12)


class AnswerTests(Linked):
    def setUp(self) -> None:
        super().setUp()
        self.link.owner.decide = self.labels
        self.digests = {"containerimage.digest": "sha256:1", "image.name": "t:1"}

    def test_seen_before_the_client(self) -> None:
        """A held answer reaches the client when it is resumed, and what came behind it after it."""
        self.link.owner.holds = True
        stream = self.link.call(SOLVE, SOLVE_MESSAGE)
        other = self.link.call(STATUS, b"s")
        self.link.answer(stream, entries(1, self.digests))
        self.assertTrue(self.link.mediator.paused)
        [(_, outcome)] = self.link.owner.outcomes
        self.assertEqual((outcome.status, outcome.answer), (0, self.digests))
        self.link.answer(other, b"a")
        held = self.link.call(FRONTEND, FRONTEND_MESSAGE, "ref1")  # the other direction goes on
        self.assertTrue(self.link.engine.seen[held].ended)
        self.assertFalse(self.link.client.seen[stream].ended)
        self.assertNotIn(other, self.link.client.seen)
        self.link.mediator.resume()
        self.link.pump()
        self.assertEqual(self.link.client.end_of(stream), (0, ""))
        self.assertEqual(self.link.client.end_of(other), (0, ""))
        self.link.mediator.resume()
        self.assertEqual(self.link.mediator.for_client(), b"")

    def test_request(self) -> None:
        """What a SOLVE asks for is told in full, and it is told from a probe."""
        self.link.call(SOLVE, SOLVE_MESSAGE)
        self.link.call(SOLVE, length_field(1, b"ref2"))
        real, probe = (request for _, request in self.link.owner.requests)
        assert isinstance(real, BuildRequest)
        assert isinstance(probe, BuildRequest)
        self.assertEqual((real.build, real.session, real.is_probe), ("ref1", "session1", False))
        self.assertEqual(real.exporters, (Exporter("moby", {"name": "t:1"}),))
        self.assertEqual((probe.build, probe.is_probe), ("ref2", True))

    def test_failure(self) -> None:
        """A failed build's status and message are told; there is no answer."""
        stream = self.link.call(SOLVE, SOLVE_MESSAGE)
        self.link.answer(stream, None, 2, "exit code%3A 1")
        [(_, outcome)] = self.link.owner.outcomes
        self.assertEqual((outcome.end, outcome.status), (BuildEnd.ANSWERED, 2))
        self.assertEqual((outcome.message, outcome.answer), ("exit code: 1", {}))
        self.assertEqual(self.link.client.end_of(stream), (2, "exit code%3A 1"))

    def test_headers_alone(self) -> None:
        """An answer may consist of headers alone."""
        stream = self.link.call(SOLVE, SOLVE_MESSAGE)
        self.link.engine.h2.send_headers(stream, [(":status", "200"), ("grpc-status", "12")], end_stream=True)
        self.link.pump()
        self.assertEqual(self.outcomes(), [(BuildEnd.ANSWERED, True, 12)])

    def test_unreadable_answer(self) -> None:
        """An answer that cannot be read goes through, and its problem is told."""
        for message, problem in ((b"\x0a\x7f", "ends within"), (None, "cut off")):
            stream = self.link.call(SOLVE, SOLVE_MESSAGE)
            self.link.answer(stream, message)
            outcome = self.link.owner.outcomes[-1][1]
            self.assertIn(problem, outcome.problem)
            self.assertEqual((outcome.status, outcome.answer), (0, {}))
            self.assertEqual(self.link.client.end_of(stream), (0, ""))

    def test_no_status(self) -> None:
        """An answer that ends with data, as no gRPC server's does, has no status."""
        stream = self.link.call(SOLVE, SOLVE_MESSAGE)
        self.link.engine.h2.send_headers(stream, [(":status", "502")])
        self.link.engine.h2.send_data(stream, b"text", end_stream=True)
        self.link.pump()
        self.assertEqual(self.outcomes(), [(BuildEnd.ANSWERED, True, None)])
        self.assertEqual(self.link.client.seen[stream].data, b"text")

    def test_early_answer(self) -> None:
        """An engine that answers what it did not get is heard; the request is dropped."""
        self.link.owner.decide = None
        stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "r")
        self.link.answer(stream, None, 4, "deadline")
        self.assertEqual(self.outcomes(), [(BuildEnd.ANSWERED, False, 4)])
        self.assertEqual(self.link.client.end_of(stream), (4, "deadline"))
        self.link.mediator.release(self.link.owner.requests[0][0])
        self.link.pump()
        self.assertEqual(self.link.engine.seen[stream].data, b"")

    def test_large_trailers(self) -> None:
        """Trailers of megabytes, as a failed build with a large Dockerfile has, go through; the status is read."""
        for size in (400_000, 2_800_000):
            self.link = link = Link()
            link.owner.decide = self.labels
            link.client.h2.update_settings({Setting.MAX_FRAME_SIZE: 2**20})
            link.client.h2.decoder.max_header_list_size = 2**24
            stream = link.call(SOLVE, SOLVE_MESSAGE)
            details = literal(b"grpc-status-details-bin", b"x" * size)
            block = b"\x88" + literal(b"grpc-status", b"2") + details + literal(b"grpc-message", b"no")
            pieces = [block[place : place + 2**16] for place in range(0, len(block), 2**16)]
            for number, piece in enumerate(pieces):
                kind = Kind.CONTINUATION if number else Kind.HEADERS
                flags = (0 if number else frames.END_STREAM) | (frames.END_HEADERS if piece is pieces[-1] else 0)
                link.mediator.engine_data(frames.build(kind, flags, stream, piece))
                if piece is not pieces[-1]:
                    self.assertEqual(link.mediator.for_client(), b"")
            link.pump()
            self.assertEqual(link.client.end_of(stream), (2, "no"))
            self.assertEqual(len(link.client.seen[stream].headers[b"grpc-status-details-bin"]), size)
            self.assertEqual(link.owner.outcomes[0][1].message, "no")


class ResetTests(Linked):
    def test_client_resets(self) -> None:
        """A client's reset goes through; what was held, or still waited, is dropped and told once."""
        for phase in ("gathered", "held", "sent"):
            self.link = link = Link()
            stream = link.open(FRONTEND, "r")
            message = prefixed(FRONTEND_MESSAGE)
            link.send(stream, message[:-1] if phase == "gathered" else message, ends=False)
            if phase == "sent":
                link.mediator.release(link.owner.requests[0][0])
                link.pump()
            link.client.h2.reset_stream(stream, 8)
            link.pump()
            self.assertEqual(link.engine.seen[stream].reset, 8)
            told = {"gathered": [], "held": [(BuildEnd.CANCELLED, False, None)]}
            self.assertEqual(self.outcomes(), told.get(phase, [(BuildEnd.CANCELLED, True, None)]))
            for call, _ in link.owner.requests:
                link.mediator.release(call)
                link.mediator.refuse(call, 1, "late")
            link.pump()
            self.assertEqual(link.engine.seen[stream].data, message if phase == "sent" else b"")
            other = link.call(STATUS, b"s")
            self.assertEqual(sent(link, other), b"s")

    def test_engine_resets(self) -> None:
        """An engine's reset goes through, and can be held back as an answer can."""
        self.link.owner.holds = True
        stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "r")
        self.link.engine.h2.reset_stream(stream, 2)
        self.link.pump()
        self.assertEqual(self.outcomes(), [(BuildEnd.ABORTED, False, None)])
        self.assertIsNone(self.link.client.seen.get(stream) and self.link.client.seen[stream].reset)
        self.link.mediator.resume()
        self.link.pump()
        self.assertEqual(self.link.client.seen[stream].reset, 2)

    def test_reset_of_others(self) -> None:
        """Resets of calls that are only copied go through, from both sides."""
        first, second = self.link.call(STATUS, b"s"), self.link.call(STATUS, b"s")
        self.link.client.h2.reset_stream(first, 8)
        self.link.engine.h2.reset_stream(second, 2)
        self.link.pump()
        self.assertEqual((self.link.engine.seen[first].reset, self.link.client.seen[second].reset), (8, 2))

    def test_late_headers_of_the_client(self) -> None:
        """Headers of a call that is over go through, as the engine's table needs them."""
        stream = self.link.call(STATUS, b"s")
        self.link.engine.h2.reset_stream(stream, 2)
        self.link.pump()
        raw = frames.build(Kind.HEADERS, 5, stream, literal(b"x", b"y"))
        self.link.mediator.client_data(raw)
        self.assertEqual(self.link.mediator.for_engine(), raw)
        self.assertEqual(self.link.owner.opens, [(STATUS, "")])

    def test_reset_of_a_refused_call(self) -> None:
        """The engine's late reset of a refused call, and its windows, do not reach the client."""
        stream = self.link.call(FRONTEND, FRONTEND_MESSAGE, "r")
        self.link.mediator.refuse(self.link.owner.requests[0][0], 7, "no")
        self.link.pump()
        self.link.mediator.engine_data(frames.window_update(stream, 9) + frames.rst_stream(stream, 2))
        self.assertEqual(self.link.mediator.for_client(), b"")


class EndTests(Linked):
    def test_client_gone(self) -> None:
        """A client that goes takes its held requests with it; those that were sent may still be answered."""
        held = self.link.call(FRONTEND, FRONTEND_MESSAGE, "a")
        solve = self.link.call(SOLVE, SOLVE_MESSAGE)
        waits = self.link.call(SOLVE, SOLVE_MESSAGE)
        for call, _ in self.link.owner.requests[1:]:
            self.link.mediator.release(call)
        self.link.pump()
        self.link.mediator.client_ended()
        self.assertEqual(self.outcomes(), [(BuildEnd.CANCELLED, False, None)])
        self.assertEqual(self.link.owner.outcomes[0][0].stream, held)
        self.link.answer(solve, entries(1, {"containerimage.digest": "sha256:1"}))
        self.assertEqual(self.outcomes()[1:], [(BuildEnd.ANSWERED, True, 0)])
        self.link.mediator.close()
        self.link.mediator.close()
        self.assertEqual(self.outcomes()[2:], [(BuildEnd.CANCELLED, True, None)])
        self.assertEqual(self.link.owner.outcomes[2][0].stream, waits)

    def test_engine_gone(self) -> None:
        """All that has no end when the connection ends is lost, and told once."""
        self.link.call(FRONTEND, FRONTEND_MESSAGE, "a")
        self.link.owner.decide = self.labels
        self.link.call(SOLVE, SOLVE_MESSAGE)
        self.link.mediator.close()
        self.assertEqual(self.outcomes(), [(BuildEnd.LOST, False, None), (BuildEnd.LOST, True, None)])
        self.link.mediator.client_data(b"more")
        self.link.mediator.engine_data(b"more")
        self.assertEqual((self.link.mediator.for_client(), self.link.owner.failures), (b"", []))

    def test_nothing_after_the_end(self) -> None:
        """Nothing is for the engine after its side was half-closed."""
        self.link.pump()
        self.link.mediator.client_ended()
        self.link.mediator.engine_data(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")
        self.assertEqual(len(self.link.owner.failures), 1)
        self.assertEqual(self.link.mediator.for_engine(), b"")

    def test_goaway_goes_through(self) -> None:
        """Either side's own GOAWAY reaches the other one."""
        self.link.client.h2.close_connection()
        self.link.pump()
        self.assertIsNotNone(self.link.engine.gone)
        self.assertEqual(self.link.owner.failures, [])


class BrokenTests(Linked):
    def broken(self, from_client: bytes = b"", from_engine: bytes = b"") -> str:
        """Send bytes that break HTTP/2; return what is told of them. Both sides get a GOAWAY, and nothing behind it."""
        link = self.link
        link.pump()
        if from_client:
            link.mediator.client_data(from_client)
        if from_engine:
            link.mediator.engine_data(from_engine)
        to_client, to_engine = link.mediator.for_client(), link.mediator.for_engine()
        link.client.receive(to_client)
        link.engine.receive(to_engine)
        [error] = link.owner.failures
        for peer in (link.client, link.engine):
            assert peer.gone is not None
            self.assertEqual(peer.gone.error_code, error.code)
            self.assertEqual(peer.gone.additional_data, error.message.encode())
        self.assertTrue(link.mediator.over)
        link.mediator.client_data(b"more")
        link.mediator.engine_data(b"more")
        self.assertEqual(link.mediator.for_client() + link.mediator.for_engine(), b"")
        self.link = Link()
        return error.message

    def test_broken_frames(self) -> None:
        """Frames that break a rule that we rely on end the connection, for both sides."""
        build = frames.build
        for data, problem in (
            (build(Kind.DATA, 0, 1, bytes(16385)), "16385 bytes"),
            (build(Kind.DATA, 0, 0, b"a"), "without a stream"),
            (build(Kind.HEADERS, 4, 0, b"\x88"), "HEADERS frame of a stream"),
            (build(Kind.CONTINUATION, 4, 1, b"\x88"), "does not begin"),
            (build(Kind.HEADERS, 0, 1, b"\x88") + build(6, 0, 0, bytes(8)), "within a header block"),
            (build(Kind.HEADERS, 0, 1, b"\x88") + build(Kind.CONTINUATION, 4, 3), "within a header block"),
            (build(Kind.HEADERS, 4, 1, b"\xff"), "ends within a field"),
            (build(Kind.HEADERS, 4, 1, b"\xbe"), "is broken: "),
            (build(Kind.HEADERS, 12, 1, b"\x09\x88"), "more padding"),
            (build(Kind.RST_STREAM, 0, 1, b"abc"), "four bytes"),
            (build(Kind.SETTINGS, 0, 0, b"abc"), "SETTINGS"),
            (build(Kind.SETTINGS, 0, 0, b"\x00\x05\x00\x00\x00\x01"), "largest frame of 1"),
            (build(Kind.SETTINGS, 0, 0, b"\x00\x04\xff\xff\xff\xff"), "initial window"),
            (build(Kind.PUSH_PROMISE, 4, 1, b"\x00\x00\x00\x02\x88"), "pushed"),
        ):
            self.assertIn(problem, self.broken(from_client=data))
            self.assertIn(problem, self.broken(from_engine=data))

    def test_broken_windows(self) -> None:
        """Windows of the engine's that grow by nothing, or too far, end the connection."""
        update = frames.window_update
        self.assertIn("by nothing", self.broken(from_engine=update(0, 0)))
        self.assertIn("larger than", self.broken(from_engine=update(0, 2**31 - 1)))

    def test_broken_streams(self) -> None:
        """A client's headers on an even stream, or with two paths, and its trailers, end the connection."""
        path = literal(b":path", SOLVE.encode())
        others = b"\x83\x86" + literal(b":authority", b"localhost")  # a POST
        build = frames.build
        self.assertIn("even number", self.broken(build(Kind.HEADERS, 4, 2, others + path)))
        self.assertIn("two paths", self.broken(build(Kind.HEADERS, 4, 1, others + path + path)))
        head = build(Kind.HEADERS, 4, 1, others + path)
        self.assertIn("trailers", self.broken(head + build(Kind.HEADERS, 5, 1, b"")))
        data = build(Kind.DATA, 1, 1, prefixed(b""))
        self.assertIn("its client ended", self.broken(head + data + build(Kind.DATA, 1, 1)))

    def test_too_many_builds(self) -> None:
        """Calls that are followed at a time are limited."""
        path = literal(b":path", SOLVE.encode())
        self.link.mediator.client_data(frames.PREFACE)
        for number in range(1001):
            self.assertEqual(self.link.owner.failures, [])
            self.link.mediator.client_data(frames.build(Kind.HEADERS, 4, number * 2 + 1, path))
        self.assertIn("too many builds", self.link.owner.failures[0].message)

    def test_no_http2(self) -> None:
        """What does not begin as HTTP/2 does is not passed on, not even its first bytes."""
        link = Link()
        link.mediator.client_data(frames.PREFACE[:9])
        self.assertEqual(link.mediator.for_engine(), b"")
        link.mediator.client_data(b"GET / HTTP/1.1\r\n")
        link.client.receive(link.mediator.for_client())
        self.assertIsNotNone(link.client.gone)
        self.assertEqual(link.mediator.for_engine(), b"")

    def test_engine_without_settings(self) -> None:
        """An engine that does not begin with its settings is not passed on."""
        for first in (frames.build(6, 0, 0, bytes(8)), frames.build(Kind.SETTINGS, frames.ACK, 0)):
            link = Link()
            link.mediator.client_data(link.client.h2.data_to_send())
            link.mediator.engine_data(first)
            self.assertIn("first frame", link.owner.failures[0].message)
            link.client.receive(link.mediator.for_client())
            self.assertIsNotNone(link.client.gone)

    def test_long_header_block(self) -> None:
        """A header block without an end is given up."""
        link = Link()
        link.pump()
        link.mediator.client_data(frames.build(Kind.HEADERS, 0, 1))
        piece = frames.build(Kind.CONTINUATION, 0, 1, bytes(16384))
        for _ in range(8):
            link.mediator.client_data(piece)
        self.assertIn("more than 131072", link.owner.failures[0].message)
