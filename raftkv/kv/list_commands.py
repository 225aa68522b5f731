"""Commands on lists that work at their ends or at an index: pushes, pops, moves, and what is read and cut by index.

Each costs what it answers or writes, whatever the length of the list. How elements are kept is the concern of `kv.list_elements`;
commands that search are in `kv.list_search_commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, NOT_AN_INTEGER, SYNTAX_ERROR, integer, parse_integer
from raftkv.kv.command import NO_KEYS, Command, Read, Write, machine_spec
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.list_elements import MOST_STEPS, between, element, pop, push, row_at, trim
from raftkv.kv.replies import NO_ARRAY, OK, Reply, fail
from raftkv.kv.rows import LIST

_Count = Annotated[int, Meta(ge=0, le=INT64_MAX)]

_BOUNDED: Final = f"at most {MOST_STEPS} elements are taken at once; fewer if they are long"


class ListPush(Write, frozen=True, array_like=True, gc=False, tag=80):
    """LPUSH, RPUSH, LPUSHX, RPUSHX."""

    key: bytes
    elements: tuple[bytes, ...]
    left: bool
    only_existing: bool = False

    def apply(self, changes: Changes) -> Reply:
        found = changes.collection(self.key, LIST) if self.only_existing else changes.open(self.key, LIST)
        if found is None:
            return 0
        push(changes, found, self.elements, left=self.left)
        changes.save(found)
        return found.count


class ListPop(Write, frozen=True, array_like=True, gc=False, tag=81):
    """LPOP, RPOP. Without a `count` the answer is an element, else a list."""

    key: bytes
    left: bool
    count: _Count | None = None

    def apply(self, changes: Changes) -> Reply:
        found = changes.collection(self.key, LIST)
        if found is None:
            return None if self.count is None else NO_ARRAY
        if self.count == 0:
            return []
        taken = pop(changes, found, 1 if self.count is None else self.count, left=self.left)
        changes.save(found)
        return taken[0] if self.count is None else [*taken]


class ListPopFirst(Write, frozen=True, array_like=True, gc=False, tag=82):
    """LMPOP: up to `count` elements of the first of `keys` that has any. The answer is that key and the elements."""

    keys: tuple[bytes, ...]
    left: bool
    count: Annotated[int, Meta(ge=1, le=INT64_MAX)]

    def apply(self, changes: Changes) -> Reply:
        for key in self.keys:
            found = changes.collection(key, LIST)
            if found is not None:
                taken = pop(changes, found, self.count, left=self.left)
                changes.save(found)
                return [key, [*taken]]
        return NO_ARRAY


class ListLength(Read, frozen=True, array_like=True, gc=False, tag=83):
    """LLEN."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        found = keys.collection(self.key, LIST)
        return 0 if found is None else found.count


class ListRange(Read, frozen=True, array_like=True, gc=False, tag=84):
    """LRANGE."""

    key: bytes
    start: int
    stop: int

    def read(self, keys: Keyspace) -> Reply:
        found = keys.collection(self.key, LIST)
        if found is None:
            return []
        start, stop = _span(self.start, self.stop, found.count)
        return [*between(keys, found, start, stop)] if start < stop else []


class ListIndex(Read, frozen=True, array_like=True, gc=False, tag=85):
    """LINDEX. `index` is None for what is no integer, which Redis minds only when there is a list."""

    key: bytes
    index: int | None

    def read(self, keys: Keyspace) -> Reply:
        found = keys.collection(self.key, LIST)
        if found is None:
            return None
        index = _place(self.index, found.count)
        return None if index is None else element(keys, found, index)


class ListSet(Write, frozen=True, array_like=True, gc=False, tag=86):
    """LSET. `index` is None as in `ListIndex`."""

    key: bytes
    index: int | None
    element: bytes

    def apply(self, changes: Changes) -> Reply:
        found = changes.collection(self.key, LIST)
        if found is None:
            fail("no such key")
        index = _place(self.index, found.count)
        if index is None:
            fail("index out of range")
        changes.put_element(found, row_at(found, index), self.element)
        changes.save(found)
        return OK


class ListTrim(Write, frozen=True, array_like=True, gc=False, tag=87):
    """LTRIM."""

    key: bytes
    start: int
    stop: int

    def apply(self, changes: Changes) -> Reply:
        found = changes.collection(self.key, LIST)
        if found is not None:
            start, stop = _span(self.start, self.stop, found.count)
            trim(changes, found, start, stop)
            changes.save(found)
        return OK


class ListMove(Write, frozen=True, array_like=True, gc=False, tag=88):
    """LMOVE, RPOPLPUSH."""

    source: bytes
    destination: bytes
    from_left: bool
    to_left: bool

    def apply(self, changes: Changes) -> Reply:
        source = changes.collection(self.source, LIST)
        if source is None:
            return None
        to = source if self.destination == self.source else changes.open(self.destination, LIST)
        moved = pop(changes, source, 1, left=self.from_left)
        push(changes, to, moved, left=self.to_left)
        if to is not source:
            changes.save(source)
        changes.save(to)
        return moved[0]


