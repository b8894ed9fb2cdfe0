from no_latest import no_latest
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.exchange import Outcome
from docker_tracker.testing import build, play, request, response


class NoLatestTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """Nothing reaches the engine, and the client reads why."""
        for image in ("busybox", "busybox:latest", "registry:5000/busybox"):
            played = play([build(no_latest)], request("POST", "/containers/create", {"Image": image}), response(201))
            self.assertEqual((played.status, played.outcome, played.to_engine), (403, Outcome.REFUSED, b""))
            self.assertIn("has no version", played.client_json["message"])

    def test_passed(self) -> None:
        """What names a version passes byte for byte."""
        for image in ("busybox:1.36", "registry:5000/busybox:1", "busybox@sha256:0000"):
            asked = request("POST", "/containers/create", {"Image": image})
            played = play([build(no_latest)], asked, response(201, {"Id": "a"}))
            self.assertEqual((played.to_engine, played.client_json), (asked, {"Id": "a"}))
