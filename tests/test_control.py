"""The control API over a real unix socket: what it answers, whom, and what it does with hostile input."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.cli.client import ApiError, Client, ConnectionBroken, NoDaemon, Refused, target
from docker_tracker.control import door, tables
from docker_tracker.control.api import ROUTES
from docker_tracker.control.metrics import Scrape, families
from docker_tracker.control.peer import Caller, Who, caller_of
from docker_tracker.control.probe import Probe, Seen
from docker_tracker.control.reading import MOST_BODY, number, read_json, read_target
from docker_tracker.control.streams import EventStream, LeaseStream, Stream
from docker_tracker.counts import BUCKETS, Counts
from docker_tracker.engine.catalogue import RESOURCE_KINDS
from docker_tracker.errors import (
    ConfigurationError,
    EngineAnswerError,
    EngineUnavailableError,
    LedgerError,
    RefusedError,
)
from docker_tracker.interfaces import IJobs, ILease
from docker_tracker.job import JobRequest, JobState, ReapItem, ReapReport
from docker_tracker.records import Relation, Resource
from docker_tracker.testing import FakeEngine
from tests.support.fake_jobs import FakeJobs, FakeLease, Served, meaning, served

THING = Resource(kind="container", identifier="ab" * 32, name="web", created=1.5)
NOBODY = 65534


def status_of(error: ApiError) -> int:
    return error.status


class ServedCase(SynchronousTestCase):
    """Tests with a served control socket."""

    allowed: Who | None = None

    def setUp(self) -> None:
        self.it: Served = self.enterContext(served(self.allowed))
        self.client = Client(self.it.path)
        self.jobs = self.it.jobs

    def wait_for(self, holds: Any) -> None:
        """Wait until the serving thread has come so far."""
        end = time.monotonic() + 20
        while not holds():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Make a call that has to fail."""
        error = self.assertRaises(ApiError, self.client.call, method, path, body)
        return error.status, error.message

    def raw(self, data: bytes, seconds: float = 20) -> bytes:
        """Send bytes; return all that comes until the connection ends."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(seconds)
            sock.connect(str(self.it.path))
            answer = b""
            with contextlib.suppress(BrokenPipeError):  # refused before all was sent
                sock.sendall(data)
            with contextlib.suppress(ConnectionResetError):  # as some of it was never read
                while piece := sock.recv(65536):
                    answer += piece
            return answer

    def post(self, path: str, body: bytes, more: bytes = b"") -> tuple[int, str]:
        """Post raw bytes; return the status and what was said."""
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
        answer = self.raw(head % (path.encode(), more, len(body)) + body)
        top, _, said = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), json.loads(said).get("message", "")


class CallTests(ServedCase):
    """What each call does."""

    def test_fakes(self) -> None:
        """What stands for the jobs offers what the real ones do."""
        verifyObject(IJobs, FakeJobs())
        verifyObject(ILease, FakeLease())

    def test_start(self) -> None:
        """A job is made for who asks, with the process that does, and answered as the reference says."""
        made = self.client.call("POST", "/jobs", {"name": "build", "labels": {"a": "b"}, "ends": {"ttl": 1.5}})
        _, request, owner, pid = self.jobs.asked[0]
        self.assertEqual((owner, pid), (os.geteuid(), os.getpid()))
        self.assertEqual(request, JobRequest.of({"name": "build", "labels": {"a": "b"}, "ends": {"ttl": 1.5}}))
        self.assertEqual(list(made), list(tables.JOB_FIELDS))
        self.assertEqual(made["created"], "2023-11-14T22:13:20.000Z")
        self.assertEqual(made["env"], {"DOCKER_HOST": f"unix://{made['socket']}"})
        self.assertEqual(self.refused("POST", "/jobs", {"name": "build"})[0], 409)

    def test_bad_requests(self) -> None:
        """What is no request for a job is refused with a sentence, and nothing is made."""
        for name in ("..", "../x", "a/b", "", "x" * 64, "-a", "a\0", 7, None, ["a"], "é"):
            status, message = self.refused("POST", "/jobs", {"name": name})
            self.assertEqual(status, 400, name)
            self.assertIn("name", message)
        for who in ("4294967295", "9" * 30, 10**30, "\u00b2"):
            for key in ("user", "group"):
                status, message = self.refused("POST", "/jobs", {"name": "a", key: who})
                self.assertEqual((status, f"{key} must be a name or a number" in message), (400, True), who)
        for pid in (0, 2**31, 10**30, 1e300, True):
            self.assertEqual(self.refused("POST", "/jobs", {"name": "a", "ends": {"process": pid}})[0], 400, pid)
        for seconds in (-1, 1e10, "5", True):
            for more in ({"keep_on_failure": seconds}, {"ends": {"ttl": seconds}}):
                self.assertEqual(self.refused("POST", "/jobs", {"name": "a", **more})[0], 400, more)
        for label in ("docker-tracker.job", "Docker-Tracker.job", ""):
            status, message = self.refused("POST", "/jobs", {"name": "a", "labels": {label: "x"}})
            self.assertEqual((status, "cannot be a job's own label" in message), (400, True), label)
        self.assertEqual(self.refused("POST", "/jobs", {"name": "a", "nmae": 1})[0], 400)
        self.assertEqual(self.refused("POST", "/jobs", [1])[0], 400)
        self.assertEqual(self.refused("POST", "/jobs")[0], 400)
        self.assertEqual(self.jobs.asked, [])

    def test_list(self) -> None:
        """Jobs that are gone are listed when they are asked for."""
        self.jobs.make("a")
        self.jobs.make("b", state=JobState.GONE)
        names = lambda path: [job["name"] for job in self.client.call("GET", path)]  # noqa: E731
        self.assertEqual(names("/jobs"), ["a"])
        self.assertEqual(names("/jobs?all=1"), ["a", "b"])
        self.assertEqual(names("/jobs?all=0"), ["a"])

    def test_show(self) -> None:
        """A job is found by ID and by name; an unknown one is a 404."""
        job = self.jobs.make("a")
        self.assertEqual(self.client.call("GET", "/jobs/a"), self.client.call("GET", f"/jobs/{job.id}"))
        self.assertEqual(self.refused("GET", "/jobs/b"), (404, "there is no job 'b'"))

    def test_end(self) -> None:
        """A job is ended with a reason; who waits is answered when it is over."""
        first, second = self.jobs.make("a"), self.jobs.make("b")
        ended = self.client.call("POST", "/jobs/a/end", {"reason": "enough", "failed": True})
        self.assertEqual((ended["state"], ended["reason"], ended["report"]), ("draining", "enough", None))
        self.assertEqual(self.jobs.asked[0], ("end", first.id, "enough", True))
        over = self.client.call("POST", "/jobs/b/end?wait=1")
        self.assertEqual(self.jobs.asked[1], ("end", second.id, f"ended by uid {os.geteuid()}", False))
        self.assertEqual((over["state"], list(over["report"])), ("gone", list(tables.REPORT_FIELDS)))

    def test_end_badly(self) -> None:
        """What is no reason does not end a job."""
        self.jobs.make("a")
        bodies: tuple[Any, ...] = (
            {"reason": ""},
            {"reason": "x" * 201},
            {"reason": "a\nb"},
            {"reason": 1},
            {"failed": 1},
            [],
            {"x": 1},
        )
        for body in bodies:
            self.assertEqual(self.refused("POST", "/jobs/a/end", body)[0], 400, body)
        self.assertEqual(self.refused("POST", "/jobs/a/end?wait=yes")[0], 400)
        self.assertEqual(self.jobs.asked, [])

    def test_reap(self) -> None:
        """A reap's report is the answer, and each of its items is as the reference says."""
        job = self.jobs.make("a")
        self.jobs.left = (ReapItem(kind="volume", identifier="v", outcome="left", reason="in use"),)
        report = self.client.call("POST", "/jobs/a/reap?dry-run=1")
        self.assertEqual(self.jobs.asked, [("reap", job.id, True)])
        self.assertEqual(
            (list(report), list(report["items"][0])), (list(tables.REPORT_FIELDS), list(tables.ITEM_FIELDS))
        )

    def test_report(self) -> None:
        """The last reap's report is given; before there was one that is a 404."""
        self.jobs.make("a")
        self.assertEqual(self.refused("GET", "/jobs/a/report"), (404, "the job a has not been reaped yet"))
        report = ReapReport(job_id="1", job="a", problem="no engine")
        self.jobs.change("a", report=report)
        self.assertEqual(ReapReport.of(self.client.call("GET", "/jobs/a/report")), report)

    def test_reconcile(self) -> None:
        """The reconciler is run as asked."""
        self.client.call("POST", "/reconcile?dry-run=1&adopt=abc")
        status, message = self.refused("POST", "/reconcile?adopt=a%20b")
        self.assertEqual((status, message.partition(";")[0]), (400, "adopt: 'a b' is not an instance ID"))
        self.client.call("POST", "/reconcile")
        self.assertEqual(self.jobs.asked, [("reconcile", True, "abc"), ("reconcile", False, "")])

    def test_resources(self) -> None:
        """Resources are listed as the reference says, all or of one kind or job."""
        self.it.ledger.recorded.append(THING)
        (found,) = self.client.call("GET", "/resources")
        self.assertEqual(list(found), list(tables.RESOURCE_FIELDS))
        self.assertEqual((found["id"], found["created"]), ("ab" * 32, "1970-01-01T00:00:01.500Z"))
        self.assertEqual(self.client.call("GET", "/resources?kind=volume"), [])
        self.assertEqual(self.refused("GET", "/resources?kind=vol")[0], 400)
        self.assertEqual(self.refused("GET", "/resources?job=b")[0], 404)

    def test_why(self) -> None:
        """What is known of a resource is given, whatever its name has in it."""
        self.jobs.meanings = [meaning(THING, self.jobs.make("a"), pid="12"), meaning(THING, None) | {"intent": None}]
        first, second = self.client.call("GET", target("why", "registry/x:latest"))
        self.assertEqual(self.jobs.asked, [("why", "registry/x:latest")])
        self.assertEqual((list(first), list(first["intent"])), (list(tables.WHY_FIELDS), list(tables.INTENT_FIELDS)))
        self.assertLessEqual(set(first["resource"]), set(tables.RESOURCE_FIELDS))
        self.assertEqual((second["job"], second["intent"]), (None, None))

    def test_daemon(self) -> None:
        """Health and version are told at once, whatever the engine does."""
        self.it.engine.answers["GET /version"] = EngineUnavailableError("nobody is there")
        health, version = self.client.call("GET", "/health"), self.client.call("GET", "/version")
        self.assertEqual((health["status"], health["instance"]), ("running", "instance-1"))
        self.assertGreaterEqual(health["uptime_seconds"], 0)
        self.assertEqual(version.pop("engine"), self.it.engine.address)
        self.assertEqual(version, {key: health[key] for key in version})

    def test_ready(self) -> None:
        """Readiness is the engine's."""
        self.it.engine.answers["GET /version"] = {"Version": "29.1", "ApiVersion": "1.52"}
        engine = self.client.call("GET", "/ready")["engine"]
        self.assertEqual((engine["version"], engine["api_version"]), ("29.1", "1.52"))
        self.it.engine.answers["GET /version"] = EngineUnavailableError("nobody is there")
        self.assertEqual(self.refused("GET", "/ready"), (503, "nobody is there"))

    def test_metrics(self) -> None:
        """Prometheus' own parser reads the metrics; a ledger that can't be read takes nothing else."""
        self.jobs.make("a")
        self.it.ledger.recorded.append(THING)
        text = self.client.call("GET", "/metrics")
        found = {family.name: family for family in text_string_to_metric_families(text)}
        self.assertEqual(found["docker_tracker_tracked_objects"].samples[0].labels, {"kind": "container"})
        self.assertEqual(found["docker_tracker_jobs"].samples[0].value, 1)
        self.it.ledger.error = LedgerError("l", "broken")
        text = self.client.call("GET", "/metrics")
        self.assertNotIn("tracked_objects", text)
        self.assertIn("docker_tracker_journal_errors_total 0.0", text)  # the ledger itself counts
        self.assertIn(b"text/plain; version=0.0.4", self.raw(b"GET /metrics HTTP/1.0\r\n\r\n"))

    def test_errors(self) -> None:
        """Each error of ours has its status, and keeps its sentence; any other one's text stays with us."""
        self.jobs.make("a")
        for error, status, message in (
            (RefusedError("not now", 409), 409, "not now"),
            (EngineUnavailableError("no engine", 503), 503, "no engine"),
            (EngineAnswerError("bad engine"), 502, "bad engine"),
            (LedgerError("l", "full"), 500, "the ledger l: full"),
            (ConfigurationError("listen x", "is bad"), 400, "listen x: is bad"),
            (ValueError("secret"), 500, "something went wrong in the daemon: its log says what"),
        ):
            self.jobs.error = error
            self.assertEqual(self.refused("POST", "/jobs/a/end"), (status, message))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_routes(self) -> None:
        """Every route refuses another method with what it takes, an unknown parameter, and a body it has no use for."""
        self.jobs.make("a")
        for route in ROUTES:
            path = route.path.replace("{job}", "a").replace("{resource}", "a")
            answer = self.raw(f"DELETE {path} HTTP/1.0\r\n\r\n".encode())
            self.assertIn(b" 405 ", answer)
            allowed = answer.partition(b"Allow: ")[2].partition(b"\r\n")[0].decode().split(", ")
            self.assertIn(route.method, allowed)
            status, message = self.refused(route.method, f"{path}?bogus=1")
            self.assertEqual((status, "bogus" in message), (400, True))
            if not route.body:
                self.assertEqual(self.refused(route.method, path, {"x": 1})[0], 400)
        self.assertEqual(self.jobs.asked, [])

    def test_unknown_paths(self) -> None:
        """A path that is none of ours is a 404, and is not cleaned up into one."""
        for path in (
            "/",
            "//jobs",
            "/jobs/",
            "/jobs//end",
            "/Jobs",
            "/jobs/../jobs",
            "/job",
            "/jobs/a/b/c",
            "/containers/json",
        ):
            self.assertEqual(self.refused("GET", path)[0], 404, path)


