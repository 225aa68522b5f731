"""How log and state are made to agree at a start."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from raftkv.codec.record import RECORD_BYTES
from raftkv.errors import Rotten
from raftkv.kv.batch import FORMAT_VERSION, Batch, encode_batch
from raftkv.kv.machine import KvMachine
from raftkv.raft.membership import encode_configuration
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Member, SnapshotMeta
from raftkv.sim.disk import SimDisk, Survival
from raftkv.sim.store import ModelEngine
from raftkv.startup import Agreement, bootstrap_configuration, forget_rot, reconcile, snapshot_meta_of, stored_state
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.identity import Identity, create_identity
from raftkv.storage.rotten import RottenLog
from raftkv.storage.wal import LogWrite, Wal, WalSettings

MEMBERS = tuple(Member(name, 0, f"127.0.0.1:{port}") for name, port in (("n1", 1), ("n2", 2), ("n3", 3)))
FORMED = Configuration(tuple(Member(m.id, 7, m.peer_address) for m in MEMBERS), ("n1", "n2", "n3"))
IDENTITY = Identity(b"c" * 16, "test", "n1", 7, 0, MEMBERS)


def _open(disk: SimDisk) -> tuple[Wal, KvMachine, StateDirectory]:
    wal = Wal.open(disk, WalSettings(segment_bytes=64 << 10))
    if wal.recovered.created:
        create_identity(disk, IDENTITY)
    state = StateDirectory(disk, ModelEngine(disk), snapshot_meta_of)
    return wal, KvMachine(state.store), state


def _entry(index: int, term: int) -> Entry:
    if index == 1:
        return Entry(1, term, EntryKind.CONFIGURATION, encode_configuration(FORMED))
    return Entry(index, term, EntryKind.BATCH, encode_batch(Batch(FORMAT_VERSION, 1, 1_000 + index, [])))


def _apply(machine: KvMachine, entry: Entry) -> None:
    if entry.kind is EntryKind.BATCH:
        machine.apply(entry.index, entry.term, entry.payload)
    else:
        machine.apply_empty(entry.index, entry.term, entry.payload)


def test_every_combination_has_one_answer() -> None:
    """The decision depends only on where the state stands between the log's begin and end, on whether the terms agree there, and on
    whether the state is fenced."""
    for begin, last, applied, term_agrees, fenced in itertools.product(range(5), range(5), range(7), (True, False), (True, False)):
        if last < begin:
            continue
        log_term = (3 if term_agrees else 2) if begin <= applied <= last else None
        decided = reconcile(begin, last, applied, 3, log_term, fenced=fenced)
        if fenced or applied < begin:
            assert decided is Agreement.STATE_LOST
        elif applied > last or not term_agrees:
            assert decided is Agreement.BEGIN_ANEW
        else:
            assert decided is Agreement.REPLAY


def test_a_new_node_starts_from_the_bootstrap_configuration() -> None:
    """Nothing is known of a new cluster but its members' names and addresses; no incarnation is."""
    wal, machine, _ = _open(SimDisk(random.Random(1)))
    stored = stored_state(IDENTITY, wal, machine, None)
    assert stored.snapshot == SnapshotMeta(0, 0, bootstrap_configuration(MEMBERS))
    assert stored.last == EntryId(0, 0)
    assert stored.fenced is None
    assert stored.incarnation == 7


def test_the_rest_of_the_log_is_replayed() -> None:
    """A state that is older than the log's end stays; the core will hand out the entries after it."""
    wal, machine, _ = _open(SimDisk(random.Random(1)))
    entries = tuple(_entry(index, 1) for index in (1, 2, 3))
    wal.write([LogWrite(1, HardState(1, "n1"), None, entries, 3)])
    _apply(machine, entries[0])
    stored = stored_state(IDENTITY, _reopened(wal), machine, None)
    assert (stored.applied, stored.last.index, stored.committed, stored.fenced) == (1, 3, 3, None)
    assert stored.configurations == ((1, FORMED),)


def _reopened(wal: Wal) -> Wal:
    disk = wal._disk
    wal.close()
    return Wal.open(disk, WalSettings(segment_bytes=64 << 10))


