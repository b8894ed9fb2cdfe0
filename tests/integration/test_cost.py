"""System calls of the real daemon may not grow: counted by strace, so it does not matter how busy the machine is."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks.processes import Cores, Load, Server, system_calls, why_no_trace
from benchmarks.targets import Place, all_targets, compile_c, engine_server
from tests.support.short import short_directory

#: Of each request on 16 connections that are kept, with a margin; HAProxy makes 4.4, and Go's ReverseProxy 7.5.
MOST = {"bare": {"ping": 4.6, "list": 4.8, "create": 4.8}, "default": {"ping": 5.2, "list": 5.2, "create": 60.0}}

#: Of each GiB of a download whose length is known, and of one that is not.
MOST_BULK = {"download-length": 30_000, "download-chunked": 60_000}
PART = 16  # of a GiB


class CostTests(SynchronousTestCase):
    def setUp(self) -> None:
        problem = why_no_trace() or ("" if shutil.which("gcc") or shutil.which("cc") else "there is no C compiler")
        if problem:
            raise SkipTest(f"system calls cannot be counted: {problem}")
        self.place = Place(short_directory(self), Cores.choose())
        self.load = Load(compile_c("load"), self.place.cores.load)
        self.started(engine_server(self.place))

    def started(self, server: Server) -> Server:
        """Start a server, and stop it after the test."""
        server.start()
        self.addCleanup(server.stop)
        return server

    def daemon(self, name: str) -> Server:
        """Start the daemon, configured as one of the benchmark's targets."""
        made = next(target.make for target in all_targets() if target.name == name)
        assert made is not None
        return self.started(made(self.place))

    def requests(self, path: Path, kind: str, count: int) -> None:
        """Make requests on 16 connections."""
        self.load.run(path, "requests", kind=kind, connections=16, count=count)

    def check(self, name: str) -> None:
        """Count each kind of request's calls; those of connecting are in both counts, and so in neither."""
        server = self.daemon(name)
        found = {}
        for kind in MOST[name]:
            few = system_calls(server.pid, lambda kind=kind: self.requests(server.path, kind, 16))
            many = system_calls(server.pid, lambda kind=kind: self.requests(server.path, kind, 816))
            found[kind] = (many - few) / 800
        self.assertEqual({kind: calls for kind, calls in found.items() if not 0 < calls <= MOST[name][kind]}, {})

    def test_bare(self) -> None:
        """Without interceptors: two reads, two writes, and a wait for many."""
        self.check("bare")

    def test_default(self) -> None:
        """With those that are there by default and an audit log."""
        self.check("default")

    def test_bulk(self) -> None:
        """A large body."""
        server = self.daemon("bare")
        found = {}
        for kind in MOST_BULK:
            calls = system_calls(
                server.pid, lambda kind=kind: self.load.run(server.path, "bulk", kind=kind, bytes=(1 << 30) // PART)
            )
            found[kind] = calls * PART
        self.assertEqual({kind: calls for kind, calls in found.items() if not 0 < calls <= MOST_BULK[kind]}, {})
