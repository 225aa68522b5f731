"""The core's picture of the log: a bounded window of entries, the terms of all of them, and the marks.

The durable log is the shell's. Here are the newest entries, as many as a bound allows; older ones are fetched when somebody needs them.
What is needed of *every* entry, its term, costs a few bytes for each run of equal terms, so `term_at` never needs the disk.

The marks, which `check` compares after every event in tests::

    begin <= applied <= committed <= last        applied <= persisted <= last

`persisted` says what would survive a crash now. It must not be fooled by an append that is overwritten while it is on its way to the
disk, so each batch of entries that is handed out is remembered with its last index, and cutting the log lowers all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from raftkv.errors import InvariantBroken
from raftkv.raft.types import Entry, EntryId, Index, SnapshotMeta, Stored, Term

ENTRY_BYTES = 64
"""What an entry costs beyond its payload, for the bounds."""


class _Write:
    """One Ready on its way to the disk: after it, entries up to `last` are durable. Numbers rise."""

    __slots__ = ("last", "number", "term", "tick")

    def __init__(self, number: int, last: Index, term: Term, tick: int) -> None:
        self.number = number
        self.last = last
        self.term = term
        self.tick = tick


class Log:
    """One node's log.

    Args:
        stored: what the disk holds.
        window_bytes, window_entries: how much of the durable log is kept in memory.
    """

    def __init__(self, stored: Stored, window_bytes: int, window_entries: int) -> None:
        self.begin = stored.snapshot
        self.last: Index = stored.last.index
        self.last_term: Term = stored.last.term
        self.committed: Index = stored.committed
        self.applied: Index = max(stored.applied, self.begin.index) if stored.fenced is not None else stored.applied
        self.persisted: Index = self.last
        self._handed: Index = self.last
        self._runs: list[EntryId] = list(stored.term_runs)
        self._run_starts: list[Index] = [run.index for run in self._runs]
        self._window: list[Entry] = list(stored.tail)
        self._window_first: Index = self.last - len(self._window) + 1
        self._window_size = sum(len(entry.payload) + ENTRY_BYTES for entry in self._window)
        self._window_bytes = window_bytes
        self._window_entries = window_entries
        self._writes: deque[_Write] = deque()

    # Questions.

    @property
    def window_first(self) -> Index:
        """The oldest entry in memory; `last + 1` when there is none."""
        return self._window_first

    @property
    def window_size(self) -> int:
        """Bytes of the entries in memory."""
        return self._window_size

    @property
    def unhanded(self) -> bool:
        """Whether there are entries that no Ready has carried."""
        return self._handed < self.last

    @property
    def oldest_write_tick(self) -> int | None:
        """When the oldest Ready that is still on its way to the disk was made; None when there is none."""
        return self._writes[0].tick if self._writes else None

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`; None before the log's begin and after its end."""
        if index == self.last:
            return self.last_term
        if index == self.begin.index:
            return self.begin.term
        if index < self.begin.index or index > self.last:
            return None
        return self._runs[bisect_right(self._run_starts, index) - 1].term

    def holds(self, index: Index, term: Term) -> bool:
        """Whether the entry (`index`, `term`) is in the log or is its begin."""
        return self.term_at(index) == term

    def is_up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Whether a log that ends with (`last_index`, `last_term`) is at least as up-to-date as this one (paper, section 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last)

    def newest_not_above(self, index: Index, term: Term) -> Index:
        """The largest index up to `index` whose term is not above `term`, where two logs may still agree; the begin at the least."""
        index = min(index, self.last)
        while index > self.begin.index:
            at = bisect_right(self._run_starts, index) - 1
            if self._runs[at].term <= term:
                return index
            index = self._run_starts[at] - 1
        return self.begin.index

    def entries(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...] | None:
        """Entries `first` to `last` as far as `max_bytes` allows, but at least one; None when `first` is no longer in memory."""
        if first < self._window_first:
            return None
        start = first - self._window_first
        stop = last - self._window_first + 1
        size = 0
        for at in range(start, stop):
            size += len(self._window[at].payload)
            if size > max_bytes and at > start:
                stop = at
                break
        return tuple(self._window[start:stop])

    # Changes.

    def append(self, entry: Entry) -> None:
        """Add one entry at the end."""
        if entry.index != self.last + 1 or entry.term < self.last_term:
            raise InvariantBroken(f"entry {entry.index} of term {entry.term} cannot follow {self.last} of term {self.last_term}")
        if entry.term != self.last_term or not self._runs:
            self._runs.append(EntryId(entry.index, entry.term))
            self._run_starts.append(entry.index)
        self._window.append(entry)
        self._window_size += len(entry.payload) + ENTRY_BYTES
        self.last = entry.index
        self.last_term = entry.term

    def truncate(self, last: Index) -> None:
        """Cut off everything after `last` (paper, section 5.3: a conflicting suffix)."""
        if last < self.committed:
            raise InvariantBroken(f"the log would be cut at {last}, below the committed entry {self.committed}")
        if last >= self.last:
            return
        term = self.term_at(last)
        if term is None:
            raise InvariantBroken(f"the log would be cut at {last}, before its begin {self.begin.index}")
        keep = max(0, last - self._window_first + 1)
        self._window_size -= sum(len(entry.payload) + ENTRY_BYTES for entry in self._window[keep:])
        del self._window[keep:]
        self._window_first = min(self._window_first, last + 1)
        while self._runs and self._runs[-1].index > last:
            self._runs.pop()
            self._run_starts.pop()
        self.last = last
        self.last_term = term
        self._handed = min(self._handed, last)
        self.persisted = min(self.persisted, last)
        for write in self._writes:
            write.last = min(write.last, last)

    def reset(self, begin: SnapshotMeta) -> None:
        """A snapshot takes the place of the whole log."""
        self.begin = begin
        self.last = self.committed = self.applied = self.persisted = self._handed = begin.index
        self.last_term = begin.term
        self._runs.clear()
        self._run_starts.clear()
        self._window.clear()
        self._window_first = begin.index + 1
        self._window_size = 0
        for write in self._writes:
            write.last = min(write.last, begin.index)

    def jump(self, state: SnapshotMeta) -> None:
        """A snapshot takes the place of the state; the log holds its entry and stays. Where no Ready has carried that entry, the disk
        does not have it: there the log begins after the snapshot, and so it does here."""
        self.committed = max(self.committed, state.index)
        self.persisted = max(self.persisted, state.index)  # the state itself would bring it back
        self.applied = state.index
        if self._handed < state.index:
            self._handed = state.index
            self.compact(state)

    def compact(self, begin: SnapshotMeta) -> None:
        """Forget everything up to `begin.index`, which has been applied."""
        if not self.begin.index <= begin.index <= self.applied:
            raise InvariantBroken(f"the log would begin at {begin.index}: it begins at {self.begin.index}, {self.applied} is applied")
        at = bisect_right(self._run_starts, begin.index + 1) - 1
        if begin.index == self.last:
            self._runs.clear()
            self._run_starts.clear()
        elif at >= 0:
            self._runs[: at + 1] = [EntryId(begin.index + 1, self._runs[at].term)]
            self._run_starts[: at + 1] = [begin.index + 1]
        self.begin = begin
        gone = begin.index - self._window_first + 1
        if gone > 0:
            self._evict(gone)

    # The way to the disk.

    def hand_out(self, number: int, term: Term, tick: int, must_persist: bool) -> tuple[Entry, ...]:
        """The entries for Ready `number`: all that no Ready has carried."""
        entries = tuple(self._window[self._handed + 1 - self._window_first :]) if self._handed < self.last else ()
        self._handed = self.last
        if entries or must_persist:
            self._writes.append(_Write(number, self.last, term, tick))
        return entries

    def written(self, number: int) -> Term | None:
        """Ready `number` is durable, and all before it. Returns the newest term that is durable by that, if any is."""
        term = None
        while self._writes and self._writes[0].number <= number:
            write = self._writes.popleft()
            if write.last > self.persisted:
                self.persisted = write.last
            term = write.term
        if self._window_size > self._window_bytes or len(self._window) > self._window_entries:
            self._bound_window()
        return term

    def _bound_window(self) -> None:
        """Let the oldest durable entries go when there are too many; some more than needed, so that it is not done each time."""
        size, count = self._window_size, 0
        while self._window_first + count <= self.persisted and (
            size > self._window_bytes * 3 // 4 or len(self._window) - count > self._window_entries * 3 // 4
        ):
            size -= len(self._window[count].payload) + ENTRY_BYTES
            count += 1
        self._evict(count)

    def _evict(self, count: int) -> None:
        count = min(count, len(self._window))
        self._window_size -= sum(len(entry.payload) + ENTRY_BYTES for entry in self._window[:count])
        del self._window[:count]
        self._window_first += count
        self._window_first = max(self._window_first, self.begin.index + 1)

    def check(self) -> None:
        """Compare the marks.

        Raises:
            InvariantBroken: they contradict each other.
        """
        marks = (
            f"begin {self.begin.index}, applied {self.applied}, committed {self.committed}, persisted {self.persisted}, "
            f"handed {self._handed}, last {self.last}, window from {self._window_first} with {len(self._window)}"
        )
        if not self.begin.index <= self.applied <= self.committed <= self.last:
            raise InvariantBroken(f"begin <= applied <= committed <= last does not hold: {marks}")
        if not self.applied <= self.persisted <= self.last:
            raise InvariantBroken(f"applied <= persisted <= last does not hold: {marks}")
        if self._window_first + len(self._window) != self.last + 1 or self._handed + 1 < self._window_first:
            raise InvariantBroken(f"the window does not reach the end of the log: {marks}")
