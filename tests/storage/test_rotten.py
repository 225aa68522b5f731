"""Rotten entries in the middle of a log: what is known of them, and that the log is made whole or left as it is."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable

import pytest

from raftkv.codec.record import RECORD_BYTES
from raftkv.errors import Corrupt, DiskFull, InvariantBroken, Rotten, StorageError
from raftkv.raft.types import Entry, EntryId, EntryKind, HardState, Index, SnapshotMeta
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.storage.hard_state import HARD_STATE_PATH, SLOT_BYTES
from raftkv.storage.manifest import load_manifest
from raftkv.storage.replay import LOG_DIRECTORY, MANIFEST_PATH
from raftkv.storage.rotten import RottenLog
from raftkv.storage.segment import Scan, read_header, segment_path
from raftkv.storage.wal import LogWrite, Wal
from tests.storage.healing import answers, heal
from tests.storage.log_model import SMALL, Driver, LogModel, continue_and_check, entries, entry, observed, same_log

FIRST = "wal/000000000001.log"
SECOND = "wal/000000000002.log"


def log_of(*groups: tuple[Entry, ...], sealed: bool = True) -> Driver:
    """A log with one group for each of `groups`, of a node that has stopped."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(0, HardState(max(group[-1].term for group in groups), "n1")))
    for number, group in enumerate(groups, 1):
        driver.write(LogWrite(number, None, None, group, 0))
    if sealed:
        driver.seal()
    driver.disk.crash(Survival.LOST)
    return driver


def but_hard_state(disk: SimDisk) -> dict[str, bytes]:
    """All files but the one that every start writes again."""
    return {path: content for path, content in disk.files().items() if path != HARD_STATE_PATH}


def places(driver: Driver) -> dict[EntryId, tuple[str, int]]:
    """Where the newest record of every entry is."""
    found: dict[EntryId, tuple[str, int]] = {}
    for listed in load_manifest(driver.disk, MANIFEST_PATH).segments:
        path = segment_path(LOG_DIRECTORY, listed.id)
        file = driver.disk.open(path)
        header = read_header(file)
        assert header is not None
        recorded = (listed.number, listed.checksum) if listed.end else None
        for group in Scan(file, header, listed.end or listed.capacity, recorded).groups():
            for located in group.records:
                found[EntryId(located.record.index, located.record.term)] = (path, located.offset)
            for known in group.rot.records if group.rot is not None else ():
                if known.header is not None and known.term is not None:
                    found[EntryId(known.index, known.term)] = (path, known.offset)
    return found


def rot(driver: Driver, index: Index, term: int = 1, *, header: bool = False) -> None:
    """Let entry `index` rot: its payload, or the header of its record."""
    path, offset = places(driver)[EntryId(index, term)]
    driver.disk.flip(path, offset + (5 if header else RECORD_BYTES + 3), 0x10)


def needed(driver: Driver) -> list[tuple[Index, int | None]]:
    """The rotten entries of the log, as far as they are known; that nothing is changed by asking."""
    before = but_hard_state(driver.disk)
    with pytest.raises(Rotten):
        Wal.open(driver.disk, SMALL)
    log = RottenLog.open(driver.disk, SMALL)
    found = [(rotten.index, rotten.term) for rotten in log.needed]
    log.close()
    assert but_hard_state(driver.disk) == before
    return found


FOUR = (entries(1, 1), entries(2, 2), entries(3, 3), entries(4, 4))
MANY = (entries(1, 2), entries(3, 8), entries(9, 10))


@pytest.mark.parametrize("index", [1, 2, 3, 4])
@pytest.mark.parametrize("header", [False, True])
def test_one_rotten_entry_is_known_and_mended(index: Index, header: bool) -> None:
    """Whether the payload or the header of the record is rotten, it is known which entry it was; with that the log is as before."""
    driver = log_of(*FOUR)
    whole = but_hard_state(driver.disk)
    rot(driver, index, header=header)
    assert needed(driver) == [(index, 1)]
    heal(driver.disk, driver.acked)
    assert but_hard_state(driver.disk) == whole
    driver.open()
    continue_and_check(driver)


