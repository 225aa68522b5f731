"""Snapshots: who needs one, what it replaces and what it must not, and that no peer stays waiting for one."""

from __future__ import annotations

import pytest

from raftkv.errors import InvariantBroken
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    SnapshotRequest,
)
from raftkv.raft.node import Raft
from raftkv.raft.ready import PeerState, Role
from raftkv.raft.types import SnapshotMeta
from tests.raft.bare import ELECTION, HEARTBEAT, THREE, bare, batch, hears, leading, role_of, settle, take, ticks
from tests.raft.network import Network, formed

FOUR = formed("n1", "n2", "n3", "n4")


def install(index: int, term: int, *, in_term: int = 2) -> InstallSnapshot:
    """n2 leads, and its snapshot has arrived."""
    return InstallSnapshot("n2", "n1", in_term, 102, SnapshotMeta(index, term, FOUR))


def cut_leader() -> Raft:
    """A leader of term 2 whose log begins after entry 4 and ends with 6; n3 has everything, n2 is being probed."""
    raft = leading(1, 1, 1, 1, 1, acknowledge=False)
    settle(raft)
    hears(raft, AppendResponse("n3", "n1", 2, 103, 6))
    raft.compacted(4)
    return raft


def to_n2(messages: list[Message]) -> list[Message]:
    """What goes to n2, heartbeats aside."""
    return [message for message in messages if message.to == "n2" and not isinstance(message, Heartbeat)]


# -- the leader's side


def test_a_peer_behind_the_log_gets_a_snapshot() -> None:
    """When the next entry that a peer needs is gone, it is told once that a snapshot is due, and nothing is appended meanwhile."""
    raft = cut_leader()
    sent = to_n2(hears(raft, AppendRejected("n2", "n1", 2, 102, 5, 2, 1, 2)))
    assert sent == [InstallSnapshot("n1", "n2", 2, 101, SnapshotMeta(4, 1, THREE))]
    assert raft.progress()["n2"].state is PeerState.SNAPSHOT
    raft.propose(b"a")
    assert to_n2(settle(raft)) == []
    assert to_n2(hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1))) == []


def test_a_peer_that_is_not_heard_gets_no_snapshot() -> None:
    """A snapshot is not begun for a peer that was silent for an election timeout; it is when the peer is heard again."""
    raft = cut_leader()
    hears(raft, AppendRejected("n2", "n1", 2, 102, 5, 5, 1, 5))
    raft.snapshot_finished("n2", ok=False)
    for _ in range(2 * ELECTION):
        ticks(raft, 1)
        hears(raft, HeartbeatResponse("n3", "n1", 2, 103, 1))
    raft.compacted(6)
    raft.peer_lost("n2")
    assert to_n2(settle(raft)) == []
    assert [type(message) for message in to_n2(hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1)))] == [InstallSnapshot]


def test_after_a_snapshot_appends_go_on_behind_it() -> None:
    """When the peer acknowledges the snapshot it is replicated to from there, whether the transfer was reported or not."""
    for report in (True, False):
        raft = cut_leader()
        hears(raft, AppendRejected("n2", "n1", 2, 102, 5, 2, 1, 2))
        if report:
            raft.snapshot_finished("n2", ok=True)
            assert to_n2(settle(raft)) == []
        sent = to_n2(hears(raft, AppendResponse("n2", "n1", 2, 102, 4)))
        assert [(append.prev_index, len(append.entries)) for append in sent if isinstance(append, Append)] == [(4, 2)]
        assert raft.progress()["n2"].state is PeerState.REPLICATE


def test_a_newer_snapshot_than_asked_for_is_as_good() -> None:
    """The shell may send a newer snapshot; the acknowledgement tells how far the peer is."""
    raft = cut_leader()
    hears(raft, AppendRejected("n2", "n1", 2, 102, 5, 2, 1, 2))
    hears(raft, AppendResponse("n2", "n1", 2, 102, 6))
    assert (raft.progress()["n2"].match, raft.progress()["n2"].state) == (6, PeerState.REPLICATE)


def test_a_failed_transfer_is_begun_again() -> None:
    """After a failed transfer the next sign of life begins another one."""
    raft = cut_leader()
    hears(raft, AppendRejected("n2", "n1", 2, 102, 5, 2, 1, 2))
    raft.snapshot_finished("n2", ok=False)
    assert to_n2(settle(raft)) == []
    assert [type(message) for message in to_n2(hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1)))] == [InstallSnapshot]


