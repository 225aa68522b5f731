"""A node whose state is found to be wrong serves nothing of it, today and after a restart, until it has been given another."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raftkv.codec.peer import Fence
from raftkv.errors import StorageError
from raftkv.raft.messages import InstallSnapshot, SnapshotRequest
from raftkv.raft.node import LAST_RESORT_TIMEOUTS
from raftkv.raft.ready import Role
from raftkv.replica import PAUSE_TICKS, Replica, ReplicaSettings
from raftkv.sim.disk import SimDisk
from raftkv.transfer import SnapshotSender
from tests.replica.lone_node import Node

WRONG = "the state here differs from the majority's at index 2: n2 leads term 1"


class Forgetful(Replica):
    """Fences itself and writes nothing down."""

    def _record_fence(self) -> None:
        self._fence_due = None


def test_a_fence_outlives_the_process() -> None:
    """A node that was told that its state is wrong starts without one: it serves nothing and goes on asking for a snapshot."""
    node = Node(SimDisk(random.Random(1)))
    assert (node.replica.applied_index, node.replica.ready_to_serve) == (4, True)
    node.is_fenced()
    for _ in range(2):
        node = node.loses_power()
        assert (node.replica.raft.fenced, node.replica.ready_to_serve) == (WRONG, False)
        assert SnapshotRequest("n1", "n2", 1, 7, WRONG) in node.sent


def _serves_after_a_restart(replica_type: type[Replica]) -> bool:
    node = Node(SimDisk(random.Random(1)), replica_type)
    node.is_fenced()
    assert not node.replica.ready_to_serve
    return node.loses_power(replica_type).replica.ready_to_serve


def test_a_fence_that_is_not_written_is_caught() -> None:
    """Planted: a fence that only the process knows is gone when it is, and the wrong state is served again."""
    assert _serves_after_a_restart(Forgetful)
    assert not _serves_after_a_restart(Replica)


def test_a_leader_without_a_state_vouches_for_nothing() -> None:
    """A node with a rotten log gives entries up because a leader has them in its state: one that leads as a last resort has none."""
    healthy = Node(SimDisk(random.Random(1)))
    assert not healthy.replica.vouches
    healthy.leads()
    assert healthy.replica.vouches
    fenced = Node(SimDisk(random.Random(1)))
    fenced.is_fenced()
    for _ in range(LAST_RESORT_TIMEOUTS * fenced.replica.raft.config.election_ticks):
        fenced.replica.tick()
    fenced.leads()
    assert (fenced.replica.raft.role, fenced.replica.vouches) == (Role.LEADER, False)


def test_a_fence_takes_effect_before_it_is_durable() -> None:
    """The disk may take its time: nothing is served meanwhile."""
    node = Node(SimDisk(random.Random(1)))
    node.is_fenced(background=False)
    assert (node.state.fenced, node.replica.ready_to_serve) == (None, False)
    node.settle()
    assert node.state.fenced == WRONG


def test_a_snapshot_ends_the_fence_for_good() -> None:
    """Once another state has taken the place of the wrong one the node serves, also after a restart."""
    node = Node(SimDisk(random.Random(1)))
    node.is_fenced()
    node = node.loses_power()
    node.is_rebuilt()
    assert (node.replica.raft.fenced, node.replica.ready_to_serve, node.replica.applied_index) == (None, True, 4)
    node = node.loses_power()
    assert (node.replica.raft.fenced, node.replica.ready_to_serve, node.replica.applied_index) == (None, True, 4)


def test_a_fence_that_found_no_space_is_tried_again() -> None:
    """The node stays fenced meanwhile, and the fence is on disk when there is space."""
    node = Node(SimDisk(random.Random(1)))
    node.disk.capacity_bytes = sum(map(len, node.disk.files().values()))
    node.is_fenced()
    assert (node.state.fenced, node.replica.ready_to_serve) == (None, False)
    node.disk.capacity_bytes = None
    for _ in range(PAUSE_TICKS + ReplicaSettings().heartbeat_ticks):
        node.replica.tick()
    node.settle()
    assert node.state.fenced == WRONG


def test_a_fence_that_cannot_be_written_stops_the_node() -> None:
    """An error of the disk is one, whatever was to be written."""
    node = Node(SimDisk(random.Random(1)))
    node.disk.fail_at(node.disk.operations + 3, StorageError("Input/output error"))
    with pytest.raises(StorageError, match="Input/output"):
        node.is_fenced()


def test_a_fence_of_no_leader_is_no_fence() -> None:
    """Only the leader compares, so only its word counts."""
    node = Node(SimDisk(random.Random(1)))
    node.replica.receive("n3", Fence(2, "n3 leads term 1"))
    node.settle()
    assert (node.state.fenced, node.replica.ready_to_serve) == (None, True)


def _leader() -> Node:
    node = Node(SimDisk(random.Random(1)))
    node.leads()
    return node


def _fences_itself_with_a_checkpoint(node: Node) -> None:
    """A checkpoint is being sent when the leader finds that its state is wrong."""
    node.is_asked_for_a_snapshot()
    node.settle()
    assert len(node.checkpoints) == 1
    node.finds_itself_wrong()


def _fences_itself_while_making_a_checkpoint(node: Node) -> None:
    """A checkpoint is about to be made when the leader finds that its state is wrong."""
    node.is_asked_for_a_snapshot()
    node.settle(background=False)
    assert len(node.work) == 1
    node.finds_itself_wrong(background=False)
    node.settle()


def _fences_itself_when_asked_for_a_checkpoint(node: Node) -> None:
    """The core has just said that a peer needs a snapshot, and nothing has been done about it."""
    node.is_asked_for_a_snapshot()
    node.finds_itself_wrong()


MOMENTS = [_fences_itself_with_a_checkpoint, _fences_itself_while_making_a_checkpoint, _fences_itself_when_asked_for_a_checkpoint]


@pytest.mark.parametrize("happens", MOMENTS)
def test_a_leader_that_fences_itself_keeps_nothing_of_the_wrong_state(happens: Callable[[Node], None]) -> None:
    """At whatever moment it happens, no checkpoint of the wrong state is there afterwards, so that none can be offered when the node leads
    again."""
    node = _leader()
    happens(node)
    node.settle()
    assert node.replica.raft.role is Role.FOLLOWER
    assert node.checkpoints == []


@pytest.mark.parametrize("happens", MOMENTS)
def test_a_checkpoint_that_is_kept_is_caught(happens: Callable[[Node], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a leader that only ends its transfers, as any that steps down does, has the wrong state at hand for another minute."""
    monkeypatch.setattr(SnapshotSender, "distrust", SnapshotSender.stop_all)
    monkeypatch.setattr(Replica, "_send", _send_whatever)
    node = _leader()
    happens(node)
    node.settle()
    assert len(node.checkpoints) == 1


def _send_whatever(self: Replica, messages: Sequence[Any]) -> None:
    for message in messages:
        if message.to == self.node:
            self.raft.step(message)
        elif isinstance(message, InstallSnapshot):
            self._sender.start(message)
        else:
            self._shell.send(message.to, message)
