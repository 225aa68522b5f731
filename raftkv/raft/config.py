"""Settings of the core. Every duration is in ticks; what a tick lasts is the shell's business."""

from __future__ import annotations

from msgspec import Struct

from raftkv.errors import InvalidSettings


class Config(Struct, frozen=True, kw_only=True):
    """Validated settings of one `Raft`; every node of a cluster should use the same.

    Raises:
        InvalidSettings: a value is out of range; the message names the field, the value and the rule.
    """

    election_ticks: int = 50
    """Silence after which a follower campaigns; each wait is drawn from [election_ticks, 2 * election_ticks)."""
    heartbeat_ticks: int = 5
    """Time between two heartbeats of a leader; at most a third of election_ticks."""
    lease_ticks: int = 40
    """How long a quorum's answer lets a leader read without a round, when lease reads are on. Below election_ticks by the bound on
    clock drift: (election_ticks - lease_ticks) / election_ticks is the drift tolerated between any two nodes."""
    lost_leader_ticks: int = 1
    """Delay a rank before a follower whose connection to the leader broke starts a PreVote round."""
    max_append_bytes: int = 1 << 20
    """Payload bytes in one append message (a single larger entry travels alone)."""
    max_inflight_messages: int = 128
    """Unacknowledged append messages to one peer."""
    max_inflight_bytes: int = 16 << 20
    """Unacknowledged payload bytes to one peer."""
    max_uncommitted_bytes: int = 64 << 20
    """Payload bytes of proposals not committed yet, beyond which `propose` raises Busy."""
    max_page_bytes: int = 4 << 20
    """Payload bytes in one page of committed entries."""
    window_bytes: int = 16 << 20
    """Payload bytes of durable entries kept in memory; older ones are fetched from the log."""
    window_entries: int = 8192
    """The same bound as a count of entries."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value < 1:
                raise InvalidSettings(f"{name} is {value}; it must be at least 1")
        if self.heartbeat_ticks * 3 > self.election_ticks:
            raise InvalidSettings(
                f"heartbeat_ticks is {self.heartbeat_ticks}; it must be at most a third of election_ticks ({self.election_ticks})"
            )
        if self.lease_ticks >= self.election_ticks:
            raise InvalidSettings(f"lease_ticks is {self.lease_ticks}; it must be below election_ticks ({self.election_ticks})")
