"""A machine with systemd for tests: systemd as process 1 of name spaces of its own, with Debian's engine in it.

Its root is the host's, read through an overlay whose changes are in memory, as are /run, /tmp and /var; of the host's
units only those run that are asked for. It has cgroups of its own in all hierarchies that it uses, under one directory
of its name, and sees nothing above. The host's kernel settings are read-only to it. Needs root, Debian's ``systemd``,
``dbus``, ``docker.io`` and ``busybox-static``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from docker_tracker.cgroups import UNIFIED, Hierarchy, enter, hierarchies, memberships, remove
from tests.support.daemon import ROOT, TWISTD
from tests.support.dockerd import IMAGE, PROGRAM_PATH, root_file_system
from tests.support.engine import REQUIRE_VARIABLE, RUN_VARIABLE, docker

Layout = Literal["hybrid", "unified"]

_SYSTEMD: Final = Path("/lib/systemd/systemd")
_PROGRAMS: Final = {
    _SYSTEMD: "systemd",
    Path("/usr/bin/systemd-run"): "systemd",
    Path("/usr/bin/dbus-daemon"): "dbus",
    Path("/lib/systemd/system/dbus.socket"): "dbus",
    Path("/lib/systemd/system/docker.service"): "docker.io",
    Path("/lib/systemd/system/containerd.service"): "containerd",
    Path("/bin/busybox"): "busybox-static",
}
# What would change the host's kernel, or takes time and is of no use here.
_MASKED: Final = (
    *("systemd-sysctl.service", "systemd-modules-load.service", "modprobe@.service", "systemd-binfmt.service"),
    *("systemd-journald-audit.socket", "systemd-journal-flush.service", "systemd-update-utmp.service"),
    *("systemd-sysusers.service", "systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service"),
    *("systemd-tmpfiles-clean.timer", "systemd-remount-fs.service", "systemd-initctl.socket"),
    *("systemd-random-seed.service", "systemd-machine-id-commit.service", "systemd-ask-password-console.path"),
    *("cryptsetup.target", "integritysetup.target", "veritysetup.target", "swap.target", "kmod-static-nodes.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "proc-sys-fs-binfmt_misc.automount"),
    *("systemd-firstboot.service", "systemd-repart.service", "systemd-pcrphase.service", "systemd-timesyncd.service"),
    *("systemd-pcrphase-sysinit.service", "systemd-udevd.service", "systemd-udev-trigger.service"),
)
_TARGET: Final = "docker-tracker-machine.target"
_FILES: Final = {
    f"/etc/systemd/system/{_TARGET}": """\
[Unit]
Description=What the tests need of a machine
Requires=basic.target
After=basic.target
AllowIsolate=yes
""",
    "/etc/systemd/journald.conf.d/machine.conf": "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n",
    "/etc/docker/daemon.json": '{"exec-opts": ["native.cgroupdriver=systemd"]}\n',
}

# $1: the directory to build it in. $2: hierarchies below /sys/fs/cgroup, as NAME=TYPE:OPTIONS ("" as the NAME: the
# directory itself). $3: trees to have as they are, read-only. $4: where the files to put into it are. Each is one word
# to a line. The kernel's settings are the host's but for those of the network.
_BUILD: Final = """
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" overlay "$1/root"
root=$1/root
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
for each in dev run var sys/fs/cgroup; do
    mount -t tmpfs -o mode=755 tmpfs "$root/$each"
