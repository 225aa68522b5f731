"""`raftkv verify`: whole clusters in simulated storms, run by the code that ships.

A seed stands for one run: a cluster, its load and its faults. The same seed is the same run on any machine.
"""

from __future__ import annotations

import sys

import click

from raftkv.errors import InvalidSettings
from raftkv.sim.cluster import Cluster, Run, simulate
from raftkv.sim.plan import Cut
from raftkv.sim.report import SUITE_FAULTS, SUITE_POINTS, SUITE_SEEDS, explain, report, text
from raftkv.sim.suite import Broken, Result, run_seeds
from raftkv.sim.trace import Violation
from raftkv_cli.output import json_option, print_json


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Numbers of faults: ``3,17,20``, or ``none``."""

    name = "numbers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [] if value == "none" else str(value).split(",")
        if not all(word.isdigit() for word in words):
            self.fail(f"{value!r} is not a list of numbers such as 3,17,20, nor none", param, ctx)
        return tuple(map(int, words))


@click.group(invoke_without_command=True)
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="How many seeds to run.  [default: 20, or 2500 with --suite]")
@click.option("--first", type=click.IntRange(0), default=1, show_default=True, metavar="S", help="The first of them.")
@click.option("--seed", type=click.IntRange(0), metavar="S", help="Run this one only.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes that run seeds.")
@click.option("--trace", is_flag=True, help="Print every event of the run of --seed, or of the schedule that was found to fail.")
@click.option("--keep", type=_Numbers(), metavar="NUMBERS", help="Of the faults of the storms only those with these numbers, or none.")
@click.option("--storm-ms", type=click.IntRange(0), metavar="MS", help="End the storms after this simulated time.")
@click.option("--go-on", is_flag=True, help="Go on after a seed that fails.")
@click.option("--suite", is_flag=True, help="Fail also when some kind of fault, or some failure point, came too seldom.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    seeds: int | None,
    first: int,
    seed: int | None,
    jobs: int,
    trace: bool,
    keep: tuple[int, ...] | None,
    storm_ms: int | None,
    go_on: bool,
    suite: bool,
    as_json: bool,
) -> None:
    """Simulate clusters in storms of faults, and check every promise after every event.

    Each seed draws a cluster of one to seven nodes, its settings, its load and its faults; then the cluster must recover. Prints what
    was run and what it covered. A broken promise is reported with the smallest schedule of faults that was found to break it, and with
    the command that runs that again. The exit code is 1 then.
    """
    if ctx.invoked_subcommand is not None:
        return
    if seed is not None and (seeds is not None or suite):
        raise InvalidSettings("--seed runs one seed; leave out --seeds and --suite")
    if trace and as_json:
        raise InvalidSettings("--trace prints lines for people; leave out --json")
    cut = Cut(keep, storm_ms)
    count = seeds or (SUITE_SEEDS if suite else 20)
    chosen = range(first, first + count) if seed is None else range(seed, seed + 1)
    results = _run(chosen, jobs, cut, go_on)
    found = [explain(result, cut) for result in results if isinstance(result, Broken)]
    if trace:
        for one in found:
            _print_trace(one.seed, Cut(tuple(firing.number for firing in one.schedule), one.storm_ms))
        if seed is not None and not found:
            _print_trace(seed, cut)
    summary = report(results, found)
    short = summary.shortfalls() if suite and not found else []
    if as_json:
        print_json(summary)
    else:
        for line in text(summary):
            click.echo(line)
    if suite and not found:
        enough = f"every kind of fault came {SUITE_FAULTS} times or more, and every failure point {SUITE_POINTS} times or more"
        click.echo("\n".join(short) or enough, err=as_json)
    sys.exit(1 if found or short else 0)


def _run(seeds: range, jobs: int, cut: Cut, go_on: bool) -> list[Result]:
    """Run the seeds, with a bar where somebody watches."""
    results: list[Result] = []
    with click.progressbar(length=len(seeds), label="seeds", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for result in run_seeds(seeds, jobs, cut, go_on):
            results.append(result)
            bar.update(1)
    return results


def _print_trace(seed: int, cut: Cut) -> None:
    """Print every event of a run."""
    cluster = Cluster(seed, Run(cut=cut, whole_trace=True))
    result = simulate(cluster)
    for line in cluster.trace.lines():
        click.echo(line)
    if isinstance(result, Violation):
        click.echo(f"BROKEN {result}")
    click.echo("")
