"""A client and an engine that keep strictly to HTTP/2 (the library h2), with a mediator between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

import attrs
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from docker_tracker.builds import BuildOutcome, BuildRequest, BuildStep
from docker_tracker.errors import BadFrameError, BadGrpcError
from docker_tracker.http2 import frames
from docker_tracker.http2.calls import Call
from docker_tracker.http2.mediator import Mediator
from docker_tracker.http2.messages import STEPS
from docker_tracker.http2.protobuf import length_field

PATHS = {step: path for path, step in STEPS.items()}
SOLVE, FRONTEND, RESULT = PATHS[BuildStep.SOLVE], PATHS[BuildStep.FRONTEND], PATHS[BuildStep.RESULT]
STATUS = "/moby.buildkit.v1.Control/Status"


def entries(number: int, values: Mapping[str, str | bytes]) -> bytes:
    """Return a protobuf map."""
    raw = {key: value.encode() if isinstance(value, str) else value for key, value in values.items()}
    return b"".join(
        length_field(number, length_field(1, key.encode()) + length_field(2, value)) for key, value in raw.items()
    )


def prefixed(message: bytes, flag: int = 0) -> bytes:
    """Return a gRPC message with its prefix."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@attrs.define
class Seen:
    """What one peer saw of a stream."""

    headers: dict[bytes, bytes] = attrs.field(factory=dict)
    trailers: dict[bytes, bytes] = attrs.field(factory=dict)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None


