"""Heads with what follows from them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import BadHeadError, EngineProtocolError
from docker_tracker.http1 import message
from docker_tracker.http1.framing import CHUNKED, NO_BODY, BodyKind
from docker_tracker.http1.message import read_request, read_response


class RequestTests(SynchronousTestCase):
    """Requests."""

    def test_read(self) -> None:
        """Head and framing; equal bytes are read once, unless they are many or bear credentials."""
        raw = b"POST /build HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        request = read_request(raw)
        self.assertEqual((request.head.target, request.framing, request.is_form), ("/build", CHUNKED, False))
        self.assertIs(read_request(bytes(raw)), request)
        for field in (b"X: " + b"a" * 500, b"X-Registry-Auth: e30=", b"AUTHORIZATION: x", b"x-registry-config: e30="):
            once = raw[:-2] + field + b"\r\n\r\n"
            self.assertIsNot(read_request(once), read_request(once), field)

    def test_forms(self) -> None:
        """Form bodies are seen whatever their case and parameters, in any line of that name."""
        for value, is_form in (
            (b"application/x-www-form-urlencoded", True),
            (b"Application/X-WWW-Form-Urlencoded ; charset=utf-8", True),
            (b"multipart/form-data; boundary=x", True),
            (b"application/json\r\nContent-type:multipart/form-data", True),
            (b"application/json", False),
            (b"text/plain; x=multipart/form-data", False),
        ):
            request = read_request(b"POST /x HTTP/1.1\r\ncontent-TYPE: " + value + b"\r\n\r\n")
            self.assertEqual(request.is_form, is_form, value)

    def test_other_media_types(self) -> None:
        """What is in ASCII and no form passes; so do none and half a type."""
        for value in (b"", b" ", b"json", b"text/plain;x=\xff", b"application/vnd.a+json ; x", b"multipart/mixed;b=c"):
            self.assertFalse(read_request(b"POST /x HTTP/1.1\r\nContent-Type:" + value + b"\r\n\r\n").is_form, value)

    def test_media_types_that_two_readers_read_differently(self) -> None:
        """Go trims and lowers Unicode, so these are forms to the engine: refused, as all is that is no media type."""
        form = "application/x-www-form-urlencoded"
        for text in (
            f"\u00a0{form}",
            f"{form}\u00a0;charset=utf-8",
            f"\u0085{form}",
            f"{form}\u2003; a=b",
            f"\u3000{form}",
            "appl\u0130cation/x-www-form-urlencoded",
            "appl\u0131cation/x-www-form-urlencoded",
            "multipart/form-dat\u212b",
            "application/x-www-form-urlencoded, application/json",
            "application/ x-www-form-urlencoded",
            "application/json x",
            "a/b/c",
            "/x",
        ):
            for first in (b"", b"application/json\r\nContent-Type: "):
                raw = b"POST /x HTTP/1.1\r\nContent-Type: " + first + text.encode() + b"\r\n\r\n"
                error = self.assertRaises(BadHeadError, read_request, raw)
                self.assertIn("the Content-Type is not", error.message)
                self.assertNotIn("form", error.message)  # nothing of the value

    def test_refused(self) -> None:
        """Refusals are made each time."""
        for _ in range(2):
            self.assertRaises(BadHeadError, read_request, b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n")

    def test_bounded_memory(self) -> None:
        """Of many different heads the oldest are forgotten; what is remembered is the same value."""
        heads = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(message._REMEMBERED + 10)]
        first = read_request(heads[0])
        self.assertIs(read_request(heads[0]), first)
        for head in heads:
            read_request(head)
        self.assertEqual(len(message._requests), message._REMEMBERED)
        self.assertIsNot(read_request(heads[0]), first)


class ResponseTests(SynchronousTestCase):
    """Responses."""

    def test_read(self) -> None:
        """The framing depends on the request's method."""
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        self.assertEqual(read_response(raw, "GET").framing.kind, BodyKind.LENGTH)
        self.assertEqual(read_response(raw, "HEAD").framing, NO_BODY)
        self.assertIs(read_response(raw, "GET"), read_response(bytes(raw), "GET"))
        self.assertRaises(EngineProtocolError, read_response, b"HTTP/1.1 2000 OK\r\n\r\n", "GET")

    def test_closes(self) -> None:
        """Whether another answer can follow."""
        for raw, closes in (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", False),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: Close\r\n\r\n", True),
            (b"HTTP/1.1 200 OK\r\n\r\n", True),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", True),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\n", False),
            (b"HTTP/1.1 204 No Content\r\nX: " + b"a" * 600 + b"\r\n\r\n", False),
        ):
            self.assertEqual(read_response(raw, "GET").closes, closes, raw)
