"""Many seeds in several processes: the order, the sum, and the first that fails."""

from __future__ import annotations

import pytest

from raftkv.errors import InvariantBroken
from raftkv.sim.plan import Cut
from raftkv.sim.report import Report, report, text
from raftkv.sim.suite import Broken, run_seeds

SHORT = Cut(storm_ms=200)


def test_the_number_of_processes_changes_nothing() -> None:
    """Two processes come to what one comes to, in the same order."""
    alone = list(run_seeds(range(200, 206), 1, SHORT))
    together = list(run_seeds(range(200, 206), 2, SHORT))
    assert alone == together
    assert [result.seed for result in together] == list(range(200, 206))
    assert report(alone, []) == report(together, [])


def test_the_first_seed_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after it is not run, unless the run is to go on."""
    monkeypatch.setattr("raftkv.sim.calm.CALM_MS", 1)
    (only,) = run_seeds(range(200, 203), 1, SHORT)
    assert isinstance(only, Broken)
    assert (only.seed, only.rule) == (200, "liveness")
    assert len(list(run_seeds(range(200, 203), 1, SHORT, go_on=True))) == 3


def test_a_process_that_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed without an answer is an error and not a silent gap."""
    monkeypatch.setattr("raftkv.sim.suite._work", exit)
    with pytest.raises(InvariantBroken, match=r"seed 20[01] has ended without an answer"):
        list(run_seeds(range(200, 202), 2, SHORT))


def test_a_report_says_what_did_not_happen() -> None:
    """Kinds of faults, failure points and hazards that never came are in the report with 0, and fall short of a suite."""
    empty = report(list(run_seeds(range(200, 201), 1, Cut(keep=(), storm_ms=100))), [])
    assert isinstance(empty, Report)
    assert empty.runs == 1
    assert empty.faults["wipe"] == 0
    assert empty.failure_points["rename of manifest"] == 0
    assert 50 in {row.number for row in empty.uncovered}
    assert "fault wipe: 0 of 1000" in empty.shortfalls()
    assert "failure point rename of manifest: 0 of 100" in empty.shortfalls()
    lines = list(text(empty))
    assert any("NOT COVERED" in line for line in lines)
