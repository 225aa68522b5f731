"""MULTI, EXEC, DISCARD, WATCH and UNWATCH at one router: replies and errors as Redis 7.0.15 gives them, order, bounds and outcomes."""

from __future__ import annotations

import pytest

from raftkv.codec.peer import ReadAnswers
from raftkv.kv.commands import decode_writes
from raftkv.kv.replies import NO_ARRAY, OK, Failure, Reply, Simple, encode_replies
from raftkv.kv.transactions import Transaction
from raftkv.raft.ready import Role
from raftkv.router.transactions import ABORTED, NOT_INSIDE, QUEUED
from tests.router.stand import Stand

PONG = Simple("PONG")
OVERLOADED = "OVERLOADED"


def err(message: str, code: str = "ERR") -> Failure:
    """An error reply."""
    return Failure(code, message)


def leading(**settings: int) -> Stand:
    """A stand that leads."""
    stand = Stand(**settings)
    stand.lead()
    return stand


def ask(stand: Stand, *lines: str | list[bytes], connection: int = 1) -> list[Reply]:
    """Submit requests in one piece and let the cluster work until nothing moves; what was answered since."""
    before = len(stand.answers(connection))
    stand.do(*lines, connection=connection)
    settle(stand)
    return stand.answers(connection)[before:]


def settle(stand: Stand) -> None:
    """Commit and confirm everything."""
    while len(stand.replica.log) > stand.replica.applied_index or stand.replica.contexts:
        stand.commit()
        stand.confirm()


def codes(replies: list[Reply]) -> list[Reply | str]:
    """The replies, failures by their codes."""
    return [reply.code if isinstance(reply, Failure) else reply for reply in replies]


