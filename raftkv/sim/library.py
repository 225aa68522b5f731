"""Programs that use the client library in a simulated cluster: the real core of `raftkv.client`, with the simulated network under it.

Each has one lane of a client and a counter that nobody else changes. It sends increments and reads, alone and in pipelines, to whatever
node the library chooses, and what it is told must be true:

- An increment that was answered happened once, in order, after all that was answered before it.
- One that was refused never happens; one that is uncertain happens once or not at all.
- A read sees everything that was answered before it, and nothing that was asked for after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any, Protocol

from raftkv.client.command import AnyCommand, read, write
from raftkv.client.core import Broken, Close, Core, Effect, Exchange, Lane, Open, Outcome, Pause
from raftkv.client.replies import Answer, as_integer, as_string_or_none
from raftkv.client.url import Address, Settings
from raftkv.codec.resp import RequestLimits, RequestParser
from raftkv.errors import RaftkvError, Refused, ReplyError
from raftkv.kv.replies import Failure, NoArray, Pairs, Pushes, Reply, SetReply, Simple
from raftkv.sim.clock import Schedule, Timer
from raftkv.sim.node import SimNode
from raftkv.sim.trace import Trace, Violation

PORT = 7000
TIMEOUT_S = 2.0
THINK_US = (1_000, 80_000)
DELAY_US = (100, 3_000)
"""How long it takes until a node has a connection or a request, or the library an answer."""
MOST_COMMANDS = 8


class Nodes(Protocol):
    """Where the nodes are found."""

    @property
    def running(self) -> list[SimNode]: ...


def addresses(names: tuple[str, ...]) -> tuple[Address, ...]:
    """Where the library is told that the nodes are."""
    return tuple(Address(name, PORT) for name in names)


class Library:
    """One program, its lane and its connection.

    Args:
        number: tells it from the others.
        core: the client that it shares with them.
        schedule, trace, rng: of the simulation.
        nodes: where the nodes are found.
        connect: draws the number of a connection whose replies are to come here.
    """

    def __init__(
        self,
        number: int,
        core: Core,
        schedule: Schedule,
        trace: Trace,
        rng: random.Random,
        nodes: Callable[[], Nodes],
        connect: Callable[[Library], int],
    ) -> None:
        self.key = b"library:%d" % number
        self.stopped = False
        self.answered = 0
        """Increments that were answered."""
        self._core = core
        self._lane: Lane = core.lane()
        self._schedule = schedule
        self._trace = trace
        self._rng = rng
        self._nodes = nodes
        self._connect = connect
        self._node: SimNode | None = None
        self._connection = 0
        self._commands: list[AnyCommand] = []
        self._flow: Generator[Effect, Outcome, list[Any]] | None = None
        self._answers: list[Answer] = []
        self._awaited = 0
        self._timer: Timer | None = None
        self._highest = 0
        self._possible = 0

    def begin(self) -> None:
        """Think, and then make a call."""
        self._schedule.after(self._rng.randint(*THINK_US), self._call)

    def waits_for(self, node: SimNode) -> int:
        """How many answers of `node` it waits for."""
        return self._awaited - len(self._answers) if node is self._node else 0

    # A call.

    def _call(self) -> None:
        if self.stopped:
            return
        rng = self._rng
        count = 1 if rng.random() < 0.5 else rng.randint(2, MOST_COMMANDS)
        increment: AnyCommand = write(as_integer, "INCR", self.key)
        look: AnyCommand = read(as_string_or_none, "GET", self.key)
        self._commands = [increment if rng.random() < 0.7 else look for _ in range(count)]
        self._flow = self._core.perform(self._lane, self._commands, TIMEOUT_S)
        self._go_on(None)

    def _go_on(self, outcome: Outcome) -> None:
        """Hand `outcome` to the core, and carry out what it wants next."""
        if self._flow is None:
            return
        try:
            effect = self._flow.send(outcome)
        except StopIteration as stop:
            self._flow = None
            self._judge(stop.value)
            self.begin()
            return
        match effect:
            case Open(address):
                self._leave()
                self._later(lambda: self._open(address.host))
            case Close():
                self._leave()
                self._later(lambda: self._go_on(None))
            case Pause(seconds):
                self._schedule.after(int(seconds * 1_000_000) + 1, lambda: self._go_on(None))
            case Exchange(data, count, timeout_s):
                self._answers, self._awaited = [], count
                self._timer = self._schedule.after(int(timeout_s * 1_000_000) + 1, lambda: self._end_exchange("no answer in time"))
                requests = RequestParser(RequestLimits()).feed(data)
                self._later(lambda: self._ask(requests))

    def _later(self, action: Callable[[], None]) -> None:
        self._schedule.after(self._rng.randint(*DELAY_US), action)

    def _open(self, name: str) -> None:
        node = next((node for node in self._nodes().running if node.name == name), None)
        if node is None:
            self._go_on(Broken("the node does not run"))
            return
        self._node, self._connection = node, self._connect(self)
        node.open_client(self._connection)
        self._go_on(None)

    def _leave(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            node.close_client(self._connection)

    def _ask(self, requests: list[list[bytes]]) -> None:
        if self._node is None:
            self._end_exchange("the node died")
        else:
            self._node.submit(self._connection, requests)

    # What nodes do.

    def replied(self, connection: int, replies: list[Reply]) -> None:
        """Answers have come, in the middle of the node's work."""
        if connection != self._connection or self._node is None or not self._awaited:
            return
        self._answers += map(answer_of, replies)
        if len(self._answers) >= self._awaited:
            answers = self._answers
            self._stop_waiting()
            self._later(lambda: self._go_on(answers))

    def node_died(self, node: SimNode) -> None:
        """All connections to `node` have broken."""
        if node is self._node:
            self._node = None
            if self._awaited:
                self._later(lambda: self._end_exchange("the node died"))

    def _end_exchange(self, reason: str) -> None:
        if self._awaited:
            answers = self._answers
            self._stop_waiting()
            self._leave()
            self._go_on(Broken(reason, answers))

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._answers, self._awaited = [], 0

    # What it was told.

    def _judge(self, outcomes: list[object]) -> None:
        told = ", ".join(str(outcome)[:40] for outcome in outcomes)
        self._trace.note(f"library {self.key.decode()}", "is told", told)
        for command, outcome in zip(self._commands, outcomes, strict=True):
            counts = command.name == "INCR"
            if isinstance(outcome, Refused):
                continue
            self._possible += counts
            if isinstance(outcome, ReplyError) or not isinstance(outcome, RaftkvError | int | bytes | None):
                raise Violation("known errors", f"the library tells {outcome!r} of {command.name} {self.key!r}")
            if isinstance(outcome, RaftkvError):
                continue
            value = int(outcome or 0)
            if not self._highest + counts <= value <= self._possible:
                raise Violation(
                    "counters",
                    f"{command.name} {self.key!r} of the library gives {value} after {self._highest}; {self._possible} may have happened",
                )
            self._highest = value
            self.answered += counts
        self._commands = []

    def check(self, value: int) -> None:
        """The counter is `value` in the end. What a call that has not ended asked for may have happened."""
        possible = self._possible + sum(command.name == "INCR" for command in self._commands)
        if not self._highest <= value <= possible:
            raise Violation("counters", f"{self.key!r} is {value}; {self._highest} were told and {possible} may have happened")


def new_core(names: tuple[str, ...], schedule: Schedule, rng: random.Random) -> Core:
    """A client of the nodes `names`, with the time and the chance of the simulation."""
    return Core(Settings(addresses=addresses(names)), lambda: schedule.now_us / 1_000_000, rng, rng.randbytes)


def answer_of(reply: Reply) -> Answer:
    """A reply as a client reads it from the wire."""
    if isinstance(reply, Failure):
        return ReplyError(f"{reply.code} {reply.message}")
    if isinstance(reply, Simple):
        return reply.text.encode()
    if isinstance(reply, list):
        return [answer_of(item) for item in reply]
    if isinstance(reply, SetReply):
        return [answer_of(member) for member in reply.members]
    if isinstance(reply, Pairs):
        return [[answer_of(half) for half in pair] for pair in reply.pairs]
    if isinstance(reply, dict):
        return {answer_of(key): answer_of(value) for key, value in reply.items()}
    if isinstance(reply, Pushes):
        raise TypeError("this client subscribes to nothing")
    return None if isinstance(reply, NoArray) else reply
