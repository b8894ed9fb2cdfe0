"""Listeners with their settings, and the engine's address with its certificates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from shutil import rmtree

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.connections import EngineAddress, EngineTls, Listener
from docker_tracker.errors import ConfigurationError
from docker_tracker.sources import Found


class FilesCase(SynchronousTestCase):
    """Has a directory with the files that TLS needs."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)
        for name in ("ca", "cert", "key"):
            (self.directory / f"{name}.pem").write_text("-----BEGIN…")
        self.ca, self.cert, self.key = (self.directory / f"{name}.pem" for name in ("ca", "cert", "key"))


class ListenerTests(FilesCase):
    """`Listener.of`."""

    def listener(self, value: object) -> Listener:
        return Listener.of(Found(value, "listen", typed=True))

    def refuse(self, value: object, problem: str) -> None:
        with self.subTest(value):
            self.assertIn(problem, str(self.assertRaises(ConfigurationError, self.listener, value)))

    def test_unix(self) -> None:
        """A bare address has safe settings; a table, or the endpoint string itself, has others."""
        plain = self.listener("unix:///a")
        self.assertEqual(
            (plain.kind, plain.path, plain.mode, plain.user, plain.group), ("unix", "/a", 0o660, None, None)
        )
        table = self.listener({"address": "unix:///a", "mode": "0600", "user": "build", "group": 990})
        self.assertEqual((table.mode, table.user, table.group), (0o600, "build", "990"))
        self.assertEqual(self.listener("unix:/a:mode=666").mode, 0o666)
        self.assertEqual(str(table), "unix:///a")

    def test_tcp(self) -> None:
        """Plain TCP knows whether it is exposed; without a port it gets Docker's."""
        here, there = self.listener("tcp://127.0.0.1:0"), self.listener("tcp:2300")
        self.assertEqual((here.kind, here.host, here.port, here.exposed), ("tcp", "127.0.0.1", 0, False))
        self.assertEqual((there.host, there.port, there.exposed), ("0.0.0.0", 2300, True))
        self.assertEqual(str(self.listener("tcp://127.0.0.1")), "tcp://127.0.0.1:2375")

    def test_tls(self) -> None:
        """A certificate makes it TLS, a client CA mutual TLS; both are taken from a ssl: string, too."""
        table = {"address": "tcp://0.0.0.0", "certificate": str(self.cert), "key": str(self.key)}
        listener = self.listener(table | {"client-ca": str(self.ca)})
        self.assertEqual((listener.kind, listener.port, listener.exposed), ("tls", 2376, False))
        self.assertEqual((listener.certificate, listener.key, listener.client_ca), (self.cert, self.key, self.ca))
        for text, certificate in [
            (f"ssl:1:privateKey={self.key}:certKey={self.cert}", self.cert),
            (f"tls:1:privateKey={self.key}", self.key),
        ]:
            listener = self.listener(text)
            self.assertEqual((listener.kind, listener.certificate, listener.key), ("tls", certificate, self.key))

    def test_others(self) -> None:
        """Systemd's sockets are as systemd made them; who reaches an endpoint that is not read is not known."""
        self.assertEqual(self.listener("systemd:index=1").address.index, 1)
        self.assertFalse(self.listener("systemd:index=1").exposed)
        self.assertTrue(self.listener("haproxy:tcp:1").exposed)

    def test_round_trip(self) -> None:
        """What is shown as effective is read as the same again."""
        for value in (
            "unix:/a:mode=606",
            {"address": "unix:/a", "user": "1", "group": "g"},
            "tcp:80:interface=127.0.0.1",
            "[::1]:80",
            {"address": "tcp://h", "certificate": str(self.cert), "key": str(self.key), "client-ca": str(self.ca)},
            "systemd:domain=UNIX:name=a",
            "haproxy:tcp:80",
        ):
            with self.subTest(value):
                first = self.listener(value)
                second = self.listener(first.table())
                self.assertEqual(second.table(), first.table())
                self.assertEqual(
                    (second.kind, second.mode, second.key, str(second)), (first.kind, first.mode, first.key, str(first))
                )

    def test_refused(self) -> None:
        """Settings that are unknown, wrong, or of another kind of address are refused."""
        tls = {"certificate": str(self.cert), "key": str(self.key)}
        self.refuse(5, "listen: must be an address, or a table with one, not an integer")
        self.refuse({"address": 5}, "listen.address: must be a string")
        self.refuse({"mode": "0600"}, "has no address")
        self.refuse({"address": "unix:///a", "mod": "0600"}, 'listen.mod: unknown key; did you mean "mode"?')
        self.refuse({"address": "unix:///a", "mode": 660}, 'write "0660"')
        self.refuse({"address": "unix:///a", "mode": "rw"}, 'write "0660"')
        self.refuse({"address": "unix:///a", "mode": "1777"}, 'write "0660"')
        self.refuse("unix:/a:mode=999", 'write "0660"')
        self.refuse({"address": "unix:/a:mode=600", "mode": "0660"}, "keep one")
        self.refuse({"address": "unix:///a", "user": True}, "must be a name or a number")
        self.refuse({"address": "unix:///a", "user": -1}, "must be a name or a number")
        self.refuse({"address": "unix:///a", "group": ""}, "must be a name or a number")
        self.refuse({"address": "unix:///a", **tls}, "certificate is for tcp addresses")
        self.refuse({"address": "systemd:index=0", **tls}, "certificate is for tcp addresses")
        self.refuse({"address": "tcp://h:1", "mode": "0660"}, "mode is for unix sockets")
        self.refuse({"address": "systemd:index=0", "user": "a"}, "user is for unix sockets")
        self.refuse({"address": "tcp://h:1", "certificate": str(self.cert)}, "a certificate and its key")
        self.refuse({"address": "tcp://h:1", "client-ca": str(self.ca)}, "a certificate and its key")
        self.refuse("ssl:1", "a certificate and its key")
        self.refuse(
            {"address": "tcp://h:1", **tls, "key": "/nowhere.pem"}, "listen.key: the file /nowhere.pem is missing"
        )
        self.refuse({"address": "tcp://h:1", **tls, "key": "key.pem"}, "not an absolute path")


