"""Strings and keys where Redis 7.0 is no judge: comparisons, our own limits, what the log's clock decides, sums in decimal."""

from __future__ import annotations

import decimal
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv import budget, decimals, string_commands
from raftkv.kv.batch import Group
from raftkv.kv.bit_commands import MAX_COMBINED_BYTES
from raftkv.kv.budget import LONG_BYTES, Budget
from raftkv.kv.command import MAX_REPLY_BYTES
from raftkv.kv.commands import encode_commands, parse_request
from raftkv.kv.decimals import LARGEST, parse_decimal, spell
from raftkv.kv.keyspace import Changes
from raftkv.kv.lcs_commands import MAX_STEPS
from raftkv.kv.range_commands import MAX_STRING_BYTES
from raftkv.kv.replies import OK, Failure, Reply, Simple
from raftkv.kv.rows import LIST, Value, header, value_key
from raftkv.kv.space_commands import RandomKey
from raftkv.kv.transactions import Transaction
from tests.kv.driver import START_MS, Driver, batch, rows_of

WRONG_TYPE = Failure("WRONGTYPE", "Operation against a key holding the wrong kind of value")
HELLO = "b6acb9d84a38ff74"
"""What Redis's documentation of DIGEST shows for "Hello world"."""


def with_list(key: bytes = b"list") -> Driver:
    """A machine with what only its header says to be a list."""
    driver = Driver()
    driver.store.write({value_key(key): header(LIST, 1, 0) + bytes(28)})
    return driver


# Comparisons.


@pytest.mark.parametrize(
    ("condition", "before", "allowed"),
    [
        ("ifeq v", "v", True),
        ("ifeq v", "w", False),
        ("ifeq v", "V", False),
        ("ifeq v", None, False),
        ("ifne v", "v", False),
        ("ifne v", "w", True),
        ("ifne v", None, True),
        (f"ifdeq {HELLO}", "Hello world", True),
        (f"ifdeq {HELLO.upper()}", "Hello world", True),
        (f"ifdeq {HELLO}", "hello world", False),
        (f"ifdeq {HELLO}", None, False),
        (f"ifdne {HELLO}", "Hello world", False),
        (f"ifdne {HELLO}", "hello world", True),
        (f"ifdne {HELLO}", None, True),
    ],
)
def test_set_and_delex_compare_the_value_first(condition: str, before: str | None, allowed: bool) -> None:
    """SET with a comparison sets, and DELEX deletes, only what compares so; a key that is not there is set by the negations only, and
    never deleted; with GET the old value is answered whether or not it was set."""
    old = None if before is None else before.encode()
    words = condition.encode().split()
    for options in ([], [b"get"]):
        driver = Driver()
        if old is not None:
            driver.write([b"set", b"k", old, b"px", b"1000"])
        reply = driver.write([b"set", b"k", b"new", *options, *words])[0]
        assert reply == (old if options else OK if allowed else None)
        assert driver.read("get k") == (b"new" if allowed else old)
        assert driver.read("pttl k") == (-1 if allowed else -2 if old is None else 1000)
    driver = Driver()
    if old is not None:
        driver.write([b"set", b"k", old, b"px", b"1000"])
    deleted = allowed and old is not None
    assert driver.write([b"delex", b"k", *words]) == [int(deleted)]
    assert driver.read("get k") == (None if deleted else old)
    assert len([name for name, _ in rows_of(driver.store) if name[:1] == b"x"]) == (old is not None and not deleted)


def test_a_comparison_can_have_an_expiry() -> None:
    """SET IFEQ takes every option that says how long a key lives."""
    driver = Driver()
    driver.write("set k v px 500")
    assert driver.write("set k w ifeq v keepttl") == [OK]
    assert driver.read("pttl k") == 500
    assert driver.write("set k x ifeq w px 900") == [OK]
    assert driver.read("pttl k") == 900
    assert driver.write("set k y ifeq x exat 1") == [OK]
    assert driver.read("exists k") == 0
    assert driver.write("set k v ifne v ex 9223372036854775") == [Failure("ERR", "invalid expire time in 'set' command")]


