"""The core of the clients, step by step: what it sends, and what it makes of what comes back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from raftkv.client.command import AnyCommand, Kind, read, write
from raftkv.client.core import Broken, Effect, Exchange, Lane, Open, Outcome, Pause
from raftkv.client.queue import any_command
from raftkv.client.replies import Answer, as_done, as_integer, as_string_or_none
from raftkv.client.transaction import look, look_anywhere
from raftkv.client.url import Address
from raftkv.codec.resp import RequestLimits, RequestParser
from raftkv.errors import Busy, InvalidRequest, ReplyError, Unavailable, Uncertain
from tests.client.network import NODES, Flow, Line, World, drive

INCR: AnyCommand = write(as_integer, "INCR", "n")
GET: AnyCommand = read(as_string_or_none, "GET", "n")

Script = Callable[[list[bytes]], Answer]
"""What a node answers; an OSError breaks the connection."""


class Stand:
    """A client whose nodes answer as a script says, and a record of what it did."""

    def __init__(self, script: Script | None = None) -> None:
        self.world = World(random.Random(1))
        self.core = self.world.core()
        self.lane = self.core.lane()
        self.line = Line(self.world)
        self.script = script
        self.opened: list[Address] = []
        self.asked: list[list[bytes]] = []
        self.refusing: set[Address] = set()

    def do(self, *commands: AnyCommand, timeout_s: float = 5.0, lane: Lane | None = None) -> list[object]:
        """One call; its outcomes."""
        outcomes: list[object] = self.drive(self.core.perform(lane or self.lane, commands, timeout_s))
        return outcomes

    def drive(self, flow: Flow) -> list[object]:
        """Carry out a flow."""
        outcome: Outcome = None
        while True:
            try:
                effect = flow.send(outcome)
            except StopIteration as stop:
                result: list[object] = stop.value
                return result
            outcome = self.step(effect)

    def step(self, effect: Effect) -> Outcome:
        """Carry out a step."""
        if isinstance(effect, Open):
            self.opened.append(effect.address)
            if effect.address in self.refusing:
                return Broken("refused")
        if isinstance(effect, Exchange):
            requests = RequestParser(RequestLimits()).feed(effect.data)
            self.asked += requests
            if self.script is not None and requests[0][0] not in (b"HELLO", b"ROLE"):
                try:
                    return [self.script(request) for request in requests]
                except OSError as error:
                    return Broken(str(error))
        return self.line.do(effect)

    def names(self) -> list[str]:
        """The names of what was asked, those inside of sessions with their numbers."""
        return [
            f"{request[4].decode()} #{request[2].decode()}" if request[0] == b"RAFTKV.ONCE" else request[0].decode()
            for request in self.asked
        ]


def test_a_write_opens_a_session_and_is_numbered_in_it() -> None:
    """The session is opened once, before the first write; a read needs none."""
    stand = Stand()
    assert stand.do(GET) == [None]
    assert stand.names() == ["HELLO", "GET"] or stand.names() == ["HELLO", "ROLE", "HELLO", "GET"]
    stand.asked.clear()
    assert stand.do(INCR) + stand.do(INCR) == [1, 2]
    assert stand.names() == ["RAFTKV.SESSION", "INCR #1", "INCR #2"]
    assert [request[3] for request in stand.asked[1:]] == [b"0", b"1"]


def test_the_leader_is_followed() -> None:
    """A node that does not lead names the leader, and the next connections go there at once; no more when it fails."""
    stand = Stand()
    stand.world.leader = NODES[2]
    stand.do(GET)
    assert stand.line.address == NODES[2]
    stand.opened.clear()
    stand.do(GET, lane=stand.core.lane())
    assert stand.opened == [NODES[2]]
    stand.refusing = {NODES[2]}
    stand.opened.clear()
    assert stand.do(GET, lane=stand.core.lane()) == [None]
    assert stand.opened[0] == NODES[2]
    assert stand.line.address in NODES[:2]


def test_only_nodes_that_the_client_was_told_of_are_followed() -> None:
    """A node may be known to the others under an address that means somebody else here."""
    stand = Stand()
    stand.world.leader = Address("127.0.0.1", 7001)
    assert stand.do(GET) == [None]
    assert set(stand.opened) <= set(NODES)
    assert len(stand.opened) == 1


def test_a_pipeline_is_sent_in_pieces_that_keep_its_order() -> None:
    """Writes and the reads behind them leave together; a write waits for the reads in front of it."""
    stand = Stand()
    pieces: list[int] = []
    step = stand.step

    def counting(effect: Effect) -> Outcome:
        if isinstance(effect, Exchange) and b"ONCE" in effect.data:
            pieces.append(effect.count)
        return step(effect)

    stand.step = counting  # type: ignore[method-assign]
    assert stand.do(INCR, INCR, GET, GET, INCR, GET) == [1, 2, b"2", b"2", 3, b"3"]
    assert pieces == [4, 2]
    pieces.clear()
    assert stand.do(*[INCR] * 1100) == list(range(4, 1104))
    assert pieces == [512, 512, 76]


def test_what_was_not_answered_is_asked_again_with_its_numbers() -> None:
    """A connection breaks after two of four answers: the other two are sent again, one of which had been applied."""
    stand = Stand()
    stand.do(INCR)
    stand.asked.clear()
    step = stand.step
    broken: list[bool] = []

    def breaking(effect: Effect) -> Outcome:
        outcome = step(effect)
        if isinstance(effect, Exchange) and isinstance(outcome, list) and effect.count == 4 and not broken:
            broken.append(True)
            stand.line.address = None
            return Broken("reset", outcome[:2])
        return outcome

    stand.step = breaking  # type: ignore[method-assign]
    assert stand.do(INCR, INCR, INCR, INCR) == [2, 3, 4, 5]
    assert [name for name in stand.names() if "#" in name] == ["INCR #2", "INCR #3", "INCR #4", "INCR #5", "INCR #4", "INCR #5"]
    assert [request[3] for request in stand.asked if request[0] == b"RAFTKV.ONCE"][-2:] == [b"3", b"3"]


def test_what_is_refused_for_the_whole_time_did_not_happen() -> None:
    """CLUSTERDOWN ends in `Unavailable`, OVERLOADED in `Busy`, and their number is used again; the time is kept."""
    for text, kind in (("CLUSTERDOWN no leader", Unavailable), ("OVERLOADED later", Busy)):
        stand = Stand()
        stand.do(INCR)
        session = stand.lane.session.name

        def refuse(request: list[bytes], text: str = text) -> Answer:
            return ReplyError(text)

        stand.script = refuse
        began_s = stand.world.now_s
        [outcome] = stand.do(INCR, timeout_s=2.0)
        assert isinstance(outcome, kind)
        assert "did not happen" in str(outcome)
        assert 2.0 <= stand.world.now_s - began_s < 2.5
        stand.script = None
        assert stand.do(INCR) == [2]
        assert stand.lane.session.name == session


def test_what_was_sent_and_never_answered_is_uncertain_and_ends_its_session() -> None:
    """The write may happen at any time, so its number must never mean another."""
    stand = Stand()
    stand.do(INCR)
    session = stand.lane.session.name

    def breaking(request: list[bytes]) -> Answer:
        raise ConnectionResetError("reset")

    stand.script = breaking
    [outcome] = stand.do(INCR, timeout_s=1.0)
    assert isinstance(outcome, Uncertain)
    assert not outcome.definite
    stand.script = None
    assert stand.do(INCR) == [2]
    assert stand.lane.session.name != session


def test_a_read_that_is_never_answered_did_not_happen() -> None:
    """A read has no effect, so its failure is definite."""

    def breaking(request: list[bytes]) -> Answer:
        raise ConnectionResetError("reset")

    [outcome] = Stand(breaking).do(GET, timeout_s=1.0)
    assert isinstance(outcome, Unavailable)
    assert outcome.definite


def test_an_opening_without_an_answer_is_not_repeated_under_its_name() -> None:
    """It may still take effect, and bring back a session that was used and forgotten in between."""
    stand = Stand()
    failures = iter([ConnectionResetError("reset"), "UNCERTAIN late", "CLUSTERDOWN no leader"])

    def failing(request: list[bytes]) -> Answer:
        failure = next(failures, None)
        if failure is None:
            stand.script = None
            return stand.world.apply(request)
        if isinstance(failure, OSError):
            raise failure
        return ReplyError(str(failure))

    stand.script = failing
    assert stand.do(INCR) == [1]
    opened = [request[1] for request in stand.asked if request[0] == b"RAFTKV.SESSION"]
    assert len(opened) == len(set(opened)) == 4


def test_a_session_that_was_forgotten_is_replaced() -> None:
    """A write that had not been sent before goes on in another session; one whose outcome was open stays uncertain."""
    stand = Stand()
    stand.do(INCR)
    stand.world.forget()
    assert stand.do(INCR, INCR) == [1, 2]
    asked: list[bytes] = []

    def forgetting(request: list[bytes]) -> Answer:
        asked.append(request[2])
        if len(asked) == 1:
            raise ConnectionResetError("reset")
        stand.script = None
        return ReplyError("NOSESSION gone")

    stand.script = forgetting
    [outcome] = stand.do(INCR)
    assert isinstance(outcome, Uncertain)
    assert "session was lost" in str(outcome)
    assert stand.do(INCR) == [3]


def test_a_number_that_was_used_up_without_a_trace_ends_the_session() -> None:
    """A node may refuse a command in words of its own before it is in the log. The next write is refused for the gap, and goes on in
    another session."""
    stand = Stand()
    stand.do(INCR)

    def too_large(request: list[bytes]) -> Answer:
        stand.script = None
        return ReplyError("ERR the command has 9 bytes; max_entry_bytes is 8")

    stand.script = too_large
    [outcome] = stand.do(INCR)
    assert isinstance(outcome, ReplyError)
    session = stand.lane.session.name
    assert stand.do(INCR) == [2]
    assert stand.lane.session.name != session


def test_errors_of_a_command_are_its_outcome() -> None:
    """An error is told at once, and the commands behind it have their own outcomes."""
    stand = Stand()
    wrong: AnyCommand = write(as_integer, "INCR", "text")
    outcomes = stand.do(write(as_done, "SET", "text", "x"), wrong, INCR, write(as_integer, "NONSENSE"))
    assert [type(outcome) for outcome in outcomes] == [bool, ReplyError, int, ReplyError]
    assert isinstance(outcomes[1], ReplyError)
    assert outcomes[1].code == "ERR"
    assert stand.do(INCR) == [2]


def test_the_kind_of_an_unknown_command_is_asked_once() -> None:
    """`execute` sends a write in the session and a read plainly, and asks a node which it is, once for each name."""
    stand = Stand()
    commands = [any_command((name, "n")) for name in ("INCR", "get", "INCR")]
    assert stand.do(*commands) == [1, b"1", 2]
    assert stand.do(*commands) == [3, b"3", 4]
    told = [request for request in stand.asked if request[0] == b"COMMAND"]
    assert told == [[b"COMMAND", b"INFO", b"INCR", b"GET"]]
    assert [name for name in stand.names() if name[:4] in ("INCR", "get")] == ["INCR #1", "get", "INCR #2", "INCR #3", "get", "INCR #4"]


@pytest.mark.parametrize("name", ["multi", "WATCH", "Subscribe", "hello", "SELECT"])
def test_a_command_that_changes_a_connection_is_refused(name: str) -> None:
    """Connections are shared by calls, so none may leave them different."""
    with pytest.raises(InvalidRequest, match="state of a connection"):
        any_command((name, "x"))
    with pytest.raises(InvalidRequest, match="needs the name"):
        any_command(())


def test_who_is_not_let_in_is_told_at_once() -> None:
    """A wrong password is wrong at every node."""
    stand = Stand()
    step = stand.step

    def denying(effect: Effect) -> Outcome:
        return [ReplyError("WRONGPASS no")] if isinstance(effect, Exchange) else step(effect)

    stand.step = denying  # type: ignore[method-assign]
    with pytest.raises(ReplyError, match="WRONGPASS"):
        stand.do(GET)
    assert len(stand.opened) == 1
    assert stand.lane.address is None


def test_a_node_that_hangs_is_not_waited_for_to_the_end() -> None:
    """A read, and a write in a session, give a node half of the time that is left and then ask another."""
    patience: list[float] = []

    def waits(kind: Kind) -> float:
        stand = Stand()
        stand.do(INCR)
        step = stand.step

        def hanging(effect: Effect) -> Outcome:
            if isinstance(effect, Exchange) and not patience:
                patience.append(effect.timeout_s)
                stand.world.now_s += effect.timeout_s
                stand.line.address = None
                return Broken("timeout")
            return step(effect)

        stand.step = hanging  # type: ignore[method-assign]
        stand.do(GET if kind is Kind.READ else INCR, timeout_s=4.0)
        return patience.pop()

    assert 1.9 < waits(Kind.READ) <= 2.0
    assert 1.9 < waits(Kind.WRITE) <= 2.0


def test_nothing_is_asked_when_no_node_can_be_reached() -> None:
    """Every node has its turn, then all again after pauses that grow, until the time is over."""
    stand = Stand()
    stand.refusing = set(NODES)
    pauses: list[float] = []
    step = stand.step

    def pausing(effect: Effect) -> Outcome:
        if isinstance(effect, Pause):
            pauses.append(effect.seconds)
        return step(effect)

    stand.step = pausing  # type: ignore[method-assign]
    [outcome] = stand.do(INCR, timeout_s=3.0)
    assert isinstance(outcome, Unavailable)
    assert "refused" in str(outcome)
    assert set(stand.opened[:3]) == set(NODES)
    assert max(pauses) > 0.15
    assert stand.asked == []


def test_a_cancelled_call_leaves_its_connection_and_its_session_behind() -> None:
    """The answers to what was sent may come, and must not be taken for those of the next call."""
    stand = Stand()
    stand.do(INCR)
    session = stand.lane.session.name
    flow = stand.core.perform(stand.lane, [INCR], 5.0)
    assert isinstance(flow.send(None), Exchange)
    flow.close()
    assert stand.lane.address is None
    assert stand.lane.session.name != session


def test_nodes_without_sessions_are_sent_plain_writes() -> None:
    """Where RAFTKV.SESSION is unknown, a write is sent once, and is uncertain when no answer comes."""
    stand = Stand()
    stand.world.sessions = False
    assert stand.do(INCR, INCR) == [1, 2]
    assert stand.core.sessions is False
    stand.asked.clear()
    step = stand.step

    def breaking(effect: Effect) -> Outcome:
        outcome = step(effect)
        return Broken("reset") if isinstance(effect, Exchange) and b"INCR" in effect.data else outcome

    stand.step = breaking  # type: ignore[method-assign]
    [outcome] = stand.do(INCR)
    assert isinstance(outcome, Uncertain)
    assert stand.names() == ["INCR"]


def test_a_flow_that_is_carried_out_alone_ends() -> None:
    """The network of the property tests carries out a call as the shells do."""
    world = World(random.Random(3))
    core = world.core()
    assert drive(Line(world), core.perform(core.lane(), [INCR, GET], 1.0)) == [1, b"1"]


def test_a_call_that_is_cancelled_while_it_opens_a_session_leaves_its_name_behind() -> None:
    """The request may take effect late, when the nodes have forgotten the session: nobody may count on that name then."""
    stand = Stand()
    stand.do(GET)
    session = stand.lane.session.name
    flow = stand.core.perform(stand.lane, [INCR], 5.0)
    effect = flow.send(None)
    assert isinstance(effect, Exchange)
    assert b"RAFTKV.SESSION" in effect.data
    flow.close()
    assert stand.lane.session.name != session


@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        (INCR, "UNCERTAIN it may still happen", Uncertain),
        (GET, "UNCERTAIN it may still happen", Unavailable),
        (INCR, "CLUSTERDOWN there was no leader", Unavailable),
        (INCR, "WRONGTYPE Operation against a key", ReplyError),
    ],
)
def test_what_is_done_at_once_in_a_transaction_tells_what_became_of_it(command: AnyCommand, answer: str, error: type[Exception]) -> None:
    """A node that does not know what became of a write does not say that it did not happen."""
    stand = Stand(lambda request: ReplyError(answer))
    stand.drive(stand.core.connect(stand.lane, 5.0))
    [outcome] = stand.drive(look(stand.core, stand.lane, command, 5.0))
    assert type(outcome) is error


def test_a_transaction_that_watches_nothing_reads_on_any_connection() -> None:
    """Nothing binds it to one: it connects when it has none, and asks another node when that breaks."""
    stand = Stand()
    assert stand.drive(look_anywhere(stand.core, stand.core.lane(), GET, 5.0)) == [None]
