"""Wires on real sockets: sending at once, queues, half-close, hang-ups and every way to end."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.pipe import SIZE, Pipe, Pipes
from docker_tracker.proxy.wire import LINGER, NOBODY, Bytes, SocketWire
from tests.support.hand_reactor import HandReactor

MANY = b"x" * 4_000_000  # more than any socket's buffers here take


class Notes:
    """A receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.seen: list[str] = []

    def data(self, data: Bytes) -> None:
        self.received += data

    def piped(self, pipe: Pipe) -> None:
        self.seen.append(f"piped {pipe.length}")
        pipe.close()

    def ended(self) -> None:
        self.seen.append("ended")

    def drained(self) -> None:
        self.seen.append("drained")

    def broken(self) -> None:
        self.seen.append("broken")

    def lost(self, error: OSError) -> None:
        self.seen.append(f"lost {errno.errorcode.get(error.errno or 0)}")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


class WireTestCase(SynchronousTestCase):
    """A wire, and the far end of its socket."""

    def setUp(self) -> None:
        self.reactor = HandReactor()
        self.hub = Hub(self.reactor)  # type: ignore[arg-type]
        self.addCleanup(self.hub.poller.close)

    def wire(self, pair: tuple[socket.socket, socket.socket] | None = None) -> tuple[SocketWire, socket.socket, Notes]:
        """Return a wire with its notes, and the far end, which does not block."""
        near, far = pair or socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self.addCleanup(far.close)
        wire = SocketWire(self.hub, near, near.family == socket.AF_UNIX)
        self.addCleanup(wire.abort)
        notes = Notes()
        wire.receiver = notes
        return wire, far, notes

    def drain(self, far: socket.socket) -> int:
        """Read what is there at the far end; return how many bytes it was."""
        total = 0
        try:
            while data := far.recv(1_000_000):
                total += len(data)
        except BlockingIOError:
            pass
        return total


class DataTests(WireTestCase):
    """Bytes, both ways."""

    def test_sent_at_once(self) -> None:
        """What fits goes out without waiting for the reactor."""
        wire, far, _ = self.wire()
        wire.write(b"abc")
        self.assertEqual(far.recv(9), b"abc")
        self.assertEqual(wire.queued, 0)

    def test_received(self) -> None:
        """What comes is told; nothing is told when nothing came."""
        wire, far, notes = self.wire()
        wire.read()
        far.send(b"abc")
        self.reactor.turn()
        self.assertEqual(notes.received, b"abc")
        self.assertEqual(notes.seen, [])

    def test_queued(self) -> None:
        """What does not fit is queued, in order, and told when it is gone."""
        wire, far, notes = self.wire()
        wire.write(MANY)
        self.assertTrue(0 < wire.queued < len(MANY))
        buffer = bytearray(b"end")
        wire.write(memoryview(buffer))
        buffer[:] = b"???"  # the queue has a copy
        got = bytearray()
        while wire.queued:
            self.assertEqual(notes.seen, [])
            got += far.recv(1_000_000)
            self.reactor.turn()
        with contextlib.suppress(BlockingIOError):
            while True:
                got += far.recv(1_000_000)
        self.assertEqual((len(got), bytes(got[-3:])), (len(MANY) + 3, b"end"))
        self.assertEqual(notes.seen, ["drained"])

    def test_full_socket(self) -> None:
        """A socket that takes nothing at all is waited for."""
        wire, far, _ = self.wire()
        wire.write(MANY)
        queued = wire.queued
        wire.flush()
        self.assertEqual(wire.queued, queued)
        self.drain(far)
        wire.flush()
        self.assertLess(wire.queued, queued)

    def test_paused(self) -> None:
        """While paused, what comes waits."""
        wire, far, notes = self.wire()
        wire.pause()
        wire.pause()
        far.send(b"abc")
        self.reactor.turn()
        self.assertEqual(notes.received, b"")
        self.assertFalse(self.reactor.busy)
        wire.resume()
        wire.resume()
        self.reactor.turn()
        self.assertEqual(notes.received, b"abc")


