"""A snapshot that arrives from a peer: the staging area in which its files are put together, verified and made durable.

::

    part-<name>/OFFER       what was offered: name, position and files
    part-<name>/PROGRESS    which stretches of the files have arrived, each with a checksum
    part-<name>/data/       the files

What always holds: `finish` succeeds only when every file has the checksum that was offered and is durable. A transfer that was
interrupted goes on where it was: what has arrived is kept over a restart, and files that a newer checkpoint has in common with an
older one are not fetched again. What PROGRESS says is believed only as far as the bytes bear it out.

After an error of the disk nothing that was staged is believed: the system may go on showing what the disk does not hold, and a second
sync of the same file would succeed without writing it. Without its OFFER a staging area is nothing, so it loses it before the first of
its files is synced, and as soon as anything else fails there.

What is not here: which snapshot is staged and what becomes of it (`raftkv.storage.checkpoint`), and where the bytes come from.
"""

from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import google_crc32c
import msgspec
from msgspec import Struct

from raftkv.codec.envelope import Damaged, UnknownVersion, unwrap, wrap
from raftkv.codec.peer import FileInfo
from raftkv.errors import Corrupt, DiskFull, ProtocolError, StorageError, Unavailable
from raftkv.raft.types import SnapshotMeta
from raftkv.storage.disk import Disk, File, read_file, replace_file

OFFER_MAGIC: Final = b"RKVOFFER"
OFFER_VERSION: Final = 1
MAX_OFFER_BYTES: Final = 64 << 20
MAX_PROGRESS_BYTES: Final = 64 << 20
MAX_FILES: Final = 100_000
READ_BYTES: Final = 1 << 20

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_PROGRESS: Final = struct.Struct("<IQQI")


class Offer(Struct, frozen=True, array_like=True):
    """The content of OFFER."""

    name: str
    meta: SnapshotMeta
    files: tuple[FileInfo, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Offer)


