"""What the clients of a simulated cluster do with hashes and sets, and what must come of it, done a second time in the plainest way.

A hash is a frozen set of (field, value), a set one of its members; like every value, it is None when there is nothing in it. What another
family of commands needs is a row in `WRITES`, `READS` and `CHOICES` each.

The last argument of each write is its *tag*, which is never used twice: a value, a new member, or a name that is not there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from raftkv.kv.command import Write
from raftkv.kv.hash_commands import DeleteFields, SetFields
from raftkv.kv.replies import Reply, SetReply
from raftkv.kv.set_commands import AddMembers, RemoveMembers
from raftkv.sim.values import Elements, Value

NAMES: Final = (b"m0", b"m1", b"m2", b"m3")
KEYS: Final = 2


def _set_fields(before: Elements, write: SetFields) -> tuple[Elements, int, bytes]:
    fields = {**dict(before), **dict(zip(write.fields[::2], write.fields[1::2], strict=True))}
    return frozenset(fields.items()), len(fields) - len(before), write.fields[-1]


def _delete_fields(before: Elements, write: DeleteFields) -> tuple[Elements, int, bytes]:
    left = frozenset(field for field in before if field[0] not in write.fields)
    return left, len(before) - len(left), write.fields[-1]


def _add_members(before: Elements, write: AddMembers) -> tuple[Elements, int, bytes]:
    after = before | frozenset(write.members)
    return after, len(after) - len(before), write.members[-1]


def _remove_members(before: Elements, write: RemoveMembers) -> tuple[Elements, int, bytes]:
    left = before - frozenset(write.members)
    return left, len(before) - len(left), write.members[-1]


WRITES: Final[Mapping[type[Write], Callable[[Elements, Any], tuple[Elements, int, bytes]]]] = {
    SetFields: _set_fields,
    DeleteFields: _delete_fields,
    AddMembers: _add_members,
    RemoveMembers: _remove_members,
}
"""What each write makes of the elements of its key, what it answers, and its tag."""

READS: Final[Mapping[str, Callable[[Elements, list[bytes]], object]]] = {
    "hget": lambda elements, arguments: dict(elements).get(arguments[2]),
    "hgetall": lambda elements, arguments: dict(elements),
    "smembers": lambda elements, arguments: elements,
}
"""What each read answers, by the elements of its key and its arguments; a set is compared in no order."""

CHOICES: Final = (
    ("hset", b"hash", 3), ("hdel", b"hash", 1), ("hget", b"hash", 2), ("hgetall", b"hash", 2), ("sadd", b"set", 3), ("srem", b"set", 2),
    ("smembers", b"set", 2), ("del", b"hash", 1), ("del", b"set", 1), ("expire", b"hash", 1), ("expire", b"set", 1),
)  # fmt: skip
"""What clients ask for, of which keys, and how often."""


def draw(rng: random.Random, tag: bytes, ttl_ms: tuple[int, int]) -> tuple[str, list[bytes]]:
    """A request about a hash or a set: its kind and its arguments, of which the second is the key. `tag` is in it if it is a write."""
    kind, family, _ = rng.choices(CHOICES, [weight for _, _, weight in CHOICES])[0]
    key = b"%s:%d" % (family, rng.randrange(KEYS))
    name = rng.choice(NAMES)
    match kind:
        case "del":
            return kind, [b"DEL", key, tag]
        case "expire":
            return kind, [b"PEXPIRE", key, b"%d" % rng.randint(*ttl_ms)]
        case "hget":
            return kind, [b"HGET", key, name]
        case "hgetall" | "smembers":
            return kind, [kind.upper().encode(), key]
        case _:
            return kind, [kind.upper().encode(), key, name, tag]


def normal(reply: Reply) -> object:
    """A reply to one of `READS`, as these answer."""
    return frozenset(reply.members) if isinstance(reply, SetReply) else reply


def elements_of(value: Value) -> Elements:
    """The elements of a key that holds some or nothing."""
    return value if isinstance(value, frozenset) else frozenset()
