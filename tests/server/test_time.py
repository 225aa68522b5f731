"""A node and its time: ticks come before what happens after them, and a node that has nothing to wait for is woken up seldom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest

from raftkv.codec.peer import Fence, Value
from raftkv.server import node as server
from raftkv.server.node import Node
from raftkv.server.settings import Address, NodeSettings
from raftkv.turns import Turns

ADDRESS = Address("127.0.0.1", 1)
TICK_MS = 20
HEARTBEAT_TICKS = 5


class Stage(Node):
    """A node of which only the driving is real: the clock is the test's, and it notes what the replica and the event loop are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 10_000
        monkeypatch.setattr(server, "monotonic_ms", lambda: self.now_ms)
        super().__init__(NodeSettings(name="n1", data_dir=Path("data"), client=ADDRESS, peer=ADDRESS))
        self.timers: list[tuple[float, Mock]] = []
        self._loop: Any = Mock(call_later=self._set_timer)
        self.replica: Any = Mock(calm=True)
        self.replica.raft.has_ready.return_value = False
        self.replica.raft.config.election_ticks = 50
        self._replica = self.replica
        self._router: Any = Mock()
        self._reporter: Any = Mock()
        others: Any = Mock()
        self._turns = Turns(
            self.replica, self._router, others, others, self, others, others, tick_ms=TICK_MS, heartbeat_ticks=HEARTBEAT_TICKS
        )
        self._turns.begin(self.now_ms)

    def _set_timer(self, seconds: float, act: Callable[[], None]) -> Mock:
        handle = Mock()
        self.timers.append((seconds, handle))
        return handle

    @property
    def happened(self) -> list[str]:
        """What the replica was told that matters to its time."""
        return [name for name, *_ in self.replica.method_calls if name in ("tick", "receive", "peer_lost", "pump")]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A node at its first moment."""
    return Stage(monkeypatch)


VALUE: Value = Fence(1, "")


def test_time_passes_before_a_message_is_taken(stage: Stage) -> None:
    """A message meets a core that knows what time it is: a promise that it makes must not begin, and so end, in the past."""
    stage.now_ms += 3 * TICK_MS + 1
    stage._received("n2", VALUE)
    stage._received("n2", VALUE)
    assert stage.happened == ["tick"] * 3 + ["receive"] * 2


def test_time_passes_before_a_connection_is_lost(stage: Stage) -> None:
    """The delay that sets the survivors apart begins when the connection broke, not when the core was ticked last."""
    stage.now_ms += 4 * TICK_MS
    stage._peer_disconnected("n2")
    assert stage.happened == ["tick"] * 4 + ["peer_lost"]


def test_time_passes_before_requests_are_handled(stage: Stage) -> None:
    """A leader that slept knows how long before it answers."""
    stage.now_ms += 60 * TICK_MS
    stage._work()
    assert stage.happened == ["tick"] * 60 + ["pump"]


def test_a_calm_node_is_woken_up_for_heartbeats_only(stage: Stage) -> None:
    """In calm times the timer is set to the next heartbeat, counting what has passed of the time to it, else to the next tick."""
    stage._tick_later()
    stage.now_ms += 2 * TICK_MS + 5
    stage._tick()
    stage.replica.calm = False
    stage._tick()
    stage.now_ms += HEARTBEAT_TICKS * TICK_MS
    stage.replica.calm = True
    stage._tick()
    assert [round(seconds * 1000) for seconds, _ in stage.timers] == [100, 55, 15, 95]


def test_a_calm_node_that_loses_its_calm_does_not_sleep_on(stage: Stage) -> None:
    """When something begins to wait for the next tick, the timer that was set to a heartbeat is set to that tick."""
    stage._tick_later()
    stage._work()
    assert len(stage.timers) == 1
    stage.now_ms += TICK_MS // 2
    stage.replica.calm = False
    stage._peer_disconnected("n2")
    stage._work()
    [(_, first), (seconds, second)] = stage.timers
    assert first.cancel.mock_calls == [call()]
    assert seconds == pytest.approx(0.01)
    stage._work()
    assert (len(stage.timers), second.cancel.mock_calls) == (2, [])


def test_the_timer_ends_with_the_node(stage: Stage) -> None:
    """A node that has stopped sets no timer any more."""
    stage._stopping = True
    stage._tick()
    assert stage.timers == []
