"""What is checked of each way to create, and what came of it."""

from __future__ import annotations

import http.client
import subprocess
from typing import Any

from docker_tracker.engine.inventory import JOB_ID_LABEL
from tests.engines.place import CGROUP, Engine, Place, Tracker, WayError, until
from tests.engines.ways import Made, Thing, Way

CHECKS = ("labelled", "cgroup", "recorded", "noticed", "reaped")
"""In the order of the page: what a way led to bears the job's label (an image the operator's), runs below the cgroup
parent, is in the ledger as made by the job, is gone from the ledger when a stranger removed it, and is gone from the
engine when its job ended."""

IMAGE_LABEL = "Created-Via"

Cell = dict[str, str]
"""For each check ``yes``, ``no: KIND, …`` (what it did not hold of), or nothing: it does not apply. Or, with the key
``failed``, why the way could not be gone; with ``skipped``, why it was not tried."""


def go(tracker: Tracker, way: Way) -> Cell:
    """Go one way twice, in a job of its own: things of the first time are removed by a stranger, the others reaped."""
    place = tracker.place(way.interceptors)
    try:
        made = way.make(place)
        cell = {
            "labelled": _said(_unlabelled(place, made)),
            "cgroup": _cgroup(place, made),
            "recorded": _said(_unrecorded(tracker, place, made)),
            "noticed": _said(_unnoticed(tracker, place, made)),
        }
        place.mark += "b"
        made = way.make(place)
        report = tracker.end(place)
        left = [thing for thing in made.things if _is_there(place.engine, thing)]
        unsure = sorted({item["kind"] for item in report["items"] if item["outcome"] == "left"})
        cell["reaped"] = _said(left) if left or not unsure else f"no: {', '.join(unsure)}"
        for thing in left:
            place.engine.remove(thing.kind, thing.reference)
        return {check: cell[check] for check in CHECKS if cell[check]}
    except (WayError, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
        tracker.end(place)
        return {"failed": str(error)[:300]}


def _said(things: list[Thing]) -> str:
    kinds = sorted({thing.kind for thing in things})
    return f"no: {', '.join(kinds)}" if kinds else "yes"


def _labels(kind: str, document: Any) -> dict[str, str]:
    holder = document.get("Spec") or document
    if kind in ("container", "image"):
        holder = document.get("Config") or document
    return holder.get("Labels") or {}


def _unlabelled(place: Place, made: Made) -> list[Thing]:
    found = []
    for thing in made.things:
        if not thing.labelled:
            continue
        labels = _labels(thing.kind, place.engine.has(thing.kind, thing.reference) or {})
        good = IMAGE_LABEL in labels if thing.kind == "image" else labels.get(JOB_ID_LABEL) == place.job_id
        if not good or (thing.kind == "image" and labels.get(JOB_ID_LABEL)):
            found.append(thing)
    return found


def _cgroup(place: Place, made: Made) -> str:
    """Say whether containers and the steps of builds are below the parent; nothing: there are none."""
    wrong = []
    containers = [thing for thing in made.things if thing.kind == "container"]
    for thing in containers:
        document = place.engine.has(thing.kind, thing.reference)
        if document["HostConfig"].get("CgroupParent") != CGROUP:
            wrong.append(thing)
    if made.cgroup is False:
        wrong.append(Thing("build", ""))
    return _said(wrong) if containers or made.cgroup is not None else ""


def _unrecorded(tracker: Tracker, place: Place, made: Made) -> list[Thing]:
    missing: list[Thing] = []

    def recorded() -> bool:
        known = {
            (each["kind"], name)
            for each in tracker.resources(place)
            if each["relation"] == "made"
            for name in (each["id"], each["name"])
        }
        missing[:] = [thing for thing in made.things if (thing.kind, thing.reference) not in known]
        return not missing

    until(recorded)
    return missing


def _unnoticed(tracker: Tracker, place: Place, made: Made) -> list[Thing]:
    """Remove everything beside the tracker, what needs others first. :returns: what the ledger still has."""
    order = ("service", "container", "pod", "network", "volume", "secret", "config", "plugin", "image")
    things = [thing for thing in made.things if thing.kind != "exec"]  # it ends with its container
    for thing in sorted(things, key=lambda thing: (order.index(thing.kind), thing.reference.startswith("sha256:"))):
        until(lambda thing=thing: _removed(place.engine, thing), 30)
    left: list[Thing] = []

    def noticed() -> bool:
        known = {(each["kind"], each["id"]) for each in tracker.resources(place)}
        left[:] = [thing for thing in made.things if (thing.kind, thing.reference) in known]
        return not left

    until(noticed)
    return left


def _removed(engine: Engine, thing: Thing) -> bool:
    try:
        engine.remove(thing.kind, thing.reference)
    except WayError:
        return False
    return True


def _is_there(engine: Engine, thing: Thing) -> bool:
    document = engine.has(thing.kind, thing.reference)
    return document is not None and not (thing.kind == "exec" and not document.get("Running"))
