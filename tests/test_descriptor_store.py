"""`docker_tracker.descriptor_store`, with a socket in systemd's place."""

from __future__ import annotations

import os
import socket

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from docker_tracker.config import KEPT_DESCRIPTOR
from docker_tracker.descriptor_store import DescriptorStore
from tests.support.short import short_directory


class StoreTests(TestCase):
    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.bind(str(self.directory / "notify"))
        self.manager.setblocking(False)
        self.listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listening.close)
        self.listening.bind(str(self.directory / "listening"))
        self.listening.listen()
        self.environment = {"NOTIFY_SOCKET": str(self.directory / "notify")}

    def received(self) -> tuple[str, list[int]]:
        """Return a message and its descriptors, as the manager gets them."""
        message, descriptors, _, _ = socket.recv_fds(self.manager, 1000, 10)
        for descriptor in descriptors:
            self.addCleanup(os.close, descriptor)
        return message.decode(), descriptors

    def passed(self, name: str, *descriptors: int) -> dict[str, str]:
        """Return the environment of a process that gets descriptors back."""
        names = ":".join(["docker.socket", *[name] * len(descriptors)])
        passing = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(1 + len(descriptors)), "LISTEN_FDNAMES": names}
        return {**self.environment, **passing}

    def test_keep_and_take(self) -> None:
        """A socket that is kept is there again after a restart, and is taken once; what it listens on is the same."""
        self.assertTrue(DescriptorStore(self.environment).keep("job a:b 0", 7, self.listening))
        message, (descriptor,) = self.received()
        first, second = message.split("\n")
        self.assertEqual(first, "FDSTORE=1")
        name = second.removeprefix("FDNAME=")
        self.assertTrue(name.startswith(KEPT_DESCRIPTOR))
        self.assertNotIn(":", name)
        copy = os.dup(descriptor)
        os.set_inheritable(copy, True)  # as systemd passes them
        store = DescriptorStore(self.passed(name, copy), first=copy - 1)
        self.assertIsNone(store.take("job a:b 0", 8))
        sock = store.take("job a:b 0", 7)
        assert sock is not None
        self.addCleanup(sock.close)
        self.assertEqual(sock.getsockname(), self.listening.getsockname())
        self.assertEqual((sock.getblocking(), os.get_inheritable(sock.fileno())), (False, False))
        self.assertIsNone(store.take("job a:b 0", 7))
        store.drop("job a:b 0", 7)
        self.assertEqual(self.received(), (f"FDSTOREREMOVE=1\nFDNAME={name}", []))

    def test_rest(self) -> None:
        """What nobody has taken is closed, and kept no more."""
        for name, inodes in ((f"{KEPT_DESCRIPTOR}x-1", {1}), (f"{KEPT_DESCRIPTOR}of-another-version", set())):
            descriptor = os.dup(self.listening.fileno())
            store = DescriptorStore(self.passed(name, descriptor), first=descriptor - 1)
            self.assertEqual(store.rest(), inodes)
            self.assertRaises(OSError, os.fstat, descriptor)
            self.assertEqual(self.received()[0], f"FDSTOREREMOVE=1\nFDNAME={name}")
            self.assertEqual(store.rest(), set())
            self.assertRaises(BlockingIOError, self.manager.recv, 1)

    def test_number_again(self) -> None:
        """A file with the number of one that is gone: the old socket is given up first, as both have one name."""
        DescriptorStore(self.environment).keep("x", 1, self.listening)
        name = self.received()[0].rpartition("=")[2]
        descriptor = os.dup(self.listening.fileno())
        store = DescriptorStore(self.passed(name, descriptor), first=descriptor - 1)
        store.keep("x", 1, self.listening)
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertEqual(self.received()[0], f"FDSTOREREMOVE=1\nFDNAME={name}")
        self.assertEqual(self.received()[0], f"FDSTORE=1\nFDNAME={name}")
        self.assertEqual(store.rest(), set())

    def test_of_no_use(self) -> None:
        """A descriptor that does not listen, or is no socket, is told of, closed, and not taken."""
        for descriptor, problem in (
            (socket.socket(socket.AF_UNIX).detach(), "does not listen"),
            (os.open("/dev/null", os.O_RDONLY), "is no socket"),
        ):
            DescriptorStore(self.environment).keep("x", 1, self.listening)
            name = self.received()[0].rpartition("=")[2]
            store = DescriptorStore(self.passed(name, descriptor), first=descriptor - 1)
            events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
            self.assertIsNone(store.take("x", 1))
            self.assertIn(problem, next(iter(events))["log_format"])
            self.assertRaises(OSError, os.fstat, descriptor)

    def test_without_systemd(self) -> None:
        """Nothing is kept where nobody keeps it, or where there is no room; others' descriptors are not ours."""
        for environment in ({}, {**self.environment, "FDSTORE": "0"}):
            store = DescriptorStore(environment)
            self.assertFalse(store.keep("x", 1, self.listening))
            store.drop("x", 1)
        other = {**self.passed(f"{KEPT_DESCRIPTOR}x-1", 9), "LISTEN_PID": "1"}
        DescriptorStore(other).rest()
        self.assertRaises(BlockingIOError, self.manager.recv, 1)

    def test_manager_without_a_file(self) -> None:
        """A manager may be at an abstract address, which begins with an at sign."""
        self.manager.close()
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.bind(f"\0{self.directory}")
        self.assertTrue(DescriptorStore({"NOTIFY_SOCKET": f"@{self.directory}"}).keep("x", 1, self.listening))
        self.assertEqual(self.received()[0].split("\n")[0], "FDSTORE=1")

    def test_manager_gone(self) -> None:
        """A manager that does not take it is warned of."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        for address in ("/nonexistent", "@docker-tracker-nobody"):
            self.assertFalse(DescriptorStore({"NOTIFY_SOCKET": address}).keep("x", 1, self.listening))
        self.assertEqual(len([*events]), 2)
