"""What each verb and each message does, in each role: the exact Ready, or exactly nothing.

A Ready is compared whole, so an effect too many fails like one too few.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from raftkv.errors import Busy, InvalidRequest, InvariantBroken, NotLeader
from raftkv.raft.config import Config
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteResponse,
    SnapshotRequest,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from raftkv.raft.node import Raft
from raftkv.raft.ready import Fetch, ReadPoint, Ready, Role, RoleChange
from raftkv.raft.types import Entry, EntryId, EntryKind, HardState, SnapshotMeta, Stored
from tests.raft.bare import (
    ELECTION,
    HEARTBEAT,
    THREE,
    bare,
    batch,
    campaigns,
    hears,
    leading,
    noop,
    role_of,
    settle,
    stored,
    take,
    ticks,
)
from tests.raft.network import TEST_CONFIG

SNAPSHOT = SnapshotMeta(9, 1, THREE)


def follower() -> Raft:
    """n1 follows n2 in term 1 with entries 1 and 2, of which the first is committed."""
    raft = bare(1, 1)
    hears(raft, Append("n2", "n1", 1, 102, 2, 1, (), 1))
    return raft


def pre_candidate() -> Raft:
    """n1 asks whether it could win term 2."""
    return campaigns(bare(1, 1))


def candidate() -> Raft:
    """n1 stands for election in term 2, its own vote counted."""
    raft = pre_candidate()
    hears(raft, PreVoteResponse("n2", "n1", 1, 102, 2, True, 1))
    return raft


def leader() -> Raft:
    """n1 leads term 2; entries 1 to 3 are everywhere and committed, and everybody knows."""
    return leading(1, 1)


# -- starting


def test_a_start_with_nothing_to_say_says_nothing() -> None:
    """A node that starts is a follower of its durable term, tells that to the shell, and has no other effect."""
    raft = bare(1, 2, term=5, vote="n3", committed=2, applied=2)
    assert take(raft) == Ready(number=1, commit=2, role=RoleChange(Role.FOLLOWER, 5, None))
    assert not raft.has_ready()
    assert (raft.role, raft.term, raft.vote, raft.leader) == (Role.FOLLOWER, 5, "n3", None)
    assert (raft.last_index, raft.committed, raft.applied_index, raft.persisted_index) == (2, 2, 2, 2)


def test_a_start_applies_what_was_known_to_be_committed() -> None:
    """Entries that the disk says are committed, and the state lacks, are the first effect."""
    raft = bare(1, 1, 1, committed=2, applied=1)
    assert take(raft) == Ready(number=1, commit=2, committed=(batch(2, 1),), role=RoleChange(Role.FOLLOWER, 1, None))
    assert not raft.has_ready()


def test_the_first_ready_names_the_term() -> None:
    """The shell is told of the term that the disk holds with the first Ready, not by one of its own."""
    raft = bare(1)
    raft.step(Heartbeat("n2", "n1", 1, 102, 0, 1))
    assert take(raft).role == RoleChange(Role.FOLLOWER, 1, "n2")


def test_a_log_newer_than_the_hard_state_brings_its_term() -> None:
    """A node whose log is of a newer term than its hard state takes that term over, without a vote, and makes it durable first."""
    facts = Stored("n1", 101, HardState(1, "n2"), SnapshotMeta(4, 3, THREE), last=EntryId(4, 3), committed=4, applied=4)
    raft = Raft(TEST_CONFIG, facts, _rng())
    ready = take(raft)
    assert (ready.hard_state, raft.vote) == (HardState(3, None), None)


@pytest.mark.parametrize(
    "facts",
    [
        Stored("n1", 101, snapshot=SnapshotMeta(5, 1, THREE), last=EntryId(4, 1), committed=5, applied=5),
        Stored("n1", 101, snapshot=SnapshotMeta(5, 1, THREE), last=EntryId(5, 1), committed=6, applied=5),
        Stored("n1", 101, snapshot=SnapshotMeta(5, 1, THREE), last=EntryId(5, 1), committed=5, applied=4),
        Stored("n1", 101, snapshot=SnapshotMeta(5, 1, THREE), last=EntryId(5, 1), committed=4, applied=5),
    ],
)
def test_a_disk_that_contradicts_itself_does_not_start(facts: Stored) -> None:
    """Marks out of order are a reason not to start, never to guess."""
    with pytest.raises(InvariantBroken):
        Raft(TEST_CONFIG, facts, _rng())


# -- verbs


@pytest.mark.parametrize("make", [follower, pre_candidate, candidate])
def test_only_a_leader_takes_requests(make: Callable[[], Raft]) -> None:
    """Proposals, reads and transfers are refused by every other role, and leave no trace."""
    raft = make()
    with pytest.raises(NotLeader):
        raft.propose(b"x")
    with pytest.raises(NotLeader):
        raft.read_index(1)
    with pytest.raises(NotLeader):
        raft.transfer_leadership("n2")
    assert raft.progress() == {}
    assert not raft.has_ready()


def test_proposals_share_a_ready() -> None:
    """What was proposed since the last Ready goes out in one: to the disk, in one append to each peer, and to itself afterwards."""
    raft = leader()
    settle(raft)
    assert [raft.propose(b"a"), raft.propose(b"b")] == [EntryId(4, 2), EntryId(5, 2)]
    entries = (batch(4, 2, b"a"), batch(5, 2, b"b"))
    number = take(raft).number
    raft = leader()
    settle(raft)
    raft.propose(b"a")
    raft.propose(b"b")
    assert take(raft) == Ready(
        number=number,
        entries=entries,
        commit=3,
        messages=tuple(Append("n1", peer, 2, 101, 3, 2, entries, 3) for peer in ("n2", "n3")),
        messages_after_persist=(AppendResponse("n1", "n1", 2, 101, 5),),
    )
    assert not raft.has_ready()


def test_committing_tells_followers_and_the_machine() -> None:
    """One acknowledgement beside the leader's own commits: the next Ready applies, and tells who is known to have the entry; the
    others are told when they acknowledge it. Round 0 wants no answer."""
    raft = leader()
    settle(raft)
    raft.propose(b"a")
    settle(raft)
    raft.step(AppendResponse("n2", "n1", 2, 102, 4))
    ready = take(raft)
    assert ready == Ready(
        number=ready.number,
        commit=4,
        messages=(Heartbeat("n1", "n2", 2, 101, 4, 0),),
        committed=(batch(4, 2, b"a"),),
    )
    assert not raft.has_ready()
    raft.step(AppendResponse("n3", "n1", 2, 103, 4))
    assert take(raft).messages == (Heartbeat("n1", "n3", 2, 101, 4, 0),)


def test_a_page_at_a_time() -> None:
    """The next page of committed entries is handed out when the last one is applied, and each is bounded."""
    raft = Raft(_config(max_page_bytes=2), stored(1, 1, 1, committed=3), _rng())
    assert take(raft).committed == (batch(1, 1), batch(2, 1))
    assert not raft.has_ready()
    raft.applied(1)
    assert not raft.has_ready()
    raft.applied(2)
    assert take(raft).committed == (batch(3, 1),)


@pytest.mark.parametrize("index", [0, 3])
def test_the_shell_cannot_apply_what_it_was_not_given(index: int) -> None:
    """Applying beyond what was handed out, or going back, is a bug that stops the node."""
    raft = bare(1, 1, 1, committed=2, applied=1)
    take(raft)
    with pytest.raises(InvariantBroken):
        raft.applied(index)


def test_the_disk_cannot_be_ahead_of_the_core() -> None:
    """A Ready that was never made cannot be durable."""
    with pytest.raises(InvariantBroken, match="said to be durable"):
        bare(1).persisted(1)


def test_only_durable_entries_are_applied() -> None:
    """A follower applies a committed entry only when its own disk has it."""
    raft = bare(1)
    raft.step(Append("n2", "n1", 1, 102, 1, 1, (batch(2, 1),), 2))
    first = take(raft)
    assert [entry.index for entry in first.committed] == [1]
    raft.applied(1)
    assert not raft.has_ready()
    raft.persisted(first.number)
    assert take(raft).committed == (batch(2, 1),)


def test_entries_to_apply_are_fetched_when_memory_has_let_them_go() -> None:
    """What has to be applied and is no longer in memory is asked for once, applied when it comes, and then the rest from memory."""
    raft = bare(1, 1, 1, 1, committed=4, tail=1)
    ready = take(raft)
    assert (ready.fetch, ready.committed) == ((Fetch("n1", 1, 3, TEST_CONFIG.max_page_bytes),), ())
    assert not raft.has_ready()
    raft.fetched("n1", [batch(1, 1), batch(2, 1), batch(3, 1)])
    ready = take(raft)
    assert (ready.fetch, ready.committed) == ((), (batch(1, 1), batch(2, 1), batch(3, 1)))
    raft.applied(3)
    assert take(raft).committed == (batch(4, 1),)


def test_a_fetch_that_brings_other_entries_is_made_again() -> None:
    """An answer that does not begin where applying stands is not applied (HAZARDS 31)."""
    raft = bare(1, 1, 1, committed=3, tail=1)
    take(raft)
    raft.fetched("n1", [batch(2, 1)])
    ready = take(raft)
    assert (ready.committed, ready.fetch) == ((), (Fetch("n1", 1, 2, TEST_CONFIG.max_page_bytes),))


def test_stepping_down() -> None:
    """A leader that is told to step down follows nobody in the same term, and keeps its vote; others do nothing."""
    raft = leader()
    settle(raft)
    raft.step_down()
    ready = take(raft)
    assert ready == Ready(number=ready.number, commit=3, role=RoleChange(Role.FOLLOWER, 2, None))
    assert raft.vote == "n1"
    raft.step_down()
    assert not raft.has_ready()


def test_a_fenced_leader_asks_who_leads_next() -> None:
    """A leader whose state is wrong steps down; as a follower it asks the next leader for a snapshot at each heartbeat."""
    raft = leader()
    raft.request_snapshot("state differs")
    assert (raft.role, raft.fenced) == (Role.FOLLOWER, "state differs")
    settle(raft)
    request = SnapshotRequest("n1", "n2", 3, 101, "state differs")
    assert hears(raft, Heartbeat("n2", "n1", 3, 102, 0, 1)) == [HeartbeatResponse("n1", "n2", 3, 101, 1), request]
    assert hears(raft, Heartbeat("n2", "n1", 3, 102, 0, 2)) == [HeartbeatResponse("n1", "n2", 3, 101, 2), request]


def test_a_fenced_follower_asks_at_once_and_logs_on() -> None:
    """A fenced follower asks its leader at once; it goes on to log and acknowledge, and applies nothing."""
    raft = follower()
    raft.request_snapshot("lost")
    ready = take(raft)
    assert ready == Ready(number=ready.number, commit=1, messages=(SnapshotRequest("n1", "n2", 1, 101, "lost"),))
    raft.step(Append("n2", "n1", 1, 102, 2, 1, (batch(3, 1),), 3))
    ready = take(raft)
    assert ready == Ready(
        number=ready.number,
        entries=(batch(3, 1),),
        commit=3,
        messages_after_persist=(AppendResponse("n1", "n2", 1, 101, 3),),
    )
    raft.persisted(ready.number)
    assert not raft.has_ready()


def test_compaction_names_the_new_begin() -> None:
    """Cutting the log returns where it begins now: index, term and the configuration in force there."""
    raft = leader()
    assert raft.compacted(2) == SnapshotMeta(2, 1, THREE)
    assert raft.snapshot_meta(3) == SnapshotMeta(3, 2, THREE)
    with pytest.raises(InvariantBroken, match="has no entry"):
        raft.snapshot_meta(1)
    with pytest.raises(InvariantBroken, match="has no entry"):
        raft.compacted(4)


# -- time


def test_a_followers_patience_ends_in_a_question() -> None:
    """At the end of its patience a follower asks every voter, itself included, and neither its term nor its disk changes."""
    raft = bare(1, 1)
    ticks(raft, ELECTION + ELECTION // 2 - 1)
    raft.tick()
    ready = take(raft)
    assert ready == Ready(
        number=ready.number,
        messages=tuple(PreVote("n1", peer, 1, 101, 2, 2, 1, 1) for peer in ("n1", "n2", "n3")),
        role=RoleChange(Role.PRE_CANDIDATE, 1, None),
    )


def test_an_election_begins_on_the_disk() -> None:
    """A candidate's term and vote are durable before anybody is asked, and its own vote comes back to it then."""
    raft = pre_candidate()
    raft.step(PreVoteResponse("n2", "n1", 1, 102, 2, True, 1))
    ready = take(raft)
    assert ready == Ready(
        number=ready.number,
        hard_state=HardState(2, "n1"),
        messages_after_persist=(
            VoteResponse("n1", "n1", 2, 101, True),
            Vote("n1", "n2", 2, 101, 2, 1),
            Vote("n1", "n3", 2, 101, 2, 1),
        ),
        role=RoleChange(Role.CANDIDATE, 2, None),
    )


