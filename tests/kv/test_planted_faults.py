"""Each rule broken on purpose, and the suite's check that notices: a test that cannot fail proves nothing.

The numbers are those of the hazards. A check is a function that passes with the real part and fails with the faulty double; the doubles
break exactly one rule each and exist only here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count

import pytest

from raftkv.errors import InvariantBroken, UnknownFormat
from raftkv.kv import counter_commands
from raftkv.kv import machine as machine_module
from raftkv.kv.batch import Batch, Group
from raftkv.kv.clock import LogClock
from raftkv.kv.command import Write
from raftkv.kv.digest import Pair, Verdict, verdict
from raftkv.kv.keyspace import Changes
from raftkv.kv.machine import KvMachine
from raftkv.kv.replies import CommandError, Reply, fail
from raftkv.kv.rows import NODE_SESSIONS, STATE_ROW, SessionRows
from raftkv.kv.sessions import LIMITS, Limits, Problem, SessionChanges, Sessions
from raftkv.kv.store import Ranges, Rows, Store, Writes
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelStore
from tests.kv.driver import SESSION, START_MS, Driver, batch, empty_store, group, rows_of

Apply = Callable[[counter_commands.IncrementBy, Changes], Reply]

FAILED = (AssertionError, InvariantBroken)
"""What a check raises when it notices."""


# 21: applied index stored apart from the data.


class SplitPosition(ModelStore):
    """Writes the position in a batch of its own, after the rest."""

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        super().write({name: row for name, row in writes.items() if name != STATE_ROW}, clear)
        super().write({STATE_ROW: writes[STATE_ROW]})


class SplitValues(ModelStore):
    """Writes values in a batch of their own, before sessions and position."""

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        super().write({name: row for name, row in writes.items() if name.startswith((b"k", b"x"))}, clear)
        super().write({name: row for name, row in writes.items() if not name.startswith((b"k", b"x"))})


def check_replay_after_crashes(kind: type[ModelStore]) -> None:
    """Crash after every few entries and apply the log again from where the store stands: counters count each entry once, and the
    digest is that of a machine that never crashed."""
    steady = Driver()
    for number in range(1, 13):
        steady.groups(group(b"%016d" % number, 1, ["incr n"]))
    for seed in range(20):
        rng = random.Random(seed)
        disk = SimDisk(rng)
        applied = 0
        while applied < 12:
            store = kind(disk, "store")
            machine = KvMachine(store)
            for applied in range(machine.applied_index + 1, min(12, machine.applied_index + 5) + 1):
                machine.apply(applied, 1, batch([group(b"%016d" % applied, 1, ["incr n"])], START_MS))
            store.crash(rng)
            applied = KvMachine(kind(disk, "store")).applied_index
        survivor = Driver(kind(disk, "store"))
        assert survivor.read("get n") == b"12"
        assert survivor.machine.digest == steady.machine.digest


@pytest.mark.parametrize("kind", [SplitPosition, SplitValues])
def test_21_the_applied_index_apart_from_the_data_is_noticed(kind: type[ModelStore]) -> None:
    """With two writes an entry is applied twice after some crash; with one it never is."""
    check_replay_after_crashes(ModelStore)
    with pytest.raises(FAILED):
        check_replay_after_crashes(kind)


# 22: applying depends on something local.


class LocalClockMachine(KvMachine):
    """Expires by a clock of its own."""

    clock = count(START_MS, 40)

    def _decode(self, index: int, payload: bytes) -> Batch:
        sent = super()._decode(index, payload)
        return Batch(sent.format, sent.machine_version, next(self.clock), sent.groups)


def check_replicas_agree(kind: type[KvMachine]) -> None:
    """Two machines apply the same entries and hold the same rows."""
    machines = [kind(empty_store()), kind(empty_store())]
    for index in range(1, 10):
        for machine in machines:
            machine.apply(index, 1, batch([group(SESSION, index, [f"set k{index} v px 100 nx"])], START_MS + index))
    assert machines[0].digest == machines[1].digest


def test_22_a_local_clock_is_noticed() -> None:
    """A replica that looks at its own clock differs from the others."""
    check_replicas_agree(KvMachine)
    with pytest.raises(FAILED):
        check_replicas_agree(LocalClockMachine)


class LocalLimitsMachine(KvMachine):
    """Takes a bound that is a rule of the machine from its own settings."""

    sizes = iter([1, 5])

    def __init__(self, store: Store) -> None:
        super().__init__(store, limits=Limits(groups=next(self.sizes)))


def test_22_a_local_setting_is_noticed() -> None:
    """A replica with another bound on what sessions keep differs from the others."""
    with pytest.raises(FAILED):
        check_replicas_agree(LocalLimitsMachine)


# 23 and 57: a command sent again is applied again.


class ForgetfulChanges(SessionChanges):
    """Takes every group for new."""

    def missing(self, group: Group) -> int | Problem:
        return 0


class MemorySessions(Sessions):
    """Keeps sessions in memory only."""

    def __init__(self, rows: Rows, limits: Limits = LIMITS, where: SessionRows = NODE_SESSIONS) -> None:
        super().__init__(empty_store(), limits, where)


def check_retry_counts_once() -> None:
    """A group that is sent again is counted once and answered the same."""
    driver = Driver()
    sent = group(SESSION, 1, ["incr n", "incr n"])
    assert driver.groups(sent) == driver.groups(sent)
    assert driver.read("get n") == b"2"


def check_retry_after_failover_counts_once() -> None:
    """A group applied by one leader and sent again to the next, whose machine was restored from its store, is counted once."""
    driver = Driver()
    sent = group(SESSION, 1, ["incr n", "incr n"])
    answered = driver.groups(sent)
    assert Driver(driver.store).groups(sent) == answered
    assert driver.read("get n") == b"2"


def test_23_a_retry_that_counts_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without looking at sequence numbers a retry is applied again."""
    check_retry_counts_once()
    monkeypatch.setattr(machine_module, "SessionChanges", ForgetfulChanges)
    with pytest.raises(FAILED):
        check_retry_counts_once()


