"""What the audit log says of an exchange, and what it never says."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.engine.catalogue import OPERATIONS, UNKNOWN, operation
from docker_tracker.engine.document import MISSING, Change, Number
from docker_tracker.engine.operation import Call
from docker_tracker.engine.recognise import recognise
from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.exchange import Answer, Edit, Exchange, Outcome, Peer, Stage
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.interfaces import IInterceptor, IInterceptorPlugin
from docker_tracker.plugins.audit import Audit, AuditSettings, audit, timestamp
from docker_tracker.sources import section

SECRET = "hunter2"
STARTED = 1_700_000_000.25
JOB = SimpleNamespace(id="j1", name="default")


class Daemon:
    """As much of `IDaemon` as the interceptor uses."""

    def __init__(self, audit_log: str | None) -> None:
        self.clock = Clock()
        self.clock.rightNow = STARTED
        self.settings = SimpleNamespace(audit_log=audit_log)
        self.reopen: list[Callable[[], None]] = []
        self.ahead = 0.0

    def now(self) -> float:
        return self.clock.seconds() + self.ahead

    def on_reopen(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.reopen.append(callback)
        return self.reopen.clear


def exchange(method: str = "GET", target: str = "/v1.47/info", peer: Peer | None = None, **more: Any) -> Exchange:
    head = RequestHead.parse(f"{method} {target} HTTP/1.1\r\nAuthorization: {SECRET}\r\n\r\n".encode())
    who = peer or Peer(pid=os.getpid(), uid=1000, gid=100)
    return Exchange(7, "j1", "default", "unix:///run/a.sock", who, recognise(method, target), head, STARTED, **more)


def response(status: int, fields: str = "") -> ResponseHead:
    return ResponseHead.parse(f"HTTP/1.1 {status} x\r\n{fields}\r\n".encode())


class Case(SynchronousTestCase):
    """Has an interceptor that writes to a file."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)
        self.path = self.directory / "audit.log"
        self.daemon = Daemon(str(self.path))
        self.audit = self.build(self.daemon)

    def build(self, daemon: Daemon, **settings: Any) -> Audit:
        parts: Any = JOB, daemon
        built = audit.build(AuditSettings(**settings), *parts)
        assert isinstance(built, Audit)
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(built.stop())))
        return built

    def lines(self) -> list[dict[str, Any]]:
        self.daemon.clock.advance(1)
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def line(self, one: Exchange, outcome: Outcome = Outcome.COMPLETED) -> dict[str, Any]:
        """Return the line of an exchange, and check that nothing secret is in it."""
        self.audit.started(one)
        self.audit.finished(one, outcome)
        (line,) = self.lines()
        self.assertNotIn(SECRET, self.path.read_text())
        return line


class PluginTests(Case):
    """How it is made, and what it asks for."""

    def test_interfaces(self) -> None:
        """Plug-in and interceptor keep to their interfaces."""
        verifyObject(IInterceptorPlugin, audit)
        verifyObject(IInterceptor, self.audit)
        self.assertEqual((audit.name, self.audit.fail_closed), ("audit", False))

    def test_wants(self) -> None:
        """Every exchange, and the heads of answers that may be streams; nothing at all without a log."""
        for name, head in [
            ("info", False),
            ("ping", False),
            ("container_create", False),
            ("events", True),
            ("exec_start", True),
            ("container_logs", True),
        ]:
            expected = Stage.STARTED | Stage.FINISHED
            self.assertEqual(self.audit.wants(operation(name)), expected | Stage.RESPONSE_HEAD if head else expected)
        silent = self.build(Daemon(None))
        for row in (*OPERATIONS, UNKNOWN):
            self.assertEqual(silent.wants(row), Stage.NOTHING)
        silent.started(exchange())
        silent.finished(exchange(), Outcome.COMPLETED)

    def test_opens_nothing(self) -> None:
        """Building it opens no file: twistd may fork after that."""
        self.assertEqual(os.listdir(self.directory), [])

    def test_refused(self) -> None:
        """A log that can never be is refused at the start."""
        for path, problem in [
            (f"{self.directory}/missing/a.log", f"audit-log: there is no directory {self.directory}/missing; make it"),
            (str(self.directory), f"audit-log: {self.directory} is a directory; name a file"),
        ]:
            error = self.assertRaises(ConfigurationError, self.build, Daemon(path))
            self.assertEqual(str(error), problem)
        self.build(Daemon("-"))

    def test_settings(self) -> None:
        """The section's keys, their defaults and bounds."""
        self.assertEqual(section(AuditSettings, {}, "f"), AuditSettings(1.0, 1024**2, 0, False))
        table = {"flush-seconds": 5, "buffer-bytes": 262144, "max-bytes": 1, "stop-on-full": True}
        self.assertEqual(section(AuditSettings, table, "f"), AuditSettings(5.0, 262144, 1, True))
        for table in (
            {"flush-seconds": 0},
            {"flush-seconds": 61},
            {"buffer-bytes": 1},
            {"max-bytes": -1},
            {"stop-on-full": 1},
        ):
            self.assertRaises(ConfigurationError, section, AuditSettings, table, "f")


