"""Who may lead, and when: hints of lost connections, nodes in doubt, hanging disks, and no storms."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

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
from raftkv.raft.ready import Role
from tests.raft.bare import (
    ELECTION,
    HEARTBEAT,
    INCARNATIONS,
    bare,
    batch,
    campaigns,
    hears,
    leading,
    role_of,
    settle,
    take,
    ticks,
    wins,
)
from tests.raft.network import TEST_CONFIG, Network, Patience, alone, formed, unformed

FIVE = formed("n1", "n2", "n3", "n4", "n5")


# -- the connection to the leader breaks


@pytest.mark.parametrize(("names", "rank"), [(("n1", "n2", "n3"), 1), (("n0", "n1", "n2"), 2)])
def test_survivors_wait_by_rank(names: tuple[str, ...], rank: int) -> None:
    """When the connection to the leader breaks, a follower asks for PreVotes after the delay of its rank, not after its patience."""
    configuration = formed(*names)
    incarnation = configuration.members[names.index("n1")].incarnation
    raft = bare(1, configuration=configuration, incarnation=incarnation)
    hears(raft, Heartbeat("n2", "n1", 1, configuration.members[-1].incarnation if names[-1] == "n2" else 102, 0, 1))
    raft.peer_lost("n2")
    ticks(raft, rank * TEST_CONFIG.lost_leader_ticks - 1)
    assert role_of(raft) is Role.FOLLOWER
    ticks(raft, 1)
    assert role_of(raft) is Role.PRE_CANDIDATE


def test_another_lost_connection_is_no_hint() -> None:
    """Only the connection to the leader matters."""
    raft = bare(1)
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    raft.peer_lost("n3")
    assert raft.leader == "n2"
    assert ticks(raft, 3) == []


def test_a_leader_that_speaks_again_calls_it_off() -> None:
    """A word from the leader after the connection broke ends the hurry."""
    raft = bare(1)
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    raft.peer_lost("n2")
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 2))
    ticks(raft, ELECTION - 1)
    assert (raft.role, raft.leader) == (Role.FOLLOWER, "n2")


def test_a_lost_leader_binds_nobody() -> None:
    """Who has lost the leader's connection votes at once, as if it had been silent for long."""
    raft = bare(1)
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    assert hears(raft, PreVote("n3", "n1", 1, 103, 2, 1, 1)) == []
    raft.peer_lost("n2")
    assert hears(raft, PreVote("n3", "n1", 1, 103, 2, 1, 1)) == [PreVoteResponse("n1", "n3", 1, 101, 2, True)]


def test_a_vote_granted_in_a_hurry_ends_the_hurry() -> None:
    """A survivor that has voted gives its candidate time to win (HAZARDS 53)."""
    raft = bare(1)
    hears(raft, Heartbeat("n3", "n1", 1, 103, 0, 1))
    raft.peer_lost("n3")
    hears(raft, Vote("n2", "n1", 2, 102, 1, 1))
    ticks(raft, ELECTION - 1)
    assert (raft.role, raft.vote) == (Role.FOLLOWER, "n2")


def test_both_survivors_hint_and_one_wins_at_once() -> None:
    """The leader dies, both survivors lose its connection: one of them leads within a few ticks and in one term (HAZARDS 53)."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n3")
    network["n3"].crash()
    for name in ("n1", "n2"):
        network[name].raft.peer_lost("n3")
        network[name].settle()
    for _ in range(2 * TEST_CONFIG.lost_leader_ticks):
        network.tick()
        network.stabilize()
    leader = network.leader()
    assert leader is not None
    assert leader.raft.term == 2


def test_who_lost_the_leader_asks_again_those_who_kept_silent() -> None:
    """A PreVote request that a node did not answer, because it still heard the leader, is repeated with every heartbeat's time."""
    raft = bare(1)
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    raft.peer_lost("n2")
    ticks(raft, TEST_CONFIG.lost_leader_ticks)
    again = ticks(raft, HEARTBEAT)
    assert again == [PreVote("n1", to, 1, 101, 2, 1, 1, 2) for to in ("n2", "n3")]
    hears(raft, PreVoteResponse("n3", "n1", 1, 103, 2, True, 2))
    assert role_of(raft) is Role.CANDIDATE


