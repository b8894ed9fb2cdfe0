"""The same odd bytes to the engine directly and through the proxy: never understood in two ways.

Through a proxy without interceptors the bytes that come back must be the engine's own, or begin like them and end with
a refusal of ours. Behind its odd requests every connection carries a probe, which shows when the proxy sees another end
of a request than the engine. What is legal must not be refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import Daemon
from tests.support.engine import engine_address
from tests.support.odd_requests import CREATE, PROBE, connections
from tests.support.raw import End, Reply, converse

SEED = 1
LEGAL = 3000
DAMAGED = 5000

SILENCE = 0.25
PATIENCE = 3.0
"""Seconds to wait for more when answers differ: a slow answer is no difference."""

_DATE = re.compile(rb"\r\nDate: [^\r]*")
_BAD_REQUEST = re.compile(rb"(HTTP/1\.1 (400 [^\r]*)\r\n[^\n]*\r\nConnection: close\r\n\r\n)\2\Z")
_REFUSAL = re.compile(
    rb"HTTP/1\.1 (400|431) [A-Za-z ]+\r\nContent-Type: application/json\r\nContent-Length: [0-9]+\r\n"
    rb'Connection: close\r\n\r\n(?:\{"message":"([^\n]*)"\}\n)?'
)

JSON = b"Content-Type: application/json\r\n"
CONTAINER = b"POST /containers/create HTTP/1.1\r\nHost: docker\r\n" + JSON
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(CREATE)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def get(target: bytes, host: bytes = b"Host: docker\r\n") -> bytes:
    """Make a request of a target."""
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, host)


# Each passed as it is, and answered by the engine as if there were no proxy.
PASSED = [
    PING + b"\r\n",
    b"HEAD /_ping HTTP/1.1\r\nHost:\r\n\r\n",
    b"HEAD /containers/nosuch/archive?path=/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /_ping HTTP/1.0\r\n\r\n",
    b"GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\n\r\n",
    PING + b"Host: docker\r\n\r\n",
    PING + b"Expect: nothing\r\n\r\n",
    PING + b"Connection: close\r\n\r\n",
    PING + b"Content-Length: 5\r\n\r\nhello",
    PING + b"Content-Length: 5\r\ncontent-length:5\r\n\r\nhello",
    PING + b"Content-Length: 5\r\n\r\nhel",
    PING + CHUNKED + b"\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    CONTAINER + LENGTH + b"\r\n" + CREATE,
    CONTAINER + LENGTH + b"Expect: 100-continue\r\n\r\n" + CREATE,
    CONTAINER + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(CREATE), CREATE),
    CONTAINER
    + CHUNKED
    + b"Expect: 100-continue\r\n\r\n1\r\n{\r\n%X;a\r\n%b\r\n0\r\n\r\n" % (len(CREATE) - 1, CREATE[1:]),
    CONTAINER + b"Content-Length: 2\r\n\r\n[]",
    CONTAINER + b'Content-Length: 4\r\n\r\n{"a"',
    CONTAINER + b"Content-Length: 0\r\n\r\n",
    CONTAINER + b"\r\n",
    CONTAINER.replace(JSON, b"Content-Type: text/plain\r\n") + LENGTH + b"\r\n" + CREATE,
    b"OPTIONS * HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"OPTIONS /nosuch HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"post /containers/create HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"PATCH /version HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"POST /containers/nosuch/attach?stream=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    b"POST /containers/nosuch/attach HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"POST /exec/nosuch/start HTTP/1.1\r\nHost: docker\r\n%bContent-Length: 2\r\n\r\n{}" % JSON,
    b"POST /session HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"POST /grpc HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    *map(
        get,
        (
            b"/containers%2fnosuch/json",
            b"/%63ontainers/nosuch/json",
            b"/v1%2e41/_ping",
            b"/v1.41%2f_ping",
            b"/_ping/",
            b"/_ping;x",
            b"/_ping%20",
            b"/_ping%3Fname=a",
            b"/_ping#frag",
            b"/nosuch?a=1;b=2",
            b"/images/a/b/c/json",
            b"/images/localhost:5000%2fa/json",
            b"/volumes/no/such",
            b"/v1.12/version",
            b"/v9.9/version",
            b"/v1.41.0/version",
            b"/v./version",
            b"/V1.41/version",
            b"http://elsewhere/v1.41/version",
            b"http://elsewhere:1/_ping?x",
        ),
    ),
    b"GET /_ping?x=%b HTTP/1.1\r\nHost: docker\r\n\r\n" % (b"x" * 100_000),
    PING + b"X: %b\r\n\r\n" % (b"x" * 1_048_000),
]

# Each refused by us, with a part of the sentence. In the comment: what this engine does with it.
REFUSED = [
    (PING + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both Content-Length"),  # chunked wins
    (PING + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "two different"),  # 400
    (PING + b"Content-Length: +5\r\n\r\nhello", "not a number"),  # 400
    (PING + b"Content-Length: 0x5\r\n\r\nhello", "not a number"),  # 400
    (PING + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "only chunked"),  # 501
    (PING + b"Transfer-Encoding: identity\r\n\r\n", "only chunked"),  # 501
    (PING + CHUNKED * 2 + b"\r\n0\r\n\r\n", "only chunked"),  # 501
    (b"GET /_ping HTTP/1.0\r\n%b\r\n0\r\n\r\n" % CHUNKED, "HTTP/1.0"),  # ignores the chunks
    (PING + CHUNKED + b"\r\n5\nhello\r\n0\r\n\r\n", "chunk line"),  # taken
    (PING + CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n", "chunk line"),
    (PING + CHUNKED + b"\r\n5 ;a\r\nhello\r\n0\r\n\r\n", "chunk line"),
    (PING + CHUNKED + b"\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n", "chunk line"),
    (PING + CHUNKED + b"\r\n3\r\nhello\r\n0\r\n\r\n", "longer than it said"),
    (PING + b"X: a\r\n b\r\n\r\n", "folded"),  # taken
    (PING + b"X : a\r\n\r\n", "space before its colon"),  # 400
    (PING + b"X: a\0\r\n\r\n", "control character"),  # 400
    (PING + b"X\r\n\r\n", "no colon"),  # 400
    (PING.replace(b"\r\n", b"\n") + b"\n", "bare LF"),  # taken
    (PING + b"X: a\nY: b\r\n\r\n", "bare LF"),  # taken
    (PING + b"X: a\rY: b\r\n\r\n", "bare CR"),  # 400
    (b"GET /_ping HTTP/1.2\r\nHost: docker\r\n\r\n", "version"),  # taken
    (b"GET  /_ping HTTP/1.1\r\nHost: docker\r\n\r\n", "one space"),  # 400
    (b"GET _ping HTTP/1.1\r\nHost: docker\r\n\r\n", "begin with a slash"),  # 400
    (get(b"//_ping"), "not clean"),  # 301, as those below
    (get(b"/v1.41//version"), "not clean"),
    (get(b"/v1.41/./version"), "not clean"),
    (get(b"/v1.41/../version"), "not clean"),
    (get(b"/containers/%2e%2e/version"), "not clean"),
    (get(b"/..%2fversion"), "not clean"),
    (get(b"/%2fversion"), "not clean"),
    (get(b"/containers//json"), "not clean"),
    (get(b"/_ping%00"), "control character"),  # 404
    (get(b"/_ping%"), "broken escape"),  # 400
    (get(b"/_ping\xe9"), "percent-encode"),  # 404
    (CONTAINER.replace(b"json", b"x-www-form-urlencoded") + LENGTH + b"\r\n" + CREATE, "form bodies"),
    (
        CONTAINER.replace(b"application/json", b"multipart/form-data; boundary=x") + LENGTH + b"\r\n" + CREATE,
        "form bodies",
    ),
    (PING + b"X: %b\r\n\r\n" % (b"x" * 1_048_600), "longer than 1048576 bytes"),  # taken
    (PING + b"X: %b\r\n\r\n" % (b"x" * 1_060_000), "longer than 1048576 bytes"),  # 431
]


class Difference(Exception):
    """What came back through the proxy is neither the engine's answer nor a refusal."""