class HostileTests(ServedCase):
    """What the API is sent by who means it no good."""

    def test_bad_bodies(self) -> None:
        """JSON that is broken, ambiguous or too deep is a 400, with a sentence."""
        for body, said in (
            (b'{"name":"a","name":"b"}', "twice"),
            (b'{"name":NaN}', "NaN"),
            (b'{"name":"a","ends":{"ttl":Infinity}}', "Infinity"),
            (b'{"name":"a","ends":{"ttl":1e999}}', "too large"),
            (b'{"name":' + b"9" * 5000 + b"}", "too long"),
            (b"[" * 100_000, "deeper"),
            (b'{"a":' * 33 + b"1" + b"}" * 33, "deeper"),
            (b'{"name":"\\ud800"}', "Unicode"),
            (b'{"name":"\xff"}', "Unicode"),
            (b'{"name"', "no JSON"),
            (b'{"name":"a"} x', "no JSON"),
            (b"\xef\xbb\xbf{}", "no JSON"),
        ):
            status, message = self.post("/jobs", body)
            self.assertEqual((status, said in message), (400, True), (body[:40], message))
        self.assertEqual(self.jobs.asked, [])

    def test_brackets_in_text(self) -> None:
        """Brackets in strings are no depth."""
        self.assertEqual(read_json(json.dumps({"a": "[{" * 100, "b\\": '"'}).encode()), {"a": "[{" * 100, "b\\": '"'})
        self.assertEqual(read_json(b" \n"), {})

    def test_long_bodies(self) -> None:
        """Too long a body is refused, with a length, in chunks, and however far it was sent; the door stays open."""
        self.assertEqual(self.refused("POST", "/jobs", {"name": "x" * 10_000_000})[0], 413)
        head = b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        self.assertIn(b" 413 ", self.raw(head + chunk * 40).splitlines()[0])
        self.assertIn(b" 413 ", self.raw(b"POST /jobs HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n"))
        expecting = self.raw(b"POST /jobs HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
        self.assertEqual((expecting.count(b"HTTP/1.1"), b" 413 " in expecting), (1, True))
        self.assertEqual(self.post("/jobs", b" " * (MOST_BODY - 20) + b'{"name":"a"}')[0], 201)

    def test_bad_targets(self) -> None:
        """A target that can be read in two ways, or not at all, is a 400."""
        for path in (
            "/jobs/%",
            "/jobs/%zz",
            "/jobs/%ff",
            "/jobs/a%00",
            "/jobs/a%0a",
            "/jobs?all=%",
            "/jobs?all=1&all=1",
        ):
            answer = self.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            self.assertIn(b" 400 ", answer.splitlines()[0], path)
        self.assertEqual(read_target(b"/why/a%2Fb?x=a+b%2B&y").query, {"x": "a b+", "y": ""})
        self.assertRaises(RefusedError, read_target, b"jobs")
        for text in ("-1", "1.5", "x", "9" * 19, "٣", ""):
            self.assertRaises(RefusedError, number, {"since": text}, "since")

    def test_names_in_paths(self) -> None:
        """A reference with dots and slashes is looked for as it is, and not found."""
        for name in ("..", "../../etc", "a/b", "x" * 5000):
            self.assertEqual(self.refused("GET", target("jobs", name))[0], 404)

    def test_no_http(self) -> None:
        """What is no HTTP is a 400 and the connection's end; a form is no JSON."""
        for data in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"):
            self.assertIn(b" 400 ", self.raw(data).splitlines()[0])
        form = b"Content-Type: application/x-www-form-urlencoded\r\n"
        self.assertEqual(self.post("/jobs", b"name=a", form)[0], 400)
        self.assertEqual(self.jobs.asked, [])

    def test_many_connections(self) -> None:
        """Two hundred connections that say nothing keep nobody from being answered, and are all let go."""
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(self.it.path))
            self.assertEqual(self.client.call("GET", "/jobs"), [])
        self.assertEqual(self.client.call("GET", "/jobs"), [])

    def test_pipelined(self) -> None:
        """Requests that come together are answered in their order."""
        answer = self.raw(b"GET /jobs HTTP/1.1\r\n\r\n" * 3 + b"GET /nope HTTP/1.1\r\nConnection: close\r\n\r\n")
        self.assertEqual(answer.count(b"200 OK"), 3)
        self.assertIn(b"404 ", answer.split(b"200 OK")[-1])

    def test_client_leaves(self) -> None:
        """Who leaves while a reap is waited for leaves nothing behind; the reap goes on."""
        self.jobs.make("a")
        gate: Deferred[None] = Deferred()
        self.jobs.gate = gate
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.it.path))
        sock.sendall(b"POST /jobs/a/reap HTTP/1.1\r\n\r\n")
        self.wait_for(lambda: self.jobs.asked)
        sock.close()
        self.client.call("GET", "/health")
        self.it.call(lambda: gate.callback(None))
        self.client.call("GET", "/health")
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class DoorTests(ServedCase):
    """Who is let in, and how the door is closed."""

    def test_full(self) -> None:
        """When there are as many connections as there may be, the next waits until one has gone."""
        self.patch(door, "MOST_CONNECTIONS", 2)
        self.jobs.make("a")
        with self.client.hold("/jobs/a/lease"):
            other = self.client.hold("/jobs/a/lease")
            error = self.assertRaises(ConnectionBroken, self.client.call, "GET", "/jobs", timeout=0.3)
            self.assertIn("does not answer", str(error))
            other.close()
            self.assertEqual(len(self.client.call("GET", "/jobs")), 1)

    def test_no_descriptors(self) -> None:
        """Without descriptors nobody is accepted for a moment; who waits is served then."""
        accept, failures = socket.socket.accept, [OSError(24, "EMFILE"), ConnectionAbortedError(), BlockingIOError()]

        def failing(sock: socket.socket) -> Any:
            if failures:
                raise failures.pop(0)
            return accept(sock)

        self.patch(socket.socket, "accept", failing)
        self.assertEqual(self.client.call("GET", "/jobs"), [])
        self.assertEqual(failures, [])

    def test_one_that_fails(self) -> None:
        """A connection that cannot be served is closed and logged, and the next one is served."""
        real = caller_of

        def failing(sock: socket.socket) -> Caller:
            self.patch(door, "caller_of", real)
            raise OSError("it has gone")

        self.patch(door, "caller_of", failing)
        self.assertRaises(ConnectionBroken, self.client.call, "GET", "/jobs")
        self.assertEqual(self.client.call("GET", "/jobs"), [])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_close(self) -> None:
        """The door's end lets go of what is held, and nobody waits for a client that does not read."""
        self.jobs.make("a")
        for _ in range(2000):
            self.jobs.happen("big", None, text="x" * 1000)
        held = self.client.hold("/jobs/a/lease")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.it.path))
            sock.sendall(b"GET /events HTTP/1.1\r\n\r\n")
            self.client.call("GET", "/health")
            closed = threading.Event()
            self.it.call(lambda: self.it.service.close().addCallback(lambda _: closed.set()))
            self.assertTrue(closed.wait(20))
        self.assertFalse(held.alive())
        held.close()
        self.assertEqual(self.jobs.leases[0].released, 1)
        self.assertRaises(Refused, self.client.call, "GET", "/jobs")


