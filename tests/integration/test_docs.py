"""What the documentation tells to type is typed, on a real engine, and what it shows is what comes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, TWISTD, Daemon, daemon_environment
from tests.support.dockerd import IMAGE
from tests.support.engine import docker, engine_address, require_program

DOCS = ROOT / "docs"
CLIENT = f'#!/bin/sh\nexec {sys.executable} -P -m docker_tracker.cli.main "$@"\n'


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
        client = self.directory / "venv/bin/docker-tracker"
        client.write_text(CLIENT)
        client.chmod(0o755)
        self.environment = daemon_environment(self.directory, {"DOCKER_HOST": self.engine, "DOCKER_BUILDKIT": "0"})
        for name in ("state", "run"):
            self.environment[f"DOCKER_TRACKER_{name.upper()}_DIR"] = str(self.directory / name)
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
            elif command.startswith("unset"):
                host = self.engine
                assert tracker is not None
                tracker.terminate()
                self.assertEqual(tracker.wait(30), 0)
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
        while [*(self.directory / "run/private").iterdir()]:  # the private tracker is about to end
            time.sleep(0.02)


class CITests(SynchronousTestCase):
    """What docs/howto/ci.rst says, with a shell in the agent's place."""

    def setUp(self) -> None:
        self.engine = engine_address()
        self.daemon = Daemon(f"--engine={self.engine}")
        self.addCleanup(self.daemon.discard)
        self.daemon.start()
        self.control = self.daemon.directory / "run/control.sock"
        self.daemon.wait_for(self.control.exists)
        programs = self.daemon.directory / "bin"
        programs.mkdir()
        client = programs / "docker-tracker"
        client.write_text(CLIENT)
        client.chmod(0o755)
        self.environment = {
            **daemon_environment(self.daemon.directory, {}),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DOCKER_TRACKER_CONTROL": f"unix://{self.control}",
            "DIRECTORY": str(self.daemon.directory),
            "LEAK": f"docker run --detach --stop-signal KILL --volume /anonymous {IMAGE} sleep 1000 > $DIRECTORY/id",
        }
        for name, text in zip(
            ("step", "environment", "pre-exit", "started.sh", "completed.sh"), blocks("howto/ci", "bash"), strict=True
        ):
            (self.daemon.directory / name).write_text(text)

    def build(self, text: str, status: int = 0, **more: str) -> None:
        """Run an agent's script, which makes a container of a job's; wait until that is gone."""
        done = subprocess.run(
            ["bash", "-c", text],
            env={**self.environment, **more},
            cwd=self.daemon.directory,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, status, done.stderr)
        identifier = (self.daemon.directory / "id").read_text().strip()
        self.assertEqual(len(identifier), 64)
        (self.daemon.directory / "id").unlink()
        found = ("ps", "-aq", f"--filter=id={identifier}")
        self.daemon.wait_for(lambda: not docker(*found, address=self.engine).stdout)

    def test_step(self) -> None:
        """What one step has left is gone; its status is the build's."""
        script = (self.daemon.directory / "step").read_text().replace("make test", "sh -c 'eval $LEAK; exit 3'")
        self.build(script.replace("$LEAK", '"$LEAK"'), status=3)

    def test_buildkite(self) -> None:
        """The job ends by the hook at the end, or with the agent's process."""
        hook = "bash -c '. ./environment; eval \"$LEAK\"'"
        self.build(f"{hook} && bash ./pre-exit; exit 0", BUILDKITE_JOB_ID="0190-1")
        self.build(f"{hook}; kill -9 $$", status=-9, BUILDKITE_JOB_ID="0190-2")

    def test_github(self) -> None:
        """The job ends by the hook at the end, or with the worker's process."""
        hook = 'export GITHUB_ENV=$DIRECTORY/env; rm -f env; bash -e ./started.sh && export $(cat env) && eval "$LEAK"'
        self.build(f"{hook} && bash -e ./completed.sh; exit $?", GITHUB_RUN_ID="77")
        self.build(f"{hook}; kill -9 $$", status=-9, GITHUB_RUN_ID="77")

    def test_gitlab(self) -> None:
        """The job ends with the script's shell, whether it fails or is killed."""
        tables = [tomllib.loads(block) for block in blocks("howto/ci", "toml")]
        (script,) = (
            runner["pre_build_script"]
            for table in tables
            for runner in table.get("runners", ())
            if "pre_build_script" in runner
        )
        self.build(f"set -e; : | eval '{script}\neval \"$LEAK\"; exit 4'; exit $?", status=4, CI_JOB_ID="1")
        self.build(f'{script}\neval "$LEAK"; kill -9 $$', status=-9, CI_JOB_ID="2")
