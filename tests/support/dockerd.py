"""A private, real engine for tests and the demo: its own containerd and dockerd in a directory of their own.

Both run in a network and a mount namespace that end with them, so that no bridge, firewall rule, mount or file under
/run reaches the host. Cgroups are the host's: all that the engine makes stand under one top directory of its own name.
A port that a container publishes is inside the namespace; the engine itself is reached by its unix socket.
Only the standard library is used, as the demo runs it too. Needs root, Debian's ``docker.io`` and ``busybox-static``.

    python -m tests.support.dockerd up DIR       # prints the address
    python -m tests.support.dockerd down DIR
"""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

IMAGE = "busybox:local"
BUSYBOX = Path("/bin/busybox")
NEEDED_PROGRAMS = ("dockerd", "containerd", "runc", "iptables", "unshare", "nsenter", "busybox")
PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_PREFIX = "docker-tracker-"

# A unix socket's path has 107 bytes at most; containerd adds ".ttrpc" to its own, dockerd a name of 44 bytes under "x".
MAX_DIRECTORY_BYTES = 60

# /run is hidden, as containerd keeps its shims' sockets below it (containerd: runtime/v2/shim/util_unix.go).
# Mounts are shared again within the namespace, because bind propagation asks for it (moby: daemon/oci_linux.go).
_ENTER = """
mount --make-rshared / && mount -t tmpfs -o mode=755 tmpfs /run && ln -s "$1/docker.sock" /run/docker.sock &&
busybox ip link set lo up && shift && exec "$@"
"""

# Engines decide by the kind of file system at that place (containerd/cgroups: utils.go, Mode). The mount that is there
# is moved: to mount it anew would take the whole machine its options (kernel: cgroup.c, apply_cgroup_root_flags).
_UNIFIED = """
mount --bind {unified} "$1/tmp" && umount --recursive {root} && mount --move "$1/tmp" {root} &&
"""

_CONTAINERD_CONFIG = """\
version = 2
root = "{directory}/containerd"
state = "{directory}/c"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{directory}/containerd.sock"
"""


class EngineError(Exception):
    """The private engine can't be had, with one sentence that says why."""


def why_impossible(unified: bool = False) -> str | None:
    """Say why this machine can't run a private engine.

    :param unified: one with cgroups of version 2 alone.
    :returns: one clause without a full stop, or None if nothing speaks against it.
    """
    if os.geteuid() != 0:
        return "a private engine needs root"
    missing = [program for program in NEEDED_PROGRAMS if shutil.which(program, path=PROGRAM_PATH) is None]
    if missing:
        return f"a private engine needs {', '.join(missing)} (Debian: docker.io, iptables, util-linux, busybox-static)"
    if unified and unified_hierarchy() is None:
        return "no cgroups of version 2 are mounted"
    return None


