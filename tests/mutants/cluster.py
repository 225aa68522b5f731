"""Faults planted in whole nodes, which the simulator has to find: see `tests.mutants.storms` for where it looks.

Each breaks one rule, in a patched method. The rules that are named with it are those of the simulator by which it may be noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pytest
from msgspec.structs import replace

from raftkv import divergence, replica, startup
from raftkv.codec.peer import Fence
from raftkv.kv import hash_commands, list_commands, set_commands, sorted_set
from raftkv.kv import machine as machine_module
from raftkv.kv.batch import Batch
from raftkv.kv.clock import LogClock
from raftkv.kv.collection import Collection
from raftkv.kv.counter_commands import IncrementBy
from raftkv.kv.digest import Pair, Verdict, verdict
from raftkv.kv.keyspace import Changes
from raftkv.kv.list_elements import element, pop
from raftkv.kv.machine import Applied, KvMachine
from raftkv.kv.replies import OK, Reply, fail
from raftkv.kv.rows import EXPIRIES, STATE_ROW, VALUES, VALUES_END, decode_expiry_key, expiry_key, value_key
from raftkv.kv.session_commands import Once
from raftkv.kv.sessions import SessionChanges, Sessions
from raftkv.kv.store import Ranges, Rows, Writes
from raftkv.raft.leader import Leader
from raftkv.raft.membership import View
from raftkv.raft.messages import AppendResponse, Message
from raftkv.raft.node import Raft
from raftkv.raft.reads import Reads as Rounds
from raftkv.raft.ready import Ready
from raftkv.raft.types import HardState, Index, SnapshotMeta
from raftkv.router.connection import _PENDING, Connection
from raftkv.router.reads import Reads
from raftkv.router.router import Router
from raftkv.router.writes import OwnWrites, Sealed
from raftkv.sim.cluster import Outcome
from raftkv.sim.disk import SimDisk
from raftkv.sim.log import SimLog
from raftkv.sim.machine import WatchedMachine
from raftkv.sim.node import SimNode
from raftkv.sim.store import ModelStore
from raftkv.storage import replay
from raftkv.storage.manifest import store_manifest
from raftkv.storage.plan import LogWrite
from raftkv.storage.recovery import TailAction, TailFacts, decide_tail
from raftkv.storage.wal import Wal
from tests.mutants import storms
from tests.mutants.mutant import Plant, Shelf, Storms, nothing
from tests.sim.storms import LIBRARIES

SHELF = Shelf()
plant = SHELF.plant


LOST = ("kept", "verified", "leader completeness", "state machine safety", "log matching", "doubt")
"""How it shows that an acknowledged entry was forgotten."""


def found(swarm: Any, *rules: str, with_: Plant = nothing) -> Storms:
    """A search of the storms of `swarm` for one of `rules`."""
    return Storms(rules, swarm, with_)


def nothing_refused(outcome: Outcome) -> str | None:
    """In a cluster in which nothing goes wrong every request is granted."""
    return f"{outcome.refused} requests were refused and {outcome.unknown} lost" if outcome.refused else None


def one_leader(outcome: Outcome) -> str | None:
    """The leader stays, and so does service."""
    elections = outcome.counts.get("elected", 0)
    return f"{elections} elections, {outcome.acknowledged} requests granted" if elections > 2 or outcome.acknowledged < 1_000 else None


def one_election(outcome: Outcome) -> str | None:
    """The first leader stays."""
    elections = outcome.counts.get("elected", 0)
    return f"{elections} elections" if elections > 1 else None


def few_elections(outcome: Outcome) -> str | None:
    """Another leader is found, and stays."""
    elections = outcome.counts.get("elected", 0)
    return f"{elections} elections, {outcome.acknowledged} requests granted" if elections > 4 or outcome.acknowledged < 1_000 else None


# Votes, terms and the log: what is on the disk.


@plant("3", by=found(storms.CRASHES, "durable first", "apply durable"))
def the_log_reports_what_it_has_queued(patch: pytest.MonkeyPatch) -> None:
    """The log says that a write is durable when it is queued."""
    submit = SimLog.submit

    def eager(log: SimLog, write: LogWrite) -> None:
        submit(log, write)
        log._later(0, lambda: log._on_persisted(write.number))

    patch.setattr(SimLog, "submit", eager)


@plant("1", "2", by=found(storms.CRASHES, "durable first", "one vote"))
def the_hard_state_is_not_written(patch: pytest.MonkeyPatch) -> None:
    """Term and vote never reach the disk."""
    _change_writes(patch, lambda write: replace(write, hard_state=None))


@plant("2", by=found(storms.CRASHES, "durable first", "one vote"))
def the_vote_is_not_written(patch: pytest.MonkeyPatch) -> None:
    """The term reaches the disk and the vote does not."""
    _change_writes(patch, lambda write: replace(write, hard_state=write.hard_state and HardState(write.hard_state.term)))


def _change_writes(patch: pytest.MonkeyPatch, change: Callable[[LogWrite], LogWrite]) -> None:
    write = Wal.write
    patch.setattr(Wal, "write", lambda wal, writes: write(wal, [change(one) for one in writes]))


@plant(
    "storage 1",
    by=found(storms.BLACKOUTS, *LOST, "no failure", "acknowledged writes", "restart", "one vote", "equal states"),
)
def the_disk_lies(patch: pytest.MonkeyPatch) -> None:
    """Nothing that the disk reports as durable is."""
    start = SimNode.start

    def lying(node: SimNode) -> None:
        start(node)
        node.disk.lying = node.alive

    patch.setattr(SimNode, "start", lying)


@plant("35", "storage 1", by=found(storms.COMPACTION, "restart", "no failure", "state kept", "kept", "one vote"))
def directories_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    """Files are created and renamed, and the names never reach the disk."""
    patch.setattr(SimDisk, "sync_directory", lambda disk, path: None)


@plant("54", "storage 2", by=Storms(LOST, storms.POWER, storms.rotten_tails))
def a_bad_last_group_is_taken_for_torn(patch: pytest.MonkeyPatch) -> None:
    """A node drops a last group that it cannot judge, and thinks nothing of it."""

    def trusting(facts: TailFacts) -> TailAction:
        action = decide_tail(facts)
        return TailAction.DROP if action is TailAction.SUSPECT else action

    patch.setattr(replay, "decide_tail", trusting)


@plant("54", "68", by=Storms(("doubt",), storms.POWER, storms.rotten_tails))
def a_suspect_node_counts(patch: pytest.MonkeyPatch) -> None:
    """A node that doubts its log says of its acknowledgements that they count."""
    original = Raft.send_after_persist

    def send(raft: Raft, message: Message) -> None:
        if isinstance(message, AppendResponse):
            message = AppendResponse(message.sender, message.to, message.term, message.incarnation, message.match, True)
        original(raft, message)

    patch.setattr(Raft, "send_after_persist", send)


@plant("69", by=Storms(LOST, storms.POWER, storms.rotten_tails))
def a_word_of_the_leader_ends_the_doubt(patch: pytest.MonkeyPatch) -> None:
    """A suspect node counts again as soon as it hears from a leader, whatever it holds."""

    def clear(raft: Any) -> None:
        if raft.leader is not None:
            raft._suspect = None

    patch.setattr(Raft, "clear_suspicion", clear)


@plant("70", by=Storms(LOST, storms.POWER, storms.rotten_tails))
def a_restart_ends_the_doubt(patch: pytest.MonkeyPatch) -> None:
    """That the node is suspect is not written down, so the next start knows nothing of it."""
    patch.setattr(replay, "store_manifest", lambda disk, path, manifest: store_manifest(disk, path, replace(manifest, suspect=None)))


# Elections and commitment.


@plant("9", by=found(storms.ISOLATIONS, "majority", "log matching", "leader completeness"))
def the_fastest_node_is_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """An entry is committed when one node has it."""
    patch.setattr(View, "agreed", lambda view, reached: max(reached.values(), default=0))


@plant("56", by=found(storms.CRASHES, "membership"))
def the_configuration_is_forgotten_at_a_start(patch: pytest.MonkeyPatch) -> None:
    """Not the log says at the start who decides, but a state that may be older."""
    stored = startup._stored
    patch.setattr(startup, "_stored", lambda *arguments: replace(stored(*arguments), configurations=()))


@plant("92", by=found(storms.QUIET, "liveness"))
def nobody_stands_for_election(patch: pytest.MonkeyPatch) -> None:
    """Whoever could win an election follows nobody instead."""
    patch.setattr(Raft, "become_candidate", lambda raft, transfer=False: raft.become_follower(raft.term, None))


@plant("45", by=found(storms.LAST_RESORT, "liveness"))
def a_node_without_state_never_leads(patch: pytest.MonkeyPatch) -> None:
    """Of a majority that is up, the node with the only complete log has lost its state, and does not stand for election."""
    patch.setattr(Raft, "_is_last_resort", property(lambda raft: False))


# Sessions, and what clients are told.


@plant("23", by=found(storms.ELECTIONS, "acknowledged writes", "linearizable reads", "final state", "counters", "reply"))
def numbers_of_commands_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """A command that is in the log twice takes effect twice."""
    patch.setattr(SessionChanges, "missing", lambda changes, group: 0)


@plant("23", by=found(LIBRARIES, "counters", "final state"))
def numbers_of_a_clients_commands_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """What a client library asks another node for, because it heard nothing from the first, takes effect again."""
    patch.setattr(Once, "apply_in", lambda write, sessions, execute: execute(write.command))


@plant("57", by=found(storms.ELECTIONS, "exactly once", "acknowledged writes", "counters", "linearizable reads"))
def a_new_session_for_what_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    """What is sent again after a failover gets another session and other numbers."""
    resend = OwnWrites.resend

    def forgetful(writes: OwnWrites) -> None:
        resend(writes)
        _renumber(writes)

    patch.setattr(OwnWrites, "resend", forgetful)


@plant("65", by=found(storms.ABANDONING, "exactly once", "acknowledged writes", "counters", "linearizable reads"))
def a_lost_session_takes_its_window_along(patch: pytest.MonkeyPatch) -> None:
    """When a session cannot go on, what was in flight in it starts anew in the next one, although it may have happened."""
    patch.setattr(OwnWrites, "_abandon", _renumber)


def _renumber(writes: Any) -> None:
    writes._begin_session()
    for sealed in writes._window:
        sealed.group = storms.renumbered(sealed.group, writes.session, writes._next_sequence)
        writes._next_sequence += sealed.group.count
        sealed.first_sent_ms = 1 << 62  # a new session is not old
    writes._next = 0


@plant("81", by=found(storms.ELECTIONS, "acknowledged writes", "reply", "no failure", "counters"))
def a_process_goes_on_in_the_session_of_the_last(patch: pytest.MonkeyPatch) -> None:
    """A process that starts again uses the session of the one before it, from number 1."""
    patch.setattr(SimNode, "_session", lambda node: node.name.encode().rjust(16))


@plant("82", by=found(storms.QUIET, "acknowledged writes", "reply", "order of replies"))
def answers_leave_before_the_entry_is_applied(patch: pytest.MonkeyPatch) -> None:
    """A client is told OK when its write has been sent."""
    transmitted = OwnWrites.transmitted

    def hasty(writes: OwnWrites, sealed: Sealed, now_ms: int) -> None:
        transmitted(writes, sealed, now_ms)
        replies: list[Reply] = [OK] * sealed.group.count
        sealed.answer(replies, 0)

    patch.setattr(OwnWrites, "transmitted", hasty)


@plant("83", by=found(storms.HURRIED, "definite refusal", "counters"))
def no_is_said_of_what_may_have_happened(patch: pytest.MonkeyPatch) -> None:
    """A write that left this node is answered CLUSTERDOWN when its time is over."""
    expire = OwnWrites.expire

    def certain(writes: OwnWrites, now_ms: int, unsent: Any) -> None:
        for sealed in writes._window:
            if sealed.deadline_ms is not None and sealed.deadline_ms <= now_ms:
                sealed.answer_all(unsent)
        expire(writes, now_ms, unsent)

    patch.setattr(OwnWrites, "expire", certain)


@plant("28", by=Storms(("no failure",), storms.QUIET, storms.broken_clients))
def clients_are_answered_while_an_entry_is_applied(patch: pytest.MonkeyPatch) -> None:
    """Replies are handed over in the middle of applying, so a client's error reaches the one who applies."""
    applied = Router.applied

    def hasty(router: Router, index: Index, groups: Any, now_ms: int, pushed: Sequence[bytes] = ()) -> None:
        applied(router, index, groups, now_ms, pushed)
        for connection in router._changed:
            replies, _ = connection.deliverable()
            router._reply(connection.id, replies, connection.protocol, False)

    patch.setattr(Router, "applied", hasty)


