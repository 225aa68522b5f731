"""A store in memory, for the machines of these tests: atomic, never durable, never failing."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from pathlib import PurePath

from raftkv.kv.store import Ranges, Writes


class MemoryRows:
    """Rows in a dict; their keys in order, found again when they have changed."""

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self._rows = dict(rows or {})
        self._keys: list[bytes] | None = None

    def get(self, key: bytes) -> bytes | None:
        """The row, or None."""
        return self._rows.get(key)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows of the range, as they are now."""
        keys = self._between(start, end)
        if backwards:
            keys.reverse()
        return iter([(key, self._rows[key]) for key in keys[:limit]])

    def count(self, start: bytes, end: bytes) -> int:
        """How many rows the range has."""
        return len(self._between(start, end))

    def _between(self, start: bytes, end: bytes) -> list[bytes]:
        if self._keys is None:
            self._keys = sorted(self._rows)
        return self._keys[bisect.bisect_left(self._keys, start) : bisect.bisect_left(self._keys, end)]

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        """Clear ranges, then write."""
        for start, end in clear:
            for key in self._between(start, end):
                del self._rows[key]
        for key, row in writes.items():
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        self._keys = None

    def view(self) -> MemoryRows:
        """A copy."""
        return MemoryRows(self._rows)

    def flush(self) -> None:
        """Nothing is durable here."""

    def checkpoint(self, directory: PurePath) -> None:
        """There is no directory to copy to."""
        raise NotADirectoryError(directory)

    def close(self) -> None:
        """Nothing to release."""
