"""One end of a connection on our own descriptor: sends at once, queues what does not fit, half-closes.

Twisted's own transports are not used for the traffic: they cost an ``epoll_ctl`` and a turn of the reactor for each
write, and lose an answer that arrives while an upload is being refused. `docker_tracker.proxy.poller` tells when a
descriptor is ready.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime

from docker_tracker.proxy.pipe import SIZE, WORTH, Pipe, Pipes
from docker_tracker.proxy.poller import Poller

Bytes = bytes | bytearray | memoryview

#: Shared by all wires of the process: what is read is acted on before the next read.
_BUFFER = bytearray(1024 * 1024)
_VIEW = memoryview(_BUFFER)

#: What a wire waits for that is not with the poller; such a one is not even told that the other end leaves.
_UNWATCHED = -1
_IN, _OUT, _LEFT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR

# socket(7); Python has no name for it.
_SO_SNDBUFFORCE = 32

#: How long a closing connection is read on, so that its last answer is not lost to a reset, in seconds.
LINGER = 2.0


class IReactor(IReactorFDSet, IReactorTime):
    """What we need of a reactor."""


class Board(Protocol):
    """What all wires of a process share; `docker_tracker.proxy.hub.Hub` is it."""

    reactor: IReactor
    poller: Poller
    pipes: Pipes

    def wire_opened(self, wire: Wire) -> None:
        """A descriptor is ours from now on."""

    def wire_closed(self, wire: Wire) -> None:
        """A descriptor was closed."""


class Receiver(Protocol):
    """Whoever a wire tells what happened at its other end."""

    def data(self, data: Bytes) -> None:
        """Bytes came; ``data`` is valid during the call only."""

    def piped(self, pipe: Pipe) -> None:
        """Bytes came into a pipe, after `Wire.divert` had asked for that; hand it to `Wire.write_pipe`."""

    def ended(self) -> None:
        """The other end sends no more (it may still read). No `data` follows."""

    def drained(self) -> None:
        """All that was queued is sent."""

    def broken(self) -> None:
        """The other end reads no more; what was queued is dropped. What it sent can still be read."""

    def lost(self, error: OSError) -> None:
        """The connection is gone: no `data` follows, and what is written goes nowhere."""


class Wire(Protocol):
    """What conversations and splices know of a connection."""

    receiver: Receiver
    queued: int
    input_ended: bool
    connecting: bool
    tells_hangups: bool
    #: Whether its bytes may go through pipes: `divert` and `write_pipe` work.
    splices: bool

    def write(self, data: Bytes) -> None:
        """Send, or queue what cannot be sent now; the caller stops its source while `queued` is not 0.

        What is written to a wire that is ended or closed goes nowhere.
        """

    def divert(self, most: int) -> None:
        """Let up to so many bytes come through pipes, to `Receiver.piped`; 0: none any more."""

    def write_pipe(self, pipe: Pipe) -> None:
        """Send what is in a pipe, behind what is queued, and give the pipe back."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read again."""

    def end(self) -> None:
        """Send no more: once all is flushed the other end sees the end of its input."""

    def close(self, linger: bool = False) -> None:
        """Flush, then close; tell the receiver nothing more. ``linger``: wait for the other end to leave first."""

    def abort(self) -> None:
        """Close now; drop what is queued; tell the receiver nothing more."""

    def hung_up(self) -> bool:
        """Whether the other end is known to be closed both ways; False where that cannot be known."""

    def watch_hangup(self, callback: Callable[[], None]) -> None:
        """Have a callback called once when the other end has left for good; for a wire whose input ended."""

    def set_timer(self, delay: float, callback: Callable[[], object]) -> None:
        """Have a callback called after ``delay`` seconds, unless the wire is connected, closed or set again before."""


class _Nobody:
    """The receiver of a wire that is closing."""

    def data(self, data: Bytes) -> None:
        """Drop it."""

    def ended(self) -> None:
        """Expected."""

    drained = broken = ended

    def piped(self, pipe: Pipe) -> None:
        """Nothing is diverted to nobody."""
        raise AssertionError

    def lost(self, error: OSError) -> None:
        """Expected."""


NOBODY = _Nobody()


