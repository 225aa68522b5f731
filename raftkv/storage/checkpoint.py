"""The state directory: the live store, checkpoints of it, and snapshots that arrive from a peer.

::

    state/CURRENT                 names the live generation, and the snapshot that it came from, if it did
    state/gen-00000001/           the files of the live store
    state/snap-<name>/            a checkpoint that is being sent; gone after a restart
    state/part-<name>/OFFER       a snapshot that arrives: its name, position and files
    state/part-<name>/PROGRESS    which stretches of its files have arrived, each with a checksum
    state/part-<name>/data/       its files

What always holds: CURRENT is replaced atomically and is the only thing that decides which state is live, so a crash at any point
leaves the old state or the new one, and what else lies about is removed at the next start. A snapshot takes the place of the live
state only after every file has been compared with its checksum and made durable, and after the position inside it has been
compared with what was offered. The live store never shares a file that anybody writes to: checkpoints are hard links of files that
never change.

A transfer that was interrupted goes on where it was: what has arrived is kept over a restart, and files that a newer checkpoint
has in common with an older one are not fetched again.

What is not here: when a checkpoint is made, sent or installed. Files are touched through `Disk`, except by the engine itself.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from os import urandom
from pathlib import PurePosixPath
from typing import Final, Protocol, TypeVar

import google_crc32c
import msgspec
from msgspec import Struct

from raftkv.codec.envelope import Damaged, UnknownVersion, unwrap, wrap
from raftkv.codec.peer import FileInfo
from raftkv.errors import Busy, Corrupt, DirectoryInUse, DiskFull, InvariantBroken, ProtocolError, StateDamaged, StorageError, UnknownFormat
from raftkv.kv.store import Rows, Store
from raftkv.raft.types import SnapshotMeta
from raftkv.storage.disk import Disk, File, read_file, replace_file

CURRENT_MAGIC: Final = b"RKVSTATE"
OFFER_MAGIC: Final = b"RKVOFFER"
FORMAT_VERSION: Final = 1

READ_BYTES: Final = 1 << 20
MAX_RECORD_BYTES: Final = 64 << 20
MAX_FILES: Final = 100_000
SPARE_BYTES: Final = 64 << 20
"""Space that must be left on the disk beyond a snapshot, for the log to go on."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_PROGRESS: Final = struct.Struct("<IQQI")


class Engine(Protocol):
    """What makes stores in directories. Paths are relative to the root of the disk."""

    def open(self, path: str) -> Store:
        """The store in the directory `path`; an empty one if there is nothing. The directory exists."""

    def inspect(self, path: str) -> AbstractContextManager[Rows]:
        """The rows of a store that nobody has open, changing nothing that matters."""

    def portable(self, name: str) -> bool:
        """Whether the file `name` of a store's directory is part of the state, rather than a lock or a log of messages."""


class Current(Struct, frozen=True, array_like=True):
    """The content of CURRENT. `installed` is the snapshot that the generation came from, None if it began empty."""

    generation: str
    installed: SnapshotMeta | None = None


class Offer(Struct, frozen=True, array_like=True):
    """The content of OFFER."""

    name: str
    meta: SnapshotMeta
    files: tuple[FileInfo, ...]


_Record = TypeVar("_Record")

_encoder = msgspec.msgpack.Encoder()


