from only_builds import only_builds
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.builds import BuildRequest, BuildStep
from docker_tracker.testing import build, play_build


class OnlyBuildsTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """What drops the cache or shows the builds of others is refused, and the client reads why."""
        for name in ("Prune", "DiskUsage", "ListenBuildHistory", "UpdateBuildHistory"):
            played = play_build([build(only_builds)], f"/moby.buildkit.v1.Control/{name}")
            self.assertEqual(played.status, 7)  # gRPC: permission denied
            self.assertIn(f"{name} is not for jobs", played.message)

    def test_builds(self) -> None:
        """A build is what it was."""
        asked = BuildRequest(step=BuildStep.FRONTEND, build="b1", frontend="dockerfile.v0")
        played = play_build([build(only_builds)], asked)
        self.assertEqual((played.request, played.status), (asked, 0))
