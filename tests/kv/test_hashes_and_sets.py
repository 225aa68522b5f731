"""Hashes and sets where Redis is no judge: what is left in the store, what a command touches, what is random, our own limits."""

from __future__ import annotations

import random
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from raftkv.kv import draws, hashed_elements, keyspace
from raftkv.kv.batch import Group
from raftkv.kv.collection import Collection, number_of
from raftkv.kv.command import MAX_REPLY_BYTES, Read, Write
from raftkv.kv.commands import decode_commands, encode_commands, parse_request
from raftkv.kv.draws import WINDOW, Draws, draw_one, draw_signed, draw_some
from raftkv.kv.hash_commands import RandomFields
from raftkv.kv.hashed_elements import MAX_NAME_BYTES, name_of
from raftkv.kv.keyspace import ELEMENTS_PER_TURN, Changes, Keyspace, TakesLong
from raftkv.kv.replies import Failure, Pairs, Reply, SetReply
from raftkv.kv.rows import COLLECTIONS_ROW, ELEMENTS, ELEMENTS_END, SET
from raftkv.kv.set_commands import PopMembers
from raftkv.kv.transactions import Transaction
from tests.kv.driver import Driver, arguments
from tests.router.rows import MemoryRows

ENCODED = {
    "hset h f v g w": "91943cc4016894c40166c40176c40167c40177c3",
    "hmset h f v": "91943cc4016892c40166c40176c2",
    "hsetnx h f v": "91943dc40168c40166c40176",
    "hget h f": "91933ec40168c40166",
    "hmget h f g": "91933fc4016892c40166c40167",
    "hgetall h": "919340c4016803",
    "hkeys h": "919340c4016801",
    "hvals h": "919340c4016802",
    "hlen h": "919241c40168",
    "hdel h f": "919342c4016891c40166",
    "hexists h f": "919343c40168c40166",
    "hstrlen h f": "919344c40168c40166",
    "hincrby h f -5": "919445c40168c40166fb",
    "hincrbyfloat h f 1.5": "919446c40168c40166c403312e35",
    "hrandfield h -3 withvalues": "919547c40168fdc300",
    "hrandfield h": "919547c40168c0c200",
    "hscan h 5 count 3": "919448c401680592c405636f756e74c40133",
    "sadd s m n": "91936ec4017392c4016dc4016e",
    "srem s m": "91936fc4017391c4016d",
    "sismember s m": "919370c40173c4016d",
    "smismember s m": "919371c4017391c4016d",
    "scard s": "919272c40173",
    "spop s": "919473c40173c000",
    "spop s 3": "919473c401730300",
    "srandmember s -2": "919474c40173fe00",
    "smove s t m": "919475c40173c40174c4016d",
    "sscan s 0": "919476c401730090",
    "smembers s": "9193770191c40173",
    "sunion s t": "9193770292c40173c40174",
    "sdiff s t": "9193770392c40173c40174",
    "sintercard 1 s limit 4": "91937891c4017304",
    "sdiffstore d s t": "91947903c4016492c40173c40174",
}


@pytest.mark.parametrize("request_text", ENCODED)
def test_the_bytes_of_commands_are_a_format(request_text: str) -> None:
    """What is encoded is what is in logs already, and is decoded as the same command."""
    command = parse_request(arguments(request_text))
    data = encode_commands([command])
    assert data.hex() == ENCODED[request_text]
    assert decode_commands(data) == [command]


# What is left.


