"""What nodes say to each other: one small class a message.

Every message names its sender (with the incarnation, because a wiped node that returns under its old name has forgotten its
promises), its receiver, and the sender's current term. Every acknowledgement carries what *it* verified, never more. The tags and
the field order are part of the peer protocol.
"""

from __future__ import annotations

from msgspec import Struct

from raftkv.raft.types import Entry, Incarnation, Index, NodeId, SnapshotMeta, Term


class MessageBase(Struct, frozen=True, array_like=True, gc=False):
    """The envelope that all messages share."""

    sender: NodeId
    to: NodeId
    term: Term
    incarnation: Incarnation


class PreVote(MessageBase, frozen=True, array_like=True, gc=False, tag=1):
    """Would you vote for me in `campaign_term`? Changes no state at the receiver (thesis, section 9.6). `round` numbers the times that
    the sender's process has asked, from 1 on."""

    campaign_term: Term
    last_index: Index
    last_term: Term
    round: int = 0


class PreVoteResponse(MessageBase, frozen=True, array_like=True, gc=False, tag=2):
    """Answer to the `PreVote` of `round` for `campaign_term`; `term` is the voter's own."""

    campaign_term: Term
    granted: bool
    round: int = 0


class Vote(MessageBase, frozen=True, array_like=True, gc=False, tag=3):
    """Vote for me in `term` (paper, section 5.2). `transfer`: the old leader asked for this, so stickiness does not apply."""

    last_index: Index
    last_term: Term
    transfer: bool = False


class VoteResponse(MessageBase, frozen=True, array_like=True, gc=False, tag=4):
    """Answer to a `Vote` of the same term."""

    granted: bool


class Append(MessageBase, frozen=True, array_like=True, gc=False, tag=5):
    """Replicate `entries`, which follow the entry (`prev_index`, `prev_term`) (paper, section 5.3). Empty `entries` is a probe."""

    prev_index: Index
    prev_term: Term
    entries: tuple[Entry, ...]
    commit: Index


class AppendResponse(MessageBase, frozen=True, array_like=True, gc=False, tag=6):
    """My durable log equals yours up to and including `match`, which is what your message verified.

    `counts` is false while the sender is suspect: it may have forgotten an acknowledgement, so this one decides nothing.
    """

    match: Index
    counts: bool = True


class AppendRejected(MessageBase, frozen=True, array_like=True, gc=False, tag=7):
    """I do not have the entry (`rejected_index`, …) that your append follows.

    `hint_index` and `hint_term` name the newest entry of mine that may still match: the largest index not above `rejected_index`
    whose term is not above the leader's term there. `last_index` is the end of my log. `counts` as in `AppendResponse`.
    """

    rejected_index: Index
    hint_index: Index
    hint_term: Term
    last_index: Index
    counts: bool = True


class Heartbeat(MessageBase, frozen=True, array_like=True, gc=False, tag=8):
    """I lead. `commit` is never above what the receiver acknowledged. `round` numbers the leader's rounds in this term: an answer
    proves leadership at the time that the round started (thesis, section 6.4). Round 0 only tells of the commit index, and is not
    answered."""

    commit: Index
    round: int


class HeartbeatResponse(MessageBase, frozen=True, array_like=True, gc=False, tag=9):
    """Answer to the heartbeat of `round`. `counts` as in `AppendResponse`."""

    round: int
    counts: bool = True


class InstallSnapshot(MessageBase, frozen=True, array_like=True, gc=False, tag=10):
    """Your log begins before mine: take this snapshot.

    The core says only *that* a snapshot is due. The shell of the leader moves the files, replaces `snapshot` by what it really sent,
    and delivers this message at the receiver when the files are there and verified.
    """

    snapshot: SnapshotMeta


class SnapshotRequest(MessageBase, frozen=True, array_like=True, gc=False, tag=11):
    """A follower without usable state asks its leader for a snapshot, whatever its log holds."""

    reason: str


class TimeoutNow(MessageBase, frozen=True, array_like=True, gc=False, tag=12):
    """Leadership transfer: campaign now, without PreVote (thesis, section 3.10)."""


Message = (
    PreVote
    | PreVoteResponse
    | Vote
    | VoteResponse
    | Append
    | AppendResponse
    | AppendRejected
    | Heartbeat
    | HeartbeatResponse
    | InstallSnapshot
    | SnapshotRequest
    | TimeoutNow
)
