"""Simulated time: order, cancelling, and that it moves only forward."""

from __future__ import annotations

from raftkv.sim.clock import Schedule


def test_events_happen_in_the_order_of_their_time_and_then_of_their_scheduling() -> None:
    """Earlier events come first, and of two at one moment the one that was scheduled first."""
    schedule = Schedule()
    happened: list[str] = []
    for delay_us, name in ((20, "c"), (10, "a"), (20, "d"), (10, "b")):
        schedule.after(delay_us, lambda name=name: happened.append(name))  # type: ignore[misc]
    schedule.run_until(100)
    assert happened == ["a", "b", "c", "d"]
    assert (schedule.now_us, schedule.events) == (100, 4)


def test_time_stands_still_within_an_event_and_never_goes_back() -> None:
    """An event sees its own moment, and one that is scheduled for the past happens now."""
    schedule = Schedule()
    seen: list[int] = []

    def act() -> None:
        seen.append(schedule.now_us)
        schedule.after(-50, lambda: seen.append(schedule.now_us))

    schedule.after(30, act)
    schedule.run_until(30)
    assert seen == [30, 30]


def test_a_cancelled_event_does_not_happen() -> None:
    """Cancelling a timer keeps its action from happening, and the others happen."""
    schedule = Schedule()
    happened: list[str] = []
    timer = schedule.after(10, lambda: happened.append("cancelled"))
    schedule.after(10, lambda: happened.append("kept"))
    timer.cancel()
    schedule.run_until(20)
    assert happened == ["kept"]
    assert not schedule.step()
