"""One node as a process: opens the data directory, joins the parts, drives them from one event loop, and ends in order.

The loop calls `Node._work` once for all the input of an iteration: the replica executes what the core has ready, the router hands over
what it collected. Everything that could block runs in the log's thread or in a small pool. An error in any of it that is not an answer
to somebody stops the node: a node that cannot trust its disk or its own state is worth less than none.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from raftkv.codec.handshake import Hello
from raftkv.codec.peer import Health, Transfer, Value
from raftkv.errors import (
    InvalidRequest,
    InvalidSettings,
    InvariantBroken,
    RaftkvError,
    Refused,
    Rotten,
    StateDamaged,
    StorageError,
    Unavailable,
)
from raftkv.kv.clock import LogClock
from raftkv.kv.machine import KvMachine
from raftkv.raft import Raft, Role
from raftkv.raft.config import Config
from raftkv.raft.types import Member, NodeId
from raftkv.replica import Replica, ReplicaSettings
from raftkv.router.ports import RouterSettings
from raftkv.router.router import Router
from raftkv.server.admin import AdminPages, AdminServer, Check
from raftkv.server.clients import ClientServer
from raftkv.server.input import when_input_ends
from raftkv.server.logging import configure_logging
from raftkv.server.peers import Facts, PeerNetwork
from raftkv.server.repairing import RepairPhase
from raftkv.server.settings import Address, NodeSettings
from raftkv.server.status import Reporter
from raftkv.server.stop_signals import STOP_SIGNALS, let_through
from raftkv.startup import open_log, open_rotten, open_state, other_members, snapshot_meta_of, stored_state, with_room
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.damage import note_damage
from raftkv.storage.disk import OsDisk
from raftkv.storage.identity import Identity, cluster_id, create_identity, draw_incarnation, load_identity
from raftkv.storage.store import RocksEngine
from raftkv.storage.wal import Wal, WalSettings
from raftkv.storage.writer import LogThread
from raftkv.turns import Turns

_Result = TypeVar("_Result")

DRAIN_SECONDS = 5.0
"""How long a polite stop waits for what is in flight and for the leadership to be taken over."""

WORKERS = 4
READ_WORKERS = 2
RESERVE_BYTES = 48 << 20
"""Free space below which a leader refuses writes: enough for what the state has in memory; the log takes the space of its next segment
ahead."""

WAL_SETTINGS = WalSettings(segment_bytes=32 << 20)


def monotonic_ms() -> int:
    """Milliseconds that also count while the machine sleeps, where the system can tell: a lease must not outlive a suspended lid."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000


def run(settings: NodeSettings) -> int:
    """Run a node until it is told to stop.

    Returns:
        The exit code: 0 after it was asked to stop (SIGTERM, SIGINT or, if the settings say so, the end of standard input), 1 when the
        node could not start or had to stop.
    """
    configure_logging(settings)
    events = structlog.get_logger("raftkv").bind(node=settings.name)
    try:
        if sys.platform == "win32":
            return asyncio.run(Node(settings).serve())
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Node(settings).serve())
    except (RaftkvError, OSError) as error:
        events.error("node_cannot_run", kind=type(error).__name__, reason=str(error))
        return 1


