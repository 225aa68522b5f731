"""The state directory: checkpoints, snapshots that arrive in pieces, and the switch from one state to another.

The crash tests run on a simulated disk that is stopped in every single operation; a smaller set of tests runs the same code on
RocksDB.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.codec.envelope import wrap
from raftkv.codec.peer import FileInfo
from raftkv.errors import Busy, Corrupt, DiskFull, InvariantBroken, ProtocolError, StateDamaged, StorageError, Unavailable, UnknownFormat
from raftkv.kv.store import Rows, Store
from raftkv.raft.types import Configuration, Member, SnapshotMeta
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.sim.store import ModelEngine
from raftkv.storage.checkpoint import Engine, StateCheckpoint, StateDirectory
from raftkv.storage.disk import Disk, OsDisk
from raftkv.storage.staging import Staging
from raftkv.storage.store import RocksEngine

CHUNK = 200
CONFIGURATION = Configuration((Member("n1", 7, "h:1"),), ("n1",))


def meta_of(rows: Rows) -> SnapshotMeta:
    """Where a state of these tests stands: its row ``at`` is the index, its term is 3."""
    index = int(rows.get(b"at") or b"0")
    return SnapshotMeta(index, 3 if index else 0, CONFIGURATION if index else Configuration())


def fill(store: Store, index: int) -> None:
    """Make `store` stand at `index`, with some rows."""
    store.write({b"at": b"%d" % index, **{b"%d-%d" % (index, n): b"x" * 40 for n in range(10)}})


def model(disk: Disk, token: str = "t", directory: type[StateDirectory] = StateDirectory) -> StateDirectory:
    """A state directory with model stores on `disk`."""
    tokens = count(1)
    return directory(disk, ModelEngine(disk), meta_of, token=lambda: f"{token}{next(tokens)}")


def leader(index: int = 10) -> StateCheckpoint:
    """A checkpoint at `index`, on a disk of its own."""
    disk = SimDisk(random.Random(0))
    state = model(disk, "leader")
    fill(state.store, index)
    return state.checkpoint()


def transfer(checkpoint: StateCheckpoint, staging: Staging, most: int | None = None, order: random.Random | None = None) -> int:
    """Copy what is missing, at most `most` chunks; how many were copied."""
    chunks = [
        (file, at, min(CHUNK, offset + size - at)) for file, offset, size in staging.missing() for at in range(offset, offset + size, CHUNK)
    ]
    if order is not None:
        order.shuffle(chunks)
    for file, offset, size in chunks[:most]:
        staging.write(file, offset, checkpoint.read(file, offset, size))
    return len(chunks[:most])


def receive(state: StateDirectory, checkpoint: StateCheckpoint) -> Store:
    """Everything a receiver does."""
    staging = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    transfer(checkpoint, staging)
    staging.finish()
    return state.install(staging)


def sim(seed: int = 0, **settings: int) -> SimDisk:
    """An empty disk."""
    return SimDisk(random.Random(seed), **settings)


def test_a_new_directory_holds_an_empty_store() -> None:
    """The first start makes an empty state, and the second finds what the first flushed."""
    disk = sim()
    state = model(disk)
    assert meta_of(state.store).index == 0
    assert state.installed is None
    fill(state.store, 4)
    state.store.flush()
    state.close()
    assert meta_of(model(disk).store).index == 4


def test_a_checkpoint_names_its_position_and_its_files() -> None:
    """Index, term and configuration come from inside the checkpoint, and later writes do not change it."""
    disk = sim()
    state = model(disk)
    fill(state.store, 4)
    checkpoint = state.checkpoint()
    before = [checkpoint.read(0, 0, 10_000)]
    fill(state.store, 5)
    state.store.flush()
    assert checkpoint.meta == SnapshotMeta(4, 3, CONFIGURATION)
    assert [checkpoint.read(0, 0, 10_000)] == before
    assert [(info.name, info.size) for info in checkpoint.files] == [("ROWS", len(before[0]))]
    assert state.checkpoint().name != checkpoint.name


def test_an_installed_snapshot_takes_the_place_of_the_state() -> None:
    """After `install` the live store is the snapshot's, CURRENT says where it came from, and nothing of the old state is left."""
    disk = sim()
    state = model(disk)
    fill(state.store, 2)
    old = state.store
    store = receive(state, leader(10))
    assert store is state.store
    assert meta_of(store).index == 10
    assert state.installed == SnapshotMeta(10, 3, CONFIGURATION)
    with pytest.raises(StorageError):
        old.get(b"at")
    assert disk.list("state") == ["CURRENT", "gen-00000002"]
    again = model(disk)
    assert (meta_of(again.store).index, again.installed) == (10, SnapshotMeta(10, 3, CONFIGURATION))


