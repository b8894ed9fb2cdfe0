"""What ``docker-tracker run`` says at its end: what the command left over. Layer: the client command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from docker_tracker.cli.text import clean, short

_MOST_LINES: Final = 20
#: What a build leaves is no oversight, and an exec ends with its container.
_NO_LEAK: Final = frozenset({"image", "exec"})
#: The lines' order: first what somebody has to do something about.
_OUTCOMES: Final = ("left", "kept", "removed")

Item = Mapping[str, Any]


def items_of(job: Mapping[str, Any]) -> list[Item]:
    """Return what a job's last reap has found."""
    return list((job["report"] or {}).get("items") or ())


def leaks(items: Sequence[Item]) -> list[Item]:
    """Return what a command should have removed itself: neither images nor what was to be kept."""
    return [item for item in items if item["outcome"] != "kept" and item["kind"] not in _NO_LEAK]


def text(job: Mapping[str, Any], command_line: str) -> str:
    """Return what people are told of a job's end; nothing if nothing was left over.

    :param job: As the control API gives it.
    :param command_line: The client command as it reaches the job's tracker.
    """
    report, items = job["report"] or {}, sorted(items_of(job), key=_rank)
    lines = []
    if items:
        outcomes = [item["outcome"] for item in items]
        told = {
            "removed": f"{outcomes.count('removed')} removed in {report['seconds']:.1f} s",
            "kept": f"{outcomes.count('kept')} kept",
            "left": f"{outcomes.count('left')} could not be removed",
        }
        summary = ", ".join(said for outcome, said in told.items() if outcome in outcomes)
        lines = [_head(job, f" left over {_things(len(items))}: {summary}"), *_listed(items)]
    if job["state"] == "failed":
        problem = report.get("problem") or "something is left; it is tried again"
        lines.append(_head(job, f": {problem}; to try now: {command_line} reap {job['name']}"))
    return "".join(f"{line}\n" for line in lines)


def kept_text(job: Mapping[str, Any], resources: Sequence[Mapping[str, Any]], command_line: str) -> str:
    """Return what people are told of a job that goes on, as they asked.

    :param resources: What it has made.
    """
    items = [{**each, "identifier": each["id"], "outcome": "", "reason": ""} for each in resources]
    lines = [
        _head(job, f" is kept, with {_things(len(items))}"),
        *_listed(items),
        f'  to use it: eval "$({command_line} job env {job["name"]})"',
        f"  to remove it: {command_line} job end {job['name']}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _head(job: Mapping[str, Any], said: str) -> str:
    return f"docker-tracker: job {job['name']}{clean(said)}"


def _rank(item: Item) -> int:
    return _OUTCOMES.index(item["outcome"])


def _listed(items: Sequence[Item]) -> list[str]:
    lines = [f"  {clean(_line(item))}" for item in items[:_MOST_LINES]]
    more = len(items) - _MOST_LINES
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _line(item: Item) -> str:
    words = [item["kind"], short(item["identifier"])]
    if item["name"] not in ("", item["identifier"]):
        words.append(item["name"])
    reason = f": {item['reason']}" if item["reason"] else ""
    # Whatever has no reason was removed, or is only listed.
    return " ".join(words) + (f" {item['outcome']}" if item["outcome"] in ("left", "kept") else "") + reason


def _things(count: int) -> str:
    return "1 thing" if count == 1 else f"{count} things"
