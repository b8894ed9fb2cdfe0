"""A Go program that drives BuildKit by its own client, without buildx, and names its frontend in Control/Solve.

Such programs put the frontend's options, and so our labels, into another message than buildx. ``solve.go`` is compiled
where there is Go (DOCKER_TRACKER_TEST_GO names it, if it is not on the PATH) and BuildKit's client below
DOCKER_TRACKER_TEST_GOPATH, by default where Debian's ``golang-github-docker-docker-dev`` of forky and later has it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import unittest
import uuid
from pathlib import Path

from tests.support.builds import CGROUP, CLIENT_SECONDS, BuildCase
from tests.support.daemon import ROOT

GO_VARIABLE = "DOCKER_TRACKER_TEST_GO"
PATH_VARIABLE = "DOCKER_TRACKER_TEST_GOPATH"
COMPILE_SECONDS = 600
PROGRAM = ROOT / ".cache" / "go" / "solve"


def compiled() -> Path:
    """Compile the client, if that is not done yet.

    :returns: the program.
    :raises unittest.SkipTest: there is no Go, or no BuildKit client.
    """
    go = os.environ.get(GO_VARIABLE) or shutil.which("go")
    path = os.environ.get(PATH_VARIABLE, "/usr/share/gocode")
    if not go or not (Path(path) / "src/github.com/moby/buildkit/client").is_dir():
        raise unittest.SkipTest(f"no Go with BuildKit's client: see {GO_VARIABLE} and {PATH_VARIABLE}")
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": path, "GOCACHE": str(PROGRAM.parent / "cache")}
    source = str(ROOT / "tests" / "support" / "solve.go")
    subprocess.run([go, "build", "-o", PROGRAM, source], check=True, env=environment, timeout=COMPILE_SECONDS)
    return PROGRAM


class SolveTests(BuildCase):
    """A build whose frontend runs in the engine from the beginning."""

    options = ("--interceptors=labels,cgroup-parent,recorder,audit", f"--cgroup-parent={CGROUP}")

    def setUp(self) -> None:
        solve = str(compiled())
        self.begin_with_buildx()
        self.docker, self.program = self.program, solve

    def tearDown(self) -> None:
        self.program = getattr(self, "docker", "")  # looks at images, and removes them

    def test_built(self) -> None:
        """It succeeds as it does directly; through the tracker its image is labelled and recorded."""
        self.dockerfile("FROM busybox:local\nRUN echo {mark} > /made\nLABEL theirs=1\n")
        direct = self.run_client(".", f"{self.mark}:direct", address=self.engine)
        through = self.run_client(".", f"{self.mark}:through")
        self.program = self.docker
        self.assertEqual((direct[0], direct[2]), (0, ""))
        self.assertEqual((through[0], through[2]), (0, ""))
        for (_, said, _), tag in ((direct, "direct"), (through, "through")):
            self.assertEqual(said.strip(), self.image(f"{self.mark}:{tag}")["Id"])
        theirs = {"own": "1", "theirs": "1"}
        labels = self.image(f"{self.mark}:through")["Config"]["Labels"]
        self.assertEqual(labels, {**theirs, "Created-Via": "docker-tracker"})
        self.assertEqual(self.recorded(), dict.fromkeys((through[1].strip(), f"{self.mark}:through"), "made"))
        [line] = self.lines("build")
        self.assertEqual(
            (line["outcome"], line["tags"], line["digests"]),
            ("completed", [f"{self.mark}:through"], [through[1].strip()]),
        )
        self.check_log()

    def test_fails(self) -> None:
        """A build that fails is told in the same words."""
        self.dockerfile("FROM busybox:local\nRUN exit 7 # {mark}\n")
        ends = [self.run_client(".", f"{self.mark}:1", address=address) for address in (self.engine, "")]
        self.assertEqual(ends[1], ends[0])
        self.assertIn("exit code: 7", ends[1][2])
        self.assertEqual([line["outcome"] for line in self.lines("build")], ["failed"])

    def test_cgroup_and_interrupt(self) -> None:
        """Its step runs below the operator's cgroup, and is gone when the client is interrupted."""
        seconds = uuid.uuid4().int % 10**9
        self.dockerfile(f"FROM busybox:local\nRUN sleep {seconds}\n")
        process = self.start(".", f"{self.mark}:1")
        self.until_steps(seconds, 1)
        cgroups = [path.with_name("cgroup").read_text() for path in self.step_commands(seconds)]
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=CLIENT_SECONDS)[1].decode()
        self.until_steps(seconds, 0)
        self.assertEqual(process.returncode, 1)
        self.assertIn("context canceled", errors)
        self.assertIn(f":{CGROUP}/", cgroups[0])
        self.assertEqual([line["outcome"] for line in self.lines("build")], ["cancelled"])
        self.check_log()
