"""Handing over the leadership: never to somebody who cannot lead, never for ever, and never at the price of safety."""

from __future__ import annotations

import pytest

from raftkv.errors import Busy, InvalidRequest
from raftkv.raft.messages import (
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    TimeoutNow,
    Vote,
)
from raftkv.raft.ready import Role
from raftkv.raft.types import EntryId
from tests.raft.bare import ELECTION, HEARTBEAT, bare, hears, leading, role_of, settle, ticks, wins
from tests.raft.network import Network, formed


def orders(messages: list[Message]) -> list[Message]:
    """The orders to campaign among `messages`."""
    return [message for message in messages if isinstance(message, TimeoutNow)]


def test_an_up_to_date_target_is_told_at_once() -> None:
    """A target that holds the whole log is told to campaign with the next Ready."""
    raft = leading(1)
    settle(raft)
    raft.transfer_leadership("n2")
    assert settle(raft) == [TimeoutNow("n1", "n2", 2, 101)]


def test_a_target_behind_is_told_when_it_has_caught_up() -> None:
    """A target is told to campaign when it acknowledges the last entry, and not before."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    raft.propose(b"b")
    raft.transfer_leadership("n2")
    assert orders(settle(raft)) == []
    assert orders(hears(raft, AppendResponse("n3", "n1", 2, 103, 4), AppendResponse("n2", "n1", 2, 102, 3))) == []
    assert orders(hears(raft, AppendResponse("n2", "n1", 2, 102, 4))) == [TimeoutNow("n1", "n2", 2, 101)]


def test_a_target_that_has_to_be_met_anew_is_waited_for() -> None:
    """A rejection in the middle of a transfer delays it and nothing else."""
    raft = leading(1, acknowledge=False)
    settle(raft)
    raft.transfer_leadership("n2")
    assert orders(hears(raft, AppendRejected("n2", "n1", 2, 102, 1, 0, 0, 0))) == []
    assert orders(hears(raft, AppendResponse("n2", "n1", 2, 102, 2))) == [TimeoutNow("n1", "n2", 2, 101)]


def test_who_gives_way_asks_one_after_the_other() -> None:
    """A leader that wants to be rid of the leadership asks those who are able and have caught up, the next one when the last has not
    taken over within an election timeout."""
    raft = leading(1)
    settle(raft)
    hears(raft, AppendResponse("n2", "n1", 2, 102, 2), AppendResponse("n3", "n1", 2, 103, 2))
    asked = []
    for _ in range(3):
        raft.give_way({"n2", "n3"})
        asked += orders(settle(raft))
        hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1), HeartbeatResponse("n3", "n1", 2, 103, 1))
        ticks(raft, ELECTION)
    assert [message.to for message in asked] == ["n2", "n3", "n2"]


def test_nobody_is_given_way_to_who_is_behind_or_not_able() -> None:
    """Such a transfer could only fail, and proposals would be refused meanwhile."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    settle(raft)
    hears(raft, AppendResponse("n2", "n1", 2, 102, 3))
    raft.give_way({"n3", "n9"})
    raft.propose(b"b")
    assert orders(settle(raft)) == []


@pytest.mark.parametrize("answer", [HeartbeatResponse("n2", "n1", 2, 999, 1), HeartbeatResponse("n2", "n1", 2, 102, 1, False)])
def test_a_target_that_does_not_count_is_refused(answer: HeartbeatResponse) -> None:
    """A wiped or suspect node cannot win, so handing over to it is refused at once and proposals go on."""
    raft = leading(1)
    settle(raft)
    hears(raft, answer)
    with pytest.raises(InvalidRequest, match="does not count"):
        raft.transfer_leadership("n2")
    raft.propose(b"a")


def test_a_learner_is_refused() -> None:
    """A node that does not vote cannot lead."""
    raft = leading(1, configuration=formed("n1", "n2", "n3", learners=("n4",)))
    with pytest.raises(InvalidRequest, match="not a voter"):
        raft.transfer_leadership("n4")


