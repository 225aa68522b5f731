"""Commands on keys of any type: DEL, UNLINK, EXISTS, TOUCH, TYPE, RENAME, RENAMENX, COPY; and MOVE, which has no other database to
move a key to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raftkv.kv.arguments import SYNTAX_ERROR, database
from raftkv.kv.command import Command, Read, Write, machine_spec
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import OK, Reply, Simple, fail
from raftkv.kv.rows import TYPE_NAMES

_NO_SUCH_KEY: Final = "no such key"
_SAME: Final = "source and destination objects are the same"


class Delete(Write, frozen=True, array_like=True, gc=False, tag=5):
    """DEL, UNLINK: what a key holds goes away at once and at the same cost for every size, so there is nothing to unlink."""

    keys: tuple[bytes, ...]

    def apply(self, changes: Changes) -> Reply:
        deleted = 0
        for key in self.keys:
            before = changes.value(key)
            if before is not None:
                changes.delete(key, before)
                deleted += 1
        return deleted


class Exists(Read, frozen=True, array_like=True, gc=False, tag=6):
    """EXISTS, TOUCH (when a key was used last is not kept). A key named twice counts twice."""

    keys: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        return sum(keys.value(key) is not None for key in self.keys)


class TypeOf(Read, frozen=True, array_like=True, gc=False, tag=37):
    """TYPE."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        value = keys.value(self.key)
        return Simple("none" if value is None else TYPE_NAMES[value.type])


class Rename(Write, frozen=True, array_like=True, gc=False, tag=38):
    """RENAME, RENAMENX: the value goes to `to` with its expiry, whatever its type, at the same cost for every number of elements."""

    key: bytes
    to: bytes
    if_absent: bool

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        if before is None:
            fail(_NO_SUCH_KEY)
        displaced = changes.value(self.to)
        if self.if_absent and displaced is not None:
            return 0
        if self.key != self.to:
            changes.move(self.key, self.to, before, displaced)
        return 1 if self.if_absent else OK


class Copy(Write, frozen=True, array_like=True, gc=False, tag=39):
    """COPY: 1 if there is now a copy of the value, with its expiry, at `to`."""

    key: bytes
    to: bytes
    replace: bool

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        if before is None:
            return 0
        displaced = changes.value(self.to)
        if displaced is not None and not self.replace:
            return 0
        changes.copy(self.to, before, displaced)
        return 1


def _parse_rename(if_absent: bool) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: Rename(args[1], args[2], if_absent)


def _parse_copy(args: Sequence[bytes]) -> Command:
    replace = False
    position = 3
    while position < len(args):
        option = args[position].upper()
        if option == b"DB" and position + 1 < len(args):
            position += 1
            database(args[position])
        elif option == b"REPLACE":
            replace = True
        else:
            fail(SYNTAX_ERROR)
        position += 1
    if args[1] == args[2]:
        fail(_SAME)
    return Copy(args[1], args[2], replace)


def _parse_move(args: Sequence[bytes]) -> Command:
    database(args[2])
    fail(_SAME)


def _delete(args: Sequence[bytes]) -> Command:
    return Delete(tuple(args[1:]))


def _exists(args: Sequence[bytes]) -> Command:
    return Exists(tuple(args[1:]))


_EACH: Final = (1, -1, 1)
_PAIR: Final = (1, 2, 1)
_SUM: Final = ("request_policy:multi_shard", "response_policy:agg_sum")

SPECS: Final = (
    machine_spec("del", -2, _delete, "Delete a key", "generic", "write", keys=_EACH, tips=_SUM),
    machine_spec("unlink", -2, _delete, "Delete a key, as DEL", "generic", "write fast", keys=_EACH, tips=_SUM),
    machine_spec("exists", -2, _exists, "Determine if a key exists", "generic", "readonly fast", keys=_EACH, tips=_SUM),
    machine_spec("touch", -2, _exists, "Count the keys that exist", "generic", "readonly fast", keys=_EACH, tips=_SUM),
    machine_spec("type", 2, lambda args: TypeOf(args[1]), "Determine the type of a key's value", "generic", "readonly fast"),
    machine_spec("rename", 3, _parse_rename(False), "Rename a key", "generic", "write", keys=_PAIR),
    machine_spec("renamenx", 3, _parse_rename(True), "Rename a key, only if the new name is free", "generic", "write fast", keys=_PAIR),
    machine_spec("copy", -3, _parse_copy, "Copy the value of a key to another key", "generic", "write denyoom", keys=_PAIR),
    machine_spec("move", 3, _parse_move, "Move a key to another database, of which there is none", "generic", "write fast"),
)

COMMANDS: Final = (Delete, Exists, TypeOf, Rename, Copy)