@plant("72", by=Storms(("outcome",), storms.MANY_WRITERS, judge=nothing_refused))
def what_is_held_back_is_never_flushed(patch: pytest.MonkeyPatch) -> None:
    """Writes that wait for others to join them wait for ever."""
    patch.setattr(Router, "_gathering", lambda router: router._writes.crowded)


# Reads.


@plant("24", by=found(storms.PAUSES, "linearizable reads"))
def reads_need_no_round(patch: pytest.MonkeyPatch) -> None:
    """A leader that was paused or cut off believes that it still leads."""
    patch.setattr(Leader, "read_index", lambda leader, context: leader._raft.answer_read(context, leader._raft.log.committed))


@plant("26", by=found(storms.HANDOVERS, "linearizable reads"))
def reads_before_the_first_commit_of_a_term(patch: pytest.MonkeyPatch) -> None:
    """A new leader reads at the commit index that it happens to know."""
    patch.setattr(Leader, "_committed_own_term", property(lambda leader: True))


@plant("58", by=found(storms.QUIET, "linearizable reads", "order on a connection"))
def a_read_overtakes_the_writes_of_its_connection(patch: pytest.MonkeyPatch) -> None:
    """A read does not wait for the writes before it."""
    patch.setattr(Connection, "writes_out", property(lambda connection: 0, lambda connection, value: None))
    patch.setattr(Connection, "idle", property(lambda connection: not any(slot is _PENDING for slot in connection._slots)))


