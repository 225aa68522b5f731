"""The faults of a storm: each kind happens again and again, at random moments, to whom the seed chooses, and is undone some time later.

It does only what the design promises to survive. At any time the nodes that have lost something (a wiped directory, a lost state, a
log with an end that cannot be judged) are at most a minority. What they lost was acknowledged by others, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from raftkv.errors import StorageError
from raftkv.sim.clock import Schedule
from raftkv.sim.decay import stretches_of_records
from raftkv.sim.disk import SimDisk, Survival
from raftkv.sim.network import CALM, SimNetwork
from raftkv.sim.node import SimNode
from raftkv.sim.swarm import Swarm
from raftkv.sim.trace import Trace


class Faults:
    """Makes the faults of one cluster."""

    def __init__(
        self, swarm: Swarm, schedule: Schedule, network: SimNetwork, nodes: list[SimNode], trace: Trace, rng: random.Random
    ) -> None:
        self._swarm = swarm
        self._schedule = schedule
        self._network = network
        self._nodes = nodes
        self._trace = trace
        self._rng = rng
        self._calm = False
        self._kinds: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "power": self._power,
            "crash_in_operation": self._crash_in_operation,
            "partition": self._partition,
            "one_way": self._one_way,
            "reset": self._reset,
            "pause": self._pause,
            "slow_disk": self._slow_disk,
            "disk_error": self._disk_error,
            "full_disk": self._full_disk,
            "lose_state": self._lose_state,
            "wipe": self._wipe,
            "transfer": self._transfer,
            "blackout": self._blackout,
            "rot": self._rot,
        }

    def begin(self) -> None:
        """Let the storm begin."""
        self._network.faults = self._swarm.network
        for kind in self._kinds:
            self._schedule_next(kind)

    def end(self) -> None:
        """Undo everything, and start every node that is down."""
        self._calm = True
        self._network.faults = CALM
        self._network.heal()
        for node in self._nodes:
            node.slow_disk = node.faulty_disk = False
            node.disk.capacity_bytes = None
            node.disk.disarm()
            node.resume()
            node.start()

    def _schedule_next(self, kind: str) -> None:
        mean_ms: int = getattr(self._swarm.rates, kind)
        if mean_ms:
            self._schedule.after(int(self._rng.expovariate(1.0) * mean_ms * 1_000), lambda: self._happen(kind))

    def _happen(self, kind: str) -> None:
        if not self._calm:
            self._kinds[kind]()
            self._schedule_next(kind)

    def _undo(self, delay_ms: tuple[int, int], action: Callable[[], None]) -> None:
        def act() -> None:
            if not self._calm:
                action()

        self._schedule.after(self._rng.randint(*delay_ms) * 1_000, act)

    def _victim(self) -> SimNode:
        """A node: often the one that leads."""
        if self._rng.random() < 0.4:
            leading = [node for node in self._nodes if node.serves and node.replica.role == "leader"]
            if leading:
                return self._rng.choice(leading)
        return self._rng.choice(self._nodes)

    def _may_impair(self, victim: SimNode) -> bool:
        impaired = {node.name for node in self._nodes if node.impaired}
        return len(impaired | {victim.name}) <= (len(self._nodes) - 1) // 2

    def _restart(self, node: SimNode) -> None:
        delay_ms = self._rng.choice(((1, 50), (100, 1_500), (500, 4_000)))
        self._undo(delay_ms, node.start)

    def died(self, node: SimNode) -> None:
        """A node's life has ended, whatever the reason: there will be another."""
        self._restart(node)

    # The kinds.

    def _kill(self) -> None:
        node = self._victim()
        if node.alive:
            self._trace.count(node.name, "fault_kill")
            node.kill()

    def _survival(self, node: SimNode) -> Survival:
        kinds = [Survival.LOST, Survival.REORDERED]
        if self._may_impair(node):
            kinds.append(Survival.TORN)
        return self._rng.choice(kinds)

    def _power(self) -> None:
        node = self._victim()
        if node.alive:
            self._trace.count(node.name, "fault_power")
            node.kill(power=self._survival(node))

    def _blackout(self) -> None:
        self._trace.count("all", "fault_blackout")
        for node in self._nodes:
            if node.alive:
                node.kill(power=self._rng.choice((Survival.LOST, Survival.REORDERED)))

    def _crash_in_operation(self) -> None:
        node = self._victim()
        if node.alive:
            self._trace.count(node.name, "fault_crash_in_operation")
            node.disk.crash_at(node.disk.operations + self._rng.randint(1, 40))

    def _partition(self) -> None:
        self._trace.count("all", "fault_partition")
        side = {node.name for node in self._nodes if self._rng.random() < 0.5}
        reset = self._rng.random() < 0.3
        links = [
            (one.name, other.name)
            for one in self._nodes
            for other in self._nodes
            if one is not other and (one.name in side) != (other.name in side)
        ]
        for one, other in links:
            self._network.cut(one, other, reset=reset)
        self._undo((50, 4_000), lambda: self._mend(links))

    def _mend(self, links: list[tuple[str, str]]) -> None:
        for one, other in links:
            self._network.mend(one, other)

    def _one_way(self) -> None:
        if len(self._nodes) > 1:
            one, other = self._rng.sample([node.name for node in self._nodes], 2)
            self._trace.count(one, "fault_one_way", other)
            self._network.cut(one, other)
            self._undo((50, 4_000), lambda: self._network.mend(one, other))

    def _reset(self) -> None:
        if len(self._nodes) > 1:
            one, other = self._rng.sample([node.name for node in self._nodes], 2)
            self._trace.count(one, "fault_reset", other)
            self._network.break_connection(one, other)

    def _pause(self) -> None:
        node = self._victim()
        if node.alive and not node.paused:
            self._trace.count(node.name, "fault_pause")
            node.pause()
            self._undo(self._rng.choice(((5, 100), (200, 3_000))), node.resume)

    def _slow_disk(self) -> None:
        node = self._victim()
        self._trace.count(node.name, "fault_slow_disk")
        node.slow_disk = True
        self._undo((100, 3_000), lambda: setattr(node, "slow_disk", False))

    def _disk_error(self) -> None:
        node = self._victim()
        if node.alive:
            self._trace.count(node.name, "fault_disk_error")
            node.faulty_disk = True
            node.disk.fail_at(node.disk.operations + self._rng.randint(1, 20), StorageError("Input/output error"))

    def _full_disk(self) -> None:
        node = self._victim()
        if node.disk.capacity_bytes is None:
            self._trace.count(node.name, "fault_full_disk")
            used = sum(map(len, node.disk.files().values()))
            node.disk.capacity_bytes = used + self._rng.choice((0, 5_000, 40_000))
            self._undo((200, 3_000), lambda: setattr(node.disk, "capacity_bytes", None))

    def _lose_state(self) -> None:
        node = self._victim()
        if node.alive and self._may_impair(node):
            node.kill()
            if node.disk.exists("state"):
                self._trace.count(node.name, "fault_lose_state")
                node.disk.remove_tree("state")
                node.doubtful = True

    def _wipe(self) -> None:
        node = self._victim()
        if node.alive and self._may_impair(node):
            self._trace.count(node.name, "fault_wipe")
            node.kill()
            node.disk = SimDisk(random.Random(self._rng.getrandbits(64)))
            node.wiped = True

    def _rot(self) -> None:
        """Up to three bytes of a log rot while its node is down. The other nodes have what was there, if it still counts."""
        node = self._victim()
        if node.alive and self._may_impair(node):
            node.kill()
            stretches = stretches_of_records(node.disk)
            for path, begin, end in self._rng.sample(stretches, min(len(stretches), self._rng.randint(1, 3))):
                self._trace.count(node.name, "fault_rot", path, begin)
                node.disk.flip(path, self._rng.randrange(begin, end), 1 << self._rng.randrange(8))
                node.doubtful = node.torn = True

    def _transfer(self) -> None:
        node = self._victim()
        if node.alive:
            node.run(lambda: node.transfer(None))
