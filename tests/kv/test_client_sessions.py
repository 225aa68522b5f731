"""The sessions of client libraries: RAFTKV.SESSION and RAFTKV.ONCE apply a write once, whichever nodes a client asks for it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv.batch import Group
from raftkv.kv.command import Command
from raftkv.kv.commands import encode_commands, parse_request
from raftkv.kv.machine import KvMachine
from raftkv.kv.replies import OK, CommandError, Failure, Reply
from raftkv.kv.session_commands import GAP, NO_SESSION, REPLY_LOST, Once, OpenSession
from raftkv.kv.sessions import LIMITS, Limits, SessionChanges
from tests.kv.driver import SESSION, Driver, group, rows_of

ID = "00112233445566778899aabbccddeeff"
OTHER_NODE = b"the other node's"


def opened(limits: Limits | None = None) -> Driver:
    """A machine with the session ID."""
    driver = Driver(limits=limits)
    assert driver.write(f"raftkv.session {ID}") == [OK]
    return driver


def once(sequence: int, command: str, floor: int = 0, session: str = ID) -> str:
    """The request for command number `sequence`."""
    return f"RAFTKV.ONCE {session} {sequence} {floor} {command}"


def test_a_command_asked_for_at_two_nodes_is_applied_once() -> None:
    """The second node sends it under a session of its own; both answer what the command was answered, also after a restart."""
    driver = opened()
    assert driver.write(once(1, "incr n"), once(2, "incr n")) == [1, 2]
    [answer] = driver.groups(group(OTHER_NODE, 1, [once(2, "incr n"), once(3, "incr n"), once(3, "incr n")]))
    assert answer.replies == [2, 3, 3]
    restarted = Driver(driver.store)
    restarted.session, restarted.next = b"a node restarted", 1
    assert restarted.write(once(3, "incr n"), once(4, "get n")) == [3, Failure("ERR", "RAFTKV.ONCE is for commands that write")]
    assert restarted.read("get n") == b"3"


def test_a_command_that_fails_takes_its_number_and_leaves_nothing_behind() -> None:
    """Its error is kept like any reply, and the next number follows."""
    driver = opened()
    wrong = Failure("ERR", "value is not an integer or out of range")
    assert driver.write("set a x", once(1, "incr a"), once(2, "set a 1"), once(1, "incr a")) == [OK, wrong, OK, wrong]
    assert driver.read("get a") == b"1"


def test_wrong_arguments_take_their_number_too() -> None:
    """A command that no node could parse is answered its error from the log, so that those after it leave no gap."""
    driver = opened()
    unknown = driver.write(once(1, "nonsense 1"), once(2, "incr"), once(3, "raftkv.session " + ID), once(4, "incr n"))
    assert [isinstance(reply, Failure) and reply.code for reply in unknown] == ["ERR", "ERR", "ERR", False]
    assert unknown[1] == Failure("ERR", "wrong number of arguments for 'incr' command")
    assert driver.write(once(2, "incr")) == unknown[1:2]


def test_an_error_that_shows_bytes_that_are_no_text_can_enter_the_log() -> None:
    """What is no text is shown as such; the number is used up, and the reply is kept."""
    driver = opened()
    wrong = [b"raftkv.once", ID.encode(), b"1", b"0", b"expire", b"k", b"10", b"\xff"]
    expected = Failure("ERR", "Unsupported option \ufffd")
    assert driver.write(wrong, wrong, once(2, "incr n")) == [expected, expected, 1]


def test_a_gap_is_refused() -> None:
    """A number that does not follow the last one applied has no effect and is not used up."""
    driver = opened()
    assert driver.write(once(2, "incr n"), once(1, "incr n"), once(2, "incr n")) == [GAP, 1, 2]


def test_a_session_that_is_not_open_is_refused() -> None:
    """No command opens a session: one that was forgotten, and so could have been applied before, is refused from its first number."""
    driver = opened(Limits(age_ms=1000))
    assert driver.write(once(1, "incr n"), once(1, "incr n", session="00" * 16)) == [1, NO_SESSION]
    driver.pass_ms(1001)
    [answer] = driver.groups(group(OTHER_NODE, 1, [once(1, "incr n"), once(2, "incr n")]))
    assert answer.replies == [NO_SESSION, NO_SESSION]
    assert driver.read("get n") == b"1"
    assert [row for row, _ in rows_of(driver.store) if row[:1] in b"cq"] == []


def test_opening_a_session_twice_changes_nothing() -> None:
    """The request to open may be sent again: what the session knows stays."""
    driver = opened()
    assert driver.write(once(1, "incr n"), f"raftkv.session {ID.upper()}", once(1, "incr n")) == [1, OK, 1]


def test_a_reply_is_kept_until_the_client_says_that_it_arrived() -> None:
    """What is below the floor is forgotten, and asking for it again says so instead of applying it again."""
    driver = opened()
    driver.write(once(1, "incr n"), once(2, "incr n", 1))
    assert driver.write(once(1, "incr n", 1), once(2, "incr n", 1)) == [REPLY_LOST, 2]
    assert [row[0] for row, _ in rows_of(driver.store) if row[:1] == b"q"] == [ord("q")]


def test_sessions_of_clients_displace_none_of_a_node() -> None:
    """However many clients open sessions, a node's own stays, and so do the replies that it waits for."""
    driver = Driver(limits=Limits(sessions=3))
    driver.write("incr n")
    before = driver.machine.session_last(SESSION)
    other = group(OTHER_NODE, 1, [f"raftkv.session {number:032x}" for number in range(9)])
    [answer] = driver.groups(other)
    assert answer.replies == [OK] * 9
    assert driver.machine.session_last(SESSION) == before
    assert len([row for row, _ in rows_of(driver.store) if row[:1] == b"c"]) == 3


