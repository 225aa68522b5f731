"""A test that cannot fail proves nothing: for each hazard of the log a double breaks exactly its rule, and the suite's checks catch
it.

The numbers are those of the hazards: what went wrong in real systems. Every double is a test's, never a switch in the product; the
checks are those of `log_model`, `test_crash` and `test_rot`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from raftkv.codec.record import Record, encode_group
from raftkv.errors import Corrupt, StorageError
from raftkv.raft.types import Entry, EntryKind, HardState, Index, SnapshotMeta, Term
from raftkv.sim.disk import SimDisk, Survival
from raftkv.storage import disk as disk_module
from raftkv.storage import replay, rotten, segment
from raftkv.storage.disk import DirectoryLock, Disk, File
from raftkv.storage.hard_state import SLOT_BYTES, HardStateFile, HardStateSlot, encode_slot
from raftkv.storage.log_index import LogIndex
from raftkv.storage.manifest import Manifest, store_manifest
from raftkv.storage.recovery import RotAction, TailAction, TailFacts, decide_tail
from raftkv.storage.replay import RottenGroup
from raftkv.storage.rotten import RottenEntry, RottenLog
from raftkv.storage.segment import segment_path
from raftkv.storage.wal import LogWrite, Wal
from raftkv.storage.writer import LogThread
from tests.storage.log_model import SMALL, Driver, Step, continue_and_check, count_operations, entries, run_until_crash
from tests.storage.test_crash import FATES, WORKLOADS
from tests.storage.test_rot import SECOND, Written, outcome, write_log
from tests.storage.test_writer import Heard


def sweep(steps: Sequence[Step], wal_type: type[Wal] = Wal, view: Callable[[SimDisk], Disk] = lambda disk: disk) -> None:
    """The crash test of `test_crash`, of a double."""
    for operation in range(1, count_operations(steps) + 1):
        for survival, seed in FATES:
            disk = SimDisk(random.Random(1000 * operation + seed))
            driver = Driver(disk, wal_type=wal_type, view=view(disk))
            disk.crash_at(operation)
            run_until_crash(driver, steps)
            disk.crash(survival)
            driver.open()
            continue_and_check(driver)


def works_without_a_crash(steps: Sequence[Step], wal_type: type[Wal] = Wal, view: Callable[[SimDisk], Disk] = lambda disk: disk) -> None:
    """That a double does what it should as long as nothing goes wrong: so it is the crash that shows its fault."""
    disk = SimDisk(random.Random(1))
    driver = Driver(disk, wal_type=wal_type, view=view(disk))
    assert not run_until_crash(driver, steps)
    driver.check()
    driver.reopen()
    driver.check()


caught = pytest.raises((AssertionError, Corrupt, StorageError))


def test_the_sweep_passes_what_has_no_fault() -> None:
    """The check that catches the doubles does not catch the product; `test_crash` says so of all workloads."""
    sweep(WORKLOADS["hard states"])


class View:
    """A `Disk` that hands everything to another one."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.create = disk.create
        self.open = disk.open
        self.exists = disk.exists
        self.list = disk.list
        self.rename = disk.rename
        self.hard_link = disk.hard_link
        self.unlink = disk.unlink
        self.mkdir = disk.mkdir
        self.remove_tree = disk.remove_tree
        self.sync_directory: Callable[[str], None] = disk.sync_directory
        self.lock: Callable[[str], DirectoryLock] = disk.lock
        self.free_space = disk.free_space


class UnsyncedFile:
    """A file whose sync does nothing."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.write_at = file.write_at
        self.read_at = file.read_at
        self.size = file.size
        self.preallocate = file.preallocate
        self.truncate = file.truncate
        self.close = file.close

    @property
    def path(self) -> str:
        return self._file.path

    def sync(self) -> None:
        pass


def test_hazard_1_term_and_vote_written_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A term that is durable before its vote lets a node vote twice in it: the sweep finds a state that nobody asked for."""

    def write(self: HardStateFile, state: HardState) -> None:
        original(self, HardState(state.term, None))
        original(self, state)

    original = HardStateFile.write
    monkeypatch.setattr(HardStateFile, "write", write)
    steps: list[Step] = [lambda driver: driver.write(LogWrite(1, HardState(3, "n1")))]
    works_without_a_crash(steps)
    with caught:
        sweep(steps)


