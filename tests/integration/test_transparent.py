"""Through the daemon it is as without it: the contract of engines, and what only a proxy can get wrong."""

from __future__ import annotations

import atexit
import base64
import functools
import json
import os
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.contract.engine import engine_contract, tar
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.engine import discard, docker, engine_address, private_engine, require_program
from tests.support.fake_engine import FakeEngine
from tests.support.stream import Stream, call, descriptors, frames, wait_until

IMAGE = "busybox:local"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
JSON = {"Content_Type": "application/json"}


@functools.cache
def shared_daemon(engine: str, *options: str) -> Daemon:
    """Start a daemon that serves all tests of this module and is stopped at this process's end."""
    daemon = Daemon(f"--engine={engine}", *options)
    daemon.command.append(f"--listen={daemon.address}")
    daemon.start()

    def stop() -> None:
        daemon.stop()
        daemon.discard()

    atexit.register(stop)
    daemon.wait_for_socket()
    return daemon


def through_daemon(test: SynchronousTestCase) -> str:
    """Give the address of a plain proxy before the run's engine."""
    return shared_daemon(engine_address(), "--interceptors=none").address


def through_interceptors(test: SynchronousTestCase) -> str:
    """Give the address of a daemon with its default interceptors before the run's engine."""
    return shared_daemon(engine_address()).address


class _Differences:
    """What is not as without a daemon, on purpose; put before the contract."""

    def test_early_bytes_are_lost(self: Any) -> None:
        """Bytes that come together with a stream's request are not lost: they wait for the engine's head."""
        container = self.container("sleep", "1000", start=True)
        identifier, stream = self.exec(container, "cat", start=False)
        head = f"POST /exec/{identifier}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        stream.send(head.encode() + b"Content-Length: 2\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n{}EARLY")
        self.assertEqual(stream.read_head().status, 101)
        stream.send(b"late")
        stream.half_close()
        self.assertEqual(b"".join(frames(stream.rest()).values()), b"EARLYlate")

    def test_half_closed_wait_is_cancelled(self: Any) -> None:
        """The end of a client's input is not passed on before its answer is whole."""
        container = self.interactive("cat", start=True)
        stream = self.stream().request("POST", f"/containers/{container}/wait", b"")
        stream.read_head()
        stream.half_close()
        self.call("POST", f"/containers/{container}/kill")
        self.assertEqual(json.loads(stream.body())["StatusCode"], 137)
        self.assertTrue(stream.ended())

    def test_half_closed_events_end(self: Any) -> None:
        """So do events go on, until the client leaves for good."""
        stream = self.stream().request("GET", "/events")
        stream.read_head()
        stream.half_close()
        self.addCleanup(self.call, "DELETE", f"/volumes/{self.name}")
        self.call("POST", "/volumes/create", {"Name": self.name})
        self.assertIn(self.name.encode(), stream.until(b"\n") + stream.until(b"\n"))


class PlainTests(_Differences, engine_contract(through_daemon)):  # type: ignore[misc]
    """The contract, through a daemon without interceptors."""


class InterceptedTests(_Differences, engine_contract(through_interceptors)):  # type: ignore[misc]
    """The contract, through a daemon with its default interceptors: but for labels nothing differs."""

    def own(self, labels: dict[str, str] | None) -> dict[str, str] | None:
        kept = {name: value for name, value in (labels or {}).items() if not name.startswith("docker-tracker.")}
        self.assertEqual(kept.pop("Created-Via", None), "docker-tracker")
        return kept


