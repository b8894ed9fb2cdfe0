"""The values that the ledger keeps: intents and resources. Below the interfaces; imports nothing of ours."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs


class Relation(enum.Enum):
    """What a job has to do with a resource."""

    MADE = "made"  #: the job's own: removed with it
    USED = "used"  #: it was there before, was pulled, or another job made it: never removed with this one


class State(enum.Enum):
    """What became of an intent."""

    OPEN = "open"  #: its exchange is in flight
    DONE = "done"  #: the engine did it, and what it made is recorded
    FAILED = "failed"  #: nothing was made
    LOST = "lost"  #: nobody saw the answer: the engine has to be looked at


# A kind of resource and a name or ID of one: ("volume", "cache").
Reference = tuple[str, str]
#: What an intent's operation is for pulls whose images are nobody's; others are named as in the catalogue.
PULL: Final = "image_pull"
# Stands in `Intent.before` if that has all images of the engine: what is not in it was not there.
ALL_IMAGES: Final[Reference] = ("image", "*")


def moment(seconds: float | None) -> str | None:
    """Return a time as JSON has it: ISO 8601, UTC, to the millisecond; None stays.

    :param seconds: Since the epoch.
    """
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@attrs.frozen(kw_only=True)
class Intent:
    """A create that is about to be forwarded, or was.

    :ivar job_id: Whose it is.
    :ivar operation: Its name in the catalogue.
    :ivar kind: What it makes.
    :ivar names: What the client named, implicit volumes included.
    :ivar before: What a look at the engine found there before the request was forwarded.
    :ivar exchange: The exchange's number, for the logs.
    :ivar number: Given by the ledger; 0 before.
    :ivar started: When it was written down, in seconds since the epoch.
    :ivar state: What became of it.
    :ivar settled: When that was known (for LOST: when it was lost), in seconds since the epoch, or None.
    """

    job_id: str
    operation: str
    kind: str
    names: tuple[Reference, ...] = ()
    before: tuple[Reference, ...] = ()
    exchange: int = 0
    number: int = 0
    started: float = 0.0
    state: State = State.OPEN
    settled: float | None = None

    def led_to(self, kind: str, identifier: str, *, labelled: bool = False, **more: Any) -> Resource:
        """Return a resource that this led to: used if it was there before or is an image that was pulled, else made.

        Where the engine's images were not listed before, one that was not asked for by name counts as made only if it
        bears the job's label; its age tells nothing, as a build from the cache may lead to anybody's.

        :param labelled: Whether an image bears the label of this intent's job.
        """
        reference = (kind, identifier)
        used = reference in self.before or (kind == "image" and self.operation == PULL)
        if kind == "image" and reference not in self.names and ALL_IMAGES not in self.before:
            used |= not labelled
        return Resource(
            kind=kind, identifier=identifier, **{"relation": Relation.USED if used else Relation.MADE, **more}
        )


@attrs.frozen(kw_only=True)
class Resource:
    """Something on the engine that a job made or used.

    :ivar kind: As in the catalogue: ``container``.
    :ivar identifier: The engine's ID; a volume's and a plugin's name; an image's ID, or one of its tags.
    :ivar name: What people call it, or the empty string.
    :ivar relation: Made or used.
    :ivar parent: The container of an exec, the image of a tag; else the empty string.
    :ivar attributes: What else is known, who asked for one.
    :ivar job_id, intent, created, removed: Filled in by the ledger: whose it is, the intent that last led to it,
        when it was recorded and when it was seen to be gone (seconds since the epoch, None: it exists).
    :ivar number: The ledger's own.
    """

    kind: str
    identifier: str
    name: str = ""
    relation: Relation = Relation.MADE
    parent: str = ""
    attributes: Mapping[str, str] = attrs.field(factory=dict)
    job_id: str = ""
    intent: int = 0
    created: float = 0.0
    removed: float | None = None
    number: int = 0

    def table(self) -> dict[str, Any]:
        """Return it as JSON has it, without whose it is."""
        return {
            "kind": self.kind,
            "id": self.identifier,
            "name": self.name,
            "relation": self.relation.value,
            "parent": self.parent,
            "created": moment(self.created or None),
            "removed": moment(self.removed),
            "attributes": dict(self.attributes),
        }