def test_hazard_2_a_vote_that_is_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vote that a power loss takes back can be given again."""

    def write(self: HardStateFile, state: HardState) -> None:
        slot = HardStateSlot(self.sequence + 1, state)
        for number in (0, 1):
            self._file.write_at(number * SLOT_BYTES, encode_slot(slot))
        self._current = slot

    monkeypatch.setattr(HardStateFile, "write", write)
    works_without_a_crash(WORKLOADS["hard states"])
    with caught:
        sweep(WORKLOADS["hard states"])


def test_hazard_2_slots_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """If each change went to one slot only, rot in the newest would bring back the vote before."""

    def write(self: HardStateFile, state: HardState) -> None:
        slot = HardStateSlot(self.sequence + 1, state)
        self._file.write_at(slot.sequence % 2 * SLOT_BYTES, encode_slot(slot))
        self._file.sync()
        self._current = slot

    monkeypatch.setattr(HardStateFile, "write", write)
    written = write_log(sealed=True)
    outcomes = []
    for slot in (0, SLOT_BYTES):
        disk = written.fresh_disk()
        disk.flip("hard_state", slot + 2)
        try:
            outcomes.append(outcome(disk, written.model, written.before_last))
        except AssertionError as error:
            outcomes.append(str(error).splitlines()[0])
    assert "a term or vote was forgotten" in outcomes


class UnsyncedSegments(View):
    """A disk on which segments are not synced."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.create = self._create
        self.open = self._open

    def _create(self, path: str) -> File:
        file = self.disk.create(path)
        return UnsyncedFile(file) if path.endswith(".log") else file

    def _open(self, path: str) -> File:
        file = self.disk.open(path)
        return UnsyncedFile(file) if path.endswith(".log") else file


def test_hazard_3_a_write_that_returns_before_its_sync() -> None:
    """An acknowledged entry is lost."""
    works_without_a_crash(WORKLOADS["appends"], view=UnsyncedSegments)
    with caught:
        sweep(WORKLOADS["appends"], view=UnsyncedSegments)


class EagerThread(LogThread):
    """Reports a write when it is queued."""

    def submit(self, write: LogWrite) -> None:
        super().submit(write)
        self._on_persisted(write.number)


def _applied_beyond_the_log(thread_type: type[LogThread]) -> bool:
    """Whether a state machine that applies what is reported can be ahead of the log after a crash."""
    disk = SimDisk(random.Random(1))
    driver = Driver(disk)
    opened = driver.open()
    heard = Heard()
    opened.reserve()  # so that the thread has nothing else to do than to write
    disk.fail_at(disk.operations + 2, StorageError("cannot sync: Input/output error"))
    thread = thread_type(opened, heard.hear, heard.hear)
    thread.submit(LogWrite(1, entries=entries(1, 1)))
    heard.wait_for(lambda events: any(isinstance(event, StorageError) for event in events))
    thread.close(20)
    disk.crash(Survival.LOST)
    applied = max([event for event in heard.events if isinstance(event, int)], default=0)
    return applied > Wal.open(disk, driver.settings).last_index


def test_hazard_3_and_55_a_report_that_leaves_before_the_sync() -> None:
    """Who applies, and makes durable, what was reported too early has a state beyond the end of the log."""
    assert _applied_beyond_the_log(EagerThread)
    assert not _applied_beyond_the_log(LogThread)


class FirstWins(LogIndex):
    """An index that keeps the first record of an entry."""

    def append(self, index: Index, term: Term, offset: int) -> None:
        if index > self.last.index:
            super().append(index, term, offset)


def test_hazard_15_an_overwritten_entry_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same index, two terms, one group: the later record counts, or the entry that was acknowledged is not the one in the log."""
    monkeypatch.setattr(replay, "LogIndex", FirstWins)
    with caught:
        sweep(WORKLOADS["overwrites"])


class TrimsFirst(Wal):
    """Removes segments before the manifest says so."""

    def compact(self, meta: SnapshotMeta) -> None:
        for id_ in self._index.dead_segments(meta.index):
            self._disk.unlink(segment_path("wal", id_))
            self._disk.sync_directory("wal")
            self._disk.create(segment_path("wal", id_)).close()  # so that the double can go on
        super().compact(meta)


def test_hazard_32_a_crash_between_snapshot_and_trim() -> None:
    """Segments that are gone while the manifest still lists them keep the node from starting."""
    works_without_a_crash(WORKLOADS["compaction"], TrimsFirst)
    with caught:
        sweep(WORKLOADS["compaction"], TrimsFirst)


class ForgetsBegin(Wal):
    """Trims the log and does not record where it begins now."""

    def _store(self, manifest: Manifest) -> None:
        super()._store(Manifest(manifest.group, SnapshotMeta(), manifest.segments, manifest.suspect))


def test_hazard_32_a_beginning_that_is_not_recorded() -> None:
    """A log whose first entries are gone and which claims to begin at 0 cannot be opened."""
    with caught:
        sweep(WORKLOADS["compaction"], ForgetsBegin)


def test_hazard_35_a_rename_without_a_directory_sync() -> None:
    """The new manifest, and the new segment, are gone after a power loss."""

    class Forgetful(View):
        def __init__(self, disk: Disk) -> None:
            super().__init__(disk)
            self.sync_directory = lambda path: None

    for name in ("segment roll", "compaction"):
        works_without_a_crash(WORKLOADS[name], view=Forgetful)
        with caught:
            sweep(WORKLOADS[name], view=Forgetful)


def test_hazard_35_a_rename_before_the_content_is_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other half of the rule: the name is durable and the content is not."""

    def replace(disk: Disk, path: str, data: bytes) -> None:
        temporary = path + ".new"
        if disk.exists(temporary):
            disk.unlink(temporary)
        disk.create(temporary).write_at(0, data)
        disk.rename(temporary, path)
        disk.sync_directory(path.rpartition("/")[0])

    monkeypatch.setattr("raftkv.storage.manifest.replace_file", replace)
    works_without_a_crash(WORKLOADS["segment roll"])
    with caught:
        sweep(WORKLOADS["segment roll"])
    assert disk_module.replace_file is not replace


