"""`raftkv verify` as a shell sees it: what it prints, what it repeats, and the exit codes 0 kept, 1 broken, 2 used wrongly."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner, Result

from raftkv_cli.main import main

SHORT = ("--storm-ms", "200")


def run(*arguments: str) -> Result:
    """What `raftkv verify` does with `arguments`, in this process."""
    return CliRunner().invoke(main, ["verify", *arguments])


def test_it_says_what_was_run_and_what_was_covered() -> None:
    """A run that finds nothing ends with 0 and tells of faults, failure points and hazards, those too that never came."""
    result = run("--first", "45", "--seeds", "2", *SHORT)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("2 runs (seeds 45 to 46), ")
    for expected in ("slowest recovery: ", "crash_in_operation", "rename of manifest", "hazards: ", "NOT COVERED"):
        assert expected in result.output


def test_json_says_the_same_and_does_not_depend_on_the_number_of_processes() -> None:
    """With one process and with two the JSON is the same, byte by byte."""
    alone = run("--first", "47", "--seeds", "3", "--json", *SHORT)
    together = run("--first", "47", "--seeds", "3", "--jobs", "2", "--json", *SHORT)
    assert alone.exit_code == together.exit_code == 0
    assert alone.output == together.output
    told = json.loads(alone.output)
    assert told["runs"] == 3
    assert told["found"] == []
    assert set(told["hazards"][0]) == {"number", "title", "situation", "count"}


def test_a_broken_promise_is_explained_and_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 1, and the output has the rule, the seed, what was drawn, the schedule, and a command that breaks the same rule."""
    monkeypatch.setattr("raftkv.sim.calm.CALM_MS", 1)
    monkeypatch.setattr("raftkv.sim.minimise.MAX_RUNS", 4)
    result = run("--first", "46", "--seeds", "3", *SHORT)
    assert result.exit_code == 1
    assert "BROKEN in seed 46: liveness" in result.output
    for expected in ("drawn options", "  nodes ", "smallest schedule found in "):
        assert expected in result.output
    command = re.search(r"once more:\n +raftkv verify (.*)\n", result.output)
    assert command is not None
    again = run(*command.group(1).split())
    assert again.exit_code == 1
    assert "BROKEN liveness" in again.output


def test_a_trace_is_one_line_an_event() -> None:
    """With --trace every line has a time in milliseconds, who, and what, up to the summary."""
    result = run("--seed", "48", "--trace", *SHORT)
    assert result.exit_code == 0
    lines = result.output.split("\n\n")[0].splitlines()
    assert len(lines) > 100
    assert all(re.match(r" *\d+\.\d{3} ms  \w+ +\S", line) for line in lines)
    assert any("hears" in line and "Append (term" in line for line in lines)


def test_a_suite_that_is_too_small_fails_and_says_what_fell_short() -> None:
    """Without enough of each kind of fault and of each failure point a suite does not pass."""
    result = run("--suite", "--seeds", "1", *SHORT)
    assert result.exit_code == 1
    assert "fault wipe: " in result.output
    assert "failure point rename of manifest: " in result.output


@pytest.mark.parametrize(
    "arguments", [("--seed", "1", "--seeds", "2"), ("--seed", "1", "--suite"), ("--trace", "--json"), ("--keep", "a,b")]
)
def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...]) -> None:
    """Options that contradict each other, and numbers that are none, are wrong usage."""
    assert run(*arguments).exit_code == 2
