"""What clients of a real cluster saw while its nodes were killed and hung can be explained by one copy of the data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from raftkv.sim.linearizability import Call, Verdict, overall
from raftkv_cli.chaos import failing_fsync
from raftkv_cli.chaos.nemesis import Action, Kind
from raftkv_cli.chaos.recording import judge
from raftkv_cli.chaos.run import HISTORY_FILE, Run, Settings

KINDS = (Kind.KILL_LEADER, Kind.PAUSE_FOLLOWER, Kind.ISOLATE_LEADER, Kind.PAUSE_LEADER, Kind.LOSE_STATE, Kind.KILL_ALL)
KILLED = Action(Kind.KILL_ALL, 1, 1.0, 1.2)
"""A segment is closed by the start after a kill, and soon forgotten: what follows follows at once."""
OPERATIONS = 500

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")


def test_histories_are_linearizable(tmp_path: Path) -> None:
    """Clients of all three nodes, while a leader is killed, isolated and hangs, a follower hangs and loses its state, and the whole
    cluster is killed: nothing is lost and each key's history is linearizable, up to a last read of every key through every node; with
    one wrong answer in it it is not."""
    run = Run(Settings(seed=1, seconds=60.0, min_rate=10.0), tmp_path, [Action(kind, 1, 2.0, 3.0) for kind in KINDS])
    report = run.run()
    assert report.findings == []
    assert report.actions == {str(kind): 1 for kind in KINDS}
    assert min(report.operations[name] for name in ("GET", "SET", "INCR", "DEL")) > OPERATIONS // 5
    assert sum(report.operations.values()) > OPERATIONS
    assert overall(judge(with_one_wrong_answer(run.history)).values()) is Verdict.NOT_LINEARIZABLE


def test_rot_is_repaired_and_noticed(tmp_path: Path) -> None:
    """After a kill, one byte rots in the log of a node, twice: each time it is found, the node has the entry again or goes on without
    what another node holds, and the run judges as it does any."""
    settings = Settings(seed=2, seconds=60.0, min_rate=10.0)

    def until_it_rotted_twice() -> Iterator[Action]:
        # How soon nodes are back, and forget a segment, depends on the machine: there is not something that can rot after every kill.
        while made._nemesis is None or made._nemesis.counts[Kind.ROT] < 2:
            yield from (KILLED, Action(Kind.ROT, 1, 0.5, 3.0))

    made = Run(settings, tmp_path, until_it_rotted_twice())
    report = made.run()
    assert report.findings == []
    assert report.actions[str(Kind.ROT)] == 2, report.skipped
    assert report.actions[str(Kind.KILL_ALL)] >= 2
    assert sum(report.recoveries.values()) >= 2


def test_a_node_whose_fsync_fails_stops_and_comes_back(tmp_path: Path) -> None:
    """EIO for every fsync of a node that runs as it is: it ends with exit code 1, says why, acknowledges nothing of it, and starts again;
    nothing is lost."""
    problem = failing_fsync.why_not()
    if problem is not None:
        pytest.skip(problem)
    actions = [Action(Kind.FAIL_FSYNC, choice, 1.5, 3.0) for choice in (1, 2, 3)]
    report = Run(Settings(seed=3, seconds=40.0, min_rate=10.0), tmp_path, actions).run()
    assert report.findings == []
    assert report.actions == {str(Kind.FAIL_FSYNC): 3}
    assert report.recoveries == {"stopped after a failed fsync": 3}


def test_a_run_that_does_too_little_fails(tmp_path: Path) -> None:
    """A rate that no cluster reaches: the run fails, and keeps the history."""
    report = Run(Settings(seed=1, seconds=1.0, min_rate=1e9, clients=2), tmp_path, []).run()
    assert not report.ok
    [finding] = report.findings
    assert finding.startswith("too little was done to judge")
    assert report.directory == str(tmp_path)
    assert (tmp_path / HISTORY_FILE).stat().st_size > 0


def with_one_wrong_answer(history: list[Call]) -> list[Call]:
    """`history` in which one read, in the middle of it, answered what nobody ever wrote."""
    reads = sorted((call for call in history if call.operation[0] == "GET"), key=lambda call: call.begin)
    victim = reads[len(reads) // 2]
    return [replace(call, result=b"-1") if call is victim else call for call in history]
