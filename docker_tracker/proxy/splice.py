"""Two wires joined raw: bytes, flow control, half-close and full close, each way by itself.

Facts that shape it (observed on dockerd; ``daemon/server/httputils/httputils.go`` CloseStreams): at the end of a
hijack the engine only shuts its writing side, and a client that is gone for good must be told from one that has
merely ended its input, or attached streams of killed clients would stay open for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from docker_tracker.errors import RefusedError
from docker_tracker.http1.scanner import Body, LengthBody
from docker_tracker.proxy.pipe import SIZE, WORTH, Pipe
from docker_tracker.proxy.wire import Bytes, Wire

Tap = Callable[[bool, bytes], None]


def spliced(body: Body, source: Wire, sink: Wire) -> int:
    """Return how much of the rest of a body should go through pipes: all of a long one whose length is known."""
    if isinstance(body, LengthBody) and body.remaining >= WORTH and source.splices and sink.splices:
        return body.remaining
    return 0


class _Direction:
    """The receiver of one of the two wires: what comes from it goes to the other."""

    __slots__ = ("_splice", "bytes", "from_client", "peer", "wire")

    def __init__(self, splice: Splice, wire: Wire, peer: Wire, from_client: bool) -> None:
        self._splice = splice
        self.wire, self.peer, self.from_client = wire, peer, from_client
        self.bytes = 0

    def data(self, data: Bytes) -> None:
        """Pass it on; stop reading while the other wire has some of it queued."""
        self.bytes += len(data)
        if self._splice.tap is not None:
            try:
                self._splice.tap(self.from_client, bytes(data))
            except RefusedError:  # a guard that cannot see the stream ends it; it is logged already
                self._splice.finish()
                return
        self.peer.write(data)
        if self.peer.queued:
            self.wire.pause()
        if len(data) >= WORTH and self._splice.tap is None and self.wire.splices and self.peer.splices:
            self.wire.divert(SIZE)

    def piped(self, pipe: Pipe) -> None:
        """Pass it on; go back to copying when it is little: then a pipe costs more than it saves."""
        size = pipe.length
        self.bytes += size
        self.peer.write_pipe(pipe)
        if self.peer.queued:
            self.wire.pause()
        if size < WORTH:
            self.wire.divert(0)

    def drained(self) -> None:
        """Our wire took all that its peer sent: the peer may send on."""
        self.peer.resume()

    def ended(self) -> None:
        """Pass the half-close on, or the full close if it is one."""
        self._splice.side_ended(self)

    def broken(self) -> None:
        """Our wire's end reads no more: without a reader of its own a client's stream is over."""
        self._splice.side_broken(self)

    def lost(self, error: OSError) -> None:
        """Our wire is gone."""
        self._splice.finish()


class Splice:
    """Joins a client's wire and an engine's until both are done.

    :param grace: How long a client may stay after the engine ended its output, and an engine may take what one left
        for it, in seconds.
    :param tap: Told of the bytes each way; None: nobody listens. What it refuses (`RefusedError`) is not passed on.
    :param on_finished: Called once, with the bytes from the client and to it.
    """

    __slots__ = ("_client", "_engine", "_finished", "_grace", "_on_finished", "tap")

    def __init__(
        self,
        client: Wire,
        engine: Wire,
        grace: float,
        tap: Tap | None,
        on_finished: Callable[[int, int], None],
    ) -> None:
        self.tap = tap
        self._grace, self._on_finished = grace, on_finished
        self._client = _Direction(self, client, engine, True)
        self._engine = _Direction(self, engine, client, False)
        self._finished = False

    def begin(self, from_client: bytes) -> None:
        """Take over both wires; ``from_client`` is what the client sent behind its request."""
        client, engine = self._client.wire, self._engine.wire
        client.receiver, engine.receiver = self._client, self._engine
        client.divert(0)
        engine.divert(0)
        if from_client:
            self._client.data(from_client)
        if not engine.queued:
            client.resume()
        if client.queued:
            engine.pause()
        else:
            engine.resume()
        for direction in (self._client, self._engine):
            if direction.wire.input_ended and not self._finished:
                self.side_ended(direction)

    def side_ended(self, side: _Direction) -> None:
        """One wire's input ended: half-close the other, or end all if it was a full close."""
        if side.wire.hung_up() or side.peer.input_ended:
            self.finish()
            return
        side.peer.end()
        side.wire.watch_hangup(self.finish)
        if not side.from_client:
            # The engine is done. A client that never leaves would hold both descriptors for ever.
            side.peer.set_timer(self._grace, self.finish)

    def side_broken(self, side: _Direction) -> None:
        """One wire's writes fail: a client is gone; an engine may still have output for us."""
        if side.from_client:
            self.finish()
        else:
            side.peer.resume()  # its bytes go nowhere from now on, but its end must be seen

    def finish(self) -> None:
        """Flush and close both wires; tell it once."""
        if not self._finished:
            self._finished = True
            self._client.wire.close(linger=not self._client.wire.input_ended)
            self._engine.wire.close()
            self._engine.wire.set_timer(self._grace, self._engine.wire.abort)
            self._on_finished(self._client.bytes, self._engine.bytes)
