"""What a command sees of the state: keys with values, under the clock of the log.

`Keyspace` reads. `Changes` also writes: it collects what a batch of commands does, as rows, so that all of it goes to the store in
one atomic write. Each command is a savepoint: `rollback` undoes what was done since `mark`.

What always holds: a value whose expiry has passed by the log's clock is not there, whether or not its row has been deleted yet. The
rows of `Changes` depend on the commands and the rows before them only, also in their order, because a digest is taken over them.

No command touches rows itself, and nothing here knows a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from xxhash import xxh3_64_digest

from raftkv.kv.replies import fail
from raftkv.kv.rows import (
    EXPIRIES,
    EXPIRIES_END,
    HEADER,
    HEADER_BYTES,
    STRING,
    VALUES,
    VALUES_END,
    Value,
    decode_expiry_key,
    decode_header,
    decode_value,
    expiry_key,
    header,
    value_key,
    value_start,
)
from raftkv.kv.store import Rows, Writes

_WRONG_TYPE = "Operation against a key holding the wrong kind of value"


class _Missing:
    """Says that a row is not among the changes, which None (deleted) does not."""


_MISSING: Final = _Missing()


class Values:
    """The values of keys, under the clock of the log.

    Args:
        rows: the rows of the store.
        clock_ms: the log's clock, which decides what has expired.
    """

    def __init__(self, rows: Rows, clock_ms: int) -> None:
        self._rows = rows
        self.clock_ms = clock_ms

    def row(self, name: bytes) -> bytes | None:
        """The value of a row."""
        return self._rows.get(name)

    def value(self, key: bytes) -> Value | None:
        """The value of `key`, whatever its type, or None."""
        row = self.row(value_key(key))
        if row is None:
            return None
        value = decode_value(row)
        return None if 0 < value.expiry_ms < self.clock_ms else value

    def string(self, key: bytes) -> bytes | None:
        """The string at `key`, or None.

        Raises:
            CommandError: WRONGTYPE.
        """
        row = self.row(VALUES + xxh3_64_digest(key) + key)
        if row is None:
            return None
        kind, _, _, expiry_ms = HEADER.unpack_from(row)
        if 0 < expiry_ms < self.clock_ms:
            return None
        if kind != STRING:
            fail(_WRONG_TYPE, "WRONGTYPE")
        return row[HEADER_BYTES:]


class Keyspace(Values):
    """The keys at one moment, for reading.

    Args:
        rows: the rows of the store.
        clock_ms: the log's clock, which decides what has expired.
        now_ms: the time to tell a client how long a key has left; the later of it and `clock_ms` is used. It decides nothing.
    """

    def __init__(self, rows: Rows, clock_ms: int, now_ms: int = 0) -> None:
        super().__init__(rows, clock_ms)
        self.now_ms = max(clock_ms, now_ms)

    def count(self) -> int:
        """How many keys there are. Visits every row, without its value."""
        rows = self._rows
        count = rows.count(VALUES, VALUES_END)
        for row, _ in rows.scan(EXPIRIES, expiry_key(self.clock_ms, b"")):
            due_ms, key = decode_expiry_key(row)
            value = rows.get(value_key(key))
            if value is not None and decode_header(value)[1] == due_ms:
                count -= 1
        return count

    def scan(self, hashed: int) -> Iterator[tuple[bytes, bytes]]:
        """Value rows in the order of the hash of their key, from hash `hashed`, also those that have expired."""
        return self._rows.scan(value_start(hashed), VALUES_END)


class Changes(Values):
    """The keys as a batch changes them. There is no counting and no scanning: no entry of the log may cost a visit of every row.

    Args:
        rows: the rows of the store before the batch.
        index: the index of the entry, which becomes the revision of what it writes.
        clock_ms: the log's clock for this batch.
        version: the version of the machine's rules to follow.
    """

    def __init__(self, rows: Rows, index: int, clock_ms: int, version: int) -> None:
        super().__init__(rows, clock_ms)
        self.index = index
        self.version = version
        self.rows: Writes = {}
        self.cleared = False
        self.first_due_ms: int | None = None
        self._undo: list[tuple[bytes, bytes | None] | tuple[None, Writes, bool]] = []
        self._mark = 0
        self._plain_header = header(STRING, index, 0)

    def row(self, name: bytes) -> bytes | None:
        """The value of a row, as changed so far."""
        changed = self.rows.get(name, _MISSING)
        if changed is not _MISSING:
            return cast("bytes | None", changed)
        return None if self.cleared else self._rows.get(name)

    def put_string(self, key: bytes, data: bytes) -> None:
        """Make `data` the value of `key`, for ever, whatever was there. Reads nothing, and calls nothing of ours: it is hot."""
        name = VALUES + xxh3_64_digest(key) + key
        rows = self.rows
        if name in rows:
            self._undo.append((name, rows[name]))
        rows[name] = self._plain_header + data

    def put(self, key: bytes, kind: int, data: bytes, expiry_ms: int, before: Value | None) -> None:
        """Make `data` of type `kind` the value of `key` until `expiry_ms` (0: for ever). `before` is its value until now."""
        self.put_row(value_key(key), header(kind, self.index, expiry_ms) + data)
        due_before_ms = 0 if before is None else before.expiry_ms
        if due_before_ms == expiry_ms:
            return
        if due_before_ms:
            self.put_row(expiry_key(due_before_ms, key), None)
        if expiry_ms:
            self.put_row(expiry_key(expiry_ms, key), b"")
            if self.first_due_ms is None or expiry_ms < self.first_due_ms:
                self.first_due_ms = expiry_ms

    def delete(self, key: bytes, before: Value) -> None:
        """Delete `key`, whose value until now is `before`."""
        self.put_row(value_key(key), None)
        if before.expiry_ms:
            self.put_row(expiry_key(before.expiry_ms, key), None)

    def clear(self) -> None:
        """Delete every key, at the same cost for one and for a million."""
        self._undo.append((None, self.rows, self.cleared))
        self.rows = {}
        self.cleared = True

    def put_row(self, name: bytes, value: bytes | None) -> None:
        """Change a row; None deletes it."""
        rows = self.rows
        if name in rows:
            self._undo.append((name, rows[name]))
        rows[name] = value

    def mark(self) -> None:
        """Here is where `rollback` goes back to."""
        if self._undo:
            self._undo.clear()
        self._mark = len(self.rows)

    def rollback(self) -> None:
        """Undo every change since `mark`. Rows are in the order in which they were first changed, so the new ones are the last."""
        while self._undo:
            last = self._undo.pop()
            if last[0] is None:
                _, self.rows, self.cleared = last
            else:
                self.rows[last[0]] = last[1]
        while len(self.rows) > self._mark:
            self.rows.popitem()

    @property
    def ranges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The ranges of rows that go away before `rows` are written."""
        return ((VALUES, VALUES_END), (EXPIRIES, EXPIRIES_END)) if self.cleared else ()


def string_of(value: Value) -> bytes:
    """The string that `value` is.

    Raises:
        CommandError: WRONGTYPE.
    """
    if value.type != STRING:
        fail(_WRONG_TYPE, "WRONGTYPE")
    return value.data