class StateDirectory:
    """The state directory, open. One per node; its methods may be called from any thread.

    Args:
        disk: the data directory.
        engine: makes the stores.
        meta_of: reads from the rows of a state where it stands, and the configuration in force there.
        path: the state directory, relative to the data directory.
        token: makes names of checkpoints unique among all nodes and starts.

    Raises:
        StateDamaged: CURRENT or the live store is damaged.
        UnknownFormat: a newer program wrote CURRENT.
        StorageError: the directory cannot be read or written.
    """

    def __init__(
        self,
        disk: Disk,
        engine: Engine,
        meta_of: Callable[[Rows], SnapshotMeta],
        path: str = "state",
        token: Callable[[], str] = lambda: urandom(8).hex(),
    ) -> None:
        self._disk = disk
        self._engine = engine
        self._meta_of = meta_of
        self._path = path
        self._token = token
        self._lock = threading.Lock()
        self._staging: Staging | None = None
        self._checksums: dict[tuple[str, str, int], int] = {}
        if not disk.exists(path):
            disk.mkdir(path)
            disk.sync_directory(path.rpartition("/")[0])
        disk.sync_directory(path)  # a process that was killed may have left names that only the running system knows
        self._current = self._load_current()
        self._clean_up()
        self._store = self._open(self._current.generation)

    @property
    def store(self) -> Store:
        """The live store."""
        return self._store

    @property
    def installed(self) -> SnapshotMeta | None:
        """The snapshot that the live state came from; the log must begin at it or after it."""
        return self._current.installed

    def checkpoint(self) -> StateCheckpoint:
        """A durable checkpoint of the live store. Blocks: everything in memory is flushed and every file is read once.

        Raises:
            DiskFull: no space; nothing is left of it.
            StorageError: the store or the disk failed.
        """
        with self._lock:
            return self._checkpoint()

    def _checkpoint(self) -> StateCheckpoint:
        self._store.flush()
        name = self._token()
        path = f"{self._path}/snap-{name}"
        try:
            self._store.checkpoint(PurePosixPath(f"snap-{name}"))
            with self._engine.inspect(path) as rows:
                meta = self._meta_of(rows)
            files = tuple(self._describe(path, file) for file in self._disk.list(path) if self._engine.portable(file))
        except DiskFull:
            self._disk.remove_tree(path)
            raise
        return StateCheckpoint(self._disk, path, name, meta, files)

    def stage(self, name: str, meta: SnapshotMeta, files: Sequence[FileInfo]) -> Staging:
        """The staging area for a snapshot, with what has arrived of it before, or of another one with files in common. Blocks.

        Only one snapshot is staged at a time: what was staged before is closed.

        Raises:
            ProtocolError: the offer cannot be one.
            DiskFull: there is not enough space for all of it.
        """
        offer = Offer(name, meta, tuple(files))
        _check_offer(offer)
        with self._lock:
            return self._stage(name, offer)

    def _stage(self, name: str, offer: Offer) -> Staging:
        if self._staging is not None:
            self._staging.close()
        path = f"{self._path}/part-{name}"
        if _load_offer(self._disk, path) != offer:
            self._disk.remove_tree(path)
            self._disk.mkdir(path)
            self._disk.mkdir(f"{path}/data")
            replace_file(self._disk, f"{path}/OFFER", wrap(OFFER_MAGIC, FORMAT_VERSION, _encoder.encode(offer)))
        staging = Staging(self._disk, path, offer)
        for other in self._parts():
            if other != path:
                _take_over(self._disk, other, staging)
                self._disk.remove_tree(other)
        needed = sum(size for _, _, size in staging.missing())
        if needed + SPARE_BYTES > self._disk.free_space():
            raise DiskFull(f"a snapshot of {needed} more bytes does not fit into {self._path}: free some space on this disk")
        self._staging = staging
        return staging

    def install(self, staging: Staging) -> Store:
        """Put a finished staging area in the place of the live store, atomically, and open it. Blocks. The old store is closed.

        Raises:
            Corrupt: the position in the state is not the one that was offered. The old state stays.
            StorageError: the disk failed; after a restart the state is the old one or the new one.
        """
        if not staging.finished:
            raise InvariantBroken(f"the snapshot {staging.offer.name} is to be installed and was not verified")
        with self._lock:
            return self._install(staging)

    def _install(self, staging: Staging) -> Store:
        generation = f"gen-{int(self._current.generation[4:]) + 1:08}"
        target = f"{self._path}/{generation}"
        self._disk.remove_tree(target)
        self._disk.rename(f"{staging.path}/data", target)
        self._disk.sync_directory(staging.path)
        self._disk.sync_directory(self._path)
        try:
            store = self._engine.open(target)
            meta = self._meta_of(store)
            if meta.index != staging.offer.meta.index or meta.term != staging.offer.meta.term:
                store.close()
                raise Corrupt(f"a snapshot was offered for {staging.offer.meta.index} and stands at {meta.index}")
        except Corrupt:
            self._disk.remove_tree(target)
            staging.discard()
            raise
        self._switch(Current(generation, meta))
        old, self._store = self._store, store
        old.close()
        try:
            staging.discard()
            self._clean_up(live_only=True)
        except StorageError:
            # Some systems do not remove what is still being read, as by a long scan. The next start does.
            return store
        return store

    def reopen(self) -> Store:
        """Close the live store, which has failed, and open it again as it was at its last flush. Blocks.

        Raises:
            DiskFull: there is still no space.
            Busy: a long read still holds on to the old one; the same call succeeds later.
            StorageError: it cannot be opened.
        """
        with self._lock:
            self._store.close()
            try:
                self._store = self._open(self._current.generation)
            except DirectoryInUse as error:
                raise Busy(f"the state cannot be opened again yet: {error}") from error
            return self._store

    def free_bytes(self) -> int:
        """The space that is left on the disk."""
        return self._disk.free_space()

    def close(self) -> None:
        """Release the live store. Idempotent."""
        self._store.close()

    def _load_current(self) -> Current:
        path = f"{self._path}/CURRENT"
        if not self._disk.exists(path):
            generations = [name for name in self._disk.list(self._path) if name.startswith("gen-")]
            if generations:
                raise StateDamaged(f"{path} is missing although {generations[0]} is there: {self._way_back}")
            # Named before it is made: the first generation, if it is not there, is an empty one.
            self._switch(Current("gen-00000001"))
            return self._current
        try:
            return _decode(Current, unwrap(CURRENT_MAGIC, FORMAT_VERSION, read_file(self._disk, path, MAX_RECORD_BYTES)))
        except Damaged as error:
            raise StateDamaged(f"{path} is damaged ({error}): {self._way_back}") from error
        except UnknownVersion as error:
            raise UnknownFormat(f"upgrade raftkv: {path} cannot be used; {error}") from error

    @property
    def _way_back(self) -> str:
        return f"restart the node, and the state in {self._path} is fetched from another one"

    def _switch(self, current: Current) -> None:
        replace_file(self._disk, f"{self._path}/CURRENT", wrap(CURRENT_MAGIC, FORMAT_VERSION, _encoder.encode(current)))
        self._current = current

    def _open(self, generation: str) -> Store:
        path = f"{self._path}/{generation}"
        if not self._disk.exists(path):
            if self._current.installed is not None:
                raise StateDamaged(f"{path} is missing although {self._path}/CURRENT names it: {self._way_back}")
            self._disk.mkdir(path)
            self._disk.sync_directory(self._path)
        return self._engine.open(path)

    def _clean_up(self, *, live_only: bool = False) -> None:
        """Remove what is left of checkpoints, of other generations, and of snapshots that cannot be continued."""
        for name in self._disk.list(self._path):
            path = f"{self._path}/{name}"
            stale = name.startswith("gen-") and name != self._current.generation
            if not live_only:
                stale |= name.startswith("snap-") or (name.startswith("part-") and _load_offer(self._disk, path) is None)
            if stale:
                self._disk.remove_tree(path)
        self._checksums = {key: crc for key, crc in self._checksums.items() if key[0] == self._current.generation}

    def _parts(self) -> list[str]:
        return [f"{self._path}/{name}" for name in self._disk.list(self._path) if name.startswith("part-")]

    def _describe(self, directory: str, name: str) -> FileInfo:
        """A file of a checkpoint. Tables never change, so what was read once for an earlier checkpoint is remembered."""
        file = self._disk.open(f"{directory}/{name}")
        try:
            size = file.size()
            key = self._current.generation, name, size
            crc = self._checksums.get(key) if name.endswith(".sst") else None
            if crc is None:
                crc = _checksum(file, 0, size)
            if name.endswith(".sst"):
                self._checksums[key] = crc
        finally:
            file.close()
        return FileInfo(name, size, crc)


