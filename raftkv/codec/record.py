"""The bytes of the write-ahead log: segment header, record, group, seal. Pure: bytes in, values out.

A segment file is a header and then *groups*, back to back, each beginning at a multiple of 64. A group is everything that one write
made durable with one fsync. It is a group record, then the records of the write, then zero padding and an 8-byte trailer::

    | group record (64) | record | record | … | padding | trailer (8) |        length: a multiple of 64

A *seal* is a group record alone, of another type: it says that the group before it is durable. All numbers are little-endian.

What always holds:

- A record's checksum covers the segment's id and the record's offset too, so bytes that are in the wrong file or at the wrong place
  (a misdirected or stale write) never pass for a record, and zeroes never do (a type is never 0).
- A payload has its own checksum, so a record with a rotten payload still says which entry it is.
- A group record, having 64 bytes at a multiple of 64, never lies across two sectors of 512 bytes.
- No sector-sized piece of a group is all zeroes, unless the group's record says that one may be (`SPARSE`). So a piece of zeroes
  where a group should be was never written, and the fsync of that group never returned. `missing_piece` looks for one.
- Every length is compared with what is there before anything is taken for it.

What the bytes mean for a log is told in `raftkv.storage`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import TypeVar

import google_crc32c
import msgspec
from msgspec import Struct

from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, SnapshotMeta

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"raftkvWL"
DATA_OFFSET = 4096
"""Where the first group of a segment begins: the header has a page of its own, so that no later write touches it."""
ALIGNMENT = 64
SECTOR_BYTES = 512
MAX_PAYLOAD_BYTES = (1 << 30) - 1
"""The largest payload of a record. Entries are bounded far lower by settings; this bounds what a length may say."""

_SEGMENT = struct.Struct("<8sHHIQQQQQI")
_CRC = struct.Struct("<I")
_SALTED = struct.Struct("<QQIIBBHQQ")
_RECORD = struct.Struct("<IIIBBHQQ")
_GROUP = struct.Struct("<QQIIII")
_TRAILER = struct.Struct("<4sI")
_SALT = struct.Struct("<QQ")
_TYPE_AT = 12
_MAX_COUNTER = (1 << 63) - 1

SEGMENT_HEADER_BYTES = _SEGMENT.size + _CRC.size
RECORD_BYTES = _RECORD.size
GROUP_BYTES = RECORD_BYTES + _GROUP.size
TRAILER_BYTES = _TRAILER.size

_TRAILER_MAGIC = b"\xa7end"
_ZERO_SECTOR = bytes(SECTOR_BYTES)
_SPARSE = 1
_COPY = 1

_Value = TypeVar("_Value")

_encoder = msgspec.msgpack.Encoder()
_snapshot_decoder = msgspec.msgpack.Decoder(SnapshotMeta)
_configuration_decoder = msgspec.msgpack.Decoder(Configuration)


class RecordType(enum.IntEnum):
    """What a record is. Zero is never a type: a record of zeroes is no record."""

    GROUP = 1
    SEAL = 2
    ENTRY = 3
    RESET = 4
    """A snapshot was installed that the log did not reach: the log before this is void and begins after the snapshot."""


class SegmentHeader(Struct, frozen=True):
    """The first bytes of a segment file.

    `copy`: that group is a copy of one in an older segment, which ends before it. `first_number` is the number that the segment's
    first group has, `checksum` the checksum of the group before it, and `last` the last entry of the log before it.
    """

    group: int
    id: int
    capacity: int
    first_number: int
    checksum: int
    last: EntryId
    copy: bool = False
    version: int = FORMAT_VERSION


class Record(Struct, frozen=True, gc=False):
    """One record as it goes in: `kind` is the entry's kind, or 0 if it is no entry."""

    type: int
    kind: int
    index: int
    term: int
    payload: bytes


class RecordHeader(Struct, frozen=True, gc=False):
    """The legible header of a record."""

    payload_crc: int
    length: int
    type: int
    kind: int
    index: int
    term: int


class Located(Struct, frozen=True, gc=False):
    """A sound record and the offset at which it was found."""

    offset: int
    record: Record


class GroupHead(Struct, frozen=True, gc=False):
    """A group record or, with `seal` set, a seal.

    `number` counts the groups of the log; a seal has the number of the group that it seals. `previous` is the checksum of the group
    before (for a seal: of the group that it seals). `last` is the log's last entry once this group is in it. `body_bytes` is the
    length of what follows the 64 bytes of the record, `count` how many records that is.
    """

    number: int
    commit: int
    previous: int
    last: EntryId
    body_bytes: int = 0
    count: int = 0
    sparse: bool = False
    seal: bool = False


