"""The daemon in process: what starting opens, what stopping closes, and what stops a start."""

from __future__ import annotations

import io
import os
import resource
import signal
import socket
import sys
import time
from typing import Any, cast
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from docker_tracker import doors as doors_module
from docker_tracker import tap
from docker_tracker.cli.client import ApiError, Client
from docker_tracker.config import Settings, load
from docker_tracker.control import door as control_module
from docker_tracker.control.peer import Caller
from docker_tracker.daemon import Daemon, raise_descriptor_limit
from docker_tracker.errors import ConfigurationError
from docker_tracker.interceptor import Interceptor
from docker_tracker.interfaces import IDaemon
from docker_tracker.proxy.plan import Named, Plan
from tests.support.certificates import Authority
from tests.support.hand_reactor import HandReactor
from tests.support.short import short_directory


class Reactor(HandReactor):
    """A reactor for starting and stopping; nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.when_running: list[Any] = []
        self.stopped = False

    def callWhenRunning(self, callback: Any, *arguments: Any) -> None:
        self.when_running.append(callback)

    def callFromThread(self, callback: Any, *arguments: Any) -> None:
        callback(*arguments)

    def stop(self) -> None:
        self.stopped = True


def job_of(daemon: Daemon) -> str:
    """Return the ID of the job that clients of the configuration's listeners belong to."""
    assert daemon._door is not None
    return daemon._door._job.id


class DaemonTestCase(SynchronousTestCase):
    """Settings in a directory of their own."""

    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.reactor = Reactor()

    def settings(self, **options: Any) -> Settings:
        """Return settings; by default a plain proxy on a unix socket."""
        return load(
            {
                "engine": f"unix://{self.directory}/engine.sock",
                "listen": [f"unix://{self.directory}/run/docker.sock"],
                "interceptors": "none",
                "state-dir": str(self.directory / "state"),
                "run-dir": str(self.directory / "run"),
                **options,
            },
            {},
            euid=os.geteuid(),
        )

    def daemon(self, **options: Any) -> Daemon:
        """Return a daemon that was not started."""
        return Daemon(self.reactor, self.settings(**options), {})  # type: ignore[arg-type]

    def stop(self, daemon: Daemon) -> None:
        """Stop a daemon that has nothing to wait for."""
        self.successResultOf(daemon.stopService())


