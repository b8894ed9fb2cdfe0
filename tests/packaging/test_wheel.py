"""What users install: the wheel is built, put into a clean environment, and the daemon started from there."""

from __future__ import annotations

import re
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT, Daemon
from tests.support.installed import run

EXPECTED = (
    r"docker_tracker/py\.typed",
    r"docker_tracker/tap\.py",
    r"docker_tracker/plugins/labels\.py",
    r"twisted/plugins/docker_tracker_\w+\.py",
    r"docker_tracker-[^/]+\.data/data/lib/systemd/system/docker-tracker\.service",
    r"docker_tracker-[^/]+\.data/data/lib/systemd/system/docker-tracker\.socket",
    r"docker_tracker-[^/]+\.dist-info/licenses/LICENSE",
)
FORBIDDEN = r"(tests|demo|docs|\.venv)/|twisted/(plugins/)?__init__\.py|.*\.pyc|.*dropin\.cache"


class WheelTests(SynchronousTestCase):
    """One test, as each step needs the one before."""

    def test_installed(self) -> None:
        """The wheel has what it should and nothing else, twistd lists the command, and the daemon starts and stops.

        The client command says what it needs where the extra is missing.
        """
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        # Without --wheel it is built from the source archive, elsewhere: no file of an old build/ gets in.
        run(sys.executable, "-m", "build", "--outdir", directory, ROOT)
        (wheel,) = directory.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        for pattern in EXPECTED:
            self.assertTrue(any(re.fullmatch(pattern, name) for name in names), f"{pattern} is not in {names}")
        self.assertEqual([name for name in names if re.match(FORBIDDEN, name)], [])

        venv.create(directory / "venv", with_pip=True)
        programs = directory / "venv" / "bin"
        run(programs / "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        self.assertTrue((directory / "venv/lib/systemd/system/docker-tracker.service").exists())
        twistd = programs / "twistd"
        self.assertRegex(run(twistd, "--help", cwd=directory), r"(?m)^ +docker-tracker +\S+")
        self.assertIn(wheel.name.split("-")[1], run(twistd, "-n", "docker-tracker", "--version", cwd=directory))
        self.assertIn(
            "--no-such-option", run(twistd, "-n", "docker-tracker", "--no-such-option", cwd=directory, status=1)
        )

        client = programs / "docker-tracker"
        self.assertEqual(
            run(client, "--help", cwd=directory, status=1),
            "docker-tracker: the client command needs click, which is not installed:"
            " install this package's extra, cli\n",
        )
        run(programs / "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[cli]")
        self.assertRegex(run(client, "--help", cwd=directory), r"(?m)^  run +\S+")
        self.assertIn("--own-cgroup", run(client, "run", "--help", cwd=directory))

        daemon = Daemon(
            f"--listen=unix://{directory / 'listen'}", f"--engine=unix://{directory / 'none'}", program=twistd
        )
        self.addCleanup(daemon.discard)
        del daemon.environment["PYTHONPATH"]
        daemon.socket_path = directory / "listen"
        daemon.start()
        daemon.wait_for_socket()
        self.assertEqual(daemon.stop(), 0, daemon.output())
        self.assertFalse(daemon.socket_path.exists())
