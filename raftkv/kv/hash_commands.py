"""Commands on hashes: HSET, HSETNX, HMSET, HGET, HMGET, HGETALL, HKEYS, HVALS, HLEN, HDEL, HEXISTS, HSTRLEN, HINCRBY, HINCRBYFLOAT,
HRANDFIELD, HSCAN.

A field is a row named by the hash of its name and the name, and its value is that of the row. So a command costs what it touches, however
many fields there are, and fields are told in the order of the hashes of their names. HINCRBYFLOAT counts in decimal, as `kv.decimals` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, INT64_MIN, SYNTAX_ERROR, cursor, drawn_count, integer, parse_integer
from raftkv.kv.command import MAX_REPLY_BYTES, Command, Read, Write, machine_spec
from raftkv.kv.decimals import NOT_A_FLOAT, add_decimals, parse_decimal
from raftkv.kv.draws import Draws, Element, draw_one, draw_signed
from raftkv.kv.hashed_elements import MAX_NAME_BYTES, check_names, name_of, put_named, remove_named
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import OK, Pairs, Reply, fail
from raftkv.kv.rows import HASH
from raftkv.kv.scan import scan_elements

_FIELD: Final = "field"
_NAMES: Final = 1
_VALUES: Final = 2


class SetFields(Write, frozen=True, array_like=True, gc=False, tag=60):
    """HSET, HMSET: `fields` are names and values in turn. Of a name that comes twice the last value counts."""

    key: bytes
    fields: tuple[bytes, ...]
    counted: bool

    def apply(self, changes: Changes) -> Reply:
        collection = changes.open(self.key, HASH)
        before = collection.count
        pairs = dict(zip(self.fields[::2], self.fields[1::2], strict=False))
        for row, value in sorted((collection.hashed(name), value) for name, value in pairs.items()):
            put_named(changes, collection, row, value)
        changes.save(collection)
        return collection.count - before if self.counted else OK


class SetFieldIfAbsent(Write, frozen=True, array_like=True, gc=False, tag=61):
    """HSETNX."""

    key: bytes
    field: bytes
    value: bytes

    def apply(self, changes: Changes) -> Reply:
        collection = changes.open(self.key, HASH)
        row = collection.hashed(self.field)
        if changes.row(row) is not None:
            return 0
        put_named(changes, collection, row, self.value)
        changes.save(collection)
        return 1


class GetField(Read, frozen=True, array_like=True, gc=False, tag=62):
    """HGET."""

    key: bytes
    field: bytes

    def read(self, keys: Keyspace) -> Reply:
        return _value(keys, self.key, self.field)


class GetFields(Read, frozen=True, array_like=True, gc=False, tag=63):
    """HMGET."""

    key: bytes
    fields: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, HASH)
        if collection is None:
            return [None] * len(self.fields)
        found: list[Reply] = []
        size = 0
        for name in self.fields:
            value = keys.row(collection.hashed(name))
            found.append(value)
            size += 8 if value is None else len(value) + 8
            if size > MAX_REPLY_BYTES and len(self.fields) > 1:
                fail(f"HMGET found more than {MAX_REPLY_BYTES} bytes of values; ask for fewer fields")
        return found


class GetAllFields(Read, frozen=True, array_like=True, gc=False, tag=64):
    """HGETALL, HKEYS, HVALS: `parts` are the bits of names and values."""

    key: bytes
    parts: int

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, HASH)
        elements: Iterator[Element] = iter(())
        if collection is not None:
            elements = keys.elements(collection.prefix, collection.end)
        if self.parts == _NAMES:
            return [name_of(row) for row, _ in elements]
        if self.parts == _VALUES:
            return [value for _, value in elements]
        return {name_of(row): value for row, value in elements}


class CountFields(Read, frozen=True, array_like=True, gc=False, tag=65):
    """HLEN."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, HASH)
        return 0 if collection is None else collection.count


class DeleteFields(Write, frozen=True, array_like=True, gc=False, tag=66):
    """HDEL."""

    key: bytes
    fields: tuple[bytes, ...]

    def apply(self, changes: Changes) -> Reply:
        collection = changes.collection(self.key, HASH)
        return 0 if collection is None else remove_named(changes, collection, self.fields)


