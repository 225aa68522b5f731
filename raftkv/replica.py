"""One replica: executes what the Raft core asks for, in one written-down order.

The order, for every Ready:

1. *Persist*: an installed snapshot takes the place of the state; then hard state and entries are given to the log, which makes them
   durable in the order of the Readies and reports back (`persisted`).
2. *Send*: `messages` leave at once; `messages_after_persist` leave when the log has reported. What is addressed to the node itself
   goes back into the core.
3. *Apply*: committed entries go to the state machine, one atomic write each; then the core is told.
4. *Answer*: the listener (the router) is told what each entry answered. It is told only after the state machine has the entry, and
   nothing it does can make an entry apply twice.

What always holds: nothing that speaks of a write leaves before the write is durable; an entry is applied once, in order, and only from
the node's own durable log; an error of the machine underneath (disk, memory) stops the node and never becomes a reply. The one exception
is a full disk: nothing is applied until there is space again, then the store is opened as it was at its last flush and the log replayed.

What is not here: sockets, threads, clocks and files. They come as a `Shell`, a `LogPort` (both in `raftkv.ports`) and a `StateDirectory`,
so that the simulator runs this same class. Every method that can cause work leaves it for `pump`, which the shell calls soon after
`Shell.wake`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import structlog
from msgspec import Struct

from raftkv.codec.peer import EntriesFound, Fence, Health, SnapshotChunk, SnapshotDone, SnapshotOffer, SnapshotWant
from raftkv.divergence import DivergenceWatch
from raftkv.errors import Busy, DiskFull, InvalidRequest, InvariantBroken, Unavailable
from raftkv.kv.command import Command
from raftkv.kv.digest import Pair
from raftkv.kv.machine import Applied, KvMachine
from raftkv.kv.replies import Failure, Reply
from raftkv.kv.store import Store
from raftkv.ports import Listener, LogPort, Shell
from raftkv.raft import Raft
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.quorum import majority
from raftkv.raft.ready import Fetch, Ready, Role, RoleChange
from raftkv.raft.types import Entry, EntryId, EntryKind, Index, NodeId, SnapshotMeta, Term
from raftkv.space import DiskSpace
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.plan import LogWrite
from raftkv.storage.staging import Staging
from raftkv.transfer import SnapshotReceiver, SnapshotSender

READIES_PER_PUMP = 16
"""How many Readies one `pump` handles before it lets the event loop breathe."""

APPLY_BYTES = 256 << 10
"""Payload bytes of entries applied in one turn of the event loop, by which `pump` is bounded."""

APPLY_OVERHEAD_BYTES = 4 << 10
"""What an entry costs beyond its payload, in the bytes that cost as much."""

DIGESTS_TOLD = 16
SLOW_READS = 32
"""Long reads at a time; each holds a view of the state."""

PAUSE_TICKS = 250
"""How long nothing is flushed after a flush found no space, and no fence written."""

REPLAY_BYTES = 1 << 20


class ReplicaSettings(Struct, frozen=True, kw_only=True):
    """When a replica does its periodic work."""

    heartbeat_ticks: int = 5
    tick_ms: int = 20
    compact_bytes: int = 128 << 20
    compact_entries: int = 200_000
    snapshot_bytes_per_second: int = 128 << 20
    reserve_bytes: int = 0
    """Free disk space below which writes are refused, so that what must be written still can be."""


class Replica:
    """Drives one `Raft`, one log and one state machine. See the module for the order and the promises.

    Args:
        raft: the core, made from what `log` holds.
        log: the durable log.
        state: the state directory, whose live store `machine` uses.
        machine: the key-value machine.
        make_machine: makes another one, on the store of an installed snapshot.
        shell: the surroundings.
        settings: periods and bounds.
        health: what to tell the others at each heartbeat, given this node's digests.
        heard: told what another node said of itself.
    """

    def __init__(
        self,
        *,
        raft: Raft,
        log: LogPort,
        state: StateDirectory,
        machine: KvMachine,
        make_machine: Callable[[Store], KvMachine],
        shell: Shell,
        settings: ReplicaSettings,
        health: Callable[[tuple[Pair, ...]], Health],
        heard: Callable[[NodeId, Health], None],
    ) -> None:
        self.raft = raft
        self.machine = machine
        self.node: NodeId = raft.node
        self._log = log
        self._state = state
        self._make_machine = make_machine
        self._shell = shell
        self._settings = settings
        self._health = health
        self._heard = heard
        self._listener: Listener | None = None
        self._unpersisted: deque[Ready] = deque()
        self._to_apply: deque[Entry] = deque()
        self._apply_room = 0
        """What is left of APPLY_BYTES in this turn."""
        self._told_index = raft.applied_index
        """The newest entry that the listener has heard of: applied, or skipped by a jump of the state."""
        self._installing: Ready | None = None
        self._installed = False
        self._staged: Staging | None = None
        self._compacting = False
        self._slow_reads = 0
        self._flush_not_before = 0
        self._flushed_size = 0
        self._reopening = False
        self._closed = False
        """The store of `machine` has been closed to be opened again, which may fail as long as there is no space."""
        self._install_waits: Callable[[], None] | None = None
        self._fence_due: str | None = None
        self._fence_not_before = 0
        self._was_suspect = raft.suspect is not None
        self._alarm: tuple[Index, tuple[NodeId, ...]] | None = None
        self._ticks = 0
        self.events: structlog.typing.FilteringBoundLogger = structlog.get_logger("raftkv").bind(node=self.node)
        self._divergence = DivergenceWatch(self.node)
        self._sender = SnapshotSender(state, shell.background, shell.send, self._snapshot_sent, settings.snapshot_bytes_per_second)
        self._space = DiskSpace(state, shell, settings.reserve_bytes, self.events)
        self._receiver = SnapshotReceiver(state, shell.background, shell.send, self._snapshot_received, self._space.make_room)

    def attach(self, listener: Listener) -> None:
        """Name the listener. Called once, before the first `pump`."""
        self._listener = listener

    # What the router asks.

    @property
    def role(self) -> Role:
        """The node's role now."""
        return self.raft.role

    @property
    def leader(self) -> NodeId | None:
        """The leader of the term, as far as known."""
        return self.raft.leader

    @property
    def term(self) -> Term:
        """The node's term."""
        return self.raft.term

    @property
    def majority(self) -> int:
        """How many nodes make a majority of the voters."""
        return majority(len(self.raft.configuration.voters))

    @property
    def ready_to_serve(self) -> bool:
        """False while the state is being rebuilt: no read may be served from it."""
        rebuilding = self.raft.fenced is not None or self.raft.snapshot_pending or self._installing is not None
        return not rebuilding and not self._closed

    @property
    def vouches(self) -> bool:
        """Whether what this node cannot give of the log was never committed, or is in its state: it leads, and has a state."""
        return self.raft.role is Role.LEADER and self.raft.fenced is None

    @property
    def applied_index(self) -> Index:
        """The newest entry that the state machine holds."""
        return self.machine.applied_index

    @property
    def appending(self) -> bool:
        """Whether an entry is on its way to this node's disk."""
        return self.raft.persisted_index < self.raft.last_index

    @property
    def calm(self) -> bool:
        """Whether nothing waits for the next tick in particular, so that several may pass at once."""
        return self.raft.leader is not None and not self._to_apply and self._sender.floor is None

    @property
    def out_of_space(self) -> str | None:
        """Why writes are refused here for want of disk space, if they are."""
        return self._space.out_of_space

    def propose(self, payload: bytes) -> EntryId:
        """Append a batch to the replicated log.

        Args:
            payload: an encoded `Batch`.

        Returns:
            The name of the entry; it is committed when an entry of this name is applied.

        Raises:
            NotLeader, Busy: see the core; the entry does not exist.
            Unavailable: the disk is full or the state is being rebuilt; the entry does not exist.
        """
        full = self.out_of_space
        if full is not None:
            raise Unavailable(full)
        if not self.ready_to_serve:
            raise Unavailable("the leader is rebuilding its state")
        name = self.raft.propose(payload)
        self._shell.wake()
        return name

    def read_index(self, context: int) -> None:
        """Ask for a linearizable read point; the answer is `Listener.read_point`. Raises NotLeader."""
        self.raft.read_index(context)
        self._shell.wake()

    def transfer_leadership(self, to: NodeId | None) -> NodeId:
        """Hand over the leadership, which this node must have.

        Args:
            to: a voter; None for the best one: a peer that is connected and has its state, if possible with room for writes, and has
                most of the log.

        Returns:
            Who has been chosen. Whether it takes over shows later: `raft.transfer_leadership`.

        Raises:
            NotLeader, InvalidRequest: see the core; nothing has changed.
        """
        if to is None:
            progress = self.raft.progress().items()
            fitness, voting = self._space.fitness, self.raft.view.voting
            voters = [(fitness(peer), view.match, peer) for peer, view in progress if peer in voting and view.counts]
            if not voters:
                raise InvalidRequest("there is no other voter to hand the leadership to")
            to = max(voters)[2]
        self.raft.transfer_leadership(to)
        self.events.info("leadership_transfer", to=to)
        self._shell.wake()
        return to

    def run_slow(self, command: Command, done: Callable[[Reply], None]) -> None:
        """Execute a long read on a consistent view, off the event loop."""
        if self._slow_reads >= SLOW_READS:
            done(Failure("OVERLOADED", f"{SLOW_READS} long reads are under way on this node; wait and try again"))
            return
        self._slow_reads += 1
        machine = self.machine
        view = machine.view()

        def finish(result: Reply | BaseException) -> None:
            view.close()
            self._slow_reads -= 1
            if isinstance(result, BaseException) and not self._is_live(machine):
                done(Failure("CLUSTERDOWN", "this node has replaced its state meanwhile; ask again"))
            elif isinstance(result, BaseException):
                raise result
            else:
                done(result)

        self._shell.background_read(lambda: view.read(command), finish)

    def _is_live(self, machine: KvMachine) -> bool:
        """Whether `machine` is the state machine, and is not being replaced: otherwise its store may be closed under it."""
        return self.machine is machine and self._installing is None and not self._closed

    # What happens to the replica.

    def tick(self) -> None:
        """One tick of time has passed."""
        self._ticks += 1
        self.raft.tick()
        self._sender.tick(self._settings.tick_ms)
        self._receiver.tick(self._settings.tick_ms)
        if self._ticks % self._settings.heartbeat_ticks == 0:
            self._exchange_health()
            self._compact_if_due()
            self._watch_space()
            self._record_fence()
        if self._to_apply or self.raft.has_ready():
            self._shell.wake()

    def receive(self, sender: NodeId, value: object) -> None:
        """A peer sent `value`: a message of the core, or a frame of the replica's own."""
        match value:
            case Health():
                self._divergence.heard(sender, value.digests, value.fenced is not None)
                self._space.heard(sender, value)
                self._heard(sender, value)
            case Fence() if sender == self.raft.leader:
                self._fence(f"the state here differs from the majority's at index {value.index}: {value.reason}")
            case SnapshotOffer():
                if self._staged is None and self._installing is None:
                    self._receiver.offered(sender, value)
                else:  # to stage another would remove the one that waits
                    self._shell.send(sender, SnapshotDone(value.id, False, "another snapshot is being installed"))
            case Fence():
                self.raft.dropped["fence of no leader"] += 1
            case SnapshotChunk():
                self._receiver.chunk(sender, value)
            case SnapshotWant():
                self._sender.wanted(sender, value)
            case SnapshotDone():
                self._sender.done(sender, value)
                self._receiver.stopped(sender, value)
            case EntriesFound():
                # An answer that was on its way when the repair ended.
                self.raft.dropped["answer to a repair that has ended"] += 1
            case InstallSnapshot():
                # Only the receiver hands this on, when the files are here.
                self.raft.dropped["snapshot without files"] += 1
            case _:
                self.raft.step(cast(Message, value))  # the codec delivers nothing else
        if self.raft.has_ready():
            self._shell.wake()

    def peer_lost(self, peer: NodeId) -> None:
        """The connection to `peer` broke."""
        self._sender.peer_lost(peer)
        self._divergence.forget(peer)
        self._space.forget(peer)
        self.raft.peer_lost(peer)
        self._shell.wake()

    def persisted(self, number: int) -> None:
        """The log has made every Ready up to `number` durable."""
        while self._unpersisted and (self._unpersisted[0].number <= number or not self._unpersisted[0].must_persist):
            ready = self._unpersisted.popleft()
            self.raft.persisted(ready.number)
            self._send(ready.messages_after_persist)
        if self._was_suspect and self.raft.suspect is None:
            self._was_suspect = False
            self._log.clear_suspect()
            self.events.info("suspicion_cleared", last=self.raft.last_index)
        self._shell.wake()

    def log_full(self, full: bool) -> None:
        """The log has no space (or has some again). Writes are refused meanwhile; reads go on."""
        self._space.log_full(full)

    def pump(self, now_ms: int) -> None:
        """Handle what the core has ready, a bounded number of Readies; asks for another call if there is more.

        Raises:
            StorageError: the disk failed; the node must stop.
            InvariantBroken: a bug; the node must stop.
        """
        self._apply_room = APPLY_BYTES
        if self._installing is not None:
            if not self._installed:
                return
            self._resume(now_ms)
        self._apply(now_ms)
        for _ in range(READIES_PER_PUMP):
            if self._installing is not None or not self.raft.has_ready():
                break
            ready = self.raft.ready()
            if ready.snapshot is not None:
                self._install(ready, ready.snapshot)
            else:
                self._execute(ready, now_ms)
                if len(ready.committed) > 1:
                    self._shell.wake()  # a page of entries is enough for one turn: what else waits is heartbeats
                    break
        else:
            self._shell.wake()
        if self._staged is not None and self._installing is None and not self.raft.has_ready():
            self._discard_unwanted()
        if not self.appending:
            self._tell.appended(now_ms)

    # Executing a Ready.

    @property
    def _tell(self) -> Listener:
        if self._listener is None:
            raise InvariantBroken("the replica runs without a listener")
        return self._listener

    def _execute(self, ready: Ready, now_ms: int) -> None:
        self._unpersisted.append(ready)
        if ready.must_persist:
            self._log.submit(LogWrite(ready.number, ready.hard_state, ready.snapshot, ready.entries, ready.commit))
        self._send(ready.messages)
        if not ready.must_persist and self._unpersisted and self._unpersisted[0] is ready:
            self.persisted(ready.number)
        for fetch in ready.fetch:
            self._fetch(fetch)
        if ready.role is not None:
            self._role_changed(ready.role, now_ms)
        if ready.committed:
            self._to_apply.extend(ready.committed)
            self._apply(now_ms)
        for read in ready.reads:
            self._tell.read_point(read.context, read.index)

    def _send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.to == self.node:
                self.raft.step(message)
            elif isinstance(message, InstallSnapshot):
                if self.ready_to_serve:
                    self._sender.start(message)
                else:  # there is no state to send at present; the core asks again
                    self.raft.snapshot_finished(message.to, False)
            else:
                self._shell.send(message.to, message)

    def _fetch(self, fetch: Fetch) -> None:
        def done(result: Sequence[Entry] | BaseException) -> None:
            if isinstance(result, BaseException):
                raise result
            self.raft.fetched(fetch.peer, tuple(result))
            self._shell.wake()

        self._shell.background(lambda: self._log.read(fetch.first, fetch.last, fetch.max_bytes), done)

    def _role_changed(self, change: RoleChange, now_ms: int) -> None:
        self.events.info("role_changed", role=str(change.role), term=change.term, leader=change.leader)
        if change.role is Role.LEADER and self.raft.fenced is not None:
            self.events.warning("leading_without_state", reason=self.raft.fenced)
        if change.role is not Role.LEADER:
            self._sender.stop_all()
            self._alarm = None
        self._tell.role_changed(change, now_ms)

    def _apply(self, now_ms: int) -> None:
        """Apply what waits, as much as one turn of the event loop should: a node that catches up also has to hear its peers and to
        answer them. A store that cannot keep up or has no space leaves the rest waiting, in order. When the core has taken a snapshot,
        what waits is part of it."""
        if not self._to_apply or self._space.store_failed or self.raft.snapshot_pending:
            return
        try:
            while self._to_apply and self._apply_room > 0:
                applied = apply_entry(self.machine, self._to_apply[0], self.events)
                entry = self._to_apply.popleft()
                self._apply_room -= len(entry.payload) + APPLY_OVERHEAD_BYTES
                self._told_index = max(self._told_index, entry.index)
                self._tell.applied(entry.index, applied.groups, now_ms, applied.pushed)
            if self._to_apply:
                self._shell.wake()
        except Busy:
            self.events.debug("store_busy", waiting=len(self._to_apply))  # the next tick tries again
        except DiskFull as error:
            self._space.store_failed = True
            self.events.error("store_disk_full", reason=str(error), applied=self.machine.applied_index)
            self._space.make_room(str(error))
            self.raft.step_down()  # another node's state may still have space, and reads wait for what is applied
        self.raft.applied(self.machine.applied_index)

    # A full disk.

    def _watch_space(self) -> None:
        self._space.look()
        if self._space.store_failed and not self._space.low and not self._reopening and self._installing is None:
            self._reopen()
        if self._space.gives_way:
            self.raft.give_way(self._space.able)

    def _reopen(self) -> None:
        """There is space again: open the store as it was at its last flush, and replay the log up to where the core believes it is."""
        self._reopening = self._closed = True
        target = self.raft.applied_index

        def work() -> KvMachine:
            machine = self._make_machine(self._state.reopen())
            while machine.applied_index < target:
                entries = self._log.read(machine.applied_index + 1, target, REPLAY_BYTES)
                if not entries:
                    raise InvariantBroken(f"the log no longer holds entry {machine.applied_index + 1}, which the store lost")
                for entry in entries:
                    apply_entry(machine, entry, self.events)
            return machine

        def done(result: KvMachine | BaseException) -> None:
            self._reopening = False
            install, self._install_waits = self._install_waits, None
            if install is not None:
                install()  # whatever came of the old state, a snapshot takes its place
                return
            if isinstance(result, DiskFull | Busy):
                return
            if isinstance(result, BaseException):
                raise result
            self.machine = result
            self._space.store_failed = self._closed = False
            self.events.info("store_reopened", applied=result.applied_index)
            self._shell.wake()

        self._shell.background(work, done)

    # Snapshots.

    def _snapshot_sent(self, peer: NodeId, ok: bool) -> None:
        self.raft.snapshot_finished(peer, ok)
        self._shell.wake()

    def _snapshot_received(self, message: InstallSnapshot, staging: Staging) -> None:
        """Everything of a snapshot is here: ask the core whether it is wanted. `pump` drops it when it is not."""
        if self._staged is not None or self._installing is not None:
            self._shell.background(staging.discard, _raise_error)
            return
        self._staged = staging
        self.raft.step(message)
        self._shell.wake()

    def _discard_unwanted(self) -> None:
        staged, self._staged = self._staged, None
        if staged is not None:
            self._shell.background(staged.discard, _raise_error)

    def _install(self, ready: Ready, meta: SnapshotMeta) -> None:
        """Put the staged snapshot in the place of the state, off the event loop; the Ready goes on when that is done."""
        staged, self._staged = self._staged, None
        if staged is None:
            raise InvariantBroken(f"the core installs a snapshot at {meta.index}, and none has arrived")
        self._installing = ready
        self._installed = False
        self._fence_due = None  # it ends with the state that it was put up for
        self._to_apply.clear()

        def installed(result: KvMachine | BaseException) -> None:
            if isinstance(result, BaseException):
                raise result
            if (result.applied_index, result.applied_term) != (meta.index, meta.term):
                raise InvariantBroken(
                    f"the snapshot at {meta.index} (term {meta.term}) holds a state at {result.applied_index} (term {result.applied_term})"
                )
            self.machine = result
            self._space.store_failed = self._closed = False
            self._installed = True
            self._shell.wake()

        def install() -> None:
            self._shell.background(lambda: self._make_machine(self._state.install(staged)), installed)

        if self._reopening:
            self._install_waits = install  # it would close the store in which the log is being replayed
        else:
            install()

    def _resume(self, now_ms: int) -> None:
        ready, self._installing = self._installing, None
        if ready is None or ready.snapshot is None:
            raise InvariantBroken("nothing is being installed")
        self.events.info("snapshot_installed", index=ready.snapshot.index, term=ready.snapshot.term)
        if ready.snapshot.index > self._told_index:  # else nothing was skipped: the state went back, and comes forward again
            self._told_index = ready.snapshot.index
            self._tell.snapshot_installed(now_ms)  # before later entries are: by those it would take earlier answers for lost
        self._execute(ready, now_ms)

    # Compaction.

    def _compact_if_due(self) -> None:
        """Flush the state when the log has grown by a quarter of its bound, so that a restart replays no more than that; cut the log
        when it has reached the bound, forgetting most of what is durable in the state."""
        begin = self.raft.log.begin.index
        entries = self.machine.applied_index - begin
        size = self._log.size_bytes
        compact = size > self._settings.compact_bytes or entries > self._settings.compact_entries
        flush = abs(size - self._flushed_size) > self._settings.compact_bytes // 4
        if (compact or flush) and self._ticks >= self._flush_not_before:
            self._flush(size, compact)

    def compact(self) -> None:
        """Flush the state and cut the log now, whatever its size, if there is anything to cut."""
        self._flush(self._log.size_bytes, True)

    def _flush(self, size: int, compact: bool) -> None:
        """Flush the state when the log has `size` bytes and, if it is to `compact`, cut the log behind it."""
        begin = self.raft.log.begin.index
        machine = self.machine
        durable = machine.applied_index
        if durable - begin < 2 or self._compacting or not self.ready_to_serve or self._space.store_failed:
            return
        self._compacting = True

        def flushed(result: object) -> None:
            self._compacting = False
            if not self._is_live(machine):
                return
            if isinstance(result, DiskFull | Busy):
                self._flush_not_before = self._ticks + PAUSE_TICKS
                self.events.warning("flush_failed", reason=str(result))
                return
            if isinstance(result, BaseException):
                raise result
            self._flushed_size = size
            if not self.ready_to_serve or not compact:
                return
            floor = self._sender.floor
            index = durable - (durable - begin) // 4  # what followers lag behind by is often in the rest
            index = min(index, self.raft.applied_index) if floor is None else min(index, floor, self.raft.applied_index)
            if index > self.raft.log.begin.index:
                meta = self.raft.compacted(index)
                self._log.compact(meta)
                self.events.info("log_compacted", begin=meta.index, durable=durable)

        self._shell.background(self._state.store.flush, flushed)

    # Health and divergence.

    def _exchange_health(self) -> None:
        # A state that is being replaced tells no digests, also when the core has taken the snapshot: they would have it fenced again.
        told = self.ready_to_serve and self._staged is None
        digests = tuple(self.machine.digest_ring.report(DIGESTS_TOLD)) if told else ()
        health = self._health(digests)
        for peer in self.raft.view.nodes:
            if peer != self.node:
                self._shell.send(peer, health)
        if self.raft.role is Role.LEADER and self.ready_to_serve:
            self._judge()

    def _judge(self) -> None:
        """Compare what the voters told of their state, and act on it."""
        judged = self._divergence.judge(self.machine.digest_ring.pairs(), self.raft.configuration.voters)
        if judged is None:
            self._alarm = None
            return
        if self._alarm != (judged.index, judged.wrong):
            self._alarm = (judged.index, judged.wrong)
            self.events.error("replicas_differ", index=judged.index, wrong=judged.wrong or "no majority: nobody is rebuilt")
        for node in judged.wrong:
            if node == self.node:
                self._fence(f"the state here differs from the majority's at index {judged.index}")
                return
            self._shell.send(node, Fence(judged.index, f"{self.node} leads term {self.term}"))
            self._divergence.forget(node)

    def _fence(self, reason: str) -> None:
        """The state is wrong: from now on it is not served, and from the next write to the disk on no restart changes that."""
        if self.raft.fenced is None and not self.raft.snapshot_pending and self._installing is None:
            self.events.error("fenced", reason=reason)
            self._to_apply.clear()
            self.raft.request_snapshot(reason)
            self._sender.distrust()
            self._fence_due, self._fence_not_before = reason, 0
            self._record_fence()
            self._shell.wake()

    def _record_fence(self) -> None:
        """Make the fence durable, off the event loop; without space, when there is some."""
        reason = self._fence_due
        if reason is None or self._ticks < self._fence_not_before:
            return
        self._fence_due, generation = None, self._state.generation

        def recorded(result: object) -> None:
            if isinstance(result, DiskFull):
                self.events.warning("fence_not_durable", reason=str(result))
                if self.raft.fenced is not None:
                    self._fence_due, self._fence_not_before = reason, self._ticks + PAUSE_TICKS
                return
            _raise_error(result)

        self._shell.background(lambda: self._state.fence(generation, reason), recorded)


def apply_entry(machine: KvMachine, entry: Entry, events: structlog.typing.FilteringBoundLogger) -> Applied:
    """Apply one committed entry to `machine`, whatever its kind.

    Raises:
        Busy, DiskFull: nothing was applied; the same call may succeed later.
        StorageError, InvariantBroken: the node must stop.
    """
    if entry.kind is not EntryKind.BATCH:
        machine.apply_empty(entry.index, entry.term, entry.payload if entry.kind is EntryKind.CONFIGURATION else None)
        return Applied([])
    applied = machine.apply(entry.index, entry.term, entry.payload)
    for fault in applied.faults:
        events.error("command_failed", index=entry.index, reason=repr(fault))
    return applied


def _raise_error(result: object) -> None:
    if isinstance(result, BaseException):
        raise result
