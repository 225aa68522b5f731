"""What clients of the abstract cluster did and were told, and what is wrong with it.

Three kinds of counters tell everything apart: one key for each write (applied at most once, and never after a definite failure), one
for each connection (order), and one for all (linearizability of a counter).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from raftkv.kv.replies import Failure, Reply

SHARED = "shared"
NEVER = 1 << 60
KINDS = ("once", "once", "own", "own", "shared", "shared", "read own", "read own", "read shared", "read shared", "PING")


class Operation:
    """One request, when it was sent and answered (in steps of the history), and the answer."""

    def __init__(self, kind: str, key: str, sent: int) -> None:
        self.kind = kind
        self.key = key
        self.sent = sent
        self.answered = NEVER
        self.reply: Reply = Failure("UNCERTAIN", "no answer")

    @property
    def outcome(self) -> str:
        """`ok`, `no` (it surely did not happen) or `maybe`."""
        if not isinstance(self.reply, Failure):
            return "ok"
        return "maybe" if self.reply.code == "UNCERTAIN" else "no"

    @property
    def value(self) -> int:
        """The number that was answered."""
        return int(self.reply) if isinstance(self.reply, int | bytes) else 0


class Client:
    """One connection. `local` ones read the state of their node."""

    def __init__(self, history: History, number: int, local: bool) -> None:
        self.id = number
        self.local = local
        self.history = history
        self.operations: list[Operation] = []
        self.waiting = 0

    def request(self, line: str) -> list[list[bytes]]:
        """One request, noted."""
        name, _, key = line.partition(" ")
        self.operations.append(Operation(name, key, next(self.history.steps)))
        return [line.encode().split()]

    def pipeline(self, rng: random.Random) -> list[list[bytes]]:
        """Some requests of all kinds, noted."""
        requests = []
        for _ in range(rng.randint(1, 5)):
            kind = rng.choice(KINDS)
            if kind == "once":
                line = f"INCR once:{next(self.history.numbers)}"
            elif kind == "PING":
                line = "PING"
            else:
                name = "GET" if kind.startswith("read") else "INCR"
                line = f"{name} {SHARED if kind.endswith('shared') else f'own:{self.id}'}"
            requests += self.request(line)
        return requests

    def answered(self, replies: list[Reply]) -> None:
        """The next replies have come."""
        for reply in replies:
            if self.waiting >= len(self.operations):
                self.history.wrong.append(f"connection {self.id} got a reply too many: {reply!r}")
                return
            operation = self.operations[self.waiting]
            operation.reply = reply
            operation.answered = next(self.history.steps)
            self.waiting += 1


class History:
    """All clients of a run."""

    def __init__(self) -> None:
        self.steps = itertools.count()
        self.numbers = itertools.count()
        self.clients: list[Client] = []
        self.wrong: list[str] = []

    def connect(self, local: bool) -> Client:
        """Another client."""
        client = Client(self, len(self.clients) + 1, local)
        self.clients.append(client)
        return client

    def complaints(self, final: Callable[[str], int]) -> list[str]:
        """Everything that no correct router lets happen, given what the keys hold in the end."""
        found = list(self.wrong)
        for client in self.clients:
            found += self._kinds(client)
            found += self._once(client, final)
            found += self._order(client, final)
        return found + self._counter(final)

    def _kinds(self, client: Client) -> list[str]:
        """Each reply fits its request: replies are not mixed up."""
        fits: dict[str, Callable[[Reply], bool]] = {
            "INCR": lambda reply: isinstance(reply, int),
            "GET": lambda reply: reply is None or isinstance(reply, bytes),
            "PING": lambda reply: not isinstance(reply, int | bytes | None),
            "READONLY": lambda reply: not isinstance(reply, int | bytes | None),
        }
        return [
            f"connection {client.id}: {operation.kind} {operation.key} was answered {operation.reply!r}"
            for operation in client.operations
            if operation.outcome == "ok" and not fits[operation.kind](operation.reply)
        ]

    def _once(self, client: Client, final: Callable[[str], int]) -> list[str]:
        """A write is applied once if it was acknowledged, not at all if it failed definitely, and never twice."""
        found = []
        allowed = {"ok": (1,), "no": (0,), "maybe": (0, 1)}
        for operation in client.operations:
            if operation.key.startswith("once:"):
                times = final(operation.key)
                if times not in allowed[operation.outcome] or (operation.outcome == "ok" and operation.value != 1):
                    found.append(f"{operation.key} was applied {times} times and answered {operation.reply!r}")
        return found

    def _order(self, client: Client, final: Callable[[str], int]) -> list[str]:
        """On one connection, nothing is undone, overtaken or forgotten."""
        found = []
        key = f"own:{client.id}"
        highest = 0
        writes = [operation for operation in client.operations if operation.key == key and operation.kind == "INCR"]
        issued = 0
        for operation in client.operations:
            if operation.key != key:
                continue
            issued += operation.kind == "INCR"
            if operation.outcome != "ok":
                continue
            least = highest + (operation.kind == "INCR")
            if not least <= operation.value <= issued:
                found.append(f"connection {client.id}: {operation.kind} gave {operation.value} after {highest}, {issued} issued")
            highest = max(highest, operation.value)
        sure = sum(write.outcome == "ok" for write in writes)
        possible = sure + sum(write.outcome == "maybe" for write in writes)
        if not sure <= final(key) <= possible:
            found.append(f"{key} is {final(key)} in the end; {sure} writes were acknowledged and {possible} possible")
        return found

    def _counter(self, final: Callable[[str], int]) -> list[str]:
        """The shared counter is linearizable: what is answered agrees with real time."""
        found = []
        operations = [
            (operation, client.local and operation.kind == "GET")
            for client in self.clients
            for operation in client.operations
            if operation.key == SHARED
        ]
        acknowledged = sorted(
            (operation for operation, _ in operations if operation.kind == "INCR" and operation.outcome == "ok"),
            key=lambda operation: operation.value,
        )
        values = [operation.value for operation in acknowledged]
        if len(values) != len(set(values)):
            found.append(f"two increments of {SHARED} were answered the same: {values}")
        for operation, stale in operations:
            if operation.outcome != "ok" or stale:
                continue
            before = max((other.value for other in acknowledged if other.answered < operation.sent), default=0)
            if operation.value < before + (operation.kind == "INCR"):
                found.append(f"{operation.kind} {SHARED} gave {operation.value} although {before} had been acknowledged before it")
            after = [other.value for other in acknowledged if other.sent > operation.answered]
            if after and min(after) <= operation.value:
                found.append(f"{operation.kind} {SHARED} gave {operation.value}, and an increment sent later gave {min(after)}")
        increments = [operation for operation, _ in operations if operation.kind == "INCR"]
        sure = sum(operation.outcome == "ok" for operation in increments)
        possible = sure + sum(operation.outcome == "maybe" for operation in increments)
        if not sure <= final(SHARED) <= possible:
            found.append(f"{SHARED} is {final(SHARED)} in the end; {sure} writes were acknowledged and {possible} possible")
        return found
