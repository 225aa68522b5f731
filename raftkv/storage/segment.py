"""Segment files: creating one, checking its header, and reading its groups in order until something is not sound.

A segment is created with all of its space reserved and reading as zeroes, durably with its name, before anything is written to it.
It is never used again for another part of the log: old bytes cannot come back as records (and would not pass, see
`raftkv.codec.record`).

Reading takes memory for one group and a window of the file, never for a file. What to do about a place that is not sound is decided
in `raftkv.storage.recovery`; here it is only described.
"""

from __future__ import annotations

from collections.abc import Iterator

import google_crc32c
from msgspec import Struct

from raftkv.codec.record import (
    ALIGNMENT,
    DATA_OFFSET,
    FORMAT_VERSION,
    GROUP_BYTES,
    RECORD_BYTES,
    SECTOR_BYTES,
    SEGMENT_HEADER_BYTES,
    Damage,
    GroupHead,
    Located,
    RecordType,
    SegmentHeader,
    Surveyed,
    decode_group,
    decode_head,
    decode_record_header,
    decode_segment_header,
    encode_segment_header,
    find_head,
    missing_piece,
    survey_group,
)
from raftkv.errors import DiskFull
from raftkv.raft.types import Entry, EntryId, EntryKind, Index
from raftkv.storage.disk import Disk, File
from raftkv.storage.recovery import Beyond, HeaderFound, Next, RotAction, RotFacts, decide_rot

_CHUNK_BYTES = 1 << 20
_ZEROES = bytes(_CHUNK_BYTES)
_SUFFIX = ".log"


def segment_path(directory: str, id_: int) -> str:
    """Where segment `id_` is."""
    return f"{directory}/{id_:012d}{_SUFFIX}"


def segment_id(name: str) -> int | None:
    """The id in the name of a segment file, or None if it is not such a name."""
    stem = name.removesuffix(_SUFFIX)
    return int(stem) if stem != name and len(stem) >= 12 and stem.isascii() and stem.isdigit() else None


def create_segment(disk: Disk, directory: str, header: SegmentHeader) -> File:
    """A new segment file with its header and its space, durable.

    Raises:
        DiskFull: there is no space for it. Nothing is left of it.
        StorageError: the disk failed.
    """
    path = segment_path(directory, header.id)
    file = _create_blank(disk, path, header.capacity)
    try:
        file.write_at(0, encode_segment_header(header))
        file.sync()
        disk.sync_directory(directory)
    except DiskFull:
        discard_file(disk, path, file)
        raise
    return file


def create_spare(disk: Disk, path: str, capacity: int) -> None:
    """A blank file at `path` that can become a segment (`adopt_spare`). It is nothing until then, and need not survive a crash.

    Raises:
        DiskFull: there is no space for it. Nothing is left of it.
        StorageError: the disk failed.
    """
    file = _create_blank(disk, path, capacity)
    try:
        file.sync()
    except DiskFull:
        discard_file(disk, path, file)
        raise
    file.close()


def adopt_spare(disk: Disk, path: str, directory: str, header: SegmentHeader) -> File:
    """Make the spare at `path` the segment of `header`, durable, without a need for space.

    Raises:
        StorageError: the disk failed.
    """
    target = segment_path(directory, header.id)
    file = disk.open(path)
    file.write_at(0, encode_segment_header(header))
    file.sync()
    file.close()
    disk.rename(path, target)
    disk.sync_directory(directory)
    return disk.open(target)


def discard_file(disk: Disk, path: str, file: File) -> None:
    """Close and remove a file that nothing refers to."""
    file.close()
    disk.unlink(path)
    disk.sync_directory(path.rpartition("/")[0])


def _create_blank(disk: Disk, path: str, capacity: int) -> File:
    if disk.exists(path):
        disk.unlink(path)
    file = disk.create(path)
    try:
        file.preallocate(capacity)
    except DiskFull:
        discard_file(disk, path, file)
        raise
    return file


def read_header(file: File) -> SegmentHeader | None:
    """The header of a segment file, or None if it is not sound."""
    return decode_segment_header(file.read_at(0, SEGMENT_HEADER_BYTES))


