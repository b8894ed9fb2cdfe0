"""How things look on the screen: tables like docker's, times, IDs. Layer: the client command."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

_UNITS: Final = (("year", 31536000), ("month", 2592000), ("week", 604800), ("day", 86400), ("hour", 3600))


def clean(text: object) -> str:
    """Return text without anything that a terminal would obey."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)


def short(identifier: str, whole: bool = False) -> str:
    """Return an ID as docker shows it: 12 characters of a hash; names stay.

    :param whole: Whether it is not to be cut.
    """
    if whole:
        return identifier
    bare = identifier.removeprefix("sha256:")
    is_hash = len(bare) >= 32 and all(each in "0123456789abcdef" for each in bare)
    return bare[:12] if is_hash else identifier


def ago(moment: str | None, now: float | None = None) -> str:
    """Return a time as people say it.

    :param moment: ISO 8601; None: never.
    :param now: Seconds since the epoch.
    """
    if moment is None:
        return ""
    seconds = int((time.time() if now is None else now) - datetime.fromisoformat(moment).timestamp())
    if seconds < 1:
        return "Less than a second ago"
    for unit, length in _UNITS:
        if seconds >= 2 * length or (unit == "hour" and seconds >= length):
            count = seconds // length
            return f"{count} {unit}{'s' * (count != 1)} ago"
    unit, count = ("minute", seconds // 60) if seconds >= 60 else ("second", seconds)
    return f"{count} {unit}{'s' * (count != 1)} ago"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as docker prints it: headers in upper case, three spaces between columns."""
    lines = [tuple(headers), *(tuple(map(clean, row)) for row in rows)]
    widths = [max(map(len, column)) + 3 for column in zip(*lines, strict=True)]
    return "\n".join(
        "".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
