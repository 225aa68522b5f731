"""The nouns of the protocol: identifiers, log entries, hard state, configurations, snapshot metadata.

Everything here is a value: frozen, comparable, and without behaviour beyond questions about itself. The field order of every
`array_like` class is part of the formats on disk and on the wire; new fields go at the end, with a default.
"""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta, Struct

NodeId = str
"""The name of a node, unique in its cluster, for example ``n1``. Compared and sorted as text."""

_Counter = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
# What is decoded has to fit in where it goes next, and the next number after it too: fields of 64 bits, in files and in messages.

Term = _Counter
"""A logical clock for elections (Raft paper, section 5.1). The first election starts term 1; 0 means that there was none."""

Index = _Counter
"""A position in the log. The first entry has index 1; 0 is the position before it."""

Incarnation = _Counter
"""A random number in [1, 2**63) that a node draws when its data directory is created: the same name with another incarnation is
another node, whose promises are unknown. 0 means "not known yet" and matches every incarnation."""


class EntryKind(enum.IntEnum):
    """What the payload of a log entry is."""

    NOOP = 1
    """Empty: lets a new leader commit in its own term (paper, section 8)."""
    BATCH = 2
    """Commands for the state machines, opaque to the core."""
    CONFIGURATION = 3
    """An encoded `Configuration`, in force from the moment that it is in the log (thesis, section 4.1)."""


class EntryId(Struct, frozen=True, array_like=True, gc=False, order=True):
    """Names one entry for ever: two entries with the same index and term are the same entry (paper, section 5.3)."""

    index: Index
    term: Term


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One entry of the replicated log."""

    index: Index
    term: Term
    kind: EntryKind
    payload: bytes

    @property
    def id(self) -> EntryId:
        """The name of this entry."""
        return EntryId(self.index, self.term)


class HardState(Struct, frozen=True, array_like=True, gc=False):
    """What a node must never forget: its term and whom it voted for in that term (paper, figure 2)."""

    term: Term = 0
    vote: NodeId | None = None


class Member(Struct, frozen=True, array_like=True, gc=False, order=True):
    """One node of a configuration, with the address at which its peers reach it (``host:port``)."""

    id: NodeId
    incarnation: Incarnation = 0
    peer_address: str = ""


class Configuration(Struct, frozen=True, array_like=True):
    """Who takes part in decisions.

    `members` lists every node, sorted by id. While `outgoing` is not empty the configuration is joint (thesis, section 4.3) and a
    decision needs a majority of `voters` and a majority of `outgoing`. `learners` receive the log and decide nothing.
    `lease_reads` is replicated with the membership, because a promise not to vote binds all members or none.
    """

    members: tuple[Member, ...] = ()
    voters: tuple[NodeId, ...] = ()
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    lease_reads: bool = False


class SnapshotMeta(Struct, frozen=True, array_like=True):
    """The position in the log that a snapshot stands for, and the configuration in force there. Index 0 is the empty state."""

    index: Index = 0
    term: Term = 0
    configuration: Configuration = Configuration()


class Stored(Struct, frozen=True):
    """What a node finds on its disk when it starts: the second argument of `Raft`.

    `snapshot` is where the log begins: the log holds the entries after it. For a new node it is index 0 with the bootstrap
    configuration (incarnations 0). `term_runs` names the first entry of each run of equal terms after the snapshot, and `tail`
    holds the newest entries, as many as fit in the window; `last` is the newest entry (equal to the snapshot's id when the log is
    empty). `configurations` are the configuration entries after the snapshot, oldest first. `applied` is the index that the state
    machines hold, `snapshot.index <= applied` unless `fenced`, which says why that state cannot be used, if so. `suspect` is set when
    the end of the log was unreadable and an acknowledged entry may be missing: the largest index that may be.
    """

    node: NodeId
    incarnation: Incarnation
    hard_state: HardState = HardState()
    snapshot: SnapshotMeta = SnapshotMeta()
    term_runs: tuple[EntryId, ...] = ()
    tail: tuple[Entry, ...] = ()
    last: EntryId = EntryId(0, 0)
    configurations: tuple[tuple[Index, Configuration], ...] = ()
    committed: Index = 0
    applied: Index = 0
    suspect: Index | None = None
    fenced: str | None = None
