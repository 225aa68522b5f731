"""What the router needs of its surroundings, as small interfaces, and its settings.

The replica, the state machine and the server implement these; tests and the simulator put their own in the same places. Nothing
here does anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from raftkv.errors import InvalidRequest, InvalidSettings
from raftkv.kv.command import Command
from raftkv.kv.replies import Reply
from raftkv.raft.ready import Role
from raftkv.raft.types import EntryId, Index, NodeId, Term


class MachinePort(Protocol):
    """The key-value machine, as the router sees it."""

    @property
    def applied_index(self) -> Index:
        """The newest entry that the machine holds."""

    @property
    def clock_ms(self) -> int:
        """The log's clock: the largest stamp applied."""

    @property
    def next_expiry_ms(self) -> int | None:
        """The first stamp at which a batch, even an empty one, would delete something; None when nothing is ever due."""

    @property
    def machine_version(self) -> int:
        """The version of the rules to name in a batch."""

    def read(self, command: Command, now_ms: int = 0) -> Reply:
        """The answer of a read at the present state and log clock; times to live count from `now_ms` if that is later."""

    def session_last(self, session: bytes) -> int | None:
        """The newest command of `session` that has been applied; None when the session is not known."""

    def stored_replies(self, session: bytes, first: int, count: int) -> list[Reply] | None:
        """The replies that the session keeps of commands `first` … `first + count - 1`; None when one of them is not kept."""


class ReplicaPort(Protocol):
    """The replica, as the router sees it."""

    @property
    def node(self) -> NodeId:
        """The name of this node."""

    @property
    def role(self) -> Role:
        """The node's role now."""

    @property
    def leader(self) -> NodeId | None:
        """The leader of the term, as far as known."""

    @property
    def term(self) -> Term:
        """The node's term."""

    @property
    def majority(self) -> int:
        """How many nodes make a majority of the voters."""

    @property
    def ready_to_serve(self) -> bool:
        """False while the state is being rebuilt: nothing may be read from it."""

    @property
    def applied_index(self) -> Index:
        """The newest entry that the state machine holds."""

    @property
    def appending(self) -> bool:
        """Whether an entry is on its way to this node's disk."""

    @property
    def machine(self) -> MachinePort:
        """The state machine; another object after a snapshot has been installed."""

    def propose(self, payload: bytes) -> EntryId:
        """Append a batch to the log. Raises NotLeader, Busy or Unavailable, and then the entry does not exist."""

    def read_index(self, context: int) -> None:
        """Ask for a read point, answered by `Router.read_point`. Raises NotLeader."""

    def run_slow(self, command: Command, done: Callable[[Reply], None]) -> None:
        """Execute a long read on a consistent view of the present state, away from the caller; `done` is called later."""


class ClockPort(Protocol):
    """The leader's stamps; see `kv.clock`."""

    def start(self, log_ms: int, mono_ms: int) -> None:
        """This node leads from now on, and the log's clock shows `log_ms`."""

    def stamp(self, mono_ms: int, majority: int) -> int:
        """The stamp for a batch made now."""


class OperationsPort(Protocol):
    """What an operator may ask of a node."""

    def status(self) -> bytes:
        """The cluster as this node sees it, in JSON."""

    def transfer(self, to: NodeId | None) -> None:
        """Have the leader hand over to `to`, or to whoever is most up to date. Returns when the leader has been asked.

        Raises:
            Refused: there is no leader, or it is busy.
            InvalidRequest: `to` cannot lead.
        """


class NoOperations:
    """For routers that nobody operates."""

    def status(self) -> bytes:
        return b"{}"

    def transfer(self, to: NodeId | None) -> None:
        raise InvalidRequest("leadership cannot be handed over here")


class PeerFacts(Struct, frozen=True, kw_only=True):
    """What INFO and ROLE tell of another node. `offset` is the newest log index that it is known to hold."""

    node: NodeId
    client_host: str = ""
    client_port: int = 0
    connected: bool = False
    offset: Index = 0


class NodeFacts(Struct, frozen=True, kw_only=True):
    """What the server knows of this node and the router does not, for INFO, ROLE and HELLO."""

    raftkv_version: str = ""
    cluster_name: str = ""
    cluster_id: str = ""
    run_id: str = ""
    os: str = ""
    executable: str = ""
    process_id: int = 0
    tcp_port: int = 0
    uptime_seconds: int = 0
    wall_us: int = 0
    max_clients: int = 0
    connections_received: int = 0
    connections_rejected: int = 0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    keys: int | None = None
    keys_with_expiry: int | None = None
    log_bytes: int = 0
    fenced: str | None = None
    peers: tuple[PeerFacts, ...] = ()


class RouterSettings(Struct, frozen=True, kw_only=True):
    """Bounds and periods of one router. Durations are in milliseconds.

    Raises:
        InvalidSettings: a value is below 1, or a bound contradicts another.
    """

    timeout_ms: int = 5_000
    """How long a request may wait for its outcome."""
    max_commands: int = 200_000
    """Requests of all clients of this node that are not answered yet."""
    max_bytes: int = 256 << 20
    """Bytes of those requests."""
    max_entry_bytes: int = 8 << 20
    """The largest command, and so the largest entry."""
    transaction_commands: int = 100_000
    """Commands of one transaction: a node does nothing else while it applies them."""
    group_commands: int = 1024
    window_groups: int = 512
    """Groups in flight; below the number whose replies the machine keeps of a session."""
    group_bytes: int = 256 << 10
    """Where a group is closed; one larger command makes a group of its own."""
    batch_commands: int = 4096
    batch_bytes: int = 1 << 20
    """Where a batch is closed; one larger group makes a batch of its own."""
    batches_per_append: int = 4
    """Batches proposed together, so that they share one fsync."""
    gather_flushes: int = 4
    """A batch leaves at the first flush without new writes since the one before, or at this one: several clients that were answered
    together ask again together, and cost least when they also leave together. 1: at once. One client alone never waits."""
    groups_ahead: int = 8
    """Groups sent to the leader and not answered; what arrives meanwhile makes the next groups larger."""
    max_forwarded_bytes: int = 64 << 20
    """Bytes of other nodes' groups that wait at the leader."""
    max_forwarded_reads: int = 100_000
    """Reads of other nodes that wait at the leader."""
    max_subscription_bytes: int = 256 << 20
    """What the subscriptions of this node's clients take, about."""
    max_answer_bytes: int = 16 << 20
    """Bytes of replies in one answer to another node's reads."""
    retry_ms: int = 10
    max_retry_ms: int = 320
    """The first and the longest pause before something refused or lost is sent again."""
    stall_ms: int = 2_000
    """Silence after which what was forwarded is taken for lost."""
    session_renewal_ms: int = 600_000
    """A session not used for so long is replaced; far less than the age at which the machine forgets it."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value < 1:
                raise InvalidSettings(f"{name} is {value}; it must be at least 1")
        if self.max_retry_ms < self.retry_ms:
            raise InvalidSettings(f"max_retry_ms is {self.max_retry_ms}; it must be at least retry_ms ({self.retry_ms})")
        if self.session_renewal_ms <= self.timeout_ms:
            raise InvalidSettings(f"session_renewal_ms is {self.session_renewal_ms}; it must be more than timeout_ms ({self.timeout_ms})")
