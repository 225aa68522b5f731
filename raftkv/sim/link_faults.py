"""Faults of the network that come and go. What may befall any single message is in `sim.network`."""

from __future__ import annotations

import random

from raftkv.raft.types import NodeId
from raftkv.sim.storm import Storm

LASTS_MS = (50, 4_000)


def partition(storm: Storm, rng: random.Random) -> None:
    """Two sides do not hear each other."""
    side = {node.name for node in storm.nodes if rng.random() < 0.5}
    reset = rng.random() < 0.3
    links = [
        (one.name, other.name)
        for one in storm.nodes
        for other in storm.nodes
        if one is not other and (one.name in side) != (other.name in side)
    ]
    if links:
        storm.fired("all", "partition", "of " + " ".join(sorted(side)))
        _cut(storm, rng, links, reset)


def one_way(storm: Storm, rng: random.Random) -> None:
    """One node does not hear another, which hears it."""
    if len(storm.nodes) > 1:
        one, other = rng.sample([node.name for node in storm.nodes], 2)
        storm.fired(one, "one_way", "to", other)
        _cut(storm, rng, [(one, other)], False)


def partial(storm: Storm, rng: random.Random) -> None:
    """Two nodes do not hear each other, and the others hear both."""
    if len(storm.nodes) > 2:
        one = storm.victim(rng).name
        other = rng.choice([node.name for node in storm.nodes if node.name != one])
        storm.fired(one, "partial", "to and from", other)
        storm.probes.loses_one(any(node.serves and node.replica.role == "leader" for node in storm.nodes if node.name in (one, other)))
        _cut(storm, rng, [(one, other), (other, one)], rng.random() < 0.3)


def reset(storm: Storm, rng: random.Random) -> None:
    """A connection breaks."""
    if len(storm.nodes) > 1:
        one, other = rng.sample([node.name for node in storm.nodes], 2)
        storm.fired(one, "reset", "to", other)
        storm.network.break_connection(one, other)


def _cut(storm: Storm, rng: random.Random, links: list[tuple[NodeId, NodeId]], reset: bool) -> None:
    for one, other in links:
        storm.network.cut(one, other, reset=reset)

    def mend() -> None:
        for one, other in links:
            storm.network.mend(one, other)

    storm.undo(rng, LASTS_MS, mend)
