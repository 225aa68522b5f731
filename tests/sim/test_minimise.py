"""Schedules are made small: a planted fault that takes one kind of firing is left with few of them, and breaks the same rule."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from raftkv.sim import minimise as module
from raftkv.sim.cluster import Cluster, Run, simulate
from raftkv.sim.minimise import minimise
from raftkv.sim.plan import Cut, draw_plan
from raftkv.sim.store import ModelStore
from raftkv.sim.swarm import Rates
from raftkv.sim.trace import Violation
from tests.sim.storms import COMPACTING, storm

BUSY = Rates(kill=400, pause=600, reset=300, partition=700, transfer=500, clock_jump=300, slow_disk=600)


def test_a_schedule_is_reduced_to_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is cut before the state is durable is found by a crash: of a storm of seven kinds only a few firings are left, the storm
    is shorter, and what is left breaks the same rule."""
    monkeypatch.setattr(ModelStore, "flush", lambda self: None)
    run = Run(swarm=storm(BUSY, tuning=COMPACTING))
    result = simulate(Cluster(1, run))
    assert isinstance(result, Violation)
    assert result.rule == "state kept"
    whole = Cluster(1, run).firings
    small = minimise(1, result.rule, run, max_runs=40)
    assert small.runs <= 40
    assert len(small.firings) <= 3 < 15 < len(whole)
    assert set(small.firings) <= set(whole)
    assert any(firing.kind == "kill" for firing in small.firings)
    assert small.cut.storm_ms is not None
    assert small.cut.storm_ms < 3_000
    again = simulate(Cluster(1, replace(run, cut=small.cut)))
    assert isinstance(again, Violation)
    assert again.rule == result.rule


def test_what_breaks_without_a_fault_is_left_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that cannot elect needs no storm."""
    monkeypatch.setattr("raftkv.raft.node.Raft.become_candidate", lambda self, transfer=False: self.become_follower(self.term, None))
    monkeypatch.setattr("raftkv.sim.calm.CALM_MS", 3_000)
    small = minimise(1, "liveness", Run(swarm=storm(BUSY, storm_ms=500)), max_runs=6)
    assert small.firings == ()


@pytest.mark.parametrize("needed", [(5,), (2, 7), (0, 4, 9), (3, 4, 5, 6)])
def test_exactly_the_needed_firings_are_left(needed: tuple[int, ...]) -> None:
    """When a set of firings breaks a rule together, and only together, that set is what is left."""
    assert module._reduce(tuple(range(10)), lambda kept: set(needed) <= set(kept)) == needed


def test_leaving_firings_out_changes_nothing_about_the_others() -> None:
    """A part of a plan has the times of the whole, whatever is left out, and the whole does not depend on a cut."""
    plan = draw_plan(7, BUSY, 3_000)
    assert [firing.at_ms for firing in plan] == sorted(firing.at_ms for firing in plan)
    keep = tuple(firing.number for firing in plan[::3])
    assert Cut(keep).of(plan) == plan[::3]
    assert Cut(storm_ms=1_000).of(plan) == tuple(firing for firing in plan if firing.at_ms < 1_000)
    assert len({firing.number for firing in plan}) == len(plan)


def test_each_kind_comes_as_often_as_its_rate_says() -> None:
    """Over many plans the number of firings of a kind is the length of the storm by its mean time."""
    counts = [len(draw_plan(seed, Rates(kill=500), 3_000)) for seed in range(400)]
    assert 5.5 < sum(counts) / len(counts) < 6.5
