"""How a leader brings its peers to its log, whatever is lost, late, compacted or no longer in memory, and commits on the way."""

from __future__ import annotations

import pytest

from raftkv.raft.config import Config
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
)
from raftkv.raft.node import Raft
from raftkv.raft.ready import Fetch, PeerState
from tests.raft.bare import ELECTION, HEARTBEAT, batch, hears, leading, noop, settle, take, ticks, wins
from tests.raft.network import Network, formed

SMALL = Config(election_ticks=10, heartbeat_ticks=3, lease_ticks=8, max_append_bytes=4, max_inflight_messages=3, max_inflight_bytes=1000)


def appends(messages: list[Message], to: str) -> list[Append]:
    """The appends among `messages` that go to one peer."""
    return [message for message in messages if isinstance(message, Append) and message.to == to]


def round_of(messages: list[Message]) -> int:
    """The number of the newest round among `messages`."""
    return max(message.round for message in messages if isinstance(message, Heartbeat))


def answered_heartbeat(raft: Raft, peer: str) -> list[Message]:
    """The leader sends a heartbeat, and `peer` answers it: what the leader sends then."""
    number = round_of(ticks(raft, HEARTBEAT))
    return hears(raft, HeartbeatResponse(peer, "n1", raft.term, {"n2": 102, "n3": 103}[peer], number))


# -- finding where the logs meet


def test_a_rejection_moves_the_probe_to_the_hint() -> None:
    """After a rejection the next probe goes to where the hint says the logs may meet, in one step over a whole term."""
    raft = leading(1, 1, 1, 1, 3, acknowledge=False)
    sent = hears(raft, AppendRejected("n2", "n1", 4, 102, 5, 4, 1, 9))
    assert appends(sent, "n2") == [Append("n1", "n2", 4, 101, 4, 1, (batch(5, 3), noop(6, 4)), 0)]


def test_the_hints_term_is_looked_up_in_the_own_log() -> None:
    """A hint of an older term than the own entry there skips the own entries of newer terms, which the peer cannot have."""
    raft = leading(1, 1, 2, 2, 2, acknowledge=False)
    sent = hears(raft, AppendRejected("n2", "n1", 3, 102, 5, 5, 1, 5))
    assert [append.prev_index for append in appends(sent, "n2")] == [2]


@pytest.mark.parametrize(
    "answer",
    [
        AppendRejected("n2", "n1", 2, 102, 7, 3, 1, 3),
        AppendRejected("n2", "n1", 2, 102, 2, 1, 1, 1),
        AppendRejected("n2", "n1", 2, 102, 3, 9, 1, 9),
        AppendRejected("n2", "n1", 2, 102, 3, -1, 0, 0),
        AppendRejected("n2", "n1", 2, 102, 3, 2, 1, -1),
    ],
)
def test_a_rejection_that_is_not_of_the_probe_under_way_is_ignored(answer: AppendRejected) -> None:
    """Late, early and impossible rejections send nothing and move nothing (HAZARDS 16)."""
    raft = leading(1, 1, 1, acknowledge=False)
    before = raft.progress()["n2"].next
    assert hears(raft, answer) == []
    assert raft.progress()["n2"].next == before


def test_a_hint_that_leads_nowhere_still_leads_back() -> None:
    """Each rejection of the probe under way moves it back, whatever the hint says, until the beginning of the log."""
    raft = leading(1, 1, 1, 1, acknowledge=False)
    for rejected in (4, 3, 2, 1):
        sent = hears(raft, AppendRejected("n2", "n1", 2, 102, rejected, rejected, 1, 9))
        assert [append.prev_index for append in appends(sent, "n2")] == [rejected - 1]


