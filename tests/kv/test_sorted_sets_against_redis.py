"""Sorted sets: the same requests to a real redis-server and to the machine, and the same bytes on the wire, in both protocols.

Skipped where no redis-server is installed. What Redis draws at random, or returns in the order of its own tables, is compared without its
order.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Iterator

import hiredis
import pytest

from raftkv.codec.resp import encode_reply
from raftkv.router.catalogue import describe_commands
from tests.kv.driver import Driver
from tests.kv.redis_server import RedisServer

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

KEYS = [b"a", b"b", b"c", b"set", b"text", b"none"]
WEIGHTS_OF_KEYS = [30, 20, 20, 3, 1, 3]
MEMBERS = [b"m", b"n", b"", b"\xff", b"mm", b"m\x00", b"one", b"two", b"three", b"7"]
SCORES = [b"1", b"1", b"2", b"-3", b"0", b"2.5", b"1e3", b"inf", b"-inf", b"+7", b"0x10", b"0.1", b"3e-320"]
WRONG_SCORES = [b"x", b"", b"nan", b" 1", b"1 ", b"1e400", b"1e-400", b"1\x00", b"-0"]
BOUNDS = [*SCORES, b"(1", b"(2", b"(-inf", b"(inf", b"-inf", b"+inf", b"-inf", b"inf", b"-4", b"100"]
WRONG_BOUNDS = [b"x", b"", b"nan", b"(", b" 1", b"( 1", b"1 ", b"((1", b"1e400", b"1\x00junk", b"1e-400"]
EDGES = [b"-", b"+", b"[m", b"(m", b"[mm", b"(n", b"[", b"(", b"[\xff", b"[two", b"(one", b"[zz", b"[a"]
WRONG_EDGES = [b"", b"m", b"-x", b"+\x00x", b"1"]
RANKS = [b"0", b"0", b"1", b"-1", b"-1", b"-2", b"3", b"5", b"-5", b"100", b"-100"]
WRONG_NUMBERS = [b"x", b"", b"1.5", b"9223372036854775808", b"-9223372036854775808", b"9223372036854775807"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests of this module."""
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def some(rng: random.Random, right: list[bytes], wrong: list[bytes], share: float = 0.02) -> bytes:
    """One of the right ones, and now and then a wrong one."""
    return rng.choice(wrong if rng.random() < share else right)


def key_of(rng: random.Random) -> bytes:
    """A key, mostly of a sorted set."""
    return rng.choices(KEYS, WEIGHTS_OF_KEYS)[0]


def pairs(rng: random.Random, most: int = 4) -> list[bytes]:
    """Scores with members."""
    return [part for _ in range(rng.randint(1, most)) for part in (some(rng, SCORES, WRONG_SCORES), rng.choice(MEMBERS))]


def options(rng: random.Random, words: str, most: int = 2) -> list[bytes]:
    """Some of the words."""
    return [word.encode() for word in rng.choices(words.split(), k=rng.choice([0, 0, *range(most + 1)]))]


def adding(rng: random.Random, key: bytes) -> list[bytes]:
    """A request that adds members, or to their scores."""
    if rng.random() < 0.3:
        return [b"zincrby", key, some(rng, SCORES, WRONG_SCORES), rng.choice(MEMBERS)]
    chosen = options(rng, "nx XX gt LT ch CH incr", 3)
    return [b"zadd", key, *chosen, *pairs(rng, 1 if b"incr" in chosen and rng.random() < 0.9 else 4)]


def about_members(rng: random.Random, key: bytes) -> list[bytes]:
    """A request about single members."""
    members = rng.choices(MEMBERS, k=rng.randint(1, 3))
    return rng.choice(
        [
            [b"zrem", key, *members],
            [b"zcard", key],
            [b"zscore", key, members[0]],
            [b"zmscore", key, *members],
            [b"ZRANK", key, members[0]],
            [b"zrevrank", key, members[0]],
        ]
    )


