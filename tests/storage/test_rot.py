"""Rot, cuts and lies: what was acknowledged is there, or the node stops, or it knows that it is suspect. Never silently less."""

from __future__ import annotations

import copy
import itertools
import random
import struct
from dataclasses import dataclass

import google_crc32c
import pytest

from raftkv.codec.envelope import unwrap, wrap
from raftkv.codec.record import DATA_OFFSET, GROUP_BYTES, SECTOR_BYTES
from raftkv.errors import Corrupt, Rotten, StorageError
from raftkv.raft.types import Entry, EntryKind, HardState, Index
from raftkv.sim.disk import SimDisk, Survival
from raftkv.storage.identity import load_identity
from raftkv.storage.segment import Scan, read_header
from raftkv.storage.wal import LogWrite, Wal, WalSettings
from tests.storage.healing import heal
from tests.storage.log_model import SMALL, Driver, LogModel, entries, entry, observed, same_log

FIRST = "wal/000000000001.log"
SECOND = "wal/000000000002.log"


@dataclass
class Written:
    """A disk with a log on it that was not closed, the model of it, and where its last group stands in the newest segment."""

    disk: SimDisk
    model: LogModel
    before_last: LogModel
    newest: str
    last_group: tuple[int, int]

    def fresh_disk(self) -> SimDisk:
        """Another disk with the same files."""
        disk = SimDisk(random.Random(3))
        for path, content in self.disk.files().items():
            disk.put(path, content)
        return disk


def write_log(*, sealed: bool, payload_bytes: int = 40) -> Written:
    """Two segments, four groups in the newest."""
    driver = Driver(SimDisk(random.Random(3)))
    driver.open()
    driver.write(LogWrite(1, HardState(1, "n1"), None, entries(1, 2), 1))
    driver.write(LogWrite(2, None, None, (entry(3, size=3500),), 2))
    for index in (4, 5, 6):
        driver.write(LogWrite(index, None, None, (entry(index),), index - 1))
    before_last = copy.deepcopy(driver.acked)
    used = len(driver.disk.content(SECOND).rstrip(b"\0"))
    begin = used + -used % 64
    driver.write(LogWrite(7, HardState(2, "n2"), None, entries(7, 8, 2, payload_bytes), 6))
    used = len(driver.disk.content(SECOND).rstrip(b"\0"))
    if sealed:
        driver.seal()
    driver.disk.crash(Survival.LOST)
    return Written(driver.disk, driver.acked, before_last, SECOND, (begin, used + -used % 64))


def outcome(disk: SimDisk, model: LogModel, before_last: LogModel) -> str:
    """What opening the log comes to, after checking that it is not a silent loss. What is repairable is repaired with the entries of
    `model`, as from another node."""
    try:
        wal = Wal.open(disk, SMALL)
    except Rotten:
        heal(disk, model)
        assert outcome(disk, model, before_last) == "harmless"
        return "repaired"
    except Corrupt as error:
        return "corrupt" if "The way back" in str(error) else "a refusal that does not help"
    found = observed(wal)
    assert found.hard_state == model.hard_state, "a term or vote was forgotten"
    if wal.recovered.suspect is not None:
        assert same_log(found, before_last) or same_log(found, model)
        assert wal.recovered.suspect >= before_last.last.index + 1
        return "suspect"
    assert same_log(found, model), "acknowledged entries were lost in silence"
    return "harmless"


def flipped(written: Written, path: str, offset: int, mask: int) -> str:
    """The outcome with the bits of `mask` flipped in one byte."""
    disk = written.fresh_disk()
    disk.flip(path, offset, mask)
    return outcome(disk, written.model, written.before_last)


def _mask(offset: int) -> int:
    return 1 << (offset * 5 % 8)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_flipped_byte_anywhere_in_the_log_is_never_a_silent_loss(sealed: bool) -> None:
    """Every byte that was written, and some that were not. Before the last group it is rot, and entries are repaired; in the last group
    it is rot if there is a seal, and makes the node suspect if not; after the last group it takes nothing with it."""
    written = write_log(sealed=sealed)
    begin, end = written.last_group
    size = len(written.disk.content(SECOND).rstrip(b"\0"))
    for offset in [*range(64), *range(DATA_OFFSET, size + 200)]:
        found = flipped(written, SECOND, offset, _mask(offset))
        if offset >= end:
            assert found in ("harmless", "suspect"), offset
        elif offset >= begin and not sealed:
            assert found == "suspect", offset
        else:
            assert found == expected(written, SECOND, offset), offset
    for offset in [*range(64), *range(DATA_OFFSET, len(written.disk.content(FIRST).rstrip(b"\0")), 7)]:
        assert flipped(written, FIRST, offset, _mask(offset)) == expected(written, FIRST, offset), offset


