"""What systemd is told, on a real datagram socket, by a clock of the test's own."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import ConfigurationError
from docker_tracker.notify import Notifier


class NotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = str(Path(directory.name) / "notify")

    def listen(self, address: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(listener.close)
        listener.bind(address)
        return listener

    def received(self, listener: socket.socket) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(listener.recv(1024))
            except BlockingIOError:
                return found

    def notifier(self, **environment: str) -> Notifier:
        return Notifier(self.clock, environment)

    def test_life(self) -> None:
        """READY when started, STOPPING when stopped, each once."""
        listener = self.listen(self.path)
        notifier = self.notifier(NOTIFY_SOCKET=self.path)
        self.assertEqual(self.received(listener), [])
        notifier.startService()
        self.assertEqual(self.received(listener), [b"READY=1"])
        self.clock.advance(3600)
        self.assertEqual(self.received(listener), [])
        notifier.stopService()
        self.assertEqual(self.received(listener), [b"STOPPING=1"])

    def test_abstract(self) -> None:
        """A name that begins with @ is an abstract one."""
        listener = self.listen(f"\0docker-tracker-test-{os.getpid()}")
        self.notifier(NOTIFY_SOCKET=f"@docker-tracker-test-{os.getpid()}").startService()
        self.assertEqual(self.received(listener), [b"READY=1"])

    def test_watchdog(self) -> None:
        """WATCHDOG comes at once and then at half the time asked for, also while what is in flight ends."""
        for process in ("", str(os.getpid())):
            listener = self.listen(f"{self.path}-{process}")
            notifier = self.notifier(
                NOTIFY_SOCKET=f"{self.path}-{process}", WATCHDOG_USEC="10000000", WATCHDOG_PID=process
            )
            notifier.startService()
            self.assertEqual(self.received(listener), [b"READY=1", b"WATCHDOG=1"])
            self.clock.advance(4.9)
            self.assertEqual(self.received(listener), [])
            self.clock.advance(0.1)
            self.assertEqual(self.received(listener), [b"WATCHDOG=1"])
            notifier.stopService()
            self.clock.advance(5)
            self.assertEqual(self.received(listener), [b"STOPPING=1", b"WATCHDOG=1"])

    def test_watchdog_of_another(self) -> None:
        """A watchdog that is meant for another process, or for nobody, is not fed."""
        listener = self.listen(self.path)
        for environment in ({"WATCHDOG_USEC": "10", "WATCHDOG_PID": "1"}, {}):
            self.notifier(NOTIFY_SOCKET=self.path, **environment).startService()
            self.clock.advance(1)
            self.assertEqual(self.received(listener), [b"READY=1"])

    def test_status(self) -> None:
        """A status is one line, whatever is in it."""
        listener = self.listen(self.path)
        self.notifier(NOTIFY_SOCKET=self.path).status("two\nREADY=1\r\nthree")
        self.assertEqual(self.received(listener), [b"STATUS=two READY=1 three"])

    def test_nobody_listens(self) -> None:
        """Without systemd nothing is sent, and no call is left on the clock."""
        for environment in ({}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "10000000"}):
            notifier = self.notifier(**environment)
            notifier.startService()
            notifier.status("serving")
            notifier.stopService()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gone(self) -> None:
        """A socket that is not there, or whose queue is full, is logged and does no harm."""
        notifier = self.notifier(NOTIFY_SOCKET=self.path)
        notifier.startService()
        listener = self.listen(self.path)
        for _ in range(10_000):
            notifier.status("x")
        self.assertGreater(len(self.received(listener)), 0)
        notifier.stopService()
        self.assertEqual(self.received(listener), [b"STOPPING=1"])

    def test_bad_environment(self) -> None:
        """What can't be understood is an error that names the variable."""
        for name, value in (
            ("NOTIFY_SOCKET", "relative"),
            ("WATCHDOG_USEC", "soon"),
            ("WATCHDOG_USEC", "0"),
            ("WATCHDOG_USEC", "-1"),
            ("WATCHDOG_USEC", "²"),
        ):
            with self.assertRaisesRegex(ConfigurationError, name):
                self.notifier(**{name: value})
