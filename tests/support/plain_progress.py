"""What a build's plain progress says, without what differs from one build to the next that is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ANY = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "DIGEST"),
    (re.compile(r"\b[a-z0-9]{25}\b"), "ID"),
    (re.compile(r"\b[0-9]+(\.[0-9]+)?m?s\b"), ""),  # how long it took
    (re.compile(r":[0-9]{4,5}->"), ":PORT->"),  # a client's own
    (re.compile(r" +"), " "),
)
_CLOCK = re.compile(r"^[0-9]+\.[0-9]+ ")
_STEP = re.compile(r"^#([0-9]+) (.*)")
_UNDER_WAY = re.compile(r"^(transferring|exporting|writing|naming|sending|copying|unpacking|resolve) .*(?<! done)$")
_BASE = "[base]"
_SHARED = (
    (re.compile(r"^\[\S+ internal\]"), "[internal]"),
    (re.compile(r"^\[(\S+ )?[0-9]+/[0-9]+\](?= FROM )"), _BASE),
)

Told = tuple[tuple[str, ...], Mapping[str, frozenset[str]]]
"""The lines beside the steps in their order, and the lines of each step by its name."""


def told(text: str, **words: str) -> Told:
    """Read the plain progress, or any other output, of a client.

    Taken out or made equal: digests, build IDs, times and ports of clients; the numbers of steps and the order in which
    they and their lines come, since steps run side by side; what is said twice and how far something has got; whether
    a base image is CACHED; under whose name a step runs that several stages or targets share, and in which order
    compose says that they are built.

    :param words: texts that are another for each build, by what they are called instead.
    """
    for name, word in words.items():
        text = text.replace(word, name)
    for expression, name in _ANY:
        text = expression.sub(name, text)
    beside: list[str] = []
    names: dict[str, str] = {}
    steps: dict[str, set[str]] = {}
    for line in (line.rstrip() for line in text.splitlines()):
        found = _STEP.match(line)
        if found is None:
            if line.endswith(" Built"):
                steps.setdefault("Built", set()).add(line)
            else:
                beside.append(_CLOCK.sub("", line))
            continue
        said = _CLOCK.sub("", found[2])
        for expression, shared in _SHARED:
            said = expression.sub(shared, said)
        name = names.setdefault(found[1], said)
        lines = steps.setdefault(name, set())
        of_base = name.startswith(_BASE) and said in ("DONE", "CACHED")
        if said not in ("...", name) and not of_base and not _UNDER_WAY.match(said):
            lines.add(said)
    return tuple(line for line in beside if line), {name: frozenset(lines) for name, lines in steps.items()}
