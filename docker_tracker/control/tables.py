"""What the control API's answers are made of, as JSON has it. Layer: control.

The tables of fields are the schema: the reference shows them, and tests hold the answers against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from docker_tracker.interfaces import IJob
from docker_tracker.records import Resource, moment

JOB_FIELDS: Final = {
    "id": ("string", "Random, never used again."),
    "name": ("string", "For people; may come back once the job has ended."),
    "state": ("string", "``open``, ``draining``, ``reaping``, ``gone`` or ``failed``."),
    "owner": ("integer or null", "The uid of who made it; null: the daemon itself."),
    "socket": ("string", "The path of its unix socket; empty: it has none."),
    "created": ("string", "When it was made."),
    "ended": ("string or null", "When it stopped to accept clients."),
    "reason": ("string", "What ended it, in words."),
    "request": ("object", "What it was asked to be; see the body of ``POST /jobs``."),
    "report": ("object or null", "Of its last reap."),
    "env": ("object", "Variables for its clients: ``DOCKER_HOST``, if it has a socket."),
}
RESOURCE_FIELDS: Final = {
    "kind": ("string", "``container``, ``network``, ``volume``, ``image``, …"),
    "id": ("string", "The engine's ID; of a volume and a plugin its name."),
    "name": ("string", "What people call it, or empty."),
    "relation": (
        "string",
        "``made``: the job's own. ``used``: it was there before, and is never removed with the job.",
    ),
    "parent": ("string", "The container of an exec, the image of a tag, or empty."),
    "created": ("string or null", "When it was recorded."),
    "removed": ("string or null", "When it was seen to be gone; null: it exists."),
    "attributes": ("object", "What else is known, strings only."),
    "job_id": ("string", "Whose it is."),
}
EVENT_FIELDS: Final = {
    "number": ("integer", "Counts up; ``since`` takes it."),
    "time": ("string", "When it happened."),
    "event": ("string", "What happened."),
    "job_id": ("string or null", "The job it is about."),
    "job": ("string or null", "That job's name."),
    "data": ("object", "More of it; depends on the event."),
}
REPORT_FIELDS: Final = {
    "job_id": ("string", "Whose things they were."),
    "job": ("string", "That job's name."),
    "dry_run": ("boolean", "Whether nothing was removed."),
    "began": ("number", "Seconds since the epoch."),
    "seconds": ("number", "How long it took."),
    "passes": ("integer", "How many full listings it took."),
    "items": ("array", "One object for each thing."),
    "problem": ("string", "What kept it from its end, or empty."),
}
ITEM_FIELDS: Final = {
    "kind": ("string", "As a resource's."),
    "identifier": ("string", "As a resource's ``id``."),
    "name": ("string", "As a resource's."),
    "outcome": ("string", "``removed``; ``would remove``; ``kept``; ``left``: it could not be removed."),
    "reason": ("string", "Why it was kept or left, or empty."),
    "attributes": ("object", "What is known of who asked for it."),
}
WHY_FIELDS: Final = {
    "resource": ("object", "What it is: as in ``GET /resources``, without attributes."),
    "job": ("object or null", "Whose it is: its ``id``, ``name`` and ``state``."),
    "intent": ("object or null", "The request that led to it; null: nobody asked us."),
    "who": ("object", "Who asked, as it was then, and what was asked: strings only."),
}
INTENT_FIELDS: Final = {
    "operation": ("string", "The call of the Engine API, as the reference of operations names it."),
    "exchange": ("integer", "The exchange's number in the logs."),
    "started": ("string", "When it was written down, before the request was forwarded."),
    "state": ("string", "``open``, ``done``, ``failed`` or ``lost`` (nobody saw the answer)."),
    "names": ("array", "What was named in the request: pairs of kind and name."),
}


def job_table(job: IJob) -> dict[str, Any]:
    """Return a job; `JOB_FIELDS` tells what stands in it."""
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state.value,
        "owner": job.owner,
        "socket": job.socket,
        "created": moment(job.created),
        "ended": moment(job.ended),
        "reason": job.reason,
        "request": job.request.table(),
        "report": None if job.report is None else job.report.table(),
        "env": {"DOCKER_HOST": f"unix://{job.socket}"} if job.socket else {},
    }


def resource_table(resource: Resource) -> dict[str, Any]:
    """Return a resource; `RESOURCE_FIELDS` tells what stands in it."""
    return {**resource.table(), "job_id": resource.job_id}


def why_table(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `docker_tracker.interfaces.IJobs.why` knows of a resource; `WHY_FIELDS` tells what stands in it."""
    resource, intent = dict(entry["resource"]), entry["intent"]
    shown = {"kind": resource.pop("kind"), "id": resource.pop("identifier"), **resource}
    shown |= {"created": moment(shown["created"] or None), "removed": moment(shown["removed"])}
    if intent is not None:
        intent = {**intent, "started": moment(intent["started"])}
    return {"resource": shown, "job": entry["job"], "intent": intent, "who": entry["who"]}
