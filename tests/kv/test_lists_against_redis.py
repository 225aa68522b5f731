"""Commands on lists: the same requests to a real redis-server and to the machine get the same replies, word for word, and leave the same
lists behind.

Skipped where no redis-server is installed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator

import pytest

from raftkv.kv.commands import CommandError, Kind, parse_request
from raftkv.kv.rows import ELEMENTS, ELEMENTS_END
from tests.kv.driver import Driver, arguments
from tests.kv.redis_server import RedisServer

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

KEYS = [b"a", b"b", b"", b"\xff\x00"]
ELEMENTS_OF_LISTS = [b"x", b"y", b"z", b"", b"\r\n\x00", b"1"]
WILD = [b"x", b"", b"9223372036854775807", b"-9223372036854775807", b"-9223372036854775808", b"9223372036854775808", b"-0", b"01", b" 1"]
ENDS = [b"left", b"RIGHT", b"Left", b"right", b"middle"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests of this module."""
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def is_write(args: list[bytes]) -> bool:
    """Whether a request is a write, and none that is refused before it gets into a batch."""
    try:
        return parse_request(args).kind is Kind.WRITE
    except CommandError:
        return False


def some(rng: random.Random, most: int = 4) -> list[bytes]:
    """A few elements."""
    return rng.choices(ELEMENTS_OF_LISTS, k=rng.randint(1, most))


def number(rng: random.Random, least: int = -8, most: int = 8) -> bytes:
    """An index or a count, now and then a wild one."""
    return rng.choice(WILD) if rng.random() < 0.05 else b"%d" % rng.randint(least, most)


def end(rng: random.Random) -> bytes:
    """An end of a list, seldom a wrong one."""
    return rng.choices(ENDS, [8, 8, 2, 8, 1])[0]


def request(rng: random.Random) -> list[bytes]:
    """A request that has to do with lists, now and then a wrong one."""
    key = rng.choice(KEYS)
    match rng.randrange(8):
        case 0 | 1 | 2:
            name = rng.choice([b"rpush", b"LPUSH", b"rpush", b"lpush", b"rpushx", b"lpushx"])
            made = [name, key, *some(rng)]
        case 3:
            made = at_an_end(rng, key)
        case 4 | 5:
            made = at_an_index(rng, key)
        case 6:
            made = searching(rng, key)
        case _:
            made = other(rng, key)
    if rng.random() < 0.02:
        made.append(rng.choice([b"extra", b"1", b"count"]))
    if rng.random() < 0.02:
        made.pop()
    return made or [b"llen", key]


def at_an_end(rng: random.Random, key: bytes) -> list[bytes]:
    """A pop or a move."""
    keys = rng.choices(KEYS, k=rng.randint(1, 3))
    match rng.randrange(5):
        case 0:
            return [rng.choice([b"lpop", b"RPOP"]), key]
        case 1:
            return [rng.choice([b"lpop", b"rpop"]), key, number(rng, -1, 3)]
        case 2:
            return [b"lmove", key, rng.choice(KEYS), end(rng), end(rng)]
        case 3:
            return [b"rpoplpush", key, rng.choice(KEYS)]
        case _:
            said = number(rng, 0, 3) if rng.random() < 0.1 else b"%d" % len(keys)
            options = [word for _ in range(rng.choice([0, 1, 1, 1, 2])) for word in (rng.choice([b"count", b"COUNT"]), number(rng, 0, 3))]
            return [b"lmpop", said, *keys, end(rng), *options]


def at_an_index(rng: random.Random, key: bytes) -> list[bytes]:
    """What reads, sets or cuts by index."""
    match rng.randrange(9):
        case 0 | 1 | 2:
            return [b"lrange", key, number(rng), number(rng)]
        case 3:
            return [b"lrange", key, b"0", b"-1"]
        case 4:
            return [b"llen", key]
        case 5:
            return [b"lindex", key, number(rng)]
        case 6 | 7:
            return [b"lset", key, number(rng), *some(rng, 1)]
        case _:
            return [b"ltrim", key, number(rng, -9, 3), number(rng, -3, 9)]


def searching(rng: random.Random, key: bytes) -> list[bytes]:
    """A search."""
    match rng.randrange(4):
        case 0:
            return [b"lrem", key, number(rng, -3, 3), *some(rng, 1)]
        case 1:
            return [b"linsert", key, rng.choice([b"before", b"AFTER", b"Before", b"after", b"at"]), *some(rng, 1), *some(rng, 1)]
        case _:
            options = rng.choices([b"rank", b"COUNT", b"maxlen", b"MaxLen", b"junk"], [9, 9, 5, 5, 1], k=rng.choice([0, 1, 1, 2, 3]))
            words = [word for option in options for word in (option, number(rng, -3, 3))]
            # Redis 7.0 negates the smallest rank, which has no opposite: what it answers then follows no rule.
            return [b"lpos", key, *some(rng, 1), *[word for word in words if word != b"-9223372036854775808"]]


