"""The 8-byte frames in which logs, attach and exec carry stdout and stderr (``api/pkg/stdcopy/stdcopy.go``).

No I/O, and at most a header is kept: a frame's payload is given on in the pieces it comes in.
"""

from __future__ import annotations

import enum

import attrs

from docker_tracker.errors import EngineProtocolError

_HEADER = 8  # bytes: type, three zeros, big-endian length


class Stream(enum.IntEnum):
    """Where a frame's payload belongs."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    SYSTEM_ERROR = 3  # the engine's own last words


@attrs.define
class FrameSplitter:
    """Splits what the engine sends of a container without a terminal; with one there are no frames.

    :ivar stream: Of the frame that is under way.
    """

    stream: Stream = Stream.STDIN
    _header: bytes = b""
    _left: int = 0  # bytes of the payload that are yet to come

    def feed(self, data: bytes) -> list[tuple[Stream, bytes]]:
        """Return the pieces of payload in ``data``, with their streams; empty frames give nothing.

        :raises EngineProtocolError: there is no frame's header where one must be. Don't feed it again.
        """
        pieces: list[tuple[Stream, bytes]] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                pieces.append((self.stream, piece))
                at += len(piece)
                self._left -= len(piece)
                continue
            taken = data[at : at + _HEADER - len(self._header)]
            at += len(taken)
            self._header += taken
            if len(self._header) == _HEADER:
                self._begin()
        return pieces

    def _begin(self) -> None:
        header, self._header = self._header, b""
        if header[0] > Stream.SYSTEM_ERROR or header[1:4] != b"\0\0\0":
            raise EngineProtocolError(f"the engine's stream is not in frames of stdout and stderr: {header!r}")
        self.stream = Stream(header[0])
        self._left = int.from_bytes(header[4:], "big")

    @property
    def between_frames(self) -> bool:
        """Whether the stream may end here."""
        return not self._left and not self._header
