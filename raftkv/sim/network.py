"""A simulated network: connections between processes as `server.peers` makes them, over links that lose, delay and partition.

What it keeps is what the product's transport promises, and no more. Each process dials every other; what A says to B travels on the
connection that A dialed. Values of one stream arrive in order, without gaps, until the connection breaks; control overtakes bulk. A
process is told that another is connected while both directions are open to the same process of it, and that it is not as soon as one
of them breaks; the two ends may notice that at very different times. Nothing of an older process arrives once a newer one was met.

A link that is cut (in one direction or both) delivers nothing: what was sent waits, and arrives when the link is mended, unless the
connection has been given up by then. A dead machine says nothing; a dead process resets its connections.

On top of that, values that the sender marks as *loose* (messages of the core, which may not rely on any transport) are lost,
duplicated and reordered at random, also across a break.

The bookkeeping of one end (`_Link`) follows the class of the same name in `server.peers`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from raftkv.codec.frames import Stream
from raftkv.raft.types import NodeId
from raftkv.sim.clock import Schedule

REDIAL_US = (5_000, 500_000)
SILENCE_US = (3_000_000, 6_000_000)
"""How long the two ends of a dead connection go on believing in it."""


class Endpoint(Protocol):
    """A process, as the network sees it."""

    def deliver(self, sender: NodeId, data: bytes) -> None:
        """`data` has arrived from `sender`."""

    def peer_connected(self, node: NodeId) -> None:
        """Both directions to `node` are open."""

    def peer_disconnected(self, node: NodeId) -> None:
        """They no longer are."""


class NetworkFaults(Struct, frozen=True, kw_only=True):
    """What goes wrong, as probabilities and delays in microseconds. The first three concern loose values only."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    refusal: float = 0.0
    """How often a value is not taken, as when too much waits already."""
    delay_us: tuple[int, int] = (100, 1_000)
    slow_delay_us: tuple[int, int] = (5_000, 60_000)
    bytes_per_ms: int = 0
    """How much of a stream a connection carries; 0 for any amount."""


CALM = NetworkFaults()


class _Connection:
    """One direction: what `dialer` says to `acceptor`."""

    def __init__(self, dialer: _Process, acceptor: _Process) -> None:
        self.dialer = dialer
        self.acceptor = acceptor
        self.dead = False
        """Nothing more arrives."""
        self.arrival_us: dict[Stream, int] = {}
        self.held: list[bytes] = []
        """What has arrived at the cut."""


class _Link:
    """Everything that one process knows of another node."""

    def __init__(self) -> None:
        self.outgoing: _Connection | None = None
        self.incoming: _Connection | None = None
        self.met: _Process | None = None
        self.connected = False
        self.dialing = False


class _Process:
    """A process that listens."""

    def __init__(self, node: NodeId, boot: int, endpoint: Endpoint) -> None:
        self.node = node
        self.boot = boot
        self.endpoint = endpoint
        self.links: dict[NodeId, _Link] = {}


