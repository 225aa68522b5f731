"""Commands on strings. What each does, and its errors, is Redis's: https://redis.io/docs/latest/commands/ has a page for each."""

from __future__ import annotations

from collections.abc import Mapping

from raftkv.client.command import Command, Key, Value, method, read, write
from raftkv.client.replies import as_done, as_float, as_integer, as_string_or_none, as_strings_or_none
from raftkv.errors import InvalidRequest


def _expiry(ex: int | None, px: int | None, exat: int | None, pxat: int | None, keep_ttl: bool) -> list[Value]:
    """The options of SET that say how long the value lives."""
    given: list[Value] = ["KEEPTTL"] if keep_ttl else []
    for name, amount in (("EX", ex), ("PX", px), ("EXAT", exat), ("PXAT", pxat)):
        if amount is not None:
            given += [name, amount]
    return given


class StringCommands:
    """GET, SET and what else treats a value as a string or as a number."""

    @method
    def get(self, key: Key) -> Command[bytes | None, str | None]:
        """GET: the value of `key`, or None.

        Raises:
            ReplyError: the value is no string (WRONGTYPE).
        """
        return read(as_string_or_none, "GET", key)

    @method
    def set(
        self,
        key: Key,
        value: Value,
        *,
        ex: int | None = None,
        px: int | None = None,
        exat: int | None = None,
        pxat: int | None = None,
        keep_ttl: bool = False,
        nx: bool = False,
        xx: bool = False,
    ) -> Command[bool, bool]:
        """SET: store `value`, whatever was there.

        Args:
            key: where.
            value: what.
            ex: seconds to live.
            px: milliseconds to live.
            exat: seconds since the epoch until which it lives.
            pxat: milliseconds since the epoch until which it lives.
            keep_ttl: let it live as long as the value that was there.
            nx: only if there is no value.
            xx: only if there is one.

        Returns:
            Whether it was stored, which only `nx` and `xx` can prevent.

        Raises:
            ReplyError: the options contradict each other, or a time is out of range.
        """
        condition = ["NX"] * nx + ["XX"] * xx
        return write(as_done, "SET", key, value, *condition, *_expiry(ex, px, exat, pxat, keep_ttl))

    @method
    def getset(self, key: Key, value: Value) -> Command[bytes | None, str | None]:
        """SET … GET: store `value`, which stays, and return the value before it, or None.

        Raises:
            ReplyError: the value before is no string (WRONGTYPE); nothing was stored.
        """
        return write(as_string_or_none, "SET", key, value, "GET")

    @method
    def getdel(self, key: Key) -> Command[bytes | None, str | None]:
        """GETDEL: delete `key` and return its value, or None.

        Raises:
            ReplyError: the value is no string (WRONGTYPE).
        """
        return write(as_string_or_none, "GETDEL", key)

    @method
    def mget(self, *keys: Key) -> Command[list[bytes | None], list[str | None]]:
        """MGET: the values of `keys`, in their order; None for what is not there, or is no string."""
        return read(as_strings_or_none, "MGET", *keys)

    @method
    def mset(self, values: Mapping[str, Value] | Mapping[bytes, Value]) -> Command[bool, bool]:
        """MSET: store all of `values`, at once.

        Args:
            values: what to store, by key; at least one.

        Returns:
            True.

        Raises:
            InvalidRequest: `values` is empty.
        """
        if not values:
            raise InvalidRequest("mset was given nothing to store")
        return write(as_done, "MSET", *(part for pair in values.items() for part in pair))

    @method
    def append(self, key: Key, value: Value) -> Command[int, int]:
        """APPEND: add `value` to the end of the string, which may be missing; its length in bytes is returned.

        Raises:
            ReplyError: the value is no string (WRONGTYPE), or would be too long.
        """
        return write(as_integer, "APPEND", key, value)

    @method
    def strlen(self, key: Key) -> Command[int, int]:
        """STRLEN: the length of the string in bytes; 0 when it is missing.

        Raises:
            ReplyError: the value is no string (WRONGTYPE).
        """
        return read(as_integer, "STRLEN", key)

    @method
    def incr(self, key: Key) -> Command[int, int]:
        """INCR: add 1 to the number in `key`, which counts from 0, and return it.

        Raises:
            ReplyError: the value is no integer of 64 bits, or would not be one.
        """
        return write(as_integer, "INCR", key)

    @method
    def incr_by(self, key: Key, amount: int) -> Command[int, int]:
        """INCRBY: add `amount` to the number in `key` and return it.

        Raises:
            ReplyError: the value is no integer of 64 bits, or would not be one.
        """
        return write(as_integer, "INCRBY", key, amount)

    @method
    def incr_by_float(self, key: Key, amount: float) -> Command[float, float]:
        """INCRBYFLOAT: add `amount` to the number in `key`, which may have a fraction, and return it.

        Raises:
            ReplyError: the value is no number, or would not be a finite one.
        """
        return write(as_float, "INCRBYFLOAT", key, amount)

    @method
    def decr(self, key: Key) -> Command[int, int]:
        """DECR: take 1 from the number in `key` and return it. Errors as `incr`."""
        return write(as_integer, "DECR", key)

    @method
    def decr_by(self, key: Key, amount: int) -> Command[int, int]:
        """DECRBY: take `amount` from the number in `key` and return it. Errors as `incr_by`."""
        return write(as_integer, "DECRBY", key, amount)
