"""How often the situation of each hazard arose: observers outside of the product, which change nothing.

`ProbedRaft` looks at each message and each step before the core does. The rest is told by the node, its disk and its clients.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from raftkv.codec.peer import ForwardWrites
from raftkv.kv.machine import KvMachine
from raftkv.raft.config import Config
from raftkv.raft.follower import Follower
from raftkv.raft.leader import Leader
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVote,
    Vote,
    VoteResponse,
)
from raftkv.raft.node import Raft
from raftkv.raft.progress import PROBE
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, Entry, Index, NodeId, SnapshotMeta, Stored, Term
from raftkv.replica import Replica
from raftkv.sim.clock import Schedule
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelStore
from raftkv.storage.wal import RecoveredLog, Wal

_INSTALLING: Final = ("state switch", "installed generation", "staged data")
_READS: Final = {b"GET"}
_HINT_US: Final = 50_000


class Probes:
    """The counts of one cluster, by the numbers of the hazards."""

    def __init__(self, schedule: Schedule, leaders: dict[Term, NodeId]) -> None:
        self.hits: Counter[int] = Counter()
        self.newest_term: Term = 0
        self.is_alive: Callable[[NodeId], bool] = lambda node: True
        self.is_sending: Callable[[NodeId], bool] = lambda node: False
        """Whether a node sends a snapshot."""
        self.leaders = leaders
        self._schedule = schedule
        self._applied: dict[NodeId, Index] = {}
        self._hinted: tuple[NodeId, int] = ("", -_HINT_US)
        self._forwarded: dict[tuple[NodeId, bytes, int], NodeId] = {}
        self._compacted: set[NodeId] = set()

    # Starts and ends.

    def opens(self, name: NodeId, log: RecoveredLog, machine: KvMachine, installed: SnapshotMeta | None) -> None:
        """A node has read its disk, and has not compared log and state yet."""
        applied = machine.applied_index
        self._compacted.discard(name)
        if applied < self._applied.get(name, 0):
            self.hits[21] += 1
        if installed is not None and installed.index > log.last.index:
            self.hits[32] += 1
        if log.suspect is not None:
            self.hits[54] += 1
        if any(index > applied for index, _ in log.configurations):
            self.hits[56] += 1

    def crashes(self, point: str) -> None:
        """A node dies at this failure point."""
        if "hard state slot" in point:
            self.hits[1] += 1
        elif point.endswith(_INSTALLING):
            self.hits[31] += 1

    def dies(self, replica: Replica) -> None:
        """A node is about to be gone."""
        self._applied[replica.node] = replica.applied_index

    def loses_power(self, replica: Replica, wal: Wal, disk: SimDisk) -> None:
        """The machine of a node is about to lose power."""
        raft = replica.raft
        waiting = raft.persisted_index < raft.last_index
        if any(ready.messages_after_persist for ready in replica._unpersisted):
            self.hits[3] += 1
        if waiting and len(raft.configuration.voters) == 1:
            self.hits[18] += 1
        if waiting and replica.applied_index == wal.last_index > 0:
            self.hits[55] += 1
        if disk.pending_renames:
            self.hits[35] += 1
        store = replica.machine._store
        if raft.node in self._compacted and isinstance(store, ModelStore) and store.unflushed:
            self.hits[36] += 1

    def store_crashes(self, lost: int) -> None:
        """The state store has lost so many batches in a crash."""
        self.hits[63] += lost > 0

    def persists(self, replica: Replica, number: int) -> None:
        """Everything up to Ready `number` has become durable."""
        for ready in replica._unpersisted:
            if ready.number > number:
                break
            self.hits[7] += any(message.to == replica.node and message.term < replica.term for message in ready.messages_after_persist)

    # Clients and other nodes.

    def asked(self, raft: Raft, requests: Sequence[Sequence[bytes]]) -> None:
        """A client asks a node."""
        reads = sum(request[0] in _READS for request in requests)
        if raft.role is not Role.LEADER:
            self.hits[58] += 0 < reads < len(requests)
        elif reads:
            self.hits[24] += raft.term < self.newest_term
            self.hits[26] += raft.log.term_at(raft.committed) != raft.term

    def forwards(self, name: NodeId, to: NodeId, value: ForwardWrites) -> None:
        """A node forwards a group to `to`."""
        key = (name, value.group.session, value.group.first)
        self.hits[57] += self._forwarded.setdefault(key, to) != to
        self._forwarded[key] = to

    def reply_for_nobody(self) -> None:
        """A reply leaves for a client that is gone."""
        self.hits[28] += 1

    def compares(self, apart_ms: int) -> None:
        """Two nodes, whose wall clocks are so far apart, are found in the same state."""
        self.hits[22] += apart_ms > 1_000

    def command_failed(self, followed: bool) -> None:
        """A command fails while it is applied; `followed` by another of its group."""
        self.hits[27] += 1
        self.hits[59] += followed

    def leads(self, raft: Raft, apart_ms: int) -> None:
        """A node begins to lead; its wall clock is so far from the middle one."""
        self.newest_term = max(self.newest_term, raft.term)
        self.hits[51] += apart_ms > 86_400_000

    def steps_down(self, raft: Raft, before: Role) -> None:
        """A node follows within its term that was something else `before`."""
        self.hits[4] += before in (Role.CANDIDATE, Role.LEADER)

    def overtakes(self) -> None:
        """Something small leaves while something large is on its way."""
        self.hits[62] += 1

    def loses_one(self, leads: bool) -> None:
        """Two nodes lose each other, and nobody else; one of them `leads`, perhaps."""
        self.hits[44] += leads

    # The core.

    def lost_connection(self, raft: Raft, peer: NodeId) -> None:
        """A follower has lost its leader."""
        name, at_us = self._hinted
        now_us = self._schedule.now_us
        self.hits[53] += name != raft.node and now_us - at_us < _HINT_US
        self._hinted = (raft.node, now_us)
        self.hits[52] += raft.configuration.lease_reads and self.is_alive(peer)

    def compacted(self, name: NodeId) -> None:
        """A log has been cut."""
        self._compacted.add(name)
        self.hits[34] += self.is_sending(name)


def _vote(raft: ProbedRaft, message: Vote, hits: Counter[int]) -> None:
    if message.term == raft.term == raft.started_term and raft.started_vote not in (None, message.sender):
        hits[2] += 1


def _pre_vote(raft: ProbedRaft, message: PreVote, hits: Counter[int]) -> None:
    leader = raft.leader
    if leader is not None and leader != raft.node and not raft.probes.is_alive(leader):
        hits[45] += 1


def _vote_response(raft: ProbedRaft, message: VoteResponse, hits: Counter[int]) -> None:
    if message.sender == raft.node:
        return
    if message.term < raft.term:
        hits[5] += 1
    elif raft.role is Role.CANDIDATE and not message.granted and message.term == raft.term:
        hits[6] += 1


def _append(raft: ProbedRaft, message: Append, hits: Counter[int]) -> None:
    log = raft.log
    if message.term < raft.term or message.prev_index < log.begin.index:
        return
    verified = message.prev_index + len(message.entries)
    if message.commit < log.committed:
        hits[13] += 1
    if log.term_at(message.prev_index) != message.prev_term:
        if message.commit > log.committed:
            hits[12] += 1
        return
    if verified < log.last:
        hits[11] += 1
        if message.entries and log.term_at(verified) == message.entries[-1].term:
            hits[10] += 1
        if message.commit > verified:
            hits[20] += 1
    for entry in message.entries:
        if entry.index > log.last:
            break
        if log.term_at(entry.index) != entry.term:
            if log.persisted < log.last:
                hits[15] += 1
            break


def _heartbeat(raft: ProbedRaft, message: Heartbeat, hits: Counter[int]) -> None:
    if message.term == raft.term and message.commit < raft.committed:
        hits[13] += 1


def _append_response(raft: ProbedRaft, message: AppendResponse, hits: Counter[int]) -> None:
    leader = raft.leading
    if leader is None or message.sender == raft.node:
        return
    if message.term < raft.term:
        hits[19] += raft.probes.leaders.get(message.term) == raft.node
        return
    progress = leader.peers.get(message.sender)
    if progress is None:
        return
    if message.match < progress.match:
        hits[14] += 1
    if progress.state is PROBE:
        hits[48] += 1
    index = message.match
    if index > raft.committed and index > progress.match:
        term = raft.log.term_at(index)
        if term is not None and term < raft.term:
            holders = 1 + (index <= raft.persisted_index) + sum(
                peer.match >= index for name, peer in leader.peers.items() if name != message.sender
            )
            hits[9] += 2 * holders > len(leader.peers) + 1


def _append_rejected(raft: ProbedRaft, message: AppendRejected, hits: Counter[int]) -> None:
    leader = raft.leading
    progress = leader.peers.get(message.sender) if leader is not None else None
    if progress is not None and message.term == raft.term and message.rejected_index <= progress.match:
        hits[16] += 1


def _heartbeat_response(raft: ProbedRaft, message: HeartbeatResponse, hits: Counter[int]) -> None:
    if raft.leading is not None and message.term < raft.term and raft.probes.leaders.get(message.term) == raft.node:
        hits[25] += 1


def _install(raft: ProbedRaft, message: InstallSnapshot, hits: Counter[int]) -> None:
    if message.term == raft.term and raft.log.last > message.snapshot.index and raft.fenced is None:
        hits[30] += 1


_LOOKS: Final[dict[type, Callable[..., None]]] = {
    Vote: _vote,
    PreVote: _pre_vote,
    VoteResponse: _vote_response,
    Append: _append,
    Heartbeat: _heartbeat,
    AppendResponse: _append_response,
    AppendRejected: _append_rejected,
    HeartbeatResponse: _heartbeat_response,
    InstallSnapshot: _install,
}


class ProbedRaft(Raft):
    """The core, seen by `probes` before each of its steps."""

    def __init__(self, config: Config, stored: Stored, rng: random.Random, probes: Probes) -> None:
        self.probes = probes
        self.started_term = stored.hard_state.term
        self.started_vote = stored.hard_state.vote
        super().__init__(config, stored, rng)

    @property
    def leading(self) -> Leader | None:
        """Its role, if it leads."""
        role = self._role
        return role if isinstance(role, Leader) else None

    def step(self, message: Message) -> None:
        look = _LOOKS.get(type(message))
        if look is not None:
            look(self, message, self.probes.hits)
        if message.term > self._term and self.leading is not None and not isinstance(message, PreVote):
            self.probes.hits[49] += 1
        super().step(message)

    def tick(self) -> None:
        leader = self.leading
        if leader is not None:
            oldest = self.log.oldest_write_tick
            self.probes.hits[46] += oldest is not None and self.ticks + 1 - oldest > self.config.election_ticks
            self.probes.hits[47] += leader._transfer is not None and leader._transfer_ticks + 1 >= self.config.election_ticks
        super().tick()

    def fetched(self, peer: NodeId, entries: Sequence[Entry]) -> None:
        self.probes.hits[17] += peer != self.node and not entries and self.leading is not None
        super().fetched(peer, entries)

    def compacted(self, index: Index) -> SnapshotMeta:
        self.probes.compacted(self.node)
        return super().compacted(index)

    def peer_lost(self, peer: NodeId) -> None:
        if isinstance(self._role, Follower) and self._role.leader == peer:
            self.probes.lost_connection(self, peer)
        super().peer_lost(peer)

    def become_follower(self, term: Term, leader: NodeId | None) -> None:
        role = self.role
        if term == self._term and role is not Role.FOLLOWER:
            self.probes.steps_down(self, role)
        if role is Role.LEADER and self.last_index > self.committed:
            self.probes.hits[8] += 1
        super().become_follower(term, leader)

    def take_snapshot(self, meta: SnapshotMeta) -> None:
        known = self.log.term_at(meta.index)
        self.probes.hits[29] += known is not None and known != meta.term
        self.probes.hits[33] += meta.configuration not in (self.configuration, Configuration())
        super().take_snapshot(meta)

