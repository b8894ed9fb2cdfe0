"""Which body follows a head: every rule, in both directions, and what is refused because two readers could disagree."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import BadHeadError, EngineProtocolError
from docker_tracker.http1.framing import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    UPGRADE,
    BodyKind,
    Framing,
    request_framing,
    response_framing,
)
from docker_tracker.http1.head import RequestHead, ResponseHead


def length(size: int) -> Framing:
    return Framing(BodyKind.LENGTH, size)


# Fields, and the framing of a request that has them.
FRAMINGS = [
    (b"", NO_BODY),
    (b"Host: x\r\n", NO_BODY),
    (b"Content-Length: 0\r\n", NO_BODY),
    (b"Content-Length: 17\r\n", length(17)),
    (b"CONTENT-LENGTH:\t17 \r\n", length(17)),
    (b"content-length:017\r\n", length(17)),
    (b"Content-Length: 5\r\nA: b\r\ncontent-length: 5 \r\n", length(5)),
    (b"Content-Length: 999999999999999999\r\n", length(10**18 - 1)),
    (b"Transfer-Encoding: chunked\r\n", CHUNKED),
    (b"transfer-encoding:\tCHUNKED\t\r\n", CHUNKED),
    (b"X-Content-Length: 5\r\nContent-Lengths: 5\r\nContent-Type: content-length: 5\r\n", NO_BODY),
    (b"TE: chunked\r\nTrailer: Content-Length\r\nX: Transfer-Encoding: chunked\r\n", NO_BODY),
]

REFUSED = [
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "both Content-Length and Transfer-Encoding"),
    (b"transfer-encoding: chunked\r\ncontent-length: 0\r\n", "both Content-Length and Transfer-Encoding"),
    (b"Transfer-Encoding:\r\nContent-Length: 5\r\n", "both Content-Length and Transfer-Encoding"),
    (b"Content-Length: 5\r\nContent-Length: 6\r\n", "two different Content-Length"),
    (b"Content-Length: 5\r\nContent-Length: 05\r\n", "two different Content-Length"),
    (b"Content-Length: 5\r\nContent-Length:\r\n", "two different Content-Length"),
    (b"Content-Length:\r\n", "is not a number"),
    (b"Content-Length: +5\r\n", "is not a number"),
    (b"Content-Length: -5\r\n", "is not a number"),
    (b"Content-Length: 5, 5\r\n", "is not a number"),
    (b"Content-Length: 5;a\r\n", "is not a number"),
    (b"Content-Length: 5 5\r\n", "is not a number"),
    (b"Content-Length: 0x5\r\n", "is not a number"),
    (b"Content-Length: 5_0\r\n", "is not a number"),
    (b"Content-Length: 5.0\r\n", "is not a number"),
    (b"Content-Length: \xb2\r\n", "is not a number"),
    (b"Content-Length: 1000000000000000000\r\n", "is not a number"),
    (b"Content-Length: " + b"x" * 70000 + b"\r\n", "is not a number"),
    (b"Transfer-Encoding:\r\n", "another Transfer-Encoding; only chunked is known here"),
    (b"Transfer-Encoding: identity\r\n", "another Transfer-Encoding"),
    (b"Transfer-Encoding: gzip, chunked\r\n", "another Transfer-Encoding"),
    (b"Transfer-Encoding: chunked, chunked\r\n", "only chunked is known here"),
    (b"Transfer-Encoding: chunked,\r\n", "only chunked is known here"),
    (b"Transfer-Encoding: chunked;a=b\r\n", "only chunked is known here"),
    (b'Transfer-Encoding: "chunked"\r\n', "only chunked is known here"),
    (b"Transfer-Encoding: chun\xaced\r\n", "only chunked is known here"),
    (b"Transfer-Encoding: \xa0chunked\r\n", "only chunked is known here"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "another Transfer-Encoding"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n", "only chunked is known here"),
    (b"Transfer-Encoding: " + b"x" * 70000 + b"\r\n", "only chunked is known here"),
]


class RequestTests(SynchronousTestCase):
    def test_taken(self) -> None:
        """One length, on one line or on equal ones, or chunked alone; without either there is no body."""
        for method in (b"POST", b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
            for fields, framing in FRAMINGS:
                head = RequestHead.parse(method + b" / HTTP/1.1\r\n" + fields + b"\r\n")
                self.assertEqual(request_framing(head), framing, fields)

    def test_refused(self) -> None:
        """What another reader could give another end is refused by a short sentence."""
        for fields, part in REFUSED:
            head = RequestHead.parse(b"POST / HTTP/1.1\r\n" + fields + b"\r\n")
            error = self.assertRaises(BadHeadError, request_framing, head)
            self.assertIn(part, error.message)
            self.assertTrue(error.message.startswith("the request has "), error.message)
            self.assertEqual((error.status, len(error.message) < 150), (400, True))

    def test_old_version(self) -> None:
        """HTTP/1.0 has lengths; the engine does not read chunks in it, others do."""
        head = RequestHead.parse(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n")
        self.assertEqual(request_framing(head), length(3))
        head = RequestHead.parse(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.assertIn("in HTTP/1.0", self.assertRaises(BadHeadError, request_framing, head).message)


class ResponseTests(SynchronousTestCase):
    def framing(self, status: int, fields: bytes, method: str = "GET", minor: int = 1) -> Framing:
        """Return the framing of one answer."""
        raw = b"HTTP/1.%d %d X\r\n%b\r\n" % (minor, status, fields)
        return response_framing(ResponseHead.parse(raw), method)

    def test_taken(self) -> None:
        """As requests; without either field the body ends with the connection."""
        for status in (200, 201, 205, 301, 404, 500):
            for fields, framing in FRAMINGS:
                unnamed = framing is NO_BODY and b"Content-Length: 0" not in fields
                self.assertEqual(self.framing(status, fields), UNTIL_CLOSE if unnamed else framing, fields)

    def test_refused(self) -> None:
        """An answer whose end is ambiguous is the engine's fault."""
        for fields, part in REFUSED:
            error = self.assertRaises(EngineProtocolError, self.framing, 200, fields)
            self.assertIn(part, error.message)
            self.assertEqual((error.status, error.message.startswith("the engine's answer has ")), (502, True))

    def test_no_body(self) -> None:
        """An answer to HEAD, and those with 1xx, 204 and 304, have no body, whatever they say of one."""
        fields = (b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", *(bad for bad, _ in REFUSED))
        for field in fields:
            for status in (100, 102, 103, 199, 204, 304):
                self.assertEqual(self.framing(status, field), NO_BODY)
            for status in (200, 404, 500):
                self.assertEqual(self.framing(status, field, "HEAD"), NO_BODY)
        self.assertEqual(self.framing(200, b"Content-Length: 5\r\n", "head"), length(5))

    def test_switched(self) -> None:
        """Behind a 101 there is no HTTP, whatever was asked."""
        for method in ("GET", "POST", "HEAD"):
            self.assertEqual(self.framing(101, b"Upgrade: tcp\r\nContent-Length: 5\r\n", method), UPGRADE)

    def test_old_version(self) -> None:
        """An HTTP/1.0 engine ends its streams with the connection; chunks it cannot have."""
        self.assertEqual(self.framing(200, b"", minor=0), UNTIL_CLOSE)
        self.assertEqual(self.framing(200, b"Content-Length: 5\r\n", minor=0), length(5))
        self.assertRaises(EngineProtocolError, self.framing, 200, b"Transfer-Encoding: chunked\r\n", minor=0)
