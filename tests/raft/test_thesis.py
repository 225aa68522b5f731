"""What Ongaro's thesis adds to the paper and this core builds, one test a claim.

PreVote (9.6), CheckQuorum (6.2), stickiness (4.2.3), ReadIndex and leases (6.4), leadership transfer (3.10). Where the core goes
beyond the thesis (incarnations, suspect and fenced nodes, the stalled disk) the claim is in ``test_own_rules.py``.
"""

from __future__ import annotations

import pytest

from raftkv.errors import NotLeader, Refused
from raftkv.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    PreVote,
    PreVoteResponse,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from raftkv.raft.ready import PeerState, ReadPoint, Role
from raftkv.raft.types import HardState
from tests.raft.network import TEST_CONFIG, Network, alone, formed, hear, take_sent

ELECTION = TEST_CONFIG.election_ticks
HEARTBEAT = TEST_CONFIG.heartbeat_ticks


def three(*, lease_reads: bool = False) -> Network:
    """Three nodes; n1 leads term 1 and everything is settled."""
    network = Network(formed("n1", "n2", "n3", lease_reads=lease_reads))
    network.elect("n1")
    network.tick("n1", times=HEARTBEAT)
    network.stabilize()
    return network


def reads_of(network: Network, name: str) -> list[ReadPoint]:
    """The reads that `name` has answered since we looked last."""
    found = list(network[name].reads)
    network[name].reads.clear()
    return found


# -- 9.6 PreVote


def test_9_6_asking_changes_nothing_at_the_asker() -> None:
    """9.6: a pre-candidate neither raises its term nor votes."""
    node = alone(1, term=4, vote="n3")
    node.network.campaign("n1")
    assert (node.raft.role, node.raft.term) == (Role.PRE_CANDIDATE, 4)
    assert node.disk.hard_state == HardState(4, "n3")
    assert take_sent(node.network) == [PreVote("n1", peer, 4, 101, 5, 1, 1, 1) for peer in ("n2", "n3")]


def test_9_6_answering_changes_nothing_at_the_voter() -> None:
    """9.6: granting a PreVote is no promise: the voter keeps term and vote, and grants another one too."""
    node = alone(1, term=1)
    for asker in ("n2", "n3"):
        (answer,) = hear(node, PreVote(asker, "n1", 1, 100 + int(asker[1:]), 7, 3, 1))
        assert isinstance(answer, PreVoteResponse)
        assert (answer.to, answer.term, answer.campaign_term, answer.granted) == (asker, 1, 7, True)
    assert (node.raft.role, node.raft.term, node.disk.hard_state) == (Role.FOLLOWER, 1, HardState(1))


@pytest.mark.parametrize(("last_index", "last_term", "granted"), [(2, 2, True), (9, 1, False), (1, 2, False), (1, 3, True)])
def test_9_6_a_log_must_be_up_to_date(last_index: int, last_term: int, granted: bool) -> None:
    """9.6: a PreVote is granted only to a log at least as up to date, as a vote would be."""
    (answer,) = hear(alone(1, 2), PreVote("n2", "n1", 2, 102, 3, last_index, last_term))
    assert isinstance(answer, PreVoteResponse)
    assert answer.granted is granted


def test_9_6_not_while_a_leader_is_heard() -> None:
    """9.6: a PreVote is granted only after no word from a leader for at least the smallest election timeout."""
    node = alone()
    hear(node, Heartbeat("n2", "n1", 1, 102, 0, 1))
    asked = PreVote("n3", "n1", 1, 103, 2, 5, 1)
    assert not any(answer.granted for answer in hear(node, asked) if isinstance(answer, PreVoteResponse))
    node.network.tick("n1", times=ELECTION)
    take_sent(node.network)
    assert [answer.granted for answer in hear(node, asked) if isinstance(answer, PreVoteResponse)] == [True]


@pytest.mark.parametrize(("granted", "role"), [(1, Role.PRE_CANDIDATE), (2, Role.CANDIDATE)])
def test_9_6_only_a_majority_starts_an_election(granted: int, role: Role) -> None:
    """9.6: the term is raised only by a candidate that learned that a majority would vote for it."""
    node = alone(voters=5)
    node.network.campaign("n1")
    for rank in range(granted):
        hear(node, PreVoteResponse(f"n{rank + 2}", "n1", 0, 102 + rank, 1, True, 1))
    assert (node.raft.role, node.raft.term) == (role, int(role is Role.CANDIDATE))


