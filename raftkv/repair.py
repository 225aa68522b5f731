"""Getting rotten entries of the log again from other nodes, before a node takes part in anything (after Alagappan et al., FAST'18).

A node whose log has rotted where it counts does not start its core: it may have promised what it cannot read, so it neither votes nor
acknowledges nor serves. It asks every other member for the entries, by index and term. Every member answers from its durable log,
whatever its role, also one that is in repair itself: it gives what is intact of its own. Whether the entries are committed does not
matter; an entry is named by index and term for ever.

How it ends:

- All entries have arrived, and the log is what it was, bit for bit. The node opens it and starts as always.
- The leader of a term that is not older than the node's own, if it has a state, cannot give them, nor can anybody else, or not for
  `PATIENCE_MS`. That leader holds everything that was committed and that this node may have acknowledged, so what it does not give was
  never committed, or is in its state. The node ends its log before the rot, as suspect: it does not count until that leader has brought
  it up to date.
- Neither. As long as an entry is intact nowhere, or only where nobody can be reached, the node waits, and says whom it has asked.
  It never guesses and never drops.

Nothing here touches a disk or a socket: the log is behind `LogInRepair`, whose methods run in the background; frames leave through `send`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Protocol, TypeVar

import structlog

from raftkv.codec.peer import EntriesFound, EntriesWant, Lack
from raftkv.errors import DiskFull
from raftkv.raft.types import Entry, EntryId, Index, NodeId, SnapshotMeta, Term
from raftkv.startup import with_room
from raftkv.storage.recovery import WAY_BACK
from raftkv.storage.rotten import RottenEntry

WANTED_AT_ONCE = 256
"""How many entries one question names."""

ANSWER_BYTES = 1 << 20
"""Payload bytes of entries in an answer, which has at least one entry if it can."""

ASK_AGAIN_MS = 1_000
"""A member that has given all it has is asked again after so long."""

LOST_MS = 500
"""A question that was not answered for so long is asked again, and what the member said before that is no longer believed. The first is
often lost: a member can be asked as soon as it is reached, and answers only when it reaches the asker."""

PATIENCE_MS = 5_000
"""For so long nothing must have arrived before a node gives up entries that the leader does not give, when not all members answer."""

REPORT_MS = 30_000

_Result = TypeVar("_Result")
Background = Callable[[Callable[[], _Result], Callable[[_Result | BaseException], None]], None]


class ReadableLog(Protocol):
    """A durable log that others may ask for entries: one that is open, or one in repair."""

    @property
    def begin(self) -> SnapshotMeta: ...
    @property
    def last_index(self) -> Index: ...
    def term_at(self, index: Index) -> Term | None: ...
    def read(self, first: Index, last: Index, max_bytes: int) -> Sequence[Entry]: ...


class LogInRepair(ReadableLog, Protocol):
    """`raftkv.storage.rotten.RottenLog`."""

    @property
    def needed(self) -> tuple[RottenEntry, ...]: ...
    @property
    def term(self) -> Term: ...
    def accepts(self, rotten: RottenEntry, entry: Entry) -> bool: ...
    def mend(self, entries: Mapping[RottenEntry, Entry]) -> list[RottenEntry]: ...
    def end_before_rot(self) -> None: ...
    def give_up_damaged(self) -> bool: ...


class Ending(enum.Enum):
    """How a repair has ended."""

    MENDED = "all entries were had again"
    GIVEN_UP = "the log ends before the rot, and the leader has what is missing"


def answer(log: ReadableLog, want: EntriesWant, *, leads: bool, term: Term) -> EntriesFound:
    """What a node whose durable log is `log` answers to `want`.

    Raises:
        Corrupt: the log is open, and an entry of it has rotted: the node must stop, and repair it.
        StorageError: the disk failed.
    """
    entries: list[Entry] = []
    lack = Lack.NONE
    room = ANSWER_BYTES
    anchored = want.anchor.term > 0 and log.term_at(want.anchor.index) == want.anchor.term
    for wanted in want.entries:
        index, own = wanted.index, log.term_at(wanted.index)
        if index <= log.begin.index:
            lack = max(lack, Lack.FORGOTTEN)
        elif own is None:
            lack = max(lack, Lack.ROTTEN if index <= log.last_index else Lack.NOT_HELD)
        elif own != wanted.term if wanted.term else not (anchored and index <= want.anchor.index):
            lack = max(lack, Lack.NOT_HELD)
        else:
            found = log.read(index, index, 1)
            if not found:
                lack = max(lack, Lack.FORGOTTEN if index <= log.begin.index else Lack.ROTTEN)
                continue
            room -= len(found[0].payload)
            if entries and room < 0:
                break
            entries.append(found[0])
    return EntriesFound(want.id, tuple(entries), lack, leads, term)


class _Member:
    """Another member: what it was asked, and what it said."""

    def __init__(self) -> None:
        self.connected = False
        self.asked: list[RottenEntry] = []
        """What the question under way names."""
        self.id = 0
        self.lacks: set[RottenEntry] = set()
        """What it was asked for and did not give, since it was asked for everything last."""
        self.wait_ms = 0
        """How long it is not asked, because it has been asked for everything and gave nothing."""
        self.silent_ms = 0
        """How long ago it was asked."""
        self.said: EntriesFound | None = None

    @property
    def opinion(self) -> str:
        if not self.connected:
            return "is not connected"
        if self.said is None:
            return "has not answered"
        lacks = {
            Lack.NONE: "gave what it was asked for",
            Lack.NOT_HELD: "does not hold them",
            Lack.FORGOTTEN: "has forgotten them, its state holds them",
            Lack.ROTTEN: "has them rotten, too",
        }
        return lacks[self.said.lack] + (", and leads" if self.said.leads else "")


class Repair:
    """One node's repair phase.

    Args:
        node: its name.
        log: its rotten log.
        members: the other members, never none.
        background: runs blocking work, one at a time.
        send: sends a frame to a member; False when it surely was not sent.
        ended: told how it has ended. The log is then to be opened.
    """

    def __init__(
        self,
        node: NodeId,
        log: LogInRepair,
        members: Sequence[NodeId],
        background: Background,  # type: ignore[type-arg]
        send: Callable[[NodeId, object], bool],
        ended: Callable[[Ending], None],
    ) -> None:
        self._log = log
        self._members = {member: _Member() for member in sorted(members)}
        self._background = background
        self._send = send
        self._ended = ended
        self._missing = list(log.needed)
        self._found: dict[RottenEntry, Entry] = {}
        self._busy = False
        self._over = False
        self._questions = 0
        self._quiet_ms = 0
        self._hold_ms = 0
        """How long nothing is given up, because there was no space for it."""
        self._report_ms = 0
        self._events: structlog.typing.FilteringBoundLogger = structlog.get_logger("raftkv").bind(node=node)
        first = self._missing[0]
        self._events.error("log_rotten", entries=len(self._missing), file=first.file, offset=first.offset, first=_name(first))

    @property
    def missing(self) -> int:
        """How many entries have not been had yet."""
        return len(self._missing)

    def describe(self) -> str:
        """What is missing, who was asked, what each said, and what an operator can do."""
        if not self._missing:
            return "the log is being written again"
        first = self._missing[0]
        opinions = ", ".join(f"{name} {member.opinion}" for name, member in self._members.items())
        return (
            f"rotten entries of the log: {len(self._missing)}; the other members are asked for them; the first is "
            f"entry {_name(first)}, in {first.file} near offset {first.offset}: {opinions}. Start the members that are down. {WAY_BACK}"
        )

    # What happens.

    def tick(self, elapsed_ms: int) -> None:
        """Time has passed: ask, ask again, and give up what the leader does not give."""
        if self._over:
            return
        self._quiet_ms += elapsed_ms
        self._hold_ms = max(0, self._hold_ms - elapsed_ms)
        self._report_ms += elapsed_ms
        for member in self._members.values():
            member.silent_ms += elapsed_ms
            if member.wait_ms:
                member.wait_ms = max(0, member.wait_ms - elapsed_ms)
                if not member.wait_ms:
                    member.lacks.clear()
        self._ask_all()
        if self._report_ms >= REPORT_MS:
            self._report_ms = 0
            self._events.warning("log_repair_waits", reason=self.describe())
        if self._missing and not self._busy and not self._hold_ms and self._may_give_up():
            self._give_up()

    def connected(self, peer: NodeId) -> None:
        """`peer` can be asked."""
        member = self._members.get(peer)
        if member is not None:
            self._members[peer] = member = _Member()
            member.connected = True
            self._ask_all()

    def disconnected(self, peer: NodeId) -> None:
        """`peer` is gone."""
        if peer in self._members:
            self._members[peer] = _Member()

    def received(self, sender: NodeId, value: object) -> None:
        """A peer sent `value`. All that is not about rotten entries is for the core, which does not run."""
        if self._over:
            return
        if isinstance(value, EntriesWant):
            self._answer(sender, value)
        elif isinstance(value, EntriesFound):
            self._take(sender, value)

    # Asking.

    def _ask_all(self) -> None:
        for peer, member in self._members.items():
            if not member.connected or not self._missing:
                continue
            if not member.asked and not member.wait_ms:
                self._ask(peer, member)
            elif member.asked and member.silent_ms >= LOST_MS:
                member.said = None
                member.lacks.clear()
                self._put(peer, member, member.asked)

    def _ask(self, peer: NodeId, member: _Member) -> None:
        """Ask for the next entries that are missing and that it may have, all of one group."""
        batch = list(islice((rotten for rotten in self._missing if rotten not in member.lacks), WANTED_AT_ONCE))
        if not batch:
            member.wait_ms = ASK_AGAIN_MS
            return
        first = batch[0]
        asked = [rotten for rotten in batch if (rotten.file, rotten.anchor) == (first.file, first.anchor)]
        self._questions += 1
        member.id = self._questions
        self._put(peer, member, asked)

    def _put(self, peer: NodeId, member: _Member, asked: list[RottenEntry]) -> None:
        """Put a question. When it is put again it has the same number, so that a late answer to the first is one."""
        names = tuple([EntryId(rotten.index, rotten.term or 0) for rotten in asked])
        if self._send(peer, EntriesWant(member.id, asked[0].anchor, names)):
            member.asked, member.silent_ms = asked, 0

    def _take(self, sender: NodeId, found: EntriesFound) -> None:
        member = self._members.get(sender)
        if member is None or member.id != found.id or not member.asked:
            return
        asked, member.asked = member.asked, []
        member.said = found
        given: set[RottenEntry] = set()
        taken: set[RottenEntry] = set()
        missing = set(self._missing)
        for rotten in asked:
            for entry in found.entries:
                if entry.index == rotten.index and self._log.accepts(rotten, entry):
                    given.add(rotten)
                    if rotten in missing:
                        self._found[rotten] = entry
                        taken.add(rotten)
        if taken:
            self._quiet_ms = 0
            self._missing = [rotten for rotten in self._missing if rotten not in taken]
        if not given:
            member.lacks.update(asked)
        self._mend()
        self._ask_all()

    def _answer(self, sender: NodeId, want: EntriesWant) -> None:
        def answered(result: EntriesFound | BaseException) -> None:
            if isinstance(result, BaseException):
                raise result
            self._send(sender, result)

        self._background(lambda: answer(self._log, want, leads=False, term=self._log.term), answered)

    # Ending.

    def _mend(self) -> None:
        """Write what has arrived, when all of a group has."""
        waiting = {(rotten.file, rotten.anchor) for rotten in self._missing}
        ready = {rotten: entry for rotten, entry in self._found.items() if (rotten.file, rotten.anchor) not in waiting}
        if self._busy or not ready:
            return
        self._busy = True

        def mended(useless: list[RottenEntry] | BaseException) -> None:
            self._busy = False
            if isinstance(useless, BaseException):
                raise useless
            for rotten in ready:
                self._found.pop(rotten, None)
            if useless:
                self._events.error("log_repair_failed", entries=len(useless), reason="what arrived is not what was written")
                self._missing = sorted({*self._missing, *useless}, key=lambda rotten: (rotten.file, rotten.offset))
                for member in self._members.values():
                    member.lacks.clear()
                    member.wait_ms = ASK_AGAIN_MS
            self._events.info("log_mended", entries=len(ready) - len(useless), missing=len(self._missing))
            if not self._log.needed:
                self._end(Ending.MENDED)
            else:
                self._mend()

        self._background(lambda: self._log.mend(ready), mended)

    def _may_give_up(self) -> bool:
        members = self._members.values()
        all_asked = all(member.connected and member.said is not None and member.wait_ms for member in members)
        return (all_asked or self._quiet_ms >= PATIENCE_MS) and any(map(self._relieves, members))

    def _relieves(self, member: _Member) -> bool:
        """Whether it leads, in a term that makes it hold all that this node may have acknowledged and that was committed, and does
        not give what is missing first, where the log would end."""
        said = member.said
        if said is None or not member.connected or not said.leads or said.term < self._log.term:
            return False
        return not said.entries and self._missing[0] in member.lacks

    def _give_up(self) -> None:
        self._busy = True

        def given_up(result: object) -> None:
            self._busy = False
            if isinstance(result, DiskFull):
                self._hold_ms = PATIENCE_MS
                self._events.warning("log_repair_waits", reason=str(result))
                return
            if isinstance(result, BaseException):
                raise result
            self._end(Ending.GIVEN_UP)

        self._events.warning("log_given_up", reason=self.describe())
        self._background(lambda: with_room(self._log.give_up_damaged, self._log.end_before_rot, self._events), given_up)

    def _end(self, ending: Ending) -> None:
        self._over = True
        self._events.info("log_repaired", how=ending.value)
        self._ended(ending)


def _name(rotten: RottenEntry) -> str:
    return f"{rotten.index} (term {'unknown' if rotten.term is None else rotten.term})"
