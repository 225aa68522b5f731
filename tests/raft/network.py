"""A small deterministic network of `Raft` instances, driven by hand.

A `Network` holds nodes and the messages between them. Nothing moves on its own: a test says who ticks, which message arrives, when
a write becomes durable and when the machine applies. A `Node` is what the shell of a real node would be, reduced to its promises:
a `Disk` that survives a crash, a `Machine` whose unflushed part does not, and a queue of Readies on their way to the disk.

What always holds: Readies become durable in order; a message of `messages_after_persist` enters the network only after its Ready
did; a message whose receiver is its sender goes straight back into `step`; after every step `Oracle` has looked at the node.

What it does not do: no time, no randomness of its own, no bytes on a wire.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from raftkv.raft.config import Config
from raftkv.raft.membership import decode_configuration
from raftkv.raft.messages import InstallSnapshot, Message, PreVote, Vote
from raftkv.raft.node import Raft
from raftkv.raft.ready import Fetch, ReadPoint, Ready, Role
from raftkv.raft.types import (
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Index,
    Member,
    NodeId,
    SnapshotMeta,
    Stored,
    Term,
)
from tests.raft.oracle import Oracle

NOTHING = EntryId(0, 0)
"""The position before the first entry."""

RaftFactory = Callable[[Config, Stored, random.Random], Raft]

TEST_CONFIG = Config(election_ticks=10, heartbeat_ticks=3, lease_ticks=8)
"""Short waits, so that a trace of a whole election fits on a page."""


class Patience(random.Random):
    """A random source whose every draw is the same chosen `fraction` of its range, so that a test decides who campaigns first."""

    def __init__(self, fraction: float) -> None:
        super().__init__(0)
        self.fraction = fraction

    def random(self) -> float:
        return self.fraction

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        low, high = (0, start) if stop is None else (start, stop)
        return low + int(self.fraction * (high - low)) // step * step

    def randint(self, a: int, b: int) -> int:
        return self.randrange(a, b + 1)


@dataclass
class Disk:
    """What one node's log directory holds: everything here survives a crash."""

    incarnation: int
    hard_state: HardState = field(default_factory=HardState)
    begin: SnapshotMeta = field(default_factory=SnapshotMeta)
    entries: list[Entry] = field(default_factory=list)
    commit: Index = 0
    suspect: Index | None = None

    @property
    def last(self) -> EntryId:
        """The name of the newest durable entry."""
        return self.entries[-1].id if self.entries else EntryId(self.begin.index, self.begin.term)

    def term_at(self, index: Index) -> Term | None:
        """The term of the durable entry at `index`, or None where the log holds nothing."""
        if index == self.begin.index:
            return self.begin.term
        position = index - self.begin.index - 1
        return self.entries[position].term if 0 <= position < len(self.entries) else None

    def read(self, first: Index, last: Index, max_bytes: int) -> list[Entry]:
        """Entries `first` to `last`, at least one if it is there, at most `max_bytes` of payload beyond that one."""
        start = first - self.begin.index - 1
        if start < 0:
            return []
        found: list[Entry] = []
        size = 0
        for entry in self.entries[start : last - self.begin.index]:
            size += len(entry.payload)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    def write(self, ready: Ready) -> None:
        """Make one Ready durable: hard state, snapshot, entries, in that order, as one step."""
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        snapshot = ready.snapshot
        if snapshot is not None and self.term_at(snapshot.index) != snapshot.term:
            self.begin = snapshot
            self.entries = []
        if ready.entries:
            keep = ready.entries[0].index - self.begin.index - 1
            if not 0 <= keep <= len(self.entries):
                raise AssertionError(f"a write at {ready.entries[0].id} leaves a gap after {self.last}")
            self.entries[keep:] = ready.entries
        self.commit = max(self.commit, ready.commit)

    def compact(self, meta: SnapshotMeta) -> None:
        """Forget the entries up to `meta.index`."""
        self.entries = self.entries[meta.index - self.begin.index :]
        self.begin = meta

    def term_runs(self) -> tuple[EntryId, ...]:
        """The first entry of each run of equal terms."""
        runs: list[EntryId] = []
        for entry in self.entries:
            if not runs or runs[-1].term != entry.term:
                runs.append(entry.id)
        return tuple(runs)