def expected(written: Written, path: str, offset: int) -> str:
    """What becomes of rot at `offset`, in a group that was durable: repaired in a record or its payload, harmless behind the records,
    and otherwise the node stops."""
    file = written.disk.open(path)
    header = read_header(file)
    assert header is not None
    for group in Scan(file, header, file.size()).groups():
        if group.offset + GROUP_BYTES <= offset < group.end:
            last = group.records[-1]
            return "repaired" if offset < last.offset + 32 + len(last.record.payload) else "harmless"
    return "corrupt"


def test_a_flipped_byte_in_the_small_files_is_repaired_or_refused() -> None:
    """One slot, or one copy, is enough; the manifest has one copy, and damage to it stops the node."""
    written = write_log(sealed=True)
    for path in ("hard_state", "identity.1", "identity.2", "wal/manifest"):
        content = written.disk.content(path)
        offsets = [*range(80), *range(4096, 4176)] if path == "hard_state" else range(len(content))
        for offset in offsets:
            found = flipped(written, path, offset, _mask(offset))
            assert found == ("corrupt" if path == "wal/manifest" else "harmless"), (path, offset)


def test_both_slots_of_the_hard_state_bad_is_never_taken_for_term_zero() -> None:
    """The node does not start."""
    written = write_log(sealed=True)
    for first in range(0, 27, 3):
        for second in range(0, 27, 3):
            disk = written.fresh_disk()
            disk.flip("hard_state", first)
            disk.flip("hard_state", 4096 + second)
            with pytest.raises(Corrupt, match="term and vote cannot be known"):
                Wal.open(disk, SMALL)


def test_a_rotten_newest_slot_does_not_bring_back_an_older_vote() -> None:
    """Each state is in both slots before it is revealed, so whichever slot rots, the newest revealed state is found."""
    for slot in (0, 4096):
        written = write_log(sealed=True)
        written.disk.overwrite("hard_state", slot, bytes(100))
        wal = Wal.open(written.disk, SMALL)
        assert wal.hard_state == HardState(2, "n2")


@pytest.mark.parametrize("payload_bytes", [40, 700])
def test_a_last_group_cut_at_any_byte_loses_nothing_acknowledged(payload_bytes: int) -> None:
    """A group under way of which only the first bytes reached the disk: the groups before it are there, and the node is suspect
    unless a whole sector's share of it is missing."""
    written = write_log(sealed=False, payload_bytes=payload_bytes)
    begin, end = written.last_group
    whole = written.disk.content(SECOND)[begin:end]
    verdicts = set()
    for length in range(end - begin):
        disk = written.fresh_disk()
        disk.overwrite(SECOND, begin + length, bytes(end - begin - length))
        if not any(whole[length:]):
            continue
        wal = Wal.open(disk, SMALL)
        assert same_log(observed(wal), written.before_last)
        boundary = begin + length + -(begin + length) % SECTOR_BYTES
        if any(whole[length:64]) or boundary < end:
            assert wal.recovered.suspect is None, length
        else:
            assert wal.recovered.suspect == written.model.last.index, length
        verdicts.add(wal.recovered.suspect is None)
    assert verdicts == {True, False}


def test_any_lost_sectors_of_a_group_under_way_lose_nothing_acknowledged() -> None:
    """Whichever sectors of the last group did not reach the disk, it is known never to have been acknowledged: nobody is
    suspect."""
    written = write_log(sealed=False, payload_bytes=900)
    begin, end = written.last_group
    bounds = [begin, *range(begin + -begin % SECTOR_BYTES, end, SECTOR_BYTES), end]
    pieces = [(low, high) for low, high in itertools.pairwise(bounds) if low < high]
    assert len(pieces) >= 4
    for lost in range(1, 1 << len(pieces)):
        disk = written.fresh_disk()
        for number, (low, high) in enumerate(pieces):
            if lost >> number & 1:
                disk.overwrite(SECOND, low, bytes(high - low))
        wal = Wal.open(disk, SMALL)
        assert same_log(observed(wal), written.before_last)
        assert wal.recovered.suspect is None


