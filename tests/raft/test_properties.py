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

from tests.raft.schedule import BREEZE, GALE, STORM_SEEDS, WEIGHTS, seeded, storm

MORE = int(os.environ.get("RAFTKV_STORMS", "1"))
STEPS = st.lists(st.integers(0, 2**24 - 1), max_size=120)
BOUNDED = settings(max_examples=120 * MORE, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


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
def test_three_nodes_stay_safe_in_a_gale(steps: list[int]) -> None:
    """The same where more goes wrong than right."""
    run = storm(3, gale=True)
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
    run = storm(3, lease_reads=True, even_clocks=True)
    run.network.elect("n1")
    run.run(steps)
    run.calm()


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("seed", range(len(STORM_SEEDS) * MORE))
def test_long_schedules(seed: int, nodes: int) -> None:
    """Longer storms, each from a seed, so that logs grow, are cut and are sent as snapshots."""
    seeded(seed, nodes)


def test_every_action_has_its_share() -> None:
    """The tables of actions are complete: none is cut off by the size of a byte."""
    for table in (BREEZE, GALE):
        assert len(table) == 256
        assert set(table) == {row[0] for row in WEIGHTS}


def test_storms_get_something_done() -> None:
    """A storm in which nothing is ever committed would prove nothing: together they elect, commit, read, compact and send snapshots."""
    oracles = [seeded(seed, 3).network.oracle for seed in range(1, 20, 2)]
    assert sum(len(oracle.leaders) for oracle in oracles) >= 20
    assert sum(oracle.commit_high for oracle in oracles) >= 100
    assert sum(len(oracle.answered) for oracle in oracles) >= 15
