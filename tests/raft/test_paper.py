"""Sections 5 and 7 of the Raft paper (extended version), one test a claim. The section is cited in the name and the docstring."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from raftkv.errors import InvalidSettings, InvariantBroken, NotLeader
from raftkv.raft.config import Config
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    InstallSnapshot,
    PreVote,
    PreVoteResponse,
    Vote,
    VoteResponse,
)
from raftkv.raft.ready import Role
from raftkv.raft.types import Entry, EntryId, EntryKind, HardState, SnapshotMeta
from tests.raft.network import TEST_CONFIG, MachineState, Network, Node, alone, formed, hear, take_sent


def batch(index: int, term: int, payload: bytes = b"p") -> Entry:
    """An entry of commands."""
    return Entry(index, term, EntryKind.BATCH, payload)


def terms(node: Node) -> list[int]:
    """The terms of a node's durable log."""
    return [entry.term for entry in node.disk.entries]


def candidate(node: Node) -> Node:
    """Make n1 a candidate: its patience ends and the others would vote for it."""
    node.network.campaign("n1")
    for message in take_sent(node.network, PreVote):
        assert isinstance(message, PreVote)
        rank = int(message.to[1:])
        node.raft.step(PreVoteResponse(message.to, "n1", node.raft.term, 100 + rank, message.campaign_term, True, message.round))
        node.settle()
    return node


def leader(node: Node) -> Node:
    """Make n1 the leader by the votes of all others; what it sent is thrown away."""
    candidate(node)
    for message in take_sent(node.network, Vote):
        node.raft.step(VoteResponse(message.to, "n1", node.raft.term, 100 + int(message.to[1:]), True))
        node.settle()
    assert node.raft.role is Role.LEADER
    take_sent(node.network)
    return node


# -- 5.1 basics


def test_5_1_servers_start_as_followers() -> None:
    """5.1/5.2: a server begins as a follower, in the term that it remembers, and knows no leader."""
    node = alone(1, 2, term=3, vote="n2")
    assert (node.raft.role, node.raft.term, node.raft.leader) == (Role.FOLLOWER, 3, None)


@pytest.mark.parametrize("make", [lambda node: node, candidate, leader], ids=["follower", "candidate", "leader"])
def test_5_1_a_larger_term_is_adopted(make: Callable[[Node], Node]) -> None:
    """5.1: whoever sees a larger term takes it over, and a candidate or leader becomes a follower."""
    node = make(alone(1))
    hear(node, Append("n2", "n1", 9, 102, 1, 1, (), 0))
    assert (node.raft.role, node.raft.term, node.raft.leader) == (Role.FOLLOWER, 9, "n2")
    assert node.disk.hard_state == HardState(9, None)


def test_5_1_a_stale_request_is_refused() -> None:
    """5.1: a request of an older term changes nothing, and its sender learns the newer term."""
    node = alone(1, 2, term=5)
    answers = hear(node, Append("n2", "n1", 4, 102, 2, 2, (batch(3, 4),), 3))
    assert (node.raft.last_index, node.raft.committed, node.raft.leader) == (2, 0, None)
    assert [message.term for message in answers] == [5]


def test_5_1_a_stale_answer_is_ignored() -> None:
    """5.1: a vote of an older term is not counted in a newer one (HAZARDS 5)."""
    node = candidate(candidate(alone(1)))
    assert node.raft.term == 2 or node.raft.role is Role.CANDIDATE
    hear(node, VoteResponse("n2", "n1", node.raft.term - 1, 102, True), VoteResponse("n3", "n1", node.raft.term - 1, 103, True))
    assert node.raft.role is Role.CANDIDATE


# -- 5.2 leader election


def test_5_2_a_leader_sends_heartbeats() -> None:
    """5.2: a leader tells every follower, each heartbeat_ticks, that it is there."""
    node = leader(alone())
    node.network.tick("n1", times=TEST_CONFIG.heartbeat_ticks)
    assert [message.to for message in take_sent(node.network, Heartbeat)] == ["n2", "n3"]