def test_a_new_leader_writes_and_asks_at_once() -> None:
    """A new leader appends its first entry, sends it with the first heartbeats, and acknowledges it to itself when it is durable."""
    raft = candidate()
    raft.step(VoteResponse("n2", "n1", 2, 102, True))
    ready = take(raft)
    assert ready == Ready(
        number=ready.number,
        entries=(noop(3, 2),),
        messages=(
            *(Heartbeat("n1", peer, 2, 101, 0, 1) for peer in ("n2", "n3")),
            *(Append("n1", peer, 2, 101, 2, 1, (noop(3, 2),), 0) for peer in ("n2", "n3")),
        ),
        messages_after_persist=(AppendResponse("n1", "n1", 2, 101, 3),),
        role=RoleChange(Role.LEADER, 2, "n1"),
    )


def test_a_leaders_ticks() -> None:
    """A leader sends a heartbeat each heartbeat_ticks with what the peer is known to hold, and nothing in between."""
    raft = leader()
    settle(raft)
    for _ in range(HEARTBEAT - 1):
        raft.tick()
        assert not raft.has_ready()
    raft.tick()
    ready = take(raft)
    assert ready == Ready(
        number=ready.number, commit=3, messages=tuple(Heartbeat("n1", peer, 2, 101, 3, 2) for peer in ("n2", "n3"))
    )


