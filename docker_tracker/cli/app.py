"""The command ``docker-tracker`` and its table of subcommands, each imported when it is called.

Layer: the client command.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

import click
from click.shell_completion import get_completion_class

from docker_tracker.cli.shared import Place
from docker_tracker.version import version

#: Where the commands are, and what they are for.
_COMMANDS: Final = {
    "run": ("docker_tracker.cli.run:run_command", "Run a command as a job of its own, and clean up after it."),
    "job": ("docker_tracker.cli.jobs:job", "Start, end, list and look at jobs."),
    "ps": ("docker_tracker.cli.views:ps", "List what jobs made and what exists."),
    "reap": ("docker_tracker.cli.cleaning:reap", "Remove what jobs have made up to now."),
    "reconcile": ("docker_tracker.cli.cleaning:reconcile", "Compare engine and ledger, and mend the difference."),
    "why": ("docker_tracker.cli.views:why", "Say which job made something, who asked for it, and when."),
    "events": ("docker_tracker.cli.views:events", "Show what happened."),
    "report": ("docker_tracker.cli.cleaning:report", "Show what the last reap of a job did."),
    "completion": ("docker_tracker.cli.app:completion", "Print what a shell evaluates to complete this command."),
}


class _Lazy(click.Group):
    """Imports a subcommand when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in _COMMANDS.items()])


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"docker-tracker {version()}")
        context.exit()


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--control",
    envvar="DOCKER_TRACKER_CONTROL",
    default="",
    metavar="ADDRESS",
    help="The control socket: unix:///path. By default what the configuration says, or where it usually is.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def tracker(ctx: click.Context, control: str) -> None:
    """Jobs on a Docker engine: a socket for each, and nothing left behind."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    ctx.obj = Place(control)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print what a shell evaluates to complete this command.

    For bash: eval "$(docker-tracker completion bash)"
    """
    found: Any = get_completion_class(shell)
    click.echo(found(tracker, {}, "docker-tracker", "_DOCKER_TRACKER_COMPLETE").source())
