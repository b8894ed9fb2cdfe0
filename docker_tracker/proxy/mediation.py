"""Joins a client's wire and an engine's where interceptors take part in builds: BuildKit's calls over HTTP/2.

What the bytes mean is the business of `docker_tracker.http2`; here they are moved, with flow control and half-close,
and interceptors are asked. Without one that asks, a `docker_tracker.proxy.splice.Splice` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from docker_tracker.builds import BuildEdit, BuildEnd, BuildOutcome, BuildRequest, BuildStep
from docker_tracker.engine.document import MISSING, Change
from docker_tracker.errors import BadFrameError, BadGrpcError, RefusedError
from docker_tracker.exchange import Edit, Exchange
from docker_tracker.http2.calls import Call, Phase
from docker_tracker.http2.mediator import Mediator
from docker_tracker.proxy.ask import ask, tell
from docker_tracker.proxy.pipe import Pipe
from docker_tracker.proxy.plan import Steps
from docker_tracker.proxy.wire import Bytes, Wire

log = Logger()

#: A Control/Solve that is held longer ends its build: Ping and Status on other streams of it time out.
_SOLVE_SECONDS: Final = 2.0
#: The other calls were seen to be held for ten seconds without harm.
_MOST_SECONDS: Final = 10.0
#: For a client's beginning, up to its first call. Engines wait ten for its preface (x/net/http2: prefaceTimeout), and
#: then close without a word: so that the audit has one, it is a second less here.
_BEGIN_SECONDS: Final = 9.0
#: gRPC's numbers (``google.golang.org/grpc/codes``) for what we refuse with; INTERNAL for all else.
_STATUS: Final = {400: 3, 403: 7, 404: 5, 409: 9, 413: 8, 503: 14}
_INTERNAL: Final = 13
#: What may wait here for a client before it is read no more, in bytes: what it sends can have longer answers of ours.
_MOST_FOR_CLIENT: Final = 1024 * 1024
#: Of one build; what is changed beyond that is not told, and of each value not more than so many characters.
_MOST_EDITS: Final = 256
_LONGEST_VALUE: Final = 8192


@attrs.define(eq=False)
class _Asked:
    """What is known of a request that was held.

    :ivar request: As interceptors changed it up to now; once it is sent, what is kept of it.
    :ivar began: When it was whole, in seconds since the epoch.
    :ivar problem: Why it cannot be read, or "".
    :ivar by: Who refused it, or "".
    :ivar deciding: What the interceptors are at, or None.
    """

    request: BuildRequest
    began: float
    problem: str = ""
    by: str = ""
    deciding: Deferred[Any] | None = None


class _Side:
    """The receiver of one of the two wires."""

    __slots__ = ("_mediation", "bytes", "from_client", "peer", "wire")

    def __init__(self, mediation: Mediation, wire: Wire, peer: Wire, from_client: bool) -> None:
        self._mediation, self.wire, self.peer, self.from_client = mediation, wire, peer, from_client
        self.bytes = 0

    def data(self, data: Bytes) -> None:
        """Have it read."""
        self.bytes += len(data)
        self._mediation.read(self, data)

    def piped(self, pipe: Pipe) -> None:
        """Nothing is diverted here."""
        raise AssertionError

    def drained(self) -> None:
        """Our wire took all that was for it: the peer may send on."""
        self._mediation.flow()

    def ended(self) -> None:
        """Our wire's end sends no more."""
        self._mediation.side_ended(self)

    def broken(self) -> None:
        """Our wire's end reads no more: HTTP/2 cannot go on."""
        self._mediation.finish()

    def lost(self, error: OSError) -> None:
        """Our wire is gone."""
        self._mediation.finish()