def test_a_followers_ticks_are_silent() -> None:
    """Ticks of a follower that hears its leader have no effects."""
    raft = follower()
    for _ in range(5):
        for _ in range(ELECTION):
            raft.tick()
            assert not raft.has_ready()
        hears(raft, Heartbeat("n2", "n1", 1, 102, 0, 1))


# -- messages, by role

Made = Callable[[], Raft]
NOTHING: list[Message] = []


@pytest.mark.parametrize(
    ("message", "answers"),
    [
        (Append("n2", "n1", 1, 102, 2, 1, (batch(3, 1),), 3), [AppendResponse("n1", "n2", 1, 101, 3)]),
        (Append("n2", "n1", 1, 102, 1, 1, (), 1), [AppendResponse("n1", "n2", 1, 101, 1)]),
        (Append("n2", "n1", 1, 102, 5, 1, (), 1), [AppendRejected("n1", "n2", 1, 101, 5, 2, 1, 2)]),
        (Append("n2", "n1", 1, 102, 2, 0, (), 1), [AppendRejected("n1", "n2", 1, 101, 2, 0, 0, 2)]),
        (Heartbeat("n2", "n1", 1, 102, 1, 7), [HeartbeatResponse("n1", "n2", 1, 101, 7)]),
        (Heartbeat("n2", "n1", 1, 102, 1, 0), NOTHING),
        (Heartbeat("n3", "n1", 0, 103, 1, 7), [HeartbeatResponse("n1", "n3", 1, 101, 0)]),
        (Append("n3", "n1", 0, 103, 0, 0, (), 0), [HeartbeatResponse("n1", "n3", 1, 101, 0)]),
        (PreVote("n3", "n1", 1, 103, 2, 9, 9), NOTHING),
        (PreVote("n3", "n1", 0, 103, 1, 9, 9), [PreVoteResponse("n1", "n3", 1, 101, 1, False)]),
        (Vote("n3", "n1", 2, 103, 9, 9), NOTHING),
        (Vote("n3", "n1", 1, 103, 9, 9), [VoteResponse("n1", "n3", 1, 101, False)]),
        (Vote("n3", "n1", 0, 103, 9, 9), [VoteResponse("n1", "n3", 1, 101, False)]),
        (Vote("n3", "n1", 2, 103, 9, 9, True), [VoteResponse("n1", "n3", 2, 101, True)]),
        (InstallSnapshot("n2", "n1", 1, 102, SnapshotMeta(0, 0, THREE)), [AppendResponse("n1", "n2", 1, 101, 1)]),
        (InstallSnapshot("n2", "n1", 1, 102, SnapshotMeta(2, 1, THREE)), [AppendResponse("n1", "n2", 1, 101, 2)]),
        (AppendResponse("n2", "n1", 1, 102, 2), NOTHING),
        (HeartbeatResponse("n2", "n1", 1, 102, 2), NOTHING),
        (VoteResponse("n2", "n1", 1, 102, True), NOTHING),
        (PreVoteResponse("n2", "n1", 1, 102, 2, True), NOTHING),
        (SnapshotRequest("n2", "n1", 1, 102, "lost"), NOTHING),
        (TimeoutNow("n3", "n1", 1, 103), NOTHING),
    ],
)
def test_a_follower_answers(message: Message, answers: list[Message]) -> None:
    """To each message a follower sends exactly this answer."""
    assert hears(follower(), message) == answers


