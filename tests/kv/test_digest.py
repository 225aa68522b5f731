"""The running digest, and the verdict on replicas that differ."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv.digest import EMPTY, DigestRing, Verdict, advance, verdict
from raftkv.kv.store import Writes
from tests.kv.driver import START_MS, Driver, batch, group

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def test_the_digest_is_a_format() -> None:
    """The digest of given effects is what replicas of other versions compute; it never changes."""
    assert advance(EMPTY, b"", (), {}).hex() == "10e45c7ce2292320743df94ee4c78a2a"
    assert advance(A, b"about", [(b"k", b"l")], {b"key": b"value", b"gone": None}).hex() == "912c3e9bb9c5159143a899ea469a96e1"


EFFECTS = st.tuples(
    st.lists(st.tuples(st.binary(max_size=2), st.binary(max_size=2)), max_size=2),
    st.lists(st.tuples(st.binary(max_size=3), st.none() | st.binary(max_size=3)), max_size=4, unique_by=lambda item: item[0]),
)


@settings(max_examples=300, deadline=None)
@given(one=EFFECTS, two=EFFECTS)
def test_different_effects_have_different_digests(
    one: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes | None]]],
    two: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes | None]]],
) -> None:
    """No two different effects read the same: neither where a key ends and a value begins, nor what is deleted, nor the order."""
    digests = [advance(EMPTY, b"", cleared, dict(writes)) for cleared, writes in (one, two)]
    assert (digests[0] == digests[1]) == (one == two)


def test_the_digest_covers_the_past() -> None:
    """The same effects after different pasts give different digests."""
    effects: Writes = {b"a": b"b"}
    assert advance(A, b"", (), effects) != advance(B, b"", (), effects)
    assert advance(A, b"1", (), effects) != advance(A, b"2", (), effects)


def test_everything_that_an_entry_does_is_in_the_digest() -> None:
    """Values, expiries, stored replies, sessions, the clock, the term and clearing each change the digest."""
    base = Driver()
    base.write("set a 1")
    variants = {}
    for name, payload, term in (
        ("nothing", batch([], START_MS), 1),
        ("clock", batch([], START_MS + 1), 1),
        ("term", batch([], START_MS), 2),
        ("value", batch([group(b"x" * 16, 1, ["set a 2"])], START_MS), 1),
        ("other value", batch([group(b"x" * 16, 1, ["set a 3"])], START_MS), 1),
        ("session", batch([group(b"y" * 16, 1, ["set a 2"])], START_MS), 1),
        ("floor", batch([group(b"x" * 16, 1, ["set a 2"], floor=1)], START_MS), 1),
        ("expiry", batch([group(b"x" * 16, 1, ["set a 2 px 5"])], START_MS), 1),
        ("reply", batch([group(b"x" * 16, 1, ["set a 2 get"])], START_MS), 1),
        ("clear", batch([group(b"x" * 16, 1, ["flushall"])], START_MS), 1),
        ("no command", batch([group(b"x" * 16, 1, [])], START_MS), 1),
    ):
        driver = Driver()
        driver.write("set a 1")
        driver.machine.apply(2, term, payload)
        variants[name] = driver.machine.digest
    driver = Driver()
    driver.write("set a 1")
    driver.machine.apply_empty(2, 1, b"configuration")
    variants["configuration"] = driver.machine.digest
    assert len(set(variants.values())) == len(variants)
    assert base.machine.digest not in variants.values()


def test_the_ring_keeps_the_newest_and_some_older() -> None:
    """Kept are the newest ones, and older ones at round indices, so that nodes far apart have an index in common."""
    ring = DigestRing(size=4, stride=10)
    for index in range(1, 58):
        ring.add(index, b"%d" % index)
    assert [index for index, _ in ring.pairs()] == [20, 30, 40, 50, 54, 55, 56, 57]
    assert ring.pairs()[-1] == (57, b"57")
    assert [index for index, _ in ring.report(6)] == [30, 40, 50, 55, 56, 57]
    assert [index for index, _ in ring.report(1)] == [57]
    assert DigestRing().report(8) == []
    assert DigestRing().pairs() == []


def test_two_nodes_far_apart_have_an_index_in_common() -> None:
    """A node thousands of entries behind still reports an index that the other remembers."""
    ahead, behind = DigestRing(), DigestRing()
    for index in range(1, 10_001):
        ahead.add(index, A)
        if index <= 3000:
            behind.add(index, A)
    assert {index for index, _ in ahead.report(64)} & {index for index, _ in behind.pairs()} or (
        {index for index, _ in ahead.pairs()} & {index for index, _ in behind.report(64)}
    )


@pytest.mark.parametrize(
    ("reports", "members", "expected"),
    [
        ({"n1": [(1, A)], "n2": [(1, A)], "n3": [(1, A)]}, "n1 n2 n3", None),
        ({"n1": [(1, A)], "n2": [(2, B)]}, "n1 n2 n3", None),
        ({}, "n1", None),
        ({"n1": [(1, A)], "n2": [(1, A)], "n3": [(1, B)]}, "n1 n2 n3", Verdict(1, ("n3",))),
        ({"n1": [(1, B)], "n2": [(1, A)], "n3": [(1, A)]}, "n1 n2 n3", Verdict(1, ("n1",))),
        ({"n1": [(1, A), (2, A)], "n2": [(1, A), (2, A)], "n3": [(1, A), (2, B)]}, "n1 n2 n3", Verdict(2, ("n3",))),
        ({"n1": [(1, A)], "n2": [(1, B)]}, "n1 n2", Verdict(1, ())),
        ({"n1": [(1, A)], "n2": [(1, B)]}, "n1 n2 n3", Verdict(1, ())),
        ({"n1": [(1, A)], "n2": [(1, B)], "n3": [(1, C)]}, "n1 n2 n3", Verdict(1, ())),
        ({"n1": [(1, A)], "n2": [(1, A)], "n3": [(1, B)], "n4": [(1, B)]}, "n1 n2 n3 n4", Verdict(1, ())),
        ({"n1": [(1, A)], "n2": [(1, A)], "n3": [(1, A)], "n4": [(1, B)], "n5": [(1, C)]}, "n1 n2 n3 n4 n5", Verdict(1, ("n4", "n5"))),
        ({"n1": [(1, A)], "n2": [(1, A)], "l": [(1, B)]}, "n1 n2", Verdict(1, ("l",))),
        ({"n1": [(1, A)], "l1": [(1, B)], "l2": [(1, B)]}, "n1", Verdict(1, ("l1", "l2"))),
        ({"n1": [(3, A), (5, A)], "n2": [(3, B), (5, B)], "n3": [(5, A)]}, "n1 n2 n3", Verdict(3, ("n2",))),
    ],
)
def test_the_minority_is_wrong(reports: dict[str, list[tuple[int, bytes]]], members: str, expected: Verdict | None) -> None:
    """Who differs from more than half of the members is wrong, from the first index at which they are seen to differ; without such a
    majority nobody is. Members that do not report still count, and learners never do."""
    given_verdict = verdict(reports, members.split())
    assert given_verdict == expected
    assert expected is None or expected.decided == bool(expected.wrong)
