"""The workloads of the crash sweep: what a node's disk is used for, one thing at a time, in scripts for a `Bench`.

Each says which node is swept, and `begin`s when that for which it is there begins. Everything that a node ever does to its disk is in one
of them.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from raftkv.raft.types import Index, NodeId
from raftkv.sim.bench import TUNING, Bench, Script
from raftkv.sim.world import Tuning


class Workload(Struct, frozen=True, kw_only=True):
    """One workload."""

    name: str
    swept: NodeId
    script: Script
    tuning: Tuning = TUNING


COMPACTING = replace(TUNING, replica=replace(TUNING.replica, compact_entries=8))


def _first_start(bench: Bench) -> None:
    bench.begin()
    bench.start_all()
    bench.write(1)


def _plain_writes(bench: Bench) -> None:
    bench.form()
    bench.begin()
    for _ in range(6):
        bench.write(1, 1_900)
    bench.write(4)


def _elections(bench: Bench) -> None:
    bench.form()
    bench.begin()
    for name in ("n2", "n1", "n3", "n1"):
        bench.lead(name)
    bench.write(1)


def _compaction(bench: Bench) -> None:
    bench.form()
    bench.begin()
    for _ in range(12):
        bench.write(1, 900)
    bench.wait(300)


def _compacted(bench: Bench, name: NodeId, index: Index) -> None:
    """Write until the log of a node begins after `index`."""

    def begins_later() -> bool:
        bench.write(1, 300)
        return bench[name].wal.begin.index > index

    bench.until(f"the log of {name} begins after {index}", begins_later)


def _fall_behind(bench: Bench) -> None:
    """n3 is stopped and loses its state, and the others go on without it until its log is of no use either."""
    bench.form()
    _compacted(bench, "n3", 0)
    bench.stop("n3")
    node = bench["n3"]
    node.disk.remove_tree("state")
    node.disk.sync_directory("")
    node.doubtful = True
    _compacted(bench, "n1", node.wal.last_index)


def _snapshot_sent(bench: Bench) -> None:
    _fall_behind(bench)
    bench.begin()
    bench.go("n3")
    bench.settle()
    bench.write(1)


def _full_disk(bench: Bench) -> None:
    bench.form()
    bench.write(2)
    bench.begin()
    disk = bench.swept.disk
    disk.capacity_bytes = sum(map(len, disk.files().values())) + 6_000
    for _ in range(4):
        bench.write(1, 2_500, patience_ms=400)
    disk.capacity_bytes = None
    bench.write(2, 2_500)


def _suspicion(bench: Bench) -> None:
    bench.form()
    bench.write(2)
    node = bench["n3"]

    def last_group_is_unsealed() -> bool:
        bench.write(1)
        return not node.wal.is_sealed

    bench.until("the end of the log of n3 is not sealed", last_group_is_unsealed)
    bench.stop("n3")
    path = max(path for path in node.disk.files() if path.endswith(".log"))
    node.disk.flip(path, len(node.disk.content(path).rstrip(b"\0")) - 8)
    node.torn = True
    bench.begin()
    bench.go("n3")
    bench.settle()
    bench.write(1)


WORKLOADS: tuple[Workload, ...] = (
    Workload(name="first start", swept="n2", script=_first_start),
    Workload(name="plain writes", swept="n1", script=_plain_writes),
    Workload(name="elections", swept="n1", script=_elections),
    Workload(name="compaction", swept="n2", script=_compaction, tuning=COMPACTING),
    Workload(name="snapshot sent", swept="n1", script=_snapshot_sent, tuning=COMPACTING),
    Workload(name="snapshot received", swept="n3", script=_snapshot_sent, tuning=COMPACTING),
    Workload(name="full disk", swept="n1", script=_full_disk),
    Workload(name="suspicion", swept="n3", script=_suspicion),
)