@pytest.mark.parametrize("bad", [bad for count in (1, 2, 3) for bad in itertools.combinations(range(3, 9), count)])
def test_rotten_headers_in_a_group_are_accounted_for(bad: tuple[Index, ...]) -> None:
    """Whichever headers of a group are lost, the records around them leave only one row of indices."""
    driver = log_of(*MANY)
    whole = but_hard_state(driver.disk)
    for index in bad:
        rot(driver, index, header=True)
    found = needed(driver)
    assert [index for index, _ in found] == list(bad)
    heal(driver.disk, driver.acked)
    assert but_hard_state(driver.disk) == whole


def test_rot_does_not_gather_in_the_hard_state_while_the_log_is_rotten() -> None:
    """Found by a simulated storm: a node in repair was started again and again, and in each life another slot of its term rotted."""
    driver = log_of(*FOUR)
    rot(driver, 2)
    for offset in (5, SLOT_BYTES + 5):
        driver.disk.flip(HARD_STATE_PATH, offset)
        RottenLog.open(driver.disk, SMALL).close()
        assert len({driver.disk.content(HARD_STATE_PATH)[at : at + SLOT_BYTES] for at in (0, SLOT_BYTES)}) == 1


def test_rot_at_the_place_where_the_log_begins_does_not_matter() -> None:
    """Found by a simulated storm: of the entry up to which the log was cut nothing counts any more, its term in the log included."""
    driver = log_of((entry(1, 1), entry(2, 2), entry(3, 2)))
    driver.open()
    driver.compact(2)
    driver.seal()
    driver.disk.crash(Survival.LOST)
    for path, offset in (place for name, place in places(driver).items() if name.index < 3):
        driver.disk.flip(path, offset + 9)
    wal = Wal.open(driver.disk, SMALL)
    assert (wal.begin.index, wal.begin.term, wal.last_index, wal.term_at(3)) == (2, 2, 3, 2)


def test_a_group_of_which_only_its_record_is_left_is_mended() -> None:
    """Count and last entry of the group say what it held; the terms in between are not known, and are not made up."""
    driver = log_of(entries(1, 2), (entry(3, 1), entry(4, 2), entry(5, 4)), entries(6, 6, 4))
    whole = but_hard_state(driver.disk)
    path, offset = places(driver)[EntryId(3, 1)]
    driver.disk.overwrite(path, offset, random.Random(2).randbytes(3 * 72))
    assert needed(driver) == [(3, None), (4, None), (5, 4)]
    log = RottenLog.open(driver.disk, SMALL)
    assert [rotten.anchor for rotten in log.needed] == [EntryId(5, 4)] * 3
    assert [log.term_at(index) for index in range(1, 7)] == [1, 1, None, None, 4, 4]
    log.close()
    heal(driver.disk, driver.acked)
    assert but_hard_state(driver.disk) == whole


def test_an_entry_that_is_not_the_one_that_was_written_is_not_taken() -> None:
    """What a sound header says is compared at once; without one, the checksum of the group is, and nothing is written."""
    driver = log_of(*FOUR)
    right = driver.acked.entries[1]
    [place] = [where for entry_id, where in places(driver).items() if entry_id.index == 2]
    wrong = Entry(2, 1, EntryKind.BATCH, b"x" * len(right.payload))
    for header in (False, True):
        driver.disk.flip(place[0], place[1] + (5 if header else RECORD_BYTES + 3))
        before = but_hard_state(driver.disk)
        log = RottenLog.open(driver.disk, SMALL)
        [rotten] = log.needed
        assert log.accepts(rotten, right)
        assert not log.accepts(rotten, entry(3))
        assert not log.accepts(rotten, entry(2, 2))
        assert log.accepts(rotten, wrong) == header
        for other in (wrong, Entry(2, 1, EntryKind.NOOP, right.payload), Entry(2, 1, EntryKind.BATCH, right.payload + b"x")):
            assert log.mend({rotten: other}) == [rotten]
        assert log.needed == (rotten,)
        log.close()
        assert but_hard_state(driver.disk) == before


def test_part_of_a_group_is_not_written() -> None:
    """A group is written when all of its rotten entries are there; other groups do not wait for it."""
    driver = log_of(*MANY)
    for index in (1, 4, 6):
        rot(driver, index)
    log = RottenLog.open(driver.disk, SMALL)
    found = answers(log, driver.acked)
    fourth = next(rotten for rotten in log.needed if rotten.index == 4)
    del found[fourth]
    assert log.mend(found) == []
    assert [rotten.index for rotten in log.needed] == [4, 6]
    log.close()
    heal(driver.disk, driver.acked)
    driver.open()
    driver.check()


