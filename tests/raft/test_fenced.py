"""A node without a usable state: when it campaigns after all, and what it does and does not do as a leader."""

from __future__ import annotations

import pytest

from raftkv.errors import Busy
from raftkv.raft.messages import (
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVoteResponse,
    SnapshotRequest,
    TimeoutNow,
    VoteResponse,
)
from raftkv.raft.node import LAST_RESORT_TIMEOUTS, Raft
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, SnapshotMeta
from tests.raft.bare import ELECTION, HEARTBEAT, INCARNATIONS, THREE, bare, campaigns, hears, leading, role_of, settle, ticks
from tests.raft.network import MachineState, Network, formed

PATIENCE = LAST_RESORT_TIMEOUTS * ELECTION
FIVE = formed("n1", "n2", "n3", "n4", "n5")


def leading_without_state(configuration: Configuration = THREE) -> Raft:
    """n1 leads term 2 as the last resort, and its peers have said nothing since they voted. Its log is 6 and 7."""
    raft = bare(1, begin=SnapshotMeta(5, 1, configuration), configuration=configuration, fenced="the state store is lost")
    ticks(raft, PATIENCE)
    campaigns(raft)
    for voter in configuration.voters[1:]:
        hears(raft, PreVoteResponse(voter, "n1", 1, INCARNATIONS[voter], 2, True, raft.pre_vote_round))
    for voter in configuration.voters[1:]:
        hears(raft, VoteResponse(voter, "n1", 2, INCARNATIONS[voter], True))
    assert role_of(raft) is Role.LEADER
    return raft


def orders(messages: list[Message]) -> list[str]:
    """Who is told to campaign."""
    return [message.to for message in messages if isinstance(message, TimeoutNow)]


def catches_up(raft: Raft, *names: str) -> None:
    """These peers acknowledge the whole log."""
    hears(raft, *(AppendResponse(name, "n1", raft.term, INCARNATIONS[name], raft.last_index) for name in names))


def run(network: Network, ticks: int) -> None:
    """Time passes, and every message arrives."""
    for _ in range(ticks):
        network.tick()
        network.stabilize()


# -- when it campaigns


def test_a_fenced_node_lets_everybody_else_try_first() -> None:
    """A fenced node campaigns only when nobody has led for several election timeouts, and after that (HAZARDS 45)."""
    raft = bare(1, fenced="the state store is lost", begin=SnapshotMeta(5, 1, THREE))
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    assert ticks(raft, PATIENCE - 1) == []
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 2))
    assert ticks(raft, PATIENCE - 1) == []
    campaigns(raft)


def test_a_leader_that_is_fenced_lets_everybody_else_try_first() -> None:
    """A leader whose state turns out to be wrong steps down, and until then it was itself who led."""
    raft = leading(1)
    settle(raft)
    for round_ in range(3 * LAST_RESORT_TIMEOUTS * ELECTION // HEARTBEAT):
        ticks(raft, HEARTBEAT)
        hears(raft, HeartbeatResponse("n2", "n1", 2, 102, round_))
    raft.request_snapshot("state differs")
    assert ticks(raft, PATIENCE - 1) == []
    campaigns(raft)


def test_a_fenced_node_is_no_successor() -> None:
    """A fenced node that is told to campaign by its leader does not."""
    raft = bare(1, fenced="the state store is lost", begin=SnapshotMeta(5, 1, THREE))
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1), TimeoutNow("n2", "n1", 1, 102))
    assert role_of(raft) is Role.FOLLOWER


@pytest.mark.parametrize(("suspect", "incarnation"), [(9, 101), (None, 999)])
def test_doubts_about_the_log_are_never_set_aside(suspect: int | None, incarnation: int) -> None:
    """A fenced node that may have forgotten what it acknowledged, or whom it voted for, never campaigns (HAZARDS 42, 54)."""
    raft = bare(1, fenced="the state store is lost", begin=SnapshotMeta(5, 1, THREE), suspect=suspect, incarnation=incarnation)
    assert ticks(raft, 5 * PATIENCE) == []


def test_who_has_nobody_to_hand_over_to_does_not_campaign() -> None:
    """The only voter of a cluster has nothing to gain from leading without a state."""
    alone = formed("n1", learners=("n2",))
    raft = bare(1, fenced="the state store is lost", begin=SnapshotMeta(5, 1, alone), configuration=alone)
    assert ticks(raft, 5 * PATIENCE) == []


# -- as a leader


def test_a_fenced_leader_takes_no_proposals() -> None:
    """What it cannot answer it does not take."""
    raft = leading_without_state()
    with pytest.raises(Busy, match="no state"):
        raft.propose(b"a")
    assert raft.last_index == 7


