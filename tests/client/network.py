"""Nodes and a network for the client's core: everything that a cluster may do to a client, and nothing that it may not.

There is one real state machine. What is asked of a node is applied at once, or later, or never; the answer comes, or the connection breaks
first; a node refuses what it has not taken. What a node has taken and not applied stays in its hands, in order, until it applies it or
dies. Time is virtual, and everything that happens is drawn from a seed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator
from typing import Any

from raftkv.client.core import Broken, Close, Core, Effect, Exchange, Open, Outcome, Pause
from raftkv.client.replies import Answer
from raftkv.client.url import Address, Settings
from raftkv.codec.resp import RequestLimits, RequestParser
from raftkv.errors import ReplyError
from raftkv.kv.batch import FORMAT_VERSION, Batch, Group, encode_batch
from raftkv.kv.commands import Kind, encode_commands, find_spec, parse_request
from raftkv.kv.machine import KvMachine
from raftkv.kv.replies import CommandError
from raftkv.kv.sessions import LIMITS, Limits
from raftkv.sim.library import answer_of
from tests.router.rows import MemoryRows

Flow = Generator[Effect, Outcome, Any]

NODES = tuple(Address(name, 7001) for name in ("n1", "n2", "n3"))


class Node:
    """One node: what it has taken and not applied."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.taken: deque[list[bytes]] = deque()


class World:
    """The nodes, their state and the clock. `trouble` from 0 to 1 says how often something goes wrong."""

    def __init__(self, rng: random.Random, trouble: float = 0.0, sessions: bool = True, limits: Limits = LIMITS) -> None:
        self.rng = rng
        self.trouble = trouble
        self.sessions = sessions
        self.now_s = 100.0
        self.machine = KvMachine(MemoryRows(), limits=limits)
        self.leader = NODES[0]
        self.nodes = {address: Node(address) for address in NODES}
        self.down: set[Address] = set()
        self.log: list[list[bytes]] = []
        """Every request that a node was asked, in order."""
        self.applied = 0

    def core(self, **settings: Any) -> Core:
        """A client of these nodes."""
        return Core(Settings(addresses=NODES, **settings), lambda: self.now_s, self.rng, self.rng.randbytes)

    def forget(self) -> None:
        """Another state takes the place of this one: empty, without a session."""
        self.machine = KvMachine(MemoryRows())
        self.applied = 0

    # What nodes do.

    def apply(self, request: list[bytes]) -> Answer:
        """`request` takes effect."""
        try:
            command = parse_request(request)
        except CommandError as error:
            return answer_of(error.failure)
        if command.kind is Kind.READ:
            return answer_of(self.machine.read(command))
        group = Group(0, self.rng.randbytes(16), 1, 0, 1, encode_commands([command]))
        batch = Batch(FORMAT_VERSION, 1, int(self.now_s * 1000), [group])
        self.applied += 1
        [replies] = self.machine.apply(self.applied, 1, encode_batch(batch)).groups
        return answer_of(replies.replies[0])

    def settle(self, node: Node, most: int | None = None) -> None:
        """`node` applies what it has taken."""
        while node.taken and most != 0:
            self.apply(node.taken.popleft())
            most = None if most is None else most - 1

    def local(self, address: Address, request: list[bytes]) -> Answer:
        """The answer to what concerns the node."""
        match [part.upper() for part in request[:2]]:
            case [b"HELLO", *_]:
                return {b"server": b"redis", b"role": b"master" if address == self.leader else b"replica"}
            case [b"ROLE", *_]:
                return [b"slave", self.leader.host.encode(), self.leader.port, b"connected", 0]
            case [b"COMMAND", b"INFO"]:
                specs = [find_spec(name) for name in request[2:]]
                return [None if spec is None else [spec.name.encode(), spec.arity, [*map(str.encode, spec.flags)]] for spec in specs]
            case _:
                return b"PONG"

    def answer(self, address: Address, request: list[bytes]) -> Answer:
        """What `address` answers to one request.

        Raises:
            ConnectionResetError: the connection breaks instead.
        """
        self.log.append(request)
        node = self.nodes[address]
        name = request[0].upper()
        spec = find_spec(request[0])
        if name.startswith(b"RAFTKV") and not self.sessions:
            return ReplyError(f"ERR unknown command '{name.decode()}', with args beginning with: ")
        if spec is not None and spec.kind is Kind.CONNECTION:
            self.maybe_break(0.2)
            return self.local(address, request)
        if self.unlucky(0.3):
            return ReplyError(self.rng.choice(["CLUSTERDOWN not now", "OVERLOADED not now"]))
        writes = spec is not None and spec.kind is Kind.WRITE
        if writes and self.unlucky(0.3):
            node.taken.append(request)
            self.maybe_break(0.5 / self.trouble)
            return ReplyError("UNCERTAIN it may still happen")
        self.maybe_break(0.1)
        self.settle(node)
        answer = self.apply(request)
        self.maybe_break(0.3)
        return answer

    def maybe_break(self, share: float) -> None:
        """The connection breaks, or does not."""
        if self.unlucky(share):
            raise ConnectionResetError("it broke")

    def unlucky(self, share: float) -> bool:
        """Whether something goes wrong now."""
        return self.rng.random() < self.trouble * share

    def happen(self) -> None:
        """Nodes go on, or die with what they had taken."""
        node = self.nodes[self.rng.choice(NODES)]
        if self.rng.random() < 0.3:
            self.settle(node, self.rng.randrange(3))
        elif self.rng.random() < self.trouble * 0.1:
            node.taken.clear()
        elif self.rng.random() < self.trouble * 0.2:
            self.leader = self.rng.choice(NODES)
        elif self.rng.random() < self.trouble * 0.2:
            self.down = {self.rng.choice(NODES)} if self.rng.random() < 0.7 else set()


