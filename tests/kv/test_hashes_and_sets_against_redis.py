"""Commands on hashes and sets: the same requests to a real redis-server and to the machine get the same replies, word for word, and leave
the same hashes and sets behind. What Redis returns in no particular order is compared in none, and of what is random only how much it is.

Skipped where no redis-server is installed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from raftkv.codec.resp import encode_reply
from raftkv.kv.collection import decode_collection
from raftkv.kv.commands import parse_request
from raftkv.kv.replies import CommandError, Failure, Pairs, Reply, SetReply
from raftkv.kv.rows import COLLECTIONS_ROW, ELEMENTS, ELEMENTS_END, STRING, VALUES, VALUES_END, decode_value
from tests.kv.driver import Driver, Request, arguments
from tests.kv.redis_server import RedisServer
from tests.kv.test_against_redis import FLOATS, near

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

KEYS = [b"h", b"i", b"s", b"t", b"u", b"", b"w", b"\xff\x00"]
NAMES = [b"a", b"b", b"c", b"", b"\r\n", b"1", b"22", b"\xfe", b"long " * 20]
VALUES_OF_FIELDS = [b"1", b"-7", b"x", b"", b"9223372036854775807", b"007", b"1.5", b" 1", b"inf", b"long " * 20]
NUMBERS = [b"1", b"-1", b"5", b"0", b"x", b"", b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808", b"01"]
COUNTS = [b"0", b"1", b"2", b"3", b"-1", b"-4", b"99", b"x", b"", b"9223372036854775808", b"-9223372036854775808", b"4611686018427387904"]
SCAN_OPTIONS = [
    [], [], [b"count", b"1"], [b"COUNT", b"100"], [b"match", b"*"], [b"match", b"[a-b]*"], [b"count", b"0"], [b"count"], [b"count", b"x"],
    [b"junk", b"1"], [b"type", b"hash"],
]  # fmt: skip
UNORDERED = {b"hkeys", b"hvals", b"smembers", b"sinter", b"sunion", b"sdiff"}
DRAWN = {b"hrandfield", b"srandmember", b"spop"}
SCANS = {b"hscan", b"sscan"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests of this module."""
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def some(rng: random.Random, of: list[bytes], most: int = 3) -> list[bytes]:
    """A few of them, perhaps the same again."""
    return rng.choices(of, k=rng.randint(1, most))


def hash_request(rng: random.Random, key: bytes) -> list[bytes]:
    """A request about a hash."""
    name = rng.choice(NAMES)
    match rng.randrange(16):
        case 0 | 1 | 2:
            pairs = [(each, rng.choice(VALUES_OF_FIELDS)) for each in some(rng, NAMES)]
            return [rng.choice([b"hset", b"HMSET"]), key, *(part for pair in pairs for part in pair)]
        case 3:
            return [b"hsetnx", key, name, rng.choice(VALUES_OF_FIELDS)]
        case 4 | 5:
            return [rng.choice([b"hdel", b"hmget"]), key, *some(rng, NAMES)]
        case 6 | 7:
            return [rng.choice([b"hget", b"hexists", b"hstrlen"]), key, name]
        case 8 | 9:
            return [rng.choice([b"hgetall", b"hkeys", b"hvals", b"hlen"]), key]
        case 10 | 11:
            return [b"hincrby", key, name, rng.choice(NUMBERS)]
        case 12 | 13:
            return [b"hincrbyfloat", key, name, rng.choice(FLOATS)]
        case 14:
            options = [] if rng.random() < 0.3 else [rng.choice(COUNTS), *rng.choice([[], [b"withvalues"], [b"WithValues"], [b"junk"]])]
            return [b"hrandfield", key, *options]
        case _:
            return [b"hscan", key, rng.choice([b"0", b"0", b"0", b"x", b"-"]), *rng.choice(SCAN_OPTIONS)]


def set_request(rng: random.Random, key: bytes) -> list[bytes]:
    """A request about sets."""
    keys = some(rng, KEYS)
    match rng.randrange(16):
        case 0 | 1 | 2 | 3:
            return [b"sadd", key, *some(rng, NAMES, 5)]
        case 4 | 5:
            return [rng.choice([b"srem", b"smismember"]), key, *some(rng, NAMES)]
        case 6:
            return [b"sismember", key, rng.choice(NAMES)]
        case 7:
            return [rng.choice([b"scard", b"smembers"]), key]
        case 8:
            return [rng.choice([b"spop", b"srandmember"]), key, *([] if rng.random() < 0.4 else [rng.choice(COUNTS)])]
        case 9 | 10:
            return [b"smove", key, rng.choice(KEYS), rng.choice(NAMES)]
        case 11:
            return [rng.choice([b"sinter", b"sunion", b"sdiff"]), *keys]
        case 12:
            count = rng.choice([b"%d" % len(keys)] * 5 + [b"0", b"-1", b"x", b"9"])
            limit = rng.choice([[], [], [b"limit", b"1"], [b"LIMIT", b"0"], [b"limit"], [b"limit", b"-1"], [b"limit", b"x"], [b"junk"]])
            return [b"sintercard", count, *keys, *limit]
        case 13 | 14:
            return [rng.choice([b"sinterstore", b"sunionstore", b"sdiffstore"]), key, *keys]
        case _:
            return [b"sscan", key, rng.choice([b"0", b"0", b"0", b"x", b"-"]), *rng.choice(SCAN_OPTIONS)]


