"""The real command line says the same through the daemon as directly: without interceptors, and with the default ones.

Each theme is a list of commands that is run three times, each time with names of its own. What must differ (IDs, times,
those names) is made equal, then outputs, errors and statuses are compared.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import Daemon
from tests.support.engine import engine_address, remove_cgroup, require_program

IMAGE = "busybox:local"
SECONDS = 60


@attrs.frozen
class Step:
    """One command.

    :ivar command: Arguments of docker; ``NAME`` stands for the run's own name, ``DIRECTORY`` for its directory.
    :ivar data: Its standard input.
    :ivar typed: What is typed on the terminal that it has; None: it has none.
    :ivar buildkit: For classic or BuildKit builds.
    :ivar labelled: The default interceptors change what this shows, as they should: only the status is compared.
    """

    command: str
    data: bytes = b""
    typed: bytes | None = None
    buildkit: bool = False
    labelled: bool = False


def terminal(command: str, typed: bytes) -> Step:
    """Give a command on a terminal."""
    return Step(command, typed=typed)


def labelled(command: str) -> Step:
    """Give a command whose output has labels in it."""
    return Step(command, labelled=True)


CGROUP = "/docker-tracker-cli"
RUN = f"run --rm --name NAME {IMAGE}"

THEMES: dict[str, tuple[Step | str, ...]] = {
    "system": (
        "version",
        "info",
        "system info --format {{.ID}}",
        "system df",
        "search --limit 1 127.0.0.1:1/x",
        "pull 127.0.0.1:1/x",
        "push 127.0.0.1:1/x",
        "login -u user -p secret 127.0.0.1:1",
        "events --since 1 --until 2",
        "builder prune -f --filter until=100000h",
        "plugin ls",
        "node ls",
        "service ls",
        "stack ls",
    ),
    "run": (
        f"{RUN} echo hello",
        f"{RUN} ls /no-such",
        f"{RUN} sh -c exit\\ 3",
        f"{RUN} no-such-command",
        Step(f"run -i --rm --name NAME {IMAGE} cat", b"typed\n" * 1000),
        Step(f"run -i --rm --name NAME {IMAGE} wc -c", bytes(3_000_000)),
        Step(f"run -i --rm -a stdin -a stdout --name NAME {IMAGE} wc -c", b"five\n"),
        terminal(f"run -it --rm --name NAME {IMAGE} sh", b"tty; echo $((6 * 7))\nexit 4\n"),
        f"run -t --rm --name NAME {IMAGE} tty",
        f"run --rm --init -w /tmp -e A=b -u 1:1 --name NAME {IMAGE} sh -c pwd;id;env",
        f"run --rm -v NAME:/x --tmpfs /y --name NAME {IMAGE} ls -d /x /y",
        "volume rm NAME",
        f"run --rm --cgroup-parent={CGROUP} -m 32m --name NAME {IMAGE} true",
        f"run -d --rm --name NAME-2 {IMAGE} sleep 1000",
        "kill NAME-2",
        f"create --name NAME-3 {IMAGE} echo started",
        "start -a NAME-3",
        "rm NAME-3",
    ),
    "life": (
        f"run -di --name NAME -p 80 --label own=1 {IMAGE} cat",
        "ps --filter name=NAME --format {{.Names}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Ports}}",
        "ps --filter label=own=1 --filter name=NAME -q --no-trunc",
        "inspect --format {{.State.Status}}{{.Path}}{{.Args}}{{.Config.OpenStdin}} NAME",
        labelled("inspect NAME"),
        labelled("container inspect --size NAME"),
        "port NAME",
        "top NAME -o pid,comm",
        "stats --no-stream --format {{.Name}}|{{.PIDs}} NAME",
        Step("attach --no-stdin --sig-proxy=false NAME-none"),
        "pause NAME",
        "unpause NAME",
        "update --cpu-shares 512 --memory 64m --memory-swap 64m NAME",
        "rename NAME NAME-2",
        "exec NAME-2 echo hello",
        "exec NAME-2 ls /no-such",
        "exec NAME-2 no-such-command",
        "exec -d NAME-2 true",
        "exec -e A=b -w /tmp NAME-2 sh -c env;pwd",
        Step("exec -i NAME-2 wc -c", bytes(1_000_000)),
        terminal("exec -it NAME-2 sh", b"tty; echo $((6 * 7))\nexit 5\n"),
        "diff NAME-2",
        "stop -t 0 NAME-2",
        "wait NAME-2",
        "start NAME-2",
        "restart -t 0 NAME-2",
        "rm -f NAME-2",
        f"create -i --name NAME-2 {IMAGE} cat",
        "start NAME-2",
        Step("attach NAME-2", b"to cat\n" * 3),
        "wait NAME-2",
        "logs NAME-2",
        "logs --tail 1 --timestamps NAME-2",
        "logs -f NAME-2",
        "ps -a --filter name=NAME --format {{.Names}}|{{.State}}",
        "events --since 600s --until=-1s --filter container=NAME-2 --format {{.Type}}|{{.Action}}",
        "rm NAME-2",
        f"run -d --name NAME {IMAGE} sh -c sleep\\ 0.3;echo\\ a;sleep\\ 0.3;echo\\ b\\ >&2",
        "logs -f NAME",
        "container prune -f --filter label=no-such",
        "rm -f NAME",
    ),
    "files": (
        f"run -d --name NAME {IMAGE} sleep 1000",
        "cp DIRECTORY/context NAME:/tmp/copied",
        "exec NAME cat /tmp/copied/file",
        "cp NAME:/tmp/copied/file DIRECTORY/back",
        "cp NAME:/tmp/copied/file -",
        Step("cp - NAME:/no-such", b"no archive"),
        "cp NAME:/no-such DIRECTORY/no-such",
        "diff NAME",
        "export -o DIRECTORY/exported NAME",
        "import -c CMD\\ true DIRECTORY/exported NAME:imported",
        "image inspect --format {{.Config.Cmd}} NAME:imported",
        "commit -m message -a author NAME NAME:committed",
        "run --rm NAME:committed cat /tmp/copied/file",
        labelled("rmi NAME:committed NAME:imported"),
        "rm -f NAME",
    ),
    "images": (
        Step("build -t NAME:built --build-arg A=b DIRECTORY/context", labelled=True),
        Step("build -q -t NAME:quiet DIRECTORY/context", labelled=True),
        Step("build --force-rm -t NAME:failed -f DIRECTORY/context/Failing DIRECTORY/context"),
        Step("build -t NAME:failed -f DIRECTORY/context/NoSuch DIRECTORY/context"),
        Step("build -t NAME:input -", f"FROM {IMAGE}\nENV A=NAME\n".encode(), labelled=True),
        "run --rm NAME:built cat /file /made",
        "image inspect --format {{.Config.Labels.own}}{{.Config.Env}} NAME:built",
        Step("history --no-trunc --format {{.CreatedBy}} NAME:built", labelled=True),
        "images --format {{.Repository}}:{{.Tag}} NAME",
        "image ls -q NAME:built",
        "tag NAME:built NAME:tagged",
        "image tag NAME:no-such NAME:tagged",
        "save -o DIRECTORY/saved NAME:built NAME:tagged",
        labelled("rmi NAME:tagged NAME:quiet NAME:input"),
        labelled("rmi -f NAME:built"),
        "load -i DIRECTORY/saved",
        "load -q -i DIRECTORY/saved",
        Step("load", b"no archive"),
        "run --rm NAME:tagged cat /made",
        "images --format {{.Repository}}:{{.Tag}} NAME",
        labelled("rmi -f NAME:built NAME:tagged"),
        "image prune -f --filter label=no-such",
    ),
    "buildkit": (
        Step("build -t NAME:built --progress=plain DIRECTORY/context", buildkit=True, labelled=True),
        Step("build -t NAME:failed --progress=plain -f DIRECTORY/context/Failing DIRECTORY/context", buildkit=True),
        Step("build -o DIRECTORY/output DIRECTORY/context", buildkit=True, labelled=True),
        labelled("rmi -f NAME:built"),
    ),
    "networks and volumes": (
        "network create --label own=1 NAME",
        "network ls --filter name=NAME --format {{.Name}}|{{.Driver}}",
        "network inspect --format {{.Name}}{{.Labels.own}} NAME",
        labelled("network inspect NAME"),
        f"run -d --name NAME --network NAME -v NAME-implicit:/x {IMAGE} sleep 1000",
        "network create NAME-2",
        "network connect --alias other NAME-2 NAME",
        "inspect --format {{len\\ .NetworkSettings.Networks}} NAME",
        "network rm NAME",
        "network disconnect NAME-2 NAME",
        "volume create --label own=1 NAME",
        "volume create NAME",
        "volume ls --filter name=NAME --format {{.Name}}",
        "volume inspect --format {{.Name}}{{.Labels.own}} NAME",
        labelled("volume inspect NAME"),
        "volume rm NAME-implicit",
        "rm -fv NAME",
        "network rm NAME NAME-2",
        "volume rm NAME NAME-implicit",
        "network prune -f --filter label=no-such",
        "volume prune -f --filter label=no-such",
    ),
    "errors": (
        "inspect NAME-none",
        "logs NAME-none",
        "start NAME-none",
        "exec NAME-none true",
        "attach NAME-none",
        "kill NAME-none",
        "rm NAME-none",
        "rm -f NAME-none",
        "cp NAME-none:/x DIRECTORY",
        "network inspect NAME-none",
        "volume rm NAME-none",
        "rmi NAME-none",
        "tag NAME-none x",
        "wait NAME-none",
        "stats --no-stream NAME-none",
        f"run --name bad/name {IMAGE} true",
        f"run --name - {IMAGE} true",
        f"run -v relative/path:/x {IMAGE} true",
        f"run -m 1k {IMAGE} true",
        f"run --network NAME-none --name NAME {IMAGE} true",
        "rm -f NAME",
        "network create host",
        "ps --filter no-such=1",
        "swarm leave",
        "service create NAME-none",
    ),
}

#: Themes that are run with all command lines that are here: what differs between them is how they stream.
STREAMS = ("run", "life", "buildkit")

_SAME = (
    (re.compile(r"sha256:[0-9a-f]{12,64}|\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d)?( UTC)?"), "TIME"),
    (re.compile(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d( UTC)? \d{4}"), "TIME"),
    (re.compile(r"\b\d+\.\d+\.\d+\.\d+(/\d+)?\b"), "IP"),
    (re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b"), "MAC"),
    (re.compile(r"docker-import-\d+|docker-builder\d+"), "TEMPORARY"),
    (re.compile(r"\d+(\.\d+)?( ?[kMG]i?B| ?B|s\b|%)?"), "N"),
)

#: In no order of the engine's.
_RUNTIMES = re.compile(r"Runtimes: .*")

#: Of BuildKit's report only steps and errors are compared: how often it tells of progress depends on the time.
_BUILDKIT = re.compile(r"(?m)^(?:#\d+ (?=\[)|.*(?:ERROR|error|failed)).*\n?")

#: The engine refuses a prune, or to count what is used, while another one does it.
_ALONE = threading.Lock()

#: Commands whose lines the engine gives in no order.
UNORDERED = ("diff", "images", "info")


#: The client says this, or not, as it leaves (docker/cli: ``cli/command/container/utils.go``).
_RACE = re.compile(r"time=\S+ level=error msg=\"error waiting for container: context canceled\"\n")


def same(text: str, name: str, directory: str) -> str:
    """Put the same words for what differs between two runs."""
    text = _RACE.sub("", text).replace(directory, "DIRECTORY").replace(name, "NAME")
    for pattern, word in _SAME:
        text = pattern.sub(word, text)
    text = re.sub(" +", " ", text)
    return _RUNTIMES.sub(lambda line: " ".join(sorted(line[0].split())), text)


def command_lines() -> list[str]:
    """Give the command lines of docker to test with: the first on the path, and Debian's."""
    found = [require_program("docker", "docker.io"), *filter(os.path.exists, ["/usr/bin/docker"])]
    return list({os.path.realpath(path): path for path in found}.values())


