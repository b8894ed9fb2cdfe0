"""`docker_tracker.doors`: where jobs listen, and whose a client of a shared socket is."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.config import KEPT_DESCRIPTOR, load
from docker_tracker.descriptor_store import DescriptorStore
from docker_tracker.doors import Binder, Door, Doors
from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.interfaces import IJob
from docker_tracker.job import DEFAULT, JobRequest
from docker_tracker.job_record import Job
from docker_tracker.proxy.hub import Hub
from docker_tracker.testing import FakeDaemon
from tests.support.hand_reactor import HandReactor
from tests.support.short import short_directory


class DoorsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.directory.chmod(0o700)
        self.jobs = self.directory / "run" / "jobs"
        self.reactor = HandReactor()
        self.environment: dict[str, str] = {}
        self.doors = self.make_doors()

    def make_doors(self, text: str = "", **options: Any) -> Doors:
        """Return doors of a tracker with a configuration file."""
        file = self.directory / "c.toml"
        file.write_text(text)
        file.chmod(0o600)
        settings = load(
            {
                "config": str(file),
                "engine": f"unix://{self.directory}/engine.sock",
                "listen": [f"unix://{self.directory}/run/docker.sock"],
                "state-dir": str(self.directory / "state"),
                "run-dir": str(self.directory / "run"),
                **options,
            },
            {},
            euid=os.geteuid(),
        )
        self.hub = Hub(self.reactor)  # type: ignore[arg-type]  # what is used of a reactor
        self.addCleanup(self.hub.poller.close)
        self.store = DescriptorStore(self.environment, first=self.first if self.environment else 3)
        self.binder = Binder(settings, self.environment, self.store, (settings.run_dir, settings.run_dir / "jobs"))
        self.daemon = FakeDaemon(settings=settings)
        return Doors(self.hub, settings, self.daemon, self.binder)

    first = 3

    def job(self, name: str = "build", **more: Any) -> Job:
        request = JobRequest(name=name, **more)
        path = self.jobs / f"{name}.sock"
        return Job(id=f"id-{name}", request=request, socket=str(path))

    def open(self, job: IJob) -> Door:
        door = self.doors.open(job)
        self.addCleanup(door.close)
        return door


class JobTests(DoorsCase):
    """Sockets of jobs."""

    def test_socket(self) -> None:
        """A job's socket has the mode it asked for; it is gone once the door is closed."""
        job = self.job(mode=0o640)
        door = self.open(job)
        self.assertEqual(stat.S_IMODE(os.stat(job.socket).st_mode), 0o640)
        self.assertEqual(door.anew, [job.socket])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(job.socket)
        door.close()
        self.assertEqual(os.listdir(self.jobs), [])
        self.successResultOf(_deferred(door.stop()))

    def test_restart_without_systemd(self) -> None:
        """Where nobody keeps a socket over a restart, its file is not left for clients to wait at."""
        self.open(self.job()).close(forget=False)
        self.assertEqual(os.listdir(self.jobs), [])

    def test_directories(self) -> None:
        """Those that are made are for all users to enter, whatever the umask; one that is there stays as it is."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.open(self.job())
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (self.directory, self.jobs.parent, self.jobs)]
        self.assertEqual(modes, [0o700, 0o755, 0o755])

    def test_open_to_everyone(self) -> None:
        """One in which everyone could replace a socket is refused; one with the sticky bit is taken."""
        for directory in (self.jobs, self.jobs.parent):
            self.jobs.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o777)
            error = self.assertRaises(ConfigurationError, self.doors.open, self.job())
            self.assertIn(f"everyone can write to {directory}, and", str(error))
            self.assertIn(f"run: chmod o-w {directory}", str(error))
            self.assertEqual(os.listdir(self.jobs), [])
            directory.chmod(0o1777)
        self.open(self.job())

    def test_busy(self) -> None:
        """A client that came and went is noticed once."""
        job = self.job()
        door = self.open(job)
        self.assertFalse(door.busy())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(job.socket)
            self.reactor.turn(2)
            self.assertTrue(door.connected())
            self.assertTrue(door.busy())
        self.reactor.turn(3)
        self.assertFalse(door.connected())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(job.socket)
        self.reactor.turn(3)
        self.assertEqual([door.busy(), door.busy()], [True, False])

    def test_closed(self) -> None:
        """Idle clients are sent away at the close, the others when it is cleared."""
        job = self.job()
        door = self.open(job)
        with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as busy:
            idle.connect(job.socket)
            busy.connect(job.socket)
            busy.sendall(b"POST /volumes/create HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{")
            self.reactor.turn(3)
            self.reactor.turn(3)
            idle.setblocking(False)
            door.close()
            self.reactor.turn(3)
            self.assertEqual(idle.recv(1), b"")
            self.assertTrue(door.connected())
            door.clear()
            self.reactor.turn(3)
            self.assertFalse(door.connected())

    def test_more_addresses(self) -> None:
        """A job may have addresses besides; what would be open to all, or could not be found again, is refused."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.open(self.job(listen=(f"tcp://127.0.0.1:{port}", {"address": f"unix://{self.jobs}/more.sock"})))
        socket.create_connection(("127.0.0.1", port)).close()
        self.assertTrue((self.jobs / "more.sock").exists())
        for address, sentence in (
            ("tcp://127.0.0.1:0", "on TCP ports by number"),
            ("tcp://0.0.0.0:5", "would be open to all"),
            ("haproxy:tcp:1", "on TCP ports by number"),
            (f"unix://{self.directory}/engine.sock", "is where the engine is"),
            ({"address": f"{self.directory}/engine.sock"}, "is where the engine is"),
            ("", "is not an address"),
            (5, "must be an address"),
        ):
            error = self.assertRaises(RefusedError, self.doors.open, self.job("other", listen=(address,)))
            self.assertIn(sentence, str(error))
            self.assertEqual(error.status, 400)
        self.assertEqual(sorted(os.listdir(self.jobs)), ["build.sock", "more.sock"])

    def test_taken(self) -> None:
        """An address that is taken is named; what was bound before is closed again."""
        self.jobs.mkdir(parents=True)
        (self.jobs / "more.sock").write_text("precious")
        job = self.job(listen=(f"unix://{self.jobs}/more.sock",))
        error = self.assertRaises(ConfigurationError, self.doors.open, job)
        self.assertIn("is no socket", str(error))
        self.assertEqual(os.listdir(self.jobs), ["more.sock"])


