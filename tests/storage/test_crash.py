"""Crashes at every operation of the disk, with every fate of what was not synced: nothing acknowledged is ever lost."""

from __future__ import annotations

import random

import pytest

from raftkv.errors import StorageError
from raftkv.raft.types import Entry, EntryKind, HardState, SnapshotMeta
from raftkv.sim.disk import SimDisk, Survival
from raftkv.storage.wal import LogWrite
from tests.storage.log_model import Driver, Step, continue_and_check, count_operations, entries, entry, run_until_crash


def _write(*writes: LogWrite) -> Step:
    return lambda driver: driver.write(*writes)


def _compact(index: int) -> Step:
    return lambda driver: driver.compact(index)


def _seal(driver: Driver) -> None:
    driver.seal()


def _reserve(driver: Driver) -> None:
    driver.wal.reserve()


def _reopen(driver: Driver) -> None:
    driver.reopen()


ZEROES = Entry(9, 2, EntryKind.BATCH, bytes(1500))

WORKLOADS: dict[str, list[Step]] = {
    "appends": [
        _write(LogWrite(1, HardState(1, "n1"), None, (entry(1),), 0)),
        _write(LogWrite(2, entries=entries(2, 4), commit=1), LogWrite(3, entries=entries(5, 6), commit=3)),
        _write(LogWrite(4, entries=(entry(7, size=900),), commit=6)),
        _write(LogWrite(5, entries=entries(8, 8), commit=7)),
    ],
    "overwrites": [
        _write(LogWrite(1, HardState(1, None), None, entries(1, 6), 2)),
        _write(LogWrite(2, HardState(2, "n2"), None, entries(4, 8, 2, 300), 3)),
        _write(LogWrite(3, entries=entries(9, 10, 2), commit=3), LogWrite(4, HardState(3, "n3"), None, entries(6, 7, 3), 5)),
        _write(LogWrite(5, entries=entries(8, 8, 3), commit=7)),
    ],
    "hard states": [
        _write(LogWrite(1, HardState(1, None))),
        _write(LogWrite(2, HardState(1, "n1"))),
        _write(LogWrite(3, HardState(2, "a node with a long name"))),
        _write(LogWrite(4, HardState(5, None), None, entries(1, 2, 5), 0)),
    ],
    "segment roll": [
        _write(LogWrite(1, entries=(entry(1, size=3000),))),
        _write(LogWrite(2, entries=(entry(2, size=1500),), commit=1)),
        _write(LogWrite(3, HardState(1, "n1"), None, (entry(3, size=9000),), 2)),
        _write(LogWrite(4, entries=(entry(4, size=3500), entry(5)), commit=3)),
    ],
    "compaction": [
        _write(LogWrite(1, entries=entries(1, 3, 1, 1000))),
        _write(LogWrite(2, entries=entries(4, 6, 2, 1000), commit=3)),
        _compact(2),
        _write(LogWrite(3, entries=entries(7, 8, 2, 1000), commit=7)),
        _compact(6),
        _compact(8),
        _write(LogWrite(4, entries=(ZEROES,), commit=8)),
    ],
    "space taken ahead": [
        _reserve,
        _write(LogWrite(1, HardState(1, "n1"), None, (entry(1, size=3500),), 0)),
        _write(LogWrite(2, entries=(entry(2, size=2500),), commit=1)),
        _reserve,
        _reopen,
        _reserve,
        _write(LogWrite(3, entries=(entry(3, size=2500),), commit=2)),
    ],
    # Found by test_wal_model: the first record of entry 1 is in a segment that compaction removes, and the group that overwrites it
    # begins with a later entry.
    "overwritten and compacted": [
        _write(LogWrite(1, entries=(entry(1, size=3500),))),
        _write(LogWrite(2, entries=(entry(2),)), LogWrite(3, entries=entries(1, 4, 2, 300), commit=0)),
        _write(LogWrite(4, entries=entries(5, 5, 2), commit=3)),
        _compact(3),
        _write(LogWrite(5, entries=entries(6, 6, 2), commit=5)),
    ],
    "snapshot reset": [
        _write(LogWrite(1, entries=entries(1, 3), commit=2)),
        _write(LogWrite(2, HardState(4, None), SnapshotMeta(20, 3), entries(21, 22, 4), 20)),
        _write(LogWrite(3, None, SnapshotMeta(21, 4), entries(23, 23, 4), 21)),
        _compact(22),
        _write(LogWrite(4, None, SnapshotMeta(40, 5), (), 40)),
        _write(LogWrite(5, entries=entries(41, 41, 6), commit=40)),
    ],
    "seals and restarts": [
        _write(LogWrite(1, HardState(1, "n1"), None, entries(1, 2), 1)),
        _seal,
        _write(LogWrite(2, entries=entries(3, 3), commit=2)),
        _reopen,
        _write(LogWrite(3, entries=entries(4, 4), commit=3)),
        _write(LogWrite(4, entries=entries(5, 5), commit=4)),
        _seal,
        _reopen,
    ],
}

