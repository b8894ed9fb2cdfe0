"""A quiet build is asked to say more than it tells its client: the engine is silent of the steps of a quiet one."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.document import Document
from docker_tracker.engine.quiet_build import PodmansQuietBuild, QuietBuild, tells_id
from docker_tracker.engine.recognise import recognise
from docker_tracker.exchange import Outcome
from docker_tracker.plugins.recorder import recorder
from docker_tracker.testing import FakeDaemon, FakeEngine, Played, build, play, request, response

IMAGE = "sha256:" + "a" * 64
STEPS = [{"stream": "Step 1/1 : FROM base"}, {"stream": " ---> 0123456789ab\n"}]
BUILT = [*STEPS, {"aux": {"ID": IMAGE}}, {"stream": "Successfully built aaaaaaaaaaaa\n"}]
FAILED = [*STEPS, {"errorDetail": {"message": "no"}, "error": "no"}]
#: What an engine answered to a quiet build (Docker 20.10).
QUIET = b'{"stream":"%s\\n"}\r\n' % IMAGE.encode()


def written(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\r\n" for line in lines)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


class SummaryTests(SynchronousTestCase):
    def sum_up(self, lines: list[Any], most: int = 1000) -> bytes:
        summary = QuietBuild(most)
        for line in written(lines).split(b"\r\n")[:-1]:
            summary.line(line, Document.parse(line))
        return summary.end()

    def test_answers(self) -> None:
        """The ID if it went well, every line if it did not: also where only its tag could not be set."""
        late = [*BUILT, {"errorDetail": {"message": "no"}, "error": "no"}]
        for lines, wanted in (
            (BUILT, QUIET),
            (FAILED, written(FAILED)),
            (late, written(late)),
            (STEPS, written(STEPS)),
            ([], b""),
        ):
            self.assertEqual(self.sum_up(lines), wanted, lines)

    def test_output_is_no_word_of_the_engine(self) -> None:
        """What a step writes is no ID and no error."""
        lines = [{"stream": '{"aux":{"ID":"sha256:' + "b" * 64 + '"}}\n'}, {"stream": '{"error":"no"}\n'}, *BUILT]
        self.assertEqual(self.sum_up(lines), QUIET)

    def test_bound(self) -> None:
        """Of more than is kept the end is told, and that something is missing; the ID and the error are not lost."""
        many = [{"stream": f"{number:04}\n"} for number in range(1000)]
        told = self.sum_up([*many, *FAILED]).split(b"\r\n")
        self.assertIn(b"left out", told[0])
        self.assertEqual(b"\r\n".join(told[-3:]), written(FAILED[1:]))
        self.assertLess(sum(map(len, told)), 1200)
        self.assertEqual(self.sum_up([{"aux": {"ID": IMAGE}}, *many]), QUIET)
        self.assertIn(b"left out", self.sum_up([{"error": "no"}, *many, {"aux": {"ID": IMAGE}}]))

    def test_podman(self) -> None:
        """Podman's tells the bare ID that comes last, or the error alone."""
        told, other = ({"stream": digit * 64 + "\n"} for digit in "ab")
        step = {"stream": "--> " + "a" * 12 + "\n"}
        for lines, wanted in (
            ([other, step, told, {"aux": {"ID": IMAGE}}, {"stream": "Successfully built aaaaaaaaaaaa\n"}], told),
            ([step, other, FAILED[-1]], FAILED[-1]),
            ([step], None),
        ):
            summary = PodmansQuietBuild()
            for line in lines:
                summary.line(json.dumps(line).encode(), Document.of(line))
            self.assertEqual(summary.end(), b"" if wanted is None else json.dumps(wanted).encode() + b"\n", lines)

    def test_versions(self) -> None:
        """Before 1.30 only a quiet build tells the full ID; an odd version is the engine's to refuse."""
        for path, tells in (
            ("/build", True),
            ("/v1.30/build", True),
            ("/v1.41/build", True),
            ("/v1.29/build", False),
            ("/v1.9/build", False),
            ("/v1/build", False),
            ("/v1.4.1/build", False),
        ):
            self.assertEqual(tells_id(recognise("POST", path)), tells, path)


