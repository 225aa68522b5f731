"""Patterns of SCAN against keys. An input is a pattern, a zero byte, and a key."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from raftkv.kv import glob
from raftkv.kv.glob import Pattern
from raftkv.kv.scan import MAX_PATTERN_BYTES
from tests.fuzz.checks import expect, steps_of
from tests.fuzz.target import Target

_Matcher = Callable[[int], bool]


def run(data: bytes) -> None:
    """A pattern matches what a matcher says that tries every possibility one by one, and compiling it takes steps in proportion."""
    pattern, _, key = data.partition(b"\0")
    pattern = pattern[:MAX_PATTERN_BYTES]
    if crc32(data) % 8 == 0:
        compiled, steps = steps_of(lambda: Pattern(pattern))
        expect(steps <= 2000 + 120 * len(pattern), f"{steps} calls to compile {len(pattern)} bytes")
    else:
        compiled = Pattern(pattern)
    source_bytes = sum(len(source) for source, _ in glob._pieces(pattern))
    expect(source_bytes <= 64 + 16 * len(pattern), f"{len(pattern)} bytes became {source_bytes} of a regular expression")
    if len(pattern) * len(key) <= 40_000:
        expect(compiled.matches(key) == matches(pattern, key), f"{pattern!r} and {key!r}")
    else:
        compiled.matches(key[:4096])
    expect(compiled.everything == (pattern == b"*"), "it takes itself for everything")
    expect(compiled.cost(key) >= len(pattern) * len(key), "a match that costs less than it can take")


def tokens(pattern: bytes) -> list[_Matcher | None]:
    """What each byte of a key may be, one after the other; None for a star."""
    found: list[_Matcher | None] = []
    at = 0
    while at < len(pattern):
        byte = pattern[at]
        at += 1
        if byte == 0x2A:
            found.append(None)
        elif byte == 0x3F:
            found.append(lambda _: True)
        elif byte == 0x5B:
            matcher, at = _set(pattern, at)
            found.append(matcher)
        else:
            if byte == 0x5C and at < len(pattern):
                byte = pattern[at]
                at += 1
            found.append(byte.__eq__)
    return found


def _set(pattern: bytes, at: int) -> tuple[_Matcher, int]:
    negated = pattern[at : at + 1] == b"^"
    at += negated
    ranges: list[tuple[int, int]] = []
    while at < len(pattern) and pattern[at] != 0x5D:
        if pattern[at] == 0x5C and at + 1 < len(pattern):
            ranges.append((pattern[at + 1], pattern[at + 1]))
            at += 2
        elif at + 2 < len(pattern) and pattern[at + 1] == 0x2D:
            ranges.append((pattern[at], pattern[at + 2]))
            at += 3
        else:
            ranges.append((pattern[at], pattern[at]))
            at += 1
    return (lambda byte: negated != any(min(pair) <= byte <= max(pair) for pair in ranges)), at + 1


def matches(pattern: bytes, key: bytes) -> bool:
    """The same by the book: which prefixes of the pattern match which prefixes of the key."""
    reached = [True] + [False] * len(key)
    for token in tokens(pattern):
        if token is None:
            first = reached.index(True) if True in reached else len(reached)
            reached = [at >= first for at in range(len(reached))]
        else:
            reached = [False] + [before and token(byte) is True for before, byte in zip(reached, key, strict=False)]
    return reached[-1]


def seeds() -> list[bytes]:
    """Patterns of every kind with a key."""
    pairs = [
        (b"*", b"key"), (b"a*b?c", b"axxbyc"), (b"[a-z][^0-9]\\*", b"qw*"), (b"[z-a]*[]", b"m"), (b"[^]", b"x"),
        (b"user:*:[0-9]", b"user:17:4"),
        (b"[\\]a]b", b"]b"), (b"a[b", b"ab"), (b"\\", b"\\"), (b"*a*a*a*a*b", b"a" * 60),
        (b"[^a]" * 40, b"b" * 40), (b"", b""), (b"[a-", b"-"),
    ]  # fmt: skip
    return [pattern + b"\0" + key for pattern, key in pairs]


TARGET = Target("patterns", run, seeds)