class Staging:
    """A snapshot that arrives. `write` may be called from several threads at once.

    Args:
        disk, path: where; the directory holds what has arrived before, or nothing.
        offer: what is to arrive.
        moved: called again and again while a long step goes on, from the thread that takes it: the disk does not hang.
    """

    def __init__(self, disk: Disk, path: str, offer: Offer, moved: Callable[[], None]) -> None:
        self.path = path
        self.offer = offer
        self.finished = False
        self._disk = disk
        self._moved = moved
        self._lock = threading.Lock()
        self._closed = False
        self._superseded = False
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
            Unavailable: the staging area was closed.
            StorageError: the disk failed; nothing of what was staged is used again.
        """
        if not 0 <= file < len(self.offer.files) or not 0 <= offset <= offset + len(data) <= self.offer.files[file].size:
            raise ProtocolError(f"a chunk for file {file} at {offset} does not belong to the snapshot {self.offer.name}")
        with self._lock:
            self._check_open()
            with condemning(self._disk, self.path):
                with contextlib.closing(self._open_data(file)) as handle:
                    handle.write_at(offset, data)
                self._note(file, offset, len(data), google_crc32c.value(data))

    def finish(self) -> None:
        """Verify every file against its checksum and make all of it durable. Blocks. Nothing can be written afterwards, and only
        `install` or `discard` has a use for what is there.

        Raises:
            Corrupt: a file differs from what was offered, or is not complete; it will be fetched again by the next transfer.
            Unavailable: the staging area was closed.
            DiskFull: no space to make it durable; the next transfer fetches all of it.
            StorageError: the disk failed; nothing of what was staged is used again.
        """
        with self._lock:
            self._check_open()
            with condemning(self._disk, self.path):
                for number, info in enumerate(self.offer.files):
                    with contextlib.closing(self._open_data(number)) as handle:
                        self._verify(number, info, handle)
            self._closed = True
            _disown(self._disk, self.path)
            for number in range(len(self.offer.files)):
                with contextlib.closing(self._open_data(number)) as handle:
                    handle.sync()
                self._moved()
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

    def supersede(self) -> None:
        """Close it: from now on its directory may be that of another transfer of the same snapshot."""
        with self._lock:
            self._superseded = self._closed = True
            self._progress.close()

    def discard(self) -> None:
        """Remove it from disk, unless another has taken its place. Blocks. Idempotent."""
        with self._lock:
            self._closed = True
            self._progress.close()
            if not self._superseded:
                self._disk.remove_tree(self.path)

    def whole(self) -> Iterator[tuple[FileInfo, str]]:
        """The files of which everything has arrived, and where they are."""
        for number, info in enumerate(self.offer.files):
            if info.size and self._arrived[number] == [(0, info.size)]:
                yield info, self._data_path(number)

    def _verify(self, number: int, info: FileInfo, handle: File) -> None:
        if handle.size() == info.size and checksum(handle, 0, info.size, self._moved) == info.crc:
            return
        # Emptied, so that after a restart nothing of it passes for verified.
        handle.truncate(0)
        self._arrived[number] = []
        raise Corrupt(f"{self._data_path(number)} differs from what was offered; it will be fetched again")

    def _note(self, file: int, offset: int, size: int, crc: int) -> None:
        self._progress.write_at(self._progress_bytes, _PROGRESS.pack(file, offset, size, crc))
        self._progress_bytes += _PROGRESS.size
        self._arrived[file] = _merge(self._arrived[file], offset, offset + size)

    def _load_progress(self) -> None:
        """Believe what was noted as far as the bytes are there: after a power loss some may not be."""
        noted = self._progress.read_at(0, min(self._progress.size(), MAX_PROGRESS_BYTES))
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
            return handle.size() >= offset + size and checksum(handle, offset, size, self._moved) == crc
        finally:
            handle.close()

    def _open_data(self, number: int) -> File:
        return _open_or_create(self._disk, self._data_path(number))

    def _data_path(self, number: int) -> str:
        return f"{self.path}/data/{self.offer.files[number].name}"

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"the snapshot {self.offer.name} is no longer being received")


def check_offer(offer: Offer) -> None:
    names = [info.name for info in offer.files]
    if not all(_NAME.fullmatch(name) for name in (offer.name, *names)) or len(names) > MAX_FILES:
        raise ProtocolError("a snapshot was offered with names that no snapshot has")
    if len({name.lower() for name in names}) != len(names):
        raise ProtocolError(f"the snapshot {offer.name} was offered with the same file twice")
    if any(info.size < 0 for info in offer.files):
        raise ProtocolError(f"the snapshot {offer.name} was offered with a file of negative size")


def store_offer(disk: Disk, path: str, offer: Offer) -> None:
    """Make the directory at `path` the staging area of `offer`, durably."""
    replace_file(disk, f"{path}/OFFER", wrap(OFFER_MAGIC, OFFER_VERSION, _encoder.encode(offer)))


def load_offer(disk: Disk, path: str) -> Offer | None:
    """What `path` is the staging area of; None when nothing of it can be used."""
    file = f"{path}/OFFER"
    if not disk.exists(file) or not disk.exists(f"{path}/data"):
        return None
    try:
        offer = _decoder.decode(unwrap(OFFER_MAGIC, OFFER_VERSION, read_file(disk, file, MAX_OFFER_BYTES)))
        check_offer(offer)
    except (Damaged, ValueError, RecursionError, UnknownVersion, Corrupt, ProtocolError):
        return None
    return offer


def _disown(disk: Disk, path: str) -> None:
    """From now on the staging area at `path` is nothing, to this process and to the next. It need not be durable: what is there after
    a loss of power was read from the medium."""
    if disk.exists(f"{path}/OFFER"):
        disk.unlink(f"{path}/OFFER")


@contextlib.contextmanager
def condemning(disk: Disk, path: str) -> Iterator[None]:
    """After an error of the disk in here nobody knows what the files of the staging area at `path` hold. A lack of space, and bytes
    that are not those that were offered, are not such errors."""
    try:
        yield
    except (DiskFull, Corrupt):
        raise
    except StorageError:
        with contextlib.suppress(StorageError):  # the first error stops the node, whatever else fails
            _disown(disk, path)
        raise


def take_over(disk: Disk, path: str, staging: Staging, moved: Callable[[], None]) -> None:
    """Move what another snapshot has in common with `staging` there."""
    offer = load_offer(disk, path)
    if offer is None:
        return
    wanted = {info: number for number, info in enumerate(staging.offer.files)}
    other = Staging(disk, path, offer, moved)
    other.close()
    for info, source in other.whole():
        if info in wanted:
            staging.adopt(wanted[info], source)


def _open_or_create(disk: Disk, path: str) -> File:
    return disk.open(path) if disk.exists(path) else disk.create(path)


def nobody_waits() -> None:
    """For a step of which nobody wants to know that it moves."""


def checksum(file: File, offset: int, size: int, moved: Callable[[], None] = nobody_waits) -> int:
    """The CRC32C of a stretch of `file`; `moved` is called after each piece of it."""
    crc = 0
    while size > 0:
        data = file.read_at(offset, min(size, READ_BYTES))
        if not data:
            break
        crc = google_crc32c.extend(crc, data)
        moved()
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
