"""How much a replica does in one turn of the event loop."""

from __future__ import annotations

import random

from msgspec.structs import replace

from raftkv.codec.peer import EntriesFound, Lack
from raftkv.kv.machine import KvMachine
from raftkv.raft.config import Config
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import Entry, EntryKind, SnapshotMeta
from raftkv.replica import APPLY_BYTES, APPLY_OVERHEAD_BYTES
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelEngine
from raftkv.startup import snapshot_meta_of
from raftkv.storage.checkpoint import StateDirectory
from tests.replica.lone import MEMBERS, Lone, noops

ENTRIES = 1_000


def test_an_answer_to_a_repair_that_has_ended_is_dropped() -> None:
    """Found by a simulated storm: what another node sent to a node in repair may arrive when its core runs already."""
    lone = Lone(noops(3))
    lone.replica.receive("n2", EntriesFound(1, (Entry(2, 1, EntryKind.NOOP, b""),), Lack.NONE, False, 1))
    assert lone.replica.raft.dropped["answer to a repair that has ended"] == 1
    assert lone.replica.raft.last_index == 3


def test_a_node_that_catches_up_hears_its_peers_meanwhile() -> None:
    """A thousand entries that became committed at once are applied in many turns, in order, and each turn asks for the next."""
    lone = Lone(noops(ENTRIES))
    lone.commit()
    turns = 0
    while len(lone.applied_indexes) < ENTRIES:
        before, lone.wakes = len(lone.applied_indexes), 0
        lone.replica.pump(0)
        turns += 1
        assert 0 < len(lone.applied_indexes) - before <= APPLY_BYTES // APPLY_OVERHEAD_BYTES
        assert lone.wakes or len(lone.applied_indexes) == ENTRIES
    assert lone.applied_indexes == list(range(1, ENTRIES + 1))
    assert turns >= ENTRIES * APPLY_OVERHEAD_BYTES // APPLY_BYTES


def test_a_turn_is_bounded_also_when_each_entry_is_a_page() -> None:
    """Entries so large that each is a page of its own are applied one a turn."""
    lone = Lone([replace(entry, payload=bytes(APPLY_BYTES)) for entry in noops(5)], config=Config(max_page_bytes=1))
    lone.commit()
    for turn in range(1, 6):
        lone.wakes = 0
        lone.replica.pump(0)
        assert lone.applied_indexes == list(range(1, turn + 1))
        assert lone.wakes or turn == 5


def test_what_waits_to_be_applied_is_part_of_a_snapshot_that_comes() -> None:
    """A node that still applies an old page gets a snapshot of a newer state: the rest of the page is not applied any more."""
    source = SimDisk(random.Random(2))
    state = StateDirectory(source, ModelEngine(source), snapshot_meta_of)
    machine = KvMachine(state.store)
    for index in range(1, 2 * ENTRIES):
        machine.apply_empty(index, 1)
    checkpoint = state.checkpoint()
    lone = Lone(noops(ENTRIES))
    lone.commit()
    lone.replica.pump(0)
    applied = lone.applied_indexes[-1]
    assert 0 < applied < ENTRIES
    meta = SnapshotMeta(checkpoint.meta.index, 1, MEMBERS)
    staging = lone.state.stage("snapshot", meta, checkpoint.files)
    for number, file in enumerate(checkpoint.files):
        staging.write(number, 0, checkpoint.read(number, 0, file.size))
    staging.finish()
    lone.replica._snapshot_received(InstallSnapshot("n2", "n1", 1, 2, meta), staging)
    lone.replica.pump(0)
    lone.run_jobs()
    lone.replica.pump(0)
    assert lone.applied_indexes[-1] == applied
    assert (lone.installed, lone.replica.applied_index) == (1, meta.index)
    lone.replica.raft.check_invariants()
