"""What is written as TOML is read as the same."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime, time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.toml_text import dump

_KEYS = st.text(st.characters(codec="utf-8"), max_size=5)
_SCALARS = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.dates(),
    st.times(),
    st.datetimes(),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=8
)


class DumpTests(SynchronousTestCase):
    """`dump`."""

    @settings(derandomize=True, deadline=None)
    @given(st.dictionaries(_KEYS, _VALUES, max_size=4))
    def test_round_trip(self, table: dict[str, object]) -> None:
        """The standard library's reader gives back any table."""
        self.assertEqual(tomllib.loads(dump(table)), table)

    def test_form(self) -> None:
        """Plain values come before tables, which have their full name."""
        table = {"t": {"deep er": {"x": [1, {"y": "z"}]}}, "a": "b\x7f\n", "when": datetime(2020, 1, 2, tzinfo=UTC)}
        self.assertEqual(
            dump(table),
            'a = "b\\u007f\\n"\nwhen = 2020-01-02T00:00:00+00:00\n\n[t]\n\n[t."deep er"]\nx = [1, {y = "z"}]\n',
        )
        self.assertEqual(dump({"d": date(2020, 1, 2), "t": time(1, 2)}), "d = 2020-01-02\nt = 01:02:00\n")

    def test_refused(self) -> None:
        """What TOML has no form for is not written as something else."""
        self.assertRaises(TypeError, dump, {"a": None})