def other(rng: random.Random, key: bytes) -> list[bytes]:
    """What other commands do to lists, and lists to other values."""
    match rng.randrange(8):
        case 0:
            return [b"set", key, b"text"]
        case 1:
            return [b"del", key]
        case 2:
            return [b"rename", key, rng.choice(KEYS)]
        case 3:
            return [b"type", key]
        case 4:
            return [b"expire", key, rng.choice([b"0", b"-1", b"100000000"])]
        case 5:
            return [b"get", key]
        case 6:
            return [b"exists", *KEYS]
        case _:
            return [b"persist", key]


@pytest.mark.parametrize("seed", range(6))
def test_lists_are_those_of_redis(server: RedisServer, seed: int) -> None:
    """Random requests, right and wrong, to lists and what is no list, get the same reply from both; and both have the same lists in the
    end, of which nothing is left when the keys are deleted."""
    rng = random.Random(seed)
    driver = Driver()
    server.ask([b"flushall"])
    for step in range(4000):
        args = request(rng)
        expected, got = server.ask(args), driver.run(args)
        assert got == expected, (step, args)
    for key in KEYS:
        for args in ([b"type", key], [b"lrange", key, b"0", b"-1"]):
            assert driver.run(args) == server.ask(args)
    driver.run([b"del", *KEYS])
    assert driver.store.count(ELEMENTS, ELEMENTS_END) == 0


@pytest.mark.parametrize("seed", range(3))
def test_lists_are_those_of_redis_in_batches(server: RedisServer, seed: int) -> None:
    """So do writes that are applied together, each to what those before it have left in the same batch."""
    rng = random.Random(seed)
    driver = Driver()
    server.ask([b"flushall"])
    for _ in range(200):
        together: list[list[bytes]] = []
        while len(together) < rng.randint(1, 20):
            args = request(rng)
            if is_write(args):
                together.append(args)
        assert driver.write(*together) == [server.ask(args) for args in together], together
        for key in KEYS:
            assert driver.run([b"lrange", key, b"0", b"-1"]) == server.ask([b"lrange", key, b"0", b"-1"]), together
    driver.run([b"del", *KEYS])
    assert driver.store.count(ELEMENTS, ELEMENTS_END) == 0


@pytest.mark.parametrize(
    "request_",
    [
        "lpop nosuch x",
        "lpop text x",
        "lpop text 0",
        "lpop nosuch 0",
        "lpop list 0",
        "lpop list -1",
        "lpop list 1 1",
        "rpop list 1 1",
        "lpop list 9223372036854775807",
        "lindex nosuch x",
        "lindex text x",
        "lindex list x",
        "lset nosuch x y",
        "lset text x y",
        "lset list x y",
        "lset list 9 y",
        "lset list -9223372036854775808 y",
        "lrange text x y",
        "lrange text 0 y",
        "lrange nosuch 0 y",
        "ltrim text x y",
        "ltrim nosuch 0 1",
        "lrem text x y",
        "lrem list -9223372036854775808 a",
        "lrem list -9223372036854775807 a",
        "linsert text at a b",
        "linsert nosuch before a b",
        "linsert list before nosuch b",
        "lpos text a rank 0",
        "lpos list a rank -9223372036854775807",
        "lpos list a rank x count -1",
        "lpos list a count -1",
        "lpos list a count x",
        "lpos list a maxlen -1",
        "lpos list a maxlen 1 maxlen 0",
        "lpos list a count 0 rank -1 maxlen 2",
        "lpos list a rank",
        "lpos nosuch a count 0",
        "lpos nosuch a",
        "lmove nosuch text left middle",
        "lmove nosuch text left left",
        "lmove list text left left",
        "lmove list list left right",
        "lmove text list left right",
        "rpoplpush list text",
        "lmpop 0 list left",
        "lmpop x list left",
        "lmpop -1 list left",
        "lmpop 2 list left",
        "lmpop 3 list left",
        "lmpop 9223372036854775807 list left",
        "lmpop 1 list middle",
        "lmpop 1 list left count 0",
        "lmpop 1 list left count x junk",
        "lmpop 1 list left count 1 junk",
        "lmpop 1 list left count 1 count 1",
        "lmpop 1 list left count",
        "lmpop 1 list left junk 1",
        "lmpop 2 nosuch text left",
        "lmpop 2 nosuch list left count 2",
        "lmpop 2 list text right",
        "lpushx nosuch a",
        "rpushx text a",
        "lpush list",
    ],
)
def test_errors_are_those_of_redis(server: RedisServer, request_: str) -> None:
    """What is wrong with a request, and which of two wrongs is told, is what Redis says; and nothing else happens."""
    driver = Driver()
    for side in (server.ask, driver.run):
        for args in ("flushall", "set text t", "rpush list a b a c"):
            side(arguments(args))
    assert driver.run(request_) == server.ask(arguments(request_))
    for check in ("lrange list 0 -1", "get text", "exists nosuch list text"):
        assert driver.run(check) == server.ask(arguments(check))
