"""What a seed stands for: the size and settings of a cluster, its load, and which faults happen how often.

A seed does not do everything at once. Each kind of fault is absent in many seeds and frequent in some (swarm testing: Groce et al.,
2012), because faults hide one another: a cluster that never forms finds no bug in compaction.
"""

from __future__ import annotations

import random

from msgspec import Struct
from msgspec.structs import replace

from raftkv.raft.config import Config
from raftkv.replica import ReplicaSettings
from raftkv.router.ports import RouterSettings
from raftkv.sim.network import NetworkFaults
from raftkv.sim.points import POINTS, Needs, Point
from raftkv.sim.workload import Load
from raftkv.sim.world import Tuning
from raftkv.storage.wal import WalSettings

UNAIMED = 0.12
"""The share of seeds that aim at no failure point."""

MOST_BEHIND_MS = 7_200_000
"""How far behind the others a wall clock may be: twice the age at which sessions are forgotten, which a log that begins as that clock
makes up for in one jump when the others are known."""

AIMED_MS = 160
"""The mean time between two crashes at the point that a seed aims at."""

_TIMES = {
    Needs.NOTHING: 1,
    Needs.ELECTIONS: 1,
    Needs.CREATION: 2,
    Needs.AGAIN: 2,
    Needs.COMPACTION: 2,
    Needs.ROTATION: 6,
    Needs.SNAPSHOT: 7,
    Needs.LAGGING: 14,
    Needs.ROT_STATE: 4,
    Needs.ROT_STAGED: 9,
}
"""How often seeds aim at a point: the more often, the less easily such points are reached."""

_AIMS = [point for turn in range(max(_TIMES.values())) for point in POINTS.values() if turn < _TIMES[point.needs]]


class Rates(Struct, frozen=True, kw_only=True):
    """The mean time between two faults of a kind, in milliseconds of simulated time; 0 for never. The kinds are those of
    `sim.faults.KINDS`, where they are described."""

    kill: int = 0
    power: int = 0
    blackout: int = 0
    crash_in_operation: int = 0
    crash_at_point: int = 0
    pause: int = 0
    transfer: int = 0
    compact: int = 0
    clock_jump: int = 0
    clock_rate: int = 0
    partition: int = 0
    one_way: int = 0
    partial: int = 0
    reset: int = 0
    slow_disk: int = 0
    hung_disk: int = 0
    disk_error: int = 0
    read_error: int = 0
    full_disk: int = 0
    lose_state: int = 0
    wipe: int = 0
    rot_log: int = 0
    rot_hard_state: int = 0
    rot_identity: int = 0
    rot_manifest: int = 0
    rot_state: int = 0
    rot_snapshot: int = 0


class Swarm(Struct, frozen=True, kw_only=True):
    """Everything that is drawn before the first event. `clock_rates` and `wall_offsets_ms` are those of the nodes, at first; `target` is
    the point at which `crash_at_point` crashes nodes."""

    nodes: int
    storm_ms: int
    formed: bool
    """The faults begin when the cluster has formed, rather than at once."""
    tuning: Tuning
    load: Load
    network: NetworkFaults
    rates: Rates
    clock_rates: tuple[float, ...]
    wall_offsets_ms: tuple[int, ...]
    target: str = ""


def draw_swarm(seed: int, rng: random.Random) -> Swarm:
    """The swarm of a seed. At which point it aims follows from the seed alone, so that many seeds in a row aim at all points."""
    count = rng.choice((1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5, 6, 7))
    drawn = Swarm(
        nodes=count,
        storm_ms=rng.randint(3_500, 9_000),
        formed=rng.random() < 0.8,
        tuning=_draw_tuning(rng),
        load=_draw_load(rng),
        network=_draw_network(rng),
        rates=_draw_rates(rng),
        clock_rates=tuple(1.0 + rng.choice((0.0, 0.0, rng.uniform(-0.05, 0.05))) for _ in range(count)),
        wall_offsets_ms=_draw_offsets(rng, count),
    )
    drawn = drawn if rng.random() < UNAIMED else aim(drawn, _AIMS[seed % len(_AIMS)], rng)
    # Drawn apart, so that seeds without them are what they were before there were any.
    transfers = random.Random(f"transfers of {seed}").choice((0.0, 0.0, 0.2, 0.6))
    lists = random.Random(f"lists of {seed}").choice((0.0, 0.0, 0.2, 0.5))
    sorted_sets = random.Random(f"sorted sets of {seed}").choice((0.0, 0.0, 0.2, 0.5))
    elements = random.Random(f"elements of {seed}").choice((0.0, 0.0, 0.3, 1.0))
    return replace(drawn, load=replace(drawn.load, transfers=transfers, lists=lists, sorted_sets=sorted_sets, elements=elements))