def test_5_2_a_follower_campaigns_when_it_hears_nothing() -> None:
    """5.2: without a word from a leader for its election timeout, a follower begins an election."""
    node = alone()
    node.network.tick("n1", times=TEST_CONFIG.election_ticks - 1)
    assert node.raft.role is Role.FOLLOWER
    node.network.tick("n1", times=TEST_CONFIG.election_ticks + 1)
    assert node.raft.role is not Role.FOLLOWER


def test_5_2_a_leader_keeps_followers_quiet() -> None:
    """5.2: a follower stays one as long as it hears from a leader."""
    node = alone()
    for round_number in range(20):
        hear(node, Heartbeat("n2", "n1", 1, 102, 0, round_number))
        node.network.tick("n1", times=TEST_CONFIG.election_ticks - 1)
    assert (node.raft.role, node.raft.leader) == (Role.FOLLOWER, "n2")


def test_5_2_a_candidate_votes_for_itself_and_asks_everybody() -> None:
    """5.2: a candidate raises its term, votes for itself and asks every other server at once."""
    node = candidate(alone(1, 1))
    assert (node.raft.term, node.disk.hard_state) == (2, HardState(2, "n1"))
    asked = take_sent(node.network, Vote)
    assert asked == [Vote("n1", peer, 2, 101, 2, 1) for peer in ("n2", "n3")]


@pytest.mark.parametrize(
    ("voters", "granted", "rejected", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 2, 0, Role.LEADER),
        (3, 1, 0, Role.LEADER),
        (3, 1, 1, Role.LEADER),
        (3, 0, 0, Role.CANDIDATE),
        (3, 0, 1, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (5, 4, 0, Role.LEADER),
        (5, 2, 0, Role.LEADER),
        (5, 2, 2, Role.LEADER),
        (5, 1, 0, Role.CANDIDATE),
        (5, 1, 2, Role.CANDIDATE),
        (5, 1, 3, Role.FOLLOWER),
        (4, 1, 0, Role.CANDIDATE),
        (4, 2, 0, Role.LEADER),
    ],
)
def test_5_2_a_majority_elects(voters: int, granted: int, rejected: int, role: Role) -> None:
    """5.2: a candidate wins with the votes of a majority of all servers, its own included; hopeless, it waits as a follower."""
    node = candidate(alone(voters=voters))
    take_sent(node.network)
    for rank in range(granted + rejected):
        hear(node, VoteResponse(f"n{rank + 2}", "n1", 1, 102 + rank, rank < granted))
    assert node.raft.role is role
    assert node.raft.term == 1


def test_5_2_the_same_vote_counts_once() -> None:
    """5.2: a vote that arrives twice is one vote."""
    node = candidate(alone(voters=5))
    hear(node, *[VoteResponse("n2", "n1", 1, 102, True)] * 3)
    assert node.raft.role is Role.CANDIDATE


@pytest.mark.parametrize(
    ("vote", "asker", "granted"), [(None, "n2", True), (None, "n3", True), ("n2", "n2", True), ("n3", "n2", False), ("n1", "n2", False)]
)
def test_5_2_one_vote_a_term(vote: str | None, asker: str, granted: bool) -> None:
    """5.2: a server votes for at most one candidate in a term, first come first served, and repeats its answer."""
    node = alone(1, term=2, vote=vote)
    answers = hear(node, Vote(asker, "n1", 2, 100 + int(asker[1:]), 5, 2))
    assert answers == [VoteResponse("n1", asker, 2, 101, granted)]


def test_5_2_a_vote_survives_a_crash() -> None:
    """5.2: the vote is durable before it is granted, so that a restart cannot give it again (HAZARDS 1, 2, 3)."""
    node = alone(1)
    node.held.persist = True
    assert hear(node, Vote("n2", "n1", 2, 102, 5, 2)) == []
    node.held.persist = False
    node.settle()
    assert take_sent(node.network) == [VoteResponse("n1", "n2", 2, 101, True)]
    node.crash()
    node.start()
    assert hear(node, Vote("n3", "n1", 2, 103, 9, 2)) == [VoteResponse("n1", "n3", 2, 101, False)]


@pytest.mark.parametrize("term", [1, 2])
def test_5_2_a_candidate_recognizes_a_leader(term: int) -> None:
    """5.2: a candidate that hears from a leader of its own term, or a newer one, becomes its follower."""
    node = candidate(alone())
    hear(node, Append("n2", "n1", term, 102, 0, 0, (), 0))
    assert (node.raft.role, node.raft.term, node.raft.leader) == (Role.FOLLOWER, term, "n2")


