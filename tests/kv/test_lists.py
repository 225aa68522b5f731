"""Lists, as far as Redis cannot judge them: what a command costs, what it leaves in the store, what is too much, and its encoding."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import StateDamaged
from raftkv.kv import budget, keyspace, list_commands, list_elements, list_search_commands
from raftkv.kv.command import MAX_KEY_BYTES, Write
from raftkv.kv.commands import Command, CommandError, decode_commands, encode_commands, find_spec, keys_of, parse_request
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.list_elements import MOST_STEPS, MOVE_STEPS, row_at
from raftkv.kv.replies import OK, Failure, Reply
from raftkv.kv.rows import ELEMENTS, ELEMENTS_END, LIST
from raftkv.kv.store import Ranges, Writes
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelStore
from tests.kv.driver import Driver, Request, arguments, batch, group
from tests.kv.test_transactions import Client, transaction

ENCODED = {
    "lpush a b c": "919550c4016192c40162c40163c3c2",
    "rpush a b": "919550c4016191c40162c2c2",
    "lpushx a b": "919550c4016191c40162c3c3",
    "rpushx a b": "919550c4016191c40162c2c3",
    "lpop a": "919451c40161c3c0",
    "rpop a 3": "919451c40161c203",
    "lmpop 2 a b LEFT count 3": "91945292c40161c40162c303",
    "llen a": "919253c40161",
    "lrange a 0 -1": "919454c4016100ff",
    "lindex a -1": "919355c40161ff",
    "lindex a x": "919355c40161c0",
    "lset a 1 b": "919456c4016101c40162",
    "ltrim a 1 2": "919457c401610102",
    "lmove a b right LEFT": "919558c40161c40162c2c3",
    "rpoplpush a b": "919558c40161c40162c2c3",
    "lrem a -2 b": "919459c40161fec40162",
    "linsert a AFTER b c": "91955ac40161c3c40162c40163",
    "lpos a b rank -2 count 0 maxlen 9": "91965bc40161c40162fe0009",
}


@pytest.mark.parametrize(("request_text", "encoded"), ENCODED.items())
def test_commands_are_encoded_as_the_format_says(request_text: str, encoded: str) -> None:
    """The encoding of a command is part of the log, and does not change."""
    command = parse_request(arguments(request_text))
    assert encode_commands([command]).hex() == encoded
    assert decode_commands(bytes.fromhex(encoded)) == [command]


def test_every_command_on_lists_has_a_known_encoding() -> None:
    """None is missing above."""
    classes: set[type[Command]] = {type(parse_request(arguments(text))) for text in ENCODED}
    assert classes == {*list_commands.COMMANDS, *list_search_commands.COMMANDS}
    assert {text.split()[0] for text in ENCODED} == {spec.name for spec in (*list_commands.SPECS, *list_search_commands.SPECS)}


class CountingStore(ModelStore):
    """Counts the rows of elements that are read and written, and the ranges that go away."""

    def __init__(self) -> None:
        super().__init__(SimDisk(random.Random(0)), "store")
        self.read = self.written = self.ranges = 0

    def get(self, key: bytes) -> bytes | None:
        self.read += key.startswith(ELEMENTS)
        return super().get(key)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for row in super().scan(start, end, limit=limit, backwards=backwards):
            self.read += row[0].startswith(ELEMENTS)
            yield row

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        self.written += sum(key.startswith(ELEMENTS) for key in writes)
        self.ranges += len(clear)
        super().write(writes, clear)

    def counts(self) -> tuple[int, int, int]:
        """Rows read, rows written and ranges since this was asked last."""
        counted = self.read, self.written, self.ranges
        self.read = self.written = self.ranges = 0
        return counted


LENGTH = 100_000


@pytest.fixture(scope="module")
def long_list() -> Driver:
    """A list `l` of 100,000 numbers in a counting store, and 100 more of them in `m`."""
    driver = Driver(CountingStore())
    for at in range(0, LENGTH, LENGTH // 10):
        driver.write([b"rpush", b"l", *(b"%d" % number for number in range(at, at + LENGTH // 10))])
    driver.write([b"rpush", b"m", *(b"%d" % number for number in range(100))])
    return driver


@pytest.mark.parametrize(
    ("request_text", "counts"),
    [
        ("llen l", (0, 0, 0)),
        ("lindex l 50000", (1, 0, 0)),
        ("lindex l -1", (1, 0, 0)),
        ("lrange l 0 9", (10, 0, 0)),
        ("lrange l -10 -1", (10, 0, 0)),
        ("lrange l 50000 50009", (10, 0, 0)),
        ("lpos l 99990 rank -1", (10, 0, 0)),
        ("lpos l 7", (8, 0, 0)),
        ("lpos l nosuch maxlen 100", (100, 0, 0)),
        ("lpush l a b", (0, 2, 0)),
        ("rpush l a b", (0, 2, 0)),
        ("lpop l", (1, 1, 0)),
        ("rpop l", (1, 1, 0)),
        ("lpop l 100", (100, 100, 0)),
        ("lmpop 2 nosuch l right count 5000", (5000, 0, 1)),
        ("lset l 50000 x", (0, 1, 0)),
        ("lmove l m left right", (1, 2, 0)),
        ("lmove l l right left", (1, 2, 0)),
        ("ltrim l 10 -11", (0, 20, 0)),
        ("ltrim l 50000 50009", (0, 0, 2)),
        ("ltrim l 1 0", (0, 0, 1)),
        ("lrem l 1 5", (6 + 6, 5 + 1, 0)),
        ("lrem l -1 99990", (10 + 10, 9 + 1, 0)),
        ("lrem l 0 nosuch", (LENGTH, 0, 0)),
        ("linsert l before 5 x", (6 + 5, 5 + 1, 0)),
        ("linsert l after 5 x", (6 + 6, 6 + 1, 0)),
        ("linsert l after 99989 x", (99990 + 10, 10 + 1, 0)),
        ("lpop l 0", (0, 0, 0)),
        ("del l", (0, 0, 1)),
    ],
)
def test_a_command_costs_what_it_touches(long_list: Driver, request_text: str, counts: tuple[int, int, int]) -> None:
    """Whatever the length of the list: rows of elements read and written, and ranges deleted."""
    store = long_list.store
    assert isinstance(store, CountingStore)
    command = parse_request(arguments(request_text))
    changes = Changes(store, long_list.machine.applied_index + 1, long_list.now_ms, 1, 2)
    store.counts()
    if isinstance(command, Write):  # applied, and not written: the list is the same for all
        command.apply(changes)
    else:
        long_list.run(request_text)
    written = sum(name.startswith(ELEMENTS) for name in changes.rows)
    assert (store.counts()[0], written, len(changes.ranges)) == counts


def test_what_is_removed_moves_as_little_as_can_be() -> None:
    """Of what is left between three elements near the ends, the longest stretch stays."""
    driver = Driver(CountingStore())
    store = driver.store
    assert isinstance(store, CountingStore)
    numbers = [b"%d" % number for number in range(1000)]
    for place in (3, 7, 990):
        numbers[place] = b"x"
    driver.write([b"rpush", b"l", *numbers])
    store.counts()
    assert driver.run("lrem l 0 x") == 3
    assert (store.read, store.written) == (1000 + 8 + 10, 8 + 10)
    assert driver.run("lrange l 0 -1") == [number for number in numbers if number != b"x"]


# What is in the store.

NAMES = [b"a", b"b"]
VALUES = [b"1", b"2", b"3"]

STEPS = st.one_of(
    st.tuples(st.sampled_from([b"lpush", b"rpush"]), st.sampled_from(NAMES), st.lists(st.sampled_from(VALUES), min_size=1, max_size=12)),
    st.tuples(st.sampled_from([b"lpop", b"rpop"]), st.sampled_from(NAMES), st.integers(0, 6)),
    st.tuples(st.just(b"ltrim"), st.sampled_from(NAMES), st.integers(0, 6), st.integers(-6, 6)),
    st.tuples(st.just(b"lrem"), st.sampled_from(NAMES), st.integers(-3, 3), st.sampled_from(VALUES)),
    st.tuples(st.just(b"linsert"), st.sampled_from(NAMES), st.booleans(), st.sampled_from(VALUES), st.sampled_from(VALUES)),
    st.tuples(st.just(b"lset"), st.sampled_from(NAMES), st.integers(-6, 6), st.sampled_from(VALUES)),
    st.tuples(st.just(b"del"), st.sampled_from(NAMES)),
)


def words(step: tuple[object, ...]) -> list[bytes]:
    """A request of a step."""
    made: list[bytes] = []
    for part in step:
        if isinstance(part, bytes):
            made.append(part)
        elif isinstance(part, bool):
            made.append(b"before" if part else b"after")
        elif isinstance(part, list):
            made += part
        else:
            made.append(str(part).encode())
    return made


def do(lists: dict[bytes, list[bytes]], step: tuple[object, ...]) -> None:
    """The same to plain lists."""
    name, key, *rest = step
    assert isinstance(key, bytes)
    one = lists.setdefault(key, [])
    match name, rest:
        case b"lpush", [list(values)]:
            one[:0] = values[::-1]
        case b"rpush", [list(values)]:
            one += values
        case b"lpop", [int(count)]:
            del one[:count]
        case b"rpop", [int(count)]:
            del one[max(len(one) - count, 0) :]
        case b"ltrim", [int(start), int(stop)]:
            one[:] = one[start : stop + 1 if stop >= 0 else max(len(one) + stop + 1, 0)]
        case b"lrem", [int(count), value]:
            places = [place for place, each in enumerate(one) if each == value]
            gone = places[count:] if count < 0 else places[: count or None]
            one[:] = [each for place, each in enumerate(one) if place not in gone]
        case b"linsert", [bool(before), pivot, bytes(value)] if pivot in one:
            one.insert(one.index(pivot) + (not before), value)
        case b"lset", [int(place), bytes(value)] if -len(one) <= place < len(one):
            one[place] = value
        case b"del", _:
            one.clear()


def stored(driver: Driver) -> list[list[bytes]]:
    """The elements of every list in the store, which have no gap between them, and no row beside them."""
    found = []
    rows = dict(driver.store.scan(ELEMENTS, ELEMENTS_END))
    for name in NAMES:
        one = Keyspace(driver.store, 0).collection(name, LIST)
        found.append([] if one is None else [rows.pop(row_at(one, index)) for index in range(one.count)])
    assert rows == {}
    return found


@settings(max_examples=200, deadline=None)
@given(batches=st.lists(st.lists(STEPS, max_size=5), max_size=5))
def test_the_store_holds_the_elements_and_nothing_else(batches: list[list[tuple[object, ...]]]) -> None:
    """Whatever is done to lists, in one batch and in several, by single rows and by ranges: their elements are in the store, at positions
    that follow one another, and no row is left behind."""
    driver = Driver()
    lists: dict[bytes, list[bytes]] = {name: [] for name in NAMES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_elements, "_FEW", 2)
        for steps in batches:
            driver.write(*map(words, steps))
            for step in steps:
                do(lists, step)
            assert stored(driver) == [lists[name] for name in NAMES]


def test_a_list_that_has_expired_leaves_nothing_to_the_next() -> None:
    """A push to a key whose list has expired, and is still in the store, begins a new list, which does not expire."""
    driver = Driver()
    driver.write("rpush a 1 2 3", "pexpire a 10")
    driver.now_ms += 11
    assert driver.write("rpush a 4") == [1]
    assert stored(driver) == [[b"4"], []]
    assert driver.run("ttl a") == -1


def test_an_element_that_is_missing_is_no_answer() -> None:
    """A state that has lost a row says so, rather than that the list is shorter here than elsewhere."""
    for request in ("lrange a 0 -1", "lindex a 1", "lpop a 3", "lrem a 0 x"):
        driver = Driver()
        driver.write("rpush a 1 2 3")
        one = Keyspace(driver.store, 0).collection(b"a", LIST)
        assert one is not None
        driver.store.write({row_at(one, 1): None})
        with pytest.raises(StateDamaged):
            driver.run(request)


def test_many_pushes_in_one_batch_are_in_their_order() -> None:
    """Pushes of many to both ends, between which an element is touched in the middle, are read back in the same batch."""
    driver = Driver()
    many = [b"%d" % number for number in range(300)]
    driver.write([b"rpush", b"a", *many], [b"lpush", b"a", *many], "lset a 300 x", "lrem a 1 7", "linsert a before x y", "ltrim a 1 -2")
    expected = [*many[::-1], *many]
    expected[300] = b"x"
    expected.remove(b"7")
    expected.insert(expected.index(b"x"), b"y")
    assert stored(driver) == [expected[1:-1], []]


# What is too much.


def test_a_search_goes_so_far_and_no_further() -> None:
    """A write that searches visits a bounded number of elements, fewer when they are long; more is an error, and nothing has changed."""
    driver = Driver()
    driver.write([b"rpush", b"a", *[b"x"] * (MOST_STEPS - 1), b"y", b"z"], [b"rpush", b"b", *[b"x" * 4096] * (MOST_STEPS // 5), b"y"])
    assert too_much(driver.run("lrem a 1 z"))
    assert too_much(driver.run("linsert a before z w"))
    assert too_much(driver.run("linsert b before y w"))
    assert driver.run("lrem a -1 z") == 1
    assert driver.run("lrem a 1 y") == 1
    assert driver.run("llen a") == MOST_STEPS - 1
    assert too_much(driver.run([b"rpop", b"b", b"%d" % MOST_STEPS]))
    assert driver.run("lrem b -1 y") == 1


def test_so_many_elements_are_moved_and_no_more() -> None:
    """The shorter side of what is inserted or removed in the middle is moved, if it has no more elements than one write may move."""
    driver = Driver()
    most = MOST_STEPS // MOVE_STEPS
    driver.write([b"rpush", b"a", *[b"x"] * (most - 1), b"y", *[b"x"] * (most + 1)])
    assert driver.run("linsert a before y w") == 2 * most + 2
    assert too_much(driver.run("lrem a 1 y"))
    assert too_much(driver.run("linsert a after y w"))
    assert driver.run("lrem a 1 w") == 1
    assert driver.run([b"lindex", b"a", b"%d" % (most - 1)]) == b"y"


def test_an_entry_goes_so_far_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of one entry share what may be visited; those for which nothing is left can be asked again."""
    monkeypatch.setattr(budget, "MAX_STEPS", 25)
    driver = Driver()
    driver.write("rpush a 1 2 3 4 5 6 7 8 9 10")
    first, second, third, fourth = driver.write("lrem a 0 x", "lrem a 0 x", "lrem a 0 x", "lpop a")
    assert (first, second, fourth) == (0, 0, b"1")
    assert isinstance(third, Failure)
    assert third.message.endswith("send fewer of them together")
    assert driver.run("lrem a 0 x") == 0


