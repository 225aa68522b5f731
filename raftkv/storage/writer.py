"""The thread that writes the log: group commit, sealing when idle, and waiting for space.

What always holds:

- Everything queued when the thread becomes free goes into one `Wal.write`, in the order it was submitted, up to a bound of bytes.
  So one fsync serves all that arrived while the one before it ran, and under load groups grow by themselves.
- `on_persisted(number)` is called after the fsync that made the write durable has returned, in order. A number stands for all
  before it.
- After any error but `DiskFull` the thread ends: `on_error` is called once, and nothing that was not reported is ever reported.
- The space of the next segment is taken ahead. When there is none, `on_full(True)` is called while what is under way can still be
  written: the caller refuses new writes. It is tried again when told (`retry`) or at an interval, and `on_full(False)` is called
  when there is space. Should the newest segment fill up before, the writes stay queued, in order; a compaction, which gives space
  back, does not wait behind them.

Callbacks are called from the thread; the caller brings them to where they belong. They must not raise and must not wait for the
thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from raftkv.errors import Busy, DiskFull, InvalidSettings, StorageError
from raftkv.raft.types import SnapshotMeta
from raftkv.storage.plan import LogWrite
from raftkv.storage.wal import Wal

_ENTRY_OVERHEAD_BYTES = 64


class WriterSettings(Struct, frozen=True, kw_only=True):
    """Settings of the thread.

    Raises:
        InvalidSettings: a value is not positive, or the bounds contradict each other.
    """

    max_group_bytes: int = 8 << 20
    """At most this much is written with one fsync (a single larger write goes alone)."""
    max_backlog_bytes: int = 512 << 20
    """At most this much may wait; beyond it `submit` refuses."""
    idle_seconds: float = 0.05
    """Silence after which the log is sealed."""
    retry_seconds: float = 1.0
    """How often a full disk is tried again."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.max_group_bytes > self.max_backlog_bytes:
            raise InvalidSettings(
                f"max_group_bytes is {self.max_group_bytes}; it must be at most max_backlog_bytes ({self.max_backlog_bytes})"
            )


class _Order(Struct, frozen=True):
    """One thing to do: a write, or something between writes."""

    size: int
    write: LogWrite | None = None
    compact: SnapshotMeta | None = None
    clear_suspect: bool = False


