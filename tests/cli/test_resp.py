"""The command line's connection to a node: every answer and every failure is what the node or the network made it."""

from __future__ import annotations

import socket

import pytest

from raftkv_cli.resp import Connection, ErrorReply, Unreachable
from tests.cli.fake_node import FakeNode, bulk


def test_arguments_arrive_as_bulk_strings() -> None:
    """Text, bytes and numbers are sent as bulk strings, whatever bytes they hold."""
    with FakeNode(lambda request: b"+OK\r\n") as node, Connection(node.address) as connection:
        assert connection.call("SET", b"\r\n\x00", 7) == b"OK"
        assert node.requests == [[b"SET", b"\r\n\x00", b"7"]]


@pytest.mark.parametrize(
    ("wire", "value"),
    [(b"+OK\r\n", b"OK"), (b":7\r\n", 7), (bulk(b"a\r\nb"), b"a\r\nb"), (b"$-1\r\n", None), (b"*2\r\n:1\r\n$-1\r\n", [1, None])],
)
def test_answers_are_values(wire: bytes, value: object) -> None:
    """Each kind of RESP2 reply becomes its Python value."""
    with FakeNode(lambda request: wire) as node, Connection(node.address) as connection:
        assert connection.call("ANY") == value


def test_error_replies_are_raised_with_their_code() -> None:
    """An error reply is raised, and its first word can be asked for."""
    with FakeNode(lambda request: b"-CLUSTERDOWN no quorum\r\n") as node, Connection(node.address) as connection:
        with pytest.raises(ErrorReply, match="no quorum") as caught:
            connection.call("SET", "k", "v")
        assert caught.value.code == "CLUSTERDOWN"


def test_a_pipeline_keeps_order_and_returns_errors_as_values() -> None:
    """The answers of a pipeline come in the order of its commands, errors among them."""

    def answer(request: list[bytes]) -> bytes:
        return b"-ERR bad\r\n" if request[1] == b"1" else bulk(request[1])

    with FakeNode(answer) as node, Connection(node.address) as connection:
        answers = connection.pipeline([("GET", number) for number in range(3)])
    assert (answers[0], answers[2]) == (b"0", b"2")
    assert isinstance(answers[1], ErrorReply)


@pytest.mark.parametrize("reply", [None, b"no RESP at all\r\n", b"%1\r\n*0\r\n:1\r\n", b":1x\r\n", b"*1\r\n" * 99])
def test_no_answer_is_an_error_that_names_the_node(reply: bytes | None) -> None:
    """A node that hangs up or does not speak RESP is unreachable, and named."""
    with FakeNode(lambda request: reply) as node, Connection(node.address) as connection:  # noqa: SIM117 - one line for each thing
        with pytest.raises(Unreachable, match=node.address):
            connection.call("PING")


def test_waiting_is_bounded() -> None:
    """A node that accepts and never answers is given up after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Connection(address, timeout_s=0.05) as connection, pytest.raises(Unreachable, match="timed out"):
            connection.call("PING")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:no", "127.0.0.1:99999", "nothing"])
def test_an_address_without_a_node_is_unreachable(address: str) -> None:
    """Neither a closed port nor a text that is no address is a crash."""
    with pytest.raises(Unreachable, match=address):
        Connection(address, timeout_s=1.0)
