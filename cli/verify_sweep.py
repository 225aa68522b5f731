"""`sweep`: a crash, and an error, in every operation of a node's disk."""

from __future__ import annotations

import sys

import click

from raftkv.sim.sweep import Sweep, Sweeper
from raftkv.sim.sweep_workloads import WORKLOADS
from raftkv_cli.output import json_option, print_json, print_table


@click.command()
@click.option("--workload", "names", type=click.Choice([one.name for one in WORKLOADS]), multiple=True, help="Only these; repeat for more.")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Sweep only every so many operations.")
@click.option("--only", default="", metavar="TEXT", help="Sweep only operations in whose words TEXT is found, such as 'sync wal/'.")
@click.option("--go-on", is_flag=True, help="Go on after a run that fails.")
@json_option
def sweep(names: tuple[str, ...], every: int, only: str, go_on: bool, as_json: bool) -> None:
    """Crash a simulated node in every operation of its disk, with every fate of what was not synced, and let it recover.

    Everything that was acknowledged must be there in the end, at every node. The exit code is 1 if a run does not end so.
    """
    outcome = Sweeper(every, only, stop_early=not go_on).run([one for one in WORKLOADS if not names or one.name in names])
    if as_json:
        print_json(outcome)
    else:
        _print(outcome)
    if outcome.failed:
        sys.exit(1)


def _print(outcome: Sweep) -> None:
    columns = ("workload", "node", "operations", "crashes", "errors", "double", "recovered", "seconds")
    reports = outcome.workloads
    print_table(
        columns,
        [
            (one.workload, one.swept, one.operations, one.crash_runs, one.error_runs, one.double_runs, one.recovered, f"{one.seconds:.1f}")
            for one in reports
        ],
    )
    click.echo()
    print_table(
        ("file", "operation", "operations", "runs", "recovered"),
        [(row.file, row.operation, row.operations, row.runs, row.recovered) for row in outcome.rows],
    )
    click.echo(f"\n{outcome.runs} runs, {outcome.recovered} recovered, {outcome.seconds:.1f} s")
    for failed in outcome.failed:
        click.echo(f"\n{failed.workload}, {failed.fault} in operation {failed.operation} ({failed.what}):\n{failed.message}")
