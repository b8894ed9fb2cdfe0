"""The units on a machine with systemd: the service and its sandbox, restarts, and slices, with a real engine."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.test_docs import blocks
from tests.integration.test_tracking import ask
from tests.support.daemon import ROOT, TWISTD, answers
from tests.support.dockerd import IMAGE
from tests.support.engine import docker, require_program
from tests.support.machine import Layout, Machine, MachineError, require_machine

SERVICE = "docker-tracker.service"
JOB_ID = "docker-tracker.job-id"
ENGINE = "/run/docker.sock"
CONTROL = "/run/docker-tracker/control.sock"
TRACKED = "/run/docker-tracker/docker.sock"
CONFIGURATION = "/etc/docker-tracker/docker-tracker.toml"
# capabilities(7), linux/capability.h: CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID, SYS_PTRACE
CAPABILITIES = sum(1 << number for number in (0, 1, 3, 6, 7, 19))
CLIENT = (sys.executable, "-P", "-m", "docker_tracker.cli.main")
PYTHONPATH = {"PYTHONPATH": str(ROOT)}


def programs(*more: str) -> tuple[str, ...]:
    """Return options of a container in which the host's programs work.

    :param more: Directories besides those of the system.
    """
    there = [path for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]
    return tuple(f"--volume={path}:{path}:ro" for path in (*there, *more))


class MachineCase(SynchronousTestCase):
    """A machine with an engine and the units, which are not started."""

    layout: Layout = "hybrid"
    configuration = ""

    def setUp(self) -> None:
        require_machine(self.layout)
        self.machine = Machine(self.layout).start()
        self.addCleanup(self.machine.stop)
        self.machine.start_engine()
        self.machine.install()
        self.machine.write(CONFIGURATION, self.configuration)

    def start(self, *units: str) -> None:
        self.machine.run("systemctl", "start", *units or (SERVICE,))

    def drop_in(self, text: str) -> None:
        """Change the service, as an operator does."""
        self.machine.write(f"/etc/systemd/system/{SERVICE}.d/more.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def main(self) -> int:
        """Return the pid of the daemon in the machine; 0: it does not run."""
        return int(self.machine.property(SERVICE, "MainPID"))

    def restarts(self) -> int:
        return int(self.machine.property(SERVICE, "NRestarts"))

    def docker(self, *words: str, at: str = ENGINE) -> str:
        """Run the docker command, at the engine's own socket if nothing else is said."""
        return docker(*words, address=self.machine.address(at)).stdout.decode().strip()

    def control(self, method: str, target: str, body: Any = None) -> Any:
        status, answer = ask(self.machine.path(CONTROL), method, target, body)
        self.assertLess(status, 300, answer)
        return json.loads(answer)

    def job(self, name: str, **request: Any) -> dict[str, Any]:
        """Make a job."""
        job: dict[str, Any] = self.control("POST", "/jobs", {"name": name, **request})
        return job

    def inspect(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", container))
        return dict(found)

    def owner(self, container: str) -> str:
        """Return the ID of the job that has a container."""
        return str(self.inspect(container)["Config"]["Labels"][JOB_ID])


class ServiceTests(MachineCase):
    configuration = """
audit-log = "/var/log/docker-tracker/audit.log"
[[attribute]]
job = "ci-{value}"
environment = "CI_JOB_ID"
"""

    def test_service(self) -> None:
        """The first client at the socket starts it; it is ready, works in its whole sandbox, and reloads."""
        self.start("docker-tracker.socket")
        path = self.machine.path(TRACKED)
        self.assertEqual((stat.S_IMODE(path.stat().st_mode), path.group()), (0o660, "docker"))
        self.assertEqual(self.main(), 0)
        self.assertEqual(self.docker("run", "--rm", IMAGE, "echo", "hello", at=TRACKED), "hello")
        member = ("--uid=nobody", f"--setenv=DOCKER_HOST=unix://{TRACKED}", "--setenv=HOME=/tmp")
        job = self.job("ci-5", user="nobody")
        for variable, at, owner in (
            ("CI_JOB_ID=7", TRACKED, self.control("GET", "/jobs/default")["id"]),
            ("CI_JOB_ID=5", TRACKED, job["id"]),  # seen in another user's process
            ("CI_JOB_ID=7", job["socket"], job["id"]),
        ):
            settings = (*member, "--gid=docker", f"--setenv={variable}", f"--setenv=DOCKER_HOST=unix://{at}")
            self.assertEqual(self.owner(self.machine.service("docker", "create", IMAGE, options=settings)), owner)
        with self.assertRaises(MachineError) as caught:
            self.machine.service("docker", "create", IMAGE, options=member)
        self.assertIn("permission denied", str(caught.exception))
        self.machine.wait_for(lambda: self.machine.property(SERVICE, "ActiveState") == "active")
        process = self.machine.path(f"/proc/{(main := self.main())}")
        state = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        self.assertEqual((state["NoNewPrivs"], state["Seccomp"]), ("1", "2"))
        for kind in ("CapBnd", "CapEff"):
            self.assertEqual(int(state[kind], 16), CAPABILITIES)
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        options = {words[4]: words[5].split(",")[0] for words in mounts}
        for name, expected in (("/usr", "ro"), ("/etc", "ro"), ("/sys", "ro"), ("/", "rw"), ("/tmp", "rw")):
            self.assertEqual(options[name], expected, name)
        for words in mounts:
            if words[words.index("-") + 1] in ("cgroup", "cgroup2"):
                self.assertEqual(words[5].split(",")[0], "rw", words)
        log = self.machine.path("/var/log/docker-tracker/audit.log")
        self.machine.wait_for(lambda: log.exists() and bool(log.read_text()))
        lines = log.read_text().splitlines()
        log.rename(f"{log}.1")
        self.machine.run("systemctl", "reload", SERVICE)
        self.docker("create", IMAGE, at=TRACKED)
        self.machine.wait_for(lambda: log.exists() and bool(log.read_text()))
        self.assertEqual(Path(f"{log}.1").read_text().splitlines()[: len(lines)], lines)
        self.assertEqual((self.main(), self.restarts()), (main, 0))
        self.machine.run("systemctl", "stop", SERVICE)
        self.assertEqual(self.machine.property(SERVICE, "Result"), "success")
        self.assertEqual(answers(path), True)  # the socket's unit has it, and starts the service again

    def test_cgroupfs(self) -> None:
        """In its sandbox it can make and remove cgroups for an engine that does without systemd."""
        self.machine.write("/etc/docker/daemon.json", '{"exec-opts": ["native.cgroupdriver=cgroupfs"]}')
        self.machine.run("systemctl", "restart", "docker.service")
        self.start()
        run = (*CLIENT, "run", "--own-cgroup", "--job", "own", "--", "docker", "run", IMAGE, "cat", "/proc/self/cgroup")
        said = self.machine.run(*run, environment={**PYTHONPATH, "DOCKER_HOST": f"unix://{TRACKED}"})
        (job,) = [each for each in self.control("GET", "/jobs?all=1") if each["name"] == "own"]
        self.assertIn(f":/docker-tracker/{job['id']}/", said)
        tops = [top for top in self.machine.cgroups() if (top / "docker-tracker").exists()]
        self.assertTrue(tops)
        self.machine.wait_for(lambda: not any((top / "docker-tracker" / job["id"]).exists() for top in tops))

    def test_watchdog(self) -> None:
        """The manager is told that it lives, again and again; when it does not turn, it is killed and started again."""
        self.drop_in("[Service]\nWatchdogSec=2s\n")
        self.start()
        main = self.main()
        microseconds = [int(self.machine.property(SERVICE, "WatchdogTimestampMonotonic"))]

        def told() -> bool:
            now = int(self.machine.property(SERVICE, "WatchdogTimestampMonotonic"))
            if now != microseconds[-1]:
                microseconds.append(now)
            return microseconds[-1] - microseconds[0] > 3_000_000

        self.machine.wait_for(told)
        self.assertGreater(len(microseconds), 2)
        self.assertEqual((self.main(), self.restarts()), (main, 0))
        self.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", SERVICE)
        self.machine.wait_for(lambda: self.restarts() == 1 and bool(self.main()))
        self.assertIn("Watchdog timeout", self.machine.journal(SERVICE))
        self.machine.wait_for(lambda: answers(self.machine.path(TRACKED)))


class RestartTests(MachineCase):
    configuration = (
        'interceptors = ["labels", "bind-paths", "nested-socket", "recorder"]\nreap = { stop-seconds = 1.0 }\n'
    )

    def agent(self, job: dict[str, Any]) -> str:
        """Start a container of a job's that has the job's socket mounted, and the host's docker command."""
        mounts = (*programs(), f"--volume={ENGINE}:/var/run/docker.sock")
        return self.docker("run", "--detach", *mounts, IMAGE, "sleep", "1000", at=job["socket"])

    def create(self, agent: str) -> str:
        """Create a container from within another one, and return whose it is."""
        program = os.path.realpath(require_program("docker", "docker.io"))
        return self.owner(self.docker("exec", agent, program, "create", IMAGE, "true"))

    def kept(self) -> int:
        """Return how many descriptors systemd keeps."""
        return int(self.machine.property(SERVICE, "NFileDescriptorStore"))

    def jobs(self) -> dict[str, str]:
        """Return the IDs of the jobs, by name."""
        return {each["name"]: each["id"] for each in self.control("GET", "/jobs")}

    def hold(self, job: dict[str, Any]) -> subprocess.Popen[str]:
        """Hold a job's lease by the client command."""
        command = [*CLIENT, "--control", str(self.machine.path(CONTROL)), "job", "lease", job["name"]]
        holder = subprocess.Popen(
            command, env={**os.environ, **PYTHONPATH}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.addCleanup(holder.communicate)
        self.addCleanup(holder.kill)
        assert holder.stdout is not None
        self.assertEqual(holder.stdout.readline(), f"{job['socket']}\n")
        return holder

    def is_gone(self, job: dict[str, Any]) -> bool:
        return bool(self.control("GET", f"/jobs/{job['id']}")["state"] == "gone")

    def test_kept(self) -> None:
        """A container goes on with its job's socket over a restart and a kill; jobs and leases are there again."""
        self.start("docker-tracker.socket", SERVICE)
        job, held, lost = self.job("long"), self.job("held", ends={"lease": 3}), self.job("lost", ends={"lease": 3})
        holders = [self.hold(held), self.hold(lost)]
        agent = self.agent(job)
        self.assertEqual(self.create(agent), job["id"])
        path = self.machine.path(job["socket"])
        inode, kept, jobs, main = path.stat().st_ino, self.kept(), self.jobs(), self.main()
        self.assertEqual(kept, 4)  # of three jobs and of the control API; the other unit has that of the job default
        self.machine.run("systemctl", "restart", SERVICE)
        self.assertEqual(self.create(agent), job["id"])
        self.assertEqual((path.stat().st_ino, self.kept(), self.jobs()), (inode, kept, jobs))
        self.assertNotEqual(main, main := self.main())
        holders[1].kill()
        self.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", SERVICE)
        self.assertEqual(self.create(agent), job["id"])  # comes before the next process, and waits for it
        self.assertNotEqual(main, self.main())
        self.assertEqual((path.stat().st_ino, self.restarts()), (inode, 1))
        self.machine.wait_for(lambda: self.is_gone(lost))
        self.assertEqual((self.is_gone(held), self.kept()), (False, kept - 1))
        holders[0].kill()
        self.machine.wait_for(lambda: self.is_gone(held))
        said = self.machine.journal(SERVICE)
        self.assertNotIn("bound anew", said)
        self.assertNotIn("has lost the socket", said)
        self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.assertEqual((self.docker("ps", "--all", "--quiet"), path.exists(), self.kept()), ("", False, 1))

    def test_stopped(self) -> None:
        """All unix sockets are kept over a restart, none over a stop: the journal says which container lost its own."""
        self.start()
        job = self.job("long")
        agent = self.agent(job)
        paths = [self.machine.path(path) for path in (TRACKED, CONTROL, job["socket"])]
        inodes, kept = [path.stat().st_ino for path in paths], self.kept()
        self.assertEqual(kept, 3)
        self.machine.run("systemctl", "restart", SERVICE)
        self.assertEqual(([path.stat().st_ino for path in paths], self.kept()), (inodes, kept))
        self.assertEqual([answers(path) for path in paths], [True] * 3)
        self.machine.run("systemctl", "stop", SERVICE)
        self.assertEqual(self.kept(), 0)
        self.start()
        self.assertEqual(self.owner(self.docker("create", IMAGE, at=job["socket"])), job["id"])
        self.machine.wait_for(
            lambda: f"container {agent[:12]} has lost the socket of job long" in self.machine.journal(SERVICE)
        )


class InPlaceTests(MachineCase):
    def test_page(self) -> None:
        """What the page tells to write puts the tracker in the engine's place; it outlives a restart of the engine."""
        self.start()
        (drop_in,), configuration = blocks("howto/systemd", "ini"), blocks("howto/systemd", "toml")[-1]
        self.machine.write("/etc/systemd/system/docker.socket.d/moved.conf", drop_in)
        self.machine.write(CONFIGURATION, configuration)
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "restart", "docker.socket", "docker.service", SERVICE)
        main, path = self.main(), self.machine.path(ENGINE)
        self.assertEqual((stat.S_IMODE(path.stat().st_mode), path.group()), (0o660, "docker"))
        self.assertEqual(stat.S_IMODE(self.machine.path("/run/dockerd.sock").stat().st_mode), 0o600)
        job = self.control("GET", "/jobs/default")["id"]
        self.assertEqual(self.owner(self.docker("create", IMAGE)), job)
        self.machine.run("systemctl", "restart", "docker.service")
        self.assertEqual(self.owner(self.docker("create", IMAGE)), job)
        self.assertEqual((self.main(), self.restarts()), (main, 0))


class PrivateTests(MachineCase):
    def test_scope(self) -> None:
        """A private tracker has a scope of its own: when all of a build is killed, it removes what that has left."""
        script = "docker run --detach $0 sleep 1000 && : >/run/made && exec sleep 1000"
        options = (
            "--quiet",
            "--unit=build",
            "--property=Type=exec",
            f"--setenv=PYTHONPATH={ROOT}",
            "--setenv=HOME=/root",
        )
        self.machine.run("systemd-run", *options, "--", *CLIENT, "run", "--", "sh", "-c", script, IMAGE)
        self.machine.wait_for(self.machine.path("/run/made").exists)
        (made,) = self.docker("ps", "--all", "--quiet").split()
        self.machine.run("systemctl", "kill", "--signal=SIGKILL", "build.service")
        self.machine.wait_for(lambda: not self.docker("ps", "--all", "--quiet"))
        list_scopes = ("systemctl", "list-units", "--plain", "--no-legend", "docker-tracker-private-*.scope")
        self.machine.wait_for(lambda: not self.machine.run(*list_scopes))
        self.assertIn(made, self.machine.run("journalctl", "--no-pager", "--output=cat", "--unit=docker.service"))


class SlicesOfHybrid(MachineCase):
    """The engine's cgroup driver is systemd."""

    configuration = 'cgroup-parent = "caller"\nreap = { stop-seconds = 1.0 }\n'

    def setUp(self) -> None:
        super().setUp()
        self.assertEqual(self.docker("info", "--format={{.CgroupDriver}}"), "systemd")
        self.start()

    def client(self, *command: str, options: tuple[str, ...] = (), at: str = TRACKED) -> str:
        """Run a command as a service of the machine."""
        environment = {**PYTHONPATH, "DOCKER_HOST": f"unix://{at}", "HOME": "/root"}
        settings = tuple(f"--setenv={name}={value}" for name, value in environment.items())
        return self.machine.service(*command, options=(*settings, *options))

    def cgroup(self, container: str) -> str:
        """Return the cgroup of a running container, as systemd has it."""
        pid = self.inspect(container)["State"]["Pid"]
        return self.of(self.machine.path(f"/proc/{pid}/cgroup").read_text())

    def of(self, lines: str) -> str:
        """Return systemd's cgroup by the lines that the kernel gives of a process."""
        # Read in the machine, by a process that is in its cgroups; else it begins with the way from ours to there.
        kind = "0::" if self.layout == "unified" else r"\d+:name=systemd:"
        found = re.search(rf"^{kind}(/.*)$", lines, re.MULTILINE)
        assert found is not None, lines
        return found[1]

    def directories(self, path: str) -> list[Path]:
        """Return where a cgroup is there, in which hierarchies ever."""
        return [directory for top in self.machine.cgroups() if (directory := Path(f"{top}{path}")).exists()]

    def test_caller(self) -> None:
        """Containers are in the nearest slice that their client is in; who is in none creates none, and is told why."""
        for slices, expected in (
            (("--slice=ci-a.slice",), "ci-a.slice"),
            (("--slice=ci.slice",), "ci.slice"),
            ((), "system.slice"),
        ):
            made = self.client("docker", "run", "--detach", IMAGE, "sleep", "1000", options=slices)
            self.assertEqual(self.inspect(made)["HostConfig"]["CgroupParent"], expected)
            above = {"ci-a.slice": "/ci.slice/ci-a.slice"}.get(expected, f"/{expected}")
            self.assertTrue(self.directories(f"{above}/docker-{made}.scope"))
        with self.assertRaises(MachineError) as caught:
            self.client("docker", "create", IMAGE, options=("--slice=-.slice",))
        self.assertIn("its client is in no slice, but in /run-", str(caught.exception))

    def test_self(self) -> None:
        """A tracker in a container puts others beside itself: in the slice it was given, or where the engine put it."""
        trees = programs(*sorted({str(ROOT), sys.prefix, sys.base_prefix}))
        command = (str(TWISTD), "--nodaemon", "--pidfile=", "docker-tracker", "--cgroup-parent=self", "--control=none")
        for options, expected in (
            (("--cgroup-parent=ci-b.slice",), "ci-b.slice"),
            (("--pid=host", "--cgroupns=host"), "system.slice"),
        ):
            mounts = (*trees, f"--volume={ENGINE}:/var/run/docker.sock", f"--volume=/run/{expected}:/run/out")
            listen = ("--listen=unix:///run/out/docker.sock", "--state-dir=/tmp/state", "--run-dir=/tmp/run")
            started = ("run", "--detach", f"--env=PYTHONPATH={ROOT}", *mounts, *options, IMAGE)
            self.docker(*started, *command, *listen)
            address = f"/run/{expected}/docker.sock"
            self.machine.wait_for(partial(answers, self.machine.path(address)))
            made = self.docker("create", IMAGE, at=address)
            self.assertEqual(self.inspect(made)["HostConfig"]["CgroupParent"], expected)

    def test_own(self) -> None:
        """A job's own cgroup is a slice with its command and its containers, and is gone when they are."""
        script = (
            "cat /proc/self/cgroup; echo --; docker run --rm --cgroupns=host $1 cat /proc/self/cgroup; echo --;"
            " docker run --detach $1 sleep 1000"
        )
        run = (*CLIENT, "run", "--own-cgroup", "--job", "own", "--", "sh", "-c", script, "sh", IMAGE)
        own, inner, made = self.client(*run).split("--\n")
        (job,) = [each for each in self.control("GET", "/jobs?all=1") if each["name"] == "own"]
        unit = f"docker-tracker-{job['id']}"
        path = f"/docker.slice/docker-tracker.slice/{unit}.slice"
        self.assertRegex(self.of(own), f"^{path}/{unit}-client-[0-9]+[.]scope$")
        self.assertRegex(self.of(inner), f"^{path}/docker-[0-9a-f]{{64}}[.]scope$")
        self.assertRegex(made, "^[0-9a-f]{64}$")
        self.assertEqual(self.docker("ps", "--all", "--quiet"), "")
        self.machine.wait_for(lambda: self.machine.property(f"{unit}.slice", "ActiveState") == "inactive")
        self.machine.wait_for(lambda: not self.directories(path))
        self.assertNotIn("is left", self.machine.journal(SERVICE))

    def test_left(self) -> None:
        """A slice that somebody was still in when the tracker was restarted goes at the next start after that."""
        linger = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &"
        self.client(*CLIENT, "run", "--own-cgroup", "--job", "own", "--", "sh", "-c", linger)
        (job,) = [each for each in self.control("GET", "/jobs?all=1") if each["name"] == "own"]
        unit = f"docker-tracker-{job['id']}"
        self.machine.run("systemctl", "restart", SERVICE)
        self.machine.run("systemctl", "stop", SERVICE)
        self.machine.run("systemctl", "stop", f"{unit}-client-*.scope")
        self.assertEqual(self.machine.property(f"{unit}.slice", "ActiveState"), "active")
        self.machine.run("systemctl", "start", SERVICE)
        self.machine.wait_for(lambda: self.machine.property(f"{unit}.slice", "ActiveState") == "inactive")
        self.assertEqual(self.directories(f"/docker.slice/docker-tracker.slice/{unit}.slice"), [])

    def test_own_by_control(self) -> None:
        """A job without a process has its slice from the first container, or the job's making on, until its end."""
        job = self.job("own", own_cgroup=True)
        unit = f"docker-tracker-{job['id']}.slice"
        self.assertEqual(self.machine.property(unit, "ActiveState"), "active")
        made = self.docker("run", "--detach", IMAGE, "sleep", "1000", at=job["socket"])
        path = f"/docker.slice/docker-tracker.slice/{unit}"
        self.assertTrue(self.directories(f"{path}/docker-{made}.scope"))
        self.machine.run("systemctl", "restart", SERVICE)
        self.assertEqual(self.inspect(made)["State"]["Running"], True)
        self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.machine.wait_for(lambda: self.machine.property(unit, "ActiveState") == "inactive")
        self.machine.wait_for(lambda: not self.directories(path))


class SlicesOfUnified(SlicesOfHybrid):
    layout = "unified"