def test_a_group_that_may_hold_zeroes_is_not_taken_for_torn() -> None:
    """Where zeroes are no evidence, a bad last group makes the node suspect."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(1, entries=entries(1, 1)))
    driver.write(LogWrite(2, entries=(Entry(2, 1, EntryKind.BATCH, bytes(2000) + b"end"),)))
    used = len(driver.disk.content(FIRST).rstrip(b"\0"))
    driver.disk.overwrite(FIRST, used - 8, bytes(8))
    driver.disk.crash(Survival.LOST)
    assert driver.open().recovered.suspect == 2


@pytest.mark.parametrize("path", [FIRST, SECOND, "wal/manifest", "hard_state"])
def test_a_missing_file_is_named_and_refused(path: str) -> None:
    """Also the newest segment, of which nothing but the manifest tells."""
    written = write_log(sealed=True)
    written.disk.delete(path)
    with pytest.raises(Corrupt, match=path):
        Wal.open(written.disk, SMALL)


def test_a_directory_without_identity_is_refused_once_it_was_used() -> None:
    """Both copies gone, and the log has entries: that is a loss, not a new node."""
    written = write_log(sealed=True)
    written.disk.delete("identity.1")
    written.disk.delete("identity.2")
    with pytest.raises(Corrupt, match=r"identity\.1 and identity\.2 are missing"):
        Wal.open(written.disk, SMALL)


@pytest.mark.parametrize("path", [FIRST, SECOND])
def test_a_short_segment_is_named_and_refused(path: str) -> None:
    """A segment has its full length before it is used, so one that is shorter was cut by somebody."""
    written = write_log(sealed=True)
    used = len(written.disk.content(path).rstrip(b"\0"))
    for size in (0, 10, 4096, used - 9, used - 1):
        disk = written.fresh_disk()
        disk.shorten(path, size)
        with pytest.raises(Corrupt, match=path):
            Wal.open(disk, SMALL)


def test_rot_is_named_by_file_offset_and_entry() -> None:
    """The message is enough to fetch the entry from elsewhere."""
    written = write_log(sealed=True)
    offset = written.disk.content(SECOND).index(b"5/1 5/1")
    written.disk.flip(SECOND, offset + 10)
    with pytest.raises(Corrupt, match=rf"{SECOND} at offset {offset - 32}: .*this is entry 5 \(term 1\)"):
        Wal.open(written.disk, SMALL)


def test_rot_that_appears_while_the_node_runs_is_found_by_reading() -> None:
    """Every read compares checksums, of the header and of the payload."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(1, entries=entries(1, 3)))
    offset = driver.disk.content(FIRST).index(b"2/1 ")
    for flip in (offset, offset - 10):
        driver.disk.flip(FIRST, flip)
        assert len(driver.wal.read(1, 1, 1000)) == 1
        with pytest.raises(Corrupt, match=rf"{FIRST} at offset {offset - 32}: .*entry 2 \(term 1\)"):
            driver.wal.read(1, 3, 1000)
        driver.disk.flip(FIRST, flip)
    driver.disk.fail_reads(FIRST)
    with pytest.raises(StorageError, match="Input/output error"):
        driver.wal.read(1, 3, 1000)


@pytest.mark.parametrize("sealed", [False, True])
def test_an_older_manifest_is_noticed(sealed: bool) -> None:
    """A disk that loses the newest manifest although it was synced is caught by the groups that the old one does not account
    for."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(1, entries=entries(1, 1)))
    older = driver.disk.content("wal/manifest")
    driver.write(LogWrite(2, entries=(entry(2, size=4000),)))
    if sealed:
        driver.seal()
    driver.disk.crash(Survival.LOST)
    driver.disk.shorten("wal/manifest", 0)
    file = driver.disk.open("wal/manifest")
    file.write_at(0, older)
    with pytest.raises(Corrupt, match="manifest is older than the log"):
        driver.open()


def test_swapped_segments_are_noticed() -> None:
    """A file under another file's name is not taken for it, though all of its checksums are right."""
    written = write_log(sealed=True)
    first, second = written.disk.content(FIRST), written.disk.content(SECOND)
    for path, content in ((FIRST, second), (SECOND, first)):
        disk = written.fresh_disk()
        disk.shorten(path, 0)
        disk.open(path).write_at(0, content)
        with pytest.raises(Corrupt, match=f"{path}: it is another file"):
            Wal.open(disk, SMALL)


