"""The state machine of a simulated node, which the judge watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.kv.machine import Applied, KvMachine
from raftkv.kv.store import Store
from raftkv.raft.types import EntryKind

if TYPE_CHECKING:
    from raftkv.sim.node import SimNode


class WatchedMachine(KvMachine):
    """The machine, which tells the judge what it is about to apply."""

    def __init__(self, store: Store, node: SimNode) -> None:
        self._node = node
        super().__init__(store)

    def apply(self, index: int, term: int, payload: bytes) -> Applied:
        self._node.world.watch.applies(self._node, index, term, EntryKind.BATCH, payload)
        return super().apply(index, term, payload)

    def apply_empty(self, index: int, term: int, configuration: bytes | None = None) -> None:
        self._node.world.watch.applies(self._node, index, term, EntryKind.NOOP, configuration)
        super().apply_empty(index, term, configuration)
