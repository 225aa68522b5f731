"""What every store promises, shown for RocksDB and for the model of it that simulation uses.

The promises of `raftkv.kv.store` are tested on both through the same tests. What a crash may leave is tested on the model with its
generator, and on RocksDB with processes that are killed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import Busy, Corrupt, DirectoryInUse, DiskFull, StateDamaged, StorageError
from raftkv.kv.store import Store, Writes
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ROWS_FILE, ModelStore
from raftkv.storage.disk import OsDisk
from raftkv.storage.store import RocksStore, StoreSettings, storage_error
from tests.storage.store_writer import NUMBER, row

ROOT = Path(__file__).resolve().parents[2]


class Kind(Protocol):
    """One kind of store: makes and opens stores by name, all in one directory."""

    def open(self, name: str = "live") -> Store: ...


class Rocks:
    """RocksDB in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str = "live") -> Store:
        return RocksStore(self._directory / name)


class Model:
    """The model on a simulated disk."""

    def __init__(self) -> None:
        self._disk = SimDisk(random.Random(1))
        self._disk.mkdir("state")

    def open(self, name: str = "live") -> Store:
        return ModelStore(self._disk, f"state/{name}")


@pytest.fixture(params=["rocks", "model"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """Each kind in turn."""
    return Rocks(tmp_path) if request.param == "rocks" else Model()


@pytest.fixture
def store(kind: Kind) -> Iterator[Store]:
    """An empty store."""
    opened = kind.open()
    yield opened
    opened.close()


def rows(store: Store, start: bytes = b"", end: bytes = b"\xff" * 9) -> list[tuple[bytes, bytes]]:
    """All rows in a range."""
    return list(store.scan(start, end))


def test_what_is_written_is_read(store: Store) -> None:
    """A written row is read back, also an empty one and bytes of every kind; a deleted one and one never written are None."""
    store.write({b"a": b"1", b"empty": b"", b"\x00\xff": bytes(range(256))})
    store.write({b"a": b"2", b"gone": b"x"})
    store.write({b"gone": None, b"never": None})
    assert store.get(b"a") == b"2"
    assert store.get(b"empty") == b""
    assert store.get(b"\x00\xff") == bytes(range(256))
    assert store.get(b"gone") is None
    assert store.get(b"never") is None


def test_rows_are_in_the_order_of_their_bytes(store: Store) -> None:
    """A scan yields rows from start up to, not including, end, in the order of unsigned bytes."""
    keys = [b"", b"\x00", b"a", b"a\x00", b"aa", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\x00"]
    store.write({key: key for key in reversed(keys)})
    assert rows(store) == [(key, key) for key in sorted(keys)]
    assert [key for key, _ in store.scan(b"a", b"b")] == [b"a", b"a\x00", b"aa"]
    assert [key for key, _ in store.scan(b"a\x00", b"\x80")] == [b"a\x00", b"aa", b"b", b"\x7f"]
    assert rows(store, b"c", b"c") == []
    assert rows(store, b"c", b"a") == []


def test_a_scan_goes_on_while_other_rows_are_read(store: Store) -> None:
    """Reads, other scans and writes between two rows of a scan change nothing for it: not its rows, not where it ends."""
    store.write({b"%03d" % n: b"x" for n in range(200)})
    for begin in range(0, 190, 7):
        seen = []
        for key, _ in store.scan(b"%03d" % begin, b"%03d" % (begin + 5)):
            seen.append(key)
            assert store.get(b"%03d" % (begin + 6)) == b"x"
            assert len(list(store.scan(b"0", b"00" + bytes([begin % 9 + 49])))) == begin % 9 + 1
            store.write({b"%03d" % (begin + 3): b"x", b"other" + key: bytes(begin)})
        assert seen == [b"%03d" % n for n in range(begin, begin + 5)]


def test_a_scan_is_limited(store: Store) -> None:
    """A scan yields at most `limit` rows, the first ones."""
    store.write({b"%d" % n: b"" for n in range(9)})
    assert [key for key, _ in store.scan(b"3", b"8", limit=2)] == [b"3", b"4"]
    assert [key for key, _ in store.scan(b"7", b"9", limit=5)] == [b"7", b"8"]
    assert list(store.scan(b"3", b"8", limit=0)) == []


def test_a_scan_goes_backwards(store: Store) -> None:
    """Backwards it yields the same rows from the last one on, also when the end is a row, and when there is none behind it."""
    store.write({key: key for key in (b"", b"a", b"a\x00", b"b", b"b\xff", b"\xff")})
    for low, high in ((b"", b"\xff\xff"), (b"a", b"b"), (b"a\x00", b"b\xff"), (b"b", b"c"), (b"c", b"a"), (b"", b"")):
        assert list(store.scan(low, high, backwards=True)) == rows(store, low, high)[::-1]
    assert [key for key, _ in store.scan(b"a", b"z", limit=2, backwards=True)] == [b"b\xff", b"b"]
    store.write({}, [(b"a", b"b")])
    assert [key for key, _ in store.scan(b"", b"b\x00", backwards=True)] == [b"b", b""]


def test_counting_counts_the_rows_of_a_range(store: Store) -> None:
    """`count` says how many rows a scan of the range would yield."""
    store.write({b"k%04d" % n: b"x" for n in range(1000)})
    store.write({b"k%04d" % n: None for n in range(0, 1000, 7)})
    assert store.count(b"k", b"l") == len(rows(store, b"k", b"l")) == 857
    assert store.count(b"k0500", b"k0510") == len(rows(store, b"k0500", b"k0510"))
    assert store.count(b"x", b"y") == 0


def test_a_scan_shows_the_moment_of_the_call(store: Store) -> None:
    """What is written or cleared after `scan` was called does not show, even if it happens before the first row is taken."""
    store.write({b"%03d" % n: b"old" for n in range(500)})
    before = store.scan(b"", b"z")
    store.write({b"%03d" % n: b"new" if n % 2 else None for n in range(500)})
    store.write({b"later": b""}, [(b"", b"z")])
    assert list(before) == [(b"%03d" % n, b"old") for n in range(500)]
    assert rows(store) == [(b"later", b"")]


@pytest.mark.parametrize("backwards", [False, True])
def test_scans_of_a_view_take_turns(store: Store, backwards: bool) -> None:
    """Scans of one view, also with a limit and with rows that are long, find the same in turns as one after another."""
    store.write({b"%d%04d" % (kind, n): b"x" * (n % 7 << 14) for kind in (1, 2, 3) for n in range(700)})
    view = store.view()
    ranges: list[tuple[bytes, bytes, int | None]] = [(b"1", b"2", None), (b"2", b"3", 600), (b"1", b"4", None)]
    alone = [[name for name, _ in view.scan(start, end, limit=limit, backwards=backwards)] for start, end, limit in ranges]
    scans = [view.scan(start, end, limit=limit, backwards=backwards) for start, end, limit in ranges]
    turns: list[list[bytes]] = [[] for _ in scans]
    for turn in zip_longest(*scans):
        for names, found in zip(turns, turn, strict=True):
            if found is not None:
                names.append(found[0])
    assert turns == alone
    assert [len(names) for names in turns] == [700, 600, 2100]
    view.close()


def test_a_view_shows_the_moment_of_the_call_to_another_thread(store: Store) -> None:
    """Gets, scans and counts of a view see one instant, while the store goes on and another thread reads."""
    store.write({b"%03d" % n: b"old" for n in range(300)})
    view = store.view()
    store.write({b"000": b"new", b"extra": b""}, [(b"1", b"2")])
    seen: list[object] = []

    def read() -> None:
        seen.append((view.get(b"000"), view.get(b"150"), view.get(b"extra"), view.get(b"zz")))
        seen.append([(key, view.get(key)) for key, _ in view.scan(b"1", b"102")])
        seen.append((view.count(b"", b"z"), view.count(b"2", b"3")))

    reader = threading.Thread(target=read)
    reader.start()
    reader.join()
    assert seen == [(b"old", b"old", None, None), [(b"100", b"old"), (b"101", b"old")], (300, 100)]
    assert store.count(b"", b"z") == 201
    view.close()
    view.close()
    with pytest.raises(StorageError, match="closed"):
        view.get(b"000")


def test_clearing_comes_before_the_writes_of_the_same_batch(store: Store) -> None:
    """A batch clears its ranges first, so a row in a cleared range that it also writes is there afterwards."""
    store.write({b"a1": b"", b"a2": b"", b"b1": b""})
    store.write({b"a2": b"kept", b"b2": b""}, [(b"a", b"b"), (b"c", b"d")])
    assert rows(store) == [(b"a2", b"kept"), (b"b1", b""), (b"b2", b"")]
    store.write({}, [(b"b", b"c")])
    assert rows(store) == [(b"a2", b"kept")]


def test_flushed_rows_are_there_after_reopening(kind: Kind) -> None:
    """What was flushed survives closing, a clearing included."""
    store = kind.open()
    store.write({b"%d" % n: b"x" for n in range(10)})
    store.flush()
    store.write({b"5": b"y"}, [(b"0", b"3")])
    store.flush()
    expected = rows(store)
    store.close()
    store.close()
    again = kind.open()
    assert rows(again) == expected
    again.close()


def test_a_checkpoint_is_a_store_of_its_own(kind: Kind) -> None:
    """A checkpoint holds everything written before the call, flushed or not, and neither store changes the other."""
    store = kind.open()
    store.write({b"%03d" % n: b"x" * 100 for n in range(200)})
    store.flush()
    store.write({b"unflushed": b""}, [(b"0", b"1")])
    expected = rows(store)
    store.checkpoint(PurePosixPath("copy"))
    store.write({b"later": b""}, [(b"", b"v")])
    store.flush()
    copy = kind.open("copy")
    assert rows(copy) == expected
    copy.write({b"own": b""})
    copy.flush()
    assert rows(store) == [(b"later", b"")]
    copy.close()
    store.close()


def test_a_checkpoint_does_not_overwrite(kind: Kind) -> None:
    """A directory that exists is refused."""
    store = kind.open()
    store.write({b"a": b""})
    store.checkpoint(PurePosixPath("copy"))
    with pytest.raises(StorageError):
        store.checkpoint(PurePosixPath("copy"))
    store.close()


BATCHES = st.lists(
    st.tuples(
        st.dictionaries(st.binary(max_size=2), st.none() | st.binary(max_size=4), max_size=6),
        st.lists(st.tuples(st.binary(max_size=2), st.binary(max_size=2)), max_size=1).map(
            lambda ranges: [(low, high) for low, high in ranges if low <= high]
        ),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(batches=BATCHES, data=st.data())
def test_both_kinds_hold_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[Writes, list[tuple[bytes, bytes]]]], data: st.DataObject
) -> None:
    """After any batches RocksDB and the model hold the same rows, and scans, counts and views of them agree."""
    rocks = RocksStore(tmp_path_factory.mktemp("rocks") / "live")
    model = Model().open()
    for writes, clear in batches:
        rocks.write(writes, clear)
        model.write(writes, clear)
    low, high = data.draw(st.binary(max_size=2)), data.draw(st.binary(max_size=2))
    limit = data.draw(st.none() | st.integers(0, 5))
    assert rows(rocks) == rows(model)
    assert list(rocks.scan(low, high, limit=limit)) == list(model.scan(low, high, limit=limit))
    backwards = list(model.scan(low, high, limit=limit, backwards=True))
    assert list(rocks.scan(low, high, limit=limit, backwards=True)) == backwards
    assert rocks.count(low, high) == model.count(low, high)
    view = rocks.view()
    assert (view.count(low, high), list(view.scan(low, high, limit=limit))) == (
        rocks.count(low, high),
        list(rocks.scan(low, high, limit=limit)),
    )
    assert list(view.scan(low, high, limit=limit, backwards=True)) == backwards
    view.close()
    rocks.close()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(["write", "write", "write", "flush"]), max_size=30))
def test_a_crash_of_the_model_leaves_a_prefix(seed: int, steps: list[str]) -> None:
    """After a crash the model holds the batches up to some point, at least to the last flush, each whole."""
    rng = random.Random(seed)
    disk = SimDisk(rng)
    store = ModelStore(disk, "store", rng)
    number = flushed = 0
    for step in steps:
        if step == "flush":
            store.flush()
            flushed = number
        else:
            number += 1
            store.write({NUMBER: b"%d" % number, row(number, 0): b"x"})
    store.crash(rng)
    check_prefix(ModelStore(disk, "store"), flushed, number)


def test_a_crash_of_the_model_loses_nothing_or_something() -> None:
    """Over many crashes, every length of the lost suffix occurs, none and all of it among them."""
    left = set()
    for seed in range(200):
        disk = SimDisk(random.Random(seed))
        store = ModelStore(disk, "store")
        for number in range(1, 5):
            store.write({NUMBER: b"%d" % number})
        store.crash(random.Random(seed))
        left.add(ModelStore(disk, "store").get(NUMBER))
    assert left == {None, b"1", b"2", b"3", b"4"}


def check_prefix(store: Store, flushed: int, written: int) -> int:
    """`store` holds batches 1 to n of `store_writer`, or of the same shape, with flushed <= n <= written + 1, and nothing else."""
    last = int(store.get(NUMBER) or b"0")
    assert flushed <= last <= written + 1
    first_rows = [key for key, _ in store.scan(b"row-", b"row.") if key.endswith(b"-0")]
    assert first_rows == [row(number, 0) for number in range(1, last + 1)]
    return last


@pytest.mark.parametrize("lines", [3, 150, 700])
def test_a_killed_process_leaves_a_prefix(tmp_path: Path, lines: int) -> None:
    """A process that writes into RocksDB and is killed leaves the batches up to some point: each whole, none left out, and at least
    those before the last flush that returned. What is left can be written to, and killed, again."""
    path = tmp_path / "live"
    before = 0
    for round_number in range(2):
        written, flushed = kill_a_writer(path, lines + 61 * round_number)
        store = RocksStore(path)
        before = check_prefix(store, max(flushed, before if round_number == 0 else 0), written)
        extra = [key for key, _ in store.scan(b"row-", b"row.") if key.endswith(b"-1")]
        assert extra == [row(number, 1) for number in range(max(1, before - 4), before + 1)]
        store.close()


def kill_a_writer(path: Path, lines: int) -> tuple[int, int]:
    """Start `store_writer`, kill it after `lines` lines; (last batch written, last batch flushed) as far as it said."""
    command = [sys.executable, "-m", "tests.storage.store_writer", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        said = process.stdout
        assert said is not None
        told = [said.readline() for _ in range(lines)]
        process.kill()
        told += [line for line in said.readlines() if line.endswith(b"\n")]
    said_of = {letter: [int(line[2:]) for line in told if line.startswith(letter)] for letter in (b"w", b"f")}
    return said_of[b"w"][-1], (said_of[b"f"] or [0])[-1]


def test_a_store_is_opened_once(tmp_path: Path) -> None:
    """The second opening of a directory is refused, and closing the first frees it even if a scan of it was left unfinished."""
    store = RocksStore(tmp_path / "live")
    store.write({b"a": b"", b"b": b""})
    unfinished = store.scan(b"", b"z")
    next(unfinished)
    with pytest.raises(DirectoryInUse):
        RocksStore(tmp_path / "live")
    store.close()
    del unfinished
    RocksStore(tmp_path / "live").close()


def test_a_damaged_table_is_noticed_by_every_kind_of_read(tmp_path: Path) -> None:
    """Where a table is damaged, get, scan, count and view raise Corrupt and never end early as if there were no more rows."""
    store = RocksStore(tmp_path / "live")
    store.write({b"%05d" % n: random.Random(n).randbytes(200) for n in range(2000)})
    store.flush()
    store.close()
    [table] = (tmp_path / "live").glob("*.sst")
    disk = OsDisk(tmp_path)
    file = disk.open(f"live/{table.name}")
    file.write_at(file.size() // 2, b"\x55\xaa" * 8)
    file.close()
    store = RocksStore(tmp_path / "live")
    view = store.view()
    with pytest.raises(Corrupt, match="restart the node"):
        list(store.scan(b"", b"z"))
    with pytest.raises(Corrupt):
        store.count(b"", b"z")
    with pytest.raises(Corrupt):
        [store.get(b"%05d" % n) for n in range(2000)]
    with pytest.raises(Corrupt):
        list(view.scan(b"", b"z"))
    with pytest.raises(Corrupt):
        [view.get(b"%05d" % n) for n in range(2000)]
    view.close()
    store.close()


def test_a_store_that_cannot_keep_up_refuses_a_write_and_stays_whole(tmp_path: Path) -> None:
    """Writes that come faster than RocksDB flushes are refused with Busy, have no effect, and succeed after a flush."""
    store = RocksStore(tmp_path / "live", StoreSettings(memtable_bytes=64 << 10, memtables=2))
    written = refused = 0
    while refused < 3 and written < 5000:
        try:
            store.write({b"%08d" % written: b"x" * 60_000, b"last": b"%d" % written})
            written += 1
        except Busy:
            refused += 1
            assert store.get(b"%08d" % written) is None
            assert store.get(b"last") == b"%d" % (written - 1)
            store.flush()
    assert refused
    assert store.count(b"0", b"9") == written
    store.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Result incomplete: Write stall", Busy),
        ("IO error: No space left on device: While appending to file: x: No space left on device", DiskFull),
        ("Corruption: block checksum mismatch", StateDamaged),
        ("IO error: lock hold by current process, acquire time 1", DirectoryInUse),
        ("IO error: While lock file: x/LOCK: Resource temporarily unavailable", DirectoryInUse),
        ("Shutdown in progress: ", StorageError),
    ],
)
def test_errors_of_rocksdb_are_told_apart(text: str, expected: type[Exception]) -> None:
    """RocksDB's errors have no types; their text decides which of ours they become, and the text is kept."""
    error = storage_error("write", Path("live"), Exception(text))
    assert type(error) is expected
    assert text in str(error)


def test_a_closed_store_says_so(kind: Kind) -> None:
    """Using a store after closing it is an error of the machine, never an empty answer."""
    store = kind.open()
    store.write({b"a": b""})
    store.close()
    with pytest.raises(StorageError):
        store.get(b"a")
    with pytest.raises(StorageError):
        store.write({b"a": b""})
    with pytest.raises(StorageError):
        store.scan(b"", b"z")


def test_a_path_without_a_parent_is_refused(tmp_path: Path) -> None:
    """RocksDB would make every missing directory of a mistyped path; the store does not."""
    with pytest.raises(StorageError, match="does not exist"):
        RocksStore(tmp_path / "no" / "such" / "live")


def test_a_damaged_file_of_the_model_is_noticed() -> None:
    """The model, too, has a checksum."""
    disk = SimDisk(random.Random(0))
    store = ModelStore(disk, "store")
    store.write({b"a": b"1"})
    store.flush()
    disk.flip(f"store/{ROWS_FILE}", 6)
    with pytest.raises(Corrupt):
        ModelStore(disk, "store")


def test_the_model_refuses_writes_when_told() -> None:
    """The model can say Busy as RocksDB does, and a refused write has no effect."""
    store = ModelStore(SimDisk(random.Random(0)), "store", random.Random(3), refusals=0.5)
    taken: dict[bytes, bytes] = {}
    refused = 0
    for number in range(100):
        try:
            store.write({b"%d" % number: b""})
            taken[b"%d" % number] = b""
        except Busy:
            refused += 1
    assert refused > 20
    assert dict(rows(store)) == taken
