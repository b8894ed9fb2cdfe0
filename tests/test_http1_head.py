"""Heads: what is taken, what is refused and by which sentence, edits, and h11 as an outside judge of both."""

from __future__ import annotations

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import BadHeadError, EngineProtocolError
from docker_tracker.http1.framing import request_framing
from docker_tracker.http1.head import RequestHead, ResponseHead

REQUEST_LINE = b"GET /_ping HTTP/1.1\r\n"
STATUS_LINE = b"HTTP/1.1 200 OK\r\n"

REQUEST_LINES = [
    (b"GET / HTTP/1.1", ("GET", "/", 1)),
    (b"get /x?a=1&b=%20#c HTTP/1.0", ("get", "/x?a=1&b=%20#c", 0)),
    (b"POST http://host/containers/create HTTP/1.1", ("POST", "http://host/containers/create", 1)),
    (b"OPTIONS * HTTP/1.1", ("OPTIONS", "*", 1)),
    (b"CONNECT a:1 HTTP/1.1", ("CONNECT", "a:1", 1)),
    (b"!#$%&'*+-.^_`|~09azAZ / HTTP/1.1", ("!#$%&'*+-.^_`|~09azAZ", "/", 1)),
]

REQUEST_LINES_REFUSED = [
    (b"", "the request line is empty"),
    (b"GET", "one space between them"),
    (b"GET / ", "is not HTTP/1.1 or HTTP/1.0"),
    (b"GET /", "one space between them"),
    (b"GET  / HTTP/1.1", "one space between them"),
    (b"GET /  HTTP/1.1", "one space between them"),
    (b"GET / HTTP/1.1 ", "one space between them"),
    (b" GET / HTTP/1.1", "one space between them"),
    (b"GET /a b HTTP/1.1", "one space between them"),
    (b"GET\t/\tHTTP/1.1", "one space between them"),
    (b"GET / HTTP/1.2", "version is not"),
    (b"GET / HTTP/1.10", "version is not"),
    (b"GET / HTTP/2.0", "version"),
    (b"GET / HTTP/0.9", "version"),
    (b"GET / HTTP/1", "version"),
    (b"GET / http/1.1", "version"),
    (b"GET / HTTP/1.1x", "version"),
    (b"GET / HTTP/1,1", "version"),
    (b"GET / HTTP/1.\xb2", "version"),
    (b"G\xc3\x89T / HTTP/1.1", "method has characters"),
    (b"G(T / HTTP/1.1", "method has characters"),
    (b"\xef\xbb\xbfGET / HTTP/1.1", "method has characters"),
    (b"G\0T / HTTP/1.1", "method has characters"),
    (b" / HTTP/1.1", "method has characters"),
    (b"GET  HTTP/1.1", "target is empty or has characters"),
    (b"GET /\xc3\xa9 HTTP/1.1", "percent-encode them"),
    (b"GET /\0 HTTP/1.1", "percent-encode them"),
    (b"GET /\x7f HTTP/1.1", "percent-encode them"),
    (b"GET /a\tb HTTP/1.1", "percent-encode them"),
]

FIELD_LINES = [
    (b"Host:", ("Host", "")),
    (b"Host: docker", ("Host", "docker")),
    (b"hOsT:\t docker \t", ("hOsT", "docker")),
    (b"X: a b\tc", ("X", "a b\tc")),
    (b"X: a:b::", ("X", "a:b::")),
    (b"X: \xe9\xff", ("X", "\xe9\xff")),
    (b"X: \xa0a\x85", ("X", "\xa0a\x85")),
    (b"1!#$%&'*+-.^_`|~: v", ("1!#$%&'*+-.^_`|~", "v")),
]

FIELD_LINES_REFUSED = [
    (b" Host: x", "folded line"),
    (b"A: x\r\n\ty", "folded line"),
    (b"A: x\r\n ", "folded line"),
    (b"A", "header line 1 has no colon"),
    (b"A: x\r\nsecret", "header line 2 has no colon"),
    (b"Host : x", "header line 1 has a space before its colon"),
    (b"Host\t: x", "header line 1 has a space before its colon"),
    (b": x", "the name of header line 1 is empty"),
    (b"Ho st: x", "the name of header line 1 is empty or has characters"),
    (b"H\xf6st: x", "the name of header line 1"),
    (b"Host\0: x", "the name of header line 1"),
    (b"(Host): x", "the name of header line 1"),
    (b"Host: a\0", "the header Host has a control character"),
    (b"Host: \x7f", "the header Host has a control character"),
    (b"Host: \x1b[1m", "the header Host has a control character"),
    (b"Host: a\vb", "the header Host has a control character"),
    (b"Host: a\nX: b", "a bare LF"),
    (b"Host: a\n", "a bare LF"),
    (b"\nHost: a", "a bare LF"),
    (b"Host: a\rX: b", "a bare CR"),
    (b"Host: a\r", "a bare CR"),
    (b"Host: a\r\r\nX: b", "a bare CR"),
    (b"Host: a\r\n\r\nX: b", "header line 2 has no colon"),
]

