"""What happened in a simulation: the events in words, one a line, and a hash over all of them.

Two runs of one seed have the same hash, whatever the process, or something in them depends on more than the seed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_64

from raftkv.codec.peer import (
    ForwardReads,
    ForwardWrites,
    Health,
    ReadAnswers,
    ReadsRefused,
    SnapshotChunk,
    SnapshotDone,
    SnapshotOffer,
    SnapshotWant,
    Value,
    WritesRefused,
)
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    MessageBase,
    PreVote,
    PreVoteResponse,
    Vote,
    VoteResponse,
)
from raftkv.sim.clock import Schedule


class Violation(Exception):
    """The simulated cluster did what must never happen. `rule` names what was broken.

    The message says what, and ends with the seed and the last events when a whole run is simulated.
    """

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule
        self.what = what


_Event = tuple[int, str, str, tuple[object, ...]]


class Trace:
    """The events of one simulation.

    Args:
        schedule: tells the time.
        keep: how many of the last events are kept in words; None for all.
    """

    def __init__(self, schedule: Schedule, keep: int | None = 250) -> None:
        self.counts: Counter[str] = Counter()
        """How often each named event of the product has happened."""
        self.faults: Counter[str] = Counter()
        """How often each kind of fault has happened."""
        self.points: Counter[str] = Counter()
        """How often a node has died at each failure point."""
        self._schedule = schedule
        self._last: deque[_Event] = deque(maxlen=keep)
        self._hash = xxh3_64()

    def note(self, who: str, what: str, *facts: object) -> None:
        """Something has happened to `who`. Facts must not differ between two runs of a seed."""
        now_us = self._schedule.now_us
        self._last.append((now_us, who, what, facts))
        self._hash.update(f"{now_us} {who} {what} {facts}\n".encode())

    def arrives(self, who: str, sender: str, value: Value, size: int) -> None:
        """A value has come to `who` from another node."""
        now_us = self._schedule.now_us
        if not isinstance(value, Health) or value.fenced:  # else there would be little but that to read
            self._last.append((now_us, who, "hears", (sender, value)))
        self._hash.update(f"{now_us} {who} {type(value).__name__} {sender} {size}\n".encode())

    def count(self, who: str, what: str, *facts: object) -> None:
        """As `note`, and count it."""
        self.counts[what] += 1
        self.note(who, what, *facts)

    def lines(self) -> list[str]:
        """The events that were kept."""
        return [_line(event) for event in self._last]

    def text(self) -> str:
        """The same in one piece."""
        return "\n".join(self.lines())

    def digest(self) -> str:
        """The hash of everything so far."""
        return self._hash.hexdigest()


def _line(event: _Event) -> str:
    now_us, who, what, facts = event
    if what == "hears":
        sender, value = facts
        told = f"{sender}: {type(value).__name__} {describe(value)}"
    else:
        told = " ".join(map(str, facts))
    return f"{now_us / 1e3:11.3f} ms  {who:8} {what:16} {told}".rstrip()


_WORDS: Final[dict[type, Callable[..., str]]] = {
    PreVote: lambda m: f"for term {m.campaign_term}, log ends with {m.last_index}@{m.last_term}",
    PreVoteResponse: lambda m: f"for term {m.campaign_term}: {'yes' if m.granted else 'no'}",
    Vote: lambda m: f"log ends with {m.last_index}@{m.last_term}{', handed over' if m.transfer else ''}",
    VoteResponse: lambda m: "yes" if m.granted else "no",
    Append: lambda m: f"after {m.prev_index}@{m.prev_term}: {_entries(m)}, commit {m.commit}",
    AppendResponse: lambda m: f"up to {m.match}{'' if m.counts else ', does not count'}",
    AppendRejected: lambda m: f"not {m.rejected_index}, perhaps {m.hint_index}@{m.hint_term}, log ends at {m.last_index}",
    Heartbeat: lambda m: f"round {m.round}, commit {m.commit}",
    HeartbeatResponse: lambda m: f"round {m.round}{'' if m.counts else ', does not count'}",
    InstallSnapshot: lambda m: f"at {m.snapshot.index}@{m.snapshot.term}",
    Health: lambda m: f"{m.role} of term {m.term}, applied {m.applied}{', fenced' if m.fenced else ''}",
    ForwardWrites: lambda m: f"commands {m.group.first} to {m.group.first + m.group.count - 1} of session {m.group.session.hex()[:8]}",
    WritesRefused: lambda m: f"from command {m.first} on of session {m.session.hex()[:8]}: {m.reason}",
    ForwardReads: lambda m: f"{m.count} reads, frame {m.id:x}",
    ReadAnswers: lambda m: f"to frame {m.id:x}",
    ReadsRefused: lambda m: f"of frame {m.id:x}",
    SnapshotOffer: lambda m: f"{m.id} at {m.message.snapshot.index}, {sum(file.size for file in m.files)} bytes",
    SnapshotWant: lambda m: f"{m.id} file {m.file} from {m.offset}",
    SnapshotChunk: lambda m: f"{m.id} file {m.file} from {m.offset}, {len(m.data)} bytes",
    SnapshotDone: lambda m: f"{m.id} {'is here' if m.ok else 'failed: ' + m.reason}",
}


def describe(value: object) -> str:
    """A message in a few words."""
    words = _WORDS.get(type(value))
    told = words(value) if words is not None else str(value)[:100]
    return f"(term {value.term}) {told}" if isinstance(value, MessageBase) else told


def _entries(message: Append) -> str:
    entries = message.entries
    if not entries:
        return "nothing"
    first, last = entries[0], entries[-1]
    return f"{first.index}@{first.term}" + (f" to {last.index}@{last.term}" if last is not first else "")
