"""One router on a stand: a replica that does what the test says, a virtual clock, and a record of everything that leaves."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from raftkv.codec.peer import ForwardReads, ForwardWrites
from raftkv.errors import NotLeader
from raftkv.kv.batch import FORMAT_VERSION, Batch, Group, decode_batch, encode_batch
from raftkv.kv.clock import LogClock
from raftkv.kv.command import Command
from raftkv.kv.machine import KvMachine
from raftkv.kv.replies import Reply
from raftkv.raft.ready import Role, RoleChange
from raftkv.raft.types import EntryId
from raftkv.router import NodeFacts, Router, RouterSettings
from tests.router.rows import MemoryRows

WALL_MS = 1_700_000_000_000
"""What the wall clock of the stand shows when its monotonic clock shows 0."""


class FakeReplica:
    """A replica whose log is a list. Entries are applied when the test says so."""

    def __init__(self, node: str = "n1") -> None:
        self.node = node
        self.role = Role.FOLLOWER
        self.leader: str | None = None
        self.term = 0
        self.majority = 2
        self.ready_to_serve = True
        self.appending = False
        self.slow_disk = False
        self.refusal: Exception | None = None
        self.rows = MemoryRows()
        self.machine = KvMachine(self.rows)
        self.log: list[bytes] = []
        self.contexts: list[int] = []
        self.slow: list[tuple[Command, Callable[[Reply], None]]] = []

    @property
    def applied_index(self) -> int:
        """What the machine has applied."""
        return self.machine.applied_index

    def propose(self, payload: bytes) -> EntryId:
        """Append, or refuse as the test says."""
        if self.role is not Role.LEADER:
            raise NotLeader(self.leader)
        if self.refusal is not None:
            raise self.refusal
        self.log.append(payload)
        self.appending = self.slow_disk
        return EntryId(len(self.log), self.term)

    def read_index(self, context: int) -> None:
        """Note that a read point was asked for."""
        if self.role is not Role.LEADER:
            raise NotLeader(self.leader)
        self.contexts.append(context)

    def run_slow(self, command: Command, done: Callable[[Reply], None]) -> None:
        """Keep a slow read until the test finishes it."""
        self.slow.append((command, done))


class Stand:
    """A router and what surrounds it. Connection 1 is open from the start."""

    def __init__(self, *, session: int = 1, **settings: int) -> None:
        self.replica = FakeReplica()
        self.now_ms = 1000
        self.sent: list[tuple[str, object]] = []
        self.reachable = {"n2", "n3"}
        self.replies: dict[int, list[Reply]] = {}
        self.deliveries: list[tuple[int, list[Reply], int, bool]] = []
        self.unasked: dict[int, int] = {}
        self.broken: set[int] = set()
        self.wakes = 0
        self.facts = NodeFacts()
        self._sessions = (bytes([number]) * 16 for number in itertools.count(2))
        clock = LogClock("n1")
        for node in ("n1", "n2", "n3"):
            clock.observe(node, WALL_MS, 0)
        self.settings = RouterSettings(**({"gather_flushes": 1} | settings))
        self.router = Router(
            self.replica,
            self.settings,
            bytes([session]) * 16,
            self._send,
            self._reply,
            clock,
            lambda: next(self._sessions),
            self._wake,
            lambda: self.facts,
        )
        self.router.open(1, "127.0.0.1:50001")

    def _send(self, node: str, value: object) -> bool:
        if node not in self.reachable:
            return False
        self.sent.append((node, value))
        return True

    def _reply(self, connection_id: int, replies: list[Reply], protocol: int, close: bool, unasked: int = 0) -> None:
        if connection_id in self.broken:
            raise ConnectionResetError("the client's callback raises")
        self.unasked[connection_id] = self.unasked.get(connection_id, 0) + unasked
        self.deliveries.append((connection_id, list(replies), protocol, close))
        self.replies.setdefault(connection_id, []).extend(replies)

    def _wake(self) -> None:
        self.wakes += 1

    # What clients do.

    def ask(self, *lines: str | list[bytes], connection: int = 1) -> None:
        """Submit requests in one piece, without the end of the iteration."""
        requests = [line.encode().split() if isinstance(line, str) else line for line in lines]
        self.router.submit(connection, requests, self.now_ms)

    def do(self, *lines: str | list[bytes], connection: int = 1) -> list[Reply]:
        """Submit requests, end the iteration, and return what the connection has been answered since."""
        before = len(self.replies.get(connection, []))
        self.ask(*lines, connection=connection)
        self.flush()
        return self.replies.get(connection, [])[before:]

    def answers(self, connection: int = 1) -> list[Reply]:
        """Everything that the connection was answered."""
        return self.replies.get(connection, [])

    # What the replica does.

    def flush(self) -> None:
        """The end of an iteration."""
        self.router.flush(self.now_ms)

    def change(self, role: Role, leader: str | None, term: int) -> None:
        """The node's role changes."""
        self.replica.role, self.replica.leader, self.replica.term = role, leader, term
        self.router.role_changed(RoleChange(role, term, leader), self.now_ms)
        self.flush()

    def lead(self, term: int = 1) -> None:
        """This node becomes leader."""
        self.change(Role.LEADER, "n1", term)

    def follow(self, leader: str | None = "n2", term: int = 1) -> None:
        """This node follows."""
        self.change(Role.FOLLOWER, leader, term)

    def appended(self) -> None:
        """What was proposed is durable here."""
        self.replica.appending = False
        self.router.appended(self.now_ms)
        self.flush()

    def apply(self, payload: bytes) -> None:
        """The next entry is applied, whoever proposed it."""
        index = self.replica.applied_index + 1
        applied = self.replica.machine.apply(index, self.replica.term, payload)
        self.router.applied(index, applied.groups, self.now_ms, applied.pushed)

    def commit(self, count: int | None = None) -> None:
        """The next `count` entries of the own log, or all, are committed and applied."""
        start = self.replica.applied_index
        for payload in self.replica.log[start : None if count is None else start + count]:
            self.apply(payload)
        self.flush()

    def commit_groups(self, *groups: Group, stamp_ms: int = 0) -> None:
        """An entry of another leader, with `groups`, is applied."""
        payload = encode_batch(Batch(FORMAT_VERSION, 1, stamp_ms or WALL_MS + self.now_ms, list(groups)))
        self.replica.log.append(payload)
        self.apply(payload)
        self.flush()

    def confirm(self, index: int | None = None) -> None:
        """All read rounds are confirmed, at `index` or at what is applied."""
        contexts, self.replica.contexts = self.replica.contexts, []
        for context in contexts:
            self.router.read_point(context, self.replica.applied_index if index is None else index)
        self.flush()

    def pass_time(self, ms: int) -> None:
        """Time passes, in one tick."""
        self.now_ms += ms
        self.router.tick(self.now_ms)
        self.flush()

    def receive(self, node: str, value: object) -> None:
        """A frame comes from `node`."""
        self.router.received(node, value, self.now_ms)
        self.flush()

    # What was seen.

    def batches(self) -> list[Batch]:
        """The batches in the own log."""
        return [decode_batch(payload) for payload in self.replica.log]

    def take_sent(self) -> list[tuple[str, object]]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent

    def forwarded(self) -> list[Group]:
        """The groups that were forwarded since the last call of this or of `take_sent`; nothing else was sent."""
        groups = []
        for _, value in self.take_sent():
            assert isinstance(value, ForwardWrites)
            groups.append(value.group)
        return groups

    def forwarded_reads(self) -> list[ForwardReads]:
        """The same for reads."""
        frames = []
        for _, value in self.take_sent():
            assert isinstance(value, ForwardReads)
            frames.append(value)
        return frames
