"""The log's clock at the leader: one bad clock moves nothing, and time never stands still or goes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv.clock import LogClock

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR
NOW = 1_700_000_000_000


def clock(**walls: int) -> LogClock:
    """The clock of n1, having seen these wall clocks at monotonic time 0."""
    made = LogClock("n1")
    for node, wall_ms in walls.items():
        made.observe(node, wall_ms, 0)
    return made


def test_time_passes_as_the_monotonic_clock_does() -> None:
    """Between stamps of one leader the clock advances by monotonic time, whatever wall clocks say meanwhile."""
    log = clock(n1=NOW, n2=NOW)
    log.start(NOW, 0)
    assert log.stamp(0, 2) == NOW
    assert log.stamp(700, 2) == NOW + 700
    log.observe("n1", NOW + YEAR, 800)
    log.observe("n2", NOW + YEAR, 800)
    assert log.stamp(800, 2) == NOW + 800
    log.observe("n1", NOW - YEAR, 900)
    assert log.stamp(900, 2) == NOW + 900


def test_a_leader_a_year_ahead_does_not_move_the_clock() -> None:
    """One clock that is ahead is not a majority, and after that leader time goes on as before."""
    bad = clock(n1=NOW + YEAR, n2=NOW, n3=NOW)
    bad.start(NOW, 0)
    assert bad.stamp(5, 2) == NOW + 5
    good = clock(n1=NOW, n2=NOW + YEAR, n3=NOW)
    good.start(bad.stamp(1000, 2), 0)
    assert good.stamp(1, 2) == NOW + 1001


def test_a_cluster_that_was_down_catches_up_with_the_clocks_of_a_majority() -> None:
    """A new leader moves the log's clock to what a majority has reached, once."""
    log = clock(n1=NOW + 8 * HOUR, n2=NOW + 8 * HOUR + 40, n3=NOW)
    log.start(NOW, 0)
    assert log.stamp(3, 2) == NOW + 8 * HOUR + 3
    assert log.stamp(10, 2) == NOW + 8 * HOUR + 10


def test_the_clock_waits_for_a_majority_of_clocks() -> None:
    """Until a majority's clocks are known the log's time only passes, and the leader can tell."""
    log = LogClock("n1")
    log.observe("n1", NOW + 8 * HOUR, 0)
    log.start(NOW, 0)
    assert not log.settled(2)
    assert log.stamp(5, 2) == NOW + 5
    log.observe("n2", NOW + 7 * HOUR, 6)
    assert log.settled(2)
    assert log.stamp(6, 2) == NOW + 7 * HOUR
    assert log.settled(2)
    log.start(log.stamp(7, 2), 7)
    assert log.settled(2)
    log.forget("n2")
    assert not log.settled(2)


def test_a_clock_that_is_behind_moves_nothing() -> None:
    """A log that is ahead of every clock goes on from where it is: time neither goes back nor stands still."""
    log = clock(n1=NOW - YEAR, n2=NOW - YEAR, n3=NOW - YEAR)
    log.start(NOW, 100)
    assert [log.stamp(mono_ms, 2) for mono_ms in (100, 150, 120, 5000)] == [NOW, NOW + 50, NOW + 50, NOW + 4900]


def test_a_new_cluster_begins_with_its_leaders_clock() -> None:
    """An empty log has nothing that could expire, so its first leader need not wait for others."""
    log = clock(n1=NOW)
    log.start(0, 50)
    assert log.stamp(60, 2) == NOW + 60
    unobserved = LogClock("n1")
    unobserved.start(0, 50)
    assert unobserved.stamp(60, 2) == 10


def test_a_single_node_is_its_own_majority() -> None:
    """With one voter its own clock is a majority's."""
    log = clock(n1=NOW + HOUR)
    log.start(NOW, 0)
    assert log.stamp(1, 1) == NOW + HOUR + 1


@settings(max_examples=200, deadline=None)
@given(
    walls=st.lists(st.integers(NOW - YEAR, NOW + YEAR), min_size=5, max_size=5),
    bad=st.lists(st.integers(0, 2**62), min_size=2, max_size=2),
    steps=st.lists(st.integers(0, HOUR), min_size=1, max_size=8),
)
def test_stamps_stay_within_what_good_clocks_say(walls: list[int], bad: list[int], steps: list[int]) -> None:
    """With a minority of clocks saying anything, stamps never decrease, never outrun both the log's own time and the furthest good
    clock, and advance at least as monotonic time does."""
    log = clock(n1=bad[0], n2=walls[0], n3=walls[1], n4=bad[1], n5=walls[2])
    log.start(NOW, 0)
    mono_ms, last_ms = 0, NOW
    for step in steps:
        mono_ms += step
        stamp_ms = log.stamp(mono_ms, 3)
        assert stamp_ms >= last_ms + step
        assert stamp_ms <= max(NOW, *walls[:3]) + mono_ms
        last_ms = stamp_ms


def test_a_leader_that_has_not_seen_the_stamps_does_not_begin_with_its_own_clock() -> None:
    """When a majority's clocks are known, a leader that is a year ahead and finds no stamp yet begins with what they agree on."""
    bad = clock(n1=NOW + YEAR, n2=NOW, n3=NOW + 7)
    bad.start(0, 0)
    assert bad.stamp(5, 2) == NOW + 12
    assert bad.stamp(9, 2) == NOW + 16


def test_what_a_leader_has_stamped_is_not_taken_back() -> None:
    """Once there is a stamp, the clock does not go back when the clocks of a majority become known."""
    alone = LogClock("n1")
    alone.observe("n1", NOW + HOUR, 0)
    alone.start(0, 0)
    assert alone.stamp(5, 2) == NOW + HOUR + 5
    alone.observe("n2", NOW, 6)
    assert alone.stamp(10, 2) == NOW + HOUR + 10