@plant("64", by=found(storms.ELECTIONS, "linearizable reads", "order on a connection"))
def a_failover_lets_reads_overtake(patch: pytest.MonkeyPatch) -> None:
    """Once the leader has changed, the reads of a connection no longer wait for the writes that are sent again."""
    send_again = Router._send_again
    waits = Connection.may_read.fget  # type: ignore[attr-defined]  # the class of a property is not known to be one
    changed: set[int] = set()

    def again(router: Router) -> None:
        send_again(router)
        changed.add(id(router._changed))

    patch.setattr(Router, "_send_again", again)
    patch.setattr(Connection, "may_read", property(lambda connection: id(connection._changed) in changed or waits(connection)))


@plant("73", by=found(storms.SLOW_DISKS, "linearizable reads"))
def reads_do_not_wait_for_their_index(patch: pytest.MonkeyPatch) -> None:
    """A confirmed read is executed whatever has been applied; entries that are applied in later turns are missing."""
    read_point = Reads.read_point
    patch.setattr(Reads, "read_point", lambda reads, context, index: read_point(reads, context, 0))


@plant("24", by=Storms(("linearizable reads",), storms.LEASES, storms.lease_reads))
def a_lease_never_ends(patch: pytest.MonkeyPatch) -> None:
    """Once confirmed, a lease holds for as long as the node believes that it leads."""
    patch.setattr(Rounds, "has_lease", lambda reads, tick: reads._lease_until >= 0)


