"""The same requests of two clients, in and out of MULTI, to a real redis-server and to a router with its machine: the same bytes.

Skipped where no redis-server is installed. What a connection is called, and what time it is, is not compared.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator

import pytest
from redis.lock import Lock

from raftkv.codec.resp import encode_replies
from raftkv.kv.lock_commands import EXTEND, REACQUIRE, RELEASE
from raftkv.kv.replies import Reply
from tests.kv.redis_server import RawConnection, RedisServer
from tests.router.stand import Stand

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

KEYS = [b"a", b"b", b"c"]
ROUNDS = 1500


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests of this module."""
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


class Ours:
    """A router that leads, with its machine, and two connections, as RESP."""

    def __init__(self) -> None:
        self.stand = Stand()
        self.stand.lead()
        self.stand.router.open(2, "")
        self.protocol = {1: 2, 2: 2}

    def ask(self, connection: int, *requests: list[bytes]) -> bytes:
        """The bytes of the replies."""
        stand = self.stand
        before = len(stand.answers(connection))
        stand.do(*requests, connection=connection)
        while len(stand.replica.log) > stand.replica.applied_index or stand.replica.contexts:
            stand.commit()
            stand.confirm()
        replies: list[Reply] = stand.answers(connection)[before:]
        protocol = stand.router._connections[connection].protocol
        return encode_replies(replies, protocol)


def request(rng: random.Random) -> list[bytes]:
    """A request of any kind, now and then a wrong one."""
    key = rng.choice(KEYS)
    match rng.randrange(20):
        case 0 | 1 | 2:
            made = [b"multi"]
        case 3 | 4 | 5:
            made = [b"exec"]
        case 6:
            made = [rng.choice([b"discard", b"Unwatch"])]
        case 7 | 8:
            made = [b"watch", *rng.choices(KEYS, k=rng.randint(1, 2))]
        case 9 | 10:
            made = [b"set", key, rng.choice([b"1", b"x"]), *rng.choice([[], [], [b"nx"], [b"get"], [b"ex", b"0"], [b"ex"], [b"junk"]])]
        case 11 | 12:
            made = [b"incr", key]
        case 13:
            made = [b"del", key]
        case 14 | 15:
            made = [b"get", key]
        case 16:
            # FLUSHALL of more than nothing counts as a change of keys that were not there, which it does not in Redis.
            made = rng.choice([[b"flushall", key], [b"exists", key], [b"exists"], [b"ttl", key], [b"ttl"]])
        case 17:
            made = rng.choice([[b"ping"], [b"ping", b"x"], [b"ping", b"x", b"y"], [b"echo", b"x"], [b"echo"], [b"select", b"0"]])
        case 18:
            # With a wrong number of arguments Redis refuses subcommands at once, and we do when they are executed.
            return rng.choice([[b"client", b"getname"], [b"client", b"setname", b"x%d" % rng.randrange(3)], [b"select", b"x"]])
        case _:
            made = rng.choice([[b"nonsense", b"1"], [b"get"], [b"set", b"a"], [b"pexpire", key, b"-1"], [b"expire", key, b"1000"]])
    if rng.random() < 0.03:
        made = [*made, b"extra"]
    return made


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_replies_are_those_of_redis(server: RedisServer, seed: int, protocol: int) -> None:
    """Random requests of two clients, one by one or pipelined, get the same bytes from both."""
    rng = random.Random(seed * 10 + protocol)
    ours = Ours()
    server.ask([b"flushall"])
    with server.connection() as first, server.connection() as second:
        connections: dict[int, RawConnection] = {1: first, 2: second}
        if protocol == 3:
            for number, connection in connections.items():
                connection.ask([b"hello", b"3"])
                ours.ask(number, [b"hello", b"3"])
        history: list[tuple[int, list[list[bytes]]]] = []
        for _ in range(ROUNDS):
            number = rng.choice([1, 2])
            requests = [request(rng) for _ in range(rng.choice([1, 1, 1, 4]))]
            history.append((number, requests))
            assert ours.ask(number, *requests) == connections[number].ask(*requests), history[-12:]


