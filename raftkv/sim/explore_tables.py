"""The tables of an exploration: every value that was met, by number, and what every event does to it.

A core is a function of its value and the event, so what an event does to a node is computed once, however many states of the whole have
the node in it. Numbers are given in the order in which values are met, so that one exploration is like another. A set of messages is an
integer with the bit of each message's number.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import asdict

from raftkv.raft.messages import Append, Message
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, Entry, Member, NodeId
from raftkv.sim.core_node import Event, Facts, News, NodeState, covers, first_state, step
from raftkv.sim.rules import History, learnt

NODES: tuple[NodeId, ...] = ("n1", "n2", "n3")
CONFIGURATION = Configuration(tuple(Member(name, 1, f"{name}:7000") for name in NODES), NODES)


class Outcome(Struct, frozen=True):
    """What an event does to a node: the number of its next value, what it sends (a set of messages), and what it tells."""

    node: int
    sent: int
    news: tuple[News, ...]


class Tables:
    """Every value that was met, by number, and what every event does to it."""

    def __init__(self) -> None:
        self.steps = 0
        self.facts: list[Facts] = []
        self.enabled: list[tuple[Event, ...]] = []
        self.views: list[int] = []
        """For each node state the number of what others can tell of it: of its `Facts`."""
        self.messages: list[Message] = []
        self.addressed = [0] * len(NODES)
        """For each node the messages that are addressed to it."""
        self.inert: list[int] = []
        """For each node state the messages that are known to change nothing and to be answered by nothing."""
        self.harmless: list[int] = []
        """For each node state the messages of which it is known that they only have the node say more, now or when it is durable."""
        self.writing: list[bool] = []
        """For each node state whether something is on its way to the disk."""
        self.histories: list[History] = []
        self.nodes: list[NodeState] = []
        self._node_numbers: dict[NodeState, int] = {}
        self._view_numbers: dict[Facts, int] = {}
        self._message_numbers: dict[Message, int] = {}
        self._history_numbers: dict[History, int] = {}
        self._prompt: dict[tuple[int, int], Outcome] = {}
        self._slow: dict[tuple[int, int], Outcome] = {}
        self._learnt: dict[tuple[int, int, News], int] = {}

    def first(self, at: int) -> int:
        """The number of the value of a new node, by its place in `NODES`."""
        return self.node(first_state(NODES[at], CONFIGURATION), Facts(Role.FOLLOWER, 0, (), (), 0))

    def node(self, state: NodeState, facts: Facts) -> int:
        """The number of a node's value."""
        number = self._node_numbers.setdefault(state, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(state)
            self.facts.append(facts)
            self.inert.append(0)
            self.harmless.append(0)
            self.writing.append(bool(state.pending))
            self.views.append(self._view_numbers.setdefault(facts, len(self._view_numbers)))
            self.enabled.append(_enabled(state, facts))
        return number

    def message(self, message: Message) -> int:
        """The number of a message."""
        number = self._message_numbers.setdefault(message, len(self.messages))
        if number == len(self.messages):
            self.messages.append(message)
            self.addressed[NODES.index(message.to)] |= 1 << number
        return number

    def history(self, history: History) -> int:
        """The number of a history."""
        number = self._history_numbers.setdefault(history, len(self.histories))
        if number == len(self.histories):
            self.histories.append(history)
        return number

    def outcome(self, node: int, event: int, slow: bool) -> Outcome:
        """What happens to the node whose value has the number `node`.

        Args:
            event: an `Event`, or a message that arrives, by its number counted downwards from -1.
            slow: what it writes is not durable at once.

        Raises:
            Violation: a rule that one node can break.
        """
        outcomes = self._slow if slow else self._prompt
        known = outcomes.get((node, event))
        if known is None:
            self.steps += 1
            after = step(self.nodes[node], Event(event) if event >= 0 else self.messages[-1 - event], prompt=not slow)
            number = self.node(after.state, after.facts)
            known = outcomes[node, event] = Outcome(number, sum({1 << self.message(one) for one in after.sent}), after.news)
            if event < 0 and covers(after.state, self.nodes[node]):
                self.harmless[node] |= 1 << (-1 - event)
                if number == node and not known.sent:
                    self.inert[node] |= 1 << (-1 - event)
        return known

    def learnt(self, history: int, at: int, news: tuple[News, ...]) -> int:
        """The history after the node `at` has told of `news`.

        Raises:
            Violation: a rule of the past.
        """
        for one in news:
            known = self._learnt.get((history, at, one))
            if known is None:
                known = self._learnt[history, at, one] = self.history(learnt(self.histories[history], NODES[at], one))
            history = known
        return history

    @property
    def node_states(self) -> int:
        """How many values of nodes were met."""
        return len(self.nodes)


def _enabled(state: NodeState, facts: Facts) -> tuple[Event, ...]:
    """The events that can happen at a node."""
    events = [Event.PERSIST] if state.pending else []
    leads = facts.role is Role.LEADER
    return (*events, Event.CRASH, *((Event.PROPOSE, Event.HEARTBEAT) if leads else (Event.TIMEOUT,)))



# In words.


def shown_entries(entries: tuple[Entry, ...]) -> str:
    """Entries by index and term."""
    return " ".join(f"{entry.index}@{entry.term}" for entry in entries) or "none"


def shown_message(message: Message) -> str:
    """A message in a line."""
    facts = {name: value for name, value in asdict(message).items() if name not in ("sender", "to", "incarnation")}
    if isinstance(message, Append):
        facts["entries"] = f"[{shown_entries(message.entries)}]"
    return f"{message.sender}>{message.to} {type(message).__name__} " + " ".join(f"{name}={value}" for name, value in facts.items())


def shown_facts(facts: Facts) -> str:
    """Where a node stands, in a line."""
    return (
        f"{facts.role} of term {facts.term}, log {shown_entries(facts.log)}, durable {shown_entries(facts.durable)}, "
        f"commit {facts.committed}"
    )
