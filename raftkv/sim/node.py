"""One node of a simulated cluster: the production parts, joined as `server.node` joins them, on simulated surroundings.

It runs in *lives*. A life begins with opening the data directory and ends with a crash (of the process, or of the machine, at any
moment or in the middle of a disk operation), or with an error that the product does not survive. Everything that was to happen in a
life ends with it: only the disk remains, and of that only what was durable. A pause stops everything in the node but its clock and
its machine's connections.

An error that no injected fault explains is a `Violation`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from msgspec import Struct

from raftkv.codec.peer import (
    ForwardReads,
    ForwardWrites,
    Health,
    ReadAnswers,
    ReadsRefused,
    Transfer,
    Value,
    WritesRefused,
    decode_value,
    encode_value,
    stream_of,
)
from raftkv.errors import Corrupt, DiskFull, InvalidRequest, Refused, StorageError
from raftkv.kv.clock import LogClock
from raftkv.kv.digest import Pair
from raftkv.kv.machine import Applied, KvMachine
from raftkv.kv.replies import Reply
from raftkv.kv.store import Store
from raftkv.raft.config import Config
from raftkv.raft.messages import MessageBase
from raftkv.raft.node import Raft
from raftkv.raft.ready import Role
from raftkv.raft.types import EntryKind, Member, NodeId
from raftkv.replica import Replica, ReplicaSettings
from raftkv.router.ports import RouterSettings
from raftkv.router.router import Router
from raftkv.sim.clock import Schedule
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.sim.log import SimLog
from raftkv.sim.network import SimNetwork
from raftkv.sim.store import ModelEngine, ModelStore
from raftkv.sim.trace import Trace, Violation
from raftkv.sim.watch import Watch
from raftkv.startup import snapshot_meta_of, stored_state
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.identity import Identity, cluster_id, create_identity, load_identity
from raftkv.storage.wal import Wal, WalSettings

_Result = TypeVar("_Result")

EPOCH_MS = 1_700_000_000_000
CLUSTER_NAME = "simulated"
_FOR_ROUTER = (ForwardWrites, WritesRefused, ForwardReads, ReadAnswers, ReadsRefused)


class Tuning(Struct, frozen=True, kw_only=True):
    """The settings of every node of a cluster, and how fast its parts are. Ranges of times are in microseconds."""

    config: Config = Config()
    replica: ReplicaSettings = ReplicaSettings()
    router: RouterSettings = RouterSettings()
    wal: WalSettings = WalSettings()
    fsync_us: tuple[int, int] = (100, 2_000)
    stall_us: tuple[int, int] = (20_000, 1_500_000)
    stalls: float = 0.0
    """The share of writes to the log that take as long as `stall_us`."""
    work_us: tuple[int, int] = (20, 20_000)
    """How long work in the background takes to begin, and its result to be noticed."""
    turn_us: tuple[int, int] = (0, 200)
    """How long an iteration of the event loop takes."""
    refusals: float = 0.0
    """The share of writes that the state store refuses."""


class Replies(Protocol):
    """Who takes the replies to clients."""

    def replied(self, node: SimNode, connection: int, replies: list[Reply], close: bool) -> None:
        """`replies` leave `node` on `connection`."""

    def node_died(self, node: SimNode) -> None:
        """All connections to `node` have broken."""


class World(Struct, kw_only=True):
    """What all nodes of a cluster share."""

    schedule: Schedule
    network: SimNetwork
    trace: Trace
    watch: Watch
    tuning: Tuning
    members: tuple[Member, ...]
    running: NodeId = "-"
    """Who acts at this moment, for events that do not say so."""


class WatchedMachine(KvMachine):
    """The machine, which tells the judge what it is about to apply."""

    def __init__(self, store: Store, node: SimNode) -> None:
        self._node = node
        super().__init__(store)

    def apply(self, index: int, term: int, payload: bytes) -> Applied:
        self._node.world.watch.applies(self._node, index, term, EntryKind.BATCH, payload)
        return super().apply(index, term, payload)

    def apply_empty(self, index: int, term: int, configuration: bytes | None = None) -> None:
        self._node.world.watch.applies(self._node, index, term, EntryKind.NOOP, configuration)
        super().apply_empty(index, term, configuration)


class SimNode:
    """See the module.

    Args:
        name: its name in `world.members`.
        world: what it shares with the others.
        replies: takes replies to clients.
        rng: every choice of this node and its surroundings.
    """

    def __init__(self, name: NodeId, world: World, replies: Replies, rng: random.Random) -> None:
        self.name = name
        self.world = world
        self.alive = False
        self.paused = False
        self.disk = SimDisk(random.Random(rng.getrandbits(64)))
        self.slow_disk = False
        self.faulty_disk = False
        """Its disk fails, or has failed in this life: errors of storage are to be expected."""
        self.wiped = False
        self.doubtful = False
        """It went down while it had lost something, or lost it when it was down."""
        self.died: Callable[[SimNode], None] = lambda node: None
        """Told when a life has ended."""
        self.torn = False
        """The end of its log may be such that nobody can judge it."""
        self.lives = 0
        self.rate = 1.0
        """How fast its clock runs."""
        self.wall_offset_ms = 0
        self.wal: Wal
        self.replica: Replica
        self.router: Router
        self._replies = replies
        self._rng = rng
        self._violation: Violation | None = None
        self._life = 0
        self._boot = 0
        self._deferred: list[Callable[[], None]] = []
        self._state: StateDirectory | None = None
        self._work_due = False
        self._ticked_ms = 0
        self._ticks = 0

    # Time.

    @property
    def now_ms(self) -> int:
        """The node's monotonic clock."""
        return 1_000 + int(self.world.schedule.now_us * self.rate) // 1_000

    @property
    def wall_ms(self) -> int:
        """The node's wall clock."""
        return EPOCH_MS + self.wall_offset_ms + self.world.schedule.now_us // 1_000

    def later(self, delay_us: int, action: Callable[[], None]) -> None:
        """Let `action` happen in this life of the node."""
        life = self._life

        def happen() -> None:
            if self._life == life:
                self.run(action)

        self.world.schedule.after(delay_us, happen)

    def run(self, action: Callable[[], None]) -> None:
        """Let `action` happen on the node's loop now, or when its pause is over. What it raises ends this life."""
        if not self.alive:
            return
        if self.paused:
            self._deferred.append(action)
        else:
            self._perform(action)

    def _perform(self, action: Callable[[], None]) -> None:
        life = self._life
        self.world.running = self.name
        try:
            action()
            if self._violation is not None:
                raise self._violation
            if self._life == life:
                self.world.watch.looked_at(self)
        except Crashed as error:
            self.die(self.fate(opening=False), str(error))
        except Violation:
            raise
        except Exception as error:
            self._fail(error)
        finally:
            self.world.running = "-"

    @property
    def impaired(self) -> bool:
        """Whether it has lost something that it was trusted to keep, and has not got it back."""
        if not self.alive:
            return self.wiped or self.doubtful
        raft = self.replica.raft
        rebuilding = self.doubtful and not self.replica.ready_to_serve  # a new state has been accepted, and may not be on the disk
        return self.wiped or raft.suspect is not None or raft.fenced is not None or rebuilding

    # Life and death.

    def start(self) -> None:
        """Begin a life."""
        if self.alive:
            return
        world = self.world
        self._life += 1
        self.lives += 1
        self._boot += 1
        self._work_due = False
        self._deferred.clear()
        world.running = self.name
        world.trace.note(self.name, "starts", self._life)
        try:
            self._open()
        except Crashed as error:
            self.die(self.fate(opening=True), str(error))
            return
        except StorageError as error:
            self._fail(error)
            return
        finally:
            world.running = "-"
        self.alive = True
        world.network.attach(self.name, self._boot, self)
        self._ticked_ms = self.now_ms
        self.later(self._rng.randint(0, 20_000), self._tick)
        self.run(self.wake)

    def _open(self) -> None:
        world, tuning = self.world, self.world.tuning
        disk = self.disk
        self._state = None
        self.wal = Wal.open(disk, tuning.wal)
        identity = load_identity(disk)
        if identity is None:
            members = tuple(Member(member.id, 0, member.peer_address) for member in world.members)
            incarnation = self._rng.getrandbits(62) + 1
            identity = create_identity(disk, Identity(cluster_id(CLUSTER_NAME, members), CLUSTER_NAME, self.name, incarnation, 0, members))
        engine = ModelEngine(disk, random.Random(self._rng.getrandbits(64)), tuning.refusals)
        self._state = StateDirectory(disk, engine, snapshot_meta_of, token=lambda: f"{self._rng.getrandbits(64):016x}")
        machine = self.make_machine(self._state.store)
        stored = stored_state(identity, self.wal, machine)
        if stored.state_lost:
            world.trace.count(self.name, "state_lost")
            if not self.doubtful:
                raise Violation("state kept", f"{self.name} starts without a state, and nothing has destroyed it")
        if stored.suspect is not None:
            world.trace.count(self.name, "suspect", stored.suspect)
            if not self.torn:
                raise Violation("log judged", f"{self.name} doubts its log up to {stored.suspect}, and nothing was torn")
        self.incarnation = identity.incarnation
        self.clock = LogClock(self.name)
        self.replica = Replica(
            raft=Raft(tuning.config, stored, random.Random(self._rng.getrandbits(64))),
            log=self.make_log(),
            state=self._state,
            machine=machine,
            make_machine=self.make_machine,
            shell=self,
            settings=tuning.replica,
            health=self._health,
            heard=self._heard,
        )
        self.router = Router(
            self.replica,
            tuning.router,
            self._session(),
            self.send,
            self._reply,
            self.clock,
            self._session,
            wake=self.wake,
        )
        self.replica.attach(self.router)
        world.watch.started(self)

    def make_machine(self, store: Store) -> KvMachine:
        """The state machine on `store`."""
        return WatchedMachine(store, self)

    def make_log(self) -> SimLog:
        """The writer of this life's log."""
        return SimLog(
            self.wal,
            self.later,
            self._fsync_us,
            lambda number: self.replica.persisted(number),
            self._fail,
            lambda full: self.replica.log_full(full),
        )

    def _session(self) -> bytes:
        return self._rng.randbytes(16)

    def fate(self, *, opening: bool) -> Survival:
        """What becomes of what is pending when the machine stops in the middle of an operation; `opening`: at the start of a life."""
        return Survival.REORDERED if not opening and self._rng.random() < 0.5 else Survival.LOST

    def kill(self, *, power: Survival | None = None) -> None:
        """End this life: of the process, or with `power` of the machine."""
        if self.alive:
            self.die(power or Survival.CLEAN, "power" if power else "killed")

    def die(self, survival: Survival, reason: str) -> None:
        """The node is gone. `survival` says what becomes of what was not durable."""
        self.world.trace.note(self.name, "dies", survival.name, reason)
        was_alive = self.alive
        self.torn |= survival is Survival.TORN
        self.doubtful = self.impaired
        self.alive = False
        self.paused = False
        self._life += 1
        self._deferred.clear()
        if survival is Survival.CLEAN:
            self.disk.restart()
        else:
            self.disk.crash(survival)
        self._crash_store()
        self.faulty_disk = False
        self.world.network.detach(self.name, silent=survival is not Survival.CLEAN and self._rng.random() < 0.5)
        if was_alive:
            self._replies.node_died(self)
        self.died(self)

    def _crash_store(self) -> None:
        """The state store flushes when it likes, so what it had not been told to flush may be there or not."""
        store = self._state.store if self._state is not None else None
        self._state = None
        if isinstance(store, ModelStore):
            try:
                store.crash(self._rng)
            except StorageError:
                self.world.trace.note(self.name, "store_gone")

    def _fail(self, error: BaseException) -> None:
        """The product stops itself."""
        expected = isinstance(error, StorageError) and not isinstance(error, Corrupt) and (self.faulty_disk or isinstance(error, DiskFull))
        if not expected:
            raise Violation("no failure", f"{self.name} stopped: {type(error).__name__}: {error}") from error
        self.world.trace.count(self.name, "stopped", type(error).__name__)
        self.die(Survival.CLEAN, str(error))

    def pause(self) -> None:
        """Everything in the node stands still from now on, but its clock."""
        if self.alive and not self.paused:
            self.paused = True
            self.world.trace.note(self.name, "paused")

    def resume(self) -> None:
        """The pause is over: what came meanwhile is dealt with, in its order and with turns of the loop in between."""
        if not self.alive or not self.paused:
            return
        life = self._life
        count = self._rng.randint(1, 12)
        now, self._deferred = self._deferred[:count], self._deferred[count:]
        for action in now:
            self._perform(action)
            if self._life != life:
                return
        if self._deferred:
            self._perform(self._work)
            self.world.schedule.after(self._rng.randint(0, 100), self.resume)
        else:
            self.paused = False
            self.world.trace.note(self.name, "resumed")
            self._perform(self.wake)

    # Running, as in `server.node`.

    def _tick(self) -> None:
        self.later(int(self.world.tuning.replica.tick_ms * 1_000 / self.rate), self._tick)
        self._pass_time()

    def _pass_time(self) -> None:
        tick_ms = self.world.tuning.replica.tick_ms
        now_ms = self.now_ms
        due = (now_ms - self._ticked_ms) // tick_ms
        if due < 1:
            return
        self._ticked_ms += due * tick_ms
        self._ticks += due
        for _ in range(min(due, 2 * self.world.tuning.config.election_ticks)):
            self.replica.tick()
        if self._ticks >= self.world.tuning.replica.heartbeat_ticks:
            self._ticks = 0
            self.clock.observe(self.name, self.wall_ms, now_ms)
            self.router.tick(now_ms)
            self.wake()

    def wake(self) -> None:
        """Let the node work at the end of this iteration of its loop."""
        if not self._work_due:
            self._work_due = True
            self.later(self._rng.randint(*self.world.tuning.turn_us), self._work)

    def _work(self) -> None:
        self._work_due = False
        now_ms = self.now_ms
        self._pass_time()
        self.replica.pump(now_ms)
        self.router.flush(now_ms)
        if self.replica.raft.has_ready():
            self.replica.pump(now_ms)
            self.router.flush(now_ms)

    def background_read(self, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]) -> None:
        """As `background`; nothing waits for anything else here."""
        self.background(work, done)

    def background(self, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]) -> None:
        """Run `work` a little later, and tell its result later still; several run at the same time, and end in any order."""

        def begin() -> None:
            result: _Result | BaseException
            try:
                result = work()
            except Crashed:
                raise
            except Exception as error:
                result = error
            self.later(self._rng.randint(*self.world.tuning.work_us), lambda: finish(result))

        def finish(result: _Result | BaseException) -> None:
            done(result)
            self.wake()

        self.later(self._rng.randint(*self.world.tuning.work_us), begin)

    def _fsync_us(self) -> int:
        tuning = self.world.tuning
        if self.slow_disk or (tuning.stalls and self._rng.random() < tuning.stalls):
            return self._rng.randint(*tuning.stall_us)
        return self._rng.randint(*tuning.fsync_us)

    # Other nodes.

    def send(self, node: NodeId, value: object) -> bool:
        """Send a value to another node."""
        data = encode_value(value)  # type: ignore[arg-type]  # the replica and the router send nothing that the codec does not know
        loose = isinstance(value, (MessageBase, Health))
        if isinstance(value, MessageBase):
            self.world.watch.sends(self, value)  # type: ignore[arg-type]  # every message is one of the union
        return self.world.network.send(self.name, node, stream_of(value), data, loose=loose)  # type: ignore[arg-type]

    def deliver(self, sender: NodeId, data: bytes) -> None:
        """Bytes have come from `sender`."""
        value = decode_value(data)
        self.world.trace.note(self.name, type(value).__name__, sender, len(data))
        self.run(lambda: self._take(sender, value))

    def _take(self, sender: NodeId, value: Value) -> None:
        if isinstance(value, _FOR_ROUTER):
            self.router.received(sender, value, self.now_ms)
        elif isinstance(value, Transfer):
            self.transfer(value.to or None)
        else:
            self.replica.receive(sender, value)
        self.wake()

    def peer_connected(self, node: NodeId) -> None:
        """Both directions to `node` are open."""
        self.world.trace.note(self.name, "connected", node)
        self.run(lambda: self._connected(node))

    def _connected(self, node: NodeId) -> None:
        self.router.peer_connected(node)
        self.wake()

    def peer_disconnected(self, node: NodeId) -> None:
        """They no longer are."""
        self.world.trace.note(self.name, "disconnected", node)
        self.run(lambda: self._disconnected(node))

    def _disconnected(self, node: NodeId) -> None:
        self.replica.peer_lost(node)
        self.router.peer_disconnected(node)
        self.wake()

    def _health(self, digests: tuple[Pair, ...]) -> Health:
        raft = self.replica.raft
        return Health(digests, self.wall_ms, self.replica.applied_index, raft.fenced, "", role=str(raft.role), term=raft.term)

    def _heard(self, node: NodeId, health: Health) -> None:
        self.clock.observe(node, health.wall_ms, self.now_ms)

    def transfer(self, to: NodeId | None) -> None:
        """An operator wants the leadership handed over."""
        raft = self.replica.raft
        if raft.role is not Role.LEADER:
            return
        if to is None:
            candidates = [(view.match, peer) for peer, view in raft.progress().items() if peer in raft.view.voting and view.counts]
            if not candidates:
                return
            to = max(candidates)[1]
        try:
            raft.transfer_leadership(to)
        except (Refused, InvalidRequest) as error:
            self.world.trace.note(self.name, "no_transfer", str(error))
            return
        self.world.trace.count(self.name, "transfer", to)
        self.wake()

    # Clients.

    def open_client(self, connection: int) -> None:
        """A client connects."""
        self.run(lambda: self.router.open(connection, "client"))

    def close_client(self, connection: int) -> None:
        """A client disconnects."""
        self.run(lambda: self.router.closed(connection))

    def submit(self, connection: int, requests: list[list[bytes]]) -> None:
        """A client asks."""

        def ask() -> None:
            self.router.submit(connection, requests, self.now_ms)
            self.wake()

        self.run(ask)

    def _reply(self, connection_id: int, replies: list[Reply], protocol: int, close: bool) -> None:
        try:
            self._replies.replied(self, connection_id, replies, close)
        except Violation as violation:  # the router gives up a connection whose replies cannot be taken, whatever the reason
            self._violation = violation
