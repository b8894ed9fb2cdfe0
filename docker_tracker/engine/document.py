"""JSON bodies, read as Go's ``encoding/json`` reads them, and edited so that the engine reads the same.

Go matches the keys of its structs without regard to case (``encoding/json/fold.go``), and merges what stands under
two spellings of one key; two readers can then see two documents. So a second spelling is refused; a single odd one is
read as the engine reads it, and written as the engine's own when the document is edited. The keys of maps (labels,
options) belong to the user: there only byte-equal keys are one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NoReturn

import attrs

from docker_tracker.errors import BadDocumentError

Path = tuple[str | int, ...]

# Fields that are maps in Go (api/types), by their folded names: those of requests, and those of answers only.
USER_MAPS: Final = frozenset(
    (
        *("annotations", "auxiliaryaddresses", "driveropts", "endpointsconfig", "exposedports", "labels", "options"),
        *("portbindings", "segments", "storageopt", "sysctls", "tmpfs", "volumes"),
        # of Podman's own API (pkg/specgen):
        *("env", "ipam_options", "label", "network_options", "secret_env", "storage_opts", "sysctl", "unified"),
        *("attributes", "containers", "indexconfigs", "networks", "ports", "runtimes"),
    )
)
# Config is a map in LogConfig alone, and a struct everywhere else.
_LOG_CONFIG: Final = ("logconfig", "config")
_SPACE = b" \t\r\n"
_SHOWN = 80  # characters of a key in a message


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()  # the old value of what was added, the new value of what was taken away


@attrs.frozen
class Number:
    """A number that Python would write differently (``1.0``, ``1e400``, ``-0``, huge ones); ``text`` is as received."""

    text: str


@attrs.frozen
class Change:
    """One edit of a document.

    :ivar path: The keys and indices down to the value.
    :ivar old, new: Plain values; `MISSING` for one that was not there, or is no more.
    """

    path: Path
    old: Any
    new: Any


def fold(key: str) -> str:
    """Return a key as Go compares it with the name of a struct's field.

    Simple case folding; the long s and the Kelvin sign are the only characters outside ASCII that fold into it.
    """
    lower = key.lower()
    return lower if lower.isascii() else lower.replace("\u017f", "s")


class _TwoSpellings(Exception):
    """Somewhere two keys of one object are equal but for their case; whether that matters depends on where."""


def _exact(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        _refuse(f"the key {twice[:_SHOWN]!r} stands twice in one object; send it once")
    for key in result:
        if not key.isascii() and any("\ud800" <= character <= "\udfff" for character in key):
            _refuse(f"the key {key[:_SHOWN]!r} has half of a surrogate pair in it; send valid Unicode")
    return result


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if not pairs:
        return {}
    result = dict(pairs)
    keys = "\0".join(result)  # one call of lower() for all keys; a NUL in a key only sends it the careful way
    if not keys.isascii():
        _exact(pairs)
        keys = keys.replace("\u017f", "s")
    names = keys.lower().split("\0")
    if not len(set(names)) == len(names) == len(pairs):
        _exact(pairs)
        raise _TwoSpellings
    return result


def _integer(text: str) -> int | Number:
    return Number(text) if text == "-0" or len(text) > 20 else int(text)


def _constant(text: str) -> NoReturn:
    _refuse(f"{text} is not JSON; send a number")


def _refuse(problem: str) -> NoReturn:
    raise BadDocumentError(f"the JSON is refused: {problem}")


_QUICK = json.JSONDecoder(object_pairs_hook=_folded, parse_int=_integer, parse_float=Number, parse_constant=_constant)
_CAREFUL = json.JSONDecoder(object_pairs_hook=_exact, parse_int=_integer, parse_float=Number, parse_constant=_constant)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
# One that does not end goes to the end of the text: if it did not match, each quote in it would be tried in turn.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")


def _check_depth(text: str, max_depth: int) -> None:
    depth = 0
    for character in _NO_BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if character in "[{" else -1
        if depth > max_depth:
            _refuse(f"it is nested deeper than {max_depth} levels")


class _Place:
    """Where in a document one stands: whether the keys of the object there are the user's own."""

    __slots__ = ("field", "user_map")

    def __init__(self, field: str = "", user_map: bool = False) -> None:
        self.field = field
        self.user_map = user_map

    def under(self, part: str | int) -> _Place:
        """Return the place under a key or an index; a map's values are structs, whatever the user called them."""
        if self.user_map or isinstance(part, int):
            return _ROOT
        name = fold(part)
        return _Place(name, name in USER_MAPS or (self.field, name) == _LOG_CONFIG)


def _place(path: Path) -> _Place:
    place = _ROOT
    for part in path:
        place = place.under(part)
    return place


_ROOT: Final = _Place()
_MAP: Final = _Place(user_map=True)


def _check_spellings(value: Any, place: _Place) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_spellings(item, place.under(index))
    elif isinstance(value, dict):
        seen: dict[str, str] = {}
        for key, item in value.items():
            first = seen.setdefault(key if place.user_map else fold(key), key)
            if first != key:
                _refuse(f"{first[:_SHOWN]!r} and {key[:_SHOWN]!r} are one key to the engine; send it once")
            _check_spellings(item, place.under(key))


def _decode(text: str) -> Any:
    try:
        return _QUICK.decode(text)
    except _TwoSpellings:
        value = _CAREFUL.decode(text)
        _check_spellings(value, _ROOT)
        return value


def _decode_map(text: str) -> Any:
    value = _CAREFUL.decode(text)
    _check_spellings(value, _MAP)
    return value


