"""Where every entry of the log is, and which term it has: the log without its payloads.

What always holds:

- The entries are `begin.index + 1` to `last.index`, without a hole, with terms that never fall.
- An entry costs eight bytes here (its offset); a term costs two numbers for each run of entries that have it.
- Appending at an index that exists cuts off the entries from there on, as in the log itself: the last record of an index counts.

While a log is read back, entries behind the recorded beginning are taken in too, as far as their segments are still there; an entry
may then be overwritten of which the first record is gone. `settle` at last hides what is behind the beginning and checks that the
rest is what the manifest promises. There is no I/O here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from msgspec import Struct

from raftkv.errors import InvariantBroken
from raftkv.raft.types import Configuration, EntryId, Index, SnapshotMeta, Term


class Hole(Exception):
    """Entries are missing. The message says which."""


class SegmentView:
    """The entries of one segment that still count: `first` and those after it, one offset each."""

    def __init__(self, id_: int) -> None:
        self.id = id_
        self.first: Index = 0
        self.offsets: array[int] = array("Q")

    @property
    def last(self) -> Index:
        """The last entry that counts, or 0."""
        return self.first + len(self.offsets) - 1 if self.offsets else 0


class Stretch(Struct, frozen=True):
    """Entries that follow one another in one segment: the index of the first, and the offset of each."""

    segment: int
    first: Index
    offsets: array[int]


class LogIndex:
    """The index of a log that begins after `begin`."""

    def __init__(self, begin: SnapshotMeta, last: EntryId) -> None:
        self.begin = begin
        self.last = last
        self.configurations: list[tuple[Index, Configuration]] = []
        self._views: list[SegmentView] = []
        self._run_first: list[Index] = []
        self._run_term: list[Term] = []
        self._unknown: set[Index] = set()
        """Entries whose terms are not known."""

    @property
    def first(self) -> Index:
        """The index of the first entry, or where it would be."""
        return self.begin.index + 1

    @property
    def term_runs(self) -> tuple[EntryId, ...]:
        """The first entry of each run of equal terms, oldest first."""
        return tuple(map(EntryId, self._run_first, self._run_term))

    def add_segment(self, id_: int) -> None:
        """From now on entries go to segment `id_`."""
        self._views.append(SegmentView(id_))

    def append(self, index: Index, term: Term, offset: int) -> None:
        """Entry `index` is at `offset` of the newest segment. Entries from `index` on that were there before no longer count.

        Raises:
            Hole: the entries before it are missing, or its term is below that of the entry before it.
        """
        if index != self.last.index + 1:
            self._cut(index)
        if self._run_term and term < self._run_term[-1]:
            raise Hole(f"entry {index} has term {term} and the one before it has term {self._run_term[-1]}")
        view = self._views[-1]
        if not view.offsets:
            view.first = index
        view.offsets.append(offset)
        if not self._run_term or self._run_term[-1] != term:
            self._run_first.append(index)
            self._run_term.append(term)
        self.last = EntryId(index, term)

    def append_unknown(self, index: Index, offset: int) -> None:
        """As `append`, for an entry whose term is not known: it is taken for that of the entry before it."""
        if index != self.last.index + 1:
            self._cut(index)
        self.append(index, self.last.term, offset)
        self._unknown.add(index)

    def reset(self, snapshot: SnapshotMeta) -> None:
        """Forget all entries; the log begins after `snapshot`."""
        for view in self._views:
            del view.offsets[:]
        self._run_first.clear()
        self._run_term.clear()
        self.configurations.clear()
        self._unknown.clear()
        self.begin = snapshot
        self.last = EntryId(snapshot.index, snapshot.term)

    def configure(self, index: Index, configuration: Configuration) -> None:
        """The entry at `index`, just appended, is a configuration."""
        self.configurations.append((index, configuration))

    def dead_segments(self, index: Index) -> list[int]:
        """The oldest segments that hold nothing that counts once the entries up to `index` are forgotten."""
        dead = 0
        while dead < len(self._views) - 1 and self._views[dead].last <= index:
            dead += 1
        return [view.id for view in self._views[:dead]]

    def compact(self, begin: SnapshotMeta) -> None:
        """Forget the entries up to `begin`, which is in the log."""
        index = begin.index
        keep = max(bisect_right(self._run_first, index + 1) - 1, 0) if index < self.last.index else len(self._run_first)
        del self._run_first[:keep]
        del self._run_term[:keep]
        if self._run_first:
            self._run_first[0] = max(self._run_first[0], index + 1)
        self.configurations = [(at, configuration) for at, configuration in self.configurations if at > index]
        self.begin = begin

    def move_tail(self, offset: int, moved: dict[int, int]) -> None:
        """The entries of the segment before the newest that are at `offset` or behind it are now in the newest, where `moved`
        says."""
        old, new = self._views[-2], self._views[-1]
        kept = bisect_left(old.offsets, offset)
        new.first = old.first + kept
        new.offsets = array("Q", [moved[at] for at in old.offsets[kept:]])
        del old.offsets[kept:]

    def drop_segments(self, ids: list[int]) -> None:
        """Forget segments that hold nothing that counts."""
        self._views = [view for view in self._views if view.id not in ids]

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`, also of the position where the log begins; None if the log does not hold it."""
        if index == self.begin.index:
            return self.begin.term
        if not self.begin.index < index <= self.last.index:
            return None
        return self._run_term[bisect_right(self._run_first, index) - 1]

    def locate(self, first: Index, last: Index) -> list[Stretch]:
        """Where the entries `first` to `last` are, which the log holds."""
        found: list[Stretch] = []
        following = first
        for view in self._views:
            if view.offsets and view.first <= following <= view.last and following <= last:
                offsets = view.offsets[following - view.first : last - view.first + 1]
                found.append(Stretch(view.id, following, offsets))
                following += len(offsets)
        if following != last + 1:
            raise InvariantBroken(f"entry {following} is in the log ({self.first} to {self.last.index}) and in none of its segments")
        return found

    def counts(self, index: Index, segment: int, offset: int) -> bool:
        """Whether the record of entry `index` at this place is part of the log: not forgotten, and not overwritten later."""
        if not self.begin.index < index <= self.last.index:
            return False
        (stretch,) = self.locate(index, index)
        return (stretch.segment, stretch.offsets[0]) == (segment, offset)

    def settle(self, begin: SnapshotMeta) -> None:
        """End of reading back: the log begins after `begin`, or after the last installed snapshot if that is newer.

        Raises:
            Hole: entries after the beginning are missing.
        """
        if self.begin.index > begin.index:
            begin = self.begin
        first = next((view.first for view in self._views if view.offsets), None)
        if self.last.index < begin.index:
            raise Hole(f"the log ends at entry {self.last.index}, and it was durable up to entry {begin.index} at least")
        if first is None:
            if self.last != EntryId(begin.index, begin.term):
                raise Hole(f"the entries {begin.index + 1} to {self.last.index} are missing")
        else:
            if first > begin.index + 1:
                raise Hole(f"the entries {begin.index + 1} to {first - 1} are missing")
            known = begin.index >= first and begin.index not in self._unknown
            if known and self._run_term[bisect_right(self._run_first, begin.index) - 1] != begin.term:
                raise Hole(f"entry {begin.index} does not have term {begin.term}, at which the log was compacted")
        self.compact(begin)

    def _cut(self, index: Index) -> None:
        """Entries from `index` on no longer count."""
        if not self.begin.index < index <= self.last.index:
            raise Hole(f"entry {index} follows entry {self.last.index}")
        self._unknown = {at for at in self._unknown if at < index}
        for view in self._views:
            if view.offsets and view.last >= index:
                del view.offsets[max(index - view.first, 0) :]
        while self._run_first and self._run_first[-1] >= index:
            self._run_first.pop()
            self._run_term.pop()
        while self.configurations and self.configurations[-1][0] >= index:
            self.configurations.pop()
        before = self.begin.term if index == self.begin.index + 1 else 0
        self.last = EntryId(index - 1, self._run_term[-1] if self._run_term else before)
