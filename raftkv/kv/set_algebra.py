"""Commands on several sets at once: SMEMBERS, SINTER, SUNION, SDIFF, SINTERCARD, SINTERSTORE, SUNIONSTORE, SDIFFSTORE.

The members of every set are in the order of their hashes, so sets are gone through side by side, and what they come to is found in that
order, without keeping it. An intersection goes through the smallest set and looks its members up in the others; a difference does so with
its first set, or goes through all of them, whichever visits less.

What SINTERSTORE and its like may visit and write is bounded, together with everything else in their entry of the log: a short command
may name sets of any size, and nodes do nothing else while they apply it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, SYNTAX_ERROR, parse_integer
from raftkv.kv.collection import PREFIX_BYTES, Collection
from raftkv.kv.command import MAX_KEY_BYTES, NO_KEYS, Command, Read, Write, machine_spec
from raftkv.kv.keyspace import ELEMENTS_PER_ENTRY, Changes, Keyspace
from raftkv.kv.replies import Reply, SetReply, fail
from raftkv.kv.rows import HASH_BYTES, SET

_INTERSECTION: Final = 1
_UNION: Final = 2
_DIFFERENCE: Final = 3

Operation = Annotated[int, Meta(ge=_INTERSECTION, le=_DIFFERENCE)]


class CombineSets(Read, frozen=True, array_like=True, gc=False, tag=119):
    """SINTER, SUNION, SDIFF; and SMEMBERS, the intersection of one set."""

    operation: Operation
    keys: Annotated[tuple[bytes, ...], Meta(min_length=1)]

    def read(self, keys: Keyspace) -> Reply:
        return SetReply([suffix[HASH_BYTES:] for suffix in _combined(keys, self.operation, _sets(keys, self.keys))])


class CountIntersection(Read, frozen=True, array_like=True, gc=False, tag=120):
    """SINTERCARD: how many members all sets have, up to `limit`; 0 for no limit."""

    keys: Annotated[tuple[bytes, ...], Meta(min_length=1)]
    limit: Annotated[int, Meta(ge=0, le=INT64_MAX)]

    def read(self, keys: Keyspace) -> Reply:
        found = _combined(keys, _INTERSECTION, _sets(keys, self.keys))
        return sum(1 for _ in islice(found, self.limit or None))


class StoreCombined(Write, frozen=True, array_like=True, gc=False, tag=121):
    """SINTERSTORE, SUNIONSTORE, SDIFFSTORE: a set of what `keys` come to takes the place of whatever is at `to`."""

    operation: Operation
    to: bytes
    keys: Annotated[tuple[bytes, ...], Meta(min_length=1)]

    def apply(self, changes: Changes) -> Reply:
        found = list(_combined(changes, self.operation, _sets(changes, self.keys)))
        before = changes.value(self.to)
        if before is not None:
            changes.delete(self.to, before)
        if found:
            made = changes.open(self.to, SET)
            for suffix in found:
                changes.visit()
                changes.put_element(made, made.prefix + suffix, b"")
            made.count = len(found)
            changes.save(made)
        return len(found)


def _sets(keys: Keyspace, names: Sequence[bytes]) -> list[Collection | None]:
    return [keys.collection(name, SET) for name in names]


def _combined(keys: Keyspace, operation: int, sets: list[Collection | None]) -> Iterator[bytes]:
    """The hashes and members that `sets` come to, in order."""
    first, there = sets[0], [each for each in sets if each is not None]
    if operation == _UNION:
        return _union(keys, there)
    if operation == _INTERSECTION:
        return _intersection(keys, there) if len(there) == len(sets) else iter(())
    if first is None:
        return iter(())
    return _difference(keys, first, there[1:])


def _members(keys: Keyspace, collection: Collection) -> Iterator[bytes]:
    return (row[PREFIX_BYTES:] for row, _ in keys.elements(collection.prefix, collection.end))


def _has(keys: Keyspace, collection: Collection, suffix: bytes) -> bool:
    keys.visit()
    return keys.row(collection.prefix + suffix) is not None


def _intersection(keys: Keyspace, sets: list[Collection]) -> Iterator[bytes]:
    smallest, *others = sorted(sets, key=lambda each: each.count)
    for suffix in _members(keys, smallest):
        if all(_has(keys, other, suffix) for other in others):
            yield suffix


def _union(keys: Keyspace, sets: list[Collection]) -> Iterator[bytes]:
    last = None
    for suffix in heapq.merge(*(_members(keys, each) for each in sets)):
        if suffix != last:
            yield suffix
            last = suffix


def _difference(keys: Keyspace, first: Collection, others: list[Collection]) -> Iterator[bytes]:
    if first.count * len(others) <= sum(other.count for other in others):
        for suffix in _members(keys, first):
            if not any(_has(keys, other, suffix) for other in others):
                yield suffix
        return
    without = _union(keys, others)
    gone = next(without, None)
    for suffix in _members(keys, first):
        while gone is not None and gone < suffix:
            gone = next(without, None)
        if suffix != gone:
            yield suffix


def _parse_combine(operation: int) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: CombineSets(operation, tuple(args[1:]))


def _parse_store(operation: int) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: StoreCombined(operation, args[1], tuple(args[2:]))


def _parse_sintercard(args: Sequence[bytes]) -> Command:
    count = parse_integer(args[1])
    if count is None or count < 1:
        fail("numkeys should be greater than 0")
    if count > len(args) - 2:
        fail("Number of keys can't be greater than number of args")
    limit: int | None = 0
    options = args[2 + count :]
    for position in range(0, len(options), 2):
        if options[position].upper() != b"LIMIT" or position + 1 == len(options):
            fail(SYNTAX_ERROR)
        limit = parse_integer(options[position + 1])
        if limit is None or limit < 0:
            fail("LIMIT can't be negative")
    names = tuple(args[2 : 2 + count])
    if max(map(len, names)) > MAX_KEY_BYTES:
        fail(f"key is longer than {MAX_KEY_BYTES} bytes")
    return CountIntersection(names, limit or 0)


_EACH: Final = (1, -1, 1)
_ANY_ORDER: Final = ("nondeterministic_output_order",)
_BOUNDED: Final = f"what is visited and stored is bounded: {ELEMENTS_PER_ENTRY:,} members for the commands of one entry of the log"

SPECS: Final = (
    machine_spec("smembers", 2, _parse_combine(_INTERSECTION), "Get all members of a set", "set", "readonly", tips=_ANY_ORDER),
    machine_spec("sinter", -2, _parse_combine(_INTERSECTION), "Intersect sets", "set", "readonly", keys=_EACH, tips=_ANY_ORDER),
    machine_spec("sunion", -2, _parse_combine(_UNION), "Unite sets", "set", "readonly", keys=_EACH, tips=_ANY_ORDER),
    machine_spec("sdiff", -2, _parse_combine(_DIFFERENCE), "Subtract sets", "set", "readonly", keys=_EACH, tips=_ANY_ORDER),
    machine_spec(
        "sintercard", -3, _parse_sintercard, "Count the members of an intersection", "set", "readonly movablekeys", keys=NO_KEYS
    ),
    *(
        machine_spec(name, -3, _parse_store(operation), summary, "set", "write denyoom", keys=_EACH, differs=_BOUNDED)
        for name, operation, summary in (
            ("sinterstore", _INTERSECTION, "Store the intersection of sets"),
            ("sunionstore", _UNION, "Store the union of sets"),
            ("sdiffstore", _DIFFERENCE, "Store the difference of sets"),
        )
    ),
)

COMMANDS: Final = (CombineSets, CountIntersection, StoreCombined)
