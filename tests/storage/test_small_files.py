"""Identity, hard state, manifest, and the disks themselves."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from raftkv.errors import Corrupt, DirectoryInUse, DiskFull, InvariantBroken, StorageError
from raftkv.raft.types import Configuration, HardState, Member, SnapshotMeta
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.storage.disk import Disk, OsDisk, read_file, replace_file, storage_error
from raftkv.storage.hard_state import create_hard_state, open_hard_state
from raftkv.storage.identity import (
    Identity,
    cluster_id,
    create_identity,
    draw_incarnation,
    identity_exists,
    load_identity,
)
from raftkv.storage.manifest import Manifest, SegmentEntry, load_manifest, store_manifest
from raftkv.storage.wal import Wal
from tests.storage.log_model import IDENTITY, SMALL

MEMBERS = (Member("n1", 0, "a:1"), Member("n2", 0, "b:1"), Member("n3", 0, "c:1"))


def new_disk() -> SimDisk:
    """An empty disk."""
    return SimDisk(random.Random(1))


def with_log(disk: SimDisk) -> SimDisk:
    """A disk with a new log, and no identity."""
    Wal.open(disk, SMALL).close()
    return disk


def test_a_cluster_is_named_by_its_name_and_its_members() -> None:
    """In whatever order they are listed; any difference in name, id or address makes another cluster."""
    base = cluster_id("c", MEMBERS)
    assert len(base) == 16
    assert cluster_id("c", reversed(MEMBERS)) == base
    assert cluster_id("c", [Member(member.id, 5, member.peer_address) for member in MEMBERS]) == base
    others = [
        cluster_id("d", MEMBERS),
        cluster_id("c", MEMBERS[:2]),
        cluster_id("c", (*MEMBERS[:2], Member("n3", 0, "c:2"))),
        cluster_id("cn1", [Member("", 0, "a:1"), *MEMBERS[1:]]),
    ]
    assert len({base, *others}) == 5


def test_incarnations_differ_and_are_in_range() -> None:
    """Two directories are never taken for the same."""
    drawn = {draw_incarnation() for _ in range(100)}
    assert len(drawn) == 100
    assert all(1 <= number < 1 << 63 for number in drawn)


def test_an_identity_is_read_back_from_either_copy() -> None:
    """Whichever copy is damaged or missing, it is made again from the other."""
    identity = Identity(cluster_id("c", MEMBERS), "c", "n2", draw_incarnation(), 0, MEMBERS)
    spoil: list[Callable[[SimDisk, str], None]] = [
        lambda disk, path: disk.flip(path, 15),
        lambda disk, path: disk.shorten(path, 3),
        lambda disk, path: disk.shorten(path, 0),
        lambda disk, path: disk.delete(path),
    ]
    for path in ("identity.1", "identity.2"):
        for act in spoil:
            disk = with_log(new_disk())
            create_identity(disk, identity)
            act(disk, path)
            assert load_identity(disk) == identity
            disk.crash(Survival.LOST)
            assert disk.content("identity.1") == disk.content("identity.2")
            assert load_identity(disk) == identity


def test_without_a_sound_copy_the_node_does_not_start() -> None:
    """Never a default: a node with another identity is another node."""
    disk = with_log(new_disk())
    create_identity(disk, IDENTITY)
    disk.flip("identity.1", 30)
    disk.delete("identity.2")
    with pytest.raises(Corrupt, match=r"identity\.1: its checksum does not match; identity\.2: missing"):
        load_identity(disk)


def test_copies_that_contradict_each_other_are_refused() -> None:
    """Somebody has mixed two directories."""
    disk, other = with_log(new_disk()), with_log(new_disk())
    create_identity(disk, IDENTITY)
    create_identity(other, Identity(bytes(16), "other", "n1", 8, 0, ()))
    disk.put("identity.2", other.content("identity.2"))
    with pytest.raises(Corrupt, match="differs from the other"):
        load_identity(disk)


def test_an_identity_is_created_once_and_last() -> None:
    """Not twice, and not before the log."""
    with pytest.raises(InvariantBroken, match="log must be created"):
        create_identity(new_disk(), IDENTITY)
    disk = with_log(new_disk())
    assert not identity_exists(disk)
    assert load_identity(disk) is None
    create_identity(disk, IDENTITY)
    with pytest.raises(InvariantBroken, match="never changes"):
        create_identity(disk, IDENTITY)


def test_a_crash_while_the_identity_is_created_leaves_all_of_it_or_none() -> None:
    """At any operation, with any fate of what was not synced."""
    for survival in Survival:
        operation = 0
        crashed = True
        while crashed:
            operation += 1
            disk = with_log(new_disk())
            disk.crash_at(disk.operations + operation)
            try:
                create_identity(disk, IDENTITY)
                crashed = False
                disk.restart()
            except Crashed:
                disk.crash(survival)
            wal = Wal.open(disk, SMALL)
            found = load_identity(disk)
            assert found in (None, IDENTITY)
            assert wal.recovered.created == (found is None)
            if found is None:
                create_identity(disk, IDENTITY)
            wal.close()
            assert Wal.open(disk, SMALL).recovered.created is False


def test_a_hard_state_survives_every_crash_in_its_writing() -> None:
    """It is the old one or the new one, and the new one once the call has returned."""
    old, new = HardState(4, "n1"), HardState(5, None)
    for survival in Survival:
        for operation in range(1, 6):
            disk = new_disk()
            file = create_hard_state(disk)
            file.write(old)
            disk.crash_at(disk.operations + operation)
            try:
                file.write(new)
                allowed = [new]
            except Crashed:
                allowed = [old, new]
            disk.crash(survival)
            found = open_hard_state(disk)
            assert found.current in allowed
            disk.crash(Survival.LOST)
            assert open_hard_state(disk).current == found.current


def test_two_states_under_one_number_are_refused() -> None:
    """Slots of two directories in one file."""
    disk, other = new_disk(), new_disk()
    create_hard_state(disk).write(HardState(2, "n1"))
    create_hard_state(other).write(HardState(2, "n2"))
    disk.overwrite("hard_state", 4096, other.content("hard_state")[4096:])
    with pytest.raises(Corrupt, match="term and vote cannot be known"):
        open_hard_state(disk)


def test_a_file_cut_behind_its_first_slot_is_repaired() -> None:
    """The first slot is enough."""
    disk = new_disk()
    create_hard_state(disk).write(HardState(2, "n1"))
    disk.shorten("hard_state", 2000)
    assert open_hard_state(disk).current == HardState(2, "n1")
    disk.overwrite("hard_state", 0, bytes(100))
    assert open_hard_state(disk).current == HardState(2, "n1")


def test_a_manifest_is_read_back_and_judged() -> None:
    """It holds the beginning with its configuration; a list of segments that makes no sense is refused."""
    disk = new_disk()
    begin = SnapshotMeta(7, 2, Configuration(MEMBERS, ("n1", "n2", "n3")))
    manifest = Manifest(0, begin, (SegmentEntry(3, 8192, 5000, 9, 77), SegmentEntry(4, 8192)), 12)
    store_manifest(disk, "manifest", manifest)
    disk.crash(Survival.LOST)
    assert load_manifest(disk, "manifest") == manifest
    for segments in ((), (SegmentEntry(4, 8192), SegmentEntry(3, 8192)), (SegmentEntry(3, 8192), SegmentEntry(3, 8192))):
        store_manifest(disk, "manifest", Manifest(0, begin, segments))
        with pytest.raises(Corrupt, match="growing row"):
            load_manifest(disk, "manifest")


def test_replacing_a_file_leaves_the_old_content_or_the_new() -> None:
    """At any crash; and the old one when there is no space."""
    for survival in Survival:
        for operation in range(1, 8):
            disk = new_disk()
            replace_file(disk, "file", b"old")
            disk.crash_at(disk.operations + operation)
            try:
                replace_file(disk, "file", b"new content")
                allowed = [b"new content"]
            except Crashed:
                allowed = [b"old", b"new content"]
            disk.crash(survival)
            assert disk.content("file") in allowed
    disk = new_disk()
    replace_file(disk, "file", b"old")
    disk.capacity_bytes = 5
    with pytest.raises(DiskFull):
        replace_file(disk, "file", b"new content")
    assert disk.files() == {"file": b"old"}


def test_a_small_file_that_is_large_is_not_read() -> None:
    """Memory is bounded before it is taken."""
    disk = new_disk()
    disk.put("file", bytes(100))
    assert read_file(disk, "file", 100) == bytes(100)
    with pytest.raises(Corrupt, match="never has more than 99"):
        read_file(disk, "file", 99)


@pytest.fixture(params=["simulated", "real"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """A disk of each kind: what holds of one holds of the other."""
    return new_disk() if request.param == "simulated" else OsDisk(tmp_path)


def test_files_hold_what_is_written(disk: Disk) -> None:
    """Writes, reads past the end, growth, truncation."""
    file = disk.create("a")
    assert file.path == "a"
    file.preallocate(100)
    assert file.size() == 100
    assert file.read_at(0, 1000) == bytes(100)
    file.write_at(90, b"x" * 20)
    file.sync()
    assert file.size() == 110
    assert file.read_at(85, 10) == bytes(5) + b"x" * 5
    assert file.read_at(105, 10) == b"x" * 5
    assert file.read_at(200, 10) == b""
    file.truncate(95)
    file.preallocate(50)
    assert file.size() == 95
    file.close()
    file.close()
    again = disk.open("a")
    assert again.read_at(89, 10) == b"\0xxxxx"
    again.close()
    with pytest.raises(StorageError):
        again.read_at(0, 1)
    assert disk.free_space() > 0


def test_names_do_what_is_asked(disk: Disk) -> None:
    """Creation, listing, renaming, links, removal; and clear errors where they cannot."""
    disk.mkdir("d")
    disk.mkdir("d")
    disk.mkdir("d/e")
    disk.create("d/e/x").write_at(0, b"1")
    disk.create("y").write_at(0, b"2")
    disk.hard_link("y", "d/z")
    assert disk.list("") == ["d", "y"]
    assert disk.list("d") == ["e", "z"]
    disk.rename("d/z", "d/e/x")
    assert read_file(disk, "d/e/x", 10) == b"2"
    disk.rename("d/e", "f")
    assert disk.exists("f/x")
    assert not disk.exists("d/e")
    disk.unlink("y")
    disk.sync_directory("")
    disk.sync_directory("f")
    disk.remove_tree("f")
    disk.remove_tree("f")
    assert disk.list("") == ["d"]
    failing: list[Callable[[], object]] = [
        lambda: disk.open("nothing"),
        lambda: disk.list("nothing"),
        lambda: disk.unlink("nothing"),
        lambda: disk.rename("nothing", "other"),
        lambda: disk.hard_link("nothing", "other"),
        lambda: disk.sync_directory("nothing"),
        lambda: disk.create("nothing/below"),
    ]
    for act in failing:
        with pytest.raises(StorageError):
            act()
    disk.create("a")
    with pytest.raises(StorageError):
        disk.create("a")


def test_a_lock_is_shared_within_one_disk(disk: Disk) -> None:
    """Two parts of one program may hold it together."""
    first, second = disk.lock("LOCK"), disk.lock("LOCK")
    first.release()
    first.release()
    second.release()
    disk.lock("LOCK").release()


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    """Until the last share is released."""
    one, other = OsDisk(tmp_path), OsDisk(tmp_path)
    first, second = one.lock("LOCK"), one.lock("LOCK")
    for lock in (first, second):
        with pytest.raises(DirectoryInUse, match="in use by another process"):
            other.lock("LOCK")
        lock.release()
    other.lock("LOCK").release()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", ".", "c:x", "a\\b"])
def test_a_path_never_leaves_the_directory(tmp_path: Path, path: str) -> None:
    """Whatever a name in a manifest says."""
    with pytest.raises(StorageError, match="not a path below"):
        OsDisk(tmp_path / "data").open(path)


def test_errors_of_the_system_are_told_apart() -> None:
    """No space is a DiskFull, whose outcome is definite; everything else is not."""
    full = storage_error("write", "a", OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(full, DiskFull)
    assert full.definite
    failed = storage_error("sync", "a", OSError(errno.EIO, "Input/output error"))
    assert str(failed) == "cannot sync a: Input/output error"
    assert not isinstance(failed, DiskFull)


def test_a_simulated_crash_keeps_what_was_synced_and_no_more_than_was_written() -> None:
    """The model of the disk itself: bytes by their file's sync, names by their directory's."""
    disk = new_disk()
    disk.mkdir("d")
    disk.sync_directory("")
    synced = disk.create("d/synced")
    synced.write_at(0, b"kept")
    synced.sync()
    unnamed = disk.create("unnamed")
    unnamed.write_at(0, b"content without a name")
    unnamed.sync()
    disk.sync_directory("d")
    synced.write_at(0, b"lost")
    disk.rename("d/synced", "d/renamed")
    disk.crash(Survival.LOST)
    assert disk.files() == {"d/synced": b"kept"}
    with pytest.raises(StorageError, match="not open"):
        synced.read_at(0, 1)


def test_a_simulated_restart_of_the_process_loses_nothing() -> None:
    """What was not synced stays in the page cache, and is lost only when the machine crashes."""
    disk = new_disk()
    disk.create("a").write_at(0, b"x")
    disk.crash(Survival.CLEAN)
    assert disk.files() == {"a": b"x"}
    disk.crash(Survival.LOST)
    assert disk.files() == {}


def test_a_simulated_failed_sync_is_never_made_good_by_another() -> None:
    """The bytes go on being seen, a second sync succeeds, and the crash shows that they were not there."""
    disk = new_disk()
    file = disk.create("a")
    disk.sync_directory("")
    file.write_at(0, b"x")
    disk.fail_at(disk.operations + 1, StorageError("cannot sync a"))
    with pytest.raises(StorageError):
        file.sync()
    file.sync()
    assert disk.content("a") == b"x"
    disk.crash(Survival.LOST)
    assert disk.content("a") == b""


def test_a_simulated_reordering_crash_tears_by_sectors_and_repeats_itself() -> None:
    """Each sector survives or not; the same seed gives the same fate."""
    fates = set()
    for seed in range(40):
        contents = []
        for _ in range(2):
            disk = SimDisk(random.Random(seed))
            file = disk.create("a")
            file.preallocate(2048)
            file.sync()
            disk.sync_directory("")
            file.write_at(0, b"x" * 2048)
            disk.crash(Survival.REORDERED)
            contents.append(disk.content("a"))
        assert contents[0] == contents[1]
        sectors = tuple(contents[0][at : at + 512] for at in range(0, 2048, 512))
        assert set(sectors) <= {bytes(512), b"x" * 512}
        fates.add(sectors)
    assert len(fates) > 8
