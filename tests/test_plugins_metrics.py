"""Interceptor ``metrics``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.catalogue import OPERATIONS, UNKNOWN
from docker_tracker.engine.operation import Operation
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Exchange, Stage
from docker_tracker.http1.head import RequestHead
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.plugins.labels import labels
from docker_tracker.plugins.metrics import metrics
from docker_tracker.testing import FakeDaemon, build, play, request, response


class Refusing(Interceptor):
    """Refuses everything."""

    fail_closed = True

    def wants(self, operation: Operation) -> Stage:
        return Stage.REQUEST_HEAD

    async def request_head(self, exchange: Exchange, head: RequestHead) -> None:
        raise RefusedError("not today", 403)


refusing = Plugin(name="refusing", make=lambda settings, job, daemon: Refusing())


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.daemon = FakeDaemon()
        self.counts = self.daemon.counts
        self.metrics = build(metrics, daemon=self.daemon)

    def test_wants(self) -> None:
        """It is told of everything, and decides nothing: no exchange waits for it."""
        for operation in (*OPERATIONS, UNKNOWN):
            self.assertEqual(self.metrics.interceptor.wants(operation), Stage.STARTED | Stage.FINISHED)
        self.assertFalse(self.metrics.interceptor.fail_closed)

    def test_exchange(self) -> None:
        """An exchange is counted by its route, method, status and end, with its bytes and its time."""
        asked = request("GET", "/v1.41/info")
        answer = response(200, {"ID": "a"})
        play([self.metrics], asked, answer, daemon=self.daemon)
        self.assertEqual(self.counts.requests, {("/info", "GET", "200", "completed"): 1})
        self.assertEqual(sum(self.counts.durations["/info", "GET"].buckets), 1)
        self.assertEqual((self.counts.bytes_from_clients, self.counts.bytes_to_clients), (len(asked), len(answer)))
        self.assertEqual((self.counts.active, self.counts.denied, self.counts.created), (0, {}, {}))

    def test_created(self) -> None:
        """What is made is counted by kind, and that the request was changed."""
        play(
            [build(labels, {}, self.daemon), self.metrics],
            request("POST", "/v1.41/volumes/create", {"Name": "v"}),
            response(201, {"Name": "v"}),
            daemon=self.daemon,
        )
        self.assertEqual((self.counts.created, self.counts.mutations), ({"volume": 1}, {"volume": 1}))

    def test_failed_create(self) -> None:
        """What the engine did not make is not counted as made."""
        asked = request("POST", "/v1.41/volumes/create", {"Name": "v"})
        play([self.metrics], asked, response(500, {"message": "no"}), daemon=self.daemon)
        play([self.metrics], asked, daemon=self.daemon)
        self.assertEqual(self.counts.created, {})
        self.assertEqual(
            {(key[2], key[3]) for key in self.counts.requests}, {("500", "completed"), ("503", "engine failed")}
        )

    def test_denied(self) -> None:
        """A refusal is counted by who refused."""
        refuses = build(refusing, None, self.daemon)
        play([refuses, self.metrics], request("GET", "/info"), response(200, {}), daemon=self.daemon)
        self.assertEqual(self.counts.denied, {"refusing": 1})
        self.assertEqual(self.counts.requests, {("/info", "GET", "403", "refused"): 1})

    def test_stream(self) -> None:
        """A stream is counted as long as it goes on."""
        play(
            [self.metrics],
            request("POST", "/containers/a/attach?stream=1", headers={"Connection": "Upgrade", "Upgrade": "tcp"}),
            b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
            from_client=b"x",
            daemon=self.daemon,
        )
        self.assertEqual(self.counts.streams["container_attach"], 0)
        self.assertEqual(self.counts.requests, {("/containers/{name}/attach", "POST", "101", "completed"): 1})
