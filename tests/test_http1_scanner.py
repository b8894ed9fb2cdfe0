"""Where heads and bodies end: every rule, however the network cuts the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import h11
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import BadBodyError, BadHeadError, RefusedError
from docker_tracker.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE, UPGRADE, BodyKind, Framing, request_framing
from docker_tracker.http1.head import RequestHead
from docker_tracker.http1.scanner import (
    MAX_CHUNK_LINE,
    MAX_HEAD,
    MAX_TRAILER,
    Body,
    ChunkedBody,
    HeadScanner,
    LengthBody,
    NoBody,
    UntilCloseBody,
    body_for,
)

Buffer = Callable[[bytes], bytes | bytearray | memoryview]
BUFFERS: tuple[Buffer, ...] = (bytes, bytearray, memoryview)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut data at these places; empty pieces are left out, as no network delivers them."""
    places = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]


def every_way(data: bytes) -> Iterable[list[bytes]]:
    """Give data whole, byte by byte, and cut in two at every point."""
    yield [data]
    yield [data[place : place + 1] for place in range(len(data))]
    yield from (pieces(data, [cut]) for cut in range(1, len(data)))


def head_end(parts: list[bytes], limit: int = MAX_HEAD) -> int:
    """Return where a scanner sees a head's end while parts arrive, or 0."""
    scanner, inbox = HeadScanner(limit), bytearray()
    for part in parts:
        inbox += part
        end = scanner.end(inbox)
        if end:
            return end
    return 0


def scan(parts: list[bytes], body: Body, buffer: Buffer = bytes) -> tuple[bytes, bytes, bool]:
    """Return what belongs to the body, its payload, and whether it is done."""
    own, payload = b"", list[bytes]()
    for part in parts:
        size = body.feed(buffer(part), payload)
        own += part[:size]
        if body.done:
            break
    return own, b"".join(payload), body.done


HEAD = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nX:\r\n\r\n"

# Bytes, and where the head at their start ends.
HEADS = [
    (HEAD, len(HEAD)),
    (HEAD + HEAD, len(HEAD)),
    (HEAD + b"\n\nbody\n\r\n\r\n", len(HEAD)),
    (b"G\r\n\r\n", 5),
    (b"\r\n\r\n", 4),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 18),
    (HEAD[:-1], 0),
    (HEAD[:-2], 0),
    (b"GET / HTTP/1.1\r\n\r", 0),
    (b"GET / HTTP/1.1\r\r\r\r", 0),
    (b"\r\n", 0),
    (b"G", 0),
    (b"\x16\x03\x01\x02\x00\x01\x00", 0),
]

HEADS_REFUSED = [
    b"GET / HTTP/1.1\n\n",
    b"GET / HTTP/1.1\r\nHost: x\n\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    b"GET / HTTP/1.1\r\nHost: x\n\r\n",
    b"GET / HTTP/1.1\n\r\n",
    b"\n\r\n",
    b"\n\n",
    b"\n\nGET / HTTP/1.1",
]


