"""Redis's patterns: `*` any bytes, `?` one byte, `[a-z]` and `[^a-z]` one byte of a set, `\\` takes the next byte as it is.

A pattern is cut at its stars into pieces of fixed length, and each piece is looked for from where the one before it ended: the
leftmost place is always good enough, so nothing is ever tried twice. The work is at most (length of the pattern) x (length of the
key), never exponential; `Pattern.cost` bounds it, so that a caller can stop in time.
"""

from __future__ import annotations

import re


class Pattern:
    """A compiled pattern."""

    def __init__(self, pattern: bytes) -> None:
        self._size = len(pattern)
        pieces = _pieces(pattern)
        self._whole = len(pieces) == 1
        self._head = re.compile(pieces[0][0], re.DOTALL)
        self._tail = re.compile(pieces[-1][0], re.DOTALL)
        self._tail_size = pieces[-1][1]
        self._middle = [re.compile(source, re.DOTALL) for source, size in pieces[1:-1] if size]

    @property
    def everything(self) -> bool:
        """Whether it matches every key, as `*` does."""
        return not self._whole and self._size == 1

    def cost(self, key: bytes) -> int:
        """An upper bound of the steps that matching `key` takes."""
        return self._size * (len(key) + 1)

    def matches(self, key: bytes) -> bool:
        """Whether all of `key` is what the pattern says."""
        if self._whole:
            return self._head.fullmatch(key) is not None
        head = self._head.match(key)
        if head is None:
            return False
        place = head.end()
        for piece in self._middle:
            found = piece.search(key, place)
            if found is None:
                return False
            place = found.end()
        start = len(key) - self._tail_size
        return start >= place and self._tail.fullmatch(key, start) is not None


def _pieces(pattern: bytes) -> list[tuple[bytes, int]]:
    """The pieces between the stars: (regular expression, how many bytes it matches)."""
    pieces: list[tuple[bytes, int]] = []
    source, size = b"", 0
    position = 0
    while position < len(pattern):
        byte = pattern[position : position + 1]
        position += 1
        if byte == b"*":
            pieces.append((source, size))
            source, size = b"", 0
            continue
        if byte == b"[":
            one, position = _set(pattern, position)
        elif byte == b"\\" and position < len(pattern):
            one = re.escape(pattern[position : position + 1])
            position += 1
        else:
            one = b"." if byte == b"?" else re.escape(byte)
        source += one
        size += 1
    pieces.append((source, size))
    return pieces


def _set(pattern: bytes, position: int) -> tuple[bytes, int]:
    """The set that begins at `position`, behind its bracket, as a regular expression, and where it ends.

    Redis's rules: a set that is not closed ends with the pattern; a range may be given backwards; a set without members matches
    nothing, and its negation everything.
    """
    negated = pattern[position : position + 1] == b"^"
    if negated:
        position += 1
    members: set[int] = set()
    while position < len(pattern):
        byte = pattern[position]
        if byte == 0x5C and position + 1 < len(pattern):
            members.add(pattern[position + 1])
            position += 2
        elif byte == 0x5D:
            position += 1
            break
        elif position + 2 < len(pattern) and pattern[position + 1] == 0x2D:
            low, high = sorted((byte, pattern[position + 2]))
            members.update(range(low, high + 1))
            position += 3
        else:
            members.add(byte)
            position += 1
    source = _one_of(members)
    if negated:
        return b"[^" + source + b"]" if source else b".", position
    return b"[" + source + b"]" if source else b"[^\\x00-\\xff]", position


def _one_of(members: set[int]) -> bytes:
    """The inside of a set of a regular expression: as few ranges as there can be, since each costs time when it is compiled."""
    source = b""
    ordered = sorted(members)
    while ordered:
        low = ordered[0]
        length = next((count for count, member in enumerate(ordered) if member != low + count), len(ordered))
        source += b"\\x%02x" % low if length == 1 else b"\\x%02x-\\x%02x" % (low, low + length - 1)
        del ordered[:length]
    return source
