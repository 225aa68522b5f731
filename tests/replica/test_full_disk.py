"""What a replica does when its state has no space."""

from __future__ import annotations

import pytest

from raftkv.codec.peer import Health, SnapshotOffer
from raftkv.errors import DiskFull
from raftkv.kv.store import Ranges, Writes
from raftkv.raft.messages import AppendResponse, SnapshotRequest, TimeoutNow
from raftkv.raft.ready import Role
from raftkv.replica import ReplicaSettings
from raftkv.sim.store import ModelStore
from raftkv.space import PATIENCE_LOOKS
from tests.replica.lone import Lone, noops

HEARTBEAT = ReplicaSettings().heartbeat_ticks
PATIENCE = (1 + PATIENCE_LOOKS) * HEARTBEAT


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


def _leader_without_space(*able: str) -> Lone:
    """n1 leads and its log is full; both peers have caught up, and those `able` have room."""
    lone = Lone(noops(10))
    lone.lead()
    for peer, incarnation in (("n2", 2), ("n3", 3)):
        lone.replica.receive(peer, AppendResponse(peer, "n1", lone.replica.term, incarnation, lone.replica.raft.last_index))
        lone.replica.receive(peer, Health((), 0, 0, None, "", refusing_writes="" if peer in able else "the disk is full"))
    lone.replica.log_full(True)
    return lone


def _successors(lone: Lone) -> list[str]:
    return [node for node, value in lone.sent if isinstance(value, TimeoutNow)]


def test_a_leader_without_space_hands_over_to_who_has_some() -> None:
    """The cluster takes writes as long as one that could lead has space: reads go on either way, writes must not wait for an operator."""
    lone = _leader_without_space("n3")
    lone.tick(PATIENCE)
    assert _successors(lone) == ["n3"]


def test_a_leader_without_space_stays_when_nobody_has_some() -> None:
    """Handing over among full disks would help nobody, and interrupts the reads."""
    lone = _leader_without_space()
    lone.tick(10 * HEARTBEAT)
    assert _successors(lone) == []
    assert lone.replica.role is Role.LEADER


def test_what_a_peer_said_counts_until_it_is_gone() -> None:
    """Nobody hands over to a node that cannot be reached, however much space it had."""
    lone = _leader_without_space("n3")
    lone.replica.peer_lost("n3")
    lone.tick(PATIENCE)
    assert _successors(lone) == []


def test_an_operator_s_transfer_goes_to_who_can_take_writes() -> None:
    """A peer that has as much of the log and no space, or no state, is chosen only when there is no other."""
    lone = _leader_without_space("n2")
    lone.replica.log_full(False)
    assert lone.replica.transfer_leadership(None) == "n2"  # n3 has the greater name, by which equals are told apart


def test_an_operator_s_transfer_goes_rather_to_a_full_disk_than_to_nobody() -> None:
    """A leader that stops hands over to a node that is there, has its state, and serves reads: not to one that cannot be heard."""
    lone = _leader_without_space()
    lone.replica.peer_lost("n3")  # whose name is the greater one
    assert lone.replica.transfer_leadership(None) == "n2"


def test_nobody_is_handed_over_to_before_the_others_could_tell() -> None:
    """Disks that are one disk are full at the same moment: a leader that went by what it had heard would hand over in a ring."""
    lone = _leader_without_space("n2", "n3")
    lone.tick(PATIENCE - HEARTBEAT)
    for peer in ("n2", "n3"):
        lone.replica.receive(peer, Health((), 0, 0, None, "", refusing_writes="the disk is full"))
    lone.tick(10 * HEARTBEAT)
    assert _successors(lone) == []


def test_space_that_comes_and_goes_moves_no_leadership() -> None:
    """Writes are refused while there is none, and a handover would take as long as waiting for it."""
    lone = _leader_without_space("n2", "n3")
    for _ in range(2):
        lone.replica.log_full(True)
        lone.tick(PATIENCE - HEARTBEAT)
        lone.replica.log_full(False)
        lone.tick(HEARTBEAT)
    assert _successors(lone) == []
    assert lone.replica.role is Role.LEADER
