"""Several routers around one replicated log, for property tests: everything that Raft may do to a router, and nothing that it may not.

Raft is abstract here: one list of entries, of which a prefix is committed. An election keeps the committed prefix and any part of the
rest. A deposed leader does not know it for a while, and what it proposes meanwhile goes nowhere; its read rounds are never confirmed. A
node applies committed entries in order, each in its own time, or jumps to another node's state. Frames between nodes keep their order and
may be lost, or delivered twice. What happens is a list of (event, number) pairs, so that a failing run can be cut down and repeated.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from raftkv.errors import Busy, NotLeader, Unavailable
from raftkv.kv.clock import LogClock
from raftkv.kv.command import Command
from raftkv.kv.commands import parse_request
from raftkv.kv.machine import Applied, KvMachine
from raftkv.kv.replies import Failure, Reply
from raftkv.raft.ready import Role, RoleChange
from raftkv.raft.types import EntryId
from raftkv.router import Router, RouterSettings
from tests.router.history import Client, History
from tests.router.roamer import Line, Roamer
from tests.router.rows import MemoryRows

NODES = ("n1", "n2", "n3")
CLIENTS_PER_NODE = 2

SETTINGS = RouterSettings(
    timeout_ms=600,
    stall_ms=150,
    retry_ms=5,
    max_retry_ms=40,
    group_commands=3,
    groups_ahead=2,
    batch_commands=6,
    window_groups=6,
    max_forwarded_bytes=700,
    max_commands=80,
)

LEAST_ROUNDS = 60
"""Longer than a request may wait without progress."""

SETTLING_ROUNDS = 600
"""Enough for as many requests as a node may hold, each of which waits for the one before it."""

WEIGHTS = {
    "submit": 20,
    "deliver": 70,
    "commit": 25,
    "apply": 50,
    "confirm": 20,
    "tick": 8,
    "append": 15,
    "elect": 1.5,
    "learn": 8,
    "drop": 1,
    "duplicate": 2,
    "cut": 1,
    "join": 3,
    "jump": 0.5,
    "restart": 0.3,
    "leave": 0.3,
    "busy": 1,
    "full": 0.5,
    "fence": 0.3,
    "deafen": 1.5,
    "wait": 0.3,
    "roam": 12,
}

Schedule = list[tuple[str, int]]


def random_schedule(rng: random.Random, length: int) -> Schedule:
    """A schedule of `length` events. Each schedule has its own mix: what is rare in one is frequent in another."""
    weights = [weight * rng.choice((0.3, 1, 1, 3)) for weight in WEIGHTS.values()]
    names = rng.choices(list(WEIGHTS), weights, k=length)
    return [(name, rng.randrange(1 << 16)) for name in names]


class Node:
    """A replica of the abstract cluster, with its router."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.node = name
        self.majority = 2
        self.cluster = cluster
        self.rows = MemoryRows()
        self.machine = KvMachine(self.rows)
        self.role = Role.FOLLOWER
        self.leader: str | None = None
        self.term = 0
        self.ready_to_serve = True
        self.appending = False
        self.busy = False
        self.deaf = False
        self.full = False
        self.contexts: list[tuple[int, int]] = []
        self.slow: list[tuple[Command, Callable[[Reply], None]]] = []
        self.clients: dict[int, Client] = {}
        self.lines: dict[int, Line] = {}
        self.start()

    def start(self) -> None:
        """A new process: a fresh router and new connections; only the machine is as before."""
        self.role, self.leader, self.term = Role.FOLLOWER, None, 0
        self.contexts.clear()
        self.slow.clear()
        self.appending = self.busy = self.deaf = self.full = False
        cluster = self.cluster
        clock = LogClock(self.node)
        for name in NODES:
            clock.observe(name, 1_700_000_000_000, 0)
        self.router = Router(
            self,
            SETTINGS,
            cluster.draw_session(),
            lambda to, value: cluster.send(self.node, to, value),
            self.reply,
            clock,
            cluster.draw_session,
            lambda: None,  # every event ends with a flush
        )
        self.clients.clear()
        self.lines = {roamer.id: roamer.line() for roamer in cluster.roamers}
        for connection_id in self.lines:
            self.router.open(connection_id, "")
        for number in range(CLIENTS_PER_NODE):
            client = cluster.history.connect(local=number == 1)
            self.clients[client.id] = client
            self.router.open(client.id, "")
            if client.local:
                self.router.submit(client.id, client.request("READONLY"), cluster.now_ms)

    @property
    def applied_index(self) -> int:
        """What the machine has applied."""
        return self.machine.applied_index

    def propose(self, payload: bytes) -> EntryId:
        """Append to the log, if this node really leads; else to nothing."""
        if self.role is not Role.LEADER:
            raise NotLeader(self.leader)
        if self.busy:
            raise Busy("too much is in flight")
        if self.full:
            raise Unavailable("the disk is full")
        self.appending = True
        return self.cluster.append(self, payload)

    def read_index(self, context: int) -> None:
        """Note the round, and what is committed when it is asked for."""
        if self.role is not Role.LEADER:
            raise NotLeader(self.leader)
        self.contexts.append((context, self.cluster.committed))

    def run_slow(self, command: Command, done: Callable[[Reply], None]) -> None:
        """Slow reads are not asked here."""
        raise NotImplementedError

    def reply(self, connection_id: int, replies: list[Reply], protocol: int, close: bool, unasked: int = 0) -> None:
        """Replies reach their client."""
        client = self.clients.get(connection_id) or self.lines.get(connection_id)
        if client is not None:
            client.answered(replies)

    def learn(self) -> None:
        """Hear of the newest term and its leader."""
        cluster = self.cluster
        role = Role.LEADER if cluster.leader == self.node else Role.FOLLOWER
        if (self.role, self.term, self.leader) != (role, cluster.term, cluster.leader):
            self.role, self.term, self.leader = role, cluster.term, cluster.leader
            self.contexts.clear()
            self.router.role_changed(RoleChange(role, cluster.term, cluster.leader), cluster.now_ms)

    def apply(self, count: int) -> None:
        """Apply up to `count` committed entries."""
        cluster = self.cluster
        while count and self.ready_to_serve and not self.deaf and self.applied_index < cluster.committed:
            term, payload = cluster.log[self.applied_index]
            if term > self.term:
                self.learn()
            index = self.applied_index + 1
            applied = Applied([])
            if payload is None:
                self.machine.apply_empty(index, term)
            else:
                applied = self.machine.apply(index, term, payload)
            self.router.applied(index, applied.groups, cluster.now_ms, applied.pushed)
            count -= 1

    def jump(self) -> None:
        """A snapshot of the most advanced node takes the place of the state."""
        source = max(self.cluster.nodes.values(), key=lambda node: node.applied_index)
        if source.applied_index > self.applied_index:
            self.deaf = False
            self.learn()
            self.rows = source.rows.view()
            self.machine = KvMachine(self.rows)
            self.ready_to_serve = True
            self.router.snapshot_installed(self.cluster.now_ms)


