"""Scores of sorted sets: 64-bit floating point numbers as Redis reads, shows and orders them.

Two ways to read one, as there are in Redis: a score, an increment or a weight is nothing but a number, one that a double can hold. The
bound of a range is what C's strtod makes of the text up to a NUL, so that spaces before it, no text at all and numbers that are too large
or too small are accepted. Both take infinities and hexadecimal; a NaN is no score and no bound.

What always holds: the bytes of scores sort as the scores do, and those of 0 and -0 are the same.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from raftkv.kv.replies import fail

NOT_A_FLOAT: Final = "value is not a valid float"
NOT_A_BOUND: Final = "min or max is not a float"
NOT_A_NUMBER: Final = "resulting score is not a number (NaN)"

SCORE_BYTES: Final = 8

_INFINITY: Final = float("inf")
_EXACT: Final = float(2**62)
_SIGN: Final = 1 << 63
_MASK: Final = (1 << 64) - 1

_NUMBER: Final = re.compile(
    rb"[+-]?(?:0x(?=[0-9a-f]|\.[0-9a-f])([0-9a-f]*\.?[0-9a-f]*)(?:p[+-]?[0-9]+)?"
    rb"|(?=[0-9]|\.[0-9])([0-9]*\.?[0-9]*)(?:e[+-]?[0-9]+)?"
    rb"|inf(?:inity)?)",
    re.IGNORECASE,
)
"""A number, and the digits of one that is in hexadecimal or in decimal."""

_SPACES: Final = b" \t\n\v\f\r"

_double = struct.Struct(">d")
_bits = struct.Struct(">Q")


def parse_score(data: bytes) -> float | None:
    """The number that `data` spells, or None. It is none if it is too large for a double, or too small and not 0."""
    found = _NUMBER.fullmatch(data)
    if found is None:
        return None
    number = _number(found)
    digits = found[1] or found[2]
    if digits is not None and (number in (_INFINITY, -_INFINITY) or (not number and digits.strip(b"0."))):
        return None
    return number


def score(data: bytes, otherwise: str = NOT_A_FLOAT) -> float:
    """The number that `data` spells.

    Raises:
        CommandError: it spells none; `otherwise` says so.
    """
    number = parse_score(data)
    return fail(otherwise) if number is None else number


def bound(data: bytes) -> tuple[float, bool]:
    """The bound of a range of scores, and whether it is itself outside.

    Raises:
        CommandError: `data` is no bound.
    """
    text = data.partition(b"\0")[0]
    is_open = text.startswith(b"(")
    if is_open:
        text = text[1:]
    if not text:
        return 0.0, is_open
    found = _NUMBER.fullmatch(text.lstrip(_SPACES))
    return fail(NOT_A_BOUND) if found is None else (_number(found), is_open)


def _number(found: re.Match[bytes]) -> float:
    """The double nearest to what was found; infinite if that is too large."""
    text = found[0].decode("ascii")
    if found[1] is None:
        return float(text)
    try:
        return float.fromhex(text)
    except OverflowError:
        return -_INFINITY if text.startswith("-") else _INFINITY


def ordered(number: float) -> bytes:
    """The 8 bytes of a score that sort as it does."""
    return _bits.pack(_place(number))


def after(number: float) -> bytes:
    """The 8 bytes behind those of a score and before those of any larger one."""
    return _bits.pack(_place(number) + 1)


def _place(number: float) -> int:
    bits: int = _bits.unpack(_double.pack(number + 0.0))[0]  # this makes -0 0
    return bits ^ _MASK if bits & _SIGN else bits | _SIGN


def unordered(data: bytes) -> float:
    """The score whose `ordered` bytes are `data`."""
    bits: int = _bits.unpack(data)[0]
    number: float = _double.unpack(_bits.pack(bits ^ _SIGN if bits & _SIGN else bits ^ _MASK))[0]
    return number


def encode(number: float) -> bytes:
    """The 8 bytes of a score as it is stored with its member. -0 becomes 0."""
    return _double.pack(number + 0.0)


def decode(data: bytes) -> float:
    """The score that `encode` made `data` of."""
    number: float = _double.unpack(data)[0]
    return number


def spell_exactly(number: float) -> bytes:
    """`number` as ZSCAN shows it: as `spell`, but with all digits of a large integer."""
    return b"%d" % number if abs(number) <= _EXACT and number == int(number) else spell(number)


def spell(number: float) -> bytes:
    """`number` as Redis shows it: with 17 digits, and without zeros at its end."""
    return b"%.17g" % number