def test_9_6_an_answer_for_another_campaign_does_not_count() -> None:
    """9.6: an answer is for the term that was asked for; a late one for another campaign counts for nothing."""
    node = alone(term=3)
    node.network.campaign("n1")
    hear(node, PreVoteResponse("n2", "n1", 3, 102, 3, True, 1), PreVoteResponse("n3", "n1", 3, 103, 5, True, 1))
    assert node.raft.role is Role.PRE_CANDIDATE


def test_9_6_an_isolated_node_does_not_inflate_its_term() -> None:
    """9.6: a node that was cut off for long returns with its old term and disturbs nobody (HAZARDS 49)."""
    network = three()
    network.isolate("n3")
    network.tick("n3", times=20 * ELECTION)
    assert network["n3"].raft.term == 1
    network.heal()
    for _ in range(3):
        network.tick("n1", times=HEARTBEAT)
        network.stabilize()
    assert network["n1"].raft.role is Role.LEADER
    assert network["n3"].raft.leader == "n1"


def test_9_6_a_refusal_with_a_larger_term_is_learned_from() -> None:
    """9.6: a pre-candidate in an old term learns the newer one from the answer, so that it can be elected later (HAZARDS 45)."""
    node = alone(1)
    node.network.campaign("n1")
    hear(node, PreVoteResponse("n2", "n1", 6, 102, 2, False))
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 6)


# -- 4.2.3 and 6.2: stickiness and CheckQuorum


def test_4_2_3_a_vote_request_does_not_disturb_who_hears_a_leader() -> None:
    """4.2.3: within the smallest election timeout of hearing a leader, a server neither votes nor adopts the term."""
    node = alone(term=1)
    hear(node, Heartbeat("n2", "n1", 1, 102, 0, 1))
    hear(node, Vote("n3", "n1", 8, 103, 9, 7))
    assert (node.raft.term, node.disk.hard_state) == (1, HardState(1))
    node.network.tick("n1", times=ELECTION)
    hear(node, Vote("n3", "n1", 8, 103, 9, 7))
    assert node.disk.hard_state == HardState(8, "n3")


def test_4_2_3_a_leader_with_a_quorum_ignores_requests() -> None:
    """4.2.3: a leader that hears its followers is not deposed by a removed or confused server's request."""
    network = three()
    node = network["n1"]
    node.raft.step(Vote("n3", "n1", 8, 103, 99, 7))
    node.settle()
    assert (node.raft.role, node.raft.term) == (Role.LEADER, 1)


def test_3_10_a_transfer_passes_stickiness() -> None:
    """3.10 and 4.2.3: the request of a transfer's target says so, and is answered at once."""
    node = alone(term=1)
    hear(node, Heartbeat("n2", "n1", 1, 102, 0, 1))
    assert hear(node, Vote("n3", "n1", 2, 103, 0, 0, True)) == [VoteResponse("n1", "n3", 2, 101, True)]


def test_6_2_a_leader_without_quorum_steps_down() -> None:
    """6.2: a leader steps down when an election timeout passes without a round of answers from a majority."""
    network = three()
    network.isolate("n1")
    network.tick("n1", times=2 * ELECTION)
    assert (network["n1"].raft.role, network["n1"].raft.term) == (Role.FOLLOWER, 1)
    with pytest.raises(NotLeader):
        network["n1"].raft.propose(b"x")


def test_6_2_a_leader_with_a_majority_stays() -> None:
    """6.2: answers of a majority, its own included, are enough, however long a minority is silent."""
    network = three()
    network.isolate("n3")
    for _ in range(10 * ELECTION):
        network.tick("n1", "n2")
        network.stabilize(["n1", "n2"])
    assert network["n1"].raft.role is Role.LEADER
    silent = network["n1"].raft.progress()["n3"]
    assert not silent.recently_active


def test_6_2_a_partial_partition_ends_with_a_working_leader() -> None:
    """6.2 and 9.6: n1 leads and has lost n2 only; n3 sees both. Somebody leads stably, terms do not climb (HAZARDS 44)."""
    network = three()
    network.partition(["n1"], ["n2"])
    for _ in range(30 * ELECTION):
        network.tick()
        network.stabilize()
    leader = network.leader()
    assert leader is not None
    assert leader.raft.term <= 3
    assert len(network.propose(leader.name, b"x")) == 1
    network.stabilize()
    assert leader.raft.committed == leader.raft.last_index


