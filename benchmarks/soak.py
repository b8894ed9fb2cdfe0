"""Mixed traffic for a long time through a real daemon to a real engine: do descriptors, memory and latency stay flat?

``python -m benchmarks.soak --minutes 30 --engine unix:///path/docker.sock``, or ``make soak``. The engine should be a
private one (``python -m tests.support.dockerd up DIR``): containers and images are made and removed on it all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.processes import cpu_nanoseconds, pss_kib
from benchmarks.targets import CACHE
from tests.support.daemon import Daemon
from tests.support.dockerd import IMAGE
from tests.support.stream import Stream, call, descriptors

_PINGS = 20
_PIECE = 4 << 20
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp", "Content_Type": "application/json"}
#: Empty pipes that the daemon may keep, with some connections that are just ending.
_SLACK = 40


class SoakError(Exception):
    """An answer that is not what it should be."""


def _expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise SoakError(f"{str(got)[:300]} where {wanted} should be")


def _archive(name: str, data: bytes) -> bytes:
    header = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(data) + b"0" * 11
    header += b"\0" + b" " * 8 + b"0" + b"\0" * 100 + b"ustar\00000" + b"\0" * 247
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    return header + data + b"\0" * (-len(data) % 512) + b"\0" * 1024


@dataclass
class Traffic:
    """What clients do, one thing after another.

    :ivar address: The daemon's.
    :ivar container: One that runs all the time.
    """

    address: str
    container: str

    def pings(self) -> None:
        """Many on one connection."""
        with Stream(self.address) as stream:
            for _ in range(50):
                _expect(stream.request("GET", "/_ping").answer(), (200, "OK"))

    def connections(self) -> None:
        """One request on each of many."""
        for _ in range(20):
            _expect(call(self.address, "GET", "/_ping"), (200, "OK"))

    def lists(self) -> None:
        """Answers in chunks."""
        with Stream(self.address) as stream:
            for target in ("/containers/json?all=1", "/images/json", "/info", "/version") * 3:
                _expect(stream.request("GET", target).answer()[0], 200)

    def life(self) -> None:
        """A container from its making to its removal."""
        text = f"said {random.random()}"
        status, made = call(self.address, "POST", "/containers/create", {"Image": IMAGE, "Cmd": ["echo", text]})
        _expect(status, 201)
        name = made["Id"]
        try:
            _expect(call(self.address, "POST", f"/containers/{name}/start")[0], 204)
            _expect(call(self.address, "POST", f"/containers/{name}/wait")[1]["StatusCode"], 0)
            with Stream(self.address) as stream:
                stream.request("GET", f"/containers/{name}/logs?stdout=1").read_head()
                _expect(stream.body()[8:].decode().strip(), text)
        finally:
            _expect(call(self.address, "DELETE", f"/containers/{name}?force=1&v=1")[0], 204)

    def echo(self) -> None:
        """A hijacked stream whose input ends before its output."""
        config = {"AttachStdin": True, "AttachStdout": True, "Tty": False, "Cmd": ["cat"]}
        status, made = call(self.address, "POST", f"/containers/{self.container}/exec", config)
        _expect(status, 201)
        with Stream(self.address) as stream:
            body = b'{"Detach":false,"Tty":false}'
            stream.request("POST", f"/exec/{made['Id']}/start", body, **_UPGRADE).read_head()
            for number in range(20):
                line = b"line %d\n" % number
                stream.send(line)
                _expect(stream.read(8 + len(line))[8:], line)
            stream.half_close()
            _expect(stream.rest(), b"")

    def transfers(self) -> None:
        """A file in, and out again."""
        sent = _archive("soak", os.urandom(1 << 16) * (_PIECE >> 16))
        where = f"/containers/{self.container}/archive?path=/tmp"
        with Stream(self.address) as stream:
            fields = {"Content_Type": "application/x-tar"}
            _expect(stream.request("PUT", where, sent, **fields).answer()[0], 200)
            stream.request("GET", f"{where}/soak").read_head()
            _expect(len(stream.body()) >= _PIECE, True)

    def build(self) -> None:
        """An image, and its removal."""
        tag = f"soak{random.getrandbits(60):x}"
        context = _archive("Dockerfile", f"FROM {IMAGE}\nLABEL tag={tag}\n".encode())
        with Stream(self.address) as stream:
            stream.request("POST", f"/build?t={tag}", context, Content_Type="application/x-tar").read_head()
            if b"Successfully" not in (output := stream.body()):
                raise SoakError(f"the build did not succeed: {output[-300:]!r}")
        _expect(call(self.address, "DELETE", f"/images/{tag}?force=1")[0], 200)

    def vanish(self) -> None:
        """Clients that leave in the middle: of a head, an upload, a download, a stream, the events."""
        upload = b"PUT /containers/%b/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        begun = (
            b"GET /_ping HTTP/1.1\r\nHos",
            upload % self.container.encode() + _archive("part", b"x" * (1 << 20))[: 1 << 19],
            b"GET /containers/%b/archive?path=/bin HTTP/1.1\r\nHost: x\r\n\r\n" % self.container.encode(),
            b"POST /containers/%b/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n\r\n"
            % self.container.encode(),
            b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /containers/%b/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n" % self.container.encode(),
        )
        for beginning in begun:
            with Stream(self.address) as stream:
                stream.send(beginning)
                time.sleep(random.random() / 20)

    def nonsense(self) -> None:
        """What is refused."""
        for head in (
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET  /_ping HTTP/1.1\r\n\r\n",
            b"POST /build HTTP/1.1\r\nA : b\r\n\r\n",
        ):
            with Stream(self.address) as stream:
                stream.send(head)
                _expect(stream.read_head().status, 400)

    def docker(self) -> None:
        """Docker's own client."""
        text = "through a real client\n" * 1000
        result = subprocess.run(
            ["docker", "run", "--rm", "-i", IMAGE, "cat"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_HOST": self.address},
        )
        if result.stdout != text:
            raise SoakError(f"docker run gave {result.returncode}: {result.stderr.strip()[:300]}")

    def kinds(self) -> list[Callable[[], None]]:
        """Return all that can be done here, what is cheap more often."""
        often = [self.pings, self.connections, self.lists, self.echo, self.transfers, self.vanish, self.nonsense] * 3
        return [*often, self.life, self.build, *([self.docker] if shutil.which("docker") else [])]


@dataclass
class Sample:
    """The daemon at one moment.

    :ivar seconds: Since the begin of the traffic.
    :ivar descriptors, pss: Open files; memory in KiB.
    :ivar ping, direct: The median of some pings through the daemon, and to the engine itself, in microseconds.
    :ivar cpu: Seconds so far.
    """

    seconds: float
    descriptors: int
    pss: int
    ping: float
    direct: float
    cpu: float


def _latency(address: str) -> float:
    times = []
    with Stream(address) as stream:
        for _ in range(_PINGS):
            began = time.perf_counter()
            stream.request("GET", "/_ping").answer()
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


class Soak:
    """One run.

    :param engine: Its address.
    :param workers: How many clients there are at once.
    """

    def __init__(self, engine: str, workers: int) -> None:
        self._engine, self._workers = engine, workers
        self.daemon = Daemon("--interceptors=labels,recorder,audit", f"--engine={engine}", "--control=none")
        self.daemon.command += [f"--listen={self.daemon.address}", f"--audit-log={self.daemon.directory}/audit.log"]
        self.samples: list[Sample] = []
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self.before = self.after = self.failures = 0
        self._began = time.monotonic()
        self._over = threading.Event()

    def run(self, minutes: float, every: float) -> None:
        """Let clients work for so long, and look at the daemon every so many seconds."""
        with self.daemon:
            self.daemon.wait_for_socket()
            try:
                self._work(self._traffic(), minutes, every)
            finally:
                self._remove_all()
                self.failures = self.daemon.output().count("Traceback")

    def _traffic(self) -> Traffic:
        config = {"Image": IMAGE, "Cmd": ["sleep", "1000000"]}
        status, made = call(self.daemon.address, "POST", "/containers/create", config)
        _expect(status, 201)
        _expect(call(self.daemon.address, "POST", f"/containers/{made['Id']}/start")[0], 204)
        return Traffic(self.daemon.address, made["Id"])

    def _work(self, traffic: Traffic, minutes: float, every: float) -> None:
        for kind in dict.fromkeys(traffic.kinds()):
            self._do(kind)
        self.before = self._settled(self._sample().descriptors)
        self._began = time.monotonic()
        threads = [threading.Thread(target=self._client, args=(traffic,)) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        try:
            while (left := self._began + minutes * 60 - time.monotonic()) > 0:
                time.sleep(min(every, left))
                self.samples.append(self._sample())
                last = self.samples[-1]
                sys.stderr.write(
                    f"\r\x1b[K{last.seconds:.0f} s: {sum(self.done.values())} done, {len(self.errors)} errors, "
                    f"{last.descriptors} descriptors, {last.pss} KiB, {last.ping:.0f} us"
                )
                sys.stderr.flush()
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
            sys.stderr.write("\r\x1b[K")
        self.after = self._settled(self.before)

    def _client(self, traffic: Traffic) -> None:
        kinds = traffic.kinds()
        while not self._over.is_set():
            self._do(random.choice(kinds))

    def _do(self, kind: Callable[[], None]) -> None:
        try:
            kind()
        except (OSError, EOFError, SoakError, ValueError, subprocess.TimeoutExpired) as error:
            self.errors.append(f"{time.monotonic() - self._began:.0f} s, {kind.__name__}: {error!r}")
        else:
            self.done[kind.__name__] += 1

    def _process(self) -> int:
        assert self.daemon.process is not None
        return self.daemon.process.pid

    def _sample(self) -> Sample:
        process = self._process()
        # First what is there by itself, then what the pings add.
        now, count, pss = time.monotonic() - self._began, descriptors(process), pss_kib(process)
        ping, direct = _latency(self.daemon.address), _latency(self._engine)
        return Sample(now, count, pss, ping, direct, cpu_nanoseconds(process) / 1e9)

    def _settled(self, wanted: int, seconds: float = 45.0) -> int:
        """Return how many descriptors are open once clients have left and closing connections have closed."""
        end, count = time.monotonic() + seconds, descriptors(self._process())
        time.sleep(1)
        while (now := descriptors(self._process())) != count or (now > wanted and time.monotonic() < end):
            count = now
            time.sleep(1)
        return now

    def _remove_all(self) -> None:
        _, left = call(self.daemon.address, "GET", "/tracker")
        for container in str(left).split():
            call(self.daemon.address, "DELETE", f"/containers/{container}?force=1&v=1")

    def verdicts(self) -> list[tuple[str, float, float, bool]]:
        """Return what was compared: the first third, the last third, and whether it is flat."""
        third = max(1, len(self.samples) // 3)

        def median(part: list[Sample], of: Callable[[Sample], float]) -> float:
            return statistics.median(map(of, part))

        def compared(of: Callable[[Sample], float], factor: float, slack: float) -> tuple[float, float, bool]:
            first, last = median(self.samples[:third], of), median(self.samples[-third:], of)
            return first, last, last <= first * factor + slack

        return [
            ("descriptors", *compared(lambda sample: sample.descriptors, 1.1, 8)),
            ("Pss, KiB", *compared(lambda sample: sample.pss, 1.02, 1024)),
            ("ping, us more than direct", *compared(lambda sample: sample.ping - sample.direct, 1.5, 200)),
            ("descriptors before and after", self.before, self.after, self.after <= self.before + _SLACK),
            ("errors seen by clients", 0, len(self.errors), not self.errors),
            ("failures in the daemon's log", 0, self.failures, not self.failures),
        ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--engine", required=True, help="a real engine's address, best a private one's")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long [30]")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples [5]")
    parser.add_argument("--workers", type=int, default=4, help="clients at once [4]")
    parser.add_argument("--output", type=Path, default=CACHE / "soak.json", help="file [.cache/bench/soak.json]")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and say what was seen. :returns: 0: all is flat; 1: it is not."""
    settings = parse(arguments)
    soak = Soak(settings.engine, settings.workers)
    soak.run(settings.minutes, settings.every)
    verdicts = soak.verdicts()
    cpu = soak.samples[-1].cpu - soak.samples[0].cpu
    results = {
        "minutes": settings.minutes,
        "workers": settings.workers,
        "done": dict(soak.done),
        "cpu_seconds": cpu,
        "errors": soak.errors,
        "verdicts": [dict(zip(("what", "first", "last", "flat"), verdict, strict=True)) for verdict in verdicts],
        "samples": [asdict(sample) for sample in soak.samples],
    }
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(results, indent=1) + "\n")
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(soak.done.items()))
    sys.stdout.write(f"{settings.minutes:g} minutes, {settings.workers} clients: {done}; {cpu:.1f} s of CPU\n")
    for what, first, last, flat in verdicts:
        sys.stdout.write(f"{what:32} {first:>10.0f} {last:>10.0f}  {'flat' if flat else 'NOT FLAT'}\n")
    for error in soak.errors[:10]:
        sys.stdout.write(f"{error}\n")
    sys.stdout.write(f"written to {settings.output}\n")
    return 0 if all(flat for *_, flat in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