class Mediation:
    """One connection of builds, from the 101 to its end.

    :param clock: For time limits.
    :param seconds: That one interceptor may take for one call.
    :param grace: How long a client may stay after the engine ended its output, in seconds.
    :param on_finished: Called once, with the bytes from the client and to it, when all interceptors are through.
    """

    def __init__(
        self,
        client: Wire,
        engine: Wire,
        steps: Steps,
        exchange: Exchange,
        clock: IReactorTime,
        seconds: float,
        grace: float,
        on_finished: Callable[[int, int], None],
    ) -> None:
        self._steps, self._exchange, self._clock = steps, exchange, clock
        self._seconds, self._grace, self._on_finished = seconds, grace, on_finished
        self._client = _Side(self, client, engine, True)
        self._engine = _Side(self, engine, client, False)
        asked = steps.build_request or steps.build_finished
        self._mediator = Mediator(self, frozenset(BuildStep) if asked else frozenset())
        self._asked: dict[Call, _Asked] = {}
        self._edits: dict[str, list[Edit]] = {}  # of the builds that are open, by their ID
        self._to_client = 0
        self._late: IDelayedCall | None = None
        self._working: set[Deferred[Any]] = set()
        self._finished = self._closed = self._told = False

    def begin(self, from_client: bytes, from_engine: bytes) -> None:
        """Take over both wires.

        :param from_client: What the client sent behind its request.
        :param from_engine: What the engine sent behind its 101.
        """
        client, engine = self._client.wire, self._engine.wire
        client.receiver, engine.receiver = self._client, self._engine
        client.divert(0)
        engine.divert(0)
        for side, data in ((self._client, from_client), (self._engine, from_engine)):
            if data and not self._finished:
                side.data(data)
        self._watch_beginning()
        self.flow()
        for side in (self._client, self._engine):
            if side.wire.input_ended and not self._finished:
                self.side_ended(side)

    # Bytes

    def read(self, side: _Side, data: Bytes) -> None:
        """Have the mediator read what came, and send on what it gives."""
        if side.from_client:
            self._mediator.client_data(data)
            if self._late is not None or self._mediator.client_owes:
                self._watch_beginning()
        else:
            self._mediator.engine_data(data)
        self._pump()

    def _watch_beginning(self) -> None:
        """Wait for what the client owes, from when it began to."""
        owes = self._mediator.client_owes and not self._finished
        if owes and self._late is None:
            self._late = self._clock.callLater(_BEGIN_SECONDS, self._overdue)
        elif not owes and self._late is not None:
            self._late.cancel()
            self._late = None

    def _overdue(self) -> None:
        self._late = None
        self._mediator.overdue()
        self._pump()

    def _pump(self) -> None:
        """Send what there is to send; while a wire has some of it queued, its peer is not read."""
        if self._finished:
            return
        for side, data in ((self._client, self._mediator.for_client()), (self._engine, self._mediator.for_engine())):
            if data:
                side.wire.write(data)
                self._to_client += len(data) if side.from_client else 0
        if self._mediator.over:
            self.finish()
        else:
            self.flow()

    def flow(self) -> None:
        """Read from a side if the other one takes what comes, and the client what is answered here."""
        if self._finished:
            return
        client, engine = self._client.wire, self._engine.wire
        if engine.queued or client.queued + self._mediator.held_back > _MOST_FOR_CLIENT:
            client.pause()
        else:
            client.resume()
        if client.queued or self._mediator.paused:
            engine.pause()
        else:
            engine.resume()

    def side_ended(self, side: _Side) -> None:
        """One wire's input ended: half-close the other, or end all if it was a full close."""
        if self._finished:
            return
        if side.wire.hung_up() or side.peer.input_ended:
            self.finish()
            return
        if side.from_client:
            self._mediator.client_ended()
            self._pump()
        side.peer.end()  # of no effect if all is over by now
        side.wire.watch_hangup(self.finish)
        if not side.from_client:
            side.peer.set_timer(self._grace, self.finish)

    def finish(self) -> None:
        """Flush and close both wires; once interceptors are through, tell it."""
        if self._finished:
            return
        self._finished = True
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._mediator.close()
        self._closed = True
        self._client.wire.close(linger=not self._client.wire.input_ended)
        self._engine.wire.close()
        self._engine.wire.set_timer(self._grace, self._engine.wire.abort)
        self._tell()

    def _tell(self) -> None:
        if self._closed and not self._working and not self._told:
            self._told = True
            self._on_finished(self._client.bytes, self._to_client)

    # What the mediator calls

    def opened(self, path: str, build: str) -> str:
        """A new call: say why it is refused, if a guard does."""
        try:
            tell(self._steps.build_call, "build_call", self._exchange, path, build)
        except RefusedError as error:
            self._note(error)
            return f"docker-tracker: {error.message}"
        return ""

    def requested(self, call: Call, request: BuildRequest | BadGrpcError) -> None:
        """A request is held: ask the interceptors."""
        if isinstance(request, BadGrpcError):
            unread = BuildRequest(step=call.step, build=call.build, call=call.stream)
            self._asked[call] = _Asked(unread, self._clock.seconds(), problem=request.message)
            self._unread(call, request)
            return
        self._asked[call] = asked = _Asked(attrs.evolve(request, call=call.stream), self._clock.seconds())
        if request.is_probe:
            self._mediator.release(call)
            return
        if request.step is BuildStep.SOLVE:
            self._edits.setdefault(request.build, [])
        asked.deciding = self._go(self._decide(call, asked), partial(self._undecided, call))

    def finished(self, call: Call, outcome: BuildOutcome) -> bool:
        """A call is over: tell the interceptors; the answer to a Solve waits for them."""
        asked = self._asked.pop(call)
        if asked.deciding is not None:
            asked.deciding.cancel()
        if asked.request.is_probe and not asked.problem:
            return False
        held = call.step is BuildStep.SOLVE and outcome.end is BuildEnd.ANSWERED
        edits = self._edits.pop(asked.request.build, []) if call.step is BuildStep.SOLVE else []
        problem = asked.problem or outcome.problem
        outcome = attrs.evolve(outcome, problem=problem, started=asked.began, refused_by=asked.by, edits=tuple(edits))
        working = self._go(self._save(asked.request.kept(), outcome), self._unsaved)
        if working.called or not held or self._finished:
            return False
        working.addCallback(lambda _: self._released())
        return True

    def failed(self, error: BadFrameError) -> None:
        """HTTP/2 was broken."""
        log.warn("a connection of builds ends: {error}", error=error, exchange=self._exchange.id)
        self._note(RefusedError(f"HTTP/2 was broken: {error}"))

    # Asking

    async def _decide(self, call: Call, asked: _Asked) -> None:
        most = _SOLVE_SECONDS if call.step is BuildStep.SOLVE else _MOST_SECONDS
        edit = BuildEdit()
        for named in self._steps.build_request:
            left = min(self._seconds, asked.began + most - self._clock.seconds())
            hook = partial(named.interceptor.build_request, self._exchange, asked.request)
            more = await ask(named, hook, self._exchange, self._clock, max(left, 0.001), lambda: _is_over(call))
            if _is_over(call):  # and the interceptor took no notice
                return
            if more:
                self._edited(named.name, asked, more)
                edit = _joined(edit, more)
        try:
            self._mediator.release(call, edit if edit else None)
        except BadGrpcError as error:
            raise RefusedError(f"the build cannot be changed as it has to be: {error.message}") from error
        asked.request = asked.request.kept()

    def _edited(self, name: str, asked: _Asked, edit: BuildEdit) -> None:
        """Have the next interceptors see what one changed, and the audit know of it."""
        changes = _changes(asked.request, edit)
        edits = self._edits.get(asked.request.build)
        if changes and edits is not None and len(edits) < _MOST_EDITS:
            edits.append(Edit(name, changes))
        asked.request = with_edit(asked.request, edit)

    def _undecided(self, call: Call, failure: Failure) -> None:
        if failure.check(CancelledError) and _is_over(call):  # type: ignore[no-untyped-call]
            return
        error = failure.value
        if not isinstance(error, RefusedError):
            log.failure("a build could not be decided on", failure)
            error = RefusedError("docker-tracker failed; the daemon's log says why", 500)
        self._refuse(call, error)

    def _refuse(self, call: Call, error: RefusedError) -> None:
        log.info("a build is refused: {message}", message=error.message, exchange=self._exchange.id)
        if call in self._asked:
            self._asked[call].by = error.by or "proxy"
        self._mediator.refuse(call, _STATUS.get(error.status, _INTERNAL), f"docker-tracker: {error.message}")

    def _unread(self, call: Call, error: BadGrpcError) -> None:
        """A request cannot be read: guards cannot let it pass."""
        guards = [named for named in self._steps.build_request if named.interceptor.fail_closed]
        if guards:
            message = f"the build's request cannot be read: {error.message}"
            self._refuse(call, RefusedError(message, by=guards[0].name))
        else:
            self._mediator.release(call)

    async def _save(self, request: BuildRequest, outcome: BuildOutcome) -> None:
        for named in self._steps.build_finished:
            hook = partial(named.interceptor.build_finished, self._exchange, request, outcome)
            await ask(named, hook, self._exchange, self._clock, self._seconds, lambda: False)

    def _released(self) -> None:
        if not self._finished:
            self._mediator.resume()
            self._pump()

    def _unsaved(self, failure: Failure) -> None:
        """A guard could not save what it must: the client does not get the answer."""
        error = failure.value
        if isinstance(error, RefusedError):
            self._note(error)
        else:
            log.failure("the end of a build could not be told", failure)
        self.finish()

    def _note(self, error: RefusedError) -> None:
        """Have the audit know who ended the connection or a call of it, and why; of several, the first."""
        if not self._exchange.answered_by:
            self._exchange.answered_by = error.by or "proxy"
            self._exchange.notes["remark"] = error.message

    def _go(self, work: Any, failed: Callable[[Failure], None]) -> Deferred[Any]:
        """Let work go on, and send what comes of it."""
        working: Deferred[Any] = Deferred.fromCoroutine(work)
        working.addErrback(failed)
        self._working.add(working)

        def over(result: Any) -> Any:
            self._working.discard(working)
            self._tell()
            return result

        working.addCallback(over)
        if not working.called:
            working.addCallback(lambda _: self._pump())
        return working


