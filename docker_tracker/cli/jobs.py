"""``docker-tracker job``: start, end, list and look at jobs. Layer: the client command."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from docker_tracker.cli.client import Client, ConnectionBroken, Held, NoDaemon, Refused, target
from docker_tracker.cli.environment import job_environment, script
from docker_tracker.cli.reports import say_left
from docker_tracker.cli.shared import (
    Command,
    Place,
    complain,
    for_each,
    job_name,
    job_names,
    listing,
    pass_place,
    resolved,
    show_list,
)
from docker_tracker.cli.text import ago, short
from docker_tracker.cli.values import Duration, Number, Pair, beginning, label, pattern
from docker_tracker.cli.values import select as chosen
from docker_tracker.cli.waiting import waiting
from docker_tracker.errors import RefusedError

_RETRY_SECONDS: Final = 1.0
_LEAST_SECONDS: Final = 1.0  # of what ends a job by itself: one that ends as it is made is of no use


@click.group()
def job() -> None:
    """Start, end, list and look at jobs."""


@job.command(cls=Command)
@click.argument("name")
@click.option("-l", "--label", "labels", type=Pair("NAME=VALUE"), multiple=True, help="A label on all that it makes.")
@click.option("--cgroup-parent", metavar="VALUE", help="The cgroup of its containers, as for the daemon.")
@click.option("--own-cgroup", is_flag=True, help="Give it a cgroup of its own.")
@click.option("--ttl", type=Duration(_LEAST_SECONDS), help="End it so long after now: 90, 15m, 1h30m.")
@click.option("--idle", type=Duration(_LEAST_SECONDS), help="End it after so long without a client.")
@click.option(
    "--lease", type=Duration(_LEAST_SECONDS), help="End it so long after nobody holds its lease any more (job lease)."
)
@click.option("--pid", type=Number(1), help="End it with this process.")
@click.option("--container", metavar="CONTAINER", help="The container that its client runs in: end it with that.")
@click.option("--keep", "keep", multiple=True, metavar="KIND:PATTERN", help="Leave these, as in volume:cache-*.")
@click.option("--keep-on-failure", type=Duration(), help="Keep what it made for so long if it ends as failed.")
@click.option("--mode", help="Of its socket's file: 0660.")
@click.option("--user", help="The socket's owner, and so the job's: a name or a number.")
@click.option("--group", help="The socket's group: a name or a number.")
@click.option("--listen", multiple=True, metavar="ADDRESS", help="Listen here, too.")
@click.option("-q", "--quiet", is_flag=True, help="Print the ID, not the socket.")
@pass_place
def start(place: Place, /, name: str, quiet: bool, **options: Any) -> None:
    """Make the job NAME, and print the path of its socket."""
    made = place.client().call("POST", "/jobs", job_request(name, options))
    click.echo(made["id"] if quiet else made["socket"])


def job_request(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the control API takes to make a job.

    :param options: Of ``job start``, by their names; what is missing or None is left to the daemon.
    """
    ends = {"process": options.get("pid"), "container": options.get("container")}
    ends |= {key: options.get(key) for key in ("ttl", "idle", "lease")}
    request = {
        "name": name,
        "labels": dict(options.get("labels") or ()) or None,
        "keep": list(options.get("keep") or ()) or None,
        "listen": list(options.get("listen") or ()) or None,
        "own_cgroup": options.get("own_cgroup") or None,
        "ends": {key: value for key, value in ends.items() if value is not None} or None,
    }
    taken = ("cgroup_parent", "container", "keep_on_failure", "mode", "user", "group")
    request |= {key: options.get(key) for key in taken}
    return {key: value for key, value in request.items() if value is not None}