def test_the_state_goes_on_after_an_installation() -> None:
    """A second snapshot may follow the first, and the live store is written in between."""
    disk = sim()
    state = model(disk)
    receive(state, leader(10))
    fill(state.store, 11)
    state.store.flush()
    receive(state, leader(20))
    assert meta_of(model(disk).store).index == 20


def crash_points(run: Callable[[SimDisk], object]) -> Iterator[tuple[int, Survival, SimDisk, bool]]:
    """Run in a world of its own for each operation and each fate of what was pending: crash there, and come back. Where chance
    decides what is lost, it does so several times."""
    chances = {Survival.CLEAN: 1, Survival.LOST: 1, Survival.TORN: 4, Survival.REORDERED: 12}
    for survival, chance in [(survival, chance) for survival, times in chances.items() for chance in range(times)]:
        for operation in count(1):
            disk = prepared(1000 * chance + operation)
            disk.crash_at(disk.operations + operation)
            try:
                run(disk)
                finished = True
            except Crashed:
                finished = False
            disk.crash(survival)
            yield operation, survival, disk, finished
            if finished:
                break


def prepared(seed: int) -> SimDisk:
    """A disk with a state at 2, flushed."""
    disk = sim(seed)
    state = model(disk)
    fill(state.store, 2)
    state.store.flush()
    state.close()
    return disk


def test_a_crash_at_any_step_of_an_installation_leaves_the_old_state_or_the_new() -> None:
    """Whatever the disk keeps of what was not synced, the state is whole and is the old one or the new; the new one for certain once
    `install` has returned; and receiving it again then works."""
    checkpoint = leader(10)
    outcomes = set()
    for operation, survival, disk, finished in crash_points(lambda disk: receive(model(disk), checkpoint)):
        state = model(disk)
        index = meta_of(state.store).index
        outcomes.add((index, finished))
        assert index in (2, 10), (operation, survival)
        assert index == 10 or not finished, (operation, survival)
        assert (state.installed is not None) == (index == 10), (operation, survival)
        assert state.store.count(b"", b"\xff") == 11, (operation, survival)
        assert meta_of(receive(state, checkpoint)).index == 10
        assert disk.list("state") == ["CURRENT", state._current.generation]
    assert outcomes == {(2, False), (10, False), (10, True)}


def test_a_kill_at_any_step_of_an_installation_and_a_loss_of_power_later_leave_a_state() -> None:
    """What a killed process left may be known to the running system alone: the next one removes nothing for which that would be the
    only excuse."""
    checkpoint = leader(10)
    for operation in count(1):
        finished = False
        for chance in range(24):
            disk = prepared(1000 * chance + operation)
            disk.crash_at(disk.operations + operation)
            try:
                receive(model(disk), checkpoint)
                finished = True
            except Crashed:
                finished = False
            disk.crash(Survival.CLEAN)
            model(disk).close()
            disk.crash(Survival.REORDERED if chance else Survival.LOST)
            state = model(disk)
            assert meta_of(state.store).index in (2, 10), (operation, chance)
            assert state.store.count(b"", b"\xff") == 11, (operation, chance)
        if finished:
            break
