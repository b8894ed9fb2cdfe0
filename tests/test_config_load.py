"""The effective settings: precedence, defaults, and everything that keeps the daemon from starting."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import patch

import attrs
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.config import Limits, Settings, effective, load
from docker_tracker.errors import ConfigurationError

US = os.geteuid()
EMPTY: Mapping[str, Any] = {}
USER = 12345  # nobody's number: an ordinary user whose files are not looked at


class Case(SynchronousTestCase):
    """Has a private directory, and loads settings as root would or as a user would."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(dir="/tmp"))
        self.addCleanup(rmtree, self.directory)
        self.file = self.directory / "a.toml"

    def load(self, options: Mapping[str, Any] = EMPTY, environ: Mapping[str, str] = EMPTY, **more: Any) -> Settings:
        # As an ordinary user, so that nothing that is installed on this machine is read.
        return load(options, {"HOME": str(self.directory), **environ}, **{"euid": USER, "uid": US, **more})

    def load_file(self, text: str, options: Mapping[str, Any] = EMPTY, environ: Mapping[str, str] = EMPTY) -> Settings:
        self.file.write_text(text)
        self.file.chmod(0o600)
        return self.load({"config": str(self.file), **options}, environ)

    def refuse(self, problem: str, *arguments: Any, text: str | None = None, **more: Any) -> None:
        with self.subTest(problem):
            if text is not None:
                error = self.assertRaises(ConfigurationError, self.load_file, text, *arguments, **more)
            else:
                error = self.assertRaises(ConfigurationError, self.load, *arguments, **more)
            self.assertIn(problem, str(error))


class DefaultTests(Case):
    """What holds when nothing is said."""

    def load_as_root(self) -> Settings:
        with (
            patch("docker_tracker.config.read_file", side_effect=FileNotFoundError),
            patch("docker_tracker.config.check_private"),
            patch("docker_tracker.config.check_tree"),
        ):
            return load({}, {}, euid=0)

    def test_root(self) -> None:
        """Root gets the system's directories."""
        settings = self.load_as_root()
        self.assertEqual([str(listener) for listener in settings.listeners], ["unix:///run/docker-tracker/docker.sock"])
        self.assertEqual(settings.listeners[0].mode, 0o660)
        self.assertEqual(settings.control, "/run/docker-tracker/control.sock")
        self.assertEqual(str(settings.state_dir), "/var/lib/docker-tracker")
        self.assertEqual(str(settings.run_dir), "/run/docker-tracker")

    def test_user(self) -> None:
        """Others get XDG's, by its variables or its defaults; a relative variable does not count."""
        home = self.directory
        settings = self.load(euid=USER, environ={"XDG_RUNTIME_DIR": "/run/user/1", "XDG_STATE_HOME": "relative"})
        self.assertEqual(settings.run_dir, Path("/run/user/1/docker-tracker"))
        self.assertEqual(settings.listeners[0].path, "/run/user/1/docker-tracker/docker.sock")
        self.assertEqual(settings.state_dir, home / ".local/state/docker-tracker")
        settings = self.load(euid=USER, environ={"XDG_STATE_HOME": "/state"})
        self.assertEqual(
            (settings.state_dir, settings.run_dir), (Path("/state/docker-tracker"), Path("/state/docker-tracker/run"))
        )
        with (
            patch("docker_tracker.config.Path.is_dir", lambda path: str(path) == f"/run/user/{USER}"),
            patch("docker_tracker.config.check_tree"),
        ):
            settings = self.load(euid=USER)
        self.assertEqual(settings.run_dir, Path(f"/run/user/{USER}/docker-tracker"))

    def test_user_without_home(self) -> None:
        """The account's directory stands in for HOME; without an account one must say where."""
        self.assertRaises(ConfigurationError, load, {}, {}, euid=USER)
        with patch("docker_tracker.config.pwd.getpwuid") as getpwuid:
            getpwuid.return_value.pw_dir = str(self.directory)
            settings = load({}, {}, euid=USER, uid=US)
        self.assertEqual(settings.state_dir, self.directory / ".local/state/docker-tracker")

    def test_values(self) -> None:
        """The defaults of all else."""
        settings = self.load_as_root()
        self.assertEqual(str(settings.engine), "unix:///var/run/docker.sock")
        self.assertEqual(settings.labels, {"Created-Via": "docker-tracker"})
        self.assertEqual(settings.interceptors, ("labels", "recorder", "audit"))
        self.assertEqual(
            (settings.cgroup_parent, settings.audit_log, settings.instance, settings.debug, settings.insecure_tcp),
            (None, None, None, False, False),
        )
        self.assertEqual((settings.limits, settings.warnings, settings.config_file), (Limits(), (), None))

    def test_default_file_and_plugins(self) -> None:
        """The default file and directory are used if they are there."""
        config = self.directory / ".config/docker-tracker"
        (config / "plugins").mkdir(parents=True, mode=0o700)
        (config / "docker-tracker.toml").write_text("debug = true")
        (config / "docker-tracker.toml").chmod(0o600)
        with patch("docker_tracker.config.check_private"), patch("docker_tracker.config.check_tree") as check_tree:
            settings = self.load(euid=USER, uid=USER)
        self.assertTrue(settings.debug)
        self.assertEqual(settings.config_file, config / "docker-tracker.toml")
        self.assertEqual(settings.plugin_dirs, (config / "plugins",))
        check_tree.assert_called_once_with(config / "plugins", USER)

    def test_directories_move_what_is_in_them(self) -> None:
        """The sockets follow --run-dir."""
        settings = self.load({"run-dir": "/r", "state-dir": "/s"})
        self.assertEqual((settings.listeners[0].path, settings.control), ("/r/docker.sock", "/r/control.sock"))
        self.assertEqual(settings.state_dir, Path("/s"))


