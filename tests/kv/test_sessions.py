"""Sessions: what is sent again is applied once and answered the same; nothing is applied after a gap; the table stays small."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import Corrupt
from raftkv.kv.machine import GroupReplies, KvMachine
from raftkv.kv.replies import OK, Failure, Reply
from raftkv.kv.rows import replies_key, session_key
from raftkv.kv.sessions import FORGOTTEN, LIMITS, Limits
from tests.kv.driver import SESSION, START_MS, Driver, batch, empty_store, group, rows_of

OTHER = b"another session!"


def answers(result: list[GroupReplies]) -> list[tuple[str | None, list[Reply]]]:
    """Problems and replies."""
    return [(answer.problem, answer.replies) for answer in result]


def test_a_group_sent_again_is_applied_once() -> None:
    """The second time its stored replies are returned, in another entry, in the same entry, and after a restart."""
    driver = Driver()
    sent = group(SESSION, 1, ["incr n", "incrby n 10", "set a 1 get", "incr a", "set a x", "incr a"])
    expected = [(None, [1, 11, None, 2, OK, Failure("ERR", "value is not an integer or out of range")])]
    assert answers(driver.groups(sent)) == expected
    assert answers(driver.groups(sent)) == expected
    assert answers(driver.groups(sent, sent)) == expected * 2
    restarted = Driver(driver.store)
    assert answers(restarted.groups(sent)) == expected
    assert restarted.read("get n") == b"11"


def test_a_group_sent_again_in_the_entry_that_first_carried_it_is_applied_once() -> None:
    """Two copies in one entry: the second finds what the first did."""
    driver = Driver()
    sent = group(SESSION, 1, ["incr n"])
    assert answers(driver.groups(sent, sent)) == [(None, [1])] * 2
    assert driver.read("get n") == b"1"


def test_groups_may_be_cut_differently_when_sent_again() -> None:
    """A group that overlaps what was applied gets stored replies for the front and has only its rest applied."""
    driver = Driver()
    driver.groups(group(SESSION, 1, ["incr n"] * 3))
    driver.groups(group(SESSION, 4, ["incr n"] * 2))
    assert answers(driver.groups(group(SESSION, 2, ["incr n"] * 6))) == [(None, [2, 3, 4, 5, 6, 7])]
    assert answers(driver.groups(group(SESSION, 5, ["incr n"] * 2))) == [(None, [5, 6])]
    assert driver.read("get n") == b"7"
    assert driver.machine.session_last(SESSION) == 7


def test_a_gap_is_refused() -> None:
    """A group that does not follow the last command applied is not applied, and does not open or change the session."""
    driver = Driver()
    driver.groups(group(SESSION, 1, ["incr n"]))
    before = driver.machine.session_last(SESSION)
    assert answers(driver.groups(group(SESSION, 3, ["incr n"]), group(SESSION, 2, ["incr n"]))) == [("gap", []), (None, [2])]
    assert before == 1
    assert driver.read("get n") == b"2"


def test_an_unknown_session_begins_with_its_first_command() -> None:
    """Only a group that begins with number 1 opens a session."""
    driver = Driver()
    assert answers(driver.groups(group(SESSION, 2, ["incr n"]))) == [("unknown_session", [])]
    assert driver.machine.session_last(SESSION) is None
    assert answers(driver.groups(group(SESSION, 1, ["incr n"]), group(OTHER, 1, ["incr n"]))) == [(None, [1]), (None, [2])]


def test_replies_are_kept_until_they_have_arrived() -> None:
    """The floor says what has arrived: whole groups below it are forgotten, and asking for them again says so."""
    driver = Driver()
    for number in range(1, 6):
        driver.groups(group(SESSION, number, ["incr n"], floor=number - 2 if number > 2 else 0))
    kept = [name for name, _ in driver.store.scan(b"r", b"s")]
    assert kept == [replies_key(SESSION, 4), replies_key(SESSION, 5)]
    assert answers(driver.groups(group(SESSION, 2, ["incr n"] * 4))) == [(None, [FORGOTTEN, FORGOTTEN, 4, 5])]
    driver.groups(group(SESSION, 6, ["incr n"], floor=10**9))
    assert list(driver.store.scan(b"r", b"s")) == []
    assert answers(driver.groups(group(SESSION, 7, ["incr n"], floor=0))) == [(None, [7])]


def test_stored_replies_can_be_looked_up() -> None:
    """After a snapshot was installed a node asks what became of its groups: all the replies, or None if one is not kept."""
    driver = Driver()
    driver.groups(group(SESSION, 1, ["incr n"] * 3))
    driver.groups(group(SESSION, 4, ["incr n"] * 3))
    assert driver.machine.stored_replies(SESSION, 2, 4) == [2, 3, 4, 5]
    assert driver.machine.stored_replies(SESSION, 5, 3) is None
    assert driver.machine.stored_replies(OTHER, 1, 1) is None
    driver.groups(group(SESSION, 7, ["incr n"], floor=3))
    assert driver.machine.stored_replies(SESSION, 3, 2) is None
    assert driver.machine.stored_replies(SESSION, 4, 4) == [4, 5, 6, 7]


def test_many_equal_replies_take_little_space() -> None:
    """A thousand OKs are stored as one."""
    driver = Driver()
    sent = group(SESSION, 1, ["set a 1"] * 1000)
    driver.groups(sent)
    assert len(driver.store.get(replies_key(SESSION, 1)) or b"") < 16
    assert answers(driver.groups(sent)) == [(None, [OK] * 1000)]


def test_large_replies_are_not_kept() -> None:
    """What is stored of one group is bounded: the large ones among too many bytes of replies are answered once only."""
    driver = Driver(limits=Limits(replies_bytes=5000, reply_bytes=100))
    driver.write([b"set", b"big", b"x" * 3000], "set small 1")
    sent = group(OTHER, 1, ["set big y get", "set small 2 get"])
    assert answers(driver.groups(sent)) == [(None, [b"x" * 3000, b"1"])]
    assert answers(driver.groups(sent)) == [(None, [b"x" * 3000, b"1"])]
    driver.write([b"set", b"big", b"x" * 6000])
    sent = group(OTHER, 3, ["set big y get", "set small 3 get"])
    assert answers(driver.groups(sent)) == [(None, [b"x" * 6000, b"2"])]
    assert answers(driver.groups(sent)) == [(None, [FORGOTTEN, b"2"])]


def test_the_number_of_kept_groups_is_bounded() -> None:
    """A session that never says what has arrived loses the oldest replies, not the count of what was applied."""
    driver = Driver(limits=Limits(groups=3))
    for number in range(1, 6):
        driver.groups(group(SESSION, number, ["incr n"]))
    assert answers(driver.groups(group(SESSION, 1, ["incr n"] * 5))) == [(None, [FORGOTTEN, FORGOTTEN, 3, 4, 5])]
    assert driver.read("get n") == b"5"


def test_a_session_ages_as_time_passes_in_the_log() -> None:
    """A session unused for its age is forgotten with its replies, but never by the batch that uses it. A restart in between changes
    nothing."""
    driver = Driver()
    driver.groups(group(SESSION, 1, ["incr n"]))
    driver.groups(group(OTHER, 1, ["incr n"]))
    driver.age_ms(LIMITS.age_ms)
    assert driver.machine.session_last(SESSION) == 1
    restarted = Driver(driver.store)
    restarted.now_ms = driver.now_ms + 1
    assert answers(restarted.groups(group(SESSION, 2, ["incr n"]))) == [(None, [3])]
    assert restarted.machine.session_last(OTHER) is None
    assert answers(restarted.groups(group(OTHER, 2, ["incr n"]))) == [("unknown_session", [])]
    restarted.age_ms(LIMITS.age_ms + 1)
    assert [row for row in rows_of(restarted.store) if row[0][:1] in b"sr"] == []


@pytest.mark.parametrize("jump_ms", [LIMITS.age_ms + 1, 365 * 24 * LIMITS.age_ms])
def test_a_jump_of_the_clock_makes_no_session_old(jump_ms: int) -> None:
    """The first command of a session is applied, the wall clocks of a majority jump ahead, and the command is sent again: it is counted
    once, however many batches lie in between, and a key with a time to live follows the jump."""
    driver = Driver()
    sent = group(SESSION, 1, ["incr n", "set k v px 60000"])
    answered = driver.groups(sent)
    driver.pass_ms(jump_ms)
    for _ in range(2 * LIMITS.age_ms // LIMITS.advance_ms):
        driver.pass_ms(1)
    assert driver.read("get k") is None
    assert driver.groups(sent) == answered
    assert driver.read("get n") == b"1"


def test_rare_batches_let_sessions_live_longer() -> None:
    """Where nobody writes, each batch counts for what one may at most: a session outlives its age, and goes in the end."""
    driver = Driver()
    driver.groups(group(SESSION, 1, ["incr n"]))
    batches = LIMITS.age_ms // LIMITS.advance_ms
    for _ in range(batches):
        driver.pass_ms(LIMITS.age_ms)
    assert driver.machine.session_last(SESSION) == 1
    driver.pass_ms(LIMITS.age_ms)
    assert driver.machine.session_last(SESSION) is None


def test_sessions_are_forgotten_a_few_at_a_time() -> None:
    """However many are old, one batch forgets a bounded number, the oldest first."""
    driver = Driver(limits=Limits(aged_per_batch=2))
    names = [b"%016d" % number for number in (3, 1, 4, 5, 2)]
    for name in names:
        driver.groups(group(name, 1, ["incr n"]))
        driver.now_ms += name[-1] % 2
    driver.age_ms(LIMITS.age_ms - 4)  # the sessions were opened within 3 ms
    driver.now_ms += 10
    left = []
    for _ in range(3):
        driver.groups()
        left.append([name for name in names if driver.machine.session_last(name)])
    assert left == [names[2:], names[4:], []]


def test_the_number_of_sessions_is_bounded() -> None:
    """One session too many displaces the one unused for longest; equal ones by name. A restart in between changes nothing."""
    limits = Limits(sessions=3)
    driver = Driver(limits=limits)
    driver.groups(*[group(b"%016d" % number, 1, ["incr n"]) for number in (2, 1, 3)])
    driver.now_ms += 1
    driver.groups(group(b"%016d" % 1, 2, ["incr n"]))
    restarted = Driver(driver.store, limits)
    restarted.now_ms = driver.now_ms
    restarted.groups(group(b"%016d" % 9, 1, ["incr n"]))
    known = [number for number in range(10) if restarted.machine.session_last(b"%016d" % number)]
    assert known == [1, 3, 9]
    restarted.groups(*[group(b"%016d" % number, 1, ["incr n"]) for number in (4, 5, 6, 7)])
    known = [number for number in range(10) if restarted.machine.session_last(b"%016d" % number)]
    assert known == [5, 6, 7]
    assert KvMachine(restarted.store, limits=limits).session_last(b"%016d" % 4) is None


def test_damaged_rows_of_sessions_are_noticed() -> None:
    """A session or its replies that are not what was written stop the node with the way back."""
    driver = Driver()
    sent = group(SESSION, 1, ["incr n", "set a 1"])
    driver.groups(sent)
    driver.store.write({replies_key(SESSION, 1): b"\x00\x00\x00\x02\xc1"})
    with pytest.raises(Corrupt, match="restart the node"):
        driver.groups(sent)
    driver.store.write({session_key(SESSION): b"short"})
    with pytest.raises(Corrupt, match="restart the node"):
        KvMachine(driver.store)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_resending_applies_each_command_once(seed: int) -> None:
    """Groups cut, sent again, reordered and lost in any way: every command is applied at most once and in order, each reply is the
    one of its first application or says that it was forgotten, and the machine equals one that restarts before every entry."""
    rng = random.Random(seed)
    limits = Limits(groups=rng.choice([2, 1000]))
    live = Driver(limits=limits)
    store = empty_store()
    applied = 0
    for _ in range(25):
        first = max(1, applied + rng.randint(-6, 2))
        count = rng.randint(0, 5)
        payload = batch([group(SESSION, first, ["incr n"] * count, floor=rng.choice([0, max(0, applied - 4)]))], START_MS)
        [answer] = live.apply(payload).groups
        restarting = KvMachine(store, limits=limits)
        assert restarting.apply(restarting.applied_index + 1, 1, payload).groups == [answer]
        assert restarting.digest == live.machine.digest
        if live.machine.session_last(SESSION) is None:
            assert answer.problem == "unknown_session"
        elif first > applied + 1:
            assert answer.problem == "gap"
        else:
            applied = max(applied, first + count - 1)
            assert all(reply in (first + place, FORGOTTEN) for place, reply in enumerate(answer.replies))
            assert len(answer.replies) == count
        assert live.read("get n") == (b"%d" % applied if applied else None)
