"""`raftkv wal`: what stands in a node's log, read and judged without changing a byte.

The node may run meanwhile; the last group may then be seen half written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from raftkv.codec.record import RecordType, SegmentHeader
from raftkv.errors import InvalidSettings, StorageError
from raftkv.raft.types import EntryId, SnapshotMeta
from raftkv.storage.disk import OsDisk
from raftkv.storage.manifest import Manifest, SegmentEntry, load_manifest
from raftkv.storage.recovery import HeaderFound
from raftkv.storage.replay import LOG_DIRECTORY, MANIFEST_PATH
from raftkv.storage.segment import Scan, check_header, read_header, segment_path
from raftkv_cli.output import json_option, print_json, print_table


class Problem(Struct, frozen=True):
    """The first place that is not sound: file, offset, and what is wrong."""

    file: str
    offset: int
    what: str


class SegmentReport(Struct, frozen=True):
    """One segment. `first` and `last` are the indices of its entries, None without any; `end` is where its sound groups end."""

    file: str
    groups: int
    records: int
    entries: int
    first: int | None
    last: int | None
    end: int
    capacity: int
    sealed: bool


class LogReport(Struct, frozen=True):
    """A whole log. `begin` is the position after which it begins, `last` its newest sound entry."""

    directory: str
    group: int
    begin: EntryId
    last: EntryId
    committed: int
    suspect: int | None
    segments: list[SegmentReport]
    problem: Problem | None


@click.group()
def wal() -> None:
    """Look into a node's write-ahead log."""


@wal.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def inspect(directory: Path, as_json: bool) -> None:
    """Read all of the log in DIRECTORY, a node's data directory, and show its segments and the first problem.

    Changes nothing. The exit code is 1 if there is a problem; on a node that runs, or that was killed, a last group that is only
    half written is one.
    """
    report = inspect_log(directory)
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    sys.exit(0 if report.problem is None else 1)


def inspect_log(directory: Path) -> LogReport:
    """Read the log in the data directory `directory`.

    Raises:
        InvalidSettings: there is no log.
        StorageError: it cannot be read, or its manifest is damaged.
    """
    disk = OsDisk(directory)
    if not disk.exists(MANIFEST_PATH):
        raise InvalidSettings(f"{directory / MANIFEST_PATH} does not exist: this is not the data directory of a node")
    manifest = load_manifest(disk, MANIFEST_PATH)
    segments: list[SegmentReport] = []
    problem: Problem | None = None
    last, committed = _id(manifest.begin), 0
    before: Scan | None = None
    for entry in manifest.segments:
        before, report, problem = _inspect_segment(disk, manifest, entry, before)
        if report is not None:
            segments.append(report)
        if before is not None:
            last, committed = before.last, max(committed, before.commit)
        if problem is not None:
            break
    return LogReport(str(directory), manifest.group, _id(manifest.begin), last, committed, manifest.suspect, segments, problem)


def _id(meta: SnapshotMeta) -> EntryId:
    return EntryId(meta.index, meta.term)


def _inspect_segment(
    disk: OsDisk, manifest: Manifest, entry: SegmentEntry, before: Scan | None
) -> tuple[Scan | None, SegmentReport | None, Problem | None]:
    """Read one segment. `before` is the scan of the one before it, None for the first."""
    path = segment_path(LOG_DIRECTORY, entry.id)
    if not disk.exists(path):
        return before, None, Problem(path, 0, "the file is missing")
    file = disk.open(path)
    try:
        header = read_header(file)
        found = check_header(header, _expected(manifest, entry, before), first=before is None)
        if header is None or found is not HeaderFound.SOUND:
            return before, None, Problem(path, 0, f"the header of the segment is {found.value}")
        is_newest = entry is manifest.segments[-1]
        recorded = None if is_newest else (entry.number, entry.checksum)
        scan = Scan(file, header, entry.capacity if is_newest else entry.end, recorded)
        report = _report(path, entry, scan)
        damage = scan.rotten or (None if scan.position == entry.end and not is_newest else scan.tail().damage)
        problem = None if damage is None else Problem(path, damage.offset, damage.what)
        return scan, report, problem
    except StorageError as error:
        return before, None, Problem(path, 0, str(error))
    finally:
        file.close()


def _expected(manifest: Manifest, entry: SegmentEntry, before: Scan | None) -> SegmentHeader:
    if before is None:
        return SegmentHeader(manifest.group, entry.id, entry.capacity, 1, 0, EntryId(0, 0))
    return SegmentHeader(manifest.group, entry.id, entry.capacity, before.number + 1, before.checksum, before.last)


def _report(path: str, entry: SegmentEntry, scan: Scan) -> SegmentReport:
    """Read all groups of `scan`, and count."""
    groups = records = 0
    indices: list[int] = []
    entries = 0
    for group in scan.groups():
        groups += 1
        records += len(group.records)
        found = [located.record.index for located in group.records if located.record.type == RecordType.ENTRY]
        entries += len(found)
        indices = [min(indices + found), max(indices + found)] if indices or found else []
    first, last = (indices[0], indices[-1]) if indices else (None, None)
    return SegmentReport(path, groups, records, entries, first, last, scan.position, entry.capacity, scan.sealed)


def _print_report(report: LogReport) -> None:
    click.echo(
        f"log of group {report.group} in {report.directory}: begins after {report.begin.index}, ends at {report.last.index} "
        f"(term {report.last.term}), knows of commits up to {report.committed}"
    )
    if report.suspect is not None:
        click.echo(f"suspect: acknowledged entries up to {report.suspect} may be missing; it does not vote until they are back")
    print_table(SegmentReport.__struct_fields__, [msgspec.structs.astuple(segment) for segment in report.segments])
    if report.problem is None:
        click.echo("no problem found")
    else:
        click.echo(f"first problem: {report.problem.file} at offset {report.problem.offset}: {report.problem.what}")
