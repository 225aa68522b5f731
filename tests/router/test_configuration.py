"""CONFIG: the values are those of this node, and nobody changes them through a client."""

from __future__ import annotations

import pytest

from raftkv.kv.replies import OK, Failure
from raftkv.router import NodeFacts
from tests.router.stand import Stand


def stand() -> Stand:
    """A leader of five, with limits that the server tells."""
    made = Stand()
    made.replica.majority = 3
    made.facts = NodeFacts(
        bound="127.0.0.1", tcp_port=7001, tcp_backlog=64, keep_alive_seconds=300, max_bulk_bytes=1 << 20, max_request_bytes=1 << 24,
        max_clients=99, data_dir="/data", log_level="error",
    )  # fmt: skip
    made.lead()
    return made


def test_values_are_those_of_the_node() -> None:
    """CONFIG GET tells what the server says of its limits, how many other nodes a write has to be on, and what holds on every node."""
    told = stand().do("CONFIG GET *")[0]
    assert isinstance(told, dict)
    expected = {
        b"bind": b"127.0.0.1", b"port": b"7001", b"tcp-backlog": b"64", b"tcp-keepalive": b"300", b"proto-max-bulk-len": b"1048576",
        b"client-query-buffer-limit": b"16777216", b"maxclients": b"99", b"dir": b"/data", b"loglevel": b"warning",
        b"min-replicas-to-write": b"2", b"appendonly": b"yes", b"appendfsync": b"always", b"save": b"", b"maxmemory": b"0",
        b"maxmemory-policy": b"noeviction", b"databases": b"1", b"timeout": b"0",
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert list(told) == sorted(told)  # type: ignore[type-var]


def test_patterns_find_parameters() -> None:
    """A name that is no pattern is told as it was asked for; several patterns find each parameter once."""
    assert stand().do("CONFIG GET APPENDfsync", "CONFIG GET append* *fsync nosuch") == [
        {b"APPENDfsync": b"always"},
        {b"appendfsync": b"always", b"appendonly": b"yes"},
    ]


def immutable(name: str) -> Failure:
    """What is said of a parameter that cannot be changed."""
    return Failure("ERR", f"CONFIG SET failed (possibly related to argument '{name}') - can't set immutable config")


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        ("CONFIG SET appendonly yes", OK),
        ("CONFIG SET APPENDONLY yes maxclients 99", OK),
        ("CONFIG SET appendonly no", immutable("appendonly")),
        ("CONFIG SET maxclients 99 port 1", immutable("port")),
        ("CONFIG SET notify-keyspace-events Ex", immutable("notify-keyspace-events")),
        ("CONFIG SET appendonly no nosuch 1", Failure("ERR", "Unknown option or number of arguments for CONFIG SET - 'nosuch'")),
    ],
)
def test_what_holds_can_be_set_and_nothing_else(request_: str, reply: object) -> None:
    """Programs that make sure of a parameter are told that it holds, and those that would change one that it cannot be."""
    assert stand().do(request_) == [reply]
