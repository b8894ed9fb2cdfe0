"""The kit plays requests of builds by the proxy's own rules."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.builds import BuildEdit, BuildEnd, BuildRequest, BuildStep, Exporter
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Peer
from docker_tracker.plugins.labels import labels
from docker_tracker.plugins.recorder import recorder
from docker_tracker.proxy.plan import Named
from docker_tracker.testing import FakeDaemon, build, make_settings, play_build
from tests.support.http2_wires import Asks

SOLVE = BuildRequest(
    step=BuildStep.SOLVE, build="b1", frontend="dockerfile.v0", exporters=(Exporter("moby", {"name": "web"}),)
)


def named(*interceptors: Asks) -> list[Named]:
    return [Named(f"i{number}", each) for number, each in enumerate(interceptors)]


class PlayBuildTests(SynchronousTestCase):
    def test_ours(self) -> None:
        """What the daemon has: the image is labelled, and in the ledger."""
        daemon = FakeDaemon(make_settings(labels={"team": "a"}))
        daemon.engine.answers["GET /images/json"] = []
        interceptors = [build(labels, None, daemon), build(recorder, None, daemon)]
        played = play_build(interceptors, SOLVE, answer={"containerimage.digest": "sha256:1"}, daemon=daemon)
        assert played.request is not None
        self.assertEqual(played.request.attributes, {"label:team": "a"})
        self.assertEqual(played.status, 0)
        self.assertEqual([each.identifier for each in daemon.ledger.recorded], ["sha256:1", "web:latest"])

    def test_order(self) -> None:
        """Each sees what those before it changed; the engine gets it all, and its answer is told."""
        first = Asks(edit=BuildEdit(attributes={"a": "1"}))
        second = Asks(edit=BuildEdit(attributes={"b": "2"}))
        played = play_build(named(first, second), SOLVE, status=2, message="no", peer=Peer(uid=5))
        assert played.request is not None
        self.assertEqual(second.requests[0].attributes, {"a": "1"})
        self.assertEqual(played.request.attributes, {"a": "1", "b": "2"})
        assert played.outcome is not None
        self.assertEqual((played.status, played.message, played.outcome.status), (2, "no", 2))
        self.assertEqual(played.exchange.peer.uid, 5)

    def test_refused(self) -> None:
        """A guard's refusal is what the client gets; the engine gets nothing."""
        played = play_build(named(Asks(edit=RefusedError("no", 403))), SOLVE)
        self.assertEqual((played.request, played.status, played.message), (None, 7, "docker-tracker: no"))
        assert played.outcome is not None
        self.assertEqual((played.outcome.end, played.outcome.refused_by), (BuildEnd.REFUSED, "i0"))

    def test_call(self) -> None:
        """A call is refused by its path, be it a request's or another's."""
        path = "/moby.buildkit.v1.Control/Solve"
        guard = named(Asks(forbidden=(path, RefusedError("no", 403))))
        for asked in (SOLVE, path):
            played = play_build(guard, asked)
            self.assertEqual((played.status, played.message, played.outcome), (7, "docker-tracker: no", None))
        played = play_build(guard, "/moby.buildkit.v1.Control/Status", status=5, message="unknown")
        self.assertEqual((played.status, played.message), (5, "unknown"))

    def test_late(self) -> None:
        """One that waits is waited for as long as it may, without any time going by."""
        daemon = FakeDaemon()

        def late(seconds: float) -> Deferred[Any]:
            waiting: Deferred[Any] = Deferred()
            daemon.clock.callLater(seconds, lambda: None if waiting.called else waiting.callback(None))
            return waiting

        self.assertEqual(play_build(named(Asks(deciding=late(1.9))), SOLVE, daemon=daemon).status, 0)
        self.assertEqual(play_build(named(Asks(deciding=late(2.1))), SOLVE, daemon=daemon).status, 13)
        self.flushLoggedErrors()

    def test_cannot_save(self) -> None:
        """If a guard cannot save the end, the client's connection is closed."""
        played = play_build(named(Asks(saving=RefusedError("full", 503))), SOLVE)
        self.assertEqual((played.status, played.outcome), (None, None))

    def test_saves_late(self) -> None:
        """What is saved is waited for."""
        daemon = FakeDaemon()
        saving: Deferred[Any] = Deferred()
        daemon.clock.callLater(3, saving.callback, None)
        played = play_build(named(Asks(saving=saving)), SOLVE, daemon=daemon)
        self.assertEqual(played.status, 0)
        self.assertEqual(daemon.clock.seconds(), 3)

    def test_nobody_asks(self) -> None:
        """Without an interceptor that takes part a request is what it was."""
        played = play_build([], SOLVE, answer={"containerimage.digest": "sha256:1"})
        self.assertEqual((played.request, played.status), (SOLVE, 0))
