"""One call of a scan over rows in the order of hashes: SCAN over keys, HSCAN, SSCAN and ZSCAN over elements.

A cursor is the upper 52 bits of the hash of the next name, so that it needs nothing kept on the node, means the same on every node, and
fits where a program keeps numbers as floats. Names with the same 52 bits are always returned by the same call. A name that is there
throughout is returned, and returned once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from raftkv.kv.arguments import SYNTAX_ERROR, integer
from raftkv.kv.collection import Collection
from raftkv.kv.glob import Pattern
from raftkv.kv.keyspace import Keyspace
from raftkv.kv.replies import fail
from raftkv.kv.rows import HASH_BYTES

DEFAULT_COUNT: Final = 10
MAX_COUNT: Final = 1000
"""COUNT is a hint; more rows than this are not visited by one call."""

SMALL: Final = 128
"""A collection of up to so many elements is gone through in one call, as in Redis."""

MAX_STEPS: Final = 4 << 20
"""One call stops when the bytes it has read and the steps of its pattern exceed this together, but visits one row at least."""

MAX_PATTERN_BYTES: Final = 4096

_BUCKET_BITS: Final = 52
_BUCKET_SHIFT: Final = 64 - _BUCKET_BITS

_u64 = struct.Struct(">Q")


class Options(Struct, frozen=True):
    """What a scan was asked for besides its cursor; None for any."""

    count: int = DEFAULT_COUNT
    pattern: bytes | None = None
    of_type: str | None = None


def read_options(options: Sequence[bytes], *, typed: bool = False) -> Options:
    """Read COUNT and MATCH; and TYPE, if the scan is `typed`.

    Raises:
        CommandError: they are something else.
    """
    count = DEFAULT_COUNT
    pattern: bytes | None = None
    kind: str | None = None
    for position in range(0, len(options), 2):
        option = options[position].upper()
        if position + 1 == len(options):
            fail(SYNTAX_ERROR)
        argument = options[position + 1]
        if option == b"COUNT":
            count = integer(argument)
            if count < 1:
                fail(SYNTAX_ERROR)
        elif option == b"MATCH":
            check_pattern(argument)
            pattern = None if argument == b"*" else argument
        elif option == b"TYPE" and typed:
            kind = argument.lower().decode("latin-1")
        else:
            fail(SYNTAX_ERROR)
    return Options(count, pattern, kind)


def check_pattern(data: bytes) -> None:
    """Check that a pattern is not too long.

    Raises:
        CommandError: it is.
    """
    if len(data) > MAX_PATTERN_BYTES:
        fail(f"pattern is longer than {MAX_PATTERN_BYTES} bytes")


def first_hash(cursor: int) -> int | None:
    """The hash from which a scan goes on; None when nothing is left."""
    return None if cursor >> _BUCKET_BITS else cursor << _BUCKET_SHIFT


def page(
    rows: Iterable[tuple[bytes, bytes]], prefix_bytes: int, count: int, match: bytes | None
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Go through `rows`, which are in the order of the hashes behind `prefix_bytes` of their names.

    Returns:
        The next cursor, and what was found: the names behind the hashes, and the values of the rows.
    """
    pattern = None if match is None else Pattern(match)
    found: list[tuple[bytes, bytes]] = []
    steps = 0
    last_bucket = -1
    most = min(count, MAX_COUNT)
    for visited, (row, value) in enumerate(rows):
        bucket: int = _u64.unpack_from(row, prefix_bytes)[0] >> _BUCKET_SHIFT
        if visited and bucket != last_bucket and (visited >= most or steps > MAX_STEPS):
            return b"%d" % bucket, found
        name = row[prefix_bytes + HASH_BYTES :]
        steps += len(value) + (0 if pattern is None else pattern.cost(name))
        last_bucket = bucket
        if pattern is None or pattern.matches(name):
            found.append((name, value))
    return b"0", found


def scan_elements(
    keys: Keyspace, collection: Collection, cursor: int, options: Sequence[bytes]
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """One call of HSCAN, SSCAN or ZSCAN. `options` are read only now: Redis looks at them when there is something to scan.

    Returns:
        The next cursor, and the names and values of elements.

    Raises:
        CommandError: the options are not right.
    """
    read = read_options(options)
    start = first_hash(cursor)
    if start is None:
        return b"0", []
    rows = keys.elements(collection.prefix + _u64.pack(start), collection.end)
    most = SMALL if collection.count <= SMALL else read.count
    return page(rows, len(collection.prefix), most, read.pattern)
