"""Cgroups of version 2 on a real engine of the test's own, whose driver is cgroupfs.

The engine and the tracker see that hierarchy alone, also where the machine has controllers in others of version 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from docker_tracker.cgroups import UNIFIED, is_empty, memberships, own_directories, remove
from tests.integration.test_nested import INTERCEPTORS, JOB_ID, WHOSE, NestedCase
from tests.integration.test_run import LEAK, RunCase
from tests.integration.test_tracking import ask
from tests.support.daemon import ROOT, Daemon
from tests.support.dockerd import IMAGE, unified_hierarchy
from tests.support.engine import ADDRESS_VARIABLE, DockerError, discard, docker, private_engine, require_program

SLEEP = ("--stop-signal=KILL", IMAGE, "sleep", "1000")
WHERE = ("grep", "^0:", "/proc/self/cgroup")
DOCKERFILE = f"FROM {IMAGE}\nRUN {' '.join(WHERE)}\n"
# Starts a command in the cgroup whose directory comes first.
INSIDE = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')


class UnifiedCase(SynchronousTestCase):
    """An engine of its own, which the case beside it takes for everybody's; its containers see whole paths."""

    def setUp(self) -> None:
        top = unified_hierarchy()
        if top is None:
            raise SkipTest("no cgroups of version 2 are mounted")
        self.top = top
        self.private = private_engine("v2")
        self.addCleanup(self.remove_jobs, (top / "docker-tracker").exists())
        self.addCleanup(discard, self.private)
        self.private.unified = True
        self.private.start()
        named = mock.patch.dict(os.environ, {ADDRESS_VARIABLE: self.private.address})
        named.start()
        self.addCleanup(named.stop)
        self.prepare()
        super().setUp()

    def prepare(self) -> None:
        """Do what the case needs before its tracker is started."""

    def remove_jobs(self, there: bool) -> None:
        """Remove the cgroup in which those of jobs were, if it was not there before."""
        if not there:
            self.assertTrue(remove(self.top / "docker-tracker"))

    def below(self, path: str) -> str:
        """Return what the kernel calls a cgroup below the engine's own, which goes with the engine."""
        return f"{self.private.cgroup_parent}{path}"

    def directory_of(self, path: str) -> Path:
        """Make a cgroup, if it is not there; return its directory."""
        directory = self.top / path[1:]
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def cgroup_of(self, container: str) -> str:
        """Return where a container's first process is."""
        (found,) = json.loads(docker("inspect", container, address=self.private.address).stdout)
        return memberships(found["State"]["Pid"])[UNIFIED]

    def client(self, daemon: Daemon, cgroup: str, *arguments: str) -> str:
        """Run the docker command at a daemon's socket in a cgroup; return what it prints.

        :raises DockerError: it fails.
        """
        command = [*INSIDE, str(self.directory_of(cgroup)), require_program("docker", "docker.io"), *arguments]
        environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": daemon.address}
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, timeout=60)
        if done.returncode != 0:
            raise DockerError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout.decode().strip()

    def check(self, daemon: Daemon, client: str, parent: str) -> None:
        """Check where a container runs that a client in a cgroup makes."""
        made = self.client(daemon, client, "run", "--detach", *SLEEP)
        self.assertEqual(self.cgroup_of(made), f"{parent}/{made}")


class TrackerCase(UnifiedCase, NestedCase):
    """A daemon beside the engine."""

    def new_daemon(self, *options: str) -> Daemon:
        return Daemon(*options, wrapper=tuple(self.private.enter()))