def test_grants_of_different_rounds_do_not_add_up() -> None:
    """A node that lost the leader asks again and again. Two others, which lose the leader for a moment at different times, are never
    together without it, and so do not help to depose it (HAZARDS 44, 49)."""
    network = Network(FIVE)
    network.elect("n5")
    network.cut |= {("n1", "n5"), ("n5", "n1")}
    network["n1"].does(lambda raft: raft.peer_lost("n5"))
    network.tick("n1", times=TEST_CONFIG.lost_leader_ticks)
    network.stabilize()
    for name in ("n2", "n3"):
        network[name].does(lambda raft: raft.peer_lost("n5"))
        network.tick("n1", times=HEARTBEAT)
        network.stabilize()
        network.tick("n5", times=HEARTBEAT)
        network.stabilize()
        assert network[name].raft.leader == "n5"
    assert network["n1"].raft.role is Role.PRE_CANDIDATE
    assert network["n5"].leads(1)


@pytest.mark.parametrize("again_ticks", [HEARTBEAT, 2 * ELECTION])
def test_a_late_answer_does_not_count_in_the_next_round(again_ticks: int) -> None:
    """A grant that was under way when the node asked again, after a heartbeat's time or at its timeout, says that its sender was without
    the leader then, not now: it elects nobody, and the answer to the newest round does (HAZARDS 44, 49)."""
    raft = bare(1)
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    raft.peer_lost("n2")
    ticks(raft, TEST_CONFIG.lost_leader_ticks)
    late = PreVoteResponse("n3", "n1", 1, 103, 2, True, raft.pre_vote_round)
    assert any(isinstance(message, PreVote) for message in ticks(raft, again_ticks))
    hears(raft, late)
    assert role_of(raft) is Role.PRE_CANDIDATE
    hears(raft, replace(late, round=raft.pre_vote_round))
    assert role_of(raft) is Role.CANDIDATE


def test_an_answer_names_the_round_that_asked() -> None:
    """Granted or not, an answer repeats the number of the round, also of one that it has not seen before."""
    for round_number in (7, 3):
        (granted,) = hears(bare(1), PreVote("n3", "n1", 1, 103, 2, 9, 9, round_number))
        (refused,) = hears(bare(1), PreVote("n3", "n1", 1, 103, 2, 0, 0, round_number))
        assert granted == PreVoteResponse("n1", "n3", 1, 101, 2, True, round_number)
        assert refused == PreVoteResponse("n1", "n3", 1, 101, 2, False, round_number)


def test_who_heard_nothing_for_long_asks_once() -> None:
    """A pre-candidate whose leader fell silent asks once an election timeout: others have been as patient as it has."""
    raft = bare(1)
    campaigns(raft)
    assert ticks(raft, ELECTION - 1) == []


@pytest.mark.parametrize("late", ["n1", "n2"])
def test_a_survivor_that_notices_late_costs_no_timeout(late: str) -> None:
    """The leader dies and one survivor notices it later, having missed the last entry besides: still somebody leads within a few
    heartbeats of that."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n3")
    early = "n2" if late == "n1" else "n1"
    network.cut |= {("n3", late)}
    network.propose("n3", b"x")
    network.stabilize()
    network["n3"].crash()
    network.tick()
    network[early].raft.peer_lost("n3")
    network[early].settle()
    for _ in range(HEARTBEAT):
        network.tick()
        network.stabilize()
    assert network.leader() is None
    network[late].raft.peer_lost("n3")
    network[late].settle()
    for _ in range(2 * HEARTBEAT):
        network.tick()
        network.stabilize()
    leader = network.leader()
    assert leader is not None
    assert leader.name == early


@pytest.mark.parametrize("fractions", [(0.1, 0.9), (0.9, 0.1)])
def test_a_split_vote_is_settled_within_heartbeats(fractions: tuple[float, float]) -> None:
    """The leader is dead and both survivors stand in the same term: who is refused stands again after a short time drawn by chance."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n3")
    network["n3"].crash()
    for name, fraction in zip(("n1", "n2"), fractions, strict=True):
        network[name].raft.rng = Patience(fraction)
        network[name].raft.peer_lost("n3")
        network[name].does(lambda raft: raft.become_candidate())
        network[name].settle()
    network.stabilize()
    assert network.leader() is None
    for _ in range(2 * HEARTBEAT):
        network.tick()
        network.stabilize()
    leader = network.leader()
    assert leader is not None
    assert leader.name == ("n1" if fractions[0] < fractions[1] else "n2")
    assert leader.raft.term == 3


