"""The storms in which planted faults are looked for, and surroundings that only some of them need."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from raftkv import startup
from raftkv.codec.peer import Fence
from raftkv.kv.batch import Group
from raftkv.kv.machine import Applied
from raftkv.raft.types import Configuration, Member
from raftkv.replica import Replica
from raftkv.sim import cluster
from raftkv.sim.network import NetworkFaults
from raftkv.sim.node import SimNode, WatchedMachine
from raftkv.sim.swarm import Rates
from raftkv.sim.trace import Violation
from raftkv.sim.watch import Watch
from tests.sim.storms import COMPACTING, TUNING, storm

CRASHES = storm(Rates(kill=700, power=700))
ELECTIONS = storm(Rates(kill=800, partition=900, pause=700))
BLACKOUTS = storm(Rates(blackout=900), nodes=1)
QUIET = storm(Rates())
COMPACTION = storm(Rates(kill=700, power=700), tuning=COMPACTING)
SNAPSHOTS = storm(Rates(kill=600, lose_state=500), tuning=COMPACTING)

_ROUGH = NetworkFaults(loss=0.05, duplication=0.2, reordering=0.2, delay_us=(200, 4_000), slow_delay_us=(20_000, 400_000))
ROUGH = storm(Rates(partition=500, transfer=300, one_way=700, pause=700), network=_ROUGH, storm_ms=4_000)
ROUGH_OF_FIVE = storm(Rates(partition=500, transfer=300, one_way=700, pause=700, reset=500), nodes=5, network=_ROUGH, storm_ms=4_000)
ROUGH_COMPACTION = storm(Rates(partition=500, kill=700, pause=700), network=_ROUGH, tuning=COMPACTING, storm_ms=4_000)

TORN = storm(Rates(power=250), storm_ms=4_000)
"""Machines lose power so often that the ends of logs are torn."""

FULL = storm(Rates(full_disk=600, lose_state=900, kill=900), tuning=COMPACTING, storm_ms=5_000)
LOST_CONNECTIONS = storm(Rates(reset=150, pause=500, partition=900), storm_ms=4_000)
TRANSFERS = storm(Rates(transfer=250, partition=700, reset=300), storm_ms=4_000)
HURRIED = storm(Rates(kill=800, partition=900, pause=700), tuning=replace(TUNING, router=replace(TUNING.router, timeout_ms=150)))
WIPES = storm(Rates(wipe=900, kill=900), tuning=COMPACTING, storm_ms=4_000)

YEAR_MS = 365 * 86_400_000
CLOCKS = replace(ELECTIONS, wall_offsets_ms=(0, YEAR_MS, -30))
FAILING = replace(QUIET, load=replace(QUIET.load, failing=0.1))
MANY_WRITERS = replace(QUIET, load=replace(QUIET.load, clients=12, think_us=(200, 3_000)))


def lease_reads(patch: pytest.MonkeyPatch) -> None:
    """The cluster forms with lease reads on."""

    def bootstrap(members: tuple[Member, ...]) -> Configuration:
        made = original(members)
        return replace(made, lease_reads=True)

    original = startup.bootstrap_configuration
    patch.setattr(startup, "bootstrap_configuration", bootstrap)


def broken_clients(patch: pytest.MonkeyPatch) -> None:
    """The connections of clients fail when something is written to them, again and again."""
    original = SimNode._reply
    count = 0

    def reply(node: SimNode, connection_id: int, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count % 50 == 0:
            raise ConnectionResetError("the client is gone")
        original(node, connection_id, *arguments)

    patch.setattr(SimNode, "_reply", reply)


def false_fences(patch: pytest.MonkeyPatch) -> None:
    """Nodes that do not lead tell others to rebuild their state; who listens is noticed."""
    original = SimNode._health

    def health(node: SimNode, *arguments: Any) -> Any:
        if node.replica.role != "leader":
            for member in node.world.members:
                if member.id != node.name:
                    node.send(member.id, Fence(1, "I believe that I lead"))
        return original(node, *arguments)

    patch.setattr(SimNode, "_health", health)
    patch.setattr(cluster, "FORBIDDEN_EVENTS", {*cluster.FORBIDDEN_EVENTS, "fenced"})


def a_stray_replica(patch: pytest.MonkeyPatch) -> None:
    """Once, the digest of n2's state becomes another than the others'. Only n2 may be rebuilt, and it must be."""
    apply, compare, fence = WatchedMachine.apply, Watch._compare_digest, Replica._fence
    strayed: set[int] = set()

    def strays(machine: WatchedMachine, index: int, term: int, payload: bytes) -> Applied:
        applied = apply(machine, index, term, payload)
        world = id(machine._node.world)
        if machine._node.name == "n2" and index >= 20 and world not in strayed:
            strayed.add(world)
            machine._position = replace(machine._position, digest=machine.digest[::-1])
        return applied

    def fences(replica: Replica, reason: str) -> None:
        if replica.node != "n2":
            raise Violation("fencing", f"{replica.node} has the right state, and is to rebuild it: {reason}")
        fence(replica, reason)

    patch.setattr(WatchedMachine, "apply", strays)
    patch.setattr(Replica, "_fence", fences)
    patch.setattr(Watch, "_compare_digest", lambda watch, node: None if node.name == "n2" else compare(watch, node))
    patch.setattr(cluster, "FORBIDDEN_EVENTS", {"command_failed"})


def renumbered(group: Group, session: bytes, first: int) -> Group:
    """The commands of a group under other numbers."""
    return Group(group.machine, session, first, 0, group.count, group.commands)
