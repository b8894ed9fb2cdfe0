"""The cgroup of a job's own: made when it is, removed when nothing is in it any more. Layer: above the cgroups.

With the engine's driver cgroupfs it is a directory, which the engine would make, too; with systemd it is a slice, for
which systemd's own commands are used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLateError
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from docker_tracker import cgroups
from docker_tracker.errors import RefusedError
from docker_tracker.job import Process
from docker_tracker.processes import PROC, status, uid

#: Below the job's cgroup: where its client's processes go. Version 2 takes none where there are cgroups below.
_CLIENT: Final = "client"
#: How long is waited between the tries to remove it, in seconds.
_DELAYS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_COMMAND_SECONDS: Final = 30.0  # that one of systemd's commands may take; it is not waited for any longer


class ICgroupReactor(IReactorTime, IReactorProcess):
    """What is needed of a reactor."""


@attrs.frozen
class JobCgroup:
    """A job's own cgroup.

    :ivar systemd: Whether the engine's cgroup driver is that (``CgroupDriver`` in its ``/info``).
    :ivar proc: Where the kernel's process files are.
    :ivar unified: Whether the engine uses version 2, as `cgroups.uses_version_2` gave it.
    """

    reactor: ICgroupReactor
    job_id: str
    systemd: bool
    proc: Path = PROC
    unified: bool | None = None

    @property
    def parent(self) -> str:
        """What the engine calls it."""
        return cgroups.own_parent(self.job_id, self.systemd)

    def _directories(self, controlled: bool = True) -> list[Path]:
        return cgroups.own_directories(self.job_id, self.proc, controlled=controlled, unified=self.unified)

    async def make(self) -> None:
        """Make it; if it is there already, nothing changes.

        :raises RefusedError: it may not be made by us, or cannot be; the engine may still do so.
        """
        if self.systemd:
            await self._command("systemctl", "start", self.parent)
            return
        directories = self._directories()
        if not directories:
            raise RefusedError("a cgroup of the job's own cannot be made: no hierarchy of cgroups is mounted here", 500)
        try:
            for directory in directories:
                cgroups.make(directory / _CLIENT)
        except OSError as error:
            await self._try()  # what was made already
            raise RefusedError(f"a cgroup of the job's own cannot be made: {error}", 500) from error

    async def enter(self, process: Process, owner: int | None) -> None:
        """Put a process into it, and all that it will start; `make` was called.

        :param owner: The uid of who asks for it: nobody but root may move the processes of others. None: the daemon.
        :raises RefusedError: it may not be put there, or has ended.
        """
        pid, now = process.pid, status(process.pid, self.proc)
        if now is None or now.started != process.started:
            raise RefusedError(f"process {pid} cannot be put into the job's cgroup: it has ended", 409)
        if owner not in (None, 0, uid(pid, self.proc)):
            raise RefusedError(f"process {pid} cannot be put into the job's cgroup: it is another user's", 403)
        if self.systemd:
            name = f"{self.parent.removesuffix('.slice')}-client-{pid}.scope"
            properties = ("2", "Slice", "s", self.parent, "PIDs", "au", "1", str(pid), "0")
            manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
            call = ("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", *properties)
            await self._command("busctl", "call", *manager, *call)
            # That is begun, not done, and what the process starts before would stay outside: this waits for its end.
            await self._command("systemctl", "start", name)
            return
        try:
            for directory in self._directories():
                cgroups.enter(directory / _CLIENT, pid)
        except OSError as error:
            raise RefusedError(f"process {pid} cannot be put into the job's cgroup: {error}", 500) from error

    async def remove(self) -> list[str]:
        """Remove it, after the job's things are; tries again for some minutes: its client may be in it. Never raises.

        :return: What could not be removed, each with the reason.
        """
        left = await self._try()
        for delay in _DELAYS:
            if not left:
                break
            await deferLater(self.reactor, delay)
            left = await self._try()
        return left

    def sweep(self) -> Deferred[None]:
        """Remove what an earlier process did not come to, whatever the driver was, as far as that goes now.

        :return: Fires when that is done; nobody need wait.
        """
        return Deferred.fromCoroutine(self._sweep())

    async def _sweep(self) -> None:
        for directory in self._directories(controlled=False):
            with contextlib.suppress(OSError):  # at the next start, then
                cgroups.remove(directory)
        own = attrs.evolve(self, systemd=True)
        below = cgroups.slice_path(own.parent)
        if any((each.path / below).exists() for each in cgroups.hierarchies(self.proc)):
            await own._stop()

    async def _try(self) -> list[str]:
        if self.systemd:
            return await self._stop()
        return _remove(self._directories(controlled=False))

    async def _stop(self) -> list[str]:
        """Stop the slice, if nothing runs in it: systemd would kill that."""
        try:
            path = await self._command("systemctl", "show", "--property=ControlGroup", "--value", self.parent)
            below = path.strip().lstrip("/") or cgroups.slice_path(self.parent)
            directories = [each.path / below for each in cgroups.hierarchies(self.proc)]
            for directory in directories:
                if not cgroups.is_empty(directory):
                    return [f"{directory}: processes are in it"]
            await self._command("systemctl", "stop", self.parent)
        except RefusedError as error:
            return [f"{self.parent}: {error.message}"]
        # In hierarchies of version 1 that systemd does not use (cpuset, freezer) runc has made it, and leaves it.
        return _remove(directories)

    async def _command(self, name: str, *arguments: str) -> str:
        program = shutil.which(name)
        if program is None:
            raise RefusedError(f"the job's slice needs systemd's command {name}, which is not installed", 500)
        user = () if os.geteuid() == 0 else ("--user",)
        running: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(  # type: ignore[no-untyped-call]
            program, [*user, *arguments], env=dict(os.environ), reactor=self.reactor
        )
        try:
            output, errors, code = await running.addTimeout(_COMMAND_SECONDS, self.reactor)
        except TooLateError:
            message = f"{name} {arguments[0]} {self.parent} did not end within {_COMMAND_SECONDS:g} s"
            raise RefusedError(message, 504) from None
        if code != 0:
            said = errors.decode("utf-8", "replace").strip()[:500]
            raise RefusedError(f"{name} {arguments[0]} {self.parent} failed: {said}", 500)
        return str(output.decode("utf-8", "replace"))


def _remove(directories: list[Path]) -> list[str]:
    """Remove cgroups; return what is left, each with the reason."""
    left = []
    for directory in directories:
        try:
            if not cgroups.remove(directory):
                left.append(f"{directory}: processes are in it")
        except OSError as error:
            left.append(f"{directory}: {error.strerror}")
    return left
