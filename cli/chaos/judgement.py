"""What is asked of a tortured cluster: from the evidence of one run to the list of what is wrong with it.

Nothing here acts. A run without a finding has passed; a run that saw too little to judge has a finding that says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from raftkv.sim.linearizability import Call, Verdict
from raftkv_cli.chaos.recording import judge

ERROR_LEVELS = ("error", "critical")
STUCK_SHOWN = 12
FAILED_FSYNC = "Input/output error"


class Evidence(Struct, frozen=True, kw_only=True):
    """What one run saw. `answered` operations of the recording clients in `seconds` of torture."""

    answered: int
    seconds: float
    min_rate: float
    history: list[Call]
    surprises: list[str]
    acknowledged: dict[str, str]
    """Each unique key that a write was acknowledged for, with its value."""
    found: dict[str, list[bytes | None]]
    """What was read of them in the end, through one node after the other; a key that could not be read is missing."""
    nodes: list[str]
    """What nodes did that they should not, and what they did not do in time."""


class Judgement(Struct, frozen=True, kw_only=True):
    """The findings, none of a run that passed, and the operations that no order explains."""

    findings: list[str]
    stuck: list[str]


def judged(evidence: Evidence) -> Judgement:
    """Everything that is wrong with a run."""
    history, stuck = judged_history(evidence.history)
    return Judgement(
        findings=[*_too_little(evidence), *history, *evidence.surprises, *_lost(evidence), *evidence.nodes],
        stuck=stuck,
    )


def judged_history(history: Iterable[Call]) -> tuple[list[str], list[str]]:
    """What is wrong with a history, and the operations that it gets stuck at."""
    findings, stuck = [], []
    for key, finding in judge(history).items():
        if finding.verdict is not Verdict.LINEARIZABLE:
            findings.append(f"the history of {key} is {finding.verdict.value} ({finding.visited} states visited)")
            stuck += [str(call) for call in finding.stuck[:STUCK_SHOWN]]
    return findings, stuck


def _too_little(evidence: Evidence) -> list[str]:
    rate = evidence.answered / evidence.seconds
    if rate >= evidence.min_rate and evidence.acknowledged:
        return []
    unique = len(evidence.acknowledged)
    return [f"too little was done to judge: {rate:.1f} operations/s of {evidence.min_rate:g} required, {unique} writes of unique keys"]


def _lost(evidence: Evidence) -> list[str]:
    wrong: Counter[str] = Counter()
    example: dict[str, str] = {}
    for key, value in evidence.acknowledged.items():
        answers = evidence.found.get(key, [])
        what = "could not be read" if not answers else "is lost" if None in answers else "has another value"
        if not answers or any(answer != value.encode() for answer in answers):
            wrong[what] += 1
            example.setdefault(what, f"{key} = {value!r}, read {answers}")
    return [f"{count} acknowledged writes, each of which {what}: {example[what]}" for what, count in wrong.items()]


class LogEvent(Struct, frozen=True):
    """What is asked of a line of a node's log."""

    event: str
    level: str = ""
    kind: str = ""
    reason: str = ""
    how: str = ""


def read_log(log: Path) -> list[tuple[bytes, LogEvent | None]]:
    """The lines of a node's log (JSON lines), each with its event; None for what is no event. Nothing of a node that never ran."""
    return [(line, _event(line)) for line in log.read_bytes().splitlines()] if log.exists() else []


def _event(line: bytes) -> LogEvent | None:
    try:
        return msgspec.json.decode(line, type=LogEvent)
    except (ValueError, RecursionError):
        return None


def errors_in_log(name: str, log: Path, expected: Callable[[LogEvent], bool]) -> list[str]:
    """The lines of a node's log that should not be there: errors, but those that are `expected`, and what is no event."""
    findings = []
    for line, event in read_log(log):
        if event is None:
            findings.append(f"{name} logged {line.decode(errors='replace')[:300]}")
        elif event.level in ERROR_LEVELS and not expected(event):
            findings.append(f"{name} logged {line.decode(errors='replace')[:1000]}")
    return findings


def recoveries(log: Path) -> Counter[str]:
    """What a node did about a disk that failed it, as far as its log tells, and how often."""
    found: Counter[str] = Counter()
    for _, event in read_log(log):
        match event:
            case LogEvent(event="log_repaired"):
                found[f"log repaired: {event.how}"] += 1
            case LogEvent(event="rot_forgotten"):
                found["log cut behind the rot: the state held it"] += 1
            case LogEvent(event="node_failed") if FAILED_FSYNC in event.reason:
                found["stopped after a failed fsync"] += 1
    return found


def unnoticed_rot(name: str, log: Path, rotted: int) -> list[str]:
    """A node finds each byte that rots when it starts, and says so."""
    noticed = sum(event is not None and event.event == "rot_found" for _, event in read_log(log))
    return [f"the log of {name} rotted {rotted} times, and it noticed {noticed} times"] if noticed < rotted else []
