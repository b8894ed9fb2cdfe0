"""Directives whose text comes from the code, so that the reference cannot differ from it.

Each function that ends in ``_text`` returns reStructuredText; the directive of that name puts it in its place.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from docker_tracker.config import OPTIONS, TABLES, Limits
from docker_tracker.engine.catalogue import OPERATIONS, RESOURCE_KINDS, UNKNOWN
from docker_tracker.engine.operation import Operation
from docker_tracker.options import Options
from docker_tracker.sources import variable
from docker_tracker.tracking.ledger import MIGRATIONS

#: What the file takes for each option. A test holds it against `docker_tracker.config.OPTIONS`.
FILE_TYPES = {
    "engine": "string, or a table: see below",
    "listen": "array of strings and tables: see below",
    "port": "integer, or array of them",
    "control": "string, or a table: as a unix listener's",
    "label": "table of strings, or array of ``NAME=VALUE``",
    "cgroup-parent": "string",
    "audit-log": "string",
    "interceptors": "array of strings, or a string with commas",
    "insecure-tcp": "boolean",
    "instance": "string",
    "plugin-dir": "array of strings",
    "state-dir": "string",
    "run-dir": "string",
    "until-idle": "boolean",
    "debug": "boolean",
}

#: What the help calls the values of options with one value.
ARGUMENTS = {
    "audit-log": "FILE",
    "cgroup-parent": "VALUE",
    "config": "FILE",
    "control": "ADDRESS",
    "engine": "ADDRESS",
    "instance": "ID",
    "interceptors": "NAMES",
    "run-dir": "DIRECTORY",
    "state-dir": "DIRECTORY",
}


def list_table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str = "auto") -> str:
    """Return a list-table; cells may have several lines."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            first, *more = (cell or "–").splitlines()
            lines.append(f"   {'*' if number == 0 else ' '} - {first}")
            lines += [f"       {line}" for line in more]
    return "\n".join([*lines, ""])


def escaped(text: str) -> str:
    """Return help text as reStructuredText that shows it literally."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)


def option_help() -> dict[str, tuple[str, str]]:
    """Return for each long flag its argument (or nothing) and its help."""
    found = {name: ("", help_) for name, _, help_ in Options.optFlags}
    found |= {name: (ARGUMENTS[name], help_) for name, _, _, help_ in Options.optParameters}
    for method, function in inspect.getmembers(Options, inspect.isfunction):
        if method.startswith("opt_") and len(method) > 5 and method != "opt_help":
            arguments = [*inspect.signature(function).parameters][1:]
            if function.__qualname__.startswith("Options."):
                help_ = " ".join((function.__doc__ or "").split())
                found[method[4:].replace("_", "-")] = ("".join(arguments).upper(), help_)
    return found


def command_line_text() -> str:
    """Return all flags, by name."""
    lines = [".. program:: twistd docker-tracker", ""]
    for name, (argument, help_) in sorted(option_help().items()):
        short = "-p NUMBER, " if name == "port" else ""
        lines += [f".. option:: {short}--{name}{' ' + argument if argument else ''}", "", f"   {escaped(help_)}", ""]
        if name in (*OPTIONS, "config"):
            lines += [f"   Variable: ``{variable(name)}``.", ""]
    return "\n".join(lines)


def configuration_keys_text() -> str:
    """Return the keys of the file that are options."""
    help_ = option_help()
    return list_table(
        ("key", "type in the file", "meaning"),
        ((f"``{name}``", FILE_TYPES[name], escaped(help_[name][1])) for name in OPTIONS),
    )


def ivars(cls: type) -> dict[str, str]:
    """Return what a docstring says of each ``:ivar``."""
    text = inspect.cleandoc(cls.__doc__ or "")
    found = re.findall(r"^:ivar ([\w, ]+): (.*(?:\n[ ]+.*)*)", text, re.MULTILINE)
    return {name.strip(): " ".join(said.split()) for names, said in found for name in names.split(",")}


def bounds(field: attrs.Attribute[Any]) -> str:
    """Return the range that a limit's validator allows."""
    given = inspect.getclosurevars(field.validator).nonlocals if callable(field.validator) else {}
    return f"{given['low']} to {given['high']}" if "low" in given else ""


def limits_text() -> str:
    """Return the keys of the table [limits]."""
    said = ivars(Limits)
    return list_table(
        ("key", "default", "range", "meaning"),
        (
            (f"``{field.name.replace('_', '-')}``", str(field.default), bounds(field), said[field.name])
            for field in attrs.fields(Limits)
        ),
    )


def settings_text(path: str) -> str:
    """Return the keys of an interceptor's table, from its attrs class (``module.Class``)."""
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    said = ivars(cls)
    return list_table(
        ("key", "default", "meaning"),
        (
            (f"``{field.name.replace('_', '-')}``", _literal(str(field.default).lower()), said[field.name])
            for field in attrs.fields(cls)
        ),
    )


def _literal(text: str) -> str:
    return f"``{text}``" if text else ""


def _identity(row: Operation) -> str:
    return f"{row.identity.place.value} {row.identity.key}".strip() if row.identity is not None else ""