def test_5_2_a_candidate_ignores_an_old_leader() -> None:
    """5.2: a claim to lead an older term does not stop a candidate."""
    node = candidate(alone(1))
    hear(node, Append("n2", "n1", 1, 102, 1, 1, (), 0))
    assert (node.raft.role, node.raft.term) == (Role.CANDIDATE, 2)


def test_5_2_stepping_down_keeps_the_vote() -> None:
    """5.2: a candidate that becomes a follower in the same term has still voted (HAZARDS 4)."""
    node = candidate(alone())
    hear(node, Append("n2", "n1", 1, 102, 0, 0, (), 0))
    assert node.disk.hard_state == HardState(1, "n1")
    node.network.tick("n1", times=TEST_CONFIG.election_ticks)
    take_sent(node.network)
    assert hear(node, Vote("n3", "n1", 1, 103, 9, 1)) == [VoteResponse("n1", "n3", 1, 101, False)]


def test_5_2_a_candidate_without_result_tries_again() -> None:
    """5.2: when the vote is split, each candidate times out and starts a new election in a new term."""
    node = candidate(alone())
    take_sent(node.network)
    node.network.tick("n1", times=2 * TEST_CONFIG.election_ticks)
    assert take_sent(node.network, PreVote, Vote), "it asks again"


def test_5_2_patience_is_random() -> None:
    """5.2: each wait is drawn anew from [election_ticks, 2 * election_ticks), so that split votes are rare and resolve."""
    waits = set()
    for seed in range(200):
        node = alone()
        node.crash()
        node.raft_or_none = node.network.factory(TEST_CONFIG, node.stored(), random.Random(seed))
        ticks = 0
        while node.raft.role is Role.FOLLOWER:
            node.raft.tick()
            ticks += 1
        waits.add(ticks)
    low = TEST_CONFIG.election_ticks
    assert waits == set(range(low, 2 * low))


# -- 5.3 log replication


def test_5_3_only_a_leader_takes_proposals() -> None:
    """5.3: a follower does not take a proposal; it names the leader that it knows."""
    node = alone()
    hear(node, Heartbeat("n2", "n1", 1, 102, 0, 1))
    with pytest.raises(NotLeader) as refused:
        node.raft.propose(b"x")
    assert refused.value.leader == "n2"


def test_5_3_a_proposal_is_appended_and_sent_at_once() -> None:
    """5.3: a leader appends a proposal to its log as a new entry and sends it to everybody in parallel."""
    node = leader(alone())
    for rank in (2, 3):
        hear(node, AppendResponse(f"n{rank}", "n1", 1, 100 + rank, 1))
    take_sent(node.network)
    assert node.raft.propose(b"x") == EntryId(2, 1)
    node.settle()
    assert take_sent(node.network) == [
        Append("n1", peer, 1, 101, 1, 1, (batch(2, 1, b"x"),), 1) for peer in ("n2", "n3")
    ]


@pytest.mark.parametrize(
    ("voters", "acknowledged", "committed"),
    [(1, 0, True), (3, 0, False), (3, 1, True), (3, 2, True), (5, 1, False), (5, 2, True), (4, 1, False)],
)
def test_5_3_an_entry_on_a_majority_is_committed(voters: int, acknowledged: int, committed: bool) -> None:
    """5.3: an entry is committed once the leader that created it knows it on a majority."""
    node = leader(alone(voters=voters))
    for rank in range(acknowledged):
        hear(node, AppendResponse(f"n{rank + 2}", "n1", 1, 102 + rank, 1))
    assert node.raft.committed == int(committed)
    assert node.machine.index == int(committed)


def test_5_3_the_leader_itself_counts_when_durable() -> None:
    """5.3: the leader's own copy counts once it is on its own disk, not before (HAZARDS 18)."""
    node = leader(alone())
    hear(node, AppendResponse("n2", "n1", 1, 102, 1), AppendResponse("n3", "n1", 1, 103, 1))
    node.held.persist = True
    node.raft.propose(b"x")
    node.settle()
    hear(node, AppendResponse("n2", "n1", 1, 102, 2))
    assert node.raft.committed == 1
    node.held.persist = False
    node.settle()
    assert node.raft.committed == 2


