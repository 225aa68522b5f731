"""The ordered store that the state machine lives on: the smallest interface that RocksDB and a model of it both keep.

Promises, kept by every implementation and checked by one conformance suite:

* `write` is atomic: after a crash all of a batch is there or none of it.
* A write is visible to later reads at once, and durable only once a `flush` that began after it has returned. After a crash the
  store holds a *prefix* of the batches written since: at least everything flushed, never batch n without batch n-1.
* `scan`, `view` and `checkpoint` show one instant: later writes do not appear in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Protocol

Writes = dict[bytes, bytes | None]
"""What one atomic batch does: key to new value, or to None for a deletion."""

Ranges = Sequence[tuple[bytes, bytes]]
"""Ranges of keys, each start <= key < end."""


class Rows(Protocol):
    """An ordered map from bytes to bytes that can be read. Errors of the machine it runs on surface as `StorageError`."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end in key order, or from the last one backwards, at most `limit`, as of the moment of the call."""

    def count(self, start: bytes, end: bytes) -> int:
        """How many rows have start <= key < end. Reads no values, but visits every row."""


class View(Rows, Protocol):
    """The rows of a store at one instant. Used by one thread at a time, not necessarily the one that asked for it; its scans may take
    turns."""

    def close(self) -> None:
        """Let go of the instant. Idempotent; nothing may be read afterwards."""


class Store(Rows, Protocol):
    """An ordered map from bytes to bytes, written in atomic batches."""

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        """Delete every row in the ranges of `clear`, then apply `writes`, all of it atomically. Not durable before `flush`.

        Clearing a range costs the same for one row and for a million.

        Raises:
            Busy: the store cannot keep up with the writes. Nothing was written; the same call succeeds later.
            StorageError: the store cannot be written any more.
        """

    def view(self) -> View:
        """The rows as they are now, for reading in another thread. The caller closes it."""

    def flush(self) -> None:
        """Make everything written before the call durable. Blocks; safe to call in a thread while others read and write."""

    def checkpoint(self, directory: PurePath) -> None:
        """Make a durable, independent copy of the store as of some moment during the call in `directory`, which must not exist.

        Its content is at least everything written before the call. A relative path begins where the store's own directory is.
        Blocks; `flush` first, and this is short.
        """

    def close(self) -> None:
        """Release the store. Idempotent. Closing promises no durability."""
