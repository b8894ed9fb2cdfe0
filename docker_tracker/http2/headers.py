"""Header blocks (HPACK, RFC 7541): read for the few fields that matter, never encoded but for a refusal's.

The fields are found here; the table and Huffman's code are the library's. Its decoder copies what is left of a block at
each field, so that one of 450 KB with 16,000 short fields takes it six seconds; and it decodes all texts, where few are
asked for: the trailer with the Dockerfile that every failed build has is passed over.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from docker_tracker.errors import BadFrameError
from docker_tracker.http2.frames import Code

#: The most fields that a block may have; gRPC's have some ten.
MAX_FIELDS: Final = 1000
#: The largest dynamic table that a peer may use, in bytes, whatever the other one allows it. The default is 4096.
MAX_TABLE: Final = 65536
#: A longer value that does not enter the table is passed over.
_LONG: Final = 65536
#: Texts in Huffman's code that are not longer are decoded once, as long as they are met again and again.
_SHORT: Final = 128

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


def _string(block: bytes, place: int) -> tuple[bytes, bool, int]:
    """Return a text as it stands, whether it is in Huffman's code, and where it ends."""
    size, start = _integer(block, place, 7)
    end = start + size
    if end > len(block):
        raise _bad("a header block ends within a field")
    return block[start:end], block[place] >= 0x80, end


def _text(text: bytes, coded: bool) -> bytes:
    if not coded:
        return text
    return _short_text(text) if len(text) <= _SHORT else decode_huffman(text)


_short_text: Final = lru_cache(512)(decode_huffman)


class HeaderReader:
    """Reads the header blocks of one direction, in their order.

    :param wanted: The names of the fields that are returned, in lower case.
    """

    __slots__ = ("_allowed", "_announced", "_table", "_wanted")

    def __init__(self, wanted: frozenset[bytes]) -> None:
        self._table = HeaderTable()
        self._allowed = self._table.maxsize
        self._wanted = wanted
        self._announced: deque[int] = deque()

    def announce(self, size: int | None) -> None:
        """The receiver sent settings, with this table size if they have one; its sender may use it from now on."""
        if len(self._announced) > MAX_FIELDS:
            raise BadFrameError("settings are sent, but never acknowledged", Code.ENHANCE_YOUR_CALM)
        size = self._announced_last() if size is None else min(size, MAX_TABLE)
        self._announced.append(size)
        self._allowed = max(self._allowed, size)

    def _announced_last(self) -> int:
        return self._announced[-1] if self._announced else self._allowed

    def acknowledge(self) -> None:
        """The sender acknowledged the oldest settings that it had not yet: now it must keep to them."""
        if self._announced:
            size = self._announced.popleft()
            self._allowed = max(size, *self._announced, 0)

    def owed(self) -> bytes:
        """Return the table size update with which the next block has to begin, or nothing."""
        size = self._allowed
        return _encoded(size, 5, 0x20) if self._table.maxsize > size else b""

    def read(self, block: bytes) -> Fields:
        """Return the wanted fields of a block: all values of each that is there.

        :raises BadFrameError: the block is broken; the next one cannot be read either.
        """
        fields: Fields = {}
        count = place = 0
        try:
            while place < len(block):
                first = block[place]
                if first & 0xE0 == 0x20:
                    size, place = _integer(block, place, 5)
                    self._resize(size, count)
                    continue
                count += 1
                if count > MAX_FIELDS:
                    raise BadFrameError("a header block has too many fields", Code.ENHANCE_YOUR_CALM)
                if first & 0x80:
                    index, place = _integer(block, place, 7)
                    name, value = self._table.get_by_index(index)
                else:
                    name, value, place = self._literal(block, place)
                if name in self._wanted:
                    fields.setdefault(name, []).append(value)
        except HPACKError as error:
            raise _bad(f"a header block is broken: {error}") from error
        if self._table.maxsize > self._allowed:
            raise _bad("a table of headers is larger than its receiver allows")
        return fields

    def _resize(self, size: int, count: int) -> None:
        if count:
            raise _bad("a table size that is not at the start of a header block")
        if size > self._allowed:
            raise _bad("a table of headers is to be larger than its receiver allows")
        self._table.maxsize = size

    def _literal(self, block: bytes, place: int) -> tuple[bytes, bytes, int]:
        """Return a field that is no reference, and where it ends; one that nobody needs is empty."""
        enters = block[place] & 0x40
        index, place = _integer(block, place, 6 if enters else 4)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            text, coded, place = _string(block, place)
            name = _text(text, coded)
        text, coded, place = _string(block, place)
        if not enters and (name not in self._wanted or len(text) > _LONG):
            return b"", b"", place
        value = _text(text, coded)
        if enters:
            self._table.add(name, value)
        return name, value, place


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
