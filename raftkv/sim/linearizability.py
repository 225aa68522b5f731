"""Whether a history that clients saw can be explained by one copy of the data: a checker for linearizability (Herlihy and Wing, 1990).

The search is that of Wing and Gong (1993) with the memory of Lowe (2017): put one operation after the other into a total order that
respects who ended before who began, and never try twice the same set of operations with the same state. It is exponential at worst, so
it is bounded by the states that it may visit. **A history that is not decided within the bound has not passed.**

What always holds: operations whose outcome is not known may take effect at any time after they began, or never; operations that
touch different keys are independent of each other (locality), so each key is checked on its own.

Nothing here knows nodes or logs: what is judged is only what clients were told, and when.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

State = TypeVar("State", bound=Hashable)

MAX_VISITED = 2_000_000
"""States visited before a history is given up as undecided, if the caller names no bound."""


class _Unknown(enum.Enum):
    UNKNOWN = "unknown"


UNKNOWN = _Unknown.UNKNOWN
"""The result of an operation whose outcome is not known."""


class Call(Struct, frozen=True):
    """One operation of a client.

    `begin` and `end` are readings of one clock, whatever its unit. An operation without an `end` has an outcome that is not known, and
    UNKNOWN as its `result`. One that surely did not happen is no part of a history. `client` is for people.
    """

    begin: float
    end: float | None
    operation: Any
    result: Any = UNKNOWN
    client: str = ""

    def __str__(self) -> str:
        end = "?" if self.end is None else f"{self.end:g}"
        return f"[{self.begin:g}, {end}] {self.client} {self.operation} -> {'?' if self.result is UNKNOWN else self.result}"


class Model(Protocol[State]):
    """What the data would do if there were one copy of it."""

    @property
    def initial(self) -> State:
        """The state before the first operation."""

    def step(self, state: State, operation: Any, result: Any) -> tuple[bool, State]:
        """Whether `operation` may answer `result` in `state`, and the state after it. Any UNKNOWN result is possible."""


class Verdict(enum.Enum):
    """What became of a check."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNDECIDED = "undecided"


