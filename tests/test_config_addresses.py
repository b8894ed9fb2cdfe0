"""What is read as an address, and as which one."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.addresses import LONGEST_SOCKET_PATH, Address, is_loopback, meets, parse
from docker_tracker.errors import ConfigurationError

TAKEN: list[tuple[str, dict[str, Any], str]] = [
    ("unix:///run/docker.sock", {"kind": "unix", "path": "/run/docker.sock"}, "unix:///run/docker.sock"),
    ("unix:/run/docker.sock", {"kind": "unix", "path": "/run/docker.sock"}, "unix:///run/docker.sock"),
    ("unix:/a:mode=660", {"kind": "unix", "path": "/a", "parameters": {"mode": "660"}}, "unix:///a"),
    ("unix:address=/a", {"kind": "unix", "path": "/a"}, "unix:///a"),
    (r"unix:/a\:b\=c\\d", {"kind": "unix", "path": "/a:b=c\\d"}, "unix:///a:b=c\\d"),
    ("tcp://build.example:2375", {"kind": "tcp", "host": "build.example", "port": 2375}, "tcp://build.example:2375"),
    ("tcp://build.example", {"kind": "tcp", "host": "build.example", "port": None}, "tcp://build.example"),
    ("tcp://:2375", {"kind": "tcp", "host": "127.0.0.1", "port": 2375}, "tcp://127.0.0.1:2375"),
    ("tcp://[::1]:2375", {"kind": "tcp", "host": "::1", "port": 2375}, "tcp://[::1]:2375"),
    ("tcp://[fe80::1%eth0]:1", {"kind": "tcp", "host": "fe80::1%eth0", "port": 1}, "tcp://[fe80::1%eth0]:1"),
    ("localhost:8080", {"kind": "tcp", "host": "localhost", "port": 8080}, "tcp://localhost:8080"),
    (":8080", {"kind": "tcp", "host": "127.0.0.1", "port": 8080}, "tcp://127.0.0.1:8080"),
    ("[::1]:8080", {"kind": "tcp", "host": "::1", "port": 8080}, "tcp://[::1]:8080"),
    ("tcp:2375", {"kind": "tcp", "host": "0.0.0.0", "port": 2375}, "tcp://0.0.0.0:2375"),
    ("tcp:0:interface=127.0.0.1", {"kind": "tcp", "host": "127.0.0.1", "port": 0}, "tcp://127.0.0.1:0"),
    ("tcp:port=80:interface=10.0.0.1", {"kind": "tcp", "host": "10.0.0.1", "port": 80}, "tcp://10.0.0.1:80"),
    (r"tcp:80:interface=\:\:1", {"kind": "tcp", "host": "::1", "port": 80}, "tcp://[::1]:80"),
    ("tcp6:80", {"kind": "tcp", "host": "::", "port": 80}, "tcp://[::]:80"),
    (
        "ssl:443:privateKey=/k:certKey=/c:interface=127.0.0.1",
        {"kind": "tls", "host": "127.0.0.1", "port": 443, "parameters": {"privateKey": "/k", "certKey": "/c"}},
        "tcp://127.0.0.1:443",
    ),
    ("tls:443", {"kind": "tls", "host": "0.0.0.0", "port": 443}, "tcp://0.0.0.0:443"),
    (
        "systemd:domain=UNIX:index=0",
        {"kind": "systemd", "domain": "UNIX", "index": 0},
        "systemd:domain=UNIX:index=0",
    ),
    (
        "systemd:domain=INET:name=web",
        {"kind": "systemd", "domain": "INET", "name": "web"},
        "systemd:domain=INET:name=web",
    ),
    ("systemd:index=3", {"kind": "systemd", "index": 3}, "systemd:index=3"),
    ("haproxy:tcp:80", {"kind": "endpoint"}, "haproxy:tcp:80"),
]

REFUSED = [
    ("", "not an address"),
    ("a\nb:1", "not an address"),
    ("unix:///a\0b", "not an address"),
    ("default", "contexts of the docker CLI"),
    ("/run/docker.sock", "write unix:///run/docker.sock"),
    ("ssh://host", "ssh -L"),
    ("npipe:////./pipe/docker_engine", "Windows"),
    ("http://localhost:2375", "write tcp://"),
    ("https://localhost:2375", "write tcp://"),
    ("fd://", "systemd:index=0"),
    ("gopher://x", "write unix:///path"),
    ("unix://", "absolute path"),
    ("unix://relative", "absolute path"),
    ("unix:///directory/", "absolute path"),
    ("unix:relative", "absolute path"),
    ("unix:mode=660", "absolute path"),
    ("unix:///a:mode=660", "mixes two forms"),
    ("unix:///" + "a" * 107, "108 bytes"),
    ("unix:///" + "é" * 54, "109 bytes"),
    ("tcp://host:65536", "port from 0 to 65535"),
    ("tcp://host:", "not host:port"),
    ("tcp://host:1/path", "not host:port"),
    ("tcp://user@host:1", "not host:port"),
    ("tcp://::1:2375", "in brackets"),
    ("tcp://[host]:1", "not an IPv6 address"),
    ("tcp:", "port from 0 to 65535"),
    ("tcp:http", "port from 0 to 65535"),
    ("tcp:99999", "port from 0 to 65535"),
    (r"tcp:1:interface=\:\:zz", "not an IPv6 address"),
    ("tcp:1:interface=a:b", "has no name"),
    ("tcp:1:backlog=5", "not one that is read here: port, interface"),
    ("tcp:1:interface=a:interface=b", "there twice"),
    ("tcp:1:port=2", "there twice"),
    ("unix:/a\\", "single backslash"),
    ("systemd:domain=UNIX", "index=N or by name=NAME"),
    ("systemd:domain=UNIX:index=0:name=a", "index=N or by name=NAME"),
    ("systemd:domain=unix:index=0", "not a domain"),
    ("systemd:index=first", "not the index"),
    ("systemd:0", "has no name"),
]


class ParseTests(SynchronousTestCase):
    """Listeners' addresses."""

    def test_taken(self) -> None:
        """Each form is read as the one address it stands for, and has one form in messages."""
        for text, fields, shown in TAKEN:
            with self.subTest(text):
                address = parse(text)
                self.assertEqual(address, Address(text=text, **fields))
                self.assertEqual(str(address), shown)

    def test_refused(self) -> None:
        """What cannot be served is refused with a sentence that says what would be right, and where it stands."""
        for text, problem in REFUSED:
            with self.subTest(text):
                error = self.assertRaises(ConfigurationError, parse, text, where="--listen")
                self.assertIn(problem, error.problem)
                self.assertEqual(error.where, "--listen")

    def test_longest_path(self) -> None:
        """A path that just fits into the kernel's structure is taken."""
        path = "/" + "a" * (LONGEST_SOCKET_PATH - 1)
        self.assertEqual(parse(f"unix://{path}").path, path)


