"""What a replica does when its state has no space."""

from __future__ import annotations

import pytest

from raftkv.codec.peer import SnapshotOffer
from raftkv.errors import DiskFull
from raftkv.kv.store import Ranges, Writes
from raftkv.raft.messages import SnapshotRequest
from raftkv.raft.ready import Role
from raftkv.replica import ReplicaSettings
from raftkv.sim.store import ModelStore
from tests.replica.lone import Lone, noops

HEARTBEAT = ReplicaSettings().heartbeat_ticks


def _refuse(store: ModelStore, writes: Writes, clear: Ranges = ()) -> None:
    raise DiskFull("no space left to write the state")


def test_nothing_is_read_from_a_store_that_could_not_be_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that met a full disk is closed and opened again. As long as there is no space for that, the node does not serve."""
    lone = Lone(noops(10))
    lone.commit()
    with monkeypatch.context() as patch:
        patch.setattr(ModelStore, "write", _refuse)
        lone.replica.pump(0)
    assert lone.replica.out_of_space
    assert lone.replica.ready_to_serve  # from what was applied before
    lone.engine.full = True
    for _ in range(3):
        lone.tick(HEARTBEAT)
        lone.run_jobs()
        assert not lone.replica.ready_to_serve
    lone.engine.full = False
    lone.tick(HEARTBEAT)
    lone.run_jobs()
    lone.replica.pump(0)
    assert lone.replica.ready_to_serve
    assert lone.replica.out_of_space is None
    assert lone.applied_indexes == list(range(1, 11))


def test_a_leader_sends_no_snapshot_of_a_closed_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose store could not be opened again is elected: who needs a snapshot gets none, and the node goes on."""
    lone = Lone(noops(10))
    lone.commit()
    with monkeypatch.context() as patch:
        patch.setattr(ModelStore, "write", _refuse)
        lone.replica.pump(0)
    lone.engine.full = True
    lone.tick(HEARTBEAT)
    lone.run_jobs()
    lone.lead()
    assert lone.replica.role is Role.LEADER
    lone.replica.receive("n2", SnapshotRequest("n2", "n1", lone.replica.term, 2, "lost"))
    lone.tick(HEARTBEAT)
    lone.run_jobs()
    assert not any(isinstance(value, SnapshotOffer) for _, value in lone.sent)
    lone.engine.full = False
    lone.tick(HEARTBEAT)
    lone.run_jobs()
    lone.replica.receive("n2", SnapshotRequest("n2", "n1", lone.replica.term, 2, "lost"))
    lone.replica.pump(0)
    lone.run_jobs()
    assert any(isinstance(value, SnapshotOffer) for _, value in lone.sent)
