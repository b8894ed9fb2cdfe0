"""Stands between a client and the engine on one HTTP/2 connection: requests of builds are held, edited, refused.

All frames are copied as they are and in their order, but for the DATA of those requests. Nothing is answered in a
peer's stead: pings and settings go from end to end. Header blocks are read, never written, since each changes its
receiver's table; one that refuses a call consists of fields that leave the table alone.
"""

from __future__ import annotations

from collections.abc import Callable

from docker_tracker.builds import BuildEdit, BuildEnd, BuildOutcome, BuildStep
from docker_tracker.errors import BadFrameError
from docker_tracker.http2.calls import Call, IOwner, Phase
from docker_tracker.http2.connection import Connection
from docker_tracker.http2.frames import Bytes
from docker_tracker.http2.from_client import FromClient
from docker_tracker.http2.from_engine import FromEngine


class Mediator:
    """Mediates one connection, from the first byte behind the 101.

    After each call of a method, what `for_client` and `for_engine` give is to be sent. It is little as long as nothing
    is read from one side while the other one takes nothing. Once `over`, both sides are to be closed behind it.

    :param owner: Who decides.
    :param steps: The requests that are held.
    """

    def __init__(self, owner: IOwner, steps: frozenset[BuildStep] = frozenset(BuildStep)) -> None:
        self._connection = Connection(owner)
        self._client = FromClient(self._connection, steps)
        self._engine = FromEngine(self._connection)
        self._client_ended = False

    def for_client(self) -> bytes:
        """Take what is to be sent to the client."""
        return _taken(self._connection.to_client)

    def for_engine(self) -> bytes:
        """Take what is to be sent to the engine; nothing after `client_ended`."""
        data = _taken(self._connection.to_engine)
        return b"" if self._client_ended else data

    @property
    def over(self) -> bool:
        """Whether HTTP/2 was broken, or the connection closed: nothing more is read."""
        return self._connection.over

    @property
    def paused(self) -> bool:
        """Whether an answer is held: read nothing from the engine until `resume`."""
        return self._connection.paused

    @property
    def held_back(self) -> int:
        """How many bytes for the client wait for the engine's first frame, or for an answer that is held."""
        return self._connection.held_back

    @property
    def client_owes(self) -> bool:
        """Whether the client is to go on with what it began, before its first call: see `overdue`."""
        return self._client.owes

    def overdue(self) -> None:
        """End the connection if the client still owes something; for those who waited long enough."""
        self._guarded(self._client.overdue)

    def client_data(self, data: Bytes) -> None:
        """Take bytes from the client."""
        self._connection.client.feed(data)
        self._guarded(self._client.read)

    def engine_data(self, data: Bytes) -> None:
        """Take bytes from the engine; while an answer is held they are only kept."""
        self._connection.engine.feed(data)
        self._guarded(self._engine.read)

    def release(self, call: Call, edit: BuildEdit | None = None) -> None:
        """Send a held request on; does nothing if the call has ended meanwhile.

        :raises BadGrpcError: it is to be edited, but cannot be read.
        """
        if call.phase is Phase.HELD:
            self._connection.send(call, edit)

    def refuse(self, call: Call, status: int, message: str) -> None:
        """End a held request's call in the engine's stead; does nothing if the call has ended meanwhile.

        :param status: gRPC's number.
        :param message: One sentence for the user's screen; 500 characters of it are sent.
        """
        if call.phase is Phase.HELD:
            self._connection.refuse(call.stream, status, message, begun=call.begun, ended=call.client_ended)
            outcome = BuildOutcome(end=BuildEnd.REFUSED, forwarded=False, status=status, message=message)
            self._connection.end(call, outcome)

    def resume(self) -> None:
        """Let the held answer go, and what came behind it."""
        if self.paused:
            self._connection.paused = False
            self._connection.flush_pending()
            self._guarded(self._engine.read)

    def client_ended(self) -> None:
        """The client sends no more: half-close the engine's side, and go on reading from it.

        What the engine did not get yet is dropped: a client that ends its side of HTTP/2 is gone.
        """
        self._client_ended = True
        for call in tuple(self._connection.calls.values()):
            if call.phase is not Phase.SENT or self._connection.ledger.waits(call.stream):
                self._lost(call)

    def close(self) -> None:
        """The connection is over: tell of the calls that have no end yet."""
        self._connection.over = True
        for call in tuple(self._connection.calls.values()):
            self._lost(call)

    def _lost(self, call: Call) -> None:
        end = BuildEnd.CANCELLED if self._client_ended else BuildEnd.LOST
        self._connection.end(call, BuildOutcome(end=end, forwarded=call.phase is Phase.SENT))

    def _guarded(self, read: Callable[[], None]) -> None:
        """Read; end the connection if HTTP/2 is broken."""
        if self.over:
            return
        try:
            read()
        except BadFrameError as error:
            self._connection.fail(error, to_engine=self._client.begun)
            self.close()
            self._connection.owner.failed(error)


def _taken(data: bytearray) -> bytes:
    taken = bytes(data)
    data.clear()
    return taken
