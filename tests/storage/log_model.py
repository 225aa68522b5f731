"""What a log is, as plainly as it can be said, and a driver that holds a real one against it through crashes.

`LogModel` is the specification. `Driver` runs steps against a `Wal` on a `SimDisk` and keeps the model of what was acknowledged and
of what was under way; after any crash the log must be one of the states that those two allow.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Index, SnapshotMeta, Term
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.storage.disk import Disk
from raftkv.storage.identity import Identity, create_identity, identity_exists
from raftkv.storage.wal import LogWrite, Wal, WalSettings

SMALL = WalSettings(segment_bytes=8192)
"""Segments so small that a short workload fills some."""

IDENTITY = Identity(b"0123456789abcdef", "test", "n1", 7, 0, ())


def entry(index: Index, term: Term = 1, size: int = 40) -> Entry:
    """An entry whose payload tells what it is, so that a wrong one is seen."""
    text = b"%d/%d " % (index, term)
    return Entry(index, term, EntryKind.BATCH, (text * (size // len(text) + 1))[:size])


def entries(first: Index, last: Index, term: Term = 1, size: int = 40) -> tuple[Entry, ...]:
    """The entries `first` to `last`."""
    return tuple(entry(index, term, size) for index in range(first, last + 1))


@dataclass
class LogModel:
    """A log in memory."""

    hard_state: HardState = field(default_factory=HardState)
    begin: SnapshotMeta = field(default_factory=SnapshotMeta)
    entries: list[Entry] = field(default_factory=list)
    commit: Index = 0

    @property
    def last(self) -> EntryId:
        return self.entries[-1].id if self.entries else EntryId(self.begin.index, self.begin.term)

    def term_at(self, index: Index) -> Term | None:
        if index == self.begin.index:
            return self.begin.term
        position = index - self.begin.index - 1
        return self.entries[position].term if 0 <= position < len(self.entries) else None

    def write(self, write: LogWrite) -> None:
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        snapshot = write.snapshot
        if snapshot is not None and snapshot.index > self.begin.index and self.term_at(snapshot.index) != snapshot.term:
            self.begin, self.entries = snapshot, []
        if write.entries:
            del self.entries[write.entries[0].index - self.begin.index - 1 :]
            self.entries += write.entries
        self.commit = max(self.commit, write.commit, self.begin.index)

    def compact(self, meta: SnapshotMeta) -> None:
        if meta.index > self.begin.index:
            self.entries = [kept for kept in self.entries if kept.index > meta.index]
            self.begin = meta

    @property
    def configurations(self) -> list[Index]:
        return [kept.index for kept in self.entries if kept.kind is EntryKind.CONFIGURATION]


def observed(wal: Wal) -> LogModel:
    """The state of a real log, read through its interface, and that all of its interface tells the same."""
    found = wal.recovered_now()
    held = wal.read(found.snapshot.index + 1, found.last.index, 1 << 30)
    assert [kept.index for kept in held] == list(range(found.snapshot.index + 1, found.last.index + 1))
    model = LogModel(found.hard_state, found.snapshot, held, found.committed)
    assert model.last == found.last
    assert (wal.first_index, wal.last_index) == (found.snapshot.index + 1, found.last.index)
    assert [wal.term_at(kept.index) for kept in held] == [kept.term for kept in held]
    assert wal.term_at(found.snapshot.index) == found.snapshot.term
    assert wal.term_at(found.last.index + 1) is None
    assert found.tail == tuple(held[len(held) - len(found.tail) :])
    assert [at for at, _ in found.configurations] == model.configurations
    runs = [kept.id for before, kept in zip([None, *held], held, strict=False) if before is None or before.term != kept.term]
    assert list(found.term_runs) == runs
    assert found.committed <= found.last.index
    return model


def same_log(one: LogModel, other: LogModel) -> bool:
    """Whether two logs hold the same entries and begin at the same place."""
    return (one.begin, one.entries) == (other.begin, other.entries)


Step = Callable[["Driver"], None]


class Driver:
    """Drives one `Wal` through steps. `acked` is the model of what was acknowledged; `doing` also has the step under way.

    `wal_type` and `disk_view` let a planted fault stand in for the product.
    """

    def __init__(self, disk: SimDisk, settings: WalSettings = SMALL, wal_type: type[Wal] = Wal, view: Disk | None = None) -> None:
        self.disk = disk
        self.settings = settings
        self.acked = LogModel()
        self.doing = LogModel()
        self._wal_type = wal_type
        self._view: Disk = view or disk
        self._wal: Wal | None = None

    @property
    def wal(self) -> Wal:
        assert self._wal is not None
        return self._wal

    def open(self) -> Wal:
        """Open the log, and make the directory a node's."""
        self._wal = self._wal_type.open(self._view, self.settings)
        if not identity_exists(self._view):
            create_identity(self._view, IDENTITY)
        return self._wal

    def write(self, *writes: LogWrite) -> None:
        for write in writes:
            self.doing.write(write)
        self.wal.write(writes)
        self.acked = copy.deepcopy(self.doing)

    def compact(self, index: Index) -> None:
        meta = SnapshotMeta(index, self.doing.term_at(index) or 0)
        self.doing.compact(meta)
        self.wal.compact(meta)
        self.acked = copy.deepcopy(self.doing)

    def seal(self) -> None:
        self.wal.seal()

    def reopen(self) -> None:
        """A clean restart."""
        self.wal.close()
        self.open()

    def check(self) -> None:
        """The open log holds what was acknowledged, or that and what was under way, and nothing else."""
        found = observed(self.wal)
        before, after = self.acked, self.doing
        assert found.hard_state in (before.hard_state, after.hard_state), (found.hard_state, before.hard_state, after.hard_state)
        assert same_log(found, before) or same_log(found, after), (found.begin, found.last, before.last, after.last)
        if same_log(found, after) and not same_log(found, before):
            assert found.hard_state == after.hard_state, "the entries of a write are there before its hard state"
        assert found.commit >= min(before.commit, found.last.index)
        self.acked, self.doing = found, copy.deepcopy(found)


def run_until_crash(driver: Driver, steps: Sequence[Step]) -> bool:
    """Open the log and run the steps; whether the disk crashed on the way."""
    try:
        driver.open()
        for step in steps:
            step(driver)
    except Crashed:
        return True
    return False


def count_operations(steps: Sequence[Step], settings: WalSettings = SMALL) -> int:
    """How many operations of the disk the steps take when nothing goes wrong."""
    disk = SimDisk(random.Random(0))
    assert not run_until_crash(Driver(disk, settings), steps)
    return disk.operations


def continue_and_check(driver: Driver) -> None:
    """A recovered log can be written, restarted without warning, and closed, and forgets nothing."""
    driver.check()
    first = driver.doing.last.index + 1
    term = max(driver.doing.last.term, driver.doing.hard_state.term) + 1
    driver.write(LogWrite(0, HardState(term, "n2"), None, entries(first, first + 2, term), first - 1))
    driver.disk.crash(Survival.LOST)
    driver.open()
    driver.check()
    driver.write(LogWrite(0, None, None, entries(first + 3, first + 3, term), first))
    driver.wal.close()
    assert driver.open().recovered.suspect is driver.wal.suspect
    driver.check()
    driver.wal.close()


def configuration_entry(index: Index, term: Term, payload: bytes) -> Entry:
    """A configuration entry."""
    return Entry(index, term, EntryKind.CONFIGURATION, payload)


EMPTY_CONFIGURATION = Configuration()
