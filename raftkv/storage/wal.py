"""The write-ahead log of one node: term and vote, the entries, and where the log begins, durable.

What always holds:

- When `write` returns, all it was given is durable; nobody may be told of it before. The hard state is durable before the entries
  of the same call, and what one call wrote before anything of the next call is begun.
- `write` makes one group with one write and one fsync at the end of the newest segment. Only a full segment, a change of hard state
  or an installed snapshot adds to that.
- After an error of the disk the log is poisoned: what was being written may or may not be durable, so everything later is refused
  and the node must stop. Nothing is tried again on the same file. The exception is space for a new segment, which is reserved
  before anything is written: without it `DiskFull` is raised, nothing has happened, and the same call may be made again later.
- `reserve` takes the space of the next segment ahead, so that a filling disk is noticed while there is room for what is under way.
- A node whose last group is unreadable is suspect until `clear_suspect`, across restarts.

How a crash is recovered from is in `raftkv.storage.recovery` and `replay`; the bytes are in `raftkv.codec.record` and
docs/formats.md. One thread writes (`write`, `compact`, `seal`, `reserve`, `clear_suspect`, `close`); any number may read. A read keeps
nobody waiting but who would remove or close what is being read; the questions that are properties wait for no disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from raftkv.codec.record import (
    ALIGNMENT,
    DATA_OFFSET,
    GROUP_BYTES,
    RECORD_BYTES,
    GroupHead,
    RecordType,
    SegmentHeader,
    encode_group,
    encode_seal,
    group_bytes,
)
from raftkv.errors import Corrupt, DiskFull, InvariantBroken, StorageError
from raftkv.raft.types import Configuration, Entry, EntryId, HardState, Index, SnapshotMeta, Term
from raftkv.storage.disk import DirectoryLock, Disk, File
from raftkv.storage.hard_state import HardStateSlot, encode_slot
from raftkv.storage.log_index import Stretch
from raftkv.storage.manifest import Manifest, SegmentEntry, store_manifest
from raftkv.storage.plan import LogWrite, Plan, plan_group
from raftkv.storage.recovery import WAY_BACK
from raftkv.storage.replay import LOG_DIRECTORY, MANIFEST_PATH, SPARE_PATH, OpenedLog, Position, WalSettings, open_log
from raftkv.storage.segment import Window, adopt_spare, create_segment, create_spare, discard_file, read_entry, segment_path

__all__ = ["LOCK_PATH", "LogWrite", "RecoveredLog", "Wal", "WalSettings"]

LOCK_PATH = "LOCK"
_READ_BYTES = 256 << 10


class RecoveredLog(Struct, frozen=True):
    """What was found when the log was opened, in the terms of `raft.types.Stored`.

    `created`: the directory belongs to no node yet; `snapshot` is then the empty one, and the caller puts the bootstrap
    configuration in. `suspect`: the largest index that may have been acknowledged and lost.
    """

    hard_state: HardState
    snapshot: SnapshotMeta
    last: EntryId
    term_runs: tuple[EntryId, ...]
    tail: tuple[Entry, ...]
    configurations: tuple[tuple[Index, Configuration], ...]
    committed: Index
    suspect: Index | None
    created: bool


class Wal:
    """An open log. Use `Wal.open`."""

    def __init__(self, disk: Disk, settings: WalSettings, opened: OpenedLog, lock: DirectoryLock) -> None:
        self._disk = disk
        self._settings = settings
        self._hard_state = opened.hard_state
        self._manifest = opened.manifest
        self._files = opened.files
        self._index = opened.index
        self._position = opened.position
        self._directory_lock = lock
        self._spare = False
        self._poison: str | None = None
        self._closed = False
        # For the index, the files and the manifest. Nobody holds it while he waits for the disk, so the event loop may ask as well.
        self._looking = threading.Condition(threading.Lock())
        self._readers: Counter[int] = Counter()
        """How many reads of each segment are under way: for so long it is neither closed nor removed."""
        self._created = opened.created
        self.passed = opened.passed
        """Which rot was passed over when the log was opened, because it does not count."""
        self.recovered = self._describe(opened.tail)

    @classmethod
    def open(cls, disk: Disk, settings: WalSettings) -> Wal:
        """Open the log in the data directory `disk`, or create one in a directory without an identity. Takes the directory's lock.

        Raises:
            DirectoryInUse: another process, or another `Disk`, has it open.
            Rotten: entries are damaged that other nodes may still have; `raftkv.storage.rotten.RottenLog` can repair it with them.
            Corrupt: something durable is lost or damaged; the message names file, offset and entry, and the way back.
            DiskFull: there is not even space for what recovery needs.
            StorageError: a newer program wrote it, or the disk failed.
        """
        lock = disk.lock(LOCK_PATH)
        try:
            return cls(disk, settings, open_log(disk, settings), lock)
        except BaseException:
            lock.release()
            raise

    @property
    def hard_state(self) -> HardState:
        """The durable term and vote."""
        return self._hard_state.current

    @property
    def first_index(self) -> Index:
        """The index of the first entry, or where it would be."""
        return self._index.first

    @property
    def last_index(self) -> Index:
        """The index of the last durable entry, or of the position where the log begins."""
        return self._index.last.index

    @property
    def begin(self) -> SnapshotMeta:
        """The position after which the log begins."""
        return self._index.begin

    @property
    def suspect(self) -> Index | None:
        """The largest index that may have been acknowledged and lost."""
        return self._manifest.suspect

    @property
    def size_bytes(self) -> int:
        """Bytes of log that segments hold; compaction makes it fall."""
        with self._looking:
            closed = sum([segment.end - DATA_OFFSET for segment in self._manifest.segments[:-1]])
            return closed + self._position.offset - DATA_OFFSET

    @property
    def is_sealed(self) -> bool:
        """Whether `seal` has nothing to do."""
        return self._position.sealed

    @property
    def has_reserve(self) -> bool:
        """Whether the space of the next segment is taken."""
        return self._spare

    def write(self, writes: Sequence[LogWrite]) -> None:
        """Make everything in `writes`, in order, durable; it is when this returns.

        Raises:
            DiskFull: there is no space for a new segment. Nothing was written; the same call may be made again.
            InvalidRequest: an entry is larger than the settings allow. Nothing was written.
            InvariantBroken: the entries do not follow the log, or overwrite what is committed. Nothing was written.
            StorageError: it may or may not be durable; the log is poisoned.
        """
        self._check_usable()
        plan = plan_group(self._index, self._position.commit, writes, self._settings.max_entry_bytes)
        if plan.hard_state is not None:
            encode_slot(HardStateSlot(0, plan.hard_state))  # too long a name is refused before anything is written
        if plan.records:
            self._make_room(group_bytes(plan.records))
        with self._poisoning("writing the log"):
            if plan.hard_state is not None and plan.hard_state != self._hard_state.current:
                self._hard_state.write(plan.hard_state)
            if plan.records:
                self._write_group(plan)

    def read(self, first: Index, last: Index, max_bytes: int) -> list[Entry]:
        """The entries from `first` to `last`, as many as fit in `max_bytes` of payload but at least one; none if the log does not
        hold `first`.

        Raises:
            Corrupt: an entry is not as it was written.
            StorageError: the disk failed, or the log is closed.
        """
        entries: list[Entry] = []
        taken = 0
        with self._held(first, last) as stretches:
            for stretch, file in stretches:
                window = Window(file, min(_READ_BYTES, max_bytes + RECORD_BYTES))
                for index, offset in enumerate(stretch.offsets, start=stretch.first):
                    entry = self._read_entry(window, stretch.segment, offset, index)
                    taken += len(entry.payload)
                    if entries and taken > max_bytes:
                        return entries
                    entries.append(entry)
        return entries

    def recovered_now(self) -> RecoveredLog:
        """What a recovery would find if it happened now: `recovered` as it was, brought up to date by all that was written
        since."""
        tail: list[Entry] = []
        taken = 0
        for index in range(self.last_index, max(self.begin.index, self.last_index - self._settings.tail_entries), -1):
            (entry,) = self.read(index, index, 1)
            taken += len(entry.payload)
            if taken > self._settings.tail_bytes:
                break
            tail.append(entry)
        return self._describe(tuple(reversed(tail)))

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`, also of the position where the log begins; None if the log does not hold it."""
        with self._looking:
            return self._index.term_at(index)

    def compact(self, meta: SnapshotMeta) -> None:
        """Let the log begin after `meta`, which stands for an entry in it. Whole segments before that are removed, after the new
        beginning is durable. Going back is ignored.

        Raises:
            DiskFull: there is no space for the manifest. Nothing has changed.
            InvariantBroken: the log does not hold that entry.
            StorageError: the log is poisoned.
        """
        self._check_usable()
        if meta.index <= self._index.begin.index:
            return
        if self._index.term_at(meta.index) != meta.term:
            raise InvariantBroken(
                f"the log cannot begin after entry {meta.index} (term {meta.term}): it holds the entries {self.first_index} to "
                f"{self.last_index}, and term {self._index.term_at(meta.index)} there"
            )
        with self._reserving("compacting the log"):
            dead = self._index.dead_segments(meta.index)
            kept = tuple(segment for segment in self._manifest.segments if segment.id not in dead)
            manifest = Manifest(self._manifest.group, meta, kept, self._manifest.suspect)
            try:
                self._store(manifest)
            except DiskFull:
                if not self._spare:
                    raise
                # What gives space back must not fail for want of it.
                self._spare = False
                self._disk.unlink(SPARE_PATH)
                self._store(manifest)
            with self._looking:
                self._index.compact(meta)
            self._remove_segments(dead)

    def seal(self) -> None:
        """Put on record that the last group is durable, so that damage to it is never taken for an interrupted write. Does nothing
        if that is on record already.

        Raises:
            StorageError: the log is poisoned.
        """
        self._check_usable()
        position = self._position
        segment = self._manifest.segments[-1]
        if position.sealed or position.offset + GROUP_BYTES > segment.capacity:
            return
        head = GroupHead(position.number, position.commit, position.checksum, self._index.last, seal=True)
        data = encode_seal(segment.id, position.offset, head)
        with self._poisoning("sealing the log"):
            file = self._files[segment.id]
            file.write_at(position.offset, data)
            file.sync()
        self._position = Position(position.offset + len(data), position.number, position.checksum, position.commit, True)

    def reserve(self) -> None:
        """Take the space of the next segment now. Does nothing if it is taken.

        Raises:
            DiskFull: there is no such space. What is written from now on may find none either, once the newest segment is full.
            StorageError: the log is poisoned.
        """
        self._check_usable()
        if not self._spare:
            with self._reserving("reserving space for the log"):
                create_spare(self._disk, SPARE_PATH, self._settings.segment_bytes)
            self._spare = True

    def clear_suspect(self) -> None:
        """The node knows again all it may have promised: make that durable.

        Raises:
            DiskFull: there is no space for the manifest. Nothing has changed.
            StorageError: the log is poisoned.
        """
        self._check_usable()
        if self._manifest.suspect is not None:
            with self._reserving("recording that the node is not suspect any more"):
                manifest = self._manifest
                self._store(Manifest(manifest.group, manifest.begin, manifest.segments, None))

    def close(self) -> None:
        """Seal the log if it can be and let go of the directory. Closing twice is harmless."""
        if self._closed:
            return
        try:
            if self._poison is None:
                self.seal()
        finally:
            with self._looking:
                self._closed = True
            self._close_segments(tuple(self._files))
            self._hard_state.close()
            self._directory_lock.release()

    def _describe(self, tail: tuple[Entry, ...]) -> RecoveredLog:
        return RecoveredLog(
            hard_state=self._hard_state.current,
            snapshot=self._index.begin,
            last=self._index.last,
            term_runs=self._index.term_runs,
            tail=tail,
            configurations=tuple(self._index.configurations),
            committed=self._position.commit,
            suspect=self._manifest.suspect,
            created=self._created,
        )

    def _write_group(self, plan: Plan) -> None:
        position = self._position
        segment = self._manifest.segments[-1].id
        head = GroupHead(position.number + 1, plan.commit, position.checksum, plan.last)
        group = encode_group(segment, position.offset, head, plan.records)
        file = self._files[segment]
        file.write_at(position.offset, group.data)
        file.sync()
        with self._looking:
            if plan.reset is not None:
                self._index.reset(plan.reset)
            for number, (record, offset) in enumerate(zip(plan.records, group.offsets, strict=True)):
                if record.type == RecordType.ENTRY:
                    self._index.append(record.index, record.term, offset)
                if number in plan.configurations:
                    self._index.configure(record.index, plan.configurations[number])
            self._position = Position(position.offset + len(group.data), head.number, group.checksum, plan.commit, False)

    def _make_room(self, size: int) -> None:
        """See that a group of `size` bytes, and a seal after it, fit in the newest segment; begin another if they do not."""
        segments = self._manifest.segments
        full = segments[-1]
        position = self._position
        if position.offset + size + GROUP_BYTES <= full.capacity:
            return
        needed = DATA_OFFSET + size + ALIGNMENT
        capacity = max(self._settings.segment_bytes, needed + -needed % DATA_OFFSET)
        header = SegmentHeader(self._manifest.group, full.id + 1, capacity, position.number + 1, position.checksum, self._index.last)
        with self._reserving("beginning a new segment of the log"):
            file = self._next_file(header)
            kept = segments[:-1]
            if position.offset > DATA_OFFSET:
                kept += (SegmentEntry(full.id, full.capacity, position.offset, position.number, position.checksum),)
            listed = (*kept, SegmentEntry(header.id, capacity))
            try:
                self._store(Manifest(self._manifest.group, self._index.begin, listed, self._manifest.suspect))
            except DiskFull:
                discard_file(self._disk, segment_path(LOG_DIRECTORY, header.id), file)
                raise
            with self._looking:
                self._files[header.id] = file
                self._index.add_segment(header.id)
                self._position = Position(DATA_OFFSET, position.number, position.checksum, position.commit, True)
            if position.offset > DATA_OFFSET:
                self._files[full.id].truncate(position.offset)  # gives space back; whether it is durable does not matter
            else:
                self._remove_segments([full.id])

    def _next_file(self, header: SegmentHeader) -> File:
        """The file of a new segment: the spare, if there is one and it is large enough."""
        if not self._spare or header.capacity != self._settings.segment_bytes:
            return create_segment(self._disk, LOG_DIRECTORY, header)
        self._spare = False
        return adopt_spare(self._disk, SPARE_PATH, LOG_DIRECTORY, header)

    def _remove_segments(self, ids: list[int]) -> None:
        """Remove the files of segments that are no longer listed."""
        with self._looking:
            self._index.drop_segments(ids)
        self._close_segments(ids)
        for id_ in ids:
            self._disk.unlink(segment_path(LOG_DIRECTORY, id_))
        if ids:
            self._disk.sync_directory(LOG_DIRECTORY)

    def _store(self, manifest: Manifest) -> None:
        store_manifest(self._disk, MANIFEST_PATH, manifest)
        with self._looking:
            self._manifest = manifest

    @contextlib.contextmanager
    def _held(self, first: Index, last: Index) -> Iterator[list[tuple[Stretch, File]]]:
        """Where the entries from `first` are at this moment, as far as the log holds them, and their files, which stay open meanwhile.
        What is appended or cut off later changes nothing of what is there."""
        with self._looking:
            if self._closed:
                raise StorageError("the log is closed")
            last = min(last, self._index.last.index)
            stretches = self._index.locate(first, last) if self._index.begin.index < first <= last else []
            found = [(stretch, self._files[stretch.segment]) for stretch in stretches]
            for stretch in stretches:
                self._readers[stretch.segment] += 1
        try:
            yield found
        finally:
            with self._looking:
                for stretch in stretches:
                    self._readers[stretch.segment] -= 1
                self._looking.notify_all()

    def _close_segments(self, ids: Collection[int]) -> None:
        """Close the files of segments that no new read finds, when those that are under way have ended."""
        with self._looking:
            self._looking.wait_for(lambda: not any(self._readers[id_] for id_ in ids))
            files = [self._files.pop(id_) for id_ in ids]
            for id_ in ids:
                del self._readers[id_]
        for file in files:
            file.close()

    def _read_entry(self, window: Window, segment: int, offset: int, index: Index) -> Entry:
        found = read_entry(window, segment, offset, index, self._settings.max_entry_bytes)
        if isinstance(found, Entry):
            return found
        raise Corrupt(
            f"{segment_path(LOG_DIRECTORY, segment)} at offset {offset}: {found}; "
            f"this is entry {index} (term {self.term_at(index)}). {WAY_BACK}"
        )

    def _check_usable(self) -> None:
        if self._poison is not None:
            raise StorageError(f"the log is not usable since an earlier error: {self._poison}")
        if self._closed:
            raise StorageError("the log is closed")

    @contextlib.contextmanager
    def _poisoning(self, action: str) -> Iterator[None]:
        """Any failure in here leaves it unknown what is durable."""
        try:
            yield
        except BaseException as error:
            self._poison = f"while {action}: {error}"
            if isinstance(error, DiskFull):
                raise StorageError(f"the disk was full while {action}, although the space was reserved: {error}") from error
            raise

    @contextlib.contextmanager
    def _reserving(self, action: str) -> Iterator[None]:
        """The same, but that a `DiskFull` means that nothing has happened: what needs space in here needs it for a new file."""
        try:
            yield
        except DiskFull:
            raise
        except BaseException as error:
            self._poison = f"while {action}: {error}"
            raise
