"""Which container this very process is in, and under which cgroup the engine put that.

What a container's own files say was observed on dockerd: ``/etc/hostname`` and its like are mounted from
``…/containers/ID/``, with every cgroup version and name space; ``/proc/self/cgroup`` ends with the ID only where
the cgroup name space is the host's. Layer: beside the interceptors' base.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import attrs

from docker_tracker.errors import RefusedError
from docker_tracker.interfaces import IEngine

_MOUNTED: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) /etc/")
_IN_CGROUP: Final = re.compile(r"[/-]([0-9a-f]{64})(?:\.scope)?$", re.MULTILINE)
_ADVICE: Final = "set cgroup-parent to a cgroup by name"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:  # another's process, or it is gone, or this is no Linux: nothing is found in it
        return ""


def _refuse(problem: str) -> RefusedError:
    return RefusedError(f"the tracker's cgroup-parent is self, but {problem}; {_ADVICE}", 500)


@attrs.frozen
class OwnContainer:
    """Looks for the container that this process is in.

    :ivar proc: Where the kernel's process files are.
    """

    engine: IEngine
    proc: Path

    def identifiers(self) -> list[str]:
        """Return the IDs that may be our container's, the likeliest first."""
        mounted = _MOUNTED.findall(_read(self.proc / "self/mountinfo"))
        # In a container within a container the outer one's ID stands first.
        in_cgroup = reversed(_IN_CGROUP.findall(_read(self.proc / "self/cgroup")))
        return list(dict.fromkeys((*mounted, *in_cgroup)))

    async def cgroup_parent(self, systemd: bool) -> str:
        """Return the cgroup parent of our container.

        :param systemd: Whether the engine's cgroup driver is that: then a parent is a slice's name, else a path.
        :raises RefusedError: we are in no container, or in one that tells nothing of its cgroup.
        :raises docker_tracker.errors.EngineError: the engine could not be asked.
        """
        found = await self._found()
        if found is not None:
            return _configured(found[1]) or self._actual(*found, systemd)
        identifiers = self.identifiers()
        if not identifiers:
            raise _refuse("it runs in no container")
        raise _refuse(f"its container {identifiers[0][:12]} is not one of this engine's")

    async def hides_cgroups(self) -> bool:
        """Whether our container has a cgroup name space of its own, so that the engine's paths are others in it.

        :raises docker_tracker.errors.EngineError: the engine could not be asked.
        """
        found = await self._found()
        return found is not None and _of_host_config(found[1], "CgroupnsMode") == "private"

    async def _found(self) -> tuple[str, dict[str, Any]] | None:
        """Return our container's ID, and what the engine says of it; None: it is in none of this engine's."""
        for identifier in self.identifiers():
            container = await self.engine.get(f"/containers/{identifier}/json")
            if isinstance(container, dict):
                return identifier, container
        return None

    def _actual(self, identifier: str, container: dict[str, Any], systemd: bool) -> str:
        """Return where a container is that was created without a parent, so that the engine took its default."""
        state = container.get("State")
        pid = state.get("Pid") if isinstance(state, dict) else None
        for line in _read(self.proc / str(pid) / "cgroup").splitlines():
            # Not each process of that number is the container's: in another PID name space it is anybody.
            above, found, _ = line.partition(":")[2].partition(":")[2].partition(identifier)
            if found:
                parent = above.rpartition("/")[0]
                if systemd:
                    parent = parent.rpartition("/")[2]
                if parent and ".." not in parent.split("/"):  # seen from within a cgroup name space
                    return parent
        raise _refuse(
            f"the cgroup of its container {identifier[:12]} is not seen from within:"
            " start the container with --cgroup-parent, or with --pid=host and --cgroupns=host"
        )


def _configured(container: dict[str, Any]) -> str:
    return _of_host_config(container, "CgroupParent")


def _of_host_config(container: dict[str, Any], key: str) -> str:
    host_config = container.get("HostConfig")
    value = host_config.get(key) if isinstance(host_config, dict) else None
    return value if isinstance(value, str) else ""