class EngineTests(FilesCase):
    """`EngineAddress.of`."""

    def engine(self, value: object, tls: EngineTls | None = None) -> EngineAddress:
        return EngineAddress.of(Found(value, "engine", typed=True), tls)

    def test_plain(self) -> None:
        """Without a port it gets Docker's; its text is Docker's form."""
        for text, shown in [
            ("unix:///a", "unix:///a"),
            ("unix:/a", "unix:///a"),
            ("tcp://h", "tcp://h:2375"),
            ("tcp://[::1]:1", "tcp://[::1]:1"),
            ("h:1", "tcp://h:1"),
            ("tcp:h:1", "tcp://h:1"),
        ]:
            with self.subTest(text):
                self.assertEqual(str(self.engine(text)), shown)
                self.assertEqual(self.engine(self.engine(text).table()), self.engine(text))

    def test_tls(self) -> None:
        """The environment's TLS holds for TCP alone; a table's own settings win over it."""
        environment = EngineTls(self.ca, self.cert, self.key, verify=False)
        engine = self.engine("tcp://h", environment)
        expected = EngineAddress("tls", "", "h", 2376, self.ca, self.cert, self.key, verify=False)
        self.assertEqual(engine, expected)
        self.assertEqual(self.engine(engine.table()), expected)
        self.assertEqual(self.engine("unix:///a", environment).kind, "unix")
        own = self.engine({"address": "tcp://h:1", "ca": str(self.ca)}, environment)
        self.assertEqual(own, EngineAddress("tls", "", "h", 1, self.ca))
        self.assertEqual(self.engine("tls:h:1"), EngineAddress("tls", "", "h", 1))
        self.assertEqual(self.engine("tls:h:1", environment).ca, self.ca)

    def test_refused(self) -> None:
        """What no engine can be reached by is refused."""
        for value, problem in [
            ("tcp://h:0", "no port 0"),
            ("systemd:index=0", "not served here"),
            (["unix:///a"], "must be an address, or a table with one, not an array"),
            ({"address": "unix:///a", "ca": str(self.ca)}, "ca is for tcp addresses"),
            ({"address": "tcp://h", "key": str(self.key)}, "need each other"),
            ({"address": "tcp://h", "verify": "no"}, "engine.verify: must be true or false, not a string"),
            ({"address": "tcp://h", "cert": "/a"}, "unknown key"),
        ]:
            with self.subTest(value):
                self.assertIn(problem, str(self.assertRaises(ConfigurationError, self.engine, value)))


class EnvironmentTests(FilesCase):
    """`EngineTls.of_environment`."""

    def test_none(self) -> None:
        """Nothing set, or set to nothing, is no TLS."""
        self.assertIsNone(EngineTls.of_environment({}, None))
        self.assertIsNone(EngineTls.of_environment({"DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": ""}, None))

    def test_files(self) -> None:
        """The three files are found by their names; only DOCKER_TLS_VERIFY makes that the engine's is checked."""
        environ = {"DOCKER_CERT_PATH": str(self.directory)}
        self.assertEqual(EngineTls.of_environment(environ, None), EngineTls(self.ca, self.cert, self.key, verify=False))
        environ["DOCKER_TLS_VERIFY"] = "1"
        self.assertEqual(EngineTls.of_environment(environ, None), EngineTls(self.ca, self.cert, self.key))

    def test_default_directory(self) -> None:
        """Without DOCKER_CERT_PATH they are where the CLI has its configuration; none is needed."""
        verify = {"DOCKER_TLS_VERIFY": "1"}
        self.assertEqual(
            EngineTls.of_environment({**verify, "DOCKER_CONFIG": str(self.directory)}, None),
            EngineTls(self.ca, self.cert, self.key),
        )
        home = self.directory / "home"
        (home / ".docker").mkdir(parents=True)
        (home / ".docker" / "ca.pem").write_text("-----BEGIN…")
        self.assertEqual(EngineTls.of_environment(verify, home), EngineTls(home / ".docker" / "ca.pem"))
        self.assertEqual(EngineTls.of_environment(verify, None), EngineTls())

    def test_refused(self) -> None:
        """A directory that is not there, and half a pair of files, are refused."""
        for name, other in (("key", "cert"), ("cert", "key")):
            (self.directory / f"{name}.pem").rename(self.directory / "away")
            error = self.assertRaises(
                ConfigurationError, EngineTls.of_environment, {"DOCKER_CERT_PATH": str(self.directory)}, None
            )
            self.assertIn(f"{name}.pem is missing, and {self.directory}/{other}.pem is of no use", str(error))
            (self.directory / "away").rename(self.directory / f"{name}.pem")
        error = self.assertRaises(ConfigurationError, EngineTls.of_environment, {"DOCKER_CERT_PATH": "/nowhere"}, None)
        self.assertEqual(str(error), "DOCKER_CERT_PATH: /nowhere is not a directory")
