"""Commands on the members of sorted sets, one by one: ZADD, ZINCRBY, ZREM, ZCARD, ZSCORE, ZMSCORE, ZRANK, ZREVRANK, ZPOPMIN, ZPOPMAX,
ZMPOP, ZRANDMEMBER, ZSCAN.

A score of -0 is stored as 0. Redis does the same in sorted sets of up to 128 members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, NoReturn

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, INT64_MIN, SYNTAX_ERROR, cursor, integer, parse_integer
from raftkv.kv.collection import Collection
from raftkv.kv.command import Command, Read, Write, machine_spec
from raftkv.kv.draws import Draws, draw_one, draw_signed
from raftkv.kv.hashed_elements import check_names
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import NO_ARRAY, Pairs, Reply, fail
from raftkv.kv.rows import SORTED_SET
from raftkv.kv.scan import scan_elements
from raftkv.kv.scores import NOT_A_NUMBER, decode, score, spell_exactly
from raftkv.kv.sorted_set import (
    ByRank,
    Element,
    by_hash,
    member_at,
    part,
    put,
    rank_of,
    remove,
    remove_all,
    remove_whole,
    score_of,
    sorted_set,
)

_NEW: Final = 1
_KNOWN: Final = 2
_GREATER: Final = 4
_LESS: Final = 8
_COUNT_CHANGED: Final = 16
_INCREMENT: Final = 32

_OPTIONS: Final = {b"NX": _NEW, b"XX": _KNOWN, b"GT": _GREATER, b"LT": _LESS, b"CH": _COUNT_CHANGED, b"INCR": _INCREMENT}

_Count = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]


def _set_score(changes: Changes, found: Collection, element: Element, options: int) -> tuple[float | None, bool, bool]:
    """Give a member a score, or add to the one it has, if the options allow it: the score that it then has, or None if they do not;
    whether it is new, and whether it changed.

    Raises:
        CommandError: the sum is no number.
    """
    member, number = element
    before = score_of(changes, found, member)
    if before is None:
        if options & _KNOWN:
            return None, False, False
        put(changes, found, member, None, number)
        return number, True, False
    if options & _NEW:
        return None, False, False
    if options & _INCREMENT:
        number += before
        if number != number:
            fail(NOT_A_NUMBER)
    if (options & _GREATER and number <= before) or (options & _LESS and number >= before):
        return None, False, False
    if number == before:
        return number, False, False
    put(changes, found, member, before, number)
    return number, False, True


class AddMembers(Write, frozen=True, array_like=True, gc=False, tag=130):
    """ZADD without INCR. `options` are NX 1, XX 2, GT 4, LT 8, CH 16."""

    key: bytes
    elements: tuple[tuple[bytes, float], ...]
    options: int = 0

    def apply(self, changes: Changes) -> Reply:
        found = changes.open(self.key, SORTED_SET)
        added = changed = 0
        for element in self.elements:
            _, is_new, is_changed = _set_score(changes, found, element, self.options)
            added += is_new
            changed += is_changed
        if added or changed:
            changes.save(found)
        return added + changed if self.options & _COUNT_CHANGED else added


class AddToScore(Write, frozen=True, array_like=True, gc=False, tag=131):
    """ZINCRBY, and ZADD with INCR. `options` as those of ZADD."""

    key: bytes
    member: bytes
    amount: float
    options: int = 0

    def apply(self, changes: Changes) -> Reply:
        found = changes.open(self.key, SORTED_SET)
        number, is_new, is_changed = _set_score(changes, found, (self.member, self.amount), self.options | _INCREMENT)
        if is_new or is_changed:
            changes.save(found)
        return number


class RemoveMembers(Write, frozen=True, array_like=True, gc=False, tag=132):
    """ZREM."""

    key: bytes
    members: tuple[bytes, ...]

    def apply(self, changes: Changes) -> Reply:
        found = sorted_set(changes, self.key)
        if found is None:
            return 0
        before = found.count
        for member in self.members:
            number = score_of(changes, found, member)
            if number is not None:
                remove(changes, found, member, number)
        if found.count != before:
            changes.save(found)
        return before - found.count


class CountMembers(Read, frozen=True, array_like=True, gc=False, tag=133):
    """ZCARD."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        return 0 if found is None else found.count


class GetScore(Read, frozen=True, array_like=True, gc=False, tag=134):
    """ZSCORE."""

    key: bytes
    member: bytes

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        return None if found is None else score_of(keys, found, self.member)


class GetScores(Read, frozen=True, array_like=True, gc=False, tag=135):
    """ZMSCORE."""

    key: bytes
    members: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        return [None if found is None else score_of(keys, found, member) for member in self.members]


