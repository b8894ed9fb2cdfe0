"""Finding interceptors by name, in our own package and in directories."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker import plugins
from docker_tracker.config import Settings, load
from docker_tracker.discovery import choose, make
from docker_tracker.errors import ConfigurationError, LedgerError
from tests.support.exchanges import daemon, job
from tests.support.short import short_directory

PLUGIN = """
import attrs
from docker_tracker.interceptor import Interceptor, Plugin

@attrs.frozen
class Settings:
    word: str = "hello"

plugin = Plugin(name="{name}", make=lambda settings, job, daemon: Interceptor(), settings=Settings)
"""


class DiscoveryTests(SynchronousTestCase):
    """What the configuration names is found, or the daemon does not start."""

    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.directory.chmod(0o700)
        self.path = list(plugins.__path__)
        self.addCleanup(plugins.__path__.__setitem__, slice(None), self.path)
        self.modules = set(sys.modules)
        self.addCleanup(self.forget)

    def forget(self) -> None:
        """Let modules of this test be imported anew by the next one."""
        for name in set(sys.modules) - self.modules:
            if name.startswith("docker_tracker.plugins."):
                del sys.modules[name]

    def settings(self, interceptors: str, **more: Any) -> Settings:
        """Return settings that name interceptors and our directory."""
        file = self.directory / "c.toml"
        lines = [f"[interceptor.{name}]\n{text}" for name, text in more.items()]
        file.write_text("\n".join(lines))
        file.chmod(0o600)
        plugin_dir = self.directory / "plugins"
        plugin_dir.mkdir(mode=0o700, exist_ok=True)
        options = {
            "config": str(file),
            "interceptors": interceptors,
            "plugin-dir": [str(plugin_dir)],
            "engine": "unix:///engine.sock",
        }
        return load(options, {}, euid=os.geteuid())

    def plugin(self, module: str, text: str) -> Path:
        """Drop a module into the directory."""
        directory = self.directory / "plugins"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / f"{module}.py"
        path.write_text(text)
        path.chmod(0o600)
        return path

    def names(self, settings: Settings) -> list[str]:
        """Return the names of what is chosen."""
        return [chosen.plugin.name for chosen in choose(settings)]

    def test_none(self) -> None:
        """Nothing named, nothing imported."""
        self.assertEqual(self.names(self.settings("none")), [])

    def test_order(self) -> None:
        """The order is the configuration's; a directory's are found beside ours."""
        self.plugin("dt_test_one", PLUGIN.format(name="one"))
        settings = self.settings("audit,one,labels", one='word = "bye"')
        self.assertEqual(self.names(settings), ["audit", "one", "labels"])
        self.assertEqual(choose(settings)[1].settings.word, "bye")

    def test_missing(self) -> None:
        """A name that is not there stops the start, and the sentence says what is."""
        error = self.assertRaises(ConfigurationError, choose, self.settings("nosuch"))
        self.assertIn("'nosuch'", str(error))
        self.assertIn("labels", str(error))
        error = self.assertRaises(ConfigurationError, choose, self.settings("labels", nosuch=""))
        self.assertIn("'nosuch'", str(error))

    def test_broken(self) -> None:
        """A module that cannot be imported is named with its error."""
        path = self.plugin("dt_test_broken", "import nothing_of_that_name\n")
        error = self.assertRaises(ConfigurationError, choose, self.settings("broken"))
        self.assertIn("dt_test_broken", str(error))
        self.assertIn("nothing_of_that_name", str(error))
        self.assertIn(str(path.parent), str(error))
        self.flushLoggedErrors()

    def test_twice(self) -> None:
        """Two of one name are refused: which would be meant?"""
        self.plugin("dt_test_two", PLUGIN.format(name="two"))
        self.plugin("dt_test_too", PLUGIN.format(name="two"))
        error = self.assertRaises(ConfigurationError, choose, self.settings("two"))
        self.assertIn("two plug-ins are named 'two'", str(error))

    def made(self, module: str, code: str) -> Any:
        """Make the interceptor of a plug-in in a module of ours."""
        self.plugin(module, PLUGIN.format(name="mine").replace("plugin = Plugin", f"{code}\nplugin = Plugin"))
        path = self.directory / "plugins" / f"{module}.py"
        path.write_text(path.read_text().replace("lambda settings, job, daemon: Interceptor()", "made"))
        (chosen,) = choose(self.settings("mine"))
        return make(chosen, job(), daemon())

    def test_made(self) -> None:
        """An interceptor that asks for stages is what its plug-in made."""
        code = "class Mine(Interceptor): pass\ndef made(settings, job, daemon): return Mine()"
        self.assertEqual(type(self.made("dt_test_made", code)).__name__, "Mine")

    def test_make_fails(self) -> None:
        """A plug-in that fails stops the start with a sentence: which one it is, in which line, and why."""
        for number, (code, why) in enumerate(
            (
                ("def made(settings, job, daemon): return {}['nothing']", "KeyError('nothing')"),
                ("def made(settings): return Interceptor()", "TypeError("),
                ("def made(settings, job, daemon): return None", "AttributeError("),
                (
                    "class Mine(Interceptor):\n    def wants(self, operation): return operation.nothing\n"
                    "def made(settings, job, daemon): return Mine()",
                    "AttributeError(",
                ),
            )
        ):
            error = self.assertRaises(ConfigurationError, self.made, f"dt_test_fails{number}", code)
            self.assertEqual(error.where, "interceptor mine")
            self.assertRegex(error.problem, r"^fails in \S+\.py, line [0-9]+: ")
            self.assertIn(why, error.problem)
            (self.directory / "plugins" / f"dt_test_fails{number}.py").unlink()

    def test_own_errors(self) -> None:
        """What a plug-in refuses in our words goes on as it is."""
        code = "from docker_tracker.errors import LedgerError\ndef made(*_): raise LedgerError('/l', 'is broken')"
        error = self.assertRaises(LedgerError, self.made, "dt_test_refuses", code)
        self.assertEqual(error.problem, "is broken")

    def test_no_stage(self) -> None:
        """What an interceptor wants must be stages; None (a forgotten return) is named with its method."""
        code = (
            "class Mine(Interceptor):\n    def wants(self, operation):\n        if operation.name != 'libpod':\n"
            "            return super().wants(operation)\ndef made(settings, job, daemon): return Mine()"
        )
        error = self.assertRaises(ConfigurationError, self.made, "dt_test_stages", code)
        self.assertEqual(error.where, "interceptor mine")
        self.assertIn("plugins.dt_test_stages.Mine.wants must return a Stage", error.problem)
        self.assertIn("not None as for libpod", error.problem)

    def test_settings(self) -> None:
        """A section with a wrong key is refused, by its name."""
        error = self.assertRaises(ConfigurationError, choose, self.settings("audit", audit="nonsense = 1"))
        self.assertIn("audit", str(error))
        self.assertIn("nonsense", str(error))

    def test_settings_of_one_that_is_off(self) -> None:
        """So is that of an interceptor that is there and not named: it is wrong, although it has no effect."""
        error = self.assertRaises(ConfigurationError, choose, self.settings("labels", audit="nonsense = 1"))
        self.assertIn("interceptor.audit", str(error))
        self.assertIn("nonsense", str(error))
        self.assertEqual(self.names(self.settings("labels", audit="")), ["labels"])
