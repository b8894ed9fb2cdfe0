"""Heads as they were received: start line and header lines, in order, in case, byte for byte.

What is refused is refused because two readers could read it differently: bare LF or CR, folded lines,
space before a colon, control characters. The grammar is RFC 9112's without its leniencies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Self

import attrs

from docker_tracker.errors import BadHeadError, EngineProtocolError

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# The value of a field: visible characters, spaces, tabs, and bytes above 127 (net/http takes them).
_FIELD_LINE = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")
_FIELDS = rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
_TARGET = re.compile(r"[\x21-\x7e]+")
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])\r\n" + _FIELDS)
_STATUS_LINE = rb"HTTP/1\.([01]) ([0-9]{3})(?: ([\t\x20-\x7e\x80-\xff]*))?"
_RESPONSE = re.compile(_STATUS_LINE + rb"\r\n" + _FIELDS)


@attrs.frozen
class _Head:
    """What requests and responses have in common. Names compare without case, values are latin-1 text.

    :ivar raw: The whole head as received (or as edited), with its final blank line.
    :ivar minor: Of the version: 1 for HTTP/1.1, 0 for HTTP/1.0.
    """

    raw: bytes
    minor: int

    @cached_property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """All header lines as (name, value), in order, names in the case they came in."""
        lines = (line.partition(b":") for line in self._parts()[1])
        return tuple((name.decode("ascii"), value.strip(b" \t").decode("latin-1")) for name, _, value in lines)

    def get_all(self, name: str) -> list[str]:
        """Return the values of every line of that name, in order."""
        # Looked up in the bytes, since most heads are asked for two or three of their fields only.
        raw, wanted = self.raw, b"\n" + name.lower().encode() + b":"
        folded, values = raw.lower(), []
        start = folded.find(wanted)
        while start >= 0:
            start += len(wanted)
            end = raw.index(b"\r", start)
            values.append(raw[start:end].strip(b" \t").decode("latin-1"))
            start = folded.find(wanted, end)
        return values

    def get(self, name: str) -> str | None:
        """Return the value of the first line of that name, or None."""
        return next(iter(self.get_all(name)), None)

    def has_token(self, name: str, token: str) -> bool:
        """Whether a comma-separated field (Connection, say) has a token, in any case."""
        wanted = token.lower()
        return any(part.strip(" \t").lower() == wanted for value in self.get_all(name) for part in value.split(","))

    def _edited(self, start: bytes, lines: list[bytes]) -> Self:
        raise NotImplementedError  # pragma: no cover

    def _parts(self) -> tuple[bytes, list[bytes]]:
        start, *lines = self.raw[:-4].split(b"\r\n")
        return start, lines

    def with_field(self, name: str, value: str) -> Self:
        """Return a head in which this field stands once with this value; the other lines stay as they are.

        It takes the place of the first line of that name, or comes last.

        :raises ValueError: the name or value cannot stand in a header line.
        """
        line = f"{name}: {value}".encode("latin-1")
        if not _FIELD_LINE.fullmatch(line) or ":" in name:
            raise ValueError(f"not a header line: {name!r}")
        start, lines = self._parts()
        same = [_is_field(old, name) for old in lines]
        place = same.index(True) if True in same else len(lines)
        kept = [old for old, is_same in zip(lines, same, strict=True) if not is_same]
        return self._edited(start, [*kept[:place], line, *kept[place:]])

    def without_field(self, name: str) -> Self:
        """Return a head with no line of this name."""
        start, lines = self._parts()
        return self._edited(start, [line for line in lines if not _is_field(line, name)])


def _is_field(line: bytes, name: str) -> bool:
    return line.lower().startswith(name.lower().encode() + b":")


@attrs.frozen
class RequestHead(_Head):
    """The head of a request.

    :ivar method: As sent, case kept.
    :ivar target: As sent: origin form, absolute form or ``*``.
    """

    method: str
    target: str

    @classmethod
    def parse(cls, raw: bytes) -> RequestHead:
        """Read a whole head, blank line included.

        :raises BadHeadError: with a sentence that says which rule it breaks.
        """
        match = _REQUEST.fullmatch(raw)
        if match is None:
            raise BadHeadError(_fault(raw, _request_line_fault))
        method, target, minor = match.groups()
        return cls(raw, int(minor), method.decode("ascii"), target.decode("ascii"))

    def _edited(self, start: bytes, lines: list[bytes]) -> RequestHead:
        return RequestHead.parse(b"\r\n".join([start, *lines]) + b"\r\n\r\n")

    def with_target(self, target: str) -> RequestHead:
        """Return a head with another target, nothing else changed.

        :raises ValueError: the target has characters that cannot stand in a request line.
        """
        if not _TARGET.fullmatch(target):
            raise ValueError("not a request target: it is empty, or has a character that must be percent-encoded")
        _, lines = self._parts()
        return self._edited(f"{self.method} {target} HTTP/1.{self.minor}".encode("ascii"), lines)


@attrs.frozen
class ResponseHead(_Head):
    """The head of a response; ``reason`` may be empty."""

    status: int
    reason: str

    @classmethod
    def parse(cls, raw: bytes) -> ResponseHead:
        """Read a whole head, blank line included.

        :raises EngineProtocolError: the engine broke HTTP; the sentence says which rule.
        """
        match = _RESPONSE.fullmatch(raw)
        if match is None:
            raise EngineProtocolError(f"the engine's answer is not HTTP/1.1: {_fault(raw, _status_line_fault)}")
        minor, status, reason = match.groups()
        return cls(raw, int(minor), int(status), (reason or b"").decode("latin-1"))

    def _edited(self, start: bytes, lines: list[bytes]) -> ResponseHead:
        return ResponseHead.parse(b"\r\n".join([start, *lines]) + b"\r\n\r\n")


def _fault(raw: bytes, start_line_fault: Callable[[bytes], str | None]) -> str:
    """Say in one sentence which rule a refused head breaks; never shows a value or a query, they may be secret."""
    if not raw.endswith(b"\r\n\r\n"):
        return "the head does not end with an empty line"
    head = raw[:-4]
    if re.search(rb"(?<!\r)\n", head):
        return "the head has a bare LF in it; lines end with CR LF"
    if re.search(rb"\r(?!\n)", head):
        return "the head has a bare CR in it; lines end with CR LF"
    start, *lines = head.split(b"\r\n")
    faults = (_field_line_fault(number, line) for number, line in enumerate(lines, start=1))
    return start_line_fault(start) or next(filter(None, faults))


def _request_line_fault(line: bytes) -> str | None:
    if not line:
        return "the request line is empty"
    parts = line.split(b" ")
    if len(parts) != 3:
        return "the request line is not a method, a target and a version with one space between them"
    method, target, version = parts
    if not re.fullmatch(_TOKEN, method):
        return "the request line's method has characters that may not stand there"
    if not re.fullmatch(rb"[\x21-\x7e]+", target):
        return "the request line's target is empty or has characters that may not stand there; percent-encode them"
    if not re.fullmatch(rb"HTTP/1\.[01]", version):
        return "the request line's version is not HTTP/1.1 or HTTP/1.0"
    return None


def _status_line_fault(line: bytes) -> str | None:
    if not re.fullmatch(_STATUS_LINE, line):
        return f"its status line is {line[:60]!r}"
    return None


def _field_line_fault(number: int, line: bytes) -> str | None:
    if line[:1] in (b" ", b"\t"):
        return "the head has a folded line; write each field on one line"
    name, colon, _ = line.partition(b":")
    if not colon:
        return f"header line {number} has no colon"
    if name.endswith((b" ", b"\t")):
        return f"header line {number} has a space before its colon"
    if not re.fullmatch(_TOKEN, name):
        return f"the name of header line {number} is empty or has characters that may not stand there"
    if not _FIELD_LINE.fullmatch(line):
        return f"the header {name[:40].decode('ascii')} has a control character in its value"
    return None
