"""The fate of the commands of one call: what is sent now, what an answer means, what is sent again, and what is told in the end.

What always holds:

- An outcome is final. A command has one when it was answered, or when it is not known and never will be.
- A read may be sent at any time, and a write in a session as often as needed, for its number makes it happen once. Everything else is
  sent again only if every node that it was sent to said that it did not happen.
- Commands take effect in their order. What is sent together is writes and then reads: a read that comes before a write is answered before
  that leaves, since a read that had to be asked again would see the write. An answer to a read is dropped if a write before it has to be
  sent again.
- `Uncertain` is told of what may have happened, `Unavailable` and `Busy` only of what surely did not, and never will.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from raftkv.client.command import AnyCommand, Kind
from raftkv.client.replies import Answer, encode_request
from raftkv.client.session import Session
from raftkv.errors import Busy, ProtocolError, RaftkvError, Refused, ReplyError, Unavailable, Uncertain

MOST_COMMANDS: Final = 512
"""Commands that are sent together; below the number of replies that a session keeps."""
MOST_BYTES: Final = 1 << 20
"""Where the bytes that are sent together end; one larger command goes alone."""

REFUSALS: Final = frozenset({"CLUSTERDOWN", "OVERLOADED", "LOADING"})
"""Codes of errors that say that nothing happened and that it may be tried again."""

_OPEN: Final = object()


class _Item:
    """One command of the call. `number` is its place in the session, `sent` whether an answer is awaited, `floating` whether it may
    happen without another request."""

    __slots__ = ("command", "floating", "number", "outcome", "sent")

    def __init__(self, command: AnyCommand) -> None:
        self.command = command
        self.number: int | None = None
        self.sent = False
        self.floating = False
        self.outcome: object = _OPEN

    @property
    def open(self) -> bool:
        """Whether there is no outcome yet."""
        return self.outcome is _OPEN


class Call:
    """The commands of one call and their outcomes, in order.

    Args:
        commands: what to do; their kinds are known.
        session: where writes are numbered, None where nodes have no sessions.
    """

    def __init__(self, commands: Sequence[AnyCommand], session: Session | None) -> None:
        self._items = [_Item(command) for command in commands]
        self._session = session
        self._sent: list[_Item] = []
        self._first = 0
        self.refusal: ReplyError | None = None
        """The last refusal."""
        self.elsewhere = False
        """Whether the last answers say that another node is to be asked."""

    @property
    def over(self) -> bool:
        """Whether every command has its outcome."""
        items = self._items
        while self._first < len(items) and not items[self._first].open:
            self._first += 1
        return self._first == len(items)

    @property
    def repeatable(self) -> bool:
        """Whether what `next_request` returned last can be sent again when no answer comes."""
        return all(self._may_repeat(item) for item in self._sent)

    def without_sessions(self) -> None:
        """The nodes have no sessions."""
        self._session = None

    @property
    def needs_session(self) -> bool:
        """Whether a write is next and its session is not open."""
        if self._session is None or self._session.opened or self.over:
            return False
        return self._items[self._first].command.kind is Kind.WRITE

    # Sending.

    def next_request(self) -> tuple[bytes, int]:
        """What to send now, and how many answers it has."""
        sent: list[_Item] = []
        parts: list[bytes] = []
        size = 0
        floor: int | None = None
        for item in islice(self._items, self._first, None):
            if not item.open:
                continue
            if sent and (len(sent) == MOST_COMMANDS or not _follows(sent[-1].command.kind, item.command.kind)):
                break
            if size and size + sum(map(len, item.command.args)) > MOST_BYTES:
                break
            if self._session is not None and item.command.kind is Kind.WRITE:
                if item.number is None:
                    item.number = self._session.number()
                if floor is None:
                    floor = item.number - 1
                data = self._session.once(item.number, floor, item.command.args)
            else:
                data = encode_request(item.command.args)
            item.sent = True
            sent.append(item)
            parts.append(data)
            size += len(data)
        self._sent = sent
        return b"".join(parts), len(sent)

    def _may_repeat(self, item: _Item) -> bool:
        return item.command.kind is Kind.READ or item.number is not None

    # Answers.

    def answered(self, answers: Sequence[Answer], *, broken: str | None = None) -> str | None:
        """The answers to the last request have come, or the first of them, if the connection then failed for the reason `broken`.

        Returns:
            Why something has to be sent again, if so.
        """
        problem = broken
        in_order = True
        self.elsewhere = False
        for item, answer in zip(self._sent, answers, strict=False):
            if not item.open or (item.command.kind is Kind.READ and not in_order):
                continue
            self._answer(item, answer)
            if item.open:
                in_order = False
                problem = problem or f"a node answered {str(answer)[:200]}"
        for item in self._sent[len(answers) :]:
            if self._may_repeat(item):
                item.floating = item.command.kind is not Kind.READ
            else:
                item.outcome = Uncertain(f"{broken}; {item.command.name} may have happened")
        for item in self._sent:
            item.sent = False
        self._sent = []
        return problem

    def _answer(self, item: _Item, answer: Answer) -> None:
        if not isinstance(answer, ReplyError):
            item.outcome = _shaped(item.command, answer)
            return
        code = answer.code
        in_session = self._session is not None and item.command.kind is Kind.WRITE
        if code in REFUSALS:
            self.refusal = answer
            self.elsewhere |= code != "OVERLOADED"
        elif code == "UNCERTAIN":
            self.elsewhere = True
            if item.number is not None:
                item.floating = True
            elif item.command.kind is not Kind.READ:
                item.outcome = Uncertain(str(answer))
        elif code == "FORGOTTEN" and in_session:
            item.outcome = Uncertain(str(answer))
        elif code == "NOSESSION" and in_session:
            if item.number is not None:  # else it was lost with one before it
                self._lose_session()
        elif code == "GAP" and in_session:
            if item is self._lowest():  # a number below was used up without a trace, so the session can never go on
                self._lose_session()
        else:
            item.outcome = answer

    def _lowest(self) -> _Item | None:
        """The first command that has a number and no outcome."""
        return next((item for item in islice(self._items, self._first, None) if item.open and item.number is not None), None)

    def _lose_session(self) -> None:
        """Nothing can be applied in the session any more. What may have been applied stays open for ever; the rest begins anew."""
        if self._session is None:
            return
        for item in self._items:
            if item.open and item.number is not None:
                item.number = None
                if item.floating:
                    item.outcome = Uncertain(f"the session was lost while the outcome of {item.command.name} was not known")
        self._session.renew()

    # The end.

    def give_up(self, reason: str) -> None:
        """There is no more time: every command gets the outcome that is true now."""
        late: type[RaftkvError] = Busy if self.refusal is not None and self.refusal.code == "OVERLOADED" else Unavailable
        for item in self._items:
            if item.open and item.floating:
                item.outcome = Uncertain(f"{reason}; {item.command.name} may have happened, or may yet")
            elif item.open:
                item.outcome = late(f"{reason}; {item.command.name} did not happen")
        self.settle()

    def settle(self) -> None:
        """The call ends, in whatever way: leave the session so that the next call can go on in it, or leave it behind."""
        if self._session is None:
            return
        unused: list[int] = []
        for item in self._items:
            if item.number is None or not (item.open or isinstance(item.outcome, Refused | Uncertain)):
                continue
            if item.floating or item.sent:
                self._session.renew()
                return
            unused.append(item.number)
        if unused:
            self._session.give_back(min(unused))

    @property
    def outcomes(self) -> list[Any]:
        """The outcome of each command: what its method returns, or the error to raise."""
        return [item.outcome for item in self._items]


def _follows(before: Kind, after: Kind) -> bool:
    """Whether a command may be sent before the one before it has been answered."""
    return before is after or (before is Kind.WRITE and after is Kind.READ)


def _shaped(command: AnyCommand, answer: Answer) -> object:
    try:
        return command.shape(answer)
    except ProtocolError as error:
        return error