STATUS_LINES = [
    (b"HTTP/1.1 200 OK", (200, "OK", 1)),
    (b"HTTP/1.0 404 Not Found", (404, "Not Found", 0)),
    (b"HTTP/1.1 101 UPGRADED", (101, "UPGRADED", 1)),
    (b"HTTP/1.1 200 ", (200, "", 1)),
    (b"HTTP/1.1 200", (200, "", 1)),
    (b"HTTP/1.1 599 a\tb \xe9", (599, "a\tb \xe9", 1)),
]

STATUS_LINES_REFUSED = [
    b"",
    b"HTTP/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1.1 20",
    b"HTTP/1.1 2000",
    b"HTTP/1.1 20x OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 200OK",
    b"HTTP/1.2 200 OK",
    b"HTTP/2 200 OK",
    b"http/1.1 200 OK",
    b" HTTP/1.1 200 OK",
    b"HTTP/1.1 200 \0",
    b"HTTP/1.1 \xb2\xb2\xb2 OK",
]


class RequestTests(SynchronousTestCase):
    def refusal(self, raw: bytes) -> str:
        """Return the sentence with which a head is refused."""
        error: BadHeadError = self.assertRaises(BadHeadError, RequestHead.parse, raw)
        self.assertEqual(error.status, 400)
        self.assertEqual(str(error), error.message)
        return error.message

    def test_request_lines(self) -> None:
        """Any method, any target of visible ASCII, and the two versions."""
        for line, expected in REQUEST_LINES:
            head = RequestHead.parse(line + b"\r\n\r\n")
            self.assertEqual((head.method, head.target, head.minor), expected)
            self.assertEqual((head.raw, head.fields), (line + b"\r\n\r\n", ()))

    def test_request_lines_refused(self) -> None:
        """The sentence says which part of the line is wrong."""
        for line, part in REQUEST_LINES_REFUSED:
            for fields in (b"", b"Host: docker\r\n"):
                self.assertIn(part, self.refusal(line + b"\r\n" + fields + b"\r\n"), line)

    def test_fields(self) -> None:
        """Names keep their case, values lose the space around them, and bytes above 127 stay what they are."""
        for line, expected in FIELD_LINES:
            head = RequestHead.parse(REQUEST_LINE + line + b"\r\n\r\n")
            self.assertEqual(head.fields, (expected,))
            self.assertEqual(head.get(expected[0].upper()), expected[1])

    def test_fields_refused(self) -> None:
        """Lines that two readers could read differently: on requests by 400, the sentence names the rule."""
        for line, part in FIELD_LINES_REFUSED:
            self.assertIn(part, self.refusal(REQUEST_LINE + line + b"\r\n\r\n"), line)

    def test_whole_heads_only(self) -> None:
        """What does not end with an empty line is no head."""
        for raw in (
            b"",
            b"\r\n",
            b"GET / HTTP/1.1",
            REQUEST_LINE,
            REQUEST_LINE + b"A: b\r\n",
            REQUEST_LINE + b"\r\n\r",
        ):
            self.assertIn("does not end with an empty line", self.refusal(raw))
        self.assertIn("bare LF", self.refusal(b"GET / HTTP/1.1\nHost: x\n\r\n\r\n"))

    def test_no_secret_in_a_refusal(self) -> None:
        """A refusal goes to the log and to the screen: it never shows a value or a query."""
        for line in (
            b"GET /build?buildargs=SECRET x HTTP/1.1\r\n",
            b"GET /?SECRET\0 HTTP/1.1\r\n",
            b"GET /?a SECRET\r\n",
            b"GET / HTTP/1.1\r\nX-Registry-Auth : SECRET\r\n",
            b"GET / HTTP/1.1\r\nAuthorization: SECRET\0\r\n",
            b"GET / HTTP/1.1\r\nAuthorization:\r\n SECRET\r\n",
            b"GET / HTTP/1.1\r\nSECRET\r\n",
            b"GET / HTTP/1.1\r\nAuthorization: Basic\nSECRET\r\n",
            b"GET / HTTP/1.1\r\nAuthorization=SECRET: a\r\n",
        ):
            self.assertNotIn("SECRET", self.refusal(line + b"\r\n"))

    def test_long_names_are_cut(self) -> None:
        """A refusal is one sentence, however long the name at fault is."""
        self.assertTrue(len(self.refusal(REQUEST_LINE + b"n" * 70000 + b": \0\r\n\r\n")) < 200)
        self.assertTrue(len(self.refusal(b"GET / " + b"v" * 70000 + b"\r\n\r\n")) < 200)