def test_a_switch_that_only_the_running_system_knows_is_made_durable_before_it_is_trusted() -> None:
    """A process that was killed in a switch may leave a CURRENT that a power loss would take back. The next start makes it durable, so
    that what is acknowledged on top of it does not fall with it. Found by the crash sweep."""
    checkpoint = leader(10)
    for operation in range(1, 100):
        disk = prepared(0)
        state = model(disk)
        disk.crash_at(disk.operations + operation)
        try:
            receive(state, checkpoint)
        except Crashed:
            disk.crash(Survival.CLEAN)
        else:
            return
        trusted = meta_of(model(disk).store).index
        disk.crash(Survival.LOST)
        assert meta_of(model(disk).store).index == trusted, disk.history[-1]
    pytest.fail("an installation takes more operations than this test makes")


def test_a_crash_at_any_step_of_the_first_start_leaves_a_directory_that_starts() -> None:
    """The first start may be cut short anywhere; the next one begins with an empty state, or the flushed one."""
    for survival in Survival:
        for operation in count(1):
            disk = sim(operation)
            disk.crash_at(operation)
            finished = True
            try:
                state = model(disk)
                fill(state.store, 1)
                state.store.flush()
            except Crashed:
                finished = False
            disk.crash(survival)
            assert meta_of(model(disk).store).index in ((1,) if finished else (0, 1))
            if finished:
                break


def test_what_a_dead_process_left_unsynced_is_made_durable_by_the_next_start() -> None:
    """When the process dies at any step of the first start, and the machine goes on, the next start can flush, and what it flushed
    outlives the power."""
    for operation in count(1):
        disk = sim(operation)
        disk.crash_at(operation)
        finished = True
        try:
            model(disk)
        except Crashed:
            finished = False
        disk.crash(Survival.CLEAN)
        state = model(disk)
        fill(state.store, 1)
        state.store.flush()
        disk.crash(Survival.LOST)
        assert meta_of(model(disk).store).index == 1, operation
        if finished:
            break


def test_a_crash_at_any_step_of_a_checkpoint_leaves_the_state_alone() -> None:
    """A checkpoint that was cut short is removed by the next start, and the state is what it was."""

    def run(disk: SimDisk) -> None:
        model(disk).checkpoint().discard()

    for operation, survival, disk, _ in crash_points(run):
        state = model(disk)
        assert meta_of(state.store).index == 2, (operation, survival)
        assert disk.list("state") == ["CURRENT", "gen-00000001"]


def test_an_error_at_any_step_of_an_installation_leaves_a_directory_that_starts() -> None:
    """If the disk fails or is full at any step, the error is ours, and after a restart the state is the old one or the new."""
    checkpoint = leader(10)
    undisturbed = prepared(0)
    begin = undisturbed.operations
    receive(model(undisturbed), checkpoint)
    outcomes = set()
    for error in (StorageError("EIO"), DiskFull("ENOSPC")):
        for operation in range(begin + 1, undisturbed.operations + 1):
            disk = prepared(0)
            disk.fail_at(operation, error)
            try:
                receive(model(disk), checkpoint)
                failed = False
            except StorageError:
                failed = True
            disk.restart()
            index = meta_of(model(disk).store).index
            assert index == 10 or failed, disk.history[operation - 1]
            outcomes.add((index, failed))
    assert outcomes == {(2, True), (10, True), (10, False)}


def test_an_interrupted_transfer_goes_on_where_it_was() -> None:
    """After a restart of the process only what has not arrived is fetched."""
    checkpoint = leader(10)
    disk = sim()
    state = model(disk)
    staging = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    copied = transfer(checkpoint, staging, most=2, order=random.Random(4))
    state.close()
    disk.restart()
    state = model(disk)
    staging = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    total = -(-checkpoint.files[0].size // CHUNK)
    assert transfer(checkpoint, staging) == total - copied > 0
    staging.finish()
    assert meta_of(state.install(staging)).index == 10


def test_an_interrupted_transfer_goes_on_in_the_same_process() -> None:
    """A second offer of the same snapshot continues the first; the first staging area can no longer be written."""
    checkpoint = leader(10)
    state = model(sim())
    first = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    transfer(checkpoint, first, most=1)
    second = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    assert second.missing() == [(0, CHUNK, checkpoint.files[0].size - CHUNK)]
    with pytest.raises(Unavailable, match="no longer"):
        first.write(0, 0, b"x")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), chunks=st.integers(0, 5), survival=st.sampled_from(Survival))
