"""Collections whose elements have names, and are in the order of the hashes of these: hashes and sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from raftkv.kv.collection import PREFIX_BYTES, Collection
from raftkv.kv.keyspace import Changes
from raftkv.kv.replies import fail
from raftkv.kv.rows import HASH_BYTES

MAX_NAME_BYTES: Final = 64 << 10
"""The longest field of a hash and the longest member of a set. Each is part of the name of a row, as a key is."""

_NAME_AT: Final = PREFIX_BYTES + HASH_BYTES


def check_names(what: str, names: Iterable[bytes]) -> None:
    """Check that no name is too long.

    Raises:
        CommandError: one is.
    """
    if any(len(name) > MAX_NAME_BYTES for name in names):
        fail(f"{what} is longer than {MAX_NAME_BYTES} bytes")


def name_of(row: bytes) -> bytes:
    """The name of the element at `row`."""
    return row[_NAME_AT:]


def put_named(changes: Changes, collection: Collection, row: bytes, value: bytes) -> bool:
    """Give an element its value; whether it is a new one. The collection is to be saved."""
    new = changes.row(row) is None
    collection.count += new
    changes.put_element(collection, row, value)
    return new


def remove_named(changes: Changes, collection: Collection, names: Sequence[bytes]) -> int:
    """Remove the elements called `names`, and save the collection if there were any; how many there were."""
    removed = 0
    for row in sorted(map(collection.hashed, names)):
        if changes.row(row) is not None:
            changes.put_element(collection, row, None)
            removed += 1
    if removed:
        collection.count -= removed
        changes.save(collection)
    return removed
