"""Reads what clients of the control API send: targets, parameters, JSON. Strict: what is not understood is refused.

Layer: control.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

import attrs

from docker_tracker.errors import RefusedError

#: How long a body may be, in bytes.
MOST_BODY: Final = 1 << 20
_MOST_DEPTH: Final = 32
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS: Final = re.compile(r"[^\[\]{}]+")


@attrs.frozen
class Target:
    """A request's target, decoded.

    :ivar parts: The path's segments.
    :ivar query: Each parameter once.
    """

    parts: tuple[str, ...]
    query: Mapping[str, str]


def read_target(target: bytes) -> Target:
    """Read a request's target.

    :raises RefusedError: it is no path, its coding is broken, or a parameter stands twice.
    """
    path, _, raw = target.partition(b"?")
    if not path.startswith(b"/"):
        raise RefusedError("the request's target must be a path")
    query: dict[str, str] = {}
    for pair in filter(None, raw.split(b"&")):
        coded, _, value = pair.partition(b"=")
        name = _decoded(coded.replace(b"+", b" "))
        if name in query:
            raise RefusedError(f"the parameter {name[:80]!r} stands twice")
        query[name] = _decoded(value.replace(b"+", b" "))
    return Target(tuple(map(_decoded, path[1:].split(b"/"))), query)


def _decoded(coded: bytes) -> str:
    try:
        if _BAD_PERCENT.search(coded):
            raise ValueError
        text = unquote_to_bytes(coded).decode()
        if not text.isprintable():
            raise ValueError
    except ValueError:
        raise RefusedError("the request's target is not printable UTF-8 with percent signs") from None
    return text


def flag(query: Mapping[str, str], name: str) -> bool:
    """Return whether a parameter is set.

    :raises RefusedError: it is neither 0 nor 1.
    """
    text = query.get(name, "0")
    if text not in ("0", "1"):
        raise RefusedError(f"the parameter {name!r} must be 0 or 1")
    return text == "1"


def number(query: Mapping[str, str], name: str) -> int:
    """Return a parameter that counts something; 0 if it is not there.

    :raises RefusedError: it is no such number.
    """
    text = query.get(name, "0")
    if not re.fullmatch("[0-9]{1,18}", text):
        raise RefusedError(f"the parameter {name!r} must be a whole number from 0 on")
    return int(text)


def read_json(body: bytes) -> Any:
    """Read a body; an empty one is an empty object.

    :raises RefusedError: it is no JSON, has a key twice, a number that is none, is nested too deep or no Unicode.
    """
    try:
        text = body.decode()
        if not text.strip(" \t\r\n"):
            return {}
        _check_depth(text)
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is in no text that can be kept
    except UnicodeError:
        raise RefusedError("the body is not Unicode in UTF-8") from None
    except json.JSONDecodeError as error:
        raise RefusedError(f"the body is no JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise RefusedError("the body has a number that is too long") from None
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for character in _NO_BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if character in "[{" else -1
        if depth > _MOST_DEPTH:
            raise RefusedError(f"the body is nested deeper than {_MOST_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise RefusedError(f"the body has the key {twice[:80]!r} twice in one object")
    return value


def _constant(text: str) -> NoReturn:
    raise RefusedError(f"the body is no JSON: {text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RefusedError("the body has a number that is too large")
    return value
