"""A test must be able to fail: each planted fault of `planted_faults` is caught, by a test that is named here or by a storm.

The checks named for a fault are tests and traces of this folder; they pass with the core as it is (that is what the rest of the
suite shows) and must fail with the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from raftkv.errors import RaftkvError
from raftkv.raft.ready import Role
from tests.raft import test_election as election
from tests.raft import test_fenced as fenced
from tests.raft import test_own_rules as own
from tests.raft import test_paper as paper
from tests.raft import test_thesis as thesis
from tests.raft.bare import ELECTION, HEARTBEAT
from tests.raft.planted_faults import FAULTS, Fault, named
from tests.raft.schedule import STORM_SEEDS, seeded
from tests.raft.script import run

CAUGHT = (AssertionError, RaftkvError, pytest.fail.Exception)
"""How a check fails: an assertion (every `Violation` is one), an error of the core (its invariants, a verb refused that should not
be), an error that was expected and did not come."""

Check = Callable[[], None]


def trace(name: str) -> Check:
    """The check that a golden trace comes out as it is written."""

    def check() -> None:
        _, differences = run((Path(__file__).parent / "traces" / f"{name}.txt").read_text(encoding="utf-8"))
        assert not differences

    return check


def storms() -> None:
    """Storms, of which `test_properties` shows the first to pass with the core as it is, and any number with ``RAFTKV_STORMS``."""
    for seed in range(4 * len(STORM_SEEDS)):
        for nodes in (3, 5):
            seeded(seed, nodes)


CHECKS: dict[str, list[Check]] = {
    "vote_written_after_its_term": [paper.test_5_2_a_vote_survives_a_crash],
    "vote_never_written": [paper.test_5_2_a_vote_survives_a_crash],
    "answers_leave_before_they_are_durable": [paper.test_5_2_a_vote_survives_a_crash, trace("election")],
    "stepping_down_forgets_the_vote": [paper.test_5_2_stepping_down_keeps_the_vote],
    "votes_of_older_terms_count": [paper.test_5_1_a_stale_answer_is_ignored],
    "any_answer_is_a_vote": [partial(paper.test_5_2_a_majority_elects, 3, 0, 1, Role.CANDIDATE), trace("split_vote")],
    "own_late_answers_count": [own.test_an_own_late_acknowledgement_counts_for_nothing],
    "entries_of_a_leader_carry_an_older_term": [trace("figure_8")],
    "entries_of_earlier_terms_are_counted": [
        partial(paper.test_5_4_2_only_own_term_entries_are_committed_by_counting, 2, 0),
        paper.test_5_4_2_figure_8,
        trace("figure_8"),
    ],
    "an_append_cuts_what_follows_it": [paper.test_5_3_a_repeated_append_changes_nothing],
    "acknowledges_its_whole_log": [partial(paper.test_5_3_conflicting_entries_are_replaced, (0, 0), [1], [1, 2])],
    "a_rejection_moves_the_commit_index": [trace("conflict")],
    "the_commit_index_goes_back": [paper.test_5_3_the_commit_index_never_goes_back],
    "match_goes_back": [own.test_match_never_goes_back],
    "an_old_write_completes_a_new_entry": [trace("aba")],
    "an_old_rejection_counts": [trace("late_acks")],
    "the_previous_entry_is_made_up": [partial(paper.test_5_3_the_consistency_check, 1, 2, False), trace("figure_7")],
    "a_leader_counts_itself_before_its_disk": [paper.test_5_3_the_leader_itself_counts_when_durable, trace("single_voter")],
    "acknowledgements_of_older_terms_count": [trace("late_acks")],
    "commits_an_unverified_tail": [partial(paper.test_5_3_a_follower_commits_only_what_was_verified, 0, 3, 0)],
    "a_lease_has_no_end": [thesis.test_6_4_1_an_expired_lease_falls_back_to_a_round, trace("lease")],
    "rounds_have_no_number": [thesis.test_6_4_a_read_asked_during_a_round_is_not_answered_by_it],
    "reads_before_the_first_own_entry": [thesis.test_6_4_a_new_leader_reads_after_its_own_entry, trace("read_new_leader")],
    "a_conflict_at_the_snapshot_is_kept": [paper.test_7_a_snapshot_replaces_a_log_that_does_not_contain_it],
    "a_snapshot_always_replaces_the_log": [paper.test_7_a_snapshot_of_a_prefix_keeps_what_follows],
    "the_position_moves_without_the_state": [paper.test_7_a_follower_far_behind_gets_the_snapshot, trace("snapshot")],
    "the_old_membership_survives_a_snapshot": [paper.test_7_the_configuration_comes_with_the_snapshot],
    "a_joint_quorum_is_counted_on_the_union": [partial(own.test_a_joint_decision_needs_both_majorities, ("n2", "n3"), 0)],
    "a_wiped_node_is_taken_for_the_old_one": [trace("bootstrap_wiped_after_forming")],
    "a_new_cluster_elects_by_majority": [trace("bootstrap"), trace("bootstrap_wiped_before_forming")],
    "elections_without_pre_vote": [thesis.test_9_6_an_isolated_node_does_not_inflate_its_term, trace("prevote")],
    "leaders_without_check_quorum": [thesis.test_6_2_a_leader_without_quorum_steps_down, trace("check_quorum")],
    "pre_votes_of_older_terms_are_dropped": [own.test_a_pre_vote_of_a_node_in_an_older_term_counts],
    "fenced_nodes_never_campaign": [partial(fenced.test_the_only_electable_node_is_fenced, "lost"), trace("last_resort")],
    "fenced_leaders_stay": [partial(fenced.test_the_only_electable_node_is_fenced, "wrong"), trace("last_resort")],
    "a_fenced_leader_sends_snapshots": [fenced.test_a_fenced_leader_sends_no_snapshot],
    "the_age_of_a_write_is_ignored": [trace("disk_stall")],
    "a_transfer_never_ends": [thesis.test_3_10_a_transfer_that_takes_too_long_is_given_up, trace("transfer_timeout")],
    "a_peer_stays_in_probe": [thesis.test_10_2_2_appends_are_pipelined, trace("pipeline")],
    "nobody_holds_to_a_leader": [thesis.test_4_2_3_a_vote_request_does_not_disturb_who_hears_a_leader, trace("stickiness")],
    "late_answers_count_in_the_next_round": [
        partial(election.test_a_late_answer_does_not_count_in_the_next_round, HEARTBEAT),
        partial(election.test_a_late_answer_does_not_count_in_the_next_round, 2 * ELECTION),
    ],
    "grants_of_different_rounds_add_up": [election.test_grants_of_different_rounds_do_not_add_up],
    "a_lost_connection_shortens_the_promise": [
        thesis.test_6_4_1_a_lost_connection_does_not_shorten_the_promise,
        trace("lease_and_lost_connection"),
    ],
    "survivors_hint_at_once": [own.test_survivors_of_a_broken_connection_do_not_collide],
    "a_suspect_node_votes": [trace("suspect")],
    "a_suspect_node_campaigns": [trace("suspect")],
    "a_last_resort_sets_every_doubt_aside": [partial(fenced.test_doubts_about_the_log_are_never_set_aside, 9, 101)],
}
"""For each fault the checks of which *every one* must fail."""

STORMY = [
    "vote_written_after_its_term",
    "vote_never_written",
    "answers_leave_before_they_are_durable",
    "stepping_down_forgets_the_vote",
    "any_answer_is_a_vote",
    "entries_of_a_leader_carry_an_older_term",
    "a_rejection_moves_the_commit_index",
    "the_commit_index_goes_back",
    "an_old_write_completes_a_new_entry",
    "an_old_rejection_counts",
    "the_previous_entry_is_made_up",
    "a_leader_counts_itself_before_its_disk",
    "rounds_have_no_number",
    "the_position_moves_without_the_state",
    "a_wiped_node_is_taken_for_the_old_one",
    "elections_without_pre_vote",
    "fenced_nodes_never_campaign",
    "fenced_leaders_stay",
    "a_peer_stays_in_probe",
    "a_suspect_node_votes",
]
"""The faults that random storms find too, without being told where to look."""


@pytest.mark.parametrize("planted", FAULTS, ids=str)
def test_the_fault_is_caught(planted: Fault) -> None:
    """With the fault, every check that is named for it fails."""
    for check in CHECKS[planted.name]:
        check()  # as it is, the core passes
        with pytest.MonkeyPatch.context() as patch:
            planted.plant(patch)
            with pytest.raises(CAUGHT):
                check()


@pytest.mark.parametrize("name", STORMY)
def test_the_fault_is_found_by_a_storm(name: str) -> None:
    """With the fault, one of the first storms ends in a violation."""
    with pytest.MonkeyPatch.context() as patch:
        named(name).plant(patch)
        with pytest.raises(CAUGHT):
            storms()


def test_every_fault_has_a_check() -> None:
    """The lists name faults that exist, and no fault goes unchecked."""
    assert {planted.name for planted in FAULTS} == set(CHECKS)
    assert set(STORMY) <= set(CHECKS)
