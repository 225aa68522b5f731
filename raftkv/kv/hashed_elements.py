"""Elements that are kept in the order of the hashes of their names: scanning them in pieces, and choosing some of them at random.

A cursor is the upper 52 bits of the hash of the next element, as SCAN's is, so that nothing is kept between calls and it means the same on
every node. An element that is there throughout is returned, and returned once.

To choose is to look at a place that a random number names, and to take the next element. Of a few elements each is as likely as any other;
of many, about as likely. The random number comes from outside, and decides everything.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct
from xxhash import xxh3_64_intdigest

from raftkv.kv.arguments import SYNTAX_ERROR, integer
from raftkv.kv.collection import following
from raftkv.kv.glob import Pattern
from raftkv.kv.keyspace import Keyspace
from raftkv.kv.replies import CommandError, fail
from raftkv.kv.rows import HASH_BYTES
from raftkv.kv.space_commands import DEFAULT_COUNT, MAX_COUNT, MAX_STEPS, check_pattern

SMALL: Final = 128
"""Collections of up to so many elements are scanned in one call, as Redis does."""

MAX_CHOSEN: Final = 1 << 20
"""So many elements may be chosen at once."""

_FEW_PLACES: Final = 1000
_CURSOR_BITS: Final = 52
_CURSOR_SHIFT: Final = 64 - _CURSOR_BITS

_numbers = struct.Struct(">QQ")
_hash = struct.Struct(">Q")

Element = tuple[bytes, bytes]
"""A name, and the value of its row."""


class ScanOptions(Struct, frozen=True):
    """What a scan was asked for. `problem` is what is wrong with it, which is only told where there is something to scan."""

    count: int = DEFAULT_COUNT
    pattern: bytes | None = None
    problem: str = ""


def scan_options(args: Sequence[bytes]) -> ScanOptions:
    """The options of a scan of a collection."""
    count = DEFAULT_COUNT
    pattern: bytes | None = None
    try:
        for position in range(0, len(args), 2):
            option = args[position].upper()
            if position + 1 == len(args) or option not in (b"COUNT", b"MATCH"):
                fail(SYNTAX_ERROR)
            argument = args[position + 1]
            if option == b"MATCH":
                check_pattern(argument)
                pattern = None if argument == b"*" else argument
                continue
            count = integer(argument)
            if count < 1:
                fail(SYNTAX_ERROR)
    except CommandError as error:
        return ScanOptions(problem=error.failure.message)
    return ScanOptions(count, pattern)


def scan_elements(keys: Keyspace, prefix: bytes, total: int, cursor: int, options: ScanOptions) -> tuple[int, list[Element]]:
    """The next of the `total` elements whose rows begin with `prefix`, and the cursor behind them, 0 at the end."""
    if cursor >> _CURSOR_BITS:
        return 0, []
    pattern = None if options.pattern is None else Pattern(options.pattern)
    most = SMALL if total <= SMALL else min(options.count, MAX_COUNT)
    found: list[Element] = []
    steps = 0
    last_place = -1
    rows = keys.elements(prefix + _hash.pack(cursor << _CURSOR_SHIFT), following(prefix))
    for visited, (row, value) in enumerate(rows):
        place: int = _hash.unpack_from(row, len(prefix))[0] >> _CURSOR_SHIFT
        if visited and place != last_place and (visited >= most or steps > MAX_STEPS):
            return place, found
        name = row[len(prefix) + HASH_BYTES :]
        steps += len(row) + len(value) + (0 if pattern is None else pattern.cost(name))
        last_place = place
        if pattern is None or pattern.matches(name):
            found.append((name, value))
    return 0, found


def choose_one(keys: Keyspace, prefix: bytes, total: int, number: int) -> Element:
    """One of the `total` elements, at least one, whose rows begin with `prefix`; `number` decides which."""
    return next(choose_any(keys, prefix, total, 1, number))


def choose_any(keys: Keyspace, prefix: bytes, total: int, count: int, number: int) -> Iterator[Element]:
    """As `choose_one`, `count` times: the same element may come again."""
    if total <= SMALL:
        everything = list(_all(keys, prefix))
        return (everything[_draw(number, turn) % len(everything)] for turn in range(count))
    return (next(_from(keys, prefix, _draw(number, turn))) for turn in range(count))


def choose_different(keys: Keyspace, prefix: bytes, total: int, count: int, number: int) -> list[Element]:
    """`count` of the elements, no one twice; all if there are no more."""
    if count >= total:
        return list(_all(keys, prefix))
    if count > _FEW_PLACES or count * 3 > total or total <= SMALL:
        return _sample(list(_all(keys, prefix)), count, number)
    chosen: dict[bytes, bytes] = {}
    for turn in range(count):
        name, value = next(element for element in _from(keys, prefix, _draw(number, turn)) if element[0] not in chosen)
        chosen[name] = value
    return list(chosen.items())


def _sample(everything: list[Element], count: int, number: int) -> list[Element]:
    """`count` of all elements, which change their places."""
    for turn in range(count):
        other = turn + _draw(number, turn) % (len(everything) - turn)
        everything[turn], everything[other] = everything[other], everything[turn]
    return everything[:count]


def _draw(number: int, turn: int) -> int:
    return xxh3_64_intdigest(_numbers.pack(number, turn))


def _all(keys: Keyspace, prefix: bytes) -> Iterator[Element]:
    skipped = len(prefix) + HASH_BYTES
    return ((row[skipped:], value) for row, value in keys.elements(prefix, following(prefix)))


def _from(keys: Keyspace, prefix: bytes, place: int) -> Iterator[Element]:
    """The elements from a place on, around the end."""
    start, end = prefix + _hash.pack(place), following(prefix)
    skipped = len(prefix) + HASH_BYTES
    for first, last in ((start, end), (prefix, start)):
        for row, value in keys.elements(first, last):
            yield row[skipped:], value
