"""Sums of decimal numbers, for INCRBYFLOAT and HINCRBYFLOAT: every replica comes to the same digits.

Numbers are taken as what they spell, their sum is exact, and is rounded to 17 digits behind the point, a half to the even digit. It is
shown without an exponent and without zeros at its end. Redis does the same in the 80-bit floating point of its processor, which agrees
for numbers of up to 17 digits or so, and shows the error of its binary rounding beyond that. Numbers are as large as Redis's: larger
ones are no numbers, and neither are smaller ones than it can tell from 0. A number in hexadecimal, which Redis takes, is none here.
"""

from __future__ import annotations

import re
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal
from typing import Final

from raftkv.kv.replies import fail

MAX_DECIMAL_BYTES: Final = 5 * 1024 - 1
"""Redis reads no longer number."""

NOT_A_FLOAT: Final = "value is not a valid float"

EXACT: Final = Context(prec=20_000, rounding=ROUND_HALF_EVEN, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
"""Enough digits for the sum of any two numbers that are taken. Nothing here may use the context of the thread (as `abs` and `+` do), which
is anybody's to change."""

_PLACES: Final = EXACT.create_decimal("1e-17")
LARGEST: Final = EXACT.create_decimal((2**64 - 1) << (16383 - 63))
_SMALLEST: Final = EXACT.divide(EXACT.create_decimal(1), EXACT.create_decimal(2**16446))
"""Half of the smallest number of Redis's: what is not larger is nothing to it."""

_DECIMAL: Final = re.compile(rb"[+-]?(?=[0-9]|\.[0-9])[0-9]*\.?[0-9]*(?:e[+-]?([0-9]+))?", re.IGNORECASE)
_INFINITY: Final = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)
_EXPONENT_DIGITS: Final = 6


def parse_decimal(data: bytes) -> Decimal | None:
    """The number that `data` spells, which may be infinite, or None."""
    if len(data) > MAX_DECIMAL_BYTES:
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


def add_decimals(number: Decimal, amount: Decimal) -> bytes:
    """The sum of two numbers, as a client is shown it.

    Raises:
        CommandError: it is infinite.
    """
    total = EXACT.add(number, amount)
    if not total.is_finite() or total.copy_abs() > LARGEST:
        fail("increment would produce NaN or Infinity")
    return spell(total)


def spell(number: Decimal) -> bytes:
    """`number` as a client is shown it."""
    text = f"{EXACT.quantize(number, _PLACES):f}".rstrip("0").rstrip(".")
    return b"0" if text == "-0" else text.encode("ascii")
