"""The corruption grid: whatever rots on the nodes of a cluster, it recovers if an intact copy of everything committed is left, it waits
if not, and it never forgets.

Here a sample is run; `run_grid()` runs all 4,096 cases, in about two minutes.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from raftkv.errors import Corrupt
from raftkv.sim.cluster import Run, run_seed
from raftkv.sim.disk import SimDisk
from raftkv.sim.rot import TUNING, Grid, GridNode, GridReport, Trial, run_grid
from raftkv.sim.swarm import Rates
from raftkv.storage.rotten import RottenLog
from raftkv.storage.wal import Wal
from tests.sim.storms import COMPACTING, storm
from tests.sim.storms import TUNING as STORM


def check(report: GridReport, cases: int) -> None:
    """Every case ended as it must."""
    assert report.unexpected == []
    assert (report.cases, report.lost, report.stuck) == (cases, 0, 0)
    assert report.recovered + report.refused == cases


def test_a_sample_of_four_entries_on_three_nodes() -> None:
    """A hundred of the 4,096 cases."""
    sample = random.Random(7).sample(range(1 << 12), 100)
    check(run_grid((4, 4, 4), sample), 100)


@pytest.mark.parametrize("header", [False, True])
def test_every_case_of_two_entries_on_three_nodes(header: bool) -> None:
    """Of each entry all copies but one may rot, payloads or headers: seven of eight combinations recover, of each of two entries."""
    report = run_grid((2, 2, 2), header=header)
    check(report, 64)
    assert report.recovered == 7 * 7


@pytest.mark.parametrize("lagging", [0, 1, 2])
def test_a_lagging_node_has_no_copy_of_what_it_lacks(lagging: int) -> None:
    """Two entries are committed by the first two nodes; the third has some of them, and its log is no reason to forget the others."""
    lengths = (2, 2, lagging)
    report = run_grid(lengths)
    check(report, 1 << sum(lengths))
    assert report.recovered == (7 if lagging > 0 else 3) * (7 if lagging > 1 else 3)


def test_an_uncommitted_entry_may_be_given_up() -> None:
    """The first node has an entry that nobody else has. When that is rotten the node waits until the others have a leader, who has not
    got it; when it is intact it may stay or go. What is committed decides."""
    lengths = (2, 1, 1)
    report = run_grid(lengths)
    check(report, 16)
    assert report.recovered == 7 * 2


def test_logs_without_a_seal_lose_nothing() -> None:
    """The last group of each log may have been torn, for all that the node can tell, so one with a rotten one is suspect: then a cluster
    may wait where it need not, but forgets nothing."""
    report = run_grid((2, 2, 2), sealed=False)
    assert report.lost == report.stuck == 0
    assert report.recovered > 20
    assert all(": refused: " in case for case in report.unexpected)


@pytest.mark.parametrize("compacting", [False, True])
def test_logs_that_rot_in_a_storm_are_repaired(compacting: bool) -> None:
    """Nodes get back what has rotted while they were down, or let a leader relieve them where it has cut its log."""
    tuning = COMPACTING if compacting else STORM
    counts: Counter[str] = Counter()
    for seed in (2, 3, 4):
        outcome = run_seed(seed, Run(swarm=storm(Rates(rot_log=120, power=800), tuning=tuning, storm_ms=6_000)))
        counts += Counter(outcome.counts) + Counter(outcome.faults)
    assert counts["rot_log"] > 10
    assert counts["log_mended"] > 0
    assert (counts["log_given_up"] > 0) == compacting


KINDS = {
    "one slot of the hard state": ([("hard_state", 5)], True),
    "both slots of the hard state": ([("hard_state", 5), ("hard_state", 4096 + 5)], False),
    "one copy of the identity": ([("identity.1", 30)], True),
    "both copies of the identity": ([("identity.1", 30), ("identity.2", 30)], False),
    "the manifest": ([("wal/manifest", 30)], False),
    "the header of a segment": ([("wal/000000000001.log", 40)], False),
    "the record of a group": ([("wal/000000000001.log", 4096 + 20)], False),
}


def damaged(disk: SimDisk, kind: str) -> None:
    """Let metadata rot."""
    for path, offset in KINDS[kind][0]:
        disk.flip(path, offset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nodes", [(0,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_rotten_metadata_is_repaired_or_stops_the_node(kind: str, nodes: tuple[int, ...]) -> None:
    """A node that does not know what it is, or what it has promised, says so and does not take part; the others go on if they are
    enough. One copy of two is enough for all."""
    grid = Grid((2, 2, 2))
    disks = grid.disks(0)
    for node in nodes:
        damaged(disks[node], kind)
    trial = Trial(grid, disks)
    verdict, detail = trial.run()
    if KINDS[kind][1]:
        assert verdict == "recovered", detail
        return
    assert [node.refusal is not None for node in trial.nodes] == [number in nodes for number in range(3)]
    assert all("The way back" in node.refusal for node in trial.nodes if node.refusal is not None)
    assert verdict == ("stuck" if len(nodes) == 1 else "refused"), detail


def test_rotten_metadata_on_one_node_and_entries_on_the_others() -> None:
    """A node that cannot start has no copies to give, and the others do not forget what only it has."""
    grid = Grid((2, 2, 2))
    for case in range(16):
        disks = grid.disks(case)
        damaged(disks[2], "the manifest")
        verdict, detail = Trial(grid, disks).run()
        gone = any({(0, index), (1, index)} <= set(grid.rotten(case)) for index in (1, 2))
        assert verdict == ("refused" if gone else "stuck"), (case, detail)


class Truncating(GridNode):
    """Cuts its log off at the rot, and thinks nothing of it."""

    def _begin_repair(self) -> bool:
        log = RottenLog.open(self.disk, TUNING.wal)
        log.end_before_rot()
        log.close()
        wal = Wal.open(self.disk, TUNING.wal)
        wal.clear_suspect()
        wal.close()
        return False


class Voting(GridNode):
    """Takes part while it does not know what it has promised, with a log that ends before the rot."""

    def _begin_repair(self) -> bool:
        log = RottenLog.open(self.disk, TUNING.wal)
        log.end_before_rot()
        log.close()
        return False


class Refusing(GridNode):
    """Stops at rot, though others have what it lacks."""

    def _begin_repair(self) -> bool:
        raise Corrupt("rot")


@pytest.mark.parametrize(("node_class", "verdict"), [(Truncating, "lost"), (Voting, "refused"), (Refusing, "refused")])
def test_a_planted_fault_is_found(node_class: type[GridNode], verdict: str) -> None:
    """Nodes that forget lose what was committed; nodes that do not ask never recover."""
    report = Grid((2, 2, 2), node_class=node_class).run(range(0, 64, 3))
    assert report.unexpected
    assert any(f": {verdict}: " in case for case in report.unexpected)
    assert (report.lost > 0) == (verdict == "lost")
