"""How the state is laid out in the store: one keyspace, one-byte prefixes, big-endian numbers so that bytes sort as numbers do.

::

    k  xxh3_64(key) key          ->  type u8, format u8, revision u64, expiry_ms u64, value
    e  collection (12 bytes) …   ->  one element of a hash, list, set or sorted set
    d  bucket u16                ->  revision u64       when a key in this bucket was deleted last
    x  due_ms u64, key           ->  (empty)            when the value of key may be due
    s  session (16 bytes)        ->  last u64, floor u64, used_ms u64
    r  session, first u64        ->  the replies to the commands first, first + 1, …
    c, q                         ->  the same two for the sessions of client libraries
    m  name                      ->  what the machine knows of itself

What always holds: a value row with an expiry has an index row with the same due time; an index row that matches no value row means
nothing and goes away when it is due. Value rows are ordered by the hash of their key, which makes the place of a scan a number that
means the same on every node.

The value of a collection says how many elements it has and under which number they are, so that a collection is renamed, emptied and
deleted without a visit of its elements. What stands behind the number in the row of an element is the concern of its type; two
collections never share a number. A number that no value names is not there.

This module knows bytes only. docs/formats-state.md describes the same for people.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, NoReturn

from xxhash import xxh3_64_digest

from raftkv.errors import StateDamaged

VALUES = b"k"
VALUES_END = b"l"
DELETIONS = b"d"
EXPIRIES = b"x"
EXPIRIES_END = b"y"
ELEMENTS = b"e"
ELEMENTS_END = b"f"
STATE_ROW = b"mstate"
CONFIGURATION_ROW = b"mconfiguration"
COLLECTIONS_ROW = b"mcollections"
"""How many collections there are; no row for none."""
CLEARED_ROW = b"mcleared"
"""When all keys were deleted at once last; no row for never."""

VALUE_FORMAT = 1
"""The format of value rows."""

STRING = 1
HASH = 2
LIST = 3
SET = 4
SORTED_SET = 5
"""The types of values."""

TYPE_NAMES: dict[int, str] = {STRING: "string", HASH: "hash", LIST: "list", SET: "set", SORTED_SET: "zset"}
"""What TYPE and SCAN call a type."""

HEADER = struct.Struct(">BBQQ")
HEADER_BYTES = HEADER.size
HASH_BYTES = 8

_u64 = struct.Struct(">Q")

MAX_MS = 2**63 - 1
"""The last moment of time, in milliseconds since the epoch."""


class SessionRows(NamedTuple):
    """The prefixes under which a table of sessions has its rows."""

    sessions: bytes
    sessions_end: bytes
    replies: bytes
    replies_end: bytes


NODE_SESSIONS = SessionRows(b"s", b"t", b"r", b"s")
"""The sessions of nodes, under which the writes of plain Redis clients travel."""
CLIENT_SESSIONS = SessionRows(b"c", b"d", b"q", b"r")
"""The sessions of client libraries. However many there are, they displace none of a node."""


class Value(NamedTuple):
    """A value row, taken apart. `expiry_ms` is 0 for a value that stays."""

    type: int
    revision: int
    expiry_ms: int
    data: bytes


def value_key(key: bytes) -> bytes:
    """The row of the value of `key`."""
    return b"k" + xxh3_64_digest(key) + key


def key_of_value(row: bytes) -> bytes:
    """The key whose value is at `row`."""
    return row[1 + HASH_BYTES :]


def hash_of_value(row: bytes) -> int:
    """The hash of the key whose value is at `row`."""
    hashed: int = _u64.unpack_from(row, 1)[0]
    return hashed


def value_start(hashed: int) -> bytes:
    """The first row that a key with a hash of at least `hashed` can have."""
    return b"k" + _u64.pack(hashed)


def header(kind: int, revision: int, expiry_ms: int) -> bytes:
    """The header in front of a value."""
    return HEADER.pack(kind, VALUE_FORMAT, revision, expiry_ms)


def decode_value(row: bytes) -> Value:
    """Take a value row apart."""
    if len(row) < HEADER_BYTES:
        cut_off(row)
    kind, _, revision, expiry_ms = HEADER.unpack_from(row)
    return Value(kind, revision, expiry_ms, row[HEADER_BYTES:])


def decode_header(row: bytes) -> tuple[int, int]:
    """(type, expiry_ms) of a value row, without copying the value."""
    if len(row) < HEADER_BYTES:
        cut_off(row)
    kind, _, _, expiry_ms = HEADER.unpack_from(row)
    return kind, expiry_ms


def cut_off(row: bytes) -> NoReturn:
    """Refuse a row that is shorter than what was written: it is never an answer, which would be that of this replica alone.

    Raises:
        StateDamaged: always.
    """
    raise StateDamaged(f"a row of the state has {len(row)} bytes, too few for what it is; restart the node, and the state is fetched anew")


def expiry_key(due_ms: int, key: bytes) -> bytes:
    """The row that says that the value of `key` may be due at `due_ms`."""
    return b"x" + _u64.pack(due_ms) + key


def decode_expiry_key(row: bytes) -> tuple[int, bytes]:
    """(due_ms, key) of an expiry row."""
    due_ms: int = _u64.unpack_from(row, 1)[0]
    return due_ms, row[9:]


def deletion_key(key: bytes) -> bytes:
    """The row that says when a key in the bucket of `key` was deleted last."""
    return b"d" + xxh3_64_digest(key)[:2]


def session_key(session: bytes, table: SessionRows = NODE_SESSIONS) -> bytes:
    """The row of a session."""
    return table.sessions + session


def replies_key(session: bytes, first: int, table: SessionRows = NODE_SESSIONS) -> bytes:
    """The row of the replies to the commands of `session` from number `first`."""
    return table.replies + session + _u64.pack(first)
