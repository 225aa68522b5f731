"""The rows of a sorted set, and the ways through them.

Behind the prefix of the collection each member has two rows::

    m  xxh3_64(member) member     ->  score f64      its score
    s  score (8, sortable) member ->  (empty)        its place in the order

What always holds: there is one row of each kind for each member, both say the same score, and they are written in one step. The order is
that of scores, and of the bytes of members where scores are the same.

To find what is at a rank, rows are passed over, from the end that is nearer; so are those before a member whose rank is asked for. In the
middle of a large sorted set that takes long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from msgspec import Struct
from xxhash import xxh3_64_digest

from raftkv.kv.arguments import integer
from raftkv.kv.collection import PREFIX_BYTES, Collection
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import fail
from raftkv.kv.rows import SORTED_SET, cut_off
from raftkv.kv.scores import SCORE_BYTES, after, bound, decode, encode, ordered, unordered

MEMBERS: Final = b"m"
SCORES: Final = b"s"
SCORES_END: Final = b"t"

_SCORE_AT: Final = PREFIX_BYTES + 1
_MEMBER_AT: Final = _SCORE_AT + SCORE_BYTES
_PAGE_ROWS: Final = 512

_BEFORE: Final = -1
_CLOSED: Final = 0
_OPEN: Final = 1
_BEHIND: Final = 2

Element = tuple[bytes, float]
"""A member and its score."""


class ByRank(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The members at the ranks from `start` to `stop`; negative ones count from the end, -1 being the last."""

    start: int
    stop: int

    def within(self, count: int) -> tuple[int, int]:
        """The first rank, and the one behind the last, of `count` members."""
        start = max(self.start + count, 0) if self.start < 0 else self.start
        stop = self.stop + count if self.stop < 0 else self.stop
        return start, min(stop, count - 1) + 1


