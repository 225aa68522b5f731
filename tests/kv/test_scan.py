"""SCAN and its patterns: nothing that is there throughout is skipped or repeated, and no pattern takes long."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv.commands import parse_request
from raftkv.kv.glob import Pattern
from raftkv.kv.keyspace import Keyspace
from raftkv.kv.machine import KvMachine
from raftkv.kv.rows import HASH_BYTES, header, value_key
from raftkv.kv.scan import MAX_COUNT, MAX_STEPS
from raftkv.kv.space_commands import Scan
from raftkv.kv.store import Store, Writes
from raftkv.storage.store import RocksStore
from tests.kv.driver import Driver, empty_store


def page(machine: KvMachine, cursor: bytes, *options: bytes) -> tuple[bytes, list[bytes]]:
    """One call of SCAN."""
    reply = machine.read(parse_request([b"scan", cursor, *options]))
    assert isinstance(reply, list)
    cursor_reply, keys = reply
    assert isinstance(cursor_reply, bytes)
    assert isinstance(keys, list)
    return cursor_reply, [key for key in keys if isinstance(key, bytes)]


def walk(machine: KvMachine, *options: bytes) -> list[bytes]:
    """All keys that a whole scan returns."""
    cursor, found = page(machine, b"0", *options)
    while cursor != b"0":
        cursor, keys = page(machine, cursor, *options)
        found += keys
    return found


def filled(count: int) -> Driver:
    """A machine with keys k0, k1, …."""
    driver = Driver()
    driver.write(*[f"set k{n} v" for n in range(count)])
    return driver


@pytest.mark.parametrize("count", [1, 3, 10, 99, 5000])
def test_a_scan_returns_every_key_once(count: int) -> None:
    """Whatever COUNT is, a whole scan returns each key exactly once."""
    driver = filled(257)
    assert sorted(walk(driver.machine, b"COUNT", b"%d" % count)) == sorted(b"k%d" % n for n in range(257))


def test_a_scan_of_nothing_ends_at_once() -> None:
    """An empty state answers cursor 0 and no keys."""
    assert page(Driver().machine, b"0") == (b"0", [])


def test_cursors_fit_where_numbers_are_floats() -> None:
    """A cursor is below 2**53, and one that no scan gives out ends the scan."""
    driver = filled(300)
    cursor = b"0"
    seen = []
    while True:
        cursor, _ = page(driver.machine, cursor, b"COUNT", b"3")
        seen.append(int(cursor))
        if cursor == b"0":
            break
    assert max(seen) < 2**53
    assert seen[:-1] == sorted(seen[:-1])
    for beyond in (2**52, 2**53, 2**64 - 1):
        assert page(driver.machine, b"%d" % beyond) == (b"0", [])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_there_throughout_is_returned_once(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """While other keys come and go between calls, and the scan moves from node to node, a key that is there throughout is returned
    exactly once."""
    rng = random.Random(seed)
    stores: list[Store] = [empty_store(), RocksStore(tmp_path_factory.mktemp("rocks") / "live")]
    nodes = [Driver(store) for store in stores]

    def write(*requests: str) -> None:
        for node in nodes:
            node.write(*requests)

    write(*[f"set stays{n} v" for n in range(30)], *[f"set goes{n} v" for n in range(30)])
    cursor, found = b"0", []
    while True:
        cursor, keys = page(rng.choice(nodes).machine, cursor, b"COUNT", b"%d" % rng.randint(1, 9))
        found += keys
        if cursor == b"0":
            break
        write(f"del goes{rng.randrange(30)}", f"set new{rng.randrange(99)} v", f"set stays{rng.randrange(30)} w")
    assert sorted(key for key in found if key.startswith(b"stays")) == sorted(b"stays%d" % n for n in range(30))
    assert len(found) == len(set(found))
    for store in stores:
        store.close()


def test_keys_with_the_same_cursor_come_together() -> None:
    """Keys whose hashes share the upper 52 bits are returned by one call even if there are more than COUNT, or one would be lost."""
    driver = Driver()
    same = 0x123456789ABCD000
    rows: Writes = {b"k" + (same + n).to_bytes(HASH_BYTES, "big") + b"same%d" % n: header(1, 1, 0) for n in range(20)}
    rows[b"k" + (same + 4096).to_bytes(HASH_BYTES, "big") + b"next"] = header(1, 1, 0)
    rows[b"k" + bytes(HASH_BYTES) + b"first"] = header(1, 1, 0)
    driver.store.write(rows)
    assert page(driver.machine, b"0", b"COUNT", b"1") == (b"%d" % (same >> 12), [b"first"])
    cursor, keys = page(driver.machine, b"%d" % (same >> 12), b"COUNT", b"3")
    assert (cursor, sorted(keys)) == (b"%d" % ((same >> 12) + 1), sorted(b"same%d" % n for n in range(20)))
    assert page(driver.machine, cursor, b"COUNT", b"3") == (b"0", [b"next"])


def test_one_call_visits_a_bounded_number_of_rows_and_bytes() -> None:
    """A large COUNT, large values and an expensive pattern cannot hold up a node: the call ends early with a cursor."""
    driver = filled(MAX_COUNT + 50)
    cursor, keys = page(driver.machine, b"0", b"COUNT", b"1000000")
    assert (cursor != b"0", len(keys)) == (True, MAX_COUNT)
    driver.store.write({value_key(b"big%d" % n): header(1, 1, 0) + bytes(MAX_STEPS // 4) for n in range(20)})
    calls = 1
    cursor, _ = page(driver.machine, b"0", b"COUNT", b"1000")
    while cursor != b"0":
        cursor, _ = page(driver.machine, cursor, b"COUNT", b"1000")
        calls += 1
    assert calls >= 4


def test_filters_drop_what_does_not_match() -> None:
    """MATCH and TYPE select among the visited keys; a page may be empty while the scan goes on."""
    driver = filled(100)
    driver.write("set other 1")
    assert sorted(walk(driver.machine, b"MATCH", b"k?")) == sorted(b"k%d" % n for n in range(10))
    assert walk(driver.machine, b"MATCH", b"oth*", b"TYPE", b"String") == [b"other"]
    assert walk(driver.machine, b"TYPE", b"list") == []
    assert walk(driver.machine, b"TYPE", b"nonsense") == []


# Patterns, as Redis 7.0's `stringmatchlen` answers them.
PATTERNS: list[tuple[bytes, bytes, bool]] = [
    (b"", b"", True),
    (b"", b"a", False),
    (b"*", b"", True),
    (b"**", b"abc", True),
    (b"a*", b"a", True),
    (b"*a", b"ba", True),
    (b"*a", b"ab", False),
    (b"a*c", b"abcbc", True),
    (b"a*bc", b"abcbc", True),
    (b"a*bd", b"abcbc", False),
    (b"*ab*ab*", b"aab", False),
    (b"*ab*ab*", b"abab", True),
    (b"ab*ba", b"aba", False),
    (b"h?llo", b"hello", True),
    (b"h?llo", b"hllo", False),
    (b"?", b"\n", True),
    (b"*", b"\xff\x00\n", True),
    (b"h[ae]llo", b"hallo", True),
    (b"h[ae]llo", b"hillo", False),
    (b"h[^e]llo", b"hallo", True),
    (b"h[^e]llo", b"hello", False),
    (b"h[a-c]llo", b"hbllo", True),
    (b"h[c-a]llo", b"hbllo", True),
    (b"h[a-c]llo", b"hdllo", False),
    (b"[]", b"a", False),
    (b"[]", b"", False),
    (b"[^]", b"a", True),
    (b"[^]a", b"ba", True),
    (b"[]a", b"]a", False),
    (b"[a", b"a", True),
    (b"[a", b"b", False),
    (b"[a-", b"-", True),
    (b"[a-]", b"a", True),
    (b"[\\]]", b"]", True),
    (b"[\\", b"\\", True),
    (b"[a\\-z]", b"-", True),
    (b"[a\\-z]", b"m", False),
    (b"[.]", b"x", False),
    (b"[*]", b"*", True),
    (b"\\*", b"*", True),
    (b"\\*", b"a", False),
    (b"\\a", b"a", True),
    (b"a\\", b"a\\", True),
    (b"a.c", b"abc", False),
    (b"(a|b)+$", b"(a|b)+$", True),
    (b"[\x00-\xff]", b"\x80", True),
    (b"A", b"a", False),
]


@pytest.mark.parametrize(("pattern", "key", "expected"), PATTERNS)
def test_patterns_match_as_in_redis(pattern: bytes, key: bytes, expected: bool) -> None:
    """Each special case of Redis's patterns."""
    assert Pattern(pattern).matches(key) is expected


