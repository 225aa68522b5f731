"""The storms in which planted faults are looked for, and surroundings that only some of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from raftkv import startup
from raftkv.codec.peer import Fence
from raftkv.codec.record import RECORD_BYTES
from raftkv.kv.batch import Group
from raftkv.kv.machine import Applied
from raftkv.raft.types import Configuration, Member
from raftkv.replica import Replica
from raftkv.sim import cluster
from raftkv.sim.disk import Survival
from raftkv.sim.faults import KINDS, Faults
from raftkv.sim.machine import WatchedMachine
from raftkv.sim.network import NetworkFaults
from raftkv.sim.node import SimNode
from raftkv.sim.plan import Firing
from raftkv.sim.storm import Storm
from raftkv.sim.swarm import Rates
from raftkv.sim.trace import Violation
from raftkv.sim.watch import Watch
from raftkv.storage.segment import segment_path
from tests.sim.storms import COMPACTING, TUNING, storm

CRASHES = storm(Rates(kill=700, power=700))
ELECTIONS = storm(Rates(kill=800, partition=900, pause=700))
BLACKOUTS = storm(Rates(blackout=900), nodes=1)
QUIET = storm(Rates())
ISOLATIONS = storm(Rates(partition=900), storm_ms=2_500)
PAUSES = storm(Rates(pause=200, transfer=100), storm_ms=2_000)
HANDOVERS = storm(Rates(transfer=120, partition=500), storm_ms=2_500)
CRASHES_IN_OPERATIONS = storm(
    Rates(crash_in_operation=80, lose_state=300, kill=900, compact=150), tuning=COMPACTING, storm_ms=5_000
)
LAST_RESORT = storm(Rates(lose_state=300, partition=400, kill=500), tuning=COMPACTING, storm_ms=1_000)
COMPACTION = storm(Rates(kill=700, power=700), tuning=COMPACTING)
SNAPSHOTS = storm(Rates(kill=600, lose_state=500), tuning=COMPACTING)

_ROUGH = NetworkFaults(loss=0.05, duplication=0.2, reordering=0.2, delay_us=(200, 4_000), slow_delay_us=(20_000, 400_000))
ROUGH = storm(Rates(partition=500, transfer=300, one_way=700, kill=700, pause=700), network=_ROUGH, storm_ms=4_000)
ROUGH_OF_FIVE = storm(Rates(partition=500, transfer=300, one_way=700, pause=700, reset=500), nodes=5, network=_ROUGH, storm_ms=4_000)
ROUGH_COMPACTION = storm(Rates(partition=500, kill=700, pause=700), network=_ROUGH, tuning=COMPACTING, storm_ms=4_000)

_SLOW_DISKS = replace(TUNING, fsync_us=(5_000, 80_000))
_SLOW = NetworkFaults(loss=0.05, duplication=0.2, reordering=0.4, delay_us=(200, 4_000), slow_delay_us=(20_000, 600_000))
SPLITS = storm(Rates(kill=400, one_way=500, transfer=300), nodes=5, tuning=_SLOW_DISKS, network=_SLOW, storm_ms=4_000)
"""Elections that need several attempts, with messages that come long after they were sent."""

POWER = storm(Rates(power=400, pause=1_500), storm_ms=4_000)
POWER_AND_KILLS = storm(Rates(power=400, kill=900))
SLOW_DISKS = storm(Rates(slow_disk=300))
REOPENING = storm(Rates(full_disk=250), tuning=COMPACTING, storm_ms=4_000)
FULL = storm(Rates(full_disk=600, lose_state=900, kill=900), tuning=COMPACTING, storm_ms=5_000)
_SLOW_TO_ELECT = replace(TUNING, config=replace(TUNING.config, election_ticks=40, lease_ticks=39, heartbeat_ticks=4))
_LOSSY = NetworkFaults(loss=0.3, delay_us=(200, 4_000))
_RESTLESS = replace(QUIET.load, clients=12, pipeline=1, leave=0.3, think_us=(1_000, 15_000))
"""Clients that do not wait for a write that gets no answer, but go and ask another node."""

LEASES = replace(storm(Rates(partition=1_000), tuning=_SLOW_TO_ELECT, storm_ms=6_000), load=_RESTLESS)
TRANSFERS = storm(Rates(transfer=150, one_way=400), tuning=_SLOW_TO_ELECT, network=_LOSSY, storm_ms=6_000)
HURRIED = storm(Rates(kill=800, partition=900, pause=700), tuning=replace(TUNING, router=replace(TUNING.router, timeout_ms=150)))
_SHORT_SESSIONS = replace(TUNING, router=replace(TUNING.router, timeout_ms=150, session_renewal_ms=650))
ABANDONING = storm(Rates(pause=300, partition=400), tuning=_SHORT_SESSIONS)
"""Clients wait so shortly, and nodes are silent so long, that sessions have to be given up."""

WIPES = storm(Rates(wipe=900, kill=900), tuning=COMPACTING, storm_ms=4_000)

YEAR_MS = 365 * 86_400_000
CLOCKS = replace(ELECTIONS, wall_offsets_ms=(0, YEAR_MS, -30))
"""One wall clock is a year ahead."""

PAST_CLOCKS = replace(ELECTIONS, wall_offsets_ms=(YEAR_MS, 2 * YEAR_MS, 0))
"""Wall clocks that agree in nothing: the log is often ahead of all of them."""

JUMPS = storm(Rates(clock_jump=60, transfer=60, kill=150, pause=200), storm_ms=3_000)
"""The wall clocks of all nodes jump ahead together, and new leaders take the log's clock along."""

