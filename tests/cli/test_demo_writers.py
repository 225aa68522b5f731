"""The demonstration's clients: what they count as acknowledged is exactly what a node acknowledged."""

from __future__ import annotations

import threading

import pytest

from raftkv_cli.demo_writers import Writer, Writers
from raftkv_cli.waiting import WaitedInVain, wait_until
from tests.cli.fake_node import FakeNode


def test_a_key_counts_only_once_it_is_acknowledged() -> None:
    """A refusal or a lost connection is followed by the same key, at the next node, until an OK."""
    replies = iter([b"-CLUSTERDOWN no leader\r\n", None, b"+OK\r\n"])
    with FakeNode(lambda request: next(replies)) as node:
        writer = Writer(0, [node.address])
        writer.write_one()
        writer.close()
    assert writer.acknowledged == {"demo:0:0": "value 0 of writer 0"}
    assert writer.retries == 2
    assert node.requests == [[b"SET", b"demo:0:0", b"value 0 of writer 0"]] * 3


def test_another_answer_than_ok_is_a_failure() -> None:
    """A SET that is answered with something else counts for nothing and stops the writer."""
    with FakeNode(lambda request: b":1\r\n") as node:
        writer = Writer(0, [node.address])
        writer.write_one()
        writer.close()
    assert (writer.acknowledged, writer.failure) == ({}, "SET was answered with 1")


def test_nothing_is_in_flight_while_paused() -> None:
    """Inside `paused` no request arrives, and after it the writers go on."""
    acknowledged = threading.Semaphore(0)

    def answer(request: list[bytes]) -> bytes:
        acknowledged.release()
        return b"+OK\r\n"

    with FakeNode(answer) as node, Writers([node.address], 3) as writers:
        assert acknowledged.acquire(timeout=10)
        with writers.paused():
            count = writers.count()
            assert len(writers.acknowledged()) == count == len(node.requests)
        wait_until("more writes", lambda: writers.count() > count + 3, 10)
    assert writers.failures() == []


def test_the_gap_is_the_longest_silence_around_the_fault() -> None:
    """The gap runs from one acknowledgement to the next, beginning with the last one before the fault."""
    writers = Writers(["127.0.0.1:1"], 2)
    writers.writers[0].times = [1.0, 9.0, 9.9, 10.5]
    writers.writers[1].times = [9.5, 10.9]
    assert writers.longest_gap_ms(10.0) == pytest.approx(600)


def test_waiting_in_vain_says_for_what() -> None:
    """Nothing false is what was waited for, and a wait that fails names that and how long it took."""
    falsehoods: tuple[object, ...] = (None, False, [], 0)
    for nothing in falsehoods:
        with pytest.raises(WaitedInVain, match=r"0\.03 s in vain for the moon"):
            wait_until("the moon", lambda: nothing, 0.03)  # noqa: B023 - called before the loop goes on