def test_bytes_lost_in_a_crash_are_fetched_again(seed: int, chunks: int, survival: Survival) -> None:
    """After a power loss, what is noted as arrived and is not there, or is not what arrived, counts as missing."""
    checkpoint = leader(10)
    disk = sim(seed)
    transfer(checkpoint, model(disk).stage(checkpoint.name, checkpoint.meta, checkpoint.files), most=chunks)
    disk.crash(survival)
    assert meta_of(receive(model(disk), checkpoint)).index == 10


def test_files_in_common_are_not_fetched_again() -> None:
    """When a newer checkpoint is offered, whole files that the older one shared with it are taken over, verified like any other."""
    shared, changed, new = b"s" * 900, b"c" * 500, b"n" * 300
    state = model(sim())
    old = state.stage("old", SnapshotMeta(5, 1), (info("a.sst", shared), info("MANIFEST", b"m" * 500), info("b.sst", b"b" * 300)))
    old.write(0, 0, shared)
    old.write(1, 0, b"m" * 500)
    old.write(2, 0, b"b" * 100)
    newer = state.stage("newer", SnapshotMeta(6, 1), (info("MANIFEST", changed), info("c.sst", new), info("a.sst", shared)))
    assert newer.missing() == [(0, 0, 500), (1, 0, 300)]
    newer.write(0, 0, changed)
    newer.write(1, 0, new)
    newer.finish()


def info(name: str, data: bytes) -> FileInfo:
    """What a file of an offer is described by."""
    disk = sim()
    file = disk.create("file")
    file.write_at(0, data)
    state = StateDirectory(disk, ModelEngine(disk), meta_of)
    disk.rename("file", "state/file")
    described = state._describe("state", "file")
    return FileInfo(name, described.size, described.crc)


def test_a_chunk_that_differs_is_found_and_fetched_again() -> None:
    """A file that is not what was offered is not installed: only that file is missing afterwards, also after a restart."""
    checkpoint = leader(10)
    disk = sim()
    state = model(disk)
    staging = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    transfer(checkpoint, staging)
    staging.write(0, 5, b"!")
    with pytest.raises(Corrupt, match="fetched again"):
        staging.finish()
    with pytest.raises(InvariantBroken, match="not verified"):
        state.install(staging)
    disk.restart()
    state = model(disk)
    again = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    assert again.missing() == [(0, 0, checkpoint.files[0].size)]
    transfer(checkpoint, again)
    again.finish()
    assert meta_of(state.install(again)).index == 10


def test_discarding_what_was_not_wanted_leaves_another_transfer_of_the_same_snapshot_alone() -> None:
    """Found by a simulated storm: a snapshot was not wanted and was to be removed, later; meanwhile it was offered again."""
    checkpoint, state = leader(), model(sim())
    unwanted = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    transfer(checkpoint, unwanted)
    unwanted.finish()
    again = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    transfer(checkpoint, again, most=1)
    unwanted.discard()
    transfer(checkpoint, again)
    again.finish()
    assert meta_of(state.install(again)).index == 10


def test_an_incomplete_snapshot_is_not_finished() -> None:
    """`finish` refuses a snapshot of which something has not arrived."""
    checkpoint = leader(10)
    staging = model(sim()).stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    transfer(checkpoint, staging, most=1)
    with pytest.raises(Corrupt):
        staging.finish()


def test_a_snapshot_at_another_position_than_offered_is_not_installed() -> None:
    """The position inside the snapshot decides, and a difference leaves the old state in place."""
    checkpoint = leader(10)
    disk = prepared(0)
    state = model(disk)
    staging = state.stage(checkpoint.name, SnapshotMeta(11, 3, CONFIGURATION), checkpoint.files)
    transfer(checkpoint, staging)
    staging.finish()
    with pytest.raises(Corrupt, match="offered for 11"):
        state.install(staging)
    assert meta_of(state.store).index == 2
    assert meta_of(model(disk).store).index == 2


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("../up", ("a",)),
        ("x", ("../../etc",)),
        ("x", ("a/b",)),
        ("x", ("",)),
        ("x", (".",)),
        ("x", ("a", "A")),
        ("", ("a",)),
        ("x" * 200, ("a",)),
    ],
)
def test_names_from_a_peer_cannot_leave_the_staging_area(name: str, files: tuple[str, ...]) -> None:
    """An offer with names that are no plain file names, or with a name twice, is refused before anything is touched."""
    disk = sim()
    state = model(disk)
    before = disk.operations
    with pytest.raises(ProtocolError):
        state.stage(name, SnapshotMeta(5, 1), [FileInfo(file, 1, 0) for file in files])
    assert disk.operations == before


