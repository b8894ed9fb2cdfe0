"""The page of the documentation, made of what a run has found; nothing in it is written by hand but what explains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.engines.reasons import REASONS, reason

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "reference" / "conformance.json"
PAGE = ROOT / "docs" / "reference" / "conformance.rst"

_HEAD = """\
Conformance: every way to create, on every engine
=================================================

Made by ``make engines`` from a run on real engines; no cell is written by hand. Each way was gone twice in a job of its
own, through a real daemon with ``labels``, ``cgroup-parent``, ``nested-socket`` and ``recorder``. Of what it led to was
checked whether it

- is *labelled*: with the job's ID; images with the operator's label, and not with the job's;
- has the *cgroup* parent: containers, and the steps of builds;
- is *recorded*: in the ledger, as made by the job;
- is *noticed* when somebody else removes it: the ledger says so within ten seconds;
- is *reaped*: gone from the engine when the job has ended.

``yes``: all of that holds, as far as it applies. Otherwise the cell says what does not hold of which kind of thing, and
the number of the reason below. A dash: the engine has no such thing, or the run had no client for it.

"""


def reasons_used(results: dict[str, Any]) -> list[str]:
    """Return the reasons in the order in which the table needs them."""
    found = [
        text
        for way, cells in results["cells"].items()
        for engine, cell in cells.items()
        for check, said in cell.items()
        if said.startswith("no") and (text := reason(way, engine, check))
    ]
    return [*dict.fromkeys(found)]


def problems(results: dict[str, Any]) -> list[str]:
    """Return what does not hold without a reason, and the reasons that nothing needs any more."""
    found, used = [], set()
    for way, cells in results["cells"].items():
        for engine, cell in cells.items():
            if "failed" in cell:
                found.append(f"{way} on {engine}: {cell['failed']}")
            for check, said in cell.items():
                if check not in ("failed", "skipped") and said != "yes":
                    text = reason(way, engine, check)
                    used.add(text)
                    if not text:
                        found.append(f"{way} on {engine}: {check} {said}")
    return found


def render(results: dict[str, Any]) -> str:
    """Return the page."""
    engines = [*results["engines"]]
    numbers = {text: number for number, text in enumerate(reasons_used(results), start=1)}
    lines = [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1", ""]
    lines += _row(["", *engines])
    lines += _row(["*engine*", *(results["engines"][name] for name in engines)])
    for way, cells in results["cells"].items():
        lines += _row([way, *(_cell(way, engine, cells.get(engine, {}), numbers) for engine in engines)])
    lines += ["", "Reasons", "-------", ""]
    lines += [f"{number}. {text}" for text, number in numbers.items()]
    return _HEAD + "\n".join(lines) + "\n"


def _row(cells: list[str]) -> list[str]:
    return [f"   {'*' if number == 0 else ' '} - {cell}".rstrip() for number, cell in enumerate(cells)]


def _cell(way: str, engine: str, cell: dict[str, str], numbers: dict[str, int]) -> str:
    if not cell or "skipped" in cell:
        return "–"
    if "failed" in cell:
        return "failed"
    told = []
    for check, said in cell.items():
        if said != "yes":
            number = numbers.get(reason(way, engine, check), 0)
            told.append(f"not {check}:{said.removeprefix('no:')} ({number})")
    return "; ".join(told) or "yes"


def write(results: dict[str, Any]) -> None:
    """Write results and page."""
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(render(results))


__all__ = ["PAGE", "REASONS", "RESULTS", "problems", "render", "write"]
