"""What is asked of a tortured cluster: each way to fall short is planted here, and is a finding."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from raftkv.errors import InvalidSettings
from raftkv.sim.linearizability import UNKNOWN, Call
from raftkv_cli.chaos.judgement import Evidence, LogEvent, errors_in_log, judged, recoveries, unnoticed_rot
from raftkv_cli.chaos.nemesis import Kind
from raftkv_cli.chaos.recording import read_history, write_history
from raftkv_cli.chaos.run import is_provoked
from raftkv_cli.main import main

HISTORY = [
    Call(0.0, 1.0, ("SET", "k", "1"), True, "a"),
    Call(1.5, 2.0, ("INCR", "k"), 2, "b"),
    Call(1.6, None, ("DEL", "k"), UNKNOWN, "c"),
    Call(2.5, 3.0, ("GET", "k"), b"2", "a"),
    Call(3.5, 4.0, ("GET", "none"), None, "a"),
]
STALE = [*HISTORY[:3], Call(2.5, 3.0, ("GET", "k"), b"1", "a")]
"""The read began after the increment was answered, and does not see it."""
SOUND = Evidence(
    answered=1000,
    seconds=10.0,
    min_rate=50.0,
    history=HISTORY,
    surprises=[],
    acknowledged={"unique": "v"},
    found={"unique": [b"v", b"v", b"v"]},
    nodes=[],
)


def test_a_sound_run_has_no_finding() -> None:
    """Nothing is wrong, and nothing is said."""
    assert judged(SOUND).findings == []


@pytest.mark.parametrize(
    ("evidence", "finding"),
    [
        (replace(SOUND, history=STALE), "the history of k is not linearizable"),
        (replace(SOUND, found={"unique": [b"v", None, b"v"]}), "1 acknowledged writes, each of which is lost"),
        (replace(SOUND, found={"unique": [b"v", b"old", b"v"]}), "1 acknowledged writes, each of which has another value"),
        (replace(SOUND, found={}), "1 acknowledged writes, each of which could not be read"),
        (replace(SOUND, answered=499), "too little was done to judge: 49.9 operations/s of 50 required"),
        (replace(SOUND, acknowledged={}), "too little was done to judge"),
        (replace(SOUND, answered=0, history=[], acknowledged={}), "too little was done to judge"),
        (replace(SOUND, nodes=["n1 (pid 1) ended by itself with exit code 1"]), "n1 (pid 1) ended by itself"),
        (replace(SOUND, surprises=["a: GET was answered ERR"]), "a: GET was answered ERR"),
    ],
)
def test_whatever_is_wrong_is_a_finding(evidence: Evidence, finding: str) -> None:
    """A stale read, a lost write, too little done, a node that died, an answer that nothing explains: each fails the run alone."""
    [found] = judged(evidence).findings
    assert found.startswith(finding)


def test_the_operations_that_fit_nowhere_are_named() -> None:
    """Who reads the report sees where the history gets stuck."""
    assert any("('GET', 'k') -> b'1'" in line for line in judged(replace(SOUND, history=STALE)).stuck)


def test_errors_in_a_log_are_findings(tmp_path: Path) -> None:
    """An event at error or worse, and a line that is no event, such as a traceback; not what was provoked."""
    log = tmp_path / "n1.log"
    log.write_text(
        '{"event": "node_opened", "level": "info"}\n'
        '{"event": "store_disk_full", "level": "error"}\n'
        '{"event": "replicas_differ", "level": "error"}\n'
        '{"event": "node_failed", "level": "critical"}\n'
        "Traceback (most recent call last):\n"
    )
    findings = errors_in_log("n1", log, lambda event: event.event == "store_disk_full")
    assert [finding.partition(" logged ")[2][:28] for finding in findings] == [
        '{"event": "replicas_differ",',
        '{"event": "node_failed", "le',
        "Traceback (most recent call ",
    ]
    assert len(errors_in_log("n1", log, lambda event: False)) == 4


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        (Kind.FILL_DISK, LogEvent("store_disk_full", "error")),
        (Kind.ROT, LogEvent("log_rotten", "error")),
        (Kind.FAIL_FSYNC, LogEvent("node_failed", "critical", "StorageError", "cannot sync wal/000000000001.log: Input/output error")),
    ],
)
def test_an_error_is_expected_only_of_what_provokes_it(kind: Kind, event: LogEvent) -> None:
    """Each error that an action calls for is one after that action only, and no other failure of a node passes for it."""
    done = Counter({kind: 1})
    assert is_provoked(event, done)
    assert not is_provoked(event, Counter(dict.fromkeys(set(Kind) - {kind}, 1)))
    assert not is_provoked(LogEvent("node_failed", "critical", "InvariantBroken", "Input/output error"), done)
    assert not is_provoked(LogEvent("node_failed", "critical", "StorageError", "no such entry"), done)


def test_what_nodes_did_about_their_disks_is_counted(tmp_path: Path) -> None:
    """The ends of repairs, by how, and the stops after failed fsyncs, over all starts of a node."""
    log = tmp_path / "n1.log"
    log.write_text(
        '{"event": "log_repaired", "level": "info", "how": "all entries were had again"}\n'
        '{"event": "log_repaired", "level": "info", "how": "all entries were had again"}\n'
        '{"event": "rot_forgotten", "level": "info", "begin": 7}\n'
        '{"event": "node_failed", "level": "critical", "reason": "cannot sync wal/1.log: Input/output error"}\n'
        '{"event": "node_failed", "level": "critical", "reason": "something else"}\n'
    )
    assert recoveries(log) == {
        "log repaired: all entries were had again": 2,
        "log cut behind the rot: the state held it": 1,
        "stopped after a failed fsync": 1,
    }
    assert recoveries(tmp_path / "n2.log") == {}


def test_rot_that_a_node_does_not_notice_is_a_finding(tmp_path: Path) -> None:
    """A node that started over a rotten byte without a word took damage for the truth."""
    log = tmp_path / "n1.log"
    log.write_text('{"event": "rot_found", "level": "warning", "what": "wal/1.log at offset 7"}\n')
    assert unnoticed_rot("n1", log, 1) == []
    assert unnoticed_rot("n1", log, 2) == ["the log of n1 rotted 2 times, and it noticed 1 times"]


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    """What is read is what was written, in the order in which operations began."""
    write_history(tmp_path / "h", reversed(HISTORY))
    assert read_history(tmp_path / "h") == HISTORY


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 5000,
        b'{"begin": 0, "end": 1, "client": "a", "operation": []}',
        b'{"begin": 0, "end": 1, "client": "a", "operation": ["FLUSHALL"]}',
        b'{"begin": 0, "end": 1, "client": "a", "operation": ["SET", "k"]}',
        b'{"begin": 0, "end": 1, "client": "a", "operation": ["SET", "k", "text"]}',
        b'{"begin": 0, "end": 1, "client": "a", "operation": ["GET", "k"], "answer": "\\u2014"}',
        b'{"begin": 0, "end": 1, "client": "a", "operation": ["GET", "k"], "else": 1}',
    ],
)
def test_what_is_no_history_is_refused(tmp_path: Path, line: bytes) -> None:
    """A file that is damaged, or was written by something else, is named with the line; nothing of it is judged."""
    path = tmp_path / "h"
    write_history(path, HISTORY[:1])
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(InvalidSettings, match=r"h:2 is no line of a history"):
        read_history(path)


def test_the_command_judges_a_file(tmp_path: Path) -> None:
    """`raftkv chaos check`: 0 for a history that can be explained, 1 with the operation that cannot, 2 for a file that is none."""
    for name, history in (("good", HISTORY), ("stale", STALE), ("empty", [])):
        write_history(tmp_path / name, history)
    good, stale, empty, missing = (
        CliRunner().invoke(main, ["chaos", "check", str(tmp_path / name)]) for name in ("good", "stale", "empty", "missing")
    )
    assert (good.exit_code, good.output) == (0, "5 operations: linearizable\n")
    assert stale.exit_code == 1
    assert "finding: the history of k is not linearizable" in stale.output
    assert "stuck: [2.5, 3] a ('GET', 'k') -> b'1'" in stale.output
    assert (empty.exit_code, missing.exit_code) == (2, 2)
