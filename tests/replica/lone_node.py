"""One node for tests: n1 of three, with a log, a state and a replica on a simulated disk; the others are what the test says."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from raftkv.codec.peer import Fence, Health, SnapshotDone, SnapshotWant
from raftkv.errors import StorageError
from raftkv.kv.batch import FORMAT_VERSION, Batch, encode_batch
from raftkv.kv.machine import KvMachine
from raftkv.raft.config import Config
from raftkv.raft.membership import encode_configuration
from raftkv.raft.messages import Heartbeat, InstallSnapshot, PreVote, PreVoteResponse, SnapshotRequest, Vote, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState, Index, Member, SnapshotMeta
from raftkv.replica import Replica, ReplicaSettings
from raftkv.sim.disk import SimDisk, Survival
from raftkv.sim.store import ModelEngine
from raftkv.startup import snapshot_meta_of, stored_state
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.identity import Identity, create_identity
from raftkv.storage.plan import LogWrite
from raftkv.storage.wal import Wal, WalSettings
from raftkv.transfer import SnapshotSender

MEMBERS = tuple(Member(name, 7, f"{name}:1") for name in ("n1", "n2", "n3"))
FORMED = Configuration(MEMBERS, ("n1", "n2", "n3"))
IDENTITY = Identity(b"c" * 16, "test", "n1", 7, 0, MEMBERS)
ENTRIES = (
    Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(FORMED)),
    *(Entry(index, 1, EntryKind.BATCH, encode_batch(Batch(FORMAT_VERSION, 1, 1_000 + index, []))) for index in (2, 3, 4)),
)


class _Nobody:
    """A listener that takes no interest."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


class Node:
    """n1, a follower of n2 in term 1, on a disk of its own. Its log is written at once; what it does in the background waits."""

    def __init__(self, disk: SimDisk, replica_type: type[Replica] = Replica, settings: ReplicaSettings | None = None) -> None:
        self.disk = disk
        self.settings = settings or ReplicaSettings()
        self.sent: list[object] = []
        self.work: deque[Callable[[], None]] = deque()
        self._persisted: deque[int] = deque()
        self.wal = Wal.open(disk, WalSettings(segment_bytes=64 << 10))
        if self.wal.recovered.created:
            create_identity(disk, IDENTITY)
            self.wal.write([LogWrite(0, HardState(1), None, ENTRIES, len(ENTRIES))])
            self.wal.close()
            self.wal = Wal.open(disk, WalSettings(segment_bytes=64 << 10))
        self.state = StateDirectory(disk, ModelEngine(disk), snapshot_meta_of)
        machine = KvMachine(self.state.store)
        self.replica = replica_type(
            raft=Raft(Config(), stored_state(IDENTITY, self.wal, machine, self.state.fenced), random.Random(1)),
            log=cast(Any, self),
            state=self.state,
            machine=machine,
            make_machine=KvMachine,
            shell=cast(Any, self),
            settings=self.settings,
            health=lambda digests: Health(digests, 0, 0, self.replica.raft.fenced, ""),
            heard=lambda node, health: None,
        )
        self.replica.attach(cast(Any, _Nobody()))
        self.hears_the_leader()

    # What the replica asks for.

    size_bytes = 0

    def submit(self, write: LogWrite) -> None:
        self.wal.write([write])
        self._persisted.append(write.number)

    def read(self, first: Index, last: Index, max_bytes: int) -> Sequence[Entry]:
        return self.wal.read(first, last, max_bytes)

    def send(self, node: str, value: object) -> bool:
        self.sent.append(value)
        return True

    def background(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def run() -> None:
            try:
                result = work()
            except StorageError as error:
                result = error
            done(result)

        self.work.append(run)

    def wake(self) -> None:
        """`settle` does it."""

    # What a test does.

    def settle(self, *, background: bool = True) -> None:
        """Let everything happen that is due; what is in the background only if `background`."""
        for _ in range(100):
            while self._persisted:
                self.replica.persisted(self._persisted.popleft())
            if background and self.work:
                self.work.popleft()()
            self.replica.pump(0)

    def heartbeat(self, *, background: bool = True) -> None:
        """So much time passes that the node does its periodic work."""
        for _ in range(self.settings.heartbeat_ticks):
            self.replica.tick()
        self.settle(background=background)

    def hears_the_leader(self) -> None:
        self.replica.receive("n2", Heartbeat("n2", "n1", 1, 7, len(ENTRIES), 1))
        self.settle()

    def is_fenced(self, *, background: bool = True) -> None:
        """The leader says that the state here is wrong."""
        self.replica.receive("n2", Fence(2, "n2 leads term 1"))
        self.settle(background=background)

    def leads(self) -> None:
        """Wins an election."""
        raft = self.replica.raft
        for _ in range(4 * raft.config.election_ticks):
            self.replica.tick()
            self.settle()
            for ask in self.sent:
                if isinstance(ask, PreVote) and ask.to == "n2":
                    self.replica.receive("n2", PreVoteResponse("n2", "n1", ask.term, 7, ask.campaign_term, True, ask.round))
                elif isinstance(ask, Vote) and ask.to == "n2":
                    self.replica.receive("n2", VoteResponse("n2", "n1", ask.term, 7, True))
            self.sent.clear()
            if raft.role is Role.LEADER:
                return
        raise AssertionError("nobody was elected")

    def finds_itself_wrong(self, *, background: bool = True) -> None:
        """The others tell what the majority's state is, and it is not what is here."""
        for node in ("n2", "n3"):
            self.replica.receive(node, Health(((4, b"another digest"),), 0, 4, None, ""))
        self.heartbeat(background=background)
        assert self.replica.raft.fenced is not None

    def is_asked_for_a_snapshot(self) -> None:
        """n3 wants one."""
        self.replica.receive("n3", SnapshotRequest("n3", "n1", self.replica.raft.term, 7, "lost"))

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints on disk."""
        return [name for name in self.disk.list("state") if name.startswith("snap-")]

    def loses_power(self, replica_type: type[Replica] = Replica) -> Node:
        """Flushes what it has, stops, and starts again."""
        self.state.store.flush()
        self.disk.crash(Survival.LOST)
        return Node(self.disk, replica_type)

    def is_rebuilt(self) -> None:
        """Receives a snapshot of the leader's state."""
        disk = SimDisk(random.Random(2))
        leader = StateDirectory(disk, ModelEngine(disk), snapshot_meta_of, token=lambda: "right")
        machine = KvMachine(leader.store)
        machine.apply_empty(1, 1, ENTRIES[0].payload)
        for entry in ENTRIES[1:3]:
            machine.apply(entry.index, entry.term, entry.payload)

        def to_follower(node: str, value: object) -> bool:
            self.replica.receive("n2", value)
            return True

        sender = SnapshotSender(leader, lambda work, done: done(work()), to_follower, lambda peer, ok: None, 1 << 30)
        sender.start(InstallSnapshot("n2", "n1", 1, 7, SnapshotMeta()))
        for _ in range(10):
            self.settle()
            frames, self.sent = self.sent, []
            for frame in frames:
                if isinstance(frame, SnapshotWant):
                    sender.wanted("n1", frame)
                elif isinstance(frame, SnapshotDone):
                    sender.done("n1", frame)
