"""A head with what follows from it, read once for many equal heads.

Clients repeat themselves: a poll sends the same head each time, and answers differ in their Date only. Reading a
head is a pure function of its bytes, so short ones are remembered. Those that bear credentials are not: so they are
read anew, and others are found without a look for credentials in them.
"""

from __future__ import annotations

import re
from functools import lru_cache

import attrs

from docker_tracker.errors import BadHeadError
from docker_tracker.http1.framing import BodyKind, Framing, request_framing, response_framing
from docker_tracker.http1.head import RequestHead, ResponseHead

#: The longest head that is remembered, in bytes, and how many are, of each kind: some 2 MiB in all.
_SHORT = 512
_REMEMBERED = 1024


@attrs.frozen
class Request:
    """A request's head and the framing of its body.

    :ivar is_form: Whether its body is a form's, whose values net/http's ``ParseForm`` prefers to the query's.
    """

    head: RequestHead
    framing: Framing
    is_form: bool


@attrs.frozen
class Response:
    """A response's head and the framing of its body.

    :ivar closes: Whether its sender will close the connection behind it.
    """

    head: ResponseHead
    framing: Framing
    closes: bool


# Go trims and lowers a media type as Unicode (mime.ParseMediaType): with a no-break space before it, or a dotted
# capital I in it, it would still be a form's to the engine. What has no slash, or is empty, is none in any case.
_MEDIA_TYPE = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?)?")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def _read_request(raw: bytes) -> Request:
    head = RequestHead.parse(raw)
    types = [value.partition(";")[0].strip(" \t") for value in head.get_all("Content-Type")]
    if not all(map(_MEDIA_TYPE.fullmatch, types)):
        raise BadHeadError("the Content-Type is not a type and a subtype in ASCII; write application/json, say")
    return Request(head, request_framing(head), any(name.lower() in _FORMS for name in types))


def _read_response(raw: bytes, method: str) -> Response:
    head = ResponseHead.parse(raw)
    framing = response_framing(head, method)
    closes = (
        framing.kind is BodyKind.UNTIL_CLOSE
        or head.has_token("Connection", "close")
        or (head.minor == 0 and not head.has_token("Connection", "keep-alive"))
    )
    return Response(head, framing, closes)


_requests: dict[bytes, Request] = {}
_remembered_response = lru_cache(_REMEMBERED)(_read_response)


def read_request(raw: bytes) -> Request:
    """Read a request's head, blank line included.

    :raises BadHeadError: it is not HTTP/1.1, or its framing or its media type is ambiguous.
    """
    known = _requests.get(raw)
    if known is not None:
        return known
    request = _read_request(raw)
    folded = raw.lower()
    if len(raw) <= _SHORT and b"auth" not in folded and b"\nx-registry-" not in folded:
        if len(_requests) >= _REMEMBERED:
            del _requests[next(iter(_requests))]
        _requests[raw] = request
    return request


def read_response(raw: bytes, method: str) -> Response:
    """Read the head of the response to a request of that method, blank line included.

    :raises EngineProtocolError: it is not HTTP/1.1, or its framing is ambiguous.
    """
    return _remembered_response(raw, method) if len(raw) <= _SHORT else _read_response(raw, method)