class StateCheckpoint:
    """A frozen copy of a store. `name` is unique among the checkpoints of all nodes; `meta` was read from inside it."""

    def __init__(self, disk: Disk, path: str, name: str, meta: SnapshotMeta, files: tuple[FileInfo, ...]) -> None:
        self.name = name
        self.meta = meta
        self.files = files
        self._disk = disk
        self._path = path

    def read(self, file: int, offset: int, size: int) -> bytes:
        """`size` bytes of file number `file` from `offset`; fewer only at its end. Blocks."""
        handle = self._disk.open(f"{self._path}/{self.files[file].name}")
        try:
            return handle.read_at(offset, size)
        finally:
            handle.close()

    def discard(self) -> None:
        """Remove it from disk. Blocks. Idempotent."""
        self._disk.remove_tree(self._path)


class Staging:
    """A snapshot that arrives. `write` may be called from several threads at once."""

    def __init__(self, disk: Disk, path: str, offer: Offer) -> None:
        self.path = path
        self.offer = offer
        self.finished = False
        self._disk = disk
        self._lock = threading.Lock()
        self._closed = False
        self._arrived: list[list[tuple[int, int]]] = [[] for _ in offer.files]
        self._progress = _open_or_create(disk, f"{path}/PROGRESS")
        self._progress_bytes = 0
        self._load_progress()

    def missing(self) -> Sequence[tuple[int, int, int]]:
        """What has not arrived, as (file number, offset, size)."""
        with self._lock:
            return [
                (number, start, end - start)
                for number, info in enumerate(self.offer.files)
                for start, end in _gaps(self._arrived[number], info.size)
            ]

    def write(self, file: int, offset: int, data: bytes) -> None:
        """Keep a chunk. Blocks.

        Raises:
            ProtocolError: there is no such place in the snapshot.
            DiskFull: no space; what has arrived stays.
            StorageError: the disk failed, or the staging area was closed.
        """
        if not 0 <= file < len(self.offer.files) or not 0 <= offset <= offset + len(data) <= self.offer.files[file].size:
            raise ProtocolError(f"a chunk for file {file} at {offset} does not belong to the snapshot {self.offer.name}")
        with self._lock:
            self._check_open()
            handle = self._open_data(file)
            try:
                handle.write_at(offset, data)
            finally:
                handle.close()
            self._note(file, offset, len(data), google_crc32c.value(data))

    def finish(self) -> None:
        """Verify every file against its checksum and make all of it durable. Blocks.

        Raises:
            Corrupt: a file differs from what was offered, or is not complete; it will be fetched again by the next transfer.
            StorageError: the disk failed. A file that it would not make durable will be fetched again, too.
        """
        with self._lock:
            self._check_open()
            for number, info in enumerate(self.offer.files):
                handle = self._open_data(number)
                try:
                    self._verify(number, info, handle)
                    self._make_durable(number, handle)
                finally:
                    handle.close()
            self._disk.sync_directory(f"{self.path}/data")
            self.finished = True

    def adopt(self, number: int, source: str) -> None:
        """Take the whole file at `source` for file `number`, whose name, size and checksum it has."""
        with self._lock:
            info = self.offer.files[number]
            target = self._data_path(number)
            if not self._disk.exists(target):
                self._disk.rename(source, target)
                self._note(number, 0, info.size, info.crc)

    def close(self) -> None:
        """Nothing more will be written. What has arrived stays on disk. Idempotent."""
        with self._lock:
            self._closed = True
            self._progress.close()

    def discard(self) -> None:
        """Remove it from disk. Blocks. Idempotent."""
        self.close()
        self._disk.remove_tree(self.path)

    def whole(self) -> Iterator[tuple[FileInfo, str]]:
        """The files of which everything has arrived, and where they are."""
        for number, info in enumerate(self.offer.files):
            if info.size and self._arrived[number] == [(0, info.size)]:
                yield info, self._data_path(number)

    def _verify(self, number: int, info: FileInfo, handle: File) -> None:
        if handle.size() == info.size and _checksum(handle, 0, info.size) == info.crc:
            return
        self._empty(number, handle)
        raise Corrupt(f"{self._data_path(number)} differs from what was offered; it will be fetched again")

    def _make_durable(self, number: int, handle: File) -> None:
        try:
            handle.sync()
        except StorageError:
            # What is seen of it may never be on the disk, and no later sync would tell.
            self._empty(number, handle)
            raise

    def _empty(self, number: int, handle: File) -> None:
        """Begin a file anew: after this nothing of it passes for verified, nor after a restart."""
        handle.truncate(0)
        self._arrived[number] = []

    def _note(self, file: int, offset: int, size: int, crc: int) -> None:
        self._progress.write_at(self._progress_bytes, _PROGRESS.pack(file, offset, size, crc))
        self._progress_bytes += _PROGRESS.size
        self._arrived[file] = _merge(self._arrived[file], offset, offset + size)

    def _load_progress(self) -> None:
        """Believe what was noted as far as the bytes are there: after a power loss some may not be."""
        noted = self._progress.read_at(0, min(self._progress.size(), MAX_RECORD_BYTES))
        whole = len(noted) - len(noted) % _PROGRESS.size
        for file, offset, size, crc in _PROGRESS.iter_unpack(noted[:whole]):
            if file < len(self.offer.files) and offset + size <= self.offer.files[file].size and self._holds(file, offset, size, crc):
                self._arrived[file] = _merge(self._arrived[file], offset, offset + size)
        self._progress_bytes = whole

    def _holds(self, file: int, offset: int, size: int, crc: int) -> bool:
        if not self._disk.exists(self._data_path(file)):
            return False
        handle = self._open_data(file)
        try:
            return handle.size() >= offset + size and _checksum(handle, offset, size) == crc
        finally:
            handle.close()

    def _open_data(self, number: int) -> File:
        return _open_or_create(self._disk, self._data_path(number))

    def _data_path(self, number: int) -> str:
        return f"{self.path}/data/{self.offer.files[number].name}"

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"the snapshot {self.offer.name} is no longer being received")


