"""What an exchange costs may not grow: calls, memory and leftovers, counted in memory, whatever else the machine does.

The numbers are those of Python 3.11 with a margin; who lowers the cost lowers them.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.plugins.audit import audit
from docker_tracker.plugins.labels import labels
from docker_tracker.plugins.recorder import recorder
from docker_tracker.proxy.plan import Named
from docker_tracker.testing import FakeDaemon, FakeEngine, build, make_settings, request, response
from tests.support.wires import Wires

PING = request("GET", "/_ping", headers={"User-Agent": "Docker-Client/24.0.7 (linux)"})
PONG = response(200, b"OK", {"Api-Version": "1.43", "Ostype": "linux", "Server": "Docker/24.0.7 (linux)"})
CREATE = request("POST", "/v1.43/containers/create", {"Image": "busybox", "Env": ["A=b"] * 60, "Labels": {}})
CREATED = response(201, {"Id": "0" * 64, "Warnings": []})
ENTRY = json.dumps({"Id": "0" * 64, "Names": ["/x"], "Labels": {"a": "b"}}) * 4
LIST = request("GET", "/v1.43/containers/json?all=1")
LISTED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"%x\r\n%s\r\n" % (len(ENTRY), ENTRY.encode())) * 128
    + b"0\r\n\r\n"
)

Pair = tuple[bytes, bytes]
PAIRS: dict[str, Pair] = {"ping": (PING, PONG), "create": (CREATE, CREATED), "list": (LIST, LISTED)}

#: Calls of functions, Python's and C's, of one exchange over warm wires; a third of them or so are the wires' own.
MOST_CALLS = {
    ("ping", "none"): 80,
    ("ping", "default"): 130,
    ("create", "none"): 85,
    ("create", "default"): 950,
    ("list", "none"): 400,
    ("list", "default"): 460,
}

#: Bytes that an exchange needs at once, beyond what stays; some 3 KB of them are coverage's, when it is measured.
MOST_BYTES = {
    ("ping", "none"): 4500,
    ("ping", "default"): 7000,
    ("create", "none"): 7500,
    ("create", "default"): 20000,
    ("list", "none"): 300000,
    ("list", "default"): 300000,
}

#: Blocks that a thousand exchanges may leave behind: the lines of the log that are not written yet, and a few.
MOST_KEPT = 400


def calls_in(run: Callable[[], object]) -> int:
    """Count the calls that something makes."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


class CostTests(SynchronousTestCase):
    def interceptors(self, which: str) -> list[Named]:
        """Build what a daemon has by default, with an audit log; or nothing."""
        if which == "none":
            return []
        log = Path(self.mktemp())
        daemon = FakeDaemon(
            settings=make_settings(audit_log=str(log.absolute()), labels={"Created-Via": "tests"}),
            engine=FakeEngine({"GET /containers/json": []}),
        )
        return [build(plugin, daemon=daemon) for plugin in (labels, recorder, audit)]

    def exchanger(self, pair: Pair, which: str) -> Callable[[], None]:
        """Give what makes one exchange on a conversation that has had some."""
        wires = Wires(*self.interceptors(which))

        def exchange() -> None:
            wires.client.sends(pair[0])
            wires.engine.sends(pair[1])
            assert wires.client.received == pair[1]
            assert wires.engine.received

        for _ in range(20):
            exchange()
        return exchange

    def cases(self) -> list[tuple[tuple[str, str], Callable[[], None]]]:
        """Give all cases, by name."""
        return [
            ((kind, which), self.exchanger(pair, which))
            for kind, pair in PAIRS.items()
            for which in ("none", "default")
        ]

    def test_calls(self) -> None:
        """No exchange makes more calls than it did."""
        counts = {}
        for case, exchange in self.cases():
            counts[case] = min(calls_in(exchange) for _ in range(5))
        self.assertEqual({case: count for case, count in counts.items() if count > MOST_CALLS[case]}, {})

    def test_bytes(self) -> None:
        """No exchange needs more memory at once than it did."""
        needed = {}
        for case, exchange in self.cases():
            tracemalloc.start()
            try:
                exchange()
                # The least of some: a buffer that grows just then is not the exchange's.
                needed[case] = min(self.peak(exchange) for _ in range(5))
            finally:
                tracemalloc.stop()
        self.assertEqual({case: size for case, size in needed.items() if size > MOST_BYTES[case]}, {})

    def peak(self, run: Callable[[], None]) -> int:
        """Give the bytes that something needs at once."""
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        run()
        return tracemalloc.get_traced_memory()[1] - before

    def test_nothing_stays(self) -> None:
        """A thousand exchanges leave no objects behind; the fake ledger keeps what it is told, and is left out."""
        exchange = self.exchanger(PAIRS["ping"], "default")
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(1000):
            exchange()
        gc.collect()
        self.assertLess(sys.getallocatedblocks() - before, MOST_KEPT)
