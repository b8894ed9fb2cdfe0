"""Directives for the control API, its metrics and the client command; see `generated`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import click
from generated import _Generated, escaped, ivars, list_table
from sphinx.application import Sphinx

from docker_tracker.cli.app import tracker
from docker_tracker.control import tables
from docker_tracker.control.api import ROUTES
from docker_tracker.control.metrics import Scrape, families
from docker_tracker.control.probe import Seen
from docker_tracker.counts import Counts
from docker_tracker.job import Ends, JobRequest

#: What JSON has for the fields of a request for a job.
REQUEST_TYPES = {
    "name": "string",
    "labels": "object of strings",
    "cgroup_parent": "string or null",
    "own_cgroup": "boolean",
    "interceptors": "object of objects",
    "mode": 'string: ``"0600"``',
    "user": "string, number or null",
    "group": "string, number or null",
    "listen": "array of strings and objects",
    "container": "string",
    "ends": "object: see below",
    "keep": "array of ``KIND:PATTERN``",
    "keep_on_failure": "number or null",
}
ENDS_TYPES = {
    "process": "number of a process; in answers an object: ``pid``, ``started``, ``boot``",
    "container": "string",
    "ttl": "number",
    "idle": "number",
    "lease": "number",
}


def control_routes_text() -> str:
    """Return all calls of the control API."""
    lines: list[str] = []
    for route in ROUTES:
        lines += [f"``{route.method} {route.path}``", ""]
        lines += [f"   {line}".rstrip() for line in inspect.cleandoc(route.handler.__doc__ or "").splitlines()]
        query = "; ".join(f"``{name}``: {takes}" for name, takes in route.query.items())
        more = [f"Parameters: {query}."] if query else []
        more += [f"Body: {route.body}."] if route.body else []
        more += ["Only for who may do everything."] if route.everything else []
        lines += ["", *(f"   {line}" for line in more), ""]
    return "\n".join(lines)


def control_fields_text(name: str) -> str:
    """Return one of the tables of fields."""
    fields: Mapping[str, tuple[str, str]] = getattr(tables, f"{name}_FIELDS")
    return list_table(("field", "type", "meaning"), ((f"``{key}``", *told) for key, told in fields.items()))


def control_request_text() -> str:
    """Return what a job may be asked to be."""
    assert [*REQUEST_TYPES] == [*JobRequest(name="x").table()], "REQUEST_TYPES is not what a request has"
    assert [*ENDS_TYPES] == [field.name for field in Ends.__attrs_attrs__], "ENDS_TYPES is not what ends a job"
    said = ivars(JobRequest)
    rows = [(f"``{name}``", type_, said[name]) for name, type_ in REQUEST_TYPES.items()]
    said = ivars(Ends)
    rows += [(f"``ends.{name}``", type_, said[name]) for name, type_ in ENDS_TYPES.items()]
    return list_table(("field", "type", "meaning"), rows)


def metrics_text() -> str:
    """Return all metrics."""
    scrape = Scrape(counts=Counts(), version="", started=0.0, engine=Seen(reached=True), states=["open"], resources=[])
    labels = {"build": ["version"], "jobs": ["state"]}

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for family in families(scrape):
            end = {"counter": "_total", "info": "_info"}.get(family.type, "")
            of: Any = getattr(family, "_labelnames", ()) or labels.get(family.name.removeprefix("docker_tracker_"), ())
            yield f"``{family.name}{end}``", family.type, ", ".join(of), family.documentation

    return list_table(("name", "type", "labels", "meaning"), rows())


def client_text() -> str:
    """Return all commands, with their options."""
    lines: list[str] = []

    def say(command: click.Command, context: click.Context, name: str) -> None:
        pieces = " ".join(command.collect_usage_pieces(context))
        lines.extend((f"``{name} {pieces}``", ""))
        lines.extend(f"   {escaped(line)}" for line in inspect.cleandoc(command.help or "").splitlines())
        lines.append("")
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and record[1] and "--help" not in record[0]:
                lines.extend((f"   ``{record[0]}``", f"      {escaped(record[1])}"))
        lines.append("")
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                child = command.get_command(context, each)
                assert child is not None
                say(child, click.Context(child, info_name=each, parent=context), f"{name} {each}")

    say(tracker, click.Context(tracker, info_name="docker-tracker"), "docker-tracker")
    return "\n".join(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directives."""
    for function in (client_text, control_fields_text, control_request_text, control_routes_text, metrics_text):
        name = function.__name__.removesuffix("_text").replace("_", "-")
        app.add_directive(f"generated-{name}", type(name, (_Generated,), {"text": staticmethod(function)}))
    return {"parallel_read_safe": True}
