"""Queries are read as Go reads them; an edit touches one parameter and not a byte more."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine import query
from docker_tracker.errors import BadTargetError

ALL: list[tuple[str, str, list[str]]] = [
    ("", "a", []),
    ("a=1", "a", ["1"]),
    ("a=1&a=2&b=3", "a", ["1", "2"]),
    ("a", "a", [""]),
    ("a=", "a", [""]),
    ("=x", "", ["x"]),
    ("&&", "", []),
    ("&&a=1&", "a", ["1"]),
    ("a=b=c", "a", ["b=c"]),
    ("%61=1&A=2", "a", ["1"]),
    ("a+b=c+d", "a b", ["c d"]),
    ("a=%2B%26%3D%3b", "a", ["+&=;"]),
    ("a=%C3%A9", "a", ["\u00e9"]),
    ("a=%ff", "a", ["\udcff"]),
    ("a=?/#", "a", ["?/#"]),
]

REFUSED = [
    ("a=1;b=2", "semicolon"),
    ("b=1&;", "semicolon"),
    ("a=%", "broken escape;"),
    ("x=1&a=%4", "broken escape;"),
    ("a=%zz1", "broken escape;"),
    ("%g1=a", "broken escape"),
]

REPLACED = [
    ("", "a", "1", "a=1"),
    ("b=2", "a", "1", "b=2&a=1"),
    ("x=%7e&a=0&y&a=9&z=1+2", "a", "1", "x=%7e&a=1&y&z=1+2"),
    ("%61=0&&b", "a", "x &=+/\u00e9", "a=x%20%26%3D%2B%2F%C3%A9&&b"),
    ("a", "a", "", "a="),
    ("b=1&", "a", "1", "b=1&&a=1"),
    ("A=1", "a", "1", "A=1&a=1"),
    ("a=%ff", "a", "\udcff", "a=%FF"),
]

FALSE = ["", "q=", "q=0", "q=no", "q=False", "q=NONE", "q=%20no%09", "q=%e3%80%80false", "q=0&q=1", "Q=1"]
TRUE = ["q=1", "q=true", "q=yes", "q=off", "q=00", "q=n", "q=1&q=0", "q=%1c"]

PAIRS = st.lists(st.tuples(st.text(min_size=1, max_size=4), st.text(max_size=8)), max_size=5)
REPEATABLE = settings(derandomize=True, deadline=None, max_examples=200)


class QueryTests(SynchronousTestCase):
    def test_get(self) -> None:
        """All values are found in order; the first is the one that counts."""
        for raw, name, values in ALL:
            with self.subTest(query=raw):
                self.assertEqual(query.get_all(raw, name), values)
                self.assertEqual(query.get(raw, name), values[0] if values else None)

    def test_nothing_is_quoted(self) -> None:
        """A refusal has nothing of the query, where a password may stand."""
        for raw in ("password=50%hunter2", "hunter2;a"):
            error = self.assertRaises(BadTargetError, query.get, raw, "a")
            self.assertNotIn("hu", error.message)

    def test_refused(self) -> None:
        """What Go refuses is refused by every function, wherever in the query it stands."""
        functions: list[Callable[[str], object]] = [
            lambda raw: query.get(raw, "a"),
            lambda raw: query.get_all(raw, "a"),
            lambda raw: query.flag(raw, "a"),
            lambda raw: query.replace(raw, "a", "1"),
            lambda raw: query.append(raw, "a", "1"),
        ]
        for raw, problem in REFUSED:
            for function in functions:
                with self.subTest(query=raw):
                    error = self.assertRaises(BadTargetError, function, raw)
                    self.assertIn(problem, str(error))
                    self.assertEqual(error.status, 400)

    def test_replace(self) -> None:
        """One parameter stands for all of its name; the others stay byte for byte, in order."""
        for raw, name, value, expected in REPLACED:
            with self.subTest(query=raw):
                self.assertEqual(query.replace(raw, name, value), expected)

    def test_append(self) -> None:
        """What is appended comes last, and nothing else changes."""
        self.assertEqual(query.append("", "changes", "LABEL a=b"), "changes=LABEL%20a%3Db")
        self.assertEqual(
            query.append("changes=x", "changes", 'LABEL "a"="b"'), "changes=x&changes=LABEL%20%22a%22%3D%22b%22"
        )

    def test_flag(self) -> None:
        """Everything but the five words of the engine is true."""
        self.assertEqual([raw for raw in FALSE if query.flag(raw, "q")], [])
        self.assertEqual([raw for raw in TRUE if not query.flag(raw, "q")], [])

    @REPEATABLE
    @given(PAIRS, st.text(max_size=8))
    def test_edits_read_back(self, pairs: list[tuple[str, str]], value: str) -> None:
        """What was written is what is read; the other parameters are as they were."""
        raw = urlencode(pairs)
        others = [pair for pair in pairs if pair[0] != "name"]
        replaced = query.replace(raw + "&name=old" if raw else "name=old", "name", value)
        self.assertEqual(query.get_all(replaced, "name"), [value])
        read = parse_qsl(replaced, keep_blank_values=True)
        self.assertEqual([pair for pair in read if pair[0] != "name"], others)

    @REPEATABLE
    @given(st.text("a=&;%+1f\u00e9", max_size=20))
    def test_any_text(self, raw: str) -> None:
        """A query is read or refused, never another failure."""
        try:
            values = query.get_all(raw, "a")
        except BadTargetError:
            return
        self.assertEqual(query.get_all(query.append(raw, "a", "1"), "a"), [*values, "1"])
