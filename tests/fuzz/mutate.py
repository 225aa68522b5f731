"""Changes to valid encodings that a parser may not survive: flips, cuts, splices, extreme numbers, items of msgpack replaced.

`mutate` makes one input from another. Everything random comes from the generator that it is given. It knows how numbers are written
in each format (digits, big- and little-endian, msgpack) and where items of msgpack begin and end, so that what it makes is often
well-formed but for the one thing that it changed. Checksums are set right by each target's `repair`, not here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

DEEP = 1200
"""Deeper nesting than the interpreter's stack allows."""

_NUMBERS: tuple[int, ...] = (0, 1, -1, 2, 15, 16, 127, 128, 255, 256, 511, 512, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32)
_NUMBERS += (2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63))
_DIGITS = re.compile(rb"[0-9]+")

_ITEMS = (
    b"\xc0", b"\xc2", b"\xc3", b"\xa0", b"\xa1\xff", b"\xa2n9", b"\xc4\x00", b"\xc4\x01\x00", b"\x90", b"\x80", b"\x81\x90\x01",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", b"\xd4\x01\x00", b"\xd6\xff\x00\x00\x00\x00",
    b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1",
    b"\x91" * DEEP + b"\xc0", b"\xa3gen", b"\xaa../../../x", b"\xc4\x10" + bytes(16),
)  # fmt: skip
"""Items that a decoder of another type must refuse."""

_WIDTHS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xCA: 4, 0xCB: 8}
_WIDTHS |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def pack_integer(number: int) -> bytes:
    """A 64-bit integer in msgpack's longest form."""
    return b"\xcf" + struct.pack(">Q", number) if number >= 0 else b"\xd3" + struct.pack(">q", number)


def items(data: bytes, limit: int = 400) -> list[tuple[int, int]]:
    """Where the msgpack items in `data` begin, with the containers' heads, and where they or their heads end: the first `limit`."""
    found: list[tuple[int, int]] = []
    position = 0
    while position < len(data) and len(found) < limit:
        begin, first = position, data[position]
        position += 1
        if first in _WIDTHS:
            position += _WIDTHS[first]
        elif first in _LENGTHS:
            width = _LENGTHS[first]
            position += width + int.from_bytes(data[position : position + width], "big")
        elif first in _COUNTS:
            position += _COUNTS[first][0]
        elif 0xA0 <= first < 0xC0:
            position += first & 31
        if position > len(data):
            break
        found.append((begin, position))
    return found


def mutate(data: bytes, rng: Random, others: Sequence[bytes], max_bytes: int) -> bytes:
    """`data` with one to four changes, at most `max_bytes` long. Parts of `others` may get into it."""
    for _ in range(1 + min(rng.getrandbits(2), rng.getrandbits(2))):
        data = rng.choice(_CHANGES)(data, rng, others)
    return data[:max_bytes]


def _place(data: bytes, rng: Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]


def _overwrite(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.randrange(1, 5)) + data[at + rng.randrange(5) :]


def _cut(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.randrange(1, 40) :] if rng.getrandbits(1) else data[:at]


def _splice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _repeat(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, rng)
    piece = data[at : at + rng.randrange(1, 40)]
    return data[:at] + piece * rng.choice((2, 2, 3, 40)) + data[at + len(piece) :]


def _binary_number(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, rng)
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((*_NUMBERS, len(data))) % (1 << 8 * width)
    return data[:at] + number.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def _decimal_number(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    found = list(_DIGITS.finditer(data[:4096]))
    if not found:
        return _overwrite(data, rng, others)
    match = rng.choice(found)
    near = int(match[0][:18]) + rng.choice((-1, 1))
    number = rng.choice((b"%d" % near, b"%d" % rng.choice(_NUMBERS), b"9" * rng.choice((18, 19, 20, 30, 5000)), b"00", b"-0", b""))
    return data[: match.start()] + number + data[match.end() :]


def _msgpack_item(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Replace, drop or insert one item; a head of a container is an item, too."""
    found = items(data)
    if not found:
        return _overwrite(data, rng, others)
    begin, end = rng.choice(found)
    item = pack_integer(rng.choice(_NUMBERS)) if rng.getrandbits(1) else rng.choice(_ITEMS)
    match rng.randrange(8):
        case 0:
            return data[:begin] + data[end:]
        case 1:
            return data[:begin] + item + data[begin:]
        case 2:
            return data[:begin] + data[begin:end] * 2 + data[end:]
        case 3 if 0x90 <= data[begin] < 0x9F or 0xA0 <= data[begin] < 0xBF:  # one more element: a field of a newer version
            return data[:begin] + bytes([data[begin] + 1]) + data[begin + 1 : end] + item + data[end:]
        case 4 if 0x90 <= data[begin] < 0x9F:  # the same behind the last one, if this is the outermost array
            return data[:begin] + bytes([data[begin] + 1]) + data[begin + 1 :] + item
        case _:
            return data[:begin] + item + data[end:]


def _newer_field(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """An array that reaches to the end of the data gets one element more, as if a newer version had written it."""
    heads = [begin for begin, _ in items(data)[:12] if 0x90 <= data[begin] < 0x9F]
    if not heads:
        return _msgpack_item(data, rng, others)
    begin = rng.choice(heads)
    item = rng.choice((b"\x91" * DEEP + b"\xc0", rng.choice(_ITEMS), pack_integer(rng.choice(_NUMBERS))))
    return data[:begin] + bytes([data[begin] + 1]) + data[begin + 1 :] + item


_Change = Callable[[bytes, Random, Sequence[bytes]], bytes]
_CHANGES: tuple[_Change, ...] = (
    _flip, _overwrite, _cut, _splice, _repeat, _binary_number, _decimal_number, _msgpack_item, _msgpack_item,
    _newer_field,
)  # fmt: skip
