"""Commands on keys of any type. What each does is Redis's: https://redis.io/docs/latest/commands/ has a page for each."""

from __future__ import annotations

from typing import Literal

from raftkv.client.command import Command, Key, Value, method, read, write
from raftkv.client.replies import as_done, as_flag, as_integer, as_page, as_string

Condition = Literal["NX", "XX", "GT", "LT"]
"""When an expiry is set: if there was none, if there was one, if the new one is later, if it is sooner."""


class KeyCommands:
    """DEL, EXISTS, EXPIRE and what else does not look into a value."""

    @method
    def delete(self, *keys: Key) -> Command[int, int]:
        """DEL: delete `keys`; how many of them there were."""
        return write(as_integer, "DEL", *keys)

    @method
    def exists(self, *keys: Key) -> Command[int, int]:
        """EXISTS: how many of `keys` there are. One that is named twice counts twice."""
        return read(as_integer, "EXISTS", *keys)

    @method
    def type(self, key: Key) -> Command[bytes, str]:
        """TYPE: what kind of value `key` has: ``string``, ``hash``, …, or ``none``."""
        return read(as_string, "TYPE", key)

    @method
    def rename(self, key: Key, new: Key) -> Command[bool, bool]:
        """RENAME: move the value of `key` to `new`, whatever was there; True.

        Raises:
            ReplyError: there is no such key.
        """
        return write(as_done, "RENAME", key, new)

    @method
    def expire(self, key: Key, seconds: int, condition: Condition | None = None) -> Command[bool, bool]:
        """EXPIRE: let `key` live for `seconds` from now. Zero or less deletes it.

        Returns:
            Whether it was done: not without the key, nor if `condition` does not hold.
        """
        return write(as_flag, "EXPIRE", key, seconds, *_given(condition))

    @method
    def pexpire(self, key: Key, milliseconds: int, condition: Condition | None = None) -> Command[bool, bool]:
        """PEXPIRE: as `expire`, in milliseconds."""
        return write(as_flag, "PEXPIRE", key, milliseconds, *_given(condition))

    @method
    def expire_at(self, key: Key, seconds: int, condition: Condition | None = None) -> Command[bool, bool]:
        """EXPIREAT: let `key` live until `seconds` since the epoch. Otherwise as `expire`."""
        return write(as_flag, "EXPIREAT", key, seconds, *_given(condition))

    @method
    def persist(self, key: Key) -> Command[bool, bool]:
        """PERSIST: let `key` live for ever; whether that changed anything."""
        return write(as_flag, "PERSIST", key)

    @method
    def ttl(self, key: Key) -> Command[int, int]:
        """TTL: how many seconds `key` has left; -1 when it stays, -2 when there is no such key."""
        return read(as_integer, "TTL", key)

    @method
    def pttl(self, key: Key) -> Command[int, int]:
        """PTTL: as `ttl`, in milliseconds."""
        return read(as_integer, "PTTL", key)

    @method
    def scan(
        self, cursor: int = 0, *, match: Key | None = None, count: int | None = None, type: str | None = None
    ) -> Command[tuple[int, list[bytes]], tuple[int, list[str]]]:
        """SCAN: some of the keys. `scan_iter` of a client goes through all of them.

        Args:
            cursor: where to go on: 0, or what the call before returned.
            match: only keys that fit this pattern (``user:*``).
            count: about how many keys to look at.
            type: only keys with this type of value.

        Returns:
            Where to go on, 0 when this was all; and the keys found.
        """
        options: list[Value] = []
        for name, value in (("MATCH", match), ("COUNT", count), ("TYPE", type)):
            if value is not None:
                options += [name, value]
        return read(as_page, "SCAN", cursor, *options)


def _given(condition: Condition | None) -> list[Value]:
    return [] if condition is None else [condition]
