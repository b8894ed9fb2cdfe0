"""What the configuration says of jobs' ends: the tables [reap] and [reconcile]. Configuration's layer."""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from docker_tracker.errors import RefusedError
from docker_tracker.job import Keep

_DAY: Final = 86400.0
_LEAST_GRACE: Final = 60.0  # a create that is slower than this is a create whose client has given up


def _seconds(low: float, high: float) -> Any:
    def check(_: object, field: attrs.Attribute[float], value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"{field.name.replace('_', '-')} must be from {low:g} to {high:g}, not {value:g}")

    return check


def _rules(_: object, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for rule in value:
        try:
            Keep.of(rule)
        except RefusedError as error:
            raise ValueError(str(error)) from error


def _expression(_: object, field: attrs.Attribute[str], value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{field.name.replace('_', '-')} is no regular expression: {error}") from error


def _absolute(_: object, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for path in value:
        if not path.startswith("/"):
            raise ValueError(f"{field.name} must be absolute paths, and {path!r} is none")


@attrs.frozen
class ReapSettings:
    """The table [reap]: how a job's things are removed.

    :ivar seconds: In all; what is left then makes the job failed, and is tried again by the reconciler.
    :ivar stop_seconds: For a container that has no stop time-out of its own.
    :ivar keep: What outlives every job: rules ``KIND:PATTERN``.
    :ivar retain_days: The longest that a client may keep a thing by the label ``docker-tracker.retain``; 0: not at all.
    :ivar images: Whether images that jobs built, imported, loaded or committed are removed with them.
    :ivar pulled_images: Whether those that they pulled, and that were not there before, are too.
    :ivar hold_seconds: After a job's end, in which its images stay while other jobs have classic builds or loads under
        way, which could just be given them.
    :ivar drain_seconds: For exchanges in flight when a job ends.
    """

    seconds: float = attrs.field(default=300.0, validator=_seconds(1, _DAY))
    stop_seconds: float = attrs.field(default=10.0, validator=_seconds(0, _DAY))
    keep: tuple[str, ...] = attrs.field(default=(), validator=_rules)
    retain_days: float = attrs.field(default=7.0, validator=_seconds(0, 3650))
    images: bool = True
    pulled_images: bool = False
    hold_seconds: float = attrs.field(default=900.0, validator=_seconds(0, _DAY))
    drain_seconds: float = attrs.field(default=5.0, validator=_seconds(0, _DAY))


@attrs.frozen
class ReconcileSettings:
    """The table [reconcile]: how engine and ledger are compared.

    :ivar enabled: Whether it is done by itself; ``docker-tracker reconcile`` does it in any case.
    :ivar period: Seconds between two passes.
    :ivar creation_grace: Seconds that a thing must be old to be removed. Below 60 it is refused.
    :ivar dry_run: Whether it is only told what would be removed.
    :ivar mounts: Paths; a running container without labels of ours is taken for a job's if something at or below one of
        them is mounted, and ``name_pattern`` matches its name. For what was made before labels.
    :ivar name_pattern: A regular expression for the whole name; empty: no container is taken so.
    :ivar allow_short_grace: For tests: lets ``creation_grace`` be shorter.
    """

    enabled: bool = True
    period: float = attrs.field(default=300.0, validator=_seconds(1, 30 * _DAY))
    creation_grace: float = attrs.field(default=300.0, validator=_seconds(0, 30 * _DAY))
    dry_run: bool = False
    mounts: tuple[str, ...] = attrs.field(default=(), validator=_absolute)
    name_pattern: str = attrs.field(default="", validator=_expression)
    allow_short_grace: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse what would remove containers that are being made."""
        if self.creation_grace < _LEAST_GRACE and not self.allow_short_grace:
            raise ValueError(f"creation-grace must be at least {_LEAST_GRACE:g}, not {self.creation_grace:g}")
        if bool(self.mounts) != bool(self.name_pattern):
            raise ValueError("mounts and name-pattern need each other: both must hold for a container")
