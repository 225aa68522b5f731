"""The exploration of the core: it passes, it covers what it says, and planted faults are found by a shortest way."""

from __future__ import annotations

import random

import pytest

from raftkv.errors import InvalidRequest, InvalidSettings
from raftkv.raft.messages import Message
from raftkv.raft.node import Raft
from raftkv.sim.core_node import CoreNode, Event, Step, covers, facts_of, first_state, step, value_of
from raftkv.sim.explore import STARTS, Bounds, Exploration, Explorer
from raftkv.sim.explore_tables import CONFIGURATION, NODES
from raftkv.sim.frozen import freeze, thaw
from raftkv.sim.trace import Violation
from tests.raft.planted_faults import named

CALM = Bounds(crashes=0, heartbeats=0, slow_writes=0)
"""Two elections and a proposal; nothing else goes wrong but the network."""

SMALL = Bounds()


def explored(start: str, bounds: Bounds) -> Exploration:
    """What an exploration from a named start comes to."""
    explorer = Explorer(bounds)
    explorer.begin(STARTS[start])
    return explorer.run()


@pytest.mark.parametrize("start", STARTS)
def test_no_rule_is_broken_within_the_small_bound(start: str) -> None:
    """Thousands of states around each start, with crashes and slow writes: every rule holds in all of them."""
    outcome = explored(start, Bounds(states=4_000))
    assert outcome.violation is None, "\n".join(outcome.violation.path)
    assert outcome.states >= 4_000
    assert outcome.elected > 100
    assert outcome.committed > 10 or start == "figure 8", "in figure 8 it takes long until something can be committed"


def test_a_bound_that_is_small_enough_is_explored_completely() -> None:
    """With one election and one proposal there is an end to what can happen, and all of it is explored."""
    outcome = explored("start", Bounds(timeouts=1, crashes=0, heartbeats=0, slow_writes=0))
    assert outcome.complete
    assert outcome.violation is None
    assert outcome.committed > 100


def test_one_exploration_is_like_another() -> None:
    """Nothing but the bounds decides what is explored, and in which order."""
    one, other = (explored("leader", Bounds(states=800)) for _ in range(2))
    assert (one.states, one.edges, one.depth, one.steps) == (other.states, other.edges, other.depth, other.steps)


FAULTS: dict[str, tuple[str, Bounds, str]] = {
    "vote_written_after_its_term": ("start", SMALL, "one vote a term"),
    "vote_never_written": ("start", SMALL, "one vote a term"),
    "answers_leave_before_they_are_durable": ("start", SMALL, "one vote a term"),
    "stepping_down_forgets_the_vote": ("start", SMALL, "one vote a term"),
    "votes_of_older_terms_count": ("late vote", CALM, "election safety"),
    "any_answer_is_a_vote": ("start", SMALL, "election safety"),
    "entries_of_a_leader_carry_an_older_term": ("leader", SMALL, "log matching"),
    "entries_of_earlier_terms_are_counted": ("figure 8", CALM, "leader completeness"),
    "an_append_cuts_what_follows_it": ("leader", CALM, "leader completeness"),
    "a_rejection_moves_the_commit_index": ("old leader", Bounds(timeouts=1, heartbeats=0, slow_writes=0), "state machine safety"),
    "the_commit_index_goes_back": ("start", CALM, "no error"),
    "an_old_write_completes_a_new_entry": ("old leader", SMALL, "no error"),
    "an_old_rejection_counts": ("leader", SMALL, "no error"),
    "the_previous_entry_is_made_up": ("figure 8", CALM, "log matching"),
    "a_leader_counts_itself_before_its_disk": ("leader", SMALL, "commit has a quorum"),
}
"""For each fault where it is looked for, how far, and the rule that is found broken ("no error": the core itself notices)."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    """With the fault, the exploration ends in a violation, and tells the way there."""
    start, bounds, rule = FAULTS[name]
    explorer = Explorer(bounds)
    explorer.begin(STARTS[start])
    with pytest.MonkeyPatch.context() as patch:
        named(name).plant(patch)
        outcome = explorer.run()
    assert outcome.violation is not None, f"{outcome.states} states of {name} found nothing"
    assert outcome.violation.rule == rule
    assert len(outcome.violation.path) > len(STARTS[start])


def test_the_way_to_a_violation_is_in_words() -> None:
    """Each line of the way is one event, with where the node stands afterwards, from the beginning to what broke the rule."""
    with pytest.MonkeyPatch.context() as patch:
        named("stepping_down_forgets_the_vote").plant(patch)
        found = explored("start", SMALL).violation
    assert found is not None
    assert found.path[0] == "n1 timeout -> n1 pre_candidate of term 0, log none, durable none, commit 0"
    assert found.path[-1] == "n2>n1 VoteResponse term=1 granted=True"


def test_a_core_survives_being_taken_apart() -> None:
    """Along random walks a node that is made anew from its value before each event does what one does that lives all the time."""
    for seed in range(30):
        rng = random.Random(seed)
        alive = [CoreNode(thaw(first_state(name, CONFIGURATION).core), first_state(name, CONFIGURATION).disk, ()) for name in NODES]
        states = [first_state(name, CONFIGURATION) for name in NODES]
        sent: list[Message] = []
        for _ in range(60):
            at = rng.randrange(3)
            arriving = [message for message in sent if message.to == NODES[at]]
            event: Event | Message
            if arriving and rng.random() < 0.7:
                event = rng.choice(arriving)
            elif states[at].pending:
                event = Event.PERSIST
            else:
                event = Event.PROPOSE if facts_of(alive[at]).role == "leader" else Event.TIMEOUT if rng.random() < 0.2 else Event.CRASH
            expected = _lived(alive[at], event)
            made = step(states[at], event)
            assert made.facts == expected.facts
            assert sorted(map(repr, made.sent)) == sorted(map(repr, expected.sent))
            assert made.news == expected.news
            states[at] = made.state
            sent += made.sent


def _lived(node: CoreNode, event: Event | Message) -> Step:
    """What a node that goes on living does. Its clock stands still: writes under way have no age in an exploration."""
    node.sent.clear()
    node.news.clear()
    node.happen(event)
    node.raft.ticks = 0
    return Step(first_state(NODES[0], CONFIGURATION), tuple(node.sent), tuple(node.news), facts_of(node))


def test_a_value_is_the_same_whenever_it_is_taken() -> None:
    """Freezing what was thawed gives the same value, in every role."""
    explorer = Explorer(Bounds(states=1_500))
    explorer.run()
    for state in explorer.tables.nodes:
        assert freeze(thaw(state.core)) == state.core
        node = CoreNode(thaw(state.core), state.disk, state.pending)
        assert value_of(node) == state
        assert covers(state, state)


def test_a_prefix_that_cannot_happen_is_refused() -> None:
    """An exploration begins where it was asked to, or not at all."""
    for line in ("n1 dance", "n1>n2 Vote", "elect n9", "n4 timeout"):
        with pytest.raises(InvalidRequest, match="no exploration can begin"):
            Explorer(SMALL).begin([line])


def test_a_bound_that_cannot_be_counted_is_refused() -> None:
    """What is left of a bound is kept as a digit, so a larger one is no exploration."""
    with pytest.raises(InvalidSettings, match="from 0 to 15"):
        Explorer(Bounds(timeouts=16))


def test_a_node_that_never_falls_silent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that always has something more to say is a violation, not an exploration without end."""
    monkeypatch.setattr(Raft, "has_ready", lambda raft: True)
    with pytest.raises(Violation, match="always something to say"):
        step(first_state("n1", CONFIGURATION), Event.TIMEOUT)
