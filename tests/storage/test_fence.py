"""A state that is known to be wrong stays known as such: over restarts, crashes and errors, until another one has taken its place."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from raftkv.codec.envelope import wrap
from raftkv.errors import DiskFull, StorageError
from raftkv.kv.store import Store
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.storage.checkpoint import CURRENT_MAGIC, FORMAT_VERSION, Current, StateDirectory
from raftkv.storage.staging import Staging
from tests.storage.test_checkpoint import crash_points, leader, meta_of, model, prepared, receive

WRONG = "it differs from the majority's at index 2"


def test_a_fence_is_found_by_every_later_start() -> None:
    """What `fence` has returned for survives losses of power, and what the node does with the state otherwise."""
    disk = prepared(0)
    state = model(disk)
    assert state.fenced is None
    state.fence(state.generation, WRONG)
    assert state.fenced == WRONG
    for _ in range(2):
        disk.crash(Survival.LOST)
        state = model(disk)
        assert state.fenced == WRONG
        state.checkpoint().discard()
        state.reopen()
        assert (state.fenced, meta_of(state.store).index) == (WRONG, 2)


def test_a_fence_ends_with_the_state_that_it_was_put_up_for() -> None:
    """The switch to an installed snapshot ends it, and one that is put up late for the old state leaves the new one alone."""
    disk = prepared(0)
    state = model(disk)
    old = state.generation
    state.fence(old, WRONG)
    receive(state, leader(10))
    assert (state.fenced, state.generation != old) == (None, True)
    state.fence(old, WRONG)
    assert state.fenced is None
    disk.crash(Survival.LOST)
    state = model(disk)
    assert (state.fenced, meta_of(state.store).index) == (None, 10)


def test_a_fence_does_not_wait_for_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader that fences itself may be making a checkpoint of the wrong state at that moment, which takes long."""
    state = model(prepared(0))
    make = type(state.store).checkpoint

    def fenced_meanwhile(store: Any, directory: Any) -> None:
        state.fence(state.generation, WRONG)
        make(store, directory)

    monkeypatch.setattr(type(state.store), "checkpoint", fenced_meanwhile)
    state.checkpoint()
    assert state.fenced == WRONG


def sweep(directory: type[StateDirectory] = StateDirectory) -> set[tuple[int, str | None]]:
    """A crash in every operation of a fence and the installation after it, with every fate of what was not synced: what is found
    afterwards. Once the fence stood, the old state is never found without it."""
    outcomes = set()
    fenced: list[bool] = []

    def run(disk: SimDisk) -> None:
        fenced.clear()
        state = model(disk, directory=directory)
        state.fence(state.generation, WRONG)
        fenced.append(True)
        receive(state, leader(10))

    for operation, survival, disk, finished in crash_points(run):
        state = model(disk)
        found = meta_of(state.store).index, state.fenced
        outcomes.add(found)
        where = operation, survival, disk.history[-1]
        assert found in ((10, None), (2, WRONG)) or (not fenced and found == (2, None)), where
        assert found == (10, None) or not finished, where
    return outcomes


def test_a_crash_at_any_step_leaves_the_fence_or_the_new_state() -> None:
    """Between the fence and the end of the installation no crash leaves the wrong state without its fence, or the new one with it."""
    assert sweep() == {(2, None), (2, WRONG), (10, None)}


def test_a_kill_and_a_loss_of_power_later_leave_the_fence_or_the_new_state() -> None:
    """What a killed process left is not all durable; what the next one finds is."""
    for operation in count(1):
        finished = False
        for chance in range(12):
            disk = prepared(1000 * chance + operation)
            disk.crash_at(disk.operations + operation)
            fenced = False
            try:
                state = model(disk)
                state.fence(state.generation, WRONG)
                fenced = True
                receive(state, leader(10))
                finished = True
            except Crashed:
                finished = False
            disk.crash(Survival.CLEAN)
            state = model(disk)
            found = meta_of(state.store).index, state.fenced
            assert found != (2, None) or not fenced
            state.close()
            disk.crash(Survival.REORDERED if chance else Survival.LOST)
            state = model(disk)
            assert (meta_of(state.store).index, state.fenced) == found
        if finished:
            break


class LiftedFirst(StateDirectory):
    """Takes the fence away before the new state is in its place."""

    def install(self, staging: Staging) -> Store:
        self._switch(Current(self._current.generation, self._current.installed))
        return super().install(staging)


class Unsynced(StateDirectory):
    """Remembers a fence without waiting for the disk."""

    def fence(self, generation: str, reason: str) -> None:
        self._current = Current(generation, self._current.installed, reason)


class Carried(StateDirectory):
    """Puts the fence of the old state up for the new one."""

    def _switch(self, current: Current) -> None:
        fenced = self._current.fenced if hasattr(self, "_current") else None
        super()._switch(Current(current.generation, current.installed, current.fenced or fenced))


@pytest.mark.parametrize("double", [LiftedFirst, Unsynced, Carried])
def test_fences_that_fail_are_caught(double: type[StateDirectory]) -> None:
    """Planted: a fence that goes too early, is not durable, or stays too long."""
    with pytest.raises(AssertionError):
        sweep(double)


@pytest.mark.parametrize("error", [StorageError("Input/output error"), DiskFull("no space left")])
def test_an_error_at_any_step_of_a_fence_is_told(error: StorageError) -> None:
    """When `fence` returns the fence stands; when it raises, the next start finds it or does not, and the state is whole."""
    outcomes = set()
    raised = True
    operation = 0
    while raised:
        operation += 1
        disk = prepared(operation)
        state = model(disk)
        disk.fail_at(disk.operations + operation, error)
        try:
            state.fence(state.generation, WRONG)
            raised = False
        except StorageError:
            raised = True
        disk.restart()
        state = model(disk)
        assert meta_of(state.store).index == 2
        assert state.fenced == WRONG or raised
        outcomes.add((state.fenced, raised))
    assert outcomes == {(None, True), (WRONG, True), (WRONG, False)}


def test_a_lack_of_space_leaves_the_fence_to_be_tried_again() -> None:
    """A fence that found no space changed nothing, and the same call succeeds later."""
    disk = prepared(0)
    state = model(disk)
    disk.capacity_bytes = sum(map(len, disk.files().values()))
    with pytest.raises(DiskFull):
        state.fence(state.generation, WRONG)
    assert state.fenced is None
    disk.capacity_bytes = None
    state.fence(state.generation, WRONG)
    disk.crash(Survival.LOST)
    assert model(disk).fenced == WRONG


def test_a_current_without_a_word_on_fences_has_none() -> None:
    """The field came later than the file."""
    disk = prepared(0)
    disk.put("state/CURRENT", wrap(CURRENT_MAGIC, FORMAT_VERSION, b"\x92\xacgen-00000001\xc0"))
    state = model(disk)
    assert (state.fenced, state.installed, meta_of(state.store).index) == (None, None, 2)
