"""Control groups: where a process is, which parent its containers can have, and a group of a job's own.

Of version 1 there is a hierarchy for each controller, of version 2 one for all (cgroups(7)). Layer: above processes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from docker_tracker.errors import RefusedError
from docker_tracker.processes import PROC, read

#: What ``/proc/PID/cgroup`` calls the hierarchy of version 2, and systemd's own one of version 1.
UNIFIED: Final = ""
_SYSTEMD: Final = "name=systemd"
# Which controller tells where a process is, if they differ: the first that is not at the top.
_ORDER: Final = ("memory", "cpu", "cpuacct", "pids", "blkio", "cpuset")
_UNIT: Final = re.compile(r".*\.(?:slice|service|scope)")
_USER_MANAGER: Final = re.compile(r"user@\d+\.service")
_DELEGATED: Final = ("user.delegate", "trusted.delegate")  # extended attributes that systemd sets, as "1"
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
# The kernel's constant for the first cgroup name space (include/linux/proc_ns.h: PROC_CGROUP_INIT_INO).
_FIRST_NAME_SPACE: Final = "cgroup:[4026531835]"
_CPUSET: Final = ("cpuset.cpus", "cpuset.mems")


@attrs.frozen
class Hierarchy:
    """A mounted hierarchy.

    :ivar path: Where.
    :ivar controllers: Of version 1, named hierarchies by ``name=…``; empty for version 2.
    """

    path: Path
    controllers: frozenset[str]

    @property
    def unified(self) -> bool:
        """Whether it is that of version 2."""
        return not self.controllers


def hierarchies(proc: Path = PROC) -> list[Hierarchy]:
    """Return the hierarchies that are mounted as a whole, each once."""
    found: dict[frozenset[str], Hierarchy] = {}
    for line in read(proc / "self/mountinfo", 4 * 1024 * 1024).decode("utf-8", "replace").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options, *_) = before.split(" "), [*after.split(" "), "", "", ""]
        if kind not in ("cgroup", "cgroup2") or len(fields) < 5 or fields[3] != "/":
            continue
        flags = {"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods"}
        controllers = frozenset() if kind == "cgroup2" else frozenset(options.split(",")) - flags
        path = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        found.setdefault(controllers, Hierarchy(path, controllers))
    return list(found.values())


def memberships(pid: int, proc: Path = PROC) -> dict[str, str]:
    """Return the cgroup of a process by controller; empty: there is no such process."""
    found: dict[str, str] = {}
    for line in read(proc / str(pid) / "cgroup").decode("utf-8", "replace").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def is_version_1(names: Mapping[str, str]) -> bool:
    """Whether it is version 1 that controls resources, by what `memberships` gave."""
    return any(name != UNIFIED and not name.startswith("name=") for name in names)


def uses_version_2(info: Mapping[str, object]) -> bool | None:
    """Whether an engine does, by its ``/info``; None: it does not say (before API 1.41).

    What a process is in does not tell: a machine may have hierarchies of version 1 that the engine takes no notice of.
    """
    return {"1": False, "2": True}.get(str(info.get("CgroupVersion")))


def _refuse(problem: str) -> RefusedError:
    return RefusedError(f"the cgroup-parent is caller, but {problem}", 500)


def hidden() -> RefusedError:
    """Return the refusal of a tracker in a container that has cgroups of its own, where all paths are others."""
    return _refuse("the tracker does not see the host's cgroups: start its container with --cgroupns=host")


def caller_parent(
    pid: int, systemd: bool, *, unified: bool | None = None, rootless: bool = False, proc: Path = PROC
) -> str:
    """Return the cgroup parent for what a process has the engine make.

    :param systemd: Whether the engine's cgroup driver is that: then it is the nearest slice that the process is in,
        else its cgroup, or (version 2) the nearest one above it that containers can be put into.
    :param unified: Whether the engine uses version 2, as `uses_version_2` gave it.
    :param rootless: Whether the engine's systemd is the user's own.
    :raises RefusedError: there is none; says why.
    """
    if not _is_of_a_machine(proc):
        raise hidden()
    found = memberships(pid, proc)
    if not found:
        raise _refuse("the client's process has ended")
    if unified:
        found = {UNIFIED: found.get(UNIFIED, "/")}
    if systemd:
        return _slice(found.get(_SYSTEMD, found.get(UNIFIED, "")), rootless)
    if is_version_1(found):
        return _of_version_1(found)
    return _of_version_2(found.get(UNIFIED, "/"), proc)


def _is_of_a_machine(proc: Path) -> bool:
    """Whether our cgroup name space is the host's, or the one of a machine with systemd (of systemd-nspawn, LXC)."""
    try:
        own = os.readlink(proc / "self/ns/cgroup")
    except OSError:  # Linux before 4.6 has none of them
        return True
    if own == _FIRST_NAME_SPACE:
        return True
    try:
        return own == os.readlink(proc / "1/ns/cgroup") and read(proc / "1/comm") == b"systemd\n"
    except OSError:
        return False