def test_commands_of_sessions_are_part_of_nothing() -> None:
    """Applied by another command, as in a transaction, they are an error: a peer cannot nest them either."""
    driver = opened()
    sequence = parse_request(once(1, "incr n").encode().split())
    assert isinstance(sequence, Once)
    commands: list[Command] = [
        Once(bytes.fromhex(ID), 1, 0, encode_commands([sequence])),
        Once(bytes.fromhex(ID), 2, 0, encode_commands([OpenSession(bytes(16))])),
        Once(bytes.fromhex(ID), 3, 0, b"\xc1"),
        OpenSession(b"short"),
    ]
    [answer] = driver.groups(Group(0, SESSION, 2, 0, len(commands), encode_commands(commands)))
    nested = Failure("ERR", "commands of sessions cannot be part of another command")
    assert answer.replies == [nested, nested, Failure("ERR", "this is not one command; it had no effect"), NO_SESSION]


@pytest.mark.parametrize(
    "request_text",
    [
        "raftkv.session 0011",
        f"raftkv.session {ID}0",
        "raftkv.session " + "x" * 32,
        f"raftkv.once {ID} 0 0 incr n",
        f"raftkv.once {ID} 01 0 incr n",
        f"raftkv.once {ID} 1 -1 incr n",
        f"raftkv.once {ID} {10**18} 0 incr n",
        f"raftkv.once {ID[1:]} 1 0 incr n",
        f"raftkv.once {ID} 1 0",
    ],
)
def test_a_request_that_names_no_place_in_a_session_is_an_error(request_text: str) -> None:
    """Names have 32 hexadecimal digits and numbers are decimal, so that nothing is in the log that no client can mean."""
    with pytest.raises(CommandError) as caught:
        parse_request(request_text.encode().split())
    assert caught.value.failure.code == "ERR"


def retry(driver: Driver, rng: random.Random, length: int) -> tuple[list[Reply], list[Reply]]:
    """Increments of one client, some sent again, some too early, some twice; first and later replies of each number."""
    first: list[Reply] = []
    later: list[Reply] = []
    while len(first) < length:
        sequence = len(first) + 1
        floor = rng.randrange(sequence)
        repeated = rng.randint(floor + 1, sequence + 2)
        [reply] = driver.write(once(repeated, "incr n", floor))
        if repeated == sequence:
            first.append(reply)
        elif repeated > sequence:
            later.append(reply)
            assert reply == GAP
        else:
            later.append(reply)
            assert reply in (first[repeated - 1], REPLY_LOST)
        if rng.random() < 0.1:
            driver = Driver(driver.store)
    return first, later


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_retrying_applies_each_command_once(seed: int) -> None:
    """Whatever a client sends again, early or late, across restarts: numbers are applied in order and once each."""
    first, _ = retry(opened(), random.Random(seed), 30)
    assert first == list(range(1, 31))


def test_sessions_that_count_twice_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes every command for new, or opens a session that it does not know, does not pass these tests."""
    monkeypatch.setattr(SessionChanges, "known", lambda self, name: True)
    with pytest.raises(AssertionError):
        test_a_session_that_is_not_open_is_refused()
    monkeypatch.undo()
    missing = SessionChanges.missing
    monkeypatch.setattr(SessionChanges, "missing", lambda self, place: missing(self, place) if place.commands else 0)
    with pytest.raises(AssertionError):
        test_a_command_asked_for_at_two_nodes_is_applied_once()


def test_the_bounds_are_those_of_every_session() -> None:
    """The machine bounds both tables alike."""
    assert KvMachine(Driver().store)._client_sessions.limits == LIMITS


def test_sessions_opened_together_displace_those_used_longest_ago() -> None:
    """Also when they are as many as there may be: those used last stay, whatever the order of their names."""
    limits = Limits(sessions=2_000)
    driver = Driver(limits=limits)
    names = [f"{number * 7919 % 10_007:032x}" for number in range(6_000)]
    for start in (0, 2_000, 4_000):
        driver.now_ms += 1
        assert driver.write(*[f"raftkv.session {name}" for name in names[start : start + 2_000]]) == [OK] * 2_000
    assert {row[1:].hex() for row, _ in driver.store.scan(b"c", b"d")} == set(names[4_000:])
