"""The log through its interface: what it accepts and refuses, what errors of the disk do to it, and reading."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from raftkv.errors import DirectoryInUse, DiskFull, InvalidRequest, InvalidSettings, InvariantBroken, StorageError
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Member, SnapshotMeta
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.storage.disk import OsDisk
from raftkv.storage.wal import LOCK_PATH, LogWrite, Wal, WalSettings
from tests.storage.log_model import SMALL, Driver, continue_and_check, entries, entry, observed, run_until_crash
from tests.storage.test_crash import WORKLOADS


def opened() -> Driver:
    """A driver with an open, empty log."""
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    return driver


def test_a_new_log_is_empty_and_says_that_it_was_created() -> None:
    """Until an identity is written the directory counts as new, also after a restart."""
    disk = SimDisk(random.Random(1))
    wal = Wal.open(disk, SMALL)
    assert wal.recovered.created
    assert (wal.first_index, wal.last_index, wal.hard_state, wal.size_bytes) == (1, 0, HardState(), 0)
    wal.close()
    assert Wal.open(disk, SMALL).recovered.created
    driver = opened()
    driver.reopen()
    assert not driver.wal.recovered.created


def test_reads_are_bounded_by_bytes_and_give_at_least_one_entry() -> None:
    """The payloads of an answer fit in what was asked for, or it is one entry; outside of the log it is empty."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 9, 1, 100)))
    read = driver.wal.read
    assert [found.index for found in read(3, 9, 250)] == [3, 4]
    assert [found.index for found in read(3, 9, 300)] == [3, 4, 5]
    assert read(3, 9, 0) == [entry(3, 1, 100)]
    assert read(8, 100, 1 << 20) == list(entries(8, 9, 1, 100))
    assert read(0, 5, 100) == []
    assert read(10, 12, 100) == []
    assert read(5, 4, 100) == []
    driver.compact(4)
    assert read(4, 6, 1000) == []
    assert read(5, 6, 1000) == list(entries(5, 6, 1, 100))


def test_reads_cross_segments_and_see_overwritten_entries_once() -> None:
    """Wherever the records are, the log reads as one."""
    driver = opened()
    for first in range(1, 30, 3):
        driver.write(LogWrite(first, entries=entries(first, first + 4, first, 300), commit=0))
    assert len(driver.disk.list("wal")) > 3
    driver.check()


def test_configurations_are_told_apart_and_rolled_back_with_their_entries() -> None:
    """Recovery names the configuration entries after the beginning, decoded."""
    driver = opened()
    configuration = Configuration((Member("n1", 7, "a:1"),), ("n1",))
    payload = msgspec.msgpack.encode(configuration)
    driver.write(
        LogWrite(1, entries=(entry(1), Entry(2, 1, EntryKind.CONFIGURATION, payload), Entry(3, 1, EntryKind.CONFIGURATION, payload)))
    )
    driver.write(LogWrite(2, entries=entries(3, 3, 2)))
    driver.disk.crash(Survival.LOST)
    assert driver.open().recovered.configurations == ((2, configuration),)
    driver.check()
    driver.compact(2)
    assert driver.wal.recovered_now().configurations == ()


def test_a_snapshot_that_the_log_reaches_cuts_nothing() -> None:
    """Only a snapshot whose entry the log does not hold makes the log begin anew (hazard 30)."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 9)))
    driver.write(LogWrite(2, snapshot=SnapshotMeta(5, 1), commit=5))
    assert (driver.wal.first_index, driver.wal.last_index) == (1, 9)
    driver.compact(7)
    driver.write(LogWrite(3, snapshot=SnapshotMeta(5, 1)))
    assert (driver.wal.first_index, driver.wal.last_index) == (8, 9)


def test_a_snapshot_whose_entry_differs_replaces_the_log() -> None:
    """An entry of another term at the snapshot's index must not stay (hazard 29)."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 9)))
    driver.write(LogWrite(2, snapshot=SnapshotMeta(5, 2, Configuration((Member("n1"),), ("n1",)))))
    driver.disk.crash(Survival.LOST)
    assert driver.open().recovered.snapshot == SnapshotMeta(5, 2, Configuration((Member("n1"),), ("n1",)))
    assert driver.wal.recovered.last == EntryId(5, 2)
    driver.check()