def test_a_refused_proposal_leaves_nothing() -> None:
    """What is refused during a transfer is in nobody's log."""
    raft = leading(1)
    settle(raft)
    last = raft.last_index
    raft.transfer_leadership("n2")
    with pytest.raises(Busy, match="n2"):
        raft.propose(b"a")
    assert raft.last_index == last
    assert [type(message) for message in settle(raft)] == [TimeoutNow]


def test_a_target_that_is_lost_is_given_up() -> None:
    """When the target crashes in the middle, the leader serves again after an election timeout at most (HAZARDS 47)."""
    raft = leading(1)
    settle(raft)
    raft.transfer_leadership("n2")
    settle(raft)
    raft.peer_lost("n2")
    for _ in range(ELECTION):
        ticks(raft, 1)
        hears(raft, HeartbeatResponse("n3", "n1", 2, 103, 1))
    assert raft.propose(b"a") == EntryId(3, 2)
    raft.transfer_leadership("n3")
    settle(raft)
    assert [order.to for order in orders(hears(raft, AppendResponse("n3", "n1", 2, 103, 3)))] == ["n3"]


def test_a_late_win_of_a_given_up_transfer_is_an_ordinary_election() -> None:
    """A target that campaigns after it was given up may still win; the old leader follows, and its log is kept."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network["n1"].raft.transfer_leadership("n2")
    network["n1"].settle()
    (order,) = [flight for flight in network.flights if isinstance(flight.message, TimeoutNow)]
    for _ in range(ELECTION):
        network.tick()
        network.stabilize(["n1", "n3"])
    network.propose("n1", b"a")
    network.stabilize(["n1", "n3"])
    network.flights.remove(order)
    network.flights.insert(0, order)
    network.stabilize()
    for _ in range(2 * ELECTION):
        network.tick()
        network.stabilize()
    leader = network.leader()
    assert leader is not None
    assert b"a" in [entry.payload for entry in leader.disk.entries]


def test_a_crash_in_the_middle_leaves_no_transfer() -> None:
    """The leader crashes in the middle of a transfer and leads again later: it takes proposals (HAZARDS 47)."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network["n1"].raft.transfer_leadership("n2")
    network["n1"].crash()
    network.flights.clear()
    network["n1"].start()
    network.elect("n1")
    network.propose("n1", b"a")
    network.stabilize()
    assert network["n3"].machine == network["n1"].machine


def test_stepping_down_ends_a_transfer() -> None:
    """A later leadership of the same node is not in transfer."""
    raft = leading(1)
    raft.transfer_leadership("n2")
    raft.step_down()
    settle(raft)
    wins(raft)
    assert raft.propose(b"a") == EntryId(4, 3)
    assert orders(settle(raft)) == []


def test_an_order_from_anybody_but_the_leader_is_ignored() -> None:
    """Only the leader that a follower follows can tell it to campaign."""
    raft = bare(1)
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))
    assert hears(raft, TimeoutNow("n3", "n1", 1, 103), TimeoutNow("n2", "n1", 0, 102)) == []
    assert role_of(raft) is Role.FOLLOWER
    sent = hears(raft, TimeoutNow("n2", "n1", 1, 102))
    assert sent == [Vote("n1", peer, 2, 101, 1, 1, True) for peer in ("n2", "n3")]


@pytest.mark.parametrize("doubt", ["suspect", "fenced", "learner", "wiped"])
def test_a_node_that_cannot_lead_ignores_the_order(doubt: str) -> None:
    """Nodes in doubt about themselves, learners and wiped nodes do not campaign, whoever asks."""
    raft = {
        "suspect": lambda: bare(1, suspect=9),
        "fenced": lambda: bare(1, fenced="the state is wrong"),
        "learner": lambda: bare(1, configuration=formed("n2", "n3", learners=("n1",))),
        "wiped": lambda: bare(1, incarnation=999),
    }[doubt]()
    hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1), TimeoutNow("n2", "n1", 1, 102))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 1)


def test_heartbeats_go_on_during_a_transfer() -> None:
    """A transfer keeps nobody from hearing the leader, so it costs no election if it fails."""
    raft = leading(1)
    settle(raft)
    raft.transfer_leadership("n2")
    settle(raft)
    assert {message.to for message in ticks(raft, HEARTBEAT) if isinstance(message, Heartbeat)} == {"n2", "n3"}
