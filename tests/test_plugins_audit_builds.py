"""A build by BuildKit has an audit line of its own, without what is secret."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred

from docker_tracker.builds import BuildEnd, BuildOutcome, BuildRequest, BuildStep, Exporter
from docker_tracker.engine.catalogue import operation
from docker_tracker.engine.document import MISSING, Change
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Edit, Outcome, Stage
from tests.test_plugins_audit import Case, Daemon, exchange

DIGEST = "sha256:" + "a" * 64
SECRET = "hunter2"
SOLVE = BuildRequest(
    step=BuildStep.SOLVE,
    build="b1",
    attributes={"target": "release", "build-arg:TOKEN": SECRET},
    exporters=(Exporter("moby", {"name": "web:1,web:2"}), Exporter("local", {})),
)
DONE = BuildOutcome(
    end=BuildEnd.ANSWERED,
    status=0,
    answer={"containerimage.digest": DIGEST, "containerimage.config.digest": DIGEST, "image.name": "web:1"},
    started=0.5,
)


class BuildTests(Case):
    def build_line(self, outcome: BuildOutcome = DONE, request: BuildRequest = SOLVE, **notes: Any) -> dict[str, Any]:
        one = exchange("POST", "/grpc", notes=notes)
        self.daemon.clock.advance(2)
        self.successResultOf(Deferred.fromCoroutine(self.audit.build_finished(one, request, outcome)))
        (line,) = self.lines()
        self.assertNotIn(SECRET, self.path.read_text())
        self.setUp()
        return line

    def test_wants(self) -> None:
        """Ends of builds are asked for; with a full disk that stops all, their calls, too; nothing without a log."""
        grpc, usual = operation("grpc"), Stage.STARTED | Stage.FINISHED | Stage.RESPONSE_HEAD
        self.assertEqual(self.audit.wants(grpc), usual | Stage.BUILD_FINISHED)
        stops = self.build(self.daemon, stop_on_full=True)
        self.assertEqual(stops.wants(grpc), usual | Stage.BUILD_FINISHED | Stage.BUILD_CALL)
        self.assertEqual(self.build(Daemon(None)).wants(grpc), Stage.NOTHING)

    def test_built(self) -> None:
        """What was asked for, by whom, and what it led to."""
        line = self.build_line()
        who = {key: line.pop(key) for key in ("exchange", "job", "job_id", "listener", "peer")}
        self.assertEqual(set(who["peer"]) >= {"uid", "pid"}, True)
        self.assertEqual(
            line,
            {
                "time": "1970-01-01T00:00:00.500Z",
                "duration": line["duration"],
                "event": "build",
                "build": "b1",
                "target": "release",
                "exporters": ["moby", "local"],
                "tags": ["web:1", "web:2"],
                "digests": [DIGEST],
                "status": 0,
                "outcome": "completed",
            },
        )
        self.assertGreaterEqual(line["duration"], 1.5)

    def test_outcomes(self) -> None:
        """How it ended, in one word, with gRPC's status and what the client was told."""
        cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
            ({"status": 2, "message": "no such file"}, ("failed", 2, "no such file", None)),
            ({"status": None}, ("failed", None, None, None)),
            (
                {"end": BuildEnd.REFUSED, "status": 7, "message": "no", "refused_by": "labels"},
                ("refused", 7, "no", "labels"),
            ),
            ({"end": BuildEnd.CANCELLED, "status": None}, ("cancelled", None, None, None)),
            ({"end": BuildEnd.ABORTED, "status": None}, ("aborted", None, None, None)),
            ({"end": BuildEnd.LOST, "status": None}, ("lost", None, None, None)),
        ]
        for changes, expected in cases:
            line = self.build_line(attrs.evolve(DONE, answer={}, **changes))
            found = tuple(line.get(key) for key in ("outcome", "status", "message", "refused_by"))
            self.assertEqual(found, expected)
            self.assertEqual(line["digests"], [])

    def test_message(self) -> None:
        """Of what went wrong neither the command is written down nor what a URL may hold."""
        for message, expected in [
            (
                r'failed to solve: process "/bin/sh -c curl -u \"me:hunter2\" x" did not complete: exit code: 1',
                'failed to solve: process "***" did not complete: exit code: 1',
            ),
            ('process "a hunter2', 'process "***"'),
            ("fetch https://me:hunter2@host/a?t=hunter2: 403", "fetch https://***@host/a?*** 403"),
            (
                'failed to calculate checksum: "/nofile": not found',
                'failed to calculate checksum: "/nofile": not found',
            ),
        ]:
            self.assertEqual(self.build_line(attrs.evolve(DONE, status=2, message=message))["message"], expected)

    def test_problem_and_remark(self) -> None:
        """What could not be read, and what else is to be known, is said."""
        line = self.build_line(attrs.evolve(DONE, problem="it is compressed"), remark="takes no notice")
        self.assertEqual((line["problem"], line["remark"]), ("it is compressed", "takes no notice"))

    def test_remark_of_an_exchange(self) -> None:
        """So it is on the line of an exchange."""
        self.assertNotIn("remark", self.build_line(remark=5))
        self.assertEqual(self.line(exchange(notes={"remark": "x"}))["remark"], "x")

    def test_edits(self) -> None:
        """What interceptors changed in it; values of options that may be secret are masked."""
        where = ("build", "frontend", "attributes")
        changes = (
            Change((*where, "label:a"), MISSING, "1"),
            Change((*where, "cgroup-parent"), "/x", "/y"),
            Change((*where, "build-arg:TOKEN"), SECRET, MISSING),
            Change((*where, "context"), f"https://{SECRET}@host", "."),
            Change(("build", "solve", "exporters", 0, "attributes", "name"), "a", "b"),
            Change(("build", "solve", "exporters", 0, "attributes", "registry.token"), SECRET, SECRET),
            Change(("build", "result", "image_configs", "containerimage.config/linux/arm64"), MISSING, "changed"),
        )
        line = self.build_line(attrs.evolve(DONE, edits=(Edit("labels", changes),)))
        self.assertEqual(
            [(edit["by"], edit["path"], edit.get("old"), edit.get("new")) for edit in line["edits"]],
            [
                ("labels", "/build/frontend/attributes/label:a", None, "1"),
                ("labels", "/build/frontend/attributes/cgroup-parent", "/x", "/y"),
                ("labels", "/build/frontend/attributes/build-arg:TOKEN", "***", None),
                ("labels", "/build/frontend/attributes/context", "***", "***"),
                ("labels", "/build/solve/exporters/0/attributes/name", "a", "b"),
                ("labels", "/build/solve/exporters/0/attributes/registry.token", "***", "***"),
                ("labels", "/build/result/image_configs/containerimage.config~1linux~1arm64", None, "changed"),
            ],
        )

    def test_other_requests(self) -> None:
        """Only the Solve has a line: the others are parts of its build."""
        for step in (BuildStep.FRONTEND, BuildStep.RESULT):
            request = BuildRequest(step=step, build="b1")
            self.successResultOf(Deferred.fromCoroutine(self.audit.build_finished(exchange(), request, DONE)))
        self.audit.started(one := exchange("POST", "/grpc"))
        self.audit.finished(one, Outcome.COMPLETED)
        self.assertEqual([line["event"] for line in self.lines()], ["finished"])

    def test_bounds(self) -> None:
        """However much a client asks for, the line has its bounds."""
        long = "é" * 5000
        tags = ",".join(f"{number}{long}" for number in range(50))
        request = attrs.evolve(
            SOLVE, build=long, attributes={"target": long}, exporters=(Exporter(long, {"name": tags}),) * 50
        )
        edits = (Edit("x", tuple(Change((f"k{number}",), long, long) for number in range(50))),)
        answer = {"containerimage.digest": long}
        outcome = attrs.evolve(DONE, answer=answer, status=2, message=long, problem=long, edits=edits)
        line = self.build_line(outcome, request, remark=long)
        self.assertEqual((len(line["tags"]), len(line["exporters"]), len(line["build"])), (16, 16, 256))
        self.assertEqual(len(line["message"]), 4096)
        self.assertEqual(line["edits"][-1], {"more": True})

    def test_stop_on_full(self) -> None:
        """While nothing can be written, calls on a connection that is open already are refused, if that is set."""
        full = Daemon("/dev/full")
        stops = self.build(full, stop_on_full=True)
        stops.build_call(exchange("POST", "/grpc"), "/a.B/C", "")
        stops.finished(exchange(), Outcome.COMPLETED)
        full.clock.advance(1)
        self.assertRaises(RefusedError, stops.build_call, exchange("POST", "/grpc"), "/a.B/C", "")
        self.audit.build_call(exchange("POST", "/grpc"), "/a.B/C", "")
