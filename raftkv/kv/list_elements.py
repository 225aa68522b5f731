"""Where the elements of a list are, and how they are added, removed and moved: what all commands on lists share.

Each element is a row under the number of its list and a position::

    e  collection (12 bytes), position u64  ->  the element

What always holds: the positions of a list follow one another without a gap, from `Collection.first` on; a row at any other position is
never looked at. An element has no row that says where it is, so what is at an index is found at once, from either end and in the middle,
and both ends grow and shrink without a move of the rest. The first element of a new list is in the middle of all positions: no list
will ever reach an end of them.

To remove or insert in the middle is to move what is on its shorter side. This, and to search, costs a visit of each element; a write
does it while the node does nothing else, so it is bounded here, in steps. Nothing here knows a command.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final, NoReturn

from raftkv.errors import StateDamaged
from raftkv.kv.collection import Collection
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import fail

MOST_STEPS: Final = 100_000
"""So many steps may a search, a removal of many or a move take in a write: one for each element that is visited, and for each 512
bytes of it. A step takes 2 microseconds or so on a small machine, and an election begins when a leader was not heard for a second."""

MOVE_STEPS: Final = 4
"""An element that is moved, which is read, deleted and written, takes so many times the steps."""

_STEP_SHIFT: Final = 9

_MIDDLE: Final = 2**63

_FEW: Final = 1_000
"""Up to so many elements are deleted one by one, rather than as a range, which later reads have to skip for a while."""

_POSITION: Final = struct.Struct(">Q")


def row_at(elements: Collection, index: int) -> bytes:
    """The row of the element `index`, counted from the first one; or where it would be."""
    return elements.prefix + _POSITION.pack(elements.first + index)


def element(keys: Keyspace, elements: Collection, index: int) -> bytes:
    """The element `index`, which is there.

    Raises:
        StateDamaged: it is not.
    """
    found = keys.row(row_at(elements, index))
    return _missing() if found is None else found


def between(keys: Keyspace, elements: Collection, start: int, stop: int, *, backwards: bool = False) -> Iterator[bytes]:
    """The elements start <= index < stop, in order, or backwards from the last one.

    Raises:
        StateDamaged: one is missing.
    """
    return _values(keys.elements(row_at(elements, start), row_at(elements, stop), backwards=backwards), start, stop)


def _values(rows: Iterator[tuple[bytes, bytes]], start: int, stop: int) -> Iterator[bytes]:
    """The elements that `rows` hold, of which there have to be those start <= index < stop."""
    found = start
    # No row behind the last one is asked for: the way to the next that is there may lead past a million that have been deleted.
    for _, value in islice(rows, max(stop - start, 0)):
        yield value
        found += 1
    if found < stop:
        _missing()


def bounded(
    changes: Changes, elements: Collection, *spans: tuple[int, int], backwards: bool = False, each: int = 1
) -> Iterator[bytes]:
    """The elements of `spans`, each from an index up to another one, as `between`, as far as one write may go, with so many times the
    steps for `each`. Steps are all that is counted here, and not the visits of `Changes.elements`.

    Raises:
        CommandError: there is more.
        StateDamaged: one is missing.
    """
    left = MOST_STEPS
    walks = ((changes.walk(row_at(elements, start), row_at(elements, stop), backwards=backwards), start, stop) for start, stop in spans)
    for value in chain.from_iterable(_values(*walk) for walk in walks):
        steps = each * (1 + (len(value) >> _STEP_SHIFT))
        left -= steps
        if left < 0:
            fail(f"the command would visit or move more elements than one write may: it takes more than {MOST_STEPS} steps")
        changes.budget.step(steps)
        yield value


def push(changes: Changes, elements: Collection, values: Sequence[bytes], *, left: bool) -> None:
    """Add `values` at an end, one after another. `Changes.save` is for the caller, here and below."""
    if not elements.count:
        elements.first = _MIDDLE
    if left:
        elements.first -= len(values)
        _write(changes, elements, 0, values[::-1])
    else:
        _write(changes, elements, elements.count, values)
    elements.count += len(values)
    changes.pushed[elements.key] = None


def pop(changes: Changes, elements: Collection, count: int, *, left: bool) -> list[bytes]:
    """Take up to `count` elements away from an end, the one at that end first.

    Raises:
        CommandError: they are more than one write may visit.
    """
    count = min(count, elements.count)
    start = 0 if left else elements.count - count
    if count == 1:
        taken = [element(changes, elements, start)]
    else:
        taken = list(bounded(changes, elements, (start, start + count), backwards=not left))
    changes.budget.answer(sum(map(len, taken)))
    trim(changes, elements, start + count if left else 0, elements.count if left else start)
    return taken


def trim(changes: Changes, elements: Collection, start: int, stop: int) -> None:
    """Leave only the elements start <= index < stop. Costs the same for many that go and for a million."""
    _drop(changes, elements, 0, start)
    _drop(changes, elements, stop, elements.count)
    elements.first += start
    elements.count = stop - start


def insert(changes: Changes, elements: Collection, index: int, value: bytes) -> None:
    """Put `value` in front of the element `index`, or at the end if that is the count.

    Raises:
        CommandError: more elements are on the shorter side of it than one write may move.
    """
    if index < elements.count - index:
        moved = list(bounded(changes, elements, (0, index), each=MOVE_STEPS))
        elements.first -= 1
        _write(changes, elements, 0, [*moved, value])
    else:
        moved = list(bounded(changes, elements, (index, elements.count), each=MOVE_STEPS))
        _write(changes, elements, index, [value, *moved])
    elements.count += 1
    changes.pushed[elements.key] = None


def remove(changes: Changes, elements: Collection, removed: Sequence[int]) -> None:
    """Take the elements of these indices, in order, away. The longest stretch without one of them stays where it is: what is left and
    right of it moves towards it.

    Raises:
        CommandError: these are more elements than one write may move.
    """
    bounds = [-1, *removed, elements.count]
    before = max(range(len(bounds) - 1), key=lambda at: bounds[at + 1] - bounds[at])
    start, stop = bounds[before] + 1, bounds[before + 1]
    gone = set(removed)
    around = chain(range(start), range(stop, elements.count))
    found = bounded(changes, elements, (0, start), (stop, elements.count), each=MOVE_STEPS)
    moved = [value for index, value in zip(around, found, strict=True) if index not in gone]
    left, right = moved[: start - before], moved[start - before :]
    _write(changes, elements, before, left)
    _write(changes, elements, stop, right)
    trim(changes, elements, before, stop + len(right))


def _missing() -> NoReturn:
    raise StateDamaged("an element of a list is missing; restart the node, and the state is fetched anew")


def _write(changes: Changes, elements: Collection, index: int, values: Sequence[bytes]) -> None:
    """Make `values` the elements from `index` on."""
    pack, prefix = _POSITION.pack, elements.prefix
    changes.put_elements(elements, [(prefix + pack(position), value) for position, value in enumerate(values, elements.first + index)])


def _drop(changes: Changes, elements: Collection, start: int, stop: int) -> None:
    """Delete the rows of the elements start <= index < stop."""
    if stop - start > _FEW:
        changes.drop_range(elements, row_at(elements, start), row_at(elements, stop))
        return
    for index in range(start, stop):
        changes.put_element(elements, row_at(elements, index), None)