def test_57_a_session_that_does_not_survive_the_failover_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If sessions are no part of the stored state, what a node sends again after a failover is applied twice."""
    check_retry_after_failover_counts_once()
    monkeypatch.setattr(machine_module, "Sessions", MemorySessions)
    with pytest.raises(FAILED):
        check_retry_after_failover_counts_once()


# 27 and 59: a command that fails.


def buggy(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
    """A command with a bug, after half of its work."""
    changes.put_string(b"half", b"done")
    raise ZeroDivisionError


def failing(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
    """A command that fails, as it should, after half of its work."""
    changes.put_string(b"half", b"done")
    return fail("no")


def apply_without_care(writes: list[Write], changes: Changes, clients: SessionChanges) -> list[Reply]:
    """Applies commands and handles only the errors that commands should raise."""
    replies: list[Reply] = []
    for write in writes:
        changes.mark()
        try:
            replies.append(write.apply(changes))
        except CommandError as error:
            changes.rollback()
            replies.append(error.failure)
    return replies


def check_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with a bug in it stops neither its batch nor the machine."""
    driver = Driver()
    with monkeypatch.context() as patched:
        patched.setattr(counter_commands.IncrementBy, "apply", buggy)
        try:
            driver.write("incr a", "set b 1")
        except ZeroDivisionError as error:
            raise AssertionError("the machine stopped") from error
    driver.write("set c 1")
    assert (driver.read("get b"), driver.read("get c")) == (b"1", b"1")


def check_nothing_is_left(monkeypatch: pytest.MonkeyPatch, apply: Apply) -> None:
    """A command that fails leaves nothing behind."""
    driver = Driver()
    with monkeypatch.context() as patched:
        patched.setattr(counter_commands.IncrementBy, "apply", apply)
        driver.write("set half empty", "incr a")
    assert driver.read("get half") == b"empty"


def test_27_a_command_that_stops_the_apply_loop_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If an unexpected exception leaves `apply`, every replica stops at that entry for ever."""
    check_progress(monkeypatch)
    monkeypatch.setattr(machine_module, "_apply_writes", apply_without_care)
    with pytest.raises(FAILED):
        check_progress(monkeypatch)


@pytest.mark.parametrize("apply", [buggy, failing])
def test_59_half_of_a_failed_command_is_noticed(monkeypatch: pytest.MonkeyPatch, apply: Apply) -> None:
    """Without a savepoint the first half of a failed command stays."""
    check_nothing_is_left(monkeypatch, apply)
    monkeypatch.setattr(Changes, "rollback", lambda _: None)
    with pytest.raises(FAILED):
        check_nothing_is_left(monkeypatch, apply)


# 28: an entry is applied twice because answering its client failed.


class TrustingMachine(KvMachine):
    """Applies whatever it is given."""

    def _check_index(self, index: int) -> None:
        return


def check_an_entry_applies_once(kind: type[KvMachine]) -> None:
    """A node whose client's callback raised, and which hands the same entry in again, does not apply it again."""
    machine = kind(empty_store())
    payload = batch([group(SESSION, 1, ["incr n"])], START_MS)
    machine.apply(1, 1, payload)
    before = machine.position
    with pytest.raises(InvariantBroken):
        machine.apply(1, 1, payload)
    assert machine.position == before