class WayTests(SynchronousTestCase):
    """Through the proxy and the recorder."""

    def setUp(self) -> None:
        self.daemon = FakeDaemon()
        self.daemon.engine.answers["GET /images/json"] = []

    def play(self, target: str, *answers: bytes) -> Played:
        return play(
            [build(recorder, daemon=self.daemon)], request("POST", target, b"tar"), *answers, daemon=self.daemon
        )

    def head(self, *fields: str) -> bytes:
        return "\r\n".join(["HTTP/1.1 200 OK", "Api-Version: 1.41", *fields, "", ""]).encode()

    def recorded(self) -> list[str]:
        return [each.identifier for each in self.daemon.ledger.recorded]

    def test_quiet(self) -> None:
        """The engine is asked for a build that is not; the client gets what a quiet one tells, however it is framed."""
        body = written(BUILT)
        for answers in (
            [self.head("Transfer-Encoding: chunked") + chunked(body[:30], body[30:])],
            [self.head("Transfer-Encoding: chunked"), chunked(body[:30], body[30:])],
            [self.head(f"Content-Length: {len(body)}") + body],
            [self.head("Connection: close") + body[:-2]],
        ):
            played = self.play("/v1.41/build?t=a&q=1&rm=1", *answers)
            self.assertEqual(played.engine_head.target, "/v1.41/build?t=a&q=0&rm=1")
            head, _, told = played.to_client.partition(b"\r\n\r\n")
            self.assertEqual(told, QUIET)
            self.assertIn(b"\r\nContent-Length: %d" % len(QUIET), head)
            self.assertIn(b"Api-Version: 1.41", head)
            self.assertNotIn(b"Transfer-Encoding", head)
            self.assertEqual(played.outcome, Outcome.COMPLETED)
            self.assertIn(IMAGE, self.recorded())
            self.daemon.ledger.recorded.clear()

    def test_podman(self) -> None:
        """So it is with Podman's, on both its paths, whatever version is asked for."""

        async def identity(engine: FakeEngine) -> str:
            return "podman 5.4.2 host"

        self.patch(FakeEngine, "identity", identity)
        told = {"stream": IMAGE[7:] + "\n"}
        for path in ("/build", "/v1.24/build", "/v5.0.0/libpod/build"):
            body = b"".join(json.dumps(line).encode() + b"\n" for line in (*STEPS, told))
            played = self.play(f"{path}?q=1", self.head("Transfer-Encoding: chunked") + chunked(body))
            self.assertEqual(played.engine_head.target, f"{path}?q=0&forcerm=1")
            self.assertEqual(played.to_client.partition(b"\r\n\r\n")[2], json.dumps(told).encode() + b"\n")

    def test_failed(self) -> None:
        """One that fails tells all that a quiet one would."""
        body = written(FAILED)
        played = self.play("/build?q=1", self.head("Transfer-Encoding: chunked") + chunked(body))
        self.assertEqual(played.to_client.partition(b"\r\n\r\n")[2], body)

    def test_refused(self) -> None:
        """An error of the engine's goes by as it is."""
        answer = response(400, {"message": "dockerfile parse error"})
        self.assertEqual(self.play("/build?q=1", answer).to_client, answer)

    def test_broken_off(self) -> None:
        """If the engine breaks off, the client is told so, as it has got nothing yet."""
        played = self.play("/build?q=1", self.head("Transfer-Encoding: chunked") + chunked(written(STEPS))[:-5])
        self.assertEqual((played.outcome, played.exchange.status), (Outcome.ENGINE_FAILED, 502))
        self.assertTrue(played.to_client.startswith(b"HTTP/1.1 502 "), played.to_client)

    def test_untouched(self) -> None:
        """What is not quiet, or is BuildKit's, or would not tell the ID otherwise, passes byte for byte."""
        for target in ("/build?q=0", "/build", "/build?q=1&version=2", "/v1.24/build?q=1", "/images/load?quiet=1"):
            answer = self.head("Transfer-Encoding: chunked") + chunked(written(BUILT))
            played = self.play(target, answer)
            self.assertEqual((played.engine_head.target, played.to_client), (target, answer), target)

    def test_output_is_not_believed(self) -> None:
        """An ID that a step prints is not recorded, as it would be of a build that the engine takes for quiet."""
        lines = [*STEPS, {"stream": "sha256:" + "b" * 64 + "\n"}, *BUILT[2:]]
        self.play("/build?q=1", self.head("Transfer-Encoding: chunked") + chunked(written(lines)))
        self.assertEqual(set(self.recorded()), {IMAGE})
