"""The values that jobs are made of: what is asked for, what the ledger keeps, and what a reap did.

Above `docker_tracker.errors`, below the interfaces; opens nothing.
"""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from docker_tracker.errors import RefusedError

DEFAULT: Final = "default"
"""The name of the job that owns what comes in by the listeners of the configuration; it never ends."""

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_SLICE: Final = re.compile(r"(?:-|[a-zA-Z0-9_.\\]+(?:-[a-zA-Z0-9_.\\]+)*)\.slice")
_MOST_PART: Final = 255  # bytes of a file's name, and of a unit's
_MOST_SECONDS: Final = 10 * 365 * 86400.0
_MOST_TEXT: Final = 4096
_MOST_ENTRIES: Final = 200
_MOST_ID: Final = 2**32 - 2  # of users and groups: the next one means none (chown(2))
_MOST_PID: Final = 2**31 - 1


class JobState(enum.Enum):
    """Where a job stands in its life."""

    OPEN = "open"  #: its sockets accept clients
    DRAINING = "draining"  #: it accepts nobody any more; exchanges in flight may finish for a while
    REAPING = "reaping"  #: what it made is being removed
    GONE = "gone"  #: nothing of it is left
    FAILED = "failed"  #: something of it is left, and it is said what and why; it is tried again