#: An option, what the file says and its value, what the environment says and its value, the flag and its value.
PRECEDENCE: list[tuple[str, str, str, Any, str, Any, Any, Any]] = [
    ("engine", "engine", '"unix:///t"', "unix:///t", "unix:///e", "unix:///e", "tcp://f", "tcp://f:2375"),
    (
        "listen",
        "listeners",
        '["unix:///t"]',
        ["unix:///t"],
        "unix:///e,:2",
        ["unix:///e", "tcp://127.0.0.1:2"],
        ["unix:///f"],
        ["unix:///f"],
    ),
    ("port", "listeners", "1", ["tcp://127.0.0.1:1"], "2", ["tcp://127.0.0.1:2"], ["3"], ["tcp://127.0.0.1:3"]),
    ("control", "control", '"none"', "none", "unix:///e", "/e", "/f", "/f"),
    ("label", "labels", '{a = "t"}', {"a": "t"}, "a=e,b=", {"a": "e", "b": ""}, ["a=f g"], {"a": "f g"}),
    ("label", "labels", '["a=t"]', {"a": "t"}, "a=e", {"a": "e"}, ["a=b=c"], {"a": "b=c"}),
    ("cgroup-parent", "cgroup_parent", '"t"', "t", "", "", "f.slice", "f.slice"),
    ("audit-log", "audit_log", '"/t"', "/t", "-", "-", "/f", "/f"),
    ("interceptors", "interceptors", '["a", "b"]', ("a", "b"), "b, c", ("b", "c"), "none", ()),
    ("interceptors", "interceptors", '"none"', (), "c", ("c",), "d,c", ("d", "c")),
    ("insecure-tcp", "insecure_tcp", "true", True, "0", False, True, True),
    ("instance", "instance", '"t"', "t", "e", "e", "f", "f"),
    ("state-dir", "state_dir", '"/t"', Path("/t"), "/e", Path("/e"), "/f", Path("/f")),
    ("run-dir", "run_dir", '"/t"', Path("/t"), "/e", Path("/e"), "/f", Path("/f")),
    ("debug", "debug", "true", True, "no", False, True, True),
]


