"""Nothing grows: memory with the size of what passes, descriptors and objects with the number of those who came."""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.config import Limits
from docker_tracker.connections import EngineAddress
from docker_tracker.engine.operation import Operation
from docker_tracker.exchange import Stage
from docker_tracker.interceptor import Interceptor
from docker_tracker.proxy.answer import EngineSide
from docker_tracker.proxy.conversation import Conversation, Entrance
from docker_tracker.proxy.dial import Dialler
from docker_tracker.proxy.hub import Hub
from docker_tracker.proxy.listener import Acceptor
from docker_tracker.proxy.plan import Named, Plan
from docker_tracker.proxy.sockets import listen_tcp, listen_unix
from docker_tracker.proxy.splice import Splice
from docker_tracker.proxy.wire import SocketWire
from tests.support.daemon import Daemon
from tests.support.engine import engine_address
from tests.support.fake_engine import FakeEngine, FakeEngineProcess
from tests.support.stream import Stream, call, descriptors, memory, reset_peak, wait_until

IMAGE = "busybox:local"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
JSON = {"Content_Type": "application/json"}
TAR = {"Content_Type": "application/x-tar", "Transfer_Encoding": "chunked"}
MIB = 1024 * 1024
BULK = 2048 * MIB
ZEROS = bytes(MIB)

#: What passes is held in one buffer of 1 MiB for each direction at most; the rest is what Python's and the C library's
#: allocators keep, and the pages of code that were not used before. A hundredth of BULK would be 20 MiB.
GROWTH = 8 * MIB

#: The daemon's own connections to the engine, which it keeps for a while, and files that it opens when they are needed.
OWN_DESCRIPTORS = 8