class EndTests(WireTestCase):
    """Half-close, full close, and breaks."""

    def test_half_close_of_the_far_end(self) -> None:
        """Its end is told once, and our way stays open."""
        wire, far, notes = self.wire()
        far.send(b"abc")
        far.shutdown(socket.SHUT_WR)
        self.reactor.turn(3)
        self.assertEqual((bytes(notes.received), notes.seen), (b"abc", ["ended"]))
        self.assertTrue(wire.input_ended)
        self.assertFalse(wire.hung_up())
        wire.write(b"late")
        self.assertEqual(far.recv(9), b"late")
        wire.resume()
        self.assertFalse(self.reactor.busy)

    def test_our_half_close(self) -> None:
        """The far end sees the end behind all that was queued; we still receive."""
        wire, far, notes = self.wire()
        wire.write(MANY)
        wire.end()
        wire.end()
        wire.write(b"dropped")
        total = 0
        while wire.queued:
            total += len(far.recv(1_000_000))
            self.reactor.turn()
        self.assertEqual(total + self.drain(far), len(MANY))
        self.assertEqual(far.recv(1), b"")
        far.send(b"late")
        self.reactor.turn()
        self.assertEqual(notes.received, b"late")

    def test_end_of_a_dead_connection(self) -> None:
        """Shutting what is gone already is no error."""
        wire, far, notes = self.wire(tcp_pair())
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        wire.end()
        self.reactor.turn()
        self.assertEqual(notes.seen[-1], "lost ECONNRESET")

    def test_hang_up(self) -> None:
        """A unix peer that closes is known at once; one that half-closed is watched until it does."""
        wire, far, notes = self.wire()
        self.assertTrue(wire.tells_hangups)
        far.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        gone: list[int] = []
        wire.watch_hangup(lambda: gone.append(1))
        wire.watch_hangup(lambda: gone.append(2))
        self.reactor.turn()
        self.assertEqual(gone, [])
        far.close()
        self.assertTrue(wire.hung_up())
        self.reactor.turn(2)
        self.assertEqual(gone, [2])
        self.assertEqual(notes.seen, ["ended"])
        self.assertFalse(self.reactor.busy)
        wire.watch_hangup(lambda: gone.append(3))
        self.reactor.turn()
        self.assertEqual(gone, [2, 3])

    def test_watch_ends_with_the_wire(self) -> None:
        """A wire that is closed is watched no more, and watching a closed one does nothing."""
        wire, far, _ = self.wire()
        other, other_far, _ = self.wire()
        gone: list[int] = []
        wire.watch_hangup(lambda: gone.append(1))
        other.watch_hangup(lambda: gone.append(2))
        wire.abort()
        wire.watch_hangup(lambda: gone.append(3))
        far.close()
        other_far.close()
        other.pause()
        self.reactor.turn(2)
        self.assertEqual(gone, [2])
        self.assertTrue(wire.hung_up())

    def test_tcp_does_not_tell(self) -> None:
        """Over TCP one FIN stands for both."""
        wire, far, _ = self.wire(tcp_pair())
        self.assertFalse(wire.tells_hangups)
        far.close()
        self.reactor.turn()
        self.assertFalse(wire.hung_up())

    def test_reset(self) -> None:
        """A break is told with its reason, and the descriptor is closed."""
        wire, far, notes = self.wire(tcp_pair())
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        self.reactor.turn()
        self.assertEqual(notes.seen, ["lost ECONNRESET"])
        self.assertEqual(wire.fileno(), -1)
        self.assertEqual(self.hub.wires, set())

    def test_far_end_reads_no_more(self) -> None:
        """Writing breaks, once; what the far end had sent is still read."""
        wire, far, notes = self.wire()
        far.send(b"last words")
        far.close()
        wire.write(b"x")
        wire.write(b"y")
        self.assertEqual(notes.seen, ["broken"])
        self.reactor.turn()
        self.assertEqual(notes.received, b"last words")
        self.reactor.turn()
        self.assertEqual(notes.seen[-1], "ended")

    def test_break_while_queued(self) -> None:
        """So it does when the reactor sees a hang-up while we wait to write and have paused reading."""
        for paused in (True, False):
            wire, far, notes = self.wire()
            far.send(b"last words")
            wire.write(MANY)
            if paused:
                wire.pause()
            far.close()
            self.reactor.turn()
            self.assertIn("broken", notes.seen)
            self.assertEqual(wire.queued, 0)
            wire.resume()
            self.reactor.turn(2)
            self.assertEqual(notes.received, b"last words")
            self.assertEqual(notes.seen[-1], "lost ECONNRESET")  # it left with our bytes unread

    def test_leaves_while_paused(self) -> None:
        """What is not read is watched all the same: once the far end has left, what it sent is read out."""
        wire, far, notes = self.wire()
        wire.pause()
        far.send(b"last words")
        self.reactor.turn()
        self.assertEqual(notes.received, b"")
        far.close()
        self.reactor.turn()
        wire.pause()  # which nobody can any more
        self.reactor.turn(3)
        self.assertEqual((bytes(notes.received), notes.seen), (b"last words", ["ended"]))
        self.assertFalse(self.reactor.busy)

    def test_another_did_not_leave(self) -> None:
        """A hang-up that is not its own (the number may have been another's) does nothing to a wire."""
        wire, far, notes = self.wire()
        wire.pause()
        wire.ready(select.EPOLLHUP)
        far.send(b"abc")
        self.reactor.turn()
        self.assertEqual((bytes(notes.received), notes.seen), (b"", []))

    def test_leaves_with_our_bytes(self) -> None:
        """A far end that ended its input, and leaves while something is queued for it."""
        wire, far, notes = self.wire()
        far.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        wire.write(MANY)
        far.close()
        self.reactor.turn(3)
        self.assertEqual(notes.seen, ["ended", "broken"])
        self.assertFalse(self.reactor.busy)

    def test_failing_receiver(self) -> None:
        """A callback that fails ends its connection, and nothing else: the receiver is told, the descriptor closed."""
        wire, far, notes = self.wire()
        other, other_far, other_notes = self.wire()

        def failing(data: Bytes) -> None:
            raise ValueError("oops")

        notes.data = failing  # type: ignore[method-assign]
        far.send(b"abc")
        other_far.send(b"abc")
        self.reactor.turn()
        self.assertEqual(notes.seen, ["lost EIO"])
        self.assertEqual(wire.fileno(), -1)
        self.assertEqual(self.hub.wires, {other})
        self.assertEqual(other_notes.received, b"abc")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class CloseTests(WireTestCase):
    """Closing tells the receiver nothing more, and closes the descriptor in the end."""

    def test_close(self) -> None:
        """An empty queue closes at once; twice is once."""
        wire, far, notes = self.wire()
        self.assertEqual(self.hub.wires, {wire})
        wire.close()
        wire.close()
        self.assertEqual(wire.fileno(), -1)
        self.assertEqual(far.recv(1), b"")
        self.assertEqual(notes.seen, [])
        self.assertEqual(self.hub.wires, set())

    def test_flushes(self) -> None:
        """What is queued goes out first; what comes meanwhile is not told."""
        for linger in (False, True):
            wire, far, notes = self.wire()
            wire.write(MANY)
            wire.close(linger)
            total = 0
            while wire.fileno() >= 0 and wire.queued:
                total += len(far.recv(1_000_000))
                self.reactor.turn()
            total += self.drain(far)
            self.assertEqual(total, len(MANY))
            self.assertEqual(notes.seen, [])
            wire.abort()

    def test_lingers(self) -> None:
        """A lingering close waits for the far end, whose bytes are dropped."""
        wire, far, notes = self.wire()
        wire.close(linger=True)
        self.assertEqual(far.recv(1), b"")
        far.send(b"still talking")
        self.reactor.turn(2)
        self.assertGreaterEqual(wire.fileno(), 0)
        far.close()
        self.reactor.turn(2)
        self.assertEqual(wire.fileno(), -1)
        self.assertEqual((bytes(notes.received), notes.seen), (b"", []))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_lingers_for_a_while(self) -> None:
        """But not for ever, whatever timer was set before."""
        wire, _, _ = self.wire()
        wire.set_timer(1000, self.fail)
        wire.close(linger=True)
        self.reactor.advance(LINGER)
        self.assertEqual(wire.fileno(), -1)

    def test_no_need_to_linger(self) -> None:
        """Nor if the far end has ended, before or while we flush."""
        wire, far, _ = self.wire()
        far.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        wire.close(linger=True)
        self.assertEqual(wire.fileno(), -1)
        wire, far, _ = self.wire()
        wire.write(MANY)
        wire.close(linger=True)
        far.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertGreaterEqual(wire.fileno(), 0)
        while wire.fileno() >= 0:
            self.drain(far)
            self.reactor.turn()

    def test_breaks_while_closing(self) -> None:
        """A far end that is gone ends it."""
        for linger in (False, True):
            wire, far, notes = self.wire()
            wire.write(MANY)
            wire.close(linger)
            far.close()
            self.reactor.turn(3)
            self.assertEqual(wire.fileno(), -1)
            self.assertEqual(notes.seen, [])

    def test_abort(self) -> None:
        """An abort drops what is queued, at once, and can be said again."""
        wire, _, notes = self.wire()
        wire.write(MANY)
        wire.set_timer(1, lambda: notes.seen.append("timer"))
        wire.abort()
        wire.abort()
        wire.close()
        self.reactor.advance(2)
        self.assertEqual((wire.queued, wire.fileno(), notes.seen), (0, -1, []))
        self.assertEqual(len(self.hub.poller), 0)

    def test_timer(self) -> None:
        """A timer can be set again, and is called once."""
        wire, _, notes = self.wire()
        wire.set_timer(1, lambda: notes.seen.append("first"))
        wire.set_timer(2, lambda: notes.seen.append("second"))
        self.reactor.advance(2)
        self.reactor.advance(2)
        self.assertEqual(notes.seen, ["second"])

    def test_failure_while_closing(self) -> None:
        """Nobody is told of what happens to a wire that was given up."""
        wire, far, notes = self.wire(tcp_pair())
        wire.close(linger=True)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        self.reactor.turn()
        self.assertEqual((wire.fileno(), notes.seen), (-1, []))

    def test_nobody(self) -> None:
        """The receiver of closing wires takes everything."""
        NOBODY.data(b"x")
        NOBODY.lost(OSError())
        NOBODY.ended()


