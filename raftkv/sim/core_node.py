"""One node of an exploration: a production `Raft`, the plainest durable log, and what is on its way there, stepped one event at a time.

It does with a Ready what `replica` does, in the same order. The log keeps of every Ready what `persist` has reached, and a crash leaves
nothing else: neither what is on its way nor the state machine, which starts again at the log's begin. Entries are applied at once.

`step` is a function: of a node's value and one event it makes the node's next value, what it sends, and what its rules have to say. It
checks what can be seen at one node alone; what concerns several is for `rules`.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from raftkv.errors import RaftkvError
from raftkv.raft.messages import Message, Vote, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.ready import Ready, Role
from raftkv.raft.types import Configuration, Entry, EntryId, HardState, Index, NodeId, SnapshotMeta, Stored, Term
from raftkv.sim.frozen import CONFIG, EARLIEST, ELECTION_TICKS, HEARTBEAT_TICKS, Frozen, freeze, thaw
from raftkv.sim.trace import Violation

MAX_READIES = 64
"""A core that has more to say than this in one event will not stop at all."""


class Event(enum.IntEnum):
    """What can happen to a node, apart from the arrival of a message."""

    PERSIST = 0
    """The oldest Ready on its way to the disk is durable, and the core is told."""
    CRASH = 1
    """Only what is durable is left, and the node starts with it."""
    TIMEOUT = 2
    """The election timeout passes in silence."""
    HEARTBEAT = 3
    """A leader's heartbeat is due."""
    PROPOSE = 4
    """A leader is given an entry."""


class Disk(Struct, frozen=True):
    """What is durable."""

    hard_state: HardState = HardState()
    entries: tuple[Entry, ...] = ()
    commit: Index = 0

    def with_write(self, write: Write) -> Disk:
        """The disk after `write`."""
        kept = self.entries[: write.entries[0].index - 1] if write.entries else self.entries
        return Disk(write.hard_state or self.hard_state, kept + write.entries, max(self.commit, write.commit))


class Write(Struct, frozen=True):
    """A Ready on its way to the disk. What later Readies say when it is durable, and they have nothing to write, is among `messages`."""

    number: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    commit: Index
    messages: tuple[Message, ...]


class NodeState(Struct, frozen=True):
    """The value of one node: its core, its disk, and what is on its way there."""

    core: Frozen
    disk: Disk
    pending: tuple[Write, ...] = ()


class Facts(Struct, frozen=True):
    """What rules look at: where a node stands."""

    role: Role
    term: Term
    log: tuple[Entry, ...]
    durable: tuple[Entry, ...]
    committed: Index


class Elected(Struct, frozen=True):
    """The node has become leader of `term`, with this log."""

    term: Term
    log: tuple[Entry, ...]


class Committed(Struct, frozen=True):
    """In `term` the node has learnt that these entries are committed."""

    term: Term
    entries: tuple[Entry, ...]


News = Elected | Committed


class Step(Struct, frozen=True):
    """What an event came to."""

    state: NodeState
    sent: tuple[Message, ...]
    news: tuple[News, ...]
    facts: Facts


def first_state(node: NodeId, configuration: Configuration) -> NodeState:
    """A node that has just been made."""
    return NodeState(freeze(_restarted(node, configuration, Disk())), Disk())


def _restarted(node: NodeId, configuration: Configuration, disk: Disk) -> Raft:
    entries = disk.entries
    runs = [entry.id for before, entry in zip((None, *entries), entries, strict=False) if before is None or before.term != entry.term]
    stored = Stored(
        node,
        next(member.incarnation for member in configuration.members if member.id == node),
        disk.hard_state,
        SnapshotMeta(0, 0, configuration),
        tuple(runs),
        entries,
        entries[-1].id if entries else EntryId(0, 0),
        committed=min(disk.commit, len(entries)),
    )
    return Raft(CONFIG, stored, EARLIEST)


