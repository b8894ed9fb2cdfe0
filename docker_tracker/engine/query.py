"""The query string, read as Go's ``url.ParseQuery`` and the engine read it; edits leave the rest byte-identical."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

from docker_tracker.errors import BadTargetError

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FALSE = frozenset(("", "0", "no", "false", "none"))
# unicode.IsSpace; Python's strip() would take the separators U+001C to U+001F, too.
_GO_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def _unescape(text: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    if _BAD_ESCAPE.search(text):  # not quoted: it may be of a password
        raise BadTargetError("the query has a broken escape; write a percent sign as %25")
    # Bytes that are no UTF-8 are kept as lone surrogates, as for file names.
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _pairs(query: str) -> Iterator[tuple[str, str, str]]:
    """Yield (part as it stands, name, value); empty parts, which Go passes over, too.

    :raises BadTargetError: Go refuses it: a semicolon, a broken escape.
    """
    for part in query.split("&"):
        if ";" in part:
            raise BadTargetError("the query has a semicolon; separate parameters by &, or write it as %3B")
        name, _, value = part.partition("=")
        yield part, _unescape(name), _unescape(value)


def get_all(query: str, name: str) -> list[str]:
    """Return the values of all parameters of a name, in order.

    :raises BadTargetError: the query, in whatever part of it, is not one that the engine reads.
    """
    return [value for part, key, value in _pairs(query) if part and key == name]


def get(query: str, name: str) -> str | None:
    """Return the value of the first parameter of a name, as ``Form.Get`` does; None if there is none.

    :raises BadTargetError: as `get_all`.
    """
    return next(iter(get_all(query, name)), None) if query else None


def flag(query: str, name: str) -> bool:
    """Whether the engine takes a parameter for true (``daemon/server/httputils/form.go``: ``BoolValue``).

    :raises BadTargetError: as `get_all`.
    """
    return (get(query, name) or "").strip(_GO_SPACE).lower() not in _FALSE


def _written(name: str, value: str) -> str:
    return f"{quote(name, safe='')}={quote(value, safe='', errors='surrogateescape')}"


def replace(query: str, name: str, value: str) -> str:
    """Return the query with one parameter of that name, where the first stood, or at the end.

    :raises BadTargetError: as `get_all`.
    """
    result: list[str] = []
    placed = False
    for part, key, _ in _pairs(query):
        if not part or key != name:
            result.append(part)
        elif not placed:
            placed = True
            result.append(_written(name, value))
    joined = "&".join(result)
    return joined if placed else _appended(joined, name, value)


def append(query: str, name: str, value: str) -> str:
    """Return the query with one more parameter, at its end.

    :raises BadTargetError: as `get_all`.
    """
    get_all(query, name)
    return _appended(query, name, value)


def _appended(query: str, name: str, value: str) -> str:
    return f"{query}&{_written(name, value)}" if query else _written(name, value)
