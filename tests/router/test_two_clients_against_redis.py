"""The same steps of several clients to a real redis-server and to a router: the same bytes on every connection.

Skipped where no redis-server is installed. Nothing is waited for by time: who is blocked at the server, it says itself.
"""

from __future__ import annotations

import re
import shlex
import shutil
import socket
from collections.abc import Iterator

import pytest

from raftkv.codec.resp import encode_replies
from tests.kv.redis_server import RedisServer
from tests.router.test_waiting import Node

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

CLIENTS = (1, 2, 3)

Steps = list[tuple[int, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests of this module."""
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def words(line: str) -> list[bytes]:
    """The arguments of a request."""
    return [part.encode() for part in shlex.split(line)]


class Clients:
    """Connections to the server, by number, and one more that watches."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._sockets: dict[int, socket.socket] = {}
        for number in CLIENTS:
            self._sockets[number] = one = socket.socket(socket.AF_UNIX)
            one.settimeout(30)
            one.connect(str(server.path))
        self.ids = {number: self._id(number) for number in CLIENTS}

    def _id(self, number: int) -> int:
        self.send(number, "CLIENT ID")
        data = b""
        while not data.endswith(b"\r\n"):
            data += self._sockets[number].recv(100)
        return int(data[1:])

    def send(self, number: int, line: str) -> None:
        """A client says `line`."""
        parts = words(line)
        self._sockets[number].sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))

    def receive(self, number: int, size: int) -> bytes:
        """So many bytes of what a client is told."""
        data = b""
        while len(data) < size:
            piece = self._sockets[number].recv(size - len(data))
            assert piece, "the server closed the connection"
            data += piece
        return data

    def wait_for_blocked(self, count: int) -> None:
        """Return when the server has so many blocked clients."""
        while True:
            info = self._server.ask([b"info", b"clients"])
            assert isinstance(info, bytes)
            found = re.search(rb"blocked_clients:(\d+)", info)
            assert found is not None
            if int(found[1]) == count:
                return

    def close(self) -> None:
        """Disconnect."""
        for one in self._sockets.values():
            one.close()


@pytest.fixture
def clients(server: RedisServer) -> Iterator[Clients]:
    """Three clients of an empty server."""
    server.ask([b"flushall"])
    made = Clients(server)
    yield made
    made.close()


def compare(clients: Clients, steps: Steps) -> None:
    """Do `steps` on both sides; after each, everybody has been told the same bytes, and in the end nobody has been told more."""
    node = Node()
    seen = dict.fromkeys(CLIENTS, 0)
    for number, line in [*steps, *((number, "ECHO end") for number in CLIENTS)]:
        clients.send(number, re.sub(r"#(\d)", lambda match: str(clients.ids[int(match[1])]), line))
        node.ask(words(line.replace("#", "")), connection=number)
        node.settle()
        node.confirm()
        node.settle()
        for each in CLIENTS:
            new = node.answers(each)[seen[each] :]
            seen[each] += len(new)
            expected = encode_replies(new, 2)
            assert clients.receive(each, len(expected)) == expected, (line, each)
        clients.wait_for_blocked(node.router.counts().blocked)


BLOCKING: dict[str, Steps] = {
    "served": [(1, "BLPOP a b 0"), (2, "RPUSH b x y"), (2, "LRANGE b 0 -1")],
    "order": [(2, "BLPOP q 0"), (1, "BRPOP q 0"), (3, "RPUSH q 1"), (3, "RPUSH q 2 3"), (3, "LRANGE q 0 -1")],
    "many": [(2, "BLPOP q 0"), (1, "BLPOP q 0"), (3, "RPUSH q 1 2 3"), (3, "LRANGE q 0 -1")],
    "move": [(1, "BLMOVE q r LEFT RIGHT 0"), (2, "BLPOP r 0"), (3, "RPUSH q 1"), (3, "EXISTS q r")],
    "circle": [(1, "BRPOPLPUSH q q 0"), (3, "RPUSH q 1 2"), (3, "LRANGE q 0 -1")],
    "first": [(1, "BLMPOP 0 2 a q RIGHT COUNT 2"), (3, "RPUSH q 1 2 3"), (3, "LRANGE q 0 -1")],
    "unblock": [(1, "BLPOP q 0"), (2, "CLIENT UNBLOCK #1"), (1, "BLMOVE q r LEFT LEFT 0"), (2, "CLIENT UNBLOCK #1 TIMEOUT")],
    "unblock with an error": [(1, "BLPOP q 0"), (2, "CLIENT UNBLOCK #1 ERROR"), (2, "CLIENT UNBLOCK #1 ERROR"), (2, "RPUSH q 1")],
    "another type": [(1, "BLPOP k 0"), (2, "SET k x"), (2, "DEL k"), (2, "RPUSH k y")],
    "destination": [(2, "SET s x"), (1, "BLMOVE q s LEFT LEFT 0"), (2, "RPUSH q y"), (2, "LRANGE q 0 -1")],
    "renamed": [(1, "BLPOP q 0"), (2, "RPUSH other x"), (2, "RENAME other q"), (2, "EXISTS q other")],
    "behind": [(1, "BLPOP q 0"), (1, "GET k"), (2, "SET k 1"), (2, "RPUSH q x")],
    "sorted sets": [(1, "BZPOPMIN y z 0"), (2, "BZPOPMAX z 0"), (3, "ZADD z 1.5 a 2 b 3 c"), (3, "ZRANGE z 0 -1 WITHSCORES")],
    "sorted sets, first": [(1, "BZMPOP 0 2 y z MAX COUNT 2"), (3, "ZADD z 1.5 a 2 b 3 c"), (1, "BZMPOP 0 1 z MIN"), (3, "EXISTS z")],
    "a list is no sorted set": [(1, "BZPOPMIN z 0"), (2, "BLPOP z 0"), (3, "ZADD z 1 a"), (1, "BZPOPMIN z 0"), (3, "RPUSH z x")],
    "twice the same key": [(1, "BLPOP q q 0"), (2, "RPUSH q x y"), (2, "LLEN q")],
}


