"""The thread that writes the log: order, grouping, sealing, a full disk, errors. Nothing here sleeps; every wait has a deadline."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import pytest

from raftkv.errors import Busy, InvalidSettings, StorageError
from raftkv.raft.types import HardState, SnapshotMeta
from raftkv.sim.disk import SimDisk, Survival
from raftkv.storage.wal import LogWrite, Wal
from raftkv.storage.writer import LogThread, WriterSettings
from tests.storage.log_model import SMALL, Driver, entries, entry

DEADLINE_SECONDS = 20
SEGMENT = "wal/000000000001.log"


class Gate:
    """Holds the thread before chosen operations of the disk until it is opened."""

    def __init__(self, disk: SimDisk) -> None:
        self._changed = threading.Condition()
        self._closed_for: str | None = None
        self._waiting = False
        self._passed: list[str] = []
        disk.before_operation = self._before

    def close(self, operation: str) -> None:
        with self._changed:
            self._closed_for = operation

    def open(self) -> None:
        with self._changed:
            self._closed_for = None
            self._changed.notify_all()

    def wait_until_held(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting, DEADLINE_SECONDS), "the thread did not come to the gate"

    def wait_until_passed(self, operation: str, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._passed.count(operation) >= count, DEADLINE_SECONDS), operation

    def passed(self, operation: str) -> int:
        with self._changed:
            return self._passed.count(operation)

    def _before(self, kind: str, path: str) -> None:
        operation = f"{kind} {path}"
        with self._changed:
            if operation == self._closed_for:
                self._waiting = True
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: self._closed_for != operation, DEADLINE_SECONDS), "the gate was never opened"
                self._waiting = False
            self._passed.append(operation)
            self._changed.notify_all()


class Heard:
    """What the thread reported, in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.events: list[object] = []

    def hear(self, event: object) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, told: Callable[[list[object]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: told(self.events), DEADLINE_SECONDS), self.events


class Bench:
    """A thread on a simulated disk."""

    def __init__(self, settings: WriterSettings | None = None, clock: Callable[[], float] | None = None) -> None:
        self.disk = SimDisk(random.Random(1))
        driver = Driver(self.disk)
        self.wal: Wal = driver.open()
        self.gate = Gate(self.disk)
        self.heard = Heard()
        self.thread = LogThread(
            self.wal,
            self.heard.hear,
            self.heard.hear,
            lambda full: self.heard.hear("full" if full else "space"),
            settings or WriterSettings(idle_seconds=1000, retry_seconds=1000, max_group_bytes=4000),
            clock or (lambda: 0.0),
        )

    def recovered(self) -> Wal:
        self.disk.before_operation = None
        self.disk.crash(Survival.LOST)
        return Wal.open(self.disk, SMALL)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A thread that neither seals by itself nor retries by itself."""
    made = Bench()
    yield made
    made.gate.open()
    made.thread.close(DEADLINE_SECONDS)


def test_what_is_reported_is_durable_and_in_order(bench: Bench) -> None:
    """Whatever is lost by a crash, nothing that was reported is."""
    for number in range(1, 51):
        bench.thread.submit(LogWrite(number, HardState(number // 10 + 1), None, entries(number, number), number - 1))
    bench.heard.wait_for(lambda events: 50 in events)
    numbers = [event for event in bench.heard.events if isinstance(event, int)]
    assert numbers == sorted(numbers) == bench.heard.events
    assert bench.recovered().last_index == 50


def test_nothing_is_reported_before_the_sync_has_returned(bench: Bench) -> None:
    """A reply that leaves before the fsync it speaks of acknowledges what a crash takes away (hazard 3)."""
    bench.gate.close(f"sync {SEGMENT}")
    bench.thread.submit(LogWrite(1, entries=entries(1, 1)))
    bench.gate.wait_until_held()
    assert bench.heard.events == []
    assert bench.wal.last_index == 0
    bench.gate.open()
    bench.heard.wait_for(lambda events: events == [1])


def test_all_that_arrives_during_a_sync_shares_the_next_one(bench: Bench) -> None:
    """Group commit: ten writes that wait take one write and one sync of the disk, and one report."""
    bench.gate.close(f"sync {SEGMENT}")
    bench.thread.submit(LogWrite(1, entries=entries(1, 1)))
    bench.gate.wait_until_held()
    for number in range(2, 12):
        bench.thread.submit(LogWrite(number, entries=entries(number, number)))
    assert bench.thread.backlog_bytes > 10 * 40
    before = bench.gate.passed(f"sync {SEGMENT}")
    bench.gate.open()
    bench.heard.wait_for(lambda events: 11 in events)
    assert bench.heard.events == [1, 11]
    assert bench.gate.passed(f"sync {SEGMENT}") - before == 2
    assert bench.recovered().last_index == 11


def test_a_group_is_bounded_by_bytes() -> None:
    """A backlog is written in groups of a bounded size, a single larger write alone."""
    bench = Bench(WriterSettings(idle_seconds=1000, max_group_bytes=1000))
    bench.gate.close(f"sync {SEGMENT}")
    bench.thread.submit(LogWrite(1, entries=entries(1, 1)))
    bench.gate.wait_until_held()
    bench.thread.submit(LogWrite(2, entries=(entry(2, 1, 2000),)))
    for number in range(3, 7):
        bench.thread.submit(LogWrite(number, entries=(entry(number, 1, 300),)))
    bench.gate.open()
    bench.heard.wait_for(lambda events: 6 in events)
    assert bench.heard.events == [1, 2, 4, 6]
    bench.thread.close(DEADLINE_SECONDS)


def test_a_backlog_beyond_its_bound_is_refused() -> None:
    """The queue cannot grow without limit; what is refused is not written."""
    bench = Bench(WriterSettings(idle_seconds=1000, max_group_bytes=1000, max_backlog_bytes=1000))
    bench.gate.close(f"sync {SEGMENT}")
    bench.thread.submit(LogWrite(1, entries=entries(1, 1)))
    bench.gate.wait_until_held()
    bench.thread.submit(LogWrite(2, entries=(entry(2, 1, 600),)))
    with pytest.raises(Busy, match="bytes wait"):
        bench.thread.submit(LogWrite(3, entries=(entry(3, 1, 600),)))
    bench.gate.open()
    bench.heard.wait_for(lambda events: 2 in events)
    bench.thread.submit(LogWrite(3, entries=(entry(3, 1, 600),)))
    bench.heard.wait_for(lambda events: 3 in events)
    assert bench.thread.backlog_bytes == 0
    bench.thread.close(DEADLINE_SECONDS)


def test_an_idle_log_is_sealed_once() -> None:
    """Shortly after the last write, and not again until something is written."""
    bench = Bench(WriterSettings(idle_seconds=0.001))
    bench.thread.submit(LogWrite(1, entries=entries(1, 1)))
    bench.heard.wait_for(lambda events: events == [1])
    bench.gate.wait_until_passed(f"sync {SEGMENT}", 2)
    bench.thread.submit(LogWrite(2, entries=entries(2, 2)))
    bench.gate.wait_until_passed(f"sync {SEGMENT}", 4)
    bench.thread.close(DEADLINE_SECONDS)
    assert bench.gate.passed(f"sync {SEGMENT}") == 4
    assert bench.recovered().last_index == 2


def test_closing_writes_what_is_queued_and_seals(bench: Bench) -> None:
    """An orderly stop loses nothing, and the next start appends in place."""
    for number in range(1, 6):
        bench.thread.submit(LogWrite(number, entries=entries(number, number)))
    assert bench.thread.close(DEADLINE_SECONDS)
    assert bench.heard.events[-1] == 5
    with pytest.raises(StorageError, match="being closed"):
        bench.thread.submit(LogWrite(6, entries=entries(6, 6)))
    assert bench.recovered().last_index == 5
    assert bench.disk.list("wal") == ["000000000001.log", "manifest"]


def test_a_disk_that_hangs_shows_in_the_age_of_its_sync() -> None:
    """Hazard 46: the node can tell that its disk does not answer, while it does not."""
    now = [100.0]
    bench = Bench(WriterSettings(idle_seconds=1000), clock=lambda: now[0])
    assert bench.thread.fsync_age_seconds == 0
    bench.gate.close(f"sync {SEGMENT}")
    bench.thread.submit(LogWrite(1, entries=entries(1, 1)))
    bench.gate.wait_until_held()
    now[0] += 2.5
    assert bench.thread.fsync_age_seconds == 2.5
    assert not bench.thread.close(timeout_seconds=0)
    bench.gate.open()
    assert bench.thread.close(DEADLINE_SECONDS)
    assert bench.thread.fsync_age_seconds == 0
    assert bench.thread.last_fsync_seconds == 2.5


def test_an_error_ends_the_thread_and_is_told_once(bench: Bench) -> None:
    """Nothing of the failed group is reported, and later calls are refused with the reason."""
    bench.thread.submit(LogWrite(1, entries=entries(1, 1)))
    bench.heard.wait_for(lambda events: events == [1])
    bench.disk.fail_at(bench.disk.operations + 2, StorageError("cannot sync: Input/output error"))
    bench.thread.submit(LogWrite(2, entries=entries(2, 2)))
    bench.heard.wait_for(lambda events: len(events) == 2)
    assert isinstance(bench.heard.events[1], StorageError)
    assert bench.thread.close(DEADLINE_SECONDS)
    with pytest.raises(StorageError, match="Input/output error"):
        bench.thread.submit(LogWrite(3, entries=entries(3, 3)))
    with pytest.raises(StorageError, match="Input/output error"):
        bench.thread.compact(SnapshotMeta(1, 1))
    assert len(bench.heard.events) == 2
    assert bench.recovered().last_index in (1, 2)


def test_a_bug_ends_the_thread_loudly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken invariant is told like an error of the disk, and shown by the threading module too."""
    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    bench.thread.submit(LogWrite(1, entries=entries(7, 7)))
    bench.heard.wait_for(lambda events: len(events) == 1)
    assert "InvariantBroken" in str(bench.heard.events[0])
    assert bench.thread.close(DEADLINE_SECONDS)
    assert len(shown) == 1


def _fill(bench: Bench, writes: int = 1, spare_bytes: int = 1000) -> None:
    """So many segments, each with one write, the space of one more taken, and otherwise space for a manifest."""
    for number in range(1, writes + 1):
        bench.thread.submit(LogWrite(number, entries=(entry(number, 1, 3500),), commit=number))
        bench.heard.wait_for(lambda events, number=number: number in events)  # type: ignore[misc]
    bench.gate.wait_until_passed("sync wal/spare", writes)
    bench.disk.capacity_bytes = sum(map(len, bench.disk.files().values())) + spare_bytes


def _told(bench: Bench) -> list[object]:
    return [event for event in bench.heard.events if isinstance(event, str)]


def test_a_filling_disk_is_told_while_there_is_room_for_what_is_under_way(bench: Bench) -> None:
    """When the space of the segment after the next is not to be had, writes go on, and whoever takes new ones in knows."""
    _fill(bench)
    bench.thread.submit(LogWrite(2, entries=(entry(2, 1, 3000),)))
    bench.heard.wait_for(lambda events: "full" in events)
    assert bench.thread.is_full
    bench.thread.submit(LogWrite(3, entries=(entry(3, 1, 20),)))
    bench.heard.wait_for(lambda events: 3 in events)
    bench.disk.capacity_bytes = None
    bench.thread.retry()
    bench.heard.wait_for(lambda events: "space" in events)
    assert not bench.thread.is_full
    assert _told(bench) == ["full", "space"]
    assert bench.recovered().last_index == 3


def test_a_full_disk_keeps_writes_waiting_until_there_is_space(bench: Bench) -> None:
    """Nothing is lost or reordered; full and space are each told once, and reads go on."""
    _fill(bench)
    for number in range(2, 6):
        bench.thread.submit(LogWrite(number, entries=(entry(number, 1, 3000),)))
    bench.heard.wait_for(lambda events: "full" in events and 2 in events)
    bench.gate.wait_until_passed("preallocate wal/000000000003.log", 1)
    assert bench.wal.read(1, 1, 1) == [entry(1, 1, 3500)]
    bench.thread.retry()
    bench.gate.wait_until_passed("preallocate wal/000000000003.log", 2)
    bench.thread.submit(LogWrite(6, entries=(entry(6, 1, 10),)))
    assert 3 not in bench.heard.events
    bench.disk.capacity_bytes = None
    bench.thread.retry()
    bench.heard.wait_for(lambda events: 6 in events and "space" in events)
    assert _told(bench) == ["full", "space"]
    assert bench.recovered().last_index == 6


def test_a_full_disk_is_tried_again_by_itself() -> None:
    """Also if nobody says that there is space, whether writes wait or not."""
    for waiting in (False, True):
        bench = Bench(WriterSettings(idle_seconds=1000, retry_seconds=0.001, max_group_bytes=4000))
        _fill(bench)
        bench.thread.submit(LogWrite(2, entries=(entry(2, 1, 3000),)))
        bench.heard.wait_for(lambda events: "full" in events)
        if waiting:
            bench.thread.submit(LogWrite(3, entries=(entry(3, 1, 3000),)))
            bench.gate.wait_until_passed("preallocate wal/000000000003.log", 2)
        else:
            bench.gate.wait_until_passed("preallocate wal/spare", 3)
        bench.disk.capacity_bytes = None
        bench.heard.wait_for(lambda events, waiting=waiting: "space" in events and (not waiting or 3 in events))  # type: ignore[misc]
        assert bench.thread.close(DEADLINE_SECONDS)


def test_compaction_overtakes_writes_that_wait_for_space(bench: Bench) -> None:
    """It is what gives space back; waiting behind them it never would."""
    _fill(bench, writes=4)
    bench.thread.submit(LogWrite(5, entries=(entry(5, 1, 3000),)))
    bench.thread.submit(LogWrite(6, entries=(entry(6, 1, 3000),)))
    bench.heard.wait_for(lambda events: "full" in events and 5 in events)
    bench.gate.wait_until_passed("preallocate wal/000000000006.log", 1)
    assert 6 not in bench.heard.events
    bench.thread.compact(SnapshotMeta(6, 1))  # which has to wait, because the log does not hold that yet
    bench.thread.compact(SnapshotMeta(3, 1))
    bench.heard.wait_for(lambda events: 6 in events)
    assert bench.thread.close(DEADLINE_SECONDS)
    assert bench.recovered().first_index == 7


def test_closing_with_a_full_disk_ends_without_the_waiting_writes(bench: Bench) -> None:
    """They were never reported, so nobody counts on them."""
    _fill(bench)
    bench.thread.submit(LogWrite(2, entries=(entry(2, 1, 3000),)))
    bench.thread.submit(LogWrite(3, entries=(entry(3, 1, 3000),)))
    bench.heard.wait_for(lambda events: 2 in events and "full" in events)
    assert bench.thread.close(DEADLINE_SECONDS)
    assert 3 not in bench.heard.events
    assert bench.recovered().last_index == 2


def test_compaction_waits_its_turn(bench: Bench) -> None:
    """It happens after the writes queued before it, and writes go on after it."""
    bench.gate.close(f"sync {SEGMENT}")
    bench.thread.submit(LogWrite(1, entries=entries(1, 5), commit=4))
    bench.gate.wait_until_held()
    bench.thread.compact(SnapshotMeta(3, 1))
    bench.thread.submit(LogWrite(2, entries=entries(6, 6)))
    bench.gate.open()
    bench.heard.wait_for(lambda events: 2 in events)
    assert (bench.wal.first_index, bench.wal.last_index) == (4, 6)
    assert bench.recovered().first_index == 4


def test_suspicion_is_cleared_through_the_thread() -> None:
    """The node says when it is over; a restart then agrees."""
    bench = Bench()
    bench.thread.submit(LogWrite(1, entries=entries(1, 2)))
    bench.heard.wait_for(lambda events: events == [1])
    bench.gate.open()
    bench.disk.flip(SEGMENT, bench.disk.content(SEGMENT).index(b"2/1 "))
    wal = bench.recovered()
    assert wal.suspect == 2
    thread = LogThread(wal, bench.heard.hear, bench.heard.hear)
    thread.clear_suspect()
    assert thread.close(DEADLINE_SECONDS)
    assert bench.recovered().suspect is None


def test_settings_out_of_range_are_named() -> None:
    """With the value and the rule."""
    with pytest.raises(InvalidSettings, match="idle_seconds is 0; it must be above 0"):
        WriterSettings(idle_seconds=0)
    with pytest.raises(InvalidSettings, match="max_group_bytes is 9; it must be at most max_backlog_bytes"):
        WriterSettings(max_group_bytes=9, max_backlog_bytes=8)


def test_compaction_needs_no_space_of_its_own(bench: Bench) -> None:
    """Without space for the manifest it gives up the space that was taken ahead."""
    _fill(bench, spare_bytes=0)
    bench.thread.compact(SnapshotMeta(1, 1))
    bench.gate.wait_until_passed("unlink wal/spare", 1)
    assert bench.thread.close(DEADLINE_SECONDS)
    assert bench.recovered().first_index == 2


def test_compaction_without_any_space_is_tried_again(bench: Bench) -> None:
    """It waits like a write does, and does not spin."""
    _fill(bench)
    bench.thread.submit(LogWrite(2, entries=(entry(2, 1, 3000),)))
    bench.heard.wait_for(lambda events: "full" in events)
    before = bench.disk.operations
    bench.disk.capacity_bytes = 0
    bench.thread.compact(SnapshotMeta(1, 1))
    tried = bench.gate.passed("create wal/manifest.new") + 1
    bench.gate.wait_until_passed("create wal/manifest.new", tried)
    bench.thread.retry()
    bench.gate.wait_until_passed("create wal/manifest.new", tried + 1)
    bench.disk.capacity_bytes = None
    bench.thread.retry()
    bench.heard.wait_for(lambda events: "space" in events)
    assert bench.disk.operations - before < 30
    assert bench.thread.close(DEADLINE_SECONDS)
    assert bench.recovered().first_index == 2
