"""Simulated time: a queue of things to happen, in an order that is a function of the seed.

Time is an integer of microseconds and moves only from one event to the next. Two events of the same moment happen in the order in
which they were scheduled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """A thing that will happen, unless it is cancelled."""

    __slots__ = ("action", "cancelled")

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        """Make sure that it does not happen."""
        self.cancelled = True


class Schedule:
    """The queue of events and the moment that it has reached."""

    def __init__(self) -> None:
        self.now_us = 0
        self.events = 0
        self._order = 0
        self._queue: list[tuple[int, int, Timer]] = []

    def after(self, delay_us: int, action: Callable[[], None]) -> Timer:
        """Let `action` happen `delay_us` from now."""
        timer = Timer(action)
        self._order += 1
        heapq.heappush(self._queue, (self.now_us + max(0, delay_us), self._order, timer))
        return timer

    def step(self) -> bool:
        """Let the next event happen; False when there is none."""
        while self._queue:
            at, _, timer = heapq.heappop(self._queue)
            if timer.cancelled:
                continue
            self.now_us = at
            self.events += 1
            timer.action()
            return True
        return False

    def run_until(self, at_us: int) -> None:
        """Let everything happen that is due up to `at_us`, and move there."""
        while self._queue and self._queue[0][0] <= at_us:
            self.step()
        self.now_us = max(self.now_us, at_us)
