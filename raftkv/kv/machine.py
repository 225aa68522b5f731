"""The key-value state machine: applies entries of the log to a store, and answers reads from it.

What always holds:

* Applying an entry is one atomic write: values, expiry index, sessions, stored replies and what the machine knows of itself (index,
  term, clocks, digest, version) go to the store together or not at all. What is in memory follows the store, never the other way.
* The state after an entry is a function of the state before it and of the entry: no clock but the log's, no randomness, no setting.
* A command that fails leaves nothing behind, and its error is the same on every replica. An error of the machine underneath (disk,
  memory) is never a reply: it goes up, nothing is applied, and the node stops.

What is not here: what commands do (`kv.commands`), when entries are applied, and who is answered.
"""

from __future__ import annotations

import struct
from typing import Final, Literal, cast

import msgspec
from msgspec import Struct

from raftkv.errors import InvariantBroken, ProtocolError, StateDamaged, UnknownFormat
from raftkv.kv import digest as digests
from raftkv.kv.applying import apply_one
from raftkv.kv.batch import FORMAT_VERSION, Batch, Group, decode_batch
from raftkv.kv.commands import Command, Kind, Read, Write, decode_writes
from raftkv.kv.digest import DigestRing
from raftkv.kv.edges import Ends
from raftkv.kv.expiry import delete_due, first_due_ms
from raftkv.kv.keyspace import ELEMENTS_PER_TURN, Changes, Keyspace
from raftkv.kv.replies import CommandError, Failure, Reply
from raftkv.kv.rows import CLIENT_SESSIONS, COLLECTIONS_ROW, CONFIGURATION_ROW, MAX_MS, STATE_ROW
from raftkv.kv.session_commands import OfSession
from raftkv.kv.sessions import LIMITS, SESSION_BYTES, Limits, Problem, SessionChanges, Sessions
from raftkv.kv.store import Ranges, Rows, Store, View, Writes

MACHINE: Final = 0
"""The number of this machine in a group."""

MACHINE_VERSION: Final = 1
"""The newest version of the rules that this program can apply."""

STATE_FORMAT: Final = 1

_STATE = struct.Struct(">HQQQQI16s")
_ABOUT = struct.Struct("<QQQQI")


class Position(Struct, frozen=True):
    """Where a state stands in the log. `clock_ms` is the log's clock there, `sessions_ms` that of the sessions. `configuration` is the
    encoded configuration in force there, None when it has none yet."""

    index: int
    term: int
    clock_ms: int
    sessions_ms: int
    version: int
    digest: bytes
    configuration: bytes | None


class GroupReplies(Struct, frozen=True):
    """What one group of an entry was answered: a reply to each command, or the reason why nothing of it was applied."""

    session: bytes
    first: int
    replies: list[Reply]
    problem: Problem | None = None


class Applied(Struct, frozen=True):
    """What applying an entry came to. `faults` are commands that failed for a reason that is a bug here, for the node's log. `pushed` are
    the keys at which there may be elements now that a blocked client waits for."""

    groups: list[GroupReplies]
    faults: tuple[Exception, ...] = ()
    pushed: tuple[bytes, ...] = ()


def read_position(rows: Rows) -> Position:
    """Where the state in `rows` stands; index 0 for an empty store.

    Raises:
        StateDamaged, UnknownFormat: the row that says so cannot be used.
    """
    row = rows.get(STATE_ROW)
    if row is None:
        return Position(0, 0, 0, 0, MACHINE_VERSION, digests.EMPTY, None)
    if row[:2] != STATE_FORMAT.to_bytes(2, "big"):
        raise UnknownFormat(
            f"upgrade raftkv: the state is in format {int.from_bytes(row[:2], 'big')}, this raftkv knows {STATE_FORMAT}"
        )
    if len(row) != _STATE.size:
        raise StateDamaged("the state does not say where it stands; restart the node, and it is fetched from another one")
    _, index, term, clock_ms, sessions_ms, version, digest = _STATE.unpack(row)
    return Position(index, term, clock_ms, sessions_ms, version, digest, rows.get(CONFIGURATION_ROW))


