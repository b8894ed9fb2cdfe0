"""Each way to create that the test run's own engine has, through a real daemon: labelled, recorded, noticed, reaped."""

from __future__ import annotations

import shutil

from twisted.trial.unittest import SynchronousTestCase

from tests.engines.__main__ import abilities
from tests.engines.checks import Cell, go
from tests.engines.page import problems
from tests.engines.place import CGROUP, Engine, Tracker
from tests.engines.ways import VOLUME_IMAGE, WAYS
from tests.support.engine import engine_address, remove_cgroup


class EngineTests(SynchronousTestCase):
    def test_ways(self) -> None:
        """What does not hold has a reason; a swarm's things are left out, as the engine is shared."""
        engine = Engine(name="docker-20.10", address=engine_address(), cli=shutil.which("docker") or "")
        self.addCleanup(remove_cgroup, CGROUP)
        self.addCleanup(engine.remove, "image", VOLUME_IMAGE)
        able = abilities(engine, swarm=False)
        cells: dict[str, dict[str, Cell]] = {}
        with Tracker(engine) as tracker:
            for way in WAYS:
                if way.needs <= able:
                    cells[way.name] = {engine.name: go(tracker, way)}
        self.assertGreater(len(cells), 15)
        self.assertEqual(problems({"engines": {engine.name: ""}, "cells": cells}), [])
