"""Paths are followed where the engine would follow them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from docker_tracker.config import EngineAddress
from docker_tracker.host_paths import HostPaths, above, clean
from tests.support.short import short_directory

# In a mount name space of its own: something is mounted that others don't see; then it listens.
ELSEWHERE = """
import os, socket, subprocess, sys
directory = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory + "/inside"], check=True)
os.symlink(directory + "/s", directory + "/inside/link")
listener = socket.socket(socket.AF_UNIX)
listener.bind(directory + "/s")
listener.listen()
print("ready", flush=True)
sys.stdin.read()
"""


class CleanTests(SynchronousTestCase):
    def test_clean(self) -> None:
        """As Go's path.Clean has it."""
        for path, expected in (
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b"),
            ("//a//b/./c/../d", "/a/b/d"),
            ("/../a", "/a"),
            ("///", "/"),
        ):
            self.assertEqual(clean(path), expected)

    def test_above(self) -> None:
        """All directories, up to the top."""
        self.assertEqual(list(above("/a/b/c")), ["/a/b", "/a", "/"])
        self.assertEqual(list(above("/")), [])


class ResolveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        (self.root / "run").mkdir(parents=True)
        (self.root / "var").mkdir()
        (self.root / "var/run").symlink_to("/run")
        (self.root / "run/docker.sock").write_text("")
        self.paths = HostPaths(str(self.root))

    def test_links(self) -> None:
        """Links are followed below the root that the engine has, relative and absolute ones, one after the other."""
        (self.root / "one").symlink_to("./two/")
        (self.root / "two").symlink_to("/var/../var/run")
        (self.root / "up").symlink_to("../../../run/docker.sock")
        for path, expected in (
            ("/run/docker.sock", "/run/docker.sock"),
            ("/var/run/docker.sock", "/run/docker.sock"),
            ("/var/run/docker.sock/", "/run/docker.sock"),
            ("/one/docker.sock", "/run/docker.sock"),
            ("/up", "/run/docker.sock"),
            ("/var/run/../run", "/run"),
            ("/nothing/here", "/nothing/here"),
            ("/", "/"),
        ):
            with self.subTest(path=path):
                self.assertEqual(self.paths.resolve(path), expected)

    def test_circle(self) -> None:
        """Links in a circle end, as they do for the engine."""
        (self.root / "a").symlink_to("b")
        (self.root / "b").symlink_to("a")
        self.assertEqual(self.paths.resolve("/a/../a/x"), "/a/x")

    def test_identity(self) -> None:
        """A file is the same by all its names; of what is not there nothing is known."""
        os.link(self.root / "run/docker.sock", self.root / "other")
        self.assertEqual(self.paths.identity("/other"), self.paths.identity("/run/docker.sock"))
        self.assertEqual(self.paths.identity("/other"), HostPaths("/").identity(str(self.root / "other")))
        self.assertIsNone(self.paths.identity("/nothing"))

    def test_another_machine(self) -> None:
        """Of another machine only what is written is known."""
        paths = HostPaths(None)
        self.assertEqual((paths.resolve("/var//run/"), paths.identity("/")), ("/var/run", None))


class EngineTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        """An engine on this machine has our paths if nothing else is known; one elsewhere has its own."""
        for engine, root in (
            (EngineAddress("tcp", host="127.0.0.1", port=1), "/"),
            (EngineAddress("tcp", host="10.0.0.1", port=1), None),
            (EngineAddress("unix", path="/nowhere/docker.sock"), "/"),
        ):
            self.assertEqual(HostPaths.of_engine(engine).root, root)

    def test_listening(self) -> None:
        """The root is that of the process that listens, if it can be seen."""
        path = str(short_directory(self) / "s")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            engine = EngineAddress("unix", path=path)
            found = HostPaths.of_engine(engine)
            self.assertEqual(found.root, f"/proc/{os.getpid()}/root")
            self.assertEqual(found.identity("/"), HostPaths("/").identity("/"))
            self.assertEqual(HostPaths.of_engine(engine, Path(self.mktemp())).root, "/")

    def test_mount_name_space(self) -> None:
        """What is mounted for the engine alone is seen as the engine sees it."""
        directory = short_directory(self)
        (directory / "inside").mkdir()
        child = subprocess.Popen(
            ["unshare", "--mount", sys.executable, "-c", ELSEWHERE, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            if child.stdout.readline() != b"ready\n":
                raise SkipTest("no mount name space can be had here")
            paths = HostPaths.of_engine(EngineAddress("unix", path=str(directory / "s")))
            self.assertFalse((directory / "inside/link").exists())
            self.assertEqual(paths.resolve(f"{directory}/inside/link"), f"{directory}/s")
            self.assertNotEqual(paths.identity(f"{directory}/inside"), HostPaths("/").identity(f"{directory}/inside"))
        finally:
            child.communicate(timeout=30)
