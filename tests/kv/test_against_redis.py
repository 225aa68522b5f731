"""The same requests to a real redis-server and to the machine: the same replies, word for word.

Skipped where no redis-server is installed. What depends on the time that passes between two requests is compared within seconds.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator

import pytest

from raftkv.kv.replies import Reply
from tests.kv.driver import Driver
from tests.kv.redis_server import RedisServer

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

KEYS = [b"a", b"b", b"c", b"", b"\xff\x00"]
VALUES = [b"1", b"-7", b"x", b"", b"9223372036854775807", b"-9223372036854775808", b"007", b"1.5", b" 1", b"+1", b"-0", b"0"]
NUMBERS = [*VALUES, b"100", b"5000", b"9223372036854775808", b"9223372036854775", b"-9223372036854775", b"99999999999999999999"]
SET_OPTIONS = [b"nx", b"XX", b"get", b"KeepTTL", b"ex", b"px", b"exat", b"pxat", b"junk"]
EXPIRE_OPTIONS = [b"nx", b"XX", b"gt", b"LT", b"junk"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests of this module."""
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def request(rng: random.Random) -> list[bytes]:
    """A request of any kind, now and then a wrong one."""
    key = rng.choice(KEYS)
    match rng.randrange(12):
        case 0 | 1 | 2:
            options: list[bytes] = []
            for option in rng.choices(SET_OPTIONS, k=rng.choice([0, 0, 1, 1, 2, 3])):
                options += [option, lifetime(rng)] if option in (b"ex", b"px") and rng.random() < 0.95 else [option]
                if option in (b"exat", b"pxat"):
                    options.append(rng.choice([b"9999999999999", b"0", b"x"]))
            made = [b"set", key, rng.choice(VALUES), *options]
        case 3:
            made = [b"get", key]
        case 4:
            made = [b"incr", key]
        case 5:
            made = [b"incrby", key, rng.choice(NUMBERS)]
        case 6:
            made = [b"del", *rng.choices(KEYS, k=rng.randint(1, 3))]
        case 7:
            made = [b"exists", *rng.choices(KEYS, k=rng.randint(1, 3))]
        case 8 | 9:
            options = rng.choices(EXPIRE_OPTIONS, k=rng.choice([0, 0, 1, 2]))
            made = [rng.choice([b"expire", b"PEXPIRE"]), key, lifetime(rng), *options]
        case 10:
            made = [rng.choice([b"ttl", b"pttl"]), key]
        case _:
            made = [rng.choice([b"dbsize", b"flushall", b"nonsense", b"exists", b"ttl"])]
    if rng.random() < 0.03:
        made.append(rng.choice([b"extra", b"junk\r\n"]))
    return made


def time_of(server: RedisServer) -> int:
    """The server's wall clock, in milliseconds: the one that absolute times are compared with."""
    reply = server.ask([b"time"])
    assert isinstance(reply, list)
    seconds = reply[0]
    assert isinstance(seconds, bytes)
    return int(seconds) * 1000


def lifetime(rng: random.Random) -> bytes:
    """A time to live: long, and never near another one; or none at all, or nonsense."""
    return rng.choice([b"%d" % rng.randrange(10**8, 10**11)] * 4 + [b"0", b"-5", b"x", b"", b"9223372036854775807"])


@pytest.mark.parametrize("seed", range(4))
def test_replies_are_those_of_redis(server: RedisServer, seed: int) -> None:
    """Random requests, right and wrong, get the same reply from both; times to live agree within seconds."""
    rng = random.Random(seed)
    driver = Driver()
    server.ask([b"flushall"])
    driver.now_ms = time_of(server)
    history = []
    for _ in range(1500):
        args = request(rng)
        history.append(args)
        expected, got = server.ask(args), driver.run(args)
        if args[0] in (b"ttl", b"pttl") and isinstance(expected, int) and expected > 0:
            unit = 1 if args[0] == b"ttl" else 1000
            assert isinstance(got, int)
            assert abs(expected - got) <= 5 * unit, history[-1]
        else:
            assert got == expected, history[-1]


@pytest.mark.parametrize(
    "pattern", [b"*", b"a*", b"?", b"[a-c]?", b"[^a]*", b"*[1-3]", b"\\*", b"a\\", b"[a", b"[]a]*", b"*a*b*", b"[b-a]1", b"h[", b""]
)
def test_scans_find_what_redis_finds(server: RedisServer, pattern: bytes) -> None:
    """A whole scan with a pattern returns the same keys, whatever the pattern."""
    keys = [b"a", b"b", b"a1", b"b2", b"c3", b"*", b"**", b"a\\", b"[a", b"]", b"aXb", b"ab", b"aab", b"h[", b"", b"\xff", b"a\nb"]
    driver = Driver()
    server.ask([b"flushall"])
    for key in keys:
        for side in (server.ask, driver.run):
            side([b"set", key, b"v"])
    args = [b"scan", b"0", b"match", pattern, b"count", b"1000"]
    assert found(driver.run(args)) == found(server.ask(args))


def found(reply: Reply) -> list[bytes]:
    """The keys in the reply to a scan that ends."""
    assert isinstance(reply, list)
    cursor, keys = reply
    assert cursor == b"0"
    assert isinstance(keys, list)
    return sorted(key for key in keys if isinstance(key, bytes))


@pytest.mark.parametrize(
    "cursor",
    [
        b"0",
        b"00",
        b"+0",
        b"-0",
        b"",
        b" 0",
        b"x",
        b"0x0",
        b"-1",
        b"+",
        b"-",
        b"18446744073709551615",
        b"18446744073709551616",
        b"-18446744073709551615",
        b"1 ",
    ],
)
def test_cursors_are_read_as_redis_reads_them(server: RedisServer, cursor: bytes) -> None:
    """What is a cursor, and what is not, is the same."""
    server.ask([b"flushall"])
    assert Driver().run([b"scan", cursor]) == server.ask([b"scan", cursor])


@pytest.mark.parametrize(
    "options",
    [
        "count 0",
        "count",
        "match",
        "count x",
        "type",
        "type string",
        "type STRING",
        "type junk",
        "match a match b",
        "count 5 junk",
        "junk 1",
        "count 9223372036854775808",
    ],
)
def test_options_of_scan_are_read_as_redis_reads_them(server: RedisServer, options: str) -> None:
    """So are the options."""
    server.ask([b"flushall"])
    args = [b"scan", b"0", *options.encode().split()]
    assert Driver().run(args) == server.ask(args)
