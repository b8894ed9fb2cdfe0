"""What the two directions of a mediated connection share: the calls that are followed, and what is to be sent."""

from __future__ import annotations

from collections import deque
from typing import Final

from docker_tracker.builds import BuildEdit, BuildOutcome
from docker_tracker.errors import BadFrameError
from docker_tracker.http2 import frames, grpc
from docker_tracker.http2.calls import Call, IOwner, Phase
from docker_tracker.http2.credit import Ledger
from docker_tracker.http2.direction import CLIENT_BLOCK, ENGINE_BLOCK, Direction
from docker_tracker.http2.frames import Code, Kind
from docker_tracker.http2.messages import edited

#: How many bytes of requests one connection may have here: gathered, held, and on their way to the engine.
MAX_GATHERED: Final = 2 * (grpc.MAX_MESSAGE + grpc.PREFIX_SIZE)
#: How many refused calls are remembered, for what is still on its way of them.
MAX_REFUSED: Final = 1000


class Connection:
    """The state of one connection.

    :ivar owner: Who decides.
    :ivar to_client, to_engine: What is to be sent.
    :ivar client, engine: What they send, as frames.
    :ivar ledger: What the engine takes.
    :ivar calls: Those that are followed and not over, by their stream.
    :ivar refused: The streams of calls that were ended here.
    :ivar initial_windows: Those that the engine set (None: left as it was), and the client did not acknowledge yet.
    :ivar last: The client's highest stream.
    :ivar greeted: Whether the client has the engine's first settings.
    :ivar paused: Whether an answer is held.
    :ivar over: Whether nothing more is read.
    """

    def __init__(self, owner: IOwner) -> None:
        self.owner = owner
        self.to_client, self.to_engine = bytearray(), bytearray()
        self.client = Direction(grpc.CLIENT_FIELDS, CLIENT_BLOCK)
        self.engine = Direction(grpc.ENGINE_FIELDS, ENGINE_BLOCK)
        self.ledger = Ledger()
        self.calls: dict[int, Call] = {}
        self.refused: dict[int, None] = {}
        self.initial_windows: deque[int | None] = deque()
        self.last = 0
        self.greeted = self.paused = self.over = False
        self._gathered = 0
        self._pending = bytearray()

    # To the client

    def insert(self, raw: bytes) -> None:
        """Send frames to the client: not before the engine's first one, nor before an answer that is held."""
        self._pending += raw
        self.flush_pending()

    def flush_pending(self) -> None:
        """Send what waited, if it need not wait any longer."""
        if self.greeted and not self.paused:
            self.to_client += self._pending
            self._pending.clear()

    @property
    def held_back(self) -> int:
        """How many bytes wait so."""
        return len(self._pending)

    def credit(self, stream: int, size: int) -> None:
        """Let the client send as much more as was taken from it here."""
        if size:
            self.insert(frames.window_update(stream, size))

    def finish(self, call: Call, outcome: BuildOutcome, raw: bytes) -> None:
        """A call ends with this frame of the engine's: tell of it first, and hold it back if that is asked for."""
        self.paused = True
        self._pending += raw
        if not self.end(call, outcome):
            self.paused = False
        self.flush_pending()

    # To the engine

    def flush(self) -> None:
        """Send the engine what it takes now."""
        self.to_engine += self.ledger.flush()

    # Calls

    def gather(self, call: Call, content: bytes) -> None:
        """Add to a call's request."""
        call.request.feed(content)
        self._gathered += len(content)

    @property
    def crowded(self) -> bool:
        """Whether there is more here of requests than is allowed."""
        return self._gathered + self.ledger.waiting > MAX_GATHERED

    def _drop_request(self, call: Call) -> None:
        self._gathered -= len(call.request.data)
        call.request = grpc.Collector()

    def send(self, call: Call, edit: BuildEdit | None) -> None:
        """Send a held request on."""
        data = bytes(call.request.data)
        if edit:
            data = grpc.wrap(edited(call.step, call.request.message(), edit))
        self._drop_request(call)
        call.phase = Phase.SENT
        self.ledger.queue(call.stream, data, call.client_ended)
        self.flush()

    def refuse(self, stream: int, status: int, message: str, *, begun: bool, ended: bool) -> None:
        """Answer a call, and have the engine forget it: it saw the headers, but no message.

        :param begun: Whether the client has the headers of an answer.
        :param ended: Whether the client sends no more.
        """
        block = self.engine.headers.owed() + grpc.refusal(status, message, begun)
        answer = frames.build(Kind.HEADERS, frames.END_STREAM | frames.END_HEADERS, stream, block)
        # A server that wants no more of a request that it answered says so (RFC 9113 section 8.1).
        self.insert(answer if ended else answer + frames.rst_stream(stream, Code.NO_ERROR))
        self.forget(stream)

    def forget(self, stream: int) -> None:
        """Have the engine forget a call, and drop what either side still sends of it."""
        self.to_engine += frames.rst_stream(stream, Code.CANCEL)
        self.refused[stream] = None
        if len(self.refused) > MAX_REFUSED:
            del self.refused[next(iter(self.refused))]

    def end(self, call: Call, outcome: BuildOutcome | None) -> bool:
        """A call is over: tell of it if it was asked about; return whether its answer is to be held."""
        asked = call.phase in (Phase.HELD, Phase.SENT)
        call.phase = Phase.OVER
        del self.calls[call.stream]
        self._drop_request(call)
        self.ledger.drop(call.stream)
        return asked and outcome is not None and self.owner.finished(call, outcome)

    def fail(self, error: BadFrameError, *, to_engine: bool) -> None:
        """Say goodbye to both sides, which are between two frames, as only whole ones are sent."""
        if not self.greeted:
            self.to_client += frames.build(Kind.SETTINGS, 0, 0)
        self.to_client += frames.goaway(self.last, error.code, error.message)
        if to_engine:
            self.to_engine += frames.goaway(0, error.code, error.message)
