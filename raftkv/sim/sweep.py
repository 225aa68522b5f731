"""The crash sweep: every workload again for every operation of a node's disk, with a crash, or an error, in exactly that operation.

A workload is run once without faults, which counts the operations of the swept node's disk. Then it is run for each of them and for each
`Survival`: the machine stops in the operation, what was not synced survives or not, the node starts again, and the workload goes on to
its end. In the end everything that was acknowledged is there, all nodes have the same state, and the judge (`watch`) has seen nothing
that must not be. The same with an error of the disk instead of a crash. After an error, and after a crash that only the process did not
survive, the power fails once more when all is well again: what the running system showed to the next process and the disk does not hold
must not be needed. For the smallest workload each operation of each recovery is crashed as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from msgspec import Struct

from raftkv.raft.types import NodeId
from raftkv.sim.bench import Bench, Fault, SweptNode
from raftkv.sim.cluster import recorded
from raftkv.sim.disk import Survival
from raftkv.sim.sweep_workloads import WORKLOADS, Workload
from raftkv.sim.trace import Violation

SURVIVALS = tuple(Survival)


class Row(Struct, kw_only=True):
    """What became of the faults in one kind of operation on one class of files."""

    operation: str
    file: str
    operations: int = 0
    runs: int = 0
    recovered: int = 0


class WorkloadReport(Struct, kw_only=True):
    """One workload."""

    workload: str
    swept: NodeId
    operations: int
    """Of the swept node's disk, those asked for; each `every`-th of them was swept."""
    crash_runs: int = 0
    error_runs: int = 0
    double_runs: int = 0
    recovered: int = 0
    seconds: float = 0.0


class Failed(Struct, frozen=True, kw_only=True):
    """A run that did not end well."""

    workload: str
    operation: int
    what: str
    """The operation in words."""
    fault: str
    rule: str
    message: str


class Sweep(Struct, frozen=True, kw_only=True):
    """What a sweep came to."""

    every: int
    only: str
    workloads: list[WorkloadReport]
    rows: list[Row]
    failed: list[Failed]
    runs: int
    recovered: int
    seconds: float


class Sweeper:
    """Runs a sweep and counts.

    Args:
        every: only every so many operations are swept, beginning with a different one for each survival.
        only: only operations in whose words this is found, such as ``sync wal/``.
        node_class: instead of `SweptNode`: for tests that break a node on purpose.
        stop_early: end at the first run that fails.
    """

    def __init__(
        self, every: int = 1, only: str = "", node_class: type[SweptNode] = SweptNode, stop_early: bool = True
    ) -> None:
        self._every = every
        self._only = only
        self._node_class = node_class
        self._stop_early = stop_early
        self._rows: dict[tuple[str, str], Row] = {}
        self._failed: list[Failed] = []
        self._reports: list[WorkloadReport] = []

    def run(self, workloads: Sequence[Workload] = WORKLOADS, double: str | None = "first start") -> Sweep:
        """Sweep `workloads`, the one named `double` with two crashes too."""
        begin = time.perf_counter()
        for workload in workloads:
            if not (self._stop_early and self._failed):
                self._sweep(workload, workload.name == double)
        return Sweep(
            every=self._every,
            only=self._only,
            workloads=self._reports,
            rows=[self._rows[key] for key in sorted(self._rows)],
            failed=self._failed,
            runs=sum(row.runs for row in self._rows.values()),
            recovered=sum(row.recovered for row in self._rows.values()),
            seconds=time.perf_counter() - begin,
        )

    def _sweep(self, workload: Workload, double: bool) -> None:
        begin = time.perf_counter()
        bench = self._run(workload, None)
        history = bench.swept.disk.history
        operations = [number for number in range(bench.first + 1, len(history) + 1) if self._only in history[number - 1]]
        report = WorkloadReport(workload=workload.name, swept=workload.swept, operations=len(operations))
        self._reports.append(report)
        for operation in operations:
            self._row(history[operation - 1]).operations += 1
        for fault in self._faults(operations):
            recovery = self._try(workload, fault, history, report)
            if double and recovery is not None and fault.survival is not None:
                for again in range(1, recovery + 1, self._every):
                    self._try(workload, Fault(fault.operation, fault.survival, again), history, report)
            if self._failed and self._stop_early:
                break
        report.seconds = time.perf_counter() - begin

    def _faults(self, operations: Sequence[int]) -> Iterator[Fault]:
        for place, operation in enumerate(operations):
            for number, survival in enumerate((*SURVIVALS, None)):
                if (place + number) % self._every == 0:
                    yield Fault(operation, survival)

    def _try(self, workload: Workload, fault: Fault, history: list[str], report: WorkloadReport) -> int | None:
        """One run; how many operations of the disk the recovery from its crash took."""
        row = self._row(history[fault.operation - 1])
        row.runs += 1
        if fault.survival is None:
            report.error_runs += 1
        elif fault.again is not None:
            report.double_runs += 1
        else:
            report.crash_runs += 1
        try:
            bench = self._run(workload, fault)
        except Violation as violation:
            self._failed.append(
                Failed(
                    workload=workload.name,
                    operation=fault.operation,
                    what=history[fault.operation - 1],
                    fault="an error" if fault.survival is None else f"{fault.survival.name}, again in {fault.again}",
                    rule=violation.rule,
                    message=str(violation),
                )
            )
            return None
        row.recovered += 1
        report.recovered += 1
        return bench.recovery[1] - bench.recovery[0]

    def _run(self, workload: Workload, fault: Fault | None) -> Bench:
        """The workload from its beginning to a settled cluster.

        Raises:
            Violation: something happened that must not, or the fault did not happen.
        """
        bench = Bench(workload.swept, fault, workload.tuning, self._node_class)
        with recorded(bench.trace, bench.world):
            try:
                workload.script(bench)
                bench.settle()
                if fault is not None and fault.survival in (None, Survival.CLEAN):
                    bench.swept.kill(power=Survival.LOST)
                    bench.settle()
            except Violation as violation:
                raise Violation(
                    violation.rule, f"{str(violation).removeprefix(violation.rule + ': ')}\nafter these events:\n{bench.trace.text()}"
                ) from violation
        if fault is not None and fault.survival is not None and not bench.crashes:
            raise Violation("the sweep", f"operation {fault.operation} did not happen again")
        return bench

    def _row(self, operation: str) -> Row:
        kind, _, path = operation.partition(" ")
        file = file_class(path)
        return self._rows.setdefault((file, kind), Row(operation=kind, file=file))


def file_class(path: str) -> str:
    """What a file of a data directory is."""
    top, _, rest = path.partition("/")
    if top == "wal":
        return "manifest" if "manifest" in rest else "segment" if rest else "directory of the log"
    if top == "state":
        for prefix, name in (("gen-", "state"), ("snap-", "checkpoint"), ("part-", "staging"), ("CURRENT", "current")):
            if rest.startswith(prefix):
                return name
        return "directory of states"
    return "identity" if top.startswith("identity") else "hard state" if top.startswith("hard_state") else "data directory"
