"""``docker-tracker run`` on a real engine: whatever is killed, nothing stays of what its command made."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import twisted
from docker_tracker.cgroups import hierarchies, own_directories
from docker_tracker.cli.client import Client
from docker_tracker.state_lock import is_held
from tests.integration.test_nested import remove_parents
from tests.support.daemon import ROOT, Daemon, daemon_environment
from tests.support.dockerd import IMAGE
from tests.support.engine import discard, docker, engine_address, private_engine, require_program
from tests.support.short import short_directory

PIDS = Path("/sys/fs/cgroup/pids")
# Prints a command's cgroups, then those of the container that it starts.
CGROUPS = "cat /proc/self/cgroup; echo --; cat /proc/$(docker inspect --format '{{.State.Pid}}' $(%s))/cgroup"
# What this is for is that it does not end by itself.
LEAK = f"docker run -d --label run-test=$MARK --stop-signal KILL {IMAGE} sleep 1000"
GO_ON = f"{LEAK} && echo ready && sleep 1000"


class RunCase(SynchronousTestCase):
    python = sys.executable
    user: int | None = None  # that it is run as, and its group

    def setUp(self) -> None:
        self.engine = engine_address()
        require_program("docker", "docker.io")
        self.directory = short_directory(self)
        self.mark = uuid.uuid4().hex
        self.environment = {
            **daemon_environment(self.directory, {}),
            "DOCKER_HOST": self.engine,
            "DOCKER_TRACKER_STATE_DIR": str(self.directory / "state"),
            "DOCKER_TRACKER_RUN_DIR": str(self.directory / "run"),
            "MARK": self.mark,
        }
        self.addCleanup(self.remove_rest)

    def remove_rest(self) -> None:
        """After a failure things may be there."""
        for pid in self.pids_with(str(self.directory).encode(), "cmdline"):
            os.kill(pid, signal.SIGKILL)
        for identifier in self.containers():
            docker("rm", "--force", identifier, address=self.engine)

    def containers(self) -> list[str]:
        found = docker("ps", "-aq", f"--filter=label=run-test={self.mark}", address=self.engine)
        return found.stdout.decode().split()

    def pids_with(self, text: bytes, what: str) -> list[int]:
        """Give the processes in whose command line or environment something stands, but for this one."""
        found = []
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and int(directory.name) != os.getpid():
                try:
                    if text in (directory / what).read_bytes():
                        found.append(int(directory.name))
                except OSError:  # it has ended
                    continue
        return found

    def trackers(self) -> list[Path]:
        """Give the directories of private trackers that are alive."""
        private = self.directory / "state/private"
        if not private.is_dir():
            return []
        return [each for each in private.iterdir() if each.is_dir() and is_held(each)]

    def line(self, *arguments: str) -> list[str]:
        return [self.python, "-P", "-m", "docker_tracker.cli.main", "run", *arguments]

    def as_user(self) -> dict[str, Any]:
        """Give what has `subprocess` run something as the user."""
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": ()}

    def run_to_end(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **more}
        return subprocess.run(
            self.line(*arguments),
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **self.as_user(),
        )

    def begin(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start one that makes a container and goes on, in a process group of its own; return when it has."""
        process = subprocess.Popen(
            [*before, *self.line(*arguments, "--", "sh", "-c", GO_ON)],
            env=self.environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self.as_user(),
        )
        self.addCleanup(self.finish, process)
        assert process.stdout is not None
        process.stdout.readline()
        self.assertEqual(process.stdout.readline(), b"ready\n")
        self.assertEqual(len(self.containers()), 1)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def wait_for(self, what: str, condition: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, f"waited in vain: {what}")
            time.sleep(0.05)

    def name_space(self) -> tuple[str, ...]:
        """Give what stands before a command that is to run in a pid name space of its own."""
        unshare = require_program("unshare", "util-linux")
        try:
            subprocess.run([unshare, "--pid", "--fork", "--mount-proc", "true"], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            raise SkipTest(f"no pid name space can be made: {error}") from error
        return unshare, "--pid", "--fork", "--kill-child", "--mount-proc"

    def cgroup_kept_to(self) -> None:
        """Run a command with a cgroup of its job's own: it and its container are in it, and then it is gone."""
        driver = docker("info", "--format={{.CgroupDriver}}", address=self.engine).stdout.decode().strip()
        if driver != "cgroupfs" or not PIDS.is_dir():
            raise SkipTest("no engine with the cgroup driver cgroupfs on cgroups of version 1")
        there = {each.path for each in hierarchies() if (each.path / "docker-tracker").exists()}
        self.addCleanup(remove_parents, there)
        report = self.directory / "report.json"
        done = self.run_to_end("--own-cgroup", f"--report={report}", "--", "sh", "-c", CGROUPS % LEAK)
        job_id = json.loads(report.read_text())["job"]["id"]
        command, _, container = done.stdout.partition("--\n")
        for lines, below in ((command, "client"), (container, "[0-9a-f]{64}")):
            for controller in ("memory", "pids"):
                self.assertRegex(lines, rf"(?m)^\d+:{controller}:(/.*)?/docker-tracker/{job_id}/{below}$", done.stderr)
        self.wait_for("the cgroup is gone", lambda: not any(each.exists() for each in own_directories(job_id)))

    def all_gone(self) -> None:
        self.wait_for("the container is gone", lambda: not self.containers())
        self.wait_for("the tracker has ended", lambda: not self.trackers())


class PrivateTests(RunCase):
    """Without a daemon."""

    def test_clean(self) -> None:
        """A command that leaves nothing runs as if it were alone; nothing of the tracker stays either."""
        done = self.run_to_end("--", "docker", "run", "--rm", IMAGE, "echo", "hello")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "hello\n", ""))
        self.wait_for("the tracker has ended", lambda: not self.trackers())
        self.wait_for("its directory is gone", lambda: os.listdir(self.directory / "state/private") == ["starting"])
        self.assertEqual(os.listdir(self.directory / "run/private"), [])

    def test_leftovers(self) -> None:
        """What a command left over is removed and reported, and is an error if that is asked for."""
        report = self.directory / "report.json"
        done = self.run_to_end("--job=leaky", "--fail-on-leak", f"--report={report}", "--", "sh", "-c", LEAK)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("docker-tracker: job leaky left over 1 thing: 1 removed in ", done.stderr)
        self.assertEqual(self.containers(), [])
        table = json.loads(report.read_text())
        self.assertEqual((table["status"], table["leaked"], table["job"]["state"]), (0, 1, "gone"))
        self.assertEqual(table["job"]["report"]["items"][0]["identifier"], done.stdout.strip())

    def test_own_cgroup(self) -> None:
        """The command and its containers are in the job's cgroup; the tracker ends when that is removed."""
        self.cgroup_kept_to()
        self.all_gone()

    def test_keep(self) -> None:
        """A job that is kept goes on, and with it its tracker, which holds no pipe open; then it is ended."""
        done = self.run_to_end("--keep", "--job=kept", "--", "sh", "-c", LEAK)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("job kept is kept, with 1 thing\n  container ", done.stderr)
        self.assertEqual((len(self.containers()), len(self.trackers())), (1, 1))
        command = done.stderr.rpartition("to remove it: docker-tracker ")[2].split()
        subprocess.run(
            [sys.executable, "-P", "-m", "docker_tracker.cli.main", *command],
            env=self.environment,
            cwd="/",
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        self.all_gone()

    def test_shell(self) -> None:
        """``$(docker-tracker run -- true)`` returns at once, as nobody else has the pipe."""
        text = f'said="$({" ".join(self.line("--keep", "--", "echo", "hello"))})" && echo "<$said>"'
        done = subprocess.run(
            ["sh", "-c", text], env=self.environment, cwd="/", capture_output=True, text=True, timeout=30, check=False
        )
        self.assertEqual(done.stdout, "<hello>\n", done.stderr)
        (tracker,) = self.trackers()
        for pid in self.pids_with(str(tracker).encode(), "cmdline"):
            self.assertEqual(os.getsid(pid), os.getpgid(pid))
            self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")

    def test_killed(self) -> None:
        """SIGKILL of ``run`` alone: the tracker sees its end, and removes what its command made."""
        self.begin("--private").kill()
        self.all_gone()

    def test_group_killed(self) -> None:
        """SIGKILL of the whole process group."""
        process = self.begin("--private")
        os.killpg(process.pid, signal.SIGKILL)
        self.all_gone()

    def are_marked(self, mark: bytes) -> bool:
        return len(self.pids_with(mark, "environ")) >= 3

    def test_marked_killed(self) -> None:
        """SIGKILL of all that carry a build's mark, as Jenkins and GitHub's runner do it: the tracker does not."""
        for name in ("JENKINS_NODE_COOKIE", "BUILD_ID", "RUNNER_TRACKING_ID"):
            value = uuid.uuid4().hex
            self.environment[name] = value
            self.begin("--private")
            (tracker,) = self.trackers()
            mark = f"{name}={value}".encode()
            # One that was just forked is not told of before it runs its own program.
            self.wait_for("all are marked", partial(self.are_marked, mark))
            for pid in self.pids_with(mark, "environ"):
                os.kill(pid, signal.SIGKILL)
            self.assertTrue(is_held(tracker))
            self.all_gone()

    def test_cgroup_killed(self) -> None:
        """The end of the cgroup is the end of the tracker, too; the next ``run`` sweeps up behind it."""
        cgroup = PIDS / f"docker-tracker-test-{self.mark[:12]}"
        try:
            cgroup.mkdir()
        except OSError as error:
            raise SkipTest(f"no cgroup of version 1 can be made: {error}") from error
        self.addCleanup(cgroup.rmdir)
        self.addCleanup(self.wait_for, "the cgroup is empty", lambda: not (cgroup / "cgroup.procs").read_text())
        self.begin("--private", before=("sh", "-c", f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', "sh"))
        pids = (cgroup / "cgroup.procs").read_text().split()
        self.assertGreaterEqual(len(pids), 4)
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        self.wait_for("the tracker has ended", lambda: not self.trackers())
        self.assertEqual(len(self.containers()), 1)
        self.swept()

    def test_name_space_ended(self) -> None:
        """The end of the pid name space: all in it are dead at once; the next ``run`` sweeps up behind them."""
        process = self.begin("--private", before=self.name_space())
        process.kill()
        self.wait_for("the tracker has ended", lambda: not self.trackers())
        self.assertEqual(len(self.containers()), 1)
        self.swept()

    def swept(self) -> None:
        done = self.run_to_end("--private", "--", "true")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.all_gone()
        self.wait_for("no directory is left", lambda: os.listdir(self.directory / "state/private") == ["starting"])

    def test_tracker_killed(self) -> None:
        """If the tracker itself is killed, a sweep takes its job up again: the command goes on with the same socket."""
        process = self.begin("--private")
        (tracker,) = self.trackers()
        for pid in self.pids_with(str(tracker).encode(), "cmdline"):
            os.kill(pid, signal.SIGKILL)
        self.wait_for("the tracker has ended", lambda: not self.trackers())
        self.assertEqual(self.run_to_end("--private", "--", "true").returncode, 0)
        self.wait_for("the other tracker has ended", lambda: self.trackers() == [tracker])
        self.assertEqual(len(self.containers()), 1)
        process.terminate()
        self.assertEqual(process.wait(30), 128 + signal.SIGTERM)
        self.all_gone()

    def test_no_engine(self) -> None:
        """An engine that is not there, or an address that is none, is an error, and the command is not run."""
        for address in ("ssh://nowhere", f"unix://{self.directory}/nothing"):
            done = self.run_to_end("--", "echo", "hello", DOCKER_HOST=address)
            self.assertEqual((done.returncode, done.stdout), (125, ""))
            self.assertIn(address.rpartition("/")[0], done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
        self.assertEqual(self.trackers(), [])

    def test_statuses(self) -> None:
        """The exit status is the command's, or says that it cannot be run."""
        for command, status in (("exit 7", 7), ("kill -TERM $$", 143)):
            done = self.run_to_end("--", "sh", "-c", command)
            self.assertEqual((done.returncode, done.stderr), (status, ""))
        for path, status in (("/nowhere/to/be/found", 127), ("/etc/passwd", 126)):
            done = self.run_to_end("--", path)
            self.assertEqual(done.returncode, status)
            self.assertIn(f"docker-tracker: cannot run {path}: ", done.stderr)


class DaemonTests(RunCase):
    """With the host's daemon."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon = Daemon(f"--engine={self.engine}")
        self.addCleanup(self.daemon.discard)
        self.control = self.daemon.directory / "run/control.sock"
        self.daemon.start()
        self.daemon.wait_for(self.control.exists)
        self.environment["DOCKER_TRACKER_CONTROL"] = f"unix://{self.control}"

    def test_leftovers(self) -> None:
        """The daemon's job is made and ended; no private tracker is needed."""
        done = self.run_to_end("--job=with-daemon", "--", "sh", "-c", f"{LEAK}; echo $DOCKER_HOST; exit 3")
        self.assertEqual(done.returncode, 3)
        self.assertIn(f"unix://{self.daemon.directory}/run/jobs/with-daemon.sock", done.stdout)
        self.assertIn("left over 1 thing: 1 removed", done.stderr)
        self.assertEqual((self.containers(), self.trackers()), ([], []))

    def test_killed(self) -> None:
        """SIGKILL of ``run`` ends the job."""
        self.begin().kill()
        self.all_gone()

    def test_own_cgroup(self) -> None:
        """The command and its containers are in the job's cgroup, which is removed after it."""
        self.cgroup_kept_to()

    def test_name_space(self) -> None:
        """In a pid name space of its own, where the daemon does not see its process, ``run`` holds a lease instead."""
        client = Client(self.control)
        killed = self.begin("--job=killed", before=self.name_space())
        self.assertNotIn("process", client.call("GET", "/jobs/killed")["request"]["ends"])
        (first,) = self.containers()
        killed.kill()
        done = subprocess.run(
            [*self.name_space(), *self.line("--job=inside", "--", "sh", "-c", f"{LEAK}; exit 3")],
            env=self.environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("job inside left over 1 thing: 1 removed in ", done.stderr)
        self.assertEqual([each for each in self.containers() if not first.startswith(each)], [])
        self.wait_for("the lease is over", lambda: not self.containers(), 60)
        self.wait_for("the job is gone", lambda: client.call("GET", "/jobs/killed")["state"] == "gone")
        self.assertEqual(client.call("GET", "/jobs/killed")["reason"], "nobody held its lease for 30 s")
        self.assertEqual(self.trackers(), [])

    def test_name_taken(self) -> None:
        """Two jobs of one name are not run at one time."""
        self.begin("--job=twice")
        done = self.run_to_end("--job=twice", "--", "true")
        self.assertEqual(done.returncode, 125)
        self.assertIn("twice", done.stderr)

    def status(self) -> str:
        (identifier,) = self.containers()
        found = docker("inspect", "--format={{.State.Status}}", identifier, address=self.engine)
        return found.stdout.decode().strip()

    def kept(self, seconds: str) -> tuple[str, str]:
        """Have a command fail; return the two commands that are printed: to look inside, and to remove what is kept."""
        done = self.run_to_end("--job=failing", f"--keep-on-failure={seconds}", "--", "sh", "-c", f"{LEAK}; exit 1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("1 kept", done.stderr)
        self.assertEqual(self.status(), "paused", done.stderr)
        lines = done.stderr.splitlines()
        (look,) = [line.partition("; look inside: ")[2] for line in lines if "look inside" in line]
        return look, lines[-1].rpartition("to try now: docker-tracker ")[2]

    def test_kept_on_failure(self) -> None:
        """What a failed command made is kept, paused; the command to look inside works as printed, with a terminal."""
        look, remove = self.kept("1h")
        job = Client(self.control).call("GET", "/jobs/failing")
        self.assertEqual(job["state"], "failed")
        (item,) = job["report"]["items"]
        self.assertEqual((item["kind"], item["outcome"]), ("container", "kept"))
        self.assertRegex(item["reason"], r"^the job failed: kept until \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ; look inside: ")
        script = require_program("script", "bsdutils")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "TERM": "dumb"}
        said = subprocess.run(
            [script, "--quiet", "--return", "--command", look, "/dev/null"],
            input=b"echo in-$((40+2)); cat /proc/1/cmdline; exit\n",
            env=environment,
            cwd="/",
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        self.assertIn(b"in-42", said)
        self.assertIn(b"sleep\x001000", said)
        self.assertEqual(self.status(), "running")
        tracker = [sys.executable, "-P", "-m", "docker_tracker.cli.main", *remove.split()]
        subprocess.run(tracker, env=self.environment, cwd="/", capture_output=True, check=True, timeout=60)
        self.assertEqual(self.containers(), [])
        client = Client(self.control)
        self.wait_for("the job is gone", lambda: client.call("GET", "/jobs/failing")["state"] == "gone")

    def test_kept_until(self) -> None:
        """When its time is over, what is kept goes by itself."""
        self.kept("8s")
        self.wait_for("the container is gone", lambda: not self.containers())
        self.wait_for("the job is gone", lambda: Client(self.control).call("GET", "/jobs/failing")["state"] == "gone")

    def test_keep_rule(self) -> None:
        """What a rule keeps is told, and is no leak."""
        name = f"cache-{self.mark[:12]}"
        self.addCleanup(docker, "volume", "rm", name, address=self.engine)
        done = self.run_to_end("--keep-rule=volume:cache-*", "--fail-on-leak", "--", "docker", "volume", "create", name)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"1 kept\n  volume {name} kept", done.stderr)
        docker("volume", "inspect", name, address=self.engine)

    def test_restart(self) -> None:
        """The daemon may be restarted under a job; it is held again, and cleaned up after as ever."""
        process = self.begin("--job=long")
        self.daemon.stop()
        self.daemon.start()
        self.daemon.wait_for(self.control.exists)
        self.assertEqual(len(self.containers()), 1)
        process.terminate()
        self.assertEqual(process.wait(60), 143)
        self.assertEqual(self.containers(), [])

    def test_refusing_socket(self) -> None:
        """A control socket at which nobody listens is an error, not a reason to go private."""
        self.daemon.stop(signal.SIGKILL)
        done = self.run_to_end("--", "true")
        self.assertEqual(done.returncode, 125)
        self.assertIn("nobody listens at the control socket", done.stderr)
        self.assertEqual(self.trackers(), [])

    def test_private(self) -> None:
        """``--private`` does without the daemon."""
        done = self.run_to_end("--private", "--", "sh", "-c", "echo $DOCKER_HOST")
        self.assertIn(f"unix://{self.directory}/run/private/", done.stdout)

    def test_container_ends(self) -> None:
        """A job that is tied to an agent's container ends with that, and what it made is removed."""
        agent = docker("run", "-d", "--rm", "--stop-signal=KILL", IMAGE, "sleep", "1000", address=self.engine)
        identifier = agent.stdout.decode().strip()
        tracker = [sys.executable, "-P", "-m", "docker_tracker.cli.main"]
        start = [*tracker, "job", "start", "agent", f"--container={identifier[:12]}"]
        started = subprocess.run(start, env=self.environment, cwd="/", capture_output=True, check=True, timeout=60)
        leak = ("run", "-d", f"--label=run-test={self.mark}", "--stop-signal=KILL", IMAGE, "sleep", "1000")
        docker(*leak, address=f"unix://{started.stdout.decode().strip()}")
        self.assertEqual(len(self.containers()), 1)
        docker("kill", identifier, address=self.engine)
        self.all_gone()


class UserTests(RunCase):
    """As a user who is not root."""

    user = 65534

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can run something as another user")
        super().setUp()
        os.chown(self.directory, 65534, 65534)
        for name in [name for name in self.environment if name.startswith(("COVERAGE_", "DOCKER_TRACKER_"))]:
            del self.environment[name]
        packages = Path(twisted.__file__).parents[1]
        self.environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{packages}"
        self.environment["XDG_STATE_HOME"] = str(self.directory / "state")
        self.environment["XDG_RUNTIME_DIR"] = str(self.directory / "run")
        (self.directory / "run").mkdir()
        os.chown(self.directory / "run", 65534, 65534)
        self.python = next(filter(self.can_run, (sys.executable, "/usr/bin/python3")), "")
        if not self.python:
            raise SkipTest("another user can run no Python that has what docker-tracker needs")

    def can_run(self, python: str) -> bool:
        line = [python, "-P", "-c", "import docker_tracker.cli.main, docker_tracker.tap, twisted.scripts.twistd"]
        try:
            return not subprocess.run(line, env=self.environment, cwd="/", check=False, **self.as_user()).returncode
        except OSError:  # it is in a directory that is not for others
            return False

    def trackers(self) -> list[Path]:
        private = self.directory / "state/docker-tracker/private"
        return [each for each in private.glob("*/") if is_held(each)]

    def refused(self, done: subprocess.CompletedProcess[str], *said: str) -> None:
        """The command was not run, and one sentence says why."""
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (125, "", 1), done.stderr)
        for part in said:
            self.assertIn(part, done.stderr)

    def serve(self, control: str) -> None:
        """Start root's daemon."""
        daemon = Daemon(f"--engine={self.engine}")
        self.addCleanup(daemon.discard)
        daemon.directory.chmod(0o711)
        path = daemon.control_path
        settings = daemon.directory / "docker-tracker.toml"
        settings.write_text(f'control = {{ address = "unix://{path}", {control} }}\n')
        daemon.command.append(f"--config={settings}")
        daemon.start()
        daemon.wait_for(path.exists)
        self.environment["DOCKER_TRACKER_CONTROL"] = f"unix://{path}"

    def test_daemon(self) -> None:
        """A member of the control socket's group has a job, and the job's socket is the user's own."""
        self.serve(f'group = "{self.user}"')
        look = "stat -c '%u %a' ${DOCKER_HOST#unix://}"
        done = self.run_to_end("--job=users", "--", "sh", "-c", f"{look} && {LEAK} && exit 3")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertTrue(done.stdout.startswith("65534 600\n"), done.stdout)
        self.assertIn("docker-tracker: job users left over 1 thing: 1 removed in ", done.stderr)
        self.assertEqual((self.containers(), self.trackers()), ([], []))

    def test_daemon_cgroup(self) -> None:
        """The daemon puts the user's command into the job's own cgroup, as it may."""
        self.serve(f'group = "{self.user}"')
        self.cgroup_kept_to()

    def test_not_allowed(self) -> None:
        """Who may not use the control socket is told so, by its file or by the daemon; nothing is private then."""
        for control, said in (('group = "0"', "you may not connect"), ('mode = "0666"', "uid 65534 may not do this")):
            self.serve(control)
            self.refused(self.run_to_end("--", "echo", "hello"), said)
        self.assertFalse((self.directory / "state").exists())

    def test_private(self) -> None:
        """Alone, in the user's own directories, if the engine's socket is the user's to open; what is left goes."""
        engine = private_engine("user")
        self.addCleanup(discard, engine)
        engine.start()
        engine.directory.chmod(0o711)
        self.addCleanup(setattr, self, "engine", self.engine)
        self.engine = self.environment["DOCKER_HOST"] = engine.address
        self.refused(self.run_to_end("--", "echo", "hello"), f"you may not use the engine at {engine.address}")
        self.assertFalse((self.directory / "state").exists())
        os.chown(engine.socket_path, 0, 65534)
        done = self.run_to_end("--", "sh", "-c", f"{LEAK}; echo $DOCKER_HOST; exit 3")
        self.assertEqual(done.returncode, 3)
        self.assertIn(f"\nunix://{self.directory}/run/docker-tracker/private/", done.stdout)
        self.assertIn("left over 1 thing: 1 removed in ", done.stderr)
        self.assertEqual(self.containers(), [])
        os.killpg(self.begin().pid, signal.SIGKILL)
        self.all_gone()
        # The engine's root could make it, but nobody could remove it.
        self.refused(self.run_to_end("--own-cgroup", "--", "echo", "hello"), "a cgroup of the job's own cannot be made")
