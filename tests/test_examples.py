"""The examples of the documentation pass their own tests, run as a reader runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"


class ExamplesTests(SynchronousTestCase):
    def test_own_tests(self) -> None:
        """Each example's test passes beside the example, with nothing of it installed."""
        for folder, module, count in (
            (EXAMPLES, "test_no_latest", 2),
            (EXAMPLES, "test_only_builds", 2),
            (EXAMPLES / "theirs", "test_theirs", 2),
        ):
            with tempfile.TemporaryDirectory() as temporary:
                done = subprocess.run(
                    [sys.executable, "-m", "twisted.trial", f"--temp-directory={temporary}/trial", module],
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
                    capture_output=True,
                    text=True,
                )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn(f"successes={count}", done.stdout)

    def test_short(self) -> None:
        """The file to drop in is as short as it is said to be."""
        self.assertLess(len((EXAMPLES / "no_latest.py").read_text().splitlines()), 30)
