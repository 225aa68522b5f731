"""A process that writes batches into a `RocksStore` until it is killed, and says how far it has come.

`python -m tests.storage.store_writer <directory>` writes batch after batch. After each it writes a line: ``w <n>`` for a batch that was
written, ``f <n>`` for a flush that covers batches up to n.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from raftkv.storage.store import RocksStore, StoreSettings

NUMBER = b"number"
FLUSH_EVERY = 37


def row(number: int, part: int) -> bytes:
    """The key of one of the rows that batch `number` writes."""
    return b"row-%08d-%d" % (number, part)


def main() -> None:
    """Write for ever. Small memtables make RocksDB flush by itself as well."""
    store = RocksStore(Path(sys.argv[1]), StoreSettings(memtable_bytes=64 << 10, memtables=8))
    number = int(store.get(NUMBER) or b"0")
    while True:
        number += 1
        store.write({NUMBER: b"%d" % number, row(number, 0): b"x" * 500, row(number, 1): b"y" * 500, row(number - 5, 1): None})
        os.write(1, b"w %d\n" % number)
        if number % FLUSH_EVERY == 0:
            store.flush()
            os.write(1, b"f %d\n" % number)


if __name__ == "__main__":
    main()
