"""What a write asks of the log, checked against the log before anything is written.

What is refused here would otherwise be found when the log is read back, as a log that cannot be opened. So a bug above the log
stops the node while its disk is still sound. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from raftkv.codec.record import Record, entry_record, record_configuration, reset_record
from raftkv.errors import InvalidRequest, InvariantBroken
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, HardState, Index, SnapshotMeta, Term
from raftkv.storage.log_index import LogIndex


class LogWrite(Struct, frozen=True):
    """What one Ready asks to be made durable. `number` is the Ready's and means nothing to the log.

    `snapshot` is one that was installed. If the log holds its entry nothing is cut; else the log becomes empty and begins after it.
    `entries` have consecutive indices; from the first of them on, what the log held is overwritten. `commit` is the commit index
    known.
    """

    number: int
    hard_state: HardState | None = None
    snapshot: SnapshotMeta | None = None
    entries: tuple[Entry, ...] = ()
    commit: Index = 0


class Plan(Struct, frozen=True):
    """What one group will hold, and the log after it. `configurations` are those in `records`, by position there."""

    hard_state: HardState | None
    reset: SnapshotMeta | None
    records: list[Record]
    configurations: dict[int, Configuration]
    last: EntryId
    commit: Index


def plan_group(index: LogIndex, commit: Index, writes: Sequence[LogWrite], max_entry_bytes: int) -> Plan:
    """One group for all of `writes`. `commit` is the largest commit index known to the log.

    A snapshot that the log does not hold makes void what was planned before it, so its record is always the first.

    Raises:
        InvalidRequest: an entry is larger than `max_entry_bytes`.
        InvariantBroken: the entries do not follow the log, their terms fall, or they overwrite what is committed.
    """
    planner = _Planner(index, commit, max_entry_bytes)
    for write in writes:
        if write.snapshot is not None:
            planner.install(write.snapshot)
        if write.entries:
            planner.append(write.entries)
        planner.commit = max(planner.commit, write.commit)
    hard_state = next((write.hard_state for write in reversed(writes) if write.hard_state is not None), None)
    return Plan(hard_state, planner.reset, planner.records, planner.configurations, planner.last, min(planner.commit, planner.last.index))


class _Planner:
    """The log as it will be, as far as the checks need it."""

    def __init__(self, index: LogIndex, commit: Index, max_entry_bytes: int) -> None:
        self._index = index
        self._max_entry_bytes = max_entry_bytes
        self._begin = index.begin.index
        self._terms: dict[Index, Term] = {}  # of what is planned; entries from the smallest of these on are no longer the log's
        self.commit = commit
        self.last = index.last
        self.reset: SnapshotMeta | None = None
        self.records: list[Record] = []
        self.configurations: dict[int, Configuration] = {}

    def install(self, snapshot: SnapshotMeta) -> None:
        if snapshot.index <= self._begin or self._term_at(snapshot.index) == snapshot.term:
            return
        if snapshot.index <= min(self.commit, self.last.index):
            raise InvariantBroken(
                f"snapshot {snapshot.index} (term {snapshot.term}) contradicts the log, which holds term "
                f"{self._term_at(snapshot.index)} there and knows {self.commit} to be committed"
            )
        self.reset = snapshot
        self.last = EntryId(snapshot.index, snapshot.term)
        self.commit = max(self.commit, snapshot.index)
        self._begin = snapshot.index
        self._terms = {snapshot.index: snapshot.term}
        self.records = [reset_record(snapshot)]
        self.configurations = {}

    def append(self, entries: tuple[Entry, ...]) -> None:
        first = entries[0].index
        if not min(self.commit, self.last.index) < first <= self.last.index + 1:
            raise InvariantBroken(
                f"entry {first} (term {entries[0].term}) does not follow the log, which ends at {self.last.index} and knows "
                f"{self.commit} to be committed"
            )
        term = self._term_at(first - 1)
        if term is None:
            raise InvariantBroken(f"entry {first} comes before the log, which begins at {self._begin + 1}")
        for index, entry in enumerate(entries, first):
            if entry.index != index or entry.term < term:
                raise InvariantBroken(f"entry {entry.index} (term {entry.term}) follows entry {index - 1} (term {term})")
            if len(entry.payload) > self._max_entry_bytes:
                raise InvalidRequest(
                    f"the payload of entry {index} has {len(entry.payload)} bytes; the log takes at most {self._max_entry_bytes}"
                )
            term = self._terms[index] = entry.term
            if entry.kind is EntryKind.CONFIGURATION:
                self.configurations[len(self.records)] = _configuration(entry)
            self.records.append(entry_record(entry))
        self.last = entries[-1].id

    def _term_at(self, index: Index) -> Term | None:
        if index > self.last.index:
            return None
        term = self._terms.get(index)
        return self._index.term_at(index) if term is None and self.reset is None else term


def _configuration(entry: Entry) -> Configuration:
    try:
        return record_configuration(entry_record(entry))
    except ValueError as error:
        raise InvariantBroken(f"entry {entry.index} is a configuration and cannot be decoded: {error}") from error