class LineTests(Case):
    """What is written."""

    def test_all_fields(self) -> None:
        """One line has who, what, when, how much, and how it ended."""
        one = exchange("POST", "/v1.47/containers/create?name=web", response=response(201))
        one.bytes_from_client, one.bytes_to_client = 500, 300
        self.daemon.clock.advance(0.0123456)
        self.assertEqual(
            self.line(one),
            {
                "time": "2023-11-14T22:13:20.250Z",
                "duration": 0.012346,
                "event": "finished",
                "exchange": 7,
                "job": "default",
                "job_id": "j1",
                "listener": "unix:///run/a.sock",
                "peer": {"uid": 1000, "gid": 100, "pid": os.getpid(), "command": one.peer.command.split(" ")[0]},
                "method": "POST",
                "path": "/v1.47/containers/create?name=web",
                "operation": "container_create",
                "status": 201,
                "resource": "web",
                "bytes_from_client": 500,
                "bytes_to_client": 300,
                "outcome": "completed",
            },
        )

    def test_clock_that_was_set(self) -> None:
        """The time is what the machine's clock says now of the beginning; the duration does not go by it."""
        self.daemon.ahead = 3600.0
        usual, set_forward = timestamp(STARTED), timestamp(STARTED + 3600)
        line = self.line(exchange())
        self.assertEqual((line["time"], line["duration"]), (set_forward, 0.0))
        self.assertNotEqual(usual, set_forward)

    def test_peers(self) -> None:
        """Of a process its program only; of others their address and certificate."""
        process = Peer(pid=os.getpid(), uid=0, gid=0)
        process.command = f"/usr/bin/docker run -e TOKEN={SECRET} x"
        for peer, expected in [
            (process, {"uid": 0, "gid": 0, "pid": os.getpid(), "command": "/usr/bin/docker"}),
            (Peer(uid=5, gid=6), {"uid": 5, "gid": 6}),
            (Peer(address="10.0.0.1:5", certificate="ci"), {"address": "10.0.0.1:5", "certificate": "ci"}),
        ]:
            self.path.unlink(missing_ok=True)
            self.daemon.reopen[0]()
            self.assertEqual(self.line(exchange(peer=peer))["peer"], expected)

    def test_command_of_a_short_life(self) -> None:
        """The process is looked at when the exchange starts; when it is over, it may be gone."""
        one = exchange()
        self.audit.started(one)
        one.peer.pid = 2**22 + 1
        self.audit.finished(one, Outcome.COMPLETED)
        self.assertTrue(self.lines()[0]["peer"]["command"])

    def test_resource(self) -> None:
        """What an interceptor noted, or what the path names, or the name that is asked for."""
        for target, notes, expected in [
            ("/containers/web/json", {}, "web"),
            ("/containers/web/json", {"resource": "0123"}, "0123"),
            ("/containers/web/json", {"resource": None}, "web"),
            ("/networks/net", {}, "net"),
            ("/info", {}, ""),
            ("/containers/json?name=a;b", {}, ""),
        ]:
            self.path.unlink(missing_ok=True)
            self.daemon.reopen[0]()
            self.assertEqual(self.line(exchange("GET", target, notes=notes))["resource"], expected)

    def test_outcomes(self) -> None:
        """Who refused or answered, and the reason that the client got; no body otherwise."""
        refusal = Answer.error(403, "no privileged containers; ask the operator")
        for by, answer, outcome, expected in [
            (
                "policy",
                refusal,
                Outcome.REFUSED,
                {"refused_by": "policy", "reason": "no privileged containers; ask the operator"},
            ),
            (
                "tracker-page",
                Answer(200, SECRET.encode(), "text/plain"),
                Outcome.ANSWERED,
                {"answered_by": "tracker-page"},
            ),
            (
                "proxy",
                Answer.error(503, "no engine"),
                Outcome.ENGINE_FAILED,
                {"answered_by": "proxy", "reason": "no engine"},
            ),
            ("odd", Answer(500, SECRET.encode()), Outcome.REFUSED, {"refused_by": "odd"}),
            ("odd", Answer(500, b'["hunter2"]'), Outcome.REFUSED, {"refused_by": "odd"}),
            ("odd", Answer(500, b'{"message": 5}'), Outcome.REFUSED, {"refused_by": "odd"}),
            ("", None, Outcome.CLIENT_GONE, {}),
            ("proxy", None, Outcome.ENGINE_FAILED, {"answered_by": "proxy"}),
        ]:
            self.path.unlink(missing_ok=True)
            self.daemon.reopen[0]()
            line = self.line(exchange(answer=answer, answered_by=by), outcome)
            self.assertEqual(line["outcome"], outcome.value)
            self.assertEqual(line["status"], answer and answer.status)
            found = {key: line[key] for key in ("refused_by", "answered_by", "reason") if key in line}
            self.assertEqual(found, expected)

    def test_refusal_that_quotes(self) -> None:
        """A refusal of a broken head quotes what was sent; the audit does not."""
        message = f"a header line has a space before its colon: {b'Authorization : ' + SECRET.encode()!r}"
        one = exchange(answer=Answer.error(400, message), answered_by="proxy")
        self.assertEqual(self.line(one, Outcome.REFUSED)["reason"], "a header line has a space before its colon")

    def test_edits(self) -> None:
        """Each edit names its author, its place and both values; nothing secret."""
        edits = [
            Edit(
                "labels",
                (
                    Change(("Labels",), {"a/b": "1"}, {"a/b": "1", "c~d/e": "2"}),
                    Change(("Env", 0), MISSING, f"A={SECRET}"),
                ),
            ),
            Edit("labels", (Change(("target",), "/build", f"/build?buildargs={SECRET}"),)),
            Edit("other", (Change(("header", "X"), None, SECRET), Change(("Memory",), Number("1e400"), MISSING))),
        ]
        self.assertEqual(
            self.line(exchange("POST", "/containers/create", edits=edits))["edits"],
            [
                {"by": "labels", "path": "/Labels/c~0d~1e", "new": "2"},
                {"by": "labels", "path": "/Env/0", "new": "A=***"},
                {"by": "labels", "path": "target", "old": "/build", "new": "/build?buildargs=***"},
                {"by": "other", "path": "header X", "old": None, "new": "***"},
                {"by": "other", "path": "/Memory", "old": "1e400"},
            ],
        )

    def test_bounds(self) -> None:
        """However long a target, a value, or the list of edits is, the line is not."""
        changes = tuple(Change((f"k{number}", "x" * 5000), ["y" * 9000], "z" * 9000) for number in range(150))
        line = self.line(exchange("GET", "/" + "a" * 100_000, edits=[Edit("x", changes)]))
        self.assertEqual((len(line["path"]), line["path"][-1]), (4096, "…"))
        self.assertEqual((len(line["edits"]), line["edits"][-1]), (6, {"more": True}))
        self.assertEqual([len(line["edits"][0][key]) for key in ("path", "old", "new")], [4096, 4096, 4096])

    def test_longest_line(self) -> None:
        """The longest line, every character of it escaped, fits into the smallest buffer."""
        daemon = Daemon(str(self.path))
        self.audit, self.daemon = self.build(daemon, buffer_bytes=262144), daemon
        peer = Peer(pid=1, uid=1, gid=1, address="é" * 4096, certificate="é" * 5000)
        peer.command = "é" * 5000
        one = exchange("GET", "/" + "a" * 5000, peer, notes={"resource": "é" * 5000})
        one.edits.append(Edit("x", tuple(Change((f"k{number}",), "é" * 5000, "é" * 5000) for number in range(5))))
        one.answer, one.answered_by = Answer.error(400, "é" * 5000), "x"
        self.assertEqual(self.line(one, Outcome.REFUSED)["reason"][-1], "…")
        self.assertGreater(self.path.stat().st_size, 150_000)

    def test_secret_query(self) -> None:
        """The target is written without its secrets."""
        line = self.line(exchange("POST", f"/build?buildargs=%7B%22A%22:%22{SECRET}%22%7D&t=x"))
        self.assertEqual(line["path"], "/build?buildargs={%22A%22:%22***%22}&t=x")

    def test_unreadable_request(self) -> None:
        """A refused head that names nothing has its line, too."""
        one = exchange()
        one.call, one.received = Call(UNKNOWN, None, ""), attrs.evolve(one.received, method="-", target="-")
        line = self.line(one, Outcome.REFUSED)
        self.assertEqual((line["method"], line["path"], line["operation"]), ("-", "-", "unknown"))

    def test_timestamp(self) -> None:
        """Milliseconds, cut off."""
        self.assertEqual(timestamp(0.9999), "1970-01-01T00:00:00.999Z")


