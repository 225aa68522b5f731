"""The small parts of the clients: arguments, answers, routes, and that nothing that decides touches a socket or a clock."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raftkv.client
from raftkv.client.command import Value, encode
from raftkv.client.replies import (
    Answer,
    ReplyReader,
    as_done,
    as_flag,
    as_float,
    as_integer,
    as_page,
    as_string,
    as_string_or_none,
    as_strings,
    decoded,
    encode_request,
)
from raftkv.client.routes import AVOID_S, LONGEST_PAUSE_S, Routes
from raftkv.client.url import Address
from raftkv.errors import InvalidRequest, ProtocolError, ReplyError

NODES = (Address("a", 1), Address("b", 1), Address("c", 1))


def test_arguments_are_written_as_redis_reads_them() -> None:
    """Text in UTF-8, numbers in decimal, bytes as they are; what would be stored as a word that nothing reads back is refused."""
    values: list[Value] = [b"\xff", "é", 12, -0.5, 1e300, bytearray(b"b"), memoryview(b"m")]
    assert [encode(value) for value in values] == [b"\xff", "é".encode(), b"12", b"-0.5", b"1e+300", b"b", b"m"]
    wrong: list[Any] = [True, None, [], object()]
    for value in wrong:
        with pytest.raises(InvalidRequest, match="must be bytes"):
            encode(value)


def test_answers_are_read_however_they_are_cut() -> None:
    """Every type of RESP3, in one piece and byte by byte; an error is a value."""
    data = b"+OK\r\n-WRONGTYPE no\r\n:7\r\n$1\r\nx\r\n$-1\r\n_\r\n#t\r\n#f\r\n,1.5\r\n*2\r\n:1\r\n*0\r\n%1\r\n+k\r\n~1\r\n:1\r\n"
    expected: list[Answer] = [b"OK", 7, b"x", None, None, True, False, 1.5, [1, []], {b"k": [1]}]
    for size in (1, 7, len(data)):
        reader = ReplyReader()
        answers: list[Answer] = []
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
            reader.take(answers, 11)
        error = answers.pop(1)
        assert isinstance(error, ReplyError)
        assert (error.code, str(error)) == ("WRONGTYPE", "WRONGTYPE no")
        assert answers == expected


@pytest.mark.parametrize("data", [b"nonsense\r\n", b"$-5\r\n", b"%1\r\n*1\r\n:1\r\n:2\r\n", b":x\r\n"])
def test_what_is_no_answer_is_a_protocol_error(data: bytes) -> None:
    """Whatever comes instead of RESP, it is one kind of error."""
    reader = ReplyReader()
    reader.feed(data)
    with pytest.raises(ProtocolError):
        reader.take([], 1)


def test_no_more_answers_are_taken_than_were_asked_for() -> None:
    """What comes behind stays for the next call."""
    reader = ReplyReader()
    reader.feed(b":1\r\n:2\r\n:3\r\n")
    answers: list[Answer] = []
    reader.take(answers, 2)
    assert answers == [1, 2]
    reader.take(answers, 3)
    assert answers == [1, 2, 3]


def test_an_answer_that_does_not_fit_is_noticed() -> None:
    """A method returns the type that it says, or the node did not speak as Redis does."""
    assert (as_integer(3), as_flag(0), as_done(b"OK"), as_done(None), as_string(b"x"), as_string_or_none(None)) == (
        3,
        False,
        True,
        False,
        b"x",
        None,
    )
    assert as_page([b"17", [b"k"]]) == (17, [b"k"])
    assert (as_float(b"1.5"), as_float(2.5)) == (1.5, 2.5)
    assert math.isinf(as_float(b"inf"))
    wrong: list[tuple[Callable[[Answer], object], Answer]] = [
        (as_integer, b"3"),
        (as_done, b"QUEUED"),
        (as_string, 3),
        (as_strings, [1]),
        (as_page, [b"x", []]),
    ]
    for shape, answer in wrong:
        with pytest.raises(ProtocolError, match="no answer to this command"):
            shape(answer)
    with pytest.raises(ProtocolError):
        as_float(b"x")


def test_everything_is_decoded() -> None:
    """Text is decoded in lists, maps and pairs; numbers stay."""
    assert decoded({b"k": [b"v", 1, (2, [b"w"])]}) == {"k": ["v", 1, (2, ["w"])]}
    with pytest.raises(UnicodeDecodeError):
        decoded(b"\xff")


def test_a_request_is_an_array_of_strings() -> None:
    """Any bytes may be in an argument."""
    assert encode_request((b"GET", b"a\r\nb")) == b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n"


def test_nodes_have_their_turn() -> None:
    """One that failed is left alone while there are others, and is tried again when it has had time, or when all have failed."""
    routes = Routes(NODES, 1)
    assert routes.pick(0) == NODES[1]
    routes.failed(NODES[1], 0)
    assert routes.pick(0) == NODES[2]
    routes.failed(NODES[2], 0.1)
    routes.failed(NODES[0], 0.2)
    assert routes.pick(0.3) == NODES[1]
    assert routes.pick(AVOID_S + 0.05) == NODES[1]
    routes.failed(NODES[1], AVOID_S + 0.05)
    assert routes.pick(AVOID_S + 0.15) == NODES[2]
    routes.serves(NODES[0])
    assert routes.pick(0.3) == NODES[0]


def test_the_leader_comes_first_until_it_fails() -> None:
    """What leads is asked, and not any more when it fails or says that it follows."""
    routes = Routes(NODES)
    routes.leads(NODES[2])
    assert routes.pick(0) == NODES[2]
    routes.failed(NODES[2], 0)
    assert routes.pick(0) == NODES[0]
    assert not routes.worth_following(NODES[2], 0.5)
    assert routes.worth_following(NODES[2], AVOID_S + 1)
    routes.leads(NODES[1])
    routes.serves(NODES[1])
    assert routes.leader is None


def test_pauses_grow_to_a_bound() -> None:
    """No pause before every node had its turn; then longer ones, never longer than the bound."""
    routes = Routes(NODES)
    pauses = [routes.pause_s(failures, 1.0) for failures in range(200)]
    assert pauses[:3] == [0, 0, 0]
    assert pauses[3] == 0.01
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    assert routes.pause_s(50, 0.0) == LONGEST_PAUSE_S / 2


def test_what_decides_does_nothing() -> None:
    """Only the two shells import sockets, threads, clocks or the operating system."""
    directory = Path(raftkv.client.__file__).parent
    acting = {"asyncio", "os", "select", "selectors", "socket", "ssl", "threading", "time"}
    found = set()
    for path in directory.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if acting & {name.split(".")[0] for name in names}:
                found.add(path.name)
    assert found == {"aio.py", "client.py"}