class LookupTests(SynchronousTestCase):
    head = RequestHead.parse(
        REQUEST_LINE + b"Via: a\r\nX-Via: no\r\nvia:\r\nConnection: keep-alive , Upgrade\r\n"
        b"CONNECTION:\tclose\r\nVIA: c, via: d\r\n\r\n"
    )

    def test_get_all(self) -> None:
        """Lines are found by their whole name, without case, in order."""
        for name, values in (
            ("Via", ["a", "", "c, via: d"]),
            ("x-via", ["no"]),
            ("connection", ["keep-alive , Upgrade", "close"]),
            ("ia", []),
            ("Vi", []),
            ("", []),
            ("\u0130", []),
        ):
            self.assertEqual(self.head.get_all(name), values, name)

    def test_get(self) -> None:
        """The first line of a name, or None; an empty value is not None."""
        self.assertEqual(self.head.get("VIA"), "a")
        self.assertEqual(RequestHead.parse(REQUEST_LINE + b"Host:\r\n\r\n").get("host"), "")
        self.assertIsNone(self.head.get("Host"))

    def test_not_in_the_request_line(self) -> None:
        """The request line is no field, whatever it looks like."""
        head = RequestHead.parse(b"GET http://x:y/ HTTP/1.1\r\n\r\n")
        self.assertEqual((head.get_all("GET http"), head.get_all("http"), head.fields), ([], [], ()))

    def test_tokens(self) -> None:
        """Tokens of all lines count, each with its space stripped, in any case, and only whole."""
        for token, expected in (
            ("upgrade", True),
            ("CLOSE", True),
            ("keep-alive", True),
            ("keep", False),
            ("keep-alive , Upgrade", False),
            ("", False),
        ):
            self.assertEqual(self.head.has_token("Connection", token), expected, token)

    def test_agrees_with_the_fields(self) -> None:
        """Looking a field up gives what going through all of them gives."""

        @settings(derandomize=True, deadline=None, max_examples=200)
        @given(FIELDS)
        def check(fields: list[tuple[str, str]]) -> None:
            head = RequestHead.parse(REQUEST_LINE + lines_of(fields) + b"\r\n")
            self.assertEqual(list(head.fields), [(name, value.strip(" \t")) for name, value in fields])
            for name, _ in fields:
                wanted = [value for key, value in head.fields if key.lower() == name.lower()]
                self.assertEqual(head.get_all(name), wanted)
                self.assertEqual(head.get_all(name.swapcase()), wanted)

        check()


