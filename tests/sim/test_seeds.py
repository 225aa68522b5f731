"""Whole clusters in storms: safety in the storm, recovery in the calm, and the same seed always does the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.sim.__main__ import main
from raftkv.sim.cluster import run_seed
from raftkv.sim.trace import Violation
from tests.mutants.cluster import the_log_reports_what_it_has_queued

ROOT = Path(__file__).resolve().parents[2]
PAST = [int(line.split()[0]) for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines() if line[:1].isdigit()]
SHORT_MS = 600


@pytest.mark.parametrize("seed", range(1, 41))
def test_a_cluster_survives_the_storm_of_a_seed(seed: int) -> None:
    """Nothing that was promised is broken in a short storm, and the cluster recovers from it."""
    outcome = run_seed(seed, storm_ms=SHORT_MS)
    assert outcome.acknowledged > 0


@pytest.mark.parametrize("seed", PAST)
def test_a_cluster_survives_the_seeds_that_found_bugs(seed: int) -> None:
    """What was once found stays fixed, as far as a seed can tell."""
    assert run_seed(seed).entries > 0


def test_one_seed_is_one_run() -> None:
    """The same seed gives the same events, statistics and state, and another seed gives others."""
    first, again, other = (run_seed(seed, storm_ms=SHORT_MS) for seed in (41, 41, 42))
    assert first == again
    assert first.trace != other.trace


def test_a_run_does_not_depend_on_the_process() -> None:
    """Two processes with different hash seeds simulate the same events."""
    traces = []
    for hash_seed in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-m", "raftkv.sim", "--seed", "43", "--storm-ms", str(SHORT_MS), "--each"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        traces.append(re.findall(r"trace (\w+)", ended.stdout))
    assert len(traces[0]) == 1
    assert traces[0] == traces[1]


def test_a_violation_carries_the_seed_and_the_last_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads a failure knows how to see it again, and what came before it."""
    the_log_reports_what_it_has_queued(monkeypatch)
    with pytest.raises(Violation) as caught:
        run_seed(44)
    text = str(caught.value)
    assert "in seed 44, after these events:" in text
    assert re.search(r"\n +\d+\.\d{6}  n\d ", text)


def test_the_program_prints_what_the_seeds_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m raftkv.sim` ends well when nothing was found, and says how much was simulated."""
    assert main(["--first", "45", "--seeds", "1", "--storm-ms", "300"]) == 0
    assert "1 seeds, " in capsys.readouterr().out


def test_the_program_fails_with_the_seed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 1 when a seed finds something, and the output says how to run it once more."""
    monkeypatch.setattr("raftkv.sim.cluster.CALM_MS", 1)
    assert main(["--first", "46", "--seeds", "3", "--storm-ms", "300"]) == 1
    assert "once more: python -m raftkv.sim --seed 46" in capsys.readouterr().out
