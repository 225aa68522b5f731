"""A node whose state is found to be wrong serves nothing of it, today and after a restart, until it has been given another."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from raftkv.codec.peer import Fence, Health, SnapshotDone, SnapshotWant
from raftkv.errors import StorageError
from raftkv.kv.batch import FORMAT_VERSION, Batch, encode_batch
from raftkv.kv.machine import KvMachine
from raftkv.raft.config import Config
from raftkv.raft.membership import encode_configuration
from raftkv.raft.messages import Heartbeat, InstallSnapshot, PreVote, PreVoteResponse, SnapshotRequest, Vote, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState, Member, SnapshotMeta
from raftkv.replica import PAUSE_TICKS, Replica, ReplicaSettings
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
WRONG = "the state here differs from the majority's at index 2: n2 leads term 1"


class _Nobody:
    """A listener that takes no interest."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


class Node:
    """n1, a follower of n2 in term 1, on a disk of its own. Its log is written at once; what it does in the background waits."""

    def __init__(self, disk: SimDisk, replica_type: type[Replica] = Replica) -> None:
        self.disk = disk
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
            settings=ReplicaSettings(),
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
                    self.replica.receive("n2", PreVoteResponse("n2", "n1", ask.term, 7, ask.campaign_term, True))
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
        for _ in range(ReplicaSettings().heartbeat_ticks):
            self.replica.tick()
        self.settle(background=background)
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


class Forgetful(Replica):
    """Fences itself and writes nothing down."""

    def _record_fence(self) -> None:
        self._fence_due = None


def test_a_fence_outlives_the_process() -> None:
    """A node that was told that its state is wrong starts without one: it serves nothing and goes on asking for a snapshot."""
    node = Node(SimDisk(random.Random(1)))
    assert (node.replica.applied_index, node.replica.ready_to_serve) == (4, True)
    node.is_fenced()
    for _ in range(2):
        node = node.loses_power()
        assert (node.replica.raft.fenced, node.replica.ready_to_serve) == (WRONG, False)
        assert SnapshotRequest("n1", "n2", 1, 7, WRONG) in node.sent


def _serves_after_a_restart(replica_type: type[Replica]) -> bool:
    node = Node(SimDisk(random.Random(1)), replica_type)
    node.is_fenced()
    assert not node.replica.ready_to_serve
    return node.loses_power(replica_type).replica.ready_to_serve


def test_a_fence_that_is_not_written_is_caught() -> None:
    """Planted: a fence that only the process knows is gone when it is, and the wrong state is served again."""
    assert _serves_after_a_restart(Forgetful)
    assert not _serves_after_a_restart(Replica)


def test_a_fence_takes_effect_before_it_is_durable() -> None:
    """The disk may take its time: nothing is served meanwhile."""
    node = Node(SimDisk(random.Random(1)))
    node.is_fenced(background=False)
    assert (node.state.fenced, node.replica.ready_to_serve) == (None, False)
    node.settle()
    assert node.state.fenced == WRONG


def test_a_snapshot_ends_the_fence_for_good() -> None:
    """Once another state has taken the place of the wrong one the node serves, also after a restart."""
    node = Node(SimDisk(random.Random(1)))
    node.is_fenced()
    node = node.loses_power()
    node.is_rebuilt()
    assert (node.replica.raft.fenced, node.replica.ready_to_serve, node.replica.applied_index) == (None, True, 4)
    node = node.loses_power()
    assert (node.replica.raft.fenced, node.replica.ready_to_serve, node.replica.applied_index) == (None, True, 4)


def test_a_fence_that_found_no_space_is_tried_again() -> None:
    """The node stays fenced meanwhile, and the fence is on disk when there is space."""
    node = Node(SimDisk(random.Random(1)))
    node.disk.capacity_bytes = sum(map(len, node.disk.files().values()))
    node.is_fenced()
    assert (node.state.fenced, node.replica.ready_to_serve) == (None, False)
    node.disk.capacity_bytes = None
    for _ in range(PAUSE_TICKS + ReplicaSettings().heartbeat_ticks):
        node.replica.tick()
    node.settle()
    assert node.state.fenced == WRONG


def test_a_fence_that_cannot_be_written_stops_the_node() -> None:
    """An error of the disk is one, whatever was to be written."""
    node = Node(SimDisk(random.Random(1)))
    node.disk.fail_at(node.disk.operations + 3, StorageError("Input/output error"))
    with pytest.raises(StorageError, match="Input/output"):
        node.is_fenced()


def test_a_fence_of_no_leader_is_no_fence() -> None:
    """Only the leader compares, so only its word counts."""
    node = Node(SimDisk(random.Random(1)))
    node.replica.receive("n3", Fence(2, "n3 leads term 1"))
    node.settle()
    assert (node.state.fenced, node.replica.ready_to_serve) == (None, True)


def _leader() -> Node:
    node = Node(SimDisk(random.Random(1)))
    node.leads()
    return node


def _fences_itself_with_a_checkpoint(node: Node) -> None:
    """A checkpoint is being sent when the leader finds that its state is wrong."""
    node.is_asked_for_a_snapshot()
    node.settle()
    assert len(node.checkpoints) == 1
    node.finds_itself_wrong()


def _fences_itself_while_making_a_checkpoint(node: Node) -> None:
    """A checkpoint is about to be made when the leader finds that its state is wrong."""
    node.is_asked_for_a_snapshot()
    node.settle(background=False)
    assert len(node.work) == 1
    node.finds_itself_wrong(background=False)
    node.settle()


def _fences_itself_when_asked_for_a_checkpoint(node: Node) -> None:
    """The core has just said that a peer needs a snapshot, and nothing has been done about it."""
    node.is_asked_for_a_snapshot()
    node.finds_itself_wrong()


MOMENTS = [_fences_itself_with_a_checkpoint, _fences_itself_while_making_a_checkpoint, _fences_itself_when_asked_for_a_checkpoint]


@pytest.mark.parametrize("happens", MOMENTS)
def test_a_leader_that_fences_itself_keeps_nothing_of_the_wrong_state(happens: Callable[[Node], None]) -> None:
    """At whatever moment it happens, no checkpoint of the wrong state is there afterwards, so that none can be offered when the node leads
    again."""
    node = _leader()
    happens(node)
    node.settle()
    assert node.replica.raft.role is Role.FOLLOWER
    assert node.checkpoints == []


@pytest.mark.parametrize("happens", MOMENTS)
def test_a_checkpoint_that_is_kept_is_caught(happens: Callable[[Node], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a leader that only ends its transfers, as any that steps down does, has the wrong state at hand for another minute."""
    monkeypatch.setattr(SnapshotSender, "distrust", SnapshotSender.stop_all)
    monkeypatch.setattr(Replica, "_send", _send_whatever)
    node = _leader()
    happens(node)
    node.settle()
    assert len(node.checkpoints) == 1


def _send_whatever(self: Replica, messages: Sequence[Any]) -> None:
    for message in messages:
        if message.to == self.node:
            self.raft.step(message)
        elif isinstance(message, InstallSnapshot):
            self._sender.start(message)
        else:
            self._shell.send(message.to, message)
