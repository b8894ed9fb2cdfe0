"""Heads as they were received: start line and header lines, in order, in case, byte for byte.

What is refused is refused because two readers could read it differently: bare LF or CR, folded lines,
space before a colon, control characters. The grammar is RFC 9112's without its leniencies.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Self

import attrs

from docker_tracker.errors import BadHeadError, EngineProtocolError

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# The value of a field: visible characters, spaces, tabs, and bytes above 127 (net/http takes them).
_FIELD_LINE = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")
_FIELDS = rb"((?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n" + _FIELDS)
# What net/http's server itself takes for a request line, so that a refusal can say which part is wrong.
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])")


def _split(fields: bytes) -> tuple[tuple[str, str], ...]:
    pairs = []
    for line in fields.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        pairs.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
    return tuple(pairs)


@attrs.frozen
class _Head:
    """What requests and responses have in common. Names compare without case, values are latin-1 text.

    :ivar raw: The whole head as received (or as edited), with its final blank line.
    """

    raw: bytes
    minor: int
    _lines: bytes = attrs.field(repr=False, eq=False)

    @cached_property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """All header lines as (name, value), in order, names in the case they came in."""
        return _split(self._lines)

    def get_all(self, name: str) -> list[str]:
        """Return the values of every line of that name, in order."""
        wanted = name.lower()
        return [value for key, value in self.fields if key.lower() == wanted]

    def get(self, name: str) -> str | None:
        """Return the value of the first line of that name, or None."""
        return next(iter(self.get_all(name)), None)

    def has_token(self, name: str, token: str) -> bool:
        """Whether a comma-separated field (Connection, say) has a token, in any case."""
        wanted = token.lower()
        return any(part.strip().lower() == wanted for value in self.get_all(name) for part in value.split(","))

    def _edited(self, start: bytes, lines: list[bytes]) -> Self:
        raise NotImplementedError  # pragma: no cover

    def _parts(self) -> tuple[bytes, list[bytes]]:
        start, *lines = self.raw[:-4].split(b"\r\n")
        return start, lines

    def with_field(self, name: str, value: str) -> Self:
        """Return a head in which this field stands once with this value; the other lines stay as they are.

        :raises ValueError: the name or value cannot stand in a header line.
        """
        line = f"{name}: {value}".encode("latin-1")
        if not _FIELD_LINE.fullmatch(line):
            raise ValueError(f"not a header line: {name!r}: {value!r}")
        start, lines = self._parts()
        wanted = name.lower().encode("ascii") + b":"
        result: list[bytes] = []
        for old in lines:
            if not old.lower().startswith(wanted):
                result.append(old)
            elif line is not None:
                result.append(line)
                line = None  # type: ignore[assignment]
        if line is not None:
            result.append(line)
        return self._edited(start, result)

    def without_field(self, name: str) -> Self:
        """Return a head with no line of this name."""
        start, lines = self._parts()
        wanted = name.lower().encode("ascii") + b":"
        return self._edited(start, [line for line in lines if not line.lower().startswith(wanted)])


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
            raise BadHeadError(_fault(raw, _REQUEST_LINE, "request line"))
        method, target, minor, lines = match.groups()
        return cls(raw, 1 if minor == b"1" else 0, lines, method.decode("ascii"), target.decode("ascii"))

    def _edited(self, start: bytes, lines: list[bytes]) -> RequestHead:
        return RequestHead.parse(b"\r\n".join([start, *lines]) + b"\r\n\r\n")

    def with_target(self, target: str) -> RequestHead:
        """Return a head with another target, nothing else changed.

        :raises BadHeadError: the target has characters that cannot stand in a request line.
        """
        start, lines = self._parts()
        version = start.rpartition(b" ")[2]
        return self._edited(b" ".join([self.method.encode(), target.encode("ascii", "replace"), version]), lines)


@attrs.frozen
class ResponseHead(_Head):
    """The head of a response; ``reason`` may be empty."""

    status: int
    reason: str

    @classmethod
    def parse(cls, raw: bytes) -> ResponseHead:
        """Read a whole head, blank line included.

        :raises EngineProtocolError: the engine broke HTTP.
        """
        match = _RESPONSE.fullmatch(raw)
        if match is None:
            raise EngineProtocolError("the engine's answer is not HTTP/1.1: " + repr(raw[:60]))
        minor, status, reason, lines = match.groups()
        return cls(raw, 1 if minor == b"1" else 0, lines, int(status), (reason or b"").decode("latin-1"))

    def _edited(self, start: bytes, lines: list[bytes]) -> ResponseHead:
        return ResponseHead.parse(b"\r\n".join([start, *lines]) + b"\r\n\r\n")


def _fault(raw: bytes, start: re.Pattern[bytes], what: str) -> str:
    """Say in one sentence which rule a head breaks; runs only for heads that are refused."""
    body = raw[:-4]
    for bad, problem in ((rb"(?<!\r)\n", "a bare LF"), (rb"\r(?!\n)", "a bare CR")):
        if re.search(bad, body):
            return f"the head has {problem} in it; lines end with CR LF"
    first, *lines = body.split(b"\r\n")
    if not start.fullmatch(first):
        return f"the {what} is not one of HTTP/1.1 or HTTP/1.0: {first[:80]!r}"
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            return "the head has a folded line; write each field on one line"
        name, colon, _ = line.partition(b":")
        if not colon:
            return f"a header line has no colon: {line[:80]!r}"
        if name != name.strip(b" \t"):
            return f"a header line has a space before its colon: {line[:80]!r}"
        if not re.fullmatch(_TOKEN, name):
            return f"a header's name has characters that may not stand there: {name[:80]!r}"
        if not _FIELD_LINE.fullmatch(line):
            return f"the header {name.decode('ascii')} has a control character in its value"
    return "the head is not HTTP/1.1"  # pragma: no cover  (no head is known that gets here)
