"""Interceptor ``metrics``: counts exchanges for ``/metrics`` of the control socket. It watches only."""

from __future__ import annotations

import attrs

from docker_tracker.counts import Counts
from docker_tracker.engine.operation import Effect, Operation, ResponseBody
from docker_tracker.exchange import Exchange, Outcome, Stage
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.interfaces import IDaemon

_STREAMS = (ResponseBody.UPGRADE, ResponseBody.STREAM)
_GOOD = range(200, 300)


@attrs.frozen
class Metrics(Interceptor):
    """Counts what begins and what is over.

    :ivar daemon: Whose clock `Exchange.started` is taken from.
    """

    counts: Counts
    daemon: IDaemon

    def wants(self, operation: Operation) -> Stage:
        """Ask for begin and end of everything."""
        return Stage.STARTED | Stage.FINISHED

    def started(self, exchange: Exchange) -> None:
        """Count it among those that go on."""
        self.counts.began()
        operation = exchange.call.operation
        if operation.response in _STREAMS:
            self.counts.streams[operation.name] += 1

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        """Count it by what it was and how it ended."""
        counts, operation = self.counts, exchange.call.operation
        if operation.response in _STREAMS:
            counts.streams[operation.name] -= 1
        status = None if exchange.response is None else exchange.response.status
        if exchange.answer is not None:
            status = exchange.answer.status
        seconds = self.daemon.clock.seconds() - exchange.started
        counts.finished(operation.route, exchange.received.method, status, outcome.value, seconds)
        counts.bytes_from_clients += exchange.bytes_from_client
        counts.bytes_to_clients += exchange.bytes_to_client
        kind = operation.kind or "other"
        if outcome is Outcome.REFUSED:
            counts.denied[exchange.answered_by or "proxy"] += 1
        elif operation.effect is Effect.CREATE and status in _GOOD:
            counts.created[kind] += 1
        if exchange.edits:
            counts.mutations[kind] += 1


metrics = Plugin(name="metrics", make=lambda settings, job, daemon: Metrics(daemon.counts, daemon))
