"""A container that has the engine's socket mounted gets its job's."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from docker_tracker.config import EngineAddress, Listener, Settings
from docker_tracker.engine.catalogue import OPERATIONS
from docker_tracker.errors import BadDocumentError, ConfigurationError, RefusedError
from docker_tracker.exchange import Stage
from docker_tracker.host_paths import HostPaths
from docker_tracker.interfaces import IInterceptor
from docker_tracker.plugins import nested_socket as module
from docker_tracker.plugins.nested_socket import NestedSocket
from docker_tracker.plugins.nested_socket import nested_socket as plugin
from docker_tracker.sources import Found
from docker_tracker.testing import (
    FakeDaemon,
    FakeJob,
    build,
    make_document,
    make_exchange,
    make_settings,
    play,
    request,
    response,
    result_of,
)
from tests.support.short import short_directory


class _Case(SynchronousTestCase):
    """A host in one directory: engine and tracker have their sockets and files in it.

    ``run`` has the engine's socket, ``tracker`` the tracker's; ``state`` is the tracker's, and ``src`` anybody's.
    """

    def setUp(self) -> None:
        self.host = short_directory(self)
        for name in ("run", "tracker/jobs", "state", "plugins", "etc/docker-tracker", "src", "var"):
            (self.host / name).mkdir(parents=True)
        (self.host / "etc/docker-tracker/tracker.toml").write_text("")
        (self.host / "var/run").symlink_to("../run")
        self.engine = self.listen("run/docker.sock")
        self.default = self.listen("tracker/docker.sock")
        self.own = self.listen("tracker/jobs/mine.sock")
        self.other = self.listen("tracker/jobs/other.sock")
        self.patch(module, "_KNOWN", (str(self.host / "known.sock"),))
        self.patch(module, "_OF_USERS", ())

    def listen(self, name: str) -> str:
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(self.host / name))
        listener.listen()
        return str(self.host / name)

    def settings(self, **changes: Any) -> Settings:
        given = {
            "engine": EngineAddress("unix", path=self.engine),
            "listeners": (Listener.of(Found(f"unix://{self.default}", "test")),),
            "run_dir": self.host / "tracker",
            "state_dir": self.host / "state",
            "plugin_dirs": (self.host / "plugins",),
            "config_file": self.host / "etc/docker-tracker/tracker.toml",
        }
        return make_settings(**{**given, **changes})

    def made(
        self, mode: str = "on", parents: str = "refuse", *, own: str | None = None, **changes: Any
    ) -> IInterceptor:
        job = FakeJob(name="mine", socket=self.own if own is None else own)
        daemon = FakeDaemon(settings=self.settings(**changes))
        made = build(plugin, {"mode": mode, "parents": parents}, daemon, job).interceptor
        assert isinstance(made, NestedSocket)
        return made

    def sent(self, made: IInterceptor, body: Any, target: str = "/containers/create") -> Any:
        """Return the body as the engine gets it."""
        document = make_document(body)
        edited = result_of(made.request_json(make_exchange("POST", target), document))
        return json.loads((edited or document).encode())  # type: ignore[union-attr]

    def mounted(self, made: IInterceptor, source: str) -> str:
        """Return what is mounted for one source; both forms of a mount are tried."""
        body = {
            "HostConfig": {
                "Binds": [f"{source}:/var/run/docker.sock:ro"],
                "Mounts": [{"Type": "bind", "Source": source, "Target": "/x"}],
            }
        }
        sent = self.sent(made, body)["HostConfig"]
        bound, target = sent["Binds"][0].split(":", 1)
        self.assertEqual(target, "/var/run/docker.sock:ro")
        self.assertEqual(sent["Mounts"], [{"Type": "bind", "Source": bound, "Target": "/x"}])
        return str(bound)

    def refused(self, made: IInterceptor, source: Path | str, status: int = 403) -> str:
        """Return the sentence with which a mount is refused."""
        error = self.assertRaises(RefusedError, self.mounted, made, str(source))
        self.assertEqual(error.status, status)
        self.assertIn(str(source), error.message)
        return str(error.message)

    def other_names(self) -> list[str]:
        """Give the engine's socket other names, and return them all."""
        host = self.host
        (host / "src/link").symlink_to(self.engine)
        (host / "src/relative").symlink_to("../var/run/docker.sock")
        (host / "src/again").symlink_to("link")
        (host / "src/run").symlink_to("../run")
        os.link(self.engine, host / "src/hard")
        paths = (
            "run/docker.sock",
            "var/run/docker.sock",
            "run/docker.sock/",
            "run//./docker.sock",
            "src/../run/docker.sock",
        )
        more = ("src/link", "src/relative", "src/again", "src/run/docker.sock", "src/hard")
        return [f"{host}/{path}" for path in (*paths, *more)]


