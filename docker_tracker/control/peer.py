"""Who is at the other end of a control connection, and what it may do. Layer: control."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

import attrs

_UCRED: Final = struct.Struct("3i")
_SO_PEERGROUPS: Final = 59  # Python has no name for it (asm-generic/socket.h of Linux)
_MOST_GROUPS: Final = 65536  # NGROUPS_MAX of Linux


@attrs.frozen(kw_only=True)
class Caller:
    """A process that connected.

    :ivar pid: None: not known here (another pid namespace).
    :ivar uid: Of the process when it connected.
    :ivar groups: All that it was in then.
    """

    pid: int | None
    uid: int
    groups: frozenset[int]


def _with_ours(uids: frozenset[int]) -> frozenset[int]:
    return uids | {0, os.geteuid()}


@attrs.frozen(kw_only=True)
class Who:
    """Who may do everything; all others may look at and end what they own.

    :ivar uids: Users; root and the daemon's own are always among them.
    :ivar groups: Members of one of these groups.
    """

    uids: frozenset[int] = attrs.field(default=frozenset(), converter=_with_ours)
    groups: frozenset[int] = frozenset()

    def includes(self, caller: Caller) -> bool:
        """Whether a process may do everything."""
        return caller.uid in self.uids or not self.groups.isdisjoint(caller.groups)


def caller_of(sock: socket.socket) -> Caller:
    """Return who connected a unix socket (``SO_PEERCRED`` and ``SO_PEERGROUPS``: unix(7), socket(7))."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Caller(pid=pid or None, uid=uid, groups=frozenset((gid, *_groups(sock))))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    size = 64
    while True:
        try:
            data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, size * 4)
        except OSError as error:
            if error.errno == errno.ERANGE and size < _MOST_GROUPS:
                size *= 4
                continue
            if error.errno == errno.ENOPROTOOPT:  # before Linux 4.13: the process's own group has to do
                return ()
            raise
        return struct.unpack(f"{len(data) // 4}I", data)
