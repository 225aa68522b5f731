"""Short storms for tests: a small cluster with small bounds, and only the faults that a test asks for."""

from __future__ import annotations

from msgspec.structs import replace

from raftkv.raft.config import Config
from raftkv.replica import ReplicaSettings
from raftkv.router.ports import RouterSettings
from raftkv.sim.cluster import Run, run_seed
from raftkv.sim.network import NetworkFaults
from raftkv.sim.node import SimNode
from raftkv.sim.swarm import Rates, Swarm
from raftkv.sim.trace import Violation
from raftkv.sim.workload import Load
from raftkv.sim.world import Tuning
from raftkv.storage.wal import WalSettings

TUNING = Tuning(
    config=Config(election_ticks=8, heartbeat_ticks=2, lease_ticks=7, max_append_bytes=4_096, window_entries=32),
    replica=ReplicaSettings(heartbeat_ticks=4, tick_ms=20, compact_bytes=1 << 27, compact_entries=200_000),
    router=RouterSettings(timeout_ms=2_000, stall_ms=300),
    wal=WalSettings(segment_bytes=8_192),
    fsync_us=(200, 4_000),
    work_us=(10, 5_000),
)
COMPACTING = replace(TUNING, replica=replace(TUNING.replica, compact_entries=20))

SWARM = Swarm(
    nodes=3,
    storm_ms=3_000,
    formed=True,
    tuning=TUNING,
    load=Load(clients=6, keys=2, counters=2, pipeline=4, think_us=(1_000, 25_000), readonly=0.0, leave=0.0),
    network=NetworkFaults(delay_us=(200, 4_000)),
    rates=Rates(),
    clock_rates=(1.0, 1.0, 1.0),
    wall_offsets_ms=(0, 30, -30),
)

LIBRARIES = replace(
    SWARM,
    rates=Rates(kill=700, power=2_500, partition=900, pause=700, reset=600),
    load=replace(SWARM.load, libraries=3),
    clock_rates=(1.0,) * 3,
    wall_offsets_ms=(0,) * 3,
)
"""Programs that use the client library, and nodes that die under them."""


def storm(rates: Rates, *, tuning: Tuning = TUNING, nodes: int = 3, storm_ms: int = 3_000, network: NetworkFaults = SWARM.network) -> Swarm:
    """A swarm with these faults and nothing else out of the ordinary."""
    return replace(
        SWARM,
        rates=rates,
        tuning=tuning,
        nodes=nodes,
        storm_ms=storm_ms,
        network=network,
        clock_rates=(1.0,) * nodes,
        wall_offsets_ms=(0,) * nodes,
    )


def first_violation(swarm: Swarm, seeds: int, node_class: type[SimNode] = SimNode) -> Violation | None:
    """What the first of the seeds 1 … `seeds` that finds something finds."""
    for seed in range(1, seeds + 1):
        try:
            run_seed(seed, Run(swarm=swarm, node_class=node_class))
        except Violation as violation:
            return violation
    return None
