"""One `Raft` without a shell around it: tests hand in events and look at the exact Readies that come out.

The node is n1 of n1, n2, n3 (incarnations 101, 102, 103). Nothing happens by itself: `take` returns one Ready and leaves it in
flight, `settle` does what a shell would do until nothing is left, and returns the messages to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raftkv.raft.config import Config
from raftkv.raft.messages import AppendResponse, Message, PreVoteResponse, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.ready import Ready, Role
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Index, NodeId, SnapshotMeta, Stored, Term
from tests.raft.network import TEST_CONFIG, Patience, formed

ELECTION = TEST_CONFIG.election_ticks
HEARTBEAT = TEST_CONFIG.heartbeat_ticks
THREE = formed("n1", "n2", "n3")
INCARNATIONS = {"n1": 101, "n2": 102, "n3": 103, "n4": 104, "n5": 105}


def batch(index: Index, term: Term, payload: bytes | None = None) -> Entry:
    """An entry of commands."""
    return Entry(index, term, EntryKind.BATCH, b"%d" % index if payload is None else payload)


def noop(index: Index, term: Term) -> Entry:
    """The first entry of a leader."""
    return Entry(index, term, EntryKind.NOOP, b"")


def runs_of(entries: Sequence[Entry]) -> tuple[EntryId, ...]:
    """The first entry of each run of equal terms."""
    return tuple(entry.id for at, entry in enumerate(entries) if at == 0 or entries[at - 1].term != entry.term)


def stored(
    *terms: Term,
    begin: SnapshotMeta | None = None,
    term: Term | None = None,
    vote: NodeId | None = None,
    committed: Index | None = None,
    applied: Index | None = None,
    configuration: Configuration = THREE,
    incarnation: int = 101,
    tail: int | None = None,
    suspect: Index | None = None,
    fenced: str | None = None,
) -> Stored:
    """What n1's disk holds: after `begin`, entries of these `terms`, of which the newest `tail` (all, if not given) fit in memory."""
    start = SnapshotMeta(0, 0, configuration) if begin is None else begin
    entries = [batch(start.index + rank, of) for rank, of in enumerate(terms, start=1)]
    last = entries[-1].id if entries else EntryId(start.index, start.term)
    return Stored(
        node="n1",
        incarnation=incarnation,
        hard_state=HardState(last.term if term is None else term, vote),
        snapshot=start,
        term_runs=runs_of(entries),
        tail=tuple(entries if tail is None else entries[len(entries) - tail :]),
        last=last,
        committed=start.index if committed is None else committed,
        applied=start.index if applied is None else applied,
        suspect=suspect,
        fenced=fenced,
    )


def bare(*terms: Term, config: Config = TEST_CONFIG, **facts: Any) -> Raft:
    """A follower that has just started; see `stored`."""
    return Raft(config, stored(*terms, **facts), Patience(0.5))


def role_of(raft: Raft) -> Role:
    """The node's role, asked anew each time: a type checker takes `raft.role` for a constant between two looks."""
    return raft.role


def take(raft: Raft) -> Ready:
    """The next Ready, left in flight."""
    assert raft.has_ready()
    ready = raft.ready()
    raft.check_invariants()
    return ready


def settle(raft: Raft) -> list[Message]:
    """Persist, apply and hand back its own messages until the core has nothing more to say. Returns what went to others."""
    sent: list[Message] = []
    while raft.has_ready():
        ready = raft.ready()
        raft.persisted(ready.number)
        for message in (*ready.messages, *ready.messages_after_persist):
            if message.to == raft.node:
                raft.step(message)
            else:
                sent.append(message)
        if ready.committed:
            raft.applied(ready.committed[-1].index)
        raft.check_invariants()
    return sent


def hears(raft: Raft, *messages: Message) -> list[Message]:
    """Step `messages`, one at a time, and return what was sent in answer."""
    sent: list[Message] = []
    for message in messages:
        raft.step(message)
        sent += settle(raft)
    return sent


def ticks(raft: Raft, count: int) -> list[Message]:
    """Let time pass, and return what was sent."""
    sent: list[Message] = []
    for _ in range(count):
        raft.tick()
        sent += settle(raft)
    return sent


def campaigns(raft: Raft) -> Raft:
    """Tick until the node asks for PreVotes, which are on their way."""
    for _ in range(2 * raft.config.election_ticks):
        if role_of(raft) is not Role.FOLLOWER:
            break
        ticks(raft, 1)
    assert role_of(raft) is Role.PRE_CANDIDATE
    return raft


def wins(raft: Raft, *, acknowledge: bool = True) -> list[Message]:
    """Make the node leader of the next term with the votes of n2, and return what it sent as leader. Its first entry is on its own
    disk; with `acknowledge` n2 and n3 have it too."""
    campaigns(raft)
    term = raft.term + 1
    hears(raft, PreVoteResponse("n2", "n1", raft.term, 102, term, True, raft.pre_vote_round))
    sent = hears(raft, VoteResponse("n2", "n1", term, 102, True))
    assert raft.role is Role.LEADER
    if acknowledge:
        sent += hears(raft, *(AppendResponse(peer, "n1", term, INCARNATIONS[peer], raft.last_index) for peer in ("n2", "n3")))
        assert raft.committed == raft.last_index
    return sent


def leading(*terms: Term, config: Config = TEST_CONFIG, acknowledge: bool = True, **facts: Any) -> Raft:
    """A leader of the term after those of its log; what it sent is thrown away."""
    raft = bare(*terms, config=config, **facts)
    wins(raft, acknowledge=acknowledge)
    return raft