class Runs:
    """Runs themes over one way to the engine.

    :param program: of docker.
    :param address: DOCKER_HOST.
    """

    def __init__(self, program: str, address: str) -> None:
        self.program = program
        self.name = f"cli{uuid.uuid4().hex[:10]}x"
        self.directory = tempfile.mkdtemp(prefix="dt-cli-", dir="/tmp")
        home = Path(self.directory) / "home"
        home.mkdir()
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_HOST": address, "TERM": "dumb"}
        context = Path(self.directory) / "context"
        context.mkdir()
        (context / "file").write_text(f"{self.name} shares no cache with others\n")
        lines = [f"FROM {IMAGE}", "COPY file /file", "RUN echo made > /made", "LABEL own=1"]
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        (context / "Failing").write_text(f"FROM {IMAGE}\nRUN false\n")

    def discard(self) -> None:
        """Remove whatever a theme left."""
        for what, listing in (
            ("rm -fv", f"ps -aq --filter name={self.name}"),
            ("network rm", f"network ls -q --filter name={self.name}"),
            ("volume rm", f"volume ls -q --filter name={self.name}"),
            ("rmi -f", f"images -q --filter reference={self.name}"),
        ):
            found = self.output(Step(listing))[1].split()
            if found:
                self.output(Step(" ".join([what, *found])))
        shutil.rmtree(self.directory)

    def arguments(self, command: str) -> list[str]:
        """Split a command at spaces that have no backslash before them; fill in the names."""
        words = [word.replace("\\ ", " ") for word in re.split(r"(?<!\\) +", command)]
        return [self.program, *(word.replace("NAME", self.name).replace("DIRECTORY", self.directory) for word in words)]

    def output(self, step: Step) -> tuple[int, str, str]:
        """Run a step. :returns: status, output, errors, as they came."""
        arguments = self.arguments(step.command)
        environment = {**self.environment, "DOCKER_BUILDKIT": str(int(step.buildkit))}
        if step.typed is not None:
            return *self._on_terminal(arguments, environment, step.typed), ""
        data = step.data.replace(b"NAME", self.name.encode())
        done = subprocess.run(arguments, input=data, capture_output=True, env=environment, timeout=SECONDS)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def _on_terminal(self, arguments: list[str], environment: dict[str, str], typed: bytes) -> tuple[int, str]:
        """Run a command on a terminal of its own, and type when its prompt is there."""
        ours, its = pty.openpty()
        process = subprocess.Popen(
            arguments, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
        )
        os.close(its)
        killer = threading.Timer(SECONDS, process.kill)
        killer.start()
        seen = b""
        try:
            while b"# " not in seen:
                seen += os.read(ours, 65536)
            os.write(ours, typed)
            while True:
                seen += os.read(ours, 65536)
        except OSError:  # EIO: the terminal's other end is closed
            pass
        finally:
            status = process.wait()
            killer.cancel()
            os.close(ours)
        return status, re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", seen.decode().replace("\r", ""))

    def theme(self, steps: Iterable[Step]) -> list[tuple[int, str, str]]:
        """Run steps one after the other. :returns: what each gave, made equal."""
        results = []
        for step in steps:
            with _ALONE if re.search(" prune |system df", step.command) else nullcontext():
                status, output, errors = self.output(step)
            if step.buildkit:
                errors = "".join(re.sub(r"^#\d+ ", "", line) for line in _BUILDKIT.findall(errors))
            output, errors = (same(text, self.name, self.directory) for text in (output, errors))
            if step.buildkit or step.command.startswith(UNORDERED):
                output, errors = ("\n".join(sorted(set(text.splitlines()))) for text in (output, errors))
            results.append((status, output, errors))
        return results


