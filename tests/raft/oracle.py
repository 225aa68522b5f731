"""The judge of a `Network`: it watches every node from outside and raises `Violation` when a safety property breaks.

It knows what no node knows (everybody's disk, everything ever committed) and trusts no node's account of itself. The rules are the
five properties of figure 3 of the Raft paper, the promises about what is durable before which message leaves, one vote a term, and
the freshness of linearizable reads. Each rule has a name, so that a test of a planted fault can say which one it must break.

It never changes anything, and it says nothing about progress: a network that does nothing violates nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.raft.messages import AppendResponse, Message, Vote, VoteResponse
from raftkv.raft.ready import Ready, Role
from raftkv.raft.types import Configuration, Entry, EntryId, Incarnation, Index, NodeId, Term

if TYPE_CHECKING:
    from tests.raft.network import Node


class Violation(AssertionError):
    """A safety property does not hold; `rule` names it."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


class ShadowLog:
    """A node's log as its Readies describe it, durable or not."""

    def __init__(self, begin: EntryId, entries: list[Entry]) -> None:
        self.begin = begin
        self.entries = list(entries)

    @property
    def last(self) -> Index:
        """The newest index."""
        return self.begin.index + len(self.entries)

    def term_at(self, index: Index) -> Term | None:
        """The term at `index`, None where nothing is known."""
        if index == self.begin.index:
            return self.begin.term
        position = index - self.begin.index - 1
        return self.entries[position].term if 0 <= position < len(self.entries) else None

    def holds(self, entry: EntryId) -> bool:
        """Whether the log has this entry, as far as it can tell: what was compacted away counts as held."""
        return entry.index < self.begin.index or self.term_at(entry.index) == entry.term


def quorum(holders: set[NodeId], configuration: Configuration) -> bool:
    """Whether `holders` include a majority of the voters, and of the outgoing voters while the configuration is joint."""
    halves = [half for half in (configuration.voters, configuration.outgoing) if half]
    return all(len(holders & set(half)) * 2 > len(half) for half in halves)