def test_28_an_entry_applied_twice_is_noticed() -> None:
    """A machine that does not check what comes next applies an entry again, and its digest shows it."""
    check_an_entry_applies_once(KvMachine)
    with pytest.raises((*FAILED, pytest.fail.Exception)):
        check_an_entry_applies_once(TrustingMachine)


# 50: fencing without a majority, or led by the wrong replica.

Judge = Callable[[Mapping[str, Iterable[Pair]], Sequence[str]], Verdict | None]


def most_votes(reports: Mapping[str, Iterable[Pair]], members: Sequence[str]) -> Verdict | None:
    """Believes the largest group among those that report."""
    return verdict(reports, sorted(reports))


def believe_the_first(reports: Mapping[str, Iterable[Pair]], members: Sequence[str]) -> Verdict | None:
    """Believes the leader, which it takes to be the first member."""
    found = verdict(reports, members)
    own = dict(reports[members[0]])
    wrong = [node for node, pairs in reports.items() if any(own.get(index, digest) != digest for index, digest in pairs)]
    return None if found is None else Verdict(found.index, tuple(sorted(wrong)))


def check_only_the_minority_is_rebuilt(judge: Judge) -> None:
    """Whoever differs from more than half of all members is wrong; if there is no such majority nobody is."""
    good, bad = b"g" * 16, b"b" * 16
    members = ["n1", "n2", "n3", "n4", "n5"]
    assert judge({"n1": [(7, bad)], "n2": [(7, good)], "n3": [(7, good)], "n4": [(7, good)]}, members) == Verdict(7, ("n1",))
    assert judge({"n1": [(7, good)], "n2": [(7, good)], "n3": [(7, bad)]}, members) == Verdict(7, ())
    assert judge({"n1": [(7, good)], "n2": [(7, bad)]}, members) == Verdict(7, ())


@pytest.mark.parametrize("judge", [most_votes, believe_the_first])
def test_50_fencing_by_the_wrong_side_is_noticed(judge: Judge) -> None:
    """Counting only those that report, or believing the leader, would rebuild healthy nodes."""
    check_only_the_minority_is_rebuilt(verdict)
    with pytest.raises(FAILED):
        check_only_the_minority_is_rebuilt(judge)


# 51: a leader a year ahead stamps the log.

YEAR = 365 * 24 * 3_600_000


class WallClock(LogClock):
    """Stamps with the leader's wall clock."""

    def stamp(self, mono_ms: int, majority: int) -> int:
        return self._offsets[self._node] + mono_ms


class LargestClock(WallClock):
    """Stamps with the leader's wall clock, and never goes back."""

    def stamp(self, mono_ms: int, majority: int) -> int:
        self._last_ms = max(self._last_ms, super().stamp(mono_ms, majority))
        return self._last_ms


def check_a_bad_clock_expires_nothing(kind: type[LogClock]) -> None:
    """Under a leader whose clock is a year ahead nothing expires before its time, and afterwards time goes on."""
    driver = Driver()
    driver.write("set a 1 px 60000")
    bad = stamps(kind, "n1", driver.machine.clock_ms)
    driver.groups(stamp_ms=bad.stamp(1000, 2))
    assert driver.read("get a") == b"1"
    good = stamps(kind, "n2", driver.machine.clock_ms)
    driver.groups(stamp_ms=good.stamp(61_000, 2))
    assert driver.read("get a") is None


def stamps(kind: type[LogClock], leader: str, log_ms: int) -> LogClock:
    """The clock of a new leader; n1's wall clock is a year ahead."""
    clock = kind(leader)
    for node, wall_ms in (("n1", START_MS + YEAR), ("n2", START_MS), ("n3", START_MS)):
        clock.observe(node, wall_ms, 0)
    clock.start(log_ms, 0)
    return clock


@pytest.mark.parametrize("kind", [WallClock, LargestClock])
def test_51_a_leader_a_year_ahead_is_noticed(kind: type[LogClock]) -> None:
    """Stamps from the wall clock of one node let everything expire at once."""
    check_a_bad_clock_expires_nothing(LogClock)
    with pytest.raises(FAILED):
        check_a_bad_clock_expires_nothing(kind)


class StandingClock(LogClock):
    """Does not advance while the log is ahead of the leader's wall clock."""

    def stamp(self, mono_ms: int, majority: int) -> int:
        return max(self._base_ms, self._offsets[self._node] + mono_ms)


