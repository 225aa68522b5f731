"""A running hash of what the state machine writes, by which replicas that have parted are noticed at once.

The digest after an entry is the xxh3-128 of the digest before it and of everything that the entry writes: the ranges it clears, and
its rows in the order in which they were first changed, with lengths, so that no two different effects read the same. Two replicas
with the same digest at the same index hold the same state; two that differ have parted at that index or before.

Everything here is a pure function of its arguments. What is done about a difference is decided elsewhere.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from xxhash import xxh3_128_digest

from raftkv.kv.store import Ranges, Writes

EMPTY: Final = bytes(16)
"""The digest of a state that nothing was ever applied to."""

Pair = tuple[int, bytes]
"""(applied index, digest)."""

_DELETED: Final = 0xFFFFFFFF


def advance(digest: bytes, about: bytes, cleared: Ranges, writes: Writes) -> bytes:
    """The digest after an entry.

    Args:
        digest: the digest before it.
        about: facts of the entry that are no rows, in a form that says where it ends.
        cleared: the ranges that go away before `writes`.
        writes: the rows that it writes; their order counts.
    """
    values = writes.values()
    count = len(writes)
    numbers = [len(cleared), count, *map(len, writes)]
    if None in values:
        numbers += [_DELETED if value is None else len(value) for value in values]
        body = b"".join([value for value in values if value is not None])
    else:
        present = [value for value in values if value is not None]
        numbers += map(len, present)
        body = b"".join(present)
    ranges = b"".join(struct.pack("<II", len(start), len(end)) + start + end for start, end in cleared)
    lengths = struct.pack(f"<{2 * count + 2}I", *numbers)
    return xxh3_128_digest(b"".join((digest, about, lengths, ranges, b"".join(writes), body)))


class DigestRing:
    """The digests at recent indices.

    Kept are the newest `size` and, so that a node that is far behind still has an index in common, `size` older ones whose index is
    a multiple of `stride`.
    """

    def __init__(self, size: int = 128, stride: int = 128) -> None:
        self._stride = stride
        self._recent: deque[Pair] = deque(maxlen=size)
        self._sparse: deque[Pair] = deque(maxlen=size)

    def add(self, index: int, digest: bytes) -> None:
        """The state at `index` has `digest`. Indices grow."""
        pair = index, digest
        self._recent.append(pair)
        if index % self._stride == 0:
            self._sparse.append(pair)

    def pairs(self) -> list[Pair]:
        """Everything kept, oldest first."""
        oldest = self._recent[0][0] if self._recent else 0
        return [pair for pair in self._sparse if pair[0] < oldest] + list(self._recent)

    def report(self, count: int) -> list[Pair]:
        """At most `count` pairs to tell other nodes, oldest first: half of them the newest, the others spread over the past."""
        recent = list(self._recent)[-max(count - count // 2, 1) :]
        oldest = recent[0][0] if recent else 0
        older = [pair for pair in self._sparse if pair[0] < oldest]
        return (older[-(count - len(recent)) :] if count > len(recent) else []) + recent


class Verdict(Struct, frozen=True):
    """Replicas have parted. `index` is the first index at which they are known to differ. `wrong` are the nodes that differ from a
    majority, sorted; it is empty when no majority agrees, and then nobody can tell who is right."""

    index: int
    wrong: tuple[str, ...]

    @property
    def decided(self) -> bool:
        """Whether a majority agrees."""
        return bool(self.wrong)


def verdict(reports: Mapping[str, Iterable[Pair]], members: Sequence[str]) -> Verdict | None:
    """Compare what nodes report of their digests.

    Args:
        reports: for each node, (index, digest) pairs.
        members: who counts; a majority is more than half of them, whether or not they report. Others are judged, but do not count.

    Returns:
        None when no two reports differ at the same index.
    """
    at: dict[int, dict[str, bytes]] = {}
    for node, pairs in reports.items():
        for index, digest in pairs:
            at.setdefault(index, {})[node] = digest
    parted = [index for index in sorted(at) if len(set(at[index].values())) > 1]
    if not parted:
        return None
    wrong: set[str] = set()
    for index in parted:
        digest, votes = max(Counter(at[index][node] for node in members if node in at[index]).items(), key=_votes, default=(b"", 0))
        if 2 * votes > len(members):
            wrong.update(node for node, other in at[index].items() if other != digest)
    return Verdict(parted[0], tuple(sorted(wrong)))


def _votes(item: tuple[bytes, int]) -> tuple[int, bytes]:
    return item[1], item[0]
