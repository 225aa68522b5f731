"""The same requests to a real redis-server and to the machine: the same replies, word for word.

Skipped where no redis-server is installed. What depends on the time that passes between two requests is compared within seconds.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from fractions import Fraction

import pytest

from raftkv.kv.commands import SPECS, Kind
from raftkv.kv.replies import Reply, Simple
from tests.kv.driver import Driver
from tests.kv.redis_server import RedisServer

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

KEYS = [b"a", b"b", b"c", b"", b"\xff\x00", b"w"]
EXTREMES = [b"9223372036854775807", b"-9223372036854775808"]
VALUES = [b"\xff\xff\xff", b"\0\x0f\xf0", b"x", b"", b" 1", b"+1", b"-0", b"0", b"1", b"-7", b"007", b"1.5", *EXTREMES]
NUMBERS = [*VALUES, b"100", b"5000", b"9223372036854775808", b"9223372036854775", b"-9223372036854775", b"99999999999999999999"]
TIMES = {b"ttl": 1, b"pttl": 1000, b"expiretime": 1, b"pexpiretime": 1000}
"""Commands that answer a time, and how much of it is a second."""
SET_OPTIONS = [b"nx", b"XX", b"get", b"KeepTTL", b"ex", b"px", b"exat", b"pxat", b"junk"]
NEWER = {"delex", "digest"}
"""Commands of Redis 8.4."""
FLOATS = [b"1.5", b"-0.25", b"3", b"1e3", b"-1e-2", b"x", b"", b"inf", b"-inf", b"nan", b" 1", b"1 ", b"+.5", b"5.", b".", b"0e99999999"]
GETEX_OPTIONS = [b"ex", b"ex", b"PX", b"px", b"exat", b"EXAT", b"pxat", b"PERSIST", b"persist", b"keepttl", b"get"]
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
    match rng.randrange(13):
        case 0 | 1:
            made = [b"set", key, rng.choice(VALUES), *set_options(rng)]
        case 2 | 3 | 4:
            made = string_request(rng, key)
        case 5 | 6:
            made = key_request(rng, key)
        case 7 | 8:
            made = expiry_request(rng, key)
        case 9:
            made = counter_request(rng, key)
        case 10:
            made = bit_request(rng, key)
        case 11:
            made = [rng.choice([b"del", b"unlink", b"exists", b"TOUCH", b"mget"]), *rng.choices(KEYS, k=rng.randint(1, 3))]
        case _:
            made = space_request(rng)
    if rng.random() < 0.03:
        made.append(rng.choice([b"extra", b"junk\r\n"]))
    if rng.random() < 0.02:
        made.pop()
    return made or [b"get", key]


def set_options(rng: random.Random) -> list[bytes]:
    """Options of SET."""
    options: list[bytes] = []
    for option in rng.choices(SET_OPTIONS, k=rng.choice([0, 0, 1, 1, 2, 3])):
        options += [option, lifetime(rng)] if option in (b"ex", b"px") and rng.random() < 0.95 else [option]
        if option in (b"exat", b"pxat"):
            options.append(rng.choice([b"9999999999999", b"0", b"x"]))
    return options


def string_request(rng: random.Random, key: bytes) -> list[bytes]:
    """A request about a string."""
    value = rng.choice(VALUES)
    places = [b"%d" % rng.randrange(-9, 9) for _ in range(2)]
    wild = rng.choice([*NUMBERS, b"-9223372036854775808", b"-1"])
    match rng.randrange(16):
        case 0:
            return [b"get", key]
        case 1:
            return [b"setnx", key, value]
        case 2 | 3:
            return [rng.choice([b"setex", b"psetex"]), key, lifetime(rng), value]
        case 4:
            return [b"getset", key, value]
        case 5:
            return [b"getdel", key]
        case 6 | 7:
            options = rng.choices(GETEX_OPTIONS, k=rng.choice([0, 1, 1, 1, 2]))
            return [b"getex", key, *[word for option in options for word in with_amount(rng, option)]]
        case 8 | 9:
            return [rng.choice([b"getrange", b"substr"]), key, *rng.choices([*places, *places, wild], k=2)]
        case 10 | 11:
            return [b"setrange", key, rng.choice([*places, b"3", wild if len(wild) > 12 else b"5"]), value]
        case 12:
            return [b"append", key, value]
        case 13:
            return [b"strlen", key]
        case _:
            pairs = [part for name in rng.choices(KEYS, k=rng.randint(1, 3)) for part in (name, rng.choice(VALUES))]
            return [rng.choice([b"mset", b"msetnx"]), *pairs]


def with_amount(rng: random.Random, option: bytes) -> list[bytes]:
    """An option, with what it needs."""
    match option.lower():
        case b"ex" | b"px":
            return [option, lifetime(rng)]
        case b"exat" | b"pxat":
            return [option, moment(rng)]
    return [option]


def bit_request(rng: random.Random, key: bytes) -> list[bytes]:
    """A request about the bits of a string."""
    place = rng.choice([*(b"%d" % rng.randrange(90) for _ in range(9)), b"-1", b"x", b"4294967296", b"9223372036854775808"])
    bit = rng.choice([b"0", b"1", b"0", b"1", b"0", b"1", b"2", b"x", b"-1", b"01"])
    ends = [rng.choice([b"%d" % rng.randrange(-70, 70)] * 7 + [b"0", b"-1", *NUMBERS]) for _ in range(2)]
    words = [*ends, rng.choice([b"bit", b"BIT", b"byte", b"junk"])][: rng.choice([0, 1, 2, 2, 3, 3])]
    match rng.randrange(6):
        case 0:
            return [b"getbit", key, place]
        case 1:
            return [b"setbit", key, place, bit]
        case 2:
            return [b"bitcount", key, *words]
        case 3 | 4:
            return [b"bitpos", key, bit, *words]
        case _:
            operation = rng.choice([b"and", b"OR", b"xor", b"not", b"junk"])
            return [b"bitop", operation, key, *rng.choices(KEYS, k=1 if operation == b"not" and rng.random() < 0.8 else rng.randint(1, 3))]


def key_request(rng: random.Random, key: bytes) -> list[bytes]:
    """A request about a key of any type."""
    other = rng.choice(KEYS)
    match rng.randrange(8):
        case 0 | 1:
            return [b"type", key]
        case 2 | 3:
            return [b"rename", key, other]
        case 4:
            return [b"RenameNX", key, other]
        case 5 | 6:
            options = rng.choices([b"replace", b"DB", b"db 0", b"db 1", b"db x", b"junk"], [9, 1, 2, 1, 1, 1], k=rng.choice([0, 1, 1, 2]))
            return [b"copy", key, other, *[word for option in options for word in option.split()]]
        case _:
            return [b"move", key, rng.choice([b"0", b"1", b"-1", b"x", b"99999999999", b""])]


def expiry_request(rng: random.Random, key: bytes) -> list[bytes]:
    """A request about how long a key lives."""
    options = rng.choices(EXPIRE_OPTIONS, k=rng.choice([0, 0, 1, 2]))
    match rng.randrange(6):
        case 0 | 1:
            return [rng.choice([b"expire", b"PEXPIRE"]), key, lifetime(rng), *options]
        case 2:
            return [rng.choice([b"expireat", b"PEXPIREAT"]), key, moment(rng), *options]
        case 3:
            return [b"persist", key]
        case _:
            return [rng.choice([b"ttl", b"pttl", b"expiretime", b"pexpiretime"]), key]


def counter_request(rng: random.Random, key: bytes) -> list[bytes]:
    """A request that counts."""
    match rng.randrange(5):
        case 0:
            return [rng.choice([b"incr", b"decr"]), key]
        case 1 | 2:
            return [rng.choice([b"incrby", b"decrby"]), key, rng.choice([*NUMBERS, b"-9223372036854775808"])]
        case _:
            return [b"incrbyfloat", key, rng.choice(FLOATS)]


def space_request(rng: random.Random) -> list[bytes]:
    """A request about all keys, or no command at all."""
    match rng.randrange(12):
        case 0:
            return [rng.choice([b"flushall", b"flushdb"])]
        case 1:
            return [rng.choice([b"flushall", b"flushdb"]), rng.choice([b"sync", b"ASYNC", b"x"])]
        case 2 | 3:
            return [b"keys", rng.choice([b"*", b"?", b"[ab]", b"", b"w*"])]
        case 4:
            return [b"randomkey"]
        case 5:
            return [b"swapdb", *rng.choices([b"0", b"0", b"1", b"x", b"-1", b"99999999999"], k=2)]
        case _:
            return [rng.choice([b"dbsize", b"nonsense", b"exists", b"ttl", b"mset", b"setrange"])]


def time_of(server: RedisServer) -> int:
    """The server's wall clock, in milliseconds: the one that absolute times are compared with."""
    reply = server.ask([b"time"])
    assert isinstance(reply, list)
    seconds = reply[0]
    assert isinstance(seconds, bytes)
    return int(seconds) * 1000


