"""What happened in a simulation: the last events in words, and a hash over all of them.

Two runs of one seed have the same hash, whatever the process, or something in them depends on more than the seed.
"""

from __future__ import annotations

from collections import Counter, deque

from xxhash import xxh3_64

from raftkv.sim.clock import Schedule


class Violation(Exception):
    """The simulated cluster did what must never happen. `rule` names what was broken.

    The message says what, and ends with the seed and the last events when a whole run is simulated.
    """

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


class Trace:
    """The events of one simulation.

    Args:
        schedule: tells the time.
        keep: how many of the last events are kept in words.
    """

    def __init__(self, schedule: Schedule, keep: int = 250) -> None:
        self.counts: Counter[str] = Counter()
        """How often each named event of the product, and each fault, has happened."""
        self._schedule = schedule
        self._last: deque[tuple[int, str, str, tuple[object, ...]]] = deque(maxlen=keep)
        self._hash = xxh3_64()

    def note(self, who: str, what: str, *facts: object) -> None:
        """Something has happened to `who`. Facts must not differ between two runs of a seed."""
        now_us = self._schedule.now_us
        self._last.append((now_us, who, what, facts))
        self._hash.update(f"{now_us} {who} {what} {facts}\n".encode())

    def count(self, who: str, what: str, *facts: object) -> None:
        """As `note`, and count it."""
        self.counts[what] += 1
        self.note(who, what, *facts)

    def text(self) -> str:
        """The last events, one a line."""
        return "\n".join(
            f"{now_us / 1e6:12.6f}  {who:8} {what:24} {' '.join(map(str, facts))}" for now_us, who, what, facts in self._last
        )

    def digest(self) -> str:
        """The hash of everything so far."""
        return self._hash.hexdigest()