@pytest.mark.parametrize("log", [[], [2], [1, 2], [1]])
def test_5_3_earlier_entries_are_committed_with_it(log: list[int]) -> None:
    """5.3: committing an entry commits all before it, entries of earlier leaders included, and they are applied in order."""
    node = leader(alone(*log, term=2))
    assert node.raft.committed == 0
    hear(node, AppendResponse("n2", "n1", 3, 102, len(log) + 1))
    assert node.raft.committed == node.machine.index == len(log) + 1


def test_5_3_followers_learn_the_commit_index() -> None:
    """5.3: the leader tells in later messages what is committed, and a follower then applies it."""
    node = alone()
    hear(node, Append("n2", "n1", 1, 102, 0, 0, (batch(1, 1), batch(2, 1)), 0))
    assert node.machine.index == 0
    hear(node, Append("n2", "n1", 1, 102, 2, 1, (), 2))
    assert (node.raft.committed, node.machine.index) == (2, 2)


@pytest.mark.parametrize(
    ("entries", "announced", "committed"), [(1, 1, 1), (2, 1, 1), (2, 2, 2), (2, 4, 2), (0, 3, 0)]
)
def test_5_3_a_follower_commits_only_what_was_verified(entries: int, announced: int, committed: int) -> None:
    """5.3, figure 2: commit index = min(leader's commit, index of the last *new* entry), never a tail nobody verified (HAZARDS 20)."""
    node = alone(1, 1, 1)
    sent = tuple(batch(index, 1, b"%d" % index) for index in range(1, entries + 1))
    hear(node, Append("n2", "n1", 2, 102, 0, 0, sent, announced))
    assert node.raft.committed == committed
    assert node.raft.last_index == 3


@pytest.mark.parametrize(
    ("prev_index", "prev_term", "accepted"),
    [(0, 0, True), (1, 1, True), (2, 2, True), (1, 2, False), (2, 1, False), (3, 3, False), (3, 2, False)],
)
def test_5_3_the_consistency_check(prev_index: int, prev_term: int, accepted: bool) -> None:
    """5.3: a follower takes entries only if it holds the entry before them, by index and term."""
    node = alone(1, 2)
    (answer,) = hear(node, Append("n2", "n1", 3, 102, prev_index, prev_term, (), 0))
    if accepted:
        assert answer == AppendResponse("n1", "n2", 3, 101, prev_index)
    else:
        assert isinstance(answer, AppendRejected)
        assert (answer.rejected_index, answer.last_index) == (prev_index, 2)
        assert answer.hint_index < prev_index or answer.hint_term != prev_term


@pytest.mark.parametrize(
    ("prev", "sent", "expected"),
    [
        ((2, 2), [3], [1, 2, 3]),
        ((1, 1), [3, 4], [1, 3, 4]),
        ((0, 0), [1], [1, 2]),
        ((0, 0), [1, 2], [1, 2]),
        ((0, 0), [3], [3]),
        ((2, 2), [], [1, 2]),
        ((1, 1), [2, 3], [1, 2, 3]),
    ],
)
def test_5_3_conflicting_entries_are_replaced(prev: tuple[int, int], sent: list[int], expected: list[int]) -> None:
    """5.3: an entry that conflicts goes, with all that follow it; entries that match stay (HAZARDS 10)."""
    node = alone(1, 2)
    entries = tuple(batch(prev[0] + rank, term, b"%d" % (prev[0] + rank)) for rank, term in enumerate(sent, start=1))
    (answer,) = hear(node, Append("n2", "n1", 4, 102, *prev, entries, 0))
    assert terms(node) == expected
    assert answer == AppendResponse("n1", "n2", 4, 101, prev[0] + len(sent)), "it acknowledges what this message verified"


def test_5_3_a_repeated_append_changes_nothing() -> None:
    """5.3/5.5: an old append that arrives again, late, does not shorten the log (HAZARDS 10)."""
    node = alone()
    first = Append("n2", "n1", 1, 102, 0, 0, (batch(1, 1),), 0)
    second = Append("n2", "n1", 1, 102, 1, 1, (batch(2, 1), batch(3, 1)), 0)
    hear(node, first, second)
    assert hear(node, first) == [AppendResponse("n1", "n2", 1, 101, 1)]
    assert node.raft.last_index == 3
    assert terms(node) == [1, 1, 1]