class Passing(Notes):
    """A receiver that passes all that comes to another wire, as conversations do."""

    def __init__(self, source: SocketWire, sink: SocketWire) -> None:
        super().__init__()
        self.source, self.sink = source, sink
        self.pieces: list[int] = []

    def piped(self, pipe: Pipe) -> None:
        self.pieces.append(pipe.length)
        self.sink.write_pipe(pipe)
        if self.sink.queued:
            self.source.pause()


class PipeTests(WireTestCase):
    """Bytes that go from socket to socket within the kernel."""

    def joined(self) -> tuple[socket.socket, socket.socket, SocketWire, SocketWire, Passing, Notes]:
        """Return a sending far end, a receiving one, the wires between them, and their receivers."""
        source, sending, _ = self.wire()
        sink, receiving, notes = self.wire()
        passing = Passing(source, sink)
        source.receiver = passing
        self.addCleanup(self.hub.pipes.close)
        return sending, receiving, source, sink, passing, notes

    def test_passed(self) -> None:
        """All arrives, in order; pipes are borrowed only while bytes are in them."""
        sending, receiving, source, sink, passing, _ = self.joined()
        source.divert(10)
        sending.send(b"x" * 10 + b"rest")
        self.reactor.turn()
        self.assertEqual((passing.pieces, receiving.recv(99)), ([10], b"x" * 10))
        self.assertEqual(len(self.hub.pipes._kept), 1)
        source.divert(0)
        self.reactor.turn()
        self.assertEqual(passing.received, b"rest")
        source.divert(SIZE)
        source.read()
        sending.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual(passing.seen, ["ended"])
        self.assertEqual(len(self.hub.pipes._kept), 1)
        self.assertEqual(sink.queued, 0)

    def test_slow_sink(self) -> None:
        """What does not fit waits in the pipe, behind what was queued and before what comes after."""
        sending, receiving, source, sink, _, notes = self.joined()
        sink.write(MANY)
        source.divert(SIZE)
        sending.send(b"piped")
        self.reactor.turn()
        sink.write(b"after")
        self.assertFalse(source._reading)
        got = bytearray()
        while sink.queued:
            got += receiving.recv(1_000_000)
            self.reactor.turn()
        while True:
            try:
                got += receiving.recv(1_000_000)
            except BlockingIOError:
                break
        self.assertEqual((len(got), bytes(got[-10:])), (len(MANY) + 10, b"pipedafter"))
        self.assertEqual(notes.seen, ["drained"])
        self.assertEqual(len(self.hub.pipes._kept), 1)

    def test_much(self) -> None:
        """More than the sink takes at once stays in the pipe and follows."""
        sending, receiving, source, sink, passing, _ = self.joined()
        source.divert(len(MANY))
        sent = total = 0
        while total < len(MANY):
            with contextlib.suppress(BlockingIOError):
                sent += sending.send(MANY[sent : sent + 300_000]) if sent < len(MANY) else 0
            self.reactor.turn()
            total += self.drain(receiving)
            if not sink.queued:
                source.resume()
        self.assertEqual(sum(passing.pieces), len(MANY))
        self.assertEqual(sink.queued, 0)

    def test_sink_breaks(self) -> None:
        """A pipe with bytes for nobody is closed, whenever the sink breaks."""
        for when in ("before", "at once", "queued", "ended"):
            sending, receiving, source, sink, _, notes = self.joined()
            if when == "queued":
                sink.write(MANY)
            elif when == "ended":
                sink.end()
            else:
                receiving.close()
                if when == "before":
                    sink.write(b"x")
            source.divert(SIZE)
            sending.send(b"piped")
            self.reactor.turn()
            if when == "queued":
                receiving.close()
                self.reactor.turn()
            self.assertEqual(sink.queued, 0)
            expected = {"queued": "lost ECONNRESET", "ended": "drained"}.get(when, "broken")
            self.assertIn(expected, notes.seen, when)
            self.assertEqual(self.hub.pipes._kept, [])

    def test_source_breaks(self) -> None:
        """A source that breaks is lost, as without a pipe."""
        source, far, notes = self.wire(tcp_pair())
        source.divert(SIZE)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        self.reactor.turn()
        self.assertEqual(notes.seen, ["lost ECONNRESET"])
        self.hub.pipes.close()

    def test_no_pipes(self) -> None:
        """Without descriptors for a pipe, and with a kernel that does not splice, bytes are copied."""
        source, far, notes = self.wire()
        far.send(b"abc")

        def no_pipe(*_: object) -> tuple[int, int]:
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(os, "pipe2", no_pipe)
        source.divert(SIZE)
        self.reactor.turn(2)
        self.assertEqual(notes.received, b"abc")

    def test_no_splicing(self) -> None:
        """A kernel that does not splice is asked once."""
        source, far, notes = self.wire()
        far.send(b"abc")

        def no_splice(*_: object, **__: object) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        self.patch(os, "splice", no_splice)
        source.divert(SIZE)
        self.reactor.turn(2)
        self.assertEqual(notes.received, b"abc")
        self.assertFalse(self.hub.pipes.usable)
        other, _, _ = self.wire()
        self.assertFalse(other.splices)
        self.hub.pipes.close()

    def test_kept(self) -> None:
        """Some empty pipes are kept; all are closed in the end."""
        pipes = Pipes()
        before = len(os.listdir("/proc/self/fd"))
        taken = [pipes.take() for _ in range(40)]
        for pipe in taken:
            assert pipe is not None
            self.assertEqual(len(pipe), 0)
            pipes.give(pipe)
        self.assertGreater(len(os.listdir("/proc/self/fd")), before)
        self.assertLess(len(pipes._kept), 40)
        pipes.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class HubTests(WireTestCase):
    """Stopping waits for what is open, for a bounded time."""

    def test_nothing_open(self) -> None:
        """It is immediate when nothing is open."""
        self.successResultOf(Deferred.fromCoroutine(self.hub.stop(5)))

    def test_waits(self) -> None:
        """Wires that close by themselves are waited for."""
        wire, far, _ = self.wire()
        wire.close(linger=True)
        stopped = Deferred.fromCoroutine(self.hub.stop(5))
        self.assertNoResult(stopped)
        far.close()
        self.reactor.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_deadline(self) -> None:
        """Others are aborted at the deadline."""
        wire, _, _ = self.wire()
        stopped = Deferred.fromCoroutine(self.hub.stop(5))
        self.reactor.advance(5)
        self.successResultOf(stopped)
        self.assertEqual(wire.fileno(), -1)

    def test_exchanges_are_numbered(self) -> None:
        """No two have the same number."""
        self.assertEqual([self.hub.next_exchange() for _ in range(3)], [1, 2, 3])
