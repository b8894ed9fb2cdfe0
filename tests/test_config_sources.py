"""Where an option's value comes from, its type, and classes that are built from tables."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path
from shutil import rmtree
from unittest.mock import patch

import attrs
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import ConfigurationError
from docker_tracker.sources import Found, Sources, check_keys, read_file, section, suggestion, type_name, variable


class PrecedenceTests(SynchronousTestCase):
    """Flag over environment over file."""

    def test_order(self) -> None:
        """The strongest place that says something wins, and errors name it."""
        flags, environ, table = {"audit-log": "/f"}, {"DOCKER_TRACKER_AUDIT_LOG": "/e"}, {"audit-log": "/t"}
        file = Path("/x.toml")
        for sources, expected in [
            (Sources(flags, environ, table, file), Found("/f", "--audit-log")),
            (Sources({}, environ, table, file), Found("/e", "DOCKER_TRACKER_AUDIT_LOG")),
            (Sources({}, {}, table, file), Found("/t", "/x.toml: audit-log", typed=True)),
            (Sources({}, {}, {}, file), None),
        ]:
            self.assertEqual(sources.find("audit-log"), expected)

    def test_not_given(self) -> None:
        """Flags as the parser leaves them say nothing, and variables that are set to nothing."""
        nothing: list[object] = [None, 0, False, []]
        for flag in nothing:
            self.assertIsNone(Sources({"debug": flag}, {"DOCKER_TRACKER_DEBUG": ""}).find("debug"))
        self.assertEqual(Sources({"debug": 1}, {}).find("debug"), Found(True, "--debug"))
        self.assertEqual(Sources({"engine": ""}, {}).find("engine"), Found("", "--engine"))
        self.assertEqual(Sources({}, {variable("a-b"): ""}).find("a-b", empty=True), Found("", "DOCKER_TRACKER_A_B"))

    def test_repeatable(self) -> None:
        """The elements are a flag's, or an array's, or a variable's parts."""
        for sources, expected in [
            (Sources({"listen": ["a b", "c"]}, {}), ["a b", "c"]),
            (Sources({}, {"DOCKER_TRACKER_LISTEN": " a,b\n c ,"}), ["a", "b", "c"]),
            (Sources({}, {}, {"listen": ["a b"]}), ["a b"]),
        ]:
            found = sources.find_items("listen")
            self.assertEqual([item.value for item in found or ()], expected)
        self.assertIsNone(Sources({}, {}).find_items("listen"))
        self.assertRaises(ConfigurationError, Sources({}, {}, {"listen": "a"}).find_items, "listen")


class TypeTests(SynchronousTestCase):
    """`Found`'s readers."""

    def test_truth(self) -> None:
        """The environment has words for it, the file has TOML's two."""
        for word in ("1", "true", "YES", "on"):
            self.assertTrue(Found(word, "V").truth())
        for word in ("0", "False", "no", "off"):
            self.assertFalse(Found(word, "V").truth())
        self.assertTrue(Found(True, "f", typed=True).truth())
        for found in (Found("2", "V"), Found("yes", "f", typed=True), Found(1, "f", typed=True)):
            self.assertRaises(ConfigurationError, found.truth)

    def test_text(self) -> None:
        """A string, and one that can be shown."""
        self.assertEqual(Found("ä", "f").text(), "ä")
        self.assertIn("must be a string, not a table", str(self.assertRaises(ConfigurationError, Found({}, "f").text)))
        error = self.assertRaises(ConfigurationError, Found("/\udcff", "f").text)
        self.assertEqual(str(error), r"f: '/\udcff' is not UTF-8")

    def test_names_of_types(self) -> None:
        """Types are named as TOML names them."""
        for value, expected in [
            (True, "true or false"),
            (1, "an integer"),
            (1.5, "a number"),
            ("", "a string"),
            ([], "an array"),
            ({}, "a table"),
            (date(2020, 1, 1), "a date"),
        ]:
            self.assertEqual(type_name(value), expected)

    def test_unknown_keys(self) -> None:
        """A key that nobody reads is refused, with the one that was meant."""
        check_keys({"a": 1}, "ab", "f: ")
        error = self.assertRaises(ConfigurationError, check_keys, {"audit_log": 1}, ["audit-log", "x"], "f: ")
        self.assertEqual(str(error), 'f: audit_log: unknown key; did you mean "audit-log"?')
        self.assertEqual(suggestion("zzz", ["b", "a"]), "; known are a, b")
        self.assertEqual(suggestion("zzz", []), "")


