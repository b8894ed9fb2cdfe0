"""Where options come from, and what type they have: flag over environment over file. Configuration's layer.

An option has one name: ``--audit-log``, ``DOCKER_TRACKER_AUDIT_LOG`` and the TOML file's key ``audit-log``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from docker_tracker.errors import ConfigurationError

T = TypeVar("T")

PREFIX = "DOCKER_TRACKER_"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def variable(name: str) -> str:
    """Return the environment variable of an option."""
    return PREFIX + name.upper().replace("-", "_")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "…"?``, or a list of what is known, or nothing if nothing is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known are {', '.join(names)}" if names else ""


def check_keys(table: Mapping[str, object], known: Iterable[str], where: str) -> None:
    """Refuse a table with a key that nobody reads.

    :raises ConfigurationError: it has one.
    """
    names = list(known)
    for key in table:
        if key not in names:
            raise ConfigurationError(f"{where}{key}", "unknown key" + suggestion(key, names))


@attrs.frozen
class Found:
    """An option that was given.

    :ivar value: A flag's or a variable's text, or what the file has.
    :ivar where: The flag, the variable, or the file and key.
    :ivar typed: Whether it is from the file, whose values have types.
    """

    value: object
    where: str
    typed: bool = False

    def wrong(self, wanted: str) -> ConfigurationError:
        """Return the error for a value of another type."""
        return ConfigurationError(self.where, f"must be {wanted}, not {type_name(self.value)}")

    def text(self) -> str:
        """Return a string.

        :raises ConfigurationError: it is none, or has bytes that are not UTF-8.
        """
        if not isinstance(self.value, str):
            raise self.wrong("a string")
        if any("\ud800" <= character <= "\udfff" for character in self.value):
            raise ConfigurationError(self.where, f"{self.value!a} is not UTF-8")
        return self.value

    def truth(self) -> bool:
        """Return true or false; from the environment by one of the usual words.

        :raises ConfigurationError: it is neither.
        """
        if isinstance(self.value, str) and not self.typed:
            word = self.value.lower()
            if word in _TRUE | _FALSE:
                return word in _TRUE
            raise ConfigurationError(self.where, f"{self.value!r} is neither 1 (true, yes, on) nor 0 (false, no, off)")
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def items(self) -> list[Found]:
        """Return the elements of a repeatable option.

        :raises ConfigurationError: the file has something else than an array.
        """
        if not isinstance(self.value, list):
            raise self.wrong("an array")
        return [Found(value, self.where, self.typed) for value in self.value]


@attrs.frozen
class Sources:
    """The three places that options come from.

    :ivar flags: By option name; what is None, False, 0 or an empty list was not given.
    :ivar environ: The environment's variables.
    :ivar table: What the file says.
    :ivar file: Its path, for messages.
    """

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    table: Mapping[str, object] = attrs.field(factory=dict)
    file: Path | None = None

    def levels(self, *names: str, empty: bool = False) -> Iterator[list[Found | None]]:
        """Yield what each place says of some options, the strongest place first.

        :param empty: Whether a variable that is set to nothing counts.
        """
        yield [self._flag(name) for name in names]
        yield [self._variable(name, empty) for name in names]
        yield [self.key(name) for name in names]

    def find(self, name: str, *, empty: bool = False) -> Found | None:
        """Return what the strongest place says of an option."""
        return next((found for (found,) in self.levels(name, empty=empty) if found is not None), None)

    def find_items(self, name: str) -> list[Found] | None:
        """Return the elements of a repeatable option from the strongest place that has any.

        In the environment whitespace or commas part them.
        """
        found = self.find(name)
        return None if found is None else items(found)

    def _flag(self, name: str) -> Found | None:
        value = self.flags.get(name)
        if value is None or value == 0 or value == []:
            return None
        return Found(bool(value) if isinstance(value, int) else value, f"--{name}")

    def _variable(self, name: str, empty: bool) -> Found | None:
        value = self.environ.get(variable(name))
        return None if value is None or not (value or empty) else Found(value, variable(name))

    def key(self, name: str) -> Found | None:
        """Return what the file says."""
        value = self.table.get(name)
        return None if value is None else Found(value, f"{self.file}: {name}", typed=True)


def type_name(value: object) -> str:
    """Return what a TOML value is, in words."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, Mapping) else "a date")


def items(found: Found) -> list[Found]:
    """Return the elements of a repeatable option: an array in the file, parted text in the environment.

    :raises ConfigurationError: the file has something else.
    """
    return split(found) if isinstance(found.value, str) and not found.typed else found.items()


def split(found: Found) -> list[Found]:
    """Take the text of a repeatable option apart, at whitespace and commas."""
    return [Found(word, found.where) for word in re.split(r"[\s,]+", found.text()) if word]


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    :raises FileNotFoundError: there is none.
    :raises ConfigurationError: it cannot be read or is not TOML; says on which line.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(str(path), f"is not UTF-8 (at byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(str(path), f"is not TOML: {error}") from error


def section(values: type[T], table: Mapping[str, object], where: str) -> T:
    """Build an attrs class from a TOML table; a dash in a key is an underscore in the class.

    Checks the types str, Path, bool, int, float, ``tuple[X, ...]``, ``dict[str, X]`` and unions of them; a field with a
    converter, or of another type, is left to the class. Its validators say what is wrong by ValueError.

    :param where: The file and the table, for messages.
    :raises ConfigurationError: an unknown or missing key, a wrong type, a value that the class refuses.
    """
    fields = {field.name.replace("_", "-"): field for field in attrs.fields(values) if field.init}  # type: ignore[arg-type]
    check_keys(table, fields, f"{where}.")
    hints = typing.get_type_hints(values)
    arguments: dict[str, object] = {}
    for key, field in fields.items():
        if key in table:
            value = table[key]
            if field.converter is None:
                value = _fit(value, hints.get(field.name, Any), f"{where}.{key}")
            arguments[field.alias] = value
        elif field.default is attrs.NOTHING:
            raise ConfigurationError(f"{where}.{key}", "is missing")
    try:
        return values(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(where, str(error.args[0] if error.args else error)) from error


def _fit(value: object, hint: Any, where: str) -> object:
    """Return a TOML value as the type that a class wants."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for choice in choices:
        plain = typing.get_origin(choice) or choice
        inner = typing.get_args(choice)
        if plain is Path and isinstance(value, str):
            return Path(value)
        if plain is float and type(value) is int:
            return float(value)
        if plain is tuple and isinstance(value, list):
            return tuple(_fit(item, inner[0] if inner else Any, where) for item in value)
        if plain is dict and isinstance(value, dict):
            return {key: _fit(item, inner[1] if inner else Any, f"{where}.{key}") for key, item in value.items()}
        if plain not in (str, bool, int, float, tuple, dict, Path, type(None)) or type(value) is plain:
            return value
    words = {
        str: "a string",
        Path: "a string",
        bool: "true or false",
        int: "an integer",
        float: "a number",
        tuple: "an array",
    }
    wanted = " or ".join(
        words.get(typing.get_origin(choice) or choice, "a table") for choice in choices if choice is not type(None)
    )
    raise ConfigurationError(where, f"must be {wanted}, not {type_name(value)}")