def test_5_3_the_commit_index_never_goes_back() -> None:
    """5.3: a late message with an older commit index does not take anything back (HAZARDS 13)."""
    node = alone(1, 1, 1)
    hear(node, Append("n2", "n1", 1, 102, 3, 1, (), 3), Append("n2", "n1", 1, 102, 3, 1, (), 1), Heartbeat("n2", "n1", 1, 102, 2, 1))
    assert node.raft.committed == 3


@pytest.mark.parametrize(
    "log",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
    ids="abcdef",
)
def test_5_3_figure_7_a_leader_brings_followers_to_its_log(log: list[int]) -> None:
    """5.3, figure 7: whatever a follower's log looks like, it ends equal to the new leader's."""
    of_leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    network = Network(formed("n1", "n2", "n3"))
    for name, given in (("n1", of_leader), ("n2", log), ("n3", of_leader)):
        node = network[name]
        node.crash()
        node.disk.entries = [batch(index, term, b"%d.%d" % (index, term)) for index, term in enumerate(given, start=1)]
        node.disk.hard_state = HardState(7)
        node.start()
    network.elect("n1")
    network.tick("n1", times=TEST_CONFIG.heartbeat_ticks)
    network.stabilize()
    assert network["n2"].disk.entries == network["n1"].disk.entries
    assert terms(network["n1"]) == [*of_leader, 8]
    assert network["n2"].machine.index == 11


def test_5_3_rejections_skip_whole_terms() -> None:
    """5.3: a rejection carries enough that the leader asks once a term, not once an entry."""
    network = Network(formed("n1", "n2", "n3"))
    for name, given in (("n1", [1] + [3] * 50), ("n2", [1] + [2] * 40), ("n3", [1] + [3] * 50)):
        node = network[name]
        node.crash()
        node.disk.entries = [batch(index, term, b"%d.%d" % (index, term)) for index, term in enumerate(given, start=1)]
        node.disk.hard_state = HardState(3)
        node.start()
    network.campaign("n1")
    rejections = 0
    while network.flights:
        rejections += isinstance(network.flights[0].message, AppendRejected)
        network.deliver(network.flights[0])
    assert network["n2"].disk.entries == network["n1"].disk.entries
    assert rejections <= 2


def test_5_3_a_leader_never_overwrites_its_own_log() -> None:
    """5.3: leader append-only: an append of its own term means that two nodes lead; the node stops, its log untouched."""
    node = leader(alone(1))
    before = list(node.disk.entries)
    with pytest.raises(InvariantBroken, match="both lead"):
        hear(node, Append("n2", "n1", node.raft.term, 102, 0, 0, (batch(1, 2, b"evil"),), 1))
    assert node.disk.entries == before


# -- 5.4 safety


@pytest.mark.parametrize(
    ("log", "last_index", "last_term", "granted"),
    [
        ([1], 1, 1, True),
        ([1], 2, 1, True),
        ([1, 1], 1, 1, False),
        ([1], 1, 2, True),
        ([1, 1], 1, 2, True),
        ([2], 1, 1, False),
        ([2], 2, 1, False),
        ([1, 2], 5, 1, False),
        ([], 0, 0, True),
    ],
)
def test_5_4_1_no_vote_for_a_log_less_up_to_date(log: list[int], last_index: int, last_term: int, granted: bool) -> None:
    """5.4.1: a voter refuses when its own log is more up to date: a larger last term, or the same and longer."""
    node = alone(*log, term=2)
    answers = hear(node, Vote("n2", "n1", 3, 102, last_index, last_term))
    assert answers == [VoteResponse("n1", "n2", 3, 101, granted)]
    assert node.disk.hard_state == HardState(3, "n2" if granted else None), "the term is adopted either way"


@pytest.mark.parametrize(("match", "committed"), [(1, 0), (2, 0), (3, 3)])
def test_5_4_2_only_own_term_entries_are_committed_by_counting(match: int, committed: int) -> None:
    """5.4.2, figure 8: an entry of an earlier term is committed only through an entry of the leader's own (HAZARDS 9)."""
    node = leader(alone(1, 2))
    hear(node, AppendResponse("n2", "n1", 3, 102, match))
    assert node.raft.committed == committed


