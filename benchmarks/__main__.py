"""Measures the daemon beside other proxies: ``python -m benchmarks --help``, or ``make bench``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType

from benchmarks import report
from benchmarks.measures import Bench, Measure, all_measures, raise_descriptor_limit, start_engine
from benchmarks.processes import BenchmarkError, Cores, Load, Server
from benchmarks.targets import CACHE, Place, Target, all_targets, compile_c, install


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turns [5]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a sample [1]")
    parser.add_argument("--mib", type=int, default=512, help="of a bulk transfer [512]")
    parser.add_argument("--streams", default="1000,10000", help="idle streams [1000,10000]")
    parser.add_argument("--targets", default="", help="names, parted by commas [all]")
    parser.add_argument("--measures", default="", help="names or their beginnings, parted by commas [all]")
    parser.add_argument(
        "--send-buffer", type=int, default=0, help="SO_SNDBUF of engine and HAProxy, in bytes [the kernel's]"
    )
    parser.add_argument("--output", type=Path, default=CACHE / "results", help="directory [.cache/bench/results]")
    parser.add_argument("--install", action="store_true", help="install missing proxies first (root, Debian)")
    return parser.parse_args(arguments)


class Run:
    """One run.

    :param settings: From `parse`.
    :param place: Where its processes are.
    """

    def __init__(self, settings: argparse.Namespace, place: Place) -> None:
        self._settings = settings
        self._place = place
        most = (raise_descriptor_limit() - 1000) // 2  # a proxy has two descriptors for each
        streams = tuple(min(int(count), most) for count in settings.streams.split(",") if count)
        names = [name for name in settings.targets.split(",") if name]
        wanted = tuple(name for name in settings.measures.split(",") if name)
        targets = [target for target in all_targets() if not names or target.name in names]
        self.missing = [target.missing for target in targets if target.missing]
        self.targets = [target for target in targets if not target.missing]
        self.measures = [m for m in all_measures(streams) if not wanted or m.name.startswith(wanted)]
        self.samples: dict[str, dict[str, list[float]]] = {}
        self._streams = streams
        self._servers: dict[str, Server] = {}
        self._failed: set[tuple[str, str]] = set()

    def measure(self) -> None:
        """Take all samples, round by round, each round in another order."""
        load = Load(compile_c("load"), self._place.cores.load)
        engine = start_engine(self._place)
        try:
            bench = Bench(self._place, load, engine, self._settings.seconds, self._settings.mib << 20, self._streams)
            self._start_targets()
            for measure in [measure for measure in self.measures if not measure.each_round]:
                self._take(bench, measure, 0)
            for number in range(self._settings.rounds):
                for measure in [measure for measure in self.measures if measure.each_round]:
                    self._take(bench, measure, number)
        finally:
            for server in (*self._servers.values(), engine):
                server.stop()

    def _start_targets(self) -> None:
        for target in list(self.targets):
            if target.make is not None:
                server = target.make(self._place)
                try:
                    server.start()
                except BenchmarkError as error:
                    self.targets.remove(target)
                    self.missing.append(f"{target.name}: {error}")
                    continue
                self._servers[target.name] = server

    def _take(self, bench: Bench, measure: Measure, number: int) -> None:
        turned = self.targets[number % len(self.targets) :] + self.targets[: number % len(self.targets)]
        for target in turned:
            if target.name in measure.not_for or (measure.name, target.name) in self._failed:
                continue
            sys.stderr.write(f"\r\x1b[Kround {number + 1}: {measure.name}, {target.name}")
            sys.stderr.flush()
            try:
                figures = measure.run(bench, target, self._server(target, measure))
            except BenchmarkError as error:
                self._failed.add((measure.name, target.name))
                self.missing.append(f"{measure.name} of {target.name}: {error}")
                continue
            for figure, value in figures.items():
                self.samples.setdefault(f"{measure.name}.{figure}", {}).setdefault(target.name, []).append(value)
        sys.stderr.write("\r\x1b[K")

    def _server(self, target: Target, measure: Measure) -> Server | None:
        return None if measure.alone else self._servers.get(target.name)


def machine(cores: Cores) -> dict[str, object]:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "twisted": metadata.version("twisted"),
        "proxy_core": cores.proxy,
        "engine_core": cores.engine,
        "load_core": cores.load,
        "wmem_max": int(Path("/proc/sys/net/core/wmem_max").read_text()),
        "load_before": os.getloadavg()[0],
    }


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write results.json, results.txt and results.svg. :returns: the exit status."""
    settings = parse(arguments)
    signal.signal(signal.SIGTERM, _terminated)  # so that what was started is stopped
    if settings.install:
        install()
    directory = Path(tempfile.mkdtemp(prefix="dt-bench-", dir="/tmp"))
    try:
        place = Place(directory, Cores.choose(), settings.send_buffer)
        described = machine(place.cores)
        run = Run(settings, place)
        run.measure()
    except BenchmarkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    described["load_after"] = os.getloadavg()[0]
    results: report.Results = {
        "machine": described,
        "settings": {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "size": settings.mib << 20,
            "send_buffer": settings.send_buffer,
        },
        "targets": {target.name: {"title": target.title, "version": target.version} for target in run.targets},
        "measures": [{"name": m.name, "title": m.title, "units": dict(m.units)} for m in run.measures],
        "samples": run.samples,
        "missing": run.missing,
    }
    text = "\n".join((*report.machine_text(results), "", report.table(results), "", report.goals(results), ""))
    settings.output.mkdir(parents=True, exist_ok=True)
    (settings.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (settings.output / "results.txt").write_text(text)
    (settings.output / "results.svg").write_text(report.plot(results))
    sys.stdout.write(f"{text}\nwritten to {settings.output}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