def _trusting(facts: TailFacts) -> TailAction:
    found = decide_tail(facts)
    return TailAction.DROP if found is TailAction.SUSPECT else found


def test_hazard_54_a_rotten_last_group_taken_for_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that drops an acknowledged group and thinks nothing of it would vote for a leader without it."""
    written = write_log(sealed=False)
    disk = written.fresh_disk()
    disk.flip(SECOND, written.last_group[0] + 100)
    assert outcome(disk, written.model, written.before_last) == "suspect"
    monkeypatch.setattr(replay, "decide_tail", _trusting)
    disk = written.fresh_disk()
    disk.flip(SECOND, written.last_group[0] + 100)
    with pytest.raises(AssertionError, match="acknowledged entries were lost in silence"):
        outcome(disk, written.model, written.before_last)


def test_hazard_54_a_seal_that_is_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a seal behind it a bad group was acknowledged; whoever drops it as suspect throws away what could be restored."""

    def heedless(facts: TailFacts) -> TailAction:
        found = decide_tail(facts)
        return TailAction.SUSPECT if found is TailAction.CORRUPT else found

    written = write_log(sealed=True)
    disk = written.fresh_disk()
    disk.flip(SECOND, written.last_group[0] + 3)
    assert outcome(disk, written.model, written.before_last) == "corrupt"
    monkeypatch.setattr(replay, "decide_tail", heedless)
    disk = written.fresh_disk()
    disk.flip(SECOND, written.last_group[0] + 3)
    assert outcome(disk, written.model, written.before_last) != "corrupt"


def _rotten_disk() -> tuple[Written, SimDisk]:
    written = write_log(sealed=True)
    disk = written.fresh_disk()
    disk.flip(SECOND, disk.content(SECOND).index(b"5/1 5/1") - 5)  # the header of entry 5
    return written, disk


def test_rot_that_counts_and_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that opens a log with a hole in it finds out when somebody needs the entry, after it has voted with it."""
    written, disk = _rotten_disk()
    assert outcome(disk, written.model, written.before_last) == "repaired"
    monkeypatch.setattr(replay, "decide_rot", lambda facts: RotAction.NOTE)
    written, disk = _rotten_disk()
    with pytest.raises(Corrupt, match="entry 5"):
        outcome(disk, written.model, written.before_last)


def test_rot_that_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that ends its log before the rot, and thinks nothing of it, forgets what it has acknowledged."""
    monkeypatch.setattr(segment, "decide_rot", lambda facts: RotAction.CORRUPT)
    monkeypatch.setattr(replay, "decide_tail", lambda facts: TailAction.DROP)
    written, disk = _rotten_disk()
    with pytest.raises(AssertionError, match="acknowledged entries were lost in silence"):
        outcome(disk, written.model, written.before_last)


def test_a_repair_that_does_not_compare_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a header is lost nothing but the checksum of the group tells whether an entry is the one that was written."""

    def write(self: RottenLog, bad: RottenGroup, records: list[Record]) -> bool:
        encoded = encode_group(bad.segment, bad.group.offset, bad.group.head, records)
        self._survey.files[bad.segment].write_at(bad.group.offset, encoded.data)
        return True

    def answered_wrongly() -> list[RottenEntry]:
        _, disk = _rotten_disk()
        log = RottenLog.open(disk, SMALL)
        before = disk.files()
        [bad] = log.needed
        useless = log.mend({bad: Entry(5, 1, EntryKind.BATCH, b"5/2 " * 10)})
        assert disk.files() == before
        return useless

    assert len(answered_wrongly()) == 1
    monkeypatch.setattr(RottenLog, "_write", write)
    with pytest.raises(Corrupt, match="group 5 does not follow group 4"):
        answered_wrongly()


def test_a_log_ended_before_the_rot_without_suspicion(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given up may have been acknowledged: the node must not vote until it knows again what that was."""

    def forgetful(disk: Disk, path: str, manifest: Manifest) -> None:
        store_manifest(disk, path, Manifest(manifest.group, manifest.begin, manifest.segments, None))

    def given_up() -> str:
        written, disk = _rotten_disk()
        log = RottenLog.open(disk, SMALL)
        log.end_before_rot()
        log.close()
        wal = Wal.open(disk, SMALL)
        assert wal.suspect == written.model.last.index, "acknowledged entries were lost in silence"
        return "suspect"

    assert given_up() == "suspect"
    monkeypatch.setattr(rotten, "store_manifest", forgetful)
    with pytest.raises(AssertionError, match="acknowledged entries were lost in silence"):
        given_up()


