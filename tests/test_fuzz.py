"""Some cases of each fuzz target, the same in each run; ``python -m tests.fuzz`` plays more of them."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import TARGETS, Broken, Play, main, run_case

CASES = {"messages": 400, "documents": 1500, "conversations": 500, "http2": 500, "build-requests": 1500}


class FuzzTests(SynchronousTestCase):
    def test_cases(self) -> None:
        """No case of any target breaks an invariant."""
        self.assertEqual(set(CASES), set(TARGETS))
        for target, count in CASES.items():
            for number in range(count):
                run_case(f"{target}:1.{number}")

    def test_failures_show(self) -> None:
        """A case that breaks one is named; what is lost on the way breaks one."""

        def lossy(source: random.Random) -> None:
            play = Play(source, watched=False)
            play.sent = play.sent[1:]
            play.run()

        TARGETS["lossy"] = lossy
        self.addCleanup(TARGETS.__delitem__, "lossy")
        error = self.assertRaises(AssertionError, run_case, "lossy:1.1")
        self.assertIn("case lossy:1.1: the engine got", str(error))
        self.assertIsInstance(error.__cause__, Broken)

    def test_one_case_again(self) -> None:
        """A case can be run again by its name."""
        self.assertEqual(main(["--case", "conversations:1.1"]), 0)
