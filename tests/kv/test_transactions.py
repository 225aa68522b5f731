"""Transactions, applied: all or nothing if something watched has changed, and otherwise command after command as if each were alone."""

from __future__ import annotations

import msgspec
import pytest

from raftkv.errors import InvariantBroken
from raftkv.kv import commands as table
from raftkv.kv import families, session_commands, transactions
from raftkv.kv.batch import Group
from raftkv.kv.command import Command, Write
from raftkv.kv.commands import decode_writes, encode_commands, may_enter_log, parse_request
from raftkv.kv.counter_commands import IncrementBy
from raftkv.kv.keyspace import Keyspace
from raftkv.kv.replies import OK, Failure, Reply
from raftkv.kv.transactions import LEFT_OUT, Revisions, Transaction
from tests.kv.driver import Driver, Request, arguments, rows_of
from tests.kv.test_planted_faults import buggy

NOT_AN_INTEGER = Failure("ERR", "value is not an integer or out of range")


def transaction(*requests: Request, watches: tuple[tuple[bytes, int], ...] = ()) -> Transaction:
    """What EXEC proposes."""
    return Transaction(watches, encode_commands([parse_request(arguments(request)) for request in requests]))


class Client(Driver):
    """A driver that applies transactions, and watches."""

    def do(self, *commands: Command) -> list[Reply]:
        """Apply commands in one group."""
        group = Group(0, self.session, self.next, self.next - 1, len(commands), encode_commands(commands))
        self.next += len(commands)
        [answer] = self.groups(group)
        assert answer.problem is None
        return answer.replies

    def watch(self, *keys: bytes) -> tuple[tuple[bytes, int], ...]:
        """What WATCH remembers."""
        revisions = self.machine.read(Revisions(keys))
        assert isinstance(revisions, list)
        return tuple((key, revision) for key, revision in zip(keys, revisions, strict=True) if isinstance(revision, int))


def test_reads_and_writes_see_those_before_them() -> None:
    """A transaction answers each command as if they were sent one after the other."""
    client = Client()
    [replies] = client.do(transaction("get a", "set a 1", "incr a", "get a", "exists a b", "del a", "ttl a", "get a"))
    assert replies == [None, OK, 2, b"2", 1, 1, -2, None]


def test_a_command_that_fails_leaves_the_others_in_force() -> None:
    """It is answered in its place, and what it did is undone; what came before it stays and what comes after it is done."""
    client = Client()
    client.write("set text x")
    [replies, after] = client.do(transaction("set a 1", "incr text", "dbsize", "incr a"), parse_request(arguments("incr a")))
    assert isinstance(replies, list)
    assert replies == [OK, NOT_AN_INTEGER, Failure("ERR", "the number of keys cannot be told inside of a transaction"), 2]
    assert after == 3


