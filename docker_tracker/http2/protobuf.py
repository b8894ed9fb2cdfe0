"""The wire format of protobuf: fields found in a message, and fields written; what nobody changes keeps its bytes.

Refused is what the engine's readers (gogo, google.golang.org/protobuf) refuse or read differently: groups, field
numbers beyond 29 bits, a known field of another wire type than its own.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final, NamedTuple

import attrs

from docker_tracker.errors import BadGrpcError

VARINT: Final = 0
LENGTH: Final = 2
_FIXED: Final = {1: 8, 5: 4}
#: The most fields that are read of one message, those of its maps and parts included: some 3,000 options. All else
#: waits while they are read. A bake target with 450 options made 1,287.
MAX_FIELDS: Final = 10_000


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of at most 64 bits, and where it ends."""
    value = shift = 0
    while shift < 70:
        if place >= len(data):
            raise BadGrpcError("a protobuf message ends within a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, place
        shift += 7
    raise BadGrpcError("a protobuf message has a number of more than 64 bits")


class Field(NamedTuple):
    """Where a field of a message stands.

    :ivar number: Of the field.
    :ivar wire: Its wire type: 0, 1, 2 or 5.
    :ivar start: Where its tag begins.
    :ivar body: Where its value begins, behind the length if it has one.
    :ivar end: Where it ends.
    """

    number: int
    wire: int
    start: int
    body: int
    end: int


def _field(data: bytes, start: int) -> Field:
    """Return the field that begins there."""
    tag, place = _varint(data, start)
    number, wire = tag >> 3, tag & 7
    if not 0 < number < 2**29:
        raise BadGrpcError("a protobuf message has a field number that is none")
    body = place
    if wire == VARINT:
        _, place = _varint(data, place)
    elif wire == LENGTH:
        size, body = _varint(data, place)
        place = body + size
    elif wire in _FIXED:
        place += _FIXED[wire]
    else:
        raise BadGrpcError(f"a protobuf message has a field of wire type {wire}; groups are not taken")
    if place > len(data):
        raise BadGrpcError("a protobuf message ends within a field")
    return Field(number, wire, start, body, place)


@attrs.define
class _Budget:
    """How many fields may still be read of a message and its parts."""

    left: int = MAX_FIELDS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise BadGrpcError(
                f"it has more than {MAX_FIELDS} fields, some {MAX_FIELDS // 3} options: give the build fewer"
            )


class Message:
    """A message of which some fields are read, and perhaps changed.

    :raises BadGrpcError: it is not protobuf, or not as the engine reads it.
    """

    __slots__ = ("_budget", "data", "fields")

    def __init__(self, data: bytes, budget: _Budget | None = None) -> None:
        self.data = data
        self._budget = _Budget() if budget is None else budget
        self.fields: list[Field] = []
        place = 0
        while place < len(data):
            self._budget.spend()
            self.fields.append(_field(data, place))
            place = self.fields[-1].end

    def part(self, value: bytes) -> Message:
        """Return a message that is a field's value; its fields count as this one's."""
        return Message(value, self._budget)

    def values(self, number: int) -> list[bytes]:
        """Return the values of a field of texts, bytes or messages: all that there are.

        :raises BadGrpcError: one is of another wire type.
        """
        return [self.value(field) for field in self.fields if field.number == number]

    def value(self, field: Field) -> bytes:
        """Return the value of one such field."""
        if field.wire != LENGTH:
            raise BadGrpcError(f"field {field.number} of a protobuf message has the wrong wire type {field.wire}")
        return self.data[field.body : field.end]

    def text(self, number: int) -> str:
        """Return a text, the last one if there are several, as the engine does; "": there is none."""
        values = self.values(number)
        return as_text(values[-1]) if values else ""

    def flag(self, number: int) -> bool:
        """Return a boolean."""
        numbers = [field for field in self.fields if field.number == number]
        if any(field.wire != VARINT for field in numbers):
            raise BadGrpcError(f"field {number} of a protobuf message has the wrong wire type")
        return bool(numbers) and _varint(self.data, numbers[-1].body)[0] != 0

    def entries(self, number: int) -> dict[str, bytes]:
        """Return a map with text keys; of equal keys the last one counts."""
        return dict(self._entry(value) for value in self.values(number))

    def _entry(self, value: bytes) -> tuple[str, bytes]:
        entry = self.part(value)
        values = entry.values(2)
        return entry.text(1), values[-1] if values else b""

    def texts(self, number: int) -> dict[str, str]:
        """Return a map of texts to texts."""
        return {key: as_text(value) for key, value in self.entries(number).items()}

    def with_entries(self, number: int, changes: Mapping[str, bytes | None]) -> bytes:
        """Return the message with a map changed: entries set, or (None) taken out; all else keeps its bytes."""
        added = (
            length_field(number, length_field(1, as_bytes(key)) + length_field(2, value))
            for key, value in changes.items()
            if value is not None
        )
        return b"".join((self.without_entries(number, changes), *added))

    def without_entries(self, number: int, keys: Container[str]) -> bytes:
        """Return the message without some entries of a map; all else keeps its bytes."""
        keep, start = [], 0
        for field in self.fields:
            if field.number == number and self._entry(self.value(field))[0] in keys:
                keep.append(self.data[start : field.start])
                start = field.end
        keep.append(self.data[start:])
        return b"".join(keep)

    def replaced(self, new: Mapping[Field, bytes]) -> bytes:
        """Return the message with other values in some of its fields of texts, bytes or messages."""
        parts: list[bytes] = []
        start = 0
        for field in self.fields:
            if field in new:
                parts += self.data[start : field.start], length_field(field.number, new[field])
                start = field.end
        return b"".join((*parts, self.data[start:]))


def as_text(value: bytes) -> str:
    """Return a text; bytes that are no UTF-8 (20.10 takes them) survive the way back."""
    return value.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    """Return a text's bytes."""
    return text.encode("utf-8", "surrogateescape")


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def length_field(number: int, value: bytes) -> bytes:
    """Return a field of text, bytes or a message."""
    return varint(number << 3 | LENGTH) + varint(len(value)) + value
