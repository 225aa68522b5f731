"""Clients that wait for an element: blocking pops, from the first attempt to the answer.

A blocking pop is a write like any other that takes an element if there is one. When it is answered that there is none, its connection is
*parked*: nothing that the client asks behind it is taken up. When an entry that this node applies says that one of the keys has gained
elements, the first one here that waits for that key tries again, through the log.

What always holds:

- No wake-up is lost. An attempt that finds nothing parks while its entry is applied, so that a key which gains elements in a later entry
  meets a waiter. A key whose waiter is trying needs nobody else: that attempt comes behind the push in the log. When it ends in any other
  way than by finding nothing, the next one tries, for there may be more. When entries were skipped, one waiter of each key tries.
- A waiter keeps its place until it is answered, however often somebody else takes the element: nobody starves. Between nodes there is no
  order.
- An element that was taken is never given twice, and one answer is given: an attempt is a write of this node's session, which is applied
  once whoever leads. While one is under way, the end of the waiting waits for its outcome, and an element goes before that end.
- An attempt has the deadline of a request; being parked has the deadline that the client asked for, and counts among the requests held,
  with what its places in line take.

An attempt of a client that is gone is what it is: the element may be taken, and nobody gets it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from raftkv.kv.blocking_commands import Blocking
from raftkv.kv.replies import NO_ARRAY, Failure, Reply
from raftkv.raft.types import Index

if TYPE_CHECKING:
    from raftkv.router.connection import Connection

UNBLOCKED: Final = Failure("UNBLOCKED", "client unblocked via CLIENT UNBLOCK")

WAITING_KEY_BYTES: Final = 448
"""About what a place in the line for a key takes beyond the key, where nobody else waits for it."""

_LEAST_REBUILT: Final = 64


class Waiter:
    """One blocking pop of a connection, in the place of the connection where its attempts are answered.

    `end` is what it will be answered if the attempt that is under way finds nothing; None: it goes on waiting.
    """

    __slots__ = ("_line", "command", "connection", "deadline_ms", "end", "parked", "size", "ticket", "trying")

    def __init__(
        self, line: Line, connection: Connection, ticket: int, command: Blocking, size: int, deadline_ms: int | None
    ) -> None:
        self._line = line
        self.connection = connection
        self.ticket = ticket
        self.command = command
        self.size = size
        self.deadline_ms = deadline_ms
        self.end: Reply = None
        self.trying = True
        self.parked = False
        """Whether it stands in line, which it does also while it tries again."""

    @property
    def closed(self) -> bool:
        """Whether nobody wants the answer."""
        return self.connection.closed

    @property
    def gave_up(self) -> bool:
        """Whether the attempt was not answered in its time."""
        return self.connection.gave_up

    @gave_up.setter
    def gave_up(self, value: bool) -> None:
        self.connection.gave_up = value

    def writes_answered(self, ticket: int, replies: list[Reply], index: Index) -> None:
        """The attempt has come to an end."""
        self._line.attempt_ended(self, replies[0], index)


class Line:
    """All who wait at this node.

    `refusal` is what those are told who would wait from now on; None while they may.
    """

    def __init__(self) -> None:
        self.refusal: Failure | None = None
        self._lines: dict[bytes, OrderedDict[Waiter, None]] = {}
        self._trying: Counter[bytes] = Counter()
        """How many in line for a key are trying."""
        self.woken: list[Waiter] = []
        """Who is to try again, or was and has gone."""
        self._deadlines: list[tuple[int, int, Waiter]] = []
        self._numbers = itertools.count()
        self._parked: dict[Waiter, None] = {}

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._parked)

    def begin(self, connection: Connection, ticket: int, command: Blocking, size: int, now_ms: int) -> Waiter:
        """A client asks for an element: the first attempt is for the caller to make. `ticket` is the request, of `size` bytes."""
        deadline_ms = now_ms + command.timeout_ms if command.timeout_ms else None
        connection.waiter = waiter = Waiter(self, connection, ticket, command, size, deadline_ms)
        return waiter

    # What happens to those who wait.

    def pushed(self, keys: Iterable[bytes]) -> None:
        """An entry has been applied in which these keys gained elements."""
        lines = self._lines
        if lines:
            for key in keys:
                if key in lines and not self._trying[key]:
                    self._wake(next(iter(lines[key])))

    def skipped(self) -> None:
        """Entries were skipped: any key may have gained elements."""
        self.pushed(tuple(self._lines))

    def take_woken(self) -> list[Waiter]:
        """Who is to try again now."""
        woken, self.woken = self.woken, []
        return [waiter for waiter in woken if waiter.parked]

    def attempt_ended(self, waiter: Waiter, reply: Reply, index: Index) -> None:
        """An attempt of `waiter` was answered `reply`, by the state machine in the entry `index`, or because it could not be made (0)."""
        tried_again, waiter.trying = waiter.parked, False
        nothing = reply == waiter.command.nothing
        if tried_again:
            self._count(waiter, -1)
        if waiter.closed:
            nothing = False  # whatever there is, somebody else may get it
        elif not nothing:
            self._answer(waiter, reply, index)
        elif waiter.end is not None:
            self._answer(waiter, waiter.end)
        elif self.refusal is not None:
            self._answer(waiter, self.refusal)
        else:
            if not tried_again:
                self._park(waiter)
            if waiter.connection.ended:
                self.client_ended(waiter.connection)
        if not nothing and tried_again:
            self.pushed(waiter.command.sources)

    def _park(self, waiter: Waiter) -> None:
        """Stand in line."""
        waiter.parked = True
        waiter.command = waiter.command.again()
        self._parked[waiter] = None
        for key in waiter.command.sources:
            self._lines.setdefault(key, OrderedDict())[waiter] = None
        if waiter.deadline_ms is not None:
            heapq.heappush(self._deadlines, (waiter.deadline_ms, next(self._numbers), waiter))

    def _wake(self, waiter: Waiter) -> None:
        waiter.trying = True
        self._count(waiter, 1)
        self.woken.append(waiter)

    def _count(self, waiter: Waiter, difference: int) -> None:
        for key in dict.fromkeys(waiter.command.sources):
            self._trying[key] += difference
            if not self._trying[key]:
                del self._trying[key]

    def _answer(self, waiter: Waiter, reply: Reply, index: Index = 0) -> None:
        self._leave(waiter)
        waiter.connection.waiter = None
        waiter.connection.writes_answered(waiter.ticket, [reply], index)

    def _leave(self, waiter: Waiter) -> None:
        """Stand in line no longer."""
        if not waiter.parked:
            return
        waiter.parked = False
        del self._parked[waiter]
        for key in dict.fromkeys(waiter.command.sources):
            line = self._lines[key]
            del line[waiter]
            if not line:
                del self._lines[key]
        if len(self._deadlines) > 2 * len(self._parked) + _LEAST_REBUILT:
            self._deadlines = [each for each in self._deadlines if each[2].parked]
            heapq.heapify(self._deadlines)

    # How waiting ends without an element.

    def expire(self, now_ms: int) -> None:
        """Answer those whose time is over."""
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            _, _, waiter = heapq.heappop(self._deadlines)
            if waiter.parked:
                self._end(waiter, NO_ARRAY)

    def unblock(self, connection: Connection, *, error: bool) -> bool:
        """CLIENT UNBLOCK; whether the connection was waiting."""
        waiter = connection.waiter
        if waiter is None:
            return False
        self._end(waiter, UNBLOCKED if error else NO_ARRAY)
        return True

    def end_all(self, failure: Failure) -> None:
        """Nobody can wait here at present."""
        for waiter in tuple(self._parked):
            self._end(waiter, failure)

    def _end(self, waiter: Waiter, reply: Reply) -> None:
        """Answer `reply`, now or when the attempt that is under way has found nothing."""
        if waiter.trying:
            waiter.end = reply
        else:
            self._answer(waiter, reply)

    def client_ended(self, connection: Connection) -> None:
        """The client will ask nothing more. Redis takes him for gone, and so he waits for nothing."""
        connection.ended = True
        waiter = connection.waiter
        if waiter is not None and not waiter.trying:
            connection.closing = True
            connection.touch()

    def forget(self, connection: Connection) -> None:
        """The connection is closed. If it was trying, the next one does: its attempt may never be made."""
        waiter = connection.waiter
        if waiter is None:
            return
        connection.waiter = None
        tried_again = waiter.parked and waiter.trying
        if tried_again:
            self._count(waiter, -1)
        self._leave(waiter)
        if tried_again:
            self.pushed(waiter.command.sources)
