"""WAIT: how many other nodes hold a write; and DEBUG SLEEP, which holds one connection and nobody else."""

from __future__ import annotations

import pytest

from raftkv.kv.command import ConnectionCommand
from raftkv.kv.replies import OK, Simple
from tests.router.stand import Stand
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


def test_a_state_that_jumps_counts_as_written() -> None:
    """A write whose reply was found in a snapshot is waited for like any other: at the index of the snapshot, which is no less."""
    stand = after_a_write()
    stand.follow("n2", 2)
    stand.ask("SET k w")
    stand.flush()
    stand.commit_groups(*stand.forwarded())
    assert stand.router._connections[1].written == 2


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
