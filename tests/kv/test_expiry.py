"""Expiry by the log's clock: at once for every command, in bounded steps for the rows, and never by anything local."""

from __future__ import annotations

from raftkv.kv.commands import parse_request
from raftkv.kv.expiry import MAX_PER_BATCH
from raftkv.kv.machine import KvMachine
from raftkv.kv.replies import OK
from raftkv.kv.rows import expiry_key
from tests.kv.driver import START_MS, Driver, LogEntry, rows_of


def index_of(driver: Driver) -> list[bytes]:
    """The rows of the expiry index."""
    return [name for name, _ in driver.store.scan(b"x", b"y")]


def test_a_key_expires_when_the_clock_has_passed_its_time() -> None:
    """As in Redis a key is still there in the millisecond in which it is due, and gone in the next."""
    driver = Driver()
    driver.write("set a 1 px 100", "set b 1")
    assert driver.machine.next_expiry_ms == START_MS + 101
    driver.pass_ms(100)
    assert (driver.read("get a"), driver.read("pttl a"), driver.read("dbsize")) == (b"1", 0, 2)
    driver.pass_ms(1)
    assert (driver.read("get a"), driver.read("pttl a"), driver.read("dbsize")) == (None, -2, 1)
    assert index_of(driver) == []
    assert driver.machine.next_expiry_ms is None


def test_many_due_keys_are_gone_at_once_and_deleted_in_steps() -> None:
    """However many keys are due, none is seen any more, and each batch deletes a bounded number until nothing is due."""
    driver = Driver()
    many = MAX_PER_BATCH * 2 + 10
    driver.write(*[f"set k{n} v px {1000 + n % 3}" for n in range(many)], "set stays 1")
    driver.pass_ms(2000)
    left = []
    while driver.machine.next_expiry_ms is not None and driver.machine.next_expiry_ms <= driver.now_ms:
        assert (driver.read("dbsize"), driver.read("exists k1 k2 k500")) == (1, 0)
        assert driver.read("scan 0 count 1000") == [b"0", [b"stays"]]
        left.append(len(index_of(driver)))
        driver.groups()
    assert left == [many - MAX_PER_BATCH, many - 2 * MAX_PER_BATCH]
    assert len(list(driver.store.scan(b"k", b"l"))) == 1


def test_writes_treat_an_expired_key_as_absent() -> None:
    """Before its row is deleted an expired key is absent for NX, XX, GET, KEEPTTL, INCR, DEL, EXPIRE."""
    driver = Driver()
    due = [f"set k{n} 5 px 10" for n in range(MAX_PER_BATCH)]
    late = [f"set {name} 5 px 20" for name in ("nx", "xx", "get", "keep", "incr", "del", "expire")]
    driver.write(*due, *late)
    driver.now_ms += 21
    assert driver.write(
        "set nx 1 nx", "set xx 1 xx", "set get 1 get", "set keep 1 keepttl", "incr incr", "del del", "expire expire 10"
    ) == [OK, None, None, OK, 1, 0, 0]  # fmt: skip
    driver.groups()
    driver.groups()
    assert [driver.read(f"ttl {name}") for name in ("nx", "xx", "get", "keep", "incr", "del", "expire")] == [-1, -2, -1, -1, -1, -2, -2]
    assert index_of(driver) == []


def test_an_index_row_that_no_longer_matches_is_ignored() -> None:
    """A plain SET leaves the old index row, which then deletes nothing; nor does the row of an earlier time to live."""
    driver = Driver()
    driver.write("set a 1 px 100", "set b 1 px 100", "set c 1 px 100", "set d 1 px 100")
    driver.write("set a 2", "set b 2", "expire c 500", "set d 2")
    driver.write("set b 3 px 300", "set d 3", "pexpire d 100")
    assert len(index_of(driver)) == 5
    driver.pass_ms(101)
    assert [driver.read(f"get {key}") for key in "abcd"] == [b"2", b"3", b"1", None]
    assert [driver.read(f"pttl {key}") for key in "abc"] == [-1, 199, 500_000 - 101]
    assert driver.read("dbsize") == 3
    driver.pass_ms(200)
    assert driver.read("dbsize") == 2


def test_an_index_stays_as_small_as_what_it_indexes() -> None:
    """Renewing a time to live, deleting and overwriting with another one remove the old index row."""
    driver = Driver()
    for number in range(50):
        driver.write(f"set a 1 ex {10 + number}", "expire b 100", "set b 1 ex 50", f"expire b {20 + number}", "set c 1 ex 10", "del c")
    assert sorted(index_of(driver)) == [expiry_key(START_MS + 59_000, b"a"), expiry_key(START_MS + 69_000, b"b")]


def test_counting_excludes_what_has_expired_and_is_still_there() -> None:
    """DBSIZE counts a key once, whatever index rows of earlier times to live are left, and not when it has expired."""
    driver = Driver()
    driver.write(*[f"set k{n} 1 px {50 + n}" for n in range(MAX_PER_BATCH + 20)])
    driver.write("set k0 2", "set k1 2 px 9000", f"set k{MAX_PER_BATCH + 5} 2")
    driver.pass_ms(5000)
    assert driver.read("dbsize") == 3
    assert len(list(driver.store.scan(b"k", b"l"))) > 3


def test_the_first_due_time_is_known_after_a_restart() -> None:
    """A machine that is opened anew knows when the next key is due, and a far future is not forgotten when a near one is deleted."""
    driver = Driver()
    driver.write("set a 1 px 500", "set b 1 px 100", "set c 1 px 900")
    assert KvMachine(driver.store).next_expiry_ms == START_MS + 101
    driver.pass_ms(200)
    assert KvMachine(driver.store).next_expiry_ms == driver.machine.next_expiry_ms == START_MS + 501


def test_expiry_looks_at_no_clock_but_the_logs() -> None:
    """Two machines that apply the same entries at other times, one of them restarting in between, hold the same rows."""
    one, two = Driver(), Driver()
    log = history()
    one.follow(log)
    for length in range(1, len(log) + 1):
        two = Driver(two.store)
        two.follow(log[:length])
    assert rows_of(one.store) == rows_of(two.store)
    assert one.machine.digest == two.machine.digest


def history() -> list[LogEntry]:
    """Some entries with expiries."""
    driver = Driver()
    for number in range(60):
        driver.now_ms += number
        driver.write(f"set k{number % 9} {number} px {number * 7 % 50 + 1}", f"expire k{number % 4} {number % 3}", f"incr k{number % 5}")
    return driver.log


def test_the_time_left_counts_from_the_clock_that_the_reader_is_told() -> None:
    """Between entries a leader may say what time it is; TTL and PTTL then count from there, and no key goes away by it."""
    driver = Driver()
    driver.write("set a 1 px 10000")
    for now_ms, expected in ((0, 10_000), (START_MS - 5, 10_000), (START_MS + 4_000, 6_000), (START_MS + 99_999, 0)):
        assert driver.machine.read(parse_request([b"pttl", b"a"]), now_ms) == expected
        assert driver.machine.read(parse_request([b"get", b"a"]), now_ms) == b"1"
    view = driver.machine.view()
    assert view.read(parse_request([b"ttl", b"a"]), START_MS + 4_400) == 6
    view.close()
