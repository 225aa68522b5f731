"""The state on disk: `raftkv.kv.store.Store` on RocksDB, through rocksdict.

What always holds: one writer; RocksDB's own log is off, because the Raft log is the log, so what was not flushed is lost at a
crash, newest first. Memory is bounded by the settings and not by the data. Every error of RocksDB becomes one of ours, in one
place.

What was measured of rocksdict 0.3.29 and is relied on: `write` and `create_checkpoint` hold the GIL and `flush` does not, so
batches are bounded and a checkpoint is taken of a flushed store; an iterator of `Rdict.iter` shows the instant at which it was
made, those of its snapshots do not; an iterator keeps the database's lock until it is dropped; errors are bare `Exception`s with
RocksDB's text.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final, cast

import rocksdict
from msgspec import Struct

from raftkv.errors import Busy, DirectoryInUse, DiskFull, StateDamaged, StorageError
from raftkv.kv.store import Ranges, Writes

_PAGE_ROWS: Final = 256
"""After so many rows a long walk lets other threads run."""

_FIRST_PAGE_ROWS: Final = 16
_PAGE_BYTES: Final = 256 << 10
"""A scan of a view reads no more than these at a time, long rows aside."""


class StoreSettings(Struct, frozen=True, kw_only=True):
    """Bounds on the memory of one store, in bytes: together what RocksDB takes, whatever the size of the state."""

    memtable_bytes: int = 8 << 20  # a smaller one is quicker to insert into: it stays in the processor's cache
    memtables: int = 6
    block_cache_bytes: int = 32 << 20
    max_open_files: int = 256


class RocksStore:
    """An ordered map on disk, in a directory of its own.

    Args:
        path: the directory; made if it does not exist, its parent must.
        settings: bounds.

    Raises:
        DirectoryInUse: this or another process has it open.
        StateDamaged: the files are not what was written.
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path, settings: StoreSettings | None = None) -> None:
        self.path = path
        self._database = _open(path, settings or StoreSettings())
        self._write_options = rocksdict.WriteOptions()
        self._write_options.disable_wal = True  # type: ignore[method-assign,assignment]  # the stub calls it a method
        self._write_options.no_slowdown = True
        self._get = self._database.get

    def get(self, key: bytes) -> bytes | None:
        try:
            return cast("bytes | None", self._get(key))
        except Exception as error:
            raise storage_error("read", self.path, error) from error

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        walk = _walk_backwards if backwards else _walk
        return walk(self._iterator(), start, end, limit, self.path)

    def count(self, start: bytes, end: bytes) -> int:
        return _count(self._iterator(), start, end, self.path)

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for start, end in clear:
            batch.delete_range(start, end)
        put = batch.put
        for key, value in writes.items():
            if value is None:
                batch.delete(key)
            else:
                put(key, value)
        try:
            self._database.write(batch, self._write_options)
        except Exception as error:
            raise storage_error("write", self.path, error) from error

    def view(self) -> RocksView:
        # Two iterators made without a write between them show the same instant.
        return RocksView(self._iterator(), self._iterator(), self.path)

    def flush(self) -> None:
        try:
            self._database.flush()
        except Exception as error:
            raise storage_error("flush", self.path, error) from error

    def checkpoint(self, directory: PurePath) -> None:
        # A checkpoint contains what the memtable holds by flushing it, so nothing written before the call is missing.
        try:
            rocksdict.Checkpoint(self._database).create_checkpoint(str(self.path.parent / directory))
        except Exception as error:
            raise storage_error("checkpoint", self.path, error) from error

    def close(self) -> None:
        with contextlib.suppress(rocksdict.DbClosedError):
            self._database.close()

    def _iterator(self) -> rocksdict.RdictIter:
        try:
            return self._database.iter()
        except Exception as error:
            raise storage_error("read", self.path, error) from error


class RocksView:
    """The rows of a `RocksStore` at one instant."""

    def __init__(self, points: rocksdict.RdictIter, rows: rocksdict.RdictIter, path: Path) -> None:
        self._points: rocksdict.RdictIter | None = points
        self._rows: rocksdict.RdictIter | None = rows
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        iterator = self._live(self._points)
        try:
            iterator.seek(key)
            if iterator.valid() and iterator.key() == key:
                return cast("bytes", iterator.value())
            iterator.status()
        except Exception as error:
            raise storage_error("read", self._path, error) from error
        return None

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """As the store's. Several scans may take turns: they share an iterator, and each finds its place again for every page of rows."""
        walk = _walk_backwards if backwards else _walk
        left = -1 if limit is None else limit
        most = _FIRST_PAGE_ROWS
        while left:
            page: list[tuple[bytes, bytes]] = []
            size = 0
            for row in walk(self._live(self._rows), start, end, left if 0 < left < most else most, self._path):
                page.append(row)
                size += len(row[0]) + len(row[1])
                if size > _PAGE_BYTES:
                    break
            yield from page
            if size <= _PAGE_BYTES and len(page) < most:
                return
            left -= len(page)
            last, _ = page[-1]
            start, end = (start, last) if backwards else (last + b"\0", end)
            most = _PAGE_ROWS

    def count(self, start: bytes, end: bytes) -> int:
        return _count(self._live(self._rows), start, end, self._path)

    def close(self) -> None:
        self._points = self._rows = None

    def _live(self, iterator: rocksdict.RdictIter | None) -> rocksdict.RdictIter:
        if iterator is None:
            raise StorageError(f"a view of the state in {self._path} was read after it was closed")
        return iterator


