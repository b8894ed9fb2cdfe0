"""The measures: each loads one target in one way, and returns figures by name.

CPU is the proxy's alone, all its threads and children. ``around`` is what the engine and the load spent meanwhile: a
proxy can move cost to its neighbours.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.processes import BenchmarkError, Load, Server, cpu_nanoseconds, pss_kib, system_calls, why_no_trace
from benchmarks.targets import Place, Target, engine_server

GIB = 1 << 30
ENDLESS = 64 * GIB  # no transfer of that length ends while it is measured

Figures = dict[str, float]


@dataclass
class Bench:
    """A run: the engine, the load, and how long each sample takes.

    :ivar seconds: For samples that are bounded in time.
    :ivar size: Of a bulk transfer, in bytes.
    :ivar streams: How many idle streams are opened for their memory.
    """

    place: Place
    load: Load
    engine: Server
    seconds: float
    size: int
    streams: tuple[int, ...]

    def fresh(self, target: Target) -> Server:
        """Return a new process of a target, started."""
        assert target.make is not None
        directory = Path(tempfile.mkdtemp(dir=self.place.directory, prefix=""))
        server = target.make(replace(self.place, directory=directory, engine_directory=self.place.directory))
        server.start()
        return server

    def sample(self, server: Server | None, mode: str, **options: object) -> tuple[Figures, float, float]:
        """Run the load; return what it says, and the seconds of CPU of the proxy and of those around it."""
        path = self.place.engine if server is None else server.path
        before = 0 if server is None else cpu_nanoseconds(server.pid)
        around = cpu_nanoseconds(self.engine.pid) + _children_nanoseconds()
        told = self.load.run(path, mode, **options)
        after = 0 if server is None else cpu_nanoseconds(server.pid)
        spent = cpu_nanoseconds(self.engine.pid) + _children_nanoseconds() - around
        return told, (after - before) / 1e9, spent / 1e9


def _children_nanoseconds() -> int:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


@dataclass(frozen=True)
class Measure:
    """One way to load a target.

    :ivar name: Short; a figure is called ``name.figure``.
    :ivar title: For tables.
    :ivar units: Of each figure.
    :ivar run: Given the run, the target, and its running process (None: direct).
    :ivar each_round: Whether it is taken in every round, or once.
    :ivar alone: Whether it starts processes of its own.
    :ivar not_for: Targets for which it says nothing.
    """

    name: str
    title: str
    units: Mapping[str, str]
    run: Callable[[Bench, Target, Server | None], Figures]
    each_round: bool = True
    alone: bool = False
    not_for: tuple[str, ...] = ()


_TIMES = {"p50": "us", "p90": "us", "p99": "us"}


def _requests(name: str, title: str, mode: str, kind: str, connections: int) -> Measure:
    def run(bench: Bench, target: Target, server: Server | None) -> Figures:
        told, cpu, around = bench.sample(server, mode, kind=kind, connections=connections, seconds=bench.seconds)
        count = told["requests"]
        figures = {key: told[key] for key in _TIMES} | {"rate": count / told["seconds"], "around": around / count * 1e6}
        return figures if server is None else figures | {"cpu": cpu / count * 1e6}

    return Measure(name, title, {"cpu": "us/request", "around": "us/request", "rate": "/s", **_TIMES}, run)


def _bulk(kind: str, title: str) -> Measure:
    def run(bench: Bench, target: Target, server: Server | None) -> Figures:
        told, cpu, around = bench.sample(server, "bulk", kind=kind, bytes=bench.size)
        gib = bench.size / GIB
        figures = {"rate": gib / told["seconds"], "around": around / gib}
        return figures if server is None else figures | {"cpu": cpu / gib}

    return Measure(kind, title, {"cpu": "s/GiB", "around": "s/GiB", "rate": "GiB/s"}, run)


def _echo(bench: Bench, target: Target, server: Server | None) -> Figures:
    told, cpu, _ = bench.sample(server, "echo", count=max(200, int(4000 * bench.seconds)))
    figures = {key: told[key] for key in _TIMES}
    return figures if server is None else figures | {"cpu": cpu / told["requests"] * 1e6}


def _first_byte(bench: Bench, target: Target, server: Server | None) -> Figures:
    told, cpu, _ = bench.sample(server, "first-byte", count=max(50, int(500 * bench.seconds)))
    figures = {key: told[key] for key in _TIMES}
    return figures if server is None else figures | {"cpu": cpu / told["requests"] * 1e6}


def _fairness(bench: Bench, target: Target, server: Server | None) -> Figures:
    path = bench.place.engine if server is None else server.path
    seconds = bench.seconds * 2
    transfers = bench.load.begin(
        path, "bulk", kind="download-length", connections=4, bytes=ENDLESS, seconds=seconds + 0.4
    )
    try:
        time.sleep(0.2)
        told = bench.load.run(path, "requests", connections=1, seconds=seconds, pause=500)
    except BenchmarkError:
        transfers.kill()
        raise
    finally:
        moved = bench.load.end(transfers)
    return {key: told[key] for key in _TIMES} | {"rate": moved["bytes"] / GIB / moved["seconds"]}


def _creating(bench: Bench, target: Target, server: Server | None) -> Figures:
    path = bench.place.engine if server is None else server.path
    seconds = bench.seconds * 2
    before = 0 if server is None else cpu_nanoseconds(server.pid)
    creates = bench.load.begin(path, "requests", kind="create", connections=64, seconds=seconds + 0.4)
    try:
        time.sleep(0.2)
        told = bench.load.run(path, "requests", connections=1, seconds=seconds, pause=500)
    except BenchmarkError:
        creates.kill()
        raise
    finally:
        made = bench.load.end(creates)
    figures = {key: told[key] for key in _TIMES} | {"rate": made["requests"] / made["seconds"]}
    if server is None:
        return figures
    # The pings' share is in it, too: a few per cent.
    return figures | {"cpu": (cpu_nanoseconds(server.pid) - before) / 1e3 / made["requests"]}


def _calls(bench: Bench, target: Target, server: Server | None) -> Figures:
    problem = why_no_trace()
    if problem or server is None:
        raise BenchmarkError(problem or "there is no process")

    def calls(mode: str, **options: object) -> int:
        return system_calls(server.pid, partial(bench.load.run, server.path, mode, **options))

    def each(mode: str, kind: str, connections: int, count: int) -> float:
        # What connecting costs, if it is not the point, is in both, and so in neither.
        few = calls(mode, kind=kind, connections=connections, count=connections)
        return (calls(mode, kind=kind, connections=connections, count=connections + count) - few) / count

    figures = {
        "ping-1": each("requests", "ping", 1, 800),
        "ping-16": each("requests", "ping", 16, 3200),
        "list-16": each("requests", "list", 16, 800),
        "create-16": each("requests", "create", 16, 1600),
        "connect": each("connects", "ping", 16, 400),
    }
    size = min(bench.size, GIB // 4)
    return figures | {kind: calls("bulk", kind=kind, bytes=size) / (size / GIB) for kind in _COUNTED}


_COUNTED = ("download-length", "download-chunked", "upload-length", "attach-source")
_CALL_UNITS = {
    **dict.fromkeys(("ping-1", "ping-16", "list-16", "create-16", "connect"), "/request"),
    **dict.fromkeys(_COUNTED, "/GiB"),
}


def _idle(bench: Bench, target: Target, server: Server | None) -> Figures:
    figures = {}
    for count in bench.streams:
        if target.name == "socat" and count > 1000:
            continue  # it has a process for each
        server = bench.fresh(target)
        try:
            bench.load.run(server.path, "echo", count=50)
            before = pss_kib(server.pid)
            load = bench.load.begin(server.path, "idle", connections=count)
            try:
                assert load.stdout is not None
                if load.stdout.readline() != "ready\n":
                    raise BenchmarkError(f"{count} streams: {load.communicate(timeout=30)[1].strip()}")
                figures[f"at-{count}"] = (pss_kib(server.pid) - before) / count
            finally:
                load.kill()
                load.communicate()
        finally:
            server.stop()
    return figures


STALLED = ("download-length", "download-chunked", "upload-length", "attach-source")
_STALLED_COUNT = 16


def _stalled(bench: Bench, target: Target, server: Server | None) -> Figures:
    """Nobody reads: what a connection then holds in the proxy, and what is on its way, kernel's buffers included."""
    figures = {}
    for kind in STALLED:
        server = bench.fresh(target)
        try:
            bench.load.run(server.path, "bulk", kind=kind, bytes=4 << 20)  # so that buffers which all share are there
            before, sent = pss_kib(server.pid), _sent_in_bulk(bench)
            load = bench.load.begin(server.path, "stalled", kind=kind, connections=_STALLED_COUNT, bytes=ENDLESS)
            try:
                assert load.stdout is not None
                told = load.stdout.readline()
                on_the_way = _settled(bench) - sent
                figures[kind] = (pss_kib(server.pid) - before) / _STALLED_COUNT
                if kind.startswith("upload"):
                    on_the_way = float(told.partition('"bytes": ')[2].partition(",")[0])
                figures[f"{kind}-in-flight"] = on_the_way / 1024 / _STALLED_COUNT
            finally:
                load.kill()
                load.communicate()
        finally:
            server.stop()
    return figures


