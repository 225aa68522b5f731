"""One rotten byte where other nodes can help: what is changed, what never is, and that a node finds it and asks for that entry alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raftkv.errors import Rotten, StorageError
from raftkv.raft.types import Entry, EntryKind, HardState, Member, SnapshotMeta
from raftkv.storage.disk import OsDisk
from raftkv.storage.identity import Identity, cluster_id, create_identity
from raftkv.storage.rotten import RottenLog
from raftkv.storage.wal import LogWrite, Wal, WalSettings
from raftkv_cli.chaos.rot import is_suspect, may_rot, rot

SETTINGS = WalSettings(segment_bytes=8192)
MEMBERS = (Member("n1", 0, "127.0.0.1:7101"), Member("n2", 0, "127.0.0.1:7102"))


def written(directory: Path, entries: int) -> Wal:
    """An open log of `entries` entries, each in a group of its own; some twenty fill a segment."""
    disk = OsDisk(directory)
    wal = Wal.open(disk, SETTINGS)
    create_identity(disk, Identity(cluster_id("c", MEMBERS), "c", "n1", 1, 0, MEMBERS))
    for index in range(1, entries + 1):
        payload = f"entry {index} ".encode() * 8
        wal.write([LogWrite(index, HardState(1, "n1"), None, (Entry(index, 1, EntryKind.BATCH, payload),), index - 1)])
    return wal


def contents(directory: Path) -> dict[str, bytes]:
    """Every file."""
    return {path.name: path.read_bytes() for path in (directory / "wal").iterdir()}


@pytest.mark.parametrize("choice", range(12))
def test_one_byte_of_a_closed_segment_rots_and_is_found(tmp_path: Path, choice: int) -> None:
    """Exactly one byte differs afterwards, before the newest segment, and the node finds that it must have that entry again."""
    written(tmp_path, 60).close()
    before = contents(tmp_path)
    index = rot(tmp_path, random.Random(choice))
    after = contents(tmp_path)
    [name] = [name for name in before if before[name] != after[name]]
    assert name != max(name for name in before if name.endswith(".log"))
    assert sum(one != other for one, other in zip(before[name], after[name], strict=True)) == 1
    with pytest.raises(Rotten):
        Wal.open(OsDisk(tmp_path), SETTINGS)
    log = RottenLog.open(OsDisk(tmp_path), SETTINGS)
    assert [rotten.index for rotten in log.needed] == [index]
    log.close()


def test_a_log_of_one_segment_is_spared(tmp_path: Path) -> None:
    """There is no closed segment, so nothing may rot, and nothing does."""
    written(tmp_path, 5).close()
    before = contents(tmp_path)
    assert not may_rot(tmp_path)
    assert rot(tmp_path, random.Random(1)) is None
    assert contents(tmp_path) == before


def test_entries_that_do_not_count_are_spared(tmp_path: Path) -> None:
    """What was forgotten may still stand in a closed segment: its rot would prove nothing."""
    wal = written(tmp_path, 60)
    assert may_rot(tmp_path)
    wal.compact(SnapshotMeta(40, 1))
    wal.close()
    for choice in range(20):
        directory = tmp_path / str(choice)
        (directory / "wal").mkdir(parents=True)
        for path, data in contents(tmp_path).items():
            (directory / "wal" / path).write_bytes(data)
        index = rot(directory, random.Random(choice))
        assert index is not None
        assert index > 40


def test_a_log_that_is_rotten_already_is_spared(tmp_path: Path) -> None:
    """It waits for its repair."""
    written(tmp_path, 60).close()
    assert rot(tmp_path, random.Random(1)) is not None
    before = contents(tmp_path)
    assert not may_rot(tmp_path)
    assert rot(tmp_path, random.Random(2)) is None
    assert contents(tmp_path) == before


def test_a_suspect_node_is_known_by_its_manifest(tmp_path: Path) -> None:
    """A node that gave up rotten entries lacks something until it knows again what it may have promised."""
    written(tmp_path, 60).close()
    assert not is_suspect(tmp_path)
    rot(tmp_path, random.Random(1))
    log = RottenLog.open(OsDisk(tmp_path), SETTINGS)
    log.end_before_rot()
    log.close()
    assert is_suspect(tmp_path)
    wal = Wal.open(OsDisk(tmp_path), SETTINGS)
    wal.clear_suspect()
    wal.close()
    assert not is_suspect(tmp_path)


def test_a_directory_without_a_log_is_an_error(tmp_path: Path) -> None:
    """Nobody mistakes it for a log that has nothing to rot."""
    with pytest.raises(StorageError):
        may_rot(tmp_path)