@pytest.mark.parametrize(("file", "offset", "size"), [(1, 0, 1), (-1, 0, 1), (0, 1, 3), (0, -1, 1), (0, 4, 1)])
def test_chunks_outside_the_offer_are_refused(file: int, offset: int, size: int) -> None:
    """A chunk must lie within a file of the offer."""
    staging = model(sim()).stage("x", SnapshotMeta(5, 1), [FileInfo("a", 3, 0)])
    with pytest.raises(ProtocolError):
        staging.write(file, offset, b"." * size)


def test_a_snapshot_that_does_not_fit_is_refused_beforehand() -> None:
    """A disk without space for the whole snapshot, and some for the log to go on, says so before the transfer."""
    state = model(sim(capacity_bytes=100 << 20))
    with pytest.raises(DiskFull, match="does not fit"):
        state.stage("x", SnapshotMeta(5, 1), [FileInfo("a", 50 << 20, 0)])


def test_a_full_disk_leaves_nothing_of_a_checkpoint() -> None:
    """A checkpoint that finds no space is removed, and the state goes on."""
    disk = sim()
    state = model(disk)
    fill(state.store, 2)
    state.store.flush()
    disk.capacity_bytes = sum(map(len, disk.files().values())) + 10
    with pytest.raises(DiskFull):
        state.checkpoint()
    assert disk.list("state") == ["CURRENT", "gen-00000001"]
    assert meta_of(state.store).index == 2


@pytest.mark.parametrize("damage", ["flip", "short", "missing"])
def test_a_damaged_current_is_named_with_the_way_back(damage: str) -> None:
    """CURRENT is never guessed: damaged or gone, the start is refused with the file and what to do; without any state it is new."""
    disk = prepared(0)
    if damage == "flip":
        disk.flip("state/CURRENT", 22)
    elif damage == "short":
        disk.shorten("state/CURRENT", 9)
    else:
        disk.delete("state/CURRENT")
    with pytest.raises(Corrupt, match=r"state/CURRENT.*restart the node"):
        model(disk)
    disk.remove_tree("state")
    assert meta_of(model(disk).store).index == 0


def test_an_installed_state_that_is_missing_is_named() -> None:
    """An installed generation was durable before CURRENT named it: if it is gone the state is not taken for an empty one."""
    disk = sim()
    receive(model(disk), leader(10)).close()
    disk.remove_tree("state/gen-00000002")
    with pytest.raises(StateDamaged, match="gen-00000002 is missing"):
        model(disk)


def test_a_current_of_a_newer_program_is_refused() -> None:
    """A sound file in a format that is not known asks for an upgrade rather than for removal."""
    disk = prepared(0)
    disk.delete("state/CURRENT")
    disk.create("state/CURRENT").write_at(0, wrap(b"RKVSTATE", 2, b"from the future"))
    with pytest.raises(UnknownFormat, match="upgrade"):
        model(disk)


def test_what_lies_about_is_removed_at_the_start() -> None:
    """Checkpoints, other generations and staging areas without a readable offer go; one that can be continued stays."""
    checkpoint = leader(10)
    disk = prepared(0)
    state = model(disk)
    state.checkpoint()
    state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    for name in ("gen-00000009", "part-junk", "snap-junk"):
        disk.mkdir(f"state/{name}")
    state.close()
    model(disk)
    assert disk.list("state") == ["CURRENT", "gen-00000001", f"part-{checkpoint.name}"]


