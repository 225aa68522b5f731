"""How much a replica does in one turn of the event loop."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

from raftkv.codec.peer import EntriesFound, Health, Lack
from raftkv.kv.machine import GroupReplies, KvMachine
from raftkv.raft.config import Config
from raftkv.raft.messages import Heartbeat
from raftkv.raft.node import Raft
from raftkv.raft.ready import RoleChange
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Index, Member, SnapshotMeta, Stored
from raftkv.replica import APPLY_BYTES, APPLY_OVERHEAD_BYTES, Replica, ReplicaSettings
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.plan import LogWrite
from tests.router.rows import MemoryRows

ENTRIES = 1_000
MEMBERS = Configuration(members=tuple(Member(f"n{number}", number, f"host:{number}") for number in (1, 2, 3)), voters=("n1", "n2", "n3"))


class _Surroundings:
    """A log that is durable at once, a shell that counts wakes, and a listener that knows what was applied."""

    size_bytes = 0

    def __init__(self) -> None:
        self.wakes = 0
        self.applied_indexes: list[Index] = []
        self.written: list[int] = []

    def submit(self, write: LogWrite) -> None:
        self.written.append(write.number)

    def send(self, node: str, value: object) -> bool:
        return True

    def background(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        done(work())

    background_read = background

    def wake(self) -> None:
        self.wakes += 1

    def role_changed(self, change: RoleChange, now_ms: int) -> None:
        """Nothing depends on it here."""

    def applied(self, index: Index, groups: list[GroupReplies], now_ms: int) -> None:
        self.applied_indexes.append(index)

    def appended(self, now_ms: int) -> None:
        """Nothing depends on it here."""


def replica_with(around: _Surroundings, count: int) -> Replica:
    """A follower whose log holds `count` entries, of which none is known to be committed."""
    entries = tuple(Entry(index, 1, EntryKind.NOOP, b"") for index in range(1, count + 1))
    stored = Stored(
        "n1", 1, HardState(1), SnapshotMeta(0, 0, MEMBERS), (EntryId(1, 1),), entries, EntryId(count, 1), committed=0, applied=0
    )
    replica = Replica(
        raft=Raft(Config(), stored, random.Random(1)),
        log=cast(Any, around),
        state=cast(StateDirectory, None),
        machine=KvMachine(MemoryRows()),
        make_machine=KvMachine,
        shell=cast(Any, around),
        settings=ReplicaSettings(),
        health=lambda digests: cast(Health, None),
        heard=lambda node, health: None,
    )
    replica.attach(cast(Any, around))
    return replica


def test_an_answer_to_a_repair_that_has_ended_is_dropped() -> None:
    """Found by a simulated storm: what another node sent to a node in repair may arrive when its core runs already."""
    replica = replica_with(_Surroundings(), 3)
    replica.receive("n2", EntriesFound(1, (Entry(2, 1, EntryKind.NOOP, b""),), Lack.NONE, False, 1))
    assert replica.raft.dropped["answer to a repair that has ended"] == 1
    assert replica.raft.last_index == 3


def test_a_node_that_catches_up_hears_its_peers_meanwhile() -> None:
    """A thousand entries that became committed at once are applied in many turns, in order, and each turn asks for the next."""
    around = _Surroundings()
    replica = replica_with(around, ENTRIES)
    replica.receive("n2", Heartbeat("n2", "n1", 1, 2, ENTRIES, 1))
    turns = 0
    while len(around.applied_indexes) < ENTRIES:
        before, around.wakes = len(around.applied_indexes), 0
        replica.pump(0)
        turns += 1
        assert 0 < len(around.applied_indexes) - before <= APPLY_BYTES // APPLY_OVERHEAD_BYTES + 1
        assert around.wakes or len(around.applied_indexes) == ENTRIES
    assert around.applied_indexes == list(range(1, ENTRIES + 1))
    assert turns >= ENTRIES * APPLY_OVERHEAD_BYTES // APPLY_BYTES
