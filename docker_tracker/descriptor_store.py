"""Listening sockets that outlive a restart: systemd keeps them (FDSTORE=1 of sd_notify(3)). Same layer as the proxy.

A container that has a socket's file mounted has its inode: it reaches whoever listens on that very socket, and nobody
else. systemd gives stored descriptors back at the next start beside those of socket units, by the same variables.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from twisted.logger import Logger

from docker_tracker.config import KEPT_DESCRIPTOR

_FIRST_PASSED: Final = 3  # sd_listen_fds(3)

log = Logger()


class DescriptorStore:
    """What systemd keeps for us; without systemd nothing is kept.

    :param environment: Where NOTIFY_SOCKET, FDSTORE, LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are looked up.
    """

    def __init__(self, environment: Mapping[str, str], first: int = _FIRST_PASSED) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # FDSTORE is how many it would keep (systemd 254 and later); older ones do not say.
        self._address = None if not address or environment.get("FDSTORE") == "0" else address
        if self._address is not None and self._address[0] == "@":
            self._address = "\0" + self._address[1:]
        self._passed: dict[str, int] = {}
        if environment.get("LISTEN_PID") == str(os.getpid()):
            for position, name in enumerate(environment.get("LISTEN_FDNAMES", "").split(":")):
                if name.startswith(KEPT_DESCRIPTOR):
                    self._passed[name] = first + position

    def take(self, name: str, inode: int) -> socket.socket | None:
        """Return a listening socket that was kept, once; None: there is none.

        :param inode: Of the file that stands at its path now: another one's sockets are not taken.
        """
        descriptor = self._passed.pop(_stored(name, inode), None)
        if descriptor is None:
            return None
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            log.error("what systemd kept as {name} is no socket: {error}", name=name, error=error)
            os.close(descriptor)
            return None
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            log.error("what systemd kept as {name} does not listen", name=name)
            sock.close()
            return None
        os.set_inheritable(descriptor, False)
        sock.setblocking(False)
        return sock

    def keep(self, name: str, inode: int, sock: socket.socket) -> bool:
        """Have a socket kept; return whether it was asked for."""
        stored = _stored(name, inode)
        if (
            stored in self._passed
        ):  # of a file that is gone, whose number is this one's now: both would be dropped later
            self._release(stored)
        return self._send(f"FDSTORE=1\nFDNAME={stored}", sock)

    def drop(self, name: str, inode: int) -> None:
        """Have a socket kept no more."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={_stored(name, inode)}", None)

    def rest(self) -> set[int]:
        """Have nothing kept that nobody has taken: its job is over. Return the inodes of the files."""
        names = [*self._passed]
        for name in names:
            self._release(name)
        return {int(number) for name in names if (number := name.rpartition("-")[2]).isdecimal()}

    def _release(self, stored: str) -> None:
        os.close(self._passed.pop(stored))
        self._send(f"FDSTOREREMOVE=1\nFDNAME={stored}", None)

    def _send(self, message: str, sock: socket.socket | None) -> bool:
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(self._address)
                if sock is None:
                    sender.send(message.encode())
                else:
                    socket.send_fds(sender, [message.encode()], [sock.fileno()])
        except OSError as error:
            log.warn("systemd was not told {message!r}: {error}", message=message, error=error)
            return False
        return True


def _stored(name: str, inode: int) -> str:
    """Return what FDNAME takes: at most 255 characters without colons."""
    return f"{KEPT_DESCRIPTOR}{hashlib.sha256(name.encode()).hexdigest()[:32]}-{inode}"
