"""What this core does beyond the paper and the thesis, or differently, and what was once wrong: one test a claim.

Incarnations, nodes that doubt themselves (suspect, fenced, a disk that hangs), the order of effects, and each bug that a storm of
`test_properties` found, told as the smallest story that shows it.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from raftkv.raft.messages import AppendResponse, PreVoteResponse, Vote
from raftkv.raft.node import Raft
from raftkv.raft.ready import Role
from raftkv.raft.types import HardState
from tests.raft.network import TEST_CONFIG, MachineState, Network, alone, formed, hear

ELECTION = TEST_CONFIG.election_ticks


# -- elections


def test_a_pre_vote_of_a_node_in_an_older_term_counts() -> None:
    """A voter that slept through elections grants a PreVote in its own old term; it counts, or a node that cannot campaign itself
    (fenced, suspect) would never help to elect anybody (HAZARDS 45)."""
    node = alone(1, term=5)
    node.network.campaign("n1")
    hear(node, PreVoteResponse("n2", "n1", 2, 102, 6, True, 1))
    assert (node.raft.role, node.raft.term) == (Role.CANDIDATE, 6)


def test_a_refused_pre_vote_of_an_older_term_is_no_vote() -> None:
    """A refusal that comes in an older term counts as a refusal, and changes no term."""
    node = alone(1, term=5)
    node.network.campaign("n1")
    hear(node, PreVoteResponse("n2", "n1", 2, 102, 6, False, 1))
    assert (node.raft.role, node.raft.term) == (Role.PRE_CANDIDATE, 5)


def test_a_lost_state_may_lie_before_the_log() -> None:
    """A node starts when its state store is empty and its log begins later; it is fenced and asks for a snapshot."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.propose("n1", b"a", b"b")
    network.stabilize()
    n3 = network["n3"]
    n3.compact(2)
    n3.crash()
    n3.flushed = MachineState()
    n3.start()
    assert n3.raft.fenced == "the state store is lost"
    network.tick("n1", times=TEST_CONFIG.heartbeat_ticks)
    network.stabilize()
    assert n3.raft.fenced is None
    assert n3.machine == network["n1"].machine


# -- nodes that doubt themselves


@pytest.mark.parametrize("role", [Role.PRE_CANDIDATE, Role.CANDIDATE])
def test_a_campaigning_node_that_is_fenced_gives_up(role: Role) -> None:
    """A node whose state turns out to be wrong while it campaigns does not win: a fenced leader could rebuild nobody."""
    network = Network(formed("n1", "n2", "n3"))
    n1 = network["n1"]
    network.campaign("n1")
    while n1.raft.role is not role:
        network.deliver(network.flights[0])
    n1.raft.request_snapshot("state differs")
    n1.settle()
    network.stabilize()
    assert n1.raft.role is Role.FOLLOWER
    assert n1.raft.fenced == "state differs"


