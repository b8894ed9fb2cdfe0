"""Frames of stdout and stderr are told apart wherever the bytes are cut."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.stdstream import FrameSplitter, Stream
from docker_tracker.errors import EngineProtocolError

FRAMES = b"\1\0\0\0\0\0\0\5hello\2\0\0\0\0\0\0\0\2\0\0\0\0\0\0\3err\3\0\0\0\0\0\0\1!\0\0\0\0\0\0\1\0" + b"x" * 256


def joined(pieces: list[tuple[Stream, bytes]]) -> dict[Stream, bytes]:
    result: dict[Stream, bytes] = {}
    for stream, data in pieces:
        result[stream] = result.get(stream, b"") + data
    return result


EXPECTED = {Stream.STDOUT: b"hello", Stream.STDERR: b"err", Stream.SYSTEM_ERROR: b"!", Stream.STDIN: b"x" * 256}


class FrameSplitterTests(SynchronousTestCase):
    def test_any_split(self) -> None:
        """Where the bytes are cut makes no difference."""
        for cut in range(len(FRAMES)):
            splitter = FrameSplitter()
            pieces = splitter.feed(FRAMES[:cut]) + splitter.feed(FRAMES[cut:])
            self.assertEqual(joined(pieces), EXPECTED)
            self.assertTrue(splitter.between_frames)

    def test_byte_by_byte(self) -> None:
        """One byte at a time gives the same."""
        splitter = FrameSplitter()
        pieces = [piece for byte in FRAMES for piece in splitter.feed(bytes([byte]))]
        self.assertEqual(joined(pieces), EXPECTED)

    def test_between_frames(self) -> None:
        """A stream may end between frames only."""
        splitter = FrameSplitter()
        for data, whole in ((b"", True), (b"\1\0", False), (b"\0\0\0\0\0\2", False), (b"a", False), (b"b", True)):
            splitter.feed(data)
            self.assertIs(splitter.between_frames, whole)

    def test_holds_nothing(self) -> None:
        """A payload of any length is given on as it comes."""
        splitter = FrameSplitter()
        self.assertEqual(splitter.feed(b"\1\0\0\0\xff\xff\xff\xff" + b"a" * 9), [(Stream.STDOUT, b"a" * 9)])
        self.assertEqual(splitter.feed(b"b" * 7), [(Stream.STDOUT, b"b" * 7)])

    def test_no_frames(self) -> None:
        """A terminal's raw bytes are not taken for frames."""
        for data in (b"bin boot dev", b"\4\0\0\0\0\0\0\1", b"\1\0\1\0\0\0\0\1", b"\1\1\0\0\0\0\0\1"):
            self.assertRaises(EngineProtocolError, FrameSplitter().feed, data)