class PrecedenceTests(Case):
    """Flag, environment, file."""

    def test_each(self) -> None:
        """For every option the flag wins over the variable, and the variable over the file."""
        for name, field, text, in_file, variable, in_environment, flag, in_flag in PRECEDENCE:
            environ = {"DOCKER_TRACKER_" + name.upper().replace("-", "_"): variable}
            for options, variables, expected in [
                ({}, {}, in_file),
                ({}, environ, in_environment),
                ({name: flag}, environ, in_flag),
            ]:
                with self.subTest(f"{name} {expected}"):
                    settings = self.load_file(f"{name} = {text}", options, variables)
                    value = getattr(settings, field)
                    if field == "engine":
                        value = str(value)
                    elif field == "listeners":
                        value = [str(listener) for listener in value]
                    self.assertEqual(value, expected)

    def test_plugin_dir(self) -> None:
        """The same for directories of plug-ins, which must be there."""
        for name in "tef":
            (self.directory / name).mkdir(mode=0o700)
        text = f"plugin-dir = ['{self.directory}/t']"
        environ = {"DOCKER_TRACKER_PLUGIN_DIR": f"{self.directory}/e {self.directory}/t"}
        flag = {"plugin-dir": [f"{self.directory}/f", f"{self.directory}/f"]}
        self.assertEqual(self.load_file(text).plugin_dirs, (self.directory / "t",))
        self.assertEqual(self.load_file(text, {}, environ).plugin_dirs, (self.directory / "e", self.directory / "t"))
        self.assertEqual(self.load_file(text, flag, environ).plugin_dirs, (self.directory / "f",))

    def test_config(self) -> None:
        """The file itself is named by a flag or a variable; a path from the shell may be relative."""
        self.file.write_text("debug = true")
        self.file.chmod(0o600)
        self.assertTrue(self.load(environ={"DOCKER_TRACKER_CONFIG": str(self.file)}).debug)
        self.assertTrue(self.load({"config": os.path.relpath(self.file)}).debug)

    def test_listen_and_port(self) -> None:
        """Both add up where they are given together; a stronger place replaces both."""
        both = self.load({"listen": ["unix:///a"], "port": ["1", "2"]}, {"DOCKER_TRACKER_LISTEN": "unix:///b"})
        self.assertEqual([str(one) for one in both.listeners], ["unix:///a", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])
        port = self.load({"port": ["0"]}, {"DOCKER_TRACKER_LISTEN": "unix:///b"})
        self.assertEqual([str(one) for one in port.listeners], ["tcp://127.0.0.1:0"])
        self.assertEqual([str(one) for one in self.load({"listen": ["/a"]}).listeners], ["unix:///a"])
        self.assertEqual([str(one) for one in self.load_file("listen = ['/a']").listeners], ["unix:///a"])
        self.assertEqual(self.load_file("port = 8080").listeners[0].port, 8080)

    def test_engine(self) -> None:
        """DOCKER_HOST with its TLS variables is asked after our own option; its ports are Docker's."""
        host = {"DOCKER_HOST": "tcp://h"}
        self.assertEqual(str(self.load(environ=host).engine), "tcp://h:2375")
        self.assertEqual(str(self.load({"engine": "unix:///e"}, host).engine), "unix:///e")
        tls = self.load(environ={**host, "DOCKER_TLS_VERIFY": "1"}).engine
        self.assertEqual((tls.kind, tls.port, tls.verify), ("tls", 2376, True))
        self.assertEqual(self.load({"engine": "tcp://e"}, {"DOCKER_TLS_VERIFY": "1"}).engine.kind, "tls")
        self.assertEqual(str(self.load({"engine": "unix:///e"}, {"DOCKER_CONTEXT": "far"}).engine), "unix:///e")
        self.assertEqual(str(self.load(environ={"DOCKER_CONTEXT": "default"}).engine), "unix:///var/run/docker.sock")

    def test_systemd(self) -> None:
        """Sockets that systemd passes to this process are the default listeners."""
        passed = {"LISTEN_PID": "7", "LISTEN_FDS": "2"}
        settings = self.load(environ=passed, pid=7)
        self.assertEqual([listener.address.index for listener in settings.listeners], [0, 1])
        self.assertEqual(self.load(environ=passed, pid=8).listeners[0].kind, "unix")
        settings = self.load({"listen": ["unix:///a"]}, passed, pid=7)
        self.assertEqual([str(listener) for listener in settings.listeners], ["unix:///a"])
        self.assertIn("systemd passes 2 sockets", "".join(settings.warnings))
        self.assertEqual(self.load({"listen": ["systemd:index=1"]}, passed, pid=7).warnings, ())
        for count in ("", "x", "-1", "9999"):
            self.refuse("not a number of sockets", environ={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})

    def test_interceptors_follow_the_cgroup(self) -> None:
        """A cgroup parent brings its interceptor along, also one that is empty."""
        expected = ("labels", "cgroup-parent", "recorder", "audit")
        for value in ("ci.slice", ""):
            settings = self.load({"cgroup-parent": value})
            self.assertEqual((settings.interceptors, settings.cgroup_parent), (expected, value))
        self.assertIn("will fail", "".join(settings.warnings))

    def test_without_recorder(self) -> None:
        """Without it there are no jobs: that is said, and a tracker that is to end with them does not start."""
        with_labels = {"interceptors": "labels"}
        (said,) = self.load(with_labels).warnings
        self.assertIn("no jobs and no control socket", said)
        self.assertEqual(self.load({"interceptors": "labels,recorder"}).warnings, ())
        error = self.assertRaises(ConfigurationError, self.load, {**with_labels, "until-idle": True})
        self.assertIn("needs recorder among the interceptors", str(error))

    def test_sections(self) -> None:
        """Interceptors' tables are kept raw; limits are checked."""
        settings = self.load_file("[interceptor.audit]\nx = [1]\n[limits]\nhead-bytes = 8192\ndrain-seconds = 1")
        self.assertEqual(settings.interceptor_sections, {"audit": {"x": [1]}})
        self.assertEqual(settings.limits, Limits(head_bytes=8192, drain_seconds=1.0))


