"""What a client is in the middle of (a transaction, listening, waiting), and the commands that tell of it, end it or may not come then."""

from __future__ import annotations

import pytest

from raftkv.kv.replies import MUTED, NO_ARRAY, OK, Failure, Pushes, Simple, Verbatim
from raftkv.router.transactions import ABORTED, NOT_INSIDE, QUEUED
from raftkv.router.waiting import UNBLOCKED
from tests.router.stand import Stand
from tests.router.test_clients import listed
from tests.router.test_waiting import Node

PONG = Simple("PONG")


@pytest.fixture
def node() -> Node:
    """A leader with five clients."""
    return Node()


REFUSED_INSIDE = ("CLIENT REPLY OFF", "SAVE", "SHUTDOWN")


@pytest.mark.parametrize("wrong", ["OBJECT NOTHING a", "OBJECT ENCODING", "CLIENT NOTHING", "CONFIG GET", *REFUSED_INSIDE])
def test_what_may_not_be_queued_spoils_the_transaction(node: Node, wrong: str) -> None:
    """What is in no container, or takes another number of arguments there, is refused at once, and EXEC does nothing; so is what may
    stand in no transaction."""
    [begun, refused, queued, ended] = node.run("MULTI", wrong, "SET a 1", "EXEC")
    assert (begun, queued, ended) == (OK, QUEUED, ABORTED)
    assert isinstance(refused, Failure)
    assert (refused == NOT_INSIDE) == (wrong in REFUSED_INSIDE)


def test_containers_are_part_of_transactions(node: Node) -> None:
    """OBJECT reads what the transaction wrote; CLIENT, HELP and WAIT are answered in their places."""
    *_, replies = node.run("MULTI", "SET a 1", "OBJECT ENCODING a", "CLIENT ID", "OBJECT HELP", "WAIT 9 0", "EXEC")
    assert isinstance(replies, list)
    assert replies[:3] == [OK, b"int", 1]
    assert isinstance(replies[3], list)
    assert isinstance(replies[4], int)


def test_reset_ends_everything(node: Node) -> None:
    """After RESET, also inside of a transaction, nothing is queued, watched or listened to; what leaves before it is written as before."""
    node.run("WATCH w", "SUBSCRIBE a", "PSUBSCRIBE b", "RESET")
    node.confirm()
    assert node.answers()[-1] == Simple("RESET")
    node.run("SET w 1", connection=2)
    assert node.run("PUBLISH a 1", "PUBLISH b 1", connection=2) == [0, 0]
    assert node.run("MULTI", "SET w 2", "EXEC")[2] == [OK]
    node.run("HELLO 3")
    node.deliveries.clear()
    node.run("MULTI", "SET w 3", "RESET", "GET w")
    node.confirm()
    assert node.answers()[-4:] == [OK, QUEUED, Simple("RESET"), b"2"]
    assert [protocol for _, replies, protocol, _ in node.deliveries for _ in replies] == [3, 3, 2, 2]


def test_an_element_that_was_taken_is_a_write(node: Node) -> None:
    """WAIT behind a blocking pop that took an element counts who has the entry that took it; one that found nothing wrote nothing."""
    node.replica.majority = 1
    node.run("BLPOP q 0")
    node.run("CLIENT UNBLOCK 1", connection=2)
    node.replica.copies = [0]
    assert node.run("WAIT 1 0") == [1]
    node.run("BLPOP q 0")
    node.run("RPUSH q x", connection=2)
    taken = node.replica.applied_index
    assert node.run("WAIT 1 0") == []
    node.replica.copies = [taken - 1]
    assert node.run() == []
    node.replica.copies = [taken]
    node.settle()
    assert node.answers() == [NO_ARRAY, 1, [b"q", b"x"], 1]


def test_waiting_for_copies_can_be_ended(node: Node) -> None:
    """CLIENT UNBLOCK ends WAIT like its time, or with an error, and says whether the client waited; both kinds of waiting are counted."""
    node.run("WAIT 9 0")
    node.run("BLPOP q 0", connection=3)
    assert node.router.counts().blocked == 2
    [told] = node.run("CLIENT LIST", connection=2)
    assert [line["flags"] for line in listed(told)] == ["b", "N", "b", "N", "N"]
    assert node.run("CLIENT UNBLOCK 1", "CLIENT UNBLOCK 1", connection=2) == [1, 0]
    node.run("WAIT 9 0", "PING")
    assert node.run("CLIENT UNBLOCK 1 ERROR", connection=2) == [1]
    assert node.answers()[1:] == [UNBLOCKED, PONG]
    assert node.router.counts().blocked == 1


@pytest.mark.parametrize("before", [True, False])
def test_a_client_who_has_ended_does_not_wait(before: bool) -> None:
    """Who asks nothing more, and waits for copies that there may never be, is taken for gone, whether he ended before or behind that."""
    stand = Stand()
    stand.lead()
    stand.ask("SET a 1", "WAIT 9 0")
    if not before:
        stand.flush()
        stand.commit()
    stand.router.ended(1)
    stand.flush()
    if before:
        stand.commit()
    assert stand.deliveries[-1][3]
    assert stand.answers() == [OK]
    assert stand.router.idle


def test_clients_are_told_apart(node: Node) -> None:
    """CLIENT LIST tells who listens to how much and who has queued what; the type of who listens is pubsub."""
    node.run("SUBSCRIBE a b", "PSUBSCRIBE c", "SSUBSCRIBE d e f")
    node.run("MULTI", "PING", "SET a 1", connection=2)
    [told] = node.run("CLIENT LIST", connection=3)
    shown = [[line[name] for name in ("flags", "sub", "psub", "ssub", "multi")] for line in listed(told)]
    assert shown[:3] == [["P", "2", "1", "3", "-1"], ["x", "0", "0", "0", "2"], ["N", "0", "0", "0", "-1"]]
    [told] = node.run("CLIENT LIST TYPE pubsub", connection=3)
    assert isinstance(told, Verbatim)
    assert [line["id"] for line in listed(told)] == ["1"]
    assert node.run("CLIENT KILL TYPE pubsub", connection=3) == [1]
    assert node.run("PUBLISH a 1", connection=3) == [0]


def test_messages_are_never_muted(node: Node) -> None:
    """CLIENT REPLY OFF silences replies; confirmations and messages of channels come."""
    assert node.run("HELLO 3", "CLIENT REPLY OFF", "SUBSCRIBE a", "PING")[1:] == [MUTED, Pushes([[b"subscribe", b"a", 1]]), MUTED]
    node.run("PUBLISH a 1", connection=2)
    assert node.answers()[4:] == [Pushes(((b"message", b"a", b"1"),))]