def _labels(row: Operation) -> str:
    return "; ".join(
        f"{slot.place.value}: {'.'.join(slot.path)}{' (image)' if slot.image else ''}" for slot in row.labels
    )


def operations_text() -> str:
    """Return the catalogue of operations, in the order in which they are tried."""
    return list_table(
        ("name", "request", "kind", "effect", "body", "answer", "ID", "labels"),
        (
            (
                f"``{row.name}``",
                f"``{row.method} {row.path}``",
                row.kind or "",
                row.effect.value,
                row.request.value,
                row.response.value + (" (hijack)" if row.hijack else ""),
                _identity(row),
                _labels(row),
            )
            for row in (*OPERATIONS, UNKNOWN)
        ),
    )


def resource_kinds_text() -> str:
    """Return the kinds of resources, in the order in which they are removed."""
    return list_table(
        ("kind", "list", "inspect", "remove", "order of removal", "events that end it"),
        (
            (
                row.name,
                f"``{row.list}``" if row.list else "",
                f"``{row.inspect}``" if row.inspect else "",
                f"``{row.remove}``" if row.remove else "",
                str(row.removal_order),
                ", ".join(sorted(row.gone_actions)),
            )
            for row in sorted(RESOURCE_KINDS.values(), key=lambda row: row.removal_order)
        ),
    )


def ledger_schema_text() -> str:
    """Return the statements that make the ledger, version by version."""
    lines = []
    for number, statements in enumerate(MIGRATIONS, start=1):
        lines += [f"Schema version {number}:", "", ".. code-block:: sql", ""]
        for statement in statements:
            lines += [f"   {line}" for line in inspect.cleandoc(statement).splitlines()]
            lines[-1] += ";"
        lines.append("")
    return "\n".join(lines)


class _Qualified(ast.NodeTransformer):
    """Gives the names in an annotation their modules, so that Sphinx can link them."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Qualify one name."""
        thing = self._names.get(node.id)
        module = getattr(thing, "__module__", None)
        if module in (None, "typing", "builtins", "collections.abc"):
            return node
        return ast.Name(f"~{module}.{node.id}")


def interface_text(path: str) -> str:
    """Return one zope interface, with its annotations (autodoc does not know such things)."""
    module_name, _, name = path.rpartition(".")
    module = importlib.import_module(module_name)
    tree = ast.parse(inspect.getsource(module))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    qualified = _Qualified(vars(module))
    lines = [f".. py:class:: {name}", "   :module: " + module_name, ""]

    def say(text: str | None, indent: str) -> None:
        lines.extend(f"{indent}{line}".rstrip() for line in inspect.cleandoc(text or "").splitlines())
        lines.append("")

    say(ast.get_docstring(found), "   ")
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
            kind = ast.unparse(qualified.visit(node.annotation))
            lines += [f"   .. py:attribute:: {ast.unparse(node.target)}", f"      :type: {kind}", ""]
            say(ast.literal_eval(node.value.args[0]), "      ")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = ast.unparse(qualified.visit(node.args))
            result = f" -> {ast.unparse(qualified.visit(node.returns))}" if node.returns is not None else ""
            lines.append(f"   .. py:method:: {node.name}({arguments}){result}")
            lines += ["      :async:"] if isinstance(node, ast.AsyncFunctionDef) else []
            lines.append("")
            say(ast.get_docstring(node), "      ")
    return "\n".join(lines)


class _Generated(SphinxDirective):
    """Puts a function's text in its place."""

    optional_arguments = 1
    text: ClassVar[Callable[..., str]]

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        for module in ("config", "options", "engine/catalogue", "interfaces", "tracking/ledger"):
            self.env.note_dependency(str(self.env.srcdir / ".." / "docker_tracker" / f"{module}.py"))
        return list(self.parse_text_to_nodes(type(self).text(*self.arguments)))


def split_ivars(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Give each of several attributes that are described together a line of its own: Sphinx knows no such thing."""
    for number, line in reversed([*enumerate(lines)]):
        match = re.match(r":ivar (\w+(?:, \w+)+):(.*)", line)
        if match is not None:
            end = number + 1 + _continued(lines, number)
            more = lines[number + 1 : end]
            lines[number:end] = [part for each in match[1].split(", ") for part in (f":ivar {each}:{match[2]}", *more)]


def _continued(lines: list[str], number: int) -> int:
    """Return how many lines after one belong to it."""
    count = 0
    while number + count + 1 < len(lines) and lines[number + count + 1].startswith(" "):
        count += 1
    return count


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directives."""
    assert set(FILE_TYPES) == set(OPTIONS), "FILE_TYPES is not what the file takes"
    assert TABLES == ("limits", "reap", "reconcile", "attribute", "interceptor"), "a table of the file is not described"
    for function in (
        command_line_text,
        configuration_keys_text,
        interface_text,
        ledger_schema_text,
        limits_text,
        operations_text,
        resource_kinds_text,
        settings_text,
    ):
        name = function.__name__.removesuffix("_text").replace("_", "-")
        app.add_directive(f"generated-{name}", type(name, (_Generated,), {"text": staticmethod(function)}))
    app.connect("autodoc-process-docstring", split_ivars)
    return {"parallel_read_safe": True}
