"""Frames in a stream of bytes, wherever it is cut; hyperframe is the judge of those that are built."""

from __future__ import annotations

from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, WindowUpdateFrame
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import BadFrameError
from docker_tracker.http2 import frames
from docker_tracker.http2.frames import FrameScanner, Kind

TRANSCRIPT = [
    frames.build(Kind.SETTINGS, 0, 0),
    frames.build(Kind.HEADERS, 4, 1, b"block"),
    frames.build(Kind.DATA, 1, 1, bytes(300)),
    frames.build(0xFA, 0xFF, 2**31 - 1, b"unknown"),
]


def scan(*pieces: bytes) -> list[bytes]:
    """Return the frames that are seen while pieces arrive."""
    scanner, found = FrameScanner(), []
    for piece in pieces:
        scanner.feed(piece)
        while (frame := scanner.take()) is not None:
            found.append(frame.raw)
    assert not len(scanner)
    return found


class ScannerTests(SynchronousTestCase):
    def test_any_split(self) -> None:
        """Where the network cuts the bytes makes no difference to what is seen."""
        data = b"".join(TRANSCRIPT)
        self.assertEqual(scan(*(data[place : place + 1] for place in range(len(data)))), TRANSCRIPT)
        for cut in range(len(data)):
            self.assertEqual(scan(data[:cut], data[cut:]), TRANSCRIPT)

    def test_header(self) -> None:
        """A frame has type, flags and stream; the reserved bit is no part of the stream's number."""
        scanner = FrameScanner()
        scanner.feed(b"\x00\x00\x01\x08\x03\x80\x00\x01\x02x")
        frame = scanner.take()
        assert frame is not None
        self.assertEqual((frame.kind, frame.flags, frame.stream), (8, 3, 258))
        self.assertEqual((frame.payload, frame.flow, frame.ends_stream), (b"x", 1, True))

    def test_limit(self) -> None:
        """A frame that is too large is refused by its header; one of the allowed size is taken."""
        scanner = FrameScanner(4)
        scanner.feed(frames.build(0, 0, 1, b"abcd"))
        self.assertIsNotNone(scanner.take())
        scanner.feed(frames.build(0, 0, 1, b"abcde")[: frames.HEADER_SIZE])
        self.assertEqual(self.assertRaises(BadFrameError, scanner.take).code, 6)

    def test_taken_one_by_one(self) -> None:
        """What is not taken is kept, and counted."""
        scanner = FrameScanner()
        scanner.feed(TRANSCRIPT[0] + TRANSCRIPT[1])
        scanner.take()
        self.assertEqual(len(scanner), len(TRANSCRIPT[1]))
        scanner.feed(TRANSCRIPT[2])
        found = [frame and frame.raw for frame in (scanner.take(), scanner.take(), scanner.take())]
        self.assertEqual(found, [*TRANSCRIPT[1:3], None])

    def test_preface(self) -> None:
        """The preface is taken away as it comes; anything else is refused at its first byte."""
        scanner, rest = FrameScanner(), frames.PREFACE
        for byte in frames.PREFACE + b"x":
            scanner.feed(bytes([byte]))
            rest = scanner.skip(rest)
        self.assertEqual((rest, len(scanner)), (b"", 1))
        self.assertRaises(BadFrameError, scanner.skip, b"P")


class ContentTests(SynchronousTestCase):
    def content(self, kind: int, flags: int, payload: bytes) -> bytes:
        """Return a frame's content."""
        return frames.Frame(kind, flags, 1, frames.build(kind, flags, 1, payload)).content()

    def test_padding_and_priority(self) -> None:
        """Padding and priority are left out where a frame has them."""
        self.assertEqual(self.content(Kind.DATA, 0, b"\x02data"), b"\x02data")
        self.assertEqual(self.content(Kind.DATA, frames.PADDED, b"\x02dataxx"), b"data")
        self.assertEqual(self.content(Kind.DATA, frames.PADDED, b"\x02xx"), b"")
        self.assertEqual(self.content(Kind.DATA, frames.PRIORITY, b"data"), b"data")
        self.assertEqual(self.content(Kind.HEADERS, frames.PRIORITY, b"12345block"), b"block")
        both = frames.PRIORITY | frames.PADDED
        self.assertEqual(self.content(Kind.HEADERS, both, b"\x0112345blockx"), b"block")

    def test_too_much_padding(self) -> None:
        """More padding than payload is refused, as is a frame that has no room for what its flags say."""
        for kind, flags, payload in (
            (Kind.DATA, frames.PADDED, b""),
            (Kind.DATA, frames.PADDED, b"\x01"),
            (Kind.DATA, frames.PADDED, b"\xffabc"),
            (Kind.HEADERS, frames.PRIORITY, b"1234"),
            (Kind.HEADERS, frames.PRIORITY | frames.PADDED, b"\x0112345"),
        ):
            self.assertRaises(BadFrameError, self.content, kind, flags, payload)


class BuildTests(SynchronousTestCase):
    def test_judged(self) -> None:
        """Frames that are built are what hyperframe reads."""
        for raw, kind, attributes in (
            (frames.build(Kind.DATA, 1, 5, b"data"), DataFrame, {"data": b"data", "flags": {"END_STREAM"}}),
            (frames.build(Kind.HEADERS, 5, 5, b"b"), HeadersFrame, {"flags": {"END_STREAM", "END_HEADERS"}}),
            (frames.window_update(7, 2**31 - 1), WindowUpdateFrame, {"window_increment": 2**31 - 1, "stream_id": 7}),
            (frames.rst_stream(7, 8), RstStreamFrame, {"error_code": 8}),
            (
                frames.goaway(9, 1, "why"),
                GoAwayFrame,
                {"last_stream_id": 9, "error_code": 1, "additional_data": b"why"},
            ),
        ):
            frame, length = Frame.parse_frame_header(memoryview(raw[:9]))
            frame.parse_body(memoryview(raw[9:]))
            self.assertEqual(length, len(raw) - 9)
            self.assertIsInstance(frame, kind)
            for name, value in attributes.items():
                found = getattr(frame, name)
                self.assertEqual(set(found) if isinstance(value, set) else found, value)
