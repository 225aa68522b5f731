"""Commands on parts of sorted sets, by rank, score or member: ZRANGE and its older forms, ZRANGESTORE, ZREMRANGEBYRANK,
ZREMRANGEBYSCORE, ZREMRANGEBYLEX, ZCOUNT, ZLEXCOUNT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.kv.arguments import SYNTAX_ERROR, integer
from raftkv.kv.command import Command, Read, Write, machine_spec
from raftkv.kv.keyspace import ELEMENTS_PER_ENTRY, Changes, Keyspace
from raftkv.kv.replies import Pairs, Reply, fail
from raftkv.kv.sorted_set import (
    ByMember,
    ByScore,
    Element,
    Span,
    by_member,
    by_rank,
    by_score,
    is_whole,
    part,
    remove_all,
    remove_whole,
    sorted_set,
    store,
)
from raftkv.kv.sorted_set_commands import FROM_ENDS, GROUP

_BOUNDED: Final = f"visits at most {ELEMENTS_PER_ENTRY:,} elements"


class GetRange(Read, frozen=True, array_like=True, gc=False, tag=142):
    """ZRANGE, ZREVRANGE, ZRANGEBYSCORE, ZREVRANGEBYSCORE, ZRANGEBYLEX, ZREVRANGEBYLEX."""

    key: bytes
    span: Span
    backwards: bool = False
    with_scores: bool = False
    offset: int = 0
    limit: int = -1

    def read(self, keys: Keyspace) -> Reply:
        elements = self.elements(keys)
        return Pairs([*elements]) if self.with_scores else [member for member, _ in elements]

    def elements(self, keys: Keyspace) -> list[Element]:
        """What is in the range."""
        found = sorted_set(keys, self.key)
        return [] if found is None else list(part(keys, found, self.span, self.backwards, self.offset, self.limit))


class StoreRange(Write, frozen=True, array_like=True, gc=False, tag=143):
    """ZRANGESTORE."""

    key: bytes
    source: GetRange

    def apply(self, changes: Changes) -> Reply:
        return store(changes, self.key, self.source.elements(changes))


class RemoveRange(Write, frozen=True, array_like=True, gc=False, tag=144):
    """ZREMRANGEBYRANK, ZREMRANGEBYSCORE, ZREMRANGEBYLEX. To remove everything costs the same for every size."""

    key: bytes
    span: Span

    def apply(self, changes: Changes) -> Reply:
        found = sorted_set(changes, self.key)
        if found is None:
            return 0
        if is_whole(changes, found, self.span):
            remove_whole(changes, found)
            return found.count
        elements = list(part(changes, found, self.span, False))
        if elements:
            remove_all(changes, found, elements)
        return len(elements)


class CountRange(Read, frozen=True, array_like=True, gc=False, tag=145):
    """ZCOUNT, ZLEXCOUNT."""

    key: bytes
    span: ByScore | ByMember

    def read(self, keys: Keyspace) -> Reply:
        found = sorted_set(keys, self.key)
        return 0 if found is None else sum(1 for _ in part(keys, found, self.span, False))


# Requests.


def _parse_zrange(args: Sequence[bytes]) -> GetRange:
    return _parse_range(args, None, None)


def _parse_zrangestore(args: Sequence[bytes]) -> Command:
    return StoreRange(args[1], _parse_range(args[1:], None, None, stored=True))


def _parse_range(args: Sequence[bytes], by: bytes | None, backwards: bool | None, *, stored: bool = False) -> GetRange:
    """A range. `by` (BYRANK, BYSCORE, BYLEX) and `backwards` are what the name of the command says; None where an option does."""
    offset, limit = 0, -1
    with_scores = False
    chosen, is_backwards = by, backwards
    position = 4
    while position < len(args):
        option = args[position].upper()
        if option == b"WITHSCORES" and not stored:
            with_scores = True
        elif option == b"LIMIT" and position + 2 < len(args):
            offset, limit = integer(args[position + 1]), integer(args[position + 2])
            position += 2
        elif option == b"REV" and is_backwards is None:
            is_backwards = True
        elif option in (b"BYLEX", b"BYSCORE") and chosen is None:
            chosen = option
        else:
            fail(SYNTAX_ERROR)
        position += 1
    if limit != -1 and chosen in (None, b"BYRANK"):
        fail("syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
    if with_scores and chosen == b"BYLEX":
        fail("syntax error, WITHSCORES not supported in combination with BYLEX")
    return GetRange(args[1], _span(args[2], args[3], chosen, bool(is_backwards)), bool(is_backwards), with_scores, offset, limit)


def _span(first: bytes, second: bytes, by: bytes | None, backwards: bool) -> Span:
    low, high = (second, first) if backwards else (first, second)
    match by:
        case b"BYSCORE":
            return by_score(low, high)
        case b"BYLEX":
            return by_member(low, high)
    return by_rank(first, second)


def _remove_by_rank(args: Sequence[bytes]) -> Command:
    return RemoveRange(args[1], by_rank(args[2], args[3]))


def _remove_by_score(args: Sequence[bytes]) -> Command:
    return RemoveRange(args[1], by_score(args[2], args[3]))


def _remove_by_member(args: Sequence[bytes]) -> Command:
    return RemoveRange(args[1], by_member(args[2], args[3]))


_REMOVES: Final = f"{_BOUNDED}, or removes all"

SPECS: Final = (
    machine_spec("zrange", -4, _parse_zrange, "Return a part of a sorted set", GROUP, "readonly", differs=FROM_ENDS),
    machine_spec(
        "zrevrange", -4, lambda args: _parse_range(args, b"BYRANK", True), "Return a part of a sorted set, by rank from the highest score",
        GROUP, "readonly", differs=FROM_ENDS,
    ),
    machine_spec(
        "zrangebyscore", -4, lambda args: _parse_range(args, b"BYSCORE", False), "Return a part of a sorted set, by score", GROUP,
        "readonly",
    ),
    machine_spec(
        "zrevrangebyscore", -4, lambda args: _parse_range(args, b"BYSCORE", True), "Return a part of a sorted set, from the highest score",
        GROUP, "readonly",
    ),
    machine_spec(
        "zrangebylex", -4, lambda args: _parse_range(args, b"BYLEX", False), "Return a part of a sorted set, by the order of its members",
        GROUP, "readonly",
    ),
    machine_spec(
        "zrevrangebylex", -4, lambda args: _parse_range(args, b"BYLEX", True), "Return a part of a sorted set, from the last member",
        GROUP, "readonly",
    ),
    machine_spec(
        "zrangestore", -5, _parse_zrangestore, "Store a part of a sorted set", GROUP, "write denyoom", keys=(1, 2, 1), differs=_BOUNDED
    ),
    machine_spec(
        "zremrangebyrank", 4, _remove_by_rank, "Remove a part of a sorted set, by rank", GROUP, "write", differs=_REMOVES
    ),
    machine_spec(
        "zremrangebyscore", 4, _remove_by_score, "Remove a part of a sorted set, by score", GROUP, "write", differs=_REMOVES
    ),
    machine_spec(
        "zremrangebylex", 4, _remove_by_member, "Remove a part of a sorted set, by the order of its members", GROUP, "write",
        differs=_REMOVES,
    ),
    machine_spec(
        "zcount", 4, lambda args: CountRange(args[1], by_score(args[2], args[3])), "Count the members with scores in a range", GROUP,
        "readonly fast", differs="passes over the members that it counts",
    ),
    machine_spec(
        "zlexcount", 4, lambda args: CountRange(args[1], by_member(args[2], args[3])), "Count the members in a range of members", GROUP,
        "readonly fast", differs="passes over the members that it counts",
    ),
)  # fmt: skip

COMMANDS: Final = (GetRange, StoreRange, RemoveRange, CountRange)
