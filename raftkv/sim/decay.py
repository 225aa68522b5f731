"""Where the log on a simulated disk may rot."""

from __future__ import annotations

from raftkv.codec.record import RECORD_BYTES, RecordType
from raftkv.sim.disk import SimDisk
from raftkv.storage.manifest import load_manifest
from raftkv.storage.replay import LOG_DIRECTORY, MANIFEST_PATH
from raftkv.storage.segment import Scan, ScannedGroup, read_header, segment_path


def groups_of_log(disk: SimDisk) -> list[tuple[str, ScannedGroup, bool]]:
    """The sound groups of the log on `disk`: the file, the group, and whether something behind it tells that it was durable."""
    found: list[tuple[str, ScannedGroup, bool]] = []
    for listed in load_manifest(disk, MANIFEST_PATH).segments if disk.exists(MANIFEST_PATH) else ():
        path = segment_path(LOG_DIRECTORY, listed.id)
        file = disk.open(path)
        header = read_header(file)
        if header is None:
            continue
        recorded = (listed.number, listed.checksum) if listed.end else None
        scan = Scan(file, header, listed.end or listed.capacity, recorded)
        groups = [group for group in scan.groups() if group.rot is None]
        found += [(path, group, group is not groups[-1] or scan.sealed or recorded is not None) for group in groups]
    return found


def stretches_of_records(disk: SimDisk) -> list[tuple[str, int, int]]:
    """Where a log may rot so that it can be repaired, or does not need to be: (file, begin, end) of groups that hold a row of entries
    and were durable."""
    stretches: list[tuple[str, int, int]] = []
    for path, group, durable in groups_of_log(disk):
        records = [located.record for located in group.records]
        row = all(record.type == RecordType.ENTRY and record.index == records[0].index + n for n, record in enumerate(records))
        if durable and row:
            last = group.records[-1]
            stretches.append((path, group.records[0].offset, last.offset + RECORD_BYTES + len(last.record.payload)))
    return stretches