class OnTests(_Case):
    def test_engines_socket(self) -> None:
        """By whatever name the engine's socket is mounted, it becomes the job's; where it is mounted stays."""
        made = self.made()
        for source in self.other_names():
            with self.subTest(source=source):
                self.assertEqual(self.mounted(made, source), self.own)

    def test_known_names(self) -> None:
        """Where clients look for an engine's socket, it is meant, whether one is there or not."""
        self.assertEqual(self.mounted(self.made(), str(self.host / "known.sock")), self.own)
        self.assertEqual(self.mounted(self.made(), str(self.host / "src/../known.sock/")), self.own)
        self.listen("known.sock")
        (self.host / "src/link").symlink_to(self.host / "known.sock")
        self.assertEqual(self.mounted(self.made(), str(self.host / "src/link")), self.own)

    def test_known_file(self) -> None:
        """An engine's socket where clients look for one is meant by its other names, too."""
        os.link(self.listen("known.sock"), self.host / "src/hard")
        self.assertEqual(self.mounted(self.made(), f"{self.host}/src/hard"), self.own)

    def test_known_directory(self) -> None:
        """A directory above a place where clients look is as any other, as long as no socket is there."""
        (self.host / "podman").mkdir()
        self.patch(module, "_KNOWN", (str(self.host / "podman/podman.sock"),))
        source = f"{self.host}/podman"
        self.assertEqual(self.mounted(self.made(), source), source)
        self.listen("podman/podman.sock")
        self.assertIn("mount what is needed of it", self.refused(self.made(), source))

    def test_listeners(self) -> None:
        """A socket that the tracker serves all clients by is as good as the engine's."""
        self.assertEqual(self.mounted(self.made(), self.default), self.own)

    def test_own(self) -> None:
        """The job's own socket stays."""
        self.assertEqual(self.mounted(self.made(), self.own), self.own)

    def test_others(self) -> None:
        """What has nothing to do with all that stays, byte for byte."""
        made = self.made()
        (self.host / "run2").mkdir()
        for source in ("/src", f"{self.host}/src", f"{self.host}/run2", f"{self.host}/run/docker.sock2", "/nowhere/x"):
            self.assertEqual(self.mounted(made, source), source)
        for body in ({}, {"HostConfig": {"Binds": ["volume:/x"]}}):
            exchange = make_exchange("POST", "/containers/create")
            self.assertIsNone(result_of(made.request_json(exchange, make_document(body))))

    def test_tracker_is_covered(self) -> None:
        """The tracker's own files are mounted by nobody, other jobs' sockets and the control socket among them."""
        made = self.made(parents="leave", control=str(self.host / "src/control.sock"))
        (self.host / "src/link").symlink_to("../state")
        for name in (
            *("state", "state/ledger.sqlite", "tracker", "tracker/jobs", "plugins/x.py", "src/control.sock"),
            *("src/link", "src/link/ledger.sqlite"),
            *("etc/docker-tracker", "etc/docker-tracker/tracker.toml", "etc/docker-tracker/key.pem"),
        ):
            self.assertIn("belongs to the tracker", self.refused(made, self.host / name))
        self.assertIn("belongs to the tracker", self.refused(made, self.other))

    def test_configuration_elsewhere(self) -> None:
        """A file in a directory that is not for the tracker alone is covered; what is beside it is not."""
        file = self.host / "src/tracker.toml"
        file.write_text("")
        made = self.made(parents="leave", config_file=file)
        self.assertIn("belongs to the tracker", self.refused(made, file))
        for source in (f"{self.host}/src", f"{self.host}/src/other"):
            self.assertEqual(self.mounted(made, source), source)
        made = self.made(parents="leave", config_file=Path("/etc/ours/tracker.toml"))
        self.assertIn("belongs to the tracker", self.refused(made, "/etc/ours/key.pem"))
        made = self.made(parents="leave", config_file=Path("/etc/tracker.toml"))
        self.assertEqual(self.mounted(made, "/etc/ssl"), "/etc/ssl")

    def test_parents(self) -> None:
        """A directory above all that is refused, or left and told once."""
        (self.host / "src/up").symlink_to("..")
        parents = [
            "/",
            str(self.host),
            *(f"{self.host}/{name}" for name in ("run", "var/run", "etc", "src/up")),
        ]
        refusing, leaving = self.made(parents="refuse"), self.made(parents="leave")
        for source in parents:
            with self.subTest(source=source):
                self.assertIn("mount what is needed of it", self.refused(refusing, source))
                self.assertEqual(self.mounted(leaving, source), source)
        assert isinstance(leaving, NestedSocket)
        self.assertEqual(len(leaving._said), len(parents))
        self.mounted(leaving, "/")
        self.assertEqual(len(leaving._said), len(parents))

    def test_mounted_twice(self) -> None:
        """A directory is known wherever it is mounted: no link says where else it is."""
        (self.host / "podman").mkdir()
        self.patch(module, "_KNOWN", (self.listen("podman/podman.sock"),))
        identity = HostPaths.identity
        bound = lambda paths, path: identity(paths, path.replace(f"{self.host}/src/bound", str(self.host)))  # noqa: E731
        self.patch(HostPaths, "identity", bound)
        made = self.made()
        for name in ("run", "etc", "podman"):
            self.assertIn("mount what is needed of it", self.refused(made, self.host / "src/bound" / name))
        for name in ("state", "state/ledger.sqlite", "tracker/jobs"):
            self.assertIn("belongs to the tracker", self.refused(made, self.host / "src/bound" / name))
        for name in ("run/docker.sock", "podman/podman.sock", "tracker/docker.sock"):
            self.assertEqual(self.mounted(made, f"{self.host}/src/bound/{name}"), self.own)
        own = f"{self.host}/src/bound/tracker/jobs/mine.sock"
        self.assertEqual(self.mounted(made, own), own)

    def test_services(self) -> None:
        """A service's containers get it, too, at create and at update."""
        for target in ("/services/create", "/services/a/update?version=1"):
            body = {"TaskTemplate": {"ContainerSpec": {"Mounts": [{"Type": "bind", "Source": self.engine}]}}}
            sent = self.sent(self.made(), body, target)
            self.assertEqual(sent["TaskTemplate"]["ContainerSpec"]["Mounts"], [{"Type": "bind", "Source": self.own}])

    def test_old_engines(self) -> None:
        """Mounts at the top of a body, which old engines read, are not forgotten."""
        sent = self.sent(self.made(), {"Binds": [f"{self.engine}:/x"]})
        self.assertEqual(sent, {"Binds": [f"{self.own}:/x"]})

    def test_changes(self) -> None:
        """The edit is told by its place, for the audit."""
        document = make_document({"HostConfig": {"Binds": ["/a:/b", f"{self.engine}:/x"]}})
        edited: Any = result_of(self.made().request_json(make_exchange("POST", "/containers/create"), document))
        (change,) = edited.changes
        self.assertEqual(change.path, ("HostConfig", "Binds", 1))
        self.assertEqual((change.old, change.new), (f"{self.engine}:/x", f"{self.own}:/x"))

    def test_start(self) -> None:
        """A start brings no mounts along."""
        exchange = make_exchange("POST", "/containers/a/start")
        self.assertIsNone(result_of(self.made().request_json(exchange, make_document({}))))
        hook = self.made().request_json(exchange, make_document({"Binds": [f"{self.engine}:/x"]}))
        self.assertRaises(BadDocumentError, result_of, hook)

    def test_without_a_socket(self) -> None:
        """A job that has none, or whose engine is elsewhere, has the mount left as it is; that is told once."""
        elsewhere = EngineAddress("tcp", host="10.0.0.1", port=2375)
        known = str(self.host / "known.sock")
        for made, source in ((self.made(own=""), self.engine), (self.made(engine=elsewhere), known)):
            for _ in range(2):
                self.assertEqual(self.mounted(made, source), source)
            assert isinstance(made, NestedSocket)
            (said,) = made._said
            self.assertIn("the job has no socket that the engine's host can see", said)
        self.assertEqual(self.mounted(self.made(engine=elsewhere), str(self.host / "state")), str(self.host / "state"))
        made = self.made(engine=elsewhere)
        self.assertEqual(self.mounted(made, self.own), self.own)
        assert isinstance(made, NestedSocket)
        self.assertIn("it is not known whether the engine's host has this socket", "".join(made._said))

    def test_not_seen_by_the_engine(self) -> None:
        """A socket that the engine does not find is not put there: it would make a directory."""
        self.patch(HostPaths, "of_engine", lambda engine: HostPaths("/proc/self/root"))
        self.assertEqual(self.mounted(self.made(), self.engine), self.own)
        self.patch(HostPaths, "of_engine", lambda engine: HostPaths(str(self.host)))
        (self.host / "s").symlink_to("/run/docker.sock")
        self.assertEqual(self.mounted(self.made(), "/s"), "/s")
        self.assertIn("the engine's host does not have this socket", self.refused(self.made(), self.own, 400))