class SocketWire:
    """A connected stream socket. It reads from the start; set `receiver` before the reactor's next turn.

    :param board: What it shares with all others.
    :param sock: Non-blocking; owned by the wire from now on.
    :param unix: Whether it is a unix socket (whoever made it knows; to ask it takes longer than to read from it).
    :param connecting: Not connected yet: what is written is queued until `connected`.
    """

    __slots__ = (
        "_board",
        "_closing",
        "_diverted",
        "_end_said",
        "_ending",
        "_last_read",
        "_linger",
        "_on_left",
        "_queue",
        "_reading",
        "_socket",
        "_timer",
        "_watched",
        "_wide",
        "_write_broken",
        "_writing",
        "connecting",
        "input_ended",
        "queued",
        "receiver",
        "splices",
        "tells_hangups",
    )

    def __init__(self, board: Board, sock: socket.socket, unix: bool, connecting: bool = False) -> None:
        self._board = board
        self.receiver: Receiver = NOBODY
        self.queued = 0
        self.input_ended = False
        #: A unix peer that closes both ways can be told from one that half-closes; a TCP peer sends one FIN for both.
        self.tells_hangups = unix
        self._socket: socket.socket | None = sock
        self.splices = board.pipes.usable
        self._diverted = 0
        self._wide = False
        self._queue: list[Bytes | Pipe] = []
        self._reading = False
        self._writing = False
        self._ending = False
        self._end_said = False
        self._closing = False
        self._linger = False
        self._last_read = False
        self._write_broken = False
        self._timer: IDelayedCall | None = None
        self._on_left: Callable[[], None] | None = None
        self._watched = _UNWATCHED
        self.connecting = connecting
        board.wire_opened(self)
        if not connecting:
            self._set_reading(True)

    # What the poller calls

    def ready(self, events: int) -> None:
        """See `Watcher.ready`."""
        if events & _IN:
            if self._reading:
                self.read()
        elif events & _LEFT:
            self._left()
            return
        if events & _OUT and self._writing:
            self.flush()

    def failed(self, error: Exception) -> None:
        """See `Watcher.failed`: the connection ends."""
        self.fail(OSError(errno.EIO, f"docker-tracker failed: {error!r}"))

    def read(self) -> None:
        """Take what is there, once."""
        assert self._socket is not None
        if self._diverted:
            self._splice()
            return
        try:
            size = self._socket.recv_into(_BUFFER, self._board.poller.share)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.fail(error)
            return
        if size:
            self.receiver.data(_VIEW[:size])
        else:
            self._input_end()

    def flush(self) -> None:
        """Send what is queued, or learn how connecting went."""
        assert self._socket is not None
        if self.connecting:
            failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self.fail(OSError(failure, os.strerror(failure)))
                return
            self.connected()
        queue = self._queue
        while queue:
            data = queue[0]
            length = len(data)
            sent = self._drain(data) if isinstance(data, Pipe) else self._send(data)
            if sent < 0:
                return
            self.queued -= sent
            if sent < length:
                if not isinstance(data, Pipe):
                    queue[0] = memoryview(data)[sent:]
                return
            del queue[0]
            if isinstance(data, Pipe):
                self._board.pipes.give(data)
        self._set_writing(False)
        self._flushed()

    def _left(self) -> None:
        """The other end is gone both ways, and we did not read: act on it once, as it would be reported for ever."""
        if self.connecting:
            self.flush()
            return
        if not self._is_gone():
            return
        callback, self._on_left = self._on_left, None
        if callback is not None:
            callback()
        if self._writing:
            self._break_writing()
        if self._socket is None:
            return
        if self.input_ended:
            self._board.poller.unwatch(self._socket.fileno())
            self._watched = _UNWATCHED
        else:
            # Paused or not, take what is left: it is what sockets hold at most.
            self._last_read = True
            self.resume()

    # What our own side calls

    def fileno(self) -> int:
        """The descriptor, or -1 once it is closed."""
        return -1 if self._socket is None else self._socket.fileno()

    def await_connection(self) -> None:
        """Learn when a connection that is in progress is made or has failed."""
        self._set_writing(True)

    def set_timer(self, delay: float, callback: Callable[[], object]) -> None:
        """Have a callback called after ``delay`` seconds, unless the wire is connected, closed or set again before."""
        self._stop_timer()
        if self._socket is not None:
            self._timer = self._board.reactor.callLater(delay, self._timer_over, callback)

    def connected(self) -> None:
        """The connection is made: read, and send what was queued."""
        self._stop_timer()
        self.connecting = False
        self._set_reading(True)
        self._set_writing(bool(self._queue))

    def fail(self, error: OSError) -> None:
        """Close the descriptor and tell the receiver why."""
        receiver, closing = self.receiver, self._closing
        self.abort()
        if not closing:
            receiver.lost(error)

    def write(self, data: Bytes) -> None:
        """See `Wire.write`."""
        if self._write_broken or self._ending:
            return
        if not self._queue and not self.connecting:
            sent = self._send(data)
            if 0 <= sent < len(data) and len(data) >= WORTH and self._widen():
                data = data[sent:]
                sent = self._send(data)
            if sent < 0 or sent == len(data):
                return
            data = data[sent:]
            self._set_writing(True)
        data = bytes(data)
        self._queue.append(data)
        self.queued += len(data)

    def divert(self, most: int) -> None:
        """See `Wire.divert`."""
        self._diverted = most

    def write_pipe(self, pipe: Pipe) -> None:
        """See `Wire.write_pipe`."""
        if self._write_broken or self._ending:
            self._board.pipes.give(pipe)
            return
        if pipe.length >= WORTH:
            self._widen()
        if not self._queue and self._drain(pipe) < 0:
            self._board.pipes.give(pipe)
            return
        if not pipe.length:
            self._board.pipes.give(pipe)
            return
        self._queue.append(pipe)
        self.queued += pipe.length
        self._set_writing(True)

    def pause(self) -> None:
        """See `Wire.pause`."""
        if self._reading and not self._closing and not self._last_read:
            self._set_reading(False)

    def resume(self) -> None:
        """See `Wire.resume`."""
        if not self._reading and not self.input_ended and not self.connecting and self._socket is not None:
            self._set_reading(True)

    def end(self) -> None:
        """See `Wire.end`."""
        if not self._ending:
            self._ending = True
            if not self._queue:
                self._flushed()

    def close(self, linger: bool = False) -> None:
        """See `Wire.close`."""
        if self._closing or self._socket is None:
            return
        self._closing = True
        self._diverted = 0
        self.receiver = NOBODY
        self._linger = linger
        if linger:
            self.resume()
        else:
            self._reading = False
        self._ending = True
        if not self._queue:
            self._flushed()
        self._watch()

    def abort(self) -> None:
        """See `Wire.abort`."""
        sock = self._socket
        if sock is None:
            return
        self.receiver = NOBODY
        self._on_left = None
        self._closing = self._ending = True
        self._reading = self._writing = False
        self._drop_queue()
        self._stop_timer()
        self._board.poller.closing(sock.fileno())
        self._socket = None
        sock.close()
        self._board.wire_closed(self)

    def hung_up(self) -> bool:
        """See `Wire.hung_up`: unix sockets know it at once; of a TCP peer only a reset tells."""
        return self._is_gone()

    def watch_hangup(self, callback: Callable[[], None]) -> None:
        """Have a callback called once when the other end has left for good; for a wire whose input ended."""
        self._on_left = callback
        self._watch()

    # Inside

    def _is_gone(self) -> bool:
        if self._socket is None:
            return True
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    def _widen(self) -> bool:
        """Let the kernel hold more of what we send in bulk, once: it saves half of the turns. False: it was done."""
        if self._wide or self._socket is None:
            return False
        self._wide = True
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SIZE)
        except PermissionError:  # not root: what net.core.wmem_max allows
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SIZE)
        return True

    def _send(self, data: Bytes) -> int:
        """Return how many bytes went out, or -1: the other end reads no more."""
        assert self._socket is not None
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._break_writing()
            return -1

    def _splice(self) -> None:
        """Take what is there into a pipe, once."""
        assert self._socket is not None
        pipes = self._board.pipes
        pipe = pipes.take()
        if pipe is None:
            self._diverted = 0  # no descriptors: copy
            return
        try:
            size = pipe.fill(self._socket.fileno(), min(self._diverted, self._board.poller.share))
        except (BlockingIOError, InterruptedError):
            pipes.give(pipe)
        except OSError as error:
            pipes.give(pipe)
            if error.errno != errno.EINVAL:
                self.fail(error)
                return
            pipes.usable = self.splices = False  # this kernel does not splice such sockets
            self._diverted = 0
        else:
            if size:
                self.receiver.piped(pipe)
            else:
                pipes.give(pipe)
                self._input_end()

    def _drain(self, pipe: Pipe) -> int:
        """As `_send`, for what is in a pipe."""
        assert self._socket is not None
        try:
            return pipe.drain(self._socket.fileno())
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._break_writing()
            return -1

    def _drop_queue(self) -> None:
        while self._queue:
            data = self._queue.pop()
            if isinstance(data, Pipe):
                self._board.pipes.give(data)
        self.queued = 0

    def _break_writing(self) -> None:
        if self._write_broken:
            return
        self._write_broken = True
        self._drop_queue()
        self._set_writing(False)
        if self._closing:
            self._finish_closing()
        else:
            self.receiver.broken()

    def _flushed(self) -> None:
        """Nothing is queued any more."""
        if self._ending and not self._end_said and not self._write_broken:
            self._end_said = True
            self._say_end()
            if self._queue:
                return
        if self._closing:
            self._finish_closing()
        else:
            self.receiver.drained()

    def _say_end(self) -> None:
        """Tell the other end that no more comes; a close that does not linger says it by itself."""
        assert self._socket is not None
        if self._closing and not self._linger:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # ENOTCONN: it is gone already; reading says so
                raise

    def _finish_closing(self) -> None:
        """All is flushed and the end is sent: go when the other end goes, or after a while."""
        if self.input_ended or not self._linger:
            self.abort()
        else:
            self.set_timer(LINGER, self.abort)

    def _timer_over(self, callback: Callable[[], object]) -> None:
        self._timer = None
        callback()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _input_end(self) -> None:
        self.input_ended = True
        self._reading = False
        if self._closing:
            if not self._queue:
                self.abort()
        else:
            self.receiver.ended()
        self._watch()  # only now, since most are closed by then

    def _set_reading(self, on: bool) -> None:
        self._reading = on
        self._watch()

    def _set_writing(self, on: bool) -> None:
        self._writing = on
        self._watch()

    def _watch(self) -> None:
        """Be told what we wait for, and of the other end's leaving in any case."""
        events = (_IN if self._reading else 0) | (_OUT if self._writing else 0)
        if events != self._watched and self._socket is not None:
            self._watched = events
            self._board.poller.watch(self._socket.fileno(), events, self)