def test_what_is_intact_can_be_read() -> None:
    """Around the rotten entries the log serves other nodes."""
    driver = log_of(*MANY)
    rot(driver, 4)
    rot(driver, 6, header=True)
    log = RottenLog.open(driver.disk, SMALL)
    assert [found.index for found in log.read(1, 99, 1 << 20)] == [1, 2, 3, 5, 7, 8, 9, 10]
    assert log.read(3, 5, 1) == [driver.acked.entries[2]]
    assert log.read(4, 4, 1 << 20) == []
    assert (log.last_index, log.term) == (10, 1)
    log.close()


def test_a_rotten_entry_that_was_overwritten_does_not_hide_the_one_that_counts() -> None:
    """Of a group in repair, the entries that no longer count are asked for, and those that took their places are given."""
    driver = log_of(entries(1, 2), entries(3, 5), entries(4, 6, 2))
    rot(driver, 3)
    rot(driver, 4, 1)
    log = RottenLog.open(driver.disk, SMALL)
    assert [(rotten.index, rotten.term) for rotten in log.needed] == [(3, 1), (4, 1)]
    assert [found.id for found in log.read(3, 6, 1 << 20)] == [EntryId(4, 2), EntryId(5, 2), EntryId(6, 2)]
    assert [log.term_at(index) for index in (3, 4)] == [1, 2]
    log.close()


def test_rot_in_what_was_overwritten_does_not_stop_the_node() -> None:
    """An entry that another leader has overwritten is of no use; its rot is noted, and stays."""
    driver = log_of(entries(1, 2), entries(3, 5), entries(4, 6, 2))
    rot(driver, 4, 1)
    rot(driver, 5, 1, header=True)
    wal = driver.open()
    assert len(wal.passed) == 1
    assert FIRST in wal.passed[0]
    continue_and_check(driver)


def test_rot_before_the_beginning_of_the_log_does_not_stop_the_node() -> None:
    """What was compacted away is of no use, though it is still in the file."""
    driver = log_of(*MANY)
    driver.open()
    driver.compact(5)
    driver.wal.close()
    for index in (2, 4):
        rot(driver, index)
    assert len(driver.open().passed) == 2
    continue_and_check(driver)


def test_rot_in_a_group_with_dead_and_living_entries_is_mended_with_all_of_them() -> None:
    """The group is one: also what no longer counts of it must be had again, or the checksum cannot tell."""
    driver = log_of(*MANY)
    whole = copy.deepcopy(driver.acked)
    driver.open()
    driver.compact(5)
    driver.wal.close()
    for index in (4, 7):
        rot(driver, index)
    assert needed(driver) == [(4, 1), (7, 1)]
    heal(driver.disk, whole)
    driver.open()
    driver.check()


