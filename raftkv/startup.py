"""What a node finds on its disk, made to agree: the step between recovery of the parts and the first event.

The log and the state are recovered apart, each by its own rules, and a crash may have left them at different points. `reconcile` is the
whole decision:

====================================  ==================================================================================
the state's applied index             what is done
====================================  ==================================================================================
any, and the state is fenced          as if it were lost: nothing that it says of itself is believed
before the log's begin                the state is lost or too old: the node rejoins without one and asks for a snapshot
between begin and end, terms agree    the rest of the log is replayed
between begin and end, terms differ   the log begins anew after the state
after the log's end                   the log begins anew after the state
====================================  ==================================================================================

Before that, a log with rotten entries that the state holds begins after the state, as does one that is to begin anew in any case
(`forget_rot`); with other rotten entries it is repaired (`raftkv.repair`). A state that is damaged is set aside and begun anew
(`open_state`). Whatever of this finds the disk full finds it so once more only after the states that were set aside have been given up
(`with_room`): they are only kept.

The last two are right because a state holds only committed entries: it stands for the log up to its applied index, and an entry of
another term there was never committed. They happen when a crash fell between the switch to an installed snapshot and the reset of the
log, or when the last group of the log was lost after it had been applied.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog

from raftkv.errors import DiskFull, StateDamaged, StorageError
from raftkv.kv.machine import KvMachine, read_position
from raftkv.kv.store import Rows, Store
from raftkv.raft.membership import decode_configuration
from raftkv.raft.types import Configuration, Index, Member, NodeId, SnapshotMeta, Stored, Term
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.damage import damage, give_up_aside, set_aside
from raftkv.storage.disk import Disk
from raftkv.storage.identity import Identity
from raftkv.storage.rotten import RottenLog
from raftkv.storage.wal import LogWrite, RecoveredLog, Wal, WalSettings

_Result = TypeVar("_Result")
Events = structlog.typing.FilteringBoundLogger


class Agreement(enum.Enum):
    """How log and state fit together."""

    REPLAY = "replay"
    BEGIN_ANEW = "begin_anew"
    STATE_LOST = "state_lost"


def reconcile(begin: Index, last: Index, applied: Index, applied_term: Term, log_term: Term | None, *, fenced: bool) -> Agreement:
    """The row of the table in the module's description.

    Args:
        begin: the index that the log begins after.
        last: the newest index in the log, or `begin` when it is empty.
        applied: the index that the state holds.
        applied_term: the term of that entry, from the state.
        log_term: the term of that entry, from the log; None when the log does not know it.
        fenced: whether the state is known to be wrong.
    """
    if fenced or applied < begin:
        return Agreement.STATE_LOST
    if applied > last or log_term != applied_term:
        return Agreement.BEGIN_ANEW
    return Agreement.REPLAY


def bootstrap_configuration(members: tuple[Member, ...]) -> Configuration:
    """The configuration of a cluster that has not formed: every initial member votes, no incarnation is known."""
    ordered = tuple(sorted(Member(member.id, 0, member.peer_address) for member in members))
    return Configuration(ordered, tuple(member.id for member in ordered))


def snapshot_meta_of(rows: Rows) -> SnapshotMeta:
    """Where the state in `rows` stands, and the configuration in force there."""
    position = read_position(rows)
    configuration = Configuration() if position.configuration is None else decode_configuration(position.configuration)
    return SnapshotMeta(position.index, position.term, configuration)


def open_log(disk: Disk, settings: WalSettings, events: Events) -> Wal:
    """The log. Raises as `Wal.open` does."""
    return with_room(partial(give_up_aside, disk), lambda: Wal.open(disk, settings), events)


def make_room(give_up: Callable[[], bool], reason: str, events: Events) -> bool:
    """Remove what was set aside with `give_up`, because of `reason`; True if that made room. What cannot be removed stays: it is only
    kept, and nobody may have to stop because of it."""
    try:
        if not give_up():
            return False
    except StorageError as error:
        events.warning("damaged_state_stays", reason=str(error))
        return False
    events.warning("damaged_state_removed", reason=reason)
    return True


def with_room(give_up: Callable[[], bool], step: Callable[[], _Result], events: Events) -> _Result:
    """What `step` returns, which may be done again when it has found the disk full: it is, once, if `give_up` removes a damaged state
    that was set aside.

    Raises:
        DiskFull: there is no space without it either.
    """
    try:
        return step()
    except DiskFull as error:
        if not make_room(give_up, str(error), events):
            raise
    return step()


def open_state(
    disk: Disk,
    directory: Callable[[], StateDirectory],
    machine: Callable[[Store], KvMachine],
    events: Events,
    found: Callable[[str], None] = lambda reason: None,
) -> tuple[StateDirectory, KvMachine]:
    """The state, or an empty one in the place of one that is damaged: the log and the other nodes have it.

    Args:
        disk: the data directory.
        directory: opens the state directory.
        machine: makes the state machine on its store.
        events: the log of the node.
        found: told how a state is damaged, before it is set aside.

    Raises:
        StorageError: neither can be had.
    """

    def attempt() -> tuple[StateDirectory, KvMachine]:
        state = directory()
        try:
            return state, machine(state.store)
        except BaseException:
            state.close()
            raise

    give_up = partial(give_up_aside, disk)
    reason = damage(disk)
    if reason is None:
        try:
            return with_room(give_up, attempt, events)
        except StateDamaged as error:
            reason = str(error)
    found(reason)
    make_room(give_up, "another damaged state takes its place", events)
    events.error("state_damaged", reason=reason, kept_in=set_aside(disk))
    return with_room(give_up, attempt, events)


def open_rotten(
    disk: Disk, settings: WalSettings, state_of: Callable[[], tuple[StateDirectory, KvMachine]], events: Events
) -> RottenLog:
    """The rotten log of a node, without the rot that its state, which `state_of` opens, makes good. The caller closes it.

    Raises:
        StorageError: it cannot be read or changed.
    """
    log = with_room(partial(give_up_aside, disk), lambda: RottenLog.open(disk, settings), events)
    state, machine = state_of()
    try:
        with_room(log.give_up_damaged, lambda: forget_rot(log, machine, state.fenced), events)
    finally:
        state.close()
    return log


def forget_rot(log: RottenLog, machine: KvMachine, fenced: str | None) -> None:
    """Let a rotten log begin after the state where that makes the rot good, or where it would have to if it were whole: what is in the
    state needs no repair, nor does what `reconcile` gives up. A state that is known to be wrong (`fenced` says why) holds nothing.

    Raises:
        DiskFull: there is no space for it. Nothing has changed.
        StorageError: the log could not be changed.
    """
    applied, applied_term = machine.applied_index, machine.applied_term
    known = log.term_at(applied)
    if known is None and log.begin.index <= applied <= log.last_index:
        return  # the entry there may be the state's, and then what follows it counts
    position = machine.position
    configuration = log.begin.configuration if position.configuration is None else decode_configuration(position.configuration)
    meta = SnapshotMeta(applied, applied_term, configuration)
    match reconcile(log.begin.index, log.last_index, applied, applied_term, known, fenced=fenced is not None):
        case Agreement.BEGIN_ANEW:
            log.begin_anew(meta)
        case Agreement.REPLAY if any(rotten.index <= applied for rotten in log.needed):
            log.begin_after(meta)


def other_members(log: RottenLog, identity: Identity) -> dict[NodeId, str]:
    """The peer addresses of the members that can be asked for entries of a rotten log, as far as what is intact of it tells."""
    configuration = log.configuration if log.configuration.members else bootstrap_configuration(identity.members)
    return {member.id: member.peer_address for member in configuration.members if member.id != identity.node}


def stored_state(identity: Identity, wal: Wal, machine: KvMachine, fenced: str | None) -> Stored:
    """The core's starting point; resets the log to the state where `reconcile` says so. May be called again after a `DiskFull`.

    Args:
        identity: who the node is.
        wal: the recovered log.
        machine: the state machine on the recovered store.
        fenced: why the recovered state is known to be wrong, if it is.

    Raises:
        StorageError: the log could not be reset.
    """
    applied, applied_term = machine.applied_index, machine.applied_term
    log = wal.recovered
    begin = log.snapshot
    if begin.index == 0 and not begin.configuration.members:
        begin = SnapshotMeta(0, 0, bootstrap_configuration(identity.members))
    known = wal.term_at(applied) if begin.index <= applied <= log.last.index else None
    agreement = reconcile(begin.index, log.last.index, applied, applied_term, known, fenced=fenced is not None)
    if agreement is Agreement.BEGIN_ANEW:
        position = machine.position
        configuration = begin.configuration if position.configuration is None else decode_configuration(position.configuration)
        wal.write([LogWrite(0, None, SnapshotMeta(applied, applied_term, configuration), (), applied)])
        log = wal.recovered_now()
        begin = log.snapshot
    if agreement is Agreement.STATE_LOST:
        return _stored(identity, log, begin, begin.index, fenced or "the state store is lost")
    return _stored(identity, log, begin, applied, None)


def _stored(identity: Identity, log: RecoveredLog, begin: SnapshotMeta, applied: Index, fenced: str | None) -> Stored:
    return Stored(
        node=identity.node,
        incarnation=identity.incarnation,
        hard_state=log.hard_state,
        snapshot=begin,
        term_runs=log.term_runs,
        tail=log.tail,
        last=log.last,
        configurations=log.configurations,
        committed=min(max(log.committed, applied), log.last.index),
        applied=applied,
        suspect=log.suspect,
        fenced=fenced,
    )

