"""Containers that reach the engine by what their job mounts into them stay the job's, on a real engine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from docker_tracker.cgroups import hierarchies, is_version_1, memberships, own_directories, uses_version_2
from tests.integration.test_tracking import ask
from tests.support.daemon import Daemon
from tests.support.dockerd import IMAGE
from tests.support.engine import DockerError, discard, docker, engine_address, private_engine, require_program

SOCKET = "/var/run/docker.sock"
JOB_ID = "docker-tracker.job-id"
INTERCEPTORS = "labels,bind-paths,nested-socket,recorder"

# Connects to the socket in its first argument, makes a volume, and prints the answer.
WHOSE = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b"POST /volumes/create HTTP/1.1\\r\\nHost: d\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n"
    b"Content-Type: application/json\\r\\n\\r\\n{}")
answer = b""
while part := connection.recv(65536):
    answer += part
print(answer.decode())
"""


class NestedCase(SynchronousTestCase):
    """One daemon that gives containers their jobs' sockets."""

    options: tuple[str, ...] = ()
    configuration = ""

    def setUp(self) -> None:
        self.engine = engine_address()
        interceptors = f"--interceptors={INTERCEPTORS}"
        self.daemon = self.new_daemon(f"--engine={self.engine}", interceptors, *self.options)
        self.addCleanup(self.daemon.discard)
        self.addCleanup(self.clean)
        self.daemon.command.append(f"--listen={self.daemon.address}")
        if self.configuration:
            file = self.daemon.directory / "docker-tracker/docker-tracker.toml"
            file.parent.mkdir()
            file.write_text(self.configuration)
            self.daemon.command.append(f"--config={file}")
        self.daemon.start()
        self.daemon.wait_for_socket()

    def new_daemon(self, *options: str) -> Daemon:
        """Return the daemon to test, not yet started."""
        return Daemon(*options)

    def clean(self) -> None:
        """Remove what the daemon made, by its labels."""
        ours = (f"--filter=label=docker-tracker.instance={self.instance()}",)
        containers = docker("ps", "--all", "--quiet", *ours, address=self.engine).stdout.decode().split()
        if containers:
            docker("rm", "--force", "--volumes", *containers, address=self.engine)
        for kind in ("network", "volume"):
            found = docker(kind, "ls", "--quiet", *ours, address=self.engine).stdout.decode().split()
            if found:
                docker(kind, "rm", *found, address=self.engine)

    def instance(self) -> str:
        return (self.daemon.directory / "state/instance").read_text().strip()

    def control(self, method: str, target: str, body: Any = None) -> Any:
        status, answer = ask(self.daemon.directory / "run/control.sock", method, target, body)
        self.assertLess(status, 300, answer)
        return json.loads(answer)

    def job(self, name: str, **request: Any) -> dict[str, Any]:
        """Make a job."""
        job: dict[str, Any] = self.control("POST", "/jobs", {"name": name, **request})
        return job

    def through(self, job: Mapping[str, Any] | None, *arguments: str) -> str:
        """Run the docker command at a job's socket, or at the one of all."""
        address = self.daemon.address if job is None else f"unix://{job['socket']}"
        return docker(*arguments, address=address).stdout.decode().strip()

    def inspect(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(docker("inspect", container, address=self.engine).stdout)
        return dict(found)

    def owner(self, container: str) -> str:
        """Return the ID of the job that has a container."""
        return str(self.inspect(container)["Config"]["Labels"][JOB_ID])

    def client_options(self) -> tuple[str, ...]:
        """Return options of a container in which the host's docker command works."""
        there = [path for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]
        return tuple(f"--volume={path}:{path}:ro" for path in there)

    def nested(self, job: Mapping[str, Any] | None, mount: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Run the docker command in a container that has a socket mounted, and return what it prints."""
        program = os.path.realpath(require_program("docker", "docker.io"))
        target = SOCKET if ",target=" not in mount else ""
        mounted = f"--mount={mount}" if not target else f"--volume={mount}:{target}"
        line = ("run", mounted, *options, *self.client_options(), IMAGE, program, *command)
        return self.through(job, *line)


class NestedSocketTests(NestedCase):
    def test_default_job(self) -> None:
        """What a container makes through the mounted socket is recorded as its job's."""
        made = self.nested(None, SOCKET, "create", IMAGE, "true")
        self.assertEqual(len(made), 64)
        status, page = ask(self.daemon.socket_path, "GET", "/tracker")
        self.assertEqual(status, 200)
        self.assertEqual(len(page.splitlines()), 2)
        self.assertIn(made, page.decode())

    def test_job(self) -> None:
        """It is the container's own job's, whichever way the socket is mounted."""
        job = self.job("mine")
        engine = urlsplit(self.engine).path
        with tempfile.TemporaryDirectory(prefix="dt-") as directory:
            (Path(directory) / "link").symlink_to(engine)
            (Path(directory) / "up").symlink_to(Path(engine).parent)
            for mount in (
                SOCKET,
                "/run/docker.sock",
                engine,
                f"{directory}/link",
                f"{directory}/up/{Path(engine).name}",
                f"{directory}/nothing/../../..{engine}",
                "/var/../run/./docker.sock",
                str(self.daemon.socket_path),
                str(job["socket"]),
                f"type=bind,source={engine},target={SOCKET}",
            ):
                with self.subTest(mount=mount):
                    made = self.nested(job, mount, "create", IMAGE, "true")
                    self.assertEqual(self.owner(made), job["id"])
        sources = {
            mount["Source"]
            for line in self.through(job, "ps", "--all", "--quiet").split()
            for mount in self.inspect(line)["Mounts"]
            if mount["Destination"] == SOCKET
        }
        self.assertEqual(sources, {job["socket"]})

    def test_in_a_nested_one(self) -> None:
        """A container of a container of a job's has the job's socket, too."""
        job = self.job("deep")
        program = os.path.realpath(require_program("docker", "docker.io"))
        inner = ("run", f"--volume={SOCKET}:{SOCKET}", *self.client_options(), IMAGE, program, "create", IMAGE, "true")
        made = self.nested(job, SOCKET, *inner)
        self.assertEqual(self.owner(made), job["id"])
        self.assertEqual(len(self.through(job, "ps", "--all", "--quiet").split()), 3)

    def test_end_of_the_job(self) -> None:
        """When the job ends, what was made by its containers goes as well."""
        job = self.job("over")
        made = self.nested(job, SOCKET, "run", "--detach", IMAGE, "sleep", "1000")
        self.assertEqual(self.inspect(made)["State"]["Running"], True)
        self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.assertRaises(DockerError, self.inspect, made)

    def test_refused(self) -> None:
        """The tracker's own directory is mounted by nobody; a job may be made that mounts no socket."""
        job = self.job("strict", interceptors={"nested-socket": {"mode": "refuse", "parents": "refuse"}})
        for mount in (SOCKET, str(job["socket"]), str(self.daemon.directory / "state"), "/"):
            error = self.assertRaises(DockerError, self.through, job, "create", f"--volume={mount}:/x", IMAGE)
            self.assertIn("may not be mounted", str(error))

    def test_off(self) -> None:
        """A job may have its mounts as they are: what is made through the engine's socket is then nobody's."""
        job = self.job("open", interceptors={"nested-socket": {"mode": "off"}})
        made = self.nested(job, SOCKET, "create", IMAGE, "true")
        self.addCleanup(docker, "rm", "--force", made, address=self.engine)
        self.assertNotIn(JOB_ID, self.inspect(made)["Config"]["Labels"] or {})
        (other,) = self.through(job, "ps", "--all", "--quiet", "--filter=label=docker-tracker.job=open").split()
        sources = [mount["Source"] for mount in self.inspect(other)["Mounts"]]
        self.assertIn(SOCKET, sources)
        self.assertNotIn(job["socket"], sources)

    def test_parents(self) -> None:
        """A directory with the socket in it is left, with a line in the log, or refused, by whatever name."""
        leaving = self.job("leaving")
        refusing = self.job("refusing", interceptors={"nested-socket": {"parents": "refuse"}})
        with tempfile.TemporaryDirectory(prefix="dt-") as directory:
            above = str(Path(urlsplit(self.engine).path).parent)
            (Path(directory) / "up").symlink_to(above)
            for source in ("/", above, f"{directory}/up", f"{directory}/../..{above}"):
                with self.subTest(source=source):
                    asked = ("create", f"--volume={source}:/x", IMAGE)
                    (mount,) = self.inspect(self.through(leaving, *asked))["Mounts"]
                    self.assertEqual(os.path.normpath(mount["Source"]), os.path.normpath(source))
                    self.assertIn(f"{source} is mounted as it is", self.daemon.output())
                    error = self.assertRaises(DockerError, self.through, refusing, *asked)
                    self.assertIn(f"{source} may not be mounted: the engine's socket", str(error))
            self.through(refusing, "create", f"--volume={directory}:/x", IMAGE)


class InRunTests(NestedCase):
    """A private engine whose socket is in its own /run, too."""

    def setUp(self) -> None:
        engine = private_engine("run")
        self.addCleanup(discard, engine)
        engine.start()
        place = "/run/podman"
        bind = f"mkdir {place} && : > {place}/podman.sock && mount --bind {engine.socket_path} {place}/podman.sock"
        subprocess.run(engine.enter("sh", "-c", bind), check=True, timeout=60)
        self.patch(sys.modules[__name__], "engine_address", lambda: engine.address)
        super().setUp()

    def test_parents(self) -> None:
        """By whatever name, it is left or refused; the socket in it by a known name is the job's."""
        leaving = self.job("leaving")
        refusing = self.job("refusing", interceptors={"nested-socket": {"parents": "refuse"}})
        for source in ("/run", "/var/run", "/run/podman", "/run/../var/run/podman"):
            with self.subTest(source=source):
                self.through(leaving, "create", f"--volume={source}:/x", IMAGE)
                self.assertIn(f"{source} is mounted as it is", self.daemon.output())
                error = self.assertRaises(DockerError, self.through, refusing, "create", f"--volume={source}:/x", IMAGE)
                self.assertIn("may not be mounted: the engine's socket", str(error))
        for source in ("/run/podman/podman.sock", "/var/run/podman/../podman/podman.sock"):
            made = self.nested(leaving, source, "create", IMAGE, "true")
            self.assertEqual(self.owner(made), leaving["id"])


class OwnFilesTests(NestedCase):
    configuration = "# nothing\n"

    def test_refused(self) -> None:
        """The tracker's directories, its configuration's among them, are mounted by nobody, by no name."""
        job = self.job("curious")
        with tempfile.TemporaryDirectory(prefix="dt-") as directory:
            own = self.daemon.directory
            (Path(directory) / "link").symlink_to(own / "docker-tracker")
            for source in (
                *(f"{own}/{name}" for name in ("state", "run", "run/jobs", "run/control.sock", "docker-tracker")),
                *(f"{own}/docker-tracker/docker-tracker.toml", f"{own}/state/../docker-tracker"),
                *(f"{directory}/link", f"{directory}/link/docker-tracker.toml"),
            ):
                with self.subTest(source=source):
                    error = self.assertRaises(DockerError, self.through, job, "create", f"--volume={source}:/x", IMAGE)
                    self.assertIn("belongs to the tracker", str(error))


class BindPathTests(NestedCase):
    def test_inside(self) -> None:
        """A client in the agent's container mounts its working directory as it sees it, and so do its builds' steps."""
        program = os.path.realpath(require_program("docker", "docker.io"))
        with tempfile.TemporaryDirectory(prefix="dt-") as directory:
            (Path(directory) / "work/deep").mkdir(parents=True)
            (Path(directory) / "work/deep/file").write_text("content")
            agent = docker(
                *("run", "--detach", f"--volume={directory}:/builds"),
                *(f"--volume={self.daemon.directory}/run/jobs:/jobs", *self.client_options(), IMAGE, "sleep", "1000"),
                address=self.engine,
            ).stdout.decode().strip()  # fmt: skip
            self.addCleanup(docker, "rm", "--force", agent, address=self.engine)
            job = self.job("agent", container=agent[:12])
            script = (
                f'{program} run --rm -v "$PWD:/src" {IMAGE} sh -c "cat /src/file; echo made > /src/made"',
                f"{program} run --rm --mount type=bind,source=$PWD/..,target=/src {IMAGE} ls /src",
            )
            inside = (
                "exec",
                "--workdir=/builds/work/deep",
                f"--env=DOCKER_HOST=unix:///jobs/{job['name']}.sock",
                agent,
            )
            printed = docker(*inside, "sh", "-ec", "; ".join(script), address=self.engine).stdout.decode()
            self.assertEqual(printed, "contentdeep\n")
            self.assertEqual((Path(directory) / "work/deep/made").read_text(), "made\n")
            self.assertFalse(Path("/builds").exists())

    def test_agent(self) -> None:
        """A job that is tied to a container mounts what that container sees."""
        with tempfile.TemporaryDirectory(prefix="dt-") as directory:
            (Path(directory) / "work").mkdir()
            (Path(directory) / "work/file").write_text("content")
            volume = f"docker-tracker-test-{os.getpid()}"
            agent = self.through(
                *(None, "run", "--detach", f"--volume={directory}:/builds", f"--volume={volume}:/cache"),
                *("--tmpfs=/scratch", IMAGE, "sh", "-c", "echo cached > /cache/file; sleep 1000"),
            )
            self.addCleanup(docker, "volume", "rm", "--force", volume, address=self.engine)
            self.addCleanup(docker, "rm", "--force", agent, address=self.engine)
            job = self.job("agent", container=agent[:12])
            for source, content in (("/builds/work", "content"), ("/cache", "cached")):
                read = self.through(job, "run", f"--volume={source}:/src", IMAGE, "cat", "/src/file")
                self.assertEqual(read, content)
            # made by the docker command in the agent, which has the job's socket
            for source, problem in (("/etc", "is in its own file system"), ("/scratch/x", "is in a tmpfs")):
                error = self.assertRaises(DockerError, self.through, job, "create", f"--volume={source}:/src", IMAGE)
                self.assertIn(problem, str(error))
            made = self.through(job, "create", f"--volume={SOCKET}:{SOCKET}", IMAGE)
            (mount,) = self.inspect(made)["Mounts"]
            self.assertEqual(mount["Source"], job["socket"])

    def test_agent_with_its_socket(self) -> None:
        """An agent that is created first has the socket of the job that is tied to it, and what it sees is mounted."""
        program = os.path.realpath(require_program("docker", "docker.io"))
        name = f"docker-tracker-test-agent-{os.getpid()}"
        with tempfile.TemporaryDirectory(prefix="dt-") as directory:
            (Path(directory) / "work").mkdir()
            (Path(directory) / "work/file").write_text("content")
            mounts = (f"{directory}:/builds", f"{self.daemon.directory}/run/jobs/agent-1.sock:{SOCKET}")
            options = (f"--name={name}", "--workdir=/builds/work", *(f"--volume={mount}" for mount in mounts))
            script = f"{program} run --name {name}-made --volume $PWD:/src {IMAGE} cat /src/file"
            line = ("create", *options, *self.client_options(), IMAGE, "sh", "-c", script)
            docker(*line, address=self.engine)
            self.addCleanup(docker, "rm", "--force", name, address=self.engine)
            job = self.job("agent-1", container=name, ends={"container": name})
            said = docker("start", "--attach", name, address=self.engine).stdout.decode()
            self.assertEqual(said, "content")
            self.daemon.wait_for(lambda: self.control("GET", f"/jobs/{job['id']}")["state"] == "gone")
            (made,) = self.control("GET", f"/jobs/{job['id']}/report")["items"]
            self.assertEqual((made["name"], made["outcome"]), (f"{name}-made", "removed"))


class CallerTests(NestedCase):
    options = ("--cgroup-parent=caller", f"--interceptors={INTERCEPTORS},cgroup-parent")

    def test_container(self) -> None:
        """What a container makes is under its own cgroup, and runs there."""
        info = json.loads(docker("info", "--format={{json .}}", address=self.engine).stdout)
        if info.get("CgroupDriver") != "cgroupfs" or uses_version_2(info) or not is_version_1(memberships(os.getpid())):
            raise SkipTest("a container's cgroup can have others in it with version 1 and cgroupfs only")
        # The first is made beside the tracker: its client is this process, which is not to be moved.
        agent = docker(
            *("run", "--detach", f"--volume={self.daemon.socket_path}:{SOCKET}", *self.client_options()),
            *(IMAGE, "sleep", "1000"),
            address=self.engine,
        ).stdout.decode().strip()  # fmt: skip
        self.addCleanup(docker, "rm", "--force", agent, address=self.engine)
        program = os.path.realpath(require_program("docker", "docker.io"))
        command = ("exec", agent, program, "run", "--detach", IMAGE, "sleep", "1000")
        made = docker(*command, address=self.engine).stdout.decode().strip()
        self.addCleanup(docker, "rm", "--force", made, address=self.engine)
        where = memberships(self.inspect(agent)["State"]["Pid"])["memory"]
        found = self.inspect(made)
        self.assertEqual(found["HostConfig"]["CgroupParent"], where)
        self.assertEqual(memberships(found["State"]["Pid"])["memory"], f"{where}/{made}")

    def test_tcp(self) -> None:
        """A client whose process is not known makes nothing."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = self.job("tcp", listen=[f"tcp:{port}:interface=127.0.0.1"])
        self.assertEqual(job["state"], "open")
        error = self.assertRaises(DockerError, docker, "create", IMAGE, address=f"tcp://127.0.0.1:{port}")
        self.assertIn("connect by a unix socket", str(error))


class AttributionTests(NestedCase):
    configuration = '[[attribute]]\njob = "ci-{value}"\nenvironment = "CI_JOB_ID"\n'

    def made(self, **environment: str) -> str:
        """Have a process with such an environment make a volume by the socket of all; return whose it is."""
        done = subprocess.run(
            [sys.executable, "-c", WHOSE, str(self.daemon.socket_path)],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return str(json.loads(done.stdout.partition("\n\n")[2])["Labels"][JOB_ID])

    def test_environment(self) -> None:
        """Clients of one socket belong to the jobs that their environments name, others to the job default."""
        jobs = {name: self.job(name)["id"] for name in ("ci-5", "ci-6")}
        self.assertEqual(self.made(CI_JOB_ID="5"), jobs["ci-5"])
        self.assertEqual(self.made(CI_JOB_ID="6"), jobs["ci-6"])
        others = {self.made(), self.made(CI_JOB_ID="7")}
        self.assertEqual(others, {self.control("GET", "/jobs/default")["id"]})
        self.control("POST", f"/jobs/{jobs['ci-5']}/end?wait=1", {"reason": "test"})
        self.assertEqual({self.made(CI_JOB_ID="5")}, others)


class OwnCgroupTests(NestedCase):
    def test_life(self) -> None:
        """A job's containers are in its own cgroup, in every hierarchy, and nothing of that is left when it ends."""
        info = json.loads(docker("info", "--format={{json .}}", address=self.engine).stdout)
        if info.get("CgroupDriver") != "cgroupfs":
            raise SkipTest("the engine's cgroup driver is not cgroupfs")
        there = {each.path for each in hierarchies() if (each.path / "docker-tracker").exists()}
        self.addCleanup(remove_parents, there)
        job = self.job("own", own_cgroup=True)
        directories = own_directories(job["id"])
        self.assertEqual([each for each in own_directories(job["id"], controlled=True) if not each.is_dir()], [])
        made = self.through(job, "run", "--detach", IMAGE, "sleep", "1000")
        found = memberships(self.inspect(made)["State"]["Pid"])
        self.assertIn(f"/docker-tracker/{job['id']}/{made}", found.values())
        self.control("POST", f"/jobs/{job['id']}/end?wait=1", {"reason": "test"})
        self.daemon.wait_for(lambda: not any(each.exists() for each in directories))


def remove_parents(there: set[Path]) -> None:
    """Remove the empty cgroup in which those of jobs were, where it was not there before."""
    for each in hierarchies():
        parent = each.path / "docker-tracker"
        if each.path not in there and parent.exists():
            parent.rmdir()