def check_name(name: str) -> str:
    """Return a job's name.

    :raises RefusedError: it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = name[:80] if isinstance(name, str) else name
        raise RefusedError(
            f"{shown!r} is not a job's name: 1 to 63 letters, digits, '_', '.' or '-', a letter or digit first"
        )
    return name


def check_cgroup_parent(parent: str) -> str:
    """Return a cgroup parent: a path, a slice's name, or one of the words ``self`` and ``caller``.

    Engines take it as it is: runc joins ``..`` to the directory of every hierarchy, and makes what that leads to.

    :raises RefusedError: it is none.
    """
    if len(parent) > _MOST_TEXT or not parent.isprintable() or parent != parent.strip():
        problem = "it is too long, or has control characters or space around it"
    elif "/" not in parent and parent.endswith(".slice"):
        problem = (
            "" if is_slice(parent) else "a slice's name has letters, digits, '_', '.', and single '-' between them"
        )
    elif not parent:
        problem = "it is empty"
    elif parent == "/":
        problem = ""
    else:
        parts = parent.removeprefix("/").split("/")
        problem = "" if {"", ".", ".."}.isdisjoint(parts) else "a path has no '.', no '..' and no empty parts"
        if any(len(part.encode("utf-8", "replace")) > _MOST_PART for part in parts):
            problem = f"a part of a path has at most {_MOST_PART} bytes"
        if not problem and " " in parent and not parent.startswith("/"):
            problem = "these are several words"
    if problem:
        raise RefusedError(
            f"{parent[:80]!r} is not a cgroup parent: {problem}; write /PATH, NAME.slice, self or caller"
        )
    return parent


def is_slice(parent: str) -> bool:
    """Whether a text is the name of a slice, as systemd has them (systemd.slice(5), systemd.unit(5)).

    Without the colon that systemd allows: engines and runc take that for the end of the name.
    """
    return len(parent) <= _MOST_PART and _SLICE.fullmatch(parent) is not None


@attrs.frozen(kw_only=True)
class Process:
    """A process, so that no other one that gets its number later is taken for it.

    :ivar pid: Its number as we see it.
    :ivar started: Clock ticks since the boot (field 22 of ``/proc/PID/stat``).
    :ivar boot: The boot's ID (``/proc/sys/kernel/random/boot_id``).
    """

    pid: int
    started: int
    boot: str


@attrs.frozen(kw_only=True)
class Ends:
    """What ends a job, whichever comes first. None of them: only ``job end`` does.

    :ivar process: The process whose end it is; in a request only its pid is known.
    :ivar container: The container whose end it is, by any reference; once the job is made, by its full ID.
    :ivar ttl: Seconds after the job was made.
    :ivar idle: Seconds without a connected client.
    :ivar lease: Seconds after the last connection that held the job's lease was lost; the same time is given to take
        the first one, and to come back after a restart of the tracker.
    """

    process: Process | None = None
    container: str = ""
    ttl: float | None = None
    idle: float | None = None
    lease: float | None = None


@attrs.frozen
class Keep:
    """A rule for what outlives its job: by kind and pattern of its name.

    :ivar kind: ``volume``; ``*`` for all.
    :ivar pattern: As for file names: ``cache-*``.
    """

    kind: str
    pattern: str

    @classmethod
    def of(cls, text: str) -> Keep:
        """Read ``volume:cache-*``.

        :raises RefusedError: it is no such rule.
        """
        kind, colon, pattern = text.partition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not pattern or kind not in KEPT_KINDS:
            raise RefusedError(
                f"{str(text)[:80]!r} is not a rule for what is kept: write KIND:PATTERN with one of "
                f"{', '.join(KEPT_KINDS)} as the kind, as in volume:cache-*"
            )
        return cls(kind, pattern)

    def __str__(self) -> str:
        return f"{self.kind}:{self.pattern}"

    def holds(self, kind: str, name: str) -> bool:
        """Whether something is to be kept."""
        return self.kind in ("*", kind) and fnmatch.fnmatchcase(name, self.pattern)


KEPT_KINDS: Final = ("container", "network", "volume", "image", "service", "secret", "config", "plugin", "*")


@attrs.frozen(kw_only=True)
class JobRequest:
    """What a job is to be.

    :ivar name: For people; may come back once the job has ended.
    :ivar labels: Its own, beside the operator's.
    :ivar cgroup_parent: As the option ``cgroup-parent``; None: as the daemon's setting.
    :ivar own_cgroup: Whether it gets a cgroup of its own, which its containers are put into.
    :ivar interceptors: Tables over those of the configuration: ``{"labels": {"image-labels": "full"}}``.
    :ivar mode: Of its socket's file.
    :ivar user, group: Owners of its socket's file; None: the caller's. Names or numbers.
    :ivar listen: Further addresses, as in the configuration: text or tables.
    :ivar container: The container that its client runs in (a CI agent's), by any reference, or the empty string.
    :ivar ends: What ends it.
    :ivar keep: What outlives it, beside what the configuration keeps.
    :ivar keep_on_failure: For so many seconds its things are kept, its containers paused, if it ends as failed.
    """

    name: str
    labels: Mapping[str, str] = attrs.field(factory=dict)
    cgroup_parent: str | None = None
    own_cgroup: bool = False
    interceptors: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    mode: int = 0o600
    user: str | None = None
    group: str | None = None
    listen: tuple[Any, ...] = ()
    container: str = ""
    ends: Ends = attrs.field(factory=Ends)
    keep: tuple[Keep, ...] = ()
    keep_on_failure: float | None = None

    @classmethod
    def of(cls, table: Any, *, kept: bool = False) -> JobRequest:
        """Read what the control API's clients send; see `table`.

        :param kept: It is what the ledger has: a job that was made is not lost for what is refused by now.
        :raises RefusedError: a key is unknown, or a value wrong; it says which and what would be right.
        """
        given = _table(table, "the job", (*_KEYS, "ends"))
        given = {key: value for key, value in given.items() if value is not None}
        read: dict[str, Any] = {key: _KEYS[key](value, key) for key, value in given.items() if key != "ends"}
        if read.get("cgroup_parent") is not None and not kept:
            check_cgroup_parent(read["cgroup_parent"])
        if "name" not in read:
            raise RefusedError("the job has no name")
        if "ends" in given:
            read["ends"] = _ends(given["ends"])
        return cls(**read)

    def table(self) -> dict[str, Any]:
        """Return it as JSON has it: `of` reads it back as the same."""
        ends = attrs.asdict(self.ends)
        return {
            "name": self.name,
            "labels": dict(self.labels),
            "cgroup_parent": self.cgroup_parent,
            "own_cgroup": self.own_cgroup,
            "interceptors": {name: dict(table) for name, table in self.interceptors.items()},
            "mode": f"{self.mode:04o}",
            "user": self.user,
            "group": self.group,
            "listen": list(self.listen),
            "container": self.container,
            "ends": {name: value for name, value in ends.items() if value not in (None, "")},
            "keep": [str(rule) for rule in self.keep],
            "keep_on_failure": self.keep_on_failure,
        }


@attrs.frozen(kw_only=True)
class ReapItem:
    """What became of one thing when its job was reaped.

    :ivar kind, identifier, name: As in `docker_tracker.records.Resource`.
    :ivar outcome: ``removed``; ``would remove`` (dry run); ``kept`` (a rule, a label); ``left`` (could not be removed).
    :ivar reason: Why it was kept or left, in a sentence; else the empty string.
    :ivar attributes: What is known of who asked for it.
    """

    kind: str
    identifier: str
    name: str = ""
    outcome: str = "removed"
    reason: str = ""
    attributes: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class ReapReport:
    """What a reap did.

    :ivar job_id, job: Whose things they were.
    :ivar dry_run: Whether nothing was removed.
    :ivar began: Seconds since the epoch.
    :ivar seconds: How long it took.
    :ivar passes: How many full listings it took.
    :ivar items: One for each thing.
    :ivar problem: What kept the reap from its end (no engine, out of time), or the empty string.
    :ivar shared: Whether it kept images for others, who may be gone soon; of this process's reports only.
    """

    job_id: str
    job: str
    dry_run: bool = False
    began: float = 0.0
    seconds: float = 0.0
    passes: int = 0
    items: tuple[ReapItem, ...] = ()
    problem: str = ""
    shared: bool = attrs.field(default=False, eq=False)

    @property
    def left(self) -> tuple[ReapItem, ...]:
        """What could not be removed."""
        return tuple(item for item in self.items if item.outcome == "left")

    @property
    def complete(self) -> bool:
        """Whether nothing is left that was to go."""
        return not self.problem and not self.left

    def table(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        table = attrs.asdict(self, filter=lambda attribute, _: attribute.name != "shared")
        return {**table, "items": [attrs.asdict(item) for item in self.items]}

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> ReapReport:
        """Read back what `table` gave."""
        return cls(**{**table, "items": tuple(ReapItem(**item) for item in table["items"])})


def _table(value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RefusedError(f"{where} must be an object")
    for key in value:
        if key not in known:
            raise RefusedError(f"{where} has no {str(key)[:80]!r}: there are {', '.join(known)}")
    return dict(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT or "\0" in value:
        raise RefusedError(f"{where} must be a text of at most {_MOST_TEXT} characters")
    return value


def _owner(value: Any, where: str) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value, where)
    if not text or text.startswith("-"):
        raise RefusedError(f"{where} must be a name or a number, not {text!r}")
    if text.isdigit() and not (text.isascii() and len(text) <= 10 and int(text) <= _MOST_ID):
        raise RefusedError(f"{where} must be a name or a number up to {_MOST_ID}, not {text[:80]!r}")
    return text


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise RefusedError(f"{where} must be true or false")
    return value


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_SECONDS:
        raise RefusedError(f"{where} must be a number of seconds from 0 to {_MOST_SECONDS:.0f}")
    return float(value)


def _mode(value: Any, where: str) -> int:
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise RefusedError(f'{where} must be octal digits as text: "0600" or "600"')
    return int(value, 8)


def _labels(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > _MOST_ENTRIES:
        raise RefusedError(f"{where} must be an object with at most {_MOST_ENTRIES} texts")
    for name in value:
        if not name or name.casefold().startswith("docker-tracker."):
            raise RefusedError(f"{where}: {name[:80]!r} cannot be a job's own label: docker-tracker. is the tracker's")
    return {_text(name, where): _text(text, f"{where}.{name[:80]}") for name, text in value.items()}


def _tables(value: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, Mapping) or not all(isinstance(table, Mapping) for table in value.values()):
        raise RefusedError(f"{where} must be an object of objects, by the interceptors' names")
    return {_text(name, where): dict(table) for name, table in value.items()}


def _list(value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > _MOST_ENTRIES:
        raise RefusedError(f"{where} must be an array with at most {_MOST_ENTRIES} entries")
    return tuple(value)


def _keep(value: Any, where: str) -> tuple[Keep, ...]:
    return tuple(Keep.of(rule) for rule in _list(value, where))


_KEYS: Final[Mapping[str, Any]] = {
    "name": lambda value, where: check_name(value),
    "labels": _labels,
    "cgroup_parent": _text,
    "own_cgroup": _truth,
    "interceptors": _tables,
    "mode": _mode,
    "user": _owner,
    "group": _owner,
    "listen": _list,
    "container": _text,
    "keep": _keep,
    "keep_on_failure": _seconds,
}


def _ends(value: Any) -> Ends:
    given = _table(value, "ends", ("process", "container", "ttl", "idle", "lease"))
    given = {key: each for key, each in given.items() if each is not None}
    read: dict[str, Any] = {
        key: _seconds(given[key], f"ends.{key}") for key in ("ttl", "idle", "lease") if key in given
    }
    if "container" in given:
        read["container"] = _text(given["container"], "ends.container")
    if "process" in given:
        read["process"] = _process(given["process"])
    return Ends(**read)


def _process(value: Any) -> Process:
    """Read a pid, or what we have written ourselves."""
    if isinstance(value, Mapping):
        table = _table(value, "ends.process", ("pid", "started", "boot"))
        pid, started, boot = table.get("pid"), table.get("started", 0), table.get("boot", "")
    else:
        pid, started, boot = value, 0, ""
    if type(pid) is not int or type(started) is not int or not 1 <= pid <= _MOST_PID:
        raise RefusedError("ends.process must be the number of a process")
    return Process(pid=pid, started=started, boot=_text(boot, "ends.process.boot"))
