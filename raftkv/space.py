"""Whether a node's disk has space for the log and the state, as the parts that write have found, and who else's has.

A disk is full for a node when the log found no space for its next segment, when less than a reserve is left, or when the state store
found none (which the replica tells, and ends by opening the store again). The node then refuses writes and goes on serving reads, and
what was set aside for people to look at is removed. A cluster takes writes as long as a disk of one that could lead has space: a leader
without space gives way to a peer that has some. It waits a little before that: peers whose disks are full at the same moment, perhaps
because they are one disk, have to be heard first, and space that is back at once moves no leadership.

Pure but for the state directory it asks: no clock, no thread of its own.
"""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from raftkv.codec.peer import Health
from raftkv.ports import Shell
from raftkv.raft.types import NodeId
from raftkv.startup import make_room
from raftkv.storage.checkpoint import StateDirectory

PATIENCE_LOOKS = 3
"""How often a node looks at its disk again before it gives way. A peer that is as short of space finds out within one look, tells with
the next, and is heard before the third."""


class DiskSpace:
    """The space of one node, and what its peers told of theirs.

    Args:
        state: knows how much is free, and what can be given up.
        shell: runs what takes time.
        reserve_bytes: what must be left free of the disk; 0 to leave nothing.
        events: where it is told.
    """

    def __init__(self, state: StateDirectory, shell: Shell, reserve_bytes: int, events: FilteringBoundLogger) -> None:
        self._state = state
        self._shell = shell
        self._reserve_bytes = reserve_bytes
        self._events = events
        self._log_full = False
        self._making_room = False
        self._short_looks = 0
        """How many looks in a row have found the node without space."""
        self.low = False
        """Whether less than the reserve is left."""
        self.store_failed = False
        """Whether the state store found no space, and has not been opened again."""
        self._peers: dict[NodeId, bool] = {}
        """The connected peers that have a state, by what they told last, and whether they take writes."""

    @property
    def out_of_space(self) -> str | None:
        """Why writes are refused here for want of disk space, if they are."""
        if self._log_full or self.low or self.store_failed:
            return "the disk of the leader is full; writes are accepted again when there is space"
        return None

    @property
    def gives_way(self) -> bool:
        """Whether the node has been without space for long enough to leave the leadership to a peer."""
        return self.out_of_space is not None and self._short_looks > PATIENCE_LOOKS

    def heard(self, peer: NodeId, health: Health) -> None:
        """`peer` tells how it is."""
        if health.fenced is None:
            self._peers[peer] = not health.refusing_writes
        else:
            self.forget(peer)

    def forget(self, peer: NodeId) -> None:
        """`peer` cannot be heard."""
        self._peers.pop(peer, None)

    @property
    def able(self) -> set[NodeId]:
        """The peers that could lead, and take writes."""
        return {peer for peer, takes_writes in self._peers.items() if takes_writes}

    def fitness(self, peer: NodeId) -> int:
        """How fit `peer` is to lead: 2 if it has a state and takes writes, 1 if it has a state, 0 if not or if it cannot be heard."""
        return 1 + self._peers[peer] if peer in self._peers else 0

    def log_full(self, full: bool) -> None:
        """The log has no space (or has some again)."""
        if full != self._log_full:
            self._log_full = full
            self._events.warning("log_disk_full" if full else "log_disk_has_space")
            if full:
                self.make_room("the log has no space")

    def look(self) -> None:
        """See how much is free."""
        low = self._reserve_bytes > 0 and self._state.free_bytes() < self._reserve_bytes
        if low != self.low:
            self.low = low
            self._events.warning("disk_space_low" if low else "disk_space_regained", reserve_bytes=self._reserve_bytes)
            if low:
                self.make_room(f"less than {self._reserve_bytes} bytes are left on the disk")
        self._short_looks = self._short_looks + 1 if self.out_of_space is not None else 0

    def make_room(self, reason: str) -> None:
        """Remove a damaged state that was set aside: it helps to find out what happened, and that must cost the node nothing. What finds
        the disk full finds it so several times at once: two who remove the same files get in each other's way."""
        if self._making_room:
            return
        self._making_room = True

        def removed(result: object) -> None:
            self._making_room = False
            if isinstance(result, BaseException):
                raise result

        self._shell.background(lambda: make_room(self._state.give_up_damaged, reason, self._events), removed)