def test_5_4_2_figure_8() -> None:
    """5.4.2, figure 8: the entry of term 2 that reached a majority in term 4 may still be overwritten, so it was never committed."""
    network = Network(formed("n1", "n2", "n3", "n4", "n5"))
    logs = {"n1": [1, 2], "n2": [1, 2], "n3": [1], "n4": [1], "n5": [1, 3]}
    for name, given in logs.items():
        node = network[name]
        node.crash()
        node.disk.entries = [batch(index, term, b"%d.%d" % (index, term)) for index, term in enumerate(given, start=1)]
        node.disk.hard_state = HardState(3)
        node.start()
    network["n5"].crash()
    network["n1"].held.persist = False
    network.campaign("n1")
    while network["n1"].raft.role is not Role.LEADER:
        network.deliver(network.flights[0])
    take_sent(network)
    entry = network["n1"].disk.entries[1]
    for name in ("n2", "n3"):
        again = Append("n1", name, network["n1"].raft.term, 101, 1, 1, (entry,), 0)
        network[name].does(lambda raft, again=again: raft.step(again))  # type: ignore[misc]
    for flight in list(network.flights):
        network.deliver(flight)
    take_sent(network)
    assert terms(network["n3"]) == [1, 2], "entry 2 is on n1, n2 and n3: a majority"
    assert all(node.raft.committed == 0 for node in network.running)
    network["n1"].crash()
    take_sent(network)
    network["n5"].start()
    network.elect("n5")
    assert terms(network["n3"])[:2] == [1, 3]
    assert terms(network["n2"])[:2] == [1, 3]


def test_5_4_3_a_committed_entry_is_in_the_log_of_every_later_leader() -> None:
    """5.4.3: leader completeness: who misses a committed entry finds no majority."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.isolate("n3")
    network.propose("n1", b"x")
    network.stabilize()
    network["n1"].crash()
    network.heal()
    for _ in range(6):
        network.tick("n3", times=10)
        network.stabilize(["n2", "n3"])
    assert network["n3"].raft.role is not Role.LEADER
    network.elect("n2")
    assert network["n3"].disk.entries == network["n2"].disk.entries


# -- 5.5 and 5.6 crashes and timing


def test_5_5_the_leader_tries_again_until_a_crashed_follower_answers() -> None:
    """5.5: messages to a crashed follower are lost, and sent again until it has everything."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network["n3"].crash()
    network.propose("n1", b"x", b"y")
    network.stabilize()
    network["n3"].start()
    for _ in range(2):
        network.tick("n1", times=TEST_CONFIG.heartbeat_ticks)
        network.stabilize()
    assert network["n3"].disk.entries == network["n1"].disk.entries
    assert network["n3"].machine == network["n1"].machine


def test_5_5_a_request_that_arrives_twice_does_no_harm() -> None:
    """5.5: requests are idempotent: a vote is repeated, an append acknowledged again."""
    node = alone(1)
    vote = Vote("n2", "n1", 2, 102, 5, 1)
    assert hear(node, vote) == hear(node, vote) == [VoteResponse("n1", "n2", 2, 101, True)]
    append = Append("n2", "n1", 2, 102, 1, 1, (batch(2, 2),), 0)
    assert hear(node, append) == hear(node, append) == [AppendResponse("n1", "n2", 2, 101, 2)]
    assert terms(node) == [1, 2]


def test_5_6_heartbeats_must_be_much_faster_than_elections() -> None:
    """5.6: broadcast time must be far below the election timeout; settings that say otherwise are refused."""
    with pytest.raises(InvalidSettings, match="heartbeat_ticks is 5"):
        Config(election_ticks=10, heartbeat_ticks=5, lease_ticks=5)


# -- 7 log compaction


def compacted_leader() -> Network:
    """n1 leads with entries 1 to 5 committed, cut behind 4; n3 has none of them."""
    network = Network(formed("n1", "n2", "n3"))
    network.isolate("n3")
    network.elect("n1")
    network.propose("n1", b"a", b"b", b"c", b"d")
    network.stabilize()
    meta = network["n1"].compact(4)
    assert meta == SnapshotMeta(4, 1, network.configuration), "7: last included index, its term, and the configuration there"
    network.heal()
    return network


