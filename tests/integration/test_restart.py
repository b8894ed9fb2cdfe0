"""Jobs, their sockets and leases, and containers that have such a socket mounted, over restarts of the unit."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from docker_tracker.cli.client import Client, target
from docker_tracker.config import KEPT_DESCRIPTOR
from tests.integration.test_nested import SOCKET, NestedCase
from tests.support.daemon import ROOT, Daemon
from tests.support.dockerd import IMAGE
from tests.support.engine import require_program
from tests.support.service_manager import Unit

BY_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


class RestartCase(NestedCase):
    """A daemon under a service manager that keeps descriptors."""

    most = 64

    def new_daemon(self, *options: str) -> Daemon:
        self.unit = Unit(*options, most=self.most)
        return self.unit

    def setUp(self) -> None:
        super().setUp()
        self.sockets = self.unit.directory / "run/jobs"
        self.program = os.path.realpath(require_program("docker", "docker.io"))

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon by a signal, and start it again."""
        self.unit.stop(number)
        self.unit.start()
        self.unit.wait_until_ready()

    def agent(self, job: dict[str, Any]) -> str:
        """Start a container of a job's that has the job's socket mounted; return its ID."""
        mount = f"--volume={SOCKET}:{SOCKET}"
        return self.through(job, "run", "--detach", mount, *self.client_options(), IMAGE, "sleep", "1000")

    def inside(self, agent: str, *words: str) -> subprocess.Popen[str]:
        """Begin to run the docker command in a container, not by way of the daemon."""
        process = subprocess.Popen(
            ["docker", "exec", agent, self.program, *words],
            env={"PATH": os.environ["PATH"], "DOCKER_HOST": self.engine},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def hold(self, name: str) -> subprocess.Popen[str]:
        """Hold the lease of a job by the client command."""
        control = str(self.unit.directory / "run/control.sock")
        command = [sys.executable, "-P", "-m", "docker_tracker.cli.main", "--control", control, "job", "lease", name]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), f"{self.sockets}/{name}.sock\n")
        return process

    def wait_for_end(self, job: dict[str, Any]) -> None:
        self.unit.wait_for(lambda: self.control("GET", f"/jobs/{job['id']}")["state"] == "gone")

    def wait_for_line(self, text: str) -> None:
        """Wait until the daemon has said something."""
        self.unit.wait_for(lambda: text in self.unit.output())

    def made(self, process: subprocess.Popen[str]) -> str:
        """Return what a command printed that was begun."""
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, errors)
        return output.strip()

    def wait_for_waiting(self, agent: str, path: str) -> None:
        """Wait until somebody in a container waits to be accepted at a socket."""
        table = Path(f"/proc/{self.inspect(agent)['State']['Pid']}/net/unix")
        end = time.monotonic() + 30
        while not any(words[5:] == ["02", "0", path] for line in table.open() if (words := line.split())):
            self.assertLess(time.monotonic(), end, table.read_text())
            time.sleep(0.02)


