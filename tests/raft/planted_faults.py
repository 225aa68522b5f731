"""Planted faults: for each safety rule of HAZARDS that lives in the core, a change that breaks exactly that rule.

A fault is a function that patches the core for the length of one test; nothing of it is in the product. Its number is the row of
HAZARDS whose wrong outcome it brings back. What catches it is named in `test_planted_faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from raftkv.raft.candidate import Candidate, PreCandidate
from raftkv.raft.follower import Follower
from raftkv.raft.leader import Leader
from raftkv.raft.log import Log
from raftkv.raft.membership import Membership, View
from raftkv.raft.messages import Append, AppendResponse, InstallSnapshot, Message, PreVoteResponse, SnapshotRequest, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.progress import Progress
from raftkv.raft.reads import Reads
from raftkv.raft.ready import PeerState, Ready
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState, Incarnation, Index, NodeId, SnapshotMeta, Term

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """One planted fault: which hazard, what is done wrong, and how."""

    hazard: int
    name: str
    plant: Plant

    def __str__(self) -> str:
        return f"{self.hazard}-{self.name}"


FAULTS: list[Fault] = []


def fault(hazard: int) -> Callable[[Plant], Plant]:
    """Register a fault for a row of HAZARDS."""

    def register(plant: Plant) -> Plant:
        FAULTS.append(Fault(hazard, plant.__name__, plant))
        return plant

    return register


def named(name: str) -> Fault:
    """The fault of that name."""
    return next(known for known in FAULTS if known.name == name)


# -- votes and terms


@fault(1)
def vote_written_after_its_term(patch: pytest.MonkeyPatch) -> None:
    """Term and vote reach the disk in two steps, and the answer leaves after the first."""

    original, original_has = Raft.ready, Raft.has_ready
    owed: dict[Raft, HardState] = {}

    def ready(raft: Raft) -> Ready:
        made = original(raft)
        if raft in owed:
            return replace(made, hard_state=made.hard_state or owed.pop(raft))
        if made.hard_state is not None and made.hard_state.vote is not None:
            owed[raft] = made.hard_state
            return replace(made, hard_state=HardState(made.hard_state.term, None))
        return made

    patch.setattr(Raft, "ready", ready)
    patch.setattr(Raft, "has_ready", lambda raft: raft in owed or original_has(raft))


@fault(2)
def vote_never_written(patch: pytest.MonkeyPatch) -> None:
    """Only the term is durable."""
    original = Raft.ready

    def ready(raft: Raft) -> Ready:
        made = original(raft)
        state = made.hard_state
        return replace(made, hard_state=HardState(state.term, None)) if state is not None else made

    patch.setattr(Raft, "ready", ready)


@fault(3)
def answers_leave_before_they_are_durable(patch: pytest.MonkeyPatch) -> None:
    """Votes and acknowledgements do not wait for the disk."""
    patch.setattr(Raft, "send_after_persist", lambda raft, message: raft._messages.append(message))


@fault(4)
def stepping_down_forgets_the_vote(patch: pytest.MonkeyPatch) -> None:
    """Becoming a follower clears the vote, in the same term too."""
    original = Raft.become_follower

    def become(raft: Any, term: Term, leader: NodeId | None) -> None:
        original(raft, term, leader)
        raft._vote = None

    patch.setattr(Raft, "become_follower", become)


@fault(5)
def votes_of_older_terms_count(patch: pytest.MonkeyPatch) -> None:
    """A vote response passes the term gate whatever its term."""
    _open_gate(patch, lambda raft, message: isinstance(message, VoteResponse))


@fault(6)
def any_answer_is_a_vote(patch: pytest.MonkeyPatch) -> None:
    """An answer to a vote request counts as granted."""
    original = Candidate.step

    def step(candidate: Candidate, message: Message) -> None:
        if isinstance(message, VoteResponse):
            message = VoteResponse(message.sender, message.to, message.term, message.incarnation, True)
        original(candidate, message)

    patch.setattr(Candidate, "step", step)


@fault(7)
def own_late_answers_count(patch: pytest.MonkeyPatch) -> None:
    """A node's own vote or acknowledgement of an older term is still its own."""
    _open_gate(patch, lambda raft, message: message.sender == raft.node)


