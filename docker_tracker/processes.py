"""Processes as the kernel tells of them, so that none is taken for another one that gets its number later.

Layer: beside the interceptors' base.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import select
import socket
from pathlib import Path
from typing import Final

import attrs

from docker_tracker.exchange import Peer
from docker_tracker.job import Process

PROC: Final = Path("/proc")
#: socket(7), from Linux 6.5 on; Python has no name for it.
_SO_PEERPIDFD: Final = 77
_EFFECTIVE_UID: Final = re.compile(rb"^Uid:\s+\d+\s+(\d+)", re.MULTILINE)


def read(path: Path, most: int = 65536) -> bytes:
    """Return the beginning of a file of ``/proc``; nothing if the process is gone, or hidden from us."""
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        return b""


@attrs.frozen
class Status:
    """What ``/proc/PID/stat`` says.

    :ivar parent: The parent's pid, 0 if it has none that we can see.
    :ivar started: Clock ticks since the boot.
    """

    parent: int
    started: int


def status(pid: int, proc: Path = PROC) -> Status | None:
    """Return what the kernel says of a process, or None: there is none."""
    # The second field is the command's name in parentheses, and may have anything in it, parentheses, too.
    fields = read(proc / str(pid) / "stat").rpartition(b")")[2].split()
    return Status(int(fields[1]), int(fields[19])) if len(fields) > 19 else None


def uid(pid: int, proc: Path = PROC) -> int | None:
    """Return the user that a process runs as, or None: there is none."""
    # Not the owner of its directory in /proc, which is root for one that must not be dumped.
    found = _EFFECTIVE_UID.search(read(proc / str(pid) / "status"))
    return int(found[1]) if found else None


@functools.cache
def boot(proc: Path = PROC) -> str:
    """Return the boot's ID."""
    return read(proc / "sys/kernel/random/boot_id").decode("ascii", "replace").strip()


def identify(peer: Peer, proc: Path = PROC) -> Process | None:
    """Return the process that made a connection; None: it is not known, or has ended.

    The kernel gives a descriptor of the very process that connected (Linux 6.5); before, one is opened by the
    number, and only a process that ended before the first look could have given its number away.
    """
    before = status(peer.pid, proc) if peer.pid else None
    if not peer.pid or before is None:
        return None
    descriptor = _descriptor(peer.pid, peer.socket)
    if descriptor is None:
        return None
    try:
        after = status(peer.pid, proc)
        if after is None or after.started != before.started or has_ended(descriptor):
            return None
        return Process(pid=peer.pid, started=after.started, boot=boot(proc))
    finally:
        os.close(descriptor)


def _descriptor(pid: int, connection: socket.socket | None) -> int | None:
    if connection is not None:
        try:
            return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:  # the process has ended, or the connection has
                return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # it has ended, or this is a Linux before 5.3
        return None


def has_ended(descriptor: int) -> bool:
    """Say whether a pidfd's process has ended (pidfd_open(2): then it is readable)."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
