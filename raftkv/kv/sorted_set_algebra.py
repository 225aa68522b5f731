"""Commands that combine sorted sets, and sets, whose members have a score of 1: ZUNION, ZINTER, ZDIFF, their STORE forms, ZINTERCARD.

Floating point sums depend on their order: as in Redis, unions and intersections take the smaller sets first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from raftkv.kv.arguments import INT64_MAX, SYNTAX_ERROR, integer
from raftkv.kv.collection import PREFIX_BYTES, Collection, decode_collection
from raftkv.kv.command import NO_KEYS, Command, Read, Write, machine_spec
from raftkv.kv.keyspace import ELEMENTS_PER_ENTRY, WRONG_TYPE, Changes, Keyspace
from raftkv.kv.replies import CommandError, Pairs, Reply, fail
from raftkv.kv.rows import HASH_BYTES, SET, SORTED_SET
from raftkv.kv.scores import score
from raftkv.kv.sorted_set import Element, elements_of, score_of, store
from raftkv.kv.sorted_set_commands import GROUP, parse_positive

UNION: Final = 1
INTERSECTION: Final = 2
DIFFERENCE: Final = 3

_SUM: Final = 1
_MIN: Final = 2
_MAX: Final = 3
_AGGREGATES: Final = {b"SUM": _SUM, b"MIN": _MIN, b"MAX": _MAX}


class _Source(NamedTuple):
    """One of what is combined; `found` is None where there is nothing."""

    found: Collection | None
    weight: float

    @property
    def size(self) -> int:
        return 0 if self.found is None else self.found.count

    def elements(self, keys: Keyspace) -> Iterator[Element]:
        """All members with their scores, in the order of their rows."""
        found = self.found
        if found is None:
            return iter(())
        if found.kind == SORTED_SET:
            return elements_of(keys, found)
        return ((name[PREFIX_BYTES + HASH_BYTES :], 1.0) for name, _ in keys.elements(found.prefix, found.end))

    def score(self, keys: Keyspace, member: bytes) -> float | None:
        """The score of `member`, or None."""
        found = self.found
        if found is None:
            return None
        keys.visit()
        if found.kind == SORTED_SET:
            return score_of(keys, found, member)
        return None if keys.row(found.hashed(member)) is None else 1.0


class Combination(Struct, frozen=True, array_like=True, gc=False):
    """How to combine what is at `keys`: `operation` is 1 a union, 2 an intersection, 3 a difference; `weights` are one for each key, or
    none; `aggregate` is 1 the sum, 2 the least, 3 the greatest of the weighted scores of a member."""

    operation: int
    keys: tuple[bytes, ...]
    weights: tuple[float, ...] = ()
    aggregate: int = _SUM

    def elements(self, keys: Keyspace) -> list[Element]:
        """The result, in order."""
        sources = find_sources(keys, self.keys, self.weights)
        scores: Iterable[Element]
        match self.operation:
            case 1:
                scores = _union(keys, sources, self.aggregate).items()
            case 2:
                scores = intersection(keys, sources, self.aggregate)
            case _:
                scores = _difference(keys, sources)
        return sorted(scores, key=_place)


def find_sources(keys: Keyspace, names: Sequence[bytes], weights: Sequence[float] = ()) -> list[_Source]:
    """What is at `names`.

    Raises:
        CommandError: WRONGTYPE.
    """
    sources: list[_Source] = []
    for number, name in enumerate(names):
        value = keys.value(name)
        if value is not None and value.type not in (SET, SORTED_SET):
            fail(WRONG_TYPE, "WRONGTYPE")
        sources.append(_Source(None if value is None else decode_collection(name, value), weights[number] if weights else 1.0))
    return sources


def _place(element: Element) -> tuple[float, bytes]:
    return element[1], element[0]


def _size(source: _Source) -> int:
    return source.size


def _weighted(weight: float, number: float) -> float:
    product = weight * number
    return product if product == product else 0.0


def _aggregate(kind: int, one: float, other: float) -> float:
    if kind == _SUM:
        total = one + other
        return total if total == total else 0.0
    return (other if other < one else one) if kind == _MIN else (other if other > one else one)


def _union(keys: Keyspace, sources: list[_Source], aggregate: int) -> dict[bytes, float]:
    scores: dict[bytes, float] = {}
    for source in sorted(sources, key=_size):
        for member, number in source.elements(keys):
            weighted = _weighted(source.weight, number)
            before = scores.get(member)
            scores[member] = weighted if before is None else _aggregate(aggregate, before, weighted)
    return scores


def intersection(keys: Keyspace, sources: list[_Source], aggregate: int = _SUM) -> Iterator[Element]:
    """The members that are in all of `sources`, in the order of the smallest."""
    first, *others = sorted(sources, key=_size)
    for member, number in first.elements(keys):
        total = _weighted(first.weight, number)
        for source in others:
            found = source.score(keys, member)
            if found is None:
                break
            total = _aggregate(aggregate, total, found * source.weight)
        else:
            yield member, total


def _difference(keys: Keyspace, sources: list[_Source]) -> Iterator[Element]:
    first, *others = sources
    for member, number in first.elements(keys):
        if all(source.score(keys, member) is None for source in others):
            yield member, number


class Combine(Read, frozen=True, array_like=True, gc=False, tag=146):
    """ZUNION, ZINTER, ZDIFF."""

    combination: Combination
    with_scores: bool = False

    def read(self, keys: Keyspace) -> Reply:
        elements = self.combination.elements(keys)
        return Pairs([*elements]) if self.with_scores else [member for member, _ in elements]


class StoreCombined(Write, frozen=True, array_like=True, gc=False, tag=147):
    """ZUNIONSTORE, ZINTERSTORE, ZDIFFSTORE."""

    key: bytes
    combination: Combination

    def apply(self, changes: Changes) -> Reply:
        return store(changes, self.key, self.combination.elements(changes))


class CountIntersection(Read, frozen=True, array_like=True, gc=False, tag=148):
    """ZINTERCARD. A limit of 0 is none."""

    keys: tuple[bytes, ...]
    limit: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0

    def read(self, keys: Keyspace) -> Reply:
        count = 0
        for _ in intersection(keys, find_sources(keys, self.keys)):
            count += 1
            if count == self.limit:
                break
        return count


class RefuseCombination(Read, frozen=True, array_like=True, gc=False, tag=149):
    """Any of these commands with options that are wrong: that is only told where what is at the keys could be combined."""

    keys: tuple[bytes, ...]
    problem: str

    def read(self, keys: Keyspace) -> Reply:
        find_sources(keys, self.keys)
        return fail(self.problem)


# Requests.


def _parser(name: str, operation: int) -> Callable[[Sequence[bytes]], Command]:
    """What reads the arguments of ZUNION, ZINTER or ZDIFF, or of the command that stores the same."""
    is_stored = name.endswith("store")
    count_at = 2 if is_stored else 1

    def parse(args: Sequence[bytes]) -> Command:
        keys, options = _parse_keys(name, args, count_at)
        try:
            weights, aggregate, with_scores = _parse_options(options, len(keys), operation, is_stored)
        except CommandError as error:
            return RefuseCombination(keys, error.failure.message)
        combination = Combination(operation, keys, weights, aggregate)
        return StoreCombined(args[1], combination) if is_stored else Combine(combination, with_scores)

    return parse


def _parse_keys(name: str, args: Sequence[bytes], count_at: int) -> tuple[tuple[bytes, ...], Sequence[bytes]]:
    """The keys, and the arguments behind them."""
    number = integer(args[count_at])
    if number < 1:
        fail(f"at least 1 input key is needed for '{name}' command")
    behind = count_at + 1 + number
    if behind > len(args):
        fail(SYNTAX_ERROR)
    return tuple(args[count_at + 1 : behind]), args[behind:]


def _parse_options(args: Sequence[bytes], keys: int, operation: int, is_stored: bool) -> tuple[tuple[float, ...], int, bool]:
    weights: tuple[float, ...] = ()
    aggregate = _SUM
    with_scores = False
    position = 0
    while position < len(args):
        option = args[position].upper()
        rest = args[position + 1 :]
        if option == b"WEIGHTS" and operation != DIFFERENCE and len(rest) >= keys:
            weights = tuple(score(data, "weight value is not a float") for data in rest[:keys])
            position += keys
        elif option == b"AGGREGATE" and operation != DIFFERENCE and rest:
            if rest[0].upper() not in _AGGREGATES:
                fail(SYNTAX_ERROR)
            aggregate = _AGGREGATES[rest[0].upper()]
            position += 1
        elif option == b"WITHSCORES" and not is_stored:
            with_scores = True
        else:
            fail(SYNTAX_ERROR)
        position += 1
    return weights, aggregate, with_scores


def _parse_zintercard(args: Sequence[bytes]) -> Command:
    keys, options = _parse_keys("zintercard", args, 1)
    limit = 0
    try:
        for position in range(0, len(options), 2):
            if options[position].upper() != b"LIMIT" or position + 1 == len(options):
                fail(SYNTAX_ERROR)
            limit = parse_positive(options[position + 1], 0, "LIMIT can't be negative")
    except CommandError as error:
        return RefuseCombination(keys, error.failure.message)
    return CountIntersection(keys, limit)


_READS: Final = "readonly movablekeys"
_STORES: Final = "write denyoom movablekeys"
_BOUNDED: Final = f"visits at most {ELEMENTS_PER_ENTRY:,} elements"

SPECS: Final = (
    *(
        machine_spec(name, -3, _parser(name, operation), summary, GROUP, _READS, keys=NO_KEYS, counted_keys=1)
        for name, operation, summary in (
            ("zunion", UNION, "Return the members of any of several sorted sets"),
            ("zinter", INTERSECTION, "Return the members of all of several sorted sets"),
            ("zdiff", DIFFERENCE, "Return the members of the first of several sorted sets only"),
        )
    ),
    *(
        machine_spec(name, -4, _parser(name, operation), summary, GROUP, _STORES, counted_keys=2, differs=_BOUNDED)
        for name, operation, summary in (
            ("zunionstore", UNION, "Store the members of any of several sorted sets"),
            ("zinterstore", INTERSECTION, "Store the members of all of several sorted sets"),
            ("zdiffstore", DIFFERENCE, "Store the members of the first of several sorted sets only"),
        )
    ),
    machine_spec(
        "zintercard", -3, _parse_zintercard, "Count the members of all of several sorted sets", GROUP, _READS, keys=NO_KEYS, counted_keys=1
    ),
)

COMMANDS: Final = (Combine, StoreCombined, CountIntersection, RefuseCombination)
