"""Transactions: the commands between MULTI and EXEC, applied as one command of the log, if what was watched has not changed.

What always holds: nothing comes between the commands of a transaction, on any replica. When a watched key has changed in any way since its
revision was read, nothing of the transaction is done; a key that came and went again has changed. A command that fails leaves the others
in force, as in Redis. A transaction holds no transaction.

What a connection has queued and watched is not known here: that is the router's (`router.transactions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.errors import InvariantBroken, ProtocolError
from raftkv.kv.applying import apply_one
from raftkv.kv.command import Command, ConnectionCommand, Kind, Read, Spec, Write
from raftkv.kv.families import decode_members
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import Failure, Reply, fail, reply_bytes

MAX_REPLY_BYTES: Final = 64 << 20
"""About how many bytes the replies to one transaction take together, in the memory of every node. A rule of the machine."""

LEFT_OUT: Final = Failure(
    "ERR", f"the command was executed, but not answered: the replies to one transaction have {MAX_REPLY_BYTES} bytes at most"
)

_MOST_FOUND: Final = 4
"""When reads have found so many times as much, the others are not executed: what is left out has taken its time too."""

_SMALL_BYTES: Final = 64
"""A reply that is never left out."""


class Transaction(Write, frozen=True, array_like=True, gc=False, tag=170):
    """EXEC. `watches` are keys with the revisions that they must have; `commands` is an encoded list of reads and writes.

    Answers the list of their replies, or None when a watched key has another revision.
    """

    watches: tuple[tuple[bytes, int], ...]
    commands: bytes

    def apply(self, changes: Changes) -> Reply:
        if any(changes.revision(key) != revision for key, revision in self.watches):
            return None
        replies: list[Reply] = []
        size = found = 0
        for command in self.members():
            if found > _MOST_FOUND * MAX_REPLY_BYTES and command.kind is Kind.READ:
                replies.append(LEFT_OUT)
                continue
            reply = apply_one(command, changes)
            reply_size = reply_bytes(reply)
            found += reply_size
            if size + reply_size > MAX_REPLY_BYTES and reply_size > _SMALL_BYTES:
                reply, reply_size = LEFT_OUT, _SMALL_BYTES
            replies.append(reply)
            size += reply_size
        return replies

    def members(self) -> list[Read | Write]:
        """The commands.

        Raises:
            CommandError: there is something else in their place.
            InvariantBroken: they are nested too deeply; what may enter the log is not.
        """
        try:
            return decode_members(self.commands)
        except ProtocolError:
            fail("the commands of this transaction cannot be read; it had no effect")
        except RecursionError as error:
            # Whether the stack is deep enough differs between processes: a replica that made an answer of it could differ from others.
            raise InvariantBroken(f"the commands of a transaction are nested too deeply to be read: {error}") from error


class Revisions(Read, frozen=True, array_like=True, gc=False, tag=171):
    """WATCH: the revision of each key."""

    keys: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        return [keys.revision(key) for key in self.keys]


def _parse(args: Sequence[bytes]) -> Command:
    return ConnectionCommand(args[0].lower().decode("ascii"), tuple(args[1:]))


def _spec(name: str, arity: int, summary: str, flags: str, last_key: int = 0) -> Spec:
    watches = 1 if last_key else 0
    return Spec(
        name=name,
        arity=arity,
        kind=Kind.CONNECTION,
        parse=_parse,
        summary=summary,
        group="transactions",
        flags=tuple(flags.split()),
        first_key=watches,
        last_key=last_key,
        step=watches,
    )


SPECS: Final = (
    _spec("discard", 1, "Discard all commands issued after MULTI", "noscript loading stale fast allow_busy"),
    _spec("exec", 1, "Execute all commands issued after MULTI", "noscript loading stale skip_slowlog"),
    _spec("multi", 1, "Mark the start of a transaction block", "noscript loading stale fast allow_busy"),
    _spec("unwatch", 1, "Forget about all watched keys", "noscript loading stale fast allow_busy"),
    _spec("watch", -2, "Watch the given keys to determine execution of the MULTI/EXEC block", "noscript loading stale fast allow_busy", -1),
)

COMMANDS: Final = (Transaction, Revisions)