class StreamTests(ServedCase):
    """Answers that go on."""

    def test_lease(self) -> None:
        """A lease is held until its connection ends, however that comes."""
        self.jobs.make("a")
        with self.client.hold("/jobs/a/lease") as held:
            self.assertEqual((held.first["name"], held.alive()), ("a", True))
            self.assertEqual(self.jobs.leases[0].released, 0)
            self.assertGreater(held.fileno(), 0)
        self.assertEqual((held.fileno(), held.alive()), (-1, False))
        self.wait_for(lambda: self.jobs.leases[0].released)
        self.assertEqual(self.jobs.leases[0].released, 1)

    def test_no_lease(self) -> None:
        """A job that cannot be held is said so."""
        self.jobs.make("a")
        self.jobs.error = RefusedError("it has no lease", 409)
        self.assertEqual(status_of(self.assertRaises(ApiError, self.client.hold, "/jobs/a/lease")), 409)

    def test_events(self) -> None:
        """Events are given as lines, from any number on, through all of the ledger's pages."""
        self.jobs.page = 2
        job = self.jobs.make("a")
        for index in range(5):
            self.jobs.happen("tick", job, index=index)
        lines = [json.loads(line) for line in self.client.stream("/events")]
        self.assertEqual([line["number"] for line in lines], [1, 2, 3, 4, 5])
        self.assertEqual(list(lines[0]), list(tables.EVENT_FIELDS))
        self.assertEqual([json.loads(line)["number"] for line in self.client.stream("/events?since=3")], [4, 5])
        self.assertEqual(list(self.client.stream("/events?since=5")), [])

    def test_follow(self) -> None:
        """Who follows gets what happens later, once each, until it leaves."""
        self.jobs.happen("before")
        lines = self.client.stream("/events?follow=1")
        self.assertEqual(json.loads(next(lines))["event"], "before")
        for name in ("one", "two"):
            self.it.call(lambda name=name: self.jobs.happen(name))  # type: ignore[misc]
        self.assertEqual([json.loads(next(lines))["event"] for _ in range(2)], ["one", "two"])
        lines.close()  # type: ignore[attr-defined]
        self.wait_for(lambda: not self.jobs.listeners)

    def test_slow_reader(self) -> None:
        """For a client that does not read no more is read from the ledger than the kernel takes, and then all of it."""
        self.jobs.page = 100
        for _ in range(5000):
            self.jobs.happen("big", None, text="x" * 1000)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(str(self.it.path))
            sock.settimeout(20)
            sock.sendall(b"GET /events HTTP/1.1\r\nConnection: close\r\n\r\n")
            before = -1
            while self.jobs.read != before:  # until nothing moves between two answers
                before = self.jobs.read
                for _ in range(20):
                    self.client.call("GET", "/health")
            self.assertLess(self.jobs.read, 2000)
            answer = b""
            while piece := sock.recv(1 << 20):
                answer += piece
        self.assertEqual(answer.count(b'"event":"big"'), 5000)

    def test_broken_events(self) -> None:
        """If the ledger fails in between, the answer is broken off, so that nobody takes it for complete."""
        self.jobs.page = 1
        self.jobs.happen("one")
        lines = self.client.stream("/events?follow=1")
        next(lines)

        def fail() -> None:
            self.jobs.error = LedgerError("l", "broken")
            self.jobs.happen("two")

        self.it.call(fail)
        self.assertRaises(ConnectionBroken, list, lines)
        self.wait_for(lambda: not self.jobs.listeners)

    def test_broken_at_once(self) -> None:
        """If the ledger cannot be read at all, that is the answer, and nobody is told of events."""
        self.jobs.error = LedgerError("l", "broken")
        self.assertEqual(self.refused("GET", "/events")[0], 500)
        self.assertEqual(self.jobs.listeners, [])


