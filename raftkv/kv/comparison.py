"""What a value is compared with before it is changed: IFEQ, IFNE, IFDEQ, IFDNE.

A digest is the XXH3 of a value, 64 bits in hexadecimal, as Redis 8.4 has it.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64_hexdigest

from raftkv.kv.replies import fail

IF_EQUAL: Final = 1
IF_NOT_EQUAL: Final = 2
IF_DIGEST_EQUAL: Final = 3
IF_DIGEST_NOT_EQUAL: Final = 4

COMPARISONS: Final = {b"IFEQ": IF_EQUAL, b"IFNE": IF_NOT_EQUAL, b"IFDEQ": IF_DIGEST_EQUAL, b"IFDNE": IF_DIGEST_NOT_EQUAL}
"""Option to comparison."""

_DIGEST_BYTES: Final = 16
_HEXADECIMAL: Final = frozenset(b"0123456789abcdef")


def digest_of(data: bytes) -> bytes:
    """The digest of a value."""
    return xxh3_64_hexdigest(data).encode()


def operand(comparison: int, data: bytes) -> bytes:
    """`data` as `holds` compares with it.

    Raises:
        CommandError: it is to be a digest, and is none.
    """
    if comparison in (IF_EQUAL, IF_NOT_EQUAL):
        return data
    digest = data.lower()
    if len(digest) != _DIGEST_BYTES or not _HEXADECIMAL.issuperset(digest):
        fail(f"digest must be exactly {_DIGEST_BYTES} hexadecimal characters")
    return digest


def holds(comparison: int, compared: bytes, data: bytes | None) -> bool:
    """Whether `data`, the value of a key, compares so. No value is equal to nothing."""
    negated = comparison in (IF_NOT_EQUAL, IF_DIGEST_NOT_EQUAL)
    if data is None:
        return negated
    digests = comparison in (IF_DIGEST_EQUAL, IF_DIGEST_NOT_EQUAL)
    return ((digest_of(data) if digests else data) == compared) != negated