def unified_hierarchy() -> Path | None:
    """Give where cgroups of version 2 are mounted in this process's mount namespace; None: nowhere."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next((Path(fields[1]) for fields in lines if fields[2] == "cgroup2"), None)


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path instead of a host and port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class PrivateEngine:
    """One engine in a directory: started, restarted and stopped by process ID; also one that another process started.

    :param directory: where all its files go: made if absent, on a disk (not under /run), its path 60 bytes at most.
    :param options: further options of dockerd.
    :param unified: it sees cgroups of version 2 alone, with the controllers that no hierarchy of version 1 has.
    """

    def __init__(self, directory: Path | str, options: tuple[str, ...] = (), unified: bool = False) -> None:
        self.directory = Path(directory).resolve()
        self.options = options
        self.unified = unified
        self.socket_path = self.directory / "docker.sock"
        self.address = f"unix://{self.socket_path}"
        self.cgroup_parent = f"/{CGROUP_PREFIX}{self.directory.name}"
        self._record_path = self.directory / "engine.json"
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> PrivateEngine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start containerd and dockerd, wait until they answer, and make the image ``busybox:local``.

        :raises EngineError: this machine can't, or the engine did not come up; nothing is left running then.
        """
        reason = why_impossible(self.unified)
        if reason is not None:
            raise EngineError(reason)
        if len(os.fsencode(self.directory)) > MAX_DIRECTORY_BYTES:
            raise EngineError(f"the path {self.directory} is longer than {MAX_DIRECTORY_BYTES} bytes")
        if self._record():
            raise EngineError(f"an engine was already started in {self.directory}: take it down first")
        (self.directory / "tmp").mkdir(parents=True, exist_ok=True)
        (self.directory / "daemon.json").write_text("{}\n")
        (self.directory / "containerd.toml").write_text(_CONTAINERD_CONFIG.format(directory=self.directory))
        try:
            self._start_containerd()
            self._start_dockerd()
            self._import_image()
        except BaseException:
            self.stop()
            raise

    def restart(self, kill: bool = False) -> None:
        """Stop dockerd and start it again with the same data; containerd stays, as it does under systemd.

        :param kill: end it by SIGKILL instead of SIGTERM.
        """
        self._end("dockerd", signal.SIGKILL if kill else signal.SIGTERM, seconds=30)
        self._start_dockerd()

    def stop(self) -> None:
        """End containers, daemons and whatever they started; remove cgroups and data. The daemons' logs stay."""
        self._kill_containers()
        self._end("dockerd", signal.SIGTERM, seconds=20)
        self._end("containerd", signal.SIGTERM, seconds=10)
        _wait_until(lambda: not _kill_all(self.processes()), 15, "processes of the engine do not end")
        for child in self._children:
            child.wait()
        self._children.clear()
        self._record_path.unlink(missing_ok=True)
        _wait_until(self._remove_cgroups, 10, f"cgroups below {self.cgroup_parent} can't be removed")
        for name in ("data", "exec", "c", "containerd", "tmp"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for name in ("docker.sock", "containerd.sock", "containerd.sock.ttrpc", "daemon.json", "containerd.toml"):
            (self.directory / name).unlink(missing_ok=True)

    def process_id(self, name: str) -> int | None:
        """Give the process ID of one of the daemons.

        :param name: "dockerd" or "containerd".
        :returns: None if it was not started or has ended.
        """
        entry = self._record().get(name)
        if entry is None or _start_time(entry["pid"]) != entry["start_time"]:
            return None
        return int(entry["pid"])

    def processes(self) -> list[int]:
        """Give all processes in the engine's mount namespace and their descendants, so also those of its containers.

        The namespace is known by the link that was made in its own /run, so this works when both daemons are gone.
        """
        parents = {
            process: int(fields[1])
            for process in (int(name) for name in os.listdir("/proc") if name.isdigit())
            if (fields := _stat_fields(process)) and fields[0] != "Z"
        }
        found = {
            process for process in parents if _link(f"/proc/{process}/root/run/docker.sock") == str(self.socket_path)
        }
        while more := {process for process, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def enter(self, *command: str) -> list[str]:
        """Give the command line that runs a command inside the engine's namespaces, say to reach a published port."""
        return ["nsenter", f"--target={self.process_id('containerd')}", "--net", "--mount", "--", *command]

    def api(
        self, method: str, path: str, body: object = None, data: bytes | None = None, timeout: float = 60
    ) -> tuple[int, Any]:
        """Call the Engine API.

        :param path: with its query; no version is put before it.
        :param body: sent as JSON, if not None; ``data`` is sent as it is.
        :param timeout: in seconds, for each wait on the socket.
        :returns: the status, and the answer as JSON, or as text where it isn't JSON.
        """
        connection = _UnixConnection(self.socket_path, timeout)
        headers = {"Content-Type": "application/x-tar" if data is not None else "application/json"}
        try:
            connection.request(method, path, json.dumps(body).encode() if body is not None else data, headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def stacks(self, seconds: float = 10) -> str:
        """Give what each goroutine of dockerd is doing (moby: ``daemon/debugtrap_unix.go``); "" if it does not say."""
        process, before = self.process_id("dockerd"), set((self.directory / "exec").glob("goroutine-stacks-*"))
        if process is None:
            return ""
        os.kill(process, signal.SIGUSR1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.2)
            for path in set((self.directory / "exec").glob("goroutine-stacks-*")) - before:
                if text := path.read_text():
                    return text
        return ""

    def log_tail(self, name: str = "dockerd", lines: int = 8) -> str:
        """Give the last lines that a daemon wrote: if those are a panic, its first ones."""
        path = self.directory / f"{name}.log"
        written = path.read_text(errors="replace").splitlines() if path.exists() else []
        for number in range(len(written) - 1, -1, -1):
            if written[number].startswith("panic: "):
                return "\n".join(written[number:][: 3 * lines])
            if written[number].startswith("time="):
                break
        return "\n".join(written[-lines:])

    def _start_containerd(self) -> None:
        containerd = ["containerd", "--config", str(self.directory / "containerd.toml")]
        namespaces = ["unshare", "--net", "--mount", "--propagation=private", "--"]
        mounts = _UNIFIED.format(unified=unified_hierarchy(), root=CGROUP_ROOT) if self.unified else ""
        self._spawn("containerd", [*namespaces, "sh", "-c", mounts + _ENTER, "sh", str(self.directory), *containerd])
        self._wait_for("containerd", (self.directory / "containerd.sock").exists)

    def _start_dockerd(self) -> None:
        directory = self.directory
        dockerd = [
            "dockerd",
            f"--host={self.address}",
            f"--containerd={directory / 'containerd.sock'}",
            f"--config-file={directory / 'daemon.json'}",
            f"--data-root={directory / 'data'}",
            f"--exec-root={directory / 'exec'}",
            f"--pidfile={directory / 'dockerd.pid'}",
            f"--cgroup-parent={self.cgroup_parent}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--default-cgroupns-mode=host",  # else what a container has of its cgroup's path is "/", with version 2
            "--group=root",
            *self.options,
        ]
        self._spawn("dockerd", self.enter(*dockerd))
        self._wait_for("dockerd", self._answers)

    def _answers(self) -> bool:
        try:
            return self.api("GET", "/_ping", timeout=5)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _spawn(self, name: str, command: list[str]) -> None:
        """Start a daemon in a session of its own, its output to NAME.log, and record who it is."""
        temporary = str(self.directory / "tmp")
        environment = {"PATH": PROGRAM_PATH, "TMPDIR": temporary, "DOCKER_TMPDIR": temporary, "HOME": "/root"}
        # By these the runner of the tests finds what they left behind.
        environment.update({key: value for key, value in os.environ.items() if key.startswith("TRACKER_TEST_")})
        with (self.directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._children.append(child)
        record = self._record()
        record[name] = {"pid": child.pid, "start_time": _start_time(child.pid)}
        self._record_path.write_text(json.dumps(record))

    def _wait_for(self, name: str, is_ready: Callable[[], bool], seconds: float = 60) -> None:
        def ready_or_dead() -> bool:
            if self.process_id(name) is None:
                raise EngineError(f"{name} ended at once; its last lines:\n{self.log_tail(name)}")
            return is_ready()

        _wait_until(ready_or_dead, seconds, f"{name} did not come up; its log is {self.directory}/{name}.log")

    def _end(self, name: str, number: signal.Signals, seconds: float) -> None:
        """Send a signal to a daemon and wait for its end; after that time it is killed."""
        process = self.process_id(name)
        if process is not None:
            os.kill(process, number)
            try:
                _wait_until(lambda: self.process_id(name) is None, seconds, name)
            except EngineError:
                os.kill(process, signal.SIGKILL)
                _wait_until(lambda: self.process_id(name) is None, 10, f"{name} can't be killed")
        # One that is left from a kill stops the next dockerd if the process ID is in use again (moby: pkg/pidfile).
        (self.directory / f"{name}.pid").unlink(missing_ok=True)

    def _kill_containers(self) -> None:
        """Remove all containers by the API, which also removes their cgroups; what it can't is killed later."""
        if self.process_id("dockerd") is None:
            return
        try:
            status, containers = self.api("GET", "/containers/json?all=1", timeout=20)
            for container in containers if status == 200 else ():
                self.api("DELETE", f"/containers/{container['Id']}?force=1&v=1", timeout=20)
        except (OSError, http.client.HTTPException) as error:
            sys.stderr.write(f"private engine: its containers could not be removed ({error}), they will be killed\n")

    def _record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._record_path.read_text())
        except FileNotFoundError:
            return {}
        return record

    def _remove_cgroups(self) -> bool:
        """Remove the cgroups of our name from every hierarchy; say whether all are gone."""
        for top in self.cgroups():
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    return False
        return True

    def cgroups(self) -> list[Path]:
        """Give the top cgroup directories whose name begins with ours, in all hierarchies that are mounted."""
        return sorted(
            {*CGROUP_ROOT.glob(self.cgroup_parent[1:] + "*"), *CGROUP_ROOT.glob("*" + self.cgroup_parent + "*")}
        )

    def _import_image(self) -> None:
        change = "CMD+%5B%22sh%22%5D"
        name, tag = IMAGE.split(":")
        path = f"/images/create?fromSrc=-&repo={name}&tag={tag}&changes={change}"
        status, answer = self.api("POST", path, data=root_file_system())
        if status != 200 or "error" in str(answer):
            raise EngineError(f"the image {IMAGE} could not be made: {answer}")


def root_file_system() -> bytes:
    """Make a tar archive of a root directory with busybox and a link for each of its commands."""
    commands = subprocess.run([str(BUSYBOX), "--list"], check=True, capture_output=True, text=True).stdout.split()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("dev", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        archive.add(os.path.realpath(BUSYBOX), "bin/busybox")
        for command in commands:
            if command != "busybox":
                entry = tarfile.TarInfo(f"bin/{command}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
        for path, text in (("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")):
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


def _wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds. :raises EngineError: it did not within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise EngineError(f"{what} (waited {seconds:.0f} s)")
        time.sleep(0.05)


def _stat_fields(process: int) -> list[str]:
    """Give the fields of /proc/PID/stat from the state on (field 3 of proc(5)); [] if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _start_time(process: int) -> str | None:
    """Give when a process started, in clock ticks since boot; None if it has ended (our child: is reaped)."""
    fields = _stat_fields(process)
    if fields and fields[0] == "Z":
        with suppress(ChildProcessError):
            # 0: its first thread has ended, others have not yet.
            if os.waitpid(process, os.WNOHANG)[0] == 0:
                return fields[19]
        return None
    return fields[19] if fields else None


def _link(path: str) -> str | None:
    """Give what a symbolic link says; None where there is none or its process is gone."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def _kill_all(processes: list[int]) -> bool:
    """Send SIGKILL to each; say whether there was any."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return bool(processes)


def main(arguments: list[str]) -> int:
    """Start ("up DIR") or stop ("down DIR") an engine that outlives this process. :returns: the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("up", "down"):
        sys.stderr.write(__doc__ or "")
        return 2
    engine = PrivateEngine(arguments[1])
    try:
        if arguments[0] == "up":
            engine.start()
            sys.stdout.write(engine.address + "\n")
        else:
            engine.stop()
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
