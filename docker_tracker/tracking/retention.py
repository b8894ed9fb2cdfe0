"""What outlives its job: rules by kind and name, and a client's label. Decides only; layer: tracking."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from docker_tracker.job import Keep

RETAIN_LABEL: Final = "docker-tracker.retain"

_UNITS: Final = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART: Final = re.compile(r"(\d{1,9})([wdhms])")
_DURATION: Final = re.compile(r"(?:\d{1,9}[wdhms])+")


def duration(text: str) -> float | None:
    """Return the seconds that ``3d``, ``12h`` or ``1d12h`` mean; None: it means nothing."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))


@attrs.frozen
class Retention:
    """Says what is kept, and why.

    :ivar rules: Of the configuration and of the job.
    :ivar most: Seconds that a client may keep a thing by its label.
    """

    rules: tuple[Keep, ...]
    most: float

    def reason(self, kind: str, labels: Mapping[str, str], names: Iterable[str], created: float, now: float) -> str:
        """Return in a sentence why a thing is kept; the empty string: it is not.

        :param names: All that it is called.
        :param created: When it was made, or the job came to have it.
        :param now: Seconds since the epoch.
        """
        for rule in self.rules:
            if any(rule.holds(kind, name) for name in names):
                return f"the rule {rule} keeps it"
        wish = labels.get(RETAIN_LABEL)
        if not isinstance(wish, str) or not self.most:
            return ""
        # A wish that can't be read is one all the same: what it would cost to remove the thing is not ours to say.
        seconds = duration(wish)
        until = created + min(self.most if seconds is None else seconds, self.most)
        if now >= until:
            return ""
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(until))
        unread = "" if seconds is not None else f" ({wish[:40]!r} is no duration, such as 3d or 12h)"
        return f"its label {RETAIN_LABEL} keeps it until {when}{unread}"