@dataclass(frozen=True)
class MachineState:
    """A state machine that remembers where it is and a hash of everything that led there."""

    index: Index = 0
    term: Term = 0
    digest: int = 0
    configuration: Configuration = field(default=Configuration(), compare=False)
    """The newest configuration among what it applied, kept with the state as the real one does."""

    def apply(self, entry: Entry) -> MachineState:
        """The state after `entry`."""
        digest = hash((self.digest, entry.index, entry.term, entry.payload))
        changed = entry.kind is EntryKind.CONFIGURATION
        configuration = decode_configuration(entry.payload) if changed else self.configuration
        return MachineState(entry.index, entry.term, digest, configuration)


@dataclass
class Flight:
    """A message on its way; an `InstallSnapshot` carries the state that its files would hold."""

    message: Message
    state: MachineState | None = None


@dataclass
class Held:
    """What a test keeps from happening by itself on one node."""

    ready: bool = False
    persist: bool = False
    apply: bool = False
    fetch: bool = False


class Node:
    """One node: a disk, a machine, and while it is up a `Raft`."""

    def __init__(self, name: NodeId, network: Network, disk: Disk, machine: MachineState, fraction: float) -> None:
        self.name = name
        self.network = network
        self.disk = disk
        self.flushed = machine
        """The machine's state that would survive a crash."""
        self.machine = machine
        self.patience = Patience(fraction)
        self.held = Held()
        self.state_lost = False
        self.writing: deque[Ready] = deque()
        self.pages: deque[tuple[Entry, ...]] = deque()
        self.fetches: deque[Fetch] = deque()
        self.staged: dict[Index, MachineState] = {}
        self.reads: list[ReadPoint] = []
        self.readies: list[Ready] = []
        """Every Ready since the last start, for tests that compare effects exactly."""
        self.campaigns = 0
        """How many PreVotes and votes this node asked for."""
        self.raft_or_none: Raft | None = None

    @property
    def up(self) -> bool:
        """Whether the node runs."""
        return self.raft_or_none is not None

    @property
    def lacks_state(self) -> bool:
        """Whether a start would find no state that the log could bring up to date."""
        return self.state_lost or self.flushed.index < self.disk.begin.index

    def leads(self, term: Term) -> bool:
        """Whether the node runs and leads `term`."""
        return self.up and self.raft.role is Role.LEADER and self.raft.term == term

    @property
    def raft(self) -> Raft:
        """The running core; a test that asks a crashed node for it is wrong."""
        if self.raft_or_none is None:
            raise AssertionError(f"{self.name} is down")
        return self.raft_or_none

    def stored(self) -> Stored:
        """What a start finds on the disk."""
        disk = self.disk
        tail = tuple(disk.entries[-self.network.tail_entries :]) if self.network.tail_entries else ()
        return Stored(
            node=self.name,
            incarnation=disk.incarnation,
            hard_state=disk.hard_state,
            snapshot=disk.begin,
            term_runs=disk.term_runs(),
            tail=tail,
            last=disk.last,
            configurations=tuple(
                (entry.index, decode_configuration(entry.payload))
                for entry in disk.entries
                if entry.kind is EntryKind.CONFIGURATION
            ),
            committed=max(disk.begin.index, min(max(disk.commit, self.flushed.index), disk.last.index)),
            applied=self.flushed.index,
            suspect=disk.suspect,
            fenced="the state store is lost" if self.lacks_state else None,
        )

    def start(self) -> None:
        """Run on what the disk holds."""
        self.machine = self.flushed
        self._reconcile()
        self.raft_or_none = self.network.factory(self.network.config, self.stored(), self.patience)
        self.network.oracle.started(self)
        self.settle()

    def _reconcile(self) -> None:
        """A state beyond the end of the log, or of another term than the log there: the log begins anew after the state."""
        state, disk = self.flushed, self.disk
        if state.index > disk.last.index or (state.index >= disk.begin.index and disk.term_at(state.index) != state.term):
            known = state.configuration if state.configuration.members else disk.begin.configuration
            disk.begin = SnapshotMeta(state.index, state.term, known)
            disk.entries = []
            disk.commit = state.index

    def crash(self, written: int = 0) -> None:
        """Stop at once. The oldest `written` Readies in flight had just become durable, without anybody having heard of it."""
        for _ in range(min(written, len(self.writing))):
            self._make_durable(self.writing.popleft())
        self.raft_or_none = None
        self.writing.clear()
        self.pages.clear()
        self.fetches.clear()
        self.staged.clear()
        self.reads.clear()
        self.readies.clear()

    def does(self, action: Callable[[Raft], object]) -> None:
        """Call a verb of the core, which may refuse, and carry out what comes of it."""
        try:
            action(self.raft)
        finally:
            self.settle()

    def settle(self) -> None:
        """Carry out Readies until the core has nothing more to say or everything left is held back."""
        for _ in range(10_000):
            if not self._settle_once():
                self.network.oracle.looked_at(self)
                return
        raise AssertionError(f"{self.name} never comes to rest")

    def _settle_once(self) -> bool:
        if self.up and self.raft.has_ready() and not self.held.ready:
            self._take(self.raft.ready())
            return True
        if self.writing and not self.held.persist:
            self._persist()
            return True
        if self.pages and not self.held.apply:
            self._apply()
            return True
        if self.fetches and not self.held.fetch:
            self._answer_fetch()
            return True
        return False

    def _take(self, ready: Ready) -> None:
        self.readies.append(ready)
        self.network.oracle.took(self, ready)
        self.writing.append(ready)
        self._send(ready.messages)
        if ready.snapshot is not None:
            self.pages.clear()  # what was to be applied is part of the snapshot
            self.machine = self.flushed = self.staged[ready.snapshot.index]  # durable before the log hears of it
            self.state_lost = False
        if ready.committed:
            self.pages.append(ready.committed)
        self.fetches.extend(ready.fetch)
        self.reads.extend(ready.reads)

    def persist(self, count: int = 1) -> None:
        """The oldest `count` Readies in flight become durable, and the node hears of it."""
        for _ in range(count):
            self._persist()
            while self.raft.has_ready() and not self.held.ready:
                self._take(self.raft.ready())
        self.settle()

    def apply(self) -> None:
        """The machine applies the oldest page of committed entries."""
        self._apply()
        self.settle()

    def answer_fetch(self) -> None:
        """Read from the log what the core asked for."""
        self._answer_fetch()
        self.settle()

    def _persist(self) -> None:
        ready = self.writing.popleft()
        self._make_durable(ready)
        self.raft.persisted(ready.number)
        self._send(ready.messages_after_persist)

    def _make_durable(self, ready: Ready) -> None:
        self.disk.write(ready)
        if self.up and self.disk.suspect is not None and self.raft.suspect is None:
            self.disk.suspect = None
        self.network.oracle.wrote(self, ready)

    def _apply(self) -> None:
        page = self.pages.popleft()
        for entry in page:
            self.network.oracle.applies(self, entry)
            self.machine = self.machine.apply(entry)
        self.raft.applied(page[-1].index)

    def flush(self) -> None:
        """What the machine has applied would survive a crash from now on."""
        self.flushed = self.machine

    def _answer_fetch(self) -> None:
        fetch = self.fetches.popleft()
        self.raft.fetched(fetch.peer, tuple(self.disk.read(fetch.first, fetch.last, fetch.max_bytes)))

    def compact(self, index: Index) -> SnapshotMeta:
        """Cut the log behind `index`, which the flushed machine covers."""
        self.flush()
        meta = self.raft.compacted(index)
        self.disk.compact(meta)
        self.settle()
        return meta

    def _send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.network.oracle.sends(self, message)
            self.campaigns += isinstance(message, PreVote | Vote)
            if message.to == self.name:
                self.raft.step(message)
            else:
                self.network.sent(self, message)


