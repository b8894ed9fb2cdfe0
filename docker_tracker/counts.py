"""What the daemon counts, for its metrics. Layer: beside the values; imports nothing of ours, costs next to nothing.

Every label here is bounded: routes and kinds of the catalogue, names of interceptors, and words of our own. Never
an ID, a job's name or anything else that clients choose.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

import attrs

#: Upper bounds of the durations' buckets, in seconds. Answers of an engine take from a millisecond to minutes (a pull).
BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0)
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


@attrs.define(eq=False)
class Durations:
    """How long things of one kind took.

    :ivar buckets: How many fell between the last bound and this one; one more, at the end, for all that took longer.
    :ivar seconds: Their sum.
    """

    buckets: list[int] = attrs.field(factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


@attrs.define(eq=False)
class Counts:
    """What happened since the daemon's start. Every attribute may be read, and those without a method be added to.

    :ivar requests: By route, method, status ("none": the client got no answer) and decision.
    :ivar durations: By route and method.
    :ivar active: Exchanges that are going on.
    :ivar streams: Upgraded and endless ones that are going on, by kind: ``attach``, ``exec``, ``grpc``, ``session``…
    :ivar bytes_from_clients, bytes_to_clients: As they crossed the clients' connections.
    :ivar created: Resources that jobs made, by kind.
    :ivar reaped: Resources that a reap came upon, by kind and outcome (`docker_tracker.job.ReapItem.outcome`).
    :ivar leaked: Resources that were still there when their job ended, by kind.
    :ivar reconciles: Runs, by result: ``done``, ``incomplete``, ``failed``.
    :ivar reconciled: When the last one was done, in seconds since the epoch; None: none was.
    :ivar denied: Exchanges that were refused, by who refused: an interceptor, or ``proxy``.
    :ivar mutations: Requests that interceptors changed, by the kind of resource they were about ("other": none).
    :ivar interceptor_durations: Of hooks that exchanges wait for, by interceptor.
    :ivar interceptor_errors: Hooks that raised or were late, by interceptor.
    :ivar journal_errors: Calls of the ledger that failed.
    """

    requests: Counter[tuple[str, str, str, str]] = attrs.field(factory=Counter)
    durations: defaultdict[tuple[str, str], Durations] = attrs.field(factory=lambda: defaultdict(Durations))
    active: int = 0
    streams: Counter[str] = attrs.field(factory=Counter)
    bytes_from_clients: int = 0
    bytes_to_clients: int = 0
    created: Counter[str] = attrs.field(factory=Counter)
    reaped: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    leaked: Counter[str] = attrs.field(factory=Counter)
    reconciles: Counter[str] = attrs.field(factory=Counter)
    reconciled: float | None = None
    denied: Counter[str] = attrs.field(factory=Counter)
    mutations: Counter[str] = attrs.field(factory=Counter)
    interceptor_durations: defaultdict[str, Durations] = attrs.field(factory=lambda: defaultdict(Durations))
    interceptor_errors: Counter[str] = attrs.field(factory=Counter)
    journal_errors: int = 0

    def began(self) -> None:
        """An exchange begins: its head was read."""
        self.active += 1

    def finished(self, route: str, method: str, status: int | None, decision: str, seconds: float) -> None:
        """An exchange that `began` is over.

        :param route: Its path in the catalogue: ``/containers/{name}/start``.
        :param method: As the client sent it; odd ones are counted as ``other``.
        :param status: What the client got, if anything.
        :param decision: How it ended (`docker_tracker.exchange.Outcome`).
        :param seconds: How long it took.
        """
        self.active -= 1
        if method not in _METHODS:
            method = "other"
        self.requests[route, method, "none" if status is None else str(status), decision] += 1
        self.durations[route, method].add(seconds)

    def reconcile_finished(self, result: str, now: float) -> None:
        """A run of the reconciler is over.

        :param result: ``done``: nothing is left to mend; ``incomplete``: something could not be; ``failed``.
        :param now: Seconds since the epoch.
        """
        self.reconciles[result] += 1
        if result == "done":
            self.reconciled = now
