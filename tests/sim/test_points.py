"""The table of failure points is whole, and knows each operation by its name."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from raftkv.sim.cluster import Cluster, Run, simulate
from raftkv.sim.faults import KINDS
from raftkv.sim.hazards import HAZARDS
from raftkv.sim.points import POINTS, Needs, point_of
from raftkv.sim.swarm import Rates, aim, draw_swarm

PROBES = (Path(__file__).parents[2] / "raftkv/sim/probes.py").read_text()


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (("write", "hard_state", 0), "write of hard state slot 1"),
        (("sync", "hard_state", 4_096), "sync of hard state slot 2"),
        (("write", "wal/000000000001.log", 0), "write of segment header"),
        (("write", "wal/000000000001.log", 4_096), "write of segment group"),
        (("rename", "wal/manifest", 0), "rename of manifest"),
        (("unlink", "wal/manifest.new", 0), "unlink of manifest left over"),
        (("rename", "state/CURRENT", 0), "rename of state switch"),
        (("rename", "state/gen-00000002", 0), "rename of installed generation"),
        (("write", "state/part-ab/PROGRESS", 0), "write of progress"),
        (("sync", "state/part-ab/data/ROWS", 0), "sync of staged file"),
        (("create", "state/snap-ab/ROWS.new", 0), "create of checkpoint rows"),
    ],
)
def test_operations_have_names(operation: tuple[str, str, int], name: str) -> None:
    """An operation on a file is the point that the table has for its kind and class."""
    assert point_of(*operation) == name
    assert name in POINTS


def test_every_operation_of_storms_is_in_the_table() -> None:
    """Whatever a node does to its disk in a few long runs has its point."""
    seen: set[str] = set()
    for seed in (3, 4, 5):
        rng = random.Random(seed)
        swarm = aim(draw_swarm(seed, rng), next(point for point in POINTS.values() if point.needs is Needs.SNAPSHOT), rng)
        cluster = Cluster(seed, Run(swarm=swarm))
        for node in cluster.nodes:
            asked = node.ask_crash
            node.ask_crash = lambda node, kind, path, offset, asked=asked: (  # type: ignore[misc]
                seen.add(point_of(kind, path, offset)) or asked(node, kind, path, offset)  # type: ignore[func-returns-value]
            )
        simulate(cluster)
    assert len(seen) > 40
    assert seen <= set(POINTS)


def test_every_kind_of_fault_has_a_rate() -> None:
    """The kinds that a plan draws are the kinds that a storm knows."""
    assert set(Rates.__struct_fields__) == set(KINDS)


def test_every_hazard_has_a_probe() -> None:
    """Each row of the catalogue but divergence, which no storm brings about, is counted somewhere."""
    counted = set(map(int, re.findall(r"hits\[(\d+)\]", PROBES)))
    assert counted | {23, 50} == set(HAZARDS)


@pytest.mark.parametrize("needs", list(Needs))
def test_a_seed_that_aims_at_a_point_gets_there(needs: Needs) -> None:
    """For each circumstance some point is hit within a few seeds."""
    points = [point for point in POINTS.values() if point.needs is needs]
    hits = 0
    for seed in range(1, 9):
        point = points[seed % len(points)]
        rng = random.Random(seed)
        cluster = Cluster(seed, Run(swarm=aim(draw_swarm(seed, rng), point, rng)))
        simulate(cluster)
        hits += cluster.trace.points[point.name]
        if hits:
            break
    assert hits > 0
