"""Commands on parts of strings: APPEND, STRLEN, GETRANGE, SUBSTR, SETRANGE.

A string is one row, which APPEND and SETRANGE write anew, so none of them makes it longer than `MAX_STRING_BYTES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, integer
from raftkv.kv.command import Command, Read, Write, machine_spec
from raftkv.kv.keyspace import Changes, Keyspace, string_of
from raftkv.kv.replies import Reply, fail
from raftkv.kv.rows import STRING

MAX_STRING_BYTES: Final = 8 << 20
"""No command makes a string longer than this out of one that is there."""

_REDIS_MAX_BYTES: Final = 512 << 20


class Append(Write, frozen=True, array_like=True, gc=False, tag=30):
    """APPEND: the new length."""

    key: bytes
    data: bytes

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        if before is None:
            changes.put_string(self.key, self.data)
            return len(self.data)
        old = string_of(before)
        check_length(len(old) + len(self.data), old)
        changes.put_anew(self.key, STRING, old + self.data, before.expiry_ms, before)
        return len(old) + len(self.data)


class Length(Read, frozen=True, array_like=True, gc=False, tag=31):
    """STRLEN."""

    key: bytes

    def read(self, keys: Keyspace) -> Reply:
        return len(keys.string(self.key) or b"")


class GetRange(Read, frozen=True, array_like=True, gc=False, tag=32):
    """GETRANGE, SUBSTR: from `first` to `last`, inclusive; negative ones count from the end."""

    key: bytes
    first: int
    last: int

    def read(self, keys: Keyspace) -> Reply:
        data = keys.string(self.key) or b""
        first, last = self.first, self.last
        if last < first < 0:
            return b""
        if first < 0:
            first = max(first + len(data), 0)
        if last < 0:
            last = max(last + len(data), 0)
        return data[first : last + 1]


class SetRange(Write, frozen=True, array_like=True, gc=False, tag=33):
    """SETRANGE: the new length. What lies between the end and `offset` is filled with zeros."""

    key: bytes
    offset: Annotated[int, Meta(ge=0, le=INT64_MAX)]
    data: bytes

    def apply(self, changes: Changes) -> Reply:
        before = changes.value(self.key)
        old = b"" if before is None else string_of(before)
        if not self.data:
            return len(old)
        end = self.offset + len(self.data)
        check_length(end, old)
        data = old[: self.offset].ljust(self.offset, b"\0") + self.data + old[end:]
        changes.put_anew(self.key, STRING, data, 0 if before is None else before.expiry_ms, before)
        return len(data)


def check_length(size: int, old: bytes) -> None:
    """Check that the string `old` may become one of `size` bytes.

    Raises:
        CommandError: it may not; in Redis's words where it would be too long for Redis too.
    """
    if size <= max(len(old), MAX_STRING_BYTES):
        return
    if size > _REDIS_MAX_BYTES:
        fail("string exceeds maximum allowed size (proto-max-bulk-len)")
    fail(f"the string would have {size} bytes; no command makes one longer than {MAX_STRING_BYTES} bytes")


def _parse_setrange(args: Sequence[bytes]) -> Command:
    offset = integer(args[2])
    if offset < 0:
        fail("offset is out of range")
    return SetRange(args[1], offset, args[3])


def _parse_getrange(args: Sequence[bytes]) -> Command:
    return GetRange(args[1], integer(args[2]), integer(args[3]))


SPECS: Final = (
    machine_spec("append", 3, lambda args: Append(args[1], args[2]), "Append to the value of a key", "string", "write denyoom fast"),
    machine_spec("strlen", 2, lambda args: Length(args[1]), "Get the length of the value of a key", "string", "readonly fast"),
    machine_spec("getrange", 4, _parse_getrange, "Get a part of the value of a key", "string", "readonly"),
    machine_spec("substr", 4, _parse_getrange, "Get a part of the value of a key, as GETRANGE", "string", "readonly"),
    machine_spec("setrange", 4, _parse_setrange, "Overwrite a part of the value of a key", "string", "write denyoom"),
)

COMMANDS: Final = (Append, Length, GetRange, SetRange)
