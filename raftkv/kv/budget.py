"""What the commands of one entry of the log may cost beyond their own size, so that a pipeline of short commands on long values neither
fills the memory of every node nor keeps them from everything else for long.

Counted are long values, and the steps of commands that visit elements of collections. A command that would go beyond is refused, and can be
sent again: in an entry with others like it once more, or alone, where nothing is refused. The bounds are the same on every node, for they
decide what a command does.
"""

from __future__ import annotations

from typing import Final

from raftkv.kv.replies import fail

LONG_BYTES: Final = 16 << 10
"""A value of more bytes is long."""

MAX_HELD_BYTES: Final = 256 << 20
"""What may wait to be written, counting of each key its last value."""

MAX_WRITTEN_BYTES: Final = 1 << 30
"""What may be written, counting every value: about a second of copying."""

MAX_ANSWERED_BYTES: Final = 64 << 20
"""What may be answered."""

MAX_READ_BYTES: Final = 1 << 30
"""What may be read: some tenths of a second, and about a second where each bit is looked at."""

MAX_STEPS: Final = 500_000
"""How many steps may be taken through collections: a second or so. One command is bounded well below it."""


class Budget:
    """The costs of one entry. What was counted stays so when its command fails in the end."""

    def __init__(self) -> None:
        self._held: dict[bytes, int] = {}
        self._held_bytes = 0
        self._written_bytes = 0
        self._answered_bytes = 0
        self._read_bytes = 0
        self._long: set[bytes] = set()
        self._steps = 0

    def write(self, key: bytes, size: int) -> None:
        """A command is about to write `size` bytes that it did not bring along as the value of `key`.

        Raises:
            CommandError: it may not.
        """
        if size <= LONG_BYTES:
            return
        held_bytes = self._held_bytes + size - self._held.get(key, 0)
        written_bytes = self._written_bytes + size
        if held_bytes > MAX_HELD_BYTES or written_bytes > MAX_WRITTEN_BYTES:
            fail("commands that came together would write too much of long values anew; send fewer of them together")
        self._held[key] = size
        self._held_bytes = held_bytes
        self._written_bytes = written_bytes

    def answer(self, size: int) -> None:
        """A write is about to answer with a value of `size` bytes.

        Raises:
            CommandError: it may not.
        """
        if size <= LONG_BYTES:
            return
        answered_bytes = self._answered_bytes + size
        if answered_bytes > MAX_ANSWERED_BYTES:
            fail("commands that came together would answer with too much of long values; send fewer of them together")
        self._answered_bytes = answered_bytes

    def look(self, key: bytes) -> None:
        """A command is about to read the value of `key`.

        Raises:
            CommandError: too much was read, and it is known that this value is long.
        """
        if self._read_bytes > MAX_READ_BYTES and key in self._long:
            fail("commands that came together would read too much of long values; send fewer of them together")

    def read(self, key: bytes, size: int) -> None:
        """A command has read the value of `key`, which has `size` bytes."""
        if size > LONG_BYTES:
            self._long.add(key)
            self._read_bytes += size

    def step(self, steps: int) -> None:
        """A write is about to visit elements that it does not name.

        Raises:
            CommandError: it may not.
        """
        self._steps += steps
        if self._steps > MAX_STEPS:
            fail("commands that came together would visit too many elements; send fewer of them together")
