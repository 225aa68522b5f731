"""What a command is: a small frozen value with its own codec, and either a `read` or an `apply`; and what the table says of it.

A request is parsed once, at the node that received it, into a `Read`, a `Write` or a `ConnectionCommand`. Reads and writes travel
between nodes, and writes live in the log, so their field order and tags are formats: a tag is never used again for something else,
new fields go at the end with a default, and what a command *does* may change only behind a new machine version.

Nothing here knows a particular command. `kv.commands` collects them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from msgspec import Struct

from raftkv.errors import InvariantBroken
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import Reply

MAX_KEY_BYTES = 64 << 10
"""The longest key. A key is part of two rows and of every scan, so it is bounded well below the size of a value."""

MAX_REPLY_BYTES: Final = 16 << 20
"""How large the reply to a command may be that names or finds many keys, which is the most that one node answers another by default."""


class Kind(enum.Enum):
    """Who executes a command."""

    READ = "read"
    """The state machine, without changing it."""
    WRITE = "write"
    """The state machine, from the log."""
    CONNECTION = "connection"
    """The node that holds the connection; it concerns that node or that connection."""


class Command(Struct, frozen=True, array_like=True, gc=False):
    """Any command. `slow` ones visit many rows, and are executed on a view off the event loop."""

    kind: ClassVar[Kind]
    slow: ClassVar[bool] = False

    def with_random(self, number: int) -> Command:
        """The command with the random number that it needs, 63 bits, drawn by the node that takes the request: whoever executes a
        command draws none. Only commands whose `Spec` says `random` have a place for it."""
        raise InvariantBroken(f"{type(self).__name__} has no place for a random number")


class Read(Command, frozen=True, array_like=True, gc=False):
    """A command that changes nothing."""

    kind: ClassVar[Kind] = Kind.READ

    def read(self, keys: Keyspace) -> Reply:
        """The answer, from `keys` and nothing else.

        Raises:
            CommandError: the answer is an error.
        """
        raise InvariantBroken(f"{type(self).__name__} has no way to read")

    def apply(self, changes: Changes) -> Reply:
        """The answer inside of a transaction: from the keys as it has changed them so far.

        Raises:
            CommandError: the answer is an error.
        """
        return self.read(changes)


class Write(Command, frozen=True, array_like=True, gc=False):
    """A command that may change the state."""

    kind: ClassVar[Kind] = Kind.WRITE

    def apply(self, changes: Changes) -> Reply:
        """Change the state and answer, from `changes` and nothing else: the same on every replica.

        Raises:
            CommandError: the answer is an error, and every change that this command made is undone.
        """
        raise InvariantBroken(f"{type(self).__name__} has no way to be applied")


class ConnectionCommand(Command, frozen=True, array_like=True, gc=False):
    """A command for the node that holds the connection, unparsed. `name` is in lower case; `args` are what came after it."""

    kind: ClassVar[Kind] = Kind.CONNECTION

    name: str
    args: tuple[bytes, ...]


class Spec(Struct, frozen=True, kw_only=True):
    """What is known of a command by its name; COMMAND shows it.

    `arity` counts the name: n means exactly n arguments, -n means at least n. `first_key`, `last_key` and `step` say which
    arguments are keys (0 when none are; a negative `last_key` counts from the end). `counted_keys`, if not 0, is the argument that says
    how many keys follow it, besides those. `flags`, `group` and `tips` are Redis's words.
    `random` says that the command needs a random number. `differs` says how it is not like Redis's command of that name, for the table
    of commands in the documents.
    """

    name: str
    arity: int
    kind: Kind
    parse: Callable[[Sequence[bytes]], Command]
    summary: str
    group: str
    flags: tuple[str, ...] = ()
    first_key: int = 0
    last_key: int = 0
    step: int = 0
    counted_keys: int = 0
    tips: tuple[str, ...] = ()
    differs: str = ""
    random: bool = False


NO_KEYS: Final = (0, 0, 0)


def machine_spec(
    name: str,
    arity: int,
    parse: Callable[[Sequence[bytes]], Command],
    summary: str,
    group: str,
    flags: str,
    *,
    keys: tuple[int, int, int] = (1, 1, 1),
    counted_keys: int = 0,
    tips: tuple[str, ...] = (),
    random: bool = False,
    differs: str = "",
) -> Spec:
    """The `Spec` of a command of the state machine. `flags` are separated by spaces, and say its kind too; `keys` are first, last
    and step."""
    words = tuple(flags.split())
    return Spec(
        name=name,
        arity=arity,
        kind=Kind.READ if "readonly" in words else Kind.WRITE,
        parse=parse,
        summary=summary,
        group=group,
        flags=words,
        first_key=keys[0],
        last_key=keys[1],
        step=keys[2],
        counted_keys=counted_keys,
        tips=tips,
        random=random,
        differs=differs,
    )
