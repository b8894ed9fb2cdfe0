"""Builds through a tracker by the real command line, for the integration tests.

Clients that drive BuildKit over ``/grpc`` are tried where DOCKER_TRACKER_TEST_BUILDX names a ``docker`` that has buildx
(and compose), by its DOCKER_CONFIG if need be, and DOCKER_TRACKER_TEST_BUILDX_ENGINE an engine for it, which must have
``busybox:local``. ``python -m tests.run builds`` brings one up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import unittest
import uuid
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import Daemon
from tests.support.engine import remove_cgroup

CLIENT_VARIABLE = "DOCKER_TRACKER_TEST_BUILDX"
ENGINE_VARIABLE = "DOCKER_TRACKER_TEST_BUILDX_ENGINE"
CLIENT_SECONDS = 120
CGROUP = "/docker-tracker-builds"
DOCKERFILE = "FROM busybox:local\nRUN echo {mark} > /made\nLABEL theirs=1 docker-tracker.job-id=forged\n"


class BuildCase(SynchronousTestCase):
    """Has a tracker before an engine, and a directory to build in."""

    options: tuple[str, ...] = ()
    has_buildx = True

    def begin_with_buildx(self) -> None:
        """Begin with today's client. :raises unittest.SkipTest: none is named."""
        program, engine = os.environ.get(CLIENT_VARIABLE), os.environ.get(ENGINE_VARIABLE)
        if not program or not engine:
            raise unittest.SkipTest(f"no buildx: {CLIENT_VARIABLE} and {ENGINE_VARIABLE} are not set")
        self.begin(program, engine)

    def begin(self, program: str, engine: str) -> None:
        """Start the tracker.

        :param program: The command line to build with.
        :param engine: Its address.
        """
        self.program, self.engine = program, engine
        self.mark = uuid.uuid4().hex[:12]
        self.directory = Path(tempfile.mkdtemp(prefix="dt-builds-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.audit_log = self.directory / "audit.log"
        listen = self.directory / "tracker.sock"
        self.context = self.directory / "context"
        self.context.mkdir()
        self.daemon = Daemon(
            f"--engine={engine}", f"--listen=unix://{listen}", f"--audit-log={self.audit_log}", *self.options
        )
        self.daemon.socket_path = listen
        self.addCleanup(remove_cgroup, CGROUP)
        self.addCleanup(self.daemon.discard)
        self.addCleanup(self.remove_images)
        self.daemon.start()
        self.daemon.wait_for_socket()

    def start(self, *arguments: str, address: str = "") -> subprocess.Popen[bytes]:
        """Start the command line, through the tracker if no address is given, as leader of a process group.

        Its standard input, to be closed, and both outputs are pipes.
        """
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "DOCKER_HOST": address or self.daemon.address,
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
        }
        if self.has_buildx and "DOCKER_CONFIG" in os.environ:
            environment["DOCKER_CONFIG"] = os.environ["DOCKER_CONFIG"]
        return subprocess.Popen(
            [self.program, *arguments],
            cwd=self.context,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run_client(self, *arguments: str, address: str = "", data: bytes = b"") -> tuple[int, str, str]:
        """Run it with a standard input; return its status and both of its outputs."""
        process = self.start(*arguments, address=address)
        try:
            output, errors = process.communicate(data, timeout=CLIENT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return process.returncode, output.decode(), errors.decode()

    def dockerfile(self, text: str = DOCKERFILE) -> None:
        (self.context / "Dockerfile").write_text(text.replace("{mark}", self.mark))

    def image(self, tag: str) -> dict[str, Any]:
        """Return what the engine says of an image."""
        status, output, errors = self.run_client("image", "inspect", tag, address=self.engine)
        self.assertEqual(status, 0, errors)
        image: dict[str, Any] = json.loads(output)[0]
        return image

    def built(self, *arguments: str, tag: str) -> dict[str, Any]:
        """Build, check that it went well, and return the image."""
        status, output, errors = self.run_client(*arguments)
        self.assertEqual(status, 0, output + errors)
        return self.image(tag)

    def remove_images(self) -> None:
        arguments = ("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
        listed = self.run_client(*arguments, address=self.engine)[1].split()
        mine = [name for name in listed if self.mark in name]
        if mine:
            self.run_client("image", "rm", "--force", *mine, address=self.engine)

    def recorded(self) -> dict[str, str]:
        """Return what the tracker has of its job's images: relations by ID and tag."""
        command = ["curl", "-sS", "--unix-socket", str(self.daemon.socket_path), "-H", "Accept: application/json"]
        page = subprocess.run([*command, "http://tracker/tracker"], capture_output=True, check=True, timeout=30)
        return {row["id"]: row["relation"] for row in json.loads(page.stdout)["resources"] if row["kind"] == "image"}

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the audit's lines of an event, when the daemon has ended."""
        self.daemon.stop()
        lines = [json.loads(line) for line in self.audit_log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def check_log(self) -> None:
        """Check that nothing went wrong inside."""
        self.assertNotIn("Traceback", self.daemon.output())

    def intents(self) -> list[str]:
        """Return the states of all intents in the ledger."""
        path = self.daemon.directory / "state" / "ledger.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return [row[0] for row in database.execute("SELECT state FROM intents")]

    def sockets(self) -> int:
        """Return how many sockets the tracker has open."""
        assert self.daemon.process is not None
        found = 0
        for path in Path(f"/proc/{self.daemon.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found += os.readlink(path).startswith("socket:")
        return found

    def check_closed(self, sockets: int) -> None:
        """Check that no more sockets than these stay open, and no intent."""
        self.daemon.wait_for(lambda: self.sockets() <= sockets and "open" not in self.intents())

    def step_commands(self, seconds: int) -> list[Path]:
        """Return the command lines, in /proc, of the steps that sleep so many seconds."""
        command, found = f"sleep\0{seconds}\0".encode(), []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if path.read_bytes() == command:
                    found.append(path)
        return found

    def until_steps(self, seconds: int, count: int) -> None:
        """Wait until so many steps sleep so many seconds."""
        self.daemon.wait_for(lambda: len(self.step_commands(seconds)) == count, 60)