class ParentTests(TrackerCase):
    def prepare(self) -> None:
        self.parent = self.below("/ci")
        self.options = (f"--cgroup-parent={self.parent}", f"--interceptors={INTERCEPTORS},cgroup-parent")

    def test_all_below(self) -> None:
        """Containers, what is executed in them, and the steps of classic builds are below the parent."""
        self.assertEqual(self.private.api("GET", "/info")[1]["CgroupVersion"], "2")
        made = self.through(None, "run", "--detach", "--cgroup-parent=/theirs", *SLEEP)
        self.assertEqual(self.cgroup_of(made), f"{self.parent}/{made}")
        self.assertEqual(self.through(None, "exec", made, *WHERE), f"0::{self.parent}/{made}")
        build = ("build", "--no-cache", "--cgroup-parent=/theirs", "-")
        said = docker(*build, address=self.daemon.address, data=DOCKERFILE.encode()).stdout.decode()
        self.assertRegex(said, rf"(?m)^0::{self.parent}/[0-9a-f]{{64}}$")
        self.assertFalse((self.top / "theirs").exists())


class CallerTests(TrackerCase):
    options = ("--cgroup-parent=caller", f"--interceptors={INTERCEPTORS},cgroup-parent")

    def test_divided(self) -> None:
        """A container is in the client's nearest cgroup that has no processes of its own, which it could not share."""
        self.check(self.daemon, self.below("/agent/shell"), self.below("/agent"))
        self.check(self.daemon, self.below("/alone"), self.below(""))
        inner = self.client(self.daemon, self.below("/agent/shell"), "run", IMAGE, *WHERE)
        self.assertTrue(inner.startswith(f"0::{self.below('/agent')}/"))

    def test_delegated(self) -> None:
        """Of what systemd manages only what it has delegated; it says so by one of two extended attributes."""
        unit = self.below("-ci.slice/agent.service")
        shell = f"{unit}/shell"
        for name in ("user.delegate", "trusted.delegate"):
            error = self.assertRaises(DockerError, self.client, self.daemon, shell, "create", IMAGE)
            self.assertIn(f"neither its client's cgroup {shell} nor one above it can have containers", str(error))
            self.assertIn("Delegate=yes", str(error))
            os.setxattr(self.directory_of(unit), name, b"1")
            self.check(self.daemon, shell, unit)
            os.removexattr(self.directory_of(unit), name)

    def test_top(self) -> None:
        """A client in no cgroup makes nothing."""
        error = self.assertRaises(DockerError, self.client, self.daemon, "/", "create", IMAGE)
        self.assertIn("neither its client's cgroup / nor one above it", str(error))


class BesideTests(TrackerCase):
    """The tracker also sees what the machine has in version 1, of which the engine knows nothing."""

    options = CallerTests.options

    def new_daemon(self, *options: str) -> Daemon:
        return Daemon(*options)

    def test_caller(self) -> None:
        """Where the client is in version 1 does not count."""
        self.check(self.daemon, self.below("/agent/shell"), self.below("/agent"))

    def test_own_cgroup(self) -> None:
        """A job's own cgroup is made in version 2 alone, and removed."""
        job = self.job("own", own_cgroup=True)
        (directory,) = (each for each in own_directories(job["id"]) if each.exists())
        self.assertEqual(directory, self.top / f"docker-tracker/{job['id']}")
        made = self.through(job, "run", "--detach", *SLEEP)
        self.assertEqual(self.cgroup_of(made), f"/docker-tracker/{job['id']}/{made}")
        self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.daemon.wait_for(lambda: not directory.exists())


