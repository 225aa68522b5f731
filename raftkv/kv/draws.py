"""Random choices among the elements of a hash or a set, from one random number.

The number was drawn by the node that took the request and travels in the command, so every replica makes the same choices. What follows
from it is a hash of it and of a counter, not the random numbers of a library, which another version of it may make in another way.

An element is chosen by going to a random place in the order of hashes and taking one of the `WINDOW` elements that follow there, around
the end. In a collection of up to so many elements each is equally likely; in a larger one about so, as far as the gaps between hashes
even out over a window. Names that somebody chose for their hashes are chosen as unevenly as that. Where many of the elements are wanted,
all are gone through, and each selection is equally likely (Knuth, The Art of Computer Programming, volume 2, 3.4.2, algorithm S).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from xxhash import xxh3_64_intdigest

from raftkv.kv.collection import Collection
from raftkv.kv.command import MAX_REPLY_BYTES
from raftkv.kv.keyspace import Keyspace
from raftkv.kv.replies import fail

WINDOW: Final = 128
"""So many elements from a random place on, one is taken."""

_SPARSE: Final = WINDOW // 2
"""When one of more elements than so many is wanted, each is looked for on its own: a choice visits half a window."""

_HASHES: Final = 1 << 64
_pair = struct.Struct(">QQ")
_u64 = struct.Struct(">Q")

Element = tuple[bytes, bytes]
"""A row of an element, and its value."""


class Draws:
    """The numbers that follow from `number`."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._drawn = 0

    def below(self, bound: int) -> int:
        """The next number, 0 <= number < bound <= 2**64."""
        self._drawn += 1
        return xxh3_64_intdigest(_pair.pack(self._number, self._drawn)) % bound


def draw_one(keys: Keyspace, collection: Collection, draws: Draws) -> Element:
    """A random element of `collection`, which has some."""
    start = collection.prefix + _u64.pack(draws.below(_HASHES))
    end = collection.end
    around = chain(keys.elements(start, end), keys.elements(collection.prefix, start))
    skipped = draws.below(min(WINDOW, collection.count))
    return next(islice(around, skipped, None))


def draw_some(keys: Keyspace, collection: Collection, count: int, draws: Draws) -> list[Element]:
    """`count` different elements of `collection`, or all that there are."""
    if count >= collection.count:
        return list(keys.elements(collection.prefix, collection.end))
    if count * _SPARSE < collection.count:
        found: dict[bytes, Element] = {}
        for _ in range(2 * count):
            element = draw_one(keys, collection, draws)
            found[element[0]] = element
            if len(found) == count:
                return list(found.values())
    return list(_selected(keys, collection, count, draws))


def _selected(keys: Keyspace, collection: Collection, count: int, draws: Draws) -> Iterator[Element]:
    left = collection.count
    for element in keys.elements(collection.prefix, collection.end):
        if draws.below(left) < count:
            yield element
            count -= 1
            if not count:
                return
        left -= 1


def draw_signed(keys: Keyspace, collection: Collection | None, count: int, draws: Draws) -> list[Element]:
    """As many random elements as Redis means by `count`: different ones when it is above 0, each chosen among all when it is below.

    Raises:
        CommandError: elements that are chosen again and again take too many bytes.
    """
    if collection is None or not count:
        return []
    if count > 0:
        return draw_some(keys, collection, count, draws)
    elements: list[Element] = []
    size = 0
    for row, value in _again(keys, collection, -count, draws):
        elements.append((row, value))
        size += len(row) + len(value)
        if size > MAX_REPLY_BYTES:
            fail(f"more than {MAX_REPLY_BYTES} bytes were drawn; ask for less")
    return elements


def _again(keys: Keyspace, collection: Collection, count: int, draws: Draws) -> Iterator[Element]:
    if count * _SPARSE < collection.count:
        for _ in range(count):
            yield draw_one(keys, collection, draws)
        return
    elements = list(keys.elements(collection.prefix, collection.end))
    for _ in range(count):
        keys.visit()
        yield elements[draws.below(len(elements))]
