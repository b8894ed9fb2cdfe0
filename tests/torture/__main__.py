"""Play rounds by hand: ``python -m tests.torture --seed N [--rounds N] [--engine real|fake] [--step NAME]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.torture import plans, steps
from tests.torture.engines import Engine, MadeUpEngine, RealEngine
from tests.torture.nursery import Nursery
from tests.torture.rounds import Round, Verdict

_ATTEMPTS = 4


@contextmanager
def made_up() -> Iterator[Engine]:
    """Give a fake engine."""
    with tempfile.TemporaryDirectory(prefix="dt-fake-", dir="/tmp") as directory:
        engine = MadeUpEngine(Path(directory) / "engine.sock")
        engine.begin()
        try:
            yield engine
        finally:
            engine.end()


@contextmanager
def real() -> Iterator[Engine]:
    """Give a private dockerd."""
    engine = RealEngine()
    engine.begin()
    try:
        yield engine
    finally:
        engine.end()


def play(
    engine: Engine, nursery: Nursery, many: Iterable[tuple[int, str | None]], deed: str | None
) -> Iterator[Verdict]:
    """Play rounds, one after the other; one whose engine locked itself up is played again, as no client can cause that.

    :param many: The seed of each, and its step, or None: a random one.
    """
    for seed, step in many:
        verdict = Round(plans.make(seed, engine.swarm, step, deed), engine, nursery).play()
        if verdict.problems and (hang := engine.mend()) is not None:
            sys.stdout.write(f"{verdict}\nnote: played again, as {hang}\n")
            verdict = Round(plans.make(seed, engine.swarm, step, deed), engine, nursery).play()
        if engine.forgot_networks:
            sys.stdout.write(f"note: the engine forgot its networks, by {engine.forgot_networks}: {verdict.plan}\n")
            engine.forgot_networks = ""
        yield verdict


def _every_step(seed: int, engine: Engine, hit: set[str]) -> Iterator[tuple[int, str]]:
    """Give a round for each step, and more for those that were not hit, as something else came first."""
    for attempt in range(_ATTEMPTS):
        for number, step in enumerate(steps.STEPS):
            if step not in hit and (engine.swarm or step not in steps.SWARM_STEPS):
                yield seed + attempt * 1000 + number, step


def main() -> int:
    """Play, and print what failed and which steps were hit. :returns: the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engine", choices=("fake", "real"), default="fake")
    parser.add_argument("--step", choices=steps.STEPS)
    parser.add_argument("--deed", choices=steps.DEEDS)
    parser.add_argument("--every-step", action="store_true", help="rounds until each step was hit; all must be")
    parser.add_argument("--quiet", action="store_true", help="only what failed")
    options = parser.parse_args()
    played, failed, hit = 0, 0, set[str]()
    nursery = Nursery()
    try:
        with real() if options.engine == "real" else made_up() as engine:
            sys.stdout.write(f"seed {options.seed}, engine {options.engine}\n")
            many = (
                _every_step(options.seed, engine, hit)
                if options.every_step
                else ((options.seed + number, options.step) for number in range(options.rounds))
            )
            for verdict in play(engine, nursery, many, options.deed):
                played += 1
                if verdict.hit:
                    hit.add(verdict.plan.step)
                if verdict.problems or not options.quiet:
                    sys.stdout.write(f"{verdict}\n")
                if verdict.problems:
                    sys.stdout.write(verdict.log)
                    failed += 1
                sys.stdout.flush()
            wanted = {step for step in steps.STEPS if engine.swarm or step not in steps.SWARM_STEPS}
    finally:
        nursery.close()
    missing = wanted - hit if options.every_step else set()
    if missing:
        sys.stdout.write(f"never hit: {', '.join(sorted(missing))}\n")
    sys.stdout.write(f"{played} rounds, {failed} failed; {len(hit)} of {len(wanted)} steps hit\n")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