class HasField(Read, frozen=True, array_like=True, gc=False, tag=67):
    """HEXISTS."""

    key: bytes
    field: bytes

    def read(self, keys: Keyspace) -> Reply:
        return int(_value(keys, self.key, self.field) is not None)


class FieldLength(Read, frozen=True, array_like=True, gc=False, tag=68):
    """HSTRLEN."""

    key: bytes
    field: bytes

    def read(self, keys: Keyspace) -> Reply:
        return len(_value(keys, self.key, self.field) or b"")


class IncrementField(Write, frozen=True, array_like=True, gc=False, tag=69):
    """HINCRBY."""

    key: bytes
    field: bytes
    amount: int

    def apply(self, changes: Changes) -> Reply:
        collection = changes.open(self.key, HASH)
        row = collection.hashed(self.field)
        before = changes.row(row)
        number = 0 if before is None else parse_integer(before)
        if number is None:
            fail("hash value is not an integer")
        number += self.amount
        if not INT64_MIN <= number <= INT64_MAX:
            fail("increment or decrement would overflow")
        put_named(changes, collection, row, b"%d" % number)
        changes.save(collection)
        return number


class IncrementFieldByDecimal(Write, frozen=True, array_like=True, gc=False, tag=70):
    """HINCRBYFLOAT."""

    key: bytes
    field: bytes
    amount: bytes

    def apply(self, changes: Changes) -> Reply:
        amount = parse_decimal(self.amount)
        if amount is None:
            fail(NOT_A_FLOAT)
        collection = changes.open(self.key, HASH)
        row = collection.hashed(self.field)
        before = changes.row(row)
        number = parse_decimal(b"0" if before is None else before)
        if number is None:
            fail("hash value is not a float")
        data = add_decimals(number, amount)
        put_named(changes, collection, row, data)
        changes.save(collection)
        return data


class RandomFields(Read, frozen=True, array_like=True, gc=False, tag=71):
    """HRANDFIELD: one name without a `count`; up to `count` different fields; or so many as `count` is below 0, each chosen among all."""

    key: bytes
    count: int | None
    with_values: bool
    number: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0

    def with_random(self, number: int) -> Command:
        return RandomFields(self.key, self.count, self.with_values, number)

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, HASH)
        draws = Draws(self.number)
        if self.count is None:
            return None if collection is None else name_of(draw_one(keys, collection, draws)[0])
        elements = draw_signed(keys, collection, self.count, draws)
        if self.with_values:
            return Pairs([(name_of(row), value) for row, value in elements])
        return [name_of(row) for row, _ in elements]


class ScanFields(Read, frozen=True, array_like=True, gc=False, tag=72):
    """HSCAN."""

    key: bytes
    cursor: int
    options: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        collection = keys.collection(self.key, HASH)
        if collection is None:
            return [b"0", []]
        place, found = scan_elements(keys, collection, self.cursor, self.options)
        return [place, [part for element in found for part in element]]


def _value(keys: Keyspace, key: bytes, field: bytes) -> bytes | None:
    collection = keys.collection(key, HASH)
    return None if collection is None else keys.row(collection.hashed(field))


def _parse_hset(counted: bool) -> Callable[[Sequence[bytes]], Command]:
    def parse(args: Sequence[bytes]) -> Command:
        if len(args) % 2:
            fail(f"wrong number of arguments for '{'hset' if counted else 'hmset'}' command")
        check_names(_FIELD, args[2::2])
        return SetFields(args[1], tuple(args[2:]), counted)

    return parse


def _parse_hsetnx(args: Sequence[bytes]) -> Command:
    check_names(_FIELD, args[2:3])
    return SetFieldIfAbsent(args[1], args[2], args[3])


def _parse_hincrby(args: Sequence[bytes]) -> Command:
    amount = integer(args[3])
    check_names(_FIELD, args[2:3])
    return IncrementField(args[1], args[2], amount)


