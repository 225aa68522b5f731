"""Commands on the bits of strings: GETBIT, SETBIT, BITCOUNT, BITPOS, BITOP. The first bit is the highest of the first byte.

SETBIT writes the string anew and BITOP reads whole strings, so both are bounded (`MAX_STRING_BYTES`, `MAX_COMBINED_BYTES`).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from raftkv.kv.arguments import SYNTAX_ERROR, integer, parse_integer
from raftkv.kv.command import Command, Read, Write, machine_spec
from raftkv.kv.keyspace import Changes, Keyspace, string_of
from raftkv.kv.range_commands import check_length
from raftkv.kv.replies import Reply, fail
from raftkv.kv.rows import STRING

MAX_COMBINED_BYTES: Final = 64 << 20
"""So much may BITOP combine, zeros behind the shorter strings included: one command can name a long string a million times."""

_BITS: Final = 8 * (512 << 20)
"""Redis knows no bit from here on."""

_WORD_BYTES: Final = 21
"""No argument that means something is longer than this."""

_Operation = Literal["and", "or", "xor", "not"]
_NAMES: Final[dict[bytes, _Operation]] = {b"and": "and", b"or": "or", b"xor": "xor", b"not": "not"}
_COMBINE: Final[dict[_Operation, Callable[[int, int], int]]] = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


class GetBit(Read, frozen=True, array_like=True, gc=False, tag=43):
    """GETBIT."""

    key: bytes
    offset: Annotated[int, Meta(ge=0, lt=_BITS)]

    def read(self, keys: Keyspace) -> Reply:
        return _bit(keys.string(self.key) or b"", self.offset)


class SetBit(Write, frozen=True, array_like=True, gc=False, tag=44):
    """SETBIT: the bit until now."""

    key: bytes
    offset: Annotated[int, Meta(ge=0, lt=_BITS)]
    bit: bool

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        old = b"" if before is None else string_of(before)
        place, mask = self.offset >> 3, 0x80 >> (self.offset & 7)
        check_length(place + 1, old)
        data = bytearray(old.ljust(place + 1, b"\0"))
        data[place] = data[place] | mask if self.bit else data[place] & ~mask
        changes.put_anew(self.key, STRING, bytes(data), 0 if before is None else before.expiry_ms, before)
        return _bit(old, self.offset)


class CountBits(Read, frozen=True, array_like=True, gc=False, tag=45):
    """BITCOUNT. Redis reads what comes after the key only when it has found a string, so this does too."""

    key: bytes
    words: tuple[bytes, ...] = ()

    def read(self, keys: Keyspace) -> Reply:
        if keys.value(self.key) is None:
            return 0
        data = keys.string(self.key) or b""
        if not self.words:
            return int.from_bytes(data).bit_count()
        if len(self.words) not in (2, 3):
            fail(SYNTAX_ERROR)
        first, last = integer(self.words[0]), integer(self.words[1])
        if last < first < 0:
            return 0
        in_bits = _in_bits(self.words[2:])
        first, last = _range(first, last, 8 * len(data) if in_bits else len(data))
        if not in_bits:
            return int.from_bytes(data[first : last + 1]).bit_count()
        return int.from_bytes(_cut(data, first, last, 0)).bit_count() if first <= last else 0


class FindBit(Read, frozen=True, array_like=True, gc=False, tag=46):
    """BITPOS. Redis reads what comes after the bit only when it has found a string, so this does too."""

    key: bytes
    bit: bool
    words: tuple[bytes, ...] = ()

    def read(self, keys: Keyspace) -> Reply:
        if keys.value(self.key) is None:
            return -1 if self.bit else 0
        data = keys.string(self.key) or b""
        words = self.words
        if len(words) > 3:
            fail(SYNTAX_ERROR)
        first = integer(words[0]) if words else 0
        in_bits = _in_bits(words[2:])
        last = integer(words[1]) if len(words) > 1 else -1
        first, last = _range(first, last, 8 * len(data) if in_bits else len(data))
        if first > last:
            return -1
        if not in_bits:
            first, last = 8 * first, 8 * last + 7
        place = 8 * (first // 8) + _first_bit(_cut(data, first, last, 0 if self.bit else 0xFF), self.bit)
        if place <= last:
            return place
        return -1 if self.bit or len(words) > 1 else place


class CombineBits(Write, frozen=True, array_like=True, gc=False, tag=47):
    """BITOP: the length of what `to` is now. What is shorter than the longest is taken to go on with zeros."""

    operation: _Operation
    to: bytes
    keys: Annotated[tuple[bytes, ...], Meta(min_length=1)]

    def apply(self, changes: Changes) -> Reply:
        strings: list[bytes] = []
        longest = 0
        for key in self.keys:
            strings.append(changes.string(key) or b"")
            longest = max(longest, len(strings[-1]))
            if longest * len(strings) > MAX_COMBINED_BYTES:
                fail(f"BITOP would combine more than {MAX_COMBINED_BYTES} bytes")
        numbers = [int.from_bytes(data.ljust(longest, b"\0")) for data in strings]
        combine = _COMBINE.get(self.operation)
        number = (1 << 8 * longest) - 1 - numbers[0] if combine is None else functools.reduce(combine, numbers)
        before = changes.value(self.to)
        if longest:
            changes.put_anew(self.to, STRING, number.to_bytes(longest), 0, before)
        elif before is not None:
            changes.delete(self.to, before)
        return longest


def _bit(data: bytes, offset: int) -> int:
    place = offset >> 3
    return data[place] >> (7 - (offset & 7)) & 1 if place < len(data) else 0


def _range(first: int, last: int, size: int) -> tuple[int, int]:
    """The range as Redis takes it: negative ends count from the end, and what is outside is cut off."""
    first = max(first + size, 0) if first < 0 else first
    last = max(last + size, 0) if last < 0 else last
    return first, min(last, size - 1)


def _cut(data: bytes, first: int, last: int, filler: int) -> bytes:
    """The bytes with the bits from `first` to `last`, and those of `filler` in place of the bits around them."""
    cut = bytearray(data[first // 8 : last // 8 + 1])
    before, after = 0xFF >> first % 8, 0xFF << 7 - last % 8 & 0xFF
    cut[0] = cut[0] & before | filler & ~before & 0xFF
    cut[-1] = cut[-1] & after | filler & ~after & 0xFF
    return bytes(cut)


def _first_bit(data: bytes, bit: bool) -> int:
    """Where the first `bit` is; behind the end if nowhere."""
    rest = data.lstrip(b"\0" if bit else b"\xff")
    if not rest:
        return 8 * len(data)
    return 8 * (len(data) - len(rest)) + 8 - (rest[0] if bit else 0xFF - rest[0]).bit_length()


def _in_bits(words: Sequence[bytes]) -> bool:
    """Whether a range is one of bits."""
    if words and words[0].upper() not in (b"BIT", b"BYTE"):
        fail(SYNTAX_ERROR)
    return bool(words) and words[0].upper() == b"BIT"


def _offset(data: bytes) -> int:
    number = parse_integer(data)
    if number is None or not 0 <= number < _BITS:
        fail("bit offset is not an integer or out of range")
    return number


def _words(args: Sequence[bytes]) -> tuple[bytes, ...]:
    """The arguments, cut off where they mean nothing any more."""
    return tuple(arg[:_WORD_BYTES] for arg in args[:4])


def _parse_setbit(args: Sequence[bytes]) -> Command:
    offset = _offset(args[2])
    if args[3] not in (b"0", b"1"):
        fail("bit is not an integer or out of range")
    return SetBit(args[1], offset, args[3] == b"1")


def _parse_bitpos(args: Sequence[bytes]) -> Command:
    bit = integer(args[2])
    if bit not in (0, 1):
        fail("The bit argument must be 1 or 0.")
    return FindBit(args[1], bit == 1, _words(args[3:]))


def _parse_bitop(args: Sequence[bytes]) -> Command:
    operation = _NAMES.get(args[1].lower())
    if operation is None:
        fail(SYNTAX_ERROR)
    if operation == "not" and len(args) != 4:
        fail("BITOP NOT must be called with a single source key.")
    return CombineBits(operation, args[2], tuple(args[3:]))


SPECS: Final = (
    machine_spec("getbit", 3, lambda args: GetBit(args[1], _offset(args[2])), "Get a bit of the value of a key", "bitmap", "readonly fast"),
    machine_spec("setbit", 4, _parse_setbit, "Set a bit of the value of a key", "bitmap", "write denyoom"),
    machine_spec("bitcount", -2, lambda args: CountBits(args[1], _words(args[2:])), "Count the bits that are set", "bitmap", "readonly"),
    machine_spec("bitpos", -3, _parse_bitpos, "Find the first bit that is set, or is not", "bitmap", "readonly"),
    machine_spec("bitop", -4, _parse_bitop, "Combine values bit by bit", "bitmap", "write denyoom", keys=(2, -1, 1)),
)

COMMANDS: Final = (GetBit, SetBit, CountBits, FindBit, CombineBits)
