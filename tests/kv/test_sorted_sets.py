"""Sorted sets: what Redis cannot judge. The rows of the store, what commands visit, and what is refused."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.kv import keyspace
from raftkv.kv.commands import parse_request
from raftkv.kv.hashed_elements import MAX_NAME_BYTES
from raftkv.kv.keyspace import ELEMENTS_PER_ENTRY, ELEMENTS_PER_TURN, Changes, Keyspace, TakesLong
from raftkv.kv.machine import KvMachine
from raftkv.kv.replies import Failure, Pairs, Reply
from raftkv.kv.rows import SORTED_SET
from raftkv.kv.scores import after, encode, ordered, unordered
from raftkv.kv.sorted_set import put
from raftkv.kv.sorted_set_commands import PopMembers
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelStore
from tests.kv.driver import Driver, arguments, empty_store

any_score = st.floats(allow_nan=False)


@given(any_score, any_score)
def test_the_bytes_of_scores_sort_as_the_scores(one: float, other: float) -> None:
    """They are equal for equal scores, 0 and -0 among them, read back, and what is behind one is not behind the next."""
    assert (ordered(one) < ordered(other)) == (one < other)
    assert (ordered(one) == ordered(other)) == (one == other)
    assert unordered(ordered(one)) == one
    assert ordered(one) < after(one)
    if one < other:
        assert after(one) <= ordered(other)


def check_rows(driver: Driver) -> None:
    """The rows of elements are those of the sorted sets, two for each member, and agree."""
    expected = {}
    keys = Keyspace(driver.store, driver.now_ms)
    for key in (b"a", b"b", b"c"):
        found = keys.collection(key, SORTED_SET)
        reply = driver.read([b"zrange", key, b"0", b"-1", b"withscores"])
        assert isinstance(reply, Pairs)
        assert len(reply.pairs) == (0 if found is None else found.count)
        for member, score in reply.pairs:
            assert found is not None
            assert isinstance(member, bytes)
            assert isinstance(score, float)
            own = found.prefix + b"m"
            expected[own + found.hashed(member)[len(found.prefix) :]] = struct.pack(">d", score)
            expected[found.prefix + b"s" + ordered(score) + member] = b""
    assert dict(driver.store.scan(b"e", b"f")) == expected


REQUESTS = (
    "zadd a 1 x 2 y", "zadd a gt ch 3 x", "zincrby a -5 y", "zincrby b inf x", "zincrby b -inf x", "zrem a x", "zrem a x y z",
    "zpopmin a", "zpopmax b 2", "zmpop 2 a b min count 2", "zrangestore c a 0 1", "zrangestore a a (1 9 byscore",
    "zremrangebyrank a 0 0", "zremrangebyscore b -1 3", "zremrangebyscore a -inf +inf", "zremrangebylex a [x +",
    "zunionstore c 2 a b weights 2 -1", "zinterstore a 2 a b", "zdiffstore b 2 a b", "zadd b 1 x 1 y 1 z 1 u", "zadd a 0 x 0 y 0 z",
    "del a", "set b v", "del b", "rename a b", "pexpire a 1",
)  # fmt: skip


def test_no_row_is_left_behind() -> None:
    """Whatever is done to sorted sets, one by one or several in a batch, the store holds the two rows of each member, which agree, and no
    other row of an element."""
    rng = random.Random(1)
    driver = Driver()
    for _ in range(400):
        driver.write(*rng.choices(REQUESTS, k=rng.choice([1, 1, 4])))
        if rng.random() < 0.2:
            driver.pass_ms(5)
        if isinstance(driver.run("type b"), Failure) or driver.run("get b") != b"v":
            check_rows(driver)


def test_a_replica_that_remembers_no_edges_answers_the_same() -> None:
    """A machine that is loaded anew before every entry comes to the same replies and the same digest as one that goes on."""
    rng = random.Random(2)
    driver, other = Driver(), Driver()
    requests = [*REQUESTS, *("zpopmin a", "zpopmax a", "zpopmin b", "zpopmax b", "zadd a 4 p 5 q", "zincrby a -9 q") * 2]
    for _ in range(400):
        chosen = rng.choices(requests, k=rng.choice([1, 3, 8]))
        other.machine = KvMachine(other.store)
        assert driver.write(*chosen) == other.write(*chosen)
        assert driver.machine.digest == other.machine.digest


class _Counted(ModelStore):
    """A store that counts the rows that scans find."""

    def __init__(self) -> None:
        super().__init__(SimDisk(random.Random(0)), "store")
        self.found = 0

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for row in super().scan(start, end, limit=limit, backwards=backwards):
            self.found += 1
            yield row


@pytest.mark.parametrize("pop", ["zpopmin a", "zpopmax a"])
def test_a_pop_does_not_pass_over_what_was_popped_before(pop: str) -> None:
    """Many pops in one entry cost about the same each, however many were before them."""
    store = _Counted()
    driver = Driver(store)
    driver.write([b"zadd", b"a", *(part for n in range(900) for part in (b"%d" % n, b"m%d" % n))])
    before = store.found
    assert len(driver.write(*[pop] * 800)) == 800
    assert store.found - before < 3 * 800


def test_what_a_failed_command_found_at_an_edge_is_forgotten() -> None:
    """The members that it took away are found again, also from the other end, and a smaller one that it added is not."""
    driver = with_members(20)
    changes = Changes(driver.store, 100, driver.now_ms, 1, 1)
    assert pops(changes, "zpopmin", 1) == [b"000000"]
    for _ in range(2):
        changes.mark()
        found = changes.open(b"a", SORTED_SET)
        put(changes, found, b"less", None, -7.0)
        changes.save(found)
        assert pops(changes, "zpopmin", 4) == [b"less", b"000001", b"000002", b"000003"]
        assert pops(changes, "zpopmax", 2) == [b"000019", b"000018"]
        changes.rollback()
    assert pops(changes, "zpopmin", 2) == [b"000001", b"000002"]
    assert pops(changes, "zpopmax", 1) == [b"000019"]


def pops(changes: Changes, name: str, count: int) -> list[Reply]:
    """The members that so many pops take from an end."""
    taken = [PopMembers(b"a", -1, name == "zpopmax").apply(changes) for _ in range(count)]
    return [reply[0] for reply in taken if isinstance(reply, list)]


def with_members(count: int) -> Driver:
    """A machine with a sorted set of so many members, whose scores are their numbers."""
    store = empty_store()
    changes = Changes(store, 1, 0, 1)
    found = changes.open(b"a", SORTED_SET)
    for number in range(count):
        put(changes, found, b"%06d" % number, None, float(number))
    changes.save(found)
    store.write(changes.rows)
    return Driver(store)


class Visits(Keyspace):
    """Counts the elements that a read visits."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver.store, driver.now_ms, visits=10**9)

    def of(self, request: str) -> tuple[Reply, int]:
        """The reply, and how many elements it visited."""
        before = self._visits or 0
        reply = parse_request(arguments(request)).read(self)  # type: ignore[attr-defined]
        return reply, before - (self._visits or 0)


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        ("zrange a 0 9", 10),
        ("zrange a -10 -1", 10),
        ("zrange a 100 109", 110),
        ("zrange a 2890 2899", 110),
        ("zrange a 0 9 rev", 10),
        ("zrevrange a 2890 2899", 110),
        ("zrangebyscore a 2000 2004", 5),
        ("zrangebyscore a (1999 +inf limit 0 5", 5),
        ("zrevrangebyscore a 1500 -inf limit 3 2", 5),
        ("zcount a 1000 1099", 100),
        ("zscore a 001500", 0),
        ("zcard a", 0),
        ("zrank a 000100", 700),
        ("zrank a 002900", 700),
        ("zrevrank a 000100", 700),
        ("zrank a 001500", 3600),
    ],
)
def test_a_read_visits_what_it_asks_for(request_: str, most: int) -> None:
    """What is at a rank costs a visit of each member between it and the nearer end; a range of scores costs what is in it."""
    driver = with_members(3000)
    reply, visited = Visits(driver).of(request_)
    assert not isinstance(reply, Failure)
    assert visited <= most


