"""Commands on keys of any type, and on how long they live: DEL, EXISTS, EXPIRE, PEXPIRE, TTL, PTTL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raftkv.kv.arguments import INT64_MAX, expiry, integer, invalid_expiry, printable
from raftkv.kv.command import Command, Kind, Read, Spec, Write
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import Reply, fail

_IF_NONE: Final = 1
_IF_ANY: Final = 2
_IF_LATER: Final = 4
_IF_SOONER: Final = 8
_CONDITIONS: Final = {b"NX": _IF_NONE, b"XX": _IF_ANY, b"GT": _IF_LATER, b"LT": _IF_SOONER}


class Delete(Write, frozen=True, array_like=True, gc=False, tag=5):
    """DEL."""

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
    """EXISTS. A key named twice counts twice."""

    keys: tuple[bytes, ...]

    def read(self, keys: Keyspace) -> Reply:
        return sum(keys.value(key) is not None for key in self.keys)


class Expire(Write, frozen=True, array_like=True, gc=False, tag=7):
    """EXPIRE, PEXPIRE: let `key` live for `ttl_ms` from now, if the bits of `condition` allow it. No time left deletes it."""

    key: bytes
    ttl_ms: int
    condition: int
    milliseconds: bool

    def apply(self, changes: Changes) -> Reply:
        due_ms = changes.clock_ms + self.ttl_ms
        if due_ms > INT64_MAX:
            invalid_expiry("pexpire" if self.milliseconds else "expire")
        before = changes.value(self.key)
        if before is None or not self._allowed(before.expiry_ms, due_ms):
            return 0
        if due_ms <= changes.clock_ms:
            changes.delete(self.key, before)
        else:
            changes.put(self.key, before.type, before.data, due_ms, before)
        return 1

    def _allowed(self, due_before_ms: int, due_ms: int) -> bool:
        condition = self.condition
        if condition & _IF_NONE and due_before_ms:
            return False
        if condition & _IF_ANY and not due_before_ms:
            return False
        if condition & _IF_LATER and (not due_before_ms or due_ms <= due_before_ms):
            return False
        return not (condition & _IF_SOONER and due_before_ms and due_ms >= due_before_ms)


class TimeToLive(Read, frozen=True, array_like=True, gc=False, tag=8):
    """TTL, PTTL: -2 without the key, -1 without an expiry. Seconds are rounded to the nearest."""

    key: bytes
    milliseconds: bool

    def read(self, keys: Keyspace) -> Reply:
        value = keys.value(self.key)
        if value is None:
            return -2
        if not value.expiry_ms:
            return -1
        left_ms = max(value.expiry_ms - keys.now_ms, 0)
        return left_ms if self.milliseconds else (left_ms + 500) // 1000


def _parse_expire(name: str, unit_ms: int) -> Callable[[Sequence[bytes]], Command]:
    def parse(args: Sequence[bytes]) -> Command:
        condition = 0
        for option in args[3:]:
            bit = _CONDITIONS.get(option.upper())
            if bit is None:
                fail("Unsupported option " + printable(option.rstrip(b"\r\n")))
            condition |= bit
        if condition & _IF_NONE and condition != _IF_NONE:
            fail("NX and XX, GT or LT options at the same time are not compatible")
        if condition & _IF_LATER and condition & _IF_SOONER:
            fail("GT and LT options at the same time are not compatible")
        ttl_ms = expiry(integer(args[2]), unit_ms, name)
        return Expire(args[1], ttl_ms, condition, unit_ms == 1)

    return parse


SPECS: Final = (
    Spec(
        name="del",
        arity=-2,
        kind=Kind.WRITE,
        parse=lambda args: Delete(tuple(args[1:])),
        summary="Delete a key",
        group="generic",
        flags=("write",),
        first_key=1,
        last_key=-1,
        step=1,
        tips=("request_policy:multi_shard", "response_policy:agg_sum"),
    ),
    Spec(
        name="exists",
        arity=-2,
        kind=Kind.READ,
        parse=lambda args: Exists(tuple(args[1:])),
        summary="Determine if a key exists",
        group="generic",
        flags=("readonly", "fast"),
        first_key=1,
        last_key=-1,
        step=1,
        tips=("request_policy:multi_shard", "response_policy:agg_sum"),
    ),
    Spec(
        name="expire",
        arity=-3,
        kind=Kind.WRITE,
        parse=_parse_expire("expire", 1000),
        summary="Set a key's time to live in seconds",
        group="generic",
        flags=("write", "fast"),
        first_key=1,
        last_key=1,
        step=1,
    ),
    Spec(
        name="pexpire",
        arity=-3,
        kind=Kind.WRITE,
        parse=_parse_expire("pexpire", 1),
        summary="Set a key's time to live in milliseconds",
        group="generic",
        flags=("write", "fast"),
        first_key=1,
        last_key=1,
        step=1,
    ),
    Spec(
        name="ttl",
        arity=2,
        kind=Kind.READ,
        parse=lambda args: TimeToLive(args[1], False),
        summary="Get the time to live for a key in seconds",
        group="generic",
        flags=("readonly", "fast"),
        first_key=1,
        last_key=1,
        step=1,
        tips=("nondeterministic_output",),
    ),
    Spec(
        name="pttl",
        arity=2,
        kind=Kind.READ,
        parse=lambda args: TimeToLive(args[1], True),
        summary="Get the time to live for a key in milliseconds",
        group="generic",
        flags=("readonly", "fast"),
        first_key=1,
        last_key=1,
        step=1,
        tips=("nondeterministic_output",),
    ),
)

COMMANDS: Final = (Delete, Exists, Expire, TimeToLive)
