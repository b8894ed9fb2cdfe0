"""Listening sockets: owners and modes, stale files, live ones, and what systemd passes."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from docker_tracker.errors import ConfigurationError
from docker_tracker.proxy.sockets import listen_tcp, listen_unix, own_unix, passed_socket, remove_unix
from tests.support.short import short_directory


class UnixTests(SynchronousTestCase):
    """Unix sockets."""

    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.path = self.directory / "docker.sock"

    def listen(self, mode: int = 0o660, user: str | None = None, group: str | None = None) -> socket.socket:
        """Listen at the path, until the test ends."""
        sock = listen_unix(self.path, mode, user, group, "here")
        self.addCleanup(sock.close)
        return sock

    def test_changed(self) -> None:
        """A file that is there gets another mode and owner; what cannot be changed is an error."""
        self.listen(0o660)
        own_unix(self.path, 0o600, None, None, "here")
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        if os.geteuid() == 0:
            own_unix(self.path, 0o620, "12345", "54321", "here")
            status = os.stat(self.path)
            self.assertEqual((status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), (12345, 54321, 0o620))
        own_unix(self.path, 0o660, None, None, "here")
        status = os.stat(self.path)
        self.assertEqual(
            (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), (os.geteuid(), os.getegid(), 0o660)
        )
        missing = self.directory / "missing"
        error = self.assertRaises(ConfigurationError, own_unix, missing, 0o600, None, None, "here")
        self.assertIn("cannot change the owner or mode", str(error))

    def test_mode(self) -> None:
        """The file has the mode that was asked for, whatever the umask is."""
        before = os.umask(0)
        try:
            self.listen(0o620)
        finally:
            self.assertEqual(os.umask(before), 0)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o620)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))

    def test_owner(self) -> None:
        """And the owner: names or numbers."""
        if os.geteuid() != 0:
            raise SkipTest("only root gives files away")
        self.listen(user="65534", group="nogroup")
        status = os.stat(self.path)
        self.assertEqual((status.st_uid, status.st_gid), (65534, 65534))
        os.unlink(self.path)
        self.listen(user="nobody", group="0")
        self.assertEqual(os.stat(self.path).st_uid, 65534)

    def test_unknown_owner(self) -> None:
        """A user or group that is not there is an error, and no file is made."""
        for user, group in (("nosuchuser", None), (None, "nosuchgroup")):
            error = self.assertRaises(ConfigurationError, self.listen, user=user, group=group)
            self.assertIn("nosuch", str(error))
        for number in ("4294967295", "9" * 30, "9" * 5000, "\u00b2"):
            for user, group in ((number, None), (None, number)):
                error = self.assertRaises(ConfigurationError, self.listen, user=user, group=group)
                self.assertIn("there is no", str(error))
        self.assertFalse(self.path.exists())

    def test_not_ours_to_give(self) -> None:
        """If the file cannot have its owner, it does not stay."""
        self.patch(os, "chown", self.fail_to_give)
        error = self.assertRaises(ConfigurationError, self.listen, user="12345")
        self.assertIn("Operation not permitted", str(error))
        self.assertFalse(self.path.exists())

    def fail_to_give(self, *arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def test_stale(self) -> None:
        """The file of a daemon that died is replaced."""
        self.listen().close()
        self.assertTrue(self.path.exists())
        self.listen()

    def test_live(self) -> None:
        """Somebody who listens is left alone, also with a full backlog."""
        self.listen()
        error = self.assertRaises(ConfigurationError, self.listen)
        self.assertIn("somebody listens", str(error))
        busy = self.directory / "busy"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(busy))
            server.listen(0)
            clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(str(busy))
                self.addCleanup(client.close)
            self.assertRaises(ConfigurationError, listen_unix, busy, 0o600, None, None, "here")

    def test_other_file(self) -> None:
        """What is no socket is not touched."""
        self.path.write_text("precious")
        self.assertIn("no socket", str(self.assertRaises(ConfigurationError, self.listen)))
        self.assertEqual(self.path.read_text(), "precious")

    def test_no_directory(self) -> None:
        """A path in no directory is an error that names it."""
        self.path = self.directory / "not" / "there"
        self.assertIn("not/there", str(self.assertRaises(ConfigurationError, self.listen)))

    def test_removed(self) -> None:
        """At the end our own file goes, another's stays, and a missing one is no error."""
        self.listen()
        inode = os.stat(self.path).st_ino
        remove_unix(self.path, inode + 1)
        self.assertTrue(self.path.exists())
        remove_unix(self.path, inode)
        self.assertFalse(self.path.exists())
        remove_unix(self.path, inode)


