"""The log and the small files beside it, opened from a disk whose files somebody has changed.

An input is a recipe. Its first byte chooses between rot (changes to bytes where they lie, checksums left as they are) and forgery:
files that are made anew from the recipe, with every checksum right, so that what is behind the checksums is reached.
"""

from __future__ import annotations

import random
import struct
from functools import cache

import google_crc32c
import msgspec

from raftkv.codec.envelope import ENVELOPE_BYTES, unwrap, wrap
from raftkv.codec.record import (
    ALIGNMENT,
    DATA_OFFSET,
    RECORD_BYTES,
    GroupHead,
    Record,
    RecordType,
    SegmentHeader,
    encode_group,
    encode_record_header,
    encode_seal,
    encode_segment_header,
    reset_record,
)
from raftkv.errors import StorageError
from raftkv.raft.types import Configuration, EntryId, HardState, Member, SnapshotMeta
from raftkv.sim.disk import SimDisk
from raftkv.storage.hard_state import HARD_STATE_MAGIC, SLOT_BYTES, HardStateSlot
from raftkv.storage.identity import IDENTITY_MAGIC, Identity, create_identity, identity_exists, load_identity
from raftkv.storage.manifest import MANIFEST_MAGIC, Manifest, SegmentEntry
from raftkv.storage.wal import LogWrite, Wal
from tests.fuzz.checks import Recipe, bounded, expect, last_piece, piece
from tests.fuzz.target import Target
from tests.storage.log_model import IDENTITY, SMALL, Driver, configuration_entry, entries, entry, observed

MEMBERS = Configuration((Member("n1", 7, "a:1"), Member("n2", 8, "b:1")), ("n1", "n2"))
LARGEST = (1 << 63) - 1
_GROUP = struct.Struct("<QQIIII")


@cache
def written() -> dict[str, bytes]:
    """The files of a log with two segments, a configuration, and a compaction."""
    driver = Driver(SimDisk(random.Random(3)))
    driver.open()
    driver.write(LogWrite(1, HardState(1, "n1"), None, entries(1, 2), 1))
    driver.write(LogWrite(2, None, None, (configuration_entry(3, 1, msgspec.msgpack.encode(MEMBERS)), entry(4, size=3500)), 3))
    driver.write(LogWrite(3, HardState(2, "n2"), None, entries(5, 6, 2), 5))
    driver.compact(2)
    driver.write(LogWrite(4, None, None, entries(6, 7, 2), 5))
    return driver.disk.files()


def disk_of(files: dict[str, bytes]) -> SimDisk:
    """A disk with these files."""
    disk = SimDisk(random.Random(1), capacity_bytes=64 << 20)
    for path, content in files.items():
        disk.put(path, content)
    return disk


def run(data: bytes) -> None:
    """Opening ends in a log that can be read, written, closed and opened again with the same content, or in a `StorageError`."""
    recipe = Recipe(data)
    files = dict(written())
    if recipe.number() % 2:
        forge(files, recipe)
    else:
        rot(files, recipe)
    disk = disk_of(files)
    size = sum(map(len, files.values()))
    bounded(data, lambda: _open(disk), steps=60_000 + 40 * size, peak_bytes=8 << 20)


def _open(disk: SimDisk) -> None:
    try:
        load_identity(disk)
        wal = Wal.open(disk, SMALL)
        found = observed(wal)
    except StorageError as error:
        expect(bool(str(error)), "an error says nothing")
        return
    if wal.recovered.created and not identity_exists(disk):
        create_identity(disk, IDENTITY)
    if max(found.last.index, found.last.term, found.hard_state.term) > LARGEST - 10:
        return  # nothing can follow
    first = found.last.index + 1
    try:
        wal.write([LogWrite(1, HardState(found.hard_state.term + 1, "n3"), None, entries(first, first + 1, found.last.term), found.commit)])
        wal.close()
        again = Wal.open(disk, SMALL)
    except StorageError as error:
        raise AssertionError(f"a log that was opened cannot be written and opened again: {error}") from error
    after = observed(again)
    expect(after.entries[:-2] == found.entries, "entries have changed")
    expect(after.hard_state.term == found.hard_state.term + 1, "the term has changed")
    again.close()