def _sent_in_bulk(bench: Bench) -> float:
    """Ask the engine how many bytes of downloads it ever sent."""
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(bench.place.engine))
    try:
        connection.request("GET", "/info")
        return float(json.loads(connection.getresponse().read())["SentInBulk"])
    finally:
        connection.close()


def _settled(bench: Bench) -> float:
    last = -1.0
    while (now := _sent_in_bulk(bench)) != last:
        last = now
        time.sleep(0.3)
    return now


def _start(bench: Bench, target: Target, server: Server | None) -> Figures:
    server = bench.fresh(target)
    try:
        wall, cpu = time.monotonic() - server.started, cpu_nanoseconds(server.pid)
        time.sleep(0.7)  # what is done after the first answer
        return {"cpu": cpu / 1e6, "wall": wall * 1e3, "pss": pss_kib(server.pid) / 1024}
    finally:
        server.stop()


def all_measures(streams: tuple[int, ...]) -> list[Measure]:
    """Return all measures, in the order of the report."""
    return [
        _requests("ping-1", "ping, 1 connection", "requests", "ping", 1),
        _requests("ping-16", "ping, 16 connections", "requests", "ping", 16),
        _requests("ping-64", "ping, 64 connections", "requests", "ping", 64),
        _requests("create-16", "create (1.6 KB), 16 connections", "requests", "create", 16),
        _requests("list-16", "list of 100 containers, 16 connections", "requests", "list", 16),
        _requests("connect-16", "ping, a connection each, 16 at once", "connects", "ping", 16),
        _bulk("download-length", "download, known length"),
        _bulk("upload-length", "upload, known length"),
        _bulk("download-chunked", "download, chunked"),
        _bulk("upload-chunked", "upload, chunked"),
        _bulk("attach-source", "hijacked stream, to the client"),
        _bulk("attach-sink", "hijacked stream, to the engine"),
        Measure("echo", "echo on a hijacked stream", {"cpu": "us/round trip", **_TIMES}, _echo),
        Measure("first-byte", "connection to first event", {"cpu": "us/stream", **_TIMES}, _first_byte),
        Measure("fairness", "ping while 4 downloads run", {**_TIMES, "rate": "GiB/s"}, _fairness),
        Measure(
            "create-64",
            "ping while 64 clients create (cpu, rate: of creates)",
            {**_TIMES, "rate": "/s", "cpu": "us/create"},
            _creating,
        ),
        Measure("calls", "system calls", _CALL_UNITS, _calls, each_round=False, not_for=("direct",)),
        Measure(
            *("idle", "idle hijacked streams, Pss each", {f"at-{count}": "KiB" for count in streams}, _idle),
            each_round=False,
            alone=True,
            not_for=("direct",),
        ),
        Measure(
            *("stalled", "a reader that stalls, Pss each", _STALLED_UNITS, _stalled),
            each_round=False,
            alone=True,
            not_for=("direct", "socat"),
        ),
        Measure("start", "start", {"cpu": "ms", "wall": "ms", "pss": "MiB"}, _start, alone=True, not_for=("direct",)),
    ]


_STALLED_UNITS = {name: "KiB" for kind in STALLED for name in (kind, f"{kind}-in-flight")}


def raise_descriptor_limit(wanted: int = 65536) -> int:
    """Let processes that we start open so many descriptors, if we may. :returns: how many they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        with contextlib.suppress(ValueError, OSError):  # not root, or a container's root
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def start_engine(place: Place) -> Server:
    """Return the fake engine, started."""
    server = engine_server(place)
    server.start()
    return server
