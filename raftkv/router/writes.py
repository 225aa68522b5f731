"""The writes of this node's clients, from their arrival to their answer: the session that makes a retry apply once.

A write waits in the queue until it can leave. Then consecutive ones are *sealed* into a `Group`: only there do they get their
sequence numbers, and from there they may happen. What always holds:

- Every number from 1 to the last one given out belongs to exactly one command of the session, for ever. Groups are sealed and
  leave in the order of their numbers, and are sent again unchanged.
- A command in the queue has no number and never left this node, so it can be dropped with a definite answer. A group that could not
  leave is unsealed at once.
- A sealed group stays in the window until the state machine has answered it, also when its clients were told UNCERTAIN or are gone:
  later numbers cannot apply without it.

How a group leaves (proposed here, or forwarded to the leader) is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from raftkv.errors import InvariantBroken
from raftkv.kv.batch import Group
from raftkv.kv.command import Command
from raftkv.kv.commands import encode_commands
from raftkv.kv.machine import GroupReplies
from raftkv.kv.replies import Failure, Reply
from raftkv.router.ports import MachinePort, RouterSettings

LATE = Failure("UNCERTAIN", "the time for this request is over and its outcome is not known; it may still happen")
LOST = Failure("UNCERTAIN", "the outcome of this request was lost with its session; it may have happened")


class Asker(Protocol):
    """Who is answered: a connection, or what stands for one."""

    gave_up: bool

    @property
    def closed(self) -> bool:
        """Whether nobody wants an answer any more."""

    def writes_answered(self, ticket: int, replies: list[Reply]) -> None:
        """The replies to consecutive writes, the first of which is request `ticket`."""


class Run:
    """Consecutive writes of one connection. `connection` is None once its client has been told an outcome."""

    __slots__ = ("connection", "count", "deadline_ms", "ticket")

    def __init__(self, connection: Asker | None, ticket: int, count: int, deadline_ms: int) -> None:
        self.connection = connection
        self.ticket = ticket
        self.count = count
        self.deadline_ms = deadline_ms

    def answer(self, replies: list[Reply]) -> None:
        """Hand `replies` to the client, unless it has been told already."""
        if self.connection is not None:
            self.connection.writes_answered(self.ticket, replies)
            self.connection = None

    def give_up(self, failure: Failure) -> None:
        """Tell the client `failure`, unless it has been told something already."""
        connection = self.connection
        if connection is not None:
            self.answer([failure] * self.count)
            connection.gave_up = True


class Sealed:
    """A group of the window, and who waits for its replies."""

    __slots__ = ("commands", "deadline_ms", "first_sent_ms", "group", "runs", "sent_ms", "size", "sizes", "transmissions")

    def __init__(self, group: Group, runs: list[Run], commands: list[Command], sizes: list[int], size: int) -> None:
        self.group = group
        self.runs = runs
        self.commands = commands
        self.sizes = sizes
        self.size = size
        self.deadline_ms: int | None = min(run.deadline_ms for run in runs)
        self.first_sent_ms = 0
        self.sent_ms = 0
        self.transmissions = 0

    def answer(self, replies: list[Reply]) -> None:
        """Hand each client its part of `replies`."""
        runs = self.runs
        if len(runs) == 1:
            runs[0].answer(replies)
            return
        start = 0
        for run in runs:
            end = start + run.count
            run.answer(replies[start:end])
            start = end

    def answer_all(self, failure: Failure) -> None:
        """Tell every client that still waits the same."""
        for run in self.runs:
            run.give_up(failure)

    def expire(self, now_ms: int) -> None:
        """Tell the clients whose time is over that the outcome is not known."""
        later: int | None = None
        for run in self.runs:
            if run.connection is None:
                continue
            if run.deadline_ms <= now_ms:
                run.give_up(LATE)
            elif later is None or run.deadline_ms < later:
                later = run.deadline_ms
        self.deadline_ms = later


class OwnWrites:
    """The queue, the session and its window.

    Args:
        settings: the bounds.
        session: the first session, 16 random bytes.
        new_session: draws another.
    """

    def __init__(self, settings: RouterSettings, session: bytes, new_session: Callable[[], bytes]) -> None:
        self._settings = settings
        self._new_session = new_session
        self.session = session
        self._next_sequence = 1
        self._used_ms = 0
        self._commands: list[Command] = []
        self._sizes: list[int] = []
        self._runs: deque[Run] = deque()
        self._queued_bytes = 0
        self._queue_deadline_ms: int | None = None
        self._window: deque[Sealed] = deque()
        self._next = 0
        """The first group of the window that has to be sent (again); everything before it is on its way."""
        self._resume_ms = 0
        self._pause_ms = settings.retry_ms
        self._some_closed = False
        self._last_runs = 0

    # What the router asks.

    @property
    def waiting(self) -> bool:
        """Whether something has to be sent."""
        return self._next < len(self._window) or bool(self._commands)

    @property
    def crowded(self) -> bool:
        """Whether writes have been coming in several runs at a time, as from several clients, and do not fill a group yet."""
        return (len(self._runs) > 1 or self._last_runs > 1) and len(self._commands) < self._settings.group_commands

    @property
    def queued(self) -> int:
        """Commands without a sequence number."""
        return len(self._commands)

    @property
    def in_flight(self) -> int:
        """Commands with a sequence number and without an answer."""
        return sum(sealed.group.count for sealed in self._window)

    @property
    def ahead(self) -> int:
        """Groups that are on their way."""
        return self._next

    def paused(self, now_ms: int) -> bool:
        """Whether a refusal or a loss is to be waited out."""
        return now_ms < self._resume_ms

    # Queueing.

    def add(
        self, connection: Asker, ticket: int, commands: list[Command], sizes: list[int], size: int, deadline_ms: int
    ) -> None:
        """Queue consecutive writes of `connection`, the first of which is request `ticket`; `size` is the sum of `sizes`."""
        self._runs.append(Run(connection, ticket, len(commands), deadline_ms))
        self._commands += commands
        self._sizes += sizes
        self._queued_bytes += size
        if self._queue_deadline_ms is None or deadline_ms < self._queue_deadline_ms:
            self._queue_deadline_ms = deadline_ms

    def client_gone(self) -> None:
        """A client disconnected: its queued writes are dropped before the next group is sealed."""
        self._some_closed = True

    def fail_queued(self, failure: Failure) -> None:
        """Answer everything that never left with `failure`, which must be definite."""
        self._sift(lambda run: failure)

    def _sift(self, verdict: Callable[[Run], Failure | None]) -> None:
        """Keep the runs of the queue for which `verdict` is None; answer the others with it; forget those of clients that left."""
        commands: list[Command] = []
        sizes: list[int] = []
        runs: deque[Run] = deque()
        deadline_ms: int | None = None
        start = 0
        for run in self._runs:
            end = start + run.count
            connection = run.connection
            if connection is not None and not connection.closed:
                failure = verdict(run)
                if failure is None:
                    commands += self._commands[start:end]
                    sizes += self._sizes[start:end]
                    runs.append(run)
                    deadline_ms = run.deadline_ms if deadline_ms is None else min(deadline_ms, run.deadline_ms)
                else:
                    run.give_up(failure)
            start = end
        self._commands, self._sizes, self._runs = commands, sizes, runs
        self._queued_bytes = sum(sizes)
        self._queue_deadline_ms = deadline_ms
        self._some_closed = False

    # Sending.

    def take(self, now_ms: int) -> Sealed | None:
        """The next group to send: one of the window that has to be sent again, else a new one. None when there is nothing.

        The caller says what became of it: `transmitted` or `put_back`.
        """
        if self._window and self._window[0].transmissions and self._too_old(now_ms):
            self._abandon()
        if self._next < len(self._window):
            sealed = self._window[self._next]
        else:
            if self._some_closed:
                self._sift(lambda run: None)
            if not self._commands or len(self._window) >= self._settings.window_groups:
                return None
            sealed = self._seal(now_ms)
            self._window.append(sealed)
        self._next += 1
        return sealed

    def put_back(self, sealed: Sealed) -> None:
        """`sealed`, the last one taken, did not leave this node."""
        self._next -= 1
        if self._window[self._next] is not sealed:
            raise InvariantBroken(f"group {sealed.group.first} of the session was put back out of order")
        if sealed.transmissions == 0:
            self._window.pop()
            self._next_sequence = sealed.group.first
            self._commands[:0] = sealed.commands
            self._sizes[:0] = sealed.sizes
            self._runs.extendleft(reversed(sealed.runs))
            self._queued_bytes += sealed.size
            for run in sealed.runs:
                if self._queue_deadline_ms is None or run.deadline_ms < self._queue_deadline_ms:
                    self._queue_deadline_ms = run.deadline_ms

    def transmitted(self, sealed: Sealed, now_ms: int) -> None:
        """`sealed` may have left this node: from here on it may happen."""
        if sealed.transmissions == 0:
            sealed.first_sent_ms = now_ms
            sealed.commands = []
            sealed.sizes = []
        sealed.transmissions += 1
        sealed.sent_ms = self._used_ms = now_ms

    def _seal(self, now_ms: int) -> Sealed:
        settings = self._settings
        if not self._window and self._next_sequence > 1 and now_ms - self._used_ms > settings.session_renewal_ms:
            self._begin_session()
        count, size = len(self._commands), self._queued_bytes
        if count > settings.group_commands or size > settings.group_bytes:
            count, size = self._cut()
        commands, sizes = self._commands[:count], self._sizes[:count]
        del self._commands[:count], self._sizes[:count]
        self._queued_bytes -= size
        first = self._next_sequence
        floor = (self._window[0].group.first if self._window else first) - 1
        group = Group(0, self.session, first, floor, count, encode_commands(commands))
        self._next_sequence = first + count
        runs = self._take_runs(count)
        self._last_runs = len(runs)
        return Sealed(group, runs, commands, sizes, size)

    def _cut(self) -> tuple[int, int]:
        """How many commands, of how many bytes together, the next group holds: at least one."""
        size = 0
        limit = self._settings.group_bytes
        for count, one in enumerate(self._sizes[: self._settings.group_commands]):
            if size + one > limit and count:
                return count, size
            size += one
        return min(len(self._sizes), self._settings.group_commands), size

    def _take_runs(self, count: int) -> list[Run]:
        taken: list[Run] = []
        while count:
            run = self._runs[0]
            if run.count <= count:
                taken.append(self._runs.popleft())
                count -= run.count
            else:
                taken.append(Run(run.connection, run.ticket, count, run.deadline_ms))
                run.ticket += count
                run.count -= count
                count = 0
        if not self._runs:
            self._queue_deadline_ms = None
        return taken

    # Trouble.

    def resend(self) -> None:
        """Everything unanswered has to be sent again, now: another leader, or another connection to it."""
        self._next = 0
        self._resume_ms = 0
        self._pause_ms = self._settings.retry_ms

    def hold(self, now_ms: int) -> None:
        """Send nothing for a while; longer each time in a row."""
        if now_ms >= self._resume_ms:
            self._resume_ms = now_ms + self._pause_ms
            self._pause_ms = min(2 * self._pause_ms, self._settings.max_retry_ms)

    def refused(self, session: bytes, first: int, now_ms: int) -> None:
        """The leader did not take the group that begins with `first`: it and what follows have to be sent again."""
        if session != self.session:
            return
        for position, sealed in enumerate(self._window):
            if sealed.group.first == first:
                self._next = min(self._next, position)
                self.hold(now_ms)
                return

    def check_stall(self, now_ms: int) -> None:
        """Send everything again when the lowest group on its way has been silent for too long."""
        if self._next and now_ms - self._window[0].sent_ms >= self._settings.stall_ms:
            self._next = 0

    def expire(self, now_ms: int, unsent: Failure) -> None:
        """Answer what has waited too long: `unsent`, which is definite, for what never left; UNCERTAIN for the rest."""
        for sealed in self._window:
            if sealed.deadline_ms is not None and sealed.deadline_ms <= now_ms:
                sealed.expire(now_ms)
        if self._window and self._too_old(now_ms):
            self._abandon()
        if self._some_closed or (self._queue_deadline_ms is not None and self._queue_deadline_ms <= now_ms):
            self._sift(lambda run: unsent if run.deadline_ms <= now_ms else None)

    # Answers.

    def answered(self, replies: GroupReplies, now_ms: int) -> None:
        """The state machine has come to a group of this session."""
        if not self._window or replies.session != self.session or replies.first < self._window[0].group.first:
            return
        if replies.problem is not None:
            self._rejected(replies, now_ms)
            return
        while self._window and self._window[0].group.first < replies.first:
            self._pop().answer_all(LOST)
        if not self._window or self._window[0].group.first != replies.first:
            return
        given, expected = len(replies.replies), self._window[0].group.count
        if given != expected:
            raise InvariantBroken(f"the machine answered {given} of the {expected} commands from number {replies.first} on")
        self._pop().answer(replies.replies)
        self._used_ms = now_ms
        self._pause_ms = self._settings.retry_ms

    def _rejected(self, replies: GroupReplies, now_ms: int) -> None:
        """The machine has not seen what comes before the group: that is sent again if it is here, else the session is lost."""
        lowest = self._window[0].group.first
        if (replies.problem == "gap" and lowest < replies.first) or (replies.problem == "unknown_session" and lowest == 1):
            self._next = 0
            self.hold(now_ms)
        else:
            self._abandon()

    def _too_old(self, now_ms: int) -> bool:
        """Whether the machine might have forgotten the session since the lowest group first left: then it must not be sent again,
        for if it opens the session it would apply twice."""
        return now_ms - self._window[0].first_sent_ms > self._settings.session_renewal_ms

    def _pop(self) -> Sealed:
        self._next = max(self._next - 1, 0)
        return self._window.popleft()

    def _abandon(self) -> None:
        """The session cannot go on. What was in flight may have happened."""
        while self._window:
            self._pop().answer_all(LOST)
        self._begin_session()

    def _begin_session(self) -> None:
        self.session = self._new_session()
        self._next_sequence = 1

    def state_jumped(self, machine: MachinePort, now_ms: int) -> None:
        """A snapshot took the place of the state, and entries were skipped: look up what became of the window.

        What the session says was applied is answered with the replies that it keeps; the rest is sent again. A session that the
        state does not know was either not opened yet, or (only if it is old) forgotten with everything that it knew.
        """
        self._next = 0
        last = machine.session_last(self.session)
        if last is None:
            if self._window and (self._window[0].group.first > 1 or self._too_old(now_ms)):
                self._abandon()
            return
        while self._window and self._window[0].group.first + self._window[0].group.count - 1 <= last:
            sealed = self._pop()
            replies = machine.stored_replies(self.session, sealed.group.first, sealed.group.count)
            if replies is None or len(replies) != sealed.group.count:
                sealed.answer_all(LOST)
            else:
                sealed.answer(replies)
