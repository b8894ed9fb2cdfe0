"""Many builds at once through one job's socket: all are labelled and recorded, and nothing stays open.

By hand larger: DOCKER_TRACKER_TEST_BUILDS=8 and DOCKER_TRACKER_TEST_BUILDS_MIB=1024, the context of each.
"""

from __future__ import annotations

import os

from tests.support.builds import BuildCase

BUILDS = int(os.environ.get("DOCKER_TRACKER_TEST_BUILDS", "50"))
CONTEXT_MIB = int(os.environ.get("DOCKER_TRACKER_TEST_BUILDS_MIB", "1"))
ALL_SECONDS = 600
MOST_MEMORY_KIB = 256 * 1024
"""Of the tracker, at any time; it has some 60 MiB when it has done nothing yet."""


class ManyTests(BuildCase):
    """With the interceptors that a tracker has by default."""

    def setUp(self) -> None:
        self.begin_with_buildx()

    def test_at_once(self) -> None:
        """Each succeeds, its image has the label, the ledger has it, and the audit a line."""
        before = self.sockets()
        step = "RUN --mount=target=/c test $(stat -c %s /c/large) = {size} && echo {mark} {number} > /made"
        started = []
        for number in range(BUILDS):
            directory = self.context / str(number)
            directory.mkdir()
            with (directory / "large").open("wb") as file:
                file.truncate(CONTEXT_MIB << 20)
            filled = step.format(size=CONTEXT_MIB << 20, mark=self.mark, number=number)
            (directory / "Dockerfile").write_text(f"FROM busybox:local\n{filled}\n")
            started.append(self.start("build", "--tag", f"{self.mark}:{number}", str(number)))
        ends = [(process.communicate(timeout=ALL_SECONDS), process.returncode) for process in started]
        self.assertEqual([end for end in ends if end[1]], [])
        tags = {f"{self.mark}:{number}" for number in range(BUILDS)}
        images = {tag: self.image(tag) for tag in sorted(tags)}
        self.assertEqual({tag for tag, image in images.items() if "Created-Via" in image["Config"]["Labels"]}, tags)
        expected = {image["Id"] for image in images.values()} | tags
        self.assertEqual(self.recorded(), dict.fromkeys(expected, "made"))
        self.check_closed(before)
        self.assertLess(self.peak_memory(), MOST_MEMORY_KIB)
        lines = self.lines("build")
        self.assertEqual({(line["tags"][0], line["outcome"]) for line in lines}, {(tag, "completed") for tag in tags})
        self.check_log()

    def peak_memory(self) -> int:
        """Return the most memory that the tracker had, in KiB."""
        assert self.daemon.process is not None
        with open(f"/proc/{self.daemon.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