FAILING = replace(QUIET, load=replace(QUIET.load, failing=0.1))
LISTS = replace(QUIET, load=replace(QUIET.load, lists=0.5))
SORTED_SETS = replace(QUIET, load=replace(QUIET.load, sorted_sets=0.5))
MANY_WRITERS = replace(QUIET, load=replace(QUIET.load, clients=12, think_us=(200, 3_000)))
LONG = replace(QUIET, storm_ms=6_000)
IDLE = replace(LONG, load=replace(QUIET.load, clients=2, pipeline=1, think_us=(200_000, 900_000)))


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
            clients: Any = node._replies
            client = clients._by_connection.get(connection_id)
            if client is not None:
                clients._disconnect(client)
            raise ConnectionResetError("the client is gone")
        original(node, connection_id, *arguments)

    patch.setattr(SimNode, "_reply", reply)


def false_fences(patch: pytest.MonkeyPatch) -> None:
    """Nodes that have never led tell others to rebuild their state; who listens is noticed. One that has led may still be taken for the
    leader by a node that has not heard of its end, and is rightly listened to."""
    original = SimNode._health

    def health(node: SimNode, *arguments: Any) -> Any:
        if node.name not in node.world.watch.leaders.values():
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
            machine._node.wiped = True  # as little to be relied on: without the third node nobody could tell who is right
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


def rotten_tails(patch: pytest.MonkeyPatch) -> None:
    """When a machine loses power, the last group of its log rots, if nothing says yet that it was durable."""

    def power(storm: Storm, rng: Random) -> None:
        node = storm.victim(rng)
        if not node.serves or not node.world.watch.formed or not storm.may_impair(node):
            return
        sealed, last = node.wal.is_sealed, node.wal.last_index
        place = None if sealed or last <= node.wal.begin.index else node.wal._index.locate(last, last)[0]
        node.kill(power=Survival.TORN)
        if place is not None:
            node.disk.flip(segment_path("wal", place.segment), place.offsets[0] + RECORD_BYTES)
            node.doubtful = True

    patch.setitem(KINDS, "power", power)


def _at_the_beginning(patch: pytest.MonkeyPatch, impair: Callable[[Faults], None], after_ms: int = 500) -> None:
    """Let something be wrong from soon after the beginning of a storm to its end, and nothing else."""

    def act(faults: Faults) -> None:
        if not faults.calm and any(node.serves and node.replica.role == "leader" for node in faults.nodes):
            impair(faults)
        elif not faults.calm:
            faults.schedule.after(50_000, lambda: act(faults))

    def begin(faults: Faults, firings: Sequence[Firing]) -> None:
        faults.schedule.after(after_ms * 1_000, lambda: act(faults))

    patch.setattr(Faults, "begin", begin)


def _leader(faults: Faults) -> SimNode:
    return next(node for node in faults.nodes if node.serves and node.replica.role == "leader")


def _others(faults: Faults) -> list[SimNode]:
    leader = _leader(faults)
    return [node for node in faults.nodes if node is not leader]


def partial_partition(patch: pytest.MonkeyPatch) -> None:
    """The leader and one follower do not hear each other; the third node hears both."""

    def impair(faults: Faults) -> None:
        leader, other = _leader(faults).name, _others(faults)[0].name
        faults.network.cut(leader, other)
        faults.network.cut(other, leader)

    _at_the_beginning(patch, impair)


def deaf_leader(patch: pytest.MonkeyPatch) -> None:
    """The leader is heard and hears nobody."""

    def impair(faults: Faults) -> None:
        leader = _leader(faults)
        for other in _others(faults):
            faults.network.cut(other.name, leader.name)

    _at_the_beginning(patch, impair)


def deaf_follower(patch: pytest.MonkeyPatch) -> None:
    """One follower is heard and does not hear the leader."""
    _at_the_beginning(patch, lambda faults: faults.network.cut(_leader(faults).name, _others(faults)[0].name))


def lonely_follower(patch: pytest.MonkeyPatch) -> None:
    """One follower is cut off for a second, and is back for half of one, again and again."""

    rng = Random(1)

    def mend(faults: Faults, links: list[tuple[str, str]]) -> None:
        for link in links:
            faults.network.mend(*link)

    def cut(faults: Faults, links: list[tuple[str, str]]) -> None:
        for link in links:
            faults.network.cut(*link)
        faults.undo(rng, (1_000, 1_000), lambda: mend(faults, links))
        faults.undo(rng, (1_500, 1_500), lambda: cut(faults, links))

    def impair(faults: Faults) -> None:
        name = _others(faults)[0].name
        others = [node.name for node in faults.nodes if node.name != name]
        cut(faults, [(name, other) for other in others] + [(other, name) for other in others])

    _at_the_beginning(patch, impair)


def hung_disk(patch: pytest.MonkeyPatch) -> None:
    """The disk of the leader does not finish what it was given."""
    original = SimNode._fsync_us
    patch.setattr(SimNode, "_fsync_us", lambda node: 20_000_000 if node.disk_pace else original(node))
    _at_the_beginning(patch, lambda faults: setattr(_leader(faults), "disk_pace", "hung_disk"))


def slow_reopening(patch: pytest.MonkeyPatch) -> None:
    """To open a store again takes seconds, and meanwhile the node is told to rebuild its state."""
    original = Replica._reopen

    def reopen(replica: Any) -> None:
        node = replica._shell
        background = node.background
        node.background = lambda work, done: node.later(2_000_000, lambda: background(work, done))
        try:
            original(replica)
        finally:
            del node.background
        replica._fence("the test says so")

    patch.setattr(Replica, "_reopen", reopen)


def renumbered(group: Group, session: bytes, first: int) -> Group:
    """The commands of a group under other numbers."""
    return Group(group.machine, session, first, 0, group.count, group.commands)
