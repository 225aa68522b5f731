"""A damaged state that was set aside takes no space that the node needs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import structlog

from raftkv.codec.peer import Fence
from raftkv.errors import DiskFull, Rotten, StorageError
from raftkv.kv.batch import FORMAT_VERSION, Batch, encode_batch
from raftkv.kv.machine import Applied, KvMachine
from raftkv.raft.messages import Append
from raftkv.raft.types import Entry, EntryKind
from raftkv.replica import ReplicaSettings
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelEngine
from raftkv.startup import open_log, open_rotten, open_state, snapshot_meta_of
from raftkv.storage.checkpoint import SPARE_BYTES, StateDirectory
from raftkv.storage.damage import ASIDE_PATH, aside, note_damage
from raftkv.storage.disk import Disk
from raftkv.storage.wal import Wal, WalSettings
from tests.replica.lone_node import ENTRIES, Node
from tests.storage.log_model import SMALL
from tests.storage.test_rotten import FOUR, log_of, rot

RESERVE_BYTES = 100_000
ASIDE_BYTES = 1_000_000


def _node(spare_bytes: int, disk: SimDisk | None = None) -> Node:
    """A node on a disk with a damaged state of 1 MB and `spare_bytes` that are free."""
    disk = disk or SimDisk(random.Random(1))
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


class _Stuck(SimDisk):
    """A disk on which `state.damaged` cannot be removed while it is `stuck`."""

    stuck = True

    def remove_tree(self, path: str) -> None:
        if path == ASIDE_PATH and self.stuck:
            raise StorageError(f"cannot remove {path}: Permission denied")
        super().remove_tree(path)


@pytest.mark.parametrize("happens", [_space_is_low, _log_is_full, _state_is_full])
def test_one_that_cannot_be_removed_stops_nobody(happens: Callable[[Node], None], capsys: pytest.CaptureFixture[str]) -> None:
    """It is only kept: the node says so and goes on, and tries again when it needs the space again."""
    disk = _Stuck(random.Random(1))
    node = _node(RESERVE_BYTES, disk)
    happens(node)
    node.heartbeat()
    assert disk.exists(ASIDE_PATH)
    told = capsys.readouterr().out
    assert "damaged_state_stays" in told
    assert "Permission denied" in told
    node.replica.log_full(False)
    disk.stuck = False
    _log_is_full(node)
    node.heartbeat()
    assert not disk.exists(ASIDE_PATH)


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


# At a start.

EVENTS = structlog.get_logger("raftkv")


def _open_state(disk: Disk, found: Callable[[str], None] = lambda reason: None) -> tuple[StateDirectory, KvMachine]:
    return open_state(disk, lambda: StateDirectory(disk, ModelEngine(disk), snapshot_meta_of), KvMachine, EVENTS, found)


def _with_state(disk: SimDisk) -> None:
    """Put a state at index 4 on `disk`."""
    state, machine = _open_state(disk)
    machine.apply_empty(1, 1, ENTRIES[0].payload)
    for entry in ENTRIES[1:]:
        machine.apply(entry.index, entry.term, entry.payload)
    state.store.flush()
    state.close()


def _fill(disk: SimDisk) -> None:
    disk.capacity_bytes = sum(map(len, disk.files().values()))


def test_a_damaged_state_leaves_room_for_its_own_rebuild() -> None:
    """On a full disk the copy that was set aside a moment ago goes before the new state does without: else no start would succeed."""
    disk = SimDisk(random.Random(1))
    _with_state(disk)
    disk.flip("state/CURRENT", 22)
    _fill(disk)
    found: list[str] = []
    state, machine = _open_state(disk, found.append)
    assert machine.applied_index == 0
    assert state.fenced is None
    assert aside(disk) == []
    assert "state/CURRENT" in found[0]


@pytest.mark.parametrize("noted", [False, True])
def test_a_damaged_state_is_kept_while_there_is_room_for_another(noted: bool) -> None:
    """Whether the start finds the damage, or the one before it noted it: it stays, and only the newest one does."""
    disk = SimDisk(random.Random(1))
    for _ in range(2):
        _with_state(disk)
        if noted:
            note_damage(disk, "block 7 is rotten")
        else:
            disk.flip("state/CURRENT", 22)
        _, machine = _open_state(disk)
        assert machine.applied_index == 0
        assert aside(disk) == [ASIDE_PATH]
    assert disk.exists(f"{ASIDE_PATH}/CURRENT")


def test_a_start_goes_on_beside_what_cannot_be_removed(capsys: pytest.CaptureFixture[str]) -> None:
    """A state that was set aside before and resists keeps nobody from setting aside the next, and the log says so."""
    disk = _Stuck(random.Random(1))
    for _ in range(2):
        _with_state(disk)
        note_damage(disk, "block 7 is rotten")
        _open_state(disk)
    assert aside(disk) == [ASIDE_PATH, f"{ASIDE_PATH}-2"]
    assert "damaged_state_stays" in capsys.readouterr().out


def test_without_anything_to_give_up_a_full_disk_is_an_error() -> None:
    """What finds no space either way is not tried for ever."""
    disk = SimDisk(random.Random(1))
    disk.capacity_bytes = 0
    with pytest.raises(DiskFull):
        open_log(disk, SMALL, EVENTS)


def test_a_log_is_opened_in_the_place_of_it() -> None:
    """A log whose last group is bad goes on in a new segment, and its space is to be had."""
    driver = log_of(*FOUR, sealed=False)
    rot(driver, 4)
    disk = driver.disk
    disk.put(f"{ASIDE_PATH}/gen-00000001/ROWS", bytes(ASIDE_BYTES))
    _fill(disk)
    with pytest.raises(DiskFull):
        Wal.open(disk, SMALL)
    log = open_log(disk, SMALL, EVENTS)
    assert log.last_index == 3
    assert aside(disk) == []


def test_a_rotten_log_forgets_in_the_place_of_it() -> None:
    """A log whose rot the state makes good begins after the state, for which its manifest is written again."""
    disk = SimDisk(random.Random(1))
    node = Node(disk)
    node.state.store.flush()
    node.state.close()
    node.wal.close()
    log_path = "wal/000000000001.log"
    disk.flip(log_path, disk.content(log_path).index(ENTRIES[1].payload) + 3, 0x10)
    disk.put(f"{ASIDE_PATH}/gen-00000001/ROWS", bytes(ASIDE_BYTES))
    _fill(disk)
    settings = WalSettings(segment_bytes=64 << 10)
    with pytest.raises(Rotten):
        open_log(disk, settings, EVENTS)
    assert aside(disk) == [ASIDE_PATH]
    log = open_rotten(disk, settings, lambda: _open_state(disk), EVENTS)
    assert (log.needed, log.begin.index) == ((), len(ENTRIES))
    assert aside(disk) == []
