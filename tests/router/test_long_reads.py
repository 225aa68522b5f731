"""Reads that turn out to visit many elements: they leave the event loop, and the order of replies stays."""

from __future__ import annotations

from raftkv.codec.peer import ForwardReads, ReadAnswers
from raftkv.kv.hash_commands import GetAllFields
from raftkv.kv.keyspace import ELEMENTS_PER_TURN
from raftkv.kv.replies import Reply
from tests.router.stand import Stand

FIELDS = [b"%d" % number for number in range(ELEMENTS_PER_TURN + 1)]
WHOLE: Reply = dict.fromkeys(FIELDS, b"v")


def with_hash(**settings: int) -> Stand:
    """A stand whose machine holds a=1, a hash that takes long to read, and a small one."""
    stand = Stand(**settings)
    stand.lead()
    stand.do("SET a 1", [b"HSET", b"h", *(part for name in FIELDS for part in (name, b"v"))], "HSET small f v")
    stand.commit()
    stand.replies.clear()
    return stand


def finish_slow(stand: Stand) -> None:
    """What was handed to the other thread is executed there."""
    slow, stand.replica.slow = stand.replica.slow, []
    for command, done in slow:
        done(stand.replica.machine.view().read(command))


def test_a_long_read_leaves_the_loop_and_keeps_its_place() -> None:
    """At the leader: replies before it are not held up, those after it come after it, and another connection does not wait for it."""
    stand = with_hash()
    stand.router.open(2, "")
    stand.ask("GET a", "HGETALL h", "HGET h 5", "HGETALL small", "HLEN h")
    stand.do("GET a", connection=2)
    stand.confirm()
    assert stand.answers(2) == [b"1"]
    for _ in range(3):
        stand.flush()
    assert stand.answers() == [b"1"]
    assert [type(command) for command, _ in stand.replica.slow] == [GetAllFields]
    wakes = stand.wakes
    finish_slow(stand)
    assert stand.wakes > wakes
    for _ in range(3):
        stand.flush()
    assert stand.answers() == [b"1", WHOLE, b"v", {b"f": b"v"}, len(FIELDS)]


def test_a_write_behind_a_long_read_waits_for_it() -> None:
    """What a connection asked for last takes effect last: the long read does not see it."""
    stand = with_hash()
    stand.do("HGETALL h", "DEL h", "HLEN h")
    stand.confirm()
    stand.flush()
    stand.commit()
    assert stand.answers() == []
    finish_slow(stand)
    for _ in range(3):
        stand.flush()
        stand.commit()
        stand.confirm()
    assert stand.answers() == [WHOLE, 1, 0]


def test_a_local_long_read_leaves_the_loop_too() -> None:
    """On a connection that reads its node's own state."""
    stand = with_hash()
    stand.do("READONLY", "GET a", "HKEYS h", "HLEN small")
    for _ in range(3):
        stand.flush()
    finish_slow(stand)
    for _ in range(3):
        stand.flush()
    _, one, names, length = stand.answers()
    assert (one, length) == (b"1", 1)
    assert isinstance(names, list)
    assert {name for name in names if isinstance(name, bytes)} == set(FIELDS)


def test_a_long_read_from_a_follower_keeps_its_place() -> None:
    """The leader answers what comes before it, then it, then the rest, as often as it is asked; the client sees its own order."""
    leader, follower = with_hash(), Stand(session=9)
    follower.follow("n1", 1)
    follower.reachable.add("n1")
    follower.do("GET a", "HGETALL h", "HGET h 5", "HGETALL small", "HLEN h")
    rounds = 0
    while len(follower.answers()) < 5:
        rounds += 1
        assert rounds < 10, follower.answers()
        for _, value in follower.take_sent():
            assert isinstance(value, ForwardReads)
            leader.receive("n2", value)
        leader.confirm()
        finish_slow(leader)
        leader.flush()
        for node, value in leader.take_sent():
            assert node == "n2"
            assert isinstance(value, ReadAnswers)
            follower.receive("n1", value)
    assert rounds > 1
    assert follower.answers() == [b"1", WHOLE, b"v", {b"f": b"v"}, len(FIELDS)]
    assert leader.replica.slow == []
