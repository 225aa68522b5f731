"""The recorded histories: those of a server that does what it says are linearizable, and each way not to is found."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from raftkv.sim.linearizability import Verdict, overall
from raftkv_cli.chaos.recording import Keys, RecordingClient, RecordingClients, judge
from raftkv_cli.waiting import wait_until
from tests.cli.fake_node import FakeNode, bulk

OPERATIONS = 1_500


class Honest:
    """A server with one copy of the data. `every` says at how many requests the fault of another one shows."""

    every = 7

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self._requests = 0

    def handle(self, request: list[bytes]) -> bytes | None:
        """Answer one request after the other."""
        with self._lock:
            self._requests += 1
            if self._requests % self.every:
                return self.execute(*request)
            return self.misbehave(*request)

    def execute(self, name: bytes, key: bytes, value: bytes = b"") -> bytes:
        """What Redis does."""
        before = self.values.get(key)
        if name == b"GET":
            return b"$-1\r\n" if before is None else bulk(before)
        if name == b"SET":
            self.values[key] = value
            return b"+OK\r\n"
        if name == b"DEL":
            self.values.pop(key, None)
            return b":%d\r\n" % (before is not None)
        self.values[key] = b"%d" % (int(before or b"0") + 1)
        return b":%b\r\n" % self.values[key]

    def misbehave(self, *request: bytes) -> bytes | None:
        """What happens every so many times."""
        return self.execute(*request)


class Uncertain(Honest):
    """Does not say what became of a request: it happened, or not."""

    def misbehave(self, *request: bytes) -> bytes | None:
        if self._requests % 2:
            self.execute(*request)
        return b"-UNCERTAIN the request may have happened\r\n"


class HangsUp(Honest):
    """Closes the connection, after the request happened or before: not often, because what is not known takes long to judge."""

    every = 41

    def misbehave(self, *request: bytes) -> bytes | None:
        if self._requests % 2:
            self.execute(*request)
        return None


class Refuses(Honest):
    """Says that a request did not happen, and it did not."""

    def misbehave(self, *request: bytes) -> bytes | None:
        return b"-CLUSTERDOWN no leader\r\n" if self._requests % 2 else b"-OVERLOADED wait\r\n"


class RefusesWhatHappened(Honest):
    """Says that a request did not happen, and it did."""

    def misbehave(self, *request: bytes) -> bytes | None:
        self.execute(*request)
        return b"-CLUSTERDOWN no leader\r\n"


class Stale(Honest):
    """Answers a read from a copy that lags behind."""

    def __init__(self) -> None:
        super().__init__()
        self._old: dict[bytes, bytes] = {}

    def misbehave(self, *request: bytes) -> bytes | None:
        current = self.values
        if request[0] == b"GET":
            self.values = self._old
        try:
            return self.execute(*request)
        finally:
            self.values = current
            if self._requests % (5 * self.every) == 0:
                self._old = dict(current)


class Forgets(Honest):
    """Acknowledges a write and loses it."""

    def misbehave(self, *request: bytes) -> bytes | None:
        before = dict(self.values)
        answer = self.execute(*request)
        self.values = before
        return answer


class Repeats(Honest):
    """Executes a request twice."""

    def misbehave(self, *request: bytes) -> bytes | None:
        answer = self.execute(*request)
        self.execute(*request)
        return answer


def verdict(server: Honest) -> Verdict:
    """What the history of eight clients of `server` shows."""
    with FakeNode(server.handle) as node, RecordingClients([node.address] * 2, 8, Keys(2, 150)) as clients:
        wait_until("operations", lambda: clients.succeeded >= OPERATIONS or clients.surprises, 30)
    assert clients.surprises == []
    return overall(judge(clients.history()).values())


@pytest.mark.parametrize("make", [Honest, Uncertain, HangsUp, Refuses])
def test_a_server_that_does_what_it_says_is_linearizable(make: Callable[[], Honest]) -> None:
    """Refusals that are true, outcomes that are not known and connections that break accuse nobody."""
    assert verdict(make()) is Verdict.LINEARIZABLE


@pytest.mark.parametrize("make", [RefusesWhatHappened, Stale, Forgets, Repeats])
def test_a_server_that_does_not_is_found(make: Callable[[], Honest]) -> None:
    """A stale read, a lost write, a write that happened twice or although it was refused: the history shows it."""
    assert verdict(make()) is Verdict.NOT_LINEARIZABLE


def test_an_error_that_nothing_explains_is_a_surprise() -> None:
    """Any other error than a refusal or UNCERTAIN is kept apart, and is in no history."""
    with FakeNode(lambda request: b"-ERR value is not an integer or out of range\r\n") as node:
        client = RecordingClient("client", [node.address], Keys())
        assert client.perform([("INCR", "k")])
        client.close()
    assert (client.calls, client.succeeded) == ([], 0)
    assert client.surprises == ["client: ('INCR', 'k') was answered ERR value is not an integer or out of range"]


def test_what_is_recorded_is_when_it_was_asked_and_answered() -> None:
    """An operation lies between a reading of the clock before it was sent and one after its answer; one without an answer has no end;
    a read without one, and what was refused, leave nothing."""
    now = iter(range(10))
    asked: list[int] = []
    replies = iter([b"+OK\r\n", bulk(b"5"), b"-CLUSTERDOWN no leader\r\n", b"-UNCERTAIN late\r\n", None])

    def handle(request: list[bytes]) -> bytes | None:
        asked.append(len(client.calls))
        return next(replies)

    with FakeNode(handle) as node:
        client = RecordingClient("c", [node.address], Keys(), clock=lambda: next(now))
        client.perform([("SET", "k", "5"), ("GET", "k")])
        client.perform([("DEL", "k")])
        client.perform([("GET", "k")])
        client.perform([("INCR", "k")])
        client.close()
    assert not client.perform([("GET", "k")])
    assert [(call.begin, call.end, call.operation) for call in client.calls] == [
        (0, 1, ("SET", "k", "5")),
        (0, 1, ("GET", "k")),
        (6, None, ("INCR", "k")),
    ]
    assert [call.result for call in client.calls[:2]] == [True, b"5"]
    assert client.counts == {"SET": 1, "GET": 1, "refused": 1, "unknown": 2}


def test_keys_change_as_time_goes_by() -> None:
    """Few keys are in use at a time, and none for more operations than was said."""
    keys = Keys(3, 100)
    client = RecordingClient("c", [], keys)
    drawn = [client._choose()[1] for _ in range(1_000)]
    assert len(set(drawn)) == 30
    assert all(len(set(drawn[start : start + 100])) == 3 for start in range(0, 1_000, 100))
