"""The state of one client connection: what it asked for, what was answered, and in which order the two leave.

What always holds: every request gets exactly one reply, and replies leave in the order of the requests. A request that is
answered out of turn (an error, a refusal) waits here for those before it. What the client is told without having asked leaves in the
order in which it came, between the replies: after all that were there when it came, and before those that were not. Nothing here
decides; the router does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from raftkv.kv.replies import Failure, Pushes, Reply

if TYPE_CHECKING:
    from raftkv.router.reads import OwnReads
    from raftkv.router.transactions import ClientTransaction
    from raftkv.router.waiting import Waiter


class _Pending:
    """The place of a reply that is not there yet."""

    __slots__ = ()


_PENDING: Final = cast(Reply, _Pending())


class Chunk:
    """Requests that arrived together and wait for their turn. `position` is the first one that has not been taken up.

    With `refusal`, nothing of them is taken up but what concerns the connection or the node. `unkept` are requests that were refused
    while they would have had to wait: nothing is kept of them but their place, and the names of those that begin or end a transaction.
    """

    __slots__ = ("deadline_ms", "position", "refusal", "requests", "sizes", "unkept")

    def __init__(
        self,
        requests: list[list[bytes]],
        sizes: list[int],
        deadline_ms: int,
        position: int,
        refusal: Failure | None,
        unkept: Sequence[bytes] = (),
    ) -> None:
        self.requests = requests
        self.sizes = sizes
        self.deadline_ms = deadline_ms
        self.position = position
        self.refusal = refusal
        self.unkept = unkept


class Connection:
    """One client.

    `chunks` are requests that wait for their turn; `writes_out` and `reads_out` count those that were taken up and not answered; at
    most one of the two is not zero. `held_back` says that a request waits for replies to leave. `changed` collects the
    connections that have replies to deliver or may take up more. `gave_up` says that the last of what was taken up was not answered
    in its time: then what waits behind it has no more time than it had when it came. `transaction` is what it has watched and queued.
    `subscribed` says that it listens to a channel, `waiter` what it waits for in a blocking pop, and `ended` that the client will ask
    nothing more.
    """

    __slots__ = (
        "_base",
        "_changed",
        "_conversions",
        "_is_changed",
        "_pushes",
        "_sizes",
        "_slots",
        "address",
        "chunks",
        "closed",
        "closing",
        "ended",
        "gave_up",
        "held_back",
        "id",
        "last_reads",
        "name",
        "protocol",
        "readonly",
        "reads_out",
        "subscribed",
        "transaction",
        "waiter",
        "writes_out",
    )

    def __init__(self, connection_id: int, address: str, changed: list[Connection], transaction: ClientTransaction) -> None:
        self.id = connection_id
        self.address = address
        self.protocol = 2
        self.name = b""
        self.readonly = False
        self.closing = False
        self.closed = False
        self.held_back = False
        self.gave_up = False
        self.subscribed = False
        self.ended = False
        self.waiter: Waiter | None = None
        self.chunks: list[Chunk] = []
        self.writes_out = 0
        self.reads_out = 0
        self.last_reads: OwnReads | None = None
        self.transaction = transaction
        self._conversions: dict[int, Callable[[Reply], Reply]] = {}
        """By the number of its request, what makes the client's reply of the one that comes."""
        self._changed = changed
        self._is_changed = False
        self._slots: list[Reply] = []
        self._base = 0
        self._sizes: list[int] = []
        self._pushes: list[tuple[int, Pushes]] = []

    @property
    def idle(self) -> bool:
        """Whether everything taken up has been answered."""
        return not (self.writes_out or self.reads_out)

    @property
    def may_write(self) -> bool:
        """A write waits until the reads before it are answered, so that none of them sees it."""
        return not self.reads_out

    @property
    def may_read(self) -> bool:
        """A read waits until the writes before it are answered, so that it sees them; a local one also until the reads are."""
        return not (self.writes_out or (self.readonly and self.reads_out))

    def hold(self, sizes: list[int]) -> None:
        """Requests of `sizes` bytes have arrived; `deliver` tells when they are done with."""
        self._sizes += sizes

    @property
    def delivered(self) -> bool:
        """Whether everything taken up has been answered and has left."""
        return not (self._slots or self._pushes)

    @property
    def held(self) -> tuple[int, int]:
        """How many requests have no reply delivered, and their bytes."""
        return len(self._sizes), sum(self._sizes)

    def touch(self) -> None:
        """Note that there is something to deliver or to take up."""
        if not self._is_changed:
            self._is_changed = True
            self._changed.append(self)

    def touched(self) -> None:
        """The note has been read."""
        self._is_changed = False

    def expect_writes(self, count: int) -> int:
        """Take up `count` writes, whose replies come later; the number of the first is returned."""
        self.writes_out += count
        return self._expect(count)

    def expect_reads(self, count: int) -> int:
        """The same for reads."""
        self.reads_out += count
        return self._expect(count)

    def _expect(self, count: int) -> int:
        slots = self._slots
        ticket = self._base + len(slots)
        if count == 1:
            slots.append(_PENDING)
        else:
            slots += [_PENDING] * count
        return ticket

    def convert_next(self, convert: Callable[[Reply], Reply]) -> None:
        """The request that is taken up next is answered what `convert` makes of the reply that will come. See `settle`."""
        self._conversions[self._base + len(self._slots)] = convert

    def grow_next(self, size: int) -> None:
        """The request that is taken up next stands for `size` bytes more than came with it."""
        self._sizes[len(self._slots)] += size

    def abandon_transaction(self) -> None:
        """Leave MULTI, and watch nothing any more."""
        self.transaction.abandon()

    def reply(self, reply: Reply) -> None:
        """Take up a request and answer it."""
        self._slots.append(reply)
        self.touch()

    def writes_answered(self, ticket: int, replies: list[Reply]) -> None:
        """The replies to consecutive writes, the first of which is request `ticket`."""
        self.writes_out -= len(replies)
        self._fill(ticket, replies)

    def reads_answered(self, ticket: int, replies: list[Reply]) -> None:
        """The replies to consecutive reads, the first of which is request `ticket`."""
        self.reads_out -= len(replies)
        self._fill(ticket, replies)

    def _fill(self, ticket: int, replies: list[Reply]) -> None:
        self.gave_up = False
        if not self.closed:
            start = ticket - self._base
            self._slots[start : start + len(replies)] = replies
            self.touch()

    def push(self, pushes: Pushes) -> None:
        """Tell the client something that he has not asked for."""
        if self.closing or self.closed:
            return
        slots = self._slots
        place = slots.index(_PENDING) if self.writes_out or self.reads_out else len(slots)
        self._pushes.append((self._base + place, pushes))
        self.touch()

    def take_pushes(self, replies: list[Reply]) -> int:
        """Put what was pushed in its places among `replies`, which `deliverable` has just taken out; how many there are."""
        pushes, self._pushes = self._pushes, []
        first = self._base - len(replies)
        for inserted, (ticket, each) in enumerate(pushes):
            replies.insert(ticket - first + inserted, each)
        return len(pushes)

    def settle(self) -> None:
        """Convert the replies that have come, before anything is taken up that depends on them. Never while an entry is applied."""
        for ticket in list(self._conversions):
            reply = self._slots[ticket - self._base]
            if reply is not _PENDING:
                self._slots[ticket - self._base] = self._conversions.pop(ticket)(reply)

    def deliverable(self) -> tuple[list[Reply], int]:
        """Take out the replies that may leave now, and say how many bytes their requests had."""
        self.settle()
        slots = self._slots
        if self.writes_out or self.reads_out:
            count = slots.index(_PENDING)
            self._slots = slots[count:]
            slots = slots[:count]
        else:
            count = len(slots)
            self._slots = []
        self._base += count
        sizes = self._sizes
        if count == len(sizes):
            self._sizes = []
        else:
            sizes = sizes[:count]
            del self._sizes[:count]
        return slots, sum(sizes)

    def close(self) -> None:
        """The client is gone, or is being disconnected: nothing more is taken up or delivered."""
        self.closed = True
        self.abandon_transaction()
        self._conversions.clear()
        self.chunks.clear()
        self._slots.clear()
        self._pushes.clear()
        self._sizes.clear()
