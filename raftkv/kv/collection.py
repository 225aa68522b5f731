"""A collection: what the value row of a hash, list, set or sorted set says, and where its elements are.

The value behind the header of a value row::

    revision u64, ordinal u32    the collection's number: the entry that made it, and the how manieth of that entry it was
    count u64                    how many elements it has; never 0
    first u64                    of a list, the position of its first element; 0 for other types

What always holds: a number is never used twice; a collection without elements does not exist, and neither does its key.
"""

from __future__ import annotations

import struct
from typing import Final

from xxhash import xxh3_64_digest

from raftkv.kv.rows import ELEMENTS, Value, cut_off

NUMBER_BYTES: Final = 12
PREFIX_BYTES: Final = 1 + NUMBER_BYTES

_VALUE = struct.Struct(">12sQQ")
_NUMBER = struct.Struct(">QI")


class Collection:
    """A collection, or the empty one that a command is about to fill.

    Args:
        key: its key.
        kind: its type.
        number: its number, 12 bytes.
        count: how many elements it has. Who adds and removes elements keeps this true.
        first: see the module.
        expiry_ms: when its key is due; 0 for never.
    """

    __slots__ = ("count", "expiry_ms", "first", "key", "kind", "number", "prefix")

    def __init__(self, key: bytes, kind: int, number: bytes, count: int, first: int, expiry_ms: int) -> None:
        self.key = key
        self.kind = kind
        self.number = number
        self.prefix = ELEMENTS + number
        self.count = count
        self.first = first
        self.expiry_ms = expiry_ms

    def encode(self) -> bytes:
        """What the value row says of it."""
        return _VALUE.pack(self.number, self.count, self.first)

    def hashed(self, name: bytes) -> bytes:
        """The row of the element called `name`, for types whose elements are in no order: by the hash of their names, so that the place
        of a scan is a number, and a random one is found at a random number."""
        return self.prefix + xxh3_64_digest(name) + name

    @property
    def end(self) -> bytes:
        """The first row behind those of all its elements."""
        return following(self.prefix)


def number_of(revision: int, ordinal: int) -> bytes:
    """The number of the collection that is the `ordinal`th to be made by the entry `revision`."""
    return _NUMBER.pack(revision, ordinal)


def decode_collection(key: bytes, value: Value) -> Collection:
    """The collection that `value` describes."""
    if len(value.data) != _VALUE.size:
        cut_off(value.data)
    number, count, first = _VALUE.unpack(value.data)
    return Collection(key, value.type, number, count, first, value.expiry_ms)


def following(prefix: bytes) -> bytes:
    """The first row behind all that begin with `prefix`, whose bytes are not all 255."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])
