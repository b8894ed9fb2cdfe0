"""Goes every way to create on every engine that can be had, through a real daemon; ``make engines``.

    python -m tests.engines [--engine NAME=ADDRESS[=CLI]]... [--bundles COMMAND] [--only REGEX] [--write]

Without options the only engine is a private one of Debian's ``docker.io``. COMMAND brings up private engines
(``COMMAND install NAME``, ``COMMAND up NAME DIRECTORY``, ``COMMAND down DIRECTORY``, ``COMMAND env``); the variable
DOCKER_TRACKER_ENGINES names it, too. With ``--write`` the page and its results are written. The exit status is 1 if
something does not hold that should.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.engines.checks import go
from tests.engines.page import problems, write
from tests.engines.place import CGROUP, Engine, Tracker
from tests.engines.ways import VOLUME_IMAGE, WAYS, Way
from tests.support.dockerd import PrivateEngine
from tests.support.engine import remove_cgroup

VARIABLE = "DOCKER_TRACKER_ENGINES"
UP_SECONDS = 300
# As the command calls them, with further options of the daemon. A name before the colon is the page's.
BUNDLES = (
    ("docker-20.10", "docker-20.10", ()),
    ("docker-26", "docker-26", ()),
    ("docker-28", "docker-28", ()),
    ("docker-28 (containerd)", "docker-28", ("--feature=containerd-snapshotter=true",)),
    ("podman-4", "podman-4", ()),
    ("podman-5", "podman-5", ()),
    ("podman-5.8", "podman-5.8", ()),
)


@contextmanager
def private() -> Iterator[Engine]:
    """Have an engine of Debian's docker.io."""
    engine = PrivateEngine(tempfile.mkdtemp(prefix="dt-eng-", dir="/tmp"))
    engine.start()
    try:
        version = engine.api("GET", "/version")[1]["Version"]
        name = f"docker-{'.'.join(version.split('.')[: 2 if version.startswith('20') else 1])}"
        yield Engine(name=name, address=engine.address, cli=shutil.which("docker") or "")
    finally:
        engine.stop()
        shutil.rmtree(engine.directory)


@contextmanager
def bundled(command: str, name: str, bundle: str, options: tuple[str, ...]) -> Iterator[Engine]:
    """Have an engine that a command brings up."""
    directory = Path(tempfile.mkdtemp(prefix="dt-eng-", dir="/tmp"))
    subprocess.run([command, "install", bundle], check=True, timeout=UP_SECONDS, stdout=subprocess.DEVNULL)
    up = [command, "up", bundle, str(directory / "e"), *(["--", *options] if options else [])]
    try:
        subprocess.run(up, check=True, timeout=UP_SECONDS, stdout=subprocess.DEVNULL)
        told = subprocess.run(
            [command, "env"], check=True, timeout=UP_SECONDS, stdout=subprocess.PIPE, text=True
        ).stdout
        environment = _exported(told)
        cli = shutil.which(bundle, path=environment.get("PATH")) or ""
        yield Engine(name=name, address=f"unix://{directory / 'e'}/docker.sock", cli=cli, environment=environment)
    finally:
        subprocess.run([command, "down", str(directory / "e")], timeout=UP_SECONDS, stdout=subprocess.DEVNULL)
        shutil.rmtree(directory, ignore_errors=True)


def _exported(text: str) -> dict[str, str]:
    """Return the variables that lines of shell set."""
    script = f"{text}\nenv -0"
    done = subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.PIPE, text=True)
    values = dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)
    return {name: values[name] for name in ("PATH", "DOCKER_CONFIG") if name in values}


def abilities(engine: Engine, swarm: bool = True) -> set[str]:
    """Return what an engine and its client can.

    :param swarm: Whether to make the engine a swarm's manager.
    """
    version = engine.api("GET", "/version")[1]
    podman = any(part.get("Name", "").startswith("Podman") for part in version.get("Components") or ())
    found = {"podman" if podman else "docker", *(("cli",) if engine.cli else ())}
    if podman:
        return found
    environment = {**os.environ, **engine.environment}
    for plugin in ("buildx", "compose"):
        command = [engine.cli or "false", plugin, "version"]
        if subprocess.run(command, env=environment, capture_output=True, timeout=30).returncode == 0:
            found.add(plugin)
    said = subprocess.run([engine.cli or "false", "--version"], env=environment, capture_output=True, timeout=30)
    found |= {"buildkit"} if "buildx" in found or said.stdout.startswith(b"Docker version 20.") else set()
    if not swarm:
        return found
    body = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"}
    return found | ({"swarm"} if engine.api("POST", "/swarm/init", body)[0] == 200 else set())


def run(engine: Engine, ways: list[Way]) -> tuple[str, dict[str, dict[str, str]]]:
    """Go all ways on one engine. :returns: what it is, and the cells."""
    able = abilities(engine)
    version = engine.api("GET", "/version")[1]
    cells: dict[str, dict[str, str]] = {}
    with Tracker(engine) as tracker:
        for way in ways:
            start = time.monotonic()
            missing = sorted(way.needs - able)
            cells[way.name] = {"skipped": f"no {', '.join(missing)}"} if missing else go(tracker, way)
            sys.stdout.write(
                f"{engine.name:24} {way.name:44} {time.monotonic() - start:5.1f} s {_short(cells[way.name])}\n"
            )
            sys.stdout.flush()
    engine.remove("image", VOLUME_IMAGE)
    if "swarm" in able:
        engine.api("POST", "/swarm/leave?force=1")
    driver = engine.api("GET", "/info")[1]["Driver"]
    return f"{version['Version'].partition('+')[0]}, API {version['ApiVersion']}, {driver}", cells


def _short(cell: dict[str, str]) -> str:
    wrong = {check: said for check, said in cell.items() if said != "yes"}
    return str(wrong) if wrong else "yes"


def main(arguments: list[str]) -> int:
    """Run. :returns: the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=ADDRESS[=CLI]")
    parser.add_argument("--bundles", default=os.environ.get(VARIABLE, ""), metavar="COMMAND")
    parser.add_argument("--names", default="", metavar="REGEX", help="of the engines that COMMAND brings up")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the ways to go")
    parser.add_argument("--write", action="store_true", help="write the page and its results")
    options = parser.parse_args(arguments)
    ways = [way for way in WAYS if re.search(options.only, way.name)]
    results: dict[str, Any] = {"engines": {}, "cells": {way.name: {} for way in ways}}
    engines: list[Any] = []
    for text in options.engine:
        name, address, *cli = text.split("=")
        engines.append(nullcontext(Engine(name=name, address=address, cli=cli[0] if cli else "")))
    if options.bundles:
        chosen = [bundle for bundle in BUNDLES if re.search(options.names, bundle[0])]
        engines += [bundled(options.bundles, name, bundle, more) for name, bundle, more in chosen]
    for context in engines or [private()]:
        with context as engine:
            told, cells = run(engine, ways)
        results["engines"][engine.name] = told
        for way, cell in cells.items():
            results["cells"][way][engine.name] = cell
        remove_cgroup(CGROUP)
    found = problems(results)
    for problem in found:
        sys.stdout.write(f"does not hold: {problem}\n")
    if options.write:
        write(results)
    all_cells = [cell for of_way in results["cells"].values() for cell in of_way.values()]
    checked = sum("skipped" not in cell for cell in all_cells)
    sys.stdout.write(f"{checked} cells checked, {len(found)} problems, {len(all_cells) - checked} not tried\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