@pytest.mark.parametrize(
    ("make", "message", "answers", "role", "term"),
    [
        (pre_candidate, Vote("n2", "n1", 1, 102, 2, 1), [VoteResponse("n1", "n2", 1, 101, True)], Role.FOLLOWER, 1),
        (pre_candidate, Vote("n2", "n1", 1, 102, 1, 1), [VoteResponse("n1", "n2", 1, 101, False)], Role.PRE_CANDIDATE, 1),
        (pre_candidate, Vote("n2", "n1", 2, 102, 2, 1), [VoteResponse("n1", "n2", 2, 101, True)], Role.FOLLOWER, 2),
        (pre_candidate, Vote("n2", "n1", 2, 102, 1, 1), [VoteResponse("n1", "n2", 2, 101, False)], Role.FOLLOWER, 2),
        (pre_candidate, PreVote("n2", "n1", 1, 102, 2, 2, 1), [PreVoteResponse("n1", "n2", 1, 101, 2, True)], Role.PRE_CANDIDATE, 1),
        (pre_candidate, Heartbeat("n2", "n1", 1, 102, 0, 1), [HeartbeatResponse("n1", "n2", 1, 101, 1)], Role.FOLLOWER, 1),
        (pre_candidate, PreVoteResponse("n2", "n1", 4, 102, 2, False), NOTHING, Role.FOLLOWER, 4),
        (pre_candidate, PreVoteResponse("n2", "n1", 1, 102, 9, True, 1), NOTHING, Role.PRE_CANDIDATE, 1),
        (pre_candidate, PreVoteResponse("n2", "n1", 1, 102, 2, True), NOTHING, Role.PRE_CANDIDATE, 1),
        (pre_candidate, PreVoteResponse("n2", "n1", 1, 102, 2, True, 2), NOTHING, Role.PRE_CANDIDATE, 1),
        (pre_candidate, VoteResponse("n2", "n1", 1, 102, True), NOTHING, Role.PRE_CANDIDATE, 1),
        (candidate, Vote("n2", "n1", 2, 102, 9, 9), [VoteResponse("n1", "n2", 2, 101, False)], Role.CANDIDATE, 2),
        (candidate, Vote("n2", "n1", 3, 102, 9, 9), [VoteResponse("n1", "n2", 3, 101, True)], Role.FOLLOWER, 3),
        (candidate, PreVote("n2", "n1", 2, 102, 3, 2, 1), [PreVoteResponse("n1", "n2", 2, 101, 3, True)], Role.CANDIDATE, 2),
        (candidate, Append("n2", "n1", 2, 102, 2, 1, (), 0), [AppendResponse("n1", "n2", 2, 101, 2)], Role.FOLLOWER, 2),
        (candidate, Append("n2", "n1", 1, 102, 2, 1, (), 0), [HeartbeatResponse("n1", "n2", 2, 101, 0)], Role.CANDIDATE, 2),
        (candidate, VoteResponse("n2", "n1", 1, 102, True), NOTHING, Role.CANDIDATE, 2),
        (candidate, VoteResponse("n2", "n1", 2, 102, False), NOTHING, Role.CANDIDATE, 2),
        (candidate, VoteResponse("n9", "n1", 2, 109, True), NOTHING, Role.CANDIDATE, 2),
        (candidate, TimeoutNow("n2", "n1", 2, 102), NOTHING, Role.CANDIDATE, 2),
        (candidate, PreVoteResponse("n2", "n1", 2, 102, 3, True), NOTHING, Role.CANDIDATE, 2),
        (leader, Vote("n2", "n1", 3, 102, 9, 9), NOTHING, Role.LEADER, 2),
        (leader, Vote("n2", "n1", 2, 102, 9, 9), [VoteResponse("n1", "n2", 2, 101, False)], Role.LEADER, 2),
        (leader, Vote("n2", "n1", 3, 102, 9, 9, True), [VoteResponse("n1", "n2", 3, 101, True)], Role.FOLLOWER, 3),
        (leader, PreVote("n2", "n1", 2, 102, 3, 9, 9), NOTHING, Role.LEADER, 2),
        (leader, HeartbeatResponse("n2", "n1", 3, 102, 0), NOTHING, Role.FOLLOWER, 3),
        (leader, AppendResponse("n2", "n1", 1, 102, 2), NOTHING, Role.LEADER, 2),
        (leader, AppendResponse("n9", "n1", 2, 109, 3), NOTHING, Role.LEADER, 2),
        (leader, AppendResponse("n2", "n1", 2, 102, 99), NOTHING, Role.LEADER, 2),
        (leader, HeartbeatResponse("n2", "n1", 2, 102, 99), NOTHING, Role.LEADER, 2),
        (leader, TimeoutNow("n2", "n1", 2, 102), NOTHING, Role.LEADER, 2),
        (
            leader,
            SnapshotRequest("n2", "n1", 2, 102, "lost"),
            [InstallSnapshot("n1", "n2", 2, 101, SnapshotMeta(0, 0, THREE))],
            Role.LEADER,
            2,
        ),
    ],
)
def test_the_other_roles_answer(make: Made, message: Message, answers: list[Message], role: Role, term: int) -> None:
    """To each message each other role sends exactly this answer, and is this afterwards."""
    raft = make()
    settle(raft)
    assert (hears(raft, message), role_of(raft), raft.term) == (answers, role, term)