# Applying, and the state.


@plant("21", by=found(storms.CRASHES, "final state", "equal states", "linearizable reads", "healthy replicas", "counters"))
def the_position_is_written_apart(patch: pytest.MonkeyPatch) -> None:
    """The applied index is written after the data, in a batch of its own."""
    write = ModelStore.write

    def split(store: ModelStore, writes: Writes, clear: Ranges = ()) -> None:
        write(store, {name: row for name, row in writes.items() if name != STATE_ROW}, clear)
        write(store, {name: row for name, row in writes.items() if name == STATE_ROW})

    patch.setattr(ModelStore, "write", split)


@plant("22", by=found(storms.QUIET, "equal states", "final state", "log's clock"))
def a_state_depends_on_its_node(patch: pytest.MonkeyPatch) -> None:
    """One node's clock is ahead when it applies."""
    apply = WatchedMachine.apply

    def local(machine: WatchedMachine, index: int, term: int, payload: bytes) -> Applied:
        if machine._node.name == "n2":
            machine._position = replace(machine._position, clock_ms=machine._position.clock_ms + 1)
        return apply(machine, index, term, payload)

    patch.setattr(WatchedMachine, "apply", local)


@plant("61", by=found(storms.QUIET, "equal states", "healthy replicas"))
def one_node_follows_newer_rules(patch: pytest.MonkeyPatch) -> None:
    """During a rolling upgrade the new program follows its new rules before the log says so."""
    apply, increment = WatchedMachine.apply, IncrementBy.apply
    upgraded = False

    def applies(machine: WatchedMachine, index: int, term: int, payload: bytes) -> Applied:
        nonlocal upgraded
        upgraded = machine._node.name == "n3"
        return apply(machine, index, term, payload)

    def new_rules(command: IncrementBy, changes: Changes) -> Reply:
        reply = increment(command, changes)
        if upgraded:
            changes.put_row(b"!upgraded", b"")
        return reply

    patch.setattr(WatchedMachine, "apply", applies)
    patch.setattr(IncrementBy, "apply", new_rules)


