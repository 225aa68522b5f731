"""Three simulated nodes and a client, driven by a script: the bench on which the crash sweep works.

Nothing here is drawn at random that the seed of the bench does not decide, so two runs are the same up to the first fault that differs.
One node is *swept*: a fault happens in a chosen operation of its disk, and if that ends its life it is started again soon afterwards, as
an operator or a service manager would. A script waits for what it has asked for, with a deadline, whatever happens meanwhile.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from raftkv.errors import StorageError
from raftkv.kv.replies import OK, Failure, Reply
from raftkv.kv.string_commands import Get
from raftkv.raft.config import Config
from raftkv.raft.ready import Role
from raftkv.raft.types import Member, NodeId
from raftkv.replica import ReplicaSettings
from raftkv.router.ports import RouterSettings
from raftkv.sim.calm import compare_states, unsettled
from raftkv.sim.clock import Schedule
from raftkv.sim.disk import Survival
from raftkv.sim.network import NetworkFaults, SimNetwork
from raftkv.sim.node import SimNode
from raftkv.sim.trace import Trace, Violation
from raftkv.sim.watch import Watch
from raftkv.sim.world import Tuning, World
from raftkv.storage.wal import WalSettings

TUNING = Tuning(
    config=Config(election_ticks=9, heartbeat_ticks=3, lease_ticks=8),
    replica=ReplicaSettings(heartbeat_ticks=5, tick_ms=20),
    router=RouterSettings(timeout_ms=2_000, stall_ms=300),
    wal=WalSettings(segment_bytes=8_192),
    fsync_us=(200, 900),
    work_us=(20, 900),
    turn_us=(0, 50),
)
RESTART_US = 30_000
PATIENCE_MS = 30_000
"""Simulated time within which a script must get what it waits for."""


class Fault(Struct, frozen=True):
    """What happens to the disk of the swept node.

    Args:
        operation: in which of its operations, counted from 1.
        survival: what becomes of what is pending; None: no crash, but an error of the disk.
        again: one more crash in that operation of the recovery, counted from 1.
    """

    operation: int
    survival: Survival | None
    again: int | None = None


class SweptNode(SimNode):
    """A node whose crashes end as a fault says."""

    survival = Survival.CLEAN

    def fate(self) -> Survival:
        return self.survival


class Bench:
    """The nodes n1, n2 and n3, a client, and the judge. Implements `sim.world.Replies`.

    Args:
        swept: which of the nodes is.
        fault: what happens to it, if anything.
        tuning: the settings of all nodes.
        node_class: instead of `SweptNode`: for tests that break a node on purpose.
    """

    def __init__(self, swept: NodeId, fault: Fault | None, tuning: Tuning = TUNING, node_class: type[SweptNode] = SweptNode) -> None:
        rng = random.Random(1)
        self.schedule = Schedule()
        self.trace = Trace(self.schedule)
        self.watch = Watch(self.trace, self.schedule)
        names = ("n1", "n2", "n3")
        self.world = World(
            schedule=self.schedule,
            network=SimNetwork(self.schedule, random.Random(rng.getrandbits(64)), names, NetworkFaults(delay_us=(50, 300))),
            trace=self.trace,
            watch=self.watch,
            tuning=tuning,
            members=tuple(Member(name, 0, f"{name}:7000") for name in names),
        )
        self.nodes = [node_class(name, self.world, self, random.Random(rng.getrandbits(64))) for name in names]
        self.swept = self[swept]
        self.fault = fault
        self.first = 0
        """The operation after which the sweep begins; it is the script that says so."""
        self.crashes = 0
        self.acknowledged: dict[bytes, bytes] = {}
        self.recovery: tuple[int, int] = (0, 0)
        """The operations of the swept node's disk between which it recovered from the first crash."""
        self._down: set[NodeId] = set()
        self._asked: dict[int, list[tuple[bytes, bytes]]] = {}
        self._answers: Counter[str] = Counter()
        self._keys = 0
        self._connections = 0
        for node in self.nodes:
            node.died = self._died

    def __getitem__(self, name: NodeId) -> SweptNode:
        return next(node for node in self.nodes if node.name == name)

    @property
    def leader(self) -> SweptNode | None:
        """Who leads, if exactly one node believes that it does."""
        leading = [node for node in self.nodes if node.alive and node.replica.role is Role.LEADER]
        return leading[0] if len(leading) == 1 else None

    # The fault.

    def begin(self) -> None:
        """The sweep begins here: what happened before is not swept."""
        self.first = self.swept.disk.operations
        self._arm()

    def _arm(self) -> None:
        node, fault = self.swept, self.fault
        if fault is None or self.crashes > 1:
            return
        if fault.survival is None:
            if self.crashes == 0 and fault.operation > node.disk.operations:
                node.faulty_disk = True
                node.disk.fail_at(fault.operation, StorageError("Input/output error"))
        elif self.crashes == 0 and fault.operation > node.disk.operations:
            node.survival = fault.survival
            node.disk.crash_at(fault.operation)
        elif self.crashes == 1 and fault.again is not None:
            node.disk.crash_at(node.disk.operations + fault.again)

    def _died(self, node: SimNode) -> None:
        if node is self.swept and self.fault is not None and node.disk.operations >= self.fault.operation > self.first:
            self.crashes += 1
            if self.crashes == 1:
                self.recovery = (node.disk.operations, node.disk.operations)
        if node is self.swept:
            self._arm()
        if node.name not in self._down:
            self.schedule.after(RESTART_US, lambda: self._start(node))

    def _start(self, node: SimNode) -> None:
        if node.name not in self._down:
            node.start()
            if node is self.swept and self.crashes == 1:
                self.recovery = (self.recovery[0], node.disk.operations)

    # What scripts do.

    def form(self) -> None:
        """Start everything, and have n1 lead."""
        self.start_all()
        self.lead("n1")

    def start_all(self) -> None:
        """Start all nodes, and wait until the cluster has formed."""
        for node in self.nodes:
            self.schedule.after(100, node.start)
        self.until("the cluster has formed", lambda: self.watch.formed and not unsettled(self.nodes))

    def lead(self, name: NodeId) -> None:
        """Have the node `name` lead."""

        def leads() -> bool:
            leader = self.leader
            if leader is not None and leader.name == name and not unsettled(self.nodes):
                return True
            if leader is not None and leader.name != name and self.schedule.now_us % 100_000 == 0:
                leader.run(lambda: leader.transfer(name))
            return False

        self.until(f"{name} leads", leads)

    def stop(self, name: NodeId) -> None:
        """Kill the process of a node, and leave it down."""
        self._down.add(name)
        self[name].kill()

    def go(self, name: NodeId) -> None:
        """Start it again."""
        self._down.discard(name)
        self[name].start()

    def write(self, count: int, size_bytes: int = 20, patience_ms: int = PATIENCE_MS) -> bool:
        """Have `count` new keys acknowledged, asking again with others where that is refused or uncertain.

        Returns:
            Whether it came to that in time; with the standard patience it must.
        """
        wanted = len(self.acknowledged) + count

        def done() -> bool:
            if len(self.acknowledged) < wanted and not self._asked:
                self._ask(wanted - len(self.acknowledged), size_bytes)
            return len(self.acknowledged) >= wanted

        return self.until(f"{count} writes are acknowledged", done, patience_ms, must=patience_ms == PATIENCE_MS)

    def _ask(self, count: int, size_bytes: int) -> None:
        node = self.leader
        if node is None:
            return
        self._connections += 1
        asked = []
        for _ in range(count):
            self._keys += 1
            asked.append((b"key:%d" % self._keys, b"tag:%d:" % self._keys + b"." * size_bytes))
        self._asked[self._connections] = asked
        node.open_client(self._connections)
        node.submit(self._connections, [[b"SET", key, value] for key, value in asked])

    def wait(self, duration_ms: int) -> None:
        """Let time pass."""
        self.schedule.run_until(self.schedule.now_us + duration_ms * 1_000)

    def until(self, what: str, condition: Callable[[], bool], patience_ms: int = PATIENCE_MS, must: bool = True) -> bool:
        """Let time pass until `condition` holds; it must within `patience_ms`, unless `must` is not set."""
        end_us = self.schedule.now_us + patience_ms * 1_000
        while self.schedule.now_us < end_us:
            if condition():
                return True
            self.schedule.run_until(self.schedule.now_us + 10_000)
        if must:
            raise Violation("liveness", f"after {patience_ms} ms: {what} is not so; {'; '.join(unsettled(self.nodes)) or 'all is well'}")
        return False

    # The end.

    def settle(self) -> None:
        """Wait until the cluster has recovered from everything, and check that nothing acknowledged is missing.

        Raises:
            Violation: it has not, or something is.
        """
        self.until("the cluster has recovered", lambda: not unsettled(self.nodes))
        compare_states(self.nodes, self.watch.model)
        for key, value in self.acknowledged.items():
            for node in self.nodes:
                found = node.replica.machine.read(Get(key))
                if found != value:
                    raise Violation("acknowledged writes", f"{key!r} is {found!r} at {node.name}; it was acknowledged as {value!r}")

    # Replies.

    def replied(self, node: SimNode, connection: int, replies: list[Reply], close: bool) -> None:
        """Replies to the client."""
        asked = self._asked.get(connection)
        if asked is None:
            return
        for reply in replies:
            key, value = asked.pop(0)
            if reply == OK:
                self.acknowledged[key] = value
            elif not isinstance(reply, Failure):
                raise Violation("reply", f"{node.name} answers a SET with {reply!r}")
            else:
                self._answers[reply.code] += 1
        if not asked:
            self._asked.pop(connection)

    def node_died(self, node: SimNode) -> None:
        """What is not answered yet never is."""
        self._asked.clear()


Script = Callable[[Bench], None]


