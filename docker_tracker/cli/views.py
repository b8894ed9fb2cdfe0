"""``docker-tracker ps``, ``why`` and ``events``. Layer: the client command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from docker_tracker.cli.client import target
from docker_tracker.cli.shared import (
    Command,
    Place,
    complete_jobs,
    format_option,
    listing,
    pass_place,
    show_list,
)
from docker_tracker.cli.text import ago, clean, short
from docker_tracker.cli.values import Number, Word, beginning, pattern, select


@click.command(cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Show what is gone, too.")
@click.option("--job", default="", metavar="JOB", help="Only what this job made.", shell_complete=complete_jobs)
@listing
@pass_place
def ps(
    place: Place,
    everything: bool,
    job: str,
    quiet: bool,
    no_trunc: bool,
    shape: str,
    filters: tuple[tuple[str, str], ...],
) -> None:
    """List what jobs made and used. Filters: id, kind, name, job, relation."""
    client = place.client()
    names = {each["id"]: each["name"] for each in client.call("GET", target("jobs", all=True))}
    found = [
        {**each, "job": names.get(each["job_id"], each["job_id"])}
        for each in client.call("GET", target("resources", job=job, all=everything))
    ]
    matchers = {"id": beginning("id"), **{key: pattern(key) for key in ("kind", "name", "job", "relation")}}
    show_list(
        select(found, filters, matchers),
        shape,
        quiet,
        ("ID", "KIND", "NAME", "JOB", "RELATION", "CREATED", *(("REMOVED",) if everything else ())),
        lambda each: (
            short(each["id"], no_trunc),
            each["kind"],
            "" if each["name"] == each["id"] else each["name"],
            each["job"],
            each["relation"],
            ago(each["created"]),
            *((ago(each["removed"]),) if everything else ()),
        ),
        lambda each: short(each["id"], no_trunc),
    )


@click.command(cls=Command)
@click.argument("resource", type=Word())
@format_option
@pass_place
def why(place: Place, resource: str, shape: str) -> None:
    """Say which job made RESOURCE (an ID, its beginning, or a name), who asked for it, and when."""
    found = place.client().call("GET", target("why", resource))
    if shape == "json":
        blocks = [json.dumps(each) for each in found]
    else:
        blocks = ["\n".join(f"{name + ':':<11} {clean(value)}" for name, value in _told(each)) for each in found]
    if not found:
        click.echo(f"nothing is known of {clean(resource)}", err=True)
        raise click.exceptions.Exit(1)
    click.echo(("\n" if shape == "json" else "\n\n").join(blocks))


def _told(each: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    resource, job, intent = each["resource"], each["job"], each["intent"]
    yield "Resource", " ".join(filter(None, (resource["kind"], resource["id"], resource["name"])))
    if job is None:
        yield "Job", "none: nobody asked for it here"
    else:
        yield "Job", f"{job['name']} ({job['id']}), {job['state']}"
    yield "Relation", resource["relation"]
    if resource["created"]:
        yield "Recorded", f"{resource['created']} ({ago(resource['created'])})"
    if resource["removed"]:
        yield "Removed", f"{resource['removed']} ({ago(resource['removed'])})"
    if intent is not None:
        yield "Operation", f"{intent['operation']}, exchange {intent['exchange']}, {intent['state']}"
        yield "Asked", intent["started"]
    for name, value in sorted(each["who"].items()):
        yield name.replace("_", " ").capitalize(), value


@click.command(cls=Command)
@click.option("--since", type=Number(0), default=0, metavar="N", help="Only what came after event N.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until interrupted.")
@format_option
@pass_place
def events(place: Place, since: int, follow: bool, shape: str) -> None:
    """Show what happened, oldest first. The number of the last one can be given to --since."""
    for line in place.client().stream(target("events", since=since, follow=follow)):
        click.echo(line if shape == "json" else _event(json.loads(line)))


def _event(event: Mapping[str, Any]) -> str:
    data = " ".join(f"{key}={json.dumps(value)}" for key, value in event["data"].items())
    job = f"{event['job']} ({short(event['job_id'])})" if event["job_id"] else "-"
    return clean(f"{event['number']} {event['time']} {event['event']} {job} {data}".rstrip())
