"""Commands that count: INCR, INCRBY, DECR, DECRBY, INCRBYFLOAT.

INCRBYFLOAT counts in decimal, so that every replica comes to the same digits: both numbers are taken as what they spell, their sum is
exact, and is rounded to 17 digits behind the point, a half to the even digit. It is shown without an exponent and without zeros at its
end. Redis does the same in the 80-bit floating point of its processor, which agrees for numbers of up to 17 digits or so, and shows the
error of its binary rounding beyond that. Numbers are as large as Redis's: larger ones are no numbers, and neither are smaller ones than
it can tell from 0. A number in hexadecimal, which Redis takes, is none here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal
from typing import Final

from raftkv.kv.arguments import INT64_MAX, INT64_MIN, NOT_AN_INTEGER, integer, parse_integer
from raftkv.kv.command import Command, Write, machine_spec
from raftkv.kv.keyspace import Changes, string_of
from raftkv.kv.replies import Reply, fail
from raftkv.kv.rows import STRING

NOT_A_FLOAT: Final = "value is not a valid float"

EXACT: Final = Context(prec=20_000, rounding=ROUND_HALF_EVEN, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
"""Enough digits for the sum of any two numbers that are taken. Nothing here may use the context of the thread (as `abs` and `+` do), which
is anybody's to change."""

_PLACES: Final = EXACT.create_decimal("1e-17")
LARGEST: Final = EXACT.create_decimal((2**64 - 1) << (16383 - 63))
_SMALLEST: Final = EXACT.divide(EXACT.create_decimal(1), EXACT.create_decimal(2**16446))
"""Half of the smallest number of Redis's: what is not larger is nothing to it."""

_MAX_BYTES: Final = 5 * 1024 - 1
"""Redis reads no longer number."""

_DECIMAL: Final = re.compile(rb"[+-]?(?=[0-9]|\.[0-9])[0-9]*\.?[0-9]*(?:e[+-]?([0-9]+))?", re.IGNORECASE)
_INFINITY: Final = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)
_EXPONENT_DIGITS: Final = 6


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
        total = EXACT.add(number, amount)
        if not total.is_finite() or total.copy_abs() > LARGEST:
            fail("increment would produce NaN or Infinity")
        data = spell(total)
        changes.put(self.key, STRING, data, 0 if before is None else before.expiry_ms, before)
        return data


def parse_decimal(data: bytes) -> Decimal | None:
    """The number that `data` spells, which may be infinite, or None."""
    if len(data) > _MAX_BYTES:
        return None
    if _INFINITY.fullmatch(data) is not None:
        return Decimal("-Infinity" if data.startswith(b"-") else "Infinity")
    found = _DECIMAL.fullmatch(data)
    if found is None:
        return None
    text = data.decode("ascii")
    if found[1] is not None and len(found[1].lstrip(b"0")) > _EXPONENT_DIGITS:
        text = text[: text.lower().index("e")]
        return None if EXACT.create_decimal(text) else Decimal(0)
    number = EXACT.create_decimal(text)
    size = number.copy_abs()
    return number if not size or _SMALLEST < size <= LARGEST else None


def spell(number: Decimal) -> bytes:
    """`number` as INCRBYFLOAT shows it."""
    text = f"{EXACT.quantize(number, _PLACES):f}".rstrip("0").rstrip(".")
    return b"0" if text == "-0" else text.encode("ascii")


def _parse_decrby(args: Sequence[bytes]) -> Command:
    amount = integer(args[2])
    if amount == INT64_MIN:
        fail("decrement would overflow")
    return IncrementBy(args[1], -amount)


def _parse_incrbyfloat(args: Sequence[bytes]) -> Command:
    return IncrementByDecimal(args[1], args[2] if len(args[2]) <= _MAX_BYTES else b"")


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
