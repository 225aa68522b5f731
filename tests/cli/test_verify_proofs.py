"""The commands `explore`, `rot` and `sweep`: tables for people, JSON for programs, and an exit code."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from raftkv.storage.rotten import RottenLog
from raftkv_cli.verify_explore import explore
from raftkv_cli.verify_rot import rot
from raftkv_cli.verify_sweep import sweep
from tests.raft.planted_faults import named

NOTHING_ROTS = "1 cases: 1 recovered, 0 refused, 0 stuck, 0 lost"


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


def test_rot_tells_what_became_of_the_cases() -> None:
    """As a sentence, as JSON, and exit code 0 when every case ended as it must."""
    ended = CliRunner().invoke(rot, ["--lengths", "0,0,0"])
    assert ended.exit_code == 0, ended.output
    assert ended.output.startswith(NOTHING_ROTS)
    told = json.loads(CliRunner().invoke(rot, ["--lengths", "1,1,1", "--json"]).output)
    assert (told["cases"], told["recovered"], told["refused"], told["lost"]) == (8, 7, 1, 0)
    assert json.loads(CliRunner().invoke(rot, ["--sample", "3", "--json"]).output)["cases"] == 3


@pytest.mark.parametrize("lengths", ["4,4", "4,4,x", "5,5,5", "9,0,0"])
def test_rot_takes_no_lengths_that_it_cannot_run(lengths: str) -> None:
    """Three small numbers, or an error that says so."""
    ended = CliRunner().invoke(rot, ["--lengths", lengths])
    assert ended.exit_code == 2
    assert "is not three lengths" in ended.output


def test_rot_names_a_case_that_ends_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a planted fault, by which a node drops what is rotten instead of asking for it, cases are named and the exit code is 1."""
    monkeypatch.setattr(RottenLog, "needed", property(lambda self: ()))
    ended = CliRunner().invoke(rot, ["--lengths", "1,1,1"])
    assert ended.exit_code == 1
    assert "not as it must be" in ended.output
