"""The commands `explore` and `sweep`: tables for people, JSON for programs, and an exit code."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from raftkv_cli.verify_explore import explore
from raftkv_cli.verify_sweep import sweep
from tests.raft.planted_faults import named


def test_explore_tells_what_it_explored() -> None:
    """From every start, with the counts of each, and exit code 0."""
    ended = CliRunner().invoke(explore, ["--states", "200"])
    assert ended.exit_code == 0, ended.output
    assert [line.split("  ")[0] for line in ended.output.splitlines()[1:]] == ["start", "late vote", "leader", "old leader", "figure 8"]
    ended = CliRunner().invoke(explore, ["--states", "200", "--from", "leader", "--crashes", "0", "--json"])
    told = json.loads(ended.output)["leader"]
    assert told["states"] >= 200
    assert told["bounds"]["crashes"] == 0
    assert told["violation"] is None


def test_explore_shows_the_way_to_a_violation() -> None:
    """With a planted fault the way to it is shown, and the exit code is 1."""
    with pytest.MonkeyPatch.context() as patch:
        named("vote_never_written").plant(patch)
        ended = CliRunner().invoke(explore, ["--from", "start"])
    assert ended.exit_code == 1
    assert "one vote a term: n1 votes for n1 in term 1" in ended.output


def test_sweep_tells_what_it_swept() -> None:
    """By workload and by kind of operation and file, and exit code 0."""
    ended = CliRunner().invoke(sweep, ["--workload", "suspicion", "--every", "9"])
    assert ended.exit_code == 0, ended.output
    assert "suspicion  n3" in ended.output
    assert "recovered" in ended.output.splitlines()[-1]
    told = json.loads(CliRunner().invoke(sweep, ["--workload", "suspicion", "--every", "9", "--only", "manifest", "--json"]).output)
    assert told["failed"] == []
    assert {row["file"] for row in told["rows"]} == {"manifest"}