def test_7_a_server_compacts_on_its_own() -> None:
    """7: each server cuts its own log behind what its state machine holds, without asking the leader."""
    network = compacted_leader()
    meta = network["n2"].compact(3)
    assert meta == SnapshotMeta(3, 1, network.configuration)
    network.propose("n1", b"e")
    network.stabilize(["n1", "n2"])
    assert network["n2"].machine == network["n1"].machine
    assert network["n2"].machine.index == 6


def test_7_the_consistency_check_works_at_the_snapshots_edge() -> None:
    """7: index and term of the last included entry stay known, for the append that follows it."""
    network = compacted_leader()
    n2 = network["n2"]
    n2.compact(5)
    network.propose("n1", b"e")
    network.stabilize(["n1", "n2"])
    assert n2.disk.begin.index == 5
    assert n2.disk.last == EntryId(6, 1)


def test_7_a_follower_far_behind_gets_the_snapshot() -> None:
    """7: the leader sends its snapshot when it has discarded the next entry that a follower needs."""
    network = compacted_leader()
    network.tick("n1", times=TEST_CONFIG.heartbeat_ticks)
    sent: list[InstallSnapshot] = []
    while network.flights:
        message = network.flights[0].message
        sent += [message] if isinstance(message, InstallSnapshot) else []
        network.deliver(network.flights[0])
    assert [message.to for message in sent] == ["n3"]
    assert network["n3"].machine == network["n1"].machine
    assert network["n3"].disk.begin.index == 5
    network.propose("n1", b"e")
    network.stabilize()
    assert network["n3"].machine == network["n1"].machine


def test_7_a_snapshot_replaces_a_log_that_does_not_contain_it() -> None:
    """7: what the follower's log holds is superseded, conflicting entries at the snapshot's index included (HAZARDS 29)."""
    node = alone(1, 1, 1, commit=1)
    node.staged[3] = MachineState(3, 2)
    answers = hear(node, InstallSnapshot("n2", "n1", 2, 102, SnapshotMeta(3, 2, node.network.configuration)))
    assert (node.disk.begin.index, node.disk.entries) == (3, [])
    assert answers[-1] == AppendResponse("n1", "n2", 2, 101, 3)
    hear(node, Append("n2", "n1", 2, 102, 3, 2, (batch(4, 2),), 3))
    assert node.disk.last == EntryId(4, 2)


def test_7_a_snapshot_of_a_prefix_keeps_what_follows() -> None:
    """7: when the snapshot describes a prefix of the log, the entries after it stay and are still valid (HAZARDS 30)."""
    node = alone(1, 1, 2, 2, 2)
    node.staged[3] = MachineState(3, 2)
    hear(node, InstallSnapshot("n2", "n1", 2, 102, SnapshotMeta(3, 2, node.network.configuration)))
    assert node.disk.last == EntryId(5, 2)
    assert node.raft.last_index == 5


def test_7_an_old_snapshot_is_ignored() -> None:
    """7: a snapshot below what is committed brings nothing; the answer tells the leader how far the node is."""
    node = alone(1, 1, 1, 1)
    hear(node, Append("n2", "n1", 2, 102, 4, 1, (), 4))
    answers = hear(node, InstallSnapshot("n2", "n1", 2, 102, SnapshotMeta(2, 1, node.network.configuration)))
    assert answers == [AppendResponse("n1", "n2", 2, 101, 4)]
    assert (node.raft.committed, node.raft.last_index, node.machine.index) == (4, 4, 4)


def test_7_the_configuration_comes_with_the_snapshot() -> None:
    """7, thesis 4.1: the snapshot's configuration is in force once it is installed; the old one does not survive (HAZARDS 33)."""
    node = alone(1)
    newer = formed("n1", "n2", "n3", "n4")
    node.staged[9] = MachineState(9, 2)
    hear(node, InstallSnapshot("n2", "n1", 2, 102, SnapshotMeta(9, 2, newer)))
    assert node.raft.configuration == newer
    node.crash()
    node.start()
    assert node.raft.configuration == newer
