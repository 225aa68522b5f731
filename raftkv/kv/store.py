"""The ordered store that the state machine lives on: the smallest interface that RocksDB and a model of it both keep.

Promises, kept by every implementation and checked by one conformance suite:

* `write` is atomic: after a crash all of a batch is there or none of it.
* A write is visible to later reads at once, and durable only once a `flush` that began after it has returned. After a crash the
  store holds a *prefix* of the batches written since: at least everything flushed, never batch n without batch n-1.
* `scan` and `Checkpoint`s show one instant: later writes do not appear in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Protocol

Writes = dict[bytes, bytes | None]
"""What one atomic batch does: key to new value, or to None for a deletion."""


class Store(Protocol):
    """An ordered map from bytes to bytes. Errors of the machine it runs on surface as `StorageError` and stop the node."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def write(self, writes: Writes) -> None:
        """Apply `writes` atomically. Not durable before `flush`."""

    def scan(self, start: bytes, end: bytes, *, limit: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end in key order, at most `limit`, as of the moment of the call."""

    def flush(self) -> None:
        """Make everything written before the call durable. Blocks; safe to call in a thread while others read and write."""

    def checkpoint(self, directory: PurePath) -> None:
        """Make a durable, independent copy of the store as of some moment during the call in `directory`, which must not exist.
        Its content is at least everything written before the call."""

    def close(self) -> None:
        """Release the store. Idempotent. Closing promises no durability."""