def popping(rng: random.Random, key: bytes) -> list[bytes]:
    """A request that takes members from an end."""
    if rng.random() < 0.5:
        count = [some(rng, [b"1", b"2", b"0", b"3"], [b"-1", *WRONG_NUMBERS])] if rng.random() < 0.5 else []
        return [rng.choice([b"zpopmin", b"zpopmax"]), key, *count]
    keys = [key_of(rng) for _ in range(rng.randint(1, 3))]
    count = [b"count", some(rng, [b"1", b"2", b"5"], [b"0", *WRONG_NUMBERS])] if rng.random() < 0.5 else []
    where = some(rng, [b"min", b"MAX"], [b"mid"])
    return [b"zmpop", some(rng, [b"%d" % len(keys)], [b"0", b"9", b"x", b"1"]), *keys, where, *count]


def span(rng: random.Random, kind: str) -> list[bytes]:
    """The two ends of a range."""
    right, wrong = {"rank": (RANKS, WRONG_NUMBERS), "score": (BOUNDS, WRONG_BOUNDS), "lex": (EDGES, WRONG_EDGES)}[kind]
    return [some(rng, right, wrong), some(rng, right, wrong)]


def limit(rng: random.Random) -> list[bytes]:
    """A LIMIT, or none."""
    numbers = [some(rng, [b"0", b"1", b"2", b"-1", b"10"], WRONG_NUMBERS) for _ in range(2)]
    return [b"limit", *numbers[: 1 if rng.random() < 0.05 else 2]] if rng.random() < 0.4 else []


def ranging(rng: random.Random, key: bytes) -> list[bytes]:
    """A request for a part of a sorted set."""
    kind = rng.choice(["rank", "score", "lex"])
    named = {"rank": b"zrevrange", "score": b"zrangebyscore", "lex": b"zrangebylex"}
    backwards = {"rank": b"zrange", "score": b"zrevrangebyscore", "lex": b"zrevrangebylex"}
    by = {"rank": [], "score": [b"byscore"], "lex": [b"BYLEX"]}[kind]
    ends = span(rng, kind)
    with_scores = [b"withscores"] if rng.random() < 0.5 else []
    more = options(rng, "rev REV bylex junk withscores") if rng.random() < 0.1 else []
    limited = limit(rng) if kind != "rank" or rng.random() < 0.1 else []
    match rng.randrange(8):
        case 0 | 1:
            tail = [*by, *options(rng, "rev", 1), *limited, *with_scores, *more]
            if b"limit" not in tail:
                rng.shuffle(tail)
            return [b"zrange", key, *ends, *tail]
        case 2:
            return [b"zrangestore", key_of(rng), key, *ends, *by, *options(rng, "rev", 1), *limited, *more]
        case 3:
            return [rng.choice([b"zcount", b"zlexcount"]), key, *span(rng, rng.choice(["score", "lex"]))]
        case 4:
            return [{"rank": b"zremrangebyrank", "score": b"zremrangebyscore", "lex": b"zremrangebylex"}[kind], key, *ends]
        case _:
            return [rng.choice([named, backwards])[kind], key, *ends, *limited, *with_scores, *more]


def combining(rng: random.Random) -> list[bytes]:
    """A request that combines sorted sets."""
    keys = [key_of(rng) for _ in range(rng.randint(1, 3))]
    counted = [some(rng, [b"%d" % len(keys)], [b"0", b"9", b"x", b"1", b"-1"]), *keys]
    tail: list[bytes] = []
    for option in options(rng, "weights aggregate withscores junk limit", 2):
        if option == b"junk" and rng.random() < 0.8:
            continue
        tail.append(option)
        if option == b"weights":
            tail += [some(rng, [b"1", b"2", b"-1.5", b"0", b"inf"], WRONG_SCORES) for _ in keys]
        elif option == b"aggregate":
            tail.append(some(rng, [b"sum", b"MIN", b"max"], [b"junk"]))
        elif option == b"limit":
            tail.append(some(rng, [b"0", b"1", b"2"], [b"-1", b"x"]))
    name = rng.choice([b"zunion", b"zinter", b"zdiff", b"zintercard"])
    if name == b"zintercard":
        return [name, *counted, *[word for word in tail if rng.random() < 0.1 or word not in (b"withscores", b"weights")]]
    return [name, *counted, *tail] if rng.random() < 0.5 else [name + b"store", key_of(rng), *counted, *tail]


