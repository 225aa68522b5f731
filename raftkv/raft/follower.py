"""What a follower does: it takes entries from its leader, and campaigns when it hears nothing.

A follower acknowledges only what the message at hand verified, and only when it is durable; it cuts its log only at an entry that
conflicts, never because a message is short or late (paper, section 5.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.errors import InvariantBroken
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    TimeoutNow,
)
from raftkv.raft.ready import Role
from raftkv.raft.types import Entry, Index, NodeId

if TYPE_CHECKING:
    from raftkv.raft.node import Raft


class Follower:
    """The state of a follower in one term under one leader, if it knows one."""

    role = Role.FOLLOWER
    has_output = False

    def __init__(self, raft: Raft, leader: NodeId | None) -> None:
        self._raft = raft
        self.leader = leader
        self.lost = False
        """The leader's connection broke, and nothing has been heard since."""
        self.announced_commit: Index = 0
        """The newest commit index that the leader told of."""
        self._silent_ticks = 0
        self._timeout = raft.rng.randrange(raft.config.election_ticks, 2 * raft.config.election_ticks)
        self._hurry: int | None = None

    @property
    def hears_leader(self) -> bool:
        """Whether a leader was heard within the least election timeout, and has not been lost since."""
        return self.leader is not None and self._silent_ticks < self._raft.config.election_ticks

    def tick(self) -> None:
        """Count the silence; campaign at its end."""
        self._silent_ticks += 1
        if self._hurry is not None:
            self._hurry -= 1
            if self._hurry <= 0:
                self._hurry = None
                self._campaign()
                return
        if self._silent_ticks >= self._timeout:
            self._campaign()

    def _campaign(self) -> None:
        raft = self._raft
        self._silent_ticks = 0
        self._timeout = raft.rng.randrange(raft.config.election_ticks, 2 * raft.config.election_ticks)
        self.leader = None
        if raft.may_campaign:
            raft.become_pre_candidate(insistent=self.lost)

    def peer_lost(self, peer: NodeId) -> None:
        """The connection to `peer` broke. If it is the leader: let go of it, and campaign after a delay by rank, so that survivors do
        not collide. While lease reads are on, the promise not to vote stands: the leader may be alive and read on the strength of it.
        """
        raft = self._raft
        if peer != self.leader or raft.configuration.lease_reads:
            return
        self.leader = None
        self.lost = True
        self.keep_hurrying()

    def keep_hurrying(self) -> None:
        """Campaign after the delay of this node's rank."""
        raft = self._raft
        survivors = sorted(raft.view.voting)
        rank = survivors.index(raft.node) + 1 if raft.node in survivors else len(survivors) + 1
        self.lost = True
        self._hurry = raft.config.lost_leader_ticks * rank

    def voted(self) -> None:
        """A vote was granted: give the candidate time to win (paper, section 5.2)."""
        self._silent_ticks = 0
        self._hurry = None
        self.lost = False

    def ask_for_snapshot(self) -> None:
        """Ask the leader for a snapshot, when there is one."""
        if self.leader is not None:
            self._raft.ask_for_snapshot(self.leader)

    def step(self, message: Message) -> None:
        """Handle a message of this term."""
        if type(message) is Append:
            self._heard()
            self._append(message)
        elif type(message) is Heartbeat:
            self._heard()
            self._heartbeat(message)
        elif type(message) is InstallSnapshot:
            self._heard()
            self._install(message)
        elif type(message) is TimeoutNow:
            if self._raft.may_campaign and message.sender == self.leader:
                self._raft.become_candidate(transfer=True)
        else:
            self._raft.dropped["not for a follower"] += 1

    def _heard(self) -> None:
        self._silent_ticks = 0
        self._hurry = None
        self.lost = False

    def _append(self, message: Append) -> None:
        raft, log = self._raft, self._raft.log
        if not _is_sound(message):
            raft.dropped["malformed"] += 1
            return
        if message.commit > self.announced_commit:
            self.announced_commit = message.commit
        prev_index, prev_term, entries = message.prev_index, message.prev_term, message.entries
        verified = prev_index + len(entries)
        if prev_index < log.begin.index:
            # What lies before the log's begin was committed, so it is the same here; look only at what comes after.
            entries = entries[log.begin.index - prev_index :]
            prev_index, prev_term = log.begin.index, log.begin.term
        if log.term_at(prev_index) != prev_term:
            self._reject(message)
            return
        self._take(entries)
        raft.commit_to(min(message.commit, verified))
        raft.send_after_persist(
            AppendResponse(raft.node, message.sender, raft.term, raft.incarnation, verified, raft.suspect is None)
        )
        raft.clear_suspicion()

    def _take(self, entries: tuple[Entry, ...]) -> None:
        """Add what is new, cutting the log only at the first entry that conflicts."""
        raft, log = self._raft, self._raft.log
        if entries and entries[0].index == log.last + 1:
            for entry in entries:
                raft.accept(entry)
            return
        for position, entry in enumerate(entries):
            if entry.index <= log.last:
                if log.term_at(entry.index) == entry.term:
                    continue
                if entry.index <= log.committed:
                    raise InvariantBroken(f"an append conflicts with the committed entry {entry.index}")
                raft.truncate(entry.index - 1)
            for new in entries[position:]:
                raft.accept(new)
            return

    def _reject(self, message: Append) -> None:
        self._refuse(message.sender, message.prev_index, self._raft.log.newest_not_above(message.prev_index, message.prev_term))

    def _refuse(self, leader: NodeId, index: Index, hint: Index) -> None:
        """Tell the leader that the entry that it believes to be here at `index` is not; `hint` may be."""
        raft, log = self._raft, self._raft.log
        hint_term = log.term_at(hint) or 0
        raft.send(
            AppendRejected(raft.node, leader, raft.term, raft.incarnation, index, hint, hint_term, log.last, raft.suspect is None)
        )

    def _heartbeat(self, message: Heartbeat) -> None:
        raft = self._raft
        if message.commit > raft.log.last:
            # The leader believes that more was acknowledged than is here. Commit nothing of it; an append will tell the truth.
            raft.dropped["heartbeat beyond the log"] += 1
            if raft.suspect is not None:
                self._refuse(message.sender, message.commit, raft.log.last)
        else:
            raft.commit_to(message.commit)
            if message.commit > self.announced_commit:
                self.announced_commit = message.commit
            raft.clear_suspicion()
        if message.round == 0:
            return
        raft.send(
            HeartbeatResponse(raft.node, message.sender, raft.term, raft.incarnation, message.round, raft.suspect is None)
        )
        raft.ask_for_snapshot(message.sender)

    def _install(self, message: InstallSnapshot) -> None:
        raft, log, meta = self._raft, self._raft.log, message.snapshot
        if meta.index < 0 or not 0 <= meta.term <= message.term:
            raft.dropped["malformed"] += 1
            return
        if raft.fenced is not None:
            if meta.index < log.begin.index:
                raft.dropped["snapshot before the log's begin"] += 1
                return
            raft.take_snapshot(meta)
        elif meta.index > log.committed:
            if log.holds(meta.index, meta.term):
                raft.commit_to(meta.index)
            else:
                raft.take_snapshot(meta)
        raft.send_after_persist(
            AppendResponse(
                raft.node, message.sender, raft.term, raft.incarnation, max(meta.index, log.committed), raft.suspect is None
            )
        )

    def flush(self) -> None:
        """A follower sends nothing of its own accord."""

    def handed_out(self, last: Index) -> None:
        """Entries up to `last` are on their way to the disk; the acknowledgements are queued already."""

    def check_invariants(self) -> None:
        """A follower does not follow itself."""
        if self.leader == self._raft.node:
            raise InvariantBroken("a follower follows itself")


def _is_sound(message: Append) -> bool:
    """Whether the entries of an append follow one another and the previous one."""
    if message.prev_index < 0 or message.commit < 0:
        return False
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term:
            return False
        term = entry.term
    return term <= message.term
