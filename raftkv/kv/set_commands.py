"""Commands on the members of one set, or of two: SADD, SREM, SISMEMBER, SMISMEMBER, SCARD, SPOP, SRANDMEMBER, SMOVE, SSCAN.

A member is a row named by its hash and itself, without a value. So a command costs what it touches, however many members there are, and
members are told in the order of their hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, SYNTAX_ERROR, cursor, drawn_count, parse_integer
from raftkv.kv.collection import Collection
from raftkv.kv.command import MAX_REPLY_BYTES, Command, Read, Write, machine_spec
from raftkv.kv.draws import Draws, draw_one, draw_signed, draw_some
from raftkv.kv.hashed_elements import MAX_NAME_BYTES, check_names, name_of, put_named, remove_named
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import Reply, SetReply, fail
from raftkv.kv.rows import SET
from raftkv.kv.scan import scan_elements


class AddMembers(Write, frozen=True, array_like=True, gc=False, tag=110):
    """SADD."""

    key: bytes
    members: tuple[bytes, ...]

    def apply(self, changes: Changes) -> Reply:
        collection = changes.open(self.key, SET)
        before = collection.count
        for row in sorted(map(collection.hashed, self.members)):
            if changes.row(row) is None:
                put_named(changes, collection, row, b"")
        if collection.count > before:
            changes.save(collection)
        return collection.count - before


class RemoveMembers(Write, frozen=True, array_like=True, gc=False, tag=111):
    """SREM."""

    key: bytes
    members: tuple[bytes, ...]

    def apply(self, changes: Changes) -> Reply:
        collection = changes.collection(self.key, SET)
        return 0 if collection is None else remove_named(changes, collection, self.members)


class HasMember(Read, frozen=True, array_like=True, gc=False, tag=112):
    """SISMEMBER."""

    key: bytes
    member: bytes

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, SET)
        return 0 if collection is None else _has(keys, collection, self.member)


class HasMembers(Read, frozen=True, array_like=True, gc=False, tag=113):
    """SMISMEMBER."""

    key: bytes
    members: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, SET)
        return [0 if collection is None else _has(keys, collection, member) for member in self.members]


class CountMembers(Read, frozen=True, array_like=True, gc=False, tag=114):
    """SCARD."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, SET)
        return 0 if collection is None else collection.count


class PopMembers(Write, frozen=True, array_like=True, gc=False, tag=115):
    """SPOP: one member without a `count`, or up to `count` of them."""

    key: bytes
    count: Annotated[int, Meta(ge=0, le=INT64_MAX)] | None
    number: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0

    def with_random(self, number: int) -> Command:
        return PopMembers(self.key, self.count, number)

    def apply(self, changes: Changes) -> Reply:
        collection = changes.collection(self.key, SET)
        if collection is None or self.count == 0:
            return None if self.count is None else SetReply([])
        draws = Draws(self.number)
        if self.count is None:
            rows = [draw_one(changes, collection, draws)[0]]
        else:
            rows = [row for row, _ in draw_some(changes, collection, self.count, draws)]
        if len(rows) == collection.count:
            changes.drop_elements(collection)
        else:
            for row in sorted(rows):
                changes.put_element(collection, row, None)
        collection.count -= len(rows)
        changes.save(collection)
        return name_of(rows[0]) if self.count is None else SetReply([name_of(row) for row in rows])


class RandomMembers(Read, frozen=True, array_like=True, gc=False, tag=116):
    """SRANDMEMBER: one member without a `count`; up to `count` different ones; or so many as `count` is below 0, each chosen among all."""

    key: bytes
    count: int | None
    number: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0

    def with_random(self, number: int) -> Command:
        return RandomMembers(self.key, self.count, number)

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, SET)
        draws = Draws(self.number)
        if self.count is None:
            return None if collection is None else name_of(draw_one(keys, collection, draws)[0])
        return [name_of(row) for row, _ in draw_signed(keys, collection, self.count, draws)]