class Finding(Struct, frozen=True):
    """The outcome of a check. `order` is a total order that explains the history, or the longest one found that explains its beginning;
    `stuck` are then the operations of which one had to come next, and none could."""

    verdict: Verdict
    visited: int
    order: tuple[Call, ...] = ()
    stuck: tuple[Call, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the history was shown to be linearizable."""
        return self.verdict is Verdict.LINEARIZABLE

    def __str__(self) -> str:
        lines = [f"{self.verdict.value} ({self.visited} states visited)"]
        if not self.ok:
            lines += ["an order that explains the beginning ends with:", *(f"    {call}" for call in self.order[-10:])]
            lines += ["and none of these can come next:", *(f"    {call}" for call in self.stuck)]
        return "\n".join(lines)


class _Event:
    """The begin or the end of an operation, in a list that is linked both ways. The end of one with unknown outcome does not exist."""

    __slots__ = ("end", "next", "number", "previous")

    def __init__(self, number: int, end: _Event | None) -> None:
        self.number = number
        self.end = end
        """Of a begin: the end. None for an end, and for a begin without one."""
        self.previous: _Event = self
        self.next: _Event | None = None


class _Search(Generic[State]):
    """One search for an order of `history`."""

    def __init__(self, history: Sequence[Call], model: Model[State], max_visited: int) -> None:
        self._calls = history
        self._model = model
        self._max_visited = max_visited
        self._begins: set[int] = set()
        self._head = self._link()
        self._stack: list[tuple[_Event, State]] = []
        self._best: tuple[int, ...] = ()
        self._stuck: tuple[int, ...] = ()

    def _link(self) -> _Event:
        """All events in the order of their times. At equal times begins come first: who cannot be told apart was concurrent."""
        timed: list[tuple[float, bool, int, _Event]] = []
        for number, call in enumerate(self._calls):
            end = None if call.end is None else _Event(number, None)
            begin = _Event(number, end)
            self._begins.add(id(begin))
            timed.append((call.begin, False, number, begin))
            if end is not None and call.end is not None:
                timed.append((call.end, True, number, end))
        timed.sort(key=lambda item: item[:3])
        head = last = _Event(-1, None)
        for *_, event in timed:
            event.previous, last.next = last, event
            last = event
        return head

    def run(self) -> Finding:
        """Search."""
        calls, step, head = self._calls, self._model.step, self._head
        state, placed = self._model.initial, 0
        missing = sum(1 for call in calls if call.end is not None)
        seen: set[tuple[int, State]] = set()
        visited = 0
        event = head.next
        while missing:
            if event is not None and id(event) in self._begins:
                call = calls[event.number]
                possible, after = step(state, call.operation, call.result)
                known = (placed | 1 << event.number, after)
                if not possible or known in seen:
                    event = event.next
                    continue
                visited += 1
                if visited > self._max_visited:
                    return self._finding(Verdict.UNDECIDED, visited)
                seen.add(known)
                self._stack.append((event, state))
                placed, state = known
                missing -= call.end is not None
                self._lift(event)
                event = head.next
            else:  # something ended that is not in the order yet, or nothing is left to try
                self._remember()
                if not self._stack:
                    return self._finding(Verdict.NOT_LINEARIZABLE, visited)
                event, state = self._stack.pop()
                placed ^= 1 << event.number
                missing += calls[event.number].end is not None
                self._lower(event)
                event = event.next
        return Finding(Verdict.LINEARIZABLE, visited, tuple(calls[each.number] for each, _ in self._stack))

    @staticmethod
    def _lift(begin: _Event) -> None:
        """Take an operation out of the list."""
        for event in (begin, begin.end):
            if event is not None:
                event.previous.next = event.next
                if event.next is not None:
                    event.next.previous = event.previous

    @staticmethod
    def _lower(begin: _Event) -> None:
        """Put it back, where it was."""
        for event in (begin.end, begin):
            if event is not None:
                event.previous.next = event
                if event.next is not None:
                    event.next.previous = event

    def _remember(self) -> None:
        """Keep the order that came farthest, and what stood there."""
        if self._stuck and len(self._stack) <= len(self._best):
            return
        self._best = tuple(event.number for event, _ in self._stack)
        stuck: list[int] = []
        event = self._head.next
        while event is not None and id(event) in self._begins:
            stuck.append(event.number)
            event = event.next
        self._stuck = tuple(stuck)

    def _finding(self, verdict: Verdict, visited: int) -> Finding:
        calls = self._calls
        return Finding(verdict, visited, tuple(calls[each] for each in self._best), tuple(calls[each] for each in self._stuck))


def check(history: Sequence[Call], model: Model[State], max_visited: int = MAX_VISITED) -> Finding:
    """Judge `history`, in any order, against `model`.

    Args:
        history: what happened, from an empty state on.
        model: what the data should do.
        max_visited: states to visit before giving up.

    Returns:
        A finding; only one that is `ok` says that the history is linearizable.
    """
    return _Search(history, model, max_visited).run()


def check_by_key(
    history: Iterable[Call], model: Model[State], key_of: Callable[[Any], Hashable], max_visited: int = MAX_VISITED
) -> dict[Hashable, Finding]:
    """Judge the operations on each key on their own. The whole is linearizable exactly if each part is; see `overall`.

    Args:
        history: what happened on all keys.
        model: what one key should do.
        key_of: the key of an operation.
        max_visited: states to visit for each key before giving up.

    Returns:
        The finding of each key.
    """
    parts: dict[Hashable, list[Call]] = {}
    for call in history:
        parts.setdefault(key_of(call.operation), []).append(call)
    return {key: check(part, model, max_visited) for key, part in parts.items()}


def overall(findings: Iterable[Finding]) -> Verdict:
    """What the findings of the keys say of the whole: one bad key condemns it, and without one an undecided key leaves it undecided."""
    verdicts = {finding.verdict for finding in findings}
    for verdict in (Verdict.NOT_LINEARIZABLE, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.LINEARIZABLE


class StringKey:
    """One key of raftkv. Operations are requests as clients write them: ("SET", key, value), ("GET", key), ("DEL", key) and
    ("INCR", key), with the answers that redis-py gives: True, bytes or None, int."""

    initial: bytes | None = None

    def step(self, state: bytes | None, operation: tuple[str, ...], result: object) -> tuple[bool, bytes | None]:
        """See `Model`."""
        answer: object
        after: bytes | None
        match operation:
            case ("GET", _):
                answer, after = state, state
            case ("SET", _, value):
                answer, after = True, value.encode()
            case ("DEL", _):
                answer, after = int(state is not None), None
            case ("INCR", _):
                answer = int(state or b"0") + 1
                after = b"%d" % answer
            case _:
                raise ValueError(f"no model of {operation}")
        return result is UNKNOWN or (answer == result and type(answer) is type(result)), after