# -- 6.4 reads


def test_6_4_a_read_waits_for_a_round() -> None:
    """6.4: the leader notes its commit index and answers when a majority has confirmed that it still led afterwards."""
    network = three()
    commit = network["n1"].raft.committed
    network.read("n1", 7)
    assert reads_of(network, "n1") == []
    assert [type(flight.message) for flight in network.flights] == [Heartbeat, Heartbeat]
    network.stabilize(["n2", "n1"])
    assert reads_of(network, "n1") == [ReadPoint(7, commit)]


def test_6_4_reads_that_wait_share_one_round() -> None:
    """6.4: one round of heartbeats serves any number of reads; those asked while it runs share the next one."""
    network = three()
    network.read("n1", 1)
    network.read("n1", 2)
    network.read("n1", 3)
    assert len(network.flights) == 2, "one heartbeat each for n2 and n3"
    network.stabilize()
    contexts = [point.context for point in reads_of(network, "n1")]
    assert sorted(contexts) == [1, 2, 3]
    assert network.flights == []


def test_6_4_a_read_asked_during_a_round_is_not_answered_by_it() -> None:
    """6.4: answers to a heartbeat that left before the read was asked prove nothing about it (HAZARDS 25)."""
    network = three()
    network.read("n1", 1)
    early = [flight for flight in network.flights if isinstance(flight.message, Heartbeat)]
    for flight in early:
        network.deliver(flight)
    network.read("n1", 2)
    for flight in [flight for flight in network.flights if isinstance(flight.message, HeartbeatResponse)]:
        network.deliver(flight)
    assert [point.context for point in reads_of(network, "n1")] == [1]
    network.stabilize()
    assert [point.context for point in reads_of(network, "n1")] == [2]


def test_6_4_a_new_leader_reads_after_its_own_entry() -> None:
    """6.4 step 1: a leader answers no read before an entry of its own term is committed (HAZARDS 26)."""
    network = three()
    network.propose("n1", b"x")
    network.stabilize()
    network["n1"].crash()
    network.tick("n3", times=ELECTION)
    network.campaign("n2")
    while network["n2"].raft.role is not Role.LEADER:
        network.deliver(network.flights[0])
    old = network["n2"].raft.committed
    network.read("n2", 1)
    for flight in [flight for flight in network.flights if isinstance(flight.message, Heartbeat)]:
        network.deliver(flight)
    for flight in [flight for flight in network.flights if isinstance(flight.message, HeartbeatResponse)]:
        network.deliver(flight)
    assert reads_of(network, "n2") == []
    network.stabilize()
    network.tick("n2", times=HEARTBEAT)
    network.stabilize()
    (point,) = reads_of(network, "n2")
    assert point.index > old


def test_6_4_a_deposed_leader_answers_no_read() -> None:
    """6.4: a leader that was replaced unnoticed cannot confirm a round, so its reads are never answered."""
    network = three()
    network.isolate("n1")
    network.elect("n2")
    network.propose("n2", b"new")
    network.stabilize()
    network.read("n1", 1)
    network.heal()
    network.tick("n1", times=HEARTBEAT)
    network.stabilize()
    assert reads_of(network, "n1") == []
    assert network["n1"].raft.role is Role.FOLLOWER


def test_6_4_a_repeated_answer_counts_once() -> None:
    """6.4: a majority is counted in nodes, not in answers."""
    network = Network(formed("n1", "n2", "n3", "n4", "n5"))
    network.elect("n1")
    network.read("n1", 1)
    (to_n2,) = [flight for flight in network.flights if flight.message.to == "n2" and isinstance(flight.message, Heartbeat)]
    network.deliver(to_n2, keep=True)
    network.deliver(to_n2)
    for flight in [flight for flight in network.flights if flight.message.to == "n1"]:
        network.deliver(flight)
    assert reads_of(network, "n1") == []


