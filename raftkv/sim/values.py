"""The values of keys, as the model of the committed log has them and as replies tell them. They can be compared, and never change."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from raftkv.kv.replies import Pairs, Reply


class SortedSet(Struct, frozen=True):
    """Members and scores, in order."""

    pairs: tuple[tuple[bytes, float], ...]


Elements = frozenset[Any]
"""A hash, as its fields with their values, or a set, as its members."""

Value = bytes | tuple[bytes, ...] | SortedSet | Elements | None
"""A string, a list, a sorted set, a hash or a set, or nothing."""


def value_told(reply: Reply) -> Value:
    """The value of a key, as a reply tells it; one that no key has if it is none. An empty collection is nothing."""
    if isinstance(reply, list):
        return tuple(each for each in reply if isinstance(each, bytes)) or None
    if isinstance(reply, Pairs):
        told = [(member, score) for member, score in reply.pairs if isinstance(member, bytes) and isinstance(score, float)]
        return SortedSet(tuple(told)) if told else None
    return reply if isinstance(reply, bytes) or reply is None else b""
