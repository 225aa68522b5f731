"""One rotten byte in the log of a node that is down, where other nodes can help.

What rots is a record of an entry that counts, in a segment that is no longer written to. The newest segment is spared: a last group that
rots before it was sealed cannot be told from one that was torn. Nothing else of the directory is touched. The log is read with the
classes that the node reads it with, and without its lock, so the node must not run while a byte is changed.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from raftkv.codec.record import RECORD_BYTES, decode_record_header
from raftkv.errors import StorageError
from raftkv.raft.types import Index
from raftkv.storage.disk import OsDisk
from raftkv.storage.manifest import load_manifest
from raftkv.storage.replay import MANIFEST_PATH, Survey, WalSettings, survey_log


def may_rot(directory: Path) -> bool:
    """Whether the log in the data directory `directory` has an entry that may rot. The node may run meanwhile.

    Raises:
        StorageError: the disk failed, or the log changed while it was looked at.
    """
    disk = OsDisk(directory)
    if len(load_manifest(disk, MANIFEST_PATH).segments) == 1:  # the rest is to read all of it
        return False
    with _surveyed(disk) as survey:
        return bool(_places(survey))


def rot(directory: Path, rng: random.Random) -> Index | None:
    """Flip one byte in the middle of a record. The index of its entry, or None if the log has none that may rot.

    Raises:
        StorageError: the disk failed, or the log is damaged already.
    """
    with _surveyed(OsDisk(directory)) as survey:
        places = _places(survey)
        if not places:
            return None
        place = rng.choice(places)
        file = survey.files[place.segment]
        header = decode_record_header(place.segment, place.offset, file.read_at(place.offset, RECORD_BYTES))
        if header is None:
            raise StorageError(f"{file.path} at offset {place.offset}: the record is damaged already")
        at = place.offset + (RECORD_BYTES + header.length) // 2
        [byte] = file.read_at(at, 1)
        file.write_at(at, bytes([byte ^ 1 << rng.randrange(8)]))
        return place.index


def is_suspect(directory: Path) -> bool:
    """Whether the node of `directory` may have promised what it no longer has.

    Raises:
        StorageError: the manifest cannot be read.
    """
    return load_manifest(OsDisk(directory), MANIFEST_PATH).suspect is not None


class _Place(Struct, frozen=True):
    """Where the record of an entry begins."""

    segment: int
    offset: int
    index: Index


@contextlib.contextmanager
def _surveyed(disk: OsDisk) -> Iterator[Survey]:
    survey = survey_log(disk, WalSettings())
    try:
        yield survey
    finally:
        for file in survey.files.values():
            file.close()


def _places(survey: Survey) -> list[_Place]:
    """The entries that may rot: those that count, before the newest segment. None of a log that waits for its repair."""
    first, last = survey.index.first, survey.index.last.index
    if survey.rotten or first > last:
        return []
    newest = survey.manifest.segments[-1].id
    return [
        _Place(stretch.segment, offset, index)
        for stretch in survey.index.locate(first, last)
        if stretch.segment != newest
        for index, offset in enumerate(stretch.offsets, start=stretch.first)
    ]
