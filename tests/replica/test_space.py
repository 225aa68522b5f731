"""A damaged state that was set aside takes no space that the node needs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from raftkv.codec.peer import Fence
from raftkv.errors import DiskFull
from raftkv.kv.batch import FORMAT_VERSION, Batch, encode_batch
from raftkv.kv.machine import Applied, KvMachine
from raftkv.raft.messages import Append
from raftkv.raft.types import Entry, EntryKind
from raftkv.replica import ReplicaSettings
from raftkv.sim.disk import SimDisk
from raftkv.storage.checkpoint import SPARE_BYTES
from raftkv.storage.damage import ASIDE_PATH
from tests.replica.lone_node import Node

RESERVE_BYTES = 100_000
ASIDE_BYTES = 1_000_000


def _node(spare_bytes: int) -> Node:
    """A node on a disk with a damaged state of 1 MB and `spare_bytes` that are free."""
    disk = SimDisk(random.Random(1))
    disk.put(f"{ASIDE_PATH}/gen-00000001/ROWS", bytes(ASIDE_BYTES))
    node = Node(disk, settings=ReplicaSettings(reserve_bytes=RESERVE_BYTES))
    disk.capacity_bytes = sum(map(len, disk.files().values())) + spare_bytes
    return node


def test_it_stays_while_there_is_room() -> None:
    """Whoever wants to know what happened finds it."""
    node = _node(RESERVE_BYTES)
    node.heartbeat()
    assert node.disk.exists(ASIDE_PATH)


def _space_is_low(node: Node) -> None:
    """Less is left than the node keeps for itself."""
    node.disk.put("somebody", bytes(1))


def _log_is_full(node: Node) -> None:
    """The log found no space for its next segment."""
    node.replica.log_full(True)


class _Full(KvMachine):
    """A machine whose store finds no space."""

    def apply(self, index: int, term: int, payload: bytes) -> Applied:
        raise DiskFull("no space left to write the state")


def _state_is_full(node: Node) -> None:
    """The state store found no space for an entry."""
    node.replica.machine = _Full(node.state.store)
    entry = Entry(5, 1, EntryKind.BATCH, encode_batch(Batch(FORMAT_VERSION, 1, 2_000, [])))
    node.replica.receive("n2", Append("n2", "n1", 1, 7, 4, 1, (entry,), 5))
    node.settle(background=False)
    assert node.replica.out_of_space is not None


@pytest.mark.parametrize("happens", [_space_is_low, _log_is_full, _state_is_full])
def test_it_goes_before_the_node_does_without(happens: Callable[[Node], None]) -> None:
    """When the node needs the space it has it: writes are taken again at the next look at the disk."""
    node = _node(RESERVE_BYTES)
    happens(node)
    node.heartbeat()
    assert not node.disk.exists(ASIDE_PATH)
    node.replica.log_full(False)
    node.heartbeat()
    assert node.replica.out_of_space is None


def test_it_is_removed_by_one_at_a_time() -> None:
    """The log, the state and the watch on the disk find it full at the same time."""
    node = _node(RESERVE_BYTES)
    for happens in (_space_is_low, _log_is_full, _state_is_full):
        happens(node)
    node.heartbeat(background=False)
    assert len(node.work) == 1
    node.settle()
    assert not node.disk.exists(ASIDE_PATH)


def test_a_snapshot_that_does_not_fit_beside_it_fits_without_it() -> None:
    """The rebuild for which a damaged state was set aside is not prevented by it."""
    node = _node(SPARE_BYTES + 100)
    node.replica.receive("n2", Fence(2, "n2 leads term 1"))
    node.settle()
    node.is_rebuilt()
    assert not node.replica.ready_to_serve
    assert not node.disk.exists(ASIDE_PATH)
    node.is_rebuilt()
    assert node.replica.ready_to_serve