class EditTests(SynchronousTestCase):
    head = RequestHead.parse(REQUEST_LINE + b"Host: a\r\ncontent-length:  5\r\nX: 1\r\nContent-Length: 5\r\nY:\r\n\r\n")

    def test_field_set(self) -> None:
        """The field stands once, in the place of its first line; what is not touched keeps its bytes."""
        self.assertEqual(
            self.head.with_field("Content-Length", "17").raw,
            REQUEST_LINE + b"Host: a\r\nContent-Length: 17\r\nX: 1\r\nY:\r\n\r\n",
        )
        self.assertEqual(self.head.with_field("Via", "caf\xe9").raw, self.head.raw[:-2] + b"Via: caf\xe9\r\n\r\n")

    def test_field_removed(self) -> None:
        """All its lines are gone; one that is not there changes nothing."""
        self.assertEqual(self.head.without_field("CONTENT-LENGTH").raw, REQUEST_LINE + b"Host: a\r\nX: 1\r\nY:\r\n\r\n")
        self.assertEqual(self.head.without_field("Content"), self.head)
        self.assertEqual(self.head.without_field("\xe9"), self.head)

    def test_target_set(self) -> None:
        """Method, version and fields stay."""
        head = RequestHead.parse(b"post /a?b HTTP/1.0\r\nHost: a\r\n\r\n").with_target("/c?d=e%20f")
        self.assertEqual(head.raw, b"post /c?d=e%20f HTTP/1.0\r\nHost: a\r\n\r\n")
        self.assertEqual(head.target, "/c?d=e%20f")

    def test_no_line_can_be_smuggled_in(self) -> None:
        """An edit that would make another line, or no HTTP at all, is an error and not a head."""
        for name, value in (
            ("X", "1\r\nEvil: 2"),
            ("X", "1\n"),
            ("X", "\0"),
            ("X", "\u20ac"),
            ("X\r\nEvil", "1"),
            ("X: 1\r\nEvil", "1"),
            ("X:Evil", "1"),
            ("X ", "1"),
            ("", "1"),
        ):
            self.assertRaises(ValueError, self.head.with_field, name, value)
        for target in ("", "/a b", "/a HTTP/1.1\r\nEvil: 2\r\nX:", "/\n", "/\xe9", "/\udcff", "/\t"):
            self.assertRaises(ValueError, self.head.with_target, target)

    def test_response_edited(self) -> None:
        """Responses are edited in the same way."""
        head = ResponseHead.parse(STATUS_LINE + b"A: 1\r\n\r\n")
        self.assertEqual(head.with_field("a", "2").raw, STATUS_LINE + b"a: 2\r\n\r\n")
        self.assertEqual(head.without_field("a").raw, STATUS_LINE + b"\r\n")

    def test_heads_are_values(self) -> None:
        """They compare by what they say, and can't be changed in place."""
        self.assertEqual(self.head, RequestHead.parse(self.head.raw))
        self.assertNotEqual(self.head, self.head.without_field("X"))
        self.assertRaises(AttributeError, setattr, self.head, "target", "/")


class ResponseTests(SynchronousTestCase):
    def test_status_lines(self) -> None:
        """Reasons may be empty, with the space before them or without."""
        for line, expected in STATUS_LINES:
            head = ResponseHead.parse(line + b"\r\nServer: x\r\n\r\n")
            self.assertEqual((head.status, head.reason, head.minor), expected)
            self.assertEqual(head.fields, (("Server", "x"),))

    def test_status_lines_refused(self) -> None:
        """They are the engine's fault."""
        for line in STATUS_LINES_REFUSED:
            error = self.assertRaises(EngineProtocolError, ResponseHead.parse, line + b"\r\nA: b\r\n\r\n")
            self.assertEqual(error.status, 502)
            self.assertIn("its status line is", error.message)

    def test_fields_refused(self) -> None:
        """The rules for fields are the same both ways."""
        for line, part in FIELD_LINES_REFUSED:
            error = self.assertRaises(EngineProtocolError, ResponseHead.parse, STATUS_LINE + line + b"\r\n\r\n")
            self.assertIn(part, error.message)
            self.assertIn("the engine's answer is not HTTP/1.1: ", error.message)


# h11 judges

TOKEN = st.text(st.sampled_from("!#$%&'*+-.^_`|~09azAZ"), min_size=1, max_size=6)
VALUE = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f") | st.just("\t"), max_size=12
)
FIELDS = st.lists(st.tuples(TOKEN, VALUE))


def lines_of(fields: list[tuple[str, str]]) -> bytes:
    """Return header lines."""
    return "".join(f"{name}:{value}\r\n" for name, value in fields).encode("latin-1")


# Pieces of heads, good and bad; a head is four of them joined, so that most are nearly right.
PIECES = {
    "method": [b"GET", b"POST", b"get", b"M-SEARCH", b"", b"G T", b"G\0", b"G(", b"\xc3\x89", b"GET "],
    "target": [
        b"/",
        b"/_ping?a=1",
        b"*",
        b"http://h/x",
        b"a:1",
        b"/%zz",
        b"",
        b"/ x",
        b"/\x7f",
        b"/\xe9",
        b"/\t",
        b"/#f",
    ],
    "version": [
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"http/1.1",
        b"HTTP/1.1 ",
        b"HTTP/11",
        b"",
        b"HTTP/1.1\t",
    ],
    "line": [
        b"Host: a",
        b"Host:",
        b"hOST: \tb ",
        b"X: \xe9",
        b"X: a\tb",
        b"A:b",
        b"Connection: close, Upgrade",
        b"X : a",
        b"X\t: a",
        b" X: a",
        b"\tX",
        b"X",
        b": a",
        b"X: a\0",
        b"X: a\x7f",
        b"X: a\x0b",
        b"X y: a",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"X: a\r",
        b"X: a\n",
        b"\xe9: a",
        b"Content-Length: 0",
        b"Content-Length: 1",
        b"Content-Length: 0, 0",
        b"Content-Length: +0",
        b"Content-Length: -1",
        b"Content-Length:",
        b"Content-Length: 0x1",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: CHUNKED",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:",
    ],
}

