"""LCS: the longest common subsequence of two strings, found as every textbook does, in time and memory of the product of their lengths,
which is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from raftkv.kv.arguments import SYNTAX_ERROR, integer
from raftkv.kv.command import Command, Read, machine_spec
from raftkv.kv.keyspace import Keyspace
from raftkv.kv.replies import Reply, fail
from raftkv.kv.rows import STRING

MAX_STEPS: Final = 4 << 20
"""What the product of the lengths may be: about a second, in a thread of its own."""

_BYTES_PER_STEP: Final = 12
"""A step counts as so many bytes of elements that are visited, so that a transaction has time for one LCS of the longest."""

_WORD_BYTES: Final = 21
"""No argument that means something is longer than this."""

Match = tuple[int, int, int]
"""A common piece: where it begins in either string, and how long it is."""


class CommonSubsequence(Read, frozen=True, array_like=True, gc=False, tag=48):
    """LCS. Redis reads `words` only when it has found that both values are strings, so this does too."""

    slow: ClassVar[bool] = True

    key: bytes
    other: bytes
    words: tuple[bytes, ...] = ()

    def read(self, keys: Keyspace) -> Reply:
        strings = []
        for key in (self.key, self.other):
            value = keys.value(key)
            if value is not None and value.type != STRING:
                fail("The specified keys must contain string values")
            strings.append(b"" if value is None else value.data)
        asked, least = _options(self.words)
        if {"idx", "len"} <= asked:
            fail("If you want both the length and indexes, please just use IDX.")
        one, other = strings
        if len(one) * len(other) > MAX_STEPS:
            fail(f"LCS takes too long: the product of the lengths of the two strings may be at most {MAX_STEPS}")
        keys.visit(_BYTES_PER_STEP * len(one) * len(other))
        lengths = _lengths(one, other)
        if "len" in asked:
            return lengths[len(one)][len(other)]
        matches = _matches(one, other, lengths)
        if "idx" not in asked:
            return b"".join(one[start : start + size] for start, _, size in reversed(matches))
        shown: list[Reply] = []
        for start, at, size in matches:
            if size >= least:
                ends: list[Reply] = [[start, start + size - 1], [at, at + size - 1]]
                shown.append([*ends, size] if "withmatchlen" in asked else ends)
        return {b"matches": shown, b"len": lengths[len(one)][len(other)]}


def _options(words: Sequence[bytes]) -> tuple[set[str], int]:
    """The options, and the length of the shortest match to show."""
    asked: set[str] = set()
    least = 0
    position = 0
    while position < len(words):
        option = words[position].upper()
        if option in (b"IDX", b"LEN", b"WITHMATCHLEN"):
            asked.add(option.decode("ascii").lower())
        elif option == b"MINMATCHLEN" and position + 1 < len(words):
            position += 1
            least = integer(words[position])
        else:
            fail(SYNTAX_ERROR)
        position += 1
    return asked, least


def _lengths(one: bytes, other: bytes) -> list[list[int]]:
    """[i][j]: the length for the first i bytes of `one` and the first j of `other`."""
    above = [0] * (len(other) + 1)
    lengths = [above]
    for byte in one:
        row = [0]
        left = 0
        for place, same in enumerate(other):
            left = above[place] + 1 if same == byte else max(above[place + 1], left)
            row.append(left)
        lengths.append(row)
        above = row
    return lengths


def _matches(one: bytes, other: bytes, lengths: list[list[int]]) -> list[Match]:
    """The pieces of the subsequence that Redis finds, from the last to the first."""
    found: list[Match] = []
    i, j = len(one), len(other)
    while i and j:
        size = 0
        while i and j and one[i - 1] == other[j - 1]:
            i, j, size = i - 1, j - 1, size + 1
        if size:
            found.append((i, j, size))
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def _parse_lcs(args: Sequence[bytes]) -> Command:
    return CommonSubsequence(args[1], args[2], tuple(arg[:_WORD_BYTES] for arg in args[3:]))


SPECS: Final = (machine_spec("lcs", -3, _parse_lcs, "Find the longest common subsequence", "string", "readonly", keys=(1, 2, 1)),)

COMMANDS: Final = (CommonSubsequence,)