# -- votes


def test_a_refusal_does_not_calm_a_follower() -> None:
    """A refused request does not reset the patience: otherwise a node that cannot win keeps those quiet who can."""
    raft = bare(1, 1)
    ticks(raft, ELECTION)
    hears(raft, Vote("n2", "n1", 2, 102, 1, 1))
    left = 0
    while role_of(raft) is Role.FOLLOWER:
        ticks(raft, 1)
        left += 1
    assert left <= 2 * ELECTION


def test_the_only_electable_node_is_elected() -> None:
    """Two of three are up, one with the longer log and an older term: it is elected (HAZARDS 45)."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.partition(["n1", "n2"], ["n3"])
    network.propose("n1", b"a")
    network.stabilize()
    network["n1"].crash()
    network["n3"].disk.hard_state = type(network["n3"].disk.hard_state)(9, None)
    network["n3"].crash()
    network["n3"].start()
    network.heal()
    for _ in range(8 * ELECTION):
        network.tick()
        network.stabilize()
    leader = network.leader()
    assert leader is not None
    assert leader.name == "n2"


def test_a_vote_of_a_stranger_does_not_count() -> None:
    """Votes of nodes that are not in the configuration elect nobody."""
    raft = campaigns(bare(1, configuration=FIVE))
    hears(raft, *(PreVoteResponse(f"x{n}", "n1", 1, n, 2, True, 1) for n in range(1, 9)))
    assert role_of(raft) is Role.PRE_CANDIDATE
    assert raft.dropped["vote that does not count"] == 8


def test_answers_of_an_older_campaign_elect_nobody() -> None:
    """When a candidate starts again, votes for its earlier term do not count any more (HAZARDS 5)."""
    raft = campaigns(bare(1))
    hears(raft, PreVoteResponse("n2", "n1", 1, 102, 2, True, 1))
    assert (role_of(raft), raft.term) == (Role.CANDIDATE, 2)
    ticks(raft, 2 * ELECTION)
    hears(raft, PreVoteResponse("n2", "n1", 2, 102, 3, True, 2))
    assert (role_of(raft), raft.term) == (Role.CANDIDATE, 3)
    hears(raft, VoteResponse("n2", "n1", 2, 102, True))
    assert role_of(raft) is Role.CANDIDATE


def test_terms_do_not_climb_without_a_majority() -> None:
    """However long nobody answers, a node asks again and again and its term stays."""
    raft = bare(1, term=3)
    sent = ticks(raft, 20 * ELECTION)
    assert raft.term == 3
    assert 10 <= sum(isinstance(message, PreVote) for message in sent) / 2 <= 20


def test_a_node_in_a_minority_returns_without_harm() -> None:
    """A node that was cut off follows the leader again in the old term: nobody steps down (HAZARDS 49)."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.isolate("n3")
    for _ in range(10 * ELECTION):
        network.tick()
        network.stabilize()
    network.heal()
    for _ in range(2 * HEARTBEAT):
        network.tick()
        network.stabilize()
    assert network["n1"].leads(1)
    assert network["n3"].raft.leader == "n1"


# -- the first election of a cluster


def test_a_cluster_forms_when_everybody_is_there() -> None:
    """An unformed cluster waits for its last member, then elects, and a majority suffices from then on."""
    network = Network(unformed("n1", "n2", "n3"))
    network["n3"].crash()
    for _ in range(6 * ELECTION):
        network.tick()
        network.stabilize()
    assert network.leader() is None
    network["n3"].start()
    for _ in range(20 * ELECTION):
        network.tick()
        network.stabilize()
        if network.leader() is not None:
            break
    leader = network.leader()
    assert leader is not None
    network.stabilize()
    assert all(node.raft.view.formed for node in network.running)
    leader.crash()
    for _ in range(20 * ELECTION):
        network.tick()
        network.stabilize()
    assert network.leader() is not None


# -- disks that hang