done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/tty" c 5 0
mkdir "$root/dev/pts" "$root/dev/shm" "$root/var/lib" "$root/var/log" "$root/var/cache"
mkdir -m 1777 "$root/var/tmp"
ln -s /run "$root/var/run"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
IFS='
'
for each in $2; do
    where=$root/sys/fs/cgroup/${each%%=*} what=${each#*=}
    mkdir -p "$where"
    mount -t "${what%%:*}" -o "${what#*:}" cgroup "$where"
done
for each in $3; do
    mkdir -p "$root$each"
    mount --bind "$each" "$root$each"
    mount -o remount,bind,ro "$root$each"
done
rm -rf "$root/etc/systemd/system" "$root/etc/docker" "$root/etc/docker-tracker" "$root/etc/default/docker"
cp -r "$4/." "$root/"
cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
mount --make-rshared /
exec env -i "PATH=$PATH" container=docker-tracker-test /lib/systemd/systemd "--unit=$5" --show-status=no
"""
# $1: the cgroups to enter, one on a line. The rest: what to do there, in new name spaces.
_ENTER: Final = """
set -eu
IFS='
'
for each in $1; do
    echo 0 >"$each/cgroup.procs"
done
shift
exec unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child --propagation=private -- "$@"
"""


class MachineError(Exception):
    """The machine did not come up, with what it said."""


def why_impossible(layout: Layout) -> str | None:
    """Say why there can't be such a machine here: one clause without a full stop; None: nothing speaks against it."""
    if os.geteuid() != 0:
        return "a machine with systemd needs root"
    missing = sorted({package for path, package in _PROGRAMS.items() if not path.exists()})
    if missing:
        return f"a machine with systemd needs Debian's {', '.join(missing)}"
    try:
        subprocess.run(["unshare", "--mount", "--pid", "--cgroup", "--fork", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "a machine with systemd needs name spaces, and this process may make none"
    found = hierarchies()
    if not any(each.unified for each in found):
        return "a machine with systemd needs cgroups of version 2 to be mounted"
    if layout == "hybrid" and not any("name=systemd" in each.controllers for each in found):
        return "a machine with systemd on cgroups of version 1 needs the host to have its hierarchy, name=systemd"
    if not all(os.access(each.path, os.W_OK) for each in found):
        return "a machine with systemd needs cgroups, and this process may make none"
    return None


def require_machine(layout: Layout) -> None:
    """Skip the test that needs such a machine where there can be none.

    :raises unittest.SkipTest: says why; with REQUIRE_ENGINE=1 an AssertionError, unless only the host's kind of cgroups
        is in the way.
    """
    reason = why_impossible(layout)
    if reason is None:
        return
    if os.environ.get(REQUIRE_VARIABLE) == "1" and "cgroups of version" not in reason:
        raise AssertionError(f"{reason}; {REQUIRE_VARIABLE}=1")
    raise unittest.SkipTest(reason)


class Machine:
    """A machine that is booted and ended with a ``with`` block, or by `start` and `stop`.

    :param layout: ``hybrid``: resources are controlled by cgroups of version 1, and systemd has its two hierarchies;
        ``unified``: version 2 alone, with those controllers that the host's version 1 does not hold.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.directory = Path(tempfile.mkdtemp(prefix="dt-machine-", dir="/tmp"))
        (self.directory / "run").write_text(os.environ.get(RUN_VARIABLE, ""))
        self._log_path = self.directory / "output"
        self._outer: subprocess.Popen[bytes] | None = None
        self._init: int | None = None

    def __enter__(self) -> Machine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Machine:
        """Boot it and wait until that is done.

        :raises MachineError: it did not come up; nothing is left of it then.
        """
        try:
            self._boot()
            self.wait_for(lambda: self._state() in ("running", "degraded"))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all of its processes, and remove its cgroups and its directory."""
        if self._outer is not None:
            if self._init is not None and self._outer.poll() is None:
                os.kill(self._init, signal.SIGKILL)  # and the kernel all others, before it is gone itself
            else:
                self._outer.kill()
            self._outer.wait()
            self._outer = None
        clear(self.directory)

    def cgroups(self) -> list[Path]:
        """Give its cgroups as the host has them: one in each hierarchy."""
        return _cgroups(self.directory)

    def path(self, path: str) -> Path:
        """Give the path by which a file or a socket of the machine is reached from here."""
        return Path(f"/proc/{self._init}/root{path}")

    def address(self, path: str) -> str:
        """Give DOCKER_HOST for a socket of the machine; a client from here has no process that is seen there."""
        return f"unix://{self.path(path)}"

    def write(self, path: str, text: str) -> None:
        """Write a file, root's, which nobody else may write."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)

    def begin(self, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command in the machine, but in none of its cgroups."""
        entered = [f"--{each}" for each in ("mount", "uts", "ipc", "net", "pid", "cgroup")]
        return subprocess.Popen(
            ["nsenter", f"--target={self._init}", *entered, "--", *command],
            env={"PATH": PROGRAM_PATH, "HOME": "/root", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, environment: Mapping[str, str] | None = None, seconds: float = 60) -> str:
        """Run a command in the machine, and return what it printed, without white space around it.

        :raises MachineError: its status is not 0; with what it said.
        """
        process = self.begin(*command, environment=environment)
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            raise MachineError(f"{' '.join(command)} took longer than {seconds} s: {output}{errors}") from None
        if process.returncode != 0:
            raise MachineError(f"{' '.join(command)} gave {process.returncode}: {output}{errors}")
        return output.strip()

    def service(self, *command: str, options: tuple[str, ...] = (), seconds: float = 60) -> str:
        """Run a command as a transient service, in ``system.slice`` unless an option says where else."""
        fixed = ("--quiet", "--wait", "--pipe", "--collect")
        return self.run("systemd-run", *fixed, *options, "--", *command, seconds=seconds)

    def property(self, unit: str, name: str) -> str:
        """Return a unit's property as ``systemctl show`` has it."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit)

    def journal(self, unit: str) -> str:
        """Give what a unit has said."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def install(self) -> None:
        """Install the project's units as their page says, with the twistd and the modules of this test."""
        for unit in sorted((ROOT / "systemd").iterdir()):
            text = unit.read_text()
            self.write(f"/etc/systemd/system/{unit.name}", text.replace("\nExecStart=twistd", f"\nExecStart={TWISTD}"))
        drop_in = f"[Service]\nEnvironment=PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1\n"
        self.write("/etc/systemd/system/docker-tracker.service.d/test.conf", drop_in)
        self.run("systemctl", "daemon-reload")

    def start_engine(self) -> None:
        """Start the engine, and make the image ``busybox:local``."""
        self.run("systemctl", "start", "docker.service")
        docker(
            "import", "--change=CMD sh", "-", IMAGE, address=self.address("/run/docker.sock"), data=root_file_system()
        )

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until a condition holds. :raises MachineError: the machine has ended, or the time is over."""
        end = time.monotonic() + seconds
        while not condition():
            if self._outer is None or self._outer.poll() is not None:
                raise MachineError(f"the machine has ended: {self._log_path.read_text(errors='replace')}")
            if time.monotonic() > end:
                raise MachineError(f"waited {seconds} s in vain: {self._log_path.read_text(errors='replace')}")
            time.sleep(0.05)

    def _boot(self) -> None:
        tree = self.directory / "files"
        for path, text in {**_FILES, "/etc/machine-id": f"{uuid.uuid4().hex}\n"}.items():
            (file := tree / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        for unit in _MASKED:
            (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
        name = f"docker-tracker-{self.directory.name}"
        tops, mounts = [], []
        for each in self._hierarchies():
            (top := each.path / name).mkdir()
            tops.append(str(top))
            for file_name in ("cpuset.cpus", "cpuset.mems"):  # version 1: without them it takes no process
                if not each.unified and (top / file_name).exists():
                    (top / file_name).write_bytes((each.path / file_name).read_bytes())
            mounts.append(self._mount(each))
        (place := self.directory / "machine").mkdir()
        # The tests' own; links to elsewhere in a virtual environment lead into the host's root.
        trees = {str(ROOT), sys.prefix, sys.base_prefix} - {"/usr"}
        build = ("sh", "-c", _BUILD, "sh", str(place), "\n".join(mounts), "\n".join(sorted(trees)), str(tree), _TARGET)
        with self._log_path.open("ab") as log:
            self._outer = subprocess.Popen(
                ["sh", "-c", _ENTER, "sh", "\n".join(tops), *build],
                env={"PATH": PROGRAM_PATH, **{k: v for k, v in os.environ.items() if k.startswith("TRACKER_TEST_")}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self.wait_for(self._has_init)
        own = memberships(os.getpid())
        for each in self._hierarchies():  # who started it out of its cgroups: of version 2 its top takes no process
            home = own.get(next(iter(each.controllers), UNIFIED), "/")
            with suppress(OSError):
                enter(each.path / home[1:], self._outer.pid)

    def _hierarchies(self) -> Iterator[Hierarchy]:
        for each in hierarchies():
            if each.unified or self.layout == "hybrid":
                yield each

    def _mount(self, each: Hierarchy) -> str:
        """Return where the machine has a hierarchy, and with which options it is mounted there."""
        if each.unified:
            return f"{'unified' if self.layout == 'hybrid' else ''}=cgroup2:rw"
        options = ",".join(sorted(each.controllers))
        if options.startswith("name="):
            return f"{options.removeprefix('name=')}=cgroup:none,{options}"
        return f"{options}=cgroup:{options}"

    def _has_init(self) -> bool:
        assert self._outer is not None
        number = self._outer.pid
        found = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        if found and Path(f"/proc/{found[0]}/comm").read_text() == "systemd\n":
            self._init = int(found[0])
        return self._init is not None

    def _state(self) -> str:
        try:
            return self.run("systemctl", "is-system-running")
        except MachineError as error:
            return str(error).rpartition(": ")[2].strip()


def left_by(run: str) -> list[Path]:
    """Give the directories of the machines that a test run has not stopped; see RUN_VARIABLE."""
    return [path.parent for path in Path("/tmp").glob("dt-machine-*/run") if path.read_text() == run]


def clear(directory: Path) -> None:
    """Remove what a machine whose first process was killed leaves: its cgroups and its directory.

    :raises MachineError: its other processes are still there after 20 seconds.
    """
    end = time.monotonic() + 20
    while not all(map(remove, _cgroups(directory))):
        if time.monotonic() > end:
            raise MachineError(f"the cgroups {_cgroups(directory)} can't be removed")
        time.sleep(0.05)
    shutil.rmtree(directory)


def _cgroups(directory: Path) -> list[Path]:
    return [top for each in hierarchies() if (top := each.path / f"docker-tracker-{directory.name}").exists()]