class Oracle:
    """Watches one network.

    Args:
        sees_all: every node's disk is in the network. False when a test plays some of the nodes: then nobody can say on how many
            disks an entry is.
    """

    def __init__(self, sees_all: bool = True) -> None:
        self.sees_all = sees_all
        self.leaders: dict[Term, NodeId] = {}
        self.created: dict[EntryId, tuple[Entry, Term | None]] = {}
        self.durable: dict[EntryId, set[tuple[NodeId, Incarnation]]] = {}
        """On which disks each entry is or was. A directory that was wiped since counts: its node will never vote again."""
        self.committed: dict[Index, tuple[Term, Term]] = {}
        """For each committed index, the entry's term and the term in which it was seen to be committed."""
        self.commit_high: Index = 0
        self.applied: dict[Index, EntryId] = {}
        self.states: dict[Index, int] = {}
        self.votes: dict[tuple[NodeId, Incarnation, Term], NodeId] = {}
        self.shadows: dict[NodeId, ShadowLog] = {}
        self.commits: dict[NodeId, Index] = {}
        self.terms: dict[NodeId, Term] = {}
        self.asked: dict[tuple[NodeId, int], Index] = {}
        self.answered: list[tuple[NodeId, int, Index]] = []

    # -- what the network reports

    def started(self, node: Node) -> None:
        """`node` has just begun to run."""
        disk, raft = node.disk, node.raft
        self.shadows[node.name] = ShadowLog(EntryId(disk.begin.index, disk.begin.term), disk.entries)
        self.commits[node.name] = raft.committed
        self.terms[node.name] = raft.term
        self.commit_high = max(self.commit_high, raft.committed)
        for key in [key for key in self.asked if key[0] == node.name]:
            del self.asked[key]
        if raft.term != disk.hard_state.term:
            raise Violation("restart", f"{node.name} starts in term {raft.term}, its disk says {disk.hard_state.term}")
        for entry in disk.entries:
            self.durable.setdefault(entry.id, set()).add((node.name, node.disk.incarnation))

    def took(self, node: Node, ready: Ready) -> None:
        """`node` made this Ready."""
        shadow = self.shadows[node.name]
        snapshot = ready.snapshot
        if snapshot is not None and shadow.term_at(snapshot.index) != snapshot.term:
            lost = [index for index in self.committed if snapshot.index < index <= shadow.last]
            if any(shadow.term_at(index) == self.committed[index][0] for index in lost):
                raise Violation("log kept", f"{node.name} drops committed entries behind the snapshot at {snapshot.index}")
            self.shadows[node.name] = shadow = ShadowLog(EntryId(snapshot.index, snapshot.term), [])
        if ready.entries:
            self._grew(node, shadow, ready.entries)
        for point in ready.reads:
            self._answers(node, point.context, point.index)

    def _grew(self, node: Node, shadow: ShadowLog, entries: tuple[Entry, ...]) -> None:
        first = entries[0].index
        if not shadow.begin.index < first <= shadow.last + 1:
            raise Violation("log matching", f"{node.name} writes {first}, its log is {shadow.begin.index}..{shadow.last}")
        cut = [index for index in range(first, shadow.last + 1) if index >= first]
        if cut and self.leaders.get(node.raft.term) == node.name:
            raise Violation("leader append-only", f"{node.name} overwrites {first}..{shadow.last} in its own term {node.raft.term}")
        replaced = {entry.index: entry.term for entry in entries}
        for index in cut:
            if index <= self.commits[node.name] and replaced.get(index) != shadow.term_at(index):
                raise Violation("log kept", f"{node.name} overwrites its committed entry {index}")
        del shadow.entries[first - shadow.begin.index - 1 :]
        for entry in entries:
            before = shadow.term_at(entry.index - 1)
            known, known_before = self.created.setdefault(entry.id, (entry, before))
            if entry.index != shadow.last + 1 or known != entry or before not in (None, known_before):
                raise Violation("log matching", f"{entry.id} at {node.name} is not the entry known by that name")
            shadow.entries.append(entry)

    def wrote(self, node: Node, ready: Ready) -> None:
        """This Ready of `node` became durable."""
        for entry in ready.entries:
            self.durable.setdefault(entry.id, set()).add((node.name, node.disk.incarnation))

    def applies(self, node: Node, entry: Entry) -> None:
        """The machine of `node` is about to apply `entry`."""
        if entry.index != node.machine.index + 1:
            raise Violation("state machine safety", f"{node.name} applies {entry.index} after {node.machine.index}")
        if self.applied.setdefault(entry.index, entry.id) != entry.id:
            raise Violation("state machine safety", f"{node.name} applies {entry.id}, others {self.applied[entry.index]}")
        if node.disk.term_at(entry.index) != entry.term and entry.index > node.disk.begin.index:
            raise Violation("apply durable", f"{node.name} applies {entry.id}, which its disk does not hold")
        if entry.index > node.raft.committed:
            raise Violation("apply committed", f"{node.name} applies {entry.id}, committed is {node.raft.committed}")

    def sends(self, node: Node, message: Message) -> None:
        """`message` leaves `node` now."""
        disk, name = node.disk, node.name
        if message.sender != name or message.incarnation != disk.incarnation:
            raise Violation("envelope", f"{name} sends {message}")
        if message.term > disk.hard_state.term:
            raise Violation("durable first", f"{name} reveals term {message.term}, durable is {disk.hard_state.term}")
        if isinstance(message, Vote):
            self._votes(node, message.term, name)
        elif isinstance(message, VoteResponse) and message.granted:
            self._votes(node, message.term, message.to if message.to != name else name)
        elif isinstance(message, AppendResponse):
            self._acknowledges(node, message)

    def asks(self, node: Node, context: int) -> None:
        """A client asks `node` for a linearizable read."""
        self.asked[node.name, context] = self.commit_high

    def looked_at(self, node: Node) -> None:
        """`node` has come to rest."""
        if not node.up:
            return
        raft, name = node.raft, node.name
        raft.check_invariants()
        if raft.has_ready():
            return  # held back: what is known of its log is behind
        if raft.term < self.terms[name]:
            raise Violation("term grows", f"{name} went from term {self.terms[name]} to {raft.term}")
        self.terms[name] = raft.term
        if raft.role is Role.LEADER:
            self._leads(node)
        self._commits(node)
        if not node.pages and not node.writing and raft.fenced is None and raft.applied_index != node.machine.index:
            raise Violation("applied position", f"{name} says {raft.applied_index}, its machine is at {node.machine.index}")
        state = node.machine
        if self.states.setdefault(state.index, state.digest) != state.digest:
            raise Violation("state machine safety", f"the state of {name} at {state.index} differs")

    # -- the rules

    def _votes(self, node: Node, term: Term, candidate: NodeId) -> None:
        stored = node.disk.hard_state
        if (stored.term, stored.vote) != (term, candidate) and stored.term <= term:
            raise Violation("durable first", f"{node.name} votes for {candidate} in {term}, durable is {stored}")
        key = (node.name, node.disk.incarnation, term)
        if self.votes.setdefault(key, candidate) != candidate:
            raise Violation("one vote", f"{node.name} votes for {candidate} and for {self.votes[key]} in term {term}")

    def _acknowledges(self, node: Node, message: AppendResponse) -> None:
        mine = node.disk.term_at(message.match)
        if message.match > node.disk.last.index:
            raise Violation("durable first", f"{node.name} acknowledges {message.match}, its disk ends at {node.disk.last}")
        leader = self.leaders.get(message.term)
        if leader is None or not node.network.nodes[leader].leads(message.term):
            return
        shadow = self.shadows[leader]
        theirs = shadow.term_at(message.match)
        if message.match > shadow.last or (mine is not None and theirs is not None and mine != theirs):
            raise Violation("verified only", f"{node.name} acknowledges {message.match}@{mine} to {leader}, which has {theirs}")

    def _leads(self, node: Node) -> None:
        raft, name = node.raft, node.name
        first_seen = raft.term not in self.leaders
        if self.leaders.setdefault(raft.term, name) != name:
            raise Violation("election safety", f"{name} and {self.leaders[raft.term]} both lead term {raft.term}")
        if not first_seen:
            return
        shadow = self.shadows[name]
        for index, (term, seen_in) in self.committed.items():
            if seen_in < raft.term and not shadow.holds(EntryId(index, term)):
                raise Violation("leader completeness", f"{name} leads term {raft.term} without {index}@{term}")

    def _commits(self, node: Node) -> None:
        raft, name = node.raft, node.name
        before = self.commits[name]
        if raft.committed < before:
            raise Violation("commit grows", f"{name} went from {before} back to {raft.committed}")
        shadow = self.shadows[name]
        for index in range(max(before, shadow.begin.index) + 1, raft.committed + 1):
            term = shadow.term_at(index)
            if term is None:
                raise Violation("commit exists", f"{name} commits {index}, which it does not have")
            if index not in self.committed:
                self._first_commit(node, EntryId(index, term))
            elif self.committed[index][0] != term:
                raise Violation("state machine safety", f"{name} commits {index}@{term}, others @{self.committed[index][0]}")
        self.commits[name] = raft.committed
        self.commit_high = max(self.commit_high, raft.committed)

    def _first_commit(self, node: Node, entry: EntryId) -> None:
        raft = node.raft
        self.committed[entry.index] = (entry.term, raft.term)
        configuration = raft.configuration
        formed = {member.id: member.incarnation for member in configuration.members}
        holders = {name for name, incarnation in self.durable.get(entry, set()) if formed.get(name) in (0, incarnation)}
        if self.sees_all and not quorum(holders, configuration):
            raise Violation("quorum durable", f"{node.name} commits {entry}, durable only on {sorted(holders)}")

    def _answers(self, node: Node, context: int, index: Index) -> None:
        floor = self.asked.pop((node.name, context), None)
        if floor is None:
            raise Violation("read asked", f"{node.name} answers read {context}, which nobody asked")
        if index < floor:
            raise Violation("fresh read", f"{node.name} answers read {context} at {index}; {floor} was committed when it was asked")
        self.answered.append((node.name, context, index))