def test_hazard_54_a_suspicion_that_a_restart_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery tidies up what made the node suspect, so it must write down that it is."""

    def forgetful(disk: Disk, path: str, manifest: Manifest) -> None:
        original(disk, path, Manifest(manifest.group, manifest.begin, manifest.segments, None))

    original = store_manifest
    monkeypatch.setattr(replay, "store_manifest", forgetful)
    written = write_log(sealed=False)
    written.disk.flip(SECOND, written.last_group[0] + 100)
    first = Wal.open(written.disk, Driver(written.disk).settings)
    assert first.recovered.suspect is not None
    first.close()
    again = Wal.open(written.disk, Driver(written.disk).settings)
    assert again.recovered.suspect is None, "the double has no effect"
    again.close()
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="acknowledged entries were lost in silence"):
        outcome(written.disk, written.model, written.before_last)


def _sweep_failed_syncs(steps: Sequence[Step]) -> None:
    """`test_crash.test_a_failed_sync_is_never_papered_over`, of a double."""
    for operation in range(1, count_operations(steps) + 1):
        driver = Driver(SimDisk(random.Random(operation)))
        driver.disk.fail_at(operation, StorageError("cannot sync: Input/output error"))
        try:
            run_until_crash(driver, steps)
        except StorageError:
            driver.disk.restart()
            driver.open()
            driver.check()
            driver.disk.crash(Survival.LOST)
            driver.open()
            continue_and_check(driver)


def test_a_tail_that_is_trusted_in_place_after_a_failed_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page cache shows what the disk does not hold; a node that builds upon it loses what it acknowledged."""
    _sweep_failed_syncs(WORKLOADS["appends"])

    def trusting(facts: TailFacts) -> TailAction:
        found = decide_tail(facts)
        return TailAction.APPEND if found is TailAction.REWRITE else found

    monkeypatch.setattr(replay, "decide_tail", trusting)
    with caught:
        _sweep_failed_syncs(WORKLOADS["appends"])


def test_a_log_that_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fsync of the same file reports success over the hole that the first one left."""

    def unpoisoned(self: Wal) -> None:
        self._poison = None

    steps: list[Step] = [lambda driver: driver.write(LogWrite(1, entries=entries(1, 1)))]

    def go_on() -> None:
        driver = Driver(SimDisk(random.Random(1)))
        driver.open()
        driver.disk.fail_at(driver.disk.operations + 2, StorageError("cannot sync: Input/output error"))
        with pytest.raises(StorageError):
            steps[0](driver)
        # The double takes the failed write for done, as its second sync says.
        driver.wal._files[1].sync()
        driver.acked = driver.doing
        driver.disk.crash(Survival.LOST)
        driver.open()
        driver.check()

    monkeypatch.setattr(Wal, "_check_usable", unpoisoned)
    with caught:
        go_on()


def test_creation_that_writes_the_identity_first() -> None:
    """An identity without a log would make every interrupted creation a lost log, or every lost log a new one."""

    def create_in_the_wrong_order(disk: SimDisk) -> None:
        disk.put("identity.1", b"anything")
        Wal.open(disk, Driver(disk).settings)

    with pytest.raises(Corrupt, match="manifest is missing"):
        create_in_the_wrong_order(SimDisk(random.Random(1)))


def test_names_that_are_trusted_before_they_are_synced() -> None:
    """A program that was killed may leave names that only the running system knows; what is built on them falls with them."""

    class NoSyncAtOpen(View):
        """Skips the two syncs with which an existing log is opened."""

        def __init__(self, disk: Disk) -> None:
            super().__init__(disk)
            self.lock = self._lock
            self.sync_directory = self._sync_directory
            self._skipping = 0

        def _lock(self, path: str) -> DirectoryLock:
            self._skipping = 2 if self.disk.exists("wal/manifest") else 0
            return self.disk.lock(path)

        def _sync_directory(self, path: str) -> None:
            if self._skipping:
                self._skipping -= 1
            else:
                self.disk.sync_directory(path)

    works_without_a_crash(WORKLOADS["appends"], view=NoSyncAtOpen)
    with caught:
        sweep(WORKLOADS["appends"], view=NoSyncAtOpen)
