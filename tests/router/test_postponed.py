"""WAIT: how many other nodes hold a write; and DEBUG SLEEP, which holds one connection and nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftkv.kv.batch import FORMAT_VERSION, Batch, encode_batch
from raftkv.kv.command import ConnectionCommand
from raftkv.kv.replies import OK, Simple
from raftkv.router.connection import Connection
from raftkv.router.postponed import Postponed
from tests.router.stand import WALL_MS, Stand
from tests.router.test_clients import listed

PONG = Simple("PONG")


def after_a_write(*, cluster: int = 5) -> Stand:
    """A leader of so many nodes, whose connection 1 has set a key in entry 1."""
    stand = Stand()
    stand.router.open(2, "127.0.0.1:50002")
    stand.replica.majority = cluster // 2 + 1
    stand.replica.copies = [0] * (cluster - 1)
    stand.lead()
    stand.ask("SET k v")
    stand.flush()
    stand.commit()
    return stand


def test_a_majority_is_known_at_once() -> None:
    """A write that was answered is on a majority of the nodes, whatever else is known: no count is below that."""
    stand = after_a_write()
    assert stand.do("WAIT 0 0", "WAIT 2 0", "WAIT -1 0") == [2, 2, 2]


def test_more_nodes_are_waited_for() -> None:
    """WAIT for more than that is answered when so many are known to hold the write, and not before; what is asked after it waits."""
    stand = after_a_write()
    assert stand.do("WAIT 3 0", "PING") == []
    stand.replica.copies = [1, 1, 0, 0]
    stand.flush()
    assert stand.answers()[1:] == []
    stand.replica.copies = [1, 1, 0, 1]
    stand.flush()
    assert stand.answers()[1:] == [3, PONG]
    assert stand.router.idle


def test_a_wait_ends_with_its_time() -> None:
    """After its time WAIT tells how many there are; 0 is no limit."""
    stand = after_a_write()
    stand.do("WAIT 4 500")
    stand.do("WAIT 4 0", connection=2)
    stand.replica.copies = [1, 1, 1, 0]
    stand.pass_time(499)
    assert stand.answers()[1:] == []
    stand.pass_time(1)
    assert stand.answers()[1:] == [3]
    stand.pass_time(1 << 40)
    assert stand.answers(2) == [4], "connection 2 has written nothing, and every node that is known has that"


def test_a_wait_is_for_the_writes_of_its_connection() -> None:
    """Who has written nothing waits for nobody; a later write of another connection does not count."""
    stand = after_a_write()
    stand.replica.copies = [1, 1, 1, 1]
    stand.ask("SET other v", connection=2)
    stand.flush()
    stand.commit()
    assert stand.do("WAIT 4 0") == [4]
    assert stand.do("WAIT 4 0", connection=2) == []
    stand.replica.copies = [2, 2, 2, 2]
    stand.flush()
    assert stand.answers(2)[1:] == [4]


def test_a_wait_in_a_pipeline_is_for_what_came_before_it() -> None:
    """WAIT behind a write waits until that is answered, and for it; the time begins then."""
    stand = after_a_write()
    stand.replica.copies = [1, 1, 1, 1]
    stand.ask("SET k w", "WAIT 4 300", "SET k x")
    stand.flush()
    stand.pass_time(200)
    stand.commit()
    assert stand.answers()[1:] == [OK]
    stand.pass_time(200)
    assert stand.answers()[2:] == []
    stand.pass_time(200)
    assert stand.answers()[2:] == [2]
    stand.commit()
    assert stand.answers()[3:] == [OK]


def test_a_forwarded_write_is_waited_for() -> None:
    """Another node than the leader knows the entry of its client's write when it has applied it. One whose reply was found in a snapshot is
    waited for at the index of the snapshot, which is no less."""
    stand = after_a_write()
    stand.follow("n2", 2)
    stand.ask("SET k w")
    stand.flush()
    groups = stand.forwarded()
    stand.commit_groups(*groups)
    assert stand.router._connections[1].written == 2
    stand.ask("SET k x")
    stand.flush()
    (group,) = stand.forwarded()
    payload = encode_batch(Batch(FORMAT_VERSION, 1, WALL_MS + 2000, [group]))
    stand.replica.machine.apply(3, 2, payload)
    stand.replica.machine.apply(4, 2, encode_batch(Batch(FORMAT_VERSION, 1, WALL_MS + 2000, [])))
    stand.router.snapshot_installed(stand.now_ms)
    stand.flush()
    assert stand.answers() == [OK, OK, OK]
    assert stand.router._connections[1].written == 4


def test_those_who_wait_are_blocked_clients() -> None:
    """INFO counts them and CLIENT LIST marks them."""
    stand = after_a_write()
    stand.do("WAIT 4 0")
    assert listed(stand.do("CLIENT LIST ID 1", connection=2)[0])[0]["flags"] == "b"
    assert stand.router.counts().blocked == 1


def test_a_client_that_is_gone_waits_no_more() -> None:
    """Nothing is kept of a connection that closes, or is closed, while it waits."""
    stand = after_a_write()
    stand.do("WAIT 4 0", "PING")
    stand.router.closed(1)
    stand.flush()
    assert stand.router.counts().blocked == 0
    assert stand.router.idle


def test_a_node_that_stops_lets_nobody_wait() -> None:
    """A node that is told to stop answers what waits with what is known, and new ones at once, so that it can."""
    stand = after_a_write()
    stand.do("WAIT 4 0")
    assert not stand.router.drain()
    stand.flush()
    assert stand.answers()[1:] == [2]
    assert stand.do("WAIT 4 0") == [2]
    assert stand.router.drain()


def test_where_nothing_may_wait_the_count_is_told() -> None:
    """Executed by itself, as in a transaction, WAIT answers at once."""
    stand = after_a_write()
    connection = stand.router._connections[1]
    assert stand.router._desk.attend(connection, ConnectionCommand("wait", (b"4", b"0"))) == 2


@pytest.mark.parametrize(("request_", "ms"), [("DEBUG SLEEP 0.5", 500), ("debug sleep 2", 2000)])
def test_a_sleep_holds_one_connection(request_: str, ms: int) -> None:
    """DEBUG SLEEP answers after its time, while others are served."""
    stand = after_a_write()
    assert stand.do(request_, "PING") == []
    assert stand.do("PING", connection=2) == [PONG]
    stand.pass_time(ms - 1)
    assert stand.answers()[1:] == []
    stand.pass_time(1)
    assert stand.answers()[1:] == [OK, PONG]


def test_no_time_is_no_sleep() -> None:
    """What is no positive number of seconds is not slept, and nothing lasts so long that it overflows."""
    stand = after_a_write()
    assert stand.do("DEBUG SLEEP 0", "DEBUG SLEEP -1", "DEBUG SLEEP x", "DEBUG SLEEP nan") == [OK] * 4
    assert stand.do("DEBUG SLEEP inf") == []
    stand.pass_time(1 << 40)
    assert stand.answers()[5:] == []


# Planted faults.


def count_whoever_is_known(patch: pytest.MonkeyPatch) -> None:
    """Every node that is known is taken for one that holds the write."""
    patch.setattr(Postponed, "nodes_with", lambda postponed, index: len(postponed._replica.copies))


def forget_what_was_written(patch: pytest.MonkeyPatch) -> None:
    """A connection does not remember the entry of its last write."""
    answered = Connection.writes_answered
    patch.setattr(Connection, "writes_answered", lambda client, ticket, replies, index: answered(client, ticket, replies, 0))


def claim_the_first_write(patch: pytest.MonkeyPatch) -> None:
    """A connection waits for its first write only."""
    answered = Connection.writes_answered
    patch.setattr(
        Connection,
        "writes_answered",
        lambda client, ticket, replies, index: answered(client, ticket, replies, client.written or index),
    )


def wait_for_nobody(patch: pytest.MonkeyPatch) -> None:
    """WAIT is answered as soon as it is met."""
    patch.setattr(Postponed, "may_answer", lambda postponed, connection, command, now_ms: True)


def look_at_nothing_new(patch: pytest.MonkeyPatch) -> None:
    """Acknowledgements that arrive end no wait."""
    patch.setattr(Postponed, "look", lambda postponed, now_ms: None)


TESTS = (
    test_more_nodes_are_waited_for,
    test_a_wait_ends_with_its_time,
    test_a_wait_in_a_pipeline_is_for_what_came_before_it,
    test_a_wait_is_for_the_writes_of_its_connection,
)
PLANTS = (count_whoever_is_known, forget_what_was_written, claim_the_first_write, wait_for_nobody, look_at_nothing_new)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_faults_are_caught(monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    """A router with this fault does not pass the tests above."""
    plant(monkeypatch)
    caught = 0
    for test in TESTS:
        try:
            test()
        except AssertionError:
            caught += 1
    assert caught
