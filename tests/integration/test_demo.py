"""The demo does what it says: on an engine that is there, and where there can't be one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, TWISTD, daemon_environment
from tests.support.engine import docker, engine_address, require_program


class DemoTests(SynchronousTestCase):
    def demo(self, **environment: str) -> subprocess.CompletedProcess[str]:
        home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        return subprocess.run(
            [sys.executable, "-m", "demo", str(TWISTD)],
            cwd=ROOT,
            env=daemon_environment(home, environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def test_shown(self) -> None:
        """One line for each thing, exit 0, and the engine is as it was before."""
        engine = engine_address()
        require_program("docker", "docker.io")
        questions = (("ps", "-aq"), ("images", "-q"), ("network", "ls", "-q"), ("volume", "ls", "-q"))
        before = [docker(*question, address=engine).stdout for question in questions]
        done = self.demo(DOCKER_HOST=engine)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertEqual([docker(*question, address=engine).stdout for question in questions], before)
        self.assertEqual(
            [line[:34].rstrip() for line in done.stdout.splitlines()],
            [
                "the engine",
                "the tracker listens",
                "docker run -d, number 1",
                "docker run -d, number 2",
                "docker run -d, number 3",
                "docker run -it, on a terminal",
                "docker exec -i, from a pipe",
                "docker build",
                "docker network create",
                "docker volume create",
                "GET /tracker",
                "labels of the container",
                "labels of the image",
                "labels of the network",
                "labels of the volume",
                "audit lines so far",
                "one of them, cut",
                "docker-tracker run -- sh -c …",
                "the same, and kill -9 in between",
                "curl …/tracker | xargs docker kill",
                "the tracker stopped",
                "done",
            ],
        )

    def test_impossible(self) -> None:
        """Where no engine answers, and no command to start one is found, it is one sentence and exit 1."""
        done = self.demo(DOCKER_HOST="unix:///nowhere", PATH="/nowhere")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"\ANo engine answers at unix:///nowhere, and none can be started here: .*\.\n\Z")