class GetRank(Read, frozen=True, array_like=True, gc=False, tag=136):
    """ZRANK, ZREVRANK."""

    key: bytes
    member: bytes
    backwards: bool

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        return None if found is None else rank_of(keys, found, self.member, self.backwards)


def _pop(changes: Changes, found: Collection, count: int, backwards: bool) -> list[Element]:
    elements = list(part(changes, found, ByRank(0, count - 1), backwards))
    if len(elements) == found.count:
        remove_whole(changes, found)
    else:
        remove_all(changes, found, elements)
    return elements


class PopMembers(Write, frozen=True, array_like=True, gc=False, tag=137):
    """ZPOPMIN, and with `backwards` ZPOPMAX. `count` is -1 where none was given."""

    key: bytes
    count: _Count
    backwards: bool

    def apply(self, changes: Changes) -> Reply:
        found = sorted_set(changes, self.key)
        if found is None or not self.count:
            return []
        if self.count > 0:
            return Pairs([*_pop(changes, found, self.count, self.backwards)])
        return [*_pop(changes, found, 1, self.backwards)[0]]


class PopFromFirst(Write, frozen=True, array_like=True, gc=False, tag=138):
    """ZMPOP: from the first of the keys that has a sorted set. Answers the key and what was removed, or the nil of an array."""

    keys: tuple[bytes, ...]
    count: Annotated[int, Meta(ge=1, le=INT64_MAX)]
    backwards: bool

    def apply(self, changes: Changes) -> Reply:
        for key in self.keys:
            found = sorted_set(changes, key)
            if found is not None:
                return [key, [[*element] for element in _pop(changes, found, self.count, self.backwards)]]
        return NO_ARRAY


class ChooseMember(Read, frozen=True, array_like=True, gc=False, tag=139):
    """ZRANDMEMBER without a count."""

    key: bytes
    number: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0

    def with_random(self, number: int) -> Command:
        return ChooseMember(self.key, number)

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        return None if found is None else member_at(draw_one(keys, by_hash(found), Draws(self.number))[0])


class ChooseMembers(Read, frozen=True, array_like=True, gc=False, tag=140):
    """ZRANDMEMBER with a count: so many different members, or if it is negative, so many members that may be the same."""

    key: bytes
    count: _Count
    with_scores: bool
    number: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0

    def with_random(self, number: int) -> Command:
        return ChooseMembers(self.key, self.count, self.with_scores, number)

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        if found is None:
            return []
        drawn = draw_signed(keys, by_hash(found), self.count, Draws(self.number))
        if self.with_scores:
            return Pairs([(member_at(row), decode(value)) for row, value in drawn])
        return [member_at(row) for row, _ in drawn]


class ScanMembers(Read, frozen=True, array_like=True, gc=False, tag=141):
    """ZSCAN."""

    key: bytes
    cursor: int
    options: tuple[bytes, ...] = ()

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        if found is None:
            return [b"0", []]
        place, elements = scan_elements(keys, by_hash(found), self.cursor, self.options)
        return [place, [part for member, row in elements for part in (member, spell_exactly(decode(row)))]]


# Requests.


def _parse_zadd(args: Sequence[bytes]) -> Command:
    return _parse_add(args, 0)


def _parse_zincrby(args: Sequence[bytes]) -> Command:
    return _parse_add(args, _INCREMENT)


def _parse_add(args: Sequence[bytes], options: int) -> Command:
    position = 2
    while position < len(args) and (option := _OPTIONS.get(args[position].upper())) is not None:
        options |= option
        position += 1
    rest = args[position:]
    if len(rest) % 2 or not rest:
        fail(SYNTAX_ERROR)
    if options & _NEW and options & _KNOWN:
        fail("XX and NX options at the same time are not compatible")
    if (options & (_NEW | _GREATER | _LESS)).bit_count() > 1:
        fail("GT, LT, and/or NX options at the same time are not compatible")
    if options & _INCREMENT and len(rest) > 2:
        fail("INCR option supports a single increment-element pair")
    numbers = [score(data) for data in rest[::2]]
    members = rest[1::2]
    check_names("member", members)
    if options & _INCREMENT:
        return AddToScore(args[1], members[0], numbers[0], options & ~_INCREMENT)
    return AddMembers(args[1], tuple(zip(members, numbers, strict=True)), options)


def _parse_pop(args: Sequence[bytes], backwards: bool) -> Command:
    if len(args) > 3:
        fail(SYNTAX_ERROR)
    count = -1
    if len(args) == 3:
        count = parse_positive(args[2], 0, "value is out of range, must be positive")
    return PopMembers(args[1], count, backwards)