class RightsTests(ServedCase):
    """Who is neither root nor in the group; the daemon's own user is taken out of the rights for this."""

    class _Nobody(Who):
        def includes(self, caller: Caller) -> bool:
            return False

    allowed = _Nobody()

    def test_own(self) -> None:
        """One's own jobs can be looked at, reaped and ended; others' cannot, nor what is nobody's."""
        mine, theirs = self.jobs.make("mine"), self.jobs.make("theirs", owner=NOBODY)
        self.it.ledger.recorded.extend(
            [Resource(kind="volume", identifier=job.name, job_id=job.id) for job in (mine, theirs)]
        )
        self.jobs.meanings = [meaning(THING, mine), meaning(THING, theirs), meaning(THING, None)]
        names = [job["name"] for job in self.client.call("GET", "/jobs")]
        self.assertEqual(names, ["mine"])
        self.assertEqual([each["id"] for each in self.client.call("GET", "/resources")], ["mine"])
        self.assertEqual([each["job"]["name"] for each in self.client.call("GET", "/why/x")], ["mine"])
        self.client.call("GET", "/resources?job=mine")
        self.client.call("POST", "/jobs/mine/reap")
        self.client.call("POST", "/jobs/mine/end")
        self.jobs.asked.clear()
        for method, path in (
            ("GET", "/jobs/theirs"),
            ("POST", "/jobs/theirs/end"),
            ("POST", f"/jobs/{theirs.id}/reap"),
            ("GET", "/jobs/theirs/report"),
            ("GET", "/jobs/theirs/lease"),
            ("GET", "/resources?job=theirs"),
            ("POST", "/reconcile"),
            ("GET", "/events"),
            ("POST", "/jobs"),
        ):
            self.assertEqual(self.refused(method, path, {"name": "x"} if path == "/jobs" else None)[0], 403, path)
        self.assertEqual(self.jobs.asked, [])
        self.client.call("GET", "/health")