@settings(max_examples=300, deadline=None)
@given(
    pattern=st.lists(st.sampled_from([b"a", b"b", b"*", b"?"]), max_size=8).map(b"".join), key=st.text("ab", max_size=10).map(str.encode)
)
def test_patterns_match_what_a_regular_expression_matches(pattern: bytes, key: bytes) -> None:
    """Stars and question marks mean what they mean, also where the leftmost place is not the only one."""
    expression = pattern.replace(b"*", b".*").replace(b"?", b".")
    assert Pattern(pattern).matches(key) == (re.fullmatch(expression, key) is not None)


@settings(max_examples=300, deadline=None)
@given(pattern=st.binary(max_size=12), key=st.binary(max_size=6))
def test_any_bytes_are_a_pattern(pattern: bytes, key: bytes) -> None:
    """Whatever a client sends is a pattern, and it matches or does not."""
    assert Pattern(pattern).matches(key) in (True, False)


def test_no_pattern_takes_exponential_time() -> None:
    """Patterns with which a matcher that tries every place would not end in a lifetime end at once, within their stated cost."""
    key = b"a" * 3000
    for pattern in (b"a*" * 500 + b"b", b"*a" * 500 + b"*b", b"*" * 1000 + b"b", b"*?" * 1000 + b"b", b"[a-z]*" * 300 + b"!"):
        compiled = Pattern(pattern)
        assert compiled.matches(key) is False
        assert compiled.cost(key) < 10**7


def test_the_cost_of_a_pattern_ends_a_call() -> None:
    """When matching is expensive, one call looks at fewer keys."""
    driver = Driver()
    driver.store.write({value_key(b"%03d" % n + b"a" * 60_000): header(1, 1, 0) for n in range(100)})
    keys = Keyspace(driver.store, 0)
    visited = []
    cursor = 0
    while True:
        before = cursor
        reply = Scan(cursor, 1000, b"*[ab]" * 100 + b"c").read(keys)
        assert isinstance(reply, list)
        assert isinstance(reply[0], bytes)
        cursor = int(reply[0])
        visited.append(before)
        if cursor == 0:
            break
    assert len(visited) == 100


def test_a_scan_on_rocksdb_reads_one_page(tmp_path: Path) -> None:
    """On RocksDB a scan gives the same pages as on the model."""
    store = RocksStore(tmp_path / "live")
    rocks, model = Driver(store), filled(200)
    rocks.follow(model.log)
    cursor = b"0"
    while True:
        expected = page(model.machine, cursor, b"COUNT", b"7")
        assert page(rocks.machine, cursor, b"COUNT", b"7") == expected
        cursor = expected[0]
        if cursor == b"0":
            break
    store.close()