def parse_positive(data: bytes, least: int, otherwise: str) -> int:
    """The 64-bit integer that `data` spells.

    Raises:
        CommandError: it spells none, or less than `least`; `otherwise` says so.
    """
    number = parse_integer(data)
    return fail(otherwise) if number is None or number < least else number


def parse_pop_from_first(args: Sequence[bytes]) -> PopFromFirst:
    """ZMPOP, whose arguments from the number of keys on are `args`."""
    number = parse_positive(args[0], 1, "numkeys should be greater than 0")
    keys, rest = args[1 : 1 + number], args[1 + number :]
    if not rest or rest[0].upper() not in (b"MIN", b"MAX"):
        fail(SYNTAX_ERROR)
    count = 0
    for position in range(1, len(rest), 2):
        if rest[position].upper() != b"COUNT" or position + 1 == len(rest) or count:
            fail(SYNTAX_ERROR)
        count = parse_positive(rest[position + 1], 1, "count should be greater than 0")
    return PopFromFirst(tuple(keys), count or 1, rest[0].upper() == b"MAX")


def _out_of_range() -> NoReturn:
    fail("value is out of range")


def _parse_zrandmember(args: Sequence[bytes]) -> Command:
    if len(args) == 2:
        return ChooseMember(args[1])
    count = integer(args[2])
    if count == INT64_MIN:
        fail(f"value is out of range, value must between {-INT64_MAX} and {INT64_MAX}")
    with_scores = len(args) > 3
    if len(args) > 4 or (with_scores and args[3].upper() != b"WITHSCORES"):
        fail(SYNTAX_ERROR)
    if with_scores and abs(count) > INT64_MAX // 2:
        _out_of_range()
    return ChooseMembers(args[1], count, with_scores)


def _parse_zscan(args: Sequence[bytes]) -> Command:
    return ScanMembers(args[1], cursor(args[2]), tuple(args[3:]))


GROUP: Final = "sorted-set"
FROM_ENDS: Final = "passes over all members between the one asked for and an end of the set"

_ADDS: Final = "write denyoom fast"
_READS: Final = "readonly fast"

SPECS: Final = (
    machine_spec("zadd", -4, _parse_zadd, "Add members to a sorted set, or change their scores", GROUP, _ADDS),
    machine_spec("zincrby", 4, _parse_zincrby, "Add to the score of a member of a sorted set", GROUP, _ADDS),
    machine_spec(
        "zrem", -3, lambda args: RemoveMembers(args[1], tuple(args[2:])), "Remove members from a sorted set", GROUP, "write fast"
    ),
    machine_spec("zcard", 2, lambda args: CountMembers(args[1]), "Return the number of members of a sorted set", GROUP, _READS),
    machine_spec("zscore", 3, lambda args: GetScore(args[1], args[2]), "Return the score of a member of a sorted set", GROUP, _READS),
    machine_spec(
        "zmscore", -3, lambda args: GetScores(args[1], tuple(args[2:])), "Return the scores of members of a sorted set", GROUP, _READS
    ),
    machine_spec(
        "zrank", 3, lambda args: GetRank(args[1], args[2], False), "Return the rank of a member of a sorted set", GROUP, _READS,
        differs=FROM_ENDS,
    ),
    machine_spec(
        "zrevrank", 3, lambda args: GetRank(args[1], args[2], True), "Return the rank of a member, counted from the highest score", GROUP,
        _READS, differs=FROM_ENDS,
    ),
    machine_spec(
        "zpopmin", -2, lambda args: _parse_pop(args, False), "Remove and return members with the lowest scores", GROUP, "write fast"
    ),
    machine_spec(
        "zpopmax", -2, lambda args: _parse_pop(args, True), "Remove and return members with the highest scores", GROUP, "write fast"
    ),
    machine_spec(
        "zmpop", -4, lambda args: parse_pop_from_first(args[1:]), "Remove and return members from the first sorted set that is there",
        GROUP, "write movablekeys", keys=(0, 0, 0), counted_keys=1,
    ),
    machine_spec(
        "zrandmember", -2, _parse_zrandmember, "Return random members of a sorted set", GROUP, "readonly",
        tips=("nondeterministic_output",), random=True, differs="in large sets not all are equally likely",
    ),
    machine_spec(
        "zscan", -3, _parse_zscan, "Iterate over the members of a sorted set, with their scores", GROUP, "readonly",
        tips=("nondeterministic_output",),
    ),
)  # fmt: skip

COMMANDS: Final = (
    AddMembers,
    AddToScore,
    RemoveMembers,
    CountMembers,
    GetScore,
    GetScores,
    GetRank,
    PopMembers,
    PopFromFirst,
    ChooseMember,
    ChooseMembers,
    ScanMembers,
)