class EncodedGroup(Struct, frozen=True, gc=False):
    """The bytes of a group, its checksum, and the offset in the file of each of its records."""

    data: bytes
    checksum: int
    offsets: list[int]


class Damage(Struct, frozen=True):
    """Why a group is not sound: what is wrong, where, and which entry that is or follows, if any record before it said so."""

    offset: int
    what: str
    entry: EntryId | None = None
    after: EntryId | None = None


class Surveyed(Struct, frozen=True, gc=False):
    """What is known of one record of a group that is not sound.

    `record` is the record if it is sound. Else it is rotten: `header` is its header if that is sound, and if not, `index` is what the
    records around it leave for it, `term` the term if they leave but one, and `offset` only an offset of its own where it may lie.
    """

    offset: int
    index: int
    term: int | None
    header: RecordHeader | None = None
    record: Record | None = None


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first `SEGMENT_HEADER_BYTES` of a segment file."""
    data = _SEGMENT.pack(
        SEGMENT_MAGIC,
        header.version,
        _COPY if header.copy else 0,
        header.group,
        header.id,
        header.capacity,
        header.first_number,
        header.last.index,
        header.last.term,
        header.checksum,
    )
    return data + _CRC.pack(google_crc32c.value(data))


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """The header at the start of `data`, or None if it is not sound. The version is the reader's to check."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return None
    magic, version, flags, group, id_, capacity, first_number, index, term, checksum = _SEGMENT.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _SEGMENT.size)
    if magic != SEGMENT_MAGIC or google_crc32c.value(data[: _SEGMENT.size]) != crc or max(first_number, index, term) > _MAX_COUNTER:
        return None
    return SegmentHeader(group, id_, capacity, first_number, checksum, EntryId(index, term), bool(flags & _COPY), version)


def entry_record(entry: Entry) -> Record:
    """The record of a log entry."""
    return Record(RecordType.ENTRY, entry.kind, entry.index, entry.term, entry.payload)


def record_entry(record: Record) -> Entry:
    """The entry of an `ENTRY` record. Raises `ValueError` if it cannot be one."""
    if max(record.index, record.term) > _MAX_COUNTER:
        raise ValueError("no log is that long")
    return Entry(record.index, record.term, EntryKind(record.kind), record.payload)


def reset_record(snapshot: SnapshotMeta) -> Record:
    """The record that makes the log begin after `snapshot`."""
    return Record(RecordType.RESET, 0, snapshot.index, snapshot.term, _encoder.encode(snapshot))


def record_snapshot(record: Record) -> SnapshotMeta:
    """The snapshot of a `RESET` record. Raises `ValueError` if the payload is none, or stands for another entry than the record."""
    snapshot = _decoded(_snapshot_decoder, record)
    if (snapshot.index, snapshot.term) != (record.index, record.term):
        raise ValueError(f"it holds a snapshot of entry {snapshot.index} (term {snapshot.term})")
    return snapshot


def record_configuration(record: Record) -> Configuration:
    """The configuration of a `CONFIGURATION` entry's record. Raises `ValueError` if the payload is none."""
    return _decoded(_configuration_decoder, record)


def group_bytes(records: Sequence[Record]) -> int:
    """How long the group of these records is."""
    body = sum([RECORD_BYTES + _padded(len(record.payload)) for record in records]) + TRAILER_BYTES
    return GROUP_BYTES + body + -body % ALIGNMENT


def encode_group(segment: int, offset: int, head: GroupHead, records: Sequence[Record]) -> EncodedGroup:
    """The group of `records` for `offset` in segment `segment`. Of `head`, what describes the body is filled in here."""
    parts: list[bytes] = []
    offsets: list[int] = []
    position = offset + GROUP_BYTES
    for record in records:
        offsets.append(position)
        payload = record.payload
        padding = -len(payload) % 8
        parts += (encode_record_header(segment, position, record), payload, bytes(padding))
        position += RECORD_BYTES + len(payload) + padding
    body_bytes = position - offset - GROUP_BYTES + TRAILER_BYTES
    filling = -body_bytes % ALIGNMENT
    parts.append(bytes(filling))
    body = b"".join(parts)
    sparse = _ZERO_SECTOR in body
    first = _encode_head(segment, offset, head, body_bytes + filling, len(records), sparse)
    checksum = google_crc32c.extend(google_crc32c.value(first), body)
    return EncodedGroup(b"".join((first, body, _TRAILER.pack(_TRAILER_MAGIC, checksum))), checksum, offsets)


