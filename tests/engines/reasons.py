"""Why something can't hold on an engine. A run in which anything else does not hold has failed."""

from __future__ import annotations

import re

# way, engine, check (each a regular expression for the whole), and the reason.
REASONS: tuple[tuple[str, str, str, str], ...] = ()


def reason(way: str, engine: str, check: str) -> str:
    """Return why a check can't hold; "" if nothing is known."""
    for *expressions, text in REASONS:
        if all(re.fullmatch(one, other) for one, other in zip(expressions, (way, engine, check), strict=True)):
            return text
    return ""