class JobSettingsTests(Case):
    """What the configuration says of jobs, and of who may control them."""

    def test_control(self) -> None:
        """The control socket has a mode and owners as a listener has; that of the `run` we are in is not ours."""
        settings = self.load({"control": "unix:/a:mode=600"})
        self.assertEqual((settings.control, settings.control_mode), ("/a", 0o600))
        settings = self.load_file('control = {address = "unix:///a", mode = "0666", user = "ci", group = 12}')
        run = "unix:///run/other.sock"
        for own, control in ((run, str(settings.run_dir / "control.sock")), ("unix:///e", "/e")):
            environ = {"DOCKER_TRACKER_CONTROL": own, "DOCKER_TRACKER_RUN_CONTROL": run}
            self.assertEqual(
                self.load(environ={**environ, "DOCKER_TRACKER_RUN_DIR": str(settings.run_dir)}).control, control
            )
        found = settings.control, settings.control_mode, settings.control_user, settings.control_group
        self.assertEqual(found, ("/a", 0o666, "ci", "12"))

    def test_tables(self) -> None:
        """Tables for the reaper, the reconciler and for whose a client is."""
        settings = self.load_file("""
            until-idle = true
            [reap]
            seconds = 9
            keep = ["volume:cache-*"]
            [reconcile]
            creation-grace = 60
            mounts = ["/ci"]
            name-pattern = "job-.*"
            [[attribute]]
            uid = 5
        """)
        self.assertTrue(settings.until_idle)
        self.assertEqual((settings.reap.seconds, settings.reap.keep), (9.0, ("volume:cache-*",)))
        self.assertEqual((settings.reconcile.creation_grace, settings.reconcile.mounts), (60.0, ("/ci",)))
        self.assertEqual(settings.attribute, ({"uid": 5},))

    def test_refused(self) -> None:
        """What would remove things too early, or nothing at all, is no setting."""
        for text, problem in (
            ("control = 1", 'must be "none" or a unix socket'),
            ("[reap]\nseconds = 0", "reap: seconds must be from 1 to 86400, not 0"),
            ("[reap]\nkeep = ['cache']", "reap: 'cache' is not a rule"),
            ("[reconcile]\ncreation-grace = 59", "creation-grace must be at least 60, not 59"),
            ("[reconcile]\nname-pattern = '['\nmounts = ['/a']", "name-pattern is no regular expression"),
            ("[reconcile]\nname-pattern = 'a'", "mounts and name-pattern need each other"),
            ("[reconcile]\nname-pattern = 'a'\nmounts = ['a']", "'a' is none"),
            ("attribute = 1", "must be an array"),
            ("attribute = [1]", "must be a table"),
        ):
            self.refuse(problem, text=text)
        short = self.load_file("[reconcile]\ncreation-grace = 0\nallow-short-grace = true")
        self.assertEqual(short.reconcile.creation_grace, 0.0)


