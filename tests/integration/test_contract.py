"""A real engine keeps the contract that the fake is held to."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.contract.engine import engine_contract
from tests.support.engine import engine_address


def own_dockerd(test: SynchronousTestCase) -> str:
    """Give the run's engine; each test makes and removes its own things on it."""
    return engine_address()


class DockerdTests(engine_contract(own_dockerd)):  # type: ignore[misc]
    """The contract, on dockerd."""