def lifetime(rng: random.Random) -> bytes:
    """A time to live: long, and never near another one; or none at all, or nonsense."""
    return rng.choice([b"%d" % rng.randrange(10**8, 10**11)] * 5 + [b"0", b"-5", b"x", b"", *EXTREMES])


def moment(rng: random.Random) -> bytes:
    """A moment far ahead, or one that has passed, or nonsense."""
    return rng.choice([b"%d" % rng.randrange(3 * 10**12, 10**14)] * 5 + [b"0", b"-5", b"1000", b"x", *EXTREMES])


def with_a_list(server: RedisServer) -> Driver:
    """A machine and the server, each with a list and nothing else."""
    driver = Driver()
    server.ask([b"flushall"])
    for side in (server.ask, driver.run):
        side([b"rpush", b"w", b"v"])
    return driver


def comparable(args: list[bytes], reply: Reply) -> object:
    """A reply, without what may differ."""
    if args[0] == b"keys" and isinstance(reply, list):
        return sorted(key for key in reply if isinstance(key, bytes))
    if args[0] == b"randomkey" and isinstance(reply, bytes):
        return bytes
    return reply


def same(args: list[bytes], expected: Reply, got: Reply) -> bool:
    """Whether two replies to a request are the same, apart from what may differ."""
    unit = TIMES.get(args[0], 0)
    if unit and isinstance(expected, int) and isinstance(got, int) and expected > 0:
        return abs(expected - got) <= 5 * unit
    if args[0] == b"incrbyfloat" and isinstance(expected, bytes) and isinstance(got, bytes):
        return near(expected, got)
    return comparable(args, got) == comparable(args, expected)


