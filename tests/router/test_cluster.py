"""Several routers around one log: whatever happens, clients are told the truth, in order, and in the end everything is answered."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.router.cluster import WEIGHTS, Cluster, Schedule, random_schedule

EVENTS = st.tuples(st.sampled_from(sorted(WEIGHTS)), st.integers(0, (1 << 16) - 1))


@given(st.lists(EVENTS, max_size=120))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_clients_are_told_the_truth(schedule: Schedule) -> None:
    """Every acknowledged write is applied exactly once, definite failures never happen, order and linearizability hold, nothing is
    left waiting."""
    assert Cluster().run(schedule) == []


@pytest.mark.parametrize("seed", range(100))
def test_clients_are_told_the_truth_in_long_runs(seed: int) -> None:
    """The same, for longer schedules with the usual mix of events."""
    assert Cluster().run(random_schedule(random.Random(seed), 600)) == []


def test_the_runs_reach_what_they_are_for() -> None:
    """The schedules make every kind of outcome happen often enough to matter."""
    outcomes = {"ok": 0, "no": 0, "maybe": 0}
    roamed = retried = 0
    for seed in range(10):
        cluster = Cluster()
        cluster.run(random_schedule(random.Random(seed), 600))
        for client in cluster.history.clients:
            for operation in client.operations:
                outcomes[operation.outcome] += operation.kind != "PING"
        roamed += sum(roamer.sequence for roamer in cluster.roamers)
        retried += sum(roamer.retried for roamer in cluster.roamers)
    assert min(outcomes.values()) > 50
    assert outcomes["ok"] > max(outcomes["no"], outcomes["maybe"])
    assert min(roamed, retried) > 50