def _is_over(call: Call) -> bool:
    return call.phase is Phase.OVER


def _joined(first: BuildEdit, second: BuildEdit) -> BuildEdit:
    return BuildEdit(
        attributes={**first.attributes, **second.attributes},
        exporter_attributes={**first.exporter_attributes, **second.exporter_attributes},
        image_configs={**first.image_configs, **second.image_configs},
    )


def _applied(values: Any, edit: Any) -> dict[str, Any]:
    return {key: value for key, value in {**values, **edit}.items() if value is not None}


def with_edit(request: BuildRequest, edit: BuildEdit) -> BuildRequest:
    """Return a request as it is after an edit: what the next interceptor sees."""
    return attrs.evolve(
        request,
        attributes=_applied(request.attributes, edit.attributes),
        image_configs=_applied(request.image_configs, edit.image_configs),
        exporters=tuple(
            attrs.evolve(each, attributes=_applied(each.attributes, edit.exporter_attributes))
            for each in request.exporters
        ),
    )


def _changes(request: BuildRequest, edit: BuildEdit) -> tuple[Change, ...]:
    """Return what an edit changes, for the audit: options by name, image configs without their content."""
    changes = []
    for name, new in edit.attributes.items() if request.step is not BuildStep.RESULT else ():
        old = request.attributes.get(name)
        if old != new:
            changes.append(_change(request, ("attributes", name), old, new))
    for name, new in edit.exporter_attributes.items():
        for position, exporter in enumerate(request.exporters):
            old = exporter.attributes.get(name)
            if old != new:
                changes.append(_change(request, ("exporters", position, "attributes", name), old, new))
    if request.step is BuildStep.RESULT:
        changes += [_change(request, ("image_configs", name), None, "changed") for name in edit.image_configs]
    return tuple(changes)


def _change(request: BuildRequest, path: tuple[str | int, ...], old: Any, new: Any) -> Change:
    where = ("build", request.step.value, *path)
    return Change(where, *(MISSING if each is None else each[:_LONGEST_VALUE] for each in (old, new)))