@fault(8)
def entries_of_a_leader_carry_an_older_term(patch: pytest.MonkeyPatch) -> None:
    """A proposal is written down with the term that the log ends with, as if the term had not changed since."""

    def append(raft: Raft, kind: EntryKind, payload: bytes) -> Entry:
        entry = Entry(raft.log.last + 1, raft.log.last_term or raft.term, kind, payload)
        raft.accept(entry)
        return entry

    patch.setattr(Raft, "append", append)


# -- log


@fault(9)
def entries_of_earlier_terms_are_counted(patch: pytest.MonkeyPatch) -> None:
    """Copies are counted whatever the term of the entry."""
    original = Leader._commit

    def commit(leader: Any) -> None:
        first, leader._first = leader._first, 0
        original(leader)
        leader._first = first

    patch.setattr(Leader, "_commit", commit)


@fault(10)
def an_append_cuts_what_follows_it(patch: pytest.MonkeyPatch) -> None:
    """The log ends where the append ends, although everything matches."""
    original = Follower._take

    def take(follower: Any, entries: tuple[Entry, ...]) -> None:
        original(follower, entries)
        log = follower._raft.log
        if entries and entries[-1].index >= log.committed:
            follower._raft.truncate(entries[-1].index)

    patch.setattr(Follower, "_take", take)