def test_only_strings_are_compared() -> None:
    """A comparison with what is no string is the wrong type; DELEX without one deletes whatever is there."""
    driver = with_list()
    assert driver.run("set list v ifeq v") == driver.run("delex list ifne v") == driver.run("digest list") == WRONG_TYPE
    assert driver.run("delex list") == 1
    assert driver.run("delex list") == driver.run("delex list ifeq v") == 0


def test_the_digest_is_that_of_the_documentation() -> None:
    """DIGEST is the XXH3 of the value in hexadecimal, with its zeros, and nothing without a value."""
    driver = Driver()
    driver.write([b"set", b"k", b"Hello world"])
    assert driver.read("digest k") == HELLO.encode()
    assert driver.read("digest nothing") is None
    driver.write(*[f"set k{n} {n}" for n in range(64)])
    digests = [driver.read(f"digest k{n}") for n in range(64)]
    assert {len(digest) for digest in digests if isinstance(digest, bytes)} == {16}
    assert any(isinstance(digest, bytes) and digest[:1] == b"0" for digest in digests)


# Limits.


def test_no_command_makes_a_string_too_long() -> None:
    """SETRANGE and APPEND make strings of up to the limit, refuse the next byte, naming the limit, and leave nothing behind."""
    driver = Driver()

    def refusal(size: int) -> Failure:
        return Failure("ERR", f"the string would have {size} bytes; no command makes one longer than {MAX_STRING_BYTES} bytes")

    refused = refusal(MAX_STRING_BYTES + 1)
    assert driver.run(f"setrange k {MAX_STRING_BYTES} x") == refused
    assert driver.read("exists k") == 0
    assert driver.run(f"setrange k {MAX_STRING_BYTES - 1} x") == MAX_STRING_BYTES
    assert driver.run("append k y") == driver.run(f"setrange k {MAX_STRING_BYTES} y") == refused
    assert driver.read("strlen k") == MAX_STRING_BYTES
    assert driver.read("getrange k -2 -1") == b"\0x"
    assert driver.run("setrange k 500000000 x") == refusal(500_000_001)


def test_a_string_that_is_too_long_already_can_be_overwritten() -> None:
    """What was set whole may be longer than the limit, and its bytes can be changed, but it grows no more."""
    driver = Driver()
    driver.write([b"set", b"k", b"v" * (MAX_STRING_BYTES + 2)])
    assert driver.run(f"setrange k {MAX_STRING_BYTES + 1} x") == MAX_STRING_BYTES + 2
    assert isinstance(driver.run("append k y"), Failure)
    assert driver.read("getrange k -2 -1") == b"vx"


LONG = 1 << 20
FIT = 5


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many long values may be written anew or answered, and no more."""
    monkeypatch.setattr(budget, "MAX_HELD_BYTES", FIT * LONG)
    monkeypatch.setattr(budget, "MAX_ANSWERED_BYTES", FIT * LONG)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    ("before", "request_text"),
    [
        ("nothing", f"setrange k{{n}} {LONG - 1} x"),
        ("long{n}", "append long{n} x"),
        ("nothing", f"setbit k{{n}} {8 * LONG - 1} 1"),
        ("long", "bitop not k{n} long"),
        ("long", "copy long k{n}"),
        ("long{n}", "rename long{n} k{n}"),
        ("long{n}", "getex long{n} ex 100"),
        ("long{n}", "pexpire long{n} 5000"),
        ("long{n} px 50000", "persist long{n}"),
        ("long{n} px 50000", "getex long{n} persist"),
        ("long", "getex long"),
        ("long", "set long v nx get"),
        ("long", "set long v get ifeq w"),
        ("long{n}", "getdel long{n}"),
        ("long{n}", "getset long{n} v"),
    ],
)
def test_short_commands_cannot_fill_the_memory(before: str, request_text: str) -> None:
    """Short commands that write long values anew, or answer with them, can do so only up to a bound in one entry; the next one is refused
    and changes nothing, and succeeds in an entry of its own."""
    driver = Driver()
    for n in range(FIT + 1):
        key, *options = before.format(n=n).split()
        driver.write([b"set", key.encode(), bytes(LONG - 1), *map(str.encode, options)])
    rows = rows_of(driver.store)
    replies = driver.write(*[request_text.format(n=n) for n in range(FIT + 1)])
    assert not [reply for reply in replies[:FIT] if isinstance(reply, Failure)]
    refused = replies[FIT]
    assert isinstance(refused, Failure)
    assert refused.message.endswith("send fewer of them together")
    last = f"{FIT}".encode()
    assert [row for row in rows_of(driver.store) if row[0].endswith(last)] == [row for row in rows if row[0].endswith(last)]
    assert not isinstance(driver.write(request_text.format(n=FIT))[0], Failure)


@pytest.mark.usefixtures("bounded")
def test_short_commands_cannot_take_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands on the same long value are bounded too, by what they write in all."""
    monkeypatch.setattr(budget, "MAX_WRITTEN_BYTES", 20 * LONG + 1000)
    driver = Driver()
    driver.write([b"set", b"k", bytes(LONG)])
    replies = driver.write(*["append k y"] * 25)
    assert replies[:20] == [LONG + n for n in range(1, 21)]
    assert {type(reply) for reply in replies[20:]} == {Failure}
    assert driver.run("append k y") == LONG + 21