def test_a_state_before_the_logs_begin_is_lost() -> None:
    """Entries between the state and the log's begin are nowhere: the node asks for a snapshot and applies nothing meanwhile."""
    wal, _, _ = _open(SimDisk(random.Random(1)))
    entries = tuple(_entry(index, 1) for index in (1, 2, 3, 4))
    wal.write([LogWrite(1, HardState(1, "n1"), None, entries, 4)])
    wal.compact(SnapshotMeta(3, 1, FORMED))
    fresh = SimDisk(random.Random(2))
    fresh.mkdir("state")
    machine = KvMachine(StateDirectory(fresh, ModelEngine(fresh), snapshot_meta_of).store)
    stored = stored_state(IDENTITY, _reopened(wal), machine, None)
    assert stored.fenced == "the state store is lost"
    assert stored.applied == stored.snapshot.index == 3
    assert stored.last.index == 4


def test_a_fenced_state_decides_nothing() -> None:
    """Wherever a state that is known to be wrong says that it stands, and in whatever configuration: the log stays as it is, its
    configurations count, and nothing is applied to that state."""
    for in_log, in_state in ((3, 2), (2, 3)):
        wal, machine, _ = _open(SimDisk(random.Random(1)))
        wal.write([LogWrite(1, HardState(1, "n1"), None, tuple(_entry(index, 1) for index in range(1, in_log + 1)), 1)])
        wrong = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(Configuration((Member("n1", 7, "a:1"),), ("n1",))))
        for entry in (wrong, *(_entry(index, 2) for index in range(2, in_state + 1))):
            _apply(machine, entry)
        stored = stored_state(IDENTITY, _reopened(wal), machine, "it differs")
        assert stored.fenced == "it differs"
        assert (stored.snapshot.index, stored.applied, stored.committed, stored.last) == (0, 0, 1, EntryId(in_log, 1))
        assert stored.configurations == ((1, FORMED),)


def test_a_state_beyond_the_logs_end_becomes_the_logs_begin_and_stays_so() -> None:
    """A crash between the switch to a snapshot and the reset of the log, or a lost last group, leaves the state ahead: it holds only
    committed entries, so the log begins anew after it, with the configuration from inside it, also after the next crash."""
    disk = SimDisk(random.Random(1))
    wal, machine, state = _open(disk)
    entries = tuple(_entry(index, 2) for index in (1, 2, 3))
    wal.write([LogWrite(1, HardState(2, "n2"), None, entries[:1], 1)])
    for entry in entries:
        _apply(machine, entry)
    state.store.flush()
    stored = stored_state(IDENTITY, wal, machine, None)
    assert stored.snapshot == SnapshotMeta(3, 2, FORMED)
    assert stored.last == EntryId(3, 2)
    assert (stored.applied, stored.committed) == (3, 3)
    disk.crash(Survival.LOST)
    disk.restart()
    wal, machine, _ = _open(disk)
    again = stored_state(IDENTITY, wal, machine, None)
    assert again.snapshot == SnapshotMeta(3, 2, FORMED)
    assert again.hard_state == HardState(2, "n2")


def test_a_log_that_contradicts_the_state_gives_way() -> None:
    """An entry of another term than the state's at its applied index was never committed: it goes, and what follows it."""
    wal, machine, _ = _open(SimDisk(random.Random(1)))
    wal.write([LogWrite(1, HardState(1, None), None, tuple(_entry(index, 1) for index in (1, 2, 3)), 0)])
    for entry in (_entry(1, 1), _entry(2, 2)):
        _apply(machine, entry)
    stored = stored_state(IDENTITY, _reopened(wal), machine, None)
    assert stored.snapshot == SnapshotMeta(2, 2, FORMED)
    assert stored.last == EntryId(2, 2)


# A log that is rotten, too.

SETTINGS = WalSettings(segment_bytes=64 << 10)