def test_an_acknowledged_probe_starts_the_pipeline() -> None:
    """The first acknowledgement ends probing, and from then on appends follow without answers (HAZARDS 48)."""
    raft = leading(1, acknowledge=False)
    assert raft.progress()["n2"].state is PeerState.PROBE
    hears(raft, AppendResponse("n2", "n1", 2, 102, 2))
    assert raft.progress()["n2"].state is PeerState.REPLICATE
    for index in (3, 4, 5):
        raft.propose(b"x")
        assert [append.prev_index for append in appends(settle(raft), "n2")] == [index - 1]


@pytest.mark.parametrize("match", [0, 1])
def test_an_old_acknowledgement_does_not_end_a_probe(match: int) -> None:
    """An acknowledgement of less than is known does not say where the logs meet now."""
    raft = leading(1)
    raft.peer_lost("n2")
    settle(raft)
    hears(raft, AppendResponse("n2", "n1", 2, 102, match))
    assert raft.progress()["n2"].state is PeerState.PROBE
    hears(raft, AppendResponse("n2", "n1", 2, 102, 2))
    assert raft.progress()["n2"].state is PeerState.REPLICATE


# -- what is lost is sent again


def test_a_lost_probe_is_sent_again_after_a_heartbeats_answer() -> None:
    """A probe of which nothing is heard goes again when the peer answers a heartbeat, and not before."""
    raft = leading(1, acknowledge=False)
    assert appends(ticks(raft, HEARTBEAT - 1), "n2") == []
    assert [append.prev_index for append in appends(answered_heartbeat(raft, "n2"), "n2")] == [1]


def test_a_lost_append_in_the_pipeline_is_found_by_a_heartbeats_answer() -> None:
    """An append lost in the pipeline shows when the peer answers a newer heartbeat without having acknowledged it: an empty append
    asks, the rejection says so, and everything is sent again."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"lost")
    settle(raft)
    (question,) = appends(answered_heartbeat(raft, "n2"), "n2")
    assert (question.prev_index, question.entries) == (3, ())
    sent = hears(raft, AppendRejected("n2", "n1", 2, 102, 3, 2, 2, 2))
    assert appends(sent, "n2") == [Append("n1", "n2", 2, 101, 2, 2, (batch(3, 2, b"lost"),), 2)]


def test_a_pipeline_full_of_lost_appends_recovers() -> None:
    """A full pipeline of which everything was lost is no dead end."""
    raft = leading(1, config=SMALL)
    settle(raft)
    for _ in range(5):
        raft.propose(b"four")
    settle(raft)
    assert raft.progress()["n2"].next == 6
    (question,) = appends(answered_heartbeat(raft, "n2"), "n2")
    sent = hears(raft, AppendRejected("n2", "n1", 2, 102, question.prev_index, 2, 2, 2))
    assert [append.prev_index for append in appends(sent, "n2")] == [2]


def test_a_full_pipeline_that_compaction_overtook_recovers() -> None:
    """When the log was cut behind what a full pipeline would send next, the peer is met anew and gets a snapshot."""
    raft = leading(1, config=SMALL)
    settle(raft)
    for _ in range(6):
        raft.propose(b"four")
    settle(raft)
    for match in range(3, 9):
        hears(raft, AppendResponse("n3", "n1", 2, 103, match))
    assert (raft.progress()["n2"].next, raft.applied_index) == (6, 8)
    raft.compacted(8)
    sent = answered_heartbeat(raft, "n2")
    assert [type(message) for message in sent if message.to == "n2"] == [InstallSnapshot]


def test_a_lost_connection_empties_the_pipeline() -> None:
    """What was on its way over a connection that broke is lost: the leader begins again at once after what was acknowledged."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    settle(raft)
    raft.peer_lost("n2")
    assert [append.prev_index for append in appends(settle(raft), "n2")] == [2]
    assert raft.progress()["n2"].state is PeerState.PROBE


