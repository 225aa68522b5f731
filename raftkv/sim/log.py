"""The thread that writes the log, on simulated time: `storage.writer.LogThread` with its promises, and a disk that takes its time.

Everything queued when the writer becomes free goes into one `Wal.write`, which happens at a later moment; that it is durable is told
later still, in order. Silence seals the log. The space of the next segment is taken ahead; when there is none, that is told, and tried
again. A full disk keeps the writes queued and is tried again. After any other error nothing is written and nothing is told but the
error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from raftkv.errors import DiskFull, StorageError
from raftkv.raft.types import Entry, Index, SnapshotMeta
from raftkv.storage.plan import LogWrite
from raftkv.storage.wal import Wal

IDLE_US = 50_000
RETRY_US = 200_000
MAX_GROUP = 32

Later = Callable[[int, Callable[[], None]], None]
_Order = LogWrite | Callable[[], None]


class SimLog:
    """The replica's `LogPort` in a simulation.

    Args:
        wal: the open log.
        later: lets something happen after so many microseconds, in the life of this process.
        latency_us: draws how long the disk takes for the next write.
        on_persisted, on_error, on_full: as in `LogThread`; called on the node's loop.
    """

    def __init__(
        self,
        wal: Wal,
        later: Later,
        latency_us: Callable[[], int],
        on_persisted: Callable[[int], None],
        on_error: Callable[[StorageError], None],
        on_full: Callable[[bool], None],
    ) -> None:
        self._wal = wal
        self._later = later
        self._latency_us = latency_us
        self._on_persisted = on_persisted
        self._on_error = on_error
        self._on_full = on_full
        self._queue: deque[_Order] = deque()
        self._busy = False
        self._full = False
        self._waited = False
        """The last round found no space."""
        self._retry_due = False
        self._failed: StorageError | None = None
        self._puts = 0
        later(0, self._reserve)

    @property
    def size_bytes(self) -> int:
        return self._wal.size_bytes

    def read(self, first: Index, last: Index, max_bytes: int) -> Sequence[Entry]:
        return self._wal.read(first, last, max_bytes)

    def submit(self, write: LogWrite) -> None:
        self._put(write)

    def compact(self, meta: SnapshotMeta) -> None:
        self._put(lambda: self._wal.compact(meta))

    def clear_suspect(self) -> None:
        self._put(self._wal.clear_suspect)

    def _put(self, order: _Order) -> None:
        if self._failed is not None:
            raise StorageError(f"the log is not written any more: {self._failed}")
        self._puts += 1
        self._queue.append(order)
        self._begin()

    def _begin(self) -> None:
        if self._busy or self._failed is not None:
            return
        if not self._queue:
            puts = self._puts
            self._later(IDLE_US, lambda: self._idle(puts))
            return
        self._busy = True
        writes: list[LogWrite] = []
        while self._queue and len(writes) < MAX_GROUP and isinstance(write := self._queue[0], LogWrite):
            writes.append(write)
            self._queue.popleft()
        orders: list[_Order] = [*writes] or [self._queue.popleft()]
        self._later(self._latency_us(), lambda: self._carry_out(orders))

    def _carry_out(self, orders: list[_Order]) -> None:
        """The disk does what it was given, all of it in one moment."""
        writes = [order for order in orders if isinstance(order, LogWrite)]
        try:
            if writes:
                self._wal.write(writes)
            for order in orders:
                if not isinstance(order, LogWrite):
                    order()
        except DiskFull:
            self._queue.extendleft(reversed(orders))
            self._waited = True
            self._tell_full(True)
            self._later(RETRY_US, self._retry)
            return
        except StorageError as error:
            self._fail(error)
            return
        self._busy = False
        if self._waited or not self._full:
            self._waited = False
            self._reserve()
        if writes:
            number = writes[-1].number
            self._later(0, lambda: self._on_persisted(number))
        self._begin()

    def _retry(self) -> None:
        self._busy = False
        self._begin()

    def _reserve(self) -> None:
        """See that the space of the next segment is taken, and tell when that changes."""
        if self._failed is not None:
            return
        try:
            self._wal.reserve()
        except DiskFull:
            self._tell_full(True)
            if not self._retry_due:
                self._retry_due = True
                self._later(RETRY_US, self._reserve_again)
        except StorageError as error:
            self._fail(error)
        else:
            self._tell_full(False)

    def _reserve_again(self) -> None:
        self._retry_due = False
        if not self._busy:
            self._reserve()
        elif self._full:
            self._retry_due = True
            self._later(RETRY_US, self._reserve_again)

    def _fail(self, error: StorageError) -> None:
        self._failed = error
        self._later(0, lambda: self._on_error(error))

    def _tell_full(self, full: bool) -> None:
        if full != self._full:
            self._full = full
            self._later(0, lambda: self._on_full(full))

    def _idle(self, puts: int) -> None:
        if not self._busy and self._failed is None and puts == self._puts and not self._wal.is_sealed:
            try:
                self._wal.seal()
            except StorageError as error:
                self._fail(error)
