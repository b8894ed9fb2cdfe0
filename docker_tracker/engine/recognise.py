"""Which Engine API call a request is, read the way the engine's router reads it.

dockerd matches the percent-decoded path (``vendor/github.com/gorilla/mux``: no ``UseEncodedPath``), so what decodes
to a route *is* that route. A path that the router would clean and redirect (301) is refused here: a client would
follow the redirect with another method, and two readers could read it as two paths.

Podman takes more for a version than dockerd does. Paths with such versions are the routes that Podman makes of them: to
dockerd they are nothing at all, in any case. So are those of Podman's own API, which are matched as Podman does it: as
they were sent (``pkg/api/server/server.go``: UseEncodedPath), so that ``%2F`` is no slash, but part of a name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from docker_tracker.engine.catalogue import LIBPOD, OPERATIONS, TRACKER_OTHER, TRACKER_PAGE, UNKNOWN, operation
from docker_tracker.engine.operation import Call, Operation
from docker_tracker.errors import BadTargetError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNCLEAN = re.compile(r"//|/\.\.?(?:/|\Z)|[\x00-\x1f\x7f]")
# dockerd's (daemon/server/server.go), and Podman's (pkg/api/server/handler_api.go: VersionedPath).
_VERSION = re.compile(r"/v([0-9.]+|[0-9][0-9A-Za-z.-]*)(/.*)")
_VARIABLE = re.compile(r"\{(\w+)(?::([^}]*))?\}")
_CACHED_LENGTH: Final = 200  # characters; longer targets are rare, and not kept in memory
_OPTIONS: Final = operation("options")
_LIBPOD: Final = "/libpod/"
_NO_NAMES: Final = MappingProxyType[str, str]({})


def pattern(path: str) -> re.Pattern[str]:
    """Return the regular expression that the router makes of a route's path."""
    expression, end = "", 0
    for variable in _VARIABLE.finditer(path):
        name, inner = variable.groups()
        expression += re.escape(path[end : variable.start()]) + f"(?P<{name}>{inner or '[^/]+'})"
        end = variable.end()
    return re.compile(expression + re.escape(path[end:]))


# Routes without variables by their path, the others by the first segment of it, in the router's order.
_LITERAL: Final = {(row.method, row.path): row for row in reversed(OPERATIONS) if "{" not in row.path}
_GREEDY: Final[dict[tuple[str, str], list[tuple[re.Pattern[str], Operation]]]] = {}
for _row in OPERATIONS:
    if "{" in _row.path and _row not in (_OPTIONS, TRACKER_OTHER, LIBPOD):
        _GREEDY.setdefault((_row.method, _row.path.split("/", 2)[1]), []).append((pattern(_row.path), _row))


def _raw_path(target: str) -> tuple[str, str]:
    """Return the path and the query of a target in origin or absolute form, as ``url.ParseRequestURI`` does."""
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return path, query
    scheme = _SCHEME.match(target)
    if scheme is None:
        raise BadTargetError("the request's path must begin with a slash")
    rest, _, query = target[scheme.end() :].partition("?")
    if rest.startswith("//"):
        rest = rest[2:]
        slash = rest.find("/")
        rest = rest[slash:] if slash >= 0 else ""
    if not rest.startswith("/"):
        raise BadTargetError("the request's URL has no path")
    return rest, query


def _decoded(path: str) -> str:
    if "%" in path:
        if _BAD_ESCAPE.search(path):
            raise BadTargetError("the path has a broken escape; write a percent sign as %25")
        try:
            path = unquote_to_bytes(path).decode("utf-8")
        except UnicodeDecodeError:
            raise BadTargetError("the path has bytes that are not UTF-8") from None
    if _UNCLEAN.search(path):
        if _CONTROL.search(path):
            raise BadTargetError("the path has a control character in it")
        raise BadTargetError("the path is not clean; write it without //, /./ and /../")
    return path


def _find(method: str, path: str, version: str | None) -> tuple[Operation, MappingProxyType[str, str]]:
    if version is None and (path == "/tracker" or path.startswith("/tracker/")):
        return (TRACKER_PAGE if method == "GET" and path == "/tracker" else TRACKER_OTHER), _NO_NAMES
    row = _LITERAL.get((method, path))
    if row is not None and row is not TRACKER_PAGE:
        return row, _NO_NAMES
    if method == "OPTIONS":
        return _OPTIONS, _NO_NAMES
    for expression, candidate in _GREEDY.get((method, path.split("/", 2)[1]), ()):
        match = expression.fullmatch(path)
        if match is not None:
            return candidate, MappingProxyType(match.groupdict())
    return (LIBPOD if path.startswith(_LIBPOD) else UNKNOWN), _NO_NAMES


def _find_as_sent(method: str, raw: str) -> tuple[Operation, MappingProxyType[str, str]]:
    """Find a route of Podman's own; only names may have escapes in them."""
    versioned = _VERSION.fullmatch(raw)
    path = raw if versioned is None else versioned[2]
    if not path.startswith(_LIBPOD):
        return LIBPOD, _NO_NAMES
    row, names = _find(method, path, None)
    return row, MappingProxyType({name: unquote(value) for name, value in names.items()})


def _recognise(method: str, target: str) -> Call:
    if target == "*" and method == "OPTIONS":
        return Call(_OPTIONS, None, "*")
    raw, query = _raw_path(target)
    path = _decoded(raw)
    version = None
    versioned = _VERSION.fullmatch(path)
    if versioned is not None:
        version, path = versioned.groups()
    of_podman = "%" in raw and path.startswith(_LIBPOD)
    row, names = _find_as_sent(method, raw) if of_podman else _find(method, path, version)
    return Call(row, version, path, names, query)


_recognise_short = lru_cache(maxsize=1024)(_recognise)


def recognise(method: str, target: str) -> Call:
    """Return what a request asks for; `docker_tracker.engine.catalogue.UNKNOWN` where the engine would say 404.

    :param method: As sent; the engine compares it with case.
    :param target: As sent: origin form, absolute form (its path counts), or ``*``.
    :raises BadTargetError: the router would redirect it, or two readers could read it as two paths. It quotes nothing
        of the target, where a password may stand.
    """
    if len(target) <= _CACHED_LENGTH and len(method) < 16:
        return _recognise_short(method, target)
    return _recognise(method, target)
