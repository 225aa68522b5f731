"""`rot`: every combination of rotten log entries on the nodes of a small cluster."""

from __future__ import annotations

import random
import sys

import click

from raftkv.sim.rot import run_grid
from raftkv_cli.output import json_option, print_json


class _Lengths(click.ParamType[tuple[int, ...]]):
    """The lengths of the logs: ``4,4,4``."""

    name = "lengths"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if len(words) != 3 or not all(word.isdigit() and int(word) <= 5 for word in words) or sum(map(int, words)) > 12:
            self.fail(f"{value!r} is not three lengths from 0 to 5, 12 together, such as 4,4,4", param, ctx)
        return tuple(map(int, words))


@click.command()
@click.option("--lengths", type=_Lengths(), default="4,4,4", show_default=True, help="Entries in the log of each node.")
@click.option("--headers", is_flag=True, help="Let the headers of records rot, instead of payloads.")
@click.option("--unsealed", is_flag=True, help="Let the logs end without a seal, so that a rotten last entry may have been torn.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Run N cases, drawn by chance, instead of all.")
@json_option
def rot(lengths: tuple[int, ...], headers: bool, unsealed: bool, sample: int | None, as_json: bool) -> None:
    """Let the logs of three simulated nodes rot in every combination of entries, and see what becomes of each.

    The logs are repaired where every entry is intact somewhere, and the cluster refuses to serve where one is not. The exit code is 1 if
    anything is lost, or ends otherwise.
    """
    count = 1 << sum(lengths)
    cases = None if sample is None or sample >= count else sorted(random.Random(1).sample(range(count), sample))
    report = run_grid(lengths, cases, sealed=not unsealed, header=headers)
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"{report.cases} cases: {report.recovered} recovered, {report.refused} refused, {report.stuck} stuck, {report.lost} lost; "
            f"the slowest recovery took {report.slowest_ms} ms of simulated time"
        )
        for case in report.unexpected[:20]:
            click.echo(f"not as it must be: {case}")
    if report.lost or (report.unexpected and not unsealed):
        sys.exit(1)
