"""The Raft core: what one node of a replicated log decides, and nothing else.

This is Raft as Diego Ongaro and John Ousterhout describe it ("In Search of an Understandable Consensus Algorithm", extended version; "the
paper") and as Ongaro's dissertation extends it ("the thesis"), built as a pure function of its inputs: no clock, no disk, no network, no
randomness but the source that it is given.

The verbs
    `Raft(config, stored, rng)` starts from what the disk holds. Time comes in as `tick`, messages as `step`, wishes as `propose`,
    `read_index`, `transfer_leadership`, `request_snapshot`. What is to be done comes out of `ready`, numbered. The shell reports back with
    `persisted` (a Ready is durable), `applied` (the state machine is there), `fetched` (older entries), `snapshot_finished` and
    `compacted`.

The life of a write
    The leader appends an entry and hands it out in a Ready: to its own disk, and in `messages` to its followers, at the same time (thesis,
    section 10.2.1). A follower checks that the entry before it is the same (paper, section 5.3), appends, and acknowledges in
    `messages_after_persist`: the acknowledgement leaves when the entry is durable there. The leader's own acknowledgement takes the same
    way, through a message to itself. When a quorum has acknowledged an entry *of the present term*, it is committed, and everything before
    it (paper, section 5.4.2). A node applies committed entries that its own disk holds.

The life of a read
    The leader notes its commit index and starts a round of heartbeats. When a quorum has answered, nobody else can have committed anything
    before the round began, so the read is served as soon as that index is applied (thesis, section 6.4). All reads that wait share a round.
    With lease reads on, the last confirmed round stands for the next `lease_ticks`.

The life of an election
    A follower that hears nothing asks first whether it could win (PreVote; thesis, section 9.6), which changes nothing anywhere. A node
    that hears from a leader says nothing to that (stickiness; section 4.2.3), and a leader that hears from no quorum steps down
    (CheckQuorum; section 6.2). Term and vote are durable before anything that reveals them leaves. When the shell reports that the
    connection to the leader broke, followers need not wait for the timeout: each waits by its rank and asks at once.

The life of a cluster
    A new cluster's configuration has no incarnations; it forms when *every* member votes for one leader, which then writes the voters'
    incarnations into the first entry. From then on a majority decides, and a node that returns with an empty disk under an old name is
    served and not counted. Configurations, joint ones and learners included, are in force when their entry is in the log (thesis, chapter
    4).

What always holds
    * One leader a term; a leader never overwrites or deletes its own entries; two logs that agree on an entry agree on everything before
      it; a committed entry is in the log of every later leader; no two nodes apply different entries at an index (paper, figure 3).
    * begin <= applied <= committed <= last, and applied <= persisted <= last, where `begin` is the last snapshot.
    * Nothing that speaks of a term, a vote or an entry leaves before that is durable on the node that speaks.
    * The same inputs give the same outputs, to the byte: peers are visited in sorted order.

What a node does when it doubts itself
    *Suspect*: the end of its log was unreadable, so it may have acknowledged what it no longer has. It follows and stores, and neither
    votes, campaigns nor counts, until a leader has brought it past everything that was committed. *Fenced*: its state machine is lost or
    wrong. It logs, votes and counts, and does not apply until a snapshot has replaced the state. It campaigns only as a last resort, when
    nobody has led for so long that its log may be the only one with everything that was committed; as a leader it takes no proposals and
    sends no snapshots, brings the others up to date, and hands over to the first that has a state. *A disk that hangs*: a leader steps
    down, and nobody campaigns on it.

Caveats
    Membership does not change yet: the core obeys any configuration entry, and nothing proposes one after the first. Lease reads trust that
    no two clocks drift apart by more than the bound in `Config.lease_ticks`. A transport must not deliver what an older process of a node
    sent after it has delivered something from a newer one; the peer protocol sees to that.

Where to read on: `types` and `messages` for the nouns, `ready` for the contract with the shell, `node` for the verbs and the term gate,
`follower`, `candidate` and `leader` for the roles, `log`, `progress`, `quorum`, `membership` and `reads` for what they use.
"""

from raftkv.raft.config import Config
from raftkv.raft.messages import Message
from raftkv.raft.node import Raft
from raftkv.raft.ready import Ready, Role
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Member, SnapshotMeta, Stored

__all__ = [
    "Config",
    "Configuration",
    "Entry",
    "EntryId",
    "EntryKind",
    "HardState",
    "Member",
    "Message",
    "Raft",
    "Ready",
    "Role",
    "SnapshotMeta",
    "Stored",
]
