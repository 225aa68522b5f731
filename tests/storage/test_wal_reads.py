"""Reads of the log that take long: they keep nobody waiting, and nobody takes away what they read."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from raftkv.errors import StorageError
from raftkv.raft.types import Entry, SnapshotMeta
from raftkv.sim.disk import SimDisk
from raftkv.storage.disk import File
from raftkv.storage.segment import segment_path
from raftkv.storage.wal import LogWrite, Wal
from tests.storage.log_model import Driver, entries
from tests.storage.test_planted_faults import View

DEADLINE_SECONDS = 30.0
_Result = TypeVar("_Result")


class HeldFile:
    """A file of which reads wait for `release`, once it has been asked to hold them."""

    def __init__(self, file: File, disk: HeldDisk) -> None:
        self._file = file
        self._disk = disk
        self.write_at = file.write_at
        self.size = file.size
        self.preallocate = file.preallocate
        self.truncate = file.truncate
        self.sync = file.sync
        self.close = file.close

    @property
    def path(self) -> str:
        return self._file.path

    def read_at(self, offset: int, length: int) -> bytes:
        self._disk.wait_if_held()
        data = self._file.read_at(offset, length)
        self._disk.order.append("read")
        return data


class HeldDisk(View):
    """A disk on which reads can be made to wait. `order` says what happened in which order."""

    def __init__(self, disk: SimDisk) -> None:
        super().__init__(disk)
        self.order: list[str] = []
        self.began = threading.Event()
        self._released = threading.Event()
        self._released.set()
        self.create = lambda path: HeldFile(disk.create(path), self)
        self.open = lambda path: HeldFile(disk.open(path), self)
        self.unlink = self._unlink

    def hold(self) -> None:
        """From now on reads wait."""
        self.order.clear()
        self._released.clear()

    def release(self) -> None:
        """They wait no longer."""
        self._released.set()

    def wait_if_held(self) -> None:
        if not self._released.is_set():
            self.began.set()
            assert self._released.wait(DEADLINE_SECONDS)

    def _unlink(self, path: str) -> None:
        self.order.append(f"unlink {path}")
        self.disk.unlink(path)


class Bench:
    """A log of three segments, the first of which is being read."""

    def __init__(self, wal_type: type[Wal] = Wal) -> None:
        disk = SimDisk(random.Random(1))
        self.disk = HeldDisk(disk)
        self.driver = Driver(disk, wal_type=wal_type, view=self.disk)
        self.wal = self.driver.open()
        for number, first in enumerate((1, 4, 7)):
            self.driver.write(LogWrite(number, entries=entries(first, first + 2, 1, 1000)))
        self._pool = ThreadPoolExecutor(2)
        self.disk.hold()
        self.read = self._pool.submit(self.wal.read, 1, 5, 1 << 20)
        assert self.disk.began.wait(DEADLINE_SECONDS)

    def does(self, act: Callable[[], _Result]) -> _Result:
        """What `act` answers while the read hangs."""
        return self._pool.submit(act).result(DEADLINE_SECONDS)

    def begins(self, act: Callable[[], object]) -> Callable[[], object]:
        """Let `act` happen while the read hangs; the answer waits for its end."""
        future = self._pool.submit(act)
        return lambda: future.result(DEADLINE_SECONDS)

    def ends(self) -> list[Entry]:
        """Release the read: what it has found."""
        self.disk.release()
        return self.read.result(DEADLINE_SECONDS)


def test_a_read_that_hangs_keeps_nobody_waiting() -> None:
    """The questions that the event loop asks are answered, and what it wants written is written, whatever the disk does with a read."""
    bench = Bench()
    wal = bench.wal
    size = bench.does(lambda: wal.size_bytes)
    assert size > 9_000
    assert bench.does(lambda: (wal.term_at(9), wal.first_index, wal.last_index, wal.is_sealed)) == (1, 1, 9, False)
    bench.does(lambda: bench.driver.write(LogWrite(4, entries=entries(10, 10, 1, 1000))))
    assert bench.does(lambda: wal.size_bytes) > size
    bench.does(wal.seal)
    bench.does(wal.reserve)
    assert not bench.read.done()
    assert bench.ends() == list(entries(1, 5, 1, 1000))


def test_a_read_sees_the_log_as_it_was_when_it_began() -> None:
    """Entries that are overwritten meanwhile are not mixed with those that take their place."""
    bench = Bench()
    bench.does(lambda: bench.driver.write(LogWrite(4, entries=entries(5, 6, 2, 1000))))
    assert bench.ends() == list(entries(1, 5, 1, 1000))
    assert bench.wal.read(4, 6, 1 << 20) == [*entries(4, 4, 1, 1000), *entries(5, 6, 2, 1000)]


def _compact(bench: Bench) -> Callable[[], object]:
    stored = threading.Event()

    def watch(kind: str, path: str) -> None:
        if (kind, path) == ("rename", "wal/manifest"):
            stored.set()

    assert isinstance(bench.disk.disk, SimDisk)
    bench.disk.disk.before_operation = watch
    ended = bench.begins(lambda: bench.wal.compact(SnapshotMeta(6, 1)))
    assert stored.wait(DEADLINE_SECONDS)
    return ended


def test_what_is_being_read_is_not_removed() -> None:
    """A compaction waits for reads of the segments that it removes: they find what they were promised, and the files go afterwards."""
    bench = Bench()
    ended = _compact(bench)
    assert bench.ends() == list(entries(1, 5, 1, 1000))
    ended()
    removed = bench.disk.order.index(f"unlink {segment_path('wal', 1)}")
    assert "read" not in bench.disk.order[removed:]
    assert bench.disk.order[:removed].count("read") > 0
    assert bench.wal.first_index == 7


class Hasty(Wal):
    """Closes segments whether or not they are being read."""

    def _close_segments(self, ids: Collection[int]) -> None:
        self._readers.clear()
        super()._close_segments(ids)


def test_removing_what_is_being_read_is_caught() -> None:
    """Planted: the handle of a file that was closed may belong to another one by the time it is read."""
    bench = Bench(Hasty)
    _compact(bench)()
    with pytest.raises(StorageError):
        bench.ends()


def test_closing_waits_for_reads() -> None:
    """A log that is closed gives up its files when nobody reads them, and lets no new read begin."""
    bench = Bench()
    ended = bench.begins(bench.wal.close)
    assert bench.ends() == list(entries(1, 5, 1, 1000))
    ended()
    with pytest.raises(StorageError, match="closed"):
        bench.wal.read(1, 1, 1)