def test_a_bug_in_a_command_of_a_transaction_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted, undone and answered; the rest of the transaction goes on."""
    client = Client()
    client.write("set half empty")
    monkeypatch.setattr(IncrementBy, "apply", buggy)
    [replies] = client.do(transaction("set a 1", "incr a", "get half"))
    assert replies == [OK, Failure("ERR", "internal error; the command had no effect"), b"empty"]


CHANGES: dict[str, list[Request]] = {
    "written": ["set k 2"],
    "written the same": ["set k 1"],
    "deleted": ["del k"],
    "deleted and made again": ["del k", "set k 1"],
    "given a time": ["pexpire k 100000"],
    "all deleted": ["flushall"],
    "all deleted, and made again": ["flushall", "set k 1"],
}


def check_a_change_is_noticed(change: list[Request]) -> None:
    """A transaction that watches `k` does nothing after `change`, and is done without it."""
    for changes in (False, True):
        client = Client()
        client.write("set k 1")
        watches = client.watch(b"k", b"other")
        client.write("set something else")
        if changes:
            client.write(*change)
        before = client.read("get k")
        assert client.do(transaction("set done 1", watches=watches)) == ([None] if changes else [[OK]])
        assert client.read("get done") == (None if changes else b"1")
        assert client.read("get k") == before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_key_that_was_changed_stops_the_transaction(change: list[Request]) -> None:
    """Whatever was done to it, nothing of the transaction is done."""
    check_a_change_is_noticed(change)


COMINGS: dict[str, list[Request]] = {
    "deleted": ["set k 1", "del k"],
    "all deleted": ["set k 1", "flushall"],
    "due at once": ["set k 1", "pexpire k -1"],
}


def check_a_key_that_came_and_went_is_noticed(coming: list[Request], together: bool) -> None:
    """A transaction that watches `k`, which is not there, does nothing after `k` came and went."""
    client = Client()
    watches = client.watch(b"k")
    if together:
        client.write(*coming)
    else:
        for request in coming:
            client.write(request)
    assert client.read("exists k") == 0
    assert client.do(transaction("set done 1", watches=watches)) == [None]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("coming", COMINGS.values(), ids=COMINGS)
def test_a_key_that_came_and_went_stops_the_transaction(coming: list[Request], together: bool) -> None:
    """A key that is absent now as it was when it was watched has changed if it was there in between; also within one entry."""
    check_a_key_that_came_and_went_is_noticed(coming, together)


@pytest.mark.parametrize("together", [False, True])
def test_a_key_that_expires_has_changed(together: bool) -> None:
    """Also one that was not there when it was watched, and one whose row has not been deleted yet: the transaction is in the batch whose
    stamp lets it expire, or in a later one."""
    for there in (False, True):
        client = Client()
        if there:
            client.write("set k 1 px 50")
        watches = client.watch(b"k")
        if not there:
            client.write("set k 1 px 50")
        client.now_ms += 100
        if not together:
            client.groups()
        assert client.do(transaction("set done 1", watches=watches)) == [None]


def test_what_has_expired_does_not_change_when_its_row_goes_away() -> None:
    """A key that had expired when it was watched may be deleted for that, and the transaction is done."""
    client = Client()
    client.write("set k 1 px 50", "del other")
    client.now_ms += 100
    client.machine._first_due_ms = None  # nothing deletes it in the next batch
    client.groups()
    watches = client.watch(b"k")
    client.machine._first_due_ms = 0
    client.groups()
    assert client.machine.next_expiry_ms is None
    assert client.do(transaction("set done 1", watches=watches)) == [[OK]]


def test_deleting_all_of_nothing_changes_nothing() -> None:
    """FLUSHALL without a key is no change of a key that is not there; neither is one that is undone, or in the entry itself."""
    client = Client()
    client.write("set old 1", "del old")
    watches = client.watch(b"k", b"old")
    client.write("flushall")
    assert client.do(transaction("flushall", "exists k", watches=watches)) == [[OK, 0]]
    assert client.watch(b"k", b"old") == watches


def test_a_deletion_is_remembered_when_all_keys_go_in_the_same_entry() -> None:
    """FLUSHALL deletes keys, and not what is known of their deletions."""
    client = Client()
    watches = client.watch(b"k")
    client.do(transaction("set k 1", "del k", "flushall"))
    client.write("set other 1")
    assert client.do(transaction("set done 1", watches=watches)) == [None]


def test_a_write_before_it_in_the_same_entry_counts() -> None:
    """Two transactions that watch the same may come in one entry: the first one wins."""
    client = Client()
    watches = client.watch(b"n")
    once = transaction("incr n", watches=watches)
    assert client.do(once, once) == [[1], None]
    assert client.read("get n") == b"1"


def test_a_retry_of_a_transaction_is_answered_what_it_was() -> None:
    """The session makes it happen once, and its list of replies is kept."""
    client = Client()
    client.write("set text x")
    sent = Group(0, b"other session   ", 1, 0, 1, encode_commands([transaction("incr n", "incr text")]))
    assert client.groups(sent) == client.groups(sent)
    assert client.groups(sent)[0].replies == [[1, NOT_AN_INTEGER]]
    assert client.read("get n") == b"1"


@pytest.mark.parametrize(
    "content",
    [
        b"junk",
        b"",
        encode_commands([transaction("set a 1")]),
        msgspec.msgpack.encode([[170, [], encode_commands([])]]),
        msgspec.msgpack.encode([[1, b"a", "no bytes"]]),
        msgspec.msgpack.encode([[170]]),
    ],
)
def test_what_is_no_list_of_commands_is_refused_by_the_leader_and_harmless(content: bytes) -> None:
    """A transaction in a transaction too: none enters the log, and one that did would be answered, alike everywhere, and do nothing."""
    sent = Transaction((), content)
    assert not may_enter_log(encode_commands([sent]))
    client = Client()
    before = rows_of(client.store)
    assert client.do(sent) == [Failure("ERR", "the commands of this transaction cannot be read; it had no effect")]
    assert [row for row in rows_of(client.store) if row[0].startswith(b"k")] == [row for row in before if row[0].startswith(b"k")]


def test_what_is_nested_too_deeply_never_enters_the_log() -> None:
    """The leader refuses it, because whether it can be read depends on the stack; should a replica meet it, it stops."""
    deep = Transaction((), b"\x91\x95\x01\xc4\x01a\xc4\x01b\xc0" + b"\x91" * 100_000 + b"\xc0")
    assert not may_enter_log(encode_commands([deep]))
    with pytest.raises(InvariantBroken, match="nested too deeply"):
        Client().do(deep)


def test_good_transactions_may_enter_the_log() -> None:
    """With watches, reads and writes, or empty; and so may writes that are none."""
    sound: list[Write] = [transaction(), transaction("get a", "set a 1", "flushall", watches=((b"a", -1), (b"", 2**62)))]
    data = encode_commands([*sound, parse_request(arguments("set a 1"))])
    assert may_enter_log(data)
    assert decode_writes(data)[:2] == sound


def test_everything_but_transactions_can_be_part_of_one() -> None:
    """A family of commands that is known outside of transactions is known inside, but for what numbers commands in a client's session."""
    assert {*families.COMMANDS, *transactions.COMMANDS, *session_commands.COMMANDS} == {*table._CLASSES}
    for kind in families.COMMANDS:
        assert not issubclass(kind, Transaction)


def test_the_replies_take_a_bounded_amount_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """When they would take more, large ones are left out, and reads are not even done; every write is, and small replies are given."""
    monkeypatch.setattr(transactions, "MAX_REPLY_BYTES", 300)
    client = Client()
    client.write([b"set", b"large", b"x" * 200])
    [replies] = client.do(transaction("get large", "set large y get", "get large", "set large " + "z" * 400, "get large", "incr n"))
    assert replies == [b"x" * 200, LEFT_OUT, b"y", OK, LEFT_OUT, 1]
    assert client.read("get large") == b"z" * 400
    [replies] = client.do(transaction("get large", "get large", "set n 5 get"))
    assert replies == [LEFT_OUT, LEFT_OUT, b"1"]


def test_a_watched_key_that_came_and_was_flushed_twice_in_one_entry_has_changed() -> None:
    """The second FLUSHALL, which finds nothing, does not hide the first."""
    client = Client()
    before = client.read("get k"), Keyspace(client.store, client.now_ms).revision(b"k")
    client.write("set k 1", "flushall", "flushall")
    assert client.read("get k") == before[0] is None
    assert Keyspace(client.store, client.now_ms).revision(b"k") != before[1]
