"""`Ready`: the core's only output, and the small values in it.

The shell handles a Ready in this order: persist (`hard_state`, `snapshot`, `entries`, in that order, one durable step), send
`messages` at any time, send `messages_after_persist` once it is durable, then call `Raft.persisted(number)`; apply `committed` and
call `Raft.applied`. Several Readies may be in flight; they become durable in the order of their numbers. A message whose receiver
is the node itself is handed back to `Raft.step`.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from raftkv.raft.messages import Message
from raftkv.raft.types import Entry, HardState, Index, NodeId, SnapshotMeta, Term


class Role(enum.StrEnum):
    """What a node is in its current term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class RoleChange(Struct, frozen=True):
    """The node's role, its term, or the leader it knows has changed. Reads that were asked for and not answered are void when
    `role` is not LEADER or the term is new; the shell asks again."""

    role: Role
    term: Term
    leader: NodeId | None


class Fetch(Struct, frozen=True):
    """Read entries `first` to `last` (both included, fewer if they exceed `max_bytes`, at least one) from the durable log and hand
    them to `Raft.fetched(peer, entries)`. `peer` is the node itself when they are wanted for applying. At most one fetch a peer is
    outstanding. An empty answer says that the log no longer holds `first`."""

    peer: NodeId
    first: Index
    last: Index
    max_bytes: int


class ReadPoint(Struct, frozen=True):
    """The read asked for as `context` is linearizable once the state machine has applied `index`."""

    context: int
    index: Index


class Ready(Struct, frozen=True, gc=False):
    """One numbered batch of effects."""

    number: int
    hard_state: HardState | None = None
    snapshot: SnapshotMeta | None = None
    entries: tuple[Entry, ...] = ()
    commit: Index = 0
    """The commit index known when this Ready was made: written with the entries, so that a restart knows it."""
    messages: tuple[Message, ...] = ()
    messages_after_persist: tuple[Message, ...] = ()
    committed: tuple[Entry, ...] = ()
    fetch: tuple[Fetch, ...] = ()
    reads: tuple[ReadPoint, ...] = ()
    role: RoleChange | None = None

    @property
    def must_persist(self) -> bool:
        """Whether anything in this Ready has to be made durable."""
        return self.hard_state is not None or self.snapshot is not None or bool(self.entries)


class PeerState(enum.StrEnum):
    """How the leader sends to one peer: one message at a time until the logs are known to meet, then pipelined, or by snapshot."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class PeerProgress(Struct, frozen=True):
    """What the leader knows of one peer, for operators, WAIT and autopilot."""

    match: Index
    next: Index
    state: PeerState
    recently_active: bool
    counts: bool
