"""Where the ways to create are gone through: an engine, a tracker before it, and a job of that."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from docker_tracker.cli.client import Client, NoDaemon, Refused
from docker_tracker.engine.inventory import inspect_path, remove_path
from tests.support.daemon import Daemon

IMAGE = "busybox:local"
CGROUP = "/docker-tracker-conformance"
CALL_SECONDS = 60
COMMAND_SECONDS = 180
NOTICE_SECONDS = 10


class WayError(Exception):
    """A way to create could not be gone."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CALL_SECONDS)
        self.sock.connect(self._path)


def call(
    address: str, method: str, path: str, body: Any = None, *, data: bytes | None = None, content_type: str = ""
) -> tuple[int, Any]:
    """Call an API behind a unix socket.

    :returns: the status, and the answer as JSON, or as text where it is not one document.
    """
    connection = _Connection(address.removeprefix("unix://"))
    sent = json.dumps(body).encode() if body is not None else data
    kind = content_type or ("application/x-tar" if data is not None else "application/json")
    try:
        connection.request(method, path, sent, {"Content-Type": kind} if sent is not None else {})
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text


@attrs.frozen(kw_only=True)
class Engine:
    """An engine to test with.

    :ivar name: As the page calls it.
    :ivar address: ``unix:///path``.
    :ivar cli: The client command that goes with it, or the empty string: none.
    :ivar environment: For client commands.
    """

    name: str
    address: str
    cli: str = ""
    environment: Mapping[str, str] = attrs.field(factory=dict)

    def api(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """Call the engine itself, beside the tracker."""
        return call(self.address, method, path, body, **more)

    def has(self, kind: str, reference: str) -> Any:
        """Return what the engine says of a thing; None if it is not there.

        :raises WayError: the engine does not say.
        """
        status, answer = self.api("GET", inspect_path(kind, reference))
        if status == 404:
            return None
        if status != 200:
            raise WayError(f"the engine answered {status} for the {kind} {reference}: {answer}")
        return answer

    def remove(self, kind: str, reference: str) -> None:
        """Remove a thing as a stranger would, unless it is gone already."""
        more = {"container": "?force=1", "image": "?force=1&noprune=1", "pod": "?force=true", "plugin": "?force=1"}
        version = "/v1.40" if kind == "secret" else ""  # some Podmans remove no secret without a version
        status, answer = self.api("DELETE", version + remove_path(kind, reference) + more.get(kind, ""))
        if status not in (200, 204, 404):
            raise WayError(f"the engine did not remove the {kind} {reference}: {answer}")


@attrs.define(eq=False)
class Place:
    """A job on a tracker in front of an engine.

    :ivar engine: Behind the tracker.
    :ivar socket: The job's.
    :ivar job_id: The job's ID.
    :ivar mark: Stands in all names.
    """

    engine: Engine
    socket: str
    job_id: str
    mark: str
    directory: Path

    def api(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Call the engine through the tracker.

        :raises WayError: the answer is no success.
        """
        status, answer = call(self.socket, method, path, body, **more)
        if not 200 <= status < 300 or (isinstance(answer, str) and '"errorDetail"' in answer):
            raise WayError(f"{method} {path} was answered {status}: {str(answer)[:300]}")
        return answer

    def run(self, *words: str, **environment: str) -> str:
        """Run a client command on the job's socket.

        :raises WayError: it failed.
        """
        host = f"unix://{self.socket}"
        values = {**os.environ, **self.engine.environment, "DOCKER_HOST": host, "CONTAINER_HOST": host, **environment}
        done = subprocess.run(
            words,
            env=values,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            raise WayError(f"{' '.join(words[:4])} failed: {done.stdout[-400:]}")
        return done.stdout

    def cli(self, *words: str, **environment: str) -> str:
        """Run the engine's own client command."""
        return self.run(self.engine.cli, *words, **environment)

    def write(self, name: str, text: str) -> None:
        """Write a file for a command."""
        (self.directory / name).write_text(text)


class Tracker:
    """A real daemon before an engine.

    :param options: of the daemon; by default labels, a cgroup parent, sockets for containers, and the recorder.
    """

    def __init__(
        self,
        engine: Engine,
        options: tuple[str, ...] = (
            "--interceptors=labels,cgroup-parent,nested-socket,recorder",
            f"--cgroup-parent={CGROUP}",
        ),
    ) -> None:
        self.engine = engine
        self.daemon = Daemon(f"--engine={engine.address}", *options)
        self.control = Client(self.daemon.directory / "run/control.sock")
        self._number = 0

    def __enter__(self) -> Tracker:
        self.daemon.start()
        try:
            self.daemon.wait_for(self._answers)
        except BaseException:
            self.daemon.discard()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        self.daemon.discard()

    def _answers(self) -> bool:
        try:
            self.control.call("GET", "/health")
        except (NoDaemon, Refused, ConnectionError):
            return False
        return True

    def place(self, interceptors: Mapping[str, Mapping[str, str]]) -> Place:
        """Start a job, with settings of its own."""
        self._number += 1
        mark = f"dtc{os.getpid() % 10000}n{self._number}"
        job = self.control.call("POST", "/jobs", {"name": mark, "interceptors": interceptors})
        directory = self.daemon.directory / mark
        directory.mkdir()
        return Place(self.engine, str(job["socket"]), str(job["id"]), mark, directory)

    def resources(self, place: Place, everything: bool = False) -> list[dict[str, Any]]:
        """Return what the ledger has of a job."""
        found: list[dict[str, Any]] = self.control.call(
            "GET", f"/resources?job={quote(place.job_id)}&all={int(everything)}"
        )
        return found

    def end(self, place: Place) -> dict[str, Any]:
        """End a job, and wait until it is reaped. :returns: the report."""
        self.control.call("POST", f"/jobs/{quote(place.job_id)}/end?wait=1", {})
        report: dict[str, Any] = self.control.call("GET", f"/jobs/{quote(place.job_id)}/report")
        return report


def until(condition: Any, seconds: float = NOTICE_SECONDS) -> bool:
    """Wait for a condition. :returns: whether it came to hold."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