def rot(files: dict[str, bytes], recipe: Recipe) -> None:
    """Changes where the bytes lie."""
    for _ in range(8):
        if not recipe:
            return
        path = recipe.choice(sorted(files) or [""])
        if not path:
            return
        content = files[path]
        at = recipe.number(2) % (len(content) + 1)
        match recipe.number() % 5:
            case 0:
                files[path] = content[:at] + recipe.piece() + content[at + recipe.number() :]
            case 1:
                files[path] = content[:at]
            case 2:
                del files[path]
            case 3:
                files[path] = content[:at] + bytes(recipe.number(2)) + content[at:]
            case _:
                part = recipe.piece()
                files[path] = content[:at] + part + content[at + len(part) :]


def forge(files: dict[str, bytes], recipe: Recipe) -> None:
    """Files made anew: small ones from any payload, segments from any records, each with the right checksums."""
    for _ in range(6):
        if not recipe:
            return
        match recipe.number() % 7:
            case 0:
                path, version = f"identity.{1 + recipe.number() % 2}", 1 + recipe.number() % 2
                files[path] = wrap(IDENTITY_MAGIC, version, recipe.piece())
            case 1:
                files["wal/manifest"] = wrap(MANIFEST_MAGIC, 1, recipe.piece())
            case 2:
                number = recipe.number() % 3
                slot = wrap(HARD_STATE_MAGIC, 1, recipe.piece()[: SLOT_BYTES - ENVELOPE_BYTES])
                content = bytearray(files.get("hard_state", b"").ljust(2 * SLOT_BYTES, b"\0"))
                for place in (0, 1) if number == 2 else (number,):
                    content[place * SLOT_BYTES : (place + 1) * SLOT_BYTES] = slot.ljust(SLOT_BYTES, b"\0")
                files["hard_state"] = bytes(content)
            case 3:
                name = recipe.piece()[:200].decode("latin-1").replace("/", "_") or "x"
                files[f"wal/{name}.log"] = forged_segment(recipe)[1]
            case 4:
                files.pop("identity.1", None)
                files.pop("identity.2", None)
            case _:
                forge_log(files, recipe)


def forge_log(files: dict[str, bytes], recipe: Recipe) -> None:
    """A log of one segment, with a manifest that fits it, in place of the old one."""
    for path in [path for path in files if path.startswith("wal/")]:
        del files[path]
    header, content = forged_segment(recipe)
    begin = SnapshotMeta(recipe.number() % 8, recipe.number() % 4)
    suspect = recipe.number(8) if recipe.number() % 4 == 1 else None
    manifest = Manifest(header.group, begin, (SegmentEntry(header.id, header.capacity),), suspect)
    files["wal/manifest"] = wrap(MANIFEST_MAGIC, 1, msgspec.msgpack.encode(manifest))
    files[f"wal/{header.id:012d}.log"] = content


def _wide(recipe: Recipe) -> int:
    """A small number, mostly; else eight bytes of the recipe."""
    first = recipe.number()
    return recipe.number(8) if first >= 0xF0 else first


def forged_segment(recipe: Recipe) -> tuple[SegmentHeader, bytes]:
    """A segment with groups of any records, each of which follows the one before."""
    shape = recipe.number()
    first_number = _wide(recipe) if shape & 1 else 1
    last = EntryId(_wide(recipe), _wide(recipe)) if shape & 2 else EntryId(0, 0)
    id_ = _wide(recipe) if shape & 4 else 1
    header = SegmentHeader(0, id_, SMALL.segment_bytes, first_number, 0, last, bool(shape & 8))
    data = bytearray(encode_segment_header(header).ljust(DATA_OFFSET, b"\0"))
    number, previous = first_number, 0
    for _ in range(recipe.number() % 8):
        if len(data) >= header.capacity:
            break
        records, last = forged_records(recipe, last)
        commit = _wide(recipe)
        head = GroupHead(number % (1 << 64), commit, previous, last)
        group = encode_group(id_, len(data), head, records)
        forgery = recipe.number()
        data += _with_head(id_, len(data), head, group.data, recipe) if forgery == 1 else group.data
        previous, number = group.checksum, number + 1
        if forgery == 2:
            data += encode_seal(id_, len(data), GroupHead((number - 1) % (1 << 64), commit, previous, last, seal=True))
    return header, bytes(data[: header.capacity]).ljust(header.capacity, b"\0")


