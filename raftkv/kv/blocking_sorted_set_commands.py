"""Pops from sorted sets that wait for a member: one attempt of each, as with lists (`kv.blocking_commands`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX
from raftkv.kv.blocking_commands import Blocking, timeout
from raftkv.kv.command import NO_KEYS, Command, machine_spec
from raftkv.kv.keyspace import Changes
from raftkv.kv.replies import Reply
from raftkv.kv.rows import SORTED_SET
from raftkv.kv.sorted_set_commands import PopFromFirst, PopMembers, parse_pop_from_first


class BlockingPopMember(Blocking, frozen=True, array_like=True, gc=False, tag=160):
    """BZPOPMIN, and with `backwards` BZPOPMAX. Answers the key, the member and its score."""

    of: ClassVar[int] = SORTED_SET

    keys: tuple[bytes, ...]
    backwards: bool

    @property
    def sources(self) -> tuple[bytes, ...]:
        return self.keys

    def take(self, changes: Changes, key: bytes) -> Reply:
        popped = PopMembers(key, -1, self.backwards).apply(changes)
        return [key, *popped] if isinstance(popped, list) else popped


class BlockingPopFromFirst(Blocking, frozen=True, array_like=True, gc=False, tag=161):
    """BZMPOP: up to `count` members. Answers the key and the members with their scores."""

    of: ClassVar[int] = SORTED_SET

    keys: tuple[bytes, ...]
    count: Annotated[int, Meta(ge=1, le=INT64_MAX)]
    backwards: bool

    @property
    def sources(self) -> tuple[bytes, ...]:
        return self.keys

    def take(self, changes: Changes, key: bytes) -> Reply:
        return PopFromFirst((key,), self.count, self.backwards).apply(changes)


def _parse_pop(backwards: bool) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: BlockingPopMember(timeout(args[-1]), False, tuple(args[1:-1]), backwards)


def _parse_pop_from_first(args: Sequence[bytes]) -> Command:
    wanted = parse_pop_from_first(args[2:])
    return BlockingPopFromFirst(timeout(args[1]), False, wanted.keys, wanted.count, wanted.backwards)


_GROUP: Final = "sorted-set"
_ALL_BUT_LAST: Final = (1, -2, 1)
_FLAGS: Final = "write noscript blocking fast"
_LIKE: Final = "as `BLPOP`"

SPECS: Final = (
    machine_spec(
        "bzpopmin",
        -3,
        _parse_pop(False),
        "Remove and return the member with the lowest score, or wait until there is one",
        _GROUP,
        _FLAGS,
        keys=_ALL_BUT_LAST,
        differs=_LIKE,
    ),
    machine_spec(
        "bzpopmax",
        -3,
        _parse_pop(True),
        "Remove and return the member with the highest score, or wait until there is one",
        _GROUP,
        _FLAGS,
        keys=_ALL_BUT_LAST,
        differs=_LIKE,
    ),
    machine_spec(
        "bzmpop",
        -5,
        _parse_pop_from_first,
        "Remove and return members of a sorted set, or wait until there are any",
        _GROUP,
        "write blocking movablekeys",
        keys=NO_KEYS,
        counted_keys=2,
        differs=_LIKE,
    ),
)

COMMANDS: Final = (
    BlockingPopMember,
    BlockingPopFromFirst,
)
