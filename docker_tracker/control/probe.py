"""Asks the engine whether it is there, once for all who want to know at the same time. Layer: control."""

from __future__ import annotations

from typing import Final

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from docker_tracker.errors import EngineError, EngineUnavailableError
from docker_tracker.interfaces import IEngine

_SECONDS: Final = 5.0


@attrs.frozen(kw_only=True)
class Seen:
    """What the engine answered.

    :ivar reached: Whether somebody answered at all.
    :ivar problem: Why it is of no use, or the empty string.
    :ivar version, api_version: As the engine says.
    """

    reached: bool
    problem: str = ""
    version: str = ""
    api_version: str = ""


class Probe:
    """Makes the call.

    :param engine: Is asked for its version.
    """

    def __init__(self, clock: IReactorTime, engine: IEngine) -> None:
        self._clock, self._engine = clock, engine
        self._waiting: list[Deferred[Seen]] | None = None

    def ask(self) -> Deferred[Seen]:
        """Return what the engine answers now, within a few seconds."""
        mine: Deferred[Seen] = Deferred()
        if self._waiting is not None:
            self._waiting.append(mine)
            return mine
        self._waiting = [mine]
        call = Deferred.fromCoroutine(self._call())
        call.addTimeout(_SECONDS, self._clock)
        call.addErrback(self._late).addCallbacks(self._tell, self._failed)
        return mine

    async def _call(self) -> Seen:
        try:
            answer = await self._engine.get("/version")
        except EngineUnavailableError as error:
            return Seen(reached=False, problem=error.message)
        except EngineError as error:
            return Seen(reached=True, problem=error.message)
        if not isinstance(answer, dict):
            return Seen(reached=True, problem=f"{self._engine.address} is no engine: it has no version")
        return Seen(reached=True, version=str(answer.get("Version", "")), api_version=str(answer.get("ApiVersion", "")))

    def _late(self, failure: Failure) -> Seen:
        failure.trap(TimeoutError)  # type: ignore[no-untyped-call]
        return Seen(
            reached=False, problem=f"the engine at {self._engine.address} did not answer within {_SECONDS:.0f} seconds"
        )

    def _tell(self, seen: Seen) -> None:
        for each in self._waiters():
            each.callback(seen)

    def _failed(self, failure: Failure) -> None:
        for each in self._waiters():
            each.errback(failure)

    def _waiters(self) -> list[Deferred[Seen]]:
        waiting, self._waiting = self._waiting or [], None
        return waiting
