"""What a leader does: it replicates, commits, proves that it still leads, and hands over.

It commits only entries of its own term by counting (paper, section 5.4.2); what lies before comes with them. It counts itself like
anybody else, by an acknowledgement that leaves after its own disk has the entry, so its followers may be faster than it. It steps down
when it does not hear from a quorum for an election timeout (CheckQuorum, thesis section 6.2) or when its disk hangs.

A fenced leader was elected because nobody else could be. It has the log and no state: it takes no proposals, sends no snapshots, and
hands over to the first voter that has caught up.

Appends are made when a Ready is taken (`flush`), so that all that was proposed since the last one shares a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from typing import TYPE_CHECKING

from raftkv.errors import Busy, InvalidRequest, InvariantBroken
from raftkv.raft.membership import encode_configuration
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    SnapshotRequest,
    TimeoutNow,
)
from raftkv.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from raftkv.raft.reads import Reads
from raftkv.raft.ready import Role
from raftkv.raft.types import Entry, EntryId, EntryKind, Incarnation, Index, NodeId

if TYPE_CHECKING:
    from raftkv.raft.node import Raft


class Leader:
    """The state of a leader in one term."""

    role = Role.LEADER
    hears_leader = True

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._view = raft.view
        self.leader: NodeId | None = raft.node
        self.peers: dict[NodeId, Progress] = {}
        self._match: dict[NodeId, Index] = {}
        self._rounds: dict[NodeId, int] = {}
        self._reads = Reads(raft.config.lease_ticks)
        self._first: Index = 0
        self._uncommitted: deque[tuple[Index, int]] = deque()
        self._uncommitted_bytes = 0
        self._ticks = 0
        self._transfer: NodeId | None = None
        self._transfer_ticks = 0
        self._successor: NodeId = ""  # to whom this leader gave way last
        self._stateless: set[NodeId] = set()  # who has asked a fenced leader for a snapshot
        self._dirty = True

    @property
    def has_output(self) -> bool:
        """Whether `flush` might send something."""
        return self._dirty

    # The beginning.

    def start(self, incarnations: dict[NodeId, Incarnation]) -> None:
        """Append the first entry of the term: a no-op (paper, section 8), or the configuration that forms the cluster."""
        raft = self._raft
        self._first = raft.log.last + 1
        if raft.view.formed:
            raft.append(EntryKind.NOOP, b"")
        else:
            formed = raft.view.formed_with(incarnations)
            raft.append(EntryKind.CONFIGURATION, encode_configuration(formed))
        self._match_members()
        self._begin_round()

    def _match_members(self) -> None:
        """Have a Progress for every other member, and for nobody else."""
        raft = self._raft
        self._view = raft.view
        members = [node for node in raft.view.nodes if node != raft.node]
        self.peers = {node: self.peers.get(node) or Progress(self._first) for node in members}

    # Time.

    def tick(self) -> None:
        """Heartbeats, the check for a quorum, the end of a transfer that takes too long, the wish to hand over when fenced, and the watch
        on the own disk."""
        raft = self._raft
        self._ticks += 1
        if raft.disk_hangs:
            raft.become_follower(raft.term, None)
            return
        if self._ticks % raft.config.election_ticks == 0 and not self._hears_quorum():
            raft.become_follower(raft.term, None)
            return
        if self._transfer is not None:
            self._transfer_ticks += 1
            if self._transfer_ticks >= raft.config.election_ticks:
                self._transfer = None
        if raft.fenced is not None:
            self.give_way(raft.view.voting - self._stateless)
        if self._ticks % raft.config.heartbeat_ticks == 0:
            self._begin_round()

    def _hears_quorum(self) -> bool:
        raft = self._raft
        # A suspect peer counts here: without it nobody else can be elected, and only a leader can relieve it.
        view = raft.view
        active = {peer: 1 for peer, known in self.peers.items() if known.recently_active and view.knows(peer, known.incarnation)}
        active[raft.node] = 1
        for progress in self.peers.values():
            progress.recently_active = False
        return view.agreed(active) >= 1

    # Proposals.

    def propose(self, payload: bytes) -> EntryId:
        """Append a BATCH entry."""
        raft = self._raft
        if self._transfer is not None:
            raise Busy(f"leadership is being handed to {self._transfer}")
        if raft.fenced is not None:
            raise Busy(f"the leader has no state and hands over as soon as it can: {raft.fenced}")
        if self._uncommitted_bytes and self._uncommitted_bytes + len(payload) > raft.config.max_uncommitted_bytes:
            raise Busy(f"{self._uncommitted_bytes} bytes wait to be committed; the bound is {raft.config.max_uncommitted_bytes}")
        entry = raft.append(EntryKind.BATCH, payload)
        self._uncommitted.append((entry.index, len(payload)))
        self._uncommitted_bytes += len(payload)
        self._dirty = True
        return entry.id

    def handed_out(self, last: Index) -> None:
        """Entries up to `last` go to the own disk with this Ready: acknowledge them like everybody, when they are durable."""
        raft = self._raft
        raft.send_after_persist(AppendResponse(raft.node, raft.node, raft.term, raft.incarnation, last))

    # Messages.

    def step(self, message: Message) -> None:
        """Handle a message of this term."""
        raft = self._raft
        if message.sender == raft.node and type(message) is AppendResponse:
            self._match[raft.node] = max(self._match.get(raft.node, 0), message.match)
            self._commit()
            return
        progress = self.peers.get(message.sender)
        if progress is None:
            raft.dropped["not a member"] += 1
            return
        self._know(progress, message)
        if type(message) is AppendResponse:
            self._acknowledged(message, progress)
        elif type(message) is HeartbeatResponse:
            self._heartbeat_answered(message, progress)
        elif type(message) is AppendRejected:
            self._rejected(message, progress)
        elif type(message) is SnapshotRequest and raft.fenced is not None:
            self._stateless.add(message.sender)
        elif type(message) is SnapshotRequest:
            raft.send(InstallSnapshot(raft.node, message.sender, raft.term, raft.incarnation, raft.log.begin))
        else:
            raft.dropped["not for a leader"] += 1

    def _know(self, progress: Progress, message: Message) -> None:
        """Keep in mind who answers: a node without memory of its promises counts for nothing, and has to be met anew."""
        raft = self._raft
        counts = raft.view.knows(message.sender, message.incarnation) and getattr(message, "counts", progress.counts)
        if progress.incarnation not in (0, message.incarnation) or (progress.counts and not counts):
            progress.forgot(raft.log.last)
            self._match.pop(message.sender, None)
            self._rounds.pop(message.sender, None)
            self._dirty = True
        relieved = counts and not progress.counts
        progress.incarnation = message.incarnation
        progress.counts = counts
        progress.recently_active = True
        if relieved and progress.match:
            # What it acknowledged while it was suspect is as durable as the rest; nothing else would bring it up again.
            self._match[message.sender] = progress.match
            self._commit()

    def _acknowledged(self, message: AppendResponse, progress: Progress) -> None:
        raft = self._raft
        if message.match > raft.log.last:
            raft.dropped["acknowledgement beyond the log"] += 1
            return
        news = progress.acknowledged(message.match)
        caught_up = progress.state is SNAPSHOT and message.match >= raft.log.begin.index
        if (caught_up or progress.state is PROBE) and progress.match == message.match:
            progress.replicate()
        if progress.counts and (news or self._match.get(message.sender, 0) < progress.match):
            self._match[message.sender] = progress.match
            if progress.match > raft.log.committed:
                self._commit()
        if not self._dirty:
            self._dirty = self._wants_more(progress)
        if self._transfer == message.sender:
            self._hand_over()

    def _rejected(self, message: AppendRejected, progress: Progress) -> None:
        log = self._raft.log
        if not 0 <= message.hint_index <= message.rejected_index or message.last_index < 0:
            self._raft.dropped["malformed"] += 1
            return
        if not message.counts and message.last_index < progress.match:
            progress.forgot(message.last_index)  # a suspect peer has lost still more
            self._dirty = True
            return
        meeting_point = log.newest_not_above(min(message.hint_index, message.last_index), message.hint_term)
        if message.hint_index < log.begin.index:
            meeting_point = message.hint_index
        if progress.rejected(message.rejected_index, meeting_point):
            self._dirty = True

    def _heartbeat_answered(self, message: HeartbeatResponse, progress: Progress) -> None:
        raft = self._raft
        if message.round > self._reads.newest:
            raft.dropped["answer to no round"] += 1
            return
        progress.alive()
        if progress.state is REPLICATE and progress.match < progress.next - 1 and message.round > progress.round:
            self._append_nothing(message.sender, progress)
        if not self._dirty:
            self._dirty = self._wants_more(progress)
        progress.round = max(progress.round, message.round)
        if progress.counts:
            self._rounds[message.sender] = progress.round
            self._confirm_rounds()

    # Commit.

    def _commit(self) -> None:
        """Count copies of entries of the own term (paper, sections 5.3 and 5.4.2)."""
        raft = self._raft
        index = raft.view.agreed(self._match)
        if index <= raft.log.committed or index < self._first:
            return
        raft.commit_to(index)
        while self._uncommitted and self._uncommitted[0][0] <= index:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        self._dirty = True
        if self._reads.waiting and not self._reads.serving:
            self._begin_round()

    @property
    def _committed_own_term(self) -> bool:
        return self._raft.log.committed >= self._first

    # Reads.

    def read_index(self, context: int) -> None:
        """Serve a read by the lease if that is allowed and held, else by a round that begins now or when the present one ends."""
        raft = self._raft
        if raft.configuration.lease_reads and self._committed_own_term and self._reads.has_lease(raft.ticks):
            raft.answer_read(context, raft.log.committed)
            return
        self._reads.ask(context)
        if self._committed_own_term and not self._reads.serving:
            self._begin_round()

    def _begin_round(self) -> None:
        """Broadcast heartbeats: they keep followers quiet and prove leadership."""
        raft = self._raft
        number = self._reads.begin(raft.ticks, raft.log.committed, self._committed_own_term)
        for peer, progress in self.peers.items():
            commit = min(raft.log.committed, progress.match)
            raft.send(Heartbeat(raft.node, peer, raft.term, raft.incarnation, commit, number))
        self._rounds[raft.node] = number
        self._confirm_rounds()

    def _confirm_rounds(self) -> None:
        raft = self._raft
        for round_ in self._reads.confirmed(raft.view.agreed(self._rounds)):
            for context in round_.contexts:
                raft.answer_read(context, round_.index)
        if self._reads.waiting and not self._reads.serving and self._committed_own_term:
            self._begin_round()

    # Handing over.

    def transfer(self, to: NodeId) -> None:
        """Bring `to` up to date, then tell it to campaign (thesis, section 3.10)."""
        raft = self._raft
        if to == raft.node:
            raise InvalidRequest(f"{to} leads already")
        if to not in raft.view.voting or to not in self.peers:
            raise InvalidRequest(f"{to} is not a voter; the voters are {', '.join(sorted(raft.view.voting))}")
        if not self.peers[to].counts:
            raise InvalidRequest(f"{to} does not count: it has lost what it promised, or has not caught up since it may have")
        if self._transfer is not None:
            raise InvalidRequest(f"leadership is being handed to {self._transfer} already")
        self._transfer = to
        self._transfer_ticks = 0
        self._reads.give_up_lease()
        self._dirty = True
        self._hand_over()

    def give_way(self, able: Set[NodeId]) -> None:
        """Hand over to one of the voters that are `able` to do what this leader cannot, if one has caught up; when it does not take over
        in time and this is asked again, to the next one."""
        if self._transfer is not None:
            return
        raft = self._raft
        caught_up = [
            peer
            for peer, progress in self.peers.items()
            if peer in able and peer in raft.view.voting and progress.counts and progress.match == raft.log.last
        ]
        if caught_up:
            self._successor = min(caught_up, key=lambda peer: (peer <= self._successor, peer))
            self.transfer(self._successor)

    def _hand_over(self) -> None:
        raft = self._raft
        progress = self.peers.get(self._transfer) if self._transfer is not None else None
        if self._transfer is not None and progress is not None and progress.match == raft.log.last:
            raft.send(TimeoutNow(raft.node, self._transfer, raft.term, raft.incarnation))

    def snapshot_finished(self, peer: NodeId, ok: bool) -> None:
        """The transfer of a snapshot to `peer` has ended."""
        progress = self.peers.get(peer)
        if progress is not None and progress.state is SNAPSHOT:
            progress.snapshot_finished(ok)
            self._dirty = True

    def peer_lost(self, peer: NodeId) -> None:
        """What was on its way to `peer` is lost: find out anew where the logs meet, and what state the peer has when it returns."""
        self._stateless.discard(peer)
        progress = self.peers.get(peer)
        if progress is not None and progress.state is REPLICATE:
            progress.probe(progress.match + 1)
            self._dirty = True

    def ask_for_snapshot(self) -> None:
        """A leader steps down before it asks."""

    # Replication.

    def flush(self) -> None:
        """Send every peer what it may get now."""
        if not self._dirty:
            return
        self._dirty = False
        if self._view is not self._raft.view:
            self._match_members()
        for peer, progress in self.peers.items():
            if self._wants_more(progress):
                self._replicate(peer, progress)

    def _wants_more(self, progress: Progress) -> bool:
        """Whether there may be something to send to a peer: the question is asked far more often than the answer is yes."""
        if progress.state is REPLICATE:
            log = self._raft.log
            return progress.next <= log.last or (progress.commit_sent < log.committed and progress.commit_sent < progress.match)
        return progress.state is PROBE and not progress.probe_sent

    def _replicate(self, peer: NodeId, progress: Progress) -> None:
        raft, log, config = self._raft, self._raft.log, self._raft.config
        while progress.next <= log.last or progress.state is PROBE:
            if not progress.may_send(config.max_inflight_messages, config.max_inflight_bytes):
                break
            if progress.next <= log.begin.index:
                self._snapshot(peer, progress)
                return
            entries: tuple[Entry, ...] | None = ()
            if progress.next <= log.last:
                entries = log.entries(progress.next, log.last, config.max_append_bytes)
            if entries is None:
                raft.fetch(peer, progress.next, log.window_first - 1, config.max_append_bytes)
                return
            self._append(peer, progress, entries)
        commit = min(log.committed, progress.match)
        if progress.state is REPLICATE and progress.commit_sent < commit:
            # Nothing else carries the news, and followers answer their clients from what they apply. Round 0 wants no answer.
            progress.commit_sent = commit
            raft.send(Heartbeat(raft.node, peer, raft.term, raft.incarnation, commit, 0))

    def _append(self, peer: NodeId, progress: Progress, entries: tuple[Entry, ...]) -> None:
        raft, log = self._raft, self._raft.log
        prev_index = progress.next - 1
        prev_term = log.term_at(prev_index)
        if prev_term is None:
            raise InvariantBroken(f"the term of entry {prev_index} is not known; the log is {log.begin.index} to {log.last}")
        raft.send(Append(raft.node, peer, raft.term, raft.incarnation, prev_index, prev_term, entries, log.committed))
        progress.sent(prev_index + len(entries), sum([len(entry.payload) for entry in entries]), log.committed)

    def _append_nothing(self, peer: NodeId, progress: Progress) -> None:
        if progress.next > self._raft.log.begin.index:
            self._append(peer, progress, ())
        else:
            # The log no longer holds what comes next, and flow control may wait for an acknowledgement of what was lost.
            progress.probe(progress.match + 1)
            self._dirty = True

    def _snapshot(self, peer: NodeId, progress: Progress) -> None:
        raft = self._raft
        if not progress.recently_active or raft.fenced is not None:
            return  # it could not receive one now, or there is none to send
        progress.snapshot(raft.log.begin.index)
        raft.send(InstallSnapshot(raft.node, peer, raft.term, raft.incarnation, raft.log.begin))

    def fetched(self, peer: NodeId, entries: tuple[Entry, ...]) -> None:
        """Older entries for a lagging peer have been read."""
        progress = self.peers.get(peer)
        self._dirty = True
        if progress is None or not entries or entries[0].index != progress.next:
            return
        config = self._raft.config
        if self._raft.log.term_at(entries[-1].index) != entries[-1].term or progress.next <= self._raft.log.begin.index:
            return
        if progress.may_send(config.max_inflight_messages, config.max_inflight_bytes):
            self._append(peer, progress, entries)

    def check_invariants(self) -> None:
        """`match` is below `next` for every peer, and nothing is acknowledged beyond the log."""
        for peer, progress in self.peers.items():
            if not progress.match < progress.next or progress.match > self._raft.log.last:
                raise InvariantBroken(f"{peer}: match {progress.match}, next {progress.next}, last {self._raft.log.last}")