class RefusalTests(Case):
    """What keeps the daemon from starting."""

    def test_values(self) -> None:
        """A bad value of each option is named with its flag, variable or key."""
        for flags, problem in [
            ({"engine": "ssh://h"}, "--engine: ssh:// addresses are not served"),
            ({"engine": "far"}, "--engine: 'far' is not an address"),
            ({"listen": ["nowhere"]}, "--listen: 'nowhere' is not an address"),
            ({"port": ["65536"]}, "--port: '65536' is not a port"),
            ({"port": ["http"]}, "--port: 'http' is not a port"),
            ({"control": "tcp://localhost:1"}, "--control: 'tcp://localhost:1' must be \"none\" or a unix socket"),
            ({"control": ""}, "--control: '' is not an address"),
            ({"label": ["a"]}, "--label: 'a' is not a label: write NAME=VALUE"),
            ({"label": ["=b"]}, "--label: '' is not the name of a label"),
            ({"label": [" a=b"]}, "--label: ' a' is not the name of a label"),
            ({"label": ["Docker-Tracker.job=b"]}, "--label: Docker-Tracker.job: labels under docker-tracker."),
            ({"cgroup-parent": "a\nb"}, "--cgroup-parent: 'a\\nb' is not a cgroup"),
            ({"cgroup-parent": "/a/../.."}, "--cgroup-parent: '/a/../..' is not a cgroup parent: a path has no '.'"),
            ({"cgroup-parent": "a--b.slice"}, "--cgroup-parent: 'a--b.slice' is not a cgroup parent: a slice's name"),
            ({"audit-log": ""}, "--audit-log: '' is not an absolute path"),
            ({"interceptors": ""}, "--interceptors: names no interceptor"),
            ({"interceptors": "labels,none"}, "--interceptors: 'none' is not the name of an interceptor"),
            ({"interceptors": "Labels"}, "--interceptors: 'Labels' is not the name"),
            ({"interceptors": "a,b,a"}, "--interceptors: a is there twice"),
            ({"instance": "-a"}, "--instance: '-a' is not an ID"),
            ({"instance": "a" * 64}, "is not an ID"),
            ({"instance": "a\n"}, "is not an ID"),
            ({"plugin-dir": ["/nowhere"]}, "--plugin-dir: there is no directory /nowhere"),
            ({"state-dir": ""}, "--state-dir: '' is not an absolute path of a directory"),
            ({"run-dir": "/" + "a" * 100}, "the default listener: the path /aaa"),
            ({"config": "/nowhere/a.toml"}, "--config: there is no file /nowhere/a.toml"),
            ({"config": ""}, "--config: names no file"),
        ]:
            self.refuse(problem, flags)
        with patch.object(Path, "is_dir", side_effect=PermissionError(13, "Permission denied")):
            problem = "--plugin-dir: /root/p cannot be looked at: Permission denied"
            self.refuse(problem, {"plugin-dir": ["/root/p"]}, {"XDG_RUNTIME_DIR": "/run/x"})
        self.refuse("DOCKER_TRACKER_DEBUG: 'maybe' is neither 1", environ={"DOCKER_TRACKER_DEBUG": "maybe"})
        self.refuse("DOCKER_TRACKER_PORT: 'x' is not a port", environ={"DOCKER_TRACKER_PORT": "x"})
        self.refuse("DOCKER_HOST: ssh:// addresses", environ={"DOCKER_HOST": "ssh://h"})
        self.refuse("DOCKER_CONTEXT: contexts of the docker CLI", environ={"DOCKER_CONTEXT": "far"})
        self.refuse("DOCKER_CERT_PATH: /nowhere is not", environ={"DOCKER_CERT_PATH": "/nowhere"})
        self.refuse("DOCKER_TRACKER_CONFIG: there is no file", environ={"DOCKER_TRACKER_CONFIG": "/nowhere"})

    def test_file(self) -> None:
        """A bad file is named with the key or the line."""
        file = self.file
        for text, problem in [
            ("a = = 1", f"{file}: is not TOML: Invalid value (at line 1"),
            ("listn = []", f'{file}: listn: unknown key; did you mean "listen"?'),
            ("config = '/a'", "unknown key"),
            ("listen = 'unix:///a'", f"{file}: listen: must be an array, not a string"),
            ("listen = []", f"{file}: listen: names no address"),
            ("listen = [{address = 'unix:///a', mod = 1}]", f"{file}: listen.mod: unknown key"),
            ("port = true", f"{file}: port: True is not a port"),
            ("port = -1", f"{file}: port: -1 is not a port"),
            ("port = 1.5", f"{file}: port: must be an array, not a number"),
            ("engine = 5", f"{file}: engine: must be an address"),
            ("label = {a = 1}", f"{file}: label.a: must be a string, not an integer"),
            ("label = 'a=b'", f"{file}: label: must be an array, not a string"),
            ("audit-log = 'relative'", f"{file}: audit-log: 'relative' is not an absolute path"),
            ("debug = 1", f"{file}: debug: must be true or false, not an integer"),
            ("interceptors = 1", f"{file}: interceptors: must be an array, not an integer"),
            ("interceptors = [1]", f"{file}: interceptors: must be a string, not an integer"),
            ("limits = 1", f"{file}: limits: must be a table, not an integer"),
            ("[limits]\nhead-byte = 1", f'{file}: limits.head-byte: unknown key; did you mean "head-bytes"?'),
            ("[limits]\nhead-bytes = 1", f"{file}: limits: head-bytes must be from 4096 to 67108864, not 1"),
            ("[limits]\nhead-bytes = 1.5", f"{file}: limits.head-bytes: must be an integer, not a number"),
            ("[limits]\nconnect-seconds = nan", f"{file}: limits: connect-seconds must be from 0.1"),
            ("interceptor = 1", f"{file}: interceptor: must be a table, not an integer"),
            ("[interceptor]\naudit = 1", f"{file}: interceptor.audit: must be a table, not an integer"),
        ]:
            self.refuse(problem, text=text)

    def test_lost_interceptors(self) -> None:
        """An option whose interceptor the list leaves out would be without effect."""
        for flags in ({"interceptors": "labels"}, {"interceptors": "none"}):
            self.refuse(
                "--interceptors: --cgroup-parent is set, but cgroup-parent is not among", {**flags, "cgroup-parent": ""}
            )
            self.refuse("--audit-log is set, but audit is not among", {**flags, "audit-log": "-"})
        listed = self.load({"interceptors": "audit,cgroup-parent", "audit-log": "-", "cgroup-parent": "a"})
        self.assertEqual(listed.interceptors, ("audit", "cgroup-parent"))

    def test_plain_tcp(self) -> None:
        """Plain TCP where others can reach it needs to be asked for; on loopback it is warned of."""
        for address in ("tcp:1", "tcp://0.0.0.0:1", "tcp://[::]:1", "tcp6:1", "tcp://10.0.0.1:1", "tcp://name:1"):
            self.refuse("say --insecure-tcp", {"listen": [address]})
            settings = self.load({"listen": [address], "insecure-tcp": 1})
            self.assertIn("whoever can reach this address", settings.warnings[0])
        self.refuse("who can reach it is not known here", {"listen": ["haproxy:tcp:1"]})
        for address in ("127.0.0.1:1", "[::1]:1", "localhost:1", "tcp:1:interface=127.0.0.1"):
            self.assertIn("every user of this machine", self.load({"listen": [address]}).warnings[0])

    def test_engine_loop(self) -> None:
        """An engine that is one of our own listeners would be asked for ever."""
        real = self.directory / "real.sock"
        (self.directory / "link.sock").symlink_to(real)
        for engine, listen in [
            ("unix:///a", "unix:///a"),
            ("unix:///a/../b", "unix:///b"),
            (f"unix://{self.directory}/link.sock", f"unix://{real}"),
            ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1"),
            ("tcp://localhost:2375", "tcp://127.0.0.1"),
            ("tcp://0.0.0.0:1", "tcp://[::1]:1"),
        ]:
            self.refuse("is our own", {"engine": engine, "listen": [listen]})
        self.refuse("is our own", {"engine": "tcp://127.0.0.2:1", "listen": ["tcp:1"], "insecure-tcp": 1})
        self.refuse("is our own: the control socket /c", {"engine": "unix:///c", "control": "/c"})
        real.write_text("")
        os.link(real, self.directory / "hard.sock")
        self.refuse("is our own", {"engine": f"unix://{self.directory}/hard.sock", "listen": [f"unix://{real}"]})
        self.load({"engine": "tcp://127.0.0.1:2", "listen": ["tcp://127.0.0.1:1"]})
        self.load({"engine": "tcp://127.0.0.1:2", "listen": ["unix:///a"], "control": "none"})

    def test_duplicates(self) -> None:
        """One address has one listener."""
        for listen in (
            ["unix:///a", "unix:/a:mode=600"],
            ["tcp://localhost:1", "tcp://127.0.0.1:1"],
            ["systemd:index=0", "systemd:domain=UNIX:index=0"],
            ["systemd:name=a", "systemd:name=a"],
            ["haproxy:tcp:1", "haproxy:tcp:1"],
        ):
            self.refuse("is there twice", {"listen": listen, "insecure-tcp": 1})
        self.refuse("is there twice", {"listen": ["unix:///a"], "control": "/a"})
        self.load(
            {"listen": [":0", ":0", "unix:///a", "systemd:index=0", "systemd:index=1", "systemd:name=a", "unix:///b"]}
        )

    def test_writable_file(self) -> None:
        """A file that others can write is not read, and the command that mends it is named."""
        self.file.write_text("")
        self.file.chmod(0o666)
        self.refuse(
            f"{self.file}: can be written by others than root and the daemon's user; run: chmod go-w {self.file}",
            {"config": str(self.file)},
        )

    def test_writable_plugins(self) -> None:
        """A directory of plug-ins is looked through."""
        plugins = self.directory / "plugins"
        plugins.mkdir(mode=0o700)
        (plugins / "policy.py").write_text("")
        (plugins / "policy.py").chmod(0o602)
        self.refuse(f"chmod go-w {plugins}/policy.py", {"plugin-dir": [str(plugins)]})

    def test_daemons_user(self) -> None:
        """Files of the user whom the daemon runs as are taken, when root starts it for them."""
        if US != 0:
            self.skipTest("only root can give files away")
        self.file.write_text("")
        self.file.chmod(0o600)
        for place in (self.directory, self.file):
            os.chown(place, USER, USER)
        self.refuse(f"belongs to uid {USER}", {"config": str(self.file)})
        self.load({"config": str(self.file)}, uid=USER)


