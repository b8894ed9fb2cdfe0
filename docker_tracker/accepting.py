"""Accepts connections: what accept(2) may say, read in one place. Layer: beside the addresses."""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: How long to rest when there is no room, in seconds: those who wait stay in the backlog.
REST: Final = 0.5


class NoRoomError(OSError):
    """There are no descriptors, or is no memory, for another connection."""


def accept(sock: socket.socket) -> tuple[socket.socket, Any] | None:
    """Return the next who connects to a listening, non-blocking socket, with its address; None: nobody waits.

    :raises NoRoomError: it cannot be taken for now.
    """
    while True:
        try:
            return sock.accept()
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionAbortedError:
            pass  # it has left; the next one may be there
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise NoRoomError(error.errno, error.strerror) from error
            raise
