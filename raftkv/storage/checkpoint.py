"""The state directory: the live store, checkpoints of it, and the switch to a snapshot that has arrived.

::

    state/CURRENT                 names the live generation, the snapshot that it came from, if it did, and its fence, if it has one
    state/gen-00000001/           the files of the live store
    state/snap-<name>/            a checkpoint that is being sent; gone after a restart
    state/part-<name>/            a snapshot that arrives: see `raftkv.storage.staging`

What always holds: CURRENT is replaced atomically and is the only thing that decides which state is live, so a crash at any point
leaves the old state or the new one, and what else lies about is removed at the next start. A snapshot takes the place of the live
state only after every file has been compared with its checksum and made durable, and after the position inside it has been
compared with what was offered. A fence belongs to the generation that it was put up for: whatever happens, either the fenced state is
live and known to be fenced, or another one is live. The live store never shares a file that anybody writes to: checkpoints are hard
links of files that never change. Nobody is offered a checkpoint that cannot be read, or that differs from an earlier one where it
must not.

What is not here: when a checkpoint is made, sent or installed. Files are touched through `Disk`, except by the engine itself.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from os import urandom
from pathlib import PurePosixPath
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from raftkv.codec.envelope import Damaged, UnknownVersion, unwrap, wrap
from raftkv.codec.peer import FileInfo
from raftkv.errors import Busy, Corrupt, DirectoryInUse, DiskFull, InvariantBroken, StateDamaged, StorageError, UnknownFormat
from raftkv.kv.store import Rows, Store
from raftkv.raft.types import SnapshotMeta
from raftkv.storage.damage import give_up_aside
from raftkv.storage.disk import Disk, read_file, replace_file
from raftkv.storage.staging import Offer, Staging, check_offer, checksum, condemning, load_offer, nobody_waits, store_offer, take_over

CURRENT_MAGIC: Final = b"RKVSTATE"
FORMAT_VERSION: Final = 1
MAX_CURRENT_BYTES: Final = 64 << 20
SPARE_BYTES: Final = 64 << 20
"""Space that must be left on the disk beyond a snapshot, for the log to go on."""

_GENERATION: Final = re.compile(r"gen-[0-9]{8,18}")


class Engine(Protocol):
    """What makes stores in directories. Paths are relative to the root of the disk."""

    def open(self, path: str) -> Store:
        """The store in the directory `path`; an empty one if there is nothing. The directory exists."""

    def inspect(self, path: str) -> AbstractContextManager[Rows]:
        """The rows of a store that nobody has open, changing nothing that matters. All of them have been read once, so they can be."""

    def portable(self, name: str) -> bool:
        """Whether the file `name` of a store's directory is part of the state, rather than a lock or a log of messages."""


class Current(Struct, frozen=True, array_like=True):
    """The content of CURRENT. `installed` is the snapshot that the generation came from, None if it began empty. `fenced` says why
    what is in it is not to be served, if so."""

    generation: str
    installed: SnapshotMeta | None = None
    fenced: str | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Current)


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
        # Only for as long as CURRENT takes: a fence must not wait until a checkpoint of the wrong state has been made.
        self._switching = threading.Lock()
        self._staging: Staging | None = None
        self._checksums: dict[tuple[str, str, int], int] = {}
        # Names that a killed process left may be known to the running system alone: they are made durable before anything is built
        # on them, or removed because of them.
        disk.mkdir(path)
        disk.sync_directory(path.rpartition("/")[0])
        disk.sync_directory(path)
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

    @property
    def generation(self) -> str:
        """The live generation."""
        return self._current.generation

    @property
    def fenced(self) -> str | None:
        """Why the live state is not to be served, if it was fenced."""
        return self._current.fenced

    def fence(self, generation: str, reason: str) -> None:
        """Let every later start know that the state of `generation` is wrong; only an installed snapshot ends that. Blocks. Does
        nothing when that generation is not live any more.

        Raises:
            DiskFull: no space; nothing has changed.
            StorageError: the disk failed.
        """
        with self._switching:
            if generation == self._current.generation:
                self._switch(Current(generation, self._current.installed, reason))

    def checkpoint(self) -> StateCheckpoint:
        """A durable checkpoint of the live store. Blocks: everything in memory is flushed, every row and every file is read.

        A checkpoint shares the tables of the live store, so rot in it is rot in the state: nobody could use it, nor any later one.

        Raises:
            DiskFull: no space; nothing is left of it.
            StateDamaged: something has rotted.
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

    def stage(
        self, name: str, meta: SnapshotMeta, files: Sequence[FileInfo], moved: Callable[[], None] = nobody_waits
    ) -> Staging:
        """The staging area for a snapshot, with what has arrived of it before, or of another one with files in common. Blocks.

        Only one snapshot is staged at a time: what was staged before is closed. `moved` is called, from whatever thread, while this or
        a long step of the staging area goes on.

        Raises:
            ProtocolError: the offer cannot be one.
            DiskFull: there is not enough space for all of it.
            StorageError: the disk failed; nothing of what was staged is used again.
        """
        offer = Offer(name, meta, tuple(files))
        check_offer(offer)
        with self._lock:
            return self._stage(name, offer, moved)

    def _stage(self, name: str, offer: Offer, moved: Callable[[], None]) -> Staging:
        if self._staging is not None:
            self._staging.supersede()
        path = f"{self._path}/part-{name}"
        if load_offer(self._disk, path) != offer:
            self._disk.remove_tree(path)
            self._disk.mkdir(path)
            self._disk.mkdir(f"{path}/data")
            store_offer(self._disk, path, offer)
        with condemning(self._disk, path):
            staging = Staging(self._disk, path, offer, moved)
        for other in self._parts():
            if other != path:
                with condemning(self._disk, other):
                    take_over(self._disk, other, staging, moved)
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
        with self._switching:
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

    def give_up_damaged(self) -> bool:
        """Remove a damaged state that was set aside, for its space. Blocks. Returns whether there was one.

        Raises:
            StorageError: not all of it could be removed.
        """
        return give_up_aside(self._disk)

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
            current = _decoder.decode(unwrap(CURRENT_MAGIC, FORMAT_VERSION, read_file(self._disk, path, MAX_CURRENT_BYTES)))
            if not _GENERATION.fullmatch(current.generation):
                raise Damaged(f"it names the generation {current.generation[:40]!r}")
            return current
        except (Damaged, Corrupt, ValueError, RecursionError) as error:
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
                stale |= name.startswith("snap-") or (name.startswith("part-") and load_offer(self._disk, path) is None)
            if stale:
                self._disk.remove_tree(path)
        self._checksums = {key: crc for key, crc in self._checksums.items() if key[0] == self._current.generation}

    def _parts(self) -> list[str]:
        return [f"{self._path}/{name}" for name in self._disk.list(self._path) if name.startswith("part-")]

    def _describe(self, directory: str, name: str) -> FileInfo:
        """A file of a checkpoint. Tables never change: one that is not what it was for an earlier checkpoint has rotted."""
        file = self._disk.open(f"{directory}/{name}")
        try:
            size = file.size()
            crc = checksum(file, 0, size)
        finally:
            file.close()
        if name.endswith(".sst") and self._checksums.setdefault((self._current.generation, name, size), crc) != crc:
            raise StateDamaged(f"{directory}/{name} has changed since an earlier checkpoint: {self._way_back}")
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
