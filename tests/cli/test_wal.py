"""`raftkv wal inspect`: it counts what is there, finds the first problem, and changes nothing."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from raftkv.raft.types import Entry, EntryId, EntryKind, HardState
from raftkv.storage.disk import OsDisk
from raftkv.storage.wal import LogWrite, Wal, WalSettings
from raftkv_cli.main import main
from raftkv_cli.wal import inspect_log

SEGMENT_BYTES = 16384
ENTRIES = 60


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory whose log holds ENTRIES entries in several segments, sealed and closed."""
    path = tmp_path / "data"
    wal = Wal.open(OsDisk(path), WalSettings(segment_bytes=SEGMENT_BYTES))
    for index in range(1, ENTRIES + 1):
        entry = Entry(index, 1 + index // 40, EntryKind.BATCH, bytes(range(256)) * 4)
        wal.write([LogWrite(index, HardState(entry.term, "n1"), None, (entry,), index - 1)])
    wal.seal()
    wal.close()
    return path


def inspect(directory: Path, *options: str) -> Result:
    """The command on `directory`."""
    return CliRunner().invoke(main, ["wal", "inspect", str(directory), *options])


def fingerprint(directory: Path) -> dict[str, str]:
    """A hash of each file below `directory`."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_sound_log_is_counted(directory: Path) -> None:
    """Every segment is listed with its entries, which follow one another from the first to the last."""
    report = inspect_log(directory)
    assert (report.problem, report.begin, report.last) == (None, EntryId(0, 0), EntryId(ENTRIES, 2))
    assert len(report.segments) > 2
    spans = [(segment.first, segment.last) for segment in report.segments if segment.entries]
    assert spans[0][0] == 1
    assert spans[-1][1] == ENTRIES
    assert all(before[1] is not None and after[0] == before[1] + 1 for before, after in pairwise(spans))
    assert sum(segment.entries for segment in report.segments) == ENTRIES
    assert report.segments[-1].sealed


def test_nothing_is_changed(directory: Path) -> None:
    """Not a byte below the directory is another after an inspection, with and without --json."""
    before = fingerprint(directory)
    assert inspect(directory).exit_code == 0
    assert inspect(directory, "--json").exit_code == 0
    assert fingerprint(directory) == before


@pytest.mark.parametrize("number", [0, 1, -1])
def test_the_first_problem_is_named_with_its_place(directory: Path, number: int) -> None:
    """A flipped bit in the first, a middle or the last segment: exit code 1, and file and offset of the group that holds it."""
    segment = inspect_log(directory).segments[number]
    path = directory / segment.file
    data = bytearray(path.read_bytes())
    data[segment.end - 200] ^= 1
    path.write_bytes(data)
    result = inspect(directory, "--json")
    problem = json.loads(result.stdout)["problem"]
    assert (result.exit_code, problem["file"]) == (1, segment.file)
    assert problem["offset"] <= segment.end - 200
    table = inspect(directory)
    assert (table.exit_code, segment.file in table.stdout.splitlines()[-1]) == (1, True)


def test_a_missing_segment_is_the_first_problem(directory: Path) -> None:
    """A listed segment that is not there is named, and what comes before it is still shown."""
    segments = inspect_log(directory).segments
    (directory / segments[1].file).unlink()
    report = inspect_log(directory)
    assert report.problem is not None
    assert (report.problem.file, report.problem.what) == (segments[1].file, "the file is missing")
    assert [segment.file for segment in report.segments] == [segments[0].file]


def test_a_swapped_segment_is_not_taken_for_sound(directory: Path) -> None:
    """One segment's bytes under another's name are a problem of the header."""
    segments = inspect_log(directory).segments
    (directory / segments[1].file).write_bytes((directory / segments[0].file).read_bytes())
    report = inspect_log(directory)
    assert report.problem is not None
    assert "header" in report.problem.what


def test_a_damaged_manifest_is_an_error_in_words(directory: Path) -> None:
    """Without a manifest that can be read nothing is guessed: exit code 1 and the file's name."""
    (directory / "wal" / "manifest").write_bytes(b"not a manifest")
    result = inspect(directory)
    assert result.exit_code == 1
    assert "wal/manifest" in result.output


def test_a_directory_without_a_log_is_refused(tmp_path: Path) -> None:
    """A directory that is no data directory, and a path that is no directory, end with exit code 2, and nothing is created there."""
    assert inspect(tmp_path).exit_code == 2
    assert inspect(tmp_path / "nothing").exit_code == 2
    assert list(tmp_path.iterdir()) == []
