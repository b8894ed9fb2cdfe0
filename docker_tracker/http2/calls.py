"""The calls that are followed, and who decides on them."""

from __future__ import annotations

import enum
from typing import Protocol

import attrs

from docker_tracker.builds import BuildOutcome, BuildRequest, BuildStep
from docker_tracker.errors import BadFrameError, BadGrpcError
from docker_tracker.http2.grpc import Collector


class Phase(enum.Enum):
    """How far a call's request has come."""

    GATHERED = "gathered"  #: its message is not whole
    HELD = "held"  #: its message is whole, and waits for a decision
    SENT = "sent"  #: it goes to the engine
    OVER = "over"  #: the call has ended


@attrs.define(eq=False)
class Call:
    """One call of a build.

    :ivar stream: Its number on the connection.
    :ivar step: Which call it is.
    :ivar build: The build's ID of its headers, or "".
    :ivar phase: How far its request has come.
    :ivar request: Its message.
    :ivar answer: The answer's message.
    :ivar client_ended: Whether the client sends no more.
    :ivar begun: Whether the client has the headers of an answer.
    """

    stream: int
    step: BuildStep
    build: str
    phase: Phase = Phase.GATHERED
    request: Collector = attrs.field(factory=Collector)
    answer: Collector = attrs.field(factory=Collector)
    client_ended: bool = False
    begun: bool = False


class IOwner(Protocol):
    """Decides, and is told; called from within `Mediator.client_data` and its like, and must return at once."""

    def opened(self, path: str, build: str) -> str:
        """A new call, of any method; return why it is refused, in a sentence, or "": it is not.

        :param path: ``/package.Service/Method``.
        :param build: The build's ID of its headers, or "".
        """

    def requested(self, call: Call, request: BuildRequest | BadGrpcError) -> None:
        """A request is held, now or later to be ended with `Mediator.release` or `Mediator.refuse`.

        :param request: What it says, or why that cannot be read.
        """

    def finished(self, call: Call, outcome: BuildOutcome) -> bool:
        """A call is over; told once for each that was `requested`.

        :return: Whether the client is to wait for the answer until `Mediator.resume`. All else that the engine
            sends on this connection then waits, too: be quick. Of no effect if the client or its connection is gone.
        """

    def failed(self, error: BadFrameError) -> None:
        """HTTP/2 was broken: both sides get a GOAWAY, and are to be closed behind it. Told once, and last."""
