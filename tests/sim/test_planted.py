"""The simulator can fail: for each rule of the whole system there is a fault that breaks it, and few seeds find it out.

The faults are those of `tests.mutants`; here are the ones that few seeds find. `make mutants` runs them all.
"""

from __future__ import annotations

import pytest

from tests.mutants import storms
from tests.mutants.catalogue import named
from tests.mutants.mutant import Plant, Storms, nothing
from tests.sim.storms import first_violation

FEW_SEEDS = 45

FOUND_SOON = [
    "what_is_watched_may_change",
    "deletions_are_no_changes",
    "a_stopped_transaction_is_done_by_half",
    "the_log_reports_what_it_has_queued",
    "the_hard_state_is_not_written",
    "the_vote_is_not_written",
    "the_disk_lies",
    "directories_are_not_synced",
    "the_fastest_node_is_a_quorum",
    "the_configuration_is_forgotten_at_a_start",
    "nobody_stands_for_election",
    "a_node_without_state_never_leads",
    "numbers_of_commands_are_ignored",
    "numbers_of_a_clients_commands_are_ignored",
    "a_new_session_for_what_is_sent_again",
    "a_process_goes_on_in_the_session_of_the_last",
    "answers_leave_before_the_entry_is_applied",
    "no_is_said_of_what_may_have_happened",
    "clients_are_answered_while_an_entry_is_applied",
    "reads_need_no_round",
    "reads_before_the_first_commit_of_a_term",
    "a_read_overtakes_the_writes_of_its_connection",
    "a_failover_lets_reads_overtake",
    "the_position_is_written_apart",
    "a_state_depends_on_its_node",
    "one_node_follows_newer_rules",
    "a_command_that_fails_stops_the_machine",
    "half_of_a_failed_command_stays",
    "entries_are_applied_when_they_are_handed_out",
    "an_index_row_deletes_whatever_has_its_key",
    "the_leaders_wall_clock_stamps_the_log",
    "a_position_without_the_data",
    "log_and_state_are_not_reconciled",
    "the_log_is_cut_before_the_state_is_flushed",
    "the_leader_is_right",
    "anybodys_fence_is_believed",
    "votes_of_older_terms_count, in clusters",
    "a_leader_counts_itself_before_its_disk, in clusters",
    "match_goes_back, in clusters",
    "the_old_membership_survives_a_snapshot, in clusters",
    "a_wiped_node_is_taken_for_the_old_one, in clusters",
    "a_new_cluster_elects_by_majority, in clusters",
    "a_peer_stays_in_probe, in clusters",
    "a_suspect_node_votes, in clusters",
]


@pytest.mark.parametrize("name", FOUND_SOON)
def test_the_simulator_finds_the_fault(name: str) -> None:
    """With the fault, one of the first seeds breaks a rule that says so."""
    mutant = named(name)
    assert isinstance(mutant.detector, Storms)
    found = mutant.search(FEW_SEEDS)
    assert found is not None, f"{FEW_SEEDS} seeds found nothing"
    assert mutant.caught_by(found), found.what


@pytest.mark.parametrize(
    "surroundings",
    [nothing, storms.rotten_tails, storms.lease_reads, storms.broken_clients, storms.false_fences, storms.a_stray_replica],
    ids=lambda plant: plant.__name__,
)
def test_nothing_is_found_where_nothing_is_planted(monkeypatch: pytest.MonkeyPatch, surroundings: Plant) -> None:
    """The storms and surroundings in which faults are looked for are survived by a sound cluster."""
    surroundings(monkeypatch)
    swarms = (storms.CRASHES, storms.ELECTIONS, storms.BLACKOUTS) if surroundings is nothing else (storms.POWER,)
    for swarm in swarms:
        assert first_violation(swarm, 1) is None
