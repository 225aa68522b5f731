"""Commands on strings: SET, GET, INCR, INCRBY."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, INT64_MIN, NOT_AN_INTEGER, SYNTAX_ERROR, expiry, integer, invalid_expiry, parse_integer
from raftkv.kv.command import Command, Kind, Read, Spec, Write
from raftkv.kv.keyspace import Changes, Keyspace, string_of
from raftkv.kv.replies import OK, Reply, fail
from raftkv.kv.rows import STRING

_IF_ABSENT: Final = 1
_IF_PRESENT: Final = 2

_Milliseconds = Annotated[int, Meta(ge=0, le=INT64_MAX)]

_EXPIRIES: Final = {b"EX": (1000, True), b"PX": (1, True), b"EXAT": (1000, False), b"PXAT": (1, False)}
"""Option to (unit in milliseconds, counted from now)."""


class Set(Write, frozen=True, array_like=True, gc=False, tag=1):
    """SET without options, the hot path: one row written and none read."""

    key: bytes
    value: bytes

    def apply(self, changes: Changes) -> Reply:
        changes.put_string(self.key, self.value)
        return OK


class SetWith(Write, frozen=True, array_like=True, gc=False, tag=2):
    """SET with options. At most one of `ttl_ms` (from now), `due_ms` (since the epoch) and `keep_ttl` is given; 0 is none."""

    key: bytes
    value: bytes
    condition: int = 0
    answer_old: bool = False
    keep_ttl: bool = False
    ttl_ms: _Milliseconds = 0
    due_ms: _Milliseconds = 0

    def apply(self, changes: Changes) -> Reply:
        due_ms = changes.clock_ms + self.ttl_ms if self.ttl_ms else self.due_ms
        if due_ms > INT64_MAX:
            invalid_expiry("set")
        before = changes.value(self.key)
        old = string_of(before) if self.answer_old and before is not None else None
        if (self.condition == _IF_ABSENT and before is not None) or (self.condition == _IF_PRESENT and before is None):
            return old
        if self.keep_ttl and before is not None:
            due_ms = before.expiry_ms
        if 0 < due_ms <= changes.clock_ms and not self.keep_ttl:
            if before is not None:
                changes.delete(self.key, before)
        else:
            changes.put(self.key, STRING, self.value, due_ms, before)
        return old if self.answer_old else OK


class Get(Read, frozen=True, array_like=True, gc=False, tag=3):
    """GET."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        return keys.string(self.key)


class IncrementBy(Write, frozen=True, array_like=True, gc=False, tag=4):
    """INCR, INCRBY."""

    key: bytes
    amount: int

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        number = 0 if before is None else parse_integer(string_of(before))
        if number is None:
            fail(NOT_AN_INTEGER)
        number += self.amount
        if not INT64_MIN <= number <= INT64_MAX:
            fail("increment or decrement would overflow")
        changes.put(self.key, STRING, b"%d" % number, 0 if before is None else before.expiry_ms, before)
        return number


def _parse_set(args: Sequence[bytes]) -> Command:
    if len(args) == 3:
        return Set(args[1], args[2])
    condition = 0
    answer_old = keep_ttl = False
    chosen: bytes | None = None
    amount = b""
    position = 3
    while position < len(args):
        option = args[position].upper()
        if option in (b"NX", b"XX"):
            wanted = _IF_ABSENT if option == b"NX" else _IF_PRESENT
            if condition not in (0, wanted):
                fail(SYNTAX_ERROR)
            condition = wanted
        elif option == b"GET":
            answer_old = True
        elif option == b"KEEPTTL" and chosen is None:
            keep_ttl = True
        elif option in _EXPIRIES and chosen in (None, option) and not keep_ttl and position + 1 < len(args):
            chosen = option
            position += 1
            amount = args[position]
        else:
            fail(SYNTAX_ERROR)
        position += 1
    ttl_ms = due_ms = 0
    if chosen is not None:
        unit_ms, relative = _EXPIRIES[chosen]
        number = integer(amount)
        if number <= 0:
            invalid_expiry("set")
        ms = expiry(number, unit_ms, "set")
        ttl_ms, due_ms = (ms, 0) if relative else (0, ms)
    return SetWith(args[1], args[2], condition, answer_old, keep_ttl, ttl_ms, due_ms)


SPECS: Final = (
    Spec(
        name="set",
        arity=-3,
        kind=Kind.WRITE,
        parse=_parse_set,
        summary="Set the string value of a key",
        group="string",
        flags=("write", "denyoom"),
        first_key=1,
        last_key=1,
        step=1,
    ),
    Spec(
        name="get",
        arity=2,
        kind=Kind.READ,
        parse=lambda args: Get(args[1]),
        summary="Get the value of a key",
        group="string",
        flags=("readonly", "fast"),
        first_key=1,
        last_key=1,
        step=1,
    ),
    Spec(
        name="incr",
        arity=2,
        kind=Kind.WRITE,
        parse=lambda args: IncrementBy(args[1], 1),
        summary="Increment the integer value of a key by one",
        group="string",
        flags=("write", "denyoom", "fast"),
        first_key=1,
        last_key=1,
        step=1,
    ),
    Spec(
        name="incrby",
        arity=3,
        kind=Kind.WRITE,
        parse=lambda args: IncrementBy(args[1], integer(args[2])),
        summary="Increment the integer value of a key by the given amount",
        group="string",
        flags=("write", "denyoom", "fast"),
        first_key=1,
        last_key=1,
        step=1,
    ),
)

COMMANDS: Final = (Set, SetWith, Get, IncrementBy)