def other(rng: random.Random, key: bytes) -> list[bytes]:
    """A request that scans, chooses, or is about the key."""
    match rng.randrange(6):
        case 0 | 1:
            tail = options(rng, "withscores junk", 2)
            count = [some(rng, [b"1", b"2", b"-3", b"0", b"100"], WRONG_NUMBERS[:-1])] if tail or rng.random() < 0.7 else []
            return [b"zrandmember", key, *count, *tail]
        case 2:
            tail = []
            for option in options(rng, "match count junk type"):
                tail += [option, rng.choice([b"1", b"*", b"m*", b"x", b"0"])]
            return [b"zscan", key, rng.choice([b"0", b"0", b"0", b"x", b""]), *tail[: -1 if rng.random() < 0.1 else None]]
        case 3:
            return [rng.choice([b"persist", b"type", b"exists"]), key]
        case 4:
            return [b"pexpire", key, rng.choice([b"1000000000", b"1000000000", b"-1"])] if key not in (b"set", b"text") else [b"type", key]
        case _:
            return [rng.choice([b"del", b"unlink"]), key] if key not in (b"set", b"text") and rng.random() < 0.3 else [b"zcard", key]


def request(rng: random.Random) -> list[bytes]:
    """A request of any kind, now and then a wrong one."""
    key = key_of(rng)
    kinds: list[Callable[[], list[bytes]]] = [
        lambda: adding(rng, key),
        lambda: about_members(rng, key),
        lambda: popping(rng, key),
        lambda: ranging(rng, key),
        lambda: combining(rng),
        lambda: other(rng, key),
    ]
    made = rng.choices(kinds, [35, 14, 5, 25, 14, 7])[0]()
    if rng.random() < 0.01:
        made.append(b"extra")
    if rng.random() < 0.01:
        made.pop()
    return made


def with_a_set(server: RedisServer) -> Driver:
    """A machine and the server, each with a set and a text and nothing else."""
    driver = Driver()
    for args in ([b"flushall"], [b"sadd", b"set", b"m", b"two", b"7"], [b"set", b"text", b"1"]):
        server.ask(args)
        driver.run(args)
    return driver


def parsed(wire: bytes) -> object:
    """What a client reads."""
    reader = hiredis.Reader(replyError=ValueError)
    reader.feed(wire)
    return reader.gets()


def comparable(args: list[bytes], wire: bytes) -> object:
    """A reply, without what may differ."""
    if wire.startswith(b"-") or args[0] not in (b"zrandmember", b"zscan"):
        return wire
    reply = parsed(wire)
    if args[0] == b"zscan" and isinstance(reply, list):
        cursor, elements = reply
        return cursor, sorted(zip(elements[::2], elements[1::2], strict=True))
    if isinstance(reply, list) and args[2] == b"100":
        return sorted(map(repr, reply))
    return len(reply) if isinstance(reply, list) else type(reply)


@pytest.mark.parametrize("seed", range(6))
def test_replies_are_those_of_redis(server: RedisServer, seed: int) -> None:
    """Random requests, right and wrong, get the same bytes from both, in RESP2 and in RESP3."""
    rng = random.Random(seed)
    protocol = 2 + seed % 2
    server.wire([b"hello", b"%d" % protocol])
    driver = with_a_set(server)
    for _ in range(3000):
        args = request(rng)
        expected, got = server.wire(args), encode_reply(driver.run(args), protocol)
        assert comparable(args, got) == comparable(args, expected), args


def doubles(rng: random.Random) -> Iterator[bytes]:
    """Numbers of all sizes, as text."""
    for _ in range(2000):
        number: float = struct.unpack(">d", rng.randbytes(8))[0]
        yield repr(number).encode() if number == number else b"%d" % rng.getrandbits(70)
        yield b"%.*g" % (rng.randint(1, 25), rng.uniform(-1, 1) * 10 ** rng.randint(-30, 30))
        yield b"%d" % rng.randint(-(2**60), 2**60)
        yield rng.choice([b"0x1p%d", b"1e%d", b"-.5e%d", b"0x.8P%d"]) % rng.randint(-1200, 1200)