EXCHANGES: dict[str, list[tuple[str, Reply]]] = {
    "nothing begun": [
        ("EXEC", err("EXEC without MULTI")),
        ("DISCARD", err("DISCARD without MULTI")),
        ("UNWATCH", OK),
        ("WATCH", err("wrong number of arguments for 'watch' command")),
        ("MULTI x", err("wrong number of arguments for 'multi' command")),
        ("EXEC x", err("Transaction discarded because of: wrong number of arguments for 'exec' command", "EXECABORT")),
        ("DISCARD x", err("wrong number of arguments for 'discard' command")),
        ("UNWATCH x", err("wrong number of arguments for 'unwatch' command")),
        ("GET a", None),
    ],
    "empty": [("MULTI", OK), ("EXEC", []), ("EXEC", err("EXEC without MULTI"))],
    "nested": [("MULTI", OK), ("MULTI", err("MULTI calls can not be nested")), ("SET a 1", QUEUED), ("EXEC", [OK])],
    "watch inside": [("MULTI", OK), ("WATCH a", err("WATCH inside MULTI is not allowed")), ("EXEC", [])],
    "unwatch inside": [("MULTI", OK), ("UNWATCH", QUEUED), ("GET a", QUEUED), ("EXEC", [OK, None])],
    "unknown": [
        ("MULTI", OK),
        ("SET a 1", QUEUED),
        ("NONSENSE 1", err("unknown command 'NONSENSE', with args beginning with: '1' ")),
        ("SET a 2", QUEUED),
        ("EXEC", ABORTED),
        ("GET a", None),
    ],
    "arity": [("MULTI", OK), ("GET", err("wrong number of arguments for 'get' command")), ("EXEC", ABORTED), ("PING", PONG)],
    "exec with arguments": [
        ("MULTI", OK),
        ("SET a 1", QUEUED),
        ("EXEC x", err("Transaction discarded because of: wrong number of arguments for 'exec' command", "EXECABORT")),
        ("EXEC", err("EXEC without MULTI")),
        ("GET a", None),
    ],
    "discard with arguments": [("MULTI", OK), ("DISCARD x", err("wrong number of arguments for 'discard' command")), ("EXEC", ABORTED)],
    "discard": [("MULTI", OK), ("SET a 1", QUEUED), ("DISCARD", OK), ("GET a", None), ("EXEC", err("EXEC without MULTI"))],
    "errors of arguments and of values": [
        ("MULTI", OK),
        ("SET a 1 EX x", QUEUED),
        ("SET a x", QUEUED),
        ("INCR a", QUEUED),
        ("GET a", QUEUED),
        ("EXEC", [err("value is not an integer or out of range"), OK, err("value is not an integer or out of range"), b"x"]),
    ],
    "what concerns the connection": [
        ("MULTI", OK),
        ("PING", QUEUED),
        ("CLIENT SETNAME me", QUEUED),
        ("INCR a", QUEUED),
        ("CLIENT GETNAME", QUEUED),
        ("SELECT 9", QUEUED),
        ("ECHO x", QUEUED),
        ("INCR a", QUEUED),
        ("EXEC", [PONG, OK, 1, b"me", err("DB index is out of range"), b"x", 2]),
    ],
    "nothing but what concerns the connection": [("MULTI", OK), ("PING", QUEUED), ("ECHO x", QUEUED), ("EXEC", [PONG, b"x"])],
    "what would change how replies are read": [("MULTI", OK), ("HELLO 3", NOT_INSIDE), ("EXEC", ABORTED)],
    "a change of leader": [("MULTI", OK), ("RAFTKV.TRANSFER", NOT_INSIDE), ("EXEC", ABORTED)],
    "quit": [("MULTI", OK), ("SET a 1", QUEUED), ("QUIT", OK)],
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_replies_are_those_of_redis(name: str) -> None:
    """Each request by itself, and all of them in one piece, get these replies."""
    lines = [line for line, _ in EXCHANGES[name]]
    expected = [reply for _, reply in EXCHANGES[name]]
    stand = leading()
    assert [reply for line in lines for reply in ask(stand, line)] == expected
    stand = leading()
    assert ask(stand, *lines) == expected


def test_a_transaction_is_one_command_of_the_log() -> None:
    """With what stands around it in a pipeline it is issued as one run of writes, and answered in its place."""
    stand = leading()
    assert stand.do("SET a 1", "MULTI", "INCR a", "GET a", "EXEC", "SET b 1", "INCR b") == []
    [batch] = stand.batches()
    [group] = batch.groups
    assert [type(command) is Transaction for command in decode_writes(group.commands)] == [False, True, False, False]
    stand.commit()
    assert stand.answers() == [OK, OK, QUEUED, QUEUED, [2, b"2"], OK, 2]


def test_a_transaction_waits_for_the_reads_before_it_and_reads_wait_for_it() -> None:
    """Its order on the connection is that of a write."""
    stand = leading()
    assert stand.do("GET a", "MULTI", "SET a 1", "EXEC", "GET a") == []
    assert stand.batches() == []
    stand.confirm()
    assert len(stand.batches()) == 1
    assert stand.replica.contexts == []
    settle(stand)
    assert stand.answers() == [None, OK, QUEUED, [OK], b"1"]


def test_a_change_of_what_is_watched_stops_the_transaction() -> None:
    """By another client, or by this one; and everything is forgotten with EXEC."""
    for changer in (1, 2):
        stand = leading()
        stand.router.open(2, "")
        assert ask(stand, "WATCH a b") == [OK]
        ask(stand, "SET b 1", connection=changer)
        assert ask(stand, "MULTI", "SET a 2", "EXEC", "GET a") == [OK, QUEUED, NO_ARRAY, None]
        assert ask(stand, "MULTI", "SET a 2", "EXEC") == [OK, QUEUED, [OK]]


def test_what_is_watched_and_not_changed_lets_the_transaction_happen() -> None:
    """Also when there is nothing in it, and when it is all sent in one piece."""
    stand = leading()
    assert ask(stand, "SET a 1", "WATCH a", "GET a", "MULTI", "INCR a", "EXEC") == [OK, OK, b"1", OK, QUEUED, [2]]
    assert ask(stand, "WATCH a", "SET a 1", "MULTI", "EXEC") == [OK, OK, OK, NO_ARRAY]
    assert ask(stand, "WATCH a", "MULTI", "PING", "EXEC") == [OK, OK, QUEUED, [PONG]]


@pytest.mark.parametrize("forget", [["UNWATCH"], ["MULTI", "DISCARD"], ["MULTI", "EXEC x"], ["MULTI", "GET", "EXEC"]])
def test_what_is_not_watched_any_more_may_change(forget: list[str]) -> None:
    """UNWATCH, DISCARD and every end of a transaction forget what was watched; also when WATCH has not even been answered then."""
    for pieces in (1, 2):
        stand = leading()
        if pieces == 1:
            ask(stand, "WATCH a", *forget)
        else:
            ask(stand, "WATCH a")
            ask(stand, *forget)
        assert ask(stand, "SET a 1", "MULTI", "INCR a", "EXEC")[-1] == [2]


def test_a_key_watched_again_is_watched_since_the_first_time() -> None:
    """A second WATCH does not make a change in between undone."""
    stand = leading()
    ask(stand, "WATCH a")
    ask(stand, "SET a 1")
    ask(stand, "WATCH a")
    assert ask(stand, "MULTI", "INCR a", "EXEC")[-1] == NO_ARRAY


def test_a_watch_that_failed_stops_the_transaction() -> None:
    """Whoever did not look at its reply is not taken for one who watches nothing."""
    stand = Stand(timeout_ms=100)
    stand.do("WATCH a")
    stand.pass_time(200)
    assert codes(stand.answers()) == ["CLUSTERDOWN"]
    stand.lead()
    assert ask(stand, "MULTI", "SET a 1", "EXEC") == [OK, QUEUED, NO_ARRAY]
    assert ask(stand, "MULTI", "SET a 1", "EXEC") == [OK, QUEUED, [OK]]


def test_what_is_watched_is_asked_of_the_leader() -> None:
    """A node that follows forwards WATCH as a read and EXEC as a write, which it sends again under the same number."""
    stand = Stand()
    stand.follow("n2")
    stand.do("WATCH a", "MULTI", "INCR a", "EXEC")
    [frame] = stand.forwarded_reads()
    assert frame.count == 1
    stand.receive("n2", ReadAnswers(frame.id, encode_replies([[-1]])))
    [group] = stand.forwarded()
    stand.follow("n3", term=2)
    assert stand.forwarded() == [group]
    stand.commit_groups(group, group)
    assert stand.answers() == [OK, OK, QUEUED, [1]]


def test_a_local_connection_watches_what_it_sees() -> None:
    """A READONLY connection learns the revision from the state of its node; the transaction is checked where it is applied all the same."""
    stand = leading()
    assert ask(stand, "READONLY", "WATCH a", "MULTI", "INCR a", "EXEC") == [OK, OK, OK, QUEUED, [1]]
    stand.router.open(2, "")
    stand.ask("SET a 5", connection=2)
    stand.do("WATCH a", "MULTI", "INCR a", "EXEC")  # in one piece, and another's write is on its way ahead of it
    settle(stand)
    assert stand.answers()[-1] == NO_ARRAY
    ask(stand, "WATCH a")
    ask(stand, "SET a 7", connection=2)
    assert ask(stand, "MULTI", "INCR a", "EXEC")[-1] == NO_ARRAY


def test_a_transaction_has_the_deadline_of_its_exec() -> None:
    """What was queued long ago is not late; EXEC without an answer in time may have happened."""
    stand = leading(timeout_ms=100)
    assert ask(stand, "MULTI", "INCR a") == [OK, QUEUED]
    stand.pass_time(1000)
    assert ask(stand, "EXEC") == [[1]]
    stand.do("MULTI", "INCR a", "EXEC")
    stand.pass_time(200)
    assert codes(stand.answers()[-3:]) == [OK, QUEUED, "UNCERTAIN"]
    stand = Stand(timeout_ms=100)
    stand.do("MULTI", "INCR a", "EXEC")
    stand.pass_time(200)
    assert codes(stand.answers()) == [OK, QUEUED, "CLUSTERDOWN"]


def test_a_node_that_serves_nothing_takes_no_transaction() -> None:
    """Requests after MULTI are refused, and so is EXEC; what was watched and queued is forgotten."""
    stand = leading()
    ask(stand, "MULTI", "SET a 1")
    stand.replica.ready_to_serve = False
    down = "CLUSTERDOWN"
    assert codes(ask(stand, "SET b 1", "EXEC", "MULTI", "EXEC", "WATCH a")) == [down, "EXECABORT", OK, down, down]
    stand.replica.ready_to_serve = True
    assert ask(stand, "EXEC", "GET a", "MULTI", "GET b", "EXEC") == [err("EXEC without MULTI"), None, OK, QUEUED, NO_ARRAY]


def test_a_transaction_is_as_large_as_an_entry_at_most() -> None:
    """What is queued beyond that is refused with the limit named, is not kept, and nothing of the transaction is done."""
    stand = leading(max_entry_bytes=1000)
    refusal = err("the transaction has more than 1000 bytes, which is max_entry_bytes; nothing of it is done")
    value = "x" * 400
    assert ask(stand, "MULTI", f"SET a {value}", f"SET b {value}", f"SET c {value}") == [OK, QUEUED, QUEUED, refusal]
    assert (stand.router._transactions.account.commands, stand.router._transactions.account.size) == (0, 0)
    assert ask(stand, "SET d 1", "EXEC", "EXISTS a b d") == [QUEUED, ABORTED, 0]
    assert ask(stand, "MULTI", "SET a " + "x" * 994, "EXEC", "GET a") == [OK, QUEUED, [OK], b"x" * 994]
    many = ["MULTI", *["INCR n"] * 48]
    assert ask(stand, *many, "EXEC")[-1] == [*range(1, 49)]
    assert ask(stand, *many, "INCR n", "EXEC")[-2:] == [refusal, ABORTED]
    keys = [b"%d%s" % (number, b"k" * 100) for number in range(8)]
    assert ask(stand, [b"WATCH", *keys[:6]], "MULTI", f"SET a {value}", "EXEC") == [OK, OK, QUEUED, refusal]
    ask(stand, [b"WATCH", *keys[:6]])
    assert ask(stand, "MULTI", f"SET a {value}", "EXEC", "EXISTS a") == [OK, refusal, ABORTED, 1]
    assert ask(stand, [b"WATCH", *keys, b"k" * 100], "MULTI", "SET a 1", "EXEC") == [refusal, OK, QUEUED, NO_ARRAY]


def test_a_transaction_has_a_bounded_number_of_commands() -> None:
    """One command more is refused with the limit named, and nothing of the transaction is done."""
    stand = leading(transaction_commands=3)
    refusal = err("the transaction has more than 3 commands, which is the most; nothing of it is done")
    assert ask(stand, "MULTI", *["INCR n"] * 3, "EXEC")[-1] == [1, 2, 3]
    assert ask(stand, "MULTI", *["INCR n"] * 4, "EXEC", "GET n")[-3:] == [refusal, ABORTED, b"3"]


def test_a_transaction_whose_encoding_is_too_large_is_refused_by_exec() -> None:
    """What the arguments did not tell is told before anything is proposed, and the connection goes on."""
    stand = leading(max_entry_bytes=200)
    ask(stand, "MULTI", *["SET a 1"] * 8)
    stand.router._transactions._settings = leading(max_entry_bytes=20).settings
    assert codes(ask(stand, "EXEC", "GET a")) == ["ERR", None]


def test_what_is_queued_and_watched_counts_among_what_is_held() -> None:
    """Until EXEC it takes from the room of other transactions, then from that of requests; and nothing is left of it in the end."""
    stand = leading(max_bytes=1000)
    account = stand.router._transactions.account
    stand.router.open(2, "")
    for line in ("WATCH a", "MULTI", "SET b " + "x" * 500, "INCR n"):
        ask(stand, line)
    assert (account.commands, account.size) == (2, (1 + 16) + (504 + 16) + (5 + 16))
    assert codes(ask(stand, "MULTI", "SET c " + "x" * 600, "EXEC", connection=2)) == [OK, OVERLOADED, "EXECABORT"]
    assert codes(ask(stand, "WATCH " + "k" * 600, connection=2)) == [OVERLOADED]
    stand.do("EXEC")
    assert (account.commands, account.size) == (0, 0)
    assert codes(ask(stand, "SET c " + "x" * 600, connection=2)) == [OVERLOADED]
    settle(stand)
    assert stand.answers()[-1] == [OK, 1]
    assert (stand.router._held_commands, stand.router._held_bytes) == (0, 0)
    assert ask(stand, "SET c " + "x" * 600, connection=2) == [OK]


def test_a_client_that_leaves_gives_back_what_it_held() -> None:
    """In the middle of MULTI, and while its transaction is on its way, which runs on."""
    stand = leading()
    account = stand.router._transactions.account
    ask(stand, "WATCH a", "MULTI", "SET b 1")
    stand.router.closed(1)
    assert (account.commands, account.size) == (0, 0)
    stand.router.open(2, "")
    stand.do("WATCH a", "MULTI", "INCR b", "EXEC", connection=2)
    stand.confirm()
    assert len(stand.batches()) == 1
    stand.router.closed(2)
    assert (stand.router._held_commands, stand.router._held_bytes, account.size) == (0, 0, 0)
    settle(stand)
    stand.router.open(3, "")
    assert ask(stand, "GET b", connection=3) == [b"1"]


def test_an_abandoned_transaction_is_over() -> None:
    """What a connection that starts anew has to call leaves MULTI, and nothing is watched."""
    stand = leading()
    ask(stand, "WATCH a", "MULTI", "SET b 1")
    connection = stand.router._connections[1]
    assert connection.transaction.queued == 1
    connection.abandon_transaction()
    assert connection.transaction.queued == -1
    assert stand.router._transactions.account.size == 0
    assert ask(stand, "SET a 1", "EXEC") == [OK, err("EXEC without MULTI")]
    assert ask(stand, "MULTI", "GET b", "EXEC") == [OK, QUEUED, [None]]


@pytest.mark.parametrize("cut", range(1, 5))
def test_an_overloaded_node_executes_no_part_of_a_transaction_on_its_own(cut: int) -> None:
    """Wherever a pipeline is cut into pieces, of which one finds the node full: what was between MULTI and EXEC is all done or not at all,
    and what follows EXEC is executed again."""
    lines = ["MULTI", "SET a 1", "SET b 1", "SET c 1", "EXEC"]
    for full in range(3):
        stand = leading(max_bytes=2000)
        stand.replica.slow_disk = True
        stand.do("SET w 1")
        pieces = [["GET w", *lines[:cut]], lines[cut:], ["SET d 1"]]
        for number, piece in enumerate(pieces):
            if number == full:
                stand.router.open(2, "")
                stand.ask("SET big " + "x" * 1990, connection=2)
            stand.ask(*piece)
            if number == full:
                stand.router.closed(2)
        stand.flush()
        stand.replica.slow_disk = False
        stand.appended()
        settle(stand)
        answers = codes(stand.answers())
        assert len(answers) == len(["SET w 1", "GET w", *lines, "SET d 1"])
        executed = full == 2
        assert ([OK, OK, OK] in answers) is executed
        assert ask(stand, "EXISTS a b c", "EXISTS d") == [3 if executed else 0, 0 if executed else 1]


def test_requests_inside_are_answered_in_their_order() -> None:
    """QUEUED waits for the replies before it like any other."""
    stand = leading()
    assert stand.do("SET a 1", "MULTI", "SET b 1", "DISCARD") == []
    stand.commit()
    assert stand.answers() == [OK, OK, QUEUED, OK]


def test_quit_inside_waits_for_what_is_before_it() -> None:
    """It ends the connection when everything before it has been answered."""
    stand = leading()
    assert stand.do("SET a 1", "MULTI", "SET b 1", "QUIT") == []
    stand.commit()
    assert [close for *_, close in stand.deliveries] == [True]
    assert stand.answers() == [OK, OK, QUEUED, OK]


def test_a_transaction_survives_the_loss_of_the_lead() -> None:
    """It is sent again under its number to the next leader, and answered once."""
    stand = leading()
    stand.do("MULTI", "INCR a", "EXEC")
    [batch] = stand.batches()
    stand.replica.log.clear()
    stand.change(Role.FOLLOWER, "n2", 2)
    assert stand.forwarded() == list(batch.groups)
    stand.commit_groups(*batch.groups)
    assert stand.answers() == [OK, QUEUED, [1]]


def test_what_concerns_the_connection_is_not_executed_while_an_entry_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is executed when the replies leave, so that a failure in it cannot reach the machine."""
    stand = leading()
    stand.do("MULTI", "PING", "INCR a", "EXEC")

    attended: list[object] = []

    def attend(*args: object) -> Reply:
        attended.append(args)
        return PONG

    monkeypatch.setattr(stand.router._transactions, "_attend", attend)
    for payload in stand.replica.log:
        stand.apply(payload)
    assert attended == []
    stand.flush()
    assert len(attended) == 1
    assert stand.answers()[-1] == [PONG, 1]