FATES = [(Survival.CLEAN, 0), (Survival.LOST, 0), (Survival.TORN, 1), (Survival.TORN, 2), (Survival.REORDERED, 1), (Survival.REORDERED, 2)]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_crash_at_any_operation_loses_nothing_acknowledged(name: str) -> None:
    """Whatever the operation and the fate of unsynced writes, the log recovers to what was acknowledged or to that and the write
    under way, and goes on from there."""
    steps = WORKLOADS[name]
    for operation in range(1, count_operations(steps) + 1):
        for survival, seed in FATES:
            driver = Driver(SimDisk(random.Random(1000 * operation + seed)))
            driver.disk.crash_at(operation)
            assert run_until_crash(driver, steps)
            driver.disk.crash(survival)
            driver.open()
            continue_and_check(driver)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_crash_in_recovery_loses_nothing_either(name: str) -> None:
    """Recovery may itself be interrupted at any operation, and begins again from there."""
    steps = WORKLOADS[name]
    for operation in range(1, count_operations(steps) + 1):
        survival, seed = FATES[operation % len(FATES)]
        recovery_operation = 0
        crashed = True
        while crashed:
            recovery_operation += 1
            driver = Driver(SimDisk(random.Random(operation)))
            driver.disk.crash_at(operation)
            assert run_until_crash(driver, steps)
            driver.disk.crash(survival)
            driver.disk.crash_at(driver.disk.operations + recovery_operation)
            crashed = run_until_crash(driver, [])
            if crashed:
                driver.disk.crash(FATES[(recovery_operation + seed) % len(FATES)][0])
                driver.open()
            driver.check()


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("survival", [Survival.LOST, Survival.REORDERED])
def test_a_failed_sync_is_never_papered_over(survival: Survival, name: str) -> None:
    """After a failed fsync the next start still sees what the disk does not hold; what it builds on that survives the next
    crash."""
    steps = WORKLOADS[name]
    for operation in range(1, count_operations(steps) + 1):
        for kind in ("seen", "dropped"):
            driver = Driver(SimDisk(random.Random(operation)))
            failed = _fail_sync(driver, steps, operation)
            if not failed:
                continue
            driver.disk.restart()
            driver.open()
            driver.check()
            if kind == "seen":
                last = driver.acked.last
                driver.write(LogWrite(9, entries=entries(last.index + 1, last.index + 1, max(1, last.term)), commit=last.index))
            driver.disk.crash(survival)
            driver.open()
            continue_and_check(driver)


def _fail_sync(driver: Driver, steps: list[Step], operation: int) -> bool:
    """Run the steps with an error in one operation; whether it was a sync and stopped the node."""
    driver.disk.fail_at(operation, StorageError("cannot sync: Input/output error"))
    try:
        driver.open()
        for step in steps:
            step(driver)
    except StorageError:
        return driver.disk.history[operation - 1].startswith("sync ")
    return False
