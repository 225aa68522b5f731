"""The log's clock, at the leader: what it stamps its batches with.

Replicas never look at a clock when they apply; they follow the stamps (`KvMachine.clock_ms`). So a bad stamp is a bad time for all:
a leader whose clock is a year ahead must not let everything expire. Therefore:

* From one stamp to the next the clock moves by the leader's *monotonic* time. Its wall clock may jump; that moves nothing.
* A new leader continues from the time in the log. Once, as soon as it knows the wall clocks of a majority, it moves the log's clock
  forward to what a majority agrees has been reached (a whole cluster may have been down for a day). One clock that is ahead cannot
  do that alone; one that is behind does not prevent it.
* The clock never goes back. If the log is ahead of all clocks, it goes on from where it is: time never stands still.
* A log without any stamp begins with what a majority agrees on, if that is known, else with the leader's own wall clock. (A new leader
  may see no stamp only because it has not applied yet what the leader before it stamped: its own clock must not decide then.)

No clock is read here: all readings are arguments.
"""

from __future__ import annotations


class LogClock:
    """The stamps of one node, which may lead again and again."""

    def __init__(self, node: str) -> None:
        """`node` is the name under which this node's own wall clock is observed."""
        self._node = node
        self._offsets: dict[str, int] = {}
        self._base_ms = 0
        self._base_mono_ms = 0
        self._last_ms = 0
        self._settled = False
        self._fresh = False
        """The log has no stamp, as far as this leader has applied it, and none was made since."""

    def observe(self, node: str, wall_ms: int, mono_ms: int) -> None:
        """The wall clock of `node` showed `wall_ms` when this node's monotonic clock showed `mono_ms`."""
        self._offsets[node] = wall_ms - mono_ms

    def forget(self, node: str) -> None:
        """`node` is no longer a member: its clock no longer counts."""
        self._offsets.pop(node, None)

    def start(self, log_ms: int, mono_ms: int) -> None:
        """This node leads from now on, and the log's clock shows `log_ms`."""
        self._fresh = log_ms == 0
        if log_ms == 0 and self._node in self._offsets:
            log_ms = self._offsets[self._node] + mono_ms
        self._base_ms = self._last_ms = max(log_ms, 0)
        self._base_mono_ms = mono_ms
        self._settled = False

    def settled(self, majority: int) -> bool:
        """Whether the clocks of a majority are known, or have been since `start`: a stamp made before that may lie far behind."""
        return self._settled or len(self._offsets) >= majority

    def stamp(self, mono_ms: int, majority: int) -> int:
        """The time for a batch made now, in milliseconds since the epoch.

        Args:
            mono_ms: this node's monotonic clock.
            majority: how many nodes make a majority of the voters.
        """
        now_ms = self._base_ms + max(mono_ms - self._base_mono_ms, 0)
        if not self._settled and len(self._offsets) >= majority > 0:
            self._settled = True
            reached_ms = sorted(self._offsets.values(), reverse=True)[majority - 1] + mono_ms
            if reached_ms > now_ms or self._fresh:
                self._base_ms += reached_ms - now_ms
                self._last_ms = min(self._last_ms, reached_ms)
                now_ms = reached_ms
        self._fresh = False
        self._last_ms = max(self._last_ms, now_ms)
        return self._last_ms
