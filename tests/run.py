"""Runs the parts that ``make test`` consists of, and counts what passed.

    python -m tests.run [PART...]        # without a part: all

Each part is a process of its own, and a failing one does not stop the others. Two run side by side: those that need an
engine or much time after one another, the checks of the source beside them. One private engine serves the whole run.

Settings are the constants below; REQUIRE_ENGINE=1 makes it an error that there is no engine, and
DOCKER_TRACKER_TEST_ENGINE=ADDRESS uses that one instead of a private one. DOCKER_TRACKER_ENGINES=COMMAND has some
ways to create gone on engines that this command brings up (``tests/engines``); without it that part is not there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType

from attrs import Factory, define, evolve, field, frozen

from tests.engines.__main__ import bundled
from tests.support.builds import CLIENT_VARIABLE, ENGINE_VARIABLE
from tests.support.dockerd import EngineError, PrivateEngine, why_impossible
from tests.support.engine import ADDRESS_VARIABLE, REQUIRE_VARIABLE, RUN_VARIABLE
from tests.support.hangs import Watch, look
from tests.support.machine import clear, left_by

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
COVERAGE_DATA = CACHE / "coverage"

TOTAL_COVERAGE = 95.0
"""Percent of lines and branches of the package that unit and integration tests reach together."""

UNIT_COVERAGE = 98.0
"""Percent of them in UNIT_COVERAGE_ROOMS that the unit tests reach alone."""

UNIT_COVERAGE_ROOMS = ("http1", "http2", "engine", "plugins", "cli")

ENGINES_VARIABLE = "DOCKER_TRACKER_ENGINES"
BUILDER = "docker-28"
OTHER_ENGINES = r"^(docker-26|docker-28 \(containerd\)|podman-5)$"
OTHER_WAYS = (
    r"^(container|commit|network|classic build|docker buildx build|docker compose.*|libpod: pod.*|all of API.*)$"
)
"""What other engines are tried with in a test run, as regular expressions: a minute or two."""

PART_SECONDS = 1800
"""After this time a part is killed and has failed."""

GRACE_SECONDS = 20
"""Time for a part that was interrupted to clean up, before it is killed."""

MACHINES = ("test_cgroup_v2", "test_systemd_machine")
"""Modules of the part `machines`."""

PRINTING = threading.Lock()
"""Held while something is printed that is to stay together."""


@frozen(kw_only=True)
class Result:
    """What came of one part: how many tests or checks passed, failed, were skipped, and why they were skipped.

    :ivar failures: Names of tests that failed, as far as they are known.
    :ivar notes: What else is to be told in the end.
    """

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    output: str = ""


@define(kw_only=True)
class Runner:
    """Starts commands, kills those still running when it is stopped, and prints a part's output when it is over."""

    identity: str
    verbose: bool = False
    engine: PrivateEngine | None = None
    _running: set[subprocess.Popen[str]] = field(factory=set, init=False)
    _lock: threading.Lock = field(default=Factory(threading.Lock), init=False)
    _stopped: bool = field(default=False, init=False)

    def run(
        self, *command: str, seconds: float | None = None, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command in the project's directory.

        :param seconds: after these it is killed; None: PART_SECONDS.
        :param environment: added to this process's own.
        :returns: its status and its output, both streams mixed as they came.
        """
        seconds = PART_SECONDS if seconds is None else seconds
        if self._stopped:
            return -1, "not run, as all was stopped"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), RUN_VARIABLE: self.identity, **(environment or {})}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        with self._lock:
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0] + f"\nkilled after {seconds:.4g} s"
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, output

    def stop(self) -> None:
        """Interrupt what is running, so that it can clean up, then kill its process group. Nothing starts after."""
        self._stopped = True
        for number, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, 1)):
            with self._lock:
                running = list(self._running)
            for process in running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            end = time.monotonic() + seconds
            while self._running and time.monotonic() < end:
                time.sleep(0.05)


def tool(name: str) -> str:
    """Give the path of a program of the virtual environment."""
    return str(Path(sys.executable).parent / name)


def modules(*folders: str) -> list[str]:
    """Give the names of the test modules in folders below tests/."""
    found = [path for folder in folders for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]


def trial(
    runner: Runner,
    name: str,
    names: list[str],
    measured: bool = True,
    seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run test modules with trial, coverage measured also in the processes that they start.

    :param seconds: after these they are killed; None: PART_SECONDS.
    :param environment: added to this process's own.
    """
    if not names:
        return Result(name=name, skipped=1, reasons=(f"{name}: it has no tests yet",))
    COVERAGE_DATA.mkdir(parents=True, exist_ok=True)
    measure = ["-m", "coverage", "run"] if measured else []
    temporary = f"--temp-directory={CACHE / 'trial' / name}"
    (CACHE / "trial").mkdir(exist_ok=True)
    status, output = runner.run(
        sys.executable,
        *measure,
        "-m",
        "twisted.trial",
        temporary,
        *names,
        seconds=seconds,
        environment={"COVERAGE_FILE": str(COVERAGE_DATA / name), **(environment or {})},
    )
    return count_trial(name, status, output)


def count_trial(name: str, status: int, output: str) -> Result:
    """Read what trial printed.

    A run that ends without trial's last line, or with a status that this line does not explain, counts as one failure.
    """
    last = re.findall(r"^(PASSED|FAILED)(?: \((.*)\))?$", output, re.MULTILINE)
    counts = {key: int(number) for key, number in re.findall(r"(\w+)=(\d+)", last[-1][1])} if last else {}
    failed = sum(counts.get(key, 0) for key in ("failures", "errors", "unexpectedSuccesses"))
    if (status != 0 or not last) and failed == 0:
        failed = 1
    reasons = re.findall(r"^\[SKIPPED\]\n(.*)$", output, re.MULTILINE)
    # After each traceback the tests that it is of.
    blocks = re.findall(r"^\[(?:FAIL|ERROR|SUCCESS!\?!)\]\n(.*?)^(?:=====|-----)", output, re.MULTILINE | re.DOTALL)
    failures = {test for block in blocks for test in re.findall(r"^tests\.[\w.]+$", block, re.MULTILINE)}
    return Result(
        name=name,
        passed=counts.get("successes", 0) + counts.get("expectedFailures", 0),
        failed=failed,
        skipped=counts.get("skips", 0),
        reasons=tuple(f"{name}: {reason}" for reason in sorted(set(reasons))),
        failures=tuple(sorted(failures)),
        notes=tuple(f"{name}: {note}" for note in re.findall(r"^note: (.*\n(?:  .*\n)*)", output, re.MULTILINE)),
        output=output,
    )


def forget_coverage(name: str) -> None:
    """Remove what was measured in an earlier run of a part."""
    for old in COVERAGE_DATA.glob(f"{name}*"):
        old.unlink()


def total(name: str, results: list[Result]) -> Result:
    """Make one part's result of several; the output is that of those that failed, or else of all."""
    failed = [result for result in results if result.failed]
    return Result(
        name=name,
        passed=sum(result.passed for result in results),
        failed=sum(result.failed for result in results),
        skipped=sum(result.skipped for result in results),
        reasons=tuple(sorted({reason for result in results for reason in result.reasons})),
        failures=tuple(failure for result in results for failure in result.failures),
        notes=tuple(note for result in results for note in result.notes),
        output="\n".join(result.output for result in failed or results),
    )


def check(runner: Runner, name: str, *commands: tuple[str, ...]) -> Result:
    """Run commands one after the other; each is one check."""
    outcomes = [runner.run(*command) for command in commands]
    failed = sum(status != 0 for status, _ in outcomes)
    output = "\n".join(text for _, text in outcomes)
    return Result(name=name, passed=len(outcomes) - failed, failed=failed, output=output)


def unit(runner: Runner) -> Result:
    """Tests that need nothing: no root, no engine, no network."""
    forget_coverage("unit")
    return trial(runner, "unit", modules("", "contract"))


def integration(runner: Runner) -> Result:
    """Tests on a real engine, with the real command line; those that need it skip themselves without one.

    When the run's own engine locks itself up, it is started anew and the module that was being run is run again: what a
    client asks for can't be the cause of that. It is told in the end, with the engine's own account.
    """
    others = [*MACHINES]
    if os.environ.get(ENGINES_VARIABLE):
        others.append("test_builds_")  # run by the part `builds`
    names = [name for name in modules("integration") if not any(f".{other}" in name for other in others)]
    forget_coverage("integration")
    if runner.engine is None:
        return trial(runner, "integration", names)
    results, end = list[Result](), time.monotonic() + PART_SECONDS
    with Watch(engine=runner.engine) as watch:
        for name in names:
            results.append(module_on(watch, runner, name, end))
            if silent := [str(hang) for hang in watch.hangs() if not hang.locked]:
                results.append(Result(name="integration", failed=1, output="\n".join(["no more was run:", *silent])))
                break
    return total("integration", results)


def module_on(watch: Watch, runner: Runner, module: str, end: float) -> Result:
    """Run a module of the integration tests, once more if its engine locked itself up.

    :param end: on the monotonic clock, when it is killed.
    """
    before = len(watch.hangs())
    result = trial(runner, "integration", [module], seconds=end - time.monotonic())
    locked = [hang for hang in watch.hangs()[before:] if hang.locked]
    if locked:
        again = trial(runner, "integration", [module], seconds=end - time.monotonic())
        result = evolve(again, notes=tuple(f"{module}: run twice, as {hang}" for hang in locked))
    return result


def machines(runner: Runner) -> Result:
    """Integration tests that have engines of their own: on a machine with systemd, and with other cgroups."""
    names = [name for name in modules("integration") if name.rpartition(".")[2] in MACHINES]
    return trial(runner, "machines", names, measured=False)


def crashes(runner: Runner) -> Result:
    """The crash matrix, on engines of its own; ``make torture`` goes on for hours."""
    return trial(runner, "crashes", ["tests.torture.test_torture"], measured=False)


def engines(runner: Runner) -> Result:
    """Some ways to create on other engines; ``make engines`` goes all of them on all."""
    command = (sys.executable, "-m", "tests.engines", f"--bundles={os.environ[ENGINES_VARIABLE]}")
    return check(runner, "engines", (*command, f"--names={OTHER_ENGINES}", f"--only={OTHER_WAYS}"))


def builds(runner: Runner) -> Result:
    """Builds by today's clients, on an engine that is brought up for them."""
    try:
        with bundled(os.environ[ENGINES_VARIABLE], BUILDER, BUILDER, ()) as engine:
            variables = {CLIENT_VARIABLE: engine.cli, ENGINE_VARIABLE: engine.address, **engine.environment}
            names = [name for name in modules("integration") if ".test_builds" in name]
            return trial(runner, "builds", names, measured=False, environment=variables)
    except subprocess.SubprocessError as error:
        return Result(name="builds", skipped=1, reasons=(f"builds: there is no {BUILDER}: {error}",))


def wheel(runner: Runner) -> Result:
    """The built wheel, installed into a clean environment."""
    return trial(runner, "wheel", modules("packaging"), measured=False)


def typing(runner: Runner) -> Result:
    """Types of the package and of its tests."""
    folders = [
        folder
        for folder in ("docker_tracker", "tests", "benchmarks", "demo", "twisted")
        if any((ROOT / folder).rglob("*.py"))
    ]
    return check(runner, "typing", (sys.executable, "-m", "mypy", *folders))


def lint(runner: Runner) -> Result:
    """Style of all sources."""
    return check(runner, "lint", (tool("ruff"), "check", "."), (tool("ruff"), "format", "--check", "."))


def layers(runner: Runner) -> Result:
    """Which room imports which."""
    return check(runner, "layers", (tool("lint-imports"), "--config", "setup.cfg"))


def docs(runner: Runner) -> Result:
    """The documentation, warnings being errors, and its examples."""
    build = (sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs")
    return check(
        runner,
        "docs",
        (*build, "-b", "html", str(CACHE / "docs" / "html")),
        (*build, "-b", "doctest", str(CACHE / "docs" / "doctest")),
    )


def coverage(runner: Runner) -> Result:
    """Whether the tests that were run before reach enough of the package."""
    if not list(COVERAGE_DATA.glob("unit*")) or not list(COVERAGE_DATA.glob("integration*")):
        return Result(name="coverage", skipped=2, reasons=("coverage: unit and integration were not run before it",))
    complete = bool(os.environ.get(ADDRESS_VARIABLE))
    # Not what tests drop into the package from elsewhere, by --plugin-dir, which is gone by now.
    package = ("--include=docker_tracker/*",)
    rooms = ",".join(f"docker_tracker/{room}/*" for room in UNIT_COVERAGE_ROOMS)
    command = (sys.executable, "-m", "coverage")

    def combined(name: str, *sources: str) -> tuple[str, ...]:
        files = [str(path) for source in sources for path in sorted(COVERAGE_DATA.glob(f"{source}.*"))]
        data = f"--data-file={COVERAGE_DATA / name}"
        runner.run(*command, "combine", "--keep", "--quiet", data, *files)
        return (*command, "report", data, "--precision=2")

    result = check(
        runner,
        "coverage",
        (*combined("of-unit", "unit"), f"--include={rooms}", f"--fail-under={UNIT_COVERAGE}"),
        *(
            [(*combined("of-all", "unit", "integration"), *package, f"--fail-under={TOTAL_COVERAGE}")]
            if complete
            else []
        ),
    )
    # Without an engine much of the package is not reached; that says nothing about the tests.
    return result if complete else evolve(result, skipped=1, reasons=("coverage of all: no engine",))


def left_behind(runner: Runner, engine: PrivateEngine | None) -> Result:
    """Whether tests left a process, an engine or a machine, or on the run's engine a container, network or volume."""
    found = []
    if engine is not None and (hang := look(engine)) is not None:
        found.append(str(hang))
    elif engine is not None and engine.process_id("dockerd") is not None:
        for path, kind in (("/containers/json?all=1", "container"), ("/networks", "network"), ("/volumes", "volume")):
            answer = engine.api("GET", path)[1]
            things = (answer.get("Volumes") or ()) if kind == "volume" else answer
            found += [
                f"{kind} {thing.get('Name') or thing.get('Names')} {thing.get('Labels')}"
                for thing in things
                if thing.get("Name") not in ("bridge", "host", "none")
            ]
    mark = f"{RUN_VARIABLE}={runner.identity}".encode()
    for record in Path("/tmp").glob("dt-*/engine.json"):
        private = PrivateEngine(record.parent)
        if any(_has_mark(Path(f"/proc/{private.process_id(name)}"), mark) for name in ("dockerd", "containerd")):
            found.append(f"engine {private.directory}")
            private.stop()
            shutil.rmtree(private.directory)
    for process in (path for path in Path("/proc").iterdir() if path.name.isdigit()):
        if _has_mark(process, mark):
            with suppress(FileNotFoundError, ProcessLookupError):
                found.append(f"process {process.name}: {(process / 'cmdline').read_bytes().split(bytes(1))}")
                os.kill(int(process.name), signal.SIGKILL)
    for directory in left_by(runner.identity):
        found.append(f"machine {directory}")
        clear(directory)
    output = "\n".join(f"left behind: {thing}" for thing in found)
    return Result(name="left-behind", passed=int(not found), failed=int(bool(found)), output=output)


def _has_mark(process: Path, mark: bytes) -> bool:
    """Say whether a process, named by its directory in /proc, was started by this run."""
    try:
        return mark in (process / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return False


# The first lane's parts share the engine and measure; the second's read the source, or have engines of their own.
LANES: tuple[tuple[Callable[[Runner], Result], ...], ...] = (
    (unit, integration, coverage),
    (lint, layers, typing, docs, wheel, machines, crashes),
)
if os.environ.get(ENGINES_VARIABLE):
    LANES = (LANES[0], (*LANES[1], engines, builds))
PARTS = {part.__name__: part for lane in LANES for part in lane}


def run_lane(runner: Runner, lane: Iterable[Callable[[Runner], Result]]) -> list[Result]:
    """Run parts one after the other; print of each what went wrong, or one line."""
    results = []
    for part in lane:
        start = time.monotonic()
        result = part(runner)
        seconds = time.monotonic() - start
        with PRINTING:
            if result.failed or runner.verbose:
                sys.stdout.write(f"\n===== {result.name} =====\n{result.output}\n")
            state = "FAILED" if result.failed else "ok"
            counts = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
            sys.stdout.write(f"{result.name:12} {state:6} {counts} ({seconds:.0f} s)\n")
            sys.stdout.flush()
        results.append(result)
    return results


def start_engine() -> tuple[PrivateEngine | None, Result]:
    """Start the run's engine, unless one is named; its address goes to the environment of all parts."""
    if os.environ.get(ADDRESS_VARIABLE):
        return None, Result(name="engine")
    reason = why_impossible()
    engine = None
    if reason is None:
        engine = PrivateEngine(tempfile.mkdtemp(prefix="dt-run-", dir="/tmp"))
        try:
            engine.start()
        except EngineError as error:
            shutil.rmtree(engine.directory)
            engine, reason = None, str(error)
    if engine is not None:
        os.environ[ADDRESS_VARIABLE] = engine.address
        return engine, Result(name="engine")
    required = os.environ.get(REQUIRE_VARIABLE) == "1"
    return None, Result(name="engine", failed=int(required), reasons=(f"engine: {reason}",), output=reason or "")


def main(names: list[str]) -> int:
    """Run the parts named, or all. :returns: the exit status."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.stderr.write(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}\n")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    CACHE.mkdir(exist_ok=True)
    runner = Runner(identity=f"{os.getpid()}-{time.time_ns()}", verbose=bool(names))
    chosen = [[part for part in lane if not names or part.__name__ in names] for lane in LANES]
    needs_engine = integration in chosen[0]
    engine, started = start_engine() if needs_engine else (None, Result(name="engine"))
    if started.output:
        sys.stdout.write(f"{started.output}\n")
    results = [started]
    runner.engine = engine
    try:
        with ThreadPoolExecutor(len(chosen)) as pool:
            try:
                for lane in [pool.submit(run_lane, runner, lane) for lane in chosen]:
                    results += lane.result()
            finally:
                runner.stop()
    finally:
        # Also after an interruption, since it kills what is left.
        results += run_lane(runner, [lambda runner: left_behind(runner, engine)])
        if engine is not None:
            engine.stop()
            shutil.rmtree(engine.directory)
    return summarise(results)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def summarise(results: list[Result]) -> int:
    """Print what failed, the counts and, last, what was not run. :returns: the exit status."""
    failed = sum(result.failed for result in results)
    for result in results:
        if result.failed:
            what = f": {', '.join(result.failures)}" if result.failures else ""
            sys.stdout.write(f"failed: {result.name} ({result.failed}){what}\n")
    for note in (note for result in results for note in result.notes):
        sys.stdout.write(f"{note.rstrip()}\n")
    reasons = sorted({reason for result in results for reason in result.reasons})
    counts = (sum(result.passed for result in results), failed, sum(result.skipped for result in results))
    summary = "{} passed, {} failed, {} skipped\n".format(*counts)
    (CACHE / "summary").write_text(summary)
    sys.stdout.write(f"\n{summary}")
    if reasons:
        sys.stdout.write(f"not run: {'; '.join(reasons)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