class WarningTests(Case):
    """What the operator is told, and may do."""

    def test_nothing(self) -> None:
        """Safe settings have none."""
        self.assertEqual(self.load({"audit-log": "-", "port": [], "listen": ["unix:///a"]}).warnings, ())

    def test_open_socket(self) -> None:
        """A socket for everyone."""
        self.assertIn("mode 0666", self.load({"listen": ["unix:/a:mode=666"]}).warnings[0])

    def test_tls(self) -> None:
        """TLS that does not know its clients, and an engine that is not known."""
        for name in ("cert", "key"):
            (self.directory / f"{name}.pem").write_text("-")
        listen = f"ssl:1:certKey={self.directory}/cert.pem:privateKey={self.directory}/key.pem"
        settings = self.load({"listen": [listen], "engine": "tcp://h"}, {"DOCKER_CERT_PATH": str(self.directory)})
        self.assertEqual(len(settings.warnings), 2)
        self.assertIn("set client-ca", settings.warnings[0])
        self.assertIn("tcp://h:2376: the engine's certificate is not verified", settings.warnings[1])
        mutual = (
            f"[[listen]]\naddress = 'tcp://0.0.0.0'\ncertificate = '{self.directory}/cert.pem'\n"
            f"key = '{self.directory}/key.pem'\nclient-ca = '{self.directory}/cert.pem'"
        )
        self.assertEqual(self.load_file(mutual).warnings, ())

    def test_without_effect(self) -> None:
        """A table of an interceptor that is not there, and a variable that nobody reads."""
        warnings = self.load_file("[interceptor.label]", environ={"DOCKER_TRACKER_LISTN": "a"}).warnings
        self.assertIn(
            'interceptor.label has no effect, label is not among the interceptors; did you mean "labels"?', warnings[0]
        )
        self.assertIn(
            'DOCKER_TRACKER_LISTN is not a variable that is read; did you mean "DOCKER_TRACKER_LISTEN"?', warnings[1]
        )


