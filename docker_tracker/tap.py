"""``twistd docker-tracker``: options in, service out. The only module that takes the global reactor."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, Service
from twisted.logger import Logger
from twisted.python import usage
from zope.interface import implementer

from docker_tracker.errors import TrackerError
from docker_tracker.options import Options, finish_check, leave, settings_of

if TYPE_CHECKING:
    from docker_tracker.daemon import Daemon

__all__ = ["Options", "makeService"]

log = Logger()


def makeService(options: usage.Options) -> IService:
    """Return the daemon's service; nothing is opened before it is started.

    :param options: Parsed; their parent's are twistd's.
    :raises SystemExit: with ``--check-config``, or a sentence that says what is wrong.
    """
    # Copied first: twisted.internet.endpoints takes LISTEN_PID and LISTEN_FDS out of it when it is imported.
    environment = dict(os.environ)
    from twisted.internet import reactor

    from docker_tracker.daemon import Daemon

    settings = settings_of(options)
    twistd: Mapping[str, Any] = options.parent or {}
    in_front = bool(twistd.get("nodaemon"))
    log_file = twistd.get("logfile") or ("-" if in_front else "twistd.log")
    go_by_steady_clock(reactor)
    try:
        daemon = Daemon(
            reactor,  # type: ignore[arg-type]  # a module to mypy; it provides what a daemon needs
            settings,
            environment,
            None if log_file == "-" or twistd.get("syslog") else Path(log_file),
        )
        daemon.check()
        if options["check-config"]:
            daemon.check_outside()
    except TrackerError as error:
        leave(error)
    if options["check-config"]:
        finish_check(settings)
    for warning in settings.warnings:
        log.warn("{text}", text=warning)
    logs_to_file = log_file != "-" or bool(twistd.get("syslog"))
    return _Started(daemon, in_front, logs_to_file, twistd.get("pidfile") or "")


def go_by_steady_clock(reactor: Any) -> None:
    """Let a reactor's delays go by a clock that nobody sets, which shows the time since the epoch as it is now.

    Twisted's own is the machine's: set back by an hour, all that waits would wait an hour more.
    """
    epoch = time.time() - time.monotonic()
    reactor.seconds = lambda: epoch + time.monotonic()


@implementer(IService)
class _Started(Service):
    """Starts and stops the daemon; says in one line why it cannot start, where twistd would print a traceback.

    :param in_front: Whether twistd has not forked. If it has, its parent waits for an exception, and prints it.
    :param logs_to_file: Or to syslog: whoever looks there has to find it, too.
    :param pid_file: What twistd has written its number to, or the empty string; it removes it after an exception only.
    """

    def __init__(self, daemon: Daemon, in_front: bool, logs_to_file: bool, pid_file: str) -> None:
        self._daemon = daemon
        self._in_front, self._logs_to_file, self._pid_file = in_front, logs_to_file, pid_file

    def privilegedStartService(self) -> None:
        """Bind sockets."""
        self._try(self._daemon.privilegedStartService)

    def startService(self) -> None:
        """Start everything else."""
        super().startService()  # type: ignore[no-untyped-call]
        self._try(self._daemon.startService)

    def stopService(self) -> object:
        """Stop everything."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._daemon.stopService()

    def _try(self, start: Callable[[], None]) -> None:
        try:
            start()
        except TrackerError as error:
            if self._in_front:
                self._remove_pid_file()
                if self._logs_to_file:
                    log.critical("{error}", error=str(error))
                sys.stderr = sys.__stderr__  # twistd has put its log in the place
                leave(error)
            raise

    def _remove_pid_file(self) -> None:
        with suppress(OSError):  # it is in nobody's way
            if self._pid_file and Path(self._pid_file).read_text() == str(os.getpid()):
                os.unlink(self._pid_file)