class KvMachine:
    """The machine on top of `store`, which it alone writes. A machine is for one thread; views of it may be read in others.

    Args:
        store: where the state is; everything is loaded from it.
        supported_version: the newest rules that this program knows.
        limits: bounds on sessions, the same on every node.

    Raises:
        StorageError: the state cannot be read, or is of a newer program.
    """

    def __init__(self, store: Store, *, supported_version: int = MACHINE_VERSION, limits: Limits = LIMITS) -> None:
        self._store = store
        self._supported_version = supported_version
        position = read_position(store)
        _check_version(position.version, supported_version, position.index)
        self._position = position
        self._collections = int.from_bytes(store.get(COLLECTIONS_ROW) or b"")
        self._ends: dict[bytes, Ends] = {}
        self._sessions = Sessions(store, limits)
        self._client_sessions = Sessions(store, limits, CLIENT_SESSIONS)
        self._first_due_ms = first_due_ms(store)
        self.digest_ring = DigestRing()
        if position.index:
            self.digest_ring.add(position.index, position.digest)

    @property
    def applied_index(self) -> int:
        """The newest entry that the state holds; 0 before the first."""
        return self._position.index

    @property
    def applied_term(self) -> int:
        """The term of that entry."""
        return self._position.term

    @property
    def clock_ms(self) -> int:
        """The log's clock: the largest stamp applied, in milliseconds since the epoch."""
        return self._position.clock_ms

    @property
    def digest(self) -> bytes:
        """The running hash of everything applied."""
        return self._position.digest

    @property
    def machine_version(self) -> int:
        """The version of the rules in force: to be named in the next batch."""
        return self._position.version

    @property
    def configuration(self) -> bytes | None:
        """The encoded configuration that was applied last."""
        return self._position.configuration

    @property
    def position(self) -> Position:
        """All of the above."""
        return self._position

    @property
    def next_expiry_ms(self) -> int | None:
        """The first stamp at which a batch, even an empty one, would delete something; None when nothing is ever due."""
        return None if self._first_due_ms is None else self._first_due_ms + 1

    # Reading.

    def read(self, command: Command, now_ms: int = 0) -> Reply:
        """The answer of a read at the present state and the log's clock.

        Args:
            command: a `Read`.
            now_ms: if later than the log's clock, the time from which TTL and PTTL count. It hides no key.

        Raises:
            TakesLong: it visits so many elements that it is for a view.
            StorageError: the store cannot be read.
        """
        return _read(command, Keyspace(self._store, self.clock_ms, now_ms, ELEMENTS_PER_TURN))

    def view(self) -> MachineView:
        """The state as it is now, for slow reads in another thread. The caller closes it."""
        return MachineView(self._store.view(), self.clock_ms)

    def session_last(self, session: bytes) -> int | None:
        """The newest command of `session` that has been applied; None when the session is not known."""
        return self._sessions.last(session)

    def stored_replies(self, session: bytes, first: int, count: int) -> list[Reply] | None:
        """The replies that are kept of commands `first` … `first + count - 1` of `session`; None when one of them is not."""
        known = self._sessions.table.get(session)
        kept = 0 if known is None else sum(max(min(a + n, first + count) - max(a, first), 0) for a, n in known.groups)
        if kept != count:
            return None
        return SessionChanges(self._sessions, self._store, self._position.sessions_ms).kept(session, first, count)

    # Applying.

    def apply(self, index: int, term: int, payload: bytes) -> Applied:
        """Apply a BATCH entry.

        Args:
            index: the entry's index, the one after `applied_index`.
            term: its term.
            payload: an encoded `Batch`.

        Returns:
            The answer to each group, in the order of the batch.

        Raises:
            Busy: the store cannot keep up; nothing was applied, the same call succeeds later.
            StorageError: the store failed, or the entry is of a newer program; the node must stop.
            InvariantBroken: the entry is not the next one, or is not a batch.
        """
        batch = self._decode(index, payload)
        clock_ms = max(self.clock_ms, min(batch.stamp_ms, MAX_MS))
        version = max(self.machine_version, batch.machine_version)
        changes = Changes(self._store, index, clock_ms, version, self._collections, self._ends)
        sessions_ms = self._sessions.clock_after(self._position.sessions_ms, clock_ms - self.clock_ms)
        sessions = SessionChanges(self._sessions, self._store, sessions_ms)
        clients = SessionChanges(self._client_sessions, self._store, sessions_ms)
        due = self._first_due_ms is not None and self._first_due_ms < clock_ms
        if due:
            delete_due(changes, self._store)
        groups = [_apply_group(group, changes, sessions, clients) for group in batch.groups]
        for each in (sessions, clients):
            each.forget_aged()
            changes.rows.update(each.rows)
        self._commit(index, term, clock_ms, sessions_ms, version, changes.rows, changes.ranges)
        sessions.commit()
        clients.commit()
        self._collections = changes.collections
        self._ends = changes.edges.after()
        self._note_expiries(changes, due)
        return Applied(groups, tuple(changes.faults), tuple(changes.pushed))

    def apply_empty(self, index: int, term: int, configuration: bytes | None = None) -> None:
        """Apply an entry without commands: NOOP, or CONFIGURATION with its payload, which is kept for checkpoints.

        Raises:
            Busy, StorageError, InvariantBroken: as `apply`.
        """
        self._check_index(index)
        writes: Writes = {} if configuration is None else {CONFIGURATION_ROW: configuration}
        self._commit(index, term, self.clock_ms, self._position.sessions_ms, self.machine_version, writes, ())

    def _decode(self, index: int, payload: bytes) -> Batch:
        self._check_index(index)
        try:
            batch = decode_batch(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvariantBroken(f"entry {index} is committed and is not a batch: {error}") from error
        if batch.format != FORMAT_VERSION:
            raise UnknownFormat(f"upgrade raftkv: entry {index} has format {batch.format}, this raftkv knows {FORMAT_VERSION}")
        _check_version(batch.machine_version, self._supported_version, index)
        return batch

    def _check_index(self, index: int) -> None:
        if index != self.applied_index + 1:
            raise InvariantBroken(f"entry {index} came to be applied after entry {self.applied_index}")

    def _commit(
        self, index: int, term: int, clock_ms: int, sessions_ms: int, version: int, writes: Writes, cleared: Ranges
    ) -> None:
        before = self._position
        digest = digests.advance(before.digest, _ABOUT.pack(index, term, clock_ms, sessions_ms, version), cleared, writes)
        configuration = writes.get(CONFIGURATION_ROW, before.configuration)
        writes[STATE_ROW] = _STATE.pack(STATE_FORMAT, index, term, clock_ms, sessions_ms, version, digest)
        self._store.write(writes, cleared)
        self._position = Position(index, term, clock_ms, sessions_ms, version, digest, configuration)
        self.digest_ring.add(index, digest)

    def _note_expiries(self, changes: Changes, deleted: bool) -> None:
        """Keep `_first_due_ms` at or before the first index row, whatever was rolled back or cleared."""
        if deleted:
            self._first_due_ms = first_due_ms(self._store)
            return
        known = None if changes.cleared else self._first_due_ms
        if changes.first_due_ms is not None and (known is None or changes.first_due_ms < known):
            known = changes.first_due_ms
        self._first_due_ms = known


class MachineView:
    """The state at one moment, for reads that take long."""

    def __init__(self, rows: View, clock_ms: int) -> None:
        self._rows = rows
        self._clock_ms = clock_ms

    def read(self, command: Command, now_ms: int = 0) -> Reply:
        """As `KvMachine.read`."""
        return _read(command, Keyspace(self._rows, self._clock_ms, now_ms))

    def close(self) -> None:
        """Let go of the state. Idempotent."""
        self._rows.close()


def _read(command: Command, keys: Keyspace) -> Reply:
    if command.kind is not Kind.READ:
        raise InvariantBroken(f"{type(command).__name__} is not a read")
    try:
        return cast("Read", command).read(keys)
    except CommandError as error:
        return error.failure


def _check_version(version: int, supported: int, index: int) -> None:
    if version > supported:
        raise UnknownFormat(
            f"upgrade raftkv: entry {index} follows version {version} of the rules, this program knows up to {supported}"
        )


def _apply_group(group: Group, changes: Changes, sessions: SessionChanges, clients: SessionChanges) -> GroupReplies:
    writes = _writes_of(group)
    missing: int | Literal["gap", "unknown_session", "malformed"]
    missing = "malformed" if writes is None else sessions.missing(group)
    if writes is None or isinstance(missing, str):
        return GroupReplies(group.session, group.first, [], missing if isinstance(missing, str) else "malformed")
    first = group.first + missing
    replies = _apply_writes(writes[missing:] if missing else writes, changes, clients)
    known = sessions.kept(group.session, group.first, missing) if missing else []
    sessions.applied(group, first, replies)
    return GroupReplies(group.session, group.first, known + replies if known else replies)


def _writes_of(group: Group) -> list[Write] | None:
    """The commands of a group; None when they are not what its header says, which its sender is to blame for."""
    if group.machine != MACHINE or len(group.session) != SESSION_BYTES or group.first < 1 or group.floor < 0:
        return None
    writes = _decode_writes(group.commands)
    return writes if writes is not None and len(writes) == group.count else None


def _decode_writes(commands: bytes) -> list[Write] | None:
    """Encoded writes; None when they are something else."""
    try:
        return decode_writes(commands)
    except ProtocolError:
        return None
    except RecursionError as error:
        # Whether the stack is deep enough differs between processes: a replica that made an answer of it could differ from others.
        raise InvariantBroken(f"commands of a session are nested too deeply to be read: {error}") from error


def _apply_writes(writes: list[Write], changes: Changes, clients: SessionChanges) -> list[Reply]:
    def apply(write: Write) -> Reply:
        if isinstance(write, OfSession):
            return write.apply_in(clients, lambda command: _apply_encoded(command, changes))
        return apply_one(write, changes)

    return [apply(write) for write in writes]


def _apply_encoded(command: bytes, changes: Changes) -> Reply:
    """Apply the one write that a client numbered in its session."""
    writes = _decode_writes(command)
    if writes is None or len(writes) != 1:
        return Failure("ERR", "this is not one command; it had no effect")
    return apply_one(writes[0], changes)