def _rotten(states_terms: Sequence[int], rotten: Sequence[int], *, header: bool = False) -> tuple[SimDisk, KvMachine]:
    """A log of entries 1 to 4 in term 1, the last two in one group, of which the entries `rotten` have rotted (in their headers, which
    may leave not even the term known, if `header`), and a state that has applied entries of the terms `states_terms`."""
    disk = SimDisk(random.Random(1))
    wal, machine, state = _open(disk)
    for number, indices in enumerate([(1,), (2,), (3, 4)], 1):
        wal.write([LogWrite(number, HardState(2, None), None, tuple([_entry(index, 1) for index in indices]), 0)])
    wal.seal()
    wal.close()
    log = "wal/000000000001.log"
    for index in rotten:
        offset = disk.content(log).index(_entry(index, 1).payload)
        disk.flip(log, offset - (RECORD_BYTES - 5 if header else -3), 0x10)
    for index, term in enumerate(states_terms, 1):
        _apply(machine, _entry(index, term))
    state.store.flush()
    return disk, machine


def _forgets(disk: SimDisk, machine: KvMachine, fenced: str | None = None) -> list[int]:
    """What is still rotten after the state was asked."""
    with pytest.raises(Rotten):
        Wal.open(disk, SETTINGS)
    log = RottenLog.open(disk, SETTINGS)
    forget_rot(log, machine, fenced)
    left = [rotten.index for rotten in log.needed]
    log.close()
    return left


@pytest.mark.parametrize("states_terms", [(1, 1, 1, 1, 1, 1), (1, 1, 2), (1, 1, 1, 1, 2)])
@pytest.mark.parametrize("rotten", [(2,), (4,), (2, 3, 4)])
def test_a_rotten_log_that_gives_way_to_the_state_waits_for_nobody(states_terms: tuple[int, ...], rotten: tuple[int, ...]) -> None:
    """It would begin anew after the state if it were whole, so nobody has to be asked for what is rotten in it."""
    disk, machine = _rotten(states_terms, rotten)
    assert _forgets(disk, machine) == []
    disk.crash(Survival.LOST)
    disk.restart()
    wal = Wal.open(disk, SETTINGS)
    assert wal.suspect is None
    stored = stored_state(IDENTITY, wal, machine, None)
    position = EntryId(len(states_terms), states_terms[-1])
    assert (stored.snapshot, stored.last) == (SnapshotMeta(position.index, position.term, FORMED), position)
    assert (stored.applied, stored.committed, stored.fenced) == (position.index, position.index, None)
    assert stored.hard_state == HardState(2, None)


def test_a_rotten_log_that_goes_on_behind_the_state_keeps_what_it_has() -> None:
    """What the state holds is forgotten, and nothing else."""
    disk, machine = _rotten((1, 1, 1), [2])
    assert _forgets(disk, machine) == []
    wal = Wal.open(disk, SETTINGS)
    assert (wal.begin, wal.last_index) == (SnapshotMeta(3, 1, FORMED), 4)
    disk, machine = _rotten((1, 1, 1), [2, 4])
    assert _forgets(disk, machine) == [4]


def test_a_rotten_log_of_which_nobody_knows_whether_it_gives_way_waits() -> None:
    """Where even the term of the entry at the state's position is rotten, what follows may have been acknowledged."""
    disk, machine = _rotten((1, 1, 2), [3], header=True)
    assert _forgets(disk, machine) == [3]


def test_a_rotten_log_does_not_give_way_to_a_state_that_is_wrong() -> None:
    """Nothing that a fenced state says of itself is believed."""
    disk, machine = _rotten((1, 1, 1, 1, 1, 1), [2])
    assert _forgets(disk, machine, "it differs") == [2]


def test_planted_a_rotten_log_that_gives_way_to_whatever_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins anew wherever the terms are not known to agree drops what may have been acknowledged, or believes a wrong state."""
    monkeypatch.setattr("raftkv.startup.reconcile", lambda *position, fenced: Agreement.BEGIN_ANEW)
    for test in (
        test_a_rotten_log_that_goes_on_behind_the_state_keeps_what_it_has,
        test_a_rotten_log_does_not_give_way_to_a_state_that_is_wrong,
    ):
        with pytest.raises(AssertionError):
            test()
