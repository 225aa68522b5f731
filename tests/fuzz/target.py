"""What a target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


def as_it_is(data: bytes, rng: Random) -> bytes:
    """The `repair` of a format without checksums."""
    return data


@dataclass(frozen=True)
class Target:
    """Something that reads bytes from outside.

    `run` takes any bytes and raises only if a property is broken. `seeds` makes valid inputs. `repair` makes a changed input pass the
    checks that only tell damage, checksums above all, so that what is behind them is reached.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    repair: Callable[[bytes, Random], bytes] = as_it_is
    max_bytes: int = 4096
