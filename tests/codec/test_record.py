"""The bytes of the log: round trips, every flipped bit, every cut, and arbitrary bytes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.codec.envelope import ENVELOPE_BYTES, Damaged, UnknownVersion, unwrap, wrap
from raftkv.codec.record import (
    ALIGNMENT,
    DATA_OFFSET,
    GROUP_BYTES,
    RECORD_BYTES,
    SECTOR_BYTES,
    SEGMENT_HEADER_BYTES,
    GroupHead,
    Record,
    RecordType,
    SegmentHeader,
    decode_group,
    decode_head,
    decode_record_header,
    decode_segment_header,
    encode_group,
    encode_record_header,
    encode_seal,
    encode_segment_header,
    entry_record,
    find_head,
    group_bytes,
    missing_piece,
    record_configuration,
    record_entry,
    record_snapshot,
    reset_record,
    survey_group,
)
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, Member, SnapshotMeta

SEGMENT = 3
HEAD = GroupHead(number=5, commit=8, previous=0xDEADBEEF, last=EntryId(12, 4))
HEADER = SegmentHeader(group=0, id=3, capacity=1 << 26, first_number=5, checksum=0xDEADBEEF, last=EntryId(9, 4))

records = st.lists(
    st.builds(
        Record,
        st.just(RecordType.ENTRY),
        st.sampled_from(EntryKind),
        st.integers(1, 1 << 60),
        st.integers(0, 1 << 60),
        st.one_of(st.binary(max_size=200), st.integers(0, 2000).map(bytes)),
    ),
    min_size=1,
    max_size=8,
)
offsets = st.integers(0, 1000).map(lambda number: DATA_OFFSET + number * ALIGNMENT)


def _group(written: list[Record], offset: int = DATA_OFFSET) -> tuple[bytes, GroupHead]:
    data = encode_group(SEGMENT, offset, HEAD, written).data
    head = decode_head(SEGMENT, offset, data)
    assert head is not None
    return data, head


@settings(max_examples=60, deadline=None)
@given(records, offsets)
def test_a_group_is_read_back_as_it_was_written(written: list[Record], offset: int) -> None:
    """Records, their places and the checksum survive, whatever the payloads."""
    group = encode_group(SEGMENT, offset, HEAD, written)
    head = decode_head(SEGMENT, offset, group.data)
    assert head is not None
    assert (head.number, head.commit, head.previous, head.last, head.count) == (5, 8, 0xDEADBEEF, EntryId(12, 4), len(written))
    located, checksum, damage = decode_group(SEGMENT, offset, head, group.data)
    assert damage is None
    assert checksum == group.checksum
    assert [found.record for found in located] == written
    assert [found.offset for found in located] == group.offsets
    assert len(group.data) == group_bytes(written)
    assert len(group.data) % ALIGNMENT == 0
    for found in located:
        at = found.offset - offset
        header = decode_record_header(SEGMENT, found.offset, group.data[at : at + RECORD_BYTES])
        assert header is not None
        assert (header.index, header.term, header.length) == (found.record.index, found.record.term, len(found.record.payload))


@settings(max_examples=60, deadline=None)
@given(records, offsets)
def test_a_piece_of_zeroes_in_a_group_proves_that_it_was_not_written(written: list[Record], offset: int) -> None:
    """No sector's share of a sound group is all zeroes unless the group says that one may be; so zeroing any share is noticed."""
    data, head = _group(written, offset)
    assert not missing_piece(offset, head, data)
    begin = 0
    while begin < len(data):
        end = min(len(data), begin + SECTOR_BYTES - (offset + begin) % SECTOR_BYTES)
        torn = data[:begin] + bytes(end - begin) + data[end:]
        assert missing_piece(offset, head, torn) == (not head.sparse)
        begin = end


def test_a_group_with_zeroes_in_it_says_so() -> None:
    """A payload of zeroes is not evidence of anything."""
    data, head = _group([Record(RecordType.ENTRY, 2, 1, 1, bytes(2000))])
    assert head.sparse
    assert not missing_piece(DATA_OFFSET, head, data)


SMALL = [Record(RecordType.ENTRY, 2, 11, 4, b"the eleventh"), Record(RecordType.ENTRY, 2, 12, 4, b"the twelfth, longer")]


def test_every_flipped_bit_of_a_group_is_noticed() -> None:
    """Whichever bit flips, in payloads, headers, padding or trailer, the group is not sound, and records before it are."""
    data, _ = _group(SMALL)
    for position in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[position] ^= 1 << bit
            head = decode_head(SEGMENT, DATA_OFFSET, bytes(bad))
            if position < GROUP_BYTES:
                assert head is None
                continue
            assert head is not None
            located, _, damage = decode_group(SEGMENT, DATA_OFFSET, head, bytes(bad))
            assert damage is not None
            assert [found.record for found in located] == SMALL[: len(located)]