def test_a_state_opened_again_is_as_at_its_last_flush() -> None:
    """`reopen` closes the live store and opens what was flushed; what was not is to be applied again."""
    disk = sim()
    state = model(disk)
    fill(state.store, 4)
    state.store.flush()
    fill(state.store, 5)
    old = state.store
    assert meta_of(state.reopen()).index == 4
    assert state.store is not old
    with pytest.raises(StorageError):
        old.get(b"at")
    assert state.free_bytes() == disk.free_space()


# The same on RocksDB.


def rocks(path: Path) -> tuple[StateDirectory, Engine]:
    """A state directory with RocksDB below `path`."""
    engine = RocksEngine(path)
    return StateDirectory(OsDisk(path), engine, meta_of), engine


def test_rocksdb_a_checkpoint_travels_and_is_installed(tmp_path: Path) -> None:
    """A checkpoint of a RocksDB store, copied chunk by chunk, becomes the live store of another node, with every row."""
    sender, _ = rocks(tmp_path / "sender")
    for index in range(1, 200):
        fill(sender.store, index)
    checkpoint = sender.checkpoint()
    expected = list(sender.store.scan(b"", b"\xff"))
    fill(sender.store, 500)
    assert checkpoint.meta == SnapshotMeta(199, 3, CONFIGURATION)
    assert not any(file.name.startswith(("LOG", "LOCK")) for file in checkpoint.files)
    receiver, _ = rocks(tmp_path / "receiver")
    fill(receiver.store, 3)
    scan_of_the_old_state = receiver.store.scan(b"", b"\xff")
    next(scan_of_the_old_state)
    store = receive(receiver, checkpoint)
    assert list(store.scan(b"", b"\xff")) == expected
    assert len(list(scan_of_the_old_state)) == 10
    del scan_of_the_old_state
    checkpoint.discard()
    sender.close()
    receiver.close()
    again, _ = rocks(tmp_path / "receiver")
    assert (meta_of(again.store).index, again.installed) == (199, SnapshotMeta(199, 3, CONFIGURATION))
    fill(again.store, 200)
    again.store.flush()
    again.close()


def test_rocksdb_a_state_is_not_opened_again_under_a_long_read(tmp_path: Path) -> None:
    """While a long read holds on to the old store `reopen` says Busy; when it has ended, the call succeeds."""
    state, _ = rocks(tmp_path / "data")
    fill(state.store, 4)
    state.store.flush()
    fill(state.store, 5)
    view = state.store.view()
    with pytest.raises(Busy):
        state.reopen()
    assert view.get(b"at") == b"5"
    view.close()
    assert meta_of(state.reopen()).index in (4, 5)  # RocksDB may flush when it is closed
    state.close()


def test_rocksdb_checkpoints_share_tables(tmp_path: Path) -> None:
    """Two checkpoints one after the other have their tables in common, so a transfer of the second continues that of the first."""
    sender, _ = rocks(tmp_path / "sender")
    fill(sender.store, 1)
    first = sender.checkpoint()
    fill(sender.store, 2)
    second = sender.checkpoint()
    tables = {file for file in first.files if file.name.endswith(".sst")}
    assert tables
    assert tables <= set(second.files)
    receiver, _ = rocks(tmp_path / "receiver")
    transfer(first, receiver.stage(first.name, first.meta, first.files))
    staging = receiver.stage(second.name, second.meta, second.files)
    left = sum(size for _, _, size in staging.missing())
    assert left <= sum(file.size for file in second.files) - sum(file.size for file in tables)
    transfer(second, staging)
    staging.finish()
    assert meta_of(receiver.install(staging)).index == 2
    sender.close()
    receiver.close()


def test_rocksdb_describing_reads_the_position_without_changing_files(tmp_path: Path) -> None:
    """Reading the position inside a checkpoint changes none of the files whose checksums are offered."""
    state, engine = rocks(tmp_path / "data")
    fill(state.store, 7)
    checkpoint = state.checkpoint()
    before = [checkpoint.read(number, 0, 1 << 20) for number in range(len(checkpoint.files))]
    with engine.inspect(f"state/snap-{checkpoint.name}") as rows:
        assert meta_of(rows).index == 7
    assert [checkpoint.read(number, 0, 1 << 20) for number in range(len(checkpoint.files))] == before
    checkpoint.discard()
    state.close()