class CoreNode:
    """A node at work. `step` makes one from its value, and takes the value of it afterwards; tests keep one alive all the time."""

    def __init__(self, raft: Raft, disk: Disk, pending: tuple[Write, ...]) -> None:
        self.raft = raft
        self.disk = disk
        self.pending = list(pending)
        self.sent: list[Message] = []
        self.news: list[News] = []

    def happen(self, event: Event | Message) -> None:
        """Let `event` happen, with all that follows from it at once.

        Raises:
            Violation: the node did what it must not.
        """
        before, disk = self.raft, self.disk
        term, role, committed, log = before.term, before.role, before.committed, entries_of(before)
        try:
            self._begin(event)
            self._work()
            self.raft.check_invariants()
        except RaftkvError as error:
            raise Violation("no error", f"{self.raft.node}: {type(error).__name__}: {error}") from error
        raft = self.raft
        if raft is before:
            self._check_progress(term, role, committed, log)
        self._check_disk(disk)
        if raft.role is Role.LEADER and (role is not Role.LEADER or raft.term != term):
            self.news.append(Elected(raft.term, entries_of(raft)))
        known = committed if raft is before else 0
        if raft.committed > known:
            self.news.append(Committed(raft.term, entries_of(raft)[known : raft.committed]))

    def _begin(self, event: Event | Message) -> None:
        raft = self.raft
        match event:
            case Event.PERSIST:
                self._persist()
            case Event.CRASH:
                self.raft = _restarted(raft.node, raft.membership.at(0), self.disk)
                self.pending = []
            case Event.TIMEOUT:
                before = raft._role
                for _ in range(2 * ELECTION_TICKS):
                    raft.tick()
                    if raft._role is not before:
                        break
            case Event.HEARTBEAT:
                for _ in range(HEARTBEAT_TICKS):
                    raft.tick()
            case Event.PROPOSE:
                raft.propose(b"entry")
            case _:
                raft.step(event)

    def _persist(self) -> None:
        write = self.pending.pop(0)
        self.disk = self.disk.with_write(write)
        self.raft.persisted(write.number)
        self._send(write.messages)

    def _work(self) -> None:
        for _ in range(MAX_READIES):
            if not self.raft.has_ready():
                return
            ready = self.raft.ready()
            self._send(ready.messages)
            if ready.must_persist:
                self.pending.append(Write(ready.number, ready.hard_state, ready.entries, ready.commit, ready.messages_after_persist))
            elif self.pending:
                self._wait_with(self.pending.pop(), ready)
            else:
                self.raft.persisted(ready.number)
                self._send(ready.messages_after_persist)
            if ready.committed:
                self._apply(ready.committed)
        raise Violation("no error", f"{self.raft.node} has always something to say")

    def _wait_with(self, write: Write, ready: Ready) -> None:
        """A Ready without anything to write is through when those before it are. What was to be said already is not said twice:
        whoever explores may deliver it twice. What goes to others arrives in any order anyway."""
        messages = {*write.messages, *ready.messages_after_persist}
        own = [message for message in (*write.messages, *ready.messages_after_persist) if message.to == self.raft.node]
        others = sorted(messages.difference(own), key=repr)
        self.pending.append(Write(ready.number, write.hard_state, write.entries, write.commit, (*dict.fromkeys(own), *others)))

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            if self.disk.entries[entry.index - 1 : entry.index] != (entry,):
                raise Violation("marks", f"{self.raft.node} applies {entry.id}, which its disk does not hold")
        self.raft.applied(entries[-1].index)

    def _send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            self._check_vote(message)
            if message.to == self.raft.node:
                self.raft.step(message)
            else:
                self.sent.append(message)

    # Rules of one node.

    def _check_vote(self, message: Message) -> None:
        """Whom a node says that it votes for is whom its disk says (paper, figure 2)."""
        if isinstance(message, Vote):
            candidate = message.sender
        elif isinstance(message, VoteResponse) and message.granted:
            candidate = message.to
        else:
            return
        durable = self.disk.hard_state
        if durable != HardState(message.term, candidate) and durable.term <= message.term:
            raise Violation("one vote a term", f"{self.raft.node} votes for {candidate} in term {message.term}; durable is {durable}")

    def _check_progress(self, term: Term, role: Role, committed: Index, log: tuple[Entry, ...]) -> None:
        raft = self.raft
        if raft.term < term:
            raise Violation("term grows", f"{raft.node} went from term {term} back to {raft.term}")
        if raft.committed < committed:
            raise Violation("commit grows", f"{raft.node} went from commit {committed} back to {raft.committed}")
        if role is Role.LEADER and raft.role is Role.LEADER and raft.term == term and entries_of(raft)[: len(log)] != log:
            raise Violation("leader append-only", f"{raft.node} leads term {term} and changed its log")

    def _check_disk(self, before: Disk) -> None:
        old, new = before.hard_state, self.disk.hard_state
        if new.term < old.term or (new.term == old.term and old.vote is not None and new.vote != old.vote):
            raise Violation("one vote a term", f"{self.raft.node} has {old} on disk and replaces it by {new}")
        persisted = self.raft.persisted_index
        if self.disk.entries[:persisted] != entries_of(self.raft)[:persisted] or len(self.disk.entries) < persisted:
            raise Violation("marks", f"{self.raft.node} takes entries up to {persisted} for durable, and its disk holds others")


def entries_of(raft: Raft) -> tuple[Entry, ...]:
    """The whole log of a core that has compacted nothing."""
    return tuple(raft.log._window)


def step(state: NodeState, event: Event | Message, prompt: bool = False) -> Step:
    """Let `event` happen to a node; `prompt`: and what it writes is durable at once.

    Raises:
        Violation: the node did what it must not.
    """
    node = CoreNode(thaw(state.core), state.disk, state.pending)
    node.happen(event)
    while prompt and node.pending:
        node.happen(Event.PERSIST)
    return Step(value_of(node), tuple(node.sent), tuple(node.news), facts_of(node))


def facts_of(node: CoreNode) -> Facts:
    """Where `node` stands."""
    raft = node.raft
    return Facts(raft.role, raft.term, entries_of(raft), node.disk.entries, raft.committed)


def value_of(node: CoreNode) -> NodeState:
    """The value of `node`. Writes are counted backwards from the newest, so that two nodes that differ only in how many Readies there
    have been are equal."""
    raft, newest = node.raft, len(node.pending)
    pending = [
        Write(number - newest, write.hard_state, write.entries, write.commit, write.messages)
        for number, write in enumerate(node.pending, 1)
    ]
    if len(raft.log._writes) != newest:
        raise Violation("no error", f"{raft.node} believes that {len(raft.log._writes)} writes are under way, and there are {newest}")
    for number, under_way in enumerate(raft.log._writes, 1):
        under_way.number = number - newest
    raft._number = 0
    return NodeState(freeze(raft), node.disk, tuple(pending))


def covers(one: NodeState, other: NodeState) -> bool:
    """Whether `one` is `other`, but for more that others will be told when it is durable, and need not hear. What a node tells itself
    it does hear."""
    if one.core != other.core or one.disk != other.disk or len(one.pending) != len(other.pending):
        return False
    return all(
        (more.hard_state, more.entries, more.commit) == (less.hard_state, less.entries, less.commit)
        and _to_itself(more) == _to_itself(less)
        and set(more.messages) >= set(less.messages)
        for more, less in zip(one.pending, other.pending, strict=True)
    )


def _to_itself(write: Write) -> list[Message]:
    return [message for message in write.messages if message.to == message.sender]
