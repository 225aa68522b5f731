"""Applying entries and answering reads: what commands do, what one entry is, and what happens when something goes wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raftkv.errors import Busy, Corrupt, InvariantBroken, StateDamaged, StorageError, UnknownFormat
from raftkv.kv import counter_commands
from raftkv.kv.batch import Batch, Group, encode_batch
from raftkv.kv.commands import encode_commands, parse_request
from raftkv.kv.keyspace import Changes
from raftkv.kv.machine import KvMachine, read_position
from raftkv.kv.replies import OK, CommandError, Failure, Reply, Simple, fail
from raftkv.kv.rows import CONFIGURATION_ROW, MAX_MS, STATE_ROW, header, value_key
from raftkv.kv.store import Ranges, Writes
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelStore
from raftkv.storage.store import RocksStore
from tests.kv.driver import SESSION, START_MS, Driver, batch, empty_store, group, rows_of

NOT_AN_INTEGER = Failure("ERR", "value is not an integer or out of range")
OVERFLOW = Failure("ERR", "increment or decrement would overflow")
WRONG_TYPE = Failure("WRONGTYPE", "Operation against a key holding the wrong kind of value")


def conversation(driver: Driver, lines: list[tuple[str, Reply]]) -> None:
    """Run requests one by one and compare the replies."""
    for request, expected in lines:
        assert driver.run(request) == expected, request


def test_strings() -> None:
    """SET with its conditions and GET, as Redis answers them."""
    conversation(
        Driver(),
        [
            ("get a", None),
            ("set a 1", OK),
            ("get a", b"1"),
            ("set a 2 nx", None),
            ("get a", b"1"),
            ("set a 2 xx", OK),
            ("set b 1 xx", None),
            ("get b", None),
            ("set b 1 nx", OK),
            ("set a 3 get", b"2"),
            ("set c 1 get", None),
            ("set c 2 nx get", b"1"),
            ("get c", b"1"),
            ("set d 1 xx get", None),
            ("get d", None),
        ],
    )


def test_counters() -> None:
    """INCR and INCRBY count within 64 bits, on values that are written as integers are."""
    conversation(
        Driver(),
        [
            ("incr n", 1),
            ("incrby n 41", 42),
            ("get n", b"42"),
            ("incrby n -50", -8),
            ("set n 9223372036854775807", OK),
            ("incr n", OVERFLOW),
            ("get n", b"9223372036854775807"),
            ("set n -9223372036854775808", OK),
            ("incrby n -1", OVERFLOW),
            ("set n 007", OK),
            ("incr n", NOT_AN_INTEGER),
            ("set n 9223372036854775808", OK),
            ("incr n", NOT_AN_INTEGER),
            ("get n", b"9223372036854775808"),
        ],
    )


def test_deleting_and_existing() -> None:
    """DEL counts what was there, EXISTS counts a key as often as it is named."""
    conversation(
        Driver(),
        [
            ("set a 1", OK),
            ("set b 1", OK),
            ("exists a a b c", 3),
            ("del a a c", 1),
            ("exists a", 0),
            ("del b", 1),
            ("del b", 0),
            ("dbsize", 0),
        ],
    )


def test_empty_keys_and_values_are_values() -> None:
    """The empty key and the empty value are like any other."""
    driver = Driver()
    assert driver.run([b"set", b"", b""]) == OK
    assert driver.run([b"get", b""]) == b""
    assert driver.run([b"exists", b""]) == 1
    assert driver.run([b"scan", b"0"]) == [b"0", [b""]]


def test_time_to_live() -> None:
    """EXPIRE and its conditions, TTL in rounded seconds and PTTL, as Redis answers them."""
    conversation(
        Driver(),
        [
            ("ttl a", -2),
            ("pttl a", -2),
            ("expire a 10", 0),
            ("set a 1", OK),
            ("ttl a", -1),
            ("pttl a", -1),
            ("expire a 10 xx", 0),
            ("expire a 10 gt", 0),
            ("expire a 10 nx", 1),
            ("expire a 20 nx", 0),
            ("expire a 5 gt", 0),
            ("expire a 10 gt", 0),
            ("expire a 50 gt", 1),
            ("expire a 100 lt", 0),
            ("expire a 10 xx lt", 1),
            ("ttl a", 10),
            ("pttl a", 10_000),
            ("pexpire a 1499", 1),
            ("ttl a", 1),
            ("pexpire a 1500", 1),
            ("ttl a", 2),
            ("set b 1", OK),
            ("expire b 100 lt", 1),
            ("ttl b", 100),
            ("set b 2 keepttl", OK),
            ("ttl b", 100),
            ("incr b", 3),
            ("ttl b", 100),
            ("set b 3", OK),
            ("ttl b", -1),
            ("set b 3 px 700", OK),
            ("ttl b", 1),
            ("expire b 0", 1),
            ("get b", None),
            ("set b 3 ex 5", OK),
            ("pexpire b -5", 1),
            ("exists b", 0),
            ("set c 1 exat 1", OK),
            ("get c", None),
            ("set c 1", OK),
            ("set c 2 pxat 1 get", b"1"),
            ("get c", None),
            ("set c 1 px 9223370000000000000", OK),
            ("set c 1 px 9223371000000000000", Failure("ERR", "invalid expire time in 'set' command")),
            ("set c 1 px 9223372036854775807", Failure("ERR", "invalid expire time in 'set' command")),
            ("set c 1 ex 9223372036854775", Failure("ERR", "invalid expire time in 'set' command")),
            ("expire c 9223372036854775", Failure("ERR", "invalid expire time in 'expire' command")),
            ("expire nothing 9223372036854775", Failure("ERR", "invalid expire time in 'expire' command")),
            ("pttl c", 9223370000000000000),
            ("pexpire c 9223371000000000000", Failure("ERR", "invalid expire time in 'pexpire' command")),
        ],
    )


def test_a_value_of_another_type_is_left_alone() -> None:
    """String commands refuse a value of a type that is not theirs; SET and DEL do not care what was there."""
    driver = Driver()
    driver.store.write({value_key(key): header(99, 1, 0) + b"?" for key in (b"a", b"b")})
    conversation(
        driver,
        [
            ("get a", WRONG_TYPE),
            ("incr a", WRONG_TYPE),
            ("set a 1 get", WRONG_TYPE),
            ("exists a", 1),
            ("expire a 10", 1),
            ("ttl a", 10),
            ("scan 0 type string", [b"0", []]),
            ("set a 1", OK),
            ("get a", b"1"),
            ("set b 1 nx", None),
            ("del b", 1),
        ],
    )


def test_flushall_empties_everything_in_one_small_entry() -> None:
    """FLUSHALL deletes values and expiries but no session; what the same batch writes afterwards is there, what it wrote before not."""
    driver = Driver()
    driver.write(*[f"set k{n} v ex 100" for n in range(200)])
    before = driver.machine.digest
    assert driver.write("set x 1", "incr y", "flushall", "incr y", "set z 1 ex 5", "flushall async", "incr y", "del z") == [
        OK, 1, OK, 1, OK, OK, 1, 0,
    ]  # fmt: skip
    assert [driver.read(request) for request in ("dbsize", "get x", "get y", "get k7")] == [1, None, b"1", None]
    assert driver.machine.digest != before
    assert driver.machine.session_last(SESSION) == 208
    assert rows_of(driver.store)[0][0][:1] == b"k"
    assert not list(driver.store.scan(b"x", b"y"))
    driver.pass_ms(5001)
    assert driver.machine.next_expiry_ms is None


def test_one_entry_is_one_write() -> None:
    """Everything that an entry does reaches the store in a single write, whatever is in the entry."""
    store = CountingStore()
    driver = Driver(store)
    driver.write("set a 1 ex 10")
    store.written.clear()
    driver.now_ms += 60_000
    driver.groups(group(SESSION, 2, ["set b 1", "incr a"]), group(b"another session!", 1, ["flushall", "set c 1 px 5"]))
    assert len(store.written) == 1
    driver.machine.apply_empty(3, 2, b"configuration")
    assert len(store.written) == 2
    assert STATE_ROW in store.written[1]
    assert store.written[1][CONFIGURATION_ROW] == b"configuration"


class CountingStore(ModelStore):
    """Remembers its writes, and counts reads of single rows."""

    def __init__(self) -> None:
        self.written: list[Writes] = []
        self.gets = 0
        super().__init__(SimDisk(random.Random(0)), "store")

    def write(self, writes: Writes, clear: Ranges = ()) -> None:
        self.written.append(writes)
        super().write(writes, clear)

    def get(self, key: bytes) -> bytes | None:
        self.gets += 1
        return super().get(key)


def test_a_plain_set_reads_nothing() -> None:
    """A batch of plain SETs is one put each and no read."""
    store = CountingStore()
    driver = Driver(store)
    store.gets = 0
    driver.write(*[f"set k{n} v" for n in range(100)])
    assert store.gets == 0
    assert len([name for name in store.written[-1] if name.startswith(b"k")]) == 100


def test_the_position_is_in_the_same_write() -> None:
    """Index, term, clock, digest, version and configuration are stored with the effects, and found again."""
    driver = Driver()
    driver.write("set a 1")
    driver.machine.apply_empty(2, 4, b"the configuration")
    position = read_position(driver.store)
    assert position == driver.machine.position
    assert (position.index, position.term, position.clock_ms, position.configuration) == (2, 4, START_MS, b"the configuration")
    again = KvMachine(driver.store)
    assert again.position == position
    assert again.digest_ring.pairs() == [(2, position.digest)]
    assert again.configuration == b"the configuration"
    assert again.applied_term == 4


def test_entries_are_applied_in_order() -> None:
    """An entry that is not the next one is refused, and changes nothing."""
    driver = Driver()
    driver.write("set a 1")
    before = rows_of(driver.store)
    for index in (0, 1, 3):
        with pytest.raises(InvariantBroken, match="after entry 1"):
            driver.machine.apply(index, 1, batch([], 0))
        with pytest.raises(InvariantBroken):
            driver.machine.apply_empty(index, 1)
    assert rows_of(driver.store) == before


def test_the_clock_follows_the_largest_stamp() -> None:
    """A stamp that lies behind does not move the clock back; one beyond the end of time does not break it."""
    driver = Driver()
    for stamp_ms, expected in ((5, 5), (3, 5), (-1, 5), (9, 9), (2**63 + 9, MAX_MS)):
        driver.groups(stamp_ms=stamp_ms)
        assert driver.machine.clock_ms == expected


def test_a_command_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command did before it failed is undone: rows that it changed, added, deleted, and a clearing."""

    def apply(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
        before = changes.value(b"kept")
        assert before is not None
        changes.put_string(b"kept", b"half")
        changes.put(b"new", 1, b"half", START_MS + 5, None)
        changes.clear()
        changes.put_string(b"kept", b"half again")
        changes.delete(b"other", before)
        return fail("half-way")

    monkeypatch.setattr(counter_commands.IncrementBy, "apply", apply)
    one, two = Driver(), Driver()
    replies = one.write("set kept 1", "set other 2", "incr x", "set after 3")
    assert replies == [OK, OK, Failure("ERR", "half-way"), OK]
    two.write("set kept 1", "set other 2", "set after 3")
    values = [row for row in rows_of(one.store) if row[0][:1] in b"kx"]
    assert values == [row for row in rows_of(two.store) if row[0][:1] in b"kx"]


def test_a_bug_in_a_command_is_an_answer_and_does_not_stop_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception undoes its command, answers a fixed text, is reported for the node's log, and the batch goes on."""

    def apply(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
        changes.put_string(b"a", b"half")
        raise KeyError("bug")

    monkeypatch.setattr(counter_commands.IncrementBy, "apply", apply)
    driver = Driver()
    applied = driver.apply(batch([group(SESSION, 1, ["set a 1", "incr a", "set b 2"])], START_MS))
    assert applied.groups[0].replies == [OK, Failure("ERR", "internal error; the command had no effect"), OK]
    assert [type(fault) for fault in applied.faults] == [KeyError]
    assert driver.read("get a") == b"1"
    assert driver.machine.applied_index == 1


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), OSError("disk"), StorageError("disk"), InvariantBroken("bug")])
def test_an_error_of_the_machine_underneath_is_never_a_reply(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Such an error goes up, nothing of the entry is applied, and the same entry can be applied later."""

    def apply(self: counter_commands.IncrementBy, changes: Changes) -> Reply:
        raise error

    driver = Driver()
    driver.write("set a 1")
    before = rows_of(driver.store), driver.machine.position
    payload = batch([group(SESSION, 2, ["set a 2", "incr b"])], START_MS + 1)
    with monkeypatch.context() as patched:
        patched.setattr(counter_commands.IncrementBy, "apply", apply)
        with pytest.raises(type(error)):
            driver.machine.apply(2, 1, payload)
    assert (rows_of(driver.store), driver.machine.position) == before
    assert driver.apply(payload).groups[0].replies == [OK, 1]


def test_an_entry_that_the_store_refuses_can_be_applied_again() -> None:
    """Busy leaves the machine as it was, sessions and expiries included; the same call succeeds later, with the same result."""
    refusing = Driver(ModelStore(SimDisk(random.Random(0)), "store", random.Random(1), refusals=0.7))
    plain = Driver()
    refused = 0
    for number in range(40):
        payload = batch([group(SESSION, number + 1, [f"set k{number % 7} v px {number * 3 + 1}"])], START_MS + number * 5)
        expected = plain.apply(payload)
        while True:
            try:
                assert refusing.apply(payload) == expected
                break
            except Busy:
                refused += 1
    assert refused > 20
    assert refusing.machine.position == plain.machine.position
    assert refusing.machine.next_expiry_ms == plain.machine.next_expiry_ms
    assert rows_of(refusing.store) == rows_of(plain.store)


def test_an_entry_of_a_newer_program_is_refused() -> None:
    """A batch in an unknown format, or for rules that this program lacks, stops the node and asks for an upgrade."""
    driver = Driver()
    with pytest.raises(UnknownFormat, match=r"upgrade.*version 2.*up to 1"):
        driver.machine.apply(1, 1, batch([], 0, version=2))
    with pytest.raises(UnknownFormat, match="upgrade"):
        driver.machine.apply(1, 1, encode_batch(Batch(2, 1, 0, [])))
    with pytest.raises(InvariantBroken, match="not a batch"):
        driver.machine.apply(1, 1, b"\xc1")
    assert driver.machine.applied_index == 0
    assert rows_of(driver.store) == []


def test_the_version_of_the_rules_only_rises() -> None:
    """A batch raises the version in force, it is kept in the store, and an older program refuses that store."""
    store = empty_store()
    machine = KvMachine(store, supported_version=3)
    machine.apply(1, 1, batch([], 0, version=3))
    machine.apply(2, 1, batch([], 0, version=1))
    assert machine.machine_version == 3
    assert KvMachine(store, supported_version=3).machine_version == 3
    with pytest.raises(UnknownFormat, match="upgrade"):
        KvMachine(store, supported_version=2)


def test_a_state_that_cannot_be_read_is_named() -> None:
    """A position row of another format or length is refused with what to do."""
    store = empty_store()
    store.write({STATE_ROW: b"\x00\x09 from the future"})
    with pytest.raises(UnknownFormat, match="upgrade"):
        KvMachine(store)
    store.write({STATE_ROW: b"\x00\x01 short"})
    with pytest.raises(Corrupt, match="restart the node"):
        KvMachine(store)


@pytest.mark.parametrize(
    "bad",
    [
        Group(0, SESSION, 1, 0, 2, encode_commands([parse_request([b"set", b"a", b"b"])])),
        Group(0, SESSION, 1, 0, 1, encode_commands([parse_request([b"get", b"a"])])),
        Group(0, SESSION, 1, 0, 1, b"\xc1"),
        Group(0, SESSION, 1, 0, 2**60, b"\xc1"),
        Group(0, SESSION, 0, 0, 1, encode_commands([parse_request([b"set", b"a", b"b"])])),
        Group(0, SESSION, 1, -1, 1, encode_commands([parse_request([b"set", b"a", b"b"])])),
        Group(0, b"short", 1, 0, 1, encode_commands([parse_request([b"set", b"a", b"b"])])),
        Group(7, SESSION, 1, 0, 1, encode_commands([parse_request([b"set", b"a", b"b"])])),
    ],
)
def test_a_malformed_group_harms_nobody_else(bad: Group) -> None:
    """A group that is not what its header says is refused as a whole, and the other groups of the entry are applied."""
    driver = Driver()
    answers = driver.groups(bad, group(b"another session!", 1, ["set other 1"]))
    assert [(answer.problem, answer.replies) for answer in answers] == [("malformed", []), (None, [OK])]
    assert driver.read("get other") == b"1"
    assert driver.read("get a") is None
    assert driver.machine.session_last(bad.session) is None


def test_a_read_is_not_a_write() -> None:
    """Only reads are executed outside the log."""
    driver = Driver()
    with pytest.raises(InvariantBroken, match="Set is not a read"):
        driver.machine.read(parse_request([b"set", b"a", b"b"]))
    with pytest.raises(InvariantBroken):
        driver.machine.read(parse_request([b"ping"]))


def test_a_view_stays_at_its_moment(tmp_path: Path) -> None:
    """A view answers from the state and clock at which it was taken, on the model and on RocksDB."""
    for store in (empty_store(), RocksStore(tmp_path / "live")):
        driver = Driver(store)
        driver.write("set a 1", "set b 1 px 100", "set c 1")
        view = driver.machine.view()
        driver.write("set a 2", "del c", "set d 1")
        driver.pass_ms(1000)
        assert [view.read(parse_request(request.split())) for request in (b"dbsize", b"get a", b"get b", b"pttl b")] == [
            3, b"1", b"1", 100,
        ]  # fmt: skip
        view.close()
        assert driver.read("dbsize") == 2
        store.close()


def test_a_command_error_reads_like_its_reply() -> None:
    """The exception shows the error line."""
    with pytest.raises(CommandError, match=r"^WRONGTYPE no$"):
        fail("no", "WRONGTYPE")
    assert str(CommandError(Failure("ERR", "x"))) == "ERR x"
    assert Simple("OK") == OK


@pytest.mark.parametrize("row", [b"", b"\x01\x01", bytes(17)])
@pytest.mark.parametrize("request_", ["get a", "incr a", "set a 1 xx", "expire a 10", "exists a", "scan 0"])
def test_a_row_that_is_cut_off_is_never_an_answer(row: bytes, request_: str) -> None:
    """Such a row is damage of this replica's store: an error reply would differ from that of the others."""
    driver = Driver()
    driver.store.write({value_key(b"a"): row})
    with pytest.raises(StateDamaged):
        driver.run(request_)