class KeptTests(RestartCase):
    """Descriptors are kept."""

    def test_nested(self) -> None:
        """A container with the nested socket uses it before, during and after a restart, and a kill, of the daemon."""
        job = self.job("long")
        path = Path(job["socket"])
        agent = self.agent(job)
        self.assertEqual(self.owner(self.made(self.inside(agent, "create", IMAGE, "true"))), job["id"])
        inode = path.stat().st_ino
        kept = self.unit.names()
        self.assertEqual(len(kept), 3)  # and those of the job default and of the control API
        for number in BY_SIGNALS:
            self.unit.stop(number)
            during = self.inside(agent, "create", IMAGE, "true")
            self.wait_for_waiting(agent, job["socket"])
            self.assertIsNone(during.poll())
            self.unit.start()
            self.assertEqual(self.owner(self.made(during)), job["id"])
            self.assertEqual(self.owner(self.made(self.inside(agent, "create", IMAGE, "true"))), job["id"])
            self.assertEqual((path.stat().st_ino, self.unit.names()), (inode, kept))
        self.assertNotIn("bound anew", self.unit.output())
        self.assertNotIn("has lost the socket", self.unit.output())
        self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.assertEqual((len(self.unit.names()), path.exists()), (2, False))
        self.assertEqual(
            self.through(None, "ps", "--all", "--quiet", f"--filter=label=docker-tracker.job-id={job['id']}"), ""
        )

    def test_all_addresses(self) -> None:
        """The control socket and that of the job default are kept as well: who comes meanwhile waits."""
        job = self.job("one")
        for number in BY_SIGNALS:
            for path in (self.unit.directory / "run/control.sock", self.unit.socket_path):
                self.unit.stop(number)
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(60)
                    client.connect(str(path))
                    client.sendall(b"GET /version HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
                    self.unit.start()
                    self.assertEqual(client.recv(15), b"HTTP/1.1 200 OK")
        self.assertEqual(self.control("GET", "/jobs/one")["id"], job["id"])

    def test_lease(self) -> None:
        """A lease begins its grace anew; its holder comes back; a job whose holder does not come back ends."""
        control = Client(self.unit.directory / "run/control.sock")
        for number in BY_SIGNALS:
            held, lost = (self.job(f"{word}-{number.name}", ends={"lease": 3}) for word in ("held", "lost"))
            holder = self.hold(held["name"])
            with control.hold(target("jobs", lost["id"], "lease")):
                self.restart(number)
                states = [self.control("GET", f"/jobs/{each['id']}")["state"] for each in (held, lost)]
                self.assertEqual(states, ["open", "open"])
            self.wait_for_end(lost)
            self.assertEqual(self.control("GET", f"/jobs/{held['id']}")["state"], "open")
            self.assertIn("lease", self.control("GET", f"/jobs/{lost['id']}")["reason"])
            holder.kill()
            self.wait_for_end(held)

    def test_more_than_jobs(self) -> None:
        """What is kept of a job that is over is given up, and its file removed."""
        job = self.job("one")
        left = self.sockets / "left.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(left))
            sock.listen()
            self.unit.keep(f"{KEPT_DESCRIPTOR}left-{left.stat().st_ino}", sock)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(self.sockets / "stale.sock"))
        self.assertEqual(len(self.unit.names()), 4)
        self.restart(signal.SIGKILL)
        self.assertEqual(len(self.unit.names()), 3)
        self.assertEqual(os.listdir(self.sockets), ["one.sock"])
        self.assertEqual(self.owner(self.through(job, "create", IMAGE, "true")), job["id"])

    def test_replaced(self) -> None:
        """A socket whose file was removed or replaced meanwhile is not taken; nothing of it stays kept."""
        jobs = [self.job(name) for name in ("removed", "replaced")]
        before = self.unit.names()
        self.unit.stop()
        os.unlink(jobs[0]["socket"])
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{jobs[1]['socket']}.new")
        os.replace(f"{jobs[1]['socket']}.new", jobs[1]["socket"])
        self.unit.start()
        self.unit.wait_until_ready()
        for job in jobs:
            made = self.through(job, "create", IMAGE, "true")
            self.assertEqual(self.owner(made), job["id"])
            self.assertIn(f"the socket of job {job['name']} was bound anew", self.unit.output())
        after = self.unit.names()
        self.assertEqual((len(after), len({*before} & {*after})), (4, 2))

    def test_stopped(self) -> None:
        """After a stop, when nothing is kept any more, all is bound anew, and files are no hindrance."""
        job = self.job("one")
        agent = self.agent(job)
        self.unit.stop()
        self.unit.release()
        self.unit.start()
        self.unit.wait_until_ready()
        self.assertEqual(self.owner(self.through(job, "create", IMAGE, "true")), job["id"])
        self.wait_for_line(f"container {agent[:12]} has lost the socket of job one")
        self.assertEqual(len(self.unit.names()), 3)

    def test_mode(self) -> None:
        """A socket that was kept has the mode that the configuration says now."""
        self.unit.command.append("--config=" + str(self.unit.directory / "new.toml"))
        file = self.unit.directory / "new.toml"
        control = self.unit.directory / "run/control.sock"
        file.write_text(f'control = {{ address = "unix://{control}", mode = "0600" }}\n')
        file.chmod(0o600)
        inode = control.stat().st_ino
        self.assertEqual(stat.S_IMODE(control.stat().st_mode), 0o660)
        self.restart()
        self.assertEqual((control.stat().st_ino, stat.S_IMODE(control.stat().st_mode)), (inode, 0o600))

    def test_failed_start(self) -> None:
        """A start that fails gives nothing up: the next one has it all again."""
        job = self.job("one")
        inodes = [os.stat(path).st_ino for path in (job["socket"], self.unit.socket_path)]
        self.unit.stop()
        state = self.unit.directory / "state"
        state.chmod(0o777)
        self.unit.start()
        assert self.unit.process is not None
        self.assertNotEqual(self.unit.process.wait(60), 0)
        state.chmod(0o700)
        self.unit.start()
        self.unit.wait_until_ready()
        self.assertEqual([os.stat(path).st_ino for path in (job["socket"], self.unit.socket_path)], inodes)
        self.assertNotIn("bound anew", self.unit.output())
        self.assertEqual(self.owner(self.through(job, "create", IMAGE, "true")), job["id"])


class NotKeptTests(RestartCase):
    """Nobody keeps descriptors."""

    most = 0

    def test_bound_anew(self) -> None:
        """All jobs are there again, at sockets that are bound anew; the log names who has lost the old one."""
        for number in BY_SIGNALS:
            job = self.job(f"by-{number.name}")
            agent = self.agent(job)
            self.restart(number)
            self.assertEqual(self.owner(self.through(job, "create", IMAGE, "true")), job["id"])
            self.wait_for_line(f"container {agent[:12]} has lost the socket of job {job['name']}")
            self.assertIn(f"the socket of job {job['name']} was bound anew after a restart", self.unit.output())
            _, errors = (process := self.inside(agent, "version")).communicate(timeout=60)
            self.assertNotEqual(process.returncode, 0)
            self.assertIn("Cannot connect", errors)