def test_a_fenced_leader_sends_no_snapshot() -> None:
    """Nobody is rebuilt from a state that is lost or wrong, whether asked for or because the log begins too late (HAZARDS 50)."""
    raft = leading_without_state()
    sent = settle(raft)
    sent += hears(raft, SnapshotRequest("n2", "n1", 2, 102, "lost"))
    sent += hears(raft, HeartbeatResponse("n3", "n1", 2, 103, 1))
    raft.step(AppendResponse("n3", "n1", 2, 103, 3))
    for round_ in range(2, 5):
        sent += ticks(raft, HEARTBEAT)
        sent += hears(raft, HeartbeatResponse("n3", "n1", 2, 103, round_))
    assert sum(isinstance(message, Heartbeat) and message.to == "n3" for message in sent) == 3
    assert not any(isinstance(message, InstallSnapshot) for message in sent)


def test_a_fenced_leader_hands_over_to_who_has_caught_up() -> None:
    """The first voter that holds the whole log is told to campaign at the next tick."""
    raft = leading_without_state()
    settle(raft)
    assert orders(ticks(raft, 1)) == []
    catches_up(raft, "n3")
    assert orders(ticks(raft, 1)) == ["n3"]
    assert orders(ticks(raft, HEARTBEAT)) == []


def test_a_successor_that_does_not_take_over_is_passed_over() -> None:
    """When a successor has not won within an election timeout, the next one is told; after the last the first again."""
    raft = leading_without_state(FIVE)
    settle(raft)
    catches_up(raft, "n2", "n4", "n5")
    asked = []
    for _ in range(4 * ELECTION + 1):
        asked += orders(ticks(raft, 1))
        hears(raft, *(HeartbeatResponse(name, "n1", 2, INCARNATIONS[name], 1) for name in ("n2", "n3", "n4")))
    assert asked == ["n2", "n4", "n5", "n2", "n4"]


def test_a_successor_has_a_state_and_a_vote() -> None:
    """Leadership is not handed to who asks for a snapshot itself, does not count, or is a learner."""
    raft = leading_without_state(formed("n1", "n2", "n3", learners=("n4",)))
    settle(raft)
    hears(raft, SnapshotRequest("n2", "n1", 2, 102, "lost"), HeartbeatResponse("n3", "n1", 2, 103, 1, False))
    catches_up(raft, "n2", "n4")
    hears(raft, AppendResponse("n3", "n1", 2, 103, raft.last_index, False))
    assert orders(ticks(raft, HEARTBEAT)) == []
    hears(raft, HeartbeatResponse("n3", "n1", 2, 103, 2))
    assert orders(ticks(raft, 1)) == ["n3"]


# -- whole clusters


@pytest.mark.parametrize("reason", ["lost", "wrong"])
def test_the_only_electable_node_is_fenced(reason: str) -> None:
    """The leader is dead, one survivor is behind, and the other has everything but no state: it brings the one behind up to date, who
    leads, and rebuilds it (HAZARDS 45)."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.partition(["n1", "n2"], ["n3"])
    network.propose("n1", b"a", b"b")
    network.stabilize()
    network["n1"].crash()
    network.heal()
    n2, n3 = network["n2"], network["n3"]
    if reason == "lost":
        n2.crash()
        n2.state_lost = True
        n2.flushed = MachineState()
        n2.start()
    else:
        n2.does(lambda raft: raft.request_snapshot("state differs"))
    run(network, PATIENCE + 3 * ELECTION)
    assert n3.raft.role is Role.LEADER
    assert n2.raft.fenced is None
    assert n2.machine == n3.machine
    network.propose("n3", b"c")
    network.stabilize()
    assert n3.raft.committed == n3.raft.last_index


def test_without_any_state_the_cluster_waits_for_one() -> None:
    """Both survivors are fenced: one leads and serves nothing, and the old leader is made leader again when it returns."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.propose("n1", b"a", b"b")
    network.stabilize()
    network["n1"].flush()
    network["n1"].crash()
    for name in ("n2", "n3"):
        network[name].does(lambda raft: raft.request_snapshot("state differs"))
    run(network, PATIENCE + 5 * ELECTION)
    leader = network.leader()
    assert leader is not None
    assert leader.raft.fenced == "state differs"
    network["n1"].start()
    run(network, 3 * ELECTION)
    assert network["n1"].raft.role is Role.LEADER
    assert [network[name].raft.fenced for name in ("n2", "n3")] == [None, None]


def test_a_state_and_an_older_log_win_without_the_last_resort() -> None:
    """As long as somebody with a state can be elected, a fenced node does not lead, however the timeouts fall."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.propose("n1", b"a")
    network.stabilize()
    network["n1"].crash()
    network["n2"].does(lambda raft: raft.request_snapshot("state differs"))
    for _ in range(PATIENCE + 3 * ELECTION):
        run(network, 1)
        assert network["n2"].raft.role is Role.FOLLOWER
    assert network["n3"].raft.role is Role.LEADER