class LogThread:
    """Writes `wal` in a thread of its own, which the constructor starts.

    Args:
        wal: the open log. From now on only this object writes to it or closes it; anybody may read from it.
        on_persisted: told the number of a `LogWrite` that is durable, with all before it.
        on_error: told of the error that ended the thread.
        on_full: told when the disk is full and when it no longer is.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        wal: Wal,
        on_persisted: Callable[[int], None],
        on_error: Callable[[StorageError], None],
        on_full: Callable[[bool], None] = lambda full: None,
        settings: WriterSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wal = wal
        self._on_persisted = on_persisted
        self._on_error = on_error
        self._on_full = on_full
        self._settings = settings or WriterSettings()
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[_Order] = deque()
        self._backlog_bytes = 0
        self._closing = False
        self._retry = False
        self._full = False
        self._waited = False  # the round before this one found no space
        self._retry_at = 0.0
        self._failed: StorageError | None = None
        self._busy_since: float | None = None
        self._last_write_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="raftkv-wal", daemon=True)
        self._thread.start()

    @property
    def backlog_bytes(self) -> int:
        """Roughly the bytes that wait to be written."""
        return self._backlog_bytes

    @property
    def is_full(self) -> bool:
        """Whether there is no space for the next segment, or not even for what is queued."""
        return self._full

    @property
    def last_fsync_seconds(self) -> float:
        """How long the last finished `Wal.write` took, which is its fsync and little else."""
        return self._last_write_seconds

    @property
    def fsync_age_seconds(self) -> float:
        """How long the running `Wal.write` has been going on; 0 when none is. A disk that hangs shows here."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    def submit(self, write: LogWrite) -> None:
        """Queue a write.

        Raises:
            Busy: too much waits already; nothing was queued.
            StorageError: the thread has ended; nothing was queued.
        """
        size = sum([len(entry.payload) + _ENTRY_OVERHEAD_BYTES for entry in write.entries]) + _ENTRY_OVERHEAD_BYTES
        if self._backlog_bytes and self._backlog_bytes + size > self._settings.max_backlog_bytes:
            raise Busy(f"{self._backlog_bytes} bytes wait to be written to the log already")
        self._put(_Order(size, write=write))

    def compact(self, meta: SnapshotMeta) -> None:
        """Let the log begin after `meta`, after all writes queued before. See `Wal.compact`."""
        self._put(_Order(_ENTRY_OVERHEAD_BYTES, compact=meta))

    def clear_suspect(self) -> None:
        """Record that the node is not suspect any more. See `Wal.clear_suspect`."""
        self._put(_Order(_ENTRY_OVERHEAD_BYTES, clear_suspect=True))

    def retry(self) -> None:
        """There may be disk space again: try now."""
        with self._changed:
            self._retry = True
            self._changed.notify()

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Write what is queued (not if the disk is full), seal and close the log, and wait for the thread to end. Returns whether
        it has ended; a disk that hangs may keep it longer than `timeout_seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _put(self, order: _Order) -> None:
        with self._changed:
            if self._failed is not None:
                raise StorageError(f"the log is not written any more: {self._failed}") from self._failed
            if self._closing:
                raise StorageError("the log is being closed")
            self._queue.append(order)
            self._backlog_bytes += order.size
            self._changed.notify()

    def _run(self) -> None:
        try:
            self._reserve(due=True)
            while self._step():
                pass
        except StorageError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(StorageError(f"the thread that writes the log failed: {error!r}"))
            raise
        finally:
            self._close_wal()

    def _step(self) -> bool:
        """Do one round of work; false when the thread is to end."""
        orders = self._take()
        if orders is None:
            return False
        try:
            if orders:
                self._carry_out(orders)
            else:
                self._wal.seal()
        except DiskFull:
            self._tell_full(True)
            self._waited = True
            return self._wait_for_space(orders)
        self._reserve(due=self._waited or not orders)
        self._waited = False
        return True

    def _take(self) -> list[_Order] | None:
        """The orders to carry out next; none when it is time for what is done in idle moments; None when the thread is to end."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                timeout = self._idle_timeout()
                if not self._changed.wait_for(lambda: self._queue or self._closing or self._retry, timeout) or self._retry:
                    self._retry = False
                    return []
            orders: list[_Order] = []
            taken = 0
            while self._queue:
                order = self._queue[0]
                if orders and (order.write is None or orders[0].write is None or taken + order.size > self._settings.max_group_bytes):
                    break
                orders.append(self._queue.popleft())
                taken += order.size
            return orders

    def _idle_timeout(self) -> float | None:
        """How long to wait for orders before there is something to do without any."""
        timeouts = [] if self._wal.is_sealed else [self._settings.idle_seconds]
        if self._full:
            timeouts.append(self._settings.retry_seconds)
        return min(timeouts, default=None)

    def _carry_out(self, orders: list[_Order]) -> None:
        first = orders[0]
        writes = [order.write for order in orders if order.write is not None]
        self._busy_since = self._clock()
        try:
            if first.compact is not None:
                self._wal.compact(first.compact)
            elif first.clear_suspect:
                self._wal.clear_suspect()
            else:
                self._wal.write(writes)
                self._last_write_seconds = self._clock() - self._busy_since
        finally:
            self._busy_since = None
        with self._changed:
            self._backlog_bytes -= sum([order.size for order in orders])
        if writes:
            self._on_persisted(writes[-1].number)

    def _reserve(self, *, due: bool) -> None:
        """See that the space of the next segment is taken, and tell when that changes. While there was none it is tried again only
        when that is `due`, or the interval is over."""
        if self._full and not due and self._clock() < self._retry_at:
            return
        try:
            self._wal.reserve()
        except DiskFull:
            self._retry_at = self._clock() + self._settings.retry_seconds
            self._tell_full(True)
        else:
            self._tell_full(False)

    def _tell_full(self, full: bool) -> None:
        if full != self._full:
            self._full = full
            self._on_full(full)

    def _wait_for_space(self, orders: list[_Order]) -> bool:
        """Put the orders back and wait until there is reason to try again; false when the thread is to end."""
        with self._changed:
            self._queue.extendleft(reversed(orders))
            waits_for_a_write = orders[0].write is not None
            self._changed.wait_for(
                lambda: self._retry or self._closing or (waits_for_a_write and self._possible_compaction()), self._settings.retry_seconds
            )
            self._retry = False
            early = self._possible_compaction()
            if early is not None and waits_for_a_write:
                self._queue.remove(early)
                self._queue.appendleft(early)
            return not self._closing

    def _possible_compaction(self) -> _Order | None:
        """A queued compaction that does not depend on the writes before it, because the log holds what it asks for."""
        for order in self._queue:
            meta = order.compact
            if meta is not None and (meta.index <= self._wal.begin.index or self._wal.term_at(meta.index) == meta.term):
                return order
        return None

    def _fail(self, error: StorageError) -> None:
        with self._changed:
            self._failed = error
        self._on_error(error)

    def _close_wal(self) -> None:
        try:
            self._wal.close()
        except StorageError as error:
            if self._failed is None:
                self._fail(error)
