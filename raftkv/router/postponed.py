"""Requests that have to wait for their answer without asking anybody: WAIT and DEBUG SLEEP.

Such a request stays where it is, at the head of what its connection has asked for and not been answered; everything behind it waits. It is
met again when it may be answered. What is answered then is not decided here.

How exact WAIT is: a write that was answered has been committed, so a majority of the nodes has it on disk, this one among them; no count is
below that. A leader knows more from every acknowledgement, any other node from what the others tell at heartbeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.kv.arguments import INT64_MAX, integer, parse_integer
from raftkv.kv.command import ConnectionCommand
from raftkv.kv.replies import CommandError, Failure, fail
from raftkv.raft.types import Index
from raftkv.router.connection import Connection
from raftkv.router.ports import ReplicaPort
from raftkv.router.waiting import UNBLOCKED

_FOR_EVER: Final = 1 << 62
"""A number of nodes that there never are, and a time that never comes."""


class _Held:
    """A request that is held until so many other nodes have `index`, or its time is over."""

    __slots__ = ("connection", "deadline_ms", "failure", "index", "nodes", "over")

    def __init__(self, connection: Connection, index: Index, nodes: int, deadline_ms: int) -> None:
        self.connection = connection
        self.index = index
        self.nodes = nodes
        self.deadline_ms = deadline_ms
        self.over = False
        self.failure: Failure | None = None


class Postponed:
    """The requests that are held.

    Args:
        replica: tells which nodes have what.
    """

    def __init__(self, replica: ReplicaPort) -> None:
        self._replica = replica
        self._held: dict[int, _Held] = {}
        self._looked_at: Sequence[Index] = ()
        self._soonest_ms = _FOR_EVER
        self._released = False

    @property
    def count(self) -> int:
        """How many are held."""
        return len(self._held)

    def holds(self, connection_id: int) -> bool:
        """Whether the request that the connection has to be answered next is held."""
        return connection_id in self._held

    def nodes_with(self, index: Index) -> int:
        """How many nodes besides this one are known to have the entry `index`, which was applied here, on disk."""
        known = sum(copy >= index for copy in self._replica.copies)
        return max(known, self._replica.majority - 1) if index else known

    def may_answer(self, connection: Connection, command: ConnectionCommand, now_ms: int) -> bool:
        """Whether `command`, the next of `connection`, may be answered. If not, the connection is touched when it may.

        Raises:
            CommandError: its waiting was ended with this error.
        """
        held = self._held.get(connection.id)
        if held is None:
            if self._released:
                return True
            held = self._begin(connection, command, now_ms)
            if held is None:
                return True
            self._held[connection.id] = held
            self._soonest_ms = min(self._soonest_ms, held.deadline_ms)
            return False
        if held.over:
            del self._held[connection.id]
        if held.failure is not None:
            raise CommandError(held.failure)
        return held.over

    def _begin(self, connection: Connection, command: ConnectionCommand, now_ms: int) -> _Held | None:
        """What to hold; None for what is answered at once, as is every error."""
        try:
            if command.name == "wait":
                nodes, timeout_ms = wait_arguments(command.args)
                if self.nodes_with(connection.written) >= nodes:
                    return None
                return _Held(connection, connection.written, nodes, now_ms + timeout_ms if timeout_ms else _FOR_EVER)
            if command.name == "debug" and command.args[0].lower() == b"sleep":
                pause_ms = sleep_argument(command.args[1:])
                return _Held(connection, 0, _FOR_EVER, now_ms + pause_ms) if pause_ms else None
        except CommandError:
            pass  # it is found again by whoever answers
        return None

    def look(self, now_ms: int) -> None:
        """Touch the connections whose request may be answered now."""
        if not self._held:
            return
        copies = self._replica.copies
        if now_ms < self._soonest_ms and copies == self._looked_at and not self._released:
            return
        self._looked_at = copies
        self._soonest_ms = _FOR_EVER
        for held in self._held.values():
            if self._released or held.deadline_ms <= now_ms or self.nodes_with(held.index) >= held.nodes:
                held.over = True
                held.connection.touch()
            else:
                self._soonest_ms = min(self._soonest_ms, held.deadline_ms)

    def unblock(self, connection_id: int, *, error: bool) -> bool:
        """CLIENT UNBLOCK; whether a request of the connection was held."""
        held = self._held.get(connection_id)
        if held is None or held.over:
            return False
        held.over = True
        held.failure = UNBLOCKED if error else None
        held.connection.touch()
        return True

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._held.pop(connection.id, None)

    def release(self) -> None:
        """Hold nothing any more: the node is about to stop."""
        self._released = True


def wait_arguments(args: Sequence[bytes]) -> tuple[int, int]:
    """How many nodes WAIT waits for, and for how many milliseconds; 0 for ever.

    Raises:
        CommandError: they are no such numbers.
    """
    nodes = integer(args[0])
    timeout_ms = parse_integer(args[1])
    if timeout_ms is None:
        fail("timeout is not an integer or out of range")
    if timeout_ms < 0:
        fail("timeout is negative")
    return nodes, timeout_ms


def sleep_argument(args: Sequence[bytes]) -> int:
    """For how many milliseconds DEBUG SLEEP sleeps. What is no number of seconds is 0, as in Redis."""
    try:
        seconds = float(args[0])
    except (IndexError, ValueError):
        return 0
    return int(min(seconds * 1000, INT64_MAX >> 1)) if seconds > 0 else 0
