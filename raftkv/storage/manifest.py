"""The manifest: which segments the log consists of, where it begins, and whether the node is suspect.

What always holds:

- It is replaced as a whole, atomically and durably (`disk.replace_file`), so a damaged one is rot and never a crash.
- A segment is listed before the first group is written to it, and delisted before its file is removed. So a listed file that is
  missing is lost, and an unlisted one holds nothing that matters.
- For every segment but the last it says where the sound groups end and what the checksum of the last one is. What stands in the
  file after that is dead: the remains of a group that recovery has given up, for example.
- `suspect` outlives restarts: it is cleared only when the node is told that it knows again what it may have promised.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from raftkv.codec.envelope import Damaged, UnknownVersion, unwrap, wrap
from raftkv.errors import Corrupt, StorageError
from raftkv.raft.types import Index, SnapshotMeta
from raftkv.storage.disk import Disk, read_file, replace_file
from raftkv.storage.recovery import WAY_BACK

MANIFEST_MAGIC = b"raftkvMF"
MANIFEST_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20


_Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class SegmentEntry(Struct, frozen=True, array_like=True):
    """One segment. `capacity` is the length it was created with. `end` is the offset where its sound groups end, `number` and
    `checksum` those of the last of them; all three are 0 for the last segment, which is still written to."""

    id: _Number
    capacity: _Number
    end: _Number = 0
    number: _Number = 0
    checksum: _Number = 0


class Manifest(Struct, frozen=True, array_like=True):
    """The log of one group: `begin` is the position after which it begins, `segments` its files, oldest first, never none.
    `suspect` is the largest index that may have been acknowledged and lost, or None."""

    group: int
    begin: SnapshotMeta
    segments: tuple[SegmentEntry, ...]
    suspect: Index | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Manifest)


def store_manifest(disk: Disk, path: str, manifest: Manifest) -> None:
    """Make `manifest` the durable one. Errors as `disk.replace_file`."""
    replace_file(disk, path, wrap(MANIFEST_MAGIC, MANIFEST_VERSION, _encoder.encode(manifest)))


def load_manifest(disk: Disk, path: str) -> Manifest:
    """The manifest at `path`, which exists.

    Raises:
        Corrupt: it is damaged.
        StorageError: a newer program wrote it, or the disk failed.
    """
    try:
        manifest = _decoder.decode(unwrap(MANIFEST_MAGIC, MANIFEST_VERSION, read_file(disk, path, MAX_MANIFEST_BYTES)))
    except UnknownVersion as error:
        raise StorageError(f"{path}: {error}. Start the version of raftkv that wrote it, or a newer one") from error
    except (Damaged, ValueError, RecursionError) as error:
        raise Corrupt(f"{path}: {error}. {WAY_BACK}") from error
    ids = [segment.id for segment in manifest.segments]
    if not ids or ids != sorted(set(ids)):
        raise Corrupt(f"{path}: it lists the segments {ids}, which is not a growing row of at least one. {WAY_BACK}")
    return manifest
