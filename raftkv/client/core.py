"""One call, from its first byte to its outcome, as steps that a shell carries out.

`Core.perform` is a generator. It yields what is to be done (`Open`, `Exchange`, `Pause`, `Close`) and is sent what came of it; what it
returns are the outcomes of the commands. So the order of things is written once, top to bottom, for threads and for asyncio, and a test
plays the network. The clock and the randomness are handed in.

A `Lane` is one place in the pool: a connection, when there is one, and the session that outlives it. One call at a time uses a lane.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from raftkv.client.call import REFUSALS, Call
from raftkv.client.command import AnyCommand, Kind
from raftkv.client.replies import Answer, encode_request
from raftkv.client.routes import Routes
from raftkv.client.session import Session
from raftkv.client.url import Address, Settings
from raftkv.errors import ReplyError, Unavailable

CONNECT_S: Final = 1.0
"""How long one node may take to accept a connection while there are others."""
_DENIED: Final = frozenset({"NOAUTH", "NOPERM", "NOPROTO", "WRONGPASS"})
"""Codes of errors in a greeting that no other node would take back."""


@dataclass(frozen=True, slots=True)
class Open:
    """Connect to `address`, in place of the connection that there may be."""

    address: Address
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send `data` and wait for `count` answers."""

    data: bytes
    count: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection, if there is one."""


@dataclass(frozen=True, slots=True)
class Broken:
    """There is no connection (any more), for this reason; `answers` are those that had come."""

    reason: str
    answers: list[Answer] = field(default_factory=list)


Effect = Open | Exchange | Pause | Close
Outcome = list[Answer] | Broken | None
"""The answers to an `Exchange`; None for everything else that went well."""
Flow = Generator[Effect, Outcome, list[Any]]
_Step = Generator[Effect, Outcome, str | None]
"""Returns why it has to be tried again, if so."""


class Lane:
    """One place in the pool. `address` is the node that it is connected to, None when it is not."""

    __slots__ = ("address", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.address: Address | None = None


class Core:
    """What all calls of one client share. A shell calls nothing here from two threads at once.

    Args:
        settings: what the client was told.
        clock: the time in seconds; monotonic.
        rng: for pauses, and where to begin.
        draw: random bytes for the names of sessions.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float], rng: random.Random, draw: Callable[[int], bytes]
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.routes = Routes(settings.addresses, rng.randrange(len(settings.addresses)))
        self.sessions: bool | None = None
        """Whether the nodes have sessions; None until one has told."""
        self._rng = rng
        self._draw = draw
        self._kinds: dict[str, Kind] = {}

    def lane(self) -> Lane:
        """A new place in the pool."""
        return Lane(Session(self._draw))

    # A call.

    def perform(self, lane: Lane, commands: Sequence[AnyCommand], timeout_s: float) -> Flow:
        """Do `commands`, in order.

        Args:
            lane: where; nobody else uses it meanwhile.
            commands: what.
            timeout_s: how long all of it may take.

        Returns:
            What each command was answered, in the type that its method returns, or the error to raise.

        Raises:
            ReplyError: the client is not let in.
        """
        deadline_s = self.clock() + timeout_s
        call: Call | None = None
        reason = "no node was asked"
        failures = 0
        finished = False
        try:
            while call is None or not call.over:
                left_s = deadline_s - self.clock()
                if left_s <= 0:
                    break
                if call is None:
                    problem = yield from self._learn_kinds(lane, commands, left_s)
                    if problem is None:
                        call = Call([self._with_kind(command) for command in commands], None if self.sessions is False else lane.session)
                else:
                    problem = yield from self._advance(lane, call, left_s)
                if problem is not None:
                    reason = problem
                    failures += 1
                    yield from self._pause(failures, deadline_s)
            finished = True
        finally:
            if not finished:  # cancelled, interrupted or refused: what was sent may happen, and its answers may come
                lane.address = None
                if not lane.session.opened:  # a name is asked to be opened once
                    lane.session.renew()
                if call is not None:
                    call.settle()
        late = f"{reason}; there was no outcome within {timeout_s:.3g} s"
        if call is None:
            return [Unavailable(late)] * len(commands)
        if not call.over:
            call.give_up(late)
        return call.outcomes

    def _advance(self, lane: Lane, call: Call, left_s: float) -> _Step:
        """Send what can be sent now, and take the answers."""
        problem = yield from self.connect(lane, left_s)
        if problem is None and call.needs_session:
            problem = yield from self._open_session(lane, left_s)
            if self.sessions is False:
                call.without_sessions()
        if problem is not None:
            return problem
        data, count = call.next_request()
        outcome = yield Exchange(data, count, self._patience_s(left_s) if call.repeatable else left_s)
        if isinstance(outcome, Broken):
            yield from self.leave(lane)
            return call.answered(outcome.answers, broken=outcome.reason)
        problem = call.answered(outcome or [])
        if call.elsewhere:
            yield from self.leave(lane)
        return problem

    def _patience_s(self, left_s: float) -> float:
        """How long to wait for one node: not to the very end while another might answer."""
        return left_s / 2 if len(self.settings.addresses) > 1 and left_s > 0.2 else left_s

    def _pause(self, failures: int, deadline_s: float) -> Generator[Effect, Outcome, None]:
        seconds = min(self.routes.pause_s(failures, self._rng.random()), deadline_s - self.clock())
        if seconds > 0:
            yield Pause(seconds)

    # Kinds.

    def _with_kind(self, command: AnyCommand) -> AnyCommand:
        return command if command.kind is not Kind.UNKNOWN else replace(command, kind=self._kinds[command.name])

    def _learn_kinds(self, lane: Lane, commands: Sequence[AnyCommand], left_s: float) -> _Step:
        """Ask a node what it knows of the commands that nothing is known of."""
        unknown = (command.name for command in commands if command.kind is Kind.UNKNOWN)
        names = list(dict.fromkeys(name for name in unknown if name not in self._kinds))
        if not names:
            return None
        problem = yield from self.connect(lane, left_s)
        if problem is not None:
            return problem
        request = encode_request((b"COMMAND", b"INFO", *(name.encode("utf-8", "replace") for name in names)))
        answer, problem = yield from self.ask(lane, request, left_s)
        if problem is None and isinstance(answer, list):
            self._kinds.update({name: _kind_of(row) for name, row in zip(names, answer, strict=False)})
        return problem or (None if all(name in self._kinds for name in names) else f"a node answered {str(answer)[:200]}")

    # Connections.

    def connect(self, lane: Lane, left_s: float) -> _Step:
        """Have a connection: to the leader, if it is known and one of the nodes that the client was told, else to any node."""
        if lane.address is not None:
            return None
        problem = yield from self._greet(lane, self.routes.pick(self.clock()), left_s)
        if problem is not None or self.routes.leader == lane.address:
            return problem
        answer, problem = yield from self.ask(lane, encode_request((b"ROLE",)), left_s)
        if problem is not None:
            return problem
        leader = _leader_in(answer)
        if leader in self.settings.addresses and leader != lane.address and self.routes.worth_following(leader, self.clock()):
            return (yield from self._greet(lane, leader, left_s))
        return None

    def _greet(self, lane: Lane, address: Address, left_s: float) -> _Step:
        lane.address = None
        alone = len(self.settings.addresses) == 1
        outcome = yield Open(address, left_s if alone else min(left_s, CONNECT_S))
        if not isinstance(outcome, Broken):
            outcome = yield Exchange(self._hello(), 1, left_s if alone else min(left_s, CONNECT_S))
        answer = outcome[0] if isinstance(outcome, list) else None
        if isinstance(answer, dict):
            lane.address = address
            if answer.get(b"role") == b"master":
                self.routes.leads(address)
            else:
                self.routes.serves(address)
            return None
        yield Close()
        self.routes.failed(address, self.clock())
        if isinstance(answer, ReplyError) and answer.code in _DENIED:
            raise answer
        return f"{address}: {outcome.reason if isinstance(outcome, Broken) else str(answer)}"

    def _hello(self) -> bytes:
        settings = self.settings
        if settings.password is None:
            return encode_request((b"HELLO", b"3"))
        return encode_request((b"HELLO", b"3", b"AUTH", settings.username.encode(), settings.password.encode()))

    def ask(self, lane: Lane, request: bytes, left_s: float) -> Generator[Effect, Outcome, tuple[Answer, str | None]]:
        """Send a request that has no effect; its answer, or why there is none."""
        outcome = yield Exchange(request, 1, self._patience_s(left_s))
        if isinstance(outcome, list):
            return outcome[0], None
        yield from self.leave(lane)
        return None, outcome.reason if outcome is not None else "there was no answer"

    def leave(self, lane: Lane) -> Generator[Effect, Outcome, None]:
        """Do without the node that the lane is connected to, for now."""
        if lane.address is not None:
            self.routes.failed(lane.address, self.clock())
        lane.address = None
        yield Close()

    def _open_session(self, lane: Lane, left_s: float) -> _Step:
        answer, problem = yield from self.ask(lane, lane.session.opening(), left_s)
        if answer == b"OK":
            self.sessions = lane.session.opened = True
            return None
        # The request may take effect yet. Under a name that is in use by then it could bring back a session that was forgotten.
        lane.session.renew()
        if problem is not None:
            return problem
        if self.sessions is None and isinstance(answer, ReplyError) and answer.code == "ERR":
            self.sessions = False
            return None
        if isinstance(answer, ReplyError) and answer.code in REFUSALS:
            yield from self.leave(lane)
        return f"a node answered {str(answer)[:200]}"


def _kind_of(row: Answer) -> Kind:
    """The kind of a command, from what COMMAND INFO tells of it. One that blocks has no place in a session."""
    if not isinstance(row, list) or len(row) < 3 or not isinstance(row[2], list):
        return Kind.OTHER
    flags = row[2]
    if b"readonly" in flags:
        return Kind.READ
    return Kind.WRITE if b"write" in flags and b"blocking" not in flags else Kind.OTHER


def _leader_in(answer: Answer) -> Address | None:
    """The leader that the answer to ROLE names."""
    match answer:
        case [b"slave", bytes(host), int(port), *_] if host and 0 < port < 65536:
            return Address(host.decode("utf-8", "replace"), port)
        case _:
            return None