class DaemonCase(SynchronousTestCase):
    """Tests with a daemon of their own."""

    def setUp(self) -> None:
        self.name = f"through-{uuid.uuid4().hex[:12]}"
        self.directory = Path(tempfile.mkdtemp(prefix="dt-through-", dir="/tmp"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(self.directory)], check=True)

    def daemon(self, *options: str, listen: bool = True, **more: Any) -> Daemon:
        """Start a daemon; it must end well."""
        daemon = Daemon(*options, **more)
        if listen:
            daemon.command.append(f"--listen={daemon.address}")
        self.addCleanup(self.end, daemon)
        daemon.start()
        daemon.wait_for(lambda: "Listening on" in daemon.output() or not listen)
        return daemon

    def end(self, daemon: Daemon) -> None:
        """Stop a daemon, unless the test did."""
        try:
            self.assertEqual(daemon.stop(), 0, daemon.output())
            self.assertEqual(daemon.output().partition("Traceback")[2], "")
        finally:
            daemon.discard()

    def container(self, engine: str, *command: str, **config: Any) -> str:
        """Create and start a container."""
        document = {"Image": IMAGE, "Cmd": command, **config}
        status, answer = call(engine, "POST", "/containers/create", document)
        self.assertEqual(status, 201, answer)
        self.addCleanup(call, engine, "DELETE", f"/containers/{answer['Id']}?force=1&v=1")
        self.assertEqual(call(engine, "POST", f"/containers/{answer['Id']}/start")[0], 204)
        return str(answer["Id"])

    def exec(self, address: str, container: str, *command: str) -> Stream:
        """Start an exec with input and output attached."""
        config = {"Cmd": command, "AttachStdin": True, "AttachStdout": True}
        identifier = call(address, "POST", f"/containers/{container}/exec", config)[1]["Id"]
        stream = Stream(address)
        self.addCleanup(stream.close)
        stream.request("POST", f"/exec/{identifier}/start", b"{}", **JSON, **UPGRADE)
        self.assertEqual(stream.read_head().status, 101)
        return stream


