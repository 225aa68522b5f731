"""Quorum arithmetic: what a majority, or two of them, has agreed on. Pure functions over plain values.

A joint configuration decides only what a majority of *each* half decides (thesis, section 4.3); counting the union would be wrong. A
half without voters decides everything: it imposes no condition.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from raftkv.raft.types import NodeId


class Tally(enum.Enum):
    """The state of an election."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


UNBOUNDED = (1 << 63) - 1
"""The agreed number where nobody has to agree."""


def majority(count: int) -> int:
    """The least number of `count` voters that any two of such groups share a voter."""
    return count // 2 + 1


def agreed(voters: Sequence[NodeId], reached: Mapping[NodeId, int]) -> int:
    """The largest number that a majority of `voters` has reached; who is not in `reached` has reached 0.

    Used for indices (what is committed, paper section 5.3) and for heartbeat rounds (thesis, section 6.4).
    """
    if not voters:
        return UNBOUNDED
    numbers = sorted([reached.get(voter, 0) for voter in voters])
    return numbers[(len(numbers) - 1) // 2]  # a majority has reached this one or more


def agreed_jointly(voters: Sequence[NodeId], outgoing: Sequence[NodeId], reached: Mapping[NodeId, int]) -> int:
    """The largest number that a majority of each half has reached."""
    if not outgoing:
        return agreed(voters, reached)
    return min(agreed(voters, reached), agreed(outgoing, reached))


def tally(voters: Sequence[NodeId], votes: Mapping[NodeId, bool]) -> Tally:
    """How an election among `voters` stands with these `votes`."""
    if not voters:
        return Tally.WON
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= majority(len(voters)):
        return Tally.WON
    if len(voters) - refused < majority(len(voters)):
        return Tally.LOST
    return Tally.PENDING


def tally_jointly(voters: Sequence[NodeId], outgoing: Sequence[NodeId], votes: Mapping[NodeId, bool]) -> Tally:
    """How an election stands that has to be won in both halves."""
    halves = (tally(voters, votes), tally(outgoing, votes))
    if Tally.LOST in halves:
        return Tally.LOST
    return Tally.PENDING if Tally.PENDING in halves else Tally.WON


def tally_unanimous(voters: Sequence[NodeId], votes: Mapping[NodeId, bool]) -> Tally:
    """How an election stands that needs every voter, as the first one of a cluster does."""
    if any(votes.get(voter) is False for voter in voters):
        return Tally.LOST
    return Tally.WON if all(votes.get(voter) for voter in voters) else Tally.PENDING