def test_a_snapshot_after_entries_of_the_same_call_sees_those_entries() -> None:
    """Whether the log holds a snapshot's entry is asked after what precedes it is in the log."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 4)), LogWrite(2, snapshot=SnapshotMeta(3, 1)), LogWrite(3, entries=entries(5, 5)))
    assert (driver.wal.first_index, driver.wal.last_index) == (1, 5)
    driver.check()


BAD_WRITES = {
    "a gap after the log": LogWrite(2, entries=entries(8, 8)),
    "a gap among the entries": LogWrite(2, entries=(entry(6), entry(8))),
    "an index before the log": LogWrite(2, entries=entries(2, 7)),
    "a falling term": LogWrite(2, entries=(entry(6, 2), entry(7, 1))),
    "a term below the log's": LogWrite(2, entries=entries(5, 5, 0)),
    "an overwritten commit": LogWrite(2, entries=entries(4, 4, 2)),
    "a snapshot against a commit": LogWrite(2, snapshot=SnapshotMeta(4, 2)),
    "a configuration that is none": LogWrite(2, entries=(Entry(6, 1, EntryKind.CONFIGURATION, b"\xff\xfe"),)),
}


@pytest.mark.parametrize("name", BAD_WRITES)
def test_what_could_not_be_read_back_is_not_written(name: str) -> None:
    """A write that contradicts the log is refused before anything of it is on the disk, and the log goes on."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 5), commit=4))
    driver.compact(3)
    operations = driver.disk.operations
    with pytest.raises(InvariantBroken):
        driver.wal.write([LogWrite(1, HardState(9, None)), BAD_WRITES[name]])
    assert driver.disk.operations == operations
    driver.write(LogWrite(3, entries=entries(6, 6)))
    driver.check()


def test_too_large_an_entry_or_name_is_refused_before_anything_is_written() -> None:
    """Limits are named."""
    driver = Driver(SimDisk(random.Random(1)), WalSettings(segment_bytes=8192, max_entry_bytes=1000))
    driver.open()
    operations = driver.disk.operations
    with pytest.raises(InvalidRequest, match="has 1001 bytes; the log takes at most 1000"):
        driver.wal.write([LogWrite(1, entries=(entry(1, size=1001),))])
    with pytest.raises(InvalidRequest, match="id of the node voted for is too long"):
        driver.wal.write([LogWrite(1, HardState(1, "n" * 5000))])
    assert driver.disk.operations == operations


@pytest.mark.parametrize(
    "change",
    [{"segment_bytes": 4096}, {"segment_bytes": 10000}, {"max_entry_bytes": 0}, {"tail_bytes": 0}, {"tail_entries": -1}, {"group": -1}],
)
def test_settings_out_of_range_are_named(change: dict[str, int]) -> None:
    """With the value and the rule."""
    ((name, value),) = change.items()
    with pytest.raises(InvalidSettings, match=f"{name} is {value}; it must"):
        WalSettings(**change)


def test_the_log_cannot_begin_after_what_it_does_not_hold() -> None:
    """Compaction names an entry of the log; going back is ignored."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 5)))
    for meta in (SnapshotMeta(6, 1), SnapshotMeta(3, 2)):
        with pytest.raises(InvariantBroken, match="cannot begin after"):
            driver.wal.compact(meta)
    driver.compact(3)
    driver.wal.compact(SnapshotMeta(2, 1))
    assert driver.wal.first_index == 4


def test_compaction_removes_whole_segments_and_nothing_else() -> None:
    """Files go as soon as nothing in them counts; the newest stays."""
    driver = opened()
    for index in range(1, 21):
        driver.write(LogWrite(index, entries=(entry(index, 1, 1500),), commit=index))
    before = driver.wal.size_bytes
    files = len(driver.disk.list("wal"))
    driver.compact(10)
    assert len(driver.disk.list("wal")) == files - 5
    assert driver.wal.size_bytes < before * 6 / 10
    driver.compact(20)
    assert driver.disk.list("wal") == ["000000000010.log", "manifest"]
    driver.check()
    driver.reopen()
    driver.check()


def test_the_tail_of_a_recovery_is_bounded_by_its_settings() -> None:
    """As many of the newest entries as fit, by count and by bytes."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 20, 1, 100)))
    driver.wal.close()
    for change, count in (({"tail_entries": 5}, 5), ({"tail_bytes": 750}, 7), ({"tail_bytes": 99}, 0), ({}, 20)):
        driver.settings = WalSettings(segment_bytes=8192, **change)
        wal = driver.open()
        assert [found.index for found in wal.recovered.tail] == list(range(21 - count, 21))
        assert wal.recovered_now() == wal.recovered
        wal.close()


def test_two_processes_never_share_a_directory() -> None:
    """The second one is told; when the first has closed, it may come."""
    driver = opened()
    driver.wal.close()
    driver.disk.locked_elsewhere.add(LOCK_PATH)
    with pytest.raises(DirectoryInUse):
        driver.open()
    driver.disk.locked_elsewhere.clear()
    driver.open()


def test_after_closing_nothing_is_written_or_read() -> None:
    """Closing twice is harmless."""
    driver = opened()
    driver.wal.close()
    driver.wal.close()
    for act in (lambda: driver.wal.write([LogWrite(1, HardState(1))]), driver.wal.seal, lambda: driver.wal.read(1, 1, 1)):
        with pytest.raises(StorageError, match="closed"):
            act()