def member(name: str, size: int) -> bytes:
    """Give the head of a file in an archive."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf()


def small_member(name: str, data: bytes) -> bytes:
    """Give a file in an archive."""
    return member(name, len(data)) + data.ljust(-(-len(data) // 512) * 512, b"\0")


class BoundedCase(SynchronousTestCase):
    """Tests with a daemon of their own, whose process is watched."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dt-bound-", dir="/tmp"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(self.directory)], check=True)
        self.name = f"bounded-{uuid.uuid4().hex[:12]}"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def start(self, engine: str) -> None:
        """Start a daemon with its default interceptors and an audit file, and have all its code used once."""
        daemon = Daemon(f"--engine={engine}", f"--audit-log={self.directory / 'audit'}")
        daemon.command.append(f"--listen={daemon.address}")
        self.addCleanup(self.end, daemon)
        daemon.start()
        daemon.wait_for_socket()
        assert daemon.process is not None
        self.address, self.process = daemon.address, daemon.process.pid

    def end(self, daemon: Daemon) -> None:
        try:
            self.assertEqual(daemon.stop(), 0, daemon.output())
            self.assertEqual(daemon.output().partition("Traceback")[2], "")
        finally:
            daemon.discard()

    def fake(self) -> str:
        """Start a fake engine in a process of its own."""
        engine = FakeEngineProcess(self.directory / "engine.sock")
        engine.__enter__()
        self.addCleanup(engine.__exit__)
        return engine.address

    def container(self, *command: str, **config: Any) -> str:
        """Create and start a container."""
        status, answer = call(self.address, "POST", "/containers/create", {"Image": IMAGE, "Cmd": command, **config})
        self.assertEqual(status, 201, answer)
        self.addCleanup(call, self.address, "DELETE", f"/containers/{answer['Id']}?force=1&v=1")
        self.assertEqual(call(self.address, "POST", f"/containers/{answer['Id']}/start")[0], 204)
        return str(answer["Id"])

    def exec(self, container: str, *command: str) -> Stream:
        """Start an exec that is attached."""
        config = {"Cmd": command, "AttachStdin": True, "AttachStdout": True}
        status, answer = call(self.address, "POST", f"/containers/{container}/exec", config)
        self.assertEqual(status, 201, answer)
        stream = Stream(self.address)
        self.addCleanup(stream.close)
        stream.request("POST", f"/exec/{answer['Id']}/start", b"{}", **JSON, **UPGRADE)
        self.assertEqual(stream.read_head().status, 101)
        return stream

    @contextmanager
    def flat(self, what: str, bound: int = GROWTH) -> Iterator[None]:
        """See that the daemon's resident memory does not grow by more than a bound, not even for a moment."""
        reset_peak(self.process)
        before = memory(self.process, "VmRSS")
        yield
        self.assertLess((memory(self.process) - before) / MIB, bound / MIB, what)

    # Bulk

    def upload(self, method: str, target: str, beginning: bytes, size: int) -> bytes:
        """Send an archive whose last file has so many bytes. :returns: the answer's body."""
        with Stream(self.address, 300) as stream:
            stream.request(method, target, None, **TAR)
            stream.send_chunk(beginning)
            for _ in range(size // MIB):
                stream.send_chunk(ZEROS)
            stream.send_chunk(bytes(1024))
            stream.send_chunk(b"")
            self.assertEqual(stream.read_head().status, 200)
            return stream.body()

    def download(self, target: str) -> int:
        """Give the size of an answer."""
        with Stream(self.address, 300) as stream:
            self.assertEqual(stream.request("GET", target).read_head().status, 200)
            return sum(len(piece) for piece in stream.pieces())

    def bulk(self, size: int) -> None:
        """Pass so many bytes each way in every kind of request that carries bulk."""
        container = self.container("sleep", "1000")
        self.addCleanup(call, self.address, "DELETE", f"/images/{self.name}")
        dockerfile = small_member("Dockerfile", f"FROM {IMAGE}\nCOPY layer.tar /\n".encode()) + member(
            "layer.tar", size
        )
        with self.flat("build"):
            self.assertIn(b"Successfully tagged", self.upload("POST", f"/build?t={self.name}", dockerfile, size))
        with self.flat("cp into"):
            self.upload("PUT", f"/containers/{container}/archive?path=/", member("big", size), size)
        with self.flat("cp from"):
            self.assertGreaterEqual(self.download(f"/containers/{container}/archive?path=/big"), size)
        with self.flat("export"):
            self.assertGreaterEqual(self.download(f"/containers/{container}/export"), size)
        with self.flat("save"):
            self.assertGreaterEqual(self.download(f"/images/get?names={self.name}"), size)
        with self.flat("output"), self.exec(container, "head", "-c", str(size), "/dev/zero") as stream:
            got = 0
            while data := stream.some():
                got += len(data)
            self.assertGreaterEqual(got, size)
        with self.flat("input"), self.exec(container, "wc", "-c") as stream:
            for _ in range(size // MIB):
                stream.send(ZEROS)
            stream.half_close()
            self.assertEqual(stream.rest()[8:], b"%d\n" % size)

    # Many at once

    def run_once(self, number: int) -> None:
        """Do what ``docker run --rm`` does."""
        with (
            Stream(self.address, 120) as first,
            Stream(self.address, 120) as second,
            Stream(self.address, 120) as third,
        ):
            self.assertEqual(first.request("HEAD", "/_ping").answer()[0], 200)
            config = {"Image": IMAGE, "Cmd": ["echo", str(number)], "HostConfig": {"AutoRemove": True}}
            first.request("POST", "/containers/create", json.dumps(config).encode(), **JSON)
            status, answer = first.answer()
            self.assertEqual(status, 201, answer)
            path = f"/containers/{answer['Id']}"
            second.request("POST", f"{path}/attach?stream=1&stdout=1&stderr=1", b"", **UPGRADE)
            self.assertEqual(second.read_head().status, 101)
            first.request("POST", f"{path}/wait?condition=removed", b"")
            self.assertEqual(first.read_head().status, 200)
            self.assertEqual(third.request("POST", f"{path}/start", b"").answer()[0], 204)
            self.assertEqual(second.rest()[8:], b"%d\n" % number)
            self.assertEqual(json.loads(first.body())["StatusCode"], 0)

    def run_many(self, count: int) -> None:
        """Do that so many times at once; nothing is left of it."""
        before, tracked = descriptors(self.process), self.tracked()
        with ThreadPoolExecutor(count) as pool:
            for result in [pool.submit(self.run_once, number) for number in range(count)]:
                result.result()
        wait_until(lambda: descriptors(self.process) <= before + OWN_DESCRIPTORS, "the descriptors")
        # Fewer, if one from before was still going.
        wait_until(lambda: self.tracked() <= tracked, "the containers' end in the ledger")

    def tracked(self) -> set[str]:
        """Give the containers that the daemon says exist."""
        status, page = call(self.address, "GET", "/tracker")
        self.assertEqual(status, 200)
        return set(page.decode().split() if isinstance(page, bytes) else str(page or "").split())

    def open_many(self, count: int) -> None:
        """Hold so many streams open at once; each works, and nothing is left of them."""
        container = self.container("sleep", "1000")
        before = descriptors(self.process)
        streams = [self.exec(container, "cat") for _ in range(count)]
        for number, stream in enumerate(streams):
            stream.send(b"%06d" % number)
        for number, stream in enumerate(streams):
            self.assertEqual(stream.read(14)[8:], b"%06d" % number)
        self.assertGreaterEqual(descriptors(self.process), before + 2 * count - OWN_DESCRIPTORS)
        for number, stream in enumerate(streams):
            if number % 2:
                stream.half_close()
                self.assertTrue(stream.ended())
            stream.close()
        wait_until(lambda: descriptors(self.process) <= before + OWN_DESCRIPTORS, "the descriptors")


class FakeTests(BoundedCase):
    """With the fake engine, in numbers that a real one would be too slow for."""

    def setUp(self) -> None:
        super().setUp()
        self.start(self.fake())
        self.run_once(0)

    def bulk_once(self) -> None:
        """Have all that `bulk` uses used once."""
        name, self.name = self.name, f"{self.name}-small"
        flat, self.flat = self.flat, lambda *_: flat("", BULK)  # type: ignore[method-assign]
        self.bulk(4 * MIB)
        self.name, self.flat = name, flat  # type: ignore[method-assign]

    def test_bulk(self) -> None:
        """Two gigabytes of a context, an image or files cost no memory."""
        # Whatever is imported or allocated once is there before memory is looked at.
        self.bulk_once()
        self.bulk(BULK)
        manifest = small_member("manifest.json", json.dumps([{"RepoTags": ["bulk:latest"]}]).encode())
        with self.flat("load"):
            lines = self.upload("POST", "/images/load", manifest + member("layer.tar", BULK), BULK)
            self.assertIn(b"Loaded image: bulk:latest", lines)

    def test_stalled(self) -> None:
        """A reader of two gigabytes that stalls costs at most a megabyte, however many there are."""
        container = self.container("sleep", "1000")
        self.upload("PUT", f"/containers/{container}/archive?path=/", member("big", BULK), MIB)
        streams = []
        with self.flat("stalled", GROWTH + 32 * MIB):
            for number in range(32):
                if number % 2:
                    stream = Stream(self.address)
                    self.addCleanup(stream.close)
                    target = f"/containers/{container}/archive?path=/big"
                    self.assertEqual(stream.request("GET", target).read_head().status, 200)
                else:
                    stream = self.exec(container, "head", "-c", str(BULK), "/dev/zero")
                streams.append(stream)
            sizes: list[int] = []

            def settled() -> bool:
                sizes.append(memory(self.process, "VmRSS"))
                return len(sizes) > 25 and len(set(sizes[-25:])) == 1

            wait_until(settled, "an end of the growth")
        before = descriptors(self.process)
        for stream in streams:
            stream.close()
        wait_until(lambda: descriptors(self.process) <= before - 2 * len(streams) + OWN_DESCRIPTORS, "the descriptors")

    def test_runs(self) -> None:
        """500 clients run a container at once."""
        self.run_many(500)

    def test_streams(self) -> None:
        """1,000 streams are open at once."""
        self.open_many(1000)


class DockerdTests(BoundedCase):
    """With a real engine."""

    def setUp(self) -> None:
        super().setUp()
        self.start(engine_address())

    def test_bulk(self) -> None:
        """Tens of megabytes cost no memory."""
        self.bulk(48 * MIB)

    def test_runs(self) -> None:
        """50 clients run a container at once."""
        self.run_many(50)

    def test_streams(self) -> None:
        """200 streams are open at once."""
        self.open_many(200)


class EveryStage(Interceptor):
    """Wants to see everything, and changes nothing."""

    def wants(self, operation: Operation) -> Stage:
        return ~Stage.NOTHING


STATES: dict[str, tuple[bytes, bytes]] = {
    # What a client has sent, and what it has seen of the answer, when its connection ends.
    "nothing": (b"", b""),
    "between requests": (b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", b"OK"),
    "in a head": (b"POST /containers/create HTTP/1.1\r\nHost", b""),
    "in a JSON body": (b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", b""),
    "in a body": (b"POST /build HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b""),
    "before the answer": (b"POST /containers/ID/stop?t=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b""),
    "pipelined": (b"POST /containers/ID/stop?t=1000 HTTP/1.1\r\nHost: x\r\n\r\nGET /_ping HTTP/1.1\r\n\r\n", b""),
    "in an answer": (b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\n"),
    "in a long answer": (b"GET /containers/ID/archive?path=/big HTTP/1.1\r\nHost: x\r\n\r\n", b"big"),
    "in a wait": (b"POST /containers/ID/wait HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\n"),
    "in a stream": (
        b"POST /containers/ID/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
        b"Upgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
        b"101 UPGRADED",
    ),
    "in an old stream": (b"POST /containers/ID/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: x\r\n\r\n", b"raw-stream"),
    "refused": (b"GET //x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "in a refused body": (
        b"PUT /containers/none/archive?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
        b"404",
    ),
}


class LeakTests(SynchronousTestCase):
    """Connections that come and go in every state, in this process, so that objects can be counted."""

    types = (Conversation, EngineSide, SocketWire, Splice)

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dt-leak-", dir="/tmp"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(self.directory)], check=True)
        self.engine = FakeEngine(self.directory / "engine.sock")
        self.engine.start()
        self.addCleanup(self.engine.stop)
        config = {"Image": IMAGE, "Cmd": ["sleep", "1000"], "OpenStdin": True}
        self.container = call(self.engine.address, "POST", "/containers/create", config)[1]["Id"]
        call(self.engine.address, "POST", f"/containers/{self.container}/start")
        beginning = member("big", BULK)
        with Stream(self.engine.address) as stream:
            stream.request("PUT", f"/containers/{self.container}/archive?path=/", beginning).answer()
        self.reactor = EPollReactor()
        self.hub = Hub(self.reactor)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.reactor.run, kwargs={"installSignalHandlers": False})
        self.addCleanup(self.stop)
        self.acceptors: list[Acceptor] = []
        dialler = Dialler(self.hub, EngineAddress("unix", path=str(self.engine.path)), 5.0)
        for plan in (Plan(()), Plan((Named("every", EveryStage()),))):
            entrance = Entrance("test", "1d", "default", plan, dialler, Limits(linger_seconds=0.2))
            path = self.directory / f"{len(self.acceptors)}.sock"
            for sock in (listen_unix(path, 0o600, None, None, "test"), listen_tcp("127.0.0.1", 0, "test")):
                self.acceptors.append(Acceptor(self.hub, sock, entrance))
        self.addresses = [
            f"unix://{where}" if isinstance(where := each.address(), str) else f"tcp://{where[0]}:{where[1]}"
            for each in self.acceptors
        ]
        self.thread.start()

    def stop(self) -> None:
        """Stop the reactor, and close all."""

        def close() -> None:
            for acceptor in self.acceptors:
                acceptor.close()
            self.hub.poller.close()
            self.reactor.stop()

        self.reactor.callFromThread(close)
        self.thread.join()

    def counts(self) -> tuple[int, ...]:
        """Count the living objects of each type."""
        gc.collect()
        objects = gc.get_objects()
        return tuple(sum(isinstance(each, kind) for each in objects) for kind in self.types)

    def come_and_go(self, state: str, leave: Callable[[Stream], object]) -> None:
        """Come to a state at each address, leave, and see that nothing is left."""
        sent, seen = STATES[state]
        for address in self.addresses:
            with Stream(address) as stream:
                stream.send(sent.replace(b"ID", self.container.encode()))
                if seen:
                    stream.until(seen)
                elif sent:
                    wait_until(lambda: self.hub.conversations, "the conversation")
                if b"/stop" in sent or b"/build" in sent:
                    wait_until(lambda: self.engine.open, "the engine's connection")
                leave(stream)
            if state == "pipelined" and address.startswith("tcp"):
                # net/http does not look for a client's end either once there is more of it to read.
                self.engine.drop()
            wait_until(lambda: not self.hub.wires and not self.hub.conversations, f"an end of {state} at {address}")
            wait_until(lambda: not self.engine.open, f"an end of {state} at the engine of {address}")

    def check(self, leave: Callable[[Stream], object]) -> None:
        before, open_before = self.counts(), self.descriptors()
        for state in STATES:
            self.come_and_go(state, leave)
        wait_until(lambda: not self.reactor.getDelayedCalls(), "the timers")
        self.assertEqual(self.counts(), before)
        self.assertLessEqual(self.descriptors(), open_before + 1)  # the epoll set of our own

    def descriptors(self) -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def test_client_closes(self) -> None:
        """The client closes."""
        self.check(lambda stream: stream.close())

    def test_client_resets(self) -> None:
        """The client's connection breaks."""
        self.check(lambda stream: stream.reset())

    def test_client_half_closes(self) -> None:
        """The client ends its input, and leaves later."""
        self.check(lambda stream: stream.half_close())

    def test_engine_closes(self) -> None:
        """The engine closes; the client sees an end, or closes itself."""

        def leave(stream: Stream) -> None:
            self.engine.drop()
            wait_until(lambda: not self.engine.open, "the end of the engine's connections")

        self.check(leave)