def _slice(path: str, rootless: bool) -> str:
    parts = _parts(path)
    if rootless:
        while parts and not _USER_MANAGER.fullmatch(parts[0]):
            parts.pop(0)
        del parts[:1]
    nearest = ""
    for part in parts:  # slices below a service are another manager's: the engine's knows nothing of them
        if not part.endswith(".slice"):
            break
        nearest = part
    if not nearest:
        raise _refuse(f"its client is in no slice, but in {path or '/'}: start it in one, by systemd-run --slice")
    return nearest


def _of_version_1(found: Mapping[str, str]) -> str:
    controllers = [name for name in found if name != UNIFIED and not name.startswith("name=")]
    for name in sorted(controllers, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)):
        if _parts(found[name]):
            return found[name]
    raise _refuse("its client is in no cgroup of its own: every controller has it at the top")


def _of_version_2(path: str, proc: Path) -> str:
    parts = _parts(path)
    mounted = [each.path for each in hierarchies(proc) if each.unified]
    if not mounted:
        raise _refuse("the tracker does not see the hierarchy of cgroups: mount /sys/fs/cgroup")
    for length in range(len(parts), 0, -1):
        if _can_delegate(mounted[0], parts[:length]):
            return "/" + "/".join(parts[:length])
    raise _refuse(
        f"neither its client's cgroup {path} nor one above it can have containers: it needs one without processes"
        " of its own, of systemd's one with Delegate=yes and DelegateSubgroup="
    )


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    if ".." in parts or path.endswith(" (deleted)"):
        raise _refuse(f"its client's cgroup {path} is not one that the engine can find")
    return parts


def _can_delegate(mounted: Path, parts: list[str]) -> bool:
    """Say whether a cgroup can be divided: it has no processes of its own, and whoever manages it lets others do so."""
    directories = [mounted.joinpath(*parts[: number + 1]) for number in range(len(parts))]
    try:
        if (directories[-1] / "cgroup.procs").read_bytes():
            return False
    except OSError:  # it is gone, or threaded
        return False
    return not any(map(_UNIT.fullmatch, parts)) or any(map(_is_delegated, directories))


def _is_delegated(directory: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


# A job's own


def own_parent(job_id: str, systemd: bool) -> str:
    """Return the cgroup parent that is a job's own."""
    return f"docker-tracker-{job_id}.slice" if systemd else f"/docker-tracker/{job_id}"


def slice_path(name: str) -> str:
    """Return where systemd has a slice, below its top: ``a.slice/a-b.slice`` for ``a-b.slice`` (systemd.slice(5))."""
    parts = name.removesuffix(".slice").split("-")
    return "/".join(f"{'-'.join(parts[:number])}.slice" for number in range(1, len(parts) + 1))


def own_directories(
    job_id: str, proc: Path = PROC, *, controlled: bool = False, unified: bool | None = None
) -> list[Path]:
    """Return the directories of a job's own cgroup under the driver cgroupfs, whether they are there or not.

    The engine makes them in all hierarchies.

    :param controlled: Only where resources are controlled; by the others systemd knows whose its processes are.
    :param unified: Whether the engine uses version 2, as `uses_version_2` gave it.
    """
    found = hierarchies(proc)
    old = [each for each in found if any(not name.startswith("name=") for name in each.controllers)]
    if controlled:
        found = old if old and not unified else [each for each in found if each.unified]
    return [each.path / own_parent(job_id, False)[1:] for each in found]


def make(directory: Path) -> None:
    """Make a cgroup, and those above it, so that processes and further cgroups can be put into it.

    :raises OSError: it cannot be made.
    """
    for each in reversed([each for each in (directory, *directory.parents) if not each.exists()]):
        _enable(each.parent)
        each.mkdir(exist_ok=True)
        for name in _CPUSET:  # version 1: empty ones take no process
            if (each / name).exists() and not (each / name).read_bytes().strip():
                (each / name).write_bytes((each.parent / name).read_bytes())


def _enable(directory: Path) -> None:
    """Version 2: have the cgroups below one controlled, as far as that goes."""
    try:
        controllers = (directory / "cgroup.controllers").read_text().split()
    except OSError:  # version 1
        return
    for controller in controllers:
        # What the engine then lacks it says itself.
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def enter(directory: Path, pid: int) -> None:
    """Put a process into a cgroup.

    :raises OSError: it may not be, or has ended.
    """
    (directory / "cgroup.procs").write_text(f"{pid}\n")


def is_empty(directory: Path) -> bool:
    """Whether no process is in a cgroup or below it."""
    return not any(read(each / "cgroup.procs") for each in _below(directory))


def remove(directory: Path) -> bool:
    """Remove a cgroup and all below it; False: a process is still in one of them.

    :raises OSError: another reason.
    """
    for each in _below(directory):
        try:
            each.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            return False
    return True


def _below(directory: Path) -> Iterator[Path]:
    """Return a directory after all that are in it."""
    for path, _, _ in os.walk(directory, topdown=False):
        yield Path(path)