def test_a_rotten_payload_is_named() -> None:
    """The header of a record has its own checksum, so the entry whose payload is bad is known by index and term."""
    data, head = _group(SMALL)
    bad = data.replace(b"twelfth", b"twelvth")
    located, _, damage = decode_group(SEGMENT, DATA_OFFSET, head, bad)
    assert len(located) == 1
    assert damage is not None
    assert damage.entry == EntryId(12, 4)
    assert damage.after == EntryId(11, 4)
    assert bad[damage.offset - DATA_OFFSET :].startswith(encode_record_header(SEGMENT, damage.offset, SMALL[1]))


def test_every_cut_of_a_group_is_noticed() -> None:
    """However short the bytes are, and whether they end or go on as zeroes, the group is not sound."""
    data, head = _group(SMALL)
    for length in range(len(data)):
        assert decode_group(SEGMENT, DATA_OFFSET, head, data[:length])[2] is not None
        if any(data[length:]):
            assert decode_group(SEGMENT, DATA_OFFSET, head, data[:length] + bytes(len(data) - length))[2] is not None
        if length < GROUP_BYTES:
            assert decode_head(SEGMENT, DATA_OFFSET, data[:length]) is None


@pytest.mark.parametrize(("segment", "offset"), [(SEGMENT + 1, DATA_OFFSET), (SEGMENT, DATA_OFFSET + ALIGNMENT)])
def test_bytes_in_the_wrong_place_are_no_records(segment: int, offset: int) -> None:
    """A group that is sound in its place is nothing in another file or at another offset: stale and misdirected writes do not
    pass."""
    data, head = _group(SMALL)
    assert decode_head(segment, offset, data) is None
    assert decode_group(segment, offset, head, data)[2] is not None


def test_zeroes_are_nothing() -> None:
    """The preallocated rest of a segment holds no header, no group and no record."""
    assert decode_segment_header(bytes(SEGMENT_HEADER_BYTES)) is None
    assert decode_head(SEGMENT, DATA_OFFSET, bytes(GROUP_BYTES)) is None
    assert decode_record_header(SEGMENT, DATA_OFFSET, bytes(RECORD_BYTES)) is None
    assert find_head(SEGMENT, DATA_OFFSET, bytes(4096), 0) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_nothing_and_harm_nothing(data: bytes) -> None:
    """Decoders answer None or a damage for bytes that nobody wrote; they raise nothing."""
    assert decode_segment_header(data) is None
    assert decode_head(SEGMENT, DATA_OFFSET, data) is None
    assert decode_record_header(SEGMENT, DATA_OFFSET, data) is None
    assert decode_group(SEGMENT, DATA_OFFSET, GroupHead(1, 0, 0, EntryId(0, 0), max(0, len(data) - GROUP_BYTES), 3), data)[2] is not None
    assert find_head(SEGMENT, DATA_OFFSET, data, 0) is None


@settings(max_examples=100, deadline=None)
@given(records, st.integers(0, 1 << 33), st.integers(0, 1 << 33))
def test_a_head_that_lies_about_its_body_is_noticed(written: list[Record], body_bytes: int, count: int) -> None:
    """Lengths and counts are compared with what is there, however large they are."""
    data, head = _group(written)
    lying = GroupHead(head.number, head.commit, head.previous, head.last, body_bytes, count, head.sparse)
    if (body_bytes, count) != (head.body_bytes, head.count):
        located, _, damage = decode_group(SEGMENT, DATA_OFFSET, lying, data)
        assert damage is not None or (body_bytes == head.body_bytes and len(located) == count)


def test_a_seal_is_a_group_record_of_its_own_type() -> None:
    """A seal names the group that it seals and is found where groups are looked for."""
    seal = encode_seal(SEGMENT, DATA_OFFSET, GroupHead(7, 9, 1, EntryId(12, 4), seal=True))
    assert len(seal) == GROUP_BYTES
    assert decode_head(SEGMENT, DATA_OFFSET, seal) == GroupHead(7, 9, 1, EntryId(12, 4), seal=True)
    assert find_head(SEGMENT, DATA_OFFSET - 128, bytes(128) + seal, 7) == DATA_OFFSET
    assert find_head(SEGMENT, DATA_OFFSET - 128, bytes(128) + seal, 8) is None
    assert find_head(SEGMENT, DATA_OFFSET - 127, bytes(127) + seal, 7) == DATA_OFFSET


@pytest.mark.parametrize("copy", [False, True])
def test_a_segment_header_is_read_back_and_guarded(copy: bool) -> None:
    """The header survives; with any byte changed it is none."""
    header = SegmentHeader(5, 3, 1 << 26, 77, 0xDEADBEEF, EntryId(9, 4), copy)
    data = encode_segment_header(header)
    assert len(data) == SEGMENT_HEADER_BYTES
    assert decode_segment_header(data + b"anything") == header
    for position in range(len(data)):
        bad = bytearray(data)
        bad[position] ^= 0x10
        assert decode_segment_header(bytes(bad)) is None