def _span(start: int, stop: int, count: int) -> tuple[int, int]:
    """The elements from `start` to `stop`, of which either may be counted from the end, as start <= index < stop; an empty span is
    (count, count)."""
    first = max(start + count if start < 0 else start, 0)
    last = min(stop + count if stop < 0 else stop, count - 1)
    return (first, last + 1) if first <= last else (count, count)


def _place(index: int | None, count: int) -> int | None:
    """The index of an element, counted from the first one; None when there is none."""
    if index is None:
        fail(NOT_AN_INTEGER)
    place = index + count if index < 0 else index
    return place if 0 <= place < count else None


def end(data: bytes) -> bool:
    """Which end of a list `data` names: whether the left one.

    Raises:
        CommandError: neither.
    """
    name = data.upper()
    if name not in (b"LEFT", b"RIGHT"):
        fail(SYNTAX_ERROR)
    return name == b"LEFT"


def count_of(data: bytes, least: int, message: str) -> int:
    """The integer that `data` spells, which is at least `least`; `message` says that it is not."""
    number = parse_integer(data)
    return fail(message) if number is None or number < least else number


def _parse_push(left: bool, only_existing: bool = False) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: ListPush(args[1], tuple(args[2:]), left, only_existing)


def _parse_pop(left: bool) -> Callable[[Sequence[bytes]], Command]:
    def parse(args: Sequence[bytes]) -> Command:
        if len(args) > 3:
            fail(f"wrong number of arguments for '{'lpop' if left else 'rpop'}' command")
        if len(args) == 2:
            return ListPop(args[1], left)
        return ListPop(args[1], left, count_of(args[2], 0, "value is out of range, must be positive"))

    return parse


def parse_pop_first(args: Sequence[bytes]) -> ListPopFirst:
    """What `args` asks for, from the number of keys on, as in LMPOP."""
    number = count_of(args[0], 1, "numkeys should be greater than 0")
    if number + 1 >= len(args):
        fail(SYNTAX_ERROR)
    left = end(args[number + 1])
    options = args[number + 2 :]
    if not options:
        return ListPopFirst(tuple(args[1 : number + 1]), left, 1)
    if len(options) == 1 or options[0].upper() != b"COUNT":
        fail(SYNTAX_ERROR)
    count = count_of(options[1], 1, "count should be greater than 0")
    if len(options) > 2:
        fail(SYNTAX_ERROR)
    return ListPopFirst(tuple(args[1 : number + 1]), left, count)


_TWO_KEYS: Final = (1, 2, 1)

SPECS: Final = (
    machine_spec("lpush", -3, _parse_push(True), "Prepend one or multiple elements to a list", "list", "write denyoom fast"),
    machine_spec("rpush", -3, _parse_push(False), "Append one or multiple elements to a list", "list", "write denyoom fast"),
    machine_spec(
        "lpushx", -3, _parse_push(True, True), "Prepend an element to a list, only if the list exists", "list", "write denyoom fast"
    ),
    machine_spec(
        "rpushx", -3, _parse_push(False, True), "Append an element to a list, only if the list exists", "list", "write denyoom fast"
    ),
    machine_spec("lpop", -2, _parse_pop(True), "Remove and get the first elements in a list", "list", "write fast", differs=_BOUNDED),
    machine_spec("rpop", -2, _parse_pop(False), "Remove and get the last elements in a list", "list", "write fast", differs=_BOUNDED),
    machine_spec(
        "lmpop",
        -4,
        lambda args: parse_pop_first(args[1:]),
        "Pop elements from a list",
        "list",
        "write movablekeys",
        keys=NO_KEYS,
        counted_keys=1,
        differs=_BOUNDED,
    ),
    machine_spec("llen", 2, lambda args: ListLength(args[1]), "Get the length of a list", "list", "readonly fast"),
    machine_spec(
        "lrange",
        4,
        lambda args: ListRange(args[1], integer(args[2]), integer(args[3])),
        "Get a range of elements from a list",
        "list",
        "readonly",
    ),
    machine_spec(
        "lindex",
        3,
        lambda args: ListIndex(args[1], parse_integer(args[2])),
        "Get an element from a list by its index",
        "list",
        "readonly",
    ),
    machine_spec(
        "lset",
        4,
        lambda args: ListSet(args[1], parse_integer(args[2]), args[3]),
        "Set the value of an element in a list by its index",
        "list",
        "write denyoom",
    ),
    machine_spec(
        "ltrim",
        4,
        lambda args: ListTrim(args[1], integer(args[2]), integer(args[3])),
        "Trim a list to the specified range",
        "list",
        "write",
    ),
    machine_spec(
        "lmove",
        5,
        lambda args: ListMove(args[1], args[2], end(args[3]), end(args[4])),
        "Pop an element from a list, push it to another list and return it",
        "list",
        "write denyoom",
        keys=_TWO_KEYS,
    ),
    machine_spec(
        "rpoplpush",
        3,
        lambda args: ListMove(args[1], args[2], False, True),
        "Remove the last element in a list, prepend it to another list and return it",
        "list",
        "write denyoom",
        keys=_TWO_KEYS,
    ),
)

COMMANDS: Final = (
    ListPush,
    ListPop,
    ListPopFirst,
    ListLength,
    ListRange,
    ListIndex,
    ListSet,
    ListTrim,
    ListMove,
)