HEADS = st.builds(
    lambda method, target, version, lines: (
        b"%b %b %b\r\n%b\r\n" % (method, target, version, b"".join(line + b"\r\n" for line in lines))
    ),
    st.sampled_from(PIECES["method"][:4] * 4 + PIECES["method"]),
    st.sampled_from(PIECES["target"][:4] * 4 + PIECES["target"]),
    st.sampled_from(PIECES["version"][:2] * 8 + PIECES["version"]),
    st.lists(st.sampled_from(PIECES["line"][:7] * 6 + PIECES["line"]), max_size=4),
)


def judge(raw: bytes) -> h11.Request | None:
    """Return how h11 reads a head, or None: it refuses it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def ours(raw: bytes) -> RequestHead | None:
    """Return how we read a head, body framing included, or None: we refuse it."""
    try:
        head = RequestHead.parse(raw)
        request_framing(head)
    except BadHeadError:
        return None
    return head


def we_alone_take(head: RequestHead) -> bool:
    """Whether a head that h11 refuses is one of those that we take on purpose, each for a reason.

    - No Host in HTTP/1.1, or several: the engine answers these with a 400 of its own.
    - An empty Host, and bytes above 127 in values, which h11 takes as well, are not among them.
    """
    hosts = head.get_all("Host")
    return (head.minor == 1 and not hosts) or len(hosts) > 1


def h11_alone_takes(raw: bytes) -> bool:
    """Whether a head that we refuse is one of those that h11 takes, where another reader could see another head.

    - Lines that end with a bare LF, and folded lines.
    - Versions other than 1.0 and 1.1, which h11 leaves to whoever uses it.
    - Bytes above 127 in the target, and control characters in values.
    - Both Content-Length and Transfer-Encoding, chunked bodies in HTTP/1.0, and a list of equal lengths in one line.
    """
    lines = raw[:-4].split(b"\r\n")
    version = lines[0].split(b" ")[-1]
    folded = raw.lower()
    return (
        b"\n" in raw.replace(b"\r\n", b"")
        or any(line[:1] in (b" ", b"\t") for line in lines[1:])
        or (version.startswith(b"HTTP/") and version not in (b"HTTP/1.1", b"HTTP/1.0"))
        or any(byte > 0x7E for byte in lines[0])
        or any(byte < 0x20 or byte == 0x7F for byte in b"".join(lines).replace(b"\t", b""))
        or (b"\ntransfer-encoding:" in folded and (b"\ncontent-length:" in folded or version == b"HTTP/1.0"))
        or b"\ncontent-length: 0, 0" in folded
    )


class JudgedByH11Tests(SynchronousTestCase):
    """h11 has another author and other tests: where it and we disagree, there is a reason, and it is written here."""

    def test_what_we_take(self) -> None:
        """h11 takes every head that we take, and reads the same in it; differences are `we_alone_take`."""

        @settings(derandomize=True, deadline=None, max_examples=1000)
        @given(HEADS)
        @example(b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n")
        def check(raw: bytes) -> None:
            head, judged = ours(raw), judge(raw)
            if head is None:
                self.assertTrue(judged is None or h11_alone_takes(raw), f"only h11 takes {raw!r}: {judged}")
            elif judged is None:
                self.assertTrue(we_alone_take(head), f"only we take {raw!r}")
            else:
                self.assertEqual(judged.method, head.method.encode())
                self.assertEqual(judged.target, head.target.encode())
                self.assertEqual(judged.http_version, b"1.%d" % head.minor)
                seen = [(name.decode(), value.decode("latin-1")) for name, value in judged.headers.raw_items()]
                self.assertEqual(
                    [field for field in seen if not _framing(field)],
                    [field for field in head.fields if not _framing(field)],
                )

        check()


def _framing(field: tuple[str, str]) -> bool:
    """Whether h11 rewrites a field: it lower-cases codings, and joins equal lengths."""
    return field[0].lower() in ("content-length", "transfer-encoding")
