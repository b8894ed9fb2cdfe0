"""Containers that have lost their jobs' sockets are named, also when the engine comes late."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.interfaces import IJob
from docker_tracker.job import DEFAULT, JobRequest
from docker_tracker.job_record import Job
from docker_tracker.tracking.lost_sockets import LostSockets
from tests.support.tracking import UNAVAILABLE, MemoryEngine

BEFORE, AFTER = "1970-01-01T00:16:39.5Z", "1970-01-01T00:16:40.5Z"
SOCKET = "/run/jobs/web.sock"


class LostSocketsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.engine = MemoryEngine()
        self.sockets: dict[str, IJob] = {SOCKET: Job(id="1", request=JobRequest(name="web"))}

    def has(self, identifier: str, source: str, started: str) -> None:
        """Have a running container with something mounted."""
        self.engine.answers["/containers/json"].append({"Id": identifier * 64, "Mounts": [{"Source": source}]})
        self.engine.answers[f"/containers/{identifier * 64}/json"] = {"State": {"StartedAt": started}}

    def said(self, *waits: float) -> list[tuple[str, Any]]:
        """Start, let time go by, stop; return the level of each line and what container it names."""
        worker = LostSockets(self.engine, self.clock, lambda: dict(self.sockets), self.clock.seconds)
        with capturedLogs() as logs:
            worker.startService()
            for seconds in waits:
                self.clock.advance(seconds)
                self.engine.answers["/containers/json"] = []
            self.successResultOf(worker.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return [(event["log_level"].name, event.get("container")) for event in logs]

    def test_named(self) -> None:
        """Those that were started before the restart have the old one; those of later, and others, do not."""
        self.has("a", SOCKET, BEFORE)
        self.has("b", SOCKET, AFTER)
        self.has("c", "/run/jobs/other.sock", BEFORE)
        self.has("d", SOCKET, BEFORE)
        self.engine.answers[f"/containers/{'d' * 64}/json"] = None
        self.assertEqual(self.said(), [("warn", None), ("error", "a" * 12)])

    def test_none_anew(self) -> None:
        """If all sockets are those of before, nobody is asked."""
        self.sockets.clear()
        self.assertEqual((self.said(), self.engine.asked), ([], []))

    def test_default(self) -> None:
        """The sockets of the job default are always bound anew: only containers are named."""
        self.sockets = {SOCKET: Job(id="1", request=JobRequest(name=DEFAULT))}
        self.has("a", SOCKET, BEFORE)
        self.assertEqual(self.said(), [("error", "a" * 12)])

    def test_engine_is_away(self) -> None:
        """That is said once, and it is asked until it answers, or until the tracker stops."""
        self.engine.answers["/containers/json"] = UNAVAILABLE
        self.assertEqual(self.said(), [("warn", None), ("warn", None)])
        self.engine.answers["/containers/json"] = UNAVAILABLE
        self.assertEqual(self.said(5, 5), [("warn", None), ("warn", None), ("info", None)])

    def test_none_lost(self) -> None:
        """That no container has lost one is said only if it was not known for a while."""
        self.has("a", SOCKET, AFTER)
        self.assertEqual(self.said(), [("warn", None)])

    def test_lost_while_the_engine_was_away(self) -> None:
        """A container that has lost one is all that is said in the end."""
        self.has("a", SOCKET, BEFORE)
        inspected = f"/containers/{'a' * 64}/json"
        there, self.engine.answers[inspected] = self.engine.answers[inspected], UNAVAILABLE
        worker = LostSockets(self.engine, self.clock, lambda: dict(self.sockets), self.clock.seconds)
        with capturedLogs() as logs:
            worker.startService()
            self.engine.answers[inspected] = there
            self.clock.advance(5)
        self.assertEqual([event["log_level"].name for event in logs], ["warn", "warn", "error"])
        self.successResultOf(worker.stopService())

    def test_job_ended_meanwhile(self) -> None:
        """Whose job is over has lost nothing."""
        self.engine.answers["/containers/json"] = UNAVAILABLE
        worker = LostSockets(self.engine, self.clock, lambda: dict(self.sockets), self.clock.seconds)
        with capturedLogs() as logs:
            worker.startService()
            self.sockets.clear()
            self.engine.answers["/containers/json"] = []
            self.has("a", SOCKET, BEFORE)
            self.clock.advance(5)
        self.assertNotIn("error", [event["log_level"].name for event in logs])
        self.successResultOf(worker.stopService())
