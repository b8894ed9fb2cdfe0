"""What this project wants to reach, as ratios of medians of one run, and as bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A figure of ours is at most so many times another's, or so much.

    :ivar figure: ``measure.figure``.
    :ivar ours: The target it is about.
    :ivar most: The factor, or the bound.
    :ivar other: The target to compare with; None: `most` is a bound in the figure's own unit.
    """

    figure: str
    ours: str
    most: float
    other: str | None = None


def _bulk(*kinds: str) -> list[Goal]:
    return [
        Goal(f"{kind}.cpu", ours, factor, other)
        for kind in kinds
        for ours in ("bare", "default")
        for factor, other in ((1.0, "haproxy"), (0.5, "go"))
    ]


GOALS = [
    Goal("ping-16.cpu", "bare", 1.5, "haproxy"),
    Goal("ping-16.cpu", "bare", 0.45, "go"),
    Goal("ping-16.cpu", "default", 0.6, "go"),
    Goal("calls.ping-16", "bare", 4.6),
    Goal("calls.ping-16", "default", 5.2),
    Goal("create-16.cpu", "default", 1.0, "go"),
    Goal("ping-1.p50", "bare", 1.0, "haproxy"),
    Goal("ping-1.p50", "default", 1.0, "go"),
    Goal("list-16.cpu", "bare", 0.75, "haproxy"),
    Goal("list-16.cpu", "bare", 0.5, "go"),
    Goal("list-16.cpu", "default", 0.6, "go"),
    Goal("connect-16.cpu", "bare", 1.5, "haproxy"),
    Goal("connect-16.cpu", "bare", 0.7, "go"),
    Goal("connect-16.cpu", "default", 0.8, "go"),
    *_bulk("download-length", "upload-length", "download-chunked", "upload-chunked"),
    *(
        Goal(f"{kind}.cpu", ours, 0.5, "go")
        for kind in ("attach-source", "attach-sink")
        for ours in ("bare", "default")
    ),
    *(Goal("echo.p50", ours, 1.1, "socat") for ours in ("bare", "default")),
    *(
        Goal(f"idle.at-{count}", ours, most)
        for count in (1000, 10000)
        for ours, most in (("bare", 3.0), ("default", 4.0))
    ),
    *(
        Goal(f"stalled.{kind}", ours, 1024)
        for kind in ("download-length", "download-chunked", "upload-length", "attach-source")
        for ours in ("bare", "default")
    ),
    Goal("start.cpu", "bare", 400),
    Goal("start.cpu", "default", 500),
    Goal("start.pss", "bare", 48),
    Goal("start.pss", "default", 56),
    *(Goal("fairness.p99", ours, 2.0, "haproxy") for ours in ("bare", "default")),
]
"""Latencies are compared after direct's median is taken off: what a proxy adds."""