def test_an_installed_snapshot_whose_acknowledgement_is_lost_is_found_out() -> None:
    """A transfer that is said to have succeeded, and of which the peer says nothing, is checked by a probe, and repeated if the peer
    does not have it."""
    raft = cut_leader()
    hears(raft, AppendRejected("n2", "n1", 2, 102, 5, 2, 1, 2))
    raft.snapshot_finished("n2", ok=True)
    sent = to_n2(hears(raft, HeartbeatResponse("n2", "n1", 2, 102, 1)))
    assert [append.prev_index for append in sent if isinstance(append, Append)] == [4]
    sent = to_n2(hears(raft, AppendRejected("n2", "n1", 2, 102, 4, 2, 1, 2)))
    assert [type(message) for message in sent] == [InstallSnapshot]


def test_a_log_cut_again_meanwhile_begins_another_snapshot() -> None:
    """When the log is cut further while a snapshot is under way, the peer that installed it needs another one, and gets it."""
    raft = cut_leader()
    hears(raft, AppendRejected("n2", "n1", 2, 102, 5, 2, 1, 2))
    raft.compacted(6)
    raft.snapshot_finished("n2", ok=True)
    assert to_n2(hears(raft, AppendResponse("n2", "n1", 2, 102, 4))) == [
        InstallSnapshot("n1", "n2", 2, 101, SnapshotMeta(6, 2, THREE))
    ]


@pytest.mark.parametrize("peer", ["n3", "n9"])
def test_a_report_of_no_transfer_changes_nothing(peer: str) -> None:
    """A report for a peer to which no snapshot is under way is ignored, on a leader and on others."""
    raft = cut_leader()
    before = raft.progress()
    raft.snapshot_finished(peer, ok=True)
    assert raft.progress() == before
    raft.step_down()
    raft.snapshot_finished("n2", ok=True)


def test_a_request_is_served_without_forgetting_the_peer() -> None:
    """A fenced peer that asks gets a snapshot beside its appends: its log and its acknowledgements are good."""
    raft = leading(1)
    settle(raft)
    sent = hears(raft, SnapshotRequest("n2", "n1", 2, 102, "lost"))
    assert [type(message) for message in sent] == [InstallSnapshot]
    assert raft.progress()["n2"].state is PeerState.REPLICATE
    raft.propose(b"a")
    settle(raft)
    hears(raft, AppendResponse("n2", "n1", 2, 102, 3))
    assert raft.committed == 3


# -- the receiver's side


def test_a_snapshot_beyond_the_log_replaces_it() -> None:
    """A snapshot that the log does not reach takes its place; the acknowledgement leaves when it is durable."""
    raft = bare(1, 1)
    raft.step(install(9, 2))
    ready = take(raft)
    assert (ready.snapshot, ready.entries, ready.committed, ready.messages) == (SnapshotMeta(9, 2, FOUR), (), (), ())
    assert ready.messages_after_persist == (AppendResponse("n1", "n2", 2, 101, 9),)
    assert (raft.last_index, raft.committed, raft.applied_index, raft.configuration) == (9, 9, 9, FOUR)
    raft.persisted(ready.number)
    sent = hears(raft, Append("n2", "n1", 2, 102, 9, 2, (batch(10, 2),), 10))
    assert sent == [AppendResponse("n1", "n2", 2, 101, 10)]


def test_a_snapshot_that_the_log_holds_commits_and_nothing_else() -> None:
    """A snapshot at an entry that the log holds brings no data that is not there: it only says that the entry is committed."""
    raft = bare(1, 1, 1)
    raft.step(install(2, 1))
    ready = take(raft)
    assert (ready.snapshot, raft.committed, raft.last_index, raft.configuration) == (None, 2, 3, THREE)
    assert [entry.index for entry in ready.committed] == [1, 2]


def test_a_snapshot_at_a_conflicting_entry_removes_it() -> None:
    """A log that has another entry at the snapshot's index is replaced whole, what followed included (HAZARDS 29)."""
    raft = bare(1, 1, 1)
    raft.step(install(2, 2))
    assert take(raft).snapshot == SnapshotMeta(2, 2, FOUR)
    assert (raft.last_index, raft.log.term_at(2), raft.log.term_at(3)) == (2, 2, None)


def test_an_old_snapshot_is_answered_with_what_is_known() -> None:
    """A snapshot behind the commit index changes nothing; the answer tells how far the node is (HAZARDS 30)."""
    raft = bare(1, 1, 1, committed=3, applied=3)
    assert hears(raft, install(2, 1)) == [AppendResponse("n1", "n2", 2, 101, 3)]
    assert raft.last_index == 3


