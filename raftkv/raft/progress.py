"""What a leader knows of one peer, and how much it may send to it.

A peer is in one of three states. PROBE: where the logs meet is not known; one append at a time, and the next only after an answer or a
heartbeat's answer. REPLICATE: they met; appends are pipelined within a bound of messages and bytes. SNAPSHOT: what the peer needs is no
longer in the log; nothing is appended until the snapshot has been dealt with.

`match` never goes back and `next` is always above it, with one exception, which has its own verb: a peer that says that it may have
lost something (`forgot`).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from raftkv.raft.ready import PeerProgress, PeerState
from raftkv.raft.types import Incarnation, Index

PROBE: Final = PeerState.PROBE
REPLICATE: Final = PeerState.REPLICATE
SNAPSHOT: Final = PeerState.SNAPSHOT
"""The states by themselves: looking a member up on its enum costs several times what comparing it does."""


class Progress:
    """One peer, seen by the leader of one term."""

    __slots__ = (
        "_inflight",
        "_inflight_bytes",
        "commit_sent",
        "counts",
        "incarnation",
        "match",
        "next",
        "pending_snapshot",
        "probe_sent",
        "recently_active",
        "round",
        "state",
    )

    def __init__(self, next_index: Index) -> None:
        self.match: Index = 0
        self.next: Index = next_index
        self.state: PeerState = PROBE
        self.pending_snapshot: Index = 0
        self.probe_sent = False
        self.recently_active = False
        self.counts = True
        self.incarnation: Incarnation = 0
        self.round = 0
        self.commit_sent: Index = 0
        self._inflight: deque[tuple[Index, int]] = deque()
        self._inflight_bytes = 0

    def may_send(self, max_messages: int, max_bytes: int) -> bool:
        """Whether flow control lets another append leave."""
        if self.state is REPLICATE:
            return len(self._inflight) < max_messages and self._inflight_bytes < max_bytes
        return self.state is PROBE and not self.probe_sent

    def sent(self, last: Index, size: int, commit: Index) -> None:
        """An append that ends with entry `last` and carries `size` bytes left."""
        self.commit_sent = commit
        if self.state is REPLICATE:
            if last >= self.next:
                self.next = last + 1
                self._inflight.append((last, size))
                self._inflight_bytes += size
        else:
            self.probe_sent = True

    def acknowledged(self, index: Index) -> bool:
        """The peer holds everything up to `index`. Returns whether that is news."""
        while self._inflight and self._inflight[0][0] <= index:
            self._inflight_bytes -= self._inflight.popleft()[1]
        self.probe_sent = False
        self.next = max(self.next, index + 1)
        if index <= self.match:
            return False
        self.match = index
        return True

    def rejected(self, rejected: Index, meeting_point: Index) -> bool:
        """The peer does not hold the entry at `rejected`; the logs may meet at `meeting_point`. False: an old story, nothing changes."""
        if self.state is REPLICATE:
            if rejected <= self.match:
                return False
            self.probe(self.match + 1)
            return True
        if self.state is SNAPSHOT or rejected != self.next - 1 or rejected <= self.match:
            return False
        self.next = max(self.match + 1, min(rejected, meeting_point + 1))
        self.probe_sent = False
        return True

    def alive(self) -> None:
        """The peer answered a heartbeat: a probe that was lost may be sent again."""
        self.probe_sent = False

    def probe(self, next_index: Index) -> None:
        """Find out anew where the logs meet, beginning at `next_index`."""
        self.state = PROBE
        self.next = max(next_index, self.match + 1)
        self.probe_sent = False
        self._clear()

    def replicate(self) -> None:
        """The logs meet at `match`: pipeline from there."""
        self.state = REPLICATE
        self.next = self.match + 1
        self.probe_sent = False
        self._clear()

    def snapshot(self, index: Index) -> None:
        """The peer needs a snapshot at `index` or later."""
        self.state = SNAPSHOT
        self.pending_snapshot = index
        self.probe_sent = False
        self._clear()

    def snapshot_finished(self, ok: bool) -> None:
        """The transfer has ended. After a good one the next append waits for the peer's acknowledgement or a heartbeat's answer."""
        pending = self.pending_snapshot if ok else 0
        self.pending_snapshot = 0
        self.probe(max(self.match, pending) + 1)
        self.probe_sent = True

    def forgot(self, last: Index) -> None:
        """The peer is another than before, or says that it may have lost the end of its log: nothing it said before holds."""
        self.match = 0
        self.round = 0
        self.probe(last + 1)

    def _clear(self) -> None:
        self._inflight.clear()
        self._inflight_bytes = 0

    def view(self) -> PeerProgress:
        """What others may see of it."""
        return PeerProgress(self.match, self.next, self.state, self.recently_active, self.counts)
