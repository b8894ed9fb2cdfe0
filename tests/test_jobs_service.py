"""What the daemon makes of what happens to jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.counts import Counts
from docker_tracker.job import ReapItem, ReapReport
from docker_tracker.jobs_service import JobsService


class ReconciledTests(SynchronousTestCase):
    def test_results(self) -> None:
        """A pass has been a success if nothing is left to mend: a dry run that found something leaves it."""
        nothing: Any = None
        for outcome, more, result in (
            ("removed", {}, "done"),
            ("kept", {"dry_run": True}, "done"),
            ("would remove", {"dry_run": True}, "incomplete"),
            ("left", {}, "incomplete"),
            ("removed", {"passes": 0, "problem": "no engine"}, "failed"),
        ):
            counts = Counts()
            service = JobsService(nothing, nothing, nothing, Path(), counts, nothing)
            item = ReapItem(kind="volume", identifier="v", outcome=outcome)
            values: dict[str, Any] = {"passes": 1, **more}
            service._reconciled(ReapReport(job_id="", job="", items=(item,), **values))
            self.assertEqual(dict(counts.reconciles), {result: 1}, outcome)
            self.assertEqual(counts.reconciled is not None, result == "done")
            self.assertEqual(bool(counts.reaped), not more.get("dry_run"))