class StreamTests(Case):
    """Answers that may take long."""

    def test_opened(self) -> None:
        """A stream has a line when it opens, and another when it is over."""
        for method, target, head in [
            ("GET", "/events", response(200, "Transfer-Encoding: chunked\r\n")),
            ("POST", "/exec/0123/start", response(101)),
            ("POST", "/exec/0123/start", response(200)),
        ]:
            self.path.unlink(missing_ok=True)
            self.daemon.reopen[0]()
            one = exchange(method, target)
            self.audit.started(one)
            self.daemon.clock.advance(0.5)
            self.audit.response_head(one, head)
            one.response = head
            self.daemon.clock.advance(1000)
            self.audit.finished(one, Outcome.COMPLETED)
            opened, finished = self.lines()
            self.assertEqual((opened["event"], finished["event"]), ("opened", "finished"))
            self.assertEqual(opened["status"], head.status)
            self.assertNotIn("outcome", opened)
            self.assertEqual(opened["time"], finished["time"])
            self.assertLess(opened["duration"], finished["duration"])

    def test_not_opened(self) -> None:
        """An error, and an answer whose length is known, is no stream."""
        for head in (response(404), response(200, "Content-Length: 2\r\n"), response(304)):
            self.audit.response_head(exchange("GET", "/_ping"), head)
        self.daemon.clock.advance(1)
        self.assertFalse(self.path.exists())