class Network:
    """Nodes, and the messages between them in the order in which they were sent."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        config: Config = TEST_CONFIG,
        begin: EntryId = NOTHING,
        nodes: Iterable[NodeId] | None = None,
        factory: RaftFactory = Raft,
        tail_entries: int = 1 << 20,
    ) -> None:
        self.config = config
        self.factory = factory
        self.tail_entries = tail_entries
        self.configuration = configuration
        self.oracle = Oracle()
        self.flights: list[Flight] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.lost: list[Message] = []
        """Messages that a cut link swallowed, newest last."""
        self.nodes: dict[NodeId, Node] = {}
        wanted = sorted(member.id for member in configuration.members) if nodes is None else list(nodes)
        for rank, name in enumerate(wanted):
            incarnation = next(member.incarnation for member in configuration.members if member.id == name)
            self.add(name, incarnation or rank + 101, begin, fraction=0.3 + 0.5 * rank / len(wanted))

    def add(self, name: NodeId, incarnation: int, begin: EntryId, *, fraction: float = 0.0) -> Node:
        """Start a node whose log begins after `begin`, with the network's first configuration."""
        disk = Disk(incarnation, begin=SnapshotMeta(begin.index, begin.term, self.configuration), commit=begin.index)
        if begin.term:
            disk.hard_state = HardState(begin.term)
        node = Node(name, self, disk, MachineState(begin.index, begin.term, 0, self.configuration), fraction)
        self.nodes[name] = node
        node.start()
        return node

    def __getitem__(self, name: NodeId) -> Node:
        return self.nodes[name]

    @property
    def running(self) -> list[Node]:
        """The nodes that are up, in order of their names."""
        return [node for _, node in sorted(self.nodes.items()) if node.up]

    def leader(self) -> Node | None:
        """The running leader of the highest term, if there is one."""
        leaders = [node for node in self.running if node.raft.role is Role.LEADER]
        return max(leaders, key=lambda node: node.raft.term) if leaders else None

    # -- what goes into the network and what comes out

    def sent(self, sender: Node, message: Message) -> None:
        """A message leaves its sender; a cut link swallows it."""
        if (message.sender, message.to) in self.cut:
            self.lost.append(message)
            if isinstance(message, InstallSnapshot):
                sender.raft.snapshot_finished(message.to, False)
            return
        state = None
        if isinstance(message, InstallSnapshot):
            meta = sender.raft.snapshot_meta(sender.machine.index)
            message = InstallSnapshot(message.sender, message.to, message.term, message.incarnation, meta)
            state = sender.machine
        self.flights.append(Flight(message, state))

    def deliver(self, flight: Flight, *, keep: bool = False) -> None:
        """`flight` arrives; with `keep` a copy of it stays on its way."""
        if not keep:
            self.flights.remove(flight)
        message = flight.message
        receiver = self.nodes.get(message.to)
        if receiver is None or not receiver.up or (message.sender, message.to) in self.cut:
            self.lost.append(message)
            if isinstance(message, InstallSnapshot):
                self._finished(message, ok=False)
            return
        if isinstance(message, InstallSnapshot) and flight.state is not None:
            receiver.staged[message.snapshot.index] = flight.state
        receiver.raft.step(message)
        receiver.settle()
        if isinstance(message, InstallSnapshot):
            self._finished(message, ok=True)

    def drop(self, flight: Flight) -> None:
        """`flight` never arrives."""
        self.flights.remove(flight)
        self.lost.append(flight.message)
        if isinstance(flight.message, InstallSnapshot):
            self._finished(flight.message, ok=False)

    def _finished(self, message: InstallSnapshot, *, ok: bool) -> None:
        """The shell of the sender always learns how a transfer ended, if only by a deadline."""
        sender = self.nodes[message.sender]
        if sender.up:
            sender.raft.snapshot_finished(message.to, ok)
            sender.settle()

    def stabilize(self, names: Iterable[NodeId] | None = None) -> None:
        """Deliver to `names` (everybody, if not given) in the order of sending, until nothing moves any more."""
        only = set(self.nodes if names is None else names)
        for _ in range(5_000):
            waiting = [flight for flight in self.flights if flight.message.to in only]
            if not waiting:
                return
            self.deliver(waiting[0])
        raise AssertionError("the network never comes to rest")

    def tick(self, *names: NodeId, times: int = 1) -> None:
        """Time passes at `names` (everybody, if not given)."""
        for _ in range(times):
            for node in [self.nodes[name] for name in names] if names else self.running:
                node.raft.tick()
                node.settle()

    # -- bigger steps, for the set-up of a test

    def campaign(self, name: NodeId) -> None:
        """Let `name` tick until its patience ends and it starts an election, or another one."""
        before = self.nodes[name].campaigns
        for _ in range(2 * self.config.election_ticks + 1):
            self.tick(name)
            if self.nodes[name].campaigns > before:
                return
        raise AssertionError(f"{name} does not campaign")

    def elect(self, name: NodeId) -> None:
        """Make `name` the leader of all that it can reach, and let everything settle.

        The other followers hear nothing for `election_ticks`, so that they would vote again; their own patience is longer.
        """
        for node in self.running:
            if node.name != name and node.raft.role is Role.FOLLOWER and node.raft.leader is not None:
                self.tick(node.name, times=self.config.election_ticks)
        for _ in range(2):  # the first attempt may do no more than teach it the term
            self.campaign(name)
            self.stabilize()
            if self.nodes[name].raft.role is Role.LEADER:
                return
        raise AssertionError(f"{name} was not elected")

    def propose(self, name: NodeId, *payloads: bytes) -> list[EntryId]:
        """Propose at `name`, one entry a payload, without delivering anything."""
        node = self.nodes[name]
        ids = [node.raft.propose(payload) for payload in payloads]
        node.settle()
        return ids

    def read(self, name: NodeId, context: int) -> None:
        """Ask `name` for a linearizable read."""
        node = self.nodes[name]
        self.oracle.asks(node, context)
        node.raft.read_index(context)
        node.settle()

    def partition(self, *sides: Iterable[NodeId]) -> None:
        """Cut every link between two of `sides`; what was on its way over them is lost when it would arrive."""
        groups = [set(side) for side in sides]
        for one in groups:
            for other in groups:
                if one is not other:
                    self.cut |= {(a, b) for a in one for b in other}

    def isolate(self, name: NodeId) -> None:
        """Cut `name` off from everybody."""
        self.partition([name], [other for other in self.nodes if other != name])

    def heal(self) -> None:
        """Mend every link."""
        self.cut.clear()