class PeerTests(SynchronousTestCase):
    """Who connects."""

    def test_caller(self) -> None:
        """The kernel says who connected, with all groups, also if these are many."""
        first, second = socket.socketpair()
        with first, second:
            caller = caller_of(first)
        self.assertEqual((caller.pid, caller.uid), (os.getpid(), os.geteuid()))
        self.assertEqual(caller.groups, {os.getegid(), *os.getgroups()})

    def test_many_groups(self) -> None:
        """More groups than fit at first are all read."""

        class Many:
            def getsockopt(self, level: int, option: int, size: int) -> bytes:
                if option == socket.SO_PEERCRED:
                    return struct.pack("3i", 1, 7, 8)
                if size < 300 * 4:
                    raise OSError(34, "ERANGE")
                return struct.pack("300I", *range(1000, 1300))

        many: Any = Many()
        self.assertEqual(caller_of(many).groups, {8, *range(1000, 1300)})

    def test_old_kernels(self) -> None:
        """Where the kernel does not tell the groups, the process's own one counts; other errors are none of that."""

        class Old:
            error = 92  # ENOPROTOOPT

            def getsockopt(self, level: int, option: int, size: int) -> bytes:
                if option == socket.SO_PEERCRED:
                    return struct.pack("3i", 0, 7, 8)
                raise OSError(self.error, "no")

        old: Any = Old()
        self.assertEqual(caller_of(old), Caller(pid=None, uid=7, groups=frozenset((8,))))
        old.error = 34  # ERANGE, for ever
        self.assertRaises(OSError, caller_of, old)

    def test_who(self) -> None:
        """Root, the daemon's own user, and the groups' members may do everything; nobody else."""
        who = Who(groups=frozenset((50,)))
        may = lambda uid, *groups: who.includes(Caller(pid=1, uid=uid, groups=frozenset(groups)))  # noqa: E731
        self.assertTrue(may(0, 0))
        self.assertTrue(may(os.geteuid()))
        self.assertTrue(may(NOBODY, 49, 50))
        self.assertFalse(may(NOBODY, 49))