@fault(11)
def acknowledges_its_whole_log(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement names the end of the log, verified or not."""
    _change_sent(
        patch,
        lambda raft, message: AppendResponse(raft.node, message.to, message.term, message.incarnation, raft.log.last, message.counts)
        if isinstance(message, AppendResponse)
        else message,
    )


@fault(12)
def a_rejection_moves_the_commit_index(patch: pytest.MonkeyPatch) -> None:
    """The leader's commit index is believed before the log was compared."""
    original = Follower._reject

    def reject(follower: Any, message: Append) -> None:
        follower._raft.commit_to(message.commit)
        original(follower, message)

    patch.setattr(Follower, "_reject", reject)


@fault(13)
def the_commit_index_goes_back(patch: pytest.MonkeyPatch) -> None:
    """The newest message about the commit index wins."""

    def commit_to(raft: Raft, index: Index) -> None:
        raft.log.committed = min(index, raft.log.last)

    patch.setattr(Raft, "commit_to", commit_to)


@fault(14)
def match_goes_back(patch: pytest.MonkeyPatch) -> None:
    """A late acknowledgement takes back what a newer one said."""
    original = Progress.acknowledged

    def acknowledged(progress: Progress, index: Index) -> bool:
        news = original(progress, index)
        progress.match = index
        progress.next = index + 1
        return news

    patch.setattr(Progress, "acknowledged", acknowledged)


@fault(15)
def an_old_write_completes_a_new_entry(patch: pytest.MonkeyPatch) -> None:
    """Cutting the log does not touch what is remembered of the writes under way."""
    original = Log.truncate

    def truncate(log: Any, last: Index) -> None:
        before = [(write, write.last) for write in log._writes]
        original(log, last)
        for write, end in before:
            write.last = end

    patch.setattr(Log, "truncate", truncate)


@fault(16)
def an_old_rejection_counts(patch: pytest.MonkeyPatch) -> None:
    """A rejection moves `next` although what it rejects has been acknowledged since."""

    def rejected(progress: Progress, rejected_index: Index, meeting_point: Index) -> bool:
        progress.state = PeerState.PROBE
        progress.next = max(1, min(rejected_index, meeting_point + 1))
        progress.probe_sent = False
        return True

    patch.setattr(Progress, "rejected", rejected)


@fault(17)
def the_previous_entry_is_made_up(patch: pytest.MonkeyPatch) -> None:
    """Whatever entry an append follows, it is said to be the one that the follower has there."""
    original = Follower._append

    def append(follower: Any, message: Append) -> None:
        log = follower._raft.log
        known = log.term_at(message.prev_index)
        if known is not None:
            message = Append(
                message.sender, message.to, message.term, message.incarnation, message.prev_index, known, message.entries, message.commit
            )
        original(follower, message)

    patch.setattr(Follower, "_append", append)


@fault(18)
def a_leader_counts_itself_before_its_disk(patch: pytest.MonkeyPatch) -> None:
    """The leader's own copy counts when it is handed out to be written."""

    def handed_out(leader: Any, last: Index) -> None:
        leader._match[leader._raft.node] = last
        leader._commit()

    patch.setattr(Leader, "handed_out", handed_out)


@fault(19)
def acknowledgements_of_older_terms_count(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement passes the term gate whatever its term."""
    _open_gate(patch, lambda raft, message: isinstance(message, AppendResponse) and message.sender != raft.node)


@fault(20)
def commits_an_unverified_tail(patch: pytest.MonkeyPatch) -> None:
    """A follower commits up to the leader's commit index as far as its log goes."""
    original = Follower._append

    def append(follower: Any, message: Append) -> None:
        original(follower, message)
        log = follower._raft.log
        if log.term_at(message.prev_index) == message.prev_term:
            follower._raft.commit_to(message.commit)

    patch.setattr(Follower, "_append", append)


# -- reads


@fault(24)
def a_lease_has_no_end(patch: pytest.MonkeyPatch) -> None:
    """Once confirmed, the lease holds for as long as the node believes that it leads."""
    patch.setattr(Reads, "has_lease", lambda reads, tick: reads._lease_until >= 0)


@fault(25)
def rounds_have_no_number(patch: pytest.MonkeyPatch) -> None:
    """Every round is round 1, so any old answer confirms it."""
    original = Reads.begin

    def begin(reads: Reads, tick: int, committed: Index, may_serve: bool) -> int:
        reads.newest = 0
        return original(reads, tick, committed, may_serve)

    patch.setattr(Reads, "begin", begin)


@fault(26)
def reads_before_the_first_own_entry(patch: pytest.MonkeyPatch) -> None:
    """A new leader reads at the commit index that it happens to know."""
    patch.setattr(Leader, "_committed_own_term", property(lambda leader: True))


# -- snapshots


@fault(29)
def a_conflict_at_the_snapshot_is_kept(patch: pytest.MonkeyPatch) -> None:
    """Whether the log holds the snapshot's entry is judged by its index alone."""
    patch.setattr(Log, "holds", lambda log, index, term: log.term_at(index) is not None)


@fault(30)
def a_snapshot_always_replaces_the_log(patch: pytest.MonkeyPatch) -> None:
    """What follows the snapshot in the log is thrown away although it matches."""

    def install(follower: Any, message: InstallSnapshot) -> None:
        raft = follower._raft
        if message.snapshot.index > raft.log.begin.index:
            raft.log.reset(message.snapshot)
            raft._paged = message.snapshot.index
            raft._snapshot = message.snapshot
        raft.send_after_persist(
            AppendResponse(raft.node, message.sender, raft.term, raft.incarnation, max(message.snapshot.index, raft.log.committed))
        )

    patch.setattr(Follower, "_install", install)


@fault(31)
def the_position_moves_without_the_state(patch: pytest.MonkeyPatch) -> None:
    """The core counts a snapshot as applied and does not tell the shell."""
    original = Raft.take_snapshot

    def take(raft: Any, meta: SnapshotMeta) -> None:
        original(raft, meta)
        raft._snapshot = None

    patch.setattr(Raft, "take_snapshot", take)


@fault(33)
def the_old_membership_survives_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    """The configuration that came with a snapshot is ignored."""

    def reset(membership: Any, begin: SnapshotMeta) -> None:
        membership._history = [(begin.index, membership._history[-1][1])]

    patch.setattr(Membership, "reset", reset)


# -- membership


@fault(38)
def a_joint_quorum_is_counted_on_the_union(patch: pytest.MonkeyPatch) -> None:
    """While the configuration is joint, a majority of everybody decides."""
    original = View.agreed

    def agreed(view: View, reached: dict[NodeId, int]) -> int:
        configuration = view.configuration
        union = tuple(sorted({*configuration.voters, *configuration.outgoing}))
        return original(View(Configuration(configuration.members, union)), reached)

    patch.setattr(View, "agreed", agreed)


@fault(42)
def a_wiped_node_is_taken_for_the_old_one(patch: pytest.MonkeyPatch) -> None:
    """Names count, incarnations do not."""
    patch.setattr(View, "knows", lambda view, node, incarnation: True)


@fault(42)
def a_new_cluster_elects_by_majority(patch: pytest.MonkeyPatch) -> None:
    """Before the incarnations are known, a majority decides as it does later."""
    original = View.__init__

    def init(view: View, configuration: Configuration) -> None:
        original(view, configuration)
        view.formed = True

    patch.setattr(View, "__init__", init)


# -- liveness


@fault(44)
def elections_without_pre_vote(patch: pytest.MonkeyPatch) -> None:
    """A node that hears nothing raises its term at once."""
    patch.setattr(Raft, "become_pre_candidate", lambda raft, insistent=False: raft.become_candidate())


@fault(44)
def leaders_without_check_quorum(patch: pytest.MonkeyPatch) -> None:
    """A leader that nobody answers goes on."""
    patch.setattr(Leader, "_hears_quorum", lambda leader: True)


@fault(45)
def pre_votes_of_older_terms_are_dropped(patch: pytest.MonkeyPatch) -> None:
    """The only node that could be elected does not hear that it would be."""
    original = Raft._pass_term_gate

    def gate(raft: Raft, message: Message) -> bool:
        return not (isinstance(message, PreVoteResponse) and message.term < raft.term) and original(raft, message)

    patch.setattr(Raft, "_pass_term_gate", gate)


@fault(45)
def fenced_nodes_never_campaign(patch: pytest.MonkeyPatch) -> None:
    """The only node with everything that is committed waits for ever, because it has no state."""
    patch.setattr(Raft, "_is_last_resort", property(lambda raft: False))


@fault(45)
def fenced_leaders_stay(patch: pytest.MonkeyPatch) -> None:
    """A leader that cannot serve does not hand over to one that could."""
    patch.setattr(Leader, "give_way", lambda leader, able: None)


@fault(46)
def the_age_of_a_write_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A hung disk is waited for."""
    patch.setattr(Raft, "disk_hangs", property(lambda raft: False))


@fault(47)
def a_transfer_never_ends(patch: pytest.MonkeyPatch) -> None:
    """The clock of a transfer stands still."""
    original = Leader.tick

    def tick(leader: Any) -> None:
        leader._transfer_ticks = 0
        original(leader)

    patch.setattr(Leader, "tick", tick)


@fault(48)
def a_peer_stays_in_probe(patch: pytest.MonkeyPatch) -> None:
    """That the logs meet is not acted upon."""
    patch.setattr(Progress, "replicate", lambda progress: None)


@fault(49)
def nobody_holds_to_a_leader(patch: pytest.MonkeyPatch) -> None:
    """A request for votes in a high term deposes a healthy leader."""
    patch.setattr(Raft, "_holds_to_leader", lambda raft, transfer: False)


@fault(49)
def late_answers_count_in_the_next_round(patch: pytest.MonkeyPatch) -> None:
    """An answer to an earlier question is taken for one to the newest."""
    original = PreCandidate.step

    def step(candidate: Any, message: Message) -> None:
        if isinstance(message, PreVoteResponse):
            message = replace(message, round=candidate._raft.pre_vote_round)
        original(candidate, message)

    patch.setattr(PreCandidate, "step", step)


@fault(49)
def grants_of_different_rounds_add_up(patch: pytest.MonkeyPatch) -> None:
    """Nodes that were without the leader one after the other count as a majority that is without it."""
    original = PreCandidate.start

    def start(candidate: Any) -> None:
        votes = dict(candidate._votes)
        original(candidate)
        candidate._votes.update(votes)

    patch.setattr(PreCandidate, "start", start)


# -- of this design's own making


@fault(50)
def a_fenced_leader_sends_snapshots(patch: pytest.MonkeyPatch) -> None:
    """Whoever asks gets the state of a leader that has none, or a wrong one."""
    original = Leader.step

    def step(leader: Any, message: Message) -> None:
        raft = leader._raft
        if isinstance(message, SnapshotRequest):
            raft.send(InstallSnapshot(raft.node, message.sender, raft.term, raft.incarnation, raft.log.begin))
        else:
            original(leader, message)

    patch.setattr(Leader, "step", step)


@fault(52)
def a_lost_connection_shortens_the_promise(patch: pytest.MonkeyPatch) -> None:
    """With lease reads on, a broken connection still lets a follower drop its leader."""

    def lost(follower: Any, peer: NodeId) -> None:
        if peer == follower.leader:
            follower.leader = None
            follower.keep_hurrying()
            follower._raft._promised_until = 0

    patch.setattr(Follower, "peer_lost", lost)


@fault(53)
def survivors_hint_at_once(patch: pytest.MonkeyPatch) -> None:
    """Every survivor of a broken connection campaigns after the same delay."""
    original = Follower.keep_hurrying

    def hurry(follower: Any) -> None:
        original(follower)
        follower._hurry = follower._raft.config.lost_leader_ticks

    patch.setattr(Follower, "keep_hurrying", hurry)


@fault(54)
def a_suspect_node_votes(patch: pytest.MonkeyPatch) -> None:
    """A node that may have forgotten an acknowledgement votes by the log that it has left."""
    original = Raft._would_vote_for

    def would(raft: Any, sender: NodeId, incarnation: Incarnation, last_index: Index, last_term: Term) -> bool:
        suspect, raft._suspect = raft._suspect, None
        answer: bool = original(raft, sender, incarnation, last_index, last_term)
        raft._suspect = suspect
        return answer

    patch.setattr(Raft, "_would_vote_for", would)


@fault(54)
def a_suspect_node_campaigns(patch: pytest.MonkeyPatch) -> None:
    """So does one that stands for election."""

    def may(raft: Any) -> bool:
        return raft.node in raft.view.voting and raft._fenced is None and raft._snapshot is None

    patch.setattr(Raft, "may_campaign", property(may))


@fault(54)
def a_last_resort_sets_every_doubt_aside(patch: pytest.MonkeyPatch) -> None:
    """A node that has lost its state campaigns at last, although it may have lost a part of its log, too."""
    original = vars(Raft)["may_campaign"].fget

    def may(raft: Any) -> bool:
        return original(raft) or (raft._fenced is not None and raft._is_last_resort)

    patch.setattr(Raft, "may_campaign", property(may))


# -- what several share


def _open_gate(patch: pytest.MonkeyPatch, lets: Callable[[Raft, Message], bool]) -> None:
    """Let some messages of an older term through the term gate."""
    original = Raft._pass_term_gate

    def gate(raft: Raft, message: Message) -> bool:
        return (message.term < raft.term and lets(raft, message)) or original(raft, message)

    patch.setattr(Raft, "_pass_term_gate", gate)


def _change_sent(patch: pytest.MonkeyPatch, change: Callable[[Raft, Message], Message]) -> None:
    """Change what waits for the disk before it leaves."""
    original = Raft.send_after_persist
    patch.setattr(Raft, "send_after_persist", lambda raft, message: original(raft, change(raft, message)))