def request(rng: random.Random) -> list[bytes]:
    """A request that has to do with hashes or sets, now and then a wrong one."""
    key = rng.choice(KEYS)
    kind = rng.random()
    if kind < 0.4:
        made = hash_request(rng, rng.choice([b"h", b"i", key]))
    elif kind < 0.85:
        made = set_request(rng, rng.choice([b"s", b"t", b"u", key]))
    else:
        made = rng.choice(
            [
                [b"del", key], [b"rename", key, rng.choice(KEYS)], [b"set", b"w", b"v"], [b"type", key], [b"exists", key],
                [b"expire", key, b"%d" % rng.randrange(10**6, 10**8)], [b"expire", key, b"-1"], [b"persist", key], [b"ttl", key],
                [b"ttl", key], [b"set", key, b"v"], [b"dbsize"], [b"setnx", key, b"v"], [b"del", b"w"],
            ]
        )  # fmt: skip
    if rng.random() < 0.02:
        made.append(b"extra")
    if rng.random() < 0.02:
        made.pop()
    return made or [b"hget", key]


def ordered(reply: Reply) -> list[bytes]:
    """The elements of a reply that is in no order."""
    members = reply.members if isinstance(reply, SetReply) else reply
    assert isinstance(members, list), reply
    assert all(isinstance(member, bytes) for member in members)
    return sorted(member for member in members if isinstance(member, bytes))


def fields(reply: Reply) -> dict[Reply, Reply]:
    """The fields in a reply to HGETALL."""
    if isinstance(reply, list):
        return dict(zip(reply[::2], reply[1::2], strict=True))
    assert isinstance(reply, dict), reply
    return reply


def drawn(reply: Reply) -> object:
    """What is certain of a random reply: whether it is an array, and how long."""
    if isinstance(reply, Pairs):
        return 2 * len(reply.pairs)
    if isinstance(reply, SetReply):
        return len(reply.members)
    return len(reply) if isinstance(reply, list) else type(reply)


Ask = Callable[[list[bytes]], Reply]


def scanned(ask: Ask, args: list[bytes]) -> object:
    """Everything that a scan returns, or its error."""
    found: list[bytes] = []
    place: Reply = args[2]
    while isinstance(place, bytes):
        reply = ask([*args[:2], place, *args[3:]])
        if not isinstance(reply, list):
            return reply
        place, rest = reply
        assert isinstance(rest, list)
        found += [part for part in rest if isinstance(part, bytes)]
        if place == b"0":
            break
    if args[0].lower() == b"hscan":
        return sorted(zip(found[::2], found[1::2], strict=True))
    return sorted(found)


def popped(reply: Reply) -> list[bytes]:
    """What SPOP took."""
    return [reply] if isinstance(reply, bytes) else ordered(reply)


def check(server: RedisServer, args: list[bytes], expected: Reply, got: Reply) -> None:
    """The replies are the same, apart from what may differ; the server is made to have drawn what the machine has."""
    name = args[0].lower()
    about = (args, expected, got)
    if isinstance(expected, Failure) or isinstance(got, Failure) or expected is None:
        assert got == expected, about
    elif name in UNORDERED:
        assert ordered(got) == ordered(expected), about
    elif name == b"hgetall":
        assert fields(got) == fields(expected), about
    elif name == b"ttl":
        assert isinstance(expected, int)
        assert isinstance(got, int)
        assert abs(got - expected) <= 5 or got == expected < 0, about
    elif name == b"hincrbyfloat":
        assert isinstance(expected, bytes)
        assert isinstance(got, bytes)
        assert near(expected, got), about
        server.ask([b"hset", *args[1:3], got])
    elif name in DRAWN:
        assert drawn(got) == drawn(expected), about
        if name == b"spop" and popped(got) != popped(expected):
            server.ask([b"sadd", args[1], *popped(expected)])
            server.ask([b"srem", args[1], *popped(got)])
    else:
        assert got == expected, about


def content(driver: Driver, ask: Ask) -> dict[bytes, object]:
    """Every key with what it holds."""
    found: dict[bytes, object] = {}
    for key in KEYS:
        kind = driver.run([b"type", key])
        text = getattr(kind, "text", "")
        if text == "hash":
            found[key] = fields(ask([b"hgetall", key]))
        elif text == "set":
            found[key] = ordered(ask([b"smembers", key]))
        else:
            found[key] = ask([b"get", key])
    return found


