"""A stand-in for systemd as the manager of one service: it starts and stops the daemon, and keeps descriptors for it.

It does what sd_notify(3) says of FDSTORE=1 and FDSTOREREMOVE=1, and passes what it keeps as sd_listen_fds(3) says.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from typing import Final

from tests.support.daemon import Daemon

_MOST: Final = 64
# Puts the descriptors of its first argument at 3 and above, and becomes the rest of its arguments.
_STARTER: Final = """
import fcntl, os, sys
passed = [fcntl.fcntl(int(each), fcntl.F_DUPFD_CLOEXEC, 100) for each in sys.argv[1].split(",") if each]
for position, descriptor in enumerate(passed):
    os.dup2(descriptor, 3 + position)
if passed:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Unit(Daemon):
    """The daemon as a unit with ``Type=notify`` and ``FileDescriptorStoreMax=``.

    :param options: Of docker-tracker.
    :param most: How many descriptors are kept; 0: the unit has no store.
    """

    def __init__(self, *options: str, most: int = _MOST) -> None:
        super().__init__(*options)
        self.kept: list[tuple[str, int]] = []
        self.refused = 0
        self._most = most
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.directory / "notify"))
        self._ready, self._settled = threading.Event(), threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self) -> Unit:
        """Start it with what is kept; it is not waited for."""
        self._settle()
        self._ready.clear()
        # What hangs up is not kept on (FDPOLL=1 is the default).
        for name, descriptor in list(self.kept):
            poll = select.poll()
            poll.register(descriptor, 0)
            if poll.poll(0):
                self._remove(name)
        passed = [descriptor for _, descriptor in self.kept]
        environment = {**self.environment, "NOTIFY_SOCKET": str(self.directory / "notify"), "FDSTORE": str(self._most)}
        if passed:
            names = ":".join(name for name, _ in self.kept)
            environment |= {"LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": names}
        starter = [sys.executable, "-c", _STARTER, ",".join(map(str, passed))]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*starter, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                pass_fds=passed,
            )
        return self

    def wait_until_ready(self) -> None:
        """Wait until it has said so."""
        self.wait_for(self._ready.is_set)

    def release(self) -> None:
        """Keep nothing any more, as when the unit is stopped and not restarted."""
        self._settle()
        for name, _ in list(self.kept):
            self._remove(name)

    def keep(self, name: str, sock: socket.socket) -> None:
        """Keep a socket of a test's."""
        self._settle()
        self._keep(name, os.dup(sock.fileno()))

    def names(self) -> list[str]:
        """Return the names of what is kept."""
        self._settle()
        return [name for name, _ in self.kept]

    def discard(self) -> None:
        """End everything."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._notify_self(b"")
        self._listener.join()
        self._notify.close()
        for _, descriptor in self.kept:
            os.close(descriptor)
        super().discard()

    def _listen(self) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._notify, 4096, 16)
            if not message:
                return
            fields = dict(line.split("=", 1) for line in message.decode().splitlines())
            if fields.get("FDSTORE") == "1":
                for descriptor in descriptors:
                    self._keep(fields["FDNAME"], descriptor)
            elif fields.get("FDSTOREREMOVE") == "1":
                self._remove(fields["FDNAME"])
            elif fields.get("READY") == "1":
                self._ready.set()
            elif fields.get("SETTLED") == "1":
                self._settled.set()

    def _settle(self) -> None:
        """Wait until all that was sent is taken in; after that, what is kept can be looked at."""
        self._settled.clear()
        self._notify_self(b"SETTLED=1")
        self._settled.wait()

    def _notify_self(self, message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message, str(self.directory / "notify"))

    def _keep(self, name: str, descriptor: int) -> None:
        twice = any(os.path.samestat(os.fstat(descriptor), os.fstat(each)) for _, each in self.kept)
        if twice or len(self.kept) >= self._most:
            self.refused += not twice
            os.close(descriptor)
        else:
            self.kept.append((name, descriptor))

    def _remove(self, name: str) -> None:
        gone = [descriptor for each, descriptor in self.kept if each == name]
        self.kept = [entry for entry in self.kept if entry[0] != name]
        for descriptor in gone:
            os.close(descriptor)
