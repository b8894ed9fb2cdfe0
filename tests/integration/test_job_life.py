"""Jobs from their beginning to their end on a real engine: what ends them, what stays, who may do what."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest

from docker_tracker.cli.client import Client, target
from tests.integration import test_nested
from tests.integration.test_nested import JOB_ID, NestedCase
from tests.integration.test_tracking import ask
from tests.support import registry
from tests.support.daemon import ROOT, Daemon
from tests.support.dockerd import IMAGE
from tests.support.engine import DockerError, discard, docker, private_engine, require_program

NOBODY = 65534
NAMES = ("before", "pulled", "implicit")  # of repositories
PULLED = f"127.0.0.1:{registry.PORT}/{{}}:1"
SLEEP = ("--stop-signal=KILL", IMAGE, "sleep", "1000")
REAP = "reap = { stop-seconds = 1.0, drain-seconds = 0.5 }\n"
# Ends by itself some seconds after it is told to, and says so in a file.
GRACEFUL = "trap 'sleep %d; echo done > /out/%s; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
# Of a plug-in that does nothing but be there, with the host's Python.
SERVE = """
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = socket.socket(socket.AF_UNIX)
server.bind("/run/docker/plugins/none.sock")
server.listen()
while True:
    server.accept()
"""
PLUGIN_PROGRAM = "/usr/bin/python3"
PLUGIN = {
    "interface": {"types": ["docker.dummy/1.0"], "socket": "none.sock"},
    "entrypoint": [PLUGIN_PROGRAM, "-c", SERVE],
    "network": {"type": ""},
    "linux": {"capabilities": None},
    "mounts": [
        {"name": path[1:], "source": path, "destination": path, "type": "bind", "options": ["rbind", "ro"]}
        for path in ("/usr", "/lib", "/lib64")
    ],
}
# Sends one request to a unix socket, and prints the status and the answer: for any Python that another user can run.
ASK = """
import socket, sys
path, method, target, body = sys.argv[1:5]
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
head = f"{method} {target} HTTP/1.1\\r\\nHost: d\\r\\nConnection: close\\r\\nContent-Length: {len(body)}\\r\\n"
connection.sendall(f"{head}Content-Type: application/json\\r\\n\\r\\n{body}".encode())
answer = b""
while part := connection.recv(65536):
    answer += part
