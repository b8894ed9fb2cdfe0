"""What a build by BuildKit costs the daemon: CPU for each, joined raw and with one interceptor more each time.

    python -m benchmarks.builds ENGINE [--builds N] [--docker PROGRAM]

ENGINE is the address of one that speaks BuildKit and has ``busybox:local``; PROGRAM is a ``docker`` with buildx. All
builds come from the cache, through one daemon after the other, by turns; what is told is the median of each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.processes import cpu_nanoseconds
from tests.support.daemon import Daemon

_WAYS: Final = {
    "raw": ("--interceptors=none",),
    "labels": ("--interceptors=labels",),
    "recorder": ("--interceptors=labels,recorder",),
    "audit": ("--interceptors=labels,recorder,audit",),
}
_SECONDS: Final = 120


def _build(program: str, address: str, context: Path) -> None:
    command = [program, "buildx", "build", "--quiet", "--tag=docker-tracker-bench:1", str(context)]
    environment = {**os.environ, "DOCKER_HOST": address}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=_SECONDS)


def measure(engine: str, builds: int, program: str) -> dict[str, float]:
    """Return milliseconds of the daemon's CPU for each build, by what takes part."""
    daemons: dict[str, Daemon] = {}
    directory = Path(tempfile.mkdtemp(prefix="dt-bench-", dir="/tmp"))
    found: dict[str, list[float]] = {way: [] for way in _WAYS}
    (directory / "Dockerfile").write_text("FROM busybox:local\nRUN true\nLABEL theirs=1\n")
    try:
        for way, options in _WAYS.items():
            log = (f"--audit-log={directory / 'audit'}",) if way == "audit" else ()
            daemons[way] = Daemon(f"--engine={engine}", *options, *log).serve()
        for turn in range(builds + 1):
            for way, daemon in daemons.items():
                assert daemon.process is not None
                before = cpu_nanoseconds(daemon.process.pid)
                _build(program, daemon.address, directory)
                if turn:  # the first one fills caches, ours and the engine's
                    found[way].append((cpu_nanoseconds(daemon.process.pid) - before) / 1e6)
    finally:
        for daemon in daemons.values():
            daemon.discard()
        shutil.rmtree(directory)
        subprocess.run(
            [program, "rmi", "docker-tracker-bench:1"], env={**os.environ, "DOCKER_HOST": engine}, check=True
        )
    return {way: statistics.median(values) for way, values in found.items()}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.builds")
    parser.add_argument("engine")
    parser.add_argument("--builds", type=int, default=40)
    parser.add_argument("--docker", default="docker")
    options = parser.parse_args()
    found = measure(options.engine, options.builds, options.docker)
    for way, each in found.items():
        sys.stdout.write(f"{way:10} {each:6.1f} ms  {each - found['raw']:+6.1f} ms  {each / found['raw']:5.2f}x\n")


if __name__ == "__main__":
    main()