class HeadScannerTests(SynchronousTestCase):
    def test_ends(self) -> None:
        """A head ends with its first empty line."""
        for data, end in HEADS:
            for parts in every_way(data):
                self.assertEqual(head_end(parts), end, parts)

    def test_bare_line_feeds(self) -> None:
        """A head that some would see end at a bare LF is refused there, and does not wait for another end."""
        for data in HEADS_REFUSED:
            for parts in every_way(data):
                error = self.assertRaises(BadHeadError, head_end, parts)
                self.assertIn("bare LF", error.message)
                self.assertEqual(error.status, 400)

    def test_one_after_another(self) -> None:
        """A scanner goes on with the next head once the last one was taken away."""
        scanner, inbox = HeadScanner(), bytearray()
        ends = []
        for byte in HEAD * 3:
            inbox.append(byte)
            end = scanner.end(inbox)
            if end:
                ends.append(end)
                del inbox[:end]
        self.assertEqual(ends, [len(HEAD)] * 3)

    def test_limit(self) -> None:
        """A head may be as long as the limit, and not a byte longer, wherever it is cut; the status is 431."""
        limit = len(HEAD)
        for parts in every_way(HEAD + b"more"):
            self.assertEqual(head_end(parts, limit), limit)
        for parts in every_way(HEAD):
            error = self.assertRaises(BadHeadError, head_end, parts, limit - 1)
            self.assertEqual(error.status, 431)
            self.assertIn(f"longer than {limit - 1} bytes", error.message)
        for parts in every_way(b"x" * 20):
            self.assertEqual(head_end(parts, 20), 0)
            self.assertRaises(BadHeadError, head_end, parts, 19)

    def test_default_limit(self) -> None:
        """It is 1 MiB; the engine's own is 4 KiB more."""
        line = b"GET / HTTP/1.1\r\nX: "
        whole = line + b"x" * (MAX_HEAD - len(line) - 4) + b"\r\n\r\n"
        self.assertEqual(head_end([whole]), 1024 * 1024)
        self.assertRaises(BadHeadError, head_end, [whole[:30] + b"x" + whole[30:]])

    def test_searches_each_byte_once(self) -> None:
        """A head that comes slowly is not searched from its start each time."""

        class Counted(bytearray):
            searched = 0

            def find(self, *arguments: object) -> int:
                start = arguments[1]
                assert isinstance(start, int)
                Counted.searched += len(self) - start
                return super().find(*arguments)  # type: ignore[arg-type]

        scanner, inbox = HeadScanner(), Counted()
        for _ in range(5000):
            inbox += b"x"
            self.assertEqual(scanner.end(inbox), 0)
        self.assertTrue(Counted.searched <= 2 * 5000 * 4, Counted.searched)


# Chunked bodies, and their payload.
CHUNKED_BODIES = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n6\r\n world\r\n00\r\n\r\n", b"hello world"),
    (b"0000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
    (b"2\r\n\r\n\r\n2\r\n0\r\r\n0\r\n\r\n", b"\r\n0\r"),
    (b'1;a\r\nx\r\n1;a=b;c="d\xff"\r\ny\r\n0; last\r\n\r\n', b"xy"),
    (b"1; a = b\r\nx\r\n0;\r\n\r\n", b"x"),
    (b"1 \r\nx\r\n1\t \r\ny\r\n0  \r\n\r\n", b"xy"),
    (b"1\r\nx\r\n0\r\nTrailer: a\r\nX:\r\nY:\tb\xff\r\n\r\n", b"x"),
    (b"1;" + b"e" * 200 + b"\r\nx\r\n0\r\nT: " + b"t" * 200 + b"\r\n\r\n", b"x"),
]

CHUNKED_REFUSED = [
    (b"\r\n", "not a chunk line"),
    (b";a\r\n", "not a chunk line"),
    (b"5\n", "not a chunk line"),
    (b"5;a\n", "not a chunk line"),
    (b"5 \n", "not a chunk line"),
    (b"5\r\r\n", "not a chunk line"),
    (b"5;a\rb\r\n", "not a chunk line"),
    (b"5;\0\r\n", "not a chunk line"),
    (b"5;\x7f\r\n", "not a chunk line"),
    (b" 5\r\n", "not a chunk line"),
    (b"\t5\r\n", "not a chunk line"),
    (b"5 ;a\r\n", "not a chunk line"),
    (b"5\t;a\r\n", "not a chunk line"),
    (b"5 a\r\n", "not a chunk line"),
    (b"5,\r\n", "not a chunk line"),
    (b"0x5\r\n", "not a chunk line"),
    (b"0X5\r\n", "not a chunk line"),
    (b"+5\r\n", "not a chunk line"),
    (b"-5\r\n", "not a chunk line"),
    (b"5_0\r\n", "not a chunk line"),
    (b"5g\r\n", "not a chunk line"),
    (b"5.\r\n", "not a chunk line"),
    (b"\xb2\r\n", "not a chunk line"),
    (b"5\x0b\r\n", "not a chunk line"),
    (b"1000000000000000\r\n", "not a chunk line"),
    (b"ffffffffffffffff\r\n", "not a chunk line"),
    (b"10000000000000005\r\n", "not a chunk line"),
    (b"0000000000000005\r\n", "not a chunk line"),
    (b"1\r\nxy\r\n", "longer than it said"),
    (b"1\r\nx\n", "longer than it said"),
    (b"1\r\nx0\r\n\r\n", "longer than it said"),
    (b"1\r\nx\r\r\n", "longer than it said"),
    (b"0\r\n\n", "not a trailer line"),
    (b"0\r\nX: a\n", "not a trailer line"),
    (b"0\r\nX : a\r\n", "not a trailer line"),
    (b"0\r\n: a\r\n", "not a trailer line"),
    (b"0\r\nX\r\n", "not a trailer line"),
    (b"0\r\nX: a\r\n b\r\n", "not a trailer line"),
    (b"0\r\nX: \0\r\n", "not a trailer line"),
    (b"0\r\nGET / HTTP/1.1\r\n", "not a trailer line"),
]


