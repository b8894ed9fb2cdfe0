"""The types of the catalogue's rows, and of a request that was recognised by them."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Final

import attrs


class RequestBody(enum.Enum):
    """What a request of an operation carries."""

    NONE = "none"
    JSON = "JSON"
    TAR = "tar"
    STREAM = "stream"


class ResponseBody(enum.Enum):
    """What a successful answer of an operation carries."""

    NONE = "none"
    JSON = "JSON"
    LINES = "JSON lines"  #: a chunked stream of JSON documents: build, pull, events
    STREAM = "stream"  #: bytes for as long as it takes: logs, export, wait
    UPGRADE = "upgrade"  #: raw bytes both ways after a 101 (or, on attach and exec start, a bare 200)


class Effect(enum.Enum):
    """What a successful operation does to resources of its kind."""

    READ = "read"
    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"
    PRUNE = "prune"


class LabelPlace(enum.Enum):
    """How labels are written on a request."""

    BODY = "object in the body"  #: a JSON object of strings at `LabelSlot.path`
    QUERY_JSON = "JSON in the query"  #: /build?labels={"a":"b"}
    QUERY_CHANGES = "Dockerfile lines in the query"  #: /commit and /images/create: changes=LABEL "a"="b"


@attrs.frozen
class LabelSlot:
    """One place where an operation takes labels.

    :ivar path: For BODY the keys down to the object of labels; for the query forms the parameter's name alone.
    :ivar image: Whether the labels become an image's, so that ``image-labels`` rules them.
    """

    place: LabelPlace
    path: tuple[str, ...]
    image: bool = False


class IdentityPlace(enum.Enum):
    """Where the ID or name of a created resource stands."""

    BODY = "JSON answer"  #: at `Identity.key`
    LINES = "line of the answer"  #: `docker_tracker.engine.lines.created_by_line` knows which
    QUERY = "query"  #: parameter `Identity.key` of the request
    HEADER = "header of the answer"


@attrs.frozen
class Identity:
    """Where the ID (or, for volumes, the name) of what an operation creates is found."""

    place: IdentityPlace
    key: str = ""


_PATTERN: Final = re.compile(r":[^}]*\}")


@attrs.frozen(eq=False)  # compared by identity: there is one row of each
class Operation:
    """One row of the catalogue: an Engine API call.

    :ivar name: ``container_create``; a resource kind and a verb.
    :ivar method: Upper case.
    :ivar path: The engine's own pattern without its version prefix: ``/containers/{name:.*}/json``.
    :ivar kind: The kind of resource that it is about, or None.
    :ivar identity: For CREATE, where the ID stands.
    :ivar labels: Where it takes labels.
    :ivar hijack: Whether a 200 without framing means raw bytes both ways (attach and exec start do that to
        clients that sent no ``Upgrade``; ``daemon/server/httputils/httputils.go``).
    :ivar source: The moby file in which the route stands.
    :ivar route: Its path without the patterns of its variables: ``/containers/{name}/json``.
    """

    name: str
    method: str
    path: str
    request: RequestBody = RequestBody.NONE
    response: ResponseBody = ResponseBody.JSON
    kind: str | None = None
    effect: Effect = Effect.READ
    identity: Identity | None = None
    labels: tuple[LabelSlot, ...] = ()
    hijack: bool = False
    source: str = ""
    route: str = attrs.field(init=False, repr=False)

    @route.default
    def _without_patterns(self) -> str:
        return _PATTERN.sub("}", self.path)


@attrs.frozen
class ResourceKind:
    """A kind of thing that lives on the engine.

    :ivar name: Singular: ``container``.
    :ivar list, inspect, remove: Names of operations; None where the engine has none.
    :ivar removal_order: Lower goes first when a job is reaped.
    :ivar events_type: The ``Type`` of its events, or None.
    :ivar gone_actions: The event actions after which it exists no more.
    """

    name: str
    list: str | None
    inspect: str | None
    remove: str | None
    removal_order: int
    events_type: str | None = None
    gone_actions: frozenset[str] = frozenset()


@attrs.frozen
class Call:
    """A request that was recognised: which operation, on what, with which parameters.

    :ivar operation: The row; `docker_tracker.engine.catalogue.UNKNOWN` for what no row matches.
    :ivar version: The API version in the path, as text without the ``v``, or None.
    :ivar path: The decoded path without its version prefix.
    :ivar names: What the pattern's variables stand for, decoded.
    :ivar query: The raw query, without its question mark; read it with `docker_tracker.engine.query`.
    """

    operation: Operation
    version: str | None
    path: str
    names: Mapping[str, str] = attrs.field(factory=dict)
    query: str = ""

    @property
    def name(self) -> str:
        """The resource that the path names, or the empty string."""
        return self.names.get("name") or self.names.get("id", "")  # as the engine's patterns call it