class ByScore(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The members with scores from `low` to `high`, without the scores that are `open`."""

    low: float
    low_open: bool
    high: float
    high_open: bool

    def rows(self, found: Collection) -> tuple[bytes, bytes]:
        """The first row, and the one behind the last."""
        prefix = found.prefix + SCORES
        low = after(self.low) if self.low_open else ordered(self.low)
        high = ordered(self.high) if self.high_open else after(self.high)
        return prefix + low, prefix + high


class Edge(Struct, frozen=True, array_like=True, gc=False):
    """An end of a range of members: `member`, with it (`kind` 0) or without (1), or what is before (-1) or behind (2) all members."""

    kind: int
    member: bytes

    def is_above(self, member: bytes) -> bool:
        """Whether `member` is not beyond this end, if this is the upper one."""
        if self.kind in (_BEFORE, _BEHIND):
            return self.kind == _BEHIND
        return member < self.member if self.kind == _OPEN else member <= self.member

    def is_below(self, member: bytes) -> bool:
        """Whether `member` is not beyond this end, if this is the lower one."""
        if self.kind in (_BEFORE, _BEHIND):
            return self.kind == _BEFORE
        return member > self.member if self.kind == _OPEN else member >= self.member


class ByMember(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """The members from `low` to `high` in the order of their bytes, where all scores are the same. Where they are not, what is found is
    as in Redis: the run, in the order of the set, that begins with the first member that is not below the range, and so many behind it
    as are left out."""

    low: Edge
    high: Edge

    def is_empty(self) -> bool:
        """Whether no member can be in it."""
        low, high = self.low, self.high
        if low.kind in (_BEFORE, _BEHIND) or high.kind in (_BEFORE, _BEHIND):
            return low.kind == _BEHIND or high.kind == _BEFORE
        return low.member > high.member or (low.member == high.member and _OPEN in (low.kind, high.kind))


Span = ByRank | ByScore | ByMember
"""A part of a sorted set."""


def by_rank(start: bytes, stop: bytes) -> ByRank:
    """The range of ranks between two arguments."""
    return ByRank(integer(start), integer(stop))


def by_score(low: bytes, high: bytes) -> ByScore:
    """The range of scores between two arguments."""
    return ByScore(*bound(low), *bound(high))


def by_member(low: bytes, high: bytes) -> ByMember:
    """The range of members between two arguments."""
    return ByMember(_edge(low), _edge(high))


def _edge(data: bytes) -> Edge:
    if data[:2] in (b"-", b"-\0"):
        return Edge(_BEFORE, b"")
    if data[:2] in (b"+", b"+\0"):
        return Edge(_BEHIND, b"")
    if data[:1] not in (b"(", b"["):
        fail("min or max not valid string range item")
    return Edge(_OPEN if data.startswith(b"(") else _CLOSED, data[1:])


# Single members.


def sorted_set(keys: Keyspace, key: bytes) -> Collection | None:
    """The sorted set at `key`, or None.

    Raises:
        CommandError: WRONGTYPE.
    """
    return keys.collection(key, SORTED_SET)


def by_hash(found: Collection) -> Collection:
    """The first rows of the members of a sorted set, which are as those of a set: by the hashes of their names."""
    rows = Collection(found.key, found.kind, found.number, found.count, 0, found.expiry_ms)
    rows.prefix += MEMBERS
    return rows


def member_at(row: bytes) -> bytes:
    """The member whose score, or whose place in the order, is at `row`."""
    return row[_MEMBER_AT:]


def score_of(keys: Keyspace, found: Collection, member: bytes) -> float | None:
    """The score of `member`, or None."""
    row = keys.row(_member_row(found, member))
    return None if row is None else _score(row)


def put(changes: Changes, found: Collection, member: bytes, before: float | None, score: float) -> None:
    """Make `score` that of `member`, which had `before`, or was not there."""
    if before is None:
        found.count += 1
        changes.pushed[found.key] = None
    else:
        drop_place(changes, found, member, before)
    changes.put_element(found, _member_row(found, member), encode(score))
    changes.put_element(found, _place_row(found, member, score), b"")


def remove(changes: Changes, found: Collection, member: bytes, score: float) -> None:
    """Remove `member`, which has `score`."""
    found.count -= 1
    changes.put_element(found, _member_row(found, member), None)
    drop_place(changes, found, member, score)


def drop_place(changes: Changes, found: Collection, member: bytes, score: float) -> None:
    """Remove `member` from its place in the order, where `score` had put it."""
    changes.put_element(found, _place_row(found, member, score), None)


def remove_all(changes: Changes, found: Collection, elements: Iterable[Element]) -> None:
    """Remove elements, and keep that."""
    for member, score in elements:
        remove(changes, found, member, score)
    changes.save(found)


def remove_whole(changes: Changes, found: Collection) -> None:
    """Delete the sorted set, at the same cost for every size."""
    before = changes.value(found.key)
    if before is not None:
        changes.delete(found.key, before)


def store(changes: Changes, key: bytes, elements: Iterable[Element]) -> int:
    """Make a sorted set of `elements`, whose members differ, the value of `key`, or nothing if there are none; their number."""
    before = changes.value(key)
    if before is not None:
        changes.delete(key, before)
    made = changes.open(key, SORTED_SET)
    for member, score in elements:
        put(changes, made, member, None, score)
    if made.count:
        changes.save(made)
    return made.count


# Ways through the order.


def part(keys: Keyspace, found: Collection, span: Span, backwards: bool, offset: int = 0, limit: int = -1) -> Iterator[Element]:
    """What of a sorted set is in `span`, in order or backwards; ranks count from where it begins. Of that, `limit` elements from the
    `offset`th, for ranges that are not of ranks; all if `limit` is negative, and none if `offset` is."""
    if isinstance(span, ByRank):
        return iter(_ranks(keys, found, *span.within(found.count), backwards))
    if offset < 0 or not limit:
        return iter(())
    count = found.count
    if isinstance(span, ByMember):
        return islice(_members(keys, found, span, backwards, offset), count if limit < 0 else min(limit, count))
    return islice(_scores(keys, found, span, backwards), min(offset, count), count if limit < 0 else min(offset + limit, count))


def is_whole(keys: Keyspace, found: Collection, span: Span) -> bool:
    """Whether all members are in `span`: sure when it says so."""
    if isinstance(span, ByRank):
        start, stop = span.within(found.count)
        return start == 0 and stop == found.count
    if isinstance(span, ByMember):
        return span.low.kind == _BEFORE and span.high.kind == _BEHIND
    start_row, end_row = span.rows(found)
    first, last = (_place_row(found, *_end(keys, found, backwards)) for backwards in (False, True))
    return start_row <= first and last < end_row


def rank_of(keys: Keyspace, found: Collection, member: bytes, backwards: bool) -> int | None:
    """How many members are before `member`, or behind it; None if it is not there. Looks from both ends, a page of rows at a time, and
    so passes twice over as many rows as are between it and the nearer end."""
    score = score_of(keys, found, member)
    if score is None:
        return None
    own = _place_row(found, member, score)
    start, end = _rows(found)
    before, behind = _Side(keys, start, own, False), _Side(keys, own + b"\0", end, True)
    while True:
        if before.advance():
            return found.count - 1 - before.count if backwards else before.count
        if behind.advance():
            return behind.count if backwards else found.count - 1 - behind.count


class _Side:
    """The rows of the order on one side of a member, counted in pages from the end of the set."""

    def __init__(self, keys: Keyspace, start: bytes, end: bytes, backwards: bool) -> None:
        self._keys = keys
        self._start = start
        self._end = end
        self._backwards = backwards
        self.count = 0

    def advance(self) -> bool:
        """Count another page; whether the member has been reached."""
        page = list(islice(self._keys.elements(self._start, self._end, backwards=self._backwards), _PAGE_ROWS))
        self.count += len(page)
        if len(page) < _PAGE_ROWS:
            return True
        last, _ = page[-1]
        if self._backwards:
            self._end = last
        else:
            self._start = last + b"\0"
        return False


def _ranks(keys: Keyspace, found: Collection, start: int, stop: int, backwards: bool) -> list[Element]:
    """The elements at the ranks start … stop - 1, from the end that is nearer."""
    if start >= stop:
        return []
    rest = found.count - stop
    from_far_end = rest < start
    rows = keys.elements(*_rows(found), backwards=backwards != from_far_end)
    skipped = rest if from_far_end else start
    elements = [_element(name) for name, _ in islice(rows, skipped, skipped + stop - start)]
    if from_far_end:
        elements.reverse()
    return elements


def _scores(keys: Keyspace, found: Collection, span: ByScore, backwards: bool) -> Iterator[Element]:
    start, end = span.rows(found)
    if start < end:
        for name, _ in keys.elements(start, end, backwards=backwards):
            yield _element(name)


def _members(keys: Keyspace, found: Collection, span: ByMember, backwards: bool, offset: int) -> Iterator[Element]:
    if span.is_empty():
        return
    (first, lowest), (last, highest) = _end(keys, found, False), _end(keys, found, True)
    low, high = span.low, span.high
    if not low.is_below(last) or not high.is_above(first):
        return
    start, end = _rows(found)
    if lowest == highest:
        if low.kind != _BEFORE:
            start = _place_row(found, low.member, lowest)
        if high.kind != _BEHIND:
            end = _place_row(found, high.member, lowest) + b"\0"
    begun = False
    for name, _ in keys.elements(start, end, backwards=backwards):
        member, score = _element(name)
        near, far = low.is_below(member), high.is_above(member)
        if backwards:
            near, far = far, near
        if not begun and not near:
            continue
        if not far and (not begun or not offset):
            return
        begun = True
        if offset:
            offset -= 1
        else:
            yield member, score


def _end(keys: Keyspace, found: Collection, backwards: bool) -> Element:
    """The first element, or the last."""
    for name, _ in keys.elements(*_rows(found), backwards=backwards):
        return _element(name)
    return cut_off(b"")


def elements_of(keys: Keyspace, found: Collection) -> Iterator[Element]:
    """All elements, in order."""
    return (_element(name) for name, _ in keys.elements(*_rows(found)))


# Rows.


def _rows(found: Collection) -> tuple[bytes, bytes]:
    return found.prefix + SCORES, found.prefix + SCORES_END


def _member_row(found: Collection, member: bytes) -> bytes:
    return found.prefix + MEMBERS + xxh3_64_digest(member) + member


def _place_row(found: Collection, member: bytes, score: float) -> bytes:
    return found.prefix + SCORES + ordered(score) + member


def _element(name: bytes) -> Element:
    return name[_MEMBER_AT:], unordered(name[_SCORE_AT:_MEMBER_AT])


def _score(row: bytes) -> float:
    return decode(row) if len(row) == SCORE_BYTES else cut_off(row)
