"""`raftkv chaos`: torture clusters on this machine, and judge what their clients saw."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click
from msgspec import Struct

from raftkv.errors import InvalidSettings
from raftkv_cli.chaos.judgement import judged_history
from raftkv_cli.chaos.recording import read_history
from raftkv_cli.chaos.run import HISTORY_FILE, Report, Run, Settings
from raftkv_cli.cluster import MAX_NODES
from raftkv_cli.output import json_option, print_json


class CheckedHistory(Struct, frozen=True):
    """The outcome of `raftkv chaos check`."""

    ok: bool
    operations: int
    findings: list[str]
    stuck: list[str]


@click.group(invoke_without_command=True)
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True, help="How many, one after the other.")
@click.option("--seconds", type=click.FloatRange(min=1), default=20.0, show_default=True, help="How long a run is tortured.")
@click.option("--nodes", type=click.IntRange(3, MAX_NODES), default=3, show_default=True)
@click.option("--clients", type=click.IntRange(1, 64), default=8, show_default=True, help="How many record what they see.")
@click.option(
    "--min-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=50.0,
    show_default=True,
    help="Answered operations per second, on average; a run with fewer has failed.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the first run; the next ones have the next. Drawn if not given.")
@click.option(
    "--dir",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where runs keep their nodes, each in a directory of its own; a temporary one if not given.",
)
@json_option
@click.pass_context
def chaos(
    context: click.Context,
    runs: int,
    seconds: float,
    nodes: int,
    clients: int,
    min_rate: float,
    seed: int | None,
    parent: Path | None,
    as_json: bool,
) -> None:
    """Torture clusters of real processes, and check that nothing acknowledged was lost and no answer was wrong.

    Nodes are killed, paused, stopped, cut off, delayed, robbed of their state and of their disk space, a byte of their log rots, and
    their fsyncs fail, while clients record every answer. The seed decides what is done; when exactly it happens is up to this machine, so
    the same seed does not give the same run twice. A run that fails keeps its directory.

    What this machine does not allow is left out, and each run says so: filling a disk takes root on Linux, failing an fsync takes strace.
    """
    if context.invoked_subcommand is not None:
        return
    if sys.platform == "win32":
        raise InvalidSettings("Windows has no SIGSTOP: raftkv chaos runs on Linux and macOS only")
    signal.signal(signal.SIGTERM, _end)
    first = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    reports = []
    for number in range(runs):
        settings = Settings(seed=first + number, seconds=seconds, nodes=nodes, clients=clients, min_rate=min_rate)
        directory = _directory(parent, settings.seed)
        report = Run(settings, directory).run()
        if report.ok:
            shutil.rmtree(directory)
        reports.append(report)
        if not as_json:
            click.echo(_text(report, number + 1, runs))
    if as_json:
        print_json(reports)
    sys.exit(0 if all(report.ok for report in reports) else 1)


@chaos.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Judge the recorded history in FILE: whether one copy of the data explains every answer in it."""
    history = read_history(file)
    if not history:
        raise InvalidSettings(f"{file} holds no operation: there is nothing to judge")
    findings, stuck = judged_history(history)
    if as_json:
        print_json(CheckedHistory(not findings, len(history), findings, stuck))
    else:
        verdict = "FAILED" if findings else "linearizable"
        click.echo("\n".join([f"{len(history):,} operations: {verdict}", *_indented("finding", findings), *_indented("stuck", stuck)]))
    sys.exit(1 if findings else 0)


def _end(number: int, frame: FrameType | None) -> None:
    """End in order when asked to: a node that is paused, or a mounted disk, would outlive this process."""
    sys.exit(1)


def _directory(parent: Path | None, seed: int) -> Path:
    if parent is None:
        return Path(tempfile.mkdtemp(prefix=f"raftkv-chaos-{seed}-"))
    directory = parent / f"chaos-{seed}"
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise InvalidSettings(f"{directory} cannot be made: {error.strerror}; --dir or --seed says another one") from error
    return directory


def _text(report: Report, number: int, runs: int) -> str:
    lines = [
        f"run {number} of {runs}: seed {report.seed}, which decides the actions; their timing is this machine's",
        f"  actions: {_counts(report.actions)}",
    ]
    if report.recoveries:
        lines.append(f"  recoveries: {_counts(report.recoveries)}")
    if report.in_vain:
        lines.append(f"  found no victim: {_counts(report.in_vain)}")
    lines += [f"  skipped: {reason}" for reason in report.skipped]
    lines += [
        f"  operations: {_counts(report.operations)}; {report.operations_per_second:g}/s answered in {report.seconds:g} s",
        f"  acknowledged writes of unique keys: {report.unique_writes:,}",
        f"  longest time without an acknowledged write: {report.longest_gap_ms / 1000:.1f} s",
        f"  verdict: {'ok' if report.ok else 'FAILED'}",
        *_indented("finding", report.findings),
        *_indented("stuck", report.stuck),
    ]
    if report.directory is not None:
        lines.append(f"  kept: {report.directory} (the nodes' logs and data; raftkv chaos check {report.directory}/{HISTORY_FILE})")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _indented(what: str, lines: list[str]) -> list[str]:
    return [f"    {what}: {line}" for line in lines]
