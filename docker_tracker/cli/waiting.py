"""Tells how far a reap is while it is waited for, and what keeps it. Layer: the client command."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from docker_tracker.cli.client import ApiError, Client, target
from docker_tracker.cli.shared import complain
from docker_tracker.errors import TrackerError

_PERIOD = 0.5  # seconds between two looks, for a terminal
_PATIENCE = 5.0  # elsewhere; and before a first line, and between two questions to the engine
_NORMAL = 20.0  # that a reap may take without any reason: containers get ten seconds to end
_SECONDS = 10.0  # that an answer may take: the daemon gives the engine 5


@contextmanager
def waiting(client: Client, job_id: str | None, title: str, *, terminal: bool | None = None) -> Iterator[None]:
    """Show what is still there of a job for as long as this is entered, and why it does not go on.

    On a terminal that is a line which changes. Elsewhere there is none before some seconds have gone, and one more
    each time that something else is the reason.

    :param job_id: None: of all jobs that do not accept clients any more.
    :param terminal: Whether standard error is one; None: look.
    """
    look = _Look(client, job_id)
    if sys.stderr.isatty() if terminal is None else terminal:
        from rich.console import Console  # for terminals only

        with Console(stderr=True).status(title) as status, _watched(look, _PERIOD, _Line(title, status)):
            yield
    else:
        with _watched(look, _PATIENCE, _Lines(title)):
            yield


class _Look:
    """Asks the daemon how far it is."""

    def __init__(self, client: Client, job_id: str | None) -> None:
        self._client = client
        self._job_id = job_id
        self._problem = ""
        self._asked: float | None = None

    def __call__(self) -> tuple[str, str]:
        """Return what keeps the job, and the same with how much is left of it.

        :raises TrackerError: the daemon does not tell: the call that is waited for will.
        """
        jobs = self._client.call("GET", "/jobs", timeout=_SECONDS)
        states = {job["id"]: job["state"] for job in jobs}
        found = self._client.call("GET", target("resources", job=self._job_id), timeout=_SECONDS)
        left = sum(
            each["relation"] == "made"
            and each["kind"] != "exec"
            and (self._job_id is not None or states.get(each["job_id"]) != "open")
            for each in found
        )
        clients = states.get(self._job_id or "") == "draining"
        reason = "; ".join(filter(None, ("its clients have yet to go" if clients else "", self._engine())))
        return reason, f"{left} left" + (f"; {reason}" if reason else "")

    def _engine(self) -> str:
        """Return what is wrong with the engine, which is not asked all the time."""
        if self._asked is None or time.monotonic() - self._asked > _PATIENCE:
            self._asked, self._problem = time.monotonic(), ""
            try:
                self._client.call("GET", "/ready", timeout=_SECONDS)
            except ApiError as error:
                self._problem = str(error)
        return self._problem


class _Line:
    """One line, on a terminal."""

    def __init__(self, title: str, status: Any) -> None:
        self._title = title
        self._status = status

    def __call__(self, reason: str, text: str) -> None:
        self._status.update(f"{self._title}: {text}")


class _Lines:
    """A line for each reason."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._told: str | None = None
        self._began = time.monotonic()

    def __call__(self, reason: str, text: str) -> None:
        if not reason and self._told is None and time.monotonic() - self._began < _NORMAL:
            return
        if reason != self._told:
            self._told = reason
            complain(f"still {self._title}: {text}")


@contextmanager
def _watched(look: Callable[[], tuple[str, str]], period: float, show: Callable[[str, str], None]) -> Iterator[None]:
    """Look again and again, in a thread."""
    over, showing = threading.Event(), threading.Lock()

    def watch() -> None:
        while not over.wait(period):
            try:
                seen = look()
            except TrackerError:
                continue
            with showing:
                if not over.is_set():
                    show(*seen)

    # Nobody waits for its end, as an answer may be slow.
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        with showing:
            over.set()
