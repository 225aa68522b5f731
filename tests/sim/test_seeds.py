"""Whole clusters in storms: safety in the storm, recovery in the calm, and the same seed always does the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.sim.cluster import Run, run_seed
from raftkv.sim.plan import Cut
from raftkv.sim.trace import Violation
from tests.mutants.cluster import the_log_reports_what_it_has_queued

ROOT = Path(__file__).resolve().parents[2]
PAST = [int(line.split()[0]) for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines() if line[:1].isdigit()]
SHORT = Run(cut=Cut(storm_ms=600))


@pytest.mark.parametrize("seed", range(1, 41))
def test_a_cluster_survives_the_storm_of_a_seed(seed: int) -> None:
    """Nothing that was promised is broken in a short storm, and the cluster recovers from it."""
    outcome = run_seed(seed, SHORT)
    assert outcome.acknowledged > 0


@pytest.mark.parametrize("seed", PAST)
def test_a_cluster_survives_the_seeds_that_found_bugs(seed: int) -> None:
    """What was once found stays fixed, as far as a seed can tell."""
    assert run_seed(seed).entries > 0


def test_one_seed_is_one_run() -> None:
    """The same seed gives the same events, statistics and state, and another seed gives others."""
    first, again, other = (run_seed(seed, SHORT) for seed in (41, 41, 42))
    assert first == again
    assert first.trace != other.trace


def test_a_hundred_runs_do_not_depend_on_the_process() -> None:
    """Two processes with different hash seeds simulate the same events, bit for bit."""
    program = (
        "from raftkv.sim.suite import run_seeds\nfrom raftkv.sim.plan import Cut\nimport sys\n"
        "for result in run_seeds(range(43, 143), cut=Cut(storm_ms=300), go_on=True):\n"
        "    sys.stdout.write(f'{result.seed} {result.trace} {result.state}\\n')\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=170)[0].splitlines() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert len(first) == 100
    assert first == second


def test_a_violation_carries_the_seed_and_the_last_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads a failure knows how to see it again, and what came before it."""
    the_log_reports_what_it_has_queued(monkeypatch)
    with pytest.raises(Violation) as caught:
        run_seed(44, Run())
    text = str(caught.value)
    assert "in seed 44, after these events:" in text
    assert re.search(r"\n +\d+\.\d{3} ms  n\d ", text)