class MoveMember(Write, frozen=True, array_like=True, gc=False, tag=117):
    """SMOVE."""

    key: bytes
    to: bytes
    member: bytes

    def apply(self, changes: Changes) -> Reply:
        if changes.value(self.key) is None:
            return 0
        collection = changes.collection(self.key, SET)
        changes.collection(self.to, SET)  # also when there is nothing to move, it has to be a set
        if collection is None or not _has(changes, collection, self.member):
            return 0
        if self.key != self.to:
            remove_named(changes, collection, (self.member,))
            target = changes.open(self.to, SET)
            if put_named(changes, target, target.hashed(self.member), b""):
                changes.save(target)
        return 1


class ScanMembers(Read, frozen=True, array_like=True, gc=False, tag=118):
    """SSCAN."""

    key: bytes
    cursor: int
    options: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, SET)
        if collection is None:
            return [b"0", []]
        place, found = scan_elements(keys, collection, self.cursor, self.options)
        return [place, [member for member, _ in found]]


def _has(keys: Keyspace, collection: Collection, member: bytes) -> int:
    return int(keys.row(collection.hashed(member)) is not None)


def _parse_sadd(args: Sequence[bytes]) -> Command:
    check_names("member", args[2:])
    return AddMembers(args[1], tuple(args[2:]))


def _parse_spop(args: Sequence[bytes]) -> Command:
    if len(args) == 2:
        return PopMembers(args[1], None)
    if len(args) > 3:
        fail(SYNTAX_ERROR)
    count = parse_integer(args[2])
    if count is None or count < 0:
        fail("value is out of range, must be positive")
    return PopMembers(args[1], count)


def _parse_srandmember(args: Sequence[bytes]) -> Command:
    if len(args) > 3:
        fail(SYNTAX_ERROR)
    return RandomMembers(args[1], drawn_count(args[2]) if len(args) == 3 else None)


_READ: Final = "readonly fast"
_ANY: Final = ("nondeterministic_output",)

SPECS: Final = (
    machine_spec(
        "sadd", -3, _parse_sadd, "Add members to a set", "set", "write denyoom fast",
        differs=f"a member has at most {MAX_NAME_BYTES} bytes",
    ),
    machine_spec(
        "srem", -3, lambda args: RemoveMembers(args[1], tuple(args[2:])), "Remove members from a set", "set", "write fast"
    ),
    machine_spec("sismember", 3, lambda args: HasMember(args[1], args[2]), "Determine if a set has a member", "set", _READ),
    machine_spec("smismember", -3, lambda args: HasMembers(args[1], tuple(args[2:])), "Determine which members a set has", "set", _READ),
    machine_spec("scard", 2, lambda args: CountMembers(args[1]), "Get the number of members of a set", "set", _READ),
    machine_spec("spop", -2, _parse_spop, "Remove and return random members of a set", "set", "write fast", tips=_ANY, random=True),
    machine_spec(
        "srandmember", -2, _parse_srandmember, "Get random members of a set", "set", "readonly", tips=_ANY, random=True,
        differs=f"at most {MAX_REPLY_BYTES >> 20} MiB of members, where members may come again",
    ),
    machine_spec(
        "smove", 4, lambda args: MoveMember(args[1], args[2], args[3]), "Move a member from one set to another", "set", "write fast",
        keys=(1, 2, 1),
    ),
    machine_spec(
        "sscan", -3, lambda args: ScanMembers(args[1], cursor(args[2]), tuple(args[3:])), "Iterate over the members of a set", "set",
        "readonly", tips=_ANY, differs="a small set is not returned whole: COUNT counts always",
    ),
)  # fmt: skip

COMMANDS: Final = (
    AddMembers, RemoveMembers, HasMember, HasMembers, CountMembers, PopMembers, RandomMembers, MoveMember, ScanMembers,
)  # fmt: skip
