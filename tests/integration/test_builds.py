"""Builds through the tracker, by the real command line, and their images as the engine has them.

``DOCKER_BUILDKIT=1 docker build`` of 20.10 asks by ``POST /build?version=2``. Today's clients drive BuildKit over
``/grpc``: what they are tried with is in ``tests/support/builds.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import unittest
import uuid
from pathlib import Path

from tests.support.builds import CGROUP, BuildCase
from tests.support.daemon import ROOT
from tests.support.engine import engine_address, require_program


class RestTests(BuildCase):
    """BuildKit behind ``POST /build?version=2``."""

    options = ("--interceptors=labels,cgroup-parent,recorder,audit", f"--cgroup-parent={CGROUP}")
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

    options = ("--interceptors=labels,cgroup-parent,recorder,audit", f"--cgroup-parent={CGROUP}")

    def setUp(self) -> None:
        self.begin_with_buildx()

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
        self.assertIn(f":{CGROUP}/", errors)
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


class OnlyBuildsTests(BuildCase):
    """The documentation's guard of BuildKit's calls."""

    def setUp(self) -> None:
        plugins = Path(tempfile.mkdtemp(prefix="dt-plugins-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, plugins)
        shutil.copy(ROOT / "docs" / "examples" / "only_builds.py", plugins)
        self.options = ("--interceptors=only-builds,labels,recorder,audit", f"--plugin-dir={plugins}")
        self.begin_with_buildx()

    def test_guard(self) -> None:
        """Builds go on; what it does not name is refused, with its sentence on the screen."""
        self.dockerfile()
        self.built("build", "--tag", f"{self.mark}:1", ".", tag=f"{self.mark}:1")
        for arguments in (("buildx", "prune", "--force"), ("buildx", "du")):
            status, _, errors = self.run_client(*arguments)
            self.assertNotEqual(status, 0, errors)
            self.assertIn("is not for jobs: ask the operator of this host", errors)
