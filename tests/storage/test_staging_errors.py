"""Errors of the disk while a snapshot arrives: what was staged is never believed again, so no sync that failed is made good by another
one of the same file."""

from __future__ import annotations

import random

import pytest

from raftkv.codec.peer import FileInfo
from raftkv.errors import Corrupt, DiskFull, StorageError, Unavailable
from raftkv.raft.types import SnapshotMeta
from raftkv.sim.disk import SimDisk, Survival
from raftkv.storage import staging as staging_module
from raftkv.storage.checkpoint import StateCheckpoint, StateDirectory
from tests.storage.test_checkpoint import info, leader, meta_of, model, prepared, receive, sim, transfer

ERRORS = (StorageError("Input/output error"), DiskFull("no space left to write what was delayed"))


def _fails(disk: SimDisk, state: StateDirectory, checkpoint: StateCheckpoint, error: StorageError) -> bool:
    """Receive with `error` planned; whether it was raised before anything was installed."""
    try:
        staging = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
        transfer(checkpoint, staging)
        staging.finish()
    except StorageError as raised:
        return str(error) in str(raised)
    disk.disarm()
    return False


def _sweep(*, restarts: bool) -> set[str]:
    """An error in each operation of a transfer, another transfer afterwards, and a loss of power: the state must be the snapshot's.
    Returns which kinds of operations failed."""
    checkpoint = leader(10)
    kinds = set()
    for error in ERRORS:
        operation = 0
        failed = True
        while failed:
            operation += 1
            disk = prepared(operation)
            state = model(disk)
            disk.fail_at(disk.operations + operation, error)
            failed = _fails(disk, state, checkpoint, error)
            if failed:
                kinds.add(disk.history[-1].split()[0])
            if restarts:
                disk.restart()
                state = model(disk)
            receive(state, checkpoint)
            disk.crash(Survival.LOST)
            state = model(disk)
            assert meta_of(state.store).index == 10, disk.history
            assert state.store.count(b"", b"\xff") == 11, disk.history
    return kinds


@pytest.mark.parametrize("restarts", [False, True])
def test_what_was_staged_when_the_disk_failed_is_fetched_anew(restarts: bool) -> None:
    """After an error in any operation of a transfer the next one, in the same process or another, leads to a state that survives a
    loss of power: nothing of it was taken from what only the system's cache still showed."""
    assert _sweep(restarts=restarts) >= {"write", "sync", "sync_directory", "create", "unlink", "mkdir", "rename"}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_second_sync_of_the_same_file_is_caught(restarts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a staging area that is believed again after a sync of it has failed is a snapshot with a hole."""
    monkeypatch.setattr(staging_module, "_disown", lambda disk, path: None)
    with pytest.raises((AssertionError, Corrupt)):
        _sweep(restarts=restarts)


def test_a_failed_write_condemns_all_that_was_staged() -> None:
    """An error of a write, unlike a lack of space, says that the disk cannot be trusted with these files: all is fetched anew."""
    checkpoint = leader(10)
    everything = [(0, 0, checkpoint.files[0].size)]
    for error, missing_nothing in ((ERRORS[0], False), (ERRORS[1], True)):
        disk = sim()
        state = model(disk)
        staging = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
        transfer(checkpoint, staging, most=2)
        arrived = staging.missing()
        disk.fail_at(disk.operations + 1, error)
        with pytest.raises(StorageError):
            transfer(checkpoint, staging, most=1)
        again = state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
        assert again.missing() == (arrived if missing_nothing else everything)


def test_files_of_a_condemned_snapshot_are_not_taken_over() -> None:
    """Another snapshot that has a file in common with one whose sync failed fetches that file again."""
    shared = b"s" * 900
    disk = sim()
    state = model(disk)
    old = state.stage("old", SnapshotMeta(5, 1), (info("a.sst", shared),))
    old.write(0, 0, shared)
    disk.fail_at(disk.operations + 2, ERRORS[0])
    with pytest.raises(StorageError):
        old.finish()
    assert disk.history[-1] == "sync state/part-old/data/a.sst"
    newer = state.stage("newer", SnapshotMeta(6, 1), (info("a.sst", shared),))
    assert newer.missing() == [(0, 0, 900)]


def test_what_cannot_be_read_back_is_condemned() -> None:
    """A staged file that the medium no longer gives back fails the transfer that finds it so, and not every one after it."""
    checkpoint = leader(10)
    disk = sim()
    state = model(disk)
    transfer(checkpoint, state.stage(checkpoint.name, checkpoint.meta, checkpoint.files), most=2)
    path = f"state/part-{checkpoint.name}/data/ROWS"
    disk.fail_reads(path)
    with pytest.raises(StorageError, match="Input/output"):
        state.stage(checkpoint.name, checkpoint.meta, checkpoint.files)
    disk.restart()
    state = model(disk)
    assert not disk.exists(path)
    assert state.stage(checkpoint.name, checkpoint.meta, checkpoint.files).missing() == [(0, 0, checkpoint.files[0].size)]


def test_a_snapshot_is_finished_once() -> None:
    """A staging area whose `finish` has failed, or has succeeded, takes nothing more and cannot be finished again."""
    disk = SimDisk(random.Random(1))
    state = model(disk)
    for fails in (True, False):
        staging = state.stage("x", SnapshotMeta(5, 1), (FileInfo("a", 0, 0),))
        if fails:
            disk.fail_at(disk.operations + 2, ERRORS[0])
            with pytest.raises(StorageError):
                staging.finish()
        else:
            staging.finish()
        assert staging.finished is not fails
        with pytest.raises(Unavailable):
            staging.finish()
        with pytest.raises(Unavailable):
            staging.write(0, 0, b"")