@pytest.mark.parametrize("name", WORKLOADS)
def test_any_error_of_the_disk_stops_the_log_and_loses_nothing(name: str) -> None:
    """An error in any operation: the call fails, everything later fails, nothing more reaches the disk, and a restart finds what
    was acknowledged, whether only the process dies or the machine."""
    steps = WORKLOADS[name]
    operation = 0
    while True:
        operation += 1
        driver = Driver(SimDisk(random.Random(operation)))
        driver.disk.fail_at(operation, StorageError("cannot write: Input/output error"))
        try:
            run_until_crash(driver, steps)
        except StorageError:
            if not any("identity" in past for past in driver.disk.history[-3:]):  # which is not written through the log
                _refuses_everything(driver)
        else:
            if driver.disk.operations < operation:
                break
        driver.disk.crash(list(Survival)[operation % 4])
        driver.open()
        driver.check()


def _refuses_everything(driver: Driver) -> None:
    try:
        wal = driver.wal
    except AssertionError:
        return  # the log did not even open
    operations = driver.disk.operations
    acts: list[Callable[[], None]] = [
        lambda: wal.write([LogWrite(99, HardState(99))]),
        wal.seal,
        wal.clear_suspect,
        lambda: wal.compact(SnapshotMeta(1, 1)),
    ]
    for act in acts:
        with pytest.raises(StorageError, match=r"not usable since an earlier error|closed"):
            act()
    wal.close()
    assert driver.disk.operations == operations


def _full_disk() -> Driver:
    driver = Driver(SimDisk(random.Random(1)))
    driver.open()
    driver.write(LogWrite(1, HardState(1, "n1"), None, (entry(1, 1, 2000),), 0))
    driver.write(LogWrite(2, None, None, (entry(2, 1, 1500),), 1))
    driver.disk.capacity_bytes = sum(map(len, driver.disk.files().values()))
    return driver


def test_a_full_disk_refuses_a_write_before_anything_of_it_is_written() -> None:
    """Nothing has happened, not even to the hard state; the log is read, takes what fits, and goes on when there is space."""
    driver = _full_disk()
    refused = LogWrite(3, HardState(2, "n2"), None, (entry(3, 1, 1500),), 2)
    before = driver.disk.files()
    for _ in range(3):
        with pytest.raises(DiskFull):
            driver.wal.write([refused])
    assert driver.disk.files() == before
    assert driver.wal.hard_state == HardState(1, "n1")
    driver.check()
    driver.write(LogWrite(3, HardState(2, None), None, (entry(3, 1, 20),), 2))
    driver.disk.capacity_bytes = None
    driver.write(LogWrite(4, HardState(2, "n2"), None, (entry(4, 1, 1500),), 3))
    driver.disk.crash(Survival.LOST)
    driver.open()
    driver.check()


@pytest.mark.parametrize("spare", range(0, 9000, 250))
def test_a_disk_that_fills_up_at_any_point_of_a_new_segment_is_survived(spare: int) -> None:
    """Whether the segment, or then the manifest, finds no space: either the write happens or it can be made again."""
    driver = _full_disk()
    assert driver.disk.capacity_bytes is not None
    driver.disk.capacity_bytes += spare
    write = LogWrite(3, HardState(2, "n2"), None, (entry(3, 1, 1500),), 2)
    try:
        driver.wal.write([write])
    except DiskFull:
        driver.disk.capacity_bytes = None
        driver.write(write)
    else:
        driver.doing.write(write)
        driver.acked = driver.doing
    driver.check()
    driver.disk.crash(Survival.LOST)
    driver.open()
    continue_and_check(driver)


@pytest.mark.parametrize("spare", [0, 300, 8192, 8192 + 100, 8192 + 300])
def test_a_full_disk_does_not_keep_a_node_from_starting(spare: int) -> None:
    """Recovery takes only the space that it needs when a whole segment is not to be had, and none when there is none."""
    driver = _full_disk()
    assert driver.disk.capacity_bytes is not None
    driver.disk.crash(Survival.LOST)
    driver.disk.capacity_bytes += spare
    driver.settings = WalSettings(segment_bytes=1 << 20)
    driver.open()
    driver.check()
    driver.disk.capacity_bytes = None
    driver.write(LogWrite(3, entries=entries(3, 3)))
    continue_and_check(driver)


def test_a_full_disk_that_fails_where_space_was_reserved_stops_the_log() -> None:
    """A copying file system may run out of space in the middle of a group; then nothing is known, and the node must stop."""
    driver = opened()
    driver.disk.fail_at(driver.disk.operations + 2, DiskFull("no space left to sync"))
    with pytest.raises(StorageError, match="although the space was reserved") as caught:
        driver.wal.write([LogWrite(1, entries=entries(1, 1))])
    assert not isinstance(caught.value, DiskFull)
    _refuses_everything(driver)


