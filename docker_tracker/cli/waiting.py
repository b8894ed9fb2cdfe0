"""Shows, on a terminal only, how far a reap is while it is waited for. Layer: the client command."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from docker_tracker.cli.client import Client, target
from docker_tracker.errors import TrackerError

_PERIOD = 0.5


@contextmanager
def waiting(client: Client, job_id: str | None, title: str, *, terminal: bool | None = None) -> Iterator[None]:
    """Show a line with what is still there of a job, for as long as this is entered.

    :param job_id: None: of all jobs that do not accept clients any more.
    :param terminal: Whether standard error is one; None: look.
    """
    if not (sys.stderr.isatty() if terminal is None else terminal):
        yield
        return
    from rich.console import Console  # for terminals only

    console, over = Console(stderr=True), threading.Event()
    with console.status(title) as status:

        def look() -> None:
            while not over.wait(_PERIOD):
                try:
                    left = _left(client, job_id)
                except TrackerError:  # the call that is waited for will tell
                    continue
                status.update(f"{title}: {left} left")

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _left(client: Client, job_id: str | None) -> int:
    found = client.call("GET", target("resources", job=job_id), timeout=5.0)
    if job_id is None:
        open_jobs = {job["id"] for job in client.call("GET", "/jobs", timeout=5.0) if job["state"] == "open"}
        found = [each for each in found if each["job_id"] not in open_jobs]
    return sum(each["relation"] == "made" and each["kind"] != "exec" for each in found)