LOCKS: dict[str, list[list[bytes]]] = {
    "release": [
        [b"set", b"k", b"t"],
        [b"evalsha", RELEASE.encode(), b"1", b"k", b"other"],
        [b"evalsha", RELEASE.upper().encode(), b"1", b"k", b"t"],
        [b"evalsha", RELEASE.encode(), b"1", b"k", b"t"],
        [b"exists", b"k"],
        [b"set", b"k", b"t"],
        [b"evalsha", RELEASE.encode(), b"1", b"k"],
        [b"evalsha", RELEASE.encode(), b"2", b"k", b"t"],
        [b"evalsha", RELEASE.encode(), b"0"],
        [b"evalsha", RELEASE.encode(), b"1", b"k", b"t", b"more"],
    ],
    "extend": [
        [b"set", b"k", b"t"],
        *([b"evalsha", EXTEND.encode(), b"1", b"k", b"t", b"5", replace] for replace in (b"0", b"1")),
        [b"set", b"k", b"t", b"ex", b"100"],
        *([b"evalsha", EXTEND.encode(), b"1", b"k", *rest.split()] for rest in (
            b"u x 0", b"t", b"t x 0", b"t x 1", b"t 1.5 1", b"t 9223372036854775807 1", b"t 9223372036854775807 0", b"t 100000 0",
            b"t 100000", b"t 300000 1", b"t -1000 0",
        )),
        [b"ttl", b"k"],
        [b"evalsha", EXTEND.encode(), b"1", b"k", b"t", b"-900000", b"0"],
        [b"exists", b"k"],
    ],
    "reacquire": [
        [b"set", b"k", b"t"],
        *([b"evalsha", REACQUIRE.encode(), b"1", b"k", *rest.split()] for rest in (
            b"u 5", b"t", b"t x", b"t 9223372036854775807", b"t 5000000",
        )),
        [b"ttl", b"k"],
        [b"evalsha", REACQUIRE.encode(), b"1", b"k", b"t", b"0"],
        [b"exists", b"k"],
    ],
    "no such script": [
        [b"evalsha", b"abc", b"0"],
        [b"evalsha", b"abc", b"x"],
        [b"evalsha", b"0" * 40, b"0"],
        [b"evalsha", b"0" * 40, b"x"],
        [b"evalsha", b"0" * 40, b"1"],
        [b"evalsha", b"0" * 40, b"-1"],
        [b"evalsha", b"0" * 40],
        [b"eval", b"x", b"x"],
        [b"eval", b"x", b"1"],
        [b"eval", b"x", b"-1"],
        [b"eval"],
    ],
    "script": [
        [b"script"],
        [b"script", b"foo"],
        [b"script", b"load"],
        [b"script", b"load", b"x", b"y"],
        [b"script", b"exists"],
        [b"script", b"exists", b"x", RELEASE.encode(), RELEASE.upper().encode()],
        [b"script", b"kill"],
        [b"script", b"kill", b"x"],
        [b"script", b"flush", b"x"],
        [b"script", b"flush", b"sync", b"x"],
    ],
    "in a transaction": [
        [b"set", b"k", b"t", b"ex", b"100"],
        [b"multi"],
        [b"evalsha", EXTEND.encode(), b"1", b"k", b"t", b"100000", b"1"],
        [b"evalsha", RELEASE.encode(), b"1", b"k", b"t"],
        [b"exists", b"k"],
        [b"script", b"exists", RELEASE.encode()],
        [b"exec"],
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LOCKS)
def test_scripts_of_locks_answer_as_they_do_in_redis(server: RedisServer, name: str) -> None:
    """Each of the three, with right and wrong arguments, and what is told of scripts."""
    ours = Ours()
    server.ask([b"flushall"])
    with server.connection() as connection:
        for script in (Lock.LUA_RELEASE_SCRIPT, Lock.LUA_EXTEND_SCRIPT, Lock.LUA_REACQUIRE_SCRIPT):
            load = [b"script", b"load", script.encode()]
            assert ours.ask(1, load) == connection.ask(load)
        for args in LOCKS[name]:
            assert ours.ask(1, args) == connection.ask(args), args


def test_a_script_can_be_sent_as_a_whole(server: RedisServer) -> None:
    """EVAL with the text of one of the three does the same as EVALSHA."""
    ours = Ours()
    server.ask([b"flushall"])
    with server.connection() as connection:
        for args in (
            [b"set", b"k", b"t", b"ex", b"100"],
            [b"eval", Lock.LUA_EXTEND_SCRIPT.encode(), b"1", b"k", b"t", b"5000", b"1"],
            [b"eval", Lock.LUA_REACQUIRE_SCRIPT.encode(), b"1", b"k", b"t", b"7000"],
            [b"eval", Lock.LUA_RELEASE_SCRIPT.encode(), b"1", b"k", b"t"],
            [b"get", b"k"],
        ):
            assert ours.ask(1, args) == connection.ask(args), args
