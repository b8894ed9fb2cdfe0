"""Whether an engine has locked itself up: by its answers and, if there are none, by its own goroutines' stacks.

Docker 20.10 can do that when several containers leave a network at once (moby: issue 46661, libnetwork's ``store.go``
and ``network.go``; Debian 12 has it). Whatever asks for networks, and each start of a container, then waits for ever.

Or whether it cannot start any more: one before 20.10.25 that is killed while it removes a network, between
two writes, panics at each start (moby: issue 45057, libnetwork's ``network.go``, ``(*network).delete``).
"""

from __future__ import annotations

import re
import threading
from http.client import HTTPException

from attrs import Factory, define, field, frozen

from tests.support.dockerd import PrivateEngine

PATHS = ("/networks", "/containers/json?all=1", "/images/json", "/volumes")
"""Calls that want the locks which most others want, too."""

EVERY_SECONDS = 5.0
ANSWER_SECONDS = 70.0
"""An engine that is silent for so long is asked for its stacks. They tell of a wait's length from one minute on."""

DEADLOCKS = {"moby issue 46661": ("processEndpointDelete", "getSvcRecords")}
"""What is known: for each, the functions that wait for each other's lock."""


PANICS = {"moby issue 45057": "libnetwork.(*controller).reservePools"}
"""What is known: for each, the function that panics at the engine's start."""


def died_of(engine: PrivateEngine) -> str | None:
    """Say which known panic keeps an engine from starting. :returns: None if it runs, or ended of something else."""
    if engine.process_id("dockerd") is not None:
        return None
    tail = engine.log_tail()
    return next((name for name, place in PANICS.items() if tail.startswith("panic: ") and place in tail), None)


@frozen(kw_only=True)
class Hang:
    """An engine that did not answer.

    :ivar path: What was asked for.
    :ivar locked: Its goroutines that wait for a lock since a minute or more, each with the functions that led there.
        None: it does not hang in locks of its own.
    """

    path: str
    locked: tuple[tuple[str, ...], ...]

    @property
    def known(self) -> str | None:
        """Which known deadlock it is in. Each of that one's functions must wait for a lock itself."""
        waits = [function for functions in self.locked for function in functions[:2]]
        for name, culprits in DEADLOCKS.items():
            if all(any(culprit in function for function in waits) for culprit in culprits):
                return name
        return None

    def __str__(self) -> str:
        """Say it in some lines."""
        stacks = sorted({" < ".join(functions[:6]) for functions in self.locked}) or ["nothing waits for a lock"]
        return "\n  ".join([f"the engine hung at GET {self.path}, in {self.known or 'nothing that is known'}", *stacks])


def waiting(dump: str) -> list[tuple[str, ...]]:
    """Give what each goroutine does that waits for a lock since a minute or more: functions, the innermost first.

    :param dump: goroutines' stacks as Go's runtime prints them.
    """
    found = []
    for goroutine in dump.split("\n\n"):
        head, _, frames = goroutine.strip().partition("\n")
        if re.match(r"goroutine \d+ \[(semacquire|sync\.[\w.]+), \d+ minutes", head):
            functions = re.findall(r"^(?!created by)(?:.*/)?([^/\s][^\n]*)\(.*\)$", frames, re.MULTILINE)
            found.append(tuple(name for name in functions if not name.startswith(("sync.", "runtime."))))
    return found


def look(engine: PrivateEngine) -> Hang | None:
    """Ask an engine all PATHS. :returns: None if it answers, or is not there."""
    for path in PATHS:
        try:
            engine.api("GET", path, timeout=ANSWER_SECONDS)
        except TimeoutError:
            return Hang(path=path, locked=tuple(waiting(engine.stacks())))
        except (OSError, HTTPException):
            return None  # it is down, or a test restarts it
    return None


@define(kw_only=True)
class Watch:
    """Looks at an engine now and then, on a thread of its own, and starts it anew when it has locked itself up."""

    engine: PrivateEngine
    _hangs: list[Hang] = field(factory=list, init=False)
    _looking: threading.Lock = field(default=Factory(threading.Lock), init=False)
    _over: threading.Event = field(default=Factory(threading.Event), init=False)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def hangs(self) -> list[Hang]:
        """Give those that were seen, in order, when no look is going on; of those without a lock the first alone."""
        with self._looking:
            return list(self._hangs)

    def _run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            with self._looking:
                hang = look(self.engine)
                if hang is not None and (hang.locked or not self._hangs):
                    self._hangs.append(hang)
                    if hang.locked:
                        self.engine.stop()
                        self.engine.start()
