"""The safety properties of figure 3 of the paper, and recovery, over random schedules.

Each example is a storm of ticks, deliveries, losses, crashes and slow disks, in which `Oracle` watches election safety, leader
append-only, log matching, leader completeness, state machine safety, what is durable before which message, one vote a term and
fresh reads, and `Raft.check_invariants()` holds after each step; then a calm in which the cluster must work again.

``RAFTKV_STORMS=50 pytest tests/raft/test_properties.py`` runs fifty times as many examples.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.raft.schedule import ACTIONS, WEIGHTS, seeded, storm

MORE = int(os.environ.get("RAFTKV_STORMS", "1"))
STEPS = st.lists(st.integers(0, 2**24 - 1), max_size=120)
BOUNDED = settings(max_examples=40 * MORE, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@BOUNDED
@given(steps=STEPS)
def test_three_nodes_stay_safe_and_recover(steps: list[int]) -> None:
    """Three nodes keep every safety property through any schedule, and then work again."""
    run = storm(3)
    run.network.elect("n1")
    run.run(steps)
    run.calm()


@BOUNDED
@given(steps=STEPS)
def test_five_nodes_stay_safe_and_recover(steps: list[int]) -> None:
    """So do five."""
    run = storm(5)
    run.network.elect("n1")
    run.run(steps)
    run.calm()


@BOUNDED
@given(steps=STEPS)
def test_a_new_cluster_stays_safe_and_forms(steps: list[int]) -> None:
    """So does a cluster that has not formed yet, whatever happens while it does."""
    run = storm(3, new=True)
    run.run(steps)
    run.calm()


@BOUNDED
@given(steps=STEPS)
def test_reads_by_lease_are_fresh_when_clocks_agree(steps: list[int]) -> None:
    """With lease reads and clocks that run alike, a read never misses what was committed before it was asked."""
    run = storm(3, lease_reads=True)
    run.network.elect("n1")
    uneven = ACTIONS.index(next(action for action, _ in WEIGHTS if action.__name__ == "tick_one"))
    even = ACTIONS.index(next(action for action, _ in WEIGHTS if action.__name__ == "tick_all"))
    same = ACTIONS[uneven]
    run.run((step & ~0xFF) | even if ACTIONS[step & 0xFF] is same else step for step in steps)
    run.calm()


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("seed", range(12 * MORE))
def test_long_schedules(seed: int, nodes: int) -> None:
    """Longer storms, each from a seed, so that logs grow, are cut and are sent as snapshots."""
    seeded(seed, 600, nodes)


def test_every_action_has_its_share() -> None:
    """The table of actions is complete: none is cut off by the size of a byte."""
    assert sum(weight for _, weight in WEIGHTS) <= len(ACTIONS) == 256
    assert {action for action, _ in WEIGHTS} == set(ACTIONS)