@pytest.mark.usefixtures("bounded")
def test_one_key_is_held_once() -> None:
    """The same key may grow in one entry: only its last value is held. Short values are not counted at all."""
    driver = Driver()
    driver.write([b"set", b"k", bytes(LONG)])
    assert driver.write(*["append k y"] * (5 * FIT))[-1] == LONG + 5 * FIT
    driver.write(*[[b"set", b"%d" % n, bytes(LONG_BYTES)] for n in range(100)])
    assert driver.write(*[f"expire {n} 5" for n in range(100)]) == [1] * 100


def test_keys_are_bounded() -> None:
    """KEYS that would answer too much says so and names SCAN; it does not count what has expired or does not match."""
    driver = Driver()
    count = MAX_REPLY_BYTES // 50_008
    driver.write(*[[b"set", b"%050000d" % n, b"v"] for n in range(count)])
    found = driver.read("keys *")
    assert isinstance(found, list)
    assert len(found) == count
    driver.write([b"set", b"x" * 50_000, b"v", b"px", b"5"])
    assert driver.run("keys *") == Failure("ERR", f"KEYS found more than {MAX_REPLY_BYTES} bytes of keys; use SCAN")
    assert driver.run("keys x*") == [b"x" * 50_000]
    assert isinstance(driver.run([b"keys", b"*" + b"?" * 4000 + b"*"]), Failure)
    assert isinstance(driver.run([b"keys", b"?" * 5000]), Failure)
    driver.pass_ms(6)
    assert driver.read("keys *") == found


def test_values_asked_for_together_are_bounded() -> None:
    """MGET that would answer too much says so, also when it names the same key again and again; BITOP combines only so much, zeros
    behind the shorter strings included."""
    driver = Driver()
    driver.write([b"set", b"k", bytes(LONG)])
    most = MAX_REPLY_BYTES // (LONG + 8)
    found = driver.run("mget" + " k" * most)
    assert isinstance(found, list)
    assert len(found) == most
    assert driver.run("mget" + " k" * (most + 1)) == Failure(
        "ERR", f"MGET found more than {MAX_REPLY_BYTES} bytes of values; ask for fewer keys"
    )
    most = MAX_COMBINED_BYTES // LONG
    assert driver.run("bitop or to k" + " nothing" * (most - 1)) == LONG
    for names in (" nothing" * most + " k", " k" * (most + 1)):
        assert driver.run("bitop or to" + names) == Failure("ERR", f"BITOP would combine more than {MAX_COMBINED_BYTES} bytes")


