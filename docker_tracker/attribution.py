"""Which job a client of a shared socket belongs to, by the operator's rules about its process.

Rules look at the process that connected, then at its parents; the first rule that finds a job that is open wins. What
a process says of itself, in its environment, chooses only among jobs of its own user. Layer: beside the interceptors'
base.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import attrs

from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.exchange import Peer
from docker_tracker.interfaces import IJob
from docker_tracker.job import JobState, Process, check_name
from docker_tracker.processes import PROC, identify, read, status, uid
from docker_tracker.sources import check_keys

_KEYS: Final = ("job", "uid", "cgroup", "environment")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE: Final = "{value}"
_DEEPEST: Final = 32  # parents that are looked at
_LONGEST: Final = 1024 * 1024  # bytes of an environment that are read
_MOST_KNOWN: Final = 4096  # processes that are remembered


@attrs.define(slots=False)
class _Seen:
    """A process as rules look at it; each part is read when a rule first asks for it."""

    pid: int
    proc: Path

    @cached_property
    def uid(self) -> int | None:
        return uid(self.pid, self.proc)

    @cached_property
    def cgroups(self) -> list[str]:
        lines = read(self.proc / str(self.pid) / "cgroup").decode("utf-8", "replace").splitlines()
        return [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]

    @cached_property
    def environment(self) -> dict[str, str]:
        raw = read(self.proc / str(self.pid) / "environ", _LONGEST).decode("utf-8", "replace")
        return dict(entry.split("=", 1) for entry in raw.split("\0") if "=" in entry)


@attrs.frozen(kw_only=True)
class Rule:
    """One table [[attribute]]; all that it names must hold of one process.

    :ivar job: The job's name; ``{value}`` in it is the variable's value, else what follows the cgroup's prefix up to
        the next slash, else the uid.
    :ivar uid: Of the process.
    :ivar cgroup: How the process's cgroup begins; whole components, unless ``job`` has ``{value}``.
    :ivar environment: The name of a variable that the process has.
    """

    job: str
    uid: int | None = None
    cgroup: str = ""
    environment: str = ""

    @classmethod
    def of(cls, table: Any, where: str) -> Rule:
        """Read a table of the configuration.

        :raises ConfigurationError: it is no rule; names the key.
        """
        if not isinstance(table, Mapping):
            raise ConfigurationError(where, "must be a table")
        check_keys(table, _KEYS, f"{where}: ")
        for key in ("job", "cgroup", "environment"):
            if not isinstance(table.get(key, ""), str):
                raise ConfigurationError(f"{where}: {key}", "must be a string")
        rule = cls(**table) if "job" in table else cls(job="", **table)
        rule._check(where)
        return rule

    def _check(self, where: str) -> None:
        try:
            check_name(self.job.replace(_VALUE, "0"))
        except RefusedError as error:
            raise ConfigurationError(
                f"{where}: job", f"{self.job!r} is not a job's name, in which {{value}} may stand"
            ) from error
        if self.uid is not None and (type(self.uid) is not int or self.uid < 0):
            raise ConfigurationError(f"{where}: uid", f"{self.uid!r} is not the number of a user")
        if self.cgroup and not self.cgroup.startswith("/"):
            raise ConfigurationError(f"{where}: cgroup", f"{self.cgroup!r} must begin with a slash")
        if self.environment and not _VARIABLE.fullmatch(self.environment):
            raise ConfigurationError(f"{where}: environment", f"{self.environment!r} is not the name of a variable")
        if self.uid is None and not self.cgroup and not self.environment:
            raise ConfigurationError(where, "needs at least one of uid, cgroup and environment")

    def name(self, seen: _Seen) -> str:
        """Return the name of the job that a process belongs to, or the empty string."""
        value = ""
        if self.uid is not None:
            if seen.uid != self.uid:
                return ""
            value = str(self.uid)
        if self.cgroup:
            value = self._below(seen.cgroups)
            if not value:
                return ""
        if self.environment:
            value = seen.environment.get(self.environment, "")
            if not value:
                return ""
        try:
            return check_name(self.job.replace(_VALUE, value))
        except RefusedError:  # what the process has there makes no name: it means no job
            return ""

    def _below(self, cgroups: Iterable[str]) -> str:
        """Return what follows the prefix in the first cgroup that has it (something, whatever it is), or nothing."""
        for cgroup in cgroups:
            if _VALUE not in self.job or self.environment:
                whole = self.cgroup.rstrip("/")
                if cgroup == whole or cgroup.startswith(f"{whole}/"):
                    return cgroup
            elif cgroup.startswith(self.cgroup):
                value = cgroup[len(self.cgroup) :].partition("/")[0]
                if value:
                    return value
        return ""


class Attribution:
    """The rules, and what they said of processes that were seen before.

    :param tables: Of the configuration, in order.
    :param proc: Where the kernel's process files are.
    :raises ConfigurationError: one of them is no rule.
    """

    def __init__(self, tables: Sequence[Any] = (), proc: Path = PROC) -> None:
        self.rules = tuple(Rule.of(table, f"attribute {number}") for number, table in enumerate(tables, 1))
        self._proc = proc
        self._known: dict[Process, tuple[tuple[str, bool], ...]] = {}

    def choose(self, peer: Peer, jobs: Iterable[IJob]) -> IJob | None:
        """Return the job that a client belongs to; None: no rule says so, or its process is not known.

        :param jobs: All that may be chosen; those that are not open never are.
        """
        process = identify(peer, self._proc) if self.rules else None
        if process is None:
            return None
        named = self._named(process)
        if not named:
            return None
        by_name = {job.name: job for job in jobs if job.state is JobState.OPEN}
        for name, told in named:
            job = by_name.get(name)
            if job is not None and (not told or _owner(job) == peer.uid):
                return job
        return None

    def _named(self, process: Process) -> tuple[tuple[str, bool], ...]:
        """Return the names that the rules give, in order, and whether the process's environment had a say in each."""
        found = self._known.pop(process, None)
        if found is None:
            chain = list(_line(process, self._proc))
            pairs = ((rule.name(seen), bool(rule.environment)) for rule in self.rules for seen in chain)
            found = tuple(dict.fromkeys(pair for pair in pairs if pair[0]))
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
        self._known[process] = found  # at the end: it was asked for last
        return found


def _owner(job: IJob) -> int:
    return os.geteuid() if job.owner is None else job.owner


def _line(process: Process, proc: Path) -> Iterator[_Seen]:
    """Return a process, its parent, and so on."""
    pid, started = process.pid, process.started
    for _ in range(_DEEPEST):
        found = status(pid, proc)
        if found is None or found.started > started:  # younger than its child: the number is another's by now
            return
        yield _Seen(pid, proc)
        if not found.parent:
            return
        pid, started = found.parent, found.started
