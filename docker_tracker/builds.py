"""The values that interceptors of builds are handed: what a client asks BuildKit for, and what became of it.

One build is several calls on one connection, which have its ID in common. A client that runs the frontend from its
side (buildx: ``docker build``, ``bake``, ``compose build``) sends a SOLVE without a frontend, then a FRONTEND for each
target, then a RESULT. Others name the frontend in SOLVE. Knows nothing of HTTP/2 and protobuf; imports nothing of ours.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import attrs

#: Of a request that is over or on its way these options are kept, of so many exporters, and of each so many characters.
_KEPT: Final = ("target", "platform", "name", "push")
_MOST_KEPT: Final = 16
_LONGEST_KEPT: Final = 8192


class BuildStep(enum.Enum):
    """Which call of a build a request is."""

    SOLVE = "solve"  #: Control/Solve: opens the build and stays open until its end
    FRONTEND = "frontend"  #: LLBBridge/Solve: runs a frontend, or steps that the client put together by itself
    RESULT = "result"  #: LLBBridge/Return: the client hands back what is to be exported


@attrs.frozen
class Exporter:
    """What is to be made of a result.

    :ivar kind: ``moby`` and ``image`` make images in the engine; ``local``, ``tar``, ``docker``, ``oci`` do not.
    :ivar attributes: Its options: ``name`` has the tags, with commas between them.
    """

    kind: str
    attributes: Mapping[str, str]


@attrs.frozen(kw_only=True)
class BuildRequest:
    """One request of a build.

    :ivar step: Which one.
    :ivar build: The build's ID, or "": it has none.
    :ivar call: The call's number on its connection, the same when it begins and when it is over.
    :ivar frontend: Its name (``dockerfile.v0``, ``gateway.v0``), or "": none runs for this request.
    :ivar attributes: The frontend's options: ``label:NAME``, ``build-arg:NAME``, ``target``, ``cgroup-parent``.
    :ivar session: SOLVE: the ID of the client's session, as in the header of its ``POST /session``.
    :ivar exporters: SOLVE: what is to be made of the result.
    :ivar image_configs: RESULT: JSON documents by their key, ``containerimage.config``, or that with ``/`` and a
        platform behind it.
    :ivar definition: Whether the client brings steps of its own (LLB), whose options nobody here reads.
    :ivar final: FRONTEND: it takes its result for the build's, with metadata of its own. BuildKit's older clients do.
    :ivar failed: RESULT: the client says that the build failed.
    """

    step: BuildStep
    build: str
    call: int = 0
    frontend: str = ""
    attributes: Mapping[str, str] = attrs.field(factory=dict)
    session: str = ""
    exporters: tuple[Exporter, ...] = ()
    image_configs: Mapping[str, bytes] = attrs.field(factory=dict)
    definition: bool = False
    final: bool = False
    failed: bool = False

    @property
    def is_probe(self) -> bool:
        """Whether a SOLVE only asks what the engine can do, as clients do before a build."""
        asks = self.frontend or self.attributes or self.exporters or self.definition
        return self.step is BuildStep.SOLVE and not asks

    def kept(self) -> BuildRequest:
        """Return what is kept of it until it is over: who asked for what, but neither arguments nor image configs."""
        return attrs.evolve(
            self,
            frontend=self.frontend[:_LONGEST_KEPT],
            session=self.session[:_LONGEST_KEPT],
            attributes=_kept(self.attributes),
            exporters=tuple(
                Exporter(each.kind[:_LONGEST_KEPT], _kept(each.attributes)) for each in self.exporters[:_MOST_KEPT]
            ),
            image_configs={},
        )


def _kept(options: Mapping[str, str]) -> dict[str, str]:
    return {name: options[name][:_LONGEST_KEPT] for name in _KEPT if name in options}


@attrs.frozen(kw_only=True)
class BuildEdit:
    """What is to be changed in a request: values to set, and None for what is to be taken out.

    :ivar attributes: The frontend's options (SOLVE and FRONTEND; without a frontend they have no effect).
    :ivar exporter_attributes: SOLVE: options of every exporter.
    :ivar image_configs: RESULT: JSON documents, by the keys of `BuildRequest.image_configs`.
    """

    attributes: Mapping[str, str | None] = attrs.field(factory=dict)
    exporter_attributes: Mapping[str, str | None] = attrs.field(factory=dict)
    image_configs: Mapping[str, bytes | None] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to change."""
        return bool(self.attributes or self.exporter_attributes or self.image_configs)


class BuildEnd(enum.Enum):
    """How a request ended."""

    ANSWERED = "answered"  #: by the engine, well or badly: see the status
    REFUSED = "refused"  #: here; the engine did not see the message
    CANCELLED = "cancelled"  #: the client gave it up
    ABORTED = "aborted"  #: the engine gave it up
    LOST = "lost"  #: the connection ended before


@attrs.frozen(kw_only=True)
class BuildOutcome:
    """What became of a request.

    :ivar end: How it ended.
    :ivar forwarded: Whether the engine was sent the message.
    :ivar status: gRPC's number, 0 is success; None: there was no answer.
    :ivar message: What went wrong, for people.
    :ivar answer: SOLVE: the exporters' answers (``containerimage.digest``, ``image.name``); empty if it failed.
    :ivar problem: Why the request or the answer could not be read, or "".
    :ivar started: When the request was whole, in seconds since the epoch.
    :ivar refused_by: The interceptor that refused, ``proxy``, or "": nobody did.
    :ivar edits: SOLVE: what interceptors changed in this build's requests on this connection, in order; each is a
        `docker_tracker.exchange.Edit`.
    """

    end: BuildEnd
    forwarded: bool = True
    status: int | None = None
    message: str = ""
    answer: Mapping[str, str] = attrs.field(factory=dict)
    problem: str = ""
    started: float = 0.0
    refused_by: str = ""
    edits: tuple[Any, ...] = ()