def check_header(found: SegmentHeader | None, expected: SegmentHeader, *, first: bool) -> HeaderFound:
    """Compare a header with what the manifest and the segment before it call for. Before the `first` segment there is none that
    could say which numbers it begins with."""
    if found is None:
        return HeaderFound.ILLEGIBLE
    if found.version != FORMAT_VERSION:
        return HeaderFound.OTHER_VERSION
    same_file = (found.id, found.group, found.capacity) == (expected.id, expected.group, expected.capacity)
    return HeaderFound.SOUND if same_file and (first or _place(found) == _place(expected)) else HeaderFound.MISMATCH


def _place(header: SegmentHeader) -> tuple[int, int, EntryId]:
    return header.first_number, header.checksum, header.last


def is_blank(file: File, offset: int, end: int) -> bool:
    """Whether the file holds nothing but zeroes from `offset` to `end`."""
    while offset < end:
        chunk = file.read_at(offset, min(_CHUNK_BYTES, end - offset))
        if not chunk:
            break
        if chunk != _ZEROES[: len(chunk)]:
            return False
        offset += len(chunk)
    return True


def holds_group(file: File, segment: int, offset: int, end: int, least_number: int) -> bool:
    """Whether between `offset` and `end` there is a sound group record or seal numbered `least_number` or higher."""
    offset += -offset % ALIGNMENT
    while offset < end:
        chunk = file.read_at(offset, min(_CHUNK_BYTES, end - offset))
        if len(chunk) < GROUP_BYTES:
            break
        if chunk != _ZEROES[: len(chunk)] and find_head(segment, offset, chunk, least_number) is not None:
            return True
        offset += len(chunk)
    return False