def _parse_hincrbyfloat(args: Sequence[bytes]) -> Command:
    amount = parse_decimal(args[3])
    if amount is None:
        fail(NOT_A_FLOAT)
    if not amount.is_finite():
        fail("value is NaN or Infinity")
    check_names(_FIELD, args[2:3])
    return IncrementFieldByDecimal(args[1], args[2], args[3])


def _parse_all(parts: int) -> Callable[[Sequence[bytes]], Command]:
    return lambda args: GetAllFields(args[1], parts)


def _parse_hrandfield(args: Sequence[bytes]) -> Command:
    if len(args) == 2:
        return RandomFields(args[1], None, with_values=False)
    count = drawn_count(args[2])
    if len(args) == 3:
        return RandomFields(args[1], count, with_values=False)
    if len(args) > 4 or args[3].upper() != b"WITHVALUES":
        fail(SYNTAX_ERROR)
    if abs(count) > INT64_MAX // 2:
        fail("value is out of range")
    return RandomFields(args[1], count, with_values=True)


_WRITE: Final = "write denyoom fast"
_READ: Final = "readonly fast"
_ANY_ORDER: Final = ("nondeterministic_output_order",)
_ANY: Final = ("nondeterministic_output",)
_SHORT: Final = f"at most {MAX_REPLY_BYTES >> 20} MiB of values"
_NAMED: Final = f"a field has at most {MAX_NAME_BYTES} bytes"

SPECS: Final = (
    machine_spec("hset", -4, _parse_hset(True), "Set the values of fields", "hash", _WRITE, differs=_NAMED),
    machine_spec("hmset", -4, _parse_hset(False), "Set the values of fields, as HSET", "hash", _WRITE, differs=_NAMED),
    machine_spec("hsetnx", 4, _parse_hsetnx, "Set the value of a field that is not there", "hash", _WRITE, differs=_NAMED),
    machine_spec("hget", 3, lambda args: GetField(args[1], args[2]), "Get the value of a field", "hash", _READ),
    machine_spec("hmget", -3, lambda args: GetFields(args[1], tuple(args[2:])), "Get the values of fields", "hash", _READ, differs=_SHORT),
    machine_spec("hgetall", 2, _parse_all(_NAMES | _VALUES), "Get all fields and values", "hash", "readonly", tips=_ANY_ORDER),
    machine_spec("hkeys", 2, _parse_all(_NAMES), "Get all fields", "hash", "readonly", tips=_ANY_ORDER),
    machine_spec("hvals", 2, _parse_all(_VALUES), "Get all values", "hash", "readonly", tips=_ANY_ORDER),
    machine_spec("hlen", 2, lambda args: CountFields(args[1]), "Get the number of fields", "hash", _READ),
    machine_spec("hdel", -3, lambda args: DeleteFields(args[1], tuple(args[2:])), "Delete fields", "hash", "write fast"),
    machine_spec("hexists", 3, lambda args: HasField(args[1], args[2]), "Determine if a field exists", "hash", _READ),
    machine_spec("hstrlen", 3, lambda args: FieldLength(args[1], args[2]), "Get the length of the value of a field", "hash", _READ),
    machine_spec("hincrby", 4, _parse_hincrby, "Increment the integer value of a field", "hash", _WRITE, differs=_NAMED),
    machine_spec("hincrbyfloat", 4, _parse_hincrbyfloat, "Increment the decimal value of a field", "hash", _WRITE, differs=_NAMED),
    machine_spec(
        "hrandfield", -2, _parse_hrandfield, "Get random fields", "hash", "readonly", tips=_ANY, random=True,
        differs=f"at most {MAX_REPLY_BYTES >> 20} MiB of fields and values, where fields may come again",
    ),
    machine_spec(
        "hscan", -3, lambda args: ScanFields(args[1], cursor(args[2]), tuple(args[3:])), "Iterate over fields and values", "hash",
        "readonly", tips=_ANY, differs="a small hash is not returned whole: COUNT counts always",
    ),
)  # fmt: skip

COMMANDS: Final = (
    SetFields, SetFieldIfAbsent, GetField, GetFields, GetAllFields, CountFields, DeleteFields, HasField, FieldLength, IncrementField,
    IncrementFieldByDecimal, RandomFields, ScanFields,
)  # fmt: skip