@plant("27", by=found(storms.FAILING, "no failure"))
def a_command_that_fails_stops_the_machine(patch: pytest.MonkeyPatch) -> None:
    """An error of a command leaves the machine as if it were one of the machine underneath."""

    def apply(writes: Any, changes: Changes, clients: Any) -> list[Reply]:
        return [write.apply(changes) for write in writes]

    patch.setattr(machine_module, "_apply_writes", apply)


def half_way(patch: pytest.MonkeyPatch) -> None:
    """A command that is going to fail has changed something before."""
    increment = IncrementBy.apply

    def apply(command: IncrementBy, changes: Changes) -> Reply:
        before = changes.value(command.key)
        if before is not None and not before.data.isdigit():
            changes.put_string(command.key, b"half")
            fail("value is not an integer or out of range")
        return increment(command, changes)

    patch.setattr(IncrementBy, "apply", apply)


@plant("59", by=Storms(("final state", "linearizable reads"), storms.FAILING, half_way))
def half_of_a_failed_command_stays(patch: pytest.MonkeyPatch) -> None:
    """What a command did before it failed is not taken back."""
    patch.setattr(Changes, "rollback", lambda changes: None)


@plant("55", by=found(storms.CRASHES, "apply durable", "invariant", "no failure"))
def entries_are_applied_when_they_are_handed_out(patch: pytest.MonkeyPatch) -> None:
    """The state machine runs ahead of the durable log."""
    execute = replica.Replica._execute

    def eager(self: Any, ready: Ready, now_ms: int) -> None:
        for entry in ready.entries:
            if entry.index == self.machine.applied_index + 1:
                replica.apply_entry(self.machine, entry, self.events)
        execute(self, ready, now_ms)

    patch.setattr(replica.Replica, "_execute", eager)


@plant("76", by=found(storms.QUIET, "final state", "linearizable reads"))
def an_index_row_deletes_whatever_has_its_key(patch: pytest.MonkeyPatch) -> None:
    """A row of the expiry index that no longer matches the value of its key deletes it all the same."""

    def delete_due(changes: Changes, rows: Rows, limit: int = 256) -> None:
        for name, _ in rows.scan(EXPIRIES, expiry_key(changes.clock_ms, b""), limit=limit):
            changes.put_row(value_key(decode_expiry_key(name)[1]), None)
            changes.put_row(name, None)

    patch.setattr(machine_module, "delete_due", delete_due)


@plant("93", by=found(storms.JUMPS, "order on a connection", "acknowledged writes", "linearizable reads", "counters", "reply"))
def sessions_age_by_the_logs_clock(patch: pytest.MonkeyPatch) -> None:
    """When the log's clock jumps by more than the age of a session, what is sent again opens the session again."""
    patch.setattr(Sessions, "clock_after", lambda sessions, clock_ms, passed_ms: clock_ms + passed_ms)


# Lists.


