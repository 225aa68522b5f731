"""What all kinds of faults share: whom they may hit, how they are undone, and what a node that died does next.

A storm does only what the design promises to survive. At any time the nodes that have lost something (a wiped directory, a lost state, a
log with an end that cannot be judged) are at most a minority. What they lost was acknowledged by others, too.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from raftkv.sim.clock import Schedule
from raftkv.sim.disk import Survival
from raftkv.sim.network import SimNetwork
from raftkv.sim.node import SimNode
from raftkv.sim.plan import stream
from raftkv.sim.points import POINTS, point_of
from raftkv.sim.probes import Probes
from raftkv.sim.swarm import Swarm
from raftkv.sim.trace import Trace

RESTARTS_MS = ((1, 50), (100, 1_500), (500, 4_000))
"""How long a dead node stays down: one of these ranges."""


class Storm:
    """The surroundings of the faults of one cluster. Each fault brings the random stream `rng` of its firing."""

    def __init__(
        self, seed: int, swarm: Swarm, schedule: Schedule, network: SimNetwork, nodes: list[SimNode], trace: Trace, probes: Probes
    ) -> None:
        self.swarm = swarm
        self.schedule = schedule
        self.network = network
        self.nodes = nodes
        self.trace = trace
        self.probes = probes
        self.calm = False
        self.aims: deque[random.Random] = deque()
        """For each node that is to be crashed at the point that the seed aims at: what decides about its crash."""
        self._seed = seed
        self._cut_off: set[str] = set()
        self._left_out: set[str] = set()
        """Who is of no use to the core, and does not come back before everything is healed."""
        self._before = POINTS[swarm.target].before if swarm.target else ""
        self._primed: dict[str, int] = {}
        """Nodes that have died before the point, and in which life, so that the next one comes to it."""
        for node in nodes:
            node.died = self._died
            node.ask_crash = self._crashes

    def fired(self, who: SimNode | str, kind: str, *facts: object) -> None:
        """A fault of this kind happens now."""
        self.trace.faults[kind] += 1
        self.trace.note(who if isinstance(who, str) else who.name, f"FAULT {kind}", *facts)

    def undo(self, rng: random.Random, delay_ms: tuple[int, int], action: Callable[[], None]) -> None:
        """Let `action` end a fault later, unless the end of the storm has done that."""

        def act() -> None:
            if not self.calm:
                action()

        self.schedule.after(rng.randint(*delay_ms) * 1_000, act)

    def victim(self, rng: random.Random) -> SimNode:
        """A node: often the one that leads."""
        if rng.random() < 0.4:
            leading = [node for node in self.nodes if node.serves and node.replica.role == "leader"]
            if leading:
                return rng.choice(leading)
        return rng.choice(self.nodes)

    def expendable(self, rng: random.Random) -> SimNode | None:
        """A node that runs and may lose something; often one that has lost something already."""
        impaired = [node for node in self.nodes if node.alive and node.impaired]
        node = rng.choice(impaired) if impaired and rng.random() < 0.7 else self.victim(rng)
        return node if node.alive and self.may_impair(node) else None

    def may_impair(self, victim: SimNode) -> bool:
        """Whether a majority is still whole when `victim` has lost something."""
        impaired = {node.name for node in self.nodes if node.impaired}
        return len(impaired | {victim.name}) <= (len(self.nodes) - 1) // 2

    def survival(self, node: SimNode, rng: random.Random) -> Survival:
        """What becomes of what is not durable when the power of `node` fails. A log may end so that nobody can judge it only when the
        cluster has formed: until then it needs every node, and a node that doubts its log does not vote."""
        kinds = [Survival.LOST, Survival.REORDERED]
        if node.world.watch.formed and self.may_impair(node):
            kinds.append(Survival.TORN)
        return rng.choice(kinds)

    def _crashes(self, node: SimNode, kind: str, path: str, offset: int) -> Survival | None:
        """Whether `node` dies in this operation of its disk."""
        if self.calm:
            return None
        rng: random.Random | None = None
        if node.crash_in is not None:
            left, rng = node.crash_in
            node.crash_in = (left - 1, rng) if left > 1 else None
            if left > 1:
                rng = None
            else:
                self.fired(node, "crash_in_operation", kind, path)
        if rng is None and self.aims:
            point = point_of(kind, path, offset)
            if point == self.swarm.target:
                rng = self.aims.popleft()
                self.fired(node, "crash_at_point", kind, path)
            elif point == self._before and self._primed.get(node.name) != node.lives - 1:
                self._primed[node.name] = node.lives
                return Survival.CLEAN
        if rng is None:
            return None
        return Survival.CLEAN if rng.random() < 0.2 else self.survival(node, rng)

    def _died(self, node: SimNode) -> None:
        """A node's life has ended, whatever the reason: there will be another."""
        rng = stream(self._seed, "restart", node.name, node.lives)
        hurry = self.swarm.target and rng.random() < 0.85
        delay_ms = rng.randint(*(RESTARTS_MS[0] if hurry else rng.choice(RESTARTS_MS)))
        self.schedule.after(delay_ms * 1_000, lambda: None if node.name in self._left_out else node.start())
