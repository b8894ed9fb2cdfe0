"""What the commands share: their client, options, and how they end. Layer: the client command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import click

from docker_tracker.cli.client import ApiError, Client, target
from docker_tracker.cli.interrupts import INTERRUPTED
from docker_tracker.cli.place import find_control
from docker_tracker.cli.process import interruptible
from docker_tracker.cli.text import clean, table
from docker_tracker.cli.values import Pair, Word
from docker_tracker.errors import ConfigurationError, TrackerError

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that the shell's completion may take.
_COMPLETION_SECONDS = 1.0


@attrs.define
class Place:
    """What the options before the command say.

    :ivar control: The address of the control socket, or the empty string.
    """

    control: str = ""

    def path(self) -> str:
        """Return the control socket's path.

        :raises TrackerError: see `find_control`.
        :raises click.UsageError: the option is no such address.
        """
        try:
            return find_control(self.control, os.environ, os.geteuid())
        except ConfigurationError as error:
            if self.control:
                raise click.UsageError(str(error)) from error
            raise

    def client(self) -> Client:
        """Return what calls the daemon."""
        return Client(self.path())


pass_place = click.make_pass_decorator(Place, ensure=True)


class Command(click.Command):
    """A command whose errors are one sentence each, with exit status 1; 130 if it is interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            with interruptible():
                return super().invoke(ctx)
        except TrackerError as error:
            complain(error)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def complain(error: TrackerError | str) -> None:
    """Say on standard error what is wrong."""
    say(f"docker-tracker: {clean(error)}\n")


def say(text: str) -> None:
    """Write to standard error; if that cannot be done, what is done and the exit status are the same."""
    try:
        click.echo(text, nl=False, err=True)
    except OSError:  # the descriptor stays as it is, for a child
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until we end


def for_each(names: Sequence[str], action: Callable[[str], bool]) -> None:
    """Do something for each name; what fails does not keep the others from it.

    :param action: Returns whether all is well.
    :raises click.exceptions.Exit: with status 1, if anything failed.
    """
    well = True
    for name in names:
        try:
            well &= action(name)
        except ApiError as error:
            complain(error)
            well = False
    if not well:
        raise click.exceptions.Exit(1)


def complete_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return names of jobs, for the shell; nothing if the daemon cannot be asked."""
    place = Place(ctx.find_root().params.get("control") or "")  # the commands' own is not made yet
    try:
        jobs = place.client().call("GET", "/jobs", timeout=_COMPLETION_SECONDS)
    except (TrackerError, click.UsageError):
        return []
    return [job["name"] for job in jobs if job["name"].startswith(incomplete)]


def job_names(function: F) -> F:
    """Take at least one job."""
    return click.argument("jobs", nargs=-1, required=True, type=Word(), metavar="JOB...", shell_complete=complete_jobs)(
        function
    )


def job_name(function: F) -> F:
    """Take one job."""
    return click.argument("job", type=Word(), metavar="JOB", shell_complete=complete_jobs)(function)


def listing(function: F) -> F:
    """Take the options of a command that lists."""
    for option in (
        click.option("-f", "--filter", "filters", type=Pair(), multiple=True, help="Only what KEY=VALUE holds for."),
        format_option,
        click.option("--no-trunc", is_flag=True, help="Show whole IDs."),
        click.option("-q", "--quiet", is_flag=True, help="Show IDs only."),
    ):
        function = option(function)
    return function


def format_option(function: F) -> F:
    """Take ``--format``."""
    choice = click.Choice(("table", "json"))
    help_ = "table, or json: one object on each line."
    return click.option("--format", "shape", type=choice, default="table", help=help_)(function)


def show_list(
    things: Sequence[Mapping[str, Any]],
    shape: str,
    quiet: bool,
    headers: Sequence[str],
    row: Callable[[Mapping[str, Any]], Sequence[str]],
    identifier: Callable[[Mapping[str, Any]], str],
) -> None:
    """Print what a command lists.

    :param row: Returns the table's cells for one thing.
    :param identifier: Returns what ``-q`` shows of one.
    """
    if quiet:
        lines = [clean(identifier(thing)) for thing in things]
    elif shape == "json":
        lines = [json.dumps(thing) for thing in things]
    else:
        lines = table(headers, map(row, things)).splitlines()
        lines[0] = click.style(lines[0], bold=True)
    if lines:
        click.echo("\n".join(lines))


def resolved(client: Client, job: str) -> dict[str, Any]:
    """Return a job."""
    found: dict[str, Any] = client.call("GET", target("jobs", job))
    return found
