"""A simulated cluster and what a seed does with it: a storm in which only safety is demanded, then a calm in which it must recover.

The calm: every link works, every node runs, every disk is prompt. Within a bounded time there must be a leader, every node must have
applied the same log to the same state and must have nothing left to doubt, every request must have its reply, and a write and a read
at each node must succeed. Then the state of every node is compared with what the log says.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from raftkv.kv.string_commands import Get
from raftkv.raft.ready import Role
from raftkv.raft.types import Member
from raftkv.sim.clock import Schedule
from raftkv.sim.faults import Faults
from raftkv.sim.model import Model
from raftkv.sim.network import SimNetwork
from raftkv.sim.node import SimNode, World
from raftkv.sim.swarm import Swarm, draw_swarm
from raftkv.sim.trace import Trace, Violation
from raftkv.sim.watch import Watch
from raftkv.sim.workload import Workload

FORMING_MS = 3_000
CALM_MS = 60_000
"""Simulated time within which a cluster must have recovered."""

FORBIDDEN_EVENTS = {"replicas_differ", "command_failed"}
"""What the product logs when replicas have parted or a command has a bug: nothing that is simulated here excuses it."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What a seed came to."""

    seed: int
    nodes: int
    events: int
    simulated_ms: int
    recovery_ms: int
    """How long the calm lasted until everything was well."""
    entries: int
    commands: int
    repeated: int
    """Commands that were in the log again."""
    acknowledged: int
    refused: int
    unknown: int
    counts: dict[str, int]
    """Named events of the product, faults, and what the network did."""
    state: str
    """The digest of the state at the end, in hexadecimal."""
    trace: str
    """The hash of all events."""


class Cluster:
    """The nodes of one seed, with everything around them."""

    def __init__(
        self, seed: int, swarm: Swarm | None = None, node_class: type[SimNode] = SimNode, storm_ms: int | None = None
    ) -> None:
        rng = random.Random(seed)
        drawn = draw_swarm(rng)
        self.seed = seed
        self.swarm = swarm or (drawn if storm_ms is None else replace(drawn, storm_ms=storm_ms))
        self.schedule = Schedule()
        self.trace = Trace(self.schedule)
        self.watch = Watch(self.trace)
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
        self.nodes = [node_class(name, self.world, self.workload, random.Random(rng.getrandbits(64))) for name in names]
        for node, rate, offset_ms in zip(self.nodes, self.swarm.clock_rates, self.swarm.wall_offsets_ms, strict=True):
            node.rate, node.wall_offset_ms = rate, offset_ms
        self.faults = Faults(self.swarm, self.schedule, self.network, self.nodes, self.trace, random.Random(rng.getrandbits(64)))
        for node in self.nodes:
            node.died = self.faults.died
        self.workload.nodes = self
        self.recovery_ms = 0

    @property
    def running(self) -> list[SimNode]:
        """The nodes that are up."""
        return [node for node in self.nodes if node.alive]

    # The phases.

    def run(self) -> Outcome:
        """Storm, calm, and the last checks.

        Raises:
            Violation: something happened that must not, or did not happen that must.
        """
        for node in self.nodes:
            self.schedule.after(self.world.tuning.turn_us[1], node.start)
        self.workload.begin()
        if self.swarm.formed:
            while self.schedule.now_us < FORMING_MS * 1_000 and not self.watch.formed:
                self.schedule.step()
        self.faults.begin()
        self.schedule.run_until(self.schedule.now_us + self.swarm.storm_ms * 1_000)
        self.faults.end()
        self.trace.note("all", "calm")
        self._recover()
        compare_states(self.nodes, self.watch.model)
        self.workload.check()
        return self._outcome()

    def _recover(self) -> None:
        begin_us = self.schedule.now_us
        asked = False
        while self.schedule.now_us - begin_us < CALM_MS * 1_000:
            self.schedule.run_until(self.schedule.now_us + 50_000)
            if self.schedule.now_us - begin_us > 100_000:
                self.workload.stop()
            if not self._troubles():
                if asked:
                    self.recovery_ms = (self.schedule.now_us - begin_us) // 1_000
                    return
                asked = True
                for number, node in enumerate(self.nodes):
                    self.workload.probe(node, number)
        raise Violation("liveness", f"after {CALM_MS} ms of calm: {'; '.join(self._troubles())}")

    def _troubles(self) -> list[str]:
        """What is not as it must be in the end."""
        troubles = unsettled(self.nodes)
        if self.workload.waiting:
            troubles.append(f"{self.workload.waiting} requests wait")
        return troubles

    def _outcome(self) -> Outcome:
        model, outcomes = self.watch.model, self.workload.outcomes
        counts = dict(sorted((self.trace.counts + self.network.fired).items()))
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
            refused=outcomes["refused"],
            unknown=outcomes["unknown"],
            counts=counts,
            state=self.nodes[0].replica.machine.digest.hex(),
            trace=self.trace.digest(),
        )


def run_seed(
    seed: int, *, swarm: Swarm | None = None, node_class: type[SimNode] = SimNode, storm_ms: int | None = None
) -> Outcome:
    """Simulate `seed`.

    Args:
        seed: decides everything.
        swarm: instead of the one that the seed draws.
        node_class: instead of `SimNode`: for tests that break a node on purpose.
        storm_ms: how long the storm lasts, instead of what the seed draws.

    Raises:
        Violation: a property does not hold. The message ends with the seed and the last events.
    """
    cluster = Cluster(seed, swarm, node_class, storm_ms)
    with recorded(cluster.trace, cluster.world):
        try:
            return cluster.run()
        except Exception as error:
            rule = error.rule if isinstance(error, Violation) else "no failure"
            what = str(error).removeprefix(f"{rule}: ") if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
            raise Violation(rule, f"{what}\nin seed {seed}, after these events:\n{cluster.trace.text()}") from error


def unsettled(nodes: Sequence[SimNode]) -> list[str]:
    """What keeps the nodes from having recovered: one leads, all have applied the whole log, nobody has anything left to doubt or do."""
    troubles = [f"{node.name} is down" for node in nodes if not node.alive]
    if troubles:
        return troubles
    rafts = [node.replica.raft for node in nodes]
    if sum(raft.role is Role.LEADER for raft in rafts) != 1:
        troubles.append(f"roles are {[str(raft.role) for raft in rafts]}")
    troubles += [f"{raft.node} is fenced: {raft.fenced}" for raft in rafts if raft.fenced is not None]
    troubles += [f"{raft.node} is suspect up to {raft.suspect}" for raft in rafts if raft.suspect is not None]
    applied = [node.replica.applied_index for node in nodes]
    last = [raft.last_index for raft in rafts]
    if len({*applied, *last}) != 1:
        troubles.append(f"applied are {applied} of {last}")
    troubles += [f"the router of {node.name} is not idle" for node in nodes if not node.router.idle]
    return troubles


def compare_states(nodes: Sequence[SimNode], model: Model) -> None:
    """Every node's state is what the log says.

    Raises:
        Violation: it is not.
    """
    digests = {node.replica.machine.digest for node in nodes}
    if len(digests) != 1:
        raise Violation("equal states", f"the digests at the end are {sorted(digest.hex() for digest in digests)}")
    for node in nodes:
        machine = node.replica.machine
        if machine.clock_ms != model.clock_ms:
            raise Violation("final state", f"the log's clock is {machine.clock_ms} at {node.name}; the log says {model.clock_ms}")
        for key in sorted(model.versions):
            value = machine.read(Get(key))
            if value != model.value(key):
                raise Violation("final state", f"{key!r} is {value!r} at {node.name}; the log says {model.value(key)!r}")


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