class Node:
    """One running node."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._events: structlog.typing.FilteringBoundLogger = structlog.get_logger("raftkv").bind(node=settings.name)
        self._failure: BaseException | None = None
        self._stopping = False
        self._work_due = False
        self._calm = False
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="raftkv-work")
        self._read_pool = ThreadPoolExecutor(READ_WORKERS, thread_name_prefix="raftkv-read")

    # The beginning.

    async def serve(self) -> int:
        """Open, run, stop. The exit code."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.set_exception_handler(self._unhandled)
        for number in STOP_SIGNALS:
            with contextlib.suppress(NotImplementedError):
                self._loop.add_signal_handler(number, self._stop.set)
        let_through()
        if self._settings.stop_at_end_of_input:
            when_input_ends(self._input_ended)
        if not await self._open_log():
            self._events.info("node_stopped")
            return 0 if self._failure is None else 1
        self._open()
        try:
            await self._listen()
            self._tick_later()
            await self._stop.wait()
            self._events.info("node_stopping", reason="failure" if self._failure else "asked")
            if self._failure is None:
                await self._drain()
        finally:
            await self._close()
        if self._failure is not None:
            return 1
        self._events.info("node_stopped")
        return 0

    async def _open_log(self) -> bool:
        """Open the log and find out who this node is; False if the node is to stop before a rotten log is repaired."""
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self._disk = disk = OsDisk(settings.data_dir)
        try:
            self._wal = open_log(disk, WAL_SETTINGS, self._events)
        except Rotten as rotten:
            self._events.warning("rot_found", what=str(rotten))
            if not await self._repair(rotten):
                return False
            self._wal = open_log(disk, WAL_SETTINGS, self._events)
        for what in self._wal.passed:
            self._events.warning("rot_ignored", what=what)
        identity = load_identity(disk)
        if identity is None:
            identity = create_identity(disk, self._new_identity())
            self._events.info("node_created", cluster=identity.cluster_name, incarnation=identity.incarnation)
        self._identity = self._own(identity)
        return True

    async def _repair(self, rotten: Rotten) -> bool:
        """Have the rotten log repaired with the other members; False if the node is to stop before that.

        Raises:
            Rotten: there is nobody to ask.
        """
        identity = load_identity(self._disk)
        if identity is None:
            raise rotten
        self._own(identity)
        log = open_rotten(self._disk, WAL_SETTINGS, self._open_state, self._events)
        if not log.needed:
            self._events.info("rot_forgotten", begin=log.begin.index)
        members = other_members(log, identity)
        if not log.needed or not members:
            log.close()
            if log.needed:
                raise rotten
            return True
        phase = RepairPhase(self._settings, identity.cluster_name, self._facts(identity), members, log, self._stop)
        return await phase.run()

    def _own(self, identity: Identity) -> Identity:
        """`identity`, if it is this node's.

        Raises:
            InvalidSettings: it is another node's.
        """
        settings = self._settings
        if identity.node != settings.name:
            raise InvalidSettings(f"{settings.data_dir} belongs to node {identity.node}; --name says {settings.name}")
        return identity

    def _facts(self, identity: Identity) -> Facts:
        return Facts(
            cluster_id=identity.cluster_id,
            node=identity.node,
            incarnation=identity.incarnation,
            boot=time.time_ns(),
            client_address=str(self._settings.client_address),
            peer_address=str(self._settings.peer_address),
        )

    def _open(self) -> None:
        settings, identity = self._settings, self._identity
        state, machine = self._open_state()
        self._state = state
        stored = with_room(state.give_up_damaged, lambda: stored_state(identity, self._wal, machine, state.fenced), self._events)
        if stored.fenced is not None:
            self._events.warning("state_lost", reason=stored.fenced, log_begin=stored.snapshot.index, applied=machine.applied_index)
        if stored.suspect is not None:
            self._events.warning("suspect", up_to=stored.suspect, last=stored.last.index)
        tuning = settings.tuning
        config = Config(
            election_ticks=tuning.election_ticks,
            heartbeat_ticks=tuning.heartbeat_ticks,
            lease_ticks=max(1, tuning.election_ticks * 4 // 5),
            max_page_bytes=1 << 20,
        )
        raft = Raft(config, stored, random.Random(secrets.randbits(64)))
        self._reporter = Reporter(settings, identity, self._wal)
        self._log = LogThread(self._wal, self._log_persisted, self._log_failed, self._log_full)
        self._replica = Replica(
            raft=raft,
            log=_Log(self._wal, self._log),
            state=state,
            machine=machine,
            make_machine=KvMachine,
            shell=self,
            settings=ReplicaSettings(
                heartbeat_ticks=tuning.heartbeat_ticks,
                tick_ms=tuning.tick_ms,
                compact_bytes=tuning.compact_bytes,
                compact_entries=tuning.compact_entries,
                snapshot_bytes_per_second=tuning.snapshot_bytes_per_second,
                reserve_bytes=RESERVE_BYTES,
            ),
            health=self._reporter.health,
            heard=self._heard,
        )
        self._join(machine)
        self._events.info(
            "node_opened", applied=machine.applied_index, last=stored.last.index, term=raft.term, members=list(raft.view.nodes)
        )

    def _open_state(self) -> tuple[StateDirectory, KvMachine]:
        def directory() -> StateDirectory:
            return StateDirectory(self._disk, RocksEngine(self._settings.data_dir), snapshot_meta_of)

        return open_state(self._disk, directory, KvMachine, self._events)

    def _new_identity(self) -> Identity:
        settings = self._settings
        if settings.cluster is None:
            raise InvalidSettings(f"{settings.data_dir} is empty; say --cluster NAME=HOST:PORT,… to name the initial members")
        members = tuple(Member(name, 0, str(address)) for name, address in sorted(settings.cluster.items()))
        return Identity(
            cluster_id(settings.cluster_name, members), settings.cluster_name, settings.name, draw_incarnation(), 0, members
        )

    def _join(self, machine: KvMachine) -> None:
        settings, identity, limits = self._settings, self._identity, self._settings.limits
        self._clock = LogClock(identity.node)
        self._clients = ClientServer(limits, monotonic_ms, self.wake)
        self._network = PeerNetwork(
            self._facts(identity),
            settings.secret or b"",
            self._received,
            self._peer_connected,
            self._peer_disconnected,
        )
        self._router = Router(
            self._replica,
            RouterSettings(
                timeout_ms=limits.request_timeout_ms,
                max_commands=limits.max_commands_in_flight,
                max_bytes=limits.max_bytes_in_flight,
                max_entry_bytes=limits.max_entry_bytes,
            ),
            secrets.token_bytes(16),
            self.send,
            self._clients.reply,
            self._clock,
            lambda: secrets.token_bytes(16),
            self.wake,
            self._reporter.facts,
            _Operations(self),
        )
        self._replica.attach(self._router)
        tuning = settings.tuning
        self._turns = Turns(
            self._replica,
            self._router,
            self._clock,
            self._wal,
            self,
            wall_ms,
            self._transfer_asked,
            tick_ms=tuning.tick_ms,
            heartbeat_ticks=tuning.heartbeat_ticks,
        )
        self._clients.sink = self._router
        self._reporter.attach(self._replica, self._network, self._clients, self._log)

    async def _listen(self) -> None:
        settings = self._settings
        self._admin = AdminServer(
            AdminPages(
                live=lambda: Check(self._failure is None, "ok" if self._failure is None else str(self._failure)),
                ready=self._ready,
                metrics=lambda: self._reporter.metrics(self._router.counts()),
                status=self._reporter.status,
            )
        )
        await self._network.listen(settings.peer)
        members = self._replica.raft.configuration.members
        self._network.set_peers(
            {member.id: Address.parse(member.peer_address, what=f"the address of {member.id}") for member in members}
        )
        await self._clients.listen(settings.client)
        if settings.admin is not None:
            await self._admin.listen(settings.admin)
        self._events.info("node_listening", client=str(settings.client), peer=str(settings.peer))
        self._turns.begin(monotonic_ms())
        gc.freeze()
        self.wake()

    # Running.

    def _tick(self) -> None:
        self._guarded(self._turns.pass_time, monotonic_ms())
        if not self._stopping:
            self._tick_later()

    def _tick_later(self) -> None:
        """Come back for the next tick; in calm times only when a heartbeat is due, because what an idle node costs is its waking up.
        Whatever happens meanwhile passes the time first."""
        self._calm = self._replica.calm
        due_ms = self._turns.due_ms(calm=self._calm)
        self._ticking = self._loop.call_later(max(due_ms - monotonic_ms(), 1) / 1000, self._tick)

    def _work(self) -> None:
        self._work_due = False
        self._guarded(self._advance)

    def _advance(self) -> None:
        self._turns.work(monotonic_ms())
        if self._calm and not self._replica.calm:
            self._ticking.cancel()
            self._tick_later()

    def _guarded(self, act: Callable[..., None], *arguments: object) -> None:
        """Run `act`; whatever it raises stops the node. Nothing is run in a node that has failed, or whose log is being closed."""
        if self._failure is not None or self._stopping:
            return
        try:
            act(*arguments)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            if isinstance(error, StateDamaged):
                with contextlib.suppress(StorageError):  # then it is found again, as it was now
                    note_damage(self._disk, str(error))
            raft = self._replica.raft
            self._events.critical(
                "node_failed",
                kind=type(error).__name__,
                reason=str(error),
                role=str(raft.role),
                term=raft.term,
                last=raft.last_index,
                committed=raft.committed,
                applied=self._replica.applied_index,
                exc_info=error if isinstance(error, InvariantBroken) or not isinstance(error, RaftkvError) else None,
            )
            self._stop.set()

    def _input_ended(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped already
            self._loop.call_soon_threadsafe(self._stop.set)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        found = context.get("exception")
        error = found if isinstance(found, BaseException) else RuntimeError(str(context.get("message")))
        if hasattr(self, "_replica"):
            self._fail(error)
        else:  # while the log is being repaired
            self._failure = error
            self._events.critical("node_failed", kind=type(error).__name__, reason=str(error), exc_info=error)
            self._stop.set()

    # What the replica asks of its surroundings.

    def wake(self) -> None:
        """Let `_work` run at the end of this iteration of the loop."""
        if not self._work_due:
            self._work_due = True
            self._loop.call_soon(self._work)

    def send(self, node: NodeId, value: object) -> bool:
        """Send a value to another node; not what it has heard already."""
        if type(value) is Health and not self._reporter.is_news(node, value, monotonic_ms()):
            return True
        return self._network.send(node, value)  # type: ignore[arg-type]  # the replica sends nothing that the codec does not know

    def background(self, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]) -> None:
        """Run `work` in the pool and `done` on the loop."""
        self._run_in(self._pool, work, done)

    def background_read(self, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]) -> None:
        """The same in a pool of its own: a long scan keeps nobody waiting but other long scans."""
        self._run_in(self._read_pool, work, done)

    def _run_in(
        self, pool: ThreadPoolExecutor, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]
    ) -> None:
        def run_work() -> None:
            try:
                result: _Result | BaseException = work()
            except BaseException as error:  # handed to `done`, which decides
                result = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(finish, result)

        def finish(result: _Result | BaseException) -> None:
            self._guarded(done, result)
            self.wake()

        pool.submit(run_work)

    # What happens.

    def _received(self, node: NodeId, value: Value) -> None:
        self._guarded(self._take, node, value)

    def _take(self, node: NodeId, value: Value) -> None:
        now_ms = monotonic_ms()
        self._turns.pass_time(now_ms)
        self._turns.take(node, value, now_ms)

    def _transfer_asked(self, to: NodeId | None) -> None:
        with contextlib.suppress(Refused, InvalidRequest):  # who asked sees that nothing changed
            self._replica.transfer_leadership(to)

    def _heard(self, node: NodeId, health: Health) -> None:
        self._clock.observe(node, health.wall_ms, monotonic_ms())
        self._reporter.heard(node, health)
        self._router.peer_refuses_writes(node, health.refusing_writes)

    def _peer_connected(self, node: NodeId, hello: Hello) -> None:
        self._reporter.forget(node)
        self._guarded(self._router.peer_connected, node)
        self.wake()

    def _peer_disconnected(self, node: NodeId) -> None:
        self._reporter.forget(node)
        self._guarded(self._turns.pass_time, monotonic_ms())
        self._guarded(self._replica.peer_lost, node)
        self._guarded(self._router.peer_disconnected, node)
        self.wake()

    def _log_persisted(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self._persisted, number)

    def _persisted(self, number: int) -> None:
        self._guarded(self._replica.persisted, number)

    def _log_failed(self, error: StorageError) -> None:
        self._loop.call_soon_threadsafe(self._fail, error)

    def _log_full(self, full: bool) -> None:
        self._loop.call_soon_threadsafe(self._guarded, self._replica.log_full, full)

    def _ready(self) -> Check:
        raft = self._replica.raft
        if raft.fenced is not None:
            return Check(False, f"the state is being rebuilt: {raft.fenced}")
        if raft.leader is None:
            return Check(False, "no leader is known")
        return Check(self._replica.ready_to_serve, "ok" if self._replica.ready_to_serve else "the state is being replaced")

    # The end.

    async def _drain(self) -> None:
        """Take nothing new, hand over, and wait until everything in flight has been answered."""
        self._clients.stop_listening()
        deadline = self._loop.time() + DRAIN_SECONDS
        raft = self._replica.raft
        asked = 0.0
        while self._loop.time() < deadline and self._failure is None:
            idle = self._router.drain()
            self.wake()
            if idle and raft.role is Role.LEADER and len(raft.view.voting) > 1 and self._loop.time() - asked > 1.0:
                asked = self._loop.time()
                with contextlib.suppress(Refused, InvalidRequest):
                    self._replica.transfer_leadership(None)
            elif idle and (raft.role is not Role.LEADER or len(raft.view.voting) == 1):
                return
            await asyncio.sleep(0.005)
        self._events.warning("drain_incomplete", in_flight=self._router.counts().held, role=str(raft.role))

    async def _close(self) -> None:
        for name in ("_clients", "_network", "_admin"):
            part = getattr(self, name, None)
            if part is not None:
                await part.close()
        self._stopping = True
        log = getattr(self, "_log", None)
        if log is not None:
            closed = await asyncio.to_thread(log.close, DRAIN_SECONDS)
            if not closed:
                self._events.error("disk_hangs", reason="the log could not be closed")
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._read_pool.shutdown(wait=False, cancel_futures=True)
        state = getattr(self, "_state", None)
        if state is not None and self._failure is None:
            try:
                await asyncio.to_thread(state.store.flush)
            except StorageError as error:  # what the state has not on disk, the log has
                self._events.warning("flush_failed", reason=str(error))
            state.close()


class _Log:
    """The log as the replica sees it: written by the thread, read directly."""

    def __init__(self, wal: Wal, thread: LogThread) -> None:
        self._wal = wal
        self.submit = thread.submit
        self.compact = thread.compact
        self.clear_suspect = thread.clear_suspect
        self.read = wal.read

    @property
    def size_bytes(self) -> int:
        return self._wal.size_bytes


class _Operations:
    """What an operator may ask of the node, through any client."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def status(self) -> bytes:
        return self._node._reporter.status_json()

    def transfer(self, to: NodeId | None) -> None:
        node = self._node
        raft = node._replica.raft
        if raft.role is Role.LEADER:
            node._replica.transfer_leadership(to)
            return
        if to is not None and to not in raft.view.voting:
            raise InvalidRequest(f"{to} is not a voter; the voters are {', '.join(sorted(raft.view.voting))}")
        if to is not None and to == raft.leader:
            raise InvalidRequest(f"{to} leads already")
        if raft.leader is None or not node.send(raft.leader, Transfer(to or "")):
            raise Unavailable("there is no leader to ask")
