"""What a replica knows of how far the others have the log on disk, which WAIT counts: never more than what they have said."""

from __future__ import annotations

from raftkv.codec.peer import Health
from raftkv.raft.messages import AppendResponse
from tests.replica.lone import Lone, noops


def health(applied: int) -> Health:
    """What another node tells, whose log may go on behind what it has applied."""
    return Health((), 0, applied, None, "", last=applied + 5)


def test_a_follower_counts_what_others_have_applied() -> None:
    """A node that does not lead knows of others what they tell at heartbeats; the ends of their logs, which may be undone, do not count."""
    lone = Lone(noops(3))
    assert list(lone.replica.copies) == []
    lone.replica.receive("n3", health(2))
    lone.replica.receive("n2", health(3))
    assert list(lone.replica.copies) == [3, 2]
    lone.replica.receive("n3", health(0))  # it begins anew
    assert list(lone.replica.copies) == [3, 0]


def test_a_leader_counts_acknowledgements() -> None:
    """A leader counts what the others have acknowledged to it, but for a node that may have forgotten an acknowledgement; of that it
    believes what it says to have applied."""
    lone = Lone(noops(3))
    lone.replica.receive("n3", health(1))
    lone.lead()
    term, last = lone.replica.raft.term, lone.replica.raft.last_index
    lone.replica.receive("n2", AppendResponse("n2", "n1", term, 2, last))
    assert lone.replica.copies[0] == last
    assert lone.replica.copies[1] < last
    lone.replica.receive("n3", AppendResponse("n3", "n1", term, 3, last, counts=False))
    assert lone.replica.copies[1] < last
    lone.replica.receive("n3", AppendResponse("n3", "n1", term, 3, last))
    assert list(lone.replica.copies) == [last, last]
