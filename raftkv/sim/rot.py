"""The corruption grid: every combination of rotten entries on the nodes of a small cluster, each run until it recovers or refuses.

The experiment of Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage" (FAST'18, section 5.1): a few nodes with the same
short log, each entry in a group of its own, nothing of it in their states. All nodes start at once. The right outcome is known before:
a cluster recovers if, and only if, every committed entry has an intact copy on some node; whatever happens, none is lost, and nobody
serves without one.

The nodes are those of the simulator: the production code on simulated disks, with real bytes. Each case takes some milliseconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from raftkv.codec.record import RECORD_BYTES
from raftkv.errors import Corrupt
from raftkv.kv.batch import FORMAT_VERSION, Batch, encode_batch
from raftkv.kv.machine import MACHINE_VERSION
from raftkv.kv.replies import Reply
from raftkv.raft.config import Config
from raftkv.raft.membership import encode_configuration
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState, Index, Member, NodeId
from raftkv.replica import ReplicaSettings
from raftkv.sim.clock import Schedule
from raftkv.sim.cluster import recorded
from raftkv.sim.decay import groups_of_log
from raftkv.sim.disk import SimDisk, Survival
from raftkv.sim.network import SimNetwork
from raftkv.sim.node import CLUSTER_NAME, SimNode
from raftkv.sim.trace import Trace, Violation
from raftkv.sim.watch import Watch
from raftkv.sim.world import Tuning, World
from raftkv.storage.identity import Identity, cluster_id, create_identity
from raftkv.storage.wal import LogWrite, Wal, WalSettings

LATEST_MS = 12_000
"""Simulated time after which a cluster that has not recovered will not: longer than a node waits before it lets a leader relieve it, and
than that takes."""

LEADERLESS_MS = 7_000
"""The same for a cluster without a leader: longer than a lost question and an election take."""

STEP_MS = 100
TERM = 1

TUNING = Tuning(
    config=Config(election_ticks=10, heartbeat_ticks=3, lease_ticks=9),
    replica=ReplicaSettings(heartbeat_ticks=3, tick_ms=20),
    wal=WalSettings(segment_bytes=8192),
    fsync_us=(50, 100),
    work_us=(20, 50),
    turn_us=(0, 0),
)


class GridNode(SimNode):
    """A node that may refuse to start."""

    refusal: str | None = None

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, Corrupt):
            self.refusal = str(error)
            self.die(Survival.CLEAN, "refuses")
        else:
            super()._fail(error)


class GridReport(Struct):
    """What became of the cases. A case is told by its number: its bits are the entries of the nodes, first node and entry first."""

    cases: int = 0
    recovered: int = 0
    refused: int = 0
    """Nobody leads, and nothing is lost: as it should be where an entry is intact nowhere."""
    stuck: int = 0
    """A leader serves and holds everything, and some node is not with it yet."""
    lost: int = 0
    unexpected: list[str] = []
    """The cases that did not end as they must: lost, stuck, refused in vain, or recovered although that cannot be."""
    slowest_ms: int = 0
    """Simulated time until the slowest case that recovered had."""


class Grid:
    """A cluster to let rot again and again.

    Args:
        lengths: how many entries the log of each node has. What a majority has is committed.
        sealed: whether the logs end with a seal, as after a moment of silence.
        header: whether headers of records rot, instead of payloads.
        node_class: instead of `GridNode`: for tests that break a node on purpose.
    """

    def __init__(
        self,
        lengths: Sequence[int] = (4, 4, 4),
        *,
        sealed: bool = True,
        header: bool = False,
        node_class: type[GridNode] = GridNode,
    ) -> None:
        names = [f"n{number}" for number in range(1, len(lengths) + 1)]
        self.lengths = tuple(lengths)
        self.committed: Index = sorted(lengths, reverse=True)[len(lengths) // 2]
        self.members = tuple(Member(name, 0, f"{name}:7000") for name in names)
        self.entries = _entries(self.members, max(lengths))
        self._node_class = node_class
        self._contents: list[dict[str, bytes]] = []
        self._rot: list[tuple[int, Index, str, int]] = []
        for number, (member, length) in enumerate(zip(self.members, lengths, strict=True)):
            disk = self._written(member.id, number, self.entries[:length], sealed)
            self._contents.append(disk.files())
            for path, group, _ in groups_of_log(disk):
                offset = group.records[0].offset + (8 if header else RECORD_BYTES)
                self._rot.append((number, group.head.last.index, path, offset))

    def _written(self, name: NodeId, number: int, entries: Sequence[Entry], sealed: bool) -> SimDisk:
        disk = SimDisk(random.Random(number))
        wal = Wal.open(disk, TUNING.wal)
        create_identity(disk, Identity(cluster_id(CLUSTER_NAME, self.members), CLUSTER_NAME, name, number + 1, 0, self.members))
        wal.write([LogWrite(1, HardState(TERM, "n1"))])
        for entry in entries:
            wal.write([LogWrite(1, None, None, (entry,), entry.index - 1)])
        if sealed:
            wal.close()
        return disk

    @property
    def bits(self) -> int:
        """How many entries there are on all nodes together."""
        return len(self._rot)

    def rotten(self, case: int) -> list[tuple[int, Index]]:
        """The entries that are rotten in `case`: (node, index), nodes from 0."""
        return [(node, index) for bit, (node, index, _, _) in enumerate(self._rot) if case >> bit & 1]

    def must_recover(self, case: int) -> bool:
        """Whether every committed entry has an intact copy."""
        bad = set(self.rotten(case))
        return all(
            any(length >= index and (node, index) not in bad for node, length in enumerate(self.lengths))
            for index in range(1, self.committed + 1)
        )

    def disks(self, case: int) -> list[SimDisk]:
        """The disks of the nodes in `case`."""
        disks: list[SimDisk] = []
        for number, contents in enumerate(self._contents):
            disk = SimDisk(random.Random(number))
            for path, content in contents.items():
                disk.put(path, content)
            disks.append(disk)
        for bit, (number, _, path, offset) in enumerate(self._rot):
            if case >> bit & 1:
                disks[number].flip(path, offset, 1)
        return disks

    def run(self, cases: Iterable[int] | None = None) -> GridReport:
        """Run `cases`, or all."""
        report = GridReport(unexpected=[])
        for case in range(1 << self.bits) if cases is None else cases:
            trial = Trial(self, self.disks(case), self._node_class)
            verdict, detail = trial.run()
            report.cases += 1
            setattr(report, verdict, getattr(report, verdict) + 1)
            if verdict == "recovered":
                report.slowest_ms = max(report.slowest_ms, trial.now_ms)
            if verdict != ("recovered" if self.must_recover(case) else "refused"):
                report.unexpected.append(f"case {case}, rotten {self.rotten(case)}: {verdict}: {detail}")
        return report


class Trial:
    """One run of a cluster on given disks."""

    def __init__(self, grid: Grid, disks: list[SimDisk], node_class: type[GridNode] = GridNode) -> None:
        names = tuple(member.id for member in grid.members)
        self._grid = grid
        self._schedule = Schedule()
        self._trace = Trace(self._schedule, keep=50)
        network = SimNetwork(self._schedule, random.Random(1), names)
        self._world = World(
            schedule=self._schedule,
            network=network,
            trace=self._trace,
            watch=Watch(self._trace, self._schedule),
            tuning=TUNING,
            members=grid.members,
        )
        self.nodes: list[GridNode] = []
        for number, (name, disk) in enumerate(zip(names, disks, strict=True)):
            node = node_class(name, self._world, _NoClients(), random.Random(number))
            node.disk = disk
            node.doubtful = node.torn = True
            self.nodes.append(node)

    @property
    def now_ms(self) -> int:
        """Simulated time."""
        return self._schedule.now_us // 1_000

    def run(self, until: Callable[[], bool] | None = None) -> tuple[str, str]:
        """Start all nodes. The verdict ("recovered", "refused", "stuck" or "lost"), and why."""
        done = until or self.has_recovered
        with recorded(self._trace, self._world):
            try:
                for node in self.nodes:
                    node.start()
                while not done() and self.now_ms < (LATEST_MS if self._leaders() else LEADERLESS_MS):
                    self._schedule.run_until(self._schedule.now_us + STEP_MS * 1_000)
                    lacking = self._lacking()
                    if lacking:
                        return "lost", lacking
            except Violation as violation:
                return "lost", str(violation)
        if done():
            return "recovered", ""
        return ("stuck" if self._leaders() else "refused"), self._trace.text()

    def has_recovered(self) -> bool:
        """Everybody serves the same log."""
        if not all(node.serves for node in self.nodes) or len(self._leaders()) != 1:
            return False
        rafts = [node.replica.raft for node in self.nodes]
        indices = {index for raft in rafts for index in (raft.applied_index, raft.last_index, raft.persisted_index)}
        return len(indices) == 1 and rafts[0].last_index > self._grid.committed and all(raft.suspect is None for raft in rafts)

    def _leaders(self) -> list[GridNode]:
        return [node for node in self.nodes if node.serves and node.replica.raft.role is Role.LEADER]

    def _lacking(self) -> str:
        """What a node that leads, or has applied, does not hold although it was committed."""
        wanted = self._grid.entries[: self._grid.committed]
        for node in self._leaders():
            if tuple(node.wal.read(1, len(wanted), 1 << 20)) != wanted:
                return f"{node.name} leads without entries that were committed"
        return ""


class _NoClients:
    """Nobody asks."""

    def replied(self, node: SimNode, connection: int, replies: list[Reply], close: bool) -> None:
        """Nobody was asked for anything."""

    def node_died(self, node: SimNode) -> None:
        """Nobody is connected."""


def _entries(members: tuple[Member, ...], count: int) -> tuple[Entry, ...]:
    """A log: the configuration that forms the cluster, then batches."""
    formed = Configuration(
        tuple(Member(member.id, number, member.peer_address) for number, member in enumerate(members, 1)),
        tuple(member.id for member in members),
    )
    batches = [encode_batch(Batch(FORMAT_VERSION, MACHINE_VERSION, index, [])) for index in range(2, count + 1)]
    return (
        Entry(1, TERM, EntryKind.CONFIGURATION, encode_configuration(formed)),
        *(Entry(index, TERM, EntryKind.BATCH, batch) for index, batch in enumerate(batches, 2)),
    )


def run_grid(
    lengths: Sequence[int] = (4, 4, 4), cases: Iterable[int] | None = None, *, sealed: bool = True, header: bool = False
) -> GridReport:
    """Run the grid of nodes whose logs have these `lengths`: all cases, or those whose numbers are given."""
    return Grid(lengths, sealed=sealed, header=header).run(cases)
