"""The documentation's interceptors, installed as a reader installs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, Daemon
from tests.support.engine import docker, engine_address
from tests.support.installed import run

EXAMPLES = ROOT / "docs" / "examples"


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(dir="/tmp")))
        shutil.copy(EXAMPLES / "no_latest.py", self.directory)

    def daemon(self, *options: str) -> Daemon:
        daemon = Daemon(
            f"--plugin-dir={self.directory}",
            "--control=none",
            "--interceptors=labels,no-latest,recorder",
            *options,
        )
        self.addCleanup(daemon.discard)
        daemon.command.append(f"--listen=unix://{daemon.socket_path}")
        return daemon

    def test_dropped_in(self) -> None:
        """A file in a plug-in directory refuses what it should, and lets pass what it should, on a real engine."""
        engine = engine_address()
        daemon = self.daemon(f"--engine={engine}").start()
        daemon.wait_for_socket()
        made = docker("create", "busybox:local", "true", address=daemon.address).stdout.decode().strip()
        self.addCleanup(docker, "rm", made, address=engine)
        with self.assertRaises(subprocess.CalledProcessError) as refused:
            docker("create", "busybox", "true", address=daemon.address)
        self.assertIn(b"the image busybox has no version: name one, as in busybox:1.0", refused.exception.stderr)
        self.assertEqual(daemon.stop(), 0, daemon.output())

    def test_writable_by_others(self) -> None:
        """Whoever could change the file could run code in the daemon: so it does not start."""
        (self.directory / "no_latest.py").chmod(0o666)
        daemon = self.daemon("--engine=unix:///nowhere").start()
        assert daemon.process is not None
        self.assertEqual(daemon.process.wait(30), 1)
        self.assertIn("can be written by others than root and the daemon's user; run: chmod go-w", daemon.output())


class PackageTests(SynchronousTestCase):
    def test_installed(self) -> None:
        """A package of another's brings an interceptor with settings; without it the daemon says what there is."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(dir="/tmp")))
        run(sys.executable, "-m", "build", "--outdir", directory, ROOT, cwd=directory)
        (wheel,) = directory.glob("*.whl")
        shutil.copytree(
            EXAMPLES / "theirs", directory / "theirs", ignore=shutil.ignore_patterns("__pycache__", "dropin.cache")
        )
        venv.create(directory / "venv", with_pip=True)
        install = (directory / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check")
        run(*install, wheel, cwd=directory)
        twistd = directory / "venv" / "bin" / "twistd"
        state = directory / "state"
        check = (twistd, "-n", "docker-tracker", "--check-config", f"--state-dir={state}", "--engine=unix:///nowhere")
        self.assertIn("there is no interceptor 'theirs'", run(*check, "--interceptors=theirs", cwd=directory, status=1))
        run(*install, "./theirs", cwd=directory)
        self.assertIn('interceptors = ["theirs"]', run(*check, "--interceptors=theirs", cwd=directory))
        self.assertIn("interceptors = ", run(*check, "--interceptors=labels,recorder,audit,theirs", cwd=directory))
        file = directory / "docker-tracker.toml"
        file.write_text('interceptors = ["theirs"]\n[interceptor.theirs]\nlonger-than = 0\n')
        self.assertRegex(
            run(*check, f"--config={file}", cwd=directory, status=1), r"interceptor\.theirs: .*longer_than"
        )
        self.assertFalse(state.exists())
