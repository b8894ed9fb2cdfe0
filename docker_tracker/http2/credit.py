"""Flow control from the client to the engine, where a message is gathered, changed and sent on.

What the client may send (its window) and what the engine takes (the engine's) are the same as long as all is copied.
Two things set them apart. The client is given credit for what is gathered here, or it could never send it all; when
that is sent on, the engine's window shrinks and the client's does not. So the same amount is *owed*, and kept back from
the engine's next updates. Until then the client may send more than the engine takes: that DATA waits here.
"""

from __future__ import annotations

from collections import deque

import attrs

from docker_tracker.errors import BadFrameError
from docker_tracker.http2.frames import DEFAULT_FRAME, END_STREAM, MAX_WINDOW, Code, Kind, build

DEFAULT_WINDOW = 65535


@attrs.define
class _Window:
    """What the engine takes at one level, in bytes.

    :ivar size: What may be sent now; may be below 0 after the engine shrank its initial window.
    :ivar owed: What the client was given credit for beyond that.
    """

    size: int = DEFAULT_WINDOW
    owed: int = 0

    def update(self, increment: int) -> int:
        """Return how much of the engine's update is for the client."""
        self.size += increment
        if self.size > MAX_WINDOW:
            raise BadFrameError("the engine's window is larger than HTTP/2 allows", Code.FLOW_CONTROL_ERROR)
        kept = min(self.owed, increment)
        self.owed -= kept
        return increment - kept

    def take(self, size: int, credited: bool) -> None:
        """Some bytes are sent, for which the client got credit before or not."""
        self.size -= size
        if credited:
            self.owed += size


@attrs.define
class _Stream:
    """What waits on one stream.

    :ivar window: The stream's own, where messages of it are gathered; None: only copied, so it cannot be short.
    :ivar pieces: What is to be sent.
    :ivar ends: Whether the stream ends behind them.
    """

    window: _Window | None = None
    pieces: deque[memoryview] = attrs.field(factory=deque)
    ends: bool = False


class Ledger:
    """Knows what the engine takes, and keeps DATA until it does.

    :ivar waiting: How many bytes wait.
    """

    __slots__ = ("_connection", "_initial", "_streams", "_turn", "waiting")

    def __init__(self) -> None:
        self._connection = _Window()
        self._initial = DEFAULT_WINDOW
        self._streams: dict[int, _Stream] = {}
        self._turn: deque[int] = deque()
        self.waiting = 0

    def open(self, stream: int) -> None:
        """Messages of a new stream will be gathered."""
        self._streams[stream] = _Stream(_Window(self._initial))

    def initial(self, size: int) -> None:
        """The engine set its initial window: open streams follow, too."""
        for stream in self._streams.values():
            if stream.window is not None:
                stream.window.size += size - self._initial
        self._initial = size

    def update(self, stream: int, increment: int) -> int:
        """The engine takes more; return how much of that is for the client.

        :param stream: Whose window it is; 0: the connection's.
        :raises BadFrameError: the window becomes too large.
        """
        if not stream:
            return self._connection.update(increment)
        state = self._streams.get(stream)
        return increment if state is None or state.window is None else state.window.update(increment)

    def waits(self, stream: int) -> bool:
        """Whether something of a stream is still to be sent."""
        state = self._streams.get(stream)
        return state is not None and (bool(state.pieces) or state.ends)

    def copies(self, stream: int, size: int) -> bool:
        """Whether a DATA frame may be copied at once; then it counts as sent."""
        if self._connection.size < size or self.waits(stream):
            return False
        self._connection.take(size, credited=False)
        return True

    def queue(self, stream: int, data: bytes, ends: bool) -> None:
        """Have DATA sent as soon as the engine takes it.

        It is taken as credited to the client before if the stream was opened with `open`.
        """
        state = self._streams.setdefault(stream, _Stream())
        if data:
            state.pieces.append(memoryview(data))
            self.waiting += len(data)
        state.ends |= ends
        if stream not in self._turn:
            self._turn.append(stream)

    def flush(self) -> bytes:
        """Return the frames that the engine takes now, of all streams by turns."""
        frames, stuck = [], 0
        while stuck < len(self._turn):
            stream = self._turn.popleft()
            frame = self._next(stream)
            stuck = 0 if frame else stuck + 1
            frames.append(frame)
            if self.waits(stream):
                self._turn.append(stream)
        return b"".join(frames)

    def _next(self, stream: int) -> bytes:
        """Return the next frame of a stream, or b"": the engine takes none."""
        state = self._streams[stream]
        piece = state.pieces[0] if state.pieces else memoryview(b"")
        room = min(self._connection.size, DEFAULT_FRAME)
        if state.window is not None:
            room = min(room, state.window.size)
        data, rest = piece[: max(0, room)], piece[max(0, room) :]
        if piece:
            if not data:
                return b""
            state.pieces.popleft()
            if rest:
                state.pieces.appendleft(rest)
        self._connection.take(len(data), credited=state.window is not None)
        if state.window is not None:
            state.window.take(len(data), credited=True)
        self.waiting -= len(data)
        ends = state.ends and not state.pieces
        if not state.pieces:
            state.ends = False
            if state.window is None:
                del self._streams[stream]
        return build(Kind.DATA, END_STREAM if ends else 0, stream, data)

    def drop(self, stream: int) -> int:
        """Forget a stream and what waits on it; return how much of that the client still has to get credit for."""
        state = self._streams.pop(stream, None)
        if stream in self._turn:
            self._turn.remove(stream)
        if state is None:
            return 0
        size = sum(map(len, state.pieces))
        self.waiting -= size
        return 0 if state.window is not None else size
