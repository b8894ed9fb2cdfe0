"""Values on the command line: durations, labels, filters. Layer: the client command."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

_SECONDS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")


class Duration(click.ParamType):  # type: ignore[type-arg]  # older clicks have none
    """``90``, ``90s``, ``1h30m``, ``2d``; in seconds.

    :param least: The shortest that is taken.
    """

    name = "duration"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read one."""
        if isinstance(value, float):
            return value
        parts = _PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a duration: write 90, 90s, 15m, 1h30m or 2d", param, ctx)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        if seconds < self._least:
            self.fail(f"{value!r} is too short: it must be at least {self._least:g} s", param, ctx)
        return seconds


class Number(click.ParamType):  # type: ignore[type-arg]  # older clicks have none
    """A whole number.

    :param least: The smallest that is taken.
    """

    name = "number"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read one."""
        if isinstance(value, int):
            return value
        if not re.fullmatch("[0-9]{1,18}", value) or int(value) < self._least:
            self.fail(f"{value!r} is not a number from {self._least} up", param, ctx)
        return int(value)


class Word(click.ParamType):  # type: ignore[type-arg]  # older clicks have none
    """Any text but none: what a variable of a script is that was never set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read one."""
        if not value:
            self.fail("it is empty", param, ctx)
        return str(value)


class Pair(click.ParamType):  # type: ignore[type-arg]  # older clicks have none
    """``KEY=VALUE``.

    :param what: How the two are called.
    """

    def __init__(self, what: str = "KEY=VALUE") -> None:
        self.name = what.lower()  # of which click makes the metavar
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read one."""
        if isinstance(value, tuple):
            return value
        key, equals, rest = value.partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not {self._what}", param, ctx)
        return key, rest


#: Return whether a thing is one that a filter's value means.
Matcher = Callable[[Mapping[str, Any], str], bool]


def pattern(key: str) -> Matcher:
    """Return what compares a field with a pattern as for file names."""
    return lambda thing, value: fnmatch.fnmatchcase(str(thing[key]), value)


def beginning(key: str) -> Matcher:
    """Return what compares a field, an ID, with its beginning."""
    return lambda thing, value: thing[key].startswith(value) or thing[key].startswith(f"sha256:{value}")


def label(thing: Mapping[str, Any], value: str) -> bool:
    """Whether a job has a label: ``NAME``, or ``NAME=VALUE``."""
    name, equals, wanted = value.partition("=")
    labels = thing["request"]["labels"]
    return name in labels and (not equals or labels[name] == wanted)


def select(
    things: Sequence[Mapping[str, Any]], filters: Sequence[tuple[str, str]], matchers: Mapping[str, Matcher]
) -> list[Mapping[str, Any]]:
    """Return those that pass all filters; several for one key are alternatives, as docker has it.

    :raises click.UsageError: there is no such filter.
    """
    wanted: dict[str, list[str]] = {}
    for key, value in filters:
        if key not in matchers:
            raise click.UsageError(f"there is no filter {key!r}: there are {', '.join(matchers)}")
        wanted.setdefault(key, []).append(value)
    return [
        thing
        for thing in things
        if all(any(matchers[key](thing, value) for value in values) for key, values in wanted.items())
    ]