def test_a_lost_piece_of_news_comes_with_the_next_heartbeat() -> None:
    """The commit index is told at once when a peer is known to hold the entries; heartbeats tell it again."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    settle(raft)
    sent = hears(raft, AppendResponse("n2", "n1", 2, 102, 3))
    assert sent == [Heartbeat("n1", "n2", 2, 101, 3, 0)]
    beats = [message for message in ticks(raft, HEARTBEAT) if isinstance(message, Heartbeat)]
    assert {(beat.to, beat.commit) for beat in beats} == {("n2", 3), ("n3", 2)}


# -- flow control


def test_appends_are_cut_to_size() -> None:
    """An append carries at most so many bytes of entries, and always one entry."""
    raft = leading(1, config=SMALL)
    settle(raft)
    for payload in (b"aa", b"bb", b"c", b"larger than the bound"):
        raft.propose(payload)
    sizes = [[len(entry.payload) for entry in append.entries] for append in appends(settle(raft), "n2")]
    assert sizes == [[2, 2], [1], [21]]


def test_the_pipeline_goes_on_when_acknowledged() -> None:
    """Each acknowledgement of the oldest append lets another one go."""
    raft = leading(1, config=SMALL)
    settle(raft)
    for _ in range(6):
        raft.propose(b"four")
    assert [append.prev_index for append in appends(settle(raft), "n2")] == [2, 3, 4]
    assert [append.prev_index for append in appends(hears(raft, AppendResponse("n2", "n1", 2, 102, 4)), "n2")] == [5, 6]


# -- entries that are no longer in memory


def few_in_memory() -> Raft:
    """A leader of term 2 with entries 1 to 9 that keeps only 2 of them in memory; n3 has everything, n2 is not known."""
    config = Config(election_ticks=10, heartbeat_ticks=3, lease_ticks=8, window_entries=2, max_append_bytes=3)
    raft = leading(1, 1, 1, 1, 1, 1, 1, 1, config=config, tail=2, committed=8, applied=8, acknowledge=False)
    hears(raft, AppendResponse("n3", "n1", 2, 103, 9))
    return raft


def test_a_lagging_peer_is_served_from_the_disk() -> None:
    """Entries that are no longer in memory are asked for, at most as many as an append takes, and sent when they come."""
    raft = few_in_memory()
    raft.step(AppendRejected("n2", "n1", 2, 102, 8, 1, 1, 1))
    ready = take(raft)
    assert ready.fetch == (Fetch("n2", 2, raft.log.window_first - 1, 3),)
    assert appends(list(ready.messages), "n2") == []
    raft.fetched("n2", [batch(2, 1), batch(3, 1), batch(4, 1)])
    assert appends(settle(raft), "n2") == [Append("n1", "n2", 2, 101, 1, 1, (batch(2, 1), batch(3, 1), batch(4, 1)), raft.committed)]


def test_one_fetch_a_peer() -> None:
    """While a fetch is under way nothing else is asked for the same peer, however often it is heard."""
    raft = few_in_memory()
    raft.step(AppendRejected("n2", "n1", 2, 102, 8, 1, 1, 1))
    assert take(raft).fetch
    for number in range(3):
        raft.step(HeartbeatResponse("n2", "n1", 2, 102, min(number, 1)))
        assert not raft.has_ready() or raft.ready().fetch == ()


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [batch(3, 1)],
        [batch(2, 1), batch(3, 9)],
        [batch(2, 0), batch(3, 0)],
        [batch(2, 1), batch(99, 1)],
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_again(answer: list[object]) -> None:
    """Entries that are not those of the log, or do not begin where the peer's log ends, are never sent (HAZARDS 17)."""
    raft = few_in_memory()
    raft.step(AppendRejected("n2", "n1", 2, 102, 8, 1, 1, 1))
    take(raft)
    raft.fetched("n2", answer)  # type: ignore[arg-type]
    ready = take(raft)
    assert appends(list(ready.messages), "n2") == []
    assert [(fetch.peer, fetch.first) for fetch in ready.fetch] == [("n2", 2)]