class Peer:
    """One end. What it receives is acknowledged to its sender at once, unless it reads slowly.

    :param is_client: Which end.
    :ivar seen: Streams, by their number.
    :ivar gone: What a GOAWAY said, or None.
    """

    def __init__(self, is_client: bool) -> None:
        config = H2Configuration(client_side=is_client, header_encoding=None)
        self.h2 = H2Connection(config)
        self.seen: dict[int, Seen] = {}
        self.reads = True
        self.unread: list[tuple[int, int]] = []
        self.gone: ConnectionTerminated | None = None
        self.pings = 0
        self.most = 0  # the largest DATA frame
        self.h2.initiate_connection()

    def receive(self, data: bytes) -> None:
        """Take bytes; h2 raises if they break a rule or overrun a window."""
        for event in self.h2.receive_data(data):
            self._saw(event)

    def _saw(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.gone = event
        elif isinstance(event, PingAckReceived):
            self.pings += 1
        stream = getattr(event, "stream_id", None)
        if stream is None:
            return
        seen = self.seen.setdefault(stream, Seen())
        if isinstance(event, RequestReceived | ResponseReceived):
            seen.headers = dict(event.headers or ())
        elif isinstance(event, TrailersReceived):
            seen.trailers = dict(event.headers or ())
        elif isinstance(event, DataReceived):
            seen.data += event.data or b""
            self.most = max(self.most, len(event.data or b""))
            self.unread.append((event.flow_controlled_length or 0, stream))
            if self.reads:
                self.read()
        elif isinstance(event, StreamEnded):
            seen.ended = True
        elif isinstance(event, StreamReset):
            seen.reset = int(event.error_code or 0)

    def read(self) -> None:
        """Take in what was received, so that its sender gets credit."""
        for size, stream in self.unread:
            if size:
                self.h2.acknowledge_received_data(size, stream)
        self.unread.clear()

    def end_of(self, stream: int) -> tuple[int | None, str]:
        """Return the status and the message with which a call ended; None: it did not."""
        seen = self.seen.get(stream, Seen())
        fields = seen.trailers or seen.headers
        if not seen.ended or b"grpc-status" not in fields:
            return None, ""
        return int(fields[b"grpc-status"]), fields.get(b"grpc-message", b"").decode()


@attrs.define
class Owner:
    """Decides as it is told, and remembers what it was asked.

    :ivar forbidden: Paths that are refused.
    :ivar decide: Called with each held request, if it is there.
    :ivar holds: Whether answers are held.
    """

    forbidden: tuple[str, ...] = ()
    decide: Callable[[Call, BuildRequest | BadGrpcError], None] | None = None
    holds: bool = False
    opens: list[tuple[str, str]] = attrs.field(factory=list)
    requests: list[tuple[Call, BuildRequest | BadGrpcError]] = attrs.field(factory=list)
    outcomes: list[tuple[Call, BuildOutcome]] = attrs.field(factory=list)
    failures: list[BadFrameError] = attrs.field(factory=list)

    def opened(self, path: str, build: str) -> str:
        self.opens.append((path, build))
        return f"{path} is not for you, 100 % sure; ask för it" if path in self.forbidden else ""

    def requested(self, call: Call, request: BuildRequest | BadGrpcError) -> None:
        self.requests.append((call, request))
        if self.decide is not None:
            self.decide(call, request)

    def finished(self, call: Call, outcome: BuildOutcome) -> bool:
        self.outcomes.append((call, outcome))
        return self.holds

    def failed(self, error: BadFrameError) -> None:
        self.failures.append(error)


class Link:
    """A client and an engine with a mediator between them.

    :param cut: How many bytes at most arrive at once; 0: all.
    """

    def __init__(self, cut: int = 0, steps: frozenset[BuildStep] = frozenset(BuildStep)) -> None:
        self.client, self.engine, self.owner = Peer(True), Peer(False), Owner()
        self.mediator = Mediator(self.owner, steps)
        self.cut = cut
        self._streams = count(1, 2)

    def pump(self) -> None:
        """Move bytes until nobody has any."""
        moved = True
        while moved:
            moved = False
            for side, feed in (
                (self.client, self.mediator.client_data),
                (self.engine, self.mediator.engine_data),
            ):
                data = side.h2.data_to_send()
                step = self.cut or max(1, len(data))
                for place in range(0, len(data), step):
                    feed(data[place : place + step])
                    self._deliver()
                moved |= bool(data)
            moved |= self._deliver()

    def _deliver(self) -> bool:
        to_client, to_engine = self.mediator.for_client(), self.mediator.for_engine()
        if to_client:
            self.client.receive(to_client)
        if to_engine:
            self.engine.receive(to_engine)
        return bool(to_client or to_engine)

    def open(self, path: str, build: str = "", ends: bool = False, more: Sequence[tuple[str, str]] = ()) -> int:
        """Have the client open a call; return its stream."""
        stream = next(self._streams)
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        if build:
            fields.append(("buildkit-controlapi-buildid", build))
        self.client.h2.send_headers(stream, [*fields, *more], end_stream=ends)
        return stream

    def send(self, stream: int, data: bytes, ends: bool = True) -> None:
        """Have the client send DATA, as fast as it may; fails if it never may."""
        h2 = self.client.h2
        while data:
            room = min(h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
            if room <= 0:
                self.pump()
                room = min(h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
                if room <= 0:
                    raise AssertionError(f"the client may send no more, and has {len(data)} bytes left")
            piece, data = data[:room], data[room:]
            h2.send_data(stream, piece, end_stream=ends and not data)
        self.pump()

    def call(self, path: str, message: bytes, build: str = "") -> int:
        """Have the client make a call with one message; return its stream."""
        stream = self.open(path, build)
        self.send(stream, prefixed(message))
        return stream

    def answer(self, stream: int, message: bytes | None = b"", status: int = 0, text: str = "") -> None:
        """Have the engine answer."""
        h2 = self.engine.h2
        h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        data = b"" if message is None else prefixed(message)
        for place in range(0, len(data), frames.DEFAULT_FRAME):
            h2.send_data(stream, data[place : place + frames.DEFAULT_FRAME])
        trailers = [("grpc-status", str(status))]
        h2.send_headers(stream, [*trailers, ("grpc-message", text)] if text else trailers, end_stream=True)
        self.pump()