def _check_offer(offer: Offer) -> None:
    names = [info.name for info in offer.files]
    if not all(_NAME.fullmatch(name) for name in (offer.name, *names)) or len(names) > MAX_FILES:
        raise ProtocolError("a snapshot was offered with names that no snapshot has")
    if len({name.lower() for name in names}) != len(names):
        raise ProtocolError(f"the snapshot {offer.name} was offered with the same file twice")
    if any(info.size < 0 for info in offer.files):
        raise ProtocolError(f"the snapshot {offer.name} was offered with a file of negative size")


def _load_offer(disk: Disk, path: str) -> Offer | None:
    """What `path` is the staging area of; None when nothing of it can be used."""
    file = f"{path}/OFFER"
    if not disk.exists(file) or not disk.exists(f"{path}/data"):
        return None
    try:
        offer = _decode(Offer, unwrap(OFFER_MAGIC, FORMAT_VERSION, read_file(disk, file, MAX_RECORD_BYTES)))
        _check_offer(offer)
    except (Damaged, UnknownVersion, Corrupt, ProtocolError):
        return None
    return offer


def _take_over(disk: Disk, path: str, staging: Staging) -> None:
    """Move what another snapshot has in common with `staging` there."""
    offer = _load_offer(disk, path)
    if offer is None:
        return
    wanted = {info: number for number, info in enumerate(staging.offer.files)}
    other = Staging(disk, path, offer)
    other.close()
    for info, source in other.whole():
        if info in wanted:
            staging.adopt(wanted[info], source)


def _decode(kind: type[_Record], payload: bytes) -> _Record:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"its content cannot be read: {error}") from error


def _open_or_create(disk: Disk, path: str) -> File:
    return disk.open(path) if disk.exists(path) else disk.create(path)


def _checksum(file: File, offset: int, size: int) -> int:
    crc = 0
    while size > 0:
        data = file.read_at(offset, min(size, READ_BYTES))
        if not data:
            break
        crc = google_crc32c.extend(crc, data)
        offset += len(data)
        size -= len(data)
    return crc


def _merge(arrived: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """Stretches (start, end), sorted and apart, with one more."""
    apart = [(low, high) for low, high in arrived if high < start or low > end]
    for low, high in arrived:
        if high >= start and low <= end:
            start, end = min(start, low), max(end, high)
    return sorted([*apart, (start, end)])


def _gaps(arrived: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """What lies between stretches."""
    place = 0
    for low, high in arrived:
        if place < low:
            yield place, low
        place = high
    if place < size:
        yield place, size
