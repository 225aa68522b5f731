"""A simulated network: loses, delays, reorders, duplicates and partitions, all drawn from one seeded source.

What it keeps of TCP's promises is what the product relies on, and no more: between two processes the frames of one connection that
arrive, arrive in order when `ordered` says so (forwarded commands need it); a connection that broke delivers nothing more; nothing of
an older process arrives once a newer process of the same node has been heard. Everything else may happen.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from raftkv.raft.types import NodeId
from raftkv.sim.clock import Schedule

Deliver = Callable[[NodeId, bytes], None]


class NetworkFaults(Struct, frozen=True, kw_only=True):
    """What goes wrong, as probabilities and delays in microseconds."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    delay_us: tuple[int, int] = (100, 1_000)
    slow_delay_us: tuple[int, int] = (5_000, 60_000)


class SimNetwork:
    """Carries bytes between nodes by name."""

    def __init__(self, schedule: Schedule, rng: random.Random, faults: NetworkFaults) -> None:
        self.faults = faults
        self.fired: Counter[str] = Counter()
        self._schedule = schedule
        self._rng = rng
        self._endpoints: dict[NodeId, tuple[int, Deliver]] = {}
        self._heard: dict[tuple[NodeId, NodeId], int] = {}
        self._connection: dict[tuple[NodeId, NodeId], int] = {}
        self._arrival: dict[tuple[NodeId, NodeId], int] = {}
        self._cut: set[tuple[NodeId, NodeId]] = set()

    def attach(self, node: NodeId, boot: int, deliver: Deliver) -> None:
        """A process of `node` listens. `boot` grows with each process of the node."""
        self._endpoints[node] = (boot, deliver)

    def detach(self, node: NodeId) -> None:
        """The process of `node` is gone, and its connections with it."""
        self._endpoints.pop(node, None)

    def cut(self, sender: NodeId, receiver: NodeId) -> None:
        """From now on nothing gets from `sender` to `receiver`."""
        self._cut.add((sender, receiver))
        self.fired["cut"] += 1

    def heal(self) -> None:
        """Every link works again."""
        self._cut.clear()

    def is_cut(self, sender: NodeId, receiver: NodeId) -> bool:
        """Whether nothing gets from `sender` to `receiver`."""
        return (sender, receiver) in self._cut

    def connection(self, sender: NodeId, receiver: NodeId) -> int:
        """A number that changes when the connection from `sender` to `receiver` is made anew."""
        return self._connection.get((sender, receiver), 0)

    def break_connection(self, sender: NodeId, receiver: NodeId) -> None:
        """Everything under way from `sender` to `receiver` is lost."""
        self._connection[sender, receiver] = self.connection(sender, receiver) + 1
        self._arrival.pop((sender, receiver), None)

    def send(self, sender: NodeId, receiver: NodeId, data: bytes, *, ordered: bool) -> None:
        """Send `data`; it may arrive never, once or twice, and late."""
        if receiver not in self._endpoints and not ordered:
            return
        if self.is_cut(sender, receiver):
            self.fired["blocked"] += 1
            return
        if ordered:
            self._send_ordered(sender, receiver, data)
            return
        if self._rng.random() < self.faults.loss:
            self.fired["loss"] += 1
            return
        self._post(sender, receiver, data, self._delay())
        if self._rng.random() < self.faults.duplication:
            self.fired["duplication"] += 1
            self._post(sender, receiver, data, self._delay())

    def _delay(self) -> int:
        if self._rng.random() < self.faults.reordering:
            self.fired["reordering"] += 1
            return self._rng.randint(*self.faults.slow_delay_us)
        return self._rng.randint(*self.faults.delay_us)

    def _send_ordered(self, sender: NodeId, receiver: NodeId, data: bytes) -> None:
        link = (sender, receiver)
        at = max(self._schedule.now_us + self._delay(), self._arrival.get(link, 0))
        self._arrival[link] = at
        self._post(sender, receiver, data, at - self._schedule.now_us)

    def _post(self, sender: NodeId, receiver: NodeId, data: bytes, delay_us: int) -> None:
        endpoint = self._endpoints.get(sender)
        if endpoint is None:
            return
        boot = endpoint[0]
        connection = self.connection(sender, receiver)

        def arrive() -> None:
            target = self._endpoints.get(receiver)
            if target is None or self.is_cut(sender, receiver) or self.connection(sender, receiver) != connection:
                return
            pair = (sender, receiver)
            if boot < self._heard.get(pair, 0):
                self.fired["old_process"] += 1
                return
            self._heard[pair] = boot
            target[1](sender, data)

        self._schedule.after(delay_us, arrive)