class Window:
    """Reads of a file that go forward, served from one chunk at a time."""

    def __init__(self, file: File, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._file = file
        self._chunk_bytes = chunk_bytes
        self._offset = 0
        self._chunk = b""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer where the file ends."""
        begin = offset - self._offset
        if begin < 0 or begin + length > len(self._chunk):
            self._chunk = self._file.read_at(offset, max(length, self._chunk_bytes))
            self._offset = offset
            begin = 0
        return self._chunk[begin : begin + length]


def read_entry(window: Window, segment: int, offset: int, index: Index, max_bytes: int) -> Entry | str:
    """The entry `index`, whose record is at `offset`, or what is wrong with it. Its payload has at most `max_bytes`."""
    header = decode_record_header(segment, offset, window.read(offset, RECORD_BYTES))
    if header is None or header.index != index or header.length > max_bytes:
        return "the record does not match its checksum"
    payload = window.read(offset + RECORD_BYTES, header.length)
    if len(payload) == header.length and google_crc32c.value(payload) == header.payload_crc:
        return Entry(index, header.term, EntryKind(header.kind), payload)
    return "the payload does not match its checksum"


class Rot(Struct, frozen=True):
    """The first thing that is wrong in a group, and what is known of each of its records."""

    damage: Damage
    records: list[Surveyed]


class ScannedGroup(Struct, frozen=True):
    """A group at `offset`, up to `end`. `before` is the last entry of the log before it. If `rot` is set it is not sound, but known
    well enough to go on behind it; `records` are then empty."""

    offset: int
    end: int
    head: GroupHead
    checksum: int
    records: list[Located]
    before: EntryId
    rot: Rot | None = None


class Tail(Struct, frozen=True):
    """What stands after the last sound group of a segment. `head` is the group's record if that is sound."""

    next: Next
    beyond: Beyond
    missing_piece: bool
    damage: Damage | None = None
    head: GroupHead | None = None


class Scan:
    """Reads the groups of one segment in order, up to `end` or to the first that cannot be passed, and keeps where it is.

    `position` is the offset behind the last group or seal, `number` and `checksum` those of the last group, `last` the log's last
    entry after it, `commit` the largest commit index seen, `sealed` whether nothing unsealed stands before `position`, `rotten` what is
    wrong with the first group that was passed although it is not sound. `recorded` are the number and the checksum of the group that
    ends at `end`, if they are on record.
    """

    def __init__(self, file: File, header: SegmentHeader, end: int, recorded: tuple[int, int] | None = None) -> None:
        self.rotten: Damage | None = None
        self._recorded = recorded
        self._file = file
        self._window = Window(file)
        self._id = header.id
        self._end = end
        self.position = DATA_OFFSET
        self.number = header.first_number - 1
        self.checksum = header.checksum
        self.last = header.last
        self.commit = 0
        self.sealed = True
        self._stopped_at: GroupHead | None = None
        self._damage: Damage | None = None
        self._foreign = False

    def groups(self) -> Iterator[ScannedGroup]:
        """The groups. When this ends, `position` and the rest say where, and `tail` why."""
        while self.position + GROUP_BYTES <= self._end:
            head = decode_head(self._id, self.position, self._window.read(self.position, GROUP_BYTES))
            if head is None:
                return
            if not self._belongs(head):
                self._foreign = True
                self._stopped_at = head
                self._damage = Damage(self.position, f"group {head.number} does not follow group {self.number}", after=self.last)
                return
            if head.seal:
                self.sealed = True
                self.commit = max(self.commit, head.commit)
                self.position += GROUP_BYTES
                continue
            data = self._window.read(self.position, GROUP_BYTES + head.body_bytes)
            records, checksum, damage = decode_group(self._id, self.position, head, data)
            rot: Rot | None = None
            if damage is not None:
                passed = self._pass(head, data, damage)
                if passed is None:
                    self._stopped_at, self._damage = head, damage
                    return
                rot, checksum = passed
                records = []
                self.rotten = self.rotten or damage
            offset, before = self.position, self.last
            self.position += len(data)
            self.number, self.checksum, self.last = head.number, checksum, head.last
            self.commit = max(self.commit, head.commit)
            self.sealed = False
            yield ScannedGroup(offset, self.position, head, checksum, records, before, rot)

    def tail(self) -> Tail:
        """What stands at `position`, after `groups` has ended."""
        head = self._stopped_at
        if head is not None:
            if self._foreign:
                return Tail(Next.FOREIGN, Beyond.BYTES, False, self._damage, head)
            length = GROUP_BYTES + head.body_bytes
            missing = missing_piece(self.position, head, self._window.read(self.position, length))
            return Tail(Next.GROUP, self._beyond(self.position + length), missing, self._damage, head)
        beyond = self._beyond(self.position + GROUP_BYTES)
        sector_end = self.position + SECTOR_BYTES - self.position % SECTOR_BYTES
        missing = is_blank(self._file, self.position, min(sector_end, self._end))
        if is_blank(self._file, self.position, min(self.position + GROUP_BYTES, self._end)):
            damage = None if beyond is Beyond.ZERO else Damage(self.position, "there are zeroes where a group begins", after=self.last)
            return Tail(Next.ZERO, beyond, missing, damage)
        damage = Damage(self.position, "the record of a group does not match its checksum", after=self.last)
        return Tail(Next.ILLEGIBLE, beyond, missing, damage)

    def _pass(self, head: GroupHead, data: bytes, damage: Damage) -> tuple[Rot, int] | None:
        """What is known of the bad group at `position`, and its checksum, if reading can go on behind it."""
        checksum = self._checksum_told(self.position + len(data), head.number)
        records = survey_group(self._id, self.position, head, data)
        rotten = [found.header for found in records or () if found.record is None]
        reset = any(header is not None and header.type == RecordType.RESET for header in rotten)
        action = decide_rot(RotFacts(checksum is not None, records is not None, reset, True))
        if action is RotAction.CORRUPT or records is None or checksum is None:
            return None
        return Rot(damage, records), checksum

    def _checksum_told(self, offset: int, number: int) -> int | None:
        """The checksum of group `number`, as told by what stands at `offset`, right after it."""
        if offset + GROUP_BYTES <= self._end:
            head = decode_head(self._id, offset, self._window.read(offset, GROUP_BYTES))
            if head is not None and head.number == number + (0 if head.seal else 1):
                return head.previous
        if self._recorded is not None and (offset, number) == (self._end, self._recorded[0]):
            return self._recorded[1]
        return None

    def _belongs(self, head: GroupHead) -> bool:
        if head.previous != self.checksum or self.position + GROUP_BYTES + head.body_bytes > self._end:
            return False
        return head.number == self.number + (0 if head.seal else 1)

    def _beyond(self, offset: int) -> Beyond:
        if is_blank(self._file, offset, self._end):
            return Beyond.ZERO
        return Beyond.GROUP if holds_group(self._file, self._id, offset, self._end, self.number + 1) else Beyond.BYTES
