"""What happens to a state store that cannot be trusted."""

from __future__ import annotations

import random

import pytest

from raftkv.errors import StateDamaged, StorageError
from raftkv.sim.disk import SimDisk, Survival
from raftkv.sim.store import ModelEngine
from raftkv.startup import snapshot_meta_of
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.damage import ASIDE_PATH, aside, damage, give_up_aside, note_damage, set_aside


def _with_state(disk: SimDisk) -> None:
    directory = StateDirectory(disk, ModelEngine(disk), snapshot_meta_of)
    directory.store.write({b"key": b"value"})
    directory.store.flush()
    directory.close()


def test_a_state_without_a_note_is_not_damaged() -> None:
    """Nothing is set aside that nobody complained about."""
    disk = SimDisk(random.Random(1))
    _with_state(disk)
    assert damage(disk) is None


def test_a_note_survives_a_crash_and_says_why() -> None:
    """The next start learns what the last one stumbled over."""
    disk = SimDisk(random.Random(1))
    _with_state(disk)
    note_damage(disk, "block 7 is rotten")
    disk.crash(Survival.LOST)
    disk.restart()
    assert damage(disk) == "block 7 is rotten"


def test_a_state_that_is_set_aside_leaves_an_empty_one_and_is_kept() -> None:
    """The damaged files stay for whoever wants to look, and do not come back."""
    disk = SimDisk(random.Random(1))
    _with_state(disk)
    note_damage(disk, "rot")
    assert set_aside(disk) == ASIDE_PATH
    disk.crash(Survival.LOST)
    disk.restart()
    assert damage(disk) is None
    assert disk.exists(f"{ASIDE_PATH}/CURRENT")
    directory = StateDirectory(disk, ModelEngine(disk), snapshot_meta_of)
    assert directory.store.get(b"key") is None


def test_a_state_is_set_aside_beside_what_could_not_be_removed() -> None:
    """What is left of another one neither keeps it from being moved nor is written over."""
    disk = SimDisk(random.Random(1))
    for _ in range(3):
        _with_state(disk)
        set_aside(disk)
    assert aside(disk) == [ASIDE_PATH, f"{ASIDE_PATH}-2", f"{ASIDE_PATH}-3"]
    assert not disk.exists("state")
    assert give_up_aside(disk)
    assert aside(disk) == []


class _Stuck(SimDisk):
    """A disk on which one directory cannot be removed."""

    def remove_tree(self, path: str) -> None:
        if path == ASIDE_PATH:
            raise StorageError(f"cannot remove {path}: Permission denied")
        super().remove_tree(path)


def test_what_cannot_be_removed_does_not_protect_the_rest() -> None:
    """All that can be removed is, and the caller learns of what could not."""
    disk = _Stuck(random.Random(1))
    for _ in range(2):
        _with_state(disk)
        set_aside(disk)
    with pytest.raises(StorageError, match="Permission denied"):
        give_up_aside(disk)
    assert aside(disk) == [ASIDE_PATH]


def test_what_was_set_aside_can_be_given_up() -> None:
    """Its space comes back, and the state that took its place is left alone."""
    disk = SimDisk(random.Random(1))
    assert not give_up_aside(disk)
    _with_state(disk)
    set_aside(disk)
    _with_state(disk)
    used = sum(map(len, disk.files().values()))
    assert give_up_aside(disk)
    assert not disk.exists(ASIDE_PATH)
    assert sum(map(len, disk.files().values())) == used // 2
    assert StateDirectory(disk, ModelEngine(disk), snapshot_meta_of).store.get(b"key") == b"value"
    assert not give_up_aside(disk)


def test_a_damaged_current_is_an_error_of_the_state_and_not_of_the_log() -> None:
    """Only what can be had again is set aside: the error says that it is the state."""
    disk = SimDisk(random.Random(1))
    _with_state(disk)
    disk.flip("state/CURRENT", 22)
    with pytest.raises(StateDamaged, match="state/CURRENT"):
        StateDirectory(disk, ModelEngine(disk), snapshot_meta_of)


def test_what_somebody_else_keeps_beside_it_is_not_ours_to_remove() -> None:
    """Whoever renames a state that was set aside, so that it is kept, finds it under that name."""
    disk = SimDisk(random.Random(1))
    kept = [f"{ASIDE_PATH}-of-may", f"{ASIDE_PATH}-", f"{ASIDE_PATH}.tar"]
    for name in kept:
        disk.put(f"{name}/CURRENT", b"somebody's")
    _with_state(disk)
    set_aside(disk)
    assert aside(disk) == [ASIDE_PATH]
    assert give_up_aside(disk)
    assert [name for name in kept if disk.exists(f"{name}/CURRENT")] == kept
