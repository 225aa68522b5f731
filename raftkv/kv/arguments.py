"""Reading the arguments of a request the way Redis does, with its words for what is wrong with them.

An integer is written in one way only: no leading zero, no plus sign, no space, no minus zero (Redis's string2ll). Everything here
is pure and raises `CommandError`.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from raftkv.kv.replies import fail

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)

NOT_AN_INTEGER: Final = "value is not an integer or out of range"
SYNTAX_ERROR: Final = "syntax error"
NO_DATABASE: Final = "DB index is out of range"

_INTEGER: Final = re.compile(rb"-?[1-9][0-9]{0,18}|0")
_CURSOR: Final = re.compile(rb"[+-]?[0-9]{1,40}")


def parse_integer(data: bytes) -> int | None:
    """The 64-bit integer that `data` spells, or None."""
    if len(data) > 20 or _INTEGER.fullmatch(data) is None:
        return None
    number = int(data)
    return number if INT64_MIN <= number <= INT64_MAX else None


def integer(data: bytes) -> int:
    """The 64-bit integer that `data` spells.

    Raises:
        CommandError: it spells none.
    """
    number = parse_integer(data)
    return fail(NOT_AN_INTEGER) if number is None else number


def cursor(data: bytes) -> int:
    """The place that a scan continues from: what C's strtoul reads, so a sign and leading zeros are accepted.

    Raises:
        CommandError: it is no cursor.
    """
    if not data:
        return 0
    if _CURSOR.fullmatch(data) is None or abs(int(data)) >= 2**64:
        fail("invalid cursor")
    return int(data) % 2**64


def drawn_count(data: bytes) -> int:
    """How many random elements are wanted; below 0 when each may come again.

    Raises:
        CommandError: it is no number, or too small a one.
    """
    number = integer(data)
    if number == INT64_MIN:
        fail(f"value is out of range, value must between {-INT64_MAX} and {INT64_MAX}")
    return number


def printable(data: bytes) -> str:
    """`data` as an error line shows it: up to a NUL, and line breaks as spaces. Bytes that are no text survive in the reply."""
    text = data.partition(b"\0")[0].replace(b"\r", b" ").replace(b"\n", b" ")
    return text.decode("utf-8", "surrogateescape")


def expiry(amount: int, unit_ms: int, command: str) -> int:
    """`amount` units of `unit_ms` in milliseconds. Whether it can be added to the time is known when it is applied.

    Raises:
        CommandError: it does not fit into 64 bits.
    """
    if not -(2**63 // unit_ms) <= amount <= INT64_MAX // unit_ms:
        invalid_expiry(command)
    return amount * unit_ms


def invalid_expiry(command: str) -> NoReturn:
    """Answer that the time is out of range."""
    fail(f"invalid expire time in '{command}' command")


def number_32(data: bytes, not_a_number: str = "") -> int:
    """The 32-bit integer that `data` spells.

    Raises:
        CommandError: it spells none; `not_a_number` says so when it is given.
    """
    number = parse_integer(data)
    if number is None:
        return fail(not_a_number or NOT_AN_INTEGER)
    if not -(2**31) <= number < 2**31:
        fail(not_a_number or f"value is out of range, value must between {-(2**31)} and {2**31 - 1}")
    return number


def database(data: bytes) -> None:
    """Check that `data` is the number of the only database.

    Raises:
        CommandError: it is not.
    """
    if number_32(data):
        fail(NO_DATABASE)