def test_a_segment_header_of_another_version_is_legible() -> None:
    """So that a newer file is refused for being newer and not for being damaged."""
    newer = SegmentHeader(0, 3, 8192, 5, 6, EntryId(9, 4), version=2)
    assert decode_segment_header(encode_segment_header(newer)) == newer


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.data())
def test_what_is_known_of_a_damaged_group_is_right(count: int, first: int, data: st.DataObject) -> None:
    """In a group with a row of entries, whatever stretches are overwritten: each record is told with its index; what is said to be sound
    is what was written, and a term or header that is told is right. With a sound group record it is always told."""
    terms = sorted(data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count)))
    written = [
        entry_record(Entry(first + place, term, EntryKind.BATCH, data.draw(st.binary(max_size=90)))) for place, term in enumerate(terms)
    ]
    group = encode_group(SEGMENT, DATA_OFFSET, GroupHead(5, 8, 1, EntryId(written[-1].index, written[-1].term)), written)
    head = decode_head(SEGMENT, DATA_OFFSET, group.data)
    assert head is not None
    damaged = bytearray(group.data)
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(GROUP_BYTES, len(damaged) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=100))[: len(damaged) - begin]
        damaged[begin : begin + len(noise)] = noise
    found = survey_group(SEGMENT, DATA_OFFSET, head, bytes(damaged))
    assert found is not None
    assert [known.index for known in found] == [record.index for record in written]
    assert len({known.offset for known in found}) == count
    for known, record, offset in zip(found, written, group.offsets, strict=True):
        assert known.record in (None, record)
        assert known.term in (None, record.term)
        if known.header is not None:
            assert (known.offset, known.header.length, known.term) == (offset, len(record.payload), record.term)
        intact = damaged[offset - DATA_OFFSET :][: RECORD_BYTES + len(record.payload)]
        assert (known.record is not None) == (intact == group.data[offset - DATA_OFFSET :][: len(intact)])


@settings(max_examples=200, deadline=None)
@given(records, st.data())
def test_a_damaged_group_of_any_records_is_surveyed_without_an_error(written: list[Record], data: st.DataObject) -> None:
    """Entries that jump, as where a group overwrites its own, may leave it open what was lost; a record that is told as sound is one
    that was written."""
    damaged, head = _group(written)
    changed = bytearray(damaged)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(GROUP_BYTES, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    found = survey_group(SEGMENT, DATA_OFFSET, head, bytes(changed))
    if found is not None:
        assert len(found) == head.count
        assert all(known.record is None or known.record in written for known in found)
    assert survey_group(SEGMENT, DATA_OFFSET, head, bytes(changed[:-8])) is None


def test_entries_snapshots_and_configurations_survive_as_records() -> None:
    """What a record stands for comes back equal."""
    configuration = Configuration((Member("n1", 5, "a:1"), Member("n2", 6, "b:2")), ("n1", "n2"))
    entry = Entry(12, 4, EntryKind.BATCH, b"payload")
    assert record_entry(entry_record(entry)) == entry
    snapshot = SnapshotMeta(40, 5, configuration)
    assert record_snapshot(reset_record(snapshot)) == snapshot
    with pytest.raises(msgspec.DecodeError):
        record_configuration(entry_record(entry))


MAGIC = b"raftkvXX"


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=20))
def test_an_envelope_gives_back_its_payload(payload: bytes, trailing: bytes) -> None:
    """Also with other bytes after it."""
    assert unwrap(MAGIC, 1, wrap(MAGIC, 1, payload) + trailing) == payload


def test_every_flipped_bit_and_cut_of_an_envelope_is_noticed() -> None:
    """No damage passes for a payload or for a newer version."""
    data = wrap(MAGIC, 1, b"some payload")
    for position in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[position] ^= 1 << bit
            with pytest.raises(Damaged):
                unwrap(MAGIC, 1, bytes(bad))
        with pytest.raises(Damaged):
            unwrap(MAGIC, 1, data[:position])


def test_an_envelope_of_another_version_is_refused_as_such() -> None:
    """A newer file is told apart from a damaged one."""
    with pytest.raises(UnknownVersion, match="version 2"):
        unwrap(MAGIC, 1, wrap(MAGIC, 2, b"payload"))
    with pytest.raises(Damaged, match="begin with"):
        unwrap(MAGIC, 1, wrap(b"raftkvYY", 1, b"payload"))
    assert len(wrap(MAGIC, 1, b"")) == ENVELOPE_BYTES


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_no_envelope(data: bytes) -> None:
    """Whatever the bytes, the answer is a clear refusal."""
    with pytest.raises(Damaged):
        unwrap(MAGIC, 1, MAGIC + data)