class Cluster:
    """The nodes, the log, the network and the clients."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.log: list[tuple[int, bytes | None]] = []
        self.committed = 0
        self.term = 0
        self.leader: str | None = None
        self.history = History()
        self.queues: dict[tuple[str, str], deque[object]] = {(one, other): deque() for one in NODES for other in NODES if one != other}
        self.cut: set[frozenset[str]] = set()
        self.sessions = 0
        self.roamers = [Roamer(number) for number in (1, 2)]
        self.nodes: dict[str, Node] = {}
        for name in NODES:
            self.nodes[name] = Node(name, self)

    def draw_session(self) -> bytes:
        """A session that nobody had."""
        self.sessions += 1
        return random.Random(self.sessions).randbytes(16)

    def append(self, node: Node, payload: bytes) -> EntryId:
        """A proposal of `node`: part of the log if it leads the newest term, lost if it does not."""
        if self.leader == node.node and node.term == self.term:
            self.log.append((node.term, payload))
            return EntryId(len(self.log), node.term)
        return EntryId(len(self.log) + 1, node.term)

    def send(self, sender: str, to: str, value: object) -> bool:
        """Queue a frame, unless the connection is cut."""
        if frozenset((sender, to)) in self.cut:
            return False
        self.queues[sender, to].append(value)
        return True

    # Events. `number` chooses among what is possible.

    def run(self, schedule: Schedule) -> list[str]:
        """Let everything in `schedule` happen, then heal, and say what was wrong."""
        self.do_elect(0)
        for event, number in schedule:
            self.now_ms += number % 2
            getattr(self, "do_" + event)(number)
            for node in self.nodes.values():
                node.router.flush(self.now_ms)
        self.heal()
        final = self.final_values()
        roaming = [complaint for roamer in self.roamers for complaint in roamer.complaints(final)]
        return self.history.complaints(final) + roaming + self.leftovers()

    def pick(self, number: int) -> Node:
        """A node."""
        return self.nodes[NODES[number % len(NODES)]]

    def do_submit(self, number: int) -> None:
        """A client sends a pipeline."""
        node = self.pick(number)
        client = list(node.clients.values())[number // 3 % CLIENTS_PER_NODE]
        node.router.submit(client.id, client.pipeline(random.Random(number)), self.now_ms)

    def do_roam(self, number: int) -> None:
        """A client library asks a node for the outcome that it waits for, also if it has asked another."""
        node = self.pick(number)
        roamer = self.roamers[number // 3 % len(self.roamers)]
        node.router.submit(roamer.id, node.lines[roamer.id].request(roamer.sequence), self.now_ms)

    def do_deliver(self, number: int) -> None:
        """Some frames of one direction arrive."""
        self.deliver(list(self.queues)[number % len(self.queues)], 1 + number // 8 % 4)

    def deliver(self, direction: tuple[str, str], count: int) -> None:
        """Hand over the first `count` frames."""
        queue = self.queues[direction]
        for _ in range(min(count, len(queue))):
            self.nodes[direction[1]].router.received(direction[0], queue.popleft(), self.now_ms)

    def do_drop(self, number: int) -> None:
        """A frame is lost."""
        queue = self.queues[list(self.queues)[number % len(self.queues)]]
        if queue:
            queue.popleft()

    def do_duplicate(self, number: int) -> None:
        """A frame arrives, and will arrive again."""
        direction = list(self.queues)[number % len(self.queues)]
        queue = self.queues[direction]
        if queue:
            self.nodes[direction[1]].router.received(direction[0], queue[0], self.now_ms)

    def do_commit(self, number: int) -> None:
        """More of the log is committed; never an entry of an earlier term alone."""
        target = min(len(self.log), self.committed + 1 + number % 4)
        if target and self.log[target - 1][0] == self.term:
            self.committed = target
        elif self.log and self.log[-1][0] == self.term:
            self.committed = next(index for index, (term, _) in enumerate(self.log, 1) if term == self.term)

    def do_apply(self, number: int) -> None:
        """A node applies some of what is committed."""
        self.pick(number).apply(1 + number // 3 % 5)

    def do_confirm(self, number: int) -> None:
        """The rounds of the true leader are confirmed, if an entry of its term is committed."""
        if self.leader is None:
            return
        node = self.nodes[self.leader]
        if node.term != self.term or not self.committed or self.log[self.committed - 1][0] != self.term:
            return
        own = next(index for index, (term, _) in enumerate(self.log, 1) if term == self.term)
        contexts, node.contexts = node.contexts, []
        for context, committed in contexts:
            node.router.read_point(context, max(committed, own))

    def do_tick(self, number: int) -> None:
        """Time passes for everybody."""
        self.now_ms += number % 20
        for node in self.nodes.values():
            node.router.tick(self.now_ms)

    def do_wait(self, number: int) -> None:
        """Much time passes."""
        self.do_tick(0)
        self.now_ms += number % SETTINGS.timeout_ms
        self.do_tick(0)

    def do_append(self, number: int) -> None:
        """What a node proposed is durable there."""
        node = self.pick(number)
        node.appending = node.busy = node.full = False
        for other in self.nodes.values():
            other.router.peer_refuses_writes(node.node, "")
        node.router.appended(self.now_ms)

    def do_elect(self, number: int) -> None:
        """Another term begins; uncommitted entries survive or do not; the winner knows first."""
        self.term += 1
        self.leader = NODES[number % len(NODES)]
        keep = self.committed + number // 3 % (len(self.log) - self.committed + 1)
        del self.log[keep:]
        self.log.append((self.term, None))
        self.nodes[self.leader].deaf = False
        self.nodes[self.leader].learn()

    def do_learn(self, number: int) -> None:
        """A node hears of the newest term."""
        node = self.pick(number)
        if self.leader is not None and (not node.deaf or number // 3 % 8 == 0):
            node.deaf = False
            node.learn()

    def do_deafen(self, number: int) -> None:
        """A node hears nothing of the others' log and terms for a while, and goes on believing what it believes."""
        self.pick(number).deaf = True

    def do_cut(self, number: int) -> None:
        """The connection between two nodes breaks, with everything on it."""
        one, other = list(self.queues)[number % len(self.queues)]
        if frozenset((one, other)) not in self.cut:
            self.cut.add(frozenset((one, other)))
            for pair in ((one, other), (other, one)):
                self.queues[pair].clear()
                self.nodes[pair[0]].router.peer_disconnected(pair[1])

    def do_join(self, number: int) -> None:
        """The connection is there again."""
        one, other = list(self.queues)[number % len(self.queues)]
        if frozenset((one, other)) in self.cut:
            self.cut.discard(frozenset((one, other)))
            self.nodes[one].router.peer_connected(other)
            self.nodes[other].router.peer_connected(one)

    def do_jump(self, number: int) -> None:
        """A node takes a snapshot."""
        self.pick(number).jump()

    def do_fence(self, number: int) -> None:
        """A node's state is not to be trusted until it has taken a snapshot. A leader steps down first, so it is spared."""
        node = self.pick(number)
        if node.role is not Role.LEADER:
            node.ready_to_serve = False

    def do_restart(self, number: int) -> None:
        """A node's process dies, with its connections, and another begins."""
        node = self.pick(number)
        for other in NODES:
            if other != node.node:
                for pair in ((node.node, other), (other, node.node)):
                    self.queues[pair].clear()
                self.nodes[other].router.peer_disconnected(node.node)
        node.start()
        for other in NODES:
            if other != node.node and frozenset((node.node, other)) not in self.cut:
                self.nodes[other].router.peer_connected(node.node)

    def do_leave(self, number: int) -> None:
        """A client disconnects, and another takes his place."""
        node = self.pick(number)
        gone = list(node.clients)[number // 3 % CLIENTS_PER_NODE]
        node.router.closed(gone)
        local = node.clients.pop(gone).local
        client = self.history.connect(local)
        node.clients[client.id] = client
        node.router.open(client.id, "")
        if local:
            node.router.submit(client.id, client.request("READONLY"), self.now_ms)

    def do_busy(self, number: int) -> None:
        """A leader cannot take more for a while."""
        self.pick(number).busy = True

    def do_full(self, number: int) -> None:
        """A node's disk is full for a while; sometimes the others have heard of it."""
        node = self.pick(number)
        node.full = True
        for other in self.nodes.values():
            if other is not node and number // 3 % 2:
                other.router.peer_refuses_writes(node.node, "the disk is full")

    # The end.

    def heal(self) -> None:
        """Everything works again, for long enough."""
        for pair in list(self.queues):
            self.do_join(list(self.queues).index(pair))
        self.do_elect(self.term)
        for number in range(len(NODES)):
            self.do_append(number)
        for round_ in range(SETTLING_ROUNDS):
            if round_ >= LEAST_ROUNDS and not self.leftovers():
                return
            self.now_ms += 20
            for node in self.nodes.values():
                node.learn()
                node.appending = node.busy = node.deaf = node.full = False
                if not node.ready_to_serve:
                    node.jump()
                    node.ready_to_serve = True
                node.router.appended(self.now_ms)
                node.router.tick(self.now_ms)
            for direction in self.queues:
                self.deliver(direction, 1000)
            self.committed = len(self.log)
            for node in self.nodes.values():
                node.apply(10_000)
            self.do_confirm(0)
            for node in self.nodes.values():
                node.router.flush(self.now_ms)

    def final_values(self) -> Callable[[str], int]:
        """What the keys hold in the end."""
        machine = self.nodes[NODES[0]].machine

        def value(key: str) -> int:
            found = machine.read(parse_request([b"GET", key.encode()]))
            assert not isinstance(found, Failure)
            return int(found) if isinstance(found, bytes) else 0

        return value

    def leftovers(self) -> list[str]:
        """What still waits after everything has worked for long enough."""
        found = []
        for node in self.nodes.values():
            counts = node.router.counts()
            if not node.router.idle or counts.queued or counts.reads or counts.forwarded_bytes:
                found.append(f"{node.node} still waits: {counts}")
        return found