@pytest.mark.parametrize(
    "last",
    [
        "del h s", "unlink s h", "set h v|set s v", "hdel h f g x|srem s m n x", "hdel h f|hdel h g|spop s|spop s", "spop s 2|del h",
        "spop s 99|flushall", "smove s t m|smove s t n|del t h", "sinterstore s s no|sdiffstore h no s", "set x v|rename x h|rename x s",
        "set x v|rename x h|set y v|rename y s", "expire h 0|pexpire s -1", "sunionstore h no no|sunionstore s no", "mset h v s v",
    ],
)  # fmt: skip
@pytest.mark.parametrize("many", [False, True])
def test_nothing_is_left_of_what_is_gone(last: str, many: bool) -> None:
    """Whatever takes the last element, or the key, or its place, takes every row of an element with it, of small ones and of large ones,
    in a batch of their own and in that which made them."""
    for one_batch in (False, True):
        driver = Driver()
        made: list[str | list[bytes]] = ["hset h f v g w", "sadd s m n"]
        if many and "hdel" not in last and "spop s|" not in last and "spop s 2" not in last and "smove" not in last:
            names = [b"%d" % number for number in range(200)]
            made += [[b"hset", b"h", *(part for name in names for part in (name, b"v"))], [b"sadd", b"s", *names]]
        done = [*last.split("|")]
        if one_batch:
            driver.write(*made, *done)
        else:
            driver.write(*made)
            for each in done:
                driver.write(each)
        if last.startswith("set x v|rename x h|rename x s"):
            driver.write("del s")  # the second rename has nothing to rename
        assert driver.store.count(ELEMENTS, ELEMENTS_END) == 0
        assert driver.store.get(COLLECTIONS_ROW) is None


def test_a_set_that_loses_its_last_member_loses_its_expiry() -> None:
    """The key is gone with its last element; a new one of that name lives for ever, and one that only lost some keeps its time."""
    driver = Driver()
    driver.write("sadd s m n", "expire s 100", "srem s m")
    assert driver.read("ttl s") == 100
    driver.write("spop s", "sadd s m")
    assert driver.read("ttl s") == -1
    driver.write("hset h f v", "expire h 100", "hset h g w", "hincrby h n 1", "hdel h f")
    assert driver.read("ttl h") == 100
    driver.write("sunionstore h s")
    assert (driver.read("ttl h"), driver.read("scard h")) == (-1, 1)


def test_what_has_expired_is_not_there() -> None:
    """Reads find nothing, and writes begin anew, when time has passed and nobody has deleted the key yet."""
    driver = Driver()
    driver.write("hset h f v", "sadd s m", "sadd t m", "pexpire h 10", "pexpire s 10")
    driver.now_ms += 11
    replies = driver.write("hincrby h f 5", "smove s t x", "sunionstore u s t", "hset h g w")
    assert replies == [5, 0, 1, 1]
    assert (driver.read("hgetall h"), driver.read("smembers s")) == ({b"f": b"5", b"g": b"w"}, SetReply([]))
    assert driver.store.count(ELEMENTS, ELEMENTS_END) == 4


def test_a_transaction_sees_what_it_has_done() -> None:
    """Every read answers on the state as a batch has changed it so far, as a read inside of a transaction does."""
    driver = Driver()
    driver.write("hset h f v g w", "sadd s m n", "sadd t n o")
    changes = Changes(driver.store, 9, driver.now_ms, 1, 3)
    for text in ("hset h f x", "hdel h g", "hset h i y", "srem s m", "sadd s p", "sadd t p"):
        command = parse_request(arguments(text))
        assert isinstance(command, Write)
        command.apply(changes)
    expected: dict[str, Reply] = {
        "hget h f": b"x", "hmget h f g i": [b"x", None, b"y"], "hlen h": 2, "hexists h g": 0, "hstrlen h i": 1, "scard s": 2,
        "smismember s m n p": [0, 1, 1], "sintercard 2 s t": 2, "hgetall h": {b"f": b"x", b"i": b"y"},
    }  # fmt: skip
    for text, reply in expected.items():
        read = parse_request(arguments(text))
        assert isinstance(read, Read)
        assert read.read(changes) == reply, text


# What is touched.