class ClientTests(SynchronousTestCase):
    """Addresses to connect to, whose endpoint strings are clients'."""

    def test_taken(self) -> None:
        """Docker's form is the same; an endpoint string has its host first."""
        for text, shown, kind in [
            ("unix:///a", "unix:///a", "unix"),
            ("unix:/a", "unix:///a", "unix"),
            ("unix:path=/a", "unix:///a", "unix"),
            ("tcp:host:80", "tcp://host:80", "tcp"),
            ("tcp:host=host:port=80", "tcp://host:80", "tcp"),
            ("tls:host:80", "tcp://host:80", "tls"),
            ("host:80", "tcp://host:80", "tcp"),
        ]:
            with self.subTest(text):
                address = parse(text, client=True)
                self.assertEqual((str(address), address.kind), (shown, kind))

    def test_refused(self) -> None:
        """What only a server can be is no engine's address."""
        for text, problem in [
            ("systemd:index=0", "not served here"),
            ("haproxy:tcp:1", "not served here"),
            ("unix:/a:mode=660", "not one that is read here: path"),
            ("tcp:2375", "port from 0"),
        ]:
            with self.subTest(text):
                error = self.assertRaises(ConfigurationError, parse, text, client=True)
                self.assertIn(problem, error.problem)


class LoopbackTests(SynchronousTestCase):
    """Which hosts only this machine reaches."""

    def test_table(self) -> None:
        """Names count only if they are localhost: nothing is resolved."""
        for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"):
            self.assertTrue(is_loopback(host), host)
        for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.1", "", "::ffff:10.0.0.1"):
            self.assertFalse(is_loopback(host), host)


class MeetsTests(SynchronousTestCase):
    """When a connection to one address would arrive at another."""

    def test_table(self) -> None:
        """Loopback's names and the wildcards are seen through; other hosts meet only themselves."""
        for ours, theirs, expected in [
            ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1", True),
            ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", False),
            ("tcp://127.0.0.1:1", "tcp://localhost:1", True),
            ("tcp://localhost:1", "tcp://[::1]:1", True),
            ("tcp://127.0.0.1:1", "tcp://[::1]:1", False),
            ("tcp://127.0.0.2:1", "tcp://127.0.0.1:1", False),
            ("tcp://0.0.0.0:1", "tcp://127.0.0.9:1", True),
            ("tcp://[::]:1", "tcp://localhost:1", True),
            ("tcp://0.0.0.0:1", "tcp://0.0.0.0:1", True),
            ("tcp://0.0.0.0:1", "tcp://[::]:1", True),
            ("tcp://127.0.0.1:1", "tcp://0.0.0.0:1", True),
            ("tcp://0.0.0.0:1", "tcp://10.0.0.1:1", False),
            ("tcp://10.0.0.1:1", "tcp://0.0.0.0:1", False),
            ("tcp://Engine:1", "tcp://engine:1", True),
            ("tcp://[0:0::1]:1", "tcp://[::1]:1", True),
            ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", False),
            ("unix:///a", "unix:///a", False),
        ]:
            with self.subTest(f"{ours} {theirs}"):
                self.assertEqual(meets(parse(ours), parse(theirs)), expected)
