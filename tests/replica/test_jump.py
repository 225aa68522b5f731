"""A snapshot takes the place of the state of a node that has entries after it: who answers clients learns of both in their order."""

from __future__ import annotations

import random
from typing import Any, cast

from raftkv.raft.ready import Ready
from raftkv.replica import Replica
from raftkv.sim.disk import SimDisk
from tests.replica.lone_node import Node


class _Recorder:
    """A listener that notes what it is told, and where the state stands then."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.told: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None

    def applied(self, index: int, groups: object, now_ms: int, pushed: object = ()) -> None:
        self.told.append(("applied", index))

    def snapshot_installed(self, now_ms: int) -> None:
        self.told.append(("jumped", self._replica.applied_index))


class _Behind(Replica):
    """It is too slow to apply anything before its state is replaced."""

    def _apply(self, now_ms: int) -> None:
        if self.machine.applied_index:
            super()._apply(now_ms)


def told(replica_type: type[Replica]) -> list[tuple[str, int]]:
    """What the listener of n1 is told, which has the log up to index 4, is fenced, and is rebuilt from a state at index 3."""
    node = Node(SimDisk(random.Random(1)), replica_type)
    node.is_fenced()
    recorder = _Recorder(node.replica)
    node.replica.attach(cast(Any, recorder))
    node.is_rebuilt()
    node.hears_the_leader()
    return recorder.told


def test_a_jump_of_the_state_is_told_before_what_is_applied_after_it() -> None:
    """The answers to writes whose entries were skipped are looked up in the state; those of later entries come only then, for by them
    the router would take the earlier answers for lost, and tell clients UNCERTAIN."""
    assert told(_Behind) == [("jumped", 3), ("applied", 4)]


def test_a_state_that_goes_back_skips_nothing() -> None:
    """Whoever has heard of all entries in a snapshot has missed none: that state may not even know the sessions of today."""
    assert told(Replica) == [("applied", 4)]


def test_planted_a_jump_that_is_told_late() -> None:
    """Told the other way round, the router has given up what it would have found."""

    class Late(_Behind):
        def _resume(self, now_ms: int) -> None:
            ready, self._installing = cast(Ready, self._installing), None
            self._execute(ready, now_ms)
            self._tell.snapshot_installed(now_ms)

    assert told(Late) != told(_Behind)
