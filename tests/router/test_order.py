"""The order of the commands of a connection, and of their replies."""

from __future__ import annotations

from raftkv.errors import Busy
from raftkv.kv.replies import OK, Failure, Simple
from tests.router.stand import Stand

PONG = Simple("PONG")
SYNTAX = Failure("ERR", "syntax error")


def test_a_run_of_writes_is_issued_together() -> None:
    """Pipelined writes share one group, without waiting for one another."""
    stand = Stand()
    stand.lead()
    assert stand.do("SET a 1", "SET b 2", "INCR a") == []
    (batch,) = stand.batches()
    assert [(group.first, group.count) for group in batch.groups] == [(1, 3)]
    stand.commit()
    assert stand.answers() == [OK, OK, 2]


def test_a_read_waits_for_the_writes_before_it() -> None:
    """A pipelined read is not even asked before the write before it has been answered."""
    stand = Stand()
    stand.lead()
    assert stand.do("SET a 1", "GET a") == []
    assert stand.replica.contexts == []
    stand.commit()
    assert stand.answers() == [OK]
    assert len(stand.replica.contexts) == 1
    stand.confirm()
    assert stand.answers() == [OK, b"1"]


def test_a_read_of_a_forwarding_node_waits_for_the_writes_before_it() -> None:
    """Hazard 58: a write and a read of one connection are never on their way at the same time."""
    stand = Stand()
    stand.follow()
    stand.do("SET a 1", "GET a")
    groups = stand.forwarded()
    assert len(groups) == 1
    stand.commit_groups(*groups)
    assert len(stand.forwarded_reads()) == 1


def test_a_write_waits_for_the_reads_before_it() -> None:
    """A read does not see the effect of a write that was sent after it."""
    stand = Stand()
    stand.lead()
    assert stand.do("GET a", "GET b", "SET a 1") == []
    assert stand.batches() == []
    stand.confirm()
    assert stand.answers() == [None, None]
    stand.commit()
    assert stand.answers() == [None, None, OK]


def test_reads_of_a_run_share_a_round() -> None:
    """Pipelined reads need one read point."""
    stand = Stand()
    stand.lead()
    stand.do("GET a", "EXISTS a", "GET b")
    assert len(stand.replica.contexts) == 1
    stand.confirm()
    assert stand.answers() == [None, 0, None]


def test_commands_of_the_connection_wait_for_everything_before_them() -> None:
    """PING is answered at its turn, and what follows it waits for it too."""
    stand = Stand()
    stand.lead()
    assert stand.do("SET a 1", "PING", "SET b 2") == []
    assert sum(group.count for batch in stand.batches() for group in batch.groups) == 1
    stand.commit()
    assert stand.answers() == [OK, PONG]
    stand.commit()
    assert stand.answers() == [OK, PONG, OK]


def test_an_error_waits_for_the_replies_before_it() -> None:
    """A request that is wrong is answered at once, but its reply leaves after those before it, and nothing waits for it."""
    stand = Stand()
    stand.lead()
    assert stand.do("SET a 1", "SET a 1 NONSENSE", "INCR a") == []
    stand.commit()
    assert stand.answers() == [OK, SYNTAX, 2]


def test_replies_of_an_event_leave_together() -> None:
    """All the replies of a connection that one event makes are one call."""
    stand = Stand()
    stand.lead()
    stand.do("PING", "ECHO x", "NONSENSE", "PING y")
    assert [len(replies) for _, replies, _, _ in stand.deliveries] == [4]


def test_replies_leave_when_their_turn_has_come() -> None:
    """Of two groups of one connection, the replies of the first leave while the second is on its way."""
    stand = Stand(group_commands=2)
    stand.follow()
    stand.do("INCR a", "INCR a", "INCR a", "INCR a", "INCR a")
    first, second, third = stand.forwarded()
    stand.commit_groups(first)
    assert stand.answers() == [1, 2]
    stand.commit_groups(second, third)
    assert stand.answers() == [1, 2, 3, 4, 5]


def test_connections_do_not_wait_for_one_another() -> None:
    """A read of one connection does not wait for the writes of another."""
    stand = Stand()
    stand.lead()
    stand.router.open(2, "")
    stand.ask("SET a 1")
    assert stand.do("GET a", connection=2) == []
    stand.confirm()
    assert stand.answers(2) == [None]
    assert stand.answers(1) == []


def test_hello_changes_how_later_replies_are_written() -> None:
    """The replies before HELLO leave in the old version of the protocol, its own and later ones in the new."""
    stand = Stand()
    stand.lead()
    stand.do("SET a 1", "PING", "HELLO 3", "PING", "HELLO 2", "PING")
    stand.commit()
    assert [(len(replies), protocol) for _, replies, protocol, _ in stand.deliveries] == [(2, 2), (2, 3), (2, 2)]


def test_quit_ends_the_connection_after_the_replies_before_it() -> None:
    """What follows QUIT is not executed; what came before it is answered first."""
    stand = Stand()
    stand.lead()
    stand.do("SET a 1", "QUIT", "SET b 2")
    stand.commit()
    assert stand.deliveries == [(1, [OK, OK], 2, True)]
    stand.do("SET c 3")
    stand.router.closed(1)
    assert len(stand.batches()) == 1
    assert stand.router.idle


def test_later_submissions_queue_behind_earlier_ones() -> None:
    """Requests that arrive while others wait keep their order across submissions."""
    stand = Stand()
    stand.lead()
    stand.do("SET a 1", "GET a")
    stand.do("INCR a")
    stand.do("GET a", "PING")
    for _ in range(4):
        stand.commit()
        stand.confirm()
    assert stand.answers() == [OK, b"1", 2, b"2", PONG]


def test_a_blind_write_may_follow_writes_that_are_not_answered() -> None:
    """Writes of later submissions join those on their way, in order."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    stand.do("INCR a")
    groups = stand.forwarded()
    assert [group.first for group in groups] == [1, 2]
    stand.commit_groups(*groups)
    assert stand.answers() == [1, 2]


def test_each_request_of_a_pipeline_has_its_own_time() -> None:
    """Reads and writes that alternate wait for each other. As long as they are answered in turn, none is late, however long all take."""
    stand = Stand(timeout_ms=1000)
    stand.lead()
    stand.do(*["INCR a", "GET a"] * 10)
    for number in range(1, 11):
        stand.pass_time(400)
        stand.commit()
        stand.pass_time(400)
        stand.confirm()
        assert stand.answers() == [reply for each in range(1, number + 1) for reply in (each, b"%d" % each)]


def test_what_waits_behind_a_late_request_gets_no_more_time() -> None:
    """When a request is late, those of the same pipeline are refused with it: no progress means one timeout, not one for each."""
    stand = Stand(timeout_ms=1000)
    stand.lead()
    stand.do(*["INCR a", "GET a"] * 10)
    stand.pass_time(900)
    stand.commit()
    stand.replica.refusal = Busy("too much is in flight")
    stand.confirm()
    stand.pass_time(900)
    assert stand.answers() == [1, b"1"]
    stand.pass_time(100)
    failures = stand.answers()[2:]
    assert [reply.code for reply in failures if isinstance(reply, Failure)] == ["OVERLOADED"] * 18
