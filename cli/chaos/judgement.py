"""What is asked of a tortured cluster: from the evidence of one run to the list of what is wrong with it.

Nothing here acts. A run without a finding has passed; a run that saw too little to judge has a finding that says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from raftkv.sim.linearizability import Call, Verdict
from raftkv_cli.chaos.recording import judge

ERROR_LEVELS = ("error", "critical")
STUCK_SHOWN = 12


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


def errors_in_log(name: str, log: Path, expected: frozenset[str]) -> list[str]:
    """The lines of a node's log (JSON lines) that should not be there: errors, but for the events `expected`, and what is no event."""
    findings = []
    if not log.exists():
        return []
    for line in log.read_bytes().splitlines():
        try:
            event = msgspec.json.decode(line, type=dict[str, object])
        except (ValueError, RecursionError):
            findings.append(f"{name} logged {line.decode(errors='replace')[:300]}")
            continue
        if event.get("level") in ERROR_LEVELS and event.get("event") not in expected:
            findings.append(f"{name} logged {line.decode(errors='replace')[:1000]}")
    return findings
