"""What many seeds came to: sums, what they covered, and what they broke.

A report is a value that is the same for the same seeds, on any machine. As JSON it is its fields; for people it is lines of text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from raftkv.sim.cluster import Cluster, Outcome, Run
from raftkv.sim.faults import KINDS, MESSAGE_FAULTS
from raftkv.sim.hazards import HAZARDS
from raftkv.sim.minimise import minimise
from raftkv.sim.plan import Cut, Firing
from raftkv.sim.points import POINTS
from raftkv.sim.suite import Broken, Result

SUITE_SEEDS: Final = 2_500
SUITE_FAULTS: Final = 1_000
"""How often each kind of fault must have happened in a suite."""

SUITE_POINTS: Final = 100
"""How often a node must have died at each failure point in a suite."""


class Covered(Struct, frozen=True):
    """A hazard, and how often its situation arose."""

    number: int
    title: str
    situation: str
    count: int


class Found(Struct, frozen=True):
    """A rule that a seed broke, and how to see it again. `schedule` is the smallest storm of `storm_ms` that was found to break the
    same rule, after `runs` more runs, and `options` everything that the seed drew before its first event."""

    seed: int
    rule: str
    what: str
    options: dict[str, object]
    schedule: tuple[Firing, ...]
    storm_ms: int
    runs: int
    command: str


class Report(Struct, frozen=True, kw_only=True):
    """See the module. Counts of 0 are shown too."""

    runs: int
    first_seed: int
    last_seed: int
    events: int
    simulated_ms: int
    elections: int
    entries: int
    commands: int
    acknowledged: int
    acknowledged_writes: int
    refused: int
    unknown: int
    slowest_recovery_ms: int
    slowest_recovery_seed: int
    faults: dict[str, int]
    failure_points: dict[str, int]
    hazards: list[Covered]
    events_by_name: dict[str, int]
    found: list[Found]

    @property
    def uncovered(self) -> list[Covered]:
        """The hazards whose situation never arose."""
        return [row for row in self.hazards if not row.count]

    def shortfalls(self) -> list[str]:
        """What fell short of what a suite must do."""
        faults = [f"fault {kind}: {count} of {SUITE_FAULTS}" for kind, count in self.faults.items() if count < SUITE_FAULTS]
        return faults + [
            f"failure point {name}: {count} of {SUITE_POINTS}" for name, count in self.failure_points.items() if count < SUITE_POINTS
        ]


def explain(broken: Broken, cut: Cut) -> Found:
    """Find the smallest schedule, and say how to run it."""
    schedule = minimise(broken.seed, broken.rule, Run(cut=cut))
    cluster = Cluster(broken.seed, Run(cut=schedule.cut))
    kept = ",".join(str(firing.number) for firing in schedule.firings) or "none"
    storm_ms = cluster.swarm.storm_ms if schedule.cut.storm_ms is None else schedule.cut.storm_ms
    return Found(
        seed=broken.seed,
        rule=broken.rule,
        what=broken.what,
        options=msgspec.to_builtins(cluster.swarm),
        schedule=schedule.firings,
        storm_ms=storm_ms,
        runs=schedule.runs,
        command=f"raftkv verify --seed {broken.seed} --keep {kept} --storm-ms {storm_ms} --trace",
    )


def report(results: Iterable[Result], found: list[Found]) -> Report:
    """Sum up; `found` explains those of the results that are `Broken`."""
    outcomes = [result for result in results if isinstance(result, Outcome)]
    seeds = [outcome.seed for outcome in outcomes] + [one.seed for one in found]
    faults: Counter[str] = Counter()
    points: Counter[str] = Counter()
    hazards: Counter[int] = Counter()
    names: Counter[str] = Counter()
    for outcome in outcomes:
        faults.update(outcome.faults)
        points.update(outcome.points)
        hazards.update(outcome.hazards)
        names.update(outcome.counts)
    slowest = max(outcomes, key=lambda outcome: outcome.recovery_ms, default=None)
    return Report(
        runs=len(seeds),
        first_seed=min(seeds, default=0),
        last_seed=max(seeds, default=0),
        events=sum(outcome.events for outcome in outcomes),
        simulated_ms=sum(outcome.simulated_ms for outcome in outcomes),
        elections=names["elected"],
        entries=sum(outcome.entries for outcome in outcomes),
        commands=sum(outcome.commands for outcome in outcomes),
        acknowledged=sum(outcome.acknowledged for outcome in outcomes),
        acknowledged_writes=sum(outcome.acknowledged_writes for outcome in outcomes),
        refused=sum(outcome.refused for outcome in outcomes),
        unknown=sum(outcome.unknown for outcome in outcomes),
        slowest_recovery_ms=slowest.recovery_ms if slowest else 0,
        slowest_recovery_seed=slowest.seed if slowest else 0,
        faults={kind: faults[kind] for kind in (*KINDS, *MESSAGE_FAULTS)},
        failure_points={name: points[name] for name in sorted({*POINTS, *points})},
        hazards=[Covered(row.number, row.title, row.situation, hazards[row.number]) for row in HAZARDS.values()],
        events_by_name=dict(sorted(names.items())),
        found=found,
    )


def text(report: Report) -> Iterator[str]:
    """The report for people, line by line."""
    yield (
        f"{report.runs} runs (seeds {report.first_seed} to {report.last_seed}), {report.events} events, "
        f"{report.simulated_ms / 1e3:.0f} s of simulated time, {report.elections} elections"
    )
    yield (
        f"{report.acknowledged_writes} acknowledged writes of {report.commands} in the log; of all requests {report.acknowledged} "
        f"were answered, {report.refused} refused, {report.unknown} left open"
    )
    yield f"slowest recovery: {report.slowest_recovery_ms} ms of calm (seed {report.slowest_recovery_seed})"
    yield ""
    yield "faults"
    yield from _columns(report.faults)
    yield ""
    yield "crashes at failure points"
    yield from _columns(report.failure_points)
    yield ""
    yield f"hazards: {len(report.hazards) - len(report.uncovered)} of {len(report.hazards)} covered"
    for row in report.hazards:
        yield f"  {row.number:>2}  {row.count or 'NOT COVERED':>11}  {row.title}: {row.situation}"
    for found in report.found:
        yield ""
        yield from _found(found)


def _columns(counts: dict[str, int]) -> Iterator[str]:
    """Names with counts, two to a line."""
    cells = [f"{name:38}{count:>8}" for name, count in counts.items()]
    half = -(-len(cells) // 2)
    for number in range(half):
        yield "  " + "    ".join(cells[number::half])


def _found(found: Found) -> Iterator[str]:
    yield f"BROKEN in seed {found.seed}: {found.rule}"
    yield f"  {found.what}"
    yield "drawn options"
    for name, value in found.options.items():
        yield f"  {name:18} {value}"
    yield f"smallest schedule found in {found.runs} more runs: {len(found.schedule)} faults in a storm of {found.storm_ms} ms"
    for firing in found.schedule:
        yield f"  {firing.at_ms:>7} ms  {firing.kind} (number {firing.number})"
    yield "once more:"
    yield f"  {found.command}"
