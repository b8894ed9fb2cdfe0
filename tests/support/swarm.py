"""A swarm of two private engines, with a cable between their network namespaces: a manager and a worker."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from typing import Any

from tests.support.dockerd import PrivateEngine
from tests.support.engine import discard, private_engine, require_program

_READY_SECONDS = 60
_NUMBERS = itertools.count()


class Swarm:
    """Two nodes, up when it is entered and gone when it is left.

    Services need ``--endpoint-mode dnsrr``: virtual addresses take IPVS, which not every kernel has.

    :raises unittest.SkipTest: this machine can't have them; with REQUIRE_ENGINE=1 an AssertionError.
    """

    def __init__(self) -> None:
        self._ip = require_program("ip", "iproute2")
        self.manager: PrivateEngine = private_engine("manager")
        self.worker: PrivateEngine = private_engine("worker")

    def __enter__(self) -> Swarm:
        try:
            self.manager.start()
            self.worker.start()
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End both; the cable goes with their namespaces."""
        discard(self.worker)
        discard(self.manager)

    def _join(self) -> None:
        addresses = self._lay_cable()
        listen = {"ListenAddr": f"{addresses[0]}:2377", "AdvertiseAddr": addresses[0]}
        _good(self.manager.api("POST", "/swarm/init", listen))
        token = _good(self.manager.api("GET", "/swarm"))["JoinTokens"]["Worker"]
        join = {"ListenAddr": f"{addresses[1]}:2377", "AdvertiseAddr": addresses[1], "JoinToken": token}
        _good(self.worker.api("POST", "/swarm/join", {**join, "RemoteAddrs": [f"{addresses[0]}:2377"]}))
        end = time.monotonic() + _READY_SECONDS
        while sum(node["Status"]["State"] == "ready" for node in _good(self.manager.api("GET", "/nodes"))) < 2:
            assert time.monotonic() < end, "the second node did not become ready"
            time.sleep(0.1)

    def _lay_cable(self) -> tuple[str, str]:
        """Connect the two namespaces by a pair of interfaces. :returns: their addresses."""
        names = [f"s{os.getpid()}-{next(_NUMBERS)}" for _ in range(2)]  # 15 bytes at most
        engines = (self.manager, self.worker)
        pids = [str(engine.process_id("containerd")) for engine in engines]
        pair = ("type", "veth", "peer", "name", names[1], "netns", pids[1])
        _run(self._ip, "link", "add", names[0], "netns", pids[0], *pair)
        addresses = ("10.215.0.1", "10.215.0.2")
        for engine, name, address in zip(engines, names, addresses, strict=True):
            _run(*engine.enter(self._ip, "address", "add", f"{address}/24", "dev", name))
            _run(*engine.enter(self._ip, "link", "set", name, "up"))
        return addresses


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)


def _good(answered: tuple[int, Any]) -> Any:
    status, answer = answered
    assert status == 200, (status, answer)
    return answer