def test_6_4_an_answer_of_an_older_term_does_not_count() -> None:
    """6.4: rounds are numbered in a term; a late answer from an earlier leadership of the same node proves nothing."""
    network = three()
    network.isolate("n1")
    network.elect("n2")
    network.heal()
    network.tick("n2", times=HEARTBEAT)
    network.stabilize()
    network.elect("n1")
    network.read("n1", 5)
    heartbeat = next(flight.message for flight in network.flights if isinstance(flight.message, Heartbeat))
    assert isinstance(heartbeat, Heartbeat)
    for rank in (2, 3):
        network["n1"].raft.step(HeartbeatResponse(f"n{rank}", "n1", 1, 100 + rank, heartbeat.round))
    network["n1"].settle()
    assert reads_of(network, "n1") == []
    network.stabilize()
    assert [point.context for point in reads_of(network, "n1")] == [5]


def test_6_4_only_a_leader_takes_reads() -> None:
    """6.4: a follower does not answer by itself; it says who leads."""
    network = three()
    with pytest.raises(NotLeader) as refused:
        network.read("n2", 1)
    assert refused.value.leader == "n1"


def test_6_4_1_a_lease_saves_the_round() -> None:
    """6.4.1: while a majority's answers are fresh, a leader with lease reads answers at once and sends nothing."""
    network = three(lease_reads=True)
    network.read("n1", 1)
    assert [point.context for point in reads_of(network, "n1")] == [1]
    assert network.flights == []


def test_6_4_1_a_lease_runs_from_the_start_of_its_round() -> None:
    """6.4.1: the lease counts from when the heartbeats *left*: answers that were long under way do not extend it (HAZARDS 24)."""
    network = three(lease_reads=True)
    network.tick("n1", times=HEARTBEAT)
    sent = [flight for flight in network.flights if isinstance(flight.message, Heartbeat)]
    assert sent
    network.tick("n1", times=TEST_CONFIG.lease_ticks - 1)
    for flight in sent:
        network.deliver(flight)
    for flight in [flight for flight in network.flights if isinstance(flight.message, HeartbeatResponse)]:
        network.deliver(flight)
    network.tick("n1", times=2)
    network.read("n1", 1)
    assert reads_of(network, "n1") == [], "the lease from that round is over"


def test_6_4_1_an_expired_lease_falls_back_to_a_round() -> None:
    """6.4.1: without fresh answers the leader asks a majority first."""
    network = three(lease_reads=True)
    for _ in range(TEST_CONFIG.lease_ticks):
        network.tick("n1")
        for flight in list(network.flights):
            network.drop(flight)
    network.read("n1", 1)
    assert reads_of(network, "n1") == []
    network.tick("n1", times=HEARTBEAT)
    network.stabilize()
    assert [point.context for point in reads_of(network, "n1")] == [1]


def test_6_4_1_a_new_leader_has_no_lease() -> None:
    """6.4.1: a lease is earned by a round in the leader's own term, and not before its own entry is committed."""
    network = three(lease_reads=True)
    network["n1"].crash()
    network.tick("n3", times=ELECTION)
    network.campaign("n2")
    while network["n2"].raft.role is not Role.LEADER:
        network.deliver(network.flights[0])
    network.read("n2", 1)
    assert reads_of(network, "n2") == []


def test_6_4_1_a_lost_connection_does_not_shorten_the_promise() -> None:
    """6.4.1: with leases on, who just heard a leader votes for nobody else, whatever broke in between (HAZARDS 52)."""
    network = three(lease_reads=True)
    for name in ("n2", "n3"):
        network[name].raft.peer_lost("n1")
        network[name].settle()
    network.isolate("n1")
    for _ in range(TEST_CONFIG.lease_ticks - 1):
        network.tick("n2", "n3")
        network.stabilize(["n2", "n3"])
    assert network.leader() is network["n1"], "no other leader while the lease may run"


def test_6_4_1_a_transfer_gives_up_the_lease() -> None:
    """6.4.1 and 3.10: the target is elected before anybody's timeout, so the leader's lease ends when the transfer begins."""
    network = three(lease_reads=True)
    network["n1"].raft.transfer_leadership("n2")
    network["n1"].settle()
    try:
        network.read("n1", 1)
    except Refused:
        return
    assert reads_of(network, "n1") == []


# -- 3.10 leadership transfer


