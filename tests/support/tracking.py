"""An engine in memory and a ledger in a temporary directory, for tests of recorder and watcher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from docker_tracker.errors import EngineAnswerError, EngineUnavailableError
from docker_tracker.interfaces import IEngine
from docker_tracker.records import Resource
from docker_tracker.tracking.ledger import Ledger

UNAVAILABLE = EngineUnavailableError("the engine at unix:///engine does not answer: nobody there", 503)


@implementer(IEngine)
class MemoryEngine:
    """Answers GETs from a table, by path; what is not in it is a 404. An exception or a Deferred is an answer, too."""

    address = "unix:///engine"

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"/version": {}, "/images/json": [], "/containers/json": []}
        self.asked: list[str] = []
        self.name: str | Exception = "ENGINE"
        self.forgotten = 0
        self.say: Callable[[bytes], Any] | None = None
        self.events_parameters: list[Mapping[str, str]] = []
        self.ended: Deferred[None] | None = None
        self.refuses_events: Exception | None = None

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        self.asked.append(path)
        answer = self.answers.get(path)
        if isinstance(answer, Exception):
            raise answer
        return (await answer) if isinstance(answer, Deferred) else answer

    async def request(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        raise AssertionError("nobody needs this yet")

    async def identity(self) -> str:
        if isinstance(self.name, Exception):
            raise self.name
        return self.name

    def forget(self) -> None:
        self.forgotten += 1

    async def lines(
        self,
        path: str,
        parameters: Mapping[str, str] | None,
        on_line: Callable[[bytes], Any],
        on_open: Callable[[], None] | None = None,
    ) -> None:
        if self.refuses_events is not None:
            raise self.refuses_events
        assert path == "/events"
        assert parameters is not None
        assert on_open is not None
        self.events_parameters.append(parameters)
        self.say = on_line
        self.ended = Deferred()
        on_open()
        try:
            await self.ended
        finally:
            self.say = None


def no_swarm() -> EngineAnswerError:
    """Give what an engine answers to swarm calls when it is not in one."""
    return EngineAnswerError("the engine answered 503: not a swarm manager", 502, 503)


class TrackingCase(SynchronousTestCase):
    """Has a ledger, an engine, and a clock that begins in 1970's tenth million of seconds."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.clock = Clock()
        self.clock.advance(10_000_000)
        self.engine = MemoryEngine()
        self.ledger = Ledger(Path(directory.name) / "ledger.sqlite", None, None, self.clock.seconds)
        self.job_id = self.ledger.open("instance").id
        self.addCleanup(self.ledger.close)

    def recorded(self, everything: bool = False, kind: str | None = None) -> list[Resource]:
        """Give what the ledger has of all jobs."""
        return self.successResultOf(self.ledger.resources(None, kind, everything))

    def shown(self, everything: bool = False) -> list[tuple[str, str, str]]:
        """Give kind, identifier and relation of all that is recorded, sorted."""
        return sorted((row.kind, row.identifier, row.relation.value) for row in self.recorded(everything))

    def lost(self) -> list[int]:
        """Give the numbers of the intents whose answers were lost."""
        return [intent.number for intent, _ in self.successResultOf(self.ledger.lost())]
