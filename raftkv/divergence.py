"""Whether the replicas still agree: every node tells digests of its state with each heartbeat, and the leader compares.

The comparison itself is `kv.digest.verdict`; here is what a node remembers of the others' reports, and the rule about who is told
what: a replica that differs from a majority is fenced and rebuilds its state from a snapshot; a leader that finds itself in the minority
fences itself, which makes it step down; without a majority nobody is rebuilt, and an alarm says so.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raftkv.kv.digest import Pair, Verdict, verdict
from raftkv.raft.types import NodeId


class DivergenceWatch:
    """The reports of the other nodes, as one node has heard them last."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._reports: dict[NodeId, tuple[Pair, ...]] = {}

    def heard(self, node: NodeId, digests: tuple[Pair, ...], fenced: bool) -> None:
        """`node` tells its digests. A fenced node's state is being replaced: what it tells counts no more."""
        if fenced:
            self._reports.pop(node, None)
        else:
            self._reports[node] = digests

    def forget(self, node: NodeId) -> None:
        """`node` cannot be heard, or its state is about to be replaced."""
        self._reports.pop(node, None)

    def judge(self, own: Iterable[Pair], voters: Sequence[NodeId]) -> Verdict | None:
        """Compare this node's digests with what the others told.

        Args:
            own: this node's (index, digest) pairs.
            voters: whose state counts; a majority of them decides.

        Returns:
            None when no two differ at an index that both told.
        """
        return verdict({**self._reports, self._node: own}, voters)
