"""Our own calls to the engine: bounded in time, size and number. The traffic of clients never passes here."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.connections import EngineAddress
from docker_tracker.engine.identity import identity_of
from docker_tracker.errors import EngineAnswerError, EngineError, EngineProtocolError
from docker_tracker.interfaces import IEngine

if TYPE_CHECKING:
    from docker_tracker.tracking.agent import Connections

_SHOWN: Final = 300  # characters of an engine's message in ours
_GOOD: Final = range(200, 300)
_NOT_FOUND: Final = 404


@implementer(IEngine)
class EngineClient:
    """The engine behind one address.

    :param reactor: Connects, and tells the time.
    :param address: Of the engine.
    :param seconds: How long one call may take, waiting for its turn included.
    :param connect_seconds: How long a connection may take.
    :param most_bytes: How long an answer may be.
    :param most_line_bytes: How long one line of an endless answer may be.
    :param at_once: How many calls run at a time; further ones wait.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: EngineAddress,
        *,
        seconds: float = 30.0,
        connect_seconds: float = 10.0,
        most_bytes: int = 64 * 1024 * 1024,
        most_line_bytes: int = 1024 * 1024,
        at_once: int = 16,
    ) -> None:
        self.address = str(address)
        self._reactor = reactor
        self._engine_address = address
        self._seconds = seconds
        self._connect_seconds = connect_seconds
        self._most_bytes = most_bytes
        self._most_line_bytes = most_line_bytes
        self._turns = DeferredSemaphore(at_once)
        self._identity = ""
        self._identifying = DeferredLock()
        self._made: Connections | None = None

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """See `IEngine.get`."""
        status, answer = await self.request("GET", path, parameters)
        if status == _NOT_FOUND:
            return None
        self._check(status, path, answer)
        return answer

    async def request(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        """See `IEngine.request`."""

        async def call() -> tuple[int, Any]:
            async with self._turns:
                return await self._call(method, _target(path, parameters), body)

        answer: tuple[int, Any] = await self._timed(call(), f"{method} {path}")
        return answer

    async def identity(self) -> str:
        """See `IEngine.identity`."""
        if not self._identity:
            async with self._identifying:
                if not self._identity:
                    self._identity = self._identify(await self.get("/info"))
        return self._identity

    def forget(self) -> None:
        """See `IEngine.forget`."""
        self._identity = ""

    async def lines(
        self,
        path: str,
        parameters: Mapping[str, str] | None,
        on_line: Callable[[bytes], Any],
        on_open: Callable[[], None] | None = None,
    ) -> None:
        """See `IEngine.lines`. Only the answer's head is bounded in time."""
        target = _target(path, parameters)
        response = await self._timed(self._connections().send("GET", target), f"GET {path}")
        if response.code not in _GOOD:
            body = await self._timed(self._body(response), f"GET {path}")
            self._check(response.code, path, _error_of(body))
        if on_open is not None:
            self._reactor.callLater(0, on_open)  # whoever cancels in it must find us waiting
        await self._connections().lines(response, on_line, self._most_line_bytes)

    async def close(self) -> None:
        """Close the connections that are kept for later calls."""
        made, self._made = self._made, None
        if made is not None:
            await made.close()

    def _connections(self) -> Connections:
        if self._made is None:
            from docker_tracker.tracking.agent import Connections

            self._made = Connections(self._reactor, self._engine_address, self._connect_seconds)
        return self._made

    async def _call(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        response = await self._connections().send(method, target, body)
        body = await self._body(response)
        return response.code, self._decoded(body) if response.code in _GOOD else _error_of(body)

    async def _body(self, response: Any) -> bytes:
        return await self._connections().body(response, self._most_bytes)

    def _timed(self, call: Coroutine[Deferred[Any], Any, Any], what: str) -> Deferred[Any]:
        def late(_: object, seconds: float) -> Failure:
            problem = f"the engine at {self.address} did not answer {what} within {seconds:g} s"
            return Failure(EngineError(problem, 504))  # type: ignore[no-untyped-call]

        given_up = False

        def give_up(_: Deferred[Any]) -> None:
            nonlocal given_up
            given_up = True
            running.cancel()

        def over(result: Any) -> None:
            if not given_up:
                (answer.errback if isinstance(result, Failure) else answer.callback)(result)

        # Who gives up gets `CancelledError`: a connection that is ended for it looks as if the engine had broken off,
        # and who tries again then would do so for ever.
        answer: Deferred[Any] = Deferred(give_up)
        running = Deferred.fromCoroutine(call)
        running.addTimeout(self._seconds, self._reactor, late).addBoth(over)
        return answer

    def _check(self, status: int, path: str, answer: Any) -> None:
        if status not in _GOOD:
            message = answer.get("message") if isinstance(answer, dict) else answer
            problem = f"the engine at {self.address} answered {status} to GET {path}: {str(message)[:_SHOWN]}"
            raise EngineAnswerError(problem, answered=status)

    def _decoded(self, body: bytes) -> Any:
        try:
            return json.loads(body) if body.strip() else None
        except (ValueError, RecursionError) as error:
            raise EngineProtocolError(f"the engine at {self.address} answered no JSON: {error}") from error

    def _identify(self, info: Any) -> str:
        found = identity_of(info) if isinstance(info, dict) else None
        if found is None:
            raise EngineProtocolError(f"the engine at {self.address} does not say its ID in GET /info")
        return found


def _error_of(body: bytes) -> Any:
    """Return what an error's body has: JSON or, from a proxy on the way, text."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def _target(path: str, parameters: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path