def near(expected: bytes, got: bytes) -> bool:
    """Whether two decimal numbers are the same but for the error of Redis's 64 binary digits."""
    one, other = Fraction(expected.decode()), Fraction(got.decode())
    return abs(one - other) <= (abs(other) + 2**11) / 2**62


@pytest.mark.parametrize("seed", range(6))
def test_replies_are_those_of_redis(server: RedisServer, seed: int) -> None:
    """Random requests, right and wrong, get the same reply from both; times to live agree within seconds, and sums of INCRBYFLOAT as
    far as Redis has digits."""
    rng = random.Random(seed)
    driver = with_a_list(server)
    driver.now_ms = time_of(server)
    for _ in range(3000):
        args = request(rng)
        if args[0] == b"copy" and server.ask([b"type", *args[1:2]]) == Simple("list"):
            continue  # a copy of a list is refused
        expected, got = server.ask(args), driver.run(args)
        assert same(args, expected, got), (args, expected, got)
        if args[0] == b"incrbyfloat" and isinstance(got, bytes):
            server.ask([b"set", args[1], got, b"keepttl"])


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


def test_the_table_says_what_redis_says(server: RedisServer) -> None:
    """Arity, flags and places of keys of every command of the state machine are Redis's; but DBSIZE is not fast here."""
    names = [name for name, spec in SPECS.items() if spec.kind is not Kind.CONNECTION and not name.startswith("raftkv.")]
    replies = server.ask([b"command", b"info", *map(str.encode, names)])
    assert isinstance(replies, list)
    theirs = {name: reply for name, reply in zip(names, replies, strict=True) if isinstance(reply, list)}
    assert set(names) - set(theirs) == NEWER
    for name, (_, arity, flags, *keys) in theirs.items():
        spec = SPECS[name]
        assert isinstance(flags, list)
        assert [*(flag.encode() for flag in spec.flags), *([b"fast"] if name == "dbsize" else [])] == flags, name
        assert [spec.arity, spec.first_key, spec.last_key, spec.step] == [arity, *keys[:3]], name