@pytest.mark.parametrize("make", [follower, pre_candidate, candidate, leader])
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Heartbeat("n2", "n3", 9, 102, 0, 1), "for another node"),
        (Vote("n2", "n3", 9, 102, 9, 9), "for another node"),
        (Vote("n2", "n1", -1, 102, 9, 9), "malformed"),
        (VoteResponse("n1", "n1", 9, 999, True), "malformed"),
    ],
)
def test_a_message_that_cannot_be_is_dropped_and_counted(make: Made, message: Message, reason: str) -> None:
    """A message for another node, of an impossible term, or in this node's own name from another incarnation changes nothing."""
    raft = make()
    settle(raft)
    before = (raft.role, raft.term)
    assert hears(raft, message) == []
    assert (raft.role, raft.term, raft.dropped[reason]) == (*before, 1)


@pytest.mark.parametrize(
    "message",
    [
        Append("n2", "n1", 1, 102, -1, 0, (), 0),
        Append("n2", "n1", 1, 102, 2, 1, (), -1),
        Append("n2", "n1", 1, 102, 2, 1, (batch(4, 1),), 0),
        Append("n2", "n1", 1, 102, 2, 1, (batch(3, 1), batch(3, 1)), 0),
        Append("n2", "n1", 1, 102, 2, 1, (batch(3, 0),), 0),
        Append("n2", "n1", 1, 102, 2, 1, (batch(3, 2),), 0),
        InstallSnapshot("n2", "n1", 1, 102, SnapshotMeta(-1, 1, THREE)),
        InstallSnapshot("n2", "n1", 1, 102, SnapshotMeta(9, 2, THREE)),
        InstallSnapshot("n2", "n1", 1, 102, SnapshotMeta(9, -1, THREE)),
    ],
)
def test_a_leaders_nonsense_is_dropped_and_counted(message: Message) -> None:
    """Entries out of order, of impossible terms or indices, and impossible snapshots change nothing and are not answered."""
    raft = follower()
    assert hears(raft, message) == []
    assert (raft.last_index, raft.committed, raft.dropped["malformed"]) == (2, 1, 1)