class CountingRows(MemoryRows):
    """Rows that count how many of them are read, and go through no more than are asked for."""

    read = 0

    def get(self, key: bytes) -> bytes | None:
        """Count one."""
        self.read += 1
        return super().get(key)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Count those that are gone through."""
        names = self._keys = sorted(self._rows) if self._keys is None else self._keys
        places = range(bisect_left(names, start), bisect_left(names, end))
        for place in islice(reversed(places) if backwards else places, limit):
            self.read += 1
            yield names[place], self._rows[names[place]]


@pytest.fixture(scope="module")
def large() -> CountingRows:
    """The rows of a hash of 100,000 fields and of a set of as many members, and of small sets."""
    rows = CountingRows()
    driver = Driver(rows)
    names = [b"name:%d" % number for number in range(100_000)]
    for start in range(0, len(names), 20_000):
        some = names[start : start + 20_000]
        driver.write([b"hset", b"h", *(part for name in some for part in (name, b"1"))], [b"sadd", b"s", *some])
    driver.write("sadd t name:1 name:2 other", "sadd u x")
    return rows


@pytest.mark.parametrize(
    ("text", "most_read", "most_written"),
    [
        ("hget h name:5", 2, 0), ("hmget h name:5 no", 3, 0), ("hlen h", 1, 0), ("hexists h no", 2, 0), ("hset h name:5 2", 4, 2),
        ("hset h new 2", 4, 2), ("hdel h name:5 name:6", 5, 3), ("hincrby h name:7 1", 5, 2), ("hrandfield h", WINDOW + 1, 0),
        ("hrandfield h 3", 3 * WINDOW + 1, 0), ("hscan h 0 count 20", 22, 0), ("sismember s name:5", 2, 0), ("scard s", 1, 0),
        ("sadd s new name:5", 6, 2), ("srem s name:5", 4, 2), ("spop s", WINDOW + 3, 2), ("spop s 5", 5 * WINDOW + 3, 6),
        ("smove s u name:5", 12, 4), ("sinter s t", 8, 0), ("sdiff t s", 8, 0), ("sinterstore d s t", 12, 4), ("sscan s 77", 12, 0),
        ("del h s", 4, 5), ("rename h s", 4, 4), ("set s v", 2, 2), ("sintercard 2 s t limit 1", 8, 0),
        ("srandmember s -4", 4 * WINDOW + 1, 0),
    ],
)  # fmt: skip
def test_a_command_costs_what_it_touches(large: CountingRows, text: str, most_read: int, most_written: int) -> None:
    """However many elements there are, only the rows that the command is about are read and written."""
    changes = Changes(large, 100, 0, 1, 4)
    command = parse_request(arguments(text))
    large.read = 0
    if isinstance(command, Write):
        command.apply(changes)
    else:
        assert isinstance(command, Read)
        command.read(Keyspace(large, 0))
    assert large.read <= most_read
    assert len(changes.rows) <= most_written


# What is random.


def set_of(count: int, *, kind: int = SET, cluster: bool = False) -> tuple[Keyspace, Collection]:
    """A collection of so many elements; with hashes that are all the same but for their last bytes, if it is to be a cluster."""
    rows = CountingRows()
    collection = Collection(b"s", kind, number_of(1, 1), count, 0, 0)
    if cluster:
        made = {collection.prefix + struct.pack(">Q", 7 << 32 | number) + b"%d" % number: b"v" for number in range(count)}
    else:
        made = {collection.hashed(b"%d" % number): b"v" for number in range(count)}
    rows.write(dict(made))
    return Keyspace(rows, 0), collection


@pytest.mark.parametrize("count", [1, 2, 3, 64, WINDOW])
def test_every_element_of_a_small_collection_is_equally_likely(count: int) -> None:
    """Each comes as often as chance allows, also when their hashes lie close together."""
    for cluster in (False, True):
        keys, collection = set_of(count, cluster=cluster)
        found = Counter(draw_one(keys, collection, Draws(number))[0] for number in range(100 * count))
        assert len(found) == count
        assert 50 <= min(found.values()) <= max(found.values()) <= 150


def test_elements_of_a_large_collection_are_about_equally_likely() -> None:
    """No element comes much more often than any other, and every one comes."""
    keys, collection = set_of(1000)
    found = Counter(draw_one(keys, collection, Draws(number))[0] for number in range(50_000))
    assert len(found) == 1000
    assert max(found.values()) < 3 * 50
    assert min(found.values()) > 50 / 3


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize(("count", "wanted"), [(5, 3), (5, 5), (5, 9), (300, 1), (300, 2), (20_000, 250), (20_000, 1000), (20_000, 15_000)])
def test_different_elements_are_different(count: int, wanted: int, cluster: bool) -> None:
    """As many as are wanted and there, none twice, whatever the hashes: also where all windows are the same one."""
    keys, collection = set_of(count, cluster=cluster)
    found = draw_some(keys, collection, wanted, Draws(3))
    assert len({row for row, _ in found}) == len(found) == min(count, wanted)
    assert found == draw_some(keys, collection, wanted, Draws(3))
    if wanted < count:
        assert found != draw_some(keys, collection, wanted, Draws(4))


def test_each_selection_is_equally_likely() -> None:
    """Of four elements, each of the six pairs comes as often as chance allows."""
    keys, collection = set_of(4)
    found = Counter(tuple(sorted(row for row, _ in draw_some(keys, collection, 2, Draws(number)))) for number in range(600))
    assert len(found) == 6
    assert min(found.values()) > 60


@pytest.mark.parametrize("count", [1, 4, 5000])
def test_elements_that_may_come_again_do(count: int) -> None:
    """So many as are wanted, from a small collection many times the same, all of which are there."""
    keys, collection = set_of(count)
    found = draw_signed(keys, collection, -60, Draws(1))
    assert len(found) == 60
    assert {name_of(row) for row, _ in found} <= {b"%d" % number for number in range(count)}
    assert len({row for row, _ in found}) <= min(count, 60)
    if count < 60:
        assert len({row for row, _ in found}) == count


def test_a_few_elements_are_not_drawn_for_ever() -> None:
    """A number that would make an endless answer of a small hash is refused when the answer is as large as one may be."""
    driver = Driver()
    driver.write([b"hset", b"h", b"f", bytes(1 << 20)])
    for command in (RandomFields(b"h", -(2**62), True, 1), RandomFields(b"h", -17, True, 1)):
        reply = driver.machine.view().read(command)
        assert isinstance(reply, Failure)
        assert str(MAX_REPLY_BYTES) in reply.message
    assert isinstance(driver.machine.view().read(RandomFields(b"h", -14, True, 1)), Pairs)


def test_members_are_popped_until_none_is_left() -> None:
    """Whatever numbers are drawn, each member is popped once, and replicas that apply the same command pop the same one."""
    rng = random.Random(1)
    names = {b"%d" % number for number in range(500)}
    drivers = [Driver(), Driver()]
    for driver in drivers:
        driver.write([b"sadd", b"s", *sorted(names)])
    popped: list[Reply] = []
    left = len(names)
    while left:
        count = rng.choice([None, None, 0, 1, 7, 200])
        command = PopMembers(b"s", count, rng.getrandbits(63))
        first, second = (_apply(driver, command) for driver in drivers)
        assert first == second
        popped += first.members if isinstance(first, SetReply) else [first]
        left -= len(first.members) if isinstance(first, SetReply) else 1
        assert drivers[0].read("scard s") == left
    assert len(popped) == len(names)
    assert set(popped) == names
    assert drivers[0].machine.position.digest == drivers[1].machine.position.digest
    assert _apply(drivers[0], PopMembers(b"s", None, 1)) is None


def _apply(driver: Driver, command: PopMembers) -> Reply:
    changes = Changes(driver.store, driver.machine.applied_index + 1, driver.now_ms, 1, driver.machine._collections)
    reply = command.apply(changes)
    driver.store.write(changes.rows, changes.ranges)
    driver.machine._collections = changes.collections
    return reply


# Sets together.


@pytest.mark.parametrize("seed", range(4))
def test_sets_come_to_what_sets_of_python_come_to(seed: int) -> None:
    """Sets of all sizes, some of them missing, some of them the same one, read and stored."""
    rng = random.Random(seed)
    driver = Driver()
    sets: dict[bytes, set[bytes]] = {}
    for key in (b"a", b"b", b"c", b"d"):
        sets[key] = {b"%d" % rng.randrange(400) for _ in range(rng.choice([0, 1, 10, 150, 300]))}
        if sets[key]:
            driver.write([b"sadd", key, *sorted(sets[key])])
    for _ in range(60):
        keys = rng.choices(sorted(sets), k=rng.randint(1, 4))
        first, *others = (sets[key] for key in keys)
        wanted = {b"sinter": first.intersection(*others), b"sunion": first.union(*others), b"sdiff": first.difference(*others)}
        for name, expected in wanted.items():
            reply = driver.read([name, *keys])
            assert isinstance(reply, SetReply)
            assert len(reply.members) == len(expected)
            assert set(reply.members) == expected
        limit = rng.randrange(20)
        assert driver.read([b"sintercard", b"%d" % len(keys), *keys, b"limit", b"%d" % limit]) == min(
            len(wanted[b"sinter"]), limit or len(first)
        )
        name, to = rng.choice(sorted(wanted)), rng.choice([b"d", b"d", b"e"])
        assert driver.write([name + b"store", to, *keys]) == [len(wanted[name])]
        sets[to] = wanted[name]
    assert driver.store.count(ELEMENTS, ELEMENTS_END) == sum(map(len, sets.values()))


# Limits.


def test_what_one_entry_may_visit_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that would visit and store too much changes nothing, nor do those after it in the same entry; in the next one they may."""
    monkeypatch.setattr(keyspace, "ELEMENTS_PER_ENTRY", 500)
    driver = Driver()
    names = [b"%d" % number for number in range(300)]
    driver.write([b"sadd", b"s", *names], "sadd t 1")
    before = driver.store.count(ELEMENTS, ELEMENTS_END)
    for text in ("sunionstore d s", "sinterstore t s s", "sdiffstore s s no"):
        [reply] = driver.write(text)
        assert isinstance(reply, Failure)
        assert "visited more than 500 elements" in reply.message
    assert driver.store.count(ELEMENTS, ELEMENTS_END) == before
    replies = driver.write("sinterstore x s t", "sunionstore d s", "sunionstore x t", "sadd t 2", "srem s 0")
    assert [type(reply) for reply in replies] == [int, Failure, Failure, int, int]
    assert driver.write("del s", "sunionstore x t") == [1, 2]


