"""Commands on how long a key lives, whatever its type: EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT, TTL, PTTL, EXPIRETIME, PEXPIRETIME,
PERSIST."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, expiry, integer, invalid_expiry, printable
from raftkv.kv.command import Command, Read, Spec, Write, machine_spec
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import Reply, fail

_IF_NONE: Final = 1
_IF_ANY: Final = 2
_IF_LATER: Final = 4
_IF_SOONER: Final = 8
_CONDITIONS: Final = {b"NX": _IF_NONE, b"XX": _IF_ANY, b"GT": _IF_LATER, b"LT": _IF_SOONER}


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
        return _let_expire(changes, self.key, due_ms, self.condition)


class TimeToLive(Read, frozen=True, array_like=True, gc=False, tag=8):
    """TTL, PTTL: -2 without the key, -1 without an expiry. Seconds are rounded to the nearest."""

    key: bytes
    milliseconds: bool

    def read(self, keys: Keyspace) -> Reply:
        return _told(keys, self.key, keys.now_ms, self.milliseconds)


class ExpireAt(Write, frozen=True, array_like=True, gc=False, tag=34):
    """EXPIREAT, PEXPIREAT: let `key` live until `due_ms` since the epoch, if the bits of `condition` allow it."""

    key: bytes
    due_ms: Annotated[int, Meta(le=INT64_MAX)]
    condition: int

    def apply(self, changes: Changes) -> Reply:
        return _let_expire(changes, self.key, self.due_ms, self.condition)


class ExpiryTime(Read, frozen=True, array_like=True, gc=False, tag=35):
    """EXPIRETIME, PEXPIRETIME: since the epoch; -2 without the key, -1 without an expiry. Seconds are rounded to the nearest."""

    key: bytes
    milliseconds: bool

    def read(self, keys: Keyspace) -> Reply:
        return _told(keys, self.key, 0, self.milliseconds)


def _told(keys: Keyspace, key: bytes, since_ms: int, milliseconds: bool) -> Reply:
    """When `key` expires, counted from `since_ms`."""
    value = keys.value(key)
    if value is None:
        return -2
    if not value.expiry_ms:
        return -1
    told_ms = max(value.expiry_ms - since_ms, 0)
    return told_ms if milliseconds else (told_ms + 500) // 1000


class Persist(Write, frozen=True, array_like=True, gc=False, tag=36):
    """PERSIST: 1 if the key had an expiry, which it has no more."""

    key: bytes

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        if before is None or not before.expiry_ms:
            return 0
        changes.put_anew(self.key, before.type, before.data, 0, before)
        return 1


def _let_expire(changes: Changes, key: bytes, due_ms: int, condition: int) -> int:
    """Let `key` live until `due_ms`, which deletes it when that is not in the future; 1 if there is such a key and `condition` allows
    it."""
    before = changes.value(key)
    if before is None or not _allowed(condition, before.expiry_ms, due_ms):
        return 0
    if due_ms <= changes.clock_ms:
        changes.delete(key, before)
    else:
        changes.put_anew(key, before.type, before.data, due_ms, before)
    return 1


def _allowed(condition: int, due_before_ms: int, due_ms: int) -> bool:
    if condition & _IF_NONE and due_before_ms:
        return False
    if condition & _IF_ANY and not due_before_ms:
        return False
    if condition & _IF_LATER and (not due_before_ms or due_ms <= due_before_ms):
        return False
    return not (condition & _IF_SOONER and due_before_ms and due_ms >= due_before_ms)


def _condition(options: Sequence[bytes]) -> int:
    condition = 0
    for option in options:
        bit = _CONDITIONS.get(option.upper())
        if bit is None:
            fail("Unsupported option " + printable(option.rstrip(b"\r\n")))
        condition |= bit
    if condition & _IF_NONE and condition != _IF_NONE:
        fail("NX and XX, GT or LT options at the same time are not compatible")
    if condition & _IF_LATER and condition & _IF_SOONER:
        fail("GT and LT options at the same time are not compatible")
    return condition


def _parse_expire(name: str, unit_ms: int) -> Callable[[Sequence[bytes]], Command]:
    def parse(args: Sequence[bytes]) -> Command:
        condition = _condition(args[3:])
        return Expire(args[1], expiry(integer(args[2]), unit_ms, name), condition, unit_ms == 1)

    return parse


def _parse_expire_at(name: str, unit_ms: int) -> Callable[[Sequence[bytes]], Command]:
    def parse(args: Sequence[bytes]) -> Command:
        condition = _condition(args[3:])
        return ExpireAt(args[1], expiry(integer(args[2]), unit_ms, name), condition)

    return parse


def _spec(name: str, arity: int, parse: Callable[[Sequence[bytes]], Command], summary: str, flags: str, *tips: str) -> Spec:
    return machine_spec(name, arity, parse, summary, "generic", flags, tips=tips)


_WRITE: Final = "write fast"
_READ: Final = "readonly fast"
_AGAIN: Final = "nondeterministic_output"

SPECS: Final = (
    _spec("expire", -3, _parse_expire("expire", 1000), "Set a key's time to live in seconds", _WRITE),
    _spec("pexpire", -3, _parse_expire("pexpire", 1), "Set a key's time to live in milliseconds", _WRITE),
    _spec("expireat", -3, _parse_expire_at("expireat", 1000), "Set when a key expires, in seconds since the epoch", _WRITE),
    _spec("pexpireat", -3, _parse_expire_at("pexpireat", 1), "Set when a key expires, in milliseconds since the epoch", _WRITE),
    _spec("ttl", 2, lambda args: TimeToLive(args[1], False), "Get the time to live for a key in seconds", _READ, _AGAIN),
    _spec("pttl", 2, lambda args: TimeToLive(args[1], True), "Get the time to live for a key in milliseconds", _READ, _AGAIN),
    _spec("expiretime", 2, lambda args: ExpiryTime(args[1], False), "Get when a key expires, in seconds since the epoch", _READ),
    _spec("pexpiretime", 2, lambda args: ExpiryTime(args[1], True), "Get when a key expires, in milliseconds since the epoch", _READ),
    _spec("persist", 2, lambda args: Persist(args[1]), "Let a key live for ever", _WRITE),
)

COMMANDS: Final = (Expire, TimeToLive, ExpireAt, ExpiryTime, Persist)
