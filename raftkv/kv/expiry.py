"""Deleting what has expired, by the log's clock and a bounded number at a time.

A value that has expired is gone for every command at once (`kv.keyspace`); this only makes its rows go away. The index says which
keys may be due, in order; a row of it that no longer matches the value of its key means nothing and is dropped. Each batch deletes
some before its commands; when nothing is written the leader proposes empty batches until nothing is due
(`KvMachine.next_expiry_ms`).
"""

from __future__ import annotations

from typing import Final

from raftkv.kv.keyspace import Changes
from raftkv.kv.rows import EXPIRIES, EXPIRIES_END, decode_expiry_key, decode_header, expiry_key, value_key
from raftkv.kv.store import Rows

MAX_PER_BATCH: Final = 256
"""How many rows of the index one batch handles. A rule of the machine, the same on every node."""


def delete_due(changes: Changes, rows: Rows, limit: int = MAX_PER_BATCH) -> None:
    """Delete the first `limit` values that are due by the clock of `changes`, before anything else is changed."""
    for name, _ in rows.scan(EXPIRIES, expiry_key(changes.clock_ms, b""), limit=limit):
        due_ms, key = decode_expiry_key(name)
        value_row = value_key(key)
        row = changes.row(value_row)
        if row is not None and decode_header(row)[1] == due_ms:
            changes.expire(key, row)
        changes.put_row(name, None)


def first_due_ms(rows: Rows) -> int | None:
    """The first moment at which a value may be due; None when none ever is."""
    for name, _ in rows.scan(EXPIRIES, EXPIRIES_END, limit=1):
        return decode_expiry_key(name)[0]
    return None