def test_a_suspect_node_may_lose_still_more() -> None:
    """What a suspect node acknowledged is not held against it: when its log ends earlier than it once said, the leader begins anew."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.propose("n1", b"a", b"b", b"c")
    network.stabilize()
    n1, n3 = network["n1"].raft, network["n3"]
    n1.step(AppendResponse("n3", "n1", n1.term, 103, 4, False))
    network["n1"].settle()
    assert (n1.progress()["n3"].match, n1.progress()["n3"].counts) == (4, False)
    n3.crash()
    n3.disk.suspect = 4
    del n3.disk.entries[2:]
    n3.disk.commit = 2
    n3.start()
    for _ in range(3):
        network.tick("n1", times=TEST_CONFIG.heartbeat_ticks)
        network.stabilize()
    assert n3.disk.entries == network["n1"].disk.entries


# -- lease reads: a promise is kept


def leased() -> Network:
    """n1 leads with a fresh lease that n2 gave it; n3 has not heard n1 for long and would like to lead."""
    network = Network(formed("n1", "n2", "n3", lease_reads=True))
    network.elect("n1")
    network.partition(["n1"], ["n3"])
    network.tick("n3", times=2 * ELECTION)
    network.tick("n1", times=TEST_CONFIG.heartbeat_ticks)
    network.stabilize()
    assert network["n3"].raft.role is not Role.FOLLOWER
    network.isolate("n1")
    return network


def test_a_restart_does_not_end_the_promise_of_a_lease() -> None:
    """A node cannot remember whom it heard before it crashed, so with lease reads on it votes for nobody until an election timeout
    after its start: the leader that it answered may still read by lease (HAZARDS 24)."""
    network = leased()
    network["n2"].crash()
    network["n2"].start()
    network.campaign("n3")
    network.stabilize()
    assert not network["n3"].leads(2)
    network.tick("n2", times=ELECTION)
    network.campaign("n3")
    network.stabilize()
    assert network["n3"].leads(2)


def test_a_newer_term_does_not_end_the_promise_of_a_lease() -> None:
    """A message that only happens to be of a newer term makes a follower forget its leader, and not its promise to it."""
    network = leased()
    n2 = network["n2"]
    n2.raft.step(PreVoteResponse("n3", "n2", 5, 103, 5, False))
    n2.settle()
    assert n2.raft.term == 5
    n2.raft.step(Vote("n3", "n2", 6, 103, 9, 1))
    n2.settle()
    assert n2.disk.hard_state == HardState(5)


# -- counting


def test_an_own_late_acknowledgement_counts_for_nothing() -> None:
    """What a node acknowledged to itself in an earlier term says nothing about the entries of this one (HAZARDS 7)."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network["n1"].does(Raft.step_down)
    network.elect("n1")
    n1 = network["n1"]
    n1.held.persist = True
    network.propose("n1", b"x")
    n1.raft.step(AppendResponse("n1", "n1", 1, 101, n1.raft.last_index))
    network.stabilize(["n1", "n2"])
    assert n1.raft.last_index == 3
    assert n1.raft.committed == 2


def test_match_never_goes_back() -> None:
    """An acknowledgement that was overtaken by a newer one takes nothing back (HAZARDS 14)."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.propose("n1", b"x")
    network.stabilize()
    network["n1"].does(lambda raft: raft.step(AppendResponse("n2", "n1", 1, 102, 1)))
    assert network["n1"].raft.progress()["n2"].match == 2


@pytest.mark.parametrize(("acknowledged", "committed"), [(("n2", "n3"), 0), (("n4", "n5"), 0), (("n2", "n4"), 1)])
def test_a_joint_decision_needs_both_majorities(acknowledged: tuple[str, ...], committed: int) -> None:
    """While a configuration is joint, a majority of the old voters and one of the new voters decide, not one of all (thesis 4.3)."""
    names = ("n1", "n2", "n3", "n4", "n5")
    network = Network(replace(formed(*names), voters=names[:3], outgoing=("n1", "n4", "n5")))
    network.oracle.sees_all = False
    network.elect("n1")
    n1 = network["n1"]
    before = n1.raft.committed
    (entry,) = network.propose("n1", b"x")
    for name in acknowledged:
        n1.raft.step(AppendResponse(name, "n1", n1.raft.term, 100 + int(name[1]), entry.index))
        n1.settle()
    assert n1.raft.committed == before + committed


def test_survivors_of_a_broken_connection_do_not_collide() -> None:
    """When the leader dies and all connections say so at once, the first by rank is elected in one round (HAZARDS 53)."""
    network = Network(formed("n1", "n2", "n3", "n4", "n5"))
    network.elect("n3")
    network["n3"].crash()
    for node in network.running:
        node.does(lambda raft: raft.peer_lost("n3"))
    for _ in range(3):
        network.tick()
        for flight in list(network.flights):
            network.deliver(flight)
        for flight in list(network.flights):
            network.deliver(flight)
    network.stabilize()
    assert network["n1"].leads(2)