class FileTests(Case):
    """What happens to the file."""

    def test_stop(self) -> None:
        """At the end nothing is left in the buffer."""
        self.audit.finished(exchange(), Outcome.COMPLETED)
        self.assertEqual(len(self.daemon.reopen), 1)
        self.successResultOf(Deferred.fromCoroutine(self.audit.stop()))
        self.assertEqual(self.daemon.reopen, [])  # it is not told any more
        self.assertEqual(len(self.path.read_bytes().splitlines()), 1)

    def test_reopen(self) -> None:
        """SIGHUP opens the file anew."""
        self.audit.finished(exchange(), Outcome.COMPLETED)
        self.lines()
        self.path.rename(self.directory / "old")
        self.daemon.reopen[0]()
        self.audit.finished(exchange(), Outcome.COMPLETED)
        self.assertEqual(len(self.lines()), 1)

    def test_full_disk(self) -> None:
        """Traffic goes on, and the gap has a line in the log itself."""
        self.daemon = Daemon("/dev/full")
        going = self.build(self.daemon, buffer_bytes=262144)
        with capturedLogs() as events:
            for _ in range(1000):
                going.started(exchange())
                going.finished(exchange(), Outcome.COMPLETED)
            self.daemon.clock.advance(5)
        self.assertEqual(len([event for event in events if event["log_level"].name == "error"]), 1)
        file = going._file
        assert file is not None
        lost = file.dropped
        self.assertGreater(lost, 100)
        file.path = str(self.path)
        self.daemon.reopen[0]()
        last = self.lines()[-1]
        self.assertEqual(
            {key: last[key] for key in ("event", "lines", "job")}, {"event": "lost", "lines": lost, "job": "default"}
        )

    def test_stop_on_full(self) -> None:
        """If that is set, nothing passes unseen: exchanges are refused until the file can be written again."""
        self.daemon = Daemon("/dev/full")
        guarding = self.build(self.daemon, stop_on_full=True)
        self.assertTrue(guarding.fail_closed)
        guarding.started(exchange())
        guarding.finished(exchange(), Outcome.COMPLETED)
        self.daemon.clock.advance(1)
        error = self.assertRaises(RefusedError, guarding.started, exchange())
        self.assertEqual(error.status, 503)
        self.assertIn("cannot write its audit log (No space left on device)", error.message)
        guarding.finished(exchange(answer=Answer.error(503, error.message), answered_by="audit"), Outcome.REFUSED)
        file = guarding._file
        assert file is not None
        file.path = str(self.path)
        self.daemon.reopen[0]()
        guarding.started(exchange())
        self.assertEqual([line["outcome"] for line in self.lines()], ["completed", "refused"])

    def test_stop_on_full_from_the_first(self) -> None:
        """A file that cannot be opened is known before the first exchange passed."""
        (self.directory / "audit.log").mkdir()
        daemon = Daemon(str(self.path / "x"))
        guarding = self.build(daemon, stop_on_full=True)
        self.path.rmdir()
        self.assertRaises(RefusedError, guarding.started, exchange())
