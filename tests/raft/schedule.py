"""Random schedules: what a network of nodes may go through, one small step at a time, and then a calm in which it must recover.

A step is a whole number; its lowest byte chooses what happens and the two above it to whom. So a list of numbers is a schedule:
hypothesis can draw and shrink it, a seed can stand for a long one, and a failure can be replayed from what is printed.

First comes the storm, in which only safety is demanded (`Oracle`); then the calm: every link mended, every disk prompt, at first only a
majority up and then every node, and within a bounded time there must be a leader, a committed proposal, and equal machines. A schedule
does only what the design promises to survive: at most a minority is ever wiped, and at most one node at a time has a suspect log.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence

from raftkv.errors import InvalidRequest, Refused
from raftkv.raft.config import Config
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, EntryId, SnapshotMeta
from tests.raft.network import Disk, Flight, MachineState, Network, Node, formed, unformed
from tests.raft.oracle import Violation

STORM_CONFIG = Config(
    election_ticks=6,
    heartbeat_ticks=2,
    lease_ticks=5,
    max_append_bytes=8,
    max_inflight_messages=4,
    max_inflight_bytes=64,
    max_page_bytes=8,
    window_bytes=24,
    window_entries=6,
    max_uncommitted_bytes=256,
)
"""Everything small, so that every bound is met within a short schedule."""

STORM_SEEDS = range(60)
STORM_STEPS = 600
"""The storms that every run of the suite takes, on 3 and on 5 nodes."""

Action = Callable[["Storm", int, int], None]

MAX_FLIGHTS = 60
MAX_WRITING = 6
CALM_TICKS = 400


class Storm:
    """A network under a schedule."""

    def __init__(self, network: Network, actions: list[Action], even_clocks: bool) -> None:
        self.network = network
        self.actions = [Storm.tick_all if even_clocks and action is Storm.tick_one else action for action in actions]
        self.even_clocks = even_clocks
        self.names = sorted(network.nodes)
        self.count = 0
        self.wiped: set[str] = set()
        self.proposed = 0

    def run(self, steps: Iterable[int]) -> None:
        """Take each step."""
        for step in steps:
            self.step(step)

    def step(self, step: int) -> None:
        """Take one step."""
        action = self.actions[step & 0xFF]
        action(self, (step >> 8) & 0xFF, (step >> 16) & 0xFF)
        network = self.network
        while len(network.flights) > MAX_FLIGHTS:
            network.drop(network.flights[0])
        for node in network.running:
            if len(node.writing) > MAX_WRITING:
                node.persist()

    def node(self, choice: int) -> Node:
        """The node that a byte stands for."""
        return self.network.nodes[self.names[choice % len(self.names)]]

    def may_impair(self, node: Node) -> bool:
        """Whether `node` may lose something: a majority has to be whole, and before a cluster has formed everybody has to be."""
        if not all(disk_configuration(other).members[0].incarnation for other in self.network.nodes.values()):
            return False
        impaired = {
            other.name
            for other in self.network.nodes.values()
            if other.disk.suspect is not None or other.lacks_state or (other.up and other.raft.fenced is not None)
        }
        return len(self.wiped | impaired | {node.name}) <= (len(self.names) - 1) // 2

    # -- messages

    def deliver_oldest(self, choice: int, _: int) -> None:
        """A few of the oldest messages arrive in order."""
        for _ in range(choice % 16 + 1):
            if self.network.flights:
                self.network.deliver(self.network.flights[0])

    def deliver_some(self, choice: int, _: int) -> None:
        """Any one message arrives, overtaking others."""
        if self.network.flights:
            self.network.deliver(self.pick(choice))

    def deliver_twice(self, choice: int, _: int) -> None:
        """A message arrives and stays on its way."""
        if self.network.flights:
            flight = self.pick(choice)
            self.network.deliver(flight, keep=not isinstance(flight.message, InstallSnapshot))

    def drop(self, choice: int, _: int) -> None:
        """A message is lost."""
        if self.network.flights:
            self.network.drop(self.pick(choice))

    def drop_all(self, choice: int, _: int) -> None:
        """Everything on its way to one node is lost."""
        for flight in [flight for flight in self.network.flights if flight.message.to == self.node(choice).name]:
            if flight in self.network.flights:
                self.network.drop(flight)

    def pick(self, choice: int) -> Flight:
        """The message that a byte stands for."""
        flights = self.network.flights
        return flights[choice % len(flights)]

    def partition(self, choice: int, _: int) -> None:
        """The nodes whose bit is set cannot reach those whose bit is not."""
        self.network.heal()
        side = {name for rank, name in enumerate(self.names) if choice >> rank & 1}
        self.network.partition(side, set(self.names) - side)

    def block(self, choice: int, other: int) -> None:
        """One link works in one direction only."""
        self.network.cut.add((self.node(choice).name, self.node(other).name))

    def heal(self, _: int, __: int) -> None:
        """Every link works."""
        self.network.heal()

    # -- time

    def tick_one(self, choice: int, times: int) -> None:
        """One node's clock runs ahead."""
        if self.node(choice).up:
            self.network.tick(self.node(choice).name, times=times % 4 + 1)

    def tick_all(self, choice: int, _: int) -> None:
        """Time passes everywhere."""
        self.network.tick(times=choice % 3 + 1)

    def impatience(self, choice: int, fraction: int) -> None:
        """The waits that a node draws from now on are other ones."""
        self.node(choice).patience.fraction = fraction / 256

    def usurp(self, choice: int, last: int) -> None:
        """The leader is cut off with entries that only it has, and maybe one more; the others lose patience and go on without it."""
        network, leader = self.network, self.network.leader()
        if leader is None:
            return
        network.heal()
        company = {leader.name} | ({self.node(choice).name} if last & 1 else set())
        network.partition(company, set(self.names) - company)
        self.propose(choice, 0)
        self.propose(choice, 0)
        for flight in [flight for flight in network.flights if flight.message.to in company]:
            if flight in network.flights:
                network.deliver(flight)
        others = [node.name for node in network.running if node.name not in company]
        for _ in range(2 * network.config.election_ticks if others else 0):
            network.tick(*([] if self.even_clocks else others))
            if last & 2:
                self.deliver_oldest(255, 0)

    # -- disks

    def hold(self, choice: int, _: int) -> None:
        """One node's disk is slow from now on."""
        self.node(choice).held.persist = True

    def release(self, choice: int, _: int) -> None:
        """It is prompt again."""
        node = self.node(choice)
        node.held.persist = node.held.apply = node.held.fetch = False
        if node.up:
            node.settle()

    def hold_apply(self, choice: int, what: int) -> None:
        """One node's machine, or the reading of its log, is slow from now on."""
        if what & 1:
            self.node(choice).held.apply = True
        else:
            self.node(choice).held.fetch = True

    def persist(self, choice: int, _: int) -> None:
        """A slow write is done."""
        node = self.node(choice)
        if node.up and node.writing:
            node.persist()

    def crash(self, choice: int, written: int) -> None:
        """A node stops, with some of its writes done."""
        node = self.node(choice)
        if node.up:
            node.crash(written % 4)
            node.held.persist = node.held.apply = node.held.fetch = False

    def restart(self, choice: int, _: int) -> None:
        """A node that is down starts."""
        down = [node for node in self.network.nodes.values() if not node.up]
        if down:
            down[choice % len(down)].start()

    def rot(self, choice: int, count: int) -> None:
        """The end of a log is unreadable at a restart."""
        node, disk = self.node(choice), self.node(choice).disk
        if node.name in self.wiped or not self.may_impair(node):
            return
        node.crash(1)
        gone = min(count % 3 + 1, len(disk.entries))
        if gone > 0:
            disk.suspect = disk.last.index
            del disk.entries[-gone:]
            disk.commit = min(disk.commit, disk.last.index)

    def wipe(self, choice: int, _: int) -> None:
        """A node loses its directory; a new one never has an incarnation that was there before."""
        node, network = self.node(choice), self.network
        if not self.may_impair(node):
            return
        self.wiped.add(node.name)
        node.crash()
        self.count += 1
        network.add(node.name, 1000 + self.count, EntryId(0, 0), fraction=0.5)

    def lose_state(self, choice: int, _: int) -> None:
        """A node loses its state store, not its log."""
        node = self.node(choice)
        if not self.may_impair(node):
            return
        node.crash()
        node.flushed = MachineState()

    def flush(self, choice: int, _: int) -> None:
        """What the machine holds is durable."""
        self.node(choice).flush()

    def compact(self, choice: int, where: int) -> None:
        """A node cuts its log somewhere behind its machine."""
        node = self.node(choice)
        if not node.up or node.raft.fenced is not None or any(ready.snapshot for ready in node.writing):
            return
        begin, end = node.disk.begin.index, min(node.machine.index, node.raft.applied_index)
        if end > begin:
            node.compact(begin + 1 + where % (end - begin))

    # -- verbs

    def propose(self, choice: int, _: int) -> None:
        """Clients write where they believe the leader to be."""
        for node in self.network.running:
            if node.raft.role is Role.LEADER or node is self.node(choice):
                self.proposed += 1
                self.refusable(node, lambda node=node: node.raft.propose(b"%d" % self.proposed))  # type: ignore[misc]

    def read(self, choice: int, _: int) -> None:
        """Clients read where they believe the leader to be."""
        for node in self.network.running:
            if node.raft.role is Role.LEADER or node is self.node(choice):
                self.count += 1
                self.network.oracle.asks(node, self.count)
                self.refusable(node, lambda node=node: node.raft.read_index(self.count))  # type: ignore[misc]

    def transfer(self, choice: int, to: int) -> None:
        """An operator moves the leadership."""
        leader = self.network.leader()
        if leader is not None:
            self.refusable(leader, lambda: leader.raft.transfer_leadership(self.node(to).name))

    def step_down(self, choice: int, _: int) -> None:
        """A leader is told to step down."""
        node = self.node(choice)
        if node.up:
            self.refusable(node, node.raft.step_down)

    def peer_lost(self, choice: int, other: int) -> None:
        """A connection breaks."""
        node = self.node(choice)
        if node.up and node is not self.node(other):
            self.refusable(node, lambda: node.raft.peer_lost(self.node(other).name))

    def fence(self, choice: int, _: int) -> None:
        """A replica's state is found to be wrong."""
        node = self.node(choice)
        if node.up and self.may_impair(node):
            self.refusable(node, lambda: node.raft.request_snapshot("state differs"))

    def refusable(self, node: Node, action: Callable[[], object]) -> None:
        """Do what the core may refuse."""
        try:
            action()
        except (Refused, InvalidRequest):
            pass
        finally:
            node.settle()

    # -- the calm

    def calm(self) -> None:
        """With everything mended, the cluster must come to work again: first as a majority, if there is one that can, then whole.

        Raises:
            Violation: it does not within `CALM_TICKS`.
        """
        network = self.network
        network.heal()
        for node in network.nodes.values():
            node.held.persist = node.held.apply = node.held.fetch = False
        for names in (self.sufficient(), self.names):
            if names is not None:
                self.recover([network[name] for name in names])

    def sufficient(self) -> list[str] | None:
        """A majority that can do without the others: each of it knows who decides, and none has lost a part of its log. Some of it may
        have lost their state, if the others still find in their logs what they need. Such a majority comes first: it is the hardest."""
        disks = {name: node.disk for name, node in self.network.nodes.items()}
        if not all(disk_configuration(node).members[0].incarnation for node in self.network.nodes.values()):
            return None
        found: list[list[str]] = []
        for chosen in itertools.combinations(self.names, len(self.names) // 2 + 1):
            stateless = [name for name in chosen if self.lacks_state(self.network[name])]
            sound = all(name not in self.wiped and disks[name].suspect is None for name in chosen)
            met = all(_meets(disks[name].begin, disks[other]) for name in stateless for other in chosen)
            if sound and met and len(stateless) < len(chosen):
                found.insert(0 if stateless else len(found), list(chosen))
        return found[0] if found else None

    def lacks_state(self, node: Node) -> bool:
        """Whether a node has no usable state, or would have none after a start."""
        return node.raft.fenced is not None if node.up else node.lacks_state

    def recover(self, nodes: list[Node]) -> None:
        """Let `nodes` be up and all others down, and wait until they work."""
        network = self.network
        for node in network.running:
            if node not in nodes:
                node.crash()
        for rank, node in enumerate(nodes):
            node.patience.fraction = rank / len(nodes)
            if not node.up:
                node.start()
            node.settle()
        network.stabilize()
        proposed: EntryId | None = None
        for _ in range(CALM_TICKS):
            network.tick()
            network.stabilize()
            leader = network.leader()
            if leader is None:
                continue
            if proposed is None or proposed.term != leader.raft.term:
                try:
                    proposed = leader.raft.propose(b"calm")
                except Refused:
                    continue
                leader.settle()
                network.stabilize()
            if self.at_rest(nodes, proposed):
                return
        states = ", ".join(
            f"{node.name} {node.raft.role} t{node.raft.term} committed {node.raft.committed} machine {node.machine.index}"
            f" suspect {node.raft.suspect} fenced {node.raft.fenced}"
            for node in network.running
        )
        raise Violation("progress", f"no progress in {CALM_TICKS} calm ticks: {states}")

    def at_rest(self, nodes: list[Node], proposed: EntryId) -> bool:
        """Whether every machine of `nodes` holds the proposal, and they are equal."""
        states = {node.machine for node in nodes}
        return len(states) == 1 and next(iter(states)).index >= proposed.index and self.network.oracle.commit_high >= proposed.index


def disk_configuration(node: Node) -> Configuration:
    """The newest configuration on a node's disk."""
    stored = node.stored()
    return stored.configurations[-1][1] if stored.configurations else stored.snapshot.configuration


WEIGHTS: Sequence[tuple[Action, int, int]] = (
    (Storm.deliver_oldest, 72, 57),
    (Storm.deliver_some, 24, 30),
    (Storm.deliver_twice, 8, 8),
    (Storm.drop, 6, 8),
    (Storm.drop_all, 3, 4),
    (Storm.partition, 3, 6),
    (Storm.block, 2, 3),
    (Storm.heal, 8, 6),
    (Storm.tick_one, 14, 22),
    (Storm.tick_all, 20, 22),
    (Storm.usurp, 4, 4),
    (Storm.impatience, 3, 3),
    (Storm.hold, 6, 6),
    (Storm.release, 5, 4),
    (Storm.hold_apply, 2, 2),
    (Storm.persist, 10, 12),
    (Storm.crash, 3, 5),
    (Storm.restart, 10, 6),
    (Storm.rot, 2, 3),
    (Storm.wipe, 1, 1),
    (Storm.lose_state, 1, 1),
    (Storm.flush, 2, 2),
    (Storm.compact, 4, 4),
    (Storm.propose, 24, 20),
    (Storm.read, 12, 6),
    (Storm.transfer, 2, 2),
    (Storm.step_down, 1, 1),
    (Storm.peer_lost, 3, 3),
    (Storm.fence, 1, 1),
)
"""How often each thing happens, of 256 times: in a breeze, in which a cluster gets much done, and in a gale, in which it rarely
agrees on anything and every promise is put to the test."""


def shares(counted: Iterable[tuple[Action, int]]) -> list[Action]:
    """The table of 256 actions with these counts; what is left over delivers messages."""
    actions = [action for action, count in counted for _ in range(count)]
    return actions + [Storm.deliver_oldest] * (256 - len(actions))


BREEZE = shares((action, count) for action, count, _ in WEIGHTS)
GALE = shares((action, count) for action, _, count in WEIGHTS)


def storm(nodes: int, *, new: bool = False, lease_reads: bool = False, gale: bool = False, even_clocks: bool = False) -> Storm:
    """A network of `nodes` before its first step: new, or of nodes that have met. With `even_clocks` no clock runs ahead."""
    names = [f"n{rank + 1}" for rank in range(nodes)]
    configuration = unformed(*names) if new else formed(*names, lease_reads=lease_reads)
    return Storm(Network(configuration, config=STORM_CONFIG, tail_entries=3), GALE if gale else BREEZE, even_clocks)


def seeded(seed: int, nodes: int, steps: int = STORM_STEPS) -> Storm:
    """Run the schedule that `seed` stands for, storm and calm. Every second one is a gale, every fourth meets a new cluster, and every
    fifth reads by lease."""
    source = random.Random(seed)
    lease_reads = seed % 5 == 4
    run = storm(nodes, new=seed % 4 == 3, lease_reads=lease_reads, gale=seed % 2 == 0, even_clocks=lease_reads)
    run.run(source.getrandbits(24) for _ in range(steps))
    run.calm()
    return run


def _meets(begin: SnapshotMeta, other: Disk) -> bool:
    """Whether a log that begins after `begin` and goes on far enough brings the node with the log `other` up to date."""
    return begin.index <= other.begin.index or other.term_at(begin.index) == begin.term