def aim(swarm: Swarm, point: Point, rng: random.Random) -> Swarm:
    """The same swarm, with nodes that crash at `point` again and again, and with all that it takes to get there. Much else happens
    seldom then, or the cluster would not come that far."""
    needs, tuning, nodes = point.needs, swarm.tuning, swarm.nodes
    kept = {kind: mean if rng.random() < 0.5 else 0 for kind, mean in _means(swarm.rates).items()}
    rates = replace(Rates(**kept), crash_at_point=AIMED_MS)
    if needs in (Needs.CREATION, Needs.AGAIN):
        nodes = max(nodes, 3)
        rates = replace(rates, wipe=500, crash_in_operation=0)
    elif needs is Needs.ELECTIONS:
        rates = replace(rates, kill=rates.kill or 1_200)
    elif needs is not Needs.NOTHING:
        settings = replace(tuning.replica, compact_entries=20, compact_bytes=4_096)
        tuning = replace(tuning, replica=settings, wal=replace(tuning.wal, segment_bytes=8_192))
        rates = replace(rates, compact=400)
    if needs in (Needs.SNAPSHOT, Needs.LAGGING, Needs.ROT_STAGED, Needs.ROT_STATE):
        nodes = max(nodes, 3)
        tuning = replace(
            tuning,
            config=replace(tuning.config, election_ticks=8, heartbeat_ticks=2, lease_ticks=7),
            replica=replace(tuning.replica, tick_ms=10, heartbeat_ticks=2),
        )
        rates = replace(rates, lose_state=300, wipe=0, rot_manifest=0)
    if needs is Needs.LAGGING:
        rates = replace(rates, lose_state=0, compact=120, partition=400, pause=400)
    if needs is Needs.ROT_STATE:
        rates = replace(rates, rot_state=250, lose_state=0)
    if needs is Needs.ROT_STAGED:
        rates = replace(rates, rot_snapshot=150)
    more = nodes - swarm.nodes
    return replace(
        swarm,
        nodes=nodes,
        formed=swarm.formed and needs not in (Needs.CREATION, Needs.AGAIN),
        rates=rates,
        tuning=tuning,
        target=point.name,
        clock_rates=swarm.clock_rates + (1.0,) * more,
        wall_offsets_ms=swarm.wall_offsets_ms + (0,) * more,
    )


def _means(rates: Rates) -> dict[str, int]:
    return {kind: getattr(rates, kind) for kind in rates.__struct_fields__}


def _draw_load(rng: random.Random) -> Load:
    return Load(
        clients=rng.randint(2, 8),
        keys=rng.choice((1, 1, 2, 4, 6)),
        counters=rng.randint(1, 3),
        pipeline=rng.choice((1, 3, 8, 24)),
        think_us=(2_000, rng.choice((60_000, 150_000, 400_000))),
        bursts=rng.choice((0, 0, 0, 8)),
        value_bytes=rng.choice(((0, 30), (0, 200), (100, 1_500), (0, 20_000))),
        hot=rng.choice((0.0, 0.0, 0.9)),
        readonly=rng.choice((0.0, 0.2)),
        leave=rng.choice((0.0, 0.05)),
        retry=rng.choice((0.0, 0.5)),
    )


