"""Clients that record what they asked of a cluster, when, and what they were told: the history that `raftkv.sim.linearizability` judges.

Each client is a thread with one connection at a time, to any of the nodes. All times are readings of one monotonic clock. What always
holds of a history:

- An operation begins before anything of it is sent, and ends after its answer has come; the operations of a pipeline share both times.
- What was answered UNCERTAIN, or not at all, has an outcome that is not known, and no end. Of a read that is nothing worth keeping.
- What was refused with CLUSTERDOWN or OVERLOADED surely did not happen, and is in no history. If it did, the history shows that.
- Any other error is a surprise: nothing that the clients ask for can be answered so.

The keys change as time goes by (`Keys`), which keeps the history of each short enough to be judged. Nothing is retried, and nothing is
judged here but by `judge`.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from types import TracebackType

from raftkv.sim.linearizability import Call, Finding, StringKey, check_by_key
from raftkv_cli.resp import Answer, Connection, ErrorReply, Unreachable

Operation = tuple[str, ...]

SURELY_NOT = ("CLUSTERDOWN", "OVERLOADED")
TIMEOUT_SECONDS = 1.5
"""How long a client waits before it turns to another node: a node that hangs must not take the clients with it."""
PAUSE_SECONDS = 0.01
"""What a client waits after it could not connect."""
END_SECONDS = 30.0
PIPELINE = 4
MAX_VISITED = 1_000_000
"""States visited for one key: a key that is not judged by then holds too much that is not known."""
LEAVES = 0.03
"""How often a client goes to another node though nothing is wrong."""


def judge(history: Iterable[Call]) -> dict[Hashable, Finding]:
    """The finding of each key."""
    return check_by_key(history, StringKey(), lambda operation: operation[1], MAX_VISITED)


class Keys:
    """The keys in use: `count` at a time, and others after every `operations` operations."""

    def __init__(self, count: int = 5, operations: int = 500) -> None:
        self._count = count
        self._operations = operations
        self._drawn = itertools.count()

    def draw(self, rng: random.Random) -> str:
        """A key for the next operation. May be called from any thread."""
        return f"key:{next(self._drawn) // self._operations}:{rng.randrange(self._count)}"


class RecordingClient:
    """One client.

    Args:
        name: for the history.
        addresses: client addresses of the nodes.
        keys: where it gets its keys from.
        number: which of the clients it is: its choices, and the values that it writes, differ from every other's.
        clock: the clock that all clients share.
    """

    def __init__(
        self, name: str, addresses: Sequence[str], keys: Keys, number: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        """How many operations succeeded, by their name, and how many were "refused" or "unknown"."""
        self.surprises: list[str] = []
        self._addresses = addresses
        self._next_address = number
        self._keys = keys
        self._rng = random.Random(number)
        self._values = itertools.count(number * 1_000_000_000, 1_000)  # far enough apart for increments between
        self._clock = clock
        self._connection: Connection | None = None

    @property
    def succeeded(self) -> int:
        """How many operations were answered."""
        return self.counts.total() - self.counts["refused"] - self.counts["unknown"]

    def work(self) -> bool:
        """Ask for one thing or for a few at once. False when no node could be asked."""
        if self._rng.random() < LEAVES:
            self.close()
        return self.perform([self._choose() for _ in range(self._rng.choice((1, 1, self._rng.randint(2, PIPELINE))))])

    def _choose(self) -> Operation:
        key = self._keys.draw(self._rng)
        name = self._rng.choice(("GET", "GET", "GET", "SET", "INCR", "INCR", "DEL"))
        return (name, key, str(next(self._values))) if name == "SET" else (name, key)

    def perform(self, operations: Sequence[Operation], timeout_s: float = TIMEOUT_SECONDS) -> bool:
        """Ask for `operations` at once and record what comes of them. False when no node could be asked: then nothing was."""
        try:
            connection = self._connected(timeout_s)
        except Unreachable:
            return False
        begin = self._clock()
        answers: Sequence[Answer | ErrorReply]
        try:
            answers = connection.pipeline([*operations])
        except Unreachable as error:
            self.close()
            answers = [ErrorReply(f"UNCERTAIN {error}")] * len(operations)
        end = self._clock()
        for operation, answer in zip(operations, answers, strict=True):
            self._record(begin, end, operation, answer)
        return True

    def _record(self, begin: float, end: float, operation: Operation, answer: Answer | ErrorReply) -> None:
        name = operation[0]
        if not isinstance(answer, ErrorReply):
            self.counts[name] += 1
            self.calls.append(Call(begin, end, operation, True if name == "SET" and answer == b"OK" else answer, self.name))
        elif answer.code in SURELY_NOT:
            self.counts["refused"] += 1
            self.close()
        elif answer.code == "UNCERTAIN":
            self.counts["unknown"] += 1
            if name != "GET":
                self.calls.append(Call(begin, None, operation, client=self.name))
        else:
            self.surprises.append(f"{self.name}: {operation} was answered {answer}")

    def _connected(self, timeout_s: float) -> Connection:
        if self._connection is None:
            address = self._addresses[self._next_address % len(self._addresses)]
            self._next_address += 1
            self._connection = Connection(address, timeout_s=timeout_s)
        return self._connection

    def close(self) -> None:
        """Give the connection up; the next one is to another node."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class RecordingClients:
    """Several clients at once; a context manager that ends their threads. What they recorded is to be asked for after that.

    Args:
        addresses: client addresses of the nodes; the clients are spread over them, and move.
        count: how many.
        keys: the keys that they use.
    """

    def __init__(self, addresses: Sequence[str], count: int, keys: Keys) -> None:
        self.clients = [RecordingClient(f"client {number}", addresses, keys, number) for number in range(count)]
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,), daemon=True) for client in self.clients]

    def __enter__(self) -> RecordingClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(END_SECONDS)

    def _run(self, client: RecordingClient) -> None:
        while not self._end.is_set() and not client.surprises:
            if not client.work():
                self._end.wait(PAUSE_SECONDS)
        client.close()

    @property
    def succeeded(self) -> int:
        """How many operations were answered so far."""
        return sum(client.succeeded for client in self.clients)

    @property
    def counts(self) -> Counter[str]:
        """What became of all operations."""
        return sum((client.counts for client in self.clients), Counter())

    @property
    def surprises(self) -> list[str]:
        """Answers that nothing explains."""
        return [surprise for client in self.clients for surprise in client.surprises]

    def history(self) -> list[Call]:
        """What all clients saw."""
        return [call for client in self.clients for call in client.calls]