class TCPTests(SynchronousTestCase):
    """TCP sockets."""

    def test_listens(self) -> None:
        """On the address that was named."""
        for host, expected in (("127.0.0.1", "127.0.0.1"), ("localhost", None), ("::1", "::1"), ("::", "::")):
            try:
                sock = listen_tcp(host, 0, "here")
            except ConfigurationError as error:
                if "assign" in str(error) or "family" in str(error):
                    continue  # a machine without IPv6
                raise
            self.addCleanup(sock.close)
            name = sock.getsockname()[0]
            self.assertIn(name, (expected,) if expected else ("127.0.0.1", "::1"))
            with socket.create_connection((name.replace("::", "::1") if name == "::" else name, sock.getsockname()[1])):
                pass

    def test_taken(self) -> None:
        """A port that is taken, or an address that is not ours, is an error."""
        sock = listen_tcp("127.0.0.1", 0, "here")
        self.addCleanup(sock.close)
        port = sock.getsockname()[1]
        error = self.assertRaises(ConfigurationError, listen_tcp, "127.0.0.1", port, "here")
        self.assertIn(f"127.0.0.1:{port}", str(error))
        self.assertRaises(ConfigurationError, listen_tcp, "192.0.2.1", 0, "here")
        self.assertRaises(ConfigurationError, listen_tcp, "no such host", 0, "here")


class PassedTests(SynchronousTestCase):
    """Sockets that systemd passes (sd_listen_fds(3))."""

    def environment(self, *names: str) -> dict[str, str]:
        """Return what systemd would set."""
        return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}

    def setUp(self) -> None:
        self.path = short_directory(self) / "s"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(self.path))
        self.addCleanup(self.sock.close)
        self.first = self.sock.fileno()

    def passed(self, index: int | None, name: str | None, environment: dict[str, str], first: int | None = None) -> str:
        """Return the path of the socket that is taken."""
        sock = passed_socket(index, name, environment, "here", self.first if first is None else first)
        self.addCleanup(sock.close)
        self.assertFalse(sock.getblocking())
        self.assertFalse(os.get_inheritable(sock.fileno()))
        return str(sock.getsockname())

    def test_found(self) -> None:
        """By index and by name."""
        self.sock.listen()
        self.assertEqual(self.passed(0, None, self.environment("docker")), str(self.path))
        environment = self.environment("other", "docker")
        self.assertEqual(self.passed(None, "docker", environment, self.first - 1), str(self.path))

    def test_refused(self) -> None:
        """What was not passed, or not to us, or cannot be told apart, or does not listen."""
        for index, name, environment, words in (
            (0, None, {}, "LISTEN_PID"),
            (0, None, {**self.environment("a"), "LISTEN_PID": "1"}, "LISTEN_PID"),
            (1, None, self.environment("a"), "no"),
            (None, "b", self.environment("a"), "named 'b'"),
            (None, "a", self.environment("a", "a"), "2 sockets"),
            (0, None, self.environment("a"), "not a listening"),
        ):
            error = self.assertRaises(ConfigurationError, self.passed, index, name, environment)
            self.assertIn(words, str(error))
        with Path("/dev/null").open() as file:
            error = self.assertRaises(ConfigurationError, self.passed, 0, None, self.environment("a"), file.fileno())
        self.assertIn("no socket", str(error))
