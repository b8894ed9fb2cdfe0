"""What a reap did, for people. Layer: the client command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import click

from docker_tracker.cli.shared import complain
from docker_tracker.cli.text import clean, short, table

_COLOURS: Final = {"left": "red", "kept": "yellow"}


def say_report(report: Mapping[str, Any], shape: str = "table", no_trunc: bool = False) -> bool:
    """Print a report; return whether nothing is left that was to go."""
    if shape == "json":
        click.echo(json.dumps(report))
        return is_complete(report)
    items = report["items"]
    if items:
        rows = [
            (each["kind"], short(each["identifier"], no_trunc), each["name"], each["outcome"], each["reason"])
            for each in items
        ]
        header, *lines = table(("KIND", "ID", "NAME", "OUTCOME", "REASON"), rows).splitlines()
        click.echo(click.style(header, bold=True))
        for each, line in zip(items, lines, strict=True):
            click.echo(click.style(line, fg=_COLOURS.get(each["outcome"])))
    counts = Counter(each["outcome"] for each in items)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    if told or not report["problem"]:  # without an engine nobody knows that nothing was there
        click.echo(f"{told or 'nothing was there'} ({report['seconds']:.1f} s)", err=True)
    return say_left(report, listed=True)


def say_left(report: Mapping[str, Any], listed: bool = False) -> bool:
    """Say on standard error what is left that was to go; return whether that is nothing.

    :param listed: Whether the things were listed already.
    """
    if not listed:
        for each in report["items"]:
            if each["outcome"] == "left":
                name = f" ({each['name']})" if each["name"] else ""
                complain(f"left: {each['kind']} {short(each['identifier'])}{name}: {each['reason']}")
    if report["problem"]:
        complain(clean(report["problem"]))
    return is_complete(report)


def is_complete(report: Mapping[str, Any]) -> bool:
    """Whether nothing is left that was to go."""
    return not report["problem"] and all(each["outcome"] != "left" for each in report["items"])
