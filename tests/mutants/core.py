"""The faults of `tests.raft.planted_faults`: each is found by the checks of the core that are named for it, most of them also by the
core's own storms, and where the row can show in a whole cluster, by the simulator."""

from __future__ import annotations

from tests.mutants import storms
from tests.mutants.cluster import LOST, few_elections, one_election, one_leader
from tests.mutants.mutant import Checks, Mutant, Storms, title_of
from tests.raft.planted_faults import FAULTS
from tests.raft.test_planted_faults import CHECKS, STORMY
from tests.raft.test_planted_faults import storms as core_storms

_COMMITTED = ("log matching", "state machine safety", "verified", "majority", "leader completeness", "invariant", "no failure")
"""How it shows that nodes have committed different things, or are about to."""

IN_CLUSTERS: dict[str, Storms] = {
    "vote_written_after_its_term": Storms(("durable first",), storms.CRASHES),
    "vote_never_written": Storms(("durable first",), storms.CRASHES),
    "answers_leave_before_they_are_durable": Storms(("durable first",), storms.CRASHES),
    "stepping_down_forgets_the_vote": Storms(("durable first", "one vote")),
    "votes_of_older_terms_count": Storms(("elected", "election safety", "leader completeness"), storms.SPLITS),
    "any_answer_is_a_vote": Storms(("elected", "election safety", "leader completeness")),
    "entries_of_a_leader_carry_an_older_term": Storms(("own term", "invariant")),
    "entries_of_earlier_terms_are_counted": Storms(("own term",)),
    "an_append_cuts_what_follows_it": Storms((*LOST, "durable first")),
    "a_rejection_moves_the_commit_index": Storms(_COMMITTED),
    "the_commit_index_goes_back": Storms(("commit grows", "invariant")),
    "match_goes_back": Storms(("match grows",)),
    "an_old_write_completes_a_new_entry": Storms(("durable first", "apply durable", "kept", "verified", "invariant"), storms.SPLITS),
    "an_old_rejection_counts": Storms(("invariant",)),
    "the_previous_entry_is_made_up": Storms(_COMMITTED, storms.ROUGH),
    "a_leader_counts_itself_before_its_disk": Storms(("majority",)),
    "reads_before_the_first_own_entry": Storms(("linearizable reads",)),
    "a_snapshot_always_replaces_the_log": Storms((*LOST, "commit grows", "liveness", "no failure"), storms.ROUGH_COMPACTION),
    "the_position_moves_without_the_state": Storms(("durable first", "apply durable", "kept", "no failure"), storms.WIPES),
    "the_old_membership_survives_a_snapshot": Storms(("membership",), storms.WIPES),
    "a_wiped_node_is_taken_for_the_old_one": Storms(("elected",), storms.WIPES),
    "a_new_cluster_elects_by_majority": Storms(("elected",)),
    "elections_without_pre_vote": Storms(("outcome", "liveness"), storms.LONG, storms.lonely_follower, one_leader),
    "leaders_without_check_quorum": Storms(("outcome",), storms.LONG, storms.deaf_leader, few_elections),
    "the_age_of_a_write_is_ignored": Storms(("outcome",), storms.LONG, storms.hung_disk, few_elections),
    "a_transfer_never_ends": Storms(("liveness",), storms.TRANSFERS),
    "a_peer_stays_in_probe": Storms(("pipelining",), storms.QUIET),
    "nobody_holds_to_a_leader": Storms(("outcome",), storms.IDLE, storms.deaf_follower, one_election),
    "a_suspect_node_votes": Storms(("doubt",), storms.POWER, storms.rotten_tails),
    "a_suspect_node_campaigns": Storms(("doubt",), storms.POWER_AND_KILLS, storms.rotten_tails),
}
"""Not here are faults that a whole node makes harmless: its disk answers in order, so its own late answers come before what they could
be taken for; and the first append of a leader holds an entry that conflicts with any tail that nobody verified."""

_MORE_ROWS = {"a_new_cluster_elects_by_majority": ("80",), "a_wiped_node_is_taken_for_the_old_one": ("79",)}
_MORE_ROWS["the_age_of_a_write_is_ignored"] = ("storage 9",)


def _mutants() -> list[Mutant]:
    made: list[Mutant] = []
    for fault in FAULTS:
        rows = (str(fault.hazard), *_MORE_ROWS.get(fault.name, ()))
        title = title_of(fault.plant)
        made.append(Mutant(rows, fault.name, title, fault.plant, Checks(tuple(CHECKS[fault.name]), name="checks of the core")))
        if fault.name in STORMY:
            made.append(Mutant(rows, f"{fault.name}, in storms", title, fault.plant, Checks((core_storms,), name="storms of the core")))
        if fault.name in IN_CLUSTERS:
            made.append(Mutant(rows, f"{fault.name}, in clusters", title, fault.plant, IN_CLUSTERS[fault.name]))
    return made


MUTANTS = _mutants()

