"""A builder of buildx in a container of its own: container and state volume are its job's, and are gone with it.

There is no registry here: an image of busybox stands for BuildKit's. It says that it is ready, and builds nothing.
"""

from __future__ import annotations

from typing import Any

from docker_tracker.cli.client import Client
from tests.support.builds import BuildCase

STAND_IN = """\
FROM busybox:local
RUN mkdir -p /usr/bin && printf '#!/bin/sh\\nexit 0\\n' > /usr/bin/buildctl && chmod +x /usr/bin/buildctl
ENTRYPOINT ["sh", "-c", "trap exit TERM; while :; do sleep 0.1; done", "buildkitd"]
"""


class BuilderTests(BuildCase):
    """By ``docker buildx create`` with the driver ``docker-container``."""

    def setUp(self) -> None:
        self.begin_with_buildx()

    def things(self, kind: str) -> list[dict[str, Any]]:
        """Return what the tracker has of a kind."""
        client = Client(self.daemon.control_path)
        return [each for each in client.call("GET", f"/resources?kind={kind}") if self.mark in each["name"]]

    def on_engine(self) -> str:
        """Return the containers and volumes of the builder that the engine has."""
        containers = self.run_client(
            "ps", "-a", "--format={{.Names}}", f"--filter=name={self.mark}", address=self.engine
        )
        volumes = self.run_client("volume", "ls", "-q", f"--filter=name={self.mark}", address=self.engine)
        return containers[1] + volumes[1]

    def test_builder(self) -> None:
        """Both are labelled, recorded and removed when the job ends, though nobody stopped the builder."""
        self.dockerfile(STAND_IN)
        self.built("build", "--tag", f"{self.mark}:1", ".", tag=f"{self.mark}:1")
        job = Client(self.daemon.control_path).call("POST", "/jobs", {"name": "builder"})
        address = f"unix://{job['socket']}"
        create = ("buildx", "create", f"--name=b{self.mark}", "--driver=docker-container", "--bootstrap")
        self.addCleanup(self.run_client, "buildx", "rm", "--force", f"b{self.mark}", address=self.engine)
        status, output, errors = self.run_client(*create, f"--driver-opt=image={self.mark}:1", address, address=address)
        self.assertEqual(status, 0, output + errors)
        (container,), (volume,) = self.things("container"), self.things("volume")
        self.assertEqual((container["job_id"], container["relation"]), (job["id"], "made"))
        self.assertEqual((volume["job_id"], volume["relation"]), (job["id"], "made"))
        self.assertEqual(self.on_engine().split(), [container["name"], volume["name"]])
        for kind, path, thing in (("container", ".Config.Labels", container), ("volume", ".Labels", volume)):
            label = f'--format={{{{index {path} "docker-tracker.job-id"}}}}'
            seen = self.run_client(kind, "inspect", label, thing["name"], address=self.engine)
            self.assertEqual(seen[1].strip(), job["id"], seen)
        Client(self.daemon.control_path).call("POST", "/jobs/builder/end?wait=1", {"reason": "over", "failed": False})
        self.assertEqual(self.on_engine(), "")
        self.check_log()