class RocksEngine:
    """Makes stores in directories below `root`, for `storage.checkpoint`."""

    def __init__(self, root: Path, settings: StoreSettings | None = None) -> None:
        self._root = root
        self._settings = settings

    def open(self, path: str) -> RocksStore:
        return RocksStore(self._root / path, self._settings)

    @contextlib.contextmanager
    def inspect(self, path: str) -> Iterator[RocksView]:
        # Opened without the right to write, the database changes no file of the state.
        database = _open(self._root / path, StoreSettings(block_cache_bytes=1 << 20), read_only=True)
        view = RocksView(database.iter(), database.iter(), self._root / path)
        try:
            _verify(database.iter(), self._root / path)
            yield view
        finally:
            view.close()
            database.close()

    def portable(self, name: str) -> bool:
        return not name.startswith("LOG") and name not in ("LOCK", "rocksdict-config.json")


def storage_error(action: str, path: Path, error: Exception) -> StorageError | Busy:
    """The error of our tree for one of RocksDB's, which have no types: the text tells.

    A write that is refused to slow the writer down is `Busy`, and nothing was written. Everything else is final: RocksDB does not
    write again after an error in the background, so the store is closed, and opened at its last flush.
    """
    text = str(error)
    if text.startswith(("Result incomplete", "Operation aborted")) and "stall" in text:
        return Busy(f"the state in {path} cannot be written as fast as it is asked to: {text}")
    if "No space left" in text or "Disk quota exceeded" in text or "Not enough space" in text:
        return DiskFull(f"no space left to {action} the state in {path} ({text}): free some space on this disk")
    if text.startswith("Corruption"):
        return StateDamaged(f"the state in {path} is damaged ({text}): restart the node, and it is fetched from another one")
    if "lock hold by current process" in text or "While lock file" in text:
        return DirectoryInUse(f"the state in {path} is open already ({text})")
    return StorageError(f"cannot {action} the state in {path}: {text}")


def _open(path: Path, settings: StoreSettings, *, read_only: bool = False) -> rocksdict.Rdict:
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(settings.block_cache_bytes))
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    # In parts, because a part of the cache holds no block that is larger than itself: the whole filter of a file of many short rows would
    # be read again from the file by every `get`.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_pin_top_level_index_and_filter(True)
    table.set_block_size(8 << 10)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(settings.memtable_bytes)
    options.set_max_write_buffer_number(settings.memtables)
    options.set_db_write_buffer_size(settings.memtable_bytes * settings.memtables)
    options.set_max_open_files(settings.max_open_files)
    options.set_max_background_jobs(2)
    options.set_allow_concurrent_memtable_write(False)  # there is one writer
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_paranoid_checks(True)
    # With many rows deleted at once, compaction soon drops what hides behind them.
    options.set_level_zero_slowdown_writes_trigger(24)
    options.set_level_zero_stop_writes_trigger(36)
    options.set_bytes_per_sync(1 << 20)
    options.set_max_log_file_size(1 << 20)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    if not path.parent.is_dir():
        raise StorageError(f"cannot open the state in {path}: the directory above it does not exist")
    access = rocksdict.AccessType.read_only(False) if read_only else rocksdict.AccessType.read_write()
    try:
        return rocksdict.Rdict(str(path), options, access_type=access)
    except Exception as error:
        raise storage_error("open", path, error) from error


def _walk(iterator: rocksdict.RdictIter, start: bytes, end: bytes, limit: int | None, path: Path) -> Iterator[tuple[bytes, bytes]]:
    left = -1 if limit is None else limit
    try:
        iterator.seek(start)
        while left and iterator.valid():
            key = iterator.key()
            if key >= end:
                return
            yield key, iterator.value()
            left -= 1
            iterator.next()
        # An iterator that meets a damaged block ends as if there were no more rows; only its status tells.
        iterator.status()
    except Exception as error:
        raise storage_error("read", path, error) from error


def _walk_backwards(
    iterator: rocksdict.RdictIter, start: bytes, end: bytes, limit: int | None, path: Path
) -> Iterator[tuple[bytes, bytes]]:
    left = -1 if limit is None else limit
    try:
        iterator.seek_for_prev(end)
        if iterator.valid() and iterator.key() == end:
            iterator.prev()
        while left and iterator.valid():
            key = iterator.key()
            if key < start:
                return
            yield key, iterator.value()
            left -= 1
            iterator.prev()
        iterator.status()
    except Exception as error:
        raise storage_error("read", path, error) from error


def _verify(iterator: rocksdict.RdictIter, path: Path) -> None:
    """Visit every row: RocksDB compares the checksum of each block that it reads."""
    try:
        iterator.seek_to_first()
        count, valid, step = 0, iterator.valid, iterator.next
        while valid():
            step()
            count += 1
            if count % _PAGE_ROWS == 0:
                time.sleep(0)
        iterator.status()
    except Exception as error:
        raise storage_error("read", path, error) from error


def _count(iterator: rocksdict.RdictIter, start: bytes, end: bytes, path: Path) -> int:
    count = 0
    try:
        iterator.seek(start)
        while iterator.valid() and iterator.key() < end:
            count += 1
            if count % _PAGE_ROWS == 0:
                time.sleep(0)  # lets a thread that waits for the GIL have it now, rather than after the switch interval
            iterator.next()
        iterator.status()
    except Exception as error:
        raise storage_error("read", path, error) from error
    return count
