"""Header blocks (HPACK, RFC 7541): read for the few fields that matter, never encoded but for a refusal's.

A block is walked field by field before the library decodes it. The library copies what is left of a block at each
field, so that one of 450 KB with 16,000 short fields takes it six seconds; and long fields of which nobody asks,
as the trailer with the Dockerfile that every failed build has, need not be decoded at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from docker_tracker.errors import BadFrameError
from docker_tracker.http2.frames import Code

#: The most fields that a block may have; gRPC's have some ten.
MAX_FIELDS: Final = 1000
#: The largest dynamic table that a peer may use, in bytes, whatever the other one allows it. The default is 4096.
MAX_TABLE: Final = 65536
#: A longer field that does not enter the table is passed over.
_LONG: Final = 65536

Fields = dict[bytes, list[bytes]]


def _bad(message: str) -> BadFrameError:
    return BadFrameError(message, Code.COMPRESSION_ERROR)


def _integer(block: bytes, place: int, bits: int) -> tuple[int, int]:
    """Return the integer with a prefix of so many bits (RFC 7541 section 5.1), and where it ends."""
    if place >= len(block):
        raise _bad("a header block ends within a field")
    most = (1 << bits) - 1
    value = block[place] & most
    place += 1
    if value < most:
        return value, place
    for shift in (0, 7, 14, 21):
        if place >= len(block):
            raise _bad("a header block ends within a field")
        value += (block[place] & 0x7F) << shift
        place += 1
        if block[place - 1] < 0x80:
            return value, place
    raise _bad("a header block has too large a number")


def _string_end(block: bytes, place: int) -> int:
    size, place = _integer(block, place, 7)
    if place + size > len(block):
        raise _bad("a header block ends within a field")
    return place + size


def _walk(block: bytes) -> Iterator[tuple[int, int]]:
    """Give where each field of a block starts and ends."""
    place = 0
    while place < len(block):
        start, first = place, block[place]
        if first & 0x80:  # indexed
            _, place = _integer(block, place, 7)
        elif first & 0xE0 == 0x20:  # the table's size
            _, place = _integer(block, place, 5)
        else:  # a literal, that enters the table or not
            name, place = _integer(block, place, 6 if first & 0x40 else 4)
            place = _string_end(block, place if name else _string_end(block, place))
        yield start, place


class HeaderReader:
    """Reads the header blocks of one direction, in their order.

    :param wanted: The names of the fields that are returned, in lower case.
    """

    __slots__ = ("_announced", "_decoder", "_wanted")

    def __init__(self, wanted: frozenset[bytes]) -> None:
        # The list's size needs no limit: the block's is limited, and what indexes blow it up to are references.
        self._decoder = Decoder(max_header_list_size=2**31)
        self._wanted = wanted
        self._announced: deque[int] = deque()

    def announce(self, size: int | None) -> None:
        """The receiver sent settings, with this table size if they have one; its sender may use it from now on."""
        if len(self._announced) > MAX_FIELDS:
            raise BadFrameError("settings are sent, but never acknowledged", Code.ENHANCE_YOUR_CALM)
        size = self._announced_last() if size is None else min(size, MAX_TABLE)
        self._announced.append(size)
        self._decoder.max_allowed_table_size = max(self._decoder.max_allowed_table_size, size)

    def _announced_last(self) -> int:
        return self._announced[-1] if self._announced else self._decoder.max_allowed_table_size

    def acknowledge(self) -> None:
        """The sender acknowledged the oldest settings that it had not yet: now it must keep to them."""
        if self._announced:
            size = self._announced.popleft()
            self._decoder.max_allowed_table_size = max(size, *self._announced, 0)

    def owed(self) -> bytes:
        """Return the table size update with which the next block has to begin, or nothing."""
        size = self._decoder.max_allowed_table_size
        return _encoded(size, 5, 0x20) if self._decoder.header_table_size > size else b""

    def read(self, block: bytes) -> Fields:
        """Return the wanted fields of a block: all values of each that is there.

        :raises BadFrameError: the block is broken; the next one cannot be read either.
        """
        fields: Fields = {}
        count = 0
        try:
            for start, end in _walk(block):
                first = block[start]
                if first & 0xE0 == 0x20:
                    if count:
                        raise _bad("a table size that is not at the start of a header block")
                elif (count := count + 1) > MAX_FIELDS:
                    raise BadFrameError("a header block has too many fields", Code.ENHANCE_YOUR_CALM)
                if end - start > _LONG and first < 0x20:
                    continue
                for name, value in self._decoder.decode(block[start:end], raw=True):
                    if bytes(name) in self._wanted:
                        fields.setdefault(bytes(name), []).append(bytes(value))
        except HPACKError as error:
            raise _bad(f"a header block is broken: {error}") from error
        return fields


def _encoded(value: int, bits: int, pattern: int) -> bytes:
    """Return an integer behind a pattern's bits."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([pattern | value])
    encoded, value = bytearray([pattern | most]), value - most
    while value >= 0x80:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field that neither uses nor changes the receiver's table, without Huffman's code."""
    return b"\x00" + _encoded(len(name), 7, 0) + name + _encoded(len(value), 7, 0) + value


#: ``:status: 200`` of the static table.
STATUS_OK: Final = b"\x88"
