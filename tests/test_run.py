"""The runner counts honestly: nothing that went wrong is lost between trial's output and the last line."""

from __future__ import annotations

import io
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import run
from tests.support.dockerd import PrivateEngine
from tests.support.hangs import Hang, Watch

SKIPPED = "[SKIPPED]\nno engine\n\ntests.a.B.test_c\ntests.a.B.test_d\n[SKIPPED]\nno root\n\ntests.a.B.test_e\n"


class CountTests(SynchronousTestCase):
    def test_counts(self) -> None:
        """(trial's status and output, passed, failed, skipped)"""
        for status, output, expected in (
            (0, "Ran 3 tests in 1.0s\n\nPASSED (successes=3)\n", (3, 0, 0)),
            (0, "PASSED (skips=1, successes=3)\n", (3, 0, 1)),
            (0, "PASSED (expectedFailures=1, successes=3)\n", (4, 0, 0)),
            (1, "FAILED (failures=1, errors=2, successes=3)\n", (3, 3, 0)),
            (1, "FAILED (unexpectedSuccesses=1, successes=3)\n", (3, 1, 0)),
            (0, "PASSED\n", (0, 0, 0)),
            (1, "PASSED (successes=3)\n", (3, 1, 0)),
            (0, "", (0, 1, 0)),
            (-9, "tests.a\n  B\n    test_c ...", (0, 1, 0)),
            (0, "a test printed: PASSED (successes=9)\nPASSED (successes=1)\n", (1, 0, 0)),
        ):
            result = run.count_trial("unit", status, output)
            self.assertEqual((result.passed, result.failed, result.skipped), expected, (status, output))

    def test_failures(self) -> None:
        """The tests that failed are named, each once."""
        line = "=" * 79
        output = (
            f"{line}\n[SKIPPED]\nno engine\n\ntests.a.B.test_s\n{line}\n[FAIL]\nTraceback\n  it\n\ntests.a.B.test_c\n"
            f"tests.a.B.test_d\n{line}\n[ERROR]\nTraceback\n\ntests.a.B.test_c\n{'-' * 79}\nRan 3 tests in 1s\n\n"
            "FAILED (skips=1, failures=2, errors=1)\n"
        )
        self.assertEqual(run.count_trial("unit", 1, output).failures, ("tests.a.B.test_c", "tests.a.B.test_d"))

    def test_notes(self) -> None:
        """What a test prints as a note is told with the part, to the end of its indented lines."""
        output = "tests.a\nnote: hung\n  a < b\n  c\nmore\nPASSED (successes=1)\n"
        self.assertEqual(run.count_trial("crashes", 0, output).notes, ("crashes: hung\n  a < b\n  c\n",))

    def test_total(self) -> None:
        """Of several runs nothing is lost, and what failed is told."""
        one = run.Result(name="x", passed=2, skipped=1, reasons=("x: no engine",), output="fine")
        other = run.Result(
            name="x", passed=1, failed=1, reasons=("x: no engine",), failures=("a",), notes=("b",), output="bad"
        )
        self.assertEqual(
            run.total("x", [one, other]),
            run.Result(
                name="x",
                passed=3,
                failed=1,
                skipped=1,
                reasons=("x: no engine",),
                failures=("a",),
                notes=("b",),
                output="bad",
            ),
        )
        self.assertEqual(run.total("x", [one]).output, "fine")

    def test_reasons(self) -> None:
        """Each reason for skipping is named once."""
        result = run.count_trial("unit", 0, f"{SKIPPED}PASSED (skips=3)\n")
        self.assertEqual(result.reasons, ("unit: no engine", "unit: no root"))


class ModuleTests(SynchronousTestCase):
    """A module of the integration tests, on an engine that is watched."""

    def run_once(self, *hangs: Hang) -> tuple[run.Result, int]:
        """Run a module that fails at first, as an engine hangs. :returns: its result, and how often it ran."""
        watch = Watch(engine=PrivateEngine("/nowhere"))
        results = [run.Result(name="integration", failed=1), run.Result(name="integration", passed=2)]

        def trial(*arguments: object, **options: object) -> run.Result:
            watch._hangs.extend(hangs)
            return results.pop(0)

        self.patch(run, "trial", trial)
        result = run.module_on(watch, run.Runner(identity="x"), "tests.x", time.monotonic() + 10)
        return result, 2 - len(results)

    def test_failed(self) -> None:
        """What fails on an engine that answers has failed."""
        self.assertEqual(self.run_once(), (run.Result(name="integration", failed=1), 1))

    def test_silent(self) -> None:
        """So has what fails on one that is silent, but not for its own locks."""
        self.assertEqual(
            self.run_once(Hang(path="/networks", locked=())), (run.Result(name="integration", failed=1), 1)
        )

    def test_locked(self) -> None:
        """One that locked itself up has the module run once more, which is told."""
        result, count = self.run_once(Hang(path="/networks", locked=(("f", "g"),)))
        self.assertEqual((result.passed, result.failed, count), (2, 0, 2))
        self.assertEqual(
            result.notes,
            ("tests.x: run twice, as the engine hung at GET /networks, in nothing that is known\n  f < g",),
        )


