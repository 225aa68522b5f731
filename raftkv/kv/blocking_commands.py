"""Pops that wait for an element: what is in the log of them, which is one attempt. It never waits.

An attempt takes an element of the first source that has any, or answers that there is none: what a client is told whose time is over, or
who asks inside of a transaction. That a client goes on waiting and tries again is the router's (`router.waiting`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Final, Self

import msgspec
from msgspec import Meta

from raftkv.errors import InvariantBroken
from raftkv.kv.arguments import INT64_MAX
from raftkv.kv.command import NO_KEYS, Command, Write, machine_spec
from raftkv.kv.keyspace import Changes
from raftkv.kv.list_commands import ListMove, ListPop, ListPopFirst, end, parse_pop_first
from raftkv.kv.list_elements import MOST_STEPS
from raftkv.kv.replies import NO_ARRAY, Reply, fail
from raftkv.kv.rows import LIST

NOT_A_TIMEOUT: Final = "timeout is not a float or out of range"

_MAX_BYTES: Final = 5 * 1024 - 1
"""Redis reads no longer number."""
_DECIMAL: Final = re.compile(rb"[+-]?(?=[0-9]|\.[0-9])[0-9]*\.?[0-9]*(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_HEXADECIMAL: Final = re.compile(rb"[+-]?0x(?=[0-9a-f]|\.[0-9a-f])[0-9a-f]*\.?[0-9a-f]*(?:p[+-]?[0-9]+)?", re.IGNORECASE)
_INFINITY: Final = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)


class Blocking(Write, frozen=True, array_like=True, gc=False):
    """A pop that its client may wait for, as long as `timeout_ms`; 0 is for ever. `waiting` says that he does: then what is of another
    type than he waits for is not there for him, as long as he has not been answered."""

    of: ClassVar[int]
    """The type of what he waits for."""
    nothing: ClassVar[Reply] = NO_ARRAY
    """The answer of an attempt that finds nothing."""

    timeout_ms: Annotated[int, Meta(ge=0, le=INT64_MAX)]
    waiting: bool

    @property
    def sources(self) -> tuple[bytes, ...]:
        """The keys of which the first that has an element gives it."""
        raise InvariantBroken(f"{type(self).__name__} waits for nothing")

    def take(self, changes: Changes, key: bytes) -> Reply:
        """Take an element of `key`, which has one or is of a wrong type."""
        raise InvariantBroken(f"{type(self).__name__} takes nothing")

    def again(self) -> Self:
        """The next attempt of a client who waits."""
        return msgspec.structs.replace(self, waiting=True)

    def apply(self, changes: Changes) -> Reply:
        for key in self.sources:
            value = changes.value(key)
            if value is not None and (value.type == self.of or not self.waiting):
                return self.take(changes, key)
        return self.nothing


class BlockingPop(Blocking, frozen=True, array_like=True, gc=False, tag=100):
    """BLPOP, BRPOP. Answers the key and the element."""

    of: ClassVar[int] = LIST

    keys: tuple[bytes, ...]
    left: bool

    @property
    def sources(self) -> tuple[bytes, ...]:
        return self.keys

    def take(self, changes: Changes, key: bytes) -> Reply:
        return [key, ListPop(key, self.left).apply(changes)]


class BlockingMove(Blocking, frozen=True, array_like=True, gc=False, tag=101):
    """BLMOVE, BRPOPLPUSH. Answers the element."""

    of: ClassVar[int] = LIST
    nothing: ClassVar[Reply] = None

    source: bytes
    destination: bytes
    from_left: bool
    to_left: bool

    @property
    def sources(self) -> tuple[bytes, ...]:
        return (self.source,)

    def take(self, changes: Changes, key: bytes) -> Reply:
        return ListMove(key, self.destination, self.from_left, self.to_left).apply(changes)


class BlockingPopFirst(Blocking, frozen=True, array_like=True, gc=False, tag=102):
    """BLMPOP: up to `count` elements. Answers the key and the list of them."""

    of: ClassVar[int] = LIST

    keys: tuple[bytes, ...]
    left: bool
    count: Annotated[int, Meta(ge=1, le=INT64_MAX)]

    @property
    def sources(self) -> tuple[bytes, ...]:
        return self.keys

    def take(self, changes: Changes, key: bytes) -> Reply:
        return ListPopFirst((key,), self.left, self.count).apply(changes)


def timeout(data: bytes) -> int:
    """The milliseconds that `data` spells in seconds, rounded up. What is too large for Redis becomes negative there, and here.

    Raises:
        CommandError: it is no number, or a negative one.
    """
    text = data.lower()
    if len(data) > _MAX_BYTES:
        fail(NOT_A_TIMEOUT)
    if _DECIMAL.fullmatch(data) or _INFINITY.fullmatch(data):
        seconds = float(text)
    elif _HEXADECIMAL.fullmatch(data):
        try:
            seconds = float.fromhex(text.decode("ascii"))
        except OverflowError:
            seconds = math.inf
    else:
        fail(NOT_A_TIMEOUT)
    if not -0.001 * INT64_MAX < seconds < 0.001 * INT64_MAX or math.ceil(seconds * 1000) < 0:
        fail("timeout is negative")
    return math.ceil(seconds * 1000)


def _parse_pop(left: bool) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: BlockingPop(timeout(args[-1]), False, tuple(args[1:-1]), left)


def _parse_move(args: Sequence[bytes]) -> Command:
    from_left, to_left = end(args[3]), end(args[4])
    return BlockingMove(timeout(args[5]), False, args[1], args[2], from_left, to_left)


def _parse_pop_first(args: Sequence[bytes]) -> Command:
    wanted = parse_pop_first(args[2:])
    return BlockingPopFirst(timeout(args[1]), False, wanted.keys, wanted.left, wanted.count)


_ALL_BUT_LAST: Final = (1, -2, 1)
_TWO_KEYS: Final = (1, 2, 1)
_LATE: Final = "a timeout may end a tenth of a second late; clients of one node are served in their order, those of several in none"

SPECS: Final = (
    machine_spec(
        "blpop",
        -3,
        _parse_pop(True),
        "Remove and get the first element in a list, or wait until there is one",
        "list",
        "write noscript blocking",
        keys=_ALL_BUT_LAST,
        differs=_LATE,
    ),
    machine_spec(
        "brpop",
        -3,
        _parse_pop(False),
        "Remove and get the last element in a list, or wait until there is one",
        "list",
        "write noscript blocking",
        keys=_ALL_BUT_LAST,
        differs="as `BLPOP`",
    ),
    machine_spec(
        "blmove",
        6,
        _parse_move,
        "Pop an element from a list, push it to another list and return it, or wait until there is one",
        "list",
        "write denyoom noscript blocking",
        keys=_TWO_KEYS,
        differs="as `BLPOP`",
    ),
    machine_spec(
        "brpoplpush",
        4,
        lambda args: BlockingMove(timeout(args[3]), False, args[1], args[2], False, True),
        "Pop an element from a list, push it to another list and return it, or wait until there is one",
        "list",
        "write denyoom noscript blocking",
        keys=_TWO_KEYS,
        differs="as `BLPOP`",
    ),
    machine_spec(
        "blmpop",
        -5,
        _parse_pop_first,
        "Pop elements from a list, or wait until there are any",
        "list",
        "write blocking movablekeys",
        keys=NO_KEYS,
        counted_keys=2,
        differs=f"as `BLPOP`; at most {MOST_STEPS} elements are taken at once, fewer if they are long",
    ),
)

COMMANDS: Final = (
    BlockingPop,
    BlockingMove,
    BlockingPopFirst,
)
