"""Commands on lists that search: LREM, LINSERT, LPOS.

They visit elements until they have found what they look for. The two writes also move what is on the shorter side of it, and are
refused beyond what `kv.list_elements` says that one write may visit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, SYNTAX_ERROR, integer
from raftkv.kv.command import Command, Read, Write, machine_spec
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.list_commands import count_of
from raftkv.kv.list_elements import MOST_STEPS, MOVE_STEPS, between, bounded, insert, remove
from raftkv.kv.replies import Reply, fail
from raftkv.kv.rows import LIST

_Number = Annotated[int, Meta(ge=0, le=INT64_MAX)]


class ListRemove(Write, frozen=True, array_like=True, gc=False, tag=89):
    """LREM: remove elements equal to `element`: the first `count`, the last -`count`, or all when it is 0."""

    key: bytes
    count: int
    element: bytes

    def apply(self, changes: Changes) -> Reply:
        found = changes.collection(self.key, LIST)
        if found is None:
            return 0
        most = abs(self.count) or found.count
        backwards = self.count < 0
        removed: list[int] = []
        for index, value in enumerate(bounded(changes, found, (0, found.count), backwards=backwards)):
            if value == self.element:
                removed.append(found.count - 1 - index if backwards else index)
                if len(removed) == most:
                    break
        if removed:
            remove(changes, found, sorted(removed))
            changes.save(found)
        return len(removed)


class ListInsert(Write, frozen=True, array_like=True, gc=False, tag=90):
    """LINSERT: put `element` before or behind the first element equal to `pivot`."""

    key: bytes
    behind: bool
    pivot: bytes
    element: bytes

    def apply(self, changes: Changes) -> Reply:
        found = changes.collection(self.key, LIST)
        if found is None:
            return 0
        for index, value in enumerate(bounded(changes, found, (0, found.count))):
            if value == self.pivot:
                insert(changes, found, index + self.behind, self.element)
                changes.save(found)
                return found.count
        return -1


class ListFind(Read, frozen=True, array_like=True, gc=False, tag=91):
    """LPOS: where the elements equal to `element` are, from the `rank`th on; from the end when it is negative. `count` is how many, 0 for
    all; None for one that is not in an array. `most` is how many elements are compared, 0 for all."""

    key: bytes
    element: bytes
    rank: int = 1
    count: _Number | None = None
    most: _Number = 0

    def read(self, keys: Keyspace) -> Reply:
        found: list[Reply] = []
        for index in self._matches(keys):
            found.append(index)
            if len(found) == (1 if self.count is None else self.count):
                break
        if self.count is None:
            return found[0] if found else None
        return found

    def _matches(self, keys: Keyspace) -> Iterator[int]:
        elements = keys.collection(self.key, LIST)
        if elements is None:
            return
        count = elements.count
        compared = min(self.most or count, count)
        start, stop = (count - compared, count) if self.rank < 0 else (0, compared)
        before = abs(self.rank) - 1
        for index, value in enumerate(between(keys, elements, start, stop, backwards=self.rank < 0)):
            if value == self.element:
                if not before:
                    yield count - 1 - index if self.rank < 0 else index
                else:
                    before -= 1


def _parse_insert(args: Sequence[bytes]) -> Command:
    where = args[2].upper()
    if where not in (b"BEFORE", b"AFTER"):
        fail(SYNTAX_ERROR)
    return ListInsert(args[1], where == b"AFTER", args[3], args[4])


def _parse_find(args: Sequence[bytes]) -> Command:
    rank, count, most = 1, None, 0
    for at in range(3, len(args), 2):
        option = args[at].upper()
        if option not in (b"RANK", b"COUNT", b"MAXLEN") or at + 1 == len(args):
            fail(SYNTAX_ERROR)
        if option == b"COUNT":
            count = count_of(args[at + 1], 0, "COUNT can't be negative")
        elif option == b"MAXLEN":
            most = count_of(args[at + 1], 0, "MAXLEN can't be negative")
        else:
            rank = integer(args[at + 1])
            if not rank:
                fail(
                    "RANK can't be zero: use 1 to start from the first match, 2 from the second ... "
                    "or use negative to start from the end of the list"
                )
    return ListFind(args[1], args[2], rank, count, most)


_BOUNDED: Final = f"at most {MOST_STEPS} elements are searched, and {MOST_STEPS // MOVE_STEPS} moved; fewer if they are long"

SPECS: Final = (
    machine_spec(
        "lrem",
        4,
        lambda args: ListRemove(args[1], integer(args[2]), args[3]),
        "Remove elements from a list",
        "list",
        "write",
        differs=_BOUNDED,
    ),
    machine_spec(
        "linsert",
        5,
        _parse_insert,
        "Insert an element before or after another element in a list",
        "list",
        "write denyoom",
        differs=_BOUNDED,
    ),
    machine_spec("lpos", -3, _parse_find, "Return the index of matching elements on a list", "list", "readonly"),
)

COMMANDS: Final = (ListRemove, ListInsert, ListFind)