def test_a_range_of_members_with_one_score_visits_what_is_in_it() -> None:
    """Where all scores are the same, the first member of the range is found at once."""
    driver = Driver()
    driver.write([b"zadd", b"a", *[part for number in range(1000) for part in (b"0", b"%06d" % number)]])
    for request in ("zrangebylex a [000500 (000510", "zlexcount a (000499 [000509"):
        reply, visited = Visits(driver).of(request)
        assert reply == 10 or (isinstance(reply, list) and len(reply) == 10)
        assert visited <= 13


def test_a_read_of_many_members_is_for_another_thread() -> None:
    """So is the rank of a member far from both ends."""
    driver = with_members(2 * ELEMENTS_PER_TURN + 2000)
    for request in ("zrange a 0 -1", "zcount a -inf inf", "zrank a 003000", "zunion 1 a", "zintercard 2 a a"):
        with pytest.raises(TakesLong):
            driver.read(request)
        view = driver.machine.view()
        assert not isinstance(view.read(parse_request(arguments(request))), Failure)
        view.close()
    assert driver.read("zrank a 000100") == 100


def test_a_write_visits_a_bounded_number_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one entry may visit is shared by its commands; a command that asks for more is refused and changes nothing. To remove all, or a
    member by name, visits none."""
    monkeypatch.setattr(keyspace, "ELEMENTS_PER_ENTRY", 100)
    driver = with_members(150)
    before = list(driver.store.scan(b"e", b"f"))
    for request in ("zunionstore b 1 a", "zrangestore b a 0 -1", "zremrangebyrank a 1 -1", "zremrangebyscore a 5 inf", "zpopmin a 101"):
        reply = driver.run(request)
        assert isinstance(reply, Failure)
        assert "visited more than" in reply.message
        assert list(driver.store.scan(b"e", b"f")) == before
    assert driver.write("zrangestore b a 0 49", "zunionstore c 1 b", "zrangestore b a 0 49")[:2] == [50, 50]
    assert driver.run("zremrangebyscore a -inf +inf") == 150
    assert driver.run("zcard a") == 0


def test_the_bound_of_a_write_is_known() -> None:
    """It is part of the rules that are the same on every node."""
    assert ELEMENTS_PER_ENTRY == 100_000
    assert Changes(empty_store(), 1, 0, 1)._visits == ELEMENTS_PER_ENTRY


def test_what_is_added_to_is_told() -> None:
    """Those that wait for members look at the keys that gained some, and at no other."""
    store = with_members(3).store
    for request, expected in (
        ("zadd a 5 new", [b"a"]),
        ("zadd a 5 000001", []),
        ("zadd a xx 5 new", []),
        ("zincrby b 1 new", [b"b"]),
        ("zincrby a 1 000001", []),
        ("zrem a 000001", []),
        ("zunionstore c 1 a", [b"c"]),
        ("zrangestore c a 5 9", []),
    ):
        changes = Changes(store, 2, 0, 1, 1)
        parse_request(arguments(request)).apply(changes)  # type: ignore[attr-defined]
        assert list(changes.pushed) == expected, request


def test_scores_are_stored_without_a_sign_of_zero() -> None:
    """-0 is stored as 0, so that two sets that are equal are the same rows."""
    assert encode(-0.0) == encode(0.0)
    driver = Driver()
    driver.run("zadd a -0 x")
    reply = driver.run("zscore a x")
    assert isinstance(reply, float)
    assert math.copysign(1, reply) == 1


def test_a_member_is_as_long_as_it_may_be() -> None:
    """And not a byte longer."""
    driver = Driver()
    assert driver.run([b"zadd", b"a", b"1", b"m" * MAX_NAME_BYTES]) == 1
    assert driver.run([b"zadd", b"a", b"1", b"m" * (MAX_NAME_BYTES + 1)]) == Failure("ERR", "member is longer than 65536 bytes")


def test_random_members_follow_from_the_number() -> None:
    """The same number chooses the same members, another one others; with a count they differ, with a negative one they need not."""
    driver = with_members(1000)

    def chosen(request: str, number: int) -> Reply:
        return driver.machine.view().read(parse_request(arguments(request), lambda: number))

    assert chosen("zrandmember a", 5) == chosen("zrandmember a", 5)
    assert len({chosen("zrandmember a", number) for number in range(50)}) > 25
    some = chosen("zrandmember a 20 withscores", 7)
    assert isinstance(some, Pairs)
    assert len(dict(some.pairs)) == 20
    assert all(isinstance(member, bytes) and int(member) == score for member, score in some.pairs)
    again = chosen("zrandmember a -3000", 7)
    assert isinstance(again, list)
    assert len(again) == 3000


def test_a_scan_returns_every_member_once() -> None:
    """Over as many calls as it takes."""
    driver = with_members(1000)
    found: list[Reply] = []
    cursor = b"0"
    calls = 0
    while calls == 0 or cursor != b"0":
        reply = driver.read([b"zscan", b"a", cursor, b"count", b"50"])
        assert isinstance(reply, list)
        assert isinstance(reply[0], bytes)
        assert isinstance(reply[1], list)
        cursor = reply[0]
        found += reply[1][::2]
        calls += 1
    assert calls >= 20
    assert sorted(map(repr, found)) == [repr(b"%06d" % number) for number in range(1000)]
