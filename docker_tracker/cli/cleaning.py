"""``docker-tracker reap``, ``reconcile`` and ``report``. Layer: the client command."""

from __future__ import annotations

import os
from contextlib import suppress

import click

from docker_tracker.cli.client import target
from docker_tracker.cli.reports import say_report
from docker_tracker.cli.shared import (
    Command,
    Place,
    complain,
    for_each,
    format_option,
    job_names,
    pass_place,
    resolved,
)
from docker_tracker.cli.waiting import waiting
from docker_tracker.errors import ConfigurationError

dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
no_trunc_option = click.option("--no-trunc", is_flag=True, help="Show whole IDs.")


@click.command(cls=Command)
@job_names
@dry_run_option
@no_trunc_option
@format_option
@pass_place
def reap(place: Place, jobs: tuple[str, ...], dry_run: bool, no_trunc: bool, shape: str) -> None:
    """Remove what jobs have made up to now; they go on. Exit with 1 if something stays that was to go."""
    client = place.client()

    def act(name: str) -> bool:
        identifier = resolved(client, name)["id"]
        with waiting(client, identifier, f"reaping {name}"):
            done = client.call("POST", target("jobs", identifier, "reap", dry_run=dry_run), timeout=None)
        return say_report(done, shape, no_trunc)

    for_each(jobs, act)


@click.command(cls=Command)
@dry_run_option
@click.option(
    "--adopt", metavar="ID", default="", help="Take over the things of the lost tracker with this instance ID."
)
@no_trunc_option
@format_option
@pass_place
def reconcile(place: Place, dry_run: bool, adopt: str, no_trunc: bool, shape: str) -> None:
    """Compare engine and ledger once, now, and mend the difference. Exit with 1 if something stays that was to go.

    Private trackers of this user that were killed before their work was done are started again, daemon or not.
    """
    if not dry_run:
        _sweep()
    client = place.client()
    with waiting(client, None, "comparing engine and ledger"):
        done = client.call("POST", target("reconcile", dry_run=dry_run, adopt=adopt), timeout=None)
    if not say_report(done, shape, no_trunc):
        raise click.exceptions.Exit(1)


def _sweep() -> None:
    from docker_tracker.cli.private import sweep  # reads the whole configuration

    with suppress(ConfigurationError):  # of trackers that this user cannot start anyhow
        for problem in sweep(os.environ):
            complain(problem)


@click.command(cls=Command)
@job_names
@no_trunc_option
@format_option
@pass_place
def report(place: Place, jobs: tuple[str, ...], no_trunc: bool, shape: str) -> None:
    """Show what the last reap of jobs did. Exit with 1 if something was left."""
    client = place.client()
    for_each(jobs, lambda name: say_report(client.call("GET", target("jobs", name, "report")), shape, no_trunc))
