"""Builds through the tracker, by the real command line, and their images as the engine has them.

``DOCKER_BUILDKIT=1 docker build`` of 20.10 asks by ``POST /build?version=2``. Today's clients drive BuildKit over
``/grpc``: they are tried where DOCKER_TRACKER_TEST_BUILDX names such a command line (a ``docker`` that has buildx, by
its DOCKER_CONFIG if need be) and DOCKER_TRACKER_TEST_BUILDX_ENGINE an engine for it, which must have ``busybox:local``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import uuid
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, Daemon
from tests.support.engine import engine_address, require_program

CLIENT_VARIABLE = "DOCKER_TRACKER_TEST_BUILDX"
ENGINE_VARIABLE = "DOCKER_TRACKER_TEST_BUILDX_ENGINE"
DOCKERFILE = "FROM busybox:local\nRUN echo {mark} > /made\nLABEL theirs=1 docker-tracker.job-id=forged\n"


class BuildCase(SynchronousTestCase):
    """Has a tracker before an engine, and a directory to build in."""

    options: tuple[str, ...] = ()
    has_buildx = True

    def begin(self, program: str, engine: str) -> None:
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
        self.addCleanup(self.daemon.discard)
        self.addCleanup(self.remove_images)
        self.daemon.start()
        self.daemon.wait_for_socket()

    def start(self, *arguments: str, address: str = "") -> subprocess.Popen[bytes]:
        """Start the command line, through the tracker if no address is given, as leader of a process group."""
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
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run_client(self, *arguments: str, address: str = "") -> tuple[int, str, str]:
        """Run it; return its status and both of its outputs."""
        process = self.start(*arguments, address=address)
        try:
            output, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
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


class RestTests(BuildCase):
    """BuildKit behind ``POST /build?version=2``."""

    options = ("--interceptors=labels,cgroup-parent,recorder,audit", "--cgroup-parent=/dt-builds")
    has_buildx = False

    def setUp(self) -> None:
        self.begin(require_program("docker", "docker.io"), engine_address())
        status, _, errors = self.run_client("build", "--help")
        if status != 0 or "buildx component is missing" in errors:
            raise unittest.SkipTest("this docker builds with buildx alone: see DOCKER_TRACKER_TEST_BUILDX")

    def test_labelled(self) -> None:
        """The image has the operator's label and the client's; the audit has a word on the cgroup parent."""
        self.dockerfile()
        tag = f"{self.mark}:1"
        image = self.built("build", "--tag", tag, "--label", "own=1", ".", tag=tag)
        labels = image["Config"]["Labels"]
        self.assertEqual((labels["Created-Via"], labels["own"], labels["theirs"]), ("docker-tracker", "1", "1"))
        builds = [line for line in self.lines("finished") if line["operation"] == "image_build"]
        self.assertTrue(builds)
        self.assertIn("takes no notice of the cgroup-parent", builds[-1]["remark"])
        self.check_log()


class BuildxTests(BuildCase):
    """Clients that drive BuildKit over ``/grpc``."""

    options = ("--interceptors=labels,cgroup-parent,recorder,audit", "--cgroup-parent=/dt-builds")

    def setUp(self) -> None:
        program, engine = os.environ.get(CLIENT_VARIABLE), os.environ.get(ENGINE_VARIABLE)
        if not program or not engine:
            raise unittest.SkipTest(f"no buildx: {CLIENT_VARIABLE} and {ENGINE_VARIABLE} are not set")
        self.begin(program, engine)

    def test_labelled_and_recorded(self) -> None:
        """The image has the operator's label and the client's, none that is forged; it and its tags are recorded."""
        self.dockerfile()
        first, second = f"{self.mark}:1", f"{self.mark}:2"
        image = self.built("build", "-t", first, "-t", second, "--label", "docker-tracker.job=x", ".", tag=first)
        self.assertEqual(image["Config"]["Labels"], {"Created-Via": "docker-tracker", "theirs": "1"})
        self.assertEqual(self.recorded(), dict.fromkeys((image["Id"], first, second), "made"))
        [line] = self.lines("build")
        self.assertEqual(
            (line["outcome"], line["tags"], line["digests"][0]), ("completed", [first, second], image["Id"])
        )
        self.check_log()

    def test_bake(self) -> None:
        """All targets of one call, on one connection, are labelled and recorded."""
        self.dockerfile()
        names = [f"t{number}" for number in range(8)]
        targets = {name: {"tags": [f"{self.mark}:{name}"]} for name in names}
        bake = {"group": {"default": {"targets": names}}, "target": targets}
        (self.context / "docker-bake.json").write_text(json.dumps(bake))
        status, _, errors = self.run_client("buildx", "bake", "--file", "docker-bake.json")
        self.assertEqual(status, 0, errors)
        for name in names:
            self.assertEqual(self.image(f"{self.mark}:{name}")["Config"]["Labels"]["Created-Via"], "docker-tracker")
        self.assertEqual(
            {tag for tag in self.recorded() if self.mark in tag}, {f"{self.mark}:{name}" for name in names}
        )
        self.assertEqual(len(self.lines("build")), 8)
        self.check_log()

    def test_cgroup(self) -> None:
        """Its steps run under the operator's cgroup, whatever the client asks for."""
        self.dockerfile("FROM busybox:local\nRUN cat /proc/self/cgroup # {mark}\n")
        arguments = ("build", "--cgroup-parent=/theirs", "--no-cache", "--tag", f"{self.mark}:1", ".")
        status, _, errors = self.run_client(*arguments)
        self.assertEqual(status, 0, errors)
        self.assertIn(":/dt-builds/", errors)
        self.assertNotIn(":/theirs", errors)

    def test_fails_as_it_is(self) -> None:
        """A build that fails, with a Dockerfile of 400 KB in the error, fails as it does beside the tracker."""
        self.dockerfile("FROM busybox:local\n" + f"# {'é' * 100}\n" * 2000 + "RUN exit 7 # {mark}\n")
        found = [self.run_client("build", ".", address=address) for address in (self.engine, "")]
        direct, through = [(status, errors.splitlines()[-1]) for status, _, errors in found]
        self.assertEqual(through, direct)
        self.assertIn("exit code: 7", found[1][2])
        [line] = self.lines("build")
        self.assertEqual((line["outcome"], "exit 7" in json.dumps(line)), ("failed", False))
        self.check_log()

    def test_refused(self) -> None:
        """A refusal's sentence is on the user's screen."""
        self.dockerfile()
        status, _, errors = self.run_client("build", "--output=type=image,containerimage.config={}", ".")
        self.assertNotEqual(status, 0)
        self.assertIn("docker-tracker: the exporter's option containerimage.config replaces the image's labels", errors)
        [line] = self.lines("build")
        self.assertEqual((line["outcome"], line["refused_by"]), ("refused", "labels"))

    def test_gives_up(self) -> None:
        """A client that is interrupted or killed ends its build: the step is gone, and the audit has it."""
        for number in (signal.SIGINT, signal.SIGKILL):
            seconds = uuid.uuid4().int % 10**9
            self.dockerfile(f"FROM busybox:local\nRUN sleep {seconds}\n")
            process = self.start("build", "--tag", f"{self.mark}:{seconds}", ".")
            self.until_steps(seconds, 1)
            os.killpg(process.pid, number)
            process.communicate(timeout=60)
            self.until_steps(seconds, 0)
            self.assertNotEqual(process.returncode, 0)
        ends = [line["outcome"] for line in self.lines("build")]
        self.assertEqual(ends[0], "cancelled")
        self.assertIn(ends[1], ("lost", "cancelled"))
        self.check_log()

    def steps(self, seconds: int) -> int:
        """Return how many steps sleep so many seconds."""
        command, found = f"sleep\0{seconds}\0".encode(), 0
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found += process.read_bytes() == command
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def until_steps(self, seconds: int, count: int) -> None:
        end = time.monotonic() + 60
        while self.steps(seconds) != count:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)


class OnlyBuildsTests(BuildCase):
    """The documentation's guard of BuildKit's calls."""

    def setUp(self) -> None:
        program, engine = os.environ.get(CLIENT_VARIABLE), os.environ.get(ENGINE_VARIABLE)
        if not program or not engine:
            raise unittest.SkipTest(f"no buildx: {CLIENT_VARIABLE} and {ENGINE_VARIABLE} are not set")
        plugins = Path(tempfile.mkdtemp(prefix="dt-plugins-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, plugins)
        shutil.copy(ROOT / "docs" / "examples" / "only_builds.py", plugins)
        self.options = ("--interceptors=only-builds,labels,recorder,audit", f"--plugin-dir={plugins}")
        self.begin(program, engine)

    def test_guard(self) -> None:
        """Builds go on; what it does not name is refused, with its sentence on the screen."""
        self.dockerfile()
        self.built("build", "--tag", f"{self.mark}:1", ".", tag=f"{self.mark}:1")
        for arguments in (("buildx", "prune", "--force"), ("buildx", "du")):
            status, _, errors = self.run_client(*arguments)
            self.assertNotEqual(status, 0, errors)
            self.assertIn("is not for jobs: ask the operator of this host", errors)