@pytest.mark.parametrize("name", BLOCKING)
def test_blocking_pops_are_those_of_redis(clients: Clients, name: str) -> None:
    """Who is served what, in which order, and what ends waiting."""
    compare(clients, BLOCKING[name])


PUBLISHING: dict[str, Steps] = {
    "channels": [(1, "SUBSCRIBE a b a"), (2, "SUBSCRIBE a"), (3, "PUBLISH a hi"), (3, "PUBLISH b hi"), (3, "PUBLISH c hi")],
    "patterns": [(1, "PSUBSCRIBE a* a*"), (2, "PSUBSCRIBE *"), (1, "SUBSCRIBE ab"), (3, "PUBLISH ab hi"), (3, "PUBLISH x hi")],
    "shards": [(1, "SSUBSCRIBE a"), (1, "SUBSCRIBE a"), (3, "SPUBLISH a 1"), (3, "PUBLISH a 2"), (3, "PUBSUB SHARDNUMSUB a b")],
    "unsubscribing": [(1, "UNSUBSCRIBE"), (1, "SUBSCRIBE a"), (1, "UNSUBSCRIBE"), (1, "PUNSUBSCRIBE x"), (1, "GET a"), (3, "PUBLISH a 1")],
    "telling": [(1, "SUBSCRIBE a"), (3, "PUBSUB CHANNELS"), (3, "PUBSUB CHANNELS [b"), (3, "PUBSUB NUMSUB a b")],
    "context": [(1, "SUBSCRIBE a"), *((1, line) for line in ("GET a", "GET", "NOPE", "CLIENT ID", "CLIENT", "COMMAND", "PING", "PING x"))],
    "help": [(1, "PUBSUB HELP"), (1, "PUBSUB NOPE"), (1, "PUBSUB"), (1, "PUBSUB CHANNELS a b"), (1, "PUBSUB NUMPAT x")],
    "wrong": [(1, line) for line in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "PUBLISH a", "PUBLISH a b c", "SPUBLISH a")],
}


@pytest.mark.parametrize("name", PUBLISHING)
def test_publishing_is_that_of_redis(clients: Clients, name: str) -> None:
    """Who is told what, and what a subscribed connection may ask."""
    compare(clients, PUBLISHING[name])


WRONG = (
    "BLPOP q", "BLPOP q x", "BLPOP q -1", "BLPOP q nan", "BLPOP q inf", "BLPOP q -inf", "BLPOP q 1e30", "BLPOP q 1e400", "BLPOP q 1_0",
    "BLPOP q 9223372036854776", "BLPOP q -0.0015", "BLPOP q ' 1'", "BLPOP q '1 '", "BLPOP q ''", "BLPOP q 0x", "BLPOP q 1e", "BLPOP q .",
    "BLPOP s x", "BLPOP s q 1", "BLPOP q l s x", "BRPOP q x", "BLMOVE q r up left x", "BLMOVE q r left up x", "BLMOVE q r left left x",
    "BLMOVE s r left left 0", "BLMOVE q r left left", "BLMOVE l s left left 0", "BRPOPLPUSH q r x", "BRPOPLPUSH s r 0", "BLMPOP x 0 q left",
    "BLMPOP x a q left", "BLMPOP x 1 q up", "BLMPOP x 1 q left", "BLMPOP x 1 q left count 0", "BLMPOP x 1 q left count",
    "BLMPOP 0 1 q left count 2 count 3", "BLMPOP x 2 q left", "BLMPOP -1 1 q left", "BLMPOP 0 1 s left", "BLMPOP 0 1 q",
    "CLIENT UNBLOCK", "CLIENT UNBLOCK x", "CLIENT UNBLOCK 999", "CLIENT UNBLOCK 999 nope", "CLIENT UNBLOCK x nope",
    "CLIENT UNBLOCK 1 timeout x",
    "BZPOPMIN q", "BZPOPMIN q x", "BZPOPMIN s q 0", "BZPOPMAX q -1", "BZMPOP x 0 q min", "BZMPOP x a q min", "BZMPOP x 1 q mid",
    "BZMPOP x 1 q min", "BZMPOP x 1 q min count 0", "BZMPOP 0 1 q min count 1 count 2", "BZMPOP 0 1 s min", "BZMPOP x 2 q min",
    "BLPOP l 0x1p-3", "BLPOP l .5", "BLPOP l +5.", "BLPOP l 1E-5",
)  # fmt: skip


def test_wrong_requests_are_refused_as_redis_refuses_them(clients: Clients) -> None:
    """Texts, and which of two errors comes first; a list that has elements is popped whatever the way in which a timeout is written."""
    compare(clients, [(1, "SET s x"), (1, "RPUSH l 1 2 3 4 5 6"), *((1, line) for line in WRONG)])


@pytest.mark.parametrize(
    "line", ["BLPOP q 0.01", "BRPOP q 1e-2", "BLMOVE q r left left 0x0.01p0", "BLMPOP .01 1 q left", "BRPOPLPUSH q r 0.01"]
)
def test_the_answer_of_a_timeout_is_that_of_redis(clients: Clients, line: str) -> None:
    """It is the nil of an array, whatever the command."""
    node = Node()
    node.run(line)
    node.pass_time(20)
    expected = encode_replies(node.answers(), 2)
    clients.send(1, line)
    assert clients.receive(1, len(expected)) == expected
