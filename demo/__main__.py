"""The main job on a real engine, one line for each thing shown.

    python3 -m demo TWISTD        # make demo gives it the twistd of an environment with docker-tracker in it

Takes the engine of DOCKER_HOST or the standard socket; if none answers, as root on Debian, one of its own.
Only the standard library is used. All that it starts and makes is stopped and removed again.
"""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType, TracebackType

from tests.support.dockerd import IMAGE, EngineError, PrivateEngine, root_file_system, why_impossible

STANDARD_SOCKET = "unix:///var/run/docker.sock"
DEBIAN_PACKAGES = ("docker.io", "iptables", "busybox-static")
WAIT_SECONDS = 60


class DemoError(Exception):
    """The demo can't be given, or showed something wrong; one sentence."""


def show(what: str, value: str) -> None:
    """Print one line: what was done, and what came of it."""
    sys.stdout.write(f"{what:34} {' '.join(value.split())}\n")
    sys.stdout.flush()


def run(command: list[str], environment: dict[str, str], data: str = "") -> str:
    """Run a command to its end.

    :param data: its standard input.
    :returns: its standard output, without white space at the ends.
    :raises DemoError: it failed; the last line of its errors is in the message.
    """
    try:
        done = subprocess.run(
            command, input=data, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS * 5
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{shlex.join(command)} took longer than {error.timeout:.0f} s") from error
    if done.returncode != 0:
        # The docker command ends its errors with a hint on its own help.
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line and not line.startswith("Run '")]
        raise DemoError(f"{shlex.join(command)} failed: {lines[-1] if lines else 'it printed nothing'}")
    return done.stdout.strip()


def run_on_terminal(command: list[str], environment: dict[str, str], typed: str) -> str:
    """Run a command on a pseudo-terminal.

    :param typed: what is typed there.
    :returns: all that the terminal showed.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    # A terminal that nobody has open any more reads as an error (Linux).
    with suppress(OSError):
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    if process.wait(WAIT_SECONDS) != 0:
        raise DemoError(f"{shlex.join(command)} failed on a terminal: {shown.decode(errors='replace')}")
    return shown.decode(errors="replace")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds. :raises DemoError: it did not within WAIT_SECONDS."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise DemoError(f"{what} (waited {WAIT_SECONDS} s)")
        time.sleep(0.05)


def engine_version(environment: dict[str, str]) -> str | None:
    """Give the version of the engine that answers the docker command, or None."""
    if shutil.which("docker") is None:
        return None
    try:
        return run(["docker", "version", "--format={{.Server.Version}}"], environment)
    except DemoError:
        return None


def install(packages: tuple[str, ...]) -> None:
    """Install Debian packages, their daemons not started. :raises DemoError: it can't be done here."""
    if os.geteuid() != 0:
        raise DemoError("that needs root")
    if shutil.which("apt-get") is None:
        raise DemoError(f"that needs {', '.join(packages)}, which this installs on Debian only")
    run([str(Path(__file__).parent / "debian-packages"), *packages], dict(os.environ))


