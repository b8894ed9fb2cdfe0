from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.errors import ConfigurationError
from docker_tracker.exchange import Exchange, Stage
from docker_tracker.interceptor import Interceptor
from docker_tracker.plugins.theirs import theirs
from docker_tracker.proxy.plan import Named
from docker_tracker.testing import FakeDaemon, build, play, request, response


class Slow(Interceptor):
    """Holds each answer back for six seconds of the daemon's clock."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def wants(self, operation: Operation) -> Stage:
        return Stage.RESPONSE_JSON

    async def response_json(self, exchange: Exchange, document: Document) -> None:
        await deferLater(self.daemon.clock, 6)


class TheirsTests(SynchronousTestCase):
    def test_logged(self) -> None:
        """What takes longer than it may is logged, and nothing else."""
        for table, said in (({}, ["info took 6.0 s: completed"]), ({"longer-than": 7}, [])):
            daemon = FakeDaemon()
            interceptors = [Named("slow", Slow(daemon)), build(theirs, table, daemon)]
            with capturedLogs() as events:
                play(interceptors, request("GET", "/info"), response(200, {}), daemon=daemon)
            self.assertEqual([event["log_format"].format(**event) for event in events], said)

    def test_settings(self) -> None:
        """The daemon does not start with a bad setting."""
        with self.assertRaisesRegex(ConfigurationError, "longer_than"):
            build(theirs, {"longer-than": 0})