def test_a_write_is_one_write_and_one_sync() -> None:
    """Group commit rests on it: however many entries and Readies, the disk is waited for once; a change of hard state adds its
    own."""
    driver = opened()
    driver.write(LogWrite(1, HardState(1, "n1")))
    before = len(driver.disk.history)
    driver.write(*[LogWrite(number, HardState(1, "n1"), None, entries(3 * number + 1, 3 * number + 3), 0) for number in range(8)])
    assert driver.disk.history[before:] == ["write wal/000000000001.log", "sync wal/000000000001.log"]
    before = len(driver.disk.history)
    driver.write(LogWrite(9, HardState(2, "n2"), None, entries(25, 25, 2), 0))
    assert driver.disk.history[before:] == ["write hard_state", "sync hard_state"] * 2 + [
        "write wal/000000000001.log",
        "sync wal/000000000001.log",
    ]


def test_an_orderly_restart_leaves_no_trace() -> None:
    """A sealed log is gone on with in place: restarting again and again makes no new files."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 3)))
    for _ in range(5):
        driver.reopen()
        driver.check()
    assert driver.disk.list("wal") == ["000000000001.log", "manifest"]


def test_crashing_again_and_again_does_not_fill_the_disk() -> None:
    """Each recovery of an unsealed tail begins a segment and gives back the space of the one before."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 3)))
    for _ in range(10):
        driver.disk.restart()
        driver.open()
        driver.check()
    assert len(driver.disk.list("wal")) == 2
    for index in range(4, 24):
        driver.write(LogWrite(index, entries=entries(index, index)))
        driver.disk.restart()
        driver.open()
    driver.check()
    assert sum(len(content) for path, content in driver.disk.files().items() if path.startswith("wal/0")) < 8192 + 20 * 5000


def test_nothing_is_changed_in_a_directory_that_is_refused() -> None:
    """So that whoever looks at the damage sees what the node saw."""
    driver = opened()
    driver.write(LogWrite(1, entries=entries(1, 3)))
    driver.write(LogWrite(2, entries=entries(4, 4)))
    driver.disk.crash(Survival.LOST)
    driver.disk.flip("wal/000000000001.log", driver.disk.content("wal/000000000001.log").index(b"2/1 "))
    before = driver.disk.files()
    with pytest.raises(StorageError):
        driver.open()
    assert driver.disk.files() == before


CHILD = """
import sys
from collections.abc import Callable
from pathlib import Path
from raftkv.raft.types import Entry, EntryKind
from raftkv.storage.disk import OsDisk
from raftkv.storage.identity import Identity, create_identity, identity_exists
from raftkv.storage.wal import LogWrite, Wal, WalSettings
disk = OsDisk(Path(sys.argv[1]))
wal = Wal.open(disk, WalSettings(segment_bytes=1 << 16))
if not identity_exists(disk):
    create_identity(disk, Identity(bytes(16), "c", "n1", 1, 0, ()))
index = wal.last_index
while True:
    index += 1
    wal.write([LogWrite(index, entries=(Entry(index, 1, EntryKind.BATCH, b"%d" % index * 50),), commit=index - 1)])
    print(index, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    """On a real file system, with a real SIGKILL, three times in a row."""
    reported = 0
    for _ in range(3):
        command = [sys.executable, "-c", CHILD, str(tmp_path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert child.stdout is not None
        before = reported
        for line in child.stdout:
            reported = int(line)
            if reported % 200 == 0:
                break
        child.kill()
        reported = max([reported, *[int(line) for line in child.stdout.read().split("\n")[:-1]]])
        child.wait()
        assert reported > before
        wal = Wal.open(OsDisk(tmp_path), WalSettings(segment_bytes=1 << 16))
        assert reported <= wal.last_index <= reported + 1
        held = wal.read(1, wal.last_index, 1 << 30)
        assert [found.payload for found in held] == [b"%d" % index * 50 for index in range(1, wal.last_index + 1)]
        observed(wal)
        wal.close()


def test_the_same_log_on_a_real_disk(tmp_path: Path) -> None:
    """The workloads of the crash tests, on files of the operating system, with a restart after each step."""
    for number, steps in enumerate(WORKLOADS.values()):
        disk = OsDisk(tmp_path / str(number))
        driver = Driver(SimDisk(random.Random(0)), view=disk)
        driver.open()
        for step in steps:
            step(driver)
            driver.check()
            driver.reopen()
            driver.check()
        with pytest.raises(DirectoryInUse):
            Wal.open(OsDisk(tmp_path / str(number)), SMALL)
        driver.wal.close()


def test_a_crash_is_no_error_that_a_program_could_handle() -> None:
    """The simulator's crash passes through every handler of the product."""
    assert not issubclass(Crashed, Exception)