class ChunkedTests(SynchronousTestCase):
    def test_taken(self) -> None:
        """Extensions and trailers belong to the body and not to its payload; what follows does not belong to it."""
        for data, payload in CHUNKED_BODIES:
            for parts in every_way(data + b"GET"):
                for buffer in BUFFERS:
                    self.assertEqual(scan(parts, ChunkedBody(), buffer), (data, payload, True), parts)

    def test_without_payload(self) -> None:
        """What nobody asked for is not kept."""
        for data, _ in CHUNKED_BODIES:
            body = ChunkedBody()
            self.assertEqual(body.feed(data + b"GET"), len(data))
            self.assertTrue(body.done)
            self.assertEqual(body.feed(b"GET"), 0)

    def test_not_whole(self) -> None:
        """A body that was cut off is not done, wherever that was."""
        for data, _ in CHUNKED_BODIES:
            for cut in range(len(data)):
                self.assertFalse(scan([data[:cut]], ChunkedBody())[2])

    def test_nothing_is_quoted(self) -> None:
        """A refusal goes to logs: where framing is broken, a line may be a body's, with secrets in it."""
        for data in (b"hunter2\r\n", b"6\r\nhunter2\r\n", b"0\r\nhunter2\r\n", b"0\r\nhunter2: \0hunter2\r\n"):
            error = self.assertRaises(BadBodyError, ChunkedBody().feed, data)
            self.assertNotIn("unter", error.message, data)

    def test_refused(self) -> None:
        """Sizes and lines that two readers could read differently, by the sentence that names the rule."""
        for data, part in CHUNKED_REFUSED:
            for prefix in (b"", b"3;a\r\nabc\r\n") if not data.startswith(b"0\r\n") else (b"",):
                for parts in every_way(prefix + data):
                    error = self.assertRaises(BadBodyError, scan, parts, ChunkedBody())
                    self.assertIn(part, error.message)
                    self.assertEqual(error.status, 400)

    def test_largest_size(self) -> None:
        """Fifteen digits are followed; nothing is allocated for them."""
        body = ChunkedBody()
        self.assertEqual(body.feed(b"fffffffffffffff\r\nabc"), 20)
        self.assertFalse(body.done)

    def test_longest_line(self) -> None:
        """A chunk line has 4096 bytes at most, its end included; so has a trailer line; wherever they are cut."""
        for start, end in ((b"1;", b"\r\nx\r\n0\r\n\r\n"), (b"0\r\nX:", b"\r\n\r\n")):
            line = start + b"e" * (MAX_CHUNK_LINE - 2 - len(start.split(b"\n")[-1]))
            for excess in (b"", b"e"):
                data = line + excess + end
                cuts = [[], [1], [4096], [4097], [4098], range(0, len(data), 64), range(len(data))]
                for parts in (pieces(data, cut) for cut in cuts):
                    if excess:
                        error = self.assertRaises(BadBodyError, scan, parts, ChunkedBody())
                        self.assertIn("longer than 4096 bytes", error.message)
                    else:
                        self.assertEqual(scan(parts, ChunkedBody())[0], data)

    def test_most_trailers(self) -> None:
        """Trailers have 65536 bytes at most."""
        line = b"X: " + b"t" * 1019 + b"\r\n"
        data = b"0\r\n" + line * (MAX_TRAILER // len(line)) + b"\r\n"
        self.assertEqual(scan([data], ChunkedBody())[0], data)
        error = self.assertRaises(BadBodyError, scan, [data[:-2] + b"X:\r\n\r\n"], ChunkedBody())
        self.assertIn("longer than 65536 bytes", error.message)

    def test_generated(self) -> None:
        """Any sizes, extensions, trailers and cuts: the payload is the chunks' data, and h11 reads the same."""

        @settings(derandomize=True, deadline=None, max_examples=200)
        @given(ENCODED, st.lists(st.floats(0, 1), max_size=12), st.sampled_from(BUFFERS))
        def check(encoded: tuple[bytes, bytes], places: list[float], buffer: Buffer) -> None:
            data, payload = encoded
            parts = pieces(data + b"rest", [round(place * len(data)) for place in places])
            self.assertEqual(scan(parts, ChunkedBody(), buffer), (data, payload, True))
            self.assertEqual(judged(data), payload)

        check()

    def test_damaged(self) -> None:
        """A damaged body is read in one way, however it is cut; what we take to its end h11 takes, and reads alike."""

        @settings(derandomize=True, deadline=None, max_examples=300)
        @given(ENCODED, st.integers(0, 10**6), st.sampled_from(DAMAGES), st.booleans())
        def check(encoded: tuple[bytes, bytes], place: int, damage: bytes, replace: bool) -> None:
            data, _ = encoded
            place %= len(data)
            data = data[:place] + damage + data[place + (len(damage) if replace else 0) :]
            whole = outcome([data])
            for parts in (pieces(data, [place]), pieces(data, range(len(data))), pieces(data, range(0, len(data), 7))):
                self.assertEqual(outcome(parts), whole, parts)
            if isinstance(whole, tuple) and whole[2]:
                self.assertEqual(judged(whole[0]), whole[1])

        check()


@st.composite
def encoded_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a chunked body and its payload."""
    data = payload = b""
    for chunk in draw(st.lists(st.binary(min_size=1, max_size=40) | st.just(b"x" * 300), max_size=5)):
        size = b"%x" % len(chunk)
        size = size.upper() if draw(st.booleans()) else size
        data += draw(st.sampled_from([b"", b"0", b"000"])) + size + draw(EXTENSION) + b"\r\n" + chunk + b"\r\n"
        payload += chunk
    trailers = draw(st.lists(st.sampled_from([b"X: y\r\n", b"Y:\r\n", b"Digest: \xff\r\n"]), max_size=3))
    return data + b"0" + draw(EXTENSION) + b"\r\n" + b"".join(trailers) + b"\r\n", payload


EXTENSION = st.sampled_from([b"", b"", b";a", b";a=b", b'; a="b;c"', b";" + b"e" * 100, b" ", b"\t"])
ENCODED = encoded_bodies()
DAMAGES = [b"\r", b"\n", b"\r\n", b" ", b"0", b"f", b";", b":", b"\0", b"\xff", b"0\r\n\r\n", b"0x", b"-"]


def judged(data: bytes) -> bytes | None:
    """Return the payload that h11 sees in a chunked body, or None: it refuses it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    payload = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                payload += event.data
            elif isinstance(event, h11.EndOfMessage):
                return payload
            elif event is h11.NEED_DATA:
                return None
    except h11.RemoteProtocolError:
        return None


def outcome(parts: list[bytes]) -> tuple[bytes, bytes, bool] | str:
    """Return what `scan` does, or the kind of refusal (its sentence may quote more or less of a line)."""
    try:
        return scan(parts, ChunkedBody())
    except RefusedError as error:
        return error.message.split(":")[0]


class OtherBodyTests(SynchronousTestCase):
    def test_length(self) -> None:
        """A body of a known length takes so many bytes."""
        for size in (1, 2, 5, 7):
            for parts in every_way(b"hello world"):
                for buffer in BUFFERS:
                    own = b"hello world"[:size]
                    self.assertEqual(scan(parts, LengthBody(size), buffer), (own, own, True))
        body = LengthBody(12)
        self.assertEqual((body.feed(b"hello world"), body.done, body.remaining), (11, False, 1))
        self.assertEqual((body.feed(b"!!"), body.done, body.feed(b"!")), (1, True, 0))

    def test_none(self) -> None:
        """A body that is not there takes nothing."""
        payload: list[bytes] = []
        for body in (NoBody(), LengthBody(0)):
            self.assertEqual((body.done, body.feed(b"x", payload), body.done, payload), (True, 0, True, []))

    def test_until_close(self) -> None:
        """It takes all, and ends with the connection."""
        body = UntilCloseBody()
        payload: list[bytes] = []
        self.assertEqual((body.feed(memoryview(b"abc"), payload), body.feed(b"de"), body.done), (3, 2, False))
        body.close()
        self.assertEqual((body.done, payload), (True, [b"abc"]))

    def test_payload_is_kept_apart(self) -> None:
        """What is kept is a copy: the buffer that it came in is used again."""
        for framing, data in ((CHUNKED, b"3\r\nabc\r\n"), (Framing(BodyKind.LENGTH, 3), b"abc"), (UNTIL_CLOSE, b"abc")):
            buffer, payload = bytearray(data), list[bytes]()
            body_for(framing).feed(memoryview(buffer), payload)
            buffer[:] = b"\xa5" * len(buffer)
            self.assertEqual(payload, [b"abc"])

    def test_body_for(self) -> None:
        """Each framing has its body; behind an upgrade all bytes are one stream."""
        for framing, kind in (
            (NO_BODY, NoBody),
            (Framing(BodyKind.LENGTH, 3), LengthBody),
            (CHUNKED, ChunkedBody),
            (UNTIL_CLOSE, UntilCloseBody),
            (UPGRADE, UntilCloseBody),
        ):
            self.assertIs(type(body_for(framing)), kind)


# A client's side of a connection: what is one request after another.
TRANSCRIPT = [
    (b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n", b""),
    (b"POST /containers/create HTTP/1.1\r\nHost:\r\nContent-Length: 17\r\n\r\n", b'{"Image":"a\r\n\r\n"}'),
    (
        b"POST /build HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5;a\r\na\r\n\r\n\r\n0\r\nX: y\r\n\r\n",
    ),
    (b"POST /exec/1/start HTTP/1.0\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", b"{}"),
    (b"HEAD /_ping HTTP/1.1\r\n\r\n", b""),
]


class TranscriptTests(SynchronousTestCase):
    def read(self, parts: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Read heads and bodies as parts arrive; return those that are whole."""
        inbox, scanner, found = bytearray(), HeadScanner(), list[tuple[bytes, bytes]]()
        body: Body | None = None
        for part in parts:
            inbox += part
            while inbox or (body is not None and body.done):
                if body is None:
                    end = scanner.end(inbox)
                    if not end:
                        break
                    head = RequestHead.parse(bytes(inbox[:end]))
                    del inbox[:end]
                    body, own = body_for(request_framing(head)), b""
                size = body.feed(inbox)
                own += bytes(inbox[:size])
                del inbox[:size]
                if body.done:
                    found.append((head.raw, own))
                    body = None
        return found

    def test_any_cut(self) -> None:
        """Where the network cuts a connection's bytes makes no difference to the requests that are seen."""
        data = b"".join(head + body for head, body in TRANSCRIPT)
        for parts in every_way(data):
            self.assertEqual(self.read(parts), TRANSCRIPT)
