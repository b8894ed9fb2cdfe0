"""Header blocks: what is read of them, what is refused, and what is written."""

from __future__ import annotations

from hpack import Decoder, Encoder, HPACKDecodingError
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import BadFrameError
from docker_tracker.http2 import grpc
from docker_tracker.http2.headers import MAX_FIELDS, MAX_TABLE, Fields, HeaderReader, literal

WANTED = frozenset((b"a", b":path"))
NAMES = st.sampled_from(("a", "b", ":path", "c" * 200))
PIECES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from((b"\x82", b"\x04\x02/a", b"\x44\x02/b", b"\x40\x01a\x81\x1f", b"\xbe", b"\xbf", b"\x10\x01b\x01x")),
    st.sampled_from((b"\x20", b"\x3f\xe1\x1f", b"\x3f\x21", b"\x7e\x02yz", b"\x0f\x2f\x01z")),
)


def _pairs(fields: Fields, order: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return fields one by one, their names in the order of others."""
    left = {name: iter(values) for name, values in fields.items()}
    return [(name, next(left.get(name, iter(())), b"")) for name, _ in order if name in WANTED]


class ReadTests(SynchronousTestCase):
    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.lists(st.lists(st.tuples(NAMES, st.text("xyz", max_size=80), st.booleans()), max_size=8), max_size=12))
    def test_as_the_library_reads(self, blocks: list[list[tuple[str, str, bool]]]) -> None:
        """Blocks of any fields, one after the other, give what hpack's decoder gives; Huffman or not."""
        encoder, decoder, reader = Encoder(), Decoder(), HeaderReader(WANTED)
        for number, block in enumerate(blocks):
            data = encoder.encode(block, huffman=number % 2 == 0)
            wanted: dict[bytes, list[bytes]] = {}
            for name, value in decoder.decode(data, raw=True):
                if name in WANTED:
                    wanted.setdefault(bytes(name), []).append(bytes(value))
            self.assertEqual(reader.read(data), wanted)
            self.assertEqual(reader._table.dynamic_entries, decoder.header_table.dynamic_entries)

    def test_table_size(self) -> None:
        """A sender may use what its receiver announced, at once; it must keep to less from its acknowledgement on."""
        reader, encoder = HeaderReader(WANTED), Encoder()
        reader.announce(8192)
        encoder.header_table_size = 8192
        reader.read(encoder.encode([("a", "x")]))
        reader.announce(100)
        reader.read(encoder.encode([("a", "x")]))
        reader.acknowledge()
        reader.read(encoder.encode([("a", "x")]))
        self.assertEqual(reader.owed(), b"")
        reader.acknowledge()
        self.assertEqual(reader.owed(), b"\x3f\x45")
        self.assertRaises(BadFrameError, reader.read, encoder.encode([("a", "x")]))

    def test_two_sizes_on_their_way(self) -> None:
        """What was announced last may be used before it is acknowledged, also if less was announced in between."""
        reader, encoder = HeaderReader(WANTED), Encoder()
        reader.announce(100)
        reader.announce(5000)
        reader.acknowledge()
        encoder.header_table_size = 5000
        self.assertEqual(reader.read(encoder.encode([("a", "x")])), {b"a": [b"x"]})

    def test_table_is_bounded(self) -> None:
        """No peer may use more than our bound, whatever the other allows; settings without a size change none."""
        reader, encoder = HeaderReader(WANTED), Encoder()
        reader.announce(2**32 - 1)
        reader.announce(None)
        reader.acknowledge()
        reader.acknowledge()
        reader.acknowledge()
        encoder.header_table_size = MAX_TABLE
        reader.read(encoder.encode([("a", "x")]))
        encoder.header_table_size = MAX_TABLE + 1
        self.assertRaises(BadFrameError, reader.read, encoder.encode([("a", "x")]))

    def test_never_acknowledged(self) -> None:
        """Settings that are never acknowledged are counted."""
        reader = HeaderReader(WANTED)
        with self.assertRaises(BadFrameError):
            for _ in range(2000):
                reader.announce(1)

    def test_broken(self) -> None:
        """Broken blocks are refused, at every cut of a good one that is within a field, too."""
        for block in (
            b"\x80",  # index 0
            b"\xff\xff\xff\xff\xff\x0f",  # a number without end
            b"\x82\x20",  # a table size behind a field
            b"\x3f\xff\xff\x7f",  # a table size beyond the limit
            b"\x00\x01a\x81\x00",  # Huffman's code, broken
            b"\x40\x7f\xff\xff\xff\x7fa",
        ):
            self.assertRaises(BadFrameError, HeaderReader(WANTED).read, block)
        block = Encoder().encode([("a", "x" * 300)], huffman=False)
        for cut in range(1, len(block)):
            self.assertRaises(BadFrameError, HeaderReader(WANTED).read, block[:cut])

    @settings(max_examples=1000, deadline=None, derandomize=True)
    @given(st.lists(st.lists(PIECES, max_size=8).map(b"".join), max_size=4))
    def test_random_bytes(self, blocks: list[bytes]) -> None:
        """Random bytes are read as hpack's decoder reads them, or refused, in no other way."""
        decoder, reader = Decoder(), HeaderReader(WANTED)
        try:
            for block in blocks:
                fields = reader.read(block)
                try:
                    judged = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
                except HPACKDecodingError as error:
                    # Of a text that nobody asks for, and that does not enter the table, the code is not looked at.
                    self.assertIn("Huffman", str(error))
                    return
                self.assertEqual([pair for pair in judged if pair[0] in WANTED], _pairs(fields, judged))
                self.assertEqual(reader._table.dynamic_entries, decoder.header_table.dynamic_entries)
        except BadFrameError:
            pass

    def test_many_fields(self) -> None:
        """A block with too many fields is given up; the library would take seconds for it."""
        reader = HeaderReader(WANTED)
        reader.read(b"\x82" * MAX_FIELDS)
        self.assertRaises(BadFrameError, reader.read, b"\x00\x00\x00" * 16000 + literal(b"a", b"x" * 400_000))

    def test_long_fields(self) -> None:
        """A long field is passed over, unless it enters the table; those behind it are read."""
        details = Encoder().encode([("details", "x" * 70_000)], huffman=False)
        reader = HeaderReader(WANTED)
        plain = literal(b"a", b"x" * 70_000) + literal(b"a", b"1")
        self.assertEqual(reader.read(plain), {b"a": [b"1"]})
        self.assertEqual(reader.read(b"\x40\x01a\x012"), {b"a": [b"2"]})
        self.assertEqual(reader.read(b"\xbe"), {b"a": [b"2"]})
        self.assertEqual(reader.read(details + literal(b"a", b"1")), {b"a": [b"1"]})
        self.assertRaises(BadFrameError, reader.read, b"\xbe")  # it was too large for the table, which is empty now


class GrpcTests(SynchronousTestCase):
    def test_refusal(self) -> None:
        """A refusal's block is read as it is meant, and leaves the reader's table as it was."""
        for size in (0, 100, 126, 127, 128, 499):
            decoder = Decoder()
            block = grpc.refusal(7, "x" * size, False)
            self.assertEqual(
                [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)],
                [
                    (b":status", b"200"),
                    (b"content-type", b"application/grpc"),
                    (b"grpc-status", b"7"),
                    (b"grpc-message", b"x" * size),
                ],
            )
            self.assertEqual(len(decoder.header_table.dynamic_entries), 0)

    def test_end(self) -> None:
        """A status is a number of at most three digits; the message's escapes are undone."""
        for fields, end in (
            ({b"grpc-status": [b"0"]}, (0, "")),
            ({b"grpc-status": [b"13"], b"grpc-message": [b"a%20b%C3%A4%"]}, (13, "a b\u00e4%")),
            ({b"grpc-status": [b"1", b"2"]}, (2, "")),
            ({b"grpc-status": [b"-1"]}, (None, "")),
            ({b"grpc-status": [b"1000"]}, (None, "")),
            ({b"grpc-status": ["\u0661".encode()]}, (None, "")),
            ({}, (None, "")),
        ):
            self.assertEqual(grpc.read_end(fields), end)

    def test_build(self) -> None:
        """Of two build IDs the engine takes none; so do we."""
        paths = [b"/a.B/C"]
        key = b"buildkit-controlapi-buildid"
        self.assertEqual(grpc.read_call({b":path": paths, key: [b"x"]}), ("/a.B/C", "x"))
        self.assertEqual(grpc.read_call({b":path": paths, key: [b"x", b"y"]}), ("/a.B/C", ""))
        self.assertEqual(grpc.read_call({}), ("", ""))