def test_names_are_bounded() -> None:
    """A field or member is part of the name of a row, so it is as long as a key may be; one that is longer is in no hash and no set."""
    most, more = b"n" * MAX_NAME_BYTES, b"n" * (MAX_NAME_BYTES + 1)
    driver = Driver()
    assert driver.write([b"hset", b"h", most, b"v"], [b"hsetnx", b"h", most, b"w"], [b"sadd", b"s", most]) == [1, 0, 1]
    too_long = ([b"hset", b"h", b"f", b"v", more, b"v"], [b"hmset", b"h", more, b"v"], [b"hsetnx", b"h", more, b"v"],
                [b"hincrby", b"h", more, b"1"], [b"hincrbyfloat", b"h", more, b"1"], [b"sadd", b"s", b"m", more])  # fmt: skip
    for args in too_long:
        reply = driver.run(args)
        assert isinstance(reply, Failure)
        assert f"longer than {hashed_elements.MAX_NAME_BYTES} bytes" in reply.message
    assert [driver.read([name, b"h", more]) for name in (b"hget", b"hexists")] == [None, 0]
    assert (driver.write([b"hdel", b"h", more], [b"srem", b"s", more]), driver.read([b"sismember", b"s", more])) == ([0, 0], 0)


def test_a_long_value_is_not_named_again_and_again() -> None:
    """HMGET refuses before it holds more than one answer may be; one value is answered whatever its size."""
    driver = Driver()
    driver.write([b"hset", b"h", b"f", bytes(MAX_REPLY_BYTES)])
    assert driver.read("hmget h f") == [bytes(MAX_REPLY_BYTES)]
    reply = driver.read([b"hmget", b"h", *[b"f"] * 1000])
    assert isinstance(reply, Failure)
    assert reply.message.startswith("HMGET found more than")


def test_draws_do_not_depend_on_the_program() -> None:
    """The numbers that follow from a drawn one are the same in every version: they are part of what a command does."""
    assert [Draws(5).below(2**64), Draws(2**63 - 1).below(1000), draws.WINDOW] == [1444442059121004199, 515, 128]


def test_long_elements_count_for_more() -> None:
    """So that a few of them are not read on the event loop, and a transaction does not read them again and again."""
    driver = Driver()
    for number in range(4):
        driver.write([b"hset", b"h", b"%d" % number, b"x" * (ELEMENTS_PER_TURN << 7)])
    with pytest.raises(TakesLong):
        driver.read("hgetall h")
    whole = Transaction((), encode_commands([parse_request(arguments("hvals h"))] * 60))
    [answer] = driver.groups(Group(0, driver.session, driver.next, 0, 1, encode_commands([whole])))
    [replies] = answer.replies
    assert isinstance(replies, list)
    assert isinstance(replies[0], list)
    assert isinstance(replies[-1], Failure)
    assert "visited more" in replies[-1].message