def decimal(rng: random.Random, below: int, places: int) -> bytes:
    """A decimal number with up to `places` digits behind the point."""
    text = str(rng.randrange(rng.choice([1, 10, below]) + 1) % below)
    behind = rng.randint(0, places)
    if behind:
        text += "." + str(rng.randrange(10**behind)).zfill(behind)
    return (rng.choice(["", "-", "+"]) + text).encode()


@pytest.mark.parametrize(("below", "places", "exact"), [(16, 17, True), (10**6, 6, False), (10**15, 15, False)])
def test_sums_are_those_of_redis(server: RedisServer, below: int, places: int, exact: bool) -> None:
    """INCRBYFLOAT of thousands of ordinary numbers: of numbers below 16 every digit is Redis's; of larger ones Redis's sum differs by what
    its 64 binary digits cannot hold, and ours is the sum."""
    rng = random.Random(below)
    driver = Driver()
    for _ in range(2000):
        number, amount = decimal(rng, below, places), decimal(rng, below, places)
        replies = []
        for side in (server.ask, driver.run):
            side([b"set", b"n", number])
            replies.append(side([b"incrbyfloat", b"n", amount]))
        expected, got = replies
        assert isinstance(got, bytes)
        assert isinstance(expected, bytes)
        total = Fraction(number.decode()) + Fraction(amount.decode())
        assert Fraction(got.decode()) == total
        assert abs(Fraction(expected.decode()) - total) <= Fraction(2 * below, 2**62), (number, amount)
        if exact:
            assert got == expected, (number, amount)


@pytest.mark.parametrize(
    "text",
    [
        *["1.18973149535723176502e4932", "1.1897314953572317651e4932", "1.2e4932", "-1e4933"],
        *["4e-4951", "1e-4951", "0e9999999999", "1e-5000"],
        *["1e", "1e+", "e1", "+-1", "1..2", ".e1", "5.e1", ".5E+1", "1_0", "1,5", "iNf", "+InFinity", "infinit", "NaN", "-nan"],
        *["\t1", "1\n", "1\0"],
        *["1" * 5119, "1" * 5120, "0" * 5000 + "1", "0." + "0" * 4000 + "1", "1e" + "0" * 5000 + "1"],
    ],
)
def test_numbers_are_read_as_redis_reads_them(server: RedisServer, text: str) -> None:
    """INCRBYFLOAT takes and refuses the same texts, as the number that is there and as the amount."""
    for number, amount in ((text, "0"), ("0", text)):
        replies = []
        for side in (server.ask, Driver().run):
            side([b"set", b"n", number.encode()])
            replies.append(side([b"incrbyfloat", b"n", amount.encode()]))
        expected, got = replies
        if not isinstance(expected, bytes):
            assert got == expected
        assert type(got) is type(expected)


@pytest.mark.parametrize("seed", range(3))
def test_common_subsequences_are_those_of_redis(server: RedisServer, seed: int) -> None:
    """LCS finds the same pieces in the same order, with any options, in any strings, and refuses the same requests."""
    rng = random.Random(seed)
    driver = with_a_list(server)
    options = [b"idx", b"LEN", b"withmatchlen", b"minmatchlen 2", b"minmatchlen -1", b"minmatchlen", b"minmatchlen x", b"junk"]
    for _ in range(400):
        for key in (b"a", b"b"):
            value = bytes(rng.choices(b"xyz", k=rng.randint(0, 12)))
            for side in (server.ask, driver.run):
                side([b"set", key, value])
        chosen = rng.choices(options, [12, 6, 6, 6, 2, 1, 1, 1], k=rng.choice([0, 1, 1, 2, 3]))
        args = [b"lcs", *rng.choices([b"a", b"b", b"w", b"nothing"], [6, 6, 1, 1], k=2), *b" ".join(chosen).split()]
        expected, got = server.ask(args), driver.run(args)
        if isinstance(got, dict):  # RESP2 shows it so
            got = [half for pair in got.items() for half in pair]
        assert got == expected, args