def refusal(reply: Reply) -> str | None:
    """Return the sentence with which we refused, or None: we did not."""
    place = reply.data.rfind(b"HTTP/1.1 4")
    match = _REFUSAL.fullmatch(reply.data, max(place, 0))
    return None if match is None or reply.end is End.SILENT else (match[2] or b"").decode()


def compare(direct: Reply, proxied: Reply) -> str:
    """Return how the proxy treated what was sent: ``same`` or ``refused``.

    :raises Difference: in another way than the engine.
    """
    expected, got = _seen(direct), _seen(proxied)
    # With unread bytes left an engine's close is a reset; and where it says close, it may yet wait for a while.
    both = (direct.end is End.SILENT) == (proxied.end is End.SILENT)
    if expected == got and (both or (proxied.end is End.CLOSED and b"\r\nConnection: close\r\n" in got)):
        return "same"
    if refusal(proxied) is not None and expected.startswith(got[: got.rindex(b"HTTP/1.1 4")]):
        return "refused"
    raise Difference(f"\ndirect:  {direct.end} {expected!r}\nproxied: {proxied.end} {got!r}")


def _seen(reply: Reply) -> bytes:
    """Return what a client makes of a reply: not the date, nor the body that net/http gives to a bad HEAD."""
    data = _DATE.sub(b"", reply.data)
    return _BAD_REQUEST.sub(rb"\1", data) if reply.end is not End.SILENT else data


class DifferentialTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = engine_address()
        self.daemon = Daemon(f"--engine={self.engine}", "--interceptors=none")
        self.addCleanup(self.daemon.discard)
        self.daemon.command.append(f"--listen={self.daemon.address}")
        self.daemon.start().wait_for_socket()

    def end(self) -> None:
        """Stop the daemon; it never noticed anything."""
        self.assertEqual(self.daemon.stop(), 0, self.daemon.output())
        self.assertNotIn("Traceback", self.daemon.output())

    def judge(self, pieces: list[bytes]) -> str:
        """Send pieces both ways and compare; what differs is tried again with patience."""
        ways = (self.engine, self.daemon.address)
        try:
            return compare(*(converse(way, pieces, SILENCE) for way in ways))
        except Difference:
            return compare(*(converse(way, pieces, PATIENCE) for way in ways))

    def judge_all(self, cases: Iterable[tuple[str, list[bytes]]]) -> tuple[Counter[str], list[str]]:
        """Judge many at once. :returns: how often each outcome was, and the differences."""
        outcomes, differences = Counter[str](), []

        def judge(case: tuple[str, list[bytes]]) -> tuple[str, str]:
            name, pieces = case
            try:
                return self.judge(pieces), name
            except Difference as error:
                return "different", f"{name}: {b''.join(pieces)[:3000]!r}{str(error)[:4000]}"

        with ThreadPoolExecutor(8) as pool:
            for outcome, about in pool.map(judge, cases):
                outcomes[outcome] += 1
                if outcome != "same":
                    differences.append(f"{outcome}: {about}")
        return outcomes, differences

    def test_passed(self) -> None:
        """Each legal oddity that the engine is known for comes back as from the engine itself, whole and in two."""
        for data in PASSED:
            for pieces in ([data + PROBE], [data[: len(data) // 2], data[len(data) // 2 :] + PROBE]):
                self.assertEqual(self.judge(pieces), "same", data[:300])
        self.end()

    def test_refused(self) -> None:
        """Each ambiguity is refused by a sentence that says why, and the connection is closed."""
        for data, part in REFUSED:
            reply = converse(self.daemon.address, [data, PROBE], PATIENCE)
            sentence = refusal(reply)
            self.assertIsNotNone(sentence, f"{data[:300]!r}: {reply}")
            self.assertIn(part, sentence, data[:300])
        self.end()

    def test_legal(self) -> None:
        """What is legal is answered as by the engine itself, byte for byte, the date aside."""
        outcomes, differences = self.judge_all(connections(SEED, LEGAL, damaged=False))
        self.assertEqual(dict(outcomes), {"same": LEGAL}, "\n".join(differences[:5]))
        self.end()

    def test_damaged(self) -> None:
        """What is damaged is answered so, or refused; enough of each, or else this would show nothing."""
        outcomes, differences = self.judge_all(connections(SEED, DAMAGED, damaged=True))
        found = [difference for difference in differences if difference.startswith("different")]
        self.assertEqual(found, [], "\n".join(found[:5]))
        self.assertTrue(outcomes["same"] > DAMAGED / 10, outcomes)
        self.assertTrue(outcomes["refused"] > DAMAGED / 10, outcomes)
        self.end()
