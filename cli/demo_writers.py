"""Clients that write while nodes die, and remember exactly what was acknowledged to them.

Each writer is a thread with one connection. It writes a key of its own at a time, and tries the same one again, at the next node,
until it is acknowledged; only then does the key count. Writing the same value twice is harmless, so trying again is right whatever
became of the first try.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType

from raftkv_cli.resp import Connection, ErrorReply, Unreachable
from raftkv_cli.waiting import wait_until

PATIENCE_SECONDS = 20.0
"""How long a writer tries one key before it gives up, which fails the demonstration."""


class Writer:
    """One client. What `acknowledged` holds must be found in the cluster for ever after."""

    def __init__(self, number: int, addresses: list[str]) -> None:
        self.number = number
        self.acknowledged: dict[str, str] = {}
        self.times: list[float] = []
        self.retries = 0
        self.failure: str | None = None
        self.at_rest = False
        self._addresses = addresses
        self._next_address = number
        self._connection: Connection | None = None

    def write_one(self) -> None:
        """Write the next key until it is acknowledged, or set `failure`."""
        sequence, reason = len(self.acknowledged), "none"
        key, value = f"demo:{self.number}:{sequence}", f"value {sequence} of writer {self.number}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = self._connected().call("SET", key, value)
            except (Unreachable, ErrorReply) as error:
                reason = str(error)
                self.retries += 1
                self.close()
                time.sleep(0.01)
                continue
            if answer == b"OK":
                self.acknowledged[key] = value
                self.times.append(time.monotonic())
            else:
                self.failure = f"SET was answered with {answer!r}"
            return
        self.failure = f"a write was not acknowledged within {PATIENCE_SECONDS:g} s; the last answer: {reason}"

    def _connected(self) -> Connection:
        if self._connection is None:
            address = self._addresses[self._next_address % len(self._addresses)]
            self._next_address += 1
            self._connection = Connection(address, timeout_s=PATIENCE_SECONDS)
        return self._connection

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Writers:
    """Several writers at once; a context manager that ends their threads.

    Args:
        addresses: client addresses of the nodes; the writers are spread over them.
        count: how many.
    """

    def __init__(self, addresses: list[str], count: int) -> None:
        self.writers = [Writer(number, addresses) for number in range(count)]
        self._may_write = threading.Event()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(writer,), daemon=True) for writer in self.writers]

    def __enter__(self) -> Writers:
        self._may_write.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._may_write.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _run(self, writer: Writer) -> None:
        while not self._end.is_set() and writer.failure is None:
            writer.at_rest = not self._may_write.is_set()
            if self._may_write.wait(1.0) and not self._end.is_set():
                writer.at_rest = False
                writer.write_one()
        writer.at_rest = True
        writer.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No write is in flight inside."""
        self._may_write.clear()
        wait_until("the writers to pause", lambda: all(writer.at_rest for writer in self.writers), PATIENCE_SECONDS * 2)
        yield
        self._may_write.set()

    def acknowledged(self) -> dict[str, str]:
        """Every key that was acknowledged, with its value."""
        return {key: value for writer in self.writers for key, value in writer.acknowledged.copy().items()}

    def count(self) -> int:
        """How many writes have been acknowledged."""
        return sum(len(writer.times) for writer in self.writers)

    def failures(self) -> list[str]:
        """Why writers gave up; empty when none did."""
        return [f"writer {writer.number}: {writer.failure}" for writer in self.writers if writer.failure is not None]

    def longest_gap_ms(self, since: float) -> float:
        """The longest time without any acknowledged write, in ms, from the last one before `since` (time.monotonic) on."""
        times = sorted(moment for writer in self.writers for moment in writer.times.copy())
        before = [moment for moment in times if moment <= since][-1:]
        after = [moment for moment in times if moment > since]
        window = before + after
        return max((later - earlier) * 1000 for earlier, later in pairwise(window))
