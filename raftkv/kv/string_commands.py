"""Commands on whole strings: SET, SETNX, SETEX, PSETEX, GET, GETSET, GETDEL, GETEX, MGET, MSET, MSETNX, DELEX, DIGEST."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from raftkv.kv.arguments import INT64_MAX, SYNTAX_ERROR, expiry, integer, invalid_expiry
from raftkv.kv.command import MAX_REPLY_BYTES, Command, Read, Write, machine_spec
from raftkv.kv.comparison import COMPARISONS, digest_of, holds, operand
from raftkv.kv.key_commands import Delete
from raftkv.kv.keyspace import Changes, Keyspace, string_of
from raftkv.kv.replies import OK, Reply, fail
from raftkv.kv.rows import STRING, Value

_IF_ABSENT: Final = 1
_IF_PRESENT: Final = 2

_Milliseconds = Annotated[int, Meta(ge=0, le=INT64_MAX)]

_EXPIRIES: Final = {b"EX": (1000, True), b"PX": (1, True), b"EXAT": (1000, False), b"PXAT": (1, False)}
"""Option to (unit in milliseconds, counted from now)."""

_NUMBER_BYTES: Final = 20
"""No number that Redis reads as one is longer."""


class Set(Write, frozen=True, array_like=True, gc=False, tag=1):
    """SET without options, the hot path: one row written and none read."""

    key: bytes
    value: bytes

    def apply(self, changes: Changes) -> Reply:
        changes.put_string(self.key, self.value)
        return OK


class SetWith(Write, frozen=True, array_like=True, gc=False, tag=2):
    """SET with options, GETSET. At most one of `ttl_ms` (from now), `due_ms` (since the epoch) and `keep_ttl` is given; 0 is none."""

    key: bytes
    value: bytes
    condition: int = 0
    answer_old: bool = False
    keep_ttl: bool = False
    ttl_ms: _Milliseconds = 0
    due_ms: _Milliseconds = 0

    def apply(self, changes: Changes) -> Reply:
        due_ms = _due_ms(changes, self.ttl_ms, self.due_ms, "set")
        before = changes.value(self.key)
        old = _answered(changes, before) if self.answer_old else None
        if (self.condition == _IF_ABSENT and before is not None) or (self.condition == _IF_PRESENT and before is None):
            return old
        _put(changes, self.key, self.value, before, due_ms, keep_ttl=self.keep_ttl)
        return old if self.answer_old else OK


class SetIf(Write, frozen=True, array_like=True, gc=False, tag=20):
    """SET with IFEQ, IFNE, IFDEQ or IFDNE: as `SetWith`, if the value that is there compares so with `compared`."""

    key: bytes
    value: bytes
    comparison: int
    compared: bytes
    answer_old: bool = False
    keep_ttl: bool = False
    ttl_ms: _Milliseconds = 0
    due_ms: _Milliseconds = 0

    def apply(self, changes: Changes) -> Reply:
        due_ms = _due_ms(changes, self.ttl_ms, self.due_ms, "set")
        before = changes.value(self.key)
        old = None if before is None else string_of(before)
        if self.answer_old:
            _answered(changes, before)
        if not holds(self.comparison, self.compared, old):
            return old if self.answer_old else None
        _put(changes, self.key, self.value, before, due_ms, keep_ttl=self.keep_ttl)
        return old if self.answer_old else OK


class SetFor(Write, frozen=True, array_like=True, gc=False, tag=21):
    """SETEX, PSETEX."""

    key: bytes
    value: bytes
    ttl_ms: _Milliseconds
    milliseconds: bool

    def apply(self, changes: Changes) -> Reply:
        due_ms = _due_ms(changes, self.ttl_ms, 0, "psetex" if self.milliseconds else "setex")
        changes.put(self.key, STRING, self.value, due_ms, changes.value(self.key))
        return OK


class SetIfAbsent(Write, frozen=True, array_like=True, gc=False, tag=22):
    """SETNX, MSETNX: 1 and all are set, or 0 and none is because one of the keys is there. `pairs` are keys with their values."""

    pairs: tuple[tuple[bytes, bytes], ...]

    def apply(self, changes: Changes) -> Reply:
        if any(changes.value(key) is not None for key, _ in self.pairs):
            return 0
        _put_pairs(changes, self.pairs)
        return 1


class SetMany(Write, frozen=True, array_like=True, gc=False, tag=23):
    """MSET. `pairs` are keys with their values."""

    pairs: tuple[tuple[bytes, bytes], ...]

    def apply(self, changes: Changes) -> Reply:
        _put_pairs(changes, self.pairs)
        return OK


class Get(Read, frozen=True, array_like=True, gc=False, tag=3):
    """GET."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        return keys.string(self.key)