class PlanTests(DoorsCase):
    """Interceptors of jobs."""

    def test_counted(self) -> None:
        """All of them count what fails with the daemon's counts."""
        for named in self.doors.plan(self.job()).interceptors:
            self.assertIs(named.counts, self.daemon.counts)

    def names(self, job: IJob) -> list[str]:
        return [named.name for named in self.doors.plan(job).interceptors]

    def test_settings(self) -> None:
        """A job's tables go over those of the configuration; others' interceptors cannot be asked for."""
        plan = self.doors.plan(self.job(interceptors={"labels": {"image-labels": "full"}}))
        labels: Any = plan.interceptors[0].interceptor
        self.assertIn("docker-tracker.image-job-id", labels.image_labels)
        for table, sentence in (
            ({"theirs": {}}, "interceptors.theirs: this tracker has no such interceptor"),
            ({"labels": {"image-labels": "x"}}, "image-labels must be one of"),
            ({"labels": {"imagelabels": "x"}}, "unknown key"),
        ):
            error = self.assertRaises(RefusedError, self.doors.plan, self.job(interceptors=table))
            self.assertIn(sentence, str(error))

    def test_cgroup(self) -> None:
        """A job that asks for a cgroup gets the interceptor that puts its things there."""
        self.assertNotIn("cgroup-parent", self.names(self.job()))
        for more in ({"cgroup_parent": "/ci"}, {"own_cgroup": True}):
            self.assertEqual(self.names(self.job(**more))[:2], ["labels", "cgroup-parent"])
        error = self.assertRaises(RefusedError, self.doors.plan, self.job(cgroup_parent="/ci", own_cgroup=True))
        self.assertIn("ask for one of them", str(error))

    def test_nested_socket(self) -> None:
        """Jobs mount their own socket where the engine's is asked for, unless the configuration names interceptors."""
        self.assertEqual(self.names(self.job()), ["labels", "nested-socket", "recorder", "audit"])
        self.assertEqual(self.names(self.job(DEFAULT)), ["labels", "recorder", "audit"])
        self.doors.plan(self.job(interceptors={"nested-socket": {"mode": "refuse"}}))
        self.doors = self.make_doors('interceptors = ["labels", "recorder"]')
        self.assertEqual(self.names(self.job()), ["labels", "recorder"])
        self.assertRaises(RefusedError, self.doors.plan, self.job(interceptors={"nested-socket": {}}))

    def test_default(self) -> None:
        """What the configuration says wrongly is no client's fault."""
        doors = self.make_doors('[interceptor.labels]\nimage-labels = "x"')
        self.assertRaises(ConfigurationError, doors.plan, self.job(DEFAULT))


class SharedTests(DoorsCase):
    """Clients of a shared socket."""

    def test_attribution(self) -> None:
        """A client belongs to the job that the rules name, while that is open, else to "default"."""
        self.doors = self.make_doors(f'[[attribute]]\nuid = {os.getuid()}\njob = "build"')
        self.doors.listen()
        self.open(self.job(DEFAULT))
        door = self.open(self.job("build"))
        path = str(self.directory / "run" / "docker.sock")

        def owner() -> str:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                self.reactor.turn(2)
                (conversation,) = self.hub.conversations
                self.assertEqual(conversation.entrance.listener, f"unix://{path}")
                found = conversation.entrance.job_id
            self.reactor.turn(3)
            return found

        self.assertEqual(owner(), "id-build")
        door.close()
        self.assertEqual(owner(), "id-default")

    def test_attributed_is_busy(self) -> None:
        """A client that came by a rule and went is use of its job, which would end as idle else."""
        self.doors = self.make_doors(f'[[attribute]]\nuid = {os.getuid()}\njob = "build"')
        self.doors.listen()
        self.open(self.job(DEFAULT))
        door = self.open(self.job("build"))
        self.assertFalse(door.busy())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.directory / "run" / "docker.sock"))
        self.reactor.turn(3)
        self.assertFalse(door.connected())
        self.assertEqual([door.busy(), door.busy()], [True, False])

    def test_bad_rule(self) -> None:
        """A rule that is none stops the start."""
        self.assertRaises(ConfigurationError, self.make_doors, '[[attribute]]\njob = "build"')


