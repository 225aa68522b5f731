"""MULTI, EXEC, DISCARD, WATCH, UNWATCH: what a connection has watched and queued, and how it becomes one write.

What always holds:

- Between MULTI and EXEC nothing is executed. EXEC is a write of its connection like any other: in its order, with its deadline, once.
- If a request after MULTI was refused for whatever reason, also because this node is overloaded, nothing of the transaction is done.
- If it is not known what a watched key was, nothing is done either: EXEC answers nil, as if the key had changed.
- What is queued and watched counts among what the node holds for its clients, and is bounded for each connection by the largest entry.

A command that concerns the connection or the node is executed here when the transaction has been, and answered in its place. Those that
would change how the replies before them are to be read are refused when they are queued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from raftkv.kv.command import Command, ConnectionCommand, Kind, Read, Spec, Write
from raftkv.kv.commands import encode_commands, parse_as, spec_of
from raftkv.kv.replies import NO_ARRAY, OK, CommandError, Failure, Reply, Simple
from raftkv.kv.transactions import Revisions, Transaction
from raftkv.router.ports import RouterSettings
from raftkv.router.proposals import OVERHEAD_BYTES

if TYPE_CHECKING:
    from raftkv.router.connection import Connection

NAMES: Final = frozenset(("discard", "exec", "multi", "unwatch", "watch"))
"""The commands that are known here."""

QUEUED: Final = Simple("QUEUED")
ABORTED: Final = Failure("EXECABORT", "Transaction discarded because of previous errors.")
NOT_INSIDE: Final = Failure("ERR", "Command not allowed inside a transaction")

_NESTED: Final = Failure("ERR", "MULTI calls can not be nested")
_WATCH_INSIDE: Final = Failure("ERR", "WATCH inside MULTI is not allowed")
_AT_ONCE: Final = frozenset(("quit", "reset"))
"""Commands that are executed also between MULTI and EXEC."""
_NEVER_INSIDE: Final = frozenset(("hello", "raftkv.transfer"))
"""Commands that change how the replies before them are to be read (as CLIENT REPLY does, which is told by its arguments), or who leads
while the transaction is under way."""
_SESSIONS: Final = frozenset(("raftkv.session", "raftkv.once"))
"""Commands of clients' sessions, which are part of no other command."""
_ITEM_BYTES: Final = 16
"""What a queued command or a watched key takes beyond its arguments, at most: in an entry, and about so much here."""

Item = Read | Write | ConnectionCommand | Simple | Failure
"""Something queued: a command, or what will be answered in its place."""


class Account:
    """What all connections of this node have queued and watched."""

    __slots__ = ("commands", "size")

    def __init__(self) -> None:
        self.commands = 0
        self.size = 0


class ClientTransaction:
    """What one connection has watched and queued. `items` is None outside of MULTI; `spoilt` says that EXEC will do nothing."""

    __slots__ = ("_account", "_size", "epoch", "items", "spoilt", "watch_lost", "watched")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._size = 0
        self.items: list[Item] | None = None
        self.spoilt = False
        self.watched: dict[bytes, int] = {}
        self.watch_lost = False
        """Whether a WATCH failed, so that nothing is known of its keys."""
        self.epoch = 0
        """Grows when everything is forgotten: a WATCH that is answered after that counts for nothing."""

    @property
    def queued(self) -> int:
        """How many commands are queued; -1 outside of MULTI, as in CLIENT LIST."""
        return -1 if self.items is None else len(self.items)

    @property
    def size(self) -> int:
        """The bytes of what is queued and watched."""
        return self._size

    def begin(self) -> None:
        """MULTI."""
        self.items = []

    def queue(self, item: Item, size: int) -> None:
        """Keep `item`, whose request has `size` bytes, until EXEC."""
        if self.items is None:
            raise TypeError("nothing is queued outside of MULTI")
        self.items.append(item)
        self._account.commands += 1
        self._take(size + _ITEM_BYTES)

    def spoil(self) -> None:
        """A request was refused, so EXEC will do nothing, and nothing needs to be kept for it."""
        if self.items is not None:
            self.spoilt = True
            self._drop_items()

    def watch(self, revisions: dict[bytes, int]) -> None:
        """Keys have had these revisions. What was watched before keeps the older one."""
        for key, revision in revisions.items():
            if key not in self.watched:
                self.watched[key] = revision
                self._take(len(key) + _ITEM_BYTES)

    def abandon(self) -> None:
        """Forget everything: outside of MULTI, nothing watched."""
        self._drop_items()
        self._take(-self._size)
        self.items = None
        self.spoilt = False
        self.watched = {}
        self.watch_lost = False
        self.epoch += 1

    def _take(self, size: int) -> None:
        self._size += size
        self._account.size += size

    def _drop_items(self) -> None:
        if self.items:
            self._account.commands -= len(self.items)
            self._take(sum(len(key) + _ITEM_BYTES for key in self.watched) - self._size)
            self.items = []


