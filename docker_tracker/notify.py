"""Tells systemd how the daemon is: ready, stopping, alive, and what it does. Same layer as the proxy.

The protocol is sd_notify(3): one datagram of ``NAME=VALUE`` lines to the socket that NOTIFY_SOCKET names, a path or,
with ``@`` first, an abstract name; without the variable nothing is sent. WATCHDOG_USEC and WATCHDOG_PID are those of
sd_watchdog_enabled(3), which advises to be twice as fast as asked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from docker_tracker.errors import ConfigurationError

MICROSECONDS = 1_000_000


class Notifier(Service):
    """Says READY=1 when started, STOPPING=1 when stopped, and WATCHDOG=1 in between, if systemd asks for it.

    Added to its parent as the last service it is started last and stopped first, as it should be. A datagram that can't
    be sent is logged and forgotten: systemd will act on its absence, and the clients' traffic does not depend on it.

    :param clock: what the watchdog's rhythm is taken from.
    :param environment: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up; never changed.
    :raises ConfigurationError: one of them can't be understood.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, environment: Mapping[str, str]) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._environment = environment
        self._watchdog_seconds = _watchdog_seconds(environment)
        self._watchdog = LoopingCall(self._send, "WATCHDOG=1")
        self._watchdog.clock = clock

    def startService(self) -> None:
        """Say that all is ready, and keep saying that we are alive."""
        super().startService()  # type: ignore[no-untyped-call]
        self._send("READY=1")
        # twistd may have forked since we were made, so whom the watchdog is for is asked now.
        meant_for = self._environment.get("WATCHDOG_PID") or str(os.getpid())
        if self._address is not None and self._watchdog_seconds is not None and meant_for == str(os.getpid()):
            done = self._watchdog.start(self._watchdog_seconds / 2)
            done.addErrback(lambda failure: self.log.failure("the watchdog's loop ended", failure=failure))

    def stopService(self) -> None:
        """Say that we are stopping. The watchdog is still fed, since what is in flight may take its time to end."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows.

        :param text: line breaks in it become spaces, as a line is an assignment of its own.
        """
        self._send(f"STATUS={' '.join(text.splitlines())}")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            self.log.warn("systemd was not told {message!r}: {error}", message=message, error=error)


def _address(text: str) -> str | None:
    """Read NOTIFY_SOCKET as sendto wants it. :returns: None if it is empty: nobody listens."""
    if not text:
        return None
    if text[0] not in "/@":
        raise ConfigurationError(
            where="NOTIFY_SOCKET", problem=f"{text!r} is neither an absolute path nor begins with @"
        )
    return "\0" + text[1:] if text[0] == "@" else text


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Give the time in seconds within which systemd wants to hear of us, or None: it does not watch."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigurationError(where="WATCHDOG_USEC", problem=f"{text!r} is not a number of microseconds above 0")
    return int(text) / MICROSECONDS