def theme_test(theme: str) -> Callable[[CommandLineTests], None]:
    """Give the test of a theme."""

    def test(self: CommandLineTests) -> None:
        programs = command_lines() if theme in STREAMS else command_lines()[:1]
        self.compare([step if isinstance(step, Step) else Step(step) for step in THEMES[theme]], programs)

    test.__doc__ = f"Theme {theme}: outputs, errors and statuses are the same each way."
    return test


class CommandLineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(remove_cgroup, CGROUP)
        self.engine = engine_address()

    def daemon(self, *options: str) -> Daemon:
        daemon = Daemon(f"--engine={self.engine}", *options)
        daemon.command.append(f"--listen={daemon.address}")
        self.addCleanup(self.end, daemon)
        return daemon.start()

    def end(self, daemon: Daemon) -> None:
        try:
            self.assertEqual(daemon.stop(), 0, daemon.output())
            self.assertEqual(daemon.output().partition("Traceback")[2], "")
        finally:
            daemon.discard()

    def compare(self, steps: list[Step], programs: list[str]) -> None:
        """Run steps directly and through daemons, with each of some command lines."""
        daemons = {"none": self.daemon("--interceptors=none"), "default": self.daemon()}
        for daemon in daemons.values():
            daemon.wait_for_socket()
        ways = {"direct": self.engine, **{name: daemon.address for name, daemon in daemons.items()}}
        for program in programs:
            if any(step.buildkit for step in steps) and not self.builds(program):
                continue
            with ThreadPoolExecutor(len(ways)) as pool:
                running = {way: pool.submit(self.run_steps, program, ways[way], steps) for way in ways}
            results = {way: future.result() for way, future in running.items()}
            self.maxDiff = None
            for number, step in enumerate(steps):
                if step.command.startswith("events "):
                    # The engine tells of an exec's end when it comes to it, be it after the next one's begin.
                    for result in results.values():
                        status, output, errors = result[number]
                        result[number] = (status, "".join(sorted(output.splitlines(keepends=True))), errors)
                expected = results["direct"][number]
                about = f"{program} {step.command}"
                self.assertEqual(results["none"][number], expected, about)
                got = results["default"][number]
                if step.labelled:
                    got, expected = (got[0], "", ""), (expected[0], "", "")
                self.assertEqual(got, expected, about)

    def run_steps(self, program: str, address: str, steps: list[Step]) -> list[tuple[int, str, str]]:
        """Run steps one way, and clean up."""
        runs = Runs(program, address)
        try:
            return runs.theme(steps)
        finally:
            runs.discard()

    def builds(self, program: str) -> bool:
        """Say whether a command line has BuildKit's part."""
        runs = Runs(program, self.engine)
        status, _, errors = runs.output(Step("build --help", buildkit=True))
        runs.discard()
        return status == 0 and "buildx component is missing" not in errors

    def test_enough(self) -> None:
        """At least forty different commands are tried."""
        steps = [step.command if isinstance(step, Step) else step for theme in THEMES.values() for step in theme]
        grouped = ("system", "builder", "image", "container", "network", "volume", "plugin", "node", "service", "stack")
        words = {tuple(step.split()[: 2 if step.split()[0] in grouped else 1]) for step in steps}
        self.assertGreaterEqual(len(words), 60)


for _theme in THEMES:
    setattr(CommandLineTests, f"test_{_theme.replace(' ', '_')}", theme_test(_theme))