class LeavingTests(DaemonCase):
    """A client that leaves has left at the engine, too."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = engine_address()
        self.ways = {
            "none": shared_daemon(self.engine, "--interceptors=none"),
            "default": shared_daemon(self.engine),
        }

    def listeners(self) -> int:
        """Count who listens to the engine's events."""
        return int(call(self.engine, "GET", "/info")[1]["NEventsListener"])

    def test_events(self) -> None:
        """A listener that closes, or ended its input before, is none of the engine's any more."""
        before = self.listeners()
        for daemon in self.ways.values():
            for halves in (False, True):
                with Stream(daemon.address) as stream:
                    stream.request("GET", "/events").read_head()
                    wait_until(lambda: self.listeners() == before + 1, "the engine's listener")
                    if halves:
                        stream.half_close()
                wait_until(lambda: self.listeners() == before, "the end of the engine's listener")

    def test_streams(self) -> None:
        """Clients that were killed leave no descriptor: of attach, exec, logs, stats and wait."""
        container = self.container(self.engine, "sleep", "1000", OpenStdin=True)
        for daemon in self.ways.values():
            assert daemon.process is not None
            before = descriptors(daemon.process.pid)
            engine_before = int(call(self.engine, "GET", "/info")[1]["NFd"])
            for command in (
                ("attach", container),
                ("exec", "-i", container, "cat"),
                ("logs", "-f", container),
                ("stats", container),
                ("wait", container),
            ):
                program = require_program("docker", "docker.io")
                environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": daemon.address, "HOME": str(self.directory)}
                client = subprocess.Popen(
                    [program, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
                )
                wait_until(lambda: descriptors(daemon.process.pid) >= before + 2, "the stream")  # type: ignore[union-attr]  # noqa: B023
                client.kill()
                with client:
                    pass
                wait_until(lambda: descriptors(daemon.process.pid) == before, f"the end of {command}")  # type: ignore[union-attr]  # noqa: B023
            wait_until(lambda: int(call(self.engine, "GET", "/info")[1]["NFd"]) <= engine_before, "the engine's end")  # noqa: B023

    def test_build(self) -> None:
        """A build whose client leaves is cancelled: its container goes."""
        for way, daemon in self.ways.items():
            mark = f"{self.name}-{way}"
            dockerfile = f"FROM {IMAGE}\nRUN : {mark}; sleep 1000\n".encode()
            filters = "/containers/json?all=1"

            def steps() -> list[Any]:
                return [each for each in call(self.engine, "GET", filters)[1] if mark in each["Command"]]  # noqa: B023

            with Stream(daemon.address) as stream:
                stream.request("POST", "/build?forcerm=1", tar(Dockerfile=dockerfile), Content_Type="application/x-tar")
                self.assertEqual(stream.read_head().status, 200)
                wait_until(steps, "the build's container")
            wait_until(lambda: not steps(), "the end of the build's container")

    def test_websocket(self) -> None:
        """A container's input and output cross a web socket."""
        container = self.container(self.engine, "cat", OpenStdin=True)
        key = base64.b64encode(bytes(16)).decode()
        heads = []
        for address in (self.engine, *(daemon.address for daemon in self.ways.values())):
            with Stream(address) as stream:
                target = f"/containers/{container}/attach/ws?stream=1&stdin=1&stdout=1"
                more = {"Sec_WebSocket_Key": key, "Sec_WebSocket_Version": "13", "Origin": "http://docker"}
                stream.request("GET", target, None, Connection="Upgrade", Upgrade="websocket", **more)
                heads.append(stream.read_head().raw)
                stream.send(b"\x82\x86\0\0\0\0hello\n")  # a masked binary frame (RFC 6455 section 5.2)
                self.assertEqual(stream.read(2)[0] & 0x0F, 2)
                self.assertEqual(stream.read(6), b"hello\n")
        self.assertIn(b"Sec-WebSocket-Accept", heads[0])
        self.assertEqual(set(heads), {heads[0]})


class EngineTests(DaemonCase):
    """Engines that come, go, or refuse."""

    def test_absent(self) -> None:
        """Without an engine all is answered by 503 that names its address, until it is there."""
        for options in (("--interceptors=none",), ()):
            path = self.directory / "engine.sock"
            daemon = self.daemon(f"--engine=unix://{path}", *options)
            for method, target, document in (
                ("GET", "/v1.41/containers/json", None),
                ("POST", "/containers/create", {"Image": IMAGE}),
                ("POST", "/containers/x/attach?stream=1", None),
                ("POST", "/build", None),
                ("GET", "/events", None),
            ):
                status, answer = call(daemon.address, method, target, document)
                self.assertEqual((status, list(answer)), (503, ["message"]), (method, target))
                self.assertIn(f"unix://{path}", answer["message"])
            with Stream(daemon.address) as kept:
                self.assertEqual(kept.request("HEAD", "/_ping").answer(), (503, ""))
            with FakeEngine(path):
                self.assertEqual(call(daemon.address, "GET", "/_ping"), (200, "OK"))
                created = call(daemon.address, "POST", "/containers/create", {"Image": IMAGE})
                self.assertEqual(created[0], 201, created)
            self.assertEqual(call(daemon.address, "GET", "/_ping")[0], 503)

    def test_restarted(self) -> None:
        """After a restart of the engine the next request works; streams of the old one end."""
        engine = private_engine("again")
        self.addCleanup(discard, engine)
        engine.start()
        daemon = self.daemon(f"--engine={engine.address}")
        docker("create", "--name=before", IMAGE, "sleep", "1000", address=daemon.address)
        for kill in (False, True):
            with Stream(daemon.address) as stream, Stream(daemon.address) as idle:
                stream.request("GET", "/events").read_head()
                self.assertEqual(idle.request("GET", "/_ping").answer(), (200, "OK"))
                engine.restart(kill=kill)
                wait_until(lambda: _ended(stream), "the old engine's stream")
                self.assertEqual(docker("start", "before", address=daemon.address).stdout, b"before\n")
                docker("exec", "before", "true", address=daemon.address)
                if kill:
                    self.assertTrue(idle.ended())
        listed = call(daemon.address, "GET", "/tracker")
        self.assertEqual(len(str(listed[1]).split()), 1, listed)

    def test_swarm(self) -> None:
        """Services, their containers, secrets and configs are labelled, and the command line works as directly."""
        engine = private_engine("swarm")
        self.addCleanup(discard, engine)
        engine.start()
        daemon = self.daemon(f"--engine={engine.address}", "--label=operator=me")
        init = ("swarm", "init", "--advertise-addr=127.0.0.1", "--listen-addr=127.0.0.1:2377")
        docker(*init, address=daemon.address)
        docker("secret", "create", "--label=own=1", "hidden", "-", address=daemon.address, data=b"x")
        docker("config", "create", "--label=own=1", "shown", "-", address=daemon.address, data=b"x")
        options = ("--detach", "--name=web", "--label=own=1", "--container-label=own=1", "--secret=hidden")
        docker("service", "create", *options, IMAGE, "sleep", "1000", address=daemon.address)
        docker("service", "update", "--detach", "--label-add=more=1", "web", address=daemon.address)
        expected = {"own": "1", "operator": "me"}
        for path, pick in (
            ("/secrets/hidden", lambda found: found["Spec"]["Labels"]),
            ("/configs/shown", lambda found: found["Spec"]["Labels"]),
            ("/services/web", lambda found: found["Spec"]["Labels"]),
            ("/services/web", lambda found: found["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"]),
        ):
            labels = pick(engine.api("GET", path)[1])
            self.assertLessEqual(expected.items(), labels.items(), path)
            self.assertTrue({"docker-tracker.job", "docker-tracker.job-id", "docker-tracker.instance"} <= set(labels))
        self.assertEqual(engine.api("GET", "/services/web")[1]["Spec"]["Labels"]["more"], "1")
        with Stream(daemon.address) as stream:
            stream.request("GET", "/tracker?all=1", None, Accept="application/json")
            kinds = json.dumps(stream.answer()[1])
        for kind in ("service", "secret", "config"):
            self.assertIn(f'"{kind}"', kinds)
        for command in (("service", "rm", "web"), ("secret", "rm", "hidden"), ("config", "rm", "shown")):
            docker(*command, address=daemon.address)
        docker("swarm", "leave", "--force", address=daemon.address)


def _ended(stream: Stream) -> bool:
    return not stream.some()


class SignalTests(DaemonCase):
    """What is in flight when the daemon is told something."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = engine_address()

    def test_drained(self) -> None:
        """At SIGTERM nobody is accepted any more, what is in flight is finished, then the daemon ends."""
        for options in (("--interceptors=none",), ()):
            daemon = self.daemon(f"--engine={self.engine}", *options)
            container = self.container(self.engine, "cat", OpenStdin=True, StdinOnce=True)
            with (
                Stream(daemon.address) as waiting,
                Stream(daemon.address) as attached,
                Stream(daemon.address) as idle,
                Stream(daemon.address) as creating,
            ):
                waiting.request("POST", f"/containers/{container}/wait", b"").read_head()
                target = f"/containers/{container}/attach?stream=1&stdin=1&stdout=1"
                attached.request("POST", target, b"", **UPGRADE).read_head()
                self.assertEqual(idle.request("GET", "/_ping").answer(), (200, "OK"))
                body = json.dumps({"Name": self.name}).encode()
                self.addCleanup(call, self.engine, "DELETE", f"/volumes/{self.name}")
                creating.request("POST", "/volumes/create", None, Content_Length=str(len(body)), **JSON)
                creating.send(body[:5])
                # The daemon has the beginning of that request when it has answered one that came later.
                self.assertEqual(call(daemon.address, "GET", "/_ping"), (200, "OK"))
                assert daemon.process is not None
                daemon.process.send_signal(signal.SIGTERM)
                self.assertTrue(idle.ended())
                with self.assertRaises(OSError):
                    Stream(daemon.address)
                creating.send(body[5:])
                self.assertEqual(creating.answer()[0], 201)
                self.assertTrue(creating.ended())
                attached.send(b"late")
                self.assertEqual(attached.read(12)[8:], b"late")
                attached.half_close()
                self.assertTrue(attached.ended())
                self.assertEqual(json.loads(waiting.body())["StatusCode"], 0)
                self.assertTrue(waiting.ended())
                attached.close()
                self.assertEqual(daemon.process.wait(30), 0)
                self.assertFalse(daemon.socket_path.exists())

    def test_drained_in_bounds(self) -> None:
        """A stream that does not end is cut when the time for that is over."""
        config = self.directory / "config.toml"
        config.write_text("[limits]\ndrain-seconds = 0.5\n")
        daemon = self.daemon(f"--config={config}", f"--engine={self.engine}")
        with Stream(daemon.address) as stream:
            stream.request("GET", "/events").read_head()
            self.assertEqual(daemon.stop(), 0)
            self.assertTrue(stream.ended())

    def test_files_are_reopened(self) -> None:
        """At SIGHUP the log and the audit file are opened anew, and nothing of them is lost."""
        log, audit = self.directory / "log", self.directory / "audit"
        twistd = ("--nodaemon", "--pidfile=", f"--logfile={log}")
        options = (f"--engine={self.engine}", f"--audit-log={audit}")
        daemon = Daemon(*options, twistd=twistd)
        daemon.command.append(f"--listen={daemon.address}")
        self.addCleanup(self.end, daemon)
        daemon.start()
        daemon.wait_for_socket()
        self.assertEqual(call(daemon.address, "GET", "/volumes/before")[0], 404)
        # It is made when something is first written.
        daemon.wait_for(audit.exists)
        for path in (log, audit):
            path.rename(f"{path}.1")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(log.exists)
        self.assertEqual(call(daemon.address, "GET", "/volumes/after")[0], 404)
        self.assertEqual(daemon.stop(), 0)

        def paths(path: Path | str) -> list[str]:
            lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
            return [line["path"] for line in lines if line["path"] != "/_ping"]

        self.assertEqual(paths(f"{audit}.1"), ["/volumes/before"])
        self.assertEqual(paths(audit), ["/volumes/after"])
        self.assertIn("Listening on", Path(f"{log}.1").read_text())
        self.assertIn("reopened", log.read_text())


class AddressTests(DaemonCase):
    """The real command line over every kind of listener, and every kind of engine address."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = engine_address()
        self.authority = Authority(self.directory)
        for name in ("server", "client"):
            pair = self.authority.sign(name)
            folder = self.directory / f"{name}-certificates"
            folder.mkdir()
            for source, target in ((self.authority.certificate, "ca"), (pair.certificate, "cert"), (pair.key, "key")):
                (folder / f"{target}.pem").write_bytes(source.read_bytes())

    def files(self, name: str) -> Path:
        """Give a folder as DOCKER_CERT_PATH would be."""
        return self.directory / f"{name}-certificates"

    def listening(self, daemon: Daemon, count: int) -> list[str]:
        """Give where a daemon listens, in the order of its listeners."""
        mark = "Listening on "
        daemon.wait_for(lambda: daemon.output().count(mark) >= count)
        return [line.split(mark)[1] for line in daemon.output().splitlines() if mark in line]

    def config(self, listeners: str) -> Path:
        path = self.directory / f"{uuid.uuid4().hex}.toml"
        path.write_text(listeners)
        return path

    def tls_listeners(self) -> str:
        """Give a configuration that listens on TCP, on TLS, and on TLS that asks for certificates."""
        files = self.files("server")
        tls = f'address = "tcp://127.0.0.1:0"\ncertificate = "{files}/cert.pem"\nkey = "{files}/key.pem"\n'
        first = '[[listen]]\naddress = "tcp://127.0.0.1:0"\n'
        return f'{first}[[listen]]\n{tls}[[listen]]\n{tls}client-ca = "{files}/ca.pem"\n'

    def client(self, address: str, *arguments: str, tls: str = "", data: bytes = b"") -> tuple[int, bytes]:
        """Run the command line. :param tls: whose certificates it uses; "ca": only the CA's."""
        program = require_program("docker", "docker.io")
        options = [f"--host={address}"]
        if tls:
            options += ["--tlsverify", f"--tlscacert={self.authority.certificate}"]
        if tls and tls != "ca":
            options += [f"--tlscert={self.files(tls)}/cert.pem", f"--tlskey={self.files(tls)}/key.pem"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory)}
        done = subprocess.run(
            [program, *options, *arguments], input=data, capture_output=True, env=environment, timeout=60
        )
        return done.returncode, done.stdout

    def use(self, address: str, tls: str = "") -> None:
        """Run what tells whether a way works: plain requests, a stream with half-close, much data both ways."""
        self.assertEqual(self.client(address, "info", "--format={{.OSType}}", tls=tls), (0, b"linux\n"))
        much = bytes(range(256)) * 20_000
        for command, data, expected in (
            (("wc", "-c"), much, f"{len(much)}\n".encode()),
            (("cat",), much, much),
            (("head", "-c", "3000000", "/dev/zero"), b"", bytes(3_000_000)),
        ):
            got = self.client(address, "run", "-i", "--rm", IMAGE, *command, tls=tls, data=data)
            self.assertEqual((got[0], len(got[1]), got[1] == expected), (0, len(expected), True), command)

    def test_listeners(self) -> None:
        """TCP, TLS, and TLS with certificates of clients: who has none is refused."""
        for options in (("--interceptors=none",), ()):
            daemon = self.daemon(
                f"--engine={self.engine}", f"--config={self.config(self.tls_listeners())}", *options, listen=False
            )
            plain, tls, mutual = self.listening(daemon, 3)
            self.use(plain)
            self.use(tls, "ca")
            self.use(mutual, "client")
            self.assertNotEqual(self.client(mutual, "version", tls="ca")[0], 0)
            self.assertNotEqual(self.client(mutual, "version")[0], 0)
            self.assertNotEqual(self.client(tls, "version")[0], 0)
            self.assertEqual(self.client(plain, "info", "--format={{.OSType}}"), (0, b"linux\n"))

    def test_engines(self) -> None:
        """An engine on TCP, on TLS, and on TLS that asks for a certificate; by options and by Docker's variables."""
        front = self.daemon(
            f"--engine={self.engine}",
            f"--config={self.config(self.tls_listeners())}",
            "--interceptors=none",
            listen=False,
        )
        plain, tls, mutual = self.listening(front, 3)
        files = self.files("client")
        certified = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(files)}
        ca = f'[engine]\naddress = "{tls}"\nca = "{files}/ca.pem"\n'
        for options, environment in (
            ((f"--engine={plain}",), {}),
            ((f"--config={self.config(ca)}",), {}),
            ((f"--engine={mutual}",), certified),
            ((), {"DOCKER_HOST": mutual, **certified}),
        ):
            daemon = self.daemon(*options, environment=environment)
            self.use(daemon.address)
            assert daemon.process is not None
            process = daemon.process.pid
            with Stream(daemon.address) as stream:
                stream.request("GET", "/events").read_head()
                during = descriptors(process)
            # The client's and the engine's go; others, of calls before, may go as well.
            wait_until(lambda: descriptors(process) <= during - 2, "the end of the connections")  # noqa: B023

    def test_untrusted_engine(self) -> None:
        """An engine whose certificate is not the CA's is not used: 503, with the reason."""
        front = self.daemon(
            f"--engine={self.engine}",
            f"--config={self.config(self.tls_listeners())}",
            "--interceptors=none",
            listen=False,
        )
        _, tls, mutual = self.listening(front, 3)
        other = self.directory / "other"
        other.mkdir()
        ca = Authority(other).certificate
        for address, authority in ((tls, ca), (mutual, self.authority.certificate)):
            config = self.config(f'[engine]\naddress = "{address}"\nca = "{authority}"\n')
            daemon = self.daemon(f"--config={config}", "--interceptors=none")
            status, answer = call(daemon.address, "GET", "/_ping")
            self.assertIn(status, (502, 503), answer)
            self.assertIn(address, answer["message"])