class StartTests(DaemonTestCase):
    """Starting and stopping."""

    def test_interface(self) -> None:
        """Plug-ins find what they are promised."""
        verifyObject(IDaemon, self.daemon(interceptors="labels"))

    def test_nothing_opened_before(self) -> None:
        """Making one, and checking it, opens nothing."""
        before = len(os.listdir("/proc/self/fd"))
        daemon = self.daemon(interceptors="labels,audit", **{"audit-log": str(self.directory / "audit")})
        daemon.check()
        self.assertEqual(len(daemon._reopeners), 0)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(os.listdir(self.directory), [])

    def test_listens_and_stops(self) -> None:
        """From the privileged start on its socket is there; after the stop it is gone."""
        before = len(os.listdir("/proc/self/fd"))
        daemon = self.daemon()
        daemon.privilegedStartService()
        path = self.directory / "run" / "docker.sock"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        daemon.startService()
        self.reactor.turn(2)
        self.stop(daemon)
        self.assertFalse(path.exists())
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(self.reactor.descriptors, 0)

    def test_all_kinds(self) -> None:
        """unix, TCP and TLS listeners at once, and TLS to the engine."""
        authority = Authority(self.directory)
        pair = authority.sign("server")
        file = self.directory / "c.toml"
        file.write_text(
            f"""
            listen = [
                "tcp:0:interface=127.0.0.1",
                {{address = "tcp://127.0.0.1:0", certificate = "{pair.certificate}", key = "{pair.key}"}},
                "unix://{self.directory}/run/docker.sock",
            ]
            [engine]
            address = "tcp://127.0.0.1:1"
            ca = "{authority.certificate}"
            """
        )
        file.chmod(0o600)
        self.directory.chmod(0o700)
        daemon = self.daemon(listen=[], engine=None, config=str(file))
        daemon.startService()
        self.assertEqual(self.reactor.descriptors, 3)
        self.stop(daemon)

    def test_tls_files(self) -> None:
        """TLS files that are none stop the start, and nothing stays open."""
        authority = Authority(self.directory)
        pair = authority.sign("server")
        broken = self.directory / "broken"
        broken.write_text("nonsense")
        self.directory.chmod(0o700)
        for text in (
            f'listen = [{{address = "tcp://127.0.0.1:0", certificate = "{broken}", key = "{pair.key}"}}]',
            f'engine = {{address = "tcp://127.0.0.1:1", ca = "{broken}"}}',
        ):
            file = self.directory / "c.toml"
            file.write_text(text)
            file.chmod(0o600)
            options: dict[str, Any] = {"engine": None} if "engine" in text else {"listen": []}
            daemon = self.daemon(config=str(file), **options)
            self.assertIn("TLS files", str(self.assertRaises(ConfigurationError, daemon.startService)))
            self.assertEqual(self.reactor.descriptors, 0)

    def test_taken(self) -> None:
        """An address that is taken stops the start; the sockets bound before are closed and removed."""
        first, second = f"unix://{self.directory}/run/docker.sock", f"unix://{self.directory}/other.sock"
        (self.directory / "other.sock").write_text("precious")
        daemon = self.daemon(listen=[first, second])
        self.assertRaises(ConfigurationError, daemon.privilegedStartService)
        self.assertEqual(os.listdir(self.directory / "run"), [])
        self.assertEqual((self.directory / "other.sock").read_text(), "precious")

    def test_run_directory(self) -> None:
        """A run directory that cannot be made is named."""
        (self.directory / "run").write_text("a file")
        error = self.assertRaises(ConfigurationError, self.daemon().privilegedStartService)
        self.assertIn(str(self.directory / "run"), str(error))

    def test_passed_sockets(self) -> None:
        """What systemd passes is taken; plain TCP that all can reach only if that was said."""
        for host, insecure in (("127.0.0.1", False), ("0.0.0.0", True), ("0.0.0.0", False), ("", False)):
            sock = socket.socket(socket.AF_INET if host else socket.AF_UNIX)
            sock.bind((host, 0) if host else str(self.directory / "passed"))
            sock.listen()
            self.patch(doors_module, "passed_socket", lambda *_, sock=sock: sock)
            daemon = self.daemon(listen=["systemd:index=0"], **{"insecure-tcp": insecure or None})
            if host == "0.0.0.0" and not insecure:
                self.assertIn("--insecure-tcp", str(self.assertRaises(ConfigurationError, daemon.startService)))
            else:
                daemon.startService()
                self.stop(daemon)
            self.assertEqual(sock.fileno(), -1)

    def test_ledger(self) -> None:
        """With interceptors the job is the ledger's, and is the same after a restart."""
        ids = []
        for _ in range(2):
            daemon = self.daemon(interceptors="labels")
            self.patch(self.reactor, "callFromThread", None)  # without a thread
            daemon.startService()
            ids.append((daemon.instance, job_of(daemon)))
            self.stop(daemon)
        self.assertEqual(ids[0], ids[1])
        self.assertTrue(ids[0][0])

    def test_state_that_others_can_write(self) -> None:
        """A state directory that others could write to, or replace, stops the start; a plain proxy has none."""
        state = self.directory / "above" / "state"
        state.mkdir(parents=True)
        for place in (state, state.parent):
            place.chmod(0o777)
            daemon = self.daemon(interceptors="labels", **{"state-dir": str(state)})
            error = self.assertRaises(ConfigurationError, daemon.startService)
            self.assertEqual(error.where, str(place))
            self.assertIn("chmod go-w", error.problem)
            self.assertEqual(os.listdir(state), [])
            self.assertFalse((self.directory / "run" / "docker.sock").exists())
            place.chmod(0o700)
        state.chmod(0o777)
        daemon = self.daemon(**{"state-dir": str(state)})
        daemon.startService()
        self.stop(daemon)

    def test_engine_is_a_job(self) -> None:
        """An engine that is the socket of one of our jobs would be asked for ever: it stops the start."""
        jobs = self.directory / "run" / "jobs"
        jobs.mkdir(parents=True)
        link = self.directory / "link"
        link.symlink_to(jobs / "b.sock")
        (jobs / "c.sock").write_text("")
        os.link(jobs / "c.sock", self.directory / "hard")
        for path in (jobs / "b.sock", link, self.directory / "hard"):
            daemon = self.daemon(engine=f"unix://{path}")
            error = self.assertRaises(ConfigurationError, daemon.check)
            self.assertIn("is our own: ", str(error))
            self.assertIn("unset DOCKER_HOST", str(error))
        self.daemon().check()
        self.daemon(engine="tcp://127.0.0.1:1").check()

    def test_engine_is_passed(self) -> None:
        """So does one that is a socket which systemd passes: only its descriptor says where it is."""
        for name in ("passed", "\0tracker-test-passed"):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(name if name[0] == "\0" else str(self.directory / name))
            sock.listen()
            self.patch(doors_module, "passed_socket", lambda *_, sock=sock: sock)
            daemon = self.daemon(listen=["systemd:index=0"], engine=f"unix://{self.directory}/passed")
            if name == "passed":
                self.assertIn("is our own", str(self.assertRaises(ConfigurationError, daemon.privilegedStartService)))
            else:
                daemon.startService()
                self.stop(daemon)
            self.assertEqual(sock.fileno(), -1)

    def test_outside(self) -> None:
        """What only a start would look up or read can be looked at before."""
        authority = Authority(self.directory)
        server, other = authority.sign("server"), authority.sign("other")
        self.directory.chmod(0o700)
        file = self.directory / "c.toml"
        tcp = 'address = "tcp://127.0.0.1:1"'
        for text, problem in (
            ('listen = [{address = "unix:///a", group = "no-such"}]', "listen unix:///a: there is no group 'no-such'"),
            ('listen = [{address = "unix:///a", user = "no-such"}]', "listen unix:///a: there is no user 'no-such'"),
            ('control = {address = "unix:///a", group = "no-such"}', "control unix:///a: there is no group 'no-such'"),
            (f'listen = [{{{tcp}, certificate = "{server.certificate}", key = "{other.key}"}}]', "its TLS files"),
            (f'engine = {{{tcp}, certificate = "{server.certificate}", key = "{other.key}"}}', "its TLS files"),
            (f'listen = [{{{tcp}, certificate = "{server.certificate}", key = "{server.key}"}}]', ""),
        ):
            file.write_text(text)
            file.chmod(0o600)
            options: dict[str, Any] = {"engine": None} if "engine" in text else {"listen": []}
            daemon = self.daemon(config=str(file), **options)
            daemon.check()
            if problem:
                self.assertIn(problem, str(self.assertRaises(ConfigurationError, daemon.check_outside)))
            else:
                daemon.check_outside()
        audit = self.directory / "audit"
        audit.write_text("")
        daemon = self.daemon(interceptors="audit", **{"audit-log": str(audit)})
        daemon.check_outside()
        with patch("os.access", return_value=False):
            self.assertIn(f"to {audit}", str(self.assertRaises(ConfigurationError, daemon.check_outside)))

    def test_ledger_taken(self) -> None:
        """A second daemon on one state directory does not start, and takes nothing down with it."""
        self.patch(self.reactor, "callFromThread", None)
        first = self.daemon(interceptors="labels")
        first.startService()
        second = self.daemon(interceptors="labels", listen=[f"unix://{self.directory}/second.sock"])
        error = self.assertRaises(ConfigurationError, second.startService)
        self.assertIn("another docker-tracker uses this state directory", str(error))
        self.assertFalse((self.directory / "second.sock").exists())
        self.stop(first)

    def test_endpoints(self) -> None:
        """Endpoint strings that Twisted does not understand, or cannot listen on, stop the start."""
        for text, words in (("nosuch:tcp:1", "does not understand"), ("haproxy:unix:/nonexistent/s", "cannot listen")):
            daemon = Daemon(reactor, self.settings(listen=[text], **{"insecure-tcp": True}), {})  # type: ignore[arg-type]
            self.assertIn(words, str(self.assertRaises(ConfigurationError, daemon.startService)))