def check_rows(driver: Driver) -> None:
    """There are as many rows of elements as collections say, and as many collections as are counted."""
    collections = []
    for _, row in driver.store.scan(VALUES, VALUES_END):
        value = decode_value(row)
        if value.type != STRING:
            collections.append(decode_collection(b"", value))
    assert driver.store.count(ELEMENTS, ELEMENTS_END) == sum(each.count for each in collections)
    assert int.from_bytes(driver.store.get(COLLECTIONS_ROW) or b"") == len(collections)


def joins_a_batch(args: list[bytes]) -> bool:
    """Whether a request can wait to be applied together with others: it is a write whose reply is certain."""
    try:
        return parse_request(args).kind.value == "write" and args[0].lower() not in DRAWN
    except CommandError:
        return False


@pytest.mark.parametrize("seed", range(8))
def test_replies_are_those_of_redis(server: RedisServer, seed: int) -> None:
    """Random requests, right and wrong, applied one by one and several in a batch, get the same replies from both; and what they leave
    behind is the same, with no row too many."""
    rng = random.Random(seed)
    driver = Driver()
    server.ask([b"flushall"])
    together: list[Request] = []
    most = 1
    for number in range(3000):
        args = request(rng)
        while len(together) < most and joins_a_batch(args):
            together.append(args)
            args = request(rng)
        for each, got in zip(together, driver.write(*together) if together else [], strict=True):
            check(server, arguments(each), server.ask(arguments(each)), got)
        together = []
        most = rng.choice([0, 0, 1, 2, 8])
        if args[0].lower() in SCANS and len(args) > 2:
            assert scanned(driver.run, args) == scanned(server.ask, args), args
        else:
            check(server, args, server.ask(args), driver.run(args))
        if number % 100 == 0:
            assert content(driver, driver.run) == content(driver, server.ask)
            check_rows(driver)


RESP3 = [
    "hgetall h", "hgetall no", "hkeys h", "hvals h", "hkeys no", "hmget h f g", "hmget no f", "hget h g", "hrandfield h", "hrandfield no",
    "hrandfield h 1", "hrandfield h 1 withvalues", "hrandfield h -2 withvalues", "hrandfield h 0 withvalues", "hrandfield no 1 withvalues",
    "hscan h 0", "hscan no 0", "hincrbyfloat h n 1.5", "smembers s", "smembers no", "sinter s s", "sunion no no", "sdiff s", "sdiff s s",
    "smismember s m x", "srandmember s", "srandmember no", "srandmember s 3", "srandmember s -2", "srandmember no 1", "sscan s 0",
    "sintercard 1 s", "sismember s m", "spop no", "spop no 1", "spop s 0", "spop s 1", "spop t",
]  # fmt: skip


def test_replies_have_the_types_of_redis_in_resp3(server: RedisServer) -> None:
    """On the wire every reply is the same byte for byte: sets, maps and pairs are what Redis makes of them, in both protocols."""
    for protocol in (2, 3):
        driver = Driver()
        server.wire([b"hello", b"%d" % protocol])
        server.ask([b"flushall"])
        for text in ("hset h f v", "sadd s m", "sadd t m"):
            server.ask(arguments(text))
            driver.run(text)
        for text in RESP3:
            assert encode_reply(driver.run(text), protocol) == server.wire(arguments(text)), (protocol, text)
            if text.startswith("hincrbyfloat"):
                for side in (server.ask, driver.run):
                    side([b"hdel", b"h", b"n"])
    server.wire([b"hello", b"2"])


@pytest.mark.parametrize("count", [1, 5, 127, 128, 129, 600])
def test_whole_scans_find_what_redis_finds(server: RedisServer, count: int) -> None:
    """Scans of any size, with and without a pattern, return every element once."""
    driver = Driver()
    server.ask([b"flushall"])
    names = [b"name:%d" % number for number in range(count)]
    for args in ([b"hset", b"h", *(part for name in names for part in (name, b"v"))], [b"sadd", b"s", *names]):
        assert driver.run(args) == server.ask(args) == count
    for options in ([], [b"count", b"7"], [b"match", b"*[02468]"], [b"count", b"3", b"match", b"*1*"]):
        for name, key in ((b"hscan", b"h"), (b"sscan", b"s")):
            assert scanned(driver.run, [name, key, b"0", *options]) == scanned(server.ask, [name, key, b"0", *options])


def test_sums_are_those_of_redis(server: RedisServer) -> None:
    """HINCRBYFLOAT of ordinary numbers comes to every digit that Redis comes to, as INCRBYFLOAT does."""
    rng = random.Random(1)
    driver = Driver()
    server.ask([b"flushall"])
    total = Fraction(0)
    for _ in range(500):
        amount = b"%d.%d" % (rng.randrange(-3, 4), rng.randrange(1000))
        args = [b"hincrbyfloat", b"h", b"f", amount]
        got = driver.run(args)
        assert got == server.ask(args)
        total += Fraction(amount.decode())
        assert isinstance(got, bytes)
        assert Fraction(got.decode()) == total