def encode_seal(segment: int, offset: int, head: GroupHead) -> bytes:
    """The seal for `offset` in segment `segment`; `GROUP_BYTES` long."""
    return _encode_head(segment, offset, head, 0, 0, False)


def encode_record_header(segment: int, offset: int, record: Record) -> bytes:
    """The `RECORD_BYTES` before the payload of `record` at this place."""
    payload = record.payload
    salted = _SALTED.pack(
        segment, offset, google_crc32c.value(payload), len(payload), record.type, record.kind, 0, record.index, record.term
    )
    return _CRC.pack(google_crc32c.value(salted)) + salted[_SALT.size :]


def decode_record_header(segment: int, offset: int, data: bytes) -> RecordHeader | None:
    """The header in the `RECORD_BYTES` of `data`, or None if it is not one for this place."""
    if len(data) < RECORD_BYTES:
        return None
    crc, payload_crc, length, type_, kind, _, index, term = _RECORD.unpack_from(data)
    if type_ == 0 or google_crc32c.value(_SALT.pack(segment, offset) + data[4:RECORD_BYTES]) != crc:
        return None
    return RecordHeader(payload_crc, length, type_, kind, index, term)


def decode_head(segment: int, offset: int, data: bytes) -> GroupHead | None:
    """The group record or seal in the first `GROUP_BYTES` of `data`, or None if there is no sound one."""
    header = decode_record_header(segment, offset, data)
    if header is None or header.type not in (RecordType.GROUP, RecordType.SEAL) or header.length != _GROUP.size:
        return None
    payload = data[RECORD_BYTES:GROUP_BYTES]
    if len(payload) < _GROUP.size or google_crc32c.value(payload) != header.payload_crc:
        return None
    number, commit, previous, body_bytes, count, flags = _GROUP.unpack(payload)
    return GroupHead(
        number,
        commit,
        previous,
        EntryId(header.index, header.term),
        body_bytes,
        count,
        bool(flags & _SPARSE),
        header.type == RecordType.SEAL,
    )


def decode_group(segment: int, offset: int, head: GroupHead, data: bytes) -> tuple[list[Located], int, Damage | None]:
    """The records of the group whose bytes from its group record to its trailer are `data`, with its checksum.

    The first thing that is wrong is told as a `Damage`; the records before it are sound.
    """
    located: list[Located] = []
    position = GROUP_BYTES
    end = len(data) - TRAILER_BYTES
    if head.body_bytes % ALIGNMENT or len(data) != GROUP_BYTES + head.body_bytes or end < position:
        return located, 0, Damage(offset, "the group's length is impossible")
    last: EntryId | None = None
    for _ in range(head.count):
        where = offset + position
        header = decode_record_header(segment, where, data[position : position + RECORD_BYTES])
        if header is None:
            return located, 0, Damage(where, "the header of a record does not match its checksum", after=last)
        entry = EntryId(header.index, header.term)
        begin = position + RECORD_BYTES
        if header.type not in (RecordType.ENTRY, RecordType.RESET) or header.length > end - begin:
            return located, 0, Damage(where, "a record is of an impossible type or length", entry, last)
        payload = data[begin : begin + header.length]
        if google_crc32c.value(payload) != header.payload_crc:
            return located, 0, Damage(where, "the payload of a record does not match its checksum", entry, last)
        located.append(Located(where, Record(header.type, header.kind, header.index, header.term, payload)))
        position = begin + _padded(header.length)
        last = entry
    if not 0 <= end - position < ALIGNMENT:
        return located, 0, Damage(offset + position, "the records do not fill the group", after=last)
    checksum = google_crc32c.value(data[:end])
    if (_TRAILER_MAGIC, checksum) != _TRAILER.unpack_from(data, end):
        return located, 0, Damage(offset + end, "the group does not match its checksum", after=last)
    return located, checksum, None