class Line:
    """What carries out the steps of flows: a connection to one node, or none."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.address: Address | None = None

    def do(self, effect: Effect) -> Outcome:
        """Carry out a step."""
        world = self.world
        world.now_s += world.rng.random() * 0.01
        match effect:
            case Open(address, timeout_s):
                self.address = None
                if address in world.down or world.unlucky(0.1):
                    world.now_s += timeout_s if world.rng.random() < 0.2 else 0
                    return Broken("refused")
                self.address = address
            case Close():
                self.address = None
            case Pause(seconds):
                assert seconds > 0
                world.now_s += seconds
            case Exchange(data, count, timeout_s):
                return self.exchange(data, count, timeout_s)
        return None

    def exchange(self, data: bytes, count: int, timeout_s: float) -> Outcome:
        """The answers to what was sent."""
        assert self.address is not None, "something was sent without a connection"
        parser = RequestParser(RequestLimits())
        requests = parser.feed(data)
        assert (len(requests), parser.problem) == (count, None)
        answers: list[Answer] = []
        for position, request in enumerate(requests):
            if self.address in self.world.down:
                break
            try:
                answers.append(self.world.answer(self.address, request))
            except ConnectionResetError as error:
                self._rest(requests[position + 1 :])
                self.address = None
                self.world.now_s += timeout_s if self.world.rng.random() < 0.2 else 0
                return Broken(str(error), answers)
        if len(answers) < count:
            self.address = None
            return Broken("the node is down", answers)
        return answers

    def _rest(self, requests: list[list[bytes]]) -> None:
        """What was sent behind a request whose answer did not come: the node had it, all of it or a part, or not at all."""
        node = self.world.nodes[self.address] if self.address is not None else None
        had = self.world.rng.randint(0, len(requests))
        for request in requests[:had]:
            spec = find_spec(request[0])
            if node is not None and spec is not None and spec.kind is Kind.WRITE:
                node.taken.append(request)


def drive(line: Line, flow: Flow) -> Any:
    """Carry out a flow alone, to its end."""
    outcome: Outcome = None
    while True:
        try:
            effect = flow.send(outcome)
        except StopIteration as stop:
            return stop.value
        outcome = line.do(effect)
        line.world.happen()