class MakeTests(_Case):
    def test_interceptor(self) -> None:
        """It is a guard of creates that have mounts, and of starts; off, of nothing."""
        made = self.made()
        self.assertTrue(verifyObject(IInterceptor, made))
        self.assertTrue(made.fail_closed)
        wanted = {row.name: made.wants(row) for row in OPERATIONS if made.wants(row)}
        own = ("libpod_container_create", "libpod_pod_create")
        names = ("container_create", "container_start", "service_create", "service_update", *own)
        self.assertEqual(wanted, dict.fromkeys(names, Stage.REQUEST_JSON))
        self.assertFalse(any(self.made("off").wants(row) for row in OPERATIONS))

    def test_refuse(self) -> None:
        """Where nothing is to be nested, every socket is refused, the job's own, too."""
        made = self.made("refuse", "leave")
        for source in (*self.other_names(), self.own, self.default, str(self.host / "known.sock")):
            self.assertIn("may not be mounted: this job's containers get no", self.refused(made, source))
        self.assertIn("get no", self.refused(self.made("refuse", own=""), self.engine))
        self.assertEqual(self.mounted(made, f"{self.host}/src"), f"{self.host}/src")

    def test_default_job(self) -> None:
        """The job "default" has the first unix socket of the configuration."""
        listeners = tuple(
            Listener.of(Found(text, "test")) for text in ("tcp:0:interface=127.0.0.1", f"unix://{self.default}")
        )
        for job, given, expected in (
            (FakeJob(), listeners, self.default),
            (FakeJob(socket=self.own), listeners, self.own),
            (FakeJob(), listeners[:1], self.engine),
            (FakeJob(name="mine"), listeners, self.engine),
        ):
            daemon = FakeDaemon(settings=self.settings(listeners=given, config_file=None))
            self.assertEqual(self.mounted(build(plugin, {}, daemon, job).interceptor, self.engine), expected)

    def test_settings(self) -> None:
        """What is no mode stops the start."""
        for table in ({"mode": "maybe"}, {"parents": "on"}):
            error = self.assertRaises(ConfigurationError, build, plugin, table)
            self.assertIn("must be one of", error.problem)

    def test_whole_way(self) -> None:
        """Through the proxy, the engine gets the job's socket."""
        job = FakeJob(name="mine", socket=self.own)
        named = build(plugin, {}, FakeDaemon(settings=self.settings()), job)
        body = {"HostConfig": {"Binds": [f"{self.engine}:/x"]}}
        played = play([named], request("POST", "/containers/create", body), response(201, {"Id": "a"}))
        self.assertIn(f"{self.own}:/x".encode(), played.to_engine)


class AsideTests(TestCase):
    """With a real reactor."""

    def test_in_a_thread(self) -> Deferred[None]:
        """What may block is done beside the reactor's thread."""
        seen: list[threading.Thread] = []
        directory = short_directory(self)

        class Places(module.Places):
            def look(self, sources: Any) -> Any:
                seen.append(threading.current_thread())
                return super().look(sources)

        places = Places(EngineAddress("unix", path=str(directory / "e")), "/own.sock", (), ())
        made = NestedSocket(module.NestedSocketSettings(), places, reactor)
        document = make_document({"HostConfig": {"Binds": [f"{directory}/e:/x"]}})
        asked = Deferred.fromCoroutine(made.request_json(make_exchange("POST", "/containers/create"), document))

        def check(edited: Any) -> None:
            self.assertEqual(edited.get("HostConfig", "Binds"), ["/own.sock:/x"])
            self.assertIsNot(seen[0], threading.main_thread())

        return asked.addCallback(check)
