"""The faults of a storm: each firing of the plan at its time, and the end of all of them.

The calm has two parts. First only a *core* is healed, a majority of nodes that have lost nothing: these run, hear each other, and have
prompt disks. Each of the others is as bad off as the seed says, for as long as that part lasts. Then everything is healed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random
from typing import Final

from raftkv.raft import Raft
from raftkv.raft.types import SnapshotMeta
from raftkv.sim import disk_faults, link_faults, node_faults
from raftkv.sim.network import CALM
from raftkv.sim.node import SimNode
from raftkv.sim.plan import Firing, choices, stream
from raftkv.sim.storm import Storm

KINDS: Final[dict[str, Callable[[Storm, Random], None]]] = {
    "kill": node_faults.kill,
    "power": node_faults.power,
    "blackout": node_faults.blackout,
    "crash_in_operation": node_faults.crash_in_operation,
    "crash_at_point": node_faults.crash_at_point,
    "pause": node_faults.pause,
    "transfer": node_faults.transfer,
    "compact": node_faults.compact,
    "clock_jump": node_faults.clock_jump,
    "clock_rate": node_faults.clock_rate,
    "partition": link_faults.partition,
    "one_way": link_faults.one_way,
    "partial": link_faults.partial,
    "reset": link_faults.reset,
    "slow_disk": disk_faults.slow_disk,
    "hung_disk": disk_faults.hung_disk,
    "disk_error": disk_faults.disk_error,
    "read_error": disk_faults.read_error,
    "full_disk": disk_faults.full_disk,
    "lose_state": disk_faults.lose_state,
    "wipe": disk_faults.wipe,
    "rot_log": disk_faults.rot_log,
    "rot_hard_state": disk_faults.rot_hard_state,
    "rot_identity": disk_faults.rot_identity,
    "rot_manifest": disk_faults.rot_manifest,
    "rot_state": disk_faults.rot_state,
    "rot_snapshot": disk_faults.rot_snapshot,
}
"""What each kind of `swarm.Rates` does."""

MESSAGE_FAULTS: Final = ("loss", "duplication", "reordering", "refusal", "held")
"""What the network does to single messages, and counts."""


class Faults(Storm):
    """Makes the faults of one cluster, and ends them."""

    def begin(self, firings: Sequence[Firing]) -> None:
        """Let the storm begin."""
        self.network.faults = self.swarm.network
        for firing in firings:
            self.schedule.after(firing.at_ms * 1_000, lambda firing=firing: self._happen(firing))  # type: ignore[misc]

    def _happen(self, firing: Firing) -> None:
        if not self.calm:
            KINDS[firing.kind](self, choices(self._seed, firing))

    def end(self, formed: bool) -> list[SimNode]:
        """The storm is over. Choose the core and heal it, and tell what it is: all nodes if the cluster has not `formed`, because
        that takes all of them."""
        self.calm = True
        self.aims.clear()
        self.network.faults = CALM
        rng = stream(self._seed, "core")
        core = self._core(rng) if formed else self.nodes
        for node in self.nodes:
            if node not in core:
                self._leave_out(node, rng)
        for node in core:
            self._heal(node)
        outside = {node.name for node in self.nodes if node not in core and node.name in self._cut_off}
        for one in self.nodes:
            for other in self.nodes:
                if one is not other and not {one.name, other.name} & outside:
                    self.network.mend(one.name, other.name)
        return core

    def _core(self, rng: Random) -> list[SimNode]:
        """A majority that can do without the others: of nodes that have lost nothing, or, where there is one, of a kind that is the
        hardest: some have no state, and their logs hold all that the others need."""
        majority = len(self.nodes) // 2 + 1
        hard = [chosen for chosen in combinations(self.nodes, majority) if _lacks_only_states(chosen)]
        if hard and majority < len(self.nodes):
            return list(rng.choice(hard))
        whole = [node for node in self.nodes if not node.impaired]
        return sorted(rng.sample(whole, majority), key=lambda node: node.name) if len(whole) > majority else whole

    def _leave_out(self, node: SimNode, rng: Random) -> None:
        """`node` is of no use to the core: dead, cut off, paused, or slow."""
        how = rng.choice(("dead", "cut off", "paused", "slow"))
        self.trace.note(node.name, "left out", how)
        self._left_out.add(node.name)
        node.crash_in, node.rots_snapshot = None, None
        match how:
            case "dead":
                node.kill()
            case "cut off":
                self._cut_off.add(node.name)
                for other in self.nodes:
                    if other is not node:
                        self.network.cut(node.name, other.name)
                        self.network.cut(other.name, node.name)
            case "paused":
                node.pause()
            case _:
                node.disk_pace = "slow_disk"

    def heal(self) -> None:
        """Undo everything, and start every node that is down."""
        self.network.heal()
        self._left_out.clear()
        for node in self.nodes:
            self._heal(node)

    def _heal(self, node: SimNode) -> None:
        node.disk_pace = ""
        node.crash_in, node.rots_snapshot = None, None
        node.disk.capacity_bytes = None
        node.disk.disarm()
        node.resume()
        node.start()


def _lacks_only_states(nodes: Sequence[SimNode]) -> bool:
    """Whether some of these nodes have lost their states, not all, and their logs go back far enough to bring every other up to date."""
    if not all(node.serves and not node.wiped and node.replica.raft.suspect is None for node in nodes):
        return False
    rafts = [node.replica.raft for node in nodes]
    fenced = [raft for raft in rafts if raft.fenced is not None]
    return 0 < len(fenced) < len(rafts) and all(_meets(raft.log.begin, other) for raft in fenced for other in rafts)


def _meets(begin: SnapshotMeta, other: Raft) -> bool:
    """Whether a log that begins after `begin` and goes on far enough brings `other` up to date without a snapshot."""
    return begin.index <= other.log.begin.index or other.log.term_at(begin.index) == begin.term