def test_a_leader_on_a_hanging_disk_steps_down_and_does_not_campaign() -> None:
    """When a write takes longer than an election timeout the leader steps down, and campaigns again only when it is durable
    (HAZARDS 46)."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    stuck = take(raft)
    for _ in range(ELECTION + 1):
        raft.tick()
        for peer in ("n2", "n3"):
            raft.step(HeartbeatResponse(peer, "n1", 2, INCARNATIONS[peer], 1))
        if raft.has_ready():
            raft.ready()
    assert role_of(raft) is Role.FOLLOWER
    for _ in range(5 * ELECTION):
        raft.tick()
    assert role_of(raft) is Role.FOLLOWER
    raft.step(TimeoutNow("n2", "n1", 2, 102))
    assert role_of(raft) is Role.FOLLOWER
    raft.persisted(stuck.number)
    campaigns(raft)


def test_batches_queued_behind_a_moving_disk_are_no_hang() -> None:
    """A disk that always has something under way, but gets it done, deposes nobody."""
    raft = leading(1)
    settle(raft)
    numbers = []
    for tick in range(6 * ELECTION):
        raft.propose(b"x")
        numbers.append(take(raft).number)
        raft.tick()
        for peer in ("n2", "n3"):
            raft.step(HeartbeatResponse(peer, "n1", 2, INCARNATIONS[peer], 1))
        if tick >= ELECTION // 2:
            raft.persisted(numbers.pop(0))
    assert role_of(raft) is Role.LEADER


# -- CheckQuorum


def test_a_leader_heard_by_acknowledgements_alone_stays() -> None:
    """Any answer is a sign of life, not only one to a heartbeat."""
    raft = leading(1)
    for _ in range(5):
        ticks(raft, ELECTION - 1)
        hears(raft, AppendResponse("n2", "n1", 2, 102, 2))
    assert role_of(raft) is Role.LEADER


def test_signs_of_life_are_not_counted_twice() -> None:
    """Each election timeout needs its own signs of life: at most two of them pass before a lonely leader steps down."""
    raft = leading(1)
    ticks(raft, 2 * ELECTION)
    assert role_of(raft) is Role.FOLLOWER


def test_a_wiped_node_does_not_keep_a_leader() -> None:
    """A node without memory of its promises is no part of the quorum that a leader must hear."""
    raft = leading(1)
    for _ in range(2 * ELECTION):
        ticks(raft, 1)
        if role_of(raft) is Role.LEADER:
            hears(raft, HeartbeatResponse("n2", "n1", 2, 999, 1))
    assert role_of(raft) is Role.FOLLOWER


def test_a_suspect_node_keeps_its_leader() -> None:
    """A suspect node elects nobody else and only a leader can relieve it, so its signs of life keep the leader in office."""
    raft = leading(1)
    for _ in range(3 * ELECTION):
        ticks(raft, 1)
        hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1, False))
    assert role_of(raft) is Role.LEADER


# -- suspect nodes


def test_a_suspect_node_takes_no_part() -> None:
    """A suspect node neither votes, campaigns nor counts, whatever it is asked."""
    raft = bare(1, 1, suspect=5)
    assert hears(raft, PreVote("n2", "n1", 1, 102, 2, 9, 9)) == [PreVoteResponse("n1", "n2", 1, 101, 2, False)]
    assert hears(raft, Vote("n2", "n1", 2, 102, 9, 9)) == [VoteResponse("n1", "n2", 2, 101, False)]
    assert ticks(raft, 4 * ELECTION) == []
    hears(raft, Append("n2", "n1", 2, 102, 2, 1, (), 0), TimeoutNow("n2", "n1", 2, 102))
    assert role_of(raft) is Role.FOLLOWER
    assert hears(raft, Heartbeat("n2", "n1", 2, 102, 0, 1)) == [HeartbeatResponse("n1", "n2", 2, 101, 1, False)]


def test_suspicion_ends_past_what_was_forgotten() -> None:
    """In the term in which it forgot, a node counts again when its disk is past all that it may have forgotten, and all that is
    committed, with an entry of the leader's own at the commit index."""
    raft = bare(1, 2, term=2, suspect=4)
    hears(raft, Append("n2", "n1", 2, 102, 2, 2, (batch(3, 2),), 3))
    assert raft.suspect == 4
    raft.step(Append("n2", "n1", 2, 102, 3, 2, (batch(4, 2),), 3))
    ready = take(raft)
    assert raft.suspect == 4
    raft.persisted(ready.number)
    assert raft.suspect is None