def find_engine(stack: ExitStack) -> tuple[dict[str, str], str]:
    """Find an engine, or start one.

    :param stack: gets what takes all of it away again.
    :returns: the environment with which a client reaches the engine, and the name of an image with busybox in it.
    :raises DemoError: there can't be one.
    """
    environment = {"DOCKER_HOST": STANDARD_SOCKET, **os.environ, "DOCKER_BUILDKIT": "0"}
    version = engine_version(environment)
    address = environment["DOCKER_HOST"]
    if version is None:
        try:
            if why_impossible() is not None or shutil.which("docker") is None:
                install(DEBIAN_PACKAGES)
            engine = PrivateEngine(tempfile.mkdtemp(prefix="dt-demo-", dir="/tmp"))
            stack.callback(shutil.rmtree, engine.directory)
            stack.callback(engine.stop)
            engine.start()
        except (DemoError, EngineError) as error:
            raise DemoError(f"No engine answers at {address}, and none can be started here: {error}.") from error
        environment["DOCKER_HOST"] = engine.address
        for name in ("DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
            environment.pop(name, None)
        show("a private engine, as none answered", f"{engine_version(environment)} at {engine.address}")
        return environment, IMAGE
    show("the engine", f"{version} at {address}")
    if shutil.which("busybox") is None:
        install(("busybox-static",))
    image = "docker-tracker-demo:busybox"
    subprocess.run(
        ["docker", "import", "-", image],
        input=root_file_system(),
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    stack.callback(run, ["docker", "image", "rm", "--force", image], environment)
    return environment, image


class Tracker:
    """The daemon, started as a user would; its files are in a directory of the demo's."""

    def __init__(self, twistd: str, directory: Path, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.host = f"localhost:{port}"
        self.audit_path = directory / "audit.log"
        self.output_path = directory / "output"
        command = [
            twistd,
            "--nodaemon",
            "--pidfile=",
            "docker-tracker",
            f"--port={port}",
            f"--audit-log={self.audit_path}",
        ]
        command += [f"--state-dir={directory / 'state'}", f"--run-dir={directory / 'run'}"]
        self.control = f"unix://{directory / 'run' / 'control.sock'}"
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory
            )
        self.port = port

    def listens(self) -> bool:
        """Say whether it accepts connections. :raises DemoError: it has ended."""
        if self.process.poll() is not None:
            raise DemoError("the tracker did not start")
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def explain(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Print the tracker's last lines if the demo failed."""
        if isinstance(error, DemoError):
            lines = self.output_path.read_text(errors="replace").splitlines()[-15:]
            sys.stderr.write("".join(f"tracker: {line}\n" for line in lines))

    def stop(self) -> int:
        """Ask it to end, and kill it if it doesn't. :returns: its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def demonstrate(twistd: str, stack: ExitStack) -> None:
    """Show everything. :raises DemoError: something is not as it should be."""
    direct, image = find_engine(stack)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dt-demo-", dir="/tmp")))
    tracker = Tracker(twistd, directory, direct)
    stack.callback(tracker.stop)
    stack.push(tracker.explain)
    wait_until(tracker.listens, "the tracker does not listen")
    show("the tracker listens", f"twistd docker-tracker --port={tracker.port}; from now on DOCKER_HOST={tracker.host}")
    tls = ("DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH", "DOCKER_CONTEXT")
    tracked = {name: value for name, value in direct.items() if name not in tls} | {"DOCKER_HOST": tracker.host}

    def docker(*arguments: str, data: str = "") -> str:
        return run(["docker", *arguments], tracked, data)

    def remove_later(*arguments: str) -> None:
        stack.callback(run, ["docker", *arguments], direct)

    containers = []
    for number in (1, 2, 3):
        containers.append(docker("run", "-d", image, "sleep", "1000"))
        remove_later("rm", "--force", "--volumes", containers[-1])
        show(f"docker run -d, number {number}", containers[-1])

    shown = run_on_terminal(
        ["docker", "run", "-it", "--rm", image, "sh", "-c", "read word; echo $(tty) heard $word"], tracked, "hello\n"
    )
    if "heard hello" not in shown:
        raise DemoError(f"docker run -it showed {shown!r}")
    show("docker run -it, on a terminal", shown.split("\n")[-2])

    echoed = docker("exec", "-i", containers[0], "tr", "a-z", "A-Z", data="through a pipe")
    if echoed != "THROUGH A PIPE":
        raise DemoError(f"docker exec -i printed {echoed!r}")
    show("docker exec -i, from a pipe", echoed)

    name = f"docker-tracker-demo-{os.getpid()}"
    context = directory / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {image}\nRUN echo built >/built\n")
    docker("build", "--tag", name, str(context))
    remove_later("image", "rm", "--force", name)
    show("docker build", docker("run", "--rm", name, "cat", "/built"))
    show("docker network create", docker("network", "create", name))
    remove_later("network", "rm", name)
    show("docker volume create", docker("volume", "create", name))
    remove_later("volume", "rm", name)

    page = ["curl", "-s", f"http://{tracker.host}/tracker"]
    if shutil.which("curl") is None:
        page = [sys.executable, "-c", f"import urllib.request as r; print(end=r.urlopen({page[2]!r}).read().decode())"]
    listed = run(page, tracked).split()
    if listed != sorted(containers):
        raise DemoError(f"GET /tracker gave {listed}, and not {sorted(containers)}")
    show("GET /tracker", f"{len(listed)} containers: {' '.join(one[:12] for one in listed)}")

    for kind, thing, where in (
        ("container", containers[0], ".Config.Labels"),
        ("image", name, ".Config.Labels"),
        ("network", name, ".Labels"),
        ("volume", name, ".Labels"),
    ):
        labels = json.loads(docker(kind, "inspect", f"--format={{{{json {where}}}}}", thing))
        if not labels or labels.get("Created-Via") != "docker-tracker":
            raise DemoError(f"the {kind} has the labels {labels}")
        show(f"labels of the {kind}", " ".join(f"{key}={value}" for key, value in sorted(labels.items())))

    def audited() -> list[dict[str, object]]:
        return [json.loads(line) for line in tracker.audit_path.read_text().splitlines()]

    def creations() -> list[dict[str, object]]:
        return [line for line in audited() if line.get("operation") == "container_create"]

    # The audit is flushed at latest after a second; three containers, one on the terminal, one of the built image.
    wait_until(lambda: tracker.audit_path.exists() and len(creations()) >= 5, "the audit lacks the containers")
    show("audit lines so far", str(len(audited())))
    line = creations()[0]
    keys = ("method", "path", "status", "resource", "edits", "peer")
    show("one of them, cut", json.dumps({key: line[key] for key in keys if key in line})[:400])

    # The command docker-tracker, also where it is not installed.
    client = [str(Path(twistd).parent / "python3"), "-m", "docker_tracker.cli.main"]
    demonstrate_jobs(client, tracker, direct, image, stack)

    # Word for word what one would type, where there is curl.
    killed = run(["sh", "-c", f"{shlex.join(page)} | xargs -n1 docker kill"], tracked).split()
    if sorted(killed) != sorted(containers):
        raise DemoError(f"killed were {killed}")
    show("curl …/tracker | xargs docker kill", " ".join(one[:12] for one in killed))
    running = run(["docker", "ps", "--quiet", "--filter", "label=Created-Via=docker-tracker"], direct)
    if running:
        raise DemoError(f"still running: {running}")

    status = tracker.stop()
    if status != 0:
        raise DemoError(f"the tracker ended with {status}")
    show("the tracker stopped", f"exit status {status}")


def demonstrate_jobs(client: list[str], tracker: Tracker, direct: dict[str, str], image: str, stack: ExitStack) -> None:
    """Show that nothing of a job is left, however it ends. :raises DemoError: something is."""
    environment = {**direct, "DOCKER_TRACKER_CONTROL": tracker.control}
    script = f"docker run -d {image} sleep 1000 && docker volume create && docker network create demo-$$"

    def left(job: str) -> list[str]:
        label = f"--filter=label=docker-tracker.job={job}"
        lists = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
        return [thing for each in lists for thing in run(["docker", *each, "--quiet", label], direct).split()]

    report = tracker.audit_path.with_name("report.json")
    run([*client, "run", "--job=demo", f"--report={report}", "--", "sh", "-c", script], environment)
    removed = [
        item["kind"]
        for item in json.loads(report.read_text())["job"]["report"]["items"]
        if item["outcome"] == "removed"
    ]
    if sorted(removed) != ["container", "network", "volume"] or left("demo"):
        raise DemoError(f"docker-tracker run removed {removed}, and left {left('demo')}")
    show("docker-tracker run -- sh -c …", f"left behind, and removed: {', '.join(removed)}")

    killed = subprocess.Popen(
        [*client, "run", "--job=killed", "--", "sh", "-c", f"{script} && sleep 1000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stack.callback(killed.kill)
    wait_until(lambda: len(left("killed")) == 3, "the job did not make its things")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    wait_until(lambda: not left("killed"), "a job that was killed left something")
    show("the same, and kill -9 in between", "nothing is left of it")


def interrupt(number: int, frame: FrameType | None) -> None:
    """Make SIGTERM clean up as control-C does."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Give the demo. :returns: the exit status."""
    if len(arguments) != 1:
        sys.stderr.write(__doc__ or "")
        return 2
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with ExitStack() as stack:
            demonstrate(str(Path(arguments[0]).absolute()), stack)
    except (DemoError, EngineError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    show("done", "all that was started and made here is gone again")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
