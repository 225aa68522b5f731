"""Which faults a storm brings, and when: a plan that can be thinned out.

A *firing* is one fault at one time. Its number, with the seed, names a random stream of its own, from which its time and every choice
that it makes are drawn. So leaving firings out changes nothing about the others, and a plan that breaks something can be reduced to
the firings that it takes (`sim.minimise`).
"""

from __future__ import annotations

import random
from collections.abc import Collection

from msgspec import Struct

from raftkv.sim.swarm import Rates


class Firing(Struct, frozen=True):
    """One fault. `at_ms` counts from the beginning of the storm."""

    number: int
    kind: str
    at_ms: int


def stream(seed: int, *names: object) -> random.Random:
    """A random stream that is a function of the seed and of what it is for."""
    return random.Random("/".join(map(str, (seed, *names))))


def choices(seed: int, firing: Firing) -> random.Random:
    """The stream from which a firing draws its choices."""
    return stream(seed, "firing", firing.number, "choices")


def draw_plan(seed: int, rates: Rates, storm_ms: int) -> tuple[Firing, ...]:
    """The firings of a storm that is `storm_ms` long, in the order of their time. Each kind comes as often as a process without memory
    that has the rate of that kind."""
    firings: list[Firing] = []
    for kind in rates.__struct_fields__:
        mean_ms: int = getattr(rates, kind)
        counting = stream(seed, "kind", kind)
        reached = counting.expovariate(1.0) * mean_ms if mean_ms else storm_ms
        while reached < storm_ms:
            number = len(firings) + 1
            firings.append(Firing(number, kind, int(stream(seed, "firing", number).random() * storm_ms)))
            reached += counting.expovariate(1.0) * mean_ms
    return tuple(sorted(firings, key=lambda firing: (firing.at_ms, firing.number)))


class Cut(Struct, frozen=True):
    """A part of a plan: only the firings `keep` (None: all), and nothing after `storm_ms` (None: the whole storm)."""

    keep: tuple[int, ...] | None = None
    storm_ms: int | None = None

    def of(self, firings: Collection[Firing]) -> tuple[Firing, ...]:
        """What is left of `firings`."""
        kept = None if self.keep is None else set(self.keep)
        return tuple(
            firing
            for firing in firings
            if (kept is None or firing.number in kept) and (self.storm_ms is None or firing.at_ms < self.storm_ms)
        )
