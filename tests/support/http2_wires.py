"""A client and an engine that keep to HTTP/2 (h2), with the proxy's own conversation and mediation between them."""

from __future__ import annotations

from itertools import count
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from docker_tracker.builds import BuildEdit, BuildOutcome, BuildRequest
from docker_tracker.engine.operation import Operation
from docker_tracker.exchange import Exchange, Outcome, Stage
from docker_tracker.interceptor import Interceptor
from docker_tracker.proxy.plan import Named
from tests.support.http2 import Link, Peer
from tests.support.wires import MemoryWire, Wires

UPGRADE = b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
BUILDS = Stage.BUILD_CALL | Stage.BUILD_REQUEST | Stage.BUILD_FINISHED


@attrs.define(eq=False)
class Asks(Interceptor):
    """Takes part in builds as a test tells it, and remembers what it saw.

    :ivar edit: What it changes, or an error that it raises.
    :ivar deciding: What it waits for before it decides.
    :ivar saving: What it waits for before an answer may go.
    :ivar forbidden: The path of calls that it refuses, with the error.
    :ivar seen: What happened, in order: ("call", path, build), ("request", request), ("build", request, outcome),
        ("finished", outcome).
    """

    stages: Stage = BUILDS | Stage.FINISHED
    fail_closed: bool = True
    edit: BuildEdit | Exception | None = None
    deciding: Deferred[Any] | None = None
    saving: Deferred[Any] | Exception | None = None
    forbidden: tuple[str, Exception] | None = None
    seen: list[tuple[Any, ...]] = attrs.field(factory=list)
    exchange: Exchange | None = None

    def wants(self, operation: Operation) -> Stage:
        """See `IInterceptor.wants`."""
        return self.stages if operation.name == "grpc" else Stage.NOTHING

    def build_call(self, exchange: Exchange, path: str, build: str) -> None:
        """See `IInterceptor.build_call`."""
        self.seen.append(("call", path, build))
        if self.forbidden is not None and self.forbidden[0] == path:
            raise self.forbidden[1]

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        """See `IInterceptor.build_request`."""
        self.seen.append(("request", request))
        if self.deciding is not None:
            await self.deciding
        if isinstance(self.edit, Exception):
            raise self.edit
        return self.edit

    async def build_finished(self, exchange: Exchange, request: BuildRequest, outcome: BuildOutcome) -> None:
        """See `IInterceptor.build_finished`."""
        if isinstance(self.saving, Exception):
            raise self.saving
        if self.saving is not None:
            await self.saving
        self.seen.append(("build", request, outcome))

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        """See `IInterceptor.finished`."""
        self.exchange = exchange
        self.seen.append(("finished", outcome))

    @property
    def requests(self) -> list[BuildRequest]:
        """The requests that were seen."""
        return [each[1] for each in self.seen if each[0] == "request"]

    @property
    def outcomes(self) -> list[BuildOutcome]:
        """The outcomes that were seen."""
        return [each[2] for each in self.seen if each[0] == "build"]


class BuildLink(Link):
    """A client and an engine with a conversation between them, upgraded.

    :param interceptors: In order; their names are ``a``, ``b``, ….
    :param begin: Whether to upgrade at once.
    """

    def __init__(self, *interceptors: Interceptor, begin: bool = True, more: tuple[Named, ...] = ()) -> None:
        self.client, self.engine = Peer(True), Peer(False)
        self._streams = count(1, 2)
        named = [Named(chr(ord("a") + number), each) for number, each in enumerate(interceptors)]
        self.wires = Wires(*named, *more)
        if begin:
            self.upgrade()

    @property
    def ends(self) -> tuple[tuple[Peer, MemoryWire], tuple[Peer, MemoryWire]]:
        """Both ends, each with its wire."""
        return (self.client, self.wires.client), (self.engine, self.wires.engine)

    def upgrade(self) -> None:
        """Have the client ask for HTTP/2, and the engine agree; then both say hello."""
        self.wires.client.sends(UPGRADE)
        self.wires.engine.received  # noqa: B018
        self.wires.engine.sends(UPGRADED)
        head = self.wires.client.received
        assert head == UPGRADED, head
        self.pump()

    def pump(self) -> None:
        """Move bytes until nobody has any."""
        moved = True
        while moved:
            moved = False
            for peer, wire in self.ends:
                data = peer.h2.data_to_send()
                if data:
                    wire.sends(data)
                self.wires.turn()
                moved |= bool(data) | self.take(peer, wire)

    def take(self, peer: Peer, wire: MemoryWire) -> bool:
        """Have one end read what came; return whether there was any."""
        got = wire.received
        if got:
            peer.receive(got)
        return bool(got)

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        self.wires.clock.advance(seconds)
        self.pump()
