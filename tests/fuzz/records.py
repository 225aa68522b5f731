"""Bytes of a segment: headers, groups and seals at a place, and snapshots and configurations inside records.

An input is a group record and what follows it, as at offset 4096 of segment 1. `repair` sets right every checksum that the lengths in
it lead to.
"""

from __future__ import annotations

import struct
from random import Random

import google_crc32c
import msgspec

from raftkv.codec.record import (
    DATA_OFFSET,
    GROUP_BYTES,
    RECORD_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    GroupHead,
    Record,
    RecordType,
    SegmentHeader,
    decode_group,
    decode_head,
    decode_segment_header,
    encode_group,
    encode_seal,
    encode_segment_header,
    entry_record,
    find_head,
    missing_piece,
    record_configuration,
    record_entry,
    record_snapshot,
    reset_record,
)
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, Member, SnapshotMeta
from tests.fuzz.checks import bounded, expect
from tests.fuzz.target import Target

SEGMENT = 1
_SALT = struct.Struct("<QQ")
_MEMBERS = Configuration((Member("n1", 7, "a:1"),), ("n1",))


def run(data: bytes) -> None:
    """Every decoder ends in a value or says that there is none; a group that is sound is what its records encode to."""
    header = decode_segment_header(data)
    if header is not None and header.version == 1:
        again = decode_segment_header(encode_segment_header(header))
        expect(again == header, "a segment header does not survive its encoding")
    head = decode_head(SEGMENT, DATA_OFFSET, data)
    find_head(SEGMENT, DATA_OFFSET, data, 0)
    if head is None:
        return
    if head.seal:
        expect(decode_head(SEGMENT, DATA_OFFSET, encode_seal(SEGMENT, DATA_OFFSET, head)) is not None, "a seal does not survive")
        return
    group = data[: GROUP_BYTES + head.body_bytes]
    missing_piece(DATA_OFFSET, head, group)
    found, _checksum, damage = bounded(
        data, lambda: decode_group(SEGMENT, DATA_OFFSET, head, group), steps=300 + 2 * len(data), peak_bytes=20_000 + 30 * len(data)
    )
    for located in found:
        expect(DATA_OFFSET < located.offset <= DATA_OFFSET + len(data), "a record is outside of its group")
        look_inside(located.record)
    if damage is None:
        records = [located.record for located in found]
        encoded = encode_group(SEGMENT, DATA_OFFSET, head, records)
        again_head = decode_head(SEGMENT, DATA_OFFSET, encoded.data)
        expect(again_head is not None and (again_head.number, again_head.count) == (head.number, head.count), "a head does not survive")
        if again_head is not None:
            decoded = decode_group(SEGMENT, DATA_OFFSET, again_head, encoded.data)
            expect([located.record for located in decoded[0]] == records and decoded[2] is None, "a group does not survive its encoding")


def look_inside(record: Record) -> None:
    """What a record holds, or a `ValueError`."""
    try:
        if record.type == RecordType.RESET:
            expect(reset_record(record_snapshot(record)).index == record.index, "a snapshot stands where its record does not")
        elif record_entry(record).kind is EntryKind.CONFIGURATION:
            record_configuration(record)
    except ValueError:
        return


def repair(data: bytes, rng: Random) -> bytes:
    """`data` with the checksums of a segment header, or of a group and its records, set right."""
    fixed = bytearray(data)
    if data[:8] == b"raftkvWL":
        if len(data) >= SEGMENT_HEADER_BYTES:
            struct.pack_into("<I", fixed, SEGMENT_HEADER_BYTES - 4, google_crc32c.value(data[: SEGMENT_HEADER_BYTES - 4]))
        return bytes(fixed)
    if rng.randrange(4):
        size = len(fixed) - GROUP_BYTES
        if size >= 0:
            struct.pack_into("<I", fixed, RECORD_BYTES + 20, size)
    _repair_record(fixed, 0)
    position = GROUP_BYTES
    while position + RECORD_BYTES <= len(fixed) - TRAILER_BYTES:
        length = _repair_record(fixed, position)
        if length is None:
            break
        position += RECORD_BYTES + length + -length % 8
    if len(fixed) >= GROUP_BYTES + TRAILER_BYTES:
        fixed[-8:-4] = b"\xa7end"
        struct.pack_into("<I", fixed, len(fixed) - 4, google_crc32c.value(bytes(fixed[:-8])))
    return bytes(fixed)


def _repair_record(fixed: bytearray, position: int) -> int | None:
    """Set right the checksums of the record at `position`; its length, or None if it is no record."""
    if position + RECORD_BYTES > len(fixed) or not fixed[position + 12]:
        return None
    (length,) = struct.unpack_from("<I", fixed, position + 8)
    payload = bytes(fixed[position + RECORD_BYTES : position + RECORD_BYTES + length])
    struct.pack_into("<I", fixed, position + 4, google_crc32c.value(payload))
    covered = _SALT.pack(SEGMENT, DATA_OFFSET + position) + bytes(fixed[position + 4 : position + RECORD_BYTES])
    struct.pack_into("<I", fixed, position, google_crc32c.value(covered))
    return int(length)


def seeds() -> list[bytes]:
    """Groups with every kind of record, a seal, a segment header."""
    entries = [Entry(4, 2, EntryKind.BATCH, b"payload"), Entry(5, 2, EntryKind.NOOP, b"")]
    entries.append(Entry(6, 3, EntryKind.CONFIGURATION, msgspec.msgpack.encode(_MEMBERS)))
    records = [entry_record(entry) for entry in entries]
    head = GroupHead(3, 4, 99, EntryId(6, 3))
    reset = [reset_record(SnapshotMeta(3, 2, _MEMBERS)), *records]
    groups = [encode_group(SEGMENT, DATA_OFFSET, head, some).data for some in (records, reset, records[:1] * 2, [])]
    header = encode_segment_header(SegmentHeader(0, 1, 8192, 5, 77, EntryId(3, 1), True))
    return [*groups, encode_seal(SEGMENT, DATA_OFFSET, head), header]


TARGET = Target("records", run, seeds, repair)