@pytest.mark.parametrize("message", [Heartbeat("n2", "n1", 2, 102, 0, 1), Append("n2", "n1", 2, 102, 0, 0, (), 0)])
def test_two_leaders_of_a_term_stop_the_node(message: Message) -> None:
    """A message of another leader of the own term is proof that safety is lost: the node stops."""
    with pytest.raises(InvariantBroken, match="both lead"):
        leader().step(message)


def test_two_leaders_stop_their_follower() -> None:
    """A follower that hears two leaders of one term stops."""
    with pytest.raises(InvariantBroken, match="both lead"):
        follower().step(Heartbeat("n3", "n1", 1, 103, 0, 1))


def test_a_leader_that_contradicts_the_commit_stops_the_node() -> None:
    """An append that would overwrite a committed entry stops the node; its log stays."""
    raft = bare(1, 1, committed=2, applied=2)
    with pytest.raises(InvariantBroken, match="committed"):
        raft.step(Append("n2", "n1", 2, 102, 1, 1, (batch(2, 2),), 2))
    assert raft.log.term_at(2) == 1


# -- what may leave when


def test_nothing_reveals_a_term_that_is_not_durable() -> None:
    """Until a new term is on disk everything that speaks of it waits, and leaves with the Ready that makes it durable."""
    raft = bare(1)
    raft.step(Heartbeat("n2", "n1", 3, 102, 0, 1))
    ready = take(raft)
    assert ready == Ready(
        number=1,
        hard_state=HardState(3, None),
        messages_after_persist=(HeartbeatResponse("n1", "n2", 3, 101, 1),),
        role=RoleChange(Role.FOLLOWER, 3, "n2"),
    )
    raft.step(Heartbeat("n2", "n1", 3, 102, 0, 2))
    waiting = take(raft)
    assert (waiting.messages, waiting.messages_after_persist) == ((), (HeartbeatResponse("n1", "n2", 3, 101, 2),))
    raft.persisted(ready.number)
    raft.step(Heartbeat("n2", "n1", 3, 102, 0, 3))
    assert take(raft).messages == (HeartbeatResponse("n1", "n2", 3, 101, 3),)


