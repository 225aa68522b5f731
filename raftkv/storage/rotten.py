"""A log with rotten entries that count: what is known of them, what is intact, and the ways to make it whole.

There are four, each durable in one step or harmless when it is interrupted:

- `mend`: the entries have been had from other nodes. The group is encoded again with them, and must then have the checksum that it
  had when it was written, which is known from elsewhere in the log; only then is it written, at its place. A crash in the middle
  leaves a group that is as rotten as before or less.
- `begin_after`: the state holds the rotten entries. The log begins after the state, as after a compaction.
- `begin_anew`: the state is newer than the log, or contradicts it. The log begins anew after the state, as one that is whole does.
- `end_before_rot`: a leader holds all that is committed, and cannot give the entries. The log ends before the first rotten group, and
  the node is suspect up to where the log ended.

What always holds: nothing else of the log is touched; what has become whole is taken for that only when the log is opened again
(`Wal.open`), which reads all of it. Nothing here decides which way is taken: see `raftkv.repair`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import google_crc32c
from msgspec import Struct

from raftkv.codec.record import DATA_OFFSET, Record, SegmentHeader, Surveyed, encode_group, entry_record
from raftkv.errors import DiskFull, InvariantBroken
from raftkv.raft.types import Configuration, Entry, EntryId, Index, SnapshotMeta, Term
from raftkv.storage.damage import give_up_aside
from raftkv.storage.disk import DirectoryLock, Disk
from raftkv.storage.hard_state import open_hard_state
from raftkv.storage.manifest import Manifest, SegmentEntry, store_manifest
from raftkv.storage.replay import LOG_DIRECTORY, MANIFEST_PATH, RottenGroup, Survey, WalSettings, segment_ids, survey_log
from raftkv.storage.segment import Window, create_segment, discard_file, read_entry, segment_path
from raftkv.storage.wal import LOCK_PATH

_READ_BYTES = 256 << 10


class RottenEntry(Struct, frozen=True):
    """An entry that is not as it was written.

    `anchor` is the last entry of its group, which is known soundly: a log that holds the anchor holds this entry (paper, section 5.3).
    `term` is None where it is not known. `file` and `offset` say where the entry is, or nearly is.
    """

    index: Index
    term: Term | None
    anchor: EntryId
    file: str
    offset: int


class _Group:
    """A group with rotten entries that count. `places` are its rotten records."""

    def __init__(self, bad: RottenGroup) -> None:
        self.bad = bad
        path = segment_path(LOG_DIRECTORY, bad.segment)
        last = bad.group.head.last
        self.places: dict[RottenEntry, Surveyed] = {}
        for found in bad.rot.records:
            if found.record is None:
                self.places[RottenEntry(found.index, found.term, last, path, found.offset)] = found

    def records(self, entries: Mapping[RottenEntry, Entry]) -> list[Record] | None:
        """The records of the group with `entries` in their places, or None if one is missing."""
        replaced = {found.offset: entries.get(rotten) for rotten, found in self.places.items()}
        records: list[Record] = []
        for found in self.bad.rot.records:
            entry = replaced.get(found.offset)
            if found.record is not None:
                records.append(found.record)
            elif entry is not None:
                records.append(entry_record(entry))
        return records if len(records) == len(self.bad.rot.records) else None


class RottenLog:
    """A log that `Wal.open` called `Rotten`. Use `RottenLog.open`. One thread at a time."""

    def __init__(self, disk: Disk, settings: WalSettings, survey: Survey, term: Term, lock: DirectoryLock) -> None:
        self._disk = disk
        self._settings = settings
        self._lock = lock
        self._take(survey)
        self.term = term
        """The durable term of the node."""

    @classmethod
    def open(cls, disk: Disk, settings: WalSettings) -> RottenLog:
        """Read the log again, and take the directory's lock. Raises as `Wal.open` does, but not `Rotten`.

        Both slots of the hard state are written again, as at every start: a repair may last long, and rot must not gather in it.
        """
        lock = disk.lock(LOCK_PATH)
        try:
            survey = survey_log(disk, settings)
            with contextlib.closing(open_hard_state(disk)) as hard_state:
                term = hard_state.current.term
            return cls(disk, settings, survey, term, lock)
        except BaseException:
            lock.release()
            raise

    @property
    def needed(self) -> tuple[RottenEntry, ...]:
        """The rotten entries of all groups that must be written again, in the log's order. Empty: the log is whole."""
        return self._needed

    @property
    def begin(self) -> SnapshotMeta:
        """The position after which the log begins."""
        return self._survey.index.begin

    @property
    def last_index(self) -> Index:
        """The index of the last entry."""
        return self._survey.index.last.index

    @property
    def configuration(self) -> Configuration:
        """The newest configuration that is intact; without members if there is none."""
        configurations = self._survey.index.configurations
        return configurations[-1][1] if configurations else self.begin.configuration

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`, also of the position where the log begins; None if the log does not hold it, or it is
        not known for certain."""
        return None if index in self._unknown else self._survey.index.term_at(index)

    def read(self, first: Index, last: Index, max_bytes: int) -> list[Entry]:
        """Those of the entries from `first` to `last` that are intact, as many as fit in `max_bytes` of payload but at least one."""
        entries: list[Entry] = []
        index_ = self._survey.index
        first, last = max(first, index_.first), min(last, index_.last.index)
        taken = 0
        for stretch in index_.locate(first, last) if first <= last else ():
            window = Window(self._survey.files[stretch.segment], _READ_BYTES)
            for index, offset in enumerate(stretch.offsets, start=stretch.first):
                if index in self._rotten:
                    continue
                found = read_entry(window, stretch.segment, offset, index, self._settings.max_entry_bytes)
                if isinstance(found, Entry):
                    taken += len(found.payload)
                    if entries and taken > max_bytes:
                        return entries
                    entries.append(found)
        return entries

    def accepts(self, rotten: RottenEntry, entry: Entry) -> bool:
        """Whether `entry` is what is known of `rotten`, as far as anything is. All of it is judged by `mend`."""
        if entry.index != rotten.index or rotten.term not in (None, entry.term):
            return False
        header = next((group.places[rotten].header for group in self._groups if rotten in group.places), None)
        if header is None:
            return True
        known = (header.kind, header.length, header.payload_crc)
        return known == (entry.kind, len(entry.payload), google_crc32c.value(entry.payload))

    def mend(self, entries: Mapping[RottenEntry, Entry]) -> list[RottenEntry]:
        """Write every group again of which all rotten entries are in `entries`, durably.

        Returns:
            Those of `entries` that are useless: with them a group would not be the one that was written, and it was not touched.

        Raises:
            StorageError: it may or may not be durable; open the log again, in another process.
        """
        useless: list[RottenEntry] = []
        mended = False
        for group in self._groups:
            records = group.records(entries)
            if records is None:
                continue
            if self._write(group.bad, records):
                mended = True
            else:
                useless += group.places
        if mended:
            self._read_again()
        return useless

    def _write(self, bad: RottenGroup, records: list[Record]) -> bool:
        """Write the group of `records` over `bad`, if that is what stood there."""
        group = bad.group
        encoded = encode_group(bad.segment, group.offset, group.head, records)
        if encoded.checksum != group.checksum or len(encoded.data) != group.end - group.offset:
            return False
        file = self._survey.files[bad.segment]
        file.write_at(group.offset, encoded.data)
        file.sync()
        return True

    def begin_after(self, meta: SnapshotMeta) -> None:
        """Let the log begin after `meta`, up to which the state holds it. Does nothing if it begins there or later already, or does not
        hold that entry.

        Raises:
            DiskFull: there is no space for the manifest. Nothing has changed.
            StorageError: whether it is durable is not known.
        """
        if meta.index <= self.begin.index or self.term_at(meta.index) != meta.term:
            return
        manifest = self._survey.manifest
        store_manifest(self._disk, MANIFEST_PATH, Manifest(manifest.group, meta, manifest.segments, manifest.suspect))
        self._read_again()

    def end_before_rot(self) -> None:
        """Give up everything from the first rotten group on, and be suspect up to where the log ended.

        Raises:
            DiskFull: there is no space for a new segment or the manifest. Nothing has changed.
            StorageError: whether it is durable is not known.
        """
        if not self._groups:
            raise InvariantBroken("the log is whole: nothing of it may be given up")
        manifest, bad = self._survey.manifest, self._groups[0].bad
        group = bad.group
        begin, last = self.begin, group.before
        kept = tuple(segment for segment in manifest.segments if segment.id < bad.segment)
        ended = next(segment for segment in manifest.segments if segment.id == bad.segment)
        if group.offset > DATA_OFFSET:
            kept += (SegmentEntry(ended.id, ended.capacity, group.offset, group.head.number - 1, group.head.previous),)
        if last.index <= begin.index or not kept:  # what the group wrote over may have gone with the segments before it
            kept, last = (), EntryId(begin.index, begin.term)
        self._go_on(kept, begin, last, max(manifest.suspect or 0, self.last_index, self._survey.last))

    def begin_anew(self, meta: SnapshotMeta) -> None:
        """Give up everything, and let the log begin after `meta`, where the state stands. What was in doubt before stays so.

        Raises:
            DiskFull: there is no space for a new segment or the manifest. Nothing has changed.
            StorageError: whether it is durable is not known.
        """
        if not self._groups:
            raise InvariantBroken("the log is whole: it is not begun anew here")
        suspect = self._survey.manifest.suspect
        if self._survey.last > self.last_index:
            suspect = max(suspect or 0, self._survey.last)
        self._go_on((), meta, EntryId(meta.index, meta.term), suspect)

    def _go_on(self, kept: tuple[SegmentEntry, ...], begin: SnapshotMeta, last: EntryId, suspect: Index | None) -> None:
        """Go on after entry `last` in a new segment behind those that are `kept`. The manifest that says so is the last step and makes
        all of it true at once."""
        manifest, first = self._survey.manifest, self._groups[0].bad.group
        header = SegmentHeader(
            manifest.group,
            max(segment_ids(self._disk)) + 1,
            self._settings.segment_bytes,
            first.head.number,
            first.head.previous,
            last,
        )
        file = create_segment(self._disk, LOG_DIRECTORY, header)
        listed = (*kept, SegmentEntry(header.id, header.capacity))
        try:
            store_manifest(self._disk, MANIFEST_PATH, Manifest(manifest.group, begin, listed, suspect))
        except DiskFull:
            discard_file(self._disk, segment_path(LOG_DIRECTORY, header.id), file)
            raise
        file.close()
        self._read_again()

    def give_up_damaged(self) -> bool:
        """Remove a damaged state that was set aside, for its space. Returns whether there was one.

        Raises:
            StorageError: not all of it could be removed.
        """
        return give_up_aside(self._disk)

    def close(self) -> None:
        """Let go of the directory. Closing twice is harmless."""
        for file in self._survey.files.values():
            file.close()
        self._lock.release()

    def _read_again(self) -> None:
        for file in self._survey.files.values():
            file.close()
        self._take(survey_log(self._disk, self._settings))

    def _take(self, survey: Survey) -> None:
        self._survey = survey
        self._groups = [_Group(bad) for bad in survey.rotten]
        self._needed = tuple(rotten for group in self._groups for rotten in group.places)
        counting = [
            rotten
            for group in self._groups
            for rotten, found in group.places.items()
            if survey.index.counts(found.index, group.bad.segment, found.offset)
        ]
        self._rotten = {rotten.index for rotten in counting}
        self._unknown = {rotten.index for rotten in counting if rotten.term is None}