class EffectiveTests(Case):
    """`effective`."""

    def test_round_trip(self) -> None:
        """What is shown is a file that makes the same settings."""
        for name in ("ca", "cert", "key"):
            (self.directory / f"{name}.pem").write_text("-")
        (self.directory / "plugins").mkdir(mode=0o700)
        everything = f"""
            engine = {{address = "tcp://h", ca = "{self.directory}/ca.pem", verify = false}}
            listen = ["unix:///a", {{address = "unix:///b", mode = "0600", user = "x"}}, "systemd:index=0",
                {{address = "[::1]:1", certificate = "{self.directory}/cert.pem", key = "{self.directory}/key.pem"}}]
            control = "none"
            cgroup-parent = ""
            audit-log = "-"
            interceptors = ["audit", "cgroup-parent", "recorder", "theirs"]
            insecure-tcp = true
            instance = "one"
            plugin-dir = ["{self.directory}/plugins"]
            state-dir = "/s"
            run-dir = "/r"
            debug = true
            until-idle = true
            attribute = [{{uid = 1, job = "a"}}]
            [reap]
            keep = ["image:*"]
            [label]
            "a.b c" = "x\\n"
            [limits]
            json-depth = 100
            [interceptor.theirs]
            rules = [{{allow = true}}]
            [interceptor.theirs.deep]
            when = 2020-01-01
        """
        for text in ("", everything):
            first = self.load_file(text)
            second = self.load_file(effective(first))
            self.assertEqual(effective(second), effective(first))
            # An address keeps the text that it was written in; all else is equal.
            same = attrs.evolve(second, listeners=first.listeners)
            self.assertEqual(same, first)