class GetMany(Read, frozen=True, array_like=True, gc=False, tag=24):
    """MGET. What is no string is shown as nothing."""

    keys: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        found: list[Reply] = []
        size = 0
        for key in self.keys:
            value = keys.value(key)
            found.append(value.data if value is not None and value.type == STRING else None)
            size += 8 if value is None else len(value.data) + 8
            if size > MAX_REPLY_BYTES and len(self.keys) > 1:
                fail(f"MGET found more than {MAX_REPLY_BYTES} bytes of values; ask for fewer keys")
        return found


class GetAndDelete(Write, frozen=True, array_like=True, gc=False, tag=25):
    """GETDEL."""

    key: bytes

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        if before is None:
            return None
        old = _answered(changes, before)
        changes.delete(self.key, before)
        return old


class GetAndExpire(Write, frozen=True, array_like=True, gc=False, tag=26):
    """GETEX. `option` is empty, PERSIST, or what `amount` is of; Redis reads `amount` only when it has found a string, so this does too."""

    key: bytes
    option: bytes
    amount: bytes

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        if before is None:
            return None
        data = string_of(before)
        changes.budget.answer(len(data))
        if self.option in _EXPIRIES:
            due_ms = _due_ms(changes, *_lifetime(self.option, self.amount, "getex"), "getex")
            if due_ms <= changes.clock_ms:
                changes.delete(self.key, before)
            else:
                changes.put_anew(self.key, STRING, data, due_ms, before)
        elif self.option and before.expiry_ms:
            changes.put_anew(self.key, STRING, data, 0, before)
        return data


class DeleteIf(Write, frozen=True, array_like=True, gc=False, tag=27):
    """DELEX with IFEQ, IFNE, IFDEQ or IFDNE: 1 if the value that was there compares so with `compared`, and is deleted."""

    key: bytes
    comparison: int
    compared: bytes

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        if before is None or not holds(self.comparison, self.compared, string_of(before)):
            return 0
        changes.delete(self.key, before)
        return 1


