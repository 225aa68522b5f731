"""One node of a simulated cluster: the production parts, joined as `server.node` joins them, on simulated surroundings.

It runs in *lives*. A life begins with opening the data directory and ends with a crash (of the process, or of the machine, at any
moment or in the middle of a disk operation), or with an error that the product does not survive. Everything that was to happen in a
life ends with it: only the disk remains, and of that only what was durable. A pause stops everything in the node but its clock and
its machine's connections. A life whose log is rotten begins with a repair, in which there is no replica; when it has ended the node
opens its log as at a start.

An error that no injected fault explains is a `Violation`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import structlog

from raftkv.codec.peer import ForwardWrites, Health, SnapshotWant, Value, decode_value, encode_value, stream_of
from raftkv.errors import Corrupt, DiskFull, InvalidRequest, Refused, Rotten, StorageError
from raftkv.kv.clock import LogClock
from raftkv.kv.digest import Pair
from raftkv.kv.machine import KvMachine
from raftkv.kv.replies import Reply
from raftkv.kv.store import Store
from raftkv.raft.messages import MessageBase
from raftkv.raft.node import Raft
from raftkv.raft.ready import Role
from raftkv.raft.types import Member, NodeId, Stored
from raftkv.repair import Ending, Repair
from raftkv.replica import Replica
from raftkv.router.router import Router
from raftkv.sim.disk import Crashed, Survival
from raftkv.sim.host import Host
from raftkv.sim.log import SimLog
from raftkv.sim.machine import WatchedMachine
from raftkv.sim.points import point_of
from raftkv.sim.probes import ProbedRaft
from raftkv.sim.store import ModelEngine, ModelStore
from raftkv.sim.trace import Violation
from raftkv.sim.world import Replies, World
from raftkv.startup import open_log, open_rotten, open_state, other_members, snapshot_meta_of, stored_state, with_room
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.identity import Identity, cluster_id, create_identity, load_identity
from raftkv.storage.wal import Wal
from raftkv.turns import Turns

_Result = TypeVar("_Result")

CLUSTER_NAME = "simulated"
REPAIR_TICK_MS = 100


class SimNode(Host):
    """See the module.

    Args:
        name: its name in `world.members`.
        world: what it shares with the others.
        replies: takes replies to clients.
        rng: every choice of this node and its surroundings.
    """

    def __init__(self, name: NodeId, world: World, replies: Replies, rng: random.Random) -> None:
        super().__init__(name, world, rng)
        self.alive = False
        self.paused = False
        self.doubtful = False
        """It went down while it had lost something, or lost it when it was down."""
        self.crash_in: tuple[int, random.Random] | None = None
        """It is to die in that many operations of its disk from now on."""
        self.ask_crash: Callable[[SimNode, str, str, int], Survival | None] = lambda node, kind, path, offset: None
        """Asked before each operation of its disk: does it die in that, and what survives?"""
        self.died: Callable[[SimNode], None] = lambda node: None
        """Told when a life has ended."""
        self.torn = False
        """The end of its log may be such that nobody can judge it, or its log is rotten."""
        self.repair: Repair | None = None
        """What the node does until its log is whole, while it is."""
        self.lives = 0
        self.wal: Wal
        self.replica: Replica
        self.router: Router
        self.turns: Turns
        self._replies = replies
        self._violation: Violation | None = None
        self._life = 0
        self._opening = False
        self._without_state = False
        """It began this life without a state."""
        self._boot = 0
        self._deferred: list[Callable[[], None]] = []
        self._state: StateDirectory | None = None
        self._point = "-"
        """The failure point at which it died last."""
        self._work_due = False
        self._ticks = 0
        """Where in a heartbeat the last life ended, as the next begins: anywhere."""

    # What happens in a life.

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
            if self._life == life and self.repair is None:
                self.world.watch.looked_at(self)
        except Crashed as error:
            self._crashed(error)
        except Violation:
            raise
        except Exception as error:
            self._fail(error)
        finally:
            self.world.running = "-"

    @property
    def impaired(self) -> bool:
        """Whether it has lost something that it was trusted to keep, and has not got it back."""
        if not self.alive or self.repair is not None:
            return self.wiped or self.doubtful or self.repair is not None
        raft = self.replica.raft
        if self.wiped or raft.suspect is not None or raft.fenced is not None:
            return True
        # The core does not doubt itself any more as soon as it takes a snapshot; the state comes a little later.
        return self._without_state and (raft.snapshot_pending or self.replica._installing is not None)

    @property
    def serves(self) -> bool:
        """Whether it lives, and takes part in the cluster."""
        return self.alive and self.repair is None

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
        self._opening = True
        world.trace.note(self.name, "starts", self._life)
        try:
            self._open()
        except Crashed as error:
            self._crashed(error)
            return
        except StorageError as error:
            if not (self.rotten and isinstance(error, Corrupt)):
                self._fail(error)
                return
            self._move_directory_away(error)
            return
        finally:
            self._opening = False
            world.running = "-"
        self.alive = True
        world.network.attach(self.name, self._boot, self)
        if self.repair is not None:
            self._tick_repair()
        else:
            self._begin()

    def _begin(self) -> None:
        self.turns.begin(self.now_ms)
        self.later(self._rng.randint(0, 20_000), self._tick)
        self.run(self.wake)

    def _move_directory_away(self, error: Corrupt) -> None:
        """What an operator does about a node that refuses to start."""
        self.world.trace.count(self.name, "moved_away", str(error).partition(":")[0])
        self.replace_disk()
        self.start()

    def _before_operation(self, kind: str, path: str, offset: int) -> Survival | None:
        if not self.alive and not self._opening:
            return None
        if self.rots_snapshot is not None and kind == "write" and path.endswith("/PROGRESS"):
            self._rot_snapshot(path.replace("/PROGRESS", "/data/"))
        survival = self.ask_crash(self, kind, path, offset)
        if survival is not None:
            self._point = point_of(kind, path, offset)
        return survival

    def _open(self) -> None:
        world, tuning = self.world, self.world.tuning
        disk = self.disk
        self._state = None
        self.repair = None
        self._events = structlog.get_logger("raftkv").bind(node=self.name)  # in each life: who records them is not known before
        try:
            self.wal = open_log(disk, tuning.wal, self._events)
        except Rotten:
            if self._begin_repair():
                return
            self.wal = open_log(disk, tuning.wal, self._events)
        identity = load_identity(disk)
        if identity is None:
            members = tuple(Member(member.id, 0, member.peer_address) for member in world.members)
            incarnation = self._rng.getrandbits(62) + 1
            identity = create_identity(disk, Identity(cluster_id(CLUSTER_NAME, members), CLUSTER_NAME, self.name, incarnation, 0, members))
        self.incarnation = identity.incarnation
        state, machine = self._open_state()
        world.watch.probes.opens(self.name, self.wal.recovered, machine, state.installed)
        stored = with_room(state.give_up_damaged, lambda: stored_state(identity, self.wal, machine, state.fenced), self._events)
        self._without_state = stored.fenced is not None
        if stored.fenced is not None:
            world.trace.count(self.name, "state_lost")
            if not self.doubtful:
                raise Violation("state kept", f"{self.name} starts without a state, and nothing has destroyed it")
        if stored.suspect is not None:
            world.trace.count(self.name, "suspect", stored.suspect)
            if not self.torn:
                raise Violation("log judged", f"{self.name} doubts its log up to {stored.suspect}, and nothing was torn")
        self.clock = LogClock(self.name)
        self.replica = Replica(
            raft=self.make_raft(stored),
            log=self.make_log(),
            state=state,
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
            self.wake,
        )
        self.replica.attach(self.router)
        self.turns = Turns(
            self.replica,
            self.router,
            self.clock,
            self.wal,
            self,
            lambda: self.wall_ms,
            self.transfer,
            tick_ms=tuning.replica.tick_ms,
            heartbeat_ticks=tuning.replica.heartbeat_ticks,
            ticks=self._ticks,
        )
        world.watch.started(self)

    def _open_state(self) -> tuple[StateDirectory, KvMachine]:
        disk, tuning = self.disk, self.world.tuning

        def directory() -> StateDirectory:
            engine = ModelEngine(disk, random.Random(self._rng.getrandbits(64)), tuning.refusals)
            return StateDirectory(disk, engine, snapshot_meta_of, token=lambda: f"{self._rng.getrandbits(64):016x}")

        def found(reason: str) -> None:
            if not self.doubtful:
                raise Violation("state kept", f"{self.name} finds its state damaged, and nothing has damaged it: {reason}")

        self._state, machine = open_state(disk, directory, self.make_machine, self._events, found)
        return self._state, machine

    def _begin_repair(self) -> bool:
        """Have a rotten log repaired with the others; False if the state holds what is rotten."""
        identity = load_identity(self.disk)
        if identity is None:
            raise Corrupt(f"{self.name} has a rotten log and no identity")
        log = open_rotten(self.disk, self.world.tuning.wal, self._open_state, self._events)
        self._state = None
        if not log.needed:
            log.close()
            return False
        self.world.trace.count(self.name, "repair", len(log.needed))

        def ended(ending: Ending) -> None:
            log.close()
            self.torn |= ending is Ending.GIVEN_UP
            self.later(0, self._open_repaired)

        self.repair = Repair(self.name, log, sorted(other_members(log, identity)), self.background, self.send, ended)
        return True

    def _open_repaired(self) -> None:
        self.world.network.detach(self.name, silent=False)
        self.alive = False
        self.repair = None
        self.start()

    def _tick_repair(self) -> None:
        if self.repair is not None:
            self.repair.tick(REPAIR_TICK_MS)
            self.later(REPAIR_TICK_MS * 1_000, self._tick_repair)

    def make_raft(self, stored: Stored) -> Raft:
        """The core of this life."""
        return ProbedRaft(self.world.tuning.config, stored, random.Random(self._rng.getrandbits(64)), self.world.watch.probes)

    def make_machine(self, store: Store) -> KvMachine:
        """The state machine on `store`."""
        return WatchedMachine(store, self)

    def make_log(self) -> SimLog:
        """The writer of this life's log."""
        return SimLog(
            self.wal,
            self.later,
            self._fsync_us,
            lambda number: self._persisted(number),
            self._fail,
            lambda full: self.replica.log_full(full),
        )

    def _persisted(self, number: int) -> None:
        self.world.watch.probes.persists(self.replica, number)
        self.replica.persisted(number)

    def _session(self) -> bytes:
        return self._rng.randbytes(16)

    def kill(self, *, power: Survival | None = None) -> None:
        """End this life: of the process, or with `power` of the machine."""
        if self.alive:
            self.die(power or Survival.CLEAN, "power" if power else "killed")

    def _crashed(self, crash: Crashed) -> None:
        """It died in the middle of an operation of its disk."""
        self.world.trace.points[self._point] += 1
        self.world.watch.probes.crashes(self._point)
        self.die(crash.survival or self.fate(), f"at {self._point}, {crash}")

    def die(self, survival: Survival, reason: str) -> None:
        """The node is gone. `survival` says what becomes of what was not durable."""
        self.world.trace.note(self.name, "dies", survival.name, reason)
        was_alive = self.alive
        if self.serves:
            self._ticks = self.turns.ticks
        if was_alive:
            self.world.watch.probes.dies(self.replica)
            if survival is not Survival.CLEAN:
                self.world.watch.probes.loses_power(self.replica, self.wal, self.disk)
        self.torn |= survival is Survival.TORN
        self.doubtful = self.impaired or survival is Survival.TORN
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
                self.world.watch.probes.store_crashes(store.unflushed)
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
        self.later(int(self.world.tuning.replica.tick_ms * 1_000 / self.clock_rate), self._tick)
        self.turns.pass_time(self.now_ms)

    def wake(self) -> None:
        """Let the node work at the end of this iteration of its loop."""
        if not self._work_due:
            self._work_due = True
            self.later(self._rng.randint(*self.world.tuning.turn_us), self._work)

    def _work(self) -> None:
        self._work_due = False
        if self.repair is None:
            self.turns.work(self.now_ms)

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

    # Other nodes.

    def send(self, node: NodeId, value: object) -> bool:
        """Send a value to another node."""
        data = encode_value(value)  # type: ignore[arg-type]  # the replica and the router send nothing that the codec does not know
        loose = isinstance(value, (MessageBase, Health))
        if isinstance(value, ForwardWrites):
            self.world.watch.probes.forwards(self.name, node, value)
        if isinstance(value, MessageBase):
            self.world.watch.sends(self, value)  # type: ignore[arg-type]  # every message is one of the union
        return self.world.network.send(self.name, node, stream_of(value), data, loose=loose)  # type: ignore[arg-type]

    def deliver(self, sender: NodeId, data: bytes) -> None:
        """Bytes have come from `sender`."""
        value = decode_value(data)
        self.world.trace.arrives(self.name, sender, value, len(data))
        self.run(lambda: self._take(sender, value))

    def _take(self, sender: NodeId, value: Value) -> None:
        if self.repair is not None:
            self.repair.received(sender, value)
            return
        if self.rots_snapshot is not None and isinstance(value, SnapshotWant):
            self._rot_snapshot(f"state/snap-{value.id}/")
        self.turns.take(sender, value, self.now_ms)

    def peer_connected(self, node: NodeId) -> None:
        """Both directions to `node` are open."""
        self.world.trace.note(self.name, "connected", node)
        self.run(lambda: self._connected(node))

    def _connected(self, node: NodeId) -> None:
        if self.repair is not None:
            self.repair.connected(node)
            return
        self.router.peer_connected(node)
        self.wake()

    def peer_disconnected(self, node: NodeId) -> None:
        """They no longer are."""
        self.world.trace.note(self.name, "disconnected", node)
        self.run(lambda: self._disconnected(node))

    def _disconnected(self, node: NodeId) -> None:
        if self.repair is not None:
            self.repair.disconnected(node)
            return
        self.replica.peer_lost(node)
        self.router.peer_disconnected(node)
        self.wake()

    def _health(self, digests: tuple[Pair, ...]) -> Health:
        raft = self.replica.raft
        return Health(
            digests,
            self.wall_ms,
            self.replica.applied_index,
            raft.fenced,
            "",
            role=str(raft.role),
            term=raft.term,
            refusing_writes=self.replica.out_of_space or "",
        )

    def _heard(self, node: NodeId, health: Health) -> None:
        self.clock.observe(node, health.wall_ms, self.now_ms)
        self.router.peer_refuses_writes(node, health.refusing_writes)

    def transfer(self, to: NodeId | None) -> None:
        """An operator wants the leadership handed over."""
        if not self.serves or self.replica.role is not Role.LEADER:
            return
        try:
            to = self.replica.transfer_leadership(to)
        except (Refused, InvalidRequest) as error:
            self.world.trace.note(self.name, "no_transfer", str(error))
            return
        self.world.trace.count(self.name, "transfer", to)

    # Clients.

    def open_client(self, connection: int) -> None:
        """A client connects."""
        if self.serves:
            self.run(lambda: self.router.open(connection, "client"))

    def close_client(self, connection: int) -> None:
        """A client disconnects."""
        if self.serves:
            self.run(lambda: self.router.closed(connection))

    def submit(self, connection: int, requests: list[list[bytes]]) -> None:
        """A client asks."""

        def ask() -> None:
            self.world.watch.probes.asked(self.replica.raft, requests)
            self.router.submit(connection, requests, self.now_ms)
            self.wake()

        if self.serves:
            self.run(ask)

    def _reply(self, connection_id: int, replies: list[Reply], protocol: int, close: bool, unasked: int = 0) -> None:
        try:
            self._replies.replied(self, connection_id, replies, close)
        except Violation as violation:  # the router gives up a connection whose replies cannot be taken, whatever the reason
            self._violation = violation