class SimNetwork:
    """Carries bytes between the nodes `names`."""

    def __init__(self, schedule: Schedule, rng: random.Random, names: tuple[NodeId, ...], faults: NetworkFaults = CALM) -> None:
        self.faults = faults
        self.fired: Counter[str] = Counter()
        self.overtakes: Callable[[], None] = lambda: None
        """Told when something small is sent and will arrive before something large that is on its way."""
        self._schedule = schedule
        self._rng = rng
        self._names = names
        self._processes: dict[NodeId, _Process] = {}
        self._cut: dict[tuple[NodeId, NodeId], int] = {}
        self._cuts = 0

    # Processes.

    def attach(self, node: NodeId, boot: int, endpoint: Endpoint) -> None:
        """A process of `node` listens and dials. `boot` grows with each process of the node."""
        process = _Process(node, boot, endpoint)
        self._processes[node] = process
        for peer in self._names:
            if peer != node:
                process.links[peer] = _Link()
                self._dial_soon(process, peer, (100, 5_000))

    def detach(self, node: NodeId, *, silent: bool) -> None:
        """The process of `node` is gone. If `silent` its machine is gone too, and the others find out late."""
        process = self._processes.pop(node, None)
        if process is None:
            return
        for link in process.links.values():
            for connection in (link.outgoing, link.incoming):
                if connection is not None:
                    connection.dead = True
                    self._tell(connection, process, silent=silent)

    def _tell(self, connection: _Connection, gone: _Process, *, silent: bool) -> None:
        other = connection.acceptor if connection.dialer is gone else connection.dialer
        cut = self.is_cut(gone.node, other.node)
        delay = self._rng.randint(*SILENCE_US) if silent or cut else self._delay()
        self._schedule.after(delay, lambda: self._notice(connection, other))

    # Links.

    def cut(self, sender: NodeId, receiver: NodeId, *, reset: bool = False) -> None:
        """From now on nothing gets from `sender` to `receiver`. With `reset` both ends notice soon."""
        self._cuts += 1
        number = self._cuts
        self._cut[sender, receiver] = number
        self.fired["cut"] += 1
        for one, other in ((sender, receiver), (receiver, sender)):
            delay = self._delay() if reset else self._rng.randint(*SILENCE_US)
            self._schedule.after(delay, lambda one=one, other=other: self._give_up(sender, receiver, number, one, other))  # type: ignore[misc]

    def _give_up(self, sender: NodeId, receiver: NodeId, number: int, one: NodeId, other: NodeId) -> None:
        if self._cut.get((sender, receiver)) == number:
            self.break_connection(one, other)

    def mend(self, sender: NodeId, receiver: NodeId) -> None:
        """The link works again; what waited at the cut arrives."""
        if self._cut.pop((sender, receiver), None) is None:
            return
        process = self._processes.get(sender)
        connection = process.links[receiver].outgoing if process is not None else None
        if connection is not None and connection.held:
            self._schedule.after(self._delay(), lambda: self._release(connection))

    def _release(self, connection: _Connection) -> None:
        """What waited at a cut arrives, in order."""
        while connection.held and self._may_arrive(connection) and not self.is_cut(connection.dialer.node, connection.acceptor.node):
            connection.acceptor.endpoint.deliver(connection.dialer.node, connection.held.pop(0))

    def heal(self) -> None:
        """Every link works again."""
        for sender, receiver in list(self._cut):
            self.mend(sender, receiver)

    def is_cut(self, sender: NodeId, receiver: NodeId) -> bool:
        """Whether nothing gets from `sender` to `receiver`."""
        return (sender, receiver) in self._cut

    def break_connection(self, sender: NodeId, receiver: NodeId) -> None:
        """The connection that `sender` dialed to `receiver` breaks: what is under way is lost, and each end notices in its time."""
        process = self._processes.get(sender)
        connection = process.links[receiver].outgoing if process is not None else None
        if connection is None or connection.dead:
            return
        self.fired["break"] += 1
        connection.dead = True
        for end in (connection.dialer, connection.acceptor):
            late = self._rng.random() < 0.1
            delay = self._rng.randint(20_000, 1_000_000) if late else self._delay()
            self._schedule.after(delay, lambda end=end: self._notice(connection, end))  # type: ignore[misc]

    # One end of a connection.

    def _dial_soon(self, process: _Process, peer: NodeId, delay_us: tuple[int, int] = REDIAL_US) -> None:
        link = process.links[peer]
        if not link.dialing:
            link.dialing = True
            self._schedule.after(self._rng.randint(*delay_us), lambda: self._dial(process, peer))

    def _dial(self, process: _Process, peer: NodeId) -> None:
        link = process.links[peer]
        link.dialing = False
        if not self._runs(process) or link.outgoing is not None:
            return
        target = self._processes.get(peer)
        if target is None or self.is_cut(process.node, peer) or self.is_cut(peer, process.node):
            self._dial_soon(process, peer)
            return
        link.dialing = True
        self._schedule.after(2 * self._delay(), lambda: self._accept(_Connection(process, target)))

    def _accept(self, connection: _Connection) -> None:
        dialer, acceptor = connection.dialer, connection.acceptor
        link = dialer.links[acceptor.node]
        here = acceptor.links[dialer.node]
        newer = here.met is not None and dialer.boot < here.met.boot and (here.outgoing is not None or here.incoming is not None)
        cut = self.is_cut(dialer.node, acceptor.node) or self.is_cut(acceptor.node, dialer.node)
        if not self._runs(dialer) or not self._runs(acceptor) or newer or cut:
            link.dialing = False
            if self._runs(dialer):
                self._dial_soon(dialer, acceptor.node)
            return
        self._schedule.after(self._delay(), lambda: self._welcome(connection))
        self._meet(acceptor, here, dialer)
        before, here.incoming = here.incoming, connection
        if before is not None:
            self._down(acceptor, here, dialer.node)
            before.dead = True
            self._notice_later(before, before.dialer)
        if here.outgoing is None:
            self._dial_soon(acceptor, dialer.node, (100, 1_000))
        self._update(acceptor, here, dialer.node)

    def _welcome(self, connection: _Connection) -> None:
        dialer, acceptor = connection.dialer, connection.acceptor
        link = dialer.links[acceptor.node]
        link.dialing = False
        if not self._runs(dialer):
            return
        if connection.dead or self.is_cut(acceptor.node, dialer.node):
            connection.dead = True
            self._notice_later(connection, acceptor)
            self._dial_soon(dialer, acceptor.node)
            return
        self._meet(dialer, link, acceptor)
        link.outgoing = connection
        self._update(dialer, link, acceptor.node)

    def _meet(self, process: _Process, link: _Link, other: _Process) -> None:
        """`other` is the newest process of its node: connections of any other end."""
        before, link.met = link.met, other
        if before is not None and before is not other:
            for connection in (link.outgoing, link.incoming):
                if connection is not None:
                    connection.dead = True
                    self._notice(connection, process)

    def _notice_later(self, connection: _Connection, end: _Process) -> None:
        self._schedule.after(self._delay(), lambda: self._notice(connection, end))

    def _notice(self, connection: _Connection, end: _Process) -> None:
        """One end finds out that the connection is gone."""
        if not self._runs(end):
            return
        other = connection.acceptor if end is connection.dialer else connection.dialer
        link = end.links[other.node]
        if link.outgoing is connection:
            link.outgoing = None
            self._dial_soon(end, other.node)
        elif link.incoming is connection:
            link.incoming = None
        else:
            return
        self._update(end, link, other.node)

    def _update(self, process: _Process, link: _Link, peer: NodeId) -> None:
        if link.outgoing is None or link.incoming is None:
            self._down(process, link, peer)
        elif not link.connected:
            link.connected = True
            process.endpoint.peer_connected(peer)

    def _down(self, process: _Process, link: _Link, peer: NodeId) -> None:
        if link.connected:
            link.connected = False
            process.endpoint.peer_disconnected(peer)

    def _runs(self, process: _Process) -> bool:
        return self._processes.get(process.node) is process

    # Values.

    def send(self, sender: NodeId, receiver: NodeId, stream: Stream, data: bytes, *, loose: bool) -> bool:
        """Send `data`; False when it surely does not leave.

        Args:
            stream: which values it keeps its order with.
            loose: it may also be lost, doubled and overtaken.
        """
        process = self._processes.get(sender)
        link = process.links.get(receiver) if process is not None else None
        connection = link.outgoing if link is not None else None
        faults, rng = self.faults, self._rng
        if connection is None:
            return False
        if faults.refusal and rng.random() < faults.refusal:
            self.fired["refusal"] += 1
            return False
        if loose:
            if faults.loss and rng.random() < faults.loss:
                self.fired["loss"] += 1
                return True
            if faults.duplication and rng.random() < faults.duplication:
                self.fired["duplication"] += 1
                self._arrive_loosely(connection, data)
            if faults.reordering and rng.random() < faults.reordering:
                self.fired["reordering"] += 1
                self._arrive_loosely(connection, data)
                return True
        self._arrive_in_order(connection, stream, data)
        return True

    def _delay(self) -> int:
        return self._rng.randint(*self.faults.delay_us)

    def _arrive_in_order(self, connection: _Connection, stream: Stream, data: bytes) -> None:
        now_us = self._schedule.now_us
        at_us = max(now_us + self._delay(), connection.arrival_us.get(stream, 0))
        if self.faults.bytes_per_ms:
            at_us += 1_000 * len(data) // self.faults.bytes_per_ms
        if stream is Stream.CONTROL and connection.arrival_us.get(Stream.BULK, 0) > at_us:
            self.overtakes()
        connection.arrival_us[stream] = at_us

        def arrive() -> None:
            if not self._may_arrive(connection):
                return
            if connection.held or self.is_cut(connection.dialer.node, connection.acceptor.node):
                self.fired["held"] += 1
                connection.held.append(data)
                return
            connection.acceptor.endpoint.deliver(connection.dialer.node, data)

        self._schedule.after(at_us - now_us, arrive)

    def _may_arrive(self, connection: _Connection) -> bool:
        here = connection.acceptor
        return not connection.dead and self._runs(here) and here.links[connection.dialer.node].incoming is connection

    def _arrive_loosely(self, connection: _Connection, data: bytes) -> None:
        dialer, acceptor = connection.dialer, connection.acceptor

        def arrive() -> None:
            cut = self.is_cut(dialer.node, acceptor.node)
            if self._runs(acceptor) and not cut and acceptor.links[dialer.node].met is dialer:
                acceptor.endpoint.deliver(dialer.node, data)

        self._schedule.after(self._rng.randint(*self.faults.slow_delay_us), arrive)