def test_a_vote_and_an_acknowledgement_always_wait() -> None:
    """A granted vote and an acknowledgement wait for the disk even in a durable term (HAZARDS 1, 2, 3)."""
    raft = bare(1, term=4)
    raft.step(Vote("n2", "n1", 4, 102, 9, 9))
    assert take(raft) == Ready(
        number=1,
        hard_state=HardState(4, "n2"),
        messages_after_persist=(VoteResponse("n1", "n2", 4, 101, True),),
        role=RoleChange(Role.FOLLOWER, 4, None),
    )
    raft = follower()
    raft.step(Append("n2", "n1", 1, 102, 2, 1, (), 0))
    assert take(raft).messages == ()


def test_readies_become_durable_in_order() -> None:
    """One report covers all earlier Readies; an earlier report that comes later changes nothing."""
    raft = follower()
    numbers = []
    for index in (3, 4, 5):
        raft.step(Append("n2", "n1", 1, 102, index - 1, 1, (batch(index, 1),), 0))
        numbers.append(take(raft).number)
    raft.persisted(numbers[1])
    assert raft.persisted_index == 4
    raft.persisted(numbers[0])
    assert raft.persisted_index == 4
    raft.persisted(numbers[2])
    assert raft.persisted_index == 5


def test_a_repeated_ready_is_empty_of_what_was_said() -> None:
    """What one Ready carried is in no later one."""
    raft = leader()
    settle(raft)
    raft.propose(b"a")
    raft.read_index(1)
    first = take(raft)
    assert first.entries
    assert first.messages
    again = raft.ready()
    assert again == Ready(number=first.number + 1, commit=3)


