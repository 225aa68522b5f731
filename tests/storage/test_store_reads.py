"""What a read of the store costs when the store holds many short rows: told by the bytes that the process reads, not by a clock."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raftkv.storage.store import RocksStore

ROWS = 600_000
READS = 100
MOST_BYTES = 1 << 20

_COUNTERS = Path("/proc/self/io")


def bytes_read() -> int:
    """How many bytes this process has read from files, the page cache included."""
    return next(int(line.split()[1]) for line in _COUNTERS.read_text().splitlines() if line.startswith("rchar"))


@pytest.mark.skipif(not _COUNTERS.exists(), reason="the system does not count what a process reads")
def test_what_says_where_rows_are_stays_in_memory(tmp_path: Path) -> None:
    """Reads of rows, and of rows that are not there, do not fetch the whole filter or index of a large file again each time."""
    rng = random.Random(1)
    names = [rng.randbytes(8) for _ in range(ROWS)]
    store = RocksStore(tmp_path / "live")
    for start in range(0, ROWS, 50_000):
        store.write({b"k" + name: b"" for name in names[start : start + 50_000]})
    store.flush()
    store._database.compact_range(None, None)

    def read_some() -> None:
        for name in names[:READS]:
            assert store.get(b"k" + name) == b""
            assert store.get(b"l" + name) is None
            assert store.get(b"k" + name + b"x") is None

    read_some()
    before = bytes_read()
    read_some()
    read = bytes_read() - before
    store.close()
    assert read < MOST_BYTES
