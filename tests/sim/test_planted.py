"""The simulator can fail: for each rule of the whole system there is a node that breaks it, and few seeds find it out.

Each test breaks exactly one thing, in a subclass or a patched method, and names the rules by which it may be noticed. The numbers are
those of the list of hazards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from raftkv import replica, startup
from raftkv.kv.batch import Group
from raftkv.kv.machine import Applied, KvMachine
from raftkv.kv.replies import OK, Reply
from raftkv.kv.rows import VALUES, VALUES_END
from raftkv.kv.sessions import SessionChanges
from raftkv.kv.store import Store
from raftkv.raft.leader import Leader
from raftkv.raft.membership import View
from raftkv.raft.node import Raft
from raftkv.raft.types import HardState
from raftkv.router.connection import _PENDING, Connection
from raftkv.router.writes import OwnWrites, Sealed
from raftkv.sim.log import SimLog
from raftkv.sim.machine import WatchedMachine
from raftkv.sim.node import SimNode
from raftkv.sim.store import ModelStore
from raftkv.sim.swarm import Rates, Swarm
from raftkv.storage.plan import LogWrite
from raftkv.storage.wal import Wal
from tests.sim.storms import COMPACTING, TUNING, first_violation, storm

CRASHES = Rates(kill=700, power=700)
ELECTIONS = Rates(kill=800, partition=900, pause=700)
BLACKOUTS = Rates(blackout=900)


def caught(swarm: Swarm, seeds: int, *rules: str, node_class: type[SimNode] = SimNode) -> None:
    """One of the first `seeds` seeds breaks one of `rules`."""
    violation = first_violation(swarm, seeds, node_class)
    assert violation is not None, f"{seeds} seeds found nothing"
    assert violation.rule in rules, str(violation).splitlines()[0]


def test_nothing_is_found_where_nothing_is_planted() -> None:
    """The storms of this file are survived by a sound cluster."""
    for rates, nodes in ((CRASHES, 3), (ELECTIONS, 3), (BLACKOUTS, 1)):
        assert first_violation(storm(rates, tuning=COMPACTING, nodes=nodes, storm_ms=1_500), 1) is None


class _Eager(SimLog):
    """Says that a write is durable when it is queued."""

    def submit(self, write: LogWrite) -> None:
        super().submit(write)
        self._later(0, lambda: self._on_persisted(write.number))


class _EagerNode(SimNode):
    def make_log(self) -> SimLog:
        return _Eager(self.wal, self.later, self._fsync_us, lambda n: self.replica.persisted(n), self._fail, lambda full: None)


def test_acknowledging_before_the_fsync_is_caught() -> None:
    """3: what a node says must be durable when it says it."""
    caught(storm(CRASHES), 2, "durable first", "apply durable", node_class=_EagerNode)


def test_forgetting_the_hard_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 2: a term and a vote are on disk before they are shown."""
    write = Wal.write

    def forgetful(self: Wal, writes: Sequence[LogWrite]) -> None:
        write(self, [replace(one, hard_state=None) for one in writes])

    monkeypatch.setattr(Wal, "write", forgetful)
    caught(storm(CRASHES), 2, "durable first", "one vote")


def test_forgetting_the_vote_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """2: a vote that is not on disk may be given twice."""
    write = Wal.write

    def forgetful(self: Wal, writes: Sequence[LogWrite]) -> None:
        write(self, [replace(one, hard_state=one.hard_state and HardState(one.hard_state.term)) for one in writes])

    monkeypatch.setattr(Wal, "write", forgetful)
    caught(storm(CRASHES), 2, "durable first", "one vote")


def test_a_disk_that_lies_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing that was acknowledged is durable, a blackout takes it back."""

    class LyingNode(SimNode):
        def start(self) -> None:
            super().start()
            self.disk.lying = self.alive

    rules = ("no failure", "state machine safety", "log matching", "acknowledged writes", "restart", "leader completeness", "equal states")
    caught(storm(BLACKOUTS), 3, *rules, node_class=LyingNode)


def test_committing_without_a_quorum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is committed when a majority has it, not when the fastest has."""
    monkeypatch.setattr(View, "agreed", lambda self, reached: max(reached.values(), default=0))
    rules = ("leader completeness", "log matching", "state machine safety", "linearizable reads", "invariant")
    caught(storm(Rates(partition=900), storm_ms=2_500), 4, *rules)


def test_retries_without_a_session_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """23: a command that is in the log twice takes effect once."""

    def missing(self: SessionChanges, group: Group) -> int:
        return 0

    monkeypatch.setattr(SessionChanges, "missing", missing)
    caught(storm(ELECTIONS), 4, "acknowledged writes", "linearizable reads", "final state", "counters", "reply")


def test_a_new_session_for_what_is_sent_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """57: what is sent again after a failover keeps its session and its numbers."""
    resend = OwnWrites.resend

    def forgetful(self: OwnWrites) -> None:
        resend(self)
        self._begin_session()
        for sealed in self._window:
            group = sealed.group
            sealed.group = Group(group.machine, self.session, self._next_sequence, 0, group.count, group.commands)
            self._next_sequence += group.count

    monkeypatch.setattr(OwnWrites, "resend", forgetful)
    caught(storm(ELECTIONS), 4, "exactly once", "acknowledged writes", "counters", "linearizable reads")


def test_reads_without_a_round_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """24: a leader that was paused or cut off must not believe that it still leads."""
    monkeypatch.setattr(Leader, "read_index", lambda self, context: self._raft.answer_read(context, self._raft.log.committed))
    caught(storm(Rates(pause=200, transfer=100), storm_ms=2_000), 6, "linearizable reads")


