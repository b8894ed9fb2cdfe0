"""The command line as twistd reads it."""

from __future__ import annotations

import io
import os
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import patch

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.options import Options, finish_check, settings_of
from docker_tracker.version import version


class OptionsTests(SynchronousTestCase):
    """`Options`."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(dir="/tmp"))
        self.addCleanup(rmtree, directory)
        file = directory / "a.toml"  # so that what is installed on this machine is not read
        file.write_text("")
        file.chmod(0o600)
        environ = {"HOME": str(directory), "XDG_RUNTIME_DIR": "/run/x", "DOCKER_TRACKER_CONFIG": str(file)}
        self.patch(os, "environ", environ)

    def parse(self, *arguments: str, uid: int | None = None) -> Options:
        options = Options()
        if uid is not None:
            options.parent = {"uid": uid}  # type: ignore[assignment]
        options.parseOptions(list(arguments))
        return options

    def refuse(self, *arguments: str) -> str:
        output = io.StringIO()
        with patch("sys.stdout", output):
            error = self.assertRaises(SystemExit, self.parse, *arguments)
        self.assertEqual(output.getvalue(), "")
        text = str(error.code)
        self.assertEqual(len(text.splitlines()), 1)
        self.assertTrue(text.startswith("docker-tracker: "))
        return text.removeprefix("docker-tracker: ")

    def test_settings(self) -> None:
        """Flags become settings; the repeatable ones add up."""
        settings = settings_of(
            self.parse(
                *("--engine", "tcp://h:1", "--listen", "unix:///a", "--listen=unix:///b", "-p", "0", "--port", "1"),
                *("--label", "a=b", "--label", "c=d", "--cgroup-parent", "x", "--audit-log", "-", "--control", "none"),
                *("--instance", "i", "--state-dir", "/s", "--run-dir", "/r", "--debug", "--insecure-tcp"),
            )
        )
        self.assertEqual(
            [str(listener) for listener in settings.listeners],
            ["unix:///a", "unix:///b", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1"],
        )
        self.assertEqual(settings.labels, {"a": "b", "c": "d"})
        self.assertEqual(settings.interceptors, ("labels", "cgroup-parent", "recorder", "audit"))
        self.assertEqual((settings.debug, settings.insecure_tcp, settings.audit_log), (True, True, "-"))
        self.assertEqual((settings.control, settings.instance, str(settings.engine)), ("none", "i", "tcp://h:1"))

    def test_apart(self) -> None:
        """Two command lines do not share their lists."""
        self.parse("--label", "a=b")
        self.assertEqual(settings_of(self.parse()).labels, {"Created-Via": "docker-tracker"})

    def test_environment(self) -> None:
        """The process's environment is read."""
        os.environ["DOCKER_TRACKER_INSTANCE"] = "e"
        self.assertEqual(settings_of(self.parse()).instance, "e")

    def test_plugin_dir(self) -> None:
        """Directories of plug-ins are checked for the user whom twistd changes to."""
        directory = tempfile.mkdtemp(dir="/tmp")
        self.addCleanup(rmtree, directory)
        self.assertEqual(settings_of(self.parse("--plugin-dir", directory)).plugin_dirs, (Path(directory),))
        if os.geteuid() == 0:
            os.chown(directory, 12345, 12345)
            self.assertIn("belongs to uid 12345", self.refuse("--plugin-dir", directory))
            options = self.parse("--plugin-dir", directory, uid=12345)
            self.assertEqual(settings_of(options).plugin_dirs, (Path(directory),))

    def test_refused(self) -> None:
        """What is wrong is one line for standard error; what is not understood comes with a hint at the help."""
        self.assertIn("--listen: ssh:// addresses are not served", self.refuse("--listen", "ssh://h"))
        hint = "; see twistd docker-tracker --help"
        self.assertEqual(self.refuse("8080"), f"'8080' is not an option; options start with --{hint}")
        self.assertEqual(self.refuse("--colour"), f"option --colour not recognized{hint}")
        self.assertEqual(self.refuse("--engine"), f"option --engine requires argument{hint}")

    def test_version(self) -> None:
        """--version is ours, not Twisted's."""
        output = io.StringIO()
        with patch("sys.stdout", output):
            error = self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual((error.code, output.getvalue()), (0, f"docker-tracker {version()}\n"))
        with patch.object(metadata, "version", return_value="1.2"):
            self.assertEqual(version(), "1.2")
        with patch.object(metadata, "version", side_effect=metadata.PackageNotFoundError):
            self.assertIn("not installed", version())

    def test_help(self) -> None:
        """Every option has its text."""
        text = Options().getUsage(width=200)
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith(("--", "-p"))]
        self.assertEqual(len(lines), 19)  # with --help
        for line in lines:
            self.assertRegex(line, r"^(-p, )?--[a-z-]+=?  +\S.*")

    def test_finish_check(self) -> None:
        """--check-config prints the effective settings, warnings apart, and is a success."""
        output, errors = io.StringIO(), io.StringIO()
        options = self.parse("--check-config", "-p", "1")
        self.assertTrue(options["check-config"])
        with patch("sys.stdout", output), patch("sys.stderr", errors):
            error = self.assertRaises(SystemExit, finish_check, settings_of(options))
        self.assertEqual(error.code, 0)
        self.assertEqual(tomllib.loads(output.getvalue())["listen"], ["tcp://127.0.0.1:1"])
        self.assertTrue(errors.getvalue().startswith("warning: tcp://127.0.0.1:1: every user"))


class PluginTests(SynchronousTestCase):
    """twistd's plug-in."""

    def test_found(self) -> None:
        """Twistd finds the command."""
        found: list[Any] = list(getPlugins(IServiceMaker))
        self.assertIn(
            ("docker-tracker", "docker_tracker.tap"), [(one.tapname, getattr(one, "module", "")) for one in found]
        )
