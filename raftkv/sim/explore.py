"""Every interleaving of three Raft cores within bounds: what can happen to them, all of it, by breadth.

The nodes are the production core, taken apart into values (`frozen`, `core_node`). A state is three such values, the history that the
rules need, the messages that were ever sent, and what is left of the bounds. From every state each of these is tried: a message arrives;
the oldest write on its way to a disk is durable; a node crashes and starts with what is durable; an election timeout passes; a leader's
heartbeat is due; a leader is given an entry. Every rule is checked at every edge and in every state (`core_node`, `rules`). States are
compared whole, so none is taken for another; the search is breadth-first, so the way to a violation is a shortest one.

The network loses, delays, reorders and doubles without bound: what was sent once may arrive at any later time, any number of times, or
never. So a message is never taken out of it, and the loss of one needs no event.

A state is *covered* by another with the same nodes and the same history, in which at least as many messages may arrive and at least as
much is left: whatever can happen in the first can happen in the second. A state that is covered by one met before is not explored. A
message that changes nothing at its receiver but what that will say leads to a state that covers the one before, so it arrives at once,
together with what put it in flight, and is no event of its own. In the first state the nodes differ by their names only, so what begins
at one begins at each, and is followed at one only.

Not explored: snapshots and compaction, membership changes, reads, transfers, CheckQuorum, suspect and fenced nodes, several sizes of
messages, disks that hang. The simulator's storms and the golden traces deal with them.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache

from msgspec import Struct

from raftkv.errors import InvalidRequest, InvalidSettings
from raftkv.raft.ready import Role
from raftkv.sim.core_node import Event
from raftkv.sim.explore_tables import NODES, Tables, shown_facts, shown_message
from raftkv.sim.rules import History, check_together
from raftkv.sim.trace import Violation

_COUNT = len(NODES)


class Bounds(Struct, frozen=True, kw_only=True):
    """How far an exploration goes. All but `states` bound what happens on one path, after the prefix."""

    states: int = 30_000
    """Distinct states, after which it ends."""
    timeouts: int = 2
    """Election timeouts: no path sees more elections, and no term is higher by more."""
    proposals: int = 1
    entries: int = 3
    """The longest log."""
    crashes: int = 1
    heartbeats: int = 1
    slow_writes: int = 1
    """How often a node that has nothing on its way to the disk writes something that is not durable before anything else happens."""


class Found(Struct, frozen=True, kw_only=True):
    """A rule that does not hold, and the shortest way there, one event a line."""

    rule: str
    what: str
    path: list[str]


class Exploration(Struct, frozen=True, kw_only=True):
    """What an exploration came to."""

    bounds: Bounds
    prefix: list[str]
    states: int
    """Distinct states."""
    edges: int
    depth: int
    """Events on the longest of the shortest ways to a state."""
    complete: bool
    """Everything within the other bounds was explored: the bound on states was not met."""
    node_states: int
    """Distinct states of a single node."""
    messages: int
    """Distinct messages."""
    steps: int
    """How often the core ran."""
    elected: int
    """States in whose past a leader was elected."""
    committed: int
    """States in whose past an entry was committed."""
    seconds: float
    violation: Found | None

    @property
    def states_per_second(self) -> float:
        """How fast it went."""
        return self.states / max(self.seconds, 1e-9)


STARTS: dict[str, tuple[str, ...]] = {
    "start": (),
    "late vote": ("n1 timeout", "n1>n2 PreVote", "n2>n1 PreVoteResponse", "n1>n2 Vote"),
    "leader": ("elect n1 n2 n3", "settle n1 n2 n3"),
    "old leader": ("elect n1 n2 n3", "settle n1 n2 n3", "lose", "n1 propose", "n3 timeout", "elect n2 n3", "settle n2 n3"),
    "figure 8": ("elect n1 n2", "n1 propose", "n1 crash", "lose", "elect n3 n2", "n3 crash", "lose", "elect n1 n2"),
}
"""Where an exploration may begin: before anything; with a vote under way for an election that its candidate may give up; with a leader;
with one that was deposed and does not know it, and has an entry of its own; and in the third picture of the paper's figure 8."""


_State = tuple[int, int, int, int, int, int]
"""The numbers of the three nodes' values and of the history, what is left of the bounds, and the messages that were sent."""

_DIGIT = 16
_COSTS = (0, 1, _DIGIT, _DIGIT**2, _DIGIT**3)
"""What each `Event` takes of what is left: one digit for each bound."""
_SLOW = _DIGIT**4
"""What it takes that a write is not durable before anything else happens."""