def test_reads_before_the_first_commit_of_a_term_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """26: a new leader does not know what is committed before an entry of its own term is."""
    monkeypatch.setattr(Leader, "_committed_own_term", property(lambda self: True))
    caught(storm(Rates(transfer=120, partition=500), storm_ms=2_500), 20, "linearizable reads")


def test_a_node_without_state_that_never_leads_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """45: of a majority that is up, the node with the only complete log may be one that has lost its state."""
    monkeypatch.setattr(Raft, "_is_last_resort", property(lambda self: False))
    caught(storm(Rates(lose_state=300, partition=400, kill=500), tuning=COMPACTING, storm_ms=1_000), 45, "liveness")


def test_a_position_without_the_data_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """31: a snapshot holds what its position says."""
    checkpoint = ModelStore.checkpoint

    def hollow(self: ModelStore, directory: Any) -> None:
        kept = dict(self._rows)
        for key in [key for key in kept if VALUES <= key < VALUES_END][:1]:
            del self._rows[key]
        checkpoint(self, directory)
        self._rows.update(kept)

    monkeypatch.setattr(ModelStore, "checkpoint", hollow)
    rules = ("final state", "equal states", "linearizable reads", "healthy replicas", "acknowledged writes")
    caught(storm(Rates(kill=600, lose_state=500), tuning=COMPACTING), 4, *rules)


def test_a_crash_between_the_snapshot_and_the_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """32, 55: a state that is newer than the log begins a new log, and does not keep the node from starting."""
    lost, replay = startup.Agreement.STATE_LOST, startup.Agreement.REPLAY
    monkeypatch.setattr(startup, "reconcile", lambda begin, last, applied, *terms, fenced: lost if applied < begin else replay)
    rates = Rates(crash_in_operation=80, lose_state=300, kill=900, compact=150)
    caught(storm(rates, tuning=COMPACTING, storm_ms=5_000), 6, "no failure", "invariant", "apply durable", "state machine safety")


def test_cutting_the_log_before_the_state_is_durable_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """36: the log may be forgotten only up to what a flush has made durable."""
    monkeypatch.setattr(ModelStore, "flush", lambda self: None)
    caught(storm(CRASHES, tuning=COMPACTING), 2, "state kept")


def test_applying_ahead_of_the_durable_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """55: the state never outruns the log."""
    monkeypatch.setattr(replica.Replica, "_execute", _apply_first(replica.Replica._execute))
    caught(storm(CRASHES), 3, "apply durable", "invariant", "no failure")


def _apply_first(execute: Callable[..., None]) -> Callable[..., None]:
    """Apply entries when they are handed to the log, not when they are committed and durable."""

    def eager(self: replica.Replica, ready: Any, now_ms: int) -> None:
        for entry in ready.entries:
            if entry.index == self.machine.applied_index + 1:
                replica.apply_entry(self.machine, entry, self.events)
        execute(self, ready, now_ms)

    return eager


def test_forgetting_the_configuration_at_a_start_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """56: the log says at the start who decides, not a state that may be older."""
    stored = startup._stored

    def forgetful(*arguments: Any) -> Any:
        return replace(stored(*arguments), configurations=())

    monkeypatch.setattr(startup, "_stored", forgetful)
    caught(storm(CRASHES), 2, "membership")


def test_a_read_that_overtakes_the_writes_of_its_connection_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """58: a read waits for the writes before it."""
    monkeypatch.setattr(Connection, "writes_out", property(lambda self: 0, lambda self, value: None))
    monkeypatch.setattr(Connection, "idle", property(lambda self: not any(slot is _PENDING for slot in self._slots)))
    caught(storm(Rates()), 2, "linearizable reads", "order on a connection")


def test_answering_before_the_entry_is_applied_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is told OK when its write has been applied, not when it has been sent."""
    transmitted = OwnWrites.transmitted

    def hasty(self: OwnWrites, sealed: Sealed, now_ms: int) -> None:
        transmitted(self, sealed, now_ms)
        replies: list[Reply] = [OK] * sealed.group.count
        sealed.answer(replies)

    monkeypatch.setattr(OwnWrites, "transmitted", hasty)
    caught(storm(Rates()), 1, "acknowledged writes", "reply", "order of replies")


def test_saying_no_to_what_may_have_happened_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLUSTERDOWN is said only of what surely did not happen."""
    expire = OwnWrites.expire

    def certain(self: OwnWrites, now_ms: int, unsent: Any) -> None:
        for sealed in self._window:
            if sealed.deadline_ms is not None and sealed.deadline_ms <= now_ms:
                sealed.answer_all(unsent)
        expire(self, now_ms, unsent)

    monkeypatch.setattr(OwnWrites, "expire", certain)
    hurried = replace(TUNING, router=replace(TUNING.router, timeout_ms=150))
    caught(storm(ELECTIONS, tuning=hurried), 4, "definite refusal", "counters")


def test_a_state_that_depends_on_the_node_is_caught() -> None:
    """22: what a command does depends on nothing but the log."""

    class LocalMachine(WatchedMachine):
        def apply(self, index: int, term: int, payload: bytes) -> Applied:
            if self._node.name == "n2":
                self._position = replace(self._position, clock_ms=self._position.clock_ms + 1)
            return super().apply(index, term, payload)

    class LocalNode(SimNode):
        def make_machine(self, store: Store) -> KvMachine:
            return LocalMachine(store, self)

    caught(storm(Rates()), 1, "equal states", "final state", node_class=LocalNode)


def test_a_cluster_that_cannot_elect_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the storm there must be a leader: the simulator demands life, not only safety."""
    monkeypatch.setattr("raftkv.raft.node.Raft.become_candidate", lambda self, transfer=False: self.become_follower(self.term, None))
    caught(storm(Rates()), 1, "liveness")