@job.command(cls=Command)
@job_names
@click.option("-w", "--wait", is_flag=True, help="Wait until nothing of it is left; exit with 1 if something stays.")
@click.option("--failed", is_flag=True, help="Say that it failed: what it made may be kept for a while.")
@click.option("--reason", help="Why, for the record.")
@pass_place
def end(place: Place, jobs: tuple[str, ...], wait: bool, failed: bool, reason: str | None) -> None:
    """End jobs: they accept nobody any more, and what they made is removed."""
    client = place.client()
    body = {"failed": failed} if reason is None else {"failed": failed, "reason": reason}

    def act(name: str) -> bool:
        if not wait:
            client.call("POST", target("jobs", name, "end"), body)
            click.echo(name)
            return True
        found = resolved(client, name)
        with waiting(client, found["id"], f"ending {name}"):
            ended = client.call("POST", target("jobs", found["id"], "end", wait=True), body, timeout=None)
        click.echo(name)
        return ended["report"] is None or say_left(ended["report"])

    for_each(jobs, act)


@job.command(cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Show jobs that are gone, too.")
@listing
@pass_place
def ls(
    place: Place, everything: bool, quiet: bool, no_trunc: bool, shape: str, filters: tuple[tuple[str, str], ...]
) -> None:
    """List jobs. Filters: id, name, state, owner, label."""
    found = place.client().call("GET", target("jobs", all=everything))
    matchers = {
        "id": beginning("id"),
        "name": pattern("name"),
        "state": pattern("state"),
        "owner": pattern("owner"),
        "label": label,
    }
    show_list(
        chosen(found, filters, matchers),
        shape,
        quiet,
        ("JOB ID", "NAME", "STATE", "OWNER", "CREATED", "REASON"),
        lambda each: (
            short(each["id"], no_trunc),
            each["name"],
            each["state"],
            "-" if each["owner"] is None else str(each["owner"]),
            ago(each["created"]),
            each["reason"],
        ),
        lambda each: short(each["id"], no_trunc),
    )


@job.command(cls=Command)
@job_names
@pass_place
def show(place: Place, jobs: tuple[str, ...]) -> None:
    """Print all that is known of jobs, as a JSON array."""
    client, found = place.client(), []

    def act(name: str) -> bool:
        found.append(resolved(client, name))
        return True

    try:
        for_each(jobs, act)
    finally:
        click.echo(json.dumps(found, indent=4))


@job.command(cls=Command)
@job_name
@click.option("--shell", type=click.Choice(("sh", "fish", "csh")), help="By default that of SHELL.")
@pass_place
def env(place: Place, job: str, shell: str | None) -> None:
    """Print what a shell evaluates to use a job: eval "$(docker-tracker job env JOB)"."""
    client = place.client()
    found = resolved(client, job)
    if found["state"] != "open":
        raise RefusedError(f"the job {found['name']} has ended ({found['reason']}): nobody listens at its socket")
    if "DOCKER_HOST" not in found["env"]:
        raise RefusedError(
            f"the job {found['name']} has no unix socket: set DOCKER_HOST yourself to where the daemon listens"
        )
    engine = client.call("GET", "/version").get("engine", "")
    name = Path(os.environ.get("SHELL", "sh")).name
    shell = shell or ("fish" if name == "fish" else "csh" if name in ("csh", "tcsh") else "sh")
    click.echo(script(job_environment(found, os.environ, engine), shell), nl=False)


@job.command(cls=Command)
@job_name
@click.option("--retry", type=Duration(), default=60.0, show_default=True, help="Come back for so long.")
@pass_place
def lease(place: Place, job: str, retry: float) -> None:
    """Hold the lease of a job until this command ends; exit with 1 when the job does.

    If the daemon restarts, the lease is taken again.
    """
    client = place.client()
    held = client.hold(target("jobs", job, "lease"))
    click.echo(held.first["socket"])
    identifier = held.first["id"]
    while True:
        with held:
            while held.alive():
                select.select([held], [], [])
        held = _again(client, identifier, retry)


def _again(client: Client, identifier: str, retry: float) -> Held:
    """Take a lease again.

    :raises TrackerError: the job has ended, or the daemon did not come back.
    """
    last = time.monotonic() + retry
    while True:
        try:
            return client.hold(target("jobs", identifier, "lease"))
        except (NoDaemon, Refused, ConnectionBroken) as error:
            if time.monotonic() > last:
                raise
            complain(f"{error}; trying again")
        time.sleep(_RETRY_SECONDS)