@plant("lists 2", by=found(storms.LISTS, "acknowledged writes", "linearizable reads", "reply"))
def a_pop_takes_nothing(patch: pytest.MonkeyPatch) -> None:
    """On every replica alike, a pop answers the element at the end of a list of several, which stays."""

    def keep(changes: Changes, elements: Collection, count: int, *, left: bool) -> list[bytes]:
        if elements.count > 1:
            return [element(changes, elements, 0 if left else elements.count - 1)]
        return pop(changes, elements, count, left=left)

    patch.setattr(list_commands, "pop", keep)


# Collections.


@plant("sorted sets 1", by=found(storms.SORTED_SETS, "linearizable reads"))
def members_are_in_their_old_places_too(patch: pytest.MonkeyPatch) -> None:
    """On every replica alike, a member of a sorted set that gets another score, or is removed, also stays where the old one had put it."""
    patch.setattr(sorted_set, "drop_place", lambda changes, found, member, score: None)


# The log's clock.


@plant("51", by=found(storms.CLOCKS, "log's clock"))
def the_leaders_wall_clock_stamps_the_log(patch: pytest.MonkeyPatch) -> None:
    """A leader whose clock is a year ahead stamps the log with it."""

    def stamp(clock: Any, mono_ms: int, majority: int) -> int:
        clock._last_ms = max(clock._last_ms, clock._offsets.get(clock._node, 0) + mono_ms)
        return int(clock._last_ms)

    patch.setattr(LogClock, "stamp", stamp)


@plant("71", by=found(storms.PAST_CLOCKS, "log's clock", "final state", "linearizable reads"))
def the_machine_follows_a_stamp_that_goes_back(patch: pytest.MonkeyPatch) -> None:
    """The log's clock goes back when a new leader's stamp is older, and what has expired is there again."""
    decode = KvMachine._decode

    def follow(machine: Any, index: int, payload: bytes) -> Batch:
        batch = decode(machine, index, payload)
        machine._position = replace(machine._position, clock_ms=min(machine._position.clock_ms, batch.stamp_ms))
        return batch

    patch.setattr(KvMachine, "_decode", follow)


# Snapshots, compaction, and a full disk.


@plant("31", by=found(storms.SNAPSHOTS, "final state", "equal states", "linearizable reads", "healthy replicas", "acknowledged writes"))
def a_position_without_the_data(patch: pytest.MonkeyPatch) -> None:
    """A snapshot lacks something of what its position says."""
    checkpoint = ModelStore.checkpoint

    def hollow(store: ModelStore, directory: PurePath) -> None:
        kept = dict(store._rows)
        for key in [key for key in kept if VALUES <= key < VALUES_END][:1]:
            del store._rows[key]
        checkpoint(store, directory)
        store._rows.update(kept)

    patch.setattr(ModelStore, "checkpoint", hollow)


