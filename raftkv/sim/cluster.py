"""A simulated cluster and what a seed does with it: a storm in which only safety is demanded, then a calm in which it must recover.

The calm has two parts (`sim.faults`, `sim.calm`): a core of healthy nodes must recover by itself, whatever the others do, and then, when
everything is healed, all of them. In the end the state of every node is compared with what the log says.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, MutableMapping
from typing import Any

import structlog
from msgspec import Struct

from raftkv.raft.types import Member
from raftkv.sim.calm import Calm, compare_states
from raftkv.sim.clock import Schedule
from raftkv.sim.faults import MESSAGE_FAULTS, Faults
from raftkv.sim.network import SimNetwork
from raftkv.sim.node import SimNode
from raftkv.sim.plan import Cut, Firing, draw_plan, stream
from raftkv.sim.swarm import Swarm, draw_swarm
from raftkv.sim.trace import Trace, Violation
from raftkv.sim.watch import Watch
from raftkv.sim.workload import Workload
from raftkv.sim.world import World

FORMING_MS = 3_000

FORBIDDEN_EVENTS = {"replicas_differ", "command_failed"}
"""What the product logs when replicas have parted or a command has a bug: nothing that is simulated here excuses it."""


class Outcome(Struct, frozen=True, kw_only=True, tag="outcome"):
    """What a seed came to."""

    seed: int
    nodes: int
    events: int
    simulated_ms: int
    recovery_ms: int
    """How long the calm lasted until everything was well: of a majority, or of all nodes, whichever took longer."""
    entries: int
    commands: int
    repeated: int
    """Commands that were in the log again."""
    acknowledged: int
    acknowledged_writes: int
    refused: int
    unknown: int
    counts: dict[str, int]
    """Named events of the product, and what else the network did."""
    faults: dict[str, int]
    """Faults by kind."""
    points: dict[str, int]
    """How often a node died at each failure point."""
    hazards: dict[int, int]
    """How often the situation of each hazard arose."""
    state: str
    """The digest of the state at the end, in hexadecimal."""
    trace: str
    """The hash of all events."""


class Run(Struct, frozen=True, kw_only=True):
    """How to run a seed: all of it, unless something else is said.

    Args:
        swarm: instead of the one that the seed draws.
        node_class: instead of `SimNode`: for tests that break a node on purpose.
        cut: leaves faults out.
        whole_trace: keep all events in words, not only the last.
    """

    swarm: Swarm | None = None
    node_class: type[SimNode] = SimNode
    cut: Cut = Cut()
    whole_trace: bool = False


class Cluster:
    """The nodes of one seed, with everything around them."""

    def __init__(self, seed: int, run: Run) -> None:
        self.seed = seed
        self.swarm = run.swarm or draw_swarm(seed, stream(seed, "swarm"))
        self.cut = run.cut
        rng = stream(seed, "cluster")
        self.schedule = Schedule()
        self.trace = Trace(self.schedule, None if run.whole_trace else 250)
        self.watch = Watch(self.trace, self.schedule)
        names = tuple(f"n{number}" for number in range(1, self.swarm.nodes + 1))
        self.network = SimNetwork(self.schedule, random.Random(rng.getrandbits(64)), names)
        self.world = World(
            schedule=self.schedule,
            network=self.network,
            trace=self.trace,
            watch=self.watch,
            tuning=self.swarm.tuning,
            members=tuple(Member(name, 0, f"{name}:7000") for name in names),
        )
        self.workload = Workload(self.swarm.load, self.schedule, self.trace, self.watch, random.Random(rng.getrandbits(64)))
        self.nodes = [run.node_class(name, self.world, self.workload, random.Random(rng.getrandbits(64))) for name in names]
        for node, rate, offset_ms in zip(self.nodes, self.swarm.clock_rates, self.swarm.wall_offsets_ms, strict=True):
            node.clock_rate, node.wall_offset_ms = rate, offset_ms
        probes = self.watch.probes
        self.faults = Faults(seed, self.swarm, self.schedule, self.network, self.nodes, self.trace, probes)
        self.workload.nodes = self
        self.recovery_ms = 0
        self.storm_began_ms = 0
        by_name = {node.name: node for node in self.nodes}
        probes.is_alive = lambda name: by_name[name].alive
        probes.is_sending = lambda name: by_name[name].replica._sender.floor is not None
        self.watch.middle_ms = lambda: sorted(node.wall_offset_ms for node in self.nodes)[len(self.nodes) // 2]
        self.network.overtakes = probes.overtakes

    @property
    def running(self) -> list[SimNode]:
        """The nodes that are up, and take part."""
        return [node for node in self.nodes if node.serves]

    @property
    def firings(self) -> tuple[Firing, ...]:
        """The faults of the storm."""
        return self.cut.of(draw_plan(self.seed, self.swarm.rates, self.swarm.storm_ms))

    # The phases.

    def run(self) -> Outcome:
        """Storm, calm, and the last checks.

        Raises:
            Violation: something happened that must not, or did not happen that must.
        """
        for node in self.nodes:
            self.schedule.after(self.world.tuning.turn_us[1], node.start)
        self.workload.begin(tuple(node.name for node in self.nodes))
        if self.swarm.formed:
            while self.schedule.now_us < FORMING_MS * 1_000 and not self.watch.formed:
                self.schedule.step()
        self.storm_began_ms = self.schedule.now_us // 1_000
        self.faults.begin(self.firings)
        storm_ms = self.swarm.storm_ms if self.cut.storm_ms is None else min(self.cut.storm_ms, self.swarm.storm_ms)
        self.schedule.run_until(self.schedule.now_us + storm_ms * 1_000)
        core = self.faults.end(self.watch.formed)
        calm = Calm(self.schedule, self.workload)
        self.trace.note("all", "CALM", "for the core", " ".join(node.name for node in core))
        first_ms = calm.recover(core)
        if len(core) < len(self.nodes):
            self.trace.note("all", "CALM", "for all")
            self.faults.heal()
            first_ms = max(first_ms, calm.recover(self.nodes))
        self.recovery_ms = first_ms
        compare_states(self.nodes, self.watch.model)
        self.workload.check()
        return self._outcome()

    def _outcome(self) -> Outcome:
        model, outcomes, fired = self.watch.model, self.workload.outcomes, self.network.fired
        faults = dict(self.trace.faults) | {kind: fired[kind] for kind in MESSAGE_FAULTS if fired[kind]}
        counts = self.trace.counts + type(fired)({kind: count for kind, count in fired.items() if kind not in MESSAGE_FAULTS})
        return Outcome(
            seed=self.seed,
            nodes=len(self.nodes),
            events=self.schedule.events,
            simulated_ms=self.schedule.now_us // 1_000,
            recovery_ms=self.recovery_ms,
            entries=model.index,
            commands=model.commands,
            repeated=model.repeated,
            acknowledged=outcomes["acknowledged"],
            acknowledged_writes=outcomes["acknowledged writes"],
            refused=outcomes["refused"],
            unknown=outcomes["unknown"],
            counts=dict(sorted(counts.items())),
            faults=dict(sorted(faults.items())),
            points=dict(sorted(self.trace.points.items())),
            hazards=dict(sorted((self.watch.probes.hits + type(self.watch.probes.hits)({23: model.repeated})).items())),
            state=self.nodes[0].replica.machine.digest.hex(),
            trace=self.trace.digest(),
        )


def simulate(cluster: Cluster) -> Outcome | Violation:
    """Run `cluster`, and return what came of it: a `Violation` when a property does not hold, or when something fails that must not."""
    with recorded(cluster.trace, cluster.world):
        try:
            return cluster.run()
        except Violation as violation:
            return violation
        except Exception as error:
            failed = Violation("no failure", f"{type(error).__name__}: {error}")
            failed.__cause__ = error
            return failed


def run_seed(seed: int, run: Run | None = None) -> Outcome:
    """Simulate `seed`.

    Raises:
        Violation: a property does not hold. The message ends with the seed and the last events.
    """
    cluster = Cluster(seed, run or Run())
    result = simulate(cluster)
    if isinstance(result, Violation):
        raise Violation(result.rule, f"{result.what}\nin seed {seed}, after these events:\n{cluster.trace.text()}") from result
    return result


@contextlib.contextmanager
def recorded(trace: Trace, world: World) -> Iterator[None]:
    """Let what the product logs go into the trace instead of anywhere else. Global while it lasts, as structlog's settings are."""

    def record(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event.pop("event"))
        node = event.pop("node", world.running)
        trace.count(node, name, *(f"{key}={value}" for key, value in event.items()))
        if name in FORBIDDEN_EVENTS:
            raise Violation("healthy replicas", f"{node} logs {name}: {event}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[record], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
