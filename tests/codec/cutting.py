"""Ways to cut bytes into pieces, as a network may."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` cut at `places`, each taken modulo its length."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def every_byte(data: bytes) -> list[bytes]:
    """`data` one byte at a time."""
    return [data[at : at + 1] for at in range(len(data))]