@plant("75", by=found(storms.SNAPSHOTS, "final state", "equal states", "linearizable reads", "healthy replicas", "acknowledged writes"))
def a_checkpoint_says_an_older_index(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint holds the rows of one index and the position of the one before it."""
    write, checkpoint = ModelStore.write, ModelStore.checkpoint
    before: dict[int, bytes | None] = {}

    def remember(store: ModelStore, writes: Writes, clear: Ranges = ()) -> None:
        before[id(store)] = store._rows.get(STATE_ROW)
        write(store, writes, clear)

    def stale(store: ModelStore, directory: PurePath) -> None:
        older, now = before.get(id(store)), store._rows.get(STATE_ROW)
        if older is not None:
            store._rows[STATE_ROW] = older
        checkpoint(store, directory)
        if now is not None:
            store._rows[STATE_ROW] = now

    patch.setattr(ModelStore, "write", remember)
    patch.setattr(ModelStore, "checkpoint", stale)


@plant(
    "32",
    "55",
    by=found(
        storms.CRASHES_IN_OPERATIONS,
        *("no failure", "invariant", "apply durable", "state machine safety"),
    ),
)
def log_and_state_are_not_reconciled(patch: pytest.MonkeyPatch) -> None:
    """A state that is newer than the log is taken for one that fits it."""
    lost, fits = startup.Agreement.STATE_LOST, startup.Agreement.REPLAY
    patch.setattr(startup, "reconcile", lambda begin, last, applied, *terms, fenced: lost if applied < begin else fits)


@plant("storage 10", by=found(storms.SNAPSHOTS, "no failure", "invariant", "apply durable", "liveness"))
def a_lost_state_is_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    """A node whose state is older than its log goes on as if it were whole."""
    reconcile = startup.reconcile

    def hopeful(*arguments: Any, fenced: bool) -> startup.Agreement:
        agreement = reconcile(*arguments, fenced=fenced)
        return startup.Agreement.REPLAY if agreement is startup.Agreement.STATE_LOST else agreement

    patch.setattr(startup, "reconcile", hopeful)


@plant("36", by=found(storms.COMPACTION, "state kept"))
def the_log_is_cut_before_the_state_is_flushed(patch: pytest.MonkeyPatch) -> None:
    """The log forgets what the state holds only in memory."""
    patch.setattr(ModelStore, "flush", lambda store: None)


@plant("74", by=Storms(("no failure", "invariant", "equal states", "state machine safety"), storms.REOPENING, storms.slow_reopening))
def a_snapshot_is_installed_while_the_store_opens_again(patch: pytest.MonkeyPatch) -> None:
    """A snapshot does not wait until the log has been replayed into a store that had no space."""
    install = replica.Replica._install

    def hasty(self: Any, ready: Ready, meta: SnapshotMeta) -> None:
        reopening, self._reopening = self._reopening, False
        install(self, ready, meta)
        self._reopening = reopening

    patch.setattr(replica.Replica, "_install", hasty)


@plant("storage 7", by=found(storms.FULL, "liveness"))
def space_that_comes_back_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    """A node whose disk was full stays as it is when there is space again."""
    patch.setattr(replica.Replica, "_reopen", lambda self: None)


# Divergence.


@plant("50", by=Storms(("fencing",), storms.ELECTIONS, storms.a_stray_replica))
def the_leader_is_right(patch: pytest.MonkeyPatch) -> None:
    """Whoever differs from the leader is rebuilt."""

    def believe(reports: Mapping[str, Iterable[Pair]], members: Sequence[str]) -> Verdict | None:
        verdict_ = verdict(reports, members)
        leader = list(reports)[-1]  # its own report comes last
        own = dict(reports[leader])
        wrong = [node for node, pairs in reports.items() if any(own.get(index, digest) != digest for index, digest in pairs)]
        return None if verdict_ is None else Verdict(verdict_.index, tuple(sorted(wrong)))

    patch.setattr(divergence, "verdict", believe)


@plant("50", by=Storms(("fencing",), storms.ELECTIONS, storms.a_stray_replica))
def those_who_report_are_a_majority(patch: pytest.MonkeyPatch) -> None:
    """The largest group among those that report is believed, however few they are."""
    patch.setattr(divergence, "verdict", lambda reports, members: verdict(reports, sorted(reports)[:1]))


@plant("78", by=Storms(("liveness",), storms.ELECTIONS, storms.a_stray_replica))
def a_fenced_node_does_not_ask(patch: pytest.MonkeyPatch) -> None:
    """A node whose state is wrong waits for another one and asks nobody."""
    patch.setattr(Raft, "ask_for_snapshot", lambda raft, leader: None)


@plant("66", by=Storms(("healthy replicas",), storms.ELECTIONS, storms.false_fences))
def anybodys_fence_is_believed(patch: pytest.MonkeyPatch) -> None:
    """A node rebuilds its state because somebody says so who does not lead."""
    receive = replica.Replica.receive

    def believe(self: Any, sender: str, value: object) -> None:
        if isinstance(value, Fence):
            self._fence(value.reason)
        else:
            receive(self, sender, value)

    patch.setattr(replica.Replica, "receive", believe)


@plant("hashes and sets 2", by=Storms(("reply", "linearizable reads", "final state")))
def removed_elements_stay(patch: pytest.MonkeyPatch) -> None:
    """HDEL and SREM count what they remove, and leave it there."""

    def remove(changes: Changes, collection: Collection, names: Sequence[bytes]) -> int:
        return sum(changes.row(row) is not None for row in map(collection.hashed, names))

    patch.setattr(hash_commands, "remove_named", remove)
    patch.setattr(set_commands, "remove_named", remove)