class SummaryTests(SynchronousTestCase):
    def summary(self, *results: run.Result) -> tuple[int, list[str]]:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.patch(run, "CACHE", Path(directory))
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        return run.summarise(list(results)), output.getvalue().splitlines()

    def test_all_passed(self) -> None:
        """The counts stand alone on the last line."""
        status, lines = self.summary(run.Result(name="a", passed=2), run.Result(name="b", passed=1))
        self.assertEqual((status, lines), (0, ["", "3 passed, 0 failed, 0 skipped"]))

    def test_not_run(self) -> None:
        """What was not run is named on the last line, and is no error."""
        status, lines = self.summary(run.Result(name="a", passed=2, skipped=1, reasons=("a: no engine",)))
        self.assertEqual((status, lines[-2:]), (0, ["2 passed, 0 failed, 1 skipped", "not run: a: no engine"]))

    def test_failed(self) -> None:
        """A failure is named, and is an error."""
        status, lines = self.summary(run.Result(name="a", passed=2, failed=1), run.Result(name="b", passed=1))
        self.assertEqual((status, lines), (1, ["failed: a (1)", "", "3 passed, 1 failed, 0 skipped"]))
        _, lines = self.summary(run.Result(name="a", failed=2, failures=("a.b", "a.c")))
        self.assertEqual(lines[0], "failed: a (2): a.b, a.c")

    def test_note(self) -> None:
        """A part's note is told before the counts."""
        _, lines = self.summary(run.Result(name="a", passed=1, notes=("a: run twice",)))
        self.assertEqual(lines, ["a: run twice", "", "1 passed, 0 failed, 0 skipped"])


class RunnerTests(SynchronousTestCase):
    def test_status_and_output(self) -> None:
        """A check fails by its command's status, and both its streams are kept."""
        runner = run.Runner(identity="x")
        commands = (("sh", "-c", "echo a; echo b >&2"), ("sh", "-c", "exit 3"))
        result = run.check(runner, "both", *commands)
        self.assertEqual((result.passed, result.failed, result.output), (1, 1, "a\nb\n\n"))

    def test_killed(self) -> None:
        """A part that takes too long is killed with all that it started, and has failed."""
        self.patch(run, "PART_SECONDS", 0.2)
        status, output = run.Runner(identity="x").run("sh", "-c", "echo begun; sleep 600 & sleep 600")
        self.assertEqual((status, output), (-9, "begun\n\nkilled after 0.2 s"))

    def test_left_behind(self) -> None:
        """A process that carries the run's mark is found and killed."""
        runner = run.Runner(identity="left")
        runner.run("sh", "-c", "setsid sleep 600 </dev/null >/dev/null 2>&1 &")
        result = run.left_behind(runner, None)
        self.assertEqual((result.passed, result.failed), (0, 1))
        self.assertIn("sleep", result.output)

    def test_stopped(self) -> None:
        """What is stopped may clean up, and nothing is started after it."""
        runner = run.Runner(identity="x")
        begun = Path(self.enterContext(tempfile.TemporaryDirectory())) / "begun"
        script = f"trap 'echo cleaned; exit 1' INT; touch {begun}; while :; do sleep 0.05; done"
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(runner.run, "sh", "-c", script)
            while not begun.exists():
                time.sleep(0.01)
            runner.stop()
            self.assertEqual(outcome.result(), (1, "cleaned\n"))
        self.assertEqual(runner.run("echo", "never"), (-1, "not run, as all was stopped"))

    def test_unknown_part(self) -> None:
        """A part that does not exist is refused by name."""
        errors = io.StringIO()
        self.patch(sys, "stderr", errors)
        self.assertEqual(run.main(["units"]), 2)
        self.assertIn("no such part: units", errors.getvalue())