def _with_head(segment: int, offset: int, head: GroupHead, group: bytes, recipe: Recipe) -> bytes:
    """`group` with any length and count in its record, and the checksums of that right."""
    payload = _GROUP.pack(head.number, head.commit, head.previous, recipe.number(4), recipe.number(4), 0)
    first = encode_record_header(segment, offset, Record(RecordType.GROUP, 0, head.last.index, head.last.term, payload)) + payload
    covered = first + group[len(first) : -8]
    return covered + group[-8:-4] + struct.pack("<I", google_crc32c.value(covered))


def forged_records(recipe: Recipe, last: EntryId) -> tuple[list[Record], EntryId]:
    """Records of one group; most follow the log, some do not."""
    records: list[Record] = []
    for _ in range(recipe.number() % 5):
        kind = recipe.number()
        index, term = last.index + 1, last.term
        if kind & 0x80:
            index, term = _wide(recipe), _wide(recipe)
        index, term = index % (1 << 64), term % (1 << 64)
        payload = recipe.piece()
        room = SMALL.segment_bytes - DATA_OFFSET - 4 * ALIGNMENT - RECORD_BYTES
        if kind & 0x40:
            records.append(Record(RecordType.RESET, 0, index, term, payload[:room]))
        else:
            records.append(Record(RecordType.ENTRY, kind & 15, index, term, payload[:room]))
        last = EntryId(index, term)
    return records, last


def seeds() -> list[bytes]:
    """Nothing changed; each small file forged from what it holds; logs of every kind of record."""
    files = written()
    manifest = unwrap(MANIFEST_MAGIC, 1, files["wal/manifest"])
    identity = unwrap(IDENTITY_MAGIC, 1, files["identity.1"])
    slot = msgspec.msgpack.encode(HardStateSlot(6, HardState(2, "n2")))
    other = msgspec.msgpack.encode(Identity(b"0123456789abcdef", "test", "n1", 9, 0, MEMBERS.members))
    reset = reset_record(SnapshotMeta(9, 3, MEMBERS)).payload
    plain = b"\x01\x02" + piece(b"payload")
    group = b"\x02" + plain + b"\x03" + piece(msgspec.msgpack.encode(MEMBERS)) + b"\x01\x00"
    seal = b"\x01" + plain + b"\x01\x02"
    log = b"\x05" + b"\x00\x02" + group + seal + b"\x00\x00\x00"
    with_reset = b"\x05" + b"\x00\x02" + b"\x02\xc0\x09\x03" + piece(reset) + plain + b"\x09\x00" + seal + b"\x00\x00\x00"
    wide = b"\x05" + b"\x0f\xff" + b"\xff" * 8 + b"\x05\x02\x01\x01" + seal + b"\x00\x00\x00"
    at = b"\x81%c\x01" + piece(b"x")
    places = b"\x05" + b"\x00\x02" + b"\x03" + at % 1 + at % 2 + at % 3 + b"\x00\x00" + b"\x02" + at % 3 + at % 4 + b"\x00\x00"
    headless = b"\x05" + b"\x00\x02" + b"\x01" + plain + b"\x01\x01" + b"\xff\xff\xff\xff" * 2 + seal + b"\x00\x00\x00"
    last = [b"\x01" + last_piece(manifest), b"\x00\x00\x00" + last_piece(other), b"\x02\x02" + last_piece(slot)]
    members = msgspec.msgpack.encode(MEMBERS)
    in_log = [b"\x05\x00\x01\x01\x40" + last_piece(reset), b"\x05\x00\x01\x01\x03" + last_piece(members)]
    small = [b"\x01" + piece(manifest), b"\x00\x00\x00" + piece(identity), b"\x00\x01\x00" + piece(other), b"\x02\x02" + piece(slot)]
    forged = [*small, *last, *in_log, log, with_reset, places, wide, headless, b"\x04" + log, b"\x03" + piece(b"000000000009") + log[1:]]
    rotten = [b"\x03\x40\x10\x04" + piece(b"\0" * 64), b"\x05\x00\x00\x02", b"\x04\x00\x10\x01", b"\x02\x05\x00\x03\x40\x00"]
    return [b"\0", *(b"\1" + recipe for recipe in forged), *(b"\0" + recipe for recipe in rotten)]


TARGET = Target("log", run, seeds)