class Transactions:
    """Takes up these commands, and every request between MULTI and EXEC.

    Args:
        settings: the bounds.
        local: the names of the commands that `attend` executes.
        attend: executes a command that concerns the connection or the node.
        write: takes up a write of a connection, of so many bytes, with a deadline.
        read: takes up a read in the same way.
        room: whether the node may hold so many more commands and bytes, besides what is queued.
        draw: draws a random number of 63 bits, for a command that needs one.
    """

    def __init__(
        self,
        settings: RouterSettings,
        local: frozenset[str],
        attend: Callable[[Connection, ConnectionCommand], Reply],
        write: Callable[[Connection, Command, int, int], None],
        read: Callable[[Connection, Command, int, int], None],
        room: Callable[[int, int], bool],
        draw: Callable[[], int],
    ) -> None:
        self.account = Account()
        self._settings = settings
        self._inside = (local | {"unwatch"}) - _NEVER_INSIDE
        self._attend = attend
        self._write = write
        self._read = read
        self._room = room
        self._draw = draw
        limit = settings.max_entry_bytes
        self._too_large = Failure("ERR", f"the transaction has more than {limit} bytes, which is max_entry_bytes; nothing of it is done")
        self._too_many = Failure(
            "ERR", f"the transaction has more than {settings.transaction_commands} commands, which is the most; nothing of it is done"
        )
        self._overloaded = Failure("OVERLOADED", "this node holds as many requests as it may; nothing of the transaction is done")

    def open(self) -> ClientTransaction:
        """For a new connection."""
        return ClientTransaction(self.account)

    # Outside of MULTI.

    def take(self, client: Connection, command: ConnectionCommand, deadline_ms: int, refusal: Failure | None) -> bool:
        """Take up one of the commands of this module outside of MULTI; False when it has to wait. With `refusal` nothing is asked."""
        transaction = client.transaction
        match command.name:
            case "multi":
                transaction.begin()
                client.reply(OK)
            case "unwatch":
                transaction.abandon()
                client.reply(OK)
            case "watch":
                return self._watch(client, command.args, deadline_ms, refusal)
            case name:
                client.reply(Failure("ERR", f"{name.upper()} without MULTI"))
        return True

    def _watch(self, client: Connection, keys: tuple[bytes, ...], deadline_ms: int, refusal: Failure | None) -> bool:
        transaction = client.transaction
        size = sum(len(key) + _ITEM_BYTES for key in keys)
        if refusal is None and transaction.size + size > self._settings.max_entry_bytes:
            refusal = self._too_large
        if refusal is None and not self._room(self.account.commands, self.account.size):
            refusal = self._overloaded
        if refusal is not None:
            transaction.watch_lost = True
            client.reply(refusal)
            return True
        if not client.may_read:
            return False
        epoch = transaction.epoch

        def remember(reply: Reply) -> Reply:
            current = transaction.epoch == epoch
            if isinstance(reply, list) and len(reply) == len(keys):
                if current:
                    transaction.watch(dict(zip(keys, cast("list[int]", reply), strict=True)))
                return OK
            transaction.watch_lost = transaction.watch_lost or current
            return reply

        client.convert_next(remember)
        self._read(client, Revisions(keys), size, deadline_ms)
        return True

    @staticmethod
    def refused(client: Connection, args: Sequence[bytes], error: CommandError) -> Failure:
        """The reply to a request that is no command, or has wrong arguments. Such an EXEC is the end of everything, as in Redis."""
        if args[0].lower() == b"exec":
            client.transaction.abandon()
            return Failure("EXECABORT", f"Transaction discarded because of: {error.failure.message}")
        return error.failure

    # Between MULTI and EXEC.

    def take_inside(self, client: Connection, args: Sequence[bytes], size: int, deadline_ms: int, refusal: Failure | None) -> bool:
        """Take up a request of `size` bytes; False when it has to wait. With `refusal` nothing of the transaction will be done."""
        transaction = client.transaction
        try:
            spec = spec_of(args)
        except CommandError as error:
            transaction.spoil()
            client.reply(self.refused(client, args, error))
            return True
        match spec.name:
            case "exec":
                return self._exec(client, deadline_ms, refusal)
            case "discard":
                transaction.abandon()
                client.reply(OK)
            case "multi":
                client.reply(_NESTED)
            case "watch":
                client.reply(_WATCH_INSIDE)
            case name if name in _AT_ONCE:
                if not client.idle:
                    return False
                if name == "reset" and not client.delivered:  # replies may be written in another way than those before it
                    client.held_back = True
                    return False
                client.reply(self._execute(client, parse_as(spec, args)))
            case _:
                client.reply(self._queue(transaction, spec, args, size, refusal))
        return True

    def refuse(self, client: Connection, name: bytes, failure: Failure) -> None:
        """A request of which nothing is known but its name, in lower case, is refused for certain."""
        transaction = client.transaction
        inside = transaction.items is not None
        if inside and name in (b"exec", b"discard"):
            transaction.abandon()
        elif name == b"multi" and not inside:
            # What follows belongs to it, wherever it is cut: it must not be executed on its own.
            transaction.begin()
            transaction.spoil()
            client.reply(OK)
            return
        elif name == b"watch":
            transaction.watch_lost = True
        transaction.spoil()
        client.reply(OK if inside and name == b"discard" else failure)

    def _queue(self, transaction: ClientTransaction, spec: Spec, args: Sequence[bytes], size: int, refusal: Failure | None) -> Reply:
        """QUEUED, or why nothing of the transaction will be done."""
        if refusal is None and self._stands_alone(spec, args):
            refusal = NOT_INSIDE
        if refusal is None and not transaction.spoilt:
            if transaction.size + size > self._settings.max_entry_bytes:
                refusal = self._too_large
            elif transaction.queued >= self._settings.transaction_commands:
                refusal = self._too_many
            elif not self._room(self.account.commands, self.account.size):  # the request itself is among what is held
                refusal = self._overloaded
        if refusal is not None:
            transaction.spoil()
            return refusal
        if not transaction.spoilt:
            transaction.queue(OK if spec.name == "unwatch" else self._item(spec, args), size)
        return QUEUED

    def _stands_alone(self, spec: Spec, args: Sequence[bytes]) -> bool:
        """Whether the request can be no part of a transaction."""
        if spec.kind is not Kind.CONNECTION:
            return spec.name in _SESSIONS
        if spec.name == "client" and args[1].lower() == b"reply":
            return True
        return spec.name not in self._inside or "no_multi" in spec.flags

    def _item(self, spec: Spec, args: Sequence[bytes]) -> Item:
        """What a request comes to. What is wrong with its arguments is told by EXEC, as Redis does."""
        try:
            return cast("Item", parse_as(spec, args, self._draw))
        except CommandError as error:
            return error.failure

    def _exec(self, client: Connection, deadline_ms: int, refusal: Failure | None) -> bool:
        transaction = client.transaction
        items = transaction.items or []
        if transaction.spoilt:
            refusal = ABORTED
        if refusal is not None:
            transaction.abandon()
            client.reply(refusal)
            return True
        members = [item for item in items if isinstance(item, (Read, Write))]
        if not client.may_write:  # also until what is watched is known
            return False
        client.settle()  # a local read has been answered at once, and what it watches must not be missed
        if transaction.watch_lost:
            transaction.abandon()
            client.reply(NO_ARRAY)
            return True
        if not members and not transaction.watched:
            if not client.idle:
                return False
            transaction.abandon()
            client.reply(self._merge(client, items, []))
            return True
        commands = encode_commands(members)
        size = len(commands) + sum(len(key) + _ITEM_BYTES for key in transaction.watched)
        watches = tuple(transaction.watched.items())
        transaction.abandon()
        limit = self._settings.max_entry_bytes
        if size > limit + OVERHEAD_BYTES // 2:  # an entry has room for what the encoding of one command adds to it
            client.reply(self._too_large)
            return True
        client.convert_next(lambda reply: NO_ARRAY if reply is None else self._merge(client, items, reply))
        self._write(client, Transaction(watches, commands), min(size, limit), deadline_ms)
        return True

    def _merge(self, client: Connection, items: list[Item], replies: Reply) -> Reply:
        """The reply to EXEC: `replies`, which are those of the reads and writes among `items`, and between them what is answered here."""
        if not isinstance(replies, list) or len(replies) == len(items):
            return replies
        rest = iter(replies)
        return [next(rest) if isinstance(item, (Read, Write)) else self._execute(client, item) for item in items]

    def _execute(self, client: Connection, item: Command | Simple | Failure) -> Reply:
        if not isinstance(item, ConnectionCommand):
            return cast("Simple | Failure", item)
        try:
            return self._attend(client, item)
        except CommandError as error:
            return error.failure


def name_inside(args: Sequence[bytes]) -> bytes:
    """What `Transactions.refuse` has to know of a request."""
    name = args[0]
    return name.lower() if len(name) <= 7 and name.lower() in (b"discard", b"exec", b"multi", b"watch") else b""