class AttributionTests(TrackerCase):
    def prepare(self) -> None:
        self.configuration = (
            f'[[attribute]]\njob = "ci-{{value}}"\ncgroup = "{self.below("/job_")}"\n'
            f'[[attribute]]\njob = "agent"\ncgroup = "{self.below("/agent")}"\n'
        )

    def made(self, cgroup: str) -> str:
        """Have a process in a cgroup make a volume by the socket of all; return whose it is."""
        command = [*INSIDE, str(self.directory_of(cgroup)), sys.executable, "-c", WHOSE, str(self.daemon.socket_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return str(json.loads(done.stdout.partition("\n\n")[2])["Labels"][JOB_ID])

    def test_prefix(self) -> None:
        """Clients of one socket belong to the jobs that their cgroups name, others to the job default."""
        jobs = {name: self.job(name)["id"] for name in ("ci-5", "ci-6", "agent")}
        jobs["default"] = self.control("GET", "/jobs/default")["id"]
        for path, name in (
            ("/job_5/step", "ci-5"),
            ("/job_6", "ci-6"),
            ("/job_7", "default"),
            ("/agent/a", "agent"),
            ("/agents", "default"),
        ):
            with self.subTest(path=path):
                self.assertEqual(self.made(self.below(path)), jobs[name])


class InContainerTests(UnifiedCase):
    """The tracker is in a container of the engine's."""

    def tracker(self, *options: str, parent: str = "self", command: tuple[str, ...] = ()) -> Daemon:
        """Start one with a cgroup parent, with options of its container, and a command before its own."""
        seen = {"/usr", "/lib", "/lib64", "/tmp", str(ROOT), sys.prefix, sys.base_prefix}
        volumes = [f"--volume={path}:{path}" for path in sorted(seen) if os.path.isdir(path)]
        wrapper = (require_program("docker", "docker.io"), "run", "--rm", "--env=PYTHONPATH", *volumes, *options, IMAGE)
        daemon = Daemon(
            *(f"--engine={self.private.address}", f"--cgroup-parent={parent}", "--interceptors=recorder,cgroup-parent"),
            environment={"DOCKER_HOST": self.private.address},
            wrapper=(*wrapper, *command),
        )
        self.addCleanup(daemon.discard)
        self.addCleanup(daemon.stop)
        return daemon.serve()

    def test_self_given(self) -> None:
        """``self`` is the parent that its container was made with, which no cgroup name space hides."""
        daemon = self.tracker("--cgroupns=private", f"--cgroup-parent={self.below('/box')}")
        made = docker("run", "--detach", *SLEEP, address=daemon.address).stdout.decode().strip()
        self.assertEqual(self.cgroup_of(made), f"{self.below('/box')}/{made}")

    def test_self_default(self) -> None:
        """Else it is the engine's default, which the tracker sees in the host's name spaces only."""
        daemon = self.tracker("--cgroupns=host", "--pid=host")
        made = docker("run", "--detach", "--cgroup-parent=/x", *SLEEP, address=daemon.address).stdout.decode().strip()
        self.assertEqual(self.cgroup_of(made), f"{self.private.cgroup_parent}/{made}")
        hidden = self.tracker("--cgroupns=private")
        error = self.assertRaises(DockerError, docker, "create", IMAGE, address=hidden.address)
        self.assertIn("is not seen from within", str(error))

    def test_caller(self) -> None:
        """``caller`` is where the client is, for a tracker that sees the host's processes and cgroups; else nowhere."""
        daemon = self.tracker("--cgroupns=host", "--pid=host", parent="caller")
        self.check(daemon, self.below("/agent/shell"), self.below("/agent"))
        hidden = self.tracker("--cgroupns=private", "--pid=host", parent="caller")
        error = self.assertRaises(DockerError, docker, "create", IMAGE, address=hidden.address)
        self.assertIn("start its container with --cgroupns=host", str(error))

    def test_own_cgroup(self) -> None:
        """A job's own cgroup is made by a tracker that may write the host's; never within a cgroup of its own."""
        may_mount = ("--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined")
        writable = ("sh", "-c", 'mount -o remount,rw /sys/fs/cgroup && exec "$@"', "sh")
        request = {"name": "own", "own_cgroup": True}
        hidden = self.tracker(*may_mount, "--cgroupns=private", command=writable)
        status, answer = ask(hidden.control_path, "POST", "/jobs", request)
        self.assertEqual(status, 500, answer)
        self.assertIn(b"start its container with --cgroupns=host", answer)
        daemon = self.tracker(*may_mount, "--cgroupns=host", command=writable)
        status, answer = ask(daemon.control_path, "POST", "/jobs", request)
        self.assertEqual(status, 201, answer)
        job = json.loads(answer)
        made = docker("run", "--detach", *SLEEP, address=f"unix://{job['socket']}").stdout.decode().strip()
        self.assertEqual(self.cgroup_of(made), f"/docker-tracker/{job['id']}/{made}")
        ask(daemon.control_path, "POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        daemon.wait_for(lambda: not (self.top / f"docker-tracker/{job['id']}").exists())


class RunTests(UnifiedCase, RunCase):
    """Commands that ``docker-tracker run`` starts beside the engine."""

    def line(self, *arguments: str) -> list[str]:
        return self.private.enter(*super().line(*arguments))

    def serve(self) -> None:
        """Start a daemon for them."""
        daemon = Daemon(f"--engine={self.engine}", wrapper=tuple(self.private.enter()))
        self.addCleanup(daemon.discard)
        daemon.start()
        daemon.wait_for(daemon.control_path.exists)
        self.environment["DOCKER_TRACKER_CONTROL"] = f"unix://{daemon.control_path}"

    def own_cgroup(self) -> Path:
        """Return the directory of the job that has the one container."""
        (container,) = self.containers()
        cgroup = self.cgroup_of(container)
        self.assertRegex(cgroup, rf"^/docker-tracker/[^/]+/{container}[0-9a-f]+$")
        return self.top / cgroup[1:].rpartition("/")[0]

    def kept_to(self) -> None:
        report = self.directory / "report.json"
        command = f"cat /proc/self/cgroup; {LEAK}; docker run --label run-test=$MARK {IMAGE} {' '.join(WHERE)}"
        done = self.run_to_end("--own-cgroup", f"--report={report}", "--", "sh", "-c", command)
        job_id = json.loads(report.read_text())["job"]["id"]
        for place in ("client", "[0-9a-f]{64}"):
            self.assertRegex(done.stdout, rf"(?m)^0::/docker-tracker/{job_id}/{place}$", done.stderr)
        self.wait_for("the cgroup is gone", lambda: not (self.top / "docker-tracker" / job_id).exists())
        self.all_gone()

    def test_own_cgroup(self) -> None:
        """The command and its containers are in the job's cgroup; when the command has ended nothing is left of it."""
        self.kept_to()
        self.serve()
        self.kept_to()

    def test_divided(self) -> None:
        """A job's cgroup has no processes of its own, so that all that can be controlled is within it, too."""
        self.begin("--private", "--own-cgroup")
        directory = self.own_cgroup()
        self.assertEqual((directory / "cgroup.procs").read_text(), "")
        self.assertFalse(is_empty(directory / "client"))
        controllers = (directory / "cgroup.controllers").read_text()
        self.assertEqual((self.top / "cgroup.subtree_control").read_text(), controllers)
        self.assertEqual((directory / "cgroup.subtree_control").read_text(), controllers)
        (container,) = directory.glob(f"{self.containers()[0]}*/cgroup.controllers")
        self.assertEqual(container.read_text(), controllers)

    def killed(self) -> None:
        process = self.begin("--own-cgroup")
        directory = self.own_cgroup()
        (directory / "cgroup.kill").write_text("1")
        self.assertEqual(process.wait(30), -9)
        self.all_gone()
        self.wait_for("the cgroup is gone", lambda: not directory.exists())

    def test_own_killed(self) -> None:
        """SIGKILL of all in the job's cgroup ends the job: its container is removed, and the cgroup."""
        self.killed()
        self.serve()
        self.killed()

    def test_killed_with_tracker(self) -> None:
        """SIGKILL of all, the private tracker included: the next ``run`` sweeps up behind it, the cgroup, too."""
        outside = self.directory_of(self.below("/step"))
        process = self.begin("--private", "--own-cgroup", before=(*INSIDE, str(outside)))
        directory = self.own_cgroup()
        for each in (outside, directory):
            (each / "cgroup.kill").write_text("1")
        self.assertEqual(process.wait(30), -9)
        self.wait_for("the tracker has ended", lambda: not self.trackers())
        self.assertTrue(directory.exists())
        self.assertEqual(len(self.containers()), 1)
        self.assertEqual(self.run_to_end("--private", "--", "true").returncode, 0)
        self.all_gone()
        self.wait_for("the cgroup is gone", lambda: not directory.exists())