class RestartTests(DoorsCase):
    """Sockets that systemd keeps over a restart."""

    def setUp(self) -> None:
        super().setUp()
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.bind(str(self.directory / "notify"))
        self.manager.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": str(self.directory / "notify")}

    def kept(self) -> None:
        """Have what was kept passed to the next start."""
        message, (descriptor,), _, _ = socket.recv_fds(self.manager, 1000, 1)
        self.first = descriptor
        name = message.decode().rpartition("FDNAME=")[2]
        self.assertTrue(name.startswith(KEPT_DESCRIPTOR))
        self.environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}

    def test_same_socket(self) -> None:
        """Who waits in the backlog while the tracker restarts is served by the next process, on the same inode."""
        self.doors = self.make_doors()
        job = self.job()
        door = self.open(job)
        before = os.stat(job.socket).st_ino
        self.kept()
        door.close(forget=False)
        self.assertEqual(os.stat(job.socket).st_ino, before)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(job.socket)
            self.doors = self.make_doors()
            again = self.open(job)
            self.store.rest()
            self.reactor.turn(2)
            self.assertEqual((again.connected(), again.anew), (True, []))
            self.assertEqual(os.stat(job.socket).st_ino, before)
        again.close()
        self.assertFalse(Path(job.socket).exists())
        self.assertTrue(self.manager.recv(1000).startswith(b"FDSTOREREMOVE=1"))

    def test_other_mode(self) -> None:
        """A socket that was kept gets the mode that it is to have now."""
        self.doors = self.make_doors()
        self.open(self.job(mode=0o660)).close(forget=False)
        self.kept()
        self.doors = self.make_doors()
        job = self.job(mode=0o600)
        self.assertEqual(self.open(job).anew, [])
        self.assertEqual(stat.S_IMODE(os.stat(job.socket).st_mode), 0o600)

    def test_other_owner(self) -> None:
        """A socket that was kept is not given to a group that there is not; the file stays, for the next start."""
        self.doors = self.make_doors()
        job = self.job()
        self.open(job).close(forget=False)
        self.kept()
        self.doors = self.make_doors()
        error = self.assertRaises(ConfigurationError, self.doors.open, self.job(group="no-such-group"))
        self.assertIn("there is no group", str(error))
        self.assertTrue(Path(job.socket).exists())

    def test_listeners_of_a_failed_start(self) -> None:
        """Where the start fails, sockets of before it stay kept, with their files; those bound anew go."""
        path = self.directory / "run" / "docker.sock"
        self.doors = self.make_doors()
        self.doors.listen()
        self.kept()
        self.doors.listening[0].sock.close()
        self.doors = self.make_doors()
        self.doors.listen()
        self.assertFalse(self.doors.listening[0].anew)
        self.doors.unlisten()
        self.assertTrue(path.exists())
        self.assertRaises(BlockingIOError, self.manager.recv, 1)
        self.environment = {}
        self.doors = self.make_doors()
        self.doors.listen()
        self.doors.unlisten()
        self.assertFalse(path.exists())

    def test_sweep(self) -> None:
        """Files of jobs' sockets at which nobody listens are removed, also if systemd has them open yet; no others."""
        self.doors = self.make_doors()
        self.open(self.job("left")).close(forget=False)
        self.kept()
        self.addCleanup(os.close, os.dup(self.first))
        self.doors = self.make_doors()
        self.open(self.job())
        (self.jobs / "file").write_text("precious")
        for name, backlog in (("stale", False), ("live", True)):
            sock = socket.socket(socket.AF_UNIX)
            self.addCleanup(sock.close)
            sock.bind(str(self.jobs / name))
            if backlog:
                sock.listen()
        self.binder.sweep(self.jobs)
        self.assertEqual(sorted(os.listdir(self.jobs)), ["build.sock", "file", "live"])
        self.binder.sweep(self.directory / "none")

    def test_replaced(self) -> None:
        """A socket whose file was replaced meanwhile is not taken: nobody could reach it."""
        self.doors = self.make_doors()
        job = self.job()
        door = self.open(job)
        self.kept()
        door.close(forget=False)
        stale = socket.socket(socket.AF_UNIX)
        self.addCleanup(stale.close)
        stale.bind(f"{job.socket}.new")
        os.replace(f"{job.socket}.new", job.socket)
        self.doors = self.make_doors()
        again = self.open(job)
        self.store.rest()
        self.assertEqual(again.anew, [job.socket])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(job.socket)


def _deferred(work: Any) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(work)