def test_a_lost_write_in_the_middle_is_noticed() -> None:
    """A disk that reported a sync and kept an older state of a stretch: zeroes with groups behind them are rot."""
    written = write_log(sealed=False)
    content = written.disk.content(SECOND)
    begin = content.index(b"5/1 5/1") - 32 - 64
    written.disk.overwrite(SECOND, begin, bytes(192))
    with pytest.raises(Corrupt, match=f"{SECOND} at offset {begin}: there are zeroes where a group begins"):
        Wal.open(written.disk, SMALL)


def test_a_lying_disk_is_caught_where_it_leaves_a_trace() -> None:
    """A disk that syncs nothing for a while and then again: the first durable bytes stand behind a hole, and the node stops."""
    driver = Driver(SimDisk(random.Random(5)))
    driver.open()
    driver.write(LogWrite(1, entries=entries(1, 2)))
    driver.disk.lying = True
    driver.write(LogWrite(2, entries=entries(3, 3)))
    driver.disk.forget_pending()
    driver.disk.lying = False
    driver.write(LogWrite(3, entries=entries(4, 4)))
    driver.write(LogWrite(4, entries=entries(5, 5)))
    driver.disk.crash(Survival.LOST)
    with pytest.raises(Corrupt, match="there are zeroes where a group begins; what is lost comes after entry 2"):
        driver.open()


def _suspect_driver() -> tuple[Driver, Index]:
    written = write_log(sealed=False)
    written.disk.flip(SECOND, written.last_group[0] + 100)
    driver = Driver(written.disk)
    driver.acked = driver.doing = written.before_last
    driver.acked.hard_state = written.model.hard_state
    driver.open()
    return driver, written.model.last.index


def test_suspicion_outlives_restarts_until_it_is_cleared() -> None:
    """A node that forgot by being restarted that it may have forgotten something would vote."""
    driver, lost = _suspect_driver()
    assert driver.wal.suspect == lost
    driver.check()
    driver.write(LogWrite(1, entries=entries(7, 7, 3)))
    driver.disk.crash(Survival.LOST)
    assert driver.open().recovered.suspect == lost
    driver.wal.close()
    assert driver.open().recovered.suspect == lost
    driver.wal.clear_suspect()
    assert driver.wal.suspect is None
    driver.disk.crash(Survival.LOST)
    assert driver.open().recovered.suspect is None
    driver.check()


def test_an_illegible_last_group_makes_at_least_the_next_entry_suspect() -> None:
    """When not even the group's record can be read, nobody knows how far it went; the next entry may be lost."""
    written = write_log(sealed=False)
    written.disk.flip(SECOND, written.last_group[0] + 3)
    assert Wal.open(written.disk, SMALL).recovered.suspect == written.before_last.last.index + 1


def test_a_log_that_was_compacted_beyond_what_is_sound_has_rotted() -> None:
    """The manifest says that entries were durable which the bad last group would have held: that group was acknowledged."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(1, entries=entries(1, 2), commit=2))
    driver.write(LogWrite(2, entries=entries(3, 6), commit=2))
    driver.compact(5)
    driver.disk.crash(Survival.LOST)
    driver.disk.flip(FIRST, driver.disk.content(FIRST).index(b"4/1 "))
    with pytest.raises(Corrupt, match="entry 4"):
        driver.open()


@pytest.mark.parametrize(("offset", "name"), [(8, FIRST), (8, "wal/manifest"), (8, "hard_state"), (8, "identity.1")])
def test_a_newer_format_is_refused_as_newer(offset: int, name: str) -> None:
    """A node that was rolled back says which version it needs, and does not call sound files damaged."""
    written = write_log(sealed=True)
    content = written.disk.content(name)
    if name == FIRST:
        newer = content[:8] + struct.pack("<H", 2) + content[10:60]
        newer += struct.pack("<I", google_crc32c.value(newer))
    else:
        newer = wrap(content[:8], 2, unwrap(content[:8], 1, content))
    written.disk.overwrite(name, 0, newer)
    with pytest.raises(StorageError, match="format version 2") as caught:
        load_identity(written.disk) if name == "identity.1" else Wal.open(written.disk, SMALL)
    assert not isinstance(caught.value, Corrupt)


def test_the_log_of_another_group_is_refused() -> None:
    """Each Raft group has its own log."""
    written = write_log(sealed=True)
    with pytest.raises(Corrupt, match="group 0 and group 3 was asked for"):
        Wal.open(written.disk, WalSettings(segment_bytes=8192, group=3))