def test_what_is_on_its_way_to_the_disk_is_not_taken_for_the_snapshots() -> None:
    """Entries that a snapshot replaced and that become durable late count for nothing (HAZARDS 15)."""
    raft = bare(1)
    raft.step(Append("n2", "n1", 1, 102, 1, 1, tuple(batch(index, 1) for index in (2, 3, 4)), 0))
    late = take(raft)
    raft.step(install(3, 2))
    snapshot = take(raft)
    raft.persisted(late.number)
    assert raft.persisted_index == 3
    raft.persisted(snapshot.number)
    raft.check_invariants()
    assert (raft.persisted_index, raft.last_index) == (3, 3)


# -- a node without usable state


def test_a_fenced_node_takes_a_snapshot_that_its_log_holds() -> None:
    """A fenced node wants the state: the snapshot is installed, the log stays, and applying goes on behind it."""
    raft = bare(1, 1, 1, committed=3, applied=1)
    raft.request_snapshot("state differs")
    assert not raft.has_ready() or take(raft).committed == ()
    raft.step(install(2, 1))
    ready = take(raft)
    assert (ready.snapshot, raft.fenced, raft.last_index) == (SnapshotMeta(2, 1, FOUR), None, 3)
    assert [entry.index for entry in ready.committed] == [3]
    assert ready.messages_after_persist == (AppendResponse("n1", "n2", 2, 101, 3),)


def test_a_fenced_nodes_state_may_go_back() -> None:
    """The state is replaced whole, so a snapshot before what the wrong state had applied is welcome, as long as the log goes on."""
    raft = bare(1, 1, 1, committed=3, applied=3)
    raft.request_snapshot("state differs")
    raft.step(install(1, 1))
    ready = take(raft)
    assert (ready.snapshot, raft.applied_index) == (SnapshotMeta(1, 1, FOUR), 1)
    assert [entry.index for entry in ready.committed] == [2, 3]


def test_a_snapshot_before_the_log_is_no_help() -> None:
    """A snapshot from before the log's begin leaves a hole: it is not taken, and the node goes on asking (HAZARDS 31)."""
    raft = bare(1, begin=SnapshotMeta(5, 1, THREE), fenced="the state is wrong")
    assert hears(raft, install(4, 1)) == []
    assert raft.fenced is not None
    assert any(isinstance(message, SnapshotRequest) for message in hears(raft, Heartbeat("n2", "n1", 2, 102, 0, 3)))
    raft.step(install(5, 1))
    assert take(raft).snapshot == SnapshotMeta(5, 1, FOUR)


def test_a_snapshot_at_an_entry_that_no_ready_has_carried() -> None:
    """An append and the snapshot of one of its entries arrive before the next Ready: the disk, which has neither, begins after the
    snapshot, and the Ready carries exactly what follows it."""
    raft = bare(1, committed=1, applied=1)
    raft.request_snapshot("state differs")
    settle(raft)
    raft.step(Append("n2", "n1", 1, 102, 1, 1, tuple(batch(index, 1) for index in (2, 3, 4)), 1))
    raft.step(install(3, 1, in_term=1))
    ready = take(raft)
    assert (ready.snapshot, ready.entries) == (SnapshotMeta(3, 1, FOUR), (batch(4, 1),))
    assert (raft.log.begin.index, raft.last_index) == (3, 4)


def test_a_snapshot_that_contradicts_the_commit_stops_the_node() -> None:
    """A snapshot of another entry at a committed index is proof that safety is lost."""
    raft = bare(1, 1, committed=2, applied=2)
    raft.request_snapshot("state differs")
    with pytest.raises(InvariantBroken, match="contradicts"):
        raft.step(install(2, 2))


def test_a_node_does_not_campaign_with_a_snapshot_in_hand() -> None:
    """Between taking a snapshot and handing it out a node does not campaign, whatever its patience says."""
    raft = bare(1)
    raft.step(install(9, 2))
    for _ in range(4 * ELECTION):
        raft.tick()
    assert role_of(raft) is Role.FOLLOWER


def test_a_lost_state_is_rebuilt_while_the_cluster_works() -> None:
    """A node that lost its state logs and acknowledges while it waits, gets a snapshot, and ends with the same state."""
    network = Network(formed("n1", "n2", "n3"))
    network.elect("n1")
    network.propose("n1", b"a", b"b")
    network.stabilize()
    n3 = network["n3"]
    n3.crash()
    n3.flushed = type(n3.flushed)()
    n3.state_lost = True
    n3.start()
    network.partition(["n2"], ["n1", "n3"])
    network.propose("n1", b"c")
    for _ in range(2 * HEARTBEAT):
        network.tick()
        network.stabilize()
    assert network["n1"].raft.committed == network["n1"].raft.last_index
    assert n3.raft.fenced is None
    assert n3.machine == network["n1"].machine
