"""The judge of a simulated cluster: it sees every node from outside, and raises `Violation` when one does what must never happen.

It watches what a node says (nothing that is not durable), what it applies (the same as everybody, from its own durable log), who
leads (one node a term, with all that is committed), and the marks of the core after each event. What nodes have promised one another
is compared with their disks in `promises`. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from xxhash import xxh3_64_intdigest

from raftkv.errors import InvariantBroken
from raftkv.raft.membership import decode_configuration
from raftkv.raft.messages import AppendResponse, Message, Vote, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, EntryKind, Incarnation, Index, NodeId, Term
from raftkv.replica import Replica
from raftkv.sim.clock import Schedule
from raftkv.sim.model import Model
from raftkv.sim.probes import Probes
from raftkv.sim.promises import Promises
from raftkv.sim.trace import Trace, Violation
from raftkv.storage.wal import Wal


class Watched(Protocol):
    """A node, as the judge sees it."""

    @property
    def name(self) -> NodeId: ...
    @property
    def replica(self) -> Replica: ...
    @property
    def wal(self) -> Wal: ...
    @property
    def wiped(self) -> bool: ...
    @property
    def torn(self) -> bool: ...
    @property
    def now_ms(self) -> int: ...
    @property
    def wall_ms(self) -> int: ...
    @property
    def wall_offset_ms(self) -> int: ...


class Watch:
    """Watches one cluster."""

    def __init__(self, trace: Trace, schedule: Schedule) -> None:
        self.leaders: dict[Term, NodeId] = {}
        self.probes = Probes(schedule, self.leaders)
        self.model = Model(self.probes.command_failed)
        self.middle_ms: Callable[[], int] = lambda: 0
        """How far off the middle one of all wall clocks is."""
        self.newest: tuple[Index, Term, Term] = (0, 0, 0)
        """The newest entry known to be committed: index, term, and the term in which that was seen."""
        self._promises = Promises()
        self._trace = trace
        self._formed: tuple[Index, Term, Configuration] | None = None
        self._log: dict[Index, tuple[Term, int]] = {}
        self._committed: dict[Index, Term] = {}
        self._digests: dict[Index, tuple[bytes, int]] = {}
        self._votes: dict[tuple[NodeId, Incarnation, Term], NodeId] = {}
        self._compared: dict[NodeId, bytes] = {}
        self._commits: dict[NodeId, Index] = {}
        self._begins: dict[NodeId, Index] = {}
        self._looked: dict[NodeId, tuple[Term, Role]] = {}

    @property
    def formed(self) -> bool:
        """Whether the cluster has formed, as far as anybody has applied."""
        return self._formed is not None

    def started(self, node: Watched) -> None:
        """A process of `node` has opened its directory."""
        raft = node.replica.raft
        if raft.term < node.wal.hard_state.term:
            raise Violation("restart", f"{node.name} starts in term {raft.term}, its disk says {node.wal.hard_state}")
        self._commits[node.name] = raft.log.begin.index
        self._looked[node.name] = (raft.term, raft.role)
        self._compared.pop(node.name, None)
        self._compare_digest(node)
        self._check_membership(node.name, raft)
        self._promises.started(node)

    # What a node says.

    def sends(self, node: Watched, message: Message) -> None:
        """`message` leaves `node` now."""
        name, stored = node.name, node.wal.hard_state
        if message.term > stored.term:
            raise Violation("durable first", f"{name} reveals term {message.term}, durable is {stored}: {message}")
        if isinstance(message, AppendResponse):
            if message.match > node.wal.last_index and message.term == stored.term:
                raise Violation("durable first", f"{name} acknowledges {message.match}, its log ends at {node.wal.last_index}")
        elif isinstance(message, Vote) or (isinstance(message, VoteResponse) and message.granted):
            candidate = name if isinstance(message, Vote) else message.to
            if stored.term == message.term and stored.vote != candidate:
                raise Violation("durable first", f"{name} votes for {candidate} in {message.term}, durable is {stored}")
            key = (name, message.incarnation, message.term)
            if self._votes.setdefault(key, candidate) != candidate:
                raise Violation("one vote", f"{name} votes for {candidate} and {self._votes[key]} in term {message.term}")
        self._promises.sends(node, message)

    # What it applies.

    def applies(self, node: Watched, index: Index, term: Term, kind: EntryKind, payload: bytes | None) -> None:
        """The machine of `node` is about to apply an entry. `kind` is BATCH, or NOOP for all others."""
        about = (term, xxh3_64_intdigest(payload or b"") ^ kind)
        known = self._log.get(index)
        if known is None:
            self._log[index] = about
            if kind is not EntryKind.BATCH and payload is not None:
                self._formed = (index, term, decode_configuration(payload))
            self.model.apply(index, payload if kind is EntryKind.BATCH else None)
            self._promises.clock_shows(node, self.model.clock_ms)
        elif known != about:
            raise Violation("state machine safety", f"{node.name} applies {index}@{term}, and another node applied {known}")
        if node.wal.term_at(index) != term:
            raise Violation("apply durable", f"{node.name} applies {index}@{term}, which its durable log does not hold")

    def _compare_digest(self, node: Watched) -> None:
        machine = node.replica.machine
        if machine.applied_index and self._compared.get(node.name) is not machine.digest:
            self._compared[node.name] = machine.digest
            offset_ms = node.wall_offset_ms
            known, other_ms = self._digests.setdefault(machine.applied_index, (machine.digest, offset_ms))
            self.probes.compares(abs(offset_ms - other_ms))
            if known != machine.digest:
                raise Violation("equal states", f"the state of {node.name} at {machine.applied_index} differs from another node's")
            if machine.applied_index == self.model.index and machine.clock_ms != self.model.clock_ms:
                raise Violation("log's clock", f"it shows {machine.clock_ms} at {node.name}, and the log says {self.model.clock_ms}")

    def _check_membership(self, name: NodeId, raft: Raft) -> None:
        """A node whose log holds the committed configuration follows it."""
        if self._formed is None:
            return
        index, term, configuration = self._formed
        holds = raft.log.begin.index >= index or raft.log.holds(index, term)
        if holds and raft.configuration != configuration:
            raise Violation("membership", f"{name} follows {raft.configuration}; its log holds {configuration}, committed at {index}")

    # How it stands.

    def looked_at(self, node: Watched) -> None:
        """An event of `node` is over."""
        raft = node.replica.raft
        try:
            raft.check_invariants()
        except InvariantBroken as error:
            raise Violation("invariant", f"{node.name}: {error}") from error
        term, role = self._looked[node.name]
        if raft.term < term:
            raise Violation("term grows", f"{node.name} went from term {term} back to {raft.term}")
        if raft.term != term or raft.role is not role:
            self._looked[node.name] = (raft.term, raft.role)
            self._trace.note(node.name, "is now", f"{raft.role} of term {raft.term}, log to {raft.last_index}, committed {raft.committed}")
            if raft.role is Role.LEADER:
                self._leads(node.name, raft)
                self.probes.leads(raft, abs(node.wall_offset_ms - self.middle_ms()))
        if self._begins.get(node.name) != raft.log.begin.index:
            self._begins[node.name] = raft.log.begin.index
            self._check_membership(node.name, raft)
        self._commits_of(node.name, raft)
        self._compare_digest(node)
        self._promises.looked_at(node)

    def _leads(self, name: NodeId, raft: Raft) -> None:
        if self.leaders.setdefault(raft.term, name) != name:
            raise Violation("election safety", f"{name} and {self.leaders[raft.term]} both lead term {raft.term}")
        index, term, seen = self.newest
        if seen < raft.term and index > raft.log.begin.index and not raft.log.holds(index, term):
            raise Violation("leader completeness", f"{name} leads term {raft.term} without the committed entry {index}@{term}")
        self._check_membership(name, raft)
        self._trace.count(name, "elected", raft.term, raft.last_index)

    def _commits_of(self, name: NodeId, raft: Raft) -> None:
        before = self._commits[name]
        committed = raft.committed
        if committed == before:
            return
        if committed < before:
            raise Violation("commit grows", f"{name} went from {before} back to {committed}")
        self._commits[name] = committed
        self._trace.note(name, "commits", "up to", committed)
        log = raft.log
        for index in range(max(before, log.begin.index) + 1, committed + 1):
            term = log.term_at(index)
            if term is None or self._committed.setdefault(index, term) != term:
                raise Violation("log matching", f"{name} commits {index}@{term}, another committed {self._committed.get(index)} there")
        last = log.term_at(committed)
        if committed > self.newest[0] and last is not None:
            self.newest = (committed, last, raft.term)
