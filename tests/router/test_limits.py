"""What is bounded, what is refused, and what cannot disturb anything else."""

from __future__ import annotations

import pytest

from raftkv.errors import InvalidSettings
from raftkv.kv.replies import OK, Failure, Reply, Simple
from raftkv.raft.ready import Role
from raftkv.router import RouterSettings
from tests.router.stand import Stand

OVERLOADED = Failure("OVERLOADED", "this node holds as many requests as it may; wait and try again")
PONG = Simple("PONG")


def codes(replies: list[Reply]) -> list[str]:
    """The first words of errors, and 'ok' for anything else."""
    return [reply.code if isinstance(reply, Failure) else "ok" for reply in replies]


def test_requests_beyond_the_bound_are_refused() -> None:
    """A node holds at most `max_commands` requests of its clients; more are OVERLOADED, and surely do not happen."""
    stand = Stand(max_commands=3)
    stand.router.open(2, "")
    stand.lead()
    stand.do("INCR a", "INCR a")
    assert stand.do("INCR a", "INCR a", connection=2) == [OVERLOADED, OVERLOADED]
    stand.commit()
    stand.do("INCR a", connection=2)
    stand.commit()
    assert stand.answers(2)[2:] == [3]


def test_bytes_beyond_the_bound_are_refused() -> None:
    """The bytes of what is held are bounded too."""
    stand = Stand(max_bytes=100)
    stand.router.open(2, "")
    stand.lead()
    stand.do("SET a " + "x" * 60)
    assert stand.do("SET b " + "x" * 60, connection=2) == [OVERLOADED]
    stand.commit()
    stand.do("SET b " + "x" * 60, connection=2)
    stand.commit()
    assert stand.answers(2) == [OVERLOADED, OK]


def test_a_refusal_keeps_its_place_among_the_replies() -> None:
    """A connection whose own requests fill the node gets the refusal after the replies before it."""
    stand = Stand(max_commands=2)
    stand.lead()
    stand.do("INCR a", "INCR a")
    stand.do("INCR a", "PING")
    assert stand.answers() == []
    stand.commit()
    assert stand.answers() == [1, 2, OVERLOADED, OVERLOADED]


def test_an_overloaded_node_still_answers_for_itself() -> None:
    """Commands that concern the node or the connection are answered also under load, as long as they need not wait."""
    stand = Stand(max_commands=1)
    stand.router.open(2, "")
    stand.lead()
    stand.do("INCR a")
    assert codes(stand.do("PING", "HELLO", "INCR a", "INFO", connection=2)) == ["ok", "ok", "OVERLOADED", "ok"]


def test_clients_that_leave_free_what_they_held() -> None:
    """Disconnecting gives the room back, wherever the requests were."""
    stand = Stand(max_commands=4)
    for connection in (2, 3):
        stand.router.open(connection, "")
    stand.lead()
    stand.do("INCR a", "GET a")
    stand.do("GET a", "INCR a", connection=2)
    stand.router.closed(1)
    stand.router.closed(2)
    stand.do(*["INCR a"] * 4, connection=3)
    stand.commit()
    assert codes(stand.answers(3)) == ["ok"] * 4


def test_a_callback_that_raises_disturbs_nobody_else() -> None:
    """Hazard 28: when handing replies to a client raises, that client is given up; applying and other clients go on."""
    stand = Stand()
    stand.router.open(2, "")
    stand.lead()
    stand.ask("INCR a")
    stand.do("INCR a", connection=2)
    stand.broken.add(1)
    stand.commit()
    assert stand.answers(2) == [2]
    assert isinstance(stand.router.last_reply_error, ConnectionResetError)
    stand.do("INCR a", connection=2)
    stand.commit()
    assert stand.answers(2) == [2, 3]
    assert stand.replica.applied_index == 2
    stand.do("INCR a", connection=1)
    assert len(stand.batches()) == 2
    stand.router.closed(1)
    assert stand.router.idle


def test_replies_never_leave_while_applying() -> None:
    """Hazard 28: applying an entry calls no client; the end of the iteration does."""
    stand = Stand()
    stand.lead()
    stand.do("INCR a")
    stand.apply(stand.replica.log[0])
    assert stand.deliveries == []
    stand.flush()
    assert stand.answers() == [1]


def test_a_node_that_rebuilds_refuses() -> None:
    """A fenced node answers reads and writes with CLUSTERDOWN at once, also those that wait, and says why."""
    stand = Stand()
    stand.change(Role.FOLLOWER, None, 1)
    stand.do("INCR a", "GET a")
    stand.replica.ready_to_serve = False
    stand.pass_time(20)
    rebuilding = Failure("CLUSTERDOWN", "this node is rebuilding its state; ask another node")
    assert stand.answers() == [rebuilding, rebuilding]
    assert stand.do("INCR a", "READONLY", "GET a", "PING") == [rebuilding, OK, rebuilding, PONG]
    stand.replica.ready_to_serve = True
    stand.lead(2)
    stand.do("READWRITE", "INCR a")
    stand.commit()
    assert stand.answers()[-1] == 1


def test_a_node_that_rebuilds_keeps_what_may_have_happened() -> None:
    """Writes that left before the node was fenced are answered when the state is there again."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    (group,) = stand.forwarded()
    stand.replica.ready_to_serve = False
    stand.pass_time(20)
    assert stand.answers() == []
    stand.replica.ready_to_serve = True
    stand.commit_groups(group)
    assert stand.answers() == [1]


def test_a_stopping_node_finishes_and_refuses() -> None:
    """After `drain` nothing new is taken up; it reports when everything has been answered."""
    stand = Stand()
    stand.lead()
    stand.do("INCR a")
    assert not stand.router.drain()
    stopping = Failure("CLUSTERDOWN", "this node is stopping; ask another node")
    stand.router.open(2, "")
    assert stand.do("INCR a", "PING", connection=2) == [stopping, PONG]
    assert not stand.router.drain()
    stand.commit()
    assert stand.answers() == [1]
    assert stand.router.drain()


def test_a_stopping_node_without_a_leader_does_not_wait() -> None:
    """What never left is refused at once when there is nobody to send it to."""
    stand = Stand()
    stand.change(Role.FOLLOWER, None, 1)
    stand.do("INCR a")
    stand.router.drain()
    stand.flush()
    assert codes(stand.answers()) == ["CLUSTERDOWN"]
    assert stand.router.drain()


def test_unknown_connections_are_ignored() -> None:
    """Requests of, and goodbyes to, connections that are not open change nothing."""
    stand = Stand()
    stand.lead()
    stand.do("INCR a", connection=99)
    stand.router.closed(99)
    stand.ask(connection=1)
    stand.flush()
    assert stand.batches() == []


def test_a_frame_that_is_not_for_the_router_is_a_bug() -> None:
    """The server hands over the router's frames only."""
    with pytest.raises(TypeError):
        Stand().receive("n2", "nonsense")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("timeout_ms", 0), ("max_commands", -1), ("max_retry_ms", 5), ("session_renewal_ms", 5_000)],
)
def test_settings_that_cannot_be_are_refused(setting: str, value: int) -> None:
    """The error names the setting and its value."""
    with pytest.raises(InvalidSettings, match=rf"{setting} is {value}"):
        RouterSettings(**{setting: value})