class Digest(Read, frozen=True, array_like=True, gc=False, tag=28):
    """DIGEST."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        data = keys.string(self.key)
        return None if data is None else digest_of(data)


def _answered(changes: Changes, before: Value | None) -> bytes | None:
    """The string that `before` is, which is going to be the reply."""
    if before is None:
        return None
    data = string_of(before)
    changes.budget.answer(len(data))
    return data


def _due_ms(changes: Changes, ttl_ms: int, due_ms: int, command: str) -> int:
    """When what lives `ttl_ms` from now, or until `due_ms`, is due; 0 for neither."""
    if not ttl_ms:
        return due_ms
    if changes.clock_ms + ttl_ms > INT64_MAX:
        invalid_expiry(command)
    return changes.clock_ms + ttl_ms


def _put(changes: Changes, key: bytes, data: bytes, before: Value | None, due_ms: int, *, keep_ttl: bool) -> None:
    """Set `key`. What is due already is not there afterwards."""
    if keep_ttl:
        changes.put(key, STRING, data, 0 if before is None else before.expiry_ms, before)
    elif 0 < due_ms <= changes.clock_ms:
        if before is not None:
            changes.delete(key, before)
    else:
        changes.put(key, STRING, data, due_ms, before)


def _put_pairs(changes: Changes, pairs: tuple[tuple[bytes, bytes], ...]) -> None:
    for key, value in pairs:
        changes.put_string(key, value)


def _lifetime(option: bytes, amount: bytes, command: str) -> tuple[int, int]:
    """(time to live, due) in milliseconds, one of them 0, that `option` with `amount` asks for."""
    unit_ms, relative = _EXPIRIES[option]
    number = integer(amount)
    if number <= 0:
        invalid_expiry(command)
    ms = expiry(number, unit_ms, command)
    return (ms, 0) if relative else (0, ms)


class _Options(Struct):
    """The options of SET, as far as they have been read."""

    condition: int = 0
    comparison: int = 0
    compared: bytes = b""
    answer_old: bool = False
    keep_ttl: bool = False
    expiry: bytes = b""
    amount: bytes = b""

    def take(self, option: bytes, argument: bytes | None) -> int:
        """Read `option`, which `argument` follows (None: nothing does); how many arguments that were."""
        if option in (b"NX", b"XX") and not self.comparison:
            wanted = _IF_ABSENT if option == b"NX" else _IF_PRESENT
            if self.condition not in (0, wanted):
                fail(SYNTAX_ERROR)
            self.condition = wanted
            return 1
        if option == b"GET":
            self.answer_old = True
            return 1
        if option == b"KEEPTTL" and not self.expiry:
            self.keep_ttl = True
            return 1
        if argument is None:
            fail(SYNTAX_ERROR)
        if option in _EXPIRIES and self.expiry in (b"", option) and not self.keep_ttl:
            self.expiry, self.amount = option, argument
            return 2
        comparison = COMPARISONS.get(option, 0)
        if not comparison or self.condition or self.comparison not in (0, comparison):
            fail(SYNTAX_ERROR)
        self.comparison, self.compared = comparison, argument
        return 2


def _parse_set(args: Sequence[bytes]) -> Command:
    if len(args) == 3:
        return Set(args[1], args[2])
    options = _Options()
    position = 3
    while position < len(args):
        position += options.take(args[position].upper(), args[position + 1] if position + 1 < len(args) else None)
    ttl_ms, due_ms = _lifetime(options.expiry, options.amount, "set") if options.expiry else (0, 0)
    if options.comparison:
        compared = operand(options.comparison, options.compared)
        return SetIf(args[1], args[2], options.comparison, compared, options.answer_old, options.keep_ttl, ttl_ms, due_ms)
    return SetWith(args[1], args[2], options.condition, options.answer_old, options.keep_ttl, ttl_ms, due_ms)


def _parse_set_for(name: str, option: bytes) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: SetFor(args[1], args[3], _lifetime(option, args[2], name)[0], option == b"PX")


def _parse_pairs(name: str, command: Callable[[tuple[tuple[bytes, bytes], ...]], Command]) -> Callable[[Sequence[bytes]], Command]:
    def parse(args: Sequence[bytes]) -> Command:
        if len(args) % 2 == 0:
            fail(f"wrong number of arguments for '{name}' command")
        return command(tuple(zip(args[1::2], args[2::2], strict=True)))

    return parse


def _parse_getex(args: Sequence[bytes]) -> Command:
    chosen = amount = b""
    position = 2
    while position < len(args):
        option = args[position].upper()
        if chosen not in (b"", option):
            fail(SYNTAX_ERROR)
        if option in _EXPIRIES and position + 1 < len(args):
            position += 1
            amount = args[position]
        elif option != b"PERSIST":
            fail(SYNTAX_ERROR)
        chosen = option
        position += 1
    return GetAndExpire(args[1], chosen, amount[: _NUMBER_BYTES + 1])


def _parse_delex(args: Sequence[bytes]) -> Command:
    if len(args) == 2:
        return Delete((args[1],))
    if len(args) != 4:
        fail("wrong number of arguments for 'delex' command")
    comparison = COMPARISONS.get(args[2].upper(), 0)
    if not comparison:
        fail("Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE")
    return DeleteIf(args[1], comparison, operand(comparison, args[3]))


_EACH: Final = (1, -1, 1)
_PAIRS: Final = (1, -1, 2)
_SHARDS: Final = "request_policy:multi_shard"

SPECS: Final = (
    machine_spec("set", -3, _parse_set, "Set the string value of a key", "string", "write denyoom"),
    machine_spec(
        "setnx",
        3,
        lambda args: SetIfAbsent(((args[1], args[2]),)),
        "Set the value of a key, only if the key does not exist",
        "string",
        "write denyoom fast",
    ),
    machine_spec("setex", 4, _parse_set_for("setex", b"EX"), "Set a key for some seconds", "string", "write denyoom"),
    machine_spec("psetex", 4, _parse_set_for("psetex", b"PX"), "Set a key for some milliseconds", "string", "write denyoom"),
    machine_spec("get", 2, lambda args: Get(args[1]), "Get the value of a key", "string", "readonly fast"),
    machine_spec(
        "getset",
        3,
        lambda args: SetWith(args[1], args[2], answer_old=True),
        "Set the string value of a key and return its old value",
        "string",
        "write denyoom fast",
    ),
    machine_spec("getdel", 2, lambda args: GetAndDelete(args[1]), "Get the value of a key and delete the key", "string", "write fast"),
    machine_spec("getex", -2, _parse_getex, "Get the value of a key and set when it expires", "string", "write fast"),
    machine_spec(
        "mget",
        -2,
        lambda args: GetMany(tuple(args[1:])),
        "Get the values of all the given keys",
        "string",
        "readonly fast",
        keys=_EACH,
        tips=(_SHARDS,),
    ),
    machine_spec(
        "mset",
        -3,
        _parse_pairs("mset", SetMany),
        "Set multiple keys to multiple values",
        "string",
        "write denyoom",
        keys=_PAIRS,
        tips=(_SHARDS, "response_policy:all_succeeded"),
    ),
    machine_spec(
        "msetnx",
        -3,
        _parse_pairs("msetnx", SetIfAbsent),
        "Set multiple keys to multiple values, only if none of the keys exist",
        "string",
        "write denyoom",
        keys=_PAIRS,
        tips=(_SHARDS, "response_policy:agg_min"),
    ),
    machine_spec("delex", -2, _parse_delex, "Delete a key if its value, or the digest of it, compares so", "string", "write fast"),
    machine_spec("digest", 2, lambda args: Digest(args[1]), "Get the digest of the value of a key", "string", "readonly fast"),
)

COMMANDS: Final = (
    Set,
    SetWith,
    SetIf,
    SetFor,
    SetIfAbsent,
    SetMany,
    Get,
    GetMany,
    GetAndDelete,
    GetAndExpire,
    DeleteIf,
    Digest,
)
