"""What keeps the daemon from starting, as a user sees it, and what a daemon without descriptors comes back from."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import TWISTD, Daemon, daemon_environment
from tests.support.engine import engine_address


class RefusedTests(SynchronousTestCase):
    """Starts that fail."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dt-start-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.directory)

    def refuse(self, *options: str, pid_file: str = "") -> str:
        """Start a daemon in front that does not start; return the line that it says."""
        places = (f"--state-dir={self.directory}/state", f"--run-dir={self.directory}/run")
        done = subprocess.run(
            [TWISTD, "--nodaemon", f"--pidfile={pid_file}", "--logfile=log", "docker-tracker", *places, *options],
            env=daemon_environment(self.directory, {}),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((done.returncode, done.stdout, len(done.stderr.splitlines())), (1, "", 1), done.stderr)
        self.assertTrue(done.stderr.startswith("docker-tracker: "), done.stderr)
        return done.stderr.removeprefix("docker-tracker: ").rstrip("\n")

    def test_one_line(self) -> None:
        """All that is wrong with the configuration is one line on standard error, and nothing else."""
        rules = self.directory / "c.toml"
        rules.write_text('[[attribute]]\njob = "a"\n')
        rules.chmod(0o600)
        for option, problem in (
            ("--bogus", "option --bogus not recognized; see twistd docker-tracker --help"),
            ("--listen=ssh://h", "--listen: ssh:// addresses are not served"),
            ("--cgroup-parent=a b", "--cgroup-parent: 'a b' is not a cgroup parent"),
            ("--interceptors=nosuch", "interceptors: there is no interceptor 'nosuch'"),
            (f"--config={rules}", "attribute 1: needs at least one of uid, cgroup and environment"),
        ):
            for check in ((), ("--check-config",)):
                self.assertIn(problem, self.refuse(option, *check))
        self.assertFalse((self.directory / "state").exists())

    def test_names_and_files(self) -> None:
        """So is what only --check-config looks up before a start; it makes no file."""
        file = self.directory / "c.toml"
        file.write_text('listen = [{address = "unix:///tmp/a", group = "no-such-group"}]\n')
        file.chmod(0o600)
        said = self.refuse(f"--config={file}", "--check-config")
        self.assertEqual(said, "listen unix:///tmp/a: there is no group 'no-such-group'")
        self.assertEqual(os.listdir(self.directory), ["c.toml"])

    def test_own_job(self) -> None:
        """An engine that is the socket of a job of ours is refused at once, whether the socket is there or not."""
        said = self.refuse(f"--engine=unix://{self.directory}/run/jobs/b.sock")
        self.assertIn("is our own", said)

    def test_pid_file(self) -> None:
        """A daemon in front that could not listen leaves no file with its number."""
        (self.directory / "taken").write_text("precious")
        said = self.refuse(f"--listen={self.directory}/taken", pid_file="twistd.pid")
        self.assertIn("exists and is no socket", said)
        self.assertIn(said, (self.directory / "log").read_text())
        self.assertFalse((self.directory / "twistd.pid").exists())


class DescriptorTests(SynchronousTestCase):
    """A daemon that runs out of descriptors."""

    def test_watches_again(self) -> None:
        """When they are free again and the engine is there, it is watched again."""
        engine = engine_address().removeprefix("unix://")
        if not engine.startswith("/"):
            self.skipTest("the engine has no unix socket that could be taken away")
        directory = Path(tempfile.mkdtemp(prefix="dt-start-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, directory)
        limited = ("sh", "-c", 'ulimit -n 60; exec "$@"', "sh")
        daemon = Daemon(f"--engine=unix://{directory}/engine", wrapper=limited)
        self.addCleanup(daemon.discard)
        daemon.serve()
        clients = []
        for _ in range(60):
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.connect(str(daemon.socket_path))
            clients.append(client)
        daemon.wait_for(lambda: "no more connections for now" in daemon.output())
        time.sleep(5)  # in which it tries to ask the engine, several times
        for client in clients:
            client.close()
        (directory / "engine").symlink_to(engine)
        daemon.wait_for(lambda: "is back" in daemon.output(), 90)
        self.assertNotIn("#critical", daemon.output())
        self.assertEqual(daemon.stop(), 0)
