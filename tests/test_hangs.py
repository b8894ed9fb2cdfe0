"""An engine that hangs is noticed, and started anew only if it says itself that it waits for its own locks."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support import hangs
from tests.support.dockerd import PrivateEngine

LOCK = """\
sync.runtime_SemacquireMutex(0x0?, 0x80?, 0x0?)
\t/usr/lib/go-1.19/src/runtime/sema.go:77 +0x25
sync.(*Mutex).Lock(...)
\t/usr/lib/go-1.19/src/sync/mutex.go:90
"""
SERVICES = """\
github.com/docker/libnetwork.(*network).getSvcRecords(0xc0001, {0xc0, 0x1})
\t/build/docker.io-20.10.24+dfsg1/libnetwork/network.go:1492 +0x90
github.com/docker/libnetwork.(*endpoint).sbLeave(0xc0001)
\t/build/docker.io-20.10.24+dfsg1/libnetwork/endpoint.go:785 +0x25
created by net/http.(*Server).Serve
\t/usr/lib/go-1.19/src/net/http/server.go:3102 +0x4db
"""
DELETE = """\
github.com/docker/libnetwork.(*network).ID(...)
\t/build/docker.io-20.10.24+dfsg1/libnetwork/network.go:380
github.com/docker/libnetwork.(*controller).processEndpointDelete(0xc0001, 0x0?, 0xc0002)
\t/build/docker.io-20.10.24+dfsg1/libnetwork/store.go:406 +0x65
"""
IDLE = """\
net/http.(*conn).serve(0xc0001, {0x1, 0x2})
\t/usr/lib/go-1.19/src/net/http/server.go:1991 +0x607
"""


def dump(*goroutines: tuple[str, str]) -> str:
    """Write goroutines as Go does. :param goroutines: of each its state and its frames."""
    return "\n\n".join(f"goroutine {n} [{state}]:\n{frames}" for n, (state, frames) in enumerate(goroutines, 1))


DEADLOCK = dump(("IO wait", IDLE), ("semacquire, 2 minutes", LOCK + SERVICES), ("semacquire, 2 minutes", LOCK + DELETE))


class StackTests(SynchronousTestCase):
    def test_waiting(self) -> None:
        """Of those that wait for a lock the functions are given, without what locks."""
        self.assertEqual(
            hangs.waiting(DEADLOCK),
            [
                ("libnetwork.(*network).getSvcRecords", "libnetwork.(*endpoint).sbLeave"),
                ("libnetwork.(*network).ID", "libnetwork.(*controller).processEndpointDelete"),
            ],
        )

    def test_known(self) -> None:
        """(dump, the deadlock)"""
        first, second = ("semacquire, 1 minutes", LOCK + SERVICES), ("sync.Mutex.Lock, 3 minutes", LOCK + DELETE)
        for text, expected in (
            (DEADLOCK, "moby issue 46661"),
            (dump(first, second), "moby issue 46661"),
            (dump(first), None),
            (dump(first, first), None),
            (dump(first, ("semacquire", LOCK + DELETE)), None),
            (dump(first, ("running", DELETE)), None),
            (dump(first, ("semacquire, 1 minutes", LOCK + IDLE + IDLE + DELETE)), None),
            ("", None),
        ):
            hang = hangs.Hang(path="/networks", locked=tuple(hangs.waiting(text)))
            self.assertEqual(hang.known, expected, text)


PANIC = """\
panic: runtime error: index out of range [0] with length 0

goroutine 1 [running]:
github.com/docker/libnetwork.(*controller).reservePools(0x55a2ac543e70?)
\t/build/docker.io-20.10.24+dfsg1/libnetwork/controller.go:956 +0xb65
"""
LINE = 'time="2026-01-02T03:04:05Z" level=info msg="Loading containers: start."\n'


class DeathTests(SynchronousTestCase):
    def test_known(self) -> None:
        """(dockerd.log, the defect that it ended of)"""
        engine = PrivateEngine(self.enterContext(tempfile.TemporaryDirectory()))
        self.assertIsNone(hangs.died_of(engine))
        for text, expected in (
            (LINE + PANIC, "moby issue 45057"),
            (LINE + PANIC + LINE, None),
            (LINE + PANIC.replace("reservePools", "sandboxCleanup"), None),
            (LINE + PANIC.partition("\n")[2], None),
        ):
            (engine.directory / "dockerd.log").write_text(text)
            self.assertEqual(hangs.died_of(engine), expected, text)

    def test_running(self) -> None:
        """One that runs did not die of anything."""
        engine = PrivateEngine(self.enterContext(tempfile.TemporaryDirectory()))
        (engine.directory / "dockerd.log").write_text(LINE + PANIC)
        self.patch(engine, "process_id", lambda name: 1)
        self.assertIsNone(hangs.died_of(engine))


class SilentEngine(PrivateEngine):
    """One that takes connections and says nothing, until it is started anew: then it is away."""

    dump = ""
    actions: list[str]

    def listen(self) -> None:
        """Begin to be silent."""
        self.actions = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket_path))
        self.listener.listen()

    def stacks(self, seconds: float = 10) -> str:
        """Give what was set."""
        return self.dump

    def stop(self) -> None:
        """Be away."""
        self.actions.append("stop")
        self.listener.close()

    def start(self) -> None:
        """Note it."""
        self.actions.append("start")


class WatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(hangs, "ANSWER_SECONDS", 0.05)
        self.patch(hangs, "EVERY_SECONDS", 0.01)
        self.engine = SilentEngine(self.enterContext(tempfile.TemporaryDirectory()))
        Path(self.engine.directory).mkdir(exist_ok=True)

    def watch(self) -> hangs.Watch:
        """Watch until a hang was seen."""
        with hangs.Watch(engine=self.engine) as watch:
            while not watch.hangs():
                time.sleep(0.01)
            time.sleep(0.2)
            return watch

    def test_away(self) -> None:
        """An engine that is not there does not hang."""
        self.assertIsNone(hangs.look(self.engine))

    def test_locked(self) -> None:
        """One that waits for its own locks is started anew, once."""
        self.engine.dump = DEADLOCK
        self.engine.listen()
        (hang,) = self.watch().hangs()
        self.assertEqual(
            str(hang),
            "the engine hung at GET /networks, in moby issue 46661\n"
            "  libnetwork.(*network).ID < libnetwork.(*controller).processEndpointDelete\n"
            "  libnetwork.(*network).getSvcRecords < libnetwork.(*endpoint).sbLeave",
        )
        self.assertEqual(self.engine.actions, ["stop", "start"])

    def test_not_locked(self) -> None:
        """Any other that is silent is noted once, and left as it is."""
        self.engine.listen()
        self.addCleanup(self.engine.listener.close)
        (hang,) = self.watch().hangs()
        self.assertIn("nothing waits for a lock", str(hang))
        self.assertEqual(self.engine.actions, [])