print(answer.decode().split(" ", 2)[1] + answer.decode().partition("\\r\\n\\r\\n")[2])
"""


class LifeCase(NestedCase):
    """One daemon for each test."""

    configuration = REAP

    def beside(self, *arguments: str) -> str:
        """Run the docker command at the engine, so that the tracker does not see it."""
        return docker(*arguments, address=self.engine).stdout.decode().strip()

    def state(self, job: Mapping[str, Any]) -> str:
        return str(self.control("GET", f"/jobs/{job['id']}")["state"])

    def wait_for_end(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until nothing of a job is left; return what is known of it then."""
        self.daemon.wait_for(lambda: self.state(job) == "gone")
        return dict(self.control("GET", f"/jobs/{job['id']}"))

    def end(self, job: Mapping[str, Any], state: str = "gone") -> dict[str, dict[str, Any]]:
        """End a job, and wait for that; return its report's entries by name, or by ID where there is none."""
        ended = self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.assertEqual(ended["state"], state, ended["report"])
        return {each["name"] or each["identifier"]: each for each in ended["report"]["items"]}

    def name(self, word: str) -> str:
        """Return a name that nobody else has on this engine."""
        return f"{word}-{os.getpid()}-{id(self) % 10000}"

    def exists(self, kind: str, name: str) -> bool:
        try:
            self.beside(kind, "inspect", name)
        except DockerError:
            return False
        return True

    def tracker_line(self, *words: str) -> list[str]:
        control = str(self.daemon.control_path)
        return [sys.executable, "-P", "-m", "docker_tracker.cli.main", "--control", control, *words]

    def tracker(self, *words: str, status: int = 0, **more: str) -> str:
        """Run the client command; return what it printed."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}
        done = subprocess.run(
            self.tracker_line(*words), env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual(done.returncode, status, f"{done.stdout}\n{done.stderr}\n{self.daemon.output()}")
        return done.stdout


class EndTests(LifeCase):
    def test_first_wins(self) -> None:
        """Of several ends the first is the job's, whichever it is; what it made goes, and the others do nothing."""
        agent = self.beside("run", "--detach", *SLEEP)
        self.addCleanup(docker, "rm", "--force", agent, address=self.engine)
        process = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        others = {"ttl": 3600, "idle": 3600, "lease": 3600, "process": process.pid, "container": agent}
        ways: dict[str, dict[str, Any]] = {
            "ttl": {"ttl": 5},
            "idle": {"idle": 4},
            "lease": {"lease": 4},
            "used": {"idle": 4},
            "container": {},
            "process": {},
        }
        ways["process"]["container"] = None  # it is still to run when the agent ends
        jobs = {way: self.job(way, ends={**others, **ends}) for way, ends in ways.items()}
        volumes = {way: self.through(job, "volume", "create", self.name(way)) for way, job in jobs.items()}
        stream = subprocess.Popen(
            ["docker", "events"],
            env={"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{jobs['used']['socket']}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(stream.wait)
        self.addCleanup(stream.kill)
        held = Client(self.daemon.control_path).hold(target("jobs", jobs["process"]["id"], "lease"))
        reasons = {
            "ttl": "its time of 5 s was over",
            "idle": "nobody used it for 4 s",
            "lease": "nobody held its lease for 4 s",
            "container": f"container {agent[:12]}",
            "process": f"process {process.pid} ended",
        }

        def ended(way: str) -> None:
            found = self.wait_for_end(jobs[way])
            self.assertIn(reasons[way], found["reason"])
            self.assertFalse(self.exists("volume", volumes[way]), way)
            self.assertFalse(Path(jobs[way]["socket"]).exists())
            self.assertEqual([each["outcome"] for each in found["report"]["items"]], ["removed"])

        with held:
            for way in ("ttl", "idle", "lease"):
                ended(way)
            # A stream is use: by now it would have ended, as the one that is idle has.
            left = ("used", "container", "process")
            self.assertEqual([self.state(jobs[way]) for way in left], ["open"] * 3)
            self.beside("kill", agent)
            ended("container")
            process.kill()
            ended("process")
        self.assertIn(reasons["container"], self.wait_for_end(jobs["used"])["reason"])  # it was to end with that, too
        events = [json.loads(line) for line in self.tracker("events", "--format=json").splitlines()]
        for way, job in jobs.items():
            told = [each["event"] for each in events if each["job_id"] == job["id"]]
            self.assertEqual(told, ["job started", "job ended", "job gone"], way)

    def test_stop_time(self) -> None:
        """A container gets its own time to stop in, and ends as it wants to; one without gets the configuration's."""
        out = self.beside("volume", "create", self.name("out"))
        self.addCleanup(docker, "volume", "rm", out, address=self.engine)
        job = self.job("stops")
        made = {}
        for word, needs, options in (("own", 3, ("--stop-timeout=30",)), ("none", 60, ())):
            line = ("run", "--detach", f"--volume={out}:/out", *options, IMAGE, "sh", "-c", GRACEFUL % (needs, word))
            made[word] = self.through(job, *line)
        for identifier in made.values():
            self.daemon.wait_for(lambda each=identifier: "ready" in self.beside("logs", each))  # type: ignore[misc]
        began = int(time.time()) - 1
        report = self.end(job)
        self.assertEqual({each["outcome"] for each in report.values()}, {"removed"})
        times = (f"--since={began}", f"--until={int(time.time()) + 1}", "--format={{json .}}")
        events = [json.loads(line) for line in self.beside("events", *times, "--filter=event=die").splitlines()]
        codes = {each["Actor"]["ID"]: each["Actor"]["Attributes"]["exitCode"] for each in events}
        self.assertEqual((codes[made["own"]], codes[made["none"]]), ("7", "137"))
        read = self.beside("run", "--rm", f"--volume={out}:/out", IMAGE, "sh", "-c", "cd /out; ls; cat *")
        self.assertEqual(read.split(), ["own", "done"])
        self.assertTrue(self.exists("volume", out))

    def test_strange_exec(self) -> None:
        """An exec in somebody else's container runs on, and the report says where; the job is gone all the same."""
        stranger = self.beside("run", "--detach", f"--name={self.name('strange')}", *SLEEP)
        self.addCleanup(docker, "rm", "--force", stranger, address=self.engine)
        job = self.job("exec")
        own = self.through(job, "run", "--detach", *SLEEP)
        for container in (own, stranger):
            self.through(job, "exec", "--detach", container, "sleep", "777")
        top = self.beside("top", stranger, "-eo", "pid,args")
        (pid,) = [line.split()[0] for line in top.splitlines() if line.endswith("sleep 777")]
        report = self.end(job)
        self.assertEqual(sorted(each["kind"] for each in report.values()), ["container", "exec"])
        (item,) = [each for each in report.values() if each["kind"] == "exec"]
        self.assertEqual(item["outcome"], "kept")
        self.assertIn(f"it runs in the container {self.name('strange')}, which is not the job's", item["reason"])
        self.assertIn(f"process {pid} of the engine's host", item["reason"])
        self.assertIn(item["reason"], self.tracker("report", "exec"))
        self.assertIn("sleep 777", self.beside("top", stranger))


class PluginTests(LifeCase):
    def test_life(self) -> None:
        """A plug-in of the engine's that a job made and enabled goes with it; a stranger's stays, and goes on."""
        if not Path(PLUGIN_PROGRAM).exists():
            raise SkipTest(f"the engine's plug-in needs {PLUGIN_PROGRAM}")
        job = self.job("plugs")
        ours, strangers = f"{self.name('ours')}:latest", f"{self.name('strangers')}:latest"
        for name in (ours, strangers):
            self.addCleanup(lambda name: self.exists("plugin", name) and self.beside("plugin", "rm", "-f", name), name)
        for name, address in ((ours, f"unix://{job['socket']}"), (strangers, self.engine)):
            with tempfile.TemporaryDirectory(prefix="dt-") as directory:
                for folder in ("usr", "lib", "lib64"):
                    (Path(directory) / "rootfs" / folder).mkdir(parents=True)
                # Docker 20.10 makes no plug-in of files that another one has, byte for byte.
                (Path(directory) / "rootfs/name").write_text(name)
                (Path(directory) / "config.json").write_text(json.dumps({**PLUGIN, "description": name}))
                docker("plugin", "create", name, directory, address=address)
                docker("plugin", "enable", name, address=address)
        self.daemon.wait_for(lambda: bool(self.control("GET", f"/resources?job={job['id']}")))
        report = self.end(job)
        told = {(each["kind"], each["name"], each["outcome"]) for each in report.values()}
        self.assertEqual(told, {("plugin", ours, "removed")})
        self.assertFalse(self.exists("plugin", ours))
        self.assertEqual(self.beside("plugin", "inspect", "--format={{.Enabled}}", strangers), "true")


class KeepTests(LifeCase):
    configuration = f"{REAP}reconcile = {{ creation-grace = 0.1, allow-short-grace = true }}\n"

    def test_retain(self) -> None:
        """What a client labels to be retained outlives its job for so long, with what it needs, and then goes."""
        job = self.job("retains")
        keep = "--label=docker-tracker.retain"
        short, long, gone = (self.name(word) for word in ("short", "long", "gone"))
        self.through(job, "volume", "create", f"{keep}=9s", short)
        self.through(job, "volume", "create", gone)
        network = self.through(job, "network", "create", self.name("net"))
        container = self.through(
            *(job, "create", f"{keep}=1h", f"--name={long}", f"--network={network}", IMAGE, "true")
        )
        labels = self.inspect(container)["Config"]["Labels"]
        self.assertEqual((labels["docker-tracker.retain"], labels[JOB_ID]), ("1h", job["id"]))
        report = self.end(job)
        outcomes = {each["name"]: each["outcome"] for each in report.values()}
        self.assertEqual(outcomes, {short: "kept", gone: "removed", long: "kept", self.name("net"): "kept"})
        for name in (short, long):
            self.assertRegex(
                report[name]["reason"], r"its label docker-tracker\.retain keeps it until \d{4}-\d\d-\d\d "
            )
        self.assertIn(f"the container {long}, which is kept, needs it", report[self.name("net")]["reason"])
        self.control("POST", "/reconcile")
        self.assertTrue(self.exists("volume", short) and not self.exists("volume", gone))

        def is_over() -> bool:
            self.control("POST", "/reconcile")
            return not self.exists("volume", short)

        self.daemon.wait_for(is_over)
        self.assertTrue(self.exists("container", long) and self.exists("network", network))


class TellTests(LifeCase):
    """What is told of jobs and of what they made."""

    def test_why(self) -> None:
        """Why a container is there: its job, the process as it was, the request, and what we changed; nothing more."""
        job = self.job("why", cgroup_parent=f"/{self.name('ci')}")
        body = json.dumps({"Image": IMAGE, "Cmd": ["true"], "Labels": {"a": "b"}})
        name = self.name("made")
        script = self.daemon.directory / "ask.py"
        script.write_text(ASK)
        line = [sys.executable, str(script), job["socket"], "POST", f"/v1.40/containers/create?name={name}"]
        before = time.time()
        client = subprocess.Popen([*line, body, "-e", "TOKEN=hunter2"], stdout=subprocess.PIPE, text=True)
        lines = Path(f"/proc/{client.pid}/cgroup").read_text().splitlines()
        cgroup = ([path for line in lines if (path := line.split(":", 2)[2]) != "/"] or ["/"])[-1]
        output, _ = client.communicate(timeout=60)
        self.assertTrue(output.startswith("201{"), output)
        identifier = json.loads(output[3:])["Id"]
        self.daemon.wait_for(lambda: self.control("GET", f"/why/{name}")[0]["intent"]["state"] == "done")
        for reference in (identifier, identifier[:12], name):
            (told,) = self.control("GET", f"/why/{reference}")
            self.assertEqual(told["job"], {"id": job["id"], "name": "why", "state": "open"})
            self.assertEqual(
                told["who"],
                {
                    "pid": str(client.pid),
                    "uid": str(os.geteuid()),
                    "gid": str(os.getegid()),
                    "command": " ".join([*line, "***", "-e", "TOKEN=***"]).replace(f"?name={name}", "?name=***"),
                    "cgroup": cgroup,
                    "listener": f"unix://{job['socket']}",
                    "request": "POST /containers/create",
                    "changed": "Labels, HostConfig.CgroupParent",
                },
            )
            self.assertEqual((told["resource"]["id"], told["resource"]["relation"]), (identifier, "made"))
            self.assertEqual(told["intent"]["operation"], "container_create")
            self.assertLessEqual(abs(datetime.fromisoformat(told["intent"]["started"]).timestamp() - before), 30)
        text = self.tracker("why", identifier[:12])
        for said in (f"Job:        why ({job['id']}), open", f"Pid:        {client.pid}", f"Cgroup:     {cgroup}"):
            self.assertIn(f"{said}\n", text)
        self.end(job)
        self.assertIn(f"why ({job['id']}), gone", self.tracker("why", name))
        self.tracker("why", self.name("nothing"), status=1)

    def events(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.tracker("events", "--format=json", *words).splitlines()]

    def follow(self, *words: str) -> subprocess.Popen[str]:
        """Begin to follow events."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        line = self.tracker_line("events", "--follow", "--format=json", *words)
        following = subprocess.Popen(
            line, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.addCleanup(following.communicate)
        self.addCleanup(following.kill)
        return following

    def next(self, following: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the next event that comes."""
        assert following.stdout is not None
        return dict(json.loads(following.stdout.readline()))

    def test_events(self) -> None:
        """Events come as they happen; after a restart, and a kill, who knows the last one's number misses none."""
        following = self.follow()
        seen = []
        for number in (signal.SIGTERM, signal.SIGKILL):
            job = self.job(f"before-{number.name}")
            self.end(job)
            for event in ("job started", "job ended", "job gone"):
                seen.append(self.next(following))
                self.assertEqual((seen[-1]["event"], seen[-1]["job_id"]), (event, job["id"]))
            self.daemon.stop(number)
            following.communicate(timeout=60)  # it ends with the daemon
            self.assertNotEqual(following.returncode, 0)
            self.daemon.start()
            self.daemon.wait_for_socket()
            missed = self.job(f"after-{number.name}")
            self.assertEqual([each["event"] for each in self.events(f"--since={seen[-1]['number']}")], ["job started"])
            following = self.follow(f"--since={seen[-1]['number']}")
            seen.append(self.next(following))
            self.assertEqual(seen[-1]["job_id"], missed["id"])
        self.assertEqual(self.events(), seen)
        numbers = [each["number"] for each in seen]
        self.assertEqual(numbers, sorted(set(numbers)))
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=60)
        self.assertEqual(following.returncode, 130)

    def test_commands(self) -> None:
        """``job show`` prints what is known; shells complete the names of the jobs that the daemon has."""
        jobs = [self.job(name, labels={"team": "x"}, ends={"ttl": 3600}) for name in ("alpha", "altair", "beta")]
        shown = json.loads(self.tracker("job", "show", "alpha", jobs[2]["id"]))
        self.assertEqual([each["id"] for each in shown], [jobs[0]["id"], jobs[2]["id"]])
        self.assertEqual((shown[0]["state"], shown[0]["request"]["ends"]), ("open", {"ttl": 3600}))
        self.assertEqual(shown[0]["request"]["labels"], {"team": "x"})
        self.assertEqual(json.loads(self.tracker("job", "show", "none", status=1)), [])
        script = self.tracker("completion", "bash")
        program = self.daemon.directory / "bin/docker-tracker"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m docker_tracker.cli.main "$@"\n')
        program.chmod(0o755)
        tried = f"""{script}
COMP_WORDS=(docker-tracker job end al); COMP_CWORD=3
$(complete -p docker-tracker | sed 's/.*-F //; s/ .*//') docker-tracker al end
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        environment = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DOCKER_TRACKER_CONTROL": f"unix://{self.daemon.control_path}",
        }
        done = subprocess.run(
            ["bash", "-c", tried], env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual(sorted(done.stdout.split()), ["alpha", "altair"], done.stderr)


class UsersCase(LifeCase):
    """Clients that are not root."""

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can run something as another user")
        self.python = next(self.pythons(), "")
        if not self.python:
            raise SkipTest("another user can run no Python here")
        super().setUp()
        self.daemon.directory.chmod(0o711)
        (self.daemon.directory / "run").chmod(0o711)
        for path in (self.daemon.control_path, self.daemon.socket_path):
            path.chmod(0o666)

    @staticmethod
    def pythons() -> Iterator[str]:
        """Return what another user can run."""
        for path in (sys.executable, "/usr/bin/python3"):
            try:
                subprocess.run([path, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=(), cwd="/", check=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            yield path

    def ask_as(
        self,
        user: int,
        path: Path | str,
        method: str,
        target: str,
        body: Any = None,
        before: tuple[str, ...] = (),
        **environment: str,
    ) -> tuple[int, Any]:
        """Send one request as a user; return the status and the answer."""
        done = subprocess.run(
            [*before, self.python, "-c", ASK, str(path), method, target, "" if body is None else json.dumps(body)],
            user=user,
            group=user,
            extra_groups=(),
            env={"PATH": os.environ["PATH"], **environment},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        return int(done[:3]), json.loads(done[3:])


class OwnerTests(UsersCase):
    def test_ends_his_own(self) -> None:
        """A job's owner sees and ends his own, and nobody else's; he makes none, and reads no events."""
        jobs = {
            name: self.job(name, user=str(user)) for name, user in (("his", NOBODY), ("other", 65533), ("roots", 0))
        }
        volumes = {name: self.through(job, "volume", "create", self.name(name)) for name, job in jobs.items()}
        control = self.daemon.control_path
        status, found = self.ask_as(NOBODY, control, "GET", "/jobs?all=1")
        self.assertEqual((status, [each["name"] for each in found]), (200, ["his"]))
        status, found = self.ask_as(NOBODY, control, "GET", "/resources")
        self.assertEqual((status, [each["id"] for each in found]), (200, [volumes["his"]]))
        for name in ("other", "roots", "default"):
            for method, rest, body in (("POST", "/end", {}), ("POST", "/reap", None), ("GET", "", None)):
                status, answer = self.ask_as(NOBODY, control, method, f"/jobs/{name}{rest}", body)
                self.assertEqual(status, 403, answer)
                self.assertIn(f"the job {name} is not yours (uid {NOBODY})", answer["message"])
        self.assertEqual(self.ask_as(NOBODY, control, "POST", "/jobs", {"name": "new"})[0], 403)
        for method, path in (("GET", "/events"), ("POST", "/reconcile")):
            self.assertEqual(self.ask_as(NOBODY, control, method, path)[0], 403)
        status, ended = self.ask_as(NOBODY, control, "POST", "/jobs/his/end?wait=1", {})
        self.assertEqual((status, ended["state"], ended["reason"]), (200, "gone", f"ended by uid {NOBODY}"))
        self.assertFalse(self.exists("volume", volumes["his"]))
        self.assertEqual([self.state(jobs[name]) for name in ("other", "roots")], ["open", "open"])
        self.assertTrue(self.exists("volume", volumes["other"]) and self.exists("volume", volumes["roots"]))


class RuleTests(UsersCase):
    """Clients of one socket."""

    configuration = f"""{REAP}
[[attribute]]
job = "ci-{{value}}"
environment = "CI_JOB_ID"
[[attribute]]
job = "of-users"
uid = {NOBODY}
"""

    def made(self, user: int, *before: str, **environment: str) -> str:
        """Have a user's process make a volume by the socket of all; return whose it is."""
        status, volume = self.ask_as(
            user, self.daemon.socket_path, "POST", "/volumes/create", {}, before, **environment
        )
        self.assertEqual(status, 201, volume)
        return str(volume["Labels"][JOB_ID])

    def test_same_user(self) -> None:
        """What an environment says chooses among jobs of the same user only; a parent's counts; a uid chooses any."""
        roots, his = self.job("ci-root"), self.job("ci-his", user=str(NOBODY))
        default = self.control("GET", "/jobs/default")["id"]
        self.assertEqual(self.made(0, CI_JOB_ID="root"), roots["id"])
        self.assertEqual(self.made(NOBODY, CI_JOB_ID="his"), his["id"])
        self.assertEqual(self.made(NOBODY, CI_JOB_ID="root"), default)
        self.assertEqual(self.made(0, CI_JOB_ID="his"), default)
        # The shell has the variable, its child has not.
        parent = ("sh", "-c", 'env -u CI_JOB_ID "$@"; exit $?', "sh")
        self.assertEqual(self.made(0, *parent, CI_JOB_ID="root"), roots["id"])
        self.assertEqual(self.made(NOBODY, *parent, CI_JOB_ID="his"), his["id"])
        self.assertEqual(self.made(NOBODY, *parent, CI_JOB_ID="root"), default)
        users = self.job("of-users")
        self.assertEqual(self.made(NOBODY), users["id"])
        self.assertEqual(self.made(NOBODY, CI_JOB_ID="root"), users["id"])
        self.assertEqual(self.made(NOBODY, CI_JOB_ID="his"), his["id"])
        self.assertEqual(self.made(0), default)


class FullDiskTests(LifeCase):
    """The state directory is a small file system of its own, in the daemon's mount name space."""

    def new_daemon(self, *options: str) -> Daemon:
        if os.geteuid() != 0:
            raise SkipTest("only root can mount a file system")
        unshare = require_program("unshare", "util-linux")
        daemon = Daemon(*options)
        self.state_dir = daemon.directory / "state"
        self.state_dir.mkdir(mode=0o700)
        mount = f'mount -t tmpfs -o size=1m,mode=700 tmpfs {self.state_dir} && exec "$@"'
        daemon.command[:0] = [unshare, "--mount", "--propagation=private", "sh", "-c", mount, "sh"]
        return daemon

    @property
    def place(self) -> Path:
        """The state directory as the daemon sees it."""
        assert self.daemon.process is not None
        return Path(f"/proc/{self.daemon.process.pid}/root{self.state_dir}")

    def instance(self) -> str:
        return (self.place / "instance").read_text().strip()

    def fill(self) -> int:
        """Write until nothing more can be written; return how many bytes that were."""
        with (self.place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        return (self.place / "filler").stat().st_size

    def test_full(self) -> None:
        """While it is full, creates and new jobs are refused, and nothing is made; afterwards all is as before."""
        job = self.job("before")
        first = self.through(job, "run", "--detach", *SLEEP)
        self.daemon.wait_for(lambda: self.control("GET", f"/why/{first}")[0]["intent"]["state"] == "done")
        self.assertGreater(self.fill(), 100_000)
        ours = f"--filter=label=docker-tracker.instance={self.instance()}"
        kinds: dict[str, tuple[str, ...]] = {
            "container": ("create", IMAGE, "true"),
            "volume": ("volume", "create", self.name("full")),
            "network": ("network", "create", self.name("full")),
        }
        for _ in range(3):
            for line in kinds.values():
                error = self.assertRaises(DockerError, self.through, job, *line)
                self.assertIn("full", str(error))
        status, answer = ask(self.daemon.control_path, "POST", "/jobs", {"name": "during"})
        self.assertEqual(status, 500, answer)
        self.assertIn(b"full", answer)
        self.assertFalse((self.daemon.directory / "run/jobs/during.sock").exists())
        self.assertEqual(self.beside("ps", "--all", "--quiet", "--no-trunc", ours), first)
        for kind in ("volume", "network"):
            self.assertEqual(self.beside(kind, "ls", "--quiet", ours), "")
        self.assertIn("sleep 1000", self.through(job, "top", first))
        (self.place / "filler").unlink()
        after = self.job("during")
        for kind, line in kinds.items():
            self.through(job if kind == "volume" else after, *line)
        for each in (job, after):
            self.assertEqual({item["outcome"] for item in self.end(each).values()}, {"removed"})
        for kind in ("volume", "network"):
            self.assertEqual(self.beside(kind, "ls", "--quiet", ours), "")
        self.assertEqual(self.beside("ps", "--all", "--quiet", ours), "")


class PullCase(LifeCase):
    """A private engine with a registry beside it, from which one image is there before any job comes."""

    def setUp(self) -> None:
        engine = private_engine("pull")
        self.addCleanup(discard, engine)
        engine.start()
        self.patch(test_nested, "engine_address", lambda: engine.address)
        serving = registry.start(engine, *NAMES)
        self.addCleanup(serving.communicate)
        self.addCleanup(serving.kill)
        super().setUp()
        docker("pull", PULLED.format("before"), address=engine.address)

    def pulled(self) -> dict[str, dict[str, Any]]:
        """Have a job pull all images, one of them by a container's create, and end; return its report."""
        job = self.job("pulls")
        for name in ("before", "pulled"):
            self.through(job, "pull", PULLED.format(name))
        self.through(job, "create", PULLED.format("implicit"))
        self.images = {name: self.beside("inspect", "--format={{.Id}}", PULLED.format(name)) for name in NAMES}
        self.through(job, "tag", PULLED.format("before"), "mine:1")
        return self.end(job)


class PulledStayTests(PullCase):
    def test_stay(self) -> None:
        """Images that a job pulled stay, whoever asked for the pull; what it made of them goes."""
        report = self.pulled()
        self.assertEqual({each["kind"] for each in report.values()}, {"container", "image"})
        self.assertEqual([name for name, each in report.items() if each["kind"] == "image"], ["mine:1"])
        for name in NAMES:
            self.assertEqual(self.beside("inspect", "--format={{.Id}}", PULLED.format(name)), self.images[name])
        self.assertFalse(self.exists("image", "mine:1"))


class PulledGoTests(PullCase):
    configuration = REAP.replace(" }", ", pulled-images = true }")

    def test_go(self) -> None:
        """If the configuration says so they go with their job, but for what was there before."""
        report = self.pulled()
        outcomes = {name: each["outcome"] for name, each in report.items() if each["kind"] == "image"}
        gone = {"mine:1", *(PULLED.format(name) for name in ("pulled", "implicit"))}
        self.assertEqual(set(outcomes.values()), {"removed"})
        self.assertLessEqual(gone, outcomes.keys())
        self.assertNotIn(PULLED.format("before"), outcomes)
        for name in NAMES:
            for reference in (PULLED.format(name), self.images[name]):
                self.assertEqual(self.exists("image", reference), name == "before", reference)
        self.assertFalse(self.exists("image", "mine:1"))