class SignalTests(DaemonTestCase):
    """Signals."""

    def setUp(self) -> None:
        super().setUp()
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_signals(self) -> None:
        """SIGTERM stops the reactor; SIGHUP reopens what plug-ins have open."""
        daemon = self.daemon()
        daemon.startService()
        for callback in self.reactor.when_running:
            callback()
        reopened: list[int] = []
        daemon.on_reopen(lambda: reopened.append(1))
        daemon.on_reopen(lambda: reopened.append(2))()  # withdrawn at once
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual((reopened, self.reactor.stopped), ([1], False))
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertTrue(self.reactor.stopped)
        self.stop(daemon)

    def test_log_file(self) -> None:
        """SIGHUP reopens the log, too."""
        log = self.directory / "log"
        with log.open("a") as stream:
            daemon = Daemon(self.reactor, self.settings(), {}, log)  # type: ignore[arg-type]
            daemon.startService()
            log.rename(self.directory / "log.1")
            daemon.reopen()
            stream.write("after")
        self.assertEqual(log.read_text(), "after")
        self.stop(daemon)


class StopTests(DaemonTestCase):
    """Stopping goes on to the end."""

    def test_interceptor_fails(self) -> None:
        """An interceptor that cannot be stopped is logged; the others are stopped."""
        stopped: list[str] = []

        class Failing(Interceptor):
            async def stop(self) -> None:
                raise RuntimeError("oops")

        class Stopping(Interceptor):
            async def stop(self) -> None:
                stopped.append("yes")

        daemon = self.daemon()
        daemon.startService()
        assert daemon._door is not None
        daemon._door.plan = Plan([Named("one", Failing()), Named("two", Stopping())])
        self.stop(daemon)
        self.assertEqual(stopped, ["yes"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_descriptor_limit(self) -> None:
        """The soft limit of open files becomes the hard one."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 512), limits[1]))
        raise_descriptor_limit()
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE)[0], limits[1])
        raise_descriptor_limit()


class WholeTests(TestCase):
    """All parts on the real reactor, without an engine."""

    async def test_recorder(self) -> None:
        """The watcher follows, in vain, and stops; so does an endpoint of Twisted's."""
        directory = short_directory(self)
        settings = load(
            {
                "engine": f"unix://{directory}/engine.sock",
                "listen": [f"unix://{directory}/d.sock", "haproxy:tcp:0:interface=127.0.0.1"],
                "insecure-tcp": True,
                "state-dir": str(directory / "state"),
                "run-dir": str(directory / "run"),
            },
            {},
            euid=os.geteuid(),
        )
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        daemon = Daemon(cast(Any, reactor), settings, {})
        daemon.privilegedStartService()
        daemon.startService()
        await deferLater(reactor, 0.05)
        self.assertTrue(daemon.running)
        await daemon.stopService()

    async def test_group_of_the_control_socket(self) -> None:
        """Its members may do everything if its file is theirs to write to, not if only the file's owner is let in."""
        directory = short_directory(self)
        directory.chmod(0o700)
        file = directory / "c.toml"
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        group = os.getegid()
        owner = Caller(pid=1, uid=os.geteuid() + 1, groups=frozenset({group}))
        for mode in ("0660", "0600"):
            file.write_text(f'control = {{address = "unix://{directory}/c", mode = "{mode}", group = "{group}"}}')
            file.chmod(0o600)
            places = {f"{name}-dir": str(directory / name) for name in ("state", "run")}
            settings = load({"config": str(file), "engine": f"unix://{directory}/e", **places}, {}, euid=os.geteuid())
            daemon = Daemon(cast(Any, reactor), settings, {})
            daemon.startService()
            try:
                with patch.object(control_module, "caller_of", return_value=owner):
                    asked = deferToThread(lambda: [*Client(directory / "c").stream("/events")])
                    if mode == "0660":
                        await asked
                    else:
                        error: Any = await self.assertFailure(asked, ApiError)
                        self.assertEqual(error.status, 403)
            finally:
                await daemon.stopService()


class TapTests(DaemonTestCase):
    """What twistd calls."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(reactor, "seconds", reactor.seconds)
        self.patch(sys, "stderr", sys.stderr)  # a start that fails gives it back to who had it

    def test_steady_clock(self) -> None:
        """What waits goes by a clock that nobody sets, which begins with the time that it is."""
        tap.makeService(self.options("--interceptors=none"))
        before = reactor.seconds()
        self.assertLess(abs(before - time.time()), 60)
        self.patch(time, "time", lambda: 5.0)
        self.assertGreaterEqual(reactor.seconds(), before)

    def options(self, *flags: str, **twistd: Any) -> tap.Options:
        """Return parsed options, as twistd would."""
        options = tap.Options()
        options.parent = cast(Any, {"nodaemon": True, **twistd})
        options.parseOptions(
            [
                f"--engine=unix://{self.directory}/engine.sock",
                f"--state-dir={self.directory}/state",
                f"--run-dir={self.directory}/run",
                *flags,
            ]
        )
        return options

    def test_service(self) -> None:
        """It makes a service that starts and stops the daemon."""
        service = tap.makeService(self.options("--interceptors=none", "-p0", logfile="-"))
        service.privilegedStartService()
        service.stopService()
        for twistd in ({"syslog": True}, {"nodaemon": False}, {"logfile": str(self.directory / "log")}):
            tap.makeService(self.options("--interceptors=none", **twistd))
        self.assertEqual(os.listdir(self.directory), [])

    def test_bad_interceptor(self) -> None:
        """What cannot be built ends twistd with a sentence."""
        error = self.assertRaises(SystemExit, tap.makeService, self.options("--interceptors=nosuch"))
        self.assertIn("docker-tracker: interceptors: there is no interceptor 'nosuch'", str(error.code))

    def test_check_config(self) -> None:
        """--check-config ends with 0 when all is well."""
        error = self.assertRaises(SystemExit, tap.makeService, self.options("--check-config"))
        self.assertEqual(error.code, 0)

    def test_check_config_further(self) -> None:
        """--check-config finds what only a start would come upon; nothing is printed but the one line."""
        output = io.StringIO()
        with patch("sys.stdout", output):
            options = self.options("--check-config", f"--audit-log={self.directory}/audit")
            with patch("os.access", return_value=False):
                error = self.assertRaises(SystemExit, tap.makeService, options)
        self.assertEqual(
            error.code,
            f"docker-tracker: audit-log: {self.directory}/audit cannot be written: this user may not write to "
            f"{self.directory}",
        )
        self.assertEqual((output.getvalue(), os.listdir(self.directory)), ("", []))

    def test_check_config_hidden(self) -> None:
        """So is a log in a directory that this user may not look into."""
        hidden = self.directory / "hidden"
        hidden.mkdir()
        real = os.stat

        def stat(path: Any, **more: Any) -> Any:
            if str(path).startswith(f"{hidden}/"):
                raise PermissionError(13, "Permission denied")
            return real(path, **more)

        options = self.options("--check-config", f"--audit-log={hidden}/audit")
        with patch("os.stat", stat), patch("os.access", return_value=False):
            error = self.assertRaises(SystemExit, tap.makeService, options)
        self.assertIn(f"this user may not write to {hidden}", str(error.code))

    def test_bad_rule(self) -> None:
        """A bad rule of [[attribute]] is one line as well."""
        file = self.directory / "c.toml"
        for rule, problem in (
            ('job = "a"\nuid = "nobody"', "attribute 1: uid: 'nobody' is not the number of a user"),
            ("uid = 1", "attribute 1: job: '' is not a job's name, in which {value} may stand"),
            ('job = "a"', "attribute 1: needs at least one of uid, cgroup and environment"),
        ):
            file.write_text(f"[[attribute]]\n{rule}\n")
            file.chmod(0o600)
            error = self.assertRaises(SystemExit, tap.makeService, self.options(f"--config={file}"))
            self.assertEqual(error.code, f"docker-tracker: {problem}")

    def test_pid_file(self) -> None:
        """The file with the number of a daemon in front that did not start is removed; another process's stays."""
        taken, pid_file = self.directory / "taken", self.directory / "pid"
        taken.write_text("precious")
        for number, left in ((os.getpid(), False), (1, True)):
            pid_file.write_text(str(number))
            options = self.options("--interceptors=none", f"--listen=unix://{taken}", pidfile=str(pid_file))
            self.assertRaises(SystemExit, tap.makeService(options).privilegedStartService)
            self.assertEqual(pid_file.exists(), left)

    def test_cannot_start(self) -> None:
        """In front a failing start is a sentence; behind a fork it is an exception, which twistd's parent prints."""
        taken = self.directory / "taken"
        taken.write_text("precious")
        for in_front, expected in ((True, SystemExit), (False, ConfigurationError)):
            options = self.options("--interceptors=none", f"--listen=unix://{taken}", nodaemon=in_front)
            service = tap.makeService(options)
            self.assertIn("taken", str(self.assertRaises(expected, service.privilegedStartService)))
            self.assertIn("taken", str(self.assertRaises(expected, service.startService)))

    def test_said_where_it_is_looked_for(self) -> None:
        """In front it is said on standard error, where twistd has put its log; and in the log, if that is a file."""
        taken = self.directory / "taken"
        taken.write_text("precious")
        for logfile, logged in (("-", 0), (str(self.directory / "log"), 1)):
            sys.stderr = io.StringIO()
            service = tap.makeService(
                self.options("--interceptors=none", f"--listen={taken}", logfile=logfile, pidfile="")
            )
            with capturedLogs() as events:
                self.assertRaises(SystemExit, service.privilegedStartService)
            self.assertIs(sys.stderr, sys.__stderr__)
            self.assertEqual(["taken" in event.get("error", "") for event in events], [True] * logged)