class Explorer:
    """One exploration: `begin` leads it to where it begins, `run` does it.

    Raises:
        InvalidSettings: a bound is too large to be counted.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.tables = tables = Tables()
        one, two, three = map(tables.first, range(_COUNT))
        counts = (bounds.crashes, bounds.timeouts, bounds.heartbeats, bounds.proposals, bounds.slow_writes)
        if not all(0 <= count < _DIGIT for count in counts):
            raise InvalidSettings(f"bounds on what happens on a path are from 0 to {_DIGIT - 1}: {bounds}")
        left = sum(count * cost for count, cost in zip(counts, (*_COSTS[1:], _SLOW), strict=True))
        self._first: _State = (one, two, three, tables.history(History()), left, 0)
        self._prefix: list[str] = []
        self._edges = 0
        self._found: list[_State] = []
        self._parents = array("q")
        self._actions = array("q")
        self._covered: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
        self._checked: set[tuple[int, ...]] = set()

    def begin(self, prefix: Sequence[str]) -> None:
        """Begin where `prefix` leads to, with all bounds untouched. Writes are durable at once on the way.

        Args:
            prefix: lines, each of which is one of

                - ``n1 timeout``, or another of `Event`;
                - ``n1>n2 Vote``: the newest message of that kind arrives;
                - ``settle n1 n2``: what is in flight between these nodes arrives, until nothing changes;
                - ``elect n1 n2``: n1 times out and what is said about elections between these nodes arrives, until n1 leads;
                - ``lose``: what is in flight never arrives.

        Raises:
            InvalidRequest: a line says something else, or what it says cannot happen.
            Violation: the prefix breaks a rule.
        """
        left = self._first[4]
        for line in prefix:
            self._first = self._after_line(self._first, line)
        self._first = (*self._first[:4], left, self._first[5])
        self._prefix = list(prefix)

    def _after_line(self, state: _State, line: str) -> _State:
        verb, *words = line.split()
        names = [NODES.index(word) for word in words if word in NODES]
        if verb == "lose":
            return (*state[:5], 0)
        if verb == "settle" and names:
            return self._settled(state, names, "")
        if verb == "elect" and names:
            for _ in range(4):
                after = self._follow(state, names[0], Event.TIMEOUT, False)
                state = self._settled(after or state, names, "Vote")
                if self.tables.facts[state[names[0]]].role is Role.LEADER:
                    return state
        if verb in NODES and words and words[0].upper() in Event.__members__:
            return self._follow(state, NODES.index(verb), Event[words[0].upper()], False) or state
        for number, message in reversed(list(enumerate(self.tables.messages))):
            if f"{message.sender}>{message.to}" == verb and [type(message).__name__] == words and state[5] >> number & 1:
                return self._follow(state, NODES.index(message.to), -1 - number, False) or state
        raise InvalidRequest(f"no exploration can begin with {line!r}")

    def _settled(self, state: _State, places: Sequence[int], kind: str) -> _State:
        """After everything has arrived that is in flight between the nodes at `places` and of which the name contains `kind`."""
        names = {NODES[place] for place in places}
        for number, message in enumerate(self.tables.messages):
            wanted = {message.sender, message.to} <= names and kind in type(message).__name__
            if wanted and state[5] >> number & 1:
                after = self._follow(state, NODES.index(message.to), -1 - number, False)
                if after is not None:
                    return self._settled(after, places, kind)
        return state

    # One edge.

    def _follow(self, state: _State, at: int, event: int, slow: bool) -> _State | None:
        """The state after `event` at node `at`; None when nothing comes of it, or it leads beyond the bounds."""
        tables = self.tables
        node = state[at]
        outcome = tables.outcome(node, event, slow)
        sent = state[5] | outcome.sent
        after = outcome.node
        if after == node and sent == state[5]:
            return None
        left = state[4] - _COSTS[event] if event > 0 else state[4]
        if slow and not tables.writing[node]:
            if not tables.writing[after]:
                return None  # it had nothing to write, so it is as if it were prompt
            left -= _SLOW
        if len(tables.facts[after].log) > self.bounds.entries:
            return None
        history = tables.learnt(state[3], at, outcome.news) if outcome.news else state[3]
        nodes = [*state[:_COUNT]]
        nodes[at] = after
        sent = self._with_answers(nodes, sent)
        one, two, three = nodes
        if after != node:
            self._check((one, two, three))
        return one, two, three, history, left, sent

    def _with_answers(self, nodes: list[int], sent: int) -> int:
        """Deliver every message after which a node only says more than it would, now or when it is durable: the state afterwards
        covers the one before. Returns what is in flight then, and puts what the nodes are then into `nodes`."""
        tables = self.tables
        more = True
        while more:
            more = False
            for at in range(_COUNT):
                node = nodes[at]
                arriving = sent & tables.addressed[at] & ~tables.inert[node]
                while arriving:
                    lowest = arriving & -arriving
                    arriving ^= lowest
                    outcome = tables.outcome(node, -lowest.bit_length(), tables.writing[node])
                    if tables.harmless[node] & lowest and (outcome.node != node or sent | outcome.sent != sent):
                        more = True
                        sent |= outcome.sent
                        node = nodes[at] = outcome.node
        return sent

    def _check(self, nodes: tuple[int, int, int]) -> None:
        """The rules between nodes: they look at views only, and few of these differ."""
        views = self.tables.views
        key = tuple([views[node] for node in nodes])
        if key not in self._checked:
            self._checked.add(key)
            check_together(NODES, [self.tables.facts[node] for node in nodes])

    def _events(self, state: _State) -> Iterator[tuple[int, int, bool]]:
        """What may happen in `state`: a node's place, an event as `Tables.outcome` takes it, and whether it is slow to be durable."""
        tables, left = self.tables, state[4]
        may_be_slow = left >= _SLOW
        for at in range(_COUNT):
            node = state[at]
            writing = tables.writing[node]
            for event in tables.enabled[node]:
                if event == Event.PERSIST or left // _COSTS[event] % _DIGIT:
                    yield at, event, writing
                    if may_be_slow and not writing:
                        yield at, event, True
            arriving = state[5] & tables.addressed[at] & ~tables.inert[node]
            while arriving:
                lowest = arriving & -arriving
                arriving ^= lowest
                yield at, -lowest.bit_length(), writing
                if may_be_slow and not writing:
                    yield at, -lowest.bit_length(), True

    def _is_covered(self, state: _State) -> bool:
        """Whether a state that was met covers `state`; if not, it is met now."""
        one, two, three, history, left, sent = state
        known = self._covered.setdefault((one, two, three, history), [])
        for other_left, other_sent in known:
            if sent | other_sent == other_sent and _leaves_as_much(other_left, left):
                return True
        known.append((left, sent))
        return False

    # The search.

    def run(self) -> Exploration:
        """Explore by breadth, until everything within the bounds is known or something is found."""
        begin = time.perf_counter()
        self._is_covered(self._first)
        self._found = found = [self._first]
        self._parents.append(-1)
        self._actions.append(-1)
        violation = None
        at, level, depth = 0, 1, 0
        while at < len(found) < self.bounds.states and violation is None:
            if at == level:
                level, depth = len(found), depth + 1
            violation = self._expand(at)
            at += 1
        return self._report(at, depth, time.perf_counter() - begin, violation)

    def _expand(self, at: int) -> Found | None:
        """Take every edge from state number `at`."""
        state, found = self._found[at], self._found
        for place, event, slow in list(self._events(state)):
            if at == 0 and place > 0 and not self._prefix:
                continue
            try:
                after = self._follow(state, place, event, slow)
            except Violation as violation:
                path = [*self._path(at), self._described(state, place, event, slow)]
                return Found(rule=violation.rule, what=str(violation), path=path)
            if after is None:
                continue
            self._edges += 1
            if not self._is_covered(after):
                found.append(after)
                self._parents.append(at)
                self._actions.append(_action(place, event, slow))
        return None

    def _report(self, expanded: int, depth: int, seconds: float, violation: Found | None) -> Exploration:
        tables = self.tables
        elected = [bool(history.reigns) for history in tables.histories]
        committed = [bool(history.committed) for history in tables.histories]
        return Exploration(
            bounds=self.bounds,
            prefix=self._prefix,
            states=len(self._found),
            edges=self._edges,
            depth=depth + 1,
            complete=expanded == len(self._found) and violation is None,
            node_states=tables.node_states,
            messages=len(tables.messages),
            steps=tables.steps,
            elected=sum(elected[state[3]] for state in self._found),
            committed=sum(committed[state[3]] for state in self._found),
            seconds=seconds,
            violation=violation,
        )

    # Ways.

    def _path(self, number: int) -> list[str]:
        """How state `number` was reached, in words."""
        way = []
        while number > 0:
            way.append(number)
            number = self._parents[number]
        lines = list(self._prefix)
        for reached in reversed(way):
            before = self._found[self._parents[reached]]
            lines.append(self._described(before, *_taken(self._actions[reached]), self._found[reached]))
        return lines

    def _described(self, state: _State, at: int, event: int, slow: bool, after: _State | None = None) -> str:
        tables = self.tables
        line = f"{NODES[at]} {Event(event).name.lower()}" if event >= 0 else shown_message(tables.messages[-1 - event])
        if slow and event != Event.PERSIST:
            line += " (and is slow to write)"
        if after is None or after[at] == state[at]:
            return line
        return f"{line} -> {NODES[at]} {shown_facts(tables.facts[after[at]])}"


@lru_cache(maxsize=4096)
def _leaves_as_much(one: int, other: int) -> bool:
    """Whether no digit of `one` is below that of `other`."""
    while other:
        if one % _DIGIT < other % _DIGIT:
            return False
        one, other = one // _DIGIT, other // _DIGIT
    return True


def _action(at: int, event: int, slow: bool) -> int:
    """A place, an event and how it is written, as one number."""
    return ((event + (1 << 32)) * _COUNT + at) * 2 + slow


def _taken(action: int) -> tuple[int, int, bool]:
    """The opposite of `_action`."""
    event, at = divmod(action // 2, _COUNT)
    return at, event - (1 << 32), bool(action % 2)
