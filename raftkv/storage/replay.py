"""Opening a log: gather what is on the disk, let `raftkv.storage.recovery` decide, do what it says.

What always holds:

- Until everything has been read and judged nothing is changed, except that an unfinished creation is begun again and a spare file
  is removed. A log that is refused is left as it was found.
- What is seen is not trusted to be durable: after the death of the program, or a failed fsync, names and pages may be there that
  the disk does not hold. Directories are synced; the hard state and the seal are written again, or the last group if it is not
  sealed.
- When `open_log` returns, everything in the log is durable, and no later crash can make the node forget that it is suspect.
- Every segment is read and every checksum compared, so rot is found at the start and not when a peer needs the entry. A log with
  rot that counts is not opened; `survey_log` tells what is known of it, for `raftkv.storage.rotten`.

A crash at any point of this leaves a directory that the next attempt opens the same way.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from raftkv.codec.record import (
    ALIGNMENT,
    DATA_OFFSET,
    GROUP_BYTES,
    Damage,
    GroupHead,
    Record,
    RecordType,
    SegmentHeader,
    encode_group,
    record_configuration,
    record_entry,
    record_snapshot,
)
from raftkv.errors import Corrupt, DiskFull, InvalidSettings, Rotten, StorageError
from raftkv.raft.types import Entry, EntryId, EntryKind, HardState, Index, SnapshotMeta, Term
from raftkv.storage.disk import Disk, File
from raftkv.storage.hard_state import (
    HARD_STATE_PATH,
    HardStateFile,
    HardStateSlot,
    create_hard_state,
    inspect_hard_state,
    open_hard_state,
)
from raftkv.storage.identity import IDENTITY_PATHS, identity_exists
from raftkv.storage.log_index import Hole, LogIndex
from raftkv.storage.manifest import Manifest, SegmentEntry, load_manifest, store_manifest
from raftkv.storage.recovery import (
    WAY_BACK,
    Copy,
    DirectoryAction,
    RotAction,
    RotFacts,
    SegmentAction,
    TailAction,
    TailFacts,
    UnlistedAction,
    UnlistedFacts,
    decide_directory,
    decide_rot,
    decide_segment,
    decide_tail,
    decide_unlisted,
)
from raftkv.storage.segment import (
    Rot,
    Scan,
    ScannedGroup,
    Tail,
    check_header,
    create_segment,
    discard_file,
    holds_group,
    is_blank,
    read_header,
    segment_id,
    segment_path,
)

LOG_DIRECTORY = "wal"
MANIFEST_PATH = "wal/manifest"
SPARE_PATH = "wal/spare"
_MIN_SEGMENT_BYTES = 2 * DATA_OFFSET


class WalSettings(Struct, frozen=True, kw_only=True):
    """Settings of the log.

    Raises:
        InvalidSettings: a value is out of range; the message names it, its value and the rule.
    """

    segment_bytes: int = 64 << 20
    """Length of a segment file. A group that does not fit in one gets a longer one."""
    max_entry_bytes: int = 64 << 20
    """The largest payload of an entry."""
    tail_bytes: int = 16 << 20
    """Payload bytes of the newest entries handed out by recovery."""
    tail_entries: int = 8192
    """The same bound as a count of entries."""
    group: int = 0
    """The Raft group whose log this is."""

    def __post_init__(self) -> None:
        if self.segment_bytes < _MIN_SEGMENT_BYTES or self.segment_bytes % DATA_OFFSET:
            raise InvalidSettings(
                f"segment_bytes is {self.segment_bytes}; it must be a multiple of {DATA_OFFSET}, at least {_MIN_SEGMENT_BYTES}"
            )
        if not 1 <= self.max_entry_bytes <= 1 << 29:
            raise InvalidSettings(f"max_entry_bytes is {self.max_entry_bytes}; it must be in 1 to {1 << 29}")
        for name in ("tail_bytes", "tail_entries"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.group < 1 << 32:
            raise InvalidSettings(f"group is {self.group}; it must fit in 32 bits")


class Position(Struct, frozen=True):
    """Where the next group goes in the newest segment, and what it follows. `sealed`: nothing unsealed stands before it."""

    offset: int
    number: int
    checksum: int
    commit: Index
    sealed: bool


class RottenGroup(Struct, frozen=True):
    """A group that is not sound, in the segment `segment`."""

    segment: int
    group: ScannedGroup
    rot: Rot


class Survey(Struct):
    """A log of which all has been read: what is listed, where everything is, and the groups in which something that counts is
    rotten. `last` is the largest index that it may ever have held. Its files are open."""

    manifest: Manifest
    files: dict[int, File]
    index: LogIndex
    rotten: list[RottenGroup]
    last: Index


class OpenedLog(Struct):
    """A log that is ready to be written: everything that `Wal` goes on from. `passed` says which rot was passed over, because it
    does not count."""

    hard_state: HardStateFile
    manifest: Manifest
    files: dict[int, File]
    index: LogIndex
    position: Position
    tail: tuple[Entry, ...]
    created: bool
    passed: tuple[str, ...] = ()


def open_log(disk: Disk, settings: WalSettings) -> OpenedLog:
    """Open the log of the data directory, or create one in a directory that belongs to no node yet.

    Raises:
        Rotten: entries are not as they were written, and can be had again from other nodes. Nothing was changed.
        Corrupt: something that was durable is not there or not as it was written. The message says what, where, and the way back.
        DiskFull: there is no space to create or go on with the log.
        StorageError: a newer program wrote it, or the disk failed.
    """
    action = decide_directory(
        identity=identity_exists(disk), manifest=_manifest_copy(disk), hard_state=_hard_state_copy(disk), used=_is_used(disk)
    )
    if action is DirectoryAction.CREATE:
        return _create(disk, settings)
    if action not in (DirectoryAction.OPEN, DirectoryAction.OPEN_NEW):
        _refuse_directory(disk, action)
    disk.sync_directory("")
    disk.sync_directory(LOG_DIRECTORY)
    if disk.exists(SPARE_PATH):
        disk.unlink(SPARE_PATH)  # whether it is blank on the disk too is not known any more
    files: dict[int, File] = {}
    try:
        return _Replay(disk, settings, files, created=action is DirectoryAction.OPEN_NEW).run()
    except BaseException:
        for file in files.values():
            file.close()
        raise


def survey_log(disk: Disk, settings: WalSettings) -> Survey:
    """Read all of a log that `open_log` called `Rotten`, and change nothing. Raises as that does."""
    files: dict[int, File] = {}
    try:
        return _Replay(disk, settings, files, created=False).survey()
    except BaseException:
        for file in files.values():
            file.close()
        raise


def _create(disk: Disk, settings: WalSettings) -> OpenedLog:
    """The order matters: see `recovery.decide_directory`."""
    disk.remove_tree(LOG_DIRECTORY)
    disk.mkdir(LOG_DIRECTORY)
    hard_state = create_hard_state(disk)
    origin = EntryId(0, 0)
    header = SegmentHeader(settings.group, 1, settings.segment_bytes, first_number=1, checksum=0, last=origin)
    file = create_segment(disk, LOG_DIRECTORY, header)
    manifest = Manifest(settings.group, SnapshotMeta(), (SegmentEntry(1, settings.segment_bytes),))
    store_manifest(disk, MANIFEST_PATH, manifest)
    index = LogIndex(SnapshotMeta(), origin)
    index.add_segment(1)
    return OpenedLog(hard_state, manifest, {1: file}, index, Position(DATA_OFFSET, 0, 0, 0, True), (), created=True)


def _manifest_copy(disk: Disk) -> Copy:
    if not disk.exists(MANIFEST_PATH):
        return Copy.MISSING
    try:
        load_manifest(disk, MANIFEST_PATH)
    except Corrupt:
        return Copy.BAD
    return Copy.GOOD


def _hard_state_copy(disk: Disk) -> Copy:
    found = inspect_hard_state(disk)
    return Copy.GOOD if isinstance(found, HardStateSlot) else found


def _is_used(disk: Disk) -> bool:
    """Whether anything was promised in this directory: a term, a vote, or anything in a segment."""
    slot = inspect_hard_state(disk)
    if isinstance(slot, HardStateSlot) and slot.state != HardState():
        return True
    for id_ in segment_ids(disk):
        file = disk.open(segment_path(LOG_DIRECTORY, id_))
        try:
            if any(file.read_at(DATA_OFFSET, GROUP_BYTES)):
                return True
        finally:
            file.close()
    return False


def segment_ids(disk: Disk) -> list[int]:
    """The ids of all segment files, listed or not."""
    names = disk.list(LOG_DIRECTORY) if disk.exists(LOG_DIRECTORY) else []
    return [id_ for id_ in map(segment_id, names) if id_ is not None]


def _refuse_directory(disk: Disk, action: DirectoryAction) -> None:
    match action:
        case DirectoryAction.IDENTITY_LOST:
            raise Corrupt(f"{' and '.join(IDENTITY_PATHS)} are missing, and the log of this directory has been used. {WAY_BACK}")
        case DirectoryAction.MANIFEST_LOST:
            raise Corrupt(f"{MANIFEST_PATH} is missing, and this directory belongs to a node: its log is lost. {WAY_BACK}")
        case DirectoryAction.HARD_STATE_LOST:
            raise Corrupt(f"{HARD_STATE_PATH} is missing: the node's term and vote are lost. {WAY_BACK}")
        case DirectoryAction.HARD_STATE_BAD:
            open_hard_state(disk)  # says which slot is damaged in which way
        case _:
            load_manifest(disk, MANIFEST_PATH)
    raise Corrupt(f"the data directory is not whole: {action.value}. {WAY_BACK}")


class _Read(Struct):
    """What reading has come to: the scan of the open segment and its end, what to do there, the last group of that segment, and the
    segment files that may go."""

    scan: Scan
    tail: Tail
    action: TailAction
    last_group: ScannedGroup | None
    unlisted: list[int]


class _Replay:
    """One attempt to open an existing log."""

    def __init__(self, disk: Disk, settings: WalSettings, files: dict[int, File], created: bool) -> None:
        self._disk = disk
        self._settings = settings
        self._files = files
        self._created = created
        self._manifest = load_manifest(disk, MANIFEST_PATH)
        self._index = LogIndex(SnapshotMeta(), EntryId(0, 0))
        self._window: deque[Entry] = deque()
        self._window_bytes = 0
        self._commit = 0
        self._rot: list[RottenGroup] = []

    def run(self) -> OpenedLog:
        """Open the log."""
        read = self._read()
        rotten = self._judge_rot()
        if rotten:
            raise self._refuse_rot(rotten[0])
        for file in self._files.values():
            file.sync()  # a process may have died while it wrote a rotten group again: its bytes are seen, and not yet on the disk
        hard_state = open_hard_state(self._disk)
        for id_ in read.unlisted:
            self._disk.unlink(segment_path(LOG_DIRECTORY, id_))
        if read.unlisted:
            self._disk.sync_directory(LOG_DIRECTORY)
        position = self._continue(read.scan, read.tail, read.action, read.last_group)
        damages = [(segment_path(LOG_DIRECTORY, bad.segment), bad.rot.damage) for bad in self._rot]
        passed = tuple([f"{path} at offset {damage.offset}: {damage.what}" for path, damage in damages])
        return OpenedLog(hard_state, self._manifest, self._files, self._index, position, tuple(self._window), self._created, passed)

    def survey(self) -> Survey:
        """Only read the log."""
        read = self._read()
        last = _doubtful(read.scan, read.tail) if read.action is TailAction.SUSPECT else self._index.last.index
        return Survey(self._manifest, self._files, self._index, self._judge_rot(), last)

    def _read(self) -> _Read:
        """Read everything, and judge all but rot that was passed. Changes nothing."""
        if self._manifest.group != self._settings.group:
            raise Corrupt(
                f"{MANIFEST_PATH} is of Raft group {self._manifest.group} and group {self._settings.group} was asked for: "
                "this is the data directory of another group"
            )
        scan: Scan | None = None
        last_group: ScannedGroup | None = None
        for entry in self._manifest.segments:
            scan = self._open_segment(entry, scan)
            last_group = None
            for group in scan.groups():
                self._apply(entry, group)
                last_group = group
            self._commit = max(self._commit, scan.commit)
            if entry.end:
                self._check_closed(entry, scan)
        if scan is None:
            raise Corrupt(f"{MANIFEST_PATH} lists no segment. {WAY_BACK}")
        tail = scan.tail()
        action = decide_tail(
            TailFacts(tail.next, tail.beyond, tail.missing_piece, scan.sealed, scan.last.index < self._manifest.begin.index)
        )
        if action is TailAction.CORRUPT:
            raise self._corrupt_tail(scan, tail)
        self._settle()
        return _Read(scan, tail, action, last_group, self._judge_unlisted(scan))

    def _judge_rot(self) -> list[RottenGroup]:
        """The groups that must be repaired."""
        rotten: list[RottenGroup] = []
        for bad in self._rot:
            counts = any(
                found.record is None and self._index.counts(found.index, bad.segment, found.offset) for found in bad.rot.records
            )
            if decide_rot(RotFacts(True, True, False, counts)) is RotAction.REPAIR:
                rotten.append(bad)
        return rotten

    def _refuse_rot(self, bad: RottenGroup) -> Rotten:
        return Rotten(_describe_rot(segment_path(LOG_DIRECTORY, bad.segment), bad.rot.damage, bad.group.before, bad.group.head))

    def _open_segment(self, entry: SegmentEntry, before: Scan | None) -> Scan:
        """Open a listed segment and check that it is what the manifest and the segment before it say."""
        path = segment_path(LOG_DIRECTORY, entry.id)
        exists = self._disk.exists(path)
        if exists:
            self._files[entry.id] = file = self._disk.open(path)
            header = read_header(file)
            number, checksum, last = (before.number + 1, before.checksum, before.last) if before else (0, 0, EntryId(0, 0))
            expected = SegmentHeader(self._manifest.group, entry.id, entry.capacity, number, checksum, last)
            found = check_header(header, expected, first=before is None)
            size = file.size()
            action = decide_segment(exists=True, long_enough=size >= (entry.end or entry.capacity), header=found)
            if action is SegmentAction.READ and header is not None:
                if before is None:
                    self._index.last = header.last
                self._index.add_segment(entry.id)
                return Scan(file, header, entry.end or entry.capacity, (entry.number, entry.checksum) if entry.end else None)
            if action is SegmentAction.OTHER_VERSION:
                version = header.version if header else 0
                raise StorageError(f"{path} has format version {version}: start the version of raftkv that wrote it, or a newer one")
        else:
            action, size = SegmentAction.MISSING, 0
        raise Corrupt(
            f"{path}: {action.value.removeprefix('stop: ')} (it has {size} bytes; {entry.end or entry.capacity} are expected); "
            f"it holds the entries after index {self._index.last.index}. {WAY_BACK}"
        )

    def _apply(self, entry: SegmentEntry, group: ScannedGroup) -> None:
        """Take the records of a group into the index."""
        for located in group.records:
            self._take(entry.id, located.offset, located.record.index, located.record.term, located.record)
        if group.rot is not None:
            self._rot.append(RottenGroup(entry.id, group, group.rot))
            for found in group.rot.records:
                self._take(entry.id, found.offset, found.index, found.term, found.record)

    def _take(self, segment: int, offset: int, index: Index, term: Term | None, record: Record | None) -> None:
        """Take one record into the index; without `record` all that is known is its place."""
        try:
            if record is not None and record.type == RecordType.RESET:
                self._index.reset(record_snapshot(record))
                self._window.clear()
                self._window_bytes = 0
                return
            if term is None:
                self._index.append_unknown(index, offset)
            else:
                self._index.append(index, term, offset)
            if record is not None:
                entry = record_entry(record)
                if entry.kind is EntryKind.CONFIGURATION:
                    self._index.configure(index, record_configuration(record))
                self._remember(entry)
        except (Hole, ValueError) as error:
            path = segment_path(LOG_DIRECTORY, segment)
            raise Corrupt(
                f"{path} at offset {offset}: entry {index} (term {term}) has sound checksums and cannot be: {error}. {WAY_BACK}"
            ) from error

    def _remember(self, entry: Entry) -> None:
        """Keep the newest entries, within the bounds."""
        window = self._window
        while window and window[-1].index >= entry.index:
            self._window_bytes -= len(window.pop().payload)
        window.append(entry)
        self._window_bytes += len(entry.payload)
        while window and (self._window_bytes > self._settings.tail_bytes or len(window) > self._settings.tail_entries):
            self._window_bytes -= len(window.popleft().payload)

    def _check_closed(self, entry: SegmentEntry, scan: Scan) -> None:
        if (scan.position, scan.number, scan.checksum) == (entry.end, entry.number, entry.checksum):
            return
        raise self._corrupt_tail(scan, scan.tail(), entry)

    def _corrupt_tail(self, scan: Scan, tail: Tail, entry: SegmentEntry | None = None) -> Corrupt:
        path = segment_path(LOG_DIRECTORY, entry.id if entry else self._manifest.segments[-1].id)
        damage = tail.damage or Damage(scan.position, "groups that were written are not there", after=scan.last)
        return Corrupt(_describe_rot(path, damage, scan.last, tail.head))

    def _settle(self) -> None:
        try:
            self._index.settle(self._manifest.begin)
        except Hole as error:
            raise Corrupt(f"{LOG_DIRECTORY}: {error}. {WAY_BACK}") from error
        while self._window and self._window[0].index <= self._index.begin.index:
            self._window_bytes -= len(self._window.popleft().payload)

    def _judge_unlisted(self, scan: Scan) -> list[int]:
        """The segment files that the manifest does not list and that may go."""
        listed = {entry.id for entry in self._manifest.segments}
        newest = self._manifest.segments[-1].id
        unlisted = [id_ for id_ in segment_ids(self._disk) if id_ not in listed]
        for id_ in unlisted:
            path = segment_path(LOG_DIRECTORY, id_)
            file = self._disk.open(path)
            try:
                header, size = read_header(file), file.size()
                facts = UnlistedFacts(
                    older=id_ < newest,
                    blank=is_blank(file, DATA_OFFSET, size),
                    copy=header is not None and header.copy,
                    beyond=header is None or holds_group(file, id_, DATA_OFFSET, size, header.first_number + 1),
                )
            finally:
                file.close()
            if decide_unlisted(facts) is UnlistedAction.CORRUPT:
                raise Corrupt(
                    f"{path} holds groups after number {scan.number} and {MANIFEST_PATH} does not list it: "
                    f"the manifest is older than the log, which a disk that keeps its promises does not allow. {WAY_BACK}"
                )
        return unlisted

    def _continue(self, scan: Scan, tail: Tail, action: TailAction, last_group: ScannedGroup | None) -> Position:
        """Make the tail one that new groups can follow."""
        if action is TailAction.APPEND:
            if scan.position > DATA_OFFSET:
                # The seal is seen and may not be durable; were the disk without it, the next group would follow zeroes.
                file = self._files[self._manifest.segments[-1].id]
                file.write_at(scan.position - GROUP_BYTES, file.read_at(scan.position - GROUP_BYTES, GROUP_BYTES))
                file.sync()
            return Position(scan.position, scan.number, scan.checksum, self._committed(), True)
        if action is TailAction.REWRITE and last_group is not None:
            before = (last_group.offset, last_group.head.number - 1, last_group.head.previous, last_group.before)
            try:
                return self._next_segment(*before, copy=last_group, suspect=self._manifest.suspect)
            except DiskFull:
                return self._rewrite_in_place(scan, last_group)
        suspect = self._manifest.suspect
        if action is TailAction.SUSPECT:
            suspect = max(suspect or 0, _doubtful(scan, tail))
        return self._next_segment(scan.position, scan.number, scan.checksum, scan.last, copy=None, suspect=suspect)

    def _next_segment(
        self, end: int, number: int, checksum: int, last: EntryId, *, copy: ScannedGroup | None, suspect: Index | None
    ) -> Position:
        """End the open segment at `end`, after group `number`, and go on in a new one, with a copy of the group after that if there
        is one. The manifest that says so is the last step and makes all of it true at once."""
        old = self._manifest.segments[-1]
        records = [located.record for located in copy.records] if copy else []
        needed = DATA_OFFSET + (copy.end - copy.offset if copy else 0) + ALIGNMENT
        needed += -needed % DATA_OFFSET
        capacity = max(self._settings.segment_bytes, needed)
        header = SegmentHeader(self._settings.group, old.id + 1, capacity, number + 1, checksum, last, copy is not None)
        try:
            file = create_segment(self._disk, LOG_DIRECTORY, header)
        except DiskFull:
            # A node with a full disk should start and serve reads: take what recovery needs and no more.
            header = SegmentHeader(self._settings.group, old.id + 1, needed, number + 1, checksum, last, copy is not None)
            file = create_segment(self._disk, LOG_DIRECTORY, header)
        position = Position(DATA_OFFSET, number, checksum, self._committed(), True)
        moved: list[int] = []
        if copy is not None:
            group = encode_group(header.id, DATA_OFFSET, copy.head, records)
            file.write_at(DATA_OFFSET, group.data)
            file.sync()
            moved = group.offsets
            position = Position(DATA_OFFSET + len(group.data), copy.head.number, group.checksum, self._committed(), False)
        kept = self._manifest.segments[:-1]
        if end > DATA_OFFSET:
            kept += (SegmentEntry(old.id, old.capacity, end, number, checksum),)
        manifest = Manifest(self._manifest.group, self._index.begin, (*kept, SegmentEntry(header.id, header.capacity)), suspect)
        try:
            store_manifest(self._disk, MANIFEST_PATH, manifest)
        except DiskFull:
            discard_file(self._disk, segment_path(LOG_DIRECTORY, header.id), file)
            raise
        self._manifest = manifest
        self._files[header.id] = file
        self._index.add_segment(header.id)
        if copy is not None:
            self._index.move_tail(copy.offset, dict(zip([located.offset for located in copy.records], moved, strict=True)))
        if end == DATA_OFFSET:
            self._index.drop_segments([old.id])
            self._files.pop(old.id).close()
            self._disk.unlink(segment_path(LOG_DIRECTORY, old.id))
            self._disk.sync_directory(LOG_DIRECTORY)
        elif copy is not None:
            self._files[old.id].truncate(end)  # gives the space back; whether it is durable does not matter
        return position

    def _rewrite_in_place(self, scan: Scan, last_group: ScannedGroup) -> Position:
        """Without space for a new segment: the same bytes at the same place make the kernel write them again, and the sync then
        tells whether the disk has them. Being the same bytes, they cannot harm what the disk may hold already."""
        file = self._files[self._manifest.segments[-1].id]
        file.write_at(last_group.offset, file.read_at(last_group.offset, last_group.end - last_group.offset))
        file.sync()
        return Position(scan.position, scan.number, scan.checksum, self._committed(), False)

    def _committed(self) -> Index:
        """What is known to be committed, of what is in the log."""
        return min(max(self._commit, self._index.begin.index), self._index.last.index)


def _doubtful(scan: Scan, tail: Tail) -> Index:
    """The largest index that a bad last group may have held."""
    return tail.head.last.index if tail.head else scan.last.index + 1


def _describe_rot(path: str, damage: Damage, before: EntryId, head: GroupHead | None) -> str:
    """What is wrong where, in a group after entry `before`."""
    if damage.entry is not None:
        which = f"this is entry {damage.entry.index} (term {damage.entry.term})"
    else:
        after = damage.after or before
        which = f"what is lost comes after entry {after.index} (term {after.term})"
    if head is not None:
        which += f", in a group that ends with entry {head.last.index} (term {head.last.term})"
    return (
        f"{path} at offset {damage.offset}: {damage.what}; {which}. "
        f"It was durable and has rotted, so the node may have promised it. {WAY_BACK}"
    )