class FileTests(SynchronousTestCase):
    """`read_file`."""

    def read(self, content: bytes) -> object:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(rmtree, directory)
        (directory / "a.toml").write_bytes(content)
        return read_file(directory / "a.toml")

    def test_read(self) -> None:
        """TOML is read."""
        self.assertEqual(self.read(b'a = "\xc3\xa4"'), {"a": "ä"})

    def test_refused(self) -> None:
        """What is wrong is said, and where."""
        for content, problem in [
            (b"a = 1\nb = = 2", "is not TOML: Invalid value (at line 2"),
            (b"\xff", "not UTF-8 (at byte 0)"),
        ]:
            self.assertIn(problem, str(self.assertRaises(ConfigurationError, self.read, content)))
        error = self.assertRaises(ConfigurationError, read_file, Path("/"))
        self.assertEqual(str(error), "/: cannot be read: Is a directory")
        self.assertRaises(FileNotFoundError, read_file, Path("/nowhere"))
        with patch("docker_tracker.sources.Path.read_text", side_effect=PermissionError(13, "Permission denied")):
            self.assertRaises(ConfigurationError, read_file, Path("/a"))


@attrs.frozen
class Example:
    """A section as a plug-in's author writes it."""

    needed: str
    max_bytes: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    seconds: float = 1.0
    names: tuple[str, ...] = ()
    labels: dict[str, str] = attrs.field(factory=dict)
    limit: int | None = None
    path: Path = Path("/")
    either: str | bool = False
    upper: str = attrs.field(default="", converter=str)
    anything: object = None
    nested: tuple[tuple[int, ...], ...] = ()
    hidden: int = attrs.field(default=7, init=False)


class SectionTests(SynchronousTestCase):
    """`section`."""

    def test_built(self) -> None:
        """Values get the types that the class names."""
        built = section(
            Example,
            {
                "needed": "a",
                "max-bytes": 5,
                "seconds": 2,
                "names": ["x"],
                "labels": {"k": "v"},
                "limit": 3,
                "path": "/p",
                "either": True,
                "upper": 5,
                "anything": [1],
                "nested": [[1], []],
            },
            "f: s",
        )
        expected = Example("a", 5, 2.0, ("x",), {"k": "v"}, 3, Path("/p"), True, "5", [1], ((1,), ()))
        self.assertEqual(built, expected)
        self.assertIsInstance(built.seconds, float)
        self.assertEqual(section(Example, {"needed": ""}, "f: s"), Example(""))

    def test_refused(self) -> None:
        """Each fault is named with its key."""
        for table, problem in [
            ({}, "f: s.needed: is missing"),
            ({"needed": 1}, "f: s.needed: must be a string, not an integer"),
            ({"needed": "", "max_bytes": 1}, 'f: s.max_bytes: unknown key; did you mean "max-bytes"?'),
            ({"needed": "", "hidden": 1}, "f: s.hidden: unknown key"),
            ({"needed": "", "max-bytes": True}, "f: s.max-bytes: must be an integer, not true or false"),
            ({"needed": "", "max-bytes": -1}, "f: s: 'max_bytes' must be >= 0: -1"),
            ({"needed": "", "seconds": "1"}, "f: s.seconds: must be a number, not a string"),
            ({"needed": "", "names": "x"}, "f: s.names: must be an array, not a string"),
            ({"needed": "", "names": [1]}, "f: s.names: must be a string, not an integer"),
            ({"needed": "", "labels": {"k": 1}}, "f: s.labels.k: must be a string, not an integer"),
            ({"needed": "", "labels": []}, "f: s.labels: must be a table, not an array"),
            ({"needed": "", "limit": "1"}, "f: s.limit: must be an integer, not a string"),
            ({"needed": "", "path": 1}, "f: s.path: must be a string, not an integer"),
            ({"needed": "", "either": 1}, "f: s.either: must be a string or true or false, not an integer"),
        ]:
            with self.subTest(table):
                self.assertEqual(
                    str(self.assertRaises(ConfigurationError, section, Example, table, "f: s"))[: len(problem)], problem
                )