def test_3_10_the_leader_stops_accepting_requests() -> None:
    """3.10 step 1: during a transfer proposals are refused, definitely."""
    network = three()
    network["n1"].raft.transfer_leadership("n2")
    with pytest.raises(Refused):
        network["n1"].raft.propose(b"x")


def test_3_10_the_target_is_brought_up_to_date_first() -> None:
    """3.10 step 2: TimeoutNow leaves only when the target's log matches the leader's."""
    network = three()
    network.propose("n1", b"x")
    network["n1"].raft.transfer_leadership("n3")
    network["n1"].settle()
    assert not [flight for flight in network.flights if isinstance(flight.message, TimeoutNow)]
    for flight in [flight for flight in network.flights if flight.message.to == "n3"]:
        network.deliver(flight)
    for flight in [flight for flight in network.flights if isinstance(flight.message, AppendResponse)]:
        network.deliver(flight)
    assert [flight.message.to for flight in network.flights if isinstance(flight.message, TimeoutNow)] == ["n3"]


def test_3_10_the_target_campaigns_at_once() -> None:
    """3.10 step 3: TimeoutNow starts an election without waiting and without PreVote."""
    node = alone(1)
    hear(node, Heartbeat("n2", "n1", 1, 102, 0, 1))
    sent = hear(node, TimeoutNow("n2", "n1", 1, 102))
    assert sent == [Vote("n1", peer, 2, 101, 1, 1, True) for peer in ("n2", "n3")]
    assert (node.raft.role, node.disk.hard_state) == (Role.CANDIDATE, HardState(2, "n1"))


def test_3_10_an_up_to_date_target_wins() -> None:
    """3.10: the transfer ends with the target leading the next term and the old leader following."""
    network = three()
    network["n1"].raft.transfer_leadership("n2")
    network["n1"].settle()
    network.stabilize()
    assert [node.raft.role for node in network.running] == [Role.FOLLOWER, Role.LEADER, Role.FOLLOWER]
    assert {node.raft.leader for node in network.running} == {"n2"}


def test_3_10_a_transfer_that_takes_too_long_is_given_up() -> None:
    """3.10: after an election timeout without success the leader goes on as before (HAZARDS 47)."""
    network = three()
    network["n3"].crash()
    network["n1"].raft.transfer_leadership("n3")
    network["n1"].settle()
    for _ in range(ELECTION + 1):
        network.tick("n1", "n2")
        network.stabilize()
    assert network["n1"].raft.role is Role.LEADER
    network.propose("n1", b"x")
    network.stabilize()
    assert network["n1"].raft.committed == network["n1"].raft.last_index


def test_3_10_a_later_leadership_is_not_in_transfer() -> None:
    """3.10: what was being handed over dies with the leadership (HAZARDS 47)."""
    network = three()
    network["n3"].crash()
    network["n1"].raft.transfer_leadership("n3")
    network["n1"].raft.step_down()
    network["n1"].settle()
    network.elect("n1")
    network.propose("n1", b"x")
    network.stabilize()
    assert network["n1"].raft.committed == network["n1"].raft.last_index


def test_3_10_a_timeout_now_of_an_old_leader_is_ignored() -> None:
    """3.10: a TimeoutNow that was long under way does not start an election in a newer term."""
    node = alone(1, term=3)
    hear(node, Heartbeat("n3", "n1", 3, 103, 0, 1))
    hear(node, TimeoutNow("n2", "n1", 1, 102))
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 3)


def test_10_2_1_the_leader_writes_in_parallel() -> None:
    """10.2.1: the leader sends entries to its followers while it writes them itself."""
    network = three()
    network["n1"].held.persist = True
    network.propose("n1", b"x")
    assert [flight.message.to for flight in network.flights if isinstance(flight.message, Append)] == ["n2", "n3"]
    assert network["n1"].disk.last.index < network["n1"].raft.last_index


def test_10_2_2_appends_are_pipelined() -> None:
    """10.2.2: once a follower is known to match, the leader sends on without waiting for answers."""
    network = three()
    assert network["n1"].raft.progress()["n2"].state is PeerState.REPLICATE
    network.propose("n1", b"x", b"y", b"z")
    to_n2 = [flight.message for flight in network.flights if flight.message.to == "n2"]
    sent = [entry.payload for message in to_n2 if isinstance(message, Append) for entry in message.entries]
    assert sent == [b"x", b"y", b"z"]