def test_scores_are_read_and_shown_as_by_redis(server: RedisServer) -> None:
    """Thousands of numbers, and everything that could be one, are the same score, in the same digits."""
    rng = random.Random(1)
    server.wire([b"hello", b"2"])
    driver = with_a_set(server)
    odd = ["1e", "e1", ".", "+.5", "5.", "0x", "0x.", "0x1p", "0X1P3", "infinit", "-Infinity", "iNf", "nan(1)", "1_0", "١", "--1"]
    zeros = ["0e-999", "0.000e5", "0x0p-9999", "2e-324", "3e-324", "1.7976931348623159e308", "1.7976931348623157e308"]
    texts = [*doubles(rng), *[text.encode() for text in (*odd, *zeros, "0" * 400, "1" * 400)]]
    for text in texts:
        for args in ([b"zadd", b"k", text, b"m"], [b"zscore", b"k", b"m"], [b"zcount", b"k", text, b"(" + text], [b"zscan", b"k", b"0"]):
            assert encode_reply(driver.run(args), 2) == server.wire(args), args


def test_the_order_of_many_members_is_that_of_redis(server: RedisServer) -> None:
    """Also in a set that is large for Redis, where scores are the same, and after sums of three."""
    rng = random.Random(2)
    server.wire([b"hello", b"3"])
    driver = with_a_set(server)
    requests: list[list[bytes]] = []
    for key in (b"a", b"b", b"c"):
        for number in range(300):
            text = b"%.3g" % rng.uniform(-5, 5) if rng.random() < 0.7 else b"%d" % rng.randint(1, 9)
            requests.append([b"zadd", key, text, b"%x" % (number * 7919 % rng.randint(200, 400))])
    for first in range(0, 220, 17):
        for last in range(-210, 220, 19):
            ends = [b"%d" % first, b"%d" % last]
            requests += [[b"zrange", b"a", *ends, b"withscores"], [b"zrevrange", b"b", *ends]]
            requests += [[b"zrangebyscore", b"a", b"-2", b"3", b"withscores", b"limit", *ends], [b"zcount", b"a", b"%d" % -first, b"4"]]
    requests += [[name, b"a", b"%x" % number] for number in range(300) for name in (b"zrank", b"zrevrank", b"zscore")]
    for name in (b"zunion", b"zinter", b"zdiff"):
        requests.append([name, b"3", b"a", b"b", b"c", *([b"weights", b"0.1", b"3", b"-0.7"] if name != b"zdiff" else []), b"withscores"])
    requests += [[b"zrange", b"a", b"0", b"-1"], [b"zremrangebyrank", b"a", b"5", b"-5"], [b"zrange", b"a", b"0", b"-1", b"withscores"]]
    for args in requests:
        assert encode_reply(driver.run(args), 3) == server.wire(args), args


NAMES = (
    "zadd zincrby zrem zcard zscore zmscore zcount zlexcount zrank zrevrank zrange zrangestore zrevrange zrangebyscore zrevrangebyscore "
    "zrangebylex zrevrangebylex zremrangebyrank zremrangebyscore zremrangebylex zpopmin zpopmax zmpop zunionstore zinterstore zdiffstore "
    "zunion zinter zdiff zintercard zrandmember zscan"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_the_table_says_what_redis_says(server: RedisServer, name: str) -> None:
    """Arity, flags, keys, categories and tips."""
    server.wire([b"hello", b"2"])
    expected = parsed(server.wire([b"command", b"info", name.encode()]))
    got = parsed(encode_reply(describe_commands([b"info", name.encode()]), 2))
    assert isinstance(expected, list)
    assert isinstance(got, list)
    for reply in (expected, got):
        reply[0][6].sort()
    assert got[0][:8] == expected[0][:8]