class ClientTests(SynchronousTestCase):
    """The client's own errors."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="dt-", dir="/tmp"))) / "s"
        self.client = Client(self.path)

    def test_absent(self) -> None:
        """Nobody there is one error, somebody who does not let us in another."""
        self.assertRaises(NoDaemon, self.client.call, "GET", "/")
        self.assertRaises(NoDaemon, Client(self.path / "x").call, "GET", "/")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(self.path))
        error = self.assertRaises(Refused, self.client.call, "GET", "/")
        self.assertIn("start it again", str(error))
        self.assertRaises(NoDaemon, Client(self.path / "x").call, "GET", "/")
        self.assertRaises(NoDaemon, Client("x" * 200).call, "GET", "/")

    def test_forbidden(self) -> None:
        """A socket that we may not connect to refuses."""
        if os.geteuid():
            self.skipTest("only root can become somebody else")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(self.path))
            os.chmod(self.path.parent, 0o755)
            os.chmod(self.path, 0o600)
            sock.listen()
            code = (
                "import os, sys; from docker_tracker.cli.client import *\nos.setgid(65534); os.setuid(65534)\n"
                "try: Client(sys.argv[1]).call('GET', '/')\nexcept Refused as error: print(error)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, self.path], capture_output=True, text=True, timeout=60, check=True
            )
        self.assertIn("become a member of its group", done.stdout)

    def answer(self, data: bytes, call: Any, *, then_close: bool = True) -> Any:
        """Make a call that is answered with some bytes."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(self.path))
            sock.listen()
            code = (
                "import socket, sys, time\nsock, _ = socket.socket(fileno=int(sys.argv[1])).accept()\n"
                "sock.recv(65536); sock.sendall(sys.stdin.buffer.read())\n"
                "if not int(sys.argv[2]): sock.recv(1)"
            )
            with subprocess.Popen(
                [sys.executable, "-c", code, str(sock.fileno()), str(int(then_close))],
                stdin=subprocess.PIPE,
                pass_fds=[sock.fileno()],
            ) as process:
                assert process.stdin is not None
                process.stdin.write(data)
                process.stdin.close()
                return call()

    def test_broken(self) -> None:
        """What is cut off, silent or no JSON is said so; it is never taken for an answer."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        call = lambda: self.client.call("GET", "/", timeout=60)  # noqa: E731
        hold = lambda: self.client.hold("/", timeout=60)  # noqa: E731
        for data, made, said in (
            (b"", call, "broke off"),
            (b"hello\r\n\r\n", call, "broke off"),
            (head + b"Content-Length: 9\r\n\r\n{}", call, "broke off"),
            (head + b"Content-Length: 2\r\n\r\n{x", call, "no docker-tracker"),
            (head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", hold, "before the first line"),
        ):
            error = self.assertRaises(ConnectionBroken, self.answer, data, made)
            self.assertIn(said, str(error))
            self.path.unlink()
        call = lambda: self.client.call("GET", "/", timeout=0.2)  # noqa: E731
        error = self.assertRaises(ConnectionBroken, self.answer, b"", call, then_close=False)
        self.assertIn("does not answer", str(error))

    def test_odd_errors(self) -> None:
        """An error whose text is no JSON of ours is shown as it is; one without any by its status."""
        for data, said in ((b"Content-Length: 5\r\n\r\nsorry", "sorry"), (b"Content-Length: 0\r\n\r\n", "500 Broken")):
            error = self.assertRaises(
                ApiError, self.answer, b"HTTP/1.1 500 Broken\r\n" + data, lambda: self.client.call("GET", "/")
            )
            self.assertEqual((error.status, str(error)), (500, said))
            self.path.unlink()

    def test_empty(self) -> None:
        """No content is None."""
        got = self.answer(b"HTTP/1.1 204 No Content\r\n\r\n", lambda: self.client.call("GET", "/"))
        self.assertIsNone(got)

    def test_target(self) -> None:
        """Segments are quoted, and what is not given is left out."""
        made = target("jobs", "a/b c", "end", wait=True, dry_run=False, adopt="", since=0, job=None, to_do="x&y")
        self.assertEqual(made, "/jobs/a%2Fb%20c/end?wait=1&since=0&to-do=x%26y")


class PartTests(SynchronousTestCase):
    """Parts that have a clock, with one that stands still."""

    def test_beat(self) -> None:
        """A lease shows signs of life, but not to who does not read; it ends with its job, or when that is unknown."""
        clock, jobs, lease = Clock(), FakeJobs(), FakeLease()
        written: list[bytes] = []
        ends: list[bool] = []
        jobs.make("a")
        job = jobs.get("a")
        stream = LeaseStream(clock, jobs, lease, job.id, {"id": job.id})
        stream.begin(written.append, ends.append)
        clock.advance(10)
        stream.pause()
        clock.advance(10)
        stream.resume()
        clock.advance(10)
        self.assertEqual(written[1:], [b"\n", b"\n"])
        jobs.change("a", state=JobState.DRAINING)
        clock.advance(10)
        self.assertEqual((ends, lease.released), ([True], 0))
        stream.ended()
        self.assertEqual((lease.released, clock.getDelayedCalls()), (1, []))
        jobs.known.clear()
        other = LeaseStream(clock, jobs, lease, job.id, {})
        other.begin(written.append, ends.append)
        clock.advance(10)
        self.assertEqual(ends, [True, True])

    def test_pause(self) -> None:
        """Events stop at once for who does not read, and are forgotten with who leaves then."""
        jobs = FakeJobs()
        for _ in range(120):
            jobs.happen("x")
        written: list[bytes] = []
        ends: list[bool] = []
        stream = EventStream(jobs, 0, True)
        self.successResultOf(Deferred.fromCoroutine(stream.load()))

        def write(line: bytes) -> None:
            written.append(line)
            stream.pause()

        stream.begin(write, ends.append)
        self.assertEqual(len(written), 1)
        stream.resume()
        self.assertEqual(len(written), 2)
        stream.ended()
        self.assertEqual((len(written), jobs.listeners, jobs.read), (2, [], 120))

    def test_stream(self) -> None:
        """The base begins nothing."""
        self.assertRaises(NotImplementedError, Stream().begin, lambda line: None, lambda complete: None)

    def test_probe(self) -> None:
        """One call is made for all who ask at once; what the engine does becomes what was seen."""
        clock, gate = Clock(), Deferred[Any]()
        asked = []

        class Slow(FakeEngine):
            async def get(self, path: str, parameters: Any = None) -> Any:
                asked.append(path)
                return await gate

        probe = Probe(clock, Slow())
        first, second = probe.ask(), probe.ask()
        clock.advance(5)
        self.assertIn("within 5 seconds", self.successResultOf(first).problem)
        self.assertFalse(self.successResultOf(second).reached)
        self.assertEqual(asked, ["/version"])
        engine = FakeEngine()
        probe = Probe(clock, engine)
        engine.answers["GET /version"] = EngineAnswerError("sorry")
        self.assertEqual(self.successResultOf(probe.ask()), Seen(reached=True, problem="sorry"))
        engine.answers["GET /version"] = "hello"
        self.assertIn("is no engine", self.successResultOf(probe.ask()).problem)
        engine.answers["GET /version"] = KeyError("a bug")
        self.failureResultOf(probe.ask(), KeyError)

    def test_light_door(self) -> None:
        """The daemon's start does not import HTTP, or what makes metrics."""
        code = (
            "import sys, docker_tracker.control.door\n"
            "print([name for name in ('twisted.web', 'prometheus_client') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(done.stdout, "[]\n")


class CountsTests(SynchronousTestCase):
    """What is counted, and how it is shown."""

    def test_finished(self) -> None:
        """Exchanges are counted by what is bounded; odd methods of clients are one."""
        counts = Counts()
        for method, status, seconds in (
            ("GET", 200, 0.001),
            ("X-1", None, 7000.0),
            ("X-2", None, 0.003),
            ("GET", 200, 0.0),
        ):
            counts.began()
            counts.finished("/containers/json", method, status, "completed", seconds)
        self.assertEqual(
            counts.requests,
            {("/containers/json", "GET", "200", "completed"): 2, ("/containers/json", "other", "none", "completed"): 2},
        )
        self.assertEqual(counts.active, 0)
        self.assertEqual(counts.durations["/containers/json", "GET"].buckets, [2, *[0] * len(BUCKETS)])
        self.assertEqual(counts.durations["/containers/json", "other"].buckets, [0, 1, *[0] * (len(BUCKETS) - 2), 1])
        self.assertAlmostEqual(counts.durations["/containers/json", "other"].seconds, 7000.003)

    def test_families(self) -> None:
        """All that is counted is shown, under the names that the documentation has."""
        counts = Counts()
        counts.began()
        counts.began()
        counts.finished("/images/create", "POST", 200, "completed", 3.0)
        counts.streams["attach"] += 1
        counts.created["volume"] += 2
        counts.reaped["volume", "removed"] += 2
        counts.leaked["volume"] += 1
        counts.reconcile_finished("incomplete", 10.0)
        counts.reconcile_finished("done", 20.0)
        counts.denied["labels"] += 1
        counts.mutations["container"] += 1
        counts.interceptor_durations["labels"].add(0.002)
        counts.interceptor_errors["audit"] += 1
        used = Resource(kind="image", identifier="i", relation=Relation.USED)
        scrape = Scrape(
            counts=counts,
            version="1",
            started=5.0,
            engine=Seen(reached=True, problem="x"),
            states=["open", "open"],
            resources=[THING, used],
        )
        samples = {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in families(scrape)
            for sample in family.samples
        }
        name = "docker_tracker_"
        for key, labels, value in (
            ("build_info", ("1",), 1),
            ("requests_active", (), 1),
            ("http_requests_total", ("/images/create", "POST", "200", "completed"), 1),
            ("http_request_duration_seconds_bucket", ("/images/create", "POST", "2.5"), 0),
            ("http_request_duration_seconds_bucket", ("/images/create", "POST", "10.0"), 1),
            ("http_request_duration_seconds_bucket", ("/images/create", "POST", "+Inf"), 1),
            ("http_request_duration_seconds_sum", ("/images/create", "POST"), 3.0),
            ("streams_active", ("attach",), 1),
            ("upstream_up", (), 1),
            ("upstream_api_up", (), 0),
            ("jobs", ("open",), 2),
            ("tracked_objects", ("container",), 1),
            ("objects_created_total", ("volume",), 2),
            ("reaped_total", ("volume", "removed"), 2),
            ("leaked_total", ("volume",), 1),
            ("reconcile_runs_total", ("done",), 1),
            ("reconcile_last_success_timestamp_seconds", (), 20.0),
            ("denied_total", ("labels",), 1),
            ("mutations_total", ("container",), 1),
            ("interceptor_duration_seconds_bucket", ("labels", "0.001"), 0),
            ("interceptor_duration_seconds_bucket", ("labels", "0.005"), 1),
            ("interceptor_duration_seconds_sum", ("labels",), 0.002),
            ("interceptor_errors_total", ("audit",), 1),
            ("journal_errors_total", (), 0),
        ):
            self.assertEqual(samples[name + key, labels], value, key)
        self.assertNotIn((name + "tracked_objects", ("image",)), samples)

    def test_from_the_start(self) -> None:
        """What alerts are made of has samples before anything happened: an increase from nothing is none."""
        scrape = Scrape(
            counts=Counts(),
            version="1",
            started=5.0,
            engine=Seen(reached=False, problem="x"),
            states=[],
            resources=None,
        )
        samples = {
            (sample.name.removeprefix("docker_tracker_"), tuple(sample.labels.values())): sample.value
            for family in families(scrape)
            for sample in family.samples
        }
        for key in (
            ("reconcile_last_success_timestamp_seconds", ()),
            *(("reconcile_runs_total", (result,)) for result in ("done", "incomplete", "failed")),
            *(("reaped_total", (kind, "left")) for kind in RESOURCE_KINDS),
            *(("reaped_total", (kind, "removed")) for kind in RESOURCE_KINDS),
            *(("reaped_total", (kind, "kept")) for kind in RESOURCE_KINDS),
            *(("leaked_total", (kind,)) for kind in RESOURCE_KINDS),
            *(("objects_created_total", (kind,)) for kind in RESOURCE_KINDS),
        ):
            self.assertEqual(samples[key], 0.0, key)