def _draw_tuning(rng: random.Random) -> Tuning:
    election = rng.choice((8, 15, 30))
    tick_ms = rng.choice((10, 20))
    timeout = rng.choice((500, 2_000, 5_000))
    return Tuning(
        config=Config(
            election_ticks=election,
            heartbeat_ticks=rng.randint(2, election // 3),
            lease_ticks=election - 1,
            max_append_bytes=rng.choice((256, 4_096, 1 << 20)),
            max_inflight_messages=rng.choice((1, 4, 128)),
            max_inflight_bytes=rng.choice((1_024, 1 << 24)),
            max_uncommitted_bytes=rng.choice((4_096, 1 << 26)),
            max_page_bytes=rng.choice((256, 4_096, 1 << 20)),
            window_bytes=rng.choice((2_048, 1 << 24)),
            window_entries=rng.choice((8, 64, 8_192)),
        ),
        replica=ReplicaSettings(
            heartbeat_ticks=rng.randint(2, election // 3),
            tick_ms=tick_ms,
            compact_bytes=rng.choice((4_096, 32_768, 1 << 27)),
            compact_entries=rng.choice((20, 100, 200_000)),
            snapshot_bytes_per_second=rng.choice((200_000, 1 << 27)),
            reserve_bytes=rng.choice((0, 50_000)),
        ),
        router=RouterSettings(
            timeout_ms=timeout,
            max_commands=rng.choice((10, 200_000)),
            group_commands=rng.choice((2, 1_024)),
            window_groups=rng.choice((2, 512)),
            group_bytes=rng.choice((512, 256 << 10)),
            batch_commands=rng.choice((4, 4_096)),
            batch_bytes=rng.choice((1_024, 1 << 20)),
            batches_per_append=rng.choice((1, 4)),
            groups_ahead=rng.choice((1, 8)),
            max_forwarded_bytes=rng.choice((4_096, 64 << 20)),
            stall_ms=rng.choice((300, 2_000)),
            session_renewal_ms=rng.choice((timeout + 500, 600_000)),
        ),
        wal=WalSettings(
            segment_bytes=rng.choice((8_192, 16_384, 65_536)),
            tail_entries=rng.choice((1, 16, 8_192)),
        ),
        fsync_us=rng.choice(((50, 500), (200, 3_000), (1_000, 15_000))),
        stalls=rng.choice((0.0, 0.0, 0.002)),
        work_us=rng.choice(((10, 1_000), (10, 30_000))),
        turn_us=rng.choice(((0, 0), (0, 200), (0, 3_000))),
        refusals=rng.choice((0.0, 0.0, 0.02)),
    )


def _draw_network(rng: random.Random) -> NetworkFaults:
    return NetworkFaults(
        loss=rng.choice((0.0, 0.0, 0.01, 0.1)),
        duplication=rng.choice((0.0, 0.0, 0.02, 0.2)),
        reordering=rng.choice((0.0, 0.0, 0.02, 0.2)),
        refusal=rng.choice((0.0, 0.0, 0.01)),
        delay_us=rng.choice(((50, 500), (100, 3_000), (500, 20_000))),
        slow_delay_us=rng.choice(((3_000, 30_000), (20_000, 400_000))),
        bytes_per_ms=rng.choice((0, 0, 100_000, 2_000)),
    )


def _draw_rates(rng: random.Random) -> Rates:
    def often(share: float, *means_ms: int) -> int:
        chosen = rng.choice(means_ms)
        return chosen if rng.random() < share else 0

    rates = Rates(
        kill=often(0.5, 700, 2_000),
        power=often(0.6, 600, 1_500),
        blackout=often(0.4, 1_200, 2_500),
        crash_in_operation=often(0.5, 500, 1_500),
        pause=often(0.45, 600, 2_000),
        transfer=often(0.4, 300, 1_200),
        compact=often(0.25, 300, 1_500),
        clock_jump=often(0.25, 400, 1_500),
        clock_rate=often(0.25, 400, 1_500),
        partition=often(0.45, 700, 2_000),
        one_way=often(0.4, 700, 2_000),
        partial=often(0.4, 600, 2_000),
        reset=often(0.4, 200, 1_500),
        slow_disk=often(0.4, 600, 1_500),
        hung_disk=often(0.4, 600, 1_500),
        disk_error=often(0.45, 600, 1_500),
        read_error=often(0.45, 600, 1_500),
        full_disk=often(0.4, 600, 1_500),
        lose_state=often(0.25, 800, 2_500),
        wipe=often(0.45, 500, 1_000),
        rot_log=often(0.45, 500, 1_500),
        rot_hard_state=often(0.4, 500, 1_500),
        rot_identity=often(0.4, 500, 1_500),
        rot_manifest=often(0.65, 300, 800),
        rot_state=often(0.6, 200, 500),
        rot_snapshot=often(0.5, 120, 400),
    )
    if rates.rot_snapshot:  # which takes snapshots
        rates = replace(rates, lose_state=rates.lose_state or 800, compact=rates.compact or 500)
    return rates


def _draw_offsets(rng: random.Random, count: int) -> tuple[int, ...]:
    """Wall clocks: most of them near, sometimes one (of three or more) a year ahead, or two hours behind."""
    offsets = [rng.randint(-200, 200) for _ in range(count)]
    if count > 2 and rng.random() < 0.3:
        offsets[rng.randrange(count)] += rng.choice((-MOST_BEHIND_MS, 365 * 86_400_000))
    return tuple(offsets)
