"""The list of planted faults is complete, and being caught means something."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.mutants.__main__ import main
from tests.mutants.catalogue import MUTANTS, named
from tests.mutants.mutant import Checks, nothing
from tests.mutants.rules import RULES, WAITING
from tests.mutants.runner import chosen, detectors_of, results_of, run_mutant

SAMPLE = [
    "stepping_down_forgets_the_vote",
    "an_append_cuts_what_follows_it",
    "a_lease_has_no_end",
    "a_conflict_at_the_snapshot_is_kept",
    "leaders_without_check_quorum, in clusters",
    "the_age_of_a_write_is_ignored, in clusters",
    "router: resend_under_another_session",
    "router: give_back_numbers_that_left",
    "a_seal_is_written_before_the_sync",
    "rot_is_cut_off",
    "a_rotten_identity_is_taken_for_none",
    "a_transfer_begins_again_from_nothing",
    "a_scan_goes_on_after_the_next_key",
    "a_value_leaves_elements_behind",
    "removed_elements_still_count",
    "removed_elements_stay",
    "replicas_draw_for_themselves",
    "payloads_have_no_bound",
    "any_proof_is_believed",
    "texts_are_written_as_they_are",
]
"""From all parts; `test_planted` of the parts runs others."""


def test_every_rule_has_a_planted_fault() -> None:
    """Each rule is broken by some fault, but for those that nothing can break yet; and no fault breaks a rule that is not listed."""
    broken = {row for mutant in MUTANTS for row in mutant.rows}
    assert broken == set(RULES) - set(WAITING)
    assert set(WAITING) <= set(RULES)


def test_names_are_unique() -> None:
    """A name means one fault."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", SAMPLE)
def test_the_fault_is_caught(name: str) -> None:
    """A sample of the faults is found, for the right reason."""
    mutant = named(name)
    found = mutant.search(20)
    assert found is not None
    assert mutant.caught_by(found), found.what


def test_what_is_not_planted_is_not_caught() -> None:
    """A detector finds the fault and not the product."""
    for name in ("a_scan_goes_on_after_the_next_key", "half_of_a_failed_command_stays", "router: answer_the_wrong_group"):
        mutant = dataclasses.replace(named(name), plant=nothing)
        assert not mutant.caught_by(mutant.search(1))


def test_the_wrong_reason_is_not_caught() -> None:
    """A fault that is noticed by another rule than those that are named for it does not count."""
    mutant = named("the_log_reports_what_it_has_queued")
    wrong = dataclasses.replace(mutant, detector=dataclasses.replace(mutant.detector, rules=("liveness",)))  # type: ignore[type-var]  # every detector is a dataclass
    found = wrong.search(1)
    assert found is not None
    assert not wrong.caught_by(found)
    check = named("payloads_have_no_bound")
    assert isinstance(check.detector, Checks)
    wrong = dataclasses.replace(check, detector=dataclasses.replace(check.detector, match="other words"))
    assert not wrong.caught_by(wrong.search(1))


def test_the_program_says_what_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    """One row: its detectors find nothing in the product, its faults are caught, and the exit code says so."""
    assert main(["--row", "85", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "finds nothing in the product" in out
    assert "1 of 1 planted faults are caught" in out
    assert main(["--row", "77", "--jobs", "1", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["rows"], last["caught"], last["examples"]) == (["77"], True, 1)


def test_the_program_fails_when_a_fault_is_not_caught(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1, and the line says which."""
    monkeypatch.setattr("tests.mutants.runner.named", lambda name: dataclasses.replace(named(name), plant=nothing))
    assert main(["--row", "77", "--jobs", "1"]) == 1
    assert "NOT CAUGHT" in capsys.readouterr().out


def test_a_sample_is_from_all_over_the_list() -> None:
    """A sample has the size asked for, and a row all that is in it; detectors that do the same are run once."""
    assert len(chosen(None, 7)) == 7
    assert {mutant.rows[0] for mutant in chosen(None, 7)} > {MUTANTS[0].rows[0]}
    assert all("9" in mutant.rows for mutant in chosen("9", None))
    assert len(detectors_of(MUTANTS)) < len(MUTANTS)
    assert [result.fault for result in results_of(1, [(run_mutant, "payloads_have_no_bound")])] == ["payloads_have_no_bound"]
