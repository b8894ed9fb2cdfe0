"""The page of what holds on which engine is what a run has found."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.engines.checks import CHECKS
from tests.engines.page import PAGE, RESULTS, problems, render
from tests.engines.ways import WAYS


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.results: dict[str, Any] = json.loads(RESULTS.read_text())

    def test_no_cell_by_hand(self) -> None:
        """The page is made of the results, and of nothing else."""
        self.assertEqual(PAGE.read_text(), render(self.results))

    def test_complete(self) -> None:
        """Each way that there is was gone, or has a word why not, on each engine."""
        self.assertEqual([*self.results["cells"]], [way.name for way in WAYS])
        for way, cells in self.results["cells"].items():
            self.assertEqual(set(cells), set(self.results["engines"]), way)
            for cell in cells.values():
                self.assertTrue(cell and set(cell) <= {*CHECKS, "skipped"}, (way, cell))

    def test_reasons(self) -> None:
        """What does not hold has a reason, and a number on the page that leads to it."""
        self.assertEqual(problems(self.results), [])
        text = PAGE.read_text()
        numbers = {int(number) for number in re.findall(r"\((\d+)\)", text)}
        self.assertEqual(numbers, {int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)})


class ProblemTests(SynchronousTestCase):
    def test_told(self) -> None:
        """What does not hold without a known reason is a problem; so is a way that could not be gone."""
        good = {"labelled": "yes", "reaped": "yes"}
        cells = {"container": {"docker-28": {**good, "reaped": "no: container"}, "podman-5": good}}
        cells["service"] = {"docker-28": {"failed": "x"}, "podman-5": {"skipped": "no swarm"}}
        cells["container, named volume (Binds)"] = {"docker-28": {"labelled": "no: volume"}, "podman-5": good}
        results = {"engines": {"docker-28": "28", "podman-5": "5"}, "cells": cells}
        self.assertEqual(problems(results), ["container on docker-28: reaped no: container", "service on docker-28: x"])
        page = render(results)
        self.assertIn("not labelled: volume (1)", page)
        self.assertIn("not reaped: container (0)", page)
        self.assertIn("failed", page)
