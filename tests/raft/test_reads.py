"""Linearizable reads: rounds when messages are lost, and the promise on which a lease stands."""

from __future__ import annotations

from raftkv.raft.messages import (
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    PreVote,
    PreVoteResponse,
    Vote,
    VoteResponse,
)
from raftkv.raft.node import Raft
from raftkv.raft.reads import Reads
from raftkv.raft.ready import ReadPoint, Role
from tests.raft.bare import ELECTION, HEARTBEAT, bare, batch, hears, leading, role_of, settle, ticks, wins
from tests.raft.network import TEST_CONFIG, alone, formed

LEASES = formed("n1", "n2", "n3", lease_reads=True)


def points(raft: Raft) -> tuple[list[ReadPoint], list[Message]]:
    """The reads answered and the messages sent until nothing is left to do."""
    reads: list[ReadPoint] = []
    sent: list[Message] = []
    while raft.has_ready():
        ready = raft.ready()
        reads += ready.reads
        sent += [message for message in ready.messages if message.to != "n1"]
        raft.persisted(ready.number)
        for message in ready.messages_after_persist:
            if message.to == "n1":
                raft.step(message)
        if ready.committed:
            raft.applied(ready.committed[-1].index)
    return reads, sent


def newest_round(messages: list[Message]) -> int:
    """The number of the newest round that was begun."""
    return max((message.round for message in messages if isinstance(message, Heartbeat)), default=0)


# -- rounds


def test_a_round_that_is_lost_is_made_up_for_by_the_next_heartbeat() -> None:
    """When all messages of a read's round are lost, the answers to the next heartbeat answer the read."""
    raft = leading(1)
    settle(raft)
    raft.read_index(7)
    lost = newest_round(points(raft)[1])
    later = newest_round(ticks(raft, HEARTBEAT))
    assert later == lost + 1
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, later))
    assert points(raft)[0] == [ReadPoint(7, 2)]


def test_late_answers_to_older_rounds_do_no_harm() -> None:
    """Answers that arrive out of order confirm what they confirm, and nothing newer."""
    raft = leading(1)
    settle(raft)
    raft.read_index(1)
    first = newest_round(points(raft)[1])
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, first))
    raft.read_index(2)
    reads, sent = points(raft)
    assert reads == [ReadPoint(1, 2)]
    second = newest_round(sent)
    for _ in range(3):
        raft.step(HeartbeatResponse("n3", "n1", 2, 103, first))
    assert points(raft)[0] == []
    raft.step(HeartbeatResponse("n3", "n1", 2, 103, second))
    assert points(raft)[0] == [ReadPoint(2, 2)]


