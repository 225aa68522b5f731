"""What all nodes of a simulated cluster share: their settings, and everything around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from raftkv.kv.replies import Reply
from raftkv.raft.config import Config
from raftkv.raft.types import Member, NodeId
from raftkv.replica import ReplicaSettings
from raftkv.router.ports import RouterSettings
from raftkv.sim.clock import Schedule
from raftkv.sim.network import SimNetwork
from raftkv.sim.trace import Trace
from raftkv.sim.watch import Watch
from raftkv.storage.wal import WalSettings

if TYPE_CHECKING:
    from raftkv.sim.node import SimNode



class Tuning(Struct, frozen=True, kw_only=True):
    """The settings of every node of a cluster, and how fast its parts are. Ranges of times are in microseconds."""

    config: Config = Config()
    replica: ReplicaSettings = ReplicaSettings()
    router: RouterSettings = RouterSettings()
    wal: WalSettings = WalSettings()
    fsync_us: tuple[int, int] = (100, 2_000)
    stall_us: tuple[int, int] = (20_000, 1_500_000)
    """How long a write takes on a slow disk. On one that hangs it takes one to four of the longest election timeouts."""
    stalls: float = 0.0
    """The share of writes to the log that take as long as `stall_us`."""
    work_us: tuple[int, int] = (20, 20_000)
    """How long work in the background takes to begin, and its result to be noticed."""
    turn_us: tuple[int, int] = (0, 200)
    """How long an iteration of the event loop takes."""
    refusals: float = 0.0
    """The share of writes that the state store refuses."""


class Replies(Protocol):
    """Who takes the replies to clients."""

    def replied(self, node: SimNode, connection: int, replies: list[Reply], close: bool) -> None:
        """`replies` leave `node` on `connection`."""

    def node_died(self, node: SimNode) -> None:
        """All connections to `node` have broken."""


class World(Struct, kw_only=True):
    """What all nodes of a cluster share."""

    schedule: Schedule
    network: SimNetwork
    trace: Trace
    watch: Watch
    tuning: Tuning
    members: tuple[Member, ...]
    running: NodeId = "-"
    """Who acts at this moment, for events that do not say so."""
