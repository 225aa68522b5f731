"""The smallest schedule of faults that still breaks the same rule.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) over the firings of a storm, then a
shorter storm. Each trial is a whole run, so their number is bounded: what is found within the bound breaks the rule, and may not be
the smallest.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from raftkv.sim.cluster import Cluster, Run, simulate
from raftkv.sim.plan import Cut, Firing
from raftkv.sim.trace import Violation

MAX_RUNS = 60


class Schedule(Struct, frozen=True):
    """A schedule that breaks the rule: what is left of the plan, and how many runs it took to find that."""

    cut: Cut
    firings: tuple[Firing, ...]
    runs: int


class _Trials:
    """Runs parts of a plan until too many have been run."""

    def __init__(self, breaks: Callable[[Cut], bool], max_runs: int) -> None:
        self.runs = 0
        self._breaks = breaks
        self._max_runs = max_runs
        self._known: dict[Cut, bool] = {}

    @property
    def over(self) -> bool:
        return self.runs >= self._max_runs

    def breaks(self, keep: tuple[int, ...], storm_ms: int | None) -> bool:
        """Whether this part breaks the rule; False when there is no run left to find that out."""
        cut = Cut(keep, storm_ms)
        known = self._known.get(cut)
        if known is None:
            if self.over:
                return False
            self.runs += 1
            known = self._known[cut] = self._breaks(cut)
        return known


def minimise(seed: int, rule: str, run: Run, max_runs: int | None = None) -> Schedule:
    """Reduce the plan of `seed`, which breaks `rule` when it is run as `run` says.

    Args:
        max_runs: how many runs it may take; MAX_RUNS by default.
    """

    def breaks(cut: Cut) -> bool:
        result = simulate(Cluster(seed, replace(run, cut=cut)))
        return isinstance(result, Violation) and result.rule == rule

    whole = Cluster(seed, run)
    trials = _Trials(breaks, MAX_RUNS if max_runs is None else max_runs)
    keep = _reduce(tuple(firing.number for firing in whole.firings), lambda kept: trials.breaks(kept, run.cut.storm_ms))
    storm_ms = run.cut.storm_ms
    low, high = 0, whole.swarm.storm_ms if storm_ms is None else storm_ms
    while high - low > 50 and not trials.over:
        middle = (low + high) // 2
        if trials.breaks(keep, middle):
            high = storm_ms = middle
        else:
            low = middle
    cut = Cut(keep, storm_ms)
    kept = Cluster(seed, replace(run, cut=cut)).firings
    return Schedule(Cut(tuple(firing.number for firing in kept), storm_ms), kept, trials.runs)


def _reduce(items: tuple[int, ...], breaks: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """The part of `items` that is left when no more can be left out, or no trial is left. `items` as a whole breaks."""
    if not items or breaks(()):
        return ()
    parts = 2
    while len(items) > 1:
        size = -(-len(items) // parts)
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        rests = [tuple(item for item in items if item not in chunk) for chunk in chunks]
        smaller = next((part for part in (*chunks, *(rests if parts > 2 else ())) if breaks(part)), None)
        if smaller is None:
            if parts >= len(items):
                break
            parts = min(len(items), 2 * parts)
        else:
            parts = 2 if smaller in chunks else max(parts - 1, 2)
            items = smaller
    return items
