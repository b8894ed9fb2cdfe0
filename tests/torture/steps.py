"""The steps at which something may fail, in one table, and what may fail there.

A *point* is a function of the daemon; it gives two steps, just before it is called and just after its result is there.
`tests.torture.hooked` puts the hooks in; nothing in the package knows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from docker_tracker.engine.operation import Effect
from docker_tracker.job import JobState

# What may be done to whom.
KILL_TRACKER: Final = "kill tracker"
STOP_TRACKER: Final = "stop tracker"  # SIGTERM, as systemd does it
KILL_CLIENT: Final = "kill client"
KILL_RUN: Final = "kill run"
KILL_ENGINE: Final = "kill engine"
RESTART_ENGINE: Final = "restart engine"
RESET_CLIENT: Final = "reset client"
RESET_ENGINE: Final = "reset engine"
FILL_DISK: Final = "fill disk"

DEEDS: Final = (
    KILL_TRACKER,
    STOP_TRACKER,
    KILL_CLIENT,
    KILL_RUN,
    KILL_ENGINE,
    RESTART_ENGINE,
    RESET_CLIENT,
    RESET_ENGINE,
    FILL_DISK,
)

Applies = Callable[..., bool]


def _always(*_: Any, **__: Any) -> bool:
    return True


def _creates(conversation: Any, *_: Any) -> bool:
    operation = conversation.call.operation
    return operation.effect is Effect.CREATE and operation.kind is not None


def _starts(conversation: Any, *_: Any) -> bool:
    return conversation.call.operation.name in ("container_start", "exec_start")


def _becomes(*states: JobState) -> Applies:
    return lambda ledger, job_id, state, **_: state in states


def _calls(method: str, beginning: str, end: str = "") -> Applies:
    """Tell our own calls to the engine; clients' never pass there."""
    return lambda engine, verb, path, *_, **__: (
        verb == method and path.startswith(beginning) and path.partition("?")[0].endswith(end)
    )


@attrs.frozen
class Point:
    """A function of the daemon.

    :ivar name: Gives the steps ``NAME:before`` and ``NAME:after``.
    :ivar target: ``module:Class.method``, below `docker_tracker`.
    :ivar applies: Whether a call with these arguments counts.
    :ivar phase: When it is reached: ``job`` (one is made), ``make`` (a client makes things), ``end`` (of the job),
        ``reconcile``, ``start`` and ``stop`` (of the tracker).
    :ivar swarm: Whether it takes an engine in a swarm.
    """

    name: str
    target: str
    applies: Applies = _always
    phase: str = "make"
    swarm: bool = False

    @property
    def steps(self) -> tuple[str, str]:
        """The names of its steps."""
        return f"{self.name}:before", f"{self.name}:after"


_LEDGER: Final = "tracking.ledger:Ledger"
_CONVERSATION: Final = "proxy.conversation:Conversation"
_JOBS: Final = "tracking.jobs:Jobs"
_SWARM: Final = frozenset({"service", "secret", "config"})
_REQUEST: Final = "tracking.client:EngineClient.request"

POINTS: Final = (
    # A create, in the order in which it goes.
    Point("intend", f"{_LEDGER}.intend"),
    Point("create-forward", f"{_CONVERSATION}._forward", _creates),
    Point("create-line", "plugins.recorder:Recorder.response_line"),
    Point("create-saved", "plugins.recorder:Recorder.response_json"),
    Point("record", f"{_LEDGER}.record"),
    Point("create-release", f"{_CONVERSATION}.to_client", _creates),
    Point("look", "plugins.recorder:Recorder._look_at_containers"),
    Point("settle", f"{_LEDGER}.settle"),
    # A start of a container or an exec.
    Point("start-forward", f"{_CONVERSATION}._forward", _starts),
    Point("start-release", f"{_CONVERSATION}.to_client", _starts),
    # A job's life.
    Point("job-make", f"{_LEDGER}.make_job", phase="job"),
    Point("job-start", f"{_JOBS}.start", phase="job"),
    Point("job-end", f"{_JOBS}.end", phase="end"),
    Point("job-drain", f"{_LEDGER}.set_job", _becomes(JobState.DRAINING), phase="end"),
    Point("job-reap", f"{_LEDGER}.set_job", _becomes(JobState.REAPING), phase="end"),
    Point("job-gone", f"{_LEDGER}.set_job", _becomes(JobState.GONE), phase="end"),
    # A reap.
    Point("reap", "tracking.reaper:Reaper.reap", phase="end"),
    Point("reap-list", _REQUEST, _calls("GET", "/containers/json"), phase="end"),
    Point("reap-kill", _REQUEST, _calls("POST", "/containers/", "/kill"), phase="end"),
    *(
        Point(f"reap-{kind}", _REQUEST, _calls("DELETE", f"/{kind}s/"), phase="end", swarm=kind in _SWARM)
        for kind in ("container", "network", "volume", "image", "plugin", *sorted(_SWARM))
    ),
    # A reconcile.
    Point("reconcile", "tracking.reconciler:Reconciler.once", phase="reconcile"),
    Point("reconcile-list", _REQUEST, _calls("GET", "/containers/json"), phase="reconcile"),
    Point("adopt", f"{_LEDGER}.adopt", phase="start"),
    # The tracker's own start and stop.
    Point("open", f"{_LEDGER}.open", phase="start"),
    Point("serve", "jobs_service:JobsService.start", phase="start"),
    Point("stop", "daemon:Daemon.stopService", phase="stop"),
)

STEPS: Final = tuple(step for point in POINTS for step in point.steps)
PHASES: Final = {step: point.phase for point in POINTS for step in point.steps}
SWARM_STEPS: Final = frozenset(step for point in POINTS if point.swarm for step in point.steps)