@pytest.mark.parametrize("header", [False, True])
def test_a_rotten_reset_stops_the_node(header: bool) -> None:
    """No other node has the record of an installed snapshot."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(1, HardState(4, None), SnapshotMeta(20, 3), entries(21, 22, 4), 20))
    driver.write(LogWrite(2, None, None, entries(23, 23, 4), 21))
    driver.seal()
    driver.disk.crash(Survival.LOST)
    rot(driver, 20, 3, header=header)
    with pytest.raises(Corrupt) as caught:
        Wal.open(driver.disk, SMALL)
    assert not isinstance(caught.value, Rotten)


def test_rot_without_a_witness_stops_the_node_or_makes_it_suspect() -> None:
    """A bad last group without a seal is not known to have been durable, so it is not repaired but judged as before."""
    driver = log_of(*FOUR, sealed=False)
    rot(driver, 4)
    assert driver.open().suspect == 4


Repair = Callable[[RottenLog, LogModel], None]


def _mend(log: RottenLog, model: LogModel) -> None:
    log.mend(answers(log, model))


def _begin_after(log: RottenLog, model: LogModel) -> None:
    log.begin_after(SnapshotMeta(7, model.term_at(7) or 0))


def _end_before_rot(log: RottenLog, model: LogModel) -> None:
    log.end_before_rot()


def _begin_anew(log: RottenLog, model: LogModel) -> None:
    log.begin_anew(SnapshotMeta(20, 3))


def _rotten_log() -> Driver:
    """A log over two segments, with a long group, rotten in both."""
    driver = log_of(entries(1, 2), entries(3, 6, 1, 600), entries(7, 8, 1, 900), entries(9, 9, 2, 900), entries(10, 11, 2, 300))
    assert SECOND in but_hard_state(driver.disk)
    for index in (4, 5):
        rot(driver, index)
    rot(driver, 6, header=True)
    return driver


def crashes(way: Repair) -> list[Driver]:
    """The log after a crash at every operation of `way`, with every fate of what was not durable."""
    found: list[Driver] = []
    for survival in Survival:
        for operation in itertools.count(1):
            driver = _rotten_log()
            log = RottenLog.open(driver.disk, SMALL)
            driver.disk.crash_at(driver.disk.operations + operation)
            try:
                way(log, driver.acked)
            except Crashed:
                driver.disk.crash(survival)
                found.append(driver)
            else:
                break
    assert len(found) >= 2 * len(Survival)
    return found


def test_a_crash_while_entries_are_written_again_leaves_rot_or_none() -> None:
    """At any operation, with every fate of what was not synced: the log is whole, or can be repaired again."""
    for driver in crashes(_mend):
        try:
            driver.open()
        except Rotten:
            heal(driver.disk, driver.acked)
            driver.open()
        driver.check()
        continue_and_check(driver)


def test_a_crash_while_the_log_is_begun_after_the_state_changes_all_or_nothing() -> None:
    """The rot is there or no longer counts, and the entries after the state are there."""
    for driver in crashes(_begin_after):
        try:
            driver.open()
        except Rotten:
            log = RottenLog.open(driver.disk, SMALL)
            _begin_after(log, driver.acked)
            assert log.needed == ()
            log.close()
            driver.open()
        found = observed(driver.wal)
        assert found.begin == SnapshotMeta(7, 1)
        assert found.entries == driver.acked.entries[7:]
        assert driver.wal.suspect is None


def test_a_crash_while_the_log_is_ended_before_the_rot_changes_all_or_nothing() -> None:
    """The rot is there, or the log ends before it and the node is suspect up to its old end."""
    for driver in crashes(_end_before_rot):
        try:
            driver.open()
        except Rotten:
            log = RottenLog.open(driver.disk, SMALL)
            log.end_before_rot()
            assert log.needed == ()
            log.close()
            driver.open()
        assert observed(driver.wal).entries == driver.acked.entries[:2]
        assert driver.wal.suspect == 11
        assert driver.wal.hard_state == driver.acked.hard_state
        driver.acked = driver.doing = observed(driver.wal)
        continue_and_check(driver)


def test_a_crash_while_the_log_is_begun_anew_changes_all_or_nothing() -> None:
    """The rot is there, or an empty log begins where it should; what the node has promised in its hard state stays."""
    for driver in crashes(_begin_anew):
        try:
            driver.open()
        except Rotten:
            log = RottenLog.open(driver.disk, SMALL)
            _begin_anew(log, driver.acked)
            assert log.needed == ()
            log.close()
            driver.open()
        wal = driver.wal
        assert (wal.begin, wal.last_index, wal.suspect) == (SnapshotMeta(20, 3), 20, None)
        assert wal.hard_state == driver.acked.hard_state
        driver.acked = driver.doing = observed(wal)
        continue_and_check(driver)


def test_a_log_that_is_begun_anew_is_as_doubtful_as_it_was() -> None:
    """A bad last group may have been acknowledged, whatever the state holds."""
    driver = log_of(*FOUR[:3], entries(4, 6), sealed=False)
    path, offset = places(driver)[EntryId(4, 1)]
    rot(driver, 2)
    driver.disk.flip(path, offset + RECORD_BYTES)
    log = RottenLog.open(driver.disk, SMALL)
    log.begin_anew(SnapshotMeta(5, 2))
    log.close()
    assert driver.open().suspect == 6


@pytest.mark.parametrize("way", [_end_before_rot, _begin_anew])
def test_a_full_disk_leaves_the_log_and_takes_nothing_more(way: Repair) -> None:
    """When there is space for a segment and none for the manifest, the segment goes again: it is tried more than once."""
    driver = _rotten_log()
    log = RottenLog.open(driver.disk, SMALL)
    before = driver.disk.files()
    driver.disk.capacity_bytes = sum(map(len, before.values())) + SMALL.segment_bytes
    for _ in range(2):
        with pytest.raises(DiskFull):
            way(log, driver.acked)
        assert driver.disk.files() == before
    driver.disk.capacity_bytes = None
    way(log, driver.acked)
    log.close()
    driver.open()


@pytest.mark.parametrize("legible", [False, True])
def test_what_an_ambiguous_last_group_may_have_held_is_suspect_too(legible: bool) -> None:
    """A log with rot in the middle may end in a group that cannot be judged: giving up what is behind the rot gives that up as well."""
    driver = log_of(*FOUR[:3], entries(4, 6), sealed=False)
    path, offset = places(driver)[EntryId(4, 1)]
    rot(driver, 2)
    driver.disk.flip(path, offset + (RECORD_BYTES if legible else -40))
    log = RottenLog.open(driver.disk, SMALL)
    assert log.last_index == 3
    log.end_before_rot()
    log.close()
    assert driver.open().suspect == (6 if legible else 4)


def test_a_log_that_ends_before_its_beginning_begins_anew() -> None:
    """When the first rotten group holds the beginning of the log, nothing of it is left but that beginning."""
    driver = log_of(*MANY)
    driver.open()
    driver.compact(5)
    driver.wal.close()
    rot(driver, 7)
    log = RottenLog.open(driver.disk, SMALL)
    log.end_before_rot()
    log.close()
    wal = driver.open()
    assert (wal.begin.index, wal.last_index, wal.suspect) == (5, 5, 10)
    driver.acked = driver.doing = observed(wal)
    continue_and_check(driver)


def test_a_log_whose_first_group_wrote_over_forgotten_entries_begins_anew() -> None:
    """The first group that is left is rotten, and took the place of entries that went with the segments before it: nothing follows the
    beginning of the log, whatever was there before that group."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(1, HardState(2, "n1"), None, entries(1, 4, size=500)))
    driver.write(LogWrite(2, None, None, entries(3, 3, term=2, size=2_500)))
    driver.write(LogWrite(3, None, None, entries(4, 5, term=2)))
    assert (places(driver)[EntryId(4, 1)][0], places(driver)[EntryId(3, 2)][0]) == (FIRST, SECOND)
    driver.compact(2)
    driver.seal()
    driver.disk.crash(Survival.LOST)
    assert not driver.disk.exists(FIRST)
    rot(driver, 3, term=2)
    log = RottenLog.open(driver.disk, SMALL)
    log.end_before_rot()
    log.close()
    wal = driver.open()
    assert (wal.begin, wal.last_index, wal.suspect) == (SnapshotMeta(2, 1), 2, 5)
    driver.acked = driver.doing = observed(wal)
    continue_and_check(driver)