def test_suspicion_does_not_end_before_the_leader_has_committed_in_its_term() -> None:
    """As long as the leader has committed nothing of its own, nobody knows what else is committed: the node stays suspect."""
    raft = bare(1, 1, term=1, suspect=2)
    hears(raft, Append("n2", "n1", 2, 102, 2, 1, (batch(3, 2),), 2))
    assert raft.suspect == 2
    hears(raft, Heartbeat("n2", "n1", 2, 102, 3, 1))
    assert raft.suspect is None


def test_suspicion_ends_in_an_idle_cluster() -> None:
    """The commit index that a heartbeat brings is enough: no further append has to come."""
    raft = bare(1, term=1, suspect=1)
    assert hears(raft, Append("n2", "n1", 2, 102, 1, 1, (batch(2, 2),), 0)) == [AppendResponse("n1", "n2", 2, 101, 2, False)]
    assert hears(raft, Heartbeat("n2", "n1", 2, 102, 2, 5)) == [HeartbeatResponse("n1", "n2", 2, 101, 5, True)]


def test_suspicion_ends_in_a_newer_term_though_the_log_stays_short() -> None:
    """What a node forgot before a term that it had not seen is in that term's leader's log, if it was committed. So it counts again
    when it shares a committed entry of that term, even if the leader's log never reaches the index that it may have forgotten."""
    raft = bare(1, 1, term=1, suspect=50)
    hears(raft, Append("n2", "n1", 2, 102, 2, 1, (batch(3, 2),), 3))
    assert (raft.suspect, raft.committed) == (None, 3)


def test_what_a_suspect_node_acknowledged_counts_when_it_is_relieved() -> None:
    """The acknowledgements of a suspect node commit nothing; when it counts again they do, without another append."""
    raft = leading(1)
    settle(raft)
    hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1, False))
    raft.propose(b"a")
    settle(raft)
    hears(raft, AppendResponse("n2", "n1", 2, 102, 3, False))
    assert raft.committed == 2
    hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1, True))
    assert raft.committed == 3


def test_a_node_that_becomes_suspect_is_uncounted() -> None:
    """What a node acknowledged before it became suspect does not commit anything later (HAZARDS 54)."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    number = take(raft).number
    raft.step(AppendResponse("n2", "n1", 2, 102, 3))
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, 1, False))
    raft.persisted(number)
    raft.step(AppendResponse("n1", "n1", 2, 101, 3))
    assert raft.committed == 2


def test_a_wiped_nodes_acknowledgement_commits_nothing() -> None:
    """A node that returns with another incarnation gets the log, and its acknowledgements decide nothing (HAZARDS 42)."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    settle(raft)
    sent = hears(raft, AppendResponse("n2", "n1", 2, 999, 2), AppendResponse("n2", "n1", 2, 999, 3))
    assert raft.committed == 2
    assert raft.progress()["n2"].counts is False
    assert any(isinstance(message, Append) for message in sent)


def test_a_leader_that_was_elected_counts_nobody_from_before() -> None:
    """A new leadership begins with no acknowledgement: those of an earlier term of the same node are of the past (HAZARDS 7, 19)."""
    raft = leading(1)
    raft.propose(b"a")
    late = take(raft)
    raft.step_down()
    settle(raft)
    wins(raft, acknowledge=False)
    hears(raft, AppendResponse("n2", "n1", 2, 102, 3), *late.messages_after_persist)
    assert raft.committed == 2
    assert {progress.match for progress in raft.progress().values()} == {0}


def test_alone_in_its_cluster_a_node_leads_itself() -> None:
    """A single voter elects itself and commits what its own disk has, and only that (HAZARDS 18)."""
    node = alone(voters=1)
    for _ in range(2 * ELECTION):
        node.raft.tick()
        node.settle()
    assert role_of(node.raft) is Role.LEADER
    node.held.persist = True
    node.raft.propose(b"a")
    node.settle()
    assert node.raft.committed == node.raft.last_index - 1
    node.persist()
    assert node.raft.committed == node.raft.last_index
