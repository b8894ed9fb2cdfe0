"""What the daemon has counted, as Prometheus reads it. Layer: control; imported when somebody asks for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import attrs
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from docker_tracker.control.probe import Seen
from docker_tracker.counts import BUCKETS, Counts, Durations
from docker_tracker.engine.catalogue import RESOURCE_KINDS
from docker_tracker.records import Relation, Resource

# A counter that begins at its first event has no increase then, so what alerts are made of is there from the start.
_KINDS: Final = dict.fromkeys(RESOURCE_KINDS, 0)
_REAPED: Final = {(kind, outcome): 0 for kind in RESOURCE_KINDS for outcome in ("removed", "kept", "left")}
_RUNS: Final = dict.fromkeys(("done", "incomplete", "failed"), 0)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "docker_tracker_"


@attrs.frozen(kw_only=True)
class Scrape:
    """What is known when somebody asks.

    :ivar version: Ours.
    :ivar started: When the daemon was started, in seconds since the epoch.
    :ivar engine: What it answered just now.
    :ivar states: Of the jobs, one each.
    :ivar resources: That exist; None: the ledger could not be read.
    """

    counts: Counts
    version: str
    started: float
    engine: Seen
    states: Sequence[str]
    resources: Sequence[Resource] | None


def exposition(scrape: Scrape) -> bytes:
    """Return all metrics in the text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(scrape))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        return families(self._scrape)


def families(scrape: Scrape) -> Iterator[Metric]:
    """Yield all families of metrics; each is there from the start, though some have no samples yet.

    Of what is counted for jobs and the reconciler every sample is there.
    """
    counts = scrape.counts
    info = InfoMetricFamily(f"{_PREFIX}build", "Which daemon this is.")
    info.add_metric((), {"version": scrape.version})
    yield info
    yield _gauge("start_time_seconds", "When the daemon was started, since the epoch.", scrape.started)
    yield _counters(
        "http_requests_total",
        "Exchanges that are over, by how they ended.",
        ("route", "method", "status", "decision"),
        counts.requests,
    )
    yield _durations("http_request_duration_seconds", "How long exchanges took.", ("route", "method"), counts.durations)
    yield _gauge("requests_active", "Exchanges that are going on.", counts.active)
    yield _gauges("streams_active", "Endless and upgraded exchanges that are going on.", "kind", counts.streams)
    moved = CounterMetricFamily(f"{_PREFIX}bytes", "Bytes that crossed clients' connections.", labels=("direction",))
    moved.add_metric(("from_client",), counts.bytes_from_clients)
    moved.add_metric(("to_client",), counts.bytes_to_clients)
    yield moved
    yield _gauge("upstream_up", "Whether somebody answers at the engine's address.", scrape.engine.reached)
    yield _gauge("upstream_api_up", "Whether the engine answers as it should.", not scrape.engine.problem)
    yield _gauges("jobs", "Jobs that are not gone.", "state", Counter(scrape.states))
    if scrape.resources is not None:
        made = Counter(each.kind for each in scrape.resources if each.relation is Relation.MADE)
        yield _gauges("tracked_objects", "Resources that jobs made and that exist.", "kind", made)
    yield _counters(
        "objects_created_total", "Resources that jobs made.", ("kind",), _single({**_KINDS, **counts.created})
    )
    yield _counters("reaped_total", "Resources that reaps came upon.", ("kind", "result"), {**_REAPED, **counts.reaped})
    yield _counters(
        "leaked_total",
        "Resources that were still there when their job ended.",
        ("kind",),
        _single({**_KINDS, **counts.leaked}),
    )
    runs = _single({**_RUNS, **counts.reconciles})
    yield _counters("reconcile_runs_total", "Runs of the reconciler.", ("result",), runs)
    yield _gauge(
        "reconcile_last_success_timestamp_seconds",
        "When one left nothing to mend, since the epoch; 0: none did yet.",
        counts.reconciled or 0.0,
    )
    yield _counters("denied_total", "Exchanges that were refused, by who refused.", ("reason",), _single(counts.denied))
    yield _counters("mutations_total", "Requests that were changed.", ("kind",), _single(counts.mutations))
    yield _durations(
        "interceptor_duration_seconds",
        "How long exchanges waited for hooks of interceptors.",
        ("name",),
        {(name,): durations for name, durations in counts.interceptor_durations.items()},
    )
    yield _counters(
        "interceptor_errors_total", "Hooks that raised or were late.", ("name",), _single(counts.interceptor_errors)
    )
    failed = CounterMetricFamily(f"{_PREFIX}journal_errors", "Calls of the ledger that failed.")
    failed.add_metric((), counts.journal_errors)
    yield failed


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, help_, value=value)


def _gauges(name: str, help_: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, help_, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


def _single(values: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(key,): value for key, value in values.items()}


def _counters(name: str, help_: str, labels: Sequence[str], values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, help_, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _durations(name: str, help_: str, labels: Sequence[str], values: Mapping[Any, Durations]) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, help_, labels=labels)
    bounds = [*map(str, BUCKETS), "+Inf"]
    for key, durations in sorted(values.items()):
        totals = list(zip(bounds, accumulate(durations.buckets), strict=True))
        family.add_metric(key, totals, durations.seconds)
    return family
