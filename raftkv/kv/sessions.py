"""Sessions: why a command that is sent again is applied once (Raft paper, section 8; thesis, section 6.3).

A session numbers its commands from 1. The state remembers of each session the last number applied, and the replies that its owner
has not yet said it received, so that a group sent again is answered with what it was answered before. Groups arrive in order or
are refused: nothing is ever applied after a gap.

What always holds: the table depends on nothing but the entries of the log. A session is never forgotten by the batch that uses it,
and when there are too many the one unused for longest goes. The table in memory mirrors the rows and changes only after they are in
the store.

Sessions age by a clock of their own. The log's clock follows the wall clocks of a majority, and jumps when they do: a session must
not grow old in one step between a command and its retry, which would then open it again and count twice. So the sessions' clock
advances as the log's does, but in one batch by `Limits.advance_ms` at most, and what a jump has beyond that it never makes up for. It
begins at 0 and tells no time of day. Where batches are rarer than that, sessions live longer than their age, which harms nobody: their
number is bounded.

Commands are not known here: they are counted.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from typing import Final, Literal

from msgspec import Struct

from raftkv.errors import ProtocolError, StateDamaged
from raftkv.kv.batch import Group
from raftkv.kv.replies import OK, Failure, Reply, decode_replies, encode_replies
from raftkv.kv.rows import NODE_SESSIONS, SessionRows, replies_key, session_key
from raftkv.kv.store import Rows, Writes

SESSION_BYTES: Final = 16

Problem = Literal["gap", "unknown_session", "malformed"]
"""Why nothing of a group was applied."""

FORGOTTEN: Final = Failure("UNCERTAIN", "this command was applied before; its reply is no longer kept")
"""The reply to a command that was applied before, when the reply itself is gone."""

_ROW = struct.Struct(">QQQ")


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds on what sessions take. They are rules of the machine, the same on every node: a change needs a new machine version."""

    age_ms: int = 3_600_000
    """A session not used for so long, by the sessions' clock, is forgotten."""
    advance_ms: int = 10_000
    """The most that one batch advances the sessions' clock: far less than `age_ms`, so that a jump of the log's clock, which takes a new
    leader each time, makes no session old; and more than what lies between two batches of a cluster that has something to do."""
    sessions: int = 10_000
    groups: int = 1024
    """Groups of one session whose replies are kept; the oldest go first."""
    replies_bytes: int = 1 << 20
    """When the replies to one group take more than this, those of more than `reply_bytes` are not kept."""
    reply_bytes: int = 1024
    aged_per_batch: int = 64


LIMITS: Final = Limits()


class Session(Struct, frozen=True):
    """One session: `last` is the last command applied, `floor` the last whose reply has arrived, `used_ms` when it was used last by
    the sessions' clock. `groups` says which replies are kept, as (first, count), in order."""

    last: int
    floor: int
    used_ms: int
    groups: tuple[tuple[int, int], ...] = ()


class Sessions:
    """A table of sessions, as of the last entry applied: those of nodes, or those of client libraries."""

    def __init__(self, rows: Rows, limits: Limits = LIMITS, where: SessionRows = NODE_SESSIONS) -> None:
        """Load the table.

        Raises:
            StateDamaged: a row is not what was written.
        """
        self.limits = limits
        self.where = where
        found: list[tuple[int, bytes, Session]] = []
        groups: dict[bytes, list[tuple[int, int]]] = {}
        for name, row in rows.scan(where.replies, where.replies_end):
            first = int.from_bytes(name[1 + SESSION_BYTES :], "big")
            groups.setdefault(name[1 : 1 + SESSION_BYTES], []).append((first, _decode_count(row)))
        for name, row in rows.scan(where.sessions, where.sessions_end):
            if len(row) != _ROW.size or len(name) != 1 + SESSION_BYTES:
                raise StateDamaged(f"the state holds a damaged session {name.hex()}; restart the node, and it is fetched from another one")
            last, floor, used_ms = _ROW.unpack(row)
            found.append((used_ms, name[1:], Session(last, floor, used_ms, tuple(groups.get(name[1:], ())))))
        found.sort(key=lambda item: item[:2])
        self.table: OrderedDict[bytes, Session] = OrderedDict((name, session) for _, name, session in found)

    def clock_after(self, clock_ms: int, passed_ms: int) -> int:
        """What the sessions' clock shows after a batch that advances the log's clock by `passed_ms`, if it showed `clock_ms` before."""
        return clock_ms + min(passed_ms, self.limits.advance_ms)

    def last(self, session: bytes) -> int | None:
        """The newest command of `session` that has been applied; None when the session is not known."""
        known = self.table.get(session)
        return None if known is None else known.last


