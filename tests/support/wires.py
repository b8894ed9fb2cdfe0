"""In-memory wires with half-close, flow control and hang-ups: playbooks for conversations, without sockets.

A `MemoryWire` is what a conversation holds. Its `far` end is what a test plays: it sends, receives, half-closes,
leaves, or stops reading. Bytes are handed over as views of memory that is overwritten afterwards, as real wires do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.task import Clock

from docker_tracker.config import Limits
from docker_tracker.errors import EngineUnavailableError
from docker_tracker.exchange import Peer
from docker_tracker.proxy.conversation import Conversation, Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.pipe import Pipe, Pipes
from docker_tracker.proxy.plan import Named, Plan
from docker_tracker.proxy.poller import Poller
from docker_tracker.proxy.wire import NOBODY, Bytes, Receiver, Wire


class MemoryWire:
    """One end of a connection, and (as methods without underscore-free twins) what its far end does.

    :param clock: For timers.
    :param room: How many bytes the far end takes before ours are queued; None: without end.
    """

    def __init__(self, clock: Clock, tells_hangups: bool = True) -> None:
        self.receiver: Receiver = NOBODY
        self.queued = 0
        self.input_ended = False
        self.connecting = False
        self.tells_hangups = tells_hangups
        self.splices = False
        self.paused = False
        self.closed = False
        self.aborted = False
        self.lingered = False
        self.ended = False
        self.most_queued = 0
        self._clock = clock
        self._room: int | None = None
        self._queue = bytearray()
        self._arrived = bytearray()
        self._waiting: list[bytes | None] = []
        self._ending = False
        self._closing = False
        self._reads = True
        self._gone = False
        self._watcher: Callable[[], None] | None = None

    # What the conversation calls

    def write(self, data: Bytes) -> None:
        """See `Wire.write`."""
        if self.closed or self._ending or not self._reads:
            if not self._reads and not self.closed and not self._ending:
                self._break()
            return
        self._queue += data
        self._move()

    def divert(self, most: int) -> None:
        """See `Wire.divert`: there is no kernel in memory."""

    def write_pipe(self, pipe: Pipe) -> None:
        """See `Wire.write_pipe`."""
        raise NotImplementedError

    def pause(self) -> None:
        """See `Wire.pause`."""
        self.paused = True

    def resume(self) -> None:
        """See `Wire.resume`."""
        if self.paused:
            self.paused = False
            self._clock.callLater(0, self._deliver)

    def end(self) -> None:
        """See `Wire.end`."""
        self._ending = True
        self._move()

    def close(self, linger: bool = False) -> None:
        """See `Wire.close`."""
        if not self._closing:
            self._closing = True
            self.lingered = linger
            self.receiver = NOBODY
            self._ending = True
            self._move()

    def abort(self) -> None:
        """See `Wire.abort`."""
        if not self.closed:
            self.aborted = self.closed = True
            self.receiver = NOBODY
            self._queue.clear()
            self.queued = 0
            self._watcher = None

    def hung_up(self) -> bool:
        """See `Wire.hung_up`."""
        return self._gone and self.tells_hangups

    def watch_hangup(self, callback: Callable[[], None]) -> None:
        """See `Wire.watch_hangup`."""
        self._watcher = callback

    def set_timer(self, delay: float, callback: Callable[[], object]) -> None:
        """See `Wire.set_timer`."""
        self._clock.callLater(delay, lambda: None if self.closed else callback())

    # What the far end does

    def sends(self, data: bytes) -> None:
        """Bytes come from the far end; they wait while we are paused."""
        self._waiting.append(data)
        self._deliver()

    def half_closes(self) -> None:
        """The far end sends no more."""
        self._waiting.append(None)
        self._deliver()

    def leaves(self) -> None:
        """The far end closes both ways."""
        self._gone, self._reads = True, False
        if self.input_ended:
            watcher, self._watcher = self._watcher, None
            if watcher is not None and self.tells_hangups:
                watcher()
        else:
            self.half_closes()

    def stops_reading(self) -> None:
        """The far end refuses what comes (a reset follows what we write)."""
        self._reads = False

    def resets(self) -> None:
        """The connection breaks."""
        receiver = self.receiver
        self.abort()
        receiver.lost(ConnectionResetError(104, "Connection reset by peer"))

    def takes(self, count: int | None) -> None:
        """The far end reads so many bytes more, or (None) all that comes from now on."""
        self._room = count
        self._move()

    @property
    def received(self) -> bytes:
        """All that came to the far end since the last look."""
        data = bytes(self._arrived)
        self._arrived.clear()
        return data

    # Inside

    def _deliver(self) -> None:
        while self._waiting and not self.paused and not self.closed and not self.input_ended:
            data = self._waiting.pop(0)
            if data is None:
                self.input_ended = True
                self.receiver.ended()
            else:
                buffer = bytearray(data)
                self.receiver.data(memoryview(buffer))
                buffer[:] = b"\xa5" * len(buffer)

    def _break(self) -> None:
        self._queue.clear()
        self.queued = 0
        self.receiver.broken()

    def _move(self) -> None:
        had = self.queued
        size = len(self._queue) if self._room is None else min(self._room, len(self._queue))
        self._arrived += self._queue[:size]
        del self._queue[:size]
        if self._room is not None:
            self._room -= size
        self.queued = len(self._queue)
        self.most_queued = max(self.most_queued, self.queued)
        if self.queued:
            return
        if self._ending and not self.ended:
            self.ended = True
        if self._closing:
            self.closed = True
            self._watcher = None
        elif had:
            self.receiver.drained()


class MemoryHub:
    """A `docker_tracker.proxy.hub.Hub` without descriptors."""

    def __init__(self, clock: Clock) -> None:
        self.reactor = clock
        self.conversations: set[Conversation] = set()
        self.pipes = Pipes()
        self.poller = Poller(clock)  # type: ignore[arg-type]
        self._exchanges = 0

    def next_exchange(self) -> int:
        """See `Hub.next_exchange`."""
        self._exchanges += 1
        return self._exchanges

    def wire_opened(self, wire: Wire) -> None:
        """Not used: memory wires are not registered."""

    wire_closed = wire_opened


class MemoryDialler:
    """A `docker_tracker.proxy.dial.Dialler` whose engine is a memory wire."""

    address = "unix:///engine.sock"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.wires: list[MemoryWire] = []
        self.absent = False
        self.connecting = False

    def dial(self, receiver: Receiver) -> MemoryWire:
        """See `Dialler.dial`."""
        if self.absent:
            raise self.unavailable("No such file or directory")
        wire = MemoryWire(self._clock)
        wire.receiver = receiver
        wire.connecting = self.connecting
        self.wires.append(wire)
        return wire

    def unavailable(self, reason: str) -> EngineUnavailableError:
        """See `Dialler.unavailable`."""
        return EngineUnavailableError(f"the engine at {self.address} does not answer: {reason}", 503)


class Wires:
    """A conversation between a client and an engine that a test plays.

    :param interceptors: By name, in order; none: a plain proxy.
    :param limits: Bounds, where a test wants others.
    :param unix: Whether the client's wire tells hang-ups.
    """

    def __init__(self, *interceptors: Named, limits: Limits | None = None, unix: bool = True) -> None:
        self.clock = Clock()
        self.hub = MemoryHub(self.clock)
        self.dialler = MemoryDialler(self.clock)
        self.client = MemoryWire(self.clock, tells_hangups=unix)
        self.entrance = Entrance(
            "unix:///client.sock",
            "1d",
            "default",
            Plan(interceptors),
            cast(Dialler, self.dialler),
            limits or Limits(),
        )
        peer = Peer(pid=1, uid=2, gid=3) if unix else Peer(address="127.0.0.1:1")
        self.conversation = Conversation(self.hub, self.client, self.entrance, peer)  # type: ignore[arg-type]

    @property
    def engine(self) -> MemoryWire:
        """The engine's wire; an error if it was not dialled."""
        return self.dialler.wires[-1]

    @property
    def over(self) -> bool:
        """Whether the conversation is forgotten."""
        return self.conversation not in self.hub.conversations

    def turn(self) -> None:
        """Let the reactor turn once."""
        self.clock.advance(0)