def formed(*voters: NodeId, learners: tuple[NodeId, ...] = (), lease_reads: bool = False) -> Configuration:
    """A configuration whose members have met: the incarnation of the n-th by name is 100 + n."""
    names = sorted((*voters, *learners))
    return Configuration(
        members=tuple(Member(name, 101 + rank, f"{name}:1") for rank, name in enumerate(names)),
        voters=tuple(sorted(voters)),
        learners=tuple(sorted(learners)),
        lease_reads=lease_reads,
    )


def unformed(*voters: NodeId) -> Configuration:
    """The bootstrap configuration of a new cluster."""
    return Configuration(members=tuple(Member(name, 0, f"{name}:1") for name in sorted(voters)), voters=tuple(sorted(voters)))


def alone(
    *terms: Term,
    term: Term = 0,
    vote: NodeId | None = None,
    commit: Index = 0,
    voters: int = 3,
    config: Config = TEST_CONFIG,
    learners: tuple[NodeId, ...] = (),
    lease_reads: bool = False,
) -> Node:
    """Node n1 of a cluster whose other nodes are played by the test, with a log of entries of these `terms`."""
    names = [f"n{rank + 1}" for rank in range(voters)]
    network = Network(formed(*names, learners=learners, lease_reads=lease_reads), config=config, nodes=[])
    network.oracle.sees_all = False
    disk = Disk(
        101,
        HardState(max([term, *terms]), vote),
        SnapshotMeta(0, 0, network.configuration),
        [Entry(rank, of, EntryKind.BATCH, b"%d" % rank) for rank, of in enumerate(terms, start=1)],
        commit,
    )
    node = network.nodes["n1"] = Node("n1", network, disk, MachineState(0, 0, 0, network.configuration), 0.5)
    node.start()
    return node


def hear(node: Node, *messages: Message) -> list[Message]:
    """Step `messages` at `node`, let it settle, and return what it sent."""
    for message in messages:
        node.raft.step(message)
        node.settle()
    return take_sent(node.network)


def take_sent(network: Network, *kinds: type[Message]) -> list[Message]:
    """The messages on their way (those of `kinds`, if given), which never arrive."""
    sent = [flight.message for flight in network.flights]
    network.flights.clear()
    return [message for message in sent if not kinds or isinstance(message, kinds)]