def _read(body: bytes, max_depth: int, decode: Callable[[str], Any]) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"byte {error.start} is not UTF-8")
    if not body.strip(_SPACE):
        return {}
    if text.startswith("\ufeff"):
        _refuse("it begins with a byte order mark")
    if text.count("{") + text.count("[") > max_depth:
        _check_depth(text, max_depth)
    try:
        return decode(text)
    except RecursionError:
        _refuse("it is nested too deep")
    except json.JSONDecodeError as error:
        _refuse(f"{error.msg} at character {error.pos}")


def parse_map(body: bytes, max_depth: int = 64) -> dict[str, Any]:
    """Read an object whose keys are the user's own (the labels in a query, say); null and nothing are empty.

    :raises BadDocumentError: as `Document.parse`, or it is no object.
    """
    value = _read(body, max_depth, _decode_map)
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse("it must be an object")
    return value


def _encode(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except TypeError:  # a Number is in it, which json can't write
        return _encode_slowly(value)


def _encode_slowly(value: Any) -> str:
    if isinstance(value, Number):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{_ENCODER.encode(str(key))}:{_encode_slowly(value[key])}" for key in value) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_encode_slowly, value)) + "]"
    return _ENCODER.encode(value)


def _find(holder: dict[str, Any], key: str, user_map: bool) -> str | None:
    """Return the spelling in which a key stands in an object."""
    if key in holder:
        return key
    if user_map:
        return None
    wanted = fold(key)
    for candidate in holder:
        if len(candidate) == len(key) and fold(candidate) == wanted:
            return candidate
    return None


def _shown(path: Path) -> str:
    return ".".join(map(str, path))[:_SHOWN] or "it"


@attrs.frozen(eq=False)
class Document:
    """A JSON document and what was changed in it. Immutable: an edit gives a new one that shares the rest.

    :ivar value: Plain Python; some numbers as `Number`. Not to be changed in place.
    :ivar original: The bytes it was read from, without any edit.
    :ivar changes: The edits since then, in order.
    """

    value: Any
    original: bytes
    changes: tuple[Change, ...] = ()

    @classmethod
    def parse(cls, body: bytes, max_depth: int = 64) -> Document:
        """Read a body; an empty one is an empty object.

        :param max_depth: How many arrays and objects may stand in one another.
        :raises BadDocumentError: it is no JSON, or could be read in two ways; names the key or the problem.
        """
        return cls(_read(body, max_depth, _decode), body)

    @classmethod
    def of(cls, value: Any) -> Document:
        """Return an unchanged document of a plain value."""
        return cls(value, _encode(value).encode("ascii"))

    @property
    def changed(self) -> bool:
        """Whether any edit was made."""
        return bool(self.changes)

    def encode(self) -> bytes:
        """Return the original bytes if nothing was changed, else one compact document."""
        return _encode(self.value).encode("ascii") if self.changes else self.original

    def _look(self, path: Path) -> Any:
        value = self.value
        for at, part in enumerate(path):
            if isinstance(part, str):
                if not isinstance(value, dict):
                    return MISSING
                if part not in value:
                    spelling = _find(value, part, _place(path[:at]).user_map)
                    if spelling is None:
                        return MISSING
                    part = spelling
                value = value[part]
            elif isinstance(value, list) and 0 <= part < len(value):
                value = value[part]
            else:
                return MISSING
        return value

    def get(self, *path: str | int, default: Any = None) -> Any:
        """Return what the engine reads at a path; ``default`` for what is missing, null, or in no object or list."""
        value = self._look(path)
        return default if value is MISSING or value is None else value

    def with_value(self, path: Path, value: Any) -> Document:
        """Return a document in which ``value`` stands at ``path``, under exactly the spellings of ``path``.

        Objects on the way that are missing or null are made.

        :raises BadDocumentError: what stands on the way is no object, or no list with that index.
        """
        if not path:
            raise ValueError("a path has at least one part")
        old = self._look(path)
        root = _replaced(self.value, path, 0, _ROOT, value)
        return Document(root, self.original, (*self.changes, Change(path, old, value)))

    def without(self, path: Path) -> Document:
        """Return a document that has nothing at ``path``; the same document if it had nothing there.

        :raises BadDocumentError: as `with_value`.
        """
        old = self._look(path)
        if old is MISSING or not path:
            return self
        root = _replaced(self.value, path, 0, _ROOT, MISSING)
        return Document(root, self.original, (*self.changes, Change(path, old, MISSING)))


def _replaced(holder: Any, path: Path, at: int, place: _Place, value: Any) -> Any:
    """Return a copy of ``holder`` with a value put (or, `MISSING`, taken away) at ``path[at:]``."""
    part = path[at]
    last = at + 1 == len(path)
    if isinstance(part, int):
        if not isinstance(holder, list) or not 0 <= part < len(holder):
            _refuse(f"{_shown(path[:at])} must be an array with an element {part}")
        new = value if last else _replaced(holder[part], path, at + 1, place.under(part), value)
        return [*holder[:part], *([] if new is MISSING else [new]), *holder[part + 1 :]]
    if holder is None:  # null is no object yet; to the engine a body of null is an empty one
        holder = {}
    if not isinstance(holder, dict):
        _refuse(f"{_shown(path[:at])} must be an object")
    spelling = _find(holder, part, place.user_map)
    new = value if last else _replaced(holder.get(spelling), path, at + 1, place.under(part), value)
    if spelling is not None and spelling != part:  # the engine's spelling takes the place of the client's
        holder = {part if key == spelling else key: item for key, item in holder.items()}
    if new is MISSING:
        return {key: item for key, item in holder.items() if key != part}
    return {**holder, part: new}