def test_what_takes_steps_is_not_counted_as_visits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes on lists leave what the commands of an entry may visit to others; reads of lists in a transaction use it up."""
    monkeypatch.setattr(keyspace, "ELEMENTS_PER_ENTRY", 10)
    client = Client()
    client.write("rpush a 1 2 3 4 5 6 7 8 9 10 11 12")
    writes = ("lrem a 0 x", "linsert a before x y", "linsert a before 6 y", "lrem a 0 y", "rpop a 3")
    expected = [0, -1, 13, 1, [b"12", b"11", b"10"]]
    assert client.write(*writes) == expected
    client.write("rpush a 10 11 12")
    [replies] = client.do(transaction(*writes, "lrange a 0 -1", "lrange a 0 1"))
    assert isinstance(replies, list)
    assert replies[:-1] == [*expected, [b"%d" % number for number in range(1, 10)]]
    refused = replies[-1]
    assert isinstance(refused, Failure)
    assert "visited more than" in refused.message


def too_much(reply: Reply) -> bool:
    """Whether it is the error that a command would go too far."""
    return isinstance(reply, Failure) and "more elements than one write may" in reply.message


# Who waits for elements.


@pytest.mark.parametrize(
    ("requests", "pushed"),
    [
        (["rpush a 1", "lpush b 1", "rpush a 2"], (b"a", b"b")),
        (["lpushx a 1"], ()),
        (["rpush a 1", "lpushx a 1"], (b"a",)),
        (["rpush a 1", "lmove a b left left"], (b"a", b"b")),
        (["rpush a 1", "rename a c"], (b"a", b"c")),
        (["set a 1", "rename a c"], ()),
        (["rpush a 1", "linsert a before 1 2"], (b"a",)),
        (["lpop a", "lrem a 0 x", "del a"], ()),
    ],
)
def test_keys_that_gain_elements_are_told(requests: Sequence[Request], pushed: tuple[bytes, ...]) -> None:
    """What is applied tells once, in order, where a blocked client may find elements."""
    driver = Driver()
    applied = driver.apply(batch([group(driver.session, 1, requests)], driver.now_ms))
    assert applied.pushed == pushed


# Keys.


def test_the_keys_of_lmpop_are_counted() -> None:
    """What follows the number of keys, as far as that goes, are keys; they have the length of keys."""
    spec = find_spec(b"lmpop")
    assert spec is not None
    assert keys_of(spec, arguments("lmpop 2 a b left count 1")) == [b"a", b"b"]
    for wrong in ("lmpop 4 a b left", "lmpop x a left", "lmpop 0 a left", "lmpop -1 a left"):
        assert keys_of(spec, arguments(wrong)) == ()
    with pytest.raises(CommandError, match="key is longer"):
        parse_request([b"lmpop", b"2", b"a", b"k" * (MAX_KEY_BYTES + 1), b"left"])


def test_what_is_left_of_a_list_that_was_cut_is_deleted_without_a_visit_of_the_rest() -> None:
    """Few elements are deleted one by one, but not by a way through the many that this entry has deleted as a range."""
    driver = Driver()
    driver.write([b"rpush", b"l", *(b"%d" % number for number in range(3000))])
    changes = Changes(driver.store, driver.machine.applied_index + 1, driver.now_ms, 1, 1)
    for request in ("ltrim l 0 9", "del l"):
        command = parse_request(arguments(request))
        assert isinstance(command, Write)
        command.apply(changes)
    assert len(changes.rows) < 100
    assert driver.write("ltrim l 0 9", "del l", "rpush l a") == [OK, 1, 1]
    assert len(list(driver.store.scan(b"e", b"f"))) == 1