def test_a_read_answered_and_a_role_lost_in_one_ready() -> None:
    """A read that was confirmed before the leadership was lost is still answered."""
    raft = leader()
    settle(raft)
    raft.read_index(7)
    (round_number,) = {message.round for message in settle(raft) if isinstance(message, Heartbeat)}
    raft.step(HeartbeatResponse("n2", "n1", 2, 102, round_number))
    raft.step(HeartbeatResponse("n3", "n1", 5, 103, 0))
    ready = take(raft)
    assert ready.reads == (ReadPoint(7, 3),)
    assert ready.role == RoleChange(Role.FOLLOWER, 5, None)


# -- bounds and settings


def test_proposals_are_bounded() -> None:
    """Proposals beyond the bound of uncommitted bytes are refused, definitely; one larger than the bound is taken when nothing waits."""
    raft = leading(config=_config(max_uncommitted_bytes=10))
    raft.propose(b"x" * 50)
    with pytest.raises(Busy, match="50 bytes wait"):
        raft.propose(b"y")
    last = raft.last_index
    settle(raft)
    hears(raft, AppendResponse("n2", "n1", 1, 102, last))
    assert raft.propose(b"y") == EntryId(last + 1, 1)


def test_transfers_that_cannot_succeed_are_refused() -> None:
    """The leader itself, a stranger, and a second target at the same time are refused."""
    raft = leader()
    for target in ("n1", "n9"):
        with pytest.raises(InvalidRequest):
            raft.transfer_leadership(target)
    raft.transfer_leadership("n2")
    with pytest.raises(InvalidRequest, match="already"):
        raft.transfer_leadership("n3")


def test_the_same_inputs_give_the_same_outputs() -> None:
    """Two cores with equal disks, seeds and inputs say the same, to the byte."""

    def story(seed: int) -> list[Ready]:
        raft, said = Raft(TEST_CONFIG, stored(1, 1, committed=1), random.Random(seed)), []
        for step in range(400):
            raft.tick()
            if raft.role is Role.PRE_CANDIDATE:
                raft.step(PreVoteResponse("n3", "n1", raft.term, 103, raft.term + 1, True, raft.pre_vote_round))
            if raft.role is Role.CANDIDATE and step % 7 == 0:
                raft.step(VoteResponse("n2", "n1", raft.term, 102, True))
            if raft.role is Role.LEADER:
                raft.propose(b"%d" % step)
            while raft.has_ready():
                ready = raft.ready()
                said.append(ready)
                raft.persisted(ready.number)
                for message in (*ready.messages, *ready.messages_after_persist):
                    if message.to == "n1":
                        raft.step(message)
                if ready.committed:
                    raft.applied(ready.committed[-1].index)
        return said

    assert story(1) == story(1)
    assert story(1) != story(2)


def _rng() -> random.Random:
    return random.Random(0)


def _config(**changes: int) -> Config:
    settings = {"election_ticks": 10, "heartbeat_ticks": 3, "lease_ticks": 8, **changes}
    return Config(**settings)


def test_entry_kinds_are_told_apart() -> None:
    """A proposal is a BATCH entry with exactly the bytes that were given."""
    raft = leader()
    settle(raft)
    raft.propose(b"\x00payload")
    assert take(raft).entries == (Entry(4, 2, EntryKind.BATCH, b"\x00payload"),)
