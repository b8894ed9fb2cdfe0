"""Which body follows a head. RFC 9112 section 6, without the cases that two readers read differently."""

from __future__ import annotations

import enum
import re

import attrs

from docker_tracker.errors import BadHeadError, EngineProtocolError
from docker_tracker.http1.head import RequestHead, ResponseHead

_DIGITS = re.compile(r"[0-9]{1,18}")


class BodyKind(enum.Enum):
    """How the end of a body is known."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"
    UPGRADE = "upgrade"  # no HTTP follows: raw bytes, both ways


@attrs.frozen
class Framing:
    """A body's kind and, for LENGTH, its length in bytes."""

    kind: BodyKind
    length: int = 0


NO_BODY = Framing(BodyKind.NONE)
CHUNKED = Framing(BodyKind.CHUNKED)
UNTIL_CLOSE = Framing(BodyKind.UNTIL_CLOSE)
UPGRADE = Framing(BodyKind.UPGRADE)


def _length(values: list[str]) -> int | str:
    """Return the one length that all lines agree on, or what is wrong with them."""
    if len(set(values)) != 1:
        return "two different Content-Length"
    return int(values[0]) if _DIGITS.fullmatch(values[0]) else "a Content-Length that is not a number"


def _framing(head: RequestHead | ResponseHead) -> Framing | str | None:
    """Return the framing that the fields name, what is wrong with them, or None: they name none."""
    codings, lengths = head.get_all("Transfer-Encoding"), head.get_all("Content-Length")
    if codings and lengths:
        return "both Content-Length and Transfer-Encoding"
    if codings:
        if len(codings) > 1 or codings[0].lower() != "chunked":
            return "another Transfer-Encoding; only chunked is known here"
        if head.minor == 0:
            return "a chunked body in HTTP/1.0"
        return CHUNKED
    if not lengths:
        return None
    length = _length(lengths)
    if isinstance(length, str):
        return length
    return Framing(BodyKind.LENGTH, length) if length else NO_BODY


def request_framing(head: RequestHead) -> Framing:
    """Return which body follows a request's head.

    :raises BadHeadError: two readers could disagree on it, or it has a coding that is not known here.
    """
    framing = _framing(head)
    if framing is None:
        return NO_BODY
    if isinstance(framing, str):
        raise BadHeadError(f"the request has {framing}")
    return framing


def response_framing(head: ResponseHead, method: str) -> Framing:
    """Return which body follows a response's head, given the method of its request.

    :raises EngineProtocolError: the engine's framing is ambiguous.
    """
    status = head.status
    if status == 101:
        return UPGRADE
    if method == "HEAD" or status < 200 or status in (204, 304):
        return NO_BODY
    framing = _framing(head)
    if framing is None:
        return UNTIL_CLOSE
    if isinstance(framing, str):
        raise EngineProtocolError(f"the engine's answer has {framing}")
    return framing
