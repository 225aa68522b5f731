"""Rot in the files of a state that is checkpointed: on RocksDB and its real files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from raftkv.codec.peer import FileInfo
from raftkv.errors import StateDamaged
from raftkv.kv.machine import KvMachine
from raftkv.startup import open_state, snapshot_meta_of
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.damage import ASIDE_PATH, aside, note_damage
from raftkv.storage.disk import OsDisk
from raftkv.storage.store import RocksEngine
from tests.storage.test_checkpoint import fill, rocks

ROTTEN_PLACES = 16


def rotting(path: Path, *, before: Callable[[StateDirectory], object]) -> Iterator[tuple[float, StateDirectory]]:
    """State directories in which `before` was done and then a byte of the one table has rotted: each somewhere else in it."""
    for number in range(ROTTEN_PLACES):
        root = path / str(number)
        state, _ = rocks(root)
        for index in range(1, 40):
            fill(state.store, index)
        state.store.flush()
        before(state)
        (table,) = (root / "state" / state.generation).glob("*.sst")
        content = bytearray(table.read_bytes())
        content[len(content) * number // ROTTEN_PLACES] ^= 0x10
        with table.open("r+b") as file:  # in place: a checkpoint shares the file
            file.write(content)
        yield number / ROTTEN_PLACES, state
        state.close()


def check_rot_is_offered_to_nobody(state: StateDirectory) -> None:
    """A checkpoint of a state with a rotten table fails, as the damage of the state that it is."""
    for _ in range(2):
        with pytest.raises(StateDamaged):
            state.checkpoint()


def test_a_table_that_rots_after_a_checkpoint_is_found_by_the_next(tmp_path: Path) -> None:
    """Wherever it rots: its files would differ from what is offered, for every peer and for ever, so the state is given up instead."""
    for _, state in rotting(tmp_path, before=lambda state: state.checkpoint().discard()):
        check_rot_is_offered_to_nobody(state)


def test_rows_that_have_rotted_are_found_by_the_first_checkpoint(tmp_path: Path) -> None:
    """Nobody is sent rows that cannot be read: the checksums of a file that has rotted already would vouch for the rot."""
    for place, state in rotting(tmp_path, before=lambda state: None):
        if place < 0.6:  # the rows; what comes after them only helps to find them
            check_rot_is_offered_to_nobody(state)


def test_a_state_that_was_given_up_by_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    """The damage is noted as any other is, and the next start sets the state aside: a peer or the log rebuilds it."""
    _, state = next(rotting(tmp_path, before=lambda state: None))
    with pytest.raises(StateDamaged) as found:
        state.checkpoint()
    state.close()
    disk = OsDisk(tmp_path / "0")
    note_damage(disk, str(found.value))

    def directory() -> StateDirectory:
        return StateDirectory(disk, RocksEngine(tmp_path / "0"), snapshot_meta_of)

    again, machine = open_state(disk, directory, KvMachine, structlog.get_logger("raftkv"))
    assert machine.applied_index == 0
    assert aside(disk) == [ASIDE_PATH]
    fill(again.store, 1)
    again.checkpoint().discard()
    again.close()


def test_planted_checksums_that_are_remembered_hide_rot(tmp_path: Path) -> None:
    """Who takes the checksum of a table from an earlier checkpoint offers what no peer will ever get."""

    class Remembering(StateDirectory):
        def _describe(self, directory: str, name: str) -> FileInfo:
            known = {key[1]: FileInfo(name, key[2], crc) for key, crc in self._checksums.items()}
            return known.get(name) or super()._describe(directory, name)

    caught = 0
    for _, state in rotting(tmp_path, before=lambda state: state.checkpoint().discard()):
        state.__class__ = Remembering
        try:
            check_rot_is_offered_to_nobody(state)
        except pytest.fail.Exception:
            caught += 1
    assert caught


def test_planted_a_checkpoint_of_rows_that_nobody_has_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads only the position inside a checkpoint vouches for whatever else is in it."""
    monkeypatch.setattr("raftkv.storage.store._verify", lambda iterator, path: None)
    with pytest.raises(pytest.fail.Exception):
        test_rows_that_have_rotted_are_found_by_the_first_checkpoint(tmp_path)
