"""One replica, n1 of three, with a log of which everything is durable, a real state directory on a simulated disk, and nobody around it.

What it does in the background waits until the test lets it happen.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from raftkv.codec.peer import Health
from raftkv.errors import DiskFull
from raftkv.kv.machine import GroupReplies, KvMachine
from raftkv.raft.config import Config
from raftkv.raft.messages import Heartbeat, PreVoteResponse, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.ready import Role, RoleChange
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Index, Member, NodeId, SnapshotMeta, Stored
from raftkv.replica import Replica, ReplicaSettings
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelEngine, ModelStore
from raftkv.startup import snapshot_meta_of
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.plan import LogWrite

MEMBERS = Configuration(members=tuple(Member(f"n{number}", number, f"host:{number}") for number in (1, 2, 3)), voters=("n1", "n2", "n3"))


class Engine(ModelEngine):
    """Opens no store while its disk is full."""

    full = False

    def open(self, path: str) -> ModelStore:
        if self.full:
            raise DiskFull("no space left to open the state")
        return super().open(path)


class Lone:
    """The replica and its surroundings: it is its own log, shell and listener.

    Args:
        entries: the log, all of it durable and none of it known to be committed.
        config: of the core.
        settings: of the replica.
    """

    size_bytes = 0

    def __init__(self, entries: Sequence[Entry], *, config: Config | None = None, settings: ReplicaSettings | None = None) -> None:
        self.entries = list(entries)
        self.wakes = 0
        self.applied_indexes: list[Index] = []
        self.installed = 0
        self.written: list[int] = []
        self.sent: list[tuple[NodeId, object]] = []
        self.jobs: deque[Callable[[], None]] = deque()
        self.disk = SimDisk(random.Random(1))
        self.engine = Engine(self.disk)
        self.state = StateDirectory(self.disk, self.engine, snapshot_meta_of)
        last = entries[-1].id
        stored = Stored("n1", 1, HardState(1), SnapshotMeta(0, 0, MEMBERS), (EntryId(1, 1),), tuple(entries), last, committed=0, applied=0)
        self.replica = Replica(
            raft=Raft(config or Config(), stored, random.Random(1)),
            log=self,
            state=self.state,
            machine=KvMachine(self.state.store),
            make_machine=KvMachine,
            shell=self,
            settings=settings or ReplicaSettings(),
            health=lambda digests: Health(digests, 0, 0, None, ""),
            heard=lambda node, health: None,
        )
        self.replica.attach(self)

    def commit(self) -> None:
        """The leader, n2, says that the whole log is committed."""
        self.replica.receive("n2", Heartbeat("n2", "n1", 1, 2, len(self.entries), 1))

    def persist(self) -> None:
        """What was written is durable, and the replica goes on with it."""
        for number in self.written:
            self.replica.persisted(number)
        self.written.clear()
        self.replica.pump(0)

    def lead(self) -> None:
        """The others vote for it."""
        raft = self.replica.raft
        while raft.role is not Role.PRE_CANDIDATE:
            self.tick(1)
            self.persist()
        self.replica.receive("n2", PreVoteResponse("n2", "n1", raft.term, 2, raft.term + 1, True, raft.pre_vote_round))
        self.replica.pump(0)
        self.persist()
        self.replica.receive("n2", VoteResponse("n2", "n1", raft.term, 2, True))
        self.replica.pump(0)
        self.persist()

    def tick(self, times: int) -> None:
        """Time passes, and the replica does what it has to do."""
        for _ in range(times):
            self.replica.tick()
            self.replica.pump(0)

    def run_jobs(self) -> None:
        """Let what waits in the background happen."""
        for _ in range(len(self.jobs)):
            self.jobs.popleft()()

    # What the replica asks of its surroundings.

    def submit(self, write: LogWrite) -> None:
        self.written.append(write.number)

    def compact(self, meta: SnapshotMeta) -> None:
        """Nothing depends on it here."""

    def clear_suspect(self) -> None:
        """Nothing depends on it here."""

    def read(self, first: Index, last: Index, max_bytes: int) -> Sequence[Entry]:
        return self.entries[first - 1 : last]

    def send(self, node: NodeId, value: object) -> bool:
        self.sent.append((node, value))
        return True

    def background(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def run() -> None:
            try:
                result = work()
            except Exception as error:  # as the shell does: `done` decides
                done(error)
            else:
                done(result)

        self.jobs.append(run)

    background_read = background

    def wake(self) -> None:
        self.wakes += 1

    def role_changed(self, change: RoleChange, now_ms: int) -> None:
        """Nothing depends on it here."""

    def applied(self, index: Index, groups: list[GroupReplies], now_ms: int, pushed: Sequence[bytes] = ()) -> None:
        self.applied_indexes.append(index)

    def read_point(self, context: int, index: Index) -> None:
        """Nothing depends on it here."""

    def appended(self, now_ms: int) -> None:
        """Nothing depends on it here."""

    def snapshot_installed(self, now_ms: int) -> None:
        self.installed += 1


def noops(count: int) -> list[Entry]:
    """A log of `count` entries without commands."""
    return [Entry(index, 1, EntryKind.NOOP, b"") for index in range(1, count + 1)]
