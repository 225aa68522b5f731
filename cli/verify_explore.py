"""`explore`: every interleaving of three cores within bounds, or as much of it as there is time for."""

from __future__ import annotations

import sys

import click

from raftkv.sim.explore import STARTS, Bounds, Exploration, Explorer
from raftkv_cli.output import json_option, print_json, print_table


@click.command()
@click.option("--states", type=click.IntRange(min=1), default=30_000, show_default=True, help="Distinct states from each start.")
@click.option("--from", "start", type=click.Choice(list(STARTS)), help="Begin there only; without it everywhere.")
@click.option("--timeouts", type=click.IntRange(0, 15), default=Bounds().timeouts, show_default=True, help="Election timeouts.")
@click.option("--proposals", type=click.IntRange(0, 15), default=Bounds().proposals, show_default=True, help="Entries proposed.")
@click.option("--entries", type=click.IntRange(min=1), default=Bounds().entries, show_default=True, help="The longest log.")
@click.option("--crashes", type=click.IntRange(0, 15), default=Bounds().crashes, show_default=True, help="Crashes.")
@click.option("--heartbeats", type=click.IntRange(0, 15), default=Bounds().heartbeats, show_default=True, help="Heartbeats of leaders.")
@click.option("--slow-writes", type=click.IntRange(0, 15), default=Bounds().slow_writes, show_default=True, help="Writes that take time.")
@json_option
def explore(
    states: int,
    start: str | None,
    timeouts: int,
    proposals: int,
    entries: int,
    crashes: int,
    heartbeats: int,
    slow_writes: int,
    as_json: bool,
) -> None:
    """Explore what three Raft cores can do, and check every rule of Raft in every state.

    Messages are lost, delayed, reordered and doubled without bound; what else happens on one path is bounded by the options. A violation
    is shown with a shortest way to it. The exit code is 1 if there is one.
    """
    bounds = Bounds(
        states=states,
        timeouts=timeouts,
        proposals=proposals,
        entries=entries,
        crashes=crashes,
        heartbeats=heartbeats,
        slow_writes=slow_writes,
    )
    outcomes: dict[str, Exploration] = {}
    for name in [start] if start is not None else STARTS:
        explorer = Explorer(bounds)
        explorer.begin(STARTS[name])
        outcomes[name] = explorer.run()
        if outcomes[name].violation is not None:
            break
    if as_json:
        print_json(outcomes)
    else:
        _print(outcomes)
    if any(outcome.violation is not None for outcome in outcomes.values()):
        sys.exit(1)


def _print(outcomes: dict[str, Exploration]) -> None:
    columns = ("from", "states", "edges", "depth", "all of it", "core ran", "committed", "seconds", "states/s", "violation")
    rows = [
        (
            name,
            one.states,
            one.edges,
            one.depth,
            "yes" if one.complete else "no",
            one.steps,
            one.committed,
            f"{one.seconds:.1f}",
            f"{one.states_per_second:.0f}",
            one.violation.rule if one.violation is not None else "none",
        )
        for name, one in outcomes.items()
    ]
    print_table(columns, rows)
    for one in outcomes.values():
        if one.violation is not None:
            click.echo("\n" + "\n".join([*one.violation.path, one.violation.what]))