def test_a_read_is_answered_with_the_commit_index_of_its_round() -> None:
    """What is committed while the round is under way need not be waited for, what was committed before must be."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    settle(raft)
    raft.read_index(1)
    number = newest_round(points(raft)[1])
    hears(raft, AppendResponse("n2", "n1", 2, 102, 3))
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, number))
    assert points(raft)[0] == [ReadPoint(1, 2)]
    raft.read_index(2)
    number = newest_round(points(raft)[1])
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, number))
    assert points(raft)[0] == [ReadPoint(2, 3)]


def test_reads_asked_too_early_are_answered_after_the_own_entry() -> None:
    """Reads asked of a leader that has committed nothing of its own wait; the commit starts their round (HAZARDS 26)."""
    raft = leading(1, acknowledge=False)
    settle(raft)
    raft.read_index(1)
    raft.read_index(2)
    number = newest_round(ticks(raft, HEARTBEAT))
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, number))
    assert points(raft)[0] == []
    raft.step(AppendResponse("n2", "n1", 2, 102, 2))
    reads, sent = points(raft)
    assert reads == []
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, newest_round(sent)))
    assert points(raft)[0] == [ReadPoint(1, 2), ReadPoint(2, 2)]


def test_answers_that_do_not_count_confirm_nothing() -> None:
    """Suspect nodes, wiped nodes and learners prove no leadership."""
    configuration = formed("n1", "n2", "n3", learners=("n4",))
    raft = leading(1, configuration=configuration)
    settle(raft)
    raft.read_index(1)
    number = newest_round(points(raft)[1])
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, number, False))
    raft.step(HeartbeatResponse("n3", "n1", 2, 999, number))
    raft.step(HeartbeatResponse("n4", "n1", 2, 104, number))
    assert points(raft)[0] == []


def test_an_answer_to_a_round_that_was_never_begun_is_dropped() -> None:
    """A round number beyond the newest confirms nothing, now or later (HAZARDS 25)."""
    raft = leading(1)
    settle(raft)
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, 50))
    for _ in range(3):
        raft.read_index(1)
    assert points(raft)[0] == []
    assert raft.dropped["answer to no round"] == 1


def test_a_lonely_voter_answers_at_once() -> None:
    """A single voter is its own quorum: a read is answered in the same Ready, after its own entry is committed."""
    node = alone(voters=1)
    node.network.campaign("n1")
    assert role_of(node.raft) is Role.LEADER
    node.raft.read_index(5)
    assert ReadPoint(5, 1) in node.raft.ready().reads


def test_reads_die_with_the_leadership() -> None:
    """Reads that were not answered are gone when the leader is deposed; a later leadership does not answer them."""
    raft = leading(1)
    settle(raft)
    raft.read_index(1)
    number = newest_round(points(raft)[1])
    raft.step_down()
    settle(raft)
    wins(raft)
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, number))
    sent = ticks(raft, HEARTBEAT)
    raft.step(HeartbeatResponse("n2", "n1", 3, 102, newest_round(sent)))
    assert points(raft)[0] == []


def test_many_reads_cost_one_round_at_a_time() -> None:
    """However many reads are asked, one round is under way and one waits."""
    raft = leading(1)
    settle(raft)
    for context in range(100):
        raft.read_index(context)
    reads, sent = points(raft)
    assert (reads, len(sent)) == ([], 2)
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, newest_round(sent)))
    reads, sent = points(raft)
    assert ([point.context for point in reads], len(sent)) == ([0], 2)
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, newest_round(sent)))
    assert [point.context for point in points(raft)[0]] == list(range(1, 100))


def test_a_round_serves_what_waited_for_it() -> None:
    """The bookkeeping alone: a round takes the reads that wait, and confirming it confirms those before it."""
    reads = Reads(lease_ticks=8)
    reads.ask(1)
    assert reads.begin(10, 5, may_serve=False) == 1
    assert reads.waiting
    assert not reads.serving
    assert reads.begin(11, 6, may_serve=True) == 2
    reads.ask(2)
    assert reads.begin(12, 7, may_serve=True) == 3
    done = reads.confirmed(3)
    assert [(round_.number, round_.index, round_.contexts) for round_ in done] == [(1, 5, []), (2, 6, [1]), (3, 7, [2])]
    assert (reads.has_lease(19), reads.has_lease(20)) == (True, False)
    assert reads.confirmed(3) == []


# -- leases


def leased(log: int = 1) -> Raft:
    """A leader that may read by its lease."""
    raft = leading(*[1] * log, configuration=LEASES)
    settle(raft)
    number = newest_round(ticks(raft, HEARTBEAT))
    hears(raft, HeartbeatResponse("n2", "n1", raft.term, 102, number))
    return raft


def test_a_lease_ends_before_anybody_may_vote() -> None:
    """The last read by lease is before the first vote that a follower, heard at the beginning of the round, would grant."""
    raft = leased()
    served = 0
    for _ in range(ELECTION):
        raft.read_index(served)
        if not points(raft)[0]:
            break
        served += 1
        raft.tick()
    assert served <= TEST_CONFIG.lease_ticks < ELECTION


def test_a_restart_does_not_end_a_promise() -> None:
    """A node that has just started does not know whom it promised what: while leases are on it votes for nobody for an election
    timeout, unless the leader asked for it (HAZARDS 24)."""
    raft = bare(1, configuration=LEASES)
    assert hears(raft, PreVote("n3", "n1", 1, 103, 2, 9, 9)) == []
    assert hears(raft, Vote("n3", "n1", 2, 103, 9, 9)) == []
    ticks(raft, ELECTION - 1)
    assert hears(raft, Vote("n3", "n1", 2, 103, 9, 9)) == []
    ticks(raft, 1)
    assert hears(raft, Vote("n3", "n1", 2, 103, 9, 9)) == [VoteResponse("n1", "n3", 2, 101, True)]
    raft = bare(1, configuration=LEASES)
    assert hears(raft, Vote("n3", "n1", 2, 103, 9, 9, True)) == [VoteResponse("n1", "n3", 2, 101, True)]


def test_a_newer_term_does_not_end_a_promise() -> None:
    """Learning of a newer term, from whatever stray message, does not free a node from what it promised the leader of the last."""
    raft = bare(1, configuration=LEASES)
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    hears(raft, PreVoteResponse("n3", "n1", 2, 103, 2, False))
    assert (raft.term, raft.leader) == (2, None)
    assert hears(raft, PreVote("n3", "n1", 2, 103, 3, 9, 9)) == []
    assert hears(raft, Vote("n3", "n1", 2, 103, 9, 9)) == [VoteResponse("n1", "n3", 2, 101, False)]
    assert hears(raft, Vote("n3", "n1", 3, 103, 9, 9)) == []
    ticks(raft, ELECTION)
    assert hears(raft, Vote("n3", "n1", 2, 103, 9, 9)) == [VoteResponse("n1", "n3", 2, 101, True)]


def test_without_leases_a_restart_binds_nobody() -> None:
    """While leases are off nobody reads on the strength of a promise, and a node that has just started votes at once."""
    raft = bare(1)
    assert hears(raft, Vote("n3", "n1", 2, 103, 9, 9)) == [VoteResponse("n1", "n3", 2, 101, True)]


def test_a_new_cluster_with_leases_has_no_promises_to_keep() -> None:
    """A node that never was in a term has promised nothing."""
    raft = bare(configuration=LEASES)
    assert hears(raft, PreVote("n3", "n1", 0, 103, 1, 0, 0)) == [PreVoteResponse("n1", "n3", 0, 101, 1, True)]


def test_a_lease_needs_counting_answers() -> None:
    """A wiped or suspect node's answers give no lease: such a node keeps no promise."""
    raft = leading(1, configuration=LEASES)
    settle(raft)
    number = newest_round(ticks(raft, HEARTBEAT))
    hears(raft, HeartbeatResponse("n2", "n1", 2, 999, number), HeartbeatResponse("n3", "n1", 2, 103, number, False))
    raft.read_index(1)
    assert points(raft)[0] == []


def test_a_lease_read_sees_every_commit() -> None:
    """A read by lease waits for everything that is committed when it is asked."""
    raft = leased()
    raft.propose(b"a")
    settle(raft)
    hears(raft, AppendResponse("n3", "n1", 2, 103, 3))
    raft.read_index(1)
    assert points(raft)[0] == [ReadPoint(1, 3)]
    assert raft.log.entries(3, 3, 100) == (batch(3, 2, b"a"),)