def test_a_common_subsequence_is_bounded() -> None:
    """LCS of strings whose lengths multiply to the bound is found, and refused with one byte more, naming the bound."""
    driver = Driver()
    driver.write([b"set", b"a", b"x" * 16], [b"set", b"b", b"x" * (MAX_STEPS // 16)], [b"set", b"c", b"x" * (MAX_STEPS // 16 + 1)])
    view = driver.machine.view()  # as any slow read
    assert view.read(parse_request([b"lcs", b"a", b"b", b"len"])) == 16
    refused = view.read(parse_request([b"lcs", b"a", b"c", b"len"]))
    assert isinstance(refused, Failure)
    assert str(MAX_STEPS) in refused.message


def test_a_bit_is_set_within_the_limit() -> None:
    """SETBIT makes strings as long as SETRANGE does, and refuses the next bit."""
    driver = Driver()
    assert driver.run(f"setbit k {8 * MAX_STRING_BYTES} 1") == driver.run(f"setrange k {MAX_STRING_BYTES} x")
    assert driver.run(f"setbit k {8 * MAX_STRING_BYTES - 1} 1") == 0
    assert (driver.read("strlen k"), driver.read("bitcount k"), driver.read("bitpos k 1")) == (
        MAX_STRING_BYTES,
        1,
        8 * MAX_STRING_BYTES - 1,
    )


# Random keys.


def test_the_random_key_follows_from_the_number_in_the_command() -> None:
    """The same number finds the same key; every key is found by some; a number behind the last key finds the first."""
    driver = Driver()
    assert driver.read("randomkey") is None
    driver.write(*[f"set k{n} v" for n in range(20)], "set gone v px 1")
    driver.now_ms += 2
    driver.groups()
    rng = random.Random(3)
    found: Counter[Reply] = Counter()
    for _ in range(3000):
        command = parse_request([b"randomkey"], lambda: rng.getrandbits(63))
        key = driver.machine.read(command)
        assert driver.machine.read(command) == key
        found[key] += 1
    assert set(found) == {b"k%d" % n for n in range(20)}
    assert driver.machine.read(RandomKey(2**63 - 1)) == driver.machine.read(RandomKey(0))


def test_only_expired_keys_are_no_random_key() -> None:
    """Keys that have expired are not found, whether or not their rows have been deleted."""
    driver = Driver()
    driver.write(*[f"set k{n} v px 1" for n in range(300)])
    driver.now_ms += 2
    driver.groups()
    assert driver.read("randomkey") is None
    assert [name for name, _ in rows_of(driver.store) if name[:1] == b"k"]


# Keys of any type.


def test_a_renamed_key_keeps_its_expiry() -> None:
    """The value, its type and its expiry go to the new name, in place of what was there, and nothing of the old name stays."""
    driver = Driver()
    driver.write("set a 1 px 100", "set b 2 px 50", "rename a b")
    assert (driver.read("get b"), driver.read("pttl b"), driver.read("exists a")) == (b"1", 100, 0)
    driver.pass_ms(60)
    assert driver.read("get b") == b"1"
    driver.pass_ms(60)
    assert driver.read("exists b") == 0
    assert not [name for name, _ in rows_of(driver.store) if name[:1] in (b"k", b"x")]
    driver = with_list()
    assert driver.run("rename list other") == OK
    assert driver.read("type other") == Simple("list")


def test_expired_keys_are_absent_for_all() -> None:
    """Before its row is deleted an expired key is neither renamed, copied, persisted, appended to nor in the way."""
    driver = Driver()
    filler = [f"set k{n} 5 px 10" for n in range(256)]
    names = ["rename", "target", "copy", "persist", "append", "setnx", "getdel", "getex", "delex", "float"]
    driver.write(*filler, *[f"set {name} 5 px 20" for name in names])
    driver.now_ms += 21
    assert driver.write(
        "rename rename x", "set y 1", "renamenx y target", "copy copy x", "persist persist", "append append 1", "setnx setnx 1",
        "getdel getdel", "getex getex persist", "delex delex ifeq 5", "incrbyfloat float 1.5",
    ) == [Failure("ERR", "no such key"), OK, 1, 0, 0, 1, 1, None, None, 0, b"1.5"]  # fmt: skip
    assert driver.read("mget rename target copy getdel getex") == [None, b"1", None, None, None]
    assert [driver.read(f"pttl {name}") for name in ("target", "append", "setnx", "float")] == [-1, -1, -1, -1]


def test_a_collection_is_not_copied() -> None:
    """COPY of what has elements is refused with a clear error, and changes nothing."""
    driver = with_list()
    driver.write("set to v")
    assert driver.run("copy list to replace") == Failure("ERR", "COPY takes strings only, and this is a list")
    assert driver.read("get to") == b"v"


def test_times_are_those_of_the_log() -> None:
    """EXPIREAT and EXPIRETIME count from the epoch by the log's clock, and a moment that has come deletes the key."""
    driver = Driver()
    driver.write("set a 1", "set b 1", f"pexpireat a {START_MS + 1}", f"pexpireat b {START_MS}")
    assert (driver.read("pexpiretime a"), driver.read("expiretime a"), driver.read("exists b")) == (START_MS + 1, START_MS // 1000, 0)
    driver.pass_ms(2)
    assert driver.read("pexpiretime a") == -2


# Sums.

NUMBERS = st.tuples(st.integers(-(10**30), 10**30), st.integers(-17, 0)).map(lambda pair: decimal.Decimal(pair[0]).scaleb(pair[1]))


@settings(max_examples=200, deadline=None)
@given(number=NUMBERS, amount=NUMBERS, precision=st.integers(1, 40), rounding=st.sampled_from(["ROUND_UP", "ROUND_FLOOR", "ROUND_HALF_UP"]))
def test_a_sum_does_not_depend_on_the_context_of_the_thread(
    number: decimal.Decimal, amount: decimal.Decimal, precision: int, rounding: str
) -> None:
    """Whatever decimal context a program around the node has set, the sum is the exact one, in the same digits."""
    driver = Driver()
    driver.write([b"set", b"n", f"{number:f}".encode()])
    with decimal.localcontext() as context:
        context.prec, context.rounding = precision, rounding
        context.traps[decimal.Inexact] = context.traps[decimal.Subnormal] = True
        reply = driver.run([b"incrbyfloat", b"n", str(amount).encode()])
    with decimal.localcontext() as context:
        context.prec = 100
        total = number + amount
        assert isinstance(reply, bytes)
        assert decimal.Decimal(reply.decode()) == total
    assert not reply.endswith((b"0", b".")) or b"." not in reply
    assert driver.read("get n") == reply


@pytest.mark.parametrize(
    ("number", "amount", "total"),
    [
        ("0.1", "0.2", "0.3"),
        ("5.0e3", "2.0e2", "5200"),
        ("-1", "1", "0"),
        ("-0.0", "-0.0", "0"),
        ("1", "0.000000000000000005", "1"),
        ("1", "0.000000000000000015", "1.00000000000000002"),
        ("1", "0.0000000000000000050001", "1.00000000000000001"),
        ("0", "-1e-4000", "0"),
        ("1e4000", "1e-10", "1" + "0" * 4000 + ".0000000001"),
        ("5000", "-0.01", "4999.99"),
        ("1e4932", "0", "1" + "0" * 4932),
    ],
)
def test_sums_are_decimal(number: str, amount: str, total: str) -> None:
    """A sum is exact, rounded to 17 places with a half to the even digit, and shown without exponent, zeros at the end and minus zero."""
    driver = Driver()
    driver.write(f"set n {number}")
    assert driver.run(f"incrbyfloat n {amount}") == total.encode()


NO_NUMBERS = [
    *["1.2e4932", "-1e4933", "1e99999999999999999999", "1e-4951", "1e-99999999999999999999", "0x10", "1_0"],
    *["１", "1e", "1e+", "e1", "--1", "nan", "infin"],
]


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1" * 5120])
def test_what_is_no_number_is_refused(text: str) -> None:
    """Numbers that are larger or smaller than Redis's, in another notation, or longer than it reads are none, wherever they stand."""
    driver = Driver()
    refused = Failure("ERR", "value is not a valid float")
    assert driver.run([b"incrbyfloat", b"n", text.encode()]) == refused
    driver.write([b"set", b"n", text.encode()])
    assert driver.run("incrbyfloat n 1") == refused
    assert parse_decimal(text.encode()) is None


def test_the_largest_sums() -> None:
    """The largest number is Redis's; what would be larger is no number, and leaves the old one."""
    driver = Driver()
    largest = f"{LARGEST:f}"
    driver.write([b"set", b"n", largest.encode()])
    assert driver.run("incrbyfloat n 0") == largest.encode()
    assert driver.run("incrbyfloat n 1") == Failure("ERR", "increment would produce NaN or Infinity")
    assert driver.run("incrbyfloat n inf") == driver.run("incrbyfloat m -Infinity") == driver.run("incrbyfloat n 1")
    assert driver.read("get n") == largest.encode()
    assert driver.read("exists m") == 0
    smallest = parse_decimal(b"4e-4951")
    assert smallest is not None
    assert spell(smallest) == b"0"


def test_zero_has_any_exponent() -> None:
    """0 with an exponent that no number has is 0."""
    assert parse_decimal(b"0e99999999999999999999") == parse_decimal(b"-0.0E-99999999999999999999") == 0


# Each rule broken on purpose, and the test above that notices.


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(("method", "request_text"), [("write", "copy long k{n}"), ("answer", "set long v nx get")])
def test_values_that_are_not_counted_are_noticed(monkeypatch: pytest.MonkeyPatch, method: str, request_text: str) -> None:
    """If nothing counts what short commands write and answer, a pipeline of them fills the memory of every node."""
    monkeypatch.setattr(Budget, method, lambda *_: None)
    with pytest.raises(AssertionError):
        test_short_commands_cannot_fill_the_memory("long", request_text)


def test_a_sum_in_the_context_of_the_thread_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a sum is rounded by whatever context the thread has, replicas differ."""

    class Careless:
        """Does in the context of the thread what `decimal.Context` does in its own."""

        def __getattr__(self, name: str) -> object:
            return getattr(decimal.getcontext(), name)

    monkeypatch.setattr(decimals, "EXACT", Careless())
    with pytest.raises(AssertionError):
        test_a_sum_does_not_depend_on_the_context_of_the_thread.hypothesis.inner_test(  # type: ignore[attr-defined]
            decimal.Decimal("123.25"), decimal.Decimal("0.001"), 3, "ROUND_UP"
        )


def test_a_comparison_after_the_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If SET IFEQ writes whatever is there, two clients both believe to have been first."""
    monkeypatch.setattr(string_commands, "holds", lambda *_: True)
    with pytest.raises(AssertionError):
        test_set_and_delex_compare_the_value_first("ifeq v", "w", allowed=False)


def test_a_rename_without_its_expiry_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If RENAME leaves the expiry behind, a lock that was renamed is held for ever."""

    def move(changes: Changes, key: bytes, to: bytes, before: Value, displaced: Value | None) -> None:
        changes.delete(key, before)
        changes.put(to, before.type, before.data, 0, displaced)

    monkeypatch.setattr(Changes, "move", move)
    with pytest.raises(AssertionError):
        test_a_renamed_key_keeps_its_expiry()


def test_commands_of_one_entry_read_long_values_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond are refused before they read, whatever they are; other keys, and the next entry, are not concerned."""
    monkeypatch.setattr(budget, "MAX_READ_BYTES", 3 * LONG)
    driver = Driver()
    driver.write([b"set", b"long", b"x" * LONG])
    replies = driver.write(*["setnx long 1"] * 3, "pexpire long 9 gt", "setnx long 1", "setnx n 1", "setnx n 1")
    assert replies[:4] == [0, 0, 0, 0]
    assert isinstance(replies[4], Failure)
    assert replies[5:] == [1, 0]
    assert driver.write("setnx long 1") == [0]


def test_a_transaction_compares_a_bounded_number_of_strings() -> None:
    """An LCS that the transaction has no time for is refused, and the next transaction has time again."""
    driver = Driver()
    driver.write([b"set", b"a", b"x" * 1500], [b"set", b"b", b"y" * 1500])
    whole = Transaction((), encode_commands([parse_request([b"lcs", b"a", b"b", b"len"])] * 3))
    for _ in range(2):
        applied = driver.apply(batch([Group(0, driver.session, driver.next, 0, 1, encode_commands([whole]))], driver.now_ms))
        driver.next += 1
        [replies] = applied.groups[0].replies
        assert isinstance(replies, list)
        assert replies[0] == 0
        assert isinstance(replies[1], Failure)
