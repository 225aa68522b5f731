"""A model of the state store, for tests and simulation: what RocksDB promises, and nothing more.

It keeps its rows in memory and its flushed rows in one file of a `Disk`, so that the same code that looks after RocksDB's
directories looks after its own. A crash loses a suffix of the batches that were not flushed, possibly none and possibly all
(RocksDB flushes when it likes, too), and never a batch out of the middle. It can be told to refuse writes for a while, as RocksDB
does under load.

Costs grow with the number of rows; it is not for production.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from pathlib import PurePath
from random import Random
from typing import Final

import msgspec
from google_crc32c import value as crc32c

from raftkv.errors import Busy, StateDamaged, StorageError
from raftkv.kv.store import Ranges, Writes
from raftkv.storage.disk import Disk, read_file, replace_file

ROWS_FILE: Final = "ROWS"
MAX_FILE_BYTES: Final = 1 << 30

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[bytes, bytes])


class ModelView:
    """Rows at one instant."""

    def __init__(self, rows: dict[bytes, bytes], keys: list[bytes]) -> None:
        self._rows = rows
        self._keys = keys
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return self._rows.get(key)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        keys = self._keys[bisect.bisect_left(self._keys, start) : bisect.bisect_left(self._keys, end)]
        if backwards:
            keys.reverse()
        return iter([(key, self._rows[key]) for key in keys[:limit]])

    def count(self, start: bytes, end: bytes) -> int:
        self._check()
        return max(bisect.bisect_left(self._keys, end) - bisect.bisect_left(self._keys, start), 0)

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise StorageError("the rows were used after they were closed")


class ModelStore(ModelView):
    """The model.

    Args:
        disk: where its flushed rows are.
        path: its directory there; made if it does not exist.
        rng: if given, it flushes by itself now and then, and `refusals` of its writes are refused.
        refusals: the share of writes that are refused with Busy.

    Raises:
        StateDamaged: its file is not what was written.
    """

    def __init__(self, disk: Disk, path: str, rng: Random | None = None, refusals: float = 0.0) -> None:
        self._disk = disk
        self._path = path
        self._rng = rng
        self._refusals = refusals
        disk.mkdir(path)
        disk.sync_directory(path)  # RocksDB does that, too, when it begins a manifest at each start: a name may not be durable yet
        self._flushed = _load(disk, f"{path}/{ROWS_FILE}")
        self._unflushed: list[tuple[Writes, tuple[tuple[bytes, bytes], ...]]] = []
        super().__init__(dict(self._flushed), sorted(self._flushed))

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        self._check()
        if self._rng is not None and self._rng.random() < self._refusals:
            raise Busy("the model store refuses a write, as RocksDB does under load")
        batch = dict(writes), tuple(clear)
        self._unflushed.append(batch)
        _apply(self._rows, self._keys, *batch)
        if self._rng is not None and self._rng.random() < 0.02:
            self.flush()

    def view(self) -> ModelView:
        self._check()
        return ModelView(dict(self._rows), list(self._keys))

    def flush(self) -> None:
        self._check()
        self._save(len(self._unflushed))

    def checkpoint(self, directory: PurePath) -> None:
        self._check()
        path = str(PurePath(self._path).parent / directory) if not directory.is_absolute() else str(directory)
        if self._disk.exists(path):
            raise StorageError(f"cannot checkpoint to {path}: it exists")
        self._disk.mkdir(path)
        _store(self._disk, f"{path}/{ROWS_FILE}", self._rows)

    def crash(self, rng: Random) -> None:
        """Stop as a crash does: some of the batches written since the last flush are lost, the newest first. The store is closed,
        and what is left is found by opening another one. `unflushed` says then how many were lost."""
        self._save(rng.randint(0, len(self._unflushed)))
        self._closed = True

    @property
    def unflushed(self) -> int:
        """How many batches a crash may lose."""
        return len(self._unflushed)

    def _save(self, batches: int) -> None:
        if not batches:
            return
        flushed = dict(self._flushed)
        for writes, clear in self._unflushed[:batches]:
            _apply(flushed, None, writes, clear)
        _store(self._disk, f"{self._path}/{ROWS_FILE}", flushed)
        self._flushed = flushed  # only now: what a full disk refused has to be flushed another time
        del self._unflushed[:batches]


class ModelEngine:
    """Makes model stores, for `storage.checkpoint`. See `ModelStore` for the arguments."""

    def __init__(self, disk: Disk, rng: Random | None = None, refusals: float = 0.0) -> None:
        self._disk = disk
        self._rng = rng
        self._refusals = refusals

    def open(self, path: str) -> ModelStore:
        return ModelStore(self._disk, path, self._rng, self._refusals)

    @contextlib.contextmanager
    def inspect(self, path: str) -> Iterator[ModelView]:
        yield ModelStore(self._disk, path)

    def portable(self, name: str) -> bool:
        return name == ROWS_FILE


def _apply(rows: dict[bytes, bytes], keys: list[bytes] | None, writes: Writes, clear: Ranges) -> None:
    """Do one batch to `rows`, and to their sorted `keys`."""
    for start, end in clear:
        for key in [key for key in rows if start <= key < end]:
            del rows[key]
        if keys is not None:
            del keys[bisect.bisect_left(keys, start) : bisect.bisect_left(keys, end)]
    for key, value in writes.items():
        if value is not None:
            if keys is not None and key not in rows:
                bisect.insort(keys, key)
            rows[key] = value
        elif rows.pop(key, None) is not None and keys is not None:
            del keys[bisect.bisect_left(keys, key)]


def _store(disk: Disk, path: str, rows: dict[bytes, bytes]) -> None:
    data = _encoder.encode(rows)
    replace_file(disk, path, crc32c(data).to_bytes(4, "big") + data)


def _load(disk: Disk, path: str) -> dict[bytes, bytes]:
    if not disk.exists(path):
        return {}
    data = read_file(disk, path, MAX_FILE_BYTES)
    if data[:4] != crc32c(data[4:]).to_bytes(4, "big"):
        raise StateDamaged(f"{path} does not hold what was written")
    return _decoder.decode(data[4:])
