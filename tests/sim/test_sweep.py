"""The crash sweep: a sample of it passes, and planted faults of storage are found by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftkv.raft.types import HardState, SnapshotMeta
from raftkv.sim.disk import SimDisk, SimFile, Survival
from raftkv.sim.store import ModelStore
from raftkv.sim.sweep import Sweep, Sweeper, file_class
from raftkv.sim.sweep_workloads import WORKLOADS
from raftkv.storage import replay
from raftkv.storage.hard_state import SLOT_BYTES, HardStateFile, HardStateSlot, encode_slot
from raftkv.storage.recovery import TailAction, TailFacts, decide_tail
from raftkv.storage.segment import segment_path
from raftkv.storage.wal import Wal


def swept(workload: str, every: int = 1, only: str = "") -> Sweep:
    """A sweep of one workload, up to the first failure."""
    return Sweeper(every, only).run([one for one in WORKLOADS if one.name == workload], double=None)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_sample_of_every_workload_recovers(workload: object) -> None:
    """A crash of every kind, and an error, in a sample of the operations of every workload: nothing acknowledged is lost."""
    outcome = Sweeper(every=11).run([one for one in WORKLOADS if one is workload])
    assert not outcome.failed, outcome.failed[0].message
    assert outcome.recovered == outcome.runs >= 3


def test_the_report_adds_up() -> None:
    """Runs are counted by workload and by kind of operation and file, and both come to the same."""
    outcome = swept("first start", every=9)
    (report,) = outcome.workloads
    assert report.crash_runs + report.error_runs == report.recovered == outcome.runs == sum(row.runs for row in outcome.rows)
    assert sum(row.operations for row in outcome.rows) == report.operations
    assert {"identity", "hard state", "manifest", "segment", "current", "state"} <= {row.file for row in outcome.rows}


def test_every_file_has_a_class() -> None:
    """A file of a data directory is named after what it is."""
    paths = {
        "wal/manifest.new": "manifest",
        "wal/000000000001.log": "segment",
        "wal": "directory of the log",
        "state/gen-00000001/ROWS": "state",
        "state/snap-1/ROWS": "checkpoint",
        "state/part-1/OFFER": "staging",
        "state/CURRENT": "current",
        "state": "directory of states",
        "identity.2.new": "identity",
        "hard_state": "hard state",
        "": "data directory",
    }
    assert {path: file_class(path) for path in paths} == paths


# Planted faults.


def _no_directory_syncs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimDisk, "sync_directory", lambda disk, path: None)


def _unsynced(patch: pytest.MonkeyPatch, matches: Callable[[str], bool]) -> None:
    original = SimFile.sync
    patch.setattr(SimFile, "sync", lambda file: None if matches(file.path) else original(file))


def _unsynced_segments(patch: pytest.MonkeyPatch) -> None:
    _unsynced(patch, lambda path: path.endswith(".log"))


def _unsynced_manifest(patch: pytest.MonkeyPatch) -> None:
    _unsynced(patch, lambda path: "manifest" in path)


def _unsynced_snapshot(patch: pytest.MonkeyPatch) -> None:
    _unsynced(patch, lambda path: "/part-" in path)


def _manifest_trimmed_last(patch: pytest.MonkeyPatch) -> None:
    """Segments are removed before the manifest says so."""
    original = Wal.compact

    def compact(wal: Wal, meta: SnapshotMeta) -> None:
        for id_ in wal._index.dead_segments(meta.index):
            wal._disk.unlink(segment_path("wal", id_))
            wal._disk.sync_directory("wal")
            wal._disk.create(segment_path("wal", id_)).close()
        original(wal, meta)

    patch.setattr(Wal, "compact", compact)


def _cut_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ModelStore, "flush", lambda store: None)


def _names_are_trusted_at_the_start(patch: pytest.MonkeyPatch) -> None:
    """The directory of states is synced after a change of names only, not when it is opened."""
    original = SimDisk.sync_directory

    def sync(disk: SimDisk, path: str) -> None:
        if path != "state" or not disk.history[-1].startswith("sync_directory"):
            original(disk, path)

    patch.setattr(SimDisk, "sync_directory", sync)


def _a_tail_is_trusted_in_place(patch: pytest.MonkeyPatch) -> None:
    def trusting(facts: TailFacts) -> TailAction:
        found = decide_tail(facts)
        return TailAction.APPEND if found is TailAction.REWRITE else found

    patch.setattr(replay, "decide_tail", trusting)


def _hard_state_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    def write(file: HardStateFile, state: HardState) -> None:
        slot = HardStateSlot(file.sequence + 1, state)
        for number in (0, 1):
            file._file.write_at(number * SLOT_BYTES, encode_slot(slot))
        file._current = slot

    patch.setattr(HardStateFile, "write", write)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = {
    "a missing sync of a directory": (_no_directory_syncs, "first start", ""),
    "segments without a sync": (_unsynced_segments, "plain writes", ""),
    "a manifest without a sync": (_unsynced_manifest, "plain writes", "manifest"),
    "a snapshot without a sync": (_unsynced_snapshot, "snapshot received", "CURRENT"),
    "a hard state without a sync": (_hard_state_without_a_sync, "elections", ""),
    "segments removed before the manifest": (_manifest_trimmed_last, "compaction", "unlink wal"),
    "the log cut before the state is flushed": (_cut_before_the_flush, "compaction", "wal/000000000004"),
    "names trusted before they are durable": (_names_are_trusted_at_the_start, "snapshot received", "sync_directory state"),
    "a tail trusted in place": (_a_tail_is_trusted_in_place, "plain writes", "sync wal"),
}
"""For each fault the workload that finds it, and the operations to look at, so that it does not take long."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    """With the fault, some crash or error of the workload that it concerns ends badly."""
    plant, workload, only = FAULTS[name]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        outcome = swept(workload, only=only)
    assert outcome.failed, f"{outcome.runs} runs found nothing"
    assert outcome.failed[0].rule != "the sweep"


def test_all_fates_are_swept() -> None:
    """Each operation that is asked for is crashed under every survival that the disk knows, and gets an error."""
    outcome = swept("suspicion", only="manifest")
    (report,) = outcome.workloads
    assert report.operations > 5
    assert report.crash_runs == len(Survival) * report.operations
    assert report.error_runs == report.operations
    assert not outcome.failed