class SessionChanges:
    """What a batch does to the sessions. `rows` belong into the batch's write; `commit` follows it.

    Args:
        sessions: the table before the batch.
        store: the rows before the batch.
        clock_ms: the sessions' clock for this batch.
    """

    def __init__(self, sessions: Sessions, store: Rows, clock_ms: int) -> None:
        self.rows: Writes = {}
        self._sessions = sessions
        self._limits = sessions.limits
        self._where = sessions.where
        self._store = store
        self._clock_ms = clock_ms
        self._changed: dict[bytes, Session] = {}
        self._gone: set[bytes] = set()
        self._count = len(sessions.table)
        self._order = self._by_last_use()

    def missing(self, group: Group) -> int | Problem:
        """How many commands at the front of `group` were applied before, or why it cannot be applied."""
        session = self._find(group.session)
        last = 0 if session is None else session.last
        if session is None and group.first != 1:
            return "unknown_session"
        if group.first > last + 1:
            return "gap"
        return min(last - group.first + 1, group.count)

    def kept(self, session: bytes, first: int, count: int) -> list[Reply]:
        """The replies to `count` commands applied before, from number `first`; FORGOTTEN for those that are not kept."""
        known = self._find(session)
        replies: list[Reply] = [FORGOTTEN] * count
        for start, size in () if known is None else known.groups:
            if start < first + count and first < start + size:
                row = self._row(replies_key(session, start, self._where))
                if row is not None:
                    stored = _decode(row)
                    low, high = max(start, first), min(start + size, first + count)
                    replies[low - first : high - first] = stored[low - start : high - start]
        return replies

    def applied(self, group: Group, first: int, replies: list[Reply]) -> None:
        """The commands of `group` from number `first` on have been applied and answered `replies`, which may be none."""
        before = self._find(group.session)
        if before is None:
            self._make_room()
            before = Session(0, 0, 0)
        last = max(before.last, first + len(replies) - 1)
        floor = min(max(before.floor, group.floor), last)
        kept = list(before.groups)
        if replies:
            kept.append((first, len(replies)))
            self.rows[replies_key(group.session, first, self._where)] = _encode(replies, self._limits)
        while kept and (kept[0][0] + kept[0][1] - 1 <= floor or len(kept) > self._limits.groups):
            start, _ = kept.pop(0)
            self.rows[replies_key(group.session, start, self._where)] = None
        self._keep(group.session, Session(last, floor, self._clock_ms, tuple(kept)))

    def open(self, name: bytes) -> None:
        """Begin the session `name`, which is then known and has no commands. One that is known already stays as it is."""
        if self._find(name) is None:
            self._make_room()
            self._keep(name, Session(0, 0, self._clock_ms))

    def known(self, name: bytes) -> bool:
        """Whether there is a session `name`."""
        return self._find(name) is not None

    def _keep(self, name: bytes, session: Session) -> None:
        self._count += self._find(name) is None
        self._changed[name] = session
        self._gone.discard(name)
        self.rows[session_key(name, self._where)] = _ROW.pack(session.last, session.floor, session.used_ms)

    def forget_aged(self) -> None:
        """Forget sessions that have not been used for long, a bounded number of them. Called when all groups have been applied."""
        limit_ms = self._clock_ms - self._limits.age_ms
        aged: list[tuple[int, bytes]] = []
        for name, session in self._sessions.table.items():
            if session.used_ms >= limit_ms:
                break
            if name not in self._changed and name not in self._gone:
                aged.append((session.used_ms, name))
        for _, name in sorted(aged)[: self._limits.aged_per_batch]:
            self._forget(name)

    def commit(self) -> None:
        """The rows are in the store: the table follows. It stays in the order of last use."""
        table = self._sessions.table
        for name in self._gone:
            table.pop(name, None)
        for name, session in self._changed.items():
            table[name] = session
            table.move_to_end(name)

    def _find(self, name: bytes) -> Session | None:
        changed = self._changed.get(name)
        if changed is not None or name in self._gone:
            return changed
        return self._sessions.table.get(name)

    def _row(self, name: bytes) -> bytes | None:
        return self.rows[name] if name in self.rows else self._store.get(name)

    def _make_room(self) -> None:
        if self._count < self._limits.sessions:
            return
        idle = (name for name in self._order if name not in self._changed and name not in self._gone)
        self._forget(next(idle, None) or min(self._changed))

    def _by_last_use(self) -> Iterator[bytes]:
        """The sessions before the batch in the order in which they make room: of those that were last used together, by name."""
        table = self._sessions.table
        for _, together in groupby(table, key=lambda name: table[name].used_ms):
            yield from sorted(together)

    def _forget(self, name: bytes) -> None:
        session = self._find(name)
        if session is None:
            return
        for start, _ in session.groups:
            self.rows[replies_key(name, start, self._where)] = None
        self.rows[session_key(name, self._where)] = None
        self._changed.pop(name, None)
        self._gone.add(name)
        self._count -= 1


def _encode(replies: list[Reply], limits: Limits) -> bytes:
    """Count and replies; equal OKs, by far the most common, as one."""
    count = len(replies)
    if replies.count(OK) == count:
        replies = [OK]
    data = encode_replies(replies)
    if len(data) > limits.replies_bytes:
        replies = [reply if len(encode_replies([reply])) <= limits.reply_bytes else FORGOTTEN for reply in replies]
        data = encode_replies(replies)
    return count.to_bytes(4, "big") + data


def _decode_count(row: bytes) -> int:
    return int.from_bytes(row[:4], "big")


def _decode(row: bytes) -> list[Reply]:
    try:
        replies = decode_replies(row[4:])
    except ProtocolError as error:
        raise StateDamaged(f"the state holds damaged replies ({error}); restart the node, and it is fetched from another one") from error
    count = _decode_count(row)
    return replies * count if len(replies) == 1 else replies