def test_a_log_cut_during_a_fetch_leads_to_a_snapshot() -> None:
    """When the log has been cut behind what was being fetched, the answer is thrown away and the peer gets a snapshot."""
    raft = few_in_memory()
    raft.step(AppendRejected("n2", "n1", 2, 102, 8, 1, 1, 1))
    settle(raft)
    raft.compacted(5)
    raft.fetched("n2", [batch(2, 1), batch(3, 1), batch(4, 1)])
    sent = settle(raft)
    assert [type(message) for message in sent if message.to == "n2"] == [InstallSnapshot]


def test_a_fetch_outlives_the_leadership_that_asked() -> None:
    """The answer to a fetch of an earlier leadership is of no use, and does not keep the next one from asking."""
    raft = few_in_memory()
    raft.step(AppendRejected("n2", "n1", 2, 102, 8, 1, 1, 1))
    take(raft)
    raft.step_down()
    settle(raft)
    wins(raft, acknowledge=False)
    raft.step(AppendRejected("n2", "n1", 3, 102, raft.last_index - 1, 1, 1, 1))
    settle(raft)
    raft.fetched("n2", [batch(4, 1)])
    (fetch,) = take(raft).fetch
    assert (fetch.peer, fetch.first) == ("n2", 2)


def test_a_peer_that_answers_nothing_is_not_read_for() -> None:
    """The answer to a fetch for a peer that has to be probed first is not sent on top of the probe under way."""
    raft = few_in_memory()
    raft.step(AppendRejected("n2", "n1", 2, 102, 8, 1, 1, 1))
    take(raft)
    raft.fetched("n2", [batch(2, 1)])
    assert len(appends(settle(raft), "n2")) == 1
    raft.fetched("n2", [batch(2, 1)])
    assert appends(settle(raft), "n2") == []


# -- the follower's side


def test_messages_in_any_order_lead_to_the_leaders_log() -> None:
    """A follower that gets the appends of a pipeline in reverse ends with the leader's log all the same."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    for number in range(6):
        network.propose("n1", b"%d" % number)
    while any(flight.message.to == "n2" for flight in network.flights):
        network.deliver([flight for flight in network.flights if flight.message.to == "n2"][-1])
    for _ in range(4 * HEARTBEAT):
        network.tick()
        network.stabilize()
    assert network["n2"].disk.entries == network["n1"].disk.entries
    assert network["n2"].machine == network["n1"].machine


def test_a_slow_disk_acknowledges_late_and_not_twice_as_much() -> None:
    """A follower acknowledges what each append verified, when it is durable, in order."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    n2 = network["n2"]
    n2.held.persist = True
    for number in range(3):
        network.propose("n1", b"%d" % number)
        network.stabilize(["n2"])
    assert [flight.message for flight in network.flights if flight.message.sender == "n2"] == []
    n2.persist()
    acknowledged = [flight.message for flight in network.flights if isinstance(flight.message, AppendResponse)]
    assert [message.match for message in acknowledged if message.sender == "n2"] == [2]


def test_a_lagging_pair_of_disks_commits_by_the_faster_majority() -> None:
    """The leader's own disk may be the slowest: an entry is committed when two others have it, and applied here when it is here."""
    raft = leading(1)
    settle(raft)
    raft.propose(b"a")
    number = take(raft).number
    raft.step(AppendResponse("n2", "n1", 2, 102, 3))
    raft.step(AppendResponse("n3", "n1", 2, 103, 3))
    assert raft.committed == 3
    assert take(raft).committed == ()
    raft.persisted(number)
    assert [entry.index for entry in take(raft).committed] == [3]


def test_the_election_timeout_is_not_the_price_of_a_slow_follower() -> None:
    """However long one follower's disk takes, the other and the leader go on."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network["n2"].held.persist = True
    for number in range(3 * ELECTION):
        network.propose("n1", b"%d" % number)
        network.tick()
        network.stabilize()
    assert network["n1"].leads(1)
    assert network["n1"].raft.committed == network["n1"].raft.last_index