def test_a_log_does_not_begin_after_a_state_that_it_contradicts() -> None:
    """A state with another term at its last entry, or beyond the log's end, or before its beginning, does not stand for the log."""
    driver = log_of(*FOUR)
    rot(driver, 2)
    log = RottenLog.open(driver.disk, SMALL)
    for meta in (SnapshotMeta(3, 2), SnapshotMeta(5, 1), SnapshotMeta(0, 0)):
        log.begin_after(meta)
        assert log.begin == SnapshotMeta()
    log.close()


def test_a_whole_log_is_not_given_up() -> None:
    """Nothing is ended when there is no rot."""
    driver = log_of(*FOUR)
    log = RottenLog.open(driver.disk, SMALL)
    with pytest.raises(InvariantBroken):
        log.end_before_rot()
    with pytest.raises(InvariantBroken):
        log.begin_anew(SnapshotMeta(20, 3))
    log.close()
    assert same_log(observed(driver.open()), driver.acked)


def test_a_failed_sync_of_a_mended_group_is_not_taken_for_success() -> None:
    """The error goes up, and the node stops; after the crash of the machine the rot may be back, and is repaired again."""
    driver = _rotten_log()
    log = RottenLog.open(driver.disk, SMALL)
    found = answers(log, driver.acked)
    driver.disk.fail_at(driver.disk.operations + 2, StorageError("cannot sync: Input/output error"))
    with pytest.raises(StorageError):
        log.mend(found)
    driver.disk.crash(Survival.LOST)
    heal(driver.disk, driver.acked)
    driver.open()
    driver.check()
