"""Makes tables, a plot and a page of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from html import escape
from typing import Any

from benchmarks.goals import GOALS, Goal

Results = dict[str, Any]
"""As written to results.json: machine, settings, targets, measures, and samples[figure][target] = [number...]."""

#: Figures of which the least is what a proxy adds to the direct way.
ADDED = ("ping-1.p50",)

_PLOTTED = ("ping-16.cpu", "create-16.cpu", "list-16.cpu", "connect-16.cpu")
_PLOTTED_BULK = (
    "download-length.cpu",
    "upload-length.cpu",
    "download-chunked.cpu",
    "upload-chunked.cpu",
    "attach-source.cpu",
)
_COLOURS = ("#4269d0", "#6cc5b0", "#efb118", "#9c6b4e", "#ff725c", "#9498a0")


def median(results: Results, figure: str, target: str) -> float | None:
    """Return the median of a figure's samples, or None: it was not measured."""
    samples = results["samples"].get(figure, {}).get(target)
    return statistics.median(samples) if samples else None


def number(value: float | None) -> str:
    """Return a number with three digits that matter."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def rows(results: Results) -> Iterable[tuple[str, str, list[str]]]:
    """Give of each figure its title, its unit, and the median and best of each target."""
    names = list(results["targets"])
    for measure in results["measures"]:
        for figure, unit in measure["units"].items():
            key = f"{measure['name']}.{figure}"
            of_all = results["samples"].get(key, {})
            if not of_all:
                continue
            best = max if figure == "rate" else min
            cells = []
            for name in names:
                samples = of_all.get(name)
                cell = number(median(results, key, name))
                if samples and len(samples) > 1:
                    cell += f" ({number(best(samples))})"
                cells.append(cell)
            yield f"{measure['title']}: {figure}", unit, cells


def verdict(results: Results, goal: Goal) -> tuple[str, str, str, str] | None:
    """Return what a goal is about, its bound, what was measured, and whether it is met; None: not measured."""
    ours = median(results, goal.figure, goal.ours)
    if ours is None:
        return None
    if goal.other is None:
        return f"{goal.figure}, {goal.ours}", number(goal.most), number(ours), _met(ours, goal.most)
    others = median(results, goal.figure, goal.other)
    if goal.figure in ADDED:
        direct = median(results, goal.figure, "direct") or 0.0
        ours, others = ours - direct, None if others is None else others - direct
    if not others:
        return None
    text = f"{number(goal.most)} x {goal.other}"
    return f"{goal.figure}, {goal.ours}", text, f"{number(ours / others)} x", _met(ours / others, goal.most)


def _met(value: float, most: float) -> str:
    return "yes" if value <= most else "NO"


def _aligned(table: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    return "\n".join(lines)


def table(results: Results) -> str:
    """Return all figures as text: medians, the best round in brackets."""
    titles = [target["title"] for target in results["targets"].values()]
    return _aligned([("", "unit", *titles), *((title, unit, *cells) for title, unit, cells in rows(results))])


def goals(results: Results) -> str:
    """Return the goals as text, met or not."""
    verdicts = [found for goal in GOALS if (found := verdict(results, goal)) is not None]
    return _aligned([("goal", "at most", "measured", "met"), *verdicts])


def plot(results: Results) -> str:
    """Return an SVG: CPU of each target, relative to stock Go, or to the first target where there is no Go."""
    targets = [name for name in results["targets"] if name != "direct"]
    base = "go" if "go" in targets else targets[0]
    figures = [f for f in (*_PLOTTED, *_PLOTTED_BULK) if median(results, f, base)]
    title = escape(results["targets"][base]["title"])
    bar, gap, left, scale = 11, 16, 190, 300.0
    height = 60 + len(figures) * (len(targets) * bar + gap)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="18" font-size="13">CPU of the proxy, relative to {title}</text>',
    ]
    for i, name in enumerate(targets):
        parts.append(f'<rect x="{10 + i * 115}" y="28" width="10" height="10" fill="{_COLOURS[i % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{24 + i * 115}" y="37">{escape(results["targets"][name]["title"])}</text>')
    y = 52
    for figure in figures:
        parts.append(f'<text x="{left - 8}" y="{y + len(targets) * bar / 2 + 4}" text-anchor="end">{figure}</text>')
        for i, name in enumerate(targets):
            value, whole = median(results, figure, name), median(results, figure, base)
            if value is not None and whole:
                part = value / whole
                end = min(part * scale, 480)
                parts.append(
                    f'<rect x="{left}" y="{y}" width="{end:.1f}" height="{bar - 2}" '
                    f'fill="{_COLOURS[i % len(_COLOURS)]}"/>'
                    f'<text x="{left + end + 4:.1f}" y="{y + bar - 2}" font-size="9">{part:.2f}</text>'
                )
            y += bar
        y += gap
    x = left + scale
    parts.append(f'<line x1="{x}" y1="46" x2="{x}" y2="{height}" stroke="#999" stroke-dasharray="3"/></svg>')
    return "\n".join(parts) + "\n"


def machine_text(results: Results) -> list[str]:
    """Return what the figures were taken on, one sentence each."""
    machine = results["machine"]
    settings = results["settings"]
    versions = (f"{t['title']} {t['version']}" for t in results["targets"].values() if t["version"])
    return [
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, Twisted {machine['twisted']}.",
        f"Versions: {', '.join(versions)}.",
        f"The proxy on core {machine['proxy_core']}, the engine on {machine['engine_core']}, "
        f"the load on {machine['load_core']}.",
        f"{settings['rounds']} rounds, {settings['seconds']:g} s a sample, {settings['size'] >> 20} MiB a transfer; "
        f"send buffers: {settings['send_buffer'] or 'the kernel’s own'}; net.core.wmem_max {machine['wmem_max']}.",
        f"Load average of the machine from {machine['load_before']:.1f} to {machine['load_after']:.1f}; "
        "some 2 are the benchmark's own.",
        *(f"Not measured: {name}." for name in results["missing"]),
    ]


def page(results: Results) -> str:
    """Return a page of documentation (reStructuredText)."""

    def rst(header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
        body = "".join("   * - " + "\n     - ".join(line) + "\n" for line in (header, *lines))
        return f".. list-table::\n   :header-rows: 1\n\n{body}\n"

    verdicts = [found for goal in GOALS if (found := verdict(results, goal)) is not None]
    titles = tuple(target["title"] for target in results["targets"].values())
    machine = "\n".join(f"- {line}" for line in machine_text(results))
    return f"""\
Benchmarks
==========

.. Made by ``python -m benchmarks.page``; do not edit.

What the daemon costs, beside other proxies in the same run on the same core. Taken on {results["machine"]["date"]}:

{machine}

How far to trust it
-------------------

What counts is the CPU of the proxy's process, and the ratio between columns of one run; less than a quarter is no
difference. Rates and latencies depend on what else the machine does, and on the engine and the load sharing a core.
System calls and memory do not. The engine is a fake that answers at once: against a real one, which takes milliseconds,
all proxies look alike. Cells are medians, with the best round in brackets.

.. image:: benchmarks.svg

Goals
-----

{rst(("Figure", "At most", "Measured", "Met"), verdicts)}
Figures
-------

{rst(("Figure", "Unit", *titles), ((title, unit, *cells) for title, unit, cells in rows(results)))}"""
