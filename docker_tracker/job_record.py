"""A job as the ledger knows it, or a stand-in for one. Layer: beside the interceptors' base."""

from __future__ import annotations

import attrs
from zope.interface import implementer

from docker_tracker.interfaces import IJob
from docker_tracker.job import JobRequest, JobState, ReapReport


@implementer(IJob)
@attrs.frozen(kw_only=True)
class Job:
    """A job; `docker_tracker.interfaces.IJob` tells what the fields are."""

    id: str
    request: JobRequest
    state: JobState = JobState.OPEN
    owner: int | None = None
    socket: str = ""
    created: float = 0.0
    ended: float | None = None
    reason: str = ""
    report: ReapReport | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.request.name
