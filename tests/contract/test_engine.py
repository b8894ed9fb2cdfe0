"""The fake engine keeps the contract; its own life and what only it can do."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.contract.engine import engine_contract
from tests.support.fake_engine import FakeEngine, FakeEngineProcess
from tests.support.stream import Stream, call, wait_until


def fake_engine(test: SynchronousTestCase) -> str:
    """Start a fake engine for a test."""
    engine = FakeEngine(Path(test.mktemp()).with_suffix(".sock").name)
    engine.start()
    test.addCleanup(engine.stop)
    return engine.address


class FakeEngineTests(engine_contract(fake_engine)):  # type: ignore[misc]
    """The contract, on the fake."""


class LifeTests(SynchronousTestCase):
    def test_connections(self) -> None:
        """It counts its connections, and notices those that are gone."""
        with FakeEngine("fake.sock") as engine:
            with Stream(engine.address) as stream:
                self.assertEqual(stream.request("GET", "/_ping").answer(), (200, "OK"))
                self.assertEqual(engine.open, 1)
            wait_until(lambda: engine.open == 0, "the connection's end")

    def test_dropped(self) -> None:
        """It can drop all connections, and go on."""
        with FakeEngine("fake.sock") as engine:
            with Stream(engine.address) as stream:
                stream.request("GET", "/events").read_head()
                engine.drop()
                self.assertTrue(stream.ended())
            self.assertEqual(call(engine.address, "GET", "/_ping"), (200, "OK"))

    def test_stopped_with_streams(self) -> None:
        """It ends though clients stay."""
        with FakeEngine("fake.sock") as engine, Stream(engine.address) as stream:
            stream.request("GET", "/events").read_head()
            engine.stop()
            self.assertTrue(stream.ended())

    def test_process(self) -> None:
        """It can have a process of its own."""
        with FakeEngineProcess("fake.sock") as engine:
            self.assertEqual(call(engine.address, "GET", "/_ping"), (200, "OK"))
        self.assertFalse(engine.path.exists())