def survey_group(segment: int, offset: int, head: GroupHead, data: bytes) -> list[Surveyed] | None:
    """What is known of each record of the group whose bytes are `data` and which `decode_group` found not to be sound.

    None if it cannot be told which entry each record is. Where headers are lost, the records around them, the number of records and
    the last entry must leave exactly one row of indices for them.
    """
    end = len(data) - TRAILER_BYTES
    if head.body_bytes % ALIGNMENT or len(data) != GROUP_BYTES + head.body_bytes or end < GROUP_BYTES:
        return None
    found = _sound_headers(segment, offset, head.count, data, end)
    lost = head.count - len(found)
    gaps = [0]  # how many records are lost before each of those that were found, and after them
    ends = [GROUP_BYTES, *(position + RECORD_BYTES + _padded(header.length) for position, header in found)]
    for (_, header), (position, later), stop in zip(found, found[1:], ends[1:], strict=False):
        gaps.append(later.index - header.index - 1 if position > stop else 0)
    if found:
        gaps.append(head.last.index - found[-1][1].index)
    gaps[0] = lost - sum(gaps)
    last = head.last if not found or gaps[-1] else EntryId(found[-1][1].index, found[-1][1].term)
    if last != head.last or min(gaps) < 0:
        return None
    records: list[Surveyed] = []
    places: list[tuple[int, RecordHeader | None]] = [*found, (end, None)]
    for number, (count, begin, (position, after)) in enumerate(zip(gaps, ends, places, strict=True)):
        first = (after.index if after is not None else head.last.index + 1) - count
        if count * RECORD_BYTES > position - begin or (position > begin and after is not None and not count) or first < 1:
            return None
        terms = (found[number - 1][1].term if number else None, after.term if after is not None else head.last.term)
        for place in range(count):
            is_last = after is None and place == count - 1
            term = terms[1] if is_last or terms[0] == terms[1] else None
            records.append(Surveyed(offset + begin + 8 * place, first + place, term))
        if after is not None:
            payload = data[position + RECORD_BYTES : position + RECORD_BYTES + after.length]
            sound = google_crc32c.value(payload) == after.payload_crc
            record = Record(after.type, after.kind, after.index, after.term, payload) if sound else None
            records.append(Surveyed(offset + position, after.index, after.term, after, record))
    return records


def _sound_headers(segment: int, offset: int, count: int, data: bytes, end: int) -> list[tuple[int, RecordHeader]]:
    """The sound headers of records in a group, with their places in `data`. After one that is not sound the next may begin at any
    multiple of 8."""
    found: list[tuple[int, RecordHeader]] = []
    position = GROUP_BYTES
    while len(found) < count and position + RECORD_BYTES <= end:
        if data[position + _TYPE_AT] in (RecordType.ENTRY, RecordType.RESET):  # worth a checksum
            header = decode_record_header(segment, offset + position, data[position : position + RECORD_BYTES])
            if header is not None and _padded(header.length) <= end - position - RECORD_BYTES:
                found.append((position, header))
                position += RECORD_BYTES + _padded(header.length)
                continue
        position += 8
    return found


def missing_piece(offset: int, head: GroupHead, data: bytes) -> bool:
    """Whether some sector's share of the group's bytes `data` is all zeroes although no such share was written.

    Then that sector never reached the disk. `data` may end early, as where a file ends.
    """
    if head.sparse:
        return False
    begin = 0
    while begin < len(data):
        end = begin + SECTOR_BYTES - (offset + begin) % SECTOR_BYTES
        if not any(data[begin:end]):
            return True
        begin = end
    return False


def find_head(segment: int, offset: int, data: bytes, least_number: int) -> int | None:
    """The offset of the first group record or seal in `data`, which begins at `offset`, whose number is at least `least_number`."""
    for begin in range(-offset % ALIGNMENT, len(data) - GROUP_BYTES + 1, ALIGNMENT):
        if data[begin + _TYPE_AT]:  # not zero: worth a checksum
            head = decode_head(segment, offset + begin, data[begin : begin + GROUP_BYTES])
            if head is not None and head.number >= least_number:
                return offset + begin
    return None


def _encode_head(segment: int, offset: int, head: GroupHead, body_bytes: int, count: int, sparse: bool) -> bytes:
    payload = _GROUP.pack(head.number, head.commit, head.previous, body_bytes, count, _SPARSE if sparse else 0)
    type_ = RecordType.SEAL if head.seal else RecordType.GROUP
    return encode_record_header(segment, offset, Record(type_, 0, head.last.index, head.last.term, payload)) + payload


def _decoded(decoder: msgspec.msgpack.Decoder[_Value], record: Record) -> _Value:
    try:
        return decoder.decode(record.payload)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _padded(length: int) -> int:
    return length + -length % 8
