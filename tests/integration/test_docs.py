"""What the documentation tells to type is typed, on a real engine, and what it shows is what comes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, TWISTD, daemon_environment
from tests.support.engine import docker, engine_address, require_program

DOCS = ROOT / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Give the code blocks of a page, in order."""
    text = (DOCS / f"{page}.rst").read_text()
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def commands(page: str) -> list[tuple[str, str]]:
    """Give what is typed on a page, and what is shown to come of it."""
    text = "".join(blocks(page, "console"))
    typed = re.findall(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    return [(command, shown.strip("\n")) for command, shown in typed]


def expression(shown: str) -> str:
    """Give what output may be: IDs and times differ, and an ellipsis stands for anything."""
    cut = re.sub(r"[0-9a-f]{4}…|(?<=time\":\")[^\"]+|(?<=duration\":)[0-9.]+", "…", shown)
    return re.sub(r"[0-9a-f]{64}", "[0-9a-f]{64}", re.escape(cut)).replace("…", ".*")


class DocsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = engine_address()
        require_program("curl", "curl")
        self.directory = Path(tempfile.mkdtemp(prefix="dt-docs-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.directory)
        (self.directory / "venv/bin").mkdir(parents=True)
        (self.directory / "venv/bin/twistd").symlink_to(TWISTD)
        self.environment = daemon_environment(self.directory, {"DOCKER_HOST": self.engine, "DOCKER_BUILDKIT": "0"})
        self.environment["PATH"] = f"{self.directory / 'venv/bin'}:{os.environ['PATH']}"

    def type(self, command: str, **more: str) -> str:
        """Run a command in bash, in the test's directory. :returns: its output."""
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self.directory,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, f"{command}: {done.stdout}")
        return done.stdout.strip("\n")

    def test_tutorial(self) -> None:
        """The tutorial, from its second step on (the first is the wheel's own test)."""
        prefix = f"docs-{os.getpid()}-"
        for kind, name in (("volume", "cache"), ("container", "web")):
            self.addCleanup(self.type, f"docker {kind} rm --force {prefix}{name} || true")
        tracker: subprocess.Popen[bytes] | None = None
        host = self.engine
        for command, shown in commands("tutorial")[2:]:
            # Other tests run on the same engine.
            own = re.sub(r"\b(web|cache)\b(?!:/)", rf"{prefix}\1", command.replace("busybox", "busybox:local"))
            own = own.replace("cache:/", f"{prefix}cache:/")
            if command.startswith("export"):
                host = f"unix://{self.directory}/try/tracker.sock"
            elif "--nodaemon" in command:
                with (self.directory / "log").open("wb") as log:
                    tracker = subprocess.Popen(
                        ["bash", "-c", f"exec {own}"], cwd=self.directory, env=self.environment, stdout=log, stderr=log
                    )
                self.addCleanup(tracker.kill)
                while "Listening on unix://" not in (self.directory / "log").read_text():
                    self.assertIsNone(tracker.poll(), (self.directory / "log").read_text())
                    time.sleep(0.02)
            else:
                if "audit.log" in command:
                    time.sleep(1.2)  # as long as a line waits at most
                output = self.type(own, DOCKER_HOST=host)
                wanted = expression(re.sub(r"\b(web|cache)\b", rf"{prefix}\1", shown))
                self.assertRegex(output, rf"\A{wanted}" if shown else r"\A\Z", command)
        assert tracker is not None
        tracker.terminate()
        self.assertEqual(tracker.wait(30), 0)

    def test_ci(self) -> None:
        """The script around a build leaves no container and no daemon behind, and passes the build's status on."""
        (script,) = blocks("howto/ci", "bash")[:1]
        build = "docker run --detach --volume /anonymous busybox:local sleep 1000 > id; echo $dir > dir; false"
        script = script.replace("make test", build)
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{script}"],
            cwd=self.directory,
            env={**self.environment, "BUILD_ID": "7", "TMPDIR": str(self.directory)},
            capture_output=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 1, done.stderr)
        identifier = (self.directory / "id").read_text().strip()
        self.assertEqual(len(identifier), 64)
        self.assertEqual(docker("ps", "-aq", "--filter", f"id={identifier}", address=self.engine).stdout, b"")
        socket = Path((self.directory / "dir").read_text().strip()) / "docker.sock"
        while socket.exists():
            time.sleep(0.02)
        self.assertIn('"build"', (socket.parent / "audit.log").read_text().replace("/Labels/build", '"build"'))
