"""Where the elements of sorted sets begin and end: what spares a walk the rows that are gone there.

Who takes elements from an end again and again leaves rows behind that are deleted, and the store passes over each of them whenever the next
one is looked for at this end. So the first and the last row that were found are remembered, for each order that a sorted set has.

What always holds: before the first and behind the last there is nothing. This only saves time, and decides nothing: it differs between
replicas, as one that was restarted remembers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.kv.collection import PREFIX_BYTES, following

MOST: Final = 1024
"""So many orders are remembered from entry to entry; those that were changed last."""

_AREA_BYTES: Final = PREFIX_BYTES + 1

Ends = tuple[bytes, bytes]
"""The first row that may be there, and the last one."""


class Edges:
    """What is remembered, as one entry changes it.

    Args:
        before: what was known before the entry.
    """

    def __init__(self, before: dict[bytes, Ends]) -> None:
        self._before = before
        self._now: dict[bytes, Ends] = {}
        self._changes = 0

    def within(self, start: bytes, end: bytes) -> Ends:
        """The part of start <= row < end outside of which there is nothing."""
        known = self._find(start[:_AREA_BYTES])
        if known is None:
            return start, end
        first, last = known
        return max(start, first), min(end, last + b"\0")

    def added(self, row: bytes) -> Callable[[], None] | None:
        """An element is put at `row`. Returns what undoes this."""
        self._changes += 1
        known = self._find(row[:_AREA_BYTES])
        if known is None or known[0] <= row <= known[1]:
            return None
        return self._set(row[:_AREA_BYTES], (min(known[0], row), max(known[1], row)))

    def looking(self, start: bytes, end: bytes) -> int | None:
        """A walk from start to end begins: what to tell `found`; None if it cannot find an edge."""
        return self._changes if len(start) == _AREA_BYTES and end == following(start) else None

    def found(self, looking: int, area: bytes, row: bytes, *, backwards: bool) -> Callable[[], None] | None:
        """That walk found `row` at the end where it began. Returns what undoes that this is known."""
        if looking != self._changes:
            return None  # it may have missed what was put since
        first, last = self._find(area) or (area, following(area))
        return self._set(area, (first, row) if backwards else (row, last))

    def after(self) -> dict[bytes, Ends]:
        """What is known when the entry has been written."""
        if not self._now:
            return self._before
        known = {area: ends for area, ends in self._before.items() if area not in self._now} | self._now
        for area in list(known)[:-MOST]:
            del known[area]
        return known

    def _find(self, area: bytes) -> Ends | None:
        return self._now.get(area) or self._before.get(area)

    def _set(self, area: bytes, ends: Ends) -> Callable[[], None]:
        before = self._now.get(area)

        def undo() -> None:
            if before is None:
                self._now.pop(area, None)
            else:
                self._now[area] = before

        self._now[area] = ends
        return undo
