"""Where the tests find a real engine: one for the whole run, started by the runner or named by the user.

    DOCKER_TRACKER_TEST_ENGINE=unix:///path      # an address: tests make and remove their own things on it
    REQUIRE_ENGINE=1                             # a test that lacks an engine fails instead of being skipped

The engine must have the image ``busybox:local``. A private one (PrivateEngine) is for tests that restart it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from docker_tracker.cgroups import hierarchies, remove
from tests.support.dockerd import PrivateEngine, why_impossible

ADDRESS_VARIABLE = "DOCKER_TRACKER_TEST_ENGINE"
REQUIRE_VARIABLE = "REQUIRE_ENGINE"
RUN_VARIABLE = "TRACKER_TEST_RUN"
"""Has a value of each test run's own for all that it starts: what still carries it at the end was left behind."""


def engine_address() -> str:
    """Give the address of the engine to test with.

    :raises unittest.SkipTest: there is none.
    :raises AssertionError: there is none, and REQUIRE_ENGINE=1.
    """
    address = os.environ.get(ADDRESS_VARIABLE)
    return address or _without(f"no engine: {ADDRESS_VARIABLE} is not set (make test starts one, if it can)")


def private_engine(name: str, options: tuple[str, ...] = ()) -> PrivateEngine:
    """Give an engine of the test's own, not yet started, in a new directory with a short path.

    :param name: a few letters; part of the directory's name.
    :param options: further options of dockerd.
    :raises unittest.SkipTest: this machine can't have one; with REQUIRE_ENGINE=1 an AssertionError.
    """
    reason = why_impossible()
    if reason is not None:
        _without(reason)
    return PrivateEngine(tempfile.mkdtemp(prefix=f"dt-{name}-", dir="/tmp"), options)


def discard(engine: PrivateEngine) -> None:
    """Stop a private engine and remove its directory, logs included."""
    engine.stop()
    shutil.rmtree(engine.directory)


def remove_cgroup(parent: str) -> None:
    """Remove the cgroup that was asked for as the parent of something, which engines leave behind, empty.

    :param parent: Its path within each hierarchy, with a leading slash.
    :raises OSError: something still runs in it.
    """
    for hierarchy in hierarchies():
        if not remove(directory := hierarchy.path / parent[1:]):
            raise OSError(f"something still runs in {directory}")


def require_program(name: str, package: str) -> str:
    """Give the path of a program that a test needs.

    :param package: the Debian package that has it, named in the reason.
    :raises unittest.SkipTest: it is not installed; with REQUIRE_ENGINE=1 an AssertionError.
    """
    return shutil.which(name) or _without(f"no {name} (Debian: {package})")


class DockerError(subprocess.CalledProcessError):
    """The docker command failed; unlike its base class it says with which words."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout.decode(errors='replace')}{self.stderr.decode(errors='replace')}"


def docker(*arguments: str, address: str, data: bytes = b"", seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Run the docker command; it blocks, so not in a test whose own reactor has to answer it.

    :param address: DOCKER_HOST for it; nothing else of the environment but PATH is passed on.
    :param data: its standard input.
    :param seconds: after which it is killed.
    :raises DockerError: its status is not 0; the output is in it.
    :raises subprocess.TimeoutExpired: it took too long.
    """
    command = [require_program("docker", "docker.io"), *arguments]
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "DOCKER_HOST": address, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(command, input=data, env=environment, timeout=seconds, capture_output=True, cwd=Path("/"))
    if done.returncode != 0:
        raise DockerError(done.returncode, command, done.stdout, done.stderr)
    return done


def _without(reason: str) -> str:
    """Skip the test, or fail it with REQUIRE_ENGINE=1; never returns."""
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        raise AssertionError(f"{reason}; {REQUIRE_VARIABLE}=1")
    raise unittest.SkipTest(reason)
