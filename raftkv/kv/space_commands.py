"""Commands on the whole key space: DBSIZE, SCAN, FLUSHALL.

A cursor of SCAN is the upper 52 bits of the hash of the next key, so that it needs nothing kept on the node, means the same on
every node, and fits where a program keeps numbers as floats. Keys with the same 52 bits are always returned by the same call. A key
that is there throughout is returned, and returned once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from raftkv.kv.arguments import SYNTAX_ERROR, cursor, integer
from raftkv.kv.command import Command, Kind, Read, Spec, Write
from raftkv.kv.glob import Pattern
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import OK, Reply, fail
from raftkv.kv.rows import TYPE_NAMES, decode_header, hash_of_value, key_of_value

DEFAULT_COUNT: Final = 10
MAX_COUNT: Final = 1000
"""COUNT is a hint; more rows than this are not visited by one call."""

MAX_STEPS: Final = 4 << 20
"""One call stops when the bytes it has read and the steps of its pattern exceed this together, but visits one key at least."""

MAX_PATTERN_BYTES: Final = 4096

_BUCKET_BITS: Final = 52
_BUCKET_SHIFT: Final = 64 - _BUCKET_BITS


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
        if self.cursor >> _BUCKET_BITS:
            return [b"0", []]
        pattern = None if self.pattern is None else Pattern(self.pattern)
        found: list[Reply] = []
        visited = steps = 0
        last_bucket = -1
        for name, row in keys.scan(self.cursor << _BUCKET_SHIFT):
            bucket = hash_of_value(name) >> _BUCKET_SHIFT
            if visited and bucket != last_bucket and (visited >= min(self.count, MAX_COUNT) or steps > MAX_STEPS):
                return [b"%d" % bucket, found]
            key = key_of_value(name)
            visited += 1
            steps += len(row) + (0 if pattern is None else pattern.cost(key))
            last_bucket = bucket
            kind, expiry_ms = decode_header(row)
            if 0 < expiry_ms < keys.clock_ms or (self.of_type is not None and TYPE_NAMES.get(kind) != self.of_type):
                continue
            if pattern is None or pattern.matches(key):
                found.append(key)
        return [b"0", found]


class Clear(Write, frozen=True, array_like=True, gc=False, tag=11):
    """FLUSHALL."""

    def apply(self, changes: Changes) -> Reply:
        changes.clear()
        return OK


def _parse_scan(args: Sequence[bytes]) -> Command:
    place = cursor(args[1])
    count = DEFAULT_COUNT
    pattern: bytes | None = None
    kind: str | None = None
    for position in range(2, len(args), 2):
        option = args[position].upper()
        if position + 1 == len(args):
            fail(SYNTAX_ERROR)
        argument = args[position + 1]
        if option == b"COUNT":
            count = integer(argument)
            if count < 1:
                fail(SYNTAX_ERROR)
        elif option == b"MATCH":
            if len(argument) > MAX_PATTERN_BYTES:
                fail(f"pattern is longer than {MAX_PATTERN_BYTES} bytes")
            pattern = None if argument == b"*" else argument
        elif option == b"TYPE":
            kind = argument.lower().decode("latin-1")
        else:
            fail(SYNTAX_ERROR)
    return Scan(place, count, pattern, kind)


def _parse_flushall(args: Sequence[bytes]) -> Command:
    if len(args) > 2 or (len(args) == 2 and args[1].upper() not in (b"SYNC", b"ASYNC")):
        fail(SYNTAX_ERROR)
    return Clear()


SPECS: Final = (
    Spec(
        name="dbsize",
        arity=1,
        kind=Kind.READ,
        parse=lambda _: CountKeys(),
        summary="Return the number of keys",
        group="server",
        flags=("readonly",),
        tips=("request_policy:all_shards", "response_policy:agg_sum"),
    ),
    Spec(
        name="scan",
        arity=-2,
        kind=Kind.READ,
        parse=_parse_scan,
        summary="Incrementally iterate the keys space",
        group="generic",
        flags=("readonly",),
        tips=("nondeterministic_output", "request_policy:special"),
    ),
    Spec(
        name="flushall",
        arity=-1,
        kind=Kind.WRITE,
        parse=_parse_flushall,
        summary="Remove all keys",
        group="server",
        flags=("write",),
        tips=("request_policy:all_shards", "response_policy:all_succeeded"),
    ),
)

COMMANDS: Final = (CountKeys, Scan, Clear)
