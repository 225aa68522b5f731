"""Commands that count: INCR, INCRBY, DECR, DECRBY, INCRBYFLOAT.

INCRBYFLOAT counts in decimal: `kv.decimals` says how, and where Redis comes to something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.kv.arguments import INT64_MAX, INT64_MIN, NOT_AN_INTEGER, integer, parse_integer
from raftkv.kv.command import Command, Write, machine_spec
from raftkv.kv.decimals import MAX_DECIMAL_BYTES, NOT_A_FLOAT, add_decimals, parse_decimal
from raftkv.kv.keyspace import Changes, string_of
from raftkv.kv.replies import Reply, fail
from raftkv.kv.rows import STRING


class IncrementBy(Write, frozen=True, array_like=True, gc=False, tag=4):
    """INCR, INCRBY, DECR, DECRBY."""

    key: bytes
    amount: int

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        number = 0 if before is None else parse_integer(string_of(before))
        if number is None:
            fail(NOT_AN_INTEGER)
        number += self.amount
        if not INT64_MIN <= number <= INT64_MAX:
            fail("increment or decrement would overflow")
        changes.put(self.key, STRING, b"%d" % number, 0 if before is None else before.expiry_ms, before)
        return number


class IncrementByDecimal(Write, frozen=True, array_like=True, gc=False, tag=29):
    """INCRBYFLOAT. Redis reads `amount` only when it has found a number to add it to, so this does too."""

    key: bytes
    amount: bytes

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        number = parse_decimal(b"0" if before is None else string_of(before))
        amount = parse_decimal(self.amount)
        if number is None or amount is None:
            fail(NOT_A_FLOAT)
        data = add_decimals(number, amount)
        changes.put(self.key, STRING, data, 0 if before is None else before.expiry_ms, before)
        return data


def _parse_decrby(args: Sequence[bytes]) -> Command:
    amount = integer(args[2])
    if amount == INT64_MIN:
        fail("decrement would overflow")
    return IncrementBy(args[1], -amount)


def _parse_incrbyfloat(args: Sequence[bytes]) -> Command:
    return IncrementByDecimal(args[1], args[2] if len(args[2]) <= MAX_DECIMAL_BYTES else b"")


_FLAGS: Final = "write denyoom fast"

SPECS: Final = (
    machine_spec("incr", 2, lambda args: IncrementBy(args[1], 1), "Increment the integer value of a key by one", "string", _FLAGS),
    machine_spec(
        "incrby", 3, lambda args: IncrementBy(args[1], integer(args[2])), "Increment the integer value of a key", "string", _FLAGS
    ),
    machine_spec("decr", 2, lambda args: IncrementBy(args[1], -1), "Decrement the integer value of a key by one", "string", _FLAGS),
    machine_spec("decrby", 3, _parse_decrby, "Decrement the integer value of a key", "string", _FLAGS),
    machine_spec("incrbyfloat", 3, _parse_incrbyfloat, "Increment the decimal value of a key", "string", _FLAGS),
)

COMMANDS: Final = (IncrementBy, IncrementByDecimal)
