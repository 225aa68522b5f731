"""Commands on the whole key space: DBSIZE, SCAN, KEYS, RANDOMKEY, FLUSHALL, FLUSHDB; and SWAPDB, with one database.

`kv.scan` says what a cursor is.

RANDOMKEY takes the first key whose hash is not below a random number, so each key comes about as often as any other, but not exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, NO_DATABASE, SYNTAX_ERROR, cursor, number_32
from raftkv.kv.command import MAX_REPLY_BYTES, NO_KEYS, Command, Read, Write, machine_spec
from raftkv.kv.glob import Pattern
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import OK, Reply, fail
from raftkv.kv.rows import TYPE_NAMES, VALUES, decode_header, key_of_value
from raftkv.kv.scan import DEFAULT_COUNT, MAX_PATTERN_BYTES, check_pattern, first_hash, page, read_options

MAX_KEYS_STEPS: Final = 1 << 30
"""How many steps KEYS may take with its pattern: seconds, in a thread of its own."""


class CountKeys(Read, frozen=True, array_like=True, gc=False, tag=9):
    """DBSIZE."""

    slow: ClassVar[bool] = True

    def read(self, keys: Keyspace) -> Reply:
        return keys.count()


class Scan(Read, frozen=True, array_like=True, gc=False, tag=10):
    """SCAN. None for what is not asked for."""

    cursor: int
    count: int = DEFAULT_COUNT
    pattern: Annotated[bytes, Meta(max_length=MAX_PATTERN_BYTES)] | None = None
    of_type: str | None = None

    def read(self, keys: Keyspace) -> Reply:
        start = first_hash(self.cursor)
        if start is None:
            return [b"0", []]
        place, rows = page(keys.scan(start), len(VALUES), self.count, self.pattern)
        found: list[Reply] = []
        for key, row in rows:
            kind, expiry_ms = decode_header(row)
            if not 0 < expiry_ms < keys.clock_ms and self.of_type in (None, TYPE_NAMES.get(kind)):
                found.append(key)
        return [place, found]


class FindKeys(Read, frozen=True, array_like=True, gc=False, tag=40):
    """KEYS."""

    slow: ClassVar[bool] = True

    pattern: Annotated[bytes, Meta(max_length=MAX_PATTERN_BYTES)]

    def read(self, keys: Keyspace) -> Reply:
        pattern = Pattern(self.pattern)
        found: list[Reply] = []
        size = steps = 0
        for name, row in keys.scan(0):
            key = key_of_value(name)
            if not pattern.everything:
                steps += pattern.cost(key)
                if steps > MAX_KEYS_STEPS:
                    fail("KEYS takes too long with this pattern and so many keys; use SCAN")
                if not pattern.matches(key):
                    continue
            if 0 < decode_header(row)[1] < keys.clock_ms:
                continue
            found.append(key)
            size += len(key) + 8
            if size > MAX_REPLY_BYTES:
                fail(f"KEYS found more than {MAX_REPLY_BYTES} bytes of keys; use SCAN")
        return found


class RandomKey(Read, frozen=True, array_like=True, gc=False, tag=41):
    """RANDOMKEY: the first key from twice `number` on in the order of hashes, around the end. Slow, for it may have to pass over many
    keys that have expired."""

    slow: ClassVar[bool] = True

    number: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0

    def with_random(self, number: int) -> Command:
        return RandomKey(number)

    def read(self, keys: Keyspace) -> Reply:
        for start in (self.number << 1, 0):
            for name, row in keys.scan(start):
                if not 0 < decode_header(row)[1] < keys.clock_ms:
                    return key_of_value(name)
        return None


class Clear(Write, frozen=True, array_like=True, gc=False, tag=11):
    """FLUSHALL, FLUSHDB."""

    def apply(self, changes: Changes) -> Reply:
        changes.clear()
        return OK


class SwapDatabase(Write, frozen=True, array_like=True, gc=False, tag=42):
    """SWAPDB 0 0: nothing changes."""

    def apply(self, changes: Changes) -> Reply:
        return OK


def _parse_scan(args: Sequence[bytes]) -> Command:
    place = cursor(args[1])
    options = read_options(args[2:], typed=True)
    return Scan(place, options.count, options.pattern, options.of_type)


def _parse_flush(args: Sequence[bytes]) -> Command:
    if len(args) > 2 or (len(args) == 2 and args[1].upper() not in (b"SYNC", b"ASYNC")):
        fail(SYNTAX_ERROR)
    return Clear()


def _parse_keys(args: Sequence[bytes]) -> Command:
    check_pattern(args[1])
    return FindKeys(args[1])


def _parse_swapdb(args: Sequence[bytes]) -> Command:
    first, second = number_32(args[1], "invalid first DB index"), number_32(args[2], "invalid second DB index")
    if first or second:
        fail(NO_DATABASE)
    return SwapDatabase()


_ALL_SHARDS: Final = "request_policy:all_shards"
_CLEARED: Final = (_ALL_SHARDS, "response_policy:all_succeeded")

SPECS: Final = (
    machine_spec(
        "dbsize", 1, lambda _: CountKeys(), "Return the number of keys", "server", "readonly", keys=NO_KEYS,
        tips=(_ALL_SHARDS, "response_policy:agg_sum"),
    ),
    machine_spec(
        "scan", -2, _parse_scan, "Incrementally iterate the keys space", "generic", "readonly", keys=NO_KEYS,
        tips=("nondeterministic_output", "request_policy:special"),
    ),
    machine_spec(
        "keys", 2, _parse_keys, "Find all keys that match a pattern", "generic", "readonly", keys=NO_KEYS,
        tips=(_ALL_SHARDS, "nondeterministic_output_order"),
    ),
    machine_spec(
        "randomkey", 1, lambda _: RandomKey(), "Return a random key", "generic", "readonly", keys=NO_KEYS,
        tips=(_ALL_SHARDS, "nondeterministic_output"), random=True,
    ),
    machine_spec("flushall", -1, _parse_flush, "Remove all keys", "server", "write", keys=NO_KEYS, tips=_CLEARED),
    machine_spec("flushdb", -1, _parse_flush, "Remove all keys, as FLUSHALL", "server", "write", keys=NO_KEYS, tips=_CLEARED),
    machine_spec("swapdb", 3, _parse_swapdb, "Swap two databases, of which there is one", "server", "write fast", keys=NO_KEYS),
)  # fmt: skip

COMMANDS: Final = (CountKeys, Scan, FindKeys, RandomKey, Clear, SwapDatabase)