def check_time_goes_on(kind: type[LogClock]) -> None:
    """In a log that is a year ahead a key still expires after its minute."""
    clock = stamps(kind, "n2", START_MS + YEAR)
    driver = Driver()
    driver.now_ms = clock.stamp(0, 2)
    driver.write("set a 1 px 60000")
    driver.groups(stamp_ms=clock.stamp(61_000, 2))
    assert driver.read("get a") is None


def test_51_time_that_stands_still_is_noticed() -> None:
    """If a leader waits until its wall clock has caught up with the log, nothing expires for a year."""
    check_time_goes_on(LogClock)
    with pytest.raises(FAILED):
        check_time_goes_on(StandingClock)


# 61: two versions apply the same batch differently.


def old_rules(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
    """The program of version 1."""
    changes.put_string(self.key, b"old")
    return 1


def new_rules(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
    """The program of version 2: follows the rules that the batch names."""
    if changes.version < 2:
        return old_rules(self, changes)
    changes.put_string(self.key, b"new")
    return 2


def hasty_rules(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
    """A program of version 2 that does not ask which rules are in force."""
    changes.put_string(self.key, b"new")
    return 2


def check_a_rolling_upgrade(monkeypatch: pytest.MonkeyPatch, upgraded: Apply) -> None:
    """Old and new programs agree on every batch until one raises the version; the old one then stops rather than differ."""
    old, new = KvMachine(empty_store(), supported_version=1), KvMachine(empty_store(), supported_version=2)
    for index, version in enumerate([1, 1, 2, 1], 1):
        payload = batch([group(SESSION, index, ["incr n"])], START_MS, version)
        monkeypatch.setattr(counter_commands.IncrementBy, "apply", upgraded)
        new.apply(index, 1, payload)
        monkeypatch.setattr(counter_commands.IncrementBy, "apply", old_rules)
        if version == 2:
            with pytest.raises(UnknownFormat):
                old.apply(index, 1, payload)
        elif index < 3:
            old.apply(index, 1, payload)
            assert old.digest == new.digest
    assert new.machine_version == 2


def test_61_new_rules_before_their_time_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that follows new rules before the log says so differs from the others during a rolling upgrade."""
    check_a_rolling_upgrade(monkeypatch, new_rules)
    with pytest.raises(FAILED):
        check_a_rolling_upgrade(monkeypatch, hasty_rules)


# 63: a model store that is kinder than RocksDB.


class NeverLosing(ModelStore):
    """Loses nothing in a crash."""

    def crash(self, rng: random.Random) -> None:
        self.flush()
        super().crash(rng)


class AlwaysLosing(ModelStore):
    """Loses everything that was not flushed, always: code that relies on that would fail on RocksDB, which flushes when it likes."""

    def crash(self, rng: random.Random) -> None:
        self._unflushed.clear()
        super().crash(rng)


class LosingFromTheMiddle(ModelStore):
    """Keeps a later batch without an earlier one."""

    def crash(self, rng: random.Random) -> None:
        if len(self._unflushed) > 1:
            del self._unflushed[rng.randrange(len(self._unflushed) - 1)]
        super().crash(rng)


class LiveScans(ModelStore):
    """Its scans see what is written while they run."""

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for key in list(self._keys):
            if start <= key < end:
                yield key, self._rows[key]


def check_the_model_is_as_harsh_as_rocksdb(kind: type[ModelStore]) -> None:
    """Crashes leave every prefix, and only prefixes; a scan shows the moment of its call."""
    left = set()
    for seed in range(100):
        disk = SimDisk(random.Random(seed))
        store = kind(disk, "store")
        for number in range(3):
            store.write({b"%d" % number: b""})
        store.crash(random.Random(seed))
        left.add(tuple(key for key, _ in rows_of(ModelStore(disk, "store"))))
    assert left == {(), (b"0",), (b"0", b"1"), (b"0", b"1", b"2")}
    store = kind(SimDisk(random.Random(0)), "store")
    store.write({b"a": b"old"})
    before = store.scan(b"", b"z")
    store.write({b"a": b"new"})
    assert list(before) == [(b"a", b"old")]


@pytest.mark.parametrize("kind", [NeverLosing, AlwaysLosing, LosingFromTheMiddle, LiveScans])
def test_63_a_model_that_is_not_like_rocksdb_is_noticed(kind: type[ModelStore]) -> None:
    """A model that loses nothing, always everything, or a batch out of the middle, or whose scans are not of one moment, is no model."""
    check_the_model_is_as_harsh_as_rocksdb(ModelStore)
    with pytest.raises(FAILED):
        check_the_model_is_as_harsh_as_rocksdb(kind)
